#include "services/authz/authz_changes.h"

#include <stdlib.h>
#include <string.h>

#include "common/encode.h"

#define SUBJECTS_PER_CHANGE 2u

struct ring_entry {
    uint64_t hashes[SUBJECTS_PER_CHANGE];    /* 0: none */
};

/* hash 0: free.  Two subjects of one hash only cost a look-up too many. */
struct slot {
    uint64_t hash, sequence;
};

struct changes {
    uint64_t seed;              /* so that nobody can choose ids that crowd the table */
    uint64_t floor, applied;    /* the numbers floor+1 ... applied are remembered */
    size_t capacity, slot_mask;
    struct ring_entry *ring;    /* number n stands at n % capacity */
    struct slot *slots;         /* linear probing, at most half full */
};

enum err changes_new(size_t capacity, struct changes **ret_changes)
{
    struct changes *changes = calloc(1, sizeof *changes);
    size_t slots = capacity * SUBJECTS_PER_CHANGE * 2;

    if (changes == NULL)
        return ERR_NO_MEMORY;
    changes->seed = random_u64();
    changes->capacity = capacity;
    changes->slot_mask = slots - 1;
    changes->ring = calloc(capacity, sizeof *changes->ring);
    changes->slots = calloc(slots, sizeof *changes->slots);
    if (changes->ring == NULL || changes->slots == NULL) {
        changes_destroy(&changes);
        return ERR_NO_MEMORY;
    }
    *ret_changes = changes;
    return ERR_OK;
}

void changes_destroy(struct changes **changes)
{
    if (*changes == NULL)
        return;
    free((*changes)->ring);
    free((*changes)->slots);
    free(*changes);
    *changes = NULL;
}

void changes_reset(struct changes *changes, uint64_t sequence)
{
    memset(changes->slots, 0, (changes->slot_mask + 1) * sizeof *changes->slots);
    changes->floor = changes->applied = sequence;
}

/* FNV-1a with a seed, then the finalizer of MurmurHash3; never 0. */
static uint64_t hash_subject(const struct changes *changes, enum subject subject, const char *text)
{
    uint64_t hash = changes->seed ^ (uint64_t)subject;

    for (; *text != '\0'; text++)
        hash = (hash ^ (unsigned char)*text) * UINT64_C(0x100000001b3);
    hash = (hash ^ hash >> 33) * UINT64_C(0xff51afd7ed558ccd);
    hash = (hash ^ hash >> 33) * UINT64_C(0xc4ceb9fe1a85ec53);
    hash ^= hash >> 33;
    return hash != 0 ? hash : 1;
}

/* The slot of this hash, or the free one where it would stand. */
static size_t slot_of(const struct changes *changes, uint64_t hash)
{
    size_t i = hash & changes->slot_mask;

    while (changes->slots[i].hash != 0 && changes->slots[i].hash != hash)
        i = (i + 1) & changes->slot_mask;
    return i;
}

/* Linear probing without tombstones: entries behind the hole move up unless that would put them before their place. */
static void slot_free(struct changes *changes, size_t hole)
{
    size_t mask = changes->slot_mask;

    for (size_t i = (hole + 1) & mask; changes->slots[i].hash != 0; i = (i + 1) & mask) {
        size_t home = changes->slots[i].hash & mask;

        if (((i - home) & mask) < ((i - hole) & mask))
            continue;
        changes->slots[hole] = changes->slots[i];
        hole = i;
    }
    changes->slots[hole] = (struct slot){ 0 };
}

static void forget_oldest(struct changes *changes)
{
    const struct ring_entry *oldest;

    changes->floor++;
    oldest = &changes->ring[changes->floor % changes->capacity];
    for (size_t i = 0; i < SUBJECTS_PER_CHANGE; i++) {
        size_t slot;

        if (oldest->hashes[i] == 0)
            continue;
        slot = slot_of(changes, oldest->hashes[i]);
        if (changes->slots[slot].hash != 0 && changes->slots[slot].sequence == changes->floor)
            slot_free(changes, slot);
    }
}

static void remember(struct changes *changes, size_t place, enum subject subject, const char *text)
{
    uint64_t hash;

    if (text[0] == '\0')
        return;
    hash = hash_subject(changes, subject, text);
    changes->ring[changes->applied % changes->capacity].hashes[place] = hash;
    changes->slots[slot_of(changes, hash)] = (struct slot){ hash, changes->applied };
}

