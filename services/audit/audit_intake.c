#include "services/audit/audit_intake.h"

#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/metrics.h"
#include "common/sabotage.h"
#include "services/audit/audit_rules.h"

enum stream_state {
    STREAM_FREE,
    STREAM_NEW,        /* the watermark is to be read, from retry_us on */
    STREAM_CLAIMING,
    STREAM_READY
};

struct held {
    struct held *next;
    struct trail_header header;
    uint8_t bytes[];
};

struct stream {
    struct intake *intake;
    enum stream_state state;
    uint8_t producer[UUID_SIZE];
    uint64_t epoch;
    uint32_t edge;                       /* where it was last heard */
    uint64_t heard_us, retry_us;
    uint64_t committed_seq, sent_seq;    /* next sequence to be stored; behind the batches under way */
    uint64_t taken_seq;                  /* behind what stands in columns */
    uint64_t told_seq, oldest_seq;       /* of the producer */
    uint64_t durable_seq;                /* the highest it ever told: below it nothing may vanish, whatever dies */
    unsigned flights, reused;
    uint64_t generation;                 /* +1 at each forgetting: outcomes of older batches mean nothing */
    struct columns *columns;             /* NULL until the first block */
    struct held *held;                   /* by first sequence */
    bool is_replaying;
    uint8_t head[DIGEST_SIZE];           /* mac of the last block taken */
    bool has_head;                       /* false: the next block may follow anything */
    uint64_t refused_seq;                /* behind the block that did not continue the chain; 0: none */
    bool is_authentic;                   /* a block carried the MAC of our key: all that follow must */
    bool is_tampered;                    /* the watermark is not what we signed: nothing more is signed */
    bool is_unproven;                    /* told already that it carries no MAC of our key */
    bool is_told_closed, is_closed;
    uint64_t replay_seq, replay_next_us; /* where the replay began; not asked for again before */
    unsigned replays;                    /* fruitless ones in a row */
};

struct flight {
    struct stream *stream;               /* NULL: free */
    uint64_t generation, next_seq, first_us;
    size_t events;
};

struct intake {
    struct intake_options options;
    struct bus *bus;
    struct audit_store *store;
    struct seal *seal;
    uint64_t token;
    bool is_draining;
    int flush_timer;                     /* 0: not armed */
    size_t held_bytes;
    uint64_t quarantine_us, unfollowed_us;    /* when one was last stored, told of */
    struct flight flights[STREAMS_MAX * STREAM_FLIGHTS_MAX];
    struct stream streams[STREAMS_MAX];
};

static void stream_advance(struct stream *stream);

static struct audit_place stream_place(const struct stream *stream, uint64_t next_seq)
{
    struct audit_place place = { .epoch = stream->epoch, .next_seq = next_seq, .token = stream->intake->token };

    memcpy(place.producer, stream->producer, UUID_SIZE);
    place.has_head = stream->has_head;
    memcpy(place.head, stream->head, DIGEST_SIZE);
    return place;
}

/* ---- what lies beyond a gap */

static void held_pop(struct stream *stream)
{
    struct held *first = stream->held;

    stream->held = first->next;
    stream->intake->held_bytes -= first->header.size;
    free(first);
}

/* Keeps a copy while there is room; otherwise the spool will be asked. */
static void stream_hold(struct stream *stream, const struct trail_header *header, const uint8_t *bytes)
{
    struct held **at = &stream->held;
    struct held *held;

    if (stream->intake->held_bytes + header->size > STREAM_HOLD_BYTES)
        return;
    while (*at != NULL && (*at)->header.first_seq < header->first_seq)
        at = &(*at)->next;
    if (*at != NULL && (*at)->header.first_seq == header->first_seq)
        return;
    held = malloc(sizeof *held + header->size);
    if (held == NULL)
        return;
    held->header = *header;
    memcpy(held->bytes, bytes, header->size);
    held->next = *at;
    *at = held;
    stream->intake->held_bytes += header->size;
}

