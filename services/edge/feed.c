/*
 * feed.c - what this edge knows of the world's changes: asks a keys worker for the newest number every 100 ms (the answer is
 * the lease of streams and routes), applies changes in order and without gaps, fetches the registry of servers, and tells
 * keys who answers requests here.
 */
#include "services/edge/core.h"

#include <stdlib.h>
#include <string.h>

#include "common/change.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/metrics.h"

#define BEHIND_MAX      10u         /* answers that name a number whose changes never come, before all is taken as changed */
#define PAGE_TIMEOUT_US 1000000u

void feed_begin(struct dispatch *d)
{
    d->feed.lease_until_us = clock_boottime_us();
    d->feed.registry.is_wanted = true;
}

void feed_end(struct dispatch *d)
{
    free(d->feed.registry.entries);
    d->feed.registry.entries = NULL;
}

static uint64_t next_request_id(struct dispatch *d)
{
    return ++d->feed.request_number << SLOT_BITS | SLOT_INTERNAL;
}

/* Not by credits: a keys worker busy with management must still be asked, or streams would end. */
static struct worker *choose_keys(struct dispatch *d)
{
    for (uint32_t i = 0; i < WORKERS_MAX; i++) {
        struct worker *worker = &d->workers[ROLE_KEYS][(d->feed.request_number + i) % WORKERS_MAX];

        if (worker->state == WORKER_ALIVE)
            return worker;
    }
    return NULL;
}

/* --- the registry -------------------------------------------------------------------------------- */

static void ask_page(struct dispatch *d, const char *after)
{
    struct registry *registry = &d->feed.registry;
    struct servers_request request = { 0 };
    struct worker *worker = choose_keys(d);

    registry->request_id = 0;
    if (worker == NULL) {
        registry->is_wanted = true;
        return;
    }
    memcpy(request.after, after, strlen(after) + 1);
    registry->request_id = next_request_id(d);
    registry->asked_us = d->now_us;
    registry->page_count = 0;
    worker_send(d, worker, message_type_of(MESSAGE_servers_request), registry->request_id, &request);
}

static void fetch_registry(struct dispatch *d)
{
    struct registry *registry = &d->feed.registry;
    const bool is_late = registry->request_id != 0 && d->now_us > registry->asked_us + PAGE_TIMEOUT_US;

    if (!d->feed.is_known || (registry->request_id != 0 && !is_late) || (!registry->is_wanted && !is_late))
        return;
    registry->is_wanted = false;
    registry->count = 0;
    ask_page(d, "");
}

/* All of it again, at the next round. */
static void give_up_registry(struct registry *registry)
{
    registry->request_id = 0;
    registry->is_wanted = true;
}

static void on_server_entry(struct dispatch *d, const struct server_entry *entry)
{
    struct registry *registry = &d->feed.registry;

    if (registry->count == registry->capacity) {
        const size_t capacity = registry->capacity == 0 ? 64 : registry->capacity * 2;
        struct server_entry *more = capacity > 2 * SERVERS_MAX ? NULL : realloc(registry->entries, capacity * sizeof *more);

        if (more == NULL) {
            log_error("registry_too_large", log_number("limit", SERVERS_MAX));
            give_up_registry(registry);
            return;
        }
        registry->entries = more;
        registry->capacity = capacity;
    }
    registry->entries[registry->count++] = *entry;
    registry->page_count++;
}

static void warn_of_observers(const struct registry *registry)
{
    for (size_t i = 0; i < registry->count; i++)
        if (registry->entries[i].observes)
            log_warn("enforcement_is_off", log_text("server", registry->entries[i].slug),
                     log_text("effect", "requests that would be refused there are let through and recorded"));
}

static void on_servers_page(struct dispatch *d, const struct servers_page *page)
{
    struct registry *registry = &d->feed.registry;

    if (page->error != ERR_OK || page->count != registry->page_count || (page->more && page->count == 0)) {
        give_up_registry(registry);
        return;
    }
    if (page->more) {
        ask_page(d, registry->entries[registry->count - 1].slug);
        return;
    }
    warn_of_observers(registry);
    servers_replace(d->options.servers, registry->entries, registry->count, page->sequence);
    log_info("registry_loaded", log_number("servers", registry->count), log_number("sequence", page->sequence));
    registry->entries = NULL;
    registry->count = registry->capacity = 0;
    registry->request_id = 0;
    registry->sequence = page->sequence;
    d->feed.holders_changed = true;
    workers_tell(d);
}

/* --- changes ------------------------------------------------------------------------------------- */

/* Takes the number as it is: what was opened before it ends, and the registry is read anew. */
static void jump_to(struct dispatch *d, uint64_t sequence)
{
    streams_note_sequence(d->options.streams, sequence);
    d->feed.holders_changed = true;
    d->feed.registry.is_wanted = true;
    d->feed.behind = 0;
}

static void on_change(struct dispatch *d, const struct change *change)
{
    /* It stands for all that came before it, seen or not. */
    if (d->feed.is_known && change->kind == CHANGE_ALL && change->sequence > streams_applied(d->options.streams)) {
        streams_apply(d->options.streams, change);
        jump_to(d, change->sequence);
        fetch_registry(d);
        return;
    }
    if (!d->feed.is_known || change->sequence != streams_applied(d->options.streams) + 1)
        return;    /* known already (any keys worker tells it), or the next answer of the feed brings what lies between */
    streams_apply(d->options.streams, change);
    d->feed.holders_changed = true;
    if (change->kind != CHANGE_SERVER)
        return;
    d->feed.registry.is_wanted = true;
    fetch_registry(d);
}

