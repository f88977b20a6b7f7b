/* doctor.c - mcpgw doctor: runs mcpgw-keys doctor, which knows the database, with the connection of this environment. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/environment.h"

extern char **environ;

/* Programs refuse MCPGW_ variables that are no settings of theirs; these are the command's own. */
static void clear_environment(void)
{
    static const char *const own[] = { "MCPGW_HOME", "MCPGW_URL", "MCPGW_API_KEY", "MCPGW_API_KEY_FILE", "MCPGW_LISTEN",
                                       "MCPGW_DATABASE_URL", "MCPGW_REDIS_URL", "MCPGW_BUILD", "MCPGW_IDENTITY_KEYS",
                                       "MCPGW_AUDIT_KEY", "MCPGW_AUDIT_CHECKPOINTS", "MCPGW_SETTINGS_edge", "MCPGW_SETTINGS_authz",
                                       "MCPGW_SETTINGS_ratelimit", "MCPGW_SETTINGS_keys", "MCPGW_SETTINGS_audit" };

    for (size_t i = 0; i < sizeof own / sizeof own[0]; i++)
        unsetenv(own[i]);
}

/* Beside this program, where they are installed together; else by PATH. */
static void name_program(char path[PATH_MAX])
{
    const ssize_t size = readlink("/proc/self/exe", path, PATH_MAX - 32);
    char *slash, *end;

    path[size > 0 ? size : 0] = '\0';
    slash = strrchr(path, '/');
    end = slash != NULL ? slash + 1 : path;
    snprintf(end, PATH_MAX - (size_t)(end - path), "mcpgw-keys");
    if (access(path, X_OK) != 0)
        snprintf(path, PATH_MAX, "mcpgw-keys");
}

static enum exit_code doctor(struct cli *cli, const struct arguments *arguments)
{
    char url[1024], path[PATH_MAX];
    static char command[] = "doctor", as_json[] = "--json", with_indexes[] = "--create-indexes";
    char *words[5] = { path, command };
    size_t count = 2;

    if (getenv("MCPGW_OWNER_DATABASE_URL") == NULL && getenv("MCPGW_OWNER_DATABASE_URL_FILE") == NULL) {
        if (environment_value("MCPGW_DATABASE_URL", url, sizeof url) == NULL) {
            complain("no database: set MCPGW_OWNER_DATABASE_URL, a Postgres URL for the owner of the database");
            return EXIT_MISUSE;
        }
        setenv("MCPGW_OWNER_DATABASE_URL", url, 1);
    }
    if (cli->is_json)
        words[count++] = as_json;
    if (arguments_value(arguments, "create-indexes") != NULL)
        words[count++] = with_indexes;
    clear_environment();
    name_program(path);
    fflush(stdout);
    execvp(path, words);
    complain("%s: %s", path, strerror(errno));
    return EXIT_MISUSE;
}

static const struct option_row options[] = {
    { "create-indexes", NULL, "make those that are missing, CONCURRENTLY: nobody waits for it" }, { 0 }
};

const struct command doctor_commands[] = {
    { "doctor", "", "", "what Better-Auth's table looks like, and what is wrong with it; exit code 1 with warnings, 2 when it cannot look",
      "  mcpgw doctor\n  mcpgw doctor --create-indexes\n  mcpgw doctor --json | jq 'select(.severity == \"error\")'\n",
      options, 0, 0, false, doctor },
    { 0 }
};
