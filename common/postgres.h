/*
 * postgres.h - one asynchronous Postgres connection on a loop, in pipeline mode, that reconnects by itself.
 *
 * Statements are declared in a table and prepared on every connection.  While there is no connection, calls fail at
 * once with ERR_UNAVAILABLE; callbacks of requests that were in flight get PG_LOST.  Never blocks.
 */
#ifndef COMMON_POSTGRES_H
#define COMMON_POSTGRES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <libpq-fe.h>

#include "common/cleanup.h"
#include "common/error.h"
#include "common/loop.h"
#include "common/secret.h"

DEFINE_DESTROY(result_destroy, PGresult, PQclear)

struct postgres;

struct postgres_statement {
    const char *name;       /* NULL ends the table */
    const char *sql;        /* $1..$n */
};

struct postgres_options {
    const struct secret *url;                     /* libpq connection URL or key=value string */
    const struct postgres_statement *statements;
    const char *application_name;
    uint32_t timeout_ms;                          /* of a statement; no result in twice that: connection lost */
    const char *const *listen;                    /* NULL-terminated channel names, or NULL */
    void (*on_notify)(void *owner, const char *channel, const char *payload);
    void (*on_state)(void *owner, bool connected);    /* after connect (statements prepared) and after loss */
    void *owner;
};

/* Outcome of a call, also for each step of a transaction. */
enum postgres_outcome {
    PG_DONE,        /* `result` is PGRES_TUPLES_OK or PGRES_COMMAND_OK */
    PG_REFUSED,     /* the server refused it: `result` has SQLSTATE (PQresultErrorField); nothing has changed */
    PG_LOST         /* connection lost or timed out: whether it took effect is unknown; result NULL */
};

/* Results belong to the layer and end with the callback.  `results` has as many entries as the call had steps (those
 * behind a refused step are NULL). */
typedef void postgres_fn(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count);

#define POSTGRES_PARAMS_MAX 40
#define POSTGRES_STEPS_MAX  10
#define POSTGRES_QUEUE_MAX  1024    /* calls in flight; beyond: ERR_OVERLOADED */

struct postgres_step {
    const char *statement;                         /* name in the table */
    int count;                                     /* of parameters, all as text unless formats say 1 */
    const char *values[POSTGRES_PARAMS_MAX];       /* copied before the call returns; NULL is SQL NULL */
    int lengths[POSTGRES_PARAMS_MAX];              /* for binary ones */
    int formats[POSTGRES_PARAMS_MAX];
    int result_format;                             /* 0 text, 1 binary */
};

enum err postgres_new(struct loop *loop, const struct postgres_options *options,
                      struct postgres **ret_postgres) MUST_CHECK;
void postgres_destroy(struct postgres **postgres);    /* callbacks in flight are called with PG_LOST */
bool postgres_is_connected(const struct postgres *postgres);

/* One statement, autocommitted. */
enum err postgres_call(struct postgres *postgres, const struct postgres_step *step,
                       postgres_fn *fn, void *owner) MUST_CHECK;
/* BEGIN, the steps, COMMIT, sent in one go; a refused step rolls all back.  PG_DONE means committed.  A COMMIT that is
 * refused (deferred constraints) tells its SQLSTATE in the place of the last step's result. */
enum err postgres_transaction(struct postgres *postgres, const struct postgres_step *steps, size_t count,
                              postgres_fn *fn, void *owner) MUST_CHECK;

/* Text of a cell; "" when NULL or out of range. */
const char *postgres_text(const PGresult *result, int row, int column);
bool postgres_flag(const PGresult *result, int row, int column);          /* "t" */
int64_t postgres_i64(const PGresult *result, int row, int column);        /* 0 when NULL */
const char *postgres_sqlstate(const PGresult *result);                    /* "" when none */

/* Synchronous, for start-up only (migrations): runs a script; ERR_UNAVAILABLE with the server's words in reterr. */
enum err postgres_run_script(const struct secret *url, const char *sql, char *reterr, size_t reterr_size) MUST_CHECK;

#endif
