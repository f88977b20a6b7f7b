#include "cli/show.h"

#include <stdio.h>

#define TABLE_LINES 1000u    /* a longer list is printed in tables of so many */

struct listing {
    const struct cli *cli;
    struct table *table;
    bool has_failed;
};

static bool show_item(void *owner, json_t *item)
{
    struct listing *listing = owner;

    if (listing->cli->is_json) {
        print_json(item);
        return true;
    }
    if (table_add(listing->table, item) != ERR_OK) {
        listing->has_failed = true;
        return false;
    }
    if (table_count(listing->table) == TABLE_LINES)
        table_print(listing->table);
    return true;
}

enum exit_code show_list(struct cli *cli, const char *path, uint64_t limit, const struct table_column *columns)
{
    struct listing listing = { .cli = cli };
    enum exit_code result;

    if (table_new(columns, &listing.table) != ERR_OK) {
        complain("out of memory");
        return EXIT_REFUSED;
    }
    result = api_each(cli, path, limit, show_item, &listing);
    if (!cli->is_json)
        table_print(listing.table);
    table_destroy(&listing.table);
    if (listing.has_failed) {
        complain("out of memory");
        return EXIT_REFUSED;
    }
    return result;
}

void show_object(const struct cli *cli, json_t *object)
{
    if (cli->is_json)
        print_json(object);
    else
        print_members(object);
}

enum exit_code show_call(struct cli *cli, const char *method, const char *path, const json_t *body)
{
    json_t *answer = NULL;
    enum exit_code result = api_call(cli, method, path, body, &answer);

    if (result == EXIT_DONE && answer != NULL)
        show_object(cli, answer);
    json_decref(answer);
    return result;
}
