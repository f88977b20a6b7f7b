/*
 * spool.c - the list of logs and segments, the dispatcher's pwrite, and the spool thread: fallocate, fdatasync, unlink and
 * the adoption of slots whose edge is gone happen only there, outside the mutex.
 */
#include "services/edge/spool.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/metrics.h"
#include "common/sabotage.h"
#include "common/trail.h"
#include "services/edge/spool_files.h"

#define ROUND_MS        50u          /* of the spool thread: the disk is at most two rounds behind */
#define ADOPT_US        2000000u     /* a restarting edge gets its slot back first */
#define RETRY_US        250000u      /* after a refusal of the disk */
#define PREPARE_WAIT_MS 50u          /* the dispatcher waits so long for a segment that is being made */
#define SYNC_MAX        16u          /* segments synced in one round */
#define SEEK_STEPS      1024u        /* headers read in one call of spool_read */
#define PREPARED_NAME   "next.tmp"

struct segment {
    struct segment *next;
    uint64_t first_seq, next_seq, synced_seq;
    uint64_t size, capacity;         /* bytes written; bytes of the file */
    uint64_t junk;                   /* bytes of refusals before authz */
    int fd;                          /* -1 once sealed and synced */
};

struct held_slot {
    struct held_slot *next;
    struct slot_dir dir;
    uint32_t logs;
};

struct log {
    struct log *next;
    struct held_slot *slot;
    uint64_t epoch, next_seq, durable_seq, acked;
    bool is_closed, was_told;        /* told in a heartbeat: only then may a closed one vanish */
    struct segment *first, *last;
};

struct spool {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    pthread_t thread;
    bool is_running, is_stopping;
    int dir_fd;
    uint64_t quota, segment_bytes;
    bool is_strict;
    void (*on_durable)(void *owner);
    void *owner;
    uint8_t chain_key[TRAIL_KEY_SIZE];
    struct held_slot own_slot;       /* head of the list of slots */
    struct log own;                  /* head of the list of logs */
    struct segment *active;          /* the last of own, or NULL */
    struct segment *prepared;
    bool is_dir_dirty, is_failing;   /* failing: the disk or the quota gave no segment */
    uint64_t retry_us, broken_until_us;
    uint64_t used, junk;
};

static uint64_t room_of(const struct segment *segment)
{
    return segment == NULL ? 0 : segment->capacity - segment->size;
}

static void segment_destroy(struct segment **segment)
{
    if (*segment == NULL)
        return;
    if ((*segment)->fd >= 0)
        close((*segment)->fd);
    free(*segment);
    *segment = NULL;
}

static void append_segment(struct log *log, struct segment *segment)
{
    if (log->last == NULL)
        log->first = segment;
    else
        log->last->next = segment;
    log->last = segment;
}

/* --- what a crash left ------------------------------------------------------------------- */

static void unlink_segment(const struct held_slot *slot, uint64_t epoch, uint64_t first_seq)
{
    char name[SEGMENT_NAME_SIZE];

    segment_name(name, epoch, first_seq);
    if (unlinkat(slot->dir.fd, name, 0) != 0 && errno != ENOENT)
        log_warn("spool_unlink_failed", log_text("file", name), log_text("why", strerror(errno)));
}

static void log_destroy(struct log **log)
{
    if (*log == NULL)
        return;
    while ((*log)->first != NULL) {
        struct segment *segment = (*log)->first;

        (*log)->first = segment->next;
        segment_destroy(&segment);
    }
    free(*log);
    *log = NULL;
}

/* One file of a closed epoch.  Only an epoch's last file can be torn: the ones before end where the next begins. */
static enum err load_segment(struct log *log, const struct segment_file *file, const struct segment_file *next)
{
    struct segment *segment = calloc(1, sizeof *segment);
    uint64_t next_seq = next == NULL ? 0 : next->first_seq, size = file->size;

