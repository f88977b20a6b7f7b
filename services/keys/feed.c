#include "services/keys/feed.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/change.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/metrics.h"

#define QUESTIONS_MAX   256u
#define WORKERS_MAX     40u      /* authz workers per edge: holders.workers */
#define WORKER_SIZE     24u
#define GHOSTS_MAX      64u
#define BEHIND_MAX      2048u    /* an edge that lacks more is told that everything has changed */
#define TICK_MS         20u

struct holder {
    uint8_t uuid[16];
    uint64_t applied;
};

struct edge {
    bool is_up;
    bool is_followed;            /* it has said how far it is, so changes are pushed */
    bool is_heard;               /* holders have come */
    uint64_t sent;               /* newest change sent to it */
    uint64_t sent_before;        /* ... when its last question came: by now it must have them */
    uint64_t applied, last_word_us;
    uint32_t worker_count;
    struct holder workers[WORKERS_MAX];
};

struct question {
    struct bus_token token;
    uint64_t asked_us;
    bool is_read;                /* the read in flight began after it came */
};

struct wait {
    uint64_t sequence, since_us;
    feed_wait_fn *fn;
    void *owner;
};

/* An address of the bus: who is silent there? */
struct listed {
    bool was_up;
    uint64_t since_us;
    char address[BUS_ADDRESS_MAX];
};

struct feeder {
    struct feed_options options;
    struct bus *bus;
    struct store *store;
    uint64_t known;              /* newest change number read */
    bool is_known;               /* ... since the connection came up */
    bool is_started;             /* the first read: what was before it concerns nobody here */
    bool is_reading, is_wanted;
    uint64_t read_since;         /* of the read in flight */
    int timer;
    struct ghost {
        uint64_t until_us;
        char address[BUS_ADDRESS_MAX];
    } ghosts[GHOSTS_MAX]; /* vanished edges that may still act */
    struct edge edges[BUS_EDGES_MAX];
    struct listed listed[BUS_EDGES_MAX];
    uint32_t question_count, wait_count;
    struct question questions[QUESTIONS_MAX];
    struct wait waits[FEED_WAITS_MAX];
};

static void start_read(struct feeder *feed);
static void on_tick(void *owner);

enum err feed_new(const struct feed_options *options, struct feeder **ret_feed)
{
    OWNED(feed_destroy) struct feeder *feed = calloc(1, sizeof *feed);

    if (feed == NULL)
        return ERR_NO_MEMORY;
    feed->options = *options;
    feed->timer = loop_every(options->loop, TICK_MS, on_tick, feed);
    *ret_feed = feed;
    feed = NULL;
    return ERR_OK;
}

void feed_destroy(struct feeder **feed)
{
    if (*feed == NULL)
        return;
    loop_cancel((*feed)->options.loop, (*feed)->timer);
    free(*feed);
    *feed = NULL;
}

void feed_set_bus(struct feeder *feed, struct bus *bus)
{
    feed->bus = bus;
}

void feed_set_store(struct feeder *feed, struct store *store)
{
    feed->store = store;
}

uint64_t feed_known(const struct feeder *feed)
{
    return feed->known;
}

/* ---- who has applied what ---------------------------------------------------------------------- */

/* The newest word about a worker counts: its number only grows, and every edge tells what it heard. */
static uint64_t worker_applied(const struct feeder *feed, const uint8_t uuid[16])
{
    uint64_t applied = 0;

    for (uint32_t e = 0; e < BUS_EDGES_MAX; e++) {
        const struct edge *edge = &feed->edges[e];

        for (uint32_t w = 0; edge->is_up && w < edge->worker_count; w++) {
            if (memcmp(edge->workers[w].uuid, uuid, 16) == 0 && edge->workers[w].applied > applied)
                applied = edge->workers[w].applied;
        }
    }
    return applied;
}

/* Is this the first edge that tells of the worker?  So that each is counted once. */
static bool is_first_mention(const struct feeder *feed, uint32_t upto, const uint8_t uuid[16])
{
    for (uint32_t e = 0; e < upto; e++) {
        const struct edge *edge = &feed->edges[e];

        for (uint32_t w = 0; edge->is_up && w < edge->worker_count; w++) {
            if (memcmp(edge->workers[w].uuid, uuid, 16) == 0)
                return false;
        }
    }
    return true;
}

