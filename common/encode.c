/*
 * encode.c - digests over OpenSSL 3 EVP with algorithms fetched once and contexts kept per thread; texts of bytes.
 *
 * A failure of the crypto library or of the kernel's generator ends the process: no caller could go on without.
 */
#include "common/encode.h"

#include <errno.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "common/clock.h"

#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

/* --- digests --------------------------------------------------------------------------- */

struct digests {
    EVP_MD_CTX *sha256;
    EVP_MAC_CTX *hmac;
};

static pthread_once_t fetch_once = PTHREAD_ONCE_INIT;
static pthread_key_t digests_key;
static EVP_MD *sha256;
static EVP_MAC *hmac;
static _Thread_local struct digests *thread_digests;

static void must(bool is_true)
{
    if (!is_true)
        abort();
}

static void digests_release(void *data)
{
    struct digests *digests = data;

    EVP_MD_CTX_free(digests->sha256);
    EVP_MAC_CTX_free(digests->hmac);
    free(digests);
}

static void fetch(void)
{
    sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
    hmac = EVP_MAC_fetch(NULL, "HMAC", NULL);
    must(sha256 != NULL && hmac != NULL && pthread_key_create(&digests_key, digests_release) == 0);
}

static struct digests *digests_of_thread(void)
{
    if (thread_digests != NULL)
        return thread_digests;
    pthread_once(&fetch_once, fetch);

    struct digests *digests = calloc(1, sizeof *digests);
    char name[] = "SHA256";
    const OSSL_PARAM params[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, name, 0), OSSL_PARAM_construct_end(),
    };

    must(digests != NULL);
    digests->sha256 = EVP_MD_CTX_new();
    digests->hmac = EVP_MAC_CTX_new(hmac);
    must(digests->sha256 != NULL && digests->hmac != NULL && EVP_MAC_CTX_set_params(digests->hmac, params) == 1
         && pthread_setspecific(digests_key, digests) == 0);
    thread_digests = digests;
    return digests;
}

void digest_sha256(const void *bytes, size_t size, uint8_t ret_digest[DIGEST_SIZE])
{
    EVP_MD_CTX *context = digests_of_thread()->sha256;

    must(EVP_DigestInit_ex2(context, sha256, NULL) == 1 && EVP_DigestUpdate(context, bytes, size) == 1
         && EVP_DigestFinal_ex(context, ret_digest, NULL) == 1);
}

void digest_hmac(const void *key, size_t key_size, const void *a, size_t a_size,
                 const void *b, size_t b_size, uint8_t ret_mac[DIGEST_SIZE])
{
    static const uint8_t no_key[1];    /* OpenSSL takes NULL for "the key of last time" */
    EVP_MAC_CTX *context = digests_of_thread()->hmac;
    size_t size = 0;

    must(EVP_MAC_init(context, key_size == 0 ? no_key : key, key_size, NULL) == 1);
    must(a_size == 0 || EVP_MAC_update(context, a, a_size) == 1);
    must(b_size == 0 || EVP_MAC_update(context, b, b_size) == 1);
    must(EVP_MAC_final(context, ret_mac, &size, DIGEST_SIZE) == 1 && size == DIGEST_SIZE);
}

/* --- CRC-32C --------------------------------------------------------------------------- */

#define CRC32C_POLYNOMIAL 0x82f63b78u    /* reflected */

static uint32_t crc_table[256];
static pthread_once_t crc_once = PTHREAD_ONCE_INIT;

static void crc_prepare(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t crc = i;

        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ ((crc & 1) != 0 ? CRC32C_POLYNOMIAL : 0);
        crc_table[i] = crc;
    }
}

uint32_t crc32c_portable(uint32_t crc, const void *bytes, size_t size)
{
    const uint8_t *at = bytes;

    pthread_once(&crc_once, crc_prepare);
    crc = ~crc;
    for (size_t i = 0; i < size; i++)
        crc = crc >> 8 ^ crc_table[(crc ^ at[i]) & 0xff];
    return ~crc;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2")))
static uint32_t crc32c_sse42(uint32_t crc, const uint8_t *at, size_t size)
{
    uint64_t wide = ~crc;
    uint64_t word;

    for (; size >= sizeof word; at += sizeof word, size -= sizeof word) {
        memcpy(&word, at, sizeof word);
        wide = _mm_crc32_u64(wide, word);
    }
    crc = (uint32_t)wide;
    for (; size > 0; at++, size--)
        crc = _mm_crc32_u8(crc, *at);
    return ~crc;
}
#endif

uint32_t crc32c(uint32_t crc, const void *bytes, size_t size)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("sse4.2"))
        return crc32c_sse42(crc, bytes, size);
#endif
    return crc32c_portable(crc, bytes, size);
}

/* --- texts ----------------------------------------------------------------------------- */

