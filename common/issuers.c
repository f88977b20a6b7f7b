/* issuers.c - questions that the list of issuers answers; common/issuers_load.c reads it. */
#include "common/issuers.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/encode.h"

#define TENANT_PLACE "{tenantid}"

static const char *const preset_texts[] = {
    [ISSUER_OIDC] = "oidc", [ISSUER_ENTRA_V2] = "entra-v2", [ISSUER_ENTRA_V1] = "entra-v1",
    [ISSUER_BETTER_AUTH] = "better-auth", [ISSUER_GITHUB] = "github", [ISSUER_GOOGLE] = "google",
};

const char *issuer_preset_text(enum issuer_preset preset)
{
    return preset_texts[preset];
}

bool issuer_is_entra(const struct issuer *issuer)
{
    return issuer->preset == ISSUER_ENTRA_V1 || issuer->preset == ISSUER_ENTRA_V2;
}

bool issuer_has_keys(const struct issuer *issuer)
{
    return issuer->algorithms != 0;
}

void issuers_destroy(struct issuers **issuers)
{
    struct issuers *old = *issuers;

    *issuers = NULL;
    if (old == NULL)
        return;
    for (size_t i = 0; i < old->count; i++)
        secret_wipe(&old->list[i].client_secret);
    free(old);
}

const struct issuer *issuers_named(const struct issuers *issuers, const char *name)
{
    for (size_t i = 0; i < issuers->count; i++)
        if (strcmp(issuers->list[i].name, name) == 0)
            return &issuers->list[i];
    return NULL;
}

const struct issuer *issuers_of_opaque(const struct issuers *issuers, const char *text, size_t size)
{
    const struct issuer *found = NULL;

    for (size_t i = 0; i < issuers->count; i++) {
        const struct issuer *issuer = &issuers->list[i];
        const size_t length = strlen(issuer->opaque_prefix);

        if (issuer->opaque == OPAQUE_INTROSPECT && size > length && memcmp(text, issuer->opaque_prefix, length) == 0
            && (found == NULL || length > strlen(found->opaque_prefix)))
            found = issuer;
    }
    return found;
}

static bool is_directory_accepted(const struct issuer *issuer, const char *directory)
{
    const struct issuer_list *accepted = &issuer->azure_tenants;
    uint8_t uuid[UUID_SIZE];

    if (directory == NULL || !uuid_parse(directory, uuid))
        return false;
    for (size_t i = 0; i < accepted->count; i++)
        if (strcmp(accepted->texts[i], "any") == 0 || strcasecmp(accepted->texts[i], directory) == 0)
            return true;
    return false;
}

bool issuer_has_iss(const struct issuer *issuer, const char *iss, const char *directory)
{
    const char *place = issuer->is_template ? strstr(issuer->issuer, TENANT_PLACE) : NULL;

    if (place == NULL)
        return strcmp(issuer->issuer, iss) == 0;
    if (!is_directory_accepted(issuer, directory))
        return false;
    const size_t before = (size_t)(place - issuer->issuer), length = strlen(directory);

    return strncmp(iss, issuer->issuer, before) == 0 && strncmp(iss + before, directory, length) == 0
        && strcmp(iss + before + length, place + sizeof TENANT_PLACE - 1) == 0;
}

/* ---- audiences --------------------------------------------------------------------------------------- */

/* Length without a fragment and without one closing slash. */
static size_t audience_length(const char *text)
{
    size_t length = strcspn(text, "#");

    return length > 1 && text[length - 1] == '/' ? length - 1 : length;
}

/* Bytes of scheme, "://" and authority of an http(s) URL; 0 for all else. */
static size_t origin_length(const char *text)
{
    const size_t scheme = strncasecmp(text, "https://", 8) == 0 ? 8 : strncasecmp(text, "http://", 7) == 0 ? 7 : 0;

    return scheme == 0 ? 0 : scheme + strcspn(text + scheme, "/?#");
}

bool audience_equals(const char *a, const char *b)
{
    const size_t length = audience_length(a), origin = origin_length(a);

    if (audience_length(b) != length || origin_length(b) != origin)
        return false;
    const size_t any_case = origin < length ? origin : length;

    return strncasecmp(a, b, any_case) == 0 && memcmp(a + any_case, b + any_case, length - any_case) == 0;
}

/* ---- scopes for challenges --------------------------------------------------------------------------- */

static const char *name_scope(const struct issuer *issuer, enum scope scope)
{
    for (size_t i = 0; i < issuer->rule_count; i++) {
        const struct issuer_rule *rule = &issuer->rules[i];

        if (rule->kind == RULE_SCOPE && rule->scopes == UINT64_C(1) << scope
            && (strcmp(rule->claim, "scope") == 0 || strcmp(rule->claim, "scp") == 0))
            return rule->value;
    }
    return scope_text(scope);
}

char *issuer_format_scopes(const struct issuer *issuer, uint64_t scopes, char *text, size_t size)
{
    size_t length = 0;

    text[0] = '\0';
    for (unsigned i = 0; i < SCOPE_COUNT; i++) {
        if ((scopes >> i & 1) == 0)
            continue;
        int more = snprintf(text + length, size - length, "%s%s%s", length > 0 ? " " : "", issuer->scope_prefix,
                            name_scope(issuer, (enum scope)i));

        if (more < 0 || (size_t)more >= size - length) {
            text[length] = '\0';    /* whole names only */
            break;
        }
        length += (size_t)more;
    }
    return text;
}
