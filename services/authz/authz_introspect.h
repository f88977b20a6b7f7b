/*
 * authz_introspect.h - asks an authorization server about an opaque token: RFC 7662, and GitHub's and Google's own ways.
 */
#ifndef AUTHZ_INTROSPECT_H
#define AUTHZ_INTROSPECT_H

#include <stddef.h>

#include "common/error.h"
#include "common/fetch.h"
#include "common/issuers.h"
#include "common/loop.h"

/* Longest opaque token that is asked about; those of known servers have 20 to 2,000 bytes. */
#define INTROSPECT_TOKEN_MAX 4096u

/*
 * ERR_OK: `body` is what token_judge_answer() judges.  ERR_NOT_FOUND: the server says that the token is none of its.
 * ERR_UNAVAILABLE: no usable answer; that it refuses us is in the log.
 */
typedef void introspect_fn(void *owner, enum err err, const char *body, size_t size);

/* Lies with the caller until fn was called. */
struct introspection {
    struct fetch *fetch;
    const struct issuer *issuer;
    introspect_fn *fn;
    void *owner;
};

/* The caller sets issuer, fn and owner.  An error: not asked, and fn will not be called. */
enum err introspect_start(struct fetcher *fetcher, struct introspection *introspection, const char *token, size_t size) MUST_CHECK;

#endif
