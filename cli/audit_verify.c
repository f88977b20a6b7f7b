/* audit_verify.c - mcpgw audit verify: the stored trail held against its signed checkpoints; every difference is told. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <jansson.h>

#include "cli/audit_findings.h"
#include "cli/audit_proof.h"
#include "cli/audit_readers.h"
#include "cli/output.h"
#include "common/clock.h"

#define SET_SLOTS        8192u
#define PROGRESS_EVENTS  50000u
#define RETENTION_SLACK_US UINT64_C(90000000000)    /* a day's partition goes whole, and maintenance is hourly */
#define DAY_US           UINT64_C(86400000000)

struct verify {
    PGconn *connection;
    struct evidence evidence;
    struct findings findings;
    struct leaf_buffer buffer;
    uint64_t retention_days, now_us;
    uint64_t events, unproven, total, shown;
    struct timespec began;
    bool has_bar;
};

/* One epoch on its way. */
struct epoch {
    struct verify *verify;
    struct epoch_name name;
    struct merkle tree;
    const struct known_checkpoint *next;    /* not reached yet */
    size_t left;
    uint64_t next_seq;                      /* what the next batch should begin with */
    uint64_t good_seq;                      /* everything below is proven */
    uint64_t last_at_us;
    bool is_broken;                         /* the tree says nothing until it can be taken up at a checkpoint */
    bool has_begun, is_outbox;
};

static double seconds_since(const struct timespec *began)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)(now.tv_sec - began->tv_sec) + (double)(now.tv_nsec - began->tv_nsec) / 1e9;
}

static void show_progress(struct verify *verify)
{
    const double seconds = seconds_since(&verify->began);
    const unsigned share = verify->total == 0 ? 100 : (unsigned)(verify->events * 100 / verify->total);
    const int width = (int)(share > 100 ? 100 : share) * 40 / 100;

    verify->shown = verify->events;
    if (verify->has_bar)
        fprintf(stderr, "\r[%.*s%*s] %3u %%  %" PRIu64 " events, %.0f/s ", width, "########################################",
                40 - width, "", share, verify->events, seconds > 0 ? (double)verify->events / seconds : 0);
}

static void tell(struct epoch *epoch, const char *kind, uint64_t from_seq, uint64_t to_seq, const char *detail)
{
    finding_tell(&epoch->verify->findings, &(struct finding){ .kind = kind, .producer = epoch->name.producer,
                                                              .epoch = epoch->name.epoch, .from_seq = from_seq,
                                                              .to_seq = to_seq, .detail = detail });
}

/* ---- one batch */

static uint32_t hash_of(const uint8_t *bytes, uint32_t size)
{
    uint32_t hash = 2166136261u;

    for (uint32_t i = 0; i < size; i++)
        hash = (hash ^ bytes[i]) * 16777619u;
    return hash;
}

struct names { const uint8_t *slots[SET_SLOTS]; };

/* The elements of keys or users, so that each event's can be looked for.  False: no sound array. */
static bool names_load(struct names *names, struct elements elements)
{
    memset(names, 0, sizeof *names);
    if (elements.next == NULL)
        return false;
    for (uint32_t n = 0; n < elements.count && n < SET_SLOTS / 2; n++) {
        const uint8_t *at = elements.next;
        const uint32_t size = (size_t)(elements.end - at) < 4 ? UINT32_MAX : read_be32(at);
        uint32_t slot;

        if (size > (size_t)(elements.end - at) - 4)
            return false;
        for (slot = hash_of(at + 4, size) % SET_SLOTS; names->slots[slot] != NULL; slot = (slot + 1) % SET_SLOTS)
            continue;
        names->slots[slot] = at;
        elements.next = at + 4 + size;
    }
    return true;
}

