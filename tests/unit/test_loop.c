/* test_loop.c - what a loop promises its users: nothing forgotten is called, nothing is missed, signals do no harm. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cmocka.h>
#include <zmq.h>

#include "common/clock.h"
#include "common/loop.h"

#define GIVE_UP_MS 20000

struct bench {
    struct loop *loop;
    int fired, hooks, other;
    int timer, other_timer;
    int pipe[2];
    int events;
    bool gave_up;
};

static void give_up(void *owner)
{
    struct bench *bench = owner;

    bench->gave_up = true;
    loop_stop(bench->loop);
}

static int make_bench(void **state)
{
    struct bench *bench = calloc(1, sizeof *bench);

    assert_int_equal(loop_new(&bench->loop), ERR_OK);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, bench->pipe), 0);
    assert_true(loop_after(bench->loop, GIVE_UP_MS, give_up, bench) > 0);
    *state = bench;
    return 0;
}

static int free_bench(void **state)
{
    struct bench *bench = *state;

    loop_destroy(&bench->loop);
    assert_null(bench->loop);
    loop_destroy(&bench->loop);
    close(bench->pipe[0]);
    close(bench->pipe[1]);
    free(bench);
    return 0;
}

static void run(struct bench *bench)
{
    assert_int_equal(loop_run(bench->loop), ERR_OK);
    assert_false(bench->gave_up);
}

static void stop(void *owner)
{
    struct bench *bench = owner;

    loop_stop(bench->loop);
}

static void count(void *owner)
{
    struct bench *bench = owner;

    bench->fired++;
}

static void count_to_three(void *owner)
{
    struct bench *bench = owner;

    if (++bench->fired == 3)
        loop_stop(bench->loop);
}

static void cancel_self(void *owner)
{
    struct bench *bench = owner;

    bench->fired++;
    loop_cancel(bench->loop, bench->timer);
}

static void cancel_other(void *owner)
{
    struct bench *bench = owner;

    loop_cancel(bench->loop, bench->other_timer);
}

static void a_cancelled_timer_does_not_fire(void **state)
{
    struct bench *bench = *state;

    loop_cancel(bench->loop, loop_after(bench->loop, 1, count, bench));
    loop_cancel(bench->loop, 0);
    loop_cancel(bench->loop, 4711);
    loop_after(bench->loop, 20, stop, bench);
    run(bench);
    assert_int_equal(bench->fired, 0);
}

static void a_timer_cancelled_by_another_of_the_same_turn_does_not_fire(void **state)
{
    struct bench *bench = *state;

    loop_after(bench->loop, 1, cancel_other, bench);
    bench->other_timer = loop_after(bench->loop, 1, count, bench);
    usleep(5000);    /* both are due when the loop first looks */
    loop_after(bench->loop, 10, stop, bench);
    run(bench);
    assert_int_equal(bench->fired, 0);
}

static void a_repeating_timer_may_cancel_itself_after_an_interruption(void **state)
{
    struct bench *bench = *state;

    loop_after(bench->loop, 1, stop, bench);
    run(bench);    /* zloop has ended once, as after EINTR */
    bench->timer = loop_every(bench->loop, 1, cancel_self, bench);
    loop_after(bench->loop, 20, stop, bench);
    run(bench);
    assert_int_equal(bench->fired, 1);
}

static void a_timer_fires_once_and_one_repeats(void **state)
{
    struct bench *bench = *state;

    loop_after(bench->loop, 1, count, bench);
    loop_after(bench->loop, 30, stop, bench);
    run(bench);
    assert_int_equal(bench->fired, 1);
    bench->fired = 0;
    loop_every(bench->loop, 1, count_to_three, bench);
    run(bench);
    assert_int_equal(bench->fired, 3);
}

static void after_a_pause_a_repeating_timer_fires_once(void **state)
{
    struct bench *bench = *state;

    loop_every(bench->loop, 5, count, bench);
    usleep(60000);
    loop_after(bench->loop, 0, stop, bench);
    run(bench);
    assert_true(bench->fired <= 1);
}