static void stream_forget(struct stream *stream, uint64_t retry_us)
{
    while (stream->held != NULL)
        held_pop(stream);
    if (stream->columns != NULL)
        columns_reset(stream->columns);
    stream->state = STREAM_NEW;
    stream->retry_us = retry_us;
    stream->generation++;
    stream->is_replaying = stream->has_head = stream->is_closed = stream->is_authentic = false;
    stream->refused_seq = 0;
    stream->replay_next_us = 0;
}

/* ---- out to Postgres */

static void stream_ack(const struct stream *stream)
{
    struct trail_ack ack = { .producer_size = UUID_SIZE, .epoch = stream->epoch, .next_seq = stream->committed_seq };

    memcpy(ack.producer, stream->producer, UUID_SIZE);
    bus_send(stream->intake->bus, stream->edge, MESSAGE_trail_ack, 0, &ack);
}

#ifdef SABOTAGE
/* What is not committed yet is acknowledged. */
static void stream_ack_early(struct stream *stream)
{
    const uint64_t committed_seq = stream->committed_seq;

    stream->committed_seq = stream->taken_seq;
    stream_ack(stream);
    stream->committed_seq = committed_seq;
}
#else
#define stream_ack_early(stream) ((void)(stream))
#endif

static void on_inserted(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    struct flight *flight = owner;
    struct stream *stream = flight->stream;
    bool is_current = flight->generation == stream->generation;
    enum err err = audit_store_read_insert(outcome, results);

    (void)count;
    flight->stream = NULL;
    stream->flights--;
    if (err == ERR_OK) {
        uint64_t now_us = clock_unix_us();

        metric_add(METRIC_audit_events, flight->events);
        metric_add(METRIC_audit_batches, 1);
        histogram_observe_us(HISTOGRAM_audit_lag, now_us > flight->first_us ? now_us - flight->first_us : 0);
    }
    if (!is_current)
        return;
    if (err != ERR_OK) {
        metric_add(METRIC_audit_fenced, err == ERR_CONFLICT);
        stream_forget(stream, clock_monotonic_us() + (err == ERR_CONFLICT ? 0 : STREAM_RETRY_US));
        return;
    }
    stream->committed_seq = flight->next_seq;
    stream_ack(stream);
    stream_advance(stream);
}

static struct flight *flight_take(struct intake *intake)
{
    for (size_t i = 0; i < sizeof intake->flights / sizeof intake->flights[0]; i++) {
        if (intake->flights[i].stream == NULL)
            return &intake->flights[i];
    }
    return NULL;
}

/* False: it has to wait for an outcome. */
static bool stream_flush(struct stream *stream)
{
    struct audit_place place;
    struct checkpoint checkpoint;
    struct audit_batch batch = { .place = &place, .columns = stream->columns, .checkpoint = &checkpoint };
    struct flight *flight;

    if (stream->state != STREAM_READY || stream->columns == NULL || columns_count(stream->columns) == 0)
        return true;
    if (stream->flights >= STREAM_FLIGHTS_MAX)
        return false;
    flight = flight_take(stream->intake);
    if (flight == NULL)
        return false;
    place = stream_place(stream, stream->sent_seq);
    *flight = (struct flight){ .stream = stream, .generation = stream->generation,
                               .next_seq = columns_next_seq(stream->columns),
                               .first_us = columns_first_us(stream->columns),
                               .events = columns_count(stream->columns) };
    seal_make(stream->intake->seal, &place, stream->columns, stream->is_tampered, &checkpoint);
    if (audit_store_insert(stream->intake->store, &batch, on_inserted, flight) != ERR_OK) {
        flight->stream = NULL;
        return false;
    }
    stream->flights++;
    stream->sent_seq = flight->next_seq;
    columns_reset(stream->columns);
    return true;
}

static void arm_flush(struct intake *intake);

