/* test_streams.c - a stream never outlives what allowed it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <sys/eventfd.h>
#include <unistd.h>

#include "common/change.h"
#include "services/edge/streams.h"

static const struct verdict verdict = { .key_id = "k1", .session_id = "s1", .user_id = "u1", .tenant_id = "t1", .expires_s = 100,
                                        .bonds = "token-1 subject-1 signer-1" };

static void open_stream(struct streams *streams, struct stream *stream, uint64_t opened_at)
{
    *stream = (struct stream){ .wake_fd = eventfd(0, EFD_NONBLOCK), .opened_at = opened_at };
    assert_int_equal(streams_open(streams, stream, &verdict, "demo"), ERR_OK);
}

static void close_stream(struct streams *streams, struct stream *stream)
{
    streams_close(streams, stream);
    close(stream->wake_fd);
}

static bool is_woken(const struct stream *stream)
{
    uint64_t count;

    return read(stream->wake_fd, &count, sizeof count) == (ssize_t)sizeof count;
}

static const char *ended_by(const struct stream *stream)
{
    return streams_ended_by(stream) == NULL ? "" : streams_ended_by(stream);
}

static void beyond_the_limit_no_stream_opens(void **state)
{
    struct streams *streams;
    struct stream first, second = { .wake_fd = -1 };
    (void)state;

    assert_int_equal(streams_new(1, &streams), ERR_OK);
    open_stream(streams, &first, 0);
    assert_int_equal(streams_open(streams, &second, &verdict, "demo"), ERR_OVERLOADED);
    close_stream(streams, &first);
    open_stream(streams, &first, 0);
    assert_int_equal(streams_count(streams), 1);
    close_stream(streams, &first);
    streams_destroy(&streams);
}

static void a_change_ends_whom_it_names_and_nobody_else(void **state)
{
    static const struct { struct change change; bool ends; } cases[] = {
        { { .kind = CHANGE_KEY, .key_id = "k1" }, true },       { { .kind = CHANGE_KEY, .key_id = "k2" }, false },
        { { .kind = CHANGE_KEY, .key_id = "" }, false },        { { .kind = CHANGE_USER, .user_id = "u1" }, true },
        { { .kind = CHANGE_USER, .user_id = "u2" }, false },    { { .kind = CHANGE_SESSION, .user_id = "u1" }, false },
        { { .kind = CHANGE_SESSION, .key_id = "s1" }, true },   { { .kind = CHANGE_SESSION, .key_id = "s2" }, false },
        { { .kind = CHANGE_KEY, .key_id = "s1" }, false },      { { .kind = CHANGE_ISSUER, .server = "demo" }, false },
        { { .kind = CHANGE_TENANT, .tenant_id = "t1" }, true }, { { .kind = CHANGE_TENANT, .tenant_id = "k1" }, false },
        { { .kind = CHANGE_SERVER, .server = "demo" }, true },  { { .kind = CHANGE_SERVER, .server = "d" }, false },
        { { .kind = CHANGE_BOND, .key_id = "token-1" }, true }, { { .kind = CHANGE_BOND, .key_id = "subject-1" }, true },
        { { .kind = CHANGE_BOND, .key_id = "signer-1" }, true }, { { .kind = CHANGE_BOND, .key_id = "signer" }, false },
        { { .kind = CHANGE_BOND, .key_id = "ken-1" }, false },  { { .kind = CHANGE_BOND, .key_id = "" }, false },
        { { .kind = CHANGE_BOND, .key_id = "k1" }, false },
        { { .kind = CHANGE_ALL }, true },                       { { .kind = 99 }, true },
    };
    (void)state;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct change change = cases[i].change;
        struct streams *streams;
        struct stream stream;

        change.sequence = 5;
        assert_int_equal(streams_new(4, &streams), ERR_OK);
        streams_note_sequence(streams, 4);
        open_stream(streams, &stream, 4);
        assert_false(is_woken(&stream));
        streams_apply(streams, &change);
        assert_int_equal(streams_applied(streams), 5);
        assert_string_equal(ended_by(&stream), cases[i].ends ? "change" : "");
        assert_int_equal(is_woken(&stream), cases[i].ends);
        close_stream(streams, &stream);
        streams_destroy(&streams);
    }
}

static void a_change_between_verdict_and_opening_ends_the_stream(void **state)
{
    const struct change change = { .sequence = 5, .kind = CHANGE_KEY, .key_id = "k1" };
    struct streams *streams;
    struct stream stream;
    (void)state;

    assert_int_equal(streams_new(4, &streams), ERR_OK);
    streams_apply(streams, &change);
    open_stream(streams, &stream, 4);    /* its verdict was asked when 4 was the newest */
    assert_string_equal(ended_by(&stream), "change");
    close_stream(streams, &stream);
    open_stream(streams, &stream, 5);
    assert_string_equal(ended_by(&stream), "");
    close_stream(streams, &stream);
    streams_destroy(&streams);
}

