/*
 * keys_handlers.c - one function per message; a management call goes parse -> load -> decide -> change -> acknowledged.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/apikey.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/metrics.h"
#include "common/operation.h"
#include "common/scope.h"
#include "services/keys/reports.h"
#include "services/keys/issuers_handlers.h"
#include "services/keys/key_life.h"
#include "services/keys/bulk.h"
#include "services/keys/import.h"
#include "services/keys/keys_calls.h"
#include "services/keys/shape.h"
#include "services/keys/tenants.h"
#include "services/keys/tokens.h"
#include "services/keys/users.h"

#define PERMISSIONS_SIZE 256u

/* ---- keys: create ------------------------------------------------------------------------------ */

/* Behind act, claim, key_create and key_create_side. */
static bool has_replaced_key(PGresult *const *results)
{
    return strcmp(PQcmdTuples(results[4]), "0") != 0;
}

/* true: the call has been answered. */
static bool ended_by_count(struct pending *p, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    const bool is_full = strcmp(refused_state(outcome, results, count), STORE_TOO_MANY_KEYS) == 0;

    if (is_full)
        answer_err(p, ERR_UNPROCESSABLE, "tenant_policy", "", "the tenant's policy allows no more keys, so delete or revoke one");
    return is_full;
}

static void on_key_created(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    struct pending *p = owner;
    struct store_effect effect;
    struct key_row key;
    json_t *body;

    if (ended_by_count(p, outcome, results, count) || ended_by_store(p, outcome, results, count))
        return;
    store_read_effect(results, count, &p->actor, &effect);
    if (ended_by_reuse(p, effect.is_foreign))
        return;
    if (!store_read_key(store_object_rows(results, count), 0, &key)) {
        answer_err(p, ERR_CONFLICT, NULL, "", "the key that this request made is gone");
        return;
    }
    if (effect.is_repeat && !has_replaced_key(results)) {
        answer_err(p, ERR_CONFLICT, "key_changed", "", "the key that this request made has been changed since");
        return;
    }
    snprintf(p->object, sizeof p->object, "%s", key.id);
    body = keys_json_key(&key, p->keys->config->permission_resource);
    if (effect.is_repeat)
        answer_when_applied(p, effect.sequence, 201, body);
    else
        answer(p, 201, body);
}

static enum err create_key(struct pending *p)
{
    char permissions[PERMISSIONS_SIZE], stored[SHAPE_STORED_MAX], start[APIKEY_START + 1];

    keys_make_id(p->object);
    apikey_make(p->key_prefix, &p->made);
    shape_stored_key(p->keys->config, &p->made, stored);
    snprintf(start, sizeof start, "%.*s", (int)APIKEY_START, secret_text(&p->made));
    /* Closed, because Better-Auth knows no inheritance: a key with write must pass its check for read too. */
    keys_format_permissions(scopes_close(p->in.key.scopes), p->keys->config->permission_resource, permissions,
                            sizeof permissions);
    return store_create_key(p->keys->store, &p->actor, &(struct key_creation){
        .fields = &p->in.key, .permissions = permissions, .start = start, .digest = stored, .prefix = p->key_prefix,
        .reference_id = p->reference_id, .tenant_id = p->tenant[0] != '\0' ? p->tenant : NULL,
        .ruling_tenant = p->ruling_tenant }, on_key_created, p);
}

static enum err decide_owner(struct pending *p, const struct store_subject *subject, struct problem *problem)
{
    const struct caller caller = caller_of(p);
    const struct key_facts owner = {
        .reference_id = p->reference_id, .side_tenant_id = "", .organization_id = subject->organization_id,
        .organization_count = subject->organization_count, .is_organization = subject->is_organization,
    };
    enum err err;

    if (!subject->is_user && !subject->is_organization)
        return problem_set(problem, ERR_UNPROCESSABLE, NULL, "userId", "no such user");
    if (p->in.key.has_user && !keys_is_operator(&caller) && !subject->is_member
        && strcmp(p->reference_id, p->user_id) != 0)
        return problem_set(problem, ERR_UNPROCESSABLE, NULL, "userId", "no such user");
    if (subject->is_banned)
        return problem_set(problem, ERR_UNPROCESSABLE, NULL, "userId", "the user is banned");
    err = keys_decide_tenant(&caller, &p->in.key, &owner, p->tenant, problem);
    if (err == ERR_OK && (p->tenant[0] != '\0' || keys_tenant(&owner, p->ruling_tenant) != ERR_OK))
        memcpy(p->ruling_tenant, p->tenant, sizeof p->ruling_tenant);
    return err;
}

