/* audit.c - mcpgw audit: the trail as people and programs read it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli/audit_proof.h"
#include "cli/show.h"
#include "common/encode.h"

#define PATH_SIZE    1024u
#define EVENTS       "/api/v1/audit/events"
#define LIST_DEFAULT 50u
#define TOKEN_LINE_SIZE 20002u
#define USAGE_MAX    100u
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

/* The value itself is never sent: whoever logs addresses would have it. */
static bool add_presented(const struct arguments *arguments, char path[PATH_SIZE])
{
    const char *value = arguments_value(arguments, "presented");
    char line[TOKEN_LINE_SIZE], text[DIGEST_TEXT_SIZE];
    uint8_t digest[DIGEST_SIZE];

    if (value == NULL)
        return true;
    if (strcmp(value, "-") == 0) {
        if (fgets(line, sizeof line, stdin) == NULL)
            return false;
        line[strcspn(line, "\r\n")] = '\0';
        value = line;
    }
    digest_sha256(value, strlen(value), digest);
    base64url_encode(digest, sizeof digest, text);
    return api_query(path, PATH_SIZE, "presented", text);
}

static const char *const filter_names[] = { "key", "user", "tenant", "server", "tool", "event", "outcome" };

/* `collection` with what was asked for as its query. */
static bool make_path(const struct arguments *arguments, const char *collection, char path[PATH_SIZE])
{
    const char *since = arguments_value(arguments, "since"), *until = arguments_value(arguments, "until");
    char from[64] = "", to[64] = "";
    bool fits;

    snprintf(path, PATH_SIZE, "%s", collection);
    if ((since != NULL && !moment_of(since, from, sizeof from))
        || (until != NULL && !moment_of(until, to, sizeof to))) {
        complain("--since and --until: a time span such as 15m, or a moment such as 2026-01-31T12:00:00Z");
        return false;
    }
    fits = api_query(path, PATH_SIZE, "from", since != NULL ? from : NULL)
        && api_query(path, PATH_SIZE, "to", until != NULL ? to : NULL)
        && api_query(path, PATH_SIZE, "requestId", arguments_value(arguments, "request"))
        && api_query(path, PATH_SIZE, "by", arguments_value(arguments, "by"))
        && api_query(path, PATH_SIZE, "cursor", arguments_value(arguments, "resume"))
        && add_presented(arguments, path);
    for (size_t i = 0; fits && i < sizeof filter_names / sizeof filter_names[0]; i++)
        fits = api_query(path, PATH_SIZE, filter_names[i], arguments_value(arguments, filter_names[i]));
    if (!fits)
        complain("the arguments are too long");
    return fits;
}

static bool take_limit(const struct arguments *arguments, uint64_t most, uint64_t fallback, uint64_t *ret_limit)
{
    if (arguments_number(arguments, "limit", 1, most, fallback, ret_limit) == ERR_OK)
        return true;
    complain("--limit: a number from 1 to %llu", (unsigned long long)most);
    return false;
}

static enum exit_code audit_list(struct cli *cli, const struct arguments *arguments)
{
    char path[PATH_SIZE];
    uint64_t limit;

    if (!take_limit(arguments, EXPORT_MAX, LIST_DEFAULT, &limit) || !make_path(arguments, EVENTS, path))
        return EXIT_MISUSE;
    return show_list(cli, path, limit, event_columns);
}

/* ---- export */

struct export {
    bool is_csv;
    uint64_t count;
    char token[192];    /* of the event written last */
};

static const char *const csv_columns[] = {
    "id", "time", "event", "outcome", "reason", "requestId", "userId", "tenantId", "authMethod", "keyId", "address", "method",
    "path", "server", "tool", "status", "latencyUs", "bytes", "count", "producer", "epoch", "seq", "details",
};

/* RFC 4180.  A text that a spreadsheet would take for a formula gets a quotation mark before it. */
static void print_cell(const json_t *value)
{
    char *text = json_is_string(value) ? NULL : json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
    const char *at = text != NULL ? text : json_string_value(value);

    if (at != NULL && !json_is_null(value)) {
        putchar('"');
        if (json_is_string(value) && *at != '\0' && strchr("=+-@\t\r", *at) != NULL)
            putchar('\'');
        for (; *at != '\0'; at++) {
            if (*at == '"')
                putchar('"');
            putchar(*at);
        }
        putchar('"');
    }
    free(text);
}

