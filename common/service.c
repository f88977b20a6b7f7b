/*
 * service.c - the life of every service process: options, settings, start, the loop, drain, exit code.
 *
 * Owns the process as a whole (limits, signals, pid and .ops files, systemd); knows nothing of what a service does.
 */
#include "common/service.h"

#include <errno.h>
#include <getopt.h>
#include <malloc.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <systemd/sd-daemon.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/metrics.h"

#define DRAIN_POLL_MS 10u

enum exit_code { EXIT_DONE, EXIT_FAILED, EXIT_MISUSE, EXIT_MISSING };

struct process {
    const struct service_type *type;
    struct setting *rows;            /* common ones, then the service's */
    size_t row_count;
    void *config;
    struct loop *loop;
    struct ops *ops;
    void *self;
    int signals;                     /* signalfd */
    char pid_path[512], ops_path[512];
    struct issuers *issuers;
    bool draining;
    uint64_t drain_until_us;
};

enum command { COMMAND_RUN, COMMAND_HELP, COMMAND_VERSION, COMMAND_SHOW };

struct invocation {
    enum command command;
    const char *file;                /* --config */
    const char *subcommand;
};

/* ---- the process as a whole --------------------------------------------------------------------- */

/* LeakSanitizer traces its own process, which an undumpable one forbids. */
#ifdef __SANITIZE_ADDRESS__
#define DUMPABLE 1
#else
#define DUMPABLE 0
#endif

enum err service_harden(void)
{
    const struct rlimit none = { 0, 0 };
    sigset_t blocked;

    umask(077);
    mallopt(M_ARENA_MAX, 2);
    /* A limit on the size of files is a full disk, which writes report, and no reason to die. */
    if (signal(SIGPIPE, SIG_IGN) == SIG_ERR || signal(SIGXFSZ, SIG_IGN) == SIG_ERR)
        return ERR_UNAVAILABLE;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGTERM);
    sigaddset(&blocked, SIGINT);
    if (sigprocmask(SIG_BLOCK, &blocked, NULL) != 0 || setrlimit(RLIMIT_CORE, &none) != 0
        || prctl(PR_SET_DUMPABLE, DUMPABLE, 0, 0, 0) != 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        return ERR_UNAVAILABLE;
    return ERR_OK;
}

static const struct common_config *common_of(const struct process *process)
{
    return process->config;    /* every config struct begins with it */
}

/* ---- options and settings ----------------------------------------------------------------------- */

static void print_help(const struct process *process)
{
    const struct service_type *type = process->type;

    printf("Usage: mcpgw-%s [--config FILE] [COMMAND]\n\n%s\n\n"
           "  --config FILE    read settings from a YAML file (MCPGW_CONFIG; the environment wins over it)\n"
           "  --show-config    print every setting with its source and exit\n"
           "  --version        print the version and exit\n"
           "  --help           print this and exit\n", type->name, type->purpose);
    if (type->commands != NULL && type->commands->name != NULL)
        printf("\nCommands:\n");
    for (const struct service_command *command = type->commands; command != NULL && command->name != NULL; command++)
        printf("  %-16s %s\n", command->name, command->meaning);
    printf("\nSettings:\n");
    settings_print_help(process->rows, process->row_count, stdout);
}

static bool read_options(int argc, char **argv, struct invocation *invocation)
{
    static const struct option options[] = {
        { "help", no_argument, NULL, 'h' },
        { "version", no_argument, NULL, 'v' },
        { "show-config", no_argument, NULL, 's' },
        { "config", required_argument, NULL, 'c' },
        { NULL, 0, NULL, 0 },
    };
    const char *file = getenv("MCPGW_CONFIG");
    int option;

    if (file != NULL && file[0] != '\0')
        invocation->file = file;
    while ((option = getopt_long(argc, argv, "h", options, NULL)) != -1) {
        if (option == 'h')
            invocation->command = COMMAND_HELP;
        else if (option == 'v')
            invocation->command = COMMAND_VERSION;
        else if (option == 's')
            invocation->command = COMMAND_SHOW;
        else if (option == 'c')
            invocation->file = optarg;
        else
            return false;
    }
    if (optind + 1 < argc) {
        fprintf(stderr, "%s: one command at most\n", argv[0]);
        return false;
    }
    invocation->subcommand = argv[optind];
    return true;
}

