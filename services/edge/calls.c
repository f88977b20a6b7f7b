/* calls.c - the slots and the steps of a call: verdict, charge, management, and what its event says in the end. */
#include "services/edge/core.h"

#include <stdio.h>
#include <string.h>

#include "common/clock.h"
#include "common/metrics.h"
#include "common/scope.h"
#include "services/edge/details.h"

/* --- lists of slots ------------------------------------------------------------------------ */

void list_init(struct slot_list *list)
{
    *list = (struct slot_list){ NO_SLOT, NO_SLOT, 0 };
}

void list_append(struct dispatch *d, struct slot_list *list, struct slot *slot)
{
    const uint32_t index = (uint32_t)(slot - d->slots);

    slot->next = NO_SLOT;
    slot->previous = list->last;
    if (list->last == NO_SLOT)
        list->first = index;
    else
        d->slots[list->last].next = index;
    list->last = index;
    list->count++;
}

void list_prepend(struct dispatch *d, struct slot_list *list, struct slot *slot)
{
    const uint32_t index = (uint32_t)(slot - d->slots);

    slot->previous = NO_SLOT;
    slot->next = list->first;
    if (list->first == NO_SLOT)
        list->last = index;
    else
        d->slots[list->first].previous = index;
    list->first = index;
    list->count++;
}

void list_remove(struct dispatch *d, struct slot_list *list, struct slot *slot)
{
    if (slot->previous == NO_SLOT)
        list->first = slot->next;
    else
        d->slots[slot->previous].next = slot->next;
    if (slot->next == NO_SLOT)
        list->last = slot->previous;
    else
        d->slots[slot->next].previous = slot->previous;
    list->count--;
}

struct slot *slot_of_request(struct dispatch *d, uint64_t request_id, enum role role)
{
    const uint64_t index = request_id & ((1u << SLOT_BITS) - 1u);
    struct slot *slot;

    if (index >= d->slot_count)
        return NULL;
    slot = &d->slots[index];
    if (slot->call == NULL || slot->is_queued || slot->role != role || slot->generation != request_id >> SLOT_BITS)
        return NULL;
    return slot;
}

/* --- the event ----------------------------------------------------------------------------- */

/* Both texts are rows of messages.def with room for what is copied here; a longer one is cut. */
static void set_text(char *to, size_t size, const char *text)
{
    const size_t length = strnlen(text, size - 1);

    memcpy(to, text, length);
    to[length] = '\0';
}

static bool is_refusal(enum err err)
{
    const int status = err_http_status(err);

    return status >= 400 && status < 500;
}

static void describe_success(struct call *call)
{
    struct audit_event *event = &call->event;

    if (call->status_if_ok != 0)
        event->status = call->status_if_ok;
    if ((call->steps & CALL_MANAGE) != 0) {
        event->status = call->reply.status;
        set_text(event->outcome, sizeof event->outcome,
                 call->reply.status < 400 ? "allowed" : call->reply.status < 500 ? "refused" : "failed");
        set_text(event->reason, sizeof event->reason, call->reply.status < 400 ? "" : call->reply.code);
    }
    if (event->outcome[0] == '\0')
        set_text(event->outcome, sizeof event->outcome, "allowed");
}

static void describe_refusal(struct call *call)
{
    struct audit_event *event = &call->event;
    const bool is_verdict = call->verdict.error != ERR_OK && call->verdict.reason[0] != '\0';

    set_text(event->event, sizeof event->event, "request");
    set_text(event->outcome, sizeof event->outcome, is_refusal(call->err) ? "refused" : "failed");
    set_text(event->reason, sizeof event->reason, is_verdict ? call->verdict.reason : err_code(call->err));
    event->status = (uint64_t)err_http_status(call->err);
}

/* What was decided with a part of the gateway missing must show in the trail (design: marked, counted and audited). */
static void describe_degraded(struct call *call)
{
    struct audit_event *event = &call->event;

    if (call->verdict.stale)
        metric_add(METRIC_degraded_stale, 1);
    if (call->charge.degraded)
        metric_add(METRIC_degraded_ratelimit, 1);
    if ((call->verdict.stale || call->charge.degraded) && event->details[0] == '\0')
        snprintf(event->details, sizeof event->details, "{\"degraded\":[%s%s%s]}",
                 call->verdict.stale ? "\"authz_stale\"" : "", call->verdict.stale && call->charge.degraded ? "," : "",
                 call->charge.degraded ? "\"ratelimit\"" : "");
}

/* What would have been refused shows in the trail (design: observe is counted and audited). */
static void describe_observed(struct call *call)
{
    struct audit_event *event = &call->event;

    if (event->reason[0] == '\0')
        set_text(event->reason, sizeof event->reason,
                 call->verdict.error != ERR_OK && call->verdict.reason[0] != '\0' ? call->verdict.reason : err_code(call->observed));
    snprintf(event->details, sizeof event->details, "{\"observed\":%d}", err_http_status(call->observed));
}

