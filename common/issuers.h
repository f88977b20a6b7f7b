/*
 * issuers.h - the authorization servers whose tokens are accepted: the list `issuers:` of the settings file.
 *
 *   issuers:
 *     - name: corp
 *       preset: entra-v2
 *       azure_tenant: 7f0c2b3e-...
 *       client_id: 0b5d...
 *
 * common/issuers.def names every field.  authz judges by it, keys fetches the key sets, edge advertises and challenges.
 * With MCPGW_AZURE_TENANT_ID and MCPGW_AZURE_CLIENT_ID set, and no entra preset in the list, the issuers `entra` and
 * `entra-v1` stand at its end, so Entra needs no file.  docs/oauth.md is the page for operators.
 */
#ifndef COMMON_ISSUERS_H
#define COMMON_ISSUERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "common/error.h"
#include "common/scope.h"
#include "common/secret.h"

#define ISSUERS_MAX          16u
#define ISSUER_NAME_MAX      20u      /* so that <name>:<base64url of a SHA-256> is a userId of 64 bytes */
#define ISSUER_URL_MAX       512u
#define ISSUER_CLAIM_MAX     128u
#define ISSUER_VALUE_MAX     256u
#define ISSUER_LIST_MAX      32u      /* entries of one list */
#define ISSUER_AUDIENCES_MAX 64u      /* all audiences of an issuer: struct token_audience has a bit for each */
#define ISSUER_RULES_MAX     128u     /* all rules of an issuer */

enum issuer_preset { ISSUER_OIDC, ISSUER_ENTRA_V2, ISSUER_ENTRA_V1, ISSUER_BETTER_AUTH, ISSUER_GITHUB, ISSUER_GOOGLE, ISSUER_PRESETS };
/* What is done with a bearer value that is no JWT. */
enum issuer_opaque {
    OPAQUE_REFUSE,
    OPAQUE_INTROSPECT,     /* asks introspection_url in the preset's style */
    OPAQUE_DATABASE        /* Better-Auth's own table in our Postgres */
};

struct issuer_list {
    size_t count;
    char texts[ISSUER_LIST_MAX][ISSUER_VALUE_MAX + 1];
};

struct issuer_audience {
    char server[65];                   /* slug; "": for every server without a list of its own, and the gateway's API */
    char value[ISSUER_VALUE_MAX + 1];
};

enum issuer_rule_kind { RULE_SCOPE, RULE_TIER, RULE_TENANT, RULE_SECOND_FACTOR, RULE_REQUIRE, ISSUER_RULE_KINDS };

/* "A token whose `claim` is, or holds, `value` ..." */
struct issuer_rule {
    enum issuer_rule_kind kind;
    char claim[ISSUER_CLAIM_MAX + 1];  /* "scope" also reads `scp` where there is no `scope`; a dotted path is followed */
    char value[ISSUER_VALUE_MAX + 1];
    uint64_t scopes;                   /* RULE_SCOPE: what it grants, not closed */
    enum tier tier;                    /* RULE_TIER */
    char tenant[81];                   /* RULE_TENANT */
};

struct issuer {
    char name[ISSUER_NAME_MAX + 1];
    enum issuer_preset preset;
    char issuer[ISSUER_URL_MAX + 1];   /* what `iss` must be; with {tenantid} in it for several Entra directories */
    bool is_template;
    char discovery_url[ISSUER_URL_MAX + 1];    /* "": jwks_url is known, or there is no key set */
    char jwks_url[ISSUER_URL_MAX + 1];         /* "": the discovery document names it */
    char authorization_server[ISSUER_URL_MAX + 1];    /* as clients discover it (RFC 9728) */
    bool advertise;                    /* stands in the protected-resource metadata, in the order of the list */

    struct issuer_audience audiences[ISSUER_AUDIENCES_MAX];
    size_t audience_count;
    bool derive_audiences;             /* public_url/mcp/<slug> and public_url are audiences */
    unsigned algorithms;               /* JOSE_BIT()s; 0: no JWT of this issuer is accepted */
    struct issuer_list types;          /* accepted `typ`, without application/; none: any, absent included */

