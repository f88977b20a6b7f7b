#include "services/keys/keys_reach.h"

#include <stdio.h>
#include <string.h>

#include "services/keys/keys_rules.h"

bool keys_has_reach(const struct key_reach *reach)
{
    return reach->has_addresses || reach->has_servers || reach->has_tools || reach->has_environment;
}

/* Appends a line that is not there yet.  false: no room. */
static bool add_line(char *text, size_t size, const char *line)
{
    const size_t used = strlen(text), length = strlen(line);

    for (const char *at = text; *at != '\0'; at += strcspn(at, "\n"), at += *at == '\n') {
        if (strcspn(at, "\n") == length && memcmp(at, line, length) == 0)
            return true;
    }
    if (used + length + 2 > size)
        return false;
    snprintf(text + used, size - used, "%s%s", used > 0 ? "\n" : "", line);
    return true;
}

/* The text of one item in its one form, or NULL with what is wrong. */
typedef const char *read_item_fn(const char *text, char room[NETWORK_TEXT_SIZE], const char **ret_fault);

static const char *read_network(const char *text, char room[NETWORK_TEXT_SIZE], const char **ret_fault)
{
    struct network network;
    enum err err = network_parse(text, &network);

    *ret_fault = err == ERR_UNPROCESSABLE
                     ? "a network has no bits set behind its length: 10.0.0.0/8 or 10.0.0.1, not 10.0.0.1/8"
                     : "1 to 32 addresses or networks such as 192.0.2.7, 10.0.0.0/8 or 2001:db8::/32, or null for any";
    if (err != ERR_OK)
        return NULL;
    network_format(&network, room);
    return room;
}

static const char *read_server(const char *text, char room[NETWORK_TEXT_SIZE], const char **ret_fault)
{
    (void)room;
    *ret_fault = "1 to 32 slugs of servers (a-z 0-9 -), of 1000 bytes together, or null for any";
    return keys_slug_is_valid(text) ? text : NULL;
}

static const char *read_tool(const char *text, char room[NETWORK_TEXT_SIZE], const char **ret_fault)
{
    (void)room;
    *ret_fault = "1 to 64 names of tools, each 1 to 128 printable ASCII characters, of 2000 bytes together, or null for any";
    return reach_name_is_valid(text, REACH_TOOL_MAX) ? text : NULL;
}

/* NULL, or the fault. */
static const char *take_list(const json_t *value, size_t count_max, read_item_fn *read, char *text, size_t size)
{
    char room[NETWORK_TEXT_SIZE];
    const json_t *item;
    const char *fault = NULL;
    size_t i;

    text[0] = '\0';
    if (json_is_null(value))
        return NULL;
    (void)read("", room, &fault);
    if (!json_is_array(value) || json_array_size(value) == 0 || json_array_size(value) > count_max)
        return fault;
    json_array_foreach(value, i, item) {
        const char *line = json_is_string(item) ? read(json_string_value(item), room, &fault) : NULL;

        if (line == NULL || !add_line(text, size, line))
            return fault;
    }
    return NULL;
}

static const char *take_environment(const json_t *value, struct key_reach *reach)
{
    const char *text = json_string_value(value);

    reach->environment[0] = '\0';
    if (json_is_null(value))
        return NULL;
    if (text == NULL || text[0] == '\0' || strlen(text) > KEYS_ENVIRONMENT_MAX
        || strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789-_") != json_string_length(value))
        return "1 to 32 of the characters a-z 0-9 - _, such as production, or null";
    snprintf(reach->environment, sizeof reach->environment, "%s", text);
    return NULL;
}

bool keys_take_reach(const char *name, const json_t *value, struct key_reach *reach, const char **ret_fault)
{
    const bool limits = !json_is_null(value);

    if (strcmp(name, "allowedIps") == 0) {
        reach->has_addresses = true;
        reach->limits_addresses = limits;
        *ret_fault = take_list(value, REACH_NETWORKS_MAX, read_network, reach->addresses, sizeof reach->addresses);
    } else if (strcmp(name, "servers") == 0) {
        reach->has_servers = true;
        reach->limits_servers = limits;
        *ret_fault = take_list(value, REACH_SERVERS_MAX, read_server, reach->servers, sizeof reach->servers);
    } else if (strcmp(name, "tools") == 0) {
        reach->has_tools = true;
        reach->limits_tools = limits;
        *ret_fault = take_list(value, REACH_TOOLS_MAX, read_tool, reach->tools, sizeof reach->tools);
    } else if (strcmp(name, "environment") == 0) {
        reach->has_environment = true;
        *ret_fault = take_environment(value, reach);
    } else {
        return false;
    }
    return true;
}
