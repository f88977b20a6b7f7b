#include "services/keys/reports.h"
#include "services/keys/keys_store.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "services/keys/bulk_store.h"
#include "services/keys/key_life_store.h"
#include "services/keys/entries_store.h"
#include "services/keys/import_store.h"
#include "services/keys/store_plan.h"
#include "services/keys/tenants_store.h"
#include "services/keys/tokens_store.h"
#include "services/keys/users_store.h"

#define STATEMENT_TIMEOUT_MS 2000u

enum key_column {
    KEY_id, KEY_name, KEY_start, KEY_prefix, KEY_permissions, KEY_metadata, KEY_expires_at, KEY_created_at, KEY_updated_at,
    KEY_last_used_at, KEY_revoked_at, KEY_revoked_reason, KEY_created_by, KEY_has_rate, KEY_rate_max, KEY_rate_window,
    KEY_reference_id, KEY_side_tenant_id, KEY_organization_id, KEY_enabled, KEY_revoked, KEY_expired, KEY_is_organization,
    KEY_owner_exists, KEY_owner_banned, KEY_owner_left, KEY_organization_count, KEY_tenant_suspended, KEY_cursor,
    KEY_addresses, KEY_servers, KEY_tools, KEY_environment, KEY_etag, KEY_spent
};
/* Of all that people see of a key but its use. */
#define KEY_TAG "md5(ROW(a.key, a.name, a.\"referenceId\", a.enabled, a.\"expiresAt\", a.permissions, a.metadata, a.\"rateLimitEnabled\"," \
    " a.\"rateLimitTimeWindow\", a.\"rateLimitMax\", k.tenant_id, k.revoked_at, k.revoked_reason, k.allowed_ips, k.servers, k.tools," \
    " k.environment)::text)"
/* In the order of enum key_column; the page (or row) of apikey is chosen first, then joined. */
#define KEY_SELECT(page, order) \
    "SELECT a.id, a.name, a.start, a.prefix, a.permissions, a.metadata, " MOMENT("a.\"expiresAt\"") ", " MOMENT("a.\"createdAt\"") ", " \
    MOMENT("a.\"updatedAt\"") ", " MOMENT("a.\"lastRequest\"") ", " MOMENT("k.revoked_at") ", k.revoked_reason, k.created_by," \
    " coalesce(c.rate_enabled, true) AND c.rate_max IS NOT NULL AND c.rate_window_ms > 0, c.rate_max, c.rate_window_ms," \
    " c.reference_id, c.side_tenant_id, c.organization_id, coalesce(c.enabled, true), c.revoked, coalesce(c.expires_at < now(), false)," \
    " c.is_organization, c.owner_exists, c.owner_banned, c.owner_left, c.organization_count, c.tenant_suspended," \
    " (extract(epoch FROM a.\"createdAt\") * 1000000)::bigint || '.' || a.id," \
    " array_to_json(k.allowed_ips)::text, array_to_json(k.servers)::text, array_to_json(k.tools)::text, k.environment, " KEY_TAG ", coalesce(c.spent, false)" \
    " FROM (SELECT x.* FROM mcpgw.apikey x " page ") a" \
    " JOIN mcpgw.credential c ON c.key_id = a.id LEFT JOIN mcpgw.key k ON k.key_id = a.id " order
#define LIST(lines) "string_to_array(" lines ", chr(10))"
/* $4 name's beginning, $5 state, $6 owner, $7 moment before which it expires; NULL: any. */
#define KEY_FILTER \
    "AND ($4::text IS NULL OR starts_with(x.name, $4)) AND ($6::text IS NULL OR x.\"referenceId\" = $6)" \
    " AND ($7::timestamptz IS NULL OR x.\"expiresAt\" < $7::timestamptz) AND ($5::text IS NULL OR $5 =" \
    " CASE WHEN EXISTS (SELECT FROM mcpgw.key q WHERE q.key_id = x.id AND q.revoked_at IS NOT NULL) THEN 'revoked'" \
    " WHEN x.\"expiresAt\" < now() THEN 'expired' WHEN NOT coalesce(x.enabled, true) THEN 'disabled' ELSE 'active' END) "
#define NEWEST_FIRST(alias) "ORDER BY " alias ".\"createdAt\" DESC, " alias ".id DESC"
#define SERVER_TAG "md5(ROW(slug, url, name, tenant_id, enabled, upstream_auth, resource, second_factor, enforce)::text)"
#define SERVER_SELECT "SELECT slug, url, name, tenant_id, enabled, " MOMENT("created_at") ", " MOMENT("updated_at") \
    ", upstream_auth, resource, second_factor, enforce, " SERVER_TAG " FROM mcpgw.server "

