/* The rules of keys: what bodies and queries may hold, who may do what, whose a key is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "common/scope.h"
#include "services/keys/keys_rules.h"

DEFINE_DESTROY(json_destroy, json_t, json_decref)

static struct problem problem;

static json_t *parse(const char *text)
{
    json_t *value = json_loads(text, 0, NULL);

    if (value == NULL)
        fail_msg("not JSON: %s", text);
    return value;
}

static enum err create(const char *text, struct key_fields *fields)
{
    OWNED(json_destroy) json_t *body = parse(text);

    memset(&problem, 0, sizeof problem);
    return keys_parse_create(body, 7776000, fields, &problem);
}

static enum err update(const char *text, struct key_fields *fields)
{
    OWNED(json_destroy) json_t *body = parse(text);

    memset(&problem, 0, sizeof problem);
    return keys_parse_update(body, fields, &problem);
}

static void is_refused(enum err err, enum err wanted, const char *field)
{
    assert_int_equal(err, wanted);
    assert_int_equal(problem.err, wanted);
    assert_string_equal(problem.field, field);
    assert_true(problem.detail[0] != '\0');
}

/* Puts one member into an otherwise good body. */
static void create_refuses(const char *field, const char *value)
{
    struct key_fields fields;
    char text[6000], top[64];

    snprintf(text, sizeof text, "{%s\"%.*s\":%s}", strncmp(field, "scopes", 6) == 0 ? "" : "\"scopes\":[\"read\"],",
             (int)strcspn(field, "."), field, value);
    snprintf(top, sizeof top, "%s", field);
    is_refused(create(text, &fields), ERR_UNPROCESSABLE, top);
}

static void a_body_that_is_no_object_is_malformed(void **state)
{
    OWNED(json_destroy) json_t *list = parse("[]");
    struct server_fields server;
    struct key_fields fields;
    char reason[KEYS_REASON_MAX + 1];
    const char *key;

    (void)state;
    is_refused(create("[]", &fields), ERR_MALFORMED, "");
    is_refused(update("[1]", &fields), ERR_MALFORMED, "");
    is_refused(keys_parse_create(NULL, 0, &fields, &problem), ERR_MALFORMED, "");
    is_refused(keys_parse_reason(list, reason, &problem), ERR_MALFORMED, "");
    is_refused(keys_parse_verify(list, &key, &problem), ERR_MALFORMED, "");
    is_refused(keys_parse_server(list, true, &server, &problem), ERR_MALFORMED, "");
}

static void a_name_is_a_short_text_without_control_characters(void **state)
{
    (void)state;
    create_refuses("name", "5");
    create_refuses("name", "\"\"");
    create_refuses("name", "\"a\\nb\"");
    create_refuses("name", "\"a\\u007fb\"");
    create_refuses("name", "\"123456789012345678901234567890123\"");
    create_refuses("name", "\"\\u00e4\\u00e4\\u00e4\\u00e4\\u00e4\\u00e4\\u00e4\\u00e4\\u00e4\\u00e4\\u00e4\\u00e4\\u00e4\\u00e4\\u00e4\\u00e4"
                           "\\u00e4\\u00e4\\u00e4\\u00e4\\u00e4\\u00e4\\u00e4\\u00e4\\u00e4\\u00e4\\u00e4\\u00e4\\u00e4\\u00e4\\u00e4\\u00e4\\u00e4\"");
    create_refuses("name", "\"123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890"
                           "1234567890123456789012345678901234567890\"");
}

static void scopes_are_a_list_of_known_ones(void **state)
{
    struct key_fields fields;

    (void)state;
    create_refuses("scopes", "[]");
    create_refuses("scopes", "\"read\"");
    create_refuses("scopes", "[1]");
    create_refuses("scopes", "[\"read\",\"root\"]");
    is_refused(create("{}", &fields), ERR_UNPROCESSABLE, "scopes");
}

static void numbers_are_whole_and_within_their_limits(void **state)
{
    (void)state;
    create_refuses("expiresIn", "0");
    create_refuses("expiresIn", "-1");
    create_refuses("expiresIn", "1.5");
    create_refuses("expiresIn", "\"60\"");
    create_refuses("expiresIn", "315360001");
    create_refuses("rateLimit", "5");
    create_refuses("rateLimit", "{\"requests\":5}");
    create_refuses("rateLimit.requests", "{\"requests\":0,\"window\":5}");
    create_refuses("rateLimit.requests", "{\"requests\":null,\"window\":5}");
    create_refuses("rateLimit.requests", "{\"requests\":2147483648,\"window\":5}");
    create_refuses("rateLimit.window", "{\"requests\":5,\"window\":2147484}");
    create_refuses("rateLimit.window", "{\"requests\":5,\"window\":null}");
}

