/*
 * refusals.h - requests refused before any verdict, counted per address, reason and status until the dispatcher takes the
 * counts, once a second: a flood of junk costs the spool one event per address and second, not one per request.
 */
#ifndef EDGE_REFUSALS_H
#define EDGE_REFUSALS_H

#include <stdint.h>

#include "common/error.h"

struct refusals;

#define REFUSALS_MAX 4096u    /* kinds told apart in one second; what comes beyond is one count without an address */

typedef void refusal_fn(void *owner, const char *address, const char *reason, unsigned status, uint64_t count);

enum err refusals_new(struct refusals **ret_refusals) MUST_CHECK;
void refusals_destroy(struct refusals **refusals);
/* Any thread.  `reason`: static storage. */
void refusals_count(struct refusals *refusals, const char *address, const char *reason, unsigned status);
/* Calls fn for each kind counted since the last time. */
void refusals_take(struct refusals *refusals, refusal_fn *fn, void *owner);

#endif