/* Whom a row names; false: it does not say, or it says everything. */
static bool remember_row(struct changes *changes, const struct change_row *row)
{
    switch (row->kind) {
    case CHANGE_KEY:
        remember(changes, 0, SUBJECT_DIGEST, row->digest);
        remember(changes, 1, SUBJECT_KEY, row->key_id);
        return row->digest[0] != '\0';
    case CHANGE_USER:
        remember(changes, 0, SUBJECT_USER, row->user_id);
        remember(changes, 1, SUBJECT_ACCOUNT, row->key_id);
        return row->user_id[0] != '\0';
    case CHANGE_TENANT:
        remember(changes, 0, SUBJECT_TENANT, row->tenant_id);
        return row->tenant_id[0] != '\0';
    case CHANGE_SESSION:
        remember(changes, 0, SUBJECT_SESSION, row->key_id);
        return row->key_id[0] != '\0';
    case CHANGE_ISSUER:
        remember(changes, 0, SUBJECT_ISSUER, row->server);
        return row->server[0] != '\0';
    case CHANGE_BOND:
        remember(changes, 0, SUBJECT_BOND, row->key_id);
        return row->key_id[0] != '\0';
    case CHANGE_NOTICE:
        remember(changes, 0, SUBJECT_USES, row->digest[0] != '\0' ? row->key_id : "");
        return true;
    case CHANGE_SERVER:
        return true;
    default:
        return false;
    }
}

bool changes_apply(struct changes *changes, const struct change_row *row)
{
    if (row->sequence != changes->applied + 1)
        return false;
    if (changes->applied - changes->floor == changes->capacity)
        forget_oldest(changes);
    changes->applied++;
    changes->ring[changes->applied % changes->capacity] = (struct ring_entry){ 0 };
    if (!remember_row(changes, row))
        changes_reset(changes, changes->applied);
    return true;
}

uint64_t changes_applied(const struct changes *changes)
{
    return changes->applied;
}

bool changes_named(const struct changes *changes, uint64_t sequence, enum subject subject, const char *text)
{
    const struct slot *slot;

    if (text[0] == '\0')
        return false;
    slot = &changes->slots[slot_of(changes, hash_subject(changes, subject, text))];
    return slot->hash != 0 && slot->sequence > sequence;
}

bool changes_reach(const struct changes *changes, uint64_t sequence)
{
    return sequence >= changes->floor;
}

bool changes_hold(const struct changes *changes, uint64_t sequence, const char *digest_text, const struct authz_facts *facts)
{
    char tenant[AUTHZ_TENANT_MAX + 1];

    if (sequence < changes->floor)
        return false;
    if (sequence >= changes->applied)
        return true;
    if (changes_named(changes, sequence, SUBJECT_DIGEST, digest_text))
        return false;
    if (facts == NULL)
        return true;
    if (authz_tenant(facts, tenant) == ERR_OK && changes_named(changes, sequence, SUBJECT_TENANT, tenant))
        return false;
    return !changes_named(changes, sequence, SUBJECT_KEY, facts->key_id)
           && !changes_named(changes, sequence, SUBJECT_USER, facts->reference_id)
           && !changes_named(changes, sequence, SUBJECT_TENANT, facts->reference_id)
           && !changes_named(changes, sequence, SUBJECT_TENANT, facts->side_tenant_id)
           && !changes_named(changes, sequence, SUBJECT_TENANT, facts->organization_id);
}

void lease_init(struct lease *lease, uint64_t length_us, uint64_t grace_us, uint64_t now_us)
{
    *lease = (struct lease){ .length_us = length_us, .grace_us = grace_us, .last_turn_us = now_us };
}

void lease_renew(struct lease *lease, uint64_t asked_us, uint64_t now_us)
{
    uint64_t until = asked_us + lease->length_us;

    if (until > lease->valid_until_us)
        lease->valid_until_us = until;
    if (now_us < until)
        lease->paused = false;
}

void lease_turn(struct lease *lease, uint64_t now_us)
{
    if (now_us > lease->last_turn_us + lease->length_us)
        lease->paused = true;
    lease->last_turn_us = now_us;
}

enum lease_state lease_state(struct lease *lease, uint64_t now_us)
{
    lease_turn(lease, now_us);
    if (lease->valid_until_us == 0)
        return LEASE_NONE;
    if (now_us < lease->valid_until_us)
        return LEASE_VALID;
    if (lease->paused || now_us >= lease->valid_until_us + lease->grace_us)
        return LEASE_NONE;
    return LEASE_STALE;
}
