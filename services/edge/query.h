/* query.h - one parameter of a query string, decoded.  Pure. */
#ifndef EDGE_QUERY_H
#define EDGE_QUERY_H

#include <stddef.h>

#include "common/error.h"

/*
 * The value of `name` with %XX decoded and + as a blank; printable ASCII only.
 * ERR_NOT_FOUND: no such parameter; ERR_MALFORMED: it occurs twice, is badly escaped, not printable, or longer than
 * size - 1.
 */
enum err query_find(const char *query, const char *name, char *value, size_t size) MUST_CHECK;

#endif
