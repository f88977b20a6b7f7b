#include "services/audit/audit_store.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "common/sabotage.h"
#include "common/scope.h"

#define STORE_TIMEOUT_MS 5000u
#define NUMBER_SIZE      24u

/* A lock number of our own: "mcpgwaud" */
#define LOCK_NUMBER "7882267362515318116"

const uint8_t audit_outbox_producer[UUID_SIZE] = { 0, 0, 0, 0, 0, 0, 0x70, 0, 0x80, 0, 0, 0, 0, 0, 0, 1 };

#define BATCH_COLUMNS \
    "producer, epoch, first_seq, last_seq, count, first_at, last_at, at, event, outcome, reason, request_id, user_id," \
    " tenant_id, auth_method, key_id, address, method, path, server, tool, status, latency_us, bytes, requests," \
    " details, keys, users, first_leaf"
#define CHECKPOINT_COLUMNS \
    "c.producer, c.epoch, c.size, c.next_seq, encode(c.peaks, 'hex'), (extract(epoch FROM c.signed_at) * 1000000)::bigint," \
    " encode(c.signature, 'hex')"

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
      " WHERE w.consumer_token <= EXCLUDED.consumer_token RETURNING next_seq, encode(head, 'hex'), size, encode(peaks, 'hex'),"
      " encode(signature, 'hex'), (extract(epoch FROM signed_at) * 1000000)::bigint" },
    { "insert",
      "WITH moved AS (UPDATE audit.watermark SET next_seq = $5::bigint, size = $32::bigint, head = $29::bytea,"
      " peaks = $30::bytea, signature = $31::bytea, signed_at = $7::timestamptz, updated = now()"
      " WHERE producer = $1::uuid AND epoch = $2::bigint AND next_seq = $3::bigint AND consumer_token = $4::bigint"
      " AND size = $32::bigint - cardinality($8::timestamptz[]) RETURNING 1)"
      " INSERT INTO audit.batch (" BATCH_COLUMNS ")"
      " SELECT $1::uuid, $2::bigint, $33::bigint, $5::bigint - 1, cardinality($8::timestamptz[]),"
      " $6::timestamptz, $7::timestamptz, $8::timestamptz[], $9::text[], $10::text[], $11::text[], $12::text[],"
      " $13::text[], $14::text[], $15::text[], $16::text[], $17::text[], $18::text[], $19::text[], $20::text[],"
      " $21::text[], $22::integer[], $23::bigint[], $24::bigint[], $25::bigint[], $26::text[], $27::text[], $28::text[],"
      " $32::bigint - cardinality($8::timestamptz[])"
      " FROM moved RETURNING 1" },
#ifdef SABOTAGE
    { "insert_unfenced",
      "WITH moved AS (UPDATE audit.watermark SET next_seq = $5::bigint, size = $32::bigint, head = $29::bytea,"
      " peaks = $30::bytea, signature = $31::bytea, signed_at = $7::timestamptz, updated = now()"
      " WHERE producer = $1::uuid AND epoch = $2::bigint AND ($3::bigint, $4::bigint) IS NOT NULL RETURNING 1)"
      " INSERT INTO audit.batch (" BATCH_COLUMNS ")"
      " SELECT $1::uuid, $2::bigint, $33::bigint, $5::bigint - 1, cardinality($8::timestamptz[]),"
      " $6::timestamptz, $7::timestamptz, $8::timestamptz[], $9::text[], $10::text[], $11::text[], $12::text[],"
      " $13::text[], $14::text[], $15::text[], $16::text[], $17::text[], $18::text[], $19::text[], $20::text[],"
      " $21::text[], $22::integer[], $23::bigint[], $24::bigint[], $25::bigint[], $26::text[], $27::text[], $28::text[],"
      " $32::bigint - cardinality($8::timestamptz[])"
      " FROM moved RETURNING 1" },
    { "move_apart",
      "UPDATE audit.watermark SET next_seq = $4::bigint, size = $5::bigint WHERE producer = $1::uuid AND epoch = $2::bigint"
      " AND next_seq = $3::bigint" },
    { "insert_apart",
      " INSERT INTO audit.batch (" BATCH_COLUMNS ")"
      " SELECT $1::uuid, $2::bigint, $33::bigint, $5::bigint - 1, cardinality($8::timestamptz[]),"
      " $6::timestamptz, $7::timestamptz, $8::timestamptz[], $9::text[], $10::text[], $11::text[], $12::text[],"
      " $13::text[], $14::text[], $15::text[], $16::text[], $17::text[], $18::text[], $19::text[], $20::text[],"
      " $21::text[], $22::integer[], $23::bigint[], $24::bigint[], $25::bigint[], $26::text[], $27::text[], $28::text[],"
      " $32::bigint - cardinality($8::timestamptz[])"
      " FROM (SELECT $3::bigint, $4::bigint, $29::bytea, $30::bytea, $31::bytea) unused RETURNING 1" },
