/* test_jose.c - signatures against the RFCs' vectors; the attacks of tokens and key sets, each by its name (J: mcp token table). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/signer.h"

static struct signer rsa, rsa_3, ec, ec_384, ed, other;
static struct jose_keys *all;          /* of the five */
static const struct jose_key_rule no_rule;
static char text[40000], document[300000];

static struct jose_keys *parse(const char *set)
{
    struct jose_keys *keys = NULL;
    char why[200] = "";

    if (jose_keys_parse(set, strlen(set), &keys, why, sizeof why) != ERR_OK)
        fail_msg("%s", why);
    return keys;
}

static struct jose_keys *keys_of(const char *members)
{
    snprintf(document, sizeof document, "{\"keys\":[{%s}]}", members);
    return parse(document);
}

static int make_keys(void **state)
{
    (void)state;

    signer_rsa(&rsa, 2048, "rsa");
    signer_take(&rsa_3, EVP_RSA_gen(3072), "rsa-3");
    signer_ec(&ec, "P-256", "ec");
    signer_ec(&ec_384, "P-384", "ec-384");
    signer_ed(&ed, "ed");
    signer_ec(&other, "P-256", "ec");    /* the same kid, another key */
    snprintf(document, sizeof document, "{\"keys\":[{%s},{%s},{%s},{%s},{%s}]}", rsa.jwk, rsa_3.jwk, ec.jwk, ec_384.jwk, ed.jwk);
    all = parse(document);
    return 0;
}

static int free_keys(void **state)
{
    (void)state;

    jose_keys_destroy(&all);
    signer_wipe(&rsa);
    signer_wipe(&rsa_3);
    signer_wipe(&ec);
    signer_wipe(&ec_384);
    signer_wipe(&ed);
    signer_wipe(&other);
    return 0;
}

/* What becomes of a token's text with these keys and algorithms. */
static enum jose_reason judge(const char *token_text, struct jose_keys *keys, unsigned algorithms)
{
    struct jose_token token;
    enum jose_reason reason = jose_token_parse(token_text, strlen(token_text), &token);

    if (reason != JOSE_FINE)
        return reason;
    reason = jose_token_verify(&token, keys, algorithms, &no_rule, NULL);
    jose_token_wipe(&token);
    return reason;
}

static void assert_reason(enum jose_reason got, enum jose_reason wanted)
{
    if (got != wanted)
        fail_msg("%s instead of %s", jose_reason_text(got), jose_reason_text(wanted));
}

static void assert_parse(const char *token_text, enum jose_reason wanted)
{
    struct jose_token token;
    enum jose_reason reason = jose_token_parse(token_text, strlen(token_text), &token);

    if (reason == JOSE_FINE)
        jose_token_wipe(&token);
    if (reason != wanted)
        fail_msg("%.80s: %s instead of %s", token_text, jose_reason_text(reason), jose_reason_text(wanted));
}

/* A token with this header and a signature that is never looked at. */
static void assert_header(const char *header, enum jose_reason wanted)
{
    signer_input(header, "{}", text);
    signer_append(text, (const uint8_t *)"signature", 9);
    assert_parse(text, wanted);
}

static void assert_payload(const char *payload, enum jose_reason wanted)
{
    signer_input("{\"alg\":\"RS256\"}", payload, text);
    signer_append(text, (const uint8_t *)"signature", 9);
    assert_parse(text, wanted);
}

/* ---- the RFCs ---------------------------------------------------------------------------------------- */

#define RFC7515_PAYLOAD "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
#define RFC7520_PAYLOAD "SXTigJlzIGEgZGFuZ2Vyb3VzIGJ1c2luZXNzLCBGcm9kbywgZ29pbmcgb3V0IHlvdXIgZG9vci4gWW91IHN0ZXAgb250byB0aGUgcm9hZCwgYW5kIGlmIHlvdSBkb24ndCBrZWVwIHlvdXIgZmVldCwgdGhlcmXigJlzIG5vIGtub3dpbmcgd2hlcmUgeW91IG1pZ2h0IGJlIHN3ZXB0IG9mZiB0by4"
#define RFC7520_RSA "\"kty\":\"RSA\",\"kid\":\"bilbo.baggins@hobbiton.example\",\"use\":\"sig\",\"e\":\"AQAB\",\"n\":\"n4EPtAOCc9AlkeQHPzHStgAbgs7bTZLwUBZdR8_KuKPEHLd4rHVTeT-O-XV2jRojdNhxJWTDvNd7nqQ0VEiZQHz_AJmSCpMaJMRBSFKrKb2wqVwGU_NsYOYL-QtiWN2lbzcEe6XC0dApr5ydQLrHqkHHig3RBordaZ6Aj-oBHqFEHYpPe7Tpe-OfVfHd1E6cS6M1FZcD1NNLYD5lFHpPI9bTwJlsde3uhGqC0ZCuEHg8lhzwOHrtIQbS0FVbb9k3-tVTU4fg_3L_vniUFAKwuCLqKnS2BYwdq_mzSnbLY7h_qixoR7jig3__kRhuaxwUkRz5iaiQkqgc5gHdrNP5zw\""

static void the_signatures_of_rfc_7515_verify(void **state)
{
    static const struct { const char *key, *token; unsigned algorithm; } vectors[] = {
        { "\"kty\":\"RSA\",\"e\":\"AQAB\",\"n\":\"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ\"",
          "eyJhbGciOiJSUzI1NiJ9." RFC7515_PAYLOAD ".cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
          JOSE_BIT(RS256) },
        { "\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU\",\"y\":\"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0\"",
          "eyJhbGciOiJFUzI1NiJ9." RFC7515_PAYLOAD ".DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
          JOSE_BIT(ES256) },
    };
    (void)state;

    for (size_t i = 0; i < sizeof vectors / sizeof vectors[0]; i++) {
        struct jose_keys *keys = keys_of(vectors[i].key);

        assert_reason(judge(vectors[i].token, keys, JOSE_ALL), JOSE_FINE);
        assert_reason(judge(vectors[i].token, keys, JOSE_ALL & ~vectors[i].algorithm), JOSE_ALGORITHM);
        jose_keys_destroy(&keys);
    }
}

