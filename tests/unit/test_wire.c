/* test_wire.c - what the soundness walk refuses, and that whatever it lets through msgpack-c reads in full. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <msgpack.h>

#include "common/encode.h"
#include "common/wire.h"

static bool is_sound(const char *hex)
{
    uint8_t bytes[512];
    size_t size = 0;

    assert_int_equal(hex_decode(hex, strlen(hex), bytes, sizeof bytes, &size), ERR_OK);
    uint8_t *exact = malloc(size + 1);
    memcpy(exact, bytes, size);
    bool result = wire_is_sound(exact, size);
    free(exact);
    return result;
}

static void sizes_the_sender_did_not_send_are_refused(void **state)
{
    static const char *const cases[] = {
        "", "dd0fffffff", "ddffffffff", "dc0002c0", "df00ffffff", "dfffffffff", "de000200", "92c0", "8100", "a261", "d90261", "da000261", "db0000000261",
        "dbffffffff", "c40201", "c5000201", "c60000000201", "c6ffffffff", "cc", "cd01", "ce010203", "cf01020304050607",
        "d9", "da00", "db000000", "c4", "c500", "c6000000", "dc", "dc00", "dd000000", "de00", "df000000",
    };
    (void)state;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        if (is_sound(cases[i]))
            fail_msg("sound: %s", cases[i]);
}

static void types_we_do_not_speak_are_refused(void **state)
{
    static const char *const cases[] = {
        "c1", "c70101ff", "c8000101ff", "c90000000101ff", "ca00000000", "cb0000000000000000", "d0ff", "d1ffff",
        "d2ffffffff", "d3ffffffffffffffff", "d401ff", "d501ffff", "d601ffffffff", "d7010000000000000000",
        "d80100000000000000000000000000000000", "e0", "ff",
    };
    (void)state;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        if (is_sound(cases[i]))
            fail_msg("sound: %s", cases[i]);
}

static void a_fourth_level_is_refused(void **state)
{
    (void)state;

    assert_true(is_sound("91919100"));
    assert_false(is_sound("9191919100"));
    assert_false(is_sound("91919190"));
    assert_true(is_sound("81009190"));
    assert_true(is_sound("9391910191810001c0"));
}

static void more_or_less_than_one_value_is_refused(void **state)
{
    (void)state;

    assert_false(is_sound("0101"));
    assert_false(is_sound("9000"));
    assert_false(is_sound("92c0"));
    assert_true(is_sound("90"));
}

static void every_form_we_speak_is_sound(void **state)
{
    static const char *const cases[] = {
        "00", "7f", "c0", "c2", "c3", "ccff", "cdffff", "ceffffffff", "cfffffffffffffffff", "a0", "a161", "d90161",
        "da000161", "db0000000161", "c400", "c401ff", "c50001ff", "c600000001ff", "90", "9201c3", "dc000101",
        "dd0000000101", "80", "810102", "de00010102", "df000000010102",
    };
    (void)state;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        if (!is_sound(cases[i]))
            fail_msg("not sound: %s", cases[i]);
}

/* A third of all strings of three bytes: what is sound must be read by msgpack-c to its last byte. */
static void whatever_is_sound_msgpack_c_reads_in_full(void **state)
{
    msgpack_zone zone;
    size_t sound = 0;
    (void)state;

    assert_true(msgpack_zone_init(&zone, 8192));
    for (uint32_t i = 0; i < 1u << 24; i += 3) {
        const uint8_t bytes[3] = { (uint8_t)(i >> 16), (uint8_t)(i >> 8), (uint8_t)i };
        msgpack_object object;

        if (!wire_is_sound(bytes, sizeof bytes))
            continue;
        sound++;
        msgpack_zone_clear(&zone);
        assert_int_equal(msgpack_unpack((const char *)bytes, sizeof bytes, NULL, &zone, &object), MSGPACK_UNPACK_SUCCESS);
    }
    msgpack_zone_destroy(&zone);
    assert_true(sound > 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_the_sender_did_not_send_are_refused),
        cmocka_unit_test(types_we_do_not_speak_are_refused),
        cmocka_unit_test(a_fourth_level_is_refused),
        cmocka_unit_test(more_or_less_than_one_value_is_refused),
        cmocka_unit_test(every_form_we_speak_is_sound),
        cmocka_unit_test(whatever_is_sound_msgpack_c_reads_in_full),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