    if (segment == NULL)
        return ERR_NO_MEMORY;
    if (next == NULL && segment_recover(&log->slot->dir, file, &next_seq, &size) != ERR_OK) {
        free(segment);
        return ERR_UNAVAILABLE;
    }
    if (next_seq == file->first_seq) {
        unlink_segment(log->slot, file->epoch, file->first_seq);
        free(segment);
        return ERR_OK;
    }
    *segment = (struct segment){ .first_seq = file->first_seq, .next_seq = next_seq, .synced_seq = next_seq,
                                 .size = size, .capacity = size, .fd = -1 };
    append_segment(log, segment);
    log->next_seq = log->durable_seq = next_seq;
    return ERR_OK;
}

/* Files first..end of one epoch as a closed log; NULL in *ret_log when they hold nothing. */
static enum err load_log(struct held_slot *slot, const struct segment_file *files, size_t count, struct log **ret_log)
{
    OWNED(log_destroy) struct log *log = calloc(1, sizeof *log);

    if (log == NULL)
        return ERR_NO_MEMORY;
    log->slot = slot;
    log->epoch = files[0].epoch;
    log->is_closed = true;
    for (size_t i = 0; i < count; i++) {
        const enum err err = load_segment(log, &files[i], i + 1 < count ? &files[i + 1] : NULL);

        if (err != ERR_OK)
            return err;
    }
    *ret_log = NULL;
    if (log->first != NULL) {
        *ret_log = log;
        log = NULL;
    }
    return ERR_OK;
}

static void link_log(struct spool *spool, struct log *log)
{
    struct log **end = &spool->own.next;

    pthread_mutex_lock(&spool->lock);
    while (*end != NULL)
        end = &(*end)->next;
    *end = log;
    log->slot->logs++;
    if (log->slot == &spool->own_slot)
        for (const struct segment *segment = log->first; segment != NULL; segment = segment->next)
            spool->used += segment->capacity;
    pthread_mutex_unlock(&spool->lock);
    log_info("spool_epoch_found", log_number("slot", log->slot->dir.number), log_number("epoch", log->epoch),
             log_number("first_seq", log->first->first_seq), log_number("next_seq", log->next_seq));
}

/* Links a closed log for every epoch in the slot; *ret_last is the newest epoch that has files, 0 when none has. */
static enum err load_slot(struct spool *spool, struct held_slot *slot, uint64_t *ret_last)
{
    struct segment_file *files = NULL;
    size_t count = 0, end;
    enum err err = segments_list(&slot->dir, &files, &count);

    *ret_last = 0;
    for (size_t i = 0; err == ERR_OK && i < count; i = end) {
        struct log *log = NULL;

        for (end = i + 1; end < count && files[end].epoch == files[i].epoch;)
            end++;
        *ret_last = files[i].epoch;
        err = load_log(slot, &files[i], end - i, &log);
        if (log != NULL)
            link_log(spool, log);
    }
    free(files);
    return err;
}

/* --- the spool thread -------------------------------------------------------------------- */

static bool wants_segment(struct spool *spool)
{
    bool wants;

    pthread_mutex_lock(&spool->lock);
    wants = spool->prepared == NULL && clock_monotonic_us() >= spool->retry_us;
    if (wants && spool->used + spool->segment_bytes > spool->quota) {
        spool->is_failing = true;
        wants = false;
    }
    pthread_mutex_unlock(&spool->lock);
    return wants;
}

/* As much as was asked for, or on a disk that is nearly full what it still gives. */
static bool allocate(int fd, uint64_t *capacity)
{
    while (posix_fallocate(fd, 0, (off_t)*capacity) != 0) {
        *capacity /= 2;
        if (*capacity < SPOOL_SEGMENT_MIN)
            return false;
    }
    return true;
}

static struct segment *make_segment(const struct spool *spool)
{
    OWNED(segment_destroy) struct segment *segment = calloc(1, sizeof *segment);
    struct segment *made;

