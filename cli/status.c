/* status.c - mcpgw status: is the gateway well; exit code 1 when not. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/show.h"

/* {"a":{"b":1}} as rows "a.b" and 1. */
static void flatten(json_t *rows, const char *prefix, json_t *object)
{
    const char *name;
    json_t *value;

    json_object_foreach(object, name, value) {
        char path[128];
        char *text;

        snprintf(path, sizeof path, "%s%s%s", prefix, *prefix != '\0' ? " " : "", name);
        if (json_is_object(value)) {
            flatten(rows, path, value);
            continue;
        }
        text = value_text(value);
        json_array_append_new(rows, json_pack("{s:s, s:s}", "part", path, "state", text != NULL ? text : ""));
        free(text);
    }
}

static void show_state(json_t *state)
{
    static const struct table_column columns[] = { { "PART", "part" }, { "STATE", "state" }, { 0 } };
    json_t *rows = json_array(), *row;
    struct table *table = NULL;
    size_t index;

    flatten(rows, "", state);
    if (table_new(columns, &table) == ERR_OK) {
        json_array_foreach(rows, index, row) {
            if (table_add(table, row) != ERR_OK)
                break;
        }
        table_print(table);
    }
    table_destroy(&table);
    json_decref(rows);
}

static enum exit_code status(struct cli *cli, const struct arguments *arguments)
{
    json_t *answer = NULL;
    const char *state;
    enum exit_code result = api_call(cli, "GET", "/api/v1/health", NULL, &answer);

    (void)arguments;
    if (result != EXIT_DONE)
        return result;
    if (cli->is_json)
        print_json(answer);
    else
        show_state(answer);
    state = json_string_value(json_object_get(answer, "status"));
    result = state != NULL && strcmp(state, "ok") == 0 ? EXIT_DONE : EXIT_REFUSED;
    json_decref(answer);
    return result;
}

const struct command status_commands[] = {
    { "status", "", "", "is the gateway well; exit code 1 when a part is missing",
      "  mcpgw status\n  mcpgw status --json | jq .workers\n",
      NULL, 0, 0, true, status },
    { 0 }
};
