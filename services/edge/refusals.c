/* refusals.c - two hash tables: the threads count in one under a mutex while the dispatcher reads the other. */
#include "services/edge/refusals.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/encode.h"

#define PROBES 8u

struct entry {
    uint64_t count;
    const char *reason;
    unsigned status;
    char address[47];
};

struct table {
    struct entry entries[REFUSALS_MAX];
    uint64_t beyond;
    bool is_empty;
};

struct refusals {
    pthread_mutex_t lock;
    uint64_t seed;
    struct table *counting, *resting;
    struct table tables[2];
};

enum err refusals_new(struct refusals **ret_refusals)
{
    struct refusals *refusals = calloc(1, sizeof *refusals);

    if (refusals == NULL)
        return ERR_NO_MEMORY;
    if (pthread_mutex_init(&refusals->lock, NULL) != 0) {
        free(refusals);
        return ERR_NO_MEMORY;
    }
    refusals->seed = random_u64();
    refusals->counting = &refusals->tables[0];
    refusals->resting = &refusals->tables[1];
    refusals->tables[0].is_empty = refusals->tables[1].is_empty = true;
    *ret_refusals = refusals;
    return ERR_OK;
}

void refusals_destroy(struct refusals **refusals)
{
    if (*refusals == NULL)
        return;
    pthread_mutex_destroy(&(*refusals)->lock);
    free(*refusals);
    *refusals = NULL;
}

/* FNV-1a from a random start: who floods cannot choose the buckets. */
static uint64_t hash_of(const struct refusals *refusals, const char *address, const char *reason, unsigned status)
{
    uint64_t hash = refusals->seed ^ status;

    for (const char *at = address; *at != '\0'; at++)
        hash = (hash ^ (uint8_t)*at) * UINT64_C(1099511628211);
    for (const char *at = reason; *at != '\0'; at++)
        hash = (hash ^ (uint8_t)*at) * UINT64_C(1099511628211);
    return hash ^ hash >> 32;
}

static void count_in(struct table *table, uint64_t hash, const struct entry *kind)
{
    for (unsigned probe = 0; probe < PROBES; probe++) {
        struct entry *entry = &table->entries[(hash + probe) % REFUSALS_MAX];

        if (entry->count == 0)
            *entry = *kind;
        else if (entry->status != kind->status || strcmp(entry->reason, kind->reason) != 0
                 || strcmp(entry->address, kind->address) != 0)
            continue;
        entry->count++;
        return;
    }
    table->beyond++;
}

void refusals_count(struct refusals *refusals, const char *address, const char *reason, unsigned status)
{
    struct entry kind = { .reason = reason, .status = status };
    uint64_t hash;

    snprintf(kind.address, sizeof kind.address, "%s", address);
    hash = hash_of(refusals, kind.address, reason, status);
    pthread_mutex_lock(&refusals->lock);
    refusals->counting->is_empty = false;
    count_in(refusals->counting, hash, &kind);
    pthread_mutex_unlock(&refusals->lock);
}

void refusals_take(struct refusals *refusals, refusal_fn *fn, void *owner)
{
    struct table *table;
    bool is_empty;

    pthread_mutex_lock(&refusals->lock);
    table = refusals->counting;
    is_empty = table->is_empty;
    if (!is_empty) {
        refusals->counting = refusals->resting;
        refusals->resting = table;
    }
    pthread_mutex_unlock(&refusals->lock);
    if (is_empty)
        return;
    for (unsigned i = 0; i < REFUSALS_MAX; i++) {
        const struct entry *entry = &table->entries[i];

        if (entry->count > 0)
            fn(owner, entry->address, entry->reason, entry->status, entry->count);
    }
    if (table->beyond > 0)
        fn(owner, "", "refused", 0, table->beyond);
    memset(table, 0, sizeof *table);
    table->is_empty = true;
}
