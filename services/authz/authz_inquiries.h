/*
 * authz_inquiries.h - tokens and sessions: from memory, or one inquiry per token however many ask for it.
 *
 * An inquiry finds out what a token is (a JWT and its issuer's keys; a session in Postgres or Redis; Better-Auth's opaque
 * tokens; an introspection endpoint), then what Postgres says of its user at one change number.  Its facts count only
 * if no change applied since then names the user, tenant, session or issuer; else it starts again.
 */
#ifndef AUTHZ_INQUIRIES_H
#define AUTHZ_INQUIRIES_H

#include <stdbool.h>

#include "common/bus.h"
#include "common/issuers.h"
#include "services/authz/authz.h"

/* Tokens asked about at once (half of what a Postgres connection queues), and requests that wait for them. */
#define INQUIRIES_MAX        512u
#define INQUIRY_WAITERS_MAX  2048u
/* Of them, those that wait for a key set to be fetched: a flood of unknown key ids leaves the others to the rest. */
#define INQUIRIES_WAITING_MAX 64u
/* Inquiries of one token that changes overtook before we give up. */
#define INQUIRY_TRIES_MAX    5u

struct inquiries;

/* ERR_MALFORMED: a setting, one line in reterr. */
enum err inquiries_new(struct authz *authz, const struct issuers *issuers, struct inquiries **ret_inquiries,
                       char *reterr, size_t reterr_size) MUST_CHECK;
void inquiries_destroy(struct inquiries **inquiries);
/* The answer goes to the bus, at once or later. */
void inquiries_ask(struct inquiries *inquiries, const struct bus_token *token, const struct verdict_request *request);
/* Has it what it needs for an answer: Postgres, and the key sets as it has them? */
bool inquiries_are_ready(const struct inquiries *inquiries);
/* Changes were applied. */
void inquiries_note_changes(struct inquiries *inquiries);
/* Another history of the database: nothing that was read before counts. */
void inquiries_forget(struct inquiries *inquiries);
void inquiries_tell_health(struct inquiries *inquiries, struct ops *ops);

#endif
