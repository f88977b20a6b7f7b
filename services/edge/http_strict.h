/*
 * http_strict.h - may this request head be trusted to mean the same to every proxy on its way?  Pure.
 *
 * civetweb parses leniently and in place: it writes NULs over the separators it took.  The bytes it left behind show
 * what it forgave: a field must begin exactly two bytes (CR LF) behind the end of the one before, and CR NUL must
 * follow the last one. Anything else was a fold, a bare LF, a blank before the colon or a line that the parser dropped
 * with all that follow.
 */
#ifndef EDGE_HTTP_STRICT_H
#define EDGE_HTTP_STRICT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

#define HTTP_FIELDS_MAX 63u       /* civetweb keeps 64 and drops the rest in silence */
#define HTTP_HEAD_MAX   32768u    /* request line and header block */
#define HTTP_LINE_MAX   18432u    /* one line; an Entra token is legal at 12 KiB */

enum http_name {
    HTTP_OTHER, HTTP_HOST, HTTP_CONTENT_LENGTH, HTTP_TRANSFER_ENCODING, HTTP_CONNECTION, HTTP_EXPECT, HTTP_UPGRADE,
    HTTP_AUTHORIZATION, HTTP_X_API_KEY, HTTP_X_REQUEST_ID, HTTP_ORIGIN, HTTP_X_FORWARDED_FOR, HTTP_X_FORWARDED_METHOD,
    HTTP_X_FORWARDED_URI, HTTP_X_ORIGINAL_METHOD, HTTP_X_ORIGINAL_URI, HTTP_X_ORIGINAL_URL, HTTP_X_FORWARDED_PROTO,
    HTTP_X_FORWARDED_HOST, HTTP_CONTENT_TYPE, HTTP_CORS_HEADERS, HTTP_COOKIE, HTTP_SEC_FETCH_SITE, HTTP_CONTENT_ENCODING,
    HTTP_IDEMPOTENCY_KEY, HTTP_IF_MATCH, HTTP_NAME_COUNT
};

struct http_field {
    const char *name, *value;
    size_t name_length, value_length;
    enum http_name id;
};

/* As civetweb left them in its buffer, which ends with a NUL behind the head. */
struct http_raw_field { const char *name, *value; };
struct http_raw {
    const char *method, *target, *query, *version; /* query: behind the '?', NULL when there is none; version: "1.1" */
    const struct http_raw_field *fields;
    size_t count;
};

struct http_head {
    size_t count;
    struct http_field fields[HTTP_FIELDS_MAX];
    uint8_t seen[HTTP_NAME_COUNT];      /* how often each known name occurs */
    uint8_t first[HTTP_NAME_COUNT];     /* index of the first; meaningful when seen */
    uint64_t content_length;
    bool has_body;                      /* Content-Length above 0, or chunked */
    bool is_chunked;
    bool is_http10;
    bool wants_continue;                /* Expect: 100-continue */
    bool has_other_expectation;         /* 417 */
    bool wants_close;                   /* by Connection, or HTTP/1.0 without keep-alive */
};

/* ERR_MALFORMED, ERR_HEADERS_TOO_LARGE; *reterr_reason: static storage, for the trail. */
enum err http_strict_check(const struct http_raw *raw, struct http_head *ret_head,
                           const char **reterr_reason) MUST_CHECK;
/* NULL when there is none. */
const struct http_field *http_head_find(const struct http_head *head, enum http_name name);
bool http_is_token(const char *text, size_t length);
/* Does a comma-separated list hold this token, in any case? */
bool http_list_has(const char *list, const char *token);

#endif
