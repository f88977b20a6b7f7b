#include "services/keys/keys_rules.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/destination.h"
#include "common/scope.h"

DEFINE_DESTROY(json_destroy, json_t, json_decref)

#define PERMISSIONS_MAX 16384u    /* bytes; a longer text gives no scope, as in authz */

enum err problem_set(struct problem *reterr, enum err err, const char *code, const char *field, const char *detail)
{
    *reterr = (struct problem){ .err = err, .code = code };
    snprintf(reterr->field, sizeof reterr->field, "%s", field);
    snprintf(reterr->detail, sizeof reterr->detail, "%s", detail);
    return err;
}

static enum err refuse(struct problem *reterr, const char *field, const char *detail)
{
    return problem_set(reterr, ERR_UNPROCESSABLE, NULL, field, detail);
}

bool keys_is_operator(const struct caller *caller)
{
    return caller->authority >= AUTHORITY_OPERATOR;
}

bool keys_is_administrator(const struct caller *caller)
{
    return caller->authority >= AUTHORITY_TENANT;
}

bool keys_list_has(const char *list, const char *word, size_t length)
{
    while (*list != '\0') {
        const size_t here = strcspn(list, ",");

        if (here == length && length > 0 && strncmp(list, word, length) == 0)
            return true;
        list += here + (list[here] == ',');
        list += strspn(list, " ");
    }
    return false;
}

static bool has_role(const char *roles, const char *wanted)
{
    while (*roles != '\0') {
        const size_t here = strcspn(roles, ",");

        if (keys_list_has(wanted, roles, here))
            return true;
        roles += here + (roles[here] == ',');
        roles += strspn(roles, " ");
    }
    return false;
}

enum authority keys_authority(const struct caller *caller, const struct standing *standing, const char *operator_tenants,
                              const char *admin_roles, bool *ret_is_wanted)
{
    const char *tenant = caller->tenant_id;
    const bool is_itself = strncmp(caller->user_id, "org:", 4) == 0 && strcmp(caller->user_id + 4, tenant) == 0;
    const bool is_user = strncmp(tenant, "user:", 5) == 0;

    *ret_is_wanted = false;
    if ((caller->scopes & SCOPE_BIT(ADMIN)) == 0)
        return AUTHORITY_OWN;
    if (standing == NULL && !is_itself && !is_user) {
        *ret_is_wanted = true;
        return AUTHORITY_OWN;
    }
    if (standing != NULL && standing->is_organization && !is_itself && !has_role(standing->role, admin_roles))
        return AUTHORITY_OWN;
    return keys_list_has(operator_tenants, tenant, strlen(tenant)) ? AUTHORITY_OPERATOR : AUTHORITY_TENANT;
}

enum err keys_decide_operation(const struct caller *caller, uint64_t operation, struct problem *reterr)
{
    const bool changes = operation_changes(operation);

    if (!scopes_cover(caller->scopes, changes ? SCOPE_BIT(WRITE) : SCOPE_BIT(READ)))
        return problem_set(reterr, ERR_DENIED, NULL, "", changes ? "scope write is needed" : "scope read is needed");
    if (caller->authority >= operation_authority(operation))
        return ERR_OK;
    return problem_set(reterr, ERR_DENIED, NULL, "",
                       operation_authority(operation) == AUTHORITY_OPERATOR
                           ? "only operators may do this: scope admin in one of the operators' tenants"
                           : "only administrators of the tenant may do this");
}

bool keys_may_see(const struct caller *caller, const struct key_facts *key)
{
    const char *id = caller->user_id;
    char tenant[81];

    if (keys_is_operator(caller))
        return true;
    if (keys_is_administrator(caller) && keys_tenant(key, tenant) == ERR_OK && strcmp(tenant, caller->tenant_id) == 0)
        return true;
    if (caller->is_key && (keys_tenant(key, tenant) != ERR_OK || strcmp(tenant, caller->tenant_id) != 0))
        return false;
    if (!key->is_organization)
        return strcmp(id, key->reference_id) == 0;
    return strncmp(id, "org:", 4) == 0 && strcmp(id + 4, key->reference_id) == 0;
}

bool keys_may_see_server(const struct caller *caller, const char *tenant_id)
{
    return keys_is_operator(caller) || tenant_id[0] == '\0' || strcmp(tenant_id, caller->tenant_id) == 0;
}

