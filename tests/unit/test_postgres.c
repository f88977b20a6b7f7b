/* test_postgres.c - the asynchronous connection against a real server: refusals, losses, limits, then what works. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

#include <cmocka.h>

#include "common/postgres.h"
#include "tests/unit/servers.h"

#define GIVE_UP_MS 60000
#define TIMEOUT_MS 20000u    /* far above what a busy machine takes */
#define SHORT_TIMEOUT_MS 700u

static struct server server;

static const struct postgres_statement statements[] = {
    { "one", "SELECT 1" },
    { "echo", "SELECT $1::text, $2::text" },
    { "numbers", "SELECT $1::int8, $2::int4, $3::int2, true, false, NULL::int8" },
    { "divide", "SELECT 1 / $1::int4" },
    { "insert", "INSERT INTO item (id, name) VALUES ($1::int8, $2::text)" },
    { "count", "SELECT count(*) FROM item" },
    { "sleep", "SELECT pg_sleep($1::float8)" },
    { "backend", "SELECT pg_backend_pid()" },
    { "length", "SELECT length($1::text)" },
    { "actor", "SELECT set_config('test.actor', $1, true)" },
    { "actor_read", "SELECT current_setting('test.actor', true)" },
    { NULL, NULL },
};

struct bench {
    struct loop *loop;
    struct postgres *postgres;
    int waiting, done, refused, lost;
    int ups, downs, wanted_ups, wanted_notes;
    int notes;
    char payload[64], channel[64];
    char state[6];
    char text[64];
    int64_t numbers[6];
    bool flags[2];
    int64_t last;
    size_t null_results, results;
    bool gave_up;
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

static void on_state(void *owner, bool connected)
{
    struct bench *bench = owner;

    bench->ups += connected ? 1 : 0;
    bench->downs += connected ? 0 : 1;
    if (connected && bench->ups == bench->wanted_ups)
        loop_stop(bench->loop);
}

static void on_notify(void *owner, const char *channel, const char *payload)
{
    struct bench *bench = owner;

    snprintf(bench->channel, sizeof bench->channel, "%s", channel);
    snprintf(bench->payload, sizeof bench->payload, "%s", payload);
    if (++bench->notes == bench->wanted_notes)
        loop_stop(bench->loop);
}

static void run(struct bench *bench)
{
    int timer = loop_after(bench->loop, GIVE_UP_MS, give_up, bench);

    assert_int_equal(loop_run(bench->loop), ERR_OK);
    loop_cancel(bench->loop, timer);
    assert_false(bench->gave_up);
}

static void run_until_up(struct bench *bench)
{
    bench->wanted_ups = bench->ups + 1;
    run(bench);
}

static void keep_first(struct bench *bench, const PGresult *result)
{
    snprintf(bench->text, sizeof bench->text, "%s", postgres_text(result, 0, 0));
    bench->last = postgres_i64(result, 0, 0);
    for (int i = 0; i < 6; i++)
        bench->numbers[i] = postgres_i64(result, 0, i);
    bench->flags[0] = postgres_flag(result, 0, 3);
    bench->flags[1] = postgres_flag(result, 0, 4);
}

static void on_result(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    struct bench *bench = owner;

    bench->done += outcome == PG_DONE ? 1 : 0;
    bench->refused += outcome == PG_REFUSED ? 1 : 0;
    bench->lost += outcome == PG_LOST ? 1 : 0;
    bench->results = count;
    bench->null_results = 0;
    for (size_t i = 0; i < count; i++) {
        bench->null_results += results[i] == NULL ? 1 : 0;
        if (postgres_sqlstate(results[i])[0] != 0)
            snprintf(bench->state, sizeof bench->state, "%s", postgres_sqlstate(results[i]));
    }
    if (outcome == PG_DONE)
        keep_first(bench, results[count - 1]);
    if (--bench->waiting == 0)
        loop_stop(bench->loop);
}

static struct postgres_options options_of(struct bench *bench)
{
    static const char *const channels[] = { "plain", "Odd \"channel\"", NULL };

