#include "services/keys/key_life_store.h"

#include <string.h>

#include "services/keys/store_plan.h"

#define FORMER_MAX "4"    /* former values of a key that work at once */

enum { STEP_ROTATE = 4, STEP_ROTATE_AGAIN = 6 };

const struct postgres_statement key_life_statements[] = {
    { "rotate_keep", "INSERT INTO mcpgw.former (digest, key_id, expires_at)"
                     " SELECT a.key, a.id, " NOW_MS " + make_interval(secs => $5::double precision) FROM mcpgw.apikey a"
                     " WHERE a.id = $4 AND $5::bigint > 0 AND " CLAIMED
                     " AND NOT EXISTS (SELECT FROM mcpgw.key k WHERE k.key_id = $4 AND k.revoked_at IS NOT NULL)"
                     " AND (SELECT count(*) FROM mcpgw.former f WHERE f.key_id = $4 AND f.expires_at > now()) < " FORMER_MAX
                     " ON CONFLICT DO NOTHING" },
    { "rotate", "UPDATE mcpgw.apikey a SET key = $8, start = $6, \"updatedAt\" = " NOW_MS " WHERE a.id = $4 AND " CLAIMED
                " AND NOT EXISTS (SELECT FROM mcpgw.key k WHERE k.key_id = $4 AND k.revoked_at IS NOT NULL)"
                " AND NOT EXISTS (SELECT FROM mcpgw.apikey x WHERE x.key = $5)"
                " AND ($7::bigint = 0 OR EXISTS (SELECT FROM mcpgw.former f WHERE f.digest = a.key))" },
    /* Without an overlap nothing but the new value is wanted, so what works from rotations before ends too. */
    { "rotate_note", "WITH ended AS (UPDATE mcpgw.former f SET expires_at = " NOW_MS " WHERE f.key_id = $4 AND $6::bigint = 0"
                     " AND f.expires_at > now() AND " CLAIMED " AND EXISTS (SELECT FROM mcpgw.apikey x WHERE x.id = $4 AND x.key = $5))"
                     " INSERT INTO mcpgw.key AS k (key_id, rotated_at, rotated_by) SELECT $4, " NOW_MS ", $1 || ' ' || $2"
                     " WHERE " CLAIMED " AND EXISTS (SELECT FROM mcpgw.apikey x WHERE x.id = $4 AND x.key = $5)"
                     " ON CONFLICT (key_id) DO UPDATE SET rotated_at = excluded.rotated_at, rotated_by = excluded.rotated_by" },
    /* A repeated rotation: the first answer, and with it the secret, never reached its caller. */
    { "rotate_again", "UPDATE mcpgw.apikey a SET key = $7, start = $6, \"updatedAt\" = " NOW_MS " FROM mcpgw.request r, mcpgw.key k"
                      " WHERE r.user_id = $1 AND r.request_id = $2 AND r.attempt <> $3 AND r.fingerprint = $4 AND a.id = r.object"
                      " AND k.key_id = a.id AND k.rotated_by = $1 || ' ' || $2 AND k.revoked_at IS NULL"
                      " AND NOT EXISTS (SELECT FROM mcpgw.apikey x WHERE x.key = $5)" },
    { "policy", "SELECT t.max_life_s, t.max_keys, t.scopes, CASE WHEN t.max_keys IS NOT NULL AND NOT EXISTS"
                " (SELECT FROM mcpgw.request r WHERE r.user_id = $2 AND r.request_id = $3) THEN mcpgw.keys_in_tenant(t.id) END, t.key_prefix"
                " FROM mcpgw.tenant t WHERE t.id = $1" },
    { "check_key_room", "SELECT mcpgw.check_key_room($4, $5) WHERE " CLAIMED },
    { "check_key_count", "SELECT mcpgw.check_key_count($4) WHERE " CLAIMED },
    { "disable_overdue", "SELECT mcpgw.disable_overdue($1::boolean)" },
    { "tell_expiring", "SELECT mcpgw.tell_expiring(string_to_array($1, ',')::integer[])" },
    { "prune_key_life", "SELECT mcpgw.prune_key_life()" },
    { NULL, NULL }
};

enum err store_rotate_key(struct store *store, const struct store_actor *actor, const struct key_rotation *rotation,
                          postgres_fn *fn, void *owner)
{
    const struct number overlap = number_of(rotation->overlap_s);
    struct plan plan = { .count = 0 };
    struct postgres_step *step;

    plan_begin(&plan, actor);
    plan_lock_key(&plan, actor);
    step = plan_claimed(&plan, "rotate_keep", actor);
    step_value(step, actor->object);
    step_value(step, overlap.text);
    step = plan_claimed(&plan, "rotate", actor);
    step_value(step, actor->object);
    step_value(step, rotation->digest);
    step_value(step, rotation->start);
    step_value(step, overlap.text);
    step_value(step, rotation->stored);
    step = plan_claimed(&plan, "rotate_note", actor);
    step_value(step, actor->object);
    step_value(step, rotation->digest);
    step_value(step, overlap.text);
    step = plan_claimed(&plan, "rotate_again", actor);
    step_value(step, actor->fingerprint);
    step_value(step, rotation->digest);
    step_value(step, rotation->start);
    step_value(step, rotation->stored);
    return plan_run(&plan, store, actor, "key_get", fn, owner);
}

bool store_has_rotated(PGresult *const *results)
{
    return strcmp(PQcmdTuples(results[STEP_ROTATE]), "0") != 0 || strcmp(PQcmdTuples(results[STEP_ROTATE_AGAIN]), "0") != 0;
}

enum err store_load_policy(struct store *store, const struct store_actor *actor, const char *tenant_id, postgres_fn *fn,
                           void *owner)
{
    return postgres_call(store->postgres, &(struct postgres_step){
        .statement = "policy", .count = 3, .values = { tenant_id, actor->user_id, actor->claim_id } }, fn, owner);
}

void store_read_policy(const PGresult *rows, struct key_policy *ret_policy)
{
    *ret_policy = (struct key_policy){ .max_life_s = (uint64_t)postgres_i64(rows, 0, 0),
                                       .max_keys = (uint64_t)postgres_i64(rows, 0, 1),
                                       .scopes = postgres_text(rows, 0, 2),
                                       .keys = (uint64_t)postgres_i64(rows, 0, 3), .key_prefix = postgres_text(rows, 0, 4) };
}

enum err store_disable_overdue(struct store *store, bool is_idle, postgres_fn *fn, void *owner)
{
    const char *reason = is_idle ? "policy: unused for too long" : "policy: not rotated in time";
    const struct postgres_step steps[] = {
        { .statement = "act", .count = 7, .values = { "key.disabled", "", "", "", "", "", reason } },
        { .statement = "disable_overdue", .count = 1, .values = { flag(is_idle) } },
    };

    return postgres_transaction(store->postgres, steps, 2, fn, owner);
}

enum err store_tell_expiring(struct store *store, const char *days, postgres_fn *fn, void *owner)
{
    return postgres_call(store->postgres,
                         &(struct postgres_step){ .statement = "tell_expiring", .count = 1, .values = { days } }, fn, owner);
}

enum err store_prune_key_life(struct store *store, postgres_fn *fn, void *owner)
{
    return postgres_call(store->postgres, &(struct postgres_step){ .statement = "prune_key_life" }, fn, owner);
}
