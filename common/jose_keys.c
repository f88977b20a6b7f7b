/* jose_keys.c - public keys from JWK sets, and signatures verified with them by OpenSSL. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/param_build.h>
#include <openssl/rsa.h>

#include "common/cleanup.h"
#include "common/encode.h"
#include "common/jose.h"

#define SKIPS_KEPT    8u
#define SKIP_TEXT     200u
#define KEY_ISSUER    256u     /* bytes of a key's `issuer` */
#define ED25519_SIZE  32u
#define EC_HALF_MAX   48u      /* P-384 */
#define EC_DER_MAX    (2 * (EC_HALF_MAX + 3) + 3)
#define MEMBER_MAX    1025u    /* a modulus of 8192 bits that carries a zero byte in front */
#define EXPONENT_MAX  4u
#define THUMBPRINT_TEXT (2 * MEMBER_MAX * 4 / 3 + 80)    /* RSA: e is read with n's limit */

enum family { FAMILY_RSA, FAMILY_PSS, FAMILY_EC, FAMILY_ED };

static const struct algorithm_row {
    enum family family;
    const char *digest, *curve;
} rows[] = {
#define ALGORITHM(name, text, family, digest, curve) { FAMILY_##family, digest, curve },
#include "common/jose_algorithms.def"
};

struct key {
    char kid[JOSE_KID_MAX];
    size_t kid_length;
    bool has_kid;
    char issuer[KEY_ISSUER + 1];         /* "": none */
    char thumbprint[JOSE_THUMBPRINT_SIZE];
    unsigned algorithms;                 /* that this key may be used with */
    size_t signature_size;               /* exactly */
    EVP_PKEY *public_key;
    EVP_PKEY_CTX *contexts[JOSE_ALGORITHM_COUNT];    /* made at first use and kept: preparing one costs as much as hashing */
};

struct jose_keys {
    size_t count, skipped;
    char skips[SKIPS_KEPT][SKIP_TEXT];
    EVP_MD_CTX *hash;
    EVP_MD_CTX *whole;                   /* for Ed25519; a context that has verified does not hash any more */
    EVP_MD *digests[JOSE_ALGORITHM_COUNT];
    struct key list[JOSE_KEYS_MAX];
};

DEFINE_DESTROY(number_destroy, BIGNUM, BN_free)
DEFINE_DESTROY(builder_destroy, OSSL_PARAM_BLD, OSSL_PARAM_BLD_free)
DEFINE_DESTROY(parameters_destroy, OSSL_PARAM, OSSL_PARAM_free)
DEFINE_DESTROY(context_destroy, EVP_PKEY_CTX, EVP_PKEY_CTX_free)
DEFINE_DESTROY(json_destroy, json_t, json_decref)

/* ---- one key ----------------------------------------------------------------------------------------- */

/* Bits of all algorithms of a family (and curve, unless NULL). */
static unsigned algorithms_of(enum family family, const char *curve)
{
    unsigned bits = 0;

    for (size_t i = 0; i < JOSE_ALGORITHM_COUNT; i++)
        if (rows[i].family == family && (curve == NULL || strcmp(rows[i].curve, curve) == 0))
            bits |= 1u << i;
    return bits;
}

static bool read_member(const json_t *jwk, const char *name, uint8_t *bytes, size_t capacity, size_t *ret_size)
{
    const json_t *member = json_object_get(jwk, name);

    return json_is_string(member)
        && base64url_decode(json_string_value(member), json_string_length(member), bytes, capacity, ret_size) == ERR_OK
        && *ret_size > 0;
}

/* NULL: made; else why not. */
static const char *make_public_key(const char *type, OSSL_PARAM *parameters, struct key *key)
{
    OWNED(context_destroy) EVP_PKEY_CTX *context = EVP_PKEY_CTX_new_from_name(NULL, type, NULL);

    if (context == NULL || EVP_PKEY_fromdata_init(context) != 1
        || EVP_PKEY_fromdata(context, &key->public_key, EVP_PKEY_PUBLIC_KEY, parameters) != 1)
        return "OpenSSL refuses its numbers: no such key, or a point beside the curve";
    return NULL;
}

