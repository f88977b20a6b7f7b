#include "services/audit/audit_store.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"

#define STORE_TIMEOUT_MS 5000u
#define NUMBER_SIZE      24u

/* A lock number of our own: "mcpgwaud" */
#define LOCK_NUMBER "7882267362515318116"
#define OUTBOX_ID   "'00000000-0000-7000-8000-000000000001'"

const uint8_t audit_outbox_producer[UUID_SIZE] = { 0, 0, 0, 0, 0, 0, 0x70, 0, 0x80, 0, 0, 0, 0, 0, 0, 1 };

#define BATCH_COLUMNS \
    "producer, epoch, first_seq, last_seq, count, first_at, last_at, at, event, outcome, reason, request_id, user_id," \
    " tenant_id, auth_method, key_id, address, method, path, server, tool, status, latency_us, bytes, requests," \
    " details, keys, users"
#define NO_TEXTS "array_agg(NULL::text)"
#define LIST(value) "array_agg(" value " ORDER BY sequence)"

static const struct postgres_statement statements[] = {
    /* A session that does not wait for the disk would lose what it acknowledged. */
    { "lock",
      "SELECT CASE WHEN pg_try_advisory_lock(" LOCK_NUMBER ") THEN nextval('audit.consumer_token') END,"
      " CASE WHEN current_setting('synchronous_commit') = 'off'"
      " THEN set_config('synchronous_commit', 'on', false) END" },
    { "claim",
      "INSERT INTO audit.watermark AS w (producer, epoch, next_seq, consumer_token)"
      " VALUES ($1::uuid, $2::bigint, 1, $3::bigint) ON CONFLICT (producer, epoch)"
      " DO UPDATE SET consumer_token = EXCLUDED.consumer_token, updated = now()"
      " WHERE w.consumer_token <= EXCLUDED.consumer_token RETURNING next_seq" },
    { "insert",
      "WITH moved AS (UPDATE audit.watermark SET next_seq = $5::bigint, updated = now()"
      " WHERE producer = $1::uuid AND epoch = $2::bigint AND next_seq = $3::bigint AND consumer_token = $4::bigint"
      " RETURNING 1)"
      " INSERT INTO audit.batch (" BATCH_COLUMNS ")"
      " SELECT $1::uuid, $2::bigint, $3::bigint, $5::bigint - 1, cardinality($8::timestamptz[]),"
      " $6::timestamptz, $7::timestamptz, $8::timestamptz[], $9::text[], $10::text[], $11::text[], $12::text[],"
      " $13::text[], $14::text[], $15::text[], $16::text[], $17::text[], $18::text[], $19::text[], $20::text[],"
      " $21::text[], $22::integer[], $23::bigint[], $24::bigint[], $25::bigint[], $26::text[], $27::text[], $28::text[]"
      " FROM moved RETURNING 1" },
    /* Numbers are taken under a row lock that is held to the commit, so a number that is seen has none unseen below it.
     * Not every number has an event: each run without a hole becomes a batch, so that positions are sequences. */
    { "outbox",
      "WITH mark AS (SELECT next_seq FROM audit.watermark"
      " WHERE producer = " OUTBOX_ID " AND epoch = 1 AND consumer_token = $1::bigint),"
      " due AS (SELECT d.*, d.sequence - row_number() OVER (ORDER BY d.sequence) AS run"
      " FROM (SELECT o.* FROM mcpgw.outbox o, mark WHERE o.sequence >= mark.next_seq"
      " ORDER BY o.sequence LIMIT 1000) d),"
      " moved AS (UPDATE audit.watermark w"
      " SET next_seq = (SELECT max(sequence) + 1 FROM due), updated = now()"
      " FROM mark WHERE w.producer = " OUTBOX_ID " AND w.epoch = 1 AND w.consumer_token = $1::bigint"
      " AND w.next_seq = mark.next_seq AND EXISTS (SELECT FROM due) RETURNING 1)"
      " INSERT INTO audit.batch (" BATCH_COLUMNS ")"
      " SELECT " OUTBOX_ID "::uuid, 1, min(sequence), max(sequence), count(*)::integer, min(at), max(at),"
      " " LIST("at") ", " LIST("event") ", array_agg('allowed'::text), " LIST("reason") ", " LIST("request_id") ","
      " " LIST("actor_user_id") ", " LIST("coalesce(actor_tenant_id, tenant_id)") ","
      " " LIST("CASE WHEN actor_key_id IS NOT NULL THEN 'api_key' END") ","
      " " LIST("coalesce(key_id, actor_key_id)") ", " LIST("address") ", " NO_TEXTS ", " NO_TEXTS ","
      " " LIST("server") ", " NO_TEXTS ", array_agg(NULL::integer), array_agg(0::bigint), array_agg(0::bigint),"
      " array_agg(1::bigint),"
      " " LIST("(jsonb_strip_nulls(jsonb_build_object('source', source, 'keyId', key_id, 'actorKeyId', actor_key_id,"
               " 'subjectUserId', user_id, 'subjectTenantId', tenant_id))"
               " || CASE WHEN details IS NULL THEN '{}'::jsonb WHEN jsonb_typeof(details) = 'object' THEN details"
               " ELSE jsonb_build_object('details', details) END)::text") ","
      " array_remove(array_agg(DISTINCT coalesce(key_id, actor_key_id)), NULL),"
      " array_remove(array_agg(DISTINCT actor_user_id), NULL)"
      " FROM due, moved GROUP BY run RETURNING count" },
    { "quarantine",
      "INSERT INTO audit.quarantine (producer, epoch, first_seq, reason, bytes)"
      " VALUES ($1::uuid, $2::bigint, $3::bigint, $4, $5::bytea)" },
    { "maintain", "SELECT audit.maintain($1::integer)" },
    { 0 }
};

