#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/rate_rule.h"
#include "common/scope.h"
#include "services/ratelimit/ratelimit_rules.h"
#include "services/ratelimit/ratelimit_script.h"

#define SECOND UINT64_C(1000000)

static const struct tier_limits tiers = { .admin = 5000, .api_key = 1000, .oauth = 500, .window_s = 3600 };

/* ---- which plan --------------------------------------------------------------------------------- */

static void a_tier_without_a_limit_has_no_plan(void **state)
{
    struct rate_plan plan = { "untouched", 1, 2 };
    (void)state;

    assert_int_equal(rate_plan_find(&tiers, TIER_NONE, 0, 0, &plan), ERR_UNPROCESSABLE);
    assert_int_equal(rate_plan_find(&tiers, 99, 0, 60, &plan), ERR_UNPROCESSABLE);
    assert_string_equal(plan.policy, "untouched");
}

static void a_window_beyond_a_year_has_no_plan(void **state)
{
    struct rate_plan plan;
    (void)state;

    assert_int_equal(rate_plan_find(&tiers, TIER_API_KEY, 10, RATE_WINDOW_MAX_S + UINT64_C(1), &plan),
                     ERR_UNPROCESSABLE);
    assert_int_equal(rate_plan_find(&tiers, TIER_API_KEY, 10, UINT64_MAX, &plan), ERR_UNPROCESSABLE);
    assert_int_equal(rate_plan_find(&tiers, TIER_API_KEY, 10, RATE_WINDOW_MAX_S, &plan), ERR_OK);
}

static void a_window_of_nothing_has_no_plan(void **state)
{
    const struct tier_limits broken = { .api_key = 10 };
    struct rate_plan plan;
    (void)state;

    assert_int_equal(rate_plan_find(&broken, TIER_API_KEY, 0, 0, &plan), ERR_UNPROCESSABLE);
}

static void each_tier_has_its_limit(void **state)
{
    static const struct { enum tier tier; uint64_t limit; const char *policy; } rows[] = {
        { TIER_ADMIN, 5000, "admin" }, { TIER_API_KEY, 1000, "api_key" }, { TIER_OAUTH, 500, "oauth" },
    };
    (void)state;

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct rate_plan plan;

        assert_int_equal(rate_plan_find(&tiers, rows[i].tier, 0, 0, &plan), ERR_OK);
        assert_int_equal(plan.limit, rows[i].limit);
        assert_int_equal(plan.window_s, 3600);
        assert_string_equal(plan.policy, rows[i].policy);
    }
}

static void a_limit_of_its_own_replaces_the_tier_s(void **state)
{
    struct rate_plan plan;
    (void)state;

    assert_int_equal(rate_plan_find(&tiers, TIER_ADMIN, 7, 60, &plan), ERR_OK);
    assert_int_equal(plan.limit, 7);
    assert_int_equal(plan.window_s, 60);
    assert_string_equal(plan.policy, "key");
}

static void a_window_without_a_limit_of_its_own_is_ignored(void **state)
{
    struct rate_plan plan;
    (void)state;

    assert_int_equal(rate_plan_find(&tiers, TIER_OAUTH, 0, 1, &plan), ERR_OK);
    assert_int_equal(plan.window_s, 3600);
    assert_string_equal(plan.policy, "oauth");
}

static void a_limit_of_its_own_without_a_window_has_the_tiers_window(void **state)
{
    struct rate_plan plan;
    (void)state;

    assert_int_equal(rate_plan_find(&tiers, TIER_API_KEY, 7, 0, &plan), ERR_OK);
    assert_int_equal(plan.window_s, 3600);
}

static void a_limit_beyond_all_measure_is_enforced_as_the_largest(void **state)
{
    struct rate_plan plan;
    (void)state;

    assert_int_equal(rate_plan_find(&tiers, TIER_API_KEY, UINT64_MAX, 1, &plan), ERR_OK);
    assert_int_equal(plan.limit, RATE_LIMIT_MAX);
}

