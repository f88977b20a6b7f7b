/* test_routes.c - each scope opens its routes and no other; unknown paths and methods are told apart. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "services/edge/routes.h"

static const struct route *find(const char *method, const char *path)
{
    char allow[ROUTES_ALLOW_SIZE] = "";
    struct route_match match = { 0 };

    return routes_find(method, path, &match, allow) == ERR_OK ? match.route : NULL;
}

static void unknown_paths_are_not_found(void **state)
{
    static const char *const paths[] = {
        "/", "/auth", "/auth/", "/auth/checks", "/AUTH/check", "/api/v1", "/api/v1/key", "/api/v1/keys/", "/api/v1/keys//revoke",
        "/api/v1/keys/a/b", "/api/v1/keys/a/revoke/", "/mcp", "/mcp/", "/mcps/a", "/metrics/", "/metric", "/admin", "/healthz",
        "/api/v1/audit/x", "/.well-known", "/.well-known/oauth-authorization-server", "/.well-known/oauth-protected-resource/",
        "/.well-known/oauth-protected-resource/mcp", "/.well-known/oauth-protected-resource/a/mcp",
    };
    char allow[ROUTES_ALLOW_SIZE];
    struct route_match match;
    (void)state;

    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        if (routes_find("GET", paths[i], &match, allow) != ERR_NOT_FOUND)
            fail_msg("found: %s", paths[i]);
    }
}

static void a_wrong_method_is_told_what_is_allowed(void **state)
{
    char allow[ROUTES_ALLOW_SIZE] = "";
    struct route_match match;
    (void)state;

    assert_int_equal(routes_find("PUT", "/api/v1/keys", &match, allow), ERR_METHOD);
    assert_string_equal(allow, "POST, GET");
    assert_int_equal(routes_find("GET", "/api/v1/keys/a/revoke", &match, allow), ERR_METHOD);
    assert_string_equal(allow, "POST");
    assert_int_equal(routes_find("PUT", "/mcp/a/b", &match, allow), ERR_METHOD);
    assert_string_equal(allow, "OPTIONS, POST, GET, HEAD, DELETE");
    assert_int_equal(routes_find("get", "/metrics", &match, allow), ERR_METHOD);
}

static void segments_and_what_follows_are_told(void **state)
{
    char allow[ROUTES_ALLOW_SIZE];
    struct route_match match;
    (void)state;

    assert_int_equal(routes_find("POST", "/mcp/demo/a/b", &match, allow), ERR_OK);
    assert_int_equal(match.object_length, 4);
    assert_memory_equal(match.object, "demo", 4);
    assert_string_equal(match.rest, "/a/b");
    assert_int_equal(routes_find("POST", "/mcp/demo", &match, allow), ERR_OK);
    assert_string_equal(match.rest, "");
    assert_int_equal(routes_find("POST", "/api/v1/keys/abc/revoke", &match, allow), ERR_OK);
    assert_int_equal(match.object_length, 3);
    assert_int_equal(match.route->operation, OPERATION_key_revoke);
    assert_int_equal(routes_find("PURGE", "/auth/check/x", &match, allow), ERR_OK);
    assert_string_equal(match.rest, "/x");
}

static void a_literal_segment_wins_over_a_name(void **state)
{
    (void)state;

    assert_int_equal(find("POST", "/api/v1/keys/verify")->operation, OPERATION_key_verify);
}

/* What a holder of exactly one scope may call, written out by hand. */
static const struct { enum scope scope; const char *opens; } table[] = {
    { SCOPE_READ, "POST /api/v1/keys/verify,GET /api/v1/keys,GET /api/v1/keys/{id},GET /api/v1/servers,"
                  "GET /api/v1/servers/{slug},GET /api/v1/tenants,GET /api/v1/tenants/{id},"
                  "GET /api/v1/users/{id},GET /api/v1/users/{id}/sessions,GET /api/v1/context,"
                   "GET /api/v1/audit,GET /api/v1/audit/events,GET /api/v1/usage,"
                   "POST /oauth/introspect," },
    { SCOPE_WRITE, "POST /api/v1/keys,POST /api/v1/keys/bulk,GET /api/v1/keys,POST /api/v1/keys/verify,GET /api/v1/keys/{id},PATCH /api/v1/keys/{id},"
                   "DELETE /api/v1/keys/{id},POST /api/v1/keys/{id}/revoke,POST /api/v1/keys/{id}/rotate,"
                   "POST /api/v1/keys/{id}/enable,"
                   "POST /api/v1/keys/{id}/disable,GET /api/v1/servers,GET /api/v1/servers/{slug},GET /api/v1/tenants,"
                   "GET /api/v1/tenants/{id},GET /api/v1/users/{id},GET /api/v1/users/{id}/sessions,POST /api/v1/users/{id}/sign-out,"
                   "DELETE /api/v1/sessions/{id},GET /api/v1/context,"
                   "POST /api/v1/keys/{id}/rotate,GET /api/v1/audit,GET /api/v1/audit/events,"
                   "GET /api/v1/usage,POST /oauth/introspect," },
    { SCOPE_ADMIN, "*" },
    { SCOPE_PROXY, "POST /mcp/{server}/...,GET /mcp/{server}/...,HEAD /mcp/{server}/...,DELETE /mcp/{server}/...," },
    { SCOPE_METRICS, "GET /metrics," },
    { SCOPE_HEALTH, "GET /api/v1/health," },
};