    if (segment == NULL)
        return NULL;
    segment->capacity = spool->segment_bytes;
    segment->fd = openat(spool->own_slot.dir.fd, PREPARED_NAME, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (segment->fd < 0)
        return NULL;
    if (!allocate(segment->fd, &segment->capacity)) {
        unlinkat(spool->own_slot.dir.fd, PREPARED_NAME, 0);
        return NULL;
    }
    made = segment;
    segment = NULL;
    return made;
}

static void prepare_segment(struct spool *spool)
{
    struct segment *segment;

    if (!wants_segment(spool))
        return;
    segment = make_segment(spool);
    pthread_mutex_lock(&spool->lock);
    spool->is_failing = segment == NULL;
    if (segment == NULL) {
        spool->retry_us = clock_monotonic_us() + RETRY_US;
    } else {
        spool->prepared = segment;
        spool->used += segment->capacity;
    }
    metric_set(METRIC_spool_bytes, spool->used);
    pthread_cond_broadcast(&spool->changed);
    pthread_mutex_unlock(&spool->lock);
}

/* The kernel may have dropped the pages it could not write, so nothing that was promised can be kept any more. */
static void sync_or_abort(int fd, bool is_directory)
{
    if ((is_directory ? fsync(fd) : fdatasync(fd)) == 0)
        return;
    log_error("spool_sync_failed", log_text("why", strerror(errno)));
    abort();
}

static size_t collect_dirty(struct spool *spool, struct segment *dirty[SYNC_MAX], uint64_t upto[SYNC_MAX])
{
    size_t count = 0;

    for (struct segment *segment = spool->own.first; segment != NULL && count < SYNC_MAX; segment = segment->next)
        if (segment->synced_seq < segment->next_seq || (segment != spool->active && segment->fd >= 0)) {
            upto[count] = segment->next_seq;
            dirty[count++] = segment;
        }
    return count;
}

static void sync_segments(struct spool *spool)
{
    struct segment *dirty[SYNC_MAX];
    uint64_t upto[SYNC_MAX];
    bool is_dir_dirty;
    size_t count;

    pthread_mutex_lock(&spool->lock);
    count = collect_dirty(spool, dirty, upto);
    is_dir_dirty = spool->is_dir_dirty;
    spool->is_dir_dirty = false;
    pthread_mutex_unlock(&spool->lock);
    if (is_dir_dirty)
        sync_or_abort(spool->own_slot.dir.fd, true);
    if (count == 0)
        return;
    for (size_t i = 0; i < count; i++)
        sync_or_abort(dirty[i]->fd, false);    /* only this thread closes or frees a segment */

    pthread_mutex_lock(&spool->lock);
    for (size_t i = 0; i < count; i++) {
        dirty[i]->synced_seq = upto[i];
        if (dirty[i] != spool->active && upto[i] == dirty[i]->next_seq) {
            close(dirty[i]->fd);
            dirty[i]->fd = -1;
        }
    }
    __atomic_store_n(&spool->own.durable_seq, upto[count - 1], __ATOMIC_RELEASE);
    pthread_mutex_unlock(&spool->lock);
    if (spool->on_durable != NULL)
        spool->on_durable(spool->owner);
}

/* A full disk that only holds what is committed already must not stay full: then the active segment goes as well. */
static void release_active(struct spool *spool)
{
    if (spool->active != NULL && spool->is_failing && spool->prepared == NULL && room_of(spool->active) < TRAIL_BLOCK_MAX
        && spool->own.acked >= spool->active->next_seq)
        spool->active = NULL;
}

/* Unlinks the first segment of the log when all of it is committed. */
static bool remove_first(struct spool *spool, struct log *log)
{
    struct segment *segment = log->first;

    pthread_mutex_lock(&spool->lock);
    if (segment == NULL || segment == spool->active || segment->next_seq > log->acked
        || segment->synced_seq < segment->next_seq || (log->is_closed && !log->was_told)) {
        pthread_mutex_unlock(&spool->lock);
        return false;
    }
    log->first = segment->next;
    if (log->first == NULL)
        log->last = NULL;
    if (log->slot == &spool->own_slot)
        spool->used -= segment->capacity;
    spool->junk -= segment->junk;
    metric_set(METRIC_spool_bytes, spool->used);
    pthread_mutex_unlock(&spool->lock);
    unlink_segment(log->slot, log->epoch, segment->first_seq);
    segment_destroy(&segment);
    return true;
}

static void drop_slot(struct spool *spool, struct held_slot *slot)
{
    struct held_slot **link = &spool->own_slot.next;

    while (*link != slot)
        link = &(*link)->next;
    *link = slot->next;
    close(slot->dir.fd);
    free(slot);
}

static void remove_acknowledged(struct spool *spool)
{
    struct log **link = &spool->own.next;

    pthread_mutex_lock(&spool->lock);
    release_active(spool);
    pthread_mutex_unlock(&spool->lock);
    while (remove_first(spool, &spool->own))
        continue;
    while (*link != NULL) {
        struct log *log = *link;

        while (remove_first(spool, log))
            continue;
        if (log->first != NULL) {
            link = &log->next;
            continue;
        }
        pthread_mutex_lock(&spool->lock);
        *link = log->next;
        pthread_mutex_unlock(&spool->lock);
        if (--log->slot->logs == 0 && log->slot != &spool->own_slot)
            drop_slot(spool, log->slot);
        free(log);
    }
}

static bool has_segments(const struct slot_dir *slot)
{
    struct segment_file *files = NULL;
    size_t count = 0;
    const enum err err = segments_list(slot, &files, &count);

    free(files);
    return err == ERR_OK && count > 0;
}

static void adopt_slots(struct spool *spool)
{
    for (unsigned number = 0; number < SLOTS_MAX; number++) {
        struct held_slot *slot;
        struct slot_dir dir;
        uint64_t last;

        if (slot_adopt(spool->dir_fd, number, &dir) != ERR_OK)
            continue;
        slot = has_segments(&dir) ? calloc(1, sizeof *slot) : NULL;
        if (slot == NULL) {
            close(dir.fd);
            continue;
        }
        slot->dir = dir;
        slot->next = spool->own_slot.next;
        spool->own_slot.next = slot;
        if (load_slot(spool, slot, &last) != ERR_OK)
            log_warn("spool_slot_unreadable", log_number("slot", number));
        if (slot->logs == 0)
            drop_slot(spool, slot);
    }
}

/* Returns false when the spool is to be closed. */
static bool wait_for_work(struct spool *spool)
{
    struct timespec until;
    bool goes_on;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += ROUND_MS * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
    }
    pthread_mutex_lock(&spool->lock);
    while (!spool->is_stopping && !(spool->is_strict && spool->own.durable_seq < spool->own.next_seq)
           && !(spool->prepared == NULL && !spool->is_failing))
        if (pthread_cond_timedwait(&spool->changed, &spool->lock, &until) == ETIMEDOUT)
            break;
    goes_on = !spool->is_stopping;
    pthread_mutex_unlock(&spool->lock);
    return goes_on;
}

