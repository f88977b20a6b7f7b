/* test_token.c - claims against the rules of their issuer: the cases J18 to J29 of the token table by name, contexts, explanations. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <unistd.h>

#include "common/token.h"
#include "tests/unit/signer.h"

#define NOW       INT64_C(1800000000)
#define DIRECTORY "7f0c2b3e-1111-2222-3333-444455556666"
#define FOREIGN   "11111111-2222-3333-4444-555555555555"
#define CONSUMERS "9188040d-6c67-4c5b-b112-36a304b66dad"

static const char settings[] =
    "issuers:\n"
    "  - {name: ba, preset: better-auth, issuer: 'https://auth.example/api/auth', opaque: database}\n"
    "  - {name: corp, preset: entra-v2, azure_tenant: " DIRECTORY ", client_id: app-1}\n"
    "  - {name: corp-v1, preset: entra-v1, azure_tenant: " DIRECTORY ", client_id: app-1, user_prefix: corp}\n"
    "  - {name: multi, preset: entra-v2, azure_tenant: organizations, azure_tenants: [" FOREIGN ", " CONSUMERS "], client_id: app-1}\n"
    "  - name: kc\n"
    "    preset: oidc\n"
    "    issuer: https://kc.example/realms/r\n"
    "    typ: JWT\n"
    "    audiences: [gateway]\n"
    "    server_audiences: {secret: [only-secret]}\n"
    "    clients: [good-client]\n"
    "    require: [{claim: hd, value: a.example}, {claim: hd, value: b.example}, {claim: email_verified, value: true}]\n"
    "    scopes: [{claim: realm_access.roles, value: mcp-admin, grants: admin}, {value: use, grants: 'read, proxy'}]\n"
    "    tiers: [{claim: groups, value: vip, tier: api_key}]\n"
    "    tenants: [{claim: org, value: '7', tenant: seven}, {claim: org, value: eight, tenant: eight}]\n"
    "    second_factor: [{claim: acr, value: '2'}, {claim: amr, value: otp}]\n"
    "  - {name: rfc7662, preset: oidc, issuer: 'https://as.example', algorithms: [], opaque: introspect, opaque_prefix: at_,\n"
    "     introspection_url: 'https://as.example/introspect', client_id: gw, client_secret: s, local_users: true, tenant: t1}\n"
    "  - {name: gh, preset: github, client_id: Iv1.abc, client_secret: s, grants: [read, proxy]}\n"
    "  - {name: goog, preset: google, client_id: id.apps.googleusercontent.com, grants: read,\n"
    "     require: [{claim: hd, value: a.example}]}\n";

static struct issuers *issuers;
static struct signer rsa, ed;
static struct jose_keys *keys, *marked, *sets[ISSUERS_MAX];
static struct token_context context;
static char text[40000];

/* One key with further members, and one more key unless it is NULL. */
static struct jose_keys *parse(const char *jwk, const char *issuer, const char *second)
{
    static char set[9000];
    struct jose_keys *parsed = NULL;
    char why[200];

    snprintf(set, sizeof set, "{\"keys\":[{%s%s%s%s}%s%s%s]}", jwk, issuer != NULL ? ",\"issuer\":\"" : "", issuer != NULL ? issuer : "",
             issuer != NULL ? "\"" : "", second != NULL ? ",{" : "", second != NULL ? second : "", second != NULL ? "}" : "");
    assert_int_equal(jose_keys_parse(set, strlen(set), &parsed, why, sizeof why), ERR_OK);
    return parsed;
}

static int load(void **state)
{
    char file[] = "/tmp/test_token-XXXXXX", why[600] = "";
    const int fd = mkstemp(file);
    const struct issuers_options options = { .file = file, .public_url = "https://gw.example/", .with_secrets = true };
    (void)state;

    if (fd < 0 || write(fd, settings, sizeof settings - 1) != (ssize_t)sizeof settings - 1)
        return -1;
    close(fd);
    const enum err err = issuers_load(&options, &issuers, why, sizeof why);

    unlink(file);
    if (err != ERR_OK)
        fail_msg("%s", why);
    signer_rsa(&rsa, 2048, "rsa");
    signer_ed(&ed, "ed");
    keys = parse(rsa.jwk, NULL, ed.jwk);
    for (size_t i = 0; i < issuers->count; i++)
        sets[i] = keys;
    return 0;
}

static int release(void **state)
{
    (void)state;

    jose_keys_destroy(&keys);
    signer_wipe(&rsa);
    signer_wipe(&ed);
    issuers_destroy(&issuers);
    return 0;
}

/* ---- tokens of each issuer --------------------------------------------------------------------------- */

enum kind { BA, CORP, CORP_V1, MULTI, KC, KINDS };

