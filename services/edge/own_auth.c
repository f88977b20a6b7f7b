/* own_auth.c - reads the audience of a token as its server will. */
#include "services/edge/own_auth.h"

#include <stdint.h>
#include <string.h>

#include <jansson.h>

#include "common/cleanup.h"
#include "common/encode.h"
#include "common/issuers.h"
#include "services/edge/credentials.h"

DEFINE_DESTROY(json_destroy, json_t, json_decref)

static bool is_resource(const json_t *value, const char *resource)
{
    const char *text = json_string_value(value);

    return text != NULL && strlen(text) == json_string_length(value) && audience_equals(text, resource);
}

static json_t *claims_of(const char *token, size_t length)
{
    uint8_t payload[TOKEN_LENGTH_MAX];
    const char *first = memchr(token, '.', length), *second;
    size_t size;

    if (first == NULL)
        return NULL;
    first++;
    second = memchr(first, '.', length - (size_t)(first - token));
    if (second == NULL || base64url_decode(first, (size_t)(second - first), payload, sizeof payload, &size) != ERR_OK)
        return NULL;
    return json_loadb((const char *)payload, size, JSON_REJECT_DUPLICATES, NULL);
}

bool own_auth_is_for(const char *token, size_t length, const char *resource)
{
    OWNED(json_destroy) json_t *claims = claims_of(token, length);
    const json_t *audience = json_object_get(claims, "aud");
    const size_t count = json_array_size(audience);

    if (resource[0] == '\0')
        return false;
    if (!json_is_array(audience))
        return is_resource(audience, resource);
    for (size_t i = 0; i < count; i++)
        if (!is_resource(json_array_get(audience, i), resource))
            return false;
    return count > 0;
}
