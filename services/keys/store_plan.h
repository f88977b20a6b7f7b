/*
 * store_plan.h - how the store's files put statements and changing transactions together; nobody else includes it.
 *
 * A changing transaction: act (who), claim (the request id), statements that do nothing unless the claim is ours, settle
 * (the triggers run), effect, and the object as it is then.
 */
#ifndef KEYS_STORE_PLAN_H
#define KEYS_STORE_PLAN_H

#include "services/keys/keys_store.h"

struct store {
    struct postgres *postgres;
    struct store_options options;
};

/* RFC 3339 in UTC, milliseconds as Better-Auth writes them. */
#define MOMENT(column) "to_char(" column " AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')"
#define NOW_MS         "date_trunc('milliseconds', now())"
/* The claim of this very attempt: without it a statement does nothing, because an earlier one did it. */
#define CLAIMED        "EXISTS (SELECT FROM mcpgw.request r WHERE r.user_id = $1 AND r.request_id = $2 AND r.attempt = $3)"
/* The claim of a change that is bound to tags ($7, with commas between): only to an object that has one of them, or for a repetition. */
#define CLAIM_IF(object, tag) \
    "INSERT INTO mcpgw.request (user_id, request_id, attempt, operation, fingerprint, object, at) SELECT $1, $2, $3, $4::smallint, $5, $6, now()" \
    " WHERE EXISTS (SELECT FROM mcpgw.request r WHERE r.user_id = $1 AND r.request_id = $2)" \
    " OR EXISTS (SELECT FROM " object " AND " tag " = ANY (string_to_array($7, ','))) ON CONFLICT DO NOTHING"
#define CURSOR_MOMENT(us) "(timestamptz 'epoch' + " us "::bigint * interval '1 microsecond')"

#define STORE_STATEMENTS_MAX 128u    /* in all tables together */

struct number { char text[24]; };

struct number number_of(uint64_t value);
const char *flag(bool value);
const char *text_or_null(const char *text);    /* NULL for "" */

/* A changing transaction in the making: act, claim, ... , settle, effect, object. */
struct plan {
    struct postgres_step steps[POSTGRES_STEPS_MAX];
    size_t count;
    struct number operation;
};

struct postgres_step *plan_add(struct plan *plan, const char *statement);
void step_value(struct postgres_step *step, const char *value);
/* A change that is bound to tags locks its object before it claims the id; without one of them it claims nothing. */
void plan_begin(struct plan *plan, const struct store_actor *actor);
/* A statement whose first three parameters are the claim. */
struct postgres_step *plan_claimed(struct plan *plan, const char *statement, const struct store_actor *actor);
/* Waits for whoever changes the key, so that the statements behind it see what they left. */
void plan_lock_key(struct plan *plan, const struct store_actor *actor);
/* `object_statement` takes the object of the actor, or of a creation its claim, and reads it as it is then. */
enum err plan_run(struct plan *plan, struct store *store, const struct store_actor *actor, const char *object_statement,
                  postgres_fn *fn, void *owner) MUST_CHECK;

#endif
