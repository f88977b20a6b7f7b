/*
 * loop.h - one thread's event loop over czmq's zloop: sockets, file descriptors, timers, and a hook at the end of
 * every turn.  zloop stops on EINTR in czmq 4.2.1; loop_run starts it again until loop_stop.
 */
#ifndef COMMON_LOOP_H
#define COMMON_LOOP_H

#include <stdint.h>

#include "common/error.h"

struct loop;

#define LOOP_READ  1
#define LOOP_WRITE 2

typedef void loop_fd_fn(void *owner, int fd, int events);
typedef void loop_socket_fn(void *owner, void *socket);    /* zmq socket that is readable: drain it, bounded */
typedef void loop_timer_fn(void *owner);

/* Once, first in main: czmq's process-wide state is not thread-safe to make, and must leave our signals alone. */
void loop_prepare_process(void);
enum err loop_new(struct loop **ret_loop) MUST_CHECK;
void loop_destroy(struct loop **loop);

enum err loop_watch_socket(struct loop *loop, void *socket, loop_socket_fn *fn, void *owner) MUST_CHECK;
void loop_forget_socket(struct loop *loop, void *socket);
/* Replaces what was watched for this fd; events 0 forgets it. */
enum err loop_watch_fd(struct loop *loop, int fd, int events, loop_fd_fn *fn, void *owner) MUST_CHECK;
void loop_forget_fd(struct loop *loop, int fd);    /* before it is closed */
/* Returns an id > 0 for loop_cancel; 0: too many timers (LOOP_TIMERS_MAX).  Resolution 1 ms. */
int loop_every(struct loop *loop, uint64_t interval_ms, loop_timer_fn *fn, void *owner);
int loop_after(struct loop *loop, uint64_t delay_ms, loop_timer_fn *fn, void *owner);
void loop_cancel(struct loop *loop, int timer);
/* Runs after every callback that the loop makes: where batches are flushed.  LOOP_HOOKS_MAX at most, in order of
 * adding. */
#define LOOP_HOOKS_MAX 8
enum err loop_add_hook(struct loop *loop, loop_timer_fn *fn, void *owner) MUST_CHECK;
void loop_remove_hook(struct loop *loop, loop_timer_fn *fn, const void *owner);

/* Until loop_stop() or a fatal poll error (ERR_BUG). */
enum err loop_run(struct loop *loop) MUST_CHECK;
void loop_stop(struct loop *loop);

#endif
