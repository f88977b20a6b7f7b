/* test_scope.c - scopes, tiers and methods; operations and errors by number. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "common/error.h"
#include "common/operation.h"
#include "common/scope.h"

static void unknown_scopes_are_not_parsed(void **state)
{
    static const char *const cases[] = { "", "rea", "reads", "READ", "admin ", "*" };
    enum scope scope = SCOPE_HEALTH;
    (void)state;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_false(scope_parse(cases[i], strlen(cases[i]), &scope));
    assert_int_equal(scope, SCOPE_HEALTH);
    assert_true(scope_parse("writer", 5, &scope));
    assert_int_equal(scope, SCOPE_WRITE);
}

static void each_scope_covers_what_it_implies_and_nothing_else(void **state)
{
    (void)state;

    for (unsigned held = 0; held < SCOPE_COUNT; held++) {
        for (unsigned needed = 0; needed < SCOPE_COUNT; needed++) {
            const bool expected = held == needed || held == SCOPE_ADMIN || (held == SCOPE_WRITE && needed == SCOPE_READ);
            assert_int_equal(scopes_cover(UINT64_C(1) << held, UINT64_C(1) << needed), expected);
        }
    }
}

static void bits_that_are_no_scope_are_never_held(void **state)
{
    const uint64_t unknown = UINT64_C(1) << 40;
    (void)state;

    assert_false(scopes_cover(unknown, unknown));
    assert_false(scopes_cover(UINT64_MAX, unknown));
    assert_false(scopes_cover(SCOPE_ALL, SCOPE_BIT(READ) | unknown));
    assert_true(scopes_close(UINT64_MAX) == SCOPE_ALL);
}

static void nothing_needed_is_covered_by_anybody(void **state)
{
    (void)state;

    assert_true(scopes_cover(0, 0));
    assert_false(scopes_cover(0, SCOPE_BIT(READ)));
    assert_false(scopes_cover(SCOPE_BIT(READ), SCOPE_BIT(READ) | SCOPE_BIT(PROXY)));
    assert_true(scopes_close(SCOPE_BIT(WRITE)) == (SCOPE_BIT(WRITE) | SCOPE_BIT(READ)));
    assert_true(scopes_close(SCOPE_BIT(ADMIN)) == SCOPE_ALL);
}

static void scopes_are_written_in_the_order_of_the_table(void **state)
{
    char text[SCOPES_TEXT_MAX];
    (void)state;

    assert_string_equal(scopes_format(0, text), "");
    assert_string_equal(scopes_format(SCOPE_BIT(PROXY) | SCOPE_BIT(READ), text), "read proxy");
    assert_string_equal(scopes_format(SCOPE_ALL, text), "read write admin proxy metrics health");
    assert_string_equal(scopes_format(UINT64_MAX, text), "read write admin proxy metrics health");
    for (unsigned i = 0; i < SCOPE_COUNT; i++) {
        enum scope scope;
        const char *name = scope_text((enum scope)i);

        assert_true(scope_parse(name, strlen(name), &scope));
        assert_int_equal(scope, i);
    }
    assert_string_equal(scope_text(SCOPE_COUNT), "");
}

static void numbers_of_a_peer_have_no_name_when_unknown(void **state)
{
    (void)state;

    assert_string_equal(auth_method_text(AUTH_NONE), "");
    assert_string_equal(auth_method_text(AUTH_API_KEY), "api_key");
    assert_string_equal(auth_method_text(4), "");
    assert_string_equal(auth_method_text(UINT64_MAX), "");
    assert_string_equal(tier_text(TIER_ADMIN), "admin");
    assert_string_equal(tier_text(TIER_NONE), "");
    assert_string_equal(tier_text(UINT64_MAX), "");
}

static void an_unknown_operation_counts_as_changing(void **state)
{
    (void)state;

    assert_string_equal(operation_name(OPERATION_key_create), "key_create");
    assert_true(operation_changes(OPERATION_key_create));
    assert_false(operation_changes(OPERATION_key_list));
    assert_true(operation_changes(0));
    assert_true(operation_changes(UINT64_MAX));
    assert_string_equal(operation_name(0), "");
    assert_string_equal(operation_name(UINT64_MAX), "");
}

static void an_error_number_without_a_row_is_a_bug(void **state)
{
    (void)state;

    assert_int_equal(err_from_wire(ERR_DENIED), ERR_DENIED);
    assert_int_equal(err_from_wire(ERR_COUNT), ERR_BUG);
    assert_int_equal(err_from_wire(UINT64_MAX), ERR_BUG);
    assert_string_equal(err_name((enum err)9999), "BUG");
    assert_int_equal(err_http_status((enum err)9999), 500);
    assert_string_equal(err_code(ERR_UNVERIFIED), "unauthorized");
    assert_string_equal(err_name(ERR_UNVERIFIED), "UNVERIFIED");
    for (unsigned i = 0; i < ERR_COUNT; i++) {
        assert_true(err_http_status((enum err)i) >= 200 && err_http_status((enum err)i) < 600);
        assert_true(strlen(err_meaning((enum err)i)) > 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unknown_scopes_are_not_parsed),
        cmocka_unit_test(each_scope_covers_what_it_implies_and_nothing_else),
        cmocka_unit_test(bits_that_are_no_scope_are_never_held),
        cmocka_unit_test(nothing_needed_is_covered_by_anybody),
        cmocka_unit_test(scopes_are_written_in_the_order_of_the_table),
        cmocka_unit_test(numbers_of_a_peer_have_no_name_when_unknown),
        cmocka_unit_test(an_unknown_operation_counts_as_changing),
        cmocka_unit_test(an_error_number_without_a_row_is_a_bug),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