static void timers_are_limited(void **state)
{
    struct bench *bench = *state;
    int made = 0;

    while (loop_after(bench->loop, 1000000, count, bench) > 0)
        made++;
    assert_int_equal(made, 4095);    /* and the bench's own */
}

static void interrupt(int number)
{
    (void)number;
}

static void signals_do_not_end_the_loop(void **state)
{
    struct bench *bench = *state;
    struct sigaction action = { .sa_handler = interrupt }, before;
    const struct itimerval fast = { { 0, 2000 }, { 0, 2000 } }, never = { { 0, 0 }, { 0, 0 } };

    sigaction(SIGALRM, &action, &before);
    setitimer(ITIMER_REAL, &fast, NULL);
    loop_every(bench->loop, 30, count_to_three, bench);
    run(bench);
    setitimer(ITIMER_REAL, &never, NULL);
    sigaction(SIGALRM, &before, NULL);
    assert_int_equal(bench->fired, 3);
}

static void a_loop_stopped_before_it_runs_returns_and_can_run_again(void **state)
{
    struct bench *bench = *state;

    loop_stop(bench->loop);
    run(bench);
    loop_after(bench->loop, 1, stop, bench);
    run(bench);
}

static void take_byte(void *owner, int fd, int events)
{
    struct bench *bench = owner;
    char byte;

    bench->events = events;
    bench->fired++;
    if (read(fd, &byte, 1) == 0 || byte == 'x')
        loop_stop(bench->loop);
}

static void a_forgotten_descriptor_is_not_called(void **state)
{
    struct bench *bench = *state;

    assert_int_equal(loop_watch_fd(bench->loop, bench->pipe[0], LOOP_READ, take_byte, bench), ERR_OK);
    assert_int_equal(write(bench->pipe[1], "a", 1), 1);
    loop_forget_fd(bench->loop, bench->pipe[0]);
    loop_forget_fd(bench->loop, bench->pipe[0]);
    loop_after(bench->loop, 20, stop, bench);
    run(bench);
    assert_int_equal(bench->fired, 0);
}

static void forget_both(void *owner, int fd, int events)
{
    struct bench *bench = owner;

    (void)fd;
    (void)events;
    bench->fired++;
    loop_forget_fd(bench->loop, bench->pipe[0]);
    loop_forget_fd(bench->loop, bench->pipe[1]);
}

static void a_descriptor_forgotten_by_another_of_the_same_turn_is_not_called(void **state)
{
    struct bench *bench = *state;

    assert_int_equal(loop_watch_fd(bench->loop, bench->pipe[0], LOOP_WRITE, forget_both, bench), ERR_OK);
    assert_int_equal(loop_watch_fd(bench->loop, bench->pipe[1], LOOP_WRITE, forget_both, bench), ERR_OK);
    loop_after(bench->loop, 20, stop, bench);
    run(bench);
    assert_int_equal(bench->fired, 1);
}

static void watching_again_replaces_events_and_function(void **state)
{
    struct bench *bench = *state;

    assert_int_equal(loop_watch_fd(bench->loop, bench->pipe[0], LOOP_WRITE, forget_both, bench), ERR_OK);
    assert_int_equal(loop_watch_fd(bench->loop, bench->pipe[0], LOOP_READ, forget_both, bench), ERR_OK);
    assert_int_equal(loop_watch_fd(bench->loop, bench->pipe[0], LOOP_READ, take_byte, bench), ERR_OK);
    assert_int_equal(write(bench->pipe[1], "ax", 2), 2);
    run(bench);
    assert_int_equal(bench->fired, 2);
    assert_int_equal(bench->events, LOOP_READ);
    assert_int_equal(loop_watch_fd(bench->loop, bench->pipe[0], 0, NULL, NULL), ERR_OK);
}

