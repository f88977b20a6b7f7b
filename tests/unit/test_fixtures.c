/*
 * The recorded messages of tests/wire/: each decodes, encodes to the same bytes and prints to its first line, and no
 * message lacks one.  They stay for ever: what an old release sent or wrote into a spool stays readable.
 */
#include <glob.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/encode.h"
#include "common/message.h"
#include "common/trail.h"

#define RECORDED_AT 1u          /* MESSAGES_VERSION of the files; a later version's stand beside them */
#define FILE_MAX    70000u
#define PATTERN     "tests/wire/*.hex"

struct recording {
    const struct message_type *type;
    char name[64];               /* of the file, for messages of this test */
    char text[FILE_MAX];         /* of the file */
    char *line;                  /* in it: for people, without "# " */
    uint8_t body[FILE_MAX / 2];
    size_t size;
    void *message;
};

static glob_t files;
static struct recording recording;

static int find_files(void **state)
{
    (void)state;
    return glob(PATTERN, 0, NULL, &files);
}

static int forget_files(void **state)
{
    (void)state;
    globfree(&files);
    return 0;
}

static const struct message_type *type_of(const char *name)
{
    char word[64];

    snprintf(word, sizeof word, "%.*s", (int)strcspn(name, "."), name);
    return message_type_named(word);
}

/* The file's first line goes to recording.line, its second, decoded, to recording.body. */
static void load(const char *path)
{
    const char *field = NULL;
    char *hex;
    FILE *file = fopen(path, "r");
    size_t size;

    assert_non_null(file);
    size = fread(recording.text, 1, sizeof recording.text - 1, file);
    fclose(file);
    recording.text[size] = '\0';
    snprintf(recording.name, sizeof recording.name, "%s", strrchr(path, '/') + 1);
    recording.type = type_of(recording.name);
    if (recording.type == NULL)
        fail_msg("%s is named after no message", path);
    assert_memory_equal(recording.text, "# ", 2);
    recording.line = recording.text + 2;
    hex = strchr(recording.line, '\n');
    assert_non_null(hex);
    *hex++ = '\0';
    assert_int_equal(hex_decode(hex, strcspn(hex, "\n"), recording.body, sizeof recording.body, &recording.size),
                     ERR_OK);
    recording.message = calloc(1, recording.type->struct_size);
    assert_non_null(recording.message);
    if (message_decode(recording.type, RECORDED_AT, recording.body, recording.size, recording.message, &field)
        != ERR_OK)
        fail_msg("%s does not decode: %s", recording.name, field);
}

static void unload(void)
{
    free(recording.message);
    recording.message = NULL;
}

/* A real key would be mcp_ and 65 letters and digits; the recorder leaves x in their place. */
static bool holds_key(const uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i + 24 <= size; i++) {
        size_t others = 0;

        if (memcmp(bytes + i, "mcp_", 4) != 0)
            continue;
        for (size_t at = i + 4; at < i + 24; at++)
            others += bytes[at] != 'x' && strchr("\",:{} ", bytes[at]) == NULL;
        if (others == 20)
            return true;
    }
    return false;
}

static void no_recording_holds_a_key(void **state)
{
    static const char real[] = "{\"key\":\"mcp_0123456789abcdefghijklmnopqrstuvwxyz\"}";
    (void)state;

    assert_true(holds_key((const uint8_t *)real, sizeof real - 1));
    for (size_t i = 0; i < files.gl_pathc; i++) {
        load(files.gl_pathv[i]);
        if (holds_key(recording.body, recording.size))
            fail_msg("%s holds a key", recording.name);
        unload();
    }
}

static void a_cut_recording_is_refused(void **state)
{
    const char *field;
    (void)state;

    for (size_t i = 0; i < files.gl_pathc; i++) {
        load(files.gl_pathv[i]);
        if (recording.size > 0)
            assert_int_equal(message_decode(recording.type, RECORDED_AT, recording.body, recording.size - 1,
                                            recording.message, &field), ERR_MALFORMED);
        unload();
    }
}

static void every_recording_encodes_to_the_same_bytes(void **state)
{
    static uint8_t body[FILE_MAX / 2];
    size_t size;
    (void)state;

    for (size_t i = 0; i < files.gl_pathc; i++) {
        load(files.gl_pathv[i]);
        assert_int_equal(message_encode(recording.type, RECORDED_AT, recording.message, body, sizeof body, &size),
                         ERR_OK);
        assert_int_equal(size, recording.size);
        assert_memory_equal(body, recording.body, size);
        unload();
    }
}

static void every_recording_prints_to_its_first_line(void **state)
{
    (void)state;

    for (size_t i = 0; i < files.gl_pathc; i++) {
        char *printed = NULL;
        size_t size = 0;
        FILE *out = open_memstream(&printed, &size);

        assert_non_null(out);
        load(files.gl_pathv[i]);
        message_print(recording.type, recording.message, out);
        fclose(out);
        assert_true(size > 0 && printed[size - 1] == '\n');
        printed[size - 1] = '\0';
        assert_string_equal(printed, recording.line);
        free(printed);
        unload();
    }
}

static void every_message_has_a_recording(void **state)
{
    size_t count;
    const struct message_type *types = message_types(&count);
    (void)state;

    for (size_t i = 0; i < count; i++) {
        size_t found = 0;

        for (size_t at = 0; at < files.gl_pathc; at++)
            found += type_of(strrchr(files.gl_pathv[at], '/') + 1) == &types[i];
        if (found == 0)
            fail_msg("tests/wire holds no %s: let tests/wire/record make one", types[i].name);
    }
}

static size_t check_records(const struct view *block)
{
    struct trail_header header;
    struct trail_record record;
    struct audit_event event;
    size_t cursor = 0, records = 0;
    uint32_t index = 0;
    const char *field;

    assert_int_equal(trail_open(block->bytes, block->size, &header), ERR_OK);
    assert_int_equal(header.version, RECORDED_AT);
    for (; trail_next(block->bytes, &header, &cursor, &index, &record); records++) {
        assert_ptr_equal(record.type, message_type_of(MESSAGE_audit_event));
        assert_int_equal(message_decode(record.type, header.version, record.body, record.body_size, &event, &field),
                         ERR_OK);
        assert_string_equal(event.event, "request");
    }
    return records;
}

static void the_records_of_a_recorded_block_are_events(void **state)
{
    size_t records = 0;
    (void)state;

    for (size_t i = 0; i < files.gl_pathc; i++) {
        load(files.gl_pathv[i]);
        if (recording.type->code == MESSAGE_trail_block)
            records += check_records(&((const struct trail_block *)recording.message)->block);
        unload();
    }
    assert_true(records >= 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_recording_holds_a_key),
        cmocka_unit_test(a_cut_recording_is_refused),
        cmocka_unit_test(every_recording_encodes_to_the_same_bytes),
        cmocka_unit_test(every_recording_prints_to_its_first_line),
        cmocka_unit_test(every_message_has_a_recording),
        cmocka_unit_test(the_records_of_a_recorded_block_are_events),
    };

    return cmocka_run_group_tests(tests, find_files, forget_files);
}