static enum err change_key(struct pending *p);

/* What the policy of the tenant says of a key that is to be made or changed. */
static void on_policy(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    struct pending *p = owner;
    const bool is_new = p->operation == OPERATION_key_create;
    struct key_policy policy;
    struct problem problem;

    if (ended_by_store(p, outcome, results, count))
        return;
    store_read_policy(results[0], &policy);
    snprintf(p->key_prefix, sizeof p->key_prefix, "%s", policy.key_prefix[0] != '\0' ? policy.key_prefix : APIKEY_PREFIX);
    if (key_life_decide(&policy, is_new, &p->in.key, &problem) != ERR_OK)
        answer_problem(p, &problem);
    else if ((is_new ? create_key(p) : change_key(p)) != ERR_OK)
        answer_err(p, ERR_UNAVAILABLE, NULL, "", "");
}

static void on_subject(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    struct pending *p = owner;
    struct store_subject subject;
    struct problem problem;

    if (ended_by_store(p, outcome, results, count))
        return;
    store_read_subject(results[0], &subject);
    if (decide_owner(p, &subject, &problem) != ERR_OK) {
        answer_problem(p, &problem);
        return;
    }
    if (store_load_policy(p->keys->store, &p->actor, p->ruling_tenant, on_policy, p) != ERR_OK)
        answer_err(p, ERR_UNAVAILABLE, NULL, "", "");
}

static enum err begin_key_create(struct pending *p, const json_t *body, const struct view *query,
                                 struct problem *problem)
{
    const struct caller caller = caller_of(p);
    struct key_fields *fields = &p->in.key;
    enum err err = keys_parse_create(body, p->keys->config->default_expiry_s, fields, problem);

    (void)query;
    if (err == ERR_OK)
        err = keys_decide_fields(&caller, fields, problem);
    if (err == ERR_OK)
        err = key_bounds_decide_new(&p->bounds, fields, problem);
    if (err != ERR_OK)
        return err;
    p->actor.event = "key.created";
    snprintf(p->reference_id, sizeof p->reference_id, "%s", fields->has_user ? fields->user_id
             : strncmp(p->user_id, "org:", 4) == 0 ? p->user_id + 4 : p->user_id);
    return store_load_subject(p->keys->store, p->reference_id, p->tenant_id, on_subject, p);
}

/* ---- keys: change ------------------------------------------------------------------------------ */

static json_t *deleted_body(const char *name, const char *value)
{
    return json_pack("{s:s, s:b}", name, value, "deleted", 1);
}

static void on_key_changed(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    struct pending *p = owner;
    struct store_effect effect;
    struct key_row key;
    bool is_there;

    if (ended_by_count(p, outcome, results, count) || ended_by_store(p, outcome, results, count))
        return;
    store_read_effect(results, count, &p->actor, &effect);
    is_there = store_read_key(store_object_rows(results, count), 0, &key);
    if (ended_by_claim(p, &effect, is_there))
        return;
    if (p->operation == OPERATION_key_delete && !is_there)
        answer_when_applied(p, effect.sequence, 200, deleted_body("id", p->object));
    else if (!is_there)
        answer_err(p, ERR_NOT_FOUND, NULL, "", "");
    else if (p->operation == OPERATION_key_enable && key.facts.revoked)
        answer_err(p, ERR_CONFLICT, "key_revoked", "", "a revoked key cannot be enabled again");
    else
        answer_when_applied(p, effect.sequence, 200, keys_json_key(&key, p->keys->config->permission_resource));
}

static enum err change_key(struct pending *p)
{
    struct store *store = p->keys->store;
    char permissions[PERMISSIONS_SIZE];

    switch (p->operation) {
    case OPERATION_key_update:
        keys_format_permissions(scopes_close(p->in.key.scopes), p->keys->config->permission_resource, permissions,
                                sizeof permissions);
        return store_update_key(store, &p->actor, &(struct key_update){
            .fields = &p->in.key, .permissions = permissions, .ruling_tenant = p->ruling_tenant }, on_key_changed, p);
    case OPERATION_key_enable:
        return store_enable_key(store, &p->actor, true, on_key_changed, p);
    case OPERATION_key_disable:
        return store_enable_key(store, &p->actor, false, on_key_changed, p);
    case OPERATION_key_revoke:
        return store_revoke_key(store, &p->actor, on_key_changed, p);
    default:
        return store_delete_key(store, &p->actor, on_key_changed, p);
    }
}

