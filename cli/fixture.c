#include "cli/fixture.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/environment.h"
#include "common/encode.h"

void fixture_wipe(struct fixture *fixture)
{
    free(fixture->bytes);
    fixture->bytes = NULL;
}

/* "dir/verdict_request.3.hex" -> verdict_request */
static const struct message_type *type_of_path(const char *path)
{
    const char *name = strrchr(path, '/') != NULL ? strrchr(path, '/') + 1 : path;
    char word[64];
    size_t length = strcspn(name, ".");

    if (length >= sizeof word)
        return NULL;
    memcpy(word, name, length);
    word[length] = '\0';
    return message_type_named(word);
}

/* Takes lines with # and all blanks out; what is left is hex. */
static size_t strip(char *text)
{
    size_t kept = 0;
    bool is_comment = false;

    for (const char *at = text; *at != '\0'; at++) {
        if (*at == '#')
            is_comment = true;
        if (*at == '\n')
            is_comment = false;
        if (!is_comment && isspace((unsigned char)*at) == 0)
            text[kept++] = *at;
    }
    text[kept] = '\0';
    return kept;
}

enum err fixture_load(const char *path, struct fixture *ret_fixture)
{
    struct fixture fixture = { .bytes = malloc(FIXTURE_FILE_MAX) };
    enum err err;

    if (fixture.bytes == NULL) {
        complain("out of memory");
        return ERR_NO_MEMORY;
    }
    err = file_read(path, (char *)fixture.bytes, FIXTURE_FILE_MAX, &fixture.size);
    if (err != ERR_OK) {
        complain("%s cannot be read", path);
        fixture_wipe(&fixture);
        return err;
    }
    if (fixture.size < 2 || memcmp(fixture.bytes, "MG", 2) != 0) {
        fixture.size = strip((char *)fixture.bytes);
        err = hex_decode((const char *)fixture.bytes, fixture.size, fixture.bytes, FIXTURE_FILE_MAX, &fixture.size);
    }
    if (err == ERR_OK && (fixture.size < 2 || memcmp(fixture.bytes, "MG", 2) != 0)) {
        fixture.type = type_of_path(path);
        err = fixture.type == NULL ? ERR_NOT_FOUND : ERR_OK;
    }
    if (err != ERR_OK) {
        complain("%s: %s", path,
                 err == ERR_NOT_FOUND ? "its name is that of no message (common/messages.def)" : "this is no hex");
        fixture_wipe(&fixture);
        return err;
    }
    *ret_fixture = fixture;
    return ERR_OK;
}

enum err fixture_decode(const struct fixture *fixture, const char *path, void **ret_message)
{
    void *message = calloc(1, fixture->type->struct_size);
    const char *field = NULL;
    enum err err;

    if (message == NULL)
        return ERR_NO_MEMORY;
    err = message_decode(fixture->type, MESSAGES_VERSION_OLDEST, fixture->bytes, fixture->size, message, &field);
    if (err != ERR_OK) {
        complain("%s: this is no %s: field %s", path, fixture->type->name, field != NULL ? field : "?");
        free(message);
        return err;
    }
    *ret_message = message;
    return ERR_OK;
}