static const char *read_rsa(const json_t *jwk, struct key *key)
{
    uint8_t modulus[MEMBER_MAX], exponent[MEMBER_MAX];
    size_t modulus_size, exponent_size;

    if (!read_member(jwk, "n", modulus, sizeof modulus, &modulus_size)
        || !read_member(jwk, "e", exponent, sizeof exponent, &exponent_size))
        return "`n` and `e` of an RSA key are base64url of at most 8192 bits";
    OWNED(number_destroy) BIGNUM *n = BN_bin2bn(modulus, (int)modulus_size, NULL);
    OWNED(number_destroy) BIGNUM *e = BN_bin2bn(exponent, (int)exponent_size, NULL);
    OWNED(builder_destroy) OSSL_PARAM_BLD *builder = OSSL_PARAM_BLD_new();

    if (n == NULL || e == NULL || builder == NULL)
        return "memory is short";
    if (BN_num_bits(n) < JOSE_RSA_BITS_MIN || BN_num_bits(n) > JOSE_RSA_BITS_MAX)
        return "its RSA modulus has not 2048 to 8192 bits";
    if (!BN_is_odd(n))
        return "its RSA modulus is even";
    if (!BN_is_odd(e) || BN_is_one(e) || BN_num_bytes(e) > (int)EXPONENT_MAX)
        return "its RSA exponent is not odd, from 3 to 4294967295";
    if (OSSL_PARAM_BLD_push_BN(builder, OSSL_PKEY_PARAM_RSA_N, n) != 1
        || OSSL_PARAM_BLD_push_BN(builder, OSSL_PKEY_PARAM_RSA_E, e) != 1)
        return "memory is short";
    OWNED(parameters_destroy) OSSL_PARAM *parameters = OSSL_PARAM_BLD_to_param(builder);

    key->algorithms = algorithms_of(FAMILY_RSA, NULL) | algorithms_of(FAMILY_PSS, NULL);
    key->signature_size = (size_t)BN_num_bytes(n);
    return parameters == NULL ? "memory is short" : make_public_key("RSA", parameters, key);
}

static const char *read_ec(const json_t *jwk, struct key *key)
{
    const char *curve = json_string_value(json_object_get(jwk, "crv"));
    const size_t half = curve != NULL && strcmp(curve, "P-256") == 0 ? 32
                      : curve != NULL && strcmp(curve, "P-384") == 0 ? 48 : 0;
    uint8_t point[1 + 2 * EC_HALF_MAX] = { 4 };    /* uncompressed, SEC 1 2.3.3 */
    char group[8];
    size_t x_size, y_size;

    if (half == 0)
        return "its curve is not P-256 or P-384";
    if (!read_member(jwk, "x", point + 1, half, &x_size) || !read_member(jwk, "y", point + 1 + half, half, &y_size)
        || x_size != half || y_size != half)
        return "`x` and `y` are base64url of as many bytes as the curve's field has";
    snprintf(group, sizeof group, "%s", curve);
    OSSL_PARAM parameters[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_PKEY_PARAM_GROUP_NAME, group, 0),
        OSSL_PARAM_construct_octet_string(OSSL_PKEY_PARAM_PUB_KEY, point, 1 + 2 * half),
        OSSL_PARAM_construct_end(),
    };

    key->algorithms = algorithms_of(FAMILY_EC, curve);
    key->signature_size = 2 * half;
    return make_public_key("EC", parameters, key);
}

/* Points of order 1, 2, 4 and 8 sign anything for everybody (y = 0, 1, -1 and the two of order 8; the sign bit is cut). */
static bool has_small_order(const uint8_t y[ED25519_SIZE])
{
    static const uint8_t points[][ED25519_SIZE] = {
        { 0 },
        { 1 },
        { 0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0,
          0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05 },
        { 0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f,
          0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a },
        { 0xec, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
          0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f },
    };

    for (size_t i = 0; i < sizeof points / sizeof points[0]; i++)
        if (memcmp(points[i], y, ED25519_SIZE) == 0)
            return true;
    return false;
}

/* y < 2^255 - 19 (RFC 8032 5.1.3). */
static bool is_canonical(const uint8_t y[ED25519_SIZE])
{
    if (y[ED25519_SIZE - 1] != 0x7f || y[0] < 0xed)
        return true;
    for (size_t i = 1; i < ED25519_SIZE - 1; i++)
        if (y[i] != 0xff)
            return true;
    return false;
}