static const struct postgres_statement statements[] = {
    { "act", "SELECT set_config('mcpgw.source', 'api', true), set_config('mcpgw.event', $1, true),"
             " set_config('mcpgw.actor_user_id', $2, true), set_config('mcpgw.actor_key_id', $3, true),"
             " set_config('mcpgw.actor_tenant_id', $4, true), set_config('mcpgw.request_id', $5, true),"
             " set_config('mcpgw.address', $6, true), set_config('mcpgw.reason', $7, true)" },
    { "claim", "INSERT INTO mcpgw.request (user_id, request_id, attempt, operation, fingerprint, object, at)"
               " VALUES ($1, $2, $3, $4::smallint, $5, $6, now()) ON CONFLICT DO NOTHING" },
    { "key_claim", CLAIM_IF("mcpgw.apikey a LEFT JOIN mcpgw.key k ON k.key_id = a.id WHERE a.id = $6", KEY_TAG) },
    { "server_claim", CLAIM_IF("mcpgw.server WHERE slug = $6", SERVER_TAG) },
    { "settle", "SET CONSTRAINTS ALL IMMEDIATE" },
    { "effect", "SELECT s.value, r.operation, r.fingerprint, r.attempt, r.object FROM mcpgw.change_sequence s"
                " LEFT JOIN mcpgw.request r ON r.user_id = $1 AND r.request_id = $2" },
    { "request_find", "SELECT operation, fingerprint, object FROM mcpgw.request WHERE user_id = $1 AND request_id = $2" },
    { "subject", "SELECT u.id IS NOT NULL, coalesce(u.banned AND (u.\"banExpires\" IS NULL OR u.\"banExpires\" > now()), false),"
                 " o.id IS NOT NULL AND u.id IS NULL, (SELECT count(*) FROM public.member m WHERE m.\"userId\" = s.id),"
                 " (SELECT min(m.\"organizationId\") FROM public.member m WHERE m.\"userId\" = s.id HAVING count(*) = 1),"
                 " s.id = $2 OR EXISTS (SELECT FROM public.member m WHERE m.\"userId\" = s.id AND m.\"organizationId\" = $2)"
                 " FROM (SELECT $1::text AS id) s LEFT JOIN public.\"user\" u ON u.id = s.id LEFT JOIN public.organization o ON o.id = s.id" },

    { "standing", "SELECT o.id IS NOT NULL, m.role, c.key_id IS NOT NULL AND coalesce(c.enabled, true) AND NOT c.revoked"
                  " AND coalesce(c.expires_at > now(), true), c.metered, c.allowed_ips IS NOT NULL, c.servers IS NOT NULL OR c.tools IS NOT NULL,"
                  " coalesce(c.rate_enabled, true) AND c.rate_max IS NOT NULL AND c.rate_window_ms > 0, " MOMENT("c.expires_at") ","
                  " array_to_string(c.allowed_ips, chr(10), '?'), floor(extract(epoch FROM c.expires_at - now()))::bigint, c.rate_max,"
                  " c.rate_window_ms FROM (SELECT $1::text AS id) s LEFT JOIN public.organization o ON o.id = s.id"
                  " LEFT JOIN public.member m ON m.\"organizationId\" = s.id AND m.\"userId\" = $2"
                  " LEFT JOIN mcpgw.credential c ON c.key_id = $3 LIMIT 1" },

    { "key_get", KEY_SELECT("WHERE x.id = $1", "") },
    { "key_find", KEY_SELECT("WHERE x.key = coalesce((SELECT f.current_digest FROM mcpgw.rotated f WHERE f.digest = $1 AND f.expires_at > now()), $1)"
                             " LIMIT 2", "") },
    { "key_list_all", KEY_SELECT("WHERE (x.\"createdAt\", x.id) < (CASE WHEN $1 = '' THEN 'infinity' ELSE " CURSOR_MOMENT("$2") " END, $1) "
                                 KEY_FILTER NEWEST_FIRST("x")
                                 " LIMIT $3::int", NEWEST_FIRST("a")) },
    { "key_list_own", KEY_SELECT("WHERE x.\"referenceId\" = $8 AND ($1 = '' OR (x.\"createdAt\", x.id) < (" CURSOR_MOMENT("$2") ", $1)) "
                                 KEY_FILTER, "WHERE c.is_organization = $9::boolean AND ($10::text IS NULL OR c.tenant_id = $10) "
                                 NEWEST_FIRST("a") " LIMIT $3::int") },
    /* By each way a key comes to a tenant; what the rows themselves say decides. */
    { "key_list_tenant", KEY_SELECT("JOIN (SELECT y.id FROM mcpgw.apikey y WHERE y.\"referenceId\" = $8"
                                    " UNION SELECT y.id FROM mcpgw.apikey y WHERE 'user:' || y.\"referenceId\" = $8 AND y.\"referenceId\" = substr($8, 6)"
                                    " UNION SELECT y.key_id FROM mcpgw.key y WHERE y.tenant_id = $8"
                                    " UNION SELECT y.id FROM public.member z JOIN mcpgw.apikey y ON y.\"referenceId\" = z.\"userId\""
                                    "       WHERE z.\"organizationId\" = $8) w ON w.id = x.id"
                                    " WHERE ($1 = '' OR (x.\"createdAt\", x.id) < (" CURSOR_MOMENT("$2") ", $1)) " KEY_FILTER,
                                    "WHERE c.tenant_id = $8 " NEWEST_FIRST("a") " LIMIT $3::int") },
    { "key_lock", "SELECT FROM mcpgw.apikey WHERE id = $1 FOR UPDATE" },
    { "key_create", "INSERT INTO mcpgw.apikey (id, \"configId\", name, start, \"referenceId\", prefix, key, \"refillInterval\", \"refillAmount\","
                    " \"lastRefillAt\", enabled, \"rateLimitEnabled\", \"rateLimitTimeWindow\", \"rateLimitMax\", \"requestCount\", remaining,"
                    " \"lastRequest\", \"expiresAt\", \"createdAt\", \"updatedAt\", permissions, metadata)"
                    " SELECT $4, 'default', $5, $6, $7, $15, $8, NULL, NULL, NULL, true, $9::boolean, $10::int, $11::int, 0, NULL, NULL,"
                    " " NOW_MS " + make_interval(secs => $12::double precision), " NOW_MS ", " NOW_MS ", $13, $14"
                    " WHERE " CLAIMED " AND NOT EXISTS (SELECT FROM mcpgw.apikey x WHERE x.key = $8)" },
    { "key_create_side", "INSERT INTO mcpgw.key (key_id, tenant_id, created_by, allowed_ips, servers, tools, environment)"
                         " SELECT $4, $5, $1, " LIST("$6") ", " LIST("$7") ", " LIST("$8") ", $9 WHERE " CLAIMED
                         " AND EXISTS (SELECT FROM mcpgw.apikey x WHERE x.id = $4)" },
    /* A repeated create: the first answer, and with it the secret, never reached its caller.  A key that was given other
     * scopes, limits or another owner since, a longer life, or was revoked, is no longer what this request asked for.
     * It was created once, so what happens to it now has another name in the trail. */
    { "key_replace", "UPDATE mcpgw.apikey a SET key = $5, start = $6, \"updatedAt\" = " NOW_MS " FROM mcpgw.request r"
                     " WHERE r.user_id = $1 AND r.request_id = $2 AND r.attempt <> $3 AND r.fingerprint = $4 AND a.id = r.object"
                     " AND a.permissions = $7 AND a.\"referenceId\" = $8"
                     " AND a.\"rateLimitTimeWindow\" IS NOT DISTINCT FROM $9::int AND a.\"rateLimitMax\" IS NOT DISTINCT FROM $10::int"
                     " AND coalesce(a.\"expiresAt\", 'infinity') <= coalesce(now() + make_interval(secs => $11::double precision + 1), 'infinity')"
                     " AND ($10::int IS NULL OR coalesce(a.\"rateLimitEnabled\", true))"
                     " AND EXISTS (SELECT FROM mcpgw.key k WHERE k.key_id = a.id AND (k.allowed_ips, k.servers, k.tools)"
                     " IS NOT DISTINCT FROM (" LIST("$12") ", " LIST("$13") ", " LIST("$14") "))"
                     " AND NOT EXISTS (SELECT FROM mcpgw.key k WHERE k.key_id = a.id AND k.revoked_at IS NOT NULL)"
                     " AND NOT EXISTS (SELECT FROM mcpgw.apikey x WHERE x.key = $5)"
                     " RETURNING set_config('mcpgw.event', 'key.updated', true)" },
    { "key_created", KEY_SELECT("WHERE x.id = (SELECT r.object FROM mcpgw.request r WHERE r.user_id = $1 AND r.request_id = $2)", "") },
    { "key_update", "UPDATE mcpgw.apikey SET \"updatedAt\" = " NOW_MS ","
                    " name = CASE WHEN $5::boolean THEN $6 ELSE name END,"
                    " permissions = coalesce($7, permissions),"
                    " \"expiresAt\" = CASE WHEN $8::boolean THEN " NOW_MS " + make_interval(secs => $9::double precision) ELSE \"expiresAt\" END,"
                    " \"rateLimitEnabled\" = CASE WHEN $10::boolean THEN $11::int IS NOT NULL ELSE \"rateLimitEnabled\" END,"
                    " \"rateLimitTimeWindow\" = CASE WHEN $10::boolean THEN $11::int ELSE \"rateLimitTimeWindow\" END,"
                    " \"rateLimitMax\" = CASE WHEN $10::boolean THEN $12::int ELSE \"rateLimitMax\" END,"
                    " metadata = coalesce($13, metadata)"
                    " WHERE id = $4 AND " CLAIMED },
    { "key_reach", "INSERT INTO mcpgw.key AS k (key_id, allowed_ips, servers, tools, environment)"
                   " SELECT $4, " LIST("$6") ", " LIST("$8") ", " LIST("$10") ", $12 WHERE " CLAIMED
                   " AND EXISTS (SELECT FROM mcpgw.apikey x WHERE x.id = $4) ON CONFLICT (key_id) DO UPDATE SET"
                   " allowed_ips = CASE WHEN $5::boolean THEN excluded.allowed_ips ELSE k.allowed_ips END,"
                   " servers = CASE WHEN $7::boolean THEN excluded.servers ELSE k.servers END,"
                   " tools = CASE WHEN $9::boolean THEN excluded.tools ELSE k.tools END,"
                   " environment = CASE WHEN $11::boolean THEN excluded.environment ELSE k.environment END" },
    { "key_enable", "UPDATE mcpgw.apikey SET enabled = $5::boolean, \"updatedAt\" = " NOW_MS " WHERE id = $4 AND " CLAIMED
                    " AND NOT ($5::boolean AND EXISTS (SELECT FROM mcpgw.key k WHERE k.key_id = $4 AND k.revoked_at IS NOT NULL))" },
    { "key_revoke", "INSERT INTO mcpgw.key AS k (key_id, created_by, revoked_at, revoked_reason)"
                    " SELECT $4, NULL, " NOW_MS ", $5 WHERE " CLAIMED " AND EXISTS (SELECT FROM mcpgw.apikey x WHERE x.id = $4)"
                    " ON CONFLICT (key_id) DO UPDATE SET revoked_reason = coalesce(k.revoked_reason, excluded.revoked_reason),"
                    " revoked_at = coalesce(k.revoked_at, excluded.revoked_at)" },
    { "key_delete", "DELETE FROM mcpgw.apikey WHERE id = $4 AND " CLAIMED },
    { "key_delete_side", "DELETE FROM mcpgw.key WHERE key_id = $4 AND " CLAIMED },

    { "server_lock", "SELECT FROM mcpgw.server WHERE slug = $1 FOR UPDATE" },
    { "server_get", SERVER_SELECT "WHERE slug = $1" },
    { "server_list", SERVER_SELECT "WHERE slug > $1 AND ($2::text IS NULL OR tenant_id IS NULL OR tenant_id = $2) ORDER BY slug LIMIT $3::int" },
    { "server_create", "INSERT INTO mcpgw.server (slug, url, name, tenant_id, enabled, upstream_auth, resource, second_factor, enforce,"
                       " created_at, updated_at) SELECT $4, $5, $6, $7, $8::boolean, $9, $10, $11::boolean, $12, " NOW_MS ", " NOW_MS
                       " WHERE " CLAIMED " ON CONFLICT DO NOTHING" },
    { "server_update", "UPDATE mcpgw.server SET updated_at = " NOW_MS ", url = coalesce($5, url), enabled = coalesce($6::boolean, enabled),"
                       " name = CASE WHEN $7::boolean THEN $8 ELSE name END, tenant_id = CASE WHEN $9::boolean THEN $10 ELSE tenant_id END,"
                       " upstream_auth = coalesce($11, upstream_auth), resource = CASE WHEN $12::boolean THEN $13 ELSE resource END,"
                       " second_factor = coalesce($14::boolean, second_factor), enforce = coalesce($15, enforce)"
                       " WHERE slug = $4 AND " CLAIMED },
    { "server_delete", "DELETE FROM mcpgw.server WHERE slug = $4 AND " CLAIMED },
    { "servers_page", "SELECT s.value, v.* FROM mcpgw.change_sequence s LEFT JOIN LATERAL (" SERVER_SELECT
                      "WHERE slug > $1 ORDER BY slug LIMIT $2::int) v ON true ORDER BY v.slug" },

    { "changes_after", "SELECT s.value, c.sequence, c.kind, c.key_id, c.user_id, c.tenant_id, c.server FROM mcpgw.change_sequence s"
                       " LEFT JOIN LATERAL (SELECT * FROM mcpgw.change x WHERE x.sequence > $1::bigint ORDER BY x.sequence LIMIT $2::int) c ON true"
                       " ORDER BY c.sequence" },
    { "status", "SELECT s.value, mcpgw.triggers_present(), (SELECT count(*) FROM mcpgw.outbox), (SELECT count(*) FROM mcpgw.apikey),"
                " (SELECT count(*) FROM mcpgw.server) FROM mcpgw.change_sequence s" },
    { "prune", "SELECT mcpgw.prune()" },
    { "drop_issuers", "SELECT mcpgw.drop_issuers($1)" },
    { "settle_uses", "SELECT mcpgw.settle_uses($1, $2::int)" },
    { NULL, NULL }
};

