/* key.c - mcpgw key: API keys over the management API.  A key's value is printed once, when it is made. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli/environment.h"
#include "cli/import.h"
#include "cli/show.h"

#define PATH_SIZE 512u
#define LIST_MAX  1000000u

/* Without any, the API says which there are. */
static void add_scopes(json_t *body, const struct arguments *arguments)
{
    json_t *scopes = NULL;

    for (size_t i = 0; i < arguments->option_count; i++) {
        const char *text = arguments->options[i].value;

        if (strcmp(arguments->options[i].name, "scope") != 0 && strcmp(arguments->options[i].name, "scopes") != 0)
            continue;
        if (scopes == NULL)
            scopes = json_array();
        for (; *text != '\0'; text += *text == ',') {
            size_t length = strcspn(text, ",");

            json_array_append_new(scopes, json_stringn(text, length));
            text += length;
        }
    }
    if (scopes != NULL)
        json_object_set_new(body, "scopes", scopes);
}

/* A repeatable option, or one with commas, as a list. */
static void add_list(json_t *body, const char *name, const struct arguments *arguments, const char *option)
{
    json_t *list = NULL;

    for (size_t i = 0; i < arguments->option_count; i++) {
        const char *text = arguments->options[i].value;

        if (strcmp(arguments->options[i].name, option) != 0)
            continue;
        if (list == NULL)
            list = json_array();
        for (; *text != '\0'; text += *text == ',') {
            size_t length = strcspn(text, ",");

            json_array_append_new(list, json_stringn(text, length));
            text += length;
        }
    }
    if (list != NULL)
        json_object_set_new(body, name, list);
}

static bool add_expiry(json_t *body, const char *text)
{
    uint64_t seconds;

    if (text == NULL)
        return true;
    if (strcmp(text, "never") == 0) {
        json_object_set_new(body, "expiresIn", json_null());
        return true;
    }
    if (duration_parse(text, &seconds) != ERR_OK) {
        complain("--expires-in: %s is no time span; say 3600, 12h, 90d or never", text);
        return false;
    }
    json_object_set_new(body, "expiresIn", json_integer((json_int_t)seconds));
    return true;
}

static bool add_rate(json_t *body, const char *text)
{
    uint64_t requests, window_s;

    if (text == NULL)
        return true;
    if (rate_parse(text, &requests, &window_s) != ERR_OK) {
        complain("--rate: %s is no limit; say REQUESTS/WINDOW, such as 1000/1h", text);
        return false;
    }
    json_object_set_new(body, "rateLimit",
                        json_pack("{s:I, s:I}", "requests", (json_int_t)requests, "window", (json_int_t)window_s));
    return true;
}

static bool add_metadata(json_t *body, const char *text)
{
    json_error_t error;
    json_t *metadata;

    if (text == NULL)
        return true;
    metadata = json_loads(text, 0, &error);
    if (metadata == NULL) {
        complain("--metadata: no JSON: %s", error.text);
        return false;
    }
    json_object_set_new(body, "metadata", metadata);
    return true;
}

static void add_text(json_t *body, const char *name, const char *text)
{
    if (text != NULL)
        json_object_set_new(body, name, json_string(text));
}


static void add_reach(json_t *body, const struct arguments *arguments)
{
    add_list(body, "allowedIps", arguments, "allow-ip");
    add_list(body, "servers", arguments, "server");
    add_list(body, "tools", arguments, "tool");
    add_text(body, "environment", arguments_value(arguments, "environment"));
}

/* One member of mcpServers: the address of a server behind the gateway and the key. */
static void add_client(const struct cli *cli, json_t *servers, const char *slug, const char *key)
{
    char url[sizeof cli->url + 80];

    snprintf(url, sizeof url, "%s/mcp/%s", cli->url, slug);
    json_object_set_new(servers, slug,
                        json_pack("{s:s, s:s, s:{s:s}}", "type", "http", "url", url, "headers", "x-api-key", key));
}

/* The servers that the key names, else those that there are. */
static void add_clients(struct cli *cli, json_t *servers, const json_t *made, const char *key)
{
    json_t *named = json_object_get(made, "servers"), *answer = NULL, *item;
    size_t i;

    if (!json_is_array(named) && api_call(cli, "GET", "/api/v1/servers?limit=10", NULL, &answer) == EXIT_DONE)
        named = json_object_get(answer, "items");
    json_array_foreach(named, i, item) {
        const char *slug = json_string_value(json_is_string(item) ? item : json_object_get(item, "slug"));

        if (slug != NULL)
            add_client(cli, servers, slug, key);
    }
    json_decref(answer);
}

