/* cli.h - mcpgw, the operator's command: what its files share.  One row of a group's table is one command. */
#ifndef CLI_CLI_H
#define CLI_CLI_H

#include <stdbool.h>

#include "cli/arguments.h"
#include "common/secret.h"

/* Exit codes, the same everywhere. */
enum exit_code { EXIT_DONE = 0, EXIT_REFUSED = 1, EXIT_MISUSE = 2, EXIT_UNREACHABLE = 3 };

struct cli {
    char url[1024];              /* of the gateway, without a slash at its end */
    struct secret api_key;
    bool is_json;
    bool is_yes;                 /* --yes: asks nothing */
};

struct command {
    const char *group, *name;    /* name "": the group is the command */
    const char *arguments;       /* as help shows them */
    const char *purpose;
    const char *examples;        /* lines of help, or NULL */
    const struct option_row *options;    /* NULL: none but the common ones */
    size_t least, most;          /* positional arguments */
    bool needs_api;              /* the address and the key are to be known before it runs */
    enum exit_code (*run)(struct cli *cli, const struct arguments *arguments);
};

/* Tables end with a row of zeroes. */
extern const struct command key_commands[], server_commands[], tenant_commands[], user_commands[], session_commands[],
    audit_commands[], usage_commands[], stats_commands[], status_commands[], doctor_commands[], keygen_commands[], bus_commands[], docs_commands[], identity_commands[],
    issuer_commands[], token_commands[];

/* "mcpgw: " and the sentence on standard error. */
void complain(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* True with --yes or when a person at the terminal says so; complains with the remedy when nobody can be asked. */
bool confirm(const struct cli *cli, const char *what, const char *object, enum exit_code *ret_exit);

#endif