static bool join_rows(struct process *process)
{
    const struct service_type *type = process->type;

    process->row_count = common_settings_count + type->setting_count;
    process->rows = calloc(process->row_count, sizeof *process->rows);
    process->config = calloc(1, type->config_size);
    if (process->rows == NULL || process->config == NULL)
        return false;
    memcpy(process->rows, common_settings, common_settings_count * sizeof *process->rows);
    if (type->setting_count > 0)
        memcpy(process->rows + common_settings_count, type->settings, type->setting_count * sizeof *process->rows);
    return true;
}

static bool set_up_log(const struct process *process)
{
    static const char *const names[] = {
        [LOG_ERROR] = "error", [LOG_WARN] = "warn", [LOG_INFO] = "info", [LOG_DEBUG] = "debug",
    };
    const struct common_config *config = common_of(process);

    for (unsigned level = 0; level < sizeof names / sizeof names[0]; level++) {
        if (strcmp(config->log_level, names[level]) != 0)
            continue;
        log_setup(process->type->name, config->instance, (enum log_level)level);
        return true;
    }
    fprintf(stderr, "mcpgw-%s: log_level: \"%s\" is not error, warn, info or debug\n", process->type->name,
            config->log_level);
    return false;
}

/* The instance is part of file names. */
static bool is_instance_usable(const struct process *process)
{
    const char *instance = common_of(process)->instance;

    if (instance[0] != 0 && strchr(instance, '/') == NULL && instance[0] != '.')
        return true;
    fprintf(stderr, "mcpgw-%s: instance: \"%s\" cannot be part of a file name\n", process->type->name, instance);
    return false;
}

/* ---- pid and operations port on disk ------------------------------------------------------------ */

/* Written beside and renamed: a reader sees all of it or the old one. */
static bool write_number(const char *path, long number)
{
    char beside[sizeof ((struct process *)NULL)->pid_path + 8];
    FILE *file;

    snprintf(beside, sizeof beside, "%s.new", path);
    file = fopen(beside, "w");
    if (file == NULL)
        return false;
    fprintf(file, "%ld\n", number);
    return fclose(file) == 0 && rename(beside, path) == 0;
}

static bool write_run_files(struct process *process, char *reterr, size_t reterr_size)
{
    const struct common_config *config = common_of(process);
    const char *name = process->type->name;
    int port = ops_port(process->ops);

    if (config->run_dir[0] == 0)
        return true;
    snprintf(process->pid_path, sizeof process->pid_path, "%s/%s-%s.pid", config->run_dir, name, config->instance);
    snprintf(process->ops_path, sizeof process->ops_path, "%s/%s-%s.ops", config->run_dir, name, config->instance);
    if (write_number(process->pid_path, getpid()) && (port == 0 || write_number(process->ops_path, port)))
        return true;
    snprintf(reterr, reterr_size, "run_dir: %s: %s", config->run_dir, strerror(errno));
    return false;
}

static void remove_run_files(const struct process *process)
{
    if (process->pid_path[0] != 0)
        unlink(process->pid_path);
    if (process->ops_path[0] != 0)
        unlink(process->ops_path);
}

/* ---- running and stopping ----------------------------------------------------------------------- */

static void on_drain_poll(void *owner)
{
    struct process *process = owner;
    bool late = clock_monotonic_us() >= process->drain_until_us;

    if (late)
        log_warn("drain_timed_out", log_number("drain_ms", common_of(process)->drain_ms));
    if (late || process->type->is_drained == NULL || process->type->is_drained(process->self))
        loop_stop(process->loop);
}