/* What the parts of the store prepare, put together once. */
static struct postgres_statement all_statements[STORE_STATEMENTS_MAX + 1];

static void gather_statements(void)
{
    static const struct postgres_statement *const tables[] = { statements, tenants_statements, users_statements,
                                                              key_life_statements, bulk_statements, import_statements,
                                                              reports_statements, entries_statements, tokens_statements };
    size_t count = 0;

    for (size_t i = 0; i < sizeof tables / sizeof tables[0]; i++) {
        for (const struct postgres_statement *row = tables[i]; row->name != NULL && count < STORE_STATEMENTS_MAX; row++)
            all_statements[count++] = *row;
    }
}

static void on_notify(void *owner, const char *channel, const char *payload)
{
    struct store *store = owner;

    (void)channel, (void)payload;
    store->options.on_change(store->options.owner);
}

static void on_state(void *owner, bool connected)
{
    struct store *store = owner;

    store->options.on_state(store->options.owner, connected);
}

enum err store_new(struct loop *loop, const struct store_options *options, struct store **ret_store)
{
    static const char *const channels[] = { "mcpgw_change", NULL };
    OWNED(store_destroy) struct store *store = calloc(1, sizeof *store);
    enum err err;

    if (store == NULL)
        return ERR_NO_MEMORY;
    store->options = *options;
    gather_statements();
    err = postgres_new(loop,
                       &(struct postgres_options){ .url = options->url,
                                                   .statements = all_statements,
                                                   .application_name = "mcpgw-keys",
                                                   .timeout_ms = STATEMENT_TIMEOUT_MS,
                                                   .listen = channels,
                                                   .on_notify = on_notify,
                                                   .on_state = on_state,
                                                   .owner = store },
                       &store->postgres);
    if (err != ERR_OK)
        return err;
    *ret_store = store;
    store = NULL;
    return ERR_OK;
}