static void on_flush_due(void *owner)
{
    struct intake *intake = owner;

    intake->flush_timer = 0;
    for (size_t i = 0; i < STREAMS_MAX; i++) {
        if (!stream_flush(&intake->streams[i]))
            arm_flush(intake);
    }
}

static void arm_flush(struct intake *intake)
{
    if (intake->flush_timer == 0)
        intake->flush_timer = loop_after(intake->options.loop, AUDIT_BATCH_MS, on_flush_due, intake);
}

/* ---- in from the bus */

static void quarantine(struct intake *intake, const struct audit_place *place, const char *reason,
                       const uint8_t *bytes, size_t size)
{
    uint64_t now_us = clock_monotonic_us();

    metric_add(METRIC_audit_quarantined, 1);
    if (now_us - intake->quarantine_us < STREAM_QUARANTINE_US)
        return;
    intake->quarantine_us = now_us;
    log_error("block_quarantined", log_text("reason", reason), log_number("size_bytes", size));
    if (audit_store_quarantine(intake->store, place, reason, bytes, size) != ERR_OK)
        log_warn("quarantine_not_stored");
}

static bool stream_has_room(const struct stream *stream)
{
    return stream->columns == NULL || !batch_is_full(columns_count(stream->columns), columns_bytes(stream->columns));
}

/* An epoch that began before its edge was given the key carries another's MACs throughout: it is told, and taken. */
static bool stream_authenticates(struct stream *stream, const struct trail_header *header, const uint8_t *bytes)
{
    const struct secret *master = stream->intake->options.chain_key;
    uint8_t key[TRAIL_KEY_SIZE];
    char producer[UUID_TEXT_SIZE];

    if (master == NULL || !secret_is_set(master))
        return true;
    trail_derive_key(master->bytes, master->size, stream->producer, stream->epoch, key);
    if (trail_is_authentic(bytes, header, key)) {
        stream->is_authentic = true;
        return true;
    }
    if (stream->is_authentic)
        return false;
    if (!stream->is_unproven) {
        uuid_format(stream->producer, producer);
        log_warn("epoch_not_authenticated", log_text("producer", producer), log_number("epoch", stream->epoch),
                 log_text("remedy", "give edges and audit the same chain_key"));
    }
    stream->is_unproven = true;
    return true;
}

/* Does the block stand where the producer wrote it, and is it what it wrote? */
static bool stream_continues(struct stream *stream, const struct trail_header *header, const uint8_t *bytes)
{
    const bool is_chained = (header->flags & TRAIL_CHAINED) != 0;
    static const uint8_t zero[DIGEST_SIZE];

    if (stream->has_head && (!is_chained || memcmp(header->prev, stream->head, DIGEST_SIZE) != 0))
        return false;
    if (header->first_seq == 1 && memcmp(header->prev, zero, DIGEST_SIZE) != 0)
        return false;
    return stream_authenticates(stream, header, bytes);
}

/* Counted as a replay that brings nothing: after some of them it is given up, and its place says so. */
static void stream_refuse(struct stream *stream, const struct trail_header *header, const uint8_t *bytes)
{
    const struct audit_place place = stream_place(stream, header->first_seq);

    metric_add(METRIC_audit_chain_broken, 1);
    quarantine(stream->intake, &place, "chain", bytes, header->size);
    stream->refused_seq = header->first_seq + header->count;
}