static void metadata_must_not_make_a_key_unusable_for_better_auth(void **state)
{
    char text[KEYS_METADATA_MAX + 64];

    (void)state;
    create_refuses("metadata", "[]");
    create_refuses("metadata", "\"x\"");
    create_refuses("metadata", "{\"constructor\":1}");
    create_refuses("metadata", "{\"a\":{\"__proto__\":1}}");
    create_refuses("metadata", "{\"a\":[{\"constructor\":1}]}");
    create_refuses("metadata", "{\"a\":[[[[[[[[[[1]]]]]]]]]]}");
    snprintf(text, sizeof text, "{\"a\":\"%0*d\"}", (int)KEYS_METADATA_MAX, 0);
    create_refuses("metadata", text);
}

static void ids_hold_no_foreign_characters(void **state)
{
    (void)state;
    create_refuses("userId", "\"\"");
    create_refuses("userId", "\"a b\"");
    create_refuses("userId", "7");
    create_refuses("userId", "\"123456789012345678901234567890123456789012345678901234567890\"");
    create_refuses("tenantId", "\"a/b\"");
    create_refuses("tenantId", "null");
}

static void fields_that_nothing_enforces_are_refused_by_name(void **state)
{
    static const char *const names[] = { "allowedOrigins", "notBefore", "remaining", "refillAmount" };
    struct key_fields fields;
    char text[100];

    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        snprintf(text, sizeof text, "{\"%s\":[]}", names[i]);
        is_refused(create(text, &fields), ERR_UNPROCESSABLE, names[i]);
        assert_string_equal(problem.code, "not_enforced");
        is_refused(update(text, &fields), ERR_UNPROCESSABLE, names[i]);
        assert_string_equal(problem.code, "not_enforced");
    }
    create_refuses("colour", "1");
    assert_null(problem.code);
}

static void a_create_takes_what_it_is_given(void **state)
{
    struct key_fields fields;

    (void)state;
    assert_int_equal(create("{\"name\":\"n\\u00e4me\",\"scopes\":[\"read\",\"proxy\"],\"expiresIn\":60,\"rateLimit\":{\"requests\":5,\"window\":7},"
                            "\"metadata\":{\"a\":[1,{\"b\":null}]},\"userId\":\"u-1\",\"tenantId\":\"user:u-1\"}", &fields), ERR_OK);
    assert_string_equal(fields.name, "n\xc3\xa4me");
    assert_int_equal(fields.scopes, SCOPE_BIT(READ) | SCOPE_BIT(PROXY));
    assert_int_equal(fields.expires_in_s, 60);
    assert_int_equal(fields.rate_requests, 5);
    assert_int_equal(fields.rate_window_s, 7);
    assert_string_equal(fields.metadata, "{\"a\":[1,{\"b\":null}]}");
    assert_string_equal(fields.user_id, "u-1");
    assert_string_equal(fields.tenant_id, "user:u-1");
    assert_true(fields.has_name && fields.has_scopes && fields.has_expiry && fields.has_rate && fields.has_metadata && fields.has_user && fields.has_tenant);
}

static void a_create_without_wishes_has_defaults(void **state)
{
    struct key_fields fields;

    (void)state;
    assert_int_equal(create("{\"scopes\":[\"admin\"],\"name\":null}", &fields), ERR_OK);
    assert_string_equal(fields.name, "");
    assert_int_equal(fields.expires_in_s, 7776000);
    assert_int_equal(fields.rate_requests, 0);
    assert_string_equal(fields.metadata, "null");
    assert_int_equal(create("{\"scopes\":[\"admin\"],\"expiresIn\":null,\"metadata\":null,\"rateLimit\":null}", &fields), ERR_OK);
    assert_int_equal(fields.expires_in_s, 0);
}

static void an_update_changes_what_it_names(void **state)
{
    struct key_fields fields;

    (void)state;
    is_refused(update("{\"expiresAt\":\"2030-01-01T00:00:00Z\"}", &fields), ERR_UNPROCESSABLE, "expiresAt");
    is_refused(update("{\"userId\":\"u\"}", &fields), ERR_UNPROCESSABLE, "userId");
    assert_int_equal(update("{}", &fields), ERR_OK);
    assert_false(fields.has_name || fields.has_scopes || fields.has_expiry || fields.has_rate || fields.has_metadata);
    assert_int_equal(update("{\"expiresAt\":null,\"name\":\"x\"}", &fields), ERR_OK);
    assert_true(fields.has_expiry && fields.has_name);
    assert_int_equal(fields.expires_in_s, 0);
}

