/* tenants_rules.h - what a tenant may be called and which policy it may have: pure functions over parsed JSON. */
#ifndef KEYS_TENANTS_RULES_H
#define KEYS_TENANTS_RULES_H

#include "common/apikey.h"
#include "common/scope.h"
#include "services/keys/keys_rules.h"

#define TENANT_NAME_MAX 64u    /* characters */

/* A number of the policy; 0: no rule. */
struct policy_number {
    bool is_set;               /* the member was there */
    uint64_t value;
};

/* One of its limits; 0, 0: none. */
struct tenant_limit {
    bool is_set;               /* the member was there */
    uint64_t requests, window_s;
};

/* A body of create or update. */
struct tenant_fields {
    bool has_id, has_slug, has_name, has_scopes, has_prefix;
    char id[81], slug[65], name[TENANT_NAME_MAX * 4 + 1];    /* name "": JSON null */
    struct policy_number max_key_life_s, max_keys, rotate_after_s, idle_after_s;
    struct tenant_limit limit, user_limit;                   /* of all its callers together; of each user in it */
    char key_prefix[APIKEY_PREFIX_MAX + 1];                  /* "": the usual one */
    char scopes[SCOPES_TEXT_MAX];                            /* names with blanks between; "": no rule */
};

/* {"id","slug","name","policy":{"maxKeyLife","maxKeys","scopes","rotateAfter","idleAfter","keyPrefix"},"limits":{"tenant","perUser"}};
 * ERR_UNPROCESSABLE names the field. */
enum err tenants_parse(const json_t *body, bool is_new, struct tenant_fields *ret_fields,
                       struct problem *reterr) MUST_CHECK;

#endif
