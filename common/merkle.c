/* merkle.c - RFC 6962 trees by their peaks, and inclusion proofs. */
#include "common/merkle.h"

#include <string.h>

static void hash_node(const uint8_t *left, const uint8_t *right, uint8_t ret_hash[DIGEST_SIZE])
{
    uint8_t node[1 + 2 * DIGEST_SIZE];

    node[0] = 1;
    memcpy(node + 1, left, DIGEST_SIZE);
    memcpy(node + 1 + DIGEST_SIZE, right, DIGEST_SIZE);
    digest_sha256(node, sizeof node, ret_hash);
}

void merkle_leaf(uint8_t *content, size_t size, uint8_t ret_leaf[DIGEST_SIZE])
{
    content[0] = 0;
    digest_sha256(content, size, ret_leaf);
}

unsigned merkle_peaks(uint64_t size)
{
    return (unsigned)__builtin_popcountll(size);
}

void merkle_add(struct merkle *tree, const uint8_t leaf[DIGEST_SIZE])
{
    unsigned peaks = merkle_peaks(tree->size);
    uint8_t hash[DIGEST_SIZE];

    memcpy(hash, leaf, sizeof hash);
    for (uint64_t rest = tree->size; (rest & 1) != 0; rest >>= 1)
        hash_node(tree->peaks[--peaks], hash, hash);
    memcpy(tree->peaks[peaks], hash, sizeof hash);
    tree->size++;
}

void merkle_root(const struct merkle *tree, uint8_t ret_root[DIGEST_SIZE])
{
    unsigned peaks = merkle_peaks(tree->size);

    if (peaks == 0) {
        digest_sha256("", 0, ret_root);
        return;
    }
    memcpy(ret_root, tree->peaks[--peaks], DIGEST_SIZE);
    while (peaks > 0)
        hash_node(tree->peaks[--peaks], ret_root, ret_root);
}

enum err merkle_load(struct merkle *tree, uint64_t size, const uint8_t *bytes, size_t bytes_size)
{
    if (size > INT64_MAX || bytes_size != (size_t)merkle_peaks(size) * DIGEST_SIZE)
        return ERR_MALFORMED;
    tree->size = size;
    if (bytes_size > 0)
        memcpy(tree->peaks, bytes, bytes_size);
    return ERR_OK;
}

/* The largest power of two below n > 1. */
static uint64_t split_of(uint64_t n)
{
    return UINT64_C(1) << (63 - __builtin_clzll(n - 1));
}

size_t merkle_proof_ranges(uint64_t index, uint64_t size, struct merkle_range ret_ranges[MERKLE_PROOF_MAX])
{
    struct merkle_range tree = { 0, size };
    size_t count = 0;

    while (tree.end - tree.first > 1 && count < MERKLE_PROOF_MAX) {
        const uint64_t middle = tree.first + split_of(tree.end - tree.first);

        if (index < middle) {
            ret_ranges[count++] = (struct merkle_range){ middle, tree.end };
            tree.end = middle;
        } else {
            ret_ranges[count++] = (struct merkle_range){ tree.first, middle };
            tree.first = middle;
        }
    }
    for (size_t i = 0; i < count / 2; i++) {
        const struct merkle_range other = ret_ranges[i];

        ret_ranges[i] = ret_ranges[count - 1 - i];
        ret_ranges[count - 1 - i] = other;
    }
    return count;
}

bool merkle_proves(const uint8_t leaf[DIGEST_SIZE], uint64_t index, uint64_t size, const uint8_t (*proof)[DIGEST_SIZE],
                   size_t count, const uint8_t root[DIGEST_SIZE])
{
    uint64_t first = index, last = size - 1;
    uint8_t hash[DIGEST_SIZE];

    if (index >= size)
        return false;
    memcpy(hash, leaf, sizeof hash);
    for (size_t i = 0; i < count; i++) {
        if (last == 0)
            return false;
        if ((first & 1) != 0 || first == last) {
            hash_node(proof[i], hash, hash);
            while ((first & 1) == 0 && first != 0) {
                first >>= 1;
                last >>= 1;
            }
        } else {
            hash_node(hash, proof[i], hash);
        }
        first >>= 1;
        last >>= 1;
    }
    return last == 0 && memcmp(hash, root, DIGEST_SIZE) == 0;
}