static void *spool_run(void *argument)
{
    struct spool *spool = argument;
    uint64_t adopt_us = clock_monotonic_us() + ADOPT_US;

    pthread_setname_np(pthread_self(), "spool");
    do {
        sync_segments(spool);
        remove_acknowledged(spool);
        prepare_segment(spool);
        if (clock_monotonic_us() >= adopt_us) {
            adopt_slots(spool);
            adopt_us = clock_monotonic_us() + ADOPT_US;
        }
    } while (wait_for_work(spool));
    return NULL;
}

/* --- start and end ------------------------------------------------------------------------ */

static enum err open_directory(struct spool *spool, const char *dir, char *reterr, size_t reterr_size)
{
    if (mkdir(dir, 0700) != 0 && errno != EEXIST) {
        snprintf(reterr, reterr_size, "spool_dir: cannot make %s: %s", dir, strerror(errno));
        return ERR_UNAVAILABLE;
    }
    spool->dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (spool->dir_fd < 0) {
        snprintf(reterr, reterr_size, "spool_dir: cannot open %s: %s", dir, strerror(errno));
        return ERR_UNAVAILABLE;
    }
    return slot_take(spool->dir_fd, dir, &spool->own_slot.dir, reterr, reterr_size);
}

static enum err open_epoch(struct spool *spool, const char *dir, char *reterr, size_t reterr_size)
{
    uint64_t last = 0;
    enum err err = load_slot(spool, &spool->own_slot, &last);

    if (err == ERR_OK)
        err = slot_next_epoch(&spool->own_slot.dir, last + 1, &spool->own.epoch);
    if (err != ERR_OK)
        snprintf(reterr, reterr_size, "spool_dir: cannot read or write %s/slot-%u: %s", dir,
                 spool->own_slot.dir.number, strerror(errno));
    spool->own.slot = &spool->own_slot;
    spool->own.next_seq = spool->own.durable_seq = spool->own.acked = 1;
    return err;
}

