#include "services/authz/authz_token_rules.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include <jansson.h>
#include <openssl/evp.h>

#include "common/cleanup.h"
#include "common/encode.h"
#include "common/scope.h"

#define SIGNATURE_SIZE 45u    /* base64 of 32 bytes with its padding, and the NUL */
#define JSON_MAX       65536u

DEFINE_DESTROY(json_destroy, json_t, json_decref)

/* ---- facts ----------------------------------------------------------------------------------------- */

static bool has_role(const char *roles, const char *role, size_t length)
{
    while (*roles != '\0') {
        size_t size;

        roles += strspn(roles, ", ");
        size = strcspn(roles, ", ");
        if (size == length && size > 0 && strncmp(roles, role, size) == 0)
            return true;
        roles += size;
    }
    return false;
}

static bool has_any_role(const char *roles, const char *wanted)
{
    while (*wanted != '\0') {
        size_t size;

        wanted += strspn(wanted, ", ");
        size = strcspn(wanted, ", ");
        if (has_role(roles, wanted, size))
            return true;
        wanted += size;
    }
    return false;
}

static bool is_local(const struct token_context *context)
{
    return context->issuer == NULL || context->issuer->local_users;
}

static bool is_client_itself(const struct token_context *context)
{
    return context->issuer != NULL && context->client_id[0] != '\0' && strcmp(context->client_id, context->user_id) == 0;
}

bool token_has_own_session(const struct token_context *context)
{
    return context->session_id[0] != '\0' && (context->issuer == NULL || context->issuer->preset == ISSUER_BETTER_AUTH);
}

static void join_tenant(struct token_facts *facts, const struct principal *principal)
{
    struct token_context *context = &facts->context;

    facts->tenant_suspended = principal->tenant_suspended;
    facts->tenant_rule = principal->tenant_rule;
    facts->user_rule = principal->user_rule;
    if ((context->issuer == NULL && !principal->is_member)
        || (principal->linked_count == 1 && principal->organization_id[0] != '\0'))
        context->tenant_id[0] = '\0';
    if (context->tenant_id[0] != '\0')
        return;
    facts->tenant_ambiguous = principal->organization_count > 1;
    if (facts->tenant_ambiguous)
        return;
    if (principal->organization_id[0] != '\0')
        snprintf(context->tenant_id, sizeof context->tenant_id, "%s", principal->organization_id);
    else
        snprintf(context->tenant_id, sizeof context->tenant_id, "user:%s", context->user_id);
}

void token_name_account(struct token_facts *facts)
{
    const struct token_context *context = &facts->context;
    char text[sizeof context->issuer->account_provider + sizeof context->subject + 1], encoded[DIGEST_TEXT_SIZE];
    uint8_t digest[DIGEST_SIZE];
    int size;

    facts->account[0] = '\0';
    if (context->issuer == NULL || context->issuer->account_provider[0] == '\0')
        return;
    size = snprintf(text, sizeof text, "%s\n%s", context->issuer->account_provider, context->subject);
    digest_sha256(text, (size_t)size, digest);
    base64url_encode(digest, DIGEST_SIZE, encoded);
    snprintf(facts->account, sizeof facts->account, "account:%s", encoded);
}

void token_name_bonds(struct token_facts *facts, const uint8_t digest[DIGEST_SIZE])
{
    const struct token_context *context = &facts->context;
    char encoded[DIGEST_TEXT_SIZE], unnamed[DIGEST_TEXT_SIZE + sizeof TOKEN_BY_DIGEST];

    memset(facts->bonds, 0, sizeof facts->bonds);
    facts->bonds_text[0] = '\0';
    if (context->issuer == NULL)
        return;
    base64url_encode(digest, DIGEST_SIZE, encoded);
    snprintf(unnamed, sizeof unnamed, TOKEN_BY_DIGEST "%s", encoded);
    if (context->signer[0] != '\0')
        token_bond(BOND_SIGNER, context->issuer->name, context->signer, facts->bonds[BOND_SIGNER]);
    token_bond_of(context->issuer->name, context->token_id[0] != '\0' && context->signer[0] != '\0' ? context->token_id : unnamed,
                  facts->bonds[BOND_TOKEN]);
    token_bond(BOND_SUBJECT, context->issuer->name, context->subject, facts->bonds[BOND_SUBJECT]);
    snprintf(facts->bonds_text, sizeof facts->bonds_text, "%s %s%s%s", facts->bonds[BOND_TOKEN], facts->bonds[BOND_SUBJECT],
             facts->bonds[BOND_SIGNER][0] != '\0' ? " " : "", facts->bonds[BOND_SIGNER]);
}

