#include "cli/output.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <libsmartcols.h>

#define COLUMNS_MAX 16u
#define JOINED_SIZE 1024u    /* a longer list is cut between values */

struct table {
    struct libscols_table *lines;
    const struct table_column *columns;
    size_t count;
};

enum err table_new(const struct table_column *columns, struct table **ret_table)
{
    struct table *table = calloc(1, sizeof *table);

    scols_init_debug(0);
    if (table == NULL)
        return ERR_NO_MEMORY;
    table->columns = columns;
    table->lines = scols_new_table();
    for (size_t i = 0; table->lines != NULL && columns[i].title != NULL && i < COLUMNS_MAX; i++) {
        if (scols_table_new_column(table->lines, columns[i].title, 0, 0) == NULL) {
            table_destroy(&table);
            return ERR_NO_MEMORY;
        }
    }
    if (table->lines == NULL) {
        table_destroy(&table);
        return ERR_NO_MEMORY;
    }
    *ret_table = table;
    return ERR_OK;
}

void table_destroy(struct table **table)
{
    if (*table == NULL)
        return;
    scols_unref_table((*table)->lines);
    free(*table);
    *table = NULL;
}

static char *joined(const json_t *list)
{
    char *text = calloc(1, JOINED_SIZE);
    size_t index, length = 0;
    json_t *value;

    if (text == NULL)
        return NULL;
    json_array_foreach(list, index, value) {
        char *one = value_text(value);

        if (one != NULL && length + strlen(one) + 2 < JOINED_SIZE) {
            if (length > 0)
                text[length++] = ' ';
            memcpy(text + length, one, strlen(one) + 1);
            length += strlen(one);
        }
        free(one);
    }
    return text;
}

char *value_text(const json_t *value)
{
    char number[24];

    if (value == NULL || json_is_null(value))
        return strdup("-");
    if (json_is_string(value))
        return strdup(json_string_value(value));
    if (json_is_boolean(value))
        return strdup(json_is_true(value) ? "yes" : "no");
    if (json_is_array(value))
        return joined(value);
    if (!json_is_integer(value))
        return json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY | JSON_ENSURE_ASCII);
    snprintf(number, sizeof number, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
    return strdup(number);
}

static const json_t *member_of(const json_t *item, const char *path)
{
    char name[64];
    const char *dot;

    while ((dot = strchr(path, '.')) != NULL && (size_t)(dot - path) < sizeof name) {
        memcpy(name, path, (size_t)(dot - path));
        name[dot - path] = '\0';
        item = json_object_get(item, name);
        path = dot + 1;
    }
    return json_object_get(item, path);
}

enum err table_add(struct table *table, const json_t *item)
{
    struct libscols_line *line = scols_table_new_line(table->lines, NULL);

    if (line == NULL)
        return ERR_NO_MEMORY;
    for (size_t i = 0; table->columns[i].title != NULL; i++) {
        char *text = value_text(member_of(item, table->columns[i].member));

        if (text == NULL || scols_line_refer_data(line, i, text) != 0) {
            free(text);
            return ERR_NO_MEMORY;
        }
    }
    table->count++;
    return ERR_OK;
}

size_t table_count(const struct table *table)
{
    return table->count;
}

void table_print(struct table *table)
{
    if (table->count > 0)
        scols_print_table(table->lines);
    scols_table_remove_lines(table->lines);
    table->count = 0;
}

void text_clean(char *text)
{
    for (unsigned char *at = (unsigned char *)text; *at != '\0'; at++) {
        const bool is_c1 = at[0] == 0xc2 && at[1] >= 0x80 && at[1] < 0xa0;

        if (*at < 0x20 || *at == 0x7f || is_c1)
            *at = '?';
        if (is_c1)
            *++at = '?';
    }
}

void print_json(const json_t *item)
{
    char *text = json_dumps(item, JSON_COMPACT | (isatty(STDOUT_FILENO) == 1 ? JSON_ENSURE_ASCII : 0));

    if (text != NULL)
        puts(text);
    free(text);
}

void print_members(json_t *item)
{
    static const struct table_column columns[] = { { "FIELD", "field" }, { "VALUE", "value" }, { 0 } };
    struct table *table = NULL;
    const char *name;
    json_t *value;

    if (table_new(columns, &table) != ERR_OK)
        return;
    scols_table_enable_noheadings(table->lines, 1);
    json_object_foreach(item, name, value) {
        char *text = value_text(value);
        json_t *row = json_pack("{s:s, s:s}", "field", name, "value", text != NULL ? text : "");

        if (row == NULL || table_add(table, row) != ERR_OK)
            fputs("mcpgw: out of memory\n", stderr);
        json_decref(row);
        free(text);
    }
    table_print(table);
    table_destroy(&table);
}
