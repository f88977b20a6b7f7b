/* test_issuers.c - what of `issuers:` is refused, with which line and remedy; what presets and the environment make of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <unistd.h>

#include "common/issuers.h"
#include "common/jose.h"

#define DIRECTORY "7f0c2b3e-1111-2222-3333-444455556666"
#define OIDC      "{name: a, preset: oidc, issuer: 'https://a.example', audiences: x"

static char file[] = "/tmp/test_issuers-XXXXXX", secret_file[] = "/tmp/test_issuers-secret-XXXXXX", complaint[1000];
static struct issuers *issuers;
static struct issuers_options options;

static int make_files(void **state)
{
    (void)state;

    const int fd = mkstemp(file), secret = mkstemp(secret_file);
    const bool is_written = fd >= 0 && secret >= 0 && write(secret, "hush\n", 5) == 5;

    close(fd);
    close(secret);
    return is_written ? 0 : -1;
}

static int remove_files(void **state)
{
    (void)state;

    unlink(file);
    unlink(secret_file);
    return 0;
}

static int clear(void **state)
{
    (void)state;

    issuers_destroy(&issuers);
    options = (struct issuers_options){ .file = file, .with_secrets = true };
    complaint[0] = '\0';
    return 0;
}

static enum err load(const char *yaml)
{
    FILE *out = fopen(file, "w");

    assert_non_null(out);
    fputs(yaml, out);
    fclose(out);
    issuers_destroy(&issuers);
    return issuers_load(&options, &issuers, complaint, sizeof complaint);
}

static void assert_loaded(const char *yaml)
{
    if (load(yaml) != ERR_OK)
        fail_msg("%s", complaint);
}

static void assert_complaint_has(const char *part)
{
    if (strstr(complaint, part) == NULL)
        fail_msg("\"%s\" lacks \"%s\"", complaint, part);
    assert_null(strchr(complaint, '\n'));
}

static void assert_refused(const char *yaml, const char *place, const char *words)
{
    if (load(yaml) != ERR_MALFORMED)
        fail_msg("%s is taken", yaml);
    assert_null(issuers);
    assert_complaint_has(place);
    assert_complaint_has(words);
}

/* ---- refusals ---------------------------------------------------------------------------------------- */

static void a_bad_list_is_refused_with_line_and_remedy(void **state)
{
    (void)state;

    assert_refused("issuers: yes\n", ":1: issuers", "write a list");
    assert_refused("issuers: {a: b}\n", ":1: issuers", "write a list");
    assert_refused("log_level: info\nissuers:\n  - just-a-name\n", ":3: issuers", "mapping");
    assert_refused("issuers: []\nissuers: []\n", ":2: issuers", "stood before");
    assert_refused("issuers: [{name: a}]\n", "preset", "required");
    assert_refused("issuers: [{preset: oidc}]\n", "name", "required");
    assert_refused("issuers:\n  - name: a\n    preset: oidc\n    isuer: x\n", ":4: issuers: isuer", "docs/oauth.md");
    assert_refused("issuers:\n  - name: a\n    preset: oidc\n    name: b\n", ":4: issuers: name", "stood before");
    assert_refused("issuers: [{name: A, preset: oidc}]\n", "name", "small letters");
    assert_refused("issuers: [{name: abcdefghijklmnopqrstu, preset: oidc}]\n", "name", "1 to 20 bytes");
    assert_refused("issuers: [{name: [a], preset: oidc}]\n", "name", "one value");
    assert_refused("issuers: [{name: a, preset: keycloak}]\n", ": a: preset", "better-auth");
    assert_refused("issuers: [" OIDC "}, " OIDC "}]\n", "name", "unique");
    assert_refused("issuers: [" OIDC "}, {name: b, preset: oidc, issuer: 'https://a.example', audiences: x}]\n", ": b: issuer", "a has the same");
    assert_refused("issuers: [\n", "is not YAML", "line");
    options.file = "/nonexistent.yaml";
    assert_int_equal(issuers_load(&options, &issuers, complaint, sizeof complaint), ERR_MALFORMED);
    assert_complaint_has("cannot be read");
}

