/* metadata.c - the documents that tell MCP clients where to get a token. */
#include "services/edge/metadata.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "common/scope.h"
#include "services/edge/answer.h"
#include "services/edge/query.h"

#define WELL_KNOWN "/.well-known/oauth-protected-resource"
#define MCP        "/mcp/"
#define URL_MAX    400u

struct metadata {
    char base[URL_MAX + 1];              /* public_url without a closing slash */
    const struct issuers *issuers;
    const struct issuer *first;          /* that is advertised; NULL: there is no metadata */
    bool has_origin_resource;
};

/* An http or https URL without query and fragment, of letters that need no escape anywhere. */
static bool is_url(const char *url, size_t length)
{
    const size_t skip = length > 8 && memcmp(url, "https://", 8) == 0 ? 8 : length > 7 && memcmp(url, "http://", 7) == 0 ? 7 : 0;

    if (skip == 0 || length > URL_MAX || url[skip] == '/')
        return false;
    for (size_t i = 0; i < length; i++) {
        if (!isalnum((unsigned char)url[i]) && strchr("-._~:/[]@!$&'()*+;=%", url[i]) == NULL)
            return false;
    }
    return true;
}

static const struct issuer *first_advertised(const struct issuers *issuers)
{
    for (size_t i = 0; issuers != NULL && i < issuers->count; i++)
        if (issuers->list[i].advertise)
            return &issuers->list[i];
    return NULL;
}

enum err metadata_new(const char *public_url, const struct issuers *issuers, bool has_origin_resource,
                      struct metadata **ret_metadata, char *reterr, size_t reterr_size)
{
    struct metadata *metadata;
    size_t length = strlen(public_url);

    while (length > 0 && public_url[length - 1] == '/')
        length--;
    if (length > 0 && !is_url(public_url, length)) {
        snprintf(reterr, reterr_size, "public_url: %.100s: the https URL that clients use is expected, without query", public_url);
        return ERR_UNPROCESSABLE;
    }
    metadata = calloc(1, sizeof *metadata);
    if (metadata == NULL)
        return ERR_NO_MEMORY;
    metadata->issuers = issuers;
    metadata->first = length > 0 ? first_advertised(issuers) : NULL;
    metadata->has_origin_resource = has_origin_resource;
    memcpy(metadata->base, public_url, length);
    if (length == 0 && first_advertised(issuers) != NULL)
        log_warn("no_oauth_metadata", log_text("reason", "public_url is not set"),
                 log_text("effect", "MCP clients cannot discover where to log in"));
    *ret_metadata = metadata;
    return ERR_OK;
}

void metadata_destroy(struct metadata **metadata)
{
    free(*metadata);
    *metadata = NULL;
}

/* A slug in a path: what the registry may hold, so that nothing of a request needs an escape. */
static size_t slug_length(const char *slug)
{
    size_t length = 0;

    while (isalnum((unsigned char)slug[length]) || slug[length] == '-' || slug[length] == '_' || slug[length] == '.')
        length++;
    return length <= 64 && (slug[length] == '\0' || slug[length] == '/') ? length : 0;
}

bool metadata_write_url(const struct metadata *metadata, const char *path, struct writer *writer)
{
    const bool is_mcp = strncmp(path, MCP, sizeof MCP - 1) == 0;
    const size_t length = is_mcp ? slug_length(path + sizeof MCP - 1) : 0;

    if (metadata->first == NULL || (length == 0 && (is_mcp || !metadata->has_origin_resource)))
        return false;
    writer_text(writer, metadata->base);
    writer_literal(writer, WELL_KNOWN);
    if (length > 0)
        writer_bytes(writer, path, sizeof MCP - 1 + length);
    return true;
}

bool metadata_write_url_of(const struct metadata *metadata, const char *resource, struct writer *writer)
{
    const char *path;

    if (metadata->first == NULL || !is_url(resource, strlen(resource)))
        return false;
    path = strstr(resource, "://") + 3;
    path += strcspn(path, "/");
    writer_bytes(writer, resource, (size_t)(path - resource));
    writer_literal(writer, WELL_KNOWN);
    writer_text(writer, strcmp(path, "/") == 0 ? "" : path);
    return true;
}

const char *metadata_format_scopes(const struct metadata *metadata, uint64_t scopes, char text[METADATA_SCOPES_SIZE])
{
    if (metadata->first == NULL)
        return scopes_format(scopes, text);
    return issuer_format_scopes(metadata->first, scopes, text, METADATA_SCOPES_SIZE);
}

