/*
 * destination.h - addresses that no upstream may have: link-local, cloud metadata, multicast, "this host".  Pure.
 * Loopback and private networks are where upstreams live, so they are not among them.
 */
#ifndef COMMON_DESTINATION_H
#define COMMON_DESTINATION_H

#include <stdbool.h>
#include <stdint.h>

#include <sys/socket.h>

/* In host order. */
bool destination_refuses_ipv4(uint32_t address);
bool destination_refuses_ipv6(const uint8_t address[16]);
/* Other families than these two are refused. */
bool destination_is_refused(const struct sockaddr *address);

#endif
