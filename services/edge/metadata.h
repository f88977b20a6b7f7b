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

#include "common/issuers.h"
#include "services/edge/exchange.h"
#include "services/edge/routes.h"
#include "services/edge/writer.h"

#define METADATA_SCOPES_SIZE 1024u

struct metadata;

/*
 * `issuers` outlives it; those that are advertised are told in their order, because clients take the first.  Without
 * public_url nothing is told, which is logged.  `has_origin_resource`: everything here is one resource too, <public_url>.
 * ERR_UNPROCESSABLE: public_url is none; a sentence with the remedy is in reterr.
 */
enum err metadata_new(const char *public_url, const struct issuers *issuers, bool has_origin_resource,
                      struct metadata **ret_metadata, char *reterr, size_t reterr_size) MUST_CHECK;
void metadata_destroy(struct metadata **metadata);

/* The scopes as the first advertised issuer names them, else as we do; what clients are to ask for. */
const char *metadata_format_scopes(const struct metadata *metadata, uint64_t scopes, char text[METADATA_SCOPES_SIZE]);

/*
 * Appends the URL of the document that describes what `path` (normalised) belongs to: that of /mcp/<slug>, else of the
 * origin.  false, and nothing appended: there is none.
 */
bool metadata_write_url(const struct metadata *metadata, const char *path, struct writer *writer);

/* As above, of an application that has the URL `resource`: RFC 9728 3.1 puts the document between its host and its path. */
bool metadata_write_url_of(const struct metadata *metadata, const char *resource, struct writer *writer);

/*
 * GET /auth/metadata?server=slug: the document of an application behind forward-auth, whose `resource` is the URL that its
 * clients use.  The proxy in front serves it at the application's own well-known path.
 */
void metadata_answer_named(struct exchange *exchange);
/* GET /.well-known/oauth-protected-resource[/mcp/{server}] */
void metadata_answer(struct exchange *exchange, const struct route_match *match);
/* OPTIONS of any open document: any page may read it. */
void metadata_answer_preflight(struct exchange *exchange);

#endif
