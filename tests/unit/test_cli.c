/* test_cli.c - the pure pieces of the operator's command: arguments, time spans, shell assignments. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "cli/arguments.c"    /* the command is one program: there is no library to link */

static const struct option_row rows[] = { { "limit", "N", "" }, { "yes", NULL, "" }, { "scope", "S", "" }, { 0 } };
static const struct option_row common[] = { { "json", NULL, "" }, { 0 } };

static enum err parse(int argc, const char *const *argv, struct arguments *arguments)
{
    char why[160] = "";

    return arguments_parse(argc, argv, rows, common, arguments, why, sizeof why);
}

static void what_no_row_names_is_refused(void **state)
{
    static const char *const cases[][2] = {
        { "--nonsense", "--nonsense" }, { "-x", "-x" }, { "--limit", "--limit" }, { "--yes=1", "--yes" },
        { "--limi=3", "--limi" },
        { "--limits", "--limits" }, { "--=", "--" },
    };
    (void)state;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct arguments arguments = { .count = 77 };
        char why[160] = "";

        assert_int_equal(arguments_parse(1, cases[i], rows, common, &arguments, why, sizeof why), ERR_MALFORMED);
        assert_int_equal(arguments.count, 77);
        assert_non_null(strstr(why, cases[i][1]));
    }
}

static void too_many_arguments_are_refused(void **state)
{
    const char *words[ARGUMENTS_MAX + 1];
    struct arguments arguments;
    (void)state;

    for (size_t i = 0; i <= ARGUMENTS_MAX; i++)
        words[i] = "word";
    assert_int_equal(parse(ARGUMENTS_MAX, words, &arguments), ERR_OK);
    assert_int_equal(parse(ARGUMENTS_MAX + 1, words, &arguments), ERR_MALFORMED);
    for (size_t i = 0; i <= ARGUMENTS_MAX; i++)
        words[i] = "--yes";
    assert_int_equal(parse(ARGUMENTS_MAX + 1, words, &arguments), ERR_MALFORMED);
}

static void options_stand_anywhere_and_the_last_value_counts(void **state)
{
    static const char *const words[] = { "a", "--limit", "3", "b", "--limit=4", "--json", "--scope", "--x", "-", "--",
                                         "--yes" };
    struct arguments arguments;
    (void)state;

    assert_int_equal(parse(sizeof words / sizeof words[0], words, &arguments), ERR_OK);
    assert_int_equal(arguments.count, 4);
    assert_string_equal(arguments.positional[1], "b");
    assert_string_equal(arguments.positional[2], "-");
    assert_string_equal(arguments.positional[3], "--yes");
    assert_string_equal(arguments_value(&arguments, "limit"), "4");
    assert_string_equal(arguments_value(&arguments, "scope"), "--x");
    assert_string_equal(arguments_value(&arguments, "json"), "");
    assert_null(arguments_value(&arguments, "yes"));
}

static void a_number_is_digits_within_its_range(void **state)
{
    static const char *const refused[] = { "", "-1", "+1", " 1", "1 ", "0", "11", "1e3", "0x5",
                                           "99999999999999999999" };
    uint64_t number = 5;
    (void)state;

    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        struct arguments arguments = { .option_count = 1, .options[0] = { "limit", refused[i] } };

        assert_int_equal(arguments_number(&arguments, "limit", 1, 10, 3, &number), ERR_MALFORMED);
        assert_int_equal(number, 5);
    }
    assert_int_equal(arguments_number(&(struct arguments){ .option_count = 1, .options[0] = { "limit", "10" } },
                                      "limit", 1, 10, 3, &number),
                     ERR_OK);
    assert_int_equal(number, 10);
    assert_int_equal(arguments_number(&(struct arguments){ 0 }, "limit", 1, 10, 3, &number), ERR_OK);
    assert_int_equal(number, 3);
}

static void time_spans_have_one_unit(void **state)
{
    static const struct { const char *text; uint64_t seconds; } cases[] = {
        { "0", 0 }, { "90", 90 }, { "90s", 90 }, { "15m", 900 }, { "12h", 43200 }, { "30d", 2592000 },
        { "2w", 1209600 },
        { "3650d", 315360000 },
    };
    static const char *const refused[] = { "", "d", "1y", "-1d", "1.5h", "1h30m", "3651d", "9999999999999999999s",
                                           "1 d" };
    uint64_t seconds;
    (void)state;

    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++)
        assert_int_equal(duration_parse(refused[i], &seconds), ERR_MALFORMED);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(duration_parse(cases[i].text, &seconds), ERR_OK);
        assert_int_equal(seconds, cases[i].seconds);
    }
}

static void assignments_are_read_as_a_shell_would(void **state)
{
    static const char text[] = "# MCPGW_URL=comment\nMCPGW_URLS=no\n  export MCPGW_URL='http://a b'\nX=\"q\"\nY=plain"
                               " # tail\nZ=";
    char value[32] = "";
    (void)state;

    assert_int_equal(assignment_find(text, "MISSING", value, sizeof value), ERR_NOT_FOUND);
    assert_int_equal(assignment_find(text, "MCPGW_URL", value, 4), ERR_TOO_LARGE);
    assert_string_equal(value, "");
    assert_int_equal(assignment_find(text, "MCPGW_URL", value, sizeof value), ERR_OK);
    assert_string_equal(value, "http://a b");
    assert_int_equal(assignment_find(text, "X", value, sizeof value), ERR_OK);
    assert_string_equal(value, "q");
    assert_int_equal(assignment_find(text, "Y", value, sizeof value), ERR_OK);
    assert_string_equal(value, "plain");
    assert_int_equal(assignment_find(text, "Z", value, sizeof value), ERR_OK);
    assert_string_equal(value, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_no_row_names_is_refused),
        cmocka_unit_test(too_many_arguments_are_refused),
        cmocka_unit_test(options_stand_anywhere_and_the_last_value_counts),
        cmocka_unit_test(a_number_is_digits_within_its_range),
        cmocka_unit_test(time_spans_have_one_unit),
        cmocka_unit_test(assignments_are_read_as_a_shell_would),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
