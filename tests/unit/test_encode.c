/* test_encode.c - digests and texts against the vectors of their standards. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <pthread.h>

#include "common/clock.h"
#include "common/encode.h"

static void assert_hex(const uint8_t *bytes, size_t size, const char *expected)
{
    char hex[2 * DIGEST_SIZE + 1];

    hex_encode(bytes, size, hex);
    assert_string_equal(hex, expected);
}

static void sha256_matches_fips_180(void **state)
{
    uint8_t digest[DIGEST_SIZE];
    (void)state;

    for (int again = 0; again < 2; again++) {    /* the context is used again */
        digest_sha256("abc", 3, digest);
        assert_hex(digest, sizeof digest, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        digest_sha256("", 0, digest);
        assert_hex(digest, sizeof digest, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }
    digest_sha256("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 56, digest);
    assert_hex(digest, sizeof digest, "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
}

static void hmac_matches_rfc_4231(void **state)
{
    uint8_t key[131], data[50], mac[DIGEST_SIZE];
    (void)state;

    memset(key, 0x0b, 20);
    digest_hmac(key, 20, "Hi There", 8, NULL, 0, mac);
    assert_hex(mac, sizeof mac, "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
    digest_hmac("Jefe", 4, "what do ya want ", 16, "for nothing?", 12, mac);
    assert_hex(mac, sizeof mac, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    memset(key, 0xaa, sizeof key);
    memset(data, 0xdd, sizeof data);
    digest_hmac(key, 20, NULL, 0, data, sizeof data, mac);
    assert_hex(mac, sizeof mac, "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe");
    digest_hmac(key, sizeof key, "Test Using Larger Than Block-Size Key - Hash Key First", 54, NULL, 0, mac);
    assert_hex(mac, sizeof mac, "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
}

static void an_empty_hmac_key_is_not_the_key_before(void **state)
{
    uint8_t mac[DIGEST_SIZE];
    (void)state;

    digest_hmac("secret", 6, "x", 1, NULL, 0, mac);
    digest_hmac(NULL, 0, NULL, 0, NULL, 0, mac);
    assert_hex(mac, sizeof mac, "b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad");
}

static void *digest_in_a_thread(void *ret_digest)
{
    uint8_t mac[DIGEST_SIZE];

    digest_sha256("abc", 3, ret_digest);
    digest_hmac("k", 1, "m", 1, NULL, 0, mac);
    return NULL;
}

static void threads_have_contexts_of_their_own_and_free_them(void **state)
{
    pthread_t threads[4];
    uint8_t digests[4][DIGEST_SIZE];
    (void)state;

    for (size_t i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, digest_in_a_thread, digests[i]), 0);
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_hex(digests[i], DIGEST_SIZE, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}

static void crc32c_matches_rfc_3720(void **state)
{
    uint8_t bytes[32];
    (void)state;

    memset(bytes, 0, sizeof bytes);
    assert_int_equal(crc32c(0, bytes, sizeof bytes), 0x8a9136aa);
    memset(bytes, 0xff, sizeof bytes);
    assert_int_equal(crc32c(0, bytes, sizeof bytes), 0x62a8ab43);
    for (uint8_t i = 0; i < 32; i++)
        bytes[i] = i;
    assert_int_equal(crc32c(0, bytes, sizeof bytes), 0x46dd794e);
    assert_int_equal(crc32c(0, "123456789", 9), 0xe3069283);
    assert_int_equal(crc32c(crc32c(0, "1234", 4), "56789", 5), 0xe3069283);
    assert_int_equal(crc32c(7, NULL, 0), 7);
}

static void both_ways_to_a_crc_agree(void **state)
{
    uint8_t bytes[100];
    (void)state;

    random_bytes(bytes, sizeof bytes);
    for (size_t from = 0; from < 9; from++)
        for (size_t size = 0; size <= sizeof bytes - from; size++)
            assert_int_equal(crc32c(123, bytes + from, size), crc32c_portable(123, bytes + from, size));
}

static void base64url_refuses_what_is_not_canonical(void **state)
{
    static const struct { const char *why, *text; } cases[] = {
        { "padding", "Zg==" }, { "padding", "Zm8=" }, { "one letter left over", "Zm9vY" }, { "one letter", "A" },
        { "a blank", "Zm 9" }, { "a line end", "Zm9v\n" }, { "a letter of the other alphabet", "+_8" }, { "a letter of the other alphabet", "-/8" },
        { "bits behind the end", "Zh" }, { "bits behind the end", "Zm9" "vYmF" "yZ9" }, { "a byte beyond ASCII", "Zm\xc3\xa4" },
    };
    uint8_t bytes[16];
    (void)state;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        size_t size = 77;
        if (base64url_decode(cases[i].text, strlen(cases[i].text), bytes, sizeof bytes, &size) != ERR_MALFORMED || size != 77)
            fail_msg("accepted %s", cases[i].why);
    }
}

static void base64url_writes_no_more_than_its_capacity(void **state)
{
    uint8_t bytes[8];
    size_t size;
    (void)state;

    memset(bytes, 0xee, sizeof bytes);
    assert_int_equal(base64url_decode("Zm9vYmFy", 8, bytes, 5, &size), ERR_MALFORMED);
    assert_int_equal(base64url_decode("Zm8", 3, bytes, 1, &size), ERR_MALFORMED);
    assert_int_equal(bytes[0], 0xee);
    assert_int_equal(base64url_decode("Zm8", 3, bytes, 2, &size), ERR_OK);
    assert_int_equal(base64url_decode("Zg", 2, bytes, 1, &size), ERR_OK);
    assert_int_equal(base64url_decode("", 0, bytes, 0, &size), ERR_OK);
    assert_int_equal(size, 0);
}

static void base64url_matches_rfc_4648(void **state)
{
    static const char *const pairs[][2] = {
        { "", "" }, { "f", "Zg" }, { "fo", "Zm8" }, { "foo", "Zm9v" }, { "foob", "Zm9vYg" }, { "fooba", "Zm9vYmE" },
        { "foobar", "Zm9vYmFy" }, { "\xfb\xff\xfe", "-__-" },
    };
    (void)state;

    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        char text[16];
        uint8_t back[16];
        size_t size = 0;

        base64url_encode((const uint8_t *)pairs[i][0], strlen(pairs[i][0]), text);
        assert_string_equal(text, pairs[i][1]);
        assert_int_equal(base64url_decode(text, strlen(text), back, sizeof back, &size), ERR_OK);
        assert_int_equal(size, strlen(pairs[i][0]));
        assert_memory_equal(back, pairs[i][0], size);
    }
}

static void a_digest_is_43_letters(void **state)
{
    uint8_t digest[DIGEST_SIZE];
    char text[DIGEST_TEXT_SIZE];
    (void)state;

    digest_sha256("abc", 3, digest);
    base64url_encode(digest, sizeof digest, text);
    assert_string_equal(text, "ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0");
    assert_int_equal(strlen(text), DIGEST_TEXT_SIZE - 1);
}

static void hex_is_read_strictly(void **state)
{
    uint8_t bytes[4];
    size_t size = 77;
    (void)state;

    assert_int_equal(hex_decode("0", 1, bytes, sizeof bytes, &size), ERR_MALFORMED);
    assert_int_equal(hex_decode("0g", 2, bytes, sizeof bytes, &size), ERR_MALFORMED);
    assert_int_equal(hex_decode("g0", 2, bytes, sizeof bytes, &size), ERR_MALFORMED);
    assert_int_equal(hex_decode("0x", 2, bytes, sizeof bytes, &size), ERR_MALFORMED);
    assert_int_equal(hex_decode("0011223344", 10, bytes, sizeof bytes, &size), ERR_MALFORMED);
    assert_int_equal(size, 77);
    assert_int_equal(hex_decode("0aFf", 4, bytes, sizeof bytes, &size), ERR_OK);
    assert_int_equal(size, 2);
    assert_hex(bytes, 2, "0aff");
}

static void uuids_are_read_strictly(void **state)
{
    static const char *const cases[] = {
        "", "01936e2f-7c1a-7def-8123-456789abcde", "01936e2f-7c1a-7def-8123-456789abcdef0", "01936e2f7c1a7def8123456789abcdef",
        "01936e2f-7c1a-7def-8123-456789abcdeg", "01936e2f_7c1a-7def-8123-456789abcdef", "{1936e2f-7c1a-7def-8123-456789abcde}",
    };
    uint8_t uuid[UUID_SIZE] = { 7 };
    char text[UUID_TEXT_SIZE];
    (void)state;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_false(uuid_parse(cases[i], uuid));
    assert_int_equal(uuid[0], 7);
    assert_true(uuid_parse("01936E2F-7c1a-7def-8123-456789abcdef", uuid));
    uuid_format(uuid, text);
    assert_string_equal(text, "01936e2f-7c1a-7def-8123-456789abcdef");
}

static void uuids_of_version_7_carry_the_time_and_differ(void **state)
{
    static uint8_t uuids[500][UUID_SIZE];
    uint64_t before = clock_unix_us() / 1000;
    (void)state;

    for (size_t i = 0; i < 500; i++)
        uuid7_make(uuids[i]);
    uint64_t after = clock_unix_us() / 1000;
    for (size_t i = 0; i < 500; i++) {
        uint64_t ms = 0;

        for (size_t b = 0; b < 6; b++)
            ms = ms << 8 | uuids[i][b];
        assert_true(ms >= before && ms <= after);
        assert_int_equal(uuids[i][6] >> 4, 7);
        assert_int_equal(uuids[i][8] >> 6, 2);
        for (size_t j = 0; j < i; j++)
            assert_memory_not_equal(uuids[i], uuids[j], UUID_SIZE);
    }
}

static void random_bytes_fill_all_and_differ(void **state)
{
    uint8_t first[300] = { 0 }, second[300] = { 0 };
    (void)state;

    random_bytes(first, sizeof first);
    random_bytes(second, sizeof second);
    assert_memory_not_equal(first, second, sizeof first);
    assert_memory_not_equal(first + 284, ((const uint8_t[16]){ 0 }), 16);
    assert_true(random_u64() != random_u64());
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(base64url_refuses_what_is_not_canonical),
        cmocka_unit_test(base64url_writes_no_more_than_its_capacity),
        cmocka_unit_test(hex_is_read_strictly),
        cmocka_unit_test(uuids_are_read_strictly),
        cmocka_unit_test(sha256_matches_fips_180),
        cmocka_unit_test(hmac_matches_rfc_4231),
        cmocka_unit_test(an_empty_hmac_key_is_not_the_key_before),
        cmocka_unit_test(threads_have_contexts_of_their_own_and_free_them),
        cmocka_unit_test(crc32c_matches_rfc_3720),
        cmocka_unit_test(both_ways_to_a_crc_agree),
        cmocka_unit_test(base64url_matches_rfc_4648),
        cmocka_unit_test(a_digest_is_43_letters),
        cmocka_unit_test(uuids_of_version_7_carry_the_time_and_differ),
        cmocka_unit_test(random_bytes_fill_all_and_differ),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
