/*
 * keys_store.h - all SQL of the keys service: statements, transactions, and how their rows are read.
 *
 * Every changing call is one transaction: who acts, the request id's claim, the statements (which do nothing unless the
 * claim is ours), the triggers, the change number, and the object as it is then.
 */
#ifndef KEYS_KEYS_STORE_H
#define KEYS_KEYS_STORE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "common/loop.h"
#include "common/postgres.h"
#include "common/secret.h"
#include "services/keys/keys_rules.h"

struct store;

struct store_options {
    const struct secret *url;
    void (*on_change)(void *owner);                   /* mcpgw_change was notified */
    void (*on_state)(void *owner, bool connected);
    void *owner;
};

enum err store_new(struct loop *loop, const struct store_options *options, struct store **ret_store) MUST_CHECK;
void store_destroy(struct store **store);
bool store_is_connected(const struct store *store);

/* Who makes a change and under which request id; all texts outlive the call. */
struct store_actor {
    const char *event;             /* key.created, ... */
    uint64_t operation;
    const char *user_id, *key_id, *tenant_id, *request_id, *address, *reason;
    const char *fingerprint;       /* of the whole request: the same id with another one is refused */
    const char *claim_id;          /* which use of an id this is: the request id, or what Idempotency-Key says */
    const char *if_match;          /* tags, with commas between, one of which the object must have; NULL: any */
    const char *attempt;           /* made anew for every attempt: tells the first effect from a repetition */
    const char *object;            /* id or slug */
};

/* One row of a key; texts belong to the result, "" stands for NULL. */
struct key_row {
    const char *id, *name, *start, *prefix, *permissions, *metadata;
    const char *expires_at, *created_at, *updated_at, *last_used_at, *revoked_at, *revoked_reason,
        *created_by; /* RFC 3339 */
    const char *cursor;
    const char *addresses, *servers, *tools, *environment;     /* lists as JSON, "" for no limit */
    const char *etag;              /* another one after every change that people see; without quotes */
    bool has_rate;
    int64_t rate_max, rate_window_ms;
    struct key_facts facts;
};
struct server_row {
    const char *slug, *url, *name, *tenant_id, *created_at, *updated_at;
    bool enabled;
    const char *upstream_auth, *resource, *enforce, *etag;
    bool second_factor;
};
/* What a changing transaction left. */
struct store_effect {
    uint64_t sequence;             /* the newest change number in it: its own, if it changed anything */
    bool is_repeat;                /* the request id had been used before, by the same request */
    bool is_foreign;               /* ... by another request: nothing was done */
    bool is_unmatched;             /* the object has none of the tags: nothing was done */
    char object[129];              /* what the first call made */
};
struct store_request {             /* an earlier use of the request id */
    bool is_known;
    uint64_t operation;
    const char *fingerprint, *object;
};
struct store_subject {
    bool is_user, is_banned, is_organization;
    bool is_member;                /* of the tenant that was asked for, or that organization itself */
    uint64_t organization_count;
    const char *organization_id;
};
struct change_row {
    uint64_t sequence, kind;
    const char *key_id, *user_id, *tenant_id, *server;
};

/* ---- reading; results as said at each ---------------------------------------------------------- */

/* [0] store_read_request, [1] store_read_key, [2] store_read_subject of the caller */
enum err store_load_key(struct store *store, const struct store_actor *actor, postgres_fn *fn, void *owner) MUST_CHECK;
/* The owner of a key that is to be made, and whether they belong to that organization. */
enum err store_load_subject(struct store *store, const char *reference_id, const char *tenant_id, postgres_fn *fn,
                            void *owner) MUST_CHECK;
/* What the caller is in their tenant, and the key that makes the call ("": none): store_read_standing. */
enum err store_load_standing(struct store *store, const struct caller *caller, const char *key_id, postgres_fn *fn,
                             void *owner) MUST_CHECK;
/* What the caller may see; rows of store_read_key. */
enum err store_list_keys(struct store *store, const struct caller *caller, const struct page_query *query,
                         postgres_fn *fn, void *owner) MUST_CHECK;
/* At most two rows: a digest stored twice belongs to nobody. */
enum err store_find_digest(struct store *store, const char *digest, postgres_fn *fn, void *owner) MUST_CHECK;
/* [0] store_read_request, [1] store_read_server */
enum err store_load_server(struct store *store, const struct store_actor *actor, postgres_fn *fn,
                           void *owner) MUST_CHECK;
