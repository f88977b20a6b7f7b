/*
 * core.h - what the dispatcher's files share: the slots of calls in work, the workers, the sockets.  Everything here is
 * touched by the dispatcher thread alone unless it is said to be atomic.
 *
 *   dispatch.c  the thread: sweeps, hand-overs, timers, start and end
 *   calls.c     slots, the steps of a call, its event
 *   publish.c   blocks, PUB, heartbeats, replays, acknowledgements
 *   workers.c   the worker table: READY, choice, death
 *   batches.c   queues into frames, replies back, time-outs, hedges
 *   feed.c      changes, the registry of servers, holders
 *   bind.c      sockets and addresses;  record.c  recordings;  refusals.c  junk, counted
 */
#ifndef EDGE_CORE_H
#define EDGE_CORE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <pthread.h>
#include <zmq.h>

#include "common/curve.h"
#include "common/frame.h"
#include "common/message.h"
#include "common/trail.h"
#include "services/edge/dispatch.h"
#include "services/edge/refusals.h"
#include "services/edge/spool.h"

#define WORKERS_MAX      40u          /* per role; as many as `holders` can name */
#define ATTEMPTS_MAX     3u           /* of one request */
#define SLOT_BITS        20u          /* request id: generation above, slot below */
#define SLOTS_MAX_COUNT  ((1u << SLOT_BITS) - 2u)
#define SLOT_INTERNAL    ((1u << SLOT_BITS) - 1u)    /* of requests the dispatcher makes for itself */
#define NO_SLOT          UINT32_MAX
#define REPLAYS_MAX      16u

#define HEARTBEAT_US     100000u
#define SUSPECT_US       250000u
#define DEAD_US          600000u
#define PAUSE_US         50000u       /* an own pause longer than this is not held against the peers */
#define TICK_US          10000u

/* The futex word of a call. */
#define CALL_PENDING     0u
#define CALL_DONE        1u
#define CALL_ASLEEP      2u

#define CHARGE_ATTEMPT_US 100000u     /* a repeated batch is charged once, so asking another worker is safe */
#define HEDGE_LEAST_US   3000u
#define RETRY_FIRST      5000u        /* hundredths of a repetition that a new edge may make before it has earned any */
#define HOLD_US          500u         /* about a round trip */
#define AVOID_US         250000u      /* after a time-out another worker is preferred for so long */

enum role { ROLE_AUTHZ, ROLE_RATELIMIT, ROLE_KEYS, ROLE_AUDIT, ROLE_COUNT };

enum worker_state { WORKER_FREE, WORKER_ALIVE, WORKER_SUSPECT, WORKER_LEAVING };

struct worker {
    enum worker_state state;
    enum role role;
    size_t identity_size;
    uint8_t identity[255];            /* ROUTER's name of the connection */
    uint8_t uuid[UUID_SIZE];
    int fd;                           /* its connection here, as the monitor names it */
    unsigned version;
    uint64_t credits, outstanding;
    uint64_t applied, heard_us, avoid_until_us;
    uint64_t busy_until_us;           /* it has a frame of ours, so small ones wait so long for its answer */
};

struct batch;

/* A call in work.  It is in exactly one list: free, the queue of its role, or its role's flight. */
struct slot {
    struct call *call;
    uint64_t generation, deadline_us, step_us, attempt_us;
    enum role role;
    bool is_queued;
    uint8_t attempts;                 /* made in this step */
    struct worker *workers[ATTEMPTS_MAX];    /* those that still may answer, NULL between */
    struct batch *batch;              /* ratelimit only */
    uint32_t next, previous;
};

struct slot_list {
    uint32_t first, last, count;
};

/* A frame to ratelimit, kept as it was sent: its repetition must be the same bytes. */
struct batch {
    struct batch *next, *previous;
    zmq_msg_t frame;
    uint64_t id, sent_us;
    unsigned version;
    uint32_t count, pending;          /* requests in it; those not answered yet */
    uint8_t attempts;
    struct worker *workers[ATTEMPTS_MAX];
    uint32_t left[ATTEMPTS_MAX];      /* answers still owed by that worker */
};

