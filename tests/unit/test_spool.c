/* test_spool.c - slots, epochs, torn tails, acknowledgements and replay, on real files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/trail.h"
#include "services/edge/spool.h"

#define WAIT_US 10000000u

static char directory[64];
static uint8_t last_block[TRAIL_BLOCK_MAX];

static void pause_briefly(void)
{
    nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
}

#define AWAIT(condition)                                                                      \
    for (uint64_t end_us = clock_monotonic_us() + WAIT_US; !(condition); pause_briefly())     \
        assert_true(clock_monotonic_us() < end_us)

static int make_directory(void **state)
{
    (void)state;
    strcpy(directory, "/tmp/mcpgw-spool-XXXXXX");
    return mkdtemp(directory) == NULL;
}

static int remove_entry(const char *path, const struct stat *status, int flag, struct FTW *walk)
{
    (void)status, (void)flag, (void)walk;
    return remove(path);
}

static int remove_directory(void **state)
{
    (void)state;
    return nftw(directory, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

static struct spool *open_spool(uint64_t bytes)
{
    const struct spool_options options = { .dir = directory, .bytes = bytes, .segment_bytes = SPOOL_SEGMENT_MIN };
    struct spool *spool = NULL;
    char reason[256] = "";

    if (spool_new(&options, &spool, reason, sizeof reason) != ERR_OK)
        print_message("%s\n", reason);
    assert_non_null(spool);
    return spool;
}

/* One block of `count` events, each about 1,100 bytes. */
static enum err append(struct spool *spool, uint32_t count, bool is_junk)
{
    static const uint8_t none[DIGEST_SIZE];
    struct audit_event event = { .event = "request", .outcome = "allowed" };
    struct trail_writer writer;
    uint8_t mac[DIGEST_SIZE];

    memset(event.details, 'x', 1000);
    trail_begin(&writer, last_block, sizeof last_block, spool_producer(spool), spool_epoch(spool), spool_next_seq(spool));
    for (uint32_t i = 0; i < count; i++)
        assert_int_equal(trail_add(&writer, 1, message_type_of(MESSAGE_audit_event), &event), ERR_OK);
    return spool_append(spool, last_block, trail_end(&writer, 1, none, NULL, 0, mac), count, is_junk);
}

/* An append is refused when the next segment is not ready in time: a busy machine, not what is tested here. */
static void fill(struct spool *spool, uint32_t blocks)
{
    for (uint32_t i = 0; i < blocks; i++)
        AWAIT(append(spool, 10, false) == ERR_OK);
}

static unsigned segments(unsigned slot, char *ret_newest, size_t size)
{
    char path[128];
    unsigned count = 0;
    char newest[64] = "";

    snprintf(path, sizeof path, "%s/slot-%u", directory, slot);
    DIR *dir = opendir(path);
    assert_non_null(dir);
    for (const struct dirent *entry = readdir(dir); entry != NULL; entry = readdir(dir)) {
        if (strstr(entry->d_name, ".seg") == NULL)
            continue;
        count++;
        if (strcmp(entry->d_name, newest) > 0)
            snprintf(newest, sizeof newest, "%.60s", entry->d_name);
    }
    closedir(dir);
    if (ret_newest != NULL)
        snprintf(ret_newest, size, "%s/%s", path, newest);
    return count;
}

/* Reads from `seq` to the end; every event must come once and in order.  Returns the sequence behind the last. */
static uint64_t replay(struct spool *spool, const uint8_t *producer, uint64_t epoch, uint64_t seq)
{
    struct spool_cursor cursor = { .epoch = epoch, .seq = seq };
    uint8_t *block = malloc(TRAIL_BLOCK_MAX);
    size_t size = 1;

    memcpy(cursor.producer, producer, UUID_SIZE);
    while (size > 0) {
        const enum err err = spool_read(spool, &cursor, block, &size);
        struct trail_header header;

        if (err == ERR_AGAIN)
            continue;
        assert_int_equal(err, ERR_OK);
        if (size == 0)
            break;
        assert_int_equal(trail_open(block, size, &header), ERR_OK);
        assert_int_equal(header.epoch, epoch);
        assert_true(header.first_seq <= seq && seq < header.first_seq + header.count);
        seq = header.first_seq + header.count;
    }
    spool_cursor_close(&cursor);
    free(block);
    return seq;
}

