/*
 * import.c - mcpgw key import: keys and digests of another system, out of a CSV or JSON file.  Every row is judged by the
 * gateway before the first is stored, so a file with a bad row imports nothing.
 */
#include "cli/import.h"
#include "cli/output.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/environment.h"
#include "cli/show.h"
#include "common/cleanup.h"

#define FILE_MAX    (32u << 20)    /* bytes */
#define FIELD_MAX   8192u          /* bytes of one cell */
#define COLUMNS_MAX 32u
#define CHUNK_ROWS  200u           /* the API's own limit of rows, and what surely fits its limit of bytes */
#define CHUNK_BYTES 48000u
#define BAR_WIDTH   40u

DEFINE_DESTROY(text_destroy, char, free)
DEFINE_DESTROY(rows_destroy, json_t, json_decref)

/* ---- CSV (RFC 4180) ---------------------------------------------------------------------------- */

/* Reads one cell; *at stands behind it and its comma afterwards.  false: it is too long, or its quote never ends. */
static bool read_cell(const char **at, char *cell, bool *ret_is_last)
{
    const char *from = *at;
    const bool is_quoted = *from == '"';
    size_t used = 0;

    from += is_quoted;
    while (*from != '\0' && used + 1 < FIELD_MAX) {
        if (is_quoted && *from == '"' && from[1] != '"')
            break;
        if (!is_quoted && strchr(",\r\n", *from) != NULL)
            break;
        from += is_quoted && *from == '"';
        cell[used++] = *from++;
    }
    cell[used] = '\0';
    if (is_quoted && *from++ != '"')
        return false;
    *ret_is_last = *from != ',';
    if (*from == ',')
        from++;
    else if (strchr("\r\n", *from) == NULL && *from != '\0')
        return false;
    from += *ret_is_last && *from == '\r';
    from += *ret_is_last && *from == '\n';
    *at = from;
    return true;
}

static json_t *list_of(const char *text)
{
    json_t *list = json_array();

    while (*text != '\0') {
        const size_t length = strcspn(text, " ,;|");

        if (length > 0)
            json_array_append_new(list, json_stringn(text, length));
        text += length + (text[length] != '\0');
    }
    return list;
}

/* "1000/1h"; what is none travels as it is, and the gateway says what is wrong with it. */
static json_t *rate_of(const char *text)
{
    const char *slash = strchr(text, '/');
    uint64_t window;

    if (slash == NULL || duration_parse(slash + 1, &window) != ERR_OK)
        return json_string(text);
    return json_pack("{s:I, s:I}", "requests", (json_int_t)strtoll(text, NULL, 10), "window", (json_int_t)window);
}

/* A cell in the type its member has; an empty one is absent. */
static void set_member(json_t *row, const char *name, const char *cell)
{
    json_t *value = NULL;
    uint64_t seconds;

    if (*cell == '\0')
        return;
    if (strcmp(name, "scopes") == 0)
        value = list_of(cell);
    else if (strcmp(name, "rateLimit") == 0)
        value = rate_of(cell);
    else if (strcmp(name, "metadata") == 0)
        value = json_loads(cell, 0, NULL);
    else if (strcmp(name, "enabled") == 0 && (strcmp(cell, "true") == 0 || strcmp(cell, "false") == 0))
        value = json_boolean(cell[0] == 't');
    else if (strcmp(name, "expiresIn") == 0 && duration_parse(cell, &seconds) == ERR_OK)
        value = json_integer((json_int_t)seconds);
    else if (strcmp(name, "expiresAt") == 0 && strcmp(cell, "never") == 0)
        value = json_null();
    json_object_set_new(row, name, value != NULL ? value : json_string(cell));
}

static bool read_head(const char **at, char names[COLUMNS_MAX][64], size_t *ret_count)
{
    OWNED(text_destroy) char *cell = malloc(FIELD_MAX);
    bool is_last = false;

    for (*ret_count = 0; !is_last; (*ret_count)++) {
        if (cell == NULL || *ret_count == COLUMNS_MAX || !read_cell(at, cell, &is_last) || strlen(cell) >= sizeof names[0])
            return false;
        snprintf(names[*ret_count], sizeof names[0], "%s", cell);
    }
    return true;
}

