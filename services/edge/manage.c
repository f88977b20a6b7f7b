/* manage.c - what /api/v1 takes and gives; decisions about objects and ownership are the keys service's. */
#include "services/edge/manage.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <jansson.h>
#include <openssl/crypto.h>

#include "common/apikey.h"
#include "common/cleanup.h"
#include "common/metrics.h"
#include "common/operation.h"
#include "services/edge/answer.h"
#include "services/edge/gate.h"

#define QUERY_MAX  4096u
#define LEAST_BODY 128u    /* bytes that the body of any call has room for */

DEFINE_DESTROY(json_destroy, json_t, json_decref)

static bool is_json(const struct http_field *type)
{
    static const char json[] = "application/json";
    size_t length = sizeof json - 1;

    return type != NULL && strncasecmp(type->value, json, length) == 0
           && (type->value[length] == '\0' || type->value[length] == ';' || type->value[length] == ' ');
}

static bool refuse_input(struct exchange *exchange, enum err err, int status, const char *detail, const char *reason)
{
    const struct refusal refusal = { .err = err, .status = status, .detail = detail };

    if (err == ERR_MALFORMED)
        metric_add(METRIC_refused_malformed, 1);
    else if (err == ERR_OVERLOADED)
        metric_add(METRIC_refused_overload, 1);
    answer_refuse_early(exchange, &refusal, reason);
    return false;
}

/* true: absent, or copied. */
static bool take_field(const struct exchange *exchange, enum http_name name, char *text, size_t size)
{
    const struct http_field *field = http_head_find(exchange->head, name);

    return field == NULL || (exchange->head->seen[name] == 1 && message_take_text(field->value, text, size - 1));
}

/*
 * Raw keys end here: the keys service is asked about the digest of the one to be verified.  A body that is none it refuses as it stands
 * there, without what was in it: not JSON, no object, no key, more than a key.  A text that cannot be a key is asked about as "".
 */
static size_t write_verify_body(uint8_t *body, size_t size)
{
    OWNED(json_destroy) json_t *asked = json_loadb((const char *)body, size, JSON_REJECT_DUPLICATES, NULL);
    const json_t *key = json_object_get(asked, "key");
    const size_t length = json_string_length(key);
    char text[DIGEST_TEXT_SIZE] = "", *value = (char *)(uintptr_t)json_string_value(key);
    uint8_t digest[DIGEST_SIZE];

    OPENSSL_cleanse(body, size);
    if (value == NULL)
        return (size_t)snprintf((char *)body, LEAST_BODY, "%s", asked == NULL ? "{" : json_is_object(asked) ? "{}" : "[]");
    if (apikey_is_plausible(value, length)) {
        apikey_digest(value, length, digest);
        base64url_encode(digest, sizeof digest, text);
    }
    OPENSSL_cleanse(value, length);
    return (size_t)snprintf((char *)body, LEAST_BODY, "{\"digest\":\"%s\"%s}", text, json_object_size(asked) == 1 ? "" : ",\"more\":true");
}

/* false: refused and answered. */
static bool take_input(struct exchange *exchange, const struct route_match *match, struct large *large,
                       struct manage_request *request)
{
    size_t size = 0;
    enum err err;

    if (match->object_length >= sizeof request->object)
        return refuse_input(exchange, ERR_NOT_FOUND, 0, NULL, "not_found");
    if (strlen(exchange->query) > QUERY_MAX)
        return refuse_input(exchange, ERR_MALFORMED, 0, "the query is longer than 4096 bytes", "query");
    if (exchange->head->has_body && !is_json(http_head_find(exchange->head, HTTP_CONTENT_TYPE)))
        return refuse_input(exchange, ERR_MALFORMED, 415, "the body must be application/json", "content_type");
    err = exchange_read_body(exchange, large->request, sizeof large->request, &size);
    if (err != ERR_OK)
        return refuse_input(exchange, err, 0,
                            err == ERR_MALFORMED ? "the body came incomplete, badly framed or too slowly" : NULL,
                            "body");
    if (!take_field(exchange, HTTP_IDEMPOTENCY_KEY, request->idempotency_key, sizeof request->idempotency_key)
        || !take_field(exchange, HTTP_IF_MATCH, request->if_match, sizeof request->if_match))
        return refuse_input(exchange, ERR_MALFORMED, 0,
                            "Idempotency-Key (128 bytes) or If-Match (255 bytes) is there twice, too long, or not printable ASCII",
                            "field");
    if (match->object_length > 0)
        memcpy(request->object, match->object, match->object_length);
    request->operation = (uint64_t)match->route->operation;
    if (request->operation == OPERATION_key_verify)
        size = write_verify_body(large->request, size);
    text_copy(request->request_id, sizeof request->request_id, exchange->request_id);
    text_copy(request->address, sizeof request->address, exchange->address);
    request->query = (struct view){ (const uint8_t *)exchange->query, strlen(exchange->query) };
    request->body = (struct view){ large->request, size };
    return true;
}

