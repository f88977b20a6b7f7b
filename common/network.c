#include "common/network.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAPPED_BITS 96u

static const uint8_t mapped_prefix[12] = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff };

static bool is_mapped(const uint8_t bytes[16])
{
    return memcmp(bytes, mapped_prefix, sizeof mapped_prefix) == 0;
}

enum err address_parse(const char *text, uint8_t ret_bytes[16])
{
    uint8_t bytes[16];

    if (inet_pton(AF_INET, text, bytes + sizeof mapped_prefix) == 1)
        memcpy(bytes, mapped_prefix, sizeof mapped_prefix);
    else if (inet_pton(AF_INET6, text, bytes) != 1)
        return ERR_MALFORMED;
    memcpy(ret_bytes, bytes, sizeof bytes);
    return ERR_OK;
}

/* Digits alone, without a sign or a zero in front. */
static bool parse_bits(const char *text, unsigned limit, unsigned *ret_bits)
{
    const size_t length = strspn(text, "0123456789");

    if (length == 0 || length > 3 || text[length] != '\0' || (text[0] == '0' && length > 1))
        return false;
    *ret_bits = (unsigned)strtoul(text, NULL, 10);
    return *ret_bits <= limit;
}

static bool has_host_bits(const struct network *network)
{
    for (unsigned bit = network->bits; bit < 128; bit++) {
        if ((network->bytes[bit / 8] >> (7 - bit % 8) & 1) != 0)
            return true;
    }
    return false;
}

enum err network_parse(const char *text, struct network *ret_network)
{
    const char *slash = strchr(text, '/');
    const bool is_v4 = strchr(text, ':') == NULL;
    const size_t length = slash != NULL ? (size_t)(slash - text) : strlen(text);
    unsigned bits = is_v4 ? 32 : 128;
    struct network network;
    char address[NETWORK_TEXT_SIZE];

    if (length >= sizeof address || (slash != NULL && !parse_bits(slash + 1, bits, &bits)))
        return ERR_MALFORMED;
    memcpy(address, text, length);
    address[length] = '\0';
    if (address_parse(address, network.bytes) != ERR_OK)
        return ERR_MALFORMED;
    network.bits = (uint8_t)(is_v4 ? bits + MAPPED_BITS : bits);
    if (has_host_bits(&network))
        return ERR_UNPROCESSABLE;
    *ret_network = network;
    return ERR_OK;
}

void network_format(const struct network *network, char ret_text[NETWORK_TEXT_SIZE])
{
    const bool is_v4 = network->bits >= MAPPED_BITS && is_mapped(network->bytes);
    const unsigned bits = is_v4 ? network->bits - MAPPED_BITS : network->bits;
    char address[INET6_ADDRSTRLEN] = "";

    inet_ntop(is_v4 ? AF_INET : AF_INET6, network->bytes + (is_v4 ? sizeof mapped_prefix : 0), address, sizeof address);
    if (bits == (is_v4 ? 32u : 128u))
        snprintf(ret_text, NETWORK_TEXT_SIZE, "%s", address);
    else
        snprintf(ret_text, NETWORK_TEXT_SIZE, "%s/%u", address, bits);
}

bool network_holds(const struct network *network, const uint8_t address[16])
{
    const size_t whole = network->bits / 8;
    const unsigned rest = network->bits % 8;

    if (is_mapped(address) && !(network->bits >= MAPPED_BITS && is_mapped(network->bytes)))
        return false;
    if (memcmp(network->bytes, address, whole) != 0)
        return false;
    return rest == 0 || ((network->bytes[whole] ^ address[whole]) >> (8 - rest)) == 0;
}

bool network_contains(const struct network *network, const struct network *inner)
{
    return inner->bits >= network->bits && network_holds(network, inner->bytes);
}
