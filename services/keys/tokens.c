/*
 * tokens.c - access tokens that an administrator ends: one, or all that a subject was given until a moment.
 *
 * What is not ours cannot be deleted: it is refused here, until it would have expired, by every worker that has applied
 * the change.
 */
#include "services/keys/tokens.h"

#include <stdlib.h>
#include <string.h>

#include "common/operation.h"
#include "services/keys/tokens_store.h"

static json_t *text_or_none(const char *text)
{
    return text[0] == '\0' ? json_null() : json_string(text);
}

static json_t *json_of(const struct ended_token_row *row)
{
    return json_pack("{s:s, s:s, s:s, s:s, s:o, s:s, s:s, s:o, s:o}", "id", row->name, "kind", row->kind, "issuer", row->issuer,
                     "value", row->value, "issuedBefore", text_or_none(row->issued_before), "expiresAt", row->expires_at,
                     "createdAt", row->at, "createdBy", text_or_none(row->created_by), "reason", text_or_none(row->reason));
}

/* The statement behind act and claim. */
static bool has_changed_rows(PGresult *const *results)
{
    return strcmp(PQcmdTuples(results[2]), "0") != 0;
}

static void on_changed(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    struct pending *p = owner;
    struct store_effect effect;
    struct ended_token_row row;
    bool is_there;

    if (ended_by_store(p, outcome, results, count))
        return;
    store_read_effect(results, count, &p->actor, &effect);
    if (ended_by_reuse(p, effect.is_foreign))
        return;
    is_there = store_read_ended_token(store_object_rows(results, count), 0, &row);
    if (p->operation == OPERATION_token_restore && !effect.is_repeat && !has_changed_rows(results))
        answer_err(p, ERR_NOT_FOUND, NULL, "", "");
    else if (p->operation == OPERATION_token_restore)
        answer_when_applied(p, effect.sequence, 200, json_pack("{s:s, s:b}", "id", p->object, "restored", 1));
    else if (!is_there)
        answer_err(p, ERR_UNPROCESSABLE, NULL, p->in.token_end.is_subject ? "issuedBefore" : "expiresAt",
                   "issuedBefore lies at most five minutes ahead, and expiresAt is still to come: an expired token is refused anyway");
    else
        answer_when_applied(p, effect.sequence, 200, json_of(&row));
}

enum err begin_token_revoke(struct pending *p, const json_t *body, const struct view *query, struct problem *problem)
{
    enum err err = tokens_parse(body, p->keys->issuers, &p->in.token_end, problem);

    (void)query;
    if (err != ERR_OK)
        return err;
    memcpy(p->reason, p->in.token_end.reason, sizeof p->reason);
    p->actor.event = "token.revoked";
    memcpy(p->object, p->in.token_end.name, sizeof p->in.token_end.name);
    return store_end_token(p->keys->store, &p->actor, &p->in.token_end, on_changed, p);
}

enum err begin_token_restore(struct pending *p, const json_t *body, const struct view *query, struct problem *problem)
{
    const enum err err = keys_parse_reason(body, p->reason, problem);

    (void)query;
    p->actor.event = "token.restored";
    return err != ERR_OK ? err : store_restore_token(p->keys->store, &p->actor, on_changed, p);
}

static void on_listed(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    struct pending *p = owner;
    struct page page = { .limit = p->in.page.limit };
    struct ended_token_row row;

    if (ended_by_store(p, outcome, results, count))
        return;
    page.items = json_array();
    for (int i = 0; store_read_ended_token(results[0], i, &row); i++) {
        if (!page_add(&page, json_of(&row), row.cursor))
            break;
    }
    answer_page(p, &page);
}

enum err begin_token_revoked(struct pending *p, const json_t *body, const struct view *query, struct problem *problem)
{
    const enum err err = keys_parse_page(query, PAGE_OF_TOKENS, &p->in.page, problem);

    (void)body;
    return err != ERR_OK ? err : store_list_ended_tokens(p->keys->store, &p->in.page, on_listed, p);
}
