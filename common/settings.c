/*
 * settings.c - reads rows of settings from defaults, one flat YAML mapping and the environment.
 *
 * Every refusal is one line: where the value stands, the setting, what is wrong, what to write instead.
 * Values of SECRET rows never appear in a message.
 */
#include "common/settings.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <yaml.h>

#include "common/cleanup.h"

#define VARIABLE_PREFIX   "MCPGW_"
#define VARIABLE_MAX      96u
#define FILE_SUFFIX       "_file"
#define PLACE_MAX         600u
#define REMEMBERED_MAX    128u
#define DEFAULT_PLACE     "default"
#define ISSUERS_KEY       "issuers"
#define VALUE_MAX         (SETTING_TEXT_MAX > SECRET_SIZE_MAX ? SETTING_TEXT_MAX : SECRET_SIZE_MAX)

/* Names of all rows of all programs: one file and one environment may serve the whole suite. */
static const char *const names_anywhere[] = {
#define SETTING(type, name, fallback, min, max, meaning) #name,
#include "common/config.def"
#define SETTING(type, name, fallback, min, max, meaning) #name,
#include "services/edge/config.def"
#define SETTING(type, name, fallback, min, max, meaning) #name,
#include "services/authz/config.def"
#define SETTING(type, name, fallback, min, max, meaning) #name,
#include "services/ratelimit/config.def"
#define SETTING(type, name, fallback, min, max, meaning) #name,
#include "services/keys/config.def"
#define SETTING(type, name, fallback, min, max, meaning) #name,
#include "services/audit/config.def"
};

/* Read by the operator's command and by `make up`, not by a service. */
static const char *const names_of_tools[] = { "url", "api_key", "home", "listen", "config", "audit_key", "audit_checkpoints" };

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

bool settings_is_known_anywhere(const char *name)
{
    for (size_t i = 0; i < COUNT_OF(names_anywhere); i++)
        if (strcmp(names_anywhere[i], name) == 0)
            return true;
    return false;
}

/* --- one load -------------------------------------------------------------------------- */

struct load {
    const struct setting *rows;
    size_t count;
    uint8_t *config;
    char *reterr;
    size_t reterr_size;
};

/* Where a value came from, for settings_show(): written while the process starts, with one thread. */
static struct {
    const char *name;
    char place[PLACE_MAX];
} remembered[REMEMBERED_MAX];
static size_t remembered_count;

static void remember(const char *name, const char *place)
{
    size_t i = 0;

    while (i < remembered_count && strcmp(remembered[i].name, name) != 0)
        i++;
    if (i == REMEMBERED_MAX)
        return;
    if (i == remembered_count)
        remembered_count++;
    remembered[i].name = name;
    snprintf(remembered[i].place, sizeof remembered[i].place, "%s", place);
}

static const char *place_of(const char *name)
{
    for (size_t i = 0; i < remembered_count; i++)
        if (strcmp(remembered[i].name, name) == 0)
            return remembered[i].place;
    return DEFAULT_PLACE;
}

__attribute__((format(printf, 4, 5)))
static enum err refuse(const struct load *load, const char *place, const char *name, const char *format, ...)
{
    va_list arguments;
    int length = snprintf(load->reterr, load->reterr_size, "%s: %s: ", place, name);

    if (length > 0 && (size_t)length < load->reterr_size) {
        va_start(arguments, format);
        vsnprintf(load->reterr + length, load->reterr_size - (size_t)length, format, arguments);
        va_end(arguments);
    }
    return ERR_MALFORMED;
}

static const struct setting *row_named(const struct load *load, const char *name)
{
    for (size_t i = 0; i < load->count; i++)
        if (strcmp(load->rows[i].name, name) == 0)
            return &load->rows[i];
    return NULL;
}

/* --- one value ------------------------------------------------------------------------- */

static bool parse_u64(const char *text, size_t size, uint64_t *ret_number)
{
    uint64_t number = 0;

    if (size == 0)
        return false;
    for (size_t i = 0; i < size; i++) {
        if (text[i] < '0' || text[i] > '9' || __builtin_mul_overflow(number, 10, &number)
            || __builtin_add_overflow(number, (uint64_t)(text[i] - '0'), &number))
            return false;
    }
    *ret_number = number;
    return true;
}