static void describe_call(const struct dispatch *d, struct call *call)
{
    struct audit_event *event = &call->event;

    if (call->err == ERR_OK)
        describe_success(call);
    else
        describe_refusal(call);
    if (call->err == ERR_OK && call->observed != ERR_OK)
        describe_observed(call);
    if (call->started_us != 0)
        event->latency_us = d->now_us > call->started_us ? d->now_us - call->started_us : 0;
    if ((call->steps & CALL_VERDICT) == 0)
        return;
    set_text(event->user_id, sizeof event->user_id, call->verdict.user_id);
    set_text(event->tenant_id, sizeof event->tenant_id, call->verdict.tenant_id);
    set_text(event->key_id, sizeof event->key_id, call->verdict.key_id);
    event->auth_method = call->verdict.auth_method != 0 ? call->verdict.auth_method : call->verdict_request.method;
    describe_degraded(call);
    details_describe(call, d->options.lookup_key);
}

static void count_attempt(const struct call *call)
{
#define ROW(method) { METRIC_auth_##method##_allowed, METRIC_auth_##method##_unverified, METRIC_auth_##method##_denied, \
                      METRIC_auth_##method##_limited, METRIC_auth_##method##_unavailable }
    static const enum metric rows[][5] = { [AUTH_API_KEY] = ROW(key), [AUTH_OAUTH] = ROW(oauth), [AUTH_SESSION] = ROW(session) };
#undef ROW
    const uint64_t method = call->verdict_request.method;
    const unsigned outcome = call->err == ERR_OK             ? 0
                             : call->err == ERR_UNVERIFIED   ? 1
                             : call->err == ERR_DENIED       ? 2
                             : call->err == ERR_RATE_LIMITED || call->err == ERR_USAGE_EXCEEDED ? 3
                                                             : 4;

    if ((call->steps & CALL_VERDICT) != 0 && call->err != ERR_TOOL_WANTED && method >= AUTH_API_KEY && method <= AUTH_SESSION)
        metric_add(rows[method][outcome], 1);
}

void calls_tell(void)
{
    static const enum metric decided[] = { METRIC_auth_key_allowed, METRIC_auth_key_limited, METRIC_auth_oauth_allowed,
                                           METRIC_auth_oauth_limited, METRIC_auth_session_allowed, METRIC_auth_session_limited };
    const uint64_t failed = metric_get(METRIC_auth_key_unavailable) + metric_get(METRIC_auth_oauth_unavailable)
                            + metric_get(METRIC_auth_session_unavailable) + metric_get(METRIC_refused_audit);
    uint64_t good = 0;

    for (size_t i = 0; i < sizeof decided / sizeof decided[0]; i++)
        good += metric_get(decided[i]);
    metric_set(METRIC_auth_valid_success, good + failed == 0 ? 1000000 : good * 1000000 / (good + failed));
}

/* --- steps ---------------------------------------------------------------------------------- */

void call_end_early(struct dispatch *d, struct call *call, enum err err)
{
    call->err = err;
    count_attempt(call);
    if (call->observes && call->object_err == ERR_OK && (err == ERR_UNVERIFIED || err == ERR_DENIED || err == ERR_RATE_LIMITED)) {
        call->observed = err;
        call->err = ERR_OK;
    }
    if (call->started_us != 0 && d->now_us > call->started_us)
        histogram_observe_us(HISTOGRAM_request_latency, d->now_us - call->started_us);
    if ((call->steps & CALL_RECORD) != 0)
        describe_call(d, call);
    call->own.next = NULL;
    if (d->last_answer == NULL)
        d->answers = call;
    else
        d->last_answer->own.next = call;
    d->last_answer = call;
}

void call_end(struct dispatch *d, struct slot *slot, enum err err)
{
    struct call *call = slot->call;

    if (slot->is_queued) {
        list_remove(d, &d->queue[slot->role], slot);
    } else {
        batches_release(d, slot);
        list_remove(d, &d->flight[slot->role], slot);
    }
    slot->call = NULL;
    slot->generation++;
    list_prepend(d, &d->free_slots, slot);
    call_end_early(d, call, err);
}

static void enqueue(struct dispatch *d, struct slot *slot, enum role role)
{
    slot->role = role;
    slot->is_queued = true;
    slot->attempts = 0;
    slot->batch = NULL;
    memset(slot->workers, 0, sizeof slot->workers);
    slot->step_us = d->now_us;
    slot->deadline_us = role == ROLE_KEYS ? d->now_us + d->options.manage_ms * 1000 : slot->call->deadline_us;
    list_append(d, &d->queue[role], slot);
}

