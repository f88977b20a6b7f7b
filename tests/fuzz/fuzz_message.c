/* Any body of any type: it must not crash, and what is accepted must survive encode and decode unchanged. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/message.h"

#define LARGEST 300000u

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

/* The first byte chooses the type, the rest is the body. */
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static uint8_t first[4096], second[4096], once[LARGEST], again[LARGEST];
    size_t count, once_size, again_size;
    const struct message_type *types = message_types(&count);
    const char *field = NULL;

    if (size == 0)
        return 0;
    const struct message_type *type = &types[bytes[0] % count];

    assert(type->struct_size <= sizeof first);
    memset(first, 0xee, sizeof first);
    memset(second, 0xdd, sizeof second);
    if (message_decode(type, MESSAGES_VERSION, bytes + 1, size - 1, first, &field) != ERR_OK) {
        assert(field != NULL);
        for (size_t i = 0; i < type->struct_size; i++)
            assert(first[i] == 0);
        return 0;
    }
    assert(message_encode(type, MESSAGES_VERSION, first, once, sizeof once, &once_size) == ERR_OK);
    assert(once_size <= size - 1);
    assert(message_decode(type, MESSAGES_VERSION, once, once_size, second, &field) == ERR_OK);
    assert(message_encode(type, MESSAGES_VERSION, second, again, sizeof again, &again_size) == ERR_OK);
    assert(once_size == again_size && memcmp(once, again, once_size) == 0);

    char *line = NULL;
    size_t length;
    FILE *out = open_memstream(&line, &length);

    message_print(type, first, out);
    fclose(out);
    for (size_t i = 0; i + 1 < length; i++)
        assert(line[i] >= 0x20 && line[i] < 0x7f);
    free(line);
    return 0;
}
