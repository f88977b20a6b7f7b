/* test_redis.c - the asynchronous connection against a real redis-server on a Unix socket. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cmocka.h>

#include "common/redis.h"
#include "tests/unit/servers.h"

#define GIVE_UP_MS 60000
#define TIMEOUT_MS 300u

static struct server server;     /* user app with password s:e@c%ret, the default user may do everything */

struct bench {
    struct loop *loop;
    struct redis *redis;
    int waiting, answered, nulls, errors;
    int ups, downs, wanted_ups;
    char text[512];
    size_t size;
    long long number;
    int refused_inside;
    bool gave_up, calls_inside;
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

static void on_reply(void *owner, const redisReply *reply)
{
    struct bench *bench = owner;
    const char *const ping[] = { "PING" };

    if (reply == NULL) {
        bench->nulls++;
        if (bench->calls_inside && redis_call(bench->redis, 1, ping, NULL, on_reply, bench) == ERR_UNAVAILABLE)
            bench->refused_inside++;
    } else if (reply->type == REDIS_REPLY_ERROR) {
        bench->errors++;
    } else {
        bench->answered++;
    }
    if (reply != NULL && reply->str != NULL) {
        bench->size = (size_t)reply->len;
        snprintf(bench->text, sizeof bench->text, "%s", reply->str);
    }
    if (reply != NULL && reply->type == REDIS_REPLY_INTEGER)
        bench->number = reply->integer;
    if (--bench->waiting == 0)
        loop_stop(bench->loop);
}

static void call(struct bench *bench, int argc, const char *const *argv)
{
    bench->waiting++;
    assert_int_equal(redis_call(bench->redis, argc, argv, NULL, on_reply, bench), ERR_OK);
}

static enum err open_url(struct bench *bench, const char *url)
{
    struct secret secret = { .size = strlen(url) };
    const struct redis_options options = { .url = &secret, .timeout_ms = TIMEOUT_MS, .on_state = on_state,
                                           .owner = bench };

