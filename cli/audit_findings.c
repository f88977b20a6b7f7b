#include "cli/audit_findings.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>

#include "cli/environment.h"
#include "cli/output.h"

#define PATH_SIZE 1024u

DEFINE_DESTROY(file_close, FILE, fclose)
DEFINE_DESTROY(dir_close, DIR, closedir)

void finding_tell(struct findings *findings, const struct finding *finding)
{
    char producer[UUID_TEXT_SIZE] = "";
    json_t *object;

    findings->count++;
    if (finding->producer != NULL)
        uuid_format(finding->producer, producer);
    if (!findings->is_json) {
        fprintf(stderr, "\r\033[K");
        printf("FOUND %s: producer %s, epoch %" PRIu64 ", sequences %" PRIu64 " to %" PRIu64 ": %s\n", finding->kind,
               producer, finding->epoch, finding->from_seq, finding->to_seq, finding->detail);
        return;
    }
    object = json_pack("{s:s, s:s, s:I, s:I, s:I, s:s}", "finding", finding->kind, "producer", producer, "epoch",
                       (json_int_t)finding->epoch, "fromSeq", (json_int_t)finding->from_seq, "toSeq",
                       (json_int_t)finding->to_seq, "detail", finding->detail);
    print_json(object);
    json_decref(object);
}

bool evidence_is_signed(const struct evidence *evidence, const struct checkpoint *checkpoint)
{
    for (size_t i = 0; i < evidence->verifier_count; i++)
        if (checkpoint_is_signed(evidence->verifiers[i], checkpoint))
            return true;
    return false;
}

static struct known_checkpoint *evidence_add(struct evidence *evidence, const struct checkpoint *checkpoint)
{
    struct known_checkpoint *more;

    if (evidence->checkpoint_count == evidence->checkpoint_capacity) {
        evidence->checkpoint_capacity = evidence->checkpoint_capacity * 2 + 64;
        more = realloc(evidence->checkpoints, evidence->checkpoint_capacity * sizeof *more);
        if (more == NULL)
            return NULL;
        evidence->checkpoints = more;
    }
    more = &evidence->checkpoints[evidence->checkpoint_count++];
    *more = (struct known_checkpoint){ .checkpoint = *checkpoint };
    return more;
}

static void tell_foreign(struct findings *findings, const struct checkpoint *checkpoint, const char *detail)
{
    finding_tell(findings, &(struct finding){ .kind = "foreign_checkpoint", .producer = checkpoint->producer,
                                              .epoch = checkpoint->epoch, .to_seq = checkpoint->next_seq, .detail = detail });
}

/* ---- files */

static bool read_lines(struct evidence *evidence, const char *path, struct findings *findings)
{
    OWNED(file_close) FILE *file = fopen(path, "re");
    char line[CHECKPOINT_LINE_SIZE + 2];

    if (file == NULL) {
        complain("%s cannot be read: %s", path, strerror(errno));
        return false;
    }
    while (fgets(line, sizeof line, file) != NULL) {
        struct checkpoint checkpoint = { 0 };
        struct known_checkpoint *known;

        if (checkpoint_parse(line, strcspn(line, "\n"), &checkpoint) != ERR_OK) {
            tell_foreign(findings, &checkpoint, "a line of the exported checkpoints cannot be read");
            continue;
        }
        evidence->exported++;
        if (!evidence_is_signed(evidence, &checkpoint)) {
            tell_foreign(findings, &checkpoint, "an exported checkpoint is not signed by a key that was given");
            continue;
        }
        known = evidence_add(evidence, &checkpoint);
        if (known == NULL)
            return false;
        known->is_exported = true;
    }
    return true;
}

static bool read_exported(struct evidence *evidence, const char *path, struct findings *findings)
{
    OWNED(dir_close) DIR *dir = opendir(path);
    struct dirent *entry;
    char name[PATH_SIZE];

    if (dir == NULL)
        return read_lines(evidence, path, findings);
    while ((entry = readdir(dir)) != NULL) {
        const size_t length = strlen(entry->d_name);

        if (strncmp(entry->d_name, "checkpoints-", 12) != 0 || length < 6 || strcmp(entry->d_name + length - 6, ".jsonl") != 0)
            continue;
        if ((size_t)snprintf(name, sizeof name, "%s/%s", path, entry->d_name) >= sizeof name
            || !read_lines(evidence, name, findings))
            return false;
    }
    return true;
}

/* ---- the database */

bool evidence_read_row(const PGresult *result, int row, struct checkpoint *ret_checkpoint, uint8_t *peaks, size_t *ret_peaks)
{
    const char *signature = PQgetvalue(result, row, 6), *text = PQgetvalue(result, row, 4);
    struct checkpoint checkpoint = { .epoch = strtoull(PQgetvalue(result, row, 1), NULL, 10),
                                     .size = strtoull(PQgetvalue(result, row, 2), NULL, 10),
                                     .next_seq = strtoull(PQgetvalue(result, row, 3), NULL, 10),
                                     .time_us = strtoull(PQgetvalue(result, row, 5), NULL, 10) };
    struct merkle tree;
    size_t size = 0;

    if (!uuid_parse(PQgetvalue(result, row, 0), checkpoint.producer)
        || hex_decode(signature, strlen(signature), checkpoint.signature, SIGNATURE_SIZE, &size) != ERR_OK
        || hex_decode(text, strlen(text), peaks, MERKLE_PEAKS_MAX * DIGEST_SIZE, ret_peaks) != ERR_OK
        || merkle_load(&tree, checkpoint.size, peaks, *ret_peaks) != ERR_OK)
        return false;
    merkle_root(&tree, checkpoint.root);
    *ret_checkpoint = checkpoint;
    return true;
}