enum err keys_decide_fields(const struct caller *caller, const struct key_fields *fields, struct problem *reterr)
{
    if (keys_is_operator(caller))
        return ERR_OK;
    if (fields->has_user && !keys_is_administrator(caller))
        return problem_set(reterr, ERR_DENIED, NULL, "userId", "only an administrator may choose the owner");
    if (fields->has_tenant && !(keys_is_administrator(caller) && strcmp(fields->tenant_id, caller->tenant_id) == 0))
        return problem_set(reterr, ERR_DENIED, NULL, "tenantId", "only an operator may choose the tenant");
    /* It replaces the tier's limit, so a key could lift its own (and undo what an operator set). */
    if (fields->has_rate)
        return problem_set(reterr, ERR_DENIED, NULL, "rateLimit", "only an operator may choose the limit");
    if (fields->has_scopes && !scopes_cover(caller->scopes, fields->scopes))
        return problem_set(reterr, ERR_DENIED, NULL, "scopes",
                           "a key cannot be given a scope that its creator does not hold");
    return ERR_OK;
}

enum err keys_decide_rotation(const struct caller *caller, uint64_t scopes, struct problem *reterr)
{
    if (keys_is_operator(caller) || scopes_cover(caller->scopes, scopes))
        return ERR_OK;
    return problem_set(reterr, ERR_DENIED, NULL, "", "the key holds a scope that you do not hold: its new value would give it to you");
}

enum err keys_decide_enabling(const struct caller *caller, uint64_t scopes, struct problem *reterr)
{
    if (!caller->is_key || keys_is_operator(caller) || scopes_cover(caller->scopes, scopes))
        return ERR_OK;
    return problem_set(reterr, ERR_DENIED, NULL, "", "the key holds a scope that the key of this call does not hold");
}

enum err keys_tenant(const struct key_facts *key, char ret_tenant[81])
{
    const char *prefix = "", *name = key->reference_id;

    if (!key->is_organization) {
        if (key->side_tenant_id[0] != '\0')
            name = key->side_tenant_id;
        else if (key->organization_count > 1)
            return ERR_CONFLICT;
        else if (key->organization_id[0] != '\0')
            name = key->organization_id;
        else
            prefix = "user:";
    }
    snprintf(ret_tenant, 81, "%s%s", prefix, name);
    return ERR_OK;
}

enum err keys_decide_tenant(const struct caller *caller, const struct key_fields *fields, const struct key_facts *owner,
                            char ret_tenant[81], struct problem *reterr)
{
    char own[81] = "";
    enum err err = keys_tenant(owner, own);

    ret_tenant[0] = '\0';
    if (owner->is_organization)
        return fields->has_tenant ? refuse(reterr, "tenantId", "an organization's key belongs to the organization")
                                  : ERR_OK;
    if (fields->has_tenant) {
        if (strncmp(fields->tenant_id, "user:", 5) == 0 && strcmp(fields->tenant_id + 5, owner->reference_id) != 0)
            return refuse(reterr, "tenantId", "user:<id> is the tenant of that user alone");
        memcpy(ret_tenant, fields->tenant_id, sizeof fields->tenant_id);
        return ERR_OK;
    }
    /* Made by somebody else than its owner it stays here, whatever the owner joins or leaves later. */
    if (fields->has_user && !keys_is_operator(caller)) {
        snprintf(ret_tenant, 81, "%s", caller->tenant_id);
        return ERR_OK;
    }
    if (fields->has_user)
        return err == ERR_OK
                   ? ERR_OK
                   : refuse(reterr, "tenantId", "the user belongs to several organizations: one must be named");
    if (err != ERR_OK || strcmp(own, caller->tenant_id) != 0)
        snprintf(ret_tenant, 81, "%s", caller->tenant_id);
    return ERR_OK;
}

const char *keys_refusal(const struct key_facts *key)
{
    char tenant[81];

    if (key->revoked)
        return "KEY_REVOKED";
    if (!key->enabled)
        return "KEY_DISABLED";
    if (key->expired)
        return "KEY_EXPIRED";
    if (!key->owner_exists)
        return "OWNER_MISSING";
    if (key->owner_banned)
        return "OWNER_BANNED";
    if (key->owner_left)
        return "OWNER_LEFT";
    if (keys_tenant(key, tenant) != ERR_OK)
        return "TENANT_AMBIGUOUS";
    if (key->tenant_suspended)
        return "TENANT_SUSPENDED";
    if (key->spent)
        return "USAGE_EXCEEDED";
    return NULL;
}

uint64_t keys_permission_scopes(const char *permissions, const char *resource)
{
    OWNED(json_destroy) json_t *root = NULL;
    const json_t *action;
    uint64_t scopes = 0;
    enum scope scope;
    size_t i;

    if (strlen(permissions) > PERMISSIONS_MAX)
        return 0;
    root = json_loads(permissions, JSON_REJECT_DUPLICATES, NULL);
    json_array_foreach(json_object_get(root, resource), i, action) {
        if (json_is_string(action) && scope_parse(json_string_value(action), json_string_length(action), &scope))
            scopes |= UINT64_C(1) << scope;
    }
    return scopes_close(scopes);
}

