#include "services/keys/entries.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/apikey.h"
#include "common/clock.h"
#include "common/encode.h"
#include "common/log.h"
#include "common/metrics.h"
#include "common/redis.h"
#include "services/keys/entries_store.h"

#define TICK_MS      100u
#define REDIS_MS     800u      /* below ENTRIES_WAIT_MS */
#define AGAIN_MS     2000u     /* a verify of Better-Auth that takes longer than this may leave what it had read */
#define RETRY_MS     1000u
#define NAME_SIZE    512u
#define NAMES_MAX    4u        /* of one change */

enum pass { PASS_FIRST, PASS_AGAIN, PASS_COUNT };

struct wait {
    uint64_t sequence, since_us;
    entries_wait_fn *fn;
    void *owner;
};

struct entries {
    struct entries_options options;
    struct redis *redis;
    uint64_t done[PASS_COUNT];     /* up to which change each pass has deleted; they never pass each other */
    uint64_t again_until;          /* what the second pass may do now, */
    uint64_t again_us;             /* and since when it had been done once */
    uint64_t kept;                 /* the number that Postgres keeps: of the second pass */
    bool is_known;                 /* done is read */
    bool is_reading, is_wanted, has_failed, has_complained, is_keeping;
    uint64_t retry_us;
    int timer;
    /* The part of the changes that is being deleted. */
    enum pass pass;
    uint64_t reaching;
    uint32_t unanswered;
    bool has_more, is_sending;
    uint32_t wait_count;
    struct wait waits[ENTRIES_WAITS_MAX];
};

static void look(struct entries *entries);

/* ---- who waits --------------------------------------------------------------------------------- */

static void check_waits(struct entries *entries)
{
    const uint64_t now_us = clock_monotonic_us();
    const bool is_away = !redis_is_connected(entries->redis);

    for (uint32_t i = 0; i < entries->wait_count;) {
        const struct wait wait = entries->waits[i];

        if (wait.sequence > entries->done[PASS_FIRST] && !is_away && now_us - wait.since_us < ENTRIES_WAIT_MS * 1000u) {
            i++;
            continue;
        }
        entries->waits[i] = entries->waits[--entries->wait_count];
        wait.fn(wait.owner);
    }
}

void entries_wait(struct entries *entries, uint64_t sequence, entries_wait_fn *fn, void *owner)
{
    if (entries == NULL || entries->wait_count == ENTRIES_WAITS_MAX) {
        fn(owner);
        return;
    }
    entries->waits[entries->wait_count++] =
        (struct wait){ .sequence = sequence, .since_us = clock_monotonic_us(), .fn = fn, .owner = owner };
    check_waits(entries);
}

/* ---- deleting ---------------------------------------------------------------------------------- */

static void end_part(struct entries *entries)
{
    entries->is_reading = false;
    if (entries->has_failed) {
        metric_add(METRIC_entries_failed, 1);
        entries->retry_us = clock_monotonic_us() + RETRY_MS * 1000u;
        check_waits(entries);
        return;
    }
    entries->has_complained = false;
    entries->done[entries->pass] = entries->reaching;
    if (entries->done[PASS_AGAIN] > entries->done[PASS_FIRST])
        entries->done[PASS_FIRST] = entries->done[PASS_AGAIN];
    if (entries->has_more && entries->pass == PASS_FIRST)
        entries->is_wanted = true;
    check_waits(entries);
    look(entries);
}

static void on_deleted(void *owner, const redisReply *reply)
{
    struct entries *entries = owner;

    if (reply == NULL || reply->type == REDIS_REPLY_ERROR) {
        if (!entries->has_complained)
            log_warn("better_auth_entries_failed", log_text("why", reply == NULL ? "no answer" : reply->str),
                     log_number("since", entries->done[PASS_FIRST]));
        entries->has_failed = entries->has_complained = true;
    } else {
        metric_add(METRIC_entries_deleted, (uint64_t)reply->integer);
    }
    entries->unanswered--;
    if (entries->unanswered == 0 && !entries->is_sending)
        end_part(entries);
}

