#include "services/authz/authz_store.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/metrics.h"
#include "common/postgres.h"
#include "common/rate_rule.h"
#include "common/redis.h"
#include "services/authz/authz_entry.h"

/* Longer than any look-up should take and shorter than a caller waits. */
#define FIND_TIMEOUT_MS  1000u
/* A connection that gives no lease is to be replaced well within the grace. */
#define WATCH_TIMEOUT_MS 1000u
/* Beyond it Redis is slower than Postgres would be. */
#define REDIS_TIMEOUT_MS 100u
#define REDIS_KEY_PREFIX "mcpgw:v:"
#define REDIS_KEY_SIZE   (sizeof REDIS_KEY_PREFIX - 1 + DIGEST_TEXT_SIZE)

struct store {
    const struct authz_config *config;
    struct store_options options;
    struct postgres *finding, *watching, *spending;
    struct redis *redis;
    struct secret entry_key;    /* of cache_key and the settings that facts depend on */
    enum row_limits row_limits;
    char cache_s[24];
    uint8_t reach[REACH_SIZE_MAX];    /* of the facts being told */

    store_changes_fn *changes_fn;
    void *changes_owner;
    store_triggers_fn *triggers_fn;
    void *triggers_owner;
    struct { void (*fn)(void *owner); void *owner; } leftover;    /* the same for all */
};

enum find_column {
    FIND_SEQUENCE, FIND_KEY_ID, FIND_REFERENCE_ID, FIND_SIDE_TENANT_ID, FIND_ORGANIZATION_ID, FIND_PERMISSIONS,
    FIND_EXPIRES_US, FIND_ORGANIZATION_COUNT, FIND_ENABLED, FIND_REVOKED, FIND_IS_ORGANIZATION, FIND_OWNER_EXISTS,
    FIND_OWNER_BANNED, FIND_OWNER_LEFT, FIND_TENANT_SUSPENDED, FIND_RATE_IS_SET, FIND_RATE_MAX, FIND_RATE_WINDOW_MS, FIND_ADDRESSES,
    FIND_SERVERS, FIND_TOOLS, FIND_METERED, FIND_TENANT_REQUESTS, FIND_TENANT_WINDOW_S, FIND_USER_REQUESTS, FIND_USER_WINDOW_S
};

/* NULL, or a mark that tells it from an empty list, and a line for each value. */
#define LINES(column) "'=' || array_to_string(" column ", chr(10))"

/* A former value of a key finds the present one's facts, until it ends.  The change number comes from the snapshot of the row itself.  The digest is not unique in Better-Auth's table: two rows
 * of one digest are told by the second. */
static const struct postgres_statement find_statements[] = {
    { "find",
      "SELECT s.value, c.key_id, c.reference_id, c.side_tenant_id, c.organization_id,"
      " left(c.permissions, 16385),"
      " CASE WHEN least(c.expires_at, f.expires_at) IS NULL OR least(c.expires_at, f.expires_at) = 'infinity' THEN 0"
      "      WHEN least(c.expires_at, f.expires_at) <= 'epoch' THEN 1"
      "      ELSE (extract(epoch FROM least(c.expires_at, f.expires_at)) * 1000000)::bigint END,"
      " c.organization_count, coalesce(c.enabled, true), c.revoked, c.is_organization, c.owner_exists, c.owner_banned, c.owner_left, c.tenant_suspended,"
      " coalesce(c.rate_enabled, true) AND c.rate_max IS NOT NULL AND c.rate_window_ms IS NOT NULL,"
      " c.rate_max, c.rate_window_ms, " LINES("c.allowed_ips") ", " LINES("c.servers") ", " LINES("c.tools") ", c.metered,"
      " t.limit_requests, t.limit_window_s, t.user_limit_requests, t.user_limit_window_s"
      " FROM mcpgw.change_sequence s LEFT JOIN mcpgw.rotated f ON f.digest = $1 LEFT JOIN mcpgw.credential c"
      " ON c.digest = coalesce(f.current_digest, $1) LEFT JOIN mcpgw.tenant_state t ON t.id = c.tenant_id LIMIT 2" },
    { 0 }
};

