#include "services/authz/authz_rules.h"

#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "common/cleanup.h"
#include "common/scope.h"

DEFINE_DESTROY(json_destroy, json_t, json_decref)

uint64_t authz_scopes(const char *permissions, const char *resource)
{
    OWNED(json_destroy) json_t *root = NULL;
    const json_t *actions;
    uint64_t scopes = 0;
    enum scope scope;

    if (permissions[0] == '\0' || strlen(permissions) > AUTHZ_PERMISSIONS_MAX)
        return 0;
    root = json_loads(permissions, JSON_REJECT_DUPLICATES, NULL);
    actions = json_object_get(root, resource);
    if (!json_is_array(actions))
        return 0;
    for (size_t i = 0; i < json_array_size(actions); i++) {
        const json_t *action = json_array_get(actions, i);

        if (json_is_string(action) && scope_parse(json_string_value(action), json_string_length(action), &scope))
            scopes |= UINT64_C(1) << scope;
    }
    return scopes_close(scopes);
}

bool row_limits_parse(const char *text, enum row_limits *ret_limits)
{
    static const char *const names[] = { [ROW_LIMITS_IGNORE_DEFAULT] = "ignore_default", [ROW_LIMITS_OBEY] = "obey",
                                         [ROW_LIMITS_IGNORE] = "ignore" };

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strcmp(names[i], text) == 0) {
            *ret_limits = (enum row_limits)i;
            return true;
        }
    }
    return false;
}

/* A limit of 0 still admits one request per window, as it does in Better-Auth; a window of 0 limits nothing there. */
static void take_rate(const struct authz_row *row, struct authz_facts *facts)
{
    if (!row->rate_is_set || row->rate_window_ms <= 0)
        return;
    if (row->row_limits == ROW_LIMITS_IGNORE)
        return;
    if (row->row_limits == ROW_LIMITS_IGNORE_DEFAULT && row->rate_max == PLUGIN_RATE_MAX && row->rate_window_ms == PLUGIN_RATE_WINDOW_MS)
        return;
    facts->rate_requests = row->rate_max > 0 ? (uint64_t)row->rate_max : 1;
    facts->rate_window_s = ((uint64_t)row->rate_window_ms + 999) / 1000;
}

/* false: the lists cannot be read. */
static bool take_reach(const struct authz_row *row, struct authz_facts *facts)
{
    if (row->reach.addresses == NULL && row->reach.servers == NULL && row->reach.tools == NULL)
        return true;
    facts->reach = row->reach_room;
    return reach_pack(&row->reach, row->reach_room, &facts->reach_size) == ERR_OK;
}

void authz_facts_of(const struct authz_row *row, const char *resource, struct authz_facts *ret_facts)
{
    struct authz_facts facts = {
        .enabled = row->enabled, .revoked = row->revoked, .is_organization = row->is_organization,
        .owner_exists = row->owner_exists, .owner_banned = row->owner_banned,
        .owner_left = row->owner_left, .tenant_suspended = row->tenant_suspended,
        .organization_count = row->organization_count, .expires_us = row->expires_us,
        .scopes = authz_scopes(row->permissions, resource), .metered = row->metered, .tenant_rule = row->tenant_rule,
        .user_rule = row->is_organization ? 0 : row->user_rule,    /* an organization's key is no user's */
    };

    take_rate(row, &facts);
    /* "user:" and "org:" are put before a reference, and the longest user id of a message is AUTHZ_ID_MAX. */
    facts.usable = take_reach(row, &facts) && row->key_id[0] != '\0' && row->reference_id[0] != '\0'
                   && message_take_text(row->key_id, facts.key_id, AUTHZ_ID_MAX)
                   && message_take_text(row->reference_id, facts.reference_id, AUTHZ_ID_MAX - strlen("org:"))
                   && message_take_text(row->side_tenant_id, facts.side_tenant_id, AUTHZ_TENANT_MAX)
                   && message_take_text(row->organization_id, facts.organization_id, AUTHZ_ID_MAX);
    *ret_facts = facts;
}

enum err authz_tenant(const struct authz_facts *facts, char ret_tenant[AUTHZ_TENANT_MAX + 1])
{
    const char *name = facts->reference_id;