static const struct {
    const struct signer *signer;
    enum jose_algorithm algorithm;
    const char *header, *claims, *server;
} kinds[KINDS] = {
    [BA] = { &ed, JOSE_EDDSA, "{\"alg\":\"EdDSA\",\"kid\":\"ed\",\"typ\":\"at+jwt\"}",
             "{\"iss\":\"https://auth.example/api/auth\",\"sub\":\"user-1\",\"aud\":[\"https://gw.example/mcp/a\",\"https://auth.example/api/auth/oauth2/userinfo\"],"
             "\"client_id\":\"c1\",\"azp\":\"c1\",\"scope\":\"openid mcp:read mcp:proxy\",\"sid\":\"s1\",\"jti\":\"j1\",\"iat\":1799999900,\"exp\":1800003600}", "a" },
    [CORP] = { &rsa, JOSE_RS256, "{\"alg\":\"RS256\",\"kid\":\"rsa\",\"typ\":\"JWT\"}",
             "{\"iss\":\"https://login.microsoftonline.com/" DIRECTORY "/v2.0\",\"tid\":\"" DIRECTORY "\",\"oid\":\"0a0a\",\"sub\":\"pairwise\",\"aud\":\"app-1\","
             "\"azp\":\"c2\",\"scp\":\"read proxy\",\"ver\":\"2.0\",\"uti\":\"u1\",\"nbf\":1799999900,\"iat\":1799999900,\"exp\":1800003600}", "a" },
    [CORP_V1] = { &rsa, JOSE_RS256, "{\"alg\":\"RS256\",\"kid\":\"rsa\",\"typ\":\"JWT\",\"x5t\":\"rsa\"}",
             "{\"iss\":\"https://sts.windows.net/" DIRECTORY "/\",\"tid\":\"" DIRECTORY "\",\"oid\":\"0a0a\",\"aud\":\"api://app-1\",\"appid\":\"c2\","
             "\"scp\":\"read\",\"ver\":\"1.0\",\"amr\":[\"pwd\",\"mfa\"],\"exp\":1800003600}", "a" },
    [MULTI] = { &rsa, JOSE_RS256, "{\"alg\":\"RS256\",\"kid\":\"rsa\",\"typ\":\"JWT\"}",
             "{\"iss\":\"https://login.microsoftonline.com/" FOREIGN "/v2.0\",\"tid\":\"" FOREIGN "\",\"oid\":\"0a0a\",\"aud\":\"app-1\","
             "\"azp\":\"c2\",\"roles\":[\"mcp:admin\"],\"exp\":1800003600}", "a" },
    [KC] = { &rsa, JOSE_RS256, "{\"alg\":\"RS256\",\"kid\":\"rsa\",\"typ\":\"JWT\"}",
             "{\"iss\":\"https://kc.example/realms/r\",\"sub\":\"k1\",\"aud\":\"gateway\",\"azp\":\"good-client\",\"scope\":\"openid use\",\"typ\":\"Bearer\","
             "\"hd\":\"b.example\",\"email_verified\":true,\"org\":7,\"exp\":1800003600}", "a" },
};

/* Members of `patch` replace those of the token; "-" takes one away. */
static char *claims_of(enum kind kind, const char *patch)
{
    json_t *claims = json_loads(kinds[kind].claims, 0, NULL), *changes = json_loads(patch, JSON_ALLOW_NUL, NULL), *value;
    const char *name;

    assert_non_null(claims);
    assert_non_null(changes);
    json_object_foreach(changes, name, value) {
        if (json_is_string(value) && strcmp(json_string_value(value), "-") == 0)
            json_object_del(claims, name);
        else
            json_object_set(claims, name, value);
    }
    char *dump = json_dumps(claims, JSON_COMPACT);

    json_decref(claims);
    json_decref(changes);
    return dump;
}

static struct token_question question_of(const char *server)
{
    return (struct token_question){ .issuers = issuers, .keys = sets, .text = text, .size = strlen(text), .server = server, .now_s = NOW };
}

static enum jose_reason judge_text(const char *server)
{
    const struct token_question question = question_of(server);

    memset(&context, 0, sizeof context);
    return token_judge(&question, &context, NULL);
}

static void make(enum kind kind, const char *header, const char *patch)
{
    char *claims = claims_of(kind, patch);

    signer_token(kinds[kind].signer, kinds[kind].algorithm, header != NULL ? header : kinds[kind].header, claims, text);
    free(claims);
}

static void assert_judged(enum kind kind, const char *patch, enum jose_reason wanted)
{
    make(kind, NULL, patch);
    const enum jose_reason got = judge_text(kinds[kind].server);

    if (got != wanted)
        fail_msg("%s: %s instead of %s", patch, jose_reason_text(got), jose_reason_text(wanted));
}

/* ---- contexts ---------------------------------------------------------------------------------------- */

static void better_auths_token_gives_its_context(void **state)
{
    (void)state;

    assert_judged(BA, "{}", JOSE_FINE);
    assert_string_equal(context.issuer->name, "ba");
    assert_string_equal(context.user_id, "user-1");
    assert_string_equal(context.subject, "user-1");
    assert_string_equal(context.tenant_id, "");
    assert_string_equal(context.client_id, "c1");
    assert_string_equal(context.session_id, "s1");
    assert_string_equal(context.token_id, "j1");
    assert_int_equal(context.scopes, SCOPE_BIT(READ) | SCOPE_BIT(PROXY));
    assert_int_equal(context.tier, TIER_OAUTH);
    assert_int_equal(context.expires_s, 1800003630);
    assert_int_equal(context.issued_s, 1799999900);
    assert_false(context.second_factor);
}

static void entras_tokens_of_both_versions_name_one_user(void **state)
{
    (void)state;

    assert_judged(CORP, "{}", JOSE_FINE);
    assert_string_equal(context.user_id, "corp:0a0a");
    assert_string_equal(context.tenant_id, DIRECTORY);
    assert_string_equal(context.client_id, "c2");
    assert_string_equal(context.token_id, "u1");
    assert_false(context.second_factor);
    assert_judged(CORP_V1, "{}", JOSE_FINE);
    assert_string_equal(context.user_id, "corp:0a0a");
    assert_string_equal(context.client_id, "c2");
    assert_true(context.second_factor);
}

