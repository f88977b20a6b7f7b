/*
 * jose.h - signed JSON web tokens: key sets (RFC 7517), compact signatures (RFC 7515), and nothing else of JOSE.
 *
 * Pure: no clock, socket, file or log.  Strict where libraries were fooled: the algorithm comes from the caller's
 * allow-list and binds the kind of key before the key is touched, base64url is canonical, no member name stands twice,
 * and a header that brings or names its own key is refused.  What the claims mean is common/token.h's.
 */
#ifndef COMMON_JOSE_H
#define COMMON_JOSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "common/error.h"

#define JOSE_TOKEN_MAX     16384u     /* bytes of a token */
#define JOSE_SET_MAX       262144u    /* bytes of a key set's document */
#define JOSE_KEYS_MAX      64u        /* usable keys of a set; more are skipped */
#define JOSE_KID_MAX       256u
#define JOSE_SIGNATURE_MAX 1024u      /* RSA with 8192 bits */
#define JOSE_RSA_BITS_MIN  2048
#define JOSE_RSA_BITS_MAX  8192
#define JOSE_THUMBPRINT_SIZE 44u      /* RFC 7638 with SHA-256, base64url, and the NUL */
#define JOSE_TRIES_MAX     4u         /* keys of one `kid` that are tried */

enum jose_algorithm {
#define ALGORITHM(name, text, family, digest, curve) JOSE_##name,
#include "common/jose_algorithms.def"
    JOSE_ALGORITHM_COUNT
};
#define JOSE_BIT(name) (1u << JOSE_##name)
#define JOSE_ALL       ((1u << JOSE_ALGORITHM_COUNT) - 1)

enum jose_reason {
#define REASON(name, text, error, meaning, remedy) JOSE_##name,
#include "common/jose_reasons.def"
    JOSE_REASON_COUNT
};

const char *jose_reason_text(enum jose_reason reason);       /* "expired"; all of these are static storage */
const char *jose_reason_meaning(enum jose_reason reason);
const char *jose_reason_remedy(enum jose_reason reason);
enum err jose_reason_error(enum jose_reason reason);

const char *jose_algorithm_text(enum jose_algorithm algorithm);
/* Letter by letter (RFC 7515 4.1.1: case counts). */
bool jose_algorithm_parse(const char *text, size_t length, enum jose_algorithm *ret_algorithm);

/* ---- key sets ---------------------------------------------------------------------------------------- */

/* An immutable set of public keys.  It caches OpenSSL's contexts, so one thread at a time may verify with it. */
struct jose_keys;

/*
 * Reads the document of a JWK set.  Keys that cannot verify anything here (private or symmetric, another kty or curve,
 * RSA under 2048 bits, use enc, a broken member) are skipped, each with its reason, and never spoil the others; a set
 * may turn out empty.
 * ERR_TOO_LARGE: over JOSE_SET_MAX.  ERR_MALFORMED: no JSON object with a list `keys`, or a name stands twice; one line
 * in `reterr`.  ERR_NO_MEMORY.
 */
enum err jose_keys_parse(const char *text, size_t size, struct jose_keys **ret_keys,
                         char *reterr, size_t reterr_size) MUST_CHECK;
void jose_keys_destroy(struct jose_keys **keys);
size_t jose_keys_count(const struct jose_keys *keys);          /* usable ones */
size_t jose_keys_skipped(const struct jose_keys *keys);
/* "key 2 (kid abc): an RSA key of 1024 bits; 2048 are the least" of the first skipped ones; "" beyond.  Lives as the set. */
const char *jose_keys_skip_reason(const struct jose_keys *keys, size_t index);
bool jose_keys_has_kid(const struct jose_keys *keys, const char *kid, size_t length);

/* ---- tokens ------------------------------------------------------------------------------------------ */

/* A token taken apart and not yet verified.  It refers to the text it was parsed from. */
struct jose_token {
    const char *text;
    size_t signed_size;                /* bytes of header.payload */
    json_t *header, *claims;
    enum jose_algorithm algorithm;
    const char *kid, *typ, *iss;       /* of header and claims; NULL: absent */
    size_t kid_length;
    size_t signature_size;
    uint8_t signature[JOSE_SIGNATURE_MAX];
};

/* Does the text have the two dots that make it worth calling jose_token_parse()?  Others are opaque. */
bool jose_is_token(const char *text, size_t size);
/*
 * Reads a compact serialization (RFC 7515 7.1): sizes, base64url, JSON, `alg`, `crit`, embedded keys, `kid`, `typ`,
 * `iss`.  On refusal nothing is held.  The token is released with jose_token_wipe().
 */
enum jose_reason jose_token_parse(const char *text, size_t size, struct jose_token *ret_token) MUST_CHECK;
void jose_token_wipe(struct jose_token *token);

/* Which keys of a set may sign this token, beside their kind.  All zero: every key. */
struct jose_key_rule {
    const char *issuer[2];             /* a key that has an `issuer` needs it to be one of these; NULL: none is asked for */
    const char *directory;             /* stands for {tenantid} in the key's `issuer` */
};

/*
 * JOSE_FINE, or ALGORITHM, KEY_ID_MISSING, KEY_UNKNOWN, KEY_MISMATCH, KEY_ISSUER, SIGNATURE.  `algorithms`: bits.
 * ret_thumbprint (may be NULL): of the key that signed it.
 */
enum jose_reason jose_token_verify(const struct jose_token *token, struct jose_keys *keys, unsigned algorithms,
                                   const struct jose_key_rule *rule, char ret_thumbprint[JOSE_THUMBPRINT_SIZE]) MUST_CHECK;

/* A claim by name; a dotted path (realm_access.roles) where there is no claim of the whole name.  NULL: absent. */
json_t *jose_claim(const json_t *claims, const char *name);
/*
 * NumericDate (RFC 7519 2): a finite number of seconds from 0 to 253402300799 (the year 9999), a fraction cut off.
 * ERR_NOT_FOUND: absent; ERR_MALFORMED: anything else.
 */
enum err jose_claim_time(const json_t *claims, const char *name, int64_t *ret_time_s) MUST_CHECK;

#endif