/* The next block of the stream goes into the columns.  False: no room or no memory. */
static bool stream_append(struct stream *stream, const struct trail_header *header, const uint8_t *bytes)
{
    struct audit_place place = stream_place(stream, header->first_seq);
    uint32_t unreadable = 0;

    if (stream->columns == NULL && columns_new(&stream->columns) != ERR_OK)
        return false;
    if (!stream_has_room(stream) && !stream_flush(stream))
        return false;
    if (columns_add_block(stream->columns, header, bytes, &unreadable) != ERR_OK)
        return false;
    if (unreadable > 0)
        quarantine(stream->intake, &place, "record", bytes, header->size);
    if (stream->is_replaying)
        metric_add(METRIC_audit_replayed, header->count);
    stream->taken_seq = header->first_seq + header->count;
    if (lacks("ack"))
        stream_ack_early(stream);
    stream->has_head = (header->flags & TRAIL_CHAINED) != 0;
    memcpy(stream->head, header->mac, DIGEST_SIZE);
    stream->refused_seq = 0;
    stream->replays = 0;
    if (!stream_has_room(stream))
        (void)stream_flush(stream);    /* or at the next outcome */
    arm_flush(stream->intake);
    return true;
}

/* Asks for what is missing, unless that was done or there is no room for it. */
static void stream_ask_replay(struct stream *stream)
{
    uint64_t now_us = clock_monotonic_us();
    struct replay_request request = { .producer_size = UUID_SIZE, .epoch = stream->epoch, .from_seq = stream->taken_seq,
                                      .max_bytes = STREAM_REPLAY_BYTES };

    if (stream->intake->is_draining || stream->flights >= STREAM_FLIGHTS_MAX)
        return;
    if (now_us < stream->replay_next_us)
        return;
    memcpy(request.producer, stream->producer, UUID_SIZE);
    stream->is_replaying = true;
    stream->replay_next_us = now_us + STREAM_REPLAY_US;
    stream->replay_seq = stream->taken_seq;
    bus_send(stream->intake->bus, stream->edge, MESSAGE_replay_request, 0, &request);
}

/* Goes as far as what is held and the room allow; then asks for the rest. */
static void stream_advance(struct stream *stream)
{
    if (stream->state != STREAM_READY)
        return;
    if (!stream_has_room(stream) || stream->intake->is_draining)
        (void)stream_flush(stream);
    while (stream->held != NULL) {
        struct held *first = stream->held;
        enum block_place place = block_place_of(stream->taken_seq, first->header.first_seq, first->header.count);

        if (place == BLOCK_GAP)
            break;
        if (place == BLOCK_NEXT && !stream_continues(stream, &first->header, first->bytes))
            stream_refuse(stream, &first->header, first->bytes);
        else if (place == BLOCK_NEXT && !stream_append(stream, &first->header, first->bytes))
            break;
        held_pop(stream);
    }
    if (stream->told_seq > stream->taken_seq)
        stream_ask_replay(stream);
}

static void on_claimed(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    struct stream *stream = owner;
    struct intake *intake = stream->intake;
    const struct audit_place place = stream_place(stream, 0);
    struct audit_mark mark;
    enum err err = audit_store_read_claim(outcome, results, &mark);

    (void)count;
    if (stream->state != STREAM_CLAIMING)
        return;
    if (err == ERR_OK && stream->columns == NULL)
        err = columns_new(&stream->columns);
    if (err != ERR_OK) {
        stream_forget(stream, clock_monotonic_us() + STREAM_RETRY_US);
        if (err == ERR_CONFLICT)
            intake->options.on_fenced(intake->options.owner);
        return;
    }
    stream->state = STREAM_READY;
    stream->committed_seq = stream->sent_seq = stream->taken_seq = mark.next_seq;
    stream->is_tampered = !seal_holds(intake->seal, &place, &mark);
    stream->has_head = mark.has_head;
    memcpy(stream->head, mark.head, DIGEST_SIZE);
    columns_follow(stream->columns, stream->producer, stream->epoch, &mark.tree);
    stream_advance(stream);
    metric_add(METRIC_audit_gaps, stream->held != NULL && stream->held->header.first_seq > stream->taken_seq);
}

static void stream_claim(struct stream *stream)
{
    struct audit_place place = stream_place(stream, 0);

    /* Only when nothing is under way: its outcome would be taken for one of the new state. */
    if (stream->state != STREAM_NEW || place.token == 0 || clock_monotonic_us() < stream->retry_us
        || stream->flights > 0)
        return;
    if (audit_store_claim(stream->intake->store, &place, on_claimed, stream) == ERR_OK)
        stream->state = STREAM_CLAIMING;
}

