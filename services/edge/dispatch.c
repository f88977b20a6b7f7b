/*
 * dispatch.c - the dispatcher's thread: one sweep reads the sockets, takes what the HTTP threads handed over, sends one frame
 * per worker, writes one block to the spool, wakes the threads, and sleeps until there is more.
 */
#include "services/edge/dispatch.h"

#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/encode.h"
#include "common/log.h"
#include "common/metrics.h"
#include "services/edge/core.h"

#define TRAIL_BEAT_US 200000u
#define SECOND_US     1000000u
#define POLLED        (1u + 2u * ROLE_COUNT)    /* the eventfd, the sockets, the monitors */

/* --- the HTTP threads' side ------------------------------------------------------------------ */

static void rouse(struct dispatch *d)
{
    const uint64_t one = 1;

    (void)!write(d->wake_fd, &one, sizeof one);
}

static void hand_over(struct dispatch *d, struct call *call)
{
    struct call *head = atomic_load_explicit(&d->handed_over, memory_order_relaxed);

    do
        call->own.next = head;
    while (!atomic_compare_exchange_weak(&d->handed_over, &head, call));
}

/* The eventfd costs a system call, so it is only written when the dispatcher may be asleep. */
void dispatch_rouse(struct dispatch *dispatch)
{
    if (atomic_load(&dispatch->is_asleep) != 0 && atomic_exchange(&dispatch->is_asleep, 0) != 0)
        rouse(dispatch);
}

/* Returns whether the call was answered in time. */
static bool sleep_until(struct call *call, uint64_t limit_us)
{
    const struct timespec limit = { .tv_sec = (time_t)(limit_us / 1000000), .tv_nsec = (long)(limit_us % 1000000) * 1000 };

    while (__atomic_load_n(&call->own.state, __ATOMIC_ACQUIRE) == CALL_ASLEEP)
        if (syscall(SYS_futex, &call->own.state, FUTEX_WAIT_BITSET_PRIVATE, CALL_ASLEEP, &limit, NULL,
                    FUTEX_BITSET_MATCH_ANY) != 0 && errno == ETIMEDOUT)
            return __atomic_load_n(&call->own.state, __ATOMIC_ACQUIRE) != CALL_ASLEEP;
    return true;
}

