/* keys_calls.c - how every call of the management API is answered, whoever decides it. */
#include "services/keys/keys_calls.h"

#include <stdio.h>
#include <string.h>

#include "common/log.h"
#include "common/metrics.h"
#include "common/operation.h"

#define PAGE_BYTES 60000u    /* a page is cut before its body grows beyond this */

/* A body is made here and read by bus_reply before the next one. */
static char body_room[KEYS_BODY_MAX + 1];

/* ---- answers ----------------------------------------------------------------------------------- */

static void count_answer(uint64_t status)
{
    metric_add(status < 400 ? METRIC_manage_ok : status < 500 ? METRIC_manage_refused : METRIC_manage_failed, 1);
}

/* Of body_room; the reply has its status, code and etag. */
static void send_body(struct keys *keys, const struct bus_token *token, struct manage_reply *reply, const char *object,
                      size_t size)
{
    reply->body = (struct view){ (const uint8_t *)body_room, size };
    snprintf(reply->object, sizeof reply->object, "%s", object);
    for (char *c = reply->object; *c != '\0'; c++) {
        if (*c < 0x20 || *c > 0x7e)
            *c = '?';
    }
    count_answer(reply->status);
    bus_reply(keys->bus, token, MESSAGE_manage_reply, reply);
}

void send_problem(struct keys *keys, const struct bus_token *token, const char *object,
                         const struct problem *problem)
{
    OWNED(keys_json_destroy) json_t *body = keys_json_problem(problem);
    const size_t size = body == NULL ? 0 : json_dumpb(body, body_room, KEYS_BODY_MAX, JSON_COMPACT);

    struct manage_reply reply = { .status = (uint64_t)err_http_status(problem->err) };

    snprintf(reply.code, sizeof reply.code, "%s", problem->code != NULL ? problem->code : err_code(problem->err));
    send_body(keys, token, &reply, object, size <= KEYS_BODY_MAX ? size : 0);
}

void answer_problem(struct pending *p, const struct problem *problem)
{
    send_problem(p->keys, &p->token, p->object, problem);
    pending_release(p);
}

void answer_err(struct pending *p, enum err err, const char *code, const char *field, const char *detail)
{
    struct problem problem;

    (void)problem_set(&problem, err, code, field, detail);
    answer_problem(p, &problem);
}

/* Puts the new key's value behind the rest, by hand: jansson would leave a copy of it in freed memory. */
static size_t add_made_key(const struct pending *p, size_t size)
{
    const int added = snprintf(body_room + size - 1, KEYS_BODY_MAX - size, ",\"key\":\"%s\"}", secret_text(&p->made));

    return size - 1 + (size_t)added;
}

void answer(struct pending *p, uint64_t status, json_t *body)
{
    const bool has_key = secret_is_set(&p->made);
    const char *tag = json_string_value(json_object_get(body, "etag"));
    size_t size = body == NULL ? 0 : json_dumpb(body, body_room, KEYS_BODY_MAX, JSON_COMPACT);
    struct manage_reply reply = { .status = status };

    if (tag != NULL)
        snprintf(reply.etag, sizeof reply.etag, "\"%.40s\"", tag);
    json_decref(body);
    if (size == 0 || size + 100 > KEYS_BODY_MAX) {
        answer_err(p, body == NULL ? ERR_NO_MEMORY : ERR_TOO_LARGE, NULL, "", "");
        return;
    }
    if (has_key)
        size = add_made_key(p, size);
    send_body(p->keys, &p->token, &reply, p->object, size);
    if (has_key)
        OPENSSL_cleanse(body_room, size);
    pending_release(p);
}

const char *refused_state(enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    const char *state = "";

    for (size_t i = 0; outcome == PG_REFUSED && i < count && state[0] == '\0'; i++)
        state = results[i] == NULL ? "" : postgres_sqlstate(results[i]);
    return state;
}

bool ended_by_store(struct pending *p, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    const char *state = refused_state(outcome, results, count);

    if (outcome == PG_DONE)
        return false;
    /* 22: a value it cannot read (audit_list's times); 23: a constraint; 40, 57: try again */
    if (strncmp(state, "22", 2) == 0 || strncmp(state, "23", 2) == 0) {
        answer_err(p, ERR_UNPROCESSABLE, NULL, "", "the database cannot store or read one of the values");
        return true;
    }
    log_warn("statement_failed", log_text("operation", operation_name(p->operation)), log_text("sqlstate", state));
    answer_err(p, ERR_UNAVAILABLE, NULL, "",
               "the database did not answer; the same request may be sent again with the same X-Request-Id");
    return true;
}

