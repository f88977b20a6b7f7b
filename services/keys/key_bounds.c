#include "services/keys/key_bounds.h"

#include <stdio.h>
#include <string.h>

#include "common/cleanup.h"

DEFINE_DESTROY(list_destroy, json_t, json_decref)

#define REMEDY ": use a session, or a key without this bound"

static enum err refuse(struct problem *reterr, const char *field, const char *detail)
{
    return problem_set(reterr, ERR_DENIED, "key_bounds", field, detail);
}

bool key_bounds_are_wanted(uint64_t operation)
{
    switch (operation) {
    case OPERATION_key_create:
    case OPERATION_key_update:
    case OPERATION_key_enable:
    case OPERATION_key_rotate:
    case OPERATION_key_bulk:
    case OPERATION_key_import:
        return true;
    default:
        return false;
    }
}

/* As authz takes a row's limit: 0 admits one. */
static uint64_t requests_of(int64_t rate_max)
{
    return rate_max > 0 ? (uint64_t)rate_max : 1;
}

static bool is_plugins_own(uint64_t requests, uint64_t window_ms)
{
    return requests == PLUGIN_RATE_MAX && window_ms == PLUGIN_RATE_WINDOW_MS;
}

static void take_rate(const struct standing *standing, const char *row_limits, struct key_bounds *bounds)
{
    const uint64_t requests = requests_of(standing->key_rate_max), window_ms = (uint64_t)standing->key_rate_window_ms;

    bounds->ignores_plugins_rate = strcmp(row_limits, "ignore_default") == 0;
    if (!standing->key_has_rate || strcmp(row_limits, "ignore") == 0
        || (bounds->ignores_plugins_rate && is_plugins_own(requests, window_ms)))
        return;
    bounds->rate_requests = requests;
    bounds->rate_window_ms = window_ms;
}

void key_bounds_take(const struct standing *standing, const char *row_limits, struct key_bounds *ret_bounds)
{
    const size_t length = strlen(standing->key_addresses);

    *ret_bounds = (struct key_bounds){
        .is_key = true, .is_alive = standing->key_is_alive, .is_metered = standing->key_is_metered,
        .limits_addresses = standing->key_limits_addresses, .limits_names = standing->key_limits_names,
        .life_s = standing->key_life_s > 0 ? (uint64_t)standing->key_life_s : 0,
    };
    take_rate(standing, row_limits, ret_bounds);
    snprintf(ret_bounds->expires_at, sizeof ret_bounds->expires_at, "%s", standing->key_expires_at);
    /* Less than a second is left, or nobody can read it: nothing is within that. */
    if ((ret_bounds->expires_at[0] != '\0' && ret_bounds->life_s == 0) || length >= sizeof ret_bounds->addresses)
        ret_bounds->is_alive = false;
    else
        memcpy(ret_bounds->addresses, standing->key_addresses, length + 1);
}

bool key_bounds_limit(const struct key_bounds *bounds)
{
    return bounds->is_key && (bounds->is_metered || bounds->limits_addresses || bounds->limits_names
                              || bounds->expires_at[0] != '\0' || bounds->rate_requests != 0);
}

enum err key_bounds_decide_caller(const struct key_bounds *bounds, struct problem *reterr)
{
    if (!bounds->is_key || bounds->is_alive)
        return ERR_OK;
    return refuse(reterr, "", "the key of this call is not valid any more");
}

/* ---- addresses --------------------------------------------------------------------------------- */

static bool is_within(const struct network *inner, const char *lines)
{
    while (*lines != '\0') {
        const size_t length = strcspn(lines, "\n");
        struct network outer;
        char line[NETWORK_TEXT_SIZE];

        if (length < sizeof line) {
            snprintf(line, sizeof line, "%.*s", (int)length, lines);
            if (network_parse(line, &outer) == ERR_OK && network_contains(&outer, inner))
                return true;
        }
        lines += length;
        lines += *lines == '\n';
    }
    return false;
}

static bool text_is_within(const char *text, const char *lines)
{
    struct network network;

    return network_parse(text, &network) == ERR_OK && is_within(&network, lines);
}

/* A network a line. */
static bool lines_are_within(const char *inner, const char *outer)
{
    while (*inner != '\0') {
        const size_t length = strcspn(inner, "\n");
        char line[NETWORK_TEXT_SIZE];

        if (length >= sizeof line)
            return false;
        snprintf(line, sizeof line, "%.*s", (int)length, inner);
        if (!text_is_within(line, outer))
            return false;
        inner += length;
        inner += *inner == '\n';
    }
    return true;
}

/* A list as JSON; "": no limit. */
static bool list_is_within(const char *json, const char *outer)
{
    OWNED(list_destroy) json_t *list = json[0] == '\0' ? NULL : json_loads(json, 0, NULL);
    const json_t *item;
    size_t i;

    if (!json_is_array(list))
        return false;
    json_array_foreach(list, i, item) {
        if (!json_is_string(item) || !text_is_within(json_string_value(item), outer))
            return false;
    }
    return true;
}

/* ---- what a body says -------------------------------------------------------------------------- */

static enum err refuse_addresses(struct problem *reterr)
{
    return refuse(reterr, "allowedIps", "the key of this call works from its allowedIps alone, and no key that it makes or changes may work from others" REMEDY);
}