void store_destroy(struct store **store)
{
    if (*store == NULL)
        return;
    postgres_destroy(&(*store)->postgres);
    free(*store);
    *store = NULL;
}

bool store_is_connected(const struct store *store)
{
    return postgres_is_connected(store->postgres);
}

/* ---- building calls ---------------------------------------------------------------------------- */

struct number number_of(uint64_t value)
{
    struct number number;

    snprintf(number.text, sizeof number.text, "%" PRIu64, value);
    return number;
}

const char *flag(bool value)
{
    return value ? "true" : "false";
}

const char *text_or_null(const char *text)
{
    return text[0] == '\0' ? NULL : text;
}

struct postgres_step *plan_add(struct plan *plan, const char *statement)
{
    struct postgres_step *step = &plan->steps[plan->count++];

    step->statement = statement;
    return step;
}

void step_value(struct postgres_step *step, const char *value)
{
    step->values[step->count++] = value;
}

/* What a change may be bound to: how its row is locked, and the claim that looks at its tag. */
struct binding { const char *lock, *claim; };

static struct binding binding_of(uint64_t operation)
{
    switch (operation) {
    case OPERATION_server_update:
    case OPERATION_server_delete:
        return (struct binding){ "server_lock", "server_claim" };
    case OPERATION_tenant_update:
    case OPERATION_tenant_suspend:
    case OPERATION_tenant_resume:
    case OPERATION_tenant_delete:
        return (struct binding){ "tenant_lock", "tenant_claim" };
    case OPERATION_key_rotate:
    case OPERATION_key_update:
    case OPERATION_key_enable:
    case OPERATION_key_disable:
    case OPERATION_key_revoke:
    case OPERATION_key_delete:
        return (struct binding){ "key_lock", "key_claim" };
    default:
        return (struct binding){ NULL, NULL };
    }
}

bool store_takes_tags(uint64_t operation)
{
    return binding_of(operation).lock != NULL;
}

