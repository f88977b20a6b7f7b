/* proxy_fields.h - which header fields pass the proxy, and how a Location is mapped.  Pure. */
#ifndef EDGE_PROXY_FIELDS_H
#define EDGE_PROXY_FIELDS_H

#include <stdbool.h>
#include <stddef.h>

#include "common/error.h"

/*
 * Towards the upstream.  Dropped: hop-by-hop fields and those `connection` names (RFC 9110 7.6.1), credentials,
 * forwarding fields (set anew), method overrides, and everything that looks like our identity fields, with _ for - as
 * well: an upstream behind CGI cannot tell them apart.
 */
bool proxy_passes_request(const char *name, size_t length, const char *connection);
/* Towards the client. with_cors: the gateway sets its own CORS fields. */
bool proxy_passes_response(const char *name, size_t length, bool with_cors);
/* Takes the lines out that `connection` names, of lines that end with CR LF.  Returns what is left of `size`. */
size_t proxy_drop_named(char *lines, size_t size, const char *connection);
/* "https://a, http://localhost:*, *" */
bool proxy_origin_is_allowed(const char *allowed, const char *public_url, const char *origin);
/*
 * An upstream's Location as the client must see it: the upstream's URL, or its path, becomes /mcp/<slug>.
 * Anything else is returned as it is.  ERR_TOO_LARGE: it does not fit.
 */
enum err proxy_map_location(const char *upstream_url, const char *slug, const char *location, char *mapped,
                            size_t size) MUST_CHECK;

#endif
