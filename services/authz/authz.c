/* authz.c - puts the service together: start, lease and change reads, health, drain, stop. */
#include "services/authz/authz.h"

#include <stdio.h>
#include <stdlib.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/metrics.h"
#include "common/sabotage.h"
#include "services/authz/authz_inquiries.h"
#include "services/authz/authz_lookups.h"
#include "services/authz/authz_store.h"
#include "services/authz/authz_uses.h"

#define LEASE_READ_MS     100u
#define TRIGGERS_CHECK_MS 10000u
#define HEALTH_MS         1000u

const struct setting authz_settings[] = {
#define SETTING(type, name, fallback, min, max, meaning) \
    { #name, SETTING_##type, offsetof(struct authz_config, name), fallback, min, max, meaning },
#include "services/authz/config.def"
};
const size_t authz_settings_count = sizeof authz_settings / sizeof authz_settings[0];

static void tell_health(void *self)
{
    struct authz *authz = self;
    enum lease_state state = lease_state(&authz->lease, clock_boottime_us());

    ops_set_fact(authz->ops, "postgres", store_has_postgres(authz->store));
    ops_set_fact(authz->ops, "lease", state == LEASE_VALID);
    if (store_uses_redis(authz->store))
        ops_set_note(authz->ops, "redis", store_has_redis(authz->store));
    inquiries_tell_health(authz->inquiries, authz->ops);
    metric_set(METRIC_lease_valid, state == LEASE_VALID);
    metric_set(METRIC_cache_entries, cache_known_count(authz->cache));
    metric_set(METRIC_cache_unknown_entries, cache_unknown_count(authz->cache));
    uses_tidy(authz->uses, false);
}

/* Starts over: what was cached before counts for nothing.  A number that went backwards is another history of the
 * database (restored from a backup), in which the same numbers mean other changes. */
static void start_over(struct authz *authz, uint64_t sequence)
{
    cache_clear(authz->cache);
    changes_reset(authz->changes, sequence);
    inquiries_forget(authz->inquiries);
    bus_set_applied(authz->bus, sequence);
}

/* First the number alone; then the last rows before it are read like later ones, so that entries other workers left in
 * Redis can be judged from the first request on. */
static void on_first_number(struct authz *authz, uint64_t sequence)
{
    authz->started = true;
    start_over(authz, sequence > CHANGES_MAX ? sequence - CHANGES_MAX : 0);
    authz->read_again = true;
}

/* Rows may have been cleared away before we read them: then only what was read behind them counts.
 * false: there are more to be read before the lease counts. */
static bool apply_changes(struct authz *authz, const struct store_changes *read)
{
    for (size_t i = 0; i < read->count; i++) {
        struct change_row row = store_change_at(read, i);

        if (row.sequence != changes_applied(authz->changes) + 1)
            changes_reset(authz->changes, row.sequence - 1);
        if (!changes_apply(authz->changes, &row))
            return false;
    }
    if (changes_applied(authz->changes) < read->sequence && read->count == STORE_CHANGES_PAGE)
        return false;
    if (changes_applied(authz->changes) != read->sequence) {
        log_warn("change_rows_missing", log_number("applied", changes_applied(authz->changes)),
                 log_number("sequence", read->sequence));
        start_over(authz, read->sequence);
    }
    return true;
}

static void take_lease(struct authz *authz)
{
    uint64_t now_us = clock_boottime_us();

    lease_renew(&authz->lease, authz->asked_us, now_us);
    if (authz->ready || !store_has_postgres(authz->store) || !inquiries_are_ready(authz->inquiries)
        || lease_state(&authz->lease, now_us) != LEASE_VALID)
        return;
    authz->ready = true;
    bus_set_ready(authz->bus, true);
    log_info("lease_taken", log_number("sequence", changes_applied(authz->changes)));
    tell_health(authz);
}

static void read_changes(void *self);

static void on_changes(void *owner, const struct store_changes *read)
{
    struct authz *authz = owner;
    uint64_t before = changes_applied(authz->changes);

    authz->reading = false;
    if (read == NULL)
        return;
    lease_turn(&authz->lease, clock_boottime_us());
    if (!authz->started) {
        on_first_number(authz, read->sequence);
    } else {
        bool complete = apply_changes(authz, read);

        if (changes_applied(authz->changes) != before) {
            metric_set(METRIC_change_applied, changes_applied(authz->changes));
            bus_set_applied(authz->bus, changes_applied(authz->changes));
            inquiries_note_changes(authz->inquiries);
        }
        if (complete)
            take_lease(authz);
        authz->read_again = authz->read_again || !complete;
    }
    if (authz->read_again)
        read_changes(authz);
}

static void read_changes(void *self)
{
    struct authz *authz = self;

    if (authz->reading) {
        authz->read_again = true;
        return;
    }
    authz->read_again = false;
    authz->asked_us = clock_boottime_us();
    authz->reading = store_read_changes(authz->store, changes_applied(authz->changes), authz->started, on_changes, authz)
                     == ERR_OK;
}

/* A timer's tick while a read is under way asks for nothing: it will be repeated by the next tick. */
static void on_lease_timer(void *self)
{
    struct authz *authz = self;

    if (authz->ready && lacks("lease"))
        lease_renew(&authz->lease, clock_boottime_us(), clock_boottime_us());
    else if (!authz->reading)
        read_changes(authz);
}

static void on_store_state(void *self)
{
    struct authz *authz = self;

    if (authz->store == NULL)
        return;
    tell_health(authz);
    on_lease_timer(authz);
}

static void on_triggers(void *owner, bool answered, bool present)
{
    struct authz *authz = owner;

    if (!answered)
        return;
    ops_set_note(authz->ops, "triggers", present);
    metric_set(METRIC_trigger_missing, !present);
    if (authz->red_triggers != !present) {
        authz->red_triggers = !present;
        if (present)
            log_info("triggers_restored");
        else
            log_error("triggers_missing", log_text("remedy", "run mcpgw-keys migrate: changes made outside the gateway are not seen"));
    }
}

static void check_triggers(void *self)
{
    struct authz *authz = self;
    enum err err = store_check_triggers(authz->store, on_triggers, authz);

    (void)err;    /* without Postgres there is nothing to check, and the fact "postgres" says so */
}

static void on_turn(void *self)
{
    struct authz *authz = self;

    lease_turn(&authz->lease, clock_boottime_us());
}

static enum err make_parts(struct authz *authz, const struct issuers *issuers, char *reterr, size_t reterr_size)
{
    const struct authz_config *config = authz->config;
    const struct bus_options bus = {
        .role = SERVICE_AUTHZ, .credits = AUTHZ_CREDITS, .handlers = authz_handlers, .owner = authz,
        .config = &config->common,
    };
    const struct store_options store = {
        .config = config, .row_limits = authz->row_limits, .on_change = read_changes, .on_state = on_store_state, .owner = authz,
    };
    enum err err = cache_new(config->cache_entries, config->unknown_entries, &authz->cache);

    if (err == ERR_OK)
        err = changes_new(CHANGES_MAX, &authz->changes);
    if (err == ERR_OK)
        err = lookups_new(authz, &authz->lookups);
    if (err == ERR_OK)
        err = uses_new(authz, &authz->uses);
    if (err == ERR_OK)
        err = inquiries_new(authz, issuers, &authz->inquiries, reterr, reterr_size);
    if (err == ERR_OK)
        err = bus_new(authz->loop, &bus, &authz->bus);
    if (err == ERR_OK)
        err = store_new(authz->loop, &store, &authz->store);
    return err;
}

static bool start_timers(struct authz *authz)
{
    uint64_t quarter = authz->config->lease_ms / 4;

    return loop_every(authz->loop, quarter < LEASE_READ_MS ? quarter : LEASE_READ_MS, on_lease_timer, authz) > 0
           && loop_every(authz->loop, TRIGGERS_CHECK_MS, check_triggers, authz) > 0
           && loop_every(authz->loop, HEALTH_MS, tell_health, authz) > 0
           && loop_after(authz->loop, HEALTH_MS, check_triggers, authz) > 0
           && loop_add_hook(authz->loop, on_turn, authz) == ERR_OK;
}

enum err authz_start(const struct service_context *context, void **ret_self, char *reterr, size_t reterr_size)
{
    const struct authz_config *config = context->config;
    enum row_limits row_limits;
    struct authz *authz;
    enum err err;

    if (!secret_is_set(&config->database_url)) {
        snprintf(reterr, reterr_size, "database_url is not set: give it as MCPGW_DATABASE_URL");
        return ERR_MALFORMED;
    }
    if (!row_limits_parse(config->better_auth_row_limits, &row_limits)) {
        snprintf(reterr, reterr_size, "better_auth_row_limits: \"%s\": one of obey, ignore_default, ignore", config->better_auth_row_limits);
        return ERR_MALFORMED;
    }
    authz = calloc(1, sizeof *authz);
    if (authz == NULL)
        return ERR_NO_MEMORY;
    authz->config = config;
    authz->row_limits = row_limits;
    authz->loop = context->loop;
    authz->ops = context->ops;
    lease_init(&authz->lease, config->lease_ms * 1000, config->stale_grace_ms * 1000, clock_boottime_us());
    err = make_parts(authz, context->issuers, reterr, reterr_size);
    if (err == ERR_OK && !start_timers(authz))
        err = ERR_NO_MEMORY;
    if (err != ERR_OK) {
        void *self = authz;

        if (reterr[0] == '\0')
            snprintf(reterr, reterr_size, "%s", err_meaning(err));
        authz_stop(&self);
        return err;
    }
    if (secret_is_set(&config->redis_url) && !store_uses_redis(authz->store))
        log_warn("redis_unused", log_text("remedy", "set cache_key, the same for all authz workers"));
    tell_health(authz);
    *ret_self = authz;
    return ERR_OK;
}

void authz_begin_drain(void *self)
{
    struct authz *authz = self;

    bus_say_goodbye(authz->bus, "stopping");
}

/* Answered all; then what is left of keys with uses goes back to them. */
bool authz_is_drained(void *self)
{
    const struct authz *authz = self;

    if (!bus_is_drained(authz->bus))
        return false;
    uses_tidy(authz->uses, true);
    return uses_are_back(authz->uses);
}

void authz_stop(void **self)
{
    struct authz *authz = *self;

    if (authz == NULL)
        return;
    authz->read_again = false;
    inquiries_destroy(&authz->inquiries);
    store_destroy(&authz->store);    /* first: its last answers still go to the bus */
    bus_destroy(&authz->bus);
    lookups_destroy(&authz->lookups);
    uses_destroy(&authz->uses);
    changes_destroy(&authz->changes);
    cache_destroy(&authz->cache);
    free(authz);
    *self = NULL;
}
