#include "services/authz/authz_keysets.h"

#include <stdlib.h>
#include <string.h>

#include "common/encode.h"
#include "common/log.h"
#include "common/metrics.h"

struct source {
    uint8_t digest[DIGEST_SIZE];    /* of the text that was parsed */
    uint64_t wanted_us;             /* CLOCK_BOOTTIME; 0: never */
    bool seen;                      /* in the rows that are being taken */
};

struct keysets {
    struct keysets_options options;
    size_t count;
    struct jose_keys **list;
    struct source *sources;
    uint64_t sequence;
    bool was_read, reading;
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
