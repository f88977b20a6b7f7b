/* The bodies of bulk changes, imports and tenants: what is no such body at all, and rows that lack what they need. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "services/keys/bulk_rules.h"
#include "services/keys/import_rules.h"
#include "services/keys/tenants_rules.h"

DEFINE_DESTROY(json_destroy, json_t, json_decref)

static struct problem problem;

static void is_refused(enum err err, enum err wanted, const char *field)
{
    assert_int_equal(err, wanted);
    assert_int_equal(problem.err, wanted);
    assert_string_equal(problem.field, field);
    assert_true(problem.detail[0] != '\0');
    memset(&problem, 0, sizeof problem);
}

static void a_body_that_is_no_object_is_malformed(void **state)
{
    OWNED(json_destroy) json_t *list = json_array();
    struct tenant_fields tenant;
    struct bulk_fields bulk;
    const json_t *rows;
    bool is_dry_run;

    (void)state;
    is_refused(bulk_parse(list, &bulk, &problem), ERR_MALFORMED, "");
    is_refused(tenants_parse(list, true, &tenant, &problem), ERR_MALFORMED, "");
    is_refused(import_parse(list, &rows, &is_dry_run, &problem), ERR_MALFORMED, "");
}

static void import(const char *text, const char *field)
{
    OWNED(json_destroy) json_t *body = json_loads(text, 0, NULL);
    const json_t *rows;
    bool is_dry_run;

    assert_non_null(body);
    is_refused(import_parse(body, &rows, &is_dry_run, &problem), ERR_UNPROCESSABLE, field);
}

static void an_import_has_rows_and_nothing_unknown(void **state)
{
    (void)state;
    import("{}", "keys");
    import("{\"keys\":[]}", "keys");
    import("{\"keys\":[{}],\"dryRun\":1}", "dryRun");
    import("{\"keys\":[{}],\"extra\":1}", "");
}

static void row(const char *text, const char *field)
{
    OWNED(json_destroy) json_t *value = json_loads(text, JSON_DECODE_ANY, NULL);
    struct import_row ret;

    assert_non_null(value);
    is_refused(import_parse_row(value, 0, &ret, &problem), ERR_UNPROCESSABLE, field);
}

static void a_row_of_an_import_names_its_key_and_whose_it_is(void **state)
{
    static const char digest[] = "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU";
    char text[200];

    (void)state;
    row("7", "");
    row("{\"hash\":5,\"userId\":\"u\"}", "hash");
    row("{\"hash\":\"short\",\"userId\":\"u\"}", "hash");
    row("{\"userId\":\"u\",\"scopes\":[\"read\"]}", "key");
    snprintf(text, sizeof text, "{\"hash\":\"%s\",\"scopes\":[\"read\"]}", digest);
    row(text, "userId");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_body_that_is_no_object_is_malformed),
        cmocka_unit_test(an_import_has_rows_and_nothing_unknown),
        cmocka_unit_test(a_row_of_an_import_names_its_key_and_whose_it_is),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
