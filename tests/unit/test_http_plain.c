/* Heads that the holding thread may read, and everything that it must leave to civetweb. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "services/edge/http_plain.h"
#include "tests/unit/http_head.h"

#define LINE  "GET /auth/check HTTP/1.1\r\n"
#define HOST  "Host: gw\r\n"
#define SIZED(text) { text, sizeof text - 1 }

static void what_leaves_room_for_another_reading_is_left_alone(void **state)
{
    static const struct { const char *text; size_t size; } rows[] = {
        SIZED(""), SIZED("\r\n\r\n"), SIZED(LINE "\r\n"), SIZED(LINE HOST), SIZED(LINE HOST "\r"), SIZED(LINE HOST "\r\n" "x"),
        SIZED("\r\n" LINE HOST "\r\n"), SIZED(" " LINE HOST "\r\n"),
        SIZED("GET  /auth/check HTTP/1.1\r\n" HOST "\r\n"), SIZED("GET /auth/check  HTTP/1.1\r\n" HOST "\r\n"),
        SIZED("get /auth/check HTTP/1.1\r\n" HOST "\r\n"), SIZED("FOO /auth/check HTTP/1.1\r\n" HOST "\r\n"),
        SIZED("CONNECT /auth/check HTTP/1.1\r\n" HOST "\r\n"), SIZED("TRACE /auth/check HTTP/1.1\r\n" HOST "\r\n"),
        SIZED("GET\t/auth/check HTTP/1.1\r\n" HOST "\r\n"), SIZED("GET /auth/check HTTP/1.1 \r\n" HOST "\r\n"),
        SIZED("GET /auth/check HTTP/1.0\r\n" HOST "\r\n"), SIZED("GET /auth/check HTTP/2.0\r\n" HOST "\r\n"),
        SIZED("GET /auth/check\r\n" HOST "\r\n"), SIZED("GET /auth/check HTTP/1.1\n" HOST "\r\n"),
        SIZED("GET http://gw/auth/check HTTP/1.1\r\n" HOST "\r\n"), SIZED("OPTIONS * HTTP/1.1\r\n" HOST "\r\n"),
        SIZED("GET /auth/\x80 HTTP/1.1\r\n" HOST "\r\n"), SIZED("GET /a\0b HTTP/1.1\r\n" HOST "\r\n"),
        SIZED(LINE "Host : gw\r\n\r\n"), SIZED(LINE "Host:gw\r\n\r\n"), SIZED(LINE "Host:  gw\r\n\r\n"), SIZED(LINE "Host:\tgw\r\n\r\n"),
        SIZED(LINE "Host: gw \r\n\r\n"), SIZED(LINE "Host: \r\n\r\n"), SIZED(LINE "Host:\r\n\r\n"), SIZED(LINE ": gw\r\n\r\n"),
        SIZED(LINE "Host\r\n\r\n"), SIZED(LINE "Host: gw\n\r\n\r\n"), SIZED(LINE "Host: g\tw\r\n\r\n"), SIZED(LINE "Host: g\x7fw\r\n\r\n"),
        SIZED(LINE "Host: gw\r\n folded: x\r\n\r\n"), SIZED(LINE "Host: gw\rx: y\r\n\r\n"), SIZED(LINE "Host: g\xc3\xa4\r\n\r\n"),
        SIZED(LINE HOST "\r\n" LINE HOST "\r\n"), SIZED(LINE "Ho\0st: gw\r\n\r\n"), SIZED(LINE "Host: g\0w\r\n\r\n"),
    };
    (void)state;

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char bytes[512];
        struct http_plain plain;

        memcpy(bytes, rows[i].text, rows[i].size);
        if (http_plain_read(bytes, rows[i].size, &plain))
            fail_msg("row %zu was read: %s", i, rows[i].text);
    }
}

static void more_fields_or_bytes_than_there_is_room_for_are_left_alone(void **state)
{
    static char bytes[HTTP_PLAIN_MAX + 64];
    struct http_plain plain;
    size_t size;
    (void)state;

    for (unsigned count = HTTP_FIELDS_MAX; count <= HTTP_FIELDS_MAX + 1; count++) {
        size = sizeof LINE - 1;
        memcpy(bytes, LINE, size);
        for (unsigned i = 0; i < count; i++, size += 6)
            memcpy(bytes + size, "a: b\r\n", 6);
        memcpy(bytes + size, "\r\n", 2);
        assert_int_equal(http_plain_read(bytes, size + 2, &plain), count == HTTP_FIELDS_MAX);
    }
    memset(bytes, 'v', sizeof bytes);
    memcpy(bytes, LINE "a: ", sizeof LINE + 2);
    memcpy(bytes + HTTP_PLAIN_MAX - 3, "\r\n\r\n", 4);
    assert_false(http_plain_read(bytes, HTTP_PLAIN_MAX + 1, &plain));
}

static void a_plain_head_reads_as_civetweb_leaves_it(void **state)
{
    static const char *const heads[] = {
        LINE HOST "\r\n",
        "HEAD /auth/check?scope=read HTTP/1.1\r\n" HOST "X-Api-Key: mcp_x\r\nUser-Agent: a b  c\r\n\r\n",
        "GET /auth/check?a=b?c HTTP/1.1\r\n" HOST "Accept: */*\r\n\r\n",
    };
    (void)state;

    for (size_t i = 0; i < sizeof heads / sizeof heads[0]; i++) {
        const size_t size = strlen(heads[i]);
        char ours[512], theirs[512];
        struct http_raw_field fields[HEAD_FIELDS];
        struct http_plain plain;
        struct http_head head;
        struct http_raw raw = { 0 };
        const char *reason;

        memcpy(ours, heads[i], size + 1);
        memcpy(theirs, heads[i], size + 1);
        assert_true(http_plain_read(ours, size, &plain));
        assert_true(head_parse(theirs, size, fields, &raw));
        assert_memory_equal(ours, theirs, size);
        assert_int_equal(plain.raw.count, raw.count);
        assert_string_equal(plain.raw.target, raw.target);
        assert_int_equal(plain.raw.query == NULL, raw.query == NULL);
        assert_int_equal(plain.raw.version - ours, raw.version - theirs);
        assert_int_equal(http_strict_check(&plain.raw, &head, &reason), ERR_OK);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_leaves_room_for_another_reading_is_left_alone),
        cmocka_unit_test(more_fields_or_bytes_than_there_is_room_for_are_left_alone),
        cmocka_unit_test(a_plain_head_reads_as_civetweb_leaves_it),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
