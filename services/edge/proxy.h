/* proxy.h - /mcp/{server}: a streaming reverse proxy to registered upstreams, through libcurl. */
#ifndef EDGE_PROXY_H
#define EDGE_PROXY_H

#include "services/edge/exchange.h"
#include "services/edge/routes.h"

/* One thread's connections to upstreams, and its buffers. */
struct proxy_client;
void proxy_client_destroy(struct proxy_client **client);

void proxy_answer(struct exchange *exchange, const struct route_match *match);
/* OPTIONS, for browsers (CORS): answered without credentials. */
void proxy_answer_preflight(struct exchange *exchange);

#endif
