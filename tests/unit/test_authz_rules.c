/* The policy of authz: decisions from authz_rules.table, then what a row of the database gives. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/scope.h"
#include "services/authz/authz_rules.h"

#define NOW_S  UINT64_C(1700000000)
#define NOW_US (NOW_S * 1000000)
#define TABLE  "tests/unit/authz_rules.table"

struct question {
    struct authz_facts facts;
    bool unknown;
    uint64_t needed;
};

static uint64_t scopes_of(const char *text)
{
    uint64_t scopes = 0;
    enum scope scope;
    char copy[128], *rest = copy;

    snprintf(copy, sizeof copy, "%s", text);
    for (char *word = strtok_r(copy, ",", &rest); word != NULL; word = strtok_r(NULL, ",", &rest))
        if (scope_parse(word, strlen(word), &scope))
            scopes |= UINT64_C(1) << scope;
    return scopes;
}

static void read_word(struct question *q, const char *word)
{
    const char *value = strchr(word, '=') != NULL ? strchr(word, '=') + 1 : "";
    size_t name = strcspn(word, "=");
    struct authz_facts *f = &q->facts;

#define IS(text) (name == strlen(text) && strncmp(word, text, name) == 0)
    if (IS("unknown")) q->unknown = true;
    else if (IS("revoked")) f->revoked = true;
    else if (IS("disabled")) f->enabled = false;
    else if (IS("suspended")) f->tenant_suspended = true;
    else if (IS("banned")) f->owner_banned = true;
    else if (IS("left")) f->owner_left = true;
    else if (IS("orphan")) f->owner_exists = false;
    else if (IS("unusable")) f->usable = false;
    else if (IS("organization")) f->is_organization = true;
    else if (IS("side")) snprintf(f->side_tenant_id, sizeof f->side_tenant_id, "%s", value);
    else if (IS("orgs")) f->organization_count = strtoull(value, NULL, 10);
    else if (IS("org")) snprintf(f->organization_id, sizeof f->organization_id, "%s", value);
    else if (IS("ref")) snprintf(f->reference_id, sizeof f->reference_id, "%s", value);
    else if (IS("scopes")) f->scopes = scopes_close(scopes_of(value));
    else if (IS("expires")) f->expires_us = (uint64_t)((int64_t)NOW_US + strtoll(value, NULL, 10) * 1000000);
    else if (IS("rate")) sscanf(value, "%lu/%lu", &f->rate_requests, &f->rate_window_s);
    else if (IS("needs")) q->needed = scopes_of(value);
    else fail_msg("%s: no such fact: %s", TABLE, word);
}

static void read_question(char *text, struct question *q)
{
    char *rest = text;

    *q = (struct question){ .facts = {
        .key_id = "k1", .reference_id = "u1", .usable = true, .enabled = true, .owner_exists = true,
        .scopes = SCOPE_BIT(READ),
    } };
    for (char *word = strtok_r(text, " ", &rest); word != NULL; word = strtok_r(NULL, " ", &rest))
        read_word(q, word);
}

/* The decision in the words of the table. */
static void print_verdict(const struct verdict *v, char *text, size_t size)
{
    char scopes[SCOPES_TEXT_MAX];
    size_t at = (size_t)snprintf(text, size, "%s", err_name((enum err)v->error));

    if (v->reason[0] != '\0')
        at += (size_t)snprintf(text + at, size - at, " %s", v->reason);
    if (v->error == ERR_UNVERIFIED)
        return;
    scopes_format(v->scopes, scopes);
    for (char *blank = scopes; *blank != '\0'; blank++)
        if (*blank == ' ')
            *blank = ',';
    at += (size_t)snprintf(text + at, size - at, " tenant=%s user=%s tier=%s scopes=%s", v->tenant_id, v->user_id,
                           tier_text(v->tier), scopes);
    if (v->rate_requests != 0)
        at += (size_t)snprintf(text + at, size - at, " rate=%lu/%lu", v->rate_requests, v->rate_window_s);
    if (v->expires_s != 0)
        snprintf(text + at, size - at, " expires=%ld", (long)(v->expires_s - NOW_S));
}

