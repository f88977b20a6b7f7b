/*
 * test_jose_vectors.c - signatures and keys made to pass sloppy verifiers, in the manner of Wycheproof's files on JWS, ECDSA, RSA
 * and EdDSA: each row is one defect, and a good one stands beside it so that the row is refused for nothing else.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/signer.h"

#define RSA_SIZE 256u

static struct signer rsa, ec, ec_384, ed;
static struct jose_keys *all;
static const struct jose_key_rule no_rule;
static char text[8000], document[20000];

static int make_keys(void **state)
{
    char why[200];
    (void)state;

    signer_rsa(&rsa, 8 * RSA_SIZE, "rsa");
    signer_ec(&ec, "P-256", "ec");
    signer_ec(&ec_384, "P-384", "ec-384");
    signer_ed(&ed, "ed");
    snprintf(document, sizeof document, "{\"keys\":[{%s},{%s},{%s},{%s}]}", rsa.jwk, ec.jwk, ec_384.jwk, ed.jwk);
    return jose_keys_parse(document, strlen(document), &all, why, sizeof why) == ERR_OK ? 0 : -1;
}

static int free_keys(void **state)
{
    (void)state;

    jose_keys_destroy(&all);
    signer_wipe(&rsa);
    signer_wipe(&ec);
    signer_wipe(&ec_384);
    signer_wipe(&ed);
    return 0;
}

static size_t begin(enum jose_algorithm algorithm, const char *kid)
{
    char header[80];

    snprintf(header, sizeof header, "{\"alg\":\"%s\",\"kid\":\"%s\"}", jose_algorithm_text(algorithm), kid);
    return signer_input(header, "{}", text);
}

/* Is the token whose signing input is in `text` accepted with this signature? */
static bool is_accepted(size_t length, const uint8_t *signature, size_t size)
{
    struct jose_token token;

    text[length] = '\0';
    signer_append(text, signature, size);
    enum jose_reason reason = jose_token_parse(text, strlen(text), &token);

    text[length] = '\0';
    if (reason != JOSE_FINE)
        return false;
    reason = jose_token_verify(&token, all, JOSE_ALL, &no_rule, NULL);
    jose_token_wipe(&token);
    return reason == JOSE_FINE;
}

static void expect(const char *row, bool got, bool wanted)
{
    if (got != wanted)
        fail_msg("%s is %s", row, got ? "accepted" : "refused");
}

/* ---- ECDSA ------------------------------------------------------------------------------------------- */

struct halves { BIGNUM *r, *s, *n, *p; };

enum ec_defect {
    EC_GOOD, EC_MALLEATED, EC_SWAPPED, EC_R_PLUS_ONE, EC_R_FROM_S, EC_R_ZERO, EC_S_ZERO, EC_BOTH_ZERO, EC_R_ONE, EC_S_ONE, EC_BOTH_ONE, EC_R_N,
    EC_S_N, EC_BOTH_N, EC_R_N_MINUS_ONE, EC_S_N_MINUS_ONE, EC_R_N_PLUS_ONE, EC_S_PLUS_N, EC_R_PLUS_N, EC_R_P, EC_S_P, EC_R_ALL_ONES,
    EC_S_ALL_ONES, EC_NEGATED_R
};
static const struct { const char *name; enum ec_defect defect; bool is_good; } ec_rows[] = {
    { "as it was made", EC_GOOD, true },
    { "n - s, which verifies by design", EC_MALLEATED, true },
    { "halves swapped", EC_SWAPPED, false },      { "r + 1", EC_R_PLUS_ONE, false },       { "r is s", EC_R_FROM_S, false },
    { "r = 0", EC_R_ZERO, false },                { "s = 0", EC_S_ZERO, false },           { "r = s = 0", EC_BOTH_ZERO, false },
    { "r = 1", EC_R_ONE, false },                 { "s = 1", EC_S_ONE, false },            { "r = s = 1", EC_BOTH_ONE, false },
    { "r = n", EC_R_N, false },                   { "s = n", EC_S_N, false },              { "r = s = n", EC_BOTH_N, false },
    { "r = n - 1", EC_R_N_MINUS_ONE, false },     { "s = n - 1", EC_S_N_MINUS_ONE, false }, { "r = n + 1", EC_R_N_PLUS_ONE, false },
    { "s + n", EC_S_PLUS_N, false },              { "r + n", EC_R_PLUS_N, false },         { "r = p", EC_R_P, false },
    { "s = p", EC_S_P, false },                   { "r of ones", EC_R_ALL_ONES, false },   { "s of ones", EC_S_ALL_ONES, false },
    { "n - r", EC_NEGATED_R, false },
};

