/* tokens_rules.h - which token, or whose, a call to revoke means.  Pure. */
#ifndef KEYS_TOKENS_RULES_H
#define KEYS_TOKENS_RULES_H

#include <jansson.h>

#include "common/token.h"
#include "services/keys/keys_rules.h"

struct token_end_fields {
    bool is_subject;
    char issuer[ISSUER_NAME_MAX + 1];
    char value[257];                         /* jti or uti; sha256:<digest> of a token without; the subject */
    char name[TOKEN_BOND_SIZE];
    char reason[KEYS_REASON_MAX + 1];
    char issued_before[33], expires_at[33];  /* RFC 3339; "": now; the longest time */
};

/* {"token"}, {"issuer", "id"} or {"issuer", "subject", "issuedBefore"}, each with expiresAt and reason. */
enum err tokens_parse(const json_t *body, const struct issuers *issuers, struct token_end_fields *ret_fields,
                      struct problem *reterr) MUST_CHECK;

#endif
