/* reports_store.c - all SQL about the trail, usage and counters. */
#include "services/keys/reports.h"
#include "services/keys/store_plan.h"

const struct postgres_statement reports_statements[] = {
    { "events", "SELECT item, cursor FROM mcpgw.audit_page($1::timestamptz, $2::timestamptz, $3, $4, $5, $6, $7, $8, $9, $10,"
                " $11, $12::bigint, $13, $14::int)" },
    { "usage", "SELECT item FROM mcpgw.usage($1, $2::timestamptz, $3::timestamptz, $4, $5, $6, $7, $8::int)" },
    { "stats", "SELECT mcpgw.stats()" },
    { NULL, NULL }
};

enum err store_list_events(struct store *store, const struct page_query *query, postgres_fn *fn, void *owner)
{
    const struct number us = number_of(query->cursor_us), limit = number_of(query->limit + 1);
    const bool is_first = query->cursor[0] == '\0';

    return postgres_call(store->postgres, &(struct postgres_step){
        .statement = "events", .count = 14,
        .values = { text_or_null(query->from), text_or_null(query->to), text_or_null(query->key_id), text_or_null(query->user_id),
                    text_or_null(query->tenant_id), text_or_null(query->outcome), text_or_null(query->event),
                    text_or_null(query->server), text_or_null(query->tool), text_or_null(query->request_id),
                    text_or_null(query->presented),
                    is_first ? NULL : us.text, is_first ? NULL : query->cursor, limit.text } }, fn, owner);
}

enum err store_list_usage(struct store *store, const struct page_query *query, postgres_fn *fn, void *owner)
{
    const struct number limit = number_of(query->limit);

    return postgres_call(store->postgres, &(struct postgres_step){
        .statement = "usage", .count = 8,
        .values = { query->by, text_or_null(query->from), text_or_null(query->to), text_or_null(query->key_id),
                    text_or_null(query->user_id), text_or_null(query->tenant_id), text_or_null(query->server), limit.text } },
        fn, owner);
}

enum err store_read_stats(struct store *store, postgres_fn *fn, void *owner)
{
    return postgres_call(store->postgres, &(struct postgres_step){ .statement = "stats" }, fn, owner);
}
