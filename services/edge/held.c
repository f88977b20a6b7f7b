/*
 * held.c - edge-triggered epoll over the sockets of resting threads.
 *
 * Edge-triggered, because a socket then costs one registration per rest and none per request: what comes while `serve` is at
 * it makes an event of its own.  An event that was fetched before its connection went back finds it not held, or finds
 * nothing to read.
 */
#include "services/edge/held.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/metrics.h"

#define EVENTS_MAX 64      /* served before the dispatcher is roused */
#define TURN_MS    250     /* how exactly idle connections are ended, and how soon a stop is seen */

struct held {
    struct held_options options;
    pthread_t thread;
    bool has_thread;
    int epoll_fd;
    _Atomic bool is_stopping, is_ending;
    pthread_mutex_t lock;                 /* of the list */
    struct held_connection *first;
    uint64_t count;
    uint64_t turned_us;
};

static void list(struct held *held, struct held_connection *connection)
{
    pthread_mutex_lock(&held->lock);
    connection->next = held->first;
    connection->link = &held->first;
    if (held->first != NULL)
        held->first->link = &connection->next;
    held->first = connection;
    metric_set(METRIC_http_held, ++held->count);
    pthread_mutex_unlock(&held->lock);
}

/* Locked. */
static void unlist(struct held_connection *connection)
{
    *connection->link = connection->next;
    if (connection->next != NULL)
        connection->next->link = connection->link;
}

/* Locked.  The last that is done to it here: its thread goes on at once. */
static void give_back(struct held *held, struct held_connection *connection)
{
    unlist(connection);
    metric_set(METRIC_http_held, --held->count);
    epoll_ctl(held->epoll_fd, EPOLL_CTL_DEL, connection->fd, NULL);
    connection->is_held = false;
    sem_post(&connection->is_back);
}

/*
 * An end or urgent data that came with the bytes makes no event of its own any more: only bytes alone are served here.
 */
static void serve(struct held *held, const struct epoll_event *event, uint64_t now_us)
{
    struct held_connection *connection = event->data.ptr;

    if (!connection->is_held)
        return;
    connection->served_us = now_us;
    if (event->events == EPOLLIN && held->options.serve(connection->owner))
        return;
    pthread_mutex_lock(&held->lock);
    give_back(held, connection);
    pthread_mutex_unlock(&held->lock);
}

/* The end of an idle connection is left to its thread: it finds the socket shut. */
static void turn(struct held *held, uint64_t now_us)
{
    struct held_connection *next;

    if (now_us < held->turned_us + TURN_MS * 1000u)
        return;
    held->turned_us = now_us;
    pthread_mutex_lock(&held->lock);
    for (struct held_connection *connection = held->first; connection != NULL; connection = next) {
        const bool is_idle = now_us > connection->served_us + held->options.idle_ms * 1000u;

        next = connection->next;
        if (is_idle)
            shutdown(connection->fd, SHUT_RD);
        if (is_idle || held->is_stopping)
            give_back(held, connection);
    }
    pthread_mutex_unlock(&held->lock);
}

static void *held_run(void *argument)
{
    struct held *held = argument;
    struct epoll_event events[EVENTS_MAX];

    pthread_setname_np(pthread_self(), "held");
    while (!held->is_ending) {
        const int count = epoll_wait(held->epoll_fd, events, EVENTS_MAX, TURN_MS);
        const uint64_t now_us = clock_monotonic_us();

        for (int i = 0; i < count; i++)
            serve(held, &events[i], now_us);
        if (count > 0)
            held->options.served(held->options.owner);
        turn(held, now_us);
    }
    return NULL;
}

enum err held_init(struct held_connection *connection, void *owner)
{
    connection->owner = owner;
    return sem_init(&connection->is_back, 0, 0) == 0 ? ERR_OK : ERR_NO_MEMORY;
}

void held_clear(struct held_connection *connection)
{
    sem_destroy(&connection->is_back);
}

void held_wait(struct held *held, struct held_connection *connection, int fd)
{
    struct epoll_event event = { .events = EPOLLIN | EPOLLPRI | EPOLLRDHUP | EPOLLET, .data = { .ptr = connection } };

    if (held->is_stopping)
        return;
    connection->fd = fd;
    connection->served_us = clock_monotonic_us();
    connection->is_held = true;
    list(held, connection);
    if (epoll_ctl(held->epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0) {
        pthread_mutex_lock(&held->lock);
        if (connection->is_held)
            give_back(held, connection);
        pthread_mutex_unlock(&held->lock);
    }
    while (sem_wait(&connection->is_back) != 0 && errno == EINTR)
        continue;
}

void held_stop(struct held *held)
{
    held->is_stopping = true;
}

enum err held_new(const struct held_options *options, struct held **ret_held)
{
    struct held *held = calloc(1, sizeof *held);

    if (held == NULL)
        return ERR_NO_MEMORY;
    held->options = *options;
    held->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    pthread_mutex_init(&held->lock, NULL);
    held->has_thread = held->epoll_fd >= 0 && pthread_create(&held->thread, NULL, held_run, held) == 0;
    if (!held->has_thread) {
        held_destroy(&held);
        return ERR_NO_MEMORY;
    }
    *ret_held = held;
    return ERR_OK;
}

void held_destroy(struct held **held)
{
    struct held *own = *held;

    if (own == NULL)
        return;
    own->is_ending = true;
    if (own->has_thread)
        pthread_join(own->thread, NULL);
    if (own->epoll_fd >= 0)
        close(own->epoll_fd);
    pthread_mutex_destroy(&own->lock);
    free(own);
    *held = NULL;
}
