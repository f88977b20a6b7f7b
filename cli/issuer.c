/* issuer.c - mcpgw issuer: whose tokens are accepted, and what is known of their keys. */
#include "cli/show.h"

#define LIST_MAX 1000u

static enum exit_code issuer_list(struct cli *cli, const struct arguments *arguments)
{
    static const struct table_column columns[] = {
        { "NAME", "name" }, { "ISSUER", "issuer" }, { "STATE", "state" }, { "KEYS", "keys" }, { "FETCHED", "fetchedAt" },
        { "NEXT", "nextFetchAt" }, { "FAILURES", "failures" }, { "LAST ERROR", "lastError" }, { 0 }
    };

    (void)arguments;
    return show_list(cli, "/api/v1/issuers", LIST_MAX, columns);
}

const struct command issuer_commands[] = {
    { "issuer", "list", "", "issuers whose tokens are accepted, and how fresh their keys are", "  mcpgw issuer list --json\n",
      NULL, 0, 0, true, issuer_list },
    { 0 }
};
