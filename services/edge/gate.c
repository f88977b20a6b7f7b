/* gate.c - the way every route but OPEN ones takes.  Doubt is denial. */
#include "services/edge/gate.h"

#include <stdio.h>
#include <string.h>

#include <strings.h>

#include "common/metrics.h"
#include "common/scope.h"
#include "services/edge/answer.h"
#include "services/edge/credentials.h"
#include "services/edge/own_auth.h"
#include "services/edge/path_list.h"

void gate_copy_text(char *into, size_t size, const char *text)
{
    size_t length = strlen(text), count = length < size ? length : size - 1;

    for (size_t i = 0; i < count; i++)
        into[i] = text[i] >= 0x20 && text[i] < 0x7f ? text[i] : '?';
    if (length >= size)
        memcpy(into + count - 3, "...", 3);
    into[count] = '\0';
}

static const char *detail_of(const char *reason)
{
    static const struct { const char *reason, *detail; } rows[] = {
        { "two_credentials", "two credentials of one kind" },
        { "token_in_query", "access_token in the query is refused, because URLs are logged: send Authorization: Bearer" },
        { "origin", "a session cookie counts only from pages of this host, public_url or allowed_origins" },
    };

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (strcmp(rows[i].reason, reason) == 0)
            return rows[i].detail;
    return NULL;
}

static void refuse_credential(struct exchange *exchange, enum err err, const char *reason, uint64_t needed,
                              bool for_nginx)
{
    bool is_absent = strcmp(reason, "no_credential") == 0;
    const struct refusal refusal = { .err = err,
                                     .needed_scopes = needed,
                                     .is_invalid_credential = !is_absent,
                                     .for_nginx = for_nginx,
                                     .detail = detail_of(reason) };

    if (err == ERR_MALFORMED)
        metric_add(METRIC_refused_malformed, 1);
    else if (is_absent)
        metric_add(METRIC_auth_none, 1);
    else
        metric_add(METRIC_refused_checksum, 1);
    answer_refuse_early(exchange, &refusal, reason);
}

static bool is_safe_method(const char *method)
{
    return strcasecmp(method, "GET") == 0 || strcasecmp(method, "HEAD") == 0;
}

/* Another proxy that asks for a verdict tells what was asked of it. */
static bool is_safe_request(const struct exchange *exchange)
{
    static const enum http_name originals[] = { HTTP_X_FORWARDED_METHOD, HTTP_X_ORIGINAL_METHOD };
    bool is_safe = is_safe_method(exchange->method);

    for (size_t i = 0; i < sizeof originals / sizeof originals[0] && exchange->peer_is_trusted; i++)
        if (exchange->head->seen[originals[i]] > 0)
            is_safe = is_safe && exchange->head->seen[originals[i]] == 1
                      && is_safe_method(http_head_find(exchange->head, originals[i])->value);
    return is_safe;
}

/* The name our host has for the client. */
static const char *host_of(const struct exchange *exchange)
{
    const struct http_head *head = exchange->head;

    if (exchange->peer_is_trusted && head->seen[HTTP_X_FORWARDED_HOST] == 1)
        return http_head_find(head, HTTP_X_FORWARDED_HOST)->value;
    return http_head_find(head, HTTP_HOST)->value;
}

static bool is_same_site(const struct exchange *exchange)
{
    const struct edge_config *config = exchange->edge->config;
    const struct same_site site = { .allowed = config->allowed_origins, .public_url = config->common.public_url,
                                    .host = host_of(exchange), .is_safe_method = is_safe_request(exchange) };

    return credentials_are_same_site(exchange->head, &site);
}

static enum err find_credential(const struct exchange *exchange, struct credential *ret_credential,
                                const char **reterr_reason)
{
    enum err err;

    *reterr_reason = "token_in_query";
    if (credentials_are_in_query(exchange->query))
        return ERR_MALFORMED;
    err = credentials_find(exchange->head, exchange->edge->config->session_cookie, ret_credential, reterr_reason);
    if (err != ERR_OK || ret_credential->method != AUTH_SESSION)
        return err;
    *reterr_reason = "origin";
    return is_same_site(exchange) ? ERR_OK : ERR_DENIED;
}

/* The parts of a call that every request has. */
static struct call *begin_call(struct exchange *exchange)
{
    struct call *call = &exchange->space->call;
    const struct edge_config *config = exchange->edge->config;

