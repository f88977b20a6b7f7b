/* trail.c - seals and reads blocks of the trail; the buffers belong to the caller. */
#include "common/trail.h"

#include <string.h>

#include <openssl/crypto.h>

#include "common/little_endian.h"

static const uint8_t magic[4] = { 'M', 'G', 'T', '1' };

/* Offsets in the header and in a record; trail.h has the picture. */
enum {
    AT_SIZE = 4, AT_PRODUCER = 8, AT_EPOCH = 24, AT_FIRST = 32, AT_COUNT = 40, AT_VERSION = 44, AT_FLAGS = 46,
    AT_TIME = 48, AT_PREV = 56, AT_MAC = 88, AT_CRC = 120, AT_ZERO = 124
};
enum { RECORD_AT_CODE = 4, RECORD_AT_ZERO = 6, RECORD_AT_TIME = 8 };

/* The block's checksum, its own field counted as zero. */
static uint32_t checksum_of(const uint8_t *block, size_t size)
{
    static const uint8_t zero[4];
    uint32_t crc = crc32c(0, block, AT_CRC);

    crc = crc32c(crc, zero, sizeof zero);
    return crc32c(crc, block + AT_ZERO, size - AT_ZERO);
}

void trail_begin(struct trail_writer *writer, uint8_t *buffer, size_t capacity, const uint8_t producer[UUID_SIZE],
                 uint64_t epoch, uint64_t first_seq)
{
    *writer = (struct trail_writer){
        .bytes = buffer, .capacity = capacity < TRAIL_BLOCK_MAX ? capacity : TRAIL_BLOCK_MAX,
        .size = TRAIL_HEADER_SIZE,
        .header = { .epoch = epoch, .first_seq = first_seq, .version = MESSAGES_VERSION },
    };
    memcpy(writer->header.producer, producer, UUID_SIZE);
}

enum err trail_add(struct trail_writer *writer, uint64_t time_us, const struct message_type *type, const void *message)
{
    uint8_t *record = writer->bytes + writer->size;
    size_t body_size = 0;

    if (writer->capacity < writer->size + TRAIL_RECORD_SIZE)
        return ERR_TOO_LARGE;
    enum err err = message_encode(type, writer->header.version, message, record + TRAIL_RECORD_SIZE,
                                  writer->capacity - writer->size - TRAIL_RECORD_SIZE, &body_size);
    if (err != ERR_OK)
        return err;
    put_le32(record, (uint32_t)body_size);
    put_le16(record + RECORD_AT_CODE, type->code);
    put_le16(record + RECORD_AT_ZERO, 0);
    put_le64(record + RECORD_AT_TIME, time_us);
    writer->size += TRAIL_RECORD_SIZE + body_size;
    writer->header.count++;
    return ERR_OK;
}

size_t trail_end(struct trail_writer *writer, uint64_t time_us, const uint8_t prev[DIGEST_SIZE],
                 const uint8_t *key, size_t key_size, uint8_t ret_mac[DIGEST_SIZE])
{
    struct trail_header *header = &writer->header;
    uint8_t *block = writer->bytes;

    if (header->count == 0)
        return 0;
    header->size = (uint32_t)writer->size;
    header->time_us = time_us;
    header->flags = key != NULL ? TRAIL_CHAINED : 0;
    memcpy(header->prev, prev, DIGEST_SIZE);

    memcpy(block, magic, sizeof magic);
    put_le32(block + AT_SIZE, header->size);
    memcpy(block + AT_PRODUCER, header->producer, UUID_SIZE);
    put_le64(block + AT_EPOCH, header->epoch);
    put_le64(block + AT_FIRST, header->first_seq);
    put_le32(block + AT_COUNT, header->count);
    put_le16(block + AT_VERSION, header->version);
    put_le16(block + AT_FLAGS, header->flags);
    put_le64(block + AT_TIME, header->time_us);
    memcpy(block + AT_PREV, header->prev, DIGEST_SIZE);
    if (key != NULL)
        digest_hmac(key, key_size, block, AT_MAC, block + TRAIL_HEADER_SIZE, writer->size - TRAIL_HEADER_SIZE,
                    header->mac);
    memcpy(block + AT_MAC, header->mac, DIGEST_SIZE);
    put_le32(block + AT_ZERO, 0);
    put_le32(block + AT_CRC, checksum_of(block, writer->size));
    memcpy(ret_mac, header->mac, DIGEST_SIZE);
    return writer->size;
}

static bool is_zero(const uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (bytes[i] != 0)
            return false;
    return true;
}

static bool records_fill(const uint8_t *at, const uint8_t *end, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        if ((size_t)(end - at) < TRAIL_RECORD_SIZE || get_le16(at + RECORD_AT_ZERO) != 0)
            return false;
        const size_t body_size = get_le32(at);

        at += TRAIL_RECORD_SIZE;
        if (body_size > (size_t)(end - at))
            return false;
        at += body_size;
    }
    return at == end;
}

