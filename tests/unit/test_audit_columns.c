/* test_audit_columns.c - records of the trail as binary Postgres arrays; what cannot be read keeps its place. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/scope.h"
#include "common/trail.h"
#include "services/audit/audit_columns.h"

#define TIME_US UINT64_C(1700000000000001)

static const uint8_t producer[UUID_SIZE] = { 1, 2, 3 };
static const uint8_t no_mac[DIGEST_SIZE];
static uint8_t block[TRAIL_BLOCK_MAX];

static struct audit_event sample_event(void)
{
    struct audit_event event = { .event = "request", .outcome = "allowed", .request_id = "r-1", .user_id = "u1",
                                 .auth_method = AUTH_API_KEY, .key_id = "k1", .path = "/auth/check", .status = 200,
                                 .latency_us = 300, .bytes = UINT64_MAX };
    return event;
}

static void add(struct trail_writer *writer, const struct audit_event *event)
{
    assert_int_equal(trail_add(writer, TIME_US + writer->header.count, message_type_of(MESSAGE_audit_event), event),
                     ERR_OK);
}

static void seal(struct trail_writer *writer)
{
    uint8_t mac[DIGEST_SIZE];

    assert_true(trail_end(writer, TIME_US, no_mac, NULL, 0, mac) > 0);
}

/* A record of our own bytes behind what the writer has. */
static void add_raw(struct trail_writer *writer, uint16_t code, const void *body, uint32_t size)
{
    uint8_t *record = writer->bytes + writer->size;
    uint64_t time_us = TIME_US;

    memset(record, 0, TRAIL_RECORD_SIZE);
    memcpy(record, &size, 4);
    memcpy(record + 4, &code, 2);
    memcpy(record + 8, &time_us, 8);
    memcpy(record + TRAIL_RECORD_SIZE, body, size);
    writer->size += TRAIL_RECORD_SIZE + size;
    writer->header.count++;
}

static uint32_t read_u32(const uint8_t *bytes)
{
    return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

/* The n-th element as text or raw bytes; size -1: NULL. */
static const uint8_t *element(struct columns *columns, enum column column, uint32_t n, int *ret_size)
{
    size_t size;
    const uint8_t *bytes = columns_array(columns, column, &size), *at = bytes + 20;

    assert_true(n < read_u32(bytes + 12));
    for (; n > 0; n--)
        at += 4 + (read_u32(at) == UINT32_MAX ? 0 : read_u32(at));
    *ret_size = (int)read_u32(at);
    assert_true(*ret_size <= 0 || at + 4 + *ret_size <= bytes + size);
    return at + 4;
}

static void assert_text(struct columns *columns, enum column column, uint32_t n, const char *text)
{
    int size;
    const uint8_t *bytes = element(columns, column, n, &size);

    assert_int_equal(size, (int)strlen(text));
    assert_memory_equal(bytes, text, (size_t)size);
}

static void assert_absent(struct columns *columns, enum column column, uint32_t n)
{
    int size;

    (void)element(columns, column, n, &size);
    assert_int_equal(size, -1);
}

static uint64_t number(struct columns *columns, enum column column, uint32_t n)
{
    uint64_t value = 0;
    int size;
    const uint8_t *bytes = element(columns, column, n, &size);

    for (int i = 0; i < size; i++)
        value = value << 8 | bytes[i];
    return value;
}

static struct columns *columns_of(struct trail_writer *writer, uint32_t *ret_unreadable)
{
    struct columns *columns = NULL;

    seal(writer);
    assert_int_equal(columns_new(&columns), ERR_OK);
    assert_int_equal(columns_add_block(columns, &writer->header, block, ret_unreadable), ERR_OK);
    return columns;
}

static void a_record_that_cannot_be_read_keeps_its_place(void **state)
{
    static const struct { const char *why; uint8_t body[12]; uint32_t size; } cases[] = {
        { "an empty body", { 0 }, 0 },
        { "not an array", { 0x81, 0xa1, 'a', 0x01 }, 4 },
        { "no event name", { 0x91, 0xc0 }, 2 },
        { "a text that ends early", { 0x91, 0xa5, 'a' }, 3 },
        { "a length without its bytes", { 0x91, 0xd9 }, 2 },
        { "a long length without its bytes", { 0x91, 0xda, 0x00 }, 3 },
        { "a number where text stands", { 0x91, 0x01 }, 2 },
        { "text where a number stands", { 0x97, 0xa1, 'a', 0xc0, 0xc0, 0xc0, 0xc0, 0xc0, 0xa1, 'b' }, 10 },
        { "a number that ends early", { 0x97, 0xa1, 'a', 0xc0, 0xc0, 0xc0, 0xc0, 0xc0, 0xce, 0x01 }, 10 },
        { "fewer elements than it says", { 0x92, 0xa1, 'a' }, 3 },
        { "bytes left over", { 0x91, 0xa1, 'a', 0x00 }, 4 },
        { "a long count without its bytes", { 0xdc, 0x00 }, 2 },
        { "a letter beyond ASCII", { 0x91, 0xa2, 0xc3, 0xa9 }, 4 },
        { "a NUL in eight letters", { 0x91, 0xa8, 'a', 'b', 'c', 0x00, 'e', 'f', 'g', 'h' }, 10 },
        { "a DEL in eight letters", { 0x91, 0xa8, 'a', 'b', 'c', 0x7f, 'e', 'f', 'g', 'h' }, 10 },
    };
    (void)state;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct trail_writer writer;
        struct columns *columns;
        uint32_t unreadable = 0;
        struct audit_event event = sample_event();

        trail_begin(&writer, block, sizeof block, producer, 1, 7);
        add_raw(&writer, MESSAGE_audit_event, cases[i].body, cases[i].size);
        add(&writer, &event);
        columns = columns_of(&writer, &unreadable);
        if (unreadable != 1)
            fail_msg("accepted %s", cases[i].why);
        assert_text(columns, COLUMN_EVENT, 0, "unreadable:1281");
        assert_text(columns, COLUMN_OUTCOME, 0, "unknown");
        assert_text(columns, COLUMN_EVENT, 1, "request");
        assert_int_equal(columns_next_seq(columns), 9);
        columns_destroy(&columns);
    }
}

