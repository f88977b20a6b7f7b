/*
 * issuers.c - one source per issuer: claim the attempt in Postgres, discover, fetch, judge, store, and back to sleep.
 *
 * It has a Postgres connection of its own: a set may be a quarter of a megabyte, and leases wait for nobody.
 */
#include "services/keys/issuers.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/jose.h"
#include "common/log.h"
#include "common/metrics.h"
#include "services/keys/issuers_rules.h"

#define TICK_MS              500u
#define LOOK_MS              2000u     /* what other keys processes have done */
#define RETRY_US             2000000u  /* after a claim that Postgres did not answer */
#define STATEMENT_TIMEOUT_MS 5000u
#define FLIGHT_MAX           4u        /* the rest wait for the next tick */
#define STAMP_SIZE           40u
#define SOURCE_SIZE          2700u     /* issuer, two URLs and the settings of fetching */

enum phase { IDLE, CLAIMING, DISCOVERING, FETCHING, STORING };

struct source {
    struct issuer_keeper *keeper;
    const struct issuer *issuer;
    enum phase phase;
    struct fetch *fetch;
    bool is_wanted, has_claimed;
    uint64_t wanted_us, due_us;        /* monotonic */
    char stamp[STAMP_SIZE];            /* attempted_at of our claim: who holds another one stores nothing */
    struct discovery_forms forms;
    size_t form;
    char jwks_url[FETCH_URL_MAX + 1];
    bool has_keys;                     /* as Postgres last said */
    int64_t fetched_s;
};

struct issuer_keeper {
    struct issuer_keeper_options options;
    struct postgres *postgres;
    struct fetcher *fetcher;
    int tick, look;
    size_t count;
    struct source sources[];
};

#define MOMENT(column) "to_char(" column " AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')"
#define AGES "(extract(epoch FROM clock_timestamp() - attempted_at) * 1000)::bigint, (extract(epoch FROM due_at - clock_timestamp()) * 1000)::bigint"
#define ROW_SELECT(set) "SELECT name, issuer, " set ", jwks_url, " MOMENT("fetched_at") ", " MOMENT("due_at") ", " \
    MOMENT("attempted_at") ", " MOMENT("failed_at") ", last_error, key_count, failures, extract(epoch FROM fetched_at)::bigint, " AGES \
    " FROM mcpgw.issuer_keys"

static const struct postgres_statement statements[] = {
    /* Other settings than those of the last attempt skip the cool-down, once per process: somebody has just corrected them.
     * The set stays as long as it is the same issuer's. */
    { "claim", "INSERT INTO mcpgw.issuer_keys AS k (name, issuer, source, attempted_at, attempted_by)"
               " VALUES ($1, $2, $3, clock_timestamp(), $4) ON CONFLICT (name) DO UPDATE SET"
               " attempted_at = excluded.attempted_at, attempted_by = excluded.attempted_by, issuer = excluded.issuer, source = excluded.source,"
               " jwks = CASE WHEN k.issuer = excluded.issuer THEN k.jwks END,"
               " key_count = CASE WHEN k.issuer = excluded.issuer THEN k.key_count ELSE 0 END,"
               " fetched_at = CASE WHEN k.issuer = excluded.issuer THEN k.fetched_at END,"
               " due_at = CASE WHEN k.source = excluded.source THEN k.due_at END"
               " WHERE (k.attempted_at <= clock_timestamp() - make_interval(secs => $5::double precision)"
               "        AND ($6::boolean OR coalesce(k.due_at <= now(), true) OR k.source <> excluded.source))"
               " OR ($7::boolean AND k.source <> excluded.source)"
               " RETURNING attempted_at::text" },
    { "state", "SELECT " AGES " FROM mcpgw.issuer_keys WHERE name = $1" },
    { "keep", "UPDATE mcpgw.issuer_keys SET jwks = $3, jwks_url = $4, key_count = $5::int, fetched_at = now(), failures = 0, failed_at = NULL,"
              " last_error = NULL, due_at = now() + make_interval(secs => $6::double precision)"
              " WHERE name = $1 AND attempted_at = $2::timestamptz" },
    { "fail", "UPDATE mcpgw.issuer_keys SET failures = failures + 1, failed_at = now(), due_at = now(), last_error = $3,"
              " jwks = CASE WHEN fetched_at > now() - make_interval(secs => $4::double precision) THEN jwks END,"
              " key_count = CASE WHEN fetched_at > now() - make_interval(secs => $4::double precision) THEN key_count ELSE 0 END"
              " WHERE name = $1 AND attempted_at = $2::timestamptz" },
    { "rows", ROW_SELECT("NULL") },
    { "sets", ROW_SELECT("jwks") },
    { NULL, NULL }
};

