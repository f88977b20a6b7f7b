/* credentials.h - which credential a request presents.  Pure; never copies or keeps the text. */
#ifndef EDGE_CREDENTIALS_H
#define EDGE_CREDENTIALS_H

#include <stdbool.h>
#include <stddef.h>

#include "common/error.h"
#include "common/message.h"
#include "common/scope.h"
#include "services/edge/http_strict.h"

#define TOKEN_LENGTH_MAX 16384u    /* of a token or a session; what verdict_request.token carries */

struct credential {
    enum auth_method method;           /* AUTH_API_KEY, AUTH_OAUTH or AUTH_SESSION */
    const char *text;                  /* in the request's own buffer */
    size_t length;
    const char *beside;                /* the API key that came with a token; NULL: none */
    size_t beside_length;
};

/*
 * `x-api-key: <key>` or `Authorization: Bearer mcp_...` or of our form with another prefix (apikey.h), both only when they are the same key; any other Bearer value is a
 * token, whose key stands beside it; without either the cookie `session_cookie` ("": none; one that has __Secure- before
 * its name wins, because no other host can set it).
 * ERR_MALFORMED: two of one kind.  ERR_UNVERIFIED: none, or none that could be one.
 * *reterr_reason (static storage): two_credentials | no_credential | empty | token | checksum.
 */
enum err credentials_find(const struct http_head *head, const char *session_cookie, struct credential *ret_credential,
                          const char **reterr_reason) MUST_CHECK;

/*
 * What authz is asked with: method, digest, proof and beside of the request.  A token of three parts has the digest of what
 * is signed, so that a signature that can be written in two ways makes no second entry; its proof covers all of it.
 */
void credentials_digest(const struct credential *credential, struct verdict_request *request);

/* Does the query hold `access_token`?  URLs are logged everywhere, so a token there is refused (RFC 6750 2.3). */
bool credentials_are_in_query(const char *query);

/* What tells whose page made a request that carries a cookie. */
struct same_site {
    const char *allowed, *public_url;  /* settings allowed_origins and public_url; "*" does not count here */
    const char *host;                  /* as the client called us */
    bool is_safe_method;               /* GET and HEAD, which change nothing */
};
/*
 * May a cookie count?  Browsers add it to requests of any page, so: the Origin is the host itself, public_url or an
 * allowed one; without an Origin Sec-Fetch-Site says same-origin or none; with neither only safe methods.
 */
bool credentials_are_same_site(const struct http_head *head, const struct same_site *site);

#endif