/* Their payloads are no claims, so only the signature is verified. */
static enum jose_reason judge_signature(const char *jwk, enum jose_algorithm algorithm, const char *token_text)
{
    const char *dot = strrchr(token_text, '.');
    struct jose_token token = { .text = token_text, .signed_size = (size_t)(dot - token_text), .algorithm = algorithm };
    struct jose_keys *keys = keys_of(jwk);

    assert_int_equal(base64url_decode(dot + 1, strlen(dot + 1), token.signature, sizeof token.signature, &token.signature_size), ERR_OK);
    enum jose_reason reason = jose_token_verify(&token, keys, JOSE_ALL, &no_rule, NULL);

    jose_keys_destroy(&keys);
    return reason;
}

static void the_signatures_of_rfc_7520_and_rfc_8037_verify(void **state)
{
    (void)state;

    assert_reason(judge_signature(RFC7520_RSA, JOSE_RS256, "eyJhbGciOiJSUzI1NiIsImtpZCI6ImJpbGJvLmJhZ2dpbnNAaG9iYml0b24uZXhhbXBsZSJ9." RFC7520_PAYLOAD
        ".MRjdkly7_-oTPTS3AXP41iQIGKa80A0ZmTuV5MEaHoxnW2e5CZ5NlKtainoFmKZopdHM1O2U4mwzJdQx996ivp83xuglII7PNDi84wnB-BDkoBwA78185hX-Es4JIwmDLJK3lfWRa-XtL0RnltuYv746iYTh_qHRD68BNt1uSNCrUCTJDt5aAE6x8wW1Kt9eRo4QPocSadnHXFxnt8Is9UzpERV0ePPQdLuW3IS_de3xyIrDaLGdjluPxUAhb6L2aXic1U12podGU0KLUQSE_oI-ZnmKJ3F4uOZDnd6QZWJushZ41Axf_fcIe8u9ipH84ogoree7vjbU5y18kDquDg"),
        JOSE_FINE);
    assert_reason(judge_signature(RFC7520_RSA, JOSE_PS384, "eyJhbGciOiJQUzM4NCIsImtpZCI6ImJpbGJvLmJhZ2dpbnNAaG9iYml0b24uZXhhbXBsZSJ9." RFC7520_PAYLOAD
        ".cu22eBqkYDKgIlTpzDXGvaFfz6WGoz7fUDcfT0kkOy42miAh2qyBzk1xEsnk2IpN6-tPid6VrklHkqsGqDqHCdP6O8TTB5dDDItllVo6_1OLPpcbUrhiUSMxbbXUvdvWXzg-UD8biiReQFlfz28zGWVsdiNAUf8ZnyPEgVFn442ZdNqiVJRmBqrYRXe8P_ijQ7p8Vdz0TTrxUeT3lm8d9shnr2lfJT8ImUjvAA2Xez2Mlp8cBE5awDzT0qI0n6uiP1aCN_2_jLAeQTlqRHtfa64QQSUmFAAjVKPbByi7xho0uTOcbH510a6GYmJUAfmWjwZ6oD4ifKo8DYM-X72Eaw"),
        JOSE_FINE);
    assert_reason(judge_signature("\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\"", JOSE_EDDSA,
        "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"),
        JOSE_FINE);
}

static void every_algorithm_verifies_what_openssl_signs(void **state)
{
    static const struct { enum jose_algorithm algorithm; const struct signer *signer; } cases[] = {
        { JOSE_RS256, &rsa }, { JOSE_RS384, &rsa }, { JOSE_RS512, &rsa }, { JOSE_PS256, &rsa }, { JOSE_PS384, &rsa }, { JOSE_PS512, &rsa },
        { JOSE_RS256, &rsa_3 }, { JOSE_PS512, &rsa_3 }, { JOSE_ES256, &ec }, { JOSE_ES384, &ec_384 }, { JOSE_EDDSA, &ed }, { JOSE_ED25519, &ed },
    };
    char header[100];
    (void)state;

    for (int again = 0; again < 2; again++) {    /* contexts are used again */
        for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
            snprintf(header, sizeof header, "{\"alg\":\"%s\",\"kid\":\"%s\"}", jose_algorithm_text(cases[i].algorithm), cases[i].signer->kid);
            signer_token(cases[i].signer, cases[i].algorithm, header, "{\"iss\":\"i\"}", text);
            assert_reason(judge(text, all, 1u << cases[i].algorithm), JOSE_FINE);
            text[40] = text[40] == 'A' ? 'B' : 'A';
            assert_true(judge(text, all, JOSE_ALL) != JOSE_FINE);
        }
    }
}

/* ---- headers ----------------------------------------------------------------------------------------- */

static void j01_to_j05_no_signature_is_no_token(void **state)
{
    (void)state;

    assert_header("{\"alg\":\"none\"}", JOSE_ALGORITHM_UNKNOWN);
    assert_header("{\"alg\":\"None\"}", JOSE_ALGORITHM_UNKNOWN);
    assert_header("{\"alg\":\"NONE\"}", JOSE_ALGORITHM_UNKNOWN);
    assert_header("{\"alg\":\"\"}", JOSE_ALGORITHM_UNKNOWN);
    assert_header("{}", JOSE_ALGORITHM_UNKNOWN);
    assert_header("{\"alg\":[\"RS256\"]}", JOSE_ALGORITHM_UNKNOWN);
    assert_header("{\"alg\":\"rs256\"}", JOSE_ALGORITHM_UNKNOWN);
    assert_header("{\"alg\":\"RS256 \"}", JOSE_ALGORITHM_UNKNOWN);
    signer_input("{\"alg\":\"RS256\"}", "{}", text);
    assert_parse(text, JOSE_OPAQUE);
    strcat(text, ".");
    assert_parse(text, JOSE_SHAPE);
}