static const char *read_ed(const json_t *jwk, struct key *key)
{
    const char *curve = json_string_value(json_object_get(jwk, "crv"));
    uint8_t point[ED25519_SIZE], y[ED25519_SIZE];
    size_t size;

    if (curve == NULL || strcmp(curve, "Ed25519") != 0)
        return "its curve is not Ed25519";
    if (!read_member(jwk, "x", point, sizeof point, &size) || size != sizeof point)
        return "`x` is base64url of 32 bytes";
    memcpy(y, point, sizeof y);
    y[ED25519_SIZE - 1] &= 0x7f;
    if (!is_canonical(y) || has_small_order(y))
        return "its point is not canonical or of small order: such a key signs for everybody";
    key->public_key = EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, point, sizeof point);
    key->algorithms = algorithms_of(FAMILY_ED, curve);
    key->signature_size = 2 * ED25519_SIZE;
    return key->public_key == NULL ? "OpenSSL refuses its point" : NULL;
}

/* `use` and `key_ops`, where they stand, allow verifying (RFC 7517 4.2, 4.3). */
static bool may_verify(const json_t *jwk)
{
    const json_t *use = json_object_get(jwk, "use"), *operations = json_object_get(jwk, "key_ops");
    bool is_allowed = operations == NULL;

    if (use != NULL && (!json_is_string(use) || strcmp(json_string_value(use), "sig") != 0))
        return false;
    for (size_t i = 0; i < json_array_size(operations); i++) {
        const char *operation = json_string_value(json_array_get(operations, i));

        is_allowed = is_allowed || (operation != NULL && strcmp(operation, "verify") == 0);
    }
    return is_allowed;
}

static const char *read_names(const json_t *jwk, struct key *key)
{
    const json_t *kid = json_object_get(jwk, "kid"), *issuer = json_object_get(jwk, "issuer");

    if (kid != NULL && (!json_is_string(kid) || json_string_length(kid) > JOSE_KID_MAX))
        return "its `kid` is no text of up to 256 bytes";
    if (issuer != NULL && (!json_is_string(issuer) || json_string_length(issuer) > KEY_ISSUER))
        return "its `issuer` is no text of up to 256 bytes";
    key->has_kid = kid != NULL;
    key->kid_length = json_string_length(kid);
    if (key->has_kid)
        memcpy(key->kid, json_string_value(kid), key->kid_length);
    if (issuer != NULL)
        snprintf(key->issuer, sizeof key->issuer, "%s", json_string_value(issuer));
    return NULL;
}

/* A key that names its algorithm is bound to it; EdDSA and Ed25519 are two names of one (RFC 9864). */
static const char *bind_algorithm(const json_t *jwk, struct key *key)
{
    const json_t *text = json_object_get(jwk, "alg");
    enum jose_algorithm algorithm;

    if (text == NULL)
        return NULL;
    if (!json_is_string(text) || !jose_algorithm_parse(json_string_value(text), json_string_length(text), &algorithm))
        return "its `alg` is none that is known here";
    if ((key->algorithms & 1u << algorithm) == 0)
        return "its `alg` does not fit its kind";
    if (rows[algorithm].family != FAMILY_ED)
        key->algorithms = 1u << algorithm;
    return NULL;
}

/* RFC 7638 3, of a key that was read: its members are base64url or known words, so nothing in them needs an escape. */
static void name_key(const json_t *jwk, struct key *key)
{
    const char *kind = json_string_value(json_object_get(jwk, "kty")), *curve = json_string_value(json_object_get(jwk, "crv"));
    const char *x = json_string_value(json_object_get(jwk, "x"));
    char text[THUMBPRINT_TEXT];
    uint8_t digest[DIGEST_SIZE];
    int size;

    if (strcmp(kind, "RSA") == 0)
        size = snprintf(text, sizeof text, "{\"e\":\"%s\",\"kty\":\"RSA\",\"n\":\"%s\"}",
                        json_string_value(json_object_get(jwk, "e")), json_string_value(json_object_get(jwk, "n")));
    else if (strcmp(kind, "EC") == 0)
        size = snprintf(text, sizeof text, "{\"crv\":\"%s\",\"kty\":\"EC\",\"x\":\"%s\",\"y\":\"%s\"}", curve, x,
                        json_string_value(json_object_get(jwk, "y")));
    else
        size = snprintf(text, sizeof text, "{\"crv\":\"%s\",\"kty\":\"OKP\",\"x\":\"%s\"}", curve, x);
    digest_sha256(text, (size_t)size, digest);
    base64url_encode(digest, sizeof digest, key->thumbprint);
}