static void fill_with_ones(BIGNUM *number, int half)
{
    BN_zero(number);
    for (int bit = 0; bit < 8 * half; bit++)
        BN_set_bit(number, bit);
}

static void spoil(struct halves *h, enum ec_defect defect, int half)
{
    BIGNUM *number = defect == EC_S_ZERO || defect == EC_S_ONE || defect == EC_S_N || defect == EC_S_N_MINUS_ONE || defect == EC_S_PLUS_N
                     || defect == EC_S_P || defect == EC_S_ALL_ONES || defect == EC_MALLEATED ? h->s : h->r;

    switch (defect) {
    case EC_GOOD: break;
    case EC_MALLEATED: case EC_NEGATED_R: BN_sub(number, h->n, number); break;
    case EC_SWAPPED: BN_swap(h->r, h->s); break;
    case EC_R_PLUS_ONE: BN_add_word(number, 1); break;
    case EC_R_FROM_S: BN_copy(h->r, h->s); break;
    case EC_R_ZERO: case EC_S_ZERO: BN_zero(number); break;
    case EC_BOTH_ZERO: BN_zero(h->r); BN_zero(h->s); break;
    case EC_R_ONE: case EC_S_ONE: BN_one(number); break;
    case EC_BOTH_ONE: BN_one(h->r); BN_one(h->s); break;
    case EC_R_N: case EC_S_N: BN_copy(number, h->n); break;
    case EC_BOTH_N: BN_copy(h->r, h->n); BN_copy(h->s, h->n); break;
    case EC_R_N_MINUS_ONE: case EC_S_N_MINUS_ONE: BN_copy(number, h->n); BN_sub_word(number, 1); break;
    case EC_R_N_PLUS_ONE: BN_copy(number, h->n); BN_add_word(number, 1); break;
    case EC_S_PLUS_N: case EC_R_PLUS_N: BN_add(number, number, h->n); BN_mask_bits(number, 8 * half); break;
    case EC_R_P: case EC_S_P: BN_copy(number, h->p); break;
    case EC_R_ALL_ONES: case EC_S_ALL_ONES: fill_with_ones(number, half); break;
    }
}

static void try_ec(const struct signer *signer, enum jose_algorithm algorithm, int half)
{
    const size_t length = begin(algorithm, signer->kid);
    uint8_t good[JOSE_SIGNATURE_MAX], bad[JOSE_SIGNATURE_MAX];

    signer_sign(signer, algorithm, text, length, good);
    for (size_t i = 0; i < sizeof ec_rows / sizeof ec_rows[0]; i++) {
        struct halves h = { BN_bin2bn(good, half, NULL), BN_bin2bn(good + half, half, NULL), NULL, NULL };

        EVP_PKEY_get_bn_param(signer->key, OSSL_PKEY_PARAM_EC_ORDER, &h.n);
        EVP_PKEY_get_bn_param(signer->key, OSSL_PKEY_PARAM_EC_P, &h.p);
        spoil(&h, ec_rows[i].defect, half);
        BN_bn2binpad(h.r, bad, half);
        BN_bn2binpad(h.s, bad + half, half);
        expect(ec_rows[i].name, is_accepted(length, bad, (size_t)(2 * half)), ec_rows[i].is_good);
        BN_free(h.r);
        BN_free(h.s);
        BN_free(h.n);
        BN_free(h.p);
    }
}

static void ecdsa_numbers_out_of_range_or_place_are_refused(void **state)
{
    (void)state;

    try_ec(&ec, JOSE_ES256, 32);
    try_ec(&ec_384, JOSE_ES384, 48);
}

