/* server.c - mcpgw server: the registry of upstream MCP servers. */
#include <string.h>

#include "cli/show.h"

#define PATH_SIZE 512u
#define LIST_MAX  1000000u

/* The gateway says what of it cannot be. */
static void take_policy(const struct arguments *arguments, json_t *body)
{
    static const char *const rows[][2] = { { "upstream-auth", "upstreamAuth" }, { "resource", "resource" }, { "enforce", "enforce" } };

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (arguments_value(arguments, rows[i][0]) != NULL)
            json_object_set_new(body, rows[i][1], json_string(arguments_value(arguments, rows[i][0])));
    if (arguments_value(arguments, "second-factor") != NULL)
        json_object_set_new(body, "secondFactor", json_boolean(strcmp(arguments_value(arguments, "second-factor"), "off") != 0));
}

static enum exit_code server_set(struct cli *cli, const struct arguments *arguments)
{
    enum exit_code result;
    char path[PATH_SIZE];
    json_t *body = json_object();

    if (*arguments->positional[0] == '\0' || !api_path(path, sizeof path, "servers", arguments->positional[0], "")) {
        complain("%.60s is no slug", arguments->positional[0]);
        json_decref(body);
        return EXIT_MISUSE;
    }
    take_policy(arguments, body);
    result = show_call(cli, "PATCH", path, body);
    json_decref(body);
    return result;
}

static enum exit_code server_add(struct cli *cli, const struct arguments *arguments)
{
    json_t *body = json_pack("{s:s, s:s}", "slug", arguments->positional[0], "url", arguments->positional[1]);
    const char *name = arguments_value(arguments, "name"), *tenant = arguments_value(arguments, "tenant");
    enum exit_code result;

    if (body == NULL) {
        complain("slug and URL must be UTF-8 text");
        return EXIT_MISUSE;
    }
    if (name != NULL)
        json_object_set_new(body, "name", json_string(name));
    if (tenant != NULL)
        json_object_set_new(body, "tenantId", json_string(tenant));
    take_policy(arguments, body);
    result = show_call(cli, "POST", "/api/v1/servers", body);
    json_decref(body);
    return result;
}

static enum exit_code server_list(struct cli *cli, const struct arguments *arguments)
{
    static const struct table_column columns[] = {
        { "SLUG", "slug" }, { "URL", "url" }, { "NAME", "name" }, { "TENANT", "tenantId" }, { "ENABLED", "enabled" },
        { "CREATED", "createdAt" }, { 0 }
    };

    (void)arguments;
    return show_list(cli, "/api/v1/servers", LIST_MAX, columns);
}

static enum exit_code server_remove(struct cli *cli, const struct arguments *arguments)
{
    enum exit_code result = EXIT_REFUSED;
    char path[PATH_SIZE];

    if (!confirm(cli, "remove", arguments->positional[0], &result))
        return result;
    if (*arguments->positional[0] == '\0' || !api_path(path, sizeof path, "servers", arguments->positional[0], "")) {
        complain("%.60s is no slug", arguments->positional[0]);
        return EXIT_MISUSE;
    }
    return show_call(cli, "DELETE", path, NULL);
}

#define POLICY_OPTIONS \
    { "upstream-auth", "HOW", "gateway (default), or own: tokens made for --resource travel on to it" }, \
    { "resource", "AUD", "what tokens for it name as aud: with --upstream-auth own, or the URL of an application behind forward-auth" }, \
    { "second-factor", "on|off", "whether its callers need one" }, \
    { "enforce", "HOW", "on (default), or observe: refusals are only recorded" }
static const struct option_row add_options[] = {
    { "name", "NAME", "for people" }, { "tenant", "ID", "only this tenant may call it" }, POLICY_OPTIONS, { 0 }
};
static const struct option_row set_options[] = { POLICY_OPTIONS, { 0 } };
static const struct option_row remove_options[] = { { "yes", NULL, "do not ask" }, { 0 } };

const struct command server_commands[] = {
    { "server", "add", "SLUG URL", "put an MCP server behind the gateway, at /mcp/SLUG",
      "  mcpgw server add mine http://127.0.0.1:9999/mcp\n", add_options, 2, 2, true, server_add },
    { "server", "set", "SLUG", "change how a server authenticates and how strictly its callers are",
      "  mcpgw server set mine --enforce observe\n"
      "  mcpgw server set mine --upstream-auth own --resource api://0b5d0c2e\n", set_options, 1, 1, true, server_set },
    { "server", "list", "", "all registered servers", "  mcpgw server list --json\n", NULL, 0, 0, true, server_list },
    { "server", "remove", "SLUG", "take a server away; its open streams end",
      "  mcpgw server remove mine --yes\n", remove_options, 1, 1, true, server_remove },
    { 0 }
};
