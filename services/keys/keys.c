/* keys.c - puts the service together: start, readiness, calls in work, hourly pruning, drain, stop. */
#include "services/keys/key_life.h"
#include "services/keys/keys.h"
#include "services/keys/doctor.h"
#include "services/keys/settle.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/metrics.h"

#define PRUNE_MS      3600000u
#define PRUNE_SOON_MS 60000u
#define LIFE_SOON_MS  2000u

const struct setting keys_settings[] = {
#define SETTING(type, name, fallback, min, max, meaning) \
    { #name, SETTING_##type, offsetof(struct keys_config, name), fallback, min, max, meaning },
#include "services/keys/config.def"
};
const size_t keys_settings_count = sizeof keys_settings / sizeof keys_settings[0];

void keys_make_id(char id[KEYS_ID_SIZE])
{
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    uint8_t bytes[64];
    size_t used = sizeof bytes;

    for (size_t i = 0; i < KEYS_ID_SIZE - 1;) {
        if (used == sizeof bytes) {
            random_bytes(bytes, sizeof bytes);
            used = 0;
        }
        /* 248 = 4 * 62: what lies above would favour the first letters */
        if (bytes[used] < 248)
            id[i++] = letters[bytes[used] % 62];
        used++;
    }
    id[KEYS_ID_SIZE - 1] = '\0';
}

struct pending *pending_take(struct keys *keys)
{
    struct pending *p = keys->free;

    if (p == NULL)
        return NULL;
    keys->free = p->next;
    keys->pending_count++;
    p->next = NULL;
    return p;
}

static void forget_presented(struct pending *p)
{
    if (p->presented != NULL)
        OPENSSL_cleanse(p->presented, p->presented_size);
    free(p->presented);
}

void pending_release(struct pending *p)
{
    struct keys *keys = p->keys;

    secret_wipe(&p->made);
    forget_presented(p);
    json_decref(p->body);
    json_decref(p->asked);
    free(p->asked_query);
    memset(p, 0, sizeof *p);
    p->keys = keys;
    p->next = keys->free;
    keys->free = p;
    keys->pending_count--;
}

static void tell_health(struct keys *keys)
{
    ops_set_fact(keys->ops, "postgres", keys->store != NULL && store_is_connected(keys->store));
}

static void on_issuers_dropped(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    struct keys *keys = owner;

    (void)count;
    keys->has_dropped_issuers = outcome == PG_DONE;
    if (outcome != PG_DONE)
        log_warn("issuers_not_dropped", log_text("sqlstate", outcome == PG_REFUSED ? postgres_sqlstate(results[0]) : ""));
    else if (postgres_i64(results[0], 0, 0) > 0)
        log_info("issuers_dropped", log_number("count", postgres_i64(results[0], 0, 0)));
}

/* Once: who was taken out of the settings is trusted no more, in the moment the first keys service has the new ones. */
static void drop_issuers(struct keys *keys)
{
    char names[ISSUERS_MAX * (ISSUER_NAME_MAX + 1) + 1] = "";
    size_t size = 0;

    for (size_t i = 0; i < keys->issuers->count; i++)
        if (issuer_has_keys(&keys->issuers->list[i]))
            size += (size_t)snprintf(names + size, sizeof names - size, "%s,", keys->issuers->list[i].name);
    if (store_drop_issuers(keys->store, names, on_issuers_dropped, keys) != ERR_OK)
        log_debug("issuers_not_dropped");    /* with the next connection */
}

static void on_store_state(void *owner, bool connected)
{
    struct keys *keys = owner;

    ops_set_fact(keys->ops, "postgres", connected);
    if (!connected) {
        bus_set_ready(keys->bus, false);
        ops_set_fact(keys->ops, "changes", false);
    }
    if (connected && !keys->has_dropped_issuers)
        drop_issuers(keys);
    feed_on_state(keys->feed, connected);
    entries_on_state(keys->entries, connected);
}

static void on_store_change(void *owner)
{
    struct keys *keys = owner;

    feed_on_change(keys->feed);
    entries_on_change(keys->entries);
}

/* The change number is read: from here on questions can be answered. */
static void on_current(void *owner)
{
    struct keys *keys = owner;

    ops_set_fact(keys->ops, "changes", true);
    if (!keys->is_draining)
        bus_set_ready(keys->bus, true);
}

static void on_edge(void *owner, uint32_t edge, bool up)
{
    struct keys *keys = owner;

    feed_on_edge(keys->feed, edge, up);
}

static void on_pruned(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    (void)owner, (void)count;
    if (outcome == PG_DONE)
        log_debug("changes_pruned", log_number("count", postgres_i64(results[0], 0, 0)));
    else
        log_warn("prune_failed", log_text("sqlstate", outcome == PG_REFUSED ? postgres_sqlstate(results[0]) : ""));
}

static void on_life_pruned(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    (void)owner, (void)results, (void)count;
    if (outcome != PG_DONE)
        log_warn("prune_failed");
}

static void on_prune_timer(void *owner)
{
    struct keys *keys = owner;

    if (store_prune(keys->store, on_pruned, keys) != ERR_OK || store_prune_key_life(keys->store, on_life_pruned, keys) != ERR_OK)
        log_debug("prune_postponed");
}

static void on_life_timer(void *owner)
{
    key_life_turn(owner);
}

static enum err make_parts(struct keys *keys)
{
    const struct keys_config *config = keys->config;
    enum err err;

    err = feed_new(&(struct feed_options){ .loop = keys->loop, .grace_ms = config->lease_ms + config->stale_grace_ms,
                                           .on_current = on_current, .owner = keys }, &keys->feed);
    if (err == ERR_OK)
        err = bus_new(keys->loop,
                      &(struct bus_options){ .role = SERVICE_KEYS,
                                             .credits = KEYS_PENDING_MAX,
                                             .handlers = keys_handlers,
                                             .on_edge = on_edge,
                                             .owner = keys,
                                             .config = &config->common },
                      &keys->bus);
    if (err != ERR_OK)
        return err;
    feed_set_bus(keys->feed, keys->bus);
    err = store_new(keys->loop, &(struct store_options){ .url = &config->database_url, .on_change = on_store_change,
                                                         .on_state = on_store_state, .owner = keys }, &keys->store);
    if (err == ERR_OK)
        feed_set_store(keys->feed, keys->store);
    if (err == ERR_OK)
        err = settler_new(keys->loop, keys->store, config, &keys->settler);
    return err;
}

static void on_issuer_health(void *owner, bool all_have_keys)
{
    struct keys *keys = owner;

    ops_set_note(keys->ops, "issuers", all_have_keys);
}

static enum err make_keeper(struct keys *keys, char *reterr, size_t reterr_size)
{
    const struct keys_config *config = keys->config;
    const struct issuer_keeper_options options = {
        .loop = keys->loop, .database_url = &config->database_url, .issuers = keys->issuers, .instance = config->common.instance,
        .fetch = { .ca_file = config->fetch_ca_file, .allow_private = config->fetch_private,
                   .allow_plain_http = config->fetch_plain_http },
        .fetch_ms = config->fetch_ms, .on_health = on_issuer_health, .owner = keys,
    };
    enum err err;

    if (keys->issuers->count == 0)
        return ERR_OK;
    err = issuer_keeper_new(&options, &keys->keeper);
    if (err == ERR_UNPROCESSABLE)
        snprintf(reterr, reterr_size, "fetch_ca_file: %.200s holds no certificate that can be read; name a PEM file", config->fetch_ca_file);
    return err;
}

static void on_entries_state(void *owner, bool connected)
{
    struct keys *keys = owner;

    ops_set_note(keys->ops, "better_auth_redis", connected);
}

static enum err make_entries(struct keys *keys, char *reterr, size_t reterr_size)
{
    const struct keys_config *config = keys->config;

    if (!secret_is_set(&config->better_auth_redis_url))
        return ERR_OK;
    if (strcmp(config->better_auth_digest, "plain") == 0) {
        snprintf(reterr, reterr_size, "better_auth_redis_url: with better_auth_digest=plain entries are named by the keys"
                                      " themselves, which nobody knows here; let the plugin hash keys, or keep them out of Redis");
        return ERR_MALFORMED;
    }
    ops_set_note(keys->ops, "better_auth_redis", false);
    return entries_new(&(struct entries_options){ .loop = keys->loop, .store = keys->store, .url = &config->better_auth_redis_url,
                                                  .prefix = config->better_auth_redis_prefix,
                                                  .is_hex = strcmp(config->better_auth_digest, "hex") == 0,
                                                  .on_state = on_entries_state, .owner = keys }, &keys->entries);
}

static void keys_stop(void **self)
{
    struct keys *keys = *self;

    loop_cancel(keys->loop, keys->prune_timer);
    loop_cancel(keys->loop, keys->prune_soon);
    issuer_keeper_destroy(&keys->keeper);
    loop_cancel(keys->loop, keys->life_timer);
    loop_cancel(keys->loop, keys->life_soon);
    store_destroy(&keys->store);
    settler_destroy(&keys->settler);
    entries_destroy(&keys->entries);
    feed_destroy(&keys->feed);
    bus_destroy(&keys->bus);
    for (size_t i = 0; i < KEYS_PENDING_MAX; i++) {
        secret_wipe(&keys->pending[i].made);
        forget_presented(&keys->pending[i]);
        json_decref(keys->pending[i].body);
        json_decref(keys->pending[i].asked);
        free(keys->pending[i].asked_query);
    }
    free(keys);
    *self = NULL;
}

static enum err keys_start(const struct service_context *context, void **ret_self, char *reterr, size_t reterr_size)
{
    const struct keys_config *config = context->config;
    struct keys *keys;
    enum err err;

    if (!secret_is_set(&config->database_url)) {
        snprintf(reterr, reterr_size,
                 "database_url is not set: give MCPGW_DATABASE_URL, a Postgres URL for the role mcpgw_keys");
        return ERR_MALFORMED;
    }
    if (config->expiring_days[0] != '\0' && !key_life_days_are_valid(config->expiring_days)) {
        snprintf(reterr, reterr_size, "expiring_days: at most 8 numbers from 1 to 365 with commas between, such as 14,7,1");
        return ERR_MALFORMED;
    }
    keys = calloc(1, sizeof *keys);
    if (keys == NULL)
        return ERR_NO_MEMORY;
    *ret_self = keys;    /* stop() frees what there is, also of a start that failed */
    keys->config = config;
    keys->loop = context->loop;
    keys->ops = context->ops;
    keys->issuers = context->issuers;
    for (size_t i = KEYS_PENDING_MAX; i > 0; i--) {
        keys->pending[i - 1].keys = keys;
        keys->pending[i - 1].next = keys->free;
        keys->free = &keys->pending[i - 1];
    }
    tell_health(keys);
    ops_set_fact(keys->ops, "changes", false);
    err = make_parts(keys);
    if (err == ERR_OK)
        err = make_keeper(keys, reterr, reterr_size);
    if (err == ERR_OK)
        err = make_entries(keys, reterr, reterr_size);
    if (err != ERR_OK)
        return err;
    keys->prune_timer = loop_every(keys->loop, PRUNE_MS, on_prune_timer, keys);
    keys->prune_soon = loop_after(keys->loop, PRUNE_SOON_MS, on_prune_timer, keys);
    keys->life_timer = loop_every(keys->loop, (uint32_t)(config->key_life_s * 1000), on_life_timer, keys);
    keys->life_soon = loop_after(keys->loop, LIFE_SOON_MS, on_life_timer, keys);
    return ERR_OK;
}

static void keys_begin_drain(void *self)
{
    struct keys *keys = self;

    keys->is_draining = true;
    bus_say_goodbye(keys->bus, "stopping");
}

static bool keys_is_drained(void *self)
{
    const struct keys *keys = self;

    return keys->pending_count == 0;
}

static const struct service_command commands[] = {
    { "migrate", "apply the schema, as the owner (owner_database_url)", migrate_command },
    { "bootstrap", "make the administrator and one key, once; [--key-file FILE] takes the key", bootstrap_run },
    { "doctor", "look at Better-Auth's table, as the owner; [--create-indexes] [--json]", doctor_command },
    { NULL, NULL, NULL }
};

const struct service_type keys_service = {
    .role = SERVICE_KEYS,
    .name = "keys",
    .purpose = "Manages API keys and upstream servers, and tells edges what has changed.",
    .settings = keys_settings,
    .setting_count = sizeof keys_settings / sizeof keys_settings[0],
    .config_size = sizeof(struct keys_config),
    .commands = commands,
    .start = keys_start,
    .begin_drain = keys_begin_drain,
    .is_drained = keys_is_drained,
    .stop = keys_stop,
};
