/*
 * authz_changes.h - which change numbers have been applied, what they named, and whether the lease on them holds.
 *
 * A cached fact carries the number of the snapshot it was read in.  It is true as long as no later change names its key,
 * user or tenant (changes_hold) and the lease says that no change can have been missed (lease_state).  So nothing has
 * to be searched and evicted when a change arrives, wherever its entry lies: memory, Redis, or on its way from Postgres.
 */
#ifndef AUTHZ_CHANGES_H
#define AUTHZ_CHANGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/change.h"
#include "common/error.h"
#include "services/authz/authz_rules.h"

/* Changes remembered: 310 s (longer than any cached fact lives) at 52 changes a second.  What was read before the oldest
 * of them is looked up again, so more changes make authz slower, never wrong. */
#define CHANGES_MAX 16384u

struct changes;

/* What a change may name.  A user's id and an organization's may be the same text. */
enum subject {
    SUBJECT_DIGEST = 1, SUBJECT_KEY, SUBJECT_USER, SUBJECT_TENANT, SUBJECT_SESSION, SUBJECT_ISSUER, SUBJECT_ACCOUNT, SUBJECT_USES, SUBJECT_BOND
};

/* One row of mcpgw.change; texts are "" where the row has NULL. */
struct change_row {
    uint64_t sequence;
    int kind;                 /* enum change_kind; an unknown number counts as CHANGE_ALL */
    const char *digest, *key_id, *user_id, *tenant_id, *server;
};

/* capacity: changes remembered, a power of two. */
enum err changes_new(size_t capacity, struct changes **ret_changes) MUST_CHECK;
void changes_destroy(struct changes **changes);

/* Forgets all: what was read before `sequence` is not to be used any more, and `sequence` counts as applied. */
void changes_reset(struct changes *changes, uint64_t sequence);
/* The next row.  false: its number is not the one behind the last applied, and nothing was done. */
bool changes_apply(struct changes *changes, const struct change_row *row);
uint64_t changes_applied(const struct changes *changes);

/* Is what was read of this digest at `sequence` still true after all changes applied?  facts NULL: that no such key exists. */
bool changes_hold(const struct changes *changes, uint64_t sequence, const char *digest_text, const struct authz_facts *facts);

/* Are the changes behind `sequence` all remembered, so that changes_named can be believed? */
bool changes_reach(const struct changes *changes, uint64_t sequence);
/* Did one of them name this?  Never "". */
bool changes_named(const struct changes *changes, uint64_t sequence, enum subject subject, const char *text);

/* ---- the lease: all times are CLOCK_BOOTTIME in microseconds, so that time spent suspended counts ---- */

enum lease_state {
    LEASE_NONE,       /* nothing cached may decide */
    LEASE_STALE,      /* ended, within grace: cached facts decide and are marked */
    LEASE_VALID
};

struct lease {
    uint64_t length_us, grace_us;
    uint64_t valid_until_us;    /* 0: never had one */
    uint64_t last_turn_us;      /* of the loop */
    bool paused;                /* we stood still for longer than a lease and have had no new one since: no grace */
};

void lease_init(struct lease *lease, uint64_t length_us, uint64_t grace_us, uint64_t now_us);
/* The change number was asked for at `asked_us` and everything up to the answer has been applied. */
void lease_renew(struct lease *lease, uint64_t asked_us, uint64_t now_us);
/* To be called in every turn of the loop, at least every quarter of a lease. */
void lease_turn(struct lease *lease, uint64_t now_us);
/* Also notices a pause by itself, so that the first decision after one is right. */
enum lease_state lease_state(struct lease *lease, uint64_t now_us);

#endif
