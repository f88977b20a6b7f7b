/*
 * migrate.c - applies what mcpgw.migration does not name yet, each migration with its mark in one transaction.
 *
 * An advisory lock held by the session keeps two runs apart; it ends with the connection on every path.
 */
#include "common/migrate.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include <libpq-fe.h>

#include "common/cleanup.h"
#include "common/postgres.h"

#define MIGRATION_LOCK "6d636770670001"    /* any constant, the same for every service */

static const char prepare_sql[] =
    "SET client_min_messages = warning;"
    "SELECT pg_advisory_lock(x'" MIGRATION_LOCK "'::bigint);"
    /* IF NOT EXISTS would ask for the right to create schemas even where this one stands */
    "DO $$ BEGIN IF to_regnamespace('mcpgw') IS NULL THEN CREATE SCHEMA mcpgw; END IF; END $$;"
    "CREATE TABLE IF NOT EXISTS mcpgw.migration ("
    "  service text NOT NULL, name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now(),"
    "  PRIMARY KEY (service, name))";

DEFINE_DESTROY(session_destroy, PGconn, PQfinish)

static enum err refused(PGconn *connection, const char *where, char *reterr, size_t reterr_size)
{
    snprintf(reterr, reterr_size, "%s: %s", where, PQerrorMessage(connection));
    return ERR_UNAVAILABLE;
}

static bool run(PGconn *connection, const char *sql)
{
    OWNED(result_destroy) PGresult *result = PQexec(connection, sql);
    ExecStatusType status = PQresultStatus(result);

    return status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK || status == PGRES_EMPTY_QUERY;
}

static bool is_applied(const PGresult *applied, const char *name)
{
    for (int row = 0; row < PQntuples(applied); row++)
        if (strcmp(PQgetvalue(applied, row, 0), name) == 0)
            return true;
    return false;
}

static bool is_known(const struct migration *migrations, const char *name)
{
    for (; migrations->name != NULL; migrations++)
        if (strcmp(migrations->name, name) == 0)
            return true;
    return false;
}

static enum err apply(PGconn *connection, const char *service, const struct migration *migration,
                      char *reterr, size_t reterr_size)
{
    const char *const values[] = { service, migration->name };
    OWNED(result_destroy) PGresult *mark = NULL;

    if (!run(connection, "BEGIN") || !run(connection, migration->sql))
        return refused(connection, migration->name, reterr, reterr_size);
    if (PQtransactionStatus(connection) != PQTRANS_INTRANS) {
        snprintf(reterr, reterr_size, "%s: the script must not end its transaction", migration->name);
        return ERR_UNAVAILABLE;
    }
    mark = PQexecParams(connection, "INSERT INTO mcpgw.migration (service, name) VALUES ($1, $2)", 2, NULL, values,
                        NULL, NULL, 0);
    if (PQresultStatus(mark) != PGRES_COMMAND_OK || !run(connection, "COMMIT"))
        return refused(connection, migration->name, reterr, reterr_size);
    printf("%s: applied %s\n", service, migration->name);
    return ERR_OK;
}

static enum err apply_missing(PGconn *connection, const char *service, const struct migration *migrations,
                              char *reterr, size_t reterr_size)
{
    OWNED(result_destroy) PGresult *applied = PQexecParams(
        connection, "SELECT name FROM mcpgw.migration WHERE service = $1 ORDER BY name", 1, NULL, &service, NULL, NULL,
        0);

    if (PQresultStatus(applied) != PGRES_TUPLES_OK)
        return refused(connection, "mcpgw.migration", reterr, reterr_size);
    for (int row = 0; row < PQntuples(applied); row++) {
        if (is_known(migrations, PQgetvalue(applied, row, 0)))
            continue;
        snprintf(reterr, reterr_size, "the database holds migration %s of %s, which this program does not know: "
                 "it was made by a newer release", PQgetvalue(applied, row, 0), service);
        return ERR_CONFLICT;
    }
    for (; migrations->name != NULL; migrations++) {
        enum err err = is_applied(applied, migrations->name)
            ? ERR_OK : apply(connection, service, migrations, reterr, reterr_size);

        if (err != ERR_OK)
            return err;
    }
    return ERR_OK;
}

static void ignore_notice(void *owner, const PGresult *notice)
{
    (void)owner;
    (void)notice;
}

enum err migrate_run_with(const struct migrate_options *options, char *reterr, size_t reterr_size)
{
    OWNED(session_destroy) PGconn *connection = PQconnectdb(secret_text(options->url));
    enum err err;

    if (PQstatus(connection) != CONNECTION_OK)
        return refused(connection, "connect", reterr, reterr_size);
    PQsetNoticeReceiver(connection, ignore_notice, NULL);
    if (!run(connection, prepare_sql) || (options->before != NULL && !run(connection, options->before)))
        return refused(connection, "prepare", reterr, reterr_size);
    err = apply_missing(connection, options->service, options->migrations, reterr, reterr_size);
    if (err == ERR_OK && options->after != NULL && !run(connection, options->after))
        return refused(connection, "finish", reterr, reterr_size);
    return err;
}

enum err migrate_run(const char *service, const struct migration *migrations, const struct secret *url,
                     char *reterr, size_t reterr_size)
{
    const struct migrate_options options = { .service = service, .migrations = migrations, .url = url };

    return migrate_run_with(&options, reterr, reterr_size);
}