/* ---- values of bodies -------------------------------------------------------------------------- */

bool keys_take_id(const json_t *value, char *text, size_t limit)
{
    const char *from = json_string_value(value);
    const size_t length = json_string_length(value);

    if (from == NULL || length == 0 || length > limit
        || strspn(from, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.:@") != length)
        return false;
    memcpy(text, from, length + 1);
    return true;
}

bool keys_take_label(const json_t *value, size_t limit, char *text)
{
    const char *from = json_string_value(value);
    size_t characters = 0;

    text[0] = '\0';
    if (json_is_null(value))
        return true;
    if (from == NULL || json_string_length(value) > limit * 4 || from[0] == '\0')
        return false;
    for (const char *c = from; *c != '\0'; c++) {
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            return false;
        characters += ((unsigned char)*c & 0xc0) != 0x80;
    }
    if (characters > limit)
        return false;
    memcpy(text, from, json_string_length(value) + 1);
    return true;
}

static bool take_name(const json_t *value, char text[KEYS_NAME_SIZE])
{
    return keys_take_label(value, KEYS_NAME_MAX, text);
}

bool keys_take_number(const json_t *value, uint64_t limit, uint64_t *ret_number)
{
    const json_int_t number = json_integer_value(value);

    if (json_is_null(value)) {
        *ret_number = 0;
        return true;
    }
    if (!json_is_integer(value) || number < 1 || (uint64_t)number > limit)
        return false;
    *ret_number = (uint64_t)number;
    return true;
}

bool keys_take_scopes(const json_t *value, uint64_t *ret_scopes)
{
    uint64_t scopes = 0;
    const json_t *name;
    enum scope scope;
    size_t i;

    if (!json_is_array(value) || json_array_size(value) == 0)
        return false;
    json_array_foreach(value, i, name) {
        if (!json_is_string(name) || !scope_parse(json_string_value(name), json_string_length(name), &scope))
            return false;
        scopes |= UINT64_C(1) << scope;
    }
    *ret_scopes = scopes;
    return true;
}

/* Better-Auth's parser refuses these names at any depth, and with them the whole key. */
static bool metadata_is_safe(const json_t *value, int depth)
{
    const json_t *member;
    const char *name;
    size_t i;

    if (depth > KEYS_METADATA_DEPTH)
        return false;
    json_array_foreach(value, i, member) {
        if (!metadata_is_safe(member, depth + 1))
            return false;
    }
    for (void *at = json_object_iter((json_t *)(uintptr_t)value); at != NULL;
         at = json_object_iter_next((json_t *)(uintptr_t)value, at)) {
        name = json_object_iter_key(at);
        if (strcmp(name, "constructor") == 0 || strcmp(name, "__proto__") == 0)
            return false;
        if (!metadata_is_safe(json_object_iter_value(at), depth + 1))
            return false;
    }
    return true;
}

static bool take_metadata(const json_t *value, char text[KEYS_METADATA_MAX + 1])
{
    size_t size;

    if (json_is_null(value)) {
        memcpy(text, "null", 5);
        return true;
    }
    if (!json_is_object(value) || !metadata_is_safe(value, 0))
        return false;
    size = json_dumpb(value, text, KEYS_METADATA_MAX, JSON_COMPACT);
    if (size == 0 || size > KEYS_METADATA_MAX)
        return false;
    text[size] = '\0';
    return true;
}

enum err keys_take_rate(const json_t *value, const char *field, uint64_t *ret_requests, uint64_t *ret_window_s,
                        struct problem *reterr)
{
    char inner[65];
    uint64_t requests = 0, window_s = 0;

    if (!json_is_null(value) && (!json_is_object(value) || json_object_size(value) != 2))
        return refuse(reterr, field, "an object with requests and window, or null");
    snprintf(inner, sizeof inner, "%s.requests", field);
    if (json_is_object(value)
        && (!keys_take_number(json_object_get(value, "requests"), KEYS_REQUESTS_MAX, &requests) || requests == 0))
        return refuse(reterr, inner, "a number from 1 to 2147483647");
    snprintf(inner, sizeof inner, "%s.window", field);
    if (json_is_object(value)
        && (!keys_take_number(json_object_get(value, "window"), KEYS_WINDOW_MAX_S, &window_s) || window_s == 0))
        return refuse(reterr, inner, "seconds, from 1 to 2147483");
    *ret_requests = requests;
    *ret_window_s = window_s;
    return ERR_OK;
}

/* ---- bodies ------------------------------------------------------------------------------------ */

static enum err refuse_unknown(const char *name, struct problem *reterr)
{
    /* Part of the interface as designed; accepting one would promise what nobody enforces. */
    static const char *const designed[] = { "allowedOrigins", "notBefore",      "remaining",
                                            "refillAmount",   "refillInterval", "organizationId" };

    for (size_t i = 0; i < sizeof designed / sizeof designed[0]; i++) {
        if (strcmp(name, designed[i]) == 0)
            return problem_set(reterr, ERR_UNPROCESSABLE, "not_enforced", name,
                               "this field is not enforced yet, so it is not accepted");
    }
    return refuse(reterr, name, "no such field");
}

static enum err take_key_field(const char *name, const json_t *value, struct key_fields *fields, struct problem *reterr)
{
    const char *fault = NULL;

    if (keys_take_reach(name, value, &fields->reach, &fault))
        return fault == NULL ? ERR_OK : refuse(reterr, name, fault);
    if (strcmp(name, "name") == 0) {
        fields->has_name = true;
        return take_name(value, fields->name) ? ERR_OK : refuse(reterr, name, "a text of 1 to 32 characters, or null");
    }
    if (strcmp(name, "scopes") == 0) {
        fields->has_scopes = true;
        return keys_take_scopes(value, &fields->scopes) ? ERR_OK
            : refuse(reterr, name, "a list of at least one of read, write, admin, proxy, metrics, health");
    }
    if (strcmp(name, "expiresIn") == 0) {
        fields->has_expiry = true;
        return keys_take_number(value, KEYS_EXPIRY_MAX_S, &fields->expires_in_s) ? ERR_OK
            : refuse(reterr, name, "seconds, from 1 to 315360000, or null for never");
    }
    if (strcmp(name, "rateLimit") == 0) {
        fields->has_rate = true;
        return keys_take_rate(value, name, &fields->rate_requests, &fields->rate_window_s, reterr);
    }
    if (strcmp(name, "metadata") == 0) {
        fields->has_metadata = true;
        return take_metadata(value, fields->metadata)
                   ? ERR_OK
                   : refuse(
                       reterr, name,
                       "an object of at most 4096 bytes and 8 levels, without members named constructor or __proto__");
    }
    return refuse_unknown(name, reterr);
}

static enum err take_create_field(const char *name, const json_t *value, struct key_fields *fields,
                                  struct problem *reterr)
{
    if (strcmp(name, "userId") == 0) {
        fields->has_user = true;
        return keys_take_id(value, fields->user_id, 59) ? ERR_OK : refuse(reterr, name, "the id of a user");
    }
    if (strcmp(name, "tenantId") == 0) {
        fields->has_tenant = true;
        return keys_take_id(value, fields->tenant_id, 80)
                   ? ERR_OK
                   : refuse(reterr, name, "1 to 80 of the characters A-Z a-z 0-9 - _ . : @");
    }
    return take_key_field(name, value, fields, reterr);
}

static enum err take_update_field(const char *name, const json_t *value, struct key_fields *fields,
                                  struct problem *reterr)
{
    if (strcmp(name, "expiresAt") != 0)
        return take_key_field(name, value, fields, reterr);
    if (!json_is_null(value))
        return refuse(reterr, name, "only null, for never; use expiresIn for a moment");
    fields->has_expiry = true;
    fields->expires_in_s = 0;
    return ERR_OK;
}

typedef enum err take_field_fn(const char *name, const json_t *value, struct key_fields *fields,
                               struct problem *reterr);

static enum err take_fields(const json_t *body, take_field_fn *take, struct key_fields *fields, struct problem *reterr)
{
    json_t *object = (json_t *)(uintptr_t)body;    /* jansson's iterators take no const */
    enum err err;

    if (!json_is_object(body))
        return problem_set(reterr, ERR_MALFORMED, NULL, "", "the body must be a JSON object");
    for (void *at = json_object_iter(object); at != NULL; at = json_object_iter_next(object, at)) {
        err = take(json_object_iter_key(at), json_object_iter_value(at), fields, reterr);
        if (err != ERR_OK)
            return err;
    }
    return ERR_OK;
}

enum err keys_parse_create(const json_t *body, uint64_t default_expiry_s, struct key_fields *ret_fields,
                           struct problem *reterr)
{
    enum err err;

    *ret_fields = (struct key_fields){ .expires_in_s = default_expiry_s, .metadata = "null" };
    err = take_fields(body, take_create_field, ret_fields, reterr);
    if (err != ERR_OK)
        return err;
    if (!ret_fields->has_scopes)
        return refuse(reterr, "scopes", "a list of at least one of read, write, admin, proxy, metrics, health");
    return ERR_OK;
}

enum err keys_parse_update(const json_t *body, struct key_fields *ret_fields, struct problem *reterr)
{
    *ret_fields = (struct key_fields){ .metadata = "null" };
    return take_fields(body, take_update_field, ret_fields, reterr);
}

enum err keys_parse_reason(const json_t *body, char ret_reason[KEYS_REASON_MAX + 1], struct problem *reterr)
{
    const json_t *reason = json_object_get(body, "reason");
    const char *text = json_string_value(reason);

    ret_reason[0] = '\0';
    if (body == NULL)
        return ERR_OK;
    if (!json_is_object(body))
        return problem_set(reterr, ERR_MALFORMED, NULL, "", "the body must be a JSON object");
    if (json_object_size(body) > (reason != NULL ? 1u : 0u)) {
        json_t *object = (json_t *)(uintptr_t)body;
        void *at = json_object_iter(object);

        if (strcmp(json_object_iter_key(at), "reason") == 0)
            at = json_object_iter_next(object, at);
        return refuse_unknown(json_object_iter_key(at), reterr);
    }
    if (reason == NULL || json_is_null(reason))
        return ERR_OK;
    if (text == NULL || json_string_length(reason) > KEYS_REASON_MAX)
        return refuse(reterr, "reason", "a text of at most 200 bytes");
    memcpy(ret_reason, text, json_string_length(reason) + 1);
    return ERR_OK;
}

enum err keys_parse_verify(const json_t *body, const char **ret_digest, struct problem *reterr)
{
    const char *digest = json_string_value(json_object_get(body, "digest"));

    if (!json_is_object(body))
        return problem_set(reterr, ERR_MALFORMED, NULL, "", "the body must be a JSON object");
    if (digest == NULL)
        return refuse(reterr, "key", "the key to verify, as a text");
    if (json_object_size(body) != 1)
        return refuse(reterr, "", "key is the only field");
    *ret_digest = digest;
    return ERR_OK;
}

/* ---- servers ----------------------------------------------------------------------------------- */

bool keys_slug_is_valid(const char *slug)
{
    const size_t length = strlen(slug);

    return length >= 1 && length <= 64 && strspn(slug, "abcdefghijklmnopqrstuvwxyz0123456789-") == length;
}

static bool host_is_refused(const char *host)
{
    static const char *const names[] = { "metadata", "metadata.google.internal", "instance-data",
                                         "metadata.azure.internal" };
    uint8_t ipv6[16];
    struct in_addr ipv4;

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strcasecmp(host, names[i]) == 0)
            return true;
    }
    if (inet_pton(AF_INET6, host, ipv6) == 1)
        return destination_refuses_ipv6(ipv6);
    /* inet_aton takes what resolvers take: decimal, octal, hexadecimal, and fewer than four parts. */
    return inet_aton(host, &ipv4) == 1 && destination_refuses_ipv4(ntohl(ipv4.s_addr));
}