static const char *read_key(const json_t *jwk, struct key *key)
{
    static const char *const secrets[] = { "d", "p", "q", "dp", "dq", "qi", "oth", "k" };
    const char *kind = json_string_value(json_object_get(jwk, "kty"));
    const char *why = "its `kty` is not RSA, EC or OKP";

    if (!json_is_object(jwk))
        return "it is no JSON object";
    for (size_t i = 0; i < sizeof secrets / sizeof secrets[0]; i++)
        if (json_object_get(jwk, secrets[i]) != NULL)
            return "it holds secret parts: who reads the set can sign; let the issuer make another key";
    if (!may_verify(jwk))
        return "its `use` or `key_ops` does not allow verifying";
    if (kind != NULL && strcmp(kind, "RSA") == 0)
        why = read_rsa(jwk, key);
    else if (kind != NULL && strcmp(kind, "EC") == 0)
        why = read_ec(jwk, key);
    else if (kind != NULL && strcmp(kind, "OKP") == 0)
        why = read_ed(jwk, key);
    if (why == NULL)
        why = bind_algorithm(jwk, key);
    if (why == NULL)
        why = read_names(jwk, key);
    if (why == NULL)
        name_key(jwk, key);
    return why;
}

/* ---- the set ----------------------------------------------------------------------------------------- */

static void key_wipe(struct key *key)
{
    for (size_t i = 0; i < JOSE_ALGORITHM_COUNT; i++)
        EVP_PKEY_CTX_free(key->contexts[i]);
    EVP_PKEY_free(key->public_key);
    memset(key, 0, sizeof *key);
}

void jose_keys_destroy(struct jose_keys **keys)
{
    struct jose_keys *old = *keys;

    *keys = NULL;
    if (old == NULL)
        return;
    for (size_t i = 0; i < old->count; i++)
        key_wipe(&old->list[i]);
    for (size_t i = 0; i < JOSE_ALGORITHM_COUNT; i++)
        EVP_MD_free(old->digests[i]);
    EVP_MD_CTX_free(old->hash);
    EVP_MD_CTX_free(old->whole);
    free(old);
}

static struct jose_keys *keys_new(void)
{
    OWNED(jose_keys_destroy) struct jose_keys *keys = calloc(1, sizeof *keys);

    if (keys == NULL)
        return NULL;
    keys->hash = EVP_MD_CTX_new();
    keys->whole = EVP_MD_CTX_new();
    if (keys->hash == NULL || keys->whole == NULL)
        return NULL;
    for (size_t i = 0; i < JOSE_ALGORITHM_COUNT; i++) {
        if (rows[i].digest[0] == '\0')
            continue;
        keys->digests[i] = EVP_MD_fetch(NULL, rows[i].digest, NULL);
        if (keys->digests[i] == NULL)
            return NULL;
    }
    struct jose_keys *made = keys;

    keys = NULL;
    return made;
}

/* The kid comes from far away: only what a terminal shows as one letter is kept. */
static void note_skip(struct jose_keys *keys, size_t index, const json_t *jwk, const char *why)
{
    const char *kid = json_string_value(json_object_get(jwk, "kid"));
    char shown[41] = "";
    size_t length = 0;

    if (keys->skipped < SKIPS_KEPT) {
        for (; kid != NULL && kid[length] != '\0' && length < sizeof shown - 1; length++)
            shown[length] = kid[length] >= ' ' && kid[length] <= '~' ? kid[length] : '?';
        shown[length] = '\0';
        snprintf(keys->skips[keys->skipped], SKIP_TEXT, "key %zu%s%s%s: %s", index + 1,
                 length > 0 ? " (kid " : "", shown, length > 0 ? ")" : "", why);
    }
    keys->skipped++;
}

static void read_keys(const json_t *list, struct jose_keys *keys)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *jwk = json_array_get(list, i);
        struct key *key = &keys->list[keys->count];
        const char *why = "the set has more than 64 usable keys";

        if (keys->count < JOSE_KEYS_MAX)
            why = read_key(jwk, key);
        if (why == NULL) {
            keys->count++;
            continue;
        }
        if (keys->count < JOSE_KEYS_MAX)
            key_wipe(key);
        note_skip(keys, i, jwk, why);
    }
    ERR_clear_error();
}

static enum err refuse(char *reterr, size_t reterr_size, enum err err, const char *why)
{
    snprintf(reterr, reterr_size, "%s", why);
    return err;
}

enum err jose_keys_parse(const char *text, size_t size, struct jose_keys **ret_keys, char *reterr, size_t reterr_size)
{
    json_error_t error;

