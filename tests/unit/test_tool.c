/* The tool that a JSON-RPC message calls: what upstreams might read differently is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "services/edge/tool.h"

static enum err find(const char *text, char tool[TOOL_NAME_SIZE])
{
    return tool_find((const uint8_t *)text, strlen(text), tool);
}

static void what_could_be_read_in_two_ways_is_malformed(void **state)
{
    static const char *const texts[] = {
        "", " ", "tools/call", "[]", "7", "null", "{", "{}x", "\xef\xbb\xbf{\"method\":\"ping\"}",
        "[{\"method\":\"ping\"}]",
        "{\"method\":\"ping\",\"method\":\"tools/call\",\"params\":{\"name\":\"a\"}}",
        "{\"method\":\"ping\",\"Method\":\"tools/call\",\"params\":{\"name\":\"a\"}}",
        "{\"method\":\"ping\",\"param\\u017f\":{}}",
        "{\"method\":[\"tools/call\"]}",
        "{\"method\":\"tools/call\"}",
        "{\"method\":\"tools/call\",\"params\":{}}",
        "{\"method\":\"tools/call\",\"params\":[\"a\"]}",
        "{\"method\":\"tools/call\",\"params\":{\"name\":\"\"}}",
        "{\"method\":\"tools/call\",\"params\":{\"name\":7}}",
        "{\"method\":\"tools/call\",\"params\":{\"name\":\"a\",\"name\":\"b\"}}",
        "{\"method\":\"tools/call\",\"params\":{\"name\":\"a\",\"Name\":\"b\"}}",
        "{\"method\":\"tools/call\",\"params\":{\"name\":\"a\\u0000\"}}",
        "{\"method\":\"tools/call\",\"params\":{\"name\":\"a\\n\"}}",
        "{\"method\":\"tools/call\",\"params\":{\"name\":\"\xc3\xa9\"}}",
        "{\"method\":\"tools/call\",\"params\":{\"name\":\"\xc3\"}}",
    };
    char tool[TOOL_NAME_SIZE];

    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        if (find(texts[i], tool) != ERR_MALFORMED)
            fail_msg("not refused: %s", texts[i]);
    }
}

static void a_name_longer_than_any_list_holds_is_malformed(void **state)
{
    char text[300], tool[TOOL_NAME_SIZE];

    (void)state;
    snprintf(text, sizeof text, "{\"method\":\"tools/call\",\"params\":{\"name\":\"%0129d\"}}", 1);
    assert_int_equal(find(text, tool), ERR_MALFORMED);
    snprintf(text, sizeof text, "{\"method\":\"tools/call\",\"params\":{\"name\":\"%0128d\"}}", 1);
    assert_int_equal(find(text, tool), ERR_OK);
}

static void other_messages_call_no_tool(void **state)
{
    static const char *const texts[] = {
        "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"initialize\",\"params\":{\"name\":\"x\"}}",
        "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/initialized\"}",
        "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}",
        "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/list\"}",
    };
    char tool[TOOL_NAME_SIZE];

    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        assert_int_equal(find(texts[i], tool), ERR_OK);
        assert_string_equal(tool, "");
    }
}

static void a_call_names_its_tool(void **state)
{
    char tool[TOOL_NAME_SIZE];

    (void)state;
    assert_int_equal(find("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"arguments\":{\"name\":\"x\"},"
                          "\"name\":\"read\\u005ffile\"}}", tool), ERR_OK);
    assert_string_equal(tool, "read_file");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_could_be_read_in_two_ways_is_malformed),
        cmocka_unit_test(a_name_longer_than_any_list_holds_is_malformed),
        cmocka_unit_test(other_messages_call_no_tool),
        cmocka_unit_test(a_call_names_its_tool),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
