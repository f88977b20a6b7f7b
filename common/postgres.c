/*
 * postgres.c - libpq in pipeline mode on the loop: one connection, a ring of calls in flight, reconnection.
 *
 * Segments: a call is [statement, sync]; a transaction is [BEGIN, steps, sync][COMMIT, sync].  COMMIT stands behind a
 * sync of its own so that it also runs after a refused step, where Postgres takes it as ROLLBACK (and its tag says so):
 * whatever the pipeline holds behind it never meets a failed transaction.  Nothing here is called from a callback's
 * way in: a connection found broken while sending is dropped from a timer, so callbacks never run inside a call.
 */
#include "common/postgres.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/encode.h"
#include "common/log.h"
#include "common/lookup.h"
#include "common/metrics.h"

#define CONNECT_US     5000000u    /* longest a connection attempt may take, all hosts of the URL together */
#define RETRY_MIN_MS   100u
#define RETRY_MAX_MS   2000u
#define TIMEOUT_MS     1000u       /* when the options say 0 */

enum state { STATE_DOWN, STATE_CONNECTING, STATE_PREPARING, STATE_UP };
enum call_kind { CALL_SETUP, CALL_PLAIN, CALL_TRANSACTION };

struct call {
    enum call_kind kind;
    postgres_fn *fn;
    void *owner;
    uint64_t sent_us;
    size_t count;                           /* steps; of a setup: statements sent */
    size_t next;                            /* results that have come */
    unsigned syncs;
    bool refused;
    PGresult *results[POSTGRES_STEPS_MAX];
};

struct postgres {
    struct loop *loop;
    struct postgres_options options;
    struct secret url;
    char host[LOOKUP_HOST];                 /* a name that is looked up before connecting; "": libpq sees to the host */
    struct lookup *lookup;
    struct lookup_addresses addresses;      /* what the name meant last */
    uint32_t timeout_ms;
    enum state state;
    bool doomed;                            /* to be dropped by a timer; takes no calls */
    bool complained;                        /* this outage is logged */
    PGconn *connection;
    int fd;                                 /* -1: none watched */
    uint64_t connecting_since_us;
    uint64_t progress_us;                   /* last result, or when the ring stopped being empty */
    uint32_t retry_ms;
    int check_timer, retry_timer, drop_timer;
    char why[256];                          /* of the next drop */
    size_t first, used;
    struct call ring[POSTGRES_QUEUE_MAX + 1];    /* one more for the setup */
};

static struct postgres *take_postgres(struct postgres **from)
{
    struct postgres *taken = *from;

    *from = NULL;
    return taken;
}

static void start_connecting(void *owner);
static void on_fd(void *owner, int fd, int events);

static void watch(struct postgres *postgres, int events)
{
    if (postgres->fd >= 0 && events == 0) {
        loop_forget_fd(postgres->loop, postgres->fd);
        postgres->fd = -1;
    }
    if (events == 0)
        return;
    postgres->fd = PQsocket(postgres->connection);
    if (loop_watch_fd(postgres->loop, postgres->fd, events, on_fd, postgres) != ERR_OK)
        postgres->doomed = true;    /* the check timer drops it */
}

static struct call *head(struct postgres *postgres)
{
    return &postgres->ring[postgres->first];
}

static void pop(struct postgres *postgres)
{
    postgres->first = (postgres->first + 1) % (POSTGRES_QUEUE_MAX + 1);
    postgres->used--;
}

static void clear_results(struct call *call)
{
    size_t held = call->kind == CALL_SETUP ? 0 : call->count;

    for (size_t i = 0; i < held; i++)
        PQclear(call->results[i]);
}

static void fail_calls(struct postgres *postgres)
{
    while (postgres->used > 0) {
        struct call call = *head(postgres);
        PGresult *const none[POSTGRES_STEPS_MAX] = { NULL };

        pop(postgres);
        clear_results(&call);
        if (call.kind == CALL_SETUP)
            continue;
        metric_add(METRIC_postgres_errors, 1);
        if (call.fn != NULL)
            call.fn(call.owner, PG_LOST, none, call.count);
    }
}

