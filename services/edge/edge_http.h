/* edge_http.h - the public listener: civetweb's threads, their limits and their deadlines.  edge_http.c alone knows
 * civetweb. */
#ifndef EDGE_EDGE_HTTP_H
#define EDGE_EDGE_HTTP_H

#include <stddef.h>

#include "common/error.h"
#include "services/edge/edge.h"

/*
 * Listens and serves at once.  ERR_DENIED: the address asks for TLS; ERR_MALFORMED: it is no address; ERR_UNAVAILABLE:
 * it cannot be bound; ERR_NO_MEMORY: not all threads could be had.  A sentence with the remedy is in reterr.
 */
enum err edge_http_new(struct edge *edge, struct edge_http **ret_http, char *reterr, size_t reterr_size) MUST_CHECK;
uint64_t edge_http_connections(const struct edge_http *http);
/* Cuts what is still open and waits for the threads. */
void edge_http_destroy(struct edge_http **http);
/* "127.0.0.1:8080,0.0.0.0:9000" may be listened on.  For the probe listener as well. */
enum err edge_http_check_listen(const char *listen, char *reterr, size_t reterr_size) MUST_CHECK;

/* civetweb looks at its stop flag only every other second while it waits: this ends the waits of its accepting thread.
 * Just before mg_stop(). */
struct mg_context;
void edge_http_close_listeners(struct mg_context *context);

#endif
