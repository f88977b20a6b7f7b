/* routes.c - matches normalised paths against routes.def; the first row wins. */
#include "services/edge/routes.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define ROUTE_SCOPE_READ    SCOPE_BIT(READ)
#define ROUTE_SCOPE_WRITE   SCOPE_BIT(WRITE)
#define ROUTE_SCOPE_ADMIN   SCOPE_BIT(ADMIN)
#define ROUTE_SCOPE_PROXY   SCOPE_BIT(PROXY)
#define ROUTE_SCOPE_METRICS SCOPE_BIT(METRICS)
#define ROUTE_SCOPE_HEALTH  SCOPE_BIT(HEALTH)

const struct route routes[] = {
#define ROUTE(method, pattern, scope, handler, operation) \
    { method, pattern, ROUTE_SCOPE_##scope, ROUTE_##handler, OPERATION_##operation },
#include "services/edge/routes.def"
};
const size_t routes_count = sizeof routes / sizeof routes[0];

static bool pattern_matches(const char *pattern, const char *path, struct route_match *match)
{
    while (*pattern != '\0') {
        if (strcmp(pattern, "/...") == 0) {
            match->rest = path;
            return *path == '\0' || *path == '/';
        }
        if (*pattern == '{') {
            match->object = path;
            match->object_length = strcspn(path, "/");
            if (match->object_length == 0)
                return false;
            path += match->object_length;
            pattern += strcspn(pattern, "}") + 1;
            continue;
        }
        if (*pattern++ != *path++)
            return false;
    }
    match->rest = path;
    return *path == '\0';
}

enum err routes_find(const char *method, const char *path, struct route_match *ret_match,
                     char ret_allow[ROUTES_ALLOW_SIZE])
{
    size_t allowed = 0;

    for (size_t i = 0; i < routes_count; i++) {
        struct route_match match = { .route = &routes[i] };

        if (!pattern_matches(routes[i].pattern, path, &match))
            continue;
        if (strcmp(routes[i].method, "*") == 0 || strcmp(routes[i].method, method) == 0) {
            *ret_match = match;
            return ERR_OK;
        }
        if (allowed + strlen(routes[i].method) + 3 < ROUTES_ALLOW_SIZE)
            allowed += (size_t)snprintf(ret_allow + allowed, ROUTES_ALLOW_SIZE - allowed, "%s%s",
                                        allowed > 0 ? ", " : "", routes[i].method);
    }
    return allowed > 0 ? ERR_METHOD : ERR_NOT_FOUND;
}