/* The keys service knows no HTTP: a problem document gets its requestId here. */
static size_t add_request_id(const struct exchange *exchange, uint8_t *body, size_t size, size_t capacity)
{
    struct writer end = writer_on((char *)body + size - 1, capacity - size + 1);

    writer_literal(&end, ",\"requestId\":");
    writer_json(&end, exchange->request_id);
    writer_literal(&end, "}");
    return end.is_full ? size : size - 1 + end.size;
}

static void send_reply(struct exchange *exchange, const struct call *call)
{
    const struct manage_reply *reply = &call->reply;
    int status = reply->status >= 200 && reply->status <= 599 ? (int)reply->status : 500;
    struct answer answer = answer_begin(exchange, status);
    size_t size = reply->body.size;

    if (status >= 400 && size > 2 && reply->body.bytes == call->reply_buffer && call->reply_buffer[size - 1] == '}')
        size = add_request_id(exchange, call->reply_buffer, size, sizeof exchange->space->large->reply);
    answer_rate(&answer, &call->charge);
    if (reply->etag[0] != '\0')
        answer_field(&answer, "ETag", reply->etag);
    if (status == 429 || status == 503)
        answer_field(&answer, "Retry-After", "1");
    answer_send(&answer, size == 0 ? NULL : status >= 400 ? "application/problem+json" : "application/json",
                reply->body.bytes, size);
}

void manage_answer(struct exchange *exchange, const struct route_match *match)
{
    struct large *large = exchange_large(exchange);
    struct call *call = gate_prepare(exchange, match->route->scope, false);

    if (call == NULL)
        return;
    if (large == NULL) {
        refuse_input(exchange, ERR_NO_MEMORY, 0, NULL, "memory");
        return;
    }
    if (!take_input(exchange, match, large, &call->manage_request))
        return;
    call->steps |= CALL_MANAGE;
    call->reply_buffer = large->reply;
    if (gate_pass(exchange, call, false))
        send_reply(exchange, call);
    /* a new key stands in the reply, and a token to be explained or keys to be imported in the request */
    if (call->reply.body.size > 0)
        OPENSSL_cleanse(large->reply, sizeof large->reply);
    if (call->manage_request.body.size > 0)
        OPENSSL_cleanse(large->request, call->manage_request.body.size);
    OPENSSL_cleanse(exchange->space->reply, sizeof exchange->space->reply);
}

void health_answer(struct exchange *exchange, const struct route_match *match)
{
    struct writer body = writer_on(exchange->space->body, sizeof exchange->space->body);
    struct call *call = gate_prepare(exchange, match->route->scope, false);
    struct edge *edge = exchange->edge;
    struct answer answer;
    char facts[2048];
    size_t size;

    if (call == NULL || !gate_pass(exchange, call, false))
        return;
    size = ops_describe(edge->ops, facts, sizeof facts);
    writer_literal(&body, "{\"status\":");
    writer_json(&body, ops_is_ready(edge->ops) ? "ok" : "degraded");
    writer_literal(&body, ",\"version\":\"" MCPGW_VERSION "\",\"edge\":");
    writer_bytes(&body, facts, size < sizeof facts ? size : 0);
    writer_literal(&body, ",\"workers\":{\"authz\":");
    writer_u64(&body, metric_get(METRIC_workers_authz));
    writer_literal(&body, ",\"ratelimit\":");
    writer_u64(&body, metric_get(METRIC_workers_ratelimit));
    writer_literal(&body, ",\"keys\":");
    writer_u64(&body, metric_get(METRIC_workers_keys));
    writer_literal(&body, "},\"streams\":");
    writer_u64(&body, streams_count(edge->streams));
    writer_literal(&body, ",\"servers\":");
    writer_u64(&body, servers_count(edge->servers));
    writer_literal(&body, ",\"change\":");
    writer_u64(&body, streams_applied(edge->streams));
    writer_literal(&body, "}");
    answer = answer_begin(exchange, 200);
    answer_rate(&answer, &call->charge);
    answer_send(&answer, "application/json", body.bytes, body.size);
}

void metrics_answer(struct exchange *exchange, const struct route_match *match)
{
    struct call *call = gate_prepare(exchange, match->route->scope, false);
    struct answer answer;
    char *text = NULL;
    size_t size = 0;
    FILE *out;

    if (call == NULL || !gate_pass(exchange, call, false))
        return;
    out = open_memstream(&text, &size);
    if (out != NULL) {
        metrics_print(SERVICE_EDGE, out);
        fclose(out);
    }
    answer = answer_begin(exchange, 200);
    answer_rate(&answer, &call->charge);
    answer_send(&answer, "text/plain; version=0.0.4; charset=utf-8", text != NULL ? text : "", size);
    free(text);
}
