/* peers.h - the configured proxies, and the client's address behind them.  Pure. */
#ifndef EDGE_PEERS_H
#define EDGE_PEERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

#define PEERS_MAX          64u
#define PEERS_ADDRESS_SIZE 47u    /* INET6_ADDRSTRLEN and one spare */
#define PEERS_HOPS_MAX     64u    /* entries of X-Forwarded-For that are looked at, from the right */

struct peers {
    struct peer_network { uint8_t bytes[16]; uint8_t bits; } networks[PEERS_MAX];    /* IPv4 as ::ffff:a.b.c.d */
    size_t count;
};

/* "10.0.0.0/8, 192.0.2.1, fd00::/8".  ERR_MALFORMED: *reterr_item is the part at fault. */
enum err peers_parse(const char *text, struct peers *ret_peers, const char **reterr_item) MUST_CHECK;
bool peers_trusts(const struct peers *peers, const char *address);
/*
 * The right-most entry of `forwarded` that is no configured proxy; `peer` when there is none, when the entry is no
 * address, or when the peer itself is not trusted.  Ports and brackets are taken off.
 * false: an entry is no address, so whatever stands to the left of it means nothing.
 */
bool peers_client(const struct peers *peers, const char *peer, const char *forwarded,
                  char ret_address[PEERS_ADDRESS_SIZE]);

#endif
