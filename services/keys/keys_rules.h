/*
 * keys_rules.h - what a management call may contain and who may make it: pure functions over parsed JSON and texts.
 * No clock, socket, database or log.
 */
#ifndef KEYS_KEYS_RULES_H
#define KEYS_KEYS_RULES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "common/error.h"
#include "common/message.h"
#include "common/operation.h"
#include "services/keys/keys_reach.h"

#define KEYS_NAME_MAX        32u            /* characters; Better-Auth's own limit */
#define KEYS_NAME_SIZE       (KEYS_NAME_MAX * 4 + 1)
#define KEYS_METADATA_MAX    4096u          /* bytes of its JSON text */
#define KEYS_METADATA_DEPTH  8
#define KEYS_EXPIRY_MAX_S    315360000      /* ten years */
#define KEYS_WINDOW_MAX_S    2147483        /* Better-Auth keeps the window as int4 milliseconds */
#define KEYS_REQUESTS_MAX    2147483647
#define PLUGIN_RATE_MAX      10             /* Better-Auth's plugin writes these into every row unless told otherwise; */
#define PLUGIN_RATE_WINDOW_MS 86400000      /* authz does not enforce them either */
#define KEYS_REASON_MAX      200u
#define KEYS_URL_MAX         1000u
#define KEYS_PAGE_MAX        100u
#define KEYS_PAGE_DEFAULT    50u

/* Why a call is refused; becomes a problem document. */
struct problem {
    enum err err;
    const char *code;        /* static; NULL: the error's own */
    char field[65];          /* "" when no single field is at fault */
    char detail[200];
};

struct caller {
    const char *user_id, *tenant_id;
    uint64_t scopes;
    enum authority authority;    /* keys_authority() */
    bool is_key;                 /* an API key: others may have made it in its owner's name */
};

/* What the database knows of the caller in their tenant, and of the key that makes the call (key_bounds.h). */
struct standing {
    bool is_organization;        /* the tenant is one of Better-Auth's organizations */
    const char *role;            /* of the caller's membership, roles with commas between; "": none */
    bool key_is_alive, key_is_metered, key_limits_addresses, key_limits_names, key_has_rate;
    const char *key_expires_at, *key_addresses;    /* RFC 3339 or ""; a network a line */
    int64_t key_life_s, key_rate_max, key_rate_window_ms;
};

/* A body of create or update; has_ says which members were there. */
struct key_fields {
    bool has_name, has_scopes, has_expiry, has_rate, has_metadata, has_user, has_tenant;
    char name[KEYS_NAME_SIZE];                /* "" is JSON null */
    uint64_t scopes;
    uint64_t expires_in_s;                    /* 0: never */
    uint64_t rate_requests, rate_window_s;    /* 0: no limit of its own */
    char metadata[KEYS_METADATA_MAX + 1];     /* "null" when there is none */
    char user_id[65], tenant_id[81];
    struct key_reach reach;
};

#define KEYS_RESOURCE_MAX 256u    /* a value of `aud` */

struct server_fields {
    bool has_slug, has_url, has_name, has_tenant, has_enabled, has_upstream_auth, has_resource, has_factor, has_enforce;
    char slug[65], url[KEYS_URL_MAX + 1], name[KEYS_NAME_SIZE], tenant_id[81];
    char resource[KEYS_RESOURCE_MAX + 1];                    /* "": null */
    bool enabled, own_auth, second_factor, observes;
};

enum page_kind { PAGE_OF_KEYS, PAGE_OF_SERVERS, PAGE_OF_AUDIT, PAGE_OF_TENANTS, PAGE_OF_USERS, PAGE_OF_USAGE, PAGE_OF_TOKENS };

/* Query of a list.  Cursor: <Unix microseconds>.<id>, a slug for servers and tenants, an id for users. */
struct page_query {
    uint64_t limit;
    uint64_t cursor_us;
    char cursor[129];                                        /* "": the first page */
    char key_id[65], user_id[65], server[65];                /* audit_list and usage; "": any */
    char outcome[17], event[33], tool[129], request_id[65];  /* audit_list; "": any */
    char by[8];                                              /* usage: key, user, tenant, server or hour */
    char tenant_id[81];                                      /* of users, keys, audit_list and usage; "": any */
    char presented[44];                                      /* audit_list: base64url of a SHA-256, then its tag; "": any */
    char name[129], state[9];                                /* of keys: how it begins; active, disabled, expired, revoked */
    char from[33], to[33];                                   /* RFC 3339; "": open */
};

/* What is known of a key's owner and state, from one row of mcpgw.credential. */
struct key_facts {
    const char *reference_id, *side_tenant_id, *organization_id;
    bool enabled, revoked, expired, is_organization, owner_exists, owner_banned, owner_left, tenant_suspended, spent;
    uint64_t organization_count;
};

bool keys_is_operator(const struct caller *caller);
/* Of the caller's own tenant; an operator is that too. */
bool keys_is_administrator(const struct caller *caller);
/*
 * Without scope admin a caller has only what is their own.  With it: an operator in one of the operators' tenants, else
 * the administrator of their tenant; where that is an organization, only as itself ("org:<id>") or as a member with one of
 * `admin_roles`.  standing NULL: it is not known yet; *ret_is_wanted says whether it matters.
 */
