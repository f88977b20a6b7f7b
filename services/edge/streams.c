/*
 * streams.c - the list of open streams and the changes of the last seconds, under one mutex.
 * Streams belong to their threads; this only links them and writes to their eventfds.
 */
#include "services/edge/streams.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/change.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/metrics.h"

#define RECENT_MAX    4096u
#define RECENT_KEEP_US 10000000u

struct recent {
    uint64_t at_us;
    struct change change;
};

struct streams {
    pthread_mutex_t lock;
    struct stream *first;
    uint32_t limit;
    const char *closed_by;              /* "lease" or "drain": whatever opens now ends at once */
    _Atomic uint64_t applied, count;
    uint64_t forgotten;                 /* newest sequence that `recent` no longer holds */
    uint32_t recent_first, recent_count;
    struct recent recent[RECENT_MAX];
};

enum err streams_new(uint32_t limit, struct streams **ret_streams)
{
    struct streams *streams = calloc(1, sizeof *streams);

    if (streams == NULL)
        return ERR_NO_MEMORY;
    if (pthread_mutex_init(&streams->lock, NULL) != 0) {
        free(streams);
        return ERR_NO_MEMORY;
    }
    streams->limit = limit;
    *ret_streams = streams;
    return ERR_OK;
}

void streams_destroy(struct streams **streams)
{
    if (*streams == NULL)
        return;
    pthread_mutex_destroy(&(*streams)->lock);
    free(*streams);
    *streams = NULL;
}

static bool is_same(const char *a, const char *b)
{
    return a[0] != '\0' && strcmp(a, b) == 0;
}

/* Is it one of the names, with blanks between? */
static bool has_bond(const char *bonds, const char *name)
{
    const size_t length = strlen(name);

    for (const char *at = bonds; length > 0 && (at = strstr(at, name)) != NULL; at++)
        if ((at == bonds || at[-1] == ' ') && (at[length] == ' ' || at[length] == '\0'))
            return true;
    return false;
}

/* A kind this release does not know may mean anything, so it ends the stream. */
static bool change_names(const struct change *change, const struct stream *stream)
{
    switch (change->kind) {
    case CHANGE_KEY:
        return is_same(change->key_id, stream->key_id);
    case CHANGE_USER:
        return is_same(change->user_id, stream->user_id);
    case CHANGE_SESSION:
        return is_same(change->key_id, stream->session_id);
    case CHANGE_ISSUER:
        return false;    /* another key set: for each key that is not in it any more a CHANGE_BOND comes */
    case CHANGE_BOND:
        return has_bond(stream->bonds, change->key_id);
    case CHANGE_NOTICE:
        return false;
    case CHANGE_TENANT:
        return is_same(change->tenant_id, stream->tenant_id);
    case CHANGE_SERVER:
        return is_same(change->server, stream->server);
    default:
        return true;
    }
}

static void count_end(const char *why)
{
    static const struct { const char *why; enum metric metric; } rows[] = {
        { "change", METRIC_streams_ended_by_change },
        { "expiry", METRIC_streams_ended_by_expiry },
        { "lease", METRIC_streams_ended_by_lease },
    };

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (strcmp(rows[i].why, why) == 0)
            metric_add(rows[i].metric, 1);
}

static void end_stream(struct stream *stream, const char *why)
{
    const uint64_t one = 1;

    if (streams_ended_by(stream) != NULL)
        return;
    __atomic_store_n(&stream->ended_by, why, __ATOMIC_RELEASE);
    count_end(why);
    if (write(stream->wake_fd, &one, sizeof one) != (ssize_t)sizeof one)
        return;    /* the counter is full, so it is readable already */
}

/* Was a change that names it applied since its verdict was asked?  One that `recent` has lost counts as naming it. */
static bool was_changed(const struct streams *streams, const struct stream *stream)
{
    if (streams->forgotten > stream->opened_at
        || stream->opened_at > atomic_load_explicit(&streams->applied, memory_order_relaxed))
        return true;
    for (uint32_t i = 0; i < streams->recent_count; i++) {
        const struct change *change = &streams->recent[(streams->recent_first + i) % RECENT_MAX].change;

        if (change->sequence > stream->opened_at && change_names(change, stream))
            return true;
    }
    return false;
}

enum err streams_open(struct streams *streams, struct stream *stream, const struct verdict *verdict, const char *server)
{
    snprintf(stream->key_id, sizeof stream->key_id, "%s", verdict->key_id);
    snprintf(stream->session_id, sizeof stream->session_id, "%s", verdict->session_id);
    snprintf(stream->user_id, sizeof stream->user_id, "%s", verdict->user_id);
    snprintf(stream->tenant_id, sizeof stream->tenant_id, "%s", verdict->tenant_id);
    snprintf(stream->server, sizeof stream->server, "%s", server);
    snprintf(stream->bonds, sizeof stream->bonds, "%s", verdict->bonds);
    stream->expires_s = verdict->expires_s;
    stream->ended_by = NULL;