void plan_begin(struct plan *plan, const struct store_actor *actor)
{
    const struct binding binding = binding_of(actor->operation);
    struct postgres_step *act = plan_add(plan, "act"), *claim;

    step_value(act, actor->event);
    step_value(act, actor->user_id);
    step_value(act, actor->key_id);
    step_value(act, actor->tenant_id);
    step_value(act, actor->request_id);
    step_value(act, actor->address);
    step_value(act, actor->reason);
    plan->operation = number_of(actor->operation);
    if (actor->if_match != NULL)
        step_value(plan_add(plan, binding.lock), actor->object);
    claim = plan_add(plan, actor->if_match != NULL ? binding.claim : "claim");
    step_value(claim, actor->user_id);
    step_value(claim, actor->claim_id);
    step_value(claim, actor->attempt);
    step_value(claim, plan->operation.text);
    step_value(claim, actor->fingerprint);
    step_value(claim, actor->object);
    if (actor->if_match != NULL)
        step_value(claim, actor->if_match);
}

void plan_lock_key(struct plan *plan, const struct store_actor *actor)
{
    if (actor->if_match == NULL)
        step_value(plan_add(plan, "key_lock"), actor->object);
}

struct postgres_step *plan_claimed(struct plan *plan, const char *statement, const struct store_actor *actor)
{
    struct postgres_step *step = plan_add(plan, statement);

    step_value(step, actor->user_id);
    step_value(step, actor->claim_id);
    step_value(step, actor->attempt);
    return step;
}

enum err plan_run(struct plan *plan, struct store *store, const struct store_actor *actor,
                         const char *object_statement, postgres_fn *fn, void *owner)
{
    struct postgres_step *effect, *object;
    const bool is_creation = strstr(object_statement, "_created") != NULL;

    plan_add(plan, "settle");
    effect = plan_add(plan, "effect");
    step_value(effect, actor->user_id);
    step_value(effect, actor->claim_id);
    object = plan_add(plan, object_statement);
    step_value(object, is_creation ? actor->user_id : actor->object);
    if (is_creation)
        step_value(object, actor->claim_id);
    return postgres_transaction(store->postgres, plan->steps, plan->count, fn, owner);
}

/* ---- reading ----------------------------------------------------------------------------------- */

enum err store_load_key(struct store *store, const struct store_actor *actor, postgres_fn *fn, void *owner)
{
    const struct postgres_step steps[] = {
        { .statement = "request_find", .count = 2, .values = { actor->user_id, actor->claim_id } },
        { .statement = "key_get", .count = 1, .values = { actor->object } },
    };

    return postgres_transaction(store->postgres, steps, 2, fn, owner);
}

enum err store_load_subject(struct store *store, const char *reference_id, const char *tenant_id, postgres_fn *fn,
                            void *owner)
{
    return postgres_call(store->postgres, &(struct postgres_step){
        .statement = "subject", .count = 2, .values = { reference_id, tenant_id } }, fn, owner);
}

enum err store_load_standing(struct store *store, const struct caller *caller, const char *key_id, postgres_fn *fn, void *owner)
{
    return postgres_call(store->postgres, &(struct postgres_step){
        .statement = "standing", .count = 3, .values = { caller->tenant_id, caller->user_id, key_id } }, fn, owner);
}

enum err store_list_keys(struct store *store, const struct caller *caller, const struct page_query *query,
                         postgres_fn *fn, void *owner)
{
    const struct number us = number_of(query->cursor_us), limit = number_of(query->limit + 1);
    const bool is_organization = strncmp(caller->user_id, "org:", 4) == 0;
    struct postgres_step step = {
        .statement = "key_list_all", .count = 7,
        .values = { query->cursor, us.text, limit.text, text_or_null(query->name), text_or_null(query->state),
                    text_or_null(query->user_id), text_or_null(query->to) },
    };

    if (keys_is_operator(caller) && query->tenant_id[0] != '\0') {
        step.statement = "key_list_tenant";
        step.values[step.count++] = query->tenant_id;
    } else if (keys_is_administrator(caller) && !keys_is_operator(caller)) {
        step.statement = "key_list_tenant";
        step.values[step.count++] = caller->tenant_id;
    } else if (!keys_is_operator(caller)) {
        step.statement = "key_list_own";
        step.values[step.count++] = is_organization ? caller->user_id + 4 : caller->user_id;
        step.values[step.count++] = flag(is_organization);
        step.values[step.count++] = caller->is_key ? caller->tenant_id : NULL;
    }
    return postgres_call(store->postgres, &step, fn, owner);
}

enum err store_find_digest(struct store *store, const char *digest, postgres_fn *fn, void *owner)
{
    return postgres_call(store->postgres,
                         &(struct postgres_step){ .statement = "key_find", .count = 1, .values = { digest } }, fn,
                         owner);
}

enum err store_load_server(struct store *store, const struct store_actor *actor, postgres_fn *fn, void *owner)
{
    const struct postgres_step steps[] = {
        { .statement = "request_find", .count = 2, .values = { actor->user_id, actor->claim_id } },
        { .statement = "server_get", .count = 1, .values = { actor->object } },
    };

    return postgres_transaction(store->postgres, steps, 2, fn, owner);
}

enum err store_list_servers(struct store *store, const char *tenant_id, const struct page_query *query, postgres_fn *fn,
                            void *owner)
{
    const struct number limit = number_of(query->limit + 1);

    return postgres_call(store->postgres, &(struct postgres_step){
        .statement = "server_list", .count = 3, .values = { query->cursor, tenant_id, limit.text } }, fn, owner);
}

enum err store_status(struct store *store, postgres_fn *fn, void *owner)
{
    return postgres_call(store->postgres, &(struct postgres_step){ .statement = "status" }, fn, owner);
}

enum err store_settle_uses(struct store *store, const char *limits, postgres_fn *fn, void *owner)
{
    const struct number batches = number_of(STORE_SETTLE_BATCHES);

