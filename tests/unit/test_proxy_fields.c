/* test_proxy_fields.c - what passes the proxy, and what must not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "services/edge/proxy_fields.h"

static bool passes(const char *name, const char *connection)
{
    return proxy_passes_request(name, strlen(name), connection);
}

static void credentials_identity_and_framing_never_reach_the_upstream(void **state)
{
    static const char *const names[] = {
        "Authorization", "authorization", "X-API-Key", "x_api_key", "Cookie", "Proxy-Authorization", "X-Mcpgw-User", "x-mcpgw-user",
        "X_MCPGW_User", "X-Mcpgw_Scopes", "X-Mcpgw-Anything", "X-Forwarded-For", "x_forwarded_for", "X-Original-URI", "Forwarded",
        "X-Real-IP", "Connection", "Keep-Alive", "TE", "Trailer", "Transfer-Encoding", "Upgrade", "Content-Length", "Content_Length",
        "Host", "Expect", "Origin", "X-HTTP-Method-Override", "X-Request-Id", "Proxy-Connection", "Access-Control-Request-Method",
    };
    (void)state;

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (passes(names[i], NULL))
            fail_msg("passes: %s", names[i]);
    }
}

static void fields_that_connection_names_are_hop_by_hop(void **state)
{
    (void)state;

    assert_false(passes("X-Foo", "close, x-foo"));
    assert_true(passes("X-Foo", "x-food, foo"));
}

static void all_other_fields_reach_the_upstream(void **state)
{
    static const char *const names[] = {
        "Accept", "Content-Type", "Accept-Encoding", "User-Agent", "Mcp-Session-Id", "MCP-Protocol-Version", "Last-Event-ID",
        "Mcp-Param-X", "traceparent", "X-Custom", "Content-Encoding",
    };
    static char longest[300];
    (void)state;

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        assert_true(passes(names[i], "keep-alive"));
    memset(longest, 'x', sizeof longest - 1);
    assert_true(passes(longest, NULL));
}

static void answers_keep_their_fields_but_not_our_names(void **state)
{
    static const char *const kept[] = { "Content-Type", "Mcp-Session-Id", "WWW-Authenticate", "Retry-After", "Content-Encoding", "Set-Cookie", "Allow" };
    static const char *const dropped[] = { "X-Mcpgw-User", "Connection", "Transfer-Encoding", "Content-Length", "X-Request-Id", "Keep-Alive" };
    (void)state;

    for (size_t i = 0; i < sizeof kept / sizeof kept[0]; i++)
        assert_true(proxy_passes_response(kept[i], strlen(kept[i]), true));
    for (size_t i = 0; i < sizeof dropped / sizeof dropped[0]; i++)
        assert_false(proxy_passes_response(dropped[i], strlen(dropped[i]), false));
    assert_false(proxy_passes_response("Access-Control-Allow-Origin", 27, true));
    assert_true(proxy_passes_response("Access-Control-Allow-Origin", 27, false));
}

static void what_an_answer_names_in_connection_is_dropped(void **state)
{
    static const struct { const char *connection, *left; } cases[] = {
        { "", "A: 1\r\nX-Hop: 2\r\nB: x-hop\r\n" }, { "close,", "A: 1\r\nX-Hop: 2\r\nB: x-hop\r\n" },
        { "close,x-hop,", "A: 1\r\nB: x-hop\r\n" }, { "b, X-HOP,a,", "" }, { "X-Ho,", "A: 1\r\nX-Hop: 2\r\nB: x-hop\r\n" },
    };
    (void)state;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char lines[] = "A: 1\r\nX-Hop: 2\r\nB: x-hop\r\n";
        const size_t left = proxy_drop_named(lines, sizeof lines - 1, cases[i].connection);

        lines[left] = '\0';
        assert_string_equal(lines, cases[i].left);
    }
    assert_int_equal(proxy_drop_named(NULL, 0, "a"), 0);
}

static void web_origins_are_matched_whole(void **state)
{
    static const char allowed[] = "http://localhost:*, https://a.example";
    (void)state;

    assert_true(proxy_origin_is_allowed(allowed, "", "http://localhost:6274"));
    assert_true(proxy_origin_is_allowed(allowed, "", "http://localhost"));
    assert_true(proxy_origin_is_allowed(allowed, "", "https://A.example"));
    assert_false(proxy_origin_is_allowed(allowed, "", "http://localhost.evil.example"));
    assert_false(proxy_origin_is_allowed(allowed, "", "http://localhost:80x"));
    assert_false(proxy_origin_is_allowed(allowed, "", "http://localhost:"));
    assert_false(proxy_origin_is_allowed(allowed, "", "https://a.example.org"));
    assert_false(proxy_origin_is_allowed(allowed, "", "null"));
    assert_false(proxy_origin_is_allowed("", "", "https://a.example"));
    assert_true(proxy_origin_is_allowed("", "https://gw.example/base", "https://gw.example"));
    assert_true(proxy_origin_is_allowed("*", "", "https://any.example"));
}

static void locations_of_the_upstream_become_ours(void **state)
{
    static const struct { const char *url, *location, *mapped; } cases[] = {
        { "http://up:9/mcp", "http://up:9/mcp", "/mcp/s" },
        { "http://up:9/mcp", "http://up:9/mcp/", "/mcp/s/" },
        { "http://up:9/mcp/", "http://up:9/mcp", "/mcp/s" },
        { "http://up:9/mcp", "/mcp/a?b=c", "/mcp/s/a?b=c" },
        { "http://up:9/mcp", "/mcpx", "/mcpx" },
        { "http://up:9/mcp", "http://up:9/mcpx", "http://up:9/mcpx" },
        { "http://up:9/mcp", "//evil/mcp", "//evil/mcp" },
        { "http://up:9/mcp", "https://other/", "https://other/" },
        { "http://up:9", "http://up:9/x", "/mcp/s/x" },
    };
    char mapped[64];
    (void)state;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(proxy_map_location(cases[i].url, "s", cases[i].location, mapped, sizeof mapped), ERR_OK);
        assert_string_equal(mapped, cases[i].mapped);
    }
    assert_int_equal(proxy_map_location("http://up", "s", "http://elsewhere/0123456789012345678901234567890123456789012345", mapped, 40),
                     ERR_TOO_LARGE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(credentials_identity_and_framing_never_reach_the_upstream),
        cmocka_unit_test(fields_that_connection_names_are_hop_by_hop),
        cmocka_unit_test(all_other_fields_reach_the_upstream),
        cmocka_unit_test(answers_keep_their_fields_but_not_our_names),
        cmocka_unit_test(what_an_answer_names_in_connection_is_dropped),
        cmocka_unit_test(web_origins_are_matched_whole),
        cmocka_unit_test(locations_of_the_upstream_become_ours),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
