/* metadata.c - the documents that tell MCP clients where to get a token. */
#include "services/edge/metadata.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/scope.h"
#include "services/edge/answer.h"

#define WELL_KNOWN "/.well-known/oauth-protected-resource"
#define MCP        "/mcp/"
#define URL_MAX    400u

struct metadata {
    char base[URL_MAX + 1];              /* public_url without a closing slash */
    char servers[METADATA_SERVERS_MAX][URL_MAX + 1];
    size_t server_count;                 /* 0: nothing is advertised */
    bool has_origin_resource;
};

/* An https URL (http for tests on this host) without query and fragment, of letters that need no escape anywhere. */
static bool is_url(const char *url, size_t length)
{
    const size_t skip = length > 8 && memcmp(url, "https://", 8) == 0 ? 8 : length > 7 && memcmp(url, "http://", 7) == 0 ? 7 : 0;

    if (skip == 0 || length > URL_MAX || url[skip] == '/')
        return false;
    for (size_t i = 0; i < length; i++) {
        if (!isalnum((unsigned char)url[i]) && strchr("-._~:/[]{}@!$&'()*+;=%", url[i]) == NULL)
            return false;
    }
    return true;
}

static enum err take_servers(struct metadata *metadata, const char *list, char *reterr, size_t reterr_size)
{
    while (*list != '\0') {
        size_t length;

        list += strspn(list, ", ");
        length = strcspn(list, ", ");
        if (length == 0)
            break;
        if (metadata->server_count == METADATA_SERVERS_MAX || !is_url(list, length)) {
            snprintf(reterr, reterr_size, "authorization_servers: %.*s: at most %u https URLs are expected",
                     length > 100 ? 100 : (int)length, list, METADATA_SERVERS_MAX);
            return ERR_UNPROCESSABLE;
        }
        memcpy(metadata->servers[metadata->server_count++], list, length);
        list += length;
    }
    return ERR_OK;
}

enum err metadata_new(const struct metadata_options *options, struct metadata **ret_metadata, char *reterr,
                      size_t reterr_size)
{
    struct metadata *metadata = calloc(1, sizeof *metadata);
    size_t length = strlen(options->public_url);
    enum err err;

    if (metadata == NULL)
        return ERR_NO_MEMORY;
    while (length > 0 && options->public_url[length - 1] == '/')
        length--;
    metadata->has_origin_resource = options->has_origin_resource;
    err = take_servers(metadata, options->authorization_servers, reterr, reterr_size);
    if (err == ERR_OK && length > 0 && !is_url(options->public_url, length)) {
        snprintf(reterr, reterr_size, "public_url: %.100s: the https URL that clients use is expected", options->public_url);
        err = ERR_UNPROCESSABLE;
    }
    if (err == ERR_OK && metadata->server_count > 0 && length == 0) {
        snprintf(reterr, reterr_size, "public_url: OAuth issuers need it, because clients are told absolute URLs and tokens "
                 "name them: set it to the URL that clients use");
        err = ERR_UNPROCESSABLE;
    }
    if (err != ERR_OK) {
        metadata_destroy(&metadata);
        return err;
    }
    memcpy(metadata->base, options->public_url, length);
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

    if (metadata == NULL || metadata->server_count == 0 || (length == 0 && (is_mcp || !metadata->has_origin_resource)))
        return false;
    writer_text(writer, metadata->base);
    writer_literal(writer, WELL_KNOWN);
    if (length > 0)
        writer_bytes(writer, path, sizeof MCP - 1 + length);
    return true;
}

static void write_document(struct writer *body, const struct metadata *metadata, const char *slug)
{
    char scopes[SCOPES_TEXT_MAX];
    char resource[URL_MAX + sizeof MCP + 65];

    snprintf(resource, sizeof resource, "%s%s%s", metadata->base, *slug != '\0' ? MCP : "", slug);
    writer_literal(body, "{\"resource\":");
    writer_json(body, resource);
    writer_literal(body, ",\"authorization_servers\":[");
    for (size_t i = 0; i < metadata->server_count; i++) {
        if (i > 0)
            writer_literal(body, ",");
        writer_json(body, metadata->servers[i]);
    }
    writer_literal(body, "],\"scopes_supported\":[");
    writer_json(body, scopes_format(SCOPE_BIT(PROXY), scopes));
    if (*slug == '\0')
        writer_literal(body, ",\"read\",\"write\"");
    writer_literal(body, "],\"bearer_methods_supported\":[\"header\"],\"resource_name\":");
    writer_json(body, *slug != '\0' ? slug : "MCP Registry Gateway");
    writer_literal(body, "}");
}

static void refuse(struct exchange *exchange, enum err err, const char *detail)
{
    answer_refuse_early(exchange, &(struct refusal){ .err = err, .detail = detail }, "metadata");
}

void metadata_answer(struct exchange *exchange, const struct route_match *match)
{
    const struct metadata *metadata = exchange->edge->metadata;
    struct writer body = writer_on(exchange->space->body, sizeof exchange->space->body);
    struct server_entry server = { .slug = "" };
    struct answer answer;
    char slug[65] = "";
    enum err err = ERR_OK;

    exchange->is_public = true;
    if (metadata->server_count == 0) {
        refuse(exchange, ERR_NOT_FOUND, "no OAuth issuer is configured here");
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
    write_document(&body, metadata, server.slug);
    dispatch_count_refusal(exchange->edge->dispatch, exchange->address, "metadata", 200);
    answer = answer_begin(exchange, 200);
    answer_send(&answer, "application/json", body.bytes, body.size);
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