/* A key of others does not exist for the caller.  A repeated deletion finds no key any more, but its request. */
static enum err decide_change(struct pending *p, const struct store_request *request, const struct key_row *key,
                              struct problem *problem)
{
    const struct caller caller = caller_of(p);
    const bool is_repeat = request->is_known && strcmp(request->fingerprint, p->fingerprint) == 0;

    if (request->is_known && !is_repeat)
        return refuse_reuse(p, problem);
    if (key == NULL)
        return is_repeat && p->operation == OPERATION_key_delete ? ERR_OK : refuse_missing(problem);
    if (!keys_may_see(&caller, &key->facts))
        return refuse_missing(problem);
    if (p->operation == OPERATION_key_enable && key->facts.revoked)
        return problem_set(problem, ERR_CONFLICT, "key_revoked", "", "a revoked key cannot be enabled again");
    return decide_bounds(p, key, p->operation == OPERATION_key_update ? &p->in.key : NULL, problem);
}

static void on_key_loaded(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    struct pending *p = owner;
    struct store_request request;
    struct problem problem;
    struct key_row key;
    bool is_there;
    enum err err;

    if (ended_by_store(p, outcome, results, count))
        return;
    store_read_request(results[0], &request);
    is_there = store_read_key(results[1], 0, &key);
    if (decide_change(p, &request, is_there ? &key : NULL, &problem) != ERR_OK) {
        answer_problem(p, &problem);
        return;
    }
    p->ruling_tenant[0] = '\0';
    if (p->operation == OPERATION_key_update && keys_tenant(&key.facts, p->ruling_tenant) == ERR_OK)
        err = store_load_policy(p->keys->store, &p->actor, p->ruling_tenant, on_policy, p);
    else
        err = change_key(p);
    if (err != ERR_OK)
        answer_err(p, ERR_UNAVAILABLE, NULL, "", "");
}

static enum err begin_key_change(struct pending *p, const json_t *body, const struct view *query,
                                 struct problem *problem)
{
    static const char *const events[] = {
        [OPERATION_key_update] = "key.updated",   [OPERATION_key_enable] = "key.enabled",
        [OPERATION_key_disable] = "key.disabled", [OPERATION_key_revoke] = "key.revoked",
        [OPERATION_key_delete] = "key.deleted",
    };
    const struct caller caller = caller_of(p);
    enum err err;

    (void)query;
    if (p->operation == OPERATION_key_update)
        err = keys_parse_update(body, &p->in.key, problem);
    else
        err = keys_parse_reason(body, p->reason, problem);
    if (err == ERR_OK && p->operation == OPERATION_key_update)
        err = keys_decide_fields(&caller, &p->in.key, problem);
    if (err != ERR_OK)
        return err;
    p->actor.event = events[p->operation];
    return store_load_key(p->keys->store, &p->actor, on_key_loaded, p);
}

/* ---- keys: read -------------------------------------------------------------------------------- */

static void on_key_got(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    struct pending *p = owner;
    const struct caller caller = caller_of(p);
    struct key_row key;

    if (ended_by_store(p, outcome, results, count))
        return;
    if (!store_read_key(results[1], 0, &key) || !keys_may_see(&caller, &key.facts))
        answer_err(p, ERR_NOT_FOUND, NULL, "", "");
    else
        answer(p, 200, keys_json_key(&key, p->keys->config->permission_resource));
}

static enum err begin_key_get(struct pending *p, const json_t *body, const struct view *query, struct problem *problem)
{
    (void)body, (void)query, (void)problem;
    return store_load_key(p->keys->store, &p->actor, on_key_got, p);
}

static void on_keys_listed(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    struct pending *p = owner;
    struct page page = { .limit = p->in.page.limit };
    struct key_row key;

    if (ended_by_store(p, outcome, results, count))
        return;
    page.items = json_array();
    for (int row = 0; store_read_key(results[0], row, &key); row++) {
        if (!page_add(&page, keys_json_key(&key, p->keys->config->permission_resource), key.cursor))
            break;
    }
    answer_page(p, &page);
}

