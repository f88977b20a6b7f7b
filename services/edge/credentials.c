/* credentials.c - keys, tokens and session cookies in their fields, and whether a cookie may count. */
#include "services/edge/credentials.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "common/apikey.h"
#include "common/encode.h"
#include "services/edge/proxy_fields.h"

#define BEARER        "Bearer"
#define SECURE_PREFIX "__Secure-"

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

static bool is_ours(const char *text, size_t length)
{
    return (length >= sizeof APIKEY_PREFIX - 1 && memcmp(text, APIKEY_PREFIX, sizeof APIKEY_PREFIX - 1) == 0)
           || apikey_has_our_form(text, length);
}

/* RFC 9110 11.2: letters, digits and -._~+/, closed by any number of =. */
static bool is_token68(const char *text, size_t length)
{
    size_t i = 0;

    while (i < length && (isalnum((unsigned char)text[i]) || strchr("-._~+/", text[i]) != NULL))
        i++;
    if (i == 0)
        return false;
    while (i < length && text[i] == '=')
        i++;
    return i == length;
}

static enum err take_token(const char *bearer, size_t length, const struct http_field *key,
                           struct credential *ret_credential, const char **reterr_reason)
{
    if (memchr(bearer, ',', length) != NULL || memchr(bearer, ' ', length) != NULL)
        return ERR_MALFORMED;    /* two fields joined by a proxy (RFC 9110 5.3) */
    *reterr_reason = length == 0 ? "empty" : "token";
    if (length > TOKEN_LENGTH_MAX || !is_token68(bearer, length))
        return ERR_UNVERIFIED;
    *ret_credential = (struct credential){ .method = AUTH_OAUTH, .text = bearer, .length = length };
    if (key != NULL && apikey_is_plausible(key->value, key->value_length)) {
        ret_credential->beside = key->value;
        ret_credential->beside_length = key->value_length;
    }
    return ERR_OK;
}

static enum err take_key(const char *text, size_t length, struct credential *ret_credential, const char **reterr_reason)
{
    *reterr_reason = length == 0 ? "empty" : "checksum";
    if (!apikey_is_plausible(text, length))
        return ERR_UNVERIFIED;
    *ret_credential = (struct credential){ .method = AUTH_API_KEY, .text = text, .length = length };
    return ERR_OK;
}

/* The value of one name in a Cookie field; each further one must be the same. */
static enum err find_cookie(const struct http_field *field, const char *name, struct credential *found)
{
    const char *at = field->value, *end = field->value + field->value_length;
    const size_t name_length = strlen(name);

    while (at < end) {
        const char *semicolon = memchr(at, ';', (size_t)(end - at)), *stop = semicolon != NULL ? semicolon : end;
        const char *value = at + name_length + 1;

        if (stop >= value && memcmp(at, name, name_length) == 0 && at[name_length] == '=') {
            const size_t length = (size_t)(stop - value);

            if (found->text != NULL && (found->length != length || memcmp(found->text, value, length) != 0))
                return ERR_MALFORMED;
            found->text = value;
            found->length = length;
        }
        at = stop < end ? stop + 1 : end;
        while (at < end && *at == ' ')
            at++;
    }
    return ERR_OK;
}

static enum err find_session(const struct http_head *head, const char *name, struct credential *found)
{
    enum err err = ERR_OK;

    for (size_t i = 0; i < head->count && err == ERR_OK; i++) {
        if (head->fields[i].id == HTTP_COOKIE)
            err = find_cookie(&head->fields[i], name, found);
    }
    return err;
}

/* RFC 6265 4.1.1: what a cookie's value may hold. */
static bool is_cookie_value(const char *text, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        if (text[i] <= ' ' || text[i] >= 0x7f || strchr("\",;\\", text[i]) != NULL)
            return false;
    }
    return length > 0 && length <= TOKEN_LENGTH_MAX;
}

static enum err take_session(const struct http_head *head, const char *name, struct credential *ret_credential,
                             const char **reterr_reason)
{
    struct credential found = { .method = AUTH_SESSION };
    char secure[sizeof SECURE_PREFIX + 128];
    enum err err;

    *reterr_reason = "no_credential";
    if (name[0] == '\0' || strlen(name) > 128 || head->seen[HTTP_COOKIE] == 0)
        return ERR_UNVERIFIED;
    snprintf(secure, sizeof secure, SECURE_PREFIX "%s", name);
    *reterr_reason = "two_credentials";
    err = find_session(head, secure, &found);
    if (err == ERR_OK && found.text == NULL)
        err = find_session(head, name, &found);
    if (err != ERR_OK)
        return err;
    *reterr_reason = found.text == NULL ? "no_credential" : found.length == 0 ? "empty" : "token";
    if (found.text == NULL || !is_cookie_value(found.text, found.length))
        return ERR_UNVERIFIED;
    *ret_credential = found;
    return ERR_OK;
}

