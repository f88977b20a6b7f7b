/*
 * apikey.h - the text of an API key.
 *
 * Ours: a prefix (mcp_, or the tenant's: a letter, letters, digits and underscores, closed by an underscore, at most 16 of
 * them) + "1" + 54 letters or digits (321 bits) + 6 of checksum (CRC-32C of all before, base 62: 0-9A-Za-z) = 65 characters
 * with mcp_.
 * Better-Auth's own keys are a prefix and 64 letters without digits, so the "1" behind the last underscore and the length tell
 * them apart; keys of other shapes have no checksum and are simply looked up.
 */
#ifndef COMMON_APIKEY_H
#define COMMON_APIKEY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/encode.h"
#include "common/secret.h"

#define APIKEY_PREFIX     "mcp_"
#define APIKEY_LENGTH     65u     /* with APIKEY_PREFIX */
#define APIKEY_LENGTH_MAX 256u     /* of any key that is presented */
#define APIKEY_PREFIX_MAX 16u
#define APIKEY_START      6u       /* first characters, shown to people (Better-Auth's column `start`) */

bool apikey_prefix_is_valid(const char *prefix);
/* `prefix` is valid. */
void apikey_make(const char *prefix, struct secret *ret_key);
/* Has it the form of ours, with whatever prefix?  What has the form and a wrong checksum is no key. */
bool apikey_has_our_form(const char *text, size_t length);
/* Could this text be a key?  false: too short (< 8) or long, characters outside A-Za-z0-9_-, or ours with a wrong checksum. */
bool apikey_is_plausible(const char *text, size_t length);
/* SHA-256 of the whole text: what Better-Auth stores as base64url without padding. */
void apikey_digest(const char *text, size_t length, uint8_t ret_digest[DIGEST_SIZE]);

#endif