static void read_header(const uint8_t *block, struct trail_header *ret_header)
{
    *ret_header = (struct trail_header){
        .size = get_le32(block + AT_SIZE), .count = get_le32(block + AT_COUNT),
        .epoch = get_le64(block + AT_EPOCH), .first_seq = get_le64(block + AT_FIRST),
        .time_us = get_le64(block + AT_TIME),
        .version = get_le16(block + AT_VERSION), .flags = get_le16(block + AT_FLAGS),
    };
    memcpy(ret_header->producer, block + AT_PRODUCER, UUID_SIZE);
    memcpy(ret_header->prev, block + AT_PREV, DIGEST_SIZE);
    memcpy(ret_header->mac, block + AT_MAC, DIGEST_SIZE);
}

static bool header_is_sound(const struct trail_header *header, size_t size)
{
    return header->size >= TRAIL_HEADER_SIZE && header->size <= TRAIL_BLOCK_MAX && header->size <= size
        && header->count > 0 && header->first_seq <= UINT64_MAX - header->count
        && header->version > 0 && (header->flags & ~TRAIL_CHAINED) == 0;
}

enum err trail_open(const uint8_t *bytes, size_t size, struct trail_header *ret_header)
{
    struct trail_header header;

    if (is_zero(bytes, size < TRAIL_HEADER_SIZE ? size : TRAIL_HEADER_SIZE))
        return ERR_NOT_FOUND;
    if (size < TRAIL_HEADER_SIZE || memcmp(bytes, magic, sizeof magic) != 0 || get_le32(bytes + AT_ZERO) != 0)
        return ERR_MALFORMED;
    read_header(bytes, &header);
    if (!header_is_sound(&header, size) || get_le32(bytes + AT_CRC) != checksum_of(bytes, header.size)
        || !records_fill(bytes + TRAIL_HEADER_SIZE, bytes + header.size, header.count))
        return ERR_MALFORMED;
    *ret_header = header;
    return ERR_OK;
}

void trail_derive_key(const void *master, size_t master_size, const uint8_t producer[UUID_SIZE], uint64_t epoch,
                      uint8_t ret_key[TRAIL_KEY_SIZE])
{
    uint8_t number[8];

    put_le64(number, epoch);
    digest_hmac(master, master_size, producer, UUID_SIZE, number, sizeof number, ret_key);
}

void trail_tag(const void *key, size_t key_size, const uint8_t digest[DIGEST_SIZE], char ret_tag[TRAIL_TAG_SIZE])
{
    static const char purpose[] = "mcpgw trail tag 1";
    uint8_t mac[DIGEST_SIZE];

    digest_hmac(key, key_size, purpose, sizeof purpose, digest, DIGEST_SIZE, mac);
    base64url_encode(mac, 16, ret_tag);
}

bool trail_is_authentic(const uint8_t *block, const struct trail_header *header, const uint8_t key[TRAIL_KEY_SIZE])
{
    uint8_t mac[DIGEST_SIZE];

    if ((header->flags & TRAIL_CHAINED) == 0)
        return false;
    digest_hmac(key, TRAIL_KEY_SIZE, block, AT_MAC, block + TRAIL_HEADER_SIZE, header->size - TRAIL_HEADER_SIZE, mac);
    return CRYPTO_memcmp(mac, header->mac, sizeof mac) == 0;
}

bool trail_find(const uint8_t *bytes, size_t size, const struct trail_header *wanted, size_t *ret_at,
                struct trail_header *ret_header)
{
    const uint8_t *at = bytes, *end = bytes + size;

    while ((at = memmem(at, (size_t)(end - at), magic, sizeof magic)) != NULL) {
        struct trail_header header;

        if (trail_open(at, (size_t)(end - at), &header) == ERR_OK && header.epoch == wanted->epoch
            && memcmp(header.producer, wanted->producer, UUID_SIZE) == 0 && header.first_seq + header.count > wanted->first_seq) {
            *ret_at = (size_t)(at - bytes);
            *ret_header = header;
            return true;
        }
        at++;
    }
    return false;
}

bool trail_next(const uint8_t *block, const struct trail_header *header, size_t *cursor, uint32_t *index,
                struct trail_record *ret_record)
{
    if (*cursor == 0) {
        *cursor = TRAIL_HEADER_SIZE;
        *index = 0;
    }
    if (*index >= header->count)
        return false;
    const uint8_t *record = block + *cursor;

    *ret_record = (struct trail_record){
        .seq = header->first_seq + *index, .time_us = get_le64(record + RECORD_AT_TIME),
        .code = get_le16(record + RECORD_AT_CODE), .type = message_type_of(get_le16(record + RECORD_AT_CODE)),
        .body = record + TRAIL_RECORD_SIZE, .body_size = get_le32(record),
    };
    *cursor += TRAIL_RECORD_SIZE + ret_record->body_size;
    ++*index;
    return true;
}
