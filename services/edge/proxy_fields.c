/* proxy_fields.c - header rules of the reverse proxy. */
#include "services/edge/proxy_fields.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#define NAME_MAX_LENGTH 128u

static bool is_one_of(const char *name, const char *const *list)
{
    for (; *list != NULL; list++) {
        if (strcmp(name, *list) == 0)
            return true;
    }
    return false;
}

static bool starts_with(const char *text, const char *start)
{
    return strncmp(text, start, strlen(start)) == 0;
}

/* Lower case, - for _; false: longer than any field we know, so none of them. */
static bool fold_name(const char *name, size_t length, char folded[NAME_MAX_LENGTH + 1])
{
    if (length > NAME_MAX_LENGTH)
        return false;
    for (size_t i = 0; i < length; i++)
        folded[i] = name[i] == '_' ? '-' : (char)tolower((unsigned char)name[i]);
    folded[length] = '\0';
    return true;
}

static bool list_names(const char *list, const char *name, size_t length)
{
    while (list != NULL && *list != '\0') {
        size_t item;

        list += strspn(list, ", \t");
        item = strcspn(list, ", \t");
        if (item == length && strncasecmp(list, name, length) == 0)
            return true;
        list += item;
    }
    return false;
}

static const char *const hop_by_hop[] = {
    "connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "content-length",
    "proxy-authenticate", "proxy-authorization", "proxy-authentication-info", NULL
};

bool proxy_passes_request(const char *name, size_t length, const char *connection)
{
    static const char *const dropped[] = {
        "host", "expect", "authorization", "x-api-key", "cookie", "origin", "forwarded", "x-real-ip", "x-request-id",
        "x-http-method-override", "x-http-method", "x-method-override", NULL
    };
    char folded[NAME_MAX_LENGTH + 1];

    if (list_names(connection, name, length))
        return false;
    if (!fold_name(name, length, folded))
        return true;
    return !is_one_of(folded, hop_by_hop) && !is_one_of(folded, dropped) && !starts_with(folded, "x-mcpgw-")
           && !starts_with(folded, "x-forwarded-") && !starts_with(folded, "x-original-")
           && !starts_with(folded, "access-control-request-");
}

bool proxy_passes_response(const char *name, size_t length, bool with_cors)
{
    static const char *const dropped[] = { "x-request-id", "alt-svc", "strict-transport-security", NULL };
    char folded[NAME_MAX_LENGTH + 1];

    if (!fold_name(name, length, folded))
        return true;
    if (with_cors && starts_with(folded, "access-control-"))
        return false;
    return !is_one_of(folded, hop_by_hop) && !is_one_of(folded, dropped) && !starts_with(folded, "x-mcpgw-");
}

size_t proxy_drop_named(char *lines, size_t size, const char *connection)
{
    size_t kept = 0;

    for (size_t at = 0; at < size;) {
        const char *end = memchr(lines + at, '\n', size - at);
        const size_t length = end != NULL ? (size_t)(end - (lines + at)) + 1 : size - at;
        const char *colon = memchr(lines + at, ':', length);

        if (colon == NULL || !list_names(connection, lines + at, (size_t)(colon - (lines + at)))) {
            memmove(lines + kept, lines + at, length);
            kept += length;
        }
        at += length;
    }
    return kept;
}

static bool origin_equals(const char *pattern, size_t length, const char *origin)
{
    if (length == 1 && pattern[0] == '*')
        return true;
    if (length > 2 && memcmp(pattern + length - 2, ":*", 2) == 0) {
        const char *rest = origin + length - 2;

        if (strncasecmp(pattern, origin, length - 2) != 0)
            return false;
        return *rest == '\0' || (*rest == ':' && rest[1] != '\0' && rest[1 + strspn(rest + 1, "0123456789")] == '\0');
    }
    return strlen(origin) == length && strncasecmp(pattern, origin, length) == 0;
}

bool proxy_origin_is_allowed(const char *allowed, const char *public_url, const char *origin)
{
    const char *host = strstr(public_url, "://");

    if (host != NULL) {
        size_t length = (size_t)(host - public_url) + 3;

        length += strcspn(public_url + length, "/");
        if (origin_equals(public_url, length, origin))
            return true;
    }
    while (*allowed != '\0') {
        size_t length;

        allowed += strspn(allowed, ", ");
        length = strcspn(allowed, ", ");
        if (length > 0 && origin_equals(allowed, length, origin))
            return true;
        allowed += length;
    }
    return false;
}

enum err proxy_map_location(const char *upstream_url, const char *slug, const char *location, char *mapped, size_t size)
{
    const char *scheme = strstr(upstream_url, "://");
    const char *path = scheme != NULL ? scheme + 3 + strcspn(scheme + 3, "/") : upstream_url;
    size_t url_length = strcspn(upstream_url, "?#"), path_length = url_length - (size_t)(path - upstream_url);
    const char *rest = NULL;
    int length;

    while (path_length > 0 && path[path_length - 1] == '/') {
        path_length--;
        url_length--;
    }
    if (strncmp(location, upstream_url, url_length) == 0)
        rest = location + url_length;
    else if (location[0] == '/' && location[1] != '/' && path_length > 0 && strncmp(location, path, path_length) == 0)
        rest = location + path_length;
    if (rest != NULL && *rest != '\0' && *rest != '/' && *rest != '?' && *rest != '#')
        rest = NULL;
    length = rest != NULL ? snprintf(mapped, size, "/mcp/%s%s", slug, rest) : snprintf(mapped, size, "%s", location);
    return length < 0 || (size_t)length >= size ? ERR_TOO_LARGE : ERR_OK;
}
