#include "cli/audit_read.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/environment.h"

#define URL_SIZE     1024u
#define ARRAY_HEADER 20u    /* dimensions, has NULLs, type, length, lower bound */
#define BATCH_SQL \
    "SELECT first_seq, last_seq, count::bigint, first_leaf, first_at, last_at, " EVENT_COLUMNS ", keys, users" \
    " FROM audit.batch WHERE producer = $1::uuid AND epoch = $2::bigint ORDER BY first_seq, first_at"

enum { AT_FIRST_SEQ, AT_LAST_SEQ, AT_COUNT, AT_LEAF, AT_FIRST_AT, AT_LAST_AT, AT_COLUMNS };

uint64_t read_be64(const uint8_t *bytes)
{
    uint64_t value;

    memcpy(&value, bytes, sizeof value);
    return __builtin_bswap64(value);
}

uint32_t read_be32(const uint8_t *bytes)
{
    uint32_t value;

    memcpy(&value, bytes, sizeof value);
    return __builtin_bswap32(value);
}

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
    if (begun == NULL)
        return NULL;
    made = connection;
    connection = NULL;
    return made;
}

/* One dimension, or none when it is empty. */
static struct elements elements_of(const PGresult *result, int column)
{
    const uint8_t *bytes = (const uint8_t *)PQgetvalue(result, 0, column);
    const size_t size = (size_t)PQgetlength(result, 0, column);

    if (size == 12 && read_be32(bytes) == 0)
        return (struct elements){ .next = bytes, .end = bytes };
    if (size < ARRAY_HEADER || read_be32(bytes) != 1)
        return (struct elements){ 0 };
    return (struct elements){ .next = bytes + ARRAY_HEADER, .end = bytes + size, .count = read_be32(bytes + 12) };
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

/* Length and bytes of the next element; NULL is a length of -1.  False: the array ends before. */
static bool take_element(struct elements *elements, const uint8_t **ret_bytes, size_t *ret_size)
{
    if (elements->next == NULL || elements->count == 0 || (size_t)(elements->end - elements->next) < 4)
        return false;
    const uint32_t length = read_be32(elements->next);
    const size_t size = length == UINT32_MAX ? 4 : 4 + (size_t)length;

    if (size > (size_t)(elements->end - elements->next))
        return false;
    *ret_bytes = elements->next;
    *ret_size = size;
    elements->next += size;
    elements->count--;
    return true;
}

static bool make_room(struct leaf_buffer *buffer, size_t size)
{
    uint8_t *bytes;

    if (size <= buffer->capacity)
        return true;
    bytes = realloc(buffer->bytes, 2 * size);
    if (bytes == NULL)
        return false;
    buffer->bytes = bytes;
    buffer->capacity = 2 * size;
    return true;
}

bool trail_next_event(struct batch *batch, const struct epoch_name *name, uint64_t position, struct leaf_buffer *buffer,
                      struct event_leaf *ret_event, bool *ret_is_broken)
{
    size_t size = LEAF_HEAD_SIZE;

    *ret_is_broken = false;
    if (position >= batch->count)
        return false;
    ret_event->seq = batch->first_seq + position;
    for (size_t i = 0; i < EVENT_COLUMNS_COUNT; i++) {
        const uint8_t *bytes = NULL;
        size_t length = 0;

        *ret_is_broken = !take_element(&batch->columns[i], &bytes, &length) || !make_room(buffer, size + length);
        if (*ret_is_broken)
            return false;
        memcpy(buffer->bytes + size, bytes, length);
        size += length;
        ret_event->values[i].bytes = read_be32(bytes) == UINT32_MAX ? NULL : bytes + 4;
        ret_event->values[i].size = (uint32_t)(length - 4);
    }
    checkpoint_leaf_begin(buffer->bytes, name->producer, name->epoch, ret_event->seq);
    ret_event->content = buffer->bytes;
    ret_event->size = size;
    return true;
}
