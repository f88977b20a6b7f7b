/* show.h - lists and objects of the API on standard output, as table or JSON. */
#ifndef CLI_SHOW_H
#define CLI_SHOW_H

#include "cli/api.h"
#include "cli/output.h"

/* A list: one JSON object a line, or one table. */
enum exit_code show_list(struct cli *cli, const char *path, uint64_t limit, const struct table_column *columns);
/* An answer: the object on one line, or its members.  The caller keeps it. */
void show_object(const struct cli *cli, json_t *object);
/* A call whose answer is shown. */
enum exit_code show_call(struct cli *cli, const char *method, const char *path, const json_t *body);

#endif