static const struct postgres_statement watch_statements[] = {
    { "sequence", "SELECT value FROM mcpgw.change_sequence" },
    { "changes",
      "SELECT s.value, c.sequence, c.kind, c.digest, c.key_id, c.user_id, c.tenant_id, c.server"
      " FROM mcpgw.change_sequence s LEFT JOIN LATERAL (SELECT * FROM mcpgw.change WHERE sequence > $1::bigint"
      " ORDER BY sequence LIMIT $2::bigint) c ON true ORDER BY c.sequence" },
    { "triggers", "SELECT mcpgw.triggers_present()" },
    { 0 }
};

static const struct postgres_statement spend_statements[] = {
    { "take_uses", "SELECT taken, valid_ms, refilled, sequence FROM mcpgw.take_uses($1, $2::int, $3::boolean)" },
    { "take_use", "SELECT taken, valid_ms, refilled, sequence FROM mcpgw.take_use($1, $2)" },
    { "give_uses_back", "SELECT mcpgw.give_uses_back($1, $2::int, nullif($3, '')::timestamptz, $4::bigint)" },
    { 0 }
};

static void on_notify(void *owner, const char *channel, const char *payload)
{
    struct store *store = owner;

    (void)channel;
    (void)payload;
    store->options.on_change(store->options.owner);
}

static void on_state(void *owner, bool connected)
{
    struct store *store = owner;

    (void)connected;
    store->options.on_state(store->options.owner);
}

static enum err connect_postgres(struct store *store, struct loop *loop)
{
    static const char *const channels[] = { "mcpgw_change", NULL };
    struct postgres_options find = {
        .url = &store->config->database_url, .statements = find_statements, .application_name = "mcpgw-authz",
        .timeout_ms = FIND_TIMEOUT_MS, .on_state = on_state, .owner = store,
    };
    struct postgres_options watch = {
        .url = &store->config->database_url, .statements = watch_statements, .application_name = "mcpgw-authz-lease",
        .timeout_ms = WATCH_TIMEOUT_MS, .listen = channels, .on_notify = on_notify,
        .on_state = on_state, .owner = store,
    };
    struct postgres_options spend = {
        .url = &store->config->database_url, .statements = spend_statements, .application_name = "mcpgw-authz-uses",
        .timeout_ms = FIND_TIMEOUT_MS, .on_state = on_state, .owner = store,
    };
    enum err err = postgres_new(loop, &find, &store->finding);

    if (err == ERR_OK)
        err = postgres_new(loop, &spend, &store->spending);
    return err != ERR_OK ? err : postgres_new(loop, &watch, &store->watching);
}

static enum err connect_redis(struct store *store, struct loop *loop)
{
    const struct secret *key = &store->config->cache_key;
    const char *resource = store->config->permission_resource;
    const uint8_t limits = (uint8_t)store->row_limits;
    struct redis_options options = {
        .url = &store->config->redis_url, .timeout_ms = REDIS_TIMEOUT_MS, .on_state = on_state, .owner = store,
    };

    if (!secret_is_set(&store->config->redis_url) || !secret_is_set(key))
        return ERR_OK;
    store->entry_key.size = DIGEST_SIZE;
    digest_hmac(key->bytes, key->size, resource, strlen(resource), &limits, 1, store->entry_key.bytes);
    return redis_new(loop, &options, &store->redis);
}

enum err store_new(struct loop *loop, const struct store_options *options, struct store **ret_store)
{
    struct store *store = calloc(1, sizeof *store);
    enum err err;