static void j06_and_j07_symmetric_algorithms_do_not_exist(void **state)
{
    (void)state;

    assert_header("{\"alg\":\"HS256\",\"kid\":\"rsa\"}", JOSE_ALGORITHM_UNKNOWN);
    assert_header("{\"alg\":\"HS512\",\"kid\":\"ed\"}", JOSE_ALGORITHM_UNKNOWN);
    for (unsigned i = 0; i < JOSE_ALGORITHM_COUNT; i++)
        assert_true(strncmp(jose_algorithm_text((enum jose_algorithm)i), "HS", 2) != 0);
}

static void j08_a_key_of_another_kind_is_not_touched(void **state)
{
    static const struct { const char *header; enum jose_algorithm algorithm; const struct signer *signer; } cases[] = {
        { "{\"alg\":\"RS256\",\"kid\":\"ec\"}", JOSE_RS256, &rsa },
        { "{\"alg\":\"ES256\",\"kid\":\"ec-384\"}", JOSE_ES256, &ec },
        { "{\"alg\":\"ES384\",\"kid\":\"ec\"}", JOSE_ES384, &ec_384 },
        { "{\"alg\":\"ES256\",\"kid\":\"rsa\"}", JOSE_ES256, &ec },
        { "{\"alg\":\"EdDSA\",\"kid\":\"ec\"}", JOSE_EDDSA, &ed },
    };
    (void)state;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        signer_token(cases[i].signer, cases[i].algorithm, cases[i].header, "{}", text);
        assert_reason(judge(text, all, JOSE_ALL), JOSE_KEY_MISMATCH);
    }
    signer_token(&rsa, JOSE_PS256, "{\"alg\":\"PS256\",\"kid\":\"rsa\"}", "{}", text);
    assert_reason(judge(text, all, JOSE_BIT(RS256)), JOSE_ALGORITHM);
    signer_token(&rsa, JOSE_PS256, "{\"alg\":\"RS256\",\"kid\":\"rsa\"}", "{}", text);
    assert_reason(judge(text, all, JOSE_ALL), JOSE_SIGNATURE);
    signer_token(&rsa, JOSE_RS256, "{\"alg\":\"RS512\",\"kid\":\"rsa\"}", "{}", text);
    assert_reason(judge(text, all, JOSE_ALL), JOSE_SIGNATURE);
}

static void a_key_bound_to_its_alg_verifies_no_other(void **state)
{
    char members[4200];
    (void)state;

    snprintf(members, sizeof members, "%s,\"alg\":\"PS256\"", rsa.jwk);
    struct jose_keys *keys = keys_of(members);

    signer_token(&rsa, JOSE_RS256, "{\"alg\":\"RS256\",\"kid\":\"rsa\"}", "{}", text);
    assert_reason(judge(text, keys, JOSE_ALL), JOSE_KEY_MISMATCH);
    signer_token(&rsa, JOSE_PS256, "{\"alg\":\"PS256\",\"kid\":\"rsa\"}", "{}", text);
    assert_reason(judge(text, keys, JOSE_ALL), JOSE_FINE);
    jose_keys_destroy(&keys);
}

/* ---- signatures -------------------------------------------------------------------------------------- */

static const uint8_t order_p256[32] = {
    0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    0xbc, 0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
};

static enum jose_reason judge_ec(const uint8_t *signature, size_t size)
{
    signer_input("{\"alg\":\"ES256\",\"kid\":\"ec\"}", "{}", text);
    signer_append(text, signature, size);
    return judge(text, all, JOSE_ALL);
}

static void j09_ecdsa_signatures_out_of_range_are_refused(void **state)
{
    uint8_t good[JOSE_SIGNATURE_MAX], bad[80] = { 0 };
    size_t length = signer_input("{\"alg\":\"ES256\",\"kid\":\"ec\"}", "{}", text);
    (void)state;

    assert_int_equal(signer_sign(&ec, JOSE_ES256, text, length, good), 64);
    assert_reason(judge_ec(good, 64), JOSE_FINE);
    assert_reason(judge_ec(bad, 64), JOSE_SIGNATURE);               /* all zero: CVE-2022-21449 */
    memcpy(bad + 32, good + 32, 32);
    assert_reason(judge_ec(bad, 64), JOSE_SIGNATURE);               /* r = 0 */
    memcpy(bad, order_p256, 32);
    assert_reason(judge_ec(bad, 64), JOSE_SIGNATURE);               /* r = n */
    memcpy(bad, good, 32);
    memset(bad + 32, 0, 32);
    assert_reason(judge_ec(bad, 64), JOSE_SIGNATURE);               /* s = 0 */
    memcpy(bad + 32, order_p256, 32);
    assert_reason(judge_ec(bad, 64), JOSE_SIGNATURE);               /* s = n */
    assert_reason(judge_ec(good, 63), JOSE_SIGNATURE);
    memcpy(bad, good, 64);
    bad[64] = 0;
    assert_reason(judge_ec(bad, 65), JOSE_SIGNATURE);
    memset(bad, 0, sizeof bad);
    memcpy(bad + 1, good, 32);
    memcpy(bad + 34, good + 32, 32);
    assert_reason(judge_ec(bad, 66), JOSE_SIGNATURE);               /* each half with a zero in front */
}

static void j09_der_is_no_jws_signature(void **state)
{
    uint8_t der[200];
    size_t size = sizeof der, length = signer_input("{\"alg\":\"ES256\",\"kid\":\"ec\"}", "{}", text);
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    (void)state;

    assert_int_equal(EVP_DigestSignInit_ex(context, NULL, "SHA2-256", NULL, NULL, ec.key, NULL), 1);
    assert_int_equal(EVP_DigestSign(context, der, &size, (const uint8_t *)text, length), 1);
    EVP_MD_CTX_free(context);
    assert_reason(judge_ec(der, size), JOSE_SIGNATURE);
}

