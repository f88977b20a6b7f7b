/* test_credentials.c - which credential a request presents, and which requests present none that could be one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "common/apikey.h"
#include "services/edge/credentials.h"
#include "tests/unit/http_head.h"

static struct secret made;
static char key[SECRET_SIZE_MAX + 1];
static const char *reason;
static struct credential found;

static int make_key(void **state)
{
    (void)state;

    apikey_make(&made);
    memcpy(key, made.bytes, made.size + 1);
    return 0;
}

static enum err find(const char *lines)
{
    static char bytes[4096];
    struct http_raw_field fields[HEAD_FIELDS];
    struct http_head head;
    struct http_raw raw;
    int size = snprintf(bytes, sizeof bytes, "GET / HTTP/1.1\r\nHost: x\r\n%s\r\n", lines);

    assert_true(head_parse(bytes, (size_t)size, fields, &raw));
    assert_int_equal(http_strict_check(&raw, &head, &reason), ERR_OK);
    found = (struct credential){ 0 };
    return credentials_find(&head, &found, &reason);
}

static enum err find_with(const char *format)
{
    char lines[2048];
    size_t size = 0;

    for (const char *at = format; *at != '\0'; at++)
        size += (size_t)snprintf(lines + size, sizeof lines - size, *at == '@' ? "%s" : "%.1s", *at == '@' ? key : at);
    return find(lines);
}

static void no_credential_is_unverified(void **state)
{
    static const char *const lines[] = { "", "Authorization: Basic YTpi\r\n", "Authorization: Bearerx\r\n", "Cookie: a=b\r\n" };
    (void)state;

    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        assert_int_equal(find(lines[i]), ERR_UNVERIFIED);
        assert_string_equal(reason, "no_credential");
    }
}

static void an_empty_credential_is_unverified(void **state)
{
    static const char *const lines[] = { "Authorization: Bearer\r\n", "Authorization: Bearer  \r\n", "x-api-key:\r\n" };
    (void)state;

    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        assert_int_equal(find(lines[i]), ERR_UNVERIFIED);
        assert_string_equal(reason, "empty");
    }
}

static void a_token_that_is_no_key_is_unverified_whatever_the_key(void **state)
{
    (void)state;

    assert_int_equal(find_with("Authorization: Bearer a.b.c\r\nx-api-key: @\r\n"), ERR_UNVERIFIED);
    assert_string_equal(reason, "token");
    assert_int_equal(find_with("Authorization: Bearer MCP_abcdefgh\r\n"), ERR_UNVERIFIED);
    assert_string_equal(reason, "token");
}

static void two_credentials_of_one_kind_are_malformed(void **state)
{
    (void)state;

    assert_int_equal(find_with("Authorization: Bearer @\r\nAuthorization: Bearer @\r\n"), ERR_MALFORMED);
    assert_int_equal(find_with("Authorization: Basic x\r\nAuthorization: Bearer @\r\n"), ERR_MALFORMED);
    assert_int_equal(find_with("x-api-key: @\r\nX-Api-Key: @\r\n"), ERR_MALFORMED);
    assert_int_equal(find_with("x-api-key: other-key-of-mine\r\nAuthorization: Bearer @\r\n"), ERR_MALFORMED);
    assert_int_equal(find_with("x-api-key:\r\nAuthorization: Bearer @\r\n"), ERR_MALFORMED);
}

static void what_cannot_be_a_key_does_not_leave_the_edge(void **state)
{
    (void)state;

    assert_int_equal(find("x-api-key: short\r\n"), ERR_UNVERIFIED);
    assert_string_equal(reason, "checksum");
    assert_int_equal(find("x-api-key: a key with blanks\r\n"), ERR_UNVERIFIED);
    assert_int_equal(find("x-api-key: k\xc3\xa9yk\xc3\xa9yk\xc3\xa9y\r\n"), ERR_UNVERIFIED);
    key[20] = key[20] == 'a' ? 'b' : 'a';
    assert_int_equal(find_with("x-api-key: @\r\n"), ERR_UNVERIFIED);
    assert_string_equal(reason, "checksum");
    memcpy(key, made.bytes, made.size + 1);
}

static void a_key_is_found_in_either_field_or_both(void **state)
{
    static const char *const lines[] = {
        "x-api-key: @\r\n", "X-API-KEY:   @  \r\n", "Authorization: Bearer @\r\n", "authorization: bearer   @\r\n",
        "x-api-key: @\r\nAuthorization: Bearer @\r\n", "x-api-key: @\r\nAuthorization: Basic YTpi\r\n",
    };
    (void)state;

    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        assert_int_equal(find_with(lines[i]), ERR_OK);
        assert_int_equal(found.length, made.size);
        assert_memory_equal(found.text, key, found.length);
    }
}

static void a_key_of_another_application_is_looked_up(void **state)
{
    (void)state;

    assert_int_equal(find("x-api-key: GhTRkLmNoPqRsTuVwXyZaBcDeFgHiJkLmNoPqRsTuVwXyZaBcDeFgHiJkLmNoPqR\r\n"), ERR_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_credential_is_unverified),
        cmocka_unit_test(an_empty_credential_is_unverified),
        cmocka_unit_test(a_token_that_is_no_key_is_unverified_whatever_the_key),
        cmocka_unit_test(two_credentials_of_one_kind_are_malformed),
        cmocka_unit_test(what_cannot_be_a_key_does_not_leave_the_edge),
        cmocka_unit_test(a_key_is_found_in_either_field_or_both),
        cmocka_unit_test(a_key_of_another_application_is_looked_up),
    };

    return cmocka_run_group_tests(tests, make_key, NULL);
}