    if (size > JOSE_SET_MAX)
        return refuse(reterr, reterr_size, ERR_TOO_LARGE, "the document has more than 262144 bytes");
    OWNED(json_destroy) json_t *document = json_loadb(text, size, JSON_REJECT_DUPLICATES, &error);

    if (document == NULL && json_error_code(&error) == json_error_out_of_memory)
        return refuse(reterr, reterr_size, ERR_NO_MEMORY, "memory is short");
    if (document == NULL && json_error_code(&error) == json_error_duplicate_key)
        return refuse(reterr, reterr_size, ERR_MALFORMED, "a name stands twice in one object");
    if (document == NULL)
        return refuse(reterr, reterr_size, ERR_MALFORMED, "it is not JSON");
    const json_t *list = json_object_get(document, "keys");

    if (!json_is_array(list))
        return refuse(reterr, reterr_size, ERR_MALFORMED, "it is no JSON object with a list `keys` (RFC 7517 5)");
    struct jose_keys *keys = keys_new();

    if (keys == NULL)
        return refuse(reterr, reterr_size, ERR_NO_MEMORY, "memory is short");
    read_keys(list, keys);
    *ret_keys = keys;
    return ERR_OK;
}

size_t jose_keys_count(const struct jose_keys *keys)
{
    return keys->count;
}

size_t jose_keys_skipped(const struct jose_keys *keys)
{
    return keys->skipped;
}

const char *jose_keys_skip_reason(const struct jose_keys *keys, size_t index)
{
    return index < keys->skipped && index < SKIPS_KEPT ? keys->skips[index] : "";
}

static bool has_kid(const struct key *key, const char *kid, size_t length)
{
    return key->has_kid && key->kid_length == length && memcmp(key->kid, kid, length) == 0;
}

bool jose_keys_has_kid(const struct jose_keys *keys, const char *kid, size_t length)
{
    for (size_t i = 0; i < keys->count; i++)
        if (has_kid(&keys->list[i], kid, length))
            return true;
    return false;
}

/* ---- signatures -------------------------------------------------------------------------------------- */

/* An unsigned big-endian number as an INTEGER; returns what it wrote (at most size + 3 bytes). */
static size_t write_integer(const uint8_t *number, size_t size, uint8_t *der)
{
    while (size > 1 && *number == 0) {
        number++;
        size--;
    }
    const size_t sign = *number >> 7;

    der[0] = 0x02;
    der[1] = (uint8_t)(size + sign);
    der[2] = 0;
    memcpy(der + 2 + sign, number, size);
    return 2 + sign + size;
}

/* r || s as ECDSA-Sig-Value; for P-384 it stays under 128 bytes, so every length is one byte. */
static size_t write_ecdsa(const uint8_t *signature, size_t size, uint8_t der[EC_DER_MAX])
{
    size_t length = write_integer(signature, size / 2, der + 2);

    length += write_integer(signature + size / 2, size / 2, der + 2 + length);
    der[0] = 0x30;
    der[1] = (uint8_t)length;
    return 2 + length;
}

/* PKCS 1 v1.5 or PSS with a salt as long as the digest and MGF1 over the same hash (RFC 7518 3.3, 3.5). */
static bool set_up_context(EVP_PKEY_CTX *context, const struct algorithm_row *row, const EVP_MD *digest)
{
    if (EVP_PKEY_verify_init(context) != 1 || EVP_PKEY_CTX_set_signature_md(context, digest) != 1)
        return false;
    if (row->family == FAMILY_EC)
        return true;
    if (row->family == FAMILY_RSA)
        return EVP_PKEY_CTX_set_rsa_padding(context, RSA_PKCS1_PADDING) == 1;
    return EVP_PKEY_CTX_set_rsa_padding(context, RSA_PKCS1_PSS_PADDING) == 1
        && EVP_PKEY_CTX_set_rsa_mgf1_md(context, digest) == 1
        && EVP_PKEY_CTX_set_rsa_pss_saltlen(context, RSA_PSS_SALTLEN_DIGEST) == 1;
}

static EVP_PKEY_CTX *find_context(const struct jose_keys *keys, struct key *key, enum jose_algorithm algorithm)
{
    if (key->contexts[algorithm] != NULL)
        return key->contexts[algorithm];
    OWNED(context_destroy) EVP_PKEY_CTX *context = EVP_PKEY_CTX_new_from_pkey(NULL, key->public_key, NULL);

    if (context == NULL || !set_up_context(context, &rows[algorithm], keys->digests[algorithm]))
        return NULL;
    key->contexts[algorithm] = context;
    context = NULL;
    return key->contexts[algorithm];
}

