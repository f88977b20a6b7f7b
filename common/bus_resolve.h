/*
 * bus_resolve.h - from the setting `edges` to the addresses of the edges that exist now.
 *
 * ipc base paths are found by their sockets in the directory (a * matches names), tcp names by DNS in the background,
 * every 2 s.  While DNS does not answer, what it said last stands.  Never blocks but when it is destroyed in mid-query.
 */
#ifndef COMMON_BUS_RESOLVE_H
#define COMMON_BUS_RESOLVE_H

#include <stddef.h>
#include <stdint.h>

#include "common/curve.h"
#include "common/error.h"

struct bus_resolver;

#define BUS_ENTRIES_MAX   16      /* comma-separated entries of the setting */
#define BUS_BASE_SIZE     256     /* "ipc:///run/mcpgw/bus/edge-1", "tcp://10.0.0.7:7000", and the NUL */

typedef void bus_found_fn(void *owner, const char *base);

/* `probe` is the suffix whose socket shows that an ipc edge is there: ".authz".  ERR_MALFORMED, ERR_DENIED with a
 * sentence. */
enum err bus_resolver_new(const struct curve *curve, const struct common_config *config, const char *probe,
                          struct bus_resolver **ret_resolver, char *reterr, size_t reterr_size) MUST_CHECK;
void bus_resolver_destroy(struct bus_resolver **resolver);
/* Calls fn for every edge known now; ipc directories are read anew with each call. */
void bus_resolver_step(struct bus_resolver *resolver, uint64_t now_us, bus_found_fn *fn, void *owner);

#endif
