/* test_audit_rules.c - where a block belongs, when a batch is full, what a producer's tail says, what is lost. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "services/audit/audit_rules.h"

static void a_block_that_numbers_cannot_hold_is_malformed(void **state)
{
    (void)state;
    assert_int_equal(block_place_of(5, 5, 0), BLOCK_MALFORMED);
    assert_int_equal(block_place_of(5, 0, 1), BLOCK_MALFORMED);
    assert_int_equal(block_place_of(5, UINT64_MAX, 1), BLOCK_MALFORMED);
    assert_int_equal(block_place_of(5, INT64_MAX, 1), BLOCK_MALFORMED);
    assert_int_equal(block_place_of(5, 6, UINT64_MAX), BLOCK_MALFORMED);
    assert_int_equal(block_place_of(5, INT64_MAX - 1, 1), BLOCK_GAP);
}

static void a_block_astride_what_was_taken_is_malformed(void **state)
{
    (void)state;
    assert_int_equal(block_place_of(5, 4, 2), BLOCK_MALFORMED);
    assert_int_equal(block_place_of(5, 1, 100), BLOCK_MALFORMED);
}

static void a_block_wholly_below_is_a_duplicate(void **state)
{
    (void)state;
    assert_int_equal(block_place_of(5, 4, 1), BLOCK_DUPLICATE);
    assert_int_equal(block_place_of(5, 1, 4), BLOCK_DUPLICATE);
}

static void a_block_beyond_leaves_a_gap_and_one_at_the_mark_is_next(void **state)
{
    (void)state;
    assert_int_equal(block_place_of(5, 6, 1), BLOCK_GAP);
    assert_int_equal(block_place_of(5, 5, 1), BLOCK_NEXT);
    assert_int_equal(block_place_of(1, 1, 2000), BLOCK_NEXT);
}

static void a_batch_is_full_by_events_or_by_bytes(void **state)
{
    (void)state;
    assert_false(batch_is_full(AUDIT_BATCH_EVENTS - 1, AUDIT_BATCH_BYTES - 1));
    assert_true(batch_is_full(AUDIT_BATCH_EVENTS, 0));
    assert_true(batch_is_full(1, AUDIT_BATCH_BYTES));
}

static void a_producer_that_says_less_than_is_stored_uses_numbers_again(void **state)
{
    (void)state;
    assert_int_equal(tail_of(10, 10, 9), TAIL_REUSED);
    assert_int_equal(tail_of(12, 10, 9), TAIL_REUSED);
}

static void a_lost_tail_is_seen_from_what_the_producer_says(void **state)
{
    (void)state;
    assert_int_equal(tail_of(10, 8, 11), TAIL_MISSING);
    assert_int_equal(tail_of(10, 8, 10), TAIL_LEVEL);
    assert_int_equal(tail_of(10, 8, 9), TAIL_LEVEL);
}

static bool resumes(struct loss loss, unsigned replays, uint64_t *ret_resume)
{
    return loss_resume_of(&loss, replays, ret_resume);
}

#define LOSS(next, oldest, held, gone) \
    (struct loss){ .next_seq = next, .oldest_seq = oldest, .held_seq = held, .is_gone = gone }

static void nothing_is_given_up_while_the_spool_may_still_have_it(void **state)
{
    uint64_t resume = 77;
    (void)state;

    assert_false(resumes(LOSS(5, 9, 20, false), AUDIT_REPLAYS_MAX - 1, &resume));
    assert_false(resumes(LOSS(5, 1, 0, true), 1, &resume));
    assert_false(resumes(LOSS(5, 5, 5, true), AUDIT_REPLAYS_MAX, &resume));
    assert_false(resumes(LOSS(5, 9, 0, false), AUDIT_REPLAYS_MAX, &resume));
    assert_int_equal(resume, 77);
}

static void a_stream_goes_on_at_the_oldest_that_the_spool_or_we_still_have(void **state)
{
    uint64_t resume = 0;
    (void)state;

    assert_true(resumes(LOSS(5, 9, 0, true), 1, &resume));
    assert_int_equal(resume, 9);
    assert_true(resumes(LOSS(5, 9, 7, true), 1, &resume));
    assert_int_equal(resume, 7);
    assert_true(resumes(LOSS(5, 9, 20, true), 1, &resume));
    assert_int_equal(resume, 9);
    assert_true(resumes(LOSS(5, 1, 20, true), 1, &resume));
    assert_int_equal(resume, 20);
    assert_true(resumes(LOSS(5, 1, 20, false), AUDIT_REPLAYS_MAX, &resume));
    assert_int_equal(resume, 20);
}

static void damage_is_not_given_up_at_the_first_look(void **state)
{
    uint64_t resume = 0;
    (void)state;

    assert_false(resumes((struct loss){ .next_seq = 5, .told_seq = 9 }, AUDIT_REPLAYS_MAX - 1, &resume));
    assert_true(resumes((struct loss){ .next_seq = 5, .told_seq = 9 }, AUDIT_REPLAYS_MAX, &resume));
    assert_int_equal(resume, 9);
    assert_true(resumes((struct loss){ .next_seq = 5, .told_seq = 9, .held_seq = 7 }, AUDIT_REPLAYS_MAX, &resume));
    assert_int_equal(resume, 7);
    assert_true(resumes((struct loss){ .next_seq = 5, .refused_seq = 8, .held_seq = 12 }, AUDIT_REPLAYS_MAX, &resume));
    assert_int_equal(resume, 8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_block_that_numbers_cannot_hold_is_malformed),
        cmocka_unit_test(a_block_astride_what_was_taken_is_malformed),
        cmocka_unit_test(a_block_wholly_below_is_a_duplicate),
        cmocka_unit_test(a_block_beyond_leaves_a_gap_and_one_at_the_mark_is_next),
        cmocka_unit_test(a_batch_is_full_by_events_or_by_bytes),
        cmocka_unit_test(a_producer_that_says_less_than_is_stored_uses_numbers_again),
        cmocka_unit_test(a_lost_tail_is_seen_from_what_the_producer_says),
        cmocka_unit_test(nothing_is_given_up_while_the_spool_may_still_have_it),
        cmocka_unit_test(damage_is_not_given_up_at_the_first_look),
        cmocka_unit_test(a_stream_goes_on_at_the_oldest_that_the_spool_or_we_still_have),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