/* From here on the token is the linked user's. */
static const char *join_account(struct token_context *context, const struct principal *principal)
{
    if (principal->linked_count > 1)
        return "account_ambiguous";
    if (principal->linked_count == 0)
        return principal->departed ? "user_unknown" : NULL;
    if (!principal->exists)
        return "user_unknown";
    memcpy(context->user_id, principal->linked_user, sizeof principal->linked_user);
    return NULL;
}

/* A token that belongs to a session is good no longer than that is. */
static void end_with_session(struct token_context *context, uint64_t session_ends_us)
{
    const int64_t ends_s = (int64_t)(session_ends_us / 1000000);

    if (ends_s > 0 && (context->expires_s == 0 || ends_s < context->expires_s))
        context->expires_s = ends_s;
}

const char *token_join(struct token_facts *facts, const struct principal *principal, const struct session_policy *policy)
{
    struct token_context *context = &facts->context;
    bool local = is_local(context);
    const char *reason = facts->account[0] != '\0' ? join_account(context, principal) : NULL;

    if (principal->token_ended)
        return jose_reason_text(JOSE_REVOKED);
    if (reason != NULL)
        return reason;
    if (local && !principal->exists && !is_client_itself(context))
        return "user_unknown";
    if (principal->exists && principal->banned)
        return "user_banned";
    if (local && token_has_own_session(context) && !principal->session_lives)
        return "session_ended";
    if (context->issuer == NULL) {
        context->scopes = scopes_close(policy->scopes
                                       | (has_any_role(principal->roles, policy->admin_roles) ? SCOPE_BIT(ADMIN) : 0));
        context->tier = (context->scopes & SCOPE_BIT(ADMIN)) != 0 ? TIER_ADMIN : TIER_OAUTH;
    }
    /* By password Better-Auth makes a session of such a user only once the factor was given; of others it cannot be told. */
    if (local && token_has_own_session(context) && principal->second_factor && !facts->is_impersonated)
        context->second_factor = true;
    facts->lacks_factor = !context->second_factor && has_any_role(principal->roles, policy->factor_roles);
    end_with_session(context, principal->session_ends_us);
    join_tenant(facts, principal);
    facts->is_joined = true;
    return NULL;
}

enum err session_facts_of(const struct session_row *row, struct token_facts *ret_facts)
{
    struct token_facts facts = {
        .any_server = true, .session_created_us = row->created_us, .is_impersonated = row->is_impersonated
    };
    struct token_context *context = &facts.context;

    if (row->session_id[0] == '\0' || row->user_id[0] == '\0'
        || !message_take_text(row->session_id, context->session_id, AUTHZ_ID_MAX)
        || !message_take_text(row->user_id, context->user_id, AUTHZ_ID_MAX)
        || !message_take_text(row->organization_id, context->tenant_id, AUTHZ_TENANT_MAX))
        return ERR_UNPROCESSABLE;
    context->expires_s = (int64_t)(row->expires_us / 1000000);
    *ret_facts = facts;
    return ERR_OK;
}

/* ---- verdicts -------------------------------------------------------------------------------------- */

static void refuse(struct verdict *verdict, enum err err, const char *reason)
{
    verdict->error = err;
    snprintf(verdict->reason, sizeof verdict->reason, "%s", reason);
}

_Static_assert(sizeof ((struct token_facts *)0)->bonds_text == sizeof ((struct verdict *)0)->bonds, "bonds fit a verdict");
_Static_assert(sizeof ((struct issuer *)0)->name <= sizeof ((struct verdict *)0)->issuer, "an issuer's name fits a verdict");

/* What the trail may know of a token that does not verify here. */
static void name_token(const struct token_context *context, struct verdict *v)
{
    memcpy(v->session_id, context->session_id, sizeof v->session_id);
    memcpy(v->client_id, context->client_id, sizeof v->client_id);
    if (context->issuer != NULL)
        memcpy(v->issuer, context->issuer->name, sizeof context->issuer->name);
}