static enum err read_at(struct spool *spool, uint64_t epoch, uint64_t seq)
{
    struct spool_cursor cursor = { .epoch = epoch, .seq = seq };
    uint8_t *block = malloc(TRAIL_BLOCK_MAX);
    size_t size;
    enum err err;

    memcpy(cursor.producer, spool_producer(spool), UUID_SIZE);
    do
        err = spool_read(spool, &cursor, block, &size);
    while (err == ERR_AGAIN);
    spool_cursor_close(&cursor);
    free(block);
    return err;
}

static bool has_log(struct spool *spool, const uint8_t *producer, uint64_t epoch, struct spool_log *ret_log)
{
    struct spool_log logs[SPOOL_LOGS_MAX];
    const size_t count = spool_logs(spool, logs);

    for (size_t i = 0; i < count; i++)
        if (logs[i].epoch == epoch && memcmp(logs[i].producer, producer, UUID_SIZE) == 0) {
            *ret_log = logs[i];
            return true;
        }
    return false;
}

/* As kill -9 does: a child writes and ends without closing anything. */
static void write_and_die(uint32_t blocks)
{
    const pid_t child = fork();

    if (child == 0) {
        struct spool *spool = open_spool(8 << 20);

        fill(spool, blocks);
        kill(getpid(), SIGKILL);
    }
    waitpid(child, NULL, 0);
}

/* ---- refusals first ---------------------------------------------------------------------------- */

static void a_directory_that_cannot_be_made_is_named(void **state)
{
    const struct spool_options options = { .dir = "/proc/none", .bytes = 1 << 20, .segment_bytes = SPOOL_SEGMENT_MIN };
    struct spool *spool = NULL;
    char reason[256] = "";
    (void)state;

    assert_int_equal(spool_new(&options, &spool, reason, sizeof reason), ERR_UNAVAILABLE);
    assert_non_null(strstr(reason, "/proc/none"));
    assert_null(spool);
}

static void a_spent_quota_refuses_and_acknowledgements_free_it(void **state)
{
    struct spool *spool = open_spool(4 * SPOOL_SEGMENT_MIN);
    uint64_t before;
    (void)state;

    AWAIT(append(spool, 10, false) == ERR_AUDIT_UNAVAILABLE && !spool_is_available(spool));
    before = spool_next_seq(spool);
    assert_int_equal(append(spool, 10, false), ERR_AUDIT_UNAVAILABLE);
    assert_int_equal(spool_next_seq(spool), before);
    spool_acknowledge(spool, spool_producer(spool), spool_epoch(spool), before);
    AWAIT(spool_is_available(spool));
    fill(spool, 10);
    assert_int_equal(spool_next_seq(spool), before + 100);
    assert_int_equal(replay(spool, spool_producer(spool), spool_epoch(spool), before), before + 100);
    spool_destroy(&spool);
}

static void a_disk_that_gives_no_room_refuses_and_nothing_dies(void **state)
{
    const struct rlimit none = { 4096, RLIM_INFINITY };
    struct rlimit old;
    struct spool *spool;
    (void)state;

    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &old);
    setrlimit(RLIMIT_FSIZE, &none);
    spool = open_spool(8 << 20);
    assert_false(spool_is_available(spool));
    assert_int_equal(append(spool, 1, false), ERR_AUDIT_UNAVAILABLE);
    setrlimit(RLIMIT_FSIZE, &old);
    AWAIT(spool_is_available(spool));
    assert_int_equal(append(spool, 1, false), ERR_OK);
    assert_int_equal(spool_next_seq(spool), 2);
    spool_destroy(&spool);
}

static void junk_has_a_tenth_of_the_quota(void **state)
{
    struct spool *spool = open_spool(8 << 20);
    unsigned blocks = 0;
    (void)state;

    for (; spool_takes_junk(spool); blocks++)
        AWAIT(append(spool, 10, true) == ERR_OK);
    assert_true(blocks * 11000 < (8u << 20) / 9);
    assert_int_equal(append(spool, 10, false), ERR_OK);
    spool_acknowledge(spool, spool_producer(spool), spool_epoch(spool), spool_next_seq(spool));
    AWAIT(spool_takes_junk(spool));
    spool_destroy(&spool);
}

