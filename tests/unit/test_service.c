/* test_service.c - the life of a service process: this program runs itself as one and watches it from outside. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <errno.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/clock.h"
#include "common/service.h"

#define GIVE_UP_US 20000000u

/* ---- the service that is run -------------------------------------------------------------------- */

struct toy_config {
    struct common_config common;
    char mode[33];
    struct secret pass;
};

static const struct setting toy_settings[] = {
    { "mode", SETTING_TEXT, offsetof(struct toy_config, mode), "", 0, 32, "what the toy does wrong" },
    { "pass", SETTING_SECRET, offsetof(struct toy_config, pass), NULL, 0, 64, "a secret" },
};

struct toy {
    struct loop *loop;
    bool never_drained, draining;
};

static enum err toy_start(const struct service_context *context, void **ret_self, char *reterr, size_t reterr_size)
{
    const struct toy_config *config = context->config;
    struct toy *toy;

    if (strcmp(config->mode, "missing") == 0 || strcmp(config->mode, "malformed") == 0) {
        snprintf(reterr, reterr_size, "the toy lacks its box");
        return config->mode[1] == 'i' ? ERR_NOT_FOUND : ERR_MALFORMED;
    }
    toy = calloc(1, sizeof *toy);
    if (toy == NULL)
        return ERR_NO_MEMORY;
    toy->loop = context->loop;
    toy->never_drained = strcmp(config->mode, "stuck") == 0;
    *ret_self = toy;
    return ERR_OK;
}

static void toy_begin_drain(void *self)
{
    ((struct toy *)self)->draining = true;
}

static bool toy_is_drained(void *self)
{
    const struct toy *toy = self;

    return toy->draining && !toy->never_drained;
}

static void toy_stop(void **self)
{
    free(*self);
    *self = NULL;
}

static int tell_hardening(const void *config)
{
    struct rlimit core;
    const mode_t mask = umask(0);

    (void)config;
    getrlimit(RLIMIT_CORE, &core);
    printf("core=%lu privs=%d mask=%o pipe=%d dumpable=%d\n", (unsigned long)core.rlim_cur,
           prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), (unsigned)mask, signal(SIGPIPE, SIG_IGN) == SIG_IGN,
           prctl(PR_GET_DUMPABLE, 0, 0, 0, 0));
    return 0;
}

static int be_a_service(int argc, char **argv)
{
    static const struct service_command commands[] = {
        { "hardening", "tells how the process is hardened", tell_hardening },
        { NULL, NULL, NULL },
    };
    const struct service_type type = {
        .role = SERVICE_AUTHZ, .name = "toy", .purpose = "Does nothing.", .settings = toy_settings, .setting_count = 2,
        .config_size = sizeof(struct toy_config), .commands = commands, .start = toy_start,
        .begin_drain = toy_begin_drain, .is_drained = toy_is_drained, .stop = toy_stop,
    };

    return service_main(&type, argc, argv);
}

/* ---- the one that watches ----------------------------------------------------------------------- */

struct bench {
    char directory[64];
    pid_t pid;
    int output;                    /* of the child: both streams */
    char text[32768];
    size_t used;
    int code;                      /* exit code; -1 killed */
};

static int make_bench(void **state)
{
    struct bench *bench = calloc(1, sizeof *bench);

    strcpy(bench->directory, "/tmp/mcpgw-service-XXXXXX");
    assert_non_null(mkdtemp(bench->directory));
    *state = bench;
    return 0;
}

static int remove_entry(const char *path, const struct stat *status, int kind, struct FTW *walk)
{
    (void)status;
    (void)kind;
    (void)walk;
    return remove(path);
}