static void one_oid_in_two_directories_is_two_users(void **state)
{
    char first[65];
    (void)state;

    assert_judged(MULTI, "{}", JOSE_FINE);
    assert_int_equal(strncmp(context.user_id, "multi:", 6), 0);
    assert_int_equal(strlen(context.user_id), 6 + 43);
    assert_int_equal(context.scopes, SCOPE_ALL);
    assert_int_equal(context.tier, TIER_ADMIN);
    strcpy(first, context.user_id);
    assert_judged(MULTI, "{\"iss\":\"https://login.microsoftonline.com/" CONSUMERS "/v2.0\",\"tid\":\"" CONSUMERS "\"}", JOSE_FINE);
    assert_string_not_equal(first, context.user_id);
}

static void rules_map_claims_to_tenant_tier_and_second_factor(void **state)
{
    (void)state;

    assert_judged(KC, "{}", JOSE_FINE);
    assert_string_equal(context.user_id, "kc:k1");
    assert_string_equal(context.tenant_id, "seven");
    assert_int_equal(context.tier, TIER_OAUTH);
    assert_false(context.second_factor);
    assert_judged(KC, "{\"org\":[\"x\",\"eight\"],\"groups\":[\"vip\"],\"acr\":\"2\",\"realm_access\":{\"roles\":[\"a\",\"mcp-admin\"]}}", JOSE_FINE);
    assert_string_equal(context.tenant_id, "eight");
    assert_int_equal(context.tier, TIER_API_KEY);
    assert_int_equal(context.scopes, SCOPE_ALL);
    assert_true(context.second_factor);
    assert_judged(KC, "{\"amr\":[\"pwd\",\"otp\"]}", JOSE_FINE);
    assert_true(context.second_factor);
    assert_judged(KC, "{\"org\":\"nine\"}", JOSE_TENANT);
    assert_judged(KC, "{\"org\":\"-\"}", JOSE_TENANT);
}

static void a_subject_too_long_for_an_id_is_digested(void **state)
{
    (void)state;

    assert_judged(KC, "{\"sub\":\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"}", JOSE_FINE);
    assert_int_equal(strncmp(context.user_id, "kc:", 3), 0);
    assert_int_equal(strlen(context.user_id), 3 + 43);
    assert_judged(KC, "{\"sub\":\"j\\u00f6rg\"}", JOSE_FINE);
    assert_int_equal(strlen(context.user_id), 3 + 43);
    assert_judged(BA, "{\"sub\":\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"}", JOSE_USER_MISSING);
    assert_judged(BA, "{\"sub\":\"\"}", JOSE_USER_MISSING);
    assert_judged(BA, "{\"sub\":\"-\"}", JOSE_USER_MISSING);
    assert_judged(BA, "{\"sub\":{}}", JOSE_USER_MISSING);
    assert_judged(CORP, "{\"oid\":\"-\"}", JOSE_USER_MISSING);
}

/* ---- the table --------------------------------------------------------------------------------------- */

static void j18_expiry(void **state)
{
    (void)state;

    assert_judged(BA, "{\"exp\":1799999000}", JOSE_EXPIRED);
    assert_judged(BA, "{\"exp\":1799999970}", JOSE_EXPIRED);    /* now is exp and the leeway of 30 s */
    assert_judged(BA, "{\"exp\":1799999971}", JOSE_FINE);
    assert_judged(BA, "{\"exp\":1800000000}", JOSE_FINE);
    assert_judged(BA, "{\"exp\":\"-\"}", JOSE_EXPIRY_MISSING);
    assert_judged(BA, "{\"exp\":\"9999999999\"}", JOSE_EXPIRY);
    assert_judged(BA, "{\"exp\":-1}", JOSE_EXPIRY);
    assert_judged(BA, "{\"exp\":null}", JOSE_EXPIRY);
    assert_judged(BA, "{\"exp\":1e300}", JOSE_EXPIRY);
    assert_judged(BA, "{\"exp\":1800000001.5}", JOSE_FINE);
}

static void j19_not_before_and_issued_at(void **state)
{
    (void)state;

    assert_judged(BA, "{\"nbf\":1800000031}", JOSE_NOT_YET);
    assert_judged(BA, "{\"nbf\":1800000030}", JOSE_FINE);
    assert_judged(BA, "{\"nbf\":\"1\"}", JOSE_NOT_BEFORE);
    assert_judged(BA, "{\"iat\":1800000031}", JOSE_FUTURE);
    assert_judged(BA, "{\"iat\":1800000030}", JOSE_FINE);
    assert_judged(BA, "{\"iat\":[]}", JOSE_ISSUED);
    assert_judged(BA, "{\"iat\":\"-\"}", JOSE_FINE);
}

static void j20_audience(void **state)
{
    static const struct { const char *aud; enum jose_reason reason; } cases[] = {
        { "\"https://gw.example/mcp/b\"", JOSE_AUDIENCE },                     /* another server of the same gateway */
        { "\"https://gw.example/mcp/a.evil\"", JOSE_AUDIENCE },
        { "\"https://gw.example/mcp/a/b\"", JOSE_AUDIENCE },
        { "\"https://gw.example/mcp/\"", JOSE_AUDIENCE },
        { "\"https://gw.example.evil/mcp/a\"", JOSE_AUDIENCE },
        { "\"https://gw.example\"", JOSE_AUDIENCE },                           /* the gateway's API */
        { "\"http://gw.example/mcp/a\"", JOSE_AUDIENCE },
        { "\"https://gw.example/mcp/A\"", JOSE_AUDIENCE },
        { "\"https://gw.example/mcp/a//\"", JOSE_AUDIENCE },
        { "\"https://gw.example/mcp/a?x\"", JOSE_AUDIENCE },
        { "\"gateway\"", JOSE_AUDIENCE },                                      /* of another issuer */
        { "\"\"", JOSE_AUDIENCE },
        { "\"-\"", JOSE_AUDIENCE_MISSING },
        { "[]", JOSE_AUDIENCE_MISSING },
        { "[{\"a\":1}]", JOSE_AUDIENCE_MALFORMED },
        { "[\"https://gw.example/mcp/a\",5]", JOSE_AUDIENCE_MALFORMED },
        { "{}", JOSE_AUDIENCE_MALFORMED },
        { "null", JOSE_AUDIENCE_MALFORMED },
        { "\"https://gw.example/mcp/a\"", JOSE_FINE },
        { "\"https://gw.example/mcp/a/\"", JOSE_FINE },                        /* one closing slash (RFC 8707, SDKs) */
        { "\"https://gw.example/mcp/a#f\"", JOSE_FINE },
        { "\"HTTPS://GW.example/mcp/a\"", JOSE_FINE },                         /* scheme and host in any case */
        { "[\"x\",\"https://gw.example/mcp/a\"]", JOSE_FINE },
    };
    char patch[200];
    (void)state;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        snprintf(patch, sizeof patch, "{\"aud\":%s}", cases[i].aud);
        assert_judged(BA, patch, cases[i].reason);
    }
}

