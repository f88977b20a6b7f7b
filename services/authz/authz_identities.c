#include "services/authz/authz_identities.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/postgres.h"
#include "common/rate_rule.h"

/* Longer than any look-up should take and shorter than a caller waits. */
#define TIMEOUT_MS 1000u

struct identities {
    struct identities_options options;
    struct postgres *postgres;
    keysets_fn *keysets_fn, *states_fn;
    void *keysets_owner;
};

enum principal_column {
    P_SEQUENCE, P_EXISTS, P_BANNED, P_SECOND_FACTOR, P_COUNT, P_ORGANIZATION_ID, P_ROLES, P_LIVES, P_SUSPENDED, P_MEMBER,
    P_LINKED, P_LINKED_COUNT, P_DEPARTED, P_TENANT_REQUESTS, P_TENANT_WINDOW_S, P_USER_REQUESTS, P_USER_WINDOW_S,
    P_ENDED, P_SESSION_ENDS_US
};
enum session_column { S_SESSION_ID, S_USER_ID, S_EXPIRES_US, S_ORGANIZATION_ID };
enum opaque_column { O_CLIENT_ID, O_USER_ID, O_SESSION_ID, O_SCOPES, O_AUDIENCES, O_EXPIRES_US, O_ENDED };
enum keyset_column { K_SEQUENCE, K_NAME, K_ISSUER, K_JWKS };

#define MICROSECONDS(column) \
    "CASE WHEN " column " <= 'epoch' THEN 1 ELSE (extract(epoch FROM least(" column ", '9999-01-01')) * 1000000)::bigint END"

/* The change number comes from the snapshot of the row itself. */
static const struct postgres_statement statements[] = {
    { "principal",
      "SELECT q.value, p.user_id IS NOT NULL, coalesce(p.banned, false),"
      " coalesce(p.second_factor, false) AND mcpgw.session_proves_factor(p.user_id, $2, $7::bigint),"
      " coalesce(p.organization_count, 0), p.organization_id, left(p.roles, 255),"
      " $2 = '' OR coalesce(e.ends > now(), false), coalesce(t.suspended, false), m.is_member,"
      " l.user_id, coalesce(l.users, 0), coalesce(l.departed, false),"
      " t.limit_requests, t.limit_window_s, t.user_limit_requests, t.user_limit_window_s,"
      " $8 <> '' AND mcpgw.token_ended($8, $9, $10::bigint), " MICROSECONDS("e.ends")
      " FROM mcpgw.change_sequence q LEFT JOIN mcpgw.find_linked(nullif($5, ''), $6) l ON true"
      " LEFT JOIN mcpgw.find_principal(coalesce(l.user_id, $1)) p ON true"
      " CROSS JOIN LATERAL (SELECT mcpgw.session_ends(nullif($2, '')) AS ends) e"
      " CROSS JOIN LATERAL (SELECT $4 <> '' AND mcpgw.is_member($1, $4) AS is_member) m"
      " LEFT JOIN mcpgw.tenant_state t ON t.id = CASE WHEN l.user_id IS NULL"
      " THEN coalesce(nullif($3, ''), CASE WHEN m.is_member THEN $4 END, p.organization_id, 'user:' || $1)"
      " ELSE coalesce(p.organization_id, nullif($3, ''), 'user:' || l.user_id) END" },
    { "session",
      "SELECT s.session_id, s.user_id, " MICROSECONDS("s.expires_at") ", s.organization_id FROM mcpgw.find_session($1) s" },
    { "opaque",
      "SELECT o.client_id, o.user_id, o.session_id, left(o.scopes, 4000), left(o.audiences, 8000), "
      MICROSECONDS("o.expires_at") ", o.ended FROM mcpgw.find_opaque($1, $2) o" },
    { "keysets",
      "SELECT q.value, k.name, k.issuer, k.jwks FROM mcpgw.change_sequence q"
      " LEFT JOIN mcpgw.issuer_keys k ON k.jwks IS NOT NULL" },
    { "keyset_states", "SELECT k.name, k.issuer, coalesce((extract(epoch FROM clock_timestamp() - k.fetched_at) * 1000)::bigint, -1), k.failures"
                       " FROM mcpgw.issuer_keys k" },
    { "want", "SELECT pg_notify('mcpgw_issuer_wanted', $1)" },
    { 0 }
};

static void on_state(void *owner, bool connected)
{
    struct identities *identities = owner;

    (void)connected;
    identities->options.on_state(identities->options.owner);
}

