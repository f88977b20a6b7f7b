/* main.c - starts a ratelimit worker: settings, Redis, the bus. */
#include "services/ratelimit/ratelimit.h"

static enum err start(const struct service_context *context, void **ret_self, char *reterr, size_t reterr_size)
{
    struct ratelimit *ratelimit = NULL;
    enum err err = ratelimit_new(context, &ratelimit, reterr, reterr_size);

    if (err == ERR_OK)
        *ret_self = ratelimit;
    return err;
}

static void begin_drain(void *self)
{
    bus_say_goodbye(((struct ratelimit *)self)->bus, "stopping");
}

static bool is_drained(void *self)
{
    return bus_is_drained(((struct ratelimit *)self)->bus);
}

static void stop(void **self)
{
    struct ratelimit *ratelimit = *self;

    ratelimit_destroy(&ratelimit);
    *self = NULL;
}

int main(int argc, char **argv)
{
    const struct service_type type = {
        .role = SERVICE_RATELIMIT,
        .name = "ratelimit",
        .purpose = "charges requests to budgets in Redis",
        .settings = ratelimit_settings,
        .setting_count = ratelimit_setting_count,
        .config_size = sizeof(struct ratelimit_config),
        .start = start,
        .begin_drain = begin_drain,
        .is_drained = is_drained,
        .stop = stop,
    };

    return service_main(&type, argc, argv);
}