    if (store == NULL)
        return ERR_NO_MEMORY;
    store->options = *options;
    store->config = options->config;
    store->row_limits = options->row_limits;
    snprintf(store->cache_s, sizeof store->cache_s, "%" PRIu64, store->config->cache_s);
    err = connect_postgres(store, loop);
    if (err == ERR_OK)
        err = connect_redis(store, loop);
    if (err != ERR_OK) {
        store_destroy(&store);
        return err;
    }
    *ret_store = store;
    return ERR_OK;
}

void store_destroy(struct store **store)
{
    if (*store == NULL)
        return;
    redis_destroy(&(*store)->redis);    /* first: look-ups that lose it turn to Postgres */
    postgres_destroy(&(*store)->finding);
    postgres_destroy(&(*store)->watching);
    postgres_destroy(&(*store)->spending);
    secret_wipe(&(*store)->entry_key);
    free(*store);
    *store = NULL;
}

bool store_has_postgres(const struct store *store)
{
    return postgres_is_connected(store->finding) && postgres_is_connected(store->watching);
}

bool store_has_redis(const struct store *store)
{
    return store->redis != NULL && redis_is_connected(store->redis);
}

bool store_uses_redis(const struct store *store)
{
    return store->redis != NULL;
}

static const char *lines_of(const PGresult *result, int column)
{
    const char *text = postgres_text(result, 0, column);

    return text[0] == '\0' ? NULL : text + 1;
}

static uint64_t rule_of(const PGresult *result, int requests, int window_s)
{
    return rate_rule((uint64_t)postgres_i64(result, 0, requests), (uint64_t)postgres_i64(result, 0, window_s));
}

static struct authz_row row_of(const PGresult *result)
{
    return (struct authz_row){
        .key_id = postgres_text(result, 0, FIND_KEY_ID), .reference_id = postgres_text(result, 0, FIND_REFERENCE_ID),
        .side_tenant_id = postgres_text(result, 0, FIND_SIDE_TENANT_ID),
        .organization_id = postgres_text(result, 0, FIND_ORGANIZATION_ID),
        .permissions = postgres_text(result, 0, FIND_PERMISSIONS),
        .expires_us = (uint64_t)postgres_i64(result, 0, FIND_EXPIRES_US),
        .organization_count = (uint64_t)postgres_i64(result, 0, FIND_ORGANIZATION_COUNT),
        .enabled = postgres_flag(result, 0, FIND_ENABLED), .revoked = postgres_flag(result, 0, FIND_REVOKED),
        .is_organization = postgres_flag(result, 0, FIND_IS_ORGANIZATION),
        .owner_exists = postgres_flag(result, 0, FIND_OWNER_EXISTS),
        .owner_banned = postgres_flag(result, 0, FIND_OWNER_BANNED), .owner_left = postgres_flag(result, 0, FIND_OWNER_LEFT),
        .tenant_suspended = postgres_flag(result, 0, FIND_TENANT_SUSPENDED),
        .rate_is_set = postgres_flag(result, 0, FIND_RATE_IS_SET), .rate_max = postgres_i64(result, 0, FIND_RATE_MAX),
        .rate_window_ms = postgres_i64(result, 0, FIND_RATE_WINDOW_MS), .metered = postgres_flag(result, 0, FIND_METERED),
        .tenant_rule = rule_of(result, FIND_TENANT_REQUESTS, FIND_TENANT_WINDOW_S),
        .user_rule = rule_of(result, FIND_USER_REQUESTS, FIND_USER_WINDOW_S),
        .reach = { .addresses = lines_of(result, FIND_ADDRESSES), .servers = lines_of(result, FIND_SERVERS),
                   .tools = lines_of(result, FIND_TOOLS) },
    };
}