static void j20_audiences_of_one_server_replace_those_of_all(void **state)
{
    (void)state;

    make(KC, NULL, "{}");
    assert_int_equal(judge_text("a"), JOSE_FINE);
    assert_int_equal(judge_text(""), JOSE_FINE);
    assert_int_equal(judge_text("secret"), JOSE_AUDIENCE);
    make(KC, NULL, "{\"aud\":\"only-secret\"}");
    assert_int_equal(judge_text("secret"), JOSE_FINE);
    assert_int_equal(judge_text("a"), JOSE_AUDIENCE);
    assert_int_equal(judge_text(""), JOSE_AUDIENCE);
    assert_int_equal(judge_text(NULL), JOSE_FINE);
}

static void a_cached_token_is_judged_for_another_server(void **state)
{
    (void)state;

    make(BA, NULL, "{\"aud\":[\"https://gw.example/mcp/a\",\"https://gw.example/mcp/b\",\"https://gw.example/\"]}");
    assert_int_equal(judge_text(NULL), JOSE_FINE);
    assert_true(token_serves(&context, issuers, "a"));
    assert_true(token_serves(&context, issuers, "b"));
    assert_true(token_serves(&context, issuers, ""));
    assert_false(token_serves(&context, issuers, "c"));
    make(BA, NULL, "{\"aud\":[\"https://gw.example/mcp/1\",\"https://gw.example/mcp/2\",\"https://gw.example/mcp/3\",\"https://gw.example/mcp/4\",\"https://gw.example/mcp/5\"]}");
    assert_int_equal(judge_text(NULL), JOSE_FINE);
    assert_true(token_serves(&context, issuers, "4"));
    assert_false(token_serves(&context, issuers, "5"));    /* TOKEN_SERVERS_MAX */
    make(CORP, NULL, "{}");
    assert_int_equal(judge_text(NULL), JOSE_FINE);
    assert_true(token_serves(&context, issuers, "anything"));
}

static void j21_issuer(void **state)
{
    static const struct { enum kind kind; const char *patch; enum jose_reason reason; } cases[] = {
        { BA, "{\"iss\":\"https://evil.example\"}", JOSE_ISSUER_UNKNOWN },
        { BA, "{\"iss\":\"-\"}", JOSE_ISSUER_MISSING },
        { BA, "{\"iss\":5}", JOSE_ISSUER_MISSING },
        { BA, "{\"iss\":\"https://auth.example/api/aut\"}", JOSE_ISSUER_UNKNOWN },
        { BA, "{\"iss\":\"https://auth.example/api/auth/\"}", JOSE_ISSUER_UNKNOWN },
        { BA, "{\"iss\":\"https://auth.example/api/auth.evil\"}", JOSE_ISSUER_UNKNOWN },
        { BA, "{\"iss\":\"HTTPS://auth.example/api/auth\"}", JOSE_ISSUER_UNKNOWN },
        { BA, "{\"iss\":\"https://github.com\"}", JOSE_ISSUER_UNKNOWN },             /* has no keys */
        { CORP, "{\"iss\":\"https://login.microsoftonline.com/" DIRECTORY "/\"}", JOSE_DIRECTORY },
        { CORP, "{\"iss\":\"https://login.microsoftonline.com/{tenantid}/v2.0\",\"tid\":\"{tenantid}\"}", JOSE_DIRECTORY },
        { CORP, "{\"tid\":\"" FOREIGN "\"}", JOSE_DIRECTORY },
        { CORP, "{\"tid\":\"-\"}", JOSE_DIRECTORY },
        { CORP_V1, "{\"iss\":\"https://sts.windows.net/" DIRECTORY "\"}", JOSE_ISSUER_UNKNOWN },
        { CORP_V1, "{\"iss\":\"https://sts.windows.net/" FOREIGN "/\",\"tid\":\"" FOREIGN "\"}", JOSE_ISSUER_UNKNOWN },
        { MULTI, "{\"tid\":\"no-guid\"}", JOSE_DIRECTORY },
        { MULTI, "{\"tid\":\"-\"}", JOSE_DIRECTORY },
        { MULTI, "{\"tid\":\"" DIRECTORY "\"}", JOSE_DIRECTORY },                        /* another than in iss */
        { MULTI, "{\"tid\":\"22222222-2222-3333-4444-555555555555\",\"iss\":\"https://login.microsoftonline.com/22222222-2222-3333-4444-555555555555/v2.0\"}", JOSE_DIRECTORY },
        { MULTI, "{\"iss\":\"https://login.microsoftonline.com/" FOREIGN "/v2.0/\"}", JOSE_DIRECTORY },
    };
    (void)state;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_judged(cases[i].kind, cases[i].patch, cases[i].reason);
}