static void a_reason_is_a_short_text(void **state)
{
    static const struct { const char *text, *field; } rows[] = {
        { "{\"reason\":5}", "reason" }, { "{\"why\":\"x\"}", "why" }, { "{\"reason\":\"x\",\"more\":1}", "more" },
        { "{\"more\":1,\"reason\":\"x\"}", "more" }, { "{\"tools\":[]}", "tools" },
    };
    char reason[KEYS_REASON_MAX + 1], text[300];
    OWNED(json_destroy) json_t *good = parse("{\"reason\":\"leaked\"}");
    OWNED(json_destroy) json_t *none = parse("{\"reason\":null}");
    OWNED(json_destroy) json_t *empty = parse("{}");
    OWNED(json_destroy) json_t *long_one = NULL;

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        OWNED(json_destroy) json_t *body = parse(rows[i].text);

        is_refused(keys_parse_reason(body, reason, &problem), ERR_UNPROCESSABLE, rows[i].field);
    }
    snprintf(text, sizeof text, "{\"reason\":\"%0201d\"}", 0);
    long_one = parse(text);
    is_refused(keys_parse_reason(long_one, reason, &problem), ERR_UNPROCESSABLE, "reason");
    assert_int_equal(keys_parse_reason(NULL, reason, &problem), ERR_OK);
    assert_int_equal(keys_parse_reason(empty, reason, &problem), ERR_OK);
    assert_int_equal(keys_parse_reason(none, reason, &problem), ERR_OK);
    assert_string_equal(reason, "");
    assert_int_equal(keys_parse_reason(good, reason, &problem), ERR_OK);
    assert_string_equal(reason, "leaked");
}

static void a_verify_takes_one_key(void **state)
{
    OWNED(json_destroy) json_t *none = parse("{}");
    OWNED(json_destroy) json_t *number = parse("{\"digest\":1}");
    OWNED(json_destroy) json_t *more = parse("{\"digest\":\"a\",\"b\":1}");
    OWNED(json_destroy) json_t *good = parse("{\"digest\":\"d\"}");
    const char *key = NULL;

    (void)state;
    is_refused(keys_parse_verify(none, &key, &problem), ERR_UNPROCESSABLE, "key");
    is_refused(keys_parse_verify(number, &key, &problem), ERR_UNPROCESSABLE, "key");
    is_refused(keys_parse_verify(more, &key, &problem), ERR_UNPROCESSABLE, "");
    assert_int_equal(keys_parse_verify(good, &key, &problem), ERR_OK);
    assert_string_equal(key, "d");
}

/* ---- who may ----------------------------------------------------------------------------------- */

static const struct caller admin = { "boss", "user:boss", SCOPE_ALL, AUTHORITY_OPERATOR, false };
static const struct caller alice = { "alice", "user:alice", SCOPE_BIT(WRITE) | SCOPE_BIT(READ), AUTHORITY_OWN, false };
static const struct caller reader = { "alice", "user:alice", SCOPE_BIT(READ), AUTHORITY_OWN, false };

static struct key_facts key_of(const char *reference)
{
    return (struct key_facts){ .reference_id = reference, .side_tenant_id = "", .organization_id = "", .enabled = true, .owner_exists = true };
}

static void calls_need_a_scope(void **state)
{
    const struct caller nobody = { "x", "user:x", SCOPE_BIT(PROXY), AUTHORITY_OWN, false };

    (void)state;
    is_refused(keys_decide_operation(&nobody, OPERATION_key_get, &problem), ERR_DENIED, "");
    is_refused(keys_decide_operation(&reader, OPERATION_key_create, &problem), ERR_DENIED, "");
    assert_int_equal(keys_decide_operation(&reader, OPERATION_key_get, &problem), ERR_OK);
    assert_int_equal(keys_decide_operation(&alice, OPERATION_key_create, &problem), ERR_OK);
    assert_int_equal(keys_decide_operation(&admin, OPERATION_server_create, &problem), ERR_OK);
}

static void a_key_sees_no_keys_of_its_owner_in_other_tenants(void **state)
{
    const struct caller made_by_acme = { "alice", "acme", SCOPE_BIT(WRITE), AUTHORITY_OWN, true };
    const struct caller alice_in_acme = { "alice", "acme", SCOPE_BIT(WRITE), AUTHORITY_OWN, false };
    struct key_facts key = key_of("alice");

    (void)state;
    assert_false(keys_may_see(&made_by_acme, &key));
    key.side_tenant_id = "globex";
    assert_false(keys_may_see(&made_by_acme, &key));
    assert_true(keys_may_see(&alice_in_acme, &key));
    key.side_tenant_id = "acme";
    assert_true(keys_may_see(&made_by_acme, &key));
    key.side_tenant_id = "";
    key.organization_count = 2;
    assert_false(keys_may_see(&made_by_acme, &key));
    assert_true(keys_may_see(&alice_in_acme, &key));
}

