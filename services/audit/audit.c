#include "services/audit/audit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/metrics.h"
#include "services/audit/audit_intake.h"
#include "services/audit/audit_outbox.h"
#include "services/audit/audit_seal.h"
#include "services/audit/audit_store.h"

#define LOCK_EVERY_MS     300u
#define OUTBOX_EVERY_MS   250u
#define TEND_EVERY_MS     1000u
#define MAINTAIN_EVERY_MS 3600000u
#define CREDITS           1u    /* nobody asks audit anything */

struct audit {
    const struct audit_config *config;
    struct ops *ops;
    struct bus *bus;
    struct audit_store *store;
    struct intake *intake;
    struct outbox *outbox;
    struct seal *seal;
    uint64_t token;                  /* 0: standing by */
    bool is_asking_lock, is_sweeping, is_counting, is_exporting;
    bool is_draining;
};

const struct setting audit_settings[] = {
#define SETTING(type, name, fallback, min, max, meaning) \
    { #name, SETTING_##type, offsetof(struct audit_config, name), fallback, min, max, meaning },
#include "services/audit/config.def"
};
const size_t audit_settings_count = sizeof audit_settings / sizeof audit_settings[0];

static void stand_by(struct audit *audit)
{
    if (audit->token != 0)
        log_warn("audit_stood_by");
    audit->token = 0;
    metric_set(METRIC_audit_active, 0);
    intake_set_token(audit->intake, 0);
    outbox_set_token(audit->outbox, 0);
}

static void move_outbox(void *owner)
{
    struct audit *audit = owner;

    if (audit->token != 0 && !audit->is_draining)
        outbox_move(audit->outbox);
}

/* ---- being the active one */

static void on_maintained(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    (void)owner;
    (void)count;
    if (outcome == PG_REFUSED)
        log_error("partitions_not_maintained", log_text("sqlstate", postgres_sqlstate(results[0])));
}

static void maintain(void *owner)
{
    struct audit *audit = owner;

    if (audit->token == 0)
        return;
    if (audit_store_maintain(audit->store, audit->config->retention_days, on_maintained, audit) != ERR_OK)
        log_warn("partitions_not_maintained");
}

static void on_checkpoints(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    struct audit *audit = owner;

    (void)count;
    audit->is_exporting = false;
    if (outcome == PG_REFUSED)
        log_error("checkpoints_not_stored", log_text("sqlstate", postgres_sqlstate(results[0])));
    if (outcome == PG_DONE)
        seal_export(audit->seal, results[0]);
}

static void make_checkpoints(void *owner)
{
    struct audit *audit = owner;

    if (audit->token != 0 && !audit->is_exporting && !audit->is_draining)
        audit->is_exporting = audit_store_checkpoint(audit->store, false, on_checkpoints, audit) == ERR_OK;
}

/* Step after step until nothing is left; then once a second. */
static void on_swept(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count);

static void sweep(struct audit *audit)
{
    if (audit->token != 0 && !audit->is_sweeping && !audit->is_draining)
        audit->is_sweeping = audit_store_sweep(audit->store, on_swept, audit) == ERR_OK;
}

static void on_swept(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    struct audit *audit = owner;

    (void)count;
    audit->is_sweeping = false;
    if (outcome == PG_DONE && postgres_flag(results[0], 0, 0))
        sweep(audit);
}

static void on_counted(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count);

/* Between batches, a step at a time: the trail itself comes first. */
static void count_usage(void *owner)
{
    struct audit *audit = owner;

    if (audit->token != 0 && !audit->is_counting && !audit->is_draining)
        audit->is_counting = audit_store_count(audit->store, on_counted, audit) == ERR_OK;
}

static void on_counted(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    struct audit *audit = owner;

    (void)count;
    audit->is_counting = false;
    if (outcome == PG_REFUSED)
        log_error("usage_not_counted", log_text("sqlstate", postgres_sqlstate(results[0])));
    if (outcome == PG_DONE && postgres_flag(results[0], 0, 0))
        count_usage(audit);
}

static void on_locked(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    struct audit *audit = owner;
    uint64_t token = 0;

    (void)count;
    audit->is_asking_lock = false;
    if (audit_store_read_lock(outcome, results, &token) != ERR_OK || audit->is_draining)
        return;
    audit->token = token;
    log_info("audit_activated", log_number("token", token));
    metric_set(METRIC_audit_active, 1);
    intake_set_token(audit->intake, token);
    outbox_set_token(audit->outbox, token);
    maintain(audit);
    /* The instance before may have died between the table and the file. */
    audit->is_exporting = audit_store_checkpoint(audit->store, true, on_checkpoints, audit) == ERR_OK;
    move_outbox(audit);
}

static void ask_lock(void *owner)
{
    struct audit *audit = owner;

    if (audit->token != 0 || audit->is_asking_lock || audit->is_draining)
        return;
    audit->is_asking_lock = audit_store_lock(audit->store, on_locked, audit) == ERR_OK;
}

static void on_fenced(void *owner)
{
    stand_by(owner);
}

static void on_store_state(void *owner, bool connected)
{
    struct audit *audit = owner;

    ops_set_fact(audit->ops, "postgres", connected);
    if (connected)
        ask_lock(audit);
    else
        stand_by(audit);
}

static void tend(void *owner)
{
    struct audit *audit = owner;

    intake_tend(audit->intake);
    sweep(audit);
}

/* ---- life */

void audit_stop(void **self)
{
    struct audit *audit = *self;

    if (audit == NULL)
        return;
    audit->is_draining = true;
    audit_store_destroy(&audit->store);
    outbox_destroy(&audit->outbox);
    intake_destroy(&audit->intake);
    seal_destroy(&audit->seal);
    bus_destroy(&audit->bus);
    free(audit);
    *self = NULL;
}

static enum err audit_open(struct audit *audit, struct loop *loop)
{
    const struct audit_store_options store = { .url = &audit->config->database_url, .on_state = on_store_state,
                                               .on_outbox = move_outbox, .owner = audit };
    struct intake_options intake = { .loop = loop, .chain_key = &audit->config->chain_key, .on_fenced = on_fenced,
                                     .owner = audit };
    struct bus_options bus = { .role = SERVICE_AUDIT, .credits = CREDITS, .handlers = audit_handlers,
                               .config = &audit->config->common };
    enum err err;

    err = intake_new(&intake, &audit->intake);
    if (err != ERR_OK)
        return err;
    bus.owner = audit->intake;
    err = bus_new(loop, &bus, &audit->bus);
    if (err != ERR_OK)
        return err;
    err = audit_store_new(loop, &store, &audit->store);
    if (err != ERR_OK)
        return err;
    err = outbox_new(audit->store, audit->seal, &audit->outbox);
    if (err != ERR_OK)
        return err;
    intake_connect(audit->intake, audit->bus, audit->store, audit->seal);
    bus_set_ready(audit->bus, true);
    return ERR_OK;
}

static bool audit_arm(struct audit *audit, struct loop *loop)
{
    return loop_every(loop, LOCK_EVERY_MS, ask_lock, audit) > 0
        && loop_every(loop, OUTBOX_EVERY_MS, move_outbox, audit) > 0
        && loop_every(loop, (uint32_t)audit->config->checkpoint_ms, make_checkpoints, audit) > 0
        && loop_every(loop, (uint32_t)audit->config->usage_ms, count_usage, audit) > 0
        && loop_every(loop, TEND_EVERY_MS, tend, audit) > 0 && loop_every(loop, MAINTAIN_EVERY_MS, maintain, audit) > 0;
}

enum err audit_start(const struct service_context *context, void **ret_audit, char *reterr, size_t reterr_size)
{
    struct audit *audit;
    void *self;
    enum err err;

    const struct audit_config *config = context->config;
    if (!secret_is_set(&config->database_url)) {
        snprintf(reterr, reterr_size, "database_url is not set: give MCPGW_DATABASE_URL (or MCPGW_DATABASE_URL_FILE), a"
                                      " Postgres URL of the role mcpgw_audit");
        return ERR_MALFORMED;
    }
    self = audit = calloc(1, sizeof *audit);
    if (audit == NULL)
        return ERR_NO_MEMORY;
    audit->config = config;
    audit->ops = context->ops;
    err = seal_new(config->checkpoint_key, config->checkpoint_dir, &audit->seal, reterr, reterr_size);
    if (err != ERR_OK) {
        audit_stop(&self);
        return err;
    }
    ops_set_fact(audit->ops, "postgres", false);
    err = audit_open(audit, context->loop);
    if (err == ERR_OK && !audit_arm(audit, context->loop))
        err = ERR_NO_MEMORY;
    if (err != ERR_OK) {
        snprintf(reterr, reterr_size, "the bus or the Postgres client could not be set up: %s", err_meaning(err));
        audit_stop(&self);
        return err;
    }
    *ret_audit = audit;
    return ERR_OK;
}

void audit_begin_drain(void *self)
{
    struct audit *audit = self;

    audit->is_draining = true;
    intake_drain(audit->intake);
    bus_say_goodbye(audit->bus, "stopping");
}

bool audit_is_drained(void *self)
{
    const struct audit *audit = self;

    return outbox_is_idle(audit->outbox) && intake_is_idle(audit->intake);
}

int audit_migrate(const void *self)
{
    const struct audit_config *config = self;
    char why[512] = "";

    if (!secret_is_set(&config->owner_database_url)) {
        fputs("mcpgw-audit: owner_database_url is not set: give MCPGW_OWNER_DATABASE_URL\n", stderr);
        return 2;
    }
    if (migrate_run("audit", audit_migrations, &config->owner_database_url, why, sizeof why) != ERR_OK) {
        fprintf(stderr, "mcpgw-audit: migrate: %s\n", why);
        return 1;
    }
    return 0;
}
