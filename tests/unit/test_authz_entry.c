/* Facts as bytes in Redis: only what a holder of the key wrote for this very digest is believed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "services/authz/authz_entry.h"

static const struct secret key = { .size = 3, .bytes = "key" };
static const struct secret other_key = { .size = 3, .bytes = "kez" };
static const uint8_t digest[DIGEST_SIZE] = { 1, 2, 3 };
static const uint8_t other_digest[DIGEST_SIZE] = { 1, 2, 4 };

/* memset first: padding takes part in comparisons. */
static void make_facts(struct authz_facts *facts)
{
    memset(facts, 0, sizeof *facts);
    strcpy(facts->key_id, "k1");
    strcpy(facts->reference_id, "u1");
    strcpy(facts->side_tenant_id, "globex");
    strcpy(facts->organization_id, "acme");
    facts->usable = facts->enabled = facts->owner_exists = true;
    facts->organization_count = 1;
    facts->expires_us = UINT64_C(1800000000123456);
    facts->scopes = 9;
    facts->rate_requests = 100;
    facts->rate_window_s = 60;
    facts->tenant_rule = UINT64_C(5000) << 32 | 3600;
    facts->user_rule = UINT64_MAX;
}

static enum err unpack(const uint8_t *bytes, size_t size, uint64_t *sequence, struct authz_facts *facts)
{
    return entry_unpack(&key, digest, bytes, size, sequence, facts);
}

static void what_was_packed_is_unpacked(void **state)
{
    struct authz_facts facts, back;
    uint8_t bytes[ENTRY_SIZE_MAX];
    uint64_t sequence = 0;
    size_t size;

    (void)state;
    make_facts(&facts);
    for (unsigned flags = 0; flags < 512; flags++) {
        facts.usable = flags & 1;
        facts.enabled = flags & 2;
        facts.revoked = flags & 4;
        facts.is_organization = flags & 8;
        facts.owner_exists = flags & 16;
        facts.owner_banned = flags & 32;
        facts.tenant_suspended = flags & 64;
        facts.metered = flags & 128;
        facts.owner_left = flags & 256;
        size = entry_pack(&key, digest, 77, &facts, bytes);
        assert_int_equal(unpack(bytes, size, &sequence, &back), ERR_OK);
        assert_int_equal(sequence, 77);
        assert_memory_equal(&back, &facts, sizeof back);
    }
}

static void the_longest_facts_fit(void **state)
{
    struct authz_facts facts, back;
    uint8_t bytes[ENTRY_SIZE_MAX];
    uint64_t sequence;

    (void)state;
    make_facts(&facts);
    memset(facts.key_id, 'k', AUTHZ_ID_MAX);
    memset(facts.reference_id, 'r', AUTHZ_ID_MAX);
    memset(facts.side_tenant_id, 's', AUTHZ_TENANT_MAX);
    memset(facts.organization_id, 'o', AUTHZ_ID_MAX);
    assert_int_equal(unpack(bytes, entry_pack(&key, digest, UINT64_MAX, &facts, bytes), &sequence, &back), ERR_OK);
    assert_memory_equal(&back, &facts, sizeof back);
}

static void every_flipped_bit_and_every_truncation_is_malformed(void **state)
{
    struct authz_facts facts, back;
    uint8_t bytes[ENTRY_SIZE_MAX + 1];
    uint64_t sequence;
    size_t size;

    (void)state;
    make_facts(&facts);
    size = entry_pack(&key, digest, 77, &facts, bytes);
    for (size_t bit = 0; bit < size * 8; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_equal(unpack(bytes, size, &sequence, &back), ERR_MALFORMED);
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    for (size_t cut = 0; cut < size; cut++)
        assert_int_equal(unpack(bytes, cut, &sequence, &back), ERR_MALFORMED);
    assert_int_equal(unpack(bytes, size + 1, &sequence, &back), ERR_MALFORMED);
    assert_int_equal(unpack(bytes, ENTRY_SIZE_MAX + 1, &sequence, &back), ERR_MALFORMED);
}

static void an_entry_of_another_digest_or_key_is_malformed(void **state)
{
    struct authz_facts facts, back;
    uint8_t bytes[ENTRY_SIZE_MAX];
    uint64_t sequence;
    size_t size;

    (void)state;
    make_facts(&facts);
    size = entry_pack(&key, digest, 77, &facts, bytes);
    assert_int_equal(entry_unpack(&key, other_digest, bytes, size, &sequence, &back), ERR_MALFORMED);
    assert_int_equal(entry_unpack(&other_key, digest, bytes, size, &sequence, &back), ERR_MALFORMED);
}

/* Behind the HMAC stands a reader that believes nothing either: another release may have written the entry. */
static void what_does_not_follow_the_layout_is_malformed(void **state)
{
    struct authz_facts facts, back;
    uint8_t bytes[ENTRY_SIZE_MAX];
    uint64_t sequence;
    size_t size;

    (void)state;
    make_facts(&facts);
    size = entry_pack(&key, digest, 77, &facts, bytes) - DIGEST_SIZE;
    assert_int_equal(entry_read(bytes, size, &sequence, &back), ERR_OK);
    for (size_t cut = 0; cut < size; cut++)
        assert_int_equal(entry_read(bytes, cut, &sequence, &back), ERR_MALFORMED);
    assert_int_equal(entry_read(bytes, size + 1, &sequence, &back), ERR_MALFORMED);
    bytes[3]++;
    assert_int_equal(entry_read(bytes, size, &sequence, &back), ERR_MALFORMED);
    bytes[3]--;
    bytes[12] = AUTHZ_ID_MAX + 1;
    assert_int_equal(entry_read(bytes, size, &sequence, &back), ERR_MALFORMED);
    bytes[12] = 2;
    bytes[13] = '\n';
    assert_int_equal(entry_read(bytes, size, &sequence, &back), ERR_MALFORMED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_packed_is_unpacked),
        cmocka_unit_test(the_longest_facts_fit),
        cmocka_unit_test(every_flipped_bit_and_every_truncation_is_malformed),
        cmocka_unit_test(an_entry_of_another_digest_or_key_is_malformed),
        cmocka_unit_test(what_does_not_follow_the_layout_is_malformed),
    };

    return cmocka_run_group_tests_name("authz_entry", tests, NULL, NULL);
}
