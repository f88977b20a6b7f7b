/*
 * message.h - typed messages and their one codec: positional msgpack arrays from the rows of messages.def.
 *
 * Structs own nothing: every field but a VIEW is stored inline, so a message is copied by assignment and
 * needs no destroy.  A VIEW points into the bytes that were decoded, or into the sender's own memory.
 */
#ifndef COMMON_MESSAGE_H
#define COMMON_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "common/error.h"

/*
 * The version of messages.def.  Receivers accept it and the one before.  The upgrade test builds the suite with
 * -DMESSAGES_NEXT (make VARIANT=next): one version higher, with a field appended to the messages of the request path.
 */
#define MESSAGES_RELEASED 1
#ifdef MESSAGES_NEXT
#define MESSAGES_VERSION (MESSAGES_RELEASED + 1)
#else
#define MESSAGES_VERSION MESSAGES_RELEASED
#endif
#define MESSAGES_VERSION_OLDEST (MESSAGES_VERSION > 1 ? MESSAGES_VERSION - 1 : 1)

/* Numbers travel in READY: append, never reorder. */
enum service { SERVICE_EDGE, SERVICE_AUTHZ, SERVICE_RATELIMIT, SERVICE_KEYS, SERVICE_AUDIT, SERVICE_COUNT,
               SERVICE_WORKER, SERVICE_SPOOL };

struct view {
    const uint8_t *bytes;
    size_t size;
};

/* One struct per message: struct ready, struct verdict, ... */
#define MEMBER_U64(name, limit, count)   uint64_t name;
#define MEMBER_FLAG(name, limit, count)  bool name;
#define MEMBER_TEXT(name, limit, count)  char name[(limit) + 1];
#define MEMBER_BYTES(name, limit, count) uint32_t name##_size; uint8_t name[limit];
#define MEMBER_TEXTS(name, limit, count) uint32_t name##_count; char name[count][(limit) + 1];
#define MEMBER_VIEW(name, limit, count)  struct view name;
#define MESSAGE(code, name, sender, receiver, body_limit, purpose) struct name {
#define FIELD(message, type, name, limit, count, presence, since, meaning) MEMBER_##type(name, limit, count)
#define END_MESSAGE };
#include "common/messages.def"

enum message_code {
#define MESSAGE(code, name, sender, receiver, body_limit, purpose) MESSAGE_##name = code,
#define FIELD(message, type, name, limit, count, presence, since, meaning)
#define END_MESSAGE
#include "common/messages.def"
};

enum field_type { FIELD_U64, FIELD_FLAG, FIELD_TEXT, FIELD_BYTES, FIELD_TEXTS, FIELD_VIEW };
enum field_presence { FIELD_REQUIRED, FIELD_OPTIONAL, FIELD_SECRET, FIELD_HIDDEN };

struct field {
    const char *name;
    enum field_type type;
    enum field_presence presence;
    size_t offset;          /* of the value in the struct */
    size_t length_offset;   /* of its _size or _count, for BYTES and TEXTS */
    size_t limit;           /* most bytes per value */
    size_t count;           /* most values */
    unsigned since;         /* version that brought it */
    const char *meaning;
};

struct message_type {
    uint16_t code;
    const char *name;
    enum service sender, receiver;
    size_t body_limit;
    const char *purpose;
    const struct field *fields;
    size_t field_count;
    size_t struct_size;
};

/* The row for a code; NULL when no message has it.  Constant time. */
const struct message_type *message_type_of(uint16_t code);
const struct message_type *message_type_named(const char *name);
const struct message_type *message_types(size_t *ret_count);

/* May a peer of role `from` send this to a peer of role `to`?  The authority of the bus is this column. */
bool message_is_allowed(const struct message_type *type, enum service from, enum service to);

/*
 * Writes the fields that `version` knows, at most `capacity` bytes.
 * ERR_BUG: the struct breaks its own limits.  ERR_TOO_LARGE: it does not fit in `capacity` or body_limit.
 */
enum err message_encode(const struct message_type *type, unsigned version, const void *message,
                        uint8_t *buffer, size_t capacity, size_t *ret_size) MUST_CHECK;

/*
 * Reads exactly one message and nothing after it.  On failure `message` is all zero and
 * *reterr_field names the field at fault (static storage).  Allocates nothing after the first call of a thread.
 * ERR_MALFORMED: truncated, oversized, nested, ill-typed, too many or too few elements for `version`.
 */
enum err message_decode(const struct message_type *type, unsigned version, const uint8_t *bytes, size_t size,
                        void *message, const char **reterr_field) MUST_CHECK;

/* Copies a text that a TEXT field of `limit` bytes can carry, with its NUL; false: too long, or not printable ASCII. */
bool message_take_text(const char *from, char *to, size_t limit);

/* One line for people, secrets redacted, VIEWs by size (printable ones up to 200 bytes in full). */
void message_print(const struct message_type *type, const void *message, FILE *out);
void message_wipe(const struct message_type *type, void *message);
/* Over every row up to MESSAGES_VERSION; recorded in tests/unit/test_message.c beside the version. */
uint64_t message_schema_fingerprint(void);
/* The Markdown table of docs/messages.md. */
void message_document(FILE *out);

const char *service_text(uint64_t service);    /* "authz"; "" for an unknown number */

#endif