static void a_rule_that_limits_nothing_has_no_plan(void **state)
{
    struct rate_plan plan = { "untouched", 1, 2 };
    (void)state;

    assert_int_equal(rate_plan_of_rule(0, "tenant", &plan), ERR_UNPROCESSABLE);
    assert_int_equal(rate_plan_of_rule(UINT64_C(5) << 32, "tenant", &plan), ERR_UNPROCESSABLE);
    assert_int_equal(rate_plan_of_rule(60, "tenant", &plan), ERR_UNPROCESSABLE);
    assert_int_equal(rate_plan_of_rule(rate_rule(5, RATE_WINDOW_MAX_S + UINT64_C(1)), "tenant", &plan), ERR_UNPROCESSABLE);
    assert_string_equal(plan.policy, "untouched");
}

static void a_rule_carries_its_limit_and_window(void **state)
{
    struct rate_plan plan;
    (void)state;

    assert_int_equal(rate_plan_of_rule(rate_rule(500, 60), "tenant", &plan), ERR_OK);
    assert_int_equal(plan.limit, 500);
    assert_int_equal(plan.window_s, 60);
    assert_string_equal(plan.policy, "tenant");
    assert_int_equal(rate_plan_of_rule(rate_rule(UINT64_MAX, 60), "user", &plan), ERR_OK);
    assert_int_equal(plan.limit, RATE_LIMIT_MAX);
    assert_true(rate_rule(0, 60) == 0 && rate_rule(5, 0) == 0);
}

/* ---- which bucket ------------------------------------------------------------------------------- */

static void a_bucket_without_a_subject_has_no_name(void **state)
{
    char name[BUCKET_NAME_SIZE];
    size_t length = 0;
    (void)state;

    assert_int_equal(bucket_name_format("", "oauth", name, &length), ERR_UNPROCESSABLE);
}

static void a_subject_that_does_not_fit_has_no_name(void **state)
{
    char name[BUCKET_NAME_SIZE], subject[BUCKET_NAME_SIZE];
    size_t length = 77;
    (void)state;

    memset(subject, 'u', sizeof subject - 1);
    subject[sizeof subject - 1] = 0;
    assert_int_equal(bucket_name_format(subject, "oauth", name, &length), ERR_UNPROCESSABLE);
    assert_int_equal(length, 77);
}

static void the_longest_subject_of_the_bus_fits(void **state)
{
    char name[BUCKET_NAME_SIZE], subject[97];
    size_t length = 0;
    (void)state;

    memset(subject, 'u', 96);
    subject[96] = 0;
    assert_int_equal(bucket_name_format(subject, "api_key", name, &length), ERR_OK);
    assert_int_equal(length, strlen(name));
}

static void a_user_has_a_bucket_per_policy(void **state)
{
    char name[BUCKET_NAME_SIZE];
    size_t length = 0;
    (void)state;

    assert_int_equal(bucket_name_format("u:alice", "oauth", name, &length), ERR_OK);
    assert_string_equal(name, "mcpgw:rl:u:alice:oauth");
    assert_int_equal(length, strlen(name));
}

static void a_key_has_one_bucket_whatever_its_policy(void **state)
{
    char first[BUCKET_NAME_SIZE], second[BUCKET_NAME_SIZE];
    size_t length = 0;
    (void)state;

    assert_int_equal(bucket_name_format("k:abc", "api_key", first, &length), ERR_OK);
    assert_int_equal(bucket_name_format("k:abc", "key", second, &length), ERR_OK);
    assert_string_equal(first, second);
    assert_string_equal(first, "mcpgw:rl:k:abc");
}

