/*
 * record.c - the first messages of each type as `<message>.<n>.hex`: a line that says what it is, then the body in hex at the
 * oldest version.  SECRET fields are zeroed and the values of JSON members named "key" overwritten: no recording opens a door.
 */
#include "services/edge/core.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/apikey.h"
#include "common/cleanup.h"

#define RECORDINGS_PER_TYPE 20u
#define CODES_MAX           0x0600u
#define APIKEY_SECRET_LOOK  16u    /* letters behind the prefix; `start`, which people are shown, has two */

struct record {
    char dir[401];
    uint8_t counts[CODES_MAX];
};

DEFINE_DESTROY(file_destroy, FILE, fclose)

static void bytes_destroy(uint8_t **bytes)
{
    free(*bytes);
    *bytes = NULL;
}

enum err record_new(const char *dir, struct record **ret_record)
{
    struct record *record;

    *ret_record = NULL;
    if (dir[0] == '\0')
        return ERR_OK;
    if (mkdir(dir, 0700) != 0 && errno != EEXIST)
        return ERR_UNAVAILABLE;
    record = calloc(1, sizeof *record);
    if (record == NULL)
        return ERR_NO_MEMORY;
    snprintf(record->dir, sizeof record->dir, "%s", dir);
    *ret_record = record;
    return ERR_OK;
}

void record_destroy(struct record **record)
{
    free(*record);
    *record = NULL;
}

/* Overwrites the value of each "key":"..." with as many x. */
static void blank_keys(uint8_t *json, size_t size)
{
    static const char name[] = "\"key\"";

    for (size_t at = 0; at + sizeof name - 1 < size; at++) {
        if (memcmp(json + at, name, sizeof name - 1) != 0)
            continue;
        at += sizeof name - 1;
        while (at < size && (json[at] == ' ' || json[at] == ':' || json[at] == '\n' || json[at] == '\t' || json[at] == '\r'))
            at++;
        if (at >= size || json[at] != '"')
            continue;
        for (at++; at < size && json[at] != '"'; at++)
            json[at] = 'x';
    }
}

/* A member's name may be spelled with escapes: what looks like a key of ours goes wherever it stands. */
static void blank_looks(uint8_t *json, size_t size)
{
    const size_t prefix = sizeof APIKEY_PREFIX - 1;

    for (size_t at = 0; at + prefix + APIKEY_SECRET_LOOK < size; at++) {
        size_t end = at + prefix;

        if (memcmp(json + at, APIKEY_PREFIX, prefix) != 0)
            continue;
        while (end < size && (isalnum(json[end]) || json[end] == '_' || json[end] == '-'))
            end++;
        if (end - at >= prefix + APIKEY_SECRET_LOOK)
            memset(json + at + prefix, 'x', end - at - prefix);
        at = end - 1;
    }
}

/* The same of keys with a tenant's prefix, whatever stands before that. */
static void blank_forms(uint8_t *json, size_t size)
{
    for (size_t at = 0, end; at < size; at = end + 1) {
        for (end = at; end < size && (isalnum(json[end]) || json[end] == '_' || json[end] == '-'); )
            end++;
        for (size_t start = at; start < end; start++)
            if (apikey_has_our_form((const char *)json + start, end - start))
                memset(json + start, 'x', end - start);
    }
}

/* `views` has the type's body_limit: what a whole message may hold. */
static void blank_secrets(const struct message_type *type, uint8_t *message, uint8_t *views)
{
    size_t left = type->body_limit;

    for (size_t i = 0; i < type->field_count; i++) {
        const struct field *field = &type->fields[i];

        if ((field->presence == FIELD_SECRET || field->presence == FIELD_HIDDEN) && field->type != FIELD_VIEW)
            memset(message + field->offset, 0, field->limit * field->count);
        if (field->type == FIELD_VIEW && field->presence == FIELD_HIDDEN) {
            memset(message + field->offset, 0, sizeof(struct view));
        } else if (field->type == FIELD_VIEW) {
            struct view view;

            memcpy(&view, message + field->offset, sizeof view);
            view.size = view.size < left ? view.size : left;
            left -= view.size;
            if (view.size > 0)
                memcpy(views, view.bytes, view.size);
            blank_keys(views, view.size);
            blank_forms(views, view.size);
            blank_looks(views, view.size);
            view.bytes = views;
            views += view.size;
            memcpy(message + field->offset, &view, sizeof view);
        }
    }
}

static void write_recording(const struct record *record, const struct message_type *type, unsigned number,
                            const void *message)
{
    OWNED(bytes_destroy) uint8_t *body = malloc(type->body_limit);
    char path[512];
    size_t size;

    if (body == NULL || message_encode(type, MESSAGES_VERSION_OLDEST, message, body, type->body_limit, &size) != ERR_OK)
        return;
    snprintf(path, sizeof path, "%s/%s.%u.hex", record->dir, type->name, number);
    OWNED(file_destroy) FILE *file = fopen(path, "we");
    if (file == NULL)
        return;
    fputs("# ", file);
    message_print(type, message, file);
    for (size_t i = 0; i < size; i++)
        fprintf(file, "%02x", body[i]);
    fputs("\n", file);
}

void record_message(struct record *record, const struct message_type *type, const void *message)
{
    if (type->code >= CODES_MAX || record->counts[type->code] >= RECORDINGS_PER_TYPE)
        return;
    OWNED(bytes_destroy) uint8_t *copy = malloc(type->struct_size);
    OWNED(bytes_destroy) uint8_t *views = malloc(type->body_limit);
    if (copy == NULL || views == NULL)
        return;
    memcpy(copy, message, type->struct_size);
    blank_secrets(type, copy, views);
    write_recording(record, type, record->counts[type->code]++, copy);
}