static enum err set_u64(const struct load *load, const struct setting *row, const char *place,
                        const char *value, size_t size)
{
    uint64_t number;

    if (!parse_u64(value, size, &number) || number < row->min || number > row->max)
        return refuse(load, place, row->name, "write a whole number from %" PRIu64 " to %" PRIu64, row->min, row->max);
    memcpy(load->config + row->offset, &number, sizeof number);
    return ERR_OK;
}

static enum err set_flag(const struct load *load, const struct setting *row, const char *place,
                         const char *value, size_t size)
{
    const bool is_true = size == 4 && memcmp(value, "true", 4) == 0;

    if (!is_true && !(size == 5 && memcmp(value, "false", 5) == 0))
        return refuse(load, place, row->name, "write true or false");
    memcpy(load->config + row->offset, &is_true, sizeof is_true);
    return ERR_OK;
}

static bool has_control_characters(const char *value, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (iscntrl((unsigned char)value[i]))
            return true;
    return false;
}

/* A text may be as long as its member; a secret also no longer than the type that holds it. */
static enum err set_text(const struct load *load, const struct setting *row, const char *place,
                         const char *value, size_t size)
{
    const bool is_secret = row->type == SETTING_SECRET;
    const uint64_t max = is_secret && row->max > SECRET_SIZE_MAX ? SECRET_SIZE_MAX : row->max;

    if (size < row->min || size > max)
        return refuse(load, place, row->name, "write %" PRIu64 " to %" PRIu64 " bytes; these are %zu",
                      row->min, max, size);
    if (has_control_characters(value, size))
        return refuse(load, place, row->name, "write it without line ends and other control characters");
    if (!is_secret) {
        memcpy(load->config + row->offset, value, size);
        load->config[row->offset + size] = '\0';
        return ERR_OK;
    }
    struct secret *secret = (struct secret *)(void *)(load->config + row->offset);

    secret_wipe(secret);
    memcpy(secret->bytes, value, size);
    secret->size = size;
    return ERR_OK;
}

static enum err set_value(const struct load *load, const struct setting *row, const char *place,
                          const char *value, size_t size)
{
    enum err err = ERR_BUG;

    switch (row->type) {
    case SETTING_U64:
        err = set_u64(load, row, place, value, size);
        break;
    case SETTING_FLAG:
        err = set_flag(load, row, place, value, size);
        break;
    case SETTING_TEXT:
    case SETTING_SECRET:
        err = set_text(load, row, place, value, size);
        break;
    }
    if (err == ERR_OK)
        remember(row->name, place);
    return err;
}

/* --- defaults -------------------------------------------------------------------------- */

static void set_nothing(const struct load *load, const struct setting *row)
{
    static const size_t sizes[] = {
        [SETTING_U64] = sizeof(uint64_t), [SETTING_FLAG] = sizeof(bool), [SETTING_TEXT] = 1,
        [SETTING_SECRET] = sizeof(struct secret),
    };

    memset(load->config + row->offset, 0, sizes[row->type]);
}

static enum err load_defaults(const struct load *load)
{
    for (size_t i = 0; i < load->count; i++) {
        const struct setting *row = &load->rows[i];

        remember(row->name, DEFAULT_PLACE);
        set_nothing(load, row);
        if (row->fallback == NULL || row->fallback[0] == '\0')
            continue;
        enum err err = set_value(load, row, DEFAULT_PLACE, row->fallback, strlen(row->fallback));
        if (err != ERR_OK)
            return err;
    }
    return ERR_OK;
}

/* --- the file -------------------------------------------------------------------------- */

DEFINE_DESTROY(file_close, FILE, fclose)

/* One pass over the events of a document.  `key` is empty while a key is awaited. */
struct reading {
    const struct load *load;
    const char *file;
    char key[VARIABLE_MAX];
    bool in_mapping;
    size_t skipped_depth;      /* lists and mappings open below `issuers:` */
};

static void format_place(const struct reading *reading, const yaml_event_t *event, char place[PLACE_MAX])
{
    snprintf(place, PLACE_MAX, "%s:%zu", reading->file, event->start_mark.line + 1);
}

