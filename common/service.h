/*
 * service.h - what main() of every service is: harden, read settings, set up log, loop, bus and operations listener,
 * tell systemd, run, drain on SIGTERM.
 *
 * Options of every program: --help, --version, --show-config, --config FILE.  Exit codes: 0 done, 1 failed while
 * running, 2 misuse or bad settings, 3 something it needs at start is missing (port in use, key file, directory).
 */
#ifndef COMMON_SERVICE_H
#define COMMON_SERVICE_H

#include <stdbool.h>
#include <stddef.h>

#include "common/bus.h"
#include "common/config.h"
#include "common/error.h"
#include "common/issuers.h"
#include "common/loop.h"
#include "common/ops.h"

#define MCPGW_VERSION "1.0.0"

struct service_context {
    struct loop *loop;
    struct ops *ops;
    const void *config;              /* struct X_config */
    const struct issuers *issuers;   /* the list `issuers:`, checked; lives as long as the process; secrets: authz and keys only */
};

struct service_type {
    enum service role;
    const char *name;                /* "authz" */
    const char *purpose;             /* one line for --help */
    const struct setting *settings;  /* rows of services/X/config.def; common rows are added */
    size_t setting_count;
    size_t config_size;
    /* Extra subcommands (mcpgw-keys migrate); NULL name ends.  They get the loaded config and return an exit code. */
    const struct service_command { const char *name, *meaning; int (*run)(const void *config); } *commands;

    enum err (*start)(const struct service_context *context, void **ret_self, char *reterr, size_t reterr_size);
    void (*begin_drain)(void *self);     /* SIGTERM: stop taking, finish what is in work */
    bool (*is_drained)(void *self);      /* polled every 10 ms until true or drain_ms */
    void (*stop)(void **self);           /* frees all */
};

/* RLIMIT_CORE 0, PR_SET_DUMPABLE 0, PR_SET_NO_NEW_PRIVS, SIGPIPE ignored, M_ARENA_MAX 2, umask 077; SIGTERM and SIGINT
 * are blocked, for the signalfd. */
enum err service_harden(void) MUST_CHECK;
int service_main(const struct service_type *type, int argc, char **argv);

#endif
