/*
 * audit_columns.h - events as Postgres arrays in binary form, one per column of audit.batch.
 *
 * Records are read straight into the arrays: no allocation per event, nothing decoded twice.  Fields are positional
 * and only ever appended, so a body of any release is read: what it lacks is NULL, what we do not know is left out.
 * Each event is also a leaf of its epoch's Merkle tree: exactly the bytes that Postgres will give back.
 */
#ifndef AUDIT_COLUMNS_H
#define AUDIT_COLUMNS_H

#include <stddef.h>
#include <stdint.h>

#include "common/checkpoint.h"
#include "common/error.h"
#include "common/trail.h"

/* In the order of the parameters of the insert (audit_store.c). */
enum column {
    COLUMN_AT, COLUMN_EVENT, COLUMN_OUTCOME, COLUMN_REASON, COLUMN_REQUEST_ID, COLUMN_USER_ID, COLUMN_TENANT_ID,
    COLUMN_AUTH_METHOD, COLUMN_KEY_ID, COLUMN_ADDRESS, COLUMN_METHOD, COLUMN_PATH, COLUMN_SERVER, COLUMN_TOOL,
    COLUMN_STATUS, COLUMN_LATENCY_US, COLUMN_BYTES, COLUMN_COUNT, COLUMN_DETAILS,
    COLUMN_KEYS, COLUMN_USERS,    /* each value once */
    COLUMNS
};

struct columns;

enum err columns_new(struct columns **ret_columns) MUST_CHECK;
void columns_destroy(struct columns **columns);
/* Empties them; the tree stays where it is. */
void columns_reset(struct columns *columns);
/* Whose events come now, and the tree over all before them; the columns are empty. */
void columns_follow(struct columns *columns, const uint8_t producer[UUID_SIZE], uint64_t epoch, const struct merkle *tree);

/*
 * Adds every record of a block that trail_open() accepted; the first block after a reset sets where the batch starts.
 * A record of an unknown code becomes the event `unknown:<code>`, one that cannot be read `unreadable:<code>`, which
 * *ret_unreadable counts.  ERR_NO_MEMORY: nothing was added.
 */
enum err columns_add_block(struct columns *columns, const struct trail_header *header, const uint8_t *block,
                           uint32_t *ret_unreadable) MUST_CHECK;
/* One event `lost` for `count` sequences from first_seq that cannot be had; only into empty columns.  reason: spool (it has
 * them no more), damage (they cannot be read) or chain (they are not what the producer wrote). */
struct columns_lost { uint64_t first_seq, count, time_us; const char *reason; };
enum err columns_add_lost(struct columns *columns, const struct columns_lost *lost) MUST_CHECK;
/* An event that no block brought; its sequence continues what is there.  "" where there is no text. */
struct columns_row {
    uint64_t seq, time_us, auth_method;
    const char *event, *reason, *request_id, *user_id, *tenant_id, *key_id, *address, *server, *details;
};
enum err columns_add_row(struct columns *columns, const struct columns_row *row) MUST_CHECK;

size_t columns_count(const struct columns *columns);       /* events */
size_t columns_bytes(const struct columns *columns);
uint64_t columns_first_seq(const struct columns *columns);
uint64_t columns_next_seq(const struct columns *columns);  /* behind the last event */
const struct merkle *columns_tree(const struct columns *columns);    /* with the last event */
uint64_t columns_first_us(const struct columns *columns);  /* earliest and latest time, Unix microseconds */
uint64_t columns_last_us(const struct columns *columns);

/* A time from columns_first_us or columns_last_us as a binary timestamptz. */
void columns_instant(uint64_t unix_us, uint8_t ret_bytes[8]);
/* One column as a binary array parameter; valid until the next change. */
const uint8_t *columns_array(struct columns *columns, enum column column, size_t *ret_size);

#endif