static enum err take_key(struct reading *reading, const char *place, const char *text, size_t size)
{
    if (size == 0 || size >= sizeof reading->key || has_control_characters(text, size))
        return refuse(reading->load, place, "(name)", "write the name of a setting; --help lists them");
    memcpy(reading->key, text, size + 1);

    const struct setting *row = row_named(reading->load, reading->key);

    if (strcmp(reading->key, ISSUERS_KEY) == 0)
        return ERR_OK;
    if (row == NULL && !settings_is_known_anywhere(reading->key))
        return refuse(reading->load, place, reading->key,
                      "no such setting; remove it or correct its name (--help lists them)");
    if (row == NULL)
        return ERR_OK;
    if (strcmp(place_of(row->name), DEFAULT_PLACE) != 0)
        return refuse(reading->load, place, reading->key, "it stood before; keep one of the two lines");
    return ERR_OK;
}

static enum err take_scalar(struct reading *reading, const char *place, const yaml_event_t *event)
{
    const char *text = (const char *)event->data.scalar.value;
    const size_t size = event->data.scalar.length;

    if (event->data.scalar.anchor != NULL || event->data.scalar.tag != NULL)
        return refuse(reading->load, place, "(value)", "write it without anchor and tag");
    if (!reading->in_mapping)
        return refuse(reading->load, place, "(document)", "write one `name: value` per line");
    if (reading->key[0] == '\0')
        return take_key(reading, place, text, size);

    const struct setting *row = row_named(reading->load, reading->key);
    enum err err = row == NULL ? ERR_OK : set_value(reading->load, row, place, text, size);

    reading->key[0] = '\0';
    return err;
}

/* The list of issuers is read by common/issuers.c.  true: this event belongs to it. */
static bool skip_issuers(struct reading *reading, const yaml_event_t *event)
{
    if (reading->skipped_depth == 0 && (strcmp(reading->key, ISSUERS_KEY) != 0 || event->type == YAML_MAPPING_END_EVENT))
        return false;
    if (event->type == YAML_SEQUENCE_START_EVENT || event->type == YAML_MAPPING_START_EVENT)
        reading->skipped_depth++;
    else if (event->type == YAML_SEQUENCE_END_EVENT || event->type == YAML_MAPPING_END_EVENT)
        reading->skipped_depth--;
    if (reading->skipped_depth == 0)
        reading->key[0] = '\0';
    return true;
}

static enum err take_event(struct reading *reading, const yaml_event_t *event)
{
    char place[PLACE_MAX];
    const char *name = reading->key[0] != '\0' ? reading->key : "(document)";

    if (skip_issuers(reading, event))
        return ERR_OK;
    format_place(reading, event, place);
    switch (event->type) {
    case YAML_SCALAR_EVENT:
        return take_scalar(reading, place, event);
    case YAML_MAPPING_START_EVENT:
        if (reading->in_mapping)
            return refuse(reading->load, place, name, "write one value; mappings are not nested here");
        reading->in_mapping = true;
        return ERR_OK;
    case YAML_MAPPING_END_EVENT:
        return ERR_OK;
    case YAML_SEQUENCE_START_EVENT:
    case YAML_SEQUENCE_END_EVENT:
        return refuse(reading->load, place, name, "write one value; several are one text with commas between");
    case YAML_ALIAS_EVENT:
        return refuse(reading->load, place, name, "write the value itself instead of an alias");
    case YAML_DOCUMENT_START_EVENT:
        if (reading->in_mapping)
            return refuse(reading->load, place, name, "write one document only");
        return ERR_OK;
    case YAML_NO_EVENT:
    case YAML_STREAM_START_EVENT:
    case YAML_STREAM_END_EVENT:
    case YAML_DOCUMENT_END_EVENT:
        return ERR_OK;
    }
    return ERR_OK;
}

static enum err read_events(struct reading *reading, yaml_parser_t *parser)
{
    yaml_event_t event;
    char place[PLACE_MAX];

