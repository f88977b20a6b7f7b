/*
 * held.h - connections whose threads rest: one thread waits for the next requests of all of them, so that a request that
 * comes wakes one thread that is awake already under load, and not one of its own (docs/decisions.md, "Where the speed
 * comes from").
 *
 * A connection is held while its own thread is inside held_wait().  Then `serve` is called, by the holding thread, each time
 * its socket has something new; what serve cannot do at once goes back to the connection's thread.
 */
#ifndef EDGE_HELD_H
#define EDGE_HELD_H

#include <semaphore.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"

struct held;

/* Embedded by its owner, which outlives the holding. */
struct held_connection {
    struct held_connection *next, **link;    /* of those that are held; under the lock of held */
    void *owner;
    sem_t is_back;
    _Atomic bool is_held;
    _Atomic uint64_t served_us;              /* monotonic: when it last asked for something */
    int fd;
};

struct held_options {
    /* Must not block.  false: the connection goes back to its thread, and nothing was taken from its socket. */
    bool (*serve)(void *connection_owner);
    void (*served)(void *owner);             /* all that were ready have been served once */
    void *owner;
    uint64_t idle_ms;                        /* a connection that asks for nothing for so long is ended */
};

/* ERR_NO_MEMORY: no thread or no epoll instance could be had. */
enum err held_new(const struct held_options *options, struct held **ret_held) MUST_CHECK;
/* No connection may be held any more, nor be: after the last of their threads has ended. */
void held_destroy(struct held **held);

enum err held_init(struct held_connection *connection, void *owner) MUST_CHECK;    /* ERR_NO_MEMORY */
void held_clear(struct held_connection *connection);
/* In the connection's own thread: holds it, and returns when there is something on the socket that is for this thread, also
 * its end.  Returns at once when it cannot be held. */
void held_wait(struct held *held, struct held_connection *connection, int fd);
/* Every connection goes back to its thread, now and from now on. */
void held_stop(struct held *held);

#endif