static void rotating_gives_nobody_a_scope_they_lack(void **state)
{
    (void)state;
    is_refused(keys_decide_rotation(&alice, SCOPE_BIT(ADMIN), &problem), ERR_DENIED, "");
    is_refused(keys_decide_rotation(&alice, SCOPE_BIT(READ) | SCOPE_BIT(PROXY), &problem), ERR_DENIED, "");
    assert_int_equal(keys_decide_rotation(&alice, SCOPE_BIT(READ), &problem), ERR_OK);
    assert_int_equal(keys_decide_rotation(&alice, 0, &problem), ERR_OK);
    assert_int_equal(keys_decide_rotation(&admin, SCOPE_ALL, &problem), ERR_OK);
}

static void a_key_is_seen_by_its_owner_and_administrators(void **state)
{
    const struct caller organization = { "org:acme", "acme", SCOPE_BIT(WRITE), AUTHORITY_OWN, false };
    struct key_facts key = key_of("bob");

    (void)state;
    assert_false(keys_may_see(&alice, &key));
    assert_true(keys_may_see(&admin, &key));
    key = key_of("alice");
    assert_true(keys_may_see(&alice, &key));
    key.is_organization = true;
    assert_false(keys_may_see(&alice, &key));
    key.reference_id = "acme";
    assert_true(keys_may_see(&organization, &key));
    key.reference_id = "other";
    assert_false(keys_may_see(&organization, &key));
    key.is_organization = false;
    key.reference_id = "acme";
    assert_false(keys_may_see(&organization, &key));
}

static enum authority authority_of(const char *user, const char *tenant, uint64_t scopes, const struct standing *standing)
{
    const struct caller caller = { user, tenant, scopes, AUTHORITY_OWN, false };
    bool is_wanted;
    enum authority authority = keys_authority(&caller, standing, "user:admin, ops", "owner,admin", &is_wanted);

    assert_int_equal(is_wanted, standing == NULL && authority == AUTHORITY_OWN && (scopes & SCOPE_BIT(ADMIN)) != 0);
    return authority;
}

static void scope_admin_reaches_as_far_as_tenant_and_role_say(void **state)
{
    const struct standing none = { .role = "" }, outsider = { .is_organization = true, .role = "" },
                          member = { .is_organization = true, .role = "member" };
    const struct standing owner = { .is_organization = true, .role = "owner" },
                          several = { .is_organization = true, .role = "member, admin" },
                          odd = { .is_organization = true, .role = "owners,,adm" };

    (void)state;
    assert_int_equal(authority_of("admin", "user:admin", SCOPE_BIT(WRITE), NULL), AUTHORITY_OWN);
    assert_int_equal(authority_of("admin", "user:admin", SCOPE_ALL, NULL), AUTHORITY_OPERATOR);
    assert_int_equal(authority_of("alice", "user:alice", SCOPE_ALL, NULL), AUTHORITY_TENANT);
    assert_int_equal(authority_of("alice", "user:admi", SCOPE_ALL, NULL), AUTHORITY_TENANT);
    assert_int_equal(authority_of("org:acme", "acme", SCOPE_ALL, NULL), AUTHORITY_TENANT);
    assert_int_equal(authority_of("alice", "acme", SCOPE_ALL, NULL), AUTHORITY_OWN);
    assert_int_equal(authority_of("alice", "acme", SCOPE_ALL, &none), AUTHORITY_TENANT);
    assert_int_equal(authority_of("alice", "acme", SCOPE_ALL, &outsider), AUTHORITY_OWN);
    assert_int_equal(authority_of("alice", "acme", SCOPE_ALL, &member), AUTHORITY_OWN);
    assert_int_equal(authority_of("alice", "acme", SCOPE_ALL, &odd), AUTHORITY_OWN);
    assert_int_equal(authority_of("alice", "acme", SCOPE_ALL, &owner), AUTHORITY_TENANT);
    assert_int_equal(authority_of("alice", "acme", SCOPE_ALL, &several), AUTHORITY_TENANT);
    assert_int_equal(authority_of("alice", "acme", SCOPE_BIT(WRITE), &owner), AUTHORITY_OWN);
    assert_int_equal(authority_of("alice", "ops", SCOPE_ALL, &member), AUTHORITY_OWN);
    assert_int_equal(authority_of("alice", "ops", SCOPE_ALL, &owner), AUTHORITY_OPERATOR);
    assert_int_equal(authority_of("org:ops", "ops", SCOPE_ALL, NULL), AUTHORITY_OPERATOR);
}