static bool is_ghost(const struct feeder *feed, const char *address, uint64_t now_us)
{
    for (uint32_t g = 0; g < GHOSTS_MAX; g++) {
        if (feed->ghosts[g].until_us > now_us && strcmp(feed->ghosts[g].address, address) == 0)
            return true;
    }
    return false;
}

/* Edges that exist and do not speak to us: just started as we have, or cut off from us alone.  Others may keep them going,
 * so nothing is known of what they have applied.  An address where nobody has ever answered counts for a lease and its
 * grace: one host may have several. */
static uint32_t count_silent(const struct feeder *feed, uint64_t now_us)
{
    uint32_t count = 0;

    for (uint32_t e = 0; e < BUS_EDGES_MAX; e++) {
        const struct listed *listed = &feed->listed[e];
        const char *address = bus_edge_address(feed->bus, e);
        const bool is_new = strcmp(listed->address, address) != 0 || now_us < listed->since_us + feed->options.grace_ms * 1000;

        if (!feed->edges[e].is_up && address[0] != '\0' && (is_new || listed->was_up) && !is_ghost(feed, address, now_us))
            count++;
    }
    return count;
}

static void note_addresses(struct feeder *feed)
{
    for (uint32_t e = 0; e < BUS_EDGES_MAX; e++) {
        struct listed *listed = &feed->listed[e];
        const char *address = bus_edge_address(feed->bus, e);

        if (strcmp(listed->address, address) != 0) {
            *listed = (struct listed){ .since_us = clock_monotonic_us() };
            snprintf(listed->address, sizeof listed->address, "%s", address);
        }
        listed->was_up |= feed->edges[e].is_up;
    }
}

struct feed_applied feed_count(const struct feeder *feed, uint64_t sequence)
{
    const uint64_t now_us = clock_monotonic_us();
    struct feed_applied applied = { 0 };

    for (uint32_t e = 0; e < BUS_EDGES_MAX; e++) {
        const struct edge *edge = &feed->edges[e];

        if (!edge->is_up)
            continue;
        applied.of++;
        applied.holders += edge->is_heard && edge->applied >= sequence;
        for (uint32_t w = 0; w < edge->worker_count; w++) {
            if (!is_first_mention(feed, e, edge->workers[w].uuid))
                continue;
            applied.of++;
            applied.holders += worker_applied(feed, edge->workers[w].uuid) >= sequence;
        }
    }
    for (uint32_t g = 0; g < GHOSTS_MAX; g++)
        applied.of += feed->ghosts[g].until_us > now_us;
    applied.of += count_silent(feed, now_us);
    return applied;
}

/* Takes the wait out before its function runs: that may add another. */
static void end_wait(struct feeder *feed, uint32_t index, struct feed_applied applied, bool is_complete)
{
    const struct wait wait = feed->waits[index];
    const uint64_t took_us = clock_monotonic_us() - wait.since_us;

    feed->waits[index] = feed->waits[--feed->wait_count];
    applied.ms = took_us / 1000;
    metric_add(is_complete ? METRIC_acks_complete : METRIC_acks_timed_out, 1);
    histogram_observe_us(HISTOGRAM_ack_latency, took_us);
    wait.fn(wait.owner, &applied);
}

static void check_waits(struct feeder *feed)
{
    const uint64_t now_us = clock_monotonic_us();

    for (uint32_t i = 0; i < feed->wait_count;) {
        const struct wait *wait = &feed->waits[i];
        const struct feed_applied applied = feed_count(feed, wait->sequence);
        const bool is_complete = applied.holders == applied.of;

        if (is_complete || now_us - wait->since_us >= feed->options.grace_ms * 1000)
            end_wait(feed, i, applied, is_complete);
        else
            i++;
    }
}

enum err feed_wait(struct feeder *feed, uint64_t sequence, feed_wait_fn *fn, void *owner)
{
    if (feed->wait_count == FEED_WAITS_MAX)
        return ERR_OVERLOADED;
    feed->waits[feed->wait_count++] =
        (struct wait){ .sequence = sequence, .since_us = clock_monotonic_us(), .fn = fn, .owner = owner };
    feed_on_change(feed);
    check_waits(feed);
    return ERR_OK;
}

static void on_tick(void *owner)
{
    note_addresses(owner);
    check_waits(owner);
}

/* An edge we hear no more may go on with what it has until its own lease and grace have ended. */
static void add_ghost(struct feeder *feed, const char *address, uint64_t until_us)
{
    uint32_t oldest = 0;

    for (uint32_t g = 1; g < GHOSTS_MAX; g++) {
        if (feed->ghosts[g].until_us < feed->ghosts[oldest].until_us)
            oldest = g;
    }
    feed->ghosts[oldest].until_us = until_us;
    snprintf(feed->ghosts[oldest].address, sizeof feed->ghosts[oldest].address, "%s", address);
}

