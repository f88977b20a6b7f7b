/*
 * batches.c - what waits becomes one frame per worker, replies find their slots, and what is not answered in time goes to
 * another worker.  A batch is what was found waiting.  While every worker of a role has a frame, what comes waits for the
 * first answer (Nagle's rule, at most HOLD_US), so that the batches grow with the load and the wake-ups do not.
 */
#include "services/edge/core.h"

#include <stdio.h>
#include <string.h>

#include "common/metrics.h"
#include "common/scope.h"

#define HEDGE_STEPS      64u
#define HEDGE_START_US   10000u     /* until round trips have been measured */
#define BUCKET_US        500u
#define BUCKETS          128u
#define HEDGE_SHARE      5u         /* hundredths of the requests */
#define HEDGE_SAVED      1000u
#define RETRY_SHARE      10u
#define RETRY_SAVED      10000u
#define ATTEMPT_PRICE    100u
#define ITEMS_MAX        256u

/* Most requests in one frame: authz's are cheap and shared out in smaller ones, ratelimit makes one script call of a frame. */
static const uint32_t items_max[ROLE_COUNT] = { 64, ITEMS_MAX, 8, 0 };
static const uint16_t request_codes[ROLE_COUNT] = { MESSAGE_verdict_request, MESSAGE_charge_request, MESSAGE_manage_request, 0 };

/* --- batches of ratelimit --------------------------------------------------------------------- */

static void link_batch(struct dispatch *d, struct batch *batch)
{
    batch->next = NULL;
    batch->previous = d->last_batch;
    if (d->last_batch == NULL)
        d->first_batch = batch;
    else
        d->last_batch->next = batch;
    d->last_batch = batch;
}

static void unlink_batch(struct dispatch *d, struct batch *batch)
{
    if (batch->previous == NULL)
        d->first_batch = batch->next;
    else
        batch->previous->next = batch->next;
    if (batch->next == NULL)
        d->last_batch = batch->previous;
    else
        batch->next->previous = batch->previous;
}

static bool is_live(const struct batch *batch)
{
    return batch->workers[0] != NULL || batch->workers[1] != NULL || batch->workers[2] != NULL;
}

static void owe_less(struct dispatch *d, struct worker *worker, uint64_t count)
{
    worker->outstanding -= count;
    if (worker->outstanding == 0)
        worker->busy_until_us = 0;
    if (worker->outstanding == 0 && worker->state == WORKER_LEAVING)
        d->feed.holders_changed |= worker->role == ROLE_AUTHZ;
}

static void free_batch(struct dispatch *d, struct batch *batch)
{
    if (!is_live(batch))
        d->waiting_batches--;
    for (unsigned i = 0; i < ATTEMPTS_MAX; i++)
        if (batch->workers[i] != NULL)
            owe_less(d, batch->workers[i], batch->left[i]);
    zmq_msg_close(&batch->frame);
    unlink_batch(d, batch);
    batch->next = d->free_batches;
    d->free_batches = batch;
}

void batches_release(struct dispatch *d, struct slot *slot)
{
    struct batch *batch = slot->batch;

    if (batch != NULL) {
        slot->batch = NULL;
        if (--batch->pending == 0)
            free_batch(d, batch);
        return;
    }
    for (unsigned i = 0; i < ATTEMPTS_MAX; i++) {
        if (slot->workers[i] != NULL)
            owe_less(d, slot->workers[i], 1);
        slot->workers[i] = NULL;
    }
}

/* The batch's bytes as they were sent first, to a worker that has not had them. */
static bool resend_batch(struct dispatch *d, struct batch *batch)
{
    struct worker *worker = worker_choose(d, ROLE_RATELIMIT, batch->workers);
    const bool was_live = is_live(batch);
    zmq_msg_t copy;

    if (worker == NULL || worker->version < batch->version || batch->attempts >= ATTEMPTS_MAX)
        return false;
    zmq_msg_init(&copy);
    if (zmq_msg_copy(&copy, &batch->frame) != 0)
        return false;
    batch->workers[batch->attempts] = worker;
    batch->left[batch->attempts++] = batch->pending;
    batch->sent_us = d->now_us;
    worker->outstanding += batch->pending;
    if (!was_live)
        d->waiting_batches--;
    unlink_batch(d, batch);
    link_batch(d, batch);
    metric_add(METRIC_redispatched, batch->pending);
    (void)worker_send_frame(d, worker, &copy);
    return true;
}