enum authority keys_authority(const struct caller *caller, const struct standing *standing, const char *operator_tenants,
                              const char *admin_roles, bool *ret_is_wanted);
/* ERR_DENIED: the scope (write for changes, else read) or the authority of the operation's row is missing. */
enum err keys_decide_operation(const struct caller *caller, uint64_t operation, struct problem *reterr) MUST_CHECK;
/*
 * A caller sees their own keys (an organization's key speaks as "org:<id>"), an administrator the tenant's, an operator all.
 * A key sees none of another tenant: the administrators of its own may have made it in its owner's name.
 */
bool keys_may_see(const struct caller *caller, const struct key_facts *key);
/* Servers of no tenant are everybody's to see. */
bool keys_may_see_server(const struct caller *caller, const char *tenant_id);
/* ERR_DENIED: a scope the caller does not hold, or a field that only administrators or operators may set. */
enum err keys_decide_fields(const struct caller *caller, const struct key_fields *fields,
                            struct problem *reterr) MUST_CHECK;
/* Rotating shows the key's new value.  ERR_DENIED: it holds a scope that the caller does not. */
enum err keys_decide_rotation(const struct caller *caller, uint64_t scopes, struct problem *reterr) MUST_CHECK;
/* A key that was disabled gives what it holds to whoever has its value.  For callers that are keys, as above. */
enum err keys_decide_enabling(const struct caller *caller, uint64_t scopes, struct problem *reterr) MUST_CHECK;
/*
 * The tenant that the key of a create gets in our side table; "": none, because its owner says enough.  `owner` describes
 * the owner, with no tenant of its own.  What a caller makes for themselves stays in the tenant they act in.
 */
enum err keys_decide_tenant(const struct caller *caller, const struct key_fields *fields, const struct key_facts *owner,
                            char ret_tenant[81], struct problem *reterr) MUST_CHECK;
/* "user:<id>", an organization, or our side table's tenant.  ERR_CONFLICT: several organizations and nothing chooses. */
enum err keys_tenant(const struct key_facts *key, char ret_tenant[81]) MUST_CHECK;
/* NULL: it verifies; else the error of the verify call: KEY_REVOKED, KEY_DISABLED, KEY_EXPIRED, ... */
const char *keys_refusal(const struct key_facts *key);

/* Bodies.  ERR_UNPROCESSABLE names the field; a designed one that nothing enforces yet has code `not_enforced`. */
enum err keys_parse_create(const json_t *body, uint64_t default_expiry_s, struct key_fields *ret_fields,
                           struct problem *reterr) MUST_CHECK;
enum err keys_parse_update(const json_t *body, struct key_fields *ret_fields, struct problem *reterr) MUST_CHECK;
/* {"reason": "..."} or nothing. */
enum err keys_parse_reason(const json_t *body, char ret_reason[KEYS_REASON_MAX + 1], struct problem *reterr) MUST_CHECK;
/* {"digest": "..."}, as the edge makes it of {"key": "..."}, "" for a text that is no key; the text belongs to the body. */
enum err keys_parse_verify(const json_t *body, const char **ret_digest, struct problem *reterr) MUST_CHECK;
enum err keys_parse_server(const json_t *body, bool is_new, struct server_fields *ret_fields,
                           struct problem *reterr) MUST_CHECK;
/* If-Match: "a", W/"b" (matches nothing), or *.  *ret_tags: those that may match, with commas between; "*" for any.
 * ERR_MALFORMED: it is none of these. */
enum err keys_parse_match(const char *field, char ret_tags[256]) MUST_CHECK;
enum err keys_parse_page(const struct view *query, enum page_kind kind, struct page_query *ret_query,
                         struct problem *reterr) MUST_CHECK;

/* Values of bodies.  false: it cannot be used. */
bool keys_take_id(const json_t *value, char *text, size_t limit);       /* `text` has limit + 1 bytes */
bool keys_take_label(const json_t *value, size_t limit, char *text);    /* `limit` characters of UTF-8, 4 * limit + 1 bytes; null: "" */
bool keys_take_number(const json_t *value, uint64_t limit, uint64_t *ret_number);    /* from 1; null: 0 */
/* {"requests", "window"}, or null: 0, 0. */
enum err keys_take_rate(const json_t *value, const char *field, uint64_t *ret_requests, uint64_t *ret_window_s,
                        struct problem *reterr) MUST_CHECK;
bool keys_take_scopes(const json_t *value, uint64_t *ret_scopes);
bool keys_moment_is_valid(const char *text);    /* RFC 3339, loosely */
/* Is the word of `length` bytes one of the list's, with commas between? */
bool keys_list_has(const char *list, const char *word, size_t length);

bool keys_slug_is_valid(const char *slug);
/*
 * NULL: usable; else what is wrong with it.  Refused: other schemes, credentials, fragments, hosts that name link-local or
 * cloud metadata addresses in any notation a resolver takes.  The edge checks again what a name resolves to.
 */
const char *keys_url_fault(const char *url);

/* The scopes in a permissions text {"<resource>": ["read", ...]}, closed under inheritance; anything else: none. */
uint64_t keys_permission_scopes(const char *permissions, const char *resource);

/* Sets a refusal; always returns `err`. */
enum err problem_set(struct problem *reterr, enum err err, const char *code, const char *field, const char *detail);

#endif
