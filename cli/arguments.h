/* arguments.h - options and positional arguments of one command, by rows; what no row names is refused by name. */
#ifndef CLI_ARGUMENTS_H
#define CLI_ARGUMENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

#define ARGUMENTS_MAX 64u

struct option_row {
    const char *name;       /* "limit" for --limit; NULL ends the table */
    const char *value;      /* "N"; NULL: takes none */
    const char *meaning;
};

struct arguments {
    const char *positional[ARGUMENTS_MAX];
    size_t count;
    struct { const char *name, *value; } options[ARGUMENTS_MAX];    /* in order; value "" for those that take none */
    size_t option_count;
};

/* --name VALUE, --name=VALUE, --flag, --; `common` may be NULL.  ERR_MALFORMED with a sentence in reterr. */
enum err arguments_parse(int argc, const char *const *argv, const struct option_row *rows,
                         const struct option_row *common, struct arguments *ret_arguments,
                         char *reterr, size_t reterr_size) MUST_CHECK;
/* Last value given, or NULL. */
const char *arguments_value(const struct arguments *arguments, const char *name);
/* A number; ERR_MALFORMED: it is none or outside [least, most].  Not given: ERR_OK and the fallback. */
enum err arguments_number(const struct arguments *arguments, const char *name, uint64_t least, uint64_t most,
                          uint64_t fallback, uint64_t *ret_number) MUST_CHECK;

/* "90", "90s", "15m", "12h", "30d", "2w" as seconds.  ERR_MALFORMED: anything else, or over ten years. */
enum err duration_parse(const char *text, uint64_t *ret_seconds) MUST_CHECK;
/* "1000/1h": requests, from 1, and the seconds of their window. */
enum err rate_parse(const char *text, uint64_t *ret_requests, uint64_t *ret_window_s) MUST_CHECK;
/* Value of NAME in the lines of a file of shell assignments: NAME=value, 'value', "value", with or without export.
 * ERR_NOT_FOUND: no such line; ERR_TOO_LARGE: does not fit. */
enum err assignment_find(const char *text, const char *name, char *ret_value, size_t size) MUST_CHECK;

#endif