    return postgres_call(store->postgres, &(struct postgres_step){
        .statement = "settle_uses", .count = 2, .values = { limits, batches.text } }, fn, owner);
}

enum err store_drop_issuers(struct store *store, const char *names, postgres_fn *fn, void *owner)
{
    return postgres_call(store->postgres,
                         &(struct postgres_step){ .statement = "drop_issuers", .count = 1, .values = { names } }, fn, owner);
}

enum err store_prune(struct store *store, postgres_fn *fn, void *owner)
{
    return postgres_call(store->postgres, &(struct postgres_step){ .statement = "prune" }, fn, owner);
}

/* ---- changing ---------------------------------------------------------------------------------- */

struct rate_texts {
    struct number window_ms, requests;
    bool is_set;
};

static struct rate_texts rate_of(const struct key_fields *fields)
{
    return (struct rate_texts){ .window_ms = number_of(fields->rate_window_s * 1000),
                                .requests = number_of(fields->rate_requests),
                                .is_set = fields->rate_requests != 0 };
}

enum err store_create_key(struct store *store, const struct store_actor *actor, const struct key_creation *creation,
                          postgres_fn *fn, void *owner)
{
    const struct key_fields *fields = creation->fields;
    const struct number expiry = number_of(fields->expires_in_s);
    const struct rate_texts rate = rate_of(fields);
    struct plan plan = { .count = 0 };
    struct postgres_step *step;

    plan_begin(&plan, actor);
    step = plan_claimed(&plan, "key_create", actor);
    step_value(step, actor->object);
    step_value(step, text_or_null(fields->name));
    step_value(step, creation->start);
    step_value(step, creation->reference_id);
    step_value(step, creation->digest);
    step_value(step, flag(rate.is_set));
    step_value(step, rate.is_set ? rate.window_ms.text : NULL);
    step_value(step, rate.is_set ? rate.requests.text : NULL);
    step_value(step, fields->expires_in_s == 0 ? NULL : expiry.text);
    step_value(step, creation->permissions);
    step_value(step, fields->metadata);
    step_value(step, creation->prefix);

    step = plan_claimed(&plan, "key_create_side", actor);
    step_value(step, actor->object);
    step_value(step, creation->tenant_id);
    step_value(step, fields->reach.limits_addresses ? fields->reach.addresses : NULL);
    step_value(step, fields->reach.limits_servers ? fields->reach.servers : NULL);
    step_value(step, fields->reach.limits_tools ? fields->reach.tools : NULL);
    step_value(step, text_or_null(fields->reach.environment));

    step = plan_claimed(&plan, "key_replace", actor);
    step_value(step, actor->fingerprint);
    step_value(step, creation->digest);
    step_value(step, creation->start);
    step_value(step, creation->permissions);
    step_value(step, creation->reference_id);
    step_value(step, rate.is_set ? rate.window_ms.text : NULL);
    step_value(step, rate.is_set ? rate.requests.text : NULL);
    step_value(step, fields->expires_in_s == 0 ? NULL : expiry.text);
    step_value(step, fields->reach.limits_addresses ? fields->reach.addresses : NULL);
    step_value(step, fields->reach.limits_servers ? fields->reach.servers : NULL);
    step_value(step, fields->reach.limits_tools ? fields->reach.tools : NULL);
    step_value(plan_claimed(&plan, "check_key_count", actor), creation->ruling_tenant);
    return plan_run(&plan, store, actor, "key_created", fn, owner);
}

static void plan_reach(struct plan *plan, const struct store_actor *actor, const struct key_reach *reach)
{
    struct postgres_step *step = plan_claimed(plan, "key_reach", actor);

    step_value(step, actor->object);
    step_value(step, flag(reach->has_addresses));
    step_value(step, reach->limits_addresses ? reach->addresses : NULL);
    step_value(step, flag(reach->has_servers));
    step_value(step, reach->limits_servers ? reach->servers : NULL);
    step_value(step, flag(reach->has_tools));
    step_value(step, reach->limits_tools ? reach->tools : NULL);
    step_value(step, flag(reach->has_environment));
    step_value(step, text_or_null(reach->environment));
}

enum err store_update_key(struct store *store, const struct store_actor *actor, const struct key_update *update,
                          postgres_fn *fn, void *owner)
{
    const struct key_fields *fields = update->fields;
    const struct number expiry = number_of(fields->expires_in_s);
    const struct rate_texts rate = rate_of(fields);
    struct plan plan = { .count = 0 };
    struct postgres_step *step;

    plan_begin(&plan, actor);
    plan_lock_key(&plan, actor);
    if (fields->has_expiry) {
        step = plan_claimed(&plan, "check_key_room", actor);
        step_value(step, update->ruling_tenant);
        step_value(step, actor->object);
    }
    step = plan_claimed(&plan, "key_update", actor);
    step_value(step, actor->object);
    step_value(step, flag(fields->has_name));
    step_value(step, text_or_null(fields->name));
    step_value(step, fields->has_scopes ? update->permissions : NULL);
    step_value(step, flag(fields->has_expiry));
    step_value(step, fields->expires_in_s == 0 ? NULL : expiry.text);
    step_value(step, flag(fields->has_rate));
    step_value(step, rate.is_set ? rate.window_ms.text : NULL);
    step_value(step, rate.is_set ? rate.requests.text : NULL);
    step_value(step, fields->has_metadata ? fields->metadata : NULL);
    if (keys_has_reach(&fields->reach))
        plan_reach(&plan, actor, &fields->reach);
    return plan_run(&plan, store, actor, "key_get", fn, owner);
}

