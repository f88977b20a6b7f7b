/*
 * test_jose_differential.c - random and mutated tokens, judged by us and by others: cjose here, npm `jose` through a file.
 *
 * What we accept, they accept.  What they accept and we refuse, we refuse for its form, never for its signature.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <cjose/cjose.h>

#include "tests/unit/signer.h"

#define MUTANTS 150u    /* of each token */

static const struct jose_key_rule no_rule;
static uint64_t seed;
static char text[8192], document[8192];

/* xorshift64; the seed is printed with a failure. */
static unsigned draw(unsigned below)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (unsigned)(seed % below);
}

static enum jose_reason judge(const char *token_text, struct jose_keys *keys)
{
    struct jose_token token;
    enum jose_reason reason = jose_token_parse(token_text, strlen(token_text), &token);

    if (reason != JOSE_FINE)
        return reason;
    reason = jose_token_verify(&token, keys, JOSE_ALL, &no_rule, NULL);
    jose_token_wipe(&token);
    return reason;
}

static bool is_about_form(enum jose_reason reason)
{
    return reason != JOSE_SIGNATURE && reason != JOSE_KEY_MISMATCH && reason != JOSE_KEY_UNKNOWN && reason != JOSE_KEY_ISSUER;
}

static void compare(const char *token_text, bool is_accepted, enum jose_reason reason)
{
    if (reason == JOSE_FINE && !is_accepted)
        fail_msg("we alone accept %s (seed %lu)", token_text, (unsigned long)seed);
    if (reason != JOSE_FINE && is_accepted && !is_about_form(reason))
        fail_msg("we alone refuse, as %s, %s", jose_reason_text(reason), token_text);
}

/* One small change: a letter, a byte out or in, a cut, two letters swapped. */
static void mutate(const char *from, char *to)
{
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.=+/ ";
    const size_t length = strlen(from), at = draw((unsigned)length);
    const char letter = letters[draw(sizeof letters - 1)];

    memcpy(to, from, length + 1);
    switch (draw(5)) {
    case 0:
    case 1:
        to[at] = letter;
        break;
    case 2:
        memmove(to + at, to + at + 1, length - at);
        break;
    case 3:
        memmove(to + at + 1, to + at, length - at + 1);
        to[at] = letter;
        break;
    default:
        to[at] = to[length - 1 - at];
    }
}

/* cjose 0.6.2 aborts on base64url of 4n+1 letters and on padding within (assert in base64.c), so it is never shown any. */
static bool would_abort_cjose(const char *token_text)
{
    size_t letters = 0;

    for (const char *at = token_text;; at++) {
        if (*at == '.' || *at == '\0') {
            if (letters % 4 == 1)
                return true;
            letters = 0;
        } else if (strchr("+/= ", *at) != NULL) {
            return true;
        } else {
            letters++;
        }
        if (*at == '\0')
            return false;
    }
}

/* cjose forgets what it had read of some tokens that it refuses; our own memory is watched as ever.  Absent without ASan. */
__attribute__((weak)) void __lsan_disable(void);
__attribute__((weak)) void __lsan_enable(void);

static bool cjose_accepts(const char *token_text, const cjose_jwk_t *jwk)
{
    cjose_err error;

    if (would_abort_cjose(token_text))
        return false;
    if (__lsan_disable != NULL)
        __lsan_disable();
    cjose_jws_t *jws = cjose_jws_import(token_text, strlen(token_text), &error);
    const bool is_accepted = jws != NULL && cjose_jws_verify(jws, jwk, &error);

    cjose_jws_release(jws);
    if (__lsan_enable != NULL)
        __lsan_enable();
    return is_accepted;
}

static void cjose_agrees(void **state)
{
    static const enum jose_algorithm algorithms[] = { JOSE_RS256, JOSE_RS384, JOSE_RS512, JOSE_PS256, JOSE_PS384, JOSE_PS512, JOSE_ES256, JOSE_ES384 };
    struct signer rsa, p256, p384;
    cjose_err error;
    (void)state;

    signer_rsa(&rsa, 2048, "k");
    signer_ec(&p256, "P-256", "k");
    signer_ec(&p384, "P-384", "k");
    random_bytes(&seed, sizeof seed);
    seed |= 1;
    for (size_t i = 0; i < sizeof algorithms / sizeof algorithms[0]; i++) {
        const struct signer *signer = algorithms[i] == JOSE_ES256 ? &p256 : algorithms[i] == JOSE_ES384 ? &p384 : &rsa;
        char header[100], payload[100], jwk_text[4200], why[200];
        struct jose_keys *keys = NULL;

        snprintf(jwk_text, sizeof jwk_text, "{%s}", signer->jwk);
        snprintf(document, sizeof document, "{\"keys\":[%s]}", jwk_text);
        assert_int_equal(jose_keys_parse(document, strlen(document), &keys, why, sizeof why), ERR_OK);
        cjose_jwk_t *jwk = cjose_jwk_import(jwk_text, strlen(jwk_text), &error);

        assert_non_null(jwk);
        snprintf(header, sizeof header, "{\"alg\":\"%s\",\"kid\":\"k\"}", jose_algorithm_text(algorithms[i]));
        snprintf(payload, sizeof payload, "{\"iss\":\"i\",\"n\":%u}", draw(1000000));
        signer_token(signer, algorithms[i], header, payload, text);
        assert_int_equal(judge(text, keys), JOSE_FINE);
        assert_true(cjose_accepts(text, jwk));
        for (unsigned mutant = 0; mutant < MUTANTS; mutant++) {
            static char changed[8200];

            mutate(text, changed);
            compare(changed, cjose_accepts(changed, jwk), judge(changed, keys));
        }
        cjose_jwk_release(jwk);
        jose_keys_destroy(&keys);
    }
    signer_wipe(&rsa);
    signer_wipe(&p256);
    signer_wipe(&p384);
}

/* The file that tests/e2e/test_oauth_tokens.py lets npm `jose` write: a key set, then "1 token" or "0 token" a line. */
static void npm_jose_agrees(void **state)
{
    const char *path = getenv("JOSE_VERDICTS");
    char *line = NULL, why[200];
    size_t size = 0, count = 0;
    struct jose_keys *keys = NULL;
    ssize_t length;
    (void)state;

    if (path == NULL)
        return;    /* the suite of JavaScript peers calls this program once more */
    FILE *in = fopen(path, "re");

    assert_non_null(in);
    assert_true((length = getline(&line, &size, in)) > 0);
    assert_int_equal(jose_keys_parse(line, (size_t)length, &keys, why, sizeof why), ERR_OK);
    while ((length = getline(&line, &size, in)) > 2) {
        line[length - 1] = '\0';
        compare(line + 2, line[0] == '1', judge(line + 2, keys));
        count++;
    }
    assert_true(count > 100);
    free(line);
    fclose(in);
    jose_keys_destroy(&keys);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cjose_agrees),
        cmocka_unit_test(npm_jose_agrees),
    };

    return cmocka_run_group_tests_name("jose_differential", tests, NULL, NULL);
}
