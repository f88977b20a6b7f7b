/* routes.h - the rows of routes.def, and which one a request meets.  Pure. */
#ifndef EDGE_ROUTES_H
#define EDGE_ROUTES_H

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "common/operation.h"
#include "common/scope.h"

enum route_handler {
    ROUTE_authorise, ROUTE_manage, ROUTE_context, ROUTE_health, ROUTE_metrics, ROUTE_proxy, ROUTE_preflight,
    ROUTE_introspect, ROUTE_metadata, ROUTE_metadata_of, ROUTE_jwks, ROUTE_open_preflight, ROUTE_openapi
};

#define ROUTE_SCOPE_CALLER (UINT64_C(1) << 62)
#define ROUTE_SCOPE_OPEN   (UINT64_C(1) << 63)

struct route {
    const char *method, *pattern;
    uint64_t scope;                  /* bits, or one of the two above */
    enum route_handler handler;
    enum operation operation;
};

struct route_match {
    const struct route *route;
    const char *object;              /* the {segment}, in the path; NULL when the pattern has none */
    size_t object_length;
    const char *rest;                /* what stands behind, "" or from a '/' on */
};

extern const struct route routes[];
extern const size_t routes_count;

/* ERR_NOT_FOUND: no such path; ERR_METHOD: `ret_allow` (ROUTES_ALLOW_SIZE bytes) lists what the path answers. */
#define ROUTES_ALLOW_SIZE 64
enum err routes_find(const char *method, const char *path, struct route_match *ret_match,
                     char ret_allow[ROUTES_ALLOW_SIZE]) MUST_CHECK;

#endif