#define AGE_COLUMN 12    /* of AGES in ROW_SELECT */

struct number { char text[24]; };

static struct number number_of(uint64_t value)
{
    struct number number;

    snprintf(number.text, sizeof number.text, "%" PRIu64, value);
    return number;
}

static void claim(struct source *source);

/* ---- reading ----------------------------------------------------------------------------------- */

bool issuer_row_read(const PGresult *rows, int row, struct issuer_row *ret_row)
{
    if (row >= PQntuples(rows))
        return false;
    *ret_row = (struct issuer_row){
        .name = postgres_text(rows, row, 0), .issuer = postgres_text(rows, row, 1), .jwks = postgres_text(rows, row, 2),
        .jwks_url = postgres_text(rows, row, 3), .fetched_at = postgres_text(rows, row, 4), .due_at = postgres_text(rows, row, 5),
        .attempted_at = postgres_text(rows, row, 6), .failed_at = postgres_text(rows, row, 7), .last_error = postgres_text(rows, row, 8),
        .key_count = postgres_i64(rows, row, 9), .failures = postgres_i64(rows, row, 10), .fetched_s = postgres_i64(rows, row, 11),
    };
    return true;
}

enum err issuer_keeper_load(struct issuer_keeper *keeper, bool with_sets, postgres_fn *fn, void *owner)
{
    return postgres_call(keeper->postgres, &(struct postgres_step){ .statement = with_sets ? "sets" : "rows" }, fn, owner);
}

static struct source *source_named(struct issuer_keeper *keeper, const char *name)
{
    for (size_t i = 0; i < keeper->count; i++)
        if (strcmp(keeper->sources[i].issuer->name, name) == 0)
            return &keeper->sources[i];
    return NULL;
}

static void tell_health(struct issuer_keeper *keeper)
{
    uint64_t oldest_s = UINT64_MAX, with_keys = 0;

    for (size_t i = 0; i < keeper->count; i++) {
        const struct source *source = &keeper->sources[i];

        with_keys += source->has_keys;
        if (source->has_keys && (uint64_t)source->fetched_s < oldest_s)
            oldest_s = (uint64_t)source->fetched_s;
    }
    metric_set(METRIC_issuers_with_keys, with_keys);
    metric_set(METRIC_issuers_without_keys, keeper->count - with_keys);
    metric_set(METRIC_issuers_oldest, oldest_s == UINT64_MAX ? 0 : oldest_s);
    keeper->options.on_health(keeper->options.owner, with_keys == keeper->count);
}

/* Whoever made the last attempt: when may we make the next?  Was what we were asked for done after we were asked? */
static void plan_next(struct source *source, int64_t attempted_ms_ago, int64_t due_in_ms)
{
    const uint64_t now_us = clock_monotonic_us();
    const int64_t cooldown_ms = (int64_t)source->issuer->cooldown_s * 1000 - attempted_ms_ago;
    int64_t wait_ms;

    if (source->is_wanted && attempted_ms_ago * 1000 < (int64_t)(now_us - source->wanted_us))
        source->is_wanted = false;
    wait_ms = source->is_wanted || due_in_ms < cooldown_ms ? cooldown_ms : due_in_ms;
    source->due_us = wait_ms > 0 ? now_us + (uint64_t)wait_ms * 1000 : now_us;
}

