/* What tokens and sessions give, what a session's text may look like, and when a key beside a token decides. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/scope.h"
#include "services/authz/authz_token_cache.h"
#include "services/authz/authz_token_rules.h"

/* The vector of Better-Auth 1.3.9 to 1.7.5 (encodeURIComponent as in a Set-Cookie field). */
#define VECTOR_TOKEN  "abcdefghijklmnopqrstuvwxyz012345"
#define VECTOR_COOKIE VECTOR_TOKEN ".%2Fxf2WMe4rpXkM6AOEkuCGlsxfBa%2BO1M%2BKpIt%2F23repg%3D"
#define VECTOR_PLAIN  VECTOR_TOKEN "./xf2WMe4rpXkM6AOEkuCGlsxfBa+O1M+KpIt/23repg="

static struct secret vector_key(void)
{
    static const char text[] = "test-secret-test-secret-test-secret-0123456789";
    struct secret key = { .size = sizeof text - 1 };

    memcpy(key.bytes, text, sizeof text);
    return key;
}

static enum err parse(const char *text, bool plain_allowed, char token[SESSION_TOKEN_MAX + 1])
{
    const struct secret key = vector_key();

    return session_parse(&key, text, strlen(text), plain_allowed, token);
}

static void a_cookie_that_another_secret_signed_is_refused(void **state)
{
    static const char *const forged[] = {
        VECTOR_TOKEN ".%2Fxf2WMe4rpXkM6AOEkuCGlsxfBa%2BO1M%2BKpIt%2F23repA%3D", "bbcdefghijklmnopqrstuvwxyz012345./xf2WMe4rpXkM6AOEkuCGlsxfBa+O1M+KpIt/23repg=",
        VECTOR_TOKEN ".", VECTOR_PLAIN "=", VECTOR_TOKEN "./xf2WMe4rpXkM6AOEkuCGlsxfBa+O1M+KpIt/23repg", VECTOR_TOKEN ".%2fxf2WMe4rpXkM6AOEkuCGlsxfBa%2bO1M%2bKpIt%2f23repg%3d",
        VECTOR_TOKEN ".%2Fxf2WMe4rpXkM6AOEkuCGlsxfBa+O1M+KpIt/23repg=",
    };
    char token[SESSION_TOKEN_MAX + 1];

    (void)state;
    for (size_t i = 0; i < sizeof forged / sizeof forged[0]; i++)
        assert_int_equal(parse(forged[i], true, token), ERR_UNVERIFIED);
}