static void j21_a_key_marked_for_another_directory_does_not_sign(void **state)
{
    static const struct { const char *issuer; enum jose_reason reason; } cases[] = {
        { "https://login.microsoftonline.com/{tenantid}/v2.0", JOSE_FINE },
        { "https://login.microsoftonline.com/{TenantId}/v2.0", JOSE_FINE },
        { "https://login.microsoftonline.com/" FOREIGN "/v2.0", JOSE_FINE },
        { "https://login.microsoftonline.com/" CONSUMERS "/v2.0", JOSE_KEY_ISSUER },
        { "https://evil.example/{tenantid}/v2.0", JOSE_KEY_ISSUER },
        { "{tenantid}", JOSE_KEY_ISSUER },
    };
    (void)state;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        marked = parse(rsa.jwk, cases[i].issuer, NULL);
        for (size_t set = 0; set < issuers->count; set++)
            sets[set] = marked;
        make(MULTI, NULL, "{}");
        const enum jose_reason got = judge_text("a");

        for (size_t set = 0; set < issuers->count; set++)
            sets[set] = keys;
        jose_keys_destroy(&marked);
        if (got != cases[i].reason)
            fail_msg("%s: %s", cases[i].issuer, jose_reason_text(got));
    }
}

static void a_v1_token_verifies_with_keys_marked_in_the_v2_form(void **state)
{
    (void)state;

    marked = parse(rsa.jwk, "https://login.microsoftonline.com/{tenantid}/v2.0", NULL);
    sets[2] = marked;
    make(CORP_V1, NULL, "{}");
    assert_int_equal(judge_text("a"), JOSE_FINE);
    sets[2] = keys;
    jose_keys_destroy(&marked);
}

static void j22_tokens_that_are_no_access_tokens(void **state)
{
    static const char *const types[] = { "\"JWT\"", "\"dpop+jwt\"", "\"logout+jwt\"", "\"\"", "\"at+jwt \"" };
    char header[120];
    (void)state;

    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        snprintf(header, sizeof header, "{\"alg\":\"EdDSA\",\"kid\":\"ed\",\"typ\":%s}", types[i]);
        make(BA, header, "{}");
        assert_int_equal(judge_text("a"), JOSE_TYPE);
    }
    make(BA, "{\"alg\":\"EdDSA\",\"kid\":\"ed\"}", "{}");    /* Better-Auth's ID token and /token have none */
    assert_int_equal(judge_text("a"), JOSE_TYPE);
    make(BA, "{\"alg\":\"EdDSA\",\"kid\":\"ed\",\"typ\":\"application/AT+JWT\"}", "{}");
    assert_int_equal(judge_text("a"), JOSE_FINE);
    make(KC, "{\"alg\":\"RS256\",\"kid\":\"rsa\"}", "{}");
    assert_int_equal(judge_text("a"), JOSE_FINE);
    assert_judged(KC, "{\"typ\":\"ID\"}", JOSE_NOT_ACCESS);
    assert_judged(KC, "{\"typ\":\"Refresh\"}", JOSE_NOT_ACCESS);
    assert_judged(KC, "{\"at_hash\":\"x\"}", JOSE_NOT_ACCESS);
    assert_judged(KC, "{\"events\":{\"http://schemas.openid.net/event/backchannel-logout\":{}}}", JOSE_NOT_ACCESS);
    assert_judged(CORP, "{\"scp\":\"-\"}", JOSE_NOT_ACCESS);                                    /* Entra's ID token */
    assert_judged(CORP, "{\"aud\":\"00000003-0000-0000-c000-000000000000\"}", JOSE_AUDIENCE);    /* Microsoft Graph */
}

static void j27_keys_come_and_go_with_the_set(void **state)
{
    const struct issuer *wanting = NULL;
    struct jose_keys *old = parse(rsa.jwk, NULL, NULL);
    struct token_question question;
    (void)state;

    make(BA, NULL, "{}");
    question = question_of("a");
    sets[0] = old;
    assert_int_equal(token_judge(&question, &context, &wanting), JOSE_KEY_UNKNOWN);
    assert_string_equal(wanting->name, "ba");
    sets[0] = NULL;
    wanting = NULL;
    assert_int_equal(token_judge(&question, &context, &wanting), JOSE_KEYS_MISSING);
    assert_string_equal(wanting->name, "ba");
    assert_int_equal(jose_reason_error(JOSE_KEYS_MISSING), ERR_UNAVAILABLE);
    sets[0] = keys;
    assert_int_equal(token_judge(&question, &context, &wanting), JOSE_FINE);
    jose_keys_destroy(&old);
}

