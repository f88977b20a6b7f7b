/* environment.h - where the gateway is and which key opens it: --url, then the environment, then $MCPGW_HOME/env. */
#ifndef CLI_ENVIRONMENT_H
#define CLI_ENVIRONMENT_H

#include <stddef.h>

#include "cli/cli.h"
#include "common/error.h"

/* A whole file as text; ERR_NOT_FOUND, ERR_TOO_LARGE, ERR_UNAVAILABLE (errno says why). */
enum err file_read(const char *path, char *buffer, size_t size, size_t *ret_size) MUST_CHECK;
/* Fills url and api_key; complains with the remedy. */
enum err environment_load(struct cli *cli, const char *url) MUST_CHECK;

/* A variable of the environment, else of $MCPGW_HOME/env; NULL: neither has it, or it does not fit. */
const char *environment_value(const char *name, char *buffer, size_t size);

#endif
