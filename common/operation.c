/* operation.c - the rows of operations.def by number. */
#include "common/operation.h"

static const struct {
    const char *name;
    bool changes;
    enum authority authority;
} rows[] = {
    [OPERATION_none] = { "", true, AUTHORITY_OPERATOR },
#define OPERATION(number, name, changes, authority, meaning) [number] = { #name, changes, AUTHORITY_##authority },
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

enum authority operation_authority(uint64_t operation)
{
    return operation < ROW_COUNT ? rows[operation].authority : AUTHORITY_OPERATOR;
}
