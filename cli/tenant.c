/* tenant.c - mcpgw tenant: who shares keys, limits and a policy; suspending one refuses it everywhere. */
#include <string.h>

#include "cli/show.h"

#define PATH_SIZE 512u
#define LIST_MAX  1000000u

/* A rule of the policy: a number, a span, or "none" for no rule. */
static bool add_rule(json_t *policy, const struct arguments *arguments, const char *option, const char *member, bool is_span)
{
    const char *text = arguments_value(arguments, option);
    uint64_t value;

    if (text == NULL)
        return true;
    if (strcmp(text, "none") == 0) {
        json_object_set_new(policy, member, json_null());
        return true;
    }
    if (is_span ? duration_parse(text, &value) != ERR_OK
                : arguments_number(arguments, option, 1, INT32_MAX, 0, &value) != ERR_OK) {
        complain("--%s: %s is no %s; say %s or none", option, text, is_span ? "time span" : "number", is_span ? "90d" : "100");
        return false;
    }
    json_object_set_new(policy, member, json_integer((json_int_t)value));
    return true;
}

static void add_scopes(json_t *policy, const char *text)
{
    json_t *scopes;

    if (text == NULL)
        return;
    if (strcmp(text, "any") == 0) {
        json_object_set_new(policy, "scopes", json_null());
        return;
    }
    scopes = json_array();
    for (; *text != '\0'; text += *text == ',') {
        const size_t length = strcspn(text, ",");

        json_array_append_new(scopes, json_stringn(text, length));
        text += length;
    }
    json_object_set_new(policy, "scopes", scopes);
}

/* A limit: N/SPAN, or "none". */
static bool add_limit(json_t *limits, const struct arguments *arguments, const char *option, const char *member)
{
    const char *text = arguments_value(arguments, option);
    uint64_t requests, window_s;

    if (text == NULL)
        return true;
    if (strcmp(text, "none") == 0) {
        json_object_set_new(limits, member, json_null());
        return true;
    }
    if (rate_parse(text, &requests, &window_s) != ERR_OK) {
        complain("--%s: %s is no limit; say REQUESTS/WINDOW, such as 1000/1h, or none", option, text);
        return false;
    }
    json_object_set_new(limits, member,
                        json_pack("{s:I, s:I}", "requests", (json_int_t)requests, "window", (json_int_t)window_s));
    return true;
}

static void add_unless_empty(json_t *body, const char *name, json_t *object)
{
    if (json_object_size(object) > 0)
        json_object_set(body, name, object);
    json_decref(object);
}

/* NULL: an option cannot be used, and that has been told. */
static json_t *body_of(const struct arguments *arguments)
{
    static const char *const texts[] = { "id", "slug", "name" };
    json_t *body = json_object(), *policy = json_object(), *limits = json_object();
    bool is_usable;

    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        if (arguments_value(arguments, texts[i]) != NULL)
            json_object_set_new(body, texts[i], json_string(arguments_value(arguments, texts[i])));
    }
    add_scopes(policy, arguments_value(arguments, "scopes"));
    if (arguments_value(arguments, "key-prefix") != NULL)
        json_object_set_new(policy, "keyPrefix", strcmp(arguments_value(arguments, "key-prefix"), "none") == 0
                                ? json_null() : json_string(arguments_value(arguments, "key-prefix")));
    is_usable = add_rule(policy, arguments, "max-key-life", "maxKeyLife", true)
        && add_rule(policy, arguments, "max-keys", "maxKeys", false)
        && add_rule(policy, arguments, "rotate-after", "rotateAfter", true)
        && add_rule(policy, arguments, "idle-after", "idleAfter", true)
        && add_limit(limits, arguments, "limit", "tenant") && add_limit(limits, arguments, "user-limit", "perUser");
    add_unless_empty(body, "policy", policy);
    add_unless_empty(body, "limits", limits);
    if (is_usable)
        return body;
    json_decref(body);
    return NULL;
}

static enum exit_code call_tenant(struct cli *cli, const struct arguments *arguments, const char *method, const char *more,
                                  const json_t *body)
{
    char path[PATH_SIZE];

    if (*arguments->positional[0] == '\0' || !api_path(path, sizeof path, "tenants", arguments->positional[0], more)) {
        complain("%.60s is no id of a tenant", arguments->positional[0]);
        return EXIT_MISUSE;
    }
    return show_call(cli, method, path, body);
}

static enum exit_code tenant_create(struct cli *cli, const struct arguments *arguments)
{
    json_t *body = body_of(arguments);
    enum exit_code result;

    if (body == NULL)
        return EXIT_MISUSE;
    json_object_set_new(body, "slug", json_string(arguments->positional[0]));
    result = show_call(cli, "POST", "/api/v1/tenants", body);
    json_decref(body);
    return result;
}

