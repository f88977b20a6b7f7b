/*
 * key_bounds.h - a key gives no key more than it has: what it makes, changes, enables or rotates reaches no further than
 * itself in addresses, servers, tools, life, rate and uses (scopes and tenants: keys_rules.h).  Pure.
 */
#ifndef KEYS_KEY_BOUNDS_H
#define KEYS_KEY_BOUNDS_H

#include "services/keys/keys_store.h"

/* Of the key that makes the call; a session or a token has none. */
struct key_bounds {
    bool is_key;
    bool is_alive;                              /* there, enabled, neither revoked nor expired, at the time of the look-up */
    bool is_metered, limits_addresses, limits_names;    /* a number of uses; allowedIps; servers or tools */
    uint64_t life_s;                            /* whole seconds that are left; 0: it never expires */
    char expires_at[33];                        /* as struct key_row has it; "": never */
    uint64_t rate_requests, rate_window_ms;     /* 0: no limit of its own that counts */
    bool ignores_plugins_rate;                  /* better_auth_row_limits=ignore_default */
    char addresses[REACH_NETWORKS_MAX * NETWORK_TEXT_SIZE + 1];    /* a network a line */
};

/* Does this operation hand out reach, so that the bounds must be looked up? */
bool key_bounds_are_wanted(uint64_t operation);
/* From the caller's standing; `row_limits` is better_auth_row_limits: a limit that authz ignores binds nobody. */
void key_bounds_take(const struct standing *standing, const char *row_limits, struct key_bounds *ret_bounds);
bool key_bounds_limit(const struct key_bounds *bounds);    /* is there any bound at all? */
/* ERR_DENIED: the key has gone since the call was let in. */
enum err key_bounds_decide_caller(const struct key_bounds *bounds, struct problem *reterr) MUST_CHECK;
/* A new key takes each bound that its body does not name; ERR_DENIED: it names a wider one. */
enum err key_bounds_decide_new(const struct key_bounds *bounds, struct key_fields *fields, struct problem *reterr) MUST_CHECK;
/*
 * An existing key after the change; fields NULL: it is enabled or rotated.  is_itself: it is the key that makes the call.
 * ERR_DENIED: it would reach further.  Name, environment and metadata are nobody's reach.
 */
enum err key_bounds_decide_change(const struct key_bounds *bounds, const struct key_row *key, bool is_itself,
                                  const struct key_fields *fields, struct problem *reterr) MUST_CHECK;
/* For calls about many keys. */
enum err key_bounds_decide_many(const struct key_bounds *bounds, struct problem *reterr) MUST_CHECK;

#endif