/* NULL: complained. */
static json_t *read_csv(const char *text)
{
    OWNED(text_destroy) char *cell = malloc(FIELD_MAX);
    OWNED(rows_destroy) json_t *rows = json_array();
    char names[COLUMNS_MAX][64];
    size_t count;

    if (cell == NULL || !read_head(&text, names, &count)) {
        complain("the first line must name the columns: key or hash, userId, scopes, name, expiresAt, ...");
        return NULL;
    }
    while (*text != '\0') {
        json_t *row = json_object();
        bool is_last = false;
        size_t column = 0;

        json_array_append_new(rows, row);
        for (; !is_last; column++) {
            if (!read_cell(&text, cell, &is_last) || column == count) {
                complain("row %zu: a quote that never ends, or more cells than columns", json_array_size(rows));
                return NULL;
            }
            set_member(row, names[column], cell);
        }
    }
    return json_incref(rows);
}

/* An array, or an object a line.  NULL: complained. */
static json_t *read_json(const char *text)
{
    OWNED(rows_destroy) json_t *rows = NULL;
    json_error_t error;

    if (text[strspn(text, " \t\r\n")] == '[') {
        rows = json_loads(text, 0, &error);
    } else {
        rows = json_array();
        for (text += strspn(text, " \t\r\n"); rows != NULL && *text != '\0'; text += strspn(text, " \t\r\n")) {
            json_t *row = json_loads(text, JSON_DISABLE_EOF_CHECK, &error);

            if (row == NULL) {
                complain("row %zu: no JSON: %s", json_array_size(rows) + 1, error.text);
                return NULL;
            }
            json_array_append_new(rows, row);
            text += error.position;    /* with JSON_DISABLE_EOF_CHECK: bytes that were read */
        }
    }
    if (!json_is_array(rows)) {
        complain("no JSON: %s", error.text);
        return NULL;
    }
    return json_incref(rows);
}

static json_t *read_rows(const char *path)
{
    OWNED(text_destroy) char *text = malloc(FILE_MAX + 1);
    size_t size = 0, first;

    if (text == NULL || file_read(strcmp(path, "-") == 0 ? "/dev/stdin" : path, text, FILE_MAX, &size) != ERR_OK) {
        complain("%s cannot be read, or is longer than 32 MiB", path);
        return NULL;
    }
    first = strspn(text, " \t\r\n");
    return text[first] == '[' || text[first] == '{' ? read_json(text) : read_csv(text);
}

/* ---- calls ------------------------------------------------------------------------------------- */

struct import {
    struct cli *cli;
    const json_t *rows;
    json_t *left;          /* of a check that skips what is known: the rows that are not; NULL: it skips nothing */
    json_t *numbers;       /* where each of `rows` stands in the file; NULL: where it stands here */
    bool is_dry_run;
    size_t good, bad, skipped;
};

static void show_progress(const struct import *import, size_t done)
{
    const size_t all = json_array_size(import->rows), filled = all == 0 ? BAR_WIDTH : done * BAR_WIDTH / all;

    if (isatty(STDERR_FILENO) == 0)
        return;
    fprintf(stderr, "\r%s [%.*s%*s] %zu/%zu%s", import->is_dry_run ? "checking " : "importing", (int)filled,
            "########################################", (int)(BAR_WIDTH - filled), "", done, all, done == all ? "\n" : "");
}

/* The rows of the next call, from `first` on. */
static json_t *chunk_of(const struct import *import, size_t first)
{
    json_t *chunk = json_array();
    size_t bytes = 0;

    for (size_t i = first; i < json_array_size(import->rows) && json_array_size(chunk) < CHUNK_ROWS; i++) {
        json_t *row = json_array_get(import->rows, i);

        bytes += json_dumpb(row, NULL, 0, JSON_COMPACT) + 1;
        if (bytes > CHUNK_BYTES && json_array_size(chunk) > 0)
            break;
        json_array_append(chunk, row);
    }
    return chunk;
}

/* As the server told it; field NULL: none is at fault. */
static void print_row(size_t number, const char *status, const char *field, const char *rest)
{
    const bool has_field = field != NULL && field[0] != '\0';
    char text[512];

    snprintf(text, sizeof text, "row %zu: %s%s%s%s %s", number, status != NULL ? status : "?", has_field ? ": " : "",
             has_field ? field : "", field == NULL || has_field ? ":" : "", rest != NULL ? rest : "");
    text_clean(text);
    puts(text);
}

