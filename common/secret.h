/* secret.h - key material that is erased when its scope ends and that no printf can take. */
#ifndef COMMON_SECRET_H
#define COMMON_SECRET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <openssl/crypto.h>

#define SECRET_SIZE_MAX 512    /* bytes; the longest is a connection URL with its password */

struct secret {
    size_t size;
    uint8_t bytes[SECRET_SIZE_MAX + 1];    /* a NUL always follows, for C APIs that want text */
};

/* OWNED(secret_wipe) struct secret pepper = { 0 }; */
static inline void secret_wipe(struct secret *secret)
{
    OPENSSL_cleanse(secret, sizeof *secret);
}

static inline bool secret_is_set(const struct secret *secret)
{
    return secret->size > 0;
}

/* The bytes as NUL-terminated text, for libpq, hiredis and czmq only; lives as long as the secret. */
static inline const char *secret_text(const struct secret *secret)
{
    return (const char *)secret->bytes;
}

/* Time depends on the size alone, which is public. */
static inline bool secret_equals(const struct secret *a, const struct secret *b)
{
    return a->size == b->size && CRYPTO_memcmp(a->bytes, b->bytes, a->size) == 0;
}

#endif
