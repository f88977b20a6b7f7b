/* tenants_store.h - all SQL about tenants; the changing ones as in keys_store.h. */
#ifndef KEYS_TENANTS_STORE_H
#define KEYS_TENANTS_STORE_H

#include "services/keys/keys_store.h"
#include "services/keys/tenants_rules.h"

/* One row; texts belong to the result, "" stands for NULL, 0 for no rule. */
struct tenant_row {
    const char *id, *slug, *name, *suspended_reason, *scopes, *key_prefix, *created_at, *updated_at, *etag;
    bool is_suspended, is_organization;
    int64_t max_life_s, max_keys, rotate_after_s, idle_after_s;
    int64_t limit_requests, limit_window_s, user_limit_requests, user_limit_window_s;
};

extern const struct postgres_statement tenants_statements[];

enum err store_load_tenant(struct store *store, const char *id, postgres_fn *fn, void *owner) MUST_CHECK;
/* id NULL: all.  The cursor is a slug. */
enum err store_list_tenants(struct store *store, const char *id, const struct page_query *query, postgres_fn *fn,
                            void *owner) MUST_CHECK;
enum err store_create_tenant(struct store *store, const struct store_actor *actor, const struct tenant_fields *fields,
                             postgres_fn *fn, void *owner) MUST_CHECK;
enum err store_update_tenant(struct store *store, const struct store_actor *actor, const struct tenant_fields *fields,
                             postgres_fn *fn, void *owner) MUST_CHECK;
enum err store_suspend_tenant(struct store *store, const struct store_actor *actor, bool is_suspended, postgres_fn *fn,
                              void *owner) MUST_CHECK;
/* Nothing happens while keys or servers are in it, or the organization exists. */
enum err store_delete_tenant(struct store *store, const struct store_actor *actor, postgres_fn *fn,
                             void *owner) MUST_CHECK;
bool store_read_tenant(const PGresult *rows, int row, struct tenant_row *ret_tenant);    /* false: no such row */

#endif
