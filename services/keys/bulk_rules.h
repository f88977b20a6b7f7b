/* bulk_rules.h - what a call about many keys may contain: pure functions over parsed JSON. */
#ifndef KEYS_BULK_RULES_H
#define KEYS_BULK_RULES_H

#include "services/keys/keys_rules.h"

#define BULK_MAX     500u     /* keys one call changes */
#define BULK_DEFAULT 100u

enum bulk_action { BULK_REVOKE, BULK_DISABLE, BULK_ENABLE, BULK_DELETE };

/* Empty texts and 0: no condition. */
struct bulk_fields {
    enum bulk_action action;
    bool is_dry_run;
    bool has_more;                           /* of the answer: more keys than `limit` were found */
    bool has_ids;                            /* filter.ids is a list of 1 to BULK_MAX texts */
    char user_id[65], tenant_id[81], name[KEYS_NAME_SIZE];
    char created_before[33], expires_before[33];    /* RFC 3339 */
    uint64_t unused_for_s, limit;
    char reason[KEYS_REASON_MAX + 1];
};

/* {"action","filter":{...},"dryRun","limit","reason"}; a filter without a condition is refused: nobody means every key. */
enum err bulk_parse(const json_t *body, struct bulk_fields *ret_fields, struct problem *reterr) MUST_CHECK;
const char *bulk_action_text(enum bulk_action action);    /* "revoke" */

#endif
