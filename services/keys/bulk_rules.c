#include "services/keys/bulk_rules.h"

#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    enum bulk_action action;
} actions[] = {
    { "revoke", BULK_REVOKE }, { "disable", BULK_DISABLE }, { "enable", BULK_ENABLE }, { "delete", BULK_DELETE },
};
#define ACTIONS (sizeof actions / sizeof actions[0])

static enum err refuse(struct problem *reterr, const char *field, const char *detail)
{
    return problem_set(reterr, ERR_UNPROCESSABLE, NULL, field, detail);
}

const char *bulk_action_text(enum bulk_action action)
{
    for (size_t i = 0; i < ACTIONS; i++) {
        if (actions[i].action == action)
            return actions[i].name;
    }
    return "";
}

static bool take_ids(const json_t *value)
{
    char id[65];
    const json_t *member;
    size_t i;

    if (!json_is_array(value) || json_array_size(value) == 0 || json_array_size(value) > BULK_MAX)
        return false;
    json_array_foreach(value, i, member) {
        if (!keys_take_id(member, id, 64))
            return false;
    }
    return true;
}

static bool take_moment(const json_t *value, char text[33])
{
    const char *from = json_string_value(value);

    if (from == NULL || json_string_length(value) != strlen(from) || !keys_moment_is_valid(from))
        return false;
    memcpy(text, from, strlen(from) + 1);
    return true;
}

static enum err take_condition(const char *name, const json_t *value, struct bulk_fields *fields, struct problem *reterr)
{
    char field[65];

    snprintf(field, sizeof field, "filter.%s", name);
    if (strcmp(name, "ids") == 0) {
        fields->has_ids = true;
        return take_ids(value) ? ERR_OK : refuse(reterr, field, "a list of 1 to 500 ids of keys");
    }
    if (strcmp(name, "userId") == 0)
        return keys_take_id(value, fields->user_id, 64) ? ERR_OK : refuse(reterr, field, "the id of an owner");
    if (strcmp(name, "tenantId") == 0)
        return keys_take_id(value, fields->tenant_id, 80) ? ERR_OK : refuse(reterr, field, "the id of a tenant");
    if (strcmp(name, "name") == 0)
        return keys_take_label(value, KEYS_NAME_MAX, fields->name) && fields->name[0] != '\0'
                   ? ERR_OK : refuse(reterr, field, "a text of 1 to 32 characters");
    if (strcmp(name, "createdBefore") == 0)
        return take_moment(value, fields->created_before) ? ERR_OK : refuse(reterr, field, "a moment as in RFC 3339");
    if (strcmp(name, "expiresBefore") == 0)
        return take_moment(value, fields->expires_before) ? ERR_OK : refuse(reterr, field, "a moment as in RFC 3339");
    if (strcmp(name, "unusedFor") == 0)
        return keys_take_number(value, KEYS_EXPIRY_MAX_S, &fields->unused_for_s) && fields->unused_for_s != 0
                   ? ERR_OK : refuse(reterr, field, "seconds, from 1 to 315360000");
    return refuse(reterr, field, "no such condition");
}

static enum err take_filter(const json_t *filter, struct bulk_fields *fields, struct problem *reterr)
{
    json_t *object = (json_t *)(uintptr_t)filter;    /* jansson's iterators take no const */
    enum err err = ERR_OK;

    if (!json_is_object(filter) || json_object_size(filter) == 0)
        return refuse(reterr, "filter",
                      "an object with at least one of ids, userId, tenantId, name, createdBefore, expiresBefore, unusedFor");
    for (void *at = json_object_iter(object); at != NULL && err == ERR_OK; at = json_object_iter_next(object, at))
        err = take_condition(json_object_iter_key(at), json_object_iter_value(at), fields, reterr);
    return err;
}

static enum err take_action(const json_t *value, struct bulk_fields *fields, struct problem *reterr)
{
    const char *text = json_string_value(value);

    for (size_t i = 0; text != NULL && i < ACTIONS; i++) {
        if (strcmp(actions[i].name, text) != 0)
            continue;
        fields->action = actions[i].action;
        return ERR_OK;
    }
    return refuse(reterr, "action", "revoke, disable, enable or delete");
}

static enum err take_field(const char *name, const json_t *value, struct bulk_fields *fields, struct problem *reterr)
{
    if (strcmp(name, "action") == 0)
        return take_action(value, fields, reterr);
    if (strcmp(name, "filter") == 0)
        return take_filter(value, fields, reterr);
    if (strcmp(name, "dryRun") == 0) {
        fields->is_dry_run = json_is_true(value);
        return json_is_boolean(value) ? ERR_OK : refuse(reterr, name, "true or false");
    }
    if (strcmp(name, "limit") == 0)
        return keys_take_number(value, BULK_MAX, &fields->limit) && fields->limit != 0
                   ? ERR_OK : refuse(reterr, name, "a number from 1 to 500");
    if (strcmp(name, "reason") != 0)
        return refuse(reterr, name, "no such field");
    if (!json_is_string(value) || json_string_length(value) > KEYS_REASON_MAX)
        return refuse(reterr, name, "a text of at most 200 bytes");
    memcpy(fields->reason, json_string_value(value), json_string_length(value) + 1);
    return ERR_OK;
}

enum err bulk_parse(const json_t *body, struct bulk_fields *ret_fields, struct problem *reterr)
{
    json_t *object = (json_t *)(uintptr_t)body;
    enum err err;

    *ret_fields = (struct bulk_fields){ .limit = BULK_DEFAULT };
    if (!json_is_object(body))
        return problem_set(reterr, ERR_MALFORMED, NULL, "", "the body must be a JSON object");
    for (void *at = json_object_iter(object); at != NULL; at = json_object_iter_next(object, at)) {
        err = take_field(json_object_iter_key(at), json_object_iter_value(at), ret_fields, reterr);
        if (err != ERR_OK)
            return err;
    }
    if (json_object_get(body, "action") == NULL)
        return refuse(reterr, "action", "revoke, disable, enable or delete");
    if (json_object_get(body, "filter") == NULL)
        return take_filter(NULL, ret_fields, reterr);
    if (ret_fields->has_ids)
        ret_fields->limit = BULK_MAX;
    return ERR_OK;
}
