/* keys_json.h - how keys, servers and refusals read over HTTP.  Never a digest; a key's value only where a handler adds it. */
#ifndef KEYS_KEYS_JSON_H
#define KEYS_KEYS_JSON_H

#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "common/cleanup.h"
#include "services/keys/keys_rules.h"
#include "services/keys/keys_store.h"

DEFINE_DESTROY(keys_json_destroy, json_t, json_decref)

/* New references, or NULL when an allocation failed. */
json_t *keys_json_key(const struct key_row *key, const char *resource);
json_t *keys_json_server(const struct server_row *server);
json_t *keys_json_scopes(uint64_t scopes);
/* UnifiedAuthContext of a key that verifies. */
json_t *keys_json_context(const struct key_row *key, const char *resource);
/* RFC 9457 */
json_t *keys_json_problem(const struct problem *problem);
/* {"<resource>": ["read", ...]} as Better-Auth stores it: names in table order, not closed; `text` holds `size` bytes. */
void keys_format_permissions(uint64_t scopes, const char *resource, char *text, size_t size);

#endif
