#include "services/keys/key_life.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/apikey.h"
#include "common/log.h"
#include "common/scope.h"
#include "services/keys/shape.h"

#define OVERLAP_MAX_S 2592000    /* 30 days */
#define DAYS_MAX      8u

/* ---- rotation ---------------------------------------------------------------------------------- */

static void on_rotated(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    struct pending *p = owner;
    struct store_effect effect;
    struct key_row key;
    bool is_there;

    if (ended_by_store(p, outcome, results, count))
        return;
    store_read_effect(results, count, &p->actor, &effect);
    is_there = store_read_key(store_object_rows(results, count), 0, &key);
    if (ended_by_claim(p, &effect, is_there))
        return;
    if (!is_there)
        answer_err(p, ERR_NOT_FOUND, NULL, "", "");
    else if (key.facts.revoked)
        answer_err(p, ERR_CONFLICT, "key_revoked", "", "a revoked key cannot be rotated; make a new one");
    else if (!store_has_rotated(results))
        answer_err(p, ERR_CONFLICT, "key_changed", "",
                   effect.is_repeat ? "the value that this request made has been rotated since"
                                    : "four former values of this key work still; rotate it with overlap 0, or wait");
    else
        answer_when_applied(p, effect.sequence, 200, keys_json_key(&key, p->keys->config->permission_resource));
}

static void on_rotation_loaded(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    struct pending *p = owner;
    const struct caller caller = caller_of(p);
    char digest_text[DIGEST_TEXT_SIZE], stored[SHAPE_STORED_MAX], start[APIKEY_START + 1];
    uint8_t digest[DIGEST_SIZE];
    struct problem problem;
    struct key_row key;

    if (ended_by_store(p, outcome, results, count))
        return;
    if (!store_read_key(results[1], 0, &key) || !keys_may_see(&caller, &key.facts)) {
        answer_err(p, ERR_NOT_FOUND, NULL, "", "");
        return;
    }
    if (keys_decide_rotation(&caller, keys_permission_scopes(key.permissions, p->keys->config->permission_resource), &problem)
            != ERR_OK
        || decide_bounds(p, &key, NULL, &problem) != ERR_OK) {
        answer_problem(p, &problem);
        return;
    }
    apikey_make(apikey_prefix_is_valid(key.prefix) ? key.prefix : APIKEY_PREFIX, &p->made);
    apikey_digest(secret_text(&p->made), p->made.size, digest);
    base64url_encode(digest, sizeof digest, digest_text);
    shape_stored_key(p->keys->config, &p->made, stored);
    snprintf(start, sizeof start, "%.*s", (int)APIKEY_START, secret_text(&p->made));
    if (store_rotate_key(p->keys->store, &p->actor, &(struct key_rotation){
            .digest = digest_text, .stored = stored, .start = start, .overlap_s = p->in.overlap_s }, on_rotated, p) != ERR_OK)
        answer_err(p, ERR_UNAVAILABLE, NULL, "", "");
    OPENSSL_cleanse(stored, sizeof stored);
}

enum err begin_key_rotate(struct pending *p, const json_t *body, const struct view *query, struct problem *problem)
{
    const json_t *overlap = json_object_get(body, "overlap");
    const json_int_t seconds = json_integer_value(overlap);

    (void)query;
    p->in.overlap_s = p->keys->config->rotate_overlap_s;
    if (body != NULL && (!json_is_object(body) || json_object_size(body) > (overlap != NULL ? 1u : 0u)))
        return problem_set(problem, ERR_UNPROCESSABLE, NULL, "", "overlap is the only field");
    if (overlap != NULL && (!json_is_integer(overlap) || seconds < 0 || seconds > OVERLAP_MAX_S))
        return problem_set(problem, ERR_UNPROCESSABLE, NULL, "overlap",
                           "seconds that the old value still works, from 0 to 2592000");
    if (overlap != NULL)
        p->in.overlap_s = (uint64_t)seconds;
    p->actor.event = "key.rotated";
    return store_load_key(p->keys->store, &p->actor, on_rotation_loaded, p);
}

/* ---- policy ------------------------------------------------------------------------------------ */

/* Unknown names give nothing, so they allow nothing. */
static uint64_t scopes_of(const char *text)
{
    uint64_t scopes = 0;
    enum scope scope;

    for (size_t length; *text != '\0'; text += length + (text[length] == ' ')) {
        length = strcspn(text, " ");
        if (scope_parse(text, length, &scope))
            scopes |= UINT64_C(1) << scope;
    }
    return scopes;
}

static enum err refuse_policy(struct problem *reterr, const char *field, const char *sentence, const char *value)
{
    char detail[160];

    snprintf(detail, sizeof detail, "the tenant's policy %s: %.80s", sentence, value);
    return problem_set(reterr, ERR_UNPROCESSABLE, "tenant_policy", field, detail);
}

enum err key_life_decide(const struct key_policy *policy, bool is_new, struct key_fields *fields, struct problem *reterr)
{
    const bool is_too_long = fields->expires_in_s == 0 || fields->expires_in_s > policy->max_life_s;
    char number[24];

    if (policy->scopes[0] != '\0' && fields->has_scopes && !scopes_cover(scopes_of(policy->scopes), fields->scopes))
        return refuse_policy(reterr, "scopes", "allows its keys these scopes", policy->scopes);
    if (policy->max_life_s != 0 && fields->has_expiry && is_too_long) {
        snprintf(number, sizeof number, "%lu", (unsigned long)policy->max_life_s);
        return refuse_policy(reterr, "expiresIn", "lets a key live for so many seconds at most", number);
    }
    if (policy->max_life_s != 0 && is_new && is_too_long)
        fields->expires_in_s = policy->max_life_s;
    if (is_new && policy->max_keys != 0 && policy->keys >= policy->max_keys) {
        snprintf(number, sizeof number, "%lu", (unsigned long)policy->max_keys);
        return refuse_policy(reterr, "", "allows no more keys, so delete or revoke one", number);
    }
    return ERR_OK;
}

/* ---- time -------------------------------------------------------------------------------------- */

bool key_life_days_are_valid(const char *days)
{
    unsigned count = 0;

    for (;; days++) {
        char *end;
        const unsigned long number = *days >= '1' && *days <= '9' ? strtoul(days, &end, 10) : 0;

        if (number < 1 || number > 365 || ++count > DAYS_MAX)
            return false;
        if (*end == '\0')
            return true;
        if (*end != ',')
            return false;
        days = end;
    }
}

static void on_turned(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    const PGresult *last = count > 0 ? results[count - 1] : NULL;

    (void)owner;
    if (outcome != PG_DONE)
        log_warn("key_life_failed", log_text("sqlstate", outcome == PG_REFUSED && last != NULL ? postgres_sqlstate(last) : ""));
    else if (postgres_i64(last, 0, 0) > 0)
        log_info("keys_ended_or_told", log_number("count", postgres_i64(last, 0, 0)));
}

void key_life_turn(struct keys *keys)
{
    const char *days = keys->config->expiring_days;

    if (store_disable_overdue(keys->store, false, on_turned, keys) != ERR_OK
        || store_disable_overdue(keys->store, true, on_turned, keys) != ERR_OK
        || (days[0] != '\0' && store_tell_expiring(keys->store, days, on_turned, keys) != ERR_OK))
        log_debug("key_life_postponed");
}