static enum err begin_key_list(struct pending *p, const json_t *body, const struct view *query, struct problem *problem)
{
    const struct caller caller = caller_of(p);
    enum err err = keys_parse_page(query, PAGE_OF_KEYS, &p->in.page, problem);
    const char *tenant = p->in.page.tenant_id;

    (void)body;
    if (err == ERR_OK && tenant[0] != '\0' && !keys_is_operator(&caller) && strcmp(tenant, p->tenant_id) != 0) {
        answer_page(p, &(struct page){ .items = json_array() });    /* what lies outside a caller's reach is not there */
        return ERR_OK;
    }
    return err != ERR_OK ? err : store_list_keys(p->keys->store, &caller, &p->in.page, on_keys_listed, p);
}

static json_t *unverified(const char *error)
{
    return json_pack("{s:b, s:s}", "isValid", 0, "error", error);
}

/* Who is not an administrator learns of keys of their own tenant only; others' are as unknown as garbage. */
static json_t *verify_body(const struct pending *p, const PGresult *rows)
{
    const struct caller caller = caller_of(p);
    const char *refusal;
    char tenant[81] = "";
    struct key_row key;

    if (PQntuples(rows) != 1 || !store_read_key(rows, 0, &key))
        return unverified("KEY_UNKNOWN");
    if (!keys_may_see(&caller, &key.facts)
        && (keys_tenant(&key.facts, tenant) != ERR_OK || strcmp(tenant, p->tenant_id) != 0))
        return unverified("KEY_UNKNOWN");
    refusal = keys_refusal(&key.facts);
    if (refusal != NULL)
        return unverified(refusal);
    return json_pack("{s:b, s:o}", "isValid", 1, "context",
                     keys_json_context(&key, p->keys->config->permission_resource));
}

static void on_digest_found(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    struct pending *p = owner;

    if (!ended_by_store(p, outcome, results, count))
        answer(p, 200, verify_body(p, results[0]));
}

static enum err begin_key_verify(struct pending *p, const json_t *body, const struct view *query,
                                 struct problem *problem)
{
    const char *digest;
    enum err err = keys_parse_verify(body, &digest, problem);

    (void)query;
    if (err != ERR_OK)
        return err;
    if (strlen(digest) != DIGEST_TEXT_SIZE - 1) {
        answer(p, 200, unverified("KEY_UNKNOWN"));
        return ERR_OK;
    }
    return store_find_digest(p->keys->store, digest, on_digest_found, p);
}

/* ---- servers ----------------------------------------------------------------------------------- */

static bool is_same_server(const struct server_row *row, const struct server_fields *fields)
{
    return strcmp(row->url, fields->url) == 0 && strcmp(row->name, fields->name) == 0
        && strcmp(row->tenant_id, fields->tenant_id) == 0 && row->enabled == fields->enabled
        && (strcmp(row->upstream_auth, "own") == 0) == fields->own_auth && strcmp(row->resource, fields->resource) == 0
        && row->second_factor == fields->second_factor && (strcmp(row->enforce, "observe") == 0) == fields->observes;
}

static void on_server_changed(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    struct pending *p = owner;
    struct store_effect effect;
    struct server_row server;
    bool is_there, is_new = p->operation == OPERATION_server_create;

    if (ended_by_store(p, outcome, results, count))
        return;
    store_read_effect(results, count, &p->actor, &effect);
    is_there = store_read_server(store_object_rows(results, count), 0, &server);
    if (ended_by_claim(p, &effect, is_there))
        return;
    if (is_new && is_there && !effect.is_repeat && !store_has_changed(results, &p->actor)) {
        if (is_same_server(&server, &p->in.server))
            answer_when_applied(p, effect.sequence, 200, keys_json_server(&server));
        else
            answer_err(p, ERR_CONFLICT, NULL, "slug", "another server has this slug");
        return;
    }
    if (is_there)
        answer_when_applied(p, effect.sequence, is_new ? 201 : 200, keys_json_server(&server));
    else if (p->operation == OPERATION_server_delete && (effect.is_repeat || store_has_changed(results, &p->actor)))
        answer_when_applied(p, effect.sequence, 200, deleted_body("slug", p->object));
    else
        answer_err(p, ERR_NOT_FOUND, NULL, "", "");
}

