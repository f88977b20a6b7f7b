/*
 * doctor_redis.h - what mcpgw-keys doctor looks for in the application's Redis: keys of Better-Auth's apiKey plugin that no
 * table has, so that the gateway cannot know them.
 */
#ifndef KEYS_DOCTOR_REDIS_H
#define KEYS_DOCTOR_REDIS_H

#include <stdbool.h>
#include <stdint.h>

#include <libpq-fe.h>

#include "common/secret.h"

#define REDIS_FINDING_SIZE 256u
/* Reading all names of a Redis that holds millions takes seconds; then what was seen by now is told. */
#define REDIS_LOOK_MS      60000u

struct redis_findings {
    uint64_t copies, orphans;              /* keys that Redis holds, and those of them that are in no table */
    char examples[REDIS_FINDING_SIZE];     /* ids of the first orphans */
    char other_prefix[REDIS_FINDING_SIZE]; /* another one than the setting's stands before names of keys; "": none does */
    char why[REDIS_FINDING_SIZE];          /* it could not be read, or not to the end; "": it was */
};

/* Names api-key:by-id:<id>, with anything before them; only SCAN is sent. */
void doctor_look_into_redis(const struct secret *url, const char *prefix, PGconn *session, struct redis_findings *ret_findings);

#endif