/* Takes the frame's memory. */
static void begin_batch(struct dispatch *d, struct worker *worker, struct slot *const *slots, uint32_t count, zmq_msg_t *frame)
{
    struct batch *batch = d->free_batches;    /* as many as slots, and each in use has a slot */

    d->free_batches = batch->next;
    *batch = (struct batch){ .id = d->batch_number, .sent_us = d->now_us, .count = count, .pending = count,
                             .attempts = 1, .workers = { worker }, .left = { count } };
    batch->version = ((const uint8_t *)zmq_msg_data(frame))[2];    /* frame.h: the third byte */
    zmq_msg_init(&batch->frame);
    (void)!zmq_msg_copy(&batch->frame, frame);
    for (uint32_t i = 0; i < count; i++)
        slots[i]->batch = batch;
    link_batch(d, batch);
}

/* --- requests --------------------------------------------------------------------------------- */

static void make_charge(const struct call *call, struct charge_request *ret_charge)
{
    const struct verdict *verdict = &call->verdict;
    const bool is_key = verdict->key_id[0] != '\0';

    memset(ret_charge, 0, sizeof *ret_charge);
    ret_charge->tier = verdict->tier;
    ret_charge->requests = verdict->rate_requests;
    ret_charge->window_s = verdict->rate_window_s;
    ret_charge->on_failure = call->on_failure;
    if ((verdict->tenant_rule | verdict->user_rule) != 0) {
        ret_charge->tenant_rule = verdict->tenant_rule;
        ret_charge->user_rule = verdict->user_rule;
        memcpy(ret_charge->tenant_id, verdict->tenant_id, sizeof ret_charge->tenant_id);
        memcpy(ret_charge->user_id, verdict->user_id, sizeof ret_charge->user_id);
    }
    snprintf(ret_charge->subject, sizeof ret_charge->subject, "%c:%s", is_key ? 'k' : 'u',
             is_key ? verdict->key_id : verdict->user_id);
}

static void fill_principal(struct call *call)
{
    struct manage_request *request = &call->manage_request;

    if ((call->steps & CALL_VERDICT) == 0)
        return;
    memcpy(request->user_id, call->verdict.user_id, sizeof request->user_id);
    memcpy(request->tenant_id, call->verdict.tenant_id, sizeof request->tenant_id);
    memcpy(request->key_id, call->verdict.key_id, sizeof request->key_id);
    request->scopes = call->verdict.scopes;
}

static enum err add_request(struct dispatch *d, struct frame_writer *writer, const struct slot *slot)
{
    const struct message_type *type = message_type_of(request_codes[slot->role]);
    struct charge_request charge;
    const void *message = &slot->call->verdict_request;

    if (slot->role == ROLE_RATELIMIT) {
        make_charge(slot->call, &charge);
        message = &charge;
    } else if (slot->role == ROLE_KEYS) {
        fill_principal(slot->call);
        message = &slot->call->manage_request;
    }
    if (d->record != NULL)
        record_message(d->record, type, message);
    return frame_add(writer, type, slot->attempts, slot_request_id(d, slot), slot->deadline_us, message);
}

/* A repeated batch must be readable by whoever gets it, so it is written for the oldest of its workers. */
static unsigned version_for(struct dispatch *d, const struct worker *worker)
{
    unsigned version = worker->version;

    for (uint32_t i = 0; worker->role == ROLE_RATELIMIT && i < WORKERS_MAX; i++) {
        const struct worker *other = &d->workers[ROLE_RATELIMIT][i];

        if (other->state != WORKER_FREE && other->version < version)
            version = other->version;
    }
    return version;
}