enum err identities_new(struct loop *loop, const struct identities_options *options, struct identities **ret_identities)
{
    struct identities *identities = calloc(1, sizeof *identities);
    struct postgres_options postgres = {
        .url = options->url, .statements = statements, .application_name = "mcpgw-authz-tokens", .timeout_ms = TIMEOUT_MS,
        .on_state = on_state, .owner = identities,
    };
    enum err err;

    if (identities == NULL)
        return ERR_NO_MEMORY;
    identities->options = *options;
    err = postgres_new(loop, &postgres, &identities->postgres);
    if (err != ERR_OK) {
        identities_destroy(&identities);
        return err;
    }
    *ret_identities = identities;
    return ERR_OK;
}

void identities_destroy(struct identities **identities)
{
    if (*identities == NULL)
        return;
    postgres_destroy(&(*identities)->postgres);
    free(*identities);
    *identities = NULL;
}

bool identities_are_connected(const struct identities *identities)
{
    return postgres_is_connected(identities->postgres);
}

static bool is_answered(enum postgres_outcome outcome, size_t count)
{
    return outcome == PG_DONE && count == 1;
}

static void on_principal(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    struct identity_call *call = owner;
    struct principal principal = { 0 };
    const PGresult *r;

    if (!is_answered(outcome, count) || PQntuples(results[0]) != 1) {
        call->on_principal(call->owner, ERR_UNAVAILABLE, NULL);
        return;
    }
    r = results[0];
    principal.sequence = (uint64_t)postgres_i64(r, 0, P_SEQUENCE);
    principal.exists = postgres_flag(r, 0, P_EXISTS);
    principal.banned = postgres_flag(r, 0, P_BANNED);
    principal.second_factor = postgres_flag(r, 0, P_SECOND_FACTOR);
    principal.session_lives = postgres_flag(r, 0, P_LIVES);
    principal.session_ends_us = (uint64_t)postgres_i64(r, 0, P_SESSION_ENDS_US);
    principal.token_ended = postgres_flag(r, 0, P_ENDED);
    principal.tenant_suspended = postgres_flag(r, 0, P_SUSPENDED);
    principal.is_member = postgres_flag(r, 0, P_MEMBER);
    principal.tenant_rule = rate_rule((uint64_t)postgres_i64(r, 0, P_TENANT_REQUESTS), (uint64_t)postgres_i64(r, 0, P_TENANT_WINDOW_S));
    principal.user_rule = rate_rule((uint64_t)postgres_i64(r, 0, P_USER_REQUESTS), (uint64_t)postgres_i64(r, 0, P_USER_WINDOW_S));
    principal.organization_count = (uint64_t)postgres_i64(r, 0, P_COUNT);
    snprintf(principal.roles, sizeof principal.roles, "%s", postgres_text(r, 0, P_ROLES));
    /* An id that no message carries is nobody's tenant: as if there were several and none chosen. */
    if (!message_take_text(postgres_text(r, 0, P_ORGANIZATION_ID), principal.organization_id, AUTHZ_ID_MAX))
        principal.organization_count = UINT64_MAX;
    principal.departed = postgres_flag(r, 0, P_DEPARTED);
    principal.linked_count = (uint64_t)postgres_i64(r, 0, P_LINKED_COUNT);
    /* Likewise nobody's id. */
    if (!message_take_text(postgres_text(r, 0, P_LINKED), principal.linked_user, AUTHZ_ID_MAX))
        principal.linked_count = UINT64_MAX;
    call->on_principal(call->owner, ERR_OK, &principal);
}

enum err identities_find_principal(struct identities *identities, struct identity_call *call, const struct principal_question *question)
{
    char created[24], issued[24];
    struct postgres_step step = {
        .statement = "principal", .count = 10,
        .values = { question->user_id, question->session_id, question->tenant_id, question->organization_id, question->provider,
                    question->account, created, question->token_bond, question->subject_bond, issued },
    };

    snprintf(created, sizeof created, "%llu", (unsigned long long)question->session_created_us);
    snprintf(issued, sizeof issued, "%" PRId64, question->issued_s);
    return postgres_call(identities->postgres, &step, on_principal, call);
}

static void on_session(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    struct identity_call *call = owner;
    struct session_row row;

    if (!is_answered(outcome, count)) {
        call->on_session(call->owner, ERR_UNAVAILABLE, NULL);
        return;
    }
    if (PQntuples(results[0]) != 1) {
        call->on_session(call->owner, ERR_NOT_FOUND, NULL);
        return;
    }
    row = (struct session_row){
        .session_id = postgres_text(results[0], 0, S_SESSION_ID), .user_id = postgres_text(results[0], 0, S_USER_ID),
        .expires_us = (uint64_t)postgres_i64(results[0], 0, S_EXPIRES_US),
        .organization_id = postgres_text(results[0], 0, S_ORGANIZATION_ID),
    };
    call->on_session(call->owner, ERR_OK, &row);
}