/* Whoever counts or caches tokens must not take the signature for an identity. */
static void j10_a_malleated_ecdsa_signature_verifies_over_the_same_bytes(void **state)
{
    uint8_t signature[JOSE_SIGNATURE_MAX];
    size_t length = signer_input("{\"alg\":\"ES256\",\"kid\":\"ec\"}", "{}", text);
    BIGNUM *n = BN_bin2bn(order_p256, 32, NULL);
    (void)state;

    signer_sign(&ec, JOSE_ES256, text, length, signature);
    BIGNUM *s = BN_bin2bn(signature + 32, 32, NULL);

    assert_int_equal(BN_sub(s, n, s), 1);
    BN_bn2binpad(s, signature + 32, 32);
    assert_reason(judge_ec(signature, 64), JOSE_FINE);
    BN_free(n);
    BN_free(s);
}

static void j11_weak_ed25519_keys_are_skipped(void **state)
{
    static const char *const points[] = {
        "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",    /* the identity */
        "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAIA",    /* with the sign bit */
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",    /* order 4 */
        "7P_______________________________________38",    /* order 2 */
        "7f_______________________________________38",    /* y = p: not canonical */
        "7v_______________________________________38",    /* y = p + 1 */
        "_________________________________________38",    /* y = 2^255 - 1 */
        "JuiVj8KyJ7BFw_SJ8u-Y8NXfrAXTxjM5sTgCiG1T_AU",    /* order 8 */
        "JuiVj8KyJ7BFw_SJ8u-Y8NXfrAXTxjM5sTgCiG1T_IU",
        "xxdqcD1N2E-6PAt2DRBnDyogU_osOczGTsf9d5KsA3o",
        "xxdqcD1N2E-6PAt2DRBnDyogU_osOczGTsf9d5KsA_o",
    };
    char members[200];
    (void)state;

    for (size_t i = 0; i < sizeof points / sizeof points[0]; i++) {
        snprintf(members, sizeof members, "\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"kid\":\"a\",\"x\":\"%s\"", points[i]);
        struct jose_keys *keys = keys_of(members);

        if (jose_keys_count(keys) != 0)
            fail_msg("%s is taken", points[i]);
        jose_keys_destroy(&keys);
    }
}

static void j11_an_ed25519_signature_beyond_the_order_is_refused(void **state)
{
    static const uint8_t order[32] = {    /* L, little-endian (RFC 8032 5.1) */
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, [31] = 0x10
    };
    uint8_t signature[JOSE_SIGNATURE_MAX];
    size_t length = signer_input("{\"alg\":\"EdDSA\",\"kid\":\"ed\"}", "{}", text);
    unsigned carry = 0;
    (void)state;

    assert_int_equal(signer_sign(&ed, JOSE_EDDSA, text, length, signature), 64);
    for (size_t i = 0; i < 32; i++) {    /* S + L: the same to those who do not look */
        carry += signature[32 + i] + (unsigned)order[i];
        signature[32 + i] = (uint8_t)carry;
        carry >>= 8;
    }
    signer_append(text, signature, 64);
    assert_reason(judge(text, all, JOSE_ALL), JOSE_SIGNATURE);
}

/* Raises `block` to a signature with the raw private key, whatever the padding is. */
static void sign_raw(const struct signer *signer, const uint8_t *block, size_t size, uint8_t *signature)
{
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new(signer->key, NULL);
    size_t length = size;

    assert_true(EVP_PKEY_sign_init(context) > 0 && EVP_PKEY_CTX_set_rsa_padding(context, RSA_NO_PADDING) > 0);
    assert_int_equal(EVP_PKEY_sign(context, signature, &length, block, size), 1);
    EVP_PKEY_CTX_free(context);
}

static void j12_rsa_paddings_that_sloppy_readers_take_are_refused(void **state)
{
    static const uint8_t sha256_info[] = { 0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20 };
    uint8_t block[256], signature[256], digest[32];
    (void)state;

    for (int variant = 0; variant < 4; variant++) {
        size_t length = signer_input("{\"alg\":\"RS256\",\"kid\":\"rsa\"}", "{}", text);
        const size_t tail = variant == 1 ? 60 : 0;    /* rubbish behind the hash: Bleichenbacher 2006 */
        const size_t at = sizeof block - tail - sizeof sha256_info - sizeof digest;

        memset(block, 0xff, sizeof block);
        digest_sha256(text, length, digest);
        block[0] = 0;
        block[1] = variant == 2 ? 2 : 1;              /* the block type of encryption */
        block[at - 1] = 0;
        memcpy(block + at, sha256_info, sizeof sha256_info);
        if (variant == 3)
            block[at + 14] = 2;                       /* SHA-384's name over a SHA-256 hash */
        memcpy(block + at + sizeof sha256_info, digest, sizeof digest);
        memset(block + sizeof block - tail, 0x41, tail);
        sign_raw(&rsa, block, sizeof block, signature);
        signer_append(text, signature, sizeof signature);
        assert_reason(judge(text, all, JOSE_ALL), variant == 0 ? JOSE_FINE : JOSE_SIGNATURE);
    }
}

static void j13_and_j14_a_token_that_brings_its_key_is_refused(void **state)
{
    (void)state;

    assert_header("{\"alg\":\"RS256\",\"jwk\":{\"kty\":\"RSA\"}}", JOSE_EMBEDDED_KEY);
    assert_header("{\"alg\":\"RS256\",\"jku\":\"https://evil.example/jwks\"}", JOSE_EMBEDDED_KEY);
    assert_header("{\"alg\":\"RS256\",\"jku\":\"file:///etc/passwd\"}", JOSE_EMBEDDED_KEY);
    assert_header("{\"alg\":\"RS256\",\"x5u\":\"http://169.254.169.254/\"}", JOSE_EMBEDDED_KEY);
    assert_header("{\"alg\":\"RS256\",\"x5c\":[\"MIIB\"]}", JOSE_EMBEDDED_KEY);
    assert_header("{\"alg\":\"RS256\",\"x5t\":\"thumb\"}", JOSE_FINE);    /* Entra's v1 tokens have it; it names, it does not bring */
}

