/* scope.c - the rows of scope.def as sets of bits and as text. */
#include "common/scope.h"

#include <string.h>

static const struct {
    const char *text;
    size_t length;
    uint64_t implies;
} rows[] = {
#define SCOPE(name, text, implies, meaning) { text, sizeof text - 1, implies },
#include "common/scope.def"
};

enum {
    TEXT_BYTES = 0
#define SCOPE(name, text, implies, meaning) + sizeof text
#include "common/scope.def"
};
_Static_assert(TEXT_BYTES <= SCOPES_TEXT_MAX, "all scopes must fit SCOPES_TEXT_MAX");

const char *scope_text(enum scope scope)
{
    return scope < SCOPE_COUNT ? rows[scope].text : "";
}

bool scope_parse(const char *text, size_t length, enum scope *ret_scope)
{
    for (unsigned i = 0; i < SCOPE_COUNT; i++) {
        if (rows[i].length == length && memcmp(rows[i].text, text, length) == 0) {
            *ret_scope = (enum scope)i;
            return true;
        }
    }
    return false;
}

uint64_t scopes_close(uint64_t scopes)
{
    uint64_t closed = scopes & SCOPE_ALL;
    uint64_t before;

    do {
        before = closed;
        for (unsigned i = 0; i < SCOPE_COUNT; i++)
            if ((closed >> i & 1) != 0)
                closed |= rows[i].implies;
    } while (closed != before);
    return closed;
}

bool scopes_cover(uint64_t held, uint64_t needed)
{
    return (needed & ~scopes_close(held)) == 0;
}

char *scopes_format(uint64_t scopes, char text[SCOPES_TEXT_MAX])
{
    char *at = text;

    for (unsigned i = 0; i < SCOPE_COUNT; i++) {
        if ((scopes >> i & 1) == 0)
            continue;
        if (at != text)
            *at++ = ' ';
        memcpy(at, rows[i].text, rows[i].length);
        at += rows[i].length;
    }
    *at = '\0';
    return text;
}

const char *auth_method_text(uint64_t method)
{
    static const char *const texts[] = {
        [AUTH_NONE] = "", [AUTH_API_KEY] = "api_key", [AUTH_OAUTH] = "oauth", [AUTH_SESSION] = "session",
    };

    return method < sizeof texts / sizeof texts[0] ? texts[method] : "";
}

const char *tier_text(uint64_t tier)
{
    static const char *const texts[] = {
        [TIER_NONE] = "", [TIER_ADMIN] = "admin", [TIER_API_KEY] = "api_key", [TIER_OAUTH] = "oauth",
    };

    return tier < sizeof texts / sizeof texts[0] ? texts[tier] : "";
}
