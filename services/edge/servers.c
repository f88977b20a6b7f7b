/* servers.c - a sorted array of servers behind a read-write lock; replaced whole, never edited. */
#include "services/edge/servers.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct servers {
    pthread_rwlock_t lock;
    struct server_entry *entries;
    size_t count;
    uint64_t sequence;
    bool is_loaded;
};

enum err servers_new(struct servers **ret_servers)
{
    struct servers *servers = calloc(1, sizeof *servers);

    if (servers == NULL)
        return ERR_NO_MEMORY;
    if (pthread_rwlock_init(&servers->lock, NULL) != 0) {
        free(servers);
        return ERR_NO_MEMORY;
    }
    *ret_servers = servers;
    return ERR_OK;
}

void servers_destroy(struct servers **servers)
{
    if (*servers == NULL)
        return;
    pthread_rwlock_destroy(&(*servers)->lock);
    free((*servers)->entries);
    free(*servers);
    *servers = NULL;
}

static int compare_slugs(const void *a, const void *b)
{
    return strcmp(((const struct server_entry *)a)->slug, ((const struct server_entry *)b)->slug);
}

void servers_replace(struct servers *servers, struct server_entry *entries, size_t count, uint64_t sequence)
{
    struct server_entry *old;

    if (count > 1)
        qsort(entries, count, sizeof *entries, compare_slugs);
    pthread_rwlock_wrlock(&servers->lock);
    old = servers->entries;
    servers->entries = entries;
    servers->count = count;
    servers->sequence = sequence;
    __atomic_store_n(&servers->is_loaded, true, __ATOMIC_RELEASE);
    pthread_rwlock_unlock(&servers->lock);
    free(old);
}

enum err servers_find(struct servers *servers, const char *slug, struct server_entry *ret_entry)
{
    const struct server_entry *found = NULL;
    struct server_entry key = { 0 };
    const size_t length = strlen(slug);
    enum err err;

    if (length >= sizeof key.slug)
        return ERR_NOT_FOUND;
    memcpy(key.slug, slug, length + 1);
    pthread_rwlock_rdlock(&servers->lock);
    err = servers->is_loaded ? ERR_NOT_FOUND : ERR_UNAVAILABLE;
    if (servers->count > 0)
        found = bsearch(&key, servers->entries, servers->count, sizeof *found, compare_slugs);
    if (found != NULL && found->enabled) {
        *ret_entry = *found;
        err = ERR_OK;
    }
    pthread_rwlock_unlock(&servers->lock);
    return err;
}

size_t servers_count(struct servers *servers)
{
    size_t count;

    pthread_rwlock_rdlock(&servers->lock);
    count = servers->count;
    pthread_rwlock_unlock(&servers->lock);
    return count;
}

bool servers_is_loaded(const struct servers *servers)
{
    return __atomic_load_n(&servers->is_loaded, __ATOMIC_ACQUIRE);
}