static void a_tenant_and_its_users_have_buckets_that_nobody_else_has(void **state)
{
    char name[BUCKET_NAME_SIZE], tenant[81], user[65];
    size_t length = 0;
    (void)state;

    assert_int_equal(bucket_name_of_tenant("", NULL, name, &length), ERR_UNPROCESSABLE);
    assert_int_equal(bucket_name_of_tenant("acme", "", name, &length), ERR_UNPROCESSABLE);
    assert_int_equal(bucket_name_of_tenant("user:a", NULL, name, &length), ERR_OK);
    assert_string_equal(name, "mcpgw:rl:t:user:a");
    assert_int_equal(bucket_name_of_tenant("acme", "alice", name, &length), ERR_OK);
    assert_string_equal(name, "mcpgw:rl:p:acme/alice");
    memset(tenant, 't', 80);
    memset(user, 'u', 64);
    tenant[80] = user[64] = 0;
    assert_int_equal(bucket_name_of_tenant(tenant, user, name, &length), ERR_OK);
    assert_int_equal(length, strlen("mcpgw:rl:p:/") + 80 + 64);
}

static void the_hash_is_fnv_1a(void **state)
{
    (void)state;

    assert_true(bucket_name_hash("", 0) == UINT64_C(0xcbf29ce484222325));
    assert_true(bucket_name_hash("foobar", 6) == UINT64_C(0x85944171f73967e8));
}

/* ---- what one request of a group is told -------------------------------------------------------- */

static void the_first_of_a_group_are_admitted_and_the_rest_told_when_to_return(void **state)
{
    const struct spending spending = { .admitted = 2, .left = 0, .wait_us = 1500001 };
    (void)state;

    assert_true(spending_share_of(&spending, 0, 60).is_admitted);
    assert_int_equal(spending_share_of(&spending, 0, 60).remaining, 1);
    assert_int_equal(spending_share_of(&spending, 1, 60).remaining, 0);
    assert_int_equal(spending_share_of(&spending, 1, 60).reset_ms, 60000);
    assert_false(spending_share_of(&spending, 2, 60).is_admitted);
    assert_int_equal(spending_share_of(&spending, 2, 60).remaining, 0);
    assert_int_equal(spending_share_of(&spending, 2, 60).reset_ms, 1501);
}

static void remaining_counts_down_within_a_group(void **state)
{
    const struct spending spending = { .admitted = 3, .left = 10 };
    (void)state;

    assert_int_equal(spending_share_of(&spending, 0, 60).remaining, 12);
    assert_int_equal(spending_share_of(&spending, 2, 60).remaining, 10);
}

static void a_refused_request_is_told_of_the_limit_that_lets_it_in_last(void **state)
{
    const struct spending spendings[] = { { 1, 0, 5 * SECOND }, { 1, 3, 0 }, { 1, 0, 9 * SECOND } };
    (void)state;

    assert_int_equal(spending_tightest(spendings, 3, 1), 2);
    assert_int_equal(spending_tightest(spendings, 2, 1), 0);
}

static void an_admitted_request_is_told_of_the_limit_with_the_least_left(void **state)
{
    const struct spending spendings[] = { { 2, 9, 0 }, { 2, 3, 0 }, { 2, 4, 0 } };
    (void)state;

    assert_int_equal(spending_tightest(spendings, 3, 1), 1);
    assert_int_equal(spending_share_of(&spendings[1], 0, 60).remaining, 4);
}

/* ---- budgets in memory -------------------------------------------------------------------------- */

static struct spending spend(struct local_budget *budget, uint64_t limit, uint64_t window_us, uint64_t now_us)
{
    const bool fits = local_budget_open(budget, limit, window_us, now_us) > 0;

    return local_budget_close(budget, fits, now_us);
}

static void a_budget_that_is_open_is_not_given_away(void **state)
{
    struct local_budget budgets[LOCAL_PROBES] = { 0 };
    struct local_budget *first = local_budget_find(budgets, LOCAL_PROBES, 1, 10 * SECOND);
    (void)state;

    assert_int_equal(local_budget_open(first, 5, SECOND, 10 * SECOND), 5);
    assert_ptr_not_equal(local_budget_find(budgets, LOCAL_PROBES, 1 + LOCAL_PROBES, 10 * SECOND), first);
}