static void begin_drain(struct process *process, uint32_t signal_number)
{
    if (process->draining) {
        loop_stop(process->loop);    /* asked twice: at once */
        return;
    }
    process->draining = true;
    process->drain_until_us = clock_monotonic_us() + common_of(process)->drain_ms * 1000u;
    log_info("stopping", log_number("signal", signal_number));
    sd_notify(0, "STOPPING=1");
    ops_set_fact(process->ops, "running", false);
    if (process->type->begin_drain != NULL)
        process->type->begin_drain(process->self);
    if (loop_every(process->loop, DRAIN_POLL_MS, on_drain_poll, process) == 0)
        loop_stop(process->loop);
}

static void on_signal(void *owner, int fd, int events)
{
    struct signalfd_siginfo info;

    (void)events;
    while (read(fd, &info, sizeof info) == (ssize_t)sizeof info)
        begin_drain(owner, info.ssi_signo);
}

static void on_watchdog(void *owner)
{
    (void)owner;
    sd_notify(0, "WATCHDOG=1");
}

static enum err watch_process(struct process *process)
{
    uint64_t watchdog_us = 0;
    sigset_t signals;

    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    process->signals = signalfd(-1, &signals, SFD_NONBLOCK | SFD_CLOEXEC);
    if (process->signals < 0)
        return ERR_UNAVAILABLE;
    if (sd_watchdog_enabled(0, &watchdog_us) > 0 && watchdog_us >= 2000
        && loop_every(process->loop, watchdog_us / 2000, on_watchdog, NULL) == 0)
        return ERR_UNAVAILABLE;
    return loop_watch_fd(process->loop, process->signals, LOOP_READ, on_signal, process);
}

static enum exit_code report(enum err err, const char *why)
{
    log_error("start_failed", log_text("error", err_name(err)), log_text("why", why[0] != 0 ? why : err_meaning(err)));
    return err == ERR_MALFORMED || err == ERR_DENIED || err == ERR_UNPROCESSABLE ? EXIT_MISUSE : EXIT_MISSING;
}

static enum err start(struct process *process, char *reterr, size_t reterr_size)
{
    const struct service_type *type = process->type;
    enum err err = loop_new(&process->loop);

    if (err == ERR_OK)
        err = watch_process(process);
    if (err == ERR_OK)
        err = ops_new(type->role, common_of(process), &process->ops, reterr, reterr_size);
    if (err != ERR_OK)
        return err;
    ops_set_fact(process->ops, "running", false);
    const struct service_context context = { .loop = process->loop, .ops = process->ops, .config = process->config,
                                             .issuers = process->issuers };
    err = type->start(&context, &process->self, reterr, reterr_size);
    if (err != ERR_OK)
        return err;
    if (!write_run_files(process, reterr, reterr_size))
        return ERR_UNAVAILABLE;
    ops_set_fact(process->ops, "running", true);
    return ERR_OK;
}

/*
 * Threads woken one by one for what has just arrived interrupt each other and find batches of one; those that wait for their
 * turn find all that came meanwhile.  Measured on two cores at 64 connections: 88 us of CPU per request in place of 218.
 * The threads made later inherit it.  A sandbox may forbid it, which costs speed only.
 */
static void schedule_in_batches(const struct common_config *config)
{
    const struct sched_param none = { 0 };

    if (config->batch_scheduling && sched_setscheduler(0, SCHED_BATCH, &none) != 0)
        log_warn("batch_scheduling_refused", log_text("error", strerror(errno)));
}

static enum exit_code run(struct process *process)
{
    char why[512] = "";
    enum err err;

    schedule_in_batches(common_of(process));
    err = start(process, why, sizeof why);