    snprintf((char *)secret.bytes, sizeof secret.bytes, "%s", url);
    return redis_new(bench->loop, &options, &bench->redis);
}

static int make_loop(void **state)
{
    struct bench *bench = calloc(1, sizeof *bench);

    assert_int_equal(loop_new(&bench->loop), ERR_OK);
    *state = bench;
    return 0;
}

static int make_bench(void **state)
{
    make_loop(state);
    assert_int_equal(open_url(*state, server.url), ERR_OK);
    run_until_up(*state);
    return 0;
}

static int free_bench(void **state)
{
    struct bench *bench = *state;

    redis_destroy(&bench->redis);
    loop_destroy(&bench->loop);
    free(bench);
    return 0;
}

/* ---- refusals ----------------------------------------------------------------------------------- */

static void a_url_of_another_shape_is_malformed(void **state)
{
    static const char *const bad[] = {
        "", "redis", "rediss://host", "http://host", "redis://", "redis://:6379", "redis://host:0",
        "redis://host:65536", "redis://host:6379x", "redis://host:", "redis://host/x", "redis://host/123456",
        "redis://[::1", "redis://u:%zz@host",
        "redis://u:%4@host", "redis://u:%00@host", "unix://", "unix://relative", "unix:///s?db=x", "unix:///s?name=x",
        "unix:///s?db=", "redis://host?db=1&what=2",
    };
    struct bench *bench = *state;

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        if (open_url(bench, bad[i]) != ERR_MALFORMED)
            fail_msg("%s", bad[i]);
}

static void without_a_connection_calls_fail_at_once(void **state)
{
    const char *const ping[] = { "PING" };
    struct bench *bench = *state;

    assert_int_equal(open_url(bench, "unix:///nonexistent/redis.sock"), ERR_OK);
    assert_int_equal(redis_call(bench->redis, 1, ping, NULL, on_reply, bench), ERR_UNAVAILABLE);
    loop_after(bench->loop, 300, stop, bench);
    run(bench);
    assert_int_equal(bench->ups + bench->downs, 0);
    assert_false(redis_is_connected(bench->redis));
}

static void a_wrong_password_is_never_connected(void **state)
{
    struct bench *bench = *state;
    char url[300];

    snprintf(url, sizeof url, "%s?user=app&password=wrong", server.url);
    assert_int_equal(open_url(bench, url), ERR_OK);
    loop_after(bench->loop, 300, stop, bench);
    run(bench);
    assert_int_equal(bench->ups, 0);
}

static void an_error_reply_is_handed_over(void **state)
{
    const char *const bad[] = { "NOSUCHCOMMAND" };
    struct bench *bench = *state;

    call(bench, 1, bad);
    run(bench);
    assert_int_equal(bench->errors, 1);
    assert_int_equal(bench->downs, 0);
}

static void readonly_and_loading_replies_end_the_connection(void **state)
{
    static const char *const errors[] = { "READONLY You cannot", "LOADING Redis is" };
    struct bench *bench = *state;

    for (int i = 0; i < 2; i++) {
        char script[64];
        const char *const eval[] = { "EVAL", script, "0" };

        snprintf(script, sizeof script, "return redis.error_reply('%s')", errors[i]);
        call(bench, 3, eval);
        run(bench);
        run_until_up(bench);
    }
    assert_int_equal(bench->errors, 2);
    assert_int_equal(bench->downs, 2);
}

static void commands_in_flight_are_limited(void **state)
{
    const char *const ping[] = { "PING" };
    struct bench *bench = *state;

    for (int i = 0; i < REDIS_QUEUE_MAX; i++)
        call(bench, 1, ping);
    assert_int_equal(redis_call(bench->redis, 1, ping, NULL, on_reply, bench), ERR_OVERLOADED);
    run(bench);
    assert_int_equal(bench->answered, REDIS_QUEUE_MAX);
}

/* ---- losses ------------------------------------------------------------------------------------- */

static void a_frozen_server_is_left_after_the_timeout(void **state)
{
    const char *const ping[] = { "PING" };
    struct bench *bench = *state;

    kill(server.pid, SIGSTOP);
    bench->calls_inside = true;
    call(bench, 1, ping);
    call(bench, 1, ping);
    run(bench);
    assert_int_equal(bench->nulls, 2);
    assert_int_equal(bench->refused_inside, 2);
    assert_int_equal(bench->downs, 1);
    kill(server.pid, SIGCONT);
    run_until_up(bench);
}

static void a_server_that_died_is_found_again(void **state)
{
    const char *const ping[] = { "PING" };
    struct bench *bench = *state;

    server_kill(&server);
    bench->calls_inside = true;
    call(bench, 1, ping);
    run(bench);
    assert_int_equal(bench->nulls, 1);
    assert_int_equal(bench->refused_inside, 1);
    redis_server_launch(&server);
    run_until_up(bench);
    call(bench, 1, ping);
    run(bench);
    assert_string_equal(bench->text, "PONG");
}

static void a_connection_closed_by_the_server_is_made_again(void **state)
{
    const char *const kill_all[] = { "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "no" };
    struct bench *bench = *state;

    call(bench, 6, kill_all);
    run(bench);
    run_until_up(bench);
    assert_int_equal(bench->downs, 1);
}

static void destroying_answers_every_command(void **state)
{
    const char *const ping[] = { "PING" };
    struct bench *bench = *state;

    call(bench, 1, ping);
    call(bench, 1, ping);
    redis_destroy(&bench->redis);
    assert_int_equal(bench->nulls, 2);
    assert_null(bench->redis);
}

static void a_listener_that_never_answers_is_not_connected(void **state)
{
    struct bench *bench = *state;
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
    socklen_t size = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    char url[64];

    assert_int_equal(bind(listener, (struct sockaddr *)&address, size), 0);
    assert_int_equal(listen(listener, 4), 0);
    getsockname(listener, (struct sockaddr *)&address, &size);
    snprintf(url, sizeof url, "redis://127.0.0.1:%d", ntohs(address.sin_port));
    assert_int_equal(open_url(bench, url), ERR_OK);
    loop_after(bench->loop, 2 * TIMEOUT_MS, stop, bench);
    run(bench);
    close(listener);
    assert_int_equal(bench->ups, 0);
}

/* ---- what works --------------------------------------------------------------------------------- */

static void user_password_and_database_of_the_url_are_used(void **state)
{
    const char *const who[] = { "ACL", "WHOAMI" };
    const char *const where[] = { "CLIENT", "INFO" };
    struct bench *bench = *state;
    char url[300];

    snprintf(url, sizeof url, "%s?user=app&password=s:e%%40c%%25ret&db=3", server.url);
    assert_int_equal(open_url(bench, url), ERR_OK);
    run_until_up(bench);
    call(bench, 2, who);
    run(bench);
    assert_string_equal(bench->text, "app");
    call(bench, 2, where);
    run(bench);
    assert_non_null(strstr(bench->text, " db=3 "));
}

static void replies_come_in_the_order_of_commands(void **state)
{
    struct bench *bench = *state;
    const char *const unset[] = { "DEL", "order" }, *const add[] = { "INCR", "order" };

    call(bench, 2, unset);
    for (int i = 0; i < 1000; i++)
        call(bench, 2, add);
    run(bench);
    assert_int_equal(bench->number, 1000);
    assert_int_equal(bench->answered, 1001);
}

static void bytes_of_any_kind_travel_and_a_callback_is_not_needed(void **state)
{
    struct bench *bench = *state;
    const char *const set[] = { "SET", "binary", "a\0b\r\n" }, *const get[] = { "GET", "binary" };
    const size_t lengths[] = { 3, 6, 5 };

    assert_int_equal(redis_call(bench->redis, 3, set, lengths, NULL, NULL), ERR_OK);
    redis_flush(bench->redis);
    call(bench, 2, get);
    run(bench);
    assert_int_equal(bench->size, 5);
}

static void more_than_the_kernel_takes_at_once_is_written_in_pieces(void **state)
{
    struct bench *bench = *state;
    size_t size = 512u << 10;    /* a Unix socket takes about 200 KiB */
    char *large = malloc(size + 1);
    const char *const set[] = { "SET", "large", large }, *const length[] = { "STRLEN", "large" };

    memset(large, 'x', size);
    large[size] = 0;
    for (int i = 0; i < 4; i++)
        call(bench, 3, set);
    free(large);
    call(bench, 2, length);
    run(bench);
    assert_int_equal(bench->number, (long long)size);
}

static int start_server(void **state)
{
    (void)state;
    redis_server_start(&server, "user app on >s:e@c%ret ~* +@all");
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        LOOP_TEST(a_url_of_another_shape_is_malformed),
        LOOP_TEST(without_a_connection_calls_fail_at_once),
        LOOP_TEST(a_wrong_password_is_never_connected),
        BENCH_TEST(an_error_reply_is_handed_over),
        BENCH_TEST(readonly_and_loading_replies_end_the_connection),
        BENCH_TEST(commands_in_flight_are_limited),
        BENCH_TEST(a_frozen_server_is_left_after_the_timeout),
        BENCH_TEST(a_server_that_died_is_found_again),
        BENCH_TEST(a_connection_closed_by_the_server_is_made_again),
        BENCH_TEST(destroying_answers_every_command),
        LOOP_TEST(a_listener_that_never_answers_is_not_connected),
        LOOP_TEST(user_password_and_database_of_the_url_are_used),
        BENCH_TEST(replies_come_in_the_order_of_commands),
        BENCH_TEST(bytes_of_any_kind_travel_and_a_callback_is_not_needed),
        BENCH_TEST(more_than_the_kernel_takes_at_once_is_written_in_pieces),
    };

    loop_prepare_process();
    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, start_server, stop_server);
}