static void every_line_of_the_table_decides_as_it_says(void **state)
{
    FILE *table = fopen(TABLE, "r");
    char line[512], got[512];
    unsigned lines = 0;

    (void)state;
    assert_non_null(table);
    while (fgets(line, sizeof line, table) != NULL) {
        char *bar = strchr(line, '|');
        struct question q;
        struct verdict v;

        if (line[0] == '#' || bar == NULL)
            continue;
        *bar = '\0';
        bar[strcspn(bar + 1, "\n") + 1] = '\0';
        read_question(line, &q);
        authz_decide(q.unknown ? NULL : &q.facts, q.needed, NOW_US, &v);
        print_verdict(&v, got, sizeof got);
        if (strcmp(got, bar + 2) != 0)
            fail_msg("line \"%s\": decided \"%s\"", bar + 2, got);
        lines++;
    }
    fclose(table);
    assert_true(lines > 30);
}

static void a_refused_key_is_named_for_the_trail_and_nothing_else_is_told(void **state)
{
    struct question q;
    struct verdict v, unknown;
    char line[] = "revoked scopes=admin side=acme rate=5/1 expires=60";

    (void)state;
    read_question(line, &q);
    authz_decide(&q.facts, 0, NOW_US, &v);
    authz_decide(NULL, 0, NOW_US, &unknown);
    assert_string_equal(v.key_id, "k1");
    memset(v.key_id, 0, sizeof v.key_id);
    memset(v.reason, 0, sizeof v.reason);
    memset(unknown.reason, 0, sizeof unknown.reason);
    assert_memory_equal(&v, &unknown, sizeof v);
}

static struct authz_row plain_row(void)
{
    return (struct authz_row){
        .key_id = "k1", .reference_id = "u1", .side_tenant_id = "", .organization_id = "",
        .permissions = "{\"mcp\":[\"read\"]}", .enabled = true, .owner_exists = true,
    };
}

static void permissions_that_are_not_a_list_of_our_resource_give_no_scope(void **state)
{
    static const char *const bad[] = {
        "", "null", "[]", "[\"read\"]", "\"read\"", "{}", "{\"mcp\":\"admin\"}", "{\"mcp\":{\"admin\":true}}",
        "{\"other\":[\"admin\"]}", "{\"MCP\":[\"admin\"]}", "{\"mcp\":[\"root\",\"*\",\"Admin\",\"\"]}",
        "{\"mcp\":[1,null,[\"admin\"]]}", "{\"mcp\":[\"admin\"]", "{\"mcp\":[\"admin\"]} x",
        "{\"mcp\":[\"read\"],\"mcp\":[\"admin\"]}", "{\"mcp\":[\"admin\\u0000\"]}", "not json",
    };

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        if (authz_scopes(bad[i], "mcp") != 0)
            fail_msg("%s gives scopes", bad[i]);
}

static void a_list_of_our_resource_gives_its_known_scopes_with_what_they_imply(void **state)
{
    (void)state;
    assert_int_equal(authz_scopes("{\"mcp\":[\"write\",\"unheard\",\"proxy\"],\"x\":1}", "mcp"),
                     SCOPE_BIT(READ) | SCOPE_BIT(WRITE) | SCOPE_BIT(PROXY));
    assert_int_equal(authz_scopes("{\"gateway\":[\"admin\"]}", "gateway"), SCOPE_ALL);
    assert_int_equal(authz_scopes("{\"mcp\":[]}", "mcp"), 0);
}

static void permissions_longer_than_their_limit_give_no_scope(void **state)
{
    static char text[AUTHZ_PERMISSIONS_MAX + 2];

    (void)state;
    memset(text, ' ', sizeof text - 1);
    memcpy(text, "{\"mcp\":[\"read\"]}", 16);
    text[AUTHZ_PERMISSIONS_MAX] = '\0';
    assert_int_equal(authz_scopes(text, "mcp"), SCOPE_BIT(READ));
    text[AUTHZ_PERMISSIONS_MAX] = ' ';
    assert_int_equal(authz_scopes(text, "mcp"), 0);
}

static void a_text_that_no_message_can_carry_makes_a_row_unusable(void **state)
{
    static char longer[AUTHZ_TENANT_MAX + 2];
    struct authz_row rows[8];
    struct authz_facts facts;

    (void)state;
    memset(longer, 'x', sizeof longer - 1);
    for (size_t i = 0; i < 8; i++)
        rows[i] = plain_row();
    rows[0].key_id = "";
    rows[1].reference_id = "";
    rows[2].key_id = longer;
    rows[3].reference_id = longer + AUTHZ_TENANT_MAX - AUTHZ_ID_MAX + 3;    /* 62 letters, 60 fit */
    rows[4].side_tenant_id = longer;
    rows[5].organization_id = longer;
    rows[6].key_id = "k\n1";
    rows[7].side_tenant_id = "caf\xc3\xa9";
    for (size_t i = 0; i < 8; i++) {
        authz_facts_of(&rows[i], "mcp", &facts);
        assert_false(facts.usable);
    }
    rows[0].key_id = "k1";
    authz_facts_of(&rows[0], "mcp", &facts);
    assert_true(facts.usable);
}