static void what_was_never_written_or_is_gone_is_not_found(void **state)
{
    struct spool *spool = open_spool(8 << 20);
    uint8_t foreign[UUID_SIZE] = { 1 };
    struct spool_cursor cursor = { .epoch = 1, .seq = 1 };
    size_t size;
    (void)state;

    fill(spool, 40);
    memcpy(cursor.producer, foreign, UUID_SIZE);
    assert_int_equal(spool_read(spool, &cursor, last_block, &size), ERR_NOT_FOUND);
    assert_int_equal(read_at(spool, spool_epoch(spool) + 1, 1), ERR_NOT_FOUND);
    assert_int_equal(read_at(spool, spool_epoch(spool), 0), ERR_NOT_FOUND);
    spool_acknowledge(spool, spool_producer(spool), spool_epoch(spool), 300);
    AWAIT(read_at(spool, spool_epoch(spool), 1) == ERR_NOT_FOUND);
    assert_int_equal(read_at(spool, spool_epoch(spool), 300), ERR_OK);
    spool_acknowledge(spool, spool_producer(spool), spool_epoch(spool), 4000000);    /* beyond what exists: a lie */
    assert_int_equal(read_at(spool, spool_epoch(spool), 400), ERR_OK);
    spool_destroy(&spool);
}

/* ---- crashes ---------------------------------------------------------------------------------------- */

static void a_killed_writer_loses_nothing_and_the_epoch_rises(void **state)
{
    struct spool *spool;
    struct spool_log log;
    (void)state;

    write_and_die(30);
    spool = open_spool(8 << 20);
    assert_int_equal(spool_epoch(spool), 2);
    assert_true(has_log(spool, spool_producer(spool), 1, &log));
    assert_true(log.is_closed);
    assert_int_equal(log.next_seq, 301);
    assert_int_equal(log.oldest_seq, 1);
    assert_int_equal(replay(spool, spool_producer(spool), 1, 1), 301);
    assert_int_equal(replay(spool, spool_producer(spool), 1, 155), 301);
    fill(spool, 3);
    assert_int_equal(replay(spool, spool_producer(spool), 2, 1), 31);
    spool_acknowledge(spool, spool_producer(spool), 1, 301);
    AWAIT(!has_log(spool, spool_producer(spool), 1, &log));
    assert_int_equal(segments(0, NULL, 0), 1);
    spool_destroy(&spool);
}

static void a_torn_tail_is_cut_at_the_first_bad_block(void **state)
{
    struct spool *spool = open_spool(8 << 20);
    const uint8_t damage = 0x5a;
    char path[200];
    struct spool_log log;
    struct stat status;
    (void)state;

    fill(spool, 5);
    spool_destroy(&spool);
    assert_int_equal(segments(0, path, sizeof path), 1);
    assert_int_equal(stat(path, &status), 0);
    const int fd = open(path, O_RDWR);
    assert_int_equal(pwrite(fd, &damage, 1, status.st_size - 40), 1);    /* within the fifth block */
    assert_int_equal(ftruncate(fd, status.st_size + 70000), 0);
    close(fd);
    spool = open_spool(8 << 20);
    assert_true(has_log(spool, spool_producer(spool), 1, &log));
    assert_int_equal(log.next_seq, 41);
    assert_int_equal(replay(spool, spool_producer(spool), 1, 1), 41);
    spool_destroy(&spool);
}

static void a_flipped_bit_in_the_middle_is_told_and_not_served(void **state)
{
    struct spool *spool = open_spool(8 << 20);
    const uint8_t damage = 0x5a;
    char path[200];
    (void)state;

    fill(spool, 5);
    segments(0, path, sizeof path);
    const int fd = open(path, O_RDWR);
    assert_int_equal(pwrite(fd, &damage, 1, 400), 1);
    close(fd);
    assert_int_equal(read_at(spool, 1, 1), ERR_MALFORMED);
    assert_int_equal(read_at(spool, 1, 11), ERR_OK);
    spool_destroy(&spool);
}

