/*
 * audit_intake.h - one producer's epoch on its way into Postgres: blocks in order into columns, columns into batches,
 * what is missing asked for again.  Owns the blocks held beyond a gap and the batch being filled.
 *
 * A stream forgets everything that is not committed whenever in doubt: the producer's spool still has it.
 */
#ifndef AUDIT_INTAKE_H
#define AUDIT_INTAKE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/bus.h"
#include "common/loop.h"
#include "common/trail.h"
#include "services/audit/audit_columns.h"
#include "services/audit/audit_seal.h"
#include "services/audit/audit_store.h"

#define STREAMS_MAX           256u
#define STREAM_FLIGHTS_MAX    2u                  /* inserts of one stream under way */
#define STREAM_HOLD_BYTES     (4u << 20)          /* blocks kept beyond gaps, of all streams together */
#define STREAM_REPLAY_BYTES   (256u << 10)
#define STREAM_REPLAY_US      2000000u            /* a replay that has not ended by then is asked for again */
#define STREAM_FRUITLESS_US   200000u             /* after a replay that brought nothing */
#define STREAM_RETRY_US       1000000u            /* after a failure, before the watermark is read again */
#define STREAM_SILENT_US      60000000u           /* a stream nobody tells of for so long is forgotten */
#define STREAM_REUSED_TIMES   10u                 /* heartbeats in a row that say less than we stored */
#define STREAM_QUARANTINE_US  100000u             /* at most one set aside in so long; the others are only counted */

struct intake;

struct intake_options {
    struct loop *loop;
    const struct secret *chain_key;    /* not set: only that blocks follow each other is checked */
    /* A younger token stands on a watermark: this instance is not the active one any more. */
    void (*on_fenced)(void *owner);
    void *owner;
};

enum err intake_new(const struct intake_options *options, struct intake **ret_intake) MUST_CHECK;
void intake_destroy(struct intake **intake);
/* Once, before anything is taken: the bus delivers to the intake, so it is made later. */
void intake_connect(struct intake *intake, struct bus *bus, struct audit_store *store, struct seal *seal);

/* token 0: not the active instance: everything uncommitted is forgotten and what comes is only noted. */
void intake_set_token(struct intake *intake, uint64_t token);
void intake_take_block(struct intake *intake, uint32_t edge, const uint8_t *bytes, size_t size);
void intake_take_heartbeat(struct intake *intake, uint32_t edge, const struct trail_heartbeat *heartbeat);
void intake_take_replay_end(struct intake *intake, const struct replay_end *end);
/* Once a second: forgets silent streams, sets the gauges. */
void intake_tend(struct intake *intake);
/* Sends what is still in columns; nothing more is taken. */
void intake_drain(struct intake *intake);
bool intake_is_idle(const struct intake *intake);    /* no insert under way, nothing in columns */

#endif
