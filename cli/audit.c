/* audit.c - mcpgw audit: the trail as people and programs read it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli/audit_proof.h"
#include "cli/show.h"

#define PATH_SIZE    1024u
#define EXPORT_MAX   UINT64_C(1000000000)
#define TAIL_MAX     10000u
#define TAIL_DEFAULT 20u
#define FOLLOW_S     1
#define SEEN_MAX     20000u    /* events remembered so that --follow shows each once */

static const struct table_column event_columns[] = {
    { "TIME", "time" }, { "EVENT", "event" }, { "OUTCOME", "outcome" }, { "REASON", "reason" }, { "STATUS", "status" },
    { "METHOD", "method" }, { "PATH", "path" }, { "SERVER", "server" }, { "KEY", "keyId" }, { "USER", "userId" },
    { "ADDRESS", "address" }, { "REQUEST", "requestId" }, { 0 }
};

/* "15m": so long ago; else a moment as the API takes it. */
static bool moment_of(const char *text, char *ret_moment, size_t size)
{
    uint64_t seconds;
    time_t moment;
    struct tm parts;

    if (duration_parse(text, &seconds) != ERR_OK) {
        snprintf(ret_moment, size, "%s", text);
        return strlen(text) < size;
    }
    moment = time(NULL) - (time_t)seconds;
    return gmtime_r(&moment, &parts) != NULL && strftime(ret_moment, size, "%Y-%m-%dT%H:%M:%SZ", &parts) > 0;
}

static bool make_path(const struct arguments *arguments, char path[PATH_SIZE])
{
    const char *since = arguments_value(arguments, "since"), *until = arguments_value(arguments, "until");
    char from[64] = "", to[64] = "";

    snprintf(path, PATH_SIZE, "/api/v1/audit");
    if ((since != NULL && !moment_of(since, from, sizeof from))
        || (until != NULL && !moment_of(until, to, sizeof to))) {
        complain("--since and --until: a time span such as 15m, or a moment such as 2026-01-31T12:00:00Z");
        return false;
    }
    if (api_query(path, PATH_SIZE, "from", since != NULL ? from : NULL)
        && api_query(path, PATH_SIZE, "to", until != NULL ? to : NULL)
        && api_query(path, PATH_SIZE, "key", arguments_value(arguments, "key"))
        && api_query(path, PATH_SIZE, "user", arguments_value(arguments, "user"))
        && api_query(path, PATH_SIZE, "outcome", arguments_value(arguments, "outcome")))
        return true;
    complain("the arguments are too long");
    return false;
}

static enum exit_code audit_export(struct cli *cli, const struct arguments *arguments)
{
    char path[PATH_SIZE];
    uint64_t limit;

    if (arguments_number(arguments, "limit", 1, EXPORT_MAX, EXPORT_MAX, &limit) != ERR_OK) {
        complain("--limit: a number from 1");
        return EXIT_MISUSE;
    }
    if (!make_path(arguments, path))
        return EXIT_MISUSE;
    return show_list(cli, path, limit, event_columns);
}

struct collected {
    json_t *items;                      /* newest first */
    char (*seen)[128];                  /* ids shown before, a ring */
    size_t at;
    char floor[40];                     /* what happened before is not new: the newest time of the round before */
};

static bool is_seen(const struct collected *collected, const char *id)
{
    for (size_t i = 0; i < SEEN_MAX; i++) {
        if (strcmp(collected->seen[i], id) == 0)
            return true;
    }
    return false;
}

static bool collect(void *owner, json_t *item)
{
    struct collected *collected = owner;
    const char *id = json_string_value(json_object_get(item, "id"));
    const char *time = json_string_value(json_object_get(item, "time"));
    const char *request_id = json_string_value(json_object_get(item, "requestId"));

    if (id == NULL || time == NULL)
        return true;
    if (strcmp(time, collected->floor) < 0)
        return false;
    if (is_seen(collected, id) || (request_id != NULL && api_is_own(request_id)))
        return true;
    snprintf(collected->seen[collected->at++ % SEEN_MAX], sizeof collected->seen[0], "%s", id);
    json_array_append(collected->items, item);
    return true;
}

static void show_oldest_first(const struct cli *cli, const json_t *items)
{
    struct table *table = NULL;

    if (!cli->is_json && table_new(event_columns, &table) != ERR_OK)
        return;
    for (size_t i = json_array_size(items); i > 0; i--) {
        if (cli->is_json)
            print_json(json_array_get(items, i - 1));
        else if (table_add(table, json_array_get(items, i - 1)) != ERR_OK)
            break;
    }
    if (table != NULL)
        table_print(table);
    table_destroy(&table);
    fflush(stdout);
}

static void note_time(const json_t *item, char time[40])
{
    const char *text = json_string_value(json_object_get(item, "time"));

    if (text != NULL)
        snprintf(time, 40, "%s", text);
}

