/*
 * own_auth.h - servers that authenticate for themselves (upstreamAuth own): whether a client's token is made for one.
 *
 * A token may travel to a server only if it is that server's and nobody else's (MCP authorization: no other token may
 * transit).  Nothing is verified here: either authz has, or the server does.
 */
#ifndef EDGE_OWN_AUTH_H
#define EDGE_OWN_AUTH_H

#include <stdbool.h>
#include <stddef.h>

/* Is every `aud` of this JWT the resource, and is there one?  false for what is no JWT. */
bool own_auth_is_for(const char *token, size_t length, const char *resource);

#endif