static void a_text_over_its_limit_is_unreadable(void **state)
{
    uint8_t body[40] = { 0x91, 0xd9, 33 };
    struct trail_writer writer;
    struct columns *columns;
    uint32_t unreadable = 0;
    (void)state;

    memset(body + 3, 'e', 33);
    trail_begin(&writer, block, sizeof block, producer, 1, 1);
    add_raw(&writer, MESSAGE_audit_event, body, 36);
    columns = columns_of(&writer, &unreadable);
    assert_int_equal(unreadable, 1);
    columns_destroy(&columns);
}

static void an_unknown_code_becomes_an_event_that_names_it(void **state)
{
    struct trail_writer writer;
    struct columns *columns;
    uint32_t unreadable = 0;
    (void)state;

    trail_begin(&writer, block, sizeof block, producer, 1, 1);
    add_raw(&writer, 0x7777, "\x90", 1);
    columns = columns_of(&writer, &unreadable);
    assert_int_equal(unreadable, 0);
    assert_text(columns, COLUMN_EVENT, 0, "unknown:30583");
    columns_destroy(&columns);
}

static void an_event_of_a_newer_release_is_read_as_far_as_we_know_it(void **state)
{
    uint8_t body[64] = { 0xdc, 0, 20, 0xa1, 'x', 0xa7, 'a', 'l', 'l', 'o', 'w', 'e', 'd' };
    struct trail_writer writer;
    struct columns *columns;
    uint32_t unreadable = 0;
    (void)state;

    memset(body + 13, 0xc0, 16);
    memcpy(body + 29, "\xa3new\xc3", 5);
    trail_begin(&writer, block, sizeof block, producer, 1, 1);
    add_raw(&writer, MESSAGE_audit_event, body, 34);
    columns = columns_of(&writer, &unreadable);
    assert_int_equal(unreadable, 0);
    assert_text(columns, COLUMN_EVENT, 0, "x");
    assert_text(columns, COLUMN_OUTCOME, 0, "allowed");
    assert_absent(columns, COLUMN_DETAILS, 0);
    columns_destroy(&columns);
}

static void an_event_of_an_older_release_leaves_the_rest_empty(void **state)
{
    struct trail_writer writer;
    struct columns *columns;
    uint32_t unreadable = 0;
    (void)state;

    trail_begin(&writer, block, sizeof block, producer, 1, 1);
    add_raw(&writer, MESSAGE_audit_event, "\x92\xa1x\xa1y", 5);
    columns = columns_of(&writer, &unreadable);
    assert_int_equal(unreadable, 0);
    assert_text(columns, COLUMN_OUTCOME, 0, "y");
    assert_absent(columns, COLUMN_KEY_ID, 0);
    assert_int_equal(number(columns, COLUMN_COUNT, 0), 1);
    columns_destroy(&columns);
}