/* Moves requests from the head of the queue into the frame, as many as the worker may have. */
static uint32_t fill_frame(struct dispatch *d, const struct worker *worker, struct frame_writer *writer,
                           struct slot *ret_slots[ITEMS_MAX])
{
    struct slot_list *queue = &d->queue[worker->role];
    const uint64_t credit = worker->credits - worker->outstanding;
    const uint32_t room = credit < items_max[worker->role] ? (uint32_t)credit : items_max[worker->role];
    uint32_t count = 0;

    while (queue->count > 0 && count < room) {
        struct slot *slot = slot_at(d, queue->first);
        enum err err = ERR_UNAVAILABLE;

        if (slot->deadline_us > d->now_us)
            err = add_request(d, writer, slot);
        if (err == ERR_TOO_LARGE && count > 0)
            break;
        if (err != ERR_OK) {
            call_end(d, slot, err);
            continue;
        }
        list_remove(d, queue, slot);
        ret_slots[count++] = slot;
    }
    return count;
}

static void earn(struct hedge *hedge, uint32_t count)
{
    hedge->credit += HEDGE_SHARE * count;
    hedge->retry_credit += RETRY_SHARE * count;
    if (hedge->credit > HEDGE_SAVED)
        hedge->credit = HEDGE_SAVED;
    if (hedge->retry_credit > RETRY_SAVED)
        hedge->retry_credit = RETRY_SAVED;
}

static bool copy_frame(struct frame_writer *writer, zmq_msg_t *ret_frame)
{
    if (zmq_msg_init_size(ret_frame, frame_end(writer)) != 0)
        return false;
    memcpy(zmq_msg_data(ret_frame), writer->bytes, zmq_msg_size(ret_frame));
    return true;
}

static void take_off(struct dispatch *d, struct worker *worker, struct slot *slot)
{
    slot->is_queued = false;
    slot->attempt_us = d->now_us;
    if (worker->role != ROLE_RATELIMIT)
        slot->workers[slot->attempts] = worker;
    slot->attempts++;
    list_append(d, &d->flight[worker->role], slot);
}

static void send_queued(struct dispatch *d, struct worker *worker)
{
    struct slot *slots[ITEMS_MAX];
    struct frame_writer writer;
    zmq_msg_t frame;
    uint32_t count;

    frame_begin(&writer, d->frame_buffer, FRAME_SIZE_MAX, version_for(d, worker), d->epoch, ++d->batch_number);
    count = fill_frame(d, worker, &writer, slots);
    if (count == 0)
        return;
    for (uint32_t i = 0; i < count; i++)
        take_off(d, worker, slots[i]);
    worker->outstanding += count;
    worker->busy_until_us = d->now_us + HOLD_US;
    if (!copy_frame(&writer, &frame)) {
        worker_lost(d, worker, "out of memory");
        return;
    }
    if (worker->role == ROLE_RATELIMIT)
        begin_batch(d, worker, slots, count, &frame);
    if (worker->role == ROLE_AUTHZ)
        earn(&d->hedge, count);
    metric_add(METRIC_bus_sent, count);
    (void)worker_send_frame(d, worker, &frame);
}

static void shed(struct dispatch *d, enum role role)
{
    while (d->queue[role].count > d->options.queue_limit) {
        metric_add(METRIC_shed, 1);
        d->hedge.shed_us = d->now_us;
        call_end(d, slot_at(d, d->queue[role].last), ERR_OVERLOADED);
    }
}

static void resend_waiting(struct dispatch *d)
{
    struct batch *next;

    for (struct batch *batch = d->first_batch; batch != NULL && d->waiting_batches > 0; batch = next) {
        next = batch->next;
        if (!is_live(batch) && batch->attempts < ATTEMPTS_MAX && !resend_batch(d, batch))
            return;
    }
}

uint64_t batches_held_until_us(const struct dispatch *d, enum role role)
{
    uint64_t until_us = 0;

    if (role == ROLE_KEYS || d->queue[role].count >= items_max[role])
        return 0;
    for (uint32_t i = 0; i < WORKERS_MAX; i++) {
        const struct worker *worker = &d->workers[role][i];

        if (worker->state != WORKER_ALIVE)
            continue;
        if (worker->busy_until_us <= d->now_us)
            return 0;
        if (until_us == 0 || worker->busy_until_us < until_us)
            until_us = worker->busy_until_us;
    }
    return until_us;
}