static void each_of_the_six_scopes_opens_its_routes_and_no_other(void **state)
{
    (void)state;

    assert_int_equal(sizeof table / sizeof table[0], SCOPE_COUNT);
    for (size_t s = 0; s < SCOPE_COUNT; s++) {
        for (size_t r = 0; r < routes_count; r++) {
            char line[128];
            bool is_listed, is_open;

            if (routes[r].scope == ROUTE_SCOPE_CALLER || routes[r].scope == ROUTE_SCOPE_OPEN)
                continue;
            snprintf(line, sizeof line, "%s %s,", routes[r].method, routes[r].pattern);
            is_listed = strcmp(table[s].opens, "*") == 0 || strstr(table[s].opens, line) != NULL;
            is_open = scopes_cover(UINT64_C(1) << table[s].scope, routes[r].scope);
            if (is_listed != is_open)
                fail_msg("%s: %s %s", scope_text(table[s].scope), is_open ? "opens" : "does not open", line);
        }
    }
}

static void only_decisions_preflights_and_documents_name_no_scope(void **state)
{
    (void)state;

    for (size_t r = 0; r < routes_count; r++) {
        if (routes[r].scope == ROUTE_SCOPE_CALLER)
            assert_int_equal(routes[r].handler, ROUTE_authorise);
        else if (routes[r].scope == ROUTE_SCOPE_OPEN)
            assert_true(routes[r].handler == ROUTE_preflight || routes[r].handler == ROUTE_metadata || routes[r].handler == ROUTE_metadata_of
                        || routes[r].handler == ROUTE_jwks || routes[r].handler == ROUTE_openapi || routes[r].handler == ROUTE_open_preflight);
        else
            assert_true(routes[r].scope != 0 && (routes[r].scope & ~SCOPE_ALL) == 0);
    }
}

static void every_changing_operation_needs_more_than_read(void **state)
{
    (void)state;

    for (size_t r = 0; r < routes_count; r++) {
        if (routes[r].handler != ROUTE_manage)
            continue;
        assert_true(routes[r].operation != OPERATION_none);
        if (operation_changes((uint64_t)routes[r].operation))
            assert_false(scopes_cover(SCOPE_BIT(READ), routes[r].scope));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unknown_paths_are_not_found),
        cmocka_unit_test(a_wrong_method_is_told_what_is_allowed),
        cmocka_unit_test(segments_and_what_follows_are_told),
        cmocka_unit_test(a_literal_segment_wins_over_a_name),
        cmocka_unit_test(each_of_the_six_scopes_opens_its_routes_and_no_other),
        cmocka_unit_test(only_decisions_preflights_and_documents_name_no_scope),
        cmocka_unit_test(every_changing_operation_needs_more_than_read),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
