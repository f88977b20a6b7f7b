/* http_head.h - takes a request head apart in place, as leniently as civetweb 1.15 does: what http_strict.c has to judge. */
#ifndef TESTS_HTTP_HEAD_H
#define TESTS_HTTP_HEAD_H

#include <ctype.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "services/edge/http_strict.h"

#define HEAD_FIELDS 64u    /* civetweb's own limit; it drops the rest */

/* Bytes of the head that starts at `bytes`; 0: there is none that civetweb would take. */
static inline size_t head_size(const char *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        unsigned char c = (unsigned char)bytes[i];

        if (c < 128 && c != '\r' && c != '\n' && !isprint(c))
            return 0;
        if (i + 1 < size && bytes[i] == '\n' && bytes[i + 1] == '\n')
            return i + 2;
        if (i + 3 < size && memcmp(bytes + i, "\r\n\r\n", 4) == 0)
            return i + 4;
    }
    return 0;
}

/* Ends the word at *at with NULs over all white space behind it. */
static inline bool head_word(char **at, bool is_last, const char **ret_word)
{
    *ret_word = *at;
    while (isgraph((unsigned char)**at))
        (*at)++;
    if (is_last ? **at != '\r' && **at != '\n' : **at != ' ')
        return false;
    while (isspace((unsigned char)**at))
        *(*at)++ = '\0';
    return is_last || isgraph((unsigned char)**at);
}

static inline bool head_field(char **at, struct http_raw_field *ret_field)
{
    char *to = *at;

    while (*to != ':' && *to >= 33 && *to <= 126)
        to++;
    while (*to == ' ')
        *to++ = '\0';
    if (*to != ':')
        return false;
    *to++ = '\0';
    ret_field->name = *at;
    to += strspn(to, " \t");
    ret_field->value = to;
    to += strcspn(to, "\r\n");
    if (*to == '\r') {
        *to++ = '\0';
        if (*to != '\n')
            return false;
    }
    if (*to != '\0')
        *to++ = '\0';
    *at = to;
    return true;
}

/* `bytes` are changed; false: civetweb would refuse them itself. */
static inline bool head_parse(char *bytes, size_t size, struct http_raw_field fields[HEAD_FIELDS], struct http_raw *ret_raw)
{
    const char *version, *method, *target;
    size_t head = head_size(bytes, size), count = 0;
    char *at = bytes, *query;

    if (head == 0 || isspace((unsigned char)*bytes))
        return false;
    bytes[head - 1] = '\0';
    if (!head_word(&at, false, &method) || !head_word(&at, false, &target) || !head_word(&at, true, &version)
        || strncmp(version, "HTTP/1.", 7) != 0 || (strcmp(version + 5, "1.0") != 0 && strcmp(version + 5, "1.1") != 0))
        return false;
    while (count < HEAD_FIELDS && *at > 32 && *at < 127 && *at != ':') {
        if (!head_field(&at, &fields[count]))
            return false;
        count++;
        if (*at == '\r' || *at == '\n')
            break;
    }
    query = strchr(target, '?');
    if (query != NULL)
        *query++ = '\0';
    *ret_raw = (struct http_raw){ method, target, query, version + 5, fields, count };
    return true;
}

#endif
