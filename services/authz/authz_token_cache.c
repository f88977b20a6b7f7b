#include "services/authz/authz_token_cache.h"

#include <stdlib.h>
#include <string.h>

#include "services/authz/authz_table.h"

struct shelf {
    struct table *table;
    struct token_entry *entries;    /* of place i at i */
};

struct token_cache {
    struct shelf accepted, refused;
    struct token_facts *facts;      /* of the accepted one at place i at i */
};

static enum err shelf_init(struct shelf *shelf, size_t capacity)
{
    shelf->entries = calloc(capacity, sizeof *shelf->entries);
    return shelf->entries == NULL ? ERR_NO_MEMORY : table_new(capacity, &shelf->table);
}

static void shelf_free(struct shelf *shelf)
{
    table_destroy(&shelf->table);
    free(shelf->entries);
}

enum err token_cache_new(size_t accepted, size_t refused, struct token_cache **ret_cache)
{
    struct token_cache *cache = calloc(1, sizeof *cache);

    if (cache == NULL)
        return ERR_NO_MEMORY;
    cache->facts = calloc(accepted, sizeof *cache->facts);
    if (cache->facts == NULL || shelf_init(&cache->accepted, accepted) != ERR_OK
        || shelf_init(&cache->refused, refused) != ERR_OK) {
        token_cache_destroy(&cache);
        return ERR_NO_MEMORY;
    }
    *ret_cache = cache;
    return ERR_OK;
}

void token_cache_destroy(struct token_cache **cache)
{
    if (*cache == NULL)
        return;
    shelf_free(&(*cache)->accepted);
    shelf_free(&(*cache)->refused);
    free((*cache)->facts);
    free(*cache);
    *cache = NULL;
}

/* An entry of another proof stays: whoever sends a broken copy of somebody's token must not make that one slower. */
static struct token_entry *shelf_find(struct shelf *shelf, const uint8_t digest[DIGEST_SIZE],
                                      const uint8_t proof[DIGEST_SIZE], uint64_t now_us, uint64_t now_unix_s)
{
    uint32_t place = table_find(shelf->table, digest);
    struct token_entry *entry;

    if (place == TABLE_NONE)
        return NULL;
    entry = &shelf->entries[place];
    if (now_us >= entry->expires_us || (entry->expires_unix_s != 0 && now_unix_s >= entry->expires_unix_s)) {
        table_drop(shelf->table, digest);
        return NULL;
    }
    return memcmp(entry->proof, proof, DIGEST_SIZE) == 0 ? entry : NULL;    /* digests: time tells nothing of the token */
}

struct token_entry *token_cache_find(struct token_cache *cache, const uint8_t digest[DIGEST_SIZE],
                                     const uint8_t proof[DIGEST_SIZE], uint64_t now_us, uint64_t now_unix_s)
{
    struct token_entry *entry = shelf_find(&cache->accepted, digest, proof, now_us, now_unix_s);

    return entry != NULL ? entry : shelf_find(&cache->refused, digest, proof, now_us, now_unix_s);
}

void token_cache_put(struct token_cache *cache, const uint8_t digest[DIGEST_SIZE], const struct token_entry *entry)
{
    struct shelf *shelf = entry->reason == NULL ? &cache->accepted : &cache->refused;
    struct shelf *other = entry->reason == NULL ? &cache->refused : &cache->accepted;
    uint32_t place = table_take(shelf->table, digest);

    table_drop(other->table, digest);
    shelf->entries[place] = *entry;
    if (entry->reason != NULL)
        return;
    cache->facts[place] = *entry->facts;
    shelf->entries[place].facts = &cache->facts[place];
}

void token_cache_drop(struct token_cache *cache, const uint8_t digest[DIGEST_SIZE])
{
    table_drop(cache->accepted.table, digest);
    table_drop(cache->refused.table, digest);
}

void token_cache_clear(struct token_cache *cache)
{
    table_clear(cache->accepted.table);
    table_clear(cache->refused.table);
}

size_t token_cache_count(const struct token_cache *cache)
{
    return table_count(cache->accepted.table);
}

size_t token_cache_refused_count(const struct token_cache *cache)
{
    return table_count(cache->refused.table);
}
