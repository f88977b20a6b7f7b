/*
 * identity_keys.h - the keys that sign who a caller is, for upstreams: files in a directory, made by `mcpgw identity
 * rotate`, read by every edge, published by each as a JWK set (RFC 7517).
 *
 * A file is <Unix second it was made>-<algorithm>-<kid>.pem, PKCS #8, readable by its owner only; kid is the thumbprint
 * of RFC 7638.  A new key is published at once and signs from `publish_s` later, so that no verifier meets a kid its
 * copy of the set lacks; a replaced key stays published until it is removed.
 */
#ifndef COMMON_IDENTITY_KEYS_H
#define COMMON_IDENTITY_KEYS_H

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

#define IDENTITY_KID_SIZE   44u      /* base64url of a SHA-256, and the NUL */
#define IDENTITY_KEYS_MAX   16u
#define IDENTITY_SET_SIZE   16384u   /* bytes of the JWK set's text */
#define IDENTITY_CLAIMS_MAX 2048u
#define IDENTITY_TOKEN_SIZE 3584u    /* of a signed token, and the NUL */

enum identity_algorithm { IDENTITY_RS256, IDENTITY_ES256, IDENTITY_EDDSA, IDENTITY_ALGORITHMS };

struct identity_key_info {
    char kid[IDENTITY_KID_SIZE];
    enum identity_algorithm algorithm;
    uint64_t made_s;
};

struct identity_keys;    /* an immutable set; any number of threads may sign with it */

const char *identity_algorithm_text(enum identity_algorithm algorithm);    /* "RS256" */
enum err identity_algorithm_parse(const char *text, enum identity_algorithm *ret_algorithm) MUST_CHECK;

/*
 * Reads all keys of the directory.  A sentence with the remedy is in reterr.
 * ERR_NOT_FOUND: no directory, or no key in it; ERR_DENIED: a file that others may read; ERR_MALFORMED: a file of that
 * name that is no such key; ERR_TOO_LARGE: more than IDENTITY_KEYS_MAX.
 */
enum err identity_keys_load(const char *directory, struct identity_keys **ret_keys, char *reterr, size_t reterr_size) MUST_CHECK;
void identity_keys_destroy(struct identity_keys **keys);
size_t identity_keys_count(const struct identity_keys *keys);
const struct identity_key_info *identity_keys_at(const struct identity_keys *keys, size_t index);    /* oldest first */
/* Index of the key that signs at `now_s`: the newest published for publish_s; the oldest when none is. */
size_t identity_keys_signer(const struct identity_keys *keys, uint64_t now_s, uint64_t publish_s);
/* {"keys":[...]}, public parts only; lives as the set. */
const char *identity_keys_document(const struct identity_keys *keys);

/*
 * `claims` (JSON, at most IDENTITY_CLAIMS_MAX bytes) as a compact token of typ at+jwt (RFC 9068).  ERR_TOO_LARGE;
 * ERR_NO_MEMORY: OpenSSL had none.
 */
enum err identity_keys_sign(const struct identity_keys *keys, size_t index, const char *claims, size_t size,
                            char ret_token[IDENTITY_TOKEN_SIZE]) MUST_CHECK;

/* Makes the directory (0700) and a key in it.  ERR_UNAVAILABLE with a sentence: it cannot be written. */
enum err identity_key_make(const char *directory, enum identity_algorithm algorithm, uint64_t now_s,
                           struct identity_key_info *ret_info, char *reterr, size_t reterr_size) MUST_CHECK;
/* Removes keys that have not signed for keep_s.  Returns how many, in *ret_count. */
enum err identity_keys_prune(const char *directory, uint64_t now_s, uint64_t publish_s, uint64_t keep_s, size_t *ret_count,
                             char *reterr, size_t reterr_size) MUST_CHECK;

#endif