static void a_tenants_administrator_stays_within_the_tenant(void **state)
{
    const struct caller owner = { "olga", "acme", SCOPE_ALL, AUTHORITY_TENANT, false };
    struct key_facts key = key_of("bob");
    struct key_fields fields = { .has_user = true };
    char tenant[81];

    (void)state;
    assert_false(keys_may_see(&owner, &key));
    key.side_tenant_id = "acme";
    assert_true(keys_may_see(&owner, &key));
    is_refused(keys_decide_operation(&owner, OPERATION_server_create, &problem), ERR_DENIED, "");
    assert_int_equal(keys_decide_fields(&owner, &fields, &problem), ERR_OK);
    assert_int_equal(keys_decide_tenant(&owner, &fields, &key, tenant, &problem), ERR_OK);
    assert_string_equal(tenant, "acme");
    fields = (struct key_fields){ .has_tenant = true, .tenant_id = "globex" };
    is_refused(keys_decide_fields(&owner, &fields, &problem), ERR_DENIED, "tenantId");
    fields = (struct key_fields){ .has_tenant = true, .tenant_id = "acme" };
    assert_int_equal(keys_decide_fields(&owner, &fields, &problem), ERR_OK);
    fields = (struct key_fields){ .has_rate = true };
    is_refused(keys_decide_fields(&owner, &fields, &problem), ERR_DENIED, "rateLimit");
}

static void a_server_is_seen_by_its_tenant(void **state)
{
    (void)state;
    assert_false(keys_may_see_server(&alice, "acme"));
    assert_true(keys_may_see_server(&alice, ""));
    assert_true(keys_may_see_server(&alice, "user:alice"));
    assert_true(keys_may_see_server(&admin, "acme"));
}

static void nobody_gives_more_than_they_have(void **state)
{
    struct key_fields fields = { .has_scopes = true, .scopes = SCOPE_BIT(ADMIN) };

    (void)state;
    is_refused(keys_decide_fields(&alice, &fields, &problem), ERR_DENIED, "scopes");
    assert_int_equal(keys_decide_fields(&admin, &fields, &problem), ERR_OK);
    fields.scopes = SCOPE_BIT(READ);
    assert_int_equal(keys_decide_fields(&alice, &fields, &problem), ERR_OK);
    fields.has_user = true;
    is_refused(keys_decide_fields(&alice, &fields, &problem), ERR_DENIED, "userId");
    fields.has_user = false;
    fields.has_tenant = true;
    is_refused(keys_decide_fields(&alice, &fields, &problem), ERR_DENIED, "tenantId");
    fields.has_tenant = false;
    fields.has_rate = true;
    is_refused(keys_decide_fields(&alice, &fields, &problem), ERR_DENIED, "rateLimit");
    assert_int_equal(keys_decide_fields(&admin, &fields, &problem), ERR_OK);
}

static void a_tenant_is_what_the_owner_belongs_to(void **state)
{
    struct key_facts key = key_of("bob");
    char tenant[81];

    (void)state;
    assert_int_equal(keys_tenant(&key, tenant), ERR_OK);
    assert_string_equal(tenant, "user:bob");
    key.organization_count = 1;
    key.organization_id = "acme";
    assert_int_equal(keys_tenant(&key, tenant), ERR_OK);
    assert_string_equal(tenant, "acme");
    key.organization_count = 2;
    key.organization_id = "";
    assert_int_equal(keys_tenant(&key, tenant), ERR_CONFLICT);
    key.side_tenant_id = "side";
    assert_int_equal(keys_tenant(&key, tenant), ERR_OK);
    assert_string_equal(tenant, "side");
    key.is_organization = true;
    assert_int_equal(keys_tenant(&key, tenant), ERR_OK);
    assert_string_equal(tenant, "bob");
}

static void a_new_key_gets_the_tenant_its_maker_may_choose(void **state)
{
    const struct caller alice_of_acme = { "alice", "acme", SCOPE_BIT(WRITE), AUTHORITY_OWN, false };
    struct key_facts owner = key_of("alice");
    struct key_fields fields = { .has_tenant = false };
    char tenant[81];

    (void)state;
    assert_int_equal(keys_decide_tenant(&alice, &fields, &owner, tenant, &problem), ERR_OK);
    assert_string_equal(tenant, "");
    assert_int_equal(keys_decide_tenant(&alice_of_acme, &fields, &owner, tenant, &problem), ERR_OK);
    assert_string_equal(tenant, "acme");
    owner.organization_count = 2;
    assert_int_equal(keys_decide_tenant(&alice_of_acme, &fields, &owner, tenant, &problem), ERR_OK);
    assert_string_equal(tenant, "acme");
    fields.has_user = true;
    is_refused(keys_decide_tenant(&admin, &fields, &owner, tenant, &problem), ERR_UNPROCESSABLE, "tenantId");
    owner.organization_count = 0;
    assert_int_equal(keys_decide_tenant(&admin, &fields, &owner, tenant, &problem), ERR_OK);
    assert_string_equal(tenant, "");
    fields.has_tenant = true;
    snprintf(fields.tenant_id, sizeof fields.tenant_id, "user:bob");
    is_refused(keys_decide_tenant(&admin, &fields, &owner, tenant, &problem), ERR_UNPROCESSABLE, "tenantId");
    snprintf(fields.tenant_id, sizeof fields.tenant_id, "user:alice");
    assert_int_equal(keys_decide_tenant(&admin, &fields, &owner, tenant, &problem), ERR_OK);
    assert_string_equal(tenant, "user:alice");
    owner.is_organization = true;
    is_refused(keys_decide_tenant(&admin, &fields, &owner, tenant, &problem), ERR_UNPROCESSABLE, "tenantId");
    fields.has_tenant = false;
    assert_int_equal(keys_decide_tenant(&admin, &fields, &owner, tenant, &problem), ERR_OK);
}