static size_t number_of(const struct import *import, size_t place)
{
    return import->numbers != NULL ? (size_t)json_integer_value(json_array_get(import->numbers, place)) : place + 1;
}

/* Whether the row is left out: the gateway has its key. */
static bool skip_known(struct import *import, const char *status, size_t place)
{
    if (import->left == NULL)
        return false;
    if (status != NULL && strcmp(status, "duplicate") == 0) {
        import->skipped++;
        return true;
    }
    json_array_append(import->left, json_array_get(import->rows, place));
    json_array_append_new(import->numbers, json_integer((json_int_t)place + 1));
    return false;
}

/* A line for each row: of a dry run those that are not good, unless that is all that was asked for. */
static void tell_rows(struct import *import, const json_t *answer, size_t first, bool tells_all)
{
    const json_t *line;
    size_t i;

    json_array_foreach(json_object_get(answer, "rows"), i, line) {
        const char *status = json_string_value(json_object_get(line, "status"));
        const char *field = json_string_value(json_object_get(line, "field")), *id = json_string_value(json_object_get(line, "id"));
        const bool is_good = id != NULL, is_skipped = skip_known(import, status, first + i);
        const size_t number = import->left != NULL ? first + i + 1 : number_of(import, first + i);

        if (is_skipped && !tells_all)
            continue;
        import->good += is_good;
        import->bad += !is_good && !is_skipped;
        if (is_good && !tells_all)
            continue;
        json_object_set_new((json_t *)(uintptr_t)line, "row", json_integer((json_int_t)number));
        if (import->cli->is_json)
            print_json(line);
        else if (is_good)
            print_row(number, status, "", id);
        else
            print_row(number, status, field, json_string_value(json_object_get(line, "detail")));
    }
}

static enum exit_code run_calls(struct import *import, bool tells_all)
{
    for (size_t done = 0; done < json_array_size(import->rows);) {
        OWNED(rows_destroy) json_t *chunk = chunk_of(import, done);
        OWNED(rows_destroy) json_t *body = json_pack("{s:O, s:b}", "keys", chunk, "dryRun", import->is_dry_run);
        OWNED(rows_destroy) json_t *answer = NULL;
        enum exit_code result;

        show_progress(import, done);
        result = api_call(import->cli, "POST", "/api/v1/keys/import", body, &answer);
        if (result != EXIT_DONE) {
            if (!import->is_dry_run)
                complain("rows 1 to %zu are imported, those behind are not", done);
            return result;
        }
        tell_rows(import, answer, done, tells_all);
        done += json_array_size(chunk);
    }
    show_progress(import, json_array_size(import->rows));
    return EXIT_DONE;
}

/* What the check left is imported; row numbers stay those of the file. */
static enum exit_code import_rows(const struct import *checked, struct import *import)
{
    const bool skips = checked->left != NULL;

    *import = (struct import){ .cli = checked->cli, .rows = skips ? checked->left : checked->rows,
                               .numbers = skips ? checked->numbers : NULL };
    return run_calls(import, true);
}

enum exit_code key_import(struct cli *cli, const struct arguments *arguments)
{
    OWNED(rows_destroy) json_t *rows = read_rows(arguments->positional[0]);
    const bool only_checks = arguments_value(arguments, "dry-run") != NULL, skips = arguments_value(arguments, "skip-known") != NULL;
    OWNED(rows_destroy) json_t *left = skips ? json_array() : NULL;
    OWNED(rows_destroy) json_t *numbers = skips ? json_array() : NULL;
    struct import check = { .cli = cli, .rows = rows, .is_dry_run = true, .left = left, .numbers = numbers }, import = { 0 };
    enum exit_code result;

    if (rows == NULL)
        return EXIT_MISUSE;
    result = run_calls(&check, only_checks);
    if (result != EXIT_DONE)
        return result;
    if (check.bad > 0) {
        complain("%zu of %zu rows cannot be imported, so nothing was", check.bad, json_array_size(rows));
        return EXIT_REFUSED;
    }
    if (!only_checks)
        result = import_rows(&check, &import);
    if (check.skipped > 0)
        fprintf(stderr, "%zu keys are there already\n", check.skipped);
    if (result == EXIT_DONE)
        fprintf(stderr, "%zu keys %s\n", only_checks ? check.good : import.good, only_checks ? "can be imported" : "imported");
    return result;
}
