/* test_lookup.c - names are looked up behind the loop's back, and end well however they end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "common/lookup.h"

#define GIVE_UP_MS 60000

struct bench {
    struct loop *loop;
    struct lookup *lookup;
    int calls;
    bool gave_up, was_gone;
    struct lookup_addresses found;
};

static void give_up(void *owner)
{
    struct bench *bench = owner;

    bench->gave_up = true;
    loop_stop(bench->loop);
}

static void stop(void *owner)
{
    struct bench *bench = owner;

    loop_stop(bench->loop);
}

static void on_found(void *owner, const struct lookup_addresses *found)
{
    struct bench *bench = owner;

    bench->calls++;
    bench->was_gone = bench->lookup == NULL;
    bench->found = *found;
    loop_stop(bench->loop);
}

static int make_bench(void **state)
{
    static struct bench bench;

    memset(&bench, 0, sizeof bench);
    *state = &bench;
    return loop_new(&bench.loop) == ERR_OK ? 0 : -1;
}

static int free_bench(void **state)
{
    struct bench *bench = *state;

    lookup_cancel(&bench->lookup);
    loop_destroy(&bench->loop);
    return 0;
}

static void look_up(struct bench *bench, const char *host)
{
    assert_int_equal(lookup_start(bench->loop, host, on_found, bench, &bench->lookup), ERR_OK);
    assert_true(loop_after(bench->loop, GIVE_UP_MS, give_up, bench) > 0);
    assert_int_equal(loop_run(bench->loop), ERR_OK);
    assert_false(bench->gave_up);
}

static void a_name_that_is_too_long_is_refused(void **state)
{
    struct bench *bench = *state;
    char name[LOOKUP_HOST + 1];

    memset(name, 'a', LOOKUP_HOST);
    name[LOOKUP_HOST] = 0;
    assert_int_equal(lookup_start(bench->loop, name, on_found, bench, &bench->lookup), ERR_TOO_LARGE);
    assert_null(bench->lookup);
}

static void a_name_that_cannot_be_has_no_address(void **state)
{
    struct bench *bench = *state;

    look_up(bench, "a..b");    /* an empty label: no resolver is asked */
    assert_int_equal(bench->calls, 1);
    assert_int_equal(bench->found.count, 0);
    assert_true(bench->was_gone);
}

static void a_cancelled_lookup_calls_nobody(void **state)
{
    struct bench *bench = *state;

    assert_int_equal(lookup_start(bench->loop, "localhost", on_found, bench, &bench->lookup), ERR_OK);
    lookup_cancel(&bench->lookup);
    lookup_cancel(&bench->lookup);
    assert_null(bench->lookup);
    assert_true(loop_after(bench->loop, 20, stop, bench) > 0);
    assert_int_equal(loop_run(bench->loop), ERR_OK);
    assert_int_equal(bench->calls, 0);
}

static void numbers_and_paths_ask_no_resolver(void **state)
{
    (void)state;
    assert_false(lookup_is_needed(""));
    assert_false(lookup_is_needed("127.0.0.1"));
    assert_false(lookup_is_needed("::1"));
    assert_false(lookup_is_needed("/run/postgresql"));
    assert_false(lookup_is_needed("@abstract"));
    assert_true(lookup_is_needed("postgres"));
    assert_true(lookup_is_needed("127.0.0.1.example"));
}

static void a_name_is_found(void **state)
{
    struct bench *bench = *state;
    bool is_loopback = false;

    look_up(bench, "localhost");
    for (size_t i = 0; i < bench->found.count; i++)
        is_loopback |= strcmp(bench->found.texts[i], "127.0.0.1") == 0 || strcmp(bench->found.texts[i], "::1") == 0;
    assert_true(is_loopback);
    assert_true(bench->was_gone);
}

#define BENCH_TEST(test) cmocka_unit_test_setup_teardown(test, make_bench, free_bench)

int main(void)
{
    const struct CMUnitTest tests[] = {
        BENCH_TEST(a_name_that_is_too_long_is_refused),
        BENCH_TEST(a_name_that_cannot_be_has_no_address),
        BENCH_TEST(a_cancelled_lookup_calls_nobody),
        BENCH_TEST(numbers_and_paths_ask_no_resolver),
        BENCH_TEST(a_name_is_found),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