static enum exit_code tenant_update(struct cli *cli, const struct arguments *arguments)
{
    json_t *body = body_of(arguments);
    enum exit_code result;

    if (body == NULL)
        return EXIT_MISUSE;
    result = call_tenant(cli, arguments, "PATCH", "", body);
    json_decref(body);
    return result;
}

static enum exit_code tenant_list(struct cli *cli, const struct arguments *arguments)
{
    static const struct table_column columns[] = {
        { "ID", "id" }, { "SLUG", "slug" }, { "NAME", "name" }, { "STATE", "state" }, { "ORGANIZATION", "organization" },
        { "MAX LIFE", "policy.maxKeyLife" }, { "MAX KEYS", "policy.maxKeys" },
        { "LIMIT", "limits.tenant.requests" }, { "PER", "limits.tenant.window" }, { 0 }
    };

    (void)arguments;
    return show_list(cli, "/api/v1/tenants", LIST_MAX, columns);
}

static enum exit_code tenant_show(struct cli *cli, const struct arguments *arguments)
{
    return call_tenant(cli, arguments, "GET", "", NULL);
}

static enum exit_code tenant_suspend(struct cli *cli, const struct arguments *arguments)
{
    const char *reason = arguments_value(arguments, "reason");
    json_t *body = reason != NULL ? json_pack("{s:s}", "reason", reason) : NULL;
    enum exit_code result = call_tenant(cli, arguments, "POST", "/suspend", body);

    json_decref(body);
    return result;
}

static enum exit_code tenant_resume(struct cli *cli, const struct arguments *arguments)
{
    return call_tenant(cli, arguments, "POST", "/resume", NULL);
}

static enum exit_code tenant_delete(struct cli *cli, const struct arguments *arguments)
{
    enum exit_code result = EXIT_REFUSED;

    if (!confirm(cli, "delete", arguments->positional[0], &result))
        return result;
    return call_tenant(cli, arguments, "DELETE", "", NULL);
}

#define POLICY_OPTIONS \
    { "name", "NAME", "for people" }, \
    { "max-key-life", "SPAN", "longest life of a key, such as 90d; none: no rule" }, \
    { "max-keys", "N", "most keys that are neither revoked nor expired; none: no rule" }, \
    { "scopes", "LIST", "what its keys may hold, with commas between; any: no rule" }, \
    { "rotate-after", "SPAN", "age at which a key must have been rotated; none: no rule" }, \
    { "idle-after", "SPAN", "a key unused for so long is disabled; none: no rule" }, \
    { "key-prefix", "TEXT", "what new keys begin with, such as acme_; none: mcp_" }, \
    { "limit", "N/SPAN", "requests of all its callers together, such as 5000/1h; none: no limit" }, \
    { "user-limit", "N/SPAN", "requests of each user in it, over all their keys, tokens and sessions; none: no limit" }

static const struct option_row create_options[] = {
    { "id", "ID", "an id of your own, such as user:<id>; else one is made" }, POLICY_OPTIONS, { 0 }
};
static const struct option_row update_options[] = { { "slug", "SLUG", "another slug" }, POLICY_OPTIONS, { 0 } };
static const struct option_row suspend_options[] = { { "reason", "TEXT", "kept with the tenant and in the trail" }, { 0 } };
static const struct option_row delete_options[] = { { "yes", NULL, "do not ask" }, { 0 } };

const struct command tenant_commands[] = {
    { "tenant", "create", "SLUG", "a tenant; organizations of Better-Auth are tenants already",
      "  mcpgw tenant create acme --name 'Acme Inc.' --max-key-life 90d --max-keys 100\n", create_options, 1, 1, true, tenant_create },
    { "tenant", "list", "", "all tenants by slug", "  mcpgw tenant list --json\n", NULL, 0, 0, true, tenant_list },
    { "tenant", "show", "ID", "what is known of a tenant", "  mcpgw tenant show TENANT_ID\n", NULL, 1, 1, true, tenant_show },
    { "tenant", "update", "ID", "slug, name, limits, and the policy of its keys",
      "  mcpgw tenant update TENANT_ID --scopes read,proxy --limit 5000/1h\n",
      update_options, 1, 1, true, tenant_update },
    { "tenant", "suspend", "ID", "refuse everybody in it, everywhere, until it is resumed",
      "  mcpgw tenant suspend TENANT_ID --reason 'unpaid'\n", suspend_options, 1, 1, true, tenant_suspend },
    { "tenant", "resume", "ID", "let a suspended tenant in again", "  mcpgw tenant resume TENANT_ID\n", NULL, 1, 1, true, tenant_resume },
    { "tenant", "delete", "ID", "remove a tenant in which nothing is left", "  mcpgw tenant delete TENANT_ID --yes\n", delete_options,
      1, 1, true, tenant_delete },
    { 0 }
};