/* Whoever answers there now has bound the address, which the former one would not have given up alive. */
static void lay_ghost(struct feeder *feed, const char *address)
{
    for (uint32_t g = 0; g < GHOSTS_MAX; g++) {
        if (strcmp(feed->ghosts[g].address, address) == 0)
            feed->ghosts[g].until_us = 0;
    }
}

void feed_on_edge(struct feeder *feed, uint32_t index, bool up)
{
    struct edge *edge = &feed->edges[index];
    const char *address = bus_edge_address(feed->bus, index);

    if (edge->is_up)
        add_ghost(feed, address, edge->last_word_us + feed->options.grace_ms * 1000);
    if (up)
        lay_ghost(feed, address);
    *edge = (struct edge){ .is_up = up, .last_word_us = clock_monotonic_us() };
    for (uint32_t i = 0; i < feed->question_count;) {
        if (feed->questions[i].token.edge == index)
            feed->questions[i] = feed->questions[--feed->question_count];
        else
            i++;
    }
    check_waits(feed);
}

static uint64_t u64_of(const uint8_t bytes[8])
{
    uint64_t value = 0;

    for (unsigned i = 8; i > 0; i--)
        value = value << 8 | bytes[i - 1];
    return value;
}

void feed_on_holders(struct feeder *feed, const struct bus_token *token, const struct holders *holders)
{
    struct edge *edge = &feed->edges[token->edge];

    edge->is_heard = true;
    edge->last_word_us = clock_monotonic_us();
    edge->applied = holders->applied;
    edge->worker_count = holders->workers_size / WORKER_SIZE;
    for (uint32_t w = 0; w < edge->worker_count; w++) {
        const uint8_t *at = holders->workers + w * WORKER_SIZE;

        memcpy(edge->workers[w].uuid, at, 16);
        edge->workers[w].applied = u64_of(at + 16);
    }
    check_waits(feed);
}

/* ---- changes to edges -------------------------------------------------------------------------- */

/* What a message cannot carry becomes "everything has changed". */
static struct change change_of(const struct change_row *row)
{
    struct change change = { .sequence = row->sequence, .kind = row->kind };

    if (message_take_text(row->key_id, change.key_id, sizeof change.key_id - 1)
        && message_take_text(row->user_id, change.user_id, sizeof change.user_id - 1)
        && message_take_text(row->tenant_id, change.tenant_id, sizeof change.tenant_id - 1)
        && message_take_text(row->server, change.server, sizeof change.server - 1))
        return change;
    return (struct change){ .sequence = row->sequence, .kind = CHANGE_ALL };
}

static void push_to(struct feeder *feed, uint32_t index, const struct change *change)
{
    struct edge *edge = &feed->edges[index];

    if (!edge->is_up || !edge->is_followed || edge->sent >= change->sequence)
        return;
    /* An edge that asked while a later part was being read gets what lies between first: the next read begins there. */
    if (change->kind != CHANGE_ALL && change->sequence != edge->sent + 1)
        return;
    bus_send(feed->bus, index, MESSAGE_change, 0, change);
    edge->sent = change->sequence;
}

static void push(struct feeder *feed, const struct change *change)
{
    for (uint32_t e = 0; e < BUS_EDGES_MAX; e++)
        push_to(feed, e, change);
}

static uint64_t oldest_wanted(const struct feeder *feed)
{
    uint64_t since = feed->known;

    for (uint32_t e = 0; e < BUS_EDGES_MAX; e++) {
        const struct edge *edge = &feed->edges[e];

        if (edge->is_up && edge->is_followed && edge->sent < since)
            since = edge->sent;
    }
    return since;
}

/* Pushes the rows; returns the number up to which every followed edge has been sent everything. */
static uint64_t push_rows(struct feeder *feed, const PGresult *rows, uint64_t since)
{
    const uint64_t newest = store_read_sequence(rows);
    uint64_t reached = since;
    struct change_row row;
    int count = 0;

    for (; store_read_change(rows, count, &row); count++) {
        const struct change change = change_of(&row);

        /* Rows before it were pruned: nobody can tell what they were about. */
        if (row.sequence > reached + 1)
            push(feed, &(struct change){ .sequence = row.sequence - 1, .kind = CHANGE_ALL });
        push(feed, &change);
        reached = row.sequence;
    }
    if ((uint32_t)count < STORE_CHANGES_MAX && reached < newest) {
        push(feed, &(struct change){ .sequence = newest, .kind = CHANGE_ALL });
        reached = newest;
    }
    return reached;
}

