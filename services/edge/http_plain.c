/* http_plain.c - a strict reader of request heads, RFC 9112 sections 2, 3 and 5. */
#include "services/edge/http_plain.h"

#include <string.h>

#define VERSION "HTTP/1.1\r\n"

static bool is_plain(char c)
{
    return c > ' ' && c < 0x7f;
}

/* The end of a run of printable bytes without blanks. */
static char *word_end(char *at)
{
    while (is_plain(*at))
        at++;
    return at;
}

/* civetweb knows some more, and refuses all others and those in lower case. */
static bool is_known_method(const char *method)
{
    static const char *const known[] = { "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS" };

    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strcmp(known[i], method) == 0)
            return true;
    return false;
}

/* Returns where the fields begin; NULL: not plain. */
static char *read_request_line(char *at, struct http_raw *raw)
{
    char *end = word_end(at), *query;

    if (end == at || *end != ' ' || end[1] != '/')
        return NULL;
    raw->method = at;
    *end = '\0';
    if (!is_known_method(raw->method))
        return NULL;
    at = end + 1;
    raw->target = at;
    end = word_end(at);
    if (*end != ' ' || strncmp(end + 1, VERSION, sizeof VERSION - 1) != 0)
        return NULL;
    *end = '\0';
    query = strchr(at, '?');
    raw->query = query == NULL ? NULL : query + 1;
    if (query != NULL)
        *query = '\0';
    raw->version = end + 1 + (sizeof "HTTP/" - 1);
    at = end + sizeof VERSION;
    at[-2] = at[-1] = '\0';
    return at;
}

/* `name: value` CR LF; returns where the next one begins, NULL: not plain. */
static char *read_field(char *at, struct http_raw_field *field)
{
    field->name = at;
    while (is_plain(*at) && *at != ':')
        at++;
    if (at == field->name || at[0] != ':' || at[1] != ' ' || !is_plain(at[2]))
        return NULL;
    *at = '\0';
    at += 2;
    field->value = at;
    while (is_plain(*at) || *at == ' ')
        at++;
    if (at[0] != '\r' || at[1] != '\n' || at[-1] == ' ')
        return NULL;
    at[0] = at[1] = '\0';
    return at + 2;
}

bool http_plain_read(char *bytes, size_t size, struct http_plain *ret_plain)
{
    struct http_raw *raw = &ret_plain->raw;
    char *at;

    if (size < 4 || size > HTTP_PLAIN_MAX || memcmp(bytes + size - 4, "\r\n\r\n", 4) != 0)
        return false;
    bytes[size - 1] = '\0';    /* from here on every walk ends within the bytes */
    at = read_request_line(bytes, raw);
    raw->fields = ret_plain->fields;
    raw->count = 0;
    while (at != NULL && *at != '\r' && raw->count < HTTP_FIELDS_MAX)
        at = read_field(at, &ret_plain->fields[raw->count++]);
    return at == bytes + size - 2 && raw->count > 0;
}