static enum err begin_server_change(struct pending *p, const json_t *body, const struct view *query,
                                    struct problem *problem)
{
    const bool is_new = p->operation == OPERATION_server_create;
    enum err err = ERR_OK;

    (void)query;
    if (p->operation == OPERATION_server_delete)
        err = keys_parse_reason(body, p->reason, problem);
    else
        err = keys_parse_server(body, is_new, &p->in.server, problem);
    if (err != ERR_OK)
        return err;
    if (is_new)
        memcpy(p->object, p->in.server.slug, sizeof p->in.server.slug);
    if (!keys_slug_is_valid(p->object))
        return refuse_missing(problem);
    p->actor.event = is_new                                    ? "server.created"
                     : p->operation == OPERATION_server_update ? "server.updated"
                                                               : "server.deleted";
    if (is_new)
        return store_create_server(p->keys->store, &p->actor, &p->in.server, on_server_changed, p);
    if (p->operation == OPERATION_server_update)
        return store_update_server(p->keys->store, &p->actor, &p->in.server, on_server_changed, p);
    return store_delete_server(p->keys->store, &p->actor, on_server_changed, p);
}

static void on_server_got(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    struct pending *p = owner;
    const struct caller caller = caller_of(p);
    struct server_row server;

    if (ended_by_store(p, outcome, results, count))
        return;
    if (!store_read_server(results[1], 0, &server) || !keys_may_see_server(&caller, server.tenant_id))
        answer_err(p, ERR_NOT_FOUND, NULL, "", "");
    else
        answer(p, 200, keys_json_server(&server));
}

static enum err begin_server_get(struct pending *p, const json_t *body, const struct view *query,
                                 struct problem *problem)
{
    (void)body, (void)query, (void)problem;
    return store_load_server(p->keys->store, &p->actor, on_server_got, p);
}

static void on_servers_listed(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    struct pending *p = owner;
    struct page page = { .limit = p->in.page.limit };
    struct server_row server;

    if (ended_by_store(p, outcome, results, count))
        return;
    page.items = json_array();
    for (int row = 0; store_read_server(results[0], row, &server); row++) {
        if (!page_add(&page, keys_json_server(&server), server.slug))
            break;
    }
    answer_page(p, &page);
}

static enum err begin_server_list(struct pending *p, const json_t *body, const struct view *query,
                                  struct problem *problem)
{
    const struct caller caller = caller_of(p);
    enum err err = keys_parse_page(query, PAGE_OF_SERVERS, &p->in.page, problem);

    (void)body;
    if (err != ERR_OK)
        return err;
    return store_list_servers(p->keys->store, keys_is_operator(&caller) ? NULL : p->tenant_id, &p->in.page,
                              on_servers_listed, p);
}

/* ---- the state ------------------------------------------------------------------ */

static void on_status_read(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    struct pending *p = owner;
    struct feed_applied applied;

    if (ended_by_store(p, outcome, results, count))
        return;
    applied = feed_count(p->keys->feed, feed_known(p->keys->feed));
    answer(p, 200,
           json_pack("{s:I, s:I, s:b, s:I, s:I, s:I, s:I, s:{s:I, s:I}}", "changeSequence",
                     (json_int_t)postgres_i64(results[0], 0, 0), "changeRead", (json_int_t)feed_known(p->keys->feed),
                     "triggersPresent", postgres_flag(results[0], 0, 1) ? 1 : 0, "outboxEvents",
                     (json_int_t)postgres_i64(results[0], 0, 2), "keys", (json_int_t)postgres_i64(results[0], 0, 3),
                     "servers", (json_int_t)postgres_i64(results[0], 0, 4), "edges",
                     (json_int_t)bus_edge_count(p->keys->bus), "applied", "holders", (json_int_t)applied.holders, "of",
                     (json_int_t)applied.of));
}

static enum err begin_status(struct pending *p, const json_t *body, const struct view *query, struct problem *problem)
{
    (void)body, (void)query, (void)problem;
    return store_status(p->keys->store, on_status_read, p);
}

/* ---- messages ---------------------------------------------------------------------------------- */

