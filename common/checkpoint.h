/*
 * checkpoint.h - a signed statement of how far a producer's epoch was stored, and of the Merkle root over all of it.
 *
 * What is signed (Ed25519, RFC 8032), each line ended by a newline:
 *   mcpgw audit checkpoint 1 / producer uuid / epoch / size: leaves / next sequence / root, base64url / time, Unix microseconds
 * A leaf is one stored event: checkpoint_leaf_begin, then the values of EVENT_COLUMNS as Postgres sends them in binary form.
 */
#ifndef COMMON_CHECKPOINT_H
#define COMMON_CHECKPOINT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/cleanup.h"
#include "common/encode.h"
#include "common/error.h"
#include "common/merkle.h"

#define SIGNATURE_SIZE       64u
#define CHECKPOINT_NOTE_SIZE 512u
#define CHECKPOINT_LINE_SIZE 1024u
#define KEY_ID_SIZE          17u    /* first 8 bytes of SHA-256 of the public key in hex, and the NUL */

/* Columns of audit.batch that make a leaf, in this order. */
#define EVENT_COLUMNS_COUNT 19u
#define EVENT_COLUMNS "at, event, outcome, reason, request_id, user_id, tenant_id, auth_method, key_id, address, method," \
                      " path, server, tool, status, latency_us, bytes, requests, details"
/* producer, epoch and sequence behind the byte of the prefix */
#define LEAF_HEAD_SIZE (1u + UUID_SIZE + 8u + 8u)

struct checkpoint {
    uint8_t producer[UUID_SIZE];
    uint64_t epoch, size, next_seq, time_us;
    uint8_t root[DIGEST_SIZE];
    uint8_t signature[SIGNATURE_SIZE];
    char key_id[KEY_ID_SIZE];
};

struct signer;      /* a private key */
struct verifier;    /* a public key */

void checkpoint_leaf_begin(uint8_t leaf[LEAF_HEAD_SIZE], const uint8_t producer[UUID_SIZE], uint64_t epoch, uint64_t seq);

/* Makes `path` (PKCS#8 PEM, mode 0600) and `path`.pub.  ERR_CONFLICT: one of them is there; a sentence in reterr. */
enum err signer_make(const char *path, char *reterr, size_t reterr_size) MUST_CHECK;
enum err signer_load(const char *path, struct signer **ret_signer, char *reterr, size_t reterr_size) MUST_CHECK;
void signer_destroy(struct signer **signer);
const struct verifier *signer_verifier(const struct signer *signer);    /* lives as long as the signer */
enum err verifier_load(const char *path, struct verifier **ret_verifier, char *reterr, size_t reterr_size) MUST_CHECK;
void verifier_destroy(struct verifier **verifier);
const char *verifier_id(const struct verifier *verifier);

/* Fills signature and key_id. */
enum err checkpoint_sign(const struct signer *signer, struct checkpoint *checkpoint) MUST_CHECK;
bool checkpoint_is_signed(const struct verifier *verifier, const struct checkpoint *checkpoint);

/* One JSON object on one line, without the newline; returns its length. */
size_t checkpoint_format(const struct checkpoint *checkpoint, char line[CHECKPOINT_LINE_SIZE]);
enum err checkpoint_parse(const char *line, size_t length, struct checkpoint *ret_checkpoint) MUST_CHECK;

#endif