static void on_looked(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    struct issuer_keeper *keeper = owner;
    struct issuer_row row;

    (void)count;
    if (outcome != PG_DONE)
        return;
    for (int i = 0; issuer_row_read(results[0], i, &row); i++) {
        struct source *source = source_named(keeper, row.name);

        if (source == NULL || strcmp(row.issuer, source->issuer->issuer) != 0)
            continue;
        source->has_keys = row.key_count > 0;
        source->fetched_s = row.fetched_s;
        if (source->phase == IDLE && source->has_claimed)
            plan_next(source, postgres_i64(results[0], i, AGE_COLUMN), postgres_i64(results[0], i, AGE_COLUMN + 1));
    }
    tell_health(keeper);
}

static void look(void *owner)
{
    struct issuer_keeper *keeper = owner;

    if (issuer_keeper_load(keeper, false, on_looked, keeper) != ERR_OK)
        log_debug("issuers_not_read");
}

/* ---- the end of an attempt --------------------------------------------------------------------- */

static void sleep_until(struct source *source, uint64_t due_us)
{
    source->phase = IDLE;
    source->due_us = due_us;
}

static void on_stored(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    struct source *source = owner;

    (void)results, (void)count;
    if (outcome != PG_DONE)
        log_warn("issuer_keys_not_stored", log_text("issuer", source->issuer->name),
                 log_text("sqlstate", outcome == PG_REFUSED ? postgres_sqlstate(results[0]) : ""));
    sleep_until(source, clock_monotonic_us());    /* the next claim is told when the next attempt may be */
    look(source->keeper);
}

static void store(struct source *source, const struct postgres_step *step)
{
    source->phase = STORING;
    if (postgres_call(source->keeper->postgres, step, on_stored, source) != ERR_OK)
        on_stored(source, PG_LOST, NULL, 0);
}

static void fail(struct source *source, const char *why)
{
    const struct number keep = number_of(source->issuer->keep_s);
    char text[ISSUER_ERROR_MAX + 1];
    const bool is_keys = source->phase == FETCHING;

    snprintf(text, sizeof text, "%.90s: %.207s", is_keys ? source->jwks_url : source->forms.urls[source->form], why);
    for (char *at = text; *at != '\0'; at++)
        if (*at < ' ' || *at > '~')
            *at = '?';
    metric_add(METRIC_issuer_fetches_failed, 1);
    log_warn("issuer_keys_not_fetched", log_text("issuer", source->issuer->name), log_text("why", text));
    store(source, &(struct postgres_step){
        .statement = "fail", .count = 4, .values = { source->issuer->name, source->stamp, text, keep.text } });
}

static void succeed(struct source *source, const struct fetch_answer *answer, const struct issuer_set *set)
{
    const struct number count = number_of(set->count), fresh = number_of(issuer_fresh_s(source->issuer, answer));

    metric_add(METRIC_issuer_fetches_ok, 1);
    log_info("issuer_keys_fetched", log_text("issuer", source->issuer->name), log_number("keys", set->count),
             log_number("skipped", set->skipped), log_text("first_skipped", set->first_skipped));
    store(source, &(struct postgres_step){
        .statement = "keep", .count = 6,
        .values = { source->issuer->name, source->stamp, set->text, source->jwks_url, count.text, fresh.text } });
}

/* ---- discovery and fetch ----------------------------------------------------------------------- */

static void ask(struct source *source, const char *url, fetch_fn *fn)
{
    const struct fetch_request request = { .url = url, .accept = "application/json, application/jwk-set+json",
                                           .deadline_ms = source->keeper->options.fetch_ms };
    const enum err err = fetch_start(source->keeper->fetcher, &request, fn, source, &source->fetch);

    if (err == ERR_UNPROCESSABLE)
        fail(source, fetch_url_fault(url, source->keeper->options.fetch.allow_plain_http));
    else if (err != ERR_OK)
        fail(source, err_meaning(err));
}