static void close_connection(struct postgres *postgres)
{
    if (postgres->state == STATE_UP)
        metric_add(METRIC_postgres_up, UINT64_MAX);    /* minus one */
    postgres->state = STATE_DOWN;
    postgres->doomed = false;
    watch(postgres, 0);
    PQfinish(postgres->connection);
    postgres->connection = NULL;
    loop_cancel(postgres->loop, postgres->drop_timer);
    postgres->drop_timer = 0;
    fail_calls(postgres);
}

/* Ends the connection, tells everyone who waits, and plans the next attempt. */
static void drop(struct postgres *postgres, const char *why)
{
    bool was_up = postgres->state == STATE_UP;
    uint32_t delay_ms = postgres->retry_ms / 2 + (uint32_t)(random_u64() % (postgres->retry_ms / 2 + 1));

    if (was_up || !postgres->complained)
        log_warn(was_up ? "postgres_lost" : "postgres_unreachable", log_text("why", why));
    postgres->complained = true;
    close_connection(postgres);
    if (was_up && postgres->options.on_state != NULL)
        postgres->options.on_state(postgres->options.owner, false);
    postgres->retry_ms = postgres->retry_ms * 2 > RETRY_MAX_MS ? RETRY_MAX_MS : postgres->retry_ms * 2;
    postgres->retry_timer = loop_after(postgres->loop, delay_ms, start_connecting, postgres);
}

static void drop_with_libpq_words(struct postgres *postgres)
{
    snprintf(postgres->why, sizeof postgres->why, "%s", PQerrorMessage(postgres->connection));
    postgres->why[strcspn(postgres->why, "\n")] = 0;
    drop(postgres, postgres->why);
}

static void on_drop_timer(void *owner)
{
    struct postgres *postgres = owner;

    postgres->drop_timer = 0;
    if (postgres->doomed)
        drop(postgres, postgres->why);
}

/* Takes no more calls from now on; the drop itself, with its callbacks, waits for the loop. */
static void doom(struct postgres *postgres, const char *why)
{
    if (postgres->doomed)
        return;
    postgres->doomed = true;
    if (why != postgres->why)
        snprintf(postgres->why, sizeof postgres->why, "%s", why);
    postgres->why[strcspn(postgres->why, "\n")] = 0;
    postgres->drop_timer = loop_after(postgres->loop, 0, on_drop_timer, postgres);
}

static void flush(struct postgres *postgres)
{
    int left = PQflush(postgres->connection);

    if (left < 0)
        doom(postgres, PQerrorMessage(postgres->connection));
    else
        watch(postgres, left == 0 ? LOOP_READ : LOOP_READ | LOOP_WRITE);
}

static struct call *push(struct postgres *postgres, enum call_kind kind, size_t count)
{
    struct call *call = &postgres->ring[(postgres->first + postgres->used) % (POSTGRES_QUEUE_MAX + 1)];

    memset(call, 0, sizeof *call);
    call->kind = kind;
    call->count = count;
    call->sent_us = clock_monotonic_us();
    if (postgres->used++ == 0)
        postgres->progress_us = call->sent_us;
    return call;
}

static bool send_plain(struct postgres *postgres, const char *sql)
{
    return PQsendQueryParams(postgres->connection, sql, 0, NULL, NULL, NULL, NULL, 0) == 1;
}

static bool send_listen(struct postgres *postgres, const char *channel)
{
    char *name = PQescapeIdentifier(postgres->connection, channel, strlen(channel));
    char sql[160];
    int size = name != NULL ? snprintf(sql, sizeof sql, "LISTEN %s", name) : -1;

    PQfreemem(name);
    return size > 0 && (size_t)size < sizeof sql && send_plain(postgres, sql);
}

/* One segment that makes the session ready: if any part of it is refused the connection is dropped. */
static bool send_setup(struct postgres *postgres)
{
    const struct postgres_statement own[] = { { "mcpgw_begin", "BEGIN" }, { "mcpgw_commit", "COMMIT" } };
    const struct postgres_statement *statement = postgres->options.statements;
    const char *const *channel = postgres->options.listen;
    char timeout[64];
    size_t count = 2;
    bool sent;

    snprintf(timeout, sizeof timeout, "SET statement_timeout = %u", postgres->timeout_ms);
    sent = send_plain(postgres, timeout) && send_plain(postgres, "SET jit = off");    /* it compiles for 300 ms what runs for one */
    for (size_t i = 0; sent && i < sizeof own / sizeof own[0]; i++, count++)
        sent = PQsendPrepare(postgres->connection, own[i].name, own[i].sql, 0, NULL) == 1;
    for (; sent && statement != NULL && statement->name != NULL; statement++, count++)
        sent = PQsendPrepare(postgres->connection, statement->name, statement->sql, 0, NULL) == 1;
    for (; sent && channel != NULL && *channel != NULL; channel++, count++)
        sent = send_listen(postgres, *channel);
    sent = sent && PQpipelineSync(postgres->connection) == 1;
    push(postgres, CALL_SETUP, count);
    return sent;
}

