/*
 * forward_auth.c - the hot path: one credential, one call, one answer written by hand into the thread's buffer.
 *
 * nginx auth_request, Traefik ForwardAuth, Caddy forward_auth, Envoy ext_authz and HAProxy ask here.  All identity
 * fields are always set, so that a proxy which copies them replaces whatever its client sent.
 */
#include "services/edge/forward_auth.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "common/scope.h"
#include "services/edge/answer.h"
#include "services/edge/gate.h"
#include "services/edge/identity.h"
#include "services/edge/query.h"

static void write_scopes(struct writer *writer, uint64_t scopes)
{
    bool is_first = true;

    writer_literal(writer, "[");
    for (unsigned i = 0; i < SCOPE_COUNT; i++) {
        if ((scopes >> i & 1) == 0)
            continue;
        if (!is_first)
            writer_literal(writer, ",");
        writer_literal(writer, "\"");
        writer_text(writer, scope_text((enum scope)i));
        writer_literal(writer, "\"");
        is_first = false;
    }
    writer_literal(writer, "]");
}

static void write_moment(struct writer *writer, uint64_t unix_s)
{
    time_t moment = (time_t)unix_s;
    char text[32] = "";
    struct tm utc;

    if (unix_s == 0 || gmtime_r(&moment, &utc) == NULL
        || strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &utc) == 0) {
        writer_literal(writer, "null");
        return;
    }
    writer_json(writer, text);
}

void context_write(struct writer *writer, const struct verdict *verdict, const char *request_id)
{
    writer_literal(writer, "{\"userId\":");
    writer_json(writer, verdict->user_id);
    writer_literal(writer, ",\"tenantId\":");
    writer_json(writer, verdict->tenant_id);
    writer_literal(writer, ",\"authMethod\":\"");
    writer_text(writer, auth_method_text(verdict->auth_method));
    writer_literal(writer, "\",\"scopes\":");
    write_scopes(writer, verdict->scopes);
    writer_literal(writer, ",\"rateLimitTier\":\"");
    writer_text(writer, tier_text(verdict->tier));
    writer_literal(writer, "\",\"keyId\":");
    writer_json(writer, verdict->key_id);
    writer_literal(writer, ",\"expiresAt\":");
    write_moment(writer, verdict->expires_s);
    writer_literal(writer, ",\"requestId\":");
    writer_json(writer, request_id);
    writer_literal(writer, "}");
}

/* For the server that was named; empty without one, so that no client's copy stays. */
static void write_token(struct answer *answer, const struct verdict *verdict, const char *server)
{
    struct identity *identity = answer->exchange->edge->identity;
    char token[IDENTITY_TOKEN_SIZE] = "";

    if (identity != NULL && server[0] != '\0' && identity_token(identity, verdict, server, token) != ERR_OK)
        token[0] = '\0';
    answer_field(answer, "X-Mcpgw-Identity", token);
}

static void write_identity(struct answer *answer, const struct verdict *verdict)
{
    struct writer *head = &answer->head;
    char scopes[SCOPES_TEXT_MAX];

    writer_literal(head, "X-Mcpgw-User: ");
    writer_text(head, verdict->user_id);
    writer_literal(head, "\r\nX-Mcpgw-Tenant: ");
    writer_text(head, verdict->tenant_id);
    writer_literal(head, "\r\nX-Mcpgw-Auth-Method: ");
    writer_text(head, auth_method_text(verdict->auth_method));
    writer_literal(head, "\r\nX-Mcpgw-Scopes: ");
    writer_text(head, scopes_format(verdict->scopes, scopes));
    writer_literal(head, "\r\nX-Mcpgw-Key-Id: ");
    writer_text(head, verdict->key_id);
    writer_literal(head, "\r\nX-Mcpgw-Rate-Tier: ");
    writer_text(head, tier_text(verdict->tier));
    writer_literal(head, "\r\nX-Mcpgw-Request-Id: ");
    writer_text(head, answer->exchange->request_id);
    writer_literal(head, "\r\n");
}

/* What the original caller needs, from the query. */
struct need {
    uint64_t scopes;
    char server[65], tool[129];
    bool for_nginx;
};

static enum err parse_scopes(const char *text, uint64_t *ret_scopes)
{
    uint64_t scopes = 0;

    while (*text != '\0') {
        size_t length;
        enum scope scope;

        text += strspn(text, ", ");
        length = strcspn(text, ", ");
        if (length == 0)
            break;
        if (!scope_parse(text, length, &scope))
            return ERR_MALFORMED;
        scopes |= UINT64_C(1) << scope;
        text += length;
    }
    *ret_scopes = scopes;
    return scopes != 0 ? ERR_OK : ERR_MALFORMED;    /* an empty variable of a proxy must not open what it was to guard */
}

static enum err parse_need(const char *query, struct need *ret_need)
{
    struct need need = { 0 };
    char text[129];
    enum err err;

    if (*query != '\0') {
        err = query_find(query, "nginx", text, sizeof text);
        need.for_nginx = err == ERR_OK && strcmp(text, "1") == 0;
        *ret_need = need;
        if (err == ERR_MALFORMED)
            return err;
        err = query_find(query, "scope", text, sizeof text);
        if (err == ERR_OK)
            err = parse_scopes(text, &need.scopes);
        if (err == ERR_MALFORMED)
            return err;
        err = query_find(query, "server", need.server, sizeof need.server);
        if (err == ERR_MALFORMED || (err == ERR_OK && need.server[0] == '\0'))
            return ERR_MALFORMED;
        err = query_find(query, "tool", need.tool, sizeof need.tool);
        if (err == ERR_MALFORMED || (err == ERR_OK && (need.tool[0] == '\0' || need.server[0] == '\0')))
            return ERR_MALFORMED;
    }
    *ret_need = need;
    return ERR_OK;
}

