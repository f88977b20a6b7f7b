#include "cli/arguments.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DURATION_MAX_S UINT64_C(315360000)    /* ten years, as the API */

static const struct option_row *row_of(const struct option_row *rows, const char *name, size_t length)
{
    for (; rows != NULL && rows->name != NULL; rows++) {
        if (strlen(rows->name) == length && memcmp(rows->name, name, length) == 0)
            return rows;
    }
    return NULL;
}

static enum err parse_option(int argc, const char *const *argv, int *at, const struct option_row *rows,
                             const struct option_row *common, struct arguments *arguments,
                             char *reterr, size_t reterr_size)
{
    const char *name = argv[*at] + 2, *equals = strchr(name, '='), *value = "";
    size_t length = equals != NULL ? (size_t)(equals - name) : strlen(name);
    const struct option_row *row = row_of(rows, name, length);

    if (row == NULL)
        row = row_of(common, name, length);
    if (row == NULL) {
        snprintf(reterr, reterr_size, "unknown option --%.*s", (int)(length < 60 ? length : 60), name);
        return ERR_MALFORMED;
    }
    if (row->value == NULL && equals != NULL) {
        snprintf(reterr, reterr_size, "option --%s takes no value", row->name);
        return ERR_MALFORMED;
    }
    if (row->value != NULL && equals == NULL && *at + 1 >= argc) {
        snprintf(reterr, reterr_size, "option --%s needs a value: %s", row->name, row->value);
        return ERR_MALFORMED;
    }
    if (arguments->option_count == ARGUMENTS_MAX) {
        snprintf(reterr, reterr_size, "more than %u options", ARGUMENTS_MAX);
        return ERR_MALFORMED;
    }
    arguments->options[arguments->option_count].name = row->name;
    if (row->value != NULL)
        value = equals != NULL ? equals + 1 : argv[++*at];
    arguments->options[arguments->option_count++].value = value;
    return ERR_OK;
}

enum err arguments_parse(int argc, const char *const *argv, const struct option_row *rows,
                         const struct option_row *common, struct arguments *ret_arguments,
                         char *reterr, size_t reterr_size)
{
    struct arguments arguments = { 0 };
    bool is_over = false;

    for (int i = 0; i < argc; i++) {
        enum err err = ERR_OK;

        if (!is_over && strcmp(argv[i], "--") == 0) {
            is_over = true;
        } else if (!is_over && strncmp(argv[i], "--", 2) == 0) {
            err = parse_option(argc, argv, &i, rows, common, &arguments, reterr, reterr_size);
        } else if (!is_over && argv[i][0] == '-' && argv[i][1] != '\0') {
            snprintf(reterr, reterr_size, "unknown option %.60s", argv[i]);
            err = ERR_MALFORMED;
        } else if (arguments.count == ARGUMENTS_MAX) {
            snprintf(reterr, reterr_size, "more than %u arguments", ARGUMENTS_MAX);
            err = ERR_MALFORMED;
        } else {
            arguments.positional[arguments.count++] = argv[i];
        }
        if (err != ERR_OK)
            return err;
    }
    *ret_arguments = arguments;
    return ERR_OK;
}

const char *arguments_value(const struct arguments *arguments, const char *name)
{
    for (size_t i = arguments->option_count; i > 0; i--) {
        if (strcmp(arguments->options[i - 1].name, name) == 0)
            return arguments->options[i - 1].value;
    }
    return NULL;
}

/* Digits only: strtoull alone takes signs and blanks. */
static bool read_digits(const char *text, size_t length, uint64_t *ret_number)
{
    uint64_t number = 0;

    if (length == 0 || length > 18)
        return false;
    for (size_t i = 0; i < length; i++) {
        if (!isdigit((unsigned char)text[i]))
            return false;
        number = number * 10 + (uint64_t)(text[i] - '0');
    }
    *ret_number = number;
    return true;
}

enum err arguments_number(const struct arguments *arguments, const char *name, uint64_t least, uint64_t most,
                          uint64_t fallback, uint64_t *ret_number)
{
    const char *text = arguments_value(arguments, name);
    uint64_t number;

    if (text == NULL) {
        *ret_number = fallback;
        return ERR_OK;
    }
    if (!read_digits(text, strlen(text), &number) || number < least || number > most)
        return ERR_MALFORMED;
    *ret_number = number;
    return ERR_OK;
}

enum err duration_parse(const char *text, uint64_t *ret_seconds)
{
    static const struct { char letter; uint64_t seconds; } units[] = {
        { 's', 1 }, { 'm', 60 }, { 'h', 3600 }, { 'd', 86400 }, { 'w', 604800 }
    };
    size_t length = strlen(text);
    uint64_t number, unit = 1;

    if (length > 0 && !isdigit((unsigned char)text[length - 1])) {
        unit = 0;
        for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
            if (units[i].letter == text[length - 1])
                unit = units[i].seconds;
        }
        length--;
    }
    if (unit == 0 || !read_digits(text, length, &number) || number > DURATION_MAX_S / unit)
        return ERR_MALFORMED;
    *ret_seconds = number * unit;
    return ERR_OK;
}

static const char *skip_blanks(const char *text)
{
    return text + strspn(text, " \t");
}

enum err assignment_find(const char *text, const char *name, char *ret_value, size_t size)
{
    size_t name_length = strlen(name);

    for (; *text != '\0'; text += strcspn(text, "\n"), text += *text == '\n') {
        const char *at = skip_blanks(text);
        size_t length;

        if (strncmp(at, "export ", 7) == 0)
            at = skip_blanks(at + 7);
        if (strncmp(at, name, name_length) != 0 || at[name_length] != '=')
            continue;
        at += name_length + 1;
        length = *at == '\'' ? strcspn(++at, "'\n") : *at == '"' ? strcspn(++at, "\"\n") : strcspn(at, " \t\n");
        if (length >= size)
            return ERR_TOO_LARGE;
        memcpy(ret_value, at, length);
        ret_value[length] = '\0';
        return ERR_OK;
    }
    return ERR_NOT_FOUND;
}

enum err rate_parse(const char *text, uint64_t *ret_requests, uint64_t *ret_window_s)
{
    const char *slash = strchr(text, '/');
    char *end = NULL;
    unsigned long long requests = strtoull(text, &end, 10);

    if (slash == NULL || end != slash || *text < '0' || *text > '9' || requests == 0 || requests > INT32_MAX)
        return ERR_MALFORMED;
    if (duration_parse(slash + 1, ret_window_s) != ERR_OK)
        return ERR_MALFORMED;
    *ret_requests = requests;
    return ERR_OK;
}
