/* probes.h - /healthz and /readyz for load balancers, on a listener of their own so that busy threads cannot starve
 * them. */
#ifndef EDGE_PROBES_H
#define EDGE_PROBES_H

#include <stddef.h>

#include "common/error.h"
#include "common/ops.h"

struct probes;

/* Errors as edge_http_new(). */
enum err probes_new(const char *listen, struct ops *ops, struct probes **ret_probes, char *reterr,
                    size_t reterr_size) MUST_CHECK;
void probes_destroy(struct probes **probes);

#endif