    return (struct postgres_options){ .url = &server.secret, .statements = statements, .application_name = "test",
                                      .timeout_ms = TIMEOUT_MS, .listen = channels, .on_notify = on_notify,
                                      .on_state = on_state, .owner = bench };
}

static void script(const char *sql)
{
    char why[256] = "";

    if (postgres_run_script(&server.secret, sql, why, sizeof why) != ERR_OK)
        fail_msg("%s: %s", sql, why);
}

static int64_t items(void)
{
    PGconn *connection = PQconnectdb(server.url);
    PGresult *result = PQexec(connection, "SELECT count(*) FROM item");
    int64_t count = postgres_i64(result, 0, 0);

    PQclear(result);
    PQfinish(connection);
    return count;
}

static int make_loop(void **state)
{
    struct bench *bench = calloc(1, sizeof *bench);

    assert_int_equal(loop_new(&bench->loop), ERR_OK);
    *state = bench;
    return 0;
}

static int make_bench_of(void **state, uint32_t timeout_ms)
{
    struct bench *bench;
    struct postgres_options options;

    make_loop(state);
    bench = *state;
    options = options_of(bench);
    options.timeout_ms = timeout_ms;
    script("TRUNCATE item");
    assert_int_equal(postgres_new(bench->loop, &options, &bench->postgres), ERR_OK);
    run_until_up(bench);
    return 0;
}

static int make_bench(void **state)
{
    return make_bench_of(state, TIMEOUT_MS);
}

/* For tests that wait for the limit. */
static int make_hasty_bench(void **state)
{
    return make_bench_of(state, SHORT_TIMEOUT_MS);
}

static int free_bench(void **state)
{
    struct bench *bench = *state;

    postgres_destroy(&bench->postgres);
    loop_destroy(&bench->loop);
    free(bench);
    return 0;
}

static struct postgres_step step(const char *name, const char *first, const char *second)
{
    struct postgres_step step = { .statement = name, .count = first == NULL ? 0 : second == NULL ? 1 : 2 };

