/*
 * authz_store.h - all that authz reads from Postgres and keeps in Redis; the only SQL and Redis commands of this service.
 *
 * Nothing blocks and nothing waits for a connection: without one a call fails at once.  There are two Postgres
 * connections, so that look-ups held up by a lock (a migration of the table) cannot hold up the lease.
 */
#ifndef AUTHZ_STORE_H
#define AUTHZ_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/encode.h"
#include "common/error.h"
#include "common/loop.h"
#include "services/authz/authz.h"
#include "services/authz/authz_changes.h"
#include "services/authz/authz_rules.h"

struct store;

/* Most change rows of one read. */
#define STORE_CHANGES_PAGE 2000u

struct store_options {
    const struct authz_config *config;
    void (*on_change)(void *owner);                  /* Postgres told that there is a new change */
    void (*on_state)(void *owner);                   /* a connection came or went */
    void *owner;
};

enum err store_new(struct loop *loop, const struct store_options *options, struct store **ret_store) MUST_CHECK;
void store_destroy(struct store **store);            /* answers of calls in flight come, as failed, before it returns */
bool store_has_postgres(const struct store *store);  /* both connections */
bool store_has_redis(const struct store *store);
bool store_uses_redis(const struct store *store);    /* it is configured */

/*
 * ERR_OK: facts.  ERR_NOT_FOUND: there is no such key (from Redis: no entry that can be believed).  ERR_UNAVAILABLE: not
 * answered.  `sequence` is the change number of the same snapshot.  `facts` ends with the call.
 */
typedef void store_facts_fn(void *owner, enum err err, uint64_t sequence, const struct authz_facts *facts);

/* Lies with the caller until the answer came. */
struct store_call {
    struct store *store;
    uint8_t digest[DIGEST_SIZE];
    store_facts_fn *fn;
    void *owner;
};

/* ERR_UNAVAILABLE, ERR_OVERLOADED: not asked, `call->fn` will not be called.  The caller sets digest, fn and owner. */
enum err store_find(struct store *store, struct store_call *call) MUST_CHECK;
enum err store_find_shared(struct store *store, struct store_call *call) MUST_CHECK;
/* Best effort. */
void store_share(struct store *store, const uint8_t digest[DIGEST_SIZE], uint64_t sequence, const struct authz_facts *facts);

/* The newest change number and, of the same snapshot, the rows behind `after` in order, at most STORE_CHANGES_PAGE. */
struct store_changes {
    uint64_t sequence;
    size_t count;
    const void *rows;
};
/* changes NULL: not answered. */
typedef void store_changes_fn(void *owner, const struct store_changes *changes);
enum err store_read_changes(struct store *store, uint64_t after, bool with_rows, store_changes_fn *fn, void *owner) MUST_CHECK;
struct change_row store_change_at(const struct store_changes *changes, size_t index);

/* Are the triggers that number changes in place? */
typedef void store_triggers_fn(void *owner, bool answered, bool present);
enum err store_check_triggers(struct store *store, store_triggers_fn *fn, void *owner) MUST_CHECK;

#endif
