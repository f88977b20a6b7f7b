/*
 * authz_token_cache.h - verified tokens and sessions in memory, by digest, and apart from them opaque ones that were refused.
 *
 * A token is remembered together with the proof (SHA-256 of all of it) that was verified: the same claims under another
 * signature find nothing, and once verified replace the entry.  It knows nothing of changes, like authz_cache.
 */
#ifndef AUTHZ_TOKEN_CACHE_H
#define AUTHZ_TOKEN_CACHE_H

#include <stddef.h>
#include <stdint.h>

#include "common/encode.h"
#include "common/error.h"
#include "services/authz/authz_token_rules.h"

struct token_cache;

struct token_entry {
    uint64_t sequence;            /* of the snapshot the facts were read in, or of a later change that left them true */
    uint64_t expires_us;          /* CLOCK_BOOTTIME */
    uint64_t expires_unix_s;      /* the credential's own end; 0: none */
    uint64_t method;              /* enum auth_method it was presented by */
    uint8_t proof[DIGEST_SIZE];
    const char *reason;           /* of a refused one, static storage; NULL: the facts count */
    const struct token_facts *facts;
};

/* accepted, refused: most entries of each, 1 to 2^30. */
enum err token_cache_new(size_t accepted, size_t refused, struct token_cache **ret_cache) MUST_CHECK;
void token_cache_destroy(struct token_cache **cache);
/* NULL: not there, of another proof, or expired.  Lives until the next call; `sequence` may be raised in place. */
struct token_entry *token_cache_find(struct token_cache *cache, const uint8_t digest[DIGEST_SIZE],
                                     const uint8_t proof[DIGEST_SIZE], uint64_t now_us, uint64_t now_unix_s);
/* entry->facts is copied; entry->reason set: refused. */
void token_cache_put(struct token_cache *cache, const uint8_t digest[DIGEST_SIZE], const struct token_entry *entry);
void token_cache_drop(struct token_cache *cache, const uint8_t digest[DIGEST_SIZE]);
void token_cache_clear(struct token_cache *cache);
size_t token_cache_count(const struct token_cache *cache);            /* accepted ones */
size_t token_cache_refused_count(const struct token_cache *cache);

#endif