static struct stream *stream_of(struct intake *intake, const uint8_t producer[UUID_SIZE], uint64_t epoch)
{
    struct stream *spare = NULL;

    for (size_t i = 0; i < STREAMS_MAX; i++) {
        struct stream *stream = &intake->streams[i];

        if (stream->state == STREAM_FREE)
            spare = spare == NULL ? stream : spare;
        else if (stream->epoch == epoch && memcmp(stream->producer, producer, UUID_SIZE) == 0)
            return stream;
    }
    if (spare == NULL)
        return NULL;
    *spare = (struct stream){ .intake = intake, .state = STREAM_NEW, .epoch = epoch, .columns = spare->columns,
                              .heard_us = clock_monotonic_us() };
    memcpy(spare->producer, producer, UUID_SIZE);
    return spare;
}

void intake_take_block(struct intake *intake, uint32_t edge, const uint8_t *bytes, size_t size)
{
    struct trail_header header;
    struct audit_place place;
    struct stream *stream;

    if (intake->token == 0 || intake->is_draining)
        return;
    if (trail_open(bytes, size, &header) != ERR_OK || header.size != size || header.epoch > INT64_MAX) {
        quarantine(intake, NULL, "block", bytes, size);
        return;
    }
    stream = stream_of(intake, header.producer, header.epoch);
    if (stream == NULL)
        return;
    stream->edge = edge;
    if (stream->told_seq < header.first_seq + header.count)
        stream->told_seq = header.first_seq + header.count;
    if (stream->state != STREAM_READY) {
        stream_hold(stream, &header, bytes);
        stream_claim(stream);
        return;
    }
    switch (block_place_of(stream->taken_seq, header.first_seq, header.count)) {
    case BLOCK_DUPLICATE:
        metric_add(METRIC_audit_duplicates, header.count);
        return;
    case BLOCK_MALFORMED:
        place = stream_place(stream, header.first_seq);
        quarantine(intake, &place, "place", bytes, size);
        return;
    case BLOCK_GAP:
        metric_add(METRIC_audit_gaps, stream->held == NULL && !stream->is_replaying);
        stream_hold(stream, &header, bytes);
        break;
    case BLOCK_NEXT:
        if (!stream_continues(stream, &header, bytes))
            stream_refuse(stream, &header, bytes);
        else if (!stream_append(stream, &header, bytes))
            stream_hold(stream, &header, bytes);
        break;
    }
    stream_advance(stream);
}

static void note_reuse(struct stream *stream)
{
    char producer[UUID_TEXT_SIZE];

    if (++stream->reused % STREAM_REUSED_TIMES != 0)
        return;
    uuid_format(stream->producer, producer);
    log_error("epoch_reused", log_text("producer", producer), log_number("epoch", stream->epoch),
              log_number("stored_next_seq", stream->committed_seq), log_number("told_next_seq", stream->told_seq));
}

/* Only what was not on disk may be gone after a crash: less than that was cut off, or is another copy. */
static void note_cut(struct stream *stream, const struct trail_heartbeat *heartbeat)
{
    char producer[UUID_TEXT_SIZE];

    if (heartbeat->next_seq < stream->durable_seq && heartbeat->next_seq >= stream->taken_seq) {
        metric_add(METRIC_audit_cut, stream->durable_seq - heartbeat->next_seq);
        uuid_format(stream->producer, producer);
        log_error("spool_cut", log_text("producer", producer), log_number("epoch", stream->epoch),
                  log_number("from_seq", heartbeat->next_seq), log_number("count", stream->durable_seq - heartbeat->next_seq));
        stream->durable_seq = heartbeat->next_seq;
    }
    if (heartbeat->durable_seq > stream->durable_seq && heartbeat->durable_seq <= heartbeat->next_seq)
        stream->durable_seq = heartbeat->durable_seq;
}