struct replay {
    struct worker *worker;            /* NULL: free */
    struct spool_cursor cursor;
    uint64_t request_id, left;        /* bytes it may still send */
    uint64_t damaged_seq;             /* what could not be read while the next that can is looked for; 0: nothing */
};

/* The registry as it comes in, page by page. */
struct registry {
    struct server_entry *entries;
    size_t count, capacity, page_count;
    uint64_t request_id, asked_us;    /* request_id 0: none is being fetched */
    uint64_t sequence;                /* change number of the table in use */
    bool is_wanted;
};

struct feed_state {
    uint64_t request_number;
    uint64_t lease_until_us;          /* CLOCK_BOOTTIME */
    uint64_t asked_us;                /* newest question that was answered */
    uint32_t behind;                  /* answers in a row that named a number we cannot reach */
    bool is_known, is_lost;
    bool holders_changed;
    struct registry registry;
};

struct hedge {
    uint32_t buckets[128];            /* round trips of authz, half a millisecond each */
    uint64_t after_us;
    uint32_t credit, retry_credit;    /* hundredths of a request */
    uint64_t shed_us;                 /* when a request was last refused for a full queue */
};

struct dispatch {
    struct dispatch_options options;
    struct curve *curve;
    struct spool *spool;
    struct refusals *refusals;
    struct record *record;
    void *context;
    void *sockets[ROLE_COUNT], *monitors[ROLE_COUNT], *publisher;
    int lock_fd, wake_fd;
    uint64_t epoch;                   /* random, of this start: names our requests on the bus */
    uint8_t uuid[UUID_SIZE];
    uint64_t now_us, random, batch_number;
    bool is_touched[ROLE_COUNT];      /* may be readable although its descriptor does not say so */

    struct slot *slots;
    uint32_t slot_count;
    struct slot_list free_slots, queue[ROLE_COUNT], flight[ROLE_COUNT];
    struct batch *batches, *free_batches, *first_batch, *last_batch;    /* in flight, oldest sent first */
    uint32_t waiting_batches;         /* of those, how many wait for any worker */
    struct worker workers[ROLE_COUNT][WORKERS_MAX];
    uint32_t worker_count[ROLE_COUNT];
    struct replay replays[REPLAYS_MAX];
    struct feed_state feed;
    struct hedge hedge;

    struct call *answers, *last_answer;       /* to be recorded and woken at the end of the sweep */
    struct call *unsynced, *last_unsynced;    /* audit_strict: recorded, waiting for the disk */
    struct trail_writer block;
    uint8_t prev[DIGEST_SIZE];
    bool is_spool_available;
    uint64_t refused_by_spool, junk_beyond_quota;    /* requests not yet told in an event */

    uint64_t tick_us, heartbeat_us, trail_us, second_us, judge_after_us;
    uint64_t reject_logged_us;
    uint8_t *frame_buffer, *block_buffer, *trail_buffer, *replay_buffer;

    pthread_t thread;
    bool is_running;
    _Atomic(struct call *) handed_over;
    _Atomic uint32_t is_asleep, is_stopping, is_draining;
    _Atomic uint64_t calls_in_work;
    bool has_drained;
};

static inline enum service service_of(enum role role)
{
    static const enum service services[ROLE_COUNT] = { SERVICE_AUTHZ, SERVICE_RATELIMIT, SERVICE_KEYS, SERVICE_AUDIT };

    return services[role];
}

/* ---- calls.c */
void list_init(struct slot_list *list);
void list_append(struct dispatch *d, struct slot_list *list, struct slot *slot);
void list_prepend(struct dispatch *d, struct slot_list *list, struct slot *slot);
void list_remove(struct dispatch *d, struct slot_list *list, struct slot *slot);
static inline struct slot *slot_at(struct dispatch *d, uint32_t index)
{
    return index == NO_SLOT ? NULL : &d->slots[index];
}
static inline uint64_t slot_request_id(const struct dispatch *d, const struct slot *slot)
{
    return slot->generation << SLOT_BITS | (uint64_t)(slot - d->slots);
}
/* The slot a reply names, when it waits for this role; NULL: late, or never asked. */
struct slot *slot_of_request(struct dispatch *d, uint64_t request_id, enum role role);
void call_begin(struct dispatch *d, struct call *call);
/* The step in work is done: goes on to the next, or to the answers. */
void call_verdict_came(struct dispatch *d, struct slot *slot);
void call_charge_came(struct dispatch *d, struct slot *slot);
void call_reply_came(struct dispatch *d, struct slot *slot);
void call_end(struct dispatch *d, struct slot *slot, enum err err);
void call_end_early(struct dispatch *d, struct call *call, enum err err);