enum err store_enable_key(struct store *store, const struct store_actor *actor, bool enabled, postgres_fn *fn,
                          void *owner)
{
    struct plan plan = { .count = 0 };
    struct postgres_step *step;

    plan_begin(&plan, actor);
    plan_lock_key(&plan, actor);
    step = plan_claimed(&plan, "key_enable", actor);
    step_value(step, actor->object);
    step_value(step, flag(enabled));
    return plan_run(&plan, store, actor, "key_get", fn, owner);
}

enum err store_revoke_key(struct store *store, const struct store_actor *actor, postgres_fn *fn, void *owner)
{
    struct plan plan = { .count = 0 };
    struct postgres_step *step;

    plan_begin(&plan, actor);
    plan_lock_key(&plan, actor);
    step = plan_claimed(&plan, "key_enable", actor);
    step_value(step, actor->object);
    step_value(step, flag(false));
    step = plan_claimed(&plan, "key_revoke", actor);
    step_value(step, actor->object);
    step_value(step, text_or_null(actor->reason));
    return plan_run(&plan, store, actor, "key_get", fn, owner);
}

enum err store_delete_key(struct store *store, const struct store_actor *actor, postgres_fn *fn, void *owner)
{
    struct plan plan = { .count = 0 };

    plan_begin(&plan, actor);
    plan_lock_key(&plan, actor);
    step_value(plan_claimed(&plan, "key_delete", actor), actor->object);
    step_value(plan_claimed(&plan, "key_delete_side", actor), actor->object);
    return plan_run(&plan, store, actor, "key_get", fn, owner);
}

enum err store_create_server(struct store *store, const struct store_actor *actor, const struct server_fields *fields,
                             postgres_fn *fn, void *owner)
{
    struct plan plan = { .count = 0 };
    struct postgres_step *step;

    plan_begin(&plan, actor);
    step = plan_claimed(&plan, "server_create", actor);
    step_value(step, actor->object);
    step_value(step, fields->url);
    step_value(step, text_or_null(fields->name));
    step_value(step, text_or_null(fields->tenant_id));
    step_value(step, flag(fields->enabled));
    step_value(step, fields->own_auth ? "own" : "gateway");
    step_value(step, text_or_null(fields->resource));
    step_value(step, flag(fields->second_factor));
    step_value(step, fields->observes ? "observe" : "on");
    return plan_run(&plan, store, actor, "server_get", fn, owner);
}

enum err store_update_server(struct store *store, const struct store_actor *actor, const struct server_fields *fields,
                             postgres_fn *fn, void *owner)
{
    struct plan plan = { .count = 0 };
    struct postgres_step *step;

    plan_begin(&plan, actor);
    step = plan_claimed(&plan, "server_update", actor);
    step_value(step, actor->object);
    step_value(step, fields->has_url ? fields->url : NULL);
    step_value(step, fields->has_enabled ? flag(fields->enabled) : NULL);
    step_value(step, flag(fields->has_name));
    step_value(step, text_or_null(fields->name));
    step_value(step, flag(fields->has_tenant));
    step_value(step, text_or_null(fields->tenant_id));
    step_value(step, !fields->has_upstream_auth ? NULL : fields->own_auth ? "own" : "gateway");
    step_value(step, flag(fields->has_resource));
    step_value(step, text_or_null(fields->resource));
    step_value(step, fields->has_factor ? flag(fields->second_factor) : NULL);
    step_value(step, !fields->has_enforce ? NULL : fields->observes ? "observe" : "on");
    return plan_run(&plan, store, actor, "server_get", fn, owner);
}

enum err store_delete_server(struct store *store, const struct store_actor *actor, postgres_fn *fn, void *owner)
{
    struct plan plan = { .count = 0 };

    plan_begin(&plan, actor);
    step_value(plan_claimed(&plan, "server_delete", actor), actor->object);
    return plan_run(&plan, store, actor, "server_get", fn, owner);
}

/* ---- rows -------------------------------------------------------------------------------------- */

void store_read_effect(PGresult *const *results, size_t count, const struct store_actor *actor,
                       struct store_effect *ret_effect)
{
    const PGresult *effect = results[count - 2];
    const bool is_ours = strcmp(postgres_text(effect, 0, 3), actor->attempt) == 0;
    const bool is_same = strcmp(postgres_text(effect, 0, 2), actor->fingerprint) == 0;

    const bool is_unmatched = actor->if_match != NULL && postgres_text(effect, 0, 3)[0] == '\0';

    *ret_effect = (struct store_effect){ .sequence = (uint64_t)postgres_i64(effect, 0, 0), .is_repeat = !is_ours && is_same,
                                         .is_foreign = !is_ours && !is_same && !is_unmatched, .is_unmatched = is_unmatched };
    snprintf(ret_effect->object, sizeof ret_effect->object, "%s", postgres_text(effect, 0, 4));
}

bool store_has_changed(PGresult *const *results, const struct store_actor *actor)
{
    return strcmp(PQcmdTuples(results[actor->if_match != NULL ? 3 : 2]), "0") != 0;
}

const PGresult *store_object_rows(PGresult *const *results, size_t count)
{
    return results[count - 1];
}

