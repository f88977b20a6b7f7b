/* keys_reach.h - allowedIps, servers, tools and environment of a key, as bodies carry them and Postgres takes them.  Pure. */
#ifndef KEYS_KEYS_REACH_H
#define KEYS_KEYS_REACH_H

#include <stdbool.h>

#include <jansson.h>

#include "common/reach.h"

#define KEYS_ENVIRONMENT_MAX 32u

/* Lists have a value a line.  NULL in a body: no limit. */
struct key_reach {
    bool has_addresses, has_servers, has_tools, has_environment;
    bool limits_addresses, limits_servers, limits_tools;
    char addresses[REACH_NETWORKS_MAX * NETWORK_TEXT_SIZE + 1];
    char servers[REACH_SERVER_BYTES + 1], tools[REACH_TOOL_BYTES + 1];
    char environment[KEYS_ENVIRONMENT_MAX + 1];      /* "": none */
};

bool keys_has_reach(const struct key_reach *reach);
/* Is it a member of ours?  Then *ret_fault is NULL, or says what the value must be. */
bool keys_take_reach(const char *name, const json_t *value, struct key_reach *reach, const char **ret_fault);

#endif