static void a_budget_that_refuses_for_another_s_sake_is_not_spent(void **state)
{
    struct local_budget budget = { 0 };
    (void)state;

    assert_int_equal(local_budget_open(&budget, 5, SECOND, SECOND), 5);
    assert_int_equal(local_budget_close(&budget, false, SECOND).left, 5);
    assert_int_equal(local_budget_close(&budget, false, SECOND).wait_us, 0);
    assert_int_equal(local_budget_open(&budget, 5, SECOND, SECOND), 5);
}

static void without_room_a_bucket_cannot_be_decided(void **state)
{
    struct local_budget budgets[LOCAL_PROBES] = { 0 };
    (void)state;

    for (uint64_t owner = 1; owner <= LOCAL_PROBES; owner++) {
        struct local_budget *budget = local_budget_find(budgets, LOCAL_PROBES, owner, 0);

        assert_non_null(budget);
        assert_int_equal(spend(budget, 5, SECOND, 0).admitted, 1);
    }
    assert_null(local_budget_find(budgets, LOCAL_PROBES, 100, SECOND - 1));
    assert_non_null(local_budget_find(budgets, LOCAL_PROBES, 3, SECOND - 1));
}

static void a_budget_whose_window_is_over_gives_its_place_away(void **state)
{
    struct local_budget budgets[LOCAL_PROBES] = { 0 };
    struct local_budget *budget;
    (void)state;

    for (uint64_t owner = 1; owner <= LOCAL_PROBES; owner++)
        spend(local_budget_find(budgets, LOCAL_PROBES, owner, 0), 5, SECOND, 0);
    budget = local_budget_find(budgets, LOCAL_PROBES, 100, SECOND);
    assert_non_null(budget);
    assert_int_equal(budget->owner, 100);
    assert_int_equal(spend(budget, 5, SECOND, SECOND).left, 4);
}

static void a_spent_budget_says_when_the_next_one_fits(void **state)
{
    struct local_budget budget = { 0 };
    struct spending spending;
    (void)state;

    for (uint64_t i = 0; i < 3; i++)
        assert_int_equal(spend(&budget, 3, 10 * SECOND, 100 * SECOND + i * SECOND).left, 2 - i);
    spending = spend(&budget, 3, 10 * SECOND, 104 * SECOND);
    assert_int_equal(spending.admitted, 0);
    assert_int_equal(spending.wait_us, 6 * SECOND);
    assert_int_equal(spend(&budget, 3, 10 * SECOND, 110 * SECOND - 1).admitted, 0);
    assert_int_equal(spend(&budget, 3, 10 * SECOND, 110 * SECOND).admitted, 1);
    assert_int_equal(spend(&budget, 3, 10 * SECOND, 110 * SECOND).admitted, 0);
}

static void a_lowered_limit_does_not_forget_what_was_spent(void **state)
{
    struct local_budget budget = { 0 };
    (void)state;

    for (int i = 0; i < 50; i++)
        spend(&budget, 100, 10 * SECOND, SECOND);
    assert_int_equal(spend(&budget, 20, 10 * SECOND, 5 * SECOND).admitted, 0);
    assert_int_equal(spend(&budget, 20, 10 * SECOND, 11 * SECOND).left, 19);
}

static void a_raised_limit_keeps_what_was_spent(void **state)
{
    struct local_budget budget = { 0 };
    (void)state;

    for (int i = 0; i < 5; i++)
        spend(&budget, 5, 10 * SECOND, SECOND);
    assert_int_equal(spend(&budget, 8, 10 * SECOND, 2 * SECOND).left, 2);
}

