/* Which cached facts survive which changes, and when the lease covers them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "services/authz/authz_changes.h"

static struct changes *make(size_t capacity, uint64_t sequence)
{
    struct changes *changes = NULL;

    assert_int_equal(changes_new(capacity, &changes), ERR_OK);
    changes_reset(changes, sequence);
    return changes;
}

static void apply(struct changes *changes, uint64_t sequence, int kind, const char *name)
{
    struct change_row row = { .sequence = sequence, .kind = kind, .digest = "", .key_id = "", .user_id = "", .tenant_id = "", .server = "" };

    if (kind == CHANGE_KEY)
        row.digest = name;
    else if (kind == CHANGE_USER)
        row.user_id = name;
    else if (kind == CHANGE_SESSION)
        row.key_id = name;
    else if (kind == CHANGE_ISSUER || kind == CHANGE_SERVER)
        row.server = name;
    else
        row.tenant_id = name;
    assert_true(changes_apply(changes, &row));
}

static const struct authz_facts users_key = { .key_id = "k1", .reference_id = "u1", .organization_id = "acme" };
static const struct authz_facts side_key = { .key_id = "k2", .reference_id = "u1", .side_tenant_id = "globex" };
static const struct authz_facts organizations_key = { .key_id = "k3", .reference_id = "acme", .is_organization = true };

static void a_row_out_of_turn_is_not_applied(void **state)
{
    struct changes *changes = make(8, 10);
    struct change_row row = { .sequence = 10, .kind = CHANGE_KEY, .digest = "d", .key_id = "", .user_id = "", .tenant_id = "", .server = "" };

    (void)state;
    assert_false(changes_apply(changes, &row));
    row.sequence = 12;
    assert_false(changes_apply(changes, &row));
    assert_int_equal(changes_applied(changes), 10);
    assert_true(changes_hold(changes, 10, "d", NULL));
    changes_destroy(&changes);
    assert_null(changes);
    changes_destroy(&changes);
}

static void a_change_of_a_key_ends_what_was_read_of_it_before(void **state)
{
    struct changes *changes = make(8, 10);

    (void)state;
    apply(changes, 11, CHANGE_KEY, "d1");
    assert_false(changes_hold(changes, 10, "d1", &users_key));
    assert_false(changes_hold(changes, 10, "d1", NULL));
    assert_true(changes_hold(changes, 11, "d1", &users_key));
    assert_true(changes_hold(changes, 10, "d2", &users_key));
    assert_true(changes_hold(changes, 99, "d1", &users_key));
    changes_destroy(&changes);
}

static void a_key_that_got_another_digest_is_found_by_its_id(void **state)
{
    struct changes *changes = make(8, 10);
    struct change_row row = { .sequence = 11, .kind = CHANGE_KEY, .digest = "new", .key_id = "k1", .user_id = "", .tenant_id = "", .server = "" };

    (void)state;
    assert_true(changes_apply(changes, &row));
    assert_false(changes_hold(changes, 10, "old", &users_key));
    assert_true(changes_hold(changes, 10, "old", &side_key));
    changes_destroy(&changes);
}

static void a_change_of_a_user_ends_all_of_that_users_keys(void **state)
{
    struct changes *changes = make(8, 10);

    (void)state;
    apply(changes, 11, CHANGE_USER, "u1");
    assert_false(changes_hold(changes, 10, "d1", &users_key));
    assert_false(changes_hold(changes, 10, "d2", &side_key));
    assert_true(changes_hold(changes, 10, "d3", &organizations_key));
    assert_true(changes_hold(changes, 10, "u1", NULL));
    changes_destroy(&changes);
}

static void a_change_of_a_tenant_ends_every_key_that_leads_to_it(void **state)
{
    struct changes *changes = make(8, 10);

    (void)state;
    apply(changes, 11, CHANGE_TENANT, "acme");
    assert_false(changes_hold(changes, 10, "d1", &users_key));
    assert_true(changes_hold(changes, 10, "d2", &side_key));
    assert_false(changes_hold(changes, 10, "d3", &organizations_key));
    apply(changes, 12, CHANGE_TENANT, "globex");
    assert_false(changes_hold(changes, 11, "d2", &side_key));
    changes_destroy(&changes);
}

static void a_bulk_change_an_unknown_kind_and_a_row_without_a_name_end_everything(void **state)
{
    static const int kinds[] = { CHANGE_ALL, 77, CHANGE_KEY, CHANGE_USER, CHANGE_TENANT };
    struct changes *changes = make(8, 10);

    (void)state;
    for (uint64_t i = 0; i < 5; i++) {
        apply(changes, 11 + i, kinds[i], "");
        assert_int_equal(changes_applied(changes), 11 + i);
        assert_false(changes_hold(changes, 10 + i, "d1", &users_key));
        assert_false(changes_hold(changes, 10 + i, "d1", NULL));
        assert_true(changes_hold(changes, 11 + i, "d1", &users_key));
    }
    changes_destroy(&changes);
}

static void a_change_of_a_server_session_or_issuer_ends_no_key(void **state)
{
    struct changes *changes = make(8, 10);

    (void)state;
    apply(changes, 11, CHANGE_SERVER, "acme");
    apply(changes, 12, CHANGE_SESSION, "k1");
    apply(changes, 13, CHANGE_ISSUER, "u1");
    assert_true(changes_hold(changes, 10, "d1", &users_key));
    changes_destroy(&changes);
}

static void uses_that_came_back_end_no_key_and_are_named_for_whoever_was_told_there_are_none(void **state)
{
    struct changes *changes = make(8, 10);
    struct change_row row = { .sequence = 11, .kind = CHANGE_NOTICE, .digest = "", .key_id = "k1", .user_id = "", .tenant_id = "", .server = "" };

    (void)state;
    assert_true(changes_apply(changes, &row));    /* a notice of another kind */
    assert_false(changes_named(changes, 10, SUBJECT_USES, "k1"));
    row.sequence = 12;
    row.digest = "d1";
    assert_true(changes_apply(changes, &row));
    assert_true(changes_hold(changes, 10, "d1", &users_key));
    assert_true(changes_named(changes, 10, SUBJECT_USES, "k1"));
    assert_false(changes_named(changes, 12, SUBJECT_USES, "k1") || changes_named(changes, 10, SUBJECT_KEY, "k1"));
    changes_destroy(&changes);
}