static const struct { const char *field, *words; } bad_values[] = {
    { "issuer: 'ftp://x'", "http" },
    { "issuer: 'http://a.example'", "https" },
    { "issuer: 'https://u:p@a.example'", "user" },
    { "jwks_url: 'http://10.0.0.1/jwks'", "https" },
    { "algorithms: [HS256]", "key set is public" },
    { "algorithms: [none]", "none and HS*" },
    { "algorithms: [rs256]", "RS256" },
    { "algorithms: []", "no token can be accepted" },
    { "typ: []", "at+jwt" },
    { "derive_audiences: yes", "true or false" },
    { "leeway_s: 61", "0 to 60" },
    { "leeway_s: -1", "whole number" },
    { "leeway_s: ''", "whole number" },
    { "leeway_s: 99999999999999999999999", "whole number" },
    { "refresh_s: 59", "60 to 86400" },
    { "cooldown_s: 0", "5 to 3600" },
    { "user_claim: ''", "1 to 128" },
    { "user_prefix: 'A:'", "small letters" },
    { "user_prefix: ''", "could name the users of others" },
    { "local_users: true, user_prefix: x", "remove one of the two" },
    { "tenant: t, tenant_claim: org", "remove tenant_claim" },
    { "tenants: [{claim: a, value: b, tenant: c}], tenant_claim: org", "keep one of the two" },
    { "tenants: [{claim: a, value: b}]", "needs tenant" },
    { "tenants: {claim: a}", "list of rules" },
    { "tenants: [x]", "{claim: c, value: v, tenant: x}" },
    { "scopes: [{value: x}]", "needs grants" },
    { "scopes: [{value: x, grants: superuser}]", "read, write, admin" },
    { "scopes: [{value: x, grants: []}]", "at least one" },
    { "scopes: [{grants: read}]", "claim and value" },
    { "scopes: [{value: x, grants: read, tier: admin}]", "nothing else" },
    { "tiers: [{claim: a, value: b, tier: gold}]", "admin, api_key or oauth" },
    { "second_factor: [{claim: amr}]", "claim and value" },
    { "require: [{claim: hd, value: a, grants: read}]", "nothing else" },
    { "grants: all", "read, write, admin" },
    { "clients: {a: b}", "write a list" },
    { "clients: [\"\\u00e9\"]", "printable" },
    { "server_audiences: [a]", "slug" },
    { "server_audiences: {'': a}", "slug" },
    { "opaque: maybe", "introspect" },
    { "opaque: database", "better-auth" },
    { "opaque: introspect", "introspection_url" },
    { "opaque: introspect, introspection_url: 'https://a.example/i'", "client_id" },
    { "introspection_url: 'https://a.example/i'", "opaque: introspect" },
    { "client_id: x", "opaque: introspect" },
    { "client_secret: x", "opaque: introspect" },
    { "opaque_prefix: x", "opaque" },
    { "client_secret_file: /nonexistent", "cannot be read" },
    { "client_secret: ''", "client_secret_file" },
    { "discovery_url: 'https://a.example/d', jwks_url: 'https://a.example/j'", "keep one" },
    { "azure_tenant: x", "no meaning with preset oidc" },
};

static void a_bad_value_is_refused_with_its_field_and_remedy(void **state)
{
    char yaml[600];
    (void)state;

    for (size_t i = 0; i < sizeof bad_values / sizeof bad_values[0]; i++) {
        const bool has_issuer = strncmp(bad_values[i].field, "issuer:", 7) == 0;

        snprintf(yaml, sizeof yaml, "issuers:\n  - {name: a, preset: oidc, audiences: x, %s%s}\n", has_issuer ? "" : "issuer: 'https://a.example', ", bad_values[i].field);
        assert_refused(yaml, ":2: issuers: a: ", bad_values[i].words);
    }
}

