/* test_path_list.c - a prefix ends where a segment ends, or it opens and closes more than was meant. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "services/edge/path_list.h"

static void a_path_is_listed_by_itself_and_from_above_only(void **state)
{
    static const struct { const char *list, *path; bool is_listed; } cases[] = {
        { "", "/mcp/a", false },
        { "/mcp/a", "/mcp/ab", false },
        { "/mcp/a/b", "/mcp/a", false },
        { "/mcp/b,/mcp", "/mcpx", false },
        { "/mcp/a", "/mcp/a", true },
        { "/mcp/a/", "/mcp/a/x/y", true },
        { "/mcp/a", "/mcp/a/", true },
        { " /api/v1 , /mcp/a", "/mcp/a", true },
        { "/", "/", true },
    };
    (void)state;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_int_equal(path_list_has(cases[i].list, cases[i].path), cases[i].is_listed);
}

static void an_entry_below_no_root_is_named(void **state)
{
    static const char *const roots[] = { "/mcp", "/auth/check", NULL };
    const char *entry = NULL;
    size_t length = 0;
    (void)state;

    assert_int_equal(path_list_check("/mcp/a, mcp/b", roots, &entry, &length), ERR_UNPROCESSABLE);
    assert_int_equal(length, 5);
    assert_memory_equal(entry, "mcp/b", 5);
    assert_int_equal(path_list_check("/api/v1", roots, &entry, &length), ERR_UNPROCESSABLE);
    assert_int_equal(path_list_check("/mcpx", roots, &entry, &length), ERR_UNPROCESSABLE);
    assert_int_equal(path_list_check("", roots, &entry, &length), ERR_OK);
    assert_int_equal(path_list_check("/mcp,/auth/check/app/", roots, &entry, &length), ERR_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_path_is_listed_by_itself_and_from_above_only),
        cmocka_unit_test(an_entry_below_no_root_is_named),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
