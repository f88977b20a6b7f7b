/*
 * redis.h - one asynchronous Redis connection (hiredis, RESP2) on a loop that reconnects by itself.
 *
 * hiredis' errors are sticky and a late reply would answer the next command, so any time-out or error frees the
 * connection: every callback in flight gets NULL.  While there is no connection calls fail at once.
 */
#ifndef COMMON_REDIS_H
#define COMMON_REDIS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <hiredis/hiredis.h>

#include "common/error.h"
#include "common/loop.h"
#include "common/secret.h"

struct redis;

struct redis_options {
    const struct secret *url;       /* redis://user:password@host:port/db, or unix:///path?user=..&password=..&db=.. */
    uint32_t timeout_ms;            /* from a command's sending to its reply */
    void (*on_state)(void *owner, bool connected);
    void *owner;
};

/* reply NULL: lost or timed out (whether it took effect is unknown).  REDIS_REPLY_ERROR replies are handed over as
 * they are, but READONLY and LOADING also drop the connection. */
typedef void redis_fn(void *owner, const redisReply *reply);

#define REDIS_QUEUE_MAX 4096    /* commands in flight; beyond: ERR_OVERLOADED */

enum err redis_new(struct loop *loop, const struct redis_options *options, struct redis **ret_redis) MUST_CHECK;
void redis_destroy(struct redis **redis);
bool redis_is_connected(const struct redis *redis);
/* fn may be NULL.  Binary-safe.  Written out at the end of the loop's turn, or at once by redis_flush. */
enum err redis_call(struct redis *redis, int argc, const char *const *argv, const size_t *lengths,
                    redis_fn *fn, void *owner) MUST_CHECK;
void redis_flush(struct redis *redis);

#endif
