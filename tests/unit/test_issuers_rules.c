/* test_issuers_rules.c - what an issuer's documents must say before they are believed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "services/keys/issuers_rules.h"

#define EC_KEY "{\"kty\":\"EC\",\"crv\":\"P-256\",\"kid\":\"a\",\"x\":\"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU\"," \
               "\"y\":\"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0\"}"    /* RFC 7515 A.3.1 */
#define PRIVATE_KEY "{\"kty\":\"EC\",\"crv\":\"P-256\",\"kid\":\"b\",\"x\":\"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU\"," \
                    "\"y\":\"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0\",\"d\":\"jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI\"}"

static struct issuer *issuer_of(const char *issuer, const char *discovery_url)
{
    static struct issuer made;

    memset(&made, 0, sizeof made);
    snprintf(made.issuer, sizeof made.issuer, "%s", issuer);
    snprintf(made.discovery_url, sizeof made.discovery_url, "%s", discovery_url);
    made.refresh_s = 3600;
    return &made;
}

static struct fetch_answer answer_of(int status, const char *body)
{
    return (struct fetch_answer){ .status = status, .body = body, .size = strlen(body), .type = "application/json" };
}

static void assert_no_discovery(int status, const char *body, const char *words)
{
    const struct fetch_answer answer = answer_of(status, body);
    char url[FETCH_URL_MAX + 1], why[300] = "";

    assert_int_equal(issuer_read_discovery(issuer_of("https://a.example/t", ""), &answer, false, url, why, sizeof why), ERR_UPSTREAM);
    if (strstr(why, words) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", why, words);
}

static void a_document_of_another_issuer_is_refused(void **state)
{
    static const char *const others[] = {
        "https://a.example/t/", "https://a.example/T", "https://a.example", "https://evil.example/t", "http://a.example/t",
    };
    char body[200];

    (void)state;
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        snprintf(body, sizeof body, "{\"issuer\":\"%s\",\"jwks_uri\":\"https://a.example/jwks\"}", others[i]);
        assert_no_discovery(200, body, others[i]);
    }
    assert_no_discovery(200, "{\"jwks_uri\":\"https://a.example/jwks\"}", "(none)");
    assert_no_discovery(200, "{\"issuer\":7,\"jwks_uri\":\"https://a.example/jwks\"}", "(none)");
}

static void a_key_url_that_must_not_be_asked_is_refused(void **state)
{
    static const char *const uris[] = { "\"http://a.example/jwks\"", "\"file:///etc/passwd\"", "\"https://u:p@a.example/\"", "\"\"", "null", "[]" };
    char body[200];

    (void)state;
    for (size_t i = 0; i < sizeof uris / sizeof uris[0]; i++) {
        snprintf(body, sizeof body, "{\"issuer\":\"https://a.example/t\",\"jwks_uri\":%s}", uris[i]);
        assert_no_discovery(200, body, "jwks_uri");
    }
}

static void what_is_no_document_is_refused(void **state)
{
    (void)state;
    assert_no_discovery(404, "{}", "404");
    assert_no_discovery(500, "{}", "500");
    assert_no_discovery(204, "", "204");
    assert_no_discovery(200, "", "not JSON");
    assert_no_discovery(200, "<html>", "not JSON");
    assert_no_discovery(200, "[]", "no JSON object");
    assert_no_discovery(200, "{\"issuer\":\"https://a.example/t\",\"issuer\":\"https://a.example/t\"}", "twice");
}

static void a_document_of_the_issuer_names_its_keys(void **state)
{
    const struct fetch_answer answer = answer_of(200, "{\"issuer\":\"https://a.example/t\",\"jwks_uri\":\"https://keys.example/j?x=1\"}");
    char url[FETCH_URL_MAX + 1], why[300];

    (void)state;
    assert_int_equal(issuer_read_discovery(issuer_of("https://a.example/t", ""), &answer, false, url, why, sizeof why), ERR_OK);
    assert_string_equal(url, "https://keys.example/j?x=1");
}

static void the_document_is_looked_for_in_both_standards_places(void **state)
{
    struct discovery_forms forms;

    (void)state;
    issuer_discovery_forms(issuer_of("https://a.example/t/x", "https://a.example/t/x/.well-known/openid-configuration"), &forms);
    assert_int_equal(forms.count, 3);
    assert_string_equal(forms.urls[0], "https://a.example/t/x/.well-known/openid-configuration");
    assert_string_equal(forms.urls[1], "https://a.example/.well-known/oauth-authorization-server/t/x");
    assert_string_equal(forms.urls[2], "https://a.example/.well-known/openid-configuration/t/x");
    issuer_discovery_forms(issuer_of("https://a.example/", "https://a.example/.well-known/openid-configuration"), &forms);
    assert_int_equal(forms.count, 2);
    assert_string_equal(forms.urls[1], "https://a.example/.well-known/oauth-authorization-server");
}

static void a_place_that_was_configured_is_the_only_one(void **state)
{
    struct discovery_forms forms;

    (void)state;
    issuer_discovery_forms(issuer_of("https://sts.example/7/", "https://login.example/7/.well-known/openid-configuration"), &forms);
    assert_int_equal(forms.count, 1);
    assert_string_equal(forms.urls[0], "https://login.example/7/.well-known/openid-configuration");
    issuer_discovery_forms(issuer_of("https://a.example", ""), &forms);
    assert_int_equal(forms.count, 0);
}

