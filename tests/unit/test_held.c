/* Resting connections over real sockets: served on what is new, given back with what is not for the holding thread. */
#include <pthread.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/clock.h"
#include "services/edge/held.h"

#define WAIT_US 20000000u

/* A connection whose peer's `x` is not for the holding thread; everything else is taken and answered with itself. */
struct rester {
    struct held *held;
    struct held_connection connection;
    pthread_t thread;
    int fd, peer;
    _Atomic unsigned returns;
    _Atomic bool is_over;
};

static _Atomic unsigned rounds;

static bool serve(void *owner)
{
    struct rester *rester = owner;
    char bytes[64];
    ssize_t size = recv(rester->fd, bytes, sizeof bytes, MSG_PEEK | MSG_DONTWAIT);

    if (size < 0)
        return true;
    if (size == 0 || memchr(bytes, 'x', (size_t)size) != NULL)
        return false;
    size = recv(rester->fd, bytes, sizeof bytes, MSG_DONTWAIT);
    return size > 0 && send(rester->fd, bytes, (size_t)size, MSG_NOSIGNAL) == size;
}

static void served(void *owner)
{
    (void)owner;
    rounds++;
}

/* As a connection's thread does: rests, and reads itself what it is woken for, until the end. */
static void *run(void *argument)
{
    struct rester *rester = argument;
    char bytes[64];

    for (;;) {
        held_wait(rester->held, &rester->connection, rester->fd);
        rester->returns++;
        struct pollfd readable = { .fd = rester->fd, .events = POLLIN };
        if (poll(&readable, 1, 20) == 1 && recv(rester->fd, bytes, sizeof bytes, MSG_DONTWAIT) == 0)
            break;
    }
    rester->is_over = true;
    return NULL;
}

static struct held *open_held(uint64_t idle_ms)
{
    struct held *held = NULL;

    assert_int_equal(held_new(&(struct held_options){ .serve = serve, .served = served, .idle_ms = idle_ms }, &held), ERR_OK);
    return held;
}

static struct rester *start_rester(struct held *held)
{
    struct rester *rester = calloc(1, sizeof *rester);
    int ends[2];

    assert_non_null(rester);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    rester->held = held;
    rester->fd = ends[0];
    rester->peer = ends[1];
    assert_int_equal(held_init(&rester->connection, rester), ERR_OK);
    assert_int_equal(pthread_create(&rester->thread, NULL, run, rester), 0);
    return rester;
}

static void end_rester(struct rester *rester)
{
    shutdown(rester->peer, SHUT_RDWR);
    pthread_join(rester->thread, NULL);
    held_clear(&rester->connection);
    close(rester->fd);
    close(rester->peer);
    free(rester);
}

static void ask(const struct rester *rester, const char *text)
{
    char answer[64] = "";
    struct pollfd readable = { .fd = rester->peer, .events = POLLIN };

    assert_int_equal(send(rester->peer, text, strlen(text), 0), strlen(text));
    assert_int_equal(poll(&readable, 1, 20000), 1);
    assert_int_equal(recv(rester->peer, answer, sizeof answer, 0), strlen(text));
    assert_string_equal(answer, text);
}

static void await_returns(const struct rester *rester, unsigned count)
{
    const uint64_t until_us = clock_monotonic_us() + WAIT_US;

    while (rester->returns < count && clock_monotonic_us() < until_us)
        usleep(1000);
    assert_true(rester->returns >= count);
}

static void what_is_not_for_the_holding_thread_goes_to_the_connections_own(void **state)
{
    struct held *held = open_held(60000);
    struct rester *rester = start_rester(held);
    (void)state;

    ask(rester, "one");
    assert_int_equal(rester->returns, 0);
    assert_int_equal(send(rester->peer, "x", 1, 0), 1);
    await_returns(rester, 1);
    ask(rester, "two");
    assert_int_equal(rester->returns, 1);
    end_rester(rester);
    held_destroy(&held);
}

static void many_connections_are_served_by_one_thread_while_theirs_rest(void **state)
{
    struct held *held = open_held(60000);
    struct rester *resters[40];
    (void)state;

    rounds = 0;
    for (unsigned i = 0; i < 40; i++)
        resters[i] = start_rester(held);
    for (unsigned turn = 0; turn < 25; turn++)
        for (unsigned i = 0; i < 40; i++)
            ask(resters[i], "again");
    assert_true(rounds > 0);
    for (unsigned i = 0; i < 40; i++) {
        assert_int_equal(resters[i]->returns, 0);
        end_rester(resters[i]);
    }
    held_destroy(&held);
}

/* What came before the connection was held makes no event afterwards. */
static void what_is_there_already_when_a_connection_comes_to_rest_is_served(void **state)
{
    struct held *held = open_held(60000);
    (void)state;

    for (unsigned i = 0; i < 50; i++) {
        struct rester *rester = start_rester(held);

        ask(rester, "early");
        end_rester(rester);
    }
    held_destroy(&held);
}

static void a_connection_that_asks_for_nothing_is_ended(void **state)
{
    struct held *held = open_held(100);
    struct rester *rester = start_rester(held);
    (void)state;

    pthread_join(rester->thread, NULL);
    assert_true(rester->is_over);
    held_clear(&rester->connection);
    close(rester->fd);
    close(rester->peer);
    free(rester);
    held_destroy(&held);
}

static void a_stop_gives_all_back_and_holds_none_any_more(void **state)
{
    struct held *held = open_held(60000);
    struct rester *resters[8];
    (void)state;

    for (unsigned i = 0; i < 8; i++) {
        resters[i] = start_rester(held);
        ask(resters[i], "before");
    }
    held_stop(held);
    for (unsigned i = 0; i < 8; i++) {
        await_returns(resters[i], 2);    /* the second: it was not held again */
        end_rester(resters[i]);
    }
    held_destroy(&held);
}

static void a_descriptor_that_cannot_be_watched_goes_back_at_once(void **state)
{
    struct held *held = open_held(60000);
    struct held_connection connection = { 0 };
    (void)state;

    assert_int_equal(held_init(&connection, NULL), ERR_OK);
    held_wait(held, &connection, -1);
    held_clear(&connection);
    held_destroy(&held);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_not_for_the_holding_thread_goes_to_the_connections_own),
        cmocka_unit_test(many_connections_are_served_by_one_thread_while_theirs_rest),
        cmocka_unit_test(what_is_there_already_when_a_connection_comes_to_rest_is_served),
        cmocka_unit_test(a_connection_that_asks_for_nothing_is_ended),
        cmocka_unit_test(a_stop_gives_all_back_and_holds_none_any_more),
        cmocka_unit_test(a_descriptor_that_cannot_be_watched_goes_back_at_once),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