/* Random moments and limits: never over in any window, and never more than a group held back too long. */
static void a_budget_is_never_over_in_any_window(void **state)
{
    static uint64_t admitted[20000];
    (void)state;

    srand(7);
    for (int round = 0; round < 200; round++) {
        uint64_t limit = 1 + (uint64_t)rand() % 60, window = 1000, now = 50000;
        uint64_t group = limit < 16 ? 1 : (limit + 15) / 16;
        struct local_budget budget = { 0 };
        size_t count = 0, oldest = 0;

        for (int step = 0; step < 2000; step++) {
            struct spending spending;

            now += (uint64_t)rand() % (2 * window / limit + 2);
            spending = spend(&budget, limit, window, now);
            while (oldest < count && now - admitted[oldest] >= window)
                oldest++;
            if (spending.admitted == 1)
                admitted[count++] = now;
            else
                assert_true(count - oldest + group > limit);
            assert_true(count - oldest <= limit);
        }
    }
}

/* ---- the script --------------------------------------------------------------------------------- */

/* The build does not watch ratelimit.lua: after a change of it ratelimit_script.o must be made again. */
static void the_program_holds_the_script_as_it_is_now(void **state)
{
    static char text[65536];
    FILE *file = fopen("services/ratelimit/ratelimit.lua", "r");
    size_t size;
    (void)state;

    if (file == NULL)
        skip();    /* not run from the top of the tree */
    size = fread(text, 1, sizeof text, file);
    fclose(file);
    assert_int_equal(size, ratelimit_script_size);
    assert_memory_equal(text, ratelimit_script, size);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_tier_without_a_limit_has_no_plan),
        cmocka_unit_test(a_window_beyond_a_year_has_no_plan),
        cmocka_unit_test(a_window_of_nothing_has_no_plan),
        cmocka_unit_test(each_tier_has_its_limit),
        cmocka_unit_test(a_limit_of_its_own_replaces_the_tier_s),
        cmocka_unit_test(a_window_without_a_limit_of_its_own_is_ignored),
        cmocka_unit_test(a_limit_of_its_own_without_a_window_has_the_tiers_window),
        cmocka_unit_test(a_limit_beyond_all_measure_is_enforced_as_the_largest),
        cmocka_unit_test(a_rule_that_limits_nothing_has_no_plan),
        cmocka_unit_test(a_rule_carries_its_limit_and_window),
        cmocka_unit_test(a_bucket_without_a_subject_has_no_name),
        cmocka_unit_test(a_subject_that_does_not_fit_has_no_name),
        cmocka_unit_test(the_longest_subject_of_the_bus_fits),
        cmocka_unit_test(a_user_has_a_bucket_per_policy),
        cmocka_unit_test(a_key_has_one_bucket_whatever_its_policy),
        cmocka_unit_test(a_tenant_and_its_users_have_buckets_that_nobody_else_has),
        cmocka_unit_test(the_hash_is_fnv_1a),
        cmocka_unit_test(the_first_of_a_group_are_admitted_and_the_rest_told_when_to_return),
        cmocka_unit_test(remaining_counts_down_within_a_group),
        cmocka_unit_test(a_refused_request_is_told_of_the_limit_that_lets_it_in_last),
        cmocka_unit_test(an_admitted_request_is_told_of_the_limit_with_the_least_left),
        cmocka_unit_test(a_budget_that_is_open_is_not_given_away),
        cmocka_unit_test(a_budget_that_refuses_for_another_s_sake_is_not_spent),
        cmocka_unit_test(without_room_a_bucket_cannot_be_decided),
        cmocka_unit_test(a_budget_whose_window_is_over_gives_its_place_away),
        cmocka_unit_test(a_spent_budget_says_when_the_next_one_fits),
        cmocka_unit_test(a_lowered_limit_does_not_forget_what_was_spent),
        cmocka_unit_test(a_raised_limit_keeps_what_was_spent),
        cmocka_unit_test(a_budget_is_never_over_in_any_window),
        cmocka_unit_test(the_program_holds_the_script_as_it_is_now),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
