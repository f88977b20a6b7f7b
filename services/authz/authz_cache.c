#include "services/authz/authz_cache.h"

#include <stdlib.h>
#include <string.h>

#define NOWHERE UINT32_MAX

struct node {
    uint8_t digest[DIGEST_SIZE];
    uint32_t next;    /* in its bucket, or in the list of unused nodes */
    bool asked;       /* since the clock's hand passed */
    struct cache_entry entry;
};

struct table {
    uint32_t capacity, count, hand;
    uint32_t touched;             /* nodes from here on were never used: their pages cost nothing yet */
    uint32_t unused;              /* list of nodes that were given back */
    uint32_t bucket_mask;
    uint32_t *buckets;
    struct node *nodes;
    struct authz_facts *facts;    /* of node i at i; NULL in the table of unknown digests */
};

struct cache {
    uint64_t seed;    /* digests are of texts that callers choose: without it they could crowd one bucket */
    struct table known, unknown;
};

static void table_clear(struct table *table)
{
    memset(table->buckets, 0xff, ((size_t)table->bucket_mask + 1) * sizeof *table->buckets);
    table->unused = NOWHERE;
    table->count = table->hand = table->touched = 0;
}

static enum err table_init(struct table *table, size_t capacity, bool with_facts)
{
    size_t buckets = 1;

    while (buckets < capacity)
        buckets *= 2;
    table->capacity = (uint32_t)capacity;
    table->bucket_mask = (uint32_t)(buckets - 1);
    table->buckets = calloc(buckets, sizeof *table->buckets);
    table->nodes = calloc(capacity, sizeof *table->nodes);
    table->facts = with_facts ? calloc(capacity, sizeof *table->facts) : NULL;
    if (table->buckets == NULL || table->nodes == NULL || (with_facts && table->facts == NULL))
        return ERR_NO_MEMORY;
    table_clear(table);
    return ERR_OK;
}

static void table_free(struct table *table)
{
    free(table->buckets);
    free(table->nodes);
    free(table->facts);
}

enum err cache_new(size_t known, size_t unknown, struct cache **ret_cache)
{
    struct cache *cache = calloc(1, sizeof *cache);

    if (cache == NULL)
        return ERR_NO_MEMORY;
    cache->seed = random_u64();
    if (table_init(&cache->known, known, true) != ERR_OK || table_init(&cache->unknown, unknown, false) != ERR_OK) {
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
    table_free(&(*cache)->known);
    table_free(&(*cache)->unknown);
    free(*cache);
    *cache = NULL;
}

/* Equal low bits of two digests must not mean equal buckets: the finalizer of MurmurHash3 spreads them by the seed. */
static uint64_t hash_of(const struct cache *cache, const uint8_t digest[DIGEST_SIZE])
{
    uint64_t hash;

    memcpy(&hash, digest, sizeof hash);
    hash ^= cache->seed;
    hash = (hash ^ hash >> 33) * UINT64_C(0xff51afd7ed558ccd);
    hash = (hash ^ hash >> 33) * UINT64_C(0xc4ceb9fe1a85ec53);
    return hash ^ hash >> 33;
}

/* The place that names the node of this digest, or the end of its bucket's list. */
static uint32_t *table_place(struct table *table, uint64_t hash, const uint8_t digest[DIGEST_SIZE])
{
    uint32_t *place = &table->buckets[hash & table->bucket_mask];

    while (*place != NOWHERE && memcmp(table->nodes[*place].digest, digest, DIGEST_SIZE) != 0)
        place = &table->nodes[*place].next;
    return place;
}

static void table_free_node(struct table *table, uint32_t *place)
{
    uint32_t index = *place;
    struct node *node = &table->nodes[index];

    *place = node->next;
    node->next = table->unused;
    table->unused = index;
    table->count--;
}

static void table_drop(struct table *table, uint64_t hash, const uint8_t digest[DIGEST_SIZE])
{
    uint32_t *place = table_place(table, hash, digest);

    if (*place != NOWHERE)
        table_free_node(table, place);
}

/* Every node is taken when this is called, so the hand finds one within two rounds. */
static void table_evict(struct cache *cache, struct table *table)
{
    struct node *node = &table->nodes[table->hand];

    while (node->asked) {
        node->asked = false;
        table->hand = (table->hand + 1) % table->capacity;
        node = &table->nodes[table->hand];
    }
    table->hand = (table->hand + 1) % table->capacity;
    table_drop(table, hash_of(cache, node->digest), node->digest);
}

static uint32_t table_take_node(struct cache *cache, struct table *table)
{
    uint32_t index;

    if (table->unused == NOWHERE && table->touched < table->capacity)
        return table->touched++;
    if (table->unused == NOWHERE)
        table_evict(cache, table);
    index = table->unused;
    table->unused = table->nodes[index].next;
    return index;
}

static struct cache_entry *table_find(struct table *table, uint64_t hash, const uint8_t digest[DIGEST_SIZE], uint64_t now_us)
{
    uint32_t *place = table_place(table, hash, digest);
    struct node *node;

    if (*place == NOWHERE)
        return NULL;
    node = &table->nodes[*place];
    if (now_us >= node->entry.expires_us) {
        table_free_node(table, place);
        return NULL;
    }
    node->asked = true;
    return &node->entry;
}

struct cache_entry *cache_find(struct cache *cache, const uint8_t digest[DIGEST_SIZE], uint64_t now_us)
{
    uint64_t hash = hash_of(cache, digest);
    struct cache_entry *entry = table_find(&cache->known, hash, digest, now_us);

    return entry != NULL ? entry : table_find(&cache->unknown, hash, digest, now_us);
}

void cache_put(struct cache *cache, const uint8_t digest[DIGEST_SIZE], uint64_t sequence, uint64_t expires_us,
               const struct authz_facts *facts)
{
    uint64_t hash = hash_of(cache, digest);
    struct table *table = facts != NULL ? &cache->known : &cache->unknown;
    uint32_t *bucket = &table->buckets[hash & table->bucket_mask];
    uint32_t index;
    struct node *node;

    cache_drop(cache, digest);
    index = table_take_node(cache, table);
    node = &table->nodes[index];
    *node = (struct node){ .next = *bucket, .entry = { sequence, expires_us, NULL } };
    memcpy(node->digest, digest, DIGEST_SIZE);
    *bucket = index;
    table->count++;
    if (facts == NULL)
        return;
    table->facts[index] = *facts;
    node->entry.facts = &table->facts[index];
}

void cache_drop(struct cache *cache, const uint8_t digest[DIGEST_SIZE])
{
    uint64_t hash = hash_of(cache, digest);

    table_drop(&cache->known, hash, digest);
    table_drop(&cache->unknown, hash, digest);
}

void cache_clear(struct cache *cache)
{
    table_clear(&cache->known);
    table_clear(&cache->unknown);
}

size_t cache_known_count(const struct cache *cache)
{
    return cache->known.count;
}

size_t cache_unknown_count(const struct cache *cache)
{
    return cache->unknown.count;
}
