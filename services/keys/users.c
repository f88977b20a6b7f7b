/*
 * users.c - who is in a tenant, their suspension and their sessions.
 *
 * A user and their sessions are no tenant's own: suspending reaches every tenant of that user.  So a tenant's
 * administrator does it only to users who are in that tenant alone, and to no operator; others are for an operator.  An
 * administrator can make a key in the name of any member, so a key that acts in a tenant is not the user themselves.
 */
#include "services/keys/users.h"

#include <stdio.h>
#include <string.h>

#include "common/operation.h"
#include "services/keys/users_store.h"

static json_t *text_or_none(const char *text)
{
    return text[0] == '\0' ? json_null() : json_string(text);
}

static json_t *json_of(const struct user_row *user)
{
    return json_pack("{s:s, s:o, s:o, s:o, s:b, s:o, s:o, s:I, s:s}", "id", user->id, "name", text_or_none(user->name),
                     "email", text_or_none(user->email), "memberRole", text_or_none(user->role), "suspended",
                     user->is_suspended, "suspendedReason",
                     user->is_suspended ? text_or_none(user->suspended_reason) : json_null(), "suspendedUntil",
                     user->is_suspended ? text_or_none(user->suspended_until) : json_null(), "sessions",
                     (json_int_t)user->sessions, "createdAt", user->created_at);
}

static json_t *json_of_session(const struct session_row *session)
{
    return json_pack("{s:s, s:s, s:s, s:s, s:o, s:o}", "id", session->id, "createdAt", session->created_at, "updatedAt",
                     session->updated_at, "expiresAt", session->expires_at, "address", text_or_none(session->address),
                     "userAgent", text_or_none(session->agent));
}

/* ---- one user ---------------------------------------------------------------------------------- */

static bool is_operators(const struct pending *p, const struct user_row *user)
{
    char tenant[81];
    const int length = snprintf(tenant, sizeof tenant, "user:%.70s", user->id);

    return keys_list_has(p->keys->config->operator_tenants, tenant, (size_t)length);
}

/* Does the caller act as the user, whoever made the credential? */
static bool is_themselves(const struct pending *p, const struct user_row *user)
{
    return strcmp(user->id, p->user_id) == 0
           && (p->key_id[0] == '\0' || (strncmp(p->tenant_id, "user:", 5) == 0 && strcmp(p->tenant_id + 5, user->id) == 0));
}

/* Without a row the user does not exist, for this caller. */
static enum err decide_user(const struct pending *p, const struct user_row *user, struct problem *problem)
{
    const struct caller caller = caller_of(p);
    const bool is_oneself = user != NULL && strcmp(user->id, p->user_id) == 0;

    if (user == NULL || !(keys_is_operator(&caller) || is_oneself || (keys_is_administrator(&caller) && user->is_in_tenant)))
        return refuse_missing(problem);
    if (p->operation == OPERATION_user_get)
        return ERR_OK;
    if (p->operation == OPERATION_user_suspend && is_oneself)
        return problem_set(problem, ERR_CONFLICT, "oneself", "", "nobody suspends themselves");
    if (keys_is_operator(&caller) || is_themselves(p, user))
        return ERR_OK;
    if (!user->is_only_there || is_operators(p, user))
        return problem_set(problem, ERR_DENIED, "shared_user", "",
                           "this user belongs to other organizations too, or is an operator: only an operator may do this");
    return ERR_OK;
}

/* The statement behind act and claim. */
static json_int_t rows_done(PGresult *const *results)
{
    return (json_int_t)strtoll(PQcmdTuples(results[2]), NULL, 10);
}

static void on_user_changed(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    struct pending *p = owner;
    struct store_effect effect;
    struct user_row user;

    if (ended_by_store(p, outcome, results, count))
        return;
    store_read_effect(results, count, &p->actor, &effect);
    if (ended_by_reuse(p, effect.is_foreign))
        return;
    if (p->operation == OPERATION_session_end)
        answer_when_applied(p, effect.sequence, 200, json_pack("{s:s, s:b}", "id", p->object, "ended", 1));
    else if (!store_read_user(store_object_rows(results, count), 0, &user))
        answer_err(p, ERR_NOT_FOUND, NULL, "", "");
    else if (p->operation == OPERATION_user_resume && user.is_suspended && !effect.is_repeat && rows_done(results) == 0)
        answer_err(p, ERR_CONFLICT, "banned_by_others", "",
                   "others banned this user, such as Better-Auth's administrators or an operator: it is theirs to lift (there: admin/unban-user)");
    else if (p->operation == OPERATION_user_sign_out)
        answer_when_applied(p, effect.sequence, 200, json_pack("{s:s, s:I}", "id", p->object, "ended", rows_done(results)));
    else
        answer_when_applied(p, effect.sequence, 200, json_of(&user));
}