enum err identities_find_session(struct identities *identities, struct identity_call *call, const char *token)
{
    struct postgres_step step = { .statement = "session", .count = 1, .values = { token } };

    return postgres_call(identities->postgres, &step, on_session, call);
}

static void on_opaque(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    struct identity_call *call = owner;
    struct opaque_row row;

    if (!is_answered(outcome, count)) {
        call->on_opaque(call->owner, ERR_UNAVAILABLE, NULL);
        return;
    }
    if (PQntuples(results[0]) != 1 || postgres_flag(results[0], 0, O_ENDED)) {
        call->on_opaque(call->owner, PQntuples(results[0]) != 1 ? ERR_NOT_FOUND : ERR_UNVERIFIED, NULL);
        return;
    }
    row = (struct opaque_row){
        .client_id = postgres_text(results[0], 0, O_CLIENT_ID), .user_id = postgres_text(results[0], 0, O_USER_ID),
        .session_id = postgres_text(results[0], 0, O_SESSION_ID), .scopes = postgres_text(results[0], 0, O_SCOPES),
        .audiences = postgres_text(results[0], 0, O_AUDIENCES),
        .expires_us = (uint64_t)postgres_i64(results[0], 0, O_EXPIRES_US),
    };
    call->on_opaque(call->owner, ERR_OK, &row);
}

enum err identities_find_opaque(struct identities *identities, struct identity_call *call, const char *digest_text,
                                const char *token)
{
    struct postgres_step step = { .statement = "opaque", .count = 2, .values = { digest_text, token } };

    return postgres_call(identities->postgres, &step, on_opaque, call);
}

static void on_keysets(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    struct identities *identities = owner;
    struct keyset_rows rows;

    if (!is_answered(outcome, count) || PQntuples(results[0]) == 0) {
        identities->keysets_fn(identities->keysets_owner, NULL);
        return;
    }
    rows = (struct keyset_rows){ .sequence = (uint64_t)postgres_i64(results[0], 0, K_SEQUENCE), .rows = results[0] };
    /* The outer join gives one row of NULLs when there is no set. */
    if (!PQgetisnull(results[0], 0, K_NAME))
        rows.count = (size_t)PQntuples(results[0]);
    identities->keysets_fn(identities->keysets_owner, &rows);
}

enum err identities_read_keysets(struct identities *identities, keysets_fn *fn, void *owner)
{
    struct postgres_step step = { .statement = "keysets" };

    identities->keysets_fn = fn;
    identities->keysets_owner = owner;
    return postgres_call(identities->postgres, &step, on_keysets, identities);
}

static void on_states(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    struct identities *identities = owner;
    struct keyset_rows rows;

    if (!is_answered(outcome, count)) {
        identities->states_fn(identities->keysets_owner, NULL);
        return;
    }
    rows = (struct keyset_rows){ .rows = results[0], .count = (size_t)PQntuples(results[0]) };
    identities->states_fn(identities->keysets_owner, &rows);
}

enum err identities_read_states(struct identities *identities, keysets_fn *fn, void *owner)
{
    struct postgres_step step = { .statement = "keyset_states" };

    identities->states_fn = fn;
    identities->keysets_owner = owner;
    return postgres_call(identities->postgres, &step, on_states, identities);
}

struct keyset_state keyset_state(const struct keyset_rows *rows, size_t index)
{
    return (struct keyset_state){
        .name = postgres_text(rows->rows, (int)index, 0), .issuer = postgres_text(rows->rows, (int)index, 1),
        .age_ms = postgres_i64(rows->rows, (int)index, 2), .failures = postgres_i64(rows->rows, (int)index, 3),
    };
}

const char *keyset_name(const struct keyset_rows *rows, size_t index)
{
    return postgres_text(rows->rows, (int)index, K_NAME);
}

const char *keyset_issuer(const struct keyset_rows *rows, size_t index)
{
    return postgres_text(rows->rows, (int)index, K_ISSUER);
}

const char *keyset_text(const struct keyset_rows *rows, size_t index, size_t *ret_size)
{
    *ret_size = (size_t)PQgetlength(rows->rows, (int)index, K_JWKS);
    return postgres_text(rows->rows, (int)index, K_JWKS);
}

static void on_wanted(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    (void)owner;
    (void)outcome;
    (void)results;
    (void)count;
}

void identities_want(struct identities *identities, const char *issuer)
{
    struct postgres_step step = { .statement = "want", .count = 1, .values = { issuer } };
    enum err err = postgres_call(identities->postgres, &step, on_wanted, NULL);

    (void)err;    /* keys refreshes by time as well */
}
