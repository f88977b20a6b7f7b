/* test_log.c - one JSON line per event, whatever the values hold and whoever does not read it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <fcntl.h>
#include <jansson.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/log.h"

static int pipe_fds[2];
static int saved_stderr;

static int redirect(void **state)
{
    (void)state;

    if (pipe(pipe_fds) != 0 || fcntl(pipe_fds[0], F_SETFL, O_NONBLOCK) != 0)
        return -1;
    saved_stderr = dup(STDERR_FILENO);
    dup2(pipe_fds[1], STDERR_FILENO);
    unsetenv("JOURNAL_STREAM");
    log_setup("authz", "7", LOG_INFO);
    return 0;
}

static int restore(void **state)
{
    (void)state;

    dup2(saved_stderr, STDERR_FILENO);
    close(saved_stderr);
    close(pipe_fds[0]);
    close(pipe_fds[1]);
    return 0;
}

/* What was written since the last call, or "". */
static const char *written(void)
{
    static char text[16384];
    ssize_t size = read(pipe_fds[0], text, sizeof text - 1);

    text[size > 0 ? size : 0] = '\0';
    return text;
}

static json_t *parsed(const char *line)
{
    json_error_t error;
    json_t *object = json_loads(line, JSON_REJECT_DUPLICATES, &error);

    assert_non_null(object);
    assert_ptr_equal(strchr(line, '\n'), line + strlen(line) - 1);
    return object;
}

static const char *member(const json_t *object, const char *name)
{
    return json_string_value(json_object_get(object, name));
}

static void a_value_cannot_break_out_of_its_line(void **state)
{
    (void)state;

    log_info("tried", log_text("who", "a\"b\\c\r\n{\"event\":\"forged\"}\x01\x7f\xc3\xa4"));
    const char *line = written();
    json_t *object = parsed(line);

    for (const char *at = line; *at != '\n'; at++)
        assert_true(*at >= 0x20 && *at < 0x7f);
    assert_string_equal(member(object, "event"), "tried");
    assert_memory_equal(member(object, "who"), "a\"b\\c\r\n{\"event\":\"forged\"}\x01\x7f", 27);
    json_decref(object);
}

static void a_value_too_long_is_cut_and_the_line_is_still_json(void **state)
{
    static char value[5000];
    (void)state;

    for (size_t size = 3800; size < 4100; size++) {
        memset(value, 'x', sizeof value);
        value[size] = '\0';
        value[size - 1] = '\n';
        log_info("long", log_text("value", value), log_number("after", 5), log_text("last", ""));
        const char *line = written();
        assert_true(strlen(line) <= 4096);
        json_decref(parsed(line));
    }
}

static void a_full_pipe_drops_the_line_and_counts_it(void **state)
{
    uint64_t before = log_dropped();
    (void)state;

    for (int i = 0; i < 5000 && log_dropped() == before; i++)
        log_info("filling", log_number("i", i));
    assert_true(log_dropped() > before);
    while (written()[0] != '\0')
        continue;
    before = log_dropped();
    log_info("again");
    assert_non_null(strstr(written(), "\"event\":\"again\""));
    assert_true(log_dropped() == before);
}

static void lines_below_the_level_are_not_written(void **state)
{
    (void)state;

    log_debug("hidden");
    assert_string_equal(written(), "");
    log_setup("authz", "7", LOG_ERROR);
    log_warn("hidden");
    assert_string_equal(written(), "");
    log_error("shown");
    assert_non_null(strstr(written(), "shown"));
}

static void every_line_says_when_who_and_what(void **state)
{
    (void)state;

    log_warn("key_refused", log_text("key_id", "k1"), log_number("age_s", 12));
    json_t *object = parsed(written());

    assert_int_equal(strlen(member(object, "time")), strlen("2026-01-01T00:00:00.000Z"));
    assert_string_equal(member(object, "level"), "warn");
    assert_string_equal(member(object, "service"), "authz");
    assert_string_equal(member(object, "instance"), "7");
    assert_string_equal(member(object, "event"), "key_refused");
    assert_string_equal(member(object, "key_id"), "k1");
    json_decref(object);
}

static void a_number_is_written_in_full(void **state)
{
    (void)state;

    log_info("counted", log_number("n", UINT64_MAX));
    assert_non_null(strstr(written(), "\"n\":18446744073709551615}"));
}

static void under_journald_the_priority_comes_first(void **state)
{
    struct stat error;
    char stream[64];
    (void)state;

    assert_int_equal(fstat(STDERR_FILENO, &error), 0);
    snprintf(stream, sizeof stream, "%ju:%ju", (uintmax_t)error.st_dev, (uintmax_t)error.st_ino);
    setenv("JOURNAL_STREAM", stream, 1);
    log_setup("authz", "7", LOG_INFO);
    log_warn("seen");
    assert_memory_equal(written(), "<4>{\"time\":", 11);

    setenv("JOURNAL_STREAM", "1:2", 1);    /* inherited, but stderr is something else */
    log_setup("authz", "7", LOG_INFO);
    log_warn("seen");
    assert_int_equal(written()[0], '{');
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_value_cannot_break_out_of_its_line, redirect, restore),
        cmocka_unit_test_setup_teardown(a_value_too_long_is_cut_and_the_line_is_still_json, redirect, restore),
        cmocka_unit_test_setup_teardown(a_full_pipe_drops_the_line_and_counts_it, redirect, restore),
        cmocka_unit_test_setup_teardown(lines_below_the_level_are_not_written, redirect, restore),
        cmocka_unit_test_setup_teardown(every_line_says_when_who_and_what, redirect, restore),
        cmocka_unit_test_setup_teardown(a_number_is_written_in_full, redirect, restore),
        cmocka_unit_test_setup_teardown(under_journald_the_priority_comes_first, redirect, restore),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