struct audit_store {
    struct postgres *postgres;
    struct audit_store_options options;
};

static void on_state(void *owner, bool connected)
{
    struct audit_store *store = owner;

    store->options.on_state(store->options.owner, connected);
}

static void on_notify(void *owner, const char *channel, const char *payload)
{
    struct audit_store *store = owner;

    (void)channel;
    (void)payload;
    store->options.on_outbox(store->options.owner);
}

enum err audit_store_new(struct loop *loop, const struct audit_store_options *options, struct audit_store **ret_store)
{
    static const char *const channels[] = { "mcpgw_change", NULL };
    struct postgres_options connection = {
        .url = options->url, .statements = statements, .application_name = "mcpgw-audit",
        .timeout_ms = STORE_TIMEOUT_MS,
        .listen = channels, .on_notify = on_notify, .on_state = on_state,
    };
    OWNED(audit_store_destroy) struct audit_store *store = calloc(1, sizeof *store);
    enum err err;

    if (store == NULL)
        return ERR_NO_MEMORY;
    store->options = *options;
    connection.owner = store;
    err = postgres_new(loop, &connection, &store->postgres);
    if (err != ERR_OK)
        return err;
    *ret_store = store;
    store = NULL;
    return ERR_OK;
}

void audit_store_destroy(struct audit_store **store)
{
    if (*store == NULL)
        return;
    postgres_destroy(&(*store)->postgres);
    free(*store);
    *store = NULL;
}

static void step_text(struct postgres_step *step, const char *text)
{
    step->values[step->count++] = text;
}

static void step_number(struct postgres_step *step, char buffer[NUMBER_SIZE], uint64_t number)
{
    snprintf(buffer, NUMBER_SIZE, "%" PRIu64, number);
    step_text(step, buffer);
}

static void step_bytes(struct postgres_step *step, const uint8_t *bytes, size_t size)
{
    step->values[step->count] = (const char *)bytes;
    step->lengths[step->count] = (int)size;
    step->formats[step->count++] = 1;
}

enum err audit_store_lock(struct audit_store *store, postgres_fn *fn, void *owner)
{
    return postgres_call(store->postgres, &(struct postgres_step){ .statement = "lock" }, fn, owner);
}

enum err audit_store_read_lock(enum postgres_outcome outcome, PGresult *const *results, uint64_t *ret_token)
{
    if (outcome != PG_DONE)
        return ERR_UNAVAILABLE;
    if (postgres_i64(results[0], 0, 0) <= 0)
        return ERR_CONFLICT;
    *ret_token = (uint64_t)postgres_i64(results[0], 0, 0);
    return ERR_OK;
}

enum err audit_store_claim(struct audit_store *store, const struct audit_place *place, postgres_fn *fn, void *owner)
{
    struct postgres_step step = { .statement = "claim" };
    char producer[UUID_TEXT_SIZE], epoch[NUMBER_SIZE], token[NUMBER_SIZE];

    uuid_format(place->producer, producer);
    step_text(&step, producer);
    step_number(&step, epoch, place->epoch);
    step_number(&step, token, place->token);
    return postgres_call(store->postgres, &step, fn, owner);
}

