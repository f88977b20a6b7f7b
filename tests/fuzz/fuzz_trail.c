/* Any block of the trail, as it came and with its checksum made right: records lie within it and fill it. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/little_endian.h"
#include "common/trail.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static void read_block(const uint8_t *block, size_t size)
{
    static uint8_t message[4096];
    struct trail_header header;
    struct trail_record record;
    const char *field = NULL;
    size_t cursor = 0;
    uint32_t index = 0, records = 0;

    if (trail_open(block, size, &header) != ERR_OK)
        return;
    assert(header.size <= size && header.size <= TRAIL_BLOCK_MAX && header.count > 0);
    for (; trail_next(block, &header, &cursor, &index, &record); records++) {
        assert(record.seq == header.first_seq + records);
        assert(record.body >= block + TRAIL_HEADER_SIZE && record.body_size <= (size_t)(block + header.size - record.body));
        if (record.type != NULL
            && message_decode(record.type, header.version, record.body, record.body_size, message, &field) != ERR_OK)
            assert(field != NULL);
    }
    assert(records == header.count && cursor == header.size);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    read_block(bytes, size);
    if (size < TRAIL_HEADER_SIZE)
        return 0;
    const size_t said = get_le32(bytes + 4);
    uint8_t *copy = malloc(size);

    memcpy(copy, bytes, size);
    put_le32(copy + 120, 0);
    if (said >= TRAIL_HEADER_SIZE && said <= size)
        put_le32(copy + 120, crc32c(0, copy, said));
    read_block(copy, size);
    free(copy);
    return 0;
}
