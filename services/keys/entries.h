/*
 * entries.h - what Better-Auth keeps of keys in Redis (secondaryStorage with fallbackToDatabase) is deleted whenever a key
 * changes, whoever changes it, and when uses come back to a key that had none: its verify believes an entry before it looks at the row.
 *
 * Names, as the apiKey plugin makes them, behind the prefix of the application's storage: api-key:<digest>,
 * api-key:by-id:<id>, api-key:by-ref:<owner>.  Every instance follows mcpgw.change from a number that Postgres keeps, so what
 * could not be deleted while Redis was away, or before a crash, is deleted later; mcpgw.prune bounds that to a day.
 * A verify that had read the row before a change may write its entry after it, so everything is deleted a second time.
 */
#ifndef KEYS_ENTRIES_H
#define KEYS_ENTRIES_H

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "common/loop.h"
#include "common/secret.h"

struct entries;
struct store;

#define ENTRIES_WAITS_MAX 256u    /* as many as calls are in work */
#define ENTRIES_WAIT_MS   1000u   /* longest time an answer is held back for Redis */

struct entries_options {
    struct loop *loop;
    struct store *store;
    const struct secret *url;
    const char *prefix;                                /* of every name; "" for none */
    bool is_hex;                                       /* the table holds digests in hexadecimal: named so, too */
    void (*on_state)(void *owner, bool connected);
    void *owner;
};
typedef void entries_wait_fn(void *owner);

enum err entries_new(const struct entries_options *options, struct entries **ret_entries) MUST_CHECK;
void entries_destroy(struct entries **entries);

/* All of these do nothing (or call fn at once) when entries is NULL: the application keeps nothing in Redis. */
void entries_on_state(struct entries *entries, bool connected);    /* of Postgres */
void entries_on_change(struct entries *entries);                   /* something was committed: look now */
/* Calls fn, perhaps before it returns, when the entries of all changes up to `sequence` are gone; when Redis is away, or
 * after ENTRIES_WAIT_MS, without that: they are deleted later. */
void entries_wait(struct entries *entries, uint64_t sequence, entries_wait_fn *fn, void *owner);

#endif