/* Each name a string of its own. */
static void write_scopes(struct writer *body, const struct metadata *metadata, uint64_t scopes)
{
    char names[METADATA_SCOPES_SIZE], *rest = NULL;

    (void)metadata_format_scopes(metadata, scopes, names);
    for (char *name = strtok_r(names, " ", &rest); name != NULL; name = strtok_r(NULL, " ", &rest)) {
        if (name != names)
            writer_literal(body, ",");
        writer_json(body, name);
    }
}

static void write_document(struct writer *body, const struct metadata *metadata, const char *resource, const char *slug)
{
    const struct issuers *issuers = metadata->issuers;

    writer_literal(body, "{\"resource\":");
    writer_json(body, resource);
    writer_literal(body, ",\"authorization_servers\":[");
    for (size_t i = 0; i < issuers->count; i++) {
        if (!issuers->list[i].advertise)
            continue;
        if (&issuers->list[i] != metadata->first)
            writer_literal(body, ",");
        writer_json(body, issuers->list[i].authorization_server);
    }
    writer_literal(body, "],\"scopes_supported\":[");
    write_scopes(body, metadata, *slug != '\0' ? SCOPE_BIT(PROXY) : SCOPE_BIT(PROXY) | SCOPE_BIT(READ) | SCOPE_BIT(WRITE));
    writer_literal(body, "],\"bearer_methods_supported\":[\"header\"],\"resource_name\":");
    writer_json(body, *slug != '\0' ? slug : "MCP Registry Gateway");
    writer_literal(body, "}");
}

static void refuse(struct exchange *exchange, enum err err, const char *detail)
{
    answer_refuse_early(exchange, &(struct refusal){ .err = err, .detail = detail }, "metadata");
}

static void answer_document(struct exchange *exchange, const char *resource, const char *slug)
{
    struct writer body = writer_on(exchange->space->body, sizeof exchange->space->body);
    struct answer answer;

    write_document(&body, exchange->edge->metadata, resource, slug);
    dispatch_count_refusal(exchange->edge->dispatch, exchange->address, "metadata", 200);
    answer = answer_begin(exchange, 200);
    answer_send(&answer, "application/json", body.bytes, body.size);
}

void metadata_answer_named(struct exchange *exchange)
{
    struct server_entry server;
    char slug[65];
    enum err err = query_find(exchange->query, "server", slug, sizeof slug);

    exchange->is_public = true;
    if (exchange->edge->metadata->first == NULL)
        err = ERR_NOT_FOUND;
    if (err == ERR_OK)
        err = servers_find(exchange->edge->servers, slug, &server);
    if (err != ERR_OK)
        refuse(exchange, err, err == ERR_MALFORMED ? "server in the query is repeated or badly escaped" : NULL);
    else if (!is_url(server.resource, strlen(server.resource)))
        refuse(exchange, ERR_NOT_FOUND, "this server has no URL of its own: mcpgw server set <server> --resource https://...");
    else
        answer_document(exchange, server.resource, server.slug);
}

void metadata_answer(struct exchange *exchange, const struct route_match *match)
{
    const struct metadata *metadata = exchange->edge->metadata;
    struct server_entry server = { .slug = "" };
    char slug[65] = "", resource[URL_MAX + sizeof MCP + 65];
    enum err err = ERR_OK;

    exchange->is_public = true;
    if (metadata->first == NULL) {
        refuse(exchange, ERR_NOT_FOUND, "no OAuth issuer is advertised here");
        return;
    }
    if (match->object != NULL && match->object_length < sizeof slug && strcmp(match->rest, match->rest[0] == '/' ? "/" : "") == 0)
        memcpy(slug, match->object, match->object_length);
    if (match->object != NULL)
        err = slug[0] == '\0' ? ERR_NOT_FOUND : servers_find(exchange->edge->servers, slug, &server);
    else if (!metadata->has_origin_resource)
        err = ERR_NOT_FOUND;
    if (err != ERR_OK) {
        refuse(exchange, err, match->object != NULL ? NULL
               : "each server is a resource of its own: /.well-known/oauth-protected-resource/mcp/<server>");
        return;
    }
    snprintf(resource, sizeof resource, "%s%s%s", metadata->base, server.slug[0] != '\0' ? MCP : "", server.slug);
    answer_document(exchange, resource, server.slug);
}

void metadata_answer_preflight(struct exchange *exchange)
{
    struct answer answer;

    exchange->is_public = true;
    dispatch_count_refusal(exchange->edge->dispatch, exchange->address, "preflight", 204);
    answer = answer_begin(exchange, 204);
    answer_field(&answer, "Access-Control-Allow-Methods", "GET, HEAD");
    answer_field(&answer, "Access-Control-Allow-Headers", "Authorization, Content-Type, Accept, MCP-Protocol-Version");
    answer_field(&answer, "Access-Control-Max-Age", "600");
    answer_send(&answer, NULL, "", 0);
}
