/* test_http_strict.c - request heads that proxies read in different ways are refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "services/edge/http_strict.h"
#include "tests/unit/http_head.h"

static char buffer[70000];
static struct http_raw_field fields[HEAD_FIELDS];
static const char *reason;

/* civetweb's own refusal counts as ERR_MALFORMED: its client sees the same. */
static enum err check(const char *text, struct http_head *ret_head)
{
    struct http_raw raw;

    snprintf(buffer, sizeof buffer, "%s", text);
    reason = "civetweb";
    if (!head_parse(buffer, strlen(text), fields, &raw))
        return ERR_MALFORMED;
    return http_strict_check(&raw, ret_head, &reason);
}

static void every_desynchronising_head_is_malformed(void **state)
{
    static const char *const heads[] = {
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nContent-Length: 40\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0x10\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0abc\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5, 5\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: \r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3 \r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999999999999\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: identity, chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked \r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: \r\n\r\n",
        "POST / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length : 3\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length  : 3\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nX: a\r\n b\r\nContent-Length: 38\r\n\r\n",
        "POST / HTTP/1.1\r\n Host: x\r\nContent-Length: 38\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\n\x80y: 1\r\nContent-Length: 38\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\na(b: 1\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\n: 1\r\n\r\n",
        "POST / HTTP/1.1\nHost: x\n\n",
        "POST / HTTP/1.1\nHost: x\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\nX: y\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\rX: y\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nX: y\r\n\rZ: 1\r\n\r\n",
        "POST / HTTP/1.1\r\nX: y\r\n\r\n",
        "POST / HTTP/1.1\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x/y\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: \r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a b\r\n\r\n",
        "POST  / HTTP/1.1\r\nHost: x\r\n\r\n",
        "POST /  HTTP/1.1\r\nHost: x\r\n\r\n",
        "POST /?a  HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\n\r\n",
    };
    struct http_head head;
    (void)state;

    for (size_t i = 0; i < sizeof heads / sizeof heads[0]; i++) {
        if (check(heads[i], &head) != ERR_MALFORMED)
            fail_msg("accepted: %s", heads[i]);
    }
}

static void too_many_fields_and_too_long_ones_are_too_large(void **state)
{
    static char text[70000];
    struct http_head head;
    size_t size;
    (void)state;

    for (unsigned count = 62; count <= 70; count++) {
        size = (size_t)sprintf(text, "GET / HTTP/1.1\r\nHost: x\r\n");
        for (unsigned i = 0; i < count; i++)
            size += (size_t)sprintf(text + size, "X%u: 1\r\n", i);
        strcpy(text + size, "\r\n");
        assert_int_equal(check(text, &head), count == 62 ? ERR_OK : ERR_HEADERS_TOO_LARGE);
    }
    sprintf(text, "GET / HTTP/1.1\r\nHost: x\r\nX: %0*d\r\n\r\n", (int)HTTP_LINE_MAX - 10, 0);
    assert_int_equal(check(text, &head), ERR_OK);
    sprintf(text, "GET / HTTP/1.1\r\nHost: x\r\nX: %0*d\r\n\r\n", (int)HTTP_LINE_MAX, 0);
    assert_int_equal(check(text, &head), ERR_HEADERS_TOO_LARGE);
    sprintf(text, "GET / HTTP/1.1\r\nHost: x\r\nX: %0*d\r\nY: %0*d\r\n\r\n", 17000, 0, 17000, 0);
    assert_int_equal(check(text, &head), ERR_HEADERS_TOO_LARGE);
}

static void a_sound_head_tells_its_framing(void **state)
{
    struct http_head head;
    (void)state;

    assert_int_equal(check("GET /a?b=c HTTP/1.1\r\nHost: x:80\r\nX-Empty:\r\nAccept:*/*\r\n\r\n", &head), ERR_OK);
    assert_int_equal(head.count, 3);
    assert_false(head.has_body);
    assert_false(head.wants_close);
    assert_int_equal(check("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 123\r\n\r\n", &head), ERR_OK);
    assert_true(head.has_body);
    assert_int_equal(head.content_length, 123);
    assert_int_equal(check("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", &head), ERR_OK);
    assert_false(head.has_body);
    assert_int_equal(check("POST / HTTP/1.1\r\nhost: [::1]:8\r\ntransfer-encoding: CHUNKED\r\n\r\n", &head), ERR_OK);
    assert_true(head.is_chunked && head.has_body);
}

static void connections_end_as_their_client_asks(void **state)
{
    static const struct { const char *text; bool closes; } cases[] = {
        { "GET / HTTP/1.1\r\nHost: x\r\n\r\n", false },
        { "GET / HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\n\r\n", false },
        { "GET / HTTP/1.1\r\nHost: x\r\nConnection: foo, Keep-Alive\r\n\r\n", false },
        { "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", true },
        { "GET / HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, close\r\n\r\n", true },
        { "GET / HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\nConnection: close\r\n\r\n", true },
        { "GET / HTTP/1.1\r\nHost: x\r\nConnection: foo\r\n\r\n", true },
        { "GET / HTTP/1.0\r\nHost: x\r\n\r\n", true },
        { "GET / HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\n\r\n", false },
    };
    struct http_head head;
    (void)state;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(check(cases[i].text, &head), ERR_OK);
        assert_int_equal(head.wants_close, cases[i].closes);
    }
}

static void only_one_expectation_is_known(void **state)
{
    struct http_head head;
    (void)state;

    assert_int_equal(check("POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-Continue\r\nContent-Length: 1\r\n\r\n", &head), ERR_OK);
    assert_true(head.wants_continue && !head.has_other_expectation);
    assert_int_equal(check("POST / HTTP/1.1\r\nHost: x\r\nExpect: more\r\nContent-Length: 1\r\n\r\n", &head), ERR_OK);
    assert_true(!head.wants_continue && head.has_other_expectation);
    assert_int_equal(check("POST / HTTP/1.0\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n", &head), ERR_OK);
    assert_false(head.wants_continue);
}

static void known_fields_are_found_in_any_case_and_trimmed(void **state)
{
    struct http_head head;
    const struct http_field *field;
    (void)state;

    assert_int_equal(check("GET / HTTP/1.1\r\nHOST: x\r\nX-API-key:  abc  \r\nx-Api-Key: d\r\n\r\n", &head), ERR_OK);
    field = http_head_find(&head, HTTP_X_API_KEY);
    assert_non_null(field);
    assert_int_equal(head.seen[HTTP_X_API_KEY], 2);
    assert_int_equal(field->value_length, 3);
    assert_memory_equal(field->value, "abc", 3);
    assert_null(http_head_find(&head, HTTP_AUTHORIZATION));
}

static void tokens_and_lists(void **state)
{
    (void)state;

    assert_true(http_is_token("Mcp-Session_Id!", 15));
    assert_false(http_is_token("", 0));
    assert_false(http_is_token("a b", 3));
    assert_false(http_is_token("a\x80", 2));
    assert_true(http_list_has("a, CLOSE ,b", "close"));
    assert_false(http_list_has("closed, enclose", "close"));
    assert_false(http_list_has("", "close"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_desynchronising_head_is_malformed),
        cmocka_unit_test(too_many_fields_and_too_long_ones_are_too_large),
        cmocka_unit_test(a_sound_head_tells_its_framing),
        cmocka_unit_test(connections_end_as_their_client_asks),
        cmocka_unit_test(only_one_expectation_is_known),
        cmocka_unit_test(known_fields_are_found_in_any_case_and_trimmed),
        cmocka_unit_test(tokens_and_lists),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
