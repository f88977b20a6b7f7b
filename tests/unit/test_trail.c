/* test_trail.c - blocks of the trail: every changed bit is found, old blocks stay readable. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/little_endian.h"
#include "common/trail.h"

static const struct audit_event sample = {
    .event = "request", .outcome = "allowed", .request_id = "01936e2f-7c1a-7def-8123-456789abcdef", .status = 200,
};
static const uint8_t producer[UUID_SIZE] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16 };
static const uint8_t prev[DIGEST_SIZE] = { 0xaa, 0xbb };
static const uint8_t key[16] = "0123456789abcde";

static size_t build(uint8_t *buffer, uint32_t count, const uint8_t *with_key, uint8_t ret_mac[DIGEST_SIZE])
{
    struct trail_writer writer;

    trail_begin(&writer, buffer, TRAIL_BLOCK_MAX, producer, 42, 1000);
    for (uint32_t i = 0; i < count; i++)
        assert_int_equal(trail_add(&writer, 70 + i, message_type_of(MESSAGE_audit_event), &sample), ERR_OK);
    return trail_end(&writer, 77, prev, with_key, with_key != NULL ? sizeof key : 0, ret_mac);
}

static enum err open_exact(const uint8_t *bytes, size_t size)
{
    struct trail_header header;
    uint8_t *exact = malloc(size + 1);

    memcpy(exact, bytes, size);
    enum err err = trail_open(exact, size, &header);
    free(exact);
    return err;
}

/* Makes the checksum right again, so that the check behind it is what refuses. */
static void reseal(uint8_t *block, size_t size)
{
    put_le32(block + 120, 0);
    put_le32(block + 120, crc32c(0, block, size));
}

static void every_truncation_is_malformed(void **state)
{
    static uint8_t block[TRAIL_BLOCK_MAX];
    uint8_t mac[DIGEST_SIZE];
    size_t size = build(block, 2, NULL, mac);
    (void)state;

    assert_int_equal(open_exact(block, 0), ERR_NOT_FOUND);
    for (size_t cut = 1; cut < size; cut++)
        assert_int_equal(open_exact(block, cut), ERR_MALFORMED);
    assert_int_equal(open_exact(block, size), ERR_OK);
}

