/* What callers send as a session, what stands in Better-Auth's Redis, and lists of audiences from its table. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "services/authz/authz_token_rules.h"

static struct issuers issuers;
static struct issuer issuer;

static void read_opaque(const char *text)
{
    const struct opaque_row row = { .client_id = "c", .user_id = text, .session_id = "", .scopes = text, .audiences = text };
    bool any = false;
    char *answer = opaque_answer(&row, &issuer, &issuers, &any);

    assert(answer == NULL || any == (text[0] == '\0'));
    free(answer);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static const struct secret key = { .size = 3, .bytes = "key" };
    char token[SESSION_TOKEN_MAX + 1];
    struct session_texts texts;
    struct session_row row;
    char *text = malloc(size + 1);

    if (text == NULL)
        return 0;
    memcpy(text, bytes, size);
    text[size] = '\0';
    if (session_parse(&key, text, size, size % 2 == 0, token) == ERR_OK)
        assert(strlen(token) > 0 && strncmp(token, text, strlen(token)) == 0);
    if (session_read_json(text, size, &texts, &row) == ERR_OK)
        assert(row.user_id == texts.user_id && row.expires_us > 0);
    read_opaque(text);
    free(text);
    return 0;
}
