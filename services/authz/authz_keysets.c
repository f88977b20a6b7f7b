#include "services/authz/authz_keysets.h"

#include <stdlib.h>
#include <string.h>

#include "common/encode.h"
#include "common/log.h"
#include "common/metrics.h"

#define STATE_US 300000u            /* between two questions how the fetches went */

struct source {
    uint8_t digest[DIGEST_SIZE];    /* of the text that was parsed */
    uint64_t wanted_us;             /* CLOCK_BOOTTIME; 0: never */
    uint64_t fetched_us;            /* CLOCK_BOOTTIME, as last told; 0: never, or not known */
    bool is_failing;
    bool seen;                      /* in the rows that are being taken */
};

struct keysets {
    struct keysets_options options;
    size_t count;
    struct jose_keys **list;
    struct source *sources;
    uint64_t sequence;
    bool was_read, reading;
    uint64_t state_us;              /* when states were asked for, CLOCK_BOOTTIME */
    bool reading_states;
};

enum err keysets_new(const struct keysets_options *options, struct keysets **ret_keysets)
{
    struct keysets *keysets = calloc(1, sizeof *keysets);
    size_t count = options->issuers->count;

    if (keysets == NULL)
        return ERR_NO_MEMORY;
    keysets->options = *options;
    keysets->count = count;
    keysets->list = calloc(count + 1, sizeof(struct jose_keys *));
    keysets->sources = calloc(count + 1, sizeof *keysets->sources);
    if (keysets->list == NULL || keysets->sources == NULL) {
        keysets_destroy(&keysets);
        return ERR_NO_MEMORY;
    }
    *ret_keysets = keysets;
    return ERR_OK;
}

void keysets_destroy(struct keysets **keysets)
{
    if (*keysets == NULL)
        return;
    for (size_t i = 0; (*keysets)->list != NULL && i < (*keysets)->count; i++)
        jose_keys_destroy(&(*keysets)->list[i]);
    free((*keysets)->list);
    free((*keysets)->sources);
    free(*keysets);
    *keysets = NULL;
}

struct jose_keys *const *keysets_list(const struct keysets *keysets)
{
    return keysets->list;
}

bool keysets_were_read(const struct keysets *keysets)
{
    return keysets->was_read;
}

uint64_t keysets_sequence(const struct keysets *keysets)
{
    return keysets->sequence;
}

bool keysets_are_current(struct keysets *keysets)
{
    const struct changes *changes = keysets->options.changes;
    uint64_t applied = changes_applied(changes);

    if (!keysets->was_read || !changes_reach(changes, keysets->sequence))
        return false;
    if (keysets->sequence >= applied)
        return true;
    for (size_t i = 0; i < keysets->count; i++)
        if (changes_named(changes, keysets->sequence, SUBJECT_ISSUER, keysets->options.issuers->list[i].name))
            return false;
    keysets->sequence = applied;
    return true;
}

/* A set that cannot be read is not taken: the one before goes on, and the log says why. */
static void take_set(struct keysets *keysets, size_t index, const char *text, size_t size)
{
    const char *name = keysets->options.issuers->list[index].name;
    struct source *source = &keysets->sources[index];
    struct jose_keys *keys = NULL;
    uint8_t digest[DIGEST_SIZE];
    char why[200] = "";

    digest_sha256(text, size, digest);
    source->seen = true;
    if (keysets->list[index] != NULL && memcmp(source->digest, digest, DIGEST_SIZE) == 0)
        return;
    if (jose_keys_parse(text, size, &keys, why, sizeof why) != ERR_OK) {
        log_warn("key_set_unreadable", log_text("issuer", name), log_text("why", why));
        return;
    }
    jose_keys_destroy(&keysets->list[index]);
    keysets->list[index] = keys;
    memcpy(source->digest, digest, DIGEST_SIZE);
    log_info("key_set_read", log_text("issuer", name), log_number("keys", jose_keys_count(keys)),
             log_number("skipped", jose_keys_skipped(keys)));
}

static void take_row(struct keysets *keysets, const struct keyset_rows *rows, size_t row)
{
    const struct issuers *issuers = keysets->options.issuers;
    size_t size;
    const char *text = keyset_text(rows, row, &size);

    for (size_t i = 0; i < keysets->count; i++)
        if (strcmp(issuers->list[i].name, keyset_name(rows, row)) == 0
            && strcmp(issuers->list[i].issuer, keyset_issuer(rows, row)) == 0)
            take_set(keysets, i, text, size);
}