static void what_cannot_be_a_session_is_told_apart(void **state)
{
    static const char *const others[] = { "", ".", ".x", "a b", "a%20b.x", "a\"b", "a/b" };
    char token[SESSION_TOKEN_MAX + 1], longer[SESSION_TOKEN_MAX + 2];

    (void)state;
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        assert_int_equal(parse(others[i], true, token), ERR_NOT_FOUND);
    memset(longer, 'a', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    assert_int_equal(parse(longer, true, token), ERR_NOT_FOUND);
    assert_int_equal(parse(longer + 1, true, token), ERR_OK);
    assert_int_equal(parse(VECTOR_TOKEN, false, token), ERR_NOT_FOUND);
}

static void the_vector_of_better_auth_is_read_in_both_spellings(void **state)
{
    char token[SESSION_TOKEN_MAX + 1];

    (void)state;
    assert_int_equal(parse(VECTOR_COOKIE, false, token), ERR_OK);
    assert_string_equal(token, VECTOR_TOKEN);
    token[0] = '\0';
    assert_int_equal(parse(VECTOR_PLAIN, false, token), ERR_OK);
    assert_string_equal(token, VECTOR_TOKEN);
    assert_int_equal(parse(VECTOR_TOKEN, true, token), ERR_OK);
}

static void a_stored_session_is_read_or_refused_whole(void **state)
{
    static const char *const bad[] = {
        "", "[]", "{\"session\":{}}", "{\"session\":{\"id\":\"s\",\"userId\":\"u\"}}", "{\"session\":{\"id\":1,\"userId\":\"u\",\"expiresAt\":\"2100-01-01T00:00:00Z\"}}",
        "{\"session\":{\"id\":\"s\",\"userId\":\"u\",\"expiresAt\":\"2100-01-01\"}}", "{\"session\":{\"id\":\"s\",\"userId\":\"u\",\"expiresAt\":\"2100-01-01T00:00:00+02:00\"}}",
        "{\"session\":{\"id\":\"s\",\"userId\":\"\xc3\xa4\",\"expiresAt\":\"2100-01-01T00:00:00Z\"}}", "{\"session\":{\"id\":\"s\",\"id\":\"s\",\"userId\":\"u\",\"expiresAt\":\"2100-01-01T00:00:00Z\"}}",
    };
    static const char good[] = "{\"session\":{\"id\":\"s1\",\"userId\":\"u1\",\"expiresAt\":\"2100-01-01T00:00:00.123Z\",\"activeOrganizationId\":\"o1\"},\"user\":{}}";
    struct session_texts texts;
    struct session_row row;

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(session_read_json(bad[i], strlen(bad[i]), &texts, &row), ERR_MALFORMED);
    assert_int_equal(session_read_json(good, strlen(good), &texts, &row), ERR_OK);
    assert_string_equal(row.session_id, "s1");
    assert_string_equal(row.user_id, "u1");
    assert_string_equal(row.organization_id, "o1");
    assert_int_equal(row.expires_us, UINT64_C(4102444800123000));
}

/* ---- users ------------------------------------------------------------------------------------------- */

static struct issuer foreign = { .name = "corp" }, local = { .name = "own", .preset = ISSUER_BETTER_AUTH, .local_users = true };
static const struct session_policy policy = { .scopes = SCOPE_BIT(READ), .admin_roles = "admin, owner", .factor_roles = "owner" };

static struct token_facts facts_of(const struct issuer *issuer)
{
    struct token_facts facts = { .context = { .issuer = issuer, .user_id = "u1", .tier = TIER_OAUTH, .scopes = SCOPE_BIT(READ) } };

    return facts;
}

static void a_user_that_is_gone_or_banned_is_refused(void **state)
{
    const struct principal gone = { .session_lives = true }, banned = { .exists = true, .banned = true, .session_lives = true };
    const struct issuer *issuers[] = { &local, NULL };
    struct token_facts facts;

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        facts = facts_of(issuers[i]);
        assert_string_equal(token_join(&facts, &gone, &policy), "user_unknown");
        facts = facts_of(issuers[i]);
        assert_string_equal(token_join(&facts, &banned, &policy), "user_banned");
    }
    facts = facts_of(&foreign);
    assert_string_equal(token_join(&facts, &banned, &policy), "user_banned");
    facts = facts_of(&foreign);
    assert_null(token_join(&facts, &gone, &policy));
    assert_string_equal(facts.context.tenant_id, "user:u1");
}

static struct issuer linking = { .name = "corp", .account_provider = "microsoft" };

/* The subject of a token of `linking` with one account in Better-Auth, that of u9. */
static struct principal linked_to(const char *organization)
{
    struct principal principal = { .exists = true, .session_lives = true, .linked_count = 1, .linked_user = "u9" };

    snprintf(principal.organization_id, sizeof principal.organization_id, "%s", organization);
    principal.organization_count = organization[0] != '\0';
    return principal;
}

static struct token_facts linking_facts(const char *tenant)
{
    struct token_facts facts = facts_of(&linking);

    snprintf(facts.context.subject, sizeof facts.context.subject, "oid-1");
    snprintf(facts.context.tenant_id, sizeof facts.context.tenant_id, "%s", tenant);
    token_name_account(&facts);
    return facts;
}

static void an_account_of_nobody_for_sure_or_of_somebody_gone_is_refused(void **state)
{
    struct token_facts facts = linking_facts("");
    struct principal principal = linked_to("");

    (void)state;
    principal.linked_count = 2;
    assert_string_equal(token_join(&facts, &principal, &policy), "account_ambiguous");
    principal.linked_count = UINT64_MAX;    /* an id that no message carries */
    assert_string_equal(token_join(&facts, &principal, &policy), "account_ambiguous");
    principal = linked_to("");
    principal.exists = false;
    assert_string_equal(token_join(&facts, &principal, &policy), "user_unknown");
    principal = linked_to("");
    principal.banned = true;
    assert_string_equal(token_join(&facts, &principal, &policy), "user_banned");
    principal = (struct principal){ .session_lives = true, .departed = true };
    assert_string_equal(token_join(&facts, &principal, &policy), "user_unknown");
}