static enum err refuse_life(struct problem *reterr)
{
    return refuse(reterr, "expiresIn", "no key that the key of this call makes or changes may live longer than itself" REMEDY);
}

static enum err refuse_rate(struct problem *reterr)
{
    return refuse(reterr, "rateLimit", "the key of this call has a rateLimit of its own, and no key that it makes or changes may have a higher one" REMEDY);
}

static enum err refuse_names(struct problem *reterr)
{
    return refuse(reterr, "", "a key for some servers or tools makes and changes no keys" REMEDY);
}

static bool rate_is_within(const struct key_bounds *bounds, uint64_t requests, uint64_t window_ms)
{
    return requests <= bounds->rate_requests && window_ms >= bounds->rate_window_ms
           && !(bounds->ignores_plugins_rate && is_plugins_own(requests, window_ms));
}

static enum err decide_fields(const struct key_bounds *bounds, const struct key_fields *fields, struct problem *reterr)
{
    const struct key_reach *reach = &fields->reach;

    if (bounds->limits_addresses && reach->has_addresses
        && !(reach->limits_addresses && lines_are_within(reach->addresses, bounds->addresses)))
        return refuse_addresses(reterr);
    if (bounds->life_s != 0 && fields->has_expiry && (fields->expires_in_s == 0 || fields->expires_in_s > bounds->life_s))
        return refuse_life(reterr);
    if (bounds->rate_requests != 0 && fields->has_rate
        && (fields->rate_requests == 0 || !rate_is_within(bounds, fields->rate_requests, fields->rate_window_s * 1000)))
        return refuse_rate(reterr);
    return ERR_OK;
}

enum err key_bounds_decide_new(const struct key_bounds *bounds, struct key_fields *fields, struct problem *reterr)
{
    struct key_reach *reach = &fields->reach;
    enum err err = key_bounds_decide_caller(bounds, reterr);

    if (err != ERR_OK || !key_bounds_limit(bounds))
        return err;
    if (bounds->limits_names)
        return refuse_names(reterr);
    if (bounds->is_metered)
        return refuse(reterr, "", "a key with a number of uses makes no keys" REMEDY);
    err = decide_fields(bounds, fields, reterr);
    if (err != ERR_OK)
        return err;
    if (bounds->limits_addresses && !reach->has_addresses) {
        reach->has_addresses = reach->limits_addresses = true;
        memcpy(reach->addresses, bounds->addresses, sizeof reach->addresses);
    }
    if (bounds->life_s != 0 && (fields->expires_in_s == 0 || fields->expires_in_s > bounds->life_s))
        fields->expires_in_s = bounds->life_s;
    if (bounds->rate_requests != 0 && !fields->has_rate) {
        fields->rate_requests = bounds->rate_requests;
        fields->rate_window_s = (bounds->rate_window_ms + 999) / 1000;
    }
    return ERR_OK;
}

/* ---- keys that are there ----------------------------------------------------------------------- */

static bool hands_out(const struct key_fields *fields)
{
    return fields == NULL || fields->has_scopes || fields->has_expiry || fields->has_rate || fields->reach.has_addresses
           || fields->reach.has_servers || fields->reach.has_tools;
}

/* What the change leaves as it is. */
static enum err decide_rest(const struct key_bounds *bounds, const struct key_row *key, const struct key_fields *fields,
                            struct problem *reterr)
{
    const bool keeps_addresses = fields == NULL || !fields->reach.has_addresses;
    const bool keeps_life = fields == NULL || !fields->has_expiry, keeps_rate = fields == NULL || !fields->has_rate;

    if (bounds->is_metered)
        return refuse(reterr, "", "a key with a number of uses changes no other key" REMEDY);
    if (bounds->limits_addresses && keeps_addresses && !list_is_within(key->addresses, bounds->addresses))
        return refuse_addresses(reterr);
    /* Of one form and in UTC, so their order is that of the moments. */
    if (bounds->life_s != 0 && keeps_life && (key->expires_at[0] == '\0' || strcmp(key->expires_at, bounds->expires_at) > 0))
        return refuse_life(reterr);
    if (bounds->rate_requests != 0 && keeps_rate
        && (!key->has_rate || !rate_is_within(bounds, requests_of(key->rate_max), (uint64_t)key->rate_window_ms)))
        return refuse_rate(reterr);
    return ERR_OK;
}

enum err key_bounds_decide_change(const struct key_bounds *bounds, const struct key_row *key, bool is_itself,
                                  const struct key_fields *fields, struct problem *reterr)
{
    enum err err = key_bounds_decide_caller(bounds, reterr);

    if (err != ERR_OK || !key_bounds_limit(bounds) || !hands_out(fields))
        return err;
    if (bounds->limits_names)
        return refuse_names(reterr);
    if (!is_itself)
        err = decide_rest(bounds, key, fields, reterr);
    return err != ERR_OK || fields == NULL ? err : decide_fields(bounds, fields, reterr);
}

enum err key_bounds_decide_many(const struct key_bounds *bounds, struct problem *reterr)
{
    enum err err = key_bounds_decide_caller(bounds, reterr);

    if (err != ERR_OK || !key_bounds_limit(bounds))
        return err;
    return refuse(reterr, "", "a key with allowedIps, expiresAt, rateLimit or a number of uses gives many keys nothing at once" REMEDY);
}