/* What MCP clients (Claude Code's .mcp.json, Cursor's mcp.json and others) read, ready to be pasted. */
static void print_clients(struct cli *cli, const json_t *made)
{
    const char *key = json_string_value(json_object_get(made, "key"));
    const json_t *scopes = json_object_get(made, "scopes"), *scope;
    json_t *servers = json_object(), *config;
    bool may_proxy = false;
    size_t i;

    json_array_foreach(scopes, i, scope)
        may_proxy = may_proxy || strcmp(json_string_value(scope), "proxy") == 0 || strcmp(json_string_value(scope), "admin") == 0;
    if (key != NULL && may_proxy)
        add_clients(cli, servers, made, key);
    config = json_pack("{s:o}", "mcpServers", servers);
    if (json_object_size(servers) > 0) {
        puts("\nFor MCP clients, such as .mcp.json of Claude Code or mcp.json of Cursor:");
        json_dumpf(config, stdout, JSON_INDENT(2));
        puts("");
    }
    json_decref(config);
}

/* Takes the answer, which holds a key's new value. */
static void show_made(struct cli *cli, json_t *answer)
{
    show_object(cli, answer);
    if (!cli->is_json) {
        print_clients(cli, answer);
        fputs("The key is shown this once: keep it now.\n", stderr);
    }
    json_decref(answer);
}

static enum exit_code key_create(struct cli *cli, const struct arguments *arguments)
{
    json_t *body = json_object(), *answer = NULL;
    enum exit_code result = EXIT_MISUSE;

    add_text(body, "name", arguments_value(arguments, "name"));
    add_text(body, "userId", arguments_value(arguments, "user"));
    add_text(body, "tenantId", arguments_value(arguments, "tenant"));
    add_scopes(body, arguments);
    add_reach(body, arguments);
    if (add_expiry(body, arguments_value(arguments, "expires-in"))
        && add_rate(body, arguments_value(arguments, "rate"))
        && add_metadata(body, arguments_value(arguments, "metadata")))
        result = api_call(cli, "POST", "/api/v1/keys", body, &answer);
    json_decref(body);
    if (result != EXIT_DONE)
        return result;
    show_made(cli, answer);
    return EXIT_DONE;
}

static enum exit_code key_list(struct cli *cli, const struct arguments *arguments)
{
    static const struct table_column columns[] = {
        { "ID", "id" }, { "NAME", "name" }, { "START", "start" }, { "SCOPES", "scopes" }, { "ENABLED", "enabled" },
        { "REVOKED", "revokedAt" }, { "EXPIRES", "expiresAt" }, { "USER", "userId" }, { 0 }
    };
    static const char *const filters[][2] = { { "name", "name" }, { "state", "state" }, { "user", "user" }, { "tenant", "tenant" },
                                              { "expires-before", "expiresBefore" } };
    char path[PATH_SIZE] = "/api/v1/keys";
    uint64_t limit;

    if (arguments_number(arguments, "limit", 1, LIST_MAX, LIST_MAX, &limit) != ERR_OK) {
        complain("--limit: a number from 1");
        return EXIT_MISUSE;
    }
    for (size_t i = 0; i < sizeof filters / sizeof filters[0]; i++) {
        if (!api_query(path, sizeof path, filters[i][1], arguments_value(arguments, filters[i][0]))) {
            complain("--%s: too long", filters[i][0]);
            return EXIT_MISUSE;
        }
    }
    return show_list(cli, path, limit, columns);
}

/* One call for each id; the first that fails ends it. */
static enum exit_code each_key(struct cli *cli, const struct arguments *arguments, const char *method, const char *more,
                               const json_t *body)
{
    enum exit_code result = EXIT_DONE;

    for (size_t i = 0; i < arguments->count && result == EXIT_DONE; i++) {
        char path[PATH_SIZE];

        if (*arguments->positional[i] == '\0' || !api_path(path, sizeof path, "keys", arguments->positional[i], more)) {
            complain("%.60s is no id of a key", arguments->positional[i]);
            return EXIT_MISUSE;
        }
        result = show_call(cli, method, path, body);
    }
    return result;
}

