/* answer.c - writes answers into the thread's buffer and hands them over in one piece. */
#include "services/edge/answer.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "common/metrics.h"
#include "services/edge/challenge.h"
#include "services/edge/problem.h"

#define DATE_SIZE 32

/* IMF-fixdate, made once per second and thread. */
static const char *date_text(void)
{
    static _Thread_local char text[DATE_SIZE];
    static _Thread_local time_t of;
    time_t now = time(NULL);
    struct tm utc;

    if (now != of) {
        gmtime_r(&now, &utc);
        strftime(text, sizeof text, "%a, %d %b %Y %H:%M:%S GMT", &utc);
        of = now;
    }
    return text;
}

static void write_cors(struct answer *answer)
{
    const struct http_field *origin = http_head_find(answer->exchange->head, HTTP_ORIGIN);

    if (origin == NULL || origin->value_length > 256)
        return;
    answer_field(answer, "Access-Control-Allow-Origin", origin->value);
    answer_field(answer, "Access-Control-Expose-Headers",
                 "WWW-Authenticate, Mcp-Session-Id, MCP-Protocol-Version, X-Request-Id, Retry-After");
    answer_field(answer, "Vary", "Origin");
}

struct answer answer_begin_proxied(struct exchange *exchange, int status)
{
    struct answer answer = { .exchange = exchange, .status = status,
                             .head = writer_on(exchange->space->reply, sizeof exchange->space->reply) };

    writer_literal(&answer.head, "HTTP/1.1 ");
    writer_u64(&answer.head, (uint64_t)status);
    writer_literal(&answer.head, " ");
    writer_text(&answer.head, problem_phrase(status));
    writer_literal(&answer.head, "\r\nX-Request-Id: ");
    writer_text(&answer.head, exchange->request_id);
    writer_literal(&answer.head, "\r\n");
    if (exchange->observes)
        answer_field(&answer, "X-Mcpgw-Enforce", "observe");
    if (exchange->would_refuse != 0) {
        writer_literal(&answer.head, "X-Mcpgw-Would-Refuse: ");
        writer_u64(&answer.head, (uint64_t)exchange->would_refuse);
        writer_literal(&answer.head, "\r\n");
    }
    if (exchange->is_public)
        answer_field(&answer, "Access-Control-Allow-Origin", "*");
    else if (exchange->is_mcp)
        write_cors(&answer);
    return answer;
}

struct answer answer_begin(struct exchange *exchange, int status)
{
    struct answer answer = answer_begin_proxied(exchange, status);

    writer_literal(&answer.head, "Date: ");
    writer_text(&answer.head, date_text());
    writer_literal(&answer.head, "\r\nCache-Control: no-store\r\n");
    return answer;
}

void answer_field(struct answer *answer, const char *name, const char *value)
{
    writer_text(&answer->head, name);
    writer_literal(&answer->head, ": ");
    writer_text(&answer->head, value);
    writer_literal(&answer->head, "\r\n");
}

void answer_rate(struct answer *answer, const struct charge *charge)
{
    struct writer *head = &answer->head;
    const char *policy = charge->policy[0] != '\0' ? charge->policy : "default";
    uint64_t reset_s = (charge->reset_ms + 999) / 1000;

    if (charge->limit == 0)
        return;
    writer_literal(head, "RateLimit-Policy: \"");
    writer_text(head, policy);
    writer_literal(head, "\";q=");
    writer_u64(head, charge->limit);
    writer_literal(head, ";w=");
    writer_u64(head, charge->window_s);
    writer_literal(head, "\r\nRateLimit: \"");
    writer_text(head, policy);
    writer_literal(head, "\";r=");
    writer_u64(head, charge->remaining);
    writer_literal(head, ";t=");
    writer_u64(head, reset_s);
    writer_literal(head, "\r\nX-RateLimit-Limit: ");
    writer_u64(head, charge->limit);
    writer_literal(head, "\r\nX-RateLimit-Remaining: ");
    writer_u64(head, charge->remaining);
    writer_literal(head, "\r\nX-RateLimit-Reset: ");
    writer_u64(head, reset_s);
    writer_literal(head, "\r\n");
}

static void count_status(int status)
{
    if (status < 300)
        metric_add(METRIC_http_2xx, 1);
    else if (status < 400)
        metric_add(METRIC_http_3xx, 1);
    else if (status < 500)
        metric_add(METRIC_http_4xx, 1);
    else
        metric_add(METRIC_http_5xx, 1);
}

void answer_note(struct exchange *exchange, int status)
{
    exchange->status = status;
    count_status(status);
}