/* A first limit may have passed while the whole process was stopped; a dispatcher that runs keeps the second. */
static void await_answer(const struct dispatch *d, struct call *call)
{
    const uint64_t now_us = clock_monotonic_us();
    uint64_t limit_us = call->deadline_us > now_us ? call->deadline_us : now_us;
    uint32_t expected = CALL_PENDING;

    limit_us += DISPATCH_SLACK_US / 2 + ((call->steps & CALL_MANAGE) != 0 ? d->options.manage_ms * 1000 : 0);
    if (!__atomic_compare_exchange_n(&call->own.state, &expected, CALL_ASLEEP, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
        return;
    if (sleep_until(call, limit_us) || sleep_until(call, clock_monotonic_us() + DISPATCH_SLACK_US / 2))
        return;
    log_error("dispatcher_stuck", log_text("effect", "the process ends, to be started again"));
    abort();
}

void dispatch_begin(struct dispatch *dispatch, struct call *call)
{
    memset(&call->own, 0, sizeof call->own);
    memset(&call->verdict, 0, sizeof call->verdict);
    memset(&call->charge, 0, sizeof call->charge);
    memset(&call->reply, 0, sizeof call->reply);
    call->verdict_request.token = (struct view){ 0 };
    call->err = ERR_OK;
    atomic_fetch_add_explicit(&dispatch->calls_in_work, 1, memory_order_relaxed);
    hand_over(dispatch, call);
}

void dispatch_await(struct dispatch *dispatch, struct call *call)
{
    if (__atomic_load_n(&call->own.state, __ATOMIC_ACQUIRE) != CALL_DONE)
        await_answer(dispatch, call);
}

void dispatch_call(struct dispatch *dispatch, struct call *call)
{
    call->answer = NULL;
    dispatch_begin(dispatch, call);
    dispatch_rouse(dispatch);
    await_answer(dispatch, call);
}

void dispatch_count_refusal(struct dispatch *dispatch, const char *address, const char *reason, unsigned status)
{
    refusals_count(dispatch->refusals, address, reason, status);
}

void dispatch_drain(struct dispatch *dispatch)
{
    atomic_store(&dispatch->is_draining, 1);
    rouse(dispatch);
}

bool dispatch_is_idle(const struct dispatch *dispatch)
{
    return atomic_load(&dispatch->calls_in_work) == 0;
}

/* --- a sweep ----------------------------------------------------------------------------------- */

/* They were pushed on a stack; first come, first served. */
static void take_calls(struct dispatch *d)
{
    struct call *call = atomic_exchange_explicit(&d->handed_over, NULL, memory_order_acquire);
    struct call *first = NULL;

    while (call != NULL) {
        struct call *next = call->own.next;

        call->own.next = first;
        first = call;
        call = next;
    }
    while (first != NULL) {
        struct call *next = first->own.next;

        call_begin(d, first);
        first = next;
    }
}

static bool is_due(struct dispatch *d, uint64_t *next_us, uint64_t span_us)
{
    if (d->now_us < *next_us)
        return false;
    *next_us = d->now_us + span_us;
    return true;
}

static void drain(struct dispatch *d)
{
    d->has_drained = true;
    streams_end_all(d->options.streams, "drain");
    publish_refusals(d);
}

static void run_timers(struct dispatch *d)
{
    if (is_due(d, &d->tick_us, TICK_US)) {
        workers_judge(d);
        batches_check(d);
        feed_check(d);
        publish_check_spool(d);
    }
    if (is_due(d, &d->heartbeat_us, HEARTBEAT_US)) {
        workers_beat(d);
        feed_ask(d);
    }
    if (is_due(d, &d->trail_us, TRAIL_BEAT_US))
        publish_heartbeats(d);
    if (is_due(d, &d->second_us, SECOND_US)) {
        streams_sweep(d->options.streams, clock_unix_us() / 1000000);
        publish_refusals(d);
        batches_tune(d);
        calls_tell();
        workers_tell(d);
    }
    if (atomic_load_explicit(&d->is_draining, memory_order_relaxed) != 0 && !d->has_drained)
        drain(d);
}

/* Returns whether there is more to do at once. */
static bool sweep(struct dispatch *d, const struct pollfd polled[POLLED])
{
    bool has_more;

    for (enum role role = 0; role < ROLE_COUNT; role++)
        if (d->is_touched[role] || (polled[1 + role].revents & POLLIN) != 0)
            workers_receive(d, role);
    for (enum role role = 0; role < ROLE_COUNT; role++)
        if ((polled[1 + ROLE_COUNT + role].revents & POLLIN) != 0)
            workers_read_monitor(d, role);
    take_calls(d);
    run_timers(d);
    if (d->flight[ROLE_AUTHZ].count > 0)
        batches_hedge(d);
    batches_send(d);
    feed_flush(d);
    has_more = publish_replays(d);
    publish_answers(d);
    if (d->unsynced != NULL)
        publish_durable(d);
    return has_more;
}

/* --- sleeping ------------------------------------------------------------------------------------ */

/* A send may have taken in what the descriptor was readable for (ZMQ_FD is edge-triggered): such sockets are asked. */
static bool has_input(struct dispatch *d)
{
    bool has_any = false;

    for (enum role role = 0; role < ROLE_COUNT; role++) {
        int events = 0;
        size_t size = sizeof events;

        if (!d->is_touched[role])
            continue;
        if (zmq_getsockopt(d->sockets[role], ZMQ_EVENTS, &events, &size) == 0)
            d->is_touched[role] = (events & ZMQ_POLLIN) != 0;
        has_any |= d->is_touched[role];
    }
    return has_any;
}

static uint64_t next_timer_us(struct dispatch *d)
{
    uint64_t next_us = d->heartbeat_us < d->trail_us ? d->heartbeat_us : d->trail_us;
    const bool has_calls = atomic_load_explicit(&d->calls_in_work, memory_order_relaxed) > 0;
    uint64_t hedge_us, held_us;

    if (!has_calls)
        return next_us;
    if (d->tick_us < next_us)
        next_us = d->tick_us;
    for (enum role role = ROLE_AUTHZ; role <= ROLE_RATELIMIT; role++) {
        held_us = role == ROLE_AUTHZ || d->queue[role].count > 0 ? batches_held_until_us(d, role) : 0;
        if (held_us != 0 && held_us < next_us)
            next_us = held_us;
    }
    hedge_us = batches_next_hedge_us(d);
    return hedge_us < next_us ? hedge_us : next_us;
}

/*
 * While authz has what it can take, calls handed over can only wait, so they need not wake us: its answer will, or this
 * moment.  0: they must.
 */
static uint64_t quiet_until_us(const struct dispatch *d)
{
    return batches_held_until_us(d, ROLE_AUTHZ);
}

static void note_pause(struct dispatch *d, uint64_t from_us, uint64_t to_us)
{
    if (to_us > from_us + PAUSE_US)
        d->judge_after_us = to_us + PAUSE_US;
}

static void await_input(struct dispatch *d, bool has_more, struct pollfd polled[POLLED])
{
    const uint64_t before_us = clock_monotonic_us(), next_us = next_timer_us(d), quiet_us = quiet_until_us(d);
    uint64_t span_us = has_more || next_us <= before_us ? 0 : next_us - before_us;
    struct timespec span;
    uint64_t ignored;

    note_pause(d, d->now_us, before_us);
    if (span_us > 0 && has_input(d))
        span_us = 0;
    atomic_store(&d->is_asleep, span_us > 0 && quiet_us == 0);
    if (span_us > 0 && ((quiet_us == 0 && atomic_load(&d->handed_over) != NULL) || atomic_load(&d->is_stopping) != 0))
        span_us = 0;
    span = (struct timespec){ .tv_sec = (time_t)(span_us / 1000000), .tv_nsec = (long)(span_us % 1000000) * 1000 };
    if (ppoll(polled, POLLED, &span, NULL) < 0)
        for (unsigned i = 0; i < POLLED; i++)
            polled[i].revents = 0;
    atomic_store_explicit(&d->is_asleep, 0, memory_order_relaxed);
    if (span_us > 0)
        sched_yield();    /* threads of ours that could run hand over first: larger batches, fewer wake-ups when cores are short */
    if ((polled[0].revents & POLLIN) != 0)
        (void)!read(d->wake_fd, &ignored, sizeof ignored);
    d->now_us = clock_monotonic_us();
    note_pause(d, before_us + span_us, d->now_us);
}

static int fd_of(void *socket)
{
    int fd = -1;
    size_t size = sizeof fd;

    (void)!zmq_getsockopt(socket, ZMQ_FD, &fd, &size);
    return fd;
}

static void *dispatch_run(void *argument)
{
    struct dispatch *d = argument;
    struct pollfd polled[POLLED];
    bool has_more = false;

    pthread_setname_np(pthread_self(), "dispatcher");
    polled[0] = (struct pollfd){ .fd = d->wake_fd, .events = POLLIN };
    for (enum role role = 0; role < ROLE_COUNT; role++) {
        polled[1 + role] = (struct pollfd){ .fd = fd_of(d->sockets[role]), .events = POLLIN };
        polled[1 + ROLE_COUNT + role] = (struct pollfd){ .fd = fd_of(d->monitors[role]), .events = POLLIN };
        d->is_touched[role] = true;
    }
    while (atomic_load(&d->is_stopping) == 0) {
        await_input(d, has_more, polled);
        has_more = sweep(d, polled);
    }
    publish_refusals(d);
    publish_heartbeats(d);
    return NULL;
}

/* --- start and end -------------------------------------------------------------------------------- */

static enum err make_slots(struct dispatch *d, uint32_t count)
{
    d->slots = calloc(count, sizeof *d->slots);
    d->batches = calloc(count, sizeof *d->batches);
    d->frame_buffer = malloc(FRAME_SIZE_MAX);
    d->block_buffer = malloc(TRAIL_BLOCK_MAX);
    d->trail_buffer = malloc(FRAME_TRAIL_MAX);
    d->replay_buffer = malloc(SPOOL_SKIP_SIZE);
    if (d->slots == NULL || d->batches == NULL || d->frame_buffer == NULL || d->block_buffer == NULL
        || d->trail_buffer == NULL || d->replay_buffer == NULL)
        return ERR_NO_MEMORY;
    d->slot_count = count;
    list_init(&d->free_slots);
    for (enum role role = 0; role < ROLE_COUNT; role++) {
        list_init(&d->queue[role]);
        list_init(&d->flight[role]);
    }
    for (uint32_t i = 0; i < count; i++) {
        list_append(d, &d->free_slots, &d->slots[i]);
        d->batches[i].next = d->free_batches;
        d->free_batches = &d->batches[i];
    }
    return ERR_OK;
}

static void on_durable(void *owner)
{
    struct dispatch *d = owner;

    if (d->options.audit_strict)
        rouse(d);
}

static enum err open_spool(struct dispatch *d, char *reterr, size_t reterr_size)
{
    const struct spool_options options = {
        .dir = d->options.spool_dir, .bytes = d->options.spool_bytes, .segment_bytes = d->options.segment_bytes,
        .chain_key = d->options.chain_key, .is_strict = d->options.audit_strict, .on_durable = on_durable, .owner = d,
    };
    const enum err err = spool_new(&options, &d->spool, reterr, reterr_size);

    if (err != ERR_OK)
        return err;
    d->is_spool_available = spool_is_available(d->spool);
    if (!d->is_spool_available)
        log_error("spool_unavailable", log_text("effect", "calls are refused with audit_unavailable"));
    return ERR_OK;
}

static enum err init_parts(struct dispatch *d, char *reterr, size_t reterr_size)
{
    const uint32_t calls_max = d->options.calls_max < SLOTS_MAX_COUNT ? d->options.calls_max : SLOTS_MAX_COUNT;
    enum err err;

    snprintf(reterr, reterr_size, "not enough memory or descriptors for the dispatcher");
    d->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    d->context = zmq_ctx_new();
    if (d->wake_fd < 0 || d->context == NULL || make_slots(d, calls_max > 0 ? calls_max : 1) != ERR_OK
        || refusals_new(&d->refusals) != ERR_OK)
        return ERR_NO_MEMORY;
    err = record_new(d->options.bus_record, &d->record);
    if (err != ERR_OK) {
        snprintf(reterr, reterr_size, "bus_record: cannot make %s", d->options.bus_record);
        return err;
    }
    err = curve_new(SERVICE_EDGE, d->options.config, &d->curve, reterr, reterr_size);
    if (err != ERR_OK)
        return err;
    err = bind_sockets(d, reterr, reterr_size);
    return err != ERR_OK ? err : open_spool(d, reterr, reterr_size);
}

enum err dispatch_new(const struct dispatch_options *options, struct dispatch **ret_dispatch,
                      char *reterr, size_t reterr_size)
{
    OWNED(dispatch_destroy) struct dispatch *d = calloc(1, sizeof *d);
    enum err err;

    if (d == NULL)
        return ERR_NO_MEMORY;
    d->options = *options;
    d->lock_fd = d->wake_fd = -1;
    d->epoch = random_u64() | 1u;
    d->random = random_u64() | 1u;
    d->now_us = clock_monotonic_us();
    d->hedge.retry_credit = RETRY_FIRST;
    d->second_us = d->now_us + SECOND_US;
    random_bytes(d->uuid, sizeof d->uuid);
    feed_begin(d);
    err = init_parts(d, reterr, reterr_size);
    if (err != ERR_OK)
        return err;
    batches_tune(d);
    workers_tell(d);
    if (pthread_create(&d->thread, NULL, dispatch_run, d) != 0)
        return ERR_NO_MEMORY;
    d->is_running = true;
    *ret_dispatch = d;
    d = NULL;
    return ERR_OK;
}

static void close_bus(struct dispatch *d)
{
    for (struct batch *batch = d->first_batch; batch != NULL; batch = batch->next)
        zmq_msg_close(&batch->frame);
    unbind_sockets(d);
    curve_destroy(&d->curve);
    if (d->context != NULL)
        zmq_ctx_term(d->context);
}

void dispatch_destroy(struct dispatch **dispatch)
{
    struct dispatch *d = *dispatch;

    if (d == NULL)
        return;
    if (d->is_running) {
        atomic_store(&d->is_stopping, 1);
        rouse(d);
        pthread_join(d->thread, NULL);
    }
    for (unsigned i = 0; i < REPLAYS_MAX; i++)
        spool_cursor_close(&d->replays[i].cursor);
    spool_destroy(&d->spool);
    close_bus(d);
    feed_end(d);
    refusals_destroy(&d->refusals);
    record_destroy(&d->record);
    if (d->wake_fd >= 0)
        close(d->wake_fd);
    free(d->slots);
    free(d->batches);
    free(d->frame_buffer);
    free(d->block_buffer);
    free(d->trail_buffer);
    free(d->replay_buffer);
    free(d);
    *dispatch = NULL;
}
