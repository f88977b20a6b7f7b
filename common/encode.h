/* encode.h - digests and the texts they travel as: base64url, hex, UUIDs, CRC-32C. */
#ifndef COMMON_ENCODE_H
#define COMMON_ENCODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

#define DIGEST_SIZE      32    /* SHA-256 */
#define DIGEST_TEXT_SIZE 44    /* base64url without padding, and the NUL */
#define UUID_SIZE        16
#define UUID_TEXT_SIZE   37

/* SHA-256; a context prefetched once per thread (OpenSSL fetches late otherwise, reliability notes). */
void digest_sha256(const void *bytes, size_t size, uint8_t ret_digest[DIGEST_SIZE]);
/* HMAC-SHA-256 over a and then b (a size of 0 skips one). */
void digest_hmac(const void *key, size_t key_size, const void *a, size_t a_size,
                 const void *b, size_t b_size, uint8_t ret_mac[DIGEST_SIZE]);
uint32_t crc32c(uint32_t crc, const void *bytes, size_t size);    /* RFC 3720 B.4; hardware where there is */
uint32_t crc32c_portable(uint32_t crc, const void *bytes, size_t size);    /* the same from a table */

/* RFC 4648 5, no padding, NUL-terminated; `text` holds 4*ceil(size/3)+1 bytes. */
void base64url_encode(const uint8_t *bytes, size_t size, char *text);
/* ERR_MALFORMED: padding, blanks, foreign letters, non-zero tail bits, or more than `capacity` bytes. */
enum err base64url_decode(const char *text, size_t length, uint8_t *bytes, size_t capacity,
                          size_t *ret_size) MUST_CHECK;
void hex_encode(const uint8_t *bytes, size_t size, char *text);
enum err hex_decode(const char *text, size_t length, uint8_t *bytes, size_t capacity,
                    size_t *ret_size) MUST_CHECK;

/* Bytes from the kernel's generator; aborts when there are none (nothing may go on without). */
void random_bytes(void *bytes, size_t size);
uint64_t random_u64(void);
/* RFC 9562 5.7: 48 bits of Unix milliseconds, then random. */
void uuid7_make(uint8_t ret_uuid[UUID_SIZE]);
void uuid_format(const uint8_t uuid[UUID_SIZE], char text[UUID_TEXT_SIZE]);
bool uuid_parse(const char *text, uint8_t ret_uuid[UUID_SIZE]);

#endif