static begin_fn *const begin_functions[] = {
    [OPERATION_key_create] = begin_key_create,
    [OPERATION_key_list] = begin_key_list,
    [OPERATION_key_get] = begin_key_get,
    [OPERATION_key_update] = begin_key_change,
    [OPERATION_key_enable] = begin_key_change,
    [OPERATION_key_disable] = begin_key_change,
    [OPERATION_key_revoke] = begin_key_change,
    [OPERATION_key_delete] = begin_key_change,
    [OPERATION_key_verify] = begin_key_verify,
    [OPERATION_key_rotate] = begin_key_rotate,
    [OPERATION_server_create] = begin_server_change,
    [OPERATION_server_list] = begin_server_list,
    [OPERATION_server_get] = begin_server_get,
    [OPERATION_server_delete] = begin_server_change,
    [OPERATION_server_update] = begin_server_change,
    [OPERATION_audit_list] = begin_audit_list,
    [OPERATION_status] = begin_status,
    [OPERATION_usage] = begin_usage,
    [OPERATION_stats] = begin_stats,
    [OPERATION_tenant_create] = begin_tenant_change,
    [OPERATION_tenant_list] = begin_tenant_list,
    [OPERATION_tenant_get] = begin_tenant_get,
    [OPERATION_tenant_update] = begin_tenant_change,
    [OPERATION_tenant_suspend] = begin_tenant_change,
    [OPERATION_tenant_resume] = begin_tenant_change,
    [OPERATION_tenant_delete] = begin_tenant_change,
    [OPERATION_user_list] = begin_user_list,
    [OPERATION_user_get] = begin_user_call,
    [OPERATION_user_suspend] = begin_user_call,
    [OPERATION_user_resume] = begin_user_call,
    [OPERATION_user_sign_out] = begin_user_call,
    [OPERATION_session_list] = begin_user_call,
    [OPERATION_session_end] = begin_session_end,
    [OPERATION_issuer_list] = begin_issuer_list,
    [OPERATION_token_explain] = begin_token_explain,
    [OPERATION_token_revoke] = begin_token_revoke,
    [OPERATION_token_revoked] = begin_token_revoked,
    [OPERATION_token_restore] = begin_token_restore,
    [OPERATION_key_bulk] = begin_key_bulk,
    [OPERATION_key_import] = begin_key_import,
};

/* With the key that asks: an answer that shows a value is not for another key of the same user. */
static void take_fingerprint(struct pending *p, const struct manage_request *request)
{
    uint8_t digest[DIGEST_SIZE];
    char head[32 + sizeof request->key_id];
    const int length = snprintf(head, sizeof head, "%u %s ", (unsigned)request->operation, request->key_id);

    digest_hmac(request->object, strlen(request->object), head, (size_t)length, request->body.bytes, request->body.size,
                digest);
    base64url_encode(digest, sizeof digest, p->fingerprint);
}

static int hex_digit(char c)
{
    static const char digits[] = "0123456789ABCDEF";
    const char *at = c == '\0' ? NULL : strchr(digits, c);

    return at == NULL ? -1 : (int)(at - digits);
}

/* The edge leaves what is reserved in a path escaped (in capitals), such as the colon of user:<id>. */
static void take_object(struct pending *p, const char *object)
{
    size_t used = 0;

    for (; *object != '\0' && used + 1 < sizeof p->object; object++) {
        int high = *object == '%' ? hex_digit(object[1]) : -1, low = high < 0 ? -1 : hex_digit(object[2]);
        int c = high < 0 || low < 0 ? 0 : high * 16 + low;

        if (c < 0x20 || c > 0x7e) {
            p->object[used++] = *object;
            continue;
        }
        p->object[used++] = (char)c;
        object += 2;
    }
    p->object[used] = '\0';
}

