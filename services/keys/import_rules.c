#include "services/keys/import_rules.h"

#include <string.h>

#include "common/cleanup.h"
#include "common/encode.h"

DEFINE_DESTROY(row_destroy, json_t, json_decref)

static enum err refuse(struct problem *reterr, const char *field, const char *detail)
{
    return problem_set(reterr, ERR_UNPROCESSABLE, NULL, field, detail);
}

enum err import_parse(const json_t *body, const json_t **ret_rows, bool *ret_is_dry_run, struct problem *reterr)
{
    const json_t *rows = json_object_get(body, "keys"), *dry = json_object_get(body, "dryRun");

    if (!json_is_object(body))
        return problem_set(reterr, ERR_MALFORMED, NULL, "", "the body must be a JSON object");
    if (!json_is_array(rows) || json_array_size(rows) == 0 || json_array_size(rows) > IMPORT_MAX)
        return refuse(reterr, "keys", "a list of 1 to 200 objects");
    if (dry != NULL && !json_is_boolean(dry))
        return refuse(reterr, "dryRun", "true or false");
    if (json_object_size(body) != (dry != NULL ? 2u : 1u))
        return refuse(reterr, "", "keys and dryRun are the only fields");
    *ret_rows = rows;
    *ret_is_dry_run = json_is_true(dry);
    return ERR_OK;
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
        return (c | 0x20) - 'a' + 10;
    return -1;
}

/* 43 characters of base64url, or 64 of hexadecimal. */
static bool take_digest(const json_t *value, char digest[44])
{
    const char *text = json_string_value(value);
    uint8_t bytes[DIGEST_SIZE];

    if (text == NULL || json_string_length(value) != strlen(text))
        return false;
    if (strlen(text) == 43) {
        memcpy(digest, text, 44);
        return strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") == 43
               && strchr("AEIMQUYcgkosw048", text[42]) != NULL;    /* the last one carries four bits */
    }
    if (strlen(text) != 64)
        return false;
    for (size_t i = 0; i < DIGEST_SIZE; i++) {
        const int high = hex_value(text[2 * i]), low = hex_value(text[2 * i + 1]);

        if (high < 0 || low < 0)
            return false;
        bytes[i] = (uint8_t)(high * 16 + low);
    }
    base64url_encode(bytes, sizeof bytes, digest);
    return true;
}

static bool is_printable(const char *text, size_t length, size_t least, size_t most)
{
    if (length < least || length > most)
        return false;
    for (size_t i = 0; i < length; i++) {
        if (text[i] <= 0x20 || text[i] > 0x7e)
            return false;
    }
    return true;
}

static bool take_short(const json_t *value, char text[IMPORT_TEXT_MAX + 1])
{
    const char *from = json_string_value(value);

    if (from == NULL || !is_printable(from, json_string_length(value), 1, IMPORT_TEXT_MAX))
        return false;
    memcpy(text, from, json_string_length(value) + 1);
    return true;
}

/* What only an import has; *ret_is_ours false: a field as of a create. */
static enum err take_own_field(const char *name, const json_t *value, struct import_row *row, bool *ret_is_ours,
                               struct problem *reterr)
{
    const char *text = json_string_value(value);

    *ret_is_ours = true;
    if (strcmp(name, "key") == 0) {
        row->key = text;
        return text != NULL && is_printable(text, json_string_length(value), IMPORT_SHORTEST, SECRET_SIZE_MAX - 1)
                   ? ERR_OK : refuse(reterr, name, "the key itself, of at least 16 printable characters");
    }
    if (strcmp(name, "hash") == 0)
        return take_digest(value, row->digest) ? ERR_OK
            : refuse(reterr, name, "SHA-256 of the key: 43 characters of base64url, or 64 of hexadecimal");
    if (strcmp(name, "start") == 0)
        return take_short(value, row->start) ? ERR_OK : refuse(reterr, name, "the first letters of the key");
    if (strcmp(name, "prefix") == 0)
        return take_short(value, row->prefix) ? ERR_OK : refuse(reterr, name, "1 to 32 printable characters");
    if (strcmp(name, "enabled") == 0) {
        row->is_disabled = json_is_false(value);
        return json_is_boolean(value) ? ERR_OK : refuse(reterr, name, "true or false");
    }
    if (strcmp(name, "expiresAt") == 0 && json_is_string(value)) {
        if (json_string_length(value) != strlen(text) || !keys_moment_is_valid(text))
            return refuse(reterr, name, "a moment as in RFC 3339, or null for never");
        memcpy(row->expires_at, text, strlen(text) + 1);
        return ERR_OK;
    }
    *ret_is_ours = false;
    return ERR_OK;
}

static enum err check_row(struct import_row *row, struct problem *reterr)
{
    if ((row->key == NULL) == (row->digest[0] == '\0'))
        return refuse(reterr, "key", "either key or hash is needed");
    if (!row->fields.has_user)
        return refuse(reterr, "userId", "the id of the user or organization whose key it is");
    if (row->start[0] == '\0' && row->key != NULL)
        memcpy(row->start, row->key, 6);    /* as Better-Auth shows them */
    return ERR_OK;
}

enum err import_parse_row(const json_t *value, uint64_t default_expiry_s, struct import_row *ret_row, struct problem *reterr)
{
    static const char *const shared[] = { "name", "scopes", "expiresIn", "rateLimit", "metadata", "userId", "tenantId" };
    OWNED(row_destroy) json_t *rest = json_object();
    json_t *object = (json_t *)(uintptr_t)value;    /* jansson's iterators take no const */
    enum err err;

    *ret_row = (struct import_row){ .key = NULL };
    if (!json_is_object(value) || rest == NULL)
        return refuse(reterr, "", "a row must be a JSON object");
    for (void *at = json_object_iter(object); at != NULL; at = json_object_iter_next(object, at)) {
        const char *name = json_object_iter_key(at);
        const bool is_never = strcmp(name, "expiresAt") == 0 && json_is_null(json_object_iter_value(at));
        bool is_ours;
        size_t i = 0;

        err = take_own_field(name, json_object_iter_value(at), ret_row, &is_ours, reterr);
        if (err != ERR_OK)
            return err;
        while (i < sizeof shared / sizeof shared[0] && strcmp(shared[i], name) != 0)
            i++;
        if (!is_ours && !is_never && i == sizeof shared / sizeof shared[0])
            return refuse(reterr, name, "an import takes no such field");
        if (!is_ours)
            json_object_set(rest, is_never ? "expiresIn" : name, json_object_iter_value(at));
    }
    err = keys_parse_create(rest, default_expiry_s, &ret_row->fields, reterr);
    return err != ERR_OK ? err : check_row(ret_row, reterr);
}
