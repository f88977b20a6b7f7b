/*
 * dispatch.h - the edge's dispatcher: one thread that owns every ZeroMQ socket, the worker table, the slots and the spool.
 *
 * A civetweb thread fills a struct call, hands it over (lock-free list and an eventfd) and sleeps on its futex until the
 * dispatcher is through with all steps: verdict, charge, management, record.  One hand-over and one wake-up per call.
 * dispatch_call() always returns by the call's deadline plus DISPATCH_SLACK; a dispatcher that does not keep this is dead
 * and the process aborts (its supervisor restarts it).
 */
#ifndef EDGE_DISPATCH_H
#define EDGE_DISPATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "common/message.h"

struct dispatch;

#define DISPATCH_SLACK_US 5000000u

/* Steps of a call, done in this order; a step that fails ends the call. */
#define CALL_VERDICT 1u    /* ask authz with verdict_request */
#define CALL_CHARGE  2u    /* ask ratelimit, from the verdict; a refused verdict is not charged */
#define CALL_MANAGE  4u    /* ask keys with manage_request; its principal fields are filled from the verdict */
#define CALL_RECORD  8u    /* write `event` to the spool before waking the caller */

struct call {
    /* in */
    uint32_t steps;
    uint64_t deadline_us;                     /* monotonic; for all steps but CALL_MANAGE, which has 5 s of its own */
    struct verdict_request verdict_request;
    struct manage_request manage_request;
    uint64_t on_failure;                      /* charge_request.on_failure of the route */
    struct audit_event event;                 /* event, request_id, address, method, path, server, tool, ... */
    uint64_t status_if_ok;                    /* status of the event when all steps succeed; 0: it is not the answer (decision) */
    uint64_t started_us;                      /* monotonic, for latency_us */

    /* out */
    enum err err;                             /* the answer's error; ERR_OK: all steps done */
    struct verdict verdict;                   /* after CALL_VERDICT; zero when authz gave none */
    struct charge charge;                     /* after CALL_CHARGE */
    struct manage_reply reply;                /* after CALL_MANAGE; its body VIEW lies in reply_buffer */
    uint8_t *reply_buffer;                    /* owned by the caller of dispatch_call: 65536 bytes, or NULL without CALL_MANAGE */

    /* the dispatcher's own; opaque, zero at first */
    struct {
        struct call *next;
        uint32_t index, generation;           /* slot */
        uint32_t state;                       /* futex word */
        uint32_t step;
        uint64_t step_started_us, attempt_started_us;
        uint16_t attempt;
        struct call *queue_next;
        uint32_t worker;
    } own;
};

/*
 * What the dispatcher writes in the event: outcome, reason, status (status_if_ok, or the status of err), latency, and from the
 * verdict user_id, tenant_id, auth_method, key_id.  A refused call is always recorded with its status as event "request",
 * whatever event the caller set (a proxied request that is refused is answered by us).
 * ERR_AUDIT_UNAVAILABLE in call->err: the spool could not take the event; nothing may be answered but that.
 */
void dispatch_call(struct dispatch *dispatch, struct call *call);

/* A refusal before authz (malformed, blocked, locked out, shed): counted, one event per address and second. `reason`: static storage. */
void dispatch_count_refusal(struct dispatch *dispatch, const char *address, const char *reason, unsigned status);

#endif