/* What the API takes as a cursor: <Unix microseconds>.<id>. */
static void note_token(struct export *export, const json_t *item)
{
    const char *id = json_string_value(json_object_get(item, "id")), *time = json_string_value(json_object_get(item, "time"));
    struct tm parts = { 0 };
    long us = 0;
    const char *rest = time == NULL ? NULL : strptime(time, "%Y-%m-%dT%H:%M:%S", &parts);

    if (id == NULL || rest == NULL || sscanf(rest, ".%6ldZ", &us) != 1)
        return;
    snprintf(export->token, sizeof export->token, "%lld%06ld.%s", (long long)timegm(&parts), us, id);
}

static bool export_item(void *owner, json_t *item)
{
    struct export *export = owner;
    const size_t columns = sizeof csv_columns / sizeof csv_columns[0];

    for (size_t i = 0; export->is_csv && i < columns; i++) {
        print_cell(json_object_get(item, csv_columns[i]));
        fputs(i + 1 < columns ? "," : "\r\n", stdout);
    }
    if (!export->is_csv)
        print_json(item);
    export->count++;
    note_token(export, item);
    return ferror(stdout) == 0;
}

static enum exit_code audit_export(struct cli *cli, const struct arguments *arguments)
{
    const char *format = arguments_value(arguments, "format");
    struct export export = { .is_csv = format != NULL && strcmp(format, "csv") == 0 };
    enum exit_code result;
    char path[PATH_SIZE];
    uint64_t limit;

    if (format != NULL && !export.is_csv && strcmp(format, "jsonl") != 0) {
        complain("--format: jsonl or csv");
        return EXIT_MISUSE;
    }
    if (!take_limit(arguments, EXPORT_MAX, EXPORT_MAX, &limit) || !make_path(arguments, EVENTS, path))
        return EXIT_MISUSE;
    for (size_t i = 0; export.is_csv && arguments_value(arguments, "resume") == NULL
                       && i < sizeof csv_columns / sizeof csv_columns[0]; i++)
        printf("%s%s", csv_columns[i], i + 1 < sizeof csv_columns / sizeof csv_columns[0] ? "," : "\r\n");
    result = api_each(cli, path, limit, export_item, &export);
    if (result != EXIT_DONE || export.count == limit)
        fprintf(stderr, "mcpgw: %llu events written; go on with --resume %s\n", (unsigned long long)export.count, export.token);
    return result;
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
    if (take_limit(arguments, TAIL_MAX, TAIL_DEFAULT, &limit) && make_path(arguments, EVENTS, path))
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

#define FILTERS \
    { "key", "ID", "events of this key" }, { "user", "ID", "events of this user" }, { "tenant", "ID", "events of this tenant" }, \
    { "server", "SLUG", "calls of this server" }, { "tool", "NAME", "calls of this tool" }, \
    { "event", "NAME", "request, decision, completion, refused, key.created, ..." }, \
    { "outcome", "WORD", "allowed, refused, failed or unknown" }, { "request", "ID", "events of this request" }, \
    { "presented", "VALUE", "refusals of this key or token, which nobody knew; - reads it from standard input" }, \
    { "since", "WHEN", "15m, 2h, 7d ago, or 2026-01-31T12:00:00Z" }, { "until", "WHEN", "the same" }

static const struct option_row list_options[] = { { "limit", "N", "at most so many (50)" }, FILTERS, { 0 } };
static const struct option_row tail_options[] = {
    { "limit", "N", "so many of the newest (20), oldest of them first" },
    { "follow", NULL, "go on with what happens, but for its own reading (-f)" }, FILTERS, { 0 }
};
static const struct option_row export_options[] = {
    { "format", "WORD", "jsonl (one object a line) or csv" }, { "limit", "N", "at most so many" },
    { "resume", "TOKEN", "go on behind what an earlier export, ended early, told" }, FILTERS, { 0 }
};
static const struct option_row verify_options[] = {
    { "database", "URL", "Postgres (MCPGW_DATABASE_URL)" },
    { "key", "FILE.pub", "public half of mcpgw-audit's checkpoint_key (MCPGW_AUDIT_KEY); FILE.old.pub beside it counts too" },
    { "checkpoints", "PATH", "exported checkpoints, a directory or a file (MCPGW_AUDIT_CHECKPOINTS): without them an epoch that is"
                             " gone as a whole is not missed" },
    { "retention-days", "N", "retention_days of mcpgw-audit (90): older events may be gone" }, { 0 }
};
static const struct option_row prove_options[] = { { "database", "URL", "Postgres (MCPGW_DATABASE_URL)" }, { 0 } };
static const struct option_row import_options[] = {
    { "spool", "DIR", "spool_dir of a running edge ($MCPGW_HOME/spool)" }, { "wait", "SECONDS", "until all is stored (60)" }, { 0 }
};
static const struct option_row check_options[] = { { "key", "FILE.pub", "public half of checkpoint_key (MCPGW_AUDIT_KEY)" }, { 0 } };

/* ---- usage and counters */

static const struct table_column usage_columns[] = {
    { "KEY", "key" }, { "USER", "user" }, { "TENANT", "tenant" }, { "SERVER", "server" }, { "HOUR", "hour" },
    { "REQUESTS", "requests" }, { "REFUSED", "refused" }, { "FAILED", "failed" }, { "BYTES", "bytes" },
    { "AVERAGE_US", "averageLatencyUs" }, { "ALL_TIME", "allTime.gateway" }, { "BETTER_AUTH", "allTime.betterAuth" }, { 0 }
};

/* Columns of what was asked for only. */
static size_t choose_columns(const char *by, struct table_column chosen[])
{
    size_t count = 0;

    for (const struct table_column *column = usage_columns; column->title != NULL; column++) {
        const bool is_name = column - usage_columns < 5, is_key = strncmp(column->member, "allTime", 7) == 0;

        if ((!is_name || strcmp(column->member, by) == 0) && (!is_key || strcmp(by, "key") == 0))
            chosen[count++] = *column;
    }
    return count;
}

static enum exit_code usage(struct cli *cli, const struct arguments *arguments)
{
    const char *by = arguments_value(arguments, "by");
    struct table_column chosen[sizeof usage_columns / sizeof usage_columns[0]] = { 0 };
    char path[PATH_SIZE];

