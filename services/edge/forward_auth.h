/* forward_auth.h - decisions for other proxies (/auth/check), and the unified context as JSON. */
#ifndef EDGE_FORWARD_AUTH_H
#define EDGE_FORWARD_AUTH_H

#include "services/edge/exchange.h"
#include "services/edge/routes.h"
#include "services/edge/writer.h"

/* Answers a decision.  `rest` is the path below /auth/check, which some proxies use for the original one. */
void forward_auth_answer(struct exchange *exchange, const struct route_match *match);
/* {"userId","tenantId","authMethod","scopes":[...],"rateLimitTier","keyId","expiresAt","requestId"} */
void context_write(struct writer *writer, const struct verdict *verdict, const char *request_id);
/* GET /api/v1/context */
void context_answer(struct exchange *exchange, const struct route_match *match);

#endif
