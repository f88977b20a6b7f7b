/* test_credentials.c - which credential a request presents, and which requests present none that could be one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "common/apikey.h"
#include "services/edge/credentials.h"
#include "tests/unit/http_head.h"

static struct secret made;
static char key[SECRET_SIZE_MAX + 1];
static const char *reason;
static struct credential found;
static struct http_head head;

#define COOKIE "better-auth.session_token"

static int make_key(void **state)
{
    (void)state;

    apikey_make(APIKEY_PREFIX, &made);
    memcpy(key, made.bytes, made.size + 1);
    return 0;
}

static enum err find(const char *lines)
{
    static char bytes[32768];
    struct http_raw_field fields[HEAD_FIELDS];
    struct http_raw raw;
    int size = snprintf(bytes, sizeof bytes, "GET / HTTP/1.1\r\nHost: x\r\n%s\r\n", lines);

    assert_true(head_parse(bytes, (size_t)size, fields, &raw));
    assert_int_equal(http_strict_check(&raw, &head, &reason), ERR_OK);
    found = (struct credential){ 0 };
    return credentials_find(&head, COOKIE, &found, &reason);
}

static enum err find_with(const char *format)
{
    char lines[2048];
    size_t size = 0;

    for (const char *at = format; *at != '\0'; at++)
        size += (size_t)snprintf(lines + size, sizeof lines - size, *at == '@' ? "%s" : "%.1s", *at == '@' ? key : at);
    return find(lines);
}

static void no_credential_is_unverified(void **state)
{
    static const char *const lines[] = { "", "Authorization: Basic YTpi\r\n", "Authorization: Bearerx\r\n", "Cookie: a=b\r\n",
        "Authorization: DPoP a.b.c\r\n", "Cookie: x" COOKIE "=a\r\n", "Cookie: " COOKIE "\r\n",
    };
    (void)state;

    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        assert_int_equal(find(lines[i]), ERR_UNVERIFIED);
        assert_string_equal(reason, "no_credential");
    }
}

static void a_bearer_of_our_form_is_a_key_whatever_its_prefix(void **state)
{
    struct secret acme;
    char lines[1024];
    (void)state;

    apikey_make("acme_", &acme);
    snprintf(lines, sizeof lines, "Authorization: Bearer %s\r\n", secret_text(&acme));
    assert_int_equal(find(lines), ERR_OK);
    assert_int_equal(found.method, AUTH_API_KEY);
    acme.bytes[acme.size - 1] = acme.bytes[acme.size - 1] == 'a' ? 'b' : 'a';
    snprintf(lines, sizeof lines, "Authorization: Bearer %s\r\n", secret_text(&acme));
    assert_int_equal(find(lines), ERR_UNVERIFIED);
    assert_string_equal(reason, "checksum");
    assert_int_equal(find("Authorization: Bearer acme_token\r\n"), ERR_OK);
    assert_int_equal(found.method, AUTH_OAUTH);
}

static void an_empty_credential_is_unverified(void **state)
{
    static const char *const lines[] = { "Authorization: Bearer\r\n", "Authorization: Bearer  \r\n", "x-api-key:\r\n" };
    (void)state;

    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        assert_int_equal(find(lines[i]), ERR_UNVERIFIED);
        assert_string_equal(reason, "empty");
    }
}

static void what_cannot_be_a_token_does_not_leave_the_edge(void **state)
{
    static const char *const values[] = { "=", "a.b.c\"", "a.b=c", "a%2eb", "caf\xc3\xa9", "a;b", "<a>" };
    char lines[17000];
    (void)state;

    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        snprintf(lines, sizeof lines, "Authorization: Bearer %s\r\n", values[i]);
        assert_int_equal(find(lines), ERR_UNVERIFIED);
        assert_string_equal(reason, "token");
    }
    snprintf(lines, sizeof lines, "Authorization: Bearer %0*d\r\n", (int)TOKEN_LENGTH_MAX + 1, 0);
    assert_int_equal(find(lines), ERR_UNVERIFIED);
    snprintf(lines, sizeof lines, "Authorization: Bearer %0*d\r\n", (int)TOKEN_LENGTH_MAX, 0);
    assert_int_equal(find(lines), ERR_OK);
}

static void two_credentials_of_one_kind_are_malformed(void **state)
{
    (void)state;

    assert_int_equal(find_with("Authorization: Bearer @\r\nAuthorization: Bearer @\r\n"), ERR_MALFORMED);
    assert_int_equal(find_with("Authorization: Basic x\r\nAuthorization: Bearer @\r\n"), ERR_MALFORMED);
    assert_int_equal(find_with("x-api-key: @\r\nX-Api-Key: @\r\n"), ERR_MALFORMED);
    assert_int_equal(find_with("x-api-key: other-key-of-mine\r\nAuthorization: Bearer @\r\n"), ERR_MALFORMED);
    assert_int_equal(find_with("x-api-key:\r\nAuthorization: Bearer @\r\n"), ERR_MALFORMED);
    assert_int_equal(find("Authorization: Bearer a.b.c, Bearer d.e.f\r\n"), ERR_MALFORMED);
    assert_int_equal(find("Authorization: Bearer a.b.c d.e.f\r\n"), ERR_MALFORMED);
    assert_int_equal(find("Cookie: " COOKIE "=one; " COOKIE "=two\r\n"), ERR_MALFORMED);
    assert_int_equal(find("Cookie: " COOKIE "=one\r\nCookie: a=b; " COOKIE "=two\r\n"), ERR_MALFORMED);
    assert_string_equal(reason, "two_credentials");
}

static void what_cannot_be_a_key_does_not_leave_the_edge(void **state)
{
    (void)state;

    assert_int_equal(find("x-api-key: short\r\n"), ERR_UNVERIFIED);
    assert_string_equal(reason, "checksum");
    assert_int_equal(find("x-api-key: a key with blanks\r\n"), ERR_UNVERIFIED);
    assert_int_equal(find("x-api-key: k\xc3\xa9yk\xc3\xa9yk\xc3\xa9y\r\n"), ERR_UNVERIFIED);
    key[20] = key[20] == 'a' ? 'b' : 'a';
    assert_int_equal(find_with("x-api-key: @\r\n"), ERR_UNVERIFIED);
    assert_string_equal(reason, "checksum");
    memcpy(key, made.bytes, made.size + 1);
}

static void a_key_is_found_in_either_field_or_both(void **state)
{
    static const char *const lines[] = {
        "x-api-key: @\r\n", "X-API-KEY:   @  \r\n", "Authorization: Bearer @\r\n", "authorization: bearer   @\r\n",
        "x-api-key: @\r\nAuthorization: Bearer @\r\n", "x-api-key: @\r\nAuthorization: Basic YTpi\r\n",
    };
    (void)state;

    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        assert_int_equal(find_with(lines[i]), ERR_OK);
        assert_int_equal(found.length, made.size);
        assert_memory_equal(found.text, key, found.length);
    }
}

static void a_key_of_another_application_is_looked_up(void **state)
{
    (void)state;

    assert_int_equal(find("x-api-key: GhTRkLmNoPqRsTuVwXyZaBcDeFgHiJkLmNoPqRsTuVwXyZaBcDeFgHiJkLmNoPqR\r\n"), ERR_OK);
}

static struct verdict_request request_of(const char *lines)
{
    struct verdict_request request = { 0 };

    assert_int_equal(find_with(lines), ERR_OK);
    credentials_digest(&found, &request);
    return request;
}

static void a_token_wins_over_a_key_and_a_key_over_a_session(void **state)
{
    struct verdict_request request = request_of("Authorization: Bearer a.b.c\r\nx-api-key: @\r\nCookie: " COOKIE "=s.t\r\n");
    uint8_t digest[DIGEST_SIZE];
    (void)state;

    assert_int_equal(request.method, AUTH_OAUTH);
    apikey_digest(key, made.size, digest);
    assert_int_equal(request.beside_size, DIGEST_SIZE);
    assert_memory_equal(request.beside, digest, DIGEST_SIZE);
    assert_int_equal(request_of("Authorization: Bearer a.b.c\r\nx-api-key: no key\r\n").beside_size, 0);
    request = request_of("x-api-key: @\r\nCookie: " COOKIE "=s.t\r\n");
    assert_int_equal(request.method, AUTH_API_KEY);
    assert_int_equal(request.proof_size, 0);
    assert_memory_equal(request.digest, digest, DIGEST_SIZE);
    assert_int_equal(request_of("Authorization: Basic x\r\nCookie: " COOKIE "=s.t\r\n").method, AUTH_SESSION);
}

static void a_signature_written_in_another_way_keeps_the_digest_and_changes_the_proof(void **state)
{
    static const char *const wholes[] = { "opaque", "a.b", "a.b.c.d", "a.b.c.d.e", "session.t0ken==" };
    struct verdict_request one = request_of("Authorization: Bearer a.b.c\r\n");
    struct verdict_request other = request_of("Authorization: Bearer a.b.d\r\n");
    uint8_t digest[DIGEST_SIZE];
    (void)state;

    digest_sha256("a.b", 3, digest);
    assert_memory_equal(one.digest, digest, DIGEST_SIZE);
    assert_memory_equal(other.digest, digest, DIGEST_SIZE);
    digest_sha256("a.b.c", 5, digest);
    assert_memory_equal(one.proof, digest, DIGEST_SIZE);
    assert_memory_not_equal(other.proof, digest, DIGEST_SIZE);
    for (size_t i = 0; i < sizeof wholes / sizeof wholes[0]; i++) {
        char lines[128];

        snprintf(lines, sizeof lines, "Authorization: Bearer %s\r\n", wholes[i]);
        one = request_of(lines);
        digest_sha256(wholes[i], strlen(wholes[i]), digest);
        assert_memory_equal(one.digest, digest, DIGEST_SIZE);
        assert_memory_equal(one.proof, digest, DIGEST_SIZE);
    }
}

static void a_session_is_found_among_cookies_and_the_secure_one_wins(void **state)
{
    static const char *const lines[] = {
        "Cookie: " COOKIE "=tok.sig%3D\r\n", "Cookie: a=b; " COOKIE "=tok.sig%3D; c=d\r\n", "Cookie: a=b\r\nCookie: " COOKIE "=tok.sig%3D\r\n",
        "Cookie: " COOKIE "=tok.sig%3D; " COOKIE "=tok.sig%3D\r\n", "Cookie: " COOKIE "=stale; __Secure-" COOKIE "=tok.sig%3D\r\n",
        "Cookie: __Secure-" COOKIE "=tok.sig%3D; " COOKIE "=stale\r\n",
    };
    (void)state;

    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        assert_int_equal(find(lines[i]), ERR_OK);
        assert_int_equal(found.method, AUTH_SESSION);
        assert_int_equal(found.length, 10);
        assert_memory_equal(found.text, "tok.sig%3D", 10);
    }
    assert_int_equal(credentials_find(&head, "", &found, &reason), ERR_UNVERIFIED);
    assert_string_equal(reason, "no_credential");
    assert_int_equal(find("Cookie: " COOKIE "=\r\n"), ERR_UNVERIFIED);
    assert_string_equal(reason, "empty");
    assert_int_equal(find("Cookie: " COOKIE "=\"quoted\"\r\n"), ERR_UNVERIFIED);
    assert_string_equal(reason, "token");
}

static void a_cookie_counts_only_from_pages_that_may_use_it(void **state)
{
    static const struct { const char *lines; bool if_safe, if_unsafe; } cases[] = {
        { "Origin: https://evil.example\r\n", false, false },
        { "Origin: null\r\n", false, false },
        { "Origin: https://gw.example.evil\r\n", false, false },
        { "Origin: https://gw.example\r\nOrigin: https://gw.example\r\n", false, false },
        { "Sec-Fetch-Site: cross-site\r\n", false, false },
        { "Sec-Fetch-Site: same-site\r\n", false, false },
        { "", true, false },
        { "Sec-Fetch-Site: none\r\n", true, true },
        { "Sec-Fetch-Site: same-origin\r\n", true, true },
        { "Origin: https://gw.example\r\n", true, true },
        { "Origin: http://called.example:8080\r\n", true, true },
        { "Origin: https://app.example\r\nSec-Fetch-Site: cross-site\r\n", true, true },
    };
    struct same_site site = { .allowed = "*, https://app.example", .public_url = "https://gw.example/", .host = "called.example:8080" };
    (void)state;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        (void)!find(cases[i].lines);
        site.is_safe_method = true;
        assert_int_equal(credentials_are_same_site(&head, &site), cases[i].if_safe);
        site.is_safe_method = false;
        assert_int_equal(credentials_are_same_site(&head, &site), cases[i].if_unsafe);
    }
}

static void a_token_in_the_query_is_seen(void **state)
{
    (void)state;

    assert_true(credentials_are_in_query("access_token=x"));
    assert_true(credentials_are_in_query("a=b&ACCESS_TOKEN"));
    assert_false(credentials_are_in_query(""));
    assert_false(credentials_are_in_query("a=access_token&my_access_token=1&access_tokens=2&&"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_credential_is_unverified),
        cmocka_unit_test(a_bearer_of_our_form_is_a_key_whatever_its_prefix),
        cmocka_unit_test(an_empty_credential_is_unverified),
        cmocka_unit_test(what_cannot_be_a_token_does_not_leave_the_edge),
        cmocka_unit_test(two_credentials_of_one_kind_are_malformed),
        cmocka_unit_test(what_cannot_be_a_key_does_not_leave_the_edge),
        cmocka_unit_test(a_key_is_found_in_either_field_or_both),
        cmocka_unit_test(a_key_of_another_application_is_looked_up),
        cmocka_unit_test(a_token_wins_over_a_key_and_a_key_over_a_session),
        cmocka_unit_test(a_signature_written_in_another_way_keeps_the_digest_and_changes_the_proof),
        cmocka_unit_test(a_session_is_found_among_cookies_and_the_secure_one_wins),
        cmocka_unit_test(a_cookie_counts_only_from_pages_that_may_use_it),
        cmocka_unit_test(a_token_in_the_query_is_seen),
    };

    return cmocka_run_group_tests(tests, make_key, NULL);
}
