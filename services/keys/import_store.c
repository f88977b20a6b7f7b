/* import_store.c - all SQL of an import. */
#include "services/keys/import_store.h"

#include "services/keys/store_plan.h"

#define ROWS(parameter) \
    "jsonb_to_recordset(" parameter "::jsonb) AS r (n int, id text, owner text, tenant text, stored text, name text, start text, prefix text," \
    " enabled boolean, \"rateMax\" int, \"rateMs\" int, \"expiresIn\" float8, \"expiresAt\" timestamptz, permissions text, metadata text)"

const struct postgres_statement import_statements[] = {
    { "import_check", "SELECT r.n, u.id IS NOT NULL OR o.id IS NOT NULL, u.id IS NULL AND o.id IS NOT NULL,"
                      " u.id IS NOT NULL AND r.tenant IS NULL"
                      " AND (SELECT count(*) FROM public.member m WHERE m.\"userId\" = u.id) > 1,"
                      " EXISTS (SELECT FROM mcpgw.apikey x WHERE x.key = r.stored)"
                      " FROM " ROWS("$1") " LEFT JOIN public.\"user\" u ON u.id = r.owner LEFT JOIN public.organization o ON o.id = r.owner"
                      " ORDER BY r.n" },
    { "import_keys", "INSERT INTO mcpgw.apikey (id, \"configId\", name, start, \"referenceId\", prefix, key, \"refillInterval\", \"refillAmount\","
                     " \"lastRefillAt\", enabled, \"rateLimitEnabled\", \"rateLimitTimeWindow\", \"rateLimitMax\", \"requestCount\", remaining,"
                     " \"lastRequest\", \"expiresAt\", \"createdAt\", \"updatedAt\", permissions, metadata)"
                     " SELECT r.id, 'default', r.name, r.start, r.owner, r.prefix, r.stored, NULL, NULL, NULL, r.enabled, r.\"rateMax\" IS NOT NULL,"
                     " r.\"rateMs\", r.\"rateMax\", 0, NULL, NULL,"
                     " coalesce(r.\"expiresAt\", " NOW_MS " + make_interval(secs => r.\"expiresIn\")), " NOW_MS ", " NOW_MS ", r.permissions, r.metadata"
                     " FROM " ROWS("$4") " WHERE " CLAIMED },
    { "import_sides", "INSERT INTO mcpgw.key (key_id, tenant_id, created_by) SELECT r.id, r.tenant, $1 FROM " ROWS("$4") " WHERE " CLAIMED },
    /* Somebody else may have stored one of them since they were looked at: then none is kept (division by zero). */
    { "import_once", "SELECT 1 / (1 - least(1, count(*))) FROM " ROWS("$1")
                     " WHERE (SELECT count(*) FROM mcpgw.apikey x WHERE x.key = r.stored) > 1" },
    { "import_object", "SELECT $1::text" },
    { NULL, NULL }
};

enum err store_check_import(struct store *store, const char *rows, postgres_fn *fn, void *owner)
{
    return postgres_call(store->postgres, &(struct postgres_step){ .statement = "import_check", .count = 1, .values = { rows } },
                         fn, owner);
}

enum err store_import(struct store *store, const struct store_actor *actor, const char *rows, postgres_fn *fn, void *owner)
{
    struct plan plan = { .count = 0 };

    plan_begin(&plan, actor);
    step_value(plan_claimed(&plan, "import_keys", actor), rows);
    step_value(plan_claimed(&plan, "import_sides", actor), rows);
    step_value(plan_add(&plan, "import_once"), rows);
    return plan_run(&plan, store, actor, "import_object", fn, owner);
}

bool store_read_import_fact(const PGresult *rows, int row, struct import_fact *ret_fact)
{
    if (row >= PQntuples(rows))
        return false;
    *ret_fact = (struct import_fact){ .row = postgres_i64(rows, row, 0), .has_owner = postgres_flag(rows, row, 1),
                                      .is_organization = postgres_flag(rows, row, 2),
                                      .is_ambiguous = postgres_flag(rows, row, 3), .is_known = postgres_flag(rows, row, 4) };
    return true;
}
