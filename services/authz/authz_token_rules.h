/*
 * authz_token_rules.h - what a verified token or session gives its bearer, and when a key beside it decides instead: the
 * whole policy, without a clock, a store or a socket.
 */
#ifndef AUTHZ_TOKEN_RULES_H
#define AUTHZ_TOKEN_RULES_H

#include <stdbool.h>
#include <stdint.h>

#include "common/encode.h"
#include "common/error.h"
#include "common/message.h"
#include "common/secret.h"
#include "common/token.h"
#include "services/authz/authz_rules.h"

#define SESSION_TOKEN_MAX 128u    /* bytes of a session's secret; Better-Auth makes 32 */
#define SESSION_ROLES_MAX 256u
#define ACCOUNT_NAME_SIZE 52u     /* account:<base64url of a SHA-256> and NUL */

/* What Postgres says of a user, all at one change number. */
struct principal {
    uint64_t sequence;
    bool exists, banned;
    bool second_factor;                      /* the user has one, and the session that was asked about is younger */
    bool session_lives;                      /* the session that was asked about, or none was */
    uint64_t session_ends_us;                /* of that session, Unix time; 0: none was asked about */
    bool token_ended;                        /* an administrator did it */
    bool is_member;                          /* of the organization that was asked about */
    bool tenant_suspended;                   /* of the tenant that was asked about, else of the one token_join() finds */
    uint64_t tenant_rule, user_rule;         /* of the same one: common/rate_rule.h; 0: none */
    uint64_t linked_count;                   /* users that have the account that was asked about; the rest is of the one */
    bool departed;                           /* the last user that had it is deleted */
    char linked_user[AUTHZ_ID_MAX + 1];
    uint64_t organization_count;
    char organization_id[AUTHZ_ID_MAX + 1];  /* the user's only one */
    char roles[SESSION_ROLES_MAX];           /* Better-Auth's admin plugin: a comma list */
};

/* All that a verdict on a token or a session needs. */
struct token_facts {
    struct token_context context;            /* issuer NULL: a session */
    bool any_server;                         /* it names no audience and needs none: sessions, Better-Auth's own opaque tokens */
    char account[ACCOUNT_NAME_SIZE];         /* what changes call it; "": no account of Better-Auth is asked about */
    char bonds[TOKEN_BONDS][TOKEN_BOND_SIZE];    /* likewise; "": it has none such */
    char bonds_text[TOKEN_BONDS * TOKEN_BOND_SIZE];    /* all of them as a verdict tells them */
    uint64_t session_created_us;             /* of a session in Redis; 0: not known */
    bool is_impersonated;                    /* an administrator's, in the user's name */
    bool is_joined;                          /* those below are known */
    bool tenant_ambiguous, tenant_suspended;
    bool lacks_factor;                       /* a role of the user wants a second factor, and none is proved */
    uint64_t tenant_rule, user_rule;
};

/* Fills facts->account where the issuer has an account_provider.  As mcpgw.account_name() makes it. */
void token_name_account(struct token_facts *facts);

/* Fills facts->bonds of a token.  digest: of its text without the signature; of an opaque one of all of it. */
void token_name_bonds(struct token_facts *facts, const uint8_t digest[DIGEST_SIZE]);

/* A session as its store has it; texts are "" where there is none. */
struct session_row {
    const char *session_id, *user_id, *organization_id;    /* organization_id: chosen by the user for this session */
    uint64_t expires_us;                                   /* Unix time */
    uint64_t created_us;                                   /* 0: not known here */
    bool is_impersonated;
};

/* How sessions are read; the settings of their names. */
struct session_policy {
    uint64_t scopes;          /* of every session */
    const char *admin_roles;  /* comma list: a user with one of them holds admin */
    const char *factor_roles; /* comma list: a user with one of them does nothing without a second factor */
};

/* Is its session id one of Better-Auth's sessions?  That of another issuer is a name of its own. */
bool token_has_own_session(const struct token_context *context);

/*
 * Completes the facts of a token or session with what is known of its user.  NULL, or why it is refused (401).
 * A session's organization counts while the user is its member.
 * A user that an issuer maps to Better-Auth's table must be there, save a client that acts for itself (its sub is
 * its client_id).  A subject with an account in Better-Auth is that account's user from here on, whose only organization
 * goes before the issuer's tenant; one whose user was deleted is refused.
 */
const char *token_join(struct token_facts *facts, const struct principal *principal, const struct session_policy *policy);

/* The facts of a session.  ERR_UNPROCESSABLE: an id that no message carries. */
enum err session_facts_of(const struct session_row *row, struct token_facts *ret_facts) MUST_CHECK;

/*
 * The verdict for one server ("": the gateway's own API) that needs the scopes `needed`.  Sets neither `stale` nor `layer`.
 * A token for another server is ERR_UNVERIFIED, reason "audience".
 */
void token_decide(const struct token_facts *facts, const struct issuers *issuers, const char *server, uint64_t needed,
                  struct verdict *ret_verdict);

/* Does the API key beside a token decide, where the token alone gave `outcome`?  `fallback_any`: setting `fallback: any`. */
bool token_yields_to_key(enum err outcome, bool has_key, bool fallback_any);

/*
 * The secret of a session within a cookie's value or a bearer text.  A cookie: <secret>.<base64 of its HMAC-SHA-256>,
 * plain or as encodeURIComponent writes it, letter by letter, so that one session has no more than two spellings.
 * Without a signature only where `plain_allowed` (the bearer plugin without requireSignature).
 * ERR_UNVERIFIED: another signature.  ERR_NOT_FOUND: nothing that could be a session.
 */
enum err session_parse(const struct secret *key, const char *text, size_t size, bool plain_allowed,
                       char ret_token[SESSION_TOKEN_MAX + 1]) MUST_CHECK;

/*
 * Better-Auth's entry in its secondary storage: {"session":{"id","userId","expiresAt",...},"user":{...}}.  Times as RFC 3339
 * in UTC.  The texts of the row point into `ret_texts`.  ERR_MALFORMED.
 */
struct session_texts {
    char session_id[AUTHZ_ID_MAX + 1], user_id[AUTHZ_ID_MAX + 1], organization_id[AUTHZ_ID_MAX + 1];
};
enum err session_read_json(const char *json, size_t size, struct session_texts *ret_texts, struct session_row *ret_row) MUST_CHECK;

/*
 * Better-Auth's row of an opaque token as the answer an introspection endpoint would give of it, for token_judge_answer().
 * A row without audiences gets those of its issuer, and *ret_any says so.  The caller frees it; NULL: no memory, or
 * `audiences` is no list of texts.
 */
struct opaque_row {
    const char *client_id, *user_id, *session_id, *scopes, *audiences;    /* audiences: JSON; "": none */
    uint64_t expires_us;
};
char *opaque_answer(const struct opaque_row *row, const struct issuer *issuer, const struct issuers *issuers, bool *ret_any);

#endif