static bool names_hold(const struct names *names, const uint8_t *bytes, uint32_t size)
{
    if (bytes == NULL)
        return true;
    for (uint32_t slot = hash_of(bytes, size) % SET_SLOTS; names->slots[slot] != NULL; slot = (slot + 1) % SET_SLOTS)
        if (read_be32(names->slots[slot]) == size && memcmp(names->slots[slot] + 4, bytes, size) == 0)
            return true;
    return false;
}

/* What stands beside the leaves, and is used to find them. */
static const char *hash_batch(struct epoch *epoch, struct batch *batch)
{
    struct verify *verify = epoch->verify;
    static struct names keys, users;
    int64_t first_at = INT64_MAX, last_at = INT64_MIN;
    struct event_leaf event;
    uint8_t leaf[DIGEST_SIZE];
    bool is_broken = false, is_found = names_load(&keys, batch->keys) && names_load(&users, batch->users);
    uint64_t n = 0;

    for (; trail_next_event(batch, &epoch->name, n, &verify->buffer, &event, &is_broken); n++) {
        const int64_t at = event.values[VALUE_AT].size == 8 ? (int64_t)read_be64(event.values[VALUE_AT].bytes) : INT64_MIN;

        first_at = at < first_at ? at : first_at;
        last_at = at > last_at ? at : last_at;
        is_found = is_found && names_hold(&keys, event.values[VALUE_KEY].bytes, event.values[VALUE_KEY].size)
                && names_hold(&users, event.values[VALUE_USER].bytes, event.values[VALUE_USER].size);
        merkle_leaf(event.content, event.size, leaf);
        merkle_add(&epoch->tree, leaf);
    }
    verify->events += n;
    for (size_t i = 0; i < EVENT_COLUMNS_COUNT; i++)
        is_broken |= batch->columns[i].count != 0;
    if (is_broken)
        return "the columns of the batch do not hold the same number of events";
    if (first_at != batch->first_at || last_at != batch->last_at)
        return "the batch says it lies at another time than its events";
    return is_found ? NULL : "keys or users of the batch do not name all keys and users of its events";
}

/* ---- the tree against checkpoints */

static bool is_reached(const struct epoch *epoch)
{
    return epoch->left > 0 && epoch->next->checkpoint.size <= epoch->tree.size;
}

static void check_reached(struct epoch *epoch, uint64_t next_seq)
{
    for (; is_reached(epoch); epoch->next++, epoch->left--) {
        const struct checkpoint *checkpoint = &epoch->next->checkpoint;
        uint8_t root[DIGEST_SIZE];

        if (epoch->is_broken)
            continue;
        merkle_root(&epoch->tree, root);
        if (checkpoint->size == epoch->tree.size && checkpoint->next_seq == next_seq
            && memcmp(root, checkpoint->root, DIGEST_SIZE) == 0) {
            epoch->good_seq = next_seq;
            continue;
        }
        tell(epoch, "changed", epoch->good_seq, next_seq - 1, "the events are not those that were signed");
        epoch->is_broken = epoch->next->peaks == NULL || checkpoint->size != epoch->tree.size
                        || merkle_load(&epoch->tree, checkpoint->size, epoch->next->peaks,
                                       (size_t)merkle_peaks(checkpoint->size) * DIGEST_SIZE) != ERR_OK;
        epoch->good_seq = next_seq;
    }
}

/* After a hole: goes on where a checkpoint of the table gives the tree just before this batch. */
static bool take_up(struct epoch *epoch, const struct batch *batch)
{
    size_t count = 0;
    const struct known_checkpoint *known = evidence_of(&epoch->verify->evidence, &epoch->name, &count);

    for (size_t i = 0; i < count; i++) {
        if (known[i].checkpoint.size != batch->first_leaf || known[i].peaks == NULL)
            continue;
        if (merkle_load(&epoch->tree, batch->first_leaf, known[i].peaks,
                        (size_t)merkle_peaks(batch->first_leaf) * DIGEST_SIZE) != ERR_OK)
            return false;
        epoch->good_seq = batch->first_seq;
        epoch->next = known + i;
        epoch->left = count - i;
        while (epoch->left > 0 && epoch->next->checkpoint.size <= batch->first_leaf)
            epoch->next++, epoch->left--;
        return true;
    }
    return false;
}

