/*
 * authz_store.h - all that authz reads from Postgres and keeps in Redis; the only SQL and Redis commands of this service.
 *
 * Nothing blocks and nothing waits for a connection: without one a call fails at once.  There are three
 * Postgres connections, so that look-ups held up by a lock (a migration of the table) cannot hold up the lease, nor a locked
 * row of a key with uses the look-ups.
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
    enum row_limits row_limits;
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

/* Takes uses of a key (mcpgw.take_uses).  Lies with the caller until the answer came. */
#define STORE_MOMENT_SIZE 48u
struct store_uses {
    char key_id[AUTHZ_ID_MAX + 1];
    uint32_t wanted;                              /* at least 1 */
    bool is_ahead;                                /* nobody waits for them yet */
    char request[48];                             /* with wanted 1: names the question, alike in its copies at other workers; or "" */
    void (*fn)(void *owner, bool is_answered);    /* what was asked and what was answered stand here */
    void *owner;
    uint32_t taken;                               /* 0: none is left */
    bool has_end;
    uint64_t valid_ms, sequence;
    char refilled[STORE_MOMENT_SIZE];             /* lastRefillAt as text, "" for NULL */
};
enum err store_take_uses(struct store *store, struct store_uses *call) MUST_CHECK;
/* Gives back what was not spent; fn when that has been tried. */
struct store_leftover {
    const char *key_id, *refilled;
    uint32_t count;
    uint64_t sequence;
    void (*fn)(void *owner);
    void *owner;
};
enum err store_give_uses_back(struct store *store, const struct store_leftover *leftover) MUST_CHECK;

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
