/* credentials.h - which credential a request presents.  Pure; never copies or keeps the text. */
#ifndef EDGE_CREDENTIALS_H
#define EDGE_CREDENTIALS_H

#include <stddef.h>

#include "common/error.h"
#include "services/edge/http_strict.h"

struct credential {
    const char *text;      /* an API key, in the request's own buffer */
    size_t length;
};

/*
 * `x-api-key: <key>` or `Authorization: Bearer mcp_...`; both only when they are the same key.
 * ERR_MALFORMED: a field twice, or two different keys.  ERR_UNVERIFIED: none, or none that could be a key.
 * *reterr_reason (static storage): two_credentials | no_credential | empty | token | checksum.
 */
enum err credentials_find(const struct http_head *head, struct credential *ret_credential,
                          const char **reterr_reason) MUST_CHECK;

#endif
