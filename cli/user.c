/* user.c - mcpgw user, mcpgw session: the people of a tenant, their suspension, and what they are signed in with. */
#include "cli/show.h"

#define PATH_SIZE 512u
#define LIST_MAX  1000000u

static enum exit_code call_object(struct cli *cli, const char *method, const char *collection, const struct arguments *arguments,
                                  const char *more)
{
    const char *id = arguments->positional[0], *reason = arguments_value(arguments, "reason");
    json_t *body = reason != NULL ? json_pack("{s:s}", "reason", reason) : NULL;
    enum exit_code result = EXIT_MISUSE;
    char path[PATH_SIZE];

    if (*id == '\0' || !api_path(path, sizeof path, collection, id, more))
        complain("%.60s is no id", id);
    else
        result = show_call(cli, method, path, body);
    json_decref(body);
    return result;
}

static enum exit_code user_list(struct cli *cli, const struct arguments *arguments)
{
    static const struct table_column columns[] = {
        { "ID", "id" }, { "NAME", "name" }, { "EMAIL", "email" }, { "ROLE", "memberRole" }, { "SUSPENDED", "suspended" },
        { "SESSIONS", "sessions" }, { "CREATED", "createdAt" }, { 0 }
    };
    char path[PATH_SIZE] = "/api/v1/users?limit=100";

    if (!api_query(path, sizeof path, "tenant", arguments_value(arguments, "tenant"))) {
        complain("--tenant: too long");
        return EXIT_MISUSE;
    }
    return show_list(cli, path, LIST_MAX, columns);
}

static enum exit_code user_show(struct cli *cli, const struct arguments *arguments)
{
    return call_object(cli, "GET", "users", arguments, "");
}

static enum exit_code user_suspend(struct cli *cli, const struct arguments *arguments)
{
    return call_object(cli, "POST", "users", arguments, "/suspend");
}

static enum exit_code user_resume(struct cli *cli, const struct arguments *arguments)
{
    return call_object(cli, "POST", "users", arguments, "/resume");
}

static enum exit_code user_sign_out(struct cli *cli, const struct arguments *arguments)
{
    return call_object(cli, "POST", "users", arguments, "/sign-out");
}

static enum exit_code session_list(struct cli *cli, const struct arguments *arguments)
{
    static const struct table_column columns[] = {
        { "ID", "id" }, { "CREATED", "createdAt" }, { "EXPIRES", "expiresAt" }, { "ADDRESS", "address" }, { "AGENT", "userAgent" }, { 0 }
    };
    char path[PATH_SIZE];

    if (*arguments->positional[0] == '\0' || !api_path(path, sizeof path, "users", arguments->positional[0], "/sessions")) {
        complain("%.60s is no id of a user", arguments->positional[0]);
        return EXIT_MISUSE;
    }
    return show_list(cli, path, LIST_MAX, columns);
}

static enum exit_code session_end(struct cli *cli, const struct arguments *arguments)
{
    return call_object(cli, "DELETE", "sessions", arguments, "");
}

static const struct option_row list_options[] = { { "tenant", "ID", "only those of this tenant" }, { 0 } };
static const struct option_row suspend_options[] = { { "reason", "TEXT", "kept with the user and in the trail" }, { 0 } };

const struct command user_commands[] = {
    { "user", "list", "", "users of one's tenant, or of another one", "  mcpgw user list --tenant TENANT_ID\n", list_options, 0, 0,
      true, user_list },
    { "user", "show", "ID", "what is known of a user", "  mcpgw user show USER_ID\n", NULL, 1, 1, true, user_show },
    { "user", "suspend", "ID", "refuse a user's keys, tokens and sessions, everywhere, until resumed",
      "  mcpgw user suspend USER_ID --reason 'left the company'\n", suspend_options, 1, 1, true, user_suspend },
    { "user", "resume", "ID", "let a suspended user in again", "  mcpgw user resume USER_ID\n", NULL, 1, 1, true, user_resume },
    { "user", "sign-out", "ID", "end all sessions of a user", "  mcpgw user sign-out USER_ID\n", NULL, 1, 1, true, user_sign_out },
    { 0 }
};
const struct command session_commands[] = {
    { "session", "list", "USER_ID", "what a user is signed in with", "  mcpgw session list USER_ID\n", NULL, 1, 1, true, session_list },
    { "session", "end", "ID", "end one session", "  mcpgw session end SESSION_ID\n", NULL, 1, 1, true, session_end },
    { 0 }
};