static void on_keysets(void *owner, const struct keyset_rows *rows)
{
    struct keysets *keysets = owner;

    keysets->reading = false;
    if (rows == NULL)
        return;
    for (size_t i = 0; i < keysets->count; i++)
        keysets->sources[i].seen = false;
    for (size_t row = 0; row < rows->count; row++)
        take_row(keysets, rows, row);
    for (size_t i = 0; i < keysets->count; i++)
        if (!keysets->sources[i].seen)
            jose_keys_destroy(&keysets->list[i]);
    keysets->sequence = rows->sequence;
    keysets->was_read = true;
    metric_add(METRIC_key_sets_read, 1);
    keysets_check(keysets);
    keysets->options.on_read(keysets->options.owner);
}

void keysets_check(struct keysets *keysets)
{
    if (keysets->count == 0 || keysets->reading || keysets_are_current(keysets))
        return;
    keysets->reading = identities_read_keysets(keysets->options.identities, on_keysets, keysets) == ERR_OK;
}

/* While an answer about an unknown key may be wanted, what is known of the fetches is kept fresh. */
static bool is_watched(const struct keysets *keysets, uint64_t now_us)
{
    for (size_t i = 0; i < keysets->count; i++) {
        const uint64_t pause_us = keysets->options.issuers->list[i].cooldown_s * 1000000 + KEYSETS_WAIT_US;

        if (keysets->sources[i].wanted_us != 0 && now_us < keysets->sources[i].wanted_us + pause_us)
            return true;
    }
    return false;
}

void keysets_tick(struct keysets *keysets, uint64_t now_us)
{
    keysets_check(keysets);
    if (is_watched(keysets, now_us))
        keysets_watch(keysets, now_us);
}

void keysets_forget(struct keysets *keysets)
{
    keysets->was_read = false;
    keysets_check(keysets);
}

bool keysets_want(struct keysets *keysets, const struct issuer *issuer, uint64_t now_us)
{
    struct source *source = &keysets->sources[issuer - keysets->options.issuers->list];
    uint64_t pause_us = issuer->cooldown_s * 1000000;

    if (source->wanted_us != 0 && now_us < source->wanted_us + KEYSETS_WAIT_US)
        return true;
    if (source->wanted_us != 0 && now_us < source->wanted_us + pause_us)
        return false;
    source->wanted_us = now_us;
    metric_add(METRIC_key_sets_wanted, 1);
    identities_want(keysets->options.identities, issuer->name);
    return true;
}

/* ---- how the fetches went ------------------------------------------------------------------------------ */

static void take_state(struct keysets *keysets, const struct keyset_state *state)
{
    const struct issuers *issuers = keysets->options.issuers;
    const uint64_t age_us = state->age_ms < 0 ? UINT64_MAX : (uint64_t)state->age_ms * 1000;

    for (size_t i = 0; i < keysets->count; i++) {
        if (strcmp(issuers->list[i].name, state->name) != 0 || strcmp(issuers->list[i].issuer, state->issuer) != 0)
            continue;
        keysets->sources[i].is_failing = state->failures > 0;
        keysets->sources[i].fetched_us = age_us < keysets->state_us ? keysets->state_us - age_us : 0;
    }
}

static void on_states(void *owner, const struct keyset_rows *rows)
{
    struct keysets *keysets = owner;

    keysets->reading_states = false;
    for (size_t row = 0; rows != NULL && row < rows->count; row++) {
        const struct keyset_state state = keyset_state(rows, row);

        take_state(keysets, &state);
    }
}

void keysets_watch(struct keysets *keysets, uint64_t now_us)
{
    if (keysets->reading_states || now_us < keysets->state_us + STATE_US)
        return;
    keysets->state_us = now_us;
    keysets->reading_states = identities_read_states(keysets->options.identities, on_states, keysets) == ERR_OK;
}

bool keysets_are_doubtful(const struct keysets *keysets, const struct issuer *issuer, uint64_t now_us)
{
    const struct source *source = &keysets->sources[issuer - keysets->options.issuers->list];

    return source->is_failing || source->fetched_us == 0 || now_us > source->fetched_us + issuer->refresh_s * 1000000
           || source->wanted_us > source->fetched_us + issuer->cooldown_s * 1000000;
}
