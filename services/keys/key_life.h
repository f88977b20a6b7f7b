/* key_life.h - what happens to a key in time: rotation, the policy of its tenant, keys that end by themselves. */
#ifndef KEYS_KEY_LIFE_H
#define KEYS_KEY_LIFE_H

#include "services/keys/key_life_store.h"
#include "services/keys/keys_calls.h"

begin_fn begin_key_rotate;

/* Refuses with ERR_UNPROCESSABLE what the policy does not allow; a life that was not asked for is cut to it. */
enum err key_life_decide(const struct key_policy *policy, bool is_new, struct key_fields *fields,
                         struct problem *reterr) MUST_CHECK;
/* "14,7,1": at most 8 numbers of 1 to 365.  false: anything else. */
bool key_life_days_are_valid(const char *days);

/* Every minute: disables what policies end, tells what expires soon. */
void key_life_turn(struct keys *keys);

#endif
