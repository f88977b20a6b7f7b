/*
 * publish.c - the trail: the events of a sweep become one block, written before anyone is woken, then published; what audit
 * missed is read back from the spool on request.
 */
#include "services/edge/core.h"

#include <linux/futex.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/metrics.h"
#include "common/sabotage.h"

#define REPLAY_BYTES_PER_SWEEP 65536u    /* of each replay: calls must not wait for it */

/* --- waking --------------------------------------------------------------------------------- */

/* The caller's stack may be gone once it sees DONE, so nothing of the call is touched after. */
static void wake(struct dispatch *d, struct call *call)
{
    uint32_t *word = &call->own.state;

    if (call->answer != NULL)
        call->answer(call);
    atomic_fetch_sub_explicit(&d->calls_in_work, 1, memory_order_relaxed);
    if (__atomic_exchange_n(word, CALL_DONE, __ATOMIC_ACQ_REL) == CALL_ASLEEP)
        syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

void publish_durable(struct dispatch *d)
{
    const uint64_t durable_seq = spool_durable_seq(d->spool);

    while (d->unsynced != NULL && d->unsynced->own.sequence < durable_seq) {
        struct call *call = d->unsynced;

        d->unsynced = call->own.next;
        if (d->unsynced == NULL)
            d->last_unsynced = NULL;
        wake(d, call);
    }
}

static void wake_when_durable(struct dispatch *d, struct call *call)
{
    call->own.next = NULL;
    if (d->last_unsynced == NULL)
        d->unsynced = call;
    else
        d->last_unsynced->own.next = call;
    d->last_unsynced = call;
}

static void wake_all(struct dispatch *d)
{
    struct call *call = d->answers;

    d->answers = d->last_answer = NULL;
    while (call != NULL) {
        struct call *next = call->own.next;

        if (d->options.audit_strict && (call->steps & CALL_RECORD) != 0 && call->err != ERR_AUDIT_UNAVAILABLE)
            wake_when_durable(d, call);
        else
            wake(d, call);
        call = next;
    }
}

/* --- blocks ---------------------------------------------------------------------------------- */

static void publish_message(struct dispatch *d, uint16_t code, const void *message)
{
    const struct message_type *type = message_type_of(code);
    struct frame_writer writer;

    /* Nobody answers on a PUB socket, so no version can be agreed: the oldest is what every receiver reads. */
    frame_begin(&writer, d->trail_buffer, FRAME_TRAIL_MAX, MESSAGES_VERSION_OLDEST, d->epoch, ++d->batch_number);
    if (frame_add(&writer, type, 0, 0, 0, message) != ERR_OK)
        return;
    if (d->record != NULL)
        record_message(d->record, type, message);
    if (zmq_send(d->publisher, writer.bytes, frame_end(&writer), ZMQ_DONTWAIT) < 0)
        return;    /* audit finds the gap by the heartbeats and asks for it */
    metric_add(METRIC_bus_frames_out, 1);
    metric_add(METRIC_bus_sent, 1);
}

static void begin_block(struct dispatch *d)
{
    trail_begin(&d->block, d->block_buffer, TRAIL_BLOCK_MAX, spool_producer(d->spool), spool_epoch(d->spool),
                spool_next_seq(d->spool));
    d->block.header.version = MESSAGES_VERSION_OLDEST;    /* audit may be a release behind, or be rolled back to it */
}

/* Seals, writes and publishes what is in the block.  ERR_AUDIT_UNAVAILABLE: the spool did not take it. */
static enum err end_block(struct dispatch *d, bool is_junk)
{
    const uint32_t count = d->block.header.count;
    uint8_t mac[DIGEST_SIZE];
    const size_t size = trail_end(&d->block, clock_unix_us(), d->prev, spool_chain_key(d->spool),
                                  TRAIL_KEY_SIZE, mac);
    struct trail_block message = { .block = { .bytes = d->block_buffer, .size = size } };
    enum err err;

    if (size == 0)
        return ERR_OK;
    err = spool_append(d->spool, d->block_buffer, size, count, is_junk);
    if (err != ERR_OK) {
        if (d->is_spool_available)
            log_error("spool_unavailable", log_text("effect", "calls are refused with audit_unavailable"));
        d->is_spool_available = false;
        return err;
    }
    memcpy(d->prev, mac, sizeof mac);
    publish_message(d, MESSAGE_trail_block, &message);
    return ERR_OK;
}

/* --- events of calls -------------------------------------------------------------------------- */

static void make_printable(char *text, size_t size)
{
    text[size - 1] = '\0';
    for (; *text != '\0'; text++)
        if (*text < ' ' || *text > '~')
            *text = '?';
}

/* An event that its own limits would refuse is bent to fit them: none may be missing. */
static void mend_event(struct audit_event *event)
{
    const struct message_type *type = message_type_of(MESSAGE_audit_event);

    for (size_t i = 0; i < type->field_count; i++)
        if (type->fields[i].type == FIELD_TEXT)
            make_printable((char *)event + type->fields[i].offset, type->fields[i].limit + 1);
    event->details[0] = '\0';
}

static enum err add_event(struct dispatch *d, uint64_t unix_us, struct audit_event *event)
{
    const struct message_type *type = message_type_of(MESSAGE_audit_event);
    enum err err = trail_add(&d->block, unix_us, type, event);

    if (err == ERR_OK || err == ERR_TOO_LARGE)
        return err;
    mend_event(event);
    return trail_add(&d->block, unix_us, type, event);
}

/* The block with the events of first..end (end exclusive) could not be written, or could: tells the calls. */
static void settle(struct dispatch *d, struct call *first, const struct call *end, enum err err)
{
    for (struct call *call = first; err != ERR_OK && call != end; call = call->own.next) {
        if ((call->steps & CALL_RECORD) == 0 || call->err == ERR_AUDIT_UNAVAILABLE)
            continue;
        if (call->steps != CALL_RECORD)
            d->refused_by_spool++;
        call->err = ERR_AUDIT_UNAVAILABLE;
    }
}

static void record_answers(struct dispatch *d)
{
    const uint64_t unix_us = clock_unix_us();
    struct call *first = d->answers;

    begin_block(d);
    for (struct call *call = d->answers; call != NULL; call = call->own.next) {
        if ((call->steps & CALL_RECORD) == 0)
            continue;
        if (call->err == ERR_AUDIT_UNAVAILABLE) {
            d->refused_by_spool++;    /* refused at once: it has no event of its own */
            continue;
        }
        if (add_event(d, unix_us, &call->event) == ERR_TOO_LARGE) {
            settle(d, first, call, end_block(d, false));
            first = call;
            begin_block(d);
            (void)!add_event(d, unix_us, &call->event);    /* one event is far below a block */
        }
        call->own.sequence = d->block.header.first_seq + d->block.header.count - 1;
    }
    settle(d, first, NULL, end_block(d, false));
}

void publish_answers(struct dispatch *d)
{
    if (d->answers == NULL)
        return;
    if (!lacks("trail"))
        record_answers(d);
    wake_all(d);
}

/* --- counts ------------------------------------------------------------------------------------ */

static enum err record_count(struct dispatch *d, struct audit_event *event)
{
    enum err err;

    begin_block(d);
    if (add_event(d, clock_unix_us(), event) != ERR_OK)
        return ERR_BUG;
    err = end_block(d, true);
    return err;
}

static void make_count(struct audit_event *event, const char *reason, unsigned status, uint64_t count)
{
    *event = (struct audit_event){ .event = "refused", .outcome = "refused", .status = status, .count = count };
    snprintf(event->reason, sizeof event->reason, "%s", reason);
}

/* After the spool takes events again: how many requests it had refused, exactly. */
void publish_check_spool(struct dispatch *d)
{
    struct audit_event event;
    const bool was_available = d->is_spool_available;

    d->is_spool_available = spool_is_available(d->spool);
    if (was_available && !d->is_spool_available)
        log_error("spool_unavailable", log_text("effect", "calls are refused with audit_unavailable"));
    if (!d->is_spool_available || d->refused_by_spool == 0)
        return;
    make_count(&event, "audit_unavailable", 503, d->refused_by_spool);
    if (record_count(d, &event) != ERR_OK)
        return;
    log_info("spool_available", log_number("refused", d->refused_by_spool));
    d->refused_by_spool = 0;
}

struct junk {
    struct dispatch *d;
    uint64_t unix_us;
    uint64_t in_block;      /* requests that the block in the making stands for */
    bool takes;
};

static void end_junk_block(struct junk *junk)
{
    if (end_block(junk->d, true) != ERR_OK)
        junk->d->junk_beyond_quota += junk->in_block;
    junk->in_block = 0;
    junk->takes = junk->d->is_spool_available && spool_takes_junk(junk->d->spool);
}

static void add_junk(void *owner, const char *address, const char *reason, unsigned status, uint64_t count)
{
    struct junk *junk = owner;
    struct audit_event event;

    if (!junk->takes) {
        junk->d->junk_beyond_quota += count;
        return;
    }
    make_count(&event, reason, status, count);
    snprintf(event.address, sizeof event.address, "%s", address);
    if (add_event(junk->d, junk->unix_us, &event) == ERR_TOO_LARGE) {
        end_junk_block(junk);
        begin_block(junk->d);
        (void)!add_event(junk->d, junk->unix_us, &event);
    }
    junk->in_block += count;
}

void publish_refusals(struct dispatch *d)
{
    struct junk junk = { .d = d, .unix_us = clock_unix_us(),
                         .takes = d->is_spool_available && spool_takes_junk(d->spool) };
    struct audit_event event;

    begin_block(d);
    refusals_take(d->refusals, add_junk, &junk);
    end_junk_block(&junk);
    if (d->junk_beyond_quota == 0 || !d->is_spool_available)
        return;
    make_count(&event, "beyond_quota", 0, d->junk_beyond_quota);
    if (record_count(d, &event) == ERR_OK)
        d->junk_beyond_quota = 0;
}

/* --- heartbeats, acknowledgements, replays ------------------------------------------------------- */

void publish_heartbeats(struct dispatch *d)
{
    struct spool_log logs[SPOOL_LOGS_MAX];
    const size_t count = spool_logs(d->spool, logs);

    for (size_t i = 0; i < count; i++) {
        struct trail_heartbeat beat = {
            .producer_size = UUID_SIZE, .epoch = logs[i].epoch, .next_seq = logs[i].next_seq,
            .durable_seq = logs[i].durable_seq, .oldest_seq = logs[i].oldest_seq,
            .closed = logs[i].is_closed || (i == 0 && atomic_load(&d->is_stopping) != 0),
        };

        memcpy(beat.producer, logs[i].producer, UUID_SIZE);
        publish_message(d, MESSAGE_trail_heartbeat, &beat);
    }
}

void on_trail_ack(struct dispatch *d, const struct trail_ack *ack)
{
    if (ack->producer_size == UUID_SIZE)
        spool_acknowledge(d->spool, ack->producer, ack->epoch, ack->next_seq);
}

static void end_replay(struct dispatch *d, struct replay *replay, enum err err)
{
    struct replay_end end = { .error = err, .producer_size = UUID_SIZE, .epoch = replay->cursor.epoch,
                              .next_seq = replay->cursor.seq };
    struct worker *worker = replay->worker;

    memcpy(end.producer, replay->cursor.producer, UUID_SIZE);
    spool_cursor_close(&replay->cursor);
    replay->worker = NULL;
    worker_send(d, worker, message_type_of(MESSAGE_replay_end), replay->request_id, &end);
}

/* A question about what is being sent already continues that cursor when it asks for what comes next. */
static struct replay *replay_for(struct dispatch *d, const struct worker *worker, const struct replay_request *request)
{
    struct replay *spare = NULL;

    for (unsigned i = 0; i < REPLAYS_MAX; i++) {
        struct replay *replay = &d->replays[i];

        if (replay->worker == NULL)
            spare = spare == NULL ? replay : spare;
        else if (replay->worker == worker && replay->cursor.epoch == request->epoch
                 && memcmp(replay->cursor.producer, request->producer, UUID_SIZE) == 0)
            return replay;
    }
    return spare;
}

void on_replay_request(struct dispatch *d, struct worker *worker, uint64_t request_id, const struct replay_request *request)
{
    struct replay *replay = replay_for(d, worker, request);

    if (replay == NULL || request->producer_size != UUID_SIZE)
        return;    /* it asks again */
    if (replay->worker != NULL)
        spool_cursor_close(&replay->cursor);
    *replay = (struct replay){ .worker = worker, .request_id = request_id, .left = request->max_bytes,
                               .cursor = { .epoch = request->epoch, .seq = request->from_seq } };
    memcpy(replay->cursor.producer, request->producer, UUID_SIZE);
}

/* Damage: its bytes are sent, for the quarantine, and the replay ends with the next sequence that can be read. */
static enum err fill_damage(struct dispatch *d, struct replay *replay)
{
    const enum err err = spool_skip(d->spool, &replay->cursor, d->replay_buffer);
    const uint64_t damaged_seq = replay->damaged_seq;

    if (err == ERR_AGAIN)
        return ERR_AGAIN;
    replay->damaged_seq = 0;
    return err == ERR_OK && replay->cursor.seq > damaged_seq ? ERR_MALFORMED : err;
}

/* Reads blocks into the frame until it or the request's bytes are full.  ERR_AGAIN: there is more; anything else: it is over. */
static enum err fill_replay(struct dispatch *d, struct replay *replay, struct frame_writer *writer)
{
    const struct message_type *type = message_type_of(MESSAGE_trail_block);

    while (writer->size < REPLAY_BYTES_PER_SWEEP && writer->header.count < FRAME_ITEMS_MAX) {
        size_t size = 0;
        enum err err = replay->damaged_seq != 0 ? fill_damage(d, replay) : ERR_OK;

        if (err != ERR_OK)
            return err;
        err = spool_read(d->spool, &replay->cursor, d->replay_buffer, &size);
        if (err == ERR_MALFORMED) {
            replay->damaged_seq = replay->cursor.seq;
            log_error("spool_damaged", log_number("epoch", replay->cursor.epoch), log_number("seq", replay->cursor.seq));
        }
        if (size == 0 || (err != ERR_OK && err != ERR_MALFORMED))
            return err == ERR_MALFORMED ? ERR_AGAIN : err;
        const struct trail_block message = { .block = { .bytes = d->replay_buffer, .size = size } };
        err = frame_add(writer, type, 0, replay->request_id, 0, &message);
        if (err != ERR_OK)
            return err;
        replay->left -= size < replay->left ? size : replay->left;
        if (replay->left == 0)
            return ERR_OK;
    }
    return ERR_AGAIN;
}

static bool send_replay(struct dispatch *d, const struct replay *replay, struct frame_writer *writer)
{
    zmq_msg_t frame;

    if (writer->header.count == 0)
        return true;
    metric_add(METRIC_bus_sent, writer->header.count);
    if (zmq_msg_init_size(&frame, frame_end(writer)) != 0)
        return false;
    memcpy(zmq_msg_data(&frame), writer->bytes, zmq_msg_size(&frame));
    return worker_send_frame(d, replay->worker, &frame);
}

/* One frame of a replay.  Returns whether there is more to do. */
static bool advance_replay(struct dispatch *d, struct replay *replay)
{
    struct frame_writer writer;
    enum err err;

    frame_begin(&writer, d->trail_buffer, FRAME_TRAIL_MAX, replay->worker->version, d->epoch, ++d->batch_number);
    err = fill_replay(d, replay, &writer);
    if (!send_replay(d, replay, &writer))
        err = ERR_UNAVAILABLE;
    if (err == ERR_AGAIN)
        return true;
    if (replay->worker != NULL)    /* it may have been lost in sending */
        end_replay(d, replay, err);
    return false;
}

bool publish_replays(struct dispatch *d)
{
    bool has_more = false;

    for (unsigned i = 0; i < REPLAYS_MAX; i++)
        if (d->replays[i].worker != NULL)
            has_more |= advance_replay(d, &d->replays[i]);
    return has_more;
}

void publish_forget_worker(struct dispatch *d, const struct worker *worker)
{
    for (unsigned i = 0; i < REPLAYS_MAX; i++)
        if (d->replays[i].worker == worker) {
            spool_cursor_close(&d->replays[i].cursor);
            d->replays[i].worker = NULL;
        }
}
