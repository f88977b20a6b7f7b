/* audit_rules.h - what to do with a block, a heartbeat and a batch, given where a stream stands; pure. */
#ifndef AUDIT_RULES_H
#define AUDIT_RULES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define AUDIT_BATCH_EVENTS 2000u
#define AUDIT_BATCH_BYTES  (1u << 20)
#define AUDIT_BATCH_MS     50u
/* Replays of one place that bring nothing before it is given up as lost. */
#define AUDIT_REPLAYS_MAX  10u

enum block_place {
    BLOCK_NEXT,         /* continues the stream */
    BLOCK_DUPLICATE,    /* wholly below next_seq */
    BLOCK_GAP,          /* something is missing before it */
    BLOCK_MALFORMED     /* empty, outside the numbers there are, or astride next_seq: no producer writes such */
};
/* next_seq: the sequence the stream needs next. */
enum block_place block_place_of(uint64_t next_seq, uint64_t first_seq, uint64_t count);

bool batch_is_full(size_t events, size_t bytes);

enum tail { TAIL_LEVEL, TAIL_MISSING, TAIL_REUSED };
/*
 * taken_seq: the sequence we need next; committed_seq: everything below it is stored; told_seq: what the producer says
 * its next event will get.  MISSING: events exist that never came.  REUSED: we stored events the producer says it never
 * made: its spool was put back from an older copy and its numbers are being used again.
 */
enum tail tail_of(uint64_t taken_seq, uint64_t committed_seq, uint64_t told_seq);

/* A replay brought nothing.  Sequences; 0: none. */
struct loss {
    uint64_t next_seq;       /* what we need */
    uint64_t oldest_seq;     /* what the spool says it still has */
    uint64_t held_seq;       /* first block we hold beyond the gap */
    uint64_t refused_seq;    /* behind a block that came and did not continue the chain */
    uint64_t told_seq;       /* the next that the spool can read, where it cannot read ours */
    bool is_gone;            /* the spool said it has it no more */
};
/* The spool cannot give what we need.  Where does the stream go on?  false: nowhere yet, ask again later.
 * replays: fruitless ones in a row; what can be read again after a fault of the disk is not given up at the first. */
bool loss_resume_of(const struct loss *loss, unsigned replays, uint64_t *ret_resume_seq);

#endif