/* false: it would not fit, so no plugin has made it. */
static bool add_name(const struct entries *entries, char name[NAME_SIZE], const char *kind, const char *what)
{
    const int length = snprintf(name, NAME_SIZE, "%sapi-key:%s%s", entries->options.prefix, kind, what);

    return what[0] != '\0' && length > 0 && (size_t)length < NAME_SIZE;
}

static bool hex_of(const char *digest, char hex[2 * DIGEST_SIZE + 1])
{
    uint8_t bytes[DIGEST_SIZE];
    size_t size;

    if (base64url_decode(digest, strlen(digest), bytes, sizeof bytes, &size) != ERR_OK || size != sizeof bytes)
        return false;
    hex_encode(bytes, sizeof bytes, hex);
    return true;
}

static void delete_entries(struct entries *entries, const struct entry_change *change)
{
    char names[NAMES_MAX][NAME_SIZE], hex[2 * DIGEST_SIZE + 1];
    const char *arguments[NAMES_MAX + 1] = { "DEL" };
    int count = 1;

    if (add_name(entries, names[count - 1], "", change->digest))
        arguments[count] = names[count - 1], count++;
    if (entries->options.is_hex && hex_of(change->digest, hex) && add_name(entries, names[count - 1], "", hex))
        arguments[count] = names[count - 1], count++;
    if (add_name(entries, names[count - 1], "by-id:", change->key_id))
        arguments[count] = names[count - 1], count++;
    if (add_name(entries, names[count - 1], "by-ref:", change->reference_id))
        arguments[count] = names[count - 1], count++;
    if (count == 1)
        return;
    if (redis_call(entries->redis, count, arguments, NULL, on_deleted, entries) == ERR_OK)
        entries->unanswered++;
    else
        entries->has_failed = true;
}

/* ---- following the changes --------------------------------------------------------------------- */

/* Which keys these were is not known any more, so their entries stay until they end. */
static void tell_missed(const struct entries *entries, uint64_t from, uint64_t to)
{
    metric_add(METRIC_entries_missed, 1);
    log_error("better_auth_entries_missed", log_number("from", from), log_number("to", to),
              log_text("remedy", "delete all names api-key:* in the application's Redis"), log_text("prefix", entries->options.prefix));
}

static void take_rows(struct entries *entries, const PGresult *rows, uint64_t newest)
{
    const uint64_t until = entries->pass == PASS_AGAIN ? entries->again_until : newest;
    uint64_t reached = entries->done[entries->pass];
    struct entry_change change;
    int row = 0;

    for (; store_read_entry_change(rows, row, &change) && change.sequence <= until; row++) {
        if (entries->pass == PASS_FIRST && (change.sequence > reached + 1 || change.kind == CHANGE_ALL))
            tell_missed(entries, reached + 1, change.sequence);
        if (change.kind == CHANGE_KEY || (change.kind == CHANGE_NOTICE && change.digest[0] != '\0'))
            delete_entries(entries, &change);
        reached = change.sequence;
    }
    entries->has_more = (uint32_t)row == STORE_CHANGES_MAX;
    if (!entries->has_more && reached < until) {
        if (entries->pass == PASS_FIRST)
            tell_missed(entries, reached + 1, until);
        reached = until;
    }
    entries->reaching = reached;
}

static void on_read(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    struct entries *entries = owner;
    uint64_t newest;

    (void)count;
    if (outcome != PG_DONE) {
        entries->is_reading = false;
        entries->retry_us = clock_monotonic_us() + RETRY_MS * 1000u;
        entries->is_wanted = true;
        return;
    }
    newest = store_read_sequence(results[0]);
    entries->has_failed = false;
    entries->unanswered = 0;
    if (newest < entries->done[PASS_FIRST])    /* restored from a backup: numbers are given a second time */
        entries->done[PASS_FIRST] = entries->done[PASS_AGAIN] = entries->again_until = newest;
    /* A reply may come while the rest is being sent. */
    entries->is_sending = true;
    take_rows(entries, results[0], newest);
    entries->is_sending = false;
    if (entries->unanswered == 0)
        end_part(entries);
    else
        redis_flush(entries->redis);
}