static void lists_and_rules_are_bounded(void **state)
{
    static char yaml[20000];
    (void)state;

    for (int variant = 0; variant < 3; variant++) {
        static const char *const fields[] = { "clients", "audiences", "scopes" };
        static const char *const items[] = { "x,", "x,", "{value: x, grants: read}," };
        size_t length = (size_t)snprintf(yaml, sizeof yaml, "issuers: [{name: a, preset: oidc, issuer: 'https://a.example', derive_audiences: false, %s: [", fields[variant]);

        for (unsigned i = 0; i < 140; i++)
            length += (size_t)snprintf(yaml + length, sizeof yaml - length, "%s", items[variant]);
        snprintf(yaml + length, sizeof yaml - length, "]}]\n");
        assert_refused(yaml, fields[variant], "at most");
    }
    size_t length = (size_t)snprintf(yaml, sizeof yaml, "issuers:\n");

    for (unsigned i = 0; i < 17; i++)
        length += (size_t)snprintf(yaml + length, sizeof yaml - length, "  - {name: a%u, preset: oidc, issuer: 'https://a%u.example', audiences: x}\n", i, i);
    assert_refused(yaml, ":18: issuers", "at most 16");
}

static void audiences_must_come_from_somewhere(void **state)
{
    (void)state;

    assert_refused("issuers: [{name: a, preset: oidc, issuer: 'https://a.example'}]\n", "audiences", "MCPGW_PUBLIC_URL");
    assert_refused("issuers: [{name: a, preset: oidc, issuer: 'https://a.example', derive_audiences: false}]\n", "audiences", "list what");
    assert_refused("issuers: [{name: a, preset: better-auth, audiences: x}]\n", "issuer", "required");
    options.public_url = "https://gw.example";
    assert_loaded("issuers: [{name: a, preset: oidc, issuer: 'https://a.example'}]\n");
    assert_string_equal(issuers->public_url, "https://gw.example");
}

static void entra_needs_to_know_directory_and_application(void **state)
{
    (void)state;

    assert_refused("issuers: [{name: a, preset: entra-v2}]\n", "azure_tenant", "MCPGW_AZURE_TENANT_ID");
    assert_refused("issuers: [{name: a, preset: entra-v2, azure_tenant: contoso.onmicrosoft.com}]\n", "azure_tenant", "GUID");
    assert_refused("issuers: [{name: a, preset: entra-v2, azure_tenant: " DIRECTORY "}]\n", "client_id", "MCPGW_AZURE_CLIENT_ID");
    assert_refused("issuers: [{name: a, preset: entra-v2, azure_tenant: common, client_id: x}]\n", "azure_tenants", "every directory");
    assert_refused("issuers: [{name: a, preset: entra-v2, azure_tenant: common, azure_tenants: [contoso], client_id: x}]\n", "azure_tenants", "no GUID");
    assert_refused("issuers: [{name: a, preset: entra-v2, azure_tenant: " DIRECTORY ", azure_tenants: [any], client_id: x}]\n", "azure_tenants", "remove it");
    assert_refused("issuers: [{name: a, preset: entra-v2, azure_tenant: common, azure_tenants: any, client_id: x, issuer: 'https://a.example'}]\n", "issuer", "{tenantid}");
    assert_refused("issuers: [{name: a, preset: entra-v2, opaque: introspect}]\n", "opaque", "no meaning with preset entra-v2");
}

static void github_and_google_need_an_application_that_proves_the_audience(void **state)
{
    (void)state;

    assert_refused("issuers: [{name: a, preset: github, grants: read}]\n", "client_id", "Better-Auth");
    assert_refused("issuers: [{name: a, preset: github, client_id: x, grants: read}]\n", "client_id", "client_secret");
    assert_refused("issuers: [{name: a, preset: google, grants: read}]\n", "client_id", "any other application");
    assert_refused("issuers: [{name: a, preset: google, client_id: x}]\n", "grants", "grants: [read, proxy]");
    assert_refused("issuers: [{name: a, preset: github, client_id: 'a/../b', client_secret: s, grants: read}]\n", "client_id", "stands in a URL");
    assert_refused("issuers: [{name: a, preset: github, jwks_url: 'https://x.example'}]\n", "jwks_url", "no meaning");
    assert_loaded("issuers: [{name: a, preset: github, client_id: Iv1.x, client_secret: s, grants: read}]\n");
    assert_string_equal(issuers->list[0].introspection_url, "https://api.github.com/applications/Iv1.x/token");
    assert_false(issuers->list[0].advertise);
    assert_false(issuer_has_keys(&issuers->list[0]));
}

