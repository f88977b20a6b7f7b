/*
 * ratelimit_rules.h - which budget a request is charged to, what one request of a group is told, and the budgets kept
 * in memory while Redis is away.  Pure: no clock, socket, allocation or log.
 */
#ifndef RATELIMIT_RULES_H
#define RATELIMIT_RULES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

#define RATE_LIMIT_MAX    1000000000u     /* requests; a larger limit is enforced as this one */
#define RATE_WINDOW_MAX_S 31536000u       /* a year */
#define BUCKET_NAME_SIZE  160u            /* with the NUL */
#define CHARGE_LIMITS_MAX 3u              /* that one request is under: its own, its user's, its tenant's */

struct tier_limits { uint64_t admin, api_key, oauth, window_s; };

struct rate_plan {
    const char *policy;      /* admin, api_key, oauth, key, user, tenant; static storage */
    uint64_t limit;          /* requests per window, 1..RATE_LIMIT_MAX */
    uint64_t window_s;       /* 1..RATE_WINDOW_MAX_S */
};

/*
 * `requests` > 0 replaces the tier's limit, with `window_s` or, when that is 0, the tiers' window.
 * ERR_UNPROCESSABLE: a tier without a limit, or a window that is too long to be kept.
 */
enum err rate_plan_find(const struct tier_limits *tiers, uint64_t tier, uint64_t requests, uint64_t window_s,
                        struct rate_plan *ret_plan) MUST_CHECK;
/* The plan of a tenant's rule (common/rate_rule.h).  ERR_UNPROCESSABLE: it limits nothing, or cannot be kept. */
enum err rate_plan_of_rule(uint64_t rule, const char *policy, struct rate_plan *ret_plan) MUST_CHECK;

/*
 * "mcpgw:rl:<subject>:<policy>"; for a key (k:...) without the policy: a key has one plan at a time, and what it spent
 * under the last one must count under the next.  ERR_UNPROCESSABLE: no subject, or one that does not fit.
 */
enum err bucket_name_format(const char *subject, const char *policy, char ret_name[BUCKET_NAME_SIZE],
                            size_t *ret_length) MUST_CHECK;
/* "mcpgw:rl:t:<tenant>"; with a user "mcpgw:rl:p:<tenant>/<user>": no id of a tenant that has limits holds a slash. */
enum err bucket_name_of_tenant(const char *tenant_id, const char *user_id, char ret_name[BUCKET_NAME_SIZE],
                               size_t *ret_length) MUST_CHECK;
uint64_t bucket_name_hash(const char *name, size_t length);

/* What a bucket answered when `wanted` requests were charged together. */
struct spending {
    uint64_t admitted;       /* of those wanted */
    uint64_t left;           /* after them; 0 when not all were admitted */
    uint64_t wait_us;        /* until the next one fits, when not all were admitted */
};

struct spending_share { bool is_admitted; uint64_t remaining, reset_ms; };

/* What the request at `position` (from 0, in order of arrival) of the group is told. */
struct spending_share spending_share_of(const struct spending *spending, uint64_t position, uint64_t window_s);
/*
 * Which of the limits it is under a request is told of: of an admitted one the limit with the least left, of a refused one
 * that which lets it in last.  `admitted` is the same in all.
 */
size_t spending_tightest(const struct spending *spendings, size_t count, uint64_t position);

/*
 * A budget in memory: the algorithm of ratelimit.lua with 8 to 16 groups, so up to an eighth of the limit is held back
 * longer than a window, and a limit below 16 is exact.
 */
#define LOCAL_GROUPS 18

struct local_budget {
    uint64_t owner;                    /* hash of the bucket's name; two of one hash share a budget: never over */
    uint64_t limit, window_us;         /* limit 0: unused */
    uint64_t spent, freed, last_us;
    uint64_t ended_us[LOCAL_GROUPS];   /* ring: when each group's last request was admitted */
};

/* Budgets at `owner`'s place and behind it are looked at; beyond that there is no room for another. */
#define LOCAL_PROBES 8

/* The budget of `owner`, or one whose window is over.  NULL: no room, so the request cannot be decided. */
struct local_budget *local_budget_find(struct local_budget *budgets, size_t count, uint64_t owner, uint64_t now_us);
/* How many fit now.  A limit or window that changed counts all that is on record as spent at the last admission. */
uint64_t local_budget_open(struct local_budget *budget, uint64_t limit, uint64_t window_us, uint64_t now_us);
/* After it, at the same moment: takes one, which fits, or none. */
struct spending local_budget_close(struct local_budget *budget, bool is_admitted, uint64_t now_us);

#endif
