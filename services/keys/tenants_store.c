/* tenants_store.c - all SQL about tenants. */
#include "services/keys/tenants_store.h"

#include <string.h>

#include "services/keys/store_plan.h"

/* What people see of a tenant and may have changed: both what is read and what its tag stands for. */
#define TENANT_FACTS \
    "id, slug, name, state, suspended_reason, is_organization, max_life_s, max_keys, scopes, rotate_after_s, idle_after_s, " \
    "limit_requests, limit_window_s, user_limit_requests, user_limit_window_s, key_prefix"
#define TENANT_TAG "md5(ROW(" TENANT_FACTS ")::text)"
#define TENANT_COLUMNS TENANT_FACTS ", " MOMENT("created_at") ", " MOMENT("updated_at") ", " TENANT_TAG
enum tenant_column {
    TENANT_id, TENANT_slug, TENANT_name, TENANT_state, TENANT_suspended_reason, TENANT_is_organization, TENANT_max_life_s,
    TENANT_max_keys, TENANT_scopes, TENANT_rotate_after_s, TENANT_idle_after_s, TENANT_limit_requests, TENANT_limit_window_s, TENANT_user_limit_requests,
    TENANT_user_limit_window_s, TENANT_key_prefix, TENANT_created_at, TENANT_updated_at, TENANT_etag
};
/* A number of the policy: is it named, and what it is from now on. */
#define POLICY(column, type, named, value) column " = CASE WHEN " named "::boolean THEN " value "::" type " ELSE " column " END"

const struct postgres_statement tenants_statements[] = {
    { "tenant_lock", "SELECT FROM mcpgw.tenant WHERE id = $1 FOR UPDATE" },
    { "tenant_claim", CLAIM_IF("mcpgw.tenant WHERE id = $6", TENANT_TAG) },
    { "tenant_get", "SELECT " TENANT_COLUMNS " FROM mcpgw.tenant WHERE id = $1" },
    { "tenant_list", "SELECT " TENANT_COLUMNS " FROM mcpgw.tenant WHERE slug > $1 AND ($2::text IS NULL OR id = $2) ORDER BY slug LIMIT $3::int" },
    { "tenant_created", "SELECT " TENANT_COLUMNS " FROM mcpgw.tenant"
                        " WHERE id = (SELECT r.object FROM mcpgw.request r WHERE r.user_id = $1 AND r.request_id = $2)" },
    { "tenant_create", "INSERT INTO mcpgw.tenant (id, slug, name, max_life_s, max_keys, scopes, rotate_after_s, idle_after_s, is_organization,"
                       " limit_requests, limit_window_s, user_limit_requests, user_limit_window_s, key_prefix, created_at, updated_at)"
                       " SELECT $4, $5, $6, $7::bigint, $8::int, $9, $10::bigint, $11::bigint,"
                       " EXISTS (SELECT FROM public.organization o WHERE o.id = $4), $12::int, $13::int, $14::int, $15::int, $16, " NOW_MS ", " NOW_MS " WHERE " CLAIMED " ON CONFLICT DO NOTHING" },
    { "tenant_update", "UPDATE mcpgw.tenant SET updated_at = " NOW_MS ", slug = coalesce($5, slug), name = CASE WHEN $6::boolean THEN $7 ELSE name END, "
                       POLICY("max_life_s", "bigint", "$8", "$9") ", " POLICY("max_keys", "int", "$10", "$11") ", "
                       POLICY("scopes", "text", "$12", "$13") ", " POLICY("rotate_after_s", "bigint", "$14", "$15") ", "
                       POLICY("idle_after_s", "bigint", "$16", "$17") ", "
                       POLICY("limit_requests", "int", "$18", "$19") ", " POLICY("limit_window_s", "int", "$18", "$20") ", "
                       POLICY("user_limit_requests", "int", "$21", "$22") ", " POLICY("user_limit_window_s", "int", "$21", "$23") ", "
                       POLICY("key_prefix", "text", "$24", "$25")
                       " WHERE id = $4 AND " CLAIMED " AND NOT EXISTS (SELECT FROM mcpgw.tenant t WHERE t.slug = $5 AND t.id <> $4)" },
    { "tenant_set_state", "UPDATE mcpgw.tenant SET state = $5, suspended_reason = $6, updated_at = " NOW_MS
                          " WHERE id = $4 AND state <> $5 AND " CLAIMED },
    { "tenant_delete", "DELETE FROM mcpgw.tenant WHERE id = $4 AND " CLAIMED
                       " AND NOT EXISTS (SELECT FROM public.organization o WHERE o.id = $4)"
                       " AND NOT EXISTS (SELECT FROM mcpgw.apikey a WHERE a.\"referenceId\" = $4)"
                       " AND NOT EXISTS (SELECT FROM mcpgw.apikey a WHERE $4 LIKE 'user:%' AND a.\"referenceId\" = substr($4, 6))"
                       " AND NOT EXISTS (SELECT FROM mcpgw.key k JOIN mcpgw.apikey a ON a.id = k.key_id WHERE k.tenant_id = $4)"
                       " AND NOT EXISTS (SELECT FROM mcpgw.server s WHERE s.tenant_id = $4)" },
    { NULL, NULL }
};

enum err store_load_tenant(struct store *store, const char *id, postgres_fn *fn, void *owner)
{
    return postgres_call(store->postgres, &(struct postgres_step){ .statement = "tenant_get", .count = 1, .values = { id } },
                         fn, owner);
}

enum err store_list_tenants(struct store *store, const char *id, const struct page_query *query, postgres_fn *fn, void *owner)
{
    const struct number limit = number_of(query->limit + 1);

