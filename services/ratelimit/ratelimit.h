/*
 * ratelimit.h - what a ratelimit worker owns: batches on their way to Redis, and the budgets it keeps in memory while
 * Redis is away.
 */
#ifndef RATELIMIT_H
#define RATELIMIT_H

#include "common/bus.h"
#include "common/config.h"
#include "common/service.h"
#include "services/ratelimit/ratelimit_rules.h"
#include "services/ratelimit/ratelimit_store.h"

struct ratelimit_config {
    struct common_config common;
#define SETTING(type, name, fallback, min, max, meaning) SETTING_MEMBER_##type(name, max)
#include "services/ratelimit/config.def"
};
extern const struct setting ratelimit_settings[];
extern const size_t ratelimit_setting_count;

#define BATCHES_MAX       256u     /* on their way to Redis; beyond, charges are unavailable */
#define LOCAL_BUDGETS_MAX 8192u    /* buckets spent from while Redis is away */
#define GROUPING_SLOTS    2048u    /* more than CHARGE_BUCKETS_MAX */

/* One request of a batch: whom to answer, and its place among the batch's requests on the same bucket or bundle. */
struct charge_item {
    struct bus_token token;
    uint16_t place, position;
    bool is_bundle, is_local_allowed;
};

/* The requests of one received frame.  `call` is first: the store hands it back. */
struct charge_batch {
    struct store_call call;
    struct charge_batch *next;     /* while it is free */
    size_t item_count;
    struct charge_item items[FRAME_ITEMS_MAX];
    struct bucket_charge buckets[CHARGE_BUCKETS_MAX];
    struct charge_bundle bundles[FRAME_ITEMS_MAX];
};

_Static_assert(GROUPING_SLOTS > CHARGE_BUCKETS_MAX, "a free slot ends every search");

struct ratelimit {
    const struct ratelimit_config *config;
    struct tier_limits tiers;
    struct loop *loop;
    struct ops *ops;
    struct bus *bus;
    struct ratelimit_store *store;
    struct charge_batch *batches, *free_batches;     /* BATCHES_MAX; of those used before the last one is taken first */
    size_t batches_used;
    struct charge_batch *open;                       /* the frame that is being delivered */
    uint16_t grouping[GROUPING_SLOTS];               /* of the open batch: hash of a name -> bucket + 1 */
    struct local_budget *budgets;
};

enum err ratelimit_new(const struct service_context *context, struct ratelimit **ret_ratelimit,
                       char *reterr, size_t reterr_size) MUST_CHECK;
void ratelimit_destroy(struct ratelimit **ratelimit);

/* ratelimit_handlers.c */
extern const struct bus_handler ratelimit_handlers[];
void on_batch_end(void *owner, uint32_t edge, uint64_t epoch, uint64_t batch);
void on_charged(void *owner, struct store_call *call, enum err err);

#endif
