/*
 * frame.h - one ZeroMQ message frame that carries a batch of messages.
 *
 * Layout, little-endian:  "MG" | u8 version | u8 0 | u32 count | u64 epoch | u64 batch
 * then per item:          u16 code | u16 attempt | u32 body size | u64 request id | u64 deadline | body
 * `epoch` and `batch` are the edge's in both directions: a reply repeats those of its request.
 * `deadline` is in the edge's monotonic microseconds, 0 for none.  Routing never needs a body.
 */
#ifndef COMMON_FRAME_H
#define COMMON_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "common/message.h"

#define FRAME_HEADER_SIZE 24u
#define FRAME_ITEM_SIZE   24u
#define FRAME_SIZE_MAX    65536u                  /* ZMQ_MAXMSGSIZE of role sockets */
#define FRAME_ITEMS_MAX   512u
#define FRAME_TRAIL_MAX   (262400u + 1024u)       /* ZMQ_MAXMSGSIZE of trail and replay sockets */

struct frame_header {
    unsigned version;
    uint32_t count;
    uint64_t epoch;
    uint64_t batch;
};

struct frame_item {
    const struct message_type *type;
    uint16_t attempt;
    uint64_t request_id;
    uint64_t deadline_us;
    const uint8_t *body;
    size_t body_size;
};

/* Builds a frame in a buffer that the caller owns. */
struct frame_writer {
    uint8_t *bytes;
    size_t capacity, size;
    struct frame_header header;
};

void frame_begin(struct frame_writer *writer, uint8_t *buffer, size_t capacity, unsigned version,
                 uint64_t epoch, uint64_t batch);
/* Appends; ERR_TOO_LARGE: no room (send what there is and begin anew) or FRAME_ITEMS_MAX; ERR_BUG as message_encode. */
enum err frame_add(struct frame_writer *writer, const struct message_type *type, uint16_t attempt,
                   uint64_t request_id, uint64_t deadline_us, const void *message) MUST_CHECK;
/* Fills in the header; returns the size of the whole frame. */
size_t frame_end(struct frame_writer *writer);

/* Walks a received frame.  It checks the header and every item's bounds first: nothing is half-delivered. */
struct frame_reader {
    const uint8_t *next, *end;
    struct frame_header header;
    uint32_t left;
};

/* ERR_MALFORMED: not a frame, foreign version, an item beyond the end, an unknown code, a body over its row's
 * limit, bytes left over.  A version outside [OLDEST, VERSION] sets *ret_version_only for a clear log line. */
enum err frame_open(struct frame_reader *reader, const void *bytes, size_t size, bool *ret_version_only) MUST_CHECK;
bool frame_next(struct frame_reader *reader, struct frame_item *ret_item);    /* false: no more */

#endif
