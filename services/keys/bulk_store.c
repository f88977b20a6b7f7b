/* bulk_store.c - all SQL about many keys at once. */
#include "services/keys/bulk_store.h"

#include "services/keys/store_plan.h"

/* Each way to keys has an index; the rest of the filter is tried on what it finds. */
#define PICK(source) \
    "SELECT c.key_id, a.permissions FROM mcpgw.apikey a JOIN mcpgw.credential c ON c.key_id = a.id WHERE " source \
    " AND ($2::text IS NULL OR c.tenant_id = $2) AND ($3::text IS NULL OR c.tenant_id = $3)" \
    " AND ($4::text IS NULL OR c.reference_id = $4) AND ($5::text IS NULL OR (c.reference_id = $5 AND c.is_organization = $6::boolean))" \
    " AND ($7::text IS NULL OR a.name = $7) AND ($8::timestamptz IS NULL OR a.\"createdAt\" < $8::timestamptz)" \
    " AND ($9::timestamptz IS NULL OR a.\"expiresAt\" < $9::timestamptz)" \
    " AND ($10::float8 IS NULL OR coalesce(a.\"lastRequest\", a.\"createdAt\") < now() - make_interval(secs => $10::float8))" \
    " AND CASE $11 WHEN 'revoke' THEN NOT c.revoked WHEN 'enable' THEN NOT coalesce(a.enabled, true) AND NOT c.revoked" \
    "              WHEN 'disable' THEN coalesce(a.enabled, true) AND NOT c.revoked ELSE true END" \
    " ORDER BY c.key_id LIMIT $12::int"
#define GIVEN "id = ANY ($4::text[]) AND " CLAIMED

const struct postgres_statement bulk_statements[] = {
    { "bulk_pick_ids", PICK("a.id = ANY ($1::text[])") },
    { "bulk_pick_owner", PICK("a.\"referenceId\" = $1") },
    { "bulk_pick_tenant", PICK("a.id IN (SELECT y.id FROM mcpgw.apikey y WHERE y.\"referenceId\" = $1 OR y.\"referenceId\" = substr($1, 6)"
                               " UNION SELECT y.key_id FROM mcpgw.key y WHERE y.tenant_id = $1"
                               " UNION SELECT y.id FROM public.member z JOIN mcpgw.apikey y ON y.\"referenceId\" = z.\"userId\""
                               "       WHERE z.\"organizationId\" = $1)") },
    { "bulk_pick_all", PICK("$1::text IS NULL") },
    /* In one order, so that two calls wait for each other and do not meet crosswise. */
    { "bulk_lock", "SELECT FROM mcpgw.apikey WHERE id = ANY ($1::text[]) ORDER BY id FOR UPDATE" },
    { "bulk_disable", "UPDATE mcpgw.apikey SET enabled = false, \"updatedAt\" = " NOW_MS " WHERE " GIVEN " RETURNING id" },
    { "bulk_enable", "UPDATE mcpgw.apikey SET enabled = true, \"updatedAt\" = " NOW_MS " WHERE " GIVEN
                     " AND NOT EXISTS (SELECT FROM mcpgw.key k WHERE k.key_id = apikey.id AND k.revoked_at IS NOT NULL) RETURNING id" },
    /* Row by row, so that both changes of a key follow each other and are told as one. */
    { "bulk_revoke", "WITH off AS (UPDATE mcpgw.apikey SET enabled = false, \"updatedAt\" = " NOW_MS " WHERE " GIVEN " RETURNING id)"
                     " INSERT INTO mcpgw.key AS k (key_id, created_by, revoked_at, revoked_reason)"
                     " SELECT off.id, NULL, " NOW_MS ", $5 FROM off"
                     " ON CONFLICT (key_id) DO UPDATE SET revoked_reason = coalesce(k.revoked_reason, excluded.revoked_reason),"
                     " revoked_at = coalesce(k.revoked_at, excluded.revoked_at) RETURNING key_id" },
    { "bulk_delete", "DELETE FROM mcpgw.apikey WHERE " GIVEN " RETURNING id" },
    { "bulk_delete_side", "DELETE FROM mcpgw.key WHERE key_id = ANY ($4::text[]) AND " CLAIMED },
    { "bulk_object", "SELECT $1::text" },
    { NULL, NULL }
};

enum err store_pick_keys(struct store *store, const struct bulk_fields *fields, const struct bulk_reach *reach,
                         const char *ids, postgres_fn *fn, void *owner)
{
    const struct number unused = number_of(fields->unused_for_s), limit = number_of(fields->limit + 1);
    const char *tenant = text_or_null(fields->tenant_id), *user = text_or_null(fields->user_id);
    struct postgres_step step = { .statement = "bulk_pick_all" };
    const char *source = NULL;

    if (ids != NULL) {
        step.statement = "bulk_pick_ids";
        source = ids;
    } else if (user != NULL || reach->reference_id != NULL) {
        step.statement = "bulk_pick_owner";
        source = user != NULL ? user : reach->reference_id;
    } else if (tenant != NULL || reach->tenant_id != NULL) {
        step.statement = "bulk_pick_tenant";
        source = tenant != NULL ? tenant : reach->tenant_id;
    }
    step_value(&step, source);
    step_value(&step, tenant);
    step_value(&step, reach->tenant_id);
    step_value(&step, user);
    step_value(&step, reach->reference_id);
    step_value(&step, flag(reach->is_organization));
    step_value(&step, text_or_null(fields->name));
    step_value(&step, text_or_null(fields->created_before));
    step_value(&step, text_or_null(fields->expires_before));
    step_value(&step, fields->unused_for_s == 0 ? NULL : unused.text);
    step_value(&step, bulk_action_text(fields->action));
    step_value(&step, limit.text);
    return postgres_call(store->postgres, &step, fn, owner);
}

static void add_change(struct plan *plan, const struct store_actor *actor, const char *statement, const char *ids)
{
    step_value(plan_claimed(plan, statement, actor), ids);
}

enum err store_change_keys(struct store *store, const struct store_actor *actor, enum bulk_action action, const char *ids,
                           postgres_fn *fn, void *owner)
{
    struct plan plan = { .count = 0 };
    struct postgres_step *step;

    plan_begin(&plan, actor);
    step_value(plan_add(&plan, "bulk_lock"), ids);
    switch (action) {
    case BULK_ENABLE:
        add_change(&plan, actor, "bulk_enable", ids);
        break;
    case BULK_DELETE:
        add_change(&plan, actor, "bulk_delete", ids);
        add_change(&plan, actor, "bulk_delete_side", ids);
        break;
    case BULK_REVOKE:
        step = plan_claimed(&plan, "bulk_revoke", actor);
        step_value(step, ids);
        step_value(step, text_or_null(actor->reason));
        break;
    case BULK_DISABLE:
    default:
        add_change(&plan, actor, "bulk_disable", ids);
        break;
    }
    return plan_run(&plan, store, actor, "bulk_object", fn, owner);
}