static void j28_scopes(void **state)
{
    static const struct { enum kind kind; const char *patch; uint64_t scopes; } cases[] = {
        { BA, "{\"scope\":\"-\"}", 0 },
        { BA, "{\"scope\":\"\"}", 0 },
        { BA, "{\"scope\":\"openid profile\"}", 0 },
        { BA, "{\"scope\":\"mcp:admin admin\"}", 0 },                                /* a client cannot ask to be an administrator */
        { BA, "{\"scope\":\"MCP:READ Read\"}", 0 },
        { BA, "{\"scope\":\"mcp:readx xmcp:read\"}", 0 },
        { BA, "{\"scope\":\"  mcp:write  \"}", SCOPE_BIT(READ) | SCOPE_BIT(WRITE) },
        { BA, "{\"scope\":[\"read\",\"proxy\"]}", SCOPE_BIT(READ) | SCOPE_BIT(PROXY) },
        { BA, "{\"scope\":\"-\",\"scp\":\"read\"}", SCOPE_BIT(READ) },
        { BA, "{\"scope\":\"proxy\",\"scp\":\"read\"}", SCOPE_BIT(PROXY) },          /* scope decides where both stand */
        { BA, "{\"roles\":[\"read\"]}", SCOPE_BIT(READ) | SCOPE_BIT(PROXY) },
        { CORP, "{\"scp\":\"-\",\"roles\":[\"read\"]}", SCOPE_BIT(READ) },
        { CORP, "{\"roles\":[\"mcp:admin\"]}", SCOPE_ALL },
        { CORP, "{\"groups\":[\"mcp:admin\"],\"_claim_names\":{\"groups\":\"src1\"}}", SCOPE_BIT(READ) | SCOPE_BIT(PROXY) },
    };
    (void)state;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_judged(cases[i].kind, cases[i].patch, JOSE_FINE);
        if (context.scopes != cases[i].scopes)
            fail_msg("%s grants %lx", cases[i].patch, (unsigned long)context.scopes);
    }
    assert_judged(BA, "{\"scope\":5}", JOSE_CLAIM_MALFORMED);
    assert_judged(BA, "{\"scp\":[1]}", JOSE_CLAIM_MALFORMED);
    assert_judged(BA, "{\"roles\":{}}", JOSE_CLAIM_MALFORMED);
    assert_judged(BA, "{\"groups\":[[\"a\"]]}", JOSE_CLAIM_MALFORMED);
}

static void j29_a_token_bound_to_a_key_is_no_bearer_token(void **state)
{
    (void)state;

    assert_judged(BA, "{\"cnf\":{\"jkt\":\"x\"}}", JOSE_PROOF);
    assert_judged(BA, "{\"cnf\":null}", JOSE_PROOF);
    assert_judged(BA, "{\"cnf\":{}}", JOSE_PROOF);
}

static void clients_and_required_claims(void **state)
{
    (void)state;

    assert_judged(KC, "{\"azp\":\"evil\"}", JOSE_CLIENT);
    assert_judged(KC, "{\"azp\":\"-\"}", JOSE_CLIENT);
    assert_judged(KC, "{\"client_id\":\"evil\"}", JOSE_CLIENT);    /* before azp */
    assert_judged(KC, "{\"azp\":5}", JOSE_CLAIM_MALFORMED);
    assert_judged(KC, "{\"hd\":\"a.example\"}", JOSE_FINE);
    assert_judged(KC, "{\"hd\":\"c.example\"}", JOSE_CLAIM);
    assert_judged(KC, "{\"hd\":\"-\"}", JOSE_CLAIM);
    assert_judged(KC, "{\"email_verified\":false}", JOSE_CLAIM);
    assert_judged(KC, "{\"email_verified\":\"-\"}", JOSE_CLAIM);
    assert_judged(KC, "{\"jti\":5}", JOSE_CLAIM_MALFORMED);
    assert_int_equal(jose_reason_error(JOSE_CLIENT), ERR_DENIED);
}

static void the_algorithm_is_the_issuers_choice(void **state)
{
    char *claims = claims_of(CORP, "{}");
    (void)state;

    signer_token(&rsa, JOSE_PS256, "{\"alg\":\"PS256\",\"kid\":\"rsa\",\"typ\":\"JWT\"}", claims, text);
    assert_int_equal(judge_text("a"), JOSE_ALGORITHM);
    free(claims);
}

/* ---- introspection ----------------------------------------------------------------------------------- */

static enum jose_reason answer(const char *name, const char *body)
{
    const struct token_question question = question_of("a");

    return token_judge_answer(&question, issuers_named(issuers, name), body, strlen(body), &context);
}

static void an_introspection_answer_is_judged_as_a_token_is(void **state)
{
    static const struct { const char *body; enum jose_reason reason; } cases[] = {
        { "{\"active\":true,\"sub\":\"u\",\"aud\":\"https://gw.example/mcp/a\",\"scope\":\"read\",\"client_id\":\"c\",\"exp\":1800000100}", JOSE_FINE },
        { "{\"active\":true,\"sub\":\"u\",\"aud\":\"https://gw.example/mcp/a\"}", JOSE_FINE },
        { "{\"active\":false}", JOSE_INACTIVE },
        { "{\"active\":\"true\",\"sub\":\"u\",\"aud\":\"https://gw.example/mcp/a\"}", JOSE_INACTIVE },
        { "{\"active\":1,\"sub\":\"u\",\"aud\":\"https://gw.example/mcp/a\"}", JOSE_INACTIVE },
        { "{\"sub\":\"u\",\"aud\":\"https://gw.example/mcp/a\"}", JOSE_INACTIVE },
        { "{\"active\":true,\"sub\":\"u\"}", JOSE_AUDIENCE_MISSING },
        { "{\"active\":true,\"sub\":\"u\",\"aud\":\"https://gw.example/mcp/b\"}", JOSE_AUDIENCE },
        { "{\"active\":true,\"sub\":\"u\",\"aud\":\"https://gw.example/mcp/a\",\"iss\":\"https://evil.example\"}", JOSE_ISSUER_UNKNOWN },
        { "{\"active\":true,\"sub\":\"u\",\"aud\":\"https://gw.example/mcp/a\",\"exp\":1700000000}", JOSE_EXPIRED },
        { "{\"active\":true,\"sub\":\"u\",\"aud\":\"https://gw.example/mcp/a\",\"nbf\":1900000000}", JOSE_NOT_YET },
        { "{\"active\":true,\"sub\":\"u\",\"aud\":\"https://gw.example/mcp/a\",\"cnf\":{}}", JOSE_PROOF },
        { "{\"active\":true,\"sub\":\"u\",\"aud\":\"https://gw.example/mcp/a\",\"token_type\":\"DPoP\"}", JOSE_PROOF },
        { "{\"active\":true,\"sub\":\"u\",\"aud\":\"https://gw.example/mcp/a\",\"token_type\":\"bearer\"}", JOSE_FINE },
        { "{\"active\":true,\"sub\":\"u\",\"aud\":\"https://gw.example/mcp/a\",\"token_type\":\"access_token\"}", JOSE_FINE },
        { "{\"active\":true,\"sub\":\"u\",\"aud\":\"https://gw.example/mcp/a\",\"token_type\":\"refresh_token\"}", JOSE_NOT_ACCESS },
        { "{\"active\":true,\"sub\":\"u\",\"aud\":\"https://gw.example/mcp/a\",\"token_type\":[\"Bearer\"]}", JOSE_NOT_ACCESS },
        { "{\"active\":true,\"sub\":\"u\",\"aud\":\"https://gw.example/mcp/a\",\"typ\":\"Refresh\"}", JOSE_NOT_ACCESS },
        { "{\"active\":true,\"aud\":\"https://gw.example/mcp/a\"}", JOSE_USER_MISSING },
        { "{\"active\":false,\"active\":true,\"sub\":\"u\",\"aud\":\"https://gw.example/mcp/a\"}", JOSE_PAYLOAD },
        { "[]", JOSE_PAYLOAD },
        { "", JOSE_PAYLOAD },
    };
    (void)state;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const enum jose_reason got = answer("rfc7662", cases[i].body);

        if (got != cases[i].reason)
            fail_msg("%s: %s", cases[i].body, jose_reason_text(got));
    }
    assert_int_equal(answer("rfc7662", cases[0].body), JOSE_FINE);
    assert_string_equal(context.user_id, "u");
    assert_string_equal(context.tenant_id, "t1");
    assert_int_equal(context.expires_s, 1800000130);
}

