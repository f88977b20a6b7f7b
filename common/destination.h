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
/* 127.0.0.0/8 and ::1, also as ::ffff:127.x.y.z. */
bool destination_is_loopback(const struct sockaddr *address);
/* Loopback, RFC 1918, shared (100.64.0.0/10) and unique local (fc00::/7) addresses, also mapped or translated ones. */
bool destination_is_private(const struct sockaddr *address);

#endif