static void begin_session(struct postgres *postgres)
{
    postgres->state = STATE_PREPARING;
    if (PQsetnonblocking(postgres->connection, 1) != 0 || PQenterPipelineMode(postgres->connection) != 1
        || !send_setup(postgres)) {
        drop_with_libpq_words(postgres);
        return;
    }
    flush(postgres);
}

static void advance_connecting(struct postgres *postgres)
{
    PostgresPollingStatusType status;

    watch(postgres, 0);    /* PQconnectPoll may close this descriptor and open another */
    status = PQconnectPoll(postgres->connection);
    if (status == PGRES_POLLING_OK)
        begin_session(postgres);
    else if (status == PGRES_POLLING_FAILED)
        drop_with_libpq_words(postgres);
    else
        watch(postgres, status == PGRES_POLLING_READING ? LOOP_READ : LOOP_WRITE);
}

static void ignore_notice(void *owner, const PGresult *notice)
{
    (void)owner;
    (void)notice;
}

static void join(char *list, size_t size, const char *item)
{
    size_t length = strlen(list);

    snprintf(list + length, size - length, "%s%s", length > 0 ? "," : "", item);
}

static void connect_now(struct postgres *postgres)
{
    char hosts[LOOKUP_MAX * LOOKUP_HOST] = "", numbers[LOOKUP_MAX * sizeof postgres->addresses.texts[0]] = "";
    /* Before dbname: what the URL says wins.  Behind it: the addresses of its host, for libpq one host each. */
    const char *names[] = { "application_name", "tcp_user_timeout", "keepalives_idle", "gssencmode", "dbname",
                            "client_encoding", "host", "hostaddr", NULL };
    const char *const values[] = { postgres->options.application_name, "2000", "5", "disable",
                                   secret_text(&postgres->url), "UTF8", hosts, numbers, NULL };

    for (size_t i = 0; i < postgres->addresses.count; i++) {
        join(hosts, sizeof hosts, postgres->host);
        join(numbers, sizeof numbers, postgres->addresses.texts[i]);
    }
    if (postgres->addresses.count == 0)
        names[6] = NULL;
    postgres->connection = PQconnectStartParams(names, values, 1);
    postgres->state = STATE_CONNECTING;
    postgres->connecting_since_us = clock_monotonic_us();
    if (postgres->connection == NULL) {
        drop(postgres, "out of memory");
        return;
    }
    PQsetNoticeReceiver(postgres->connection, ignore_notice, NULL);
    if (PQstatus(postgres->connection) == CONNECTION_BAD)
        drop_with_libpq_words(postgres);
    else
        watch(postgres, LOOP_WRITE);
}

/* While no resolver answers, what it said last stands. */
static void on_addresses(void *owner, const struct lookup_addresses *found)
{
    struct postgres *postgres = owner;

    if (found->count > 0)
        postgres->addresses = *found;
    if (postgres->addresses.count > 0)
        connect_now(postgres);
    else
        drop(postgres, "the name of its host is not known");
}

static void start_connecting(void *owner)
{
    struct postgres *postgres = owner;

    postgres->retry_timer = 0;
    if (postgres->host[0] == 0)
        connect_now(postgres);
    else if (lookup_start(postgres->loop, postgres->host, on_addresses, postgres, &postgres->lookup) != ERR_OK)
        drop(postgres, "its host cannot be looked up");
}

static bool is_refusal(const PGresult *result)
{
    ExecStatusType status = PQresultStatus(result);

    return status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK;
}