static void every_flipped_bit_is_found(void **state)
{
    static uint8_t block[TRAIL_BLOCK_MAX];
    uint8_t mac[DIGEST_SIZE];
    size_t size = build(block, 2, key, mac);
    (void)state;

    for (size_t bit = 0; bit < 8 * size; bit++) {
        block[bit / 8] ^= (uint8_t)(1u << bit % 8);
        if (open_exact(block, size) != ERR_MALFORMED)
            fail_msg("bit %zu of byte %zu", bit % 8, bit / 8);
        block[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
}

static void a_well_sealed_lie_is_malformed(void **state)
{
    static const struct { const char *why; size_t at; uint8_t byte; } cases[] = {
        { "foreign magic", 3, '2' }, { "a size below the header", 4, 100 }, { "a size beyond the bytes", 5, 0xff },
        { "a size beyond the largest block", 6, 2 }, { "no records", 40, 0 }, { "fewer records", 40, 1 },
        { "more records", 40, 3 }, { "version 0", 44, 0 }, { "an unknown flag", 46, 2 },
        { "a sequence that would wrap", 39, 0xff }, { "a set byte at the end of the header", 124, 1 },
        { "a record beyond the end", 129, 0xff }, { "a set byte in a record's head", 134, 1 },
    };
    (void)state;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        static uint8_t block[TRAIL_BLOCK_MAX];
        uint8_t mac[DIGEST_SIZE];
        size_t size = build(block, 2, NULL, mac);

        if (cases[i].byte == 0xff && cases[i].at == 39)
            memset(block + 32, 0xff, 8);
        block[cases[i].at] = cases[i].byte;
        reseal(block, size);
        if (open_exact(block, size) != ERR_MALFORMED)
            fail_msg("accepted %s", cases[i].why);
    }
}

static void zeroes_are_the_end_of_a_segment(void **state)
{
    static const uint8_t zeroes[4096];
    (void)state;

    assert_int_equal(open_exact(zeroes, sizeof zeroes), ERR_NOT_FOUND);
    assert_int_equal(open_exact(zeroes, 5), ERR_NOT_FOUND);
}

static void a_full_block_takes_no_more_and_stays_whole(void **state)
{
    static uint8_t block[TRAIL_BLOCK_MAX + 1];
    struct trail_writer writer;
    struct trail_header header;
    uint8_t mac[DIGEST_SIZE];
    enum err err;
    (void)state;

    block[TRAIL_BLOCK_MAX] = 0xee;
    trail_begin(&writer, block, sizeof block, producer, 1, 0);
    do
        err = trail_add(&writer, 1, message_type_of(MESSAGE_audit_event), &sample);
    while (err == ERR_OK);
    assert_int_equal(err, ERR_TOO_LARGE);
    size_t size = trail_end(&writer, 2, prev, NULL, 0, mac);
    assert_true(size <= TRAIL_BLOCK_MAX && size > TRAIL_BLOCK_MAX - 200);
    assert_int_equal(block[TRAIL_BLOCK_MAX], 0xee);
    assert_int_equal(trail_open(block, size, &header), ERR_OK);
    assert_int_equal(header.count, writer.header.count);

    trail_begin(&writer, block, TRAIL_HEADER_SIZE + 3, producer, 1, 0);
    assert_int_equal(trail_add(&writer, 1, message_type_of(MESSAGE_audit_event), &sample), ERR_TOO_LARGE);
}

static void a_block_without_records_is_none(void **state)
{
    uint8_t block[512], mac[DIGEST_SIZE];
    struct trail_writer writer;
    struct audit_event broken = sample;
    (void)state;

    trail_begin(&writer, block, sizeof block, producer, 1, 0);
    memset(broken.event, 'x', sizeof broken.event);
    assert_int_equal(trail_add(&writer, 1, message_type_of(MESSAGE_audit_event), &broken), ERR_BUG);
    assert_int_equal(trail_end(&writer, 1, prev, NULL, 0, mac), 0);
}

static void what_was_added_is_read_in_order(void **state)
{
    static uint8_t block[TRAIL_BLOCK_MAX];
    uint8_t mac[DIGEST_SIZE];
    size_t size = build(block, 3, NULL, mac);
    struct trail_header header;
    struct trail_record record;
    struct audit_event event;
    size_t cursor = 0;
    uint32_t index = 0;
    const char *field;
    (void)state;

    assert_int_equal(trail_open(block, TRAIL_BLOCK_MAX, &header), ERR_OK);    /* more may follow it */
    assert_int_equal(header.size, size);
    assert_int_equal(header.count, 3);
    assert_memory_equal(header.producer, producer, UUID_SIZE);
    assert_int_equal(header.epoch, 42);
    assert_int_equal(header.time_us, 77);
    assert_int_equal(header.version, MESSAGES_VERSION);
    assert_int_equal(header.flags, 0);
    assert_memory_equal(header.prev, prev, DIGEST_SIZE);
    for (uint32_t i = 0; i < 3; i++) {
        assert_true(trail_next(block, &header, &cursor, &index, &record));
        assert_int_equal(record.seq, 1000 + i);
        assert_int_equal(record.time_us, 70 + i);
        assert_int_equal(record.code, MESSAGE_audit_event);
        assert_int_equal(message_decode(record.type, header.version, record.body, record.body_size, &event, &field), ERR_OK);
        assert_string_equal(event.request_id, sample.request_id);
    }
    assert_false(trail_next(block, &header, &cursor, &index, &record));
}

static void a_record_of_a_newer_release_is_passed_over_not_refused(void **state)
{
    static uint8_t block[TRAIL_BLOCK_MAX];
    uint8_t mac[DIGEST_SIZE];
    size_t size = build(block, 2, NULL, mac), cursor = 0;
    struct trail_header header;
    struct trail_record record;
    uint32_t index = 0;
    (void)state;

    put_le16(block + TRAIL_HEADER_SIZE + 4, 0x7fff);
    reseal(block, size);
    assert_int_equal(trail_open(block, size, &header), ERR_OK);
    assert_true(trail_next(block, &header, &cursor, &index, &record));
    assert_null(record.type);
    assert_int_equal(record.code, 0x7fff);
    assert_true(trail_next(block, &header, &cursor, &index, &record));
    assert_non_null(record.type);
}

static void a_chained_block_proves_what_came_before(void **state)
{
    static uint8_t block[TRAIL_BLOCK_MAX];
    static const uint8_t zero[DIGEST_SIZE];
    uint8_t mac[DIGEST_SIZE], expected[DIGEST_SIZE];
    struct trail_header header;
    size_t size = build(block, 2, key, mac);
    (void)state;

    assert_int_equal(trail_open(block, size, &header), ERR_OK);
    assert_int_equal(header.flags, TRAIL_CHAINED);
    digest_hmac(key, sizeof key, block, 88, block + TRAIL_HEADER_SIZE, size - TRAIL_HEADER_SIZE, expected);
    assert_memory_equal(header.mac, expected, DIGEST_SIZE);
    assert_memory_equal(mac, expected, DIGEST_SIZE);
    size = build(block, 2, NULL, mac);
    assert_memory_equal(mac, zero, DIGEST_SIZE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_truncation_is_malformed),
        cmocka_unit_test(every_flipped_bit_is_found),
        cmocka_unit_test(a_well_sealed_lie_is_malformed),
        cmocka_unit_test(zeroes_are_the_end_of_a_segment),
        cmocka_unit_test(a_full_block_takes_no_more_and_stays_whole),
        cmocka_unit_test(a_block_without_records_is_none),
        cmocka_unit_test(what_was_added_is_read_in_order),
        cmocka_unit_test(a_record_of_a_newer_release_is_passed_over_not_refused),
        cmocka_unit_test(a_chained_block_proves_what_came_before),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
