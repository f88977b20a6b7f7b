#include "services/keys/doctor.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>
#include <libpq-fe.h>

#include "common/cleanup.h"
#include "common/postgres.h"
#include "services/keys/doctor_redis.h"
#include "services/keys/keys.h"
#include "services/keys/shape.h"

DEFINE_DESTROY(session_destroy, PGconn, PQfinish)
DEFINE_DESTROY(object_destroy, json_t, json_decref)

static bool is_json, creates_indexes;

void doctor_take_options(int *argc, char **argv)
{
    int kept = 1;

    if (*argc < 2 || strcmp(argv[1], "doctor") != 0)
        return;
    for (int i = 1; i < *argc; i++) {
        if (strcmp(argv[i], "--json") == 0)
            is_json = true;
        else if (strcmp(argv[i], "--create-indexes") == 0)
            creates_indexes = true;
        else
            argv[kept++] = argv[i];
    }
    argv[kept] = NULL;
    *argc = kept;
}

static int cannot_look(const char *why)
{
    fprintf(stderr, "mcpgw-keys: doctor: %s\n", why);
    return 2;
}

/* ---- what is told ------------------------------------------------------------------------------ */

static void tell(const char *severity, const char *subject, const char *finding, const char *remedy)
{
    OWNED(object_destroy) json_t *line = NULL;
    char *text;

    if (!is_json) {
        printf("%-8s %-13s %s%s%s\n", severity, subject, finding, remedy[0] != '\0' ? "\n                       remedy: " : "", remedy);
        return;
    }
    line = json_pack("{s:s, s:s, s:s, s:s}", "severity", severity, "subject", subject, "finding", finding, "remedy", remedy);
    text = json_dumps(line, JSON_COMPACT);
    puts(text != NULL ? text : "{}");
    free(text);
}

static bool tell_shape(PGconn *session)
{
    OWNED(result_destroy) PGresult *found = PQexec(
        session, "SELECT format('%s: Better-Auth %s, owner in \"%s\", dates %s%s, keys as %s, refill in %s%s%s%s',"
                 " b.shape->>'table', b.shape->>'release', b.shape->>'owner', b.shape->>'dates',"
                 " CASE WHEN b.shape->>'dates' <> 'with zone' THEN ' (read as ' || (b.shape->>'zone') || ')' ELSE '' END, b.shape->>'digest',"
                 " CASE b.shape->>'refillUnitMs' WHEN '1' THEN 'milliseconds' ELSE 'days' END,"
                 " coalesce(', scopes in ' || (b.shape->>'scopeColumn'), ''), coalesce(', tenants in ' || (b.shape->>'tenantColumn'), ''),"
                 " CASE WHEN jsonb_array_length(b.shape->'missing') > 0 THEN ', without ' || (b.shape->>'missing') ELSE '' END)"
                 " FROM mcpgw.better_auth b WHERE b.relation IS NOT NULL");

    if (PQresultStatus(found) != PGRES_TUPLES_OK)
        return false;
    if (PQntuples(found) == 1)
        tell("ok", "table", postgres_text(found, 0, 0), "");
    return true;
}

/* The services' settings are those that migrate was last run with, or what they write has another form. */
static bool tell_settings(PGconn *session, const struct keys_config *config, bool *ret_differ)
{
    char json[SHAPE_SETTINGS_MAX], why[256] = "";
    const char *const values[] = { json };
    OWNED(result_destroy) PGresult *rows = NULL;

    if (shape_settings(config, json, why, sizeof why) != ERR_OK) {
        (void)cannot_look(why);
        return false;
    }
    rows = PQexecParams(session, "SELECT n.key, coalesce(b.settings->>n.key, ''), n.value #>> '{}' FROM mcpgw.better_auth b, jsonb_each($1::jsonb) n"
                                 " WHERE b.settings->n.key IS DISTINCT FROM n.value", 1, NULL, values, NULL, NULL, 0);
    if (PQresultStatus(rows) != PGRES_TUPLES_OK)
        return false;
    for (int row = 0; row < PQntuples(rows); row++) {
        char finding[512];

        snprintf(finding, sizeof finding, "%s is \"%.150s\" here and was \"%.150s\" when the schema was applied", postgres_text(rows, row, 0),
                 postgres_text(rows, row, 2), postgres_text(rows, row, 1));
        tell("warning", "settings", finding, "give doctor, migrate and the services the same better_auth_* settings");
        *ret_differ = true;
    }
    return true;
}

