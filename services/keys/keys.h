/*
 * keys.h - the keys service: manages keys, servers and their tables, answers edges what has changed.
 * Owns: schema/, the calls in work, the feed.  Never sees a presented key, and keeps no key's value.
 */
#ifndef KEYS_KEYS_H
#define KEYS_KEYS_H

#include <stdbool.h>
#include <stdint.h>

#include "common/bus.h"
#include "common/config.h"
#include "common/encode.h"
#include "common/service.h"
#include "services/keys/bulk_rules.h"
#include "services/keys/entries.h"
#include "services/keys/feed.h"
#include "services/keys/issuers.h"
#include "services/keys/key_bounds.h"
#include "services/keys/keys_json.h"
#include "services/keys/keys_rules.h"
#include "services/keys/keys_store.h"
#include "services/keys/tenants_rules.h"
#include "services/keys/tokens_rules.h"

struct keys_config {
    struct common_config common;
#define SETTING(type, name, fallback, min, max, meaning) SETTING_MEMBER_##type(name, max)
#include "services/keys/config.def"
};

#define KEYS_PENDING_MAX 256u     /* calls in work; beyond: 503 */
#define KEYS_ID_SIZE     33       /* 32 letters and digits, as Better-Auth makes them */
#define KEYS_BODY_MAX    64000u   /* manage_reply.body */

struct keys;

/* One call of the management API in work. */
struct pending {
    struct pending *next;             /* free list */
    struct keys *keys;
    struct bus_token token;
    uint64_t operation;
    char user_id[65], tenant_id[81], key_id[65], request_id[65], address[47], object[129];
    uint64_t scopes;
    enum authority authority;
    struct key_bounds bounds;         /* of the key that makes the call, where the operation wants them */
    json_t *asked;                    /* body and query, while the caller's standing is looked up; then a handler's own */
    char *asked_query;
    char claim_id[144];               /* of an Idempotency-Key; "": there is none */
    char if_match[256];
    char reason[KEYS_REASON_MAX + 1];
    char attempt[KEYS_ID_SIZE], fingerprint[DIGEST_TEXT_SIZE];
    struct store_actor actor;         /* points into the above */
    union {
        struct key_fields key;
        struct server_fields server;
        struct tenant_fields tenant;
        struct bulk_fields bulk;
        struct token_end_fields token_end;
        bool import_is_dry_run;
        struct page_query page;
        uint64_t overlap_s;           /* of a rotation */
    } in;
    char reference_id[65];            /* whose key a create makes */
    char tenant[81];                  /* "": none of its own */
    char ruling_tenant[81];           /* whose policy rules a create or update */
    char key_prefix[APIKEY_PREFIX_MAX + 1];    /* of the key that is made */
    char after[65];                   /* servers_request */
    struct secret made;               /* the new key, until it is in the body */
    char *presented;                  /* a token to be explained; erased with the call */
    size_t presented_size;
    char presented_for[65];           /* slug; "": any resource */
    uint64_t sequence, status;        /* of the answer that waits for acknowledgements */
    json_t *body;
};

struct keys {
    const struct keys_config *config;
    struct loop *loop;
    struct ops *ops;
    struct bus *bus;
    struct store *store;
    struct feeder *feed;
    const struct issuers *issuers;
    struct issuer_keeper *keeper;     /* NULL: no issuer is configured */
    struct pending *free;
    uint32_t pending_count;
    bool is_draining, has_dropped_issuers;
    struct settler *settler;
    struct entries *entries;          /* NULL: Better-Auth keeps no keys in Redis */
    int prune_timer, prune_soon, life_timer, life_soon;
    struct pending pending[KEYS_PENDING_MAX];
};

extern const struct setting keys_settings[];
extern const size_t keys_settings_count;
extern const struct bus_handler keys_handlers[];
extern const struct service_type keys_service;

/* keys_bootstrap.c: the subcommands. */
void bootstrap_take_options(int *argc, char **argv);
int bootstrap_run(const void *config);
int migrate_command(const void *config);

/* NULL: KEYS_PENDING_MAX calls are in work. */
struct pending *pending_take(struct keys *keys);
void pending_release(struct pending *pending);
/* 32 letters and digits of the kernel's generator. */
void keys_make_id(char id[KEYS_ID_SIZE]);

#endif
