/*
 * token.h - what an access token says, judged by the rules of its issuer (RFC 9068 4, RFC 8725 3).
 *
 * One list of steps (common/token_steps.def) judges and explains: token_judge() stops at the first refusal,
 * token_explain() goes on with every step that still can be made.  Pure: the clock and the key sets are the caller's.
 */
#ifndef COMMON_TOKEN_H
#define COMMON_TOKEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "common/issuers.h"
#include "common/jose.h"

#define TOKEN_SERVERS_MAX 4u      /* servers that a token names as audience and that are kept; more do not count */
#define TOKEN_DETAIL_MAX  400u

/* For which of our resources a token is, so that a cached one can be judged for another server. */
struct token_audience {
    uint64_t configured;                       /* bit i: audiences[i] of the issuer */
    bool is_origin;                            /* public_url itself */
    bool is_any;                               /* made for our application, which serves this gateway alone (github, google) */
    uint8_t server_count;
    char servers[TOKEN_SERVERS_MAX][65];       /* slugs of public_url/mcp/<slug> */
};

/* All that a verified token gives.  Texts are printable ASCII and fit the fields of the message `verdict`. */
struct token_context {
    const struct issuer *issuer;
    char user_id[65];                          /* docs/oauth.md says how it is made */
    char subject[256];                         /* user_claim as it stood, for linking with Better-Auth's `account` rows */
    char tenant_id[81];                        /* "": the issuer's rules name none */
    char client_id[129], session_id[65];       /* sid; "": none */
    char token_id[129];                        /* jti or uti */
    char signer[JOSE_THUMBPRINT_SIZE];         /* of the key that signed it; "": it is opaque */
    uint64_t scopes;                           /* closed */
    enum tier tier;
    int64_t expires_s;                         /* from then on it is refused: exp and the leeway; 0: not said (introspection only) */
    int64_t issued_s;                          /* iat; 0: not said */
    bool second_factor;
    struct token_audience audience;
};

/*
 * What may end a token before its time: the key that signed it, the token itself, all of its subject's.  Each has a name, the
 * same wherever it is spoken of (mcpgw.bond() in Postgres, key_id of a CHANGE_BOND, `bonds` of a verdict).
 */
enum token_bond { BOND_SIGNER, BOND_TOKEN, BOND_SUBJECT, TOKEN_BONDS };
#define TOKEN_BOND_SIZE 23u       /* base64url of 16 bytes of a SHA-256, and the NUL */

/* value: the key's RFC 7638 thumbprint; jti or uti; what user_claim names.  issuer: its name in the settings. */
/* A token without jti and uti, and every opaque one, is known by its digest, of whichever issuer it is. */
#define TOKEN_BY_DIGEST "sha256:"
/* Of a token: by jti or uti, or by TOKEN_BY_DIGEST and base64url. */
void token_bond_of(const char *issuer, const char *value, char ret_name[TOKEN_BOND_SIZE]);
void token_bond(enum token_bond bond, const char *issuer, const char *value, char ret_name[TOKEN_BOND_SIZE]);

struct token_question {
    const struct issuers *issuers;
    struct jose_keys *const *keys;     /* one per issuer, in their order; an entry may be NULL: not known yet */
    const char *text;
    size_t size;
    const char *server;                /* slug; "": the gateway's own API; NULL: any resource of ours will do */
    int64_t now_s;                     /* CLOCK_REALTIME */
};

/* JOSE_FINE and the context, or why not; jose_reason_error() is the caller's error.
 * *ret_issuer (may be NULL): the issuer whose keys are lacking or too old, with KEYS_MISSING and KEY_UNKNOWN. */
enum jose_reason token_judge(const struct token_question *question, struct token_context *ret_context,
                             const struct issuer **ret_issuer) MUST_CHECK;

/* Whose it claims to be and which (issuer, token_id, expires_s; 0: not said), without a look at its signature. */
enum jose_reason token_identify(const struct token_question *question, struct token_context *ret_context) MUST_CHECK;

/* Is this (cached) token for that server?  Compares texts only. */
bool token_serves(const struct token_context *context, const struct issuers *issuers, const char *server);

/*
 * The same judgement of what an introspection endpoint answered (200, JSON) about an opaque token: RFC 7662, GitHub's
 * "check a token" or Google's tokeninfo, by the issuer's preset.  The answer must be active and prove an audience.
 */
enum jose_reason token_judge_answer(const struct token_question *question, const struct issuer *issuer,
                                    const char *body, size_t size, struct token_context *ret_context) MUST_CHECK;

/* ---- explanation ------------------------------------------------------------------------------------- */

enum token_step {
#define STEP(name, text, needs, meaning) TOKEN_##name,
#include "common/token_steps.def"
    TOKEN_STEP_COUNT
};
#define TOKEN_BIT(name) (1u << TOKEN_##name)

enum token_outcome { TOKEN_PASSED, TOKEN_REFUSED, TOKEN_NOT_REACHED };

struct token_explained {
    enum token_outcome outcome;
    enum jose_reason reason;           /* of a refused step */
    char detail[TOKEN_DETAIL_MAX];     /* what was found; printable, never the signature */
};

const char *token_step_text(enum token_step step);       /* "audience" */
const char *token_step_meaning(enum token_step step);
/* Fills all steps; returns what token_judge() would have.  The context is there if that is JOSE_FINE. */
enum jose_reason token_explain(const struct token_question *question, struct token_explained steps[TOKEN_STEP_COUNT],
                               struct token_context *ret_context);
/* The whole explanation as JSON {"accepted":…,"reason":…,"steps":[…],"context":{…}}: the answer of
 * POST /api/v1/tokens/explain and of `mcpgw token explain --json`.  The caller owns it; NULL: no memory. */
json_t *token_explain_json(const struct token_question *question);

#endif