    for (;;) {
        if (!yaml_parser_parse(parser, &event)) {
            snprintf(place, sizeof place, "%s:%zu", reading->file, parser->problem_mark.line + 1);
            return refuse(reading->load, place, "(document)", "this is not YAML: %s; write one `name: value` per line",
                          parser->problem != NULL ? parser->problem : "unreadable");
        }
        const bool is_end = event.type == YAML_STREAM_END_EVENT;
        enum err err = take_event(reading, &event);

        yaml_event_delete(&event);
        if (err != ERR_OK || is_end)
            return err;
    }
}

static enum err load_file(const struct load *load, const char *file)
{
    struct reading reading = { .load = load, .file = file };
    OWNED(file_close) FILE *in = fopen(file, "re");
    yaml_parser_t parser;

    if (in == NULL)
        return refuse(load, file, "(file)", "cannot be read: %s; correct --config or MCPGW_CONFIG", strerror(errno));
    if (!yaml_parser_initialize(&parser))
        return ERR_NO_MEMORY;
    yaml_parser_set_input_file(&parser, in);
    enum err err = read_events(&reading, &parser);
    yaml_parser_delete(&parser);
    return err;
}

/* --- the environment ------------------------------------------------------------------- */

/* MCPGW_REDIS_URL -> redis_url.  false: not ours. */
static bool name_of_variable(const char *variable, char name[VARIABLE_MAX], const char **ret_value)
{
    const size_t prefix = sizeof VARIABLE_PREFIX - 1;
    const char *equals = strchr(variable, '=');

    if (strncmp(variable, VARIABLE_PREFIX, prefix) != 0 || equals == NULL)
        return false;
    size_t length = (size_t)(equals - variable) - prefix;
    if (length >= VARIABLE_MAX)
        length = VARIABLE_MAX - 1;    /* no setting is that long: it will be refused under the cut name */
    for (size_t i = 0; i < length; i++)
        name[i] = (char)tolower((unsigned char)variable[prefix + i]);
    name[length] = '\0';
    *ret_value = equals + 1;
    return true;
}

/* redis_url -> MCPGW_REDIS_URL */
static void name_variable(const char *name, char variable[VARIABLE_MAX + sizeof VARIABLE_PREFIX])
{
    size_t length = strnlen(name, VARIABLE_MAX - 1);

    memcpy(variable, VARIABLE_PREFIX, sizeof VARIABLE_PREFIX);
    for (size_t i = 0; i < length; i++)
        variable[sizeof VARIABLE_PREFIX - 1 + i] = (char)toupper((unsigned char)name[i]);
    variable[sizeof VARIABLE_PREFIX - 1 + length] = '\0';
}

static bool is_read_by_tools(const char *name)
{
    for (size_t i = 0; i < COUNT_OF(names_of_tools); i++)
        if (strcmp(names_of_tools[i], name) == 0)
            return true;
    return false;
}

/* redis_url_file -> redis_url, in place. */
static bool cut_file_suffix(char *name)
{
    const size_t suffix = sizeof FILE_SUFFIX - 1;
    const size_t length = strlen(name);

    if (length <= suffix || strcmp(name + length - suffix, FILE_SUFFIX) != 0)
        return false;
    name[length - suffix] = '\0';
    return true;
}

/* One line end at the end belongs to the file, not to the value. */
static enum err set_from_file(const struct load *load, const struct setting *row, const char *place, const char *file)
{
    char value[VALUE_MAX + 2];
    OWNED(file_close) FILE *in = fopen(file, "re");

    if (in == NULL)
        return refuse(load, place, row->name, "%s cannot be read: %s; correct the path or its permissions",
                      file, strerror(errno));
    size_t size = fread(value, 1, sizeof value, in);
    enum err err = ERR_OK;

    if (ferror(in))
        err = refuse(load, place, row->name, "%s cannot be read; name a file that holds the value", file);
    else if (size > 0 && value[size - 1] == '\n')
        size--;
    if (err == ERR_OK)
        err = set_value(load, row, place, value, size);
    OPENSSL_cleanse(value, sizeof value);
    return err;
}

