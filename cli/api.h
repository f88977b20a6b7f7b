/* api.h - one call of the management API by libcurl; refusals are told on standard error with what to change. */
#ifndef CLI_API_H
#define CLI_API_H

#include <jansson.h>

#include "cli/cli.h"

#define API_ANSWER_MAX (16u << 20)    /* bytes */

/* body: NULL for none; not taken.  *ret_answer: NULL when the answer had no body; the caller's to json_decref. */
enum exit_code api_call(struct cli *cli, const char *method, const char *path, const json_t *body, json_t **ret_answer);
/* Was this request made by this run of the command?  (`tail --follow` leaves its own reading out) */
bool api_is_own(const char *request_id);
/* Appends &name=value, percent-encoded; nothing when value is NULL.  False: no room. */
bool api_query(char *path, size_t size, const char *name, const char *value);
/* "/api/v1/keys/" and the id, percent-encoded, and what follows. */
bool api_path(char *path, size_t size, const char *collection, const char *id, const char *more);
/* Calls `each` with the items of all pages until it returns false or `limit` items were shown. */
enum exit_code api_each(struct cli *cli, const char *path, uint64_t limit, bool (*each)(void *owner, json_t *item),
                        void *owner);

#endif
