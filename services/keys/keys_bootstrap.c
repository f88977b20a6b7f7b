/*
 * keys_bootstrap.c - the subcommands migrate and bootstrap: run by an operator, with the owner's connection, before any
 * service.  Blocking on purpose; its SQL stands here because keys_store.c speaks for the role mcpgw_keys.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <libpq-fe.h>

#include "common/apikey.h"
#include "common/cleanup.h"
#include "common/postgres.h"
#include "common/scope.h"
#include "services/keys/keys.h"
#include "services/keys/shape.h"

DEFINE_DESTROY(session_destroy, PGconn, PQfinish)

#define ADMIN_ID "admin"

static const char *key_file;    /* --key-file; NULL: the key goes to standard output */

/* service_main knows no options of a single command. */
void bootstrap_take_options(int *argc, char **argv)
{
    int kept = 1;

    for (int i = 1; i < *argc; i++) {
        if (strcmp(argv[i], "--key-file") == 0 && i + 1 < *argc)
            key_file = argv[++i];
        else if (strncmp(argv[i], "--key-file=", 11) == 0)
            key_file = argv[i] + 11;
        else
            argv[kept++] = argv[i];
    }
    argv[kept] = NULL;
    *argc = kept;
}

static bool has_owner_url(const struct keys_config *config)
{
    if (secret_is_set(&config->owner_database_url))
        return true;
    fprintf(
        stderr,
        "mcpgw-keys: owner_database_url is not set: give MCPGW_OWNER_DATABASE_URL, a Postgres URL for the owner of the database\n");
    return false;
}

int migrate_command(const void *settings)
{
    const struct keys_config *config = settings;

    return has_owner_url(config) ? shape_migrate(config) : 2;
}

/* ---- bootstrap --------------------------------------------------------------------------------- */

static int complain(const char *what, const char *why)
{
    fprintf(stderr, "mcpgw-keys: bootstrap: %s: %s\n", what, why);
    return 1;
}

/* NULL when the server refused it. */
static PGresult *run(PGconn *session, const char *sql, int count, const char *const *values)
{
    PGresult *result = PQexecParams(session, sql, count, NULL, values, NULL, NULL, 0);
    const ExecStatusType status = PQresultStatus(result);

    if (status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK)
        return result;
    PQclear(result);
    return NULL;
}

static bool run_plain(PGconn *session, const char *sql)
{
    OWNED(result_destroy) PGresult *result = run(session, sql, 0, NULL);

    return result != NULL;
}

/* Does an administrator's key verify?  false with *ret_answered false when the server did not answer. */
static bool has_admin_key(PGconn *session, const char *resource, bool *ret_answered)
{
    OWNED(result_destroy)
    PGresult *rows = run(
        session,
        "SELECT permissions FROM mcpgw.credential WHERE coalesce(enabled, true) AND NOT revoked AND owner_exists AND NOT owner_banned AND NOT owner_left"
        " AND coalesce(expires_at > now(), true) AND permissions LIKE '%admin%'",
        0, NULL);

    *ret_answered = rows != NULL;
    for (int row = 0; row < PQntuples(rows); row++) {
        if ((keys_permission_scopes(postgres_text(rows, row, 0), resource) & SCOPE_BIT(ADMIN)) != 0)
            return true;
    }
    return false;
}

static bool insert_key(PGconn *session, const struct keys_config *config, const struct secret *key)
{
    char permissions[256], stored[SHAPE_STORED_MAX], start[APIKEY_START + 1], id[KEYS_ID_SIZE];
    const char *const values[] = { id, start, stored, permissions };
    OWNED(result_destroy) PGresult *user = NULL, *row = NULL;

    keys_make_id(id);
    snprintf(start, sizeof start, "%.*s", (int)APIKEY_START, secret_text(key));
    shape_stored_key(config, key, stored);
    keys_format_permissions(SCOPE_ALL, config->permission_resource, permissions, sizeof permissions);
    user = run(session,
               "INSERT INTO public.\"user\" (id, name, email, \"emailVerified\", \"createdAt\", \"updatedAt\", role)"
               " VALUES ('" ADMIN_ID "', 'Administrator', 'admin@localhost', true, date_trunc('milliseconds', now()),"
               " date_trunc('milliseconds', now()), 'admin') ON CONFLICT DO NOTHING",
               0, NULL);
    row = run(
        session,
        "INSERT INTO mcpgw.apikey (id, \"configId\", name, start, \"referenceId\", prefix, key, \"refillInterval\","
        " \"refillAmount\", \"lastRefillAt\", enabled, \"rateLimitEnabled\", \"rateLimitTimeWindow\", \"rateLimitMax\","
        " \"requestCount\", remaining, \"lastRequest\", \"expiresAt\", \"createdAt\", \"updatedAt\", permissions, metadata)"
        " VALUES ($1, 'default', 'administrator', $2, '" ADMIN_ID
        "', 'mcp_', $3, NULL, NULL, NULL, true, false, NULL, NULL,"
        " 0, NULL, NULL, NULL, date_trunc('milliseconds', now()), date_trunc('milliseconds', now()), $4, 'null')",
        4, values);
    return user != NULL && row != NULL;
}

/* Exclusively: a file that is there belongs to somebody. */
static bool write_key(const struct secret *key)
{
    const int fd =
        key_file == NULL ? dup(STDOUT_FILENO) : open(key_file, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    bool is_written;

    if (fd < 0)
        return false;
    is_written = write(fd, key->bytes, key->size) == (ssize_t)key->size && write(fd, "\n", 1) == 1
                 && (key_file == NULL || fsync(fd) == 0);
    return close(fd) == 0 && is_written;
}

static int make_key(PGconn *session, const struct keys_config *config)
{
    OWNED(secret_wipe) struct secret key = { 0 };

    apikey_make(APIKEY_PREFIX, &key);
    if (!insert_key(session, config, &key))
        return complain("the key could not be stored", PQerrorMessage(session));
    /* The key is in its file before it counts: a crash between leaves a file with a key that opens nothing. */
    if (!write_key(&key))
        return complain(key_file == NULL ? "standard output" : key_file, strerror(errno));
    if (run_plain(session, "COMMIT"))
        return 0;
    if (key_file != NULL)
        unlink(key_file);
    return complain("the key could not be stored", PQerrorMessage(session));
}

int bootstrap_run(const void *settings)
{
    const struct keys_config *config = settings;
    OWNED(session_destroy) PGconn *session = NULL;
    bool is_file_there, has_key, answered;

    if (!has_owner_url(config))
        return 2;
    session = PQconnectdb(secret_text(&config->owner_database_url));
    if (PQstatus(session) != CONNECTION_OK) {
        (void)complain("no connection", PQerrorMessage(session));
        return 3;
    }
    /* Two at once make one key. */
    if (!run_plain(session, "BEGIN") || !run_plain(session, "SELECT pg_advisory_xact_lock(x'6d636770670002'::bigint)")
        || !run_plain(session,
                      "SELECT set_config('mcpgw.source', 'api', true), set_config('mcpgw.reason', 'bootstrap', true)"))
        return complain("the database refused", PQerrorMessage(session));
    has_key = has_admin_key(session, config->permission_resource, &answered);
    if (!answered)
        return complain("the database refused", PQerrorMessage(session));
    is_file_there = key_file != NULL && access(key_file, F_OK) == 0;
    if (has_key && (key_file == NULL || is_file_there))
        return 0;
    if (is_file_there)
        return complain(
            key_file,
            "exists, but no administrator's key in this database is enabled; remove the file to make a new one");
    return make_key(session, config);
}
