/* bus_replay.h - an edge of one role that plays recorded requests at the first worker that says READY. */
#ifndef CLI_BUS_REPLAY_H
#define CLI_BUS_REPLAY_H

#include <stdint.h>

#include "cli/cli.h"

/* Plays every request of DIR that goes to `role`, by file name; prints each and its replies. */
enum exit_code replay_directory(const char *directory, const char *socket, const char *role, uint64_t wait_s);

#endif
