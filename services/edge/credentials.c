/* credentials.c - API keys in their two header fields.  A key in the query is not looked for: URLs are logged
 * everywhere. */
#include "services/edge/credentials.h"

#include <string.h>
#include <strings.h>

#include "common/apikey.h"

#define BEARER "Bearer"

/* The text behind "Bearer"; NULL for another scheme, which is none of our credentials. */
static const char *bearer_of(const struct http_field *field, size_t *ret_length)
{
    size_t skip = sizeof BEARER - 1;

    if (field->value_length < skip || strncasecmp(field->value, BEARER, skip) != 0)
        return NULL;
    if (field->value_length > skip && field->value[skip] != ' ')
        return NULL;
    while (skip < field->value_length && field->value[skip] == ' ')
        skip++;
    *ret_length = field->value_length - skip;
    return field->value + skip;
}

enum err credentials_find(const struct http_head *head, struct credential *ret_credential, const char **reterr_reason)
{
    const struct http_field *key = http_head_find(head, HTTP_X_API_KEY);
    const struct http_field *authorization = http_head_find(head, HTTP_AUTHORIZATION);
    struct credential found = { 0 };
    size_t length = 0;
    const char *bearer = authorization == NULL ? NULL : bearer_of(authorization, &length);

    *reterr_reason = "two_credentials";
    if (head->seen[HTTP_X_API_KEY] > 1 || head->seen[HTTP_AUTHORIZATION] > 1)
        return ERR_MALFORMED;
    if (key != NULL)
        found = (struct credential){ key->value, key->value_length };
    if (bearer != NULL && length >= sizeof APIKEY_PREFIX - 1
        && memcmp(bearer, APIKEY_PREFIX, sizeof APIKEY_PREFIX - 1) == 0) {
        if (key != NULL && (length != found.length || memcmp(bearer, found.text, length) != 0))
            return ERR_MALFORMED;
        found = (struct credential){ bearer, length };
    } else if (bearer != NULL) {
        *reterr_reason = length == 0 ? "empty" : "token";    /* a token that does not verify is 401 whatever the key */
        return ERR_UNVERIFIED;
    }
    *reterr_reason = key == NULL ? "no_credential" : "empty";
    if (found.length == 0)
        return ERR_UNVERIFIED;
    *reterr_reason = "checksum";
    if (!apikey_is_plausible(found.text, found.length))
        return ERR_UNVERIFIED;
    *ret_credential = found;
    return ERR_OK;
}
