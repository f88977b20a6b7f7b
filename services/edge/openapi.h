/* openapi.h - GET /openapi.json: the description of the management API, which tools/openapi makes out of the tables. */
#ifndef EDGE_OPENAPI_H
#define EDGE_OPENAPI_H

#include "services/edge/edge.h"
#include "services/edge/exchange.h"

void openapi_answer(struct exchange *exchange);

#endif
