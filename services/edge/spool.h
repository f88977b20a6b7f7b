/*
 * spool.h - the trail on disk: one slot of a directory, locked; segments preallocated one ahead; a thread of its own for
 * everything that may wait for the disk.  Format: common/trail.h.
 *
 * Layout: <dir>/slot-<n>/ (held by flock) with `uuid` (made once), `epoch` (+1 per start), `<epoch>-<first sequence>.seg`
 * and `next.tmp` (the segment prepared).  Sequences of an epoch start at 1.  Old epochs, and slots of edges that are gone,
 * are served for replay until they are acknowledged.
 */
#ifndef EDGE_SPOOL_H
#define EDGE_SPOOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/encode.h"
#include "common/error.h"
#include "common/secret.h"
#include "common/trail.h"

struct spool;

#define SPOOL_LOGS_MAX      64u        /* (producer, epoch) pairs told in one round of heartbeats, oldest first */
#define SPOOL_SEGMENT_MIN   131072u
#define SPOOL_JUNK_SHARE    10u        /* one tenth of the quota for refusals before authz */

struct spool_options {
    const char *dir;
    uint64_t bytes, segment_bytes;
    const struct secret *chain_key;    /* of all producers; NULL or not set: each slot has its own */
    bool is_strict;                    /* sync as soon as something was written, not every 50 ms */
    void (*on_durable)(void *owner);   /* from the spool thread, after each sync; may be NULL */
    void *owner;
};

/* What exists of one epoch. */
struct spool_log {
    uint8_t producer[UUID_SIZE];
    uint64_t epoch, next_seq, durable_seq, oldest_seq;
    bool is_closed;
};

/* Where a replay stands; set producer, epoch and seq, zero the rest, and end it with spool_cursor_close. */
struct spool_cursor {
    uint8_t producer[UUID_SIZE];
    uint64_t epoch, seq;
    bool is_open;
    int fd;
    uint64_t segment_seq;              /* first sequence of the segment that fd reads */
    uint64_t offset;
};

/* ERR_UNAVAILABLE with a sentence in reterr: the directory cannot be used. */
enum err spool_new(const struct spool_options *options, struct spool **ret_spool, char *reterr, size_t reterr_size) MUST_CHECK;
/* Everything written is on disk when it returns. */
void spool_destroy(struct spool **spool);

const uint8_t *spool_producer(const struct spool *spool);
const uint8_t *spool_chain_key(const struct spool *spool);    /* of the own epoch, TRAIL_KEY_SIZE bytes */
uint64_t spool_epoch(const struct spool *spool);
uint64_t spool_next_seq(const struct spool *spool);
uint64_t spool_durable_seq(struct spool *spool);    /* of the own epoch: events below it are on disk */

/* Will the spool take events?  False: quota or disk are spent; calls are to be refused before they have an effect. */
bool spool_is_available(struct spool *spool);
/* Is there room under the quota of refusals? */
bool spool_takes_junk(struct spool *spool);
/* Appends one sealed block of `count` records (one pwrite); its first sequence must be spool_next_seq.
 * ERR_AUDIT_UNAVAILABLE: not written, the sequence has not moved. */
enum err spool_append(struct spool *spool, const uint8_t *block, size_t size, uint32_t count, bool is_junk) MUST_CHECK;

/* Up to SPOOL_LOGS_MAX, the own epoch first. */
size_t spool_logs(struct spool *spool, struct spool_log ret_logs[SPOOL_LOGS_MAX]);
/* Events below next_seq are committed elsewhere: segments wholly below are unlinked soon. */
void spool_acknowledge(struct spool *spool, const uint8_t producer[UUID_SIZE], uint64_t epoch, uint64_t next_seq);
/*
 * Reads the block that holds cursor->seq and moves the cursor behind it.  `buffer` has TRAIL_BLOCK_MAX bytes.
 * ERR_AGAIN: still seeking (a call does a bounded amount of work); ERR_NOT_FOUND: the spool does not have it (any more), and
 * cursor->seq is the next it has, if there is one; ERR_MALFORMED: what stands there is damaged, *ret_size bytes of it are
 * in the buffer, and spool_skip goes on.  At the end of what exists: ERR_OK with *ret_size 0.
 */
enum err spool_read(struct spool *spool, struct spool_cursor *cursor, uint8_t *buffer, size_t *ret_size) MUST_CHECK;
/* After ERR_MALFORMED: moves the cursor to the next block that can be read, or behind the segment's last sequence.
 * `buffer` has SPOOL_SKIP_SIZE bytes.  ERR_OK: cursor->seq is there; ERR_AGAIN: still looking; else as spool_read. */
#define SPOOL_SKIP_SIZE (2u * TRAIL_BLOCK_MAX)
enum err spool_skip(struct spool *spool, struct spool_cursor *cursor, uint8_t *buffer) MUST_CHECK;
void spool_cursor_close(struct spool_cursor *cursor);

#endif
