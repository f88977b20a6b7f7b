/* ratelimit_handlers.c - a frame's charges become one script call; its answers become one reply each. */
#include <stdio.h>
#include <string.h>

#include "common/clock.h"
#include "common/metrics.h"
#include "services/ratelimit/ratelimit.h"

#define NO_BUNDLE UINT16_MAX

static void answer(struct ratelimit *ratelimit, const struct bus_token *token, const struct charge *charge)
{
    if (charge->error == ERR_OK)
        metric_add(METRIC_charges_admitted, 1);
    else if (charge->error == ERR_RATE_LIMITED)
        metric_add(METRIC_charges_refused, 1);
    else
        metric_add(METRIC_charges_unavailable, 1);
    if (charge->degraded)
        metric_add(METRIC_charges_degraded, 1);
    bus_reply(ratelimit->bus, token, MESSAGE_charge, charge);
}

static void answer_unavailable(struct ratelimit *ratelimit, const struct bus_token *token)
{
    answer(ratelimit, token, &(struct charge){ .error = ERR_UNAVAILABLE });
}

/* The limits one request is under, as the batch's buckets. */
struct item_limits {
    const struct bucket_charge *buckets[CHARGE_LIMITS_MAX];
    size_t count;
};

static struct item_limits limits_of(const struct charge_batch *batch, const struct charge_item *item)
{
    struct item_limits limits = { { &batch->buckets[item->place] }, 1 };

    if (!item->is_bundle)
        return limits;
    limits.count = batch->bundles[item->place].count;
    for (size_t i = 0; i < limits.count; i++)
        limits.buckets[i] = &batch->buckets[batch->bundles[item->place].buckets[i]];
    return limits;
}

/* One spending for each limit; the request is told of the tightest. */
static void answer_spending(struct ratelimit *ratelimit, const struct charge_item *item, const struct item_limits *limits,
                            const struct spending *spendings, bool is_degraded)
{
    const uint64_t position = is_degraded ? 0 : item->position;
    const size_t tightest = limits->count == 1 ? 0 : spending_tightest(spendings, limits->count, position);
    const struct rate_plan *plan = &limits->buckets[tightest]->plan;
    struct spending_share share = spending_share_of(&spendings[tightest], position, plan->window_s);
    struct charge charge = {
        .error = share.is_admitted ? ERR_OK : ERR_RATE_LIMITED,
        .limit = plan->limit,
        .window_s = plan->window_s,
        .remaining = share.remaining,
        .reset_ms = share.reset_ms,
        .degraded = is_degraded,
    };

    snprintf(charge.policy, sizeof charge.policy, "%s", plan->policy);
    answer(ratelimit, &item->token, &charge);
}

static void answer_charged(struct ratelimit *ratelimit, const struct charge_batch *batch, const struct charge_item *item)
{
    const struct item_limits limits = limits_of(batch, item);
    const struct charge_bundle *bundle = &batch->bundles[item->place];
    struct spending spendings[CHARGE_LIMITS_MAX];

    if (!item->is_bundle) {
        answer_spending(ratelimit, item, &limits, &batch->buckets[item->place].spending, false);
        return;
    }
    for (size_t i = 0; i < limits.count; i++)
        spendings[i] = (struct spending){
            .admitted = bundle->admitted, .left = bundle->left[i],
            .wait_us = bundle->left[i] == 0 ? limits.buckets[i]->spending.wait_us : 0,
        };
    answer_spending(ratelimit, item, &limits, spendings, false);
}

/* Each worker enforces its share of every limit; a share of nothing, or no room for a bucket, decides nothing. */
static void answer_locally(struct ratelimit *ratelimit, const struct charge_batch *batch, const struct charge_item *item)
{
    const struct item_limits limits = limits_of(batch, item);
    struct local_budget *budgets[CHARGE_LIMITS_MAX];
    struct spending spendings[CHARGE_LIMITS_MAX];
    uint64_t now_us = clock_monotonic_us();
    bool is_admitted = true, is_decided = item->is_local_allowed;

    for (size_t i = 0; i < limits.count && is_decided; i++) {
        const struct bucket_charge *bucket = limits.buckets[i];
        const uint64_t share = bucket->plan.limit / ratelimit->config->replicas_assumed;

        budgets[i] = share == 0 ? NULL : local_budget_find(ratelimit->budgets, LOCAL_BUDGETS_MAX,
                                                           bucket_name_hash(bucket->name, bucket->name_length), now_us);
        is_decided = budgets[i] != NULL;
        if (is_decided && local_budget_open(budgets[i], share, bucket->plan.window_s * 1000000u, now_us) == 0)
            is_admitted = false;
    }
    if (!is_decided) {
        answer_unavailable(ratelimit, &item->token);
        return;
    }
    for (size_t i = 0; i < limits.count; i++)
        spendings[i] = local_budget_close(budgets[i], is_admitted, now_us);
    answer_spending(ratelimit, item, &limits, spendings, true);
}