static void on_start_read(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    struct entries *entries = owner;

    (void)count;
    entries->is_reading = false;
    if (outcome != PG_DONE) {
        entries->retry_us = clock_monotonic_us() + RETRY_MS * 1000u;
        return;
    }
    entries->is_known = entries->is_wanted = true;
    entries->kept = (uint64_t)postgres_i64(results[0], 0, 0);
    entries->done[PASS_FIRST] = entries->done[PASS_AGAIN] = entries->again_until = entries->kept;
    look(entries);
}

static void on_kept(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    struct entries *entries = owner;

    (void)results, (void)count;
    entries->is_keeping = false;
    if (outcome != PG_DONE)
        entries->kept = 0;
}

static void keep(struct entries *entries)
{
    if (!entries->is_known || entries->is_keeping || entries->kept == entries->done[PASS_AGAIN])
        return;
    if (store_keep_entries(entries->options.store, entries->done[PASS_AGAIN], on_kept, entries) != ERR_OK)
        return;
    entries->is_keeping = true;
    entries->kept = entries->done[PASS_AGAIN];
}

static bool again_is_due(struct entries *entries, uint64_t now_us)
{
    if (entries->done[PASS_AGAIN] < entries->again_until)
        return now_us >= entries->again_us;
    if (entries->done[PASS_FIRST] > entries->again_until) {
        entries->again_until = entries->done[PASS_FIRST];
        entries->again_us = now_us + AGAIN_MS * 1000u;
    }
    return false;
}

static void look(struct entries *entries)
{
    const uint64_t now_us = clock_monotonic_us();

    if (entries->is_reading || now_us < entries->retry_us)
        return;
    if (!entries->is_known) {
        entries->is_reading = store_start_entries(entries->options.store, on_start_read, entries) == ERR_OK;
        return;
    }
    if (entries->has_failed && !redis_is_connected(entries->redis))
        return;
    if (!entries->is_wanted && !entries->has_failed && !again_is_due(entries, now_us))
        return;
    entries->pass = entries->is_wanted || (entries->has_failed && entries->pass == PASS_FIRST) ? PASS_FIRST : PASS_AGAIN;
    if (store_read_entry_changes(entries->options.store, entries->done[entries->pass], on_read, entries) != ERR_OK)
        return;
    entries->is_reading = true;
    if (entries->pass == PASS_FIRST)
        entries->is_wanted = false;
}

static void on_tick(void *owner)
{
    struct entries *entries = owner;

    look(entries);
    keep(entries);
    check_waits(entries);
}

void entries_on_change(struct entries *entries)
{
    if (entries == NULL)
        return;
    entries->is_wanted = true;
    look(entries);
}

void entries_on_state(struct entries *entries, bool connected)
{
    if (entries == NULL || !connected)
        return;
    entries->retry_us = 0;
    entries_on_change(entries);
}

static void on_redis_state(void *owner, bool connected)
{
    struct entries *entries = owner;

    entries->options.on_state(entries->options.owner, connected);
}

enum err entries_new(const struct entries_options *options, struct entries **ret_entries)
{
    struct entries *entries = calloc(1, sizeof *entries);
    enum err err;

    if (entries == NULL)
        return ERR_NO_MEMORY;
    entries->options = *options;
    err = redis_new(options->loop, &(struct redis_options){ .url = options->url, .timeout_ms = REDIS_MS,
                                                            .on_state = on_redis_state, .owner = entries }, &entries->redis);
    if (err == ERR_OK) {
        entries->timer = loop_every(options->loop, TICK_MS, on_tick, entries);
        err = entries->timer > 0 ? ERR_OK : ERR_NO_MEMORY;
    }
    if (err != ERR_OK) {
        entries_destroy(&entries);
        return err;
    }
    *ret_entries = entries;
    return ERR_OK;
}

void entries_destroy(struct entries **entries)
{
    if (*entries == NULL)
        return;
    loop_cancel((*entries)->options.loop, (*entries)->timer);
    redis_destroy(&(*entries)->redis);
    free(*entries);
    *entries = NULL;
}
