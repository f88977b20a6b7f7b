/*
 * apikey.h - the text of an API key.
 *
 * Ours: "mcp_" "1" + 54 letters or digits (321 bits) + 6 of checksum (CRC-32C of all before, base 62: 0-9A-Za-z)
 * = 65 characters.
 * Better-Auth's own keys are a prefix and 64 letters without digits, so the "1" at this place and the length tell them
 * apart; keys of other shapes have no checksum and are simply looked up.
 */
#ifndef COMMON_APIKEY_H
#define COMMON_APIKEY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/encode.h"
#include "common/secret.h"

#define APIKEY_PREFIX     "mcp_"
#define APIKEY_LENGTH     65u
#define APIKEY_LENGTH_MAX 256u     /* of any key that is presented */
#define APIKEY_START      6u       /* first characters, shown to people (Better-Auth's column `start`) */

void apikey_make(struct secret *ret_key);
/* Could this text be a key?  false: too short (< 8) or long, characters outside A-Za-z0-9_-, or ours with a wrong checksum. */
bool apikey_is_plausible(const char *text, size_t length);
/* SHA-256 of the whole text: what Better-Auth stores as base64url without padding. */
void apikey_digest(const char *text, size_t length, uint8_t ret_digest[DIGEST_SIZE]);

#endif
