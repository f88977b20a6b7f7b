/* apikey.c - makes and recognises the text of API keys; holds no key longer than a call. */
#include "common/apikey.h"

#include <string.h>

/* Prefix and format number; behind them random letters and digits, then the checksum of all before. */
static const char head[] = APIKEY_PREFIX "1";
static const char letters[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

enum { HEAD = sizeof head - 1, BASE = 62, CHECKSUM = 6, RANDOM = APIKEY_LENGTH - HEAD - CHECKSUM, SHORTEST = 8 };

/* 62^6 > 2^32: six digits hold every CRC. */
static void write_checksum(const char *key, char ret_digits[CHECKSUM])
{
    uint32_t crc = crc32c(0, key, APIKEY_LENGTH - CHECKSUM);

    for (size_t i = CHECKSUM; i-- > 0; crc /= BASE)
        ret_digits[i] = letters[crc % BASE];
}

void apikey_make(struct secret *ret_key)
{
    uint8_t pool[64];
    size_t left = 0;
    char *key = (char *)ret_key->bytes;

    memset(ret_key, 0, sizeof *ret_key);
    memcpy(key, head, HEAD);
    for (size_t i = 0; i < RANDOM; ) {
        if (left == 0) {
            random_bytes(pool, sizeof pool);
            left = sizeof pool;
        }
        uint8_t drawn = pool[--left];
        if (drawn < 256 / BASE * BASE)    /* the rest would favour the first letters */
            key[HEAD + i++] = letters[drawn % BASE];
    }
    write_checksum(key, key + APIKEY_LENGTH - CHECKSUM);
    ret_key->size = APIKEY_LENGTH;
    OPENSSL_cleanse(pool, sizeof pool);
}

static bool is_key_letter(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_' || c == '-';
}

bool apikey_is_plausible(const char *text, size_t length)
{
    char digits[CHECKSUM];

    if (length < SHORTEST || length > APIKEY_LENGTH_MAX)
        return false;
    for (size_t i = 0; i < length; i++)
        if (!is_key_letter(text[i]))
            return false;
    if (length != APIKEY_LENGTH || memcmp(text, head, HEAD) != 0)
        return true;
    write_checksum(text, digits);
    return memcmp(digits, text + APIKEY_LENGTH - CHECKSUM, CHECKSUM) == 0;
}

void apikey_digest(const char *text, size_t length, uint8_t ret_digest[DIGEST_SIZE])
{
    digest_sha256(text, length, ret_digest);
}