    return postgres_call(store->postgres, &(struct postgres_step){
        .statement = "tenant_list", .count = 3, .values = { query->cursor, id, limit.text } }, fn, owner);
}

/* The statement's values are read when the plan runs, so the texts must outlive this. */
static void add_number(struct postgres_step *step, uint64_t number, struct number *room)
{
    *room = number_of(number);
    step_value(step, number == 0 ? NULL : room->text);
}

static void add_rule(struct postgres_step *step, const struct policy_number *number, struct number *room)
{
    step_value(step, flag(number->is_set));
    add_number(step, number->value, room);
}

static void add_limit(struct postgres_step *step, const struct tenant_limit *limit, struct number rooms[2])
{
    add_number(step, limit->requests, &rooms[0]);
    add_number(step, limit->window_s, &rooms[1]);
}

enum err store_create_tenant(struct store *store, const struct store_actor *actor, const struct tenant_fields *fields,
                             postgres_fn *fn, void *owner)
{
    struct plan plan = { .count = 0 };
    struct number rooms[8];
    struct postgres_step *step;

    plan_begin(&plan, actor);
    step = plan_claimed(&plan, "tenant_create", actor);
    step_value(step, actor->object);
    step_value(step, fields->slug);
    step_value(step, text_or_null(fields->name));
    add_number(step, fields->max_key_life_s.value, &rooms[0]);
    add_number(step, fields->max_keys.value, &rooms[1]);
    step_value(step, text_or_null(fields->scopes));
    add_number(step, fields->rotate_after_s.value, &rooms[2]);
    add_number(step, fields->idle_after_s.value, &rooms[3]);
    add_limit(step, &fields->limit, &rooms[4]);
    add_limit(step, &fields->user_limit, &rooms[6]);
    step_value(step, text_or_null(fields->key_prefix));
    return plan_run(&plan, store, actor, "tenant_created", fn, owner);
}

enum err store_update_tenant(struct store *store, const struct store_actor *actor, const struct tenant_fields *fields,
                             postgres_fn *fn, void *owner)
{
    struct plan plan = { .count = 0 };
    struct number rooms[8];
    struct postgres_step *step;

    plan_begin(&plan, actor);
    step = plan_claimed(&plan, "tenant_update", actor);
    step_value(step, actor->object);
    step_value(step, fields->has_slug ? fields->slug : NULL);
    step_value(step, flag(fields->has_name));
    step_value(step, text_or_null(fields->name));
    add_rule(step, &fields->max_key_life_s, &rooms[0]);
    add_rule(step, &fields->max_keys, &rooms[1]);
    step_value(step, flag(fields->has_scopes));
    step_value(step, text_or_null(fields->scopes));
    add_rule(step, &fields->rotate_after_s, &rooms[2]);
    add_rule(step, &fields->idle_after_s, &rooms[3]);
    step_value(step, flag(fields->limit.is_set));
    add_limit(step, &fields->limit, &rooms[4]);
    step_value(step, flag(fields->user_limit.is_set));
    add_limit(step, &fields->user_limit, &rooms[6]);
    step_value(step, flag(fields->has_prefix));
    step_value(step, text_or_null(fields->key_prefix));
    return plan_run(&plan, store, actor, "tenant_get", fn, owner);
}

enum err store_suspend_tenant(struct store *store, const struct store_actor *actor, bool is_suspended, postgres_fn *fn,
                              void *owner)
{
    struct plan plan = { .count = 0 };
    struct postgres_step *step;

    plan_begin(&plan, actor);
    step = plan_claimed(&plan, "tenant_set_state", actor);
    step_value(step, actor->object);
    step_value(step, is_suspended ? "suspended" : "active");
    step_value(step, is_suspended ? text_or_null(actor->reason) : NULL);
    return plan_run(&plan, store, actor, "tenant_get", fn, owner);
}

enum err store_delete_tenant(struct store *store, const struct store_actor *actor, postgres_fn *fn, void *owner)
{
    struct plan plan = { .count = 0 };

    plan_begin(&plan, actor);
    step_value(plan_claimed(&plan, "tenant_delete", actor), actor->object);
    return plan_run(&plan, store, actor, "tenant_get", fn, owner);
}

bool store_read_tenant(const PGresult *rows, int row, struct tenant_row *ret_tenant)
{
    if (row >= PQntuples(rows))
        return false;
#define TEXT(column) postgres_text(rows, row, TENANT_##column)
    *ret_tenant = (struct tenant_row){
        .id = TEXT(id), .slug = TEXT(slug), .name = TEXT(name), .suspended_reason = TEXT(suspended_reason),
        .scopes = TEXT(scopes), .key_prefix = TEXT(key_prefix), .created_at = TEXT(created_at), .updated_at = TEXT(updated_at), .etag = TEXT(etag),
        .is_suspended = strcmp(TEXT(state), "suspended") == 0,
        .is_organization = postgres_flag(rows, row, TENANT_is_organization),
        .max_life_s = postgres_i64(rows, row, TENANT_max_life_s), .max_keys = postgres_i64(rows, row, TENANT_max_keys),
        .rotate_after_s = postgres_i64(rows, row, TENANT_rotate_after_s),
        .idle_after_s = postgres_i64(rows, row, TENANT_idle_after_s),
        .limit_requests = postgres_i64(rows, row, TENANT_limit_requests),
        .limit_window_s = postgres_i64(rows, row, TENANT_limit_window_s),
        .user_limit_requests = postgres_i64(rows, row, TENANT_user_limit_requests),
        .user_limit_window_s = postgres_i64(rows, row, TENANT_user_limit_window_s),
    };
#undef TEXT
    return true;
}