static void the_longest_ids_fit_a_verdict(void **state)
{
    struct authz_row row = plain_row();
    struct authz_facts facts;
    struct verdict v;
    static char id[61];

    (void)state;
    memset(id, 'i', 60);
    row.reference_id = id;
    authz_facts_of(&row, "mcp", &facts);
    authz_decide(&facts, 0, NOW_US, &v);
    assert_int_equal(v.error, ERR_OK);
    assert_int_equal(strlen(v.tenant_id), 65);
    facts.is_organization = true;
    authz_decide(&facts, 0, NOW_US, &v);
    assert_int_equal(strlen(v.user_id), 64);
    assert_int_equal(strlen(v.tenant_id), 60);
}

static void a_limit_of_the_row_counts_unless_it_is_the_plugins_default(void **state)
{
    static const struct { bool set; int64_t max, window_ms; uint64_t requests, window_s; } cases[] = {
        { false, 5, 60000, 0, 0 },
        { true, PLUGIN_RATE_MAX, PLUGIN_RATE_WINDOW_MS, 0, 0 },
        { true, 5, 0, 0, 0 },
        { true, 5, -1, 0, 0 },
        { true, PLUGIN_RATE_MAX, 60000, 10, 60 },
        { true, 11, PLUGIN_RATE_WINDOW_MS, 11, 86400 },
        { true, 5, 1, 5, 1 },
        { true, 5, 1001, 5, 2 },
        { true, 0, 60000, 1, 60 },
        { true, -3, 60000, 1, 60 },
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct authz_row row = plain_row();
        struct authz_facts facts;

        row.rate_is_set = cases[i].set;
        row.rate_max = cases[i].max;
        row.rate_window_ms = cases[i].window_ms;
        authz_facts_of(&row, "mcp", &facts);
        assert_int_equal(facts.rate_requests, cases[i].requests);
        assert_int_equal(facts.rate_window_s, cases[i].window_s);
    }
}

static void facts_are_what_the_row_says(void **state)
{
    struct authz_row row = plain_row();
    struct authz_facts facts;

    (void)state;
    row.side_tenant_id = "acme";
    row.organization_id = "globex";
    row.organization_count = 1;
    row.expires_us = 5;
    row.revoked = row.is_organization = row.owner_banned = row.owner_left = true;
    row.enabled = row.owner_exists = false;
    authz_facts_of(&row, "mcp", &facts);
    assert_string_equal(facts.key_id, "k1");
    assert_string_equal(facts.reference_id, "u1");
    assert_string_equal(facts.side_tenant_id, "acme");
    assert_string_equal(facts.organization_id, "globex");
    assert_int_equal(facts.organization_count, 1);
    assert_int_equal(facts.expires_us, 5);
    assert_true(facts.usable && facts.revoked && facts.is_organization && facts.owner_banned && facts.owner_left);
    assert_false(facts.enabled || facts.owner_exists);
    assert_int_equal(facts.scopes, SCOPE_BIT(READ));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_line_of_the_table_decides_as_it_says),
        cmocka_unit_test(a_refused_key_is_named_for_the_trail_and_nothing_else_is_told),
        cmocka_unit_test(permissions_that_are_not_a_list_of_our_resource_give_no_scope),
        cmocka_unit_test(a_list_of_our_resource_gives_its_known_scopes_with_what_they_imply),
        cmocka_unit_test(permissions_longer_than_their_limit_give_no_scope),
        cmocka_unit_test(a_text_that_no_message_can_carry_makes_a_row_unusable),
        cmocka_unit_test(the_longest_ids_fit_a_verdict),
        cmocka_unit_test(a_limit_of_the_row_counts_unless_it_is_the_plugins_default),
        cmocka_unit_test(facts_are_what_the_row_says),
    };

    return cmocka_run_group_tests_name("authz_rules", tests, NULL, NULL);
}
