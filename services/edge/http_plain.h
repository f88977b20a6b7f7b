/*
 * http_plain.h - reads a request head that is as plain as clients write it.  Pure.
 *
 * Of what civetweb and http_strict.h accept, this takes the part that leaves no room for two readings: printable bytes, one
 * blank where one is expected, CR LF at every end, HTTP/1.1, and nothing behind the head.  It says nothing about the rest:
 * that is civetweb's to read.
 */
#ifndef EDGE_HTTP_PLAIN_H
#define EDGE_HTTP_PLAIN_H

#include "services/edge/http_strict.h"

#define HTTP_PLAIN_MAX 8192u    /* a key, or an Entra token with some groups; longer heads are read as the first one was */

struct http_plain {
    struct http_raw raw;    /* as civetweb would have left it; points into the bytes and to `fields` */
    struct http_raw_field fields[HTTP_FIELDS_MAX];
};

/* Writes NULs over the separators.  false: not plain, not whole, or more than one head; then only `bytes` was written. */
bool http_plain_read(char *bytes, size_t size, struct http_plain *ret_plain);

#endif
