/* challenge.c - what to get, and where, for who was refused. */
#include "services/edge/challenge.h"

#include "common/scope.h"
#include "services/edge/metadata.h"

struct reason {
    const char *error, *description;
};

/* NULL: no challenge.  An error of "": no credential came, so none is at fault (RFC 6750 3.1). */
static const struct reason *reason_of(const struct refusal *refusal)
{
    static const struct reason none = { "", "" };
    static const struct reason invalid = { "invalid_token", "The credential did not verify" };
    static const struct reason scope = { "insufficient_scope", "The credential lacks a scope that this operation needs" };
    static const struct reason factor = { "insufficient_user_authentication", "This operation needs a second factor" };

    if (refusal->err == ERR_UNVERIFIED)
        return refusal->is_invalid_credential ? &invalid : &none;
    if (refusal->err != ERR_DENIED)
        return NULL;
    return refusal->lacks_factor ? &factor : refusal->lacks_scope ? &scope : NULL;
}

static void write_parameter(struct writer *head, bool *is_first, const char *name, const char *value)
{
    writer_text(head, *is_first ? " " : ", ");
    writer_text(head, name);
    writer_literal(head, "=\"");
    writer_text(head, value);
    writer_literal(head, "\"");
    *is_first = false;
}

static bool find_metadata(const struct exchange *exchange, struct writer *url)
{
    if (exchange->resource != NULL)
        return metadata_write_url_of(exchange->edge->metadata, exchange->resource, url);
    return metadata_write_url(exchange->edge->metadata, exchange->path, url);
}

void challenge_write(struct writer *head, const struct exchange *exchange, const struct refusal *refusal)
{
    const struct reason *reason = reason_of(refusal);
    const bool has_scopes = refusal->needed_scopes != 0 && refusal->needed_scopes <= SCOPE_ALL;
    char scopes[METADATA_SCOPES_SIZE], url[600];
    struct writer text = writer_on(url, sizeof url - 1);
    bool is_first = true;

    if (reason == NULL)
        return;
    writer_literal(head, "WWW-Authenticate: Bearer");
    if (reason->error[0] != '\0') {
        write_parameter(head, &is_first, "error", reason->error);
        write_parameter(head, &is_first, "error_description", reason->description);
    }
    if (find_metadata(exchange, &text) && !text.is_full) {
        url[text.size] = '\0';
        write_parameter(head, &is_first, "resource_metadata", url);
    }
    if (has_scopes)
        write_parameter(head, &is_first, "scope", metadata_format_scopes(exchange->edge->metadata, refusal->needed_scopes, scopes));
    if (is_first)
        write_parameter(head, &is_first, "realm", "mcpgw");    /* a challenge needs a parameter */
    writer_literal(head, "\r\n");
}

void challenge_extend_body(struct writer *body, const struct refusal *refusal)
{
    const struct reason *reason = reason_of(refusal);

    if (reason == NULL || reason->error[0] == '\0' || body->size == 0)
        return;
    body->size--;    /* the closing brace */
    writer_literal(body, ",\"error\":");
    writer_json(body, reason->error);
    writer_literal(body, ",\"error_description\":");
    writer_json(body, reason->description);
    writer_literal(body, "}");
}
