/*
 * identity.h - who a caller is, as a token that upstreams can verify (mcp-auth: a JWT of RFC 9068, typ at+jwt).
 *
 * A token is signed by the thread that first needs it, once for each principal, server and set of scopes, and kept until
 * half of its life is over: no signature is made on the way of a request that was here before.
 */
#ifndef EDGE_IDENTITY_H
#define EDGE_IDENTITY_H

#include <stdint.h>

#include "common/identity_keys.h"
#include "services/edge/exchange.h"
#include "services/edge/routes.h"

struct identity;

struct identity_options {
    const char *directory;         /* identity_keys; "": no identity is signed */
    const char *issuer;            /* public_url without its closing slash */
    uint64_t ttl_s, publish_s;
};

/* *ret_identity NULL when the directory is "".  Errors of identity_keys_load(); ERR_UNPROCESSABLE: no issuer. */
enum err identity_new(const struct identity_options *options, struct identity **ret_identity, char *reterr, size_t reterr_size) MUST_CHECK;
void identity_destroy(struct identity **identity);
/* Reads the directory again if it changed; what it cannot read is logged, and the keys in use stay. */
void identity_reload(struct identity *identity);

/*
 * The token for this principal at this server (aud is mcp://<server>), from any thread.
 * ERR_UNAVAILABLE: it cannot be signed now.
 */
enum err identity_token(struct identity *identity, const struct verdict *verdict, const char *server,
                        char ret_token[IDENTITY_TOKEN_SIZE]) MUST_CHECK;

/* GET /.well-known/jwks.json */
void identity_answer_keys(struct exchange *exchange, const struct route_match *match);

#endif
