/* keygen.c - mcpgw keygen: one CURVE key pair for each role, for a bus over tcp. */
#include <stdio.h>

#include "cli/cli.h"
#include "common/curve.h"

static enum exit_code keygen(struct cli *cli, const struct arguments *arguments)
{
    const bool is_forced = arguments_value(arguments, "force") != NULL;
    char why[256] = "";

    (void)cli;
    if (curve_make_keys(arguments->positional[0], is_forced, why, sizeof why) != ERR_OK) {
        complain("%s", why);
        return EXIT_REFUSED;
    }
    printf("Keys are in %s. Give each process its own role's .key and everybody's .pub (MCPGW_BUS_KEYS).\n",
           arguments->positional[0]);
    return EXIT_DONE;
}

static const struct option_row options[] = { { "force", NULL, "replace keys that are there" }, { 0 } };

const struct command keygen_commands[] = {
    { "keygen", "", "DIR", "make a CURVE key pair for each role, for tcp between hosts",
      "  mcpgw keygen /etc/mcpgw/bus\n", options, 1, 1, false, keygen },
    { 0 }
};
