/* operation.h - the management operations (operations.def) as an enum. */
#ifndef COMMON_OPERATION_H
#define COMMON_OPERATION_H

#include <stdbool.h>
#include <stdint.h>

enum operation {
    OPERATION_none,
#define OPERATION(number, name, changes, authority, meaning) OPERATION_##name = number,
#include "common/operations.def"
};

/* What a caller needs to be; a greater one includes the smaller. */
enum authority { AUTHORITY_OWN, AUTHORITY_TENANT, AUTHORITY_OPERATOR };

const char *operation_name(uint64_t operation);       /* "key_create"; "" for an unknown number */
bool operation_changes(uint64_t operation);           /* an unknown number changes: doubt is caution */
enum authority operation_authority(uint64_t operation);  /* an unknown number: an operator's */

#endif