    memset(call, 0, sizeof *call);
    call->started_us = exchange->started_us;
    call->deadline_us = exchange->started_us + config->decision_ms * 1000;
    call->status_if_ok = 200;
    call->on_failure = config->limit_locally ? 1 : 0;
    call->observes = exchange->observes;
    text_copy(call->event.event, sizeof call->event.event, "request");
    text_copy(call->event.request_id, sizeof call->event.request_id, exchange->request_id);
    text_copy(call->event.address, sizeof call->event.address, exchange->address);
    gate_copy_text(call->event.method, sizeof call->event.method, exchange->method);
    gate_copy_text(call->event.path, sizeof call->event.path, exchange->path);
    return call;
}

/* Another proxy's question about a server is guarded as the server's own path is. */
static bool needs_second_factor(const struct exchange *exchange, const struct server_entry *server)
{
    const char *paths = exchange->edge->config->second_factor_paths;
    char path[sizeof "/mcp/" + sizeof server->slug];

    if (path_list_has(paths, exchange->path))
        return true;
    if (server == NULL)
        return false;
    snprintf(path, sizeof path, "/mcp/%s", server->slug);
    return server->second_factor || path_list_has(paths, path);
}

/* A request that would be refused before authz is asked, let through: it is recorded as any other. */
static struct call *observe_refusal(struct exchange *exchange, enum err err, const char *reason)
{
    struct call *call = begin_call(exchange);

    call->steps = CALL_RECORD;
    call->observed = err;
    text_copy(call->event.reason, sizeof call->event.reason, reason);
    return call;
}

struct call *gate_prepare_for(struct exchange *exchange, uint64_t needed_scopes, bool for_nginx, const struct server_entry *server,
                              bool is_unknown)
{
    const struct edge_config *config = exchange->edge->config;
    struct credential credential = { 0 };
    const char *reason = NULL;
    enum err err = find_credential(exchange, &credential, &reason);
    struct call *call;

    exchange->observes = !is_unknown && ((server != NULL && server->observes) || path_list_has(config->observe_paths, exchange->path));
    if (err != ERR_OK && err != ERR_MALFORMED && exchange->observes)
        return observe_refusal(exchange, err, reason);
    if (err != ERR_OK) {
        refuse_credential(exchange, err, reason, needed_scopes, for_nginx);
        return NULL;
    }
    if (server != NULL && server->own_auth && credential.beside != NULL
        && own_auth_is_for(credential.text, credential.length, server->resource))
        credential = (struct credential){ .method = AUTH_API_KEY, .text = credential.beside, .length = credential.beside_length };
    call = begin_call(exchange);
    call->steps = CALL_VERDICT | CALL_CHARGE | CALL_RECORD;
    call->needs_second_factor = needs_second_factor(exchange, server);
    call->verdict_request.needed = needed_scopes;
    credentials_digest(&credential, &call->verdict_request);
    if (credential.method != AUTH_API_KEY)
        call->token = (struct view){ (const uint8_t *)credential.text, credential.length };
    text_copy(call->verdict_request.address, sizeof call->verdict_request.address, exchange->address);
    return call;
}

struct call *gate_prepare(struct exchange *exchange, uint64_t needed_scopes, bool for_nginx)
{
    return gate_prepare_for(exchange, needed_scopes, for_nginx, NULL, false);
}

/* What was let through carries no identity that did not verify. */
static void mark_observed(struct exchange *exchange, struct call *call)
{
    exchange->would_refuse = err_http_status(call->observed);
    metric_add(METRIC_observed, 1);
    if (call->observed == ERR_UNVERIFIED)
        memset(&call->verdict, 0, sizeof call->verdict);
}

/* Let through, if only because nothing is enforced here. */
static bool has_passed(struct exchange *exchange, struct call *call)
{
    if (call->err == ERR_OK && call->observed != ERR_OK)
        mark_observed(exchange, call);
    return call->err == ERR_OK;
}

static void answer_call(struct exchange *exchange)
{
    struct call *call = &exchange->space->call;

    if (has_passed(exchange, call))
        exchange->answer(exchange);
    else
        answer_refuse_call(exchange, call, call->verdict_request.needed, exchange->for_nginx);
}

void gate_answer(struct exchange *exchange, struct call *call, bool for_nginx, exchange_answer_fn *answer)
{
    exchange->answer = answer;
    exchange->for_nginx = for_nginx;
    if (exchange_defer(exchange, answer_call))
        return;
    dispatch_call(exchange->edge->dispatch, call);
    answer_call(exchange);
}

bool gate_pass(struct exchange *exchange, struct call *call, bool for_nginx)
{
    dispatch_call(exchange->edge->dispatch, call);
    if (has_passed(exchange, call))
        return true;
    if (call->err != ERR_TOOL_WANTED)
        answer_refuse_call(exchange, call, call->verdict_request.needed, for_nginx);
    return false;
}
