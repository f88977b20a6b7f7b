#include "services/authz/authz_table.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

struct node {
    uint8_t digest[DIGEST_SIZE];
    uint32_t next;    /* in its bucket, or in the list of unused nodes */
    bool asked;       /* since the clock's hand passed */
};

struct table {
    uint64_t seed;        /* digests are of texts that callers choose: without it they could crowd one bucket */
    uint32_t capacity, count, hand;
    uint32_t touched;     /* nodes from here on were never used: their pages cost nothing yet */
    uint32_t unused;      /* list of nodes that were given back */
    uint32_t bucket_mask;
    uint32_t *buckets;
    struct node *nodes;
};

enum err table_new(size_t capacity, struct table **ret_table)
{
    struct table *table = calloc(1, sizeof *table);
    size_t buckets = 1;

    if (table == NULL)
        return ERR_NO_MEMORY;
    while (buckets < capacity)
        buckets *= 2;
    table->seed = random_u64();
    table->capacity = (uint32_t)capacity;
    table->bucket_mask = (uint32_t)(buckets - 1);
    table->buckets = calloc(buckets, sizeof *table->buckets);
    table->nodes = calloc(capacity, sizeof *table->nodes);
    if (table->buckets == NULL || table->nodes == NULL) {
        table_destroy(&table);
        return ERR_NO_MEMORY;
    }
    table_clear(table);
    *ret_table = table;
    return ERR_OK;
}

void table_destroy(struct table **table)
{
    if (*table == NULL)
        return;
    free((*table)->buckets);
    free((*table)->nodes);
    free(*table);
    *table = NULL;
}

void table_clear(struct table *table)
{
    memset(table->buckets, 0xff, ((size_t)table->bucket_mask + 1) * sizeof *table->buckets);
    table->unused = TABLE_NONE;
    table->count = table->hand = table->touched = 0;
}

/* Equal low bits of two digests must not mean equal buckets: the finalizer of MurmurHash3 spreads them by the seed. */
static uint32_t *bucket_of(struct table *table, const uint8_t digest[DIGEST_SIZE])
{
    uint64_t hash;

    memcpy(&hash, digest, sizeof hash);
    hash ^= table->seed;
    hash = (hash ^ hash >> 33) * UINT64_C(0xff51afd7ed558ccd);
    hash = (hash ^ hash >> 33) * UINT64_C(0xc4ceb9fe1a85ec53);
    hash ^= hash >> 33;
    return &table->buckets[hash & table->bucket_mask];
}

/* The place that names the node of this digest, or the end of its bucket's list. */
static uint32_t *link_of(struct table *table, const uint8_t digest[DIGEST_SIZE])
{
    uint32_t *link = bucket_of(table, digest);

    while (*link != TABLE_NONE && memcmp(table->nodes[*link].digest, digest, DIGEST_SIZE) != 0)
        link = &table->nodes[*link].next;
    return link;
}

/* Every node is taken when this is called, so the hand finds one within two rounds. */
static void evict(struct table *table)
{
    struct node *node = &table->nodes[table->hand];

    while (node->asked) {
        node->asked = false;
        table->hand = (table->hand + 1) % table->capacity;
        node = &table->nodes[table->hand];
    }
    table->hand = (table->hand + 1) % table->capacity;
    table_drop(table, node->digest);
}

static uint32_t take_node(struct table *table)
{
    uint32_t index;

    if (table->unused == TABLE_NONE && table->touched < table->capacity)
        return table->touched++;
    if (table->unused == TABLE_NONE)
        evict(table);
    index = table->unused;
    table->unused = table->nodes[index].next;
    return index;
}

uint32_t table_find(struct table *table, const uint8_t digest[DIGEST_SIZE])
{
    uint32_t index = *link_of(table, digest);

    if (index != TABLE_NONE)
        table->nodes[index].asked = true;
    return index;
}

uint32_t table_take(struct table *table, const uint8_t digest[DIGEST_SIZE])
{
    uint32_t index = *link_of(table, digest);
    uint32_t *bucket;

    if (index != TABLE_NONE)
        return index;
    index = take_node(table);
    bucket = bucket_of(table, digest);
    table->nodes[index] = (struct node){ .next = *bucket };
    memcpy(table->nodes[index].digest, digest, DIGEST_SIZE);
    *bucket = index;
    table->count++;
    return index;
}

void table_drop(struct table *table, const uint8_t digest[DIGEST_SIZE])
{
    uint32_t *link = link_of(table, digest);
    uint32_t index = *link;

    if (index == TABLE_NONE)
        return;
    *link = table->nodes[index].next;
    table->nodes[index].next = table->unused;
    table->unused = index;
    table->count--;
}

size_t table_count(const struct table *table)
{
    return table->count;
}
