/* Any frame: the items that are handed out lie within it, as many as it says, and fill it. */
#include <assert.h>
#include <string.h>

#include "common/frame.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static uint8_t message[4096];
    struct frame_reader reader;
    struct frame_item item;
    const uint8_t *expected = bytes + FRAME_HEADER_SIZE;
    const char *field = NULL;
    bool version_only;
    uint32_t items = 0;

    if (frame_open(&reader, bytes, size, &version_only) != ERR_OK)
        return 0;
    assert(!version_only && reader.header.count > 0 && reader.header.count <= FRAME_ITEMS_MAX);
    for (; frame_next(&reader, &item); items++) {
        assert(item.type != NULL && item.body == expected + FRAME_ITEM_SIZE);
        assert(item.body_size <= item.type->body_limit && item.body_size <= (size_t)(bytes + size - item.body));
        expected = item.body + item.body_size;
        if (message_decode(item.type, reader.header.version, item.body, item.body_size, message, &field) == ERR_OK)
            continue;
        assert(field != NULL);
    }
    assert(items == reader.header.count && expected == bytes + size);
    return 0;
}