void calls_tell(void);                             /* the ratio of valid credentials served; every second */

/* ---- publish.c */
void publish_answers(struct dispatch *d);          /* records and wakes: the last act of a sweep */
void publish_durable(struct dispatch *d);          /* wakes those that waited for the disk */
void publish_refusals(struct dispatch *d);
void publish_heartbeats(struct dispatch *d);
void publish_check_spool(struct dispatch *d);
void on_trail_ack(struct dispatch *d, const struct trail_ack *ack);
void on_replay_request(struct dispatch *d, struct worker *worker, uint64_t request_id, const struct replay_request *request);
bool publish_replays(struct dispatch *d);          /* true: there is more to send */
void publish_forget_worker(struct dispatch *d, const struct worker *worker);

/* ---- workers.c */
struct worker *worker_find(struct dispatch *d, enum role role, const void *identity, size_t size);
/* The less loaded of two at random, among those alive with credit; NULL: none.  `except`: a slot that has tried some. */
struct worker *worker_choose(struct dispatch *d, enum role role, struct worker *const except[ATTEMPTS_MAX]);
void worker_lost(struct dispatch *d, struct worker *worker, const char *why);
void workers_judge(struct dispatch *d);
void workers_beat(struct dispatch *d);
void workers_read_monitor(struct dispatch *d, enum role role);
void workers_tell(struct dispatch *d);             /* facts and gauges */
/* A frame of one message; a peer that cannot be reached is lost. */
void worker_send(struct dispatch *d, struct worker *worker, const struct message_type *type, uint64_t request_id, const void *message);
/* Sends a whole frame; takes the message in any case.  false: the worker was lost. */
bool worker_send_frame(struct dispatch *d, struct worker *worker, zmq_msg_t *frame);
/* All that has arrived on the role's socket, bounded. */
void workers_receive(struct dispatch *d, enum role role);

/* ---- batches.c */
void batches_send(struct dispatch *d);             /* queues into frames */
void batches_check(struct dispatch *d);            /* deadlines and time-outs; every tick */
void batches_hedge(struct dispatch *d);
void batches_tune(struct dispatch *d);             /* once a second */
void batches_worker_lost(struct dispatch *d, struct worker *worker);
void batches_release(struct dispatch *d, struct slot *slot);    /* the slot waits for no worker any more */
uint64_t batches_next_hedge_us(struct dispatch *d);             /* when batches_hedge has something to do; UINT64_MAX */
/* Until when nothing can be sent to this role but what is queued already fills a frame; 0: not so. */
uint64_t batches_held_until_us(const struct dispatch *d, enum role role);
/* false: nobody asked for it. */
bool batches_take_reply(struct dispatch *d, struct worker *worker, const struct frame_header *header, const struct frame_item *item);

/* ---- feed.c */
void feed_begin(struct dispatch *d);
void feed_ask(struct dispatch *d);                 /* with every heartbeat */
void feed_check(struct dispatch *d);               /* is the lease over?  Every tick */
void feed_flush(struct dispatch *d);               /* holders, when they changed; every sweep */
void feed_tell(struct dispatch *d, struct worker *worker);      /* holders, to one that is new */
void feed_take(struct dispatch *d, const struct frame_header *header, const struct frame_item *item);
void feed_end(struct dispatch *d);

/* ---- bind.c */
enum err bind_sockets(struct dispatch *d, char *reterr, size_t reterr_size) MUST_CHECK;
void unbind_sockets(struct dispatch *d);

/* ---- record.c */
struct record;
enum err record_new(const char *dir, struct record **ret_record) MUST_CHECK;    /* *ret_record NULL when dir is "" */
void record_destroy(struct record **record);
void record_message(struct record *record, const struct message_type *type, const void *message);

#endif
