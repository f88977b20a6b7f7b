/*
 * audit_sabotage.h - protections that a test takes away, to see that it would notice.  Only `make VARIANT=sabotage` has this;
 * the environment's SABOTAGE names one: transaction, fencing or ack.
 */
#ifndef AUDIT_AUDIT_SABOTAGE_H
#define AUDIT_AUDIT_SABOTAGE_H

#ifdef SABOTAGE
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static inline bool audit_lacks(const char *protection)
{
    const char *name = getenv("SABOTAGE");

    return name != NULL && strcmp(name, protection) == 0;
}
#else
#define audit_lacks(protection) false
#endif

#endif