static void j15_strange_key_ids_find_nothing(void **state)
{
    static const char *const kids[] = { "../../dev/null", "' OR 1=1--", "%n%n%n%n", "", "RSA", "rsa ", "rs" };
    char header[600], long_kid[258];
    (void)state;

    for (size_t i = 0; i < sizeof kids / sizeof kids[0]; i++) {
        snprintf(header, sizeof header, "{\"alg\":\"RS256\",\"kid\":\"%s\"}", kids[i]);
        signer_token(&rsa, JOSE_RS256, header, "{}", text);
        assert_reason(judge(text, all, JOSE_ALL), JOSE_KEY_UNKNOWN);
    }
    assert_header("{\"alg\":\"RS256\",\"kid\":\"rsa\\u0000\"}", JOSE_HEADER);
    assert_header("{\"alg\":\"RS256\",\"kid\":5}", JOSE_KEY_ID);
    assert_header("{\"alg\":\"RS256\",\"kid\":null}", JOSE_KEY_ID);
    memset(long_kid, 'k', sizeof long_kid - 1);
    long_kid[257] = '\0';
    snprintf(header, sizeof header, "{\"alg\":\"RS256\",\"kid\":\"%s\"}", long_kid);
    assert_header(header, JOSE_KEY_ID);
}

static void j15_without_a_key_id_one_key_must_fit(void **state)
{
    struct jose_keys *one = keys_of(ec.jwk);
    (void)state;

    signer_token(&rsa, JOSE_RS256, "{\"alg\":\"RS256\"}", "{}", text);
    assert_reason(judge(text, all, JOSE_ALL), JOSE_KEY_ID_MISSING);    /* two RSA keys */
    assert_reason(judge(text, one, JOSE_ALL), JOSE_KEY_ID_MISSING);    /* none */
    signer_token(&ec, JOSE_ES256, "{\"alg\":\"ES256\"}", "{}", text);
    assert_reason(judge(text, all, JOSE_ALL), JOSE_FINE);
    assert_reason(judge(text, one, JOSE_ALL), JOSE_FINE);
    jose_keys_destroy(&one);
}

static void j16_extensions_are_refused(void **state)
{
    (void)state;

    assert_header("{\"alg\":\"RS256\",\"crit\":[\"exp\"]}", JOSE_CRITICAL);
    assert_header("{\"alg\":\"RS256\",\"crit\":[]}", JOSE_CRITICAL);
    assert_header("{\"alg\":\"RS256\",\"crit\":\"x\"}", JOSE_CRITICAL);
    assert_header("{\"alg\":\"RS256\",\"crit\":null}", JOSE_CRITICAL);
    assert_header("{\"alg\":\"RS256\",\"crit\":[\"b64\"],\"b64\":false}", JOSE_CRITICAL);
    assert_header("{\"alg\":\"RS256\",\"b64\":false}", JOSE_HEADER_MEMBER);
    assert_header("{\"alg\":\"RS256\",\"b64\":true}", JOSE_HEADER_MEMBER);
}

static void j17_no_name_may_stand_twice(void **state)
{
    (void)state;

    assert_header("{\"alg\":\"RS256\",\"alg\":\"none\"}", JOSE_HEADER);
    assert_header("{\"alg\":\"RS256\",\"\\u0061lg\":\"none\"}", JOSE_HEADER);
    assert_header("{\"alg\":\"RS256\",\"kid\":\"a\",\"kid\":\"b\"}", JOSE_HEADER);
    assert_payload("{\"iss\":\"a\",\"iss\":\"b\"}", JOSE_PAYLOAD);
    assert_payload("{\"aud\":\"a\",\"\\u0061ud\":\"b\"}", JOSE_PAYLOAD);
    assert_payload("{\"exp\":1,\"exp\":9999999999}", JOSE_PAYLOAD);
    assert_payload("{\"scope\":\"a\",\"scope\":\"b\"}", JOSE_PAYLOAD);
    assert_payload("{\"a\":{\"b\":1,\"b\":2}}", JOSE_PAYLOAD);
}

static void j23_other_serializations_are_refused(void **state)
{
    (void)state;

    assert_parse("eyJhbGciOiJSU0EtT0FFUCJ9.a.b.c.d", JOSE_ENCRYPTED);
    assert_parse("eyJhbGciOiJSUzI1NiJ9.e30.c2ln.x", JOSE_SHAPE);
    assert_parse("a.b.c.d.e.f", JOSE_SHAPE);
    assert_parse("..", JOSE_SHAPE);
    assert_parse("a..b", JOSE_SHAPE);
    assert_parse(".e30.b", JOSE_SHAPE);
    assert_parse("", JOSE_OPAQUE);
    assert_parse("{\"payload\":\"e30\",\"signatures\":[]}", JOSE_OPAQUE);
    assert_header("{\"alg\":\"RS256\",\"enc\":\"A256GCM\"}", JOSE_ENCRYPTED);
    assert_header("{\"alg\":\"RS256\",\"zip\":\"DEF\"}", JOSE_HEADER_MEMBER);
    assert_header("{\"alg\":\"RS256\",\"cty\":\"JWT\"}", JOSE_HEADER_MEMBER);
    assert_header("{\"alg\":\"RS256\",\"cty\":\"jwt\"}", JOSE_HEADER_MEMBER);
    assert_header("{\"alg\":\"RS256\",\"typ\":5}", JOSE_HEADER);
}