static void an_ecdsa_signature_has_one_length_and_one_form(void **state)
{
    static const size_t sizes[] = { 0, 1, 31, 32, 62, 63, 65, 66, 70, 71, 72, 95, 96, 97, 128 };
    const size_t length = begin(JOSE_ES256, "ec");
    uint8_t good[JOSE_SIGNATURE_MAX] = { 0 }, der[200] = { 0 };
    size_t size = sizeof der;
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    (void)state;

    signer_sign(&ec, JOSE_ES256, text, length, good);
    expect("64 bytes", is_accepted(length, good, 64), true);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        expect("another length", is_accepted(length, good, sizes[i]), false);
    assert_int_equal(EVP_DigestSignInit_ex(context, NULL, "SHA2-256", NULL, NULL, ec.key, NULL), 1);
    assert_int_equal(EVP_DigestSign(context, der, &size, (const uint8_t *)text, length), 1);
    EVP_MD_CTX_free(context);
    expect("DER", is_accepted(length, der, size), false);
    expect("DER cut to 64 bytes", is_accepted(length, der, 64), false);
}

/* A half that begins with zeros is written with them, and without them it is another signature. */
static void leading_zeros_of_an_ecdsa_half_are_kept(void **state)
{
    const size_t length = begin(JOSE_ES256, "ec");
    uint8_t good[JOSE_SIGNATURE_MAX], moved[64];
    bool is_found = false;
    (void)state;

    for (int tries = 0; tries < 20000 && !is_found; tries++) {
        signer_sign(&ec, JOSE_ES256, text, length, good);
        is_found = good[0] == 0;
    }
    assert_true(is_found);
    expect("r below 2^248", is_accepted(length, good, 64), true);
    expect("without its zero", is_accepted(length, good + 1, 63), false);
    memcpy(moved, good + 1, 31);
    moved[31] = 0;
    memcpy(moved + 32, good + 32, 32);
    expect("the zero at the other end", is_accepted(length, moved, 64), false);
}

static void a_hash_of_another_length_is_another_signature(void **state)
{
    static const char *const digests[] = { "SHA1", "SHA2-224", "SHA2-384", "SHA2-512", "SHA2-512/256", "SHA3-256" };
    const size_t length = begin(JOSE_ES256, "ec");
    (void)state;

    for (size_t i = 0; i < sizeof digests / sizeof digests[0]; i++) {
        EVP_MD_CTX *context = EVP_MD_CTX_new();
        uint8_t der[200], raw[64];
        const uint8_t *at = der;
        size_t size = sizeof der;

        assert_int_equal(EVP_DigestSignInit_ex(context, NULL, digests[i], NULL, NULL, ec.key, NULL), 1);
        assert_int_equal(EVP_DigestSign(context, der, &size, (const uint8_t *)text, length), 1);
        EVP_MD_CTX_free(context);
        ECDSA_SIG *parts = d2i_ECDSA_SIG(NULL, &at, (long)size);

        BN_bn2binpad(ECDSA_SIG_get0_r(parts), raw, 32);
        BN_bn2binpad(ECDSA_SIG_get0_s(parts), raw + 32, 32);
        ECDSA_SIG_free(parts);
        expect(digests[i], is_accepted(length, raw, 64), false);
    }
}

/* ---- RSA --------------------------------------------------------------------------------------------- */

/* The raw operation, whatever the padding is. */
static void raise(const uint8_t block[RSA_SIZE], bool with_private, uint8_t result[RSA_SIZE])
{
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new(rsa.key, NULL);
    size_t size = RSA_SIZE;

    if (with_private) {
        assert_true(EVP_PKEY_sign_init(context) > 0 && EVP_PKEY_CTX_set_rsa_padding(context, RSA_NO_PADDING) > 0);
        assert_int_equal(EVP_PKEY_sign(context, result, &size, block, RSA_SIZE), 1);
    } else {
        assert_true(EVP_PKEY_encrypt_init(context) > 0 && EVP_PKEY_CTX_set_rsa_padding(context, RSA_NO_PADDING) > 0);
        assert_int_equal(EVP_PKEY_encrypt(context, result, &size, block, RSA_SIZE), 1);
    }
    EVP_PKEY_CTX_free(context);
}