static enum exit_code key_show(struct cli *cli, const struct arguments *arguments)
{
    return each_key(cli, arguments, "GET", "", NULL);
}

static enum exit_code key_enable(struct cli *cli, const struct arguments *arguments)
{
    return each_key(cli, arguments, "POST", "/enable", NULL);
}

static enum exit_code key_disable(struct cli *cli, const struct arguments *arguments)
{
    return each_key(cli, arguments, "POST", "/disable", NULL);
}

static enum exit_code key_revoke(struct cli *cli, const struct arguments *arguments)
{
    const char *reason = arguments_value(arguments, "reason");
    json_t *body = reason != NULL ? json_pack("{s:s}", "reason", reason) : NULL;
    enum exit_code result = EXIT_REFUSED;

    if (confirm(cli, "revoke", arguments->positional[0], &result))
        result = each_key(cli, arguments, "POST", "/revoke", body);
    json_decref(body);
    return result;
}

static enum exit_code key_rotate(struct cli *cli, const struct arguments *arguments)
{
    const char *overlap = arguments_value(arguments, "overlap");
    enum exit_code result = EXIT_REFUSED;
    json_t *body = NULL, *answer = NULL;
    uint64_t seconds = 1;
    char path[PATH_SIZE];

    if (overlap != NULL && strcmp(overlap, "0") == 0)
        seconds = 0;
    else if (overlap != NULL && duration_parse(overlap, &seconds) != ERR_OK) {
        complain("--overlap: %s is no time span; say 0, 3600, 12h or 7d", overlap);
        return EXIT_MISUSE;
    }
    if (!api_path(path, sizeof path, "keys", arguments->positional[0], "/rotate")) {
        complain("%.60s is no id of a key", arguments->positional[0]);
        return EXIT_MISUSE;
    }
    if (seconds == 0 && !confirm(cli, "end the present value of", arguments->positional[0], &result))
        return result;
    if (overlap != NULL)
        body = json_pack("{s:I}", "overlap", (json_int_t)seconds);
    result = api_call(cli, "POST", path, body, &answer);
    json_decref(body);
    if (result == EXIT_DONE)
        show_made(cli, answer);
    return result;
}

static enum exit_code key_delete(struct cli *cli, const struct arguments *arguments)
{
    enum exit_code result = EXIT_REFUSED;

    if (!confirm(cli, "delete", arguments->positional[0], &result))
        return result;
    return each_key(cli, arguments, "DELETE", "", NULL);
}

static enum exit_code key_verify(struct cli *cli, const struct arguments *arguments)
{
    const char *path = arguments_value(arguments, "key-file");
    char key[SECRET_SIZE_MAX + 2] = "";
    json_t *body, *answer = NULL;
    enum exit_code result;
    size_t size = 0;

    if (file_read(path != NULL ? path : "/dev/stdin", key, sizeof key, &size) != ERR_OK) {
        complain("the key cannot be read from %s", path != NULL ? path : "standard input");
        return EXIT_MISUSE;
    }
    key[strcspn(key, " \t\r\n")] = '\0';
    body = json_pack("{s:s}", "key", key);
    OPENSSL_cleanse(key, sizeof key);
    if (body == NULL) {
        complain("that is no key");
        return EXIT_MISUSE;
    }
    result = api_call(cli, "POST", "/api/v1/keys/verify", body, &answer);
    json_decref(body);
    if (result == EXIT_DONE) {
        show_object(cli, answer);
        result = json_is_true(json_object_get(answer, "isValid")) ? EXIT_DONE : EXIT_REFUSED;
    }
    json_decref(answer);
    return result;
}

/* --older-than 30d as a moment of RFC 3339. */
static bool add_moment(json_t *filter, const char *member, const char *option, const char *text)
{
    char moment[32];
    uint64_t seconds;
    time_t at;
    struct tm utc;

    if (text == NULL)
        return true;
    if (duration_parse(text, &seconds) != ERR_OK) {
        complain("--%s: %s is no time span; say 30d", option, text);
        return false;
    }
    at = time(NULL) + (strcmp(member, "expiresBefore") == 0 ? (time_t)seconds : -(time_t)seconds);
    gmtime_r(&at, &utc);
    strftime(moment, sizeof moment, "%Y-%m-%dT%H:%M:%SZ", &utc);
    json_object_set_new(filter, member, json_string(moment));
    return true;
}