static void on_keys(void *owner, const struct fetch_answer *answer)
{
    struct source *source = owner;
    struct issuer_set set = { 0 };
    char why[ISSUER_ERROR_MAX];

    if (answer->err != ERR_OK)
        fail(source, answer->reason);
    else if (issuer_read_keys(answer, &set, why, sizeof why) != ERR_OK)
        fail(source, why);
    else
        succeed(source, answer, &set);
    issuer_set_wipe(&set);
}

static void fetch_keys(struct source *source)
{
    source->phase = FETCHING;
    ask(source, source->jwks_url, on_keys);
}

static void on_discovered(void *owner, const struct fetch_answer *answer)
{
    struct source *source = owner;
    const bool plain = source->keeper->options.fetch.allow_plain_http;
    char why[ISSUER_ERROR_MAX];

    if (answer->err == ERR_OK && issuer_asks_next_form(answer->status) && source->form + 1 < source->forms.count) {
        source->form++;
        ask(source, source->forms.urls[source->form], on_discovered);
        return;
    }
    if (answer->err != ERR_OK)
        fail(source, answer->reason);
    else if (issuer_read_discovery(source->issuer, answer, plain, source->jwks_url, why, sizeof why) != ERR_OK)
        fail(source, why);
    else
        fetch_keys(source);
}

static void begin(struct source *source)
{
    source->form = 0;
    issuer_discovery_forms(source->issuer, &source->forms);
    source->jwks_url[0] = '\0';
    if (source->forms.count == 0) {
        snprintf(source->jwks_url, sizeof source->jwks_url, "%s", source->issuer->jwks_url);
        fetch_keys(source);
        return;
    }
    source->phase = DISCOVERING;
    ask(source, source->forms.urls[0], on_discovered);
}

/* ---- who fetches, and when --------------------------------------------------------------------- */

static void on_claimed(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    struct source *source = owner;

    (void)count;
    if (outcome != PG_DONE) {
        sleep_until(source, clock_monotonic_us() + RETRY_US);
        return;
    }
    source->has_claimed = true;
    if (PQntuples(results[0]) != 1) {
        source->phase = IDLE;    /* another process has the attempt, or it is too early */
        plan_next(source, postgres_i64(results[1], 0, 0), postgres_i64(results[1], 0, 1));
        return;
    }
    source->is_wanted = false;
    snprintf(source->stamp, sizeof source->stamp, "%s", postgres_text(results[0], 0, 0));
    begin(source);
}

static void claim(struct source *source)
{
    const struct issuer *issuer = source->issuer;
    const struct fetcher_options *fetch = &source->keeper->options.fetch;
    const struct number cooldown = number_of(issuer->cooldown_s);
    char origin[SOURCE_SIZE];
    const struct postgres_step steps[] = {
        { .statement = "claim", .count = 7,
          .values = { issuer->name, issuer->issuer, origin, source->keeper->options.instance, cooldown.text,
                      source->is_wanted ? "true" : "false", source->has_claimed ? "false" : "true" } },
        { .statement = "state", .count = 1, .values = { issuer->name } },
    };

    snprintf(origin, sizeof origin, "%s %s %s %s%s%s", issuer->issuer, issuer->discovery_url, issuer->jwks_url,
             fetch->allow_private ? "private " : "", fetch->allow_plain_http ? "plain " : "", fetch->ca_file != NULL ? fetch->ca_file : "");
    source->phase = CLAIMING;
    if (postgres_transaction(source->keeper->postgres, steps, 2, on_claimed, source) != ERR_OK)
        sleep_until(source, clock_monotonic_us() + RETRY_US);
}

