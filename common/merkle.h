/*
 * merkle.h - an append-only Merkle tree as RFC 6962 section 2.1 has it (leaf prefix 0x00, node prefix 0x01), kept as the
 * roots of its perfect subtrees: adding is O(1) on average, and no leaf is remembered.  Pure.
 */
#ifndef COMMON_MERKLE_H
#define COMMON_MERKLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/encode.h"
#include "common/error.h"

#define MERKLE_PEAKS_MAX 63u    /* sizes are below 2^63 */
#define MERKLE_PROOF_MAX 64u

struct merkle {
    uint64_t size;                                  /* leaves */
    uint8_t peaks[MERKLE_PEAKS_MAX][DIGEST_SIZE];   /* one for each bit of size that is set, largest subtree first */
};

/* Of one leaf's content; the caller leaves its first byte for the prefix, which is written here. */
void merkle_leaf(uint8_t *content, size_t size, uint8_t ret_leaf[DIGEST_SIZE]);
void merkle_add(struct merkle *tree, const uint8_t leaf[DIGEST_SIZE]);
/* Of no leaf: SHA-256 of nothing. */
void merkle_root(const struct merkle *tree, uint8_t ret_root[DIGEST_SIZE]);
unsigned merkle_peaks(uint64_t size);
/* A tree from its stored peaks.  ERR_MALFORMED: `bytes` are not as many as `size` has. */
enum err merkle_load(struct merkle *tree, uint64_t size, const uint8_t *bytes, size_t bytes_size) MUST_CHECK;

/*
 * The leaves [first, end) whose subtree's root is the n-th hash of the inclusion proof of leaf `index` in a tree of `size`
 * (RFC 6962 2.1.1, nearest first).  Returns how many there are.  index < size.
 */
struct merkle_range { uint64_t first, end; };
size_t merkle_proof_ranges(uint64_t index, uint64_t size, struct merkle_range ret_ranges[MERKLE_PROOF_MAX]);
/* Does the proof lead from the leaf to the root? (RFC 9162 2.1.3.2) */
bool merkle_proves(const uint8_t leaf[DIGEST_SIZE], uint64_t index, uint64_t size, const uint8_t (*proof)[DIGEST_SIZE],
                   size_t count, const uint8_t root[DIGEST_SIZE]);

#endif