static bool add_filter(json_t *body, const struct arguments *arguments)
{
    json_t *filter = json_object(), *ids = json_array();
    const char *unused = arguments_value(arguments, "unused-for");
    uint64_t seconds = 0;
    bool is_good;

    for (size_t i = 1; i < arguments->count; i++)
        json_array_append_new(ids, json_string(arguments->positional[i]));
    if (json_array_size(ids) > 0)
        json_object_set(filter, "ids", ids);
    json_decref(ids);
    add_text(filter, "name", arguments_value(arguments, "name"));
    add_text(filter, "userId", arguments_value(arguments, "user"));
    add_text(filter, "tenantId", arguments_value(arguments, "tenant"));
    is_good = add_moment(filter, "createdBefore", "older-than", arguments_value(arguments, "older-than"))
              && add_moment(filter, "expiresBefore", "expires-within", arguments_value(arguments, "expires-within"));
    if (is_good && unused != NULL && duration_parse(unused, &seconds) != ERR_OK) {
        complain("--unused-for: %s is no time span; say 30d", unused);
        is_good = false;
    }
    if (seconds != 0)
        json_object_set_new(filter, "unusedFor", json_integer((json_int_t)seconds));
    json_object_set_new(body, "filter", filter);
    return is_good;
}

/* Page by page until nothing is left that the filter picks; a dry run shows the first page. */
static enum exit_code change_pages(struct cli *cli, const json_t *body)
{
    enum exit_code result = EXIT_DONE;
    bool has_more = true;

    while (result == EXIT_DONE && has_more) {
        json_t *answer = NULL;

        result = api_call(cli, "POST", "/api/v1/keys/bulk", body, &answer);
        if (result == EXIT_DONE)
            show_object(cli, answer);
        has_more = json_is_true(json_object_get(answer, "more")) && !json_is_true(json_object_get(answer, "dryRun"))
                   && json_integer_value(json_object_get(answer, "count")) > 0;
        json_decref(answer);
    }
    return result;
}

static enum exit_code key_bulk(struct cli *cli, const struct arguments *arguments)
{
    const char *action = arguments->positional[0];
    const bool is_dry_run = arguments_value(arguments, "dry-run") != NULL;
    json_t *body = json_pack("{s:s, s:b, s:i}", "action", action, "dryRun", is_dry_run, "limit", 500);
    enum exit_code result = EXIT_MISUSE;

    if (body == NULL) {
        complain("the action must be UTF-8 text");
        return EXIT_MISUSE;
    }
    add_text(body, "reason", arguments_value(arguments, "reason"));
    if (add_filter(body, arguments)
        && (is_dry_run || strcmp(action, "enable") == 0 || strcmp(action, "disable") == 0
            || confirm(cli, action, "all keys that this picks", &result)))
        result = change_pages(cli, body);
    json_decref(body);
    return result;
}

static const struct option_row import_options[] = { { "dry-run", NULL, "only judge the rows" },
                                                { "skip-known", NULL, "leave out keys that are there already" }, { 0 } };