static void answer_questions(struct feeder *feed, uint64_t newest)
{
    for (uint32_t i = 0; i < feed->question_count;) {
        const struct question *question = &feed->questions[i];

        if (!question->is_read) {
            i++;
            continue;
        }
        bus_reply(feed->bus, &question->token, MESSAGE_feed,
                  &(struct feed){ .asked_us = question->asked_us, .sequence = newest });
        feed->questions[i] = feed->questions[--feed->question_count];
    }
}

/* The edge asks again soon; an answer without a read would be a lease on nothing. */
static void drop_questions(struct feeder *feed)
{
    for (uint32_t i = 0; i < feed->question_count;) {
        if (feed->questions[i].is_read)
            feed->questions[i] = feed->questions[--feed->question_count];
        else
            i++;
    }
}

/* The database was restored from a backup: numbers are given a second time and mean other changes. */
static void take_former_history(struct feeder *feed, uint64_t newest)
{
    log_error("change_number_fell", log_number("known", feed->known), log_number("read", newest));
    feed->known = feed->read_since = newest;
    for (uint32_t e = 0; e < BUS_EDGES_MAX; e++) {
        feed->edges[e].sent = feed->edges[e].sent_before = 0;
        push_to(feed, e, &(struct change){ .sequence = newest, .kind = CHANGE_ALL });
    }
}

static void on_read(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    struct feeder *feed = owner;
    uint64_t newest, reached;
    bool was_known = feed->is_known;

    (void)count;
    feed->is_reading = false;
    if (outcome != PG_DONE) {
        drop_questions(feed);
        return;
    }
    newest = store_read_sequence(results[0]);
    if (!feed->is_started) {
        feed->is_started = true;
        feed->read_since = newest;
        feed->known = newest;
    }
    if (newest < feed->known)
        take_former_history(feed, newest);
    reached = push_rows(feed, results[0], feed->read_since);
    if (reached > feed->known)
        feed->known = reached;
    if (reached < newest) {
        start_read(feed);
        return;
    }
    feed->is_known = true;
    bus_set_applied(feed->bus, feed->known);
    metric_set(METRIC_change_applied, feed->known);
    answer_questions(feed, newest);
    if (!was_known)
        feed->options.on_current(feed->options.owner);
    if (feed->is_wanted || feed->question_count > 0)
        start_read(feed);
}

static void start_read(struct feeder *feed)
{
    const struct change everything = { .sequence = feed->known, .kind = CHANGE_ALL };

    if (feed->is_reading || feed->store == NULL)
        return;
    for (uint32_t e = 0; e < BUS_EDGES_MAX; e++) {
        if (feed->edges[e].sent + BEHIND_MAX < feed->known)
            push_to(feed, e, &everything);
    }
    feed->read_since = oldest_wanted(feed);
    if (store_read_changes_after(feed->store, feed->read_since, on_read, feed) != ERR_OK)
        return;
    feed->is_reading = true;
    feed->is_wanted = false;
    for (uint32_t i = 0; i < feed->question_count; i++)
        feed->questions[i].is_read = true;
}

void feed_on_change(struct feeder *feed)
{
    feed->is_wanted = true;
    start_read(feed);
}

void feed_on_state(struct feeder *feed, bool connected)
{
    feed->is_known = false;
    if (connected)
        feed_on_change(feed);
}

void feed_on_request(struct feeder *feed, const struct bus_token *token, const struct feed_request *request)
{
    struct edge *edge = &feed->edges[token->edge];

    /* What it has applied acknowledges nothing: only `holders` tells of its workers and its routes as well. */
    edge->last_word_us = clock_monotonic_us();
    /* Changes can be lost with a connection or at a full queue: what it should have by now and has not is sent again.
     * An edge that knows none yet begins with the number of the answer, and needs none of those before. */
    if (!edge->is_followed || request->applied < edge->sent_before)
        edge->sent = request->applied == 0 ? feed->known : request->applied;
    edge->is_followed = true;
    edge->sent_before = edge->sent;
    if (feed->question_count == QUESTIONS_MAX)
        return;
    feed->questions[feed->question_count++] = (struct question){ .token = *token, .asked_us = request->asked_us };
    start_read(feed);
}
