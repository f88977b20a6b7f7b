#include "cli/audit_leaf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ARRAY_HEADER 20u    /* dimensions, has NULLs, type, length, lower bound */
#define UNIX_TO_POSTGRES_S 946684800    /* its epoch is 2000-01-01 */

static const char *const value_names[EVENT_COLUMNS_COUNT] = {
    "time", "event", "outcome", "reason", "requestId", "userId", "tenantId", "authMethod", "keyId", "address", "method", "path",
    "server", "tool", "status", "latencyUs", "bytes", "count", "details",
};

uint64_t read_be64(const uint8_t *bytes)
{
    uint64_t value;

    memcpy(&value, bytes, sizeof value);
    return __builtin_bswap64(value);
}

uint32_t read_be32(const uint8_t *bytes)
{
    uint32_t value;

    memcpy(&value, bytes, sizeof value);
    return __builtin_bswap32(value);
}

/* ---- out of the columns of a batch */

struct elements elements_read(const uint8_t *bytes, size_t size)
{
    if (size == 12 && read_be32(bytes) == 0)
        return (struct elements){ .next = bytes, .end = bytes };
    if (size < ARRAY_HEADER || read_be32(bytes) != 1)
        return (struct elements){ 0 };
    return (struct elements){ .next = bytes + ARRAY_HEADER, .end = bytes + size, .count = read_be32(bytes + 12) };
}

/* Length and bytes of the next element; NULL is a length of -1.  False: the array ends before. */
static bool take_element(struct elements *elements, const uint8_t **ret_bytes, size_t *ret_size)
{
    if (elements->next == NULL || elements->count == 0 || (size_t)(elements->end - elements->next) < 4)
        return false;
    const uint32_t length = read_be32(elements->next);
    const size_t size = length == UINT32_MAX ? 4 : 4 + (size_t)length;

    if (size > (size_t)(elements->end - elements->next))
        return false;
    *ret_bytes = elements->next;
    *ret_size = size;
    elements->next += size;
    elements->count--;
    return true;
}

static bool make_room(struct leaf_buffer *buffer, size_t size)
{
    uint8_t *bytes;

    if (size <= buffer->capacity)
        return true;
    bytes = realloc(buffer->bytes, 2 * size);
    if (bytes == NULL)
        return false;
    buffer->bytes = bytes;
    buffer->capacity = 2 * size;
    return true;
}

bool trail_next_event(struct batch *batch, const struct epoch_name *name, uint64_t position, struct leaf_buffer *buffer,
                      struct event_leaf *ret_event, bool *ret_is_broken)
{
    size_t size = LEAF_HEAD_SIZE;

    *ret_is_broken = false;
    if (position >= batch->count)
        return false;
    ret_event->seq = batch->first_seq + position;
    for (size_t i = 0; i < EVENT_COLUMNS_COUNT; i++) {
        const uint8_t *bytes = NULL;
        size_t length = 0;

        *ret_is_broken = !take_element(&batch->columns[i], &bytes, &length) || !make_room(buffer, size + length);
        if (*ret_is_broken)
            return false;
        memcpy(buffer->bytes + size, bytes, length);
        size += length;
        ret_event->values[i].bytes = read_be32(bytes) == UINT32_MAX ? NULL : bytes + 4;
        ret_event->values[i].size = (uint32_t)(length - 4);
    }
    checkpoint_leaf_begin(buffer->bytes, name->producer, name->epoch, ret_event->seq);
    ret_event->content = buffer->bytes;
    ret_event->size = size;
    return true;
}

/* ---- what an event says */

/* Any 64 bits: Postgres's own instants end long before. */
static json_t *instant_json(int64_t postgres_us)
{
    int64_t seconds = postgres_us / 1000000, us = postgres_us % 1000000;
    char text[64], whole[40];
    struct tm parts;

    if (us < 0) {
        us += 1000000;
        seconds--;
    }
    seconds += UNIX_TO_POSTGRES_S;
    if (gmtime_r(&seconds, &parts) == NULL || strftime(whole, sizeof whole, "%Y-%m-%dT%H:%M:%S", &parts) == 0)
        return json_null();
    snprintf(text, sizeof text, "%s.%06dZ", whole, (int)us);
    return json_string(text);
}