/*
 * The server a caller asks about opens to whom /mcp/{server} opens it.  One that is not registered opens to nobody; 403
 * tells it, because proxies make an error of their own of any other refusal.
 */
static void need_server(const struct need *need, enum err found, const struct server_entry *server, struct call *call)
{
    const char *slug = need->server;

    if (slug[0] == '\0')
        return;
    text_copy(call->verdict_request.server, sizeof call->verdict_request.server, slug);
    text_copy(call->event.server, sizeof call->event.server, slug);
    text_copy(call->verdict_request.tool, sizeof call->verdict_request.tool, need->tool);
    text_copy(call->event.tool, sizeof call->event.tool, need->tool);
    call->object_err = found == ERR_NOT_FOUND ? ERR_DENIED : found;
    if (found == ERR_OK)
        text_copy(call->object_tenant, sizeof call->object_tenant, server->tenant_id);
}

/* The path of a URI or URL, without query and origin. */
static void copy_original_path(struct audit_event *event, const char *uri)
{
    char path[sizeof event->path + 8];
    const char *scheme = strstr(uri, "://");
    size_t length;

    if (uri[0] != '/' && scheme != NULL)
        uri = scheme + 3 + strcspn(scheme + 3, "/");
    length = strcspn(uri, "?#");
    if (length >= sizeof path)
        length = sizeof path - 1;
    memcpy(path, uri, length);
    path[length] = '\0';
    gate_copy_text(event->path, sizeof event->path, path);
}

/* NULL when it is absent, or twice: then one is the client's, and nobody knows which. */
static const struct http_field *find_single(const struct http_head *head, const enum http_name *names, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (head->seen[names[i]] > 0)
            return head->seen[names[i]] == 1 ? http_head_find(head, names[i]) : NULL;
    }
    return NULL;
}

/* A configured proxy tells what was asked of it; from anybody else the fields mean nothing. */
static void take_originals(struct exchange *exchange, const struct route_match *match, struct audit_event *event)
{
    static const enum http_name uris[] = { HTTP_X_FORWARDED_URI, HTTP_X_ORIGINAL_URI, HTTP_X_ORIGINAL_URL };
    static const enum http_name methods[] = { HTTP_X_FORWARDED_METHOD, HTTP_X_ORIGINAL_METHOD };
    const struct http_field *field;

    if (!exchange->peer_is_trusted)
        return;
    field = find_single(exchange->head, methods, sizeof methods / sizeof methods[0]);
    if (field != NULL && http_is_token(field->value, field->value_length))
        gate_copy_text(event->method, sizeof event->method, field->value);
    field = find_single(exchange->head, uris, sizeof uris / sizeof uris[0]);
    if (field != NULL)
        copy_original_path(event, field->value);
    else if (match->rest[0] != '\0')
        copy_original_path(event, match->rest);
}

static void answer_identity(struct exchange *exchange)
{
    struct writer body = writer_on(exchange->space->body, sizeof exchange->space->body);
    const struct call *call = &exchange->space->call;
    struct answer answer = answer_begin(exchange, 200);

    context_write(&body, &call->verdict, exchange->request_id);
    write_identity(&answer, &call->verdict);
    write_token(&answer, &call->verdict, call->verdict_request.server);
    answer_rate(&answer, &call->charge);
    answer_send(&answer, "application/json", body.bytes, body.size);
}

void forward_auth_answer(struct exchange *exchange, const struct route_match *match)
{
    struct server_entry server;
    struct need need;
    struct call *call;
    enum err found = ERR_NOT_FOUND;

    if (parse_need(exchange->query, &need) != ERR_OK) {
        const struct refusal refusal = {
            .err = ERR_MALFORMED,
            .for_nginx = need.for_nginx,
            .detail = "scope, server, tool or nginx in the query is empty, unknown, repeated or badly escaped, or tool has no server"
        };

        answer_refuse_early(exchange, &refusal, "query");
        return;
    }
    if (need.server[0] != '\0')
        found = servers_find(exchange->edge->servers, need.server, &server);
    if (found == ERR_OK && server.resource[0] != '\0') {    /* what its clients know it by, for the challenge */
        text_copy(exchange->space->resource, sizeof exchange->space->resource, server.resource);
        exchange->resource = exchange->space->resource;
    }
    call = gate_prepare_for(exchange, need.scopes, need.for_nginx, found == ERR_OK ? &server : NULL,
                            need.server[0] != '\0' && found != ERR_OK);
    if (call == NULL)
        return;
    need_server(&need, found, &server, call);
    take_originals(exchange, match, &call->event);
    exchange->stays = need.server[0] != '\0' && exchange->edge->identity != NULL;    /* a token may have to be signed */
    gate_answer(exchange, call, need.for_nginx, answer_identity);
}

static void answer_context(struct exchange *exchange)
{
    struct writer body = writer_on(exchange->space->body, sizeof exchange->space->body);
    const struct call *call = &exchange->space->call;
    struct answer answer = answer_begin(exchange, 200);

    context_write(&body, &call->verdict, exchange->request_id);
    answer_rate(&answer, &call->charge);
    answer_send(&answer, "application/json", body.bytes, body.size);
}

void context_answer(struct exchange *exchange, const struct route_match *match)
{
    struct call *call = gate_prepare(exchange, match->route->scope, false);

    if (call != NULL)
        gate_answer(exchange, call, false, answer_context);
}
