/*
 * bus.h - a worker's side of the bus: connects to every edge, says READY, answers heartbeats, receives batches,
 * collects replies into batches, says GOODBYE.  design: edges bind, everything else connects to every edge.
 *
 * Endpoints of an edge.  ipc base path P: P.authz, P.ratelimit, P.keys (ROUTER), P.trail (PUB), P.replay (ROUTER).
 * tcp://host:port: port+0 authz, +1 ratelimit, +2 keys, +3 trail, +4 replay.
 * Every 2 s the list is resolved again (directory globs, DNS): new edges are connected, vanished ones disconnected.
 */
#ifndef COMMON_BUS_H
#define COMMON_BUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/config.h"
#include "common/error.h"
#include "common/frame.h"
#include "common/loop.h"
#include "common/message.h"

struct bus;

#define BUS_EDGES_MAX 64

/* Names one request so that it can be answered later; copy it.  It outlives the batch; answering one whose edge is
 * gone does nothing. */
struct bus_token {
    uint32_t edge, generation;
    uint64_t epoch, batch, request_id;
    uint64_t deadline_us;     /* in our own monotonic clock (converted by the smallest received-sent seen); 0: none */
    uint16_t attempt;
    uint32_t slot, slot_generation;    /* the bus's own, for bus_outstanding */
};

/* One row per message received.  A NULL function ends the table. */
typedef void bus_handler_fn(void *owner, const struct bus_token *token, const void *message);
struct bus_handler {
    uint16_t code;
    bus_handler_fn *fn;
};
/* static void on_x(struct authz *a, const struct bus_token *t, const struct x *m);
 * DEFINE_BUS_HANDLER(struct authz, on_x, x) */
#define DEFINE_BUS_HANDLER(owner_type, function, message_name)                                              \
    static void function##_thunk(void *owner, const struct bus_token *token, const void *message)           \
    {                                                                                                       \
        function((owner_type *)owner, token, (const struct message_name *)message);                         \
    }
#define BUS_HANDLER(function, message_name) { MESSAGE_##message_name, function##_thunk }

struct bus_options {
    enum service role;
    uint64_t credits;                       /* most requests in work at once, told in READY; 1 or more */
    const struct bus_handler *handlers;
    /* Called after the last item of a received frame (NULL: not needed): ratelimit makes one script call of it.
     * `epoch` and `batch` name it for ever: a re-sent batch carries the same two and the same items.  So with this
     * function set, a frame is dropped as expired only when all of its requests are; without it, each by itself. */
    void (*on_batch_end)(void *owner, uint32_t edge, uint64_t epoch, uint64_t batch);
    void (*on_edge)(void *owner, uint32_t edge, bool up);      /* WELCOME received / connection lost; may be NULL */
    /* audit only: what is published on the trail and what comes back on the replay socket arrive through `handlers`. */
    void *owner;
    const struct common_config *config;
};

/* The options' config must outlive the bus.  ERR_MALFORMED, ERR_DENIED, ERR_NOT_FOUND: settings or keys, already
 * logged. */
enum err bus_new(struct loop *loop, const struct bus_options *options, struct bus **ret_bus) MUST_CHECK;
void bus_destroy(struct bus **bus);
/* READY is held back until this is called first (caches loaded, lease held); false takes the worker out again. */
void bus_set_ready(struct bus *bus, bool ready);
/* A new applied change number: goes to every edge at once as a pulse, and in later READYs. */
void bus_set_applied(struct bus *bus, uint64_t applied);
uint64_t bus_edge_count(const struct bus *bus);       /* edges that said WELCOME */
/* Where the edge of a token or of on_edge is connected to; "" for none.  Valid in on_edge(down) too. */
#define BUS_ADDRESS_MAX 256
const char *bus_edge_address(const struct bus *bus, uint32_t edge);
const uint8_t *bus_uuid(const struct bus *bus);       /* this start's 16 random bytes */

/* Adds a reply to the edge's outgoing batch; flushed at the end of the loop's turn, or earlier when a frame is full.
 * A reply is dropped (and counted) when its edge is gone.  Repeated calls with one token send several messages. */
void bus_reply(struct bus *bus, const struct bus_token *token, uint16_t code, const void *message);
/* Unasked messages to one edge (keys: change, feed; audit: trail_ack, replay_request).  request_id 0 when none. */
void bus_send(struct bus *bus, uint32_t edge, uint16_t code, uint64_t request_id, const void *message);
void bus_send_all(struct bus *bus, uint16_t code, const void *message);
/* For messages larger than FRAME_SIZE_MAX nothing exists: each row's body_limit says what fits. */

/* GOODBYE to all; then bus_outstanding() falls to 0 as answers go out. */
void bus_say_goodbye(struct bus *bus, const char *reason);
/* Answered all, and gave what edges had sent before they heard the goodbye 100 ms to arrive. */
bool bus_is_drained(const struct bus *bus);
uint64_t bus_outstanding(const struct bus *bus);      /* requests received and not yet answered by a first reply */

#endif
