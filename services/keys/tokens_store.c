#include "services/keys/tokens_store.h"

#include "services/keys/store_plan.h"

/* Longer than any token lives: whoever knows better says so. */
#define KEEP "now() + interval '1 year'"
#define ROW_SELECT "SELECT t.name, t.kind, t.issuer, t.value, " MOMENT("t.issued_before") ", " MOMENT("t.expires_at") ", " MOMENT("t.at") "," \
    " t.created_by, t.reason, (extract(epoch FROM t.at) * 1000000)::bigint || '.' || t.name FROM mcpgw.ended_token t "

const struct postgres_statement tokens_statements[] = {
    { "token_prune", "DELETE FROM mcpgw.ended_token WHERE expires_at <= now()" },
    /* A moment that lies ahead ends tokens that are not issued yet: no further than clocks differ. */
    { "token_end", "INSERT INTO mcpgw.ended_token AS t (name, kind, issuer, value, issued_before, expires_at, at, created_by, reason)"
                   " SELECT $4, $5, $6, $7, coalesce($8::timestamptz, CASE WHEN $5 = 'subject' THEN " NOW_MS " END),"
                   " coalesce($9::timestamptz, " KEEP "), " NOW_MS ", $1, $10"
                   " WHERE " CLAIMED " AND coalesce($9::timestamptz, " KEEP ") > now()"
                   " AND coalesce($8::timestamptz, now()) <= now() + interval '5 minutes'"
                   " ON CONFLICT (name) DO UPDATE SET issued_before = greatest(t.issued_before, excluded.issued_before),"
                   " expires_at = greatest(t.expires_at, excluded.expires_at), reason = coalesce(excluded.reason, t.reason)" },
    { "token_restore", "DELETE FROM mcpgw.ended_token WHERE name = $4 AND " CLAIMED },
    { "ended_token_get", ROW_SELECT "WHERE t.name = $1" },
    { "ended_token_list", ROW_SELECT "WHERE t.expires_at > now() AND ($1 = '' OR (t.at, t.name) < (" CURSOR_MOMENT("$2") ", $1))"
                          " ORDER BY t.at DESC, t.name DESC LIMIT $3::int" },
    { NULL, NULL }
};

enum err store_end_token(struct store *store, const struct store_actor *actor, const struct token_end_fields *fields,
                         postgres_fn *fn, void *owner)
{
    struct plan plan = { .count = 0 };
    struct postgres_step *step;

    plan_begin(&plan, actor);
    plan_add(&plan, "token_prune");
    step = plan_claimed(&plan, "token_end", actor);
    step_value(step, actor->object);
    step_value(step, fields->is_subject ? "subject" : "token");
    step_value(step, fields->issuer);
    step_value(step, fields->value);
    step_value(step, text_or_null(fields->issued_before));
    step_value(step, text_or_null(fields->expires_at));
    step_value(step, text_or_null(actor->reason));
    return plan_run(&plan, store, actor, "ended_token_get", fn, owner);
}

enum err store_restore_token(struct store *store, const struct store_actor *actor, postgres_fn *fn, void *owner)
{
    struct plan plan = { .count = 0 };

    plan_begin(&plan, actor);
    step_value(plan_claimed(&plan, "token_restore", actor), actor->object);
    return plan_run(&plan, store, actor, "ended_token_get", fn, owner);
}

enum err store_list_ended_tokens(struct store *store, const struct page_query *query, postgres_fn *fn, void *owner)
{
    const struct number us = number_of(query->cursor_us), limit = number_of(query->limit + 1);

    return postgres_call(store->postgres, &(struct postgres_step){
        .statement = "ended_token_list", .count = 3, .values = { query->cursor, us.text, limit.text } }, fn, owner);
}

bool store_read_ended_token(const PGresult *rows, int row, struct ended_token_row *ret_row)
{
    if (row >= PQntuples(rows))
        return false;
#define TEXT(column) postgres_text(rows, row, column)
    *ret_row = (struct ended_token_row){
        .name = TEXT(0), .kind = TEXT(1), .issuer = TEXT(2), .value = TEXT(3), .issued_before = TEXT(4), .expires_at = TEXT(5),
        .at = TEXT(6), .created_by = TEXT(7), .reason = TEXT(8), .cursor = TEXT(9),
    };
#undef TEXT
    return true;
}
