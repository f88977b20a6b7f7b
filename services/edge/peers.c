/* peers.c - networks of trusted proxies and X-Forwarded-For. */
#include "services/edge/peers.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const uint8_t mapped_prefix[12] = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff };

static bool parse_address(const char *text, uint8_t ret_bytes[16])
{
    if (inet_pton(AF_INET, text, ret_bytes + 12) == 1) {
        memcpy(ret_bytes, mapped_prefix, sizeof mapped_prefix);
        return true;
    }
    return inet_pton(AF_INET6, text, ret_bytes) == 1;
}

static bool parse_network(char *text, struct peer_network *ret_network)
{
    char *slash = strchr(text, '/');
    bool is_v4 = strchr(text, ':') == NULL;
    unsigned long bits = is_v4 ? 32 : 128;
    char *end;

    if (slash != NULL) {
        *slash = '\0';
        bits = strtoul(slash + 1, &end, 10);
        if (slash[1] < '0' || slash[1] > '9' || *end != '\0' || bits > (is_v4 ? 32u : 128u))
            return false;
    }
    if (!parse_address(text, ret_network->bytes))
        return false;
    ret_network->bits = (uint8_t)(is_v4 ? bits + 96 : bits);
    return true;
}

enum err peers_parse(const char *text, struct peers *ret_peers, const char **reterr_item)
{
    struct peers peers = { .count = 0 };

    while (*text != '\0') {
        char item[64];
        size_t length;

        text += strspn(text, ", ");
        length = strcspn(text, ", ");
        if (length == 0)
            break;
        *reterr_item = text;
        if (length >= sizeof item || peers.count == PEERS_MAX)
            return ERR_MALFORMED;
        memcpy(item, text, length);
        item[length] = '\0';
        if (!parse_network(item, &peers.networks[peers.count]))
            return ERR_MALFORMED;
        peers.count++;
        text += length;
    }
    *ret_peers = peers;
    return ERR_OK;
}

static bool network_holds(const struct peer_network *network, const uint8_t address[16])
{
    size_t whole = network->bits / 8;
    unsigned rest = network->bits % 8;

    if (memcmp(network->bytes, address, whole) != 0)
        return false;
    return rest == 0 || ((network->bytes[whole] ^ address[whole]) >> (8 - rest)) == 0;
}

static bool is_known(const struct peers *peers, const uint8_t address[16])
{
    for (size_t i = 0; i < peers->count; i++) {
        if (network_holds(&peers->networks[i], address))
            return true;
    }
    return false;
}

bool peers_trusts(const struct peers *peers, const char *address)
{
    uint8_t bytes[16];

    return peers->count > 0 && parse_address(address, bytes) && is_known(peers, bytes);
}

/* "192.0.2.1", "192.0.2.1:443", "[2001:db8::1]:443", "2001:db8::1" */
static bool parse_hop(const char *text, size_t length, uint8_t ret_bytes[16])
{
    char item[64];
    char *colon;

    if (length == 0 || length >= sizeof item)
        return false;
    memcpy(item, text, length);
    item[length] = '\0';
    if (item[0] == '[') {
        char *end = strchr(item, ']');

        if (end == NULL)
            return false;
        *end = '\0';
        return inet_pton(AF_INET6, item + 1, ret_bytes) == 1;
    }
    colon = strchr(item, ':');
    if (colon != NULL && strchr(colon + 1, ':') == NULL)
        *colon = '\0';
    return parse_address(item, ret_bytes);
}

static void format_address(const uint8_t bytes[16], char ret_address[PEERS_ADDRESS_SIZE])
{
    if (memcmp(bytes, mapped_prefix, sizeof mapped_prefix) == 0)
        inet_ntop(AF_INET, bytes + 12, ret_address, PEERS_ADDRESS_SIZE);
    else
        inet_ntop(AF_INET6, bytes, ret_address, PEERS_ADDRESS_SIZE);
}

bool peers_client(const struct peers *peers, const char *peer, const char *forwarded,
                  char ret_address[PEERS_ADDRESS_SIZE])
{
    size_t end = forwarded == NULL ? 0 : strlen(forwarded);
    uint8_t bytes[16];

    snprintf(ret_address, PEERS_ADDRESS_SIZE, "%s", peer);
    if (!peers_trusts(peers, peer))
        return true;
    for (unsigned hop = 0; hop < PEERS_HOPS_MAX && end > 0; hop++) {
        size_t start, stop;

        while (end > 0 && strchr(", \t", forwarded[end - 1]) != NULL)
            end--;
        stop = end;
        while (end > 0 && strchr(", \t", forwarded[end - 1]) == NULL)
            end--;
        start = end;
        if (stop > start && !parse_hop(forwarded + start, stop - start, bytes))
            return false;
        if (stop == start)
            break;
        format_address(bytes, ret_address);
        if (!is_known(peers, bytes))
            return true;
    }
    return true;
}
