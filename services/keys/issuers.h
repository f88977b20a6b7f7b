/*
 * issuers.h - keeps the key sets of the configured issuers fresh in Postgres (mcpgw.issuer_keys).
 *
 * Sets are fetched when they are due and when authz notifies mcpgw_issuer_wanted with the issuer's name, by the one keys
 * process that may set attempted_at, and never sooner than cooldown_s after the last attempt, failed or not.  A set
 * replaces the last good one only when it holds a usable key; without a success for keep_s the last good one is dropped.
 */
#ifndef KEYS_ISSUERS_H
#define KEYS_ISSUERS_H

#include <stdbool.h>

#include "common/fetch.h"
#include "common/issuers.h"
#include "common/loop.h"
#include "common/postgres.h"
#include "common/secret.h"

struct issuer_keeper;

struct issuer_keeper_options {
    struct loop *loop;
    const struct secret *database_url;
    const struct issuers *issuers;             /* outlive the keeper */
    const char *instance;
    struct fetcher_options fetch;              /* flight_max and body_max are chosen here */
    uint64_t fetch_ms;                         /* deadline of one request */
    void (*on_health)(void *owner, bool all_have_keys);
    void *owner;
};

/* ERR_UNPROCESSABLE: fetch.ca_file cannot be read. */
enum err issuer_keeper_new(const struct issuer_keeper_options *options, struct issuer_keeper **ret_keeper) MUST_CHECK;
void issuer_keeper_destroy(struct issuer_keeper **keeper);

/* One row per issuer that was ever asked, in no order; read with issuer_row_read(). */
enum err issuer_keeper_load(struct issuer_keeper *keeper, bool with_sets, postgres_fn *fn, void *owner) MUST_CHECK;

struct issuer_row {                            /* texts belong to the result; "" stands for NULL */
    const char *name, *issuer, *jwks, *jwks_url, *fetched_at, *due_at, *attempted_at, *failed_at, *last_error;    /* RFC 3339 */
    int64_t key_count, failures, fetched_s;    /* fetched_s: Unix time, 0 for never */
};
bool issuer_row_read(const PGresult *rows, int row, struct issuer_row *ret_row);    /* false: no such row */

#endif
