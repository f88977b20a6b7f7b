/*
 * dispatch.h - the edge's dispatcher: one thread that owns every ZeroMQ socket, the worker table, the slots and the spool.
 *
 * A civetweb thread fills a struct call, hands it over (lock-free list and an eventfd) and sleeps on its futex until the
 * dispatcher is through with all steps: verdict, charge, management, record.  One hand-over and one wake-up per call; none,
 * when the call has an `answer` of its own, which the dispatcher gives while the thread waits for its client again.
 * dispatch_call() always returns by the call's deadline plus DISPATCH_SLACK; a dispatcher that does not keep this is dead
 * and the process aborts (its supervisor restarts it).
 */
#ifndef EDGE_DISPATCH_H
#define EDGE_DISPATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/config.h"
#include "common/error.h"
#include "common/message.h"
#include "common/ops.h"
#include "services/edge/servers.h"
#include "services/edge/streams.h"

struct dispatch;

/* All pointers must outlive the dispatcher; texts and numbers are the settings of the same names. */
struct dispatch_options {
    const struct common_config *config;    /* instance, bus_uids, bus_keys, bus_insecure */
    const char *bus;                       /* "": ipc:///run/mcpgw/bus/edge-<instance> */
    const char *bus_record;                /* "": record nothing */
    const char *spool_dir;
    uint64_t spool_bytes, segment_bytes;
    uint64_t lease_ms, stale_grace_ms;
    uint64_t queue_limit, attempt_ms, manage_ms;
    uint32_t calls_max;                    /* threads that may be in dispatch_call at once; beyond: ERR_OVERLOADED */
    bool audit_strict;
    const struct secret *chain_key;
    const struct secret *lookup_key;       /* NULL or not set: what unknown callers presented leaves no trace */
    struct streams *streams;
    struct servers *servers;
    struct ops *ops;                       /* facts: authz, ratelimit, keys, servers, feed, spool.  NULL: none are told */
};

/*
 * Takes the spool slot, recovers it, binds the five sockets and starts the two threads (dispatcher and spool).
 * On failure a sentence with the remedy is in reterr.  ERR_CONFLICT: another edge has this address; ERR_DENIED: the
 * address may not be used as configured; ERR_UNAVAILABLE: a directory or socket cannot be used; ERR_MALFORMED: bad address.
 */
enum err dispatch_new(const struct dispatch_options *options, struct dispatch **ret_dispatch,
                      char *reterr, size_t reterr_size) MUST_CHECK;
/* Ends streams with "drain" and writes what was counted so far; calls are still served.  Any thread; returns at once. */
void dispatch_drain(struct dispatch *dispatch);
/* No call is in work.  Any thread. */
bool dispatch_is_idle(const struct dispatch *dispatch);
/* No thread may be in dispatch_call any more.  Closes the epoch: everything spooled is on disk when it returns. */
void dispatch_destroy(struct dispatch **dispatch);

#define DISPATCH_SLACK_US 5000000u

/* Steps of a call, done in this order; a step that fails ends the call. */
#define CALL_VERDICT 1u    /* ask authz with verdict_request */
#define CALL_CHARGE  2u    /* ask ratelimit, from the verdict; a refused verdict is not charged */
#define CALL_MANAGE  4u    /* ask keys with manage_request; its principal fields are filled from the verdict */
#define CALL_RECORD  8u    /* write `event` to the spool before waking the caller */

struct call {
    /* in */
    uint32_t steps;
    uint64_t deadline_us;                     /* monotonic; for all steps but CALL_MANAGE, which has manage_ms of its own */
    struct verdict_request verdict_request;
    struct view token;                        /* the token or session itself, for an authz that has not seen it; the caller's memory */
    struct manage_request manage_request;
    uint64_t on_failure;                      /* charge_request.on_failure of the route */
    struct audit_event event;                 /* event, request_id, address, method, path, server, tool, ... */
    uint64_t status_if_ok;                    /* status of the event when all steps succeed; 0: it is not the answer (decision) */
    uint64_t started_us;                      /* monotonic, for latency_us */
    enum err object_err;                      /* not ERR_OK: what a good verdict becomes (the server asked about is unknown) */
    bool observes;                            /* a refusal for lack of credential, scope or budget lets the call through */
    bool needs_second_factor;                 /* ERR_DENIED, reason second_factor, for a verdict without one */
    char object_tenant[81];                   /* not "": ERR_DENIED for who acts in another tenant */

    /* out */
    enum err err;                             /* the answer's error; ERR_OK: all steps done */
    enum err observed;                        /* what it would have been; the caller may set it for a call without a verdict */
    struct verdict verdict;                   /* after CALL_VERDICT; zero when authz gave none */
    struct charge charge;                     /* after CALL_CHARGE */
    struct manage_reply reply;                /* after CALL_MANAGE; its body VIEW lies in reply_buffer */
    uint8_t *reply_buffer;                    /* owned by the caller of dispatch_call: 65536 bytes, or NULL without CALL_MANAGE */

    /* dispatch_begin() only: runs in the dispatcher's thread once all else is done.  It must neither block nor fail. */
    void (*answer)(struct call *call);
    void *owner;                              /* the caller's own */

    /* the dispatcher's own; opaque, zero at first */
    struct {
        struct call *next;                    /* in the list of hand-overs, then in that of answers */
        uint32_t state;                       /* futex word */
        uint32_t slot;
        uint64_t sequence;                    /* of its event */
    } own;
};

/*
 * What the dispatcher writes in the event: outcome, reason, status (status_if_ok, or the status of err), latency, and from the
 * verdict user_id, tenant_id, auth_method, key_id.  A refused call is always recorded with its status as event "request",
 * whatever event the caller set (a proxied request that is refused is answered by us).
 * ERR_AUDIT_UNAVAILABLE in call->err: the spool could not take the event; nothing may be answered but that.
 */
/* With CALL_MANAGE the event's status and outcome are those of the reply.  A caller that asks for CALL_RECORD alone (a
 * completion) sets the identity, status and, if it is not "allowed", the outcome of the event itself. */
void dispatch_call(struct dispatch *dispatch, struct call *call);
/*
 * The parts of dispatch_call(): hands over; wakes the dispatcher, once for all calls handed over before; waits.  The call
 * belongs to the dispatcher from the first, and the other two must follow, from any thread.
 */
void dispatch_begin(struct dispatch *dispatch, struct call *call);
void dispatch_rouse(struct dispatch *dispatch);
void dispatch_await(struct dispatch *dispatch, struct call *call);

/* A refusal before authz (malformed, blocked, locked out, shed): counted, one event per address and second. `reason`: static storage. */
void dispatch_count_refusal(struct dispatch *dispatch, const char *address, const char *reason, unsigned status);

#endif