#define SHA256_OID "\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01"
#define ROW(name, before, info, behind, is_good) { name, before, sizeof before - 1, info, sizeof info - 1, behind, sizeof behind - 1, is_good }
/* 00 01 ff...ff 00 and what stands before and behind the 32 bytes of the hash; `before` replaces the block's first bytes. */
static const struct { const char *name, *before; size_t before_size; const char *info; size_t info_size; const char *behind; size_t behind_size; bool is_good; } rsa_rows[] = {
    ROW("as RFC 8017 9.2 has it", "\x00\x01", "\x30\x31\x30\x0d" SHA256_OID "\x05\x00\x04\x20", "", true),
    ROW("block type 0", "\x00\x00", "\x30\x31\x30\x0d" SHA256_OID "\x05\x00\x04\x20", "", false),
    ROW("block type 2", "\x00\x02", "\x30\x31\x30\x0d" SHA256_OID "\x05\x00\x04\x20", "", false),
    ROW("a padding byte is not ff", "\x00\x01\xff\xff\xfe", "\x30\x31\x30\x0d" SHA256_OID "\x05\x00\x04\x20", "", false),
    ROW("a zero within the padding", "\x00\x01\xff\xff\x00", "\x30\x31\x30\x0d" SHA256_OID "\x05\x00\x04\x20", "", false),
    ROW("no parameters", "\x00\x01", "\x30\x2f\x30\x0b" SHA256_OID "\x04\x20", "", false),
    ROW("the parameters are no NULL", "\x00\x01", "\x30\x31\x30\x0d" SHA256_OID "\x04\x00\x04\x20", "", false),
    ROW("a byte within NULL", "\x00\x01", "\x30\x32\x30\x0e" SHA256_OID "\x05\x01\x00\x04\x20", "", false),
    ROW("rubbish among the parameters", "\x00\x01", "\x30\x35\x30\x11" SHA256_OID "\x05\x00\x04\x02\x41\x41\x04\x20", "", false),
    ROW("the name of SHA-384", "\x00\x01", "\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x02\x05\x00\x04\x20", "", false),
    ROW("the name of SHA-1", "\x00\x01", "\x30\x2d\x30\x09\x06\x05\x2b\x0e\x03\x02\x1a\x05\x00\x04\x20", "", false),
    ROW("a length in the long form", "\x00\x01", "\x30\x81\x31\x30\x0d" SHA256_OID "\x05\x00\x04\x20", "", false),
    ROW("an indefinite length", "\x00\x01", "\x30\x80\x30\x0d" SHA256_OID "\x05\x00\x04\x20", "\x00\x00", false),
    ROW("the hash's length in the long form", "\x00\x01", "\x30\x32\x30\x0d" SHA256_OID "\x05\x00\x04\x81\x20", "", false),
    ROW("a set for the sequence", "\x00\x01", "\x31\x31\x30\x0d" SHA256_OID "\x05\x00\x04\x20", "", false),
    ROW("a bit string for the hash", "\x00\x01", "\x30\x31\x30\x0d" SHA256_OID "\x05\x00\x03\x20", "", false),
    ROW("the bare hash", "\x00\x01", "", "", false),
    ROW("one byte behind the hash", "\x00\x01", "\x30\x31\x30\x0d" SHA256_OID "\x05\x00\x04\x20", "\x41", false),
    ROW("a zero behind the hash", "\x00\x01", "\x30\x31\x30\x0d" SHA256_OID "\x05\x00\x04\x20", "\x00", false),
    ROW("one byte behind, and counted", "\x00\x01", "\x30\x32\x30\x0d" SHA256_OID "\x05\x00\x04\x20", "\x41", false),
    ROW("another sequence behind", "\x00\x01", "\x30\x31\x30\x0d" SHA256_OID "\x05\x00\x04\x20", "\x30\x00", false),
};

