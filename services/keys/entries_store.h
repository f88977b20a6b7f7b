/* entries_store.h - SQL of entries: changes of keys with their owners, and how far their entries have been deleted. */
#ifndef KEYS_ENTRIES_STORE_H
#define KEYS_ENTRIES_STORE_H

#include "common/change.h"
#include "services/keys/keys_store.h"

extern const struct postgres_statement entries_statements[];

/* Texts belong to the result, "" stands for NULL. */
struct entry_change {
    uint64_t sequence, kind;
    const char *digest, *key_id, *reference_id;
};

/* One number: up to which change all entries have been deleted; the newest one, where nobody has begun yet. */
enum err store_start_entries(struct store *store, postgres_fn *fn, void *owner) MUST_CHECK;
/* store_read_sequence and store_read_entry_change of one snapshot, at most STORE_CHANGES_MAX after `since`, in order. */
enum err store_read_entry_changes(struct store *store, uint64_t since, postgres_fn *fn, void *owner) MUST_CHECK;
bool store_read_entry_change(const PGresult *rows, int row, struct entry_change *ret_change);    /* false: no such row */
enum err store_keep_entries(struct store *store, uint64_t sequence, postgres_fn *fn, void *owner) MUST_CHECK;

#endif
