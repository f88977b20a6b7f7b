/*
 * authz_identities.h - what Postgres says of sessions, opaque tokens, users and key sets: the SQL of tokens.
 *
 * A connection of its own, so that a flood of unknown tokens cannot hold up look-ups of keys, nor a lock on the key table
 * tokens.  Nothing blocks; without a connection a call fails at once.
 */
#ifndef AUTHZ_IDENTITIES_H
#define AUTHZ_IDENTITIES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "common/loop.h"
#include "common/secret.h"
#include "services/authz/authz_token_rules.h"

struct identities;

struct identities_options {
    const struct secret *url;
    void (*on_state)(void *owner);    /* the connection came or went */
    void *owner;
};

enum err identities_new(struct loop *loop, const struct identities_options *options, struct identities **ret_identities) MUST_CHECK;
void identities_destroy(struct identities **identities);    /* calls in flight are answered as not answered before it returns */
bool identities_are_connected(const struct identities *identities);

/*
 * Each is called once, ERR_UNAVAILABLE: not answered.  All texts end with the call.  A call that returns an error will not
 * be answered.
 */
typedef void principal_fn(void *owner, enum err err, const struct principal *principal);
/* ERR_NOT_FOUND: there is none. */
typedef void session_fn(void *owner, enum err err, const struct session_row *row);
/* ERR_NOT_FOUND: there is none.  ERR_UNVERIFIED: it is revoked, its client disabled, or bound to a key. */
typedef void opaque_fn(void *owner, enum err err, const struct opaque_row *row);

/* Lies with the caller until the answer came. */
struct identity_call {
    void *owner;
    principal_fn *on_principal;
    session_fn *on_session;
    opaque_fn *on_opaque;
};

/* Of a user; the others "": none is asked about.  At most one of tenant_id and organization_id is given. */
struct principal_question {
    const char *user_id, *session_id;
    uint64_t session_created_us;             /* where session_id is "": of a session in Redis */
    const char *tenant_id;                   /* that the token's issuer vouches for */
    const char *organization_id;             /* that a session names: whether the user is its member is answered */
    const char *provider, *account;          /* of Better-Auth: if a user has this account, that one is asked about */
    const char *token_bond, *subject_bond;   /* whether they were ended; "": a session */
    int64_t issued_s;
};
enum err identities_find_principal(struct identities *identities, struct identity_call *call,
                                   const struct principal_question *question) MUST_CHECK;
enum err identities_find_session(struct identities *identities, struct identity_call *call, const char *token) MUST_CHECK;
enum err identities_find_opaque(struct identities *identities, struct identity_call *call, const char *digest_text,
                                const char *token) MUST_CHECK;

/* All key sets there are, with the change number of the same snapshot; rows NULL: not answered. */
struct keyset_rows {
    uint64_t sequence;
    size_t count;
    const void *rows;
};
typedef void keysets_fn(void *owner, const struct keyset_rows *rows);
enum err identities_read_keysets(struct identities *identities, keysets_fn *fn, void *owner) MUST_CHECK;
const char *keyset_name(const struct keyset_rows *rows, size_t index);      /* the issuer's in the settings */
const char *keyset_issuer(const struct keyset_rows *rows, size_t index);    /* whose `iss` it was fetched for */
const char *keyset_text(const struct keyset_rows *rows, size_t index, size_t *ret_size);
/* How the keys service fares with each; rows NULL: not answered. */
struct keyset_state {
    const char *name, *issuer;
    int64_t age_ms;                          /* since the last fetch that brought a set; -1: none did */
    int64_t failures;                        /* since then */
};
enum err identities_read_states(struct identities *identities, keysets_fn *fn, void *owner) MUST_CHECK;
struct keyset_state keyset_state(const struct keyset_rows *rows, size_t index);
/* Tells the keys service that this issuer's set lacks a key.  Best effort. */
void identities_want(struct identities *identities, const char *issuer);

#endif