/* tenant_id NULL: all */
enum err store_list_servers(struct store *store, const char *tenant_id, const struct page_query *query, postgres_fn *fn,
                            void *owner) MUST_CHECK;
/* value, triggers present, outbox rows, keys, servers */
enum err store_status(struct store *store, postgres_fn *fn, void *owner) MUST_CHECK;

/* ---- changing ---------------------------------------------------------------------------------- */

struct key_creation {
    const struct key_fields *fields;
    const char *permissions, *start, *prefix, *digest, *reference_id;
    const char *tenant_id;         /* NULL: none of its own */
    const char *ruling_tenant;     /* whose policy says how many there may be; SQLSTATE STORE_TOO_MANY_KEYS */
};
#define STORE_TOO_MANY_KEYS "MG001"
enum err store_create_key(struct store *store, const struct store_actor *actor, const struct key_creation *creation,
                          postgres_fn *fn, void *owner) MUST_CHECK;
struct key_update {
    const struct key_fields *fields;
    const char *permissions;
    const char *ruling_tenant;     /* as above: an expired key that lives again is one more */
};
enum err store_update_key(struct store *store, const struct store_actor *actor, const struct key_update *update,
                          postgres_fn *fn, void *owner) MUST_CHECK;
enum err store_enable_key(struct store *store, const struct store_actor *actor, bool enabled, postgres_fn *fn,
                          void *owner) MUST_CHECK;
enum err store_revoke_key(struct store *store, const struct store_actor *actor, postgres_fn *fn,
                          void *owner) MUST_CHECK;
enum err store_delete_key(struct store *store, const struct store_actor *actor, postgres_fn *fn,
                          void *owner) MUST_CHECK;
enum err store_create_server(struct store *store, const struct store_actor *actor, const struct server_fields *fields,
                             postgres_fn *fn, void *owner) MUST_CHECK;
enum err store_update_server(struct store *store, const struct store_actor *actor, const struct server_fields *fields,
                             postgres_fn *fn, void *owner) MUST_CHECK;
enum err store_delete_server(struct store *store, const struct store_actor *actor, postgres_fn *fn,
                             void *owner) MUST_CHECK;
/* One number: batches of the trail that were counted, STORE_SETTLE_BATCHES when there may be more. */
#define STORE_SETTLE_BATCHES 16
enum err store_settle_uses(struct store *store, const char *limits, postgres_fn *fn, void *owner) MUST_CHECK;
/* Key sets of issuers that are not among these names (commas between) are not to be used any more. */
enum err store_drop_issuers(struct store *store, const char *names, postgres_fn *fn, void *owner) MUST_CHECK;
enum err store_prune(struct store *store, postgres_fn *fn, void *owner) MUST_CHECK;

/* Of a changing transaction's results. */
void store_read_effect(PGresult *const *results, size_t count, const struct store_actor *actor,
                       struct store_effect *ret_effect);
const PGresult *store_object_rows(PGresult *const *results,
                                  size_t count); /* the object afterwards: no row when it is gone */

bool store_read_key(const PGresult *rows, int row, struct key_row *ret_key);          /* false: no such row */
bool store_read_server(const PGresult *rows, int row, struct server_row *ret_server);
/* Did the first statement behind the claim change a row? */
bool store_has_changed(PGresult *const *results, const struct store_actor *actor);
/* May a change of this kind be bound to tags? */
bool store_takes_tags(uint64_t operation);
void store_read_request(const PGresult *rows, struct store_request *ret_request);
void store_read_standing(const PGresult *rows, struct standing *ret_standing);
void store_read_subject(const PGresult *rows, struct store_subject *ret_subject);

/* ---- the feed ---------------------------------------------------------------------------------- */

#define STORE_CHANGES_MAX 256u
/* store_read_sequence and store_read_change of one snapshot: at most STORE_CHANGES_MAX changes after `since`, in order. */
enum err store_read_changes_after(struct store *store, uint64_t since, postgres_fn *fn, void *owner) MUST_CHECK;
uint64_t store_read_sequence(const PGresult *rows);
bool store_read_change(const PGresult *rows, int row, struct change_row *ret_change);
#define STORE_SERVERS_MAX 100u
/* store_read_sequence, and at most STORE_SERVERS_MAX + 1 rows of store_read_page_server, of one snapshot. */
enum err store_load_servers_page(struct store *store, const char *after, postgres_fn *fn, void *owner) MUST_CHECK;
bool store_read_page_server(const PGresult *rows, int row, struct server_row *ret_server);

#endif
