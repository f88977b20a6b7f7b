/* manage.h - the management API: bounded bodies in, the keys service's answers out. */
#ifndef EDGE_MANAGE_H
#define EDGE_MANAGE_H

#include "services/edge/exchange.h"
#include "services/edge/routes.h"

void manage_answer(struct exchange *exchange, const struct route_match *match);
/* GET /api/v1/health and GET /metrics */
void health_answer(struct exchange *exchange, const struct route_match *match);
void metrics_answer(struct exchange *exchange, const struct route_match *match);

#endif