enum err audit_store_read_claim(enum postgres_outcome outcome, PGresult *const *results, uint64_t *ret_next_seq)
{
    if (outcome != PG_DONE)
        return ERR_UNAVAILABLE;
    if (PQntuples(results[0]) == 0)
        return ERR_CONFLICT;
    *ret_next_seq = (uint64_t)postgres_i64(results[0], 0, 0);
    return ERR_OK;
}

enum err audit_store_insert(struct audit_store *store, const struct audit_place *place, struct columns *columns,
                            postgres_fn *fn, void *owner)
{
    struct postgres_step step = { .statement = "insert" };
    char producer[UUID_TEXT_SIZE], epoch[NUMBER_SIZE], old[NUMBER_SIZE], token[NUMBER_SIZE], next[NUMBER_SIZE];
    uint8_t first_at[8], last_at[8];

    uuid_format(place->producer, producer);
    step_text(&step, producer);
    step_number(&step, epoch, place->epoch);
    step_number(&step, old, place->next_seq);
    step_number(&step, token, place->token);
    step_number(&step, next, columns_next_seq(columns));
    columns_instant(columns_first_us(columns), first_at);
    columns_instant(columns_last_us(columns), last_at);
    step_bytes(&step, first_at, sizeof first_at);
    step_bytes(&step, last_at, sizeof last_at);
    for (enum column column = 0; column < COLUMNS; column++) {
        size_t size;
        const uint8_t *bytes = columns_array(columns, column, &size);

        step_bytes(&step, bytes, size);
    }
    return postgres_call(store->postgres, &step, fn, owner);
}

/* A refused insert is said with its SQLSTATE: someone must act (disk full, a grant that is missing). */
static enum err read_outcome(enum postgres_outcome outcome, PGresult *const *results, const char *what)
{
    if (outcome == PG_REFUSED)
        log_error("statement_refused", log_text("statement", what),
                  log_text("sqlstate", postgres_sqlstate(results[0])));
    return outcome == PG_DONE ? ERR_OK : ERR_UNAVAILABLE;
}

enum err audit_store_read_insert(enum postgres_outcome outcome, PGresult *const *results)
{
    enum err err = read_outcome(outcome, results, "insert");

    if (err != ERR_OK)
        return err;
    return PQntuples(results[0]) == 1 ? ERR_OK : ERR_CONFLICT;
}

enum err audit_store_move_outbox(struct audit_store *store, uint64_t token, postgres_fn *fn, void *owner)
{
    struct postgres_step step = { .statement = "outbox" };
    char number[NUMBER_SIZE];

    step_number(&step, number, token);
    return postgres_call(store->postgres, &step, fn, owner);
}

enum err audit_store_read_outbox(enum postgres_outcome outcome, PGresult *const *results, uint64_t *ret_events)
{
    enum err err = read_outcome(outcome, results, "outbox");
    int64_t events = 0;

    if (err != ERR_OK)
        return err;
    for (int row = 0; row < PQntuples(results[0]); row++)
        events += postgres_i64(results[0], row, 0);
    *ret_events = (uint64_t)events;
    return ERR_OK;
}

static void on_quarantined(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    (void)owner;
    (void)count;
    if (read_outcome(outcome, results, "quarantine") != ERR_OK)
        log_warn("quarantine_not_stored");
}

enum err audit_store_quarantine(struct audit_store *store, const struct audit_place *place, const char *reason,
                                const uint8_t *bytes, size_t size)
{
    struct postgres_step step = { .statement = "quarantine" };
    char producer[UUID_TEXT_SIZE], epoch[NUMBER_SIZE], first[NUMBER_SIZE];

    if (place == NULL) {
        step.count = 3;
    } else {
        uuid_format(place->producer, producer);
        step_text(&step, producer);
        step_number(&step, epoch, place->epoch);
        step_number(&step, first, place->next_seq);
    }
    step_text(&step, reason);
    step_bytes(&step, bytes, size);
    return postgres_call(store->postgres, &step, on_quarantined, NULL);
}

enum err audit_store_maintain(struct audit_store *store, uint64_t retention_days, postgres_fn *fn, void *owner)
{
    struct postgres_step step = { .statement = "maintain" };
    char days[NUMBER_SIZE];

    step_number(&step, days, retention_days);
    return postgres_call(store->postgres, &step, fn, owner);
}