static void a_linked_subject_is_the_user_of_better_auth(void **state)
{
    static const struct { const char *mapped, *organization; uint64_t count; const char *tenant; } rows[] = {
        { "", "", 0, "user:u9" }, { "", "o1", 1, "o1" }, { "mapped", "", 0, "mapped" }, { "mapped", "o1", 1, "o1" }, { "mapped", "", 2, "mapped" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct token_facts facts = linking_facts(rows[i].mapped);
        struct principal principal = linked_to(rows[i].organization);

        principal.organization_count = rows[i].count;
        principal.second_factor = true;    /* that of another login */
        assert_null(token_join(&facts, &principal, &policy));
        assert_string_equal(facts.context.user_id, "u9");
        assert_string_equal(facts.context.tenant_id, rows[i].tenant);
        assert_false(facts.tenant_ambiguous);
        assert_false(facts.context.second_factor);
    }
    struct token_facts facts = linking_facts("");
    struct principal several = linked_to("");

    several.organization_count = 2;
    assert_null(token_join(&facts, &several, &policy));
    assert_true(facts.tenant_ambiguous);
}

static void a_subject_without_an_account_is_who_its_issuer_says(void **state)
{
    const struct principal unlinked = { .session_lives = true }, deaf = linked_to("o1");
    struct token_facts facts = linking_facts("mapped");

    (void)state;
    assert_null(token_join(&facts, &unlinked, &policy));
    assert_string_equal(facts.context.user_id, "u1");
    assert_string_equal(facts.context.tenant_id, "mapped");
    facts = facts_of(&foreign);    /* no account was asked about: what is said of one does not count */
    token_name_account(&facts);
    assert_string_equal(facts.account, "");
    assert_null(token_join(&facts, &deaf, &policy));
    assert_string_equal(facts.context.user_id, "u1");
}

/* printf 'microsoft\noid-1' | openssl dgst -sha256 -binary | basenc --base64url; tests/service/test_accounts.py compares Postgres. */
static void changes_call_an_account_by_its_digest(void **state)
{
    const struct token_facts facts = linking_facts("");

    (void)state;
    assert_string_equal(facts.account, "account:XOCK0mKCaMefMQXvl3HDqKGEWQJyfagxiT85sD_BFbo");
}

static void a_session_that_ended_ends_the_token(void **state)
{
    const struct principal ended = { .exists = true };
    struct token_facts facts = facts_of(&local);

    (void)state;
    snprintf(facts.context.session_id, sizeof facts.context.session_id, "s1");
    assert_string_equal(token_join(&facts, &ended, &policy), "session_ended");
    facts = facts_of(&foreign);
    snprintf(facts.context.session_id, sizeof facts.context.session_id, "s1");    /* an issuer's own session, unknown here */
    assert_null(token_join(&facts, &ended, &policy));
}

static void a_second_factor_counts_only_with_a_session_of_ours(void **state)
{
    const struct principal strong = { .exists = true, .session_lives = true, .second_factor = true };
    struct token_facts facts = facts_of(&local);

    (void)state;
    assert_null(token_join(&facts, &strong, &policy));
    assert_false(facts.context.second_factor);
    snprintf(facts.context.session_id, sizeof facts.context.session_id, "s1");
    assert_null(token_join(&facts, &strong, &policy));
    assert_true(facts.context.second_factor);
}

static void an_impersonated_session_proves_no_factor(void **state)
{
    static const char entry[] = "{\"session\":{\"id\":\"s1\",\"userId\":\"u1\",\"expiresAt\":\"2100-01-01T00:00:00.000Z\","
                                "\"createdAt\":\"2026-01-01T00:00:00.250Z\",\"impersonatedBy\":%s}}";
    const struct principal strong = { .exists = true, .session_lives = true, .second_factor = true };
    static const struct { const char *by; bool is_proved; } rows[] = { { "null", true }, { "\"boss\"", false }, { "1", false } };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char json[300];
        struct session_texts texts;
        struct session_row row;
        struct token_facts facts;

        snprintf(json, sizeof json, entry, rows[i].by);
        assert_int_equal(session_read_json(json, strlen(json), &texts, &row), ERR_OK);
        assert_int_equal(row.created_us % 1000000, 250000);
        assert_int_equal(session_facts_of(&row, &facts), ERR_OK);
        assert_null(token_join(&facts, &strong, &policy));
        assert_int_equal(facts.context.second_factor, rows[i].is_proved);
    }
}

