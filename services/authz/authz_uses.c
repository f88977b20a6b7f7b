#include "services/authz/authz_uses.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/metrics.h"
#include "services/authz/authz_store.h"

#define NOWHERE    UINT32_MAX
#define BUCKETS    4096u      /* a power of two */
#define EVICT_LOOK 64u        /* keys looked at for one that may go */
#define QUICK_US   1000000u   /* a block spent within this makes the next one larger */
#define REFUSED_MS 200u       /* a key without uses is not asked about more often */

struct holding {
    struct store_uses call;          /* first: what Postgres is asked, and what it said */
    struct uses *uses;
    uint8_t digest[DIGEST_SIZE];     /* of the presented key, as the question carries it */
    uint32_t next;                   /* in its bucket, or in the list of free ones */
    uint32_t left;                   /* uses that may be spent */
    uint64_t sequence;               /* a change behind it that names the key ends them */
    char refilled[STORE_MOMENT_SIZE];    /* lastRefillAt when they were taken */
    uint32_t block;                  /* how many were asked for last */
    uint32_t waiters, last_waiter;
    uint64_t until_us;               /* CLOCK_BOOTTIME: they end then */
    uint64_t refused_until_us, asked_us, touched_us;
    bool is_held, is_asking;
};

struct waiter {
    struct bus_token token;
    struct authz_ask ask;
    uint32_t next;
};

struct uses {
    struct authz *authz;
    uint64_t seed;                   /* callers choose digests */
    uint32_t unused, unused_waiters, hand, returning;
    uint32_t touched, touched_waiters;    /* those from here on were never used: their pages cost nothing yet */
    uint32_t buckets[BUCKETS];
    struct holding holdings[USES_KEYS_MAX];
    struct waiter waiters[USES_WAITERS_MAX];
};

enum err uses_new(struct authz *authz, struct uses **ret_uses)
{
    struct uses *uses = calloc(1, sizeof *uses);

    if (uses == NULL)
        return ERR_NO_MEMORY;
    uses->authz = authz;
    uses->seed = random_u64();
    memset(uses->buckets, 0xff, sizeof uses->buckets);
    uses->unused = uses->unused_waiters = NOWHERE;
    *ret_uses = uses;
    return ERR_OK;
}

void uses_destroy(struct uses **uses)
{
    free(*uses);
    *uses = NULL;
}

static uint32_t *place_of(struct uses *uses, const uint8_t digest[DIGEST_SIZE])
{
    uint64_t hash;
    uint32_t *place;

    memcpy(&hash, digest, sizeof hash);
    hash = (hash ^ uses->seed) * UINT64_C(0x9e3779b97f4a7c15);
    place = &uses->buckets[(hash >> 32) % BUCKETS];
    while (*place != NOWHERE && memcmp(uses->holdings[*place].digest, digest, DIGEST_SIZE) != 0)
        place = &uses->holdings[*place].next;
    return place;
}

/* ---- giving back ------------------------------------------------------------------------------- */

static void on_given_back(void *owner)
{
    struct uses *uses = owner;

    uses->returning--;
}

/* Best effort: what cannot be given back is lost. */
static void give_back(struct holding *holding)
{
    struct uses *uses = holding->uses;

    if (holding->left > 0 && clock_boottime_us() < holding->until_us
        && store_give_uses_back(uses->authz->store, &(struct store_leftover){ .key_id = holding->call.key_id,
               .refilled = holding->refilled, .count = holding->left, .sequence = holding->sequence,
               .fn = on_given_back, .owner = uses }) == ERR_OK)
        uses->returning++;
    holding->left = 0;
}

static void drop(struct holding *holding)
{
    struct uses *uses = holding->uses;

    give_back(holding);
    *place_of(uses, holding->digest) = holding->next;
    holding->is_held = false;
    holding->next = uses->unused;
    uses->unused = (uint32_t)(holding - uses->holdings);
}

