/* test_query.c - one parameter of a query. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "services/edge/query.h"

static char value[16];

static void unclear_parameters_are_malformed(void **state)
{
    static const char *const queries[] = { "a=1&a=1", "a=%", "a=%2", "a=%zz", "a=%00", "a=%0a", "a=%80", "a=%2&b=0", "a=0123456789abcdef" };
    (void)state;

    for (size_t i = 0; i < sizeof queries / sizeof queries[0]; i++)
        assert_int_equal(query_find(queries[i], "a", value, sizeof value), ERR_MALFORMED);
}

static void an_absent_parameter_is_not_found(void **state)
{
    static const char *const queries[] = { "", "&&", "ab=1", "b=a", "A=1", "xa=1" };
    (void)state;

    for (size_t i = 0; i < sizeof queries / sizeof queries[0]; i++)
        assert_int_equal(query_find(queries[i], "a", value, sizeof value), ERR_NOT_FOUND);
}

static void values_are_decoded(void **state)
{
    static const struct { const char *query, *value; } cases[] = {
        { "a=1", "1" }, { "a", "" }, { "a=", "" }, { "b=2&a=x+y%2Cz", "x y,z" }, { "a=b=c", "b=c" }, { "a=0123456789abcde", "0123456789abcde" },
        { "b=%zz&a=1", "1" },
    };
    (void)state;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(query_find(cases[i].query, "a", value, sizeof value), ERR_OK);
        assert_string_equal(value, cases[i].value);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unclear_parameters_are_malformed),
        cmocka_unit_test(an_absent_parameter_is_not_found),
        cmocka_unit_test(values_are_decoded),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
