/*
 * challenge.h - the WWW-Authenticate field of refusals (RFC 6750 3, RFC 9728 5.1, RFC 9470 3).
 *
 * MCP clients read it with regular expressions: one Bearer challenge that begins with its first parameter, the same text
 * for the same refusal always (a second one that differs starts their login again), and no description that looks like
 * a parameter.
 */
#ifndef EDGE_CHALLENGE_H
#define EDGE_CHALLENGE_H

#include "services/edge/answer.h"

/* The field with its CR LF; nothing for a refusal that no other credential would change. */
void challenge_write(struct writer *head, const struct exchange *exchange, const struct refusal *refusal);
/* Puts the members `error` and `error_description` into a problem document that ends `body`; nothing without a challenge. */
void challenge_extend_body(struct writer *body, const struct refusal *refusal);

#endif