void token_decide(const struct token_facts *facts, const struct issuers *issuers, const char *server, uint64_t needed,
                  struct verdict *ret_verdict)
{
    const struct token_context *context = &facts->context;
    struct verdict *v = ret_verdict;

    *v = (struct verdict){ .error = ERR_OK, .auth_method = context->issuer != NULL ? AUTH_OAUTH : AUTH_SESSION };
    name_token(context, v);
    if (!facts->any_server && !token_serves(context, issuers, server)) {
        refuse(v, ERR_UNVERIFIED, jose_reason_text(JOSE_AUDIENCE));
        return;
    }
    memcpy(v->user_id, context->user_id, sizeof v->user_id);
    memcpy(v->tenant_id, context->tenant_id, sizeof v->tenant_id);
    v->scopes = context->scopes;
    v->tier = context->tier;
    v->second_factor = context->second_factor;
    v->tenant_rule = facts->tenant_rule;
    v->user_rule = facts->user_rule;
    memcpy(v->bonds, facts->bonds_text, sizeof v->bonds);
    if (context->expires_s > 0)
        v->expires_s = (uint64_t)context->expires_s;
    if (facts->tenant_ambiguous)
        refuse(v, ERR_DENIED, "tenant_ambiguous");
    else if (facts->tenant_suspended)
        refuse(v, ERR_DENIED, "tenant_suspended");
    else if (facts->lacks_factor)
        refuse(v, ERR_DENIED, "second_factor");
    else if (!scopes_cover(context->scopes, needed))
        refuse(v, ERR_DENIED, "scope");
}

bool token_yields_to_key(enum err outcome, bool has_key, bool fallback_any)
{
    return has_key && (outcome == ERR_UNAVAILABLE || (fallback_any && outcome == ERR_UNVERIFIED));
}

/* ---- sessions -------------------------------------------------------------------------------------- */

/* As encodeURIComponent writes standard base64. */
static size_t escape(const char signature[SIGNATURE_SIZE], char text[SIGNATURE_SIZE * 3])
{
    size_t at = 0;

    for (; *signature != '\0'; signature++) {
        const char *escaped = *signature == '+' ? "%2B" : *signature == '/' ? "%2F" : *signature == '=' ? "%3D" : NULL;

        if (escaped != NULL)
            memcpy(text + at, escaped, 3);
        else
            text[at] = *signature;
        at += escaped != NULL ? 3 : 1;
    }
    text[at] = '\0';
    return at;
}

static bool is_same(const char *a, size_t a_size, const char *b, size_t b_size)
{
    return a_size == b_size && CRYPTO_memcmp(a, b, a_size) == 0;
}

static bool is_signed_by(const struct secret *key, const char *token, size_t token_size, const char *text, size_t size)
{
    uint8_t mac[DIGEST_SIZE];
    char signature[SIGNATURE_SIZE], escaped[SIGNATURE_SIZE * 3];
    size_t escaped_size;

    digest_hmac(key->bytes, key->size, token, token_size, NULL, 0, mac);
    EVP_EncodeBlock((unsigned char *)signature, mac, DIGEST_SIZE);
    escaped_size = escape(signature, escaped);
    return is_same(text, size, signature, SIGNATURE_SIZE - 1) || is_same(text, size, escaped, escaped_size);
}

enum err session_parse(const struct secret *key, const char *text, size_t size, bool plain_allowed,
                       char ret_token[SESSION_TOKEN_MAX + 1])
{
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-";
    size_t length = 0;

    while (length < size && text[length] != '\0' && strchr(letters, text[length]) != NULL)
        length++;
    if (length == 0 || length > SESSION_TOKEN_MAX)
        return ERR_NOT_FOUND;
    if (length == size && !plain_allowed)
        return ERR_NOT_FOUND;
    if (length < size && text[length] != '.')
        return ERR_NOT_FOUND;
    if (length < size && !is_signed_by(key, text, length, text + length + 1, size - length - 1))
        return ERR_UNVERIFIED;
    memcpy(ret_token, text, length);
    ret_token[length] = '\0';
    return ERR_OK;
}