enum err credentials_find(const struct http_head *head, const char *session_cookie, struct credential *ret_credential,
                          const char **reterr_reason)
{
    const struct http_field *key = http_head_find(head, HTTP_X_API_KEY);
    const struct http_field *authorization = http_head_find(head, HTTP_AUTHORIZATION);
    size_t length = 0;
    const char *bearer = authorization == NULL ? NULL : bearer_of(authorization, &length);

    *reterr_reason = "two_credentials";
    if (head->seen[HTTP_X_API_KEY] > 1 || head->seen[HTTP_AUTHORIZATION] > 1)
        return ERR_MALFORMED;
    if (bearer != NULL && !is_ours(bearer, length))
        return take_token(bearer, length, key, ret_credential, reterr_reason);
    if (bearer != NULL && key != NULL && (length != key->value_length || memcmp(bearer, key->value, length) != 0))
        return ERR_MALFORMED;
    if (bearer != NULL)
        return take_key(bearer, length, ret_credential, reterr_reason);
    if (key != NULL)
        return take_key(key->value, key->value_length, ret_credential, reterr_reason);
    return take_session(head, session_cookie, ret_credential, reterr_reason);
}

/* Bytes of a three-part token before its signature; 0: it has another number of parts. */
static size_t signed_length(const struct credential *credential)
{
    const char *first = memchr(credential->text, '.', credential->length);
    const char *second = NULL;
    const char *end = credential->text + credential->length;

    if (first != NULL)
        second = memchr(first + 1, '.', (size_t)(end - first) - 1);
    if (second == NULL || memchr(second + 1, '.', (size_t)(end - second) - 1) != NULL)
        return 0;
    return (size_t)(second - credential->text);
}

void credentials_digest(const struct credential *credential, struct verdict_request *request)
{
    request->method = (uint64_t)credential->method;
    request->digest_size = DIGEST_SIZE;
    if (credential->method == AUTH_API_KEY) {
        apikey_digest(credential->text, credential->length, request->digest);
        return;
    }
    const size_t is_signed = credential->method == AUTH_OAUTH ? signed_length(credential) : 0;

    request->proof_size = DIGEST_SIZE;
    digest_sha256(credential->text, credential->length, request->proof);
    if (is_signed > 0)
        digest_sha256(credential->text, is_signed, request->digest);
    else
        memcpy(request->digest, request->proof, DIGEST_SIZE);
    if (credential->beside != NULL) {
        request->beside_size = DIGEST_SIZE;
        apikey_digest(credential->beside, credential->beside_length, request->beside);
    }
}

bool credentials_are_in_query(const char *query)
{
    static const char name[] = "access_token";

    while (*query != '\0') {
        const size_t length = strcspn(query, "&");

        if (length >= sizeof name - 1 && strncasecmp(query, name, sizeof name - 1) == 0
            && (query[sizeof name - 1] == '=' || length == sizeof name - 1))
            return true;
        query += length + (query[length] == '&');
    }
    return false;
}

/* Is the Origin scheme://host of the host that was called?  Another site's page cannot be served under our name. */
static bool is_of_host(const struct http_field *origin, const char *host)
{
    const char *scheme = strstr(origin->value, "://");
    const size_t length = strlen(host);

    return scheme != NULL && length > 0
           && origin->value_length == (size_t)(scheme - origin->value) + 3 + length
           && strncasecmp(scheme + 3, host, length) == 0;
}

/* `allowed` without the entry "*": a cookie is sent by the browser itself, so it needs a name that somebody chose. */
static bool is_named(const char *allowed, const char *public_url, const char *origin)
{
    char named[1025];
    size_t used = 0;

    while (*allowed != '\0') {
        size_t length;

        allowed += strspn(allowed, ", ");
        length = strcspn(allowed, ", ");
        if (length > 0 && !(length == 1 && allowed[0] == '*') && used + length + 2 < sizeof named) {
            memcpy(named + used, allowed, length);
            used += length;
            named[used++] = ',';
        }
        allowed += length;
    }
    named[used] = '\0';
    return proxy_origin_is_allowed(named, public_url, origin);
}

bool credentials_are_same_site(const struct http_head *head, const struct same_site *site)
{
    const struct http_field *origin = http_head_find(head, HTTP_ORIGIN);
    const struct http_field *fetch = http_head_find(head, HTTP_SEC_FETCH_SITE);

    if (head->seen[HTTP_ORIGIN] > 1 || head->seen[HTTP_SEC_FETCH_SITE] > 1)
        return false;
    if (origin != NULL)
        return is_of_host(origin, site->host) || is_named(site->allowed, site->public_url, origin->value);
    if (fetch != NULL)
        return strcasecmp(fetch->value, "same-origin") == 0 || strcasecmp(fetch->value, "none") == 0;
    return site->is_safe_method;
}
