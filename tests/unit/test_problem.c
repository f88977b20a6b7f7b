/* test_problem.c - refusals are valid JSON that tells its caller the status and the code, and no more. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "services/edge/problem.h"

static char text[4096];

static json_t *parse(const struct writer *writer)
{
    json_t *json;

    assert_false(writer->is_full);
    json = json_loadb(writer->bytes, writer->size, JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(json);
    return json;
}

static void a_text_that_does_not_fit_marks_the_writer_full(void **state)
{
    struct writer writer = writer_on(text, 20);
    (void)state;

    problem_write(&writer, ERR_DENIED, 403, NULL, "r");
    assert_true(writer.is_full);
    assert_true(writer.size <= 20);
}

static void every_error_has_a_problem_document(void **state)
{
    (void)state;

    for (unsigned err = 1; err < ERR_COUNT; err++) {
        struct writer writer = writer_on(text, sizeof text);
        json_t *json;

        problem_write(&writer, (enum err)err, err_http_status((enum err)err), NULL, "id-1");
        json = parse(&writer);
        assert_int_equal(json_integer_value(json_object_get(json, "status")), err_http_status((enum err)err));
        assert_string_equal(json_string_value(json_object_get(json, "code")), err_code((enum err)err));
        assert_string_equal(json_string_value(json_object_get(json, "requestId")), "id-1");
        assert_string_equal(json_string_value(json_object_get(json, "title")), problem_phrase(err_http_status((enum err)err)));
        assert_true(json_string_length(json_object_get(json, "detail")) > 0);
        json_decref(json);
    }
}

static void hostile_texts_stay_within_their_strings(void **state)
{
    struct writer writer = writer_on(text, sizeof text);
    json_t *json;
    (void)state;

    problem_write(&writer, ERR_DENIED, 403, "a\"b\\c\r\nd\x01\x7f", "\"},{");
    json = parse(&writer);
    assert_string_equal(json_string_value(json_object_get(json, "requestId")), "\"},{");
    assert_int_equal(json_object_size(json), 6);
    json_decref(json);
}

static void an_mcp_client_gets_a_json_rpc_error_of_the_free_range(void **state)
{
    static const int statuses[] = { 429, 502, 503, 504 };
    (void)state;

    for (size_t i = 0; i < sizeof statuses / sizeof statuses[0]; i++) {
        struct writer writer = writer_on(text, sizeof text);
        json_t *json, *error;
        long long code;

        problem_write_rpc(&writer, ERR_UNAVAILABLE, statuses[i], "later", "id-2");
        json = parse(&writer);
        error = json_object_get(json, "error");
        code = json_integer_value(json_object_get(error, "code"));
        assert_true(code <= -32000 && code >= -32019);
        assert_string_equal(json_string_value(json_object_get(json, "jsonrpc")), "2.0");
        assert_true(json_is_null(json_object_get(json, "id")));
        assert_int_equal(json_integer_value(json_object_get(json_object_get(error, "data"), "status")), statuses[i]);
        json_decref(json);
    }
}

static void numbers_are_written_whole(void **state)
{
    struct writer writer = writer_on(text, sizeof text);
    (void)state;

    writer_u64(&writer, 0);
    writer_literal(&writer, " ");
    writer_u64(&writer, UINT64_MAX);
    assert_int_equal(writer.size, 22);
    assert_memory_equal(text, "0 18446744073709551615", 22);
}

static void a_member_that_is_added_stands_in_the_problem(void **state)
{
    (void)state;

    for (int is_rpc = 0; is_rpc < 2; is_rpc++) {
        struct writer writer = writer_on(text, sizeof text);
        json_t *json;
        const json_t *problem;

        (is_rpc ? problem_write_rpc : problem_write)(&writer, ERR_RATE_LIMITED, 429, NULL, "r");
        problem_extend(&writer, is_rpc, "policy", "tenant");
        json = parse(&writer);
        problem = is_rpc ? json_object_get(json_object_get(json, "error"), "data") : json;
        assert_string_equal(json_string_value(json_object_get(problem, "policy")), "tenant");
        assert_string_equal(json_string_value(json_object_get(problem, "requestId")), "r");
        json_decref(json);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_text_that_does_not_fit_marks_the_writer_full),
        cmocka_unit_test(every_error_has_a_problem_document),
        cmocka_unit_test(hostile_texts_stay_within_their_strings),
        cmocka_unit_test(an_mcp_client_gets_a_json_rpc_error_of_the_free_range),
        cmocka_unit_test(numbers_are_written_whole),
        cmocka_unit_test(a_member_that_is_added_stands_in_the_problem),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