void base64url_encode(const uint8_t *bytes, size_t size, char *text)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    uint32_t bits = 0;
    unsigned held = 0;

    for (size_t i = 0; i < size; i++) {
        bits = bits << 8 | bytes[i];
        for (held += 8; held >= 6; held -= 6)
            *text++ = digits[bits >> (held - 6) & 0x3f];
    }
    if (held > 0)
        *text++ = digits[bits << (6 - held) & 0x3f];
    *text = '\0';
}

static int base64url_digit(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '-' ? 62 : c == '_' ? 63 : -1;
}

enum err base64url_decode(const char *text, size_t length, uint8_t *bytes, size_t capacity, size_t *ret_size)
{
    uint32_t bits = 0;
    unsigned held = 0;
    size_t size = 0;

    if (length % 4 == 1 || length / 4 * 3 + length % 4 * 3 / 4 > capacity)
        return ERR_MALFORMED;
    for (size_t i = 0; i < length; i++) {
        int digit = base64url_digit(text[i]);

        if (digit < 0)
            return ERR_MALFORMED;
        bits = bits << 6 | (uint32_t)digit;
        held += 6;
        if (held >= 8) {
            held -= 8;
            bytes[size++] = (uint8_t)(bits >> held);
        }
    }
    if ((bits & ((1u << held) - 1)) != 0)
        return ERR_MALFORMED;
    *ret_size = size;
    return ERR_OK;
}

void hex_encode(const uint8_t *bytes, size_t size, char *text)
{
    static const char digits[] = "0123456789abcdef";

    for (size_t i = 0; i < size; i++) {
        *text++ = digits[bytes[i] >> 4];
        *text++ = digits[bytes[i] & 0x0f];
    }
    *text = '\0';
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

enum err hex_decode(const char *text, size_t length, uint8_t *bytes, size_t capacity, size_t *ret_size)
{
    if (length % 2 != 0 || length / 2 > capacity)
        return ERR_MALFORMED;
    for (size_t i = 0; i < length / 2; i++) {
        int high = hex_digit(text[2 * i]);
        int low = hex_digit(text[2 * i + 1]);

        if (high < 0 || low < 0)
            return ERR_MALFORMED;
        bytes[i] = (uint8_t)(high << 4 | low);
    }
    *ret_size = length / 2;
    return ERR_OK;
}

/* --- random numbers and UUIDs ---------------------------------------------------------- */

void random_bytes(void *bytes, size_t size)
{
    uint8_t *at = bytes;

    while (size > 0) {
        ssize_t got = getrandom(at, size, 0);

        must(got > 0 || errno == EINTR);
        if (got > 0) {
            at += got;
            size -= (size_t)got;
        }
    }
}

uint64_t random_u64(void)
{
    uint64_t number;

    random_bytes(&number, sizeof number);
    return number;
}

void uuid7_make(uint8_t ret_uuid[UUID_SIZE])
{
    /* One request each: the kernel is asked once for many.  Used bytes are not secret. */
    static _Thread_local struct { uint8_t bytes[1000]; size_t left; } pool;
    const uint64_t ms = clock_unix_us() / 1000;

    if (pool.left == 0) {
        random_bytes(pool.bytes, sizeof pool.bytes);
        pool.left = sizeof pool.bytes;
    }
    pool.left -= 10;
    memcpy(ret_uuid + 6, pool.bytes + pool.left, 10);
    for (size_t i = 0; i < 6; i++)
        ret_uuid[i] = (uint8_t)(ms >> (40 - 8 * i));
    ret_uuid[6] = (uint8_t)((ret_uuid[6] & 0x0f) | 0x70);
    ret_uuid[8] = (uint8_t)((ret_uuid[8] & 0x3f) | 0x80);
}

/* Where the hyphens of 8-4-4-4-12 stand, before which byte. */
static bool hyphen_before(size_t byte)
{
    return byte == 4 || byte == 6 || byte == 8 || byte == 10;
}

void uuid_format(const uint8_t uuid[UUID_SIZE], char text[UUID_TEXT_SIZE])
{
    for (size_t i = 0; i < UUID_SIZE; i++) {
        if (hyphen_before(i))
            *text++ = '-';
        hex_encode(&uuid[i], 1, text);
        text += 2;
    }
}

bool uuid_parse(const char *text, uint8_t ret_uuid[UUID_SIZE])
{
    uint8_t uuid[UUID_SIZE];
    size_t size;

    if (strnlen(text, UUID_TEXT_SIZE) != UUID_TEXT_SIZE - 1)
        return false;
    for (size_t i = 0; i < UUID_SIZE; i++) {
        if (hyphen_before(i) && *text++ != '-')
            return false;
        if (hex_decode(text, 2, &uuid[i], 1, &size) != ERR_OK)
            return false;
        text += 2;
    }
    memcpy(ret_uuid, uuid, UUID_SIZE);
    return true;
}