/* Keeps the result of a step.  A commit that fails (deferred triggers) is told in the place of the last step. */
static void keep_result(struct call *call, PGresult *result)
{
    size_t begins = call->kind == CALL_TRANSACTION ? 1 : 0;
    size_t position = call->next++;
    bool refusal = is_refusal(result);

    if (PQresultStatus(result) == PGRES_PIPELINE_ABORTED || position < begins) {
        call->refused |= refusal;
        PQclear(result);
        return;
    }
    position -= begins;
    if (position >= call->count && !refusal) {
        /* COMMIT: in a failed transaction it rolls back, and its tag says so */
        call->refused |= strcmp(PQcmdStatus(result), "COMMIT") != 0;
        PQclear(result);
        return;
    }
    if (position >= call->count)
        position = call->count - 1;
    call->refused |= refusal;
    PQclear(call->results[position]);
    call->results[position] = result;
}

/* A server that has become a standby, or a pooler that lost our statements: another connection may do better. */
static bool needs_reconnection(const struct call *call)
{
    for (size_t i = 0; i < call->count; i++) {
        const char *state = postgres_sqlstate(call->results[i]);

        if (strcmp(state, "25006") == 0 || strcmp(state, "26000") == 0)
            return true;
    }
    return false;
}

static void finish_setup(struct postgres *postgres, const struct call *call)
{
    if (call->refused) {
        doom(postgres, postgres->why);
        return;
    }
    postgres->state = STATE_UP;
    postgres->retry_ms = RETRY_MIN_MS;
    postgres->complained = false;
    metric_add(METRIC_postgres_up, 1);
    log_info("postgres_connected", log_number("backend", PQbackendPID(postgres->connection)));
    if (postgres->options.on_state != NULL)
        postgres->options.on_state(postgres->options.owner, true);
}

static void finish_call(struct postgres *postgres)
{
    struct call call = *head(postgres);

    pop(postgres);
    if (call.kind == CALL_SETUP) {
        finish_setup(postgres, &call);
        return;
    }
    histogram_observe_us(HISTOGRAM_postgres_latency, clock_monotonic_us() - call.sent_us);
    if (call.refused) {
        metric_add(METRIC_postgres_errors, 1);
        if (needs_reconnection(&call))
            doom(postgres, "the server refuses what this connection needs");
    }
    if (call.fn != NULL)
        call.fn(call.owner, call.refused ? PG_REFUSED : PG_DONE, call.results, call.count);
    clear_results(&call);
}

static void take_result(struct postgres *postgres, PGresult *result)
{
    struct call *call = head(postgres);

    postgres->progress_us = clock_monotonic_us();
    if (PQresultStatus(result) == PGRES_PIPELINE_SYNC) {
        PQclear(result);
        call->syncs++;
        if (call->syncs == (call->kind == CALL_TRANSACTION ? 2u : 1u))
            finish_call(postgres);
        return;
    }
    if (call->kind != CALL_SETUP) {
        keep_result(call, result);
        return;
    }
    if (is_refusal(result)) {
        if (!call->refused)
            snprintf(postgres->why, sizeof postgres->why, "setup: %s", PQresultErrorMessage(result));
        call->refused = true;
    }
    PQclear(result);
}

/* Every result of a statement is followed by NULL; two in a row mean that libpq and the ring disagree. */
static void take_results(struct postgres *postgres)
{
    unsigned nulls = 0;

    while (postgres->used > 0 && !postgres->doomed && !PQisBusy(postgres->connection)) {
        PGresult *result = PQgetResult(postgres->connection);

        if (result != NULL) {
            nulls = 0;
            take_result(postgres, result);
        } else if (++nulls > 2) {
            doom(postgres, "results do not match the calls");
        }
    }
}

static void take_notifications(struct postgres *postgres)
{
    PGnotify *notification;

    while ((notification = PQnotifies(postgres->connection)) != NULL) {
        if (postgres->options.on_notify != NULL)
            postgres->options.on_notify(postgres->options.owner, notification->relname, notification->extra);
        PQfreemem(notification);
    }
}

