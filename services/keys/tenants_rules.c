#include "services/keys/tenants_rules.h"

#include <stdio.h>
#include <string.h>

static enum err refuse(struct problem *reterr, const char *field, const char *detail)
{
    return problem_set(reterr, ERR_UNPROCESSABLE, NULL, field, detail);
}

static enum err take_policy_number(const json_t *value, uint64_t limit, const char *field, struct policy_number *number,
                                   struct problem *reterr)
{
    char detail[80];

    number->is_set = true;
    if (keys_take_number(value, limit, &number->value))
        return ERR_OK;
    snprintf(detail, sizeof detail, "a number from 1 to %lu, or null for no rule", (unsigned long)limit);
    return refuse(reterr, field, detail);
}

static enum err take_policy_scopes(const json_t *value, struct tenant_fields *fields, struct problem *reterr)
{
    uint64_t scopes = 0;

    fields->has_scopes = true;
    if (json_is_null(value))
        return ERR_OK;
    if (!keys_take_scopes(value, &scopes))
        return refuse(reterr, "policy.scopes",
                      "a list of at least one of read, write, admin, proxy, metrics, health, or null for no rule");
    scopes_format(scopes, fields->scopes);
    return ERR_OK;
}

static enum err take_policy_prefix(const json_t *value, struct tenant_fields *fields, struct problem *reterr)
{
    const char *text = json_string_value(value);

    fields->has_prefix = true;
    if (json_is_null(value))
        return ERR_OK;
    if (text == NULL || strlen(text) != json_string_length(value) || !apikey_prefix_is_valid(text))
        return refuse(reterr, "policy.keyPrefix",
                      "a letter, then letters, digits and underscores, an underscore at the end, 2 to 16 in all, such as acme_; or null for mcp_");
    memcpy(fields->key_prefix, text, strlen(text) + 1);
    return ERR_OK;
}

static enum err take_policy(const json_t *policy, struct tenant_fields *fields, struct problem *reterr)
{
    const struct {
        const char *name, *field;
        uint64_t limit;
        struct policy_number *number;
    } rows[] = {
        { "maxKeyLife", "policy.maxKeyLife", KEYS_EXPIRY_MAX_S, &fields->max_key_life_s },
        { "maxKeys", "policy.maxKeys", INT32_MAX, &fields->max_keys },
        { "rotateAfter", "policy.rotateAfter", KEYS_EXPIRY_MAX_S, &fields->rotate_after_s },
        { "idleAfter", "policy.idleAfter", KEYS_EXPIRY_MAX_S, &fields->idle_after_s },
    };
    json_t *object = (json_t *)(uintptr_t)policy;    /* jansson's iterators take no const */
    enum err err = ERR_OK;

    if (!json_is_object(policy))
        return refuse(reterr, "policy", "an object");
    for (void *at = json_object_iter(object); at != NULL && err == ERR_OK; at = json_object_iter_next(object, at)) {
        const char *name = json_object_iter_key(at);
        char unknown[65];
        size_t i = 0;

        while (i < sizeof rows / sizeof rows[0] && strcmp(rows[i].name, name) != 0)
            i++;
        snprintf(unknown, sizeof unknown, "policy.%s", name);
        if (strcmp(name, "scopes") == 0)
            err = take_policy_scopes(json_object_iter_value(at), fields, reterr);
        else if (strcmp(name, "keyPrefix") == 0)
            err = take_policy_prefix(json_object_iter_value(at), fields, reterr);
        else if (i == sizeof rows / sizeof rows[0])
            err = refuse(reterr, unknown, "no such field");
        else
            err = take_policy_number(json_object_iter_value(at), rows[i].limit, rows[i].field, rows[i].number, reterr);
    }
    return err;
}

static enum err take_limits(const json_t *limits, struct tenant_fields *fields, struct problem *reterr)
{
    static const char shape[] = "an object with tenant, perUser or both, each {requests, window} or null";
    const json_t *tenant = json_object_get(limits, "tenant"), *user = json_object_get(limits, "perUser");
    enum err err = ERR_OK;

    if (!json_is_object(limits) || json_object_size(limits) != (size_t)(tenant != NULL) + (size_t)(user != NULL))
        return refuse(reterr, "limits", shape);
    fields->limit.is_set = tenant != NULL;
    fields->user_limit.is_set = user != NULL;
    if (tenant != NULL)
        err = keys_take_rate(tenant, "limits.tenant", &fields->limit.requests, &fields->limit.window_s, reterr);
    if (err == ERR_OK && user != NULL)
        err = keys_take_rate(user, "limits.perUser", &fields->user_limit.requests, &fields->user_limit.window_s, reterr);
    return err;
}

static enum err take_field(const char *name, const json_t *value, struct tenant_fields *fields, struct problem *reterr)
{
    const char *text = json_string_value(value);

    if (strcmp(name, "policy") == 0)
        return take_policy(value, fields, reterr);
    if (strcmp(name, "limits") == 0)
        return take_limits(value, fields, reterr);
    if (strcmp(name, "id") == 0) {
        fields->has_id = true;
        return keys_take_id(value, fields->id, 80) ? ERR_OK
            : refuse(reterr, name, "1 to 80 of the characters A-Z a-z 0-9 - _ . : @");
    }
    if (strcmp(name, "slug") == 0) {
        if (text == NULL || !keys_slug_is_valid(text))
            return refuse(reterr, name, "1 to 64 of the characters a-z 0-9 -");
        fields->has_slug = true;
        memcpy(fields->slug, text, strlen(text) + 1);
        return ERR_OK;
    }
    if (strcmp(name, "name") != 0)
        return refuse(reterr, name, strcmp(name, "state") == 0 ? "use suspend and resume"
                                    : strcmp(name, "rateLimit") == 0 ? "use limits: {\"tenant\": {requests, window}}" : "no such field");
    fields->has_name = true;
    return keys_take_label(value, TENANT_NAME_MAX, fields->name) ? ERR_OK
        : refuse(reterr, name, "a text of 1 to 64 characters, or null");
}

enum err tenants_parse(const json_t *body, bool is_new, struct tenant_fields *ret_fields, struct problem *reterr)
{
    json_t *object = (json_t *)(uintptr_t)body;
    enum err err;

    *ret_fields = (struct tenant_fields){ .has_id = false };
    if (!json_is_object(body))
        return problem_set(reterr, ERR_MALFORMED, NULL, "", "the body must be a JSON object");
    for (void *at = json_object_iter(object); at != NULL; at = json_object_iter_next(object, at)) {
        err = take_field(json_object_iter_key(at), json_object_iter_value(at), ret_fields, reterr);
        if (err != ERR_OK)
            return err;
    }
    if (is_new && !ret_fields->has_slug)
        return refuse(reterr, "slug", "1 to 64 of the characters a-z 0-9 -");
    if (!is_new && ret_fields->has_id)
        return refuse(reterr, "id", "a tenant keeps its id");
    return ERR_OK;
}