static void the_end_of_a_stream_is_told(void **state)
{
    struct bench *bench = *state;

    assert_int_equal(loop_watch_fd(bench->loop, bench->pipe[0], LOOP_READ, take_byte, bench), ERR_OK);
    close(bench->pipe[1]);
    bench->pipe[1] = -1;
    run(bench);
    assert_int_equal(bench->events & LOOP_READ, LOOP_READ);
}

static void hook(void *owner)
{
    struct bench *bench = owner;

    bench->hooks++;
}

static void hooks_run_before_the_first_and_after_every_callback(void **state)
{
    struct bench *bench = *state;

    assert_int_equal(loop_add_hook(bench->loop, hook, bench), ERR_OK);
    loop_after(bench->loop, 1, count, bench);
    loop_after(bench->loop, 20, stop, bench);
    run(bench);
    assert_true(bench->hooks >= 3);
    for (int i = 1; i < LOOP_HOOKS_MAX; i++)
        assert_int_equal(loop_add_hook(bench->loop, hook, bench), ERR_OK);
    assert_int_equal(loop_add_hook(bench->loop, hook, bench), ERR_OVERLOADED);
    loop_remove_hook(bench->loop, hook, bench);
    assert_int_equal(loop_add_hook(bench->loop, hook, bench), ERR_OK);
}

static void take_frames(void *owner, void *socket)
{
    struct bench *bench = owner;
    char byte;

    while (zmq_recv(socket, &byte, 1, ZMQ_DONTWAIT) == 1)
        if (++bench->fired == 1000)
            loop_stop(bench->loop);
}

static void a_socket_is_called_until_it_is_drained_and_not_after_it_is_forgotten(void **state)
{
    struct bench *bench = *state;
    void *context = zmq_ctx_new();
    void *to = zmq_socket(context, ZMQ_PAIR), *from = zmq_socket(context, ZMQ_PAIR);

    assert_int_equal(zmq_bind(from, "inproc://loop"), 0);
    assert_int_equal(zmq_connect(to, "inproc://loop"), 0);
    assert_int_equal(loop_watch_socket(bench->loop, from, take_frames, bench), ERR_OK);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(zmq_send(to, "a", 1, 0), 1);
    run(bench);
    loop_forget_socket(bench->loop, from);
    assert_int_equal(zmq_send(to, "a", 1, 0), 1);
    loop_after(bench->loop, 20, stop, bench);
    run(bench);
    assert_int_equal(bench->fired, 1000);
    zmq_close(to);
    zmq_close(from);
    zmq_ctx_term(context);
}

#define BENCH_TEST(test) cmocka_unit_test_setup_teardown(test, make_bench, free_bench)

int main(void)
{
    const struct CMUnitTest tests[] = {
        BENCH_TEST(a_cancelled_timer_does_not_fire),
        BENCH_TEST(a_timer_cancelled_by_another_of_the_same_turn_does_not_fire),
        BENCH_TEST(a_repeating_timer_may_cancel_itself_after_an_interruption),
        BENCH_TEST(a_timer_fires_once_and_one_repeats),
        BENCH_TEST(after_a_pause_a_repeating_timer_fires_once),
        BENCH_TEST(timers_are_limited),
        BENCH_TEST(signals_do_not_end_the_loop),
        BENCH_TEST(a_loop_stopped_before_it_runs_returns_and_can_run_again),
        BENCH_TEST(a_forgotten_descriptor_is_not_called),
        BENCH_TEST(a_descriptor_forgotten_by_another_of_the_same_turn_is_not_called),
        BENCH_TEST(watching_again_replaces_events_and_function),
        BENCH_TEST(the_end_of_a_stream_is_told),
        BENCH_TEST(hooks_run_before_the_first_and_after_every_callback),
        BENCH_TEST(a_socket_is_called_until_it_is_drained_and_not_after_it_is_forgotten),
    };

    loop_prepare_process();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
