/* ratelimit_handlers.c - a frame's charges become one script call; its answers become one reply each. */
#include <stdio.h>
#include <string.h>

#include "common/clock.h"
#include "common/metrics.h"
#include "services/ratelimit/ratelimit.h"

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

static void answer_spending(struct ratelimit *ratelimit, const struct charge_item *item, const struct rate_plan *plan,
                            const struct spending *spending, bool is_degraded)
{
    struct spending_share share = spending_share_of(spending, is_degraded ? 0 : item->position, plan->window_s);
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

/* Each worker enforces its share of the limit; a share of nothing, or no room for the bucket, decides nothing. */
static void answer_locally(struct ratelimit *ratelimit, const struct charge_item *item,
                           const struct bucket_charge *bucket)
{
    uint64_t share = bucket->plan.limit / ratelimit->config->replicas_assumed;
    uint64_t now_us = clock_monotonic_us();
    struct local_budget *budget = NULL;
    struct spending spending;

    if (item->is_local_allowed && share > 0)
        budget = local_budget_find(ratelimit->budgets, LOCAL_BUDGETS_MAX,
                                   bucket_name_hash(bucket->name, bucket->name_length), now_us);
    if (budget == NULL) {
        answer_unavailable(ratelimit, &item->token);
        return;
    }
    spending = local_budget_spend(budget, share, bucket->plan.window_s * 1000000u, now_us);
    answer_spending(ratelimit, item, &bucket->plan, &spending, true);
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
        const struct charge_item *item = &batch->items[i];
        const struct bucket_charge *bucket = &batch->buckets[item->bucket];

        if (err == ERR_OK)
            answer_spending(ratelimit, item, &bucket->plan, &bucket->spending, false);
        else
            answer_locally(ratelimit, item, bucket);
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
    batch->call = (struct store_call){ .buckets = batch->buckets };
    memset(ratelimit->grouping, 0, sizeof ratelimit->grouping);
    return batch;
}

static bool is_same_bucket(const struct bucket_charge *a, const struct bucket_charge *b)
{
    return a->name_length == b->name_length && memcmp(a->name, b->name, a->name_length) == 0
        && a->plan.limit == b->plan.limit && a->plan.window_s == b->plan.window_s;
}

/* The batch's bucket of this name and plan; `fresh` stands behind the last one and becomes the next if it is new. */
static size_t group_bucket(struct ratelimit *ratelimit, struct charge_batch *batch, const struct bucket_charge *fresh)
{
    size_t slot = bucket_name_hash(fresh->name, fresh->name_length) % GROUPING_SLOTS;

    while (ratelimit->grouping[slot] != 0) {
        size_t known = ratelimit->grouping[slot] - 1u;

        if (is_same_bucket(&batch->buckets[known], fresh))
            return known;
        slot = (slot + 1) % GROUPING_SLOTS;
    }
    ratelimit->grouping[slot] = (uint16_t)(batch->call.count + 1);
    return batch->call.count++;
}

static void on_charge_request(struct ratelimit *ratelimit, const struct bus_token *token,
                              const struct charge_request *request)
{
    struct charge_batch *batch = ratelimit->open;
    struct bucket_charge *fresh;
    struct charge_item *item;
    enum err err;

    if (batch == NULL)
        batch = ratelimit->open = begin_batch(ratelimit);
    if (batch == NULL || batch->item_count == FRAME_ITEMS_MAX) {
        answer_unavailable(ratelimit, token);
        return;
    }
    fresh = &batch->buckets[batch->call.count];
    err = rate_plan_find(&ratelimit->tiers, request->tier, request->requests, request->window_s, &fresh->plan);
    if (err == ERR_OK)
        err = bucket_name_format(request->subject, fresh->plan.policy, fresh->name, &fresh->name_length);
    if (err != ERR_OK) {
        answer_unavailable(ratelimit, token);
        return;
    }
    fresh->wanted = 0;
    item = &batch->items[batch->item_count++];
    item->token = *token;
    item->is_local_allowed = request->on_failure == 1;
    item->bucket = (uint16_t)group_bucket(ratelimit, batch, fresh);
    item->position = (uint16_t)batch->buckets[item->bucket].wanted++;
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