static bool may_go(const struct holding *holding)
{
    return holding->is_held && !holding->is_asking && holding->waiters == NOWHERE;
}

void uses_tidy(struct uses *uses, bool is_end)
{
    const uint64_t now_us = clock_boottime_us();

    for (uint32_t i = 0; i < uses->touched; i++) {
        struct holding *holding = &uses->holdings[i];

        if (may_go(holding) && (is_end || now_us > holding->touched_us + USES_IDLE_MS * 1000))
            drop(holding);
    }
}

bool uses_are_back(const struct uses *uses)
{
    return uses->returning == 0;
}

/* ---- taking ------------------------------------------------------------------------------------ */

static void evict_one(struct uses *uses)
{
    for (uint32_t i = 0; i < EVICT_LOOK; i++) {
        struct holding *holding = &uses->holdings[uses->hand];

        uses->hand = (uses->hand + 1) % USES_KEYS_MAX;
        if (may_go(holding)) {
            drop(holding);
            return;
        }
    }
}

static struct holding *holding_of(struct uses *uses, const uint8_t digest[DIGEST_SIZE], const char *key_id)
{
    uint32_t *place = place_of(uses, digest);
    struct holding *holding;

    if (*place != NOWHERE)
        return &uses->holdings[*place];
    if (uses->unused == NOWHERE && uses->touched < USES_KEYS_MAX) {
        uses->holdings[uses->touched].next = NOWHERE;
        uses->unused = uses->touched++;
    } else if (uses->unused == NOWHERE) {
        evict_one(uses);
        place = place_of(uses, digest);
    }
    if (uses->unused == NOWHERE)
        return NULL;
    *place = uses->unused;
    holding = &uses->holdings[*place];
    uses->unused = holding->next;
    *holding = (struct holding){ .uses = uses, .next = NOWHERE, .waiters = NOWHERE, .is_held = true };
    memcpy(holding->digest, digest, DIGEST_SIZE);
    snprintf(holding->call.key_id, sizeof holding->call.key_id, "%s", key_id);
    return holding;
}

static bool is_overtaken(const struct holding *holding)
{
    const struct changes *changes = holding->uses->authz->changes;

    return !changes_reach(changes, holding->sequence)
           || changes_named(changes, holding->sequence, SUBJECT_KEY, holding->call.key_id);
}

/* What was taken counts as long as no later change names the key and no refill is due. */
static void forget_what_ended(struct holding *holding, uint64_t now_us)
{
    if (now_us >= holding->until_us)
        holding->left = 0;
    if (changes_named(holding->uses->authz->changes, holding->sequence, SUBJECT_USES, holding->call.key_id))
        holding->refused_until_us = 0;
    if ((holding->left == 0 && holding->refused_until_us == 0) || !is_overtaken(holding))
        return;
    holding->left = 0;
    holding->refused_until_us = 0;
}

/* The questions that waited: each is asked again, those that got a use as paid. */
static void wake(struct holding *holding, uint32_t paid, bool is_answered)
{
    struct uses *uses = holding->uses;
    struct authz *authz = uses->authz;
    uint32_t index = holding->waiters;

    holding->waiters = NOWHERE;
    while (index != NOWHERE) {
        struct waiter waiter = uses->waiters[index];

        uses->waiters[index].next = uses->unused_waiters;
        uses->unused_waiters = index;
        index = waiter.next;
        waiter.ask.paid = paid > 0;
        if (paid > 0)
            paid--;
        if (is_answered)
            authz_ask_again(authz, &waiter.token, &waiter.ask);
        else
            authz_answer_unavailable(authz, &waiter.token, "store");
    }
}

static uint32_t count_waiters(const struct holding *holding, uint32_t limit)
{
    uint32_t count = 0;

    for (uint32_t i = holding->waiters; i != NOWHERE && count < limit; i = holding->uses->waiters[i].next)
        count++;
    return count;
}

