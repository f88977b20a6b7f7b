#include "services/keys/tokens_rules.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "common/apikey.h"
#include "common/encode.h"

static enum err refuse(struct problem *reterr, const char *field, const char *detail)
{
    return problem_set(reterr, ERR_UNPROCESSABLE, NULL, field, detail);
}

static bool has(const json_t *body, const char *name)
{
    return json_object_get(body, name) != NULL;
}

static bool take_text(const json_t *value, char *text, size_t capacity)
{
    const size_t length = json_string_length(value);

    if (length == 0 || length >= capacity || strlen(json_string_value(value)) != length)
        return false;
    memcpy(text, json_string_value(value), length + 1);
    return true;
}

static enum err take_moment(const json_t *body, const char *name, char text[33], struct problem *reterr)
{
    const json_t *value = json_object_get(body, name);

    if (value == NULL)
        return ERR_OK;
    if (!take_text(value, text, 33) || !keys_moment_is_valid(text))
        return refuse(reterr, name, "a moment as in RFC 3339");
    return ERR_OK;
}

static enum err take_reason(const json_t *body, char text[KEYS_REASON_MAX + 1], struct problem *reterr)
{
    const json_t *reason = json_object_get(body, "reason");

    if (reason == NULL || json_is_null(reason) || take_text(reason, text, KEYS_REASON_MAX + 1))
        return ERR_OK;
    return refuse(reterr, "reason", "a text of at most 200 bytes");
}

static enum err take_issuer(const json_t *body, const struct issuers *issuers, struct token_end_fields *fields,
                            struct problem *reterr)
{
    if (!take_text(json_object_get(body, "issuer"), fields->issuer, sizeof fields->issuer)
        || issuers_named(issuers, fields->issuer) == NULL)
        return refuse(reterr, "issuer", "the name of a configured issuer, as GET /api/v1/issuers lists them");
    return ERR_OK;
}

/* ---- by the token itself ----------------------------------------------------------------------- */

static void name_by_digest(const char *text, size_t size, char value[257])
{
    char encoded[DIGEST_TEXT_SIZE];
    uint8_t digest[DIGEST_SIZE];

    digest_sha256(text, size, digest);
    base64url_encode(digest, sizeof digest, encoded);
    snprintf(value, 257, TOKEN_BY_DIGEST "%s", encoded);
}

/* What is no JWT is known by its digest, whatever its issuer would tell of it. */
static enum err take_opaque(const json_t *body, const struct issuers *issuers, struct token_end_fields *fields,
                            struct problem *reterr)
{
    const json_t *token = json_object_get(body, "token");
    const struct issuer *issuer = issuers_of_opaque(issuers, json_string_value(token), json_string_length(token));

    for (size_t i = 0; issuer == NULL && i < issuers->count; i++)
        if (issuers->list[i].opaque == OPAQUE_DATABASE)
            issuer = &issuers->list[i];
    if (strncmp(json_string_value(token), APIKEY_PREFIX, sizeof APIKEY_PREFIX - 1) == 0
        || apikey_has_our_form(json_string_value(token), json_string_length(token)))
        return refuse(reterr, "token", "this is an API key: revoke it as a key");
    if (issuer == NULL)
        return refuse(reterr, "token", "no issuer has tokens of this kind: send the access token, not a session's or a refresh token");
    snprintf(fields->issuer, sizeof fields->issuer, "%s", issuer->name);
    name_by_digest(json_string_value(token), json_string_length(token), fields->value);
    return ERR_OK;
}

static void write_moment(int64_t time_s, char text[33])
{
    const time_t moment = (time_t)time_s;
    struct tm parts;

    if (time_s > 0 && gmtime_r(&moment, &parts) != NULL)
        (void)!strftime(text, 33, "%Y-%m-%dT%H:%M:%SZ", &parts);
}

