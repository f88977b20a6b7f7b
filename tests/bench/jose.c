/* jose.c - verifications per second on one core: a whole token by us, by cjose, and the bare signature by EVP; in turns, in one run. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include <cjose/cjose.h>

#include "tests/unit/signer.h"

#define ROUNDS 6

static char text[4096];
static const struct jose_key_rule no_rule;

struct contest {
    const struct signer *signer;
    enum jose_algorithm algorithm;
    struct jose_keys *keys;
    cjose_jwk_t *jwk;
    const char *digest;
};

static double now_s(void)
{
    struct timespec now;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static bool by_us(const struct contest *contest)
{
    struct jose_token token;
    bool is_good = jose_token_parse(text, strlen(text), &token) == JOSE_FINE
        && jose_token_verify(&token, contest->keys, 1u << contest->algorithm, &no_rule, NULL) == JOSE_FINE;

    jose_token_wipe(&token);
    return is_good;
}

static bool by_cjose(const struct contest *contest)
{
    cjose_err error;
    cjose_jws_t *jws = cjose_jws_import(text, strlen(text), &error);
    bool is_good = jws != NULL && cjose_jws_verify(jws, contest->jwk, &error);

    cjose_jws_release(jws);
    return is_good;
}

/* The signature alone, as a caller of EVP without a cache would verify it. */
static bool by_evp(const struct contest *contest)
{
    static uint8_t raw[JOSE_SIGNATURE_MAX], der[200];
    const char *dot = strrchr(text, '.');
    const size_t size = (size_t)(dot - text);
    uint8_t *signature = raw, *at = der;
    size_t length;
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    EVP_PKEY_CTX *parameters = NULL;

    if (base64url_decode(dot + 1, strlen(dot + 1), raw, sizeof raw, &length) != ERR_OK)
        return false;
    if (EVP_PKEY_is_a(contest->signer->key, "EC")) {
        ECDSA_SIG *parts = ECDSA_SIG_new();

        ECDSA_SIG_set0(parts, BN_bin2bn(raw, (int)length / 2, NULL), BN_bin2bn(raw + length / 2, (int)length / 2, NULL));
        length = (size_t)i2d_ECDSA_SIG(parts, &at);
        ECDSA_SIG_free(parts);
        signature = der;
    }
    bool is_good = EVP_DigestVerifyInit_ex(context, &parameters, contest->digest, NULL, NULL, contest->signer->key, NULL) == 1;

    if (is_good && contest->algorithm >= JOSE_PS256 && contest->algorithm <= JOSE_PS512)
        is_good = EVP_PKEY_CTX_set_rsa_padding(parameters, RSA_PKCS1_PSS_PADDING) == 1
            && EVP_PKEY_CTX_set_rsa_pss_saltlen(parameters, RSA_PSS_SALTLEN_DIGEST) == 1;
    is_good = is_good && EVP_DigestVerify(context, signature, length, (const uint8_t *)text, size) == 1;
    EVP_MD_CTX_free(context);
    return is_good;
}

static double rate(bool (*verify)(const struct contest *), const struct contest *contest, double seconds)
{
    const double started = now_s();
    unsigned count = 0;

    while (now_s() - started < seconds) {
        for (unsigned i = 0; i < 16; i++, count++) {
            if (!verify(contest)) {
                fprintf(stderr, "a good token is refused\n");
                exit(1);
            }
        }
    }
    return count / (now_s() - started);
}

static void run(struct contest *contest)
{
    char header[200], set[4200], why[200];
    double ours = 0, theirs = 0, bare = 0;
    cjose_err error;

    snprintf(set, sizeof set, "{\"keys\":[{%s}]}", contest->signer->jwk);
    if (jose_keys_parse(set, strlen(set), &contest->keys, why, sizeof why) != ERR_OK)
        exit(1);
    snprintf(set, sizeof set, "{%s}", contest->signer->jwk);
    contest->jwk = contest->digest != NULL ? cjose_jwk_import(set, strlen(set), &error) : NULL;
    snprintf(header, sizeof header, "{\"alg\":\"%s\",\"kid\":\"%s\",\"typ\":\"at+jwt\"}", jose_algorithm_text(contest->algorithm), contest->signer->kid);
    signer_token(contest->signer, contest->algorithm, header,
                 "{\"iss\":\"https://auth.example/api/auth\",\"sub\":\"user-1\",\"aud\":\"https://gw.example/mcp/a\",\"client_id\":\"c1\","
                 "\"scope\":\"openid mcp:read mcp:proxy\",\"sid\":\"s1\",\"jti\":\"j1\",\"iat\":1799999900,\"exp\":1800003600}", text);
    for (int round = 0; round < ROUNDS; round++) {
        ours += rate(by_us, contest, 0.15) / ROUNDS;
        bare += rate(by_evp, contest, 0.15) / ROUNDS;
        if (contest->jwk != NULL)
            theirs += rate(by_cjose, contest, 0.15) / ROUNDS;
    }
    printf("%-6s ours %8.0f/s   bare EVP %8.0f/s (ours/EVP %.2f)", jose_algorithm_text(contest->algorithm), ours, bare, ours / bare);
    if (contest->jwk != NULL)
        printf("   cjose %8.0f/s (ours/cjose %.2f)\n", theirs, ours / theirs);
    else
        printf("   cjose has no EdDSA\n");
    cjose_jwk_release(contest->jwk);
    jose_keys_destroy(&contest->keys);
}

int main(void)
{
    struct signer rsa, p256, p384, ed;
    struct contest contests[] = {
        { &rsa, JOSE_RS256, NULL, NULL, "SHA2-256" }, { &rsa, JOSE_RS512, NULL, NULL, "SHA2-512" }, { &rsa, JOSE_PS256, NULL, NULL, "SHA2-256" },
        { &p256, JOSE_ES256, NULL, NULL, "SHA2-256" }, { &p384, JOSE_ES384, NULL, NULL, "SHA2-384" }, { &ed, JOSE_EDDSA, NULL, NULL, NULL },
    };

    signer_rsa(&rsa, 2048, "rsa");
    signer_ec(&p256, "P-256", "p256");
    signer_ec(&p384, "P-384", "p384");
    signer_ed(&ed, "ed");
    for (size_t i = 0; i < sizeof contests / sizeof contests[0]; i++)
        run(&contests[i]);
    return 0;
}