/* The database was restored from a backup: its numbers are given again, for other changes. */
static void start_over(struct dispatch *d, uint64_t sequence)
{
    log_error("change_number_fell", log_number("applied", streams_applied(d->options.streams)),
              log_number("newest", sequence));
    streams_start_over(d->options.streams, sequence);
    d->feed.registry.sequence = 0;
    d->feed.holders_changed = true;
    d->feed.registry.is_wanted = true;
    d->feed.behind = 0;
}

/* A few answers may name a lower number, because they were read before a change that another keys worker has told. */
static bool reaches(struct dispatch *d, uint64_t sequence)
{
    const uint64_t applied = streams_applied(d->options.streams);

    if (!d->feed.is_known) {
        d->feed.is_known = true;
        jump_to(d, sequence);
        return true;
    }
    if (sequence == applied)
        return true;
    if (++d->feed.behind < BEHIND_MAX)
        return false;
    if (sequence < applied) {
        start_over(d, sequence);
        return true;
    }
    log_warn("changes_skipped", log_number("applied", applied), log_number("newest", sequence));
    jump_to(d, sequence);
    return true;
}

static void on_feed(struct dispatch *d, const struct feed *feed)
{
    if (feed->asked_us > clock_boottime_us() || feed->asked_us <= d->feed.asked_us || !reaches(d, feed->sequence))
        return;
    streams_note_sequence(d->options.streams, feed->sequence);
    d->feed.asked_us = feed->asked_us;
    d->feed.behind = 0;
    d->feed.lease_until_us = feed->asked_us + d->options.lease_ms * 1000;
    if (d->feed.is_lost)
        log_info("feed_found", log_number("sequence", feed->sequence));
    d->feed.is_lost = false;
    fetch_registry(d);
}

void feed_check(struct dispatch *d)
{
    if (d->feed.is_lost || clock_boottime_us() <= d->feed.lease_until_us + d->options.stale_grace_ms * 1000)
        return;
    d->feed.is_lost = true;
    log_error("feed_lost", log_number("streams", streams_count(d->options.streams)));
    streams_end_all(d->options.streams, "lease");
    workers_tell(d);
}

void feed_ask(struct dispatch *d)
{
    const struct feed_request request = { .asked_us = clock_boottime_us(), .applied = streams_applied(d->options.streams) };
    struct worker *worker = choose_keys(d);

    if (worker == NULL)
        return;
    worker_send(d, worker, message_type_of(MESSAGE_feed_request), next_request_id(d), &request);
    fetch_registry(d);
}

void feed_take(struct dispatch *d, const struct frame_header *header, const struct frame_item *item)
{
    const uint16_t code = item->type->code;
    union { struct change change; struct feed feed; struct server_entry entry; struct servers_page page; } message;
    const char *field;

    if ((code == MESSAGE_server_entry || code == MESSAGE_servers_page)
        && (header->epoch != d->epoch || d->feed.registry.request_id == 0
            || item->request_id != d->feed.registry.request_id)) {
        metric_add(METRIC_bus_unexpected, 1);
        return;
    }
    if (message_decode(item->type, header->version, item->body, item->body_size, &message, &field) != ERR_OK) {
        metric_add(METRIC_bus_malformed, 1);
        return;
    }
    if (d->record != NULL)
        record_message(d->record, item->type, &message);
    if (code == MESSAGE_change)
        on_change(d, &message.change);
    else if (code == MESSAGE_feed)
        on_feed(d, &message.feed);
    else if (code == MESSAGE_server_entry)
        on_server_entry(d, &message.entry);
    else
        on_servers_page(d, &message.page);
}

/* --- holders --------------------------------------------------------------------------------------- */

/* A change of a server is applied when the table that shows it is in use, not when it was heard of. */
static uint64_t applied_here(const struct dispatch *d)
{
    const struct registry *registry = &d->feed.registry;
    const uint64_t applied = streams_applied(d->options.streams);
    const bool is_behind = registry->is_wanted || registry->request_id != 0;

    return is_behind && registry->sequence < applied ? registry->sequence : applied;
}

static void make_holders(struct dispatch *d, struct holders *ret_holders)
{
    memset(ret_holders, 0, sizeof *ret_holders);
    ret_holders->edge_size = UUID_SIZE;
    memcpy(ret_holders->edge, d->uuid, UUID_SIZE);
    ret_holders->applied = applied_here(d);
    for (uint32_t i = 0; i < WORKERS_MAX; i++) {
        const struct worker *worker = &d->workers[ROLE_AUTHZ][i];
        uint8_t *at = ret_holders->workers + ret_holders->workers_size;

        /* One that is suspected may still answer, one that is leaving as long as it owes answers. */
        if (worker->state == WORKER_FREE || (worker->state == WORKER_LEAVING && worker->outstanding == 0))
            continue;
        memcpy(at, worker->uuid, UUID_SIZE);
        for (unsigned byte = 0; byte < 8; byte++)
            at[UUID_SIZE + byte] = (uint8_t)(worker->applied >> 8 * byte);
        ret_holders->workers_size += UUID_SIZE + 8;
    }
}

void feed_tell(struct dispatch *d, struct worker *worker)
{
    struct holders holders;

    make_holders(d, &holders);
    worker_send(d, worker, message_type_of(MESSAGE_holders), 0, &holders);
}

void feed_flush(struct dispatch *d)
{
    if (!d->feed.holders_changed)
        return;
    d->feed.holders_changed = false;
    for (uint32_t i = 0; i < WORKERS_MAX; i++)
        if (d->workers[ROLE_KEYS][i].state != WORKER_FREE)
            feed_tell(d, &d->workers[ROLE_KEYS][i]);
}