static void only_one_encoding_of_a_hash_is_an_rsa_signature(void **state)
{
    uint8_t block[RSA_SIZE], signature[RSA_SIZE], digest[DIGEST_SIZE];
    const size_t length = begin(JOSE_RS256, "rsa");
    (void)state;

    digest_sha256(text, length, digest);
    for (size_t i = 0; i < sizeof rsa_rows / sizeof rsa_rows[0]; i++) {
        const size_t at = RSA_SIZE - rsa_rows[i].behind_size - DIGEST_SIZE - rsa_rows[i].info_size;

        memset(block, 0xff, RSA_SIZE);
        memcpy(block, rsa_rows[i].before, rsa_rows[i].before_size);
        block[at - 1] = 0;
        memcpy(block + at, rsa_rows[i].info, rsa_rows[i].info_size);
        memcpy(block + at + rsa_rows[i].info_size, digest, DIGEST_SIZE);
        memcpy(block + RSA_SIZE - rsa_rows[i].behind_size, rsa_rows[i].behind, rsa_rows[i].behind_size);
        raise(block, true, signature);
        expect(rsa_rows[i].name, is_accepted(length, signature, RSA_SIZE), rsa_rows[i].is_good);
    }
    /* Short padding with the rest behind it: what cube roots forge where the exponent is small (Bleichenbacher 2006). */
    memset(block, 0x41, RSA_SIZE);
    memcpy(block, "\x00\x01\xff\xff\xff\xff\xff\xff\xff\xff\x00", 11);
    memcpy(block + 11, rsa_rows[0].info, rsa_rows[0].info_size);
    memcpy(block + 11 + rsa_rows[0].info_size, digest, DIGEST_SIZE);
    raise(block, true, signature);
    expect("the hash in the middle", is_accepted(length, signature, RSA_SIZE), false);
}

static void an_rsa_signature_has_the_size_of_its_key(void **state)
{
    static const size_t sizes[] = { 0, 1, 32, 128, 255, 257, 258, 512 };
    uint8_t good[JOSE_SIGNATURE_MAX] = { 0 }, longer[JOSE_SIGNATURE_MAX] = { 0 };
    const size_t length = begin(JOSE_RS256, "rsa");
    BIGNUM *n = NULL;
    (void)state;

    signer_sign(&rsa, JOSE_RS256, text, length, good);
    expect("as it was made", is_accepted(length, good, RSA_SIZE), true);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        expect("another length", is_accepted(length, good, sizes[i]), false);
    memcpy(longer + 1, good, RSA_SIZE);
    expect("a zero in front", is_accepted(length, longer, RSA_SIZE + 1), false);
    EVP_PKEY_get_bn_param(rsa.key, OSSL_PKEY_PARAM_RSA_N, &n);
    BIGNUM *s = BN_bin2bn(good, RSA_SIZE, NULL);

    BN_add(s, s, n);
    BN_bn2binpad(s, longer, RSA_SIZE + 1);
    expect("s + n", is_accepted(length, longer, RSA_SIZE + 1), false);
    BN_bn2binpad(n, good, RSA_SIZE);
    expect("n", is_accepted(length, good, RSA_SIZE), false);
    for (unsigned word = 0; word < 3; word++) {
        memset(good, 0, RSA_SIZE);
        good[RSA_SIZE - 1] = (uint8_t)word;
        expect("0, 1 or 2", is_accepted(length, good, RSA_SIZE), false);
    }
    BN_free(s);
    BN_free(n);
}

static void sign_pss(size_t length, const char *digest, const char *mask, int salt, uint8_t signature[RSA_SIZE])
{
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    EVP_PKEY_CTX *parameters = NULL;
    size_t size = RSA_SIZE;

    assert_int_equal(EVP_DigestSignInit_ex(context, &parameters, digest, NULL, NULL, rsa.key, NULL), 1);
    assert_true(EVP_PKEY_CTX_set_rsa_padding(parameters, RSA_PKCS1_PSS_PADDING) > 0 && EVP_PKEY_CTX_set_rsa_pss_saltlen(parameters, salt) > 0
                && EVP_PKEY_CTX_set_rsa_mgf1_md_name(parameters, mask, NULL) > 0);
    assert_int_equal(EVP_DigestSign(context, signature, &size, (const uint8_t *)text, length), 1);
    EVP_MD_CTX_free(context);
}