enum err refuse_missing(struct problem *problem)
{
    return problem_set(problem, ERR_NOT_FOUND, NULL, "", "");
}

struct caller caller_of(const struct pending *p)
{
    return (struct caller){ .user_id = p->user_id, .tenant_id = p->tenant_id, .scopes = p->scopes,
                            .authority = p->authority, .is_key = p->key_id[0] != '\0' };
}

enum err decide_bounds(struct pending *p, const struct key_row *key, const struct key_fields *fields, struct problem *problem)
{
    const bool wants_scopes = p->key_id[0] != '\0' && p->operation == OPERATION_key_enable;
    const struct caller caller = caller_of(p);
    enum err err = ERR_OK;

    if (!key_bounds_are_wanted(p->operation))
        return ERR_OK;
    if (wants_scopes)
        err = keys_decide_enabling(&caller, keys_permission_scopes(key->permissions, p->keys->config->permission_resource), problem);
    if (err == ERR_OK)
        err = key_bounds_decide_change(&p->bounds, key, strcmp(key->id, p->key_id) == 0, fields, problem);
    if (err == ERR_OK && key_bounds_limit(&p->bounds) && p->actor.if_match == NULL) {
        snprintf(p->if_match, sizeof p->if_match, "%s", key->etag);
        p->actor.if_match = p->if_match;
    }
    return err;
}

/* ---- acknowledged changes ---------------------------------------------------------------------- */

static void on_entries_gone(void *owner)
{
    struct pending *p = owner;
    json_t *body = p->body;

    p->body = NULL;
    answer(p, p->status, body);
}

static void on_applied(void *owner, const struct feed_applied *applied)
{
    struct pending *p = owner;

    if (p->body != NULL)
        json_object_set_new(p->body, "applied", json_pack("{s:I, s:I, s:I}", "holders", (json_int_t)applied->holders,
                                                       "of", (json_int_t)applied->of, "ms", (json_int_t)applied->ms));
    entries_wait(p->keys->entries, p->sequence, on_entries_gone, p);
}

void answer_when_applied(struct pending *p, uint64_t sequence, uint64_t status, json_t *body)
{
    p->sequence = sequence;
    p->status = status;
    p->body = body;
    entries_on_change(p->keys->entries);
    if (feed_wait(p->keys->feed, sequence, on_applied, p) != ERR_OK)
        answer_err(p, ERR_OVERLOADED, NULL, "", "the change is made; too many calls wait for its acknowledgement");
}

enum err refuse_reuse(const struct pending *p, struct problem *problem)
{
    if (p->claim_id[0] != '\0')
        return problem_set(problem, ERR_UNPROCESSABLE, "idempotency_key_reused", "",
                           "this Idempotency-Key has been used for another request");
    return problem_set(problem, ERR_CONFLICT, "request_id_reused", "",
                       "this X-Request-Id has been used for another request");
}

bool ended_by_claim(struct pending *p, const struct store_effect *effect, bool is_there)
{
    if (effect->is_unmatched && !is_there)
        answer_err(p, ERR_NOT_FOUND, NULL, "", "");
    else if (effect->is_unmatched)
        answer_err(p, ERR_PRECONDITION, NULL, "", "it has changed since it was read: read it again");
    return effect->is_unmatched || ended_by_reuse(p, effect->is_foreign);
}

bool ended_by_reuse(struct pending *p, bool is_foreign)
{
    struct problem problem;

    if (is_foreign) {
        (void)refuse_reuse(p, &problem);
        answer_problem(p, &problem);
    }
    return is_foreign;
}

/* ---- pages ------------------------------------------------------------------------------------------ */

bool page_add(struct page *page, json_t *item, const char *cursor)
{
    const size_t size = item == NULL ? 0 : json_dumpb(item, NULL, 0, JSON_COMPACT);

    if (json_array_size(page->items) == page->limit
        || (page->bytes + size > PAGE_BYTES && json_array_size(page->items) > 0)) {
        json_decref(item);
        page->has_more = true;
        return false;
    }
    json_array_append_new(page->items, item);
    page->bytes += size + 1;
    page->cursor = cursor;
    return true;
}

void answer_page(struct pending *p, const struct page *page)
{
    answer(p, 200,
           json_pack("{s:o, s:o}", "items", page->items, "next",
                     page->has_more ? json_string(page->cursor) : json_null()));
}
