/* A resource, and behind a line end a client's token and an introspection form: a token is for one resource alone, a form holds at most one key. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/apikey.h"
#include "common/encode.h"
#include "services/edge/own_auth.h"
#include "services/edge/query.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

/* Any claims as a token's payload. */
static void judge_claims(const char *claims, size_t size, const char *resource)
{
    char token[4 * 4096];

    if (size > 4096)
        return;
    memcpy(token, "e30.", 4);
    base64url_encode((const uint8_t *)claims, size, token + 4);
    strcat(token, ".x");
    if (own_auth_is_for(token, strlen(token), resource))
        assert(!own_auth_is_for(token, strlen(token), "https://other.example/resource"));
    assert(!own_auth_is_for(token, strlen(token), ""));
}

static void read_form(const char *form)
{
    char key[APIKEY_LENGTH_MAX + 1];

    if (query_find(form, "token", key, sizeof key) != ERR_OK)
        return;
    for (const char *at = key; *at != '\0'; at++)
        assert(*at >= ' ' && *at <= '~');
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    const uint8_t *line = memchr(bytes, '\n', size);
    char resource[257] = "https://gw.example/mcp/a", *rest;

    if (line != NULL && (size_t)(line - bytes) < sizeof resource) {
        memcpy(resource, bytes, (size_t)(line - bytes));
        resource[line - bytes] = '\0';
        size -= (size_t)(line + 1 - bytes);
        bytes = line + 1;
    }
    rest = malloc(size + 1);
    if (rest == NULL || strcmp(resource, "https://other.example/resource") == 0) {
        free(rest);
        return 0;
    }
    memcpy(rest, bytes, size);
    rest[size] = '\0';
    (void)own_auth_is_for(rest, size, resource);
    judge_claims(rest, size, resource);
    read_form(rest);
    free(rest);
    return 0;
}
