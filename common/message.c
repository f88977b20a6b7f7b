/*
 * message.c - one codec for every row of messages.def, over msgpack-c.
 *
 * The tables below are data; every branch lives in ordinary functions that interpret them.  Foreign bytes reach
 * msgpack-c only after wire_is_sound(): 5 bytes make its unpacker reserve 8 GB otherwise (msgpack-c issue 1013).
 */
#include "common/message.h"

#include <inttypes.h>
#include <msgpack.h>
#include <openssl/crypto.h>
#include <pthread.h>
#include <string.h>

#include "common/wire.h"

/* Enough for the objects of any honest message (24 bytes each), so that the zone never grows. */
#define ZONE_CHUNK 8192u
#define PRINT_VIEW_MAX 200u

#define LENGTH_U64(message, name)   0
#define LENGTH_FLAG(message, name)  0
#define LENGTH_TEXT(message, name)  0
#define LENGTH_VIEW(message, name)  0
#define LENGTH_BYTES(message, name) offsetof(struct message, name##_size)
#define LENGTH_TEXTS(message, name) offsetof(struct message, name##_count)

#define MESSAGE(code, name, sender, receiver, body_limit, purpose) static const struct field name##_fields[] = {
#define FIELD(message, type, name, limit, count, presence, since, meaning)                 \
    { #name, FIELD_##type, FIELD_##presence, offsetof(struct message, name),               \
      LENGTH_##type(message, name), limit, count, since, meaning },
#define END_MESSAGE };
#include "common/messages.def"

static const struct message_type types[] = {
#define MESSAGE(code, name, sender, receiver, body_limit, purpose)                         \
    { code, #name, SERVICE_##sender, SERVICE_##receiver, body_limit, purpose, name##_fields, \
      sizeof(name##_fields) / sizeof(name##_fields[0]), sizeof(struct name) },
#define FIELD(message, type, name, limit, count, presence, since, meaning)
#define END_MESSAGE
#include "common/messages.def"
};
#define TYPE_COUNT (sizeof(types) / sizeof(types[0]))

enum {
#define MESSAGE(code, name, sender, receiver, body_limit, purpose) POSITION_##name,
#define FIELD(message, type, name, limit, count, presence, since, meaning)
#define END_MESSAGE
#include "common/messages.def"
    POSITION_COUNT
};
_Static_assert(POSITION_COUNT < UINT8_MAX, "positions are kept in one byte");

/* Position + 1 by code; 0: no such message. */
static const uint8_t position_of[] = {
#define MESSAGE(code, name, sender, receiver, body_limit, purpose) [code] = POSITION_##name + 1,
#define FIELD(message, type, name, limit, count, presence, since, meaning)
#define END_MESSAGE
#include "common/messages.def"
};

const struct message_type *message_types(size_t *ret_count)
{
    *ret_count = TYPE_COUNT;
    return types;
}

const struct message_type *message_type_of(uint16_t code)
{
    if (code >= sizeof position_of || position_of[code] == 0)
        return NULL;
    return &types[position_of[code] - 1];
}

const struct message_type *message_type_named(const char *name)
{
    for (size_t i = 0; i < TYPE_COUNT; i++)
        if (strcmp(types[i].name, name) == 0)
            return &types[i];
    return NULL;
}

const char *service_text(uint64_t service)
{
    static const char *const texts[] = {
        [SERVICE_EDGE] = "edge", [SERVICE_AUTHZ] = "authz", [SERVICE_RATELIMIT] = "ratelimit",
        [SERVICE_KEYS] = "keys", [SERVICE_AUDIT] = "audit", [SERVICE_COUNT] = "",
        [SERVICE_WORKER] = "worker", [SERVICE_SPOOL] = "spool",
    };

    return service < sizeof texts / sizeof texts[0] ? texts[service] : "";
}

static bool role_matches(enum service column, enum service role)
{
    if (role >= SERVICE_COUNT)
        return false;
    return column == role || (column == SERVICE_WORKER && role != SERVICE_EDGE);
}

bool message_is_allowed(const struct message_type *type, enum service from, enum service to)
{
    return role_matches(type->sender, from) && role_matches(type->receiver, to);
}

/* --- reading one field in place -------------------------------------------------------- */

static const uint8_t *value_of(const struct field *field, const void *message)
{
    return (const uint8_t *)message + field->offset;
}

static uint64_t number_of(const struct field *field, const void *message)
{
    uint64_t number;

    memcpy(&number, value_of(field, message), sizeof number);
    return number;
}

static bool flag_of(const struct field *field, const void *message)
{
    return *value_of(field, message) != 0;
}

static uint32_t length_of(const struct field *field, const void *message)
{
    uint32_t length;

    memcpy(&length, (const uint8_t *)message + field->length_offset, sizeof length);
    return length;
}

static const char *text_at(const struct field *field, const void *message, size_t index)
{
    return (const char *)value_of(field, message) + index * (field->limit + 1);
}

static struct view view_of(const struct field *field, const void *message)
{
    struct view view;

    memcpy(&view, value_of(field, message), sizeof view);
    return view;
}

static bool may_be_absent(const struct field *field)
{
    return field->presence == FIELD_OPTIONAL || field->presence == FIELD_HIDDEN;
}

/* Zero and empty mean absent. */
static bool has_value(const struct field *field, const void *message)
{
    switch (field->type) {
    case FIELD_U64:   return number_of(field, message) != 0;
    case FIELD_FLAG:  return flag_of(field, message);
    case FIELD_TEXT:  return text_at(field, message, 0)[0] != '\0';
    case FIELD_BYTES:
    case FIELD_TEXTS: return length_of(field, message) != 0;
    case FIELD_VIEW:  return view_of(field, message).size != 0;
    }
    return false;
}

/* Fields are only appended: those that `version` knows come first. */
static size_t known_fields(const struct message_type *type, unsigned version)
{
    size_t count = type->field_count;

    while (count > 0 && type->fields[count - 1].since > version)
        count--;
    return count;
}

static bool is_known_version(unsigned version)
{
    return version >= 1 && version <= MESSAGES_VERSION;
}

/* High bits are set for bytes that are not printable ASCII: those that have it themselves, or plus 1, or minus 0x20.
 * A carry or borrow between bytes only starts at a byte that is refused anyway. */
static uint64_t unprintable(uint64_t word)
{
    const uint64_t ones = UINT64_C(0x0101010101010101);

    return (word | (word + ones) | (word - 0x20 * ones)) & (0x80 * ones);
}

/* Eight bytes at a time; the last eight may overlap those before.  Short texts are filled up with blanks. */
static inline bool is_printable(const char *text, size_t size)
{
    uint64_t word = UINT64_C(0x2020202020202020);
    uint64_t bad = 0;

    if (size == 0)
        return true;    /* `text` may be NULL then */
    if (size < sizeof word) {
        memcpy(&word, text, size);
        return unprintable(word) == 0;
    }
    for (size_t at = 0; at < size - sizeof word; at += sizeof word) {
        memcpy(&word, text + at, sizeof word);
        bad |= unprintable(word);
    }
    memcpy(&word, text + size - sizeof word, sizeof word);
    return (bad | unprintable(word)) == 0;
}

/* --- encode ---------------------------------------------------------------------------- */

struct sink {
    uint8_t *bytes;
    size_t capacity, size;
    bool is_full;
};

static inline int sink_write(struct sink *sink, const void *bytes, size_t size)
{
    if (size > sink->capacity - sink->size) {
        sink->is_full = true;
        return -1;
    }
    memcpy(sink->bytes + sink->size, bytes, size);
    sink->size += size;
    return 0;
}

/* msgpack-c's packers once more, as pack_uint64(), pack_str(), ... over our sink: its own make a call through a pointer
 * for every few bytes, which was half the time of an encode. */
#define msgpack_pack_inline_func(name)              static inline int pack##name
#define msgpack_pack_user                           struct sink *
#define msgpack_pack_append_buffer(user, from, len) return sink_write(user, from, len)
#include <msgpack/pack_template.h>

static int put_text(struct sink *sink, const struct field *field, const char *text)
{
    size_t size = strnlen(text, field->limit + 1);

    if (size > field->limit || !is_printable(text, size))
        return -1;
    if (pack_str(sink, size) != 0)
        return -1;
    return pack_str_body(sink, text, size);
}

static int put_texts(struct sink *sink, const struct field *field, const void *message)
{
    uint32_t count = length_of(field, message);

    if (count > field->count || pack_array(sink, count) != 0)
        return -1;
    for (uint32_t i = 0; i < count; i++)
        if (put_text(sink, field, text_at(field, message, i)) != 0)
            return -1;
    return 0;
}

static int put_bytes(struct sink *sink, const struct field *field, const uint8_t *bytes, size_t size)
{
    if (size > field->limit || (bytes == NULL && size > 0))
        return -1;
    if (pack_bin(sink, size) != 0)
        return -1;
    return size == 0 ? 0 : pack_bin_body(sink, bytes, size);
}

static int put_value(struct sink *sink, const struct field *field, const void *message)
{
    struct view view;

    switch (field->type) {
    case FIELD_U64:
        return pack_uint64(sink, number_of(field, message));
    case FIELD_FLAG:
        return flag_of(field, message) ? pack_true(sink) : pack_false(sink);
    case FIELD_TEXT:
        return put_text(sink, field, text_at(field, message, 0));
    case FIELD_BYTES:
        return put_bytes(sink, field, value_of(field, message), length_of(field, message));
    case FIELD_TEXTS:
        return put_texts(sink, field, message);
    case FIELD_VIEW:
        view = view_of(field, message);
        return put_bytes(sink, field, view.bytes, view.size);
    }
    return -1;
}

static int put_fields(struct sink *sink, const struct message_type *type, size_t count, const void *message)
{
    if (pack_array(sink, count) != 0)
        return -1;
    for (size_t i = 0; i < count; i++) {
        const struct field *field = &type->fields[i];
        bool is_nil = may_be_absent(field) && !has_value(field, message);

        if ((is_nil ? pack_nil(sink) : put_value(sink, field, message)) != 0)
            return -1;
    }
    return 0;
}

enum err message_encode(const struct message_type *type, unsigned version, const void *message,
                        uint8_t *buffer, size_t capacity, size_t *ret_size)
{
    struct sink sink = { .bytes = buffer, .capacity = capacity < type->body_limit ? capacity : type->body_limit };

    if (!is_known_version(version))
        return ERR_BUG;
    if (put_fields(&sink, type, known_fields(type, version), message) != 0)
        return sink.is_full ? ERR_TOO_LARGE : ERR_BUG;
    *ret_size = sink.size;
    return ERR_OK;
}

/* --- decode ---------------------------------------------------------------------------- */

/* msgpack-c gives empty texts and bytes as NULL, which memcpy may not be given. */
static void copy(void *to, const char *from, size_t size)
{
    if (size > 0)
        memcpy(to, from, size);
}

static bool store_text(const struct field *field, const msgpack_object *from, void *message, size_t index)
{
    char *to = (char *)message + field->offset + index * (field->limit + 1);
    uint32_t size = from->via.str.size;

    if (from->type != MSGPACK_OBJECT_STR || size > field->limit || !is_printable(from->via.str.ptr, size))
        return false;
    copy(to, from->via.str.ptr, size);
    to[size] = '\0';
    return true;
}

static bool store_texts(const struct field *field, const msgpack_object *from, void *message)
{
    if (from->type != MSGPACK_OBJECT_ARRAY || from->via.array.size > field->count)
        return false;
    memcpy((uint8_t *)message + field->length_offset, &from->via.array.size, sizeof from->via.array.size);
    for (uint32_t i = 0; i < from->via.array.size; i++)
        if (!store_text(field, &from->via.array.ptr[i], message, i))
            return false;
    return true;
}

/* What the sender left out is zeroed: a digest must never keep bytes of the message before. */
static bool store_bytes(const struct field *field, const msgpack_object *from, void *message)
{
    uint8_t *to = (uint8_t *)message + field->offset;
    uint32_t size = from->via.bin.size;

    if (from->type != MSGPACK_OBJECT_BIN || size > field->limit)
        return false;
    memcpy((uint8_t *)message + field->length_offset, &size, sizeof size);
    copy(to, from->via.bin.ptr, size);
    memset(to + size, 0, field->limit - size);
    return true;
}

static bool store_view(const struct field *field, const msgpack_object *from, void *message)
{
    if (from->type != MSGPACK_OBJECT_BIN || from->via.bin.size > field->limit)
        return false;
    const struct view view = { (const uint8_t *)from->via.bin.ptr, from->via.bin.size };

    memcpy((uint8_t *)message + field->offset, &view, sizeof view);
    return true;
}

static bool store_value(const struct field *field, const msgpack_object *from, void *message)
{
    uint8_t *to = (uint8_t *)message + field->offset;

    switch (field->type) {
    case FIELD_U64:
        memcpy(to, &from->via.u64, sizeof from->via.u64);
        return from->type == MSGPACK_OBJECT_POSITIVE_INTEGER;
    case FIELD_FLAG:
        *to = from->type == MSGPACK_OBJECT_BOOLEAN && from->via.boolean;
        return from->type == MSGPACK_OBJECT_BOOLEAN;
    case FIELD_TEXT:
        return store_text(field, from, message, 0);
    case FIELD_BYTES:
        return store_bytes(field, from, message);
    case FIELD_TEXTS:
        return store_texts(field, from, message);
    case FIELD_VIEW:
        return store_view(field, from, message);
    }
    return false;
}

/* Only what a reader looks at is written: a length or a first byte, not the whole array of a text. */
static void store_nothing(const struct field *field, void *message)
{
    uint8_t *to = (uint8_t *)message + field->offset;

    switch (field->type) {
    case FIELD_U64:
        memset(to, 0, sizeof(uint64_t));
        return;
    case FIELD_FLAG:
    case FIELD_TEXT:
        *to = 0;
        return;
    case FIELD_BYTES:
        memset(to, 0, field->limit);
        memset((uint8_t *)message + field->length_offset, 0, sizeof(uint32_t));
        return;
    case FIELD_TEXTS:
        memset((uint8_t *)message + field->length_offset, 0, sizeof(uint32_t));
        return;
    case FIELD_VIEW:
        memset(to, 0, sizeof(struct view));
        return;
    }
}

static enum err store_fields(const struct message_type *type, unsigned version, const msgpack_object *list,
                             void *message, const char **reterr_field)
{
    const size_t known = known_fields(type, version);

    *reterr_field = "(not one list with a value for each field)";
    if (list->type != MSGPACK_OBJECT_ARRAY || list->via.array.size != known)
        return ERR_MALFORMED;
    for (size_t i = 0; i < known; i++) {
        const struct field *field = &type->fields[i];
        const msgpack_object *from = &list->via.array.ptr[i];

        if (from->type == MSGPACK_OBJECT_NIL && may_be_absent(field)) {
            store_nothing(field, message);
        } else if (!store_value(field, from, message)) {
            *reterr_field = field->name;
            return ERR_MALFORMED;
        }
    }
    for (size_t i = known; i < type->field_count; i++)
        store_nothing(&type->fields[i], message);
    return ERR_OK;
}

static pthread_once_t zones_once = PTHREAD_ONCE_INIT;
static pthread_key_t zones_key;
static bool zones_end_with_threads;
static _Thread_local msgpack_zone *thread_zone;

static void zone_release(void *zone)
{
    msgpack_zone_free(zone);
}

static void zones_prepare(void)
{
    zones_end_with_threads = pthread_key_create(&zones_key, zone_release) == 0;
}

/* This thread's zone, emptied.  NULL: no memory. */
static msgpack_zone *zone_of_thread(void)
{
    if (thread_zone != NULL) {
        msgpack_zone_clear(thread_zone);
        return thread_zone;
    }
    pthread_once(&zones_once, zones_prepare);
    thread_zone = msgpack_zone_new(ZONE_CHUNK);
    if (zones_end_with_threads)
        pthread_setspecific(zones_key, thread_zone);
    return thread_zone;
}

enum err message_decode(const struct message_type *type, unsigned version, const uint8_t *bytes, size_t size,
                        void *message, const char **reterr_field)
{
    const char *field = "(not one complete list)";
    enum err err = ERR_MALFORMED;
    msgpack_object list;

    if (is_known_version(version) && size <= type->body_limit && wire_is_sound(bytes, size)) {
        msgpack_zone *zone = zone_of_thread();

        err = zone == NULL ? ERR_NO_MEMORY : ERR_MALFORMED;
        if (zone != NULL && msgpack_unpack((const char *)bytes, size, NULL, zone, &list) == MSGPACK_UNPACK_SUCCESS)
            err = store_fields(type, version, &list, message, &field);
    }
    if (err != ERR_OK) {
        message_wipe(type, message);
        *reterr_field = field;
    }
    return err;
}

/* --- print, wipe, fingerprint, document ------------------------------------------------ */

static void print_text(const char *text, size_t size, FILE *out)
{
    fputc('"', out);
    for (size_t i = 0; i < size; i++) {
        if (text[i] == '"' || text[i] == '\\')
            fputc('\\', out);
        if (is_printable(&text[i], 1))
            fputc(text[i], out);
        else
            fprintf(out, "\\x%02x", (uint8_t)text[i]);
    }
    fputc('"', out);
}

static void print_view(struct view view, FILE *out)
{
    if (view.size <= PRINT_VIEW_MAX && is_printable((const char *)view.bytes, view.size))
        print_text((const char *)view.bytes, view.size, out);
    else
        fprintf(out, "[%zu bytes]", view.size);
}

static void print_value(const struct field *field, const void *message, FILE *out)
{
    switch (field->type) {
    case FIELD_U64:
        fprintf(out, "%" PRIu64, number_of(field, message));
        return;
    case FIELD_FLAG:
        fputs(flag_of(field, message) ? "true" : "false", out);
        return;
    case FIELD_TEXT:
        print_text(text_at(field, message, 0), strnlen(text_at(field, message, 0), field->limit), out);
        return;
    case FIELD_BYTES:
        for (uint32_t i = 0; i < length_of(field, message) && i < field->limit; i++)
            fprintf(out, "%02x", value_of(field, message)[i]);
        return;
    case FIELD_TEXTS:
        for (uint32_t i = 0; i < length_of(field, message) && i < field->count; i++) {
            fputs(i == 0 ? "" : ",", out);
            print_text(text_at(field, message, i), strnlen(text_at(field, message, i), field->limit), out);
        }
        return;
    case FIELD_VIEW:
        print_view(view_of(field, message), out);
        return;
    }
}

void message_print(const struct message_type *type, const void *message, FILE *out)
{
    fputs(type->name, out);
    for (size_t i = 0; i < type->field_count; i++) {
        const struct field *field = &type->fields[i];

        if (may_be_absent(field) && !has_value(field, message))
            continue;
        fprintf(out, " %s=", field->name);
        if (field->presence == FIELD_SECRET || field->presence == FIELD_HIDDEN)
            fputs("[secret]", out);
        else
            print_value(field, message, out);
    }
    fputc('\n', out);
}

void message_wipe(const struct message_type *type, void *message)
{
    OPENSSL_cleanse(message, type->struct_size);
}

/* FNV-1a, the NUL included. */
static uint64_t mix(uint64_t hash, const char *text)
{
    do
        hash = (hash ^ (uint8_t)*text) * UINT64_C(0x100000001b3);
    while (*text++ != '\0');
    return hash;
}

uint64_t message_schema_fingerprint(void)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);

#define MESSAGE(code, name, sender, receiver, body_limit, purpose) \
    hash = mix(hash, #code " " #name " " #sender " " #receiver " " #body_limit);
#define FIELD(message, type, name, limit, count, presence, since, meaning) \
    if ((since) <= MESSAGES_VERSION)                                       \
        hash = mix(hash, #type " " #name " " #limit " " #count " " #presence " " #since);
#define END_MESSAGE
#include "common/messages.def"
    return hash;
}

/* A bar would end the cell. */
static void print_cell(const char *text, FILE *out)
{
    for (; *text != '\0'; text++) {
        if (*text == '|')
            fputc('\\', out);
        fputc(*text, out);
    }
}

static void document_fields(const struct message_type *type, FILE *out)
{
    static const char *const type_names[] = {
        [FIELD_U64] = "number", [FIELD_FLAG] = "flag", [FIELD_TEXT] = "text", [FIELD_BYTES] = "bytes",
        [FIELD_TEXTS] = "list of texts", [FIELD_VIEW] = "bytes, by reference",
    };
    static const char *const presence_names[] = {
        [FIELD_REQUIRED] = "required", [FIELD_OPTIONAL] = "optional", [FIELD_SECRET] = "required, secret",
        [FIELD_HIDDEN] = "optional, secret",
    };

    fputs("| # | field | type | values | bytes | presence | since | meaning |\n", out);
    fputs("|---|---|---|---|---|---|---|---|\n", out);
    for (size_t i = 0; i < type->field_count; i++) {
        const struct field *field = &type->fields[i];

        fprintf(out, "| %zu | %s | %s | %zu | %zu | %s | %u | ", i, field->name, type_names[field->type],
                field->count, field->limit, presence_names[field->presence], field->since);
        print_cell(field->meaning, out);
        fputs(" |\n", out);
    }
}

void message_document(FILE *out)
{
    fprintf(out, "# Messages\n\nMade from `common/messages.def` (version %d). A body is one msgpack array, its elements\n"
                 "in the order of the rows; an absent optional field is nil.\n\n", MESSAGES_VERSION);
    fputs("| code | message | from | to | body at most | purpose |\n|---|---|---|---|---|---|\n", out);
    for (size_t i = 0; i < TYPE_COUNT; i++)
        fprintf(out, "| %04x | [%s](#%s) | %s | %s | %zu | %s |\n", types[i].code, types[i].name, types[i].name,
                service_text(types[i].sender), service_text(types[i].receiver), types[i].body_limit,
                types[i].purpose);
    for (size_t i = 0; i < TYPE_COUNT; i++) {
        fprintf(out, "\n## %s\n\n%s\n\n", types[i].name, types[i].purpose);
        document_fields(&types[i], out);
    }
}

bool message_take_text(const char *from, char *to, size_t limit)
{
    const size_t length = strlen(from);

    if (length > limit)
        return false;
    for (size_t i = 0; i < length; i++) {
        if (from[i] < 0x20 || from[i] > 0x7e)
            return false;
    }
    memcpy(to, from, length + 1);
    return true;
}
