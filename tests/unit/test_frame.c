/* test_frame.c - batches: nothing is half-delivered. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/encode.h"
#include "common/frame.h"

static const struct pulse sample = { .echo_us = 1000, .applied = 7 };

static const struct message_type *pulse_type(void)
{
    return message_type_of(MESSAGE_pulse);
}

static size_t build(uint8_t *buffer, size_t capacity, uint32_t count)
{
    struct frame_writer writer;

    frame_begin(&writer, buffer, capacity, MESSAGES_VERSION, 0x1122334455667788, 99);
    for (uint32_t i = 0; i < count; i++)
        assert_int_equal(frame_add(&writer, pulse_type(), (uint16_t)i, 1000 + i, 5000 + i, &sample), ERR_OK);
    return frame_end(&writer);
}

static enum err open_exact(const uint8_t *bytes, size_t size, bool *ret_version_only)
{
    struct frame_reader reader;
    uint8_t *exact = malloc(size + 1);

    memcpy(exact, bytes, size);
    enum err err = frame_open(&reader, exact, size, ret_version_only);
    free(exact);
    return err;
}

static void every_truncation_is_malformed(void **state)
{
    uint8_t bytes[1024];
    size_t size = build(bytes, sizeof bytes, 3);
    bool version_only = true;
    (void)state;

    for (size_t cut = 0; cut < size; cut++) {
        assert_int_equal(open_exact(bytes, cut, &version_only), ERR_MALFORMED);
        assert_false(version_only);
    }
}

static void a_broken_header_or_item_is_malformed(void **state)
{
    static const struct { const char *why; size_t at; uint8_t byte; } cases[] = {
        { "foreign magic", 0, 'm' }, { "foreign magic", 1, 'g' }, { "a set byte that must be zero", 3, 1 },
        { "fewer items than said", 4, 4 }, { "more items than said", 4, 2 }, { "no items", 4, 0 },
        { "a count beyond the limit", 7, 1 },
        { "an unknown code", 24, 0xff }, { "an unknown code", 25, 0xff },
        { "a body beyond the end", 28, 60 }, { "a body over its row's limit", 29, 1 }, { "a huge body", 31, 0xff },
    };
    (void)state;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint8_t bytes[1024];
        size_t size = build(bytes, sizeof bytes, 3);
        bool version_only = true;

        bytes[cases[i].at] = cases[i].byte;
        if (open_exact(bytes, size, &version_only) != ERR_MALFORMED || version_only)
            fail_msg("accepted %s", cases[i].why);
    }
}

static void bytes_left_over_are_malformed(void **state)
{
    uint8_t bytes[1024] = { 0 };
    size_t size = build(bytes, sizeof bytes, 2);
    bool version_only;
    (void)state;

    assert_int_equal(open_exact(bytes, size + 1, &version_only), ERR_MALFORMED);
    assert_int_equal(open_exact(bytes, size, &version_only), ERR_OK);
}

static void a_foreign_version_is_told_apart(void **state)
{
    uint8_t bytes[1024];
    size_t size = build(bytes, sizeof bytes, 1);
    bool version_only = false;
    (void)state;

    bytes[2] = MESSAGES_VERSION + 1;
    assert_int_equal(open_exact(bytes, size, &version_only), ERR_MALFORMED);
    assert_true(version_only);
    version_only = false;
    bytes[2] = MESSAGES_VERSION_OLDEST - 1;
    assert_int_equal(open_exact(bytes, size, &version_only), ERR_MALFORMED);
    assert_true(version_only);
    bytes[2] = MESSAGES_VERSION_OLDEST;
    assert_int_equal(open_exact(bytes, size, &version_only), ERR_OK);
    assert_false(version_only);
}

static void a_full_frame_takes_no_more_and_stays_whole(void **state)
{
    static uint8_t bytes[FRAME_SIZE_MAX];
    struct frame_writer writer;
    bool version_only;
    uint32_t added = 0;
    (void)state;

    for (size_t capacity = FRAME_HEADER_SIZE; capacity < 200; capacity++) {
        memset(bytes, 0xee, 256);
        frame_begin(&writer, bytes, capacity, MESSAGES_VERSION, 1, 1);
        for (added = 0; frame_add(&writer, pulse_type(), 0, 1, 0, &sample) == ERR_OK; added++)
            assert_true(writer.size <= capacity);
        assert_int_equal(frame_add(&writer, pulse_type(), 0, 1, 0, &sample), ERR_TOO_LARGE);
        assert_int_equal(writer.header.count, added);
        assert_int_equal(bytes[capacity], 0xee);
        assert_int_equal(open_exact(bytes, frame_end(&writer), &version_only), added == 0 ? ERR_MALFORMED : ERR_OK);
    }

    frame_begin(&writer, bytes, sizeof bytes, MESSAGES_VERSION, 1, 1);
    for (added = 0; frame_add(&writer, pulse_type(), 0, 1, 0, &sample) == ERR_OK; )
        added++;
    assert_int_equal(added, FRAME_ITEMS_MAX);
    assert_int_equal(open_exact(bytes, frame_end(&writer), &version_only), ERR_OK);
}

static void a_message_that_breaks_its_limits_is_not_added(void **state)
{
    uint8_t bytes[1024];
    struct frame_writer writer;
    const struct welcome broken = { .edge_size = 17 };
    (void)state;

    frame_begin(&writer, bytes, sizeof bytes, MESSAGES_VERSION, 1, 1);
    assert_int_equal(frame_add(&writer, message_type_of(MESSAGE_welcome), 0, 1, 0, &broken), ERR_BUG);
    assert_int_equal(writer.header.count, 0);
    assert_int_equal(writer.size, FRAME_HEADER_SIZE);
}

static void the_layout_is_the_documented_one(void **state)
{
    uint8_t bytes[256];
    char hex[513];
    struct frame_writer writer;
    const struct heartbeat beat = { .sent_us = 5 };
    (void)state;

    frame_begin(&writer, bytes, sizeof bytes, 1, 0x1122334455667788, 0x99);
    assert_int_equal(frame_add(&writer, message_type_of(MESSAGE_heartbeat), 2, 0x0102030405060708, 0x10, &beat), ERR_OK);
    hex_encode(bytes, frame_end(&writer), hex);
    assert_string_equal(hex, "4d470100" "01000000" "8877665544332211" "9900000000000000"
                             "0400" "0200" "02000000" "0807060504030201" "1000000000000000" "9105");
}

static void what_was_added_is_read_in_order(void **state)
{
    uint8_t bytes[1024];
    size_t size = build(bytes, sizeof bytes, 5);
    struct frame_reader reader;
    struct frame_item item;
    struct pulse pulse;
    const char *field;
    bool version_only;
    (void)state;

    assert_int_equal(frame_open(&reader, bytes, size, &version_only), ERR_OK);
    assert_int_equal(reader.header.count, 5);
    assert_int_equal(reader.header.version, MESSAGES_VERSION);
    assert_true(reader.header.epoch == 0x1122334455667788);
    assert_int_equal(reader.header.batch, 99);
    for (uint32_t i = 0; i < 5; i++) {
        assert_true(frame_next(&reader, &item));
        assert_ptr_equal(item.type, pulse_type());
        assert_int_equal(item.attempt, i);
        assert_int_equal(item.request_id, 1000 + i);
        assert_int_equal(item.deadline_us, 5000 + i);
        assert_int_equal(message_decode(item.type, reader.header.version, item.body, item.body_size, &pulse, &field), ERR_OK);
        assert_int_equal(pulse.applied, 7);
    }
    assert_false(frame_next(&reader, &item));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_truncation_is_malformed),
        cmocka_unit_test(a_broken_header_or_item_is_malformed),
        cmocka_unit_test(bytes_left_over_are_malformed),
        cmocka_unit_test(a_foreign_version_is_told_apart),
        cmocka_unit_test(a_full_frame_takes_no_more_and_stays_whole),
        cmocka_unit_test(a_message_that_breaks_its_limits_is_not_added),
        cmocka_unit_test(the_layout_is_the_documented_one),
        cmocka_unit_test(what_was_added_is_read_in_order),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