/* The slot has left its role's flight. */
static void go_on(struct dispatch *d, struct slot *slot, uint32_t done)
{
    const uint32_t steps = done == 0 ? slot->call->steps : slot->call->steps & ~(done * 2 - 1);

    if ((steps & (CALL_VERDICT | CALL_CHARGE | CALL_MANAGE)) == 0) {
        slot->is_queued = true;
        list_append(d, &d->queue[slot->role], slot);    /* call_end takes it out of a list */
        call_end(d, slot, ERR_OK);
        return;
    }
    enqueue(d, slot, (steps & CALL_VERDICT) != 0 ? ROLE_AUTHZ : (steps & CALL_CHARGE) != 0 ? ROLE_RATELIMIT : ROLE_KEYS);
}

void call_begin(struct dispatch *d, struct call *call)
{
    struct slot *slot;

    if ((call->steps & (CALL_VERDICT | CALL_CHARGE | CALL_MANAGE)) == 0) {
        call_end_early(d, call, ERR_OK);
        return;
    }
    if ((call->steps & CALL_RECORD) != 0 && !d->is_spool_available) {
        metric_add(METRIC_refused_audit, 1);
        call_end_early(d, call, ERR_AUDIT_UNAVAILABLE);
        return;
    }
    if (call->deadline_us <= d->now_us) {
        metric_add(METRIC_deadline_passed, 1);
        call_end_early(d, call, ERR_UNAVAILABLE);
        return;
    }
    slot = slot_at(d, d->free_slots.first);
    if (slot == NULL) {
        metric_add(METRIC_shed, 1);
        call_end_early(d, call, ERR_OVERLOADED);
        return;
    }
    list_remove(d, &d->free_slots, slot);
    slot->call = call;
    call->own.slot = (uint32_t)(slot - d->slots);
    slot->role = ROLE_AUTHZ;
    go_on(d, slot, 0);
}

static void leave_flight(struct dispatch *d, struct slot *slot)
{
    batches_release(d, slot);
    list_remove(d, &d->flight[slot->role], slot);
}

/* What was asked for is somebody else's, or nothing: then the best credential does not open it. */
static enum err judge_object(struct call *call)
{
    struct verdict *verdict = &call->verdict;
    const bool is_foreign =
        call->object_tenant[0] != '\0' && strcmp(call->object_tenant, verdict->tenant_id) != 0;
    const bool lacks_factor = call->needs_second_factor && !verdict->second_factor;
    const enum err err = call->object_err != ERR_OK ? call->object_err : is_foreign || lacks_factor ? ERR_DENIED : ERR_OK;

    if (err != ERR_OK) {
        verdict->error = (uint64_t)err;
        set_text(verdict->reason, sizeof verdict->reason,
                 call->object_err == ERR_OK && !is_foreign ? "second_factor" : "server");
    }
    return err;
}

/*
 * authz has not seen the token: it is asked again, once, with the token itself.  The request gets a new number, so that
 * what a second worker still says to the first question is late.
 */
static void ask_with_token(struct dispatch *d, struct slot *slot)
{
    struct call *call = slot->call;

    memset(&call->verdict, 0, sizeof call->verdict);
    if (call->token.size == 0 || call->verdict_request.token.size > 0) {
        call_end(d, slot, ERR_UNAVAILABLE);
        return;
    }
    call->verdict_request.token = call->token;
    leave_flight(d, slot);
    slot->generation++;
    enqueue(d, slot, ROLE_AUTHZ);
}

void call_verdict_came(struct dispatch *d, struct slot *slot)
{
    enum err err = err_from_wire(slot->call->verdict.error);

    if (err == ERR_TOKEN_WANTED) {
        ask_with_token(d, slot);
        return;
    }
    histogram_observe_us(HISTOGRAM_verdict_latency, d->now_us - slot->step_us);
    if (err == ERR_OK)
        err = judge_object(slot->call);
    if (err == ERR_TOOL_WANTED)
        slot->call->steps &= ~CALL_RECORD;    /* it will be asked again: not decided yet */
    if (err != ERR_OK) {
        call_end(d, slot, err);
        return;
    }
    leave_flight(d, slot);
    go_on(d, slot, CALL_VERDICT);
}

void call_charge_came(struct dispatch *d, struct slot *slot)
{
    const enum err err = err_from_wire(slot->call->charge.error);

    histogram_observe_us(HISTOGRAM_charge_latency, d->now_us - slot->step_us);
    if (err != ERR_OK) {
        call_end(d, slot, err);
        return;
    }
    leave_flight(d, slot);
    go_on(d, slot, CALL_CHARGE);
}

void call_reply_came(struct dispatch *d, struct slot *slot)
{
    leave_flight(d, slot);
    go_on(d, slot, CALL_MANAGE);
}
