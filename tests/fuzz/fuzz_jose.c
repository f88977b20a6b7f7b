/* Any token and any key set, a line between them: read or refused with a reason, verified or not, never more than that. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/token.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

/* One issuer that takes what it can, so that the claims of any token are looked at. */
static struct issuers *one_issuer(void)
{
    static struct issuers *issuers;

    if (issuers != NULL)
        return issuers;
    issuers = calloc(1, sizeof *issuers + sizeof issuers->list[0]);
    assert(issuers != NULL);
    issuers->count = 1;
    strcpy(issuers->public_url, "https://gw.example");
    struct issuer *issuer = &issuers->list[0];

    strcpy(issuer->name, "a");
    strcpy(issuer->issuer, "joe");
    strcpy(issuer->user_claim, "sub");
    strcpy(issuer->user_prefix, "a");
    issuer->derive_audiences = true;
    issuer->algorithms = JOSE_ALL;
    issuer->rule_count = 1;
    issuer->rules[0] = (struct issuer_rule){ .kind = RULE_SCOPE, .claim = "scope", .value = "read", .scopes = SCOPE_BIT(READ) };
    return issuers;
}

static void judge(const char *token, size_t size, struct jose_keys *keys)
{
    struct jose_keys *sets[] = { keys };
    const struct token_question question = {
        .issuers = one_issuer(), .keys = sets, .text = token, .size = size, .server = NULL, .now_s = 1300819370
    };
    struct token_explained steps[TOKEN_STEP_COUNT];
    struct token_context context, explained;
    const enum jose_reason reason = token_judge(&question, &context, NULL);

    assert(reason < JOSE_REASON_COUNT);
    assert(token_explain(&question, steps, &explained) == reason);
    for (size_t i = 0; i < TOKEN_STEP_COUNT; i++)
        assert(memchr(steps[i].detail, '\0', sizeof steps[i].detail) != NULL);
    if (reason == JOSE_FINE)
        assert(keys != NULL && context.user_id[0] != '\0' && strlen(context.user_id) < sizeof context.user_id);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    const char *text = (const char *)bytes, *line = memchr(text, '\n', size);
    const size_t length = line != NULL ? (size_t)(line - text) : size;
    struct jose_keys *keys = NULL;
    struct token_context context;
    char why[200] = "";

    if (line != NULL) {
        const enum err err = jose_keys_parse(line + 1, size - length - 1, &keys, why, sizeof why);

        assert((err == ERR_OK) == (why[0] == '\0'));
    }
    judge(text, length, keys);
    jose_keys_destroy(&keys);
    const struct token_question question = { .issuers = one_issuer(), .text = "", .server = "", .now_s = 1300819370 };

    assert(token_judge_answer(&question, &one_issuer()->list[0], text, size, &context) < JOSE_REASON_COUNT);
    return 0;
}
