/* audit_import.c - mcpgw audit import: a spool slot whose edge will not come back is handed to a live edge of this host. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "cli/audit_proof.h"
#include "cli/environment.h"
#include "common/cleanup.h"

#define SLOTS_MAX 256u      /* as an edge has them */
#define PATH_SIZE 1024u
#define COPY_SIZE 1048576u
#define POLL_MS   200u

DEFINE_DESTROY(dir_close, DIR, closedir)

static void fd_close(int *fd)
{
    if (*fd >= 0)
        close(*fd);
}

static bool is_segment(const char *name)
{
    const size_t length = strlen(name);

    return length > 4 && strcmp(name + length - 4, ".seg") == 0;
}

/* How many segments lie there; -1: it cannot be read. */
static int count_segments(const char *path)
{
    OWNED(dir_close) DIR *dir = opendir(path);
    int count = 0;

    if (dir == NULL)
        return -1;
    for (struct dirent *entry = readdir(dir); entry != NULL; entry = readdir(dir))
        count += is_segment(entry->d_name);
    return count;
}

static bool copy_file(int from_dir, int to_dir, const char *name, const struct stat *owner)
{
    OWNED(fd_close) int from = openat(from_dir, name, O_RDONLY | O_CLOEXEC);
    OWNED(fd_close) int to = openat(to_dir, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    char *buffer = malloc(COPY_SIZE);
    ssize_t got = -1;

    if (from >= 0 && to >= 0 && buffer != NULL)
        while ((got = read(from, buffer, COPY_SIZE)) > 0 && write(to, buffer, (size_t)got) == got)
            continue;
    free(buffer);
    return got == 0 && fsync(to) == 0 && fchown(to, owner->st_uid, owner->st_gid) == 0;
}

/* Files first, the directory's name last: an edge sees all of it or nothing. */
static bool copy_slot(const char *from, const char *beside, const struct stat *owner)
{
    OWNED(dir_close) DIR *dir = opendir(from);
    OWNED(fd_close) int to = -1;

    if (dir == NULL || mkdir(beside, 0700) != 0 || chown(beside, owner->st_uid, owner->st_gid) != 0)
        return false;
    to = open(beside, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (struct dirent *entry = readdir(dir); to >= 0 && entry != NULL; entry = readdir(dir)) {
        const bool is_wanted = is_segment(entry->d_name) || strcmp(entry->d_name, "uuid") == 0
                            || strcmp(entry->d_name, "epoch") == 0 || strcmp(entry->d_name, "key") == 0;

        if (is_wanted && !copy_file(dirfd(dir), to, entry->d_name, owner))
            return false;
    }
    return to >= 0 && fsync(to) == 0;
}

/* A free slot's name gets the copy. */
static bool place_slot(const char *beside, const char *spool, char slot[PATH_SIZE])
{
    for (unsigned number = 0; number < SLOTS_MAX; number++) {
        snprintf(slot, PATH_SIZE, "%.1000s/slot-%u", spool, number);
        if (access(slot, F_OK) != 0 && rename(beside, slot) == 0)
            return true;
    }
    return false;
}

static bool wait_empty(const char *slot, uint64_t seconds)
{
    for (uint64_t waited_ms = 0; waited_ms <= seconds * 1000; waited_ms += POLL_MS) {
        if (count_segments(slot) == 0)
            return true;
        nanosleep(&(struct timespec){ .tv_nsec = POLL_MS * 1000000L }, NULL);
    }
    return false;
}

static enum exit_code move_slot(const char *from, const char *spool, char slot[PATH_SIZE])
{
    char beside[PATH_SIZE], done[PATH_SIZE];
    struct stat owner;

    if (stat(spool, &owner) != 0) {
        complain("%s: %s", spool, strerror(errno));
        return EXIT_MISUSE;
    }
    snprintf(beside, sizeof beside, "%.980s/import-%ld", spool, (long)getpid());
    snprintf(done, sizeof done, "%.1000s.imported", from);
    if (!copy_slot(from, beside, &owner) || !place_slot(beside, spool, slot)) {
        complain("%s cannot be copied into %s: %s", from, spool, strerror(errno));
        return EXIT_REFUSED;
    }
    /* Two edges must never write as one producer. */
    if (rename(from, done) != 0)
        complain("rename %s yourself, so that no edge takes it up again: %s", from, strerror(errno));
    return EXIT_DONE;
}

enum exit_code audit_import(struct cli *cli, const struct arguments *arguments)
{
    const char *from = arguments->positional[0], *spool = arguments_value(arguments, "spool");
    char slot[PATH_SIZE], home_spool[PATH_SIZE];
    OWNED(fd_close) int fd = open(from, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    const int segments = count_segments(from);
    uint64_t seconds;
    enum exit_code result;

    (void)cli;
    snprintf(home_spool, sizeof home_spool, "%.1000s/spool", getenv("MCPGW_HOME") != NULL ? getenv("MCPGW_HOME") : "var");
    if (arguments_number(arguments, "wait", 0, 86400, 60, &seconds) != ERR_OK || fd < 0 || segments < 0
        || faccessat(fd, "uuid", R_OK, 0) != 0) {
        complain("a directory slot-N of an edge's spool is expected, with its file `uuid`; --wait takes seconds");
        return EXIT_MISUSE;
    }
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        complain("%s is held by an edge that lives: it serves it itself", from);
        return EXIT_REFUSED;
    }
    if (segments == 0) {
        puts("Nothing is left there: all its events are stored.");
        return EXIT_DONE;
    }
    result = move_slot(from, spool != NULL ? spool : home_spool, slot);
    if (result != EXIT_DONE)
        return result;
    if (wait_empty(slot, seconds)) {
        printf("%d segments are stored; %s.imported can be deleted.\n", segments, from);
        return EXIT_DONE;
    }
    complain("%s is not stored yet: is an edge running on that spool directory, and mcpgw-audit?", slot);
    return EXIT_UNREACHABLE;
}