static void a_key_verifies_only_when_nothing_speaks_against_it(void **state)
{
    struct key_facts key = key_of("bob");

    (void)state;
    assert_null(keys_refusal(&key));
    key.spent = true;
    assert_string_equal(keys_refusal(&key), "USAGE_EXCEEDED");
    key.tenant_suspended = true;
    assert_string_equal(keys_refusal(&key), "TENANT_SUSPENDED");
    key.organization_count = 2;
    assert_string_equal(keys_refusal(&key), "TENANT_AMBIGUOUS");
    key.owner_left = true;
    assert_string_equal(keys_refusal(&key), "OWNER_LEFT");
    key.owner_banned = true;
    assert_string_equal(keys_refusal(&key), "OWNER_BANNED");
    key.owner_exists = false;
    assert_string_equal(keys_refusal(&key), "OWNER_MISSING");
    key.expired = true;
    assert_string_equal(keys_refusal(&key), "KEY_EXPIRED");
    key.enabled = false;
    assert_string_equal(keys_refusal(&key), "KEY_DISABLED");
    key.revoked = true;
    assert_string_equal(keys_refusal(&key), "KEY_REVOKED");
}

static void permissions_give_scopes_of_one_resource(void **state)
{
    char text[17000];

    (void)state;
    assert_int_equal(keys_permission_scopes("", "mcp"), 0);
    assert_int_equal(keys_permission_scopes("garbage", "mcp"), 0);
    assert_int_equal(keys_permission_scopes("{\"mcp\":\"readwrite\"}", "mcp"), 0);
    assert_int_equal(keys_permission_scopes("{\"other\":[\"read\"]}", "mcp"), 0);
    assert_int_equal(keys_permission_scopes("{\"mcp\":[\"read\"],\"mcp\":[\"admin\"]}", "mcp"), 0);
    assert_int_equal(keys_permission_scopes("{\"mcp\":[\"x\",1,\"write\"]}", "mcp"), SCOPE_BIT(READ) | SCOPE_BIT(WRITE));
    assert_int_equal(keys_permission_scopes("{\"mcp\":[\"admin\"]}", "mcp"), SCOPE_ALL);
    snprintf(text, sizeof text, "{\"mcp\":[\"read\",\"%016400d\"]}", 0);
    assert_int_equal(keys_permission_scopes(text, "mcp"), 0);
}

/* ---- servers ----------------------------------------------------------------------------------- */

static void a_url_that_leads_astray_is_refused(void **state)
{
    static const char *const bad[] = {
        "", "example.com", "ftp://example.com", "file:///etc/passwd", "http://", "http:///path", "http://:80/", "http://u:p@example.com/",
        "http://u@169.254.169.254/", "http://a b/", "http://a\x01/", "http://\x7f/", "http://ex\xc3\xa4mple/", "http://a/#f", "http://a/<x>",
        "http://a:0/", "http://a:65536/", "http://a:x/", "http://a:/", "http://a:1234567/", "http://[::1", "http://[::1]x/", "http://[]/",
        "http://a!b/", "http://169.254.169.254/", "http://169.254.1.1:80/x", "http://2852039166/", "http://0xa9fea9fe/", "http://0251.0376.0251.0376/",
        "http://169.254.43518/", "http://169.254.169.254./", "http://0.0.0.0/", "http://0/", "http://224.0.0.1/", "http://255.255.255.255/",
        "http://100.100.100.200/", "http://192.0.0.192/", "http://[fe80::1]/", "http://[febf::1]:80/", "http://[ff02::1]/", "http://[::]/",
        "http://[::ffff:169.254.169.254]/", "http://[::169.254.169.254]/", "http://[64:ff9b::a9fe:a9fe]/", "http://[fd00:ec2::254]/",
        "http://metadata/", "http://METADATA.google.internal/computeMetadata", "https://metadata.google.internal./", "http://instance-data/latest",
        "http://[fe80::1%25eth0]/", "http://[fe80::a9fe:a9fe%251]:80/", "http://[1.2.3.4]/", "http://[name]/",
    };
    char text[KEYS_URL_MAX + 100];

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        if (keys_url_fault(bad[i]) == NULL)
            fail_msg("taken: %s", bad[i]);
    }
    snprintf(text, sizeof text, "http://a/%0*d", (int)KEYS_URL_MAX, 0);
    assert_non_null(keys_url_fault(text));
    snprintf(text, sizeof text, "http://%0300d/", 0);
    assert_non_null(keys_url_fault(text));
}