bool store_read_key(const PGresult *rows, int row, struct key_row *ret_key)
{
    if (row >= PQntuples(rows))
        return false;
#define TEXT(column) postgres_text(rows, row, KEY_##column)
    *ret_key = (struct key_row){
        .id = TEXT(id), .name = TEXT(name), .start = TEXT(start), .prefix = TEXT(prefix), .permissions = TEXT(permissions),
        .metadata = TEXT(metadata), .expires_at = TEXT(expires_at), .created_at = TEXT(created_at), .updated_at = TEXT(updated_at),
        .last_used_at = TEXT(last_used_at), .revoked_at = TEXT(revoked_at), .revoked_reason = TEXT(revoked_reason),
        .created_by = TEXT(created_by), .cursor = TEXT(cursor),
        .addresses = TEXT(addresses), .servers = TEXT(servers), .tools = TEXT(tools), .environment = TEXT(environment),
        .etag = TEXT(etag),
        .has_rate = postgres_flag(rows, row, KEY_has_rate), .rate_max = postgres_i64(rows, row, KEY_rate_max),
        .rate_window_ms = postgres_i64(rows, row, KEY_rate_window),
        .facts = {
            .reference_id = TEXT(reference_id), .side_tenant_id = TEXT(side_tenant_id), .organization_id = TEXT(organization_id),
            .enabled = postgres_flag(rows, row, KEY_enabled), .revoked = postgres_flag(rows, row, KEY_revoked),
            .expired = postgres_flag(rows, row, KEY_expired), .is_organization = postgres_flag(rows, row, KEY_is_organization),
            .owner_exists = postgres_flag(rows, row, KEY_owner_exists), .owner_banned = postgres_flag(rows, row, KEY_owner_banned),
            .owner_left = postgres_flag(rows, row, KEY_owner_left),
            .organization_count = (uint64_t)postgres_i64(rows, row, KEY_organization_count),
            .tenant_suspended = postgres_flag(rows, row, KEY_tenant_suspended),
            .spent = postgres_flag(rows, row, KEY_spent),
        },
    };
#undef TEXT
    return true;
}

static void read_server(const PGresult *rows, int row, int first, struct server_row *ret_server)
{
    *ret_server = (struct server_row){
        .slug = postgres_text(rows, row, first),
        .url = postgres_text(rows, row, first + 1),
        .name = postgres_text(rows, row, first + 2),
        .tenant_id = postgres_text(rows, row, first + 3),
        .enabled = postgres_flag(rows, row, first + 4),
        .created_at = postgres_text(rows, row, first + 5),
        .updated_at = postgres_text(rows, row, first + 6),
        .upstream_auth = postgres_text(rows, row, first + 7),
        .resource = postgres_text(rows, row, first + 8),
        .second_factor = postgres_flag(rows, row, first + 9),
        .enforce = postgres_text(rows, row, first + 10),
        .etag = postgres_text(rows, row, first + 11),
    };
}

bool store_read_server(const PGresult *rows, int row, struct server_row *ret_server)
{
    if (row >= PQntuples(rows))
        return false;
    read_server(rows, row, 0, ret_server);
    return true;
}

bool store_read_page_server(const PGresult *rows, int row, struct server_row *ret_server)
{
    if (row >= PQntuples(rows) || PQgetisnull(rows, row, 1))
        return false;
    read_server(rows, row, 1, ret_server);
    return true;
}

void store_read_request(const PGresult *rows, struct store_request *ret_request)
{
    *ret_request = (struct store_request){ .is_known = PQntuples(rows) > 0,
                                           .operation = (uint64_t)postgres_i64(rows, 0, 0),
                                           .fingerprint = postgres_text(rows, 0, 1),
                                           .object = postgres_text(rows, 0, 2) };
}

void store_read_subject(const PGresult *rows, struct store_subject *ret_subject)
{
    *ret_subject = (struct store_subject){
        .is_user = postgres_flag(rows, 0, 0),
        .is_banned = postgres_flag(rows, 0, 1),
        .is_organization = postgres_flag(rows, 0, 2),
        .organization_count = (uint64_t)postgres_i64(rows, 0, 3),
        .organization_id = postgres_text(rows, 0, 4),
        .is_member = postgres_flag(rows, 0, 5),
    };
}

void store_read_standing(const PGresult *rows, struct standing *ret_standing)
{
    *ret_standing = (struct standing){
        .is_organization = postgres_flag(rows, 0, 0), .role = postgres_text(rows, 0, 1), .key_is_alive = postgres_flag(rows, 0, 2),
        .key_is_metered = postgres_flag(rows, 0, 3), .key_limits_addresses = postgres_flag(rows, 0, 4),
        .key_limits_names = postgres_flag(rows, 0, 5), .key_has_rate = postgres_flag(rows, 0, 6),
        .key_expires_at = postgres_text(rows, 0, 7), .key_addresses = postgres_text(rows, 0, 8),
        .key_life_s = postgres_i64(rows, 0, 9), .key_rate_max = postgres_i64(rows, 0, 10),
        .key_rate_window_ms = postgres_i64(rows, 0, 11),
    };
}

/* ---- the feed ---------------------------------------------------------------------------------- */

enum err store_read_changes_after(struct store *store, uint64_t since, postgres_fn *fn, void *owner)
{
    const struct number after = number_of(since), limit = number_of(STORE_CHANGES_MAX);

    return postgres_call(store->postgres, &(struct postgres_step){
        .statement = "changes_after", .count = 2, .values = { after.text, limit.text } }, fn, owner);
}

uint64_t store_read_sequence(const PGresult *rows)
{
    return (uint64_t)postgres_i64(rows, 0, 0);
}

bool store_read_change(const PGresult *rows, int row, struct change_row *ret_change)
{
    if (row >= PQntuples(rows) || PQgetisnull(rows, row, 1))
        return false;
    *ret_change = (struct change_row){
        .sequence = (uint64_t)postgres_i64(rows, row, 1), .kind = (uint64_t)postgres_i64(rows, row, 2),
        .key_id = postgres_text(rows, row, 3), .user_id = postgres_text(rows, row, 4),
        .tenant_id = postgres_text(rows, row, 5), .server = postgres_text(rows, row, 6),
    };
    return true;
}

enum err store_load_servers_page(struct store *store, const char *after, postgres_fn *fn, void *owner)
{
    const struct number limit = number_of(STORE_SERVERS_MAX + 1);

    return postgres_call(store->postgres, &(struct postgres_step){
        .statement = "servers_page", .count = 2, .values = { after, limit.text } }, fn, owner);
}