static void pss_has_one_salt_length_and_one_hash(void **state)
{
    static const struct { const char *name, *digest, *mask; int salt; bool is_good; } rows[] = {
        { "as RFC 7518 3.5 has it", "SHA2-256", "SHA2-256", 32, true },
        { "no salt", "SHA2-256", "SHA2-256", 0, false },
        { "a salt of 20 bytes", "SHA2-256", "SHA2-256", 20, false },
        { "a salt of 31 bytes", "SHA2-256", "SHA2-256", 31, false },
        { "a salt of 33 bytes", "SHA2-256", "SHA2-256", 33, false },
        { "the longest salt", "SHA2-256", "SHA2-256", 222, false },
        { "a mask by SHA-1", "SHA2-256", "SHA1", 32, false },
        { "a mask by SHA-384", "SHA2-256", "SHA2-384", 32, false },
        { "a mask by SHA-512", "SHA2-256", "SHA2-512", 32, false },
        { "a hash by SHA-1", "SHA1", "SHA2-256", 32, false },
        { "a hash by SHA-384", "SHA2-384", "SHA2-256", 32, false },
        { "all by SHA-512, which is PS512", "SHA2-512", "SHA2-512", 64, false },
        { "all by SHA-512/256", "SHA2-512/256", "SHA2-512/256", 32, false },
    };
    const size_t length = begin(JOSE_PS256, "rsa");
    uint8_t signature[JOSE_SIGNATURE_MAX], block[RSA_SIZE];
    (void)state;

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        sign_pss(length, rows[i].digest, rows[i].mask, rows[i].salt, signature);
        expect(rows[i].name, is_accepted(length, signature, RSA_SIZE), rows[i].is_good);
    }
    signer_sign(&rsa, JOSE_RS256, text, length, signature);
    expect("PKCS #1 v1.5 in a token of PS256", is_accepted(length, signature, RSA_SIZE), false);
    for (size_t at = 0; at < RSA_SIZE; at += RSA_SIZE - 1) {    /* the first byte, and the trailer bc */
        sign_pss(length, "SHA2-256", "SHA2-256", 32, signature);
        raise(signature, false, block);
        block[at] ^= 0x20;
        raise(block, true, signature);
        expect("a changed block", is_accepted(length, signature, RSA_SIZE), false);
    }
    sign_pss(length, "SHA2-256", "SHA2-256", 32, signature);
    begin(JOSE_RS256, "rsa");
    expect("PSS in a token of RS256", is_accepted(strlen(text), signature, RSA_SIZE), false);
}

/* ---- Ed25519 ------------------------------------------------------------------------------------------ */

static void add_order(uint8_t s[32], unsigned times)
{
    static const uint8_t order[32] = {    /* L, little-endian (RFC 8032 5.1) */
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, [31] = 0x10
    };

    for (; times > 0; times--) {
        unsigned carry = 0;

        for (size_t i = 0; i < 32; i++) {
            carry += s[i] + (unsigned)order[i];
            s[i] = (uint8_t)carry;
            carry >>= 8;
        }
    }
}

static void an_ed25519_signature_has_one_form(void **state)
{
    /* First, middle and last byte of points of order 4, 1 and 2, and of two that are not canonical. */
    static const uint8_t points[][3] = { { 0, 0, 0 }, { 1, 0, 0 }, { 0xec, 0xff, 0x7f }, { 0xee, 0xff, 0x7f }, { 0xff, 0xff, 0xff } };
    static const size_t sizes[] = { 0, 32, 63, 65, 96, 128 };
    const size_t length = begin(JOSE_EDDSA, "ed");
    uint8_t good[JOSE_SIGNATURE_MAX] = { 0 }, bad[64];
    (void)state;

    signer_sign(&ed, JOSE_EDDSA, text, length, good);
    expect("as it was made", is_accepted(length, good, 64), true);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        expect("another length", is_accepted(length, good, sizes[i]), false);
    for (unsigned times = 1; times <= 14; times++) {    /* S + kL below 2^256 */
        memcpy(bad, good, 64);
        add_order(bad + 32, times);
        expect("S beyond the order", is_accepted(length, bad, 64), false);
    }
    for (unsigned bit = 253; bit < 256; bit++) {
        memcpy(bad, good, 64);
        bad[63] ^= (uint8_t)(1u << (bit - 248));
        expect("a high bit of S", is_accepted(length, bad, 64), false);
    }
    memcpy(bad, good, 64);
    bad[31] ^= 0x80;
    expect("the sign of R", is_accepted(length, bad, 64), false);
    for (size_t i = 0; i < sizeof points / sizeof points[0]; i++) {
        memset(bad, points[i][1], 32);
        bad[0] = points[i][0];
        bad[31] = points[i][2];
        memset(bad + 32, 0, 32);
        expect("R of small order and S = 0", is_accepted(length, bad, 64), false);
        memcpy(bad + 32, good + 32, 32);
        expect("R of small order and S", is_accepted(length, bad, 64), false);
    }
}

