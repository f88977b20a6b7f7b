#include "services/keys/tenants.h"

#include <stdio.h>
#include <string.h>

#include "common/operation.h"
#include "services/keys/tenants_store.h"

static json_t *text_or_none(const char *text)
{
    return text[0] == '\0' ? json_null() : json_string(text);
}

static json_t *number_or_none(int64_t number)
{
    return number == 0 ? json_null() : json_integer((json_int_t)number);
}

/* "read proxy" as a list; "": null, no rule. */
static json_t *scopes_or_none(const char *text)
{
    json_t *list;

    if (text[0] == '\0')
        return json_null();
    list = json_array();
    while (*text != '\0') {
        const size_t length = strcspn(text, " ");

        json_array_append_new(list, json_stringn(text, length));
        text += length + (text[length] == ' ');
    }
    return list;
}

static json_t *limit_or_none(int64_t requests, int64_t window_s)
{
    if (requests == 0)
        return json_null();
    return json_pack("{s:I, s:I}", "requests", (json_int_t)requests, "window", (json_int_t)window_s);
}

static json_t *json_of(const struct tenant_row *row)
{
    return json_pack("{s:s, s:s, s:o, s:s, s:o, s:b, s:{s:o, s:o, s:o, s:o, s:o, s:o}, s:{s:o, s:o}, s:s, s:s, s:s}", "id", row->id, "slug",
                     row->slug, "name", text_or_none(row->name), "state", row->is_suspended ? "suspended" : "active",
                     "suspendedReason", text_or_none(row->suspended_reason), "organization", row->is_organization,
                     "policy", "maxKeyLife", number_or_none(row->max_life_s), "maxKeys", number_or_none(row->max_keys),
                     "scopes", scopes_or_none(row->scopes), "rotateAfter", number_or_none(row->rotate_after_s),
                     "idleAfter", number_or_none(row->idle_after_s), "keyPrefix", text_or_none(row->key_prefix), "limits", "tenant",
                     limit_or_none(row->limit_requests, row->limit_window_s), "perUser",
                     limit_or_none(row->user_limit_requests, row->user_limit_window_s), "createdAt", row->created_at, "updatedAt",
                     row->updated_at, "etag", row->etag);
}

static void answer_creation(struct pending *p, const struct store_effect *effect, bool has_changed,
                            const struct tenant_row *tenant)
{
    if (tenant == NULL)
        answer_err(p, ERR_CONFLICT, NULL, "slug", "another tenant has this slug");
    else if (!effect->is_repeat && !has_changed)
        answer_err(p, ERR_CONFLICT, NULL, "id", "this tenant exists; change it instead");
    else
        answer_when_applied(p, effect->sequence, 201, json_of(tenant));
}

static void on_tenant_changed(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    struct pending *p = owner;
    struct store_effect effect;
    struct tenant_row tenant;
    bool is_there, has_done;

    if (ended_by_store(p, outcome, results, count))
        return;
    store_read_effect(results, count, &p->actor, &effect);
    is_there = store_read_tenant(store_object_rows(results, count), 0, &tenant);
    if (ended_by_claim(p, &effect, is_there))
        return;
    has_done = effect.is_repeat || store_has_changed(results, &p->actor);
    if (p->operation == OPERATION_tenant_create)
        answer_creation(p, &effect, store_has_changed(results, &p->actor), is_there ? &tenant : NULL);
    else if (p->operation == OPERATION_tenant_delete && !is_there && has_done)
        answer_when_applied(p, effect.sequence, 200, json_pack("{s:s, s:b}", "id", p->object, "deleted", 1));
    else if (!is_there)
        answer_err(p, ERR_NOT_FOUND, NULL, "", "");
    else if (p->operation == OPERATION_tenant_delete)
        answer_err(p, ERR_CONFLICT, "not_empty", "",
                   "keys or servers are in this tenant, or its organization exists; remove those first");
    else if (p->operation == OPERATION_tenant_update && !has_done)
        answer_err(p, ERR_CONFLICT, NULL, "slug", "another tenant has this slug");
    else
        answer_when_applied(p, effect.sequence, 200, json_of(&tenant));
}