static void on_found(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    struct store_call *call = owner;
    struct authz_facts facts;
    struct authz_row row;
    uint64_t sequence;

    if (outcome != PG_DONE || count != 1 || PQntuples(results[0]) == 0) {
        call->fn(call->owner, ERR_UNAVAILABLE, 0, NULL);
        return;
    }
    sequence = (uint64_t)postgres_i64(results[0], 0, FIND_SEQUENCE);
    if (PQgetisnull(results[0], 0, FIND_KEY_ID)) {
        call->fn(call->owner, ERR_NOT_FOUND, sequence, NULL);
        return;
    }
    row = row_of(results[0]);
    row.reach_room = call->store->reach;
    row.row_limits = call->store->row_limits;
    authz_facts_of(&row, call->store->config->permission_resource, &facts);
    /* Which of two rows Better-Auth would take is undefined; one may be disabled. */
    if (PQntuples(results[0]) > 1)
        facts.usable = false;
    call->fn(call->owner, ERR_OK, sequence, &facts);
}

enum err store_find(struct store *store, struct store_call *call)
{
    char text[DIGEST_TEXT_SIZE];
    struct postgres_step step = { .statement = "find", .count = 1, .values = { text } };

    call->store = store;
    base64url_encode(call->digest, DIGEST_SIZE, text);
    return postgres_call(store->finding, &step, on_found, call);
}

static void on_uses(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    struct store_uses *call = owner;
    const bool is_answered = outcome == PG_DONE && count == 1 && PQntuples(results[0]) == 1;

    if (is_answered) {
        call->taken = (uint32_t)postgres_i64(results[0], 0, 0);
        call->has_end = !PQgetisnull(results[0], 0, 1);
        call->valid_ms = (uint64_t)postgres_i64(results[0], 0, 1);
        snprintf(call->refilled, sizeof call->refilled, "%s", postgres_text(results[0], 0, 2));
        call->sequence = (uint64_t)postgres_i64(results[0], 0, 3);
    }
    call->fn(call->owner, is_answered);
}

enum err store_take_uses(struct store *store, struct store_uses *call)
{
    char wanted[12];
    struct postgres_step step = { .statement = "take_uses", .count = 3,
                                  .values = { call->key_id, wanted, call->is_ahead ? "true" : "false" } };

    struct postgres_step one = { .statement = "take_use", .count = 2, .values = { call->key_id, call->request } };

    snprintf(wanted, sizeof wanted, "%u", call->wanted);
    return postgres_call(store->spending, call->request[0] != '\0' ? &one : &step, on_uses, call);
}

static void on_given_back(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    struct store *store = owner;

    (void)outcome, (void)results, (void)count;
    store->leftover.fn(store->leftover.owner);
}

enum err store_give_uses_back(struct store *store, const struct store_leftover *leftover)
{
    char count[12], sequence[24];
    struct postgres_step step = { .statement = "give_uses_back", .count = 4,
                                  .values = { leftover->key_id, count, leftover->refilled, sequence } };

    snprintf(count, sizeof count, "%u", leftover->count);
    snprintf(sequence, sizeof sequence, "%" PRIu64, leftover->sequence);
    store->leftover.fn = leftover->fn;
    store->leftover.owner = leftover->owner;
    return postgres_call(store->spending, &step, on_given_back, store);
}

static void make_redis_key(const uint8_t digest[DIGEST_SIZE], char key[REDIS_KEY_SIZE])
{
    memcpy(key, REDIS_KEY_PREFIX, sizeof REDIS_KEY_PREFIX - 1);
    base64url_encode(digest, DIGEST_SIZE, key + sizeof REDIS_KEY_PREFIX - 1);
}

static void on_found_shared(void *owner, const redisReply *reply)
{
    struct store_call *call = owner;
    struct authz_facts facts;
    uint64_t sequence;

    if (reply == NULL || reply->type == REDIS_REPLY_ERROR)
        call->fn(call->owner, ERR_UNAVAILABLE, 0, NULL);
    else if (reply->type != REDIS_REPLY_STRING
             || entry_unpack(&call->store->entry_key, call->digest, (const uint8_t *)reply->str, (size_t)reply->len,
                             &sequence, &facts) != ERR_OK)
        call->fn(call->owner, ERR_NOT_FOUND, 0, NULL);
    else
        call->fn(call->owner, ERR_OK, sequence, &facts);
}

