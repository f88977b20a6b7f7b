/* test_http_path.c - a path has one form, or it is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "services/edge/http_path.h"

static void ambiguous_paths_are_refused(void **state)
{
    static const char *const paths[] = {
        "", "*", "a", "http://x/", "/a%2fb", "/a%2Fb", "/%2e%2e/admin", "/a/%2E/b", "/a/.%2e/b", "/a\\b", "/a/..\\b", "/a%5cb",
        "/a%00", "/a%0d%0aX", "/a%7f", "/a;b", "/..;/a", "/a%3bb", "/a%", "/a%2", "/a%zz", "/%252e", "/a%25", "/..", "/../a",
        "/a/../..", "/a/../../b", "/a b", "/a\"b", "/a<b", "/a#b", "/a{b", "/a|b", "/a^b", "/a`b", "/caf\xc3\xa9", "/%c0%ae",
        "/%C1%9C", "/%f5",
    };
    char path[HTTP_PATH_MAX + 1];
    (void)state;

    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        if (http_path_normalise(paths[i], path) != ERR_MALFORMED)
            fail_msg("accepted: %s", paths[i]);
    }
}

static void equal_paths_get_the_same_form(void **state)
{
    static const struct { const char *raw, *normal; } cases[] = {
        { "/", "/" }, { "//", "/" }, { "/a", "/a" }, { "/a/", "/a/" }, { "//a///b", "/a/b" }, { "/./a/./b", "/a/b" },
        { "/a/.", "/a/" }, { "/a/..", "/" }, { "/a/b/..", "/a/" }, { "/a/../b", "/b" }, { "/a/b/../../c", "/c" }, { "/a//../b", "/b" },
        { "/%61uth/%63heck", "/auth/check" }, { "/a%2Db%7e", "/a-b~" }, { "/caf%c3%a9", "/caf%C3%A9" }, { "/a%20b", "/a%20b" },
        { "/...", "/..." }, { "/.a/..b", "/.a/..b" }, { "/A", "/A" }, { "/a:b@c=d+e,f!", "/a:b@c=d+e,f!" },
    };
    char path[HTTP_PATH_MAX + 1], again[HTTP_PATH_MAX + 1];
    (void)state;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(http_path_normalise(cases[i].raw, path), ERR_OK);
        assert_string_equal(path, cases[i].normal);
        assert_int_equal(http_path_normalise(path, again), ERR_OK);
        assert_string_equal(again, path);
    }
}

static void a_path_beyond_the_limit_is_too_large(void **state)
{
    static char raw[HTTP_PATH_MAX * 2];
    char path[HTTP_PATH_MAX + 1];
    (void)state;

    memset(raw, 'a', sizeof raw - 1);
    raw[0] = '/';
    assert_int_equal(http_path_normalise(raw, path), ERR_TOO_LARGE);
    raw[HTTP_PATH_MAX - 4] = '\0';
    assert_int_equal(http_path_normalise(raw, path), ERR_OK);
}

static void queries_hold_printable_bytes_only(void **state)
{
    (void)state;

    assert_true(http_query_is_sound(""));
    assert_true(http_query_is_sound("a=b&c=%20d+e;f[]={g|h}'"));
    assert_false(http_query_is_sound("a b"));
    assert_false(http_query_is_sound("a#b"));
    assert_false(http_query_is_sound("a\x80"));
    assert_false(http_query_is_sound("a\"b"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ambiguous_paths_are_refused),
        cmocka_unit_test(equal_paths_get_the_same_form),
        cmocka_unit_test(a_path_beyond_the_limit_is_too_large),
        cmocka_unit_test(queries_hold_printable_bytes_only),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