static void what_stands_behind_damage_in_a_closed_epoch_is_kept_and_found(void **state)
{
    struct spool *spool = open_spool(8 << 20);
    struct spool_cursor cursor = { .epoch = 1, .seq = 11 };
    const uint8_t damage = 0x5a;
    uint8_t *buffer = malloc(SPOOL_SKIP_SIZE);
    struct trail_header second;
    char path[200];
    struct spool_log log;
    size_t size = 0;
    (void)state;

    fill(spool, 5);
    memcpy(cursor.producer, spool_producer(spool), UUID_SIZE);
    assert_int_equal(spool_read(spool, &cursor, buffer, &size), ERR_OK);
    assert_int_equal(trail_open(buffer, size, &second), ERR_OK);
    spool_cursor_close(&cursor);
    spool_destroy(&spool);
    segments(0, path, sizeof path);
    const int fd = open(path, O_RDWR);
    assert_int_equal(pwrite(fd, &damage, 1, (off_t)second.size + 4), 1);    /* size of the second block */
    close(fd);

    spool = open_spool(8 << 20);
    assert_true(has_log(spool, spool_producer(spool), 1, &log));
    assert_int_equal(log.next_seq, 51);
    cursor.seq = 11;
    assert_int_equal(spool_read(spool, &cursor, buffer, &size), ERR_MALFORMED);
    assert_true(size > 0);
    assert_int_equal(spool_skip(spool, &cursor, buffer), ERR_OK);
    assert_int_equal(cursor.seq, 21);
    assert_int_equal(spool_read(spool, &cursor, buffer, &size), ERR_OK);
    assert_int_equal(cursor.seq, 31);
    spool_cursor_close(&cursor);
    cursor.seq = 21;    /* the damage stands before what is wanted */
    assert_int_equal(spool_read(spool, &cursor, buffer, &size), ERR_MALFORMED);
    assert_int_equal(spool_skip(spool, &cursor, buffer), ERR_OK);
    assert_int_equal(cursor.seq, 21);
    assert_int_equal(spool_read(spool, &cursor, buffer, &size), ERR_OK);
    spool_cursor_close(&cursor);
    spool_destroy(&spool);
    free(buffer);
}

static void each_slot_keeps_a_key_and_each_epoch_derives_its_own(void **state)
{
    struct spool *spool = open_spool(8 << 20);
    uint8_t first[TRAIL_KEY_SIZE];
    struct stat status;
    char path[200];
    (void)state;

    memcpy(first, spool_chain_key(spool), sizeof first);
    spool_destroy(&spool);
    snprintf(path, sizeof path, "%s/slot-0/key", directory);
    assert_int_equal(stat(path, &status), 0);
    assert_int_equal(status.st_mode & 0777, 0600);
    spool = open_spool(8 << 20);
    assert_memory_not_equal(first, spool_chain_key(spool), sizeof first);
    spool_destroy(&spool);
}

static void an_epoch_file_that_is_lost_does_not_repeat_an_epoch(void **state)
{
    struct spool *spool = open_spool(8 << 20);
    char path[128];
    (void)state;

    fill(spool, 1);
    spool_destroy(&spool);
    spool = open_spool(8 << 20);
    fill(spool, 1);
    assert_int_equal(spool_epoch(spool), 2);
    spool_destroy(&spool);
    snprintf(path, sizeof path, "%s/slot-0/epoch", directory);
    assert_int_equal(unlink(path), 0);
    spool = open_spool(8 << 20);
    assert_int_equal(spool_epoch(spool), 3);
    spool_destroy(&spool);
}

static void segments_whose_owner_is_unknown_are_left_alone(void **state)
{
    struct spool *spool = open_spool(8 << 20);
    char path[128];
    (void)state;

    fill(spool, 1);
    spool_destroy(&spool);
    snprintf(path, sizeof path, "%s/slot-0/uuid", directory);
    assert_int_equal(unlink(path), 0);
    spool = open_spool(8 << 20);
    fill(spool, 1);
    assert_int_equal(segments(0, NULL, 0), 1);
    assert_int_equal(segments(1, NULL, 0), 1);
    spool_destroy(&spool);
}

/* ---- the usual ------------------------------------------------------------------------------------------ */