static void only_a_missing_document_is_looked_for_elsewhere(void **state)
{
    (void)state;
    assert_true(issuer_asks_next_form(404));
    assert_true(issuer_asks_next_form(401));
    assert_false(issuer_asks_next_form(429));
    assert_false(issuer_asks_next_form(503));
    assert_false(issuer_asks_next_form(200));
}

static void assert_no_keys(int status, const char *body, const char *words)
{
    const struct fetch_answer answer = answer_of(status, body);
    struct issuer_set set = { 0 };
    char why[300] = "";

    assert_int_equal(issuer_read_keys(&answer, &set, why, sizeof why), ERR_UPSTREAM);
    assert_null(set.text);
    if (strstr(why, words) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", why, words);
}

static void a_set_without_a_usable_key_is_none(void **state)
{
    (void)state;
    assert_no_keys(200, "{\"keys\":[]}", "no key");
    assert_no_keys(200, "{\"keys\":[" PRIVATE_KEY "]}", "no key");
    assert_no_keys(200, "{\"keys\":[{\"kty\":\"oct\",\"k\":\"c2VjcmV0\"}]}", "no key");
    assert_no_keys(200, "{\"keys\":[1,null,\"x\",{}]}", "no key");
    assert_no_keys(200, "{\"keys\":{}}", "");
    assert_no_keys(200, "{}", "");
    assert_no_keys(200, "<html>sign in</html>", "not JSON");
    assert_no_keys(503, "{\"keys\":[" EC_KEY "]}", "503");
}

/* JSON's numbers may be written shorter than they are kept. */
static void a_set_that_grows_beyond_its_limit_is_refused(void **state)
{
    const size_t count = JOSE_SET_MAX / 6;
    char *body = malloc(JOSE_SET_MAX + 400), *at = body;

    (void)state;
    at += sprintf(at, "{\"keys\":[" EC_KEY "],\"x\":[1e9");
    for (size_t i = 0; i < count; i++)
        at += sprintf(at, ",1e9");
    sprintf(at, "]}");
    assert_no_keys(200, body, "larger");
    free(body);
}

static void a_private_key_is_never_stored_not_even_in_half(void **state)
{
    const struct fetch_answer answer = answer_of(200, "{\"keys\":[" PRIVATE_KEY "," EC_KEY ",{\"kty\":\"oct\",\"kid\":\"c\",\"k\":\"c2VjcmV0\"}]}");
    struct issuer_set set = { 0 };
    char why[300];

    (void)state;
    assert_int_equal(issuer_read_keys(&answer, &set, why, sizeof why), ERR_OK);
    assert_int_equal(set.count, 1);
    assert_int_equal(set.skipped, 2);
    assert_null(strstr(set.text, "jpsQnnGQ"));
    assert_null(strstr(set.text, "\"kid\":\"b\""));
    assert_null(strstr(set.text, "c2VjcmV0"));
    assert_non_null(strstr(set.text, "\"kid\":\"a\""));
    issuer_set_wipe(&set);
    assert_null(set.text);
}

static void the_same_set_is_stored_as_the_same_text(void **state)
{
    const struct fetch_answer one = answer_of(200, "{\"keys\":[" EC_KEY "],\"x\":1}"), other = answer_of(200, "{ \"x\" : 1,\n\"keys\" : [ " EC_KEY " ] }");
    struct issuer_set first = { 0 }, second = { 0 };
    char why[300];

    (void)state;
    assert_int_equal(issuer_read_keys(&one, &first, why, sizeof why), ERR_OK);
    assert_int_equal(issuer_read_keys(&other, &second, why, sizeof why), ERR_OK);
    assert_string_equal(first.text, second.text);
    issuer_set_wipe(&first);
    issuer_set_wipe(&second);
}

static uint64_t fresh_s(bool has_max_age, uint64_t max_age_s)
{
    const struct fetch_answer answer = { .has_max_age = has_max_age, .max_age_s = max_age_s };

    return issuer_fresh_s(issuer_of("https://a.example", ""), &answer);
}

static void a_set_is_fresh_for_what_its_server_says_within_bounds(void **state)
{
    (void)state;
    assert_int_equal(fresh_s(false, 0), 3600);
    assert_int_equal(fresh_s(true, 0), 300);
    assert_int_equal(fresh_s(true, 1000), 1000);
    assert_int_equal(fresh_s(true, 31536000), 3600);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_document_of_another_issuer_is_refused),
        cmocka_unit_test(a_key_url_that_must_not_be_asked_is_refused),
        cmocka_unit_test(what_is_no_document_is_refused),
        cmocka_unit_test(a_document_of_the_issuer_names_its_keys),
        cmocka_unit_test(the_document_is_looked_for_in_both_standards_places),
        cmocka_unit_test(a_place_that_was_configured_is_the_only_one),
        cmocka_unit_test(only_a_missing_document_is_looked_for_elsewhere),
        cmocka_unit_test(a_set_without_a_usable_key_is_none),
        cmocka_unit_test(a_set_that_grows_beyond_its_limit_is_refused),
        cmocka_unit_test(a_private_key_is_never_stored_not_even_in_half),
        cmocka_unit_test(the_same_set_is_stored_as_the_same_text),
        cmocka_unit_test(a_set_is_fresh_for_what_its_server_says_within_bounds),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