static bool read_table(struct evidence *evidence, PGconn *connection, struct findings *findings)
{
    OWNED(rows_destroy) PGresult *result = trail_ask(connection,
        "SELECT producer, epoch, size, next_seq, encode(peaks, 'hex'), (extract(epoch FROM signed_at) * 1000000)::bigint,"
        " encode(signature, 'hex') FROM audit.checkpoint", 0, NULL);
    uint8_t peaks[MERKLE_PEAKS_MAX * DIGEST_SIZE];

    if (result == NULL)
        return false;
    for (int row = 0; row < PQntuples(result); row++) {
        struct checkpoint checkpoint = { 0 };
        struct known_checkpoint *known;
        size_t size = 0;

        if (!evidence_read_row(result, row, &checkpoint, peaks, &size) || !evidence_is_signed(evidence, &checkpoint)) {
            tell_foreign(findings, &checkpoint, "a row of audit.checkpoint is not signed by a key that was given");
            continue;
        }
        known = evidence_add(evidence, &checkpoint);
        if (known == NULL || (known->peaks = malloc(size + 1)) == NULL)
            return false;
        memcpy(known->peaks, peaks, size);
    }
    return true;
}

/* Those with peaks first among equals. */
static int compare(const void *left, const void *right)
{
    const struct known_checkpoint *a = left, *b = right;
    const int producers = memcmp(a->checkpoint.producer, b->checkpoint.producer, UUID_SIZE);

    if (producers != 0)
        return producers;
    if (a->checkpoint.epoch != b->checkpoint.epoch)
        return a->checkpoint.epoch < b->checkpoint.epoch ? -1 : 1;
    if (a->checkpoint.size != b->checkpoint.size)
        return a->checkpoint.size < b->checkpoint.size ? -1 : 1;
    return (a->peaks == NULL) - (b->peaks == NULL);
}

static bool load_keys(struct evidence *evidence, const struct arguments *arguments)
{
    char value[PATH_SIZE], former[PATH_SIZE], why[300] = "";
    const char *path = arguments_value(arguments, "key");

    if (path == NULL)
        path = environment_value("MCPGW_AUDIT_KEY", value, sizeof value);
    if (path == NULL) {
        complain("no key: give --key FILE.pub or MCPGW_AUDIT_KEY, the public half of the checkpoint_key of mcpgw-audit");
        return false;
    }
    if (verifier_load(path, &evidence->verifiers[0], why, sizeof why) != ERR_OK) {
        complain("%s", why);
        return false;
    }
    evidence->verifier_count = 1;
    snprintf(former, sizeof former, "%.*s.old.pub", (int)(strlen(path) - (strlen(path) > 4 ? 4 : 0)), path);
    if (access(former, R_OK) == 0 && verifier_load(former, &evidence->verifiers[1], why, sizeof why) == ERR_OK)
        evidence->verifier_count = 2;
    return true;
}

bool evidence_load(struct evidence *evidence, const struct arguments *arguments, PGconn *connection,
                   struct findings *findings, enum exit_code *ret_exit)
{
    const char *exported = arguments_value(arguments, "checkpoints");
    char value[PATH_SIZE];

    *ret_exit = EXIT_MISUSE;
    if (!load_keys(evidence, arguments))
        return false;
    if (exported == NULL)
        exported = environment_value("MCPGW_AUDIT_CHECKPOINTS", value, sizeof value);
    if (exported != NULL && !read_exported(evidence, exported, findings))
        return false;
    *ret_exit = EXIT_UNREACHABLE;
    if (!read_table(evidence, connection, findings))
        return false;
    if (evidence->checkpoint_count > 1)
        qsort(evidence->checkpoints, evidence->checkpoint_count, sizeof *evidence->checkpoints, compare);
    return true;
}

void evidence_release(struct evidence *evidence)
{
    for (size_t i = 0; i < evidence->verifier_count; i++)
        verifier_destroy(&evidence->verifiers[i]);
    for (size_t i = 0; i < evidence->checkpoint_count; i++)
        free(evidence->checkpoints[i].peaks);
    free(evidence->checkpoints);
}

void evidence_mark_seen(struct evidence *evidence, const struct epoch_name *name)
{
    for (size_t i = 0; i < evidence->checkpoint_count; i++) {
        struct known_checkpoint *known = &evidence->checkpoints[i];

        known->is_seen |= known->checkpoint.epoch == name->epoch
                       && memcmp(known->checkpoint.producer, name->producer, UUID_SIZE) == 0;
    }
}

const struct known_checkpoint *evidence_unseen(const struct evidence *evidence)
{
    for (size_t i = 0; i < evidence->checkpoint_count; i++)
        if (!evidence->checkpoints[i].is_seen)
            return &evidence->checkpoints[i];
    return NULL;
}

const struct known_checkpoint *evidence_of(const struct evidence *evidence, const struct epoch_name *name, size_t *ret_count)
{
    const struct known_checkpoint *first = NULL;

    *ret_count = 0;
    for (size_t i = 0; i < evidence->checkpoint_count; i++) {
        const struct checkpoint *checkpoint = &evidence->checkpoints[i].checkpoint;

        if (checkpoint->epoch != name->epoch || memcmp(checkpoint->producer, name->producer, UUID_SIZE) != 0)
            continue;
        first = first == NULL ? &evidence->checkpoints[i] : first;
        ++*ret_count;
    }
    return first;
}