static void j24_base64url_is_canonical(void **state)
{
    static const struct { const char *token; enum jose_reason reason; } cases[] = {
        { "eyJhbGciOiJSUzI1NiJ9=.e30.c2ln", JOSE_ENCODING },     /* padding */
        { "eyJhbGciOiJSUzI1NiJ9.e30=.c2ln", JOSE_ENCODING },
        { "eyJhbGciOiJSUzI1NiJ9.e30.c2ln==", JOSE_ENCODING },
        { "eyJhbGciOiJSUzI1NiJ9.e30.c2 ln", JOSE_ENCODING },
        { "eyJhbGciOiJSUzI1NiJ9\n.e30.c2ln", JOSE_ENCODING },
        { "eyJhbGciOiJSUzI1NiJ9.e31.c2ln", JOSE_ENCODING },      /* tail bits of `}` */
        { "eyJhbGciOiJSUzI1NiJ9.e30.c2lnZh", JOSE_ENCODING },
        { "eyJhbGciOiJSUzI1NiJ9.e30.c2ln+", JOSE_ENCODING },
        { "eyJhbGciOiJSUzI1NiJ9.e30.c2l/", JOSE_ENCODING },
        { "eyJhbGciOiJSUzI1NiJ9.e30.c", JOSE_ENCODING },         /* one letter is no byte */
    };
    (void)state;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_parse(cases[i].token, cases[i].reason);
}

static void j24_json_is_strict_and_bounded(void **state)
{
    static char deep[10001];
    (void)state;

    assert_payload("[]", JOSE_PAYLOAD);
    assert_payload("\"text\"", JOSE_PAYLOAD);
    assert_payload("5", JOSE_PAYLOAD);
    assert_payload("{}x", JOSE_PAYLOAD);
    assert_payload("{} {}", JOSE_PAYLOAD);
    assert_payload("{'a':1}", JOSE_PAYLOAD);
    assert_payload("{\"a\":1,}", JOSE_PAYLOAD);
    assert_payload("{\"a\":\"\xc3\x28\"}", JOSE_PAYLOAD);          /* no UTF-8 */
    assert_payload("{\"a\":\"\xed\xa0\x80\"}", JOSE_PAYLOAD);      /* a surrogate */
    assert_payload("\xef\xbb\xbf{}", JOSE_PAYLOAD);                /* a byte order mark */
    assert_payload("{\"exp\":1e400}", JOSE_PAYLOAD);
    assert_payload("{\"exp\":99999999999999999999}", JOSE_PAYLOAD);
    assert_payload("{\"sub\":\"a\\u0000b\"}", JOSE_PAYLOAD);
    memset(deep, '[', sizeof deep - 1);
    assert_payload(deep, JOSE_PAYLOAD);
    memset(text, 'a', 16385);
    text[5] = text[9] = '.';
    text[16385] = '\0';
    assert_parse(text, JOSE_TOO_LARGE);
}

static void the_largest_token_is_read(void **state)
{
    static char payload[12000];
    char *at = payload;
    (void)state;

    at += sprintf(at, "{\"iss\":\"i\",\"groups\":[\"0\"");
    while (at < payload + 11800)
        at += sprintf(at, ",\"7f0c2b3e-1111-2222-3333-444455556666\"");
    strcpy(at, "]}");
    signer_token(&rsa, JOSE_RS256, "{\"alg\":\"RS256\",\"kid\":\"rsa\"}", payload, text);
    assert_true(strlen(text) > 16000 && strlen(text) <= JOSE_TOKEN_MAX);
    assert_reason(judge(text, all, JOSE_ALL), JOSE_FINE);
}

/* ---- key sets ---------------------------------------------------------------------------------------- */

static void assert_set_refused(const char *set, enum err wanted, const char *words)
{
    struct jose_keys *keys = NULL;
    char why[200] = "";

    assert_int_equal(jose_keys_parse(set, strlen(set), &keys, why, sizeof why), wanted);
    assert_null(keys);
    if (strstr(why, words) == NULL)
        fail_msg("\"%s\" lacks \"%s\"", why, words);
}

static void j26_what_is_no_key_set_is_refused(void **state)
{
    (void)state;

    assert_set_refused("<html>not found</html>", ERR_MALFORMED, "not JSON");
    assert_set_refused("", ERR_MALFORMED, "not JSON");
    assert_set_refused("{}", ERR_MALFORMED, "`keys`");
    assert_set_refused("[]", ERR_MALFORMED, "`keys`");
    assert_set_refused("{\"keys\":{}}", ERR_MALFORMED, "`keys`");
    assert_set_refused("{\"keys\":[],\"keys\":[]}", ERR_MALFORMED, "twice");
    assert_set_refused("{\"keys\":[{\"kty\":\"RSA\",\"kty\":\"EC\"}]}", ERR_MALFORMED, "twice");
    memset(document, ' ', JOSE_SET_MAX + 1);
    memcpy(document, "{\"keys\":[]}", 11);
    document[JOSE_SET_MAX + 1] = '\0';
    assert_set_refused(document, ERR_TOO_LARGE, "262144");
}