static enum err take_token(const json_t *body, const struct issuers *issuers, struct token_end_fields *fields,
                           struct problem *reterr)
{
    const json_t *token = json_object_get(body, "token");
    const char *text = json_string_value(token);
    const size_t size = json_string_length(token);
    struct token_question question = { .issuers = issuers, .text = text, .size = size };
    struct token_context context;
    enum jose_reason reason;

    if (size == 0 || strlen(text) != size)
        return refuse(reterr, "token", "the access token, as a text");
    if (has(body, "issuer"))
        return refuse(reterr, "issuer", "the token says whose it is");
    if (!jose_is_token(text, size))
        return take_opaque(body, issuers, fields, reterr);
    reason = token_identify(&question, &context);
    if (reason != JOSE_FINE)
        return refuse(reterr, "token", jose_reason_meaning(reason));
    snprintf(fields->issuer, sizeof fields->issuer, "%s", context.issuer->name);
    if (context.token_id[0] != '\0')
        snprintf(fields->value, sizeof fields->value, "%s", context.token_id);
    else
        name_by_digest(text, (size_t)((const char *)memrchr(text, '.', size) - text), fields->value);
    if (!has(body, "expiresAt"))
        write_moment(context.expires_s, fields->expires_at);
    return ERR_OK;
}

/* ---- by its id, or its subject ----------------------------------------------------------------- */

static enum err take_named(const json_t *body, const struct issuers *issuers, struct token_end_fields *fields,
                           struct problem *reterr)
{
    const json_t *id = json_object_get(body, "id");
    const enum err err = take_issuer(body, issuers, fields, reterr);

    if (err != ERR_OK)
        return err;
    fields->is_subject = id == NULL;
    if (id != NULL && !take_text(id, fields->value, 129))
        return refuse(reterr, "id", "jti or uti of the token, a text of 1 to 128 bytes");
    if (id == NULL && !take_text(json_object_get(body, "subject"), fields->value, 256))
        return refuse(reterr, "subject", "what the issuer's user_claim names, a text of 1 to 255 bytes");
    return ERR_OK;
}

static enum err check_members(const json_t *body, struct problem *reterr)
{
    static const char *const known[] = { "token", "issuer", "id", "subject", "issuedBefore", "expiresAt", "reason", NULL };
    const char *name;
    json_t *value;

    json_object_foreach((json_t *)(uintptr_t)body, name, value) {
        size_t i = 0;

        while (known[i] != NULL && strcmp(known[i], name) != 0)
            i++;
        if (known[i] == NULL)
            return refuse(reterr, name, "is no field of this call");
    }
    if (has(body, "token") + has(body, "id") + has(body, "subject") != 1)
        return refuse(reterr, "", "one of token, id and subject says what is revoked");
    if (has(body, "issuedBefore") && !has(body, "subject"))
        return refuse(reterr, "issuedBefore", "goes with subject only");
    return ERR_OK;
}

enum err tokens_parse(const json_t *body, const struct issuers *issuers, struct token_end_fields *ret_fields, struct problem *reterr)
{
    struct token_end_fields fields = { .is_subject = false };
    enum err err;

    if (!json_is_object(body))
        return problem_set(reterr, ERR_MALFORMED, NULL, "", "the body must be a JSON object");
    err = check_members(body, reterr);
    if (err == ERR_OK)
        err = take_reason(body, fields.reason, reterr);
    if (err == ERR_OK)
        err = take_moment(body, "issuedBefore", fields.issued_before, reterr);
    if (err == ERR_OK)
        err = take_moment(body, "expiresAt", fields.expires_at, reterr);
    if (err == ERR_OK)
        err = has(body, "token") ? take_token(body, issuers, &fields, reterr) : take_named(body, issuers, &fields, reterr);
    if (err != ERR_OK)
        return err;
    if (fields.is_subject)
        token_bond(BOND_SUBJECT, fields.issuer, fields.value, fields.name);
    else
        token_bond_of(fields.issuer, fields.value, fields.name);
    *ret_fields = fields;
    return ERR_OK;
}
