/* operation.h - the management operations (operations.def) as an enum. */
#ifndef COMMON_OPERATION_H
#define COMMON_OPERATION_H

#include <stdbool.h>
#include <stdint.h>

enum operation {
    OPERATION_none,
#define OPERATION(number, name, changes, meaning) OPERATION_##name = number,
#include "common/operations.def"
};

const char *operation_name(uint64_t operation);       /* "key_create"; "" for an unknown number */
bool operation_changes(uint64_t operation);           /* an unknown number changes: doubt is caution */

#endif
