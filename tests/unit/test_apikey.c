/* test_apikey.c - the text of API keys. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "common/apikey.h"

/* Made once: the checksum of ours must never change, keys of old releases carry it. */
static const char recorded[] = "mcp_1qT0SoGRyFwCL6m3oSyGKmtmHsuqyyR9RRfSISEuW6mYVgHOflZdMyw2nC4yu";

static bool is_plausible(const char *text)
{
    return apikey_is_plausible(text, strlen(text));
}

static void a_key_of_ours_with_one_wrong_letter_is_not_plausible(void **state)
{
    (void)state;

    assert_true(is_plausible(recorded));
    for (size_t at = strlen("mcp_1"); at < APIKEY_LENGTH; at++) {
        char broken[sizeof recorded];

        memcpy(broken, recorded, sizeof broken);
        broken[at] = broken[at] == 'x' ? 'y' : 'x';
        assert_false(is_plausible(broken));
    }
}

static void two_letters_exchanged_are_found(void **state)
{
    (void)state;

    for (size_t at = strlen("mcp_1"); at + 1 < APIKEY_LENGTH; at++) {
        char broken[sizeof recorded];

        memcpy(broken, recorded, sizeof broken);
        broken[at] = recorded[at + 1];
        broken[at + 1] = recorded[at];
        assert_int_equal(is_plausible(broken), recorded[at] == recorded[at + 1]);
    }
}

static void texts_that_cannot_be_keys_are_refused(void **state)
{
    char text[APIKEY_LENGTH_MAX + 2];
    (void)state;

    assert_false(is_plausible(""));
    assert_false(is_plausible("abcdefg"));
    assert_false(is_plausible("abc defgh"));
    assert_false(is_plausible("abcdefgh\n"));
    assert_false(is_plausible("abcdefg="));
    assert_false(is_plausible("abcdefg'"));
    assert_false(is_plausible("abcdefg\xc3\xa4"));
    assert_false(apikey_is_plausible("abcdefg\0h", 9));
    memset(text, 'a', sizeof text);
    assert_true(apikey_is_plausible(text, APIKEY_LENGTH_MAX));
    assert_false(apikey_is_plausible(text, APIKEY_LENGTH_MAX + 1));
}

static void keys_of_other_makers_have_no_checksum(void **state)
{
    (void)state;

    /* Better-Auth: 64 letters, with or without a prefix. */
    assert_true(is_plausible("ZYxWvUtSrQpOnMlKjIhGfEdCbAzYxWvUtSrQpOnMlKjIhGfEdCbAzYxWvUtSrQpO"));
    assert_true(is_plausible("mcp_ZYxWvUtSrQpOnMlKjIhGfEdCbAzYxWvUtSrQpOnMlKjIhGfEdCbAzYxWvUtSrQpO"));
    assert_true(is_plausible("mcp_1short"));
    assert_true(is_plausible("sk-live_0123456789"));
}

static void a_made_key_is_plausible_long_and_new(void **state)
{
    struct secret first, second;
    bool digits[62] = { false };
    (void)state;

    for (int i = 0; i < 200; i++) {
        apikey_make(APIKEY_PREFIX, &first);
        apikey_make(APIKEY_PREFIX, &second);
        assert_int_equal(first.size, APIKEY_LENGTH);
        assert_int_equal(strlen(secret_text(&first)), APIKEY_LENGTH);
        assert_memory_equal(first.bytes, "mcp_1", 5);
        assert_true(apikey_is_plausible(secret_text(&first), first.size));
        assert_false(secret_equals(&first, &second));
        for (size_t at = 5; at < 59; at++) {
            const char c = secret_text(&first)[at];
            digits[c <= '9' ? c - '0' : c <= 'Z' ? c - 'A' + 10 : c - 'a' + 36] = true;
        }
    }
    for (size_t i = 0; i < 62; i++)
        assert_true(digits[i]);
    secret_wipe(&first);
    assert_false(secret_is_set(&first));
}

static void the_digest_is_of_the_whole_text(void **state)
{
    uint8_t digest[DIGEST_SIZE];
    char text[DIGEST_TEXT_SIZE];
    (void)state;

    apikey_digest("abc", 3, digest);
    base64url_encode(digest, sizeof digest, text);
    assert_string_equal(text, "ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0");
}

static void a_prefix_that_could_hide_where_it_ends_is_none(void **state)
{
    static const char *const wrong[] = { "", "_", "a", "mcp", "1_", "a-_", "a b_", "abcdefghijklmnop_" };
    (void)state;

    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        assert_false(apikey_prefix_is_valid(wrong[i]));
    assert_true(apikey_prefix_is_valid("a_") && apikey_prefix_is_valid("a__") && apikey_prefix_is_valid("abcdefghijklmno_"));
}

static void a_key_with_any_prefix_is_known_by_its_form_and_dies_by_its_checksum(void **state)
{
    static const char *const prefixes[] = { "a_", "acme_prod_", "abcdefghijklmno_", "mcp_" };
    struct secret key;
    (void)state;

    for (size_t i = 0; i < sizeof prefixes / sizeof prefixes[0]; i++) {
        apikey_make(prefixes[i], &key);
        assert_int_equal(key.size, strlen(prefixes[i]) + 61);
        assert_true(apikey_has_our_form(secret_text(&key), key.size));
        for (size_t at = 0; at < key.size; at++) {
            const uint8_t kept = key.bytes[at];

            key.bytes[at] = kept == 'x' ? 'y' : 'x';
            if (apikey_has_our_form(secret_text(&key), key.size))
                assert_false(apikey_is_plausible(secret_text(&key), key.size));
            key.bytes[at] = kept;
        }
        assert_true(apikey_is_plausible(secret_text(&key), key.size));
        assert_false(apikey_has_our_form(secret_text(&key), key.size - 1));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_key_of_ours_with_one_wrong_letter_is_not_plausible),
        cmocka_unit_test(two_letters_exchanged_are_found),
        cmocka_unit_test(texts_that_cannot_be_keys_are_refused),
        cmocka_unit_test(keys_of_other_makers_have_no_checksum),
        cmocka_unit_test(a_made_key_is_plausible_long_and_new),
        cmocka_unit_test(the_digest_is_of_the_whole_text),
        cmocka_unit_test(a_prefix_that_could_hide_where_it_ends_is_none),
        cmocka_unit_test(a_key_with_any_prefix_is_known_by_its_form_and_dies_by_its_checksum),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
