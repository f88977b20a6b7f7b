#include "cli/audit_readers.h"

#include <stdio.h>
#include <string.h>

#include "common/migrate.h"

extern const struct migration audit_migrations[], keys_migrations[];

/* Functions whose text Postgres keeps as it was given. */
#define FUNCTIONS_SQL \
    "SELECT n.nspname || '.' || p.proname, p.prosrc, p.proconfig @> ARRAY['search_path=pg_catalog, pg_temp']" \
    " FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace" \
    " WHERE n.nspname = 'audit' OR (n.nspname = 'mcpgw' AND p.proname IN ('audit_page', 'usage', 'stats'))"
#define TABLES_SQL \
    "SELECT 'audit.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'audit' AND (" \
    " c.relrowsecurity OR (c.relname = 'batch' AND c.relkind <> 'p')" \
    " OR (c.relkind <> 'v' AND EXISTS (SELECT FROM pg_rewrite r WHERE r.ev_class = c.oid))" \
    " OR EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal))"

static bool is_ours(const struct migration *migrations, const char *text)
{
    for (; migrations->name != NULL; migrations++)
        if (strstr(migrations->sql, text) != NULL)
            return true;
    return false;
}

static void tell_hidden(struct findings *findings, const char *what, const char *why)
{
    char detail[300];

    snprintf(detail, sizeof detail, "%s: %s", what, why);
    finding_tell(findings, &(struct finding){ .kind = "hidden", .detail = detail });
}

bool readers_check(PGconn *connection, struct findings *findings)
{
    OWNED(rows_destroy) PGresult *tables = trail_ask(connection, TABLES_SQL, 0, NULL);
    OWNED(rows_destroy) PGresult *functions = trail_ask(connection, FUNCTIONS_SQL, 0, NULL);

    if (tables == NULL || functions == NULL)
        return false;
    for (int row = 0; row < PQntuples(tables); row++)
        tell_hidden(findings, PQgetvalue(tables, row, 0), "row security, a rule, a trigger or a view stands between rows and readers");
    for (int row = 0; row < PQntuples(functions); row++) {
        const char *text = PQgetvalue(functions, row, 1);

        if (PQgetvalue(functions, row, 2)[0] != 't' || (!is_ours(audit_migrations, text) && !is_ours(keys_migrations, text)))
            tell_hidden(findings, PQgetvalue(functions, row, 0), "the function is not what this release of mcpgw makes it");
    }
    return true;
}
