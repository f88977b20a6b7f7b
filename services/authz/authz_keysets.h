/*
 * authz_keysets.h - the parsed key sets of all issuers, as Postgres has them at one change number.
 *
 * A set counts only while no change behind that number names its issuer: a key that was withdrawn verifies nothing from
 * the moment the change is applied, even before the new set is read.
 */
#ifndef AUTHZ_KEYSETS_H
#define AUTHZ_KEYSETS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "common/issuers.h"
#include "common/jose.h"
#include "services/authz/authz_changes.h"
#include "services/authz/authz_identities.h"

struct keysets;

struct keysets_options {
    const struct issuers *issuers;
    const struct changes *changes;
    struct identities *identities;
    void (*on_read)(void *owner);    /* sets were read: those that wait may try again */
    void *owner;
};

enum err keysets_new(const struct keysets_options *options, struct keysets **ret_keysets) MUST_CHECK;
void keysets_destroy(struct keysets **keysets);

/* One per issuer, in their order; NULL: none is known. */
struct jose_keys *const *keysets_list(const struct keysets *keysets);
bool keysets_were_read(const struct keysets *keysets);
/* Are they as true as the changes applied?  false: they are being read, or Postgres cannot be asked. */
bool keysets_are_current(struct keysets *keysets);
uint64_t keysets_sequence(const struct keysets *keysets);    /* the number they are true at */
/* Reads them when they are not current.  To be called when changes were applied. */
void keysets_check(struct keysets *keysets);
void keysets_tick(struct keysets *keysets, uint64_t now_us);    /* to be called once a second */

/* Another history of the database: they are read again before they count. */
void keysets_forget(struct keysets *keysets);

/*
 * A key of this issuer is unknown here: may it have one all the same?  true: its set is older than its refresh interval, the last
 * fetch failed, or none was made since it was wanted although one might have been.
 */
bool keysets_are_doubtful(const struct keysets *keysets, const struct issuer *issuer, uint64_t now_us);
/* To be called often while somebody waits for a key; asks Postgres how the fetches went, now and then. */
void keysets_watch(struct keysets *keysets, uint64_t now_us);

/*
 * A key of this issuer is lacking.  The keys service is told, at most once per cool-down of the issuer (and of KEYSETS_WAIT_US at
 * least); true: that was just now, so that it may be worth to wait for a new set.
 */
#define KEYSETS_WAIT_US 1200000u
bool keysets_want(struct keysets *keysets, const struct issuer *issuer, uint64_t now_us);

#endif