/* ---- what is read ------------------------------------------------------------------------------------ */

static void a_file_without_the_list_has_no_issuers(void **state)
{
    (void)state;

    assert_loaded("log_level: info\n");
    assert_int_equal(issuers->count, 0);
    assert_loaded("issuers: []\n");
    assert_int_equal(issuers->count, 0);
    assert_loaded("");
    assert_int_equal(issuers->count, 0);
    options.file = NULL;
    issuers_destroy(&issuers);
    assert_int_equal(issuers_load(&options, &issuers, complaint, sizeof complaint), ERR_OK);
    assert_int_equal(issuers->count, 0);
}

static void presets_fill_what_is_not_written(void **state)
{
    (void)state;

    options.public_url = "https://gw.example/";
    assert_loaded("issuers:\n"
                  "  - {name: ba, preset: better-auth, issuer: 'https://a.example/api/auth/'}\n"
                  "  - {name: kc, preset: oidc, issuer: 'https://kc.example/realms/r', typ: [JWT, at+jwt], leeway_s: 0, algorithms: ES256}\n"
                  "  - {name: corp, preset: entra-v2, azure_tenant: 7F0C2B3E-1111-2222-3333-444455556666, client_id: app}\n"
                  "  - {name: old, preset: entra-v1, azure_tenant: " DIRECTORY ", client_id: app, audiences: 'https://api.example'}\n"
                  "  - {name: us, preset: entra-v2, azure_tenant: consumers, client_id: app, azure_authority: 'https://login.microsoftonline.us/'}\n");
    const struct issuer *ba = issuers_named(issuers, "ba"), *kc = issuers_named(issuers, "kc"), *corp = issuers_named(issuers, "corp");
    const struct issuer *old = issuers_named(issuers, "old"), *us = issuers_named(issuers, "us");

    assert_null(issuers_named(issuers, "none"));
    assert_string_equal(issuers->public_url, "https://gw.example");
    assert_string_equal(ba->jwks_url, "https://a.example/api/auth/jwks");
    assert_string_equal(ba->discovery_url, "");
    assert_string_equal(ba->user_prefix, "");
    assert_true(ba->local_users && ba->derive_audiences && ba->advertise);
    assert_string_equal(ba->types.texts[0], "at+jwt");
    assert_string_equal(kc->discovery_url, "https://kc.example/realms/r/.well-known/openid-configuration");
    assert_string_equal(kc->authorization_server, "https://kc.example/realms/r");
    assert_string_equal(kc->user_prefix, "kc");
    assert_int_equal(kc->types.count, 2);
    assert_int_equal(kc->leeway_s, 0);
    assert_int_equal(kc->algorithms, JOSE_BIT(ES256));
    assert_string_equal(corp->issuer, "https://login.microsoftonline.com/" DIRECTORY "/v2.0");
    assert_string_equal(corp->jwks_url, "https://login.microsoftonline.com/" DIRECTORY "/discovery/v2.0/keys");
    assert_string_equal(corp->audiences[0].value, "app");
    assert_string_equal(corp->audiences[1].value, "api://app");
    assert_string_equal(corp->scope_prefix, "api://app/");
    assert_int_equal(corp->algorithms, JOSE_BIT(RS256));
    assert_false(corp->derive_audiences);
    assert_string_equal(old->issuer, "https://sts.windows.net/" DIRECTORY "/");
    assert_string_equal(old->jwks_url, "https://login.microsoftonline.com/" DIRECTORY "/discovery/keys");
    assert_int_equal(old->audience_count, 1);
    assert_string_equal(us->issuer, "https://login.microsoftonline.us/9188040d-6c67-4c5b-b112-36a304b66dad/v2.0");
}