static void two_edges_on_one_directory_take_different_slots(void **state)
{
    struct spool *first = open_spool(8 << 20), *second = open_spool(8 << 20);
    (void)state;

    assert_memory_not_equal(spool_producer(first), spool_producer(second), UUID_SIZE);
    fill(first, 2);
    fill(second, 3);
    assert_int_equal(replay(first, spool_producer(first), 1, 1), 21);
    assert_int_equal(replay(second, spool_producer(second), 1, 1), 31);
    spool_destroy(&first);
    spool_destroy(&second);
}

static void the_slot_of_a_dead_edge_is_served_by_one_that_lives(void **state)
{
    struct spool *living = open_spool(8 << 20), *dead = open_spool(8 << 20);
    uint8_t producer[UUID_SIZE];
    struct spool_log log;
    (void)state;

    memcpy(producer, spool_producer(dead), UUID_SIZE);
    fill(dead, 20);
    spool_destroy(&dead);
    AWAIT(has_log(living, producer, 1, &log));
    assert_true(log.is_closed);
    assert_int_equal(replay(living, producer, 1, 1), 201);
    spool_acknowledge(living, producer, 1, 201);
    AWAIT(!has_log(living, producer, 1, &log));
    AWAIT(segments(1, NULL, 0) == 0);
    dead = open_spool(8 << 20);    /* the slot is free again */
    assert_memory_equal(producer, spool_producer(dead), UUID_SIZE);
    assert_int_equal(spool_epoch(dead), 2);
    spool_destroy(&dead);
    spool_destroy(&living);
}

static void segments_follow_each_other_and_go_when_acknowledged(void **state)
{
    struct spool *spool = open_spool(8 << 20);
    unsigned count;
    (void)state;

    fill(spool, 60);
    count = segments(0, NULL, 0);
    assert_true(count > 4);
    assert_int_equal(replay(spool, spool_producer(spool), 1, 1), 601);
    spool_acknowledge(spool, spool_producer(spool), 1, 300);
    AWAIT(segments(0, NULL, 0) < count);
    assert_int_equal(read_at(spool, 1, 300), ERR_OK);
    assert_int_equal(replay(spool, spool_producer(spool), 1, 300), 601);
    spool_acknowledge(spool, spool_producer(spool), 1, 601);
    AWAIT(segments(0, NULL, 0) == 1);
    AWAIT(spool_durable_seq(spool) == 601);
    spool_destroy(&spool);
}

static void a_replay_goes_on_where_events_are_being_written(void **state)
{
    struct spool *spool = open_spool(8 << 20);
    struct spool_cursor cursor = { .epoch = 1, .seq = 1 };
    size_t size;
    (void)state;

    memcpy(cursor.producer, spool_producer(spool), UUID_SIZE);
    assert_int_equal(spool_read(spool, &cursor, last_block, &size), ERR_OK);
    assert_int_equal(size, 0);
    for (unsigned i = 0; i < 50; i++) {
        fill(spool, 1);
        assert_int_equal(spool_read(spool, &cursor, last_block, &size), ERR_OK);
        assert_true(size > 0);
        assert_int_equal(cursor.seq, i * 10 + 11);
    }
    spool_cursor_close(&cursor);
    spool_destroy(&spool);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, make_directory, remove_directory)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_directory_that_cannot_be_made_is_named),
        TEST(a_spent_quota_refuses_and_acknowledgements_free_it),
        TEST(a_disk_that_gives_no_room_refuses_and_nothing_dies),
        TEST(junk_has_a_tenth_of_the_quota),
        TEST(what_was_never_written_or_is_gone_is_not_found),
        TEST(a_killed_writer_loses_nothing_and_the_epoch_rises),
        TEST(a_torn_tail_is_cut_at_the_first_bad_block),
        TEST(a_flipped_bit_in_the_middle_is_told_and_not_served),
        TEST(what_stands_behind_damage_in_a_closed_epoch_is_kept_and_found),
        TEST(each_slot_keeps_a_key_and_each_epoch_derives_its_own),
        TEST(an_epoch_file_that_is_lost_does_not_repeat_an_epoch),
        TEST(segments_whose_owner_is_unknown_are_left_alone),
        TEST(two_edges_on_one_directory_take_different_slots),
        TEST(the_slot_of_a_dead_edge_is_served_by_one_that_lives),
        TEST(segments_follow_each_other_and_go_when_acknowledged),
        TEST(a_replay_goes_on_where_events_are_being_written),
    };

    log_setup("test", "1", LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