/* Told once: from then on the epoch can be searched for calls that never ended. */
static void stream_close(struct stream *stream)
{
    const struct audit_place place = stream_place(stream, stream->committed_seq);

    if (stream->state != STREAM_READY || stream->is_closed || !stream->is_told_closed
        || stream->committed_seq != stream->told_seq)
        return;
    stream->is_closed = audit_store_close(stream->intake->store, &place) == ERR_OK;
}

void intake_take_heartbeat(struct intake *intake, uint32_t edge, const struct trail_heartbeat *heartbeat)
{
    struct stream *stream;

    if (heartbeat->producer_size != UUID_SIZE || heartbeat->epoch > INT64_MAX)
        return;
    stream = stream_of(intake, heartbeat->producer, heartbeat->epoch);
    if (stream == NULL) {
        if (clock_monotonic_us() - intake->unfollowed_us > STREAM_SILENT_US) {
            log_warn("stream_not_followed", log_number("streams_max", STREAMS_MAX));
            intake->unfollowed_us = clock_monotonic_us();
        }
        return;
    }
    stream->edge = edge;
    stream->heard_us = clock_monotonic_us();
    note_cut(stream, heartbeat);
    stream->told_seq = heartbeat->next_seq;
    stream->oldest_seq = heartbeat->oldest_seq;
    stream->is_told_closed = heartbeat->closed;
    stream_claim(stream);
    if (stream->state != STREAM_READY)
        return;
    stream_ack(stream);
    switch (tail_of(stream->taken_seq, stream->committed_seq, stream->told_seq)) {
    case TAIL_REUSED:
        note_reuse(stream);
        return;
    case TAIL_MISSING:
        metric_add(METRIC_audit_gaps, stream->held == NULL && !stream->is_replaying && stream_has_room(stream));
        break;
    case TAIL_LEVEL:
        break;
    }
    stream->reused = 0;
    stream_advance(stream);
    stream_close(stream);
}

/* It cannot be had: one event says so in its place, and the stream goes on behind. */
static void stream_skip(struct stream *stream, uint64_t resume_seq, const char *reason)
{
    char producer[UUID_TEXT_SIZE];
    const uint64_t count = resume_seq - stream->taken_seq;
    const struct columns_lost lost = { .first_seq = stream->taken_seq, .count = count, .time_us = clock_unix_us(),
                                       .reason = reason };

    if (stream->columns == NULL && columns_new(&stream->columns) != ERR_OK)
        return;
    if (!stream_flush(stream))
        return;
    if (columns_add_lost(stream->columns, &lost) != ERR_OK)
        return;
    metric_add(METRIC_audit_lost, count);
    stream->has_head = false;
    stream->refused_seq = 0;
    uuid_format(stream->producer, producer);
    log_error("events_lost", log_text("producer", producer), log_number("epoch", stream->epoch),
              log_number("from_seq", stream->taken_seq), log_number("count", count),
              log_text("reason", reason));
    stream->taken_seq = resume_seq;
    stream->replays = 0;
    (void)stream_flush(stream);
    arm_flush(stream->intake);
}

void intake_take_replay_end(struct intake *intake, const struct replay_end *end)
{
    struct stream *stream;
    uint64_t resume_seq;

    if (end->producer_size != UUID_SIZE)
        return;
    stream = stream_of(intake, end->producer, end->epoch);
    if (stream == NULL || stream->state != STREAM_READY || !stream->is_replaying)
        return;
    struct loss loss = { .next_seq = stream->taken_seq, .oldest_seq = stream->oldest_seq,
                         .refused_seq = stream->refused_seq,
                         .told_seq = end->error != ERR_OK ? end->next_seq : 0, .is_gone = end->error == ERR_NOT_FOUND };
    stream->is_replaying = false;
    if (stream->taken_seq > stream->replay_seq) {
        stream->replay_next_us = 0;
        stream_advance(stream);
        return;
    }
    stream->replay_next_us = clock_monotonic_us() + STREAM_FRUITLESS_US;
    stream->replays++;
    loss.held_seq = stream->held != NULL ? stream->held->header.first_seq : 0;
    if (!loss_resume_of(&loss, stream->replays, &resume_seq))
        return;
    stream_skip(stream, resume_seq, stream->refused_seq != 0 ? "chain" : end->error == ERR_MALFORMED ? "damage" : "spool");
    stream_advance(stream);
}