    char user_claim[ISSUER_CLAIM_MAX + 1];
    char user_prefix[ISSUER_NAME_MAX + 1];     /* userId is <prefix>:<claim>; "": the claim itself */
    bool local_users;                  /* the claim is the id of a row of Better-Auth's user table, which must be there */
    char account_provider[65];         /* providerId of Better-Auth's `account` rows whose accountId is the claim; "": none */
    char tenant_claim[ISSUER_CLAIM_MAX + 1];   /* "": none */
    char tenant[81];                   /* every token's tenant; "": by tenant_claim, by rules, else as for a user's key */
    struct issuer_rule rules[ISSUER_RULES_MAX];
    size_t rule_count;
    uint64_t grants;                   /* scopes of every token, beside those of the rules */
    char scope_prefix[ISSUER_VALUE_MAX + 1];   /* before a scope's name when it is asked for (api://<client id>/) */
    struct issuer_list clients;        /* none: any */

    enum issuer_opaque opaque;
    char opaque_prefix[33];            /* only opaque values that begin so are this issuer's */
    char introspection_url[ISSUER_URL_MAX + 1];
    char client_id[ISSUER_VALUE_MAX + 1];      /* Entra: the application; introspection: who asks */
    struct secret client_secret;

    char azure_tenant[65];             /* GUID, organizations, common or consumers */
    struct issuer_list azure_tenants;  /* accepted directories of a template; "any" alone: all */
    char azure_authority[ISSUER_URL_MAX + 1];

    uint64_t leeway_s, refresh_s, cooldown_s, keep_s;
};

struct issuers {
    char public_url[401];              /* without a slash at its end; "": no audience is derived */
    size_t count;
    struct issuer list[];
};

/* What of the other settings the list needs (common/config.def). */
struct issuers_options {
    const char *file;                  /* settings file; NULL or "": none */
    const char *public_url;            /* NULL as "" */
    const char *azure_tenant_id, *azure_client_id;
    const struct secret *azure_client_secret;    /* NULL: none */
    bool with_secrets;                 /* false (edge): client_secret and client_secret_file are checked, not read */
};

/*
 * Reads the list.  No list and no MCPGW_AZURE_*: an empty one.
 * ERR_MALFORMED: one line in `reterr` with file, line, issuer, field and remedy.  ERR_NO_MEMORY.
 */
enum err issuers_load(const struct issuers_options *options, struct issuers **ret_issuers,
                      char *reterr, size_t reterr_size) MUST_CHECK;
void issuers_destroy(struct issuers **issuers);    /* erases the secrets */
/* What a preset says of an entry that is otherwise zero: algorithms, types, claims, rules, times; no address. */
void issuer_set_defaults(struct issuer *issuer, enum issuer_preset preset);

const struct issuer *issuers_named(const struct issuers *issuers, const char *name);    /* NULL: none */
/* Whose introspection endpoint is shown a value that is no JWT: of those with `opaque: introspect` the one with the longest
 * opaque_prefix that it begins with.  NULL: nobody's. */
const struct issuer *issuers_of_opaque(const struct issuers *issuers, const char *text, size_t size);
const char *issuer_preset_text(enum issuer_preset preset);
bool issuer_is_entra(const struct issuer *issuer);
/* Does it have a key set (JWTs of it are accepted)? */
bool issuer_has_keys(const struct issuer *issuer);
/* Markdown table of the fields, for docs/oauth.md. */
void issuers_document(FILE *out);
/*
 * Is `iss` this issuer's?  For a template `directory` is the token's `tid` (NULL: absent): a GUID, within `iss`, and
 * one of azure_tenants.
 */
bool issuer_has_iss(const struct issuer *issuer, const char *iss, const char *directory);
/* A claim's name for these scopes in a challenge ("mcp:read mcp:proxy", for Entra with api://<id>/): for each scope the first
 * `scope` rule that grants it alone, else its plain name.  Returns `text`. */
char *issuer_format_scopes(const struct issuer *issuer, uint64_t scopes, char *text, size_t size);
/* Equal resource identifiers: a fragment and one closing slash are cut, scheme and host of http(s) URLs in any case
 * (RFC 8707 2, MCP "canonical server URI"). */
bool audience_equals(const char *a, const char *b);

#endif