static void on_sessions_listed(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    struct pending *p = owner;
    struct page page = { .limit = p->in.page.limit };
    struct session_row session;

    if (ended_by_store(p, outcome, results, count))
        return;
    page.items = json_array();
    for (int row = 0; store_read_session(results[0], row, &session); row++) {
        if (!page_add(&page, json_of_session(&session), session.cursor))
            break;
    }
    answer_page(p, &page);
}

/* Ends the call, or goes on with what it asked for. */
static enum err go_on(struct pending *p, const struct user_row *user)
{
    const struct caller caller = caller_of(p);
    struct store *store = p->keys->store;

    switch (p->operation) {
    case OPERATION_user_suspend:
        return store_suspend_user(store, &p->actor, keys_is_operator(&caller), on_user_changed, p);
    case OPERATION_user_resume:
        return store_resume_user(store, &p->actor, keys_is_operator(&caller), on_user_changed, p);
    case OPERATION_user_sign_out:
        return store_sign_out(store, &p->actor, on_user_changed, p);
    case OPERATION_session_end:
        return store_end_session(store, &p->actor, on_user_changed, p);
    case OPERATION_session_list:
        return store_list_sessions(store, p->object, &p->in.page, on_sessions_listed, p);
    default:
        answer(p, 200, json_of(user));
        return ERR_OK;
    }
}

static void on_user_loaded(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    struct pending *p = owner;
    struct problem problem;
    struct user_row user;
    bool is_there;

    if (ended_by_store(p, outcome, results, count))
        return;
    is_there = store_read_user(results[0], 0, &user);
    if (decide_user(p, is_there ? &user : NULL, &problem) != ERR_OK)
        answer_problem(p, &problem);
    else if (go_on(p, &user) != ERR_OK)
        answer_err(p, ERR_UNAVAILABLE, NULL, "", "");
}

enum err begin_user_call(struct pending *p, const json_t *body, const struct view *query, struct problem *problem)
{
    enum err err = ERR_OK;

    p->actor.event = "user.changed";    /* the triggers name each by what it did */
    if (p->operation == OPERATION_session_list)
        err = keys_parse_page(query, PAGE_OF_KEYS, &p->in.page, problem);
    else if (p->operation != OPERATION_user_get)
        err = keys_parse_reason(body, p->reason, problem);
    if (err != ERR_OK)
        return err;
    return store_load_user(p->keys->store, p->object, p->tenant_id, on_user_loaded, p);
}

enum err begin_session_end(struct pending *p, const json_t *body, const struct view *query, struct problem *problem)
{
    enum err err = keys_parse_reason(body, p->reason, problem);

    (void)query;
    p->actor.event = "session.ended";
    return err != ERR_OK ? err : store_load_session_user(p->keys->store, p->object, p->tenant_id, on_user_loaded, p);
}

/* ---- many -------------------------------------------------------------------------------------- */

static void on_users_listed(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    struct pending *p = owner;
    struct page page = { .limit = p->in.page.limit };
    struct user_row user;

    if (ended_by_store(p, outcome, results, count))
        return;
    page.items = json_array();
    for (int row = 0; store_read_user(results[0], row, &user); row++) {
        if (!page_add(&page, json_of(&user), user.id))
            break;
    }
    answer_page(p, &page);
}

/* ?tenant= narrows it; an administrator of a tenant has one to ask for. */
enum err begin_user_list(struct pending *p, const json_t *body, const struct view *query, struct problem *problem)
{
    const struct caller caller = caller_of(p);
    const char *tenant = p->in.page.tenant_id;
    enum err err = keys_parse_page(query, PAGE_OF_USERS, &p->in.page, problem);

    (void)body;
    if (err != ERR_OK)
        return err;
    if (!keys_is_operator(&caller) && tenant[0] != '\0' && strcmp(tenant, p->tenant_id) != 0)
        return refuse_missing(problem);
    if (!keys_is_operator(&caller))
        tenant = p->tenant_id;
    return store_list_users(p->keys->store, tenant[0] == '\0' ? NULL : tenant, &p->in.page, on_users_listed, p);
}
