/*
 * Any bytes as a request: a head that is accepted reads the same to a parser that knows no leniency, a normalised path is stable
 * and free of what servers read differently, and queries, credentials and forwarded addresses stay within their bounds.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "services/edge/credentials.h"
#include "services/edge/http_path.h"
#include "services/edge/http_plain.h"
#include "services/edge/peers.h"
#include "services/edge/proxy_fields.h"
#include "services/edge/query.h"
#include "services/edge/routes.h"
#include "tests/unit/http_head.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

/* The lines behind the request line, cut at CR LF only, are the fields in their order. */
static void compare_with_original(const char *original, size_t size, const struct http_head *head)
{
    const char *at = memchr(original, '\n', size) == NULL ? NULL : (const char *)memchr(original, '\n', size) + 1;

    for (size_t i = 0; i < head->count; i++) {
        const struct http_field *field = &head->fields[i];
        const char *end = strstr(at, "\r\n");

        if (i == 0 && strncmp(at, field->name, field->name_length) != 0)
            return;    /* two line ends of another kind behind the request line: they leave no trace */
        assert(end != NULL && memchr(at, '\n', (size_t)(end - at)) == NULL);
        assert(strncmp(at, field->name, field->name_length) == 0 && at[field->name_length] == ':');
        at += field->name_length + 1;
        at += strspn(at, " \t");
        assert(at <= end && strncmp(at, field->value, field->value_length) == 0);
        assert((size_t)(end - at) >= field->value_length);
        at = end + 2;
    }
    assert(strncmp(at, "\r\n", 2) == 0);
}

static void check_path(const char *raw)
{
    char path[HTTP_PATH_MAX + 1], again[HTTP_PATH_MAX + 1], allow[ROUTES_ALLOW_SIZE];
    struct route_match match;

    if (http_path_normalise(raw, path) != ERR_OK)
        return;
    assert(path[0] == '/' && strstr(path, "//") == NULL && strstr(path, "/../") == NULL && strpbrk(path, "\\;#? ") == NULL);
    assert(http_path_normalise(path, again) == ERR_OK && strcmp(path, again) == 0);
    if (routes_find("GET", path, &match, allow) == ERR_OK)
        assert(match.rest >= path && match.rest <= path + strlen(path));
}

static void check_values(const struct http_raw *raw, const struct http_head *head)
{
    const struct peers peers = { .count = 1, .networks = { { .bits = 0 } } };
    const struct http_field *forwarded = http_head_find(head, HTTP_X_FORWARDED_FOR);
    struct credential credential;
    char address[PEERS_ADDRESS_SIZE], value[65], mapped[256];
    const char *reason;

    if (credentials_find(head, "better-auth.session_token", &credential, &reason) == ERR_OK)
        assert(credential.length > 0 && credential.length <= HTTP_LINE_MAX);
    peers_client(&peers, "10.0.0.1", forwarded != NULL ? forwarded->value : NULL, address);
    assert(strlen(address) < PEERS_ADDRESS_SIZE);
    if (query_find(raw->query != NULL ? raw->query : "", "scope", value, sizeof value) == ERR_OK)
        assert(strlen(value) < sizeof value);
    for (size_t i = 0; i < head->count; i++) {
        (void)proxy_passes_request(head->fields[i].name, head->fields[i].name_length, head->fields[0].value);
        (void)proxy_origin_is_allowed("http://localhost:*", "https://gw.example", head->fields[i].value);
        if (proxy_map_location("http://up/mcp", "s", head->fields[i].value, mapped, sizeof mapped) == ERR_OK)
            assert(strlen(mapped) < sizeof mapped);
    }
}

/* What the plain reader takes, civetweb takes as well, and leaves behind just the same bytes. */
static void compare_readers(const char *original, size_t size)
{
    struct http_raw_field fields[HEAD_FIELDS];
    struct http_plain plain;
    struct http_raw raw;
    char ours[HTTP_PLAIN_MAX], theirs[HTTP_PLAIN_MAX];

    if (size == 0 || size > HTTP_PLAIN_MAX)
        return;
    memcpy(ours, original, size);
    memcpy(theirs, original, size);
    if (!http_plain_read(ours, size, &plain))
        return;
    assert(head_parse(theirs, size, fields, &raw));
    assert(memcmp(ours, theirs, size) == 0 && raw.count == plain.raw.count);
    assert(plain.raw.target - ours == raw.target - theirs && plain.raw.version - ours == raw.version - theirs);
    for (size_t i = 0; i < raw.count; i++)
        assert(plain.fields[i].name - ours == fields[i].name - theirs && plain.fields[i].value - ours == fields[i].value - theirs);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static struct http_head head;
    struct http_raw_field fields[HEAD_FIELDS];
    struct http_raw raw;
    const char *reason;
    char *original, *parsed;

    if (size > 2 * HTTP_HEAD_MAX)
        return 0;
    original = malloc(size + 1);
    parsed = malloc(size + 1);
    if (original != NULL && parsed != NULL) {
        memcpy(original, bytes, size);
        memcpy(parsed, bytes, size);
        original[size] = parsed[size] = '\0';
        check_path(original);
        compare_readers(original, size);
        if (head_parse(parsed, size, fields, &raw)) {
            check_path(raw.target);
            if (http_strict_check(&raw, &head, &reason) == ERR_OK) {
                compare_with_original(original, size, &head);
                check_values(&raw, &head);
            }
        }
    }
    free(original);
    free(parsed);
    return 0;
}