    if (!facts->is_organization && facts->side_tenant_id[0] != '\0') {
        name = facts->side_tenant_id;
    } else if (!facts->is_organization) {
        if (facts->organization_count > 1)
            return ERR_DENIED;
        name = facts->organization_id;
    }
    if (name[0] != '\0')
        snprintf(ret_tenant, AUTHZ_TENANT_MAX + 1, "%s", name);
    else
        snprintf(ret_tenant, AUTHZ_TENANT_MAX + 1, "user:%s", facts->reference_id);
    return ERR_OK;
}

/* Why a key does not verify, in the trail's words; NULL: it does. */
static const char *refusal_of(const struct authz_facts *facts, uint64_t now_us)
{
    if (!facts->usable)
        return "unusable";
    if (facts->revoked)
        return "revoked";
    if (!facts->enabled)
        return "disabled";
    if (facts->expires_us != 0 && now_us > facts->expires_us)
        return "expired";
    if (!facts->owner_exists)
        return "owner_missing";
    if (facts->owner_banned)
        return "owner_banned";
    if (facts->owner_left)
        return "owner_left";
    return NULL;
}

static void refuse(struct verdict *verdict, enum err err, const char *reason)
{
    verdict->error = err;
    snprintf(verdict->reason, sizeof verdict->reason, "%s", reason);
}

void authz_decide(const struct authz_facts *facts, uint64_t needed, uint64_t now_us, struct verdict *ret_verdict)
{
    struct verdict *v = ret_verdict;
    const char *reason;

    *v = (struct verdict){ .error = ERR_OK, .auth_method = AUTH_API_KEY };
    if (facts == NULL) {
        refuse(v, ERR_UNVERIFIED, "unknown");
        return;
    }
    memcpy(v->key_id, facts->key_id, sizeof v->key_id);
    reason = refusal_of(facts, now_us);
    if (reason != NULL) {
        refuse(v, ERR_UNVERIFIED, reason);
        return;
    }
    if (facts->is_organization)
        snprintf(v->user_id, sizeof v->user_id, "org:%.60s", facts->reference_id);
    else
        memcpy(v->user_id, facts->reference_id, sizeof v->user_id);
    v->scopes = facts->scopes;
    v->tier = (facts->scopes & SCOPE_BIT(ADMIN)) != 0 ? TIER_ADMIN : TIER_API_KEY;
    v->rate_requests = facts->rate_requests;
    v->rate_window_s = facts->rate_window_s;
    v->tenant_rule = facts->tenant_rule;
    v->user_rule = facts->user_rule;
    v->expires_s = facts->expires_us / 1000000;
    if (authz_tenant(facts, v->tenant_id) != ERR_OK)
        refuse(v, ERR_DENIED, "tenant_ambiguous");
    else if (facts->tenant_suspended)
        refuse(v, ERR_DENIED, "tenant_suspended");
    else if (!scopes_cover(facts->scopes, needed))
        refuse(v, ERR_DENIED, "scope");
}

static void refuse_reach(struct verdict *verdict, const char *reason)
{
    if (verdict->error == ERR_OK)
        refuse(verdict, ERR_DENIED, reason);
}

void authz_confine(const struct authz_facts *facts, const struct authz_ask *ask, struct verdict *verdict)
{
    const uint8_t *reach = facts->reach;
    const size_t size = facts->reach_size;
    const bool limits_tools = reach_limits(reach, size, REACH_TOOLS);

    if (size == 0 || (verdict->error != ERR_OK && verdict->error != ERR_DENIED))
        return;
    if (!reach_holds_address(reach, size, ask->address)) {
        *verdict = (struct verdict){ .auth_method = verdict->auth_method };
        memcpy(verdict->key_id, facts->key_id, sizeof verdict->key_id);
        refuse(verdict, ERR_UNVERIFIED, "address");
        return;
    }
    if ((limits_tools || reach_limits(reach, size, REACH_SERVERS)) && ask->server[0] == '\0')
        refuse_reach(verdict, "server");
    else if (!reach_holds_server(reach, size, ask->server))
        refuse_reach(verdict, "server");
    else if (!limits_tools || ask->tool_use == TOOL_NONE)
        return;
    else if (ask->tool[0] != '\0' && reach_holds_tool(reach, size, ask->tool))
        return;
    else if (ask->tool[0] == '\0' && ask->tool_use == TOOL_LATER && verdict->error == ERR_OK)
        refuse(verdict, ERR_TOOL_WANTED, "tool");
    else
        refuse_reach(verdict, "tool");
}