static void a_url_of_a_server_is_taken(void **state)
{
    static const char *const good[] = {
        "http://127.0.0.1:9000/mcp", "https://example.com", "HTTPS://Example.com:443/a?b=c", "http://localhost/", "http://[::1]:8080/mcp",
        "http://[2001:db8::1]/", "http://10.0.0.7/x", "http://files.internal:1/", "http://[::ffff:127.0.0.1]/", "http://1.2.3.4?x", "http://example.com./",
    };

    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        if (keys_url_fault(good[i]) != NULL)
            fail_msg("refused: %s: %s", good[i], keys_url_fault(good[i]));
    }
}

static enum err server(const char *text, bool is_new, struct server_fields *fields)
{
    OWNED(json_destroy) json_t *body = parse(text);

    memset(&problem, 0, sizeof problem);
    return keys_parse_server(body, is_new, fields, &problem);
}

static void a_server_is_described_by_known_fields(void **state)
{
    static const struct { const char *text, *field; } rows[] = {
        { "{\"url\":\"http://h/\"}", "slug" }, { "{\"slug\":\"a\"}", "url" }, { "{\"slug\":\"A\",\"url\":\"http://h/\"}", "slug" },
        { "{\"slug\":5}", "slug" }, { "{\"slug\":\"a\",\"url\":5}", "url" }, { "{\"url\":\"x\"}", "url" }, { "{\"name\":\"\"}", "name" },
        { "{\"tenantId\":\"a b\"}", "tenantId" }, { "{\"enabled\":1}", "enabled" }, { "{\"colour\":1}", "colour" }, { "{\"tools\":1}", "tools" },
    };
    struct server_fields fields;

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        is_refused(server(rows[i].text, true, &fields), ERR_UNPROCESSABLE, rows[i].field);
    is_refused(server("{\"slug\":\"a\"}", false, &fields), ERR_UNPROCESSABLE, "slug");
    assert_int_equal(server("{\"slug\":\"a-1\",\"url\":\"http://h/\",\"name\":\"N\",\"tenantId\":\"t\",\"enabled\":false}", true, &fields), ERR_OK);
    assert_string_equal(fields.slug, "a-1");
    assert_string_equal(fields.url, "http://h/");
    assert_string_equal(fields.tenant_id, "t");
    assert_false(fields.enabled);
    assert_int_equal(server("{\"tenantId\":null,\"name\":null}", false, &fields), ERR_OK);
    assert_true(fields.has_tenant && fields.has_name && !fields.has_url && !fields.has_enabled);
    assert_string_equal(fields.tenant_id, "");
}

/* ---- queries ----------------------------------------------------------------------------------- */

static enum err page(const char *text, enum page_kind kind, struct page_query *query)
{
    const struct view view = { (const uint8_t *)text, strlen(text) };

    memset(&problem, 0, sizeof problem);
    return keys_parse_page(&view, kind, query, &problem);
}

static void a_query_that_is_not_understood_is_refused(void **state)
{
    static const struct { const char *text; enum page_kind kind; const char *field; } rows[] = {
        { "limit=0", PAGE_OF_KEYS, "limit" }, { "limit=101", PAGE_OF_KEYS, "limit" }, { "limit=-1", PAGE_OF_KEYS, "limit" },
        { "limit=", PAGE_OF_KEYS, "limit" }, { "limit", PAGE_OF_KEYS, "limit" }, { "limit=5x", PAGE_OF_KEYS, "limit" },
        { "limit=%4", PAGE_OF_KEYS, "limit" }, { "limit=%zz", PAGE_OF_KEYS, "limit" }, { "limit=%00", PAGE_OF_KEYS, "limit" },
        { "limit=%a", PAGE_OF_KEYS, "limit" }, { "cursor=", PAGE_OF_KEYS, "cursor" }, { "cursor=12", PAGE_OF_KEYS, "cursor" },
        { "cursor=.a", PAGE_OF_KEYS, "cursor" }, { "cursor=1234567890123456789.a", PAGE_OF_KEYS, "cursor" }, { "cursor=1.", PAGE_OF_KEYS, "cursor" },
        { "cursor=UPPER", PAGE_OF_SERVERS, "cursor" }, { "user=a", PAGE_OF_SERVERS, "user" }, { "state=dead", PAGE_OF_KEYS, "state" }, { "colour=red", PAGE_OF_AUDIT, "colour" },
        { "from=yesterday", PAGE_OF_AUDIT, "from" }, { "to=2026-01-01T00:00:00Z;drop-table", PAGE_OF_AUDIT, "to" }, { "outcome=", PAGE_OF_AUDIT, "outcome" },
        { "outcome=12345678901234567", PAGE_OF_AUDIT, "outcome" }, { "key=", PAGE_OF_AUDIT, "key" }, { "=5", PAGE_OF_KEYS, "" },
        { "cursor=1.12345678901234567890123456789012345678901234567890123456789012345678901234567890"
          "123456789012345678901234567890123456789012345678901234567890", PAGE_OF_KEYS, "cursor" },
        { "user=12345678901234567890123456789012345678901234567890123456789012345", PAGE_OF_AUDIT, "user" }, { "%zz=5", PAGE_OF_KEYS, "" },
    };
    struct page_query query;

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (page(rows[i].text, rows[i].kind, &query) != ERR_UNPROCESSABLE)
            fail_msg("taken: %s", rows[i].text);
        assert_string_equal(problem.field, rows[i].field);
    }
}