static void a_token_of_another_application_at_github_or_google_is_refused(void **state)
{
    (void)state;

    assert_int_equal(answer("gh", "{\"app\":{\"client_id\":\"Iv1.abc\"},\"user\":{\"id\":42,\"login\":\"x\"},\"scopes\":[\"repo\"],\"expires_at\":null}"), JOSE_FINE);
    assert_string_equal(context.user_id, "gh:42");
    assert_int_equal(context.scopes, SCOPE_BIT(READ) | SCOPE_BIT(PROXY));
    assert_true(token_serves(&context, issuers, "any-server"));
    assert_int_equal(answer("gh", "{\"app\":{\"client_id\":\"Iv1.other\"},\"user\":{\"id\":42}}"), JOSE_AUDIENCE);
    assert_int_equal(answer("gh", "{\"user\":{\"id\":42}}"), JOSE_AUDIENCE_MISSING);
    assert_int_equal(answer("goog", "{\"aud\":\"id.apps.googleusercontent.com\",\"sub\":\"7\",\"exp\":\"1800000100\",\"hd\":\"a.example\"}"), JOSE_FINE);
    assert_string_equal(context.user_id, "goog:7");
    assert_int_equal(context.expires_s, 1800000130);
    assert_int_equal(answer("goog", "{\"aud\":\"other\",\"sub\":\"7\",\"exp\":\"1800000100\",\"hd\":\"a.example\"}"), JOSE_AUDIENCE);
    assert_int_equal(answer("goog", "{\"aud\":\"id.apps.googleusercontent.com\",\"sub\":\"7\",\"exp\":\"1700000000\",\"hd\":\"a.example\"}"), JOSE_EXPIRED);
    assert_int_equal(answer("goog", "{\"aud\":\"id.apps.googleusercontent.com\",\"sub\":\"7\",\"exp\":\"soon\",\"hd\":\"a.example\"}"), JOSE_EXPIRY);
    assert_int_equal(answer("goog", "{\"aud\":\"id.apps.googleusercontent.com\",\"sub\":\"7\",\"exp\":\"1800000100\"}"), JOSE_CLAIM);
}

static void an_opaque_token_belongs_to_the_issuer_of_its_prefix(void **state)
{
    (void)state;

    assert_null(issuers_of_opaque(issuers, "x", 1));    /* ba reads its own table, and asks nobody */
    assert_null(issuers_of_opaque(issuers, "", 0));
    assert_null(issuers_of_opaque(issuers, "gho_", 4));
    assert_string_equal(issuers_of_opaque(issuers, "gho_abc", 7)->name, "gh");
    assert_string_equal(issuers_of_opaque(issuers, "at_abc", 6)->name, "rfc7662");
}

/* ---- explanations ------------------------------------------------------------------------------------ */

static void an_explanation_goes_on_behind_the_first_refusal(void **state)
{
    struct token_explained steps[TOKEN_STEP_COUNT];
    struct token_question question;
    (void)state;

    make(BA, NULL, "{\"exp\":1700000000,\"aud\":\"https://gw.example/mcp/b\"}");
    question = question_of("a");
    assert_int_equal(token_explain(&question, steps, &context), JOSE_EXPIRED);
    assert_int_equal(steps[TOKEN_SIGNATURE].outcome, TOKEN_PASSED);
    assert_int_equal(steps[TOKEN_LIFETIME].reason, JOSE_EXPIRED);
    assert_non_null(strstr(steps[TOKEN_LIFETIME].detail, "100000000 s ago"));
    assert_int_equal(steps[TOKEN_AUDIENCE].reason, JOSE_AUDIENCE);
    assert_non_null(strstr(steps[TOKEN_AUDIENCE].detail, "aud https://gw.example/mcp/b; accepted: https://gw.example/mcp/a"));
    assert_int_equal(steps[TOKEN_SCOPES].outcome, TOKEN_PASSED);
}