static int free_bench(void **state)
{
    struct bench *bench = *state;

    if (bench->pid > 0) {
        kill(bench->pid, SIGKILL);
        waitpid(bench->pid, NULL, 0);
        close(bench->output);
    }
    nftw(bench->directory, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
    free(bench);
    return 0;
}

/* settings: NAME=value strings, NULL-terminated; argument may be NULL. */
static void begin(struct bench *bench, const char *const *settings, const char *argument, const char *value)
{
    int ends[2];

    assert_int_equal(pipe(ends), 0);
    bench->pid = fork();
    if (bench->pid == 0) {
        char setting[512];

        snprintf(setting, sizeof setting, "%s", bench->directory);
        setenv("MCPGW_RUN_DIR", setting, 1);
        for (; settings != NULL && *settings != NULL; settings++) {
            snprintf(setting, sizeof setting, "%s", *settings);
            putenv(strdup(setting));
        }
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dup2(ends[1], 1);
        dup2(ends[1], 2);
        close(ends[0]);
        close(ends[1]);
        execl("/proc/self/exe", "mcpgw-toy", argument, value, (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    bench->output = ends[0];
}

static void finish(struct bench *bench)
{
    ssize_t received;
    int status;

    while ((received = read(bench->output, bench->text + bench->used, sizeof bench->text - 1 - bench->used)) > 0)
        bench->used += (size_t)received;
    bench->text[bench->used] = 0;
    close(bench->output);
    assert_int_equal(waitpid(bench->pid, &status, 0), bench->pid);
    bench->pid = 0;
    bench->code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void expect(struct bench *bench, int code, const char *text)
{
    finish(bench);
    if (bench->code != code || strstr(bench->text, text) == NULL)
        fail_msg("exit code %d, wanted %d and \"%s\" in:\n%s", bench->code, code, text, bench->text);
}

static void wait_for_file(const struct bench *bench, const char *name, bool there)
{
    uint64_t deadline_us = clock_monotonic_us() + GIVE_UP_US;
    char path[128];

    snprintf(path, sizeof path, "%s/%s", bench->directory, name);
    while ((access(path, F_OK) == 0) != there) {
        if (clock_monotonic_us() > deadline_us)
            fail_msg("%s", path);
        nanosleep(&(struct timespec){ .tv_nsec = 2000000 }, NULL);
    }
}

static void wait_for_text(struct bench *bench, const char *text)
{
    while (strstr(bench->text, text) == NULL) {
        ssize_t received = read(bench->output, bench->text + bench->used, sizeof bench->text - 1 - bench->used);

        if (received <= 0)
            fail_msg("\"%s\" is not in:\n%s", text, bench->text);
        bench->used += (size_t)received;
        bench->text[bench->used] = 0;
    }
}

static void misuse_ends_with_2_and_says_why(void **state)
{
    static const struct { const char *setting, *argument, *text; } cases[] = {
        { NULL, "--nonsense", "--help" }, { NULL, "dance", "no command \"dance\"" },
        { "MCPGW_DRAIN_MS=soon", NULL, "drain_ms" }, { "MCPGW_LOG_LEVEL=loud", NULL, "log_level" },
        { "MCPGW_NO_SUCH_SETTING=1", NULL, "NO_SUCH_SETTING" }, { "MCPGW_INSTANCE=../1", NULL, "instance" },
        { "MCPGW_OPS_LISTEN=8443s", NULL, "ops_listen" }, { "MCPGW_MODE=malformed", NULL, "lacks its box" },
    };
    struct bench *bench = *state;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *const settings[] = { cases[i].setting, NULL };

        bench->used = 0;
        begin(bench, settings, cases[i].argument, NULL);
        expect(bench, 2, cases[i].text);
    }
}

static void what_is_missing_at_start_ends_with_3(void **state)
{
    const char *const missing[] = { "MCPGW_MODE=missing", NULL };
    const char *const no_directory[] = { "MCPGW_RUN_DIR=/nonexistent", NULL };
    struct bench *bench = *state;

    begin(bench, missing, NULL, NULL);
    expect(bench, 3, "the toy lacks its box");
    bench->used = 0;
    begin(bench, no_directory, NULL, NULL);
    expect(bench, 3, "/nonexistent");
}

static void help_version_and_settings_are_told(void **state)
{
    const char *const secret[] = { "MCPGW_PASS=hunter2", NULL };
    struct bench *bench = *state;

    begin(bench, NULL, "--help", NULL);
    expect(bench, 0, "MCPGW_DRAIN_MS");
    assert_non_null(strstr(bench->text, "what the toy does wrong"));
    assert_non_null(strstr(bench->text, "hardening"));
    bench->used = 0;
    begin(bench, NULL, "--version", NULL);
    expect(bench, 0, "mcpgw-toy " MCPGW_VERSION);
    bench->used = 0;
    begin(bench, secret, "--show-config", NULL);
    expect(bench, 0, "pass");
    assert_null(strstr(bench->text, "hunter2"));
}

static void the_process_is_hardened(void **state)
{
    struct bench *bench = *state;

    begin(bench, NULL, "hardening", NULL);
    expect(bench, 0, "core=0 privs=1 mask=77 pipe=1");
#ifndef __SANITIZE_ADDRESS__
    assert_non_null(strstr(bench->text, "dumpable=0"));
#endif
}

static void a_service_leaves_its_pid_and_port_while_it_runs(void **state)
{
    struct bench *bench = *state;
    char path[128], text[32] = "";
    FILE *file;

    begin(bench, NULL, NULL, NULL);
    wait_for_file(bench, "toy-1.ops", true);
    wait_for_file(bench, "toy-1.pid", true);
    snprintf(path, sizeof path, "%s/toy-1.pid", bench->directory);
    file = fopen(path, "r");
    assert_non_null(fgets(text, sizeof text, file));
    fclose(file);
    assert_int_equal(strtol(text, NULL, 10), bench->pid);
    wait_for_text(bench, "\"started\"");
    kill(bench->pid, SIGTERM);
    expect(bench, 0, "\"stopped\"");
    wait_for_file(bench, "toy-1.pid", false);
    wait_for_file(bench, "toy-1.ops", false);
}

static void a_drain_that_does_not_end_is_cut_off(void **state)
{
    const char *const stuck[] = { "MCPGW_MODE=stuck", "MCPGW_DRAIN_MS=50", NULL };
    struct bench *bench = *state;

    begin(bench, stuck, NULL, NULL);
    wait_for_text(bench, "\"started\"");
    kill(bench->pid, SIGINT);
    expect(bench, 0, "drain_timed_out");
}

static void a_second_signal_ends_the_drain(void **state)
{
    const char *const stuck[] = { "MCPGW_MODE=stuck", "MCPGW_DRAIN_MS=600000", NULL };
    struct bench *bench = *state;

    begin(bench, stuck, NULL, NULL);
    wait_for_text(bench, "\"started\"");
    kill(bench->pid, SIGTERM);
    wait_for_text(bench, "\"stopping\"");
    kill(bench->pid, SIGTERM);
    expect(bench, 0, "\"stopped\"");
}

static void systemd_is_told(void **state)
{
    struct bench *bench = *state;
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int notify = socket(AF_UNIX, SOCK_DGRAM, 0);
    const struct timeval limit = { .tv_sec = 20 };
    char setting[160], heard[256];
    const char *const settings[] = { setting, "WATCHDOG_USEC=20000", NULL };
    static const char *const wanted[] = { "READY=1", "WATCHDOG=1", "STOPPING=1" };

    snprintf(address.sun_path, sizeof address.sun_path, "%s/notify", bench->directory);
    snprintf(setting, sizeof setting, "NOTIFY_SOCKET=%s", address.sun_path);
    assert_int_equal(bind(notify, (struct sockaddr *)&address, sizeof address), 0);
    setsockopt(notify, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    begin(bench, settings, NULL, NULL);
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
        do {
            ssize_t size = recv(notify, heard, sizeof heard - 1, 0);

            if (size <= 0)
                fail_msg("%s was not told: %s", wanted[i], strerror(errno));
            heard[size] = 0;
        } while (strstr(heard, wanted[i]) == NULL);
        if (i == 1)
            kill(bench->pid, SIGTERM);
    }
    close(notify);
    expect(bench, 0, "\"stopped\"");
}

#define BENCH_TEST(test) cmocka_unit_test_setup_teardown(test, make_bench, free_bench)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        BENCH_TEST(misuse_ends_with_2_and_says_why),
        BENCH_TEST(what_is_missing_at_start_ends_with_3),
        BENCH_TEST(help_version_and_settings_are_told),
        BENCH_TEST(the_process_is_hardened),
        BENCH_TEST(a_service_leaves_its_pid_and_port_while_it_runs),
        BENCH_TEST(a_drain_that_does_not_end_is_cut_off),
        BENCH_TEST(a_second_signal_ends_the_drain),
        BENCH_TEST(systemd_is_told),
    };

    if (strcmp(argv[0], "mcpgw-toy") == 0)
        return be_a_service(argc, argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
