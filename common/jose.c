/* jose.c - the text of a token taken apart, and its claims; the tables of algorithms and reasons. */
#include "common/jose.h"

#include <math.h>
#include <string.h>
#include <strings.h>

#include "common/encode.h"

#define TIME_MAX_S 253402300799.0    /* 9999-12-31T23:59:59Z */
#define PATH_MAX_DEPTH 8u

static const struct {
    const char *text, *meaning, *remedy;
    enum err error;
} reasons[] = {
#define REASON(name, text, error, meaning, remedy) { text, meaning, remedy, ERR_##error },
#include "common/jose_reasons.def"
};

#define REASON(name, text, error, meaning, remedy) _Static_assert(sizeof text <= 32, "a verdict's reason has 31 letters");
#include "common/jose_reasons.def"

static const struct {
    const char *text;
    size_t length;
} algorithms[] = {
#define ALGORITHM(name, text, family, digest, curve) { text, sizeof text - 1 },
#include "common/jose_algorithms.def"
};

const char *jose_reason_text(enum jose_reason reason)
{
    return reasons[reason].text;
}

const char *jose_reason_meaning(enum jose_reason reason)
{
    return reasons[reason].meaning;
}

const char *jose_reason_remedy(enum jose_reason reason)
{
    return reasons[reason].remedy;
}

enum err jose_reason_error(enum jose_reason reason)
{
    return reasons[reason].error;
}

const char *jose_algorithm_text(enum jose_algorithm algorithm)
{
    return algorithms[algorithm].text;
}

bool jose_algorithm_parse(const char *text, size_t length, enum jose_algorithm *ret_algorithm)
{
    for (size_t i = 0; i < JOSE_ALGORITHM_COUNT; i++) {
        if (algorithms[i].length == length && memcmp(algorithms[i].text, text, length) == 0) {
            *ret_algorithm = (enum jose_algorithm)i;
            return true;
        }
    }
    return false;
}

/* ---- a token's text ---------------------------------------------------------------------------------- */

bool jose_is_token(const char *text, size_t size)
{
    const char *dot = memchr(text, '.', size);

    return dot != NULL && memchr(dot + 1, '.', size - (size_t)(dot + 1 - text)) != NULL;
}

struct parts {
    const char *header, *payload, *signature;
    size_t header_size, payload_size, signature_size;
};

static enum jose_reason find_parts(const char *text, size_t size, struct parts *ret_parts)
{
    const char *end = text + size, *first = memchr(text, '.', size);
    const char *second = first == NULL ? NULL : memchr(first + 1, '.', (size_t)(end - first - 1));

    if (second == NULL)
        return JOSE_OPAQUE;
    const char *third = memchr(second + 1, '.', (size_t)(end - second - 1));

    if (third != NULL) {
        const char *fourth = memchr(third + 1, '.', (size_t)(end - third - 1));

        return fourth != NULL && memchr(fourth + 1, '.', (size_t)(end - fourth - 1)) == NULL ? JOSE_ENCRYPTED : JOSE_SHAPE;
    }
    ret_parts->header = text;
    ret_parts->header_size = (size_t)(first - text);
    ret_parts->payload = first + 1;
    ret_parts->payload_size = (size_t)(second - first - 1);
    ret_parts->signature = second + 1;
    ret_parts->signature_size = (size_t)(end - second - 1);
    if (ret_parts->header_size == 0 || ret_parts->payload_size == 0 || ret_parts->signature_size == 0)
        return JOSE_SHAPE;
    return JOSE_FINE;
}

/* One JSON object from base64url; `broken` is the reason for what is no such object. */
static enum jose_reason read_object(const char *text, size_t size, enum jose_reason broken, json_t **ret_object)
{
    uint8_t bytes[JOSE_TOKEN_MAX / 4 * 3];
    json_error_t error;
    size_t length;

    if (base64url_decode(text, size, bytes, sizeof bytes, &length) != ERR_OK)
        return JOSE_ENCODING;
    json_t *object = json_loadb((const char *)bytes, length, JSON_REJECT_DUPLICATES, &error);

    if (object == NULL)
        return json_error_code(&error) == json_error_out_of_memory ? JOSE_NO_MEMORY : broken;
    if (!json_is_object(object)) {
        json_decref(object);
        return broken;
    }
    *ret_object = object;
    return JOSE_FINE;
}

static bool has_any(const json_t *object, const char *const *names)
{
    for (; *names != NULL; names++)
        if (json_object_get(object, *names) != NULL)
            return true;
    return false;
}

