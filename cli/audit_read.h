/* audit_read.h - the stored trail, batch after batch, as its leaves: what verify and prove share.  Talks to Postgres. */
#ifndef CLI_AUDIT_READ_H
#define CLI_AUDIT_READ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <libpq-fe.h>

#include "cli/cli.h"
#include "common/checkpoint.h"
#include "common/cleanup.h"

DEFINE_DESTROY(connection_destroy, PGconn, PQfinish)
DEFINE_DESTROY(rows_destroy, PGresult, PQclear)

/* An array column in Postgres's binary form. */
struct elements {
    const uint8_t *next, *end;    /* NULL: it is no such array */
    uint32_t count;
};

struct batch {
    uint64_t first_seq, last_seq, count, first_leaf;
    bool has_leaf;                    /* false: stored before there was a tree */
    int64_t first_at, last_at;        /* microseconds since 2000 */
    struct elements columns[EVENT_COLUMNS_COUNT], keys, users;
};

/* One event of a batch: its content as a leaf, prefix byte included. */
struct event_leaf {
    uint64_t seq;
    uint8_t *content;
    size_t size;
    struct { const uint8_t *bytes; uint32_t size; } values[EVENT_COLUMNS_COUNT];    /* bytes NULL: no value */
};

enum { VALUE_AT = 0, VALUE_EVENT = 1, VALUE_USER = 5, VALUE_KEY = 8 };

struct epoch_name {
    uint8_t producer[UUID_SIZE];
    uint64_t epoch;
};

/* --database, MCPGW_DATABASE_URL or $MCPGW_HOME/env; one snapshot that nothing changes.  Complains with the remedy. */
PGconn *trail_connect(const struct arguments *arguments, enum exit_code *ret_exit);
/* Rows of a question; NULL: complained. */
PGresult *trail_ask(PGconn *connection, const char *sql, int count, const char *const *values);
/* Calls `each` with every batch of the epoch, in order, until it returns false.  False: the database ended it. */
bool trail_walk(PGconn *connection, const struct epoch_name *name, bool (*each)(void *owner, struct batch *batch), void *owner);
/* The next event of the batch, into a buffer that grows and is the caller's to free.  False: there is none, or the
 * columns do not agree (then *ret_is_broken). */
struct leaf_buffer { uint8_t *bytes; size_t capacity; };
bool trail_next_event(struct batch *batch, const struct epoch_name *name, uint64_t position, struct leaf_buffer *buffer,
                      struct event_leaf *ret_event, bool *ret_is_broken);

uint64_t read_be64(const uint8_t *bytes);
uint32_t read_be32(const uint8_t *bytes);

#endif
