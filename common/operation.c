/* operation.c - the rows of operations.def by number. */
#include "common/operation.h"

static const struct {
    const char *name;
    bool changes;
} rows[] = {
    [OPERATION_none] = { "", true },
#define OPERATION(number, name, changes, meaning) [number] = { #name, changes },
#include "common/operations.def"
};
#define ROW_COUNT (sizeof rows / sizeof rows[0])

const char *operation_name(uint64_t operation)
{
    return operation < ROW_COUNT ? rows[operation].name : "";
}

bool operation_changes(uint64_t operation)
{
    return operation >= ROW_COUNT || rows[operation].changes;
}