static void release(struct ratelimit *ratelimit, struct charge_batch *batch)
{
    batch->next = ratelimit->free_batches;
    ratelimit->free_batches = batch;
}

void on_charged(void *owner, struct store_call *call, enum err err)
{
    struct ratelimit *ratelimit = owner;
    struct charge_batch *batch = (struct charge_batch *)call;

    if (err == ERR_OK && call->was_repeated)
        metric_add(METRIC_charge_batches_repeated, 1);
    for (size_t i = 0; i < batch->item_count; i++) {
        if (err == ERR_OK)
            answer_charged(ratelimit, batch, &batch->items[i]);
        else
            answer_locally(ratelimit, batch, &batch->items[i]);
    }
    release(ratelimit, batch);
}

static struct charge_batch *begin_batch(struct ratelimit *ratelimit)
{
    struct charge_batch *batch = ratelimit->free_batches;

    if (batch != NULL)
        ratelimit->free_batches = batch->next;
    else if (ratelimit->batches_used < BATCHES_MAX)
        batch = &ratelimit->batches[ratelimit->batches_used++];
    if (batch == NULL)
        return NULL;
    batch->item_count = 0;
    batch->call = (struct store_call){ .buckets = batch->buckets, .bundles = batch->bundles };
    memset(ratelimit->grouping, 0, sizeof ratelimit->grouping);
    return batch;
}

static bool is_same_bucket(const struct bucket_charge *a, const struct bucket_charge *b, bool is_bundled)
{
    return a->name_length == b->name_length && memcmp(a->name, b->name, a->name_length) == 0
        && a->plan.limit == b->plan.limit && a->plan.window_s == b->plan.window_s && (a->wanted == 0) == is_bundled;
}

/* The batch's bucket of this name and plan; `fresh` stands behind the last one and becomes the next if it is new.
 * Those of bundles are others than those that are charged alone. */
static uint16_t group_bucket(struct ratelimit *ratelimit, struct charge_batch *batch, bool is_bundled)
{
    struct bucket_charge *fresh = &batch->buckets[batch->call.count];
    size_t slot = bucket_name_hash(fresh->name, fresh->name_length) % GROUPING_SLOTS;

    while (ratelimit->grouping[slot] != 0) {
        const uint16_t known = (uint16_t)(ratelimit->grouping[slot] - 1u);

        if (is_same_bucket(&batch->buckets[known], fresh, is_bundled))
            return known;
        slot = (slot + 1) % GROUPING_SLOTS;
    }
    fresh->wanted = 0;
    fresh->first_bundle = NO_BUNDLE;
    ratelimit->grouping[slot] = (uint16_t)(batch->call.count + 1);
    return (uint16_t)batch->call.count++;
}

/* The batch's bundle of these buckets; the first of them is one caller's, so it is in few. */
static uint16_t group_bundle(struct charge_batch *batch, const uint16_t *buckets, uint16_t count)
{
    uint16_t *first = &batch->buckets[buckets[0]].first_bundle;
    struct charge_bundle *fresh = &batch->bundles[batch->call.bundle_count];

    for (uint16_t i = *first; i != NO_BUNDLE; i = batch->bundles[i].next) {
        const struct charge_bundle *known = &batch->bundles[i];

        if (known->count == count && memcmp(known->buckets, buckets, count * sizeof buckets[0]) == 0)
            return i;
    }
    *fresh = (struct charge_bundle){ .count = count, .next = *first };
    memcpy(fresh->buckets, buckets, count * sizeof buckets[0]);
    *first = (uint16_t)batch->call.bundle_count;
    return (uint16_t)batch->call.bundle_count++;
}