void answer_send(struct answer *answer, const char *content_type, const void *body, size_t size)
{
    struct exchange *exchange = answer->exchange;
    struct writer *head = &answer->head;

    if (content_type != NULL)
        answer_field(answer, "Content-Type", content_type);
    if (answer->status != 204) {
        writer_literal(head, "Content-Length: ");
        writer_u64(head, size);
        writer_literal(head, "\r\n");
    }
    if (exchange_settle_close(exchange))
        writer_literal(head, "Connection: close\r\n");
    else if (exchange->head->is_http10)
        writer_literal(head, "Connection: keep-alive\r\n");
    writer_literal(head, "\r\n");
    answer_note(exchange, answer->status);
    if (head->is_full) {
        exchange->is_broken = true;    /* our own fields are bounded, so this is a bug; nothing half-written goes out */
        return;
    }
    if (exchange->is_head)
        size = 0;
    if (size <= head->capacity - head->size) {
        writer_bytes(head, body, size);
        exchange_send(exchange, head->bytes, head->size);
        return;
    }
    exchange_send(exchange, head->bytes, head->size);
    exchange_send(exchange, body, size);
}

static void write_retry(struct answer *answer, const struct refusal *refusal, int status)
{
    uint64_t seconds = 1;

    if (status != 429 && status != 503)
        return;
    if (refusal->charge != NULL && refusal->charge->reset_ms > 1000)
        seconds = (refusal->charge->reset_ms + 999) / 1000;
    writer_literal(&answer->head, "Retry-After: ");
    writer_u64(&answer->head, seconds);
    writer_literal(&answer->head, "\r\n");
}

/* Whose limit it was. */
static const char *detail_of_limit(const char *policy)
{
    if (strcmp(policy, "tenant") == 0)
        return "all callers of the tenant together have spent its limit";
    if (strcmp(policy, "user") == 0)
        return "the user has spent the limit of the tenant's users, with all keys, tokens and sessions";
    if (strcmp(policy, "key") == 0)
        return "the key has spent its own limit";
    return "the caller has spent the limit of its tier";
}

void answer_refuse(struct exchange *exchange, const struct refusal *refusal)
{
    int status = refusal->status != 0 ? refusal->status : err_http_status(refusal->err);
    int shown = refusal->for_nginx && status != 401 ? 403 : status;
    bool as_rpc = exchange->is_mcp && (status == 429 || status >= 502);
    struct answer answer = answer_begin(exchange, shown);
    struct writer body = writer_on(exchange->space->body, sizeof exchange->space->body);

    challenge_write(&answer.head, exchange, refusal);
    write_retry(&answer, refusal, status);
    if (refusal->charge != NULL)
        answer_rate(&answer, refusal->charge);
    if (refusal->allow != NULL)
        answer_field(&answer, "Allow", refusal->allow);
    if (shown != status) {
        writer_literal(&answer.head, "X-Mcpgw-Status: ");
        writer_u64(&answer.head, (uint64_t)status);
        writer_literal(&answer.head, "\r\n");
    }
    if (as_rpc)
        problem_write_rpc(&body, refusal->err, status, refusal->detail, exchange->request_id);
    else
        problem_write(&body, refusal->err, status, refusal->detail, exchange->request_id);
    if (refusal->charge != NULL && refusal->charge->policy[0] != '\0')
        problem_extend(&body, as_rpc, "policy", refusal->charge->policy);
    if (exchange->is_mcp)
        challenge_extend_body(&body, refusal);
    answer_send(&answer, as_rpc ? "application/json" : "application/problem+json", body.bytes, body.size);
}

void answer_refuse_early(struct exchange *exchange, const struct refusal *refusal, const char *reason)
{
    int status = refusal->status != 0 ? refusal->status : err_http_status(refusal->err);

    dispatch_count_refusal(exchange->edge->dispatch, exchange->address, reason, (unsigned)status);
    answer_refuse(exchange, refusal);
}

void answer_refuse_call(struct exchange *exchange, const struct call *call, uint64_t needed_scopes, bool for_nginx)
{
    struct refusal refusal = { .err = call->err, .needed_scopes = needed_scopes, .is_invalid_credential = true,
                               .for_nginx = for_nginx, .lacks_scope = strcmp(call->verdict.reason, "scope") == 0,
                               .lacks_factor = strcmp(call->verdict.reason, "second_factor") == 0 };

    if (call->err == ERR_RATE_LIMITED) {
        refusal.charge = &call->charge;
        refusal.detail = detail_of_limit(call->charge.policy);
    }
    answer_refuse(exchange, &refusal);
}

size_t answer_format_unreadable(char *buffer, size_t size, enum err err, int status, const char *request_id)
{
    char text[512];
    struct writer body = writer_on(text, sizeof text);
    struct writer out = writer_on(buffer, size);

    count_status(status);
    problem_write(&body, err, status, NULL, request_id);
    writer_literal(&out, "HTTP/1.1 ");
    writer_u64(&out, (uint64_t)status);
    writer_literal(&out, " ");
    writer_text(&out, problem_phrase(status));
    writer_literal(&out, "\r\nDate: ");
    writer_text(&out, date_text());
    writer_literal(&out, "\r\nX-Request-Id: ");
    writer_text(&out, request_id);
    writer_literal(&out, "\r\nContent-Type: application/problem+json\r\nConnection: close\r\nContent-Length: ");
    writer_u64(&out, body.size);
    writer_literal(&out, "\r\n\r\n");
    writer_bytes(&out, body.bytes, body.size);
    return out.is_full ? 0 : out.size;
}
