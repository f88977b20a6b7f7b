/*
 * authz_table.h - digests in a fixed number of places; a full table gives up what was not asked for lately (CLOCK).
 *
 * It holds no more than the digests: what is known of one lies with the caller, in an array of its own, at the number of
 * its place.  Everything is reserved at the start.
 */
#ifndef AUTHZ_TABLE_H
#define AUTHZ_TABLE_H

#include <stddef.h>
#include <stdint.h>

#include "common/encode.h"
#include "common/error.h"

struct table;

#define TABLE_NONE UINT32_MAX

/* capacity: 1 to 2^30. */
enum err table_new(size_t capacity, struct table **ret_table) MUST_CHECK;
void table_destroy(struct table **table);

/* TABLE_NONE: not there. */
uint32_t table_find(struct table *table, const uint8_t digest[DIGEST_SIZE]);
/* The place this digest has or gets from now on; another may have lost it. */
uint32_t table_take(struct table *table, const uint8_t digest[DIGEST_SIZE]);
void table_drop(struct table *table, const uint8_t digest[DIGEST_SIZE]);
void table_clear(struct table *table);
size_t table_count(const struct table *table);

#endif