static const struct option_row bulk_options[] = {
    { "dry-run", NULL, "only show what would be changed" },
    { "name", "NAME", "keys of this name" },
    { "user", "ID", "keys of this owner" },
    { "tenant", "ID", "keys of this tenant" },
    { "older-than", "SPAN", "keys made so long ago, such as 365d" },
    { "unused-for", "SPAN", "keys not used for so long" },
    { "expires-within", "SPAN", "keys that end so soon" },
    { "reason", "TEXT", "kept with the keys and in the trail" },
    { "yes", NULL, "do not ask" },
    { 0 }
};
static const struct option_row create_options[] = {
    { "name", "NAME", "for people" },
    { "scope", "SCOPE", "read, write, admin, proxy, metrics or health; may be repeated" },
    { "scopes", "LIST", "the same, several with commas between" },
    { "expires-in", "SPAN", "3600, 12h, 90d or never" },
    { "rate", "N/SPAN", "a limit of its own, such as 1000/1h" },
    { "metadata", "JSON", "an object kept with the key" },
    { "allow-ip", "CIDR", "an address or network it may be used from; may be repeated" },
    { "server", "SLUG", "a server it may reach, and nothing else; may be repeated" },
    { "tool", "NAME", "a tool it may call, and no other; may be repeated" },
    { "environment", "NAME", "a label, such as production" },
    { "user", "ID", "the owner, when it is not the caller (administrators)" },
    { "tenant", "ID", "the tenant, when the owner has several" },
    { 0 }
};
static const struct option_row list_options[] = {
    { "limit", "N", "at most so many, newest first" },
    { "name", "TEXT", "whose name begins so" },
    { "state", "STATE", "active, disabled, expired or revoked" },
    { "user", "ID", "of this owner" },
    { "tenant", "ID", "of this tenant" },
    { "expires-before", "TIME", "such as 2027-01-31T00:00:00Z" },
    { 0 }
};
static const struct option_row revoke_options[] = {
    { "reason", "TEXT", "kept with the key and in the trail" }, { "yes", NULL, "do not ask" }, { 0 }
};
static const struct option_row rotate_options[] = {
    { "overlap", "SPAN", "how long the present value works still: 0, 1h, 7d" }, { "yes", NULL, "do not ask" }, { 0 }
};
static const struct option_row delete_options[] = { { "yes", NULL, "do not ask" }, { 0 } };
static const struct option_row verify_options[] = {
    { "key-file", "FILE", "a file that holds the key; else standard input" }, { 0 }
};

const struct command key_commands[] = {
    { "key", "create", "", "make a key; its value is shown once",
      "  mcpgw key create --name ci --scope proxy --expires-in 90d --rate 1000/1h\n"
      "  mcpgw key create --name laptop --scope proxy --server example --allow-ip 192.0.2.0/24\n"
      "  mcpgw key create --name robot --scope read --scope proxy --json | jq -r .key > robot.key\n",
      create_options, 0, 0, true, key_create },
    { "key", "list", "", "all keys, newest first", "  mcpgw key list --json | jq -r 'select(.enabled) | .id'\n"
      "  mcpgw key list --state active --expires-before 2027-01-31T00:00:00Z\n",
      list_options, 0, 0, true, key_list },
    { "key", "show", "ID...", "what is known of a key", "  mcpgw key show KEY_ID\n", NULL, 1, ARGUMENTS_MAX, true,
      key_show },
    { "key", "enable", "ID...", "let a disabled key be used again", "  mcpgw key enable KEY_ID\n", NULL, 1,
      ARGUMENTS_MAX, true, key_enable },
    { "key", "disable", "ID...", "refuse a key until it is enabled", "  mcpgw key disable KEY_ID\n", NULL, 1,
      ARGUMENTS_MAX, true, key_disable },
    { "key", "revoke", "ID...", "refuse a key for ever; returns when it is dead everywhere",
      "  mcpgw key revoke KEY_ID --reason leaked --yes\n", revoke_options, 1, ARGUMENTS_MAX, true, key_revoke },
    { "key", "rotate", "ID", "give a key another value; the present one works until the overlap ends",
      "  mcpgw key rotate KEY_ID --overlap 7d\n  mcpgw key rotate KEY_ID --overlap 0 --yes\n", rotate_options, 1, 1, true,
      key_rotate },
    { "key", "delete", "ID...", "remove a key and its row", "  mcpgw key delete KEY_ID --yes\n", delete_options, 1,
      ARGUMENTS_MAX, true, key_delete },
    { "key", "import", "FILE", "keys or digests of another system, as CSV or JSON; all rows are judged first",
      "  mcpgw key import keys.csv --dry-run\n"
      "  printf 'hash,userId,scopes\\n%s,alice,read proxy\\n' \"$HASH\" | mcpgw key import -\n",
      import_options, 1, 1, true, key_import },
    { "key", "bulk", "ACTION [ID...]", "revoke, disable, enable or delete all keys that the options pick",
      "  mcpgw key bulk disable --unused-for 90d --dry-run\n  mcpgw key bulk revoke --user USER_ID --reason 'left' --yes\n",
      bulk_options, 1, ARGUMENTS_MAX, true, key_bulk },
    { "key", "verify", "", "is this key valid, and whose is it; exit code 1 when not",
      "  mcpgw key verify --key-file robot.key\n  mcpgw key verify < robot.key\n", verify_options, 0, 0, true,
      key_verify },
    { 0 }
};
