/* audit_prove.c - mcpgw audit prove: that one event is in the signed trail; check-proof believes nothing but the key. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <jansson.h>

#include "cli/audit_findings.h"
#include "cli/audit_proof.h"
#include "cli/environment.h"
#include "cli/output.h"


struct prove {
    struct epoch_name name;
    uint64_t seq, index, size;
    struct leaf_buffer buffer;
    struct merkle_range ranges[MERKLE_PROOF_MAX];
    struct merkle *subtrees;             /* one a range */
    size_t count;
    uint64_t at;                         /* leaves seen */
    uint8_t content[LEAF_CONTENT_MAX];
    size_t content_size;
};

static json_t *bytes_json(const uint8_t *bytes, size_t size)
{
    char *text = malloc(size * 4 / 3 + 8);
    json_t *value;

    if (text == NULL)
        return json_null();
    base64url_encode(bytes, size, text);
    value = json_string(text);
    free(text);
    return value;
}

/* ---- prove */

static bool take_batch(void *owner, struct batch *batch)
{
    struct prove *prove = owner;
    struct event_leaf event;
    uint8_t leaf[DIGEST_SIZE];
    bool is_broken = false;

    for (uint64_t n = 0; trail_next_event(batch, &prove->name, n, &prove->buffer, &event, &is_broken); n++, prove->at++) {
        if (prove->at >= prove->size)
            return false;
        if (prove->at == prove->index && event.seq == prove->seq && event.size <= LEAF_CONTENT_MAX) {
            memcpy(prove->content, event.content, event.size);
            prove->content_size = event.size;
            continue;
        }
        merkle_leaf(event.content, event.size, leaf);
        for (size_t i = 0; i < prove->count; i++)
            if (prove->at >= prove->ranges[i].first && prove->at < prove->ranges[i].end)
                merkle_add(&prove->subtrees[i], leaf);
    }
    return !is_broken;
}

static bool parse_id(const char *id, struct prove *prove)
{
    char producer[UUID_TEXT_SIZE], end;

    if (strlen(id) < UUID_TEXT_SIZE)
        return false;
    memcpy(producer, id, UUID_TEXT_SIZE - 1);
    producer[UUID_TEXT_SIZE - 1] = '\0';
    return uuid_parse(producer, prove->name.producer)
        && sscanf(id + UUID_TEXT_SIZE - 1, "-%" SCNu64 "-%" SCNu64 "%c", &prove->name.epoch, &prove->seq, &end) == 2;
}

/* Where the event stands, and the signed watermark that covers it. */
static bool find_event(PGconn *connection, struct prove *prove, struct checkpoint *ret_checkpoint)
{
    char producer[UUID_TEXT_SIZE], epoch[24], seq[24];
    const char *const values[] = { producer, epoch, seq };
    uint8_t peaks[MERKLE_PEAKS_MAX * DIGEST_SIZE];
    size_t size = 0;

    uuid_format(prove->name.producer, producer);
    snprintf(epoch, sizeof epoch, "%" PRIu64, prove->name.epoch);
    snprintf(seq, sizeof seq, "%" PRIu64, prove->seq);
    OWNED(rows_destroy) PGresult *result = trail_ask(connection,
        "SELECT w.producer, w.epoch, w.size, w.next_seq, encode(w.peaks, 'hex'), (extract(epoch FROM w.signed_at) * 1000000)::bigint,"
        " encode(w.signature, 'hex'), b.first_leaf + $3::bigint - b.first_seq,"
        " (SELECT min(x.first_leaf) FROM audit.batch x WHERE x.producer = b.producer AND x.epoch = b.epoch)"
        " FROM audit.batch b JOIN audit.watermark w USING (producer, epoch) WHERE b.producer = $1::uuid AND b.epoch = $2::bigint"
        " AND $3::bigint BETWEEN b.first_seq AND b.first_seq + b.count - 1", 3, values);
    if (result == NULL)
        return false;
    if (PQntuples(result) != 1) {
        complain("there is no such event");
        return false;
    }
    if (PQgetisnull(result, 0, 6) != 0 || !evidence_read_row(result, 0, ret_checkpoint, peaks, &size)) {
        complain("the trail of this event is not signed: mcpgw-audit has no checkpoint_key");
        return false;
    }
    if (strcmp(PQgetvalue(result, 0, 8), "0") != 0) {
        complain("the beginning of this event's epoch is older than retention_days and gone: only newer epochs can be proven");
        return false;
    }
    prove->index = strtoull(PQgetvalue(result, 0, 7), NULL, 10);
    prove->size = ret_checkpoint->size;
    return true;
}

