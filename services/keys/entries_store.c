#include "services/keys/entries_store.h"

#include "services/keys/store_plan.h"

const struct postgres_statement entries_statements[] = {
    { "entries_start", "INSERT INTO mcpgw.entries_done AS d (sequence) SELECT s.value FROM mcpgw.change_sequence s"
                       " ON CONFLICT (\"only\") DO UPDATE SET sequence = d.sequence RETURNING d.sequence" },
    /* The owner stands in the outbox, which outlives mcpgw.change. */
    { "entries_changes", "SELECT s.value, c.sequence, c.kind, c.digest, c.key_id, o.user_id FROM mcpgw.change_sequence s"
                         " LEFT JOIN LATERAL (SELECT * FROM mcpgw.change x WHERE x.sequence > $1::bigint ORDER BY x.sequence LIMIT $2::int) c ON true"
                         " LEFT JOIN mcpgw.outbox o ON o.sequence = c.sequence ORDER BY c.sequence" },
    /* Backwards only where the database is an older one, from a backup. */
    { "entries_keep", "UPDATE mcpgw.entries_done d SET sequence = CASE WHEN d.sequence > s.value THEN $1::bigint"
                      " ELSE greatest(d.sequence, $1::bigint) END FROM mcpgw.change_sequence s" },
    { NULL, NULL }
};

enum err store_start_entries(struct store *store, postgres_fn *fn, void *owner)
{
    return postgres_call(store->postgres, &(struct postgres_step){ .statement = "entries_start" }, fn, owner);
}

enum err store_read_entry_changes(struct store *store, uint64_t since, postgres_fn *fn, void *owner)
{
    const struct number from = number_of(since), limit = number_of(STORE_CHANGES_MAX);

    return postgres_call(store->postgres, &(struct postgres_step){
        .statement = "entries_changes", .count = 2, .values = { from.text, limit.text } }, fn, owner);
}

bool store_read_entry_change(const PGresult *rows, int row, struct entry_change *ret_change)
{
    if (row >= PQntuples(rows) || PQgetisnull(rows, row, 1))
        return false;
    *ret_change = (struct entry_change){
        .sequence = (uint64_t)postgres_i64(rows, row, 1), .kind = (uint64_t)postgres_i64(rows, row, 2),
        .digest = postgres_text(rows, row, 3), .key_id = postgres_text(rows, row, 4), .reference_id = postgres_text(rows, row, 5),
    };
    return true;
}

enum err store_keep_entries(struct store *store, uint64_t sequence, postgres_fn *fn, void *owner)
{
    const struct number done = number_of(sequence);

    return postgres_call(store->postgres, &(struct postgres_step){
        .statement = "entries_keep", .count = 1, .values = { done.text } }, fn, owner);
}