#endif
    /* Numbers are taken under a row lock that is held to the commit, so a number that is seen has none unseen below it. */
    { "outbox",
      "SELECT sequence, (extract(epoch FROM at) * 1000000)::bigint, event, reason, request_id, actor_user_id,"
      " coalesce(actor_tenant_id, tenant_id), actor_key_id IS NOT NULL, coalesce(key_id, actor_key_id), address, server,"
      " (jsonb_strip_nulls(jsonb_build_object('source', source, 'keyId', key_id, 'actorKeyId', actor_key_id,"
      " 'subjectUserId', user_id, 'subjectTenantId', tenant_id))"
      " || CASE WHEN details IS NULL THEN '{}'::jsonb WHEN jsonb_typeof(details) = 'object' THEN details"
      " ELSE jsonb_build_object('details', details) END)::text"
      " FROM mcpgw.outbox WHERE sequence >= $1::bigint ORDER BY sequence LIMIT 1000" },
    { "close",
      "UPDATE audit.watermark SET closed = true WHERE producer = $1::uuid AND epoch = $2::bigint AND next_seq = $3::bigint"
      " AND consumer_token = $4::bigint AND NOT closed" },
    { "sweep", "SELECT audit.sweep($1::integer)" },
    { "count", "SELECT audit.count_usage($1::integer)" },
    { "checkpoint",
      "INSERT INTO audit.checkpoint AS c (producer, epoch, size, next_seq, peaks, signed_at, signature)"
      " SELECT w.producer, w.epoch, w.size, w.next_seq, w.peaks, w.signed_at, w.signature FROM audit.watermark w"
      " WHERE w.signature IS NOT NULL AND NOT EXISTS (SELECT FROM audit.checkpoint x"
      " WHERE x.producer = w.producer AND x.epoch = w.epoch AND x.size >= w.size) ON CONFLICT DO NOTHING"
      " RETURNING " CHECKPOINT_COLUMNS },
    { "recent_checkpoints",
      "SELECT DISTINCT ON (c.producer, c.epoch) " CHECKPOINT_COLUMNS " FROM audit.checkpoint c"
      " WHERE c.at > now() - interval '1 hour' ORDER BY c.producer, c.epoch, c.size DESC" },
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

/* Bytes of a cell in hex; false: it is NULL or has another size. */
static bool read_bytes(const PGresult *result, int column, uint8_t *bytes, size_t expected)
{
    const char *text = postgres_text(result, 0, column);
    size_t size = 0;

    return strlen(text) == 2 * expected && hex_decode(text, strlen(text), bytes, expected, &size) == ERR_OK;
}

static enum err read_tree(const PGresult *result, int row, int size_column, int peaks_column, struct merkle *ret_tree)
{
    const char *text = postgres_text(result, row, peaks_column);
    uint8_t peaks[MERKLE_PEAKS_MAX * DIGEST_SIZE];
    size_t size = 0;

    if (hex_decode(text, strlen(text), peaks, sizeof peaks, &size) != ERR_OK)
        return ERR_MALFORMED;
    return merkle_load(ret_tree, (uint64_t)postgres_i64(result, row, size_column), peaks, size);
}

