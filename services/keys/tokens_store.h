/* tokens_store.h - all SQL about tokens that were ended.  The changing ones as in keys_store.h. */
#ifndef KEYS_TOKENS_STORE_H
#define KEYS_TOKENS_STORE_H

#include "services/keys/keys_store.h"
#include "services/keys/tokens_rules.h"

/* Texts belong to the result, "" stands for NULL. */
struct ended_token_row {
    const char *name, *kind, *issuer, *value, *issued_before, *expires_at, *at, *created_by, *reason, *cursor;
};

extern const struct postgres_statement tokens_statements[];

/* The object afterwards is the row; none: its times are not possible. */
enum err store_end_token(struct store *store, const struct store_actor *actor, const struct token_end_fields *fields,
                         postgres_fn *fn, void *owner) MUST_CHECK;
enum err store_restore_token(struct store *store, const struct store_actor *actor, postgres_fn *fn, void *owner) MUST_CHECK;
enum err store_list_ended_tokens(struct store *store, const struct page_query *query, postgres_fn *fn, void *owner) MUST_CHECK;
bool store_read_ended_token(const PGresult *rows, int row, struct ended_token_row *ret_row);    /* false: no such row */

#endif