static bool is_nested(const json_t *header)
{
    const json_t *content = json_object_get(header, "cty");

    return content != NULL && (!json_is_string(content) || strcasecmp(json_string_value(content), "JWT") == 0
                               || strcasecmp(json_string_value(content), "application/jwt") == 0);
}

static enum jose_reason read_header(struct jose_token *token)
{
    static const char *const keys[] = { "jwk", "jku", "x5u", "x5c", NULL };
    static const char *const features[] = { "zip", "b64", NULL };
    static const char *const encryption[] = { "enc", NULL };
    const json_t *algorithm = json_object_get(token->header, "alg"), *kid = json_object_get(token->header, "kid");
    const json_t *type = json_object_get(token->header, "typ");

    if (json_object_get(token->header, "crit") != NULL)
        return JOSE_CRITICAL;
    if (has_any(token->header, encryption))
        return JOSE_ENCRYPTED;
    if (has_any(token->header, features) || is_nested(token->header))
        return JOSE_HEADER_MEMBER;
    if (has_any(token->header, keys))
        return JOSE_EMBEDDED_KEY;
    if (!json_is_string(algorithm)
        || !jose_algorithm_parse(json_string_value(algorithm), json_string_length(algorithm), &token->algorithm))
        return JOSE_ALGORITHM_UNKNOWN;
    if (kid != NULL && (!json_is_string(kid) || json_string_length(kid) > JOSE_KID_MAX))
        return JOSE_KEY_ID;
    if (type != NULL && !json_is_string(type))
        return JOSE_HEADER;
    token->kid = json_string_value(kid);
    token->kid_length = json_string_length(kid);
    token->typ = json_string_value(type);
    return JOSE_FINE;
}

static enum jose_reason read_parts(const struct parts *parts, struct jose_token *token)
{
    enum jose_reason reason = read_object(parts->header, parts->header_size, JOSE_HEADER, &token->header);

    if (reason == JOSE_FINE)
        reason = read_header(token);
    if (reason != JOSE_FINE)
        return reason;
    if (parts->signature_size > (JOSE_SIGNATURE_MAX * 4 + 2) / 3)
        return JOSE_SIGNATURE;
    if (base64url_decode(parts->signature, parts->signature_size, token->signature, sizeof token->signature,
                         &token->signature_size) != ERR_OK)
        return JOSE_ENCODING;
    reason = read_object(parts->payload, parts->payload_size, JOSE_PAYLOAD, &token->claims);
    if (reason != JOSE_FINE)
        return reason;
    token->iss = json_string_value(json_object_get(token->claims, "iss"));
    return JOSE_FINE;
}

enum jose_reason jose_token_parse(const char *text, size_t size, struct jose_token *ret_token)
{
    struct parts parts;

    if (size > JOSE_TOKEN_MAX)
        return JOSE_TOO_LARGE;
    enum jose_reason reason = find_parts(text, size, &parts);

    if (reason != JOSE_FINE)
        return reason;
    memset(ret_token, 0, sizeof *ret_token);
    ret_token->text = text;
    ret_token->signed_size = parts.header_size + 1 + parts.payload_size;
    reason = read_parts(&parts, ret_token);
    if (reason != JOSE_FINE)
        jose_token_wipe(ret_token);
    return reason;
}

void jose_token_wipe(struct jose_token *token)
{
    json_decref(token->header);
    json_decref(token->claims);
    token->header = token->claims = NULL;
}

/* ---- claims ------------------------------------------------------------------------------------------ */

json_t *jose_claim(const json_t *claims, const char *name)
{
    json_t *found = json_object_get(claims, name);
    char part[128];

    if (found != NULL || strchr(name, '.') == NULL)
        return found;
    for (unsigned depth = 0; depth < PATH_MAX_DEPTH; depth++) {
        const size_t length = strcspn(name, ".");

        if (length == 0 || length >= sizeof part)
            return NULL;
        memcpy(part, name, length);
        part[length] = '\0';
        found = json_object_get(claims, part);
        if (name[length] == '\0' || found == NULL)
            return found;
        claims = found;
        name += length + 1;
    }
    return NULL;
}

enum err jose_claim_time(const json_t *claims, const char *name, int64_t *ret_time_s)
{
    const json_t *claim = json_object_get(claims, name);

    if (claim == NULL)
        return ERR_NOT_FOUND;
    if (!json_is_number(claim))
        return ERR_MALFORMED;
    const double number = json_number_value(claim);

    if (!isfinite(number) || number < 0 || number > TIME_MAX_S)
        return ERR_MALFORMED;
    *ret_time_s = (int64_t)number;
    return ERR_OK;
}