    pthread_mutex_lock(&streams->lock);
    if (atomic_load_explicit(&streams->count, memory_order_relaxed) >= streams->limit) {
        pthread_mutex_unlock(&streams->lock);
        return ERR_OVERLOADED;
    }
    stream->previous = NULL;
    stream->next = streams->first;
    if (streams->first != NULL)
        streams->first->previous = stream;
    streams->first = stream;
    metric_set(METRIC_streams_open, atomic_fetch_add(&streams->count, 1) + 1);
    if (streams->closed_by != NULL)
        end_stream(stream, streams->closed_by);
    else if (was_changed(streams, stream))
        end_stream(stream, "change");
    pthread_mutex_unlock(&streams->lock);
    return ERR_OK;
}

void streams_close(struct streams *streams, struct stream *stream)
{
    pthread_mutex_lock(&streams->lock);
    if (stream->previous != NULL)
        stream->previous->next = stream->next;
    else
        streams->first = stream->next;
    if (stream->next != NULL)
        stream->next->previous = stream->previous;
    stream->next = stream->previous = NULL;
    metric_set(METRIC_streams_open, atomic_fetch_sub(&streams->count, 1) - 1);
    pthread_mutex_unlock(&streams->lock);
}

const char *streams_ended_by(const struct stream *stream)
{
    return __atomic_load_n(&stream->ended_by, __ATOMIC_ACQUIRE);
}

uint64_t streams_applied(const struct streams *streams)
{
    return atomic_load_explicit(&streams->applied, memory_order_acquire);
}

static void forget_oldest(struct streams *streams)
{
    streams->forgotten = streams->recent[streams->recent_first].change.sequence;
    streams->recent_first = (streams->recent_first + 1) % RECENT_MAX;
    streams->recent_count--;
}

static void remember(struct streams *streams, const struct change *change, uint64_t now_us)
{
    while (streams->recent_count > 0
           && (streams->recent_count == RECENT_MAX
               || streams->recent[streams->recent_first].at_us + RECENT_KEEP_US < now_us))
        forget_oldest(streams);
    streams->recent[(streams->recent_first + streams->recent_count) % RECENT_MAX] =
        (struct recent){ .at_us = now_us, .change = *change };
    streams->recent_count++;
}

void streams_apply(struct streams *streams, const struct change *change)
{
    pthread_mutex_lock(&streams->lock);
    remember(streams, change, clock_monotonic_us());
    for (struct stream *stream = streams->first; stream != NULL; stream = stream->next)
        if (change->sequence > stream->opened_at && change_names(change, stream))
            end_stream(stream, "change");
    atomic_store_explicit(&streams->applied, change->sequence, memory_order_release);
    pthread_mutex_unlock(&streams->lock);
    metric_set(METRIC_change_applied, change->sequence);
}

void streams_note_sequence(struct streams *streams, uint64_t sequence)
{
    pthread_mutex_lock(&streams->lock);
    if (streams->closed_by != NULL && strcmp(streams->closed_by, "lease") == 0)
        streams->closed_by = NULL;
    if (sequence > atomic_load_explicit(&streams->applied, memory_order_relaxed)) {
        /* What lies between was never seen here, so nothing that was judged before it may go on. */
        streams->forgotten = sequence;
        for (struct stream *stream = streams->first; stream != NULL; stream = stream->next)
            if (stream->opened_at < sequence)
                end_stream(stream, "change");
        atomic_store_explicit(&streams->applied, sequence, memory_order_release);
        metric_set(METRIC_change_applied, sequence);
    }
    pthread_mutex_unlock(&streams->lock);
}

void streams_start_over(struct streams *streams, uint64_t sequence)
{
    pthread_mutex_lock(&streams->lock);
    for (struct stream *stream = streams->first; stream != NULL; stream = stream->next)
        end_stream(stream, "change");
    streams->recent_count = 0;
    streams->forgotten = sequence;
    atomic_store_explicit(&streams->applied, sequence, memory_order_release);
    pthread_mutex_unlock(&streams->lock);
    metric_set(METRIC_change_applied, sequence);
}

void streams_sweep(struct streams *streams, uint64_t unix_s)
{
    pthread_mutex_lock(&streams->lock);
    for (struct stream *stream = streams->first; stream != NULL; stream = stream->next)
        if (stream->expires_s != 0 && stream->expires_s <= unix_s)
            end_stream(stream, "expiry");
    pthread_mutex_unlock(&streams->lock);
}

void streams_end_all(struct streams *streams, const char *why)
{
    pthread_mutex_lock(&streams->lock);
    if (streams->closed_by == NULL || strcmp(why, "drain") == 0)
        streams->closed_by = why;
    for (struct stream *stream = streams->first; stream != NULL; stream = stream->next)
        end_stream(stream, why);
    pthread_mutex_unlock(&streams->lock);
}

uint64_t streams_count(const struct streams *streams)
{
    return atomic_load_explicit(&streams->count, memory_order_relaxed);
}