static void more_changes_than_are_remembered_end_what_was_judged_before_them(void **state)
{
    struct streams *streams;
    struct stream stream;
    (void)state;

    assert_int_equal(streams_new(4, &streams), ERR_OK);
    for (uint64_t sequence = 1; sequence <= 5000; sequence++)
        streams_apply(streams, &(struct change){ .sequence = sequence, .kind = CHANGE_KEY, .key_id = "other" });
    open_stream(streams, &stream, 1);
    assert_string_equal(ended_by(&stream), "change");
    close_stream(streams, &stream);
    open_stream(streams, &stream, 4900);
    assert_string_equal(ended_by(&stream), "");
    close_stream(streams, &stream);
    streams_destroy(&streams);
}

static void a_jump_of_the_number_ends_what_is_older(void **state)
{
    struct streams *streams;
    struct stream stream;
    (void)state;

    assert_int_equal(streams_new(4, &streams), ERR_OK);
    open_stream(streams, &stream, 0);
    streams_note_sequence(streams, 0);
    assert_string_equal(ended_by(&stream), "");
    streams_note_sequence(streams, 7);
    assert_string_equal(ended_by(&stream), "change");
    assert_int_equal(streams_applied(streams), 7);
    close_stream(streams, &stream);
    streams_destroy(&streams);
}

static void a_stream_ends_when_its_credential_expires(void **state)
{
    struct streams *streams;
    struct stream stream;
    (void)state;

    assert_int_equal(streams_new(4, &streams), ERR_OK);
    open_stream(streams, &stream, 0);
    streams_sweep(streams, 99);
    assert_string_equal(ended_by(&stream), "");
    streams_sweep(streams, 100);
    assert_string_equal(ended_by(&stream), "expiry");
    close_stream(streams, &stream);
    streams_destroy(&streams);
}

static void while_the_lease_is_over_nothing_stays_open(void **state)
{
    struct streams *streams;
    struct stream before, after;
    (void)state;

    assert_int_equal(streams_new(4, &streams), ERR_OK);
    open_stream(streams, &before, 0);
    streams_end_all(streams, "lease");
    assert_string_equal(ended_by(&before), "lease");
    open_stream(streams, &after, 0);
    assert_string_equal(ended_by(&after), "lease");
    close_stream(streams, &after);
    streams_note_sequence(streams, 0);    /* the feed is back */
    open_stream(streams, &after, 0);
    assert_string_equal(ended_by(&after), "");
    close_stream(streams, &before);
    close_stream(streams, &after);
    streams_destroy(&streams);
}

static void a_drain_is_for_good_and_the_first_reason_stays(void **state)
{
    struct streams *streams;
    struct stream stream;
    (void)state;

    assert_int_equal(streams_new(4, &streams), ERR_OK);
    open_stream(streams, &stream, 0);
    streams_end_all(streams, "drain");
    streams_end_all(streams, "lease");
    streams_note_sequence(streams, 3);
    assert_string_equal(ended_by(&stream), "drain");
    close_stream(streams, &stream);
    open_stream(streams, &stream, 3);
    assert_string_equal(ended_by(&stream), "drain");
    close_stream(streams, &stream);
    streams_destroy(&streams);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(beyond_the_limit_no_stream_opens),
        cmocka_unit_test(a_change_ends_whom_it_names_and_nobody_else),
        cmocka_unit_test(a_change_between_verdict_and_opening_ends_the_stream),
        cmocka_unit_test(more_changes_than_are_remembered_end_what_was_judged_before_them),
        cmocka_unit_test(a_jump_of_the_number_ends_what_is_older),
        cmocka_unit_test(a_stream_ends_when_its_credential_expires),
        cmocka_unit_test(while_the_lease_is_over_nothing_stays_open),
        cmocka_unit_test(a_drain_is_for_good_and_the_first_reason_stays),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