/* "2026-11-21T19:24:18.123Z", as JavaScript writes it. */
static bool read_time(const char *text, uint64_t *ret_us)
{
    struct tm parts = { 0 };
    const char *end = strptime(text, "%Y-%m-%dT%H:%M:%S", &parts);
    uint64_t fraction_us = 0;
    time_t seconds;

    if (end == NULL)
        return false;
    if (*end == '.') {
        uint64_t unit_us = 100000;

        for (end++; *end >= '0' && *end <= '9'; end++, unit_us /= 10)
            fraction_us += (uint64_t)(*end - '0') * unit_us;
    }
    if (strcmp(end, "Z") != 0)
        return false;
    seconds = timegm(&parts);
    if (seconds <= 0)
        return false;
    *ret_us = (uint64_t)seconds * 1000000 + fraction_us;
    return true;
}

enum err session_read_json(const char *json, size_t size, struct session_texts *ret_texts, struct session_row *ret_row)
{
    OWNED(json_destroy) json_t *root = size <= JSON_MAX ? json_loadb(json, size, JSON_REJECT_DUPLICATES, NULL) : NULL;
    const json_t *session = json_object_get(root, "session");
    const char *id = json_string_value(json_object_get(session, "id"));
    const char *user = json_string_value(json_object_get(session, "userId"));
    const char *ends = json_string_value(json_object_get(session, "expiresAt"));
    const char *organization = json_string_value(json_object_get(session, "activeOrganizationId"));
    const char *created = json_string_value(json_object_get(session, "createdAt"));
    const json_t *impersonator = json_object_get(session, "impersonatedBy");
    struct session_texts texts = { 0 };
    uint64_t expires_us, created_us = 0;

    if (id == NULL || user == NULL || ends == NULL || !read_time(ends, &expires_us)
        || !message_take_text(id, texts.session_id, AUTHZ_ID_MAX) || !message_take_text(user, texts.user_id, AUTHZ_ID_MAX)
        || (organization != NULL && !message_take_text(organization, texts.organization_id, AUTHZ_ID_MAX)))
        return ERR_MALFORMED;
    if (created == NULL || !read_time(created, &created_us))
        created_us = 0;    /* the oldest there can be: it proves no second factor */
    *ret_texts = texts;
    *ret_row = (struct session_row){
        .session_id = ret_texts->session_id, .user_id = ret_texts->user_id, .organization_id = ret_texts->organization_id,
        .expires_us = expires_us, .created_us = created_us, .is_impersonated = impersonator != NULL && !json_is_null(impersonator),
    };
    return ERR_OK;
}

/* ---- opaque tokens --------------------------------------------------------------------------------- */

static json_t *issuer_audiences(const struct issuer *issuer, const struct issuers *issuers)
{
    json_t *list = json_array();

    for (size_t i = 0; i < issuer->audience_count; i++)
        json_array_append_new(list, json_string(issuer->audiences[i].value));
    if (issuers->public_url[0] != '\0')
        json_array_append_new(list, json_string(issuers->public_url));
    return list;
}

char *opaque_answer(const struct opaque_row *row, const struct issuer *issuer, const struct issuers *issuers, bool *ret_any)
{
    OWNED(json_destroy) json_t *root = json_object();
    const char *subject = row->user_id[0] != '\0' ? row->user_id : row->client_id;
    bool any = row->audiences[0] == '\0';
    json_t *audiences = any ? issuer_audiences(issuer, issuers) : json_loads(row->audiences, JSON_REJECT_DUPLICATES, NULL);

    if (audiences == NULL)
        return NULL;
    json_object_set_new(root, "aud", audiences);
    json_object_set_new(root, "active", json_true());
    json_object_set_new(root, "iss", json_string(issuer->issuer));
    json_object_set_new(root, "token_type", json_string("Bearer"));
    json_object_set_new(root, "sub", json_string(subject));
    json_object_set_new(root, "client_id", json_string(row->client_id));
    json_object_set_new(root, "scope", json_string(row->scopes));
    json_object_set_new(root, "exp", json_integer((json_int_t)(row->expires_us / 1000000)));
    if (row->session_id[0] != '\0')
        json_object_set_new(root, "sid", json_string(row->session_id));
    *ret_any = any;
    return json_dumps(root, JSON_COMPACT);
}
