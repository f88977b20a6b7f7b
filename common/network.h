/* network.h - addresses and networks (CIDR) of both families.  Pure. */
#ifndef COMMON_NETWORK_H
#define COMMON_NETWORK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

#define NETWORK_TEXT_SIZE 50u    /* the longest IPv6 address, "/128" and a NUL */

/* IPv4 lies at ::ffff:0:0/96 and nowhere else: no IPv6 network holds an IPv4 address unless it lies in there itself. */
struct network {
    uint8_t bytes[16];
    uint8_t bits;
};

/* "192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1".  ERR_MALFORMED: anything else, a zone among them. */
enum err address_parse(const char *text, uint8_t ret_bytes[16]) MUST_CHECK;
/* An address, or a network with bits behind a slash; ::ffff:10.0.0.0/104 is 10.0.0.0/8.  ERR_MALFORMED: neither.
 * ERR_UNPROCESSABLE: bits are set behind the network's own (10.0.0.1/8), so two networks may be meant. */
enum err network_parse(const char *text, struct network *ret_network) MUST_CHECK;
/* The one way to write it; an address alone has no slash. */
void network_format(const struct network *network, char ret_text[NETWORK_TEXT_SIZE]);
bool network_holds(const struct network *network, const uint8_t address[16]);
bool network_contains(const struct network *network, const struct network *inner);    /* all of it */

#endif