enum err store_find_shared(struct store *store, struct store_call *call)
{
    char key[REDIS_KEY_SIZE];
    const char *words[] = { "GET", key };
    const size_t lengths[] = { 3, REDIS_KEY_SIZE - 1 };

    if (!store_has_redis(store))
        return ERR_UNAVAILABLE;
    call->store = store;
    make_redis_key(call->digest, key);
    return redis_call(store->redis, 2, words, lengths, on_found_shared, call);
}

void store_share(struct store *store, const uint8_t digest[DIGEST_SIZE], uint64_t sequence, const struct authz_facts *facts)
{
    char key[REDIS_KEY_SIZE];
    uint8_t entry[ENTRY_SIZE_MAX];
    const char *words[] = { "SET", key, (const char *)entry, "EX", store->cache_s };
    size_t lengths[] = { 3, REDIS_KEY_SIZE - 1, 0, 2, strlen(store->cache_s) };
    enum err err;

    if (!store_has_redis(store))
        return;
    make_redis_key(digest, key);
    lengths[2] = entry_pack(&store->entry_key, digest, sequence, facts, entry);
    err = redis_call(store->redis, 5, words, lengths, NULL, NULL);
    (void)err;    /* the next look-up finds nothing in Redis and asks Postgres */
}

static void on_changes(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    struct store *store = owner;
    struct store_changes changes;

    if (outcome != PG_DONE || count != 1 || PQntuples(results[0]) == 0) {
        store->changes_fn(store->changes_owner, NULL);
        return;
    }
    changes = (struct store_changes){ .sequence = (uint64_t)postgres_i64(results[0], 0, 0), .rows = results[0] };
    /* The outer join gives one row of NULLs when there is no change. */
    if (PQnfields(results[0]) > 1 && !PQgetisnull(results[0], 0, 1))
        changes.count = (size_t)PQntuples(results[0]);
    store->changes_fn(store->changes_owner, &changes);
}

enum err store_read_changes(struct store *store, uint64_t after, bool with_rows, store_changes_fn *fn, void *owner)
{
    char from[24], page[24];
    struct postgres_step rows = { .statement = "changes", .count = 2, .values = { from, page } };
    struct postgres_step number = { .statement = "sequence" };

    snprintf(from, sizeof from, "%" PRIu64, after);
    snprintf(page, sizeof page, "%u", STORE_CHANGES_PAGE);
    store->changes_fn = fn;
    store->changes_owner = owner;
    return postgres_call(store->watching, with_rows ? &rows : &number, on_changes, store);
}

struct change_row store_change_at(const struct store_changes *changes, size_t index)
{
    const PGresult *rows = changes->rows;
    int row = (int)index;

    return (struct change_row){
        .sequence = (uint64_t)postgres_i64(rows, row, 1), .kind = (int)postgres_i64(rows, row, 2),
        .digest = postgres_text(rows, row, 3), .key_id = postgres_text(rows, row, 4),
        .user_id = postgres_text(rows, row, 5), .tenant_id = postgres_text(rows, row, 6),
        .server = postgres_text(rows, row, 7),
    };
}

static void on_triggers(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    struct store *store = owner;
    bool answered = outcome == PG_DONE && count == 1 && PQntuples(results[0]) == 1;

    store->triggers_fn(store->triggers_owner, answered, answered && postgres_flag(results[0], 0, 0));
}

enum err store_check_triggers(struct store *store, store_triggers_fn *fn, void *owner)
{
    struct postgres_step step = { .statement = "triggers" };

    store->triggers_fn = fn;
    store->triggers_owner = owner;
    return postgres_call(store->watching, &step, on_triggers, store);
}