static void on_fd(void *owner, int fd, int events)
{
    struct postgres *postgres = owner;
    bool alive = true;

    (void)fd;
    if (postgres->state == STATE_CONNECTING) {
        advance_connecting(postgres);
        return;
    }
    if (postgres->doomed)
        return;
    if ((events & LOOP_READ) != 0)
        alive = PQconsumeInput(postgres->connection) == 1;
    take_results(postgres);    /* also what came before the end of the connection */
    take_notifications(postgres);
    if (!alive || PQstatus(postgres->connection) == CONNECTION_BAD)
        drop_with_libpq_words(postgres);
    else
        flush(postgres);
}

static void on_check(void *owner)
{
    struct postgres *postgres = owner;
    uint64_t now_us = clock_monotonic_us();

    if (postgres->doomed && postgres->drop_timer == 0)
        drop(postgres, "no descriptor can be watched");
    else if (postgres->state == STATE_DOWN && postgres->retry_timer == 0 && postgres->lookup == NULL)
        start_connecting(postgres);
    else if (postgres->state == STATE_CONNECTING && now_us - postgres->connecting_since_us > CONNECT_US)
        drop(postgres, "connecting took too long");
    else if (postgres->used > 0 && now_us - postgres->progress_us > 2000u * (uint64_t)postgres->timeout_ms)
        drop(postgres, "no result in time");
}

/* The host's name if it is one name; several are left to libpq, which looks them up while the loop waits. */
static void find_host(struct postgres *postgres)
{
    PQconninfoOption *options = PQconninfoParse(secret_text(&postgres->url), NULL);
    const char *host = "", *address = "";

    for (const PQconninfoOption *option = options; option != NULL && option->keyword != NULL; option++) {
        if (option->val != NULL && strcmp(option->keyword, "host") == 0)
            host = option->val;
        if (option->val != NULL && strcmp(option->keyword, "hostaddr") == 0)
            address = option->val;
    }
    if (address[0] == 0 && lookup_is_needed(host) && strchr(host, ',') == NULL && strlen(host) < sizeof postgres->host)
        snprintf(postgres->host, sizeof postgres->host, "%s", host);
    PQconninfoFree(options);
}

enum err postgres_new(struct loop *loop, const struct postgres_options *options, struct postgres **ret_postgres)
{
    OWNED(postgres_destroy) struct postgres *postgres = calloc(1, sizeof *postgres);
    uint32_t check_ms;

    if (postgres == NULL)
        return ERR_NO_MEMORY;
    postgres->loop = loop;
    postgres->fd = -1;
    postgres->options = *options;
    postgres->url = *options->url;
    postgres->timeout_ms = options->timeout_ms > 0 ? options->timeout_ms : TIMEOUT_MS;
    postgres->retry_ms = RETRY_MIN_MS;
    find_host(postgres);
    check_ms = postgres->timeout_ms / 4 < 10 ? 10 : postgres->timeout_ms / 4;
    postgres->check_timer = loop_every(loop, check_ms > 250 ? 250 : check_ms, on_check, postgres);
    postgres->retry_timer = loop_after(loop, 0, start_connecting, postgres);
    if (postgres->check_timer == 0 || postgres->retry_timer == 0)
        return ERR_OVERLOADED;
    *ret_postgres = take_postgres(&postgres);
    return ERR_OK;
}

void postgres_destroy(struct postgres **postgres)
{
    if (*postgres == NULL)
        return;
    loop_cancel((*postgres)->loop, (*postgres)->check_timer);
    loop_cancel((*postgres)->loop, (*postgres)->retry_timer);
    lookup_cancel(&(*postgres)->lookup);
    close_connection(*postgres);
    secret_wipe(&(*postgres)->url);
    free(*postgres);
    *postgres = NULL;
}

bool postgres_is_connected(const struct postgres *postgres)
{
    return postgres->state == STATE_UP && !postgres->doomed;
}

static enum err may_call(const struct postgres *postgres)
{
    if (!postgres_is_connected(postgres))
        return ERR_UNAVAILABLE;
    return postgres->used < POSTGRES_QUEUE_MAX ? ERR_OK : ERR_OVERLOADED;
}

static bool send_named(struct postgres *postgres, const char *name)
{
    return PQsendQueryPrepared(postgres->connection, name, 0, NULL, NULL, NULL, 0) == 1;
}

static bool send_step(struct postgres *postgres, const struct postgres_step *step)
{
    return PQsendQueryPrepared(postgres->connection, step->statement, step->count, step->values, step->lengths,
                               step->formats, step->result_format) == 1;
}