enum err audit_store_read_claim(enum postgres_outcome outcome, PGresult *const *results, struct audit_mark *ret_mark)
{
    if (outcome != PG_DONE)
        return ERR_UNAVAILABLE;
    if (PQntuples(results[0]) == 0)
        return ERR_CONFLICT;
    *ret_mark = (struct audit_mark){ .next_seq = (uint64_t)postgres_i64(results[0], 0, 0) };
    ret_mark->has_head = read_bytes(results[0], 1, ret_mark->head, DIGEST_SIZE);
    ret_mark->is_forged = read_tree(results[0], 0, 2, 3, &ret_mark->tree) != ERR_OK;
    if (ret_mark->is_forged && postgres_i64(results[0], 0, 2) >= 0)
        ret_mark->tree.size = (uint64_t)postgres_i64(results[0], 0, 2);
    ret_mark->is_signed = read_bytes(results[0], 4, ret_mark->checkpoint.signature, SIGNATURE_SIZE);
    ret_mark->checkpoint.size = ret_mark->tree.size;
    ret_mark->checkpoint.next_seq = ret_mark->next_seq;
    ret_mark->checkpoint.time_us = (uint64_t)postgres_i64(results[0], 0, 5);
    merkle_root(&ret_mark->tree, ret_mark->checkpoint.root);
    return ERR_OK;
}

bool audit_store_read_checkpoint(const PGresult *result, int row, struct checkpoint *ret_checkpoint)
{
    struct checkpoint checkpoint = { .epoch = (uint64_t)postgres_i64(result, row, 1),
                                     .size = (uint64_t)postgres_i64(result, row, 2),
                                     .next_seq = (uint64_t)postgres_i64(result, row, 3),
                                     .time_us = (uint64_t)postgres_i64(result, row, 5) };
    const char *signature = postgres_text(result, row, 6);
    struct merkle tree;
    size_t size = 0;

    if (row >= PQntuples(result) || !uuid_parse(postgres_text(result, row, 0), checkpoint.producer)
        || read_tree(result, row, 2, 4, &tree) != ERR_OK
        || hex_decode(signature, strlen(signature), checkpoint.signature, SIGNATURE_SIZE, &size) != ERR_OK)
        return false;
    merkle_root(&tree, checkpoint.root);
    *ret_checkpoint = checkpoint;
    return true;
}

/* What proves the batch: parameters 29 to 33. */
static void step_proof(struct postgres_step *step, const struct audit_batch *batch, char size[NUMBER_SIZE],
                       char first[NUMBER_SIZE])
{
    const struct merkle *tree = columns_tree(batch->columns);
    const uint8_t *peaks = (const uint8_t *)tree->peaks;

    if (batch->place->has_head)
        step_bytes(step, batch->place->head, DIGEST_SIZE);
    else
        step_text(step, NULL);
    step_bytes(step, peaks, (size_t)merkle_peaks(tree->size) * DIGEST_SIZE);
    if (batch->checkpoint->key_id[0] != '\0')
        step_bytes(step, batch->checkpoint->signature, SIGNATURE_SIZE);
    else
        step_text(step, NULL);
    step_number(step, size, tree->size);
    step_number(step, first, columns_first_seq(batch->columns));
}

#ifdef SABOTAGE
static void on_noted(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count);

static void sabotage(struct audit_store *store, struct postgres_step *step)
{
    static char what[] = "move_apart";
    struct postgres_step move = { .statement = what };
    const int wanted[] = { 0, 1, 2, 4, 31 };

    if (lacks("fencing"))
        step->statement = "insert_unfenced";
    if (!lacks("transaction"))
        return;
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++)
        step_text(&move, step->values[wanted[i]]);
    step->statement = "insert_apart";
    (void)!postgres_call(store->postgres, &move, on_noted, what);
}
#else
#define sabotage(store, step) ((void)(store), (void)(step))
#endif

