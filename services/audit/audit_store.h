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

#define AUDIT_OUTBOX_EVENTS 1000    /* most that one move takes */

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
};

extern const uint8_t audit_outbox_producer[UUID_SIZE];
#define AUDIT_OUTBOX_EPOCH 1u

enum err audit_store_new(struct loop *loop, const struct audit_store_options *options,
                         struct audit_store **ret_store) MUST_CHECK;
void audit_store_destroy(struct audit_store **store);

/* Asks for the lock.  read: ERR_OK and the token; ERR_CONFLICT: another instance has it. */
enum err audit_store_lock(struct audit_store *store, postgres_fn *fn, void *owner) MUST_CHECK;
enum err audit_store_read_lock(enum postgres_outcome outcome, PGresult *const *results, uint64_t *ret_token) MUST_CHECK;

/* Puts our token on a stream's watermark, making it when the stream is new.  read: ERR_OK and the next sequence;
 * ERR_CONFLICT: a younger token is there: this instance is no longer the active one. */
enum err audit_store_claim(struct audit_store *store, const struct audit_place *place, postgres_fn *fn,
                           void *owner) MUST_CHECK;
enum err audit_store_read_claim(enum postgres_outcome outcome, PGresult *const *results,
                                uint64_t *ret_next_seq) MUST_CHECK;

/* Moves the watermark from place->next_seq to columns_next_seq() and inserts the batch, both or neither.
 * read: ERR_OK; ERR_CONFLICT: the watermark stood elsewhere, nothing was inserted; ERR_UNAVAILABLE: refused or lost. */
enum err audit_store_insert(struct audit_store *store, const struct audit_place *place, struct columns *columns,
                            postgres_fn *fn, void *owner) MUST_CHECK;
enum err audit_store_read_insert(enum postgres_outcome outcome, PGresult *const *results) MUST_CHECK;

/* Moves what the outbox holds beyond its watermark, at most AUDIT_OUTBOX_EVENTS.  read: how many. */
enum err audit_store_move_outbox(struct audit_store *store, uint64_t token, postgres_fn *fn, void *owner) MUST_CHECK;
enum err audit_store_read_outbox(enum postgres_outcome outcome, PGresult *const *results,
                                 uint64_t *ret_events) MUST_CHECK;

/* place NULL: nobody knows whose bytes they are. */
enum err audit_store_quarantine(struct audit_store *store, const struct audit_place *place, const char *reason,
                                const uint8_t *bytes, size_t size) MUST_CHECK;
/* Makes partitions ahead and drops old ones. */
enum err audit_store_maintain(struct audit_store *store, uint64_t retention_days, postgres_fn *fn,
                              void *owner) MUST_CHECK;

#endif
