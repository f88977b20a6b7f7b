#include "services/keys/keys_json.h"

#include <stdio.h>
#include <string.h>

#include "common/scope.h"

/* "" stands for NULL.  A text that is not UTF-8 cannot come out of a UTF-8 database. */
static json_t *text_or_null(const char *text)
{
    return text[0] == '\0' ? json_null() : json_string(text);
}

json_t *keys_json_scopes(uint64_t scopes)
{
    json_t *list = json_array();

    for (unsigned scope = 0; scope < SCOPE_COUNT; scope++) {
        if ((scopes >> scope & 1) != 0)
            json_array_append_new(list, json_string(scope_text((enum scope)scope)));
    }
    return list;
}

static json_t *rate_of(const struct key_row *key)
{
    if (!key->has_rate || (key->rate_max == PLUGIN_RATE_MAX && key->rate_window_ms == PLUGIN_RATE_WINDOW_MS))
        return json_null();
    return json_pack("{s:I, s:I}", "requests", (json_int_t)key->rate_max, "window",
                     (json_int_t)((key->rate_window_ms + 999) / 1000));
}

/* Better-Auth before 1.4.22 stored JSON in JSON. */
static json_t *metadata_of(const char *text)
{
    json_t *value = json_loads(text, JSON_DECODE_ANY, NULL);

    if (json_is_string(value)) {
        json_t *inner = json_loads(json_string_value(value), 0, NULL);

        json_decref(value);
        value = inner;
    }
    return value != NULL ? value : json_null();
}

static json_t *list_or_null(const char *json)
{
    json_t *list = json[0] == '\0' ? NULL : json_loads(json, 0, NULL);

    return list != NULL ? list : json_null();
}

json_t *keys_json_key(const struct key_row *key, const char *resource)
{
    char tenant[81] = "";

    if (keys_tenant(&key->facts, tenant) != ERR_OK)
        tenant[0] = '\0';
    return json_pack("{s:s, s:o, s:o, s:o, s:s, s:o, s:o, s:b, s:o, s:o, s:o, s:s, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:s}", "id",
                     key->id, "name", text_or_null(key->name), "start", text_or_null(key->start), "prefix",
                     text_or_null(key->prefix), "userId", key->facts.reference_id, "tenantId", text_or_null(tenant),
                     "scopes", keys_json_scopes(keys_permission_scopes(key->permissions, resource)), "enabled",
                     key->facts.enabled && !key->facts.revoked, "revokedAt", text_or_null(key->revoked_at),
                     "revokedReason", text_or_null(key->revoked_reason), "expiresAt", text_or_null(key->expires_at),
                     "createdAt", key->created_at, "updatedAt", key->updated_at, "createdBy",
                     text_or_null(key->created_by), "rateLimit", rate_of(key), "metadata", metadata_of(key->metadata),
                     "lastUsedAt", text_or_null(key->last_used_at), "allowedIps", list_or_null(key->addresses), "servers",
                     list_or_null(key->servers), "tools", list_or_null(key->tools), "environment",
                     text_or_null(key->environment), "etag", key->etag);
}

json_t *keys_json_server(const struct server_row *server)
{
    return json_pack("{s:s, s:s, s:o, s:o, s:b, s:s, s:s, s:s, s:o, s:b, s:s, s:s}", "slug", server->slug, "url", server->url, "name",
                     text_or_null(server->name), "tenantId", text_or_null(server->tenant_id), "enabled",
                     server->enabled, "createdAt", server->created_at, "updatedAt", server->updated_at, "upstreamAuth",
                     server->upstream_auth, "resource", text_or_null(server->resource), "secondFactor", server->second_factor,
                     "enforce", server->enforce, "etag", server->etag);
}

json_t *keys_json_context(const struct key_row *key, const char *resource)
{
    const uint64_t scopes = keys_permission_scopes(key->permissions, resource);
    char tenant[81] = "", user[128];

    if (keys_tenant(&key->facts, tenant) != ERR_OK)
        return NULL;
    snprintf(user, sizeof user, "%s%.100s", key->facts.is_organization ? "org:" : "", key->facts.reference_id);
    return json_pack("{s:s, s:s, s:s, s:o, s:s, s:s, s:o, s:o, s:o, s:o}", "userId", user, "tenantId", tenant, "authMethod",
                     auth_method_text(AUTH_API_KEY), "scopes", keys_json_scopes(scopes), "rateLimitTier",
                     tier_text((scopes & SCOPE_BIT(ADMIN)) != 0 ? TIER_ADMIN : TIER_API_KEY), "keyId", key->id,
                     "expiresAt", text_or_null(key->expires_at), "allowedIps", list_or_null(key->addresses), "servers",
                     list_or_null(key->servers), "tools", list_or_null(key->tools));
}

static const char *title_of(int status)
{
    switch (status) {
    case 400: return "Bad Request";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 409: return "Conflict";
    case 412: return "Precondition Failed";
    case 422: return "Unprocessable Content";
    case 503: return "Service Unavailable";
    default:  return "Internal Server Error";
    }
}

json_t *keys_json_problem(const struct problem *problem)
{
    const int status = err_http_status(problem->err);
    const char *code = problem->code != NULL ? problem->code : err_code(problem->err);
    json_t *body =
        json_pack("{s:s, s:s, s:i, s:s, s:s}", "type", "about:blank", "title", title_of(status), "status", status,
                  "code", code, "detail", problem->detail[0] != '\0' ? problem->detail : err_meaning(problem->err));

    if (problem->field[0] != '\0')
        json_object_set_new(body, "field", json_string(problem->field));
    return body;
}

void keys_format_permissions(uint64_t scopes, const char *resource, char *text, size_t size)
{
    OWNED(keys_json_destroy) json_t *object = json_pack("{s:o}", resource, keys_json_scopes(scopes));
    size_t length = object == NULL ? 0 : json_dumpb(object, text, size - 1, JSON_COMPACT);

    text[length < size ? length : 0] = '\0';
}
