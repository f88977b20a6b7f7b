/*
 * metadata.h - protected-resource metadata (RFC 9728): which authorization servers make tokens for what is served here.
 *
 * Each registered server is a resource of its own, <public_url>/mcp/<slug>; a token for one is none for another.  All
 * URLs are made from the configuration, never from what a request says.
 */
#ifndef EDGE_METADATA_H
#define EDGE_METADATA_H

#include <stdbool.h>
#include <stddef.h>

#include "services/edge/exchange.h"
#include "services/edge/routes.h"
#include "services/edge/writer.h"

#define METADATA_SERVERS_MAX 8u

struct metadata;

struct metadata_options {
    const char *public_url;              /* "": nothing is advertised */
    const char *authorization_servers;   /* issuer URLs, comma-separated; clients use the first */
    bool has_origin_resource;            /* everything here is also one resource, <public_url> */
};

/* ERR_UNPROCESSABLE: a URL that is none, too many, or no public_url; a sentence with the remedy is in reterr. */
enum err metadata_new(const struct metadata_options *options, struct metadata **ret_metadata, char *reterr,
                      size_t reterr_size) MUST_CHECK;
void metadata_destroy(struct metadata **metadata);

/*
 * Appends the URL of the document that describes what `path` (normalised) belongs to: that of /mcp/<slug>, else of the
 * origin.  false, and nothing appended: there is none.
 */
bool metadata_write_url(const struct metadata *metadata, const char *path, struct writer *writer);

/* GET /.well-known/oauth-protected-resource[/mcp/{server}] */
void metadata_answer(struct exchange *exchange, const struct route_match *match);
/* OPTIONS of any open document: any page may read it. */
void metadata_answer_preflight(struct exchange *exchange);

#endif
