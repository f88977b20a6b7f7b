/*
 * authz_entry.h - facts as bytes, for Redis: whoever can write there must not be able to make a key valid.
 *
 * "MGV" | u8 version | u64 sequence | the members of struct authz_facts in order (texts: u8 length, bytes; flags: one
 * u16; numbers: u64; reach: u16 length, bytes) | HMAC-SHA256 over the digest and all before.  Little-endian.  Another
 * version reads as no entry.
 */
#ifndef AUTHZ_ENTRY_H
#define AUTHZ_ENTRY_H

#include <stddef.h>
#include <stdint.h>

#include "common/encode.h"
#include "common/secret.h"
#include "services/authz/authz_rules.h"

#define ENTRY_VERSION  5u
#define ENTRY_SIZE_MAX (512u + REACH_SIZE_MAX)

/* Returns the size. */
size_t entry_pack(const struct secret *key, const uint8_t digest[DIGEST_SIZE], uint64_t sequence,
                  const struct authz_facts *facts, uint8_t bytes[ENTRY_SIZE_MAX]);
/* The facts' reach lies in `bytes`.  ERR_MALFORMED: not written with this key for this digest, of another version, or not to be read. */
enum err entry_unpack(const struct secret *key, const uint8_t digest[DIGEST_SIZE], const uint8_t *bytes, size_t size,
                      uint64_t *ret_sequence, struct authz_facts *ret_facts) MUST_CHECK;
/* The same without the HMAC, for the fuzz target: what a holder of the key could have written. */
enum err entry_read(const uint8_t *bytes, size_t size, uint64_t *ret_sequence, struct authz_facts *ret_facts) MUST_CHECK;

#endif
