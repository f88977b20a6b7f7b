#include "services/authz/authz_cache.h"

#include <stdlib.h>
#include <string.h>

#include "services/authz/authz_table.h"

/* One key in so many may have a reach before they push each other out. */
#define LIMITED_SHARE 16u

struct shelf {
    struct table *table;
    struct cache_entry *entries;    /* of place i at i */
    struct authz_facts *facts;      /* of place i at i; NULL on the shelf of unknown digests */
    uint8_t *reaches;               /* REACH_SIZE_MAX bytes of each; NULL where no facts have any */
};

struct cache {
    struct shelf known, limited, unknown;    /* limited: known keys that have a reach, so that the others stay small */
};

static enum err shelf_init(struct shelf *shelf, size_t capacity, bool with_facts, bool with_reaches)
{
    shelf->entries = calloc(capacity, sizeof *shelf->entries);
    shelf->facts = with_facts ? calloc(capacity, sizeof *shelf->facts) : NULL;
    shelf->reaches = with_reaches ? calloc(capacity, REACH_SIZE_MAX) : NULL;
    if (shelf->entries == NULL || (with_facts && shelf->facts == NULL) || (with_reaches && shelf->reaches == NULL))
        return ERR_NO_MEMORY;
    return table_new(capacity, &shelf->table);
}

static void shelf_free(struct shelf *shelf)
{
    table_destroy(&shelf->table);
    free(shelf->entries);
    free(shelf->facts);
    free(shelf->reaches);
}

enum err cache_new(size_t known, size_t unknown, struct cache **ret_cache)
{
    struct cache *cache = calloc(1, sizeof *cache);

    if (cache == NULL)
        return ERR_NO_MEMORY;
    if (shelf_init(&cache->known, known, true, false) != ERR_OK
        || shelf_init(&cache->limited, known / LIMITED_SHARE + 1, true, true) != ERR_OK
        || shelf_init(&cache->unknown, unknown, false, false) != ERR_OK) {
        cache_destroy(&cache);
        return ERR_NO_MEMORY;
    }
    *ret_cache = cache;
    return ERR_OK;
}

void cache_destroy(struct cache **cache)
{
    if (*cache == NULL)
        return;
    shelf_free(&(*cache)->known);
    shelf_free(&(*cache)->limited);
    shelf_free(&(*cache)->unknown);
    free(*cache);
    *cache = NULL;
}

static struct cache_entry *shelf_find(struct shelf *shelf, const uint8_t digest[DIGEST_SIZE], uint64_t now_us)
{
    uint32_t place = table_find(shelf->table, digest);

    if (place == TABLE_NONE)
        return NULL;
    if (now_us >= shelf->entries[place].expires_us) {
        table_drop(shelf->table, digest);
        return NULL;
    }
    return &shelf->entries[place];
}

struct cache_entry *cache_find(struct cache *cache, const uint8_t digest[DIGEST_SIZE], uint64_t now_us)
{
    struct cache_entry *entry = shelf_find(&cache->known, digest, now_us);

    if (entry == NULL)
        entry = shelf_find(&cache->limited, digest, now_us);
    return entry != NULL ? entry : shelf_find(&cache->unknown, digest, now_us);
}

void cache_put(struct cache *cache, const uint8_t digest[DIGEST_SIZE], uint64_t sequence, uint64_t expires_us,
               const struct authz_facts *facts)
{
    struct shelf *shelf = facts == NULL ? &cache->unknown : facts->reach_size == 0 ? &cache->known : &cache->limited;
    uint32_t place;
    uint8_t *reach;

    cache_drop(cache, digest);
    place = table_take(shelf->table, digest);
    shelf->entries[place] = (struct cache_entry){ sequence, expires_us, NULL };
    if (facts == NULL)
        return;
    shelf->facts[place] = *facts;
    shelf->entries[place].facts = &shelf->facts[place];
    if (shelf->reaches == NULL)
        return;
    reach = shelf->reaches + (size_t)place * REACH_SIZE_MAX;
    memcpy(reach, facts->reach, facts->reach_size);
    shelf->facts[place].reach = reach;
}

void cache_drop(struct cache *cache, const uint8_t digest[DIGEST_SIZE])
{
    table_drop(cache->known.table, digest);
    table_drop(cache->limited.table, digest);
    table_drop(cache->unknown.table, digest);
}

void cache_clear(struct cache *cache)
{
    table_clear(cache->known.table);
    table_clear(cache->limited.table);
    table_clear(cache->unknown.table);
}

size_t cache_known_count(const struct cache *cache)
{
    return table_count(cache->known.table) + table_count(cache->limited.table);
}

size_t cache_unknown_count(const struct cache *cache)
{
    return table_count(cache->unknown.table);
}
