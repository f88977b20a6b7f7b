#include "common/reach.h"

#include <string.h>

#define NETWORK_SIZE 17u
#define LISTS        (REACH_ADDRESSES | REACH_SERVERS | REACH_TOOLS)

bool reach_name_is_valid(const char *name, size_t limit)
{
    const size_t length = strnlen(name, limit + 1);

    if (length == 0 || length > limit)
        return false;
    for (size_t i = 0; i < length; i++) {
        if (name[i] < 0x20 || name[i] > 0x7e)
            return false;
    }
    return true;
}

/* ---- packing ----------------------------------------------------------------------------------- */

struct packer {
    uint8_t *bytes;
    size_t size;
    enum err err;
};

static void put(struct packer *packer, const void *bytes, size_t size)
{
    if (packer->err == ERR_OK && size > REACH_SIZE_MAX - packer->size)
        packer->err = ERR_TOO_LARGE;
    if (packer->err != ERR_OK)
        return;
    memcpy(packer->bytes + packer->size, bytes, size);
    packer->size += size;
}

static void put_network(struct packer *packer, const char *text)
{
    struct network network;

    if (network_parse(text, &network) != ERR_OK) {
        packer->err = ERR_MALFORMED;
        return;
    }
    put(packer, network.bytes, sizeof network.bytes);
    put(packer, &network.bits, 1);
}

static void put_name(struct packer *packer, const char *name, size_t limit)
{
    const uint8_t length = (uint8_t)strlen(name);

    if (!reach_name_is_valid(name, limit)) {
        packer->err = ERR_MALFORMED;
        return;
    }
    put(packer, &length, 1);
    put(packer, name, length);
}

/* What a list may hold; name_max 0: networks. */
struct limits { size_t count_max, name_max, bytes_max; };

static const struct limits networks_limits = { REACH_NETWORKS_MAX, 0, REACH_NETWORKS_MAX * NETWORK_TEXT_SIZE };
static const struct limits servers_limits = { REACH_SERVERS_MAX, REACH_SERVER_MAX, REACH_SERVER_BYTES };
static const struct limits tools_limits = { REACH_TOOLS_MAX, REACH_TOOL_MAX, REACH_TOOL_BYTES };

static void put_list(struct packer *packer, const char *text, const struct limits *limits)
{
    const size_t place = packer->size;
    uint8_t count = 0;

    put(packer, &count, 1);
    if (text != NULL && strlen(text) > limits->bytes_max)
        packer->err = ERR_TOO_LARGE;
    while (packer->err == ERR_OK && text != NULL && *text != '\0') {
        const size_t length = strcspn(text, "\n");
        char line[REACH_TOOL_MAX + 1];

        if (count == limits->count_max || length >= sizeof line) {
            packer->err = count == limits->count_max ? ERR_TOO_LARGE : ERR_MALFORMED;
            return;
        }
        memcpy(line, text, length);
        line[length] = '\0';
        if (limits->name_max == 0)
            put_network(packer, line);
        else
            put_name(packer, line, limits->name_max);
        count++;
        text += length;
        text += *text == '\n';
    }
    if (packer->err == ERR_OK)
        packer->bytes[place] = count;
}

enum err reach_pack(const struct reach_texts *texts, uint8_t bytes[REACH_SIZE_MAX], size_t *ret_size)
{
    struct packer packer = { .bytes = bytes };
    const uint8_t lists = (uint8_t)((texts->addresses != NULL ? REACH_ADDRESSES : 0)
                                    | (texts->servers != NULL ? REACH_SERVERS : 0)
                                    | (texts->tools != NULL ? REACH_TOOLS : 0));

    if (lists == 0) {
        *ret_size = 0;
        return ERR_OK;
    }
    put(&packer, &lists, 1);
    put_list(&packer, texts->addresses, &networks_limits);
    put_list(&packer, texts->servers, &servers_limits);
    put_list(&packer, texts->tools, &tools_limits);
    if (packer.err == ERR_OK)
        *ret_size = packer.size;
    return packer.err;
}

/* ---- reading ----------------------------------------------------------------------------------- */

static const uint8_t *behind_networks(const uint8_t *at)
{
    return at + 1 + *at * NETWORK_SIZE;
}

static const uint8_t *behind_names(const uint8_t *at)
{
    unsigned count = *at++;

    while (count-- > 0)
        at += 1 + *at;
    return at;
}

/* NULL: not sound. */
static const uint8_t *check_networks(const uint8_t *at, const uint8_t *end)
{
    if (at == NULL || at >= end || *at > REACH_NETWORKS_MAX || (size_t)(end - at) < 1 + *at * NETWORK_SIZE)
        return NULL;
    for (unsigned i = 0; i < *at; i++) {
        if (at[(i + 1) * NETWORK_SIZE] > 128)
            return NULL;
    }
    return behind_networks(at);
}

static const uint8_t *check_names(const uint8_t *at, const uint8_t *end, unsigned count_max, size_t limit)
{
    unsigned count;

    if (at == NULL || at >= end || *at > count_max)
        return NULL;
    for (count = *at++; count > 0; count--) {
        if (at >= end || *at == 0 || *at > limit || (size_t)(end - at) < 1u + *at)
            return NULL;
        at += 1 + *at;
    }
    return at;
}

bool reach_is_sound(const uint8_t *bytes, size_t size)
{
    const uint8_t *end = bytes + size, *at = bytes;

    if (size == 0)
        return true;
    if (size > REACH_SIZE_MAX || *at == 0 || *at > LISTS)
        return false;
    at = check_networks(at + 1, end);
    at = check_names(at, end, REACH_SERVERS_MAX, REACH_SERVER_MAX);
    at = check_names(at, end, REACH_TOOLS_MAX, REACH_TOOL_MAX);
    return at == end;
}

bool reach_limits(const uint8_t *bytes, size_t size, enum reach_list list)
{
    return size > 0 && (bytes[0] & list) != 0;
}

bool reach_holds_address(const uint8_t *bytes, size_t size, const char *address)
{
    uint8_t wanted[16];

    if (!reach_limits(bytes, size, REACH_ADDRESSES))
        return true;
    if (address_parse(address, wanted) != ERR_OK)
        return false;
    for (unsigned i = 0; i < bytes[1]; i++) {
        const uint8_t *at = bytes + 2 + i * NETWORK_SIZE;
        struct network network = { .bits = at[NETWORK_SIZE - 1] };

        memcpy(network.bytes, at, sizeof network.bytes);
        if (network_holds(&network, wanted))
            return true;
    }
    return false;
}

static bool names_hold(const uint8_t *at, const char *name)
{
    const size_t length = strlen(name);
    unsigned count = *at++;

    for (; count > 0; count--) {
        if (*at == length && memcmp(at + 1, name, length) == 0)
            return true;
        at += 1 + *at;
    }
    return false;
}

bool reach_holds_server(const uint8_t *bytes, size_t size, const char *server)
{
    return !reach_limits(bytes, size, REACH_SERVERS) || names_hold(behind_networks(bytes + 1), server);
}

bool reach_holds_tool(const uint8_t *bytes, size_t size, const char *tool)
{
    return !reach_limits(bytes, size, REACH_TOOLS) || names_hold(behind_names(behind_networks(bytes + 1)), tool);
}