static void take_request(struct pending *p, const struct manage_request *request)
{
    p->operation = request->operation;
    p->scopes = scopes_close(request->scopes);
    memcpy(p->user_id, request->user_id, sizeof p->user_id);
    memcpy(p->tenant_id, request->tenant_id, sizeof p->tenant_id);
    memcpy(p->key_id, request->key_id, sizeof p->key_id);
    memcpy(p->request_id, request->request_id, sizeof p->request_id);
    memcpy(p->address, request->address, sizeof p->address);
    take_object(p, request->object);
    p->claim_id[0] = '\0';
    if (request->idempotency_key[0] != '\0')
        snprintf(p->claim_id, sizeof p->claim_id, "idempotency:%s", request->idempotency_key);
    keys_make_id(p->attempt);
    take_fingerprint(p, request);
    /* Without an id of its own a request repeats none. */
    if (p->request_id[0] == '\0')
        memcpy(p->request_id, p->attempt, sizeof p->attempt);
    p->actor = (struct store_actor){
        .event = "", .operation = p->operation, .user_id = p->user_id, .key_id = p->key_id, .tenant_id = p->tenant_id,
        .request_id = p->request_id, .claim_id = p->claim_id[0] != '\0' ? p->claim_id : p->request_id, .address = p->address, .reason = p->reason, .fingerprint = p->fingerprint,
        .attempt = p->attempt, .object = p->object,
    };
}

static enum err parse_body(const struct view *view, json_t **ret_body, struct problem *problem)
{
    json_error_t error;

    *ret_body = NULL;
    if (view->size == 0)
        return ERR_OK;
    *ret_body = json_loadb((const char *)view->bytes, view->size, JSON_REJECT_DUPLICATES, &error);
    if (*ret_body != NULL)
        return ERR_OK;
    return problem_set(problem, ERR_MALFORMED, NULL, "", "the body is not JSON, or an object has a member twice");
}

static enum err begin(struct pending *p, const json_t *body, const struct view *query, struct problem *problem)
{
    const struct caller caller = caller_of(p);
    enum err err;

    if (p->operation >= sizeof begin_functions / sizeof begin_functions[0] || begin_functions[p->operation] == NULL)
        return problem_set(problem, ERR_NOT_FOUND, NULL, "", "no such operation");
    err = keys_decide_operation(&caller, p->operation, problem);
    return err != ERR_OK ? err : begin_functions[p->operation](p, body, query, problem);
}

static void end_refused(struct pending *p, enum err err, struct problem *problem)
{
    if (err == ERR_OK)
        return;
    if (problem->err == ERR_OK)
        (void)problem_set(problem, err, NULL, "", "");
    answer_problem(p, problem);
}

static enum authority authority_of(const struct pending *p, const struct standing *standing, bool *ret_is_wanted)
{
    const struct caller caller = caller_of(p);

    return keys_authority(&caller, standing, p->keys->config->operator_tenants, p->keys->config->tenant_admin_roles,
                          ret_is_wanted);
}

/* What the key of the call may hand on, where the call hands out anything. */
static bool wants_bounds(const struct pending *p)
{
    return p->key_id[0] != '\0' && key_bounds_are_wanted(p->operation);
}

static void on_standing(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    struct pending *p = owner;
    OWNED(keys_json_destroy) json_t *body = NULL;
    struct problem problem = { .err = ERR_OK };
    struct standing standing;
    struct view query;
    bool is_wanted;

    if (ended_by_store(p, outcome, results, count))
        return;
    store_read_standing(results[0], &standing);
    p->authority = authority_of(p, NULL, &is_wanted);
    if (is_wanted)
        p->authority = authority_of(p, &standing, &is_wanted);
    if (wants_bounds(p))
        key_bounds_take(&standing, p->keys->config->better_auth_row_limits, &p->bounds);
    body = p->asked;
    p->asked = NULL;
    query = (struct view){ (const uint8_t *)p->asked_query, strlen(p->asked_query) };
    end_refused(p, begin(p, body, &query, &problem), &problem);
}

/* The request lies in a frame that goes when its handler returns. */
static enum err ask_standing(struct pending *p, json_t **body, const struct view *query)
{
    const struct caller caller = caller_of(p);

    p->asked_query = strndup(query->size == 0 ? "" : (const char *)query->bytes, query->size);
    if (p->asked_query == NULL)
        return ERR_NO_MEMORY;
    p->asked = *body;
    *body = NULL;
    return store_load_standing(p->keys->store, &caller, p->key_id, on_standing, p);
}

/* ERR_MALFORMED: the call does not look at tags, so it must not seem to. */
static enum err take_match(struct pending *p, const char *field, struct problem *problem)
{
    if (field[0] == '\0')
        return ERR_OK;
    if (!store_takes_tags(p->operation))
        return problem_set(problem, ERR_MALFORMED, "if_match", "", "If-Match is for changes of a key, a server or a tenant");
    if (keys_parse_match(field, p->if_match) != ERR_OK)
        return problem_set(problem, ERR_MALFORMED, "if_match", "", "If-Match holds tags in quotes with commas between, or *");
    if (strcmp(p->if_match, "*") != 0)
        p->actor.if_match = p->if_match;
    return ERR_OK;
}

