/*
 * introspect.h - RFC 7662 for API keys: a server that takes OAuth tokens accepts our keys without knowing them.
 *
 * Who asks presents a credential of its own and is charged for it; the key asked about is charged for nothing.
 */
#ifndef EDGE_INTROSPECT_H
#define EDGE_INTROSPECT_H

#include "services/edge/exchange.h"
#include "services/edge/routes.h"

/* POST /oauth/introspect, token=<key> as a form. */
void introspect_answer(struct exchange *exchange, const struct route_match *match);

#endif