/* ---- the whole */

enum err intake_new(const struct intake_options *options, struct intake **ret_intake)
{
    struct intake *intake = calloc(1, sizeof *intake);

    if (intake == NULL)
        return ERR_NO_MEMORY;
    intake->options = *options;
    *ret_intake = intake;
    return ERR_OK;
}

void intake_connect(struct intake *intake, struct bus *bus, struct audit_store *store, struct seal *seal)
{
    intake->bus = bus;
    intake->store = store;
    intake->seal = seal;
}

void intake_destroy(struct intake **intake)
{
    if (*intake == NULL)
        return;
    if ((*intake)->flush_timer != 0)
        loop_cancel((*intake)->options.loop, (*intake)->flush_timer);
    for (size_t i = 0; i < STREAMS_MAX; i++) {
        struct stream *stream = &(*intake)->streams[i];

        while (stream->held != NULL)
            held_pop(stream);
        columns_destroy(&stream->columns);
    }
    free(*intake);
    *intake = NULL;
}

void intake_set_token(struct intake *intake, uint64_t token)
{
    intake->token = token;
    for (size_t i = 0; i < STREAMS_MAX; i++) {
        if (intake->streams[i].state != STREAM_FREE)
            stream_forget(&intake->streams[i], 0);
    }
}

/* Its edge is gone, and so is what it still had, until somebody serves its spool. */
static void tell_silence(const struct stream *stream)
{
    char producer[UUID_TEXT_SIZE];

    if (stream->intake->token == 0 || stream->told_seq <= stream->committed_seq)
        return;
    uuid_format(stream->producer, producer);
    log_error("stream_silent", log_text("producer", producer), log_number("epoch", stream->epoch),
              log_number("from_seq", stream->committed_seq), log_number("count", stream->told_seq - stream->committed_seq),
              log_text("remedy", "start an edge on its spool, or mcpgw audit import"));
}

void intake_tend(struct intake *intake)
{
    uint64_t now_us = clock_monotonic_us(), lag = 0;

    for (size_t i = 0; i < STREAMS_MAX; i++) {
        struct stream *stream = &intake->streams[i];

        if (stream->state == STREAM_FREE)
            continue;
        if (stream->state == STREAM_READY && stream->told_seq > stream->committed_seq)
            lag += stream->told_seq - stream->committed_seq;
        if (now_us - stream->heard_us < STREAM_SILENT_US || stream->flights > 0 || stream->state == STREAM_CLAIMING)
            continue;
        tell_silence(stream);
        stream_forget(stream, 0);
        columns_destroy(&stream->columns);
        stream->state = STREAM_FREE;
    }
    metric_set(METRIC_audit_lag_events, lag);
}

void intake_drain(struct intake *intake)
{
    intake->is_draining = true;
    for (size_t i = 0; i < STREAMS_MAX; i++)
        (void)stream_flush(&intake->streams[i]);
}

bool intake_is_idle(const struct intake *intake)
{
    for (size_t i = 0; i < STREAMS_MAX; i++) {
        const struct stream *stream = &intake->streams[i];

        if (stream->flights > 0)
            return false;
        if (stream->state == STREAM_READY && stream->columns != NULL && columns_count(stream->columns) > 0)
            return false;
    }
    return true;
}
