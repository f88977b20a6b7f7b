/* import.h - the command `mcpgw key import`, whose row stands in key.c. */
#ifndef CLI_IMPORT_H
#define CLI_IMPORT_H

#include "cli/cli.h"

enum exit_code key_import(struct cli *cli, const struct arguments *arguments);

#endif