static void on_tick(void *owner)
{
    struct issuer_keeper *keeper = owner;
    const uint64_t now_us = clock_monotonic_us();
    size_t busy = 0;

    for (size_t i = 0; i < keeper->count; i++)
        busy += keeper->sources[i].phase != IDLE;
    if (!postgres_is_connected(keeper->postgres))
        return;
    for (size_t i = 0; i < keeper->count && busy < FLIGHT_MAX; i++) {
        struct source *source = &keeper->sources[i];

        if (source->phase == IDLE && source->due_us <= now_us) {
            claim(source);
            busy++;
        }
    }
}

/* Anybody with a connection may notify: a name is all that is taken, and the cool-down holds. */
static void on_notify(void *owner, const char *channel, const char *payload)
{
    struct issuer_keeper *keeper = owner;
    struct source *source = source_named(keeper, payload);

    (void)channel;
    if (source == NULL)
        return;
    metric_add(METRIC_issuer_wanted, 1);
    if (source->is_wanted)
        return;
    source->is_wanted = true;
    source->wanted_us = clock_monotonic_us();
    source->due_us = source->wanted_us;
}

static void on_state(void *owner, bool connected)
{
    struct issuer_keeper *keeper = owner;

    if (!connected)
        return;
    /* notifications were missed, and others may have been faster */
    for (size_t i = 0; i < keeper->count; i++)
        keeper->sources[i].due_us = 0;
    look(keeper);
    on_tick(keeper);
}

/* ---- life -------------------------------------------------------------------------------------- */

static enum err start(struct issuer_keeper *keeper)
{
    static const char *const channels[] = { "mcpgw_issuer_wanted", NULL };
    const struct issuer_keeper_options *options = &keeper->options;
    struct fetcher_options fetch = options->fetch;
    enum err err;

    fetch.flight_max = FLIGHT_MAX;
    fetch.body_max = JOSE_SET_MAX;
    err = fetcher_new(options->loop, &fetch, &keeper->fetcher);
    if (err != ERR_OK)
        return err;
    keeper->tick = loop_every(options->loop, TICK_MS, on_tick, keeper);
    keeper->look = loop_every(options->loop, LOOK_MS, look, keeper);
    if (keeper->tick == 0 || keeper->look == 0)
        return ERR_OVERLOADED;
    return postgres_new(options->loop, &(struct postgres_options){ .url = options->database_url, .statements = statements,
                                                                   .application_name = "mcpgw-keys-issuers",
                                                                   .timeout_ms = STATEMENT_TIMEOUT_MS, .listen = channels,
                                                                   .on_notify = on_notify, .on_state = on_state, .owner = keeper },
                        &keeper->postgres);
}

enum err issuer_keeper_new(const struct issuer_keeper_options *options, struct issuer_keeper **ret_keeper)
{
    OWNED(issuer_keeper_destroy) struct issuer_keeper *keeper = NULL;
    enum err err;

    keeper = calloc(1, sizeof *keeper + options->issuers->count * sizeof keeper->sources[0]);
    if (keeper == NULL)
        return ERR_NO_MEMORY;
    keeper->options = *options;
    for (size_t i = 0; i < options->issuers->count; i++) {
        if (!issuer_has_keys(&options->issuers->list[i]))
            continue;
        keeper->sources[keeper->count].keeper = keeper;
        keeper->sources[keeper->count++].issuer = &options->issuers->list[i];
    }
    err = start(keeper);
    if (err != ERR_OK)
        return err;
    *ret_keeper = keeper;
    keeper = NULL;
    return ERR_OK;
}

void issuer_keeper_destroy(struct issuer_keeper **keeper)
{
    struct issuer_keeper *old = *keeper;

    if (old == NULL)
        return;
    loop_cancel(old->options.loop, old->tick);
    loop_cancel(old->options.loop, old->look);
    fetcher_destroy(&old->fetcher);
    postgres_destroy(&old->postgres);
    free(old);
    *keeper = NULL;
}
