#include "services/audit/audit_seal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/metrics.h"

#define PATH_SIZE 1024u

struct seal {
    struct signer *signer;      /* NULL: nothing is signed */
    struct verifier *former;    /* NULL: there was none */
    int dir_fd;                 /* -1: nothing is exported */
};

static enum err open_dir(struct seal *seal, const char *dir, char *reterr, size_t reterr_size)
{
    if (dir[0] == '\0')
        return ERR_OK;
    if (mkdir(dir, 0750) != 0 && errno != EEXIST) {
        snprintf(reterr, reterr_size, "checkpoint_dir: %s cannot be made: %s", dir, strerror(errno));
        return ERR_UNAVAILABLE;
    }
    seal->dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (seal->dir_fd < 0 || faccessat(seal->dir_fd, ".", W_OK, 0) != 0) {
        snprintf(reterr, reterr_size, "checkpoint_dir: %s cannot be written: %s", dir, strerror(errno));
        return ERR_UNAVAILABLE;
    }
    return ERR_OK;
}

static enum err load_keys(struct seal *seal, const char *key, char *reterr, size_t reterr_size)
{
    char former[PATH_SIZE], why[256] = "";
    const int length = snprintf(former, sizeof former, "%s.old.pub", key);
    enum err err;

    if (key[0] == '\0')
        return ERR_OK;
    err = signer_load(key, &seal->signer, why, sizeof why);
    if (err == ERR_OK && (size_t)length < sizeof former && access(former, R_OK) == 0)
        err = verifier_load(former, &seal->former, why, sizeof why);
    if (err != ERR_OK)
        snprintf(reterr, reterr_size, "checkpoint_key: %s", why);
    return err;
}

enum err seal_new(const char *key, const char *dir, struct seal **ret_seal, char *reterr, size_t reterr_size)
{
    OWNED(seal_destroy) struct seal *seal = calloc(1, sizeof *seal);
    enum err err;

    if (seal == NULL)
        return ERR_NO_MEMORY;
    seal->dir_fd = -1;
    if (key[0] == '\0' && dir[0] != '\0') {
        snprintf(reterr, reterr_size, "checkpoint_dir is set but checkpoint_key is not; make one with mcpgw audit keygen FILE");
        return ERR_MALFORMED;
    }
    err = load_keys(seal, key, reterr, reterr_size);
    if (err == ERR_OK)
        err = open_dir(seal, dir, reterr, reterr_size);
    if (err != ERR_OK)
        return err;
    if (seal->signer == NULL)
        log_warn("checkpoints_not_signed", log_text("remedy", "set checkpoint_key; mcpgw audit keygen makes one"));
    *ret_seal = seal;
    seal = NULL;
    return ERR_OK;
}

void seal_destroy(struct seal **seal)
{
    if (*seal == NULL)
        return;
    signer_destroy(&(*seal)->signer);
    verifier_destroy(&(*seal)->former);
    if ((*seal)->dir_fd >= 0)
        close((*seal)->dir_fd);
    free(*seal);
    *seal = NULL;
}

void seal_make(const struct seal *seal, const struct audit_place *place, const struct columns *columns, bool is_tampered,
               struct checkpoint *ret_checkpoint)
{
    struct checkpoint checkpoint = { .epoch = place->epoch, .size = columns_tree(columns)->size,
                                     .next_seq = columns_next_seq(columns), .time_us = columns_last_us(columns) };

    memcpy(checkpoint.producer, place->producer, UUID_SIZE);
    if (seal->signer != NULL && !is_tampered) {
        merkle_root(columns_tree(columns), checkpoint.root);
        if (checkpoint_sign(seal->signer, &checkpoint) != ERR_OK)
            checkpoint.key_id[0] = '\0';
    }
    *ret_checkpoint = checkpoint;
}

static bool is_ours(const struct seal *seal, const struct checkpoint *checkpoint)
{
    return checkpoint_is_signed(signer_verifier(seal->signer), checkpoint)
        || (seal->former != NULL && checkpoint_is_signed(seal->former, checkpoint));
}

static void tell_tampered(const struct checkpoint *checkpoint, const char *what)
{
    char producer[UUID_TEXT_SIZE];

    uuid_format(checkpoint->producer, producer);
    metric_add(METRIC_audit_tampered, 1);
    log_error("trail_tampered", log_text("what", what), log_text("producer", producer),
              log_number("epoch", checkpoint->epoch), log_number("size", checkpoint->size),
              log_text("remedy", "mcpgw audit verify tells what was changed; see docs/operating.md"));
}

bool seal_holds(const struct seal *seal, const struct audit_place *place, const struct audit_mark *mark)
{
    struct checkpoint checkpoint = mark->checkpoint;

    memcpy(checkpoint.producer, place->producer, UUID_SIZE);
    checkpoint.epoch = place->epoch;
    /* What was stored before there was a key is not signed. */
    if (!mark->is_forged && (seal->signer == NULL || !mark->is_signed || is_ours(seal, &checkpoint)))
        return true;
    tell_tampered(&checkpoint, "watermark");
    return false;
}

/* The day's file, opened anew each time: somebody may have moved it away. */
static int open_day(const struct seal *seal)
{
    char name[64];
    struct tm day;
    const time_t now = time(NULL);

    gmtime_r(&now, &day);
    strftime(name, sizeof name, "checkpoints-%Y%m%d.jsonl", &day);
    return openat(seal->dir_fd, name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
}

static bool write_line(int fd, struct checkpoint *checkpoint, const char *key_id)
{
    char line[CHECKPOINT_LINE_SIZE];
    size_t length;

    snprintf(checkpoint->key_id, sizeof checkpoint->key_id, "%s", key_id);
    length = checkpoint_format(checkpoint, line);
    line[length++] = '\n';
    return write(fd, line, length) == (ssize_t)length;
}

void seal_export(struct seal *seal, const PGresult *result)
{
    struct checkpoint checkpoint;
    bool is_written = true;
    int fd;

    if (seal->signer == NULL || seal->dir_fd < 0 || PQntuples(result) == 0)
        return;
    fd = open_day(seal);
    for (int row = 0; fd >= 0 && audit_store_read_checkpoint(result, row, &checkpoint); row++) {
        const struct verifier *own = signer_verifier(seal->signer);
        const bool is_own = checkpoint_is_signed(own, &checkpoint);

        if (!is_own && (seal->former == NULL || !checkpoint_is_signed(seal->former, &checkpoint))) {
            tell_tampered(&checkpoint, "checkpoint");
            continue;
        }
        is_written &= write_line(fd, &checkpoint, verifier_id(is_own ? own : seal->former));
    }
    if (fd < 0 || !is_written || fdatasync(fd) != 0)
        log_error("checkpoints_not_exported", log_text("why", strerror(errno)));
    else
        metric_add(METRIC_audit_checkpoints, (uint64_t)PQntuples(result));
    if (fd >= 0)
        close(fd);
}