static void j26_a_bad_key_is_skipped_with_its_reason_and_spoils_no_other(void **state)
{
    static const struct { const char *members, *words; } cases[] = {
        { "\"kty\":\"oct\",\"k\":\"c2VjcmV0\",\"kid\":\"x\"", "secret parts" },
        { "\"kty\":\"oct\",\"kid\":\"x\"", "`kty`" },
        { "\"kty\":\"LMS\"", "`kty`" },
        { "\"kid\":\"x\"", "`kty`" },
        { "\"kty\":5", "`kty`" },
        { "\"kty\":\"EC\",\"crv\":\"P-521\",\"x\":\"AA\",\"y\":\"AA\"", "curve" },
        { "\"kty\":\"EC\",\"crv\":\"secp256k1\",\"x\":\"AA\",\"y\":\"AA\"", "curve" },
        { "\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU\",\"y\":\"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a1\"", "base64url" },
        { "\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU\",\"y\":\"y_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0\"", "curve" },
        { "\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\",\"y\":\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\"", "curve" },
        { "\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"gwsXwk0\",\"y\":\"gwsXwk0\"", "as many bytes" },
        { "\"kty\":\"OKP\",\"crv\":\"X25519\",\"x\":\"3p7bfXt9wbTTW2HC7OQ1Nz-DQ8hbeGdNrfx-FG-IK08\"", "Ed25519" },
        { "\"kty\":\"OKP\",\"crv\":\"Ed448\",\"x\":\"AAAA\"", "Ed25519" },
        { "\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHUQ\"", "32 bytes" },
        { "\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\",\"d\":\"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A\"", "secret parts" },
        { "\"kty\":\"RSA\",\"n\":\"AQAB\",\"e\":\"AQAB\"", "2048" },
        { "\"kty\":\"RSA\",\"e\":\"AQAB\"", "`n` and `e`" },
        { "\"kty\":\"RSA\",\"n\":\"AQAB=\",\"e\":\"AQAB\"", "`n` and `e`" },
        { RFC7520_RSA ",\"key_ops\":[\"encrypt\"]", "key_ops" },
        { RFC7520_RSA ",\"key_ops\":[]", "key_ops" },
        { RFC7520_RSA ",\"alg\":\"RSA-OAEP\"", "`alg`" },
        { RFC7520_RSA ",\"alg\":\"ES256\"", "`alg` does not fit" },
        { RFC7520_RSA ",\"alg\":\"HS256\"", "`alg`" },
        { RFC7520_RSA ",\"alg\":7", "`alg`" },
        { "\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\",\"use\":\"enc\"", "`use`" },
        { "\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\",\"kid\":5", "`kid`" },
        { "\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\",\"issuer\":5", "`issuer`" },
    };
    (void)state;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        snprintf(document, sizeof document, "{\"keys\":[{%s},{%s}]}", cases[i].members, ec.jwk);
        struct jose_keys *keys = parse(document);

        if (jose_keys_count(keys) != 1 || jose_keys_skipped(keys) != 1 || strstr(jose_keys_skip_reason(keys, 0), cases[i].words) == NULL)
            fail_msg("%s: %zu usable, \"%s\" lacks \"%s\"", cases[i].members, jose_keys_count(keys), jose_keys_skip_reason(keys, 0), cases[i].words);
        jose_keys_destroy(&keys);
    }
}

static void rsa_keys_of_odd_sizes_and_exponents_are_skipped(void **state)
{
    static const struct { unsigned bits, exponent; size_t count; } cases[] = {
        { 1024, 65537, 0 }, { 2040, 65537, 0 }, { 2048, 3, 1 }, { 2048, 65537, 1 }, { 2048, 1, 0 }, { 2048, 2, 0 },
    };
    (void)state;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint8_t modulus[256], exponent[3] = { (uint8_t)(cases[i].exponent >> 16), (uint8_t)(cases[i].exponent >> 8), (uint8_t)cases[i].exponent };
        char n[400], e[8], members[600];

        memset(modulus, 0xff, sizeof modulus);    /* any odd number will do: no signature is asked for */
        base64url_encode(modulus, cases[i].bits / 8, n);
        base64url_encode(exponent, 3, e);
        snprintf(members, sizeof members, "\"kty\":\"RSA\",\"n\":\"%s\",\"e\":\"%s\"", n, e);
        struct jose_keys *keys = keys_of(members);

        if (jose_keys_count(keys) != cases[i].count)
            fail_msg("%u bits, e %u: %s", cases[i].bits, cases[i].exponent, jose_keys_skip_reason(keys, 0));
        jose_keys_destroy(&keys);
    }
}

static void j26_of_keys_with_one_kid_each_is_tried(void **state)
{
    (void)state;

    snprintf(document, sizeof document, "{\"keys\":[{%s},{%s}]}", other.jwk, ec.jwk);
    struct jose_keys *keys = parse(document);

    assert_int_equal(jose_keys_count(keys), 2);
    signer_token(&ec, JOSE_ES256, "{\"alg\":\"ES256\",\"kid\":\"ec\"}", "{}", text);
    assert_reason(judge(text, keys, JOSE_ALL), JOSE_FINE);
    jose_keys_destroy(&keys);
}

static void keys_beyond_the_64th_are_skipped(void **state)
{
    char *at = document;
    (void)state;

    at += sprintf(at, "{\"keys\":[");
    for (unsigned i = 0; i < 70; i++)
        at += sprintf(at, "%s{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"kid\":\"k%u\",\"x\":\"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\"}", i > 0 ? "," : "", i);
    strcpy(at, "]}");
    struct jose_keys *keys = parse(document);

    assert_int_equal(jose_keys_count(keys), JOSE_KEYS_MAX);
    assert_int_equal(jose_keys_skipped(keys), 6);
    assert_true(jose_keys_has_kid(keys, "k63", 3));
    assert_false(jose_keys_has_kid(keys, "k64", 3));
    assert_string_equal(jose_keys_skip_reason(keys, 99), "");
    jose_keys_destroy(&keys);
}

static void an_empty_set_knows_no_key(void **state)
{
    struct jose_keys *keys = parse("{\"keys\":[]}");
    (void)state;

    signer_token(&rsa, JOSE_RS256, "{\"alg\":\"RS256\",\"kid\":\"rsa\"}", "{}", text);
    assert_reason(judge(text, keys, JOSE_ALL), JOSE_KEY_UNKNOWN);
    jose_keys_destroy(&keys);
    jose_keys_destroy(&keys);
}

static void a_skipped_keys_name_is_made_printable(void **state)
{
    struct jose_keys *keys = keys_of("\"kty\":\"x\",\"kid\":\"a\\nb\\u001b[31m\"");
    (void)state;

    assert_non_null(strstr(jose_keys_skip_reason(keys, 0), "(kid a?b?[31m)"));
    jose_keys_destroy(&keys);
}