/* host[:port], with an IPv6 address in brackets. */
static const char *authority_fault(const char *authority, size_t length)
{
    char host[256];
    struct in6_addr ipv6;
    const char *start = authority, *end = authority + length, *stop, *port;

    if (memchr(authority, '@', length) != NULL)
        return "a URL must not hold credentials";
    if (length > 0 && authority[0] == '[') {
        start++;
        stop = memchr(start, ']', (size_t)(end - start));
        port = stop == NULL ? NULL : stop + 1;
    } else {
        stop = memchr(start, ':', length);
        stop = stop == NULL ? end : stop;
        port = stop;
    }
    if (stop == NULL || stop == start || (size_t)(stop - start) >= sizeof host)
        return "the host is missing or malformed";
    if (port != end
        && (*port != ':' || end - port > 6 || port + 1 == end
            || strspn(port + 1, "0123456789") < (size_t)(end - port - 1) || strtoul(port + 1, NULL, 10) == 0
            || strtoul(port + 1, NULL, 10) > 65535))
        return "the port is malformed";
    memcpy(host, start, (size_t)(stop - start));
    host[stop - start] = '\0';
    if (authority[0] != '['
        && strspn(host, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.") != strlen(host))
        return "the host is missing or malformed";
    if (authority[0] == '[' && inet_pton(AF_INET6, host, &ipv6) != 1)    /* a zone among others, RFC 6874 */
        return "the host is missing or malformed";
    if (host[0] != '\0' && host[strlen(host) - 1] == '.')
        host[strlen(host) - 1] = '\0';
    return host_is_refused(host) ? "link-local and metadata addresses are refused" : NULL;
}

const char *keys_url_fault(const char *url)
{
    const char *authority;

    if (strlen(url) > KEYS_URL_MAX)
        return "a URL has at most 1000 characters";
    for (const char *c = url; *c != '\0'; c++) {
        if (*c <= 0x20 || *c >= 0x7f || strchr("\"<>\\^`{|}", *c) != NULL)
            return "a character that a URL cannot hold";
    }
    if (strncasecmp(url, "http://", 7) == 0)
        authority = url + 7;
    else if (strncasecmp(url, "https://", 8) == 0)
        authority = url + 8;
    else
        return "a URL must begin with http:// or https://";
    if (strchr(url, '#') != NULL)
        return "a URL must not hold a fragment";
    return authority_fault(authority, strcspn(authority, "/?"));
}

/* A text that is one of two. */
static bool take_choice(const json_t *value, const char *off, const char *on, bool *ret_is_on)
{
    const char *text = json_string_value(value);

    *ret_is_on = text != NULL && strcmp(text, on) == 0;
    return *ret_is_on || (text != NULL && strcmp(text, off) == 0);
}

static bool take_resource(const json_t *value, char resource[KEYS_RESOURCE_MAX + 1])
{
    const char *text = json_string_value(value);

    resource[0] = '\0';
    if (json_is_null(value))
        return true;
    if (text == NULL || text[0] == '\0' || json_string_length(value) > KEYS_RESOURCE_MAX)
        return false;
    for (const char *at = text; *at != '\0'; at++)
        if (*at <= ' ' || *at >= 0x7f)
            return false;
    memcpy(resource, text, strlen(text) + 1);
    return json_string_length(value) == strlen(text);
}

/* How a server authenticates and how strictly its callers are; ERR_NOT_FOUND: another field. */
static enum err take_policy_field(const char *name, const json_t *value, struct server_fields *fields, struct problem *reterr)
{
    if (strcmp(name, "upstreamAuth") == 0) {
        fields->has_upstream_auth = true;
        return take_choice(value, "gateway", "own", &fields->own_auth) ? ERR_OK : refuse(reterr, name, "gateway or own");
    }
    if (strcmp(name, "enforce") == 0) {
        fields->has_enforce = true;
        return take_choice(value, "on", "observe", &fields->observes) ? ERR_OK : refuse(reterr, name, "on or observe");
    }
    if (strcmp(name, "secondFactor") == 0) {
        fields->has_factor = true;
        fields->second_factor = json_is_true(value);
        return json_is_boolean(value) ? ERR_OK : refuse(reterr, name, "true or false");
    }
    if (strcmp(name, "resource") == 0) {
        fields->has_resource = true;
        return take_resource(value, fields->resource) ? ERR_OK
            : refuse(reterr, name, "what tokens for this server name as aud: 1 to 256 printable characters without blanks, or null");
    }
    return ERR_NOT_FOUND;
}

static enum err take_server_field(const char *name, const json_t *value, struct server_fields *fields,
                                  struct problem *reterr)
{
    const char *text = json_string_value(value), *fault;

    if (strcmp(name, "url") == 0) {
        fault = text == NULL || json_string_length(value) != strlen(text) ? "a text" : keys_url_fault(text);
        fields->has_url = fault == NULL;
        snprintf(fields->url, sizeof fields->url, "%s", fault == NULL ? text : "");
        return fault == NULL ? ERR_OK : refuse(reterr, name, fault);
    }
    if (strcmp(name, "name") == 0) {
        fields->has_name = true;
        return take_name(value, fields->name) ? ERR_OK : refuse(reterr, name, "a text of 1 to 32 characters, or null");
    }
    if (strcmp(name, "tenantId") == 0) {
        fields->has_tenant = true;
        return json_is_null(value) || keys_take_id(value, fields->tenant_id, 80) ? ERR_OK
            : refuse(reterr, name, "1 to 80 of the characters A-Z a-z 0-9 - _ . : @, or null");
    }
    if (strcmp(name, "enabled") == 0) {
        fields->has_enabled = true;
        fields->enabled = json_is_true(value);
        return json_is_boolean(value) ? ERR_OK : refuse(reterr, name, "true or false");
    }
    if (strcmp(name, "slug") != 0) {
        const enum err err = take_policy_field(name, value, fields, reterr);

        return err == ERR_NOT_FOUND ? refuse_unknown(name, reterr) : err;
    }
    if (text == NULL || !keys_slug_is_valid(text))
        return refuse(reterr, name, "1 to 64 of the characters a-z 0-9 -");
    fields->has_slug = true;
    memcpy(fields->slug, text, strlen(text) + 1);
    return ERR_OK;
}

enum err keys_parse_server(const json_t *body, bool is_new, struct server_fields *ret_fields, struct problem *reterr)
{
    json_t *object = (json_t *)(uintptr_t)body;
    enum err err;

    *ret_fields = (struct server_fields){ .enabled = true };
    if (!json_is_object(body))
        return problem_set(reterr, ERR_MALFORMED, NULL, "", "the body must be a JSON object");
    for (void *at = json_object_iter(object); at != NULL; at = json_object_iter_next(object, at)) {
        err = take_server_field(json_object_iter_key(at), json_object_iter_value(at), ret_fields, reterr);
        if (err != ERR_OK)
            return err;
    }
    if (is_new && !ret_fields->has_slug)
        return refuse(reterr, "slug", "1 to 64 of the characters a-z 0-9 -");
    if (is_new && !ret_fields->has_url)
        return refuse(reterr, "url", "the URL of the MCP endpoint");
    if (!is_new && ret_fields->has_slug)
        return refuse(reterr, "slug", "a server keeps its slug");
    if (ret_fields->has_upstream_auth && ret_fields->own_auth && ret_fields->resource[0] == '\0')
        return refuse(reterr, "resource", "with upstreamAuth own: what tokens for this server name as aud");
    if (ret_fields->has_resource && ret_fields->resource[0] == '\0' && !is_new && !ret_fields->has_upstream_auth)
        return refuse(reterr, "upstreamAuth", "gateway, in the same request that takes the resource away");
    return ERR_OK;
}

/* ---- queries ----------------------------------------------------------------------------------- */

static int hex_value(uint8_t c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
        return (c | 0x20) - 'a' + 10;
    return -1;
}

/* Decodes one value of a query: %XX and + for a blank.  false: malformed, not printable ASCII, or too long. */
static bool decode_value(const uint8_t *from, size_t length, char *text, size_t size)
{
    size_t used = 0;

    for (size_t i = 0; i < length; i++) {
        int c = from[i] == '+' ? ' ' : from[i];

        if (c == '%') {
            int high = length - i > 2 ? hex_value(from[i + 1]) : -1, low = length - i > 2 ? hex_value(from[i + 2]) : -1;

            if (high < 0 || low < 0)
                return false;
            c = high << 4 | low;
            i += 2;
        }
        if (c < 0x20 || c > 0x7e || used + 1 >= size)
            return false;
        text[used++] = (char)c;
    }
    text[used] = '\0';
    return true;
}

/* RFC 3339 5.6, loosely: Postgres reads the rest, and refuses what is no moment. */
bool keys_moment_is_valid(const char *text)
{
    size_t length = strlen(text);

    return length >= 20 && length <= 32 && strspn(text, "0123456789-:.TtZz+ ") == length
           && strspn(text, "0123456789") == 4 && text[4] == '-' && text[7] == '-' && text[13] == ':';
}

static bool take_cursor(const char *text, enum page_kind kind, struct page_query *query)
{
    const size_t digits = strspn(text, "0123456789");
    const size_t length = strlen(text);
    const char *id = text + digits + 1;

    if (length >= sizeof query->cursor)
        return false;
    if (kind == PAGE_OF_SERVERS || kind == PAGE_OF_TENANTS) {
        memcpy(query->cursor, text, length + 1);
        return keys_slug_is_valid(text);
    }
    if (kind == PAGE_OF_USERS) {
        memcpy(query->cursor, text, length + 1);
        return text[0] != '\0';
    }
    if (digits == 0 || digits > 18 || text[digits] != '.' || id[0] == '\0')
        return false;
    query->cursor_us = strtoull(text, NULL, 10);
    memcpy(query->cursor, id, strlen(id) + 1);
    return true;
}

#define PAGE(kind) (1u << (unsigned)(kind))

/* Filters that are texts: where each goes, how long it may be, which lists know it. */
static const struct filter_row { const char *name; size_t offset, size; unsigned pages; } filter_rows[] = {
#define FILTER(name, member, pages) \
    { name, offsetof(struct page_query, member), sizeof ((struct page_query *)0)->member, pages }
    FILTER("from", from, PAGE(PAGE_OF_AUDIT) | PAGE(PAGE_OF_USAGE)), FILTER("to", to, PAGE(PAGE_OF_AUDIT) | PAGE(PAGE_OF_USAGE)),
    FILTER("key", key_id, PAGE(PAGE_OF_AUDIT) | PAGE(PAGE_OF_USAGE)), FILTER("user", user_id, PAGE(PAGE_OF_AUDIT) | PAGE(PAGE_OF_USAGE)),
    FILTER("tenant", tenant_id, PAGE(PAGE_OF_AUDIT) | PAGE(PAGE_OF_USAGE) | PAGE(PAGE_OF_USERS)),
    FILTER("server", server, PAGE(PAGE_OF_AUDIT) | PAGE(PAGE_OF_USAGE)),
    FILTER("outcome", outcome, PAGE(PAGE_OF_AUDIT)), FILTER("event", event, PAGE(PAGE_OF_AUDIT)),
    FILTER("tool", tool, PAGE(PAGE_OF_AUDIT)), FILTER("requestId", request_id, PAGE(PAGE_OF_AUDIT)),
    FILTER("presented", presented, PAGE(PAGE_OF_AUDIT)),
    FILTER("user", user_id, PAGE(PAGE_OF_KEYS)), FILTER("tenant", tenant_id, PAGE(PAGE_OF_KEYS)), FILTER("name", name, PAGE(PAGE_OF_KEYS)),
    FILTER("state", state, PAGE(PAGE_OF_KEYS)), FILTER("expiresBefore", to, PAGE(PAGE_OF_KEYS)),
    FILTER("by", by, PAGE(PAGE_OF_USAGE)),
#undef FILTER
};

static bool is_one_of(const char *text, const char *const names[])
{
    for (; *names != NULL; names++) {
        if (strcmp(text, *names) == 0)
            return true;
    }
    return false;
}

static bool take_filter(const char *name, const char *value, enum page_kind kind, struct page_query *query)
{
    static const char *const usages[] = { "key", "user", "tenant", "server", "hour", NULL };
    static const char *const states[] = { "active", "disabled", "expired", "revoked", NULL };
    static const char *const moments[] = { "from", "to", "expiresBefore", NULL };

    for (size_t i = 0; i < sizeof filter_rows / sizeof filter_rows[0]; i++) {
        const struct filter_row *row = &filter_rows[i];
        const size_t length = strlen(value);

        if (strcmp(row->name, name) != 0 || (row->pages & PAGE(kind)) == 0)
            continue;
        if (length == 0 || length >= row->size)
            return false;
        memcpy((char *)query + row->offset, value, length + 1);
        if (strcmp(name, "by") == 0)
            return is_one_of(value, usages);
        if (strcmp(name, "state") == 0)
            return is_one_of(value, states);
        return !is_one_of(name, moments) || keys_moment_is_valid(value);
    }
    return false;
}

static bool take_query_field(const char *name, const char *value, enum page_kind kind, struct page_query *query)
{
    char *end;

    if (strcmp(name, "limit") == 0) {
        query->limit = strtoull(value, &end, 10);
        return value[0] >= '0' && value[0] <= '9' && *end == '\0' && query->limit >= 1 && query->limit <= KEYS_PAGE_MAX;
    }
    if (strcmp(name, "cursor") == 0 && kind != PAGE_OF_USAGE)
        return take_cursor(value, kind, query);
    return take_filter(name, value, kind, query);
}

/* RFC 9110 13.1.1 and 8.8.3. */
enum err keys_parse_match(const char *field, char ret_tags[256])
{
    size_t used = 0;

    ret_tags[0] = '\0';
    if (strcmp(field, "*") == 0) {
        memcpy(ret_tags, "*", 2);
        return ERR_OK;
    }
    while (*field != '\0') {
        const bool is_weak = strncmp(field, "W/", 2) == 0;
        size_t length;

        field += is_weak ? 2 : 0;
        length = *field == '"' ? strcspn(field + 1, "\", ") : 0;
        if (*field != '"' || field[length + 1] != '"' || used + length + 2 > 256)
            return ERR_MALFORMED;
        if (!is_weak)
            used += (size_t)snprintf(ret_tags + used, 256 - used, "%s%.*s", used > 0 ? "," : "", (int)length, field + 1);
        field += length + 2;
        field += strspn(field, ", ");
    }
    return ERR_OK;
}

enum err keys_parse_page(const struct view *query, enum page_kind kind, struct page_query *ret_query,
                         struct problem *reterr)
{
    const uint8_t *at = query->bytes, *end = query->size == 0 ? at : at + query->size;

    *ret_query = (struct page_query){ .limit = KEYS_PAGE_DEFAULT, .by = "key" };
    while (at < end) {
        const uint8_t *stop = memchr(at, '&', (size_t)(end - at));
        const uint8_t *equals;
        char name[65] = "", value[161];

        stop = stop == NULL ? end : stop;
        equals = memchr(at, '=', (size_t)(stop - at));
        if (stop > at
            && (!decode_value(at, (size_t)((equals == NULL ? stop : equals) - at), name, sizeof name) || equals == NULL
                || !decode_value(equals + 1, (size_t)(stop - equals - 1), value, sizeof value)
                || !take_query_field(name, value, kind, ret_query)))
            return refuse(reterr, name, "a parameter that this call does not know, or a value it cannot use");
        at = stop == end ? end : stop + 1;
    }
    return ERR_OK;
}
