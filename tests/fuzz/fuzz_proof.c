/* What verify and check-proof read: a line of exported checkpoints, a proof, the arrays of a batch.  All may be hostile. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/audit_leaf.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static struct signer *signer;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    char dir[] = "/tmp/fuzz-proof-XXXXXX", path[64], why[200];

    (void)argc;
    (void)argv;
    if (mkdtemp(dir) == NULL)
        abort();
    snprintf(path, sizeof path, "%s/key", dir);
    if (signer_make(path, why, sizeof why) != ERR_OK || signer_load(path, &signer, why, sizeof why) != ERR_OK)
        abort();
    unlink(path);
    snprintf(path, sizeof path, "%s/key.pub", dir);
    unlink(path);
    return rmdir(dir);
}

/* A line that is read is written as what is read again. */
static void read_line(const char *line, size_t size)
{
    struct checkpoint checkpoint, again;
    char written[CHECKPOINT_LINE_SIZE];

    if (checkpoint_parse(line, size, &checkpoint) != ERR_OK)
        return;
    (void)checkpoint_is_signed(signer_verifier(signer), &checkpoint);
    if (strpbrk(checkpoint.key_id, "\"\\") != NULL)
        return;
    assert(checkpoint_parse(written, checkpoint_format(&checkpoint, written), &again) == ERR_OK);
    assert(memcmp(again.root, checkpoint.root, DIGEST_SIZE) == 0 && again.size == checkpoint.size);
}

/* As it came, and with a checkpoint whose signature holds, so that all behind it is reached. */
static void read_proof(const char *text, size_t size)
{
    OWNED(json_destroy) json_t *proof = json_loadb(text, size, JSON_REJECT_DUPLICATES, NULL);
    OWNED(json_destroy) json_t *event = NULL;
    char line[CHECKPOINT_LINE_SIZE];
    struct checkpoint checkpoint;
    char *said = json_dumps(json_object_get(proof, "checkpoint"), JSON_COMPACT);

    assert(proof_refute(proof, signer_verifier(signer), &event) != NULL && event == NULL);
    if (said != NULL && checkpoint_parse(said, strlen(said), &checkpoint) == ERR_OK
        && checkpoint_sign(signer, &checkpoint) == ERR_OK) {
        json_object_set_new(proof, "checkpoint", json_loadb(line, checkpoint_format(&checkpoint, line), 0, NULL));
        assert((proof_refute(proof, signer_verifier(signer), &event) == NULL) == (event != NULL));
    }
    free(said);
}

/* Every column of the batch is the same bytes; of exactly that size, so that a byte read beyond is found. */
static void read_columns(const uint8_t *bytes, size_t size)
{
    static const struct epoch_name name = { .epoch = 1 };
    struct batch batch = { .count = UINT64_MAX, .keys = elements_read(bytes, size) };
    struct leaf_buffer buffer = { 0 };
    struct event_leaf event;
    bool is_broken = false;

    for (size_t i = 0; i < EVENT_COLUMNS_COUNT; i++)
        batch.columns[i] = elements_read(bytes, size);
    for (uint64_t n = 0; trail_next_event(&batch, &name, n, &buffer, &event, &is_broken); n++) {
        OWNED(json_destroy) json_t *said = leaf_event(event.content, event.size);

        assert(said != NULL || event.size > 0);
    }
    free(buffer.bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    uint8_t *copy;

    if (size == 0)
        return 0;
    copy = malloc(size - 1 + (size == 1));
    memcpy(copy, bytes + 1, size - 1);
    if (bytes[0] == 'l')
        read_line((const char *)copy, size - 1);
    else if (bytes[0] == 'p')
        read_proof((const char *)copy, size - 1);
    else if (bytes[0] == 'e')
        json_decref(leaf_event(copy, size - 1));
    else
        read_columns(copy, size - 1);
    free(copy);
    return 0;
}