/* ---- keys --------------------------------------------------------------------------------------------- */

/* x and y as numbers of 32 bytes, from those of `ec`. */
static void expect_point(const char *row, const uint8_t x[32], const uint8_t y[32], bool is_good)
{
    char a[48], b[48], why[200];
    struct jose_keys *keys = NULL;

    base64url_encode(x, 32, a);
    base64url_encode(y, 32, b);
    snprintf(document, sizeof document, "{\"keys\":[{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"%s\",\"y\":\"%s\"}]}", a, b);
    assert_int_equal(jose_keys_parse(document, strlen(document), &keys, why, sizeof why), ERR_OK);
    expect(row, jose_keys_count(keys) == 1, is_good);
    jose_keys_destroy(&keys);
}

static void a_point_beside_the_curve_is_no_key(void **state)
{
    uint8_t x[32], y[32], p[32], changed[32];
    BIGNUM *numbers[3] = { NULL, NULL, NULL };
    (void)state;

    EVP_PKEY_get_bn_param(ec.key, OSSL_PKEY_PARAM_EC_PUB_X, &numbers[0]);
    EVP_PKEY_get_bn_param(ec.key, OSSL_PKEY_PARAM_EC_PUB_Y, &numbers[1]);
    EVP_PKEY_get_bn_param(ec.key, OSSL_PKEY_PARAM_EC_P, &numbers[2]);
    BN_bn2binpad(numbers[0], x, 32);
    BN_bn2binpad(numbers[1], y, 32);
    BN_bn2binpad(numbers[2], p, 32);
    expect_point("the key's point", x, y, true);
    expect_point("its coordinates swapped", y, x, false);
    memcpy(changed, y, 32);
    changed[31] ^= 1;
    expect_point("y beside the curve", x, changed, false);
    memcpy(changed, x, 32);
    changed[31] ^= 1;
    expect_point("x beside the curve", changed, y, false);
    expect_point("x = p", p, y, false);
    expect_point("y = p", x, p, false);
    memset(changed, 0, 32);
    expect_point("zero", changed, changed, false);
    expect_point("x = 0 with its y", changed, y, false);
    memset(changed, 0xff, 32);
    expect_point("ones", changed, changed, false);
    BN_sub(numbers[1], numbers[2], numbers[1]);
    BN_bn2binpad(numbers[1], changed, 32);
    expect_point("the point's opposite, which is another key", x, changed, true);
    for (size_t i = 0; i < 3; i++)
        BN_free(numbers[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ecdsa_numbers_out_of_range_or_place_are_refused),
        cmocka_unit_test(an_ecdsa_signature_has_one_length_and_one_form),
        cmocka_unit_test(leading_zeros_of_an_ecdsa_half_are_kept),
        cmocka_unit_test(a_hash_of_another_length_is_another_signature),
        cmocka_unit_test(only_one_encoding_of_a_hash_is_an_rsa_signature),
        cmocka_unit_test(an_rsa_signature_has_the_size_of_its_key),
        cmocka_unit_test(pss_has_one_salt_length_and_one_hash),
        cmocka_unit_test(an_ed25519_signature_has_one_form),
        cmocka_unit_test(a_point_beside_the_curve_is_no_key),
    };

    return cmocka_run_group_tests(tests, make_keys, free_keys);
}