static enum err init_sync(struct spool *spool)
{
    pthread_condattr_t attributes;

    if (pthread_condattr_init(&attributes) != 0)
        return ERR_NO_MEMORY;
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    if (pthread_mutex_init(&spool->lock, NULL) != 0 || pthread_cond_init(&spool->changed, &attributes) != 0)
        return ERR_NO_MEMORY;
    pthread_condattr_destroy(&attributes);
    return ERR_OK;
}

static void make_chain_key(struct spool *spool, const struct secret *shared)
{
    const struct slot_dir *slot = &spool->own_slot.dir;

    if (shared != NULL && secret_is_set(shared))
        trail_derive_key(shared->bytes, shared->size, slot->uuid, spool->own.epoch, spool->chain_key);
    else
        trail_derive_key(slot->key, sizeof slot->key, slot->uuid, spool->own.epoch, spool->chain_key);
}

enum err spool_new(const struct spool_options *options, struct spool **ret_spool, char *reterr, size_t reterr_size)
{
    OWNED(spool_destroy) struct spool *spool = calloc(1, sizeof *spool);
    const uint64_t share = options->bytes / 4;

    snprintf(reterr, reterr_size, "not enough memory for the spool");
    if (spool == NULL)
        return ERR_NO_MEMORY;
    spool->dir_fd = spool->own_slot.dir.fd = -1;
    spool->quota = options->bytes;
    spool->segment_bytes = options->segment_bytes < share ? options->segment_bytes : share;
    if (spool->segment_bytes < SPOOL_SEGMENT_MIN)
        spool->segment_bytes = SPOOL_SEGMENT_MIN;
    spool->is_strict = options->is_strict;
    spool->on_durable = options->on_durable;
    spool->owner = options->owner;
    enum err err = init_sync(spool);
    if (err == ERR_OK)
        err = open_directory(spool, options->dir, reterr, reterr_size);
    if (err == ERR_OK)
        err = open_epoch(spool, options->dir, reterr, reterr_size);
    if (err != ERR_OK)
        return err;
    make_chain_key(spool, options->chain_key);
    prepare_segment(spool);
    if (pthread_create(&spool->thread, NULL, spool_run, spool) != 0)
        return ERR_NO_MEMORY;
    spool->is_running = true;
    *ret_spool = spool;
    spool = NULL;
    return ERR_OK;
}

static void stop_thread(struct spool *spool)
{
    pthread_mutex_lock(&spool->lock);
    spool->is_stopping = true;
    pthread_cond_broadcast(&spool->changed);
    pthread_mutex_unlock(&spool->lock);
    pthread_join(spool->thread, NULL);
    spool->on_durable = NULL;
    sync_segments(spool);
}

/* A clean end leaves no preallocated rest: the next start has nothing to cut. */
static void trim_active(struct spool *spool)
{
    if (spool->active == NULL || spool->active->fd < 0)
        return;
    if (ftruncate(spool->active->fd, (off_t)spool->active->size) != 0)
        log_warn("spool_trim_failed", log_text("why", strerror(errno)));
}

void spool_destroy(struct spool **spool)
{
    struct spool *it = *spool;

    if (it == NULL)
        return;
    if (it->is_running)
        stop_thread(it);
    trim_active(it);
    if (it->prepared != NULL)
        unlinkat(it->own_slot.dir.fd, PREPARED_NAME, 0);
    segment_destroy(&it->prepared);
    while (it->own.next != NULL) {
        struct log *log = it->own.next;

        it->own.next = log->next;
        log_destroy(&log);
    }
    while (it->own.first != NULL) {
        struct segment *segment = it->own.first;

        it->own.first = segment->next;
        segment_destroy(&segment);
    }
    while (it->own_slot.next != NULL)
        drop_slot(it, it->own_slot.next);
    if (it->own_slot.dir.fd >= 0)
        close(it->own_slot.dir.fd);
    if (it->dir_fd >= 0)
        close(it->dir_fd);
    pthread_mutex_destroy(&it->lock);
    pthread_cond_destroy(&it->changed);
    OPENSSL_cleanse(it->chain_key, sizeof it->chain_key);
    free(it);
    *spool = NULL;
}