static void a_session_and_an_issuer_are_named_by_their_own_changes_only(void **state)
{
    struct changes *changes = make(8, 10);

    (void)state;
    apply(changes, 11, CHANGE_SESSION, "s1");
    apply(changes, 12, CHANGE_ISSUER, "corp");
    assert_true(changes_named(changes, 10, SUBJECT_SESSION, "s1"));
    assert_false(changes_named(changes, 11, SUBJECT_SESSION, "s1"));
    assert_true(changes_named(changes, 11, SUBJECT_ISSUER, "corp"));
    assert_false(changes_named(changes, 10, SUBJECT_ISSUER, "s1"));
    assert_false(changes_named(changes, 10, SUBJECT_KEY, "s1"));
    assert_false(changes_named(changes, 10, SUBJECT_SESSION, ""));
    assert_true(changes_reach(changes, 10));
    assert_false(changes_reach(changes, 9));
    changes_destroy(&changes);
}

static void what_is_older_than_the_oldest_change_remembered_does_not_count(void **state)
{
    struct changes *changes = make(4, 10);

    (void)state;
    for (uint64_t sequence = 11; sequence <= 14; sequence++)
        apply(changes, sequence, CHANGE_KEY, "d1");
    assert_true(changes_hold(changes, 10, "d2", &users_key));
    apply(changes, 15, CHANGE_KEY, "d1");
    assert_false(changes_hold(changes, 10, "d2", &users_key));
    assert_true(changes_hold(changes, 11, "d2", &users_key));
    assert_false(changes_hold(changes, 14, "d1", &users_key));
    changes_reset(changes, 20);
    assert_false(changes_hold(changes, 19, "d2", &users_key));
    assert_true(changes_hold(changes, 20, "d1", &users_key));
    changes_destroy(&changes);
}

/* Against a plain array of who was named last. */
static void after_many_changes_every_answer_is_as_if_all_were_remembered(void **state)
{
    enum { KEYS = 300, CAPACITY = 64 };
    static uint64_t named[KEYS];
    struct changes *changes = make(CAPACITY, 0);
    uint32_t random = 99;
    char text[16];

    (void)state;
    for (uint64_t sequence = 1; sequence <= 20000; sequence++) {
        uint64_t since;

        random = random * 1664525u + 1013904223u;
        snprintf(text, sizeof text, "d%u", (random >> 8) % KEYS);
        apply(changes, sequence, CHANGE_KEY, text);
        named[(random >> 8) % KEYS] = sequence;

        snprintf(text, sizeof text, "d%u", (random >> 16) % KEYS);
        since = sequence > CAPACITY ? sequence - (random >> 24) % CAPACITY : 0;
        assert_int_equal(changes_hold(changes, since, text, NULL), named[(random >> 16) % KEYS] <= since);
    }
    changes_destroy(&changes);
}

#define LENGTH 400000u
#define GRACE  5000000u

