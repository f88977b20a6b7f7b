/*
 * servers.h - a private Postgres and a private Redis for a test: own directory under /tmp, Unix sockets only.
 *
 * Give each test program its own and stop them at its end; they die with the test as well.  As root Postgres runs
 * as the user `postgres`, because initdb refuses root.  A server that does not start ends the test program with 1.
 *
 *     static struct server postgres;
 *     postgres_server_start(&postgres);     postgres.url, for libpq
 *     redis_server_start(&redis, NULL);     redis.url, for common/redis.h
 *     server_stop(&postgres);
 */
#ifndef TESTS_SERVERS_H
#define TESTS_SERVERS_H

#include <ftw.h>
#include <glob.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <hiredis/hiredis.h>
#include <libpq-fe.h>

#include "common/clock.h"
#include "common/secret.h"

#define SERVER_START_US (60u * 1000000u)

struct server {
    pid_t pid;
    char directory[64];
    char url[256];
    struct secret secret;          /* the url again, for functions that want a secret */
    char postgres_bin[128];
    const char *extra;             /* one more redis.conf line, or NULL */
};

static inline void servers_die(const char *what, const char *detail)
{
    fprintf(stderr, "private server: %s: %s\n", what, detail);
    exit(1);
}

static inline void server_set_url(struct server *server, const char *before, const char *after)
{
    int size = snprintf(server->url, sizeof server->url, "%s%s%s", before, server->directory, after);

    if (size <= 0 || (size_t)size >= sizeof server->url)
        servers_die("url", "too long");
    server->secret.size = (size_t)size;
    memcpy(server->secret.bytes, server->url, (size_t)size + 1);
}

static inline void server_make_directory(struct server *server, const char *template)
{
    memset(server, 0, sizeof *server);
    snprintf(server->directory, sizeof server->directory, "%s", template);
    if (mkdtemp(server->directory) == NULL)
        servers_die("mkdtemp", template);
}

/* The child dies with the test; it becomes user `name` when we are root and name is not NULL. */
static inline pid_t server_fork(const char *name)
{
    pid_t parent = getpid();
    pid_t pid = fork();

    if (pid != 0)
        return pid;
    if (name != NULL && geteuid() == 0) {
        const struct passwd *user = getpwnam(name);

        if (user == NULL || setgroups(0, NULL) != 0 || setgid(user->pw_gid) != 0 || setuid(user->pw_uid) != 0)
            _exit(126);
    }
    prctl(PR_SET_PDEATHSIG, SIGINT);
    if (getppid() != parent)
        _exit(126);
    return 0;
}

static inline void server_pause(void)
{
    nanosleep(&(struct timespec){ .tv_nsec = 10000000 }, NULL);
}

static inline int server_remove_entry(const char *path, const struct stat *status, int kind, struct FTW *walk)
{
    (void)status;
    (void)kind;
    (void)walk;
    return remove(path);
}

/* SIGKILL; the directory stays, so that *_server_launch can start it again on the same data and socket. */
static inline void server_kill(struct server *server)
{
    if (server->pid > 0) {
        kill(server->pid, SIGCONT);
        kill(server->pid, SIGKILL);
        waitpid(server->pid, NULL, 0);
    }
    server->pid = 0;
}

