/*
 * http_path.h - the one form of a path that is matched, recorded and forwarded.  Pure.
 *
 * Dot segments are resolved, empty segments dropped, unreserved characters decoded, other escapes written in capitals.
 * Refused is what two servers may read in two ways: encoded slash, backslash, dot or control, a path parameter (;), a
 * backslash, bytes outside RFC 3986, and a way above the root.
 */
#ifndef EDGE_HTTP_PATH_H
#define EDGE_HTTP_PATH_H

#include <stdbool.h>
#include <stddef.h>

#include "common/error.h"

#define HTTP_PATH_MAX 2048u

/* ERR_MALFORMED as above; ERR_TOO_LARGE: longer than HTTP_PATH_MAX. */
enum err http_path_normalise(const char *raw, char ret_path[HTTP_PATH_MAX + 1]) MUST_CHECK;
/* Only bytes a query may have (RFC 3986 3.4, and the few that browsers send unescaped). */
bool http_query_is_sound(const char *query);

#endif
