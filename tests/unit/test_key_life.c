/* The policy of a tenant over its keys, and the list of days ahead. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "common/scope.h"
#include "services/keys/key_life.h"

static struct problem problem;

static enum err decide(struct key_policy policy, bool is_new, struct key_fields *fields)
{
    policy.scopes = policy.scopes == NULL ? "" : policy.scopes;
    return key_life_decide(&policy, is_new, fields, &problem);
}

static void a_scope_beyond_the_policy_is_refused(void **state)
{
    struct key_fields fields = { .has_scopes = true, .scopes = SCOPE_BIT(WRITE) };

    (void)state;
    assert_int_equal(decide((struct key_policy){ .scopes = "read proxy" }, true, &fields), ERR_UNPROCESSABLE);
    assert_string_equal(problem.field, "scopes");
    assert_string_equal(problem.code, "tenant_policy");
    assert_int_equal(decide((struct key_policy){ .scopes = "nonsense" }, false, &fields), ERR_UNPROCESSABLE);
    fields.scopes = SCOPE_BIT(READ);
    assert_int_equal(decide((struct key_policy){ .scopes = "write" }, true, &fields), ERR_OK);
    fields.has_scopes = false;
    assert_int_equal(decide((struct key_policy){ .scopes = "proxy" }, false, &fields), ERR_OK);
}

static void a_life_beyond_the_policy_is_refused_or_cut(void **state)
{
    const struct key_policy policy = { .max_life_s = 60 };
    struct key_fields fields = { .has_expiry = true, .expires_in_s = 61 };

    (void)state;
    assert_int_equal(decide(policy, true, &fields), ERR_UNPROCESSABLE);
    assert_string_equal(problem.field, "expiresIn");
    fields.expires_in_s = 0;
    assert_int_equal(decide(policy, false, &fields), ERR_UNPROCESSABLE);
    fields.has_expiry = false;
    assert_int_equal(decide(policy, false, &fields), ERR_OK);
    assert_int_equal(fields.expires_in_s, 0);
    assert_int_equal(decide(policy, true, &fields), ERR_OK);
    assert_int_equal(fields.expires_in_s, 60);
}

static void no_more_keys_than_the_policy_says_are_made(void **state)
{
    struct key_fields fields = { .expires_in_s = 60 };

    (void)state;
    assert_int_equal(decide((struct key_policy){ .max_keys = 2, .keys = 2 }, true, &fields), ERR_UNPROCESSABLE);
    assert_int_equal(decide((struct key_policy){ .max_keys = 2, .keys = 2 }, false, &fields), ERR_OK);
    assert_int_equal(decide((struct key_policy){ .max_keys = 2, .keys = 1 }, true, &fields), ERR_OK);
    assert_int_equal(decide((struct key_policy){ .keys = 9 }, true, &fields), ERR_OK);
}

static void days_are_a_short_list_of_numbers(void **state)
{
    static const char *const bad[] = { "", ",", "0", "366", "14,", "14,,7", "14;7", " 14", "-1", "1,2,3,4,5,6,7,8,9", "x" };

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_false(key_life_days_are_valid(bad[i]));
    assert_true(key_life_days_are_valid("14,7,1") && key_life_days_are_valid("365"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_scope_beyond_the_policy_is_refused),
        cmocka_unit_test(a_life_beyond_the_policy_is_refused_or_cut),
        cmocka_unit_test(no_more_keys_than_the_policy_says_are_made),
        cmocka_unit_test(days_are_a_short_list_of_numbers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