static enum exit_code audit_tail(struct cli *cli, const struct arguments *arguments)
{
    struct collected collected = { .seen = calloc(SEEN_MAX, sizeof *collected.seen) };
    bool follows = arguments_value(arguments, "follow") != NULL;
    enum exit_code result = EXIT_MISUSE;
    char path[PATH_SIZE], newest[40] = "";
    uint64_t limit;

    if (collected.seen == NULL)
        return EXIT_REFUSED;
    if (arguments_number(arguments, "limit", 1, TAIL_MAX, TAIL_DEFAULT, &limit) != ERR_OK)
        complain("--limit: a number from 1 to %u", TAIL_MAX);
    else if (make_path(arguments, path))
        result = EXIT_DONE;
    while (result == EXIT_DONE) {
        collected.items = json_array();
        result = api_each(cli, path, limit, collect, &collected);
        show_oldest_first(cli, collected.items);
        if (*newest == '\0')
            note_time(json_array_get(collected.items, json_array_size(collected.items) - 1), collected.floor);
        else
            snprintf(collected.floor, sizeof collected.floor, "%s", newest);
        note_time(json_array_get(collected.items, 0), newest);
        json_decref(collected.items);
        if (!follows || result != EXIT_DONE)
            break;
        limit = TAIL_MAX;
        nanosleep(&(struct timespec){ .tv_sec = FOLLOW_S }, NULL);
    }
    free(collected.seen);
    return result;
}

static const struct option_row tail_options[] = {
    { "limit", "N", "so many of the newest (20), oldest of them first" },
    { "follow", NULL, "go on with what happens, but for its own reading" },
    { "key", "ID", "events of this key" }, { "user", "ID", "events of this user" },
    { "outcome", "WORD", "allowed, refused, failed or unknown" },
    { "since", "WHEN", "15m, 2h, 7d ago, or 2026-01-31T12:00:00Z" }, { "until", "WHEN", "the same" }, { 0 }
};
static const struct option_row export_options[] = {
    { "limit", "N", "at most so many" },
    { "key", "ID", "events of this key" }, { "user", "ID", "events of this user" },
    { "outcome", "WORD", "allowed, refused, failed or unknown" },
    { "since", "WHEN", "15m, 2h, 7d ago, or 2026-01-31T12:00:00Z" }, { "until", "WHEN", "the same" }, { 0 }
};

static const struct option_row verify_options[] = {
    { "database", "URL", "Postgres (MCPGW_DATABASE_URL)" },
    { "key", "FILE.pub", "public half of mcpgw-audit's checkpoint_key (MCPGW_AUDIT_KEY); FILE.old.pub beside it counts too" },
    { "checkpoints", "PATH", "exported checkpoints, a directory or a file (MCPGW_AUDIT_CHECKPOINTS): without them an epoch that is"
                             " gone as a whole is not missed" },
    { "retention-days", "N", "retention_days of mcpgw-audit (90): older events may be gone" }, { 0 }
};
static const struct option_row prove_options[] = { { "database", "URL", "Postgres (MCPGW_DATABASE_URL)" }, { 0 } };
static const struct option_row check_options[] = { { "key", "FILE.pub", "public half of checkpoint_key (MCPGW_AUDIT_KEY)" }, { 0 } };

const struct command audit_commands[] = {
    { "audit", "tail", "", "the newest events",
      "  mcpgw audit tail --limit 5\n  mcpgw audit tail --follow --outcome refused\n",
      tail_options, 0, 0, true, audit_tail },
    { "audit", "export", "", "all events, newest first",
      "  mcpgw audit export --json --since 24h > day.jsonl\n  mcpgw audit export --json --key KEY_ID\n",
      export_options, 0, 0, true, audit_export },
    { "audit", "verify", "", "hold the stored trail against its signed checkpoints; exit code 1: it was touched",
      "  mcpgw audit verify\n  mcpgw audit verify --checkpoints /mnt/worm/checkpoints --json\n",
      verify_options, 0, 0, false, audit_verify },
    { "audit", "prove", "ID", "print a proof that the signed trail holds this event",
      "  mcpgw audit prove 019a0000-0000-7000-8000-000000000000-3-1207 > proof.json\n", prove_options, 1, 1, false, audit_prove },
    { "audit", "check-proof", "FILE", "check such a proof, with nothing but the public key",
      "  mcpgw audit check-proof proof.json --key checkpoint.key.pub\n", check_options, 1, 1, false, audit_check_proof },
    { "audit", "keygen", "FILE", "make the key that signs the trail, and FILE.pub that verifies it",
      "  mcpgw audit keygen /etc/mcpgw/checkpoint.key\n", NULL, 1, 1, false, audit_keygen },
    { 0 }
};
