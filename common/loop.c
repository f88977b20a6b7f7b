/*
 * loop.c - one thread's event loop: czmq's zloop polls, timers are ours on one timerfd.
 *
 * zloop's own timers are not used: after a restart (it stops on EINTR) it frees a timer that is cancelled from its
 * own callback.  Callbacks are looked up when they are made, so whatever was forgotten in this turn is not called.
 */
#include "common/loop.h"

#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <czmq.h>

#include "common/cleanup.h"
#include "common/clock.h"

#define LOOP_WATCHES_MAX 512     /* sockets and descriptors; the largest user is the bus with 2 * BUS_EDGES_MAX */
#define LOOP_TIMERS_MAX  4096

struct watch {
    void *socket;            /* NULL: a descriptor */
    int fd;                  /* -1 for a socket */
    int events;
    loop_socket_fn *on_socket;
    loop_fd_fn *on_fd;
    void *owner;
};

struct timer {
    int id;                  /* 0: free */
    uint64_t due_us;
    uint64_t interval_us;    /* 0: once */
    loop_timer_fn *fn;
    void *owner;
};

struct hook {
    loop_timer_fn *fn;
    void *owner;
};

struct loop {
    zloop_t *zloop;
    int timer_fd;
    uint64_t armed_us;       /* when timer_fd fires; UINT64_MAX: it does not */
    bool stopped;
    int last_timer;
    size_t watch_count, timer_count, hook_count;    /* timer_count: slots in use or used before */
    struct watch watches[LOOP_WATCHES_MAX];
    struct timer timers[LOOP_TIMERS_MAX];
    struct hook hooks[LOOP_HOOKS_MAX];
};

static struct loop *take_loop(struct loop **from)
{
    struct loop *taken = *from;

    *from = NULL;
    return taken;
}

static struct watch *find_watch(struct loop *loop, const void *socket, int fd)
{
    for (size_t i = 0; i < loop->watch_count; i++) {
        struct watch *watch = &loop->watches[i];

        if (socket != NULL ? watch->socket == socket : watch->socket == NULL && watch->fd == fd)
            return watch;
    }
    return NULL;
}

/* zloop stops when a callback returns -1. */
static int end_turn(struct loop *loop)
{
    for (size_t i = 0; i < loop->hook_count; i++)
        loop->hooks[i].fn(loop->hooks[i].owner);
    return loop->stopped ? -1 : 0;
}

static int on_ready(zloop_t *zloop, zmq_pollitem_t *item, void *argument)
{
    struct loop *loop = argument;
    const struct watch *watch = find_watch(loop, item->socket, item->fd);
    int events = 0;

    (void)zloop;
    if (watch == NULL)
        return loop->stopped ? -1 : 0;    /* forgotten earlier in this turn */
    if (watch->socket != NULL) {
        watch->on_socket(watch->owner, watch->socket);
        return end_turn(loop);
    }
    if ((item->revents & ZMQ_POLLIN) != 0)
        events |= LOOP_READ;
    if ((item->revents & ZMQ_POLLOUT) != 0)
        events |= LOOP_WRITE;
    if ((item->revents & ZMQ_POLLERR) != 0)
        events |= watch->events;    /* the next read or write tells the error */
    watch->on_fd(watch->owner, watch->fd, events);
    return end_turn(loop);
}

static enum err start_poller(struct loop *loop, void *socket, int fd, int events)
{
    zmq_pollitem_t item = { .socket = socket, .fd = fd };

    if ((events & LOOP_READ) != 0)
        item.events |= ZMQ_POLLIN;
    if ((events & LOOP_WRITE) != 0)
        item.events |= ZMQ_POLLOUT;
    if (zloop_poller(loop->zloop, &item, on_ready, loop) != 0)
        return ERR_NO_MEMORY;
    zloop_poller_set_tolerant(loop->zloop, &item);    /* an error is the callback's to see */
    return ERR_OK;
}

static void end_poller(struct loop *loop, void *socket, int fd)
{
    zmq_pollitem_t item = { .socket = socket, .fd = fd };

    zloop_poller_end(loop->zloop, &item);
}

