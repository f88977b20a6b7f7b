/*
 * sabotage.h - protections that a test or a benchmark takes away, to see what they do.  Only `make VARIANT=sabotage` has this;
 * the environment's SABOTAGE names one: transaction, fencing or ack (audit), trail (edge: nothing is recorded at all),
 * spool (edge: what is published stands nowhere else), lease (authz: as if heartbeats that tell the change number renewed it, without a read of its own), entry_sequence (authz:
 * what lies in Redis is believed whatever has changed since).
 */
#ifndef COMMON_SABOTAGE_H
#define COMMON_SABOTAGE_H

#ifdef SABOTAGE
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static inline bool lacks(const char *protection)
{
    const char *name = getenv("SABOTAGE");

    return name != NULL && strcmp(name, protection) == 0;
}
#else
#define lacks(protection) false
#endif

#endif