    (void)choose_columns(by == NULL ? "key" : by, chosen);
    if (!make_path(arguments, "/api/v1/usage", path))
        return EXIT_MISUSE;
    return show_list(cli, path, USAGE_MAX, chosen);
}

static enum exit_code stats(struct cli *cli, const struct arguments *arguments)
{
    (void)arguments;
    return show_call(cli, "GET", "/api/v1/stats", NULL);
}

static const struct option_row usage_options[] = {
    { "by", "WORD", "key (default), user, tenant, server or hour" }, { "key", "ID", "of this key" }, { "user", "ID", "of this user" },
    { "tenant", "ID", "of this tenant" }, { "server", "SLUG", "of this server" },
    { "since", "WHEN", "24h ago by default; whole hours" }, { "until", "WHEN", "the same" }, { 0 }
};

const struct command usage_commands[] = {
    { "usage", "", "", "requests by key, user, tenant, server or hour", "  mcpgw usage --by server --since 7d\n",
      usage_options, 0, 0, true, usage },
    { 0 }
};

const struct command stats_commands[] = {
    { "stats", "", "", "counters of the last minute and the last hour", "  mcpgw stats --json\n", NULL, 0, 0, true, stats },
    { 0 }
};

const struct command audit_commands[] = {
    { "audit", "list", "", "events, newest first", "  mcpgw audit list --key KEY_ID --since 24h --outcome refused\n",
      list_options, 0, 0, true, audit_list },
    { "audit", "tail", "", "the newest events",
      "  mcpgw audit tail --limit 5\n  mcpgw audit tail -f --outcome refused\n",
      tail_options, 0, 0, true, audit_tail },
    { "audit", "export", "", "all events, newest first",
      "  mcpgw audit export --since 24h > day.jsonl\n  mcpgw audit export --format csv --key KEY_ID > key.csv\n",
      export_options, 0, 0, true, audit_export },
    { "audit", "verify", "", "hold the stored trail against its signed checkpoints; exit code 1: it was touched",
      "  mcpgw audit verify\n  mcpgw audit verify --checkpoints /mnt/worm/checkpoints --json\n",
      verify_options, 0, 0, false, audit_verify },
    { "audit", "prove", "ID", "print a proof that the signed trail holds this event",
      "  mcpgw audit prove 019a0000-0000-7000-8000-000000000000-3-1207 > proof.json\n", prove_options, 1, 1, false, audit_prove },
    { "audit", "check-proof", "FILE", "check such a proof, with nothing but the public key",
      "  mcpgw audit check-proof proof.json --key checkpoint.key.pub\n", check_options, 1, 1, false, audit_check_proof },
    { "audit", "import", "DIR", "hand a spool slot whose edge will not come back to an edge of this host",
      "  mcpgw audit import /mnt/old/spool/slot-0 --spool /var/lib/mcpgw/spool\n", import_options, 1, 1, false, audit_import },
    { "audit", "keygen", "FILE", "make the key that signs the trail, and FILE.pub that verifies it",
      "  mcpgw audit keygen /etc/mcpgw/checkpoint.key\n", NULL, 1, 1, false, audit_keygen },
    { 0 }
};
