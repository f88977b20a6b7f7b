/* import_store.h - all SQL of an import; its rows travel as one JSON array, so that they are stored by one statement. */
#ifndef KEYS_IMPORT_STORE_H
#define KEYS_IMPORT_STORE_H

#include "services/keys/keys_store.h"

/* What the database says of a row: the same members, by their places. */
struct import_fact {
    bool has_owner, is_organization, is_ambiguous, is_known;
    int64_t row;
};

extern const struct postgres_statement import_statements[];

/* `rows`: [{"n","id","owner","tenant","stored","name","start","prefix","enabled","rateMax","rateMs","expiresIn","expiresAt",
 * "permissions","metadata"}] as text. */
enum err store_check_import(struct store *store, const char *rows, postgres_fn *fn, void *owner) MUST_CHECK;
bool store_read_import_fact(const PGresult *rows, int row, struct import_fact *ret_fact);
/* All of them, or a refusal. */
enum err store_import(struct store *store, const struct store_actor *actor, const char *rows, postgres_fn *fn,
                      void *owner) MUST_CHECK;

#endif