static void accounts_of_better_auth_are_known_by_the_claim_that_it_stores(void **state)
{
    (void)state;

    options.public_url = "https://gw.example";
    assert_loaded("issuers:\n"
                  "  - {name: one, preset: entra-v2, azure_tenant: " DIRECTORY ", client_id: app}\n"
                  "  - {name: old, preset: entra-v1, azure_tenant: " DIRECTORY ", client_id: app, account_provider: work}\n"
                  "  - {name: many, preset: entra-v2, azure_tenant: common, azure_tenants: any, client_id: app}\n"
                  "  - {name: us, preset: entra-v2, azure_tenant: consumers, client_id: app, user_claim: email}\n"
                  "  - {name: hub, preset: github, client_id: Iv1.x, client_secret: s, grants: read}\n"
                  "  - {name: goo, preset: google, client_id: x, grants: read, account_provider: ''}\n"
                  "  - {name: ba, preset: better-auth, issuer: 'https://a.example'}\n"
                  "  - {name: kc, preset: oidc, issuer: 'https://kc.example', account_provider: keycloak}\n"
                  "  - {name: kd, preset: oidc, issuer: 'https://kd.example'}\n");
    static const struct { const char *name, *provider; } rows[] = {
        { "one", "microsoft" }, { "old", "work" }, { "many", "" }, { "us", "" }, { "hub", "github" }, { "goo", "" }, { "ba", "" },
        { "kc", "keycloak" }, { "kd", "" },
    };

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        assert_string_equal(issuers_named(issuers, rows[i].name)->account_provider, rows[i].provider);
    assert_refused("issuers: [{name: a, preset: entra-v2, azure_tenant: common, azure_tenants: any, client_id: x, account_provider: microsoft}]\n",
                   "account_provider", "one entry for each directory");
    assert_refused("issuers: [{name: a, preset: better-auth, issuer: 'https://a.example', account_provider: google}]\n",
                   "account_provider", "local_users");
    assert_refused("issuers: [" OIDC ", account_provider: credential}]\n", "account_provider", "no issuer vouches");
}

static void rules_that_are_written_replace_those_of_the_preset(void **state)
{
    (void)state;

    assert_loaded("issuers: [" OIDC ", scopes: [{value: a, grants: [read, proxy]}, {claim: x.y, value: b, grants: 'write, metrics'}]}]\n");
    const struct issuer *issuer = &issuers->list[0];
    size_t scopes = 0, factors = 0;

    for (size_t i = 0; i < issuer->rule_count; i++) {
        scopes += issuer->rules[i].kind == RULE_SCOPE;
        factors += issuer->rules[i].kind == RULE_SECOND_FACTOR;
    }
    assert_int_equal(scopes, 2);
    assert_int_equal(factors, 1);
    assert_loaded("issuers: [" OIDC ", scopes: [], second_factor: []}]\n");
    assert_int_equal(issuers->list[0].rule_count, 0);
}

static void a_secret_is_read_only_by_those_who_need_it(void **state)
{
    char yaml[400];
    (void)state;

    snprintf(yaml, sizeof yaml, "issuers: [" OIDC ", opaque: introspect, introspection_url: 'http://127.0.0.1:9/i', client_id: c, client_secret_file: %s}]\n", secret_file);
    assert_loaded(yaml);
    assert_string_equal(secret_text(&issuers->list[0].client_secret), "hush");
    options.with_secrets = false;
    assert_loaded(yaml);
    assert_false(secret_is_set(&issuers->list[0].client_secret));
    assert_refused("issuers: [" OIDC ", opaque: introspect, introspection_url: 'http://127.0.0.1:9/i', client_id: c, client_secret: hunter2, client_secret_file: x}]\n",
                   "client_secret_file", "keep one");
    assert_null(strstr(complaint, "hunter2"));
}

