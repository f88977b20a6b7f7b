/*
 * trail.h - the format of the spool: blocks of records, as written to disk, published, replayed and verified.
 *
 * One block is what one sweep of an edge's dispatcher wrote with one pwrite.  Little-endian, no padding:
 *
 *    0  u32  magic "MGT1"              48  u64  time, Unix microseconds
 *    4  u32  size of the whole block   56  32   prev: mac of the block before (zero at the start of an epoch)
 *    8  16   producer (slot uuid)      88  32   mac: keyed chain over prev, header and records; zero when not chained
 *   24  u64  epoch                    120  u32  crc32c of the block with this field zero
 *   32  u64  first sequence           124  u32  zero
 *   40  u32  count of records         128  records
 *   44  u16  MESSAGES_VERSION of the bodies
 *   46  u16  flags: 1 chained
 *
 *    record:  u32 size of the body | u16 code | u16 zero | u64 time, Unix microseconds | body (messages.def)
 *
 * mac = HMAC-SHA-256(key, bytes 0 to 87 and then the records).
 * The record's sequence is the block's first sequence plus its position: gapless within (producer, epoch).
 * A segment file `<slot>/<epoch>-<first sequence>.seg` (20 digits each) is blocks one after another, then zeroes.
 */
#ifndef COMMON_TRAIL_H
#define COMMON_TRAIL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/encode.h"
#include "common/error.h"
#include "common/message.h"

#define TRAIL_HEADER_SIZE   128u
#define TRAIL_RECORD_SIZE   16u
#define TRAIL_BLOCK_MAX     65536u      /* one block, so that it fits one message; a replay packs several messages */
#define TRAIL_CHAINED       1u
#define TRAIL_KEY_SIZE      DIGEST_SIZE
#define TRAIL_TAG_SIZE      23u         /* of trail_tag, with its NUL */

struct trail_header {
    uint32_t size, count;
    uint8_t producer[UUID_SIZE];
    uint64_t epoch, first_seq, time_us;
    uint16_t version, flags;
    uint8_t prev[DIGEST_SIZE], mac[DIGEST_SIZE];
};

struct trail_record {
    uint64_t seq, time_us;
    const struct message_type *type;    /* NULL: a code of a newer release */
    uint16_t code;
    const uint8_t *body;
    size_t body_size;
};

/* Builds one block in a buffer of the caller's (TRAIL_BLOCK_MAX bytes). */
struct trail_writer {
    uint8_t *bytes;
    size_t capacity, size;
    struct trail_header header;
};

void trail_begin(struct trail_writer *writer, uint8_t *buffer, size_t capacity, const uint8_t producer[UUID_SIZE],
                 uint64_t epoch, uint64_t first_seq);
/* ERR_TOO_LARGE: no room (end the block and begin another); ERR_BUG as message_encode. */
enum err trail_add(struct trail_writer *writer, uint64_t time_us, const struct message_type *type, const void *message) MUST_CHECK;
/* Seals: prev, mac when key is not NULL, crc.  Returns the block's size; 0 when it holds no record. */
size_t trail_end(struct trail_writer *writer, uint64_t time_us, const uint8_t prev[DIGEST_SIZE],
                 const uint8_t *key, size_t key_size, uint8_t ret_mac[DIGEST_SIZE]);

/* The key of a producer's epoch, from the slot's own or one that edges and audit share. */
void trail_derive_key(const void *master, size_t master_size, const uint8_t producer[UUID_SIZE], uint64_t epoch,
                      uint8_t ret_key[TRAIL_KEY_SIZE]);
/* What stands in the trail for a value that a caller supplied, by its SHA-256: who has the value and the key finds it, who reads
 * the trail learns nothing. */
void trail_tag(const void *key, size_t key_size, const uint8_t digest[DIGEST_SIZE], char ret_tag[TRAIL_TAG_SIZE]);
/* Is the mac of an opened, chained block the one this key gives? */
bool trail_is_authentic(const uint8_t *block, const struct trail_header *header, const uint8_t key[TRAIL_KEY_SIZE]);
/* The first whole block of wanted->producer and ->epoch that holds wanted->first_seq or a later one; false: none. */
bool trail_find(const uint8_t *bytes, size_t size, const struct trail_header *wanted, size_t *ret_at,
                struct trail_header *ret_header);

/* Reads the block at the start of `bytes` (its size in header->size).  Checks magic, sizes, crc, that the records fill it exactly.
 * ERR_MALFORMED otherwise; ERR_NOT_FOUND: zeroes, the end of a segment. */
enum err trail_open(const uint8_t *bytes, size_t size, struct trail_header *ret_header) MUST_CHECK;
/* Next record of an opened block; *cursor starts at 0.  false: no more. */
bool trail_next(const uint8_t *block, const struct trail_header *header, size_t *cursor, uint32_t *index,
                struct trail_record *ret_record);

#endif
