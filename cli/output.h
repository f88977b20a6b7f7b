/* output.h - tables for people (libsmartcols), one JSON object a line for programs. */
#ifndef CLI_OUTPUT_H
#define CLI_OUTPUT_H

#include <stddef.h>

#include <jansson.h>

#include "common/error.h"

struct table_column {
    const char *title;      /* NULL ends the table */
    const char *member;     /* of the JSON object; "a.b" looks into a */
};

struct table;

enum err table_new(const struct table_column *columns, struct table **ret_table) MUST_CHECK;
void table_destroy(struct table **table);
enum err table_add(struct table *table, const json_t *item) MUST_CHECK;
size_t table_count(const struct table *table);
/* Oldest added first, or last; then it is empty. */
void table_print(struct table *table);

/* What a terminal would obey becomes '?': C0, DEL, and C1 in UTF-8.  For texts that a server gave. */
void text_clean(char *text);
/* One object on one line; in ASCII where it goes to a terminal, which C1 would reach otherwise. */
void print_json(const json_t *item);
/* Every member and its value, one a line. */
void print_members(json_t *item);
/* What a cell shows; malloc'd, NULL without memory. */
char *value_text(const json_t *value);

#endif
