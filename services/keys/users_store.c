/* users_store.c - all SQL about users and their sessions. */
#include "services/keys/users_store.h"

#include "services/keys/store_plan.h"

#define IN_TENANT(tenant) \
    "(EXISTS (SELECT FROM public.member m WHERE m.\"userId\" = u.id AND m.\"organizationId\" = " tenant ") OR 'user:' || u.id = " tenant \
    " OR EXISTS (SELECT FROM mcpgw.key k JOIN mcpgw.credential c ON c.key_id = k.key_id" \
    "            WHERE k.tenant_id = " tenant " AND c.reference_id = u.id AND NOT c.is_organization))"
#define USER_SELECT(tenant) \
    "SELECT u.id, u.name, u.email, (SELECT m.role FROM public.member m WHERE m.\"userId\" = u.id AND m.\"organizationId\" = " tenant " LIMIT 1), " \
    MOMENT("u.\"createdAt\"") ", u.\"banReason\", " MOMENT("u.\"banExpires\"") "," \
    " coalesce(u.banned AND (u.\"banExpires\" IS NULL OR u.\"banExpires\" > now()), false), " IN_TENANT(tenant) "," \
    " NOT EXISTS (SELECT FROM public.member m WHERE m.\"userId\" = u.id AND m.\"organizationId\" <> " tenant ")," \
    " (SELECT count(*) FROM public.session s WHERE s.\"userId\" = u.id AND s.\"expiresAt\" > now()) FROM public.\"user\" u "

enum user_column {
    USER_id, USER_name, USER_email, USER_role, USER_created_at, USER_reason, USER_until, USER_suspended, USER_in_tenant, USER_only_there,
    USER_sessions
};

const struct postgres_statement users_statements[] = {
    { "user_get", USER_SELECT("$2") "WHERE u.id = $1" },
    { "user_of_session", USER_SELECT("$2") "WHERE u.id = (SELECT s.\"userId\" FROM public.session s WHERE s.id = $1)" },
    { "user_after", USER_SELECT("current_setting('mcpgw.actor_tenant_id', true)") "WHERE u.id = $1" },
    { "user_list_all", USER_SELECT("''") "WHERE u.id > $1 ORDER BY u.id LIMIT $2::int" },
    { "user_list", USER_SELECT("$3") "WHERE u.id > $1 AND u.id IN (SELECT m.\"userId\" FROM public.member m WHERE m.\"organizationId\" = $3"
                   " UNION SELECT substr($3, 6) WHERE $3 LIKE 'user:%'"
                   " UNION SELECT c.reference_id FROM mcpgw.key k JOIN mcpgw.credential c ON c.key_id = k.key_id"
                   "       WHERE k.tenant_id = $3 AND NOT c.is_organization) ORDER BY u.id LIMIT $2::int" },
    { "user_suspend_note", "INSERT INTO mcpgw.suspension AS s (user_id, by_operator, was_banned, was_reason, was_until)"
                           " SELECT u.id, $5::boolean, coalesce(u.banned, false), u.\"banReason\", u.\"banExpires\" FROM public.\"user\" u"
                           " WHERE u.id = $4 AND " CLAIMED " ON CONFLICT (user_id) DO UPDATE SET by_operator = s.by_operator OR excluded.by_operator" },
    /* Nothing where the gateway has suspended the user before: then the note is older. */
    { "user_suspend", "UPDATE public.\"user\" u SET banned = true, \"banReason\" = $5, \"banExpires\" = NULL, \"updatedAt\" = " NOW_MS
                      " FROM mcpgw.suspension s WHERE u.id = $4 AND s.user_id = u.id AND s.at = now() AND " CLAIMED },
    { "user_resume", "UPDATE public.\"user\" u SET banned = s.was_banned AND coalesce(s.was_until > now(), true),"
                     " \"banReason\" = CASE WHEN s.was_banned THEN s.was_reason END, \"banExpires\" = CASE WHEN s.was_banned THEN s.was_until END,"
                     " \"updatedAt\" = " NOW_MS " FROM mcpgw.suspension s"
                     " WHERE u.id = $4 AND s.user_id = u.id AND ($5::boolean OR NOT s.by_operator) AND " CLAIMED },
    { "user_sign_out", "DELETE FROM public.session WHERE \"userId\" = $4 AND " CLAIMED },
    { "session_end", "DELETE FROM public.session WHERE id = $4 AND " CLAIMED },
    { "session_list", "SELECT s.id, " MOMENT("s.\"createdAt\"") ", " MOMENT("s.\"updatedAt\"") ", " MOMENT("s.\"expiresAt\"") ","
                      " s.\"ipAddress\", left(s.\"userAgent\", 300), (extract(epoch FROM s.\"createdAt\") * 1000000)::bigint || '.' || s.id"
                      " FROM public.session s WHERE s.\"userId\" = $4 AND s.\"expiresAt\" > now()"
                      " AND ($1 = '' OR (s.\"createdAt\", s.id) < (" CURSOR_MOMENT("$2") ", $1))"
                      " ORDER BY s.\"createdAt\" DESC, s.id DESC LIMIT $3::int" },
    { NULL, NULL }
};