/* May everything before this batch have been dropped by retention? */
static bool is_retention(const struct epoch *epoch, const struct batch *batch)
{
    const struct verify *verify = epoch->verify;
    const uint64_t kept_us = verify->retention_days * DAY_US;
    size_t count = 0;
    const struct known_checkpoint *known = evidence_of(&verify->evidence, &epoch->name, &count);

    if (verify->retention_days == 0 || verify->now_us < kept_us)
        return false;
    for (size_t i = 0; i < count; i++) {
        const struct checkpoint *checkpoint = &known[i].checkpoint;

        if (checkpoint->size >= batch->first_leaf)
            return checkpoint->time_us <= verify->now_us - kept_us + RETENTION_SLACK_US;
    }
    return false;
}

/* Does the batch stand where the one before ended?  Tells what is not so. */
static void check_place(struct epoch *epoch, const struct batch *batch)
{
    const bool is_first = !epoch->has_begun;
    const bool is_leaf_next = batch->has_leaf && batch->first_leaf == epoch->tree.size;

    epoch->has_begun = true;
    if (!batch->has_leaf) {
        tell(epoch, "unproven", batch->first_seq, batch->last_seq, "the batch has no place in the tree");
        epoch->is_broken = true;
        return;
    }
    if (epoch->is_broken || (is_first && !is_leaf_next && is_retention(epoch, batch))) {
        epoch->is_broken = !take_up(epoch, batch);
        return;
    }
    if (batch->first_seq < epoch->next_seq)
        tell(epoch, "repeated", batch->first_seq, epoch->next_seq - 1, "these sequences are stored more than once");
    else if (batch->first_seq > epoch->next_seq && (!epoch->is_outbox || !is_leaf_next))
        tell(epoch, "missing", epoch->next_seq, batch->first_seq - 1, "events are not there any more");
    else if (!is_leaf_next)
        tell(epoch, "changed", batch->first_seq, batch->last_seq, "the batch does not stand where it was stored");
    else
        return;
    epoch->is_broken = !take_up(epoch, batch);
}

static bool take_batch(void *owner, struct batch *batch)
{
    struct epoch *epoch = owner;
    struct verify *verify = epoch->verify;
    const uint64_t before = epoch->tree.size;
    const char *wrong;

    check_place(epoch, batch);
    if (epoch->is_broken && batch->has_leaf)
        epoch->tree.size = 0;    /* of no use, but leaves are counted in it */
    wrong = hash_batch(epoch, batch);
    if (wrong == NULL && batch->count > 1 && batch->last_seq != batch->first_seq + batch->count - 1)
        wrong = "the batch says it ends elsewhere than its events";
    if (wrong != NULL)
        tell(epoch, "changed", batch->first_seq, batch->last_seq, wrong);
    if (epoch->is_broken) {
        verify->unproven += batch->count;
        epoch->tree.size = before > batch->first_leaf + batch->count ? before : batch->first_leaf + batch->count;
    }
    epoch->next_seq = batch->last_seq + 1;
    check_reached(epoch, epoch->next_seq);
    if (verify->events - verify->shown >= PROGRESS_EVENTS)
        show_progress(verify);
    return true;
}

/* ---- one epoch */

/* The last signed statement, which moves with every batch. */
struct mark {
    bool is_there, is_signed;
    struct checkpoint checkpoint;
};