static void print_proof(const struct prove *prove, const struct checkpoint *checkpoint)
{
    OWNED(json_destroy) json_t *proof = json_object();
    json_t *hashes = json_array();
    char line[CHECKPOINT_LINE_SIZE];
    uint8_t root[DIGEST_SIZE];
    const size_t length = checkpoint_format(checkpoint, line);

    for (size_t i = 0; i < prove->count; i++) {
        merkle_root(&prove->subtrees[i], root);
        json_array_append_new(hashes, bytes_json(root, DIGEST_SIZE));
    }
    json_object_set_new(proof, "event", leaf_event(prove->content, prove->content_size));
    json_object_set_new(proof, "content", bytes_json(prove->content, prove->content_size));
    json_object_set_new(proof, "index", json_integer((json_int_t)prove->index));
    json_object_set_new(proof, "proof", hashes);
    json_object_set_new(proof, "checkpoint", json_loadb(line, length, 0, NULL));
    json_dumpf(proof, stdout, JSON_INDENT(2));
    putchar('\n');
}

static enum exit_code prove_event(PGconn *connection, struct prove *prove)
{
    struct checkpoint checkpoint = { 0 };

    if (!find_event(connection, prove, &checkpoint))
        return EXIT_REFUSED;
    prove->count = merkle_proof_ranges(prove->index, prove->size, prove->ranges);
    prove->subtrees = calloc(prove->count + 1, sizeof *prove->subtrees);
    if (prove->subtrees == NULL || !trail_walk(connection, &prove->name, take_batch, prove))
        return EXIT_UNREACHABLE;
    if (prove->content_size == 0 || prove->at < prove->size) {
        complain("the stored trail is not what was signed; mcpgw audit verify says where");
        return EXIT_REFUSED;
    }
    print_proof(prove, &checkpoint);
    return EXIT_DONE;
}

enum exit_code audit_prove(struct cli *cli, const struct arguments *arguments)
{
    static struct prove prove;
    enum exit_code result = EXIT_MISUSE;
    PGconn *connection;

    (void)cli;
    if (!parse_id(arguments->positional[0], &prove)) {
        complain("an event's id is expected, as mcpgw audit list --json shows it: PRODUCER-EPOCH-SEQ");
        return EXIT_MISUSE;
    }
    connection = trail_connect(arguments, &result);
    if (connection == NULL)
        return result;
    result = prove_event(connection, &prove);
    free(prove.subtrees);
    free(prove.buffer.bytes);
    PQfinish(connection);
    return result;
}

/* ---- check-proof */

enum exit_code audit_check_proof(struct cli *cli, const struct arguments *arguments)
{
    OWNED(verifier_destroy) struct verifier *verifier = NULL;
    OWNED(json_destroy) json_t *proof = json_load_file(arguments->positional[0], JSON_REJECT_DUPLICATES, NULL);
    OWNED(json_destroy) json_t *event = NULL;
    const char *path = arguments_value(arguments, "key"), *why;
    char value[1024], told[300] = "";

    (void)cli;
    if (path == NULL)
        path = environment_value("MCPGW_AUDIT_KEY", value, sizeof value);
    if (path == NULL || verifier_load(path, &verifier, told, sizeof told) != ERR_OK) {
        complain("%s", path == NULL ? "no key: give --key FILE.pub, or MCPGW_AUDIT_KEY" : told);
        return EXIT_MISUSE;
    }
    why = proof_refute(proof, verifier, &event);
    if (why != NULL) {
        complain("NOT PROVEN: %s", why);
        return EXIT_REFUSED;
    }
    print_json(event);
    fputs("proven: the signed trail holds this event\n", stderr);
    return EXIT_DONE;
}

enum exit_code audit_keygen(struct cli *cli, const struct arguments *arguments)
{
    char why[300] = "";

    (void)cli;
    if (signer_make(arguments->positional[0], why, sizeof why) != ERR_OK) {
        complain("%s", why);
        return EXIT_REFUSED;
    }
    printf("%s signs (checkpoint_key of mcpgw-audit; keep it from who administers the database),\n%s.pub verifies.\n",
           arguments->positional[0], arguments->positional[0]);
    return EXIT_DONE;
}