void batches_send(struct dispatch *d)
{
    struct worker *worker;

    if (d->waiting_batches > 0)
        resend_waiting(d);
    for (enum role role = ROLE_AUTHZ; role <= ROLE_KEYS; role++) {
        while (d->queue[role].count > 0 && batches_held_until_us(d, role) == 0
               && (worker = worker_choose(d, role, NULL)) != NULL)
            send_queued(d, worker);
        shed(d, role);
    }
}

/* --- replies ----------------------------------------------------------------------------------- */

static void measure(struct hedge *hedge, uint64_t us)
{
    const uint64_t bucket = us / BUCKET_US;

    hedge->buckets[bucket < BUCKETS ? bucket : BUCKETS - 1]++;
}

/* Which attempt of the slot this worker has; ATTEMPTS_MAX: none. */
static unsigned attempt_of(const struct slot *slot, const struct worker *worker)
{
    struct worker *const *workers = slot->batch != NULL ? slot->batch->workers : slot->workers;
    unsigned attempt = 0;

    while (attempt < ATTEMPTS_MAX && workers[attempt] != worker)
        attempt++;
    return attempt;
}

static enum err decode_manage(const struct frame_header *header, const struct frame_item *item, struct call *call)
{
    struct manage_reply *reply = &call->reply;
    const char *field;
    const enum err err = message_decode(item->type, header->version, item->body, item->body_size, reply, &field);

    if (err != ERR_OK)
        return err;
    if (call->reply_buffer == NULL)
        return ERR_BUG;
    if (reply->body.size > 0)
        memcpy(call->reply_buffer, reply->body.bytes, reply->body.size);    /* the frame ends with this sweep */
    reply->body.bytes = call->reply_buffer;
    return ERR_OK;
}

static enum err decode_reply(const struct frame_header *header, const struct frame_item *item, struct slot *slot)
{
    struct call *call = slot->call;
    const char *field;

    if (slot->role == ROLE_KEYS)
        return decode_manage(header, item, call);
    return message_decode(item->type, header->version, item->body, item->body_size,
                          slot->role == ROLE_AUTHZ ? (void *)&call->verdict : (void *)&call->charge, &field);
}

static void finish_step(struct dispatch *d, struct slot *slot, const struct message_type *type)
{
    struct call *call = slot->call;
    const void *message = slot->role == ROLE_AUTHZ ? (const void *)&call->verdict
                        : slot->role == ROLE_RATELIMIT ? (const void *)&call->charge : (const void *)&call->reply;

    if (d->record != NULL)
        record_message(d->record, type, message);
    if (slot->role == ROLE_AUTHZ)
        call_verdict_came(d, slot);
    else if (slot->role == ROLE_RATELIMIT)
        call_charge_came(d, slot);
    else
        call_reply_came(d, slot);
}

bool batches_take_reply(struct dispatch *d, struct worker *worker, const struct frame_header *header,
                        const struct frame_item *item)
{
    struct slot *slot = slot_of_request(d, item->request_id, worker->role);
    unsigned attempt;

    if (header->epoch != d->epoch || slot == NULL)
        return false;
    attempt = attempt_of(slot, worker);
    if (attempt == ATTEMPTS_MAX)
        return false;
    if (decode_reply(header, item, slot) != ERR_OK) {
        metric_add(METRIC_bus_malformed, 1);    /* the request waits on: for another worker, or its deadline */
        return true;
    }
    if (slot->batch != NULL && slot->batch->left[attempt] > 0) {
        slot->batch->left[attempt]--;
        owe_less(d, worker, 1);
    }
    if (slot->role == ROLE_AUTHZ && slot->attempts == 1)
        measure(&d->hedge, d->now_us - slot->attempt_us);
    finish_step(d, slot, item->type);
    return true;
}

/* --- when no reply comes ------------------------------------------------------------------------ */