enum err audit_store_insert(struct audit_store *store, const struct audit_batch *batch, postgres_fn *fn, void *owner)
{
    struct postgres_step step = { .statement = "insert" };
    char producer[UUID_TEXT_SIZE], epoch[NUMBER_SIZE], old[NUMBER_SIZE], token[NUMBER_SIZE], next[NUMBER_SIZE];
    char size[NUMBER_SIZE], first[NUMBER_SIZE];
    uint8_t first_at[8], last_at[8];

    uuid_format(batch->place->producer, producer);
    step_text(&step, producer);
    step_number(&step, epoch, batch->place->epoch);
    step_number(&step, old, batch->place->next_seq);
    step_number(&step, token, batch->place->token);
    step_number(&step, next, columns_next_seq(batch->columns));
    columns_instant(columns_first_us(batch->columns), first_at);
    columns_instant(columns_last_us(batch->columns), last_at);
    step_bytes(&step, first_at, sizeof first_at);
    step_bytes(&step, last_at, sizeof last_at);
    for (enum column column = 0; column < COLUMNS; column++) {
        size_t bytes_size;
        const uint8_t *bytes = columns_array(batch->columns, column, &bytes_size);

        step_bytes(&step, bytes, bytes_size);
    }
    step_proof(&step, batch, size, first);
    sabotage(store, &step);
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

enum err audit_store_read_outbox(struct audit_store *store, uint64_t next_seq, postgres_fn *fn, void *owner)
{
    struct postgres_step step = { .statement = "outbox" };
    char number[NUMBER_SIZE];

    step_number(&step, number, next_seq);
    return postgres_call(store->postgres, &step, fn, owner);
}

bool audit_store_outbox_row(const PGresult *result, int row, struct columns_row *ret_row)
{
    if (row >= PQntuples(result))
        return false;
    *ret_row = (struct columns_row){
        .seq = (uint64_t)postgres_i64(result, row, 0), .time_us = (uint64_t)postgres_i64(result, row, 1),
        .event = postgres_text(result, row, 2), .reason = postgres_text(result, row, 3),
        .request_id = postgres_text(result, row, 4), .user_id = postgres_text(result, row, 5),
        .tenant_id = postgres_text(result, row, 6),
        .auth_method = postgres_flag(result, row, 7) ? AUTH_API_KEY : AUTH_NONE,
        .key_id = postgres_text(result, row, 8), .address = postgres_text(result, row, 9),
        .server = postgres_text(result, row, 10), .details = postgres_text(result, row, 11),
    };
    return true;
}

/* An outcome that only the log needs. */
static void on_noted(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    (void)count;
    (void)!read_outcome(outcome, results, owner);
}

enum err audit_store_close(struct audit_store *store, const struct audit_place *place)
{
    static char what[] = "close";
    struct postgres_step step = { .statement = what };
    char producer[UUID_TEXT_SIZE], epoch[NUMBER_SIZE], next[NUMBER_SIZE], token[NUMBER_SIZE];

    uuid_format(place->producer, producer);
    step_text(&step, producer);
    step_number(&step, epoch, place->epoch);
    step_number(&step, next, place->next_seq);
    step_number(&step, token, place->token);
    return postgres_call(store->postgres, &step, on_noted, what);
}

static enum err step_on(struct audit_store *store, const char *statement, postgres_fn *fn, void *owner)
{
    struct postgres_step step = { .statement = statement };
    char batches[NUMBER_SIZE];

    step_number(&step, batches, AUDIT_SWEEP_BATCHES);
    return postgres_call(store->postgres, &step, fn, owner);
}

enum err audit_store_sweep(struct audit_store *store, postgres_fn *fn, void *owner)
{
    return step_on(store, "sweep", fn, owner);
}

enum err audit_store_count(struct audit_store *store, postgres_fn *fn, void *owner)
{
    return step_on(store, "count", fn, owner);
}

enum err audit_store_checkpoint(struct audit_store *store, bool is_recent, postgres_fn *fn, void *owner)
{
    return postgres_call(store->postgres,
                         &(struct postgres_step){ .statement = is_recent ? "recent_checkpoints" : "checkpoint" }, fn, owner);
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