/* ---- claims and tables ------------------------------------------------------------------------------- */

static void times_are_numbers_of_seconds(void **state)
{
    static const struct { const char *json; enum err err; int64_t time_s; } cases[] = {
        { "{\"t\":0}", ERR_OK, 0 }, { "{\"t\":1700000000}", ERR_OK, 1700000000 }, { "{\"t\":1700000000.9}", ERR_OK, 1700000000 },
        { "{\"t\":253402300799}", ERR_OK, 253402300799 }, { "{\"t\":253402300800}", ERR_MALFORMED, 0 }, { "{\"t\":1e300}", ERR_MALFORMED, 0 },
        { "{\"t\":-1}", ERR_MALFORMED, 0 }, { "{\"t\":\"9999999999\"}", ERR_MALFORMED, 0 }, { "{\"t\":null}", ERR_MALFORMED, 0 },
        { "{\"t\":true}", ERR_MALFORMED, 0 }, { "{\"t\":[1]}", ERR_MALFORMED, 0 }, { "{}", ERR_NOT_FOUND, 0 },
    };
    (void)state;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        json_t *claims = json_loads(cases[i].json, 0, NULL);
        int64_t time_s = 0;

        assert_int_equal(jose_claim_time(claims, "t", &time_s), cases[i].err);
        assert_int_equal(time_s, cases[i].time_s);
        json_decref(claims);
    }
}

static void a_dotted_claim_is_a_path_unless_it_is_a_name(void **state)
{
    json_t *claims = json_loads("{\"a.b\":1,\"a\":{\"b\":2,\"c\":{\"d\":3}},\"x\":[1],\"https://e.example/roles\":4}", 0, NULL);
    (void)state;

    assert_int_equal(json_integer_value(jose_claim(claims, "a.b")), 1);
    assert_int_equal(json_integer_value(jose_claim(claims, "a.c.d")), 3);
    assert_int_equal(json_integer_value(jose_claim(claims, "https://e.example/roles")), 4);
    assert_null(jose_claim(claims, "a.x"));
    assert_null(jose_claim(claims, "x.0"));
    assert_null(jose_claim(claims, "a..d"));
    assert_null(jose_claim(claims, "."));
    assert_null(jose_claim(claims, "a.c.d.e"));
    json_decref(claims);
}

static void meanings_can_stand_in_a_challenge(void **state)
{
    (void)state;

    for (unsigned i = 0; i < JOSE_REASON_COUNT; i++) {
        const enum jose_reason reason = (enum jose_reason)i;

        assert_null(strpbrk(jose_reason_meaning(reason), "\"=\\"));
        assert_true(jose_reason_meaning(reason)[0] != '\0');
        assert_true(i == JOSE_FINE || i == JOSE_NO_MEMORY || jose_reason_remedy(reason)[0] != '\0');
        assert_true((i == JOSE_FINE) == (jose_reason_error(reason) == ERR_OK));
        for (unsigned j = 0; j < i; j++)
            assert_string_not_equal(jose_reason_text(reason), jose_reason_text((enum jose_reason)j));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_signatures_of_rfc_7515_verify),
        cmocka_unit_test(the_signatures_of_rfc_7520_and_rfc_8037_verify),
        cmocka_unit_test(every_algorithm_verifies_what_openssl_signs),
        cmocka_unit_test(j01_to_j05_no_signature_is_no_token),
        cmocka_unit_test(j06_and_j07_symmetric_algorithms_do_not_exist),
        cmocka_unit_test(j08_a_key_of_another_kind_is_not_touched),
        cmocka_unit_test(a_key_bound_to_its_alg_verifies_no_other),
        cmocka_unit_test(j09_ecdsa_signatures_out_of_range_are_refused),
        cmocka_unit_test(j09_der_is_no_jws_signature),
        cmocka_unit_test(j10_a_malleated_ecdsa_signature_verifies_over_the_same_bytes),
        cmocka_unit_test(j11_weak_ed25519_keys_are_skipped),
        cmocka_unit_test(j11_an_ed25519_signature_beyond_the_order_is_refused),
        cmocka_unit_test(j12_rsa_paddings_that_sloppy_readers_take_are_refused),
        cmocka_unit_test(j13_and_j14_a_token_that_brings_its_key_is_refused),
        cmocka_unit_test(j15_strange_key_ids_find_nothing),
        cmocka_unit_test(j15_without_a_key_id_one_key_must_fit),
        cmocka_unit_test(j16_extensions_are_refused),
        cmocka_unit_test(j17_no_name_may_stand_twice),
        cmocka_unit_test(j23_other_serializations_are_refused),
        cmocka_unit_test(j24_base64url_is_canonical),
        cmocka_unit_test(j24_json_is_strict_and_bounded),
        cmocka_unit_test(the_largest_token_is_read),
        cmocka_unit_test(j26_what_is_no_key_set_is_refused),
        cmocka_unit_test(j26_a_bad_key_is_skipped_with_its_reason_and_spoils_no_other),
        cmocka_unit_test(rsa_keys_of_odd_sizes_and_exponents_are_skipped),
        cmocka_unit_test(j26_of_keys_with_one_kid_each_is_tried),
        cmocka_unit_test(keys_beyond_the_64th_are_skipped),
        cmocka_unit_test(an_empty_set_knows_no_key),
        cmocka_unit_test(a_skipped_keys_name_is_made_printable),
        cmocka_unit_test(times_are_numbers_of_seconds),
        cmocka_unit_test(a_dotted_claim_is_a_path_unless_it_is_a_name),
        cmocka_unit_test(meanings_can_stand_in_a_challenge),
    };

    return cmocka_run_group_tests_name("jose", tests, make_keys, free_keys);
}
