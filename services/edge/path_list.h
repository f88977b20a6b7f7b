/* path_list.h - settings that name parts of the HTTP surface by path: "/mcp/payroll, /api/v1/servers".  Pure. */
#ifndef EDGE_PATH_LIST_H
#define EDGE_PATH_LIST_H

#include <stdbool.h>
#include <stddef.h>

#include "common/error.h"

/* Is the normalised `path` one of the list, or below one? */
bool path_list_has(const char *list, const char *path);
/* ERR_UNPROCESSABLE: an entry is not below one of `roots` (ended by NULL); *reterr_entry and *reterr_length name it. */
enum err path_list_check(const char *list, const char *const *roots, const char **reterr_entry,
                         size_t *reterr_length) MUST_CHECK;

#endif
