/* fuzz_audit_columns.c - any body of a record becomes one element of every array, and nothing is read beyond it. */
#include <stdlib.h>
#include <string.h>

#include "common/trail.h"
#include "services/audit/audit_columns.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct columns *columns;
    struct trail_header header = { .count = 1, .first_seq = 1, .epoch = 1, .version = 1 };
    uint32_t body_size = (uint32_t)size, unreadable = 0;
    uint16_t code = MESSAGE_audit_event;
    uint8_t *block;

    if (columns == NULL && columns_new(&columns) != ERR_OK)
        abort();
    if (size > TRAIL_BLOCK_MAX - TRAIL_HEADER_SIZE - TRAIL_RECORD_SIZE)
        return 0;
    header.size = (uint32_t)(TRAIL_HEADER_SIZE + TRAIL_RECORD_SIZE + size);
    block = calloc(1, header.size);    /* exactly so large: a byte read beyond it is found */
    if (block == NULL)
        return 0;
    memcpy(block + TRAIL_HEADER_SIZE, &body_size, sizeof body_size);
    memcpy(block + TRAIL_HEADER_SIZE + 4, &code, sizeof code);
    if (size > 0)
        memcpy(block + TRAIL_HEADER_SIZE + TRAIL_RECORD_SIZE, data, size);
    columns_reset(columns);
    if (columns_add_block(columns, &header, block, &unreadable) != ERR_OK || columns_count(columns) != 1)
        abort();
    for (enum column column = 0; column < COLUMNS; column++) {
        size_t bytes;

        if (columns_array(columns, column, &bytes) == NULL || bytes < 12)
            abort();
    }
    free(block);
    return 0;
}