static bool load_mark(struct epoch *epoch, struct mark *ret_mark)
{
    char producer[UUID_TEXT_SIZE], number[24];
    const char *const values[] = { producer, number };

    uuid_format(epoch->name.producer, producer);
    snprintf(number, sizeof number, "%" PRIu64, epoch->name.epoch);
    OWNED(rows_destroy) PGresult *result = trail_ask(epoch->verify->connection,
        "SELECT producer, epoch, size, next_seq, encode(peaks, 'hex'), (extract(epoch FROM signed_at) * 1000000)::bigint,"
        " encode(signature, 'hex') FROM audit.watermark WHERE producer = $1::uuid AND epoch = $2::bigint", 2, values);
    uint8_t peaks[MERKLE_PEAKS_MAX * DIGEST_SIZE];
    size_t size = 0;

    if (result == NULL)
        return false;
    *ret_mark = (struct mark){ .is_there = PQntuples(result) == 1 };
    if (ret_mark->is_there)
        ret_mark->is_signed = evidence_read_row(result, 0, &ret_mark->checkpoint, peaks, &size)
                           && evidence_is_signed(&epoch->verify->evidence, &ret_mark->checkpoint);
    return true;
}

/* What checkpoints say and no row holds. */
static void check_end(struct epoch *epoch, const struct mark *mark)
{
    const struct verify *verify = epoch->verify;
    const struct checkpoint *last = epoch->left > 0 ? &epoch->next[epoch->left - 1].checkpoint : NULL;
    uint8_t root[DIGEST_SIZE];

    const uint64_t end_us = last != NULL ? last->time_us : mark->checkpoint.time_us;

    if (!epoch->has_begun && verify->retention_days > 0 && end_us + verify->retention_days * DAY_US < verify->now_us)
        return;    /* all of the epoch is older than what is kept */
    if (last != NULL)
        tell(epoch, "tail_cut", epoch->next_seq, last->next_seq - 1, "a signed checkpoint says there were more events");
    if (!mark->is_there || !mark->is_signed || last != NULL)
        return;
    merkle_root(&epoch->tree, root);
    if (mark->checkpoint.size == epoch->tree.size && mark->checkpoint.next_seq == epoch->next_seq
        && (epoch->is_broken || memcmp(root, mark->checkpoint.root, DIGEST_SIZE) == 0))
        return;
    if (mark->checkpoint.next_seq > epoch->next_seq)
        tell(epoch, "tail_cut", epoch->next_seq, mark->checkpoint.next_seq - 1, "the signed watermark says there were more events");
    else
        tell(epoch, "changed", epoch->good_seq, epoch->next_seq - 1, "the events are not those that the signed watermark covers");
}

static bool verify_epoch(struct verify *verify, const struct epoch_name *name)
{
    static const uint8_t outbox[UUID_SIZE] = { 0, 0, 0, 0, 0, 0, 0x70, 0, 0x80, 0, 0, 0, 0, 0, 0, 1 };
    struct epoch epoch = { .verify = verify, .name = *name, .next_seq = 1, .good_seq = 1 };
    struct mark mark;

    epoch.is_outbox = memcmp(name->producer, outbox, UUID_SIZE) == 0;
    epoch.next = evidence_of(&verify->evidence, name, &epoch.left);
    if (!load_mark(&epoch, &mark) || !trail_walk(verify->connection, name, take_batch, &epoch))
        return false;
    if (!mark.is_there)
        tell(&epoch, "forged", 1, epoch.next_seq - 1, "there is no watermark for this epoch");
    else if (!mark.is_signed && epoch.has_begun)
        tell(&epoch, "forged", epoch.good_seq, epoch.next_seq - 1,
             "the watermark is not signed by a key that was given: rows were added, or it was written, by somebody else");
    check_end(&epoch, &mark);
    return true;
}

/* ---- the command */

