/* allowedIps, servers, tools and environment in bodies: one form is stored, anything doubtful is refused with a remedy. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "services/keys/keys_reach.h"

DEFINE_DESTROY(json_destroy, json_t, json_decref)

static struct key_reach reach;

static const char *fault_of(const char *name, const char *text)
{
    OWNED(json_destroy) json_t *value = json_loads(text, JSON_DECODE_ANY, NULL);
    const char *fault = "never set";

    assert_non_null(value);
    memset(&reach, 0, sizeof reach);
    assert_true(keys_take_reach(name, value, &reach, &fault));
    return fault;
}

static void what_no_key_can_have_is_refused(void **state)
{
    static const char *const rows[][2] = {
        { "allowedIps", "[]" }, { "allowedIps", "\"10.0.0.0/8\"" }, { "allowedIps", "[7]" }, { "allowedIps", "{}" },
        { "allowedIps", "[\"10.0.0.0/8\", null]" }, { "allowedIps", "[\"10.0.0.0/33\"]" }, { "allowedIps", "[\"localhost\"]" },
        { "allowedIps", "[\"10.0.0.1/8\"]" }, { "servers", "[]" }, { "servers", "[\"\"]" }, { "servers", "[\"A\"]" },
        { "servers", "[\"a b\"]" }, { "servers", "true" }, { "tools", "[]" }, { "tools", "[\"\"]" }, { "tools", "[\"a\\nb\"]" },
        { "tools", "[\"\xc3\xa9\"]" }, { "tools", "\"add\"" }, { "environment", "\"\"" }, { "environment", "\"Prod\"" },
        { "environment", "7" }, { "environment", "\"123456789012345678901234567890123\"" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (fault_of(rows[i][0], rows[i][1]) == NULL)
            fail_msg("not refused: %s %s", rows[i][0], rows[i][1]);
    }
    assert_non_null(strstr(fault_of("allowedIps", "[\"10.0.0.1/8\"]"), "10.0.0.0/8 or 10.0.0.1"));
}

static void more_than_the_limits_is_refused(void **state)
{
    char text[20000] = "[", *at = text + 1;

    (void)state;
    for (int i = 0; i <= 32; i++)
        at += sprintf(at, "%s\"10.0.0.%d\"", i > 0 ? "," : "", i);
    snprintf(at, 2, "]");
    assert_non_null(fault_of("allowedIps", text));
    at = text + 1;
    for (int i = 0; i < 20; i++)
        at += sprintf(at, "%s\"%0128d\"", i > 0 ? "," : "", i);
    snprintf(at, 2, "]");
    assert_non_null(fault_of("tools", text));
}

static void other_members_are_not_ours(void **state)
{
    const char *fault;

    (void)state;
    assert_false(keys_take_reach("scopes", NULL, &reach, &fault));
    assert_false(keys_has_reach(&(struct key_reach){ .servers = "a" }));
}

static void null_lifts_a_limit(void **state)
{
    (void)state;
    assert_null(fault_of("allowedIps", "null"));
    assert_true(reach.has_addresses && !reach.limits_addresses && keys_has_reach(&reach));
    assert_null(fault_of("tools", "null"));
    assert_true(reach.has_tools && !reach.limits_tools);
    assert_null(fault_of("environment", "null"));
    assert_true(reach.has_environment);
}

static void lists_are_kept_in_one_form_and_without_repetition(void **state)
{
    (void)state;
    assert_null(fault_of("allowedIps", "[\"192.0.2.7/32\",\"::ffff:192.0.2.7\",\"2001:DB8::/32\",\"192.0.2.7\"]"));
    assert_true(reach.limits_addresses);
    assert_string_equal(reach.addresses, "192.0.2.7\n2001:db8::/32");
    assert_null(fault_of("servers", "[\"files\",\"file\",\"files\"]"));
    assert_string_equal(reach.servers, "files\nfile");
    assert_null(fault_of("tools", "[\"read file\",\"Read\"]"));
    assert_string_equal(reach.tools, "read file\nRead");
    assert_null(fault_of("environment", "\"production-2\""));
    assert_string_equal(reach.environment, "production-2");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_no_key_can_have_is_refused),
        cmocka_unit_test(more_than_the_limits_is_refused),
        cmocka_unit_test(other_members_are_not_ours),
        cmocka_unit_test(null_lifts_a_limit),
        cmocka_unit_test(lists_are_kept_in_one_form_and_without_repetition),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
