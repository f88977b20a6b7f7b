/* key_life_store.h - SQL of what happens to a key in time: rotation, policies of its tenant, notices. */
#ifndef KEYS_KEY_LIFE_STORE_H
#define KEYS_KEY_LIFE_STORE_H

#include "services/keys/keys_store.h"

extern const struct postgres_statement key_life_statements[];

struct key_rotation {
    const char *digest, *stored, *start;    /* of the new value; what the table stores of it (shape.h) */
    uint64_t overlap_s;
};

/* Object rows as store_read_key; store_read_rotation tells what was done. */
enum err store_rotate_key(struct store *store, const struct store_actor *actor, const struct key_rotation *rotation,
                          postgres_fn *fn, void *owner) MUST_CHECK;
/* false: nothing, because the key is revoked, too many former values work, or what this request made has changed since. */
bool store_has_rotated(PGresult *const *results);

/* Policy of a tenant's keys; 0 and "": no rule. */
struct key_policy {
    uint64_t max_life_s, max_keys, keys;
    const char *scopes;
    const char *key_prefix;    /* "": the usual one */
};
/* Its keys are not counted for a request that was made before: the key it asks for is among them. */
enum err store_load_policy(struct store *store, const struct store_actor *actor, const char *tenant_id, postgres_fn *fn,
                           void *owner) MUST_CHECK;
void store_read_policy(const PGresult *rows, struct key_policy *ret_policy);

/* Disables what its tenant's policy ends; [1] one number: how many. */
enum err store_disable_overdue(struct store *store, bool is_idle, postgres_fn *fn, void *owner) MUST_CHECK;
/* days: "14,7,1".  [0] one number: how many notices. */
enum err store_tell_expiring(struct store *store, const char *days, postgres_fn *fn, void *owner) MUST_CHECK;
enum err store_prune_key_life(struct store *store, postgres_fn *fn, void *owner) MUST_CHECK;

#endif