static void a_role_may_want_a_second_factor_for_everything(void **state)
{
    struct principal owner = { .exists = true, .session_lives = true, .roles = "user,owner" };
    const struct issuers issuers = { 0 };
    struct token_facts facts = facts_of(NULL);
    struct verdict verdict;

    (void)state;
    facts.any_server = true;
    snprintf(facts.context.session_id, sizeof facts.context.session_id, "s1");
    assert_null(token_join(&facts, &owner, &policy));
    token_decide(&facts, &issuers, "a", SCOPE_BIT(READ), &verdict);
    assert_int_equal(verdict.error, ERR_DENIED);
    assert_string_equal(verdict.reason, "second_factor");
    owner.second_factor = true;
    assert_null(token_join(&facts, &owner, &policy));
    token_decide(&facts, &issuers, "a", SCOPE_BIT(READ), &verdict);
    assert_int_equal(verdict.error, ERR_OK);
}

static void a_session_of_another_issuer_is_none_of_better_auth(void **state)
{
    static const struct issuer linked = { .name = "keycloak", .preset = ISSUER_OIDC, .local_users = true };
    const struct principal strong = { .exists = true, .second_factor = true };
    struct token_facts facts = facts_of(&linked);

    (void)state;
    snprintf(facts.context.session_id, sizeof facts.context.session_id, "s1");
    assert_false(token_has_own_session(&facts.context));
    assert_null(token_join(&facts, &strong, &policy));
    assert_false(facts.context.second_factor);
}

static void an_organization_that_the_user_left_is_no_session_s_tenant(void **state)
{
    struct principal left = { .exists = true, .session_lives = true }, member = { .exists = true, .session_lives = true, .is_member = true };
    struct token_facts facts = facts_of(NULL);

    (void)state;
    snprintf(facts.context.tenant_id, sizeof facts.context.tenant_id, "o1");
    assert_null(token_join(&facts, &member, &policy));
    assert_string_equal(facts.context.tenant_id, "o1");
    assert_null(token_join(&facts, &left, &policy));
    assert_string_equal(facts.context.tenant_id, "user:u1");
    facts = facts_of(&foreign);
    snprintf(facts.context.tenant_id, sizeof facts.context.tenant_id, "o1");    /* its issuer vouches for it */
    assert_null(token_join(&facts, &left, &policy));
    assert_string_equal(facts.context.tenant_id, "o1");
}

static void only_a_whole_role_makes_an_administrator(void **state)
{
    static const struct { const char *roles; bool is_admin; } rows[] = {
        { "", false }, { "user", false }, { "administrator", false }, { "adm", false }, { "superadmin", false }, { "user,admins", false },
        { "admin", true }, { "user, admin", true }, { "owner", true }, { "user,owner,x", true },
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct principal principal = { .exists = true, .session_lives = true };
        struct token_facts facts = facts_of(NULL);

        snprintf(principal.roles, sizeof principal.roles, "%s", rows[i].roles);
        assert_null(token_join(&facts, &principal, &policy));
        assert_int_equal(facts.context.tier, rows[i].is_admin ? TIER_ADMIN : TIER_OAUTH);
        assert_int_equal((facts.context.scopes & SCOPE_BIT(ADMIN)) != 0, rows[i].is_admin);
    }
}

static void several_organizations_and_no_choice_is_403(void **state)
{
    const struct principal several = { .exists = true, .session_lives = true, .organization_count = 2 };
    const struct principal chosen = { .exists = true, .session_lives = true, .is_member = true, .organization_count = 2 };
    struct issuers *issuers = calloc(1, sizeof *issuers);
    struct token_facts facts = facts_of(NULL);
    struct verdict verdict;

    (void)state;
    facts.any_server = true;
    assert_null(token_join(&facts, &several, &policy));
    token_decide(&facts, issuers, "a", 0, &verdict);
    assert_int_equal(verdict.error, ERR_DENIED);
    assert_string_equal(verdict.reason, "tenant_ambiguous");
    facts = facts_of(NULL);
    facts.any_server = true;
    snprintf(facts.context.tenant_id, sizeof facts.context.tenant_id, "acme");
    assert_null(token_join(&facts, &chosen, &policy));
    token_decide(&facts, issuers, "a", SCOPE_BIT(WRITE), &verdict);
    assert_string_equal(verdict.reason, "scope");
    token_decide(&facts, issuers, "a", SCOPE_BIT(READ), &verdict);
    assert_int_equal(verdict.error, ERR_OK);
    assert_string_equal(verdict.tenant_id, "acme");
    free(issuers);
}