static enum err add_watch(struct loop *loop, const struct watch *watch)
{
    enum err err;

    if (loop->watch_count == LOOP_WATCHES_MAX)
        return ERR_OVERLOADED;
    err = start_poller(loop, watch->socket, watch->fd, watch->events);
    if (err != ERR_OK)
        return err;
    loop->watches[loop->watch_count++] = *watch;
    return ERR_OK;
}

static void remove_watch(struct loop *loop, struct watch *watch)
{
    end_poller(loop, watch->socket, watch->fd);
    *watch = loop->watches[--loop->watch_count];
}

static void arm(struct loop *loop, uint64_t due_us)
{
    struct itimerspec when = { 0 };

    if (loop->armed_us == due_us)
        return;
    loop->armed_us = due_us;
    if (due_us != UINT64_MAX) {
        when.it_value.tv_sec = (time_t)(due_us / 1000000u);
        when.it_value.tv_nsec = (long)(due_us % 1000000u) * 1000;
        if (due_us == 0)
            when.it_value.tv_nsec = 1;    /* zero would disarm */
    }
    timerfd_settime(loop->timer_fd, TFD_TIMER_ABSTIME, &when, NULL);
}

static void arm_earliest(struct loop *loop)
{
    uint64_t earliest_us = UINT64_MAX;

    for (size_t i = 0; i < loop->timer_count; i++)
        if (loop->timers[i].id != 0 && loop->timers[i].due_us < earliest_us)
            earliest_us = loop->timers[i].due_us;
    arm(loop, earliest_us);
}

static void fire(struct timer *timer, uint64_t now_us)
{
    struct timer fired = *timer;

    if (timer->interval_us == 0) {
        timer->id = 0;
    } else {
        timer->due_us += timer->interval_us;
        if (timer->due_us <= now_us)
            timer->due_us = now_us + timer->interval_us;    /* after a pause it fires once, not for every missed turn */
    }
    fired.fn(fired.owner);
}

static void on_timer_fd(void *owner, int fd, int events)
{
    struct loop *loop = owner;
    uint64_t now_us = clock_monotonic_us();
    uint64_t expirations;
    size_t count = loop->timer_count;

    (void)events;
    if (read(fd, &expirations, sizeof expirations) < 0)
        expirations = 0;    /* armed anew since: nothing to read, the timers below decide */
    loop->armed_us = UINT64_MAX;
    for (size_t i = 0; i < count && !loop->stopped; i++)
        if (loop->timers[i].id != 0 && loop->timers[i].due_us <= now_us)
            fire(&loop->timers[i], now_us);
    arm_earliest(loop);
}

void loop_prepare_process(void)
{
    zsys_init();
    zsys_handler_set(NULL);
}

enum err loop_new(struct loop **ret_loop)
{
    OWNED(loop_destroy) struct loop *loop = calloc(1, sizeof *loop);
    enum err err;

    if (loop == NULL)
        return ERR_NO_MEMORY;
    loop->armed_us = UINT64_MAX;
    loop->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (loop->timer_fd < 0)
        return ERR_UNAVAILABLE;
    loop->zloop = zloop_new();
    if (loop->zloop == NULL)
        return ERR_NO_MEMORY;
    zloop_set_nonstop(loop->zloop, true);    /* czmq's own interrupt flag is not ours */
    err = loop_watch_fd(loop, loop->timer_fd, LOOP_READ, on_timer_fd, loop);
    if (err != ERR_OK)
        return err;
    *ret_loop = take_loop(&loop);
    return ERR_OK;
}

void loop_destroy(struct loop **loop)
{
    if (*loop == NULL)
        return;
    zloop_destroy(&(*loop)->zloop);
    if ((*loop)->timer_fd >= 0)
        close((*loop)->timer_fd);
    free(*loop);
    *loop = NULL;
}

