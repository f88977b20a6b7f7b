/*
 * ratelimit_store.h - the counters in Redis: one script call per batch (ratelimit.lua), and a mark that shows when they
 * were lost.  The only file that knows Redis commands.  It never decides what happens while Redis is away.
 */
#ifndef RATELIMIT_STORE_H
#define RATELIMIT_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "common/frame.h"
#include "common/loop.h"
#include "common/secret.h"
#include "services/ratelimit/ratelimit_rules.h"

struct ratelimit_store;

#define CHARGE_BUCKETS_MAX (FRAME_ITEMS_MAX * CHARGE_LIMITS_MAX)    /* of one batch */

struct bucket_charge {
    char name[BUCKET_NAME_SIZE];
    size_t name_length;
    struct rate_plan plan;
    uint32_t wanted;             /* 0: a bucket of bundles */
    uint16_t first_bundle;       /* the caller's own */
    struct spending spending;    /* written by the store; of a bucket of bundles only the wait */
};

/* Requests that are under the same limits together: one that does not fit all of them spends none of them. */
struct charge_bundle {
    uint16_t buckets[CHARGE_LIMITS_MAX];    /* places in the batch */
    uint16_t count;                         /* of them, 2 or more */
    uint16_t next;                          /* the caller's own */
    uint32_t wanted;
    uint64_t admitted;                      /* written by the store, as is the next */
    uint64_t left[CHARGE_LIMITS_MAX];
};

struct store_call;
/* ERR_OK: every bucket's `spending` is there.  ERR_UNAVAILABLE: nothing is known of any of them. */
typedef void store_charged_fn(void *owner, struct store_call *call, enum err err);

/* One batch on its way; the caller's memory, untouched by the caller until the function was called. */
struct store_call {
    uint64_t epoch, batch;                       /* name the batch for ever */
    struct bucket_charge *buckets;
    size_t count;                                /* 1..CHARGE_BUCKETS_MAX */
    struct charge_bundle *bundles;
    size_t bundle_count;                         /* 0..FRAME_ITEMS_MAX */
    bool was_repeated;                           /* charged before, answered again */
    struct ratelimit_store *store;               /* the store's own, as is the next */
    bool is_full_text;
};

struct ratelimit_store_options {
    const struct secret *url;
    uint32_t timeout_ms;
    store_charged_fn *on_charged;
    void (*on_state)(void *owner, bool connected);
    void (*on_lost)(void *owner);                /* the counters were gone: Redis restarted empty, FLUSHALL */
    void *owner;
};

enum err ratelimit_store_new(struct loop *loop, const struct ratelimit_store_options *options,
                             struct ratelimit_store **ret_store) MUST_CHECK;
void ratelimit_store_destroy(struct ratelimit_store **store);
/* Sends the call.  ERR_UNAVAILABLE, ERR_OVERLOADED: it was not sent and on_charged will not be called. */
enum err ratelimit_store_charge(struct ratelimit_store *store, struct store_call *call) MUST_CHECK;

#endif