/* More uses beside those that are left, unless a refill lies between.  Their end counts from when they were asked for:
 * the row was read later, so they never last longer than they may. */
static void add(struct holding *holding, uint32_t count)
{
    const struct store_uses *call = &holding->call;

    if (holding->left > 0 && strcmp(holding->refilled, call->refilled) != 0)
        holding->left = 0;
    if (holding->left == 0)
        holding->sequence = call->sequence;
    holding->left += count;
    holding->until_us = call->has_end ? holding->asked_us + call->valid_ms * 1000 : UINT64_MAX;
    memcpy(holding->refilled, call->refilled, sizeof holding->refilled);
}

static void on_taken(void *owner, bool is_answered)
{
    struct holding *holding = owner;
    const struct store_uses *call = &holding->call;
    uint32_t paid = 0;

    holding->is_asking = false;
    if (is_answered) {
        paid = count_waiters(holding, call->taken);
        add(holding, call->taken - paid);
        metric_add(METRIC_uses_taken, call->taken);
    }
    if (is_answered && call->taken == 0 && !call->is_ahead)
        holding->refused_until_us = clock_boottime_us()
                                    + (call->has_end && call->valid_ms < REFUSED_MS ? call->valid_ms : REFUSED_MS) * 1000;
    wake(holding, paid, is_answered);
}

/* token: of the question that waits; NULL: none does yet. */
static bool ask(struct holding *holding, const struct bus_token *token)
{
    const uint64_t now_us = clock_boottime_us();
    const bool is_quick = holding->asked_us != 0 && now_us < holding->asked_us + QUICK_US;

    holding->block = !is_quick ? 1 : holding->block * 2 < USES_BLOCK_MAX ? holding->block * 2 : USES_BLOCK_MAX;
    holding->asked_us = now_us;
    holding->call.wanted = holding->block;
    holding->call.is_ahead = token == NULL;
    holding->call.request[0] = '\0';
    if (token != NULL && holding->block == 1)
        snprintf(holding->call.request, sizeof holding->call.request, "%" PRIx64 "-%" PRIx64, token->epoch, token->request_id);
    holding->call.fn = on_taken;
    holding->call.owner = holding;
    holding->is_asking = store_take_uses(holding->uses->authz->store, &holding->call) == ERR_OK;
    return holding->is_asking;
}

static enum use join(struct holding *holding, const struct bus_token *token, const struct authz_ask *question)
{
    struct uses *uses = holding->uses;
    uint32_t index = uses->unused_waiters;

    if (index == NOWHERE && uses->touched_waiters == USES_WAITERS_MAX)
        return USE_NO_ROOM;
    if (!holding->is_asking && !ask(holding, token))
        return USE_NO_ROOM;
    if (index == NOWHERE)
        index = uses->touched_waiters++;
    else
        uses->unused_waiters = uses->waiters[index].next;
    uses->waiters[index] = (struct waiter){ *token, *question, NOWHERE };
    if (holding->waiters == NOWHERE)
        holding->waiters = index;
    else
        uses->waiters[holding->last_waiter].next = index;
    holding->last_waiter = index;
    return USE_WAITS;
}

enum use uses_take(struct uses *uses, const struct bus_token *token, const struct authz_ask *question, const char *key_id)
{
    struct holding *holding = holding_of(uses, question->digest, key_id);
    const uint64_t now_us = clock_boottime_us();

    if (holding == NULL)
        return USE_NO_ROOM;
    holding->touched_us = now_us;
    forget_what_ended(holding, now_us);
    if (holding->left > 0) {
        holding->left--;
        /* The next block is fetched while this one lasts. */
        if (holding->block > 1 && holding->left * 4 <= holding->block && !holding->is_asking)
            (void)ask(holding, NULL);
        return USE_TAKEN;
    }
    if (now_us < holding->refused_until_us)
        return USE_SPENT;
    return join(holding, token, question);
}