static void what_cannot_be_checked_is_not_reached(void **state)
{
    struct token_explained steps[TOKEN_STEP_COUNT];
    struct token_question question;
    (void)state;

    strcpy(text, "not-a-token");
    question = question_of("a");
    assert_int_equal(token_explain(&question, steps, &context), JOSE_OPAQUE);
    for (unsigned i = 1; i < TOKEN_STEP_COUNT; i++)
        assert_int_equal(steps[i].outcome, TOKEN_NOT_REACHED);
    make(BA, NULL, "{\"iss\":\"https://evil.example\\u001b[31m\"}");
    question = question_of("a");
    assert_int_equal(token_explain(&question, steps, &context), JOSE_ISSUER_UNKNOWN);
    assert_non_null(strstr(steps[TOKEN_ISSUER].detail, "https://evil.example?[31m; accepted: https://auth.example/api/auth"));
    assert_int_equal(steps[TOKEN_PROOF].outcome, TOKEN_PASSED);
    assert_int_equal(steps[TOKEN_SIGNATURE].outcome, TOKEN_NOT_REACHED);
}

static void judgement_and_explanation_agree(void **state)
{
    static const char *const patches[] = { "{}", "{\"exp\":1}", "{\"aud\":\"x\"}", "{\"cnf\":{}}", "{\"iss\":\"x\"}", "{\"sub\":5}", "{\"scope\":5}" };
    struct token_explained steps[TOKEN_STEP_COUNT];
    struct token_context explained;
    (void)state;

    for (unsigned kind = 0; kind < KINDS; kind++) {
        for (size_t i = 0; i < sizeof patches / sizeof patches[0]; i++) {
            make((enum kind)kind, NULL, patches[i]);
            const struct token_question question = question_of("a");

            assert_int_equal(token_explain(&question, steps, &explained), judge_text("a"));
        }
    }
}

static void the_explanation_as_json_never_holds_the_signature(void **state)
{
    struct token_question question;
    (void)state;

    make(BA, NULL, "{}");
    question = question_of("a");
    json_t *object = token_explain_json(&question);
    char *dump = json_dumps(object, 0);

    assert_true(json_is_true(json_object_get(object, "accepted")));
    assert_string_equal(json_string_value(json_object_get(json_object_get(object, "context"), "userId")), "user-1");
    assert_int_equal(json_array_size(json_object_get(object, "steps")), TOKEN_STEP_COUNT);
    assert_null(strstr(dump, strrchr(text, '.') + 1));
    free(dump);
    json_decref(object);
}

static void scopes_are_asked_for_by_the_issuers_names(void **state)
{
    char names[200];
    (void)state;

    assert_string_equal(issuer_format_scopes(issuers_named(issuers, "ba"), SCOPE_BIT(READ) | SCOPE_BIT(PROXY), names, sizeof names), "mcp:read mcp:proxy");
    assert_string_equal(issuer_format_scopes(issuers_named(issuers, "corp"), SCOPE_BIT(READ), names, sizeof names), "api://app-1/mcp:read");
    assert_string_equal(issuer_format_scopes(issuers_named(issuers, "kc"), SCOPE_BIT(READ), names, sizeof names), "read");
    assert_string_equal(issuer_format_scopes(issuers_named(issuers, "ba"), SCOPE_BIT(READ) | SCOPE_BIT(PROXY), names, 12), "mcp:read");
    assert_string_equal(issuer_format_scopes(issuers_named(issuers, "ba"), 0, names, sizeof names), "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(better_auths_token_gives_its_context),
        cmocka_unit_test(entras_tokens_of_both_versions_name_one_user),
        cmocka_unit_test(one_oid_in_two_directories_is_two_users),
        cmocka_unit_test(rules_map_claims_to_tenant_tier_and_second_factor),
        cmocka_unit_test(a_subject_too_long_for_an_id_is_digested),
        cmocka_unit_test(j18_expiry),
        cmocka_unit_test(j19_not_before_and_issued_at),
        cmocka_unit_test(j20_audience),
        cmocka_unit_test(j20_audiences_of_one_server_replace_those_of_all),
        cmocka_unit_test(a_cached_token_is_judged_for_another_server),
        cmocka_unit_test(j21_issuer),
        cmocka_unit_test(j21_a_key_marked_for_another_directory_does_not_sign),
        cmocka_unit_test(a_v1_token_verifies_with_keys_marked_in_the_v2_form),
        cmocka_unit_test(j22_tokens_that_are_no_access_tokens),
        cmocka_unit_test(j27_keys_come_and_go_with_the_set),
        cmocka_unit_test(j28_scopes),
        cmocka_unit_test(j29_a_token_bound_to_a_key_is_no_bearer_token),
        cmocka_unit_test(clients_and_required_claims),
        cmocka_unit_test(the_algorithm_is_the_issuers_choice),
        cmocka_unit_test(an_introspection_answer_is_judged_as_a_token_is),
        cmocka_unit_test(a_token_of_another_application_at_github_or_google_is_refused),
        cmocka_unit_test(an_opaque_token_belongs_to_the_issuer_of_its_prefix),
        cmocka_unit_test(an_explanation_goes_on_behind_the_first_refusal),
        cmocka_unit_test(what_cannot_be_checked_is_not_reached),
        cmocka_unit_test(judgement_and_explanation_agree),
        cmocka_unit_test(the_explanation_as_json_never_holds_the_signature),
        cmocka_unit_test(scopes_are_asked_for_by_the_issuers_names),
    };

    return cmocka_run_group_tests_name("token", tests, load, release);
}
