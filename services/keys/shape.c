#include "services/keys/shape.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>
#include <libpq-fe.h>

#include "common/apikey.h"
#include "common/cleanup.h"
#include "common/migrate.h"
#include "common/postgres.h"
#include "services/keys/keys.h"

DEFINE_DESTROY(session_destroy, PGconn, PQfinish)
DEFINE_DESTROY(object_destroy, json_t, json_decref)

extern const struct migration keys_migrations[];

/* Names that may be mapped; the view's, and the old name of the owner. */
static const char *const columns[] = {
    "id", "configId", "name", "start", "referenceId", "userId", "prefix", "key", "refillInterval", "refillAmount",
    "lastRefillAt", "enabled", "rateLimitEnabled", "rateLimitTimeWindow", "rateLimitMax", "requestCount", "remaining",
    "lastRequest", "expiresAt", "createdAt", "updatedAt", "permissions", "metadata"
};

static bool is_column(const char *name)
{
    for (size_t i = 0; i < sizeof columns / sizeof columns[0]; i++) {
        if (strcmp(columns[i], name) == 0)
            return true;
    }
    return false;
}

static bool is_one_of(const char *value, const char *const *allowed)
{
    for (; *allowed != NULL; allowed++) {
        if (strcmp(*allowed, value) == 0)
            return true;
    }
    return false;
}

/* "referenceId=owner_id,expiresAt=valid_until" into {"referenceId": "owner_id", ...}. */
static enum err read_columns(const char *text, json_t *names, char *reterr, size_t reterr_size)
{
    char copy[1024], *rest = copy;

    snprintf(copy, sizeof copy, "%s", text);
    for (char *pair = strtok_r(copy, ", ", &rest); pair != NULL; pair = strtok_r(NULL, ", ", &rest)) {
        char *equals = strchr(pair, '=');

        if (equals == NULL || equals[1] == '\0') {
            snprintf(reterr, reterr_size, "better_auth_columns: \"%.64s\": give pairs as referenceId=owner_id", pair);
            return ERR_MALFORMED;
        }
        *equals = '\0';
        if (!is_column(pair)) {
            snprintf(reterr, reterr_size, "better_auth_columns: the plugin has no column \"%.64s\"", pair);
            return ERR_MALFORMED;
        }
        if (json_object_set_new(names, pair, json_string(equals + 1)) != 0)
            return ERR_NO_MEMORY;
    }
    return ERR_OK;
}

enum err shape_settings(const struct keys_config *config, char json[SHAPE_SETTINGS_MAX], char *reterr,
                        size_t reterr_size)
{
    static const char *const digests[] = { "base64url", "hex", "plain", NULL };
    static const char *const units[] = { "auto", "ms", "days", NULL };
    OWNED(object_destroy) json_t *names = json_object(), *all = NULL;
    enum err err;
    size_t size;

    if (!is_one_of(config->better_auth_digest, digests)) {
        snprintf(reterr, reterr_size, "better_auth_digest: \"%s\": one of base64url, hex, plain", config->better_auth_digest);
        return ERR_MALFORMED;
    }
    if (!is_one_of(config->better_auth_refill_unit, units)) {
        snprintf(reterr, reterr_size, "better_auth_refill_unit: \"%s\": one of auto, ms, days", config->better_auth_refill_unit);
        return ERR_MALFORMED;
    }
    err = read_columns(config->better_auth_columns, names, reterr, reterr_size);
    if (err != ERR_OK)
        return err;
    all = json_pack("{s:s, s:O, s:s, s:s, s:s, s:s, s:s, s:s}", "table", config->better_auth_table, "columns", names,
                    "digest", config->better_auth_digest, "zone", config->better_auth_zone, "refillUnit",
                    config->better_auth_refill_unit, "scopeColumn", config->better_auth_scope_column, "tenantColumn",
                    config->better_auth_tenant_column, "resource", config->permission_resource);
    size = json_dumpb(all, json, SHAPE_SETTINGS_MAX - 1, JSON_COMPACT | JSON_ENSURE_ASCII | JSON_SORT_KEYS);
    if (size == 0 || size >= SHAPE_SETTINGS_MAX) {
        snprintf(reterr, reterr_size, "the better_auth_* settings are no UTF-8 text, or too long");
        return ERR_MALFORMED;
    }
    json[size] = '\0';
    return ERR_OK;
}

void shape_stored_key(const struct keys_config *config, const struct secret *key, char stored[SHAPE_STORED_MAX])
{
    uint8_t digest[DIGEST_SIZE];

    if (strcmp(config->better_auth_digest, "plain") == 0) {
        snprintf(stored, SHAPE_STORED_MAX, "%s", secret_text(key));
        return;
    }
    apikey_digest(secret_text(key), key->size, digest);
    base64url_encode(digest, sizeof digest, stored);
}

/* ---- migrate ----------------------------------------------------------------------------------- */

/* One line of what was found; the details are doctor's. */
static void print_shape(const struct secret *url)
{
    OWNED(session_destroy) PGconn *session = PQconnectdb(secret_text(url));
    OWNED(result_destroy) PGresult *found = PQexec(
        session, "SELECT b.shape->>'table', b.shape->>'release', b.shape->>'owner', b.shape->>'dates', b.shape->>'digest',"
                 " (b.shape->>'direct')::boolean FROM mcpgw.better_auth b");

    if (PQresultStatus(found) != PGRES_TUPLES_OK || PQntuples(found) != 1)
        return;
    printf("keys: table %s: Better-Auth %s, owner in \"%s\", dates %s, keys as %s%s\n", postgres_text(found, 0, 0),
           postgres_text(found, 0, 1), postgres_text(found, 0, 2), postgres_text(found, 0, 3), postgres_text(found, 0, 4),
           postgres_flag(found, 0, 5) ? "" : "; read and written through a view of its own");
}

/* For a literal under standard_conforming_strings: JSON's backslashes stay. */
static void quote(const char *json, char quoted[2 * SHAPE_SETTINGS_MAX])
{
    for (; *json != '\0'; json++) {
        if (*json == '\'')
            *quoted++ = '\'';
        *quoted++ = *json;
    }
    *quoted = '\0';
}

int shape_migrate(const struct keys_config *config)
{
    char json[SHAPE_SETTINGS_MAX], why[512] = "", before[2 * SHAPE_SETTINGS_MAX + 64], after[2 * SHAPE_SETTINGS_MAX + 64];
    char quoted[2 * SHAPE_SETTINGS_MAX];
    struct migrate_options options = { .service = "keys", .migrations = keys_migrations,
                                       .url = &config->owner_database_url, .before = before, .after = after };
    enum err err = shape_settings(config, json, why, sizeof why);

    if (err != ERR_OK) {
        fprintf(stderr, "mcpgw-keys: migrate: %s\n", why);
        return 2;
    }
    quote(json, quoted);
    snprintf(before, sizeof before, "SET standard_conforming_strings = on; SET mcpgw.better_auth = '%s'", quoted);
    snprintf(after, sizeof after, "SELECT mcpgw.attach_better_auth('%s'::jsonb)", quoted);
    err = migrate_run_with(&options, why, sizeof why);
    if (err != ERR_OK) {
        fprintf(stderr, "mcpgw-keys: migrate: %s\n", why);
        return 3;
    }
    print_shape(&config->owner_database_url);
    return 0;
}
