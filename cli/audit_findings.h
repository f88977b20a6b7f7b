/* audit_findings.h - signed checkpoints from the database and from files outside it, and what verify tells of its findings. */
#ifndef CLI_AUDIT_FINDINGS_H
#define CLI_AUDIT_FINDINGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cli/audit_read.h"

#define VERIFIERS_MAX 8u

struct known_checkpoint {
    struct checkpoint checkpoint;
    bool is_exported;             /* from a file; false: from the database */
    bool is_seen;                 /* its epoch has been looked at */
    uint8_t *peaks;               /* malloc'd, only from the database; NULL: none that give the signed root */
};

struct evidence {
    struct verifier *verifiers[VERIFIERS_MAX];
    size_t verifier_count;
    struct known_checkpoint *checkpoints;    /* by producer, epoch, size */
    size_t checkpoint_count, checkpoint_capacity;
    size_t exported;              /* lines read from files */
};

struct findings {
    bool is_json;
    uint64_t count;
};

struct finding {
    const char *kind;             /* one word of docs/operating.md */
    const uint8_t *producer;      /* NULL: of no epoch */
    uint64_t epoch, from_seq, to_seq;    /* 0: not known */
    const char *detail;
};

/* --key FILE (or MCPGW_AUDIT_KEY) and FILE.old.pub beside it, --checkpoints PATH (or MCPGW_AUDIT_CHECKPOINTS). */
bool evidence_load(struct evidence *evidence, const struct arguments *arguments, PGconn *connection,
                   struct findings *findings, enum exit_code *ret_exit);
void evidence_release(struct evidence *evidence);
bool evidence_is_signed(const struct evidence *evidence, const struct checkpoint *checkpoint);
/* First checkpoint of the epoch; *ret_count of them follow each other. */
const struct known_checkpoint *evidence_of(const struct evidence *evidence, const struct epoch_name *name, size_t *ret_count);

void evidence_mark_seen(struct evidence *evidence, const struct epoch_name *name);
/* One of an epoch that was not looked at; NULL: none. */
const struct known_checkpoint *evidence_unseen(const struct evidence *evidence);
/* A row of (producer, epoch, size, next_seq, hex of peaks, Unix microseconds, hex of signature), not checked; `peaks` has room
 * for MERKLE_PEAKS_MAX.  False: it is none. */
bool evidence_read_row(const PGresult *result, int row, struct checkpoint *ret_checkpoint, uint8_t *peaks, size_t *ret_peaks);

void finding_tell(struct findings *findings, const struct finding *finding);

#endif