/* --- the dispatcher's side ------------------------------------------------------------------ */

const uint8_t *spool_producer(const struct spool *spool)
{
    return spool->own_slot.dir.uuid;
}

const uint8_t *spool_chain_key(const struct spool *spool)
{
    return spool->chain_key;
}

uint64_t spool_epoch(const struct spool *spool)
{
    return spool->own.epoch;
}

uint64_t spool_next_seq(const struct spool *spool)
{
    return spool->own.next_seq;
}

uint64_t spool_durable_seq(struct spool *spool)
{
    return __atomic_load_n(&spool->own.durable_seq, __ATOMIC_ACQUIRE);
}

bool spool_is_available(struct spool *spool)
{
    bool is_available;

    pthread_mutex_lock(&spool->lock);
    is_available = (!spool->is_failing || spool->prepared != NULL || room_of(spool->active) >= TRAIL_BLOCK_MAX)
                && (spool->broken_until_us == 0 || clock_monotonic_us() >= spool->broken_until_us);
    pthread_mutex_unlock(&spool->lock);
    return is_available;
}

bool spool_takes_junk(struct spool *spool)
{
    bool takes;

    pthread_mutex_lock(&spool->lock);
    takes = spool->junk < spool->quota / SPOOL_JUNK_SHARE;
    pthread_mutex_unlock(&spool->lock);
    return takes;
}

/* Locked.  Waits a moment for a segment in the making; none comes when the disk or the quota is spent. */
static enum err await_prepared(struct spool *spool)
{
    struct timespec until;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += PREPARE_WAIT_MS * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
    }
    pthread_cond_broadcast(&spool->changed);
    while (spool->prepared == NULL && !spool->is_failing)
        if (pthread_cond_timedwait(&spool->changed, &spool->lock, &until) == ETIMEDOUT)
            break;
    return spool->prepared != NULL ? ERR_OK : ERR_AUDIT_UNAVAILABLE;
}

/* Locked.  The prepared segment becomes the active one. */
static enum err rotate(struct spool *spool)
{
    struct segment *segment;
    char name[SEGMENT_NAME_SIZE];
    const enum err err = await_prepared(spool);

    if (err != ERR_OK)
        return err;
    segment = spool->prepared;
    segment_name(name, spool->own.epoch, spool->own.next_seq);
    if (renameat(spool->own_slot.dir.fd, PREPARED_NAME, spool->own_slot.dir.fd, name) != 0)
        return ERR_AUDIT_UNAVAILABLE;
    segment->first_seq = segment->next_seq = segment->synced_seq = spool->own.next_seq;
    append_segment(&spool->own, segment);
    spool->active = segment;
    spool->prepared = NULL;
    spool->is_dir_dirty = true;
    pthread_cond_broadcast(&spool->changed);
    return ERR_OK;
}

static bool write_fully(int fd, const uint8_t *bytes, size_t size, uint64_t offset)
{
    if (lacks("spool"))
        return true;
    while (size > 0) {
        const ssize_t put = pwrite(fd, bytes, size, (off_t)offset);

        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0)
            return false;
        bytes += put;
        size -= (size_t)put;
        offset += (uint64_t)put;
    }
    return true;
}

/* Locked. */
static enum err append_block(struct spool *spool, const uint8_t *block, size_t size, uint32_t count, bool is_junk)
{
    struct segment *active;

    if (room_of(spool->active) < size && rotate(spool) != ERR_OK)
        return ERR_AUDIT_UNAVAILABLE;
    active = spool->active;
    if (!write_fully(active->fd, block, size, active->size)) {
        spool->broken_until_us = clock_monotonic_us() + RETRY_US;
        return ERR_AUDIT_UNAVAILABLE;    /* the next block overwrites what was written of this one */
    }
    spool->broken_until_us = 0;
    active->size += size;
    active->next_seq += count;
    spool->own.next_seq += count;
    if (is_junk) {
        active->junk += size;
        spool->junk += size;
    }
    if (spool->is_strict)
        pthread_cond_broadcast(&spool->changed);
    return ERR_OK;
}