static void requeue(struct dispatch *d, struct slot *slot)
{
    if (slot->attempts >= ATTEMPTS_MAX) {
        call_end(d, slot, ERR_UNAVAILABLE);
        return;
    }
    list_remove(d, &d->flight[slot->role], slot);
    slot->is_queued = true;
    list_prepend(d, &d->queue[slot->role], slot);
    metric_add(METRIC_redispatched, 1);
}

static bool waits_for_any(const struct slot *slot)
{
    return slot->workers[0] != NULL || slot->workers[1] != NULL || slot->workers[2] != NULL;
}

static void lose_batches(struct dispatch *d, const struct worker *worker)
{
    for (struct batch *batch = d->first_batch; batch != NULL; batch = batch->next) {
        const bool was_live = is_live(batch);

        for (unsigned i = 0; i < ATTEMPTS_MAX; i++)
            if (batch->workers[i] == worker)
                batch->workers[i] = NULL;
        if (was_live && !is_live(batch))
            d->waiting_batches++;    /* the end of the sweep sends it to another */
    }
}

void batches_worker_lost(struct dispatch *d, struct worker *worker)
{
    uint32_t next;

    if (worker->role == ROLE_RATELIMIT)
        lose_batches(d, worker);
    for (uint32_t index = d->flight[worker->role].first; worker->role != ROLE_RATELIMIT && index != NO_SLOT; index = next) {
        struct slot *slot = slot_at(d, index);
        const unsigned attempt = attempt_of(slot, worker);

        next = slot->next;
        if (attempt == ATTEMPTS_MAX)
            continue;
        slot->workers[attempt] = NULL;
        if (!waits_for_any(slot))
            requeue(d, slot);
    }
    worker->outstanding = 0;
}

/* One more worker gets the request; the answer that comes first counts.  false: there is no other. */
static bool send_second(struct dispatch *d, struct slot *slot)
{
    struct worker *worker = worker_choose(d, ROLE_AUTHZ, slot->workers);
    struct frame_writer writer;
    zmq_msg_t frame;

    if (worker == NULL || slot->attempts >= ATTEMPTS_MAX)
        return false;
    frame_begin(&writer, d->frame_buffer, FRAME_SIZE_MAX, worker->version, d->epoch, ++d->batch_number);
    if (add_request(d, &writer, slot) != ERR_OK || !copy_frame(&writer, &frame))
        return false;
    slot->workers[slot->attempts++] = worker;
    worker->outstanding++;
    metric_add(METRIC_bus_sent, 1);
    (void)worker_send_frame(d, worker, &frame);
    return true;
}

/* While a worker that has it may still be well, a repetition is paid from the budget: no storm when all are slow. */
static bool may_retry(struct dispatch *d, const struct slot *slot)
{
    bool is_paid = false;

    for (unsigned i = 0; i < ATTEMPTS_MAX; i++)
        if (slot->workers[i] != NULL && slot->workers[i]->state == WORKER_ALIVE)
            is_paid = true;
    if (!is_paid)
        return true;
    if (d->hedge.retry_credit < ATTEMPT_PRICE)
        return false;
    d->hedge.retry_credit -= ATTEMPT_PRICE;
    return true;
}

static void avoid_workers(struct dispatch *d, const struct slot *slot)
{
    for (unsigned i = 0; i < ATTEMPTS_MAX; i++)
        if (slot->workers[i] != NULL)
            slot->workers[i]->avoid_until_us = d->now_us + AVOID_US;
}

static void check_attempts(struct dispatch *d)
{
    const uint64_t span_us = d->options.attempt_ms * 1000;
    struct slot_list *flight = &d->flight[ROLE_AUTHZ];

    for (uint32_t i = flight->count; i > 0; i--) {
        struct slot *slot = slot_at(d, flight->first);

        if (slot == NULL || slot->attempt_us + span_us > d->now_us)
            return;
        list_remove(d, flight, slot);
        slot->attempt_us = d->now_us;
        list_append(d, flight, slot);
        avoid_workers(d, slot);
        if (d->worker_count[ROLE_AUTHZ] > 1 && slot->attempts < ATTEMPTS_MAX && may_retry(d, slot) && send_second(d, slot))
            metric_add(METRIC_redispatched, 1);
    }
}