/* Half a segment cannot be taken back: the connection goes, and the server forgets what it got. */
static enum err sent_half(struct postgres *postgres)
{
    doom(postgres, PQerrorMessage(postgres->connection));
    return ERR_UNAVAILABLE;
}

enum err postgres_call(struct postgres *postgres, const struct postgres_step *step, postgres_fn *fn, void *owner)
{
    enum err err = may_call(postgres);
    struct call *call;

    if (err != ERR_OK)
        return err;
    if (!send_step(postgres, step) || PQpipelineSync(postgres->connection) != 1)
        return sent_half(postgres);
    call = push(postgres, CALL_PLAIN, 1);
    call->fn = fn;
    call->owner = owner;
    metric_add(METRIC_postgres_calls, 1);
    flush(postgres);
    return ERR_OK;
}

enum err postgres_transaction(struct postgres *postgres, const struct postgres_step *steps, size_t count,
                              postgres_fn *fn, void *owner)
{
    enum err err = may_call(postgres);
    struct call *call;
    bool sent;

    if (err != ERR_OK)
        return err;
    if (count == 0 || count > POSTGRES_STEPS_MAX)
        return ERR_BUG;
    sent = send_named(postgres, "mcpgw_begin");
    for (size_t i = 0; sent && i < count; i++)
        sent = send_step(postgres, &steps[i]);
    if (!sent || PQpipelineSync(postgres->connection) != 1 || !send_named(postgres, "mcpgw_commit")
        || PQpipelineSync(postgres->connection) != 1)
        return sent_half(postgres);
    call = push(postgres, CALL_TRANSACTION, count);
    call->fn = fn;
    call->owner = owner;
    metric_add(METRIC_postgres_calls, 1);
    flush(postgres);
    return ERR_OK;
}

static bool has_cell(const PGresult *result, int row, int column)
{
    return result != NULL && row >= 0 && row < PQntuples(result) && column >= 0 && column < PQnfields(result)
        && !PQgetisnull(result, row, column);
}

const char *postgres_text(const PGresult *result, int row, int column)
{
    return has_cell(result, row, column) ? PQgetvalue(result, row, column) : "";
}

bool postgres_flag(const PGresult *result, int row, int column)
{
    const char *text = postgres_text(result, row, column);

    return text[0] == 't' || (has_cell(result, row, column) && PQfformat(result, column) == 1 && text[0] == 1);
}

int64_t postgres_i64(const PGresult *result, int row, int column)
{
    const unsigned char *bytes = (const unsigned char *)postgres_text(result, row, column);
    uint64_t value = 0;
    int length;

    if (!has_cell(result, row, column))
        return 0;
    if (PQfformat(result, column) == 0)
        return strtoll((const char *)bytes, NULL, 10);
    length = PQgetlength(result, row, column);
    if (length != 2 && length != 4 && length != 8)
        return 0;
    if ((bytes[0] & 0x80) != 0)
        value = UINT64_MAX;    /* int2 and int4 are widened with their sign */
    for (int i = 0; i < length; i++)
        value = value << 8 | bytes[i];
    return (int64_t)value;
}

const char *postgres_sqlstate(const PGresult *result)
{
    const char *state = result != NULL ? PQresultErrorField(result, PG_DIAG_SQLSTATE) : NULL;

    return state != NULL ? state : "";
}

DEFINE_DESTROY(connection_destroy, PGconn, PQfinish)

enum err postgres_run_script(const struct secret *url, const char *sql, char *reterr, size_t reterr_size)
{
    OWNED(connection_destroy) PGconn *connection = PQconnectdb(secret_text(url));
    OWNED(result_destroy) PGresult *result = NULL;

    if (PQstatus(connection) != CONNECTION_OK) {
        snprintf(reterr, reterr_size, "%s", PQerrorMessage(connection));
        return ERR_UNAVAILABLE;
    }
    PQsetNoticeReceiver(connection, ignore_notice, NULL);
    result = PQexec(connection, sql);
    if (PQresultStatus(result) != PGRES_EMPTY_QUERY && is_refusal(result)) {
        snprintf(reterr, reterr_size, "%s", PQerrorMessage(connection));
        return ERR_UNAVAILABLE;
    }
    return ERR_OK;
}
