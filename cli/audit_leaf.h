/*
 * audit_leaf.h - an event as bytes: out of the arrays of a batch, as the leaf of a tree, out of a proof.  Whoever wrote them
 * may be hostile: a superuser of the database, or who hands over a proof.  No connection, no file.
 */
#ifndef CLI_AUDIT_LEAF_H
#define CLI_AUDIT_LEAF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "common/checkpoint.h"
#include "common/cleanup.h"

#define LEAF_CONTENT_MAX 16384u    /* of a leaf that can be proven */

DEFINE_DESTROY(json_destroy, json_t, json_decref)

/* An array column in Postgres's binary form. */
struct elements {
    const uint8_t *next, *end;    /* NULL: it is no such array */
    uint32_t count;
};

struct batch {
    uint64_t first_seq, last_seq, count, first_leaf;
    bool has_leaf;                    /* false: stored before there was a tree */
    int64_t first_at, last_at;        /* microseconds since 2000 */
    struct elements columns[EVENT_COLUMNS_COUNT], keys, users;
};

/* One event of a batch: its content as a leaf, prefix byte included. */
struct event_leaf {
    uint64_t seq;
    uint8_t *content;
    size_t size;
    struct { const uint8_t *bytes; uint32_t size; } values[EVENT_COLUMNS_COUNT];    /* bytes NULL: no value */
};

enum { VALUE_AT = 0, VALUE_EVENT = 1, VALUE_USER = 5, VALUE_KEY = 8 };

struct epoch_name {
    uint8_t producer[UUID_SIZE];
    uint64_t epoch;
};

/* One dimension, or none when it is empty. */
struct elements elements_read(const uint8_t *bytes, size_t size);
/* The next event of the batch, into a buffer that grows and is the caller's to free.  False: there is none, or the
 * columns do not agree (then *ret_is_broken). */
struct leaf_buffer { uint8_t *bytes; size_t capacity; };
bool trail_next_event(struct batch *batch, const struct epoch_name *name, uint64_t position, struct leaf_buffer *buffer,
                      struct event_leaf *ret_event, bool *ret_is_broken);

uint64_t read_be64(const uint8_t *bytes);
uint32_t read_be32(const uint8_t *bytes);

/* The content of a leaf as an object; NULL: it is no content of a leaf. */
json_t *leaf_event(const uint8_t *content, size_t size);
/* NULL: the proof holds, and *ret_event is what it proves; else why not. */
const char *proof_refute(const json_t *proof, const struct verifier *verifier, json_t **ret_event);

#endif
