/*
 * audit_seal.h - signs the tree with every batch, finds watermarks that somebody else wrote, and copies signed checkpoints
 * to files outside the database.  Without a key nothing is signed.
 */
#ifndef AUDIT_AUDIT_SEAL_H
#define AUDIT_AUDIT_SEAL_H

#include <stdbool.h>
#include <stddef.h>

#include "common/checkpoint.h"
#include "common/error.h"
#include "services/audit/audit_columns.h"
#include "services/audit/audit_store.h"

struct seal;

/* key: path of a private key, "" for none; dir: of checkpoints-<day>.jsonl, "" for none.  A key beside it named
 * `<key>.old.pub` is one that signed before.  On failure a sentence with the remedy is in reterr. */
enum err seal_new(const char *key, const char *dir, struct seal **ret_seal, char *reterr, size_t reterr_size) MUST_CHECK;
void seal_destroy(struct seal **seal);

/* The checkpoint of the tree with the batch in `columns`; not signed without a key, or when is_tampered. */
void seal_make(const struct seal *seal, const struct audit_place *place, const struct columns *columns, bool is_tampered,
               struct checkpoint *ret_checkpoint);
/* Is the watermark what we signed?  False, told and counted: it was written by somebody else. */
bool seal_holds(const struct seal *seal, const struct audit_place *place, const struct audit_mark *mark);
/* Appends the checkpoints of a result of audit_store_checkpoint to the day's file, and waits for the disk. */
void seal_export(struct seal *seal, const PGresult *result);

#endif