static inline void server_stop(struct server *server)
{
    if (server->pid > 0) {
        kill(server->pid, SIGCONT);
        kill(server->pid, SIGINT);
        waitpid(server->pid, NULL, 0);
    }
    server->pid = 0;
    if (server->directory[0] != 0)
        nftw(server->directory, server_remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

static inline void postgres_server_find(struct server *server)
{
    glob_t found;

    if (glob("/usr/lib/postgresql/*/bin/initdb", 0, NULL, &found) != 0 || found.gl_pathc == 0)
        servers_die("postgres", "no /usr/lib/postgresql/*/bin/initdb; install the package postgresql");
    snprintf(server->postgres_bin, sizeof server->postgres_bin, "%s", found.gl_pathv[found.gl_pathc - 1]);
    *strrchr(server->postgres_bin, '/') = 0;
    globfree(&found);
}

/* Starts the postmaster on an existing data directory and waits until it answers. */
static inline void postgres_server_launch(struct server *server)
{
    uint64_t deadline_us = clock_monotonic_us() + SERVER_START_US;
    char program[160], data[96];

    snprintf(program, sizeof program, "%s/postgres", server->postgres_bin);
    snprintf(data, sizeof data, "%s/data", server->directory);
    server->pid = server_fork("postgres");
    if (server->pid == 0) {
        if (chdir(server->directory) != 0 || freopen("postgres.log", "a", stderr) == NULL)
            _exit(126);
        execl(program, program, "-D", data, "-k", server->directory, "-c", "listen_addresses=", "-c", "fsync=off",
              "-c", "shared_buffers=16MB", "-c", "max_connections=60", (char *)NULL);
        _exit(127);
    }
    while (PQping(server->url) != PQPING_OK) {
        if (waitpid(server->pid, NULL, WNOHANG) != 0 || clock_monotonic_us() > deadline_us)
            servers_die("postgres", "did not start");
        server_pause();
    }
}

/* A fresh cluster with one superuser `postgres`, database `postgres`, no passwords. */
static inline void postgres_server_start(struct server *server)
{
    const struct passwd *user = getpwnam("postgres");
    char program[160], data[96];
    int status = 0;
    pid_t pid;

    server_make_directory(server, "/tmp/mcpgw-postgres-XXXXXX");
    if (geteuid() == 0 && (user == NULL || chown(server->directory, user->pw_uid, user->pw_gid) != 0))
        servers_die("postgres", "no user postgres");
    postgres_server_find(server);
    server_set_url(server, "postgresql:///postgres?user=postgres&host=", "");
    snprintf(program, sizeof program, "%s/initdb", server->postgres_bin);
    snprintf(data, sizeof data, "%s/data", server->directory);
    pid = server_fork("postgres");
    if (pid == 0) {
        if (chdir(server->directory) != 0 || freopen("/dev/null", "w", stdout) == NULL)
            _exit(126);
        execl(program, program, "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync",
              (char *)NULL);
        _exit(127);
    }
    if (waitpid(pid, &status, 0) != pid || status != 0)
        servers_die("initdb", "failed");
    postgres_server_launch(server);
}

static inline void redis_server_launch(struct server *server)
{
    uint64_t deadline_us = clock_monotonic_us() + SERVER_START_US;
    char socket[96], config[96];
    redisContext *probe;

    snprintf(socket, sizeof socket, "%s/redis.sock", server->directory);
    snprintf(config, sizeof config, "%s/redis.conf", server->directory);
    unlink(socket);
    server->pid = server_fork(NULL);
    if (server->pid == 0) {
        if (chdir(server->directory) != 0 || freopen("redis.log", "a", stdout) == NULL)
            _exit(126);
        execlp("redis-server", "redis-server", config, (char *)NULL);
        _exit(127);
    }
    while (probe = redisConnectUnix(socket), probe == NULL || probe->err != 0) {
        if (probe != NULL)
            redisFree(probe);
        if (waitpid(server->pid, NULL, WNOHANG) != 0 || clock_monotonic_us() > deadline_us)
            servers_die("redis", "did not start");
        server_pause();
    }
    redisFree(probe);
}

/* extra: one more line of redis.conf such as "user me on >secret ~* +@all", or NULL. */
static inline void redis_server_start(struct server *server, const char *extra)
{
    char path[96];
    FILE *file;

    server_make_directory(server, "/tmp/mcpgw-redis-XXXXXX");
    server->extra = extra;
    server_set_url(server, "unix://", "/redis.sock");
    snprintf(path, sizeof path, "%s/redis.conf", server->directory);
    file = fopen(path, "w");
    if (file == NULL)
        servers_die("redis", "no redis.conf");
    fprintf(file, "port 0\nunixsocket %s/redis.sock\nunixsocketperm 700\nsave \"\"\nappendonly no\ndaemonize no\n%s\n",
            server->directory, extra != NULL ? extra : "");
    fclose(file);
    redis_server_launch(server);
}

#endif
