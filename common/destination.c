/* destination.c - IPv4 ranges, and the IPv6 addresses that hold one of theirs. */
#include "common/destination.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>

/* 169.254.0.0/16 (link-local, cloud metadata), 0.0.0.0/8, multicast and above; 100.100.100.200, 192.0.0.192 and Azure's
 * 168.63.129.16 serve metadata too. */
bool destination_refuses_ipv4(uint32_t address)
{
    return address >> 16 == 0xa9fe || address >> 24 == 0 || address >= 0xe0000000
        || address == 0x646464c8 || address == 0xc00000c0 || address == 0xa83f8110;
}

/* false: it holds none. */
static bool embedded_ipv4(const uint8_t a[16], uint32_t *ret_address)
{
    static const uint8_t mapped[12] = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff };
    static const uint8_t translated[12] = { 0, 0x64, 0xff, 0x9b };
    const bool is_6to4 = a[0] == 0x20 && a[1] == 0x02;    /* RFC 3056 */
    const uint8_t *at = is_6to4 ? a + 2 : a + 12;

    /* 64:ff9b:1::/48 (RFC 8215) is translated locally; with a prefix of 96 bits, as is usual, the address stands last. */
    if (!is_6to4 && memcmp(a, mapped, sizeof mapped) != 0 && memcmp(a, translated, sizeof translated) != 0
        && !(memcmp(a, translated, 4) == 0 && a[4] == 0 && a[5] == 1))
        return false;
    *ret_address = (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
    return true;
}

bool destination_refuses_ipv6(const uint8_t a[16])
{
    static const uint8_t amazon[4] = { 0xfd, 0x00, 0x0e, 0xc2 };    /* fd00:ec2::/32: metadata, time, DNS, credentials of pods */
    static const uint8_t google[16] = { 0xfd, 0x20, 0x00, 0xce, [15] = 0x54, [14] = 0x02 };
    const uint32_t tail = (uint32_t)a[12] << 24 | (uint32_t)a[13] << 16 | (uint32_t)a[14] << 8 | a[15];
    uint32_t embedded;

    if ((a[0] == 0xfe && (a[1] & 0xc0) == 0x80) || a[0] == 0xff)    /* fe80::/10, ff00::/8 */
        return true;
    if (memcmp(a, amazon, sizeof amazon) == 0 || memcmp(a, google, sizeof google) == 0)
        return true;
    if (embedded_ipv4(a, &embedded))
        return destination_refuses_ipv4(embedded);
    return a[0] == 0 && memcmp(a, a + 1, 11) == 0 && tail != 1
           && destination_refuses_ipv4(tail); /* ::a.b.c.d and ::, but not ::1 */
}

bool destination_is_refused(const struct sockaddr *address)
{
    struct sockaddr_in ipv4;
    struct sockaddr_in6 ipv6;

    if (address->sa_family == AF_INET) {
        memcpy(&ipv4, address, sizeof ipv4);
        return destination_refuses_ipv4(ntohl(ipv4.sin_addr.s_addr));
    }
    if (address->sa_family != AF_INET6)
        return true;
    memcpy(&ipv6, address, sizeof ipv6);
    return destination_refuses_ipv6(ipv6.sin6_addr.s6_addr);
}

static bool is_loopback_ipv4(uint32_t address)
{
    return address >> 24 == 127;
}

static bool is_private_ipv4(uint32_t address)
{
    return is_loopback_ipv4(address) || address >> 24 == 10 || address >> 20 == 0xac1 || address >> 16 == 0xc0a8
        || address >> 22 == 0x191;
}

static bool matches(const struct sockaddr *address, bool (*ipv4_matches)(uint32_t), uint8_t ipv6_mask, uint8_t ipv6_prefix)
{
    static const uint8_t loopback[16] = { [15] = 1 };
    struct sockaddr_in ipv4;
    struct sockaddr_in6 ipv6;
    uint32_t embedded;

    if (address->sa_family == AF_INET) {
        memcpy(&ipv4, address, sizeof ipv4);
        return ipv4_matches(ntohl(ipv4.sin_addr.s_addr));
    }
    if (address->sa_family != AF_INET6)
        return false;
    memcpy(&ipv6, address, sizeof ipv6);
    if (embedded_ipv4(ipv6.sin6_addr.s6_addr, &embedded))
        return ipv4_matches(embedded);
    return memcmp(ipv6.sin6_addr.s6_addr, loopback, sizeof loopback) == 0
           || (ipv6_mask != 0 && (ipv6.sin6_addr.s6_addr[0] & ipv6_mask) == ipv6_prefix);
}

bool destination_is_loopback(const struct sockaddr *address)
{
    return matches(address, is_loopback_ipv4, 0, 0);
}

bool destination_is_private(const struct sockaddr *address)
{
    return matches(address, is_private_ipv4, 0xfe, 0xfc);
}