    if (err != ERR_OK)
        return report(err, why);
    metric_set(METRIC_up_since, clock_unix_us() / 1000000u);
    log_info("started", log_text("version", MCPGW_VERSION), log_number("pid", getpid()),
             log_number("ops_port", ops_port(process->ops)));
    sd_notify(0, "READY=1");
    err = loop_run(process->loop);
    log_info("stopped", log_text("error", err_name(err)));
    return err == ERR_OK ? EXIT_DONE : EXIT_FAILED;
}

static void clean_up(struct process *process)
{
    remove_run_files(process);
    if (process->self != NULL)
        process->type->stop(&process->self);
    ops_destroy(&process->ops);
    loop_destroy(&process->loop);
    if (process->signals >= 0)
        close(process->signals);
    for (size_t i = 0; process->config != NULL && i < process->row_count; i++)
        if (process->rows[i].type == SETTING_SECRET)
            secret_wipe((struct secret *)(void *)((char *)process->config + process->rows[i].offset));
    free(process->config);
    issuers_destroy(&process->issuers);
    free(process->rows);
}

static enum exit_code run_subcommand(const struct process *process, const char *name)
{
    const struct service_command *command = process->type->commands;
    sigset_t none;

    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);    /* no loop reads signals here: Ctrl-C ends it */
    for (; command != NULL && command->name != NULL; command++)
        if (strcmp(command->name, name) == 0)
            return (enum exit_code)command->run(process->config);
    fprintf(stderr, "mcpgw-%s: no command \"%s\"; try --help\n", process->type->name, name);
    return EXIT_MISUSE;
}

/* Every program checks the list, so that none starts beside others that refuse it; two need its secrets. */
static enum err load_issuers(struct process *process, const char *file, char *reterr, size_t reterr_size)
{
    const struct common_config *config = common_of(process);
    const struct issuers_options options = {
        .file = file, .public_url = config->public_url,
        .azure_tenant_id = config->azure_tenant_id, .azure_client_id = config->azure_client_id,
        .azure_client_secret = &config->azure_client_secret,
        .with_secrets = process->type->role == SERVICE_AUTHZ || process->type->role == SERVICE_KEYS,
    };

    return issuers_load(&options, &process->issuers, reterr, reterr_size);
}

static enum exit_code obey(struct process *process, const struct invocation *invocation)
{
    char why[512] = "";

    enum err err = settings_load(process->rows, process->row_count, invocation->file, process->config, why, sizeof why);

    if (err == ERR_OK)
        err = load_issuers(process, invocation->file, why, sizeof why);
    if (err != ERR_OK) {
        fprintf(stderr, "mcpgw-%s: %s\n", process->type->name, why);
        return EXIT_MISUSE;
    }
    if (invocation->command == COMMAND_SHOW) {
        settings_show(process->rows, process->row_count, process->config, stdout);
        return EXIT_DONE;
    }
    if (!set_up_log(process) || !is_instance_usable(process))
        return EXIT_MISUSE;
    return invocation->subcommand != NULL ? run_subcommand(process, invocation->subcommand) : run(process);
}

int service_main(const struct service_type *type, int argc, char **argv)
{
    struct process process = { .type = type, .signals = -1 };
    struct invocation invocation = { 0 };
    enum exit_code code;

    if (service_harden() != ERR_OK || !join_rows(&process)) {
        fprintf(stderr, "mcpgw-%s: the process cannot be hardened, or memory is short\n", type->name);
        clean_up(&process);
        return EXIT_MISSING;
    }
    loop_prepare_process();
    if (!read_options(argc, argv, &invocation)) {
        fprintf(stderr, "Try mcpgw-%s --help\n", type->name);
        clean_up(&process);
        return EXIT_MISUSE;
    }
    if (invocation.command == COMMAND_HELP) {
        print_help(&process);
        code = EXIT_DONE;
    } else if (invocation.command == COMMAND_VERSION) {
        printf("mcpgw-%s %s\n", type->name, MCPGW_VERSION);
        code = EXIT_DONE;
    } else {
        code = obey(&process, &invocation);
    }
    clean_up(&process);
    return (int)code;
}