/* Whoever sets a limit for themselves alone could be shut out of taking it back. */
static enum err refuse_limit_of_operators(const struct pending *p, const struct tenant_fields *fields, struct problem *problem)
{
    if ((fields->limit.requests == 0 && fields->user_limit.requests == 0)
        || !keys_list_has(p->keys->config->operator_tenants, p->object, strlen(p->object)))
        return ERR_OK;
    return problem_set(problem, ERR_CONFLICT, "operators_tenant", "limits",
                       "this tenant is the operators' own: they could be shut out of taking the limit back");
}

static enum err refuse_operators(const struct pending *p, struct problem *problem)
{
    if (p->operation == OPERATION_tenant_resume)
        return ERR_OK;
    if (strcmp(p->object, p->tenant_id) != 0
        && !keys_list_has(p->keys->config->operator_tenants, p->object, strlen(p->object)))
        return ERR_OK;
    return problem_set(problem, ERR_CONFLICT, "operators_tenant", "",
                       "this tenant is the operators' own: nobody would be left to undo it");
}

static enum err begin_state(struct pending *p, const json_t *body, struct problem *problem)
{
    const bool is_suspended = p->operation == OPERATION_tenant_suspend;
    enum err err = keys_parse_reason(body, p->reason, problem);

    if (err == ERR_OK)
        err = refuse_operators(p, problem);
    if (err != ERR_OK)
        return err;
    if (p->operation == OPERATION_tenant_delete)
        return store_delete_tenant(p->keys->store, &p->actor, on_tenant_changed, p);
    return store_suspend_tenant(p->keys->store, &p->actor, is_suspended, on_tenant_changed, p);
}

enum err begin_tenant_change(struct pending *p, const json_t *body, const struct view *query, struct problem *problem)
{
    struct tenant_fields *fields = &p->in.tenant;
    const bool is_new = p->operation == OPERATION_tenant_create;
    enum err err;

    (void)query;
    p->actor.event = "tenant.changed";    /* the trigger names each by what it did */
    if (!is_new && p->operation != OPERATION_tenant_update)
        return begin_state(p, body, problem);
    err = tenants_parse(body, is_new, fields, problem);
    if (err != ERR_OK)
        return err;
    if (is_new && fields->has_id)
        memcpy(p->object, fields->id, sizeof fields->id);
    else if (is_new)
        keys_make_id(p->object);
    err = refuse_limit_of_operators(p, fields, problem);
    if (err != ERR_OK)
        return err;
    if (!is_new)
        return store_update_tenant(p->keys->store, &p->actor, fields, on_tenant_changed, p);
    return store_create_tenant(p->keys->store, &p->actor, fields, on_tenant_changed, p);
}

static void on_tenant_got(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    struct pending *p = owner;
    struct tenant_row tenant;

    if (ended_by_store(p, outcome, results, count))
        return;
    if (store_read_tenant(results[0], 0, &tenant))
        answer(p, 200, json_of(&tenant));
    else
        answer_err(p, ERR_NOT_FOUND, NULL, "", "");
}

enum err begin_tenant_get(struct pending *p, const json_t *body, const struct view *query, struct problem *problem)
{
    const struct caller caller = caller_of(p);

    (void)body, (void)query;
    if (!keys_is_operator(&caller) && strcmp(p->object, p->tenant_id) != 0)
        return refuse_missing(problem);
    return store_load_tenant(p->keys->store, p->object, on_tenant_got, p);
}

static void on_tenants_listed(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    struct pending *p = owner;
    struct page page = { .limit = p->in.page.limit };
    struct tenant_row tenant;

    if (ended_by_store(p, outcome, results, count))
        return;
    page.items = json_array();
    for (int row = 0; store_read_tenant(results[0], row, &tenant); row++) {
        if (!page_add(&page, json_of(&tenant), tenant.slug))
            break;
    }
    answer_page(p, &page);
}

enum err begin_tenant_list(struct pending *p, const json_t *body, const struct view *query, struct problem *problem)
{
    const struct caller caller = caller_of(p);
    enum err err = keys_parse_page(query, PAGE_OF_TENANTS, &p->in.page, problem);

    (void)body;
    if (err != ERR_OK)
        return err;
    return store_list_tenants(p->keys->store, keys_is_operator(&caller) ? NULL : p->tenant_id, &p->in.page,
                              on_tenants_listed, p);
}
