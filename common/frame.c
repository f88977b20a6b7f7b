/* frame.c - packs and walks batches; the buffers belong to the caller. */
#include "common/frame.h"

#include "common/little_endian.h"

void frame_begin(struct frame_writer *writer, uint8_t *buffer, size_t capacity, unsigned version,
                 uint64_t epoch, uint64_t batch)
{
    *writer = (struct frame_writer){
        .bytes = buffer, .capacity = capacity, .size = FRAME_HEADER_SIZE,
        .header = { .version = version, .epoch = epoch, .batch = batch },
    };
}

enum err frame_add(struct frame_writer *writer, const struct message_type *type, uint16_t attempt,
                   uint64_t request_id, uint64_t deadline_us, const void *message)
{
    uint8_t *item = writer->bytes + writer->size;
    size_t body_size = 0;

    if (writer->header.count == FRAME_ITEMS_MAX || writer->capacity < writer->size + FRAME_ITEM_SIZE)
        return ERR_TOO_LARGE;
    enum err err = message_encode(type, writer->header.version, message, item + FRAME_ITEM_SIZE,
                                  writer->capacity - writer->size - FRAME_ITEM_SIZE, &body_size);
    if (err != ERR_OK)
        return err;
    put_le16(item, type->code);
    put_le16(item + 2, attempt);
    put_le32(item + 4, (uint32_t)body_size);
    put_le64(item + 8, request_id);
    put_le64(item + 16, deadline_us);
    writer->size += FRAME_ITEM_SIZE + body_size;
    writer->header.count++;
    return ERR_OK;
}

size_t frame_end(struct frame_writer *writer)
{
    uint8_t *header = writer->bytes;

    header[0] = 'M';
    header[1] = 'G';
    header[2] = (uint8_t)writer->header.version;
    header[3] = 0;
    put_le32(header + 4, writer->header.count);
    put_le64(header + 8, writer->header.epoch);
    put_le64(header + 16, writer->header.batch);
    return writer->size;
}

static bool items_are_sound(const uint8_t *at, const uint8_t *end, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        if ((size_t)(end - at) < FRAME_ITEM_SIZE)
            return false;
        const struct message_type *type = message_type_of(get_le16(at));
        const size_t body_size = get_le32(at + 4);

        at += FRAME_ITEM_SIZE;
        if (type == NULL || body_size > type->body_limit || body_size > (size_t)(end - at))
            return false;
        at += body_size;
    }
    return at == end;
}

enum err frame_open(struct frame_reader *reader, const void *bytes, size_t size, bool *ret_version_only)
{
    const uint8_t *header = bytes;

    *ret_version_only = false;
    if (size < FRAME_HEADER_SIZE || header[0] != 'M' || header[1] != 'G' || header[3] != 0)
        return ERR_MALFORMED;
    if (header[2] < MESSAGES_VERSION_OLDEST || header[2] > MESSAGES_VERSION) {
        *ret_version_only = true;
        return ERR_MALFORMED;
    }
    const uint32_t count = get_le32(header + 4);

    if (count == 0 || count > FRAME_ITEMS_MAX
        || !items_are_sound(header + FRAME_HEADER_SIZE, header + size, count))
        return ERR_MALFORMED;
    *reader = (struct frame_reader){
        .next = header + FRAME_HEADER_SIZE, .end = header + size, .left = count,
        .header = { .version = header[2], .count = count, .epoch = get_le64(header + 8),
                    .batch = get_le64(header + 16) },
    };
    return ERR_OK;
}

bool frame_next(struct frame_reader *reader, struct frame_item *ret_item)
{
    const uint8_t *item = reader->next;

    if (reader->left == 0)
        return false;
    *ret_item = (struct frame_item){
        .type = message_type_of(get_le16(item)), .attempt = get_le16(item + 2), .body_size = get_le32(item + 4),
        .request_id = get_le64(item + 8), .deadline_us = get_le64(item + 16), .body = item + FRAME_ITEM_SIZE,
    };
    reader->next = ret_item->body + ret_item->body_size;
    reader->left--;
    return true;
}
