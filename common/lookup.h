/*
 * lookup.h - one host name turned into addresses in the background (glibc's getaddrinfo_a).
 *
 * libpq and hiredis look names up inside their connect calls and would hold the loop for as long as a resolver takes:
 * 40 s when none answers.
 */
#ifndef COMMON_LOOKUP_H
#define COMMON_LOOKUP_H

#include <stdbool.h>
#include <stddef.h>

#include "common/error.h"
#include "common/loop.h"

#define LOOKUP_MAX  8u       /* addresses taken of one name */
#define LOOKUP_HOST 256u     /* a DNS name holds 253 letters (RFC 1035) */

struct lookup;

struct lookup_addresses {
    size_t count;                           /* 0: the name is not known, or no resolver answers */
    char texts[LOOKUP_MAX][64];             /* numeric; IPv6 may carry a scope */
};

typedef void lookup_fn(void *owner, const struct lookup_addresses *found);

/* false for numeric addresses, socket paths and "": connecting to those asks no resolver. */
bool lookup_is_needed(const char *host);

/* Calls fn once from the loop and is gone then: *ret_lookup is NULL before fn is called.  ret_lookup must live as long.
 * ERR_TOO_LARGE: no such name can be; ERR_OVERLOADED: no timer is free. */
enum err lookup_start(struct loop *loop, const char *host, lookup_fn *fn, void *owner,
                      struct lookup **ret_lookup) MUST_CHECK;
/* fn is not called any more.  What glibc is working on is left to it: its memory is not ours until it answers. */
void lookup_cancel(struct lookup **lookup);

#endif
