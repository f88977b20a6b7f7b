/* spool_files.c - the directory of a spool: who holds which slot, which epoch comes next, what a crash left behind. */
#include "services/edge/spool_files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/trail.h"

#define WINDOW_SIZE 1048576u

/* How far the blocks of a segment are whole. */
struct segment_end {
    uint64_t next_seq, size;
    bool is_foreign;    /* what follows is whole, but another log's: it is not ours to cut */
};

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* Reads a small text file without its newline; false: there is none, or it is longer. */
static bool read_text(int dir_fd, const char *name, char *text, size_t size)
{
    OWNED(close_fd) int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC);
    ssize_t got;

    if (fd < 0)
        return false;
    got = read(fd, text, size);
    if (got < 0 || (size_t)got >= size)
        return false;
    text[got] = '\0';
    text[strcspn(text, "\n")] = '\0';
    return true;
}

/* All of it or nothing of it, and on disk: written beside, synced, renamed. */
static bool write_text(int dir_fd, const char *name, const char *text)
{
    char beside[64];
    const size_t length = strlen(text);

    snprintf(beside, sizeof beside, "%s.tmp", name);
    OWNED(close_fd) int fd = openat(dir_fd, beside, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    return fd >= 0 && write(fd, text, length) == (ssize_t)length && fsync(fd) == 0
        && renameat(dir_fd, beside, dir_fd, name) == 0 && fsync(dir_fd) == 0;
}

/* The slot's fd when nobody else holds its lock; -1 otherwise. */
static int lock_slot(int dir_fd, unsigned number)
{
    char name[32];
    int fd;

    snprintf(name, sizeof name, "slot-%u", number);
    fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    if (flock(fd, LOCK_EX | LOCK_NB) != 0)
        close_fd(&fd);
    return fd;
}

static bool load_uuid(int slot_fd, uint8_t ret_uuid[UUID_SIZE])
{
    char text[64];

    return read_text(slot_fd, "uuid", text, sizeof text) && uuid_parse(text, ret_uuid);
}

static bool make_uuid(int slot_fd, uint8_t ret_uuid[UUID_SIZE])
{
    char text[UUID_TEXT_SIZE];

    uuid7_make(ret_uuid);
    uuid_format(ret_uuid, text);
    return write_text(slot_fd, "uuid", text);
}

/* Hex in the file `key`, made when there is none.  One that cannot be read is no reason to make another. */
static bool load_key(int slot_fd, uint8_t ret_key[TRAIL_KEY_SIZE])
{
    char text[2 * TRAIL_KEY_SIZE + 2];
    size_t size = 0;

    if (faccessat(slot_fd, "key", F_OK, 0) != 0 && errno == ENOENT) {
        random_bytes(ret_key, TRAIL_KEY_SIZE);
        hex_encode(ret_key, TRAIL_KEY_SIZE, text);
        return write_text(slot_fd, "key", text);
    }
    return read_text(slot_fd, "key", text, sizeof text)
        && hex_decode(text, strlen(text), ret_key, TRAIL_KEY_SIZE, &size) == ERR_OK && size == TRAIL_KEY_SIZE;
}

/* Segments whose owner's name is lost must stay as they are for people to look at. */
static bool is_usable(struct slot_dir *slot)
{
    struct segment_file *files = NULL;
    size_t count = 0;
    const bool is_empty = segments_list(slot, &files, &count) == ERR_OK && count == 0;

    free(files);
    return is_empty && make_uuid(slot->fd, slot->uuid);
}

enum err slot_take(int dir_fd, const char *dir, struct slot_dir *ret_slot, char *reterr, size_t reterr_size)
{
    for (unsigned number = 0; number < SLOTS_MAX; number++) {
        struct slot_dir slot = { .number = number };
        char name[32];

        snprintf(name, sizeof name, "slot-%u", number);
        if (mkdirat(dir_fd, name, 0700) != 0 && errno != EEXIST) {
            snprintf(reterr, reterr_size, "cannot make %s/%s: %s", dir, name, strerror(errno));
            return ERR_UNAVAILABLE;
        }
        slot.fd = lock_slot(dir_fd, number);
        if (slot.fd < 0)
            continue;
        if ((!load_uuid(slot.fd, slot.uuid) && !is_usable(&slot)) || !load_key(slot.fd, slot.key)) {
            close(slot.fd);
            continue;
        }
        *ret_slot = slot;
        return ERR_OK;
    }
    snprintf(reterr, reterr_size, "no slot of %s (0 to %u) can be used: held by other edges, not writable, or without its uuid or key file",
             dir, SLOTS_MAX - 1);
    return ERR_UNAVAILABLE;
}

enum err slot_adopt(int dir_fd, unsigned number, struct slot_dir *ret_slot)
{
    struct slot_dir slot = { .number = number, .fd = lock_slot(dir_fd, number) };

    if (slot.fd < 0)
        return ERR_NOT_FOUND;
    if (!load_uuid(slot.fd, slot.uuid)) {
        close(slot.fd);
        return ERR_NOT_FOUND;
    }
    *ret_slot = slot;
    return ERR_OK;
}

enum err slot_next_epoch(const struct slot_dir *slot, uint64_t least, uint64_t *ret_epoch)
{
    char text[32];
    uint64_t epoch = 0;

    if (read_text(slot->fd, "epoch", text, sizeof text))
        epoch = strtoull(text, NULL, 10);
    epoch++;
    if (epoch < least)
        epoch = least;
    snprintf(text, sizeof text, "%llu", (unsigned long long)epoch);
    if (!write_text(slot->fd, "epoch", text))
        return ERR_UNAVAILABLE;
    *ret_epoch = epoch;
    return ERR_OK;
}

void segment_name(char name[SEGMENT_NAME_SIZE], uint64_t epoch, uint64_t first_seq)
{
    snprintf(name, SEGMENT_NAME_SIZE, "%020llu-%020llu.seg", (unsigned long long)epoch, (unsigned long long)first_seq);
}

static bool parse_name(const char *name, struct segment_file *ret_file)
{
    unsigned long long epoch, first_seq;
    char again[SEGMENT_NAME_SIZE];

    if (sscanf(name, "%20llu-%20llu.seg", &epoch, &first_seq) != 2)
        return false;
    segment_name(again, epoch, first_seq);
    *ret_file = (struct segment_file){ .epoch = epoch, .first_seq = first_seq };
    return strcmp(name, again) == 0;
}

static int compare_files(const void *a, const void *b)
{
    const struct segment_file *left = a, *right = b;

    if (left->epoch != right->epoch)
        return left->epoch < right->epoch ? -1 : 1;
    return left->first_seq < right->first_seq ? -1 : left->first_seq > right->first_seq;
}

DEFINE_DESTROY(dir_destroy, DIR, closedir)

static enum err append_file(struct segment_file **files, size_t *count, const struct segment_file *file)
{
    if ((*count & (*count - 1)) == 0) {
        struct segment_file *more = realloc(*files, (*count == 0 ? 1 : *count * 2) * sizeof *more);

        if (more == NULL)
            return ERR_NO_MEMORY;
        *files = more;
    }
    (*files)[(*count)++] = *file;
    return ERR_OK;
}

enum err segments_list(const struct slot_dir *slot, struct segment_file **ret_files, size_t *ret_count)
{
    const int fd = openat(slot->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    OWNED(dir_destroy) DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    struct segment_file *files = NULL, file;
    size_t count = 0;

    if (dir == NULL) {
        if (fd >= 0)
            close(fd);
        return ERR_UNAVAILABLE;
    }
    for (const struct dirent *entry = readdir(dir); entry != NULL; entry = readdir(dir)) {
        struct stat status;

        if (!parse_name(entry->d_name, &file) || fstatat(slot->fd, entry->d_name, &status, AT_SYMLINK_NOFOLLOW) != 0
            || !S_ISREG(status.st_mode))
            continue;
        file.size = (uint64_t)status.st_size;
        if (append_file(&files, &count, &file) != ERR_OK) {
            free(files);
            return ERR_NO_MEMORY;
        }
    }
    if (count > 1)
        qsort(files, count, sizeof *files, compare_files);
    *ret_files = files;
    *ret_count = count;
    return ERR_OK;
}

bool read_fully(int fd, void *buffer, size_t size, uint64_t offset)
{
    uint8_t *to = buffer;

    while (size > 0) {
        const ssize_t got = pread(fd, to, size, (off_t)offset);

        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return false;
        to += got;
        size -= (size_t)got;
        offset += (uint64_t)got;
    }
    return true;
}

/* A part of a file in memory, so that a block costs no read of its own. */
struct window {
    int fd;
    uint64_t start, file_size;
    size_t size;
    uint8_t bytes[WINDOW_SIZE];
};

static void window_destroy(struct window **window)
{
    free(*window);
    *window = NULL;
}

/* The file's bytes from `at`, a whole block's at least where there are; NULL at a read error. */
static const uint8_t *window_at(struct window *window, uint64_t at, size_t *ret_size)
{
    const uint64_t left = window->file_size - at;
    const uint64_t wanted = left < TRAIL_BLOCK_MAX ? left : TRAIL_BLOCK_MAX;

    if (at < window->start || at + wanted > window->start + window->size) {
        window->start = at;
        window->size = left < WINDOW_SIZE ? (size_t)left : WINDOW_SIZE;
        if (!read_fully(window->fd, window->bytes, window->size, at))
            return NULL;
    }
    *ret_size = (size_t)(window->start + window->size - at);
    return window->bytes + (at - window->start);
}

/* Behind damage: the next whole block of this epoch.  Only what has none behind it is a torn tail. */
static bool find_further(struct window *window, const struct slot_dir *slot, const struct segment_file *file,
                         struct segment_end *end)
{
    struct trail_header wanted = { .epoch = file->epoch, .first_seq = end->next_seq }, found;
    size_t size, at;

    memcpy(wanted.producer, slot->uuid, UUID_SIZE);
    for (uint64_t from = end->size;; from += WINDOW_SIZE - TRAIL_BLOCK_MAX) {
        window->size = 0;    /* read on from here */
        const uint8_t *bytes = window_at(window, from, &size);

        if (bytes != NULL && trail_find(bytes, size, &wanted, &at, &found)) {
            end->size = from + at;
            end->next_seq = found.first_seq;
            return true;
        }
        if (bytes == NULL || size < WINDOW_SIZE)
            return false;
    }
}

static void walk_blocks(struct window *window, const struct slot_dir *slot, const struct segment_file *file,
                        struct segment_end *end)
{
    while (end->size + TRAIL_HEADER_SIZE <= file->size) {
        struct trail_header header;
        size_t size;
        const uint8_t *block = window_at(window, end->size, &size);

        if (block == NULL)
            return;
        if (trail_open(block, size, &header) != ERR_OK) {
            if (!find_further(window, slot, file, end))
                return;
            continue;
        }
        end->is_foreign = memcmp(header.producer, slot->uuid, UUID_SIZE) != 0 || header.epoch != file->epoch
                       || header.first_seq != end->next_seq;
        if (end->is_foreign)
            return;
        end->size += header.size;
        end->next_seq += header.count;
    }
}

enum err segment_recover(const struct slot_dir *slot, const struct segment_file *file,
                         uint64_t *ret_next_seq, uint64_t *ret_size)
{
    OWNED(window_destroy) struct window *window = malloc(sizeof *window);
    struct segment_end end = { .next_seq = file->first_seq };
    char name[SEGMENT_NAME_SIZE];

    if (window == NULL)
        return ERR_NO_MEMORY;
    segment_name(name, file->epoch, file->first_seq);
    OWNED(close_fd) int fd = openat(slot->fd, name, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return ERR_UNAVAILABLE;
    window->fd = fd;
    window->start = window->size = 0;
    window->file_size = file->size;
    walk_blocks(window, slot, file, &end);
    if (!end.is_foreign && end.size < file->size && (ftruncate(fd, (off_t)end.size) != 0 || fdatasync(fd) != 0))
        return ERR_UNAVAILABLE;
    *ret_next_seq = end.next_seq;
    *ret_size = end.size;
    return ERR_OK;
}