static bool verify_all(struct verify *verify)
{
    OWNED(rows_destroy) PGresult *result = trail_ask(verify->connection,
        "SELECT producer, epoch FROM audit.watermark WHERE next_seq > 1 UNION SELECT producer, epoch FROM audit.checkpoint"
        " UNION SELECT DISTINCT producer, epoch FROM audit.batch ORDER BY 1, 2", 0, NULL);

    if (result == NULL)
        return false;
    for (int row = 0; row < PQntuples(result); row++) {
        struct epoch_name name = { .epoch = strtoull(PQgetvalue(result, row, 1), NULL, 10) };

        if (!uuid_parse(PQgetvalue(result, row, 0), name.producer) || !verify_epoch(verify, &name))
            return false;
        evidence_mark_seen(&verify->evidence, &name);
    }
    for (const struct known_checkpoint *known; (known = evidence_unseen(&verify->evidence)) != NULL;) {
        struct epoch_name name = { .epoch = known->checkpoint.epoch };

        memcpy(name.producer, known->checkpoint.producer, UUID_SIZE);
        if (!verify_epoch(verify, &name))
            return false;
        evidence_mark_seen(&verify->evidence, &name);
    }
    return true;
}

static bool count_total(struct verify *verify)
{
    OWNED(rows_destroy) PGresult *result = trail_ask(verify->connection,
        "SELECT coalesce(sum(count), 0)::bigint FROM audit.batch", 0, NULL);

    if (result == NULL)
        return false;
    verify->total = strtoull(PQgetvalue(result, 0, 0), NULL, 10);
    verify->now_us = clock_unix_us();    /* what is old enough to be gone is not the database's to say */
    return true;
}

static void show_result(const struct verify *verify)
{
    const double seconds = seconds_since(&verify->began);
    const double rate = seconds > 0 ? (double)verify->events / seconds : 0;
    json_t *summary;

    if (verify->has_bar)
        fputs("\r\033[K", stderr);
    if (!verify->findings.is_json) {
        printf("%s: %" PRIu64 " events, %zu checkpoints (%zu exported), %" PRIu64 " findings, %" PRIu64 " events not provable;"
               " %.1f s, %.0f events/s\n", verify->findings.count == 0 ? "The trail is whole" : "THE TRAIL WAS TOUCHED",
               verify->events, verify->evidence.checkpoint_count, verify->evidence.exported, verify->findings.count,
               verify->unproven, seconds, rate);
        if (verify->evidence.exported == 0)
            puts("No exported checkpoints were given: who can write the database could have cut all of an epoch, unseen.");
        return;
    }
    summary = json_pack("{s:b, s:I, s:I, s:I, s:I, s:I, s:f, s:I}", "whole", verify->findings.count == 0 ? 1 : 0, "events",
                        (json_int_t)verify->events, "checkpoints", (json_int_t)verify->evidence.checkpoint_count, "exported",
                        (json_int_t)verify->evidence.exported, "findings", (json_int_t)verify->findings.count,
                        "unproven", (json_int_t)verify->unproven, "seconds", seconds, "eventsPerSecond", (json_int_t)rate);
    print_json(summary);
    json_decref(summary);
}

enum exit_code audit_verify(struct cli *cli, const struct arguments *arguments)
{
    struct verify verify = { .findings.is_json = cli->is_json, .has_bar = isatty(STDERR_FILENO) == 1 && !cli->is_json };
    enum exit_code result = EXIT_MISUSE;

    if (arguments_number(arguments, "retention-days", 0, 36500, 90, &verify.retention_days) != ERR_OK) {
        complain("--retention-days: the retention_days of mcpgw-audit, from 0 (for ever) to 36500");
        return EXIT_MISUSE;
    }
    verify.connection = trail_connect(arguments, &result);
    if (verify.connection == NULL)
        return result;
    clock_gettime(CLOCK_MONOTONIC, &verify.began);
    if (evidence_load(&verify.evidence, arguments, verify.connection, &verify.findings, &result)) {
        result = readers_check(verify.connection, &verify.findings) && count_total(&verify) && verify_all(&verify)
               ? EXIT_DONE : EXIT_UNREACHABLE;
        if (result == EXIT_DONE) {
            show_result(&verify);
            result = verify.findings.count == 0 ? EXIT_DONE : EXIT_REFUSED;
        }
    }
    evidence_release(&verify.evidence);
    free(verify.buffer.bytes);
    PQfinish(verify.connection);
    return result;
}
