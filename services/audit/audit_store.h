/*
 * audit_store.h - every statement of the audit service, on one session of its own.
 *
 * The session holds an advisory lock while this instance is the active one; losing the connection gives it up.  Each
 * take-over draws a higher consumer token, and a statement that moves a watermark names the token it believes in.
 * Calls return ERR_UNAVAILABLE while there is no connection; audit_store_read_* say what an outcome means.
 */
#ifndef AUDIT_STORE_H
#define AUDIT_STORE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/encode.h"
#include "common/error.h"
#include "common/loop.h"
#include "common/postgres.h"
#include "services/audit/audit_columns.h"

#define AUDIT_OUTBOX_EVENTS 1000    /* most that one read takes */
#define AUDIT_SWEEP_BATCHES 10      /* most that one step of a sweep, or of counting usage, looks at */

struct audit_store;

struct audit_store_options {
    const struct secret *url;
    void (*on_state)(void *owner, bool connected);
    void (*on_outbox)(void *owner);    /* told by Postgres that there is a change */
    void *owner;
};

struct audit_place {    /* where a stream stands */
    uint8_t producer[UUID_SIZE];
    uint64_t epoch, next_seq, token;
    uint8_t head[DIGEST_SIZE];    /* mac of the last block that the next batch holds */
    bool has_head;                /* false: not chained, or not known */
};

struct audit_mark {     /* what a watermark says */
    uint64_t next_seq;
    uint8_t head[DIGEST_SIZE];
    bool has_head;
    struct merkle tree;
    struct checkpoint checkpoint;    /* without producer, epoch and key_id */
    bool is_signed, is_forged;       /* forged: its peaks are not of its size; the tree goes on, and proves nothing */
};

extern const uint8_t audit_outbox_producer[UUID_SIZE];
#define AUDIT_OUTBOX_EPOCH 1u

enum err audit_store_new(struct loop *loop, const struct audit_store_options *options,
                         struct audit_store **ret_store) MUST_CHECK;
void audit_store_destroy(struct audit_store **store);

/* Asks for the lock.  read: ERR_OK and the token; ERR_CONFLICT: another instance has it. */
enum err audit_store_lock(struct audit_store *store, postgres_fn *fn, void *owner) MUST_CHECK;
enum err audit_store_read_lock(enum postgres_outcome outcome, PGresult *const *results, uint64_t *ret_token) MUST_CHECK;

/* Puts our token on a stream's watermark, making it when the stream is new.  read: ERR_OK and where it stands;
 * ERR_CONFLICT: a younger token is there: this instance is no longer the active one. */
enum err audit_store_claim(struct audit_store *store, const struct audit_place *place, postgres_fn *fn,
                           void *owner) MUST_CHECK;
enum err audit_store_read_claim(enum postgres_outcome outcome, PGresult *const *results,
                                struct audit_mark *ret_mark) MUST_CHECK;

/* Moves the watermark from place->next_seq to columns_next_seq() and inserts the batch, both or neither.  `checkpoint` is
 * of the tree with the batch; without a key_id it is not signed.
 * read: ERR_OK; ERR_CONFLICT: the watermark stood elsewhere, nothing was inserted; ERR_UNAVAILABLE: refused or lost. */
struct audit_batch { const struct audit_place *place; struct columns *columns; const struct checkpoint *checkpoint; };
enum err audit_store_insert(struct audit_store *store, const struct audit_batch *batch, postgres_fn *fn,
                            void *owner) MUST_CHECK;
enum err audit_store_read_insert(enum postgres_outcome outcome, PGresult *const *results) MUST_CHECK;

/* What the outbox holds from next_seq on, at most AUDIT_OUTBOX_EVENTS.  The row's texts end with the result. */
enum err audit_store_read_outbox(struct audit_store *store, uint64_t next_seq, postgres_fn *fn, void *owner) MUST_CHECK;
bool audit_store_outbox_row(const PGresult *result, int row, struct columns_row *ret_row);

/* The producer adds nothing more, and all it had is stored. */
enum err audit_store_close(struct audit_store *store, const struct audit_place *place) MUST_CHECK;
/* Another step of looking for calls that a closed epoch left unfinished. */
enum err audit_store_sweep(struct audit_store *store, postgres_fn *fn, void *owner) MUST_CHECK;
/* Another step of counting usage. */
enum err audit_store_count(struct audit_store *store, postgres_fn *fn, void *owner) MUST_CHECK;
/* Writes a row of audit.checkpoint for each signed watermark that has none yet.  recent: those of the last hour, again.
 * read: the n-th; false: no more. */
enum err audit_store_checkpoint(struct audit_store *store, bool is_recent, postgres_fn *fn, void *owner) MUST_CHECK;
bool audit_store_read_checkpoint(const PGresult *result, int row, struct checkpoint *ret_checkpoint);

/* place NULL: nobody knows whose bytes they are. */
enum err audit_store_quarantine(struct audit_store *store, const struct audit_place *place, const char *reason,
                                const uint8_t *bytes, size_t size) MUST_CHECK;
/* Makes partitions ahead and drops old ones. */
enum err audit_store_maintain(struct audit_store *store, uint64_t retention_days, postgres_fn *fn,
                              void *owner) MUST_CHECK;

#endif