static enum err load(struct store *store, const char *statement, const char *id, const char *tenant_id, postgres_fn *fn,
                     void *owner)
{
    return postgres_call(store->postgres,
                         &(struct postgres_step){ .statement = statement, .count = 2, .values = { id, tenant_id } }, fn,
                         owner);
}

enum err store_load_user(struct store *store, const char *user_id, const char *tenant_id, postgres_fn *fn, void *owner)
{
    return load(store, "user_get", user_id, tenant_id, fn, owner);
}

enum err store_load_session_user(struct store *store, const char *session_id, const char *tenant_id, postgres_fn *fn,
                                 void *owner)
{
    return load(store, "user_of_session", session_id, tenant_id, fn, owner);
}

enum err store_list_users(struct store *store, const char *tenant_id, const struct page_query *query, postgres_fn *fn,
                          void *owner)
{
    const struct number limit = number_of(query->limit + 1);

    return postgres_call(store->postgres, &(struct postgres_step){
        .statement = tenant_id == NULL ? "user_list_all" : "user_list", .count = tenant_id == NULL ? 2 : 3,
        .values = { query->cursor, limit.text, tenant_id } }, fn, owner);
}

enum err store_list_sessions(struct store *store, const char *user_id, const struct page_query *query, postgres_fn *fn,
                             void *owner)
{
    const struct number us = number_of(query->cursor_us), limit = number_of(query->limit + 1);

    return postgres_call(store->postgres, &(struct postgres_step){
        .statement = "session_list", .count = 4, .values = { query->cursor, us.text, limit.text, user_id } }, fn, owner);
}

enum err store_suspend_user(struct store *store, const struct store_actor *actor, bool is_operator, postgres_fn *fn, void *owner)
{
    struct plan plan = { .count = 0 };
    struct postgres_step *step;

    plan_begin(&plan, actor);
    step = plan_claimed(&plan, "user_suspend_note", actor);
    step_value(step, actor->object);
    step_value(step, flag(is_operator));
    step = plan_claimed(&plan, "user_suspend", actor);
    step_value(step, actor->object);
    step_value(step, text_or_null(actor->reason));
    step_value(plan_claimed(&plan, "user_sign_out", actor), actor->object);
    return plan_run(&plan, store, actor, "user_after", fn, owner);
}

enum err store_resume_user(struct store *store, const struct store_actor *actor, bool is_operator, postgres_fn *fn, void *owner)
{
    struct plan plan = { .count = 0 };
    struct postgres_step *step;

    plan_begin(&plan, actor);
    step = plan_claimed(&plan, "user_resume", actor);
    step_value(step, actor->object);
    step_value(step, flag(is_operator));
    return plan_run(&plan, store, actor, "user_after", fn, owner);
}

enum err store_sign_out(struct store *store, const struct store_actor *actor, postgres_fn *fn, void *owner)
{
    struct plan plan = { .count = 0 };

    plan_begin(&plan, actor);
    step_value(plan_claimed(&plan, "user_sign_out", actor), actor->object);
    return plan_run(&plan, store, actor, "user_after", fn, owner);
}

enum err store_end_session(struct store *store, const struct store_actor *actor, postgres_fn *fn, void *owner)
{
    struct plan plan = { .count = 0 };

    plan_begin(&plan, actor);
    step_value(plan_claimed(&plan, "session_end", actor), actor->object);
    return plan_run(&plan, store, actor, "user_after", fn, owner);
}

bool store_read_user(const PGresult *rows, int row, struct user_row *ret_user)
{
    if (row >= PQntuples(rows))
        return false;
#define TEXT(column) postgres_text(rows, row, USER_##column)
    *ret_user = (struct user_row){
        .id = TEXT(id), .name = TEXT(name), .email = TEXT(email), .role = TEXT(role), .created_at = TEXT(created_at),
        .suspended_reason = TEXT(reason), .suspended_until = TEXT(until),
        .is_suspended = postgres_flag(rows, row, USER_suspended), .is_in_tenant = postgres_flag(rows, row, USER_in_tenant),
        .is_only_there = postgres_flag(rows, row, USER_only_there), .sessions = postgres_i64(rows, row, USER_sessions),
    };
#undef TEXT
    return true;
}

bool store_read_session(const PGresult *rows, int row, struct session_row *ret_session)
{
    if (row >= PQntuples(rows))
        return false;
    *ret_session = (struct session_row){
        .id = postgres_text(rows, row, 0), .created_at = postgres_text(rows, row, 1),
        .updated_at = postgres_text(rows, row, 2), .expires_at = postgres_text(rows, row, 3),
        .address = postgres_text(rows, row, 4), .agent = postgres_text(rows, row, 5), .cursor = postgres_text(rows, row, 6),
    };
    return true;
}
