/*
 * authz_lookups.h - questions that memory cannot answer: Redis, then Postgres, one look-up per digest however many ask.
 *
 * A fact is used only if no change applied since its snapshot names it; one that was overtaken on its way is read again.
 */
#ifndef AUTHZ_LOOKUPS_H
#define AUTHZ_LOOKUPS_H

#include "common/bus.h"
#include "common/encode.h"
#include "services/authz/authz.h"

/* Digests being looked up at once (half of what a Postgres connection queues), and requests that wait for them. */
#define LOOKUPS_MAX 512u
#define WAITERS_MAX 4096u
/* Reads of one digest that changes overtook before we give up. */
#define LOOKUP_TRIES_MAX 5u

enum err lookups_new(struct authz *authz, struct lookups **ret_lookups) MUST_CHECK;
void lookups_destroy(struct lookups **lookups);
/* The answer goes out by authz_answer or authz_answer_unavailable, at once when there is no room or no store. */
void lookups_join(struct lookups *lookups, const uint8_t digest[DIGEST_SIZE], const struct bus_token *token,
                  const struct authz_ask *ask);

#endif
