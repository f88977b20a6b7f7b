/* error.c - the rows of errors.def as text and HTTP status. */
#include "common/error.h"

static const struct {
    const char *name, *code, *meaning;
    int http;
} rows[] = {
#define ERROR(name, http, code, meaning) { #name, code, meaning, http },
#include "common/errors.def"
};

enum err err_from_wire(unsigned long long number)
{
    return number < ERR_COUNT ? (enum err)number : ERR_BUG;
}

/* A peer's number may have been cast to the enum unchecked: never index with it. */
static enum err row_of(enum err err)
{
    return err_from_wire((unsigned long long)err);
}

const char *err_name(enum err err)
{
    return rows[row_of(err)].name;
}

const char *err_code(enum err err)
{
    return rows[row_of(err)].code;
}

const char *err_meaning(enum err err)
{
    return rows[row_of(err)].meaning;
}

int err_http_status(enum err err)
{
    return rows[row_of(err)].http;
}
