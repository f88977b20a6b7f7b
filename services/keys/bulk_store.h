/* bulk_store.h - all SQL about many keys at once. */
#ifndef KEYS_BULK_STORE_H
#define KEYS_BULK_STORE_H

#include "services/keys/bulk_rules.h"
#include "services/keys/keys_store.h"

/* What a call may reach, besides what its filter says; NULL: no bound. */
struct bulk_reach {
    const char *tenant_id, *reference_id;
    bool is_organization;      /* of reference_id */
};

extern const struct postgres_statement bulk_statements[];

/* Rows of id and permissions, at most fields->limit + 1, of keys that the action would change; `ids` is an array of Postgres or NULL. */
enum err store_pick_keys(struct store *store, const struct bulk_fields *fields, const struct bulk_reach *reach,
                         const char *ids, postgres_fn *fn, void *owner) MUST_CHECK;
/* Changes these keys, all or none; behind act, claim and lock the rows that were changed, one id each. */
enum err store_change_keys(struct store *store, const struct store_actor *actor, enum bulk_action action, const char *ids,
                           postgres_fn *fn, void *owner) MUST_CHECK;
#define BULK_CHANGED_ROWS 3    /* place of those among the results */

#endif
