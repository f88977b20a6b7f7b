/* users_store.h - all SQL about users and their sessions; both are Better-Auth's rows.  The changing ones as in keys_store.h. */
#ifndef KEYS_USERS_STORE_H
#define KEYS_USERS_STORE_H

#include "services/keys/keys_store.h"

/* One user as seen from a tenant; texts belong to the result, "" stands for NULL. */
struct user_row {
    const char *id, *name, *email, *role, *created_at, *suspended_reason, *suspended_until;
    bool is_suspended;
    bool is_in_tenant;       /* a member of that organization, or the user of user:<id>, or the owner of a key in it */
    bool is_only_there;      /* ... and in no other organization */
    int64_t sessions;        /* that live */
};
struct session_row {
    const char *id, *created_at, *updated_at, *expires_at, *address, *agent, *cursor;
};

extern const struct postgres_statement users_statements[];

enum err store_load_user(struct store *store, const char *user_id, const char *tenant_id, postgres_fn *fn,
                         void *owner) MUST_CHECK;
/* The user of a session. */
enum err store_load_session_user(struct store *store, const char *session_id, const char *tenant_id, postgres_fn *fn,
                                 void *owner) MUST_CHECK;
/* tenant_id NULL: everybody.  The cursor is an id. */
enum err store_list_users(struct store *store, const char *tenant_id, const struct page_query *query, postgres_fn *fn,
                          void *owner) MUST_CHECK;
enum err store_list_sessions(struct store *store, const char *user_id, const struct page_query *query, postgres_fn *fn,
                             void *owner) MUST_CHECK;
/* Suspending signs out too, and takes the place of a ban that others set, until it is lifted.  The object afterwards is the user. */
enum err store_suspend_user(struct store *store, const struct store_actor *actor, bool is_operator, postgres_fn *fn,
                            void *owner) MUST_CHECK;
/* Lifts what the gateway suspended; what an operator suspended, only for one. */
enum err store_resume_user(struct store *store, const struct store_actor *actor, bool is_operator, postgres_fn *fn,
                           void *owner) MUST_CHECK;
/* All sessions of a user; behind act and claim the statement that tells how many. */
enum err store_sign_out(struct store *store, const struct store_actor *actor, postgres_fn *fn, void *owner) MUST_CHECK;
enum err store_end_session(struct store *store, const struct store_actor *actor, postgres_fn *fn, void *owner) MUST_CHECK;

bool store_read_user(const PGresult *rows, int row, struct user_row *ret_user);              /* false: no such row */
bool store_read_session(const PGresult *rows, int row, struct session_row *ret_session);

#endif
