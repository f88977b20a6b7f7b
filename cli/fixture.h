/*
 * fixture.h - recorded messages.  `<message>.<case>.hex` holds a line for people and the body in hex, at the oldest
 * version (the edge's bus_record writes them); a whole frame, in hex or as bytes, is read as well.
 */
#ifndef CLI_FIXTURE_H
#define CLI_FIXTURE_H

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "common/frame.h"
#include "common/message.h"

#define FIXTURE_FILE_MAX (1u << 20)

struct fixture {
    uint8_t *bytes;                       /* malloc'd: a body, or a frame */
    size_t size;
    const struct message_type *type;      /* of a body, from the file's name; NULL: a frame */
};

void fixture_wipe(struct fixture *fixture);
/* Complains with the reason. */
enum err fixture_load(const char *path, struct fixture *ret_fixture) MUST_CHECK;
/* A decoded message, malloc'd, whose views point into the fixture; complains when it is none. */
enum err fixture_decode(const struct fixture *fixture, const char *path, void **ret_message) MUST_CHECK;

#endif