static enum err take_call(struct pending *p, const struct manage_request *request, struct problem *problem)
{
    OWNED(keys_json_destroy) json_t *body = NULL;
    bool is_wanted;
    enum err err;

    p->bounds = (struct key_bounds){ .is_key = false };
    p->authority = authority_of(p, NULL, &is_wanted);
    err = take_match(p, request->if_match, problem);
    if (err == ERR_OK)
        err = parse_body(&request->body, &body, problem);
    if (err != ERR_OK)
        return err;
    return is_wanted || wants_bounds(p) ? ask_standing(p, &body, &request->query) : begin(p, body, &request->query, problem);
}

static void on_manage_request(struct keys *keys, const struct bus_token *token, const struct manage_request *request)
{
    struct pending *p = pending_take(keys);
    struct problem problem = { .err = ERR_OK };

    if (p == NULL) {
        (void)problem_set(&problem, ERR_OVERLOADED, NULL, "", "");
        send_problem(keys, token, request->object, &problem);
        return;
    }
    p->token = *token;
    take_request(p, request);
    end_refused(p, take_call(p, request, &problem), &problem);
}
DEFINE_BUS_HANDLER(struct keys, on_manage_request, manage_request)

static void on_feed_request(struct keys *keys, const struct bus_token *token, const struct feed_request *request)
{
    feed_on_request(keys->feed, token, request);
}
DEFINE_BUS_HANDLER(struct keys, on_feed_request, feed_request)

static void on_holders(struct keys *keys, const struct bus_token *token, const struct holders *holders)
{
    feed_on_holders(keys->feed, token, holders);
}
DEFINE_BUS_HANDLER(struct keys, on_holders, holders)

static void send_page_end(struct pending *p, const struct servers_page *page)
{
    bus_reply(p->keys->bus, &p->token, MESSAGE_servers_page, page);
    pending_release(p);
}

static void on_servers_page(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    struct pending *p = owner;
    struct servers_page page = { .error = outcome == PG_DONE ? ERR_OK : ERR_UNAVAILABLE };
    struct server_row row;

    (void)count;
    if (outcome == PG_DONE)
        page.sequence = store_read_sequence(results[0]);
    for (int i = 0; outcome == PG_DONE && store_read_page_server(results[0], i, &row); i++) {
        struct server_entry entry = { .enabled = row.enabled, .own_auth = strcmp(row.upstream_auth, "own") == 0,
                                      .second_factor = row.second_factor, .observes = strcmp(row.enforce, "observe") == 0 };

        page.more = page.count == STORE_SERVERS_MAX;
        if (page.more)
            break;
        snprintf(entry.slug, sizeof entry.slug, "%s", row.slug);
        snprintf(entry.url, sizeof entry.url, "%s", row.url);
        snprintf(entry.tenant_id, sizeof entry.tenant_id, "%s", row.tenant_id);
        snprintf(entry.resource, sizeof entry.resource, "%s", row.resource);
        bus_reply(p->keys->bus, &p->token, MESSAGE_server_entry, &entry);
        page.count++;
    }
    send_page_end(p, &page);
}

static void on_servers_request(struct keys *keys, const struct bus_token *token, const struct servers_request *request)
{
    struct pending *p = pending_take(keys);
    enum err err;

    if (p == NULL) {
        bus_reply(keys->bus, token, MESSAGE_servers_page, &(struct servers_page){ .error = ERR_OVERLOADED });
        return;
    }
    p->token = *token;
    memcpy(p->after, request->after, sizeof p->after);
    err = store_load_servers_page(keys->store, p->after, on_servers_page, p);
    if (err != ERR_OK)
        send_page_end(p, &(struct servers_page){ .error = err });
}
DEFINE_BUS_HANDLER(struct keys, on_servers_request, servers_request)

const struct bus_handler keys_handlers[] = {
    BUS_HANDLER(on_manage_request, manage_request),
    BUS_HANDLER(on_feed_request, feed_request),
    BUS_HANDLER(on_holders, holders),
    BUS_HANDLER(on_servers_request, servers_request),
    { 0 }
};
