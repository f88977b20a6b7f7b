/*
 * authz_rules.h - who a key belongs to and what it may do: the whole policy, without a clock, a store or a socket.
 */
#ifndef AUTHZ_RULES_H
#define AUTHZ_RULES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/message.h"
#include "common/reach.h"

#define AUTHZ_ID_MAX          64u
#define AUTHZ_TENANT_MAX      80u
#define AUTHZ_PERMISSIONS_MAX 16384u    /* bytes of permissions text; a longer one gives no scope */

/* Better-Auth's api-key plugin writes these into every row unless told otherwise; nobody means 10 requests a day. */
#define PLUGIN_RATE_MAX       10
#define PLUGIN_RATE_WINDOW_MS 86400000

/* What becomes of the limit in the row: it counts, or unless it is the plugin's untouched default, or never. */
enum row_limits { ROW_LIMITS_IGNORE_DEFAULT, ROW_LIMITS_OBEY, ROW_LIMITS_IGNORE };

/* One row of mcpgw.credential; texts are never NULL, "" stands for NULL. */
struct authz_row {
    const char *key_id, *reference_id, *side_tenant_id, *organization_id, *permissions;
    struct reach_texts reach;
    uint8_t *reach_room;              /* REACH_SIZE_MAX bytes that the facts' reach will lie in */
    uint64_t expires_us;              /* Unix time; 0: never */
    uint64_t organization_count;
    bool enabled, revoked;            /* enabled: NULL counts as true */
    bool is_organization;
    bool owner_exists, owner_banned;
    bool owner_left;                  /* the organization that the key belonged to */
    bool tenant_suspended;            /* of the tenant that authz_tenant() names */
    bool rate_is_set;                 /* rate_enabled is not false, rate_max and rate_window_ms are not NULL */
    int64_t rate_max, rate_window_ms;
    enum row_limits row_limits;
    uint64_t tenant_rule, user_rule;  /* of that tenant: common/rate_rule.h; 0: none */
    bool metered;                     /* it has a number of uses */
};

/* What is kept of a row: all that a verdict needs. */
struct authz_facts {
    char key_id[AUTHZ_ID_MAX + 1];
    char reference_id[AUTHZ_ID_MAX + 1];
    char side_tenant_id[AUTHZ_TENANT_MAX + 1];
    char organization_id[AUTHZ_ID_MAX + 1];
    bool usable;                      /* false: a text of the row does not fit a message; the key verifies nothing */
    bool enabled, revoked, is_organization, owner_exists, owner_banned, owner_left, tenant_suspended;
    bool metered;                     /* a use is spent for every verdict that says yes (authz_uses.h) */
    uint64_t organization_count;
    uint64_t expires_us;
    uint64_t scopes;                  /* closed under inheritance */
    uint64_t rate_requests, rate_window_s;
    uint64_t tenant_rule, user_rule;  /* user_rule: of a user's key only */
    const uint8_t *reach;             /* from where it may be used and what it may reach (common/reach.h) */
    size_t reach_size;                /* 0: nothing is limited */
};

/* What is asked of a key beside its digest: for what it is to be used. */
struct authz_ask {
    uint64_t needed;                  /* scopes */
    uint64_t tool_use;                /* enum tool_use */
    char address[47], server[65], tool[129];
    uint8_t digest[32];               /* of the key */
    bool paid;                        /* its use has been taken */
};

/* "obey", "ignore_default", "ignore"; false: another text. */
bool row_limits_parse(const char *text, enum row_limits *ret_limits);

/*
 * The scopes in a permissions text: {"<resource>": ["read", ...]}.  Closed under inheritance.  Only a list counts: a
 * string in its place matches by substring in Better-Auth, and a flat list names no resource.  Unknown actions, text that
 * is not JSON, an object with a name twice: nothing.
 */
uint64_t authz_scopes(const char *permissions, const char *resource);

/* The facts' reach lies in the row's reach_room.  Lists that nobody can read make the key unusable. */
void authz_facts_of(const struct authz_row *row, const char *resource, struct authz_facts *ret_facts);

/*
 * The organization of an organization's key; for a user's key our side table's tenant, else the user's only
 * organization, else "user:<id>".  ERR_DENIED: the user has several and nothing chooses.
 */
enum err authz_tenant(const struct authz_facts *facts, char ret_tenant[AUTHZ_TENANT_MAX + 1]) MUST_CHECK;

/*
 * The verdict on a key at `now_us` (Unix time) for a route that needs the scopes `needed`.  facts NULL: no such key.
 * Unknown, disabled, expired, revoked, and an owner who is missing, banned or gone from the organization are all ERR_UNVERIFIED; only `reason` (for the
 * trail) and key_id tell them apart.  Sets neither `stale` nor `layer`.
 */
void authz_decide(const struct authz_facts *facts, uint64_t needed, uint64_t now_us, struct verdict *ret_verdict);

/*
 * What the key's reach leaves of a good verdict.  An address it does not know is ERR_UNVERIFIED, as if there were no such
 * key: a thief learns nothing.  A key for some servers or tools opens nothing that names no server; a tool that is not
 * known yet is ERR_TOOL_WANTED.
 */
void authz_confine(const struct authz_facts *facts, const struct authz_ask *ask, struct verdict *verdict);

#endif
