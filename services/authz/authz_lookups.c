#include "services/authz/authz_lookups.h"

#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/metrics.h"
#include "common/sabotage.h"
#include "services/authz/authz_store.h"

#define NOWHERE UINT32_MAX
#define BUCKETS 1024u    /* a power of two */

struct waiter {
    struct bus_token token;
    struct authz_ask ask;
    uint32_t next;
};

struct lookup {
    struct store_call call;
    struct lookups *all;
    char digest_text[DIGEST_TEXT_SIZE];
    uint64_t asked_us;     /* CLOCK_BOOTTIME, of the read of Postgres under way */
    uint32_t next;         /* in its bucket, or in the list of free ones */
    uint32_t waiters, last_waiter;
    uint32_t tries;
};

struct lookups {
    struct authz *authz;
    uint64_t seed;    /* callers choose digests; without it they could crowd one bucket */
    uint32_t unused, unused_waiters;
    uint32_t buckets[BUCKETS];
    struct lookup lookups[LOOKUPS_MAX];
    struct waiter waiters[WAITERS_MAX];
};

enum err lookups_new(struct authz *authz, struct lookups **ret_lookups)
{
    struct lookups *all = calloc(1, sizeof *all);

    if (all == NULL)
        return ERR_NO_MEMORY;
    all->authz = authz;
    all->seed = random_u64();
    memset(all->buckets, 0xff, sizeof all->buckets);
    for (uint32_t i = 0; i < LOOKUPS_MAX; i++) {
        all->lookups[i].all = all;
        all->lookups[i].next = i + 1 < LOOKUPS_MAX ? i + 1 : NOWHERE;
    }
    for (uint32_t i = 0; i < WAITERS_MAX; i++)
        all->waiters[i].next = i + 1 < WAITERS_MAX ? i + 1 : NOWHERE;
    *ret_lookups = all;
    return ERR_OK;
}

void lookups_destroy(struct lookups **lookups)
{
    free(*lookups);
    *lookups = NULL;
}

static uint32_t *place_of(struct lookups *all, const uint8_t digest[DIGEST_SIZE])
{
    uint64_t hash;
    uint32_t *place;

    memcpy(&hash, digest, sizeof hash);
    hash = (hash ^ all->seed) * UINT64_C(0x9e3779b97f4a7c15);
    place = &all->buckets[(hash >> 32) % BUCKETS];
    while (*place != NOWHERE && memcmp(all->lookups[*place].call.digest, digest, DIGEST_SIZE) != 0)
        place = &all->lookups[*place].next;
    return place;
}

/* Takes it out first, so that an answer that leads to a new question of the same digest starts a new look-up. */
static void finish(struct lookup *lookup, enum err err, const struct authz_facts *facts, enum layer layer)
{
    struct lookups *all = lookup->all;
    struct authz *authz = all->authz;
    uint64_t read_us = layer == LAYER_POSTGRES ? lookup->asked_us : 0;
    uint32_t first = lookup->waiters;

    *place_of(all, lookup->call.digest) = lookup->next;
    for (uint32_t i = first; i != NOWHERE; i = all->waiters[i].next) {
        struct waiter *waiter = &all->waiters[i];

        if (err == ERR_OK || err == ERR_NOT_FOUND)
            authz_answer(authz, &waiter->token, &waiter->ask, facts, layer, read_us);
        else
            authz_answer_unavailable(authz, &waiter->token, "store");
    }
    all->waiters[lookup->last_waiter].next = all->unused_waiters;
    all->unused_waiters = first;
    lookup->next = all->unused;
    all->unused = (uint32_t)(lookup - all->lookups);
}

static void ask_postgres(struct lookup *lookup);

static void keep(struct lookup *lookup, uint64_t sequence, const struct authz_facts *facts)
{
    struct authz *authz = lookup->all->authz;
    uint64_t seconds = facts != NULL ? authz->config->cache_s : authz->config->unknown_s;

    cache_put(authz->cache, lookup->call.digest, sequence, clock_boottime_us() + seconds * 1000000, facts);
}

static void on_found(void *owner, enum err err, uint64_t sequence, const struct authz_facts *facts)
{
    struct lookup *lookup = owner;
    struct authz *authz = lookup->all->authz;

    if (err != ERR_OK && err != ERR_NOT_FOUND) {
        finish(lookup, ERR_UNAVAILABLE, NULL, LAYER_NONE);
        return;
    }
    if (!changes_hold(authz->changes, sequence, lookup->digest_text, facts)) {
        ask_postgres(lookup);
        return;
    }
    keep(lookup, sequence, facts);
    if (facts != NULL)
        store_share(authz->store, lookup->call.digest, sequence, facts);
    finish(lookup, err, facts, LAYER_POSTGRES);
}

static void ask_postgres(struct lookup *lookup)
{
    struct authz *authz = lookup->all->authz;

    lookup->asked_us = clock_boottime_us();
    lookup->call.fn = on_found;
    if (lookup->tries++ >= LOOKUP_TRIES_MAX || store_find(authz->store, &lookup->call) != ERR_OK)
        finish(lookup, ERR_UNAVAILABLE, NULL, LAYER_NONE);
}

/* An entry of a number that we have not reached may come from a database that was since restored to an earlier state. */
static void on_found_shared(void *owner, enum err err, uint64_t sequence, const struct authz_facts *facts)
{
    struct lookup *lookup = owner;
    struct authz *authz = lookup->all->authz;

    if (err != ERR_OK
        || (!lacks("entry_sequence") && (sequence > changes_applied(authz->changes)
                                         || !changes_hold(authz->changes, sequence, lookup->digest_text, facts)))) {
        ask_postgres(lookup);
        return;
    }
    keep(lookup, sequence, facts);
    finish(lookup, ERR_OK, facts, LAYER_REDIS);
}

static void begin(struct lookup *lookup)
{
    lookup->call.owner = lookup;
    lookup->call.fn = on_found_shared;
    if (store_find_shared(lookup->all->authz->store, &lookup->call) != ERR_OK)
        ask_postgres(lookup);
}

static uint32_t take_waiter(struct lookups *all, const struct bus_token *token, const struct authz_ask *ask)
{
    uint32_t index = all->unused_waiters;

    if (index == NOWHERE)
        return NOWHERE;
    all->unused_waiters = all->waiters[index].next;
    all->waiters[index] = (struct waiter){ *token, *ask, NOWHERE };
    return index;
}

void lookups_join(struct lookups *all, const uint8_t digest[DIGEST_SIZE], const struct bus_token *token,
                  const struct authz_ask *ask)
{
    uint32_t *place = place_of(all, digest);
    bool joins = *place != NOWHERE;
    uint32_t waiter = joins || all->unused != NOWHERE ? take_waiter(all, token, ask) : NOWHERE;
    struct lookup *lookup;

    if (waiter == NOWHERE) {
        authz_answer_unavailable(all->authz, token, "overloaded");
        return;
    }
    if (joins) {
        lookup = &all->lookups[*place];
        all->waiters[lookup->last_waiter].next = waiter;
        lookup->last_waiter = waiter;
        metric_add(METRIC_cache_joined, 1);
        return;
    }
    *place = all->unused;
    lookup = &all->lookups[*place];
    all->unused = lookup->next;
    lookup->next = NOWHERE;
    lookup->waiters = lookup->last_waiter = waiter;
    lookup->tries = 0;
    memcpy(lookup->call.digest, digest, DIGEST_SIZE);
    base64url_encode(digest, DIGEST_SIZE, lookup->digest_text);
    begin(lookup);
}