/* `name` is the variable's in lower case; it may end in _file.  `place` is "environment MCPGW_X". */
static enum err load_variable(const struct load *load, char *name, const char *place, const char *value)
{
    const struct setting *row = row_named(load, name);
    char plain[VARIABLE_MAX + sizeof VARIABLE_PREFIX];

    if (row != NULL)
        return set_value(load, row, place, value, strlen(value));
    if (settings_is_known_anywhere(name) || is_read_by_tools(name))
        return ERR_OK;
    const bool is_file = cut_file_suffix(name);

    row = row_named(load, name);
    if (!is_file || (row == NULL && !settings_is_known_anywhere(name) && !is_read_by_tools(name)))
        return refuse(load, place, name, "no such setting; unset the variable or correct its name (--help lists them)");
    if (row == NULL)
        return ERR_OK;
    name_variable(row->name, plain);
    if (getenv(plain) != NULL)
        return refuse(load, place, row->name, "%s is set too; unset one of them", plain);
    return set_from_file(load, row, place, value);
}

static enum err load_environment(const struct load *load)
{
    for (char **variable = environ; variable != NULL && *variable != NULL; variable++) {
        char name[VARIABLE_MAX];
        char place[VARIABLE_MAX + sizeof VARIABLE_PREFIX + sizeof "environment "];
        const char *value;

        if (!name_of_variable(*variable, name, &value))
            continue;
        snprintf(place, sizeof place, "environment %.*s", (int)(VARIABLE_MAX + sizeof VARIABLE_PREFIX - 2), *variable);
        place[sizeof "environment " - 1 + strcspn(place + sizeof "environment " - 1, "=")] = '\0';
        enum err err = load_variable(load, name, place, value);
        if (err != ERR_OK)
            return err;
    }
    return ERR_OK;
}

enum err settings_load(const struct setting *rows, size_t count, const char *file, void *config,
                       char *reterr, size_t reterr_size)
{
    const struct load load = { rows, count, config, reterr, reterr_size };
    enum err err = load_defaults(&load);

    if (err == ERR_OK && file != NULL)
        err = load_file(&load, file);
    if (err == ERR_OK)
        err = load_environment(&load);
    return err;
}

/* --- help and show --------------------------------------------------------------------- */

static void print_range(const struct setting *row, FILE *out)
{
    switch (row->type) {
    case SETTING_U64:
        fprintf(out, "number from %" PRIu64 " to %" PRIu64, row->min, row->max);
        return;
    case SETTING_FLAG:
        fputs("true or false", out);
        return;
    case SETTING_TEXT:
        fprintf(out, "text of up to %" PRIu64 " bytes", row->max);
        return;
    case SETTING_SECRET:
        fputs("secret, better given by the variable with _FILE", out);
        return;
    }
}

void settings_print_help(const struct setting *rows, size_t count, FILE *out)
{
    for (size_t i = 0; i < count; i++) {
        char variable[VARIABLE_MAX + sizeof VARIABLE_PREFIX];

        name_variable(rows[i].name, variable);
        fprintf(out, "  %s\n      %s\n      ", variable, rows[i].meaning);
        print_range(&rows[i], out);
        if (rows[i].fallback != NULL && rows[i].fallback[0] != '\0')
            fprintf(out, "; default %s", rows[i].fallback);
        fputc('\n', out);
    }
}

static void show_value(const struct setting *row, const uint8_t *value, FILE *out)
{
    uint64_t number;

    switch (row->type) {
    case SETTING_U64:
        memcpy(&number, value, sizeof number);
        fprintf(out, "%" PRIu64, number);
        return;
    case SETTING_FLAG:
        fputs(*value != 0 ? "true" : "false", out);
        return;
    case SETTING_TEXT:
        fputs((const char *)value, out);
        return;
    case SETTING_SECRET:
        fputs(secret_is_set((const struct secret *)(const void *)value) ? "[set]" : "[not set]", out);
        return;
    }
}

void settings_show(const struct setting *rows, size_t count, const void *config, FILE *out)
{
    for (size_t i = 0; i < count; i++) {
        fprintf(out, "%s = ", rows[i].name);
        show_value(&rows[i], (const uint8_t *)config + rows[i].offset, out);
        fprintf(out, "    (%s)\n", place_of(rows[i].name));
    }
}
