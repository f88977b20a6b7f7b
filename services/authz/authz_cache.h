/*
 * authz_cache.h - facts in memory: a fixed number of known keys and, apart from them, of unknown digests.
 *
 * Everything is reserved at the start; a full table gives up what was not asked for lately (CLOCK).  It knows nothing of
 * changes: whether a fact is still true is asked of authz_changes.
 */
#ifndef AUTHZ_CACHE_H
#define AUTHZ_CACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/encode.h"
#include "common/error.h"
#include "services/authz/authz_rules.h"

struct cache;

struct cache_entry {
    uint64_t sequence;             /* of the snapshot the facts were read in, or of a later change that left them true */
    uint64_t expires_us;           /* CLOCK_BOOTTIME */
    struct authz_facts *facts;     /* NULL: no such key */
};

/* known, unknown: most entries of each, 1 to 2^30.  Beside them a sixteenth of `known` for keys that have a reach. */
enum err cache_new(size_t known, size_t unknown, struct cache **ret_cache) MUST_CHECK;
void cache_destroy(struct cache **cache);

/* NULL: not there, or expired.  Lives until the next call that changes the cache; `sequence` may be raised in place. */
struct cache_entry *cache_find(struct cache *cache, const uint8_t digest[DIGEST_SIZE], uint64_t now_us);
/* Replaces what was known of this digest, a copy of the facts and their reach; facts NULL: that there is no such key. */
void cache_put(struct cache *cache, const uint8_t digest[DIGEST_SIZE], uint64_t sequence, uint64_t expires_us,
               const struct authz_facts *facts);
void cache_drop(struct cache *cache, const uint8_t digest[DIGEST_SIZE]);
void cache_clear(struct cache *cache);
size_t cache_known_count(const struct cache *cache);
size_t cache_unknown_count(const struct cache *cache);

#endif
