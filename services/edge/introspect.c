/* introspect.c - a verdict about the key in a form, as the claims of RFC 7662 2.2. */
#include "services/edge/introspect.h"

#include <string.h>
#include <strings.h>

#include <openssl/crypto.h>

#include "common/apikey.h"
#include "common/clock.h"
#include "common/metrics.h"
#include "common/scope.h"
#include "services/edge/answer.h"
#include "services/edge/gate.h"
#include "services/edge/query.h"

#define FORM_MAX 4096u

static void refuse(struct exchange *exchange, enum err err, int status, const char *detail)
{
    metric_add(METRIC_refused_malformed, 1);
    answer_refuse_early(exchange, &(struct refusal){ .err = err, .status = status, .detail = detail }, "form");
}

/* false: refused and answered. */
static bool take_key(struct exchange *exchange, char key[APIKEY_LENGTH_MAX + 1])
{
    static const char type[] = "application/x-www-form-urlencoded";
    const struct http_field *content = http_head_find(exchange->head, HTTP_CONTENT_TYPE);
    uint8_t form[FORM_MAX + 1];
    size_t size = 0;
    enum err err;

    if (content == NULL || strncasecmp(content->value, type, sizeof type - 1) != 0) {
        refuse(exchange, ERR_MALFORMED, 415, "the body must be application/x-www-form-urlencoded (RFC 7662 2.1)");
        return false;
    }
    err = exchange_read_body(exchange, form, FORM_MAX, &size);
    form[size] = '\0';
    if (err == ERR_OK)
        err = memchr(form, '\0', size) != NULL ? ERR_MALFORMED : query_find((const char *)form, "token", key, APIKEY_LENGTH_MAX + 1);
    OPENSSL_cleanse(form, sizeof form);
    if (err == ERR_OK)
        return true;
    refuse(exchange, err == ERR_NOT_FOUND ? ERR_MALFORMED : err, 0, "the form must hold one token, of at most 256 characters");
    return false;
}

/* Who may know of it: administrators, and callers of the same tenant.  A tier is a budget, which issuers' rules give freely. */
static bool may_see(const struct verdict *caller, const struct verdict *key)
{
    return strcmp(caller->tenant_id, key->tenant_id) == 0 || (caller->scopes & SCOPE_BIT(ADMIN)) != 0;
}

static void write_claims(struct writer *body, const struct exchange *exchange, const struct verdict *key)
{
    char scopes[SCOPES_TEXT_MAX];

    writer_literal(body, "{\"active\":true,\"token_type\":\"api_key\",\"scope\":");
    writer_json(body, scopes_format(key->scopes, scopes));
    writer_literal(body, ",\"client_id\":");
    writer_json(body, key->key_id);
    writer_literal(body, ",\"sub\":");
    writer_json(body, key->user_id);
    writer_literal(body, ",\"username\":");
    writer_json(body, key->user_id);
    writer_literal(body, ",\"tenant\":");
    writer_json(body, key->tenant_id);
    if (exchange->edge->config->common.public_url[0] != '\0') {
        writer_literal(body, ",\"iss\":");
        writer_json(body, exchange->edge->config->common.public_url);
    }
    if (key->expires_s != 0) {
        writer_literal(body, ",\"exp\":");
        writer_u64(body, key->expires_s);
    }
    writer_literal(body, "}");
}

/* The verdict about the key, as the caller's request goes on.  Its address is unknown, so one bound to addresses is inactive. */
static enum err ask(struct exchange *exchange, const char *key, struct verdict *ret_verdict)
{
    struct call *call = &exchange->space->call;

    memset(call, 0, sizeof *call);
    call->steps = CALL_VERDICT;
    call->deadline_us = clock_monotonic_us() + exchange->edge->config->decision_ms * 1000;
    call->verdict_request.method = AUTH_API_KEY;
    call->verdict_request.digest_size = DIGEST_SIZE;
    apikey_digest(key, strlen(key), call->verdict_request.digest);
    dispatch_call(exchange->edge->dispatch, call);
    *ret_verdict = call->verdict;
    return call->err;
}

void introspect_answer(struct exchange *exchange, const struct route_match *match)
{
    struct writer body = writer_on(exchange->space->body, sizeof exchange->space->body);
    struct call *call = gate_prepare(exchange, match->route->scope, false);
    char key[APIKEY_LENGTH_MAX + 1] = "";
    struct verdict caller, found = { 0 };
    struct charge charge;
    struct answer answer;
    enum err err = ERR_UNVERIFIED;

    if (call == NULL || !gate_pass(exchange, call, false) || !take_key(exchange, key))
        return;
    caller = call->verdict;
    charge = call->charge;
    if (apikey_is_plausible(key, strlen(key)))
        err = ask(exchange, key, &found);
    OPENSSL_cleanse(key, sizeof key);
    if (err != ERR_OK && err != ERR_UNVERIFIED && err != ERR_DENIED) {
        answer_refuse(exchange, &(struct refusal){ .err = err });    /* a guess of "inactive" would end good sessions */
        return;
    }
    if (err == ERR_OK && may_see(&caller, &found))
        write_claims(&body, exchange, &found);
    else
        writer_literal(&body, "{\"active\":false}");    /* and nothing of why (RFC 7662 2.2) */
    answer = answer_begin(exchange, 200);
    answer_rate(&answer, &charge);
    answer_send(&answer, "application/json", body.bytes, body.size);
}
