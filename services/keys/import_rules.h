/* import_rules.h - keys that were made elsewhere, as rows of a call: pure functions over parsed JSON. */
#ifndef KEYS_IMPORT_RULES_H
#define KEYS_IMPORT_RULES_H

#include "common/secret.h"
#include "services/keys/keys_rules.h"

#define IMPORT_MAX       200u    /* rows of one call */
#define IMPORT_TEXT_MAX  32u     /* bytes of start and prefix */
#define IMPORT_SHORTEST  16u     /* bytes of a key: anything shorter is guessed */

/* One row.  Either the key itself or its digest. */
struct import_row {
    struct key_fields fields;                    /* the owner is in user_id, always */
    bool is_disabled;
    char expires_at[33];                         /* RFC 3339; "": what fields says */
    char start[IMPORT_TEXT_MAX + 1], prefix[IMPORT_TEXT_MAX + 1];
    const char *key;                             /* belongs to the row's JSON; NULL: only the digest is known */
    char digest[44];                             /* base64url of SHA-256, as Better-Auth stores it; "" when key is set */
};

/* {"keys": [...], "dryRun": true}; *ret_rows belongs to the body. */
enum err import_parse(const json_t *body, const json_t **ret_rows, bool *ret_is_dry_run, struct problem *reterr) MUST_CHECK;
enum err import_parse_row(const json_t *row, uint64_t default_expiry_s, struct import_row *ret_row,
                          struct problem *reterr) MUST_CHECK;

#endif