enum err spool_append(struct spool *spool, const uint8_t *block, size_t size, uint32_t count, bool is_junk)
{
    enum err err;

    pthread_mutex_lock(&spool->lock);
    err = append_block(spool, block, size, count, is_junk);
    pthread_mutex_unlock(&spool->lock);
    metric_add(err == ERR_OK ? METRIC_spool_events : METRIC_spool_errors, err == ERR_OK ? count : 1);
    return err;
}

size_t spool_logs(struct spool *spool, struct spool_log ret_logs[SPOOL_LOGS_MAX])
{
    uint64_t unacked = 0;
    size_t count = 0;

    pthread_mutex_lock(&spool->lock);
    for (struct log *log = &spool->own; log != NULL && count < SPOOL_LOGS_MAX; log = log->next) {
        ret_logs[count] = (struct spool_log){
            .epoch = log->epoch, .next_seq = log->next_seq, .durable_seq = log->durable_seq,
            .oldest_seq = log->first != NULL ? log->first->first_seq : log->next_seq, .is_closed = log->is_closed,
        };
        memcpy(ret_logs[count++].producer, log->slot->dir.uuid, UUID_SIZE);
        log->was_told = true;
        unacked += log->next_seq - (log->acked > ret_logs[count - 1].oldest_seq ? log->acked
                                                                                 : ret_logs[count - 1].oldest_seq);
    }
    pthread_mutex_unlock(&spool->lock);
    metric_set(METRIC_spool_unacked, unacked);
    return count;
}

/* Locked. */
static struct log *find_log(struct spool *spool, const uint8_t producer[UUID_SIZE], uint64_t epoch)
{
    for (struct log *log = &spool->own; log != NULL; log = log->next)
        if (log->epoch == epoch && memcmp(log->slot->dir.uuid, producer, UUID_SIZE) == 0)
            return log;
    return NULL;
}

void spool_acknowledge(struct spool *spool, const uint8_t producer[UUID_SIZE], uint64_t epoch, uint64_t next_seq)
{
    struct log *log;

    pthread_mutex_lock(&spool->lock);
    log = find_log(spool, producer, epoch);
    if (log != NULL && next_seq > log->acked && next_seq <= log->next_seq)
        log->acked = next_seq;
    pthread_mutex_unlock(&spool->lock);
}

/* --- replay ---------------------------------------------------------------------------------- */

struct extent {
    uint64_t size, next_seq;
};

/* Opens the segment that holds cursor->seq unless it is open.  size: bytes of it that hold blocks; 0: at the end. */
static enum err place_cursor(struct spool *spool, struct spool_cursor *cursor, struct extent *ret_extent)
{
    const struct log *log;
    const struct segment *segment = NULL;
    enum err err = ERR_OK;

    pthread_mutex_lock(&spool->lock);
    *ret_extent = (struct extent){ 0 };
    log = find_log(spool, cursor->producer, cursor->epoch);
    if (log != NULL)
        for (segment = log->first; segment != NULL && cursor->seq >= segment->next_seq;)
            segment = segment->next;
    if (log == NULL || (segment != NULL && cursor->seq < segment->first_seq))
        err = ERR_NOT_FOUND;
    if (log != NULL && err != ERR_OK)
        cursor->seq = segment->first_seq;
    if (err == ERR_OK && segment != NULL) {
        *ret_extent = (struct extent){ .size = segment->size, .next_seq = segment->next_seq };
        if (!cursor->is_open || cursor->segment_seq != segment->first_seq) {
            char name[SEGMENT_NAME_SIZE];

            spool_cursor_close(cursor);
            segment_name(name, log->epoch, segment->first_seq);
            cursor->fd = openat(log->slot->dir.fd, name, O_RDONLY | O_CLOEXEC);
            cursor->is_open = cursor->fd >= 0;
            cursor->segment_seq = segment->first_seq;
            cursor->offset = 0;
            err = cursor->is_open ? ERR_OK : ERR_NOT_FOUND;
        }
    }
    pthread_mutex_unlock(&spool->lock);
    return err;
}

struct peek {
    uint64_t first_seq;
    uint32_t size, count;
};

