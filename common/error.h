/* error.h - the one list of outcomes (errors.def) as an enum. */
#ifndef COMMON_ERROR_H
#define COMMON_ERROR_H

enum err {
#define ERROR(name, http, code, meaning) ERR_##name,
#include "common/errors.def"
    ERR_COUNT
};

#define MUST_CHECK __attribute__((warn_unused_result))

/* "MALFORMED"; static storage.  A number no row has (a peer sent it) is "BUG". */
const char *err_name(enum err err);
/* The stable `code` of a problem document, "malformed"; static storage. */
const char *err_code(enum err err);
/* A sentence for people; static storage. */
const char *err_meaning(enum err err);
int err_http_status(enum err err);
/* What a peer sent as an error: a number without a row becomes ERR_BUG, so that doubt is denial. */
enum err err_from_wire(unsigned long long number);

#endif
