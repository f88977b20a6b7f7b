/* spool_files.h - slots, epochs and segment files by name; no thread, no state beyond what is passed. */
#ifndef EDGE_SPOOL_FILES_H
#define EDGE_SPOOL_FILES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/encode.h"
#include "common/error.h"
#include "common/trail.h"

#define SLOTS_MAX         256u
#define SEGMENT_NAME_SIZE 48u

struct slot_dir {
    int fd;                         /* open and locked by flock */
    unsigned number;
    uint8_t uuid[UUID_SIZE];
    uint8_t key[TRAIL_KEY_SIZE];    /* of this slot alone; made once, mode 0600 */
};

struct segment_file {
    uint64_t epoch, first_seq;
    uint64_t size;                  /* bytes of the file */
};

/* The first free slot of the directory, or a new one, with its uuid.  ERR_UNAVAILABLE with a sentence in reterr. */
enum err slot_take(int dir_fd, const char *dir, struct slot_dir *ret_slot, char *reterr, size_t reterr_size) MUST_CHECK;
/* Slot `number` when nobody holds it and it has a uuid.  ERR_NOT_FOUND otherwise. */
enum err slot_adopt(int dir_fd, unsigned number, struct slot_dir *ret_slot) MUST_CHECK;
/* One more than the last epoch, on disk before it is returned; never below `least`. */
enum err slot_next_epoch(const struct slot_dir *slot, uint64_t least, uint64_t *ret_epoch) MUST_CHECK;

void segment_name(char name[SEGMENT_NAME_SIZE], uint64_t epoch, uint64_t first_seq);
/* All segment files, by (epoch, first sequence); malloc'd. */
enum err segments_list(const struct slot_dir *slot, struct segment_file **ret_files, size_t *ret_count) MUST_CHECK;
/* Reads block after block until the first that is not whole; cuts the file there (whole blocks that
 * are not its own stay untouched and are not served).  *ret_next_seq: behind the last record. */
enum err segment_recover(const struct slot_dir *slot, const struct segment_file *file,
                         uint64_t *ret_next_seq, uint64_t *ret_size) MUST_CHECK;
/* pread that goes on after a short read; false at an error or the end of the file. */
bool read_fully(int fd, void *buffer, size_t size, uint64_t offset);

#endif
