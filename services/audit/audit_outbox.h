/*
 * audit_outbox.h - the events that Postgres wrote itself, brought into the trail as one more producer's: its watermark, its
 * batches, its tree.
 */
#ifndef AUDIT_AUDIT_OUTBOX_H
#define AUDIT_AUDIT_OUTBOX_H

#include <stdbool.h>
#include <stdint.h>

#include "common/checkpoint.h"
#include "common/error.h"
#include "services/audit/audit_seal.h"
#include "services/audit/audit_store.h"

struct outbox;

enum err outbox_new(struct audit_store *store, struct seal *seal, struct outbox **ret_outbox) MUST_CHECK;
void outbox_destroy(struct outbox **outbox);
/* 0: not the active instance. */
void outbox_set_token(struct outbox *outbox, uint64_t token);
/* Moves what is there; once more after that, when something is under way. */
void outbox_move(struct outbox *outbox);
bool outbox_is_idle(const struct outbox *outbox);

#endif
