/*
 * feed.h - carries changes from Postgres to every edge, answers the edges' leases, and knows who has applied what.
 *
 * An edge's question is answered only from a read of Postgres that began after it came; questions that wait meanwhile
 * share the next read.  A holder is whoever may still act on an older state: every edge, and every authz worker that a
 * live edge would ask.  An edge that vanished without a word stays a holder until its own lease must have ended.
 */
#ifndef KEYS_FEED_H
#define KEYS_FEED_H

#include <stdbool.h>
#include <stdint.h>

#include "common/bus.h"
#include "common/error.h"
#include "common/loop.h"
#include "services/keys/keys_store.h"

struct feeder;

#define FEED_WAITS_MAX 256u

struct feed_options {
    struct loop *loop;
    uint64_t grace_ms;                        /* lease_ms + stale_grace_ms: what a holder may live without us */
    void (*on_current)(void *owner);          /* the first read after a connection came back */
    void *owner;
};
struct feed_applied {
    uint64_t holders, of, ms;                 /* how many of how many have applied it, and how long that took */
};
typedef void feed_wait_fn(void *owner, const struct feed_applied *applied);

enum err feed_new(const struct feed_options *options, struct feeder **ret_feed) MUST_CHECK;
void feed_destroy(struct feeder **feed);
/* Both are made after the feed, because they call it. */
void feed_set_bus(struct feeder *feed, struct bus *bus);
void feed_set_store(struct feeder *feed, struct store *store);

void feed_on_state(struct feeder *feed, bool connected);
void feed_on_change(struct feeder *feed);       /* something was notified or committed: read now */
void feed_on_edge(struct feeder *feed, uint32_t edge, bool up);
void feed_on_request(struct feeder *feed, const struct bus_token *token, const struct feed_request *request);
void feed_on_holders(struct feeder *feed, const struct bus_token *token, const struct holders *holders);

/*
 * Calls fn when every holder has applied `sequence`, or once grace_ms has passed since now (the commit); it may be called
 * before this returns.  ERR_OVERLOADED: FEED_WAITS_MAX wait already.
 */
enum err feed_wait(struct feeder *feed, uint64_t sequence, feed_wait_fn *fn, void *owner) MUST_CHECK;
uint64_t feed_known(const struct feeder *feed);
/* Who has applied `sequence` now. */
struct feed_applied feed_count(const struct feeder *feed, uint64_t sequence);

#endif