static json_t *value_of(size_t column, const uint8_t *bytes, uint32_t size)
{
    if (column == VALUE_AT && size == 8)
        return instant_json((int64_t)read_be64(bytes));
    if (column >= 14 && column <= 17)
        return json_integer(size == 8 ? (json_int_t)read_be64(bytes) : size == 4 ? (json_int_t)read_be32(bytes) : 0);
    return json_stringn((const char *)bytes, size);
}

json_t *leaf_event(const uint8_t *content, size_t size)
{
    OWNED(json_destroy) json_t *event = json_object();
    const uint8_t *at = content + LEAF_HEAD_SIZE, *end = content + size;
    char producer[UUID_TEXT_SIZE];
    json_t *made;

    if (size < LEAF_HEAD_SIZE)
        return NULL;
    uuid_format(content + 1, producer);
    json_object_set_new(event, "producer", json_string(producer));
    json_object_set_new(event, "epoch", json_integer((json_int_t)read_be64(content + 1 + UUID_SIZE)));
    json_object_set_new(event, "seq", json_integer((json_int_t)read_be64(content + 9 + UUID_SIZE)));
    for (size_t i = 0; i < EVENT_COLUMNS_COUNT; i++) {
        if (end - at < 4)
            return NULL;
        const uint32_t length = read_be32(at);

        at += 4;
        if (length == UINT32_MAX)
            continue;
        if (length > (size_t)(end - at))
            return NULL;
        json_object_set_new(event, value_names[i], value_of(i, at, length));
        at += length;
    }
    if (at != end)
        return NULL;
    made = event;
    event = NULL;
    return made;
}

/* ---- a proof */

static size_t take_bytes(const json_t *value, uint8_t *bytes, size_t capacity)
{
    const char *text = json_string_value(value);
    size_t size = 0;

    return text != NULL && base64url_decode(text, strlen(text), bytes, capacity, &size) == ERR_OK ? size : 0;
}

const char *proof_refute(const json_t *proof, const struct verifier *verifier, json_t **ret_event)
{
    const json_t *hashes = json_object_get(proof, "proof"), *index = json_object_get(proof, "index");
    char *line = json_dumps(json_object_get(proof, "checkpoint"), JSON_COMPACT);
    const bool is_checkpoint = line != NULL;
    uint8_t content[LEAF_CONTENT_MAX], leaf[DIGEST_SIZE], path[MERKLE_PROOF_MAX][DIGEST_SIZE];
    const size_t size = take_bytes(json_object_get(proof, "content"), content, sizeof content);
    struct checkpoint checkpoint;
    const enum err err = is_checkpoint ? checkpoint_parse(line, strlen(line), &checkpoint) : ERR_MALFORMED;

    free(line);
    if (err != ERR_OK || size < LEAF_HEAD_SIZE || !json_is_array(hashes) || !json_is_integer(index)
        || json_array_size(hashes) > MERKLE_PROOF_MAX)
        return "this is no proof as mcpgw audit prove writes it";
    for (size_t i = 0; i < json_array_size(hashes); i++)
        if (take_bytes(json_array_get(hashes, i), path[i], DIGEST_SIZE) != DIGEST_SIZE)
            return "a hash of the proof has the wrong size";
    if (!checkpoint_is_signed(verifier, &checkpoint))
        return "the checkpoint is not signed by this key";
    if (memcmp(content + 1, checkpoint.producer, UUID_SIZE) != 0 || read_be64(content + 1 + UUID_SIZE) != checkpoint.epoch)
        return "the checkpoint is of another epoch than the event";
    merkle_leaf(content, size, leaf);
    if (json_integer_value(index) < 0
        || !merkle_proves(leaf, (uint64_t)json_integer_value(index), checkpoint.size,
                          (const uint8_t (*)[DIGEST_SIZE])path, json_array_size(hashes), checkpoint.root))
        return "the proof does not lead from the event to the signed root";
    *ret_event = leaf_event(content, size);
    return *ret_event == NULL ? "the content is no event" : NULL;
}