/* The header's fields that are needed to step over a block (offsets: common/trail.h). */
static bool peek_block(const struct spool_cursor *cursor, struct peek *ret_peek)
{
    uint8_t header[TRAIL_HEADER_SIZE];

    if (!read_fully(cursor->fd, header, sizeof header, cursor->offset) || memcmp(header, "MGT1", 4) != 0)
        return false;
    memcpy(&ret_peek->size, header + 4, sizeof ret_peek->size);
    memcpy(&ret_peek->first_seq, header + 32, sizeof ret_peek->first_seq);
    memcpy(&ret_peek->count, header + 40, sizeof ret_peek->count);
    ret_peek->size = le32toh(ret_peek->size);
    ret_peek->first_seq = le64toh(ret_peek->first_seq);
    ret_peek->count = le32toh(ret_peek->count);
    return ret_peek->size > TRAIL_HEADER_SIZE && ret_peek->size <= TRAIL_BLOCK_MAX && ret_peek->count > 0;
}

/* What stands where a block should, for people to look at. */
static enum err read_damage(const struct spool_cursor *cursor, uint64_t end, uint8_t *buffer, size_t *ret_size)
{
    const uint64_t left = cursor->offset < end ? end - cursor->offset : 0;
    const size_t size = left < TRAIL_BLOCK_MAX ? (size_t)left : TRAIL_BLOCK_MAX;

    *ret_size = read_fully(cursor->fd, buffer, size, cursor->offset) ? size : 0;
    return ERR_MALFORMED;
}

enum err spool_read(struct spool *spool, struct spool_cursor *cursor, uint8_t *buffer, size_t *ret_size)
{
    struct extent extent;
    struct trail_header header;
    const enum err err = place_cursor(spool, cursor, &extent);

    if (err != ERR_OK)
        return err;
    *ret_size = 0;
    if (extent.size == 0)
        return ERR_OK;
    for (unsigned step = 0; step < SEEK_STEPS; step++) {
        struct peek peek;

        if (cursor->offset >= extent.size || !peek_block(cursor, &peek) || peek.first_seq > cursor->seq)
            return read_damage(cursor, extent.size, buffer, ret_size);
        if (peek.first_seq + peek.count <= cursor->seq) {
            cursor->offset += peek.size;
            continue;
        }
        if (!read_fully(cursor->fd, buffer, peek.size, cursor->offset)
            || trail_open(buffer, peek.size, &header) != ERR_OK)
            return read_damage(cursor, extent.size, buffer, ret_size);
        cursor->offset += peek.size;
        cursor->seq = peek.first_seq + peek.count;
        *ret_size = peek.size;
        return ERR_OK;
    }
    return ERR_AGAIN;
}

enum err spool_skip(struct spool *spool, struct spool_cursor *cursor, uint8_t *buffer)
{
    struct trail_header wanted = { .epoch = cursor->epoch, .first_seq = cursor->seq }, found;
    struct extent extent;
    uint64_t left;
    size_t size, at;
    const enum err err = place_cursor(spool, cursor, &extent);

    if (err != ERR_OK)
        return err;
    memcpy(wanted.producer, cursor->producer, UUID_SIZE);
    left = cursor->offset < extent.size ? extent.size - cursor->offset : 0;
    size = left < SPOOL_SKIP_SIZE ? (size_t)left : SPOOL_SKIP_SIZE;
    if (!read_fully(cursor->fd, buffer, size, cursor->offset))
        size = 0;
    if (size > 0 && trail_find(buffer, size, &wanted, &at, &found)) {
        cursor->offset += at;
        cursor->seq = found.first_seq > cursor->seq ? found.first_seq : cursor->seq;
        return ERR_OK;
    }
    if (size == SPOOL_SKIP_SIZE) {    /* a block that begins in the second half may end beyond it */
        cursor->offset += TRAIL_BLOCK_MAX;
        return ERR_AGAIN;
    }
    cursor->seq = extent.next_seq > cursor->seq ? extent.next_seq : cursor->seq;
    return ERR_OK;
}

void spool_cursor_close(struct spool_cursor *cursor)
{
    if (cursor->is_open)
        close(cursor->fd);
    cursor->is_open = false;
}