static void a_query_is_decoded(void **state)
{
    struct page_query query;

    (void)state;
    assert_int_equal(page("", PAGE_OF_KEYS, &query), ERR_OK);
    assert_int_equal(query.limit, KEYS_PAGE_DEFAULT);
    assert_string_equal(query.cursor, "");
    assert_int_equal(page("&limit=%31%30&&cursor=123.aBc&", PAGE_OF_KEYS, &query), ERR_OK);
    assert_int_equal(query.limit, 10);
    assert_int_equal(query.cursor_us, 123);
    assert_string_equal(query.cursor, "aBc");
    assert_int_equal(page("cursor=a-slug", PAGE_OF_SERVERS, &query), ERR_OK);
    assert_string_equal(query.cursor, "a-slug");
    assert_int_equal(page("key=k&user=org%3Aacme&outcome=refused&from=2026-01-01T00%3a00:00%2B02:00&to=2026-01-02+00:00:00Z", PAGE_OF_AUDIT, &query), ERR_OK);
    assert_string_equal(query.key_id, "k");
    assert_string_equal(query.user_id, "org:acme");
    assert_string_equal(query.outcome, "refused");
    assert_string_equal(query.from, "2026-01-01T00:00:00+02:00");
    assert_string_equal(query.to, "2026-01-02 00:00:00Z");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_body_that_is_no_object_is_malformed),
        cmocka_unit_test(a_name_is_a_short_text_without_control_characters),
        cmocka_unit_test(scopes_are_a_list_of_known_ones),
        cmocka_unit_test(numbers_are_whole_and_within_their_limits),
        cmocka_unit_test(metadata_must_not_make_a_key_unusable_for_better_auth),
        cmocka_unit_test(ids_hold_no_foreign_characters),
        cmocka_unit_test(fields_that_nothing_enforces_are_refused_by_name),
        cmocka_unit_test(a_create_takes_what_it_is_given),
        cmocka_unit_test(a_create_without_wishes_has_defaults),
        cmocka_unit_test(an_update_changes_what_it_names),
        cmocka_unit_test(a_reason_is_a_short_text),
        cmocka_unit_test(a_verify_takes_one_key),
        cmocka_unit_test(calls_need_a_scope),
        cmocka_unit_test(a_key_sees_no_keys_of_its_owner_in_other_tenants),
        cmocka_unit_test(rotating_gives_nobody_a_scope_they_lack),
        cmocka_unit_test(a_key_is_seen_by_its_owner_and_administrators),
        cmocka_unit_test(scope_admin_reaches_as_far_as_tenant_and_role_say),
        cmocka_unit_test(a_tenants_administrator_stays_within_the_tenant),
        cmocka_unit_test(a_server_is_seen_by_its_tenant),
        cmocka_unit_test(nobody_gives_more_than_they_have),
        cmocka_unit_test(a_tenant_is_what_the_owner_belongs_to),
        cmocka_unit_test(a_new_key_gets_the_tenant_its_maker_may_choose),
        cmocka_unit_test(a_key_verifies_only_when_nothing_speaks_against_it),
        cmocka_unit_test(permissions_give_scopes_of_one_resource),
        cmocka_unit_test(a_url_that_leads_astray_is_refused),
        cmocka_unit_test(a_url_of_a_server_is_taken),
        cmocka_unit_test(a_server_is_described_by_known_fields),
        cmocka_unit_test(a_query_that_is_not_understood_is_refused),
        cmocka_unit_test(a_query_is_decoded),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
