/* issuers_rules.h - what an issuer's documents must say before they are believed.  Pure. */
#ifndef KEYS_ISSUERS_RULES_H
#define KEYS_ISSUERS_RULES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/fetch.h"
#include "common/issuers.h"
#include "common/jose.h"

#define DISCOVERY_FORMS_MAX 3u
#define ISSUER_ERROR_MAX    300u     /* mcpgw.issuer_keys.last_error */

struct discovery_forms {
    size_t count;
    char urls[DISCOVERY_FORMS_MAX][FETCH_URL_MAX + 1];
};

/*
 * Where the discovery document may be, in the order in which it is looked for: the configured URL; if that is where
 * OpenID Connect Discovery 4 puts it, also the two places of RFC 8414 3.1 (the well-known part between host and path).
 * None: jwks_url is configured.
 */
void issuer_discovery_forms(const struct issuer *issuer, struct discovery_forms *ret_forms);
/* Of this status another form is asked for: the document is not here. */
bool issuer_asks_next_form(int status);

/*
 * Reads jwks_uri of a discovery document whose `issuer` is exactly the configured one (RFC 8414 3.3; a template for
 * several Entra directories is compared as it is).  ERR_UPSTREAM with a sentence in reterr.
 */
enum err issuer_read_discovery(const struct issuer *issuer, const struct fetch_answer *answer, bool allow_plain_http,
                               char ret_jwks_url[FETCH_URL_MAX + 1], char *reterr, size_t reterr_size) MUST_CHECK;

struct issuer_set {
    char *text;                        /* the set as it is stored: one line, members in order, nothing private; free() it */
    size_t count, skipped;
    char first_skipped[200];           /* why; "" if none was */
};
void issuer_set_wipe(struct issuer_set *set);
/* ERR_UPSTREAM: no key set, or none of its keys can be used; a sentence in reterr.  ERR_NO_MEMORY. */
enum err issuer_read_keys(const struct fetch_answer *answer, struct issuer_set *ret_set, char *reterr, size_t reterr_size) MUST_CHECK;

/* Seconds until the next fetch: what the answer says, between five minutes and refresh_s. */
uint64_t issuer_fresh_s(const struct issuer *issuer, const struct fetch_answer *answer);

#endif