/* CONCURRENTLY, so each in a statement of its own; one that failed before has left an index that counts for nothing. */
static bool create_indexes(PGconn *session)
{
    OWNED(result_destroy) PGresult *rows = PQexec(session, "SELECT name, statement, (SELECT c.oid::regclass::text FROM pg_class c"
                                                           " WHERE c.relname = m.name AND c.relkind = 'i' LIMIT 1) FROM mcpgw.missing_indexes() m");

    if (PQresultStatus(rows) != PGRES_TUPLES_OK)
        return false;
    for (int row = 0; row < PQntuples(rows); row++) {
        OWNED(result_destroy) PGresult *dropped = NULL, *made = NULL;
        char drop[200];

        if (!PQgetisnull(rows, row, 2)) {
            snprintf(drop, sizeof drop, "DROP INDEX CONCURRENTLY %.128s", postgres_text(rows, row, 2));
            dropped = PQexec(session, drop);
        }
        made = PQexec(session, postgres_text(rows, row, 1));
        if (PQresultStatus(made) != PGRES_COMMAND_OK)
            return false;
        tell("ok", "indexes", postgres_text(rows, row, 1), "");
    }
    return true;
}

/* What only the application's Redis knows.  false: its URL is not set. */
static bool tell_redis(PGconn *session, const struct keys_config *config, bool *ret_serious)
{
    struct redis_findings found;
    char finding[REDIS_FINDING_SIZE + 160], remedy[REDIS_FINDING_SIZE + 64];

    if (!secret_is_set(&config->better_auth_redis_url))
        return false;
    doctor_look_into_redis(&config->better_auth_redis_url, config->better_auth_redis_prefix, session, &found);
    if (found.orphans > 0) {
        snprintf(finding, sizeof finding, "%llu of %llu key(s) of Better-Auth in Redis stand in no table, so the gateway refuses them (%s)",
                 (unsigned long long)found.orphans, (unsigned long long)found.copies, found.examples);
        tell("error", "redis", finding, "apiKey({ storage: \"secondary-storage\", fallbackToDatabase: true }), or storage: \"database\"; then import"
                                        " the keys as docs/better-auth.md says under \"Keys that only Redis holds\"");
    }
    if (found.other_prefix[0] != '\0') {
        snprintf(finding, sizeof finding, "Redis holds keys of Better-Auth under \"%.100s\", and better_auth_redis_prefix is \"%.64s\": their copies"
                                          " are not deleted when keys change", found.other_prefix, config->better_auth_redis_prefix);
        snprintf(remedy, sizeof remedy, "MCPGW_BETTER_AUTH_REDIS_PREFIX='%.100s'", found.other_prefix);
        tell("error", "redis", finding, remedy);
    }
    if (found.why[0] != '\0') {
        snprintf(finding, sizeof finding, "the application's Redis could not be looked through: %s", found.why);
        tell("warning", "redis", finding, "give doctor a MCPGW_BETTER_AUTH_REDIS_URL whose user may SCAN");
    } else if (found.orphans == 0) {
        snprintf(finding, sizeof finding, "%llu key(s) of Better-Auth in Redis, all of them copies of rows", (unsigned long long)found.copies);
        tell("ok", "redis", finding, "");
    }
    *ret_serious = *ret_serious || found.orphans > 0 || found.other_prefix[0] != '\0' || found.why[0] != '\0';
    return true;
}

/* knows_redis: what the rows make one guess of Redis was looked up there. */
static bool tell_findings(PGconn *session, bool knows_redis, bool *ret_serious)
{
    OWNED(result_destroy) PGresult *rows = PQexec(session, "SELECT severity, subject, finding, remedy FROM mcpgw.diagnose()"
                                                           " ORDER BY array_position(ARRAY['error', 'warning', 'note'], severity), subject, finding");

    if (PQresultStatus(rows) != PGRES_TUPLES_OK)
        return false;
    for (int row = 0; row < PQntuples(rows); row++) {
        const bool is_guess = strcmp(postgres_text(rows, row, 1), "storage") == 0;

        if (is_guess && knows_redis)
            continue;
        tell(postgres_text(rows, row, 0), postgres_text(rows, row, 1), postgres_text(rows, row, 2),
             is_guess ? "give doctor MCPGW_BETTER_AUTH_REDIS_URL, and it looks there" : postgres_text(rows, row, 3));
        *ret_serious = *ret_serious || strcmp(postgres_text(rows, row, 0), "note") != 0;
    }
    return true;
}

int doctor_command(const void *settings)
{
    const struct keys_config *config = settings;
    OWNED(session_destroy) PGconn *session = NULL;
    bool is_serious = false, knows_redis;

    if (!secret_is_set(&config->owner_database_url))
        return cannot_look("owner_database_url is not set: give MCPGW_OWNER_DATABASE_URL, a Postgres URL for the owner of the database");
    session = PQconnectdb(secret_text(&config->owner_database_url));
    if (PQstatus(session) != CONNECTION_OK)
        return cannot_look(PQerrorMessage(session));
    if (!tell_shape(session))
        return cannot_look("there is no schema of this release in the database: run mcpgw-keys migrate");
    if (creates_indexes && !create_indexes(session))
        return cannot_look(PQerrorMessage(session));
    knows_redis = tell_redis(session, config, &is_serious);
    if (!tell_settings(session, config, &is_serious) || !tell_findings(session, knows_redis, &is_serious))
        return cannot_look(PQerrorMessage(session));
    if (!is_serious)
        tell("ok", "all", "the gateway has what it needs", "");
    return is_serious ? 1 : 0;
}
