#include "services/ratelimit/ratelimit.h"

#include <stdio.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/metrics.h"

const struct setting ratelimit_settings[] = {
#define SETTING(type, name, fallback, min, max, meaning) \
    { #name, SETTING_##type, offsetof(struct ratelimit_config, name), fallback, min, max, meaning },
#include "services/ratelimit/config.def"
};
const size_t ratelimit_setting_count = sizeof ratelimit_settings / sizeof ratelimit_settings[0];

static struct ratelimit *take_ratelimit(struct ratelimit **from)
{
    struct ratelimit *taken = *from;

    *from = NULL;
    return taken;
}

static void on_store_state(void *owner, bool connected)
{
    struct ratelimit *ratelimit = owner;

    ops_set_fact(ratelimit->ops, "redis", connected);
}

static void on_limits_lost(void *owner)
{
    (void)owner;
    metric_add(METRIC_limits_lost, 1);
    log_warn("limits_lost", log_text("effect", "every budget starts full again: Redis came back without its data"));
}

/* Memory is reserved, not touched: only as many batches as were ever under way at once become resident. */
static enum err reserve(struct ratelimit *ratelimit)
{
    ratelimit->batches = calloc(BATCHES_MAX, sizeof *ratelimit->batches);
    ratelimit->budgets = calloc(LOCAL_BUDGETS_MAX, sizeof *ratelimit->budgets);
    return ratelimit->batches == NULL || ratelimit->budgets == NULL ? ERR_NO_MEMORY : ERR_OK;
}

static enum err open_store(struct ratelimit *ratelimit)
{
    const struct ratelimit_store_options options = {
        .url = &ratelimit->config->redis_url,
        .timeout_ms = (uint32_t)ratelimit->config->redis_timeout_ms,
        .on_charged = on_charged,
        .on_state = on_store_state,
        .on_lost = on_limits_lost,
        .owner = ratelimit,
    };

    return ratelimit_store_new(ratelimit->loop, &options, &ratelimit->store);
}

static enum err open_bus(struct ratelimit *ratelimit)
{
    const struct bus_options options = {
        .role = SERVICE_RATELIMIT,
        .credits = ratelimit->config->credits,
        .handlers = ratelimit_handlers,
        .on_batch_end = on_batch_end,
        .owner = ratelimit,
        .config = &ratelimit->config->common,
    };

    return bus_new(ratelimit->loop, &options, &ratelimit->bus);
}

enum err ratelimit_new(const struct service_context *context, struct ratelimit **ret_ratelimit,
                       char *reterr, size_t reterr_size)
{
    OWNED(ratelimit_destroy) struct ratelimit *ratelimit = calloc(1, sizeof *ratelimit);
    const struct ratelimit_config *config = context->config;
    enum err err;

    if (ratelimit == NULL || reserve(ratelimit) != ERR_OK) {
        snprintf(reterr, reterr_size, "not enough memory");
        return ERR_NO_MEMORY;
    }
    if (!secret_is_set(&config->redis_url)) {
        snprintf(reterr, reterr_size, "redis_url is not set: MCPGW_REDIS_URL=redis://host:6379 or unix:///path");
        return ERR_MALFORMED;
    }
    ratelimit->config = config;
    ratelimit->loop = context->loop;
    ratelimit->ops = context->ops;
    ratelimit->tiers = (struct tier_limits){ config->limit_admin, config->limit_api_key, config->limit_oauth,
                                             config->limit_window_s };
    ops_set_fact(ratelimit->ops, "redis", false);
    err = open_store(ratelimit);
    if (err != ERR_OK) {
        snprintf(reterr, reterr_size,
                 "redis_url cannot be used: it must be redis://user:password@host:port/db or unix:///path");
        return err;
    }
    err = open_bus(ratelimit);
    if (err != ERR_OK) {
        snprintf(reterr, reterr_size, "the bus cannot be joined: %s", err_meaning(err));
        return err;
    }
    /* Ready without Redis too: the answer is then a prompt refusal, or the limits from memory. */
    bus_set_ready(ratelimit->bus, true);
    *ret_ratelimit = take_ratelimit(&ratelimit);
    return ERR_OK;
}

void ratelimit_destroy(struct ratelimit **ratelimit)
{
    if (*ratelimit == NULL)
        return;
    ratelimit_store_destroy(&(*ratelimit)->store);    /* answers what is on its way, over the bus */
    bus_destroy(&(*ratelimit)->bus);
    free((*ratelimit)->batches);
    free((*ratelimit)->budgets);
    free(*ratelimit);
    *ratelimit = NULL;
}