static void a_key_decides_where_the_token_cannot_be_asked_about(void **state)
{
    static const struct { enum err outcome; bool has_key, any, yields; } rows[] = {
        { ERR_OK, true, false, false },          { ERR_OK, true, true, false },          { ERR_DENIED, true, false, false },
        { ERR_DENIED, true, true, false },       { ERR_UNVERIFIED, true, false, false }, { ERR_UNVERIFIED, true, true, true },
        { ERR_UNAVAILABLE, true, false, true },  { ERR_UNAVAILABLE, true, true, true },  { ERR_UNAVAILABLE, false, true, false },
        { ERR_UNVERIFIED, false, true, false },
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        assert_int_equal(token_yields_to_key(rows[i].outcome, rows[i].has_key, rows[i].any), rows[i].yields);
}

static void a_session_whose_names_fit_no_message_is_refused(void **state)
{
    char longest[AUTHZ_ID_MAX + 2];
    struct token_facts facts;

    (void)state;
    memset(longest, 'x', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    const struct session_row rows[] = {
        { .session_id = "", .user_id = "u", .organization_id = "" }, { .session_id = "s", .user_id = "", .organization_id = "" },
        { .session_id = longest, .user_id = "u", .organization_id = "" }, { .session_id = "s", .user_id = longest, .organization_id = "" },
    };

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        assert_int_equal(session_facts_of(&rows[i], &facts), ERR_UNPROCESSABLE);
}

/* ---- opaque tokens and the cache ----------------------------------------------------------------------- */

static void a_row_without_audiences_gets_those_of_its_issuer(void **state)
{
    static const struct issuer named = { .name = "named", .audience_count = 1, .audiences = { { .value = "https://own" } } };
    struct opaque_row row = { .client_id = "c", .user_id = "", .session_id = "", .scopes = "read", .audiences = "", .expires_us = 5000000 };
    struct issuers *issuers = calloc(1, sizeof *issuers);
    bool any = false;
    char *answer;

    (void)state;
    snprintf(issuers->public_url, sizeof issuers->public_url, "https://gw.example");
    answer = opaque_answer(&row, &local, issuers, &any);
    assert_non_null(strstr(answer, "\"aud\":[\"https://gw.example\"]"));
    assert_non_null(strstr(answer, "\"sub\":\"c\""));
    assert_true(any);
    free(answer);
    answer = opaque_answer(&row, &named, issuers, &any);
    assert_non_null(strstr(answer, "\"aud\":[\"https://own\",\"https://gw.example\"]"));
    free(answer);
    row.audiences = "[\"https://x\"]";
    answer = opaque_answer(&row, &local, issuers, &any);
    assert_non_null(strstr(answer, "\"aud\":[\"https://x\"]"));
    assert_false(any);
    free(answer);
    row.audiences = "[\"https://x";
    assert_null(opaque_answer(&row, &local, issuers, &any));
    free(issuers);
}

static void name_digest(uint8_t digest[DIGEST_SIZE], unsigned number)
{
    memset(digest, 0, DIGEST_SIZE);
    memcpy(digest, &number, sizeof number);
}

static struct token_entry entry_of(unsigned proof, const struct token_facts *facts)
{
    struct token_entry entry = { .expires_us = 1000, .facts = facts, .reason = facts == NULL ? "unknown" : NULL };

    name_digest(entry.proof, proof);
    return entry;
}

static void another_proof_finds_nothing_and_pushes_nothing_out(void **state)
{
    const struct token_facts facts = facts_of(NULL);
    const struct token_entry first = entry_of(1, &facts), second = entry_of(2, &facts);
    struct token_cache *cache = NULL;
    uint8_t digest[DIGEST_SIZE], other[DIGEST_SIZE];

    (void)state;
    name_digest(digest, 7);
    name_digest(other, 2);
    assert_int_equal(token_cache_new(8, 8, &cache), ERR_OK);
    token_cache_put(cache, digest, &first);
    assert_null(token_cache_find(cache, digest, other, 0, 0));
    assert_non_null(token_cache_find(cache, digest, first.proof, 0, 0));
    token_cache_put(cache, digest, &second);
    assert_int_equal(token_cache_count(cache), 1);
    assert_null(token_cache_find(cache, digest, first.proof, 0, 0));
    assert_non_null(token_cache_find(cache, digest, second.proof, 0, 0));
    token_cache_destroy(&cache);
    assert_null(cache);
}

static void an_entry_ends_with_its_time_and_with_its_token(void **state)
{
    const struct token_facts facts = facts_of(NULL);
    struct token_entry entry = entry_of(1, &facts);
    struct token_cache *cache = NULL;
    uint8_t digest[DIGEST_SIZE];

    (void)state;
    name_digest(digest, 7);
    entry.expires_unix_s = 50;
    assert_int_equal(token_cache_new(8, 8, &cache), ERR_OK);
    token_cache_put(cache, digest, &entry);
    assert_non_null(token_cache_find(cache, digest, entry.proof, 999, 49));
    assert_null(token_cache_find(cache, digest, entry.proof, 999, 50));
    assert_null(token_cache_find(cache, digest, entry.proof, 0, 0));
    token_cache_put(cache, digest, &entry);
    assert_null(token_cache_find(cache, digest, entry.proof, 1000, 0));
    token_cache_destroy(&cache);
}

static void refused_ones_crowd_out_no_accepted_one(void **state)
{
    const struct token_facts facts = facts_of(NULL);
    const struct token_entry good = entry_of(1, &facts);
    struct token_cache *cache = NULL;
    uint8_t digest[DIGEST_SIZE];

    (void)state;
    assert_int_equal(token_cache_new(4, 4, &cache), ERR_OK);
    name_digest(digest, 1000);
    token_cache_put(cache, digest, &good);
    for (unsigned i = 0; i < 100; i++) {
        const struct token_entry bad = entry_of(i, NULL);
        uint8_t junk[DIGEST_SIZE];

        name_digest(junk, i);
        token_cache_put(cache, junk, &bad);
    }
    assert_int_equal(token_cache_refused_count(cache), 4);
    assert_non_null(token_cache_find(cache, digest, good.proof, 0, 0));
    token_cache_drop(cache, digest);
    assert_int_equal(token_cache_count(cache), 0);
    token_cache_clear(cache);
    assert_int_equal(token_cache_refused_count(cache), 0);
    token_cache_destroy(&cache);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_cookie_that_another_secret_signed_is_refused),
        cmocka_unit_test(what_cannot_be_a_session_is_told_apart),
        cmocka_unit_test(the_vector_of_better_auth_is_read_in_both_spellings),
        cmocka_unit_test(a_stored_session_is_read_or_refused_whole),
        cmocka_unit_test(a_user_that_is_gone_or_banned_is_refused),
        cmocka_unit_test(an_account_of_nobody_for_sure_or_of_somebody_gone_is_refused),
        cmocka_unit_test(a_linked_subject_is_the_user_of_better_auth),
        cmocka_unit_test(a_subject_without_an_account_is_who_its_issuer_says),
        cmocka_unit_test(changes_call_an_account_by_its_digest),
        cmocka_unit_test(a_session_that_ended_ends_the_token),
        cmocka_unit_test(a_second_factor_counts_only_with_a_session_of_ours),
        cmocka_unit_test(only_a_whole_role_makes_an_administrator),
        cmocka_unit_test(an_impersonated_session_proves_no_factor),
        cmocka_unit_test(a_role_may_want_a_second_factor_for_everything),
        cmocka_unit_test(a_session_of_another_issuer_is_none_of_better_auth),
        cmocka_unit_test(an_organization_that_the_user_left_is_no_session_s_tenant),
        cmocka_unit_test(several_organizations_and_no_choice_is_403),
        cmocka_unit_test(a_key_decides_where_the_token_cannot_be_asked_about),
        cmocka_unit_test(a_session_whose_names_fit_no_message_is_refused),
        cmocka_unit_test(a_row_without_audiences_gets_those_of_its_issuer),
        cmocka_unit_test(another_proof_finds_nothing_and_pushes_nothing_out),
        cmocka_unit_test(an_entry_ends_with_its_time_and_with_its_token),
        cmocka_unit_test(refused_ones_crowd_out_no_accepted_one),
    };

    return cmocka_run_group_tests_name("authz_token_rules", tests, NULL, NULL);
}