static bool verify_ed(const struct jose_keys *keys, const struct key *key, const struct jose_token *token)
{
    return EVP_MD_CTX_reset(keys->whole) == 1
        && EVP_DigestVerifyInit(keys->whole, NULL, NULL, NULL, key->public_key) == 1
        && EVP_DigestVerify(keys->whole, token->signature, token->signature_size,
                            (const uint8_t *)token->text, token->signed_size) == 1;
}

static bool verify_with(const struct jose_keys *keys, struct key *key, const struct jose_token *token)
{
    const struct algorithm_row *row = &rows[token->algorithm];
    uint8_t digest[EVP_MAX_MD_SIZE], der[EC_DER_MAX];
    const uint8_t *signature = token->signature;
    size_t signature_size = token->signature_size;
    unsigned digest_size;

    if (signature_size != key->signature_size)
        return false;
    if (row->family == FAMILY_ED)
        return verify_ed(keys, key, token);
    EVP_PKEY_CTX *context = find_context(keys, key, token->algorithm);

    if (context == NULL || EVP_DigestInit_ex2(keys->hash, keys->digests[token->algorithm], NULL) != 1
        || EVP_DigestUpdate(keys->hash, token->text, token->signed_size) != 1
        || EVP_DigestFinal_ex(keys->hash, digest, &digest_size) != 1)
        return false;
    if (row->family == FAMILY_EC) {
        signature_size = write_ecdsa(signature, signature_size, der);
        signature = der;
    }
    return EVP_PKEY_verify(context, signature, signature_size, digest, digest_size) == 1;
}

/* Is `pattern`, with {tenantid} in any case standing for the directory, this text? */
static bool matches(const char *pattern, const char *directory, const char *text)
{
    static const char place[] = "{tenantid}";
    const char *at = strcasestr(pattern, place);

    if (text == NULL)
        return false;
    if (at == NULL)
        return strcmp(pattern, text) == 0;
    if (directory == NULL)
        return false;
    const size_t before = (size_t)(at - pattern), length = strlen(directory);

    return strncmp(pattern, text, before) == 0 && strncmp(text + before, directory, length) == 0
        && strcmp(text + before + length, at + sizeof place - 1) == 0;
}

static bool is_allowed(const struct key *key, const struct jose_key_rule *rule)
{
    if (key->issuer[0] == '\0' || (rule->issuer[0] == NULL && rule->issuer[1] == NULL))
        return true;
    return matches(key->issuer, rule->directory, rule->issuer[0]) || matches(key->issuer, rule->directory, rule->issuer[1]);
}

/* Without a kid the one key that fits the algorithm is meant; several would make the caller guess. */
static size_t count_fitting(const struct jose_keys *keys, unsigned bit)
{
    size_t count = 0;

    for (size_t i = 0; i < keys->count; i++)
        count += (keys->list[i].algorithms & bit) != 0;
    return count;
}

enum jose_reason jose_token_verify(const struct jose_token *token, struct jose_keys *keys, unsigned algorithms,
                                   const struct jose_key_rule *rule, char ret_thumbprint[JOSE_THUMBPRINT_SIZE])
{
    const unsigned bit = 1u << token->algorithm;
    enum jose_reason reason = token->kid == NULL ? JOSE_KEY_ID_MISSING : JOSE_KEY_UNKNOWN;
    unsigned tries = 0;

    if ((algorithms & bit) == 0)
        return JOSE_ALGORITHM;
    if (token->kid == NULL && count_fitting(keys, bit) != 1)
        return JOSE_KEY_ID_MISSING;
    for (size_t i = 0; i < keys->count && tries < JOSE_TRIES_MAX; i++) {
        struct key *key = &keys->list[i];

        if (token->kid != NULL && !has_kid(key, token->kid, token->kid_length))
            continue;
        if ((key->algorithms & bit) == 0) {
            reason = reason == JOSE_KEY_UNKNOWN ? JOSE_KEY_MISMATCH : reason;
            continue;
        }
        if (!is_allowed(key, rule)) {
            reason = JOSE_KEY_ISSUER;
            continue;
        }
        tries++;
        if (verify_with(keys, key, token)) {
            if (ret_thumbprint != NULL)
                memcpy(ret_thumbprint, key->thumbprint, JOSE_THUMBPRINT_SIZE);
            return JOSE_FINE;
        }
        reason = JOSE_SIGNATURE;
        ERR_clear_error();
    }
    return reason;
}