static void every_field_lands_in_its_column(void **state)
{
    struct audit_event event = sample_event(), second = {
        .event = "refused", .outcome = "refused", .reason = "malformed",
        .tenant_id = "t", .address = "::1", .method = "GET", .server = "s", .tool = "tl", .count = 5,
        .latency_us = 70000,
        .status = 400, .bytes = 0x123456789a, .details = "{\"a\":1}" };
    struct trail_writer writer;
    struct columns *columns;
    uint32_t unreadable = 9;
    (void)state;

    trail_begin(&writer, block, sizeof block, producer, 1, 41);
    add(&writer, &event);
    add(&writer, &second);
    columns = columns_of(&writer, &unreadable);
    assert_int_equal(unreadable, 0);
    assert_int_equal(columns_count(columns), 2);
    assert_int_equal(columns_first_seq(columns), 41);
    assert_int_equal(columns_next_seq(columns), 43);
    assert_int_equal(columns_first_us(columns), TIME_US);
    assert_int_equal(columns_last_us(columns), TIME_US + 1);
    assert_int_equal(number(columns, COLUMN_AT, 0), TIME_US - UINT64_C(946684800000000));
    assert_text(columns, COLUMN_REQUEST_ID, 0, "r-1");
    assert_text(columns, COLUMN_USER_ID, 0, "u1");
    assert_text(columns, COLUMN_AUTH_METHOD, 0, "api_key");
    assert_text(columns, COLUMN_KEY_ID, 0, "k1");
    assert_text(columns, COLUMN_PATH, 0, "/auth/check");
    assert_int_equal(number(columns, COLUMN_STATUS, 0), 200);
    assert_int_equal(number(columns, COLUMN_LATENCY_US, 0), 300);
    assert_int_equal(number(columns, COLUMN_BYTES, 0), INT64_MAX);
    assert_int_equal(number(columns, COLUMN_COUNT, 0), 1);
    assert_absent(columns, COLUMN_REASON, 0);
    assert_absent(columns, COLUMN_DETAILS, 0);
    assert_text(columns, COLUMN_REASON, 1, "malformed");
    assert_text(columns, COLUMN_TENANT_ID, 1, "t");
    assert_absent(columns, COLUMN_AUTH_METHOD, 1);
    assert_text(columns, COLUMN_ADDRESS, 1, "::1");
    assert_text(columns, COLUMN_METHOD, 1, "GET");
    assert_text(columns, COLUMN_SERVER, 1, "s");
    assert_text(columns, COLUMN_TOOL, 1, "tl");
    assert_int_equal(number(columns, COLUMN_LATENCY_US, 1), 70000);
    assert_int_equal(number(columns, COLUMN_BYTES, 1), 0x123456789a);
    assert_int_equal(number(columns, COLUMN_COUNT, 1), 5);
    assert_text(columns, COLUMN_DETAILS, 1, "{\"a\":1}");
    columns_destroy(&columns);
}

static void details_are_json_whatever_they_were(void **state)
{
    static const struct { const char *given, *stored; } cases[] = {
        { "{\"a\":[1,2]}", "{\"a\":[1,2]}" }, { "[1]", "\"[1]\"" }, { "{\"a\"", "\"{\\\"a\\\"\"" },
        { "C:\\x", "\"C:\\\\x\"" }, { "{\"a\":\"\\u0000\"}", "\"{\\\"a\\\":\\\"\\\\u0000\\\"}\"" },
    };
    (void)state;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct audit_event event = sample_event();
        struct trail_writer writer;
        struct columns *columns;
        uint32_t unreadable;

        snprintf(event.details, sizeof event.details, "%s", cases[i].given);
        trail_begin(&writer, block, sizeof block, producer, 1, 1);
        add(&writer, &event);
        columns = columns_of(&writer, &unreadable);
        assert_text(columns, COLUMN_DETAILS, 0, cases[i].stored);
        columns_destroy(&columns);
    }
}