    step.values[0] = first;
    step.values[1] = second;
    return step;
}

static void call(struct bench *bench, const char *name, const char *first, const char *second)
{
    const struct postgres_step one = step(name, first, second);

    bench->waiting++;
    assert_int_equal(postgres_call(bench->postgres, &one, on_result, bench), ERR_OK);
}

static void transact(struct bench *bench, const struct postgres_step *steps, size_t count)
{
    bench->waiting++;
    assert_int_equal(postgres_transaction(bench->postgres, steps, count, on_result, bench), ERR_OK);
}

/* ---- refusals ----------------------------------------------------------------------------------- */

static void without_a_connection_calls_fail_at_once(void **state)
{
    struct bench *bench = *state;
    struct postgres_options options = options_of(bench);
    struct secret nowhere = { .size = 1 };
    const struct postgres_step one = step("one", NULL, NULL);

    snprintf((char *)nowhere.bytes, sizeof nowhere.bytes, "postgresql:///postgres?host=/nonexistent");
    options.url = &nowhere;
    assert_int_equal(postgres_new(bench->loop, &options, &bench->postgres), ERR_OK);
    assert_int_equal(postgres_call(bench->postgres, &one, on_result, bench), ERR_UNAVAILABLE);
    loop_after(bench->loop, 500, stop, bench);
    run(bench);
    assert_int_equal(bench->ups + bench->downs, 0);
    assert_false(postgres_is_connected(bench->postgres));
    assert_int_equal(postgres_transaction(bench->postgres, &one, 1, on_result, bench), ERR_UNAVAILABLE);
}

static void a_statement_that_cannot_be_prepared_keeps_the_connection_down(void **state)
{
    static const struct postgres_statement bad[] = { { "bad", "SELECT nonsense FROM nowhere" }, { NULL, NULL } };
    struct bench *bench = *state;
    struct postgres_options options = options_of(bench);

    options.statements = bad;
    assert_int_equal(postgres_new(bench->loop, &options, &bench->postgres), ERR_OK);
    loop_after(bench->loop, 500, stop, bench);
    run(bench);
    assert_int_equal(bench->ups, 0);
    assert_false(postgres_is_connected(bench->postgres));
}

static void a_refused_call_tells_its_sqlstate_and_harms_no_other(void **state)
{
    struct bench *bench = *state;

    call(bench, "one", NULL, NULL);
    call(bench, "divide", "0", NULL);
    call(bench, "one", NULL, NULL);
    run(bench);
    assert_int_equal(bench->done, 2);
    assert_int_equal(bench->refused, 1);
    assert_string_equal(bench->state, "22012");
    assert_int_equal(bench->downs, 0);
}

static void a_transaction_with_a_refused_step_changes_nothing_and_harms_no_other(void **state)
{
    struct bench *bench = *state;
    const struct postgres_step steps[] = { step("insert", "1", "a"), step("divide", "0", NULL),
                                           step("insert", "2", "b") };

    transact(bench, steps, 3);
    call(bench, "insert", "3", "c");
    run(bench);
    assert_int_equal(bench->refused, 1);
    assert_int_equal(bench->done, 1);
    assert_string_equal(bench->state, "22012");
    assert_int_equal(items(), 1);
}

static void steps_behind_a_refused_one_have_no_result(void **state)
{
    struct bench *bench = *state;
    const struct postgres_step steps[] = { step("one", NULL, NULL), step("divide", "0", NULL),
                                           step("one", NULL, NULL) };

    transact(bench, steps, 3);
    run(bench);
    assert_int_equal(bench->results, 3);
    assert_int_equal(bench->null_results, 1);
}

static void a_commit_that_fails_is_a_refusal(void **state)
{
    struct bench *bench = *state;
    /* the unique constraint is deferred */
    const struct postgres_step steps[] = { step("insert", "7", "a"), step("insert", "7", "b") };

    transact(bench, steps, 2);
    call(bench, "one", NULL, NULL);
    run(bench);
    assert_int_equal(bench->refused, 1);
    assert_int_equal(bench->done, 1);
    assert_string_equal(bench->state, "23505");
    assert_int_equal(items(), 0);
}

static void an_autocommitted_call_that_fails_at_its_commit_is_a_refusal(void **state)
{
    struct bench *bench = *state;

    script("INSERT INTO item VALUES (8, 'a')");
    call(bench, "insert", "8", "b");
    call(bench, "one", NULL, NULL);
    run(bench);
    assert_int_equal(bench->refused, 1);
    assert_int_equal(bench->done, 1);
    assert_string_equal(bench->state, "23505");
    assert_int_equal(bench->downs, 0);
}

static void a_statement_that_takes_too_long_is_cancelled(void **state)
{
    struct bench *bench = *state;

    call(bench, "sleep", "10", NULL);
    run(bench);
    assert_int_equal(bench->refused, 1);
    assert_string_equal(bench->state, "57014");
    assert_int_equal(bench->downs, 0);
}

static void a_transaction_of_no_or_too_many_steps_is_a_bug(void **state)
{
    struct bench *bench = *state;
    struct postgres_step steps[POSTGRES_STEPS_MAX + 1] = { { 0 } };

    assert_int_equal(postgres_transaction(bench->postgres, steps, 0, on_result, bench), ERR_BUG);
    assert_int_equal(postgres_transaction(bench->postgres, steps, POSTGRES_STEPS_MAX + 1, on_result, bench), ERR_BUG);
}

static void calls_in_flight_are_limited(void **state)
{
    struct bench *bench = *state;
    const struct postgres_step one = step("one", NULL, NULL);

    for (int i = 0; i < POSTGRES_QUEUE_MAX; i++)
        call(bench, "one", NULL, NULL);
    assert_int_equal(postgres_call(bench->postgres, &one, on_result, bench), ERR_OVERLOADED);
    run(bench);
    assert_int_equal(bench->done, POSTGRES_QUEUE_MAX);
}

/* ---- losses ------------------------------------------------------------------------------------- */

static void a_backend_that_is_ended_loses_its_calls_and_a_new_one_is_prepared(void **state)
{
    struct bench *bench = *state;
    char sql[96];

    call(bench, "backend", NULL, NULL);
    run(bench);
    call(bench, "sleep", "10", NULL);
    call(bench, "one", NULL, NULL);
    bench->done = 0;
    snprintf(sql, sizeof sql, "SELECT pg_terminate_backend(%lld)", (long long)bench->last);
    script(sql);
    run(bench);
    assert_int_equal(bench->lost, 2);
    assert_int_equal(bench->done, 0);
    run_until_up(bench);
    assert_int_equal(bench->downs, 1);
    call(bench, "one", NULL, NULL);
    run(bench);
    assert_int_equal(bench->done, 1);
}

static void a_frozen_server_is_left_after_twice_the_timeout(void **state)
{
    struct bench *bench = *state;
    pid_t backend;

    call(bench, "backend", NULL, NULL);
    run(bench);
    backend = (pid_t)bench->last;
    kill(backend, SIGSTOP);
    call(bench, "one", NULL, NULL);
    run(bench);
    kill(backend, SIGCONT);
    assert_int_equal(bench->lost, 1);
    run_until_up(bench);
}

static void a_server_that_died_is_found_again(void **state)
{
    struct bench *bench = *state;

    server_kill(&server);
    call(bench, "sleep", "10", NULL);    /* a backend may live to answer what is quick */
    run(bench);
    assert_int_equal(bench->lost, 1);
    postgres_server_launch(&server);
    run_until_up(bench);
    call(bench, "echo", "a", "b");
    run(bench);
    assert_string_equal(bench->text, "a");
}

static void destroying_answers_every_call(void **state)
{
    struct bench *bench = *state;

    call(bench, "sleep", "5", NULL);
    call(bench, "one", NULL, NULL);
    postgres_destroy(&bench->postgres);
    assert_int_equal(bench->lost, 2);
    assert_null(bench->postgres);
}

/* ---- what works --------------------------------------------------------------------------------- */

static void a_transaction_commits_and_its_settings_end_with_it(void **state)
{
    struct bench *bench = *state;
    const struct postgres_step steps[] = { step("actor", "me", NULL), step("insert", "1", "a"),
                                           step("actor_read", NULL, NULL) };

    transact(bench, steps, 3);
    run(bench);
    assert_int_equal(bench->done, 1);
    assert_string_equal(bench->text, "me");
    assert_int_equal(items(), 1);
    call(bench, "actor_read", NULL, NULL);
    run(bench);
    assert_string_equal(bench->text, "");
}

static void null_and_text_travel(void **state)
{
    struct bench *bench = *state;
    struct postgres_step echo = step("echo", "it's \\ \"quoted\"", NULL);

    echo.count = 2;
    bench->waiting++;
    assert_int_equal(postgres_call(bench->postgres, &echo, on_result, bench), ERR_OK);
    run(bench);
    assert_string_equal(bench->text, "it's \\ \"quoted\"");
    echo.values[0] = NULL;
    bench->waiting++;
    assert_int_equal(postgres_call(bench->postgres, &echo, on_result, bench), ERR_OK);
    run(bench);
    assert_string_equal(bench->text, "");
}

static void numbers_are_read_in_both_formats(void **state)
{
    struct bench *bench = *state;

    for (int format = 0; format < 2; format++) {
        struct postgres_step numbers = step("numbers", "-9007199254740993", "-42");

        numbers.count = 3;
        numbers.values[2] = "7";
        numbers.result_format = format;
        bench->waiting++;
        assert_int_equal(postgres_call(bench->postgres, &numbers, on_result, bench), ERR_OK);
        run(bench);
        assert_true(bench->numbers[0] == -9007199254740993);
        assert_true(bench->numbers[1] == -42);
        assert_true(bench->numbers[2] == 7);
        assert_true(bench->flags[0]);
        assert_false(bench->flags[1]);
        assert_true(bench->numbers[5] == 0);
    }
}

static void megabytes_pass_without_blocking_each_other(void **state)
{
    struct bench *bench = *state;
    size_t size = 2u << 20;
    char *large = malloc(size + 1);

    memset(large, 'x', size);
    large[size] = 0;
    for (int i = 0; i < 8; i++)
        call(bench, "length", large, NULL);
    free(large);
    run(bench);
    assert_int_equal(bench->done, 8);
    assert_int_equal(bench->last, (int64_t)size);
}

static void notifications_arrive(void **state)
{
    struct bench *bench = *state;

    bench->wanted_notes = 2;
    script("NOTIFY plain, '41'");
    script("NOTIFY \"Odd \"\"channel\"\"\", '42'");
    run(bench);
    assert_string_equal(bench->channel, "Odd \"channel\"");
    assert_string_equal(bench->payload, "42");
}

static void a_script_that_fails_tells_the_servers_words(void **state)
{
    char why[256] = "";
    struct secret nowhere = { .size = 1 };

    (void)state;
    assert_int_equal(postgres_run_script(&server.secret, "SELECT 1; SELECT nonsense", why, sizeof why),
                     ERR_UNAVAILABLE);
    assert_non_null(strstr(why, "nonsense"));
    snprintf((char *)nowhere.bytes, sizeof nowhere.bytes, "postgresql:///postgres?host=/nonexistent");
    assert_int_equal(postgres_run_script(&nowhere, "SELECT 1", why, sizeof why), ERR_UNAVAILABLE);
    assert_non_null(strstr(why, "/nonexistent"));
}

static int start_server(void **state)
{
    (void)state;
    postgres_server_start(&server);
    script("CREATE TABLE item (id int8, name text, UNIQUE (id) DEFERRABLE INITIALLY DEFERRED)");
    return 0;
}

static int stop_server(void **state)
{
    (void)state;
    server_stop(&server);
    return 0;
}

#define LOOP_TEST(test)  cmocka_unit_test_setup_teardown(test, make_loop, free_bench)
#define BENCH_TEST(test) cmocka_unit_test_setup_teardown(test, make_bench, free_bench)
#define HASTY_TEST(test) cmocka_unit_test_setup_teardown(test, make_hasty_bench, free_bench)

int main(void)
{
    const struct CMUnitTest tests[] = {
        LOOP_TEST(without_a_connection_calls_fail_at_once),
        LOOP_TEST(a_statement_that_cannot_be_prepared_keeps_the_connection_down),
        BENCH_TEST(a_refused_call_tells_its_sqlstate_and_harms_no_other),
        BENCH_TEST(a_transaction_with_a_refused_step_changes_nothing_and_harms_no_other),
        BENCH_TEST(steps_behind_a_refused_one_have_no_result),
        BENCH_TEST(a_commit_that_fails_is_a_refusal),
        BENCH_TEST(an_autocommitted_call_that_fails_at_its_commit_is_a_refusal),
        HASTY_TEST(a_statement_that_takes_too_long_is_cancelled),
        BENCH_TEST(a_transaction_of_no_or_too_many_steps_is_a_bug),
        BENCH_TEST(calls_in_flight_are_limited),
        BENCH_TEST(a_backend_that_is_ended_loses_its_calls_and_a_new_one_is_prepared),
        HASTY_TEST(a_frozen_server_is_left_after_twice_the_timeout),
        BENCH_TEST(a_server_that_died_is_found_again),
        BENCH_TEST(destroying_answers_every_call),
        BENCH_TEST(a_transaction_commits_and_its_settings_end_with_it),
        BENCH_TEST(null_and_text_travel),
        BENCH_TEST(numbers_are_read_in_both_formats),
        BENCH_TEST(megabytes_pass_without_blocking_each_other),
        BENCH_TEST(notifications_arrive),
        cmocka_unit_test(a_script_that_fails_tells_the_servers_words),
    };

    loop_prepare_process();
    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, start_server, stop_server);
}