enum err loop_watch_socket(struct loop *loop, void *socket, loop_socket_fn *fn, void *owner)
{
    const struct watch wanted = { .socket = socket, .fd = -1, .events = LOOP_READ, .on_socket = fn, .owner = owner };
    struct watch *watch = find_watch(loop, socket, -1);

    if (watch == NULL)
        return add_watch(loop, &wanted);
    *watch = wanted;
    return ERR_OK;
}

void loop_forget_socket(struct loop *loop, void *socket)
{
    struct watch *watch = find_watch(loop, socket, -1);

    if (watch != NULL)
        remove_watch(loop, watch);
}

enum err loop_watch_fd(struct loop *loop, int fd, int events, loop_fd_fn *fn, void *owner)
{
    const struct watch wanted = { .fd = fd, .events = events, .on_fd = fn, .owner = owner };
    struct watch *watch = find_watch(loop, NULL, fd);

    if (watch != NULL && watch->events == events) {
        *watch = wanted;
        return ERR_OK;
    }
    if (watch != NULL)
        remove_watch(loop, watch);
    return events == 0 ? ERR_OK : add_watch(loop, &wanted);
}

void loop_forget_fd(struct loop *loop, int fd)
{
    struct watch *watch = find_watch(loop, NULL, fd);

    if (watch != NULL)
        remove_watch(loop, watch);
}

static struct timer *free_timer(struct loop *loop)
{
    for (size_t i = 0; i < loop->timer_count; i++)
        if (loop->timers[i].id == 0)
            return &loop->timers[i];
    return loop->timer_count < LOOP_TIMERS_MAX ? &loop->timers[loop->timer_count++] : NULL;
}

static int add_timer(struct loop *loop, uint64_t delay_ms, uint64_t interval_ms, loop_timer_fn *fn, void *owner)
{
    struct timer *timer = free_timer(loop);

    if (timer == NULL)
        return 0;
    loop->last_timer = loop->last_timer == INT_MAX ? 1 : loop->last_timer + 1;
    *timer = (struct timer){ .id = loop->last_timer, .due_us = clock_monotonic_us() + delay_ms * 1000u,
                             .interval_us = interval_ms * 1000u, .fn = fn, .owner = owner };
    if (timer->due_us < loop->armed_us)
        arm(loop, timer->due_us);
    return timer->id;
}

int loop_every(struct loop *loop, uint64_t interval_ms, loop_timer_fn *fn, void *owner)
{
    return add_timer(loop, interval_ms, interval_ms > 0 ? interval_ms : 1, fn, owner);
}

int loop_after(struct loop *loop, uint64_t delay_ms, loop_timer_fn *fn, void *owner)
{
    return add_timer(loop, delay_ms, 0, fn, owner);
}

void loop_cancel(struct loop *loop, int timer)
{
    for (size_t i = 0; timer > 0 && i < loop->timer_count; i++)
        if (loop->timers[i].id == timer)
            loop->timers[i].id = 0;
}

enum err loop_add_hook(struct loop *loop, loop_timer_fn *fn, void *owner)
{
    if (loop->hook_count == LOOP_HOOKS_MAX)
        return ERR_OVERLOADED;
    loop->hooks[loop->hook_count++] = (struct hook){ fn, owner };
    return ERR_OK;
}

void loop_remove_hook(struct loop *loop, loop_timer_fn *fn, const void *owner)
{
    for (size_t i = 0; i < loop->hook_count; i++) {
        if (loop->hooks[i].fn != fn || loop->hooks[i].owner != owner)
            continue;
        loop->hook_count--;
        memmove(&loop->hooks[i], &loop->hooks[i + 1], (loop->hook_count - i) * sizeof loop->hooks[0]);
        return;
    }
}

enum err loop_run(struct loop *loop)
{
    (void)end_turn(loop);    /* what was queued before the loop ran */
    while (!loop->stopped) {
        errno = 0;
        if (zloop_start(loop->zloop) == 0 && errno != EINTR && !loop->stopped)
            return ERR_BUG;
    }
    loop->stopped = false;    /* it may be run again */
    return ERR_OK;
}

void loop_stop(struct loop *loop)
{
    loop->stopped = true;
}