static void an_event_that_is_no_answer_has_no_status(void **state)
{
    struct audit_event event = sample_event();
    struct trail_writer writer;
    struct columns *columns;
    uint32_t unreadable = 0;
    (void)state;

    event.status = 0;
    trail_begin(&writer, block, sizeof block, producer, 1, 1);
    add(&writer, &event);
    columns = columns_of(&writer, &unreadable);
    assert_absent(columns, COLUMN_STATUS, 0);
    columns_destroy(&columns);
}

static void keys_and_users_stand_once_in_their_arrays(void **state)
{
    struct audit_event event = sample_event();
    struct columns *columns = NULL;
    uint32_t unreadable = 0;
    size_t size;
    (void)state;

    assert_int_equal(columns_new(&columns), ERR_OK);
    for (uint64_t round = 0; round < 2; round++) {
        struct trail_writer writer;

        trail_begin(&writer, block, sizeof block, producer, 1, 1 + 300 * round);
        for (unsigned i = 0; i < 300; i++) {
            snprintf(event.key_id, sizeof event.key_id, "key-with-a-longer-name-%u", i % 100);
            snprintf(event.user_id, sizeof event.user_id, "%u", i % 7);
            add(&writer, &event);
        }
        seal(&writer);
        assert_int_equal(columns_add_block(columns, &writer.header, block, &unreadable), ERR_OK);
    }
    assert_int_equal(columns_count(columns), 600);
    assert_int_equal(read_u32(columns_array(columns, COLUMN_KEYS, &size) + 12), 100);
    assert_int_equal(read_u32(columns_array(columns, COLUMN_USERS, &size) + 12), 7);
    assert_text(columns, COLUMN_KEYS, 99, "key-with-a-longer-name-99");
    columns_reset(columns);
    assert_int_equal(columns_count(columns), 0);
    assert_true(columns_array(columns, COLUMN_KEYS, &size) != NULL && size == 12);
    columns_destroy(&columns);
}

static void times_outside_the_calendar_are_brought_back_into_it(void **state)
{
    static const struct { uint64_t time_us, stored_us; } cases[] = {
        { 0, 0 }, { UINT64_MAX, UINT64_C(253402300799000000) - UINT64_C(946684800000000) },
    };
    struct audit_event event = sample_event();
    (void)state;

    for (size_t i = 0; i < 2; i++) {
        struct trail_writer writer;
        struct columns *columns;
        uint32_t unreadable;
        uint8_t instant[8];

        trail_begin(&writer, block, sizeof block, producer, 1, 1);
        assert_int_equal(trail_add(&writer, cases[i].time_us, message_type_of(MESSAGE_audit_event), &event), ERR_OK);
        columns = columns_of(&writer, &unreadable);
        assert_int_equal(number(columns, COLUMN_AT, 0), cases[i].stored_us);
        columns_instant(columns_first_us(columns), instant);
        assert_int_equal(read_u32(instant + 4), (uint32_t)cases[i].stored_us);
        columns_destroy(&columns);
    }
}

static void a_loss_is_one_event_that_spans_its_sequences(void **state)
{
    struct columns *columns = NULL;
    (void)state;

    assert_int_equal(columns_new(&columns), ERR_OK);
    assert_int_equal(columns_add_lost(columns, &(struct columns_lost){ 10, 90, TIME_US, "spool" }), ERR_OK);
    assert_int_equal(columns_count(columns), 1);
    assert_int_equal(columns_first_seq(columns), 10);
    assert_int_equal(columns_next_seq(columns), 100);
    assert_text(columns, COLUMN_EVENT, 0, "lost");
    assert_int_equal(number(columns, COLUMN_COUNT, 0), 90);
    assert_true(columns_bytes(columns) > 0);
    columns_destroy(&columns);
    columns_destroy(&columns);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_record_that_cannot_be_read_keeps_its_place),
        cmocka_unit_test(a_text_over_its_limit_is_unreadable),
        cmocka_unit_test(an_unknown_code_becomes_an_event_that_names_it),
        cmocka_unit_test(an_event_of_a_newer_release_is_read_as_far_as_we_know_it),
        cmocka_unit_test(an_event_of_an_older_release_leaves_the_rest_empty),
        cmocka_unit_test(every_field_lands_in_its_column),
        cmocka_unit_test(details_are_json_whatever_they_were),
        cmocka_unit_test(an_event_that_is_no_answer_has_no_status),
        cmocka_unit_test(keys_and_users_stand_once_in_their_arrays),
        cmocka_unit_test(times_outside_the_calendar_are_brought_back_into_it),
        cmocka_unit_test(a_loss_is_one_event_that_spans_its_sequences),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
