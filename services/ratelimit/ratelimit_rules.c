#include "services/ratelimit/ratelimit_rules.h"

#include <stdio.h>
#include <string.h>

#include "common/rate_rule.h"
#include "common/scope.h"

enum err rate_plan_find(const struct tier_limits *tiers, uint64_t tier, uint64_t requests, uint64_t window_s,
                        struct rate_plan *ret_plan)
{
    struct rate_plan plan = { "key", requests, window_s };

    if (requests == 0 || window_s == 0)
        plan.window_s = tiers->window_s;
    if (requests == 0) {
        plan.policy = tier_text(tier);
        plan.limit = tier == TIER_ADMIN ? tiers->admin
                   : tier == TIER_API_KEY ? tiers->api_key
                   : tier == TIER_OAUTH ? tiers->oauth : 0;
    }
    if (plan.limit == 0 || plan.window_s == 0 || plan.window_s > RATE_WINDOW_MAX_S)
        return ERR_UNPROCESSABLE;

    if (plan.limit > RATE_LIMIT_MAX)
        plan.limit = RATE_LIMIT_MAX;
    *ret_plan = plan;
    return ERR_OK;
}

enum err rate_plan_of_rule(uint64_t rule, const char *policy, struct rate_plan *ret_plan)
{
    struct rate_plan plan = { policy, rate_rule_requests(rule), rate_rule_window_s(rule) };

    if (plan.limit == 0 || plan.window_s == 0 || plan.window_s > RATE_WINDOW_MAX_S)
        return ERR_UNPROCESSABLE;
    if (plan.limit > RATE_LIMIT_MAX)
        plan.limit = RATE_LIMIT_MAX;
    *ret_plan = plan;
    return ERR_OK;
}

enum err bucket_name_format(const char *subject, const char *policy, char ret_name[BUCKET_NAME_SIZE],
                            size_t *ret_length)
{
    bool is_key = strncmp(subject, "k:", 2) == 0;
    int length;

    if (subject[0] == 0)
        return ERR_UNPROCESSABLE;
    length = snprintf(ret_name, BUCKET_NAME_SIZE, "mcpgw:rl:%s%s%s", subject, is_key ? "" : ":", is_key ? "" : policy);
    if (length < 0 || (size_t)length >= BUCKET_NAME_SIZE)
        return ERR_UNPROCESSABLE;

    *ret_length = (size_t)length;
    return ERR_OK;
}

enum err bucket_name_of_tenant(const char *tenant_id, const char *user_id, char ret_name[BUCKET_NAME_SIZE],
                               size_t *ret_length)
{
    int length;

    if (tenant_id[0] == 0 || (user_id != NULL && user_id[0] == 0))
        return ERR_UNPROCESSABLE;
    if (user_id == NULL)
        length = snprintf(ret_name, BUCKET_NAME_SIZE, "mcpgw:rl:t:%s", tenant_id);
    else
        length = snprintf(ret_name, BUCKET_NAME_SIZE, "mcpgw:rl:p:%s/%s", tenant_id, user_id);
    if (length < 0 || (size_t)length >= BUCKET_NAME_SIZE)
        return ERR_UNPROCESSABLE;

    *ret_length = (size_t)length;
    return ERR_OK;
}

/* FNV-1a, 64 bits (draft-eastlake-fnv). */
uint64_t bucket_name_hash(const char *name, size_t length)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);

    for (size_t i = 0; i < length; i++)
        hash = (hash ^ (uint8_t)name[i]) * UINT64_C(0x100000001b3);
    return hash;
}

struct spending_share spending_share_of(const struct spending *spending, uint64_t position, uint64_t window_s)
{
    if (position >= spending->admitted)
        return (struct spending_share){ false, 0, (spending->wait_us + 999) / 1000 };
    return (struct spending_share){ true, spending->left + (spending->admitted - 1 - position), window_s * 1000 };
}

size_t spending_tightest(const struct spending *spendings, size_t count, uint64_t position)
{
    const bool is_admitted = position < spendings[0].admitted;
    size_t tightest = 0;

    for (size_t i = 1; i < count; i++) {
        const struct spending *best = &spendings[tightest], *other = &spendings[i];

        if (is_admitted ? other->left < best->left : other->wait_us > best->wait_us)
            tightest = i;
    }
    return tightest;
}

static bool is_idle(const struct local_budget *budget, uint64_t now_us)
{
    return budget->limit == 0 || now_us - budget->last_us >= budget->window_us;
}

struct local_budget *local_budget_find(struct local_budget *budgets, size_t count, uint64_t owner, uint64_t now_us)
{
    struct local_budget *idle = NULL;

    for (size_t i = 0; i < LOCAL_PROBES; i++) {
        struct local_budget *budget = &budgets[(owner + i) % count];

        if (budget->limit != 0 && budget->owner == owner)
            return budget;
        if (idle == NULL && is_idle(budget, now_us))
            idle = budget;
    }
    if (idle != NULL)
        *idle = (struct local_budget){ .owner = owner };
    return idle;
}

static uint64_t group_of(uint64_t limit)
{
    return limit < LOCAL_GROUPS - 2 ? 1 : (limit + LOCAL_GROUPS - 3) / (LOCAL_GROUPS - 2);
}

/* All that may still count is taken for spent at the last admission. */
static void change_plan(struct local_budget *budget, uint64_t limit, uint64_t window_us)
{
    uint64_t counted = budget->limit == 0 ? 0 : budget->spent - budget->freed * group_of(budget->limit);

    budget->spent = counted < limit ? counted : limit;
    budget->freed = 0;
    budget->limit = limit;
    budget->window_us = window_us;
    for (size_t i = 0; i < LOCAL_GROUPS; i++)
        budget->ended_us[i] = budget->last_us;
}

uint64_t local_budget_open(struct local_budget *budget, uint64_t limit, uint64_t window_us, uint64_t now_us)
{
    const uint64_t group = group_of(limit);

    if (budget->limit != limit || budget->window_us != window_us)
        change_plan(budget, limit, window_us);
    if (is_idle(budget, now_us)) {
        budget->spent = budget->freed = 0;
        budget->last_us = now_us;    /* in use from here on, so that it is not given away meanwhile */
    }
    while (budget->freed < budget->spent / group
           && now_us - budget->ended_us[budget->freed % LOCAL_GROUPS] >= window_us)
        budget->freed++;
    return budget->freed * group + limit - budget->spent;
}

struct spending local_budget_close(struct local_budget *budget, bool is_admitted, uint64_t now_us)
{
    const uint64_t group = group_of(budget->limit);
    uint64_t available = budget->freed * group + budget->limit - budget->spent;

    if (!is_admitted)
        return (struct spending){ 0, available, available > 0 ? 0
            : budget->ended_us[budget->freed % LOCAL_GROUPS] + budget->window_us - now_us };
    budget->spent++;
    budget->last_us = now_us;
    if (budget->spent % group == 0)
        budget->ended_us[(budget->spent / group - 1) % LOCAL_GROUPS] = now_us;
    return (struct spending){ 1, available - 1, 0 };
}