static void without_a_lease_nothing_cached_decides(void **state)
{
    struct lease lease;

    (void)state;
    lease_init(&lease, LENGTH, GRACE, 1000);
    assert_int_equal(lease_state(&lease, 1000), LEASE_NONE);
}

static void a_lease_counts_from_when_it_was_asked_for(void **state)
{
    struct lease lease;

    (void)state;
    lease_init(&lease, LENGTH, 0, 1000);
    lease_renew(&lease, 1000, 200000);
    assert_int_equal(lease_state(&lease, 1000 + LENGTH - 1), LEASE_VALID);
    assert_int_equal(lease_state(&lease, 1000 + LENGTH), LEASE_NONE);
}

static void an_older_answer_does_not_shorten_a_lease(void **state)
{
    struct lease lease;

    (void)state;
    lease_init(&lease, LENGTH, 0, 1000);
    lease_renew(&lease, 100000, 110000);
    lease_renew(&lease, 2000, 120000);
    assert_int_equal(lease_state(&lease, 100000 + LENGTH - 1), LEASE_VALID);
}

static void after_its_end_the_grace_follows_and_then_nothing(void **state)
{
    struct lease lease;
    uint64_t end = 1000 + LENGTH;

    (void)state;
    lease_init(&lease, LENGTH, GRACE, 1000);
    lease_renew(&lease, 1000, 1000);
    for (uint64_t now = 1000; now < end; now += 100000)
        assert_int_equal(lease_state(&lease, now), LEASE_VALID);
    for (uint64_t now = end; now < end + GRACE; now += 100000)
        assert_int_equal(lease_state(&lease, now), LEASE_STALE);
    assert_int_equal(lease_state(&lease, end + GRACE), LEASE_NONE);
}

static void after_a_pause_of_our_own_there_is_no_grace_until_a_new_lease(void **state)
{
    struct lease lease;
    uint64_t now = 1000 + LENGTH + 1;

    (void)state;
    lease_init(&lease, LENGTH, GRACE, 1000);
    lease_renew(&lease, 1000, 1000);
    assert_int_equal(lease_state(&lease, now), LEASE_NONE);
    lease_turn(&lease, now + 1);
    assert_int_equal(lease_state(&lease, now + 2), LEASE_NONE);
    lease_renew(&lease, 900, now + 3);    /* asked for before the pause: worth nothing */
    assert_int_equal(lease_state(&lease, now + 4), LEASE_NONE);

    lease_renew(&lease, now + 5, now + 6);
    assert_int_equal(lease_state(&lease, now + 7), LEASE_VALID);
    lease_turn(&lease, now + LENGTH);
    assert_int_equal(lease_state(&lease, now + 5 + LENGTH), LEASE_STALE);
}

static void a_pause_shorter_than_a_lease_is_none(void **state)
{
    struct lease lease;

    (void)state;
    lease_init(&lease, LENGTH, GRACE, 1000);
    lease_renew(&lease, 1000, 1000);
    lease_turn(&lease, 1000 + LENGTH);
    assert_int_equal(lease_state(&lease, 1000 + LENGTH), LEASE_STALE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_row_out_of_turn_is_not_applied),
        cmocka_unit_test(a_change_of_a_key_ends_what_was_read_of_it_before),
        cmocka_unit_test(a_key_that_got_another_digest_is_found_by_its_id),
        cmocka_unit_test(a_change_of_a_user_ends_all_of_that_users_keys),
        cmocka_unit_test(a_change_of_a_tenant_ends_every_key_that_leads_to_it),
        cmocka_unit_test(a_bulk_change_an_unknown_kind_and_a_row_without_a_name_end_everything),
        cmocka_unit_test(a_change_of_a_server_session_or_issuer_ends_no_key),
        cmocka_unit_test(uses_that_came_back_end_no_key_and_are_named_for_whoever_was_told_there_are_none),
        cmocka_unit_test(a_session_and_an_issuer_are_named_by_their_own_changes_only),
        cmocka_unit_test(what_is_older_than_the_oldest_change_remembered_does_not_count),
        cmocka_unit_test(after_many_changes_every_answer_is_as_if_all_were_remembered),
        cmocka_unit_test(without_a_lease_nothing_cached_decides),
        cmocka_unit_test(a_lease_counts_from_when_it_was_asked_for),
        cmocka_unit_test(an_older_answer_does_not_shorten_a_lease),
        cmocka_unit_test(after_its_end_the_grace_follows_and_then_nothing),
        cmocka_unit_test(after_a_pause_of_our_own_there_is_no_grace_until_a_new_lease),
        cmocka_unit_test(a_pause_shorter_than_a_lease_is_none),
    };

    return cmocka_run_group_tests_name("authz_changes", tests, NULL, NULL);
}
