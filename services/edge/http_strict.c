/* http_strict.c - checks of a request head, RFC 9112 sections 2, 3, 5 and 6.  Knows no socket and no civetweb. */
#include "services/edge/http_strict.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

static const struct {
    const char *text;
    size_t length;
} names[HTTP_NAME_COUNT] = {
#define NAME(id, text) [id] = { text, sizeof text - 1 }
    NAME(HTTP_HOST, "host"), NAME(HTTP_CONTENT_LENGTH, "content-length"),
    NAME(HTTP_TRANSFER_ENCODING, "transfer-encoding"), NAME(HTTP_CONNECTION, "connection"),
    NAME(HTTP_EXPECT, "expect"), NAME(HTTP_UPGRADE, "upgrade"), NAME(HTTP_AUTHORIZATION, "authorization"),
    NAME(HTTP_X_API_KEY, "x-api-key"), NAME(HTTP_X_REQUEST_ID, "x-request-id"), NAME(HTTP_ORIGIN, "origin"),
    NAME(HTTP_X_FORWARDED_FOR, "x-forwarded-for"), NAME(HTTP_X_FORWARDED_METHOD, "x-forwarded-method"),
    NAME(HTTP_X_FORWARDED_URI, "x-forwarded-uri"), NAME(HTTP_X_ORIGINAL_METHOD, "x-original-method"),
    NAME(HTTP_X_ORIGINAL_URI, "x-original-uri"), NAME(HTTP_X_ORIGINAL_URL, "x-original-url"),
    NAME(HTTP_X_FORWARDED_PROTO, "x-forwarded-proto"), NAME(HTTP_X_FORWARDED_HOST, "x-forwarded-host"),
    NAME(HTTP_CONTENT_TYPE, "content-type"), NAME(HTTP_CORS_HEADERS, "access-control-request-headers"),
    NAME(HTTP_COOKIE, "cookie"), NAME(HTTP_SEC_FETCH_SITE, "sec-fetch-site"),
    NAME(HTTP_CONTENT_ENCODING, "content-encoding"), NAME(HTTP_IDEMPOTENCY_KEY, "idempotency-key"), NAME(HTTP_IF_MATCH, "if-match"),
#undef NAME
};

static bool is_token_byte(unsigned char c)
{
    return isalnum(c) || (c != '\0' && strchr("!#$%&'*+-.^_`|~", c) != NULL);    /* RFC 9110 5.6.2 */
}

bool http_is_token(const char *text, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        if (!is_token_byte((unsigned char)text[i]))
            return false;
    }
    return length > 0;
}

bool http_list_has(const char *list, const char *token)
{
    size_t length = strlen(token);

    while (*list != '\0') {
        size_t item;

        list += strspn(list, ", \t");
        item = strcspn(list, ", \t");
        if (item == length && strncasecmp(list, token, length) == 0)
            return true;
        list += item;
    }
    return false;
}

static enum http_name name_of(const char *text, size_t length)
{
    for (unsigned i = 1; i < HTTP_NAME_COUNT; i++) {
        if (names[i].length == length && strncasecmp(names[i].text, text, length) == 0)
            return (enum http_name)i;
    }
    return HTTP_OTHER;
}

const struct http_field *http_head_find(const struct http_head *head, enum http_name name)
{
    return head->seen[name] > 0 ? &head->fields[head->first[name]] : NULL;
}

/* Exactly one blank between the words of the request line, CR LF behind it. */
static const char *request_line_fault(const struct http_raw *raw)
{
    const char *target_end = raw->query != NULL ? raw->query + strlen(raw->query) : raw->target + strlen(raw->target);

    if (raw->target != raw->method + strlen(raw->method) + 1)
        return "request_line";
    if (raw->version != target_end + 1 + (sizeof "HTTP/" - 1))
        return "request_line";
    if (raw->fields[0].name != raw->version + strlen(raw->version) + 2)
        return "request_line";
    return NULL;
}

static enum err take_field(const struct http_raw *raw, size_t at, struct http_head *head, const char **reterr_reason)
{
    struct http_field *field = &head->fields[at];
    const char *end;

