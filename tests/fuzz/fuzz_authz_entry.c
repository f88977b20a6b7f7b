/* Facts read back from Redis: whatever is accepted must be written again as the same bytes. */
#include <assert.h>
#include <string.h>

#include "services/authz/authz_entry.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static const struct secret key = { .size = 1, .bytes = "k" };
    static const uint8_t digest[DIGEST_SIZE];
    struct authz_facts facts;
    uint8_t again[ENTRY_SIZE_MAX];
    uint64_t sequence;

    if (entry_read(bytes, size, &sequence, &facts) != ERR_OK)
        return 0;
    assert(entry_pack(&key, digest, sequence, &facts, again) == size + DIGEST_SIZE);
    assert(memcmp(bytes, again, size) == 0);
    assert(entry_unpack(&key, digest, again, size + DIGEST_SIZE, &sequence, &facts) == ERR_OK);
    return 0;
}