static void entra_from_the_environment_alone(void **state)
{
    struct secret secret = { .size = 4, .bytes = "hush" };
    (void)state;

    options = (struct issuers_options){ .azure_tenant_id = DIRECTORY, .azure_client_id = "app", .azure_client_secret = &secret, .with_secrets = true };
    assert_int_equal(issuers_load(&options, &issuers, complaint, sizeof complaint), ERR_OK);
    assert_int_equal(issuers->count, 2);
    assert_string_equal(issuers->list[0].name, "entra");
    assert_string_equal(issuers->list[1].name, "entra-v1");
    assert_string_equal(issuers->list[1].user_prefix, "entra");
    assert_true(issuers->list[0].advertise);
    assert_false(issuers->list[1].advertise);
    assert_string_equal(secret_text(&issuers->list[0].client_secret), "hush");
    issuers_destroy(&issuers);
    options.azure_client_id = "";
    assert_int_equal(issuers_load(&options, &issuers, complaint, sizeof complaint), ERR_MALFORMED);
    assert_complaint_has("MCPGW_AZURE_CLIENT_ID");
    options.azure_client_id = "app";
    options.azure_tenant_id = "common";
    assert_int_equal(issuers_load(&options, &issuers, complaint, sizeof complaint), ERR_MALFORMED);
    assert_complaint_has("azure_tenants");
}

static void the_environment_fills_an_entra_entry_of_the_file(void **state)
{
    (void)state;

    options.azure_tenant_id = DIRECTORY;
    options.azure_client_id = "app";
    assert_loaded("issuers: [{name: corp, preset: entra-v2}]\n");
    assert_int_equal(issuers->count, 1);
    assert_string_equal(issuers->list[0].client_id, "app");
    assert_loaded("issuers: [" OIDC "}]\n");
    assert_int_equal(issuers->count, 3);    /* entra and entra-v1 stand behind */
}

static void resource_identifiers_are_compared_as_rfc_8707_reads_them(void **state)
{
    (void)state;

    assert_true(audience_equals("https://gw.example/mcp/a", "https://gw.example/mcp/a/"));
    assert_true(audience_equals("https://GW.example/mcp/a", "HTTPS://gw.EXAMPLE/mcp/a#x"));
    assert_true(audience_equals("app", "app"));
    assert_false(audience_equals("App", "app"));
    assert_false(audience_equals("https://gw.example/mcp/A", "https://gw.example/mcp/a"));
    assert_false(audience_equals("https://gw.example/mcp/a", "https://gw.example/mcp/a//"));
    assert_false(audience_equals("https://gw.example", "https://gw.example.evil"));
    assert_false(audience_equals("https://gw.example", "http://gw.example"));
    assert_false(audience_equals("", "a"));
    assert_true(audience_equals("", ""));
    assert_false(audience_equals("api://APP", "api://app"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(a_bad_list_is_refused_with_line_and_remedy, clear),
        cmocka_unit_test_setup(a_bad_value_is_refused_with_its_field_and_remedy, clear),
        cmocka_unit_test_setup(lists_and_rules_are_bounded, clear),
        cmocka_unit_test_setup(audiences_must_come_from_somewhere, clear),
        cmocka_unit_test_setup(entra_needs_to_know_directory_and_application, clear),
        cmocka_unit_test_setup(github_and_google_need_an_application_that_proves_the_audience, clear),
        cmocka_unit_test_setup(a_file_without_the_list_has_no_issuers, clear),
        cmocka_unit_test_setup(presets_fill_what_is_not_written, clear),
        cmocka_unit_test_setup(accounts_of_better_auth_are_known_by_the_claim_that_it_stores, clear),
        cmocka_unit_test_setup(rules_that_are_written_replace_those_of_the_preset, clear),
        cmocka_unit_test_setup(a_secret_is_read_only_by_those_who_need_it, clear),
        cmocka_unit_test_setup(entra_from_the_environment_alone, clear),
        cmocka_unit_test_setup(the_environment_fills_an_entra_entry_of_the_file, clear),
        cmocka_unit_test_setup_teardown(resource_identifiers_are_compared_as_rfc_8707_reads_them, clear, clear),
    };

    return cmocka_run_group_tests_name("issuers", tests, make_files, remove_files);
}
