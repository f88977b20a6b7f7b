/* Bodies, queries and URLs of the management API: no input may crash them, and what they accept keeps its limits. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/scope.h"
#include "services/keys/keys_rules.h"
#include "services/keys/tenants_rules.h"
#include "services/keys/tokens_rules.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static void check_key(const struct key_fields *fields)
{
    assert(strlen(fields->name) < sizeof fields->name && (fields->scopes & ~SCOPE_ALL) == 0);
    assert(fields->expires_in_s <= KEYS_EXPIRY_MAX_S && fields->rate_window_s <= KEYS_WINDOW_MAX_S);
    json_t *metadata = json_loads(fields->metadata, JSON_DECODE_ANY, NULL);
    assert(json_is_null(metadata) || json_is_object(metadata));
    json_decref(metadata);
}

static void try_revocation(const json_t *body)
{
    static struct issuers *issuers;
    struct token_end_fields fields;
    struct problem problem;

    if (issuers == NULL) {
        issuers = calloc(1, sizeof *issuers + sizeof issuers->list[0]);
        assert(issuers != NULL);
        issuers->count = 1;
        strcpy(issuers->list[0].name, "a");
        strcpy(issuers->list[0].issuer, "joe");
        issuers->list[0].algorithms = JOSE_ALL;
        issuers->list[0].opaque = OPAQUE_DATABASE;
    }
    if (tokens_parse(body, issuers, &fields, &problem) == ERR_OK)
        assert(strcmp(fields.issuer, "a") == 0 && fields.value[0] != '\0' && strlen(fields.name) == TOKEN_BOND_SIZE - 1);
}

static void try_body(const json_t *body)
{
    char reason[KEYS_REASON_MAX + 1];
    struct tenant_fields tenant;
    struct server_fields server;
    struct key_fields key;
    struct problem problem;
    const char *text;

    try_revocation(body);
    if (keys_parse_create(body, 60, &key, &problem) == ERR_OK)
        check_key(&key);
    if (keys_parse_update(body, &key, &problem) == ERR_OK)
        check_key(&key);
    if (keys_parse_reason(body, reason, &problem) == ERR_OK)
        assert(strlen(reason) <= KEYS_REASON_MAX);
    if (keys_parse_verify(body, &text, &problem) == ERR_OK)
        assert(text != NULL);
    for (int is_new = 0; is_new < 2; is_new++) {
        if (tenants_parse(body, is_new != 0, &tenant, &problem) == ERR_OK)
            assert(!is_new || keys_slug_is_valid(tenant.slug));
        if (keys_parse_server(body, is_new != 0, &server, &problem) != ERR_OK)
            continue;
        assert(!server.has_url || keys_url_fault(server.url) == NULL);
        assert(!is_new || keys_slug_is_valid(server.slug));
    }
}

/* The first byte chooses the reader, the rest is what it reads. */
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct page_query query;
    struct problem problem;
    char *text;

    if (size == 0)
        return 0;
    const struct view rest = { bytes + 1, size - 1 };
    if (bytes[0] <= PAGE_OF_USERS) {
        if (keys_parse_page(&rest, (enum page_kind)bytes[0], &query, &problem) == ERR_OK)
            assert(query.limit >= 1 && query.limit <= KEYS_PAGE_MAX);
        return 0;
    }
    text = malloc(size);
    if (text == NULL)
        return 0;
    memcpy(text, rest.bytes, rest.size);
    text[rest.size] = '\0';
    (void)keys_url_fault(text);
    assert((keys_permission_scopes(text, "mcp") & ~SCOPE_ALL) == 0);
    json_t *body = json_loadb(text, rest.size, JSON_REJECT_DUPLICATES, NULL);
    if (body != NULL)
        try_body(body);
    json_decref(body);
    free(text);
    return 0;
}
