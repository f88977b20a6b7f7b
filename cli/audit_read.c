#include "cli/audit_read.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/environment.h"

#define URL_SIZE     1024u
#define BATCH_SQL \
    "SELECT first_seq, last_seq, count::bigint, first_leaf, first_at, last_at, " EVENT_COLUMNS ", keys, users" \
    " FROM audit.batch WHERE producer = $1::uuid AND epoch = $2::bigint ORDER BY first_seq, first_at"

enum { AT_FIRST_SEQ, AT_LAST_SEQ, AT_COUNT, AT_LEAF, AT_FIRST_AT, AT_LAST_AT, AT_COLUMNS };

PGresult *trail_ask(PGconn *connection, const char *sql, int count, const char *const *values)
{
    PGresult *result = PQexecParams(connection, sql, count, NULL, values, NULL, NULL, 0);

    if (PQresultStatus(result) == PGRES_TUPLES_OK || PQresultStatus(result) == PGRES_COMMAND_OK)
        return result;
    complain("the database refused: %s", PQresultErrorMessage(result));
    PQclear(result);
    return NULL;
}

PGconn *trail_connect(const struct arguments *arguments, enum exit_code *ret_exit)
{
    const char *url = arguments_value(arguments, "database");
    char value[URL_SIZE];
    OWNED(connection_destroy) PGconn *connection = NULL;
    PGconn *made;

    if (url == NULL)
        url = environment_value("MCPGW_DATABASE_URL", value, sizeof value);
    *ret_exit = EXIT_MISUSE;
    if (url == NULL) {
        complain("no database: give --database or MCPGW_DATABASE_URL, a Postgres URL of a role that may read schema audit");
        return NULL;
    }
    *ret_exit = EXIT_UNREACHABLE;
    connection = PQconnectdb(url);
    if (PQstatus(connection) != CONNECTION_OK) {
        complain("the database cannot be reached: %s", PQerrorMessage(connection));
        return NULL;
    }
    PQsetClientEncoding(connection, "UTF8");
    OWNED(rows_destroy) PGresult *begun = trail_ask(connection, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", 0, NULL);
    /* The database's own names and operators, whatever somebody put before them. */
    OWNED(rows_destroy) PGresult *bound = begun == NULL ? NULL : trail_ask(connection,
        "SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true)", 0, NULL);
    if (bound == NULL)
        return NULL;
    made = connection;
    connection = NULL;
    return made;
}

static struct elements elements_of(const PGresult *result, int column)
{
    return elements_read((const uint8_t *)PQgetvalue(result, 0, column), (size_t)PQgetlength(result, 0, column));
}

static uint64_t number_of(const PGresult *result, int column)
{
    return PQgetlength(result, 0, column) == 8 ? read_be64((const uint8_t *)PQgetvalue(result, 0, column)) : 0;
}

static void read_batch(const PGresult *result, struct batch *ret_batch)
{
    *ret_batch = (struct batch){
        .first_seq = number_of(result, AT_FIRST_SEQ), .last_seq = number_of(result, AT_LAST_SEQ),
        .count = number_of(result, AT_COUNT), .first_leaf = number_of(result, AT_LEAF),
        .has_leaf = PQgetisnull(result, 0, AT_LEAF) == 0, .first_at = (int64_t)number_of(result, AT_FIRST_AT),
        .last_at = (int64_t)number_of(result, AT_LAST_AT),
    };
    for (int i = 0; i < (int)EVENT_COLUMNS_COUNT; i++)
        ret_batch->columns[i] = elements_of(result, AT_COLUMNS + i);
    ret_batch->keys = elements_of(result, AT_COLUMNS + (int)EVENT_COLUMNS_COUNT);
    ret_batch->users = elements_of(result, AT_COLUMNS + (int)EVENT_COLUMNS_COUNT + 1);
}

bool trail_walk(PGconn *connection, const struct epoch_name *name, bool (*each)(void *owner, struct batch *batch), void *owner)
{
    char producer[UUID_TEXT_SIZE], epoch[24];
    const char *const values[] = { producer, epoch };
    bool goes_on = true, is_good = true;
    PGresult *result;

    uuid_format(name->producer, producer);
    snprintf(epoch, sizeof epoch, "%" PRIu64, name->epoch);
    if (PQsendQueryParams(connection, BATCH_SQL, 2, NULL, values, NULL, NULL, 1) != 1 || PQsetSingleRowMode(connection) != 1) {
        complain("the database went away: %s", PQerrorMessage(connection));
        return false;
    }
    while ((result = PQgetResult(connection)) != NULL) {
        struct batch batch;
        const ExecStatusType status = PQresultStatus(result);

        if (status == PGRES_SINGLE_TUPLE && goes_on) {
            read_batch(result, &batch);
            goes_on = each(owner, &batch);
        } else if (status != PGRES_SINGLE_TUPLE && status != PGRES_TUPLES_OK) {
            complain("the database refused: %s", PQresultErrorMessage(result));
            is_good = false;
        }
        PQclear(result);
    }
    return is_good;
}