    *field = (struct http_field){ .name = raw->fields[at].name, .value = raw->fields[at].value };
    field->name_length = strlen(field->name);
    field->value_length = strlen(field->value);
    end = field->value + field->value_length;
    *reterr_reason = "field_name";
    if (!http_is_token(field->name, field->name_length))
        return ERR_MALFORMED;
    *reterr_reason = "blank_before_colon";
    if (field->value > field->name + field->name_length + 1 && field->name[field->name_length + 1] == '\0')
        return ERR_MALFORMED;
    *reterr_reason = "field_line_end";
    if (end[1] != '\0')
        return ERR_MALFORMED;
    if (at + 1 < raw->count ? raw->fields[at + 1].name != end + 2 : (end[2] != '\r' || end[3] != '\0'))
        return ERR_MALFORMED;
    *reterr_reason = "field_line_size";
    if (end > field->name + HTTP_LINE_MAX)
        return ERR_HEADERS_TOO_LARGE;
    while (field->value_length > 0 && field->value[field->value_length - 1] == ' ')
        field->value_length--;
    field->id = name_of(field->name, field->name_length);
    if (field->id != HTTP_OTHER && head->seen[field->id]++ == 0)
        head->first[field->id] = (uint8_t)at;
    return ERR_OK;
}

/* RFC 9112 6: one Content-Length of digits, or one Transfer-Encoding that is exactly chunked, never both. */
static const char *framing_fault(struct http_head *head)
{
    const struct http_field *length = http_head_find(head, HTTP_CONTENT_LENGTH);
    const struct http_field *coding = http_head_find(head, HTTP_TRANSFER_ENCODING);

    if (head->seen[HTTP_CONTENT_LENGTH] > 1 || head->seen[HTTP_TRANSFER_ENCODING] > 1
        || (length != NULL && coding != NULL))
        return "framing";
    if (length != NULL) {
        /* the raw value: what civetweb gave strtoll() must hold nothing but these digits */
        if (length->value[0] == '\0' || strlen(length->value) > 15
            || length->value[strspn(length->value, "0123456789")] != '\0')
            return "content_length";
        for (const char *digit = length->value; *digit != '\0'; digit++)
            head->content_length = head->content_length * 10 + (uint64_t)(*digit - '0');
    }
    if (coding != NULL && (strcasecmp(coding->value, "chunked") != 0 || head->is_http10))
        return "transfer_encoding";
    head->is_chunked = coding != NULL;
    head->has_body = head->is_chunked || head->content_length > 0;
    return NULL;
}

static bool host_is_sound(const char *host)
{
    return host[0] != '\0'
           && host[strspn(host, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:[]")] == '\0';
}

static const char *meaning_fault(struct http_head *head)
{
    const struct http_field *host = http_head_find(head, HTTP_HOST);
    const struct http_field *expect = http_head_find(head, HTTP_EXPECT);
    const struct http_field *connection = http_head_find(head, HTTP_CONNECTION);

    if (host == NULL || head->seen[HTTP_HOST] != 1 || !host_is_sound(host->value))
        return "host";
    if (head->seen[HTTP_UPGRADE] > 0)
        return "upgrade";
    if (expect != NULL) {
        head->wants_continue =
            head->seen[HTTP_EXPECT] == 1 && strcasecmp(expect->value, "100-continue") == 0 && !head->is_http10;
        head->has_other_expectation = !head->wants_continue;
    }
    /* civetweb goes on only with keep-alive in the first Connection field, or with none on HTTP/1.1 */
    head->wants_close = head->is_http10;
    if (connection != NULL)
        head->wants_close = head->seen[HTTP_CONNECTION] > 1 || http_list_has(connection->value, "close")
                            || !http_list_has(connection->value, "keep-alive");
    return NULL;
}

enum err http_strict_check(const struct http_raw *raw, struct http_head *ret_head, const char **reterr_reason)
{
    struct http_head *head = ret_head;
    const struct http_field *last;
    const char *fault;
    enum err err;

    head->count = 0;
    memset(head->seen, 0, sizeof head->seen);
    head->content_length = 0;
    head->has_body = head->is_chunked = head->wants_continue = head->has_other_expectation = false;
    head->is_http10 = strcmp(raw->version, "1.0") == 0;
    *reterr_reason = "field_count";
    if (raw->count == 0)
        return ERR_MALFORMED;
    if (raw->count > HTTP_FIELDS_MAX)
        return ERR_HEADERS_TOO_LARGE;
    fault = request_line_fault(raw);
    for (size_t i = 0; fault == NULL && i < raw->count; i++) {
        err = take_field(raw, i, head, reterr_reason);
        if (err != ERR_OK)
            return err;
    }
    head->count = raw->count;
    if (fault == NULL)
        fault = framing_fault(head);
    if (fault == NULL)
        fault = meaning_fault(head);
    if (fault != NULL) {
        *reterr_reason = fault;
        return ERR_MALFORMED;
    }
    *reterr_reason = "head_size";
    last = &head->fields[head->count - 1];
    return last->value + last->value_length > raw->method + HTTP_HEAD_MAX ? ERR_HEADERS_TOO_LARGE : ERR_OK;
}
