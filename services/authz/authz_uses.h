/*
 * authz_uses.h - keys with a number of uses (Better-Auth's `remaining`): a use is spent for every verdict that says yes.
 *
 * Uses are taken from the row in blocks, so that no request waits for a write: one for a key that is seldom used, twice
 * as many whenever a block is spent within a second, up to USES_BLOCK_MAX.  Postgres gives the last 20 one by one
 * (mcpgw.take_uses says why).  What lies here is lost with the process, and given back when the key rests or at a
 * stop; nobody ever gets more uses than the row had.  A change that names the key ends what was taken before it.
 */
#ifndef AUTHZ_USES_H
#define AUTHZ_USES_H

#include <stdbool.h>
#include <stdint.h>

#include "services/authz/authz.h"
#include "services/authz/authz_rules.h"

/* Uses of one key that one process holds at most, beside those of requests it has in work. */
#define USES_BLOCK_MAX   64u
/* Keys with uses that are held at once, and requests that wait for Postgres. */
#define USES_KEYS_MAX    4096u
#define USES_WAITERS_MAX 2048u
/* A key that rests for so long gets back what is left. */
#define USES_IDLE_MS     2000u

struct uses;

enum use { USE_TAKEN, USE_SPENT, USE_WAITS, USE_NO_ROOM };

enum err uses_new(struct authz *authz, struct uses **ret_uses) MUST_CHECK;
void uses_destroy(struct uses **uses);

/*
 * One use for a verdict that says yes.  USE_WAITS: the question is kept, and is asked again (authz_ask_again) once
 * Postgres has answered, with `paid` set if it got one.  USE_NO_ROOM: too many keys or questions.
 */
enum use uses_take(struct uses *uses, const struct bus_token *token, const struct authz_ask *ask, const char *key_id);

/* To be called every second.  is_end: gives everything back, at a stop. */
void uses_tidy(struct uses *uses, bool is_end);
bool uses_are_back(const struct uses *uses);

#endif