static enum err group_own(struct ratelimit *ratelimit, struct charge_batch *batch, const struct charge_request *request,
                          uint16_t *ret_bucket)
{
    const bool is_bundled = request->tenant_rule != 0 || request->user_rule != 0;
    struct bucket_charge *fresh = &batch->buckets[batch->call.count];
    enum err err = rate_plan_find(&ratelimit->tiers, request->tier, request->requests, request->window_s, &fresh->plan);

    if (err == ERR_OK)
        err = bucket_name_format(request->subject, fresh->plan.policy, fresh->name, &fresh->name_length);
    if (err == ERR_OK)
        *ret_bucket = group_bucket(ratelimit, batch, is_bundled);
    return err;
}

/* user_id NULL: the limit of the whole tenant. */
static enum err group_tenant(struct ratelimit *ratelimit, struct charge_batch *batch, const struct charge_request *request,
                             const char *user_id, uint16_t *ret_bucket)
{
    struct bucket_charge *fresh = &batch->buckets[batch->call.count];
    enum err err = user_id != NULL ? rate_plan_of_rule(request->user_rule, "user", &fresh->plan)
                                   : rate_plan_of_rule(request->tenant_rule, "tenant", &fresh->plan);

    if (err == ERR_OK)
        err = bucket_name_of_tenant(request->tenant_id, user_id, fresh->name, &fresh->name_length);
    if (err == ERR_OK)
        *ret_bucket = group_bucket(ratelimit, batch, true);
    return err;
}

/* A bucket that an error leaves behind is charged nothing. */
static enum err group(struct ratelimit *ratelimit, struct charge_batch *batch, const struct charge_request *request,
                      struct charge_item *item)
{
    uint16_t buckets[CHARGE_LIMITS_MAX], count = 1;
    enum err err = group_own(ratelimit, batch, request, &buckets[0]);

    if (err == ERR_OK && request->user_rule != 0)
        err = group_tenant(ratelimit, batch, request, request->user_id, &buckets[count++]);
    if (err == ERR_OK && request->tenant_rule != 0)
        err = group_tenant(ratelimit, batch, request, NULL, &buckets[count++]);
    if (err != ERR_OK)
        return err;
    item->is_bundle = count > 1;
    item->place = item->is_bundle ? group_bundle(batch, buckets, count) : buckets[0];
    item->position = (uint16_t)(item->is_bundle ? batch->bundles[item->place].wanted++ : batch->buckets[item->place].wanted++);
    return ERR_OK;
}

static void on_charge_request(struct ratelimit *ratelimit, const struct bus_token *token,
                              const struct charge_request *request)
{
    struct charge_batch *batch = ratelimit->open;
    struct charge_item *item;

    if (batch == NULL)
        batch = ratelimit->open = begin_batch(ratelimit);
    if (batch == NULL || batch->item_count == FRAME_ITEMS_MAX
        || batch->call.count + CHARGE_LIMITS_MAX > CHARGE_BUCKETS_MAX) {
        answer_unavailable(ratelimit, token);
        return;
    }
    item = &batch->items[batch->item_count];
    if (group(ratelimit, batch, request, item) != ERR_OK) {
        answer_unavailable(ratelimit, token);
        return;
    }
    item->token = *token;
    item->is_local_allowed = request->on_failure == 1;
    batch->item_count++;
}
DEFINE_BUS_HANDLER(struct ratelimit, on_charge_request, charge_request)

/* A frame that came too late in whole never gets here: the bus drops it, and nothing is charged. */
void on_batch_end(void *owner, uint32_t edge, uint64_t epoch, uint64_t batch_id)
{
    struct ratelimit *ratelimit = owner;
    struct charge_batch *batch = ratelimit->open;
    enum err err;

    (void)edge;
    ratelimit->open = NULL;
    if (batch == NULL)
        return;
    batch->call.epoch = epoch;
    batch->call.batch = batch_id;
    if (batch->item_count == 0) {
        release(ratelimit, batch);
        return;
    }
    metric_add(METRIC_charge_batches, 1);
    err = ratelimit_store_charge(ratelimit->store, &batch->call);
    if (err != ERR_OK)
        on_charged(ratelimit, &batch->call, ERR_UNAVAILABLE);
}

const struct bus_handler ratelimit_handlers[] = {
    BUS_HANDLER(on_charge_request, charge_request),
    { 0 }
};
