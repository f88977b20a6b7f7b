/* signer.h - keys made for one test program, their public JWKs, and tokens signed with them. */
#ifndef TESTS_UNIT_SIGNER_H
#define TESTS_UNIT_SIGNER_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/ecdsa.h>
#include <openssl/evp.h>
#include <openssl/rsa.h>

#include "common/encode.h"
#include "common/jose.h"

struct signer {
    EVP_PKEY *key;
    char kid[64];
    char jwk[4096];        /* the public key, without alg and use */
};

static inline void signer_encode_number(const EVP_PKEY *key, const char *name, size_t size, char *text)
{
    BIGNUM *number = NULL;
    uint8_t bytes[1024];

    assert_int_equal(EVP_PKEY_get_bn_param(key, name, &number), 1);
    if (size == 0)
        size = (size_t)BN_num_bytes(number);
    assert_int_equal(BN_bn2binpad(number, bytes, (int)size), (int)size);
    base64url_encode(bytes, size, text);
    BN_free(number);
}

static inline void signer_take(struct signer *signer, EVP_PKEY *key, const char *kid)
{
    char a[2048], b[2048];
    uint8_t point[32];
    size_t size = sizeof point;

    signer->key = key;
    snprintf(signer->kid, sizeof signer->kid, "%s", kid);
    if (EVP_PKEY_is_a(key, "RSA")) {
        signer_encode_number(key, OSSL_PKEY_PARAM_RSA_N, 0, a);
        signer_encode_number(key, OSSL_PKEY_PARAM_RSA_E, 0, b);
        snprintf(signer->jwk, sizeof signer->jwk, "\"kty\":\"RSA\",\"n\":\"%.2000s\",\"e\":\"%.20s\",\"kid\":\"%s\"", a, b, kid);
    } else if (EVP_PKEY_is_a(key, "EC")) {
        const size_t half = EVP_PKEY_get_bits(key) == 384 ? 48 : EVP_PKEY_get_bits(key) == 521 ? 66 : 32;

        signer_encode_number(key, OSSL_PKEY_PARAM_EC_PUB_X, half, a);
        signer_encode_number(key, OSSL_PKEY_PARAM_EC_PUB_Y, half, b);
        snprintf(signer->jwk, sizeof signer->jwk, "\"kty\":\"EC\",\"crv\":\"P-%d\",\"x\":\"%.200s\",\"y\":\"%.200s\",\"kid\":\"%s\"",
                 EVP_PKEY_get_bits(key), a, b, kid);
    } else {
        assert_int_equal(EVP_PKEY_get_raw_public_key(key, point, &size), 1);
        base64url_encode(point, size, a);
        snprintf(signer->jwk, sizeof signer->jwk, "\"kty\":\"OKP\",\"crv\":\"%s\",\"x\":\"%.200s\",\"kid\":\"%s\"",
                 EVP_PKEY_is_a(key, "X25519") ? "X25519" : "Ed25519", a, kid);
    }
}

static inline void signer_rsa(struct signer *signer, unsigned bits, const char *kid)
{
    signer_take(signer, EVP_PKEY_Q_keygen(NULL, NULL, "RSA", (size_t)bits), kid);
}

static inline void signer_ec(struct signer *signer, const char *curve, const char *kid)
{
    signer_take(signer, EVP_PKEY_Q_keygen(NULL, NULL, "EC", curve), kid);
}

static inline void signer_ed(struct signer *signer, const char *kid)
{
    signer_take(signer, EVP_PKEY_Q_keygen(NULL, NULL, "ED25519"), kid);
}

static inline void signer_wipe(struct signer *signer)
{
    EVP_PKEY_free(signer->key);
    signer->key = NULL;
}

/* The signature of these bytes as JWS has it; `algorithm` is what it is made with, whatever a header says. */
static inline size_t signer_sign(const struct signer *signer, enum jose_algorithm algorithm, const char *text, size_t size, uint8_t *signature)
{
    static const char *const digests[] = {
#define ALGORITHM(name, text, family, digest, curve) digest,
#include "common/jose_algorithms.def"
    };
    const bool is_pss = algorithm >= JOSE_PS256 && algorithm <= JOSE_PS512;
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    EVP_PKEY_CTX *parameters = NULL;
    size_t length = JOSE_SIGNATURE_MAX;

    assert_int_equal(EVP_DigestSignInit_ex(context, &parameters, digests[algorithm][0] != '\0' ? digests[algorithm] : NULL, NULL, NULL,
                                           signer->key, NULL), 1);
    if (is_pss) {
        assert_true(EVP_PKEY_CTX_set_rsa_padding(parameters, RSA_PKCS1_PSS_PADDING) > 0);
        assert_true(EVP_PKEY_CTX_set_rsa_pss_saltlen(parameters, RSA_PSS_SALTLEN_DIGEST) > 0);
    }
    assert_int_equal(EVP_DigestSign(context, signature, &length, (const uint8_t *)text, size), 1);
    EVP_MD_CTX_free(context);
    if (!EVP_PKEY_is_a(signer->key, "EC"))
        return length;
    const int half = (EVP_PKEY_get_bits(signer->key) + 7) / 8;
    const uint8_t *at = signature;
    ECDSA_SIG *parts = d2i_ECDSA_SIG(NULL, &at, (long)length);

    assert_non_null(parts);
    BN_bn2binpad(ECDSA_SIG_get0_r(parts), signature, half);
    BN_bn2binpad(ECDSA_SIG_get0_s(parts), signature + half, half);
    ECDSA_SIG_free(parts);
    return (size_t)(2 * half);
}

/* header.payload from JSON texts. */
static inline size_t signer_input(const char *header, const char *payload, char *text)
{
    base64url_encode((const uint8_t *)header, strlen(header), text);
    size_t length = strlen(text);

    text[length++] = '.';
    base64url_encode((const uint8_t *)payload, strlen(payload), text + length);
    return strlen(text);
}

static inline void signer_append(char *text, const uint8_t *signature, size_t size)
{
    size_t length = strlen(text);

    text[length] = '.';
    base64url_encode(signature, size, text + length + 1);
}

/* A whole token; `text` must be large enough. */
static inline void signer_token(const struct signer *signer, enum jose_algorithm algorithm, const char *header, const char *payload, char *text)
{
    uint8_t signature[JOSE_SIGNATURE_MAX];
    const size_t length = signer_input(header, payload, text);

    signer_append(text, signature, signer_sign(signer, algorithm, text, length, signature));
}

#endif
