/* scope.h - scopes as a set of bits, with inheritance; tiers and authentication methods by name. */
#ifndef COMMON_SCOPE_H
#define COMMON_SCOPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum scope {
#define SCOPE(name, text, implies, meaning) SCOPE_##name,
#include "common/scope.def"
    SCOPE_COUNT
};

#define SCOPE_BIT(name) (UINT64_C(1) << SCOPE_##name)
#define SCOPE_ALL       ((UINT64_C(1) << SCOPE_COUNT) - 1)
#define SCOPES_TEXT_MAX 64    /* bytes of all scopes' names with blanks between, and the NUL */

/* Numbers travel in messages: append, never reorder. */
enum auth_method { AUTH_NONE, AUTH_API_KEY, AUTH_OAUTH, AUTH_SESSION };
enum tier { TIER_NONE, TIER_ADMIN, TIER_API_KEY, TIER_OAUTH };

const char *scope_text(enum scope scope);                           /* "read"; static storage */
bool scope_parse(const char *text, size_t length, enum scope *ret_scope);
/* The set with all that its members imply: admin -> everything, write -> read. */
uint64_t scopes_close(uint64_t scopes);
/* Does a holder of `held` (closed or not) have all of `needed`? */
bool scopes_cover(uint64_t held, uint64_t needed);
/* Names in table order with one blank between; returns `text`.  `text` has SCOPES_TEXT_MAX bytes. */
char *scopes_format(uint64_t scopes, char text[SCOPES_TEXT_MAX]);

const char *auth_method_text(uint64_t method);    /* "api_key"; "" for none and for unknown numbers */
const char *tier_text(uint64_t tier);             /* "admin", "api_key", "oauth"; "" otherwise */

#endif