static void check_batches(struct dispatch *d)
{
    struct batch *next;

    if (d->worker_count[ROLE_RATELIMIT] < 2)
        return;
    for (struct batch *batch = d->first_batch; batch != NULL; batch = next) {
        next = batch->next;
        if (batch->sent_us + CHARGE_ATTEMPT_US > d->now_us)
            return;
        if (is_live(batch) && batch->attempts < ATTEMPTS_MAX)
            (void)!resend_batch(d, batch);    /* one that has had all workers must not hold up those behind it */
    }
}

static void end_late(struct dispatch *d, const struct slot_list *list)
{
    uint32_t next;

    for (uint32_t index = list->first; index != NO_SLOT; index = next) {
        struct slot *slot = slot_at(d, index);

        next = slot->next;
        if (slot->deadline_us > d->now_us)
            continue;
        metric_add(METRIC_deadline_passed, 1);
        call_end(d, slot, ERR_UNAVAILABLE);
    }
}

void batches_check(struct dispatch *d)
{
    for (enum role role = ROLE_AUTHZ; role <= ROLE_KEYS; role++) {
        end_late(d, &d->queue[role]);
        end_late(d, &d->flight[role]);
    }
    if (d->now_us < d->judge_after_us)
        return;
    check_attempts(d);
    check_batches(d);
}

/* --- hedging -------------------------------------------------------------------------------------- */

static bool may_hedge(struct dispatch *d)
{
    uint32_t suspects = 0;

    for (uint32_t i = 0; i < WORKERS_MAX; i++)
        suspects += d->workers[ROLE_AUTHZ][i].state == WORKER_SUSPECT;
    return d->worker_count[ROLE_AUTHZ] > 1 && suspects * 2 <= d->worker_count[ROLE_AUTHZ]
        && d->hedge.credit >= ATTEMPT_PRICE && d->now_us >= d->judge_after_us
        && (d->hedge.shed_us == 0 || d->now_us > d->hedge.shed_us + 1000000);
}

/* The oldest request that has been sent once; NULL: none within the first few. */
static struct slot *oldest_single(struct dispatch *d)
{
    uint32_t index = d->flight[ROLE_AUTHZ].first;

    for (unsigned step = 0; step < HEDGE_STEPS && index != NO_SLOT; step++) {
        struct slot *slot = slot_at(d, index);

        if (slot->attempts == 1)
            return slot;
        index = slot->next;
    }
    return NULL;
}

void batches_hedge(struct dispatch *d)
{
    while (may_hedge(d)) {
        struct slot *slot = oldest_single(d);

        if (slot == NULL || slot->attempt_us + d->hedge.after_us > d->now_us || !send_second(d, slot))
            return;
        d->hedge.credit -= ATTEMPT_PRICE;
        metric_add(METRIC_hedged, 1);
    }
}

uint64_t batches_next_hedge_us(struct dispatch *d)
{
    const struct slot *slot = may_hedge(d) ? oldest_single(d) : NULL;

    return slot == NULL ? UINT64_MAX : slot->attempt_us + d->hedge.after_us;
}

void batches_tune(struct dispatch *d)
{
    struct hedge *hedge = &d->hedge;
    uint64_t total = 0, seen = 0;
    uint32_t bucket = 0;

    for (uint32_t i = 0; i < BUCKETS; i++)
        total += hedge->buckets[i];
    hedge->after_us = HEDGE_START_US;
    if (total < 100)
        return;
    while (bucket < BUCKETS && (seen += hedge->buckets[bucket]) * 100 < total * 95)
        bucket++;
    hedge->after_us = (bucket + 1) * (uint64_t)BUCKET_US;
    if (hedge->after_us < HEDGE_LEAST_US)
        hedge->after_us = HEDGE_LEAST_US;
    for (uint32_t i = 0; i < BUCKETS; i++)
        hedge->buckets[i] /= 2;
}
