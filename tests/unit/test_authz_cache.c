/* Facts in memory: bounded, known and unknown apart, what is asked for stays. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "services/authz/authz_cache.h"

#define FOREVER UINT64_MAX

static const uint8_t *digest_of(uint32_t number)
{
    static uint8_t digests[8][DIGEST_SIZE];
    static unsigned turn;
    uint8_t *digest = digests[turn++ % 8];

    digest_sha256(&number, sizeof number, digest);
    return digest;
}

static struct authz_facts facts_of(uint32_t number)
{
    struct authz_facts facts = { .usable = true };

    snprintf(facts.key_id, sizeof facts.key_id, "k%u", number);
    return facts;
}

static void put_known(struct cache *cache, uint32_t number, uint64_t sequence)
{
    struct authz_facts facts = facts_of(number);

    cache_put(cache, digest_of(number), sequence, FOREVER, &facts);
}

static void put_unknown(struct cache *cache, uint32_t number, uint64_t sequence)
{
    cache_put(cache, digest_of(number), sequence, FOREVER, NULL);
}

static struct cache *make(size_t known, size_t unknown)
{
    struct cache *cache = NULL;

    assert_int_equal(cache_new(known, unknown, &cache), ERR_OK);
    return cache;
}

static void what_was_not_put_is_not_found(void **state)
{
    struct cache *cache = make(4, 4);

    (void)state;
    assert_null(cache_find(cache, digest_of(1), 0));
    put_known(cache, 1, 7);
    assert_null(cache_find(cache, digest_of(2), 0));
    cache_drop(cache, digest_of(2));
    assert_int_equal(cache_known_count(cache), 1);
    cache_destroy(&cache);
    assert_null(cache);
    cache_destroy(&cache);
}

static void an_entry_ends_at_its_expiry(void **state)
{
    struct cache *cache = make(4, 4);
    struct authz_facts facts = facts_of(1);

    (void)state;
    cache_put(cache, digest_of(1), 7, 100, &facts);
    cache_put(cache, digest_of(2), 7, 100, NULL);
    assert_non_null(cache_find(cache, digest_of(1), 99));
    assert_non_null(cache_find(cache, digest_of(2), 99));
    assert_null(cache_find(cache, digest_of(1), 100));
    assert_null(cache_find(cache, digest_of(2), 100));
    assert_int_equal(cache_known_count(cache), 0);
    assert_int_equal(cache_unknown_count(cache), 0);
    cache_destroy(&cache);
}

static void a_known_key_and_an_unknown_digest_replace_each_other(void **state)
{
    struct cache *cache = make(4, 4);
    const struct cache_entry *entry;

    (void)state;
    put_unknown(cache, 1, 3);
    entry = cache_find(cache, digest_of(1), 0);
    assert_null(entry->facts);
    put_known(cache, 1, 4);
    entry = cache_find(cache, digest_of(1), 0);
    assert_string_equal(entry->facts->key_id, "k1");
    assert_int_equal(entry->sequence, 4);
    assert_int_equal(cache_unknown_count(cache), 0);
    put_known(cache, 1, 5);
    assert_int_equal(cache_known_count(cache), 1);
    put_unknown(cache, 1, 6);
    assert_int_equal(cache_known_count(cache), 0);
    assert_null(cache_find(cache, digest_of(1), 0)->facts);
    cache_destroy(&cache);
}

static void a_flood_of_unknown_digests_evicts_no_known_key(void **state)
{
    struct cache *cache = make(8, 8);

    (void)state;
    for (uint32_t i = 0; i < 8; i++)
        put_known(cache, i, 1);
    for (uint32_t i = 100; i < 10100; i++)
        put_unknown(cache, i, 1);
    assert_int_equal(cache_known_count(cache), 8);
    assert_int_equal(cache_unknown_count(cache), 8);
    for (uint32_t i = 0; i < 8; i++)
        assert_non_null(cache_find(cache, digest_of(i), 0));
    cache_destroy(&cache);
}

static void a_full_table_gives_up_what_was_not_asked_for_lately(void **state)
{
    struct cache *cache = make(4, 1);

    (void)state;
    for (uint32_t i = 0; i < 4; i++)
        put_known(cache, i, 1);
    assert_non_null(cache_find(cache, digest_of(0), 0));
    assert_non_null(cache_find(cache, digest_of(2), 0));
    put_known(cache, 4, 1);
    put_known(cache, 5, 1);
    assert_non_null(cache_find(cache, digest_of(0), 0));
    assert_null(cache_find(cache, digest_of(1), 0));
    assert_non_null(cache_find(cache, digest_of(2), 0));
    assert_null(cache_find(cache, digest_of(3), 0));
    assert_int_equal(cache_known_count(cache), 4);
    cache_destroy(&cache);
}

static void a_table_of_one_holds_the_newest(void **state)
{
    struct cache *cache = make(1, 1);

    (void)state;
    for (uint32_t i = 0; i < 100; i++) {
        put_known(cache, i, i);
        assert_int_equal(cache_find(cache, digest_of(i), 0)->sequence, i);
        assert_int_equal(cache_known_count(cache), 1);
    }
    cache_destroy(&cache);
}

static void a_cleared_cache_is_empty_and_can_be_filled_again(void **state)
{
    struct cache *cache = make(16, 16);

    (void)state;
    for (unsigned round = 0; round < 3; round++) {
        for (uint32_t i = 0; i < 40; i++) {
            put_known(cache, i, 1);
            put_unknown(cache, 1000 + i, 1);
        }
        assert_int_equal(cache_known_count(cache), 16);
        cache_clear(cache);
        assert_int_equal(cache_known_count(cache) + cache_unknown_count(cache), 0);
        for (uint32_t i = 0; i < 40; i++)
            assert_null(cache_find(cache, digest_of(i), 0));
    }
    cache_destroy(&cache);
}

/* Against a plain list: whatever was put last and not dropped is either there as it was put, or evicted. */
static void after_many_puts_and_drops_nothing_is_mixed_up(void **state)
{
    static uint64_t newest[2000];
    struct cache *cache = make(97, 97);
    uint32_t random = 12345;

    (void)state;
    for (uint64_t step = 1; step < 60000; step++) {
        uint32_t number;
        const struct cache_entry *entry;

        random = random * 1664525u + 1013904223u;
        number = (random >> 12) % 2000;
        if (number % 7 == 0 && step % 3 == 0) {
            cache_drop(cache, digest_of(number));
            newest[number] = 0;
        } else if (number % 2 == 0) {
            put_known(cache, number, step);
            newest[number] = step;
        } else {
            put_unknown(cache, number, step);
            newest[number] = step;
        }
        number = (random >> 7) % 2000;
        entry = cache_find(cache, digest_of(number), 0);
        if (entry == NULL)
            continue;
        assert_int_equal(entry->sequence, newest[number]);
        assert_int_equal(entry->facts != NULL, number % 2 == 0);
    }
    assert_true(cache_known_count(cache) <= 97 && cache_unknown_count(cache) <= 97);
    cache_destroy(&cache);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_not_put_is_not_found),
        cmocka_unit_test(an_entry_ends_at_its_expiry),
        cmocka_unit_test(a_known_key_and_an_unknown_digest_replace_each_other),
        cmocka_unit_test(a_flood_of_unknown_digests_evicts_no_known_key),
        cmocka_unit_test(a_full_table_gives_up_what_was_not_asked_for_lately),
        cmocka_unit_test(a_table_of_one_holds_the_newest),
        cmocka_unit_test(a_cleared_cache_is_empty_and_can_be_filled_again),
        cmocka_unit_test(after_many_puts_and_drops_nothing_is_mixed_up),
    };

    return cmocka_run_group_tests_name("authz_cache", tests, NULL, NULL);
}
