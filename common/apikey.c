/* apikey.c - makes and recognises the text of API keys; holds no key longer than a call. */
#include "common/apikey.h"

#include <string.h>

static const char letters[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/* Behind the prefix stands the format number, random letters and digits, and the checksum of all before. */
#define FORMAT '1'
enum { BASE = 62, CHECKSUM = 6, RANDOM = 54, BODY = 1 + RANDOM + CHECKSUM, SHORTEST = 8 };
_Static_assert(sizeof APIKEY_PREFIX - 1 + BODY == APIKEY_LENGTH, "the length that is told");

/* 62^6 > 2^32: six digits hold every CRC. */
static void write_checksum(const char *key, size_t length, char ret_digits[CHECKSUM])
{
    uint32_t crc = crc32c(0, key, length - CHECKSUM);

    for (size_t i = CHECKSUM; i-- > 0; crc /= BASE)
        ret_digits[i] = letters[crc % BASE];
}

static bool is_alphanumeric(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}

static bool is_prefix(const char *text, size_t length)
{
    if (length < 2 || length > APIKEY_PREFIX_MAX || text[length - 1] != '_' || !is_alphanumeric(text[0]) || text[0] <= '9')
        return false;
    for (size_t i = 0; i < length; i++)
        if (!is_alphanumeric(text[i]) && text[i] != '_')
            return false;
    return true;
}

bool apikey_prefix_is_valid(const char *prefix)
{
    return is_prefix(prefix, strlen(prefix));
}

void apikey_make(const char *prefix, struct secret *ret_key)
{
    const size_t head = strlen(prefix), length = head + BODY;
    uint8_t pool[64];
    size_t left = 0;
    char *key = (char *)ret_key->bytes;

    memset(ret_key, 0, sizeof *ret_key);
    memcpy(key, prefix, head);
    key[head] = FORMAT;
    for (size_t i = 0; i < RANDOM; ) {
        if (left == 0) {
            random_bytes(pool, sizeof pool);
            left = sizeof pool;
        }
        uint8_t drawn = pool[--left];
        if (drawn < 256 / BASE * BASE)    /* the rest would favour the first letters */
            key[head + 1 + i++] = letters[drawn % BASE];
    }
    write_checksum(key, length, key + length - CHECKSUM);
    ret_key->size = length;
    OPENSSL_cleanse(pool, sizeof pool);
}

bool apikey_has_our_form(const char *text, size_t length)
{
    if (length <= BODY || text[length - BODY] != FORMAT || !is_prefix(text, length - BODY))
        return false;
    for (size_t i = length - BODY; i < length; i++)
        if (!is_alphanumeric(text[i]))
            return false;
    return true;
}

static bool is_key_letter(char c)
{
    return is_alphanumeric(c) || c == '_' || c == '-';
}

bool apikey_is_plausible(const char *text, size_t length)
{
    char digits[CHECKSUM];

    if (length < SHORTEST || length > APIKEY_LENGTH_MAX)
        return false;
    for (size_t i = 0; i < length; i++)
        if (!is_key_letter(text[i]))
            return false;
    if (!apikey_has_our_form(text, length)
        && (length != APIKEY_LENGTH || memcmp(text, APIKEY_PREFIX "1", sizeof APIKEY_PREFIX) != 0))
        return true;
    write_checksum(text, length, digits);
    return memcmp(digits, text + length - CHECKSUM, CHECKSUM) == 0;
}

void apikey_digest(const char *text, size_t length, uint8_t ret_digest[DIGEST_SIZE])
{
    digest_sha256(text, length, ret_digest);
}
