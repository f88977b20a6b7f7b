#include "services/keys/bulk.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "services/keys/bulk_store.h"

DEFINE_DESTROY(text_destroy, char, free)

/* An array of Postgres out of a list of texts, quoted: an id may hold anything.  NULL: no memory. */
static char *array_of(const json_t *ids)
{
    size_t size = 3, used = 0, i;
    const json_t *id;
    char *text;

    json_array_foreach(ids, i, id)
        size += 2 * json_string_length(id) + 3;
    text = malloc(size);
    if (text == NULL)
        return NULL;
    text[used++] = '{';
    json_array_foreach(ids, i, id) {
        if (i > 0)
            text[used++] = ',';
        text[used++] = '"';
        for (const char *c = json_string_value(id); *c != '\0'; c++) {
            if (*c == '"' || *c == '\\')
                text[used++] = '\\';
            text[used++] = *c;
        }
        text[used++] = '"';
    }
    text[used++] = '}';
    text[used] = '\0';
    return text;
}

static json_t *ids_of(const PGresult *rows, size_t most)
{
    json_t *ids = json_array();

    for (int row = 0; row < PQntuples(rows) && json_array_size(ids) < most; row++)
        json_array_append_new(ids, json_string(postgres_text(rows, row, 0)));
    return ids;
}

/* Takes the ids. */
static json_t *report_of(const struct pending *p, json_t *ids, bool has_more)
{
    return json_pack("{s:s, s:b, s:I, s:o, s:b}", "action", bulk_action_text(p->in.bulk.action), "dryRun",
                     p->in.bulk.is_dry_run, "count", (json_int_t)json_array_size(ids), "ids", ids, "more", has_more);
}

static void on_keys_changed(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    struct pending *p = owner;
    struct store_effect effect;

    if (ended_by_store(p, outcome, results, count))
        return;
    store_read_effect(results, count, &p->actor, &effect);
    if (!ended_by_reuse(p, effect.is_foreign))
        answer_when_applied(p, effect.sequence, 200,
                            report_of(p, ids_of(results[BULK_CHANGED_ROWS], BULK_MAX), p->in.bulk.has_more));
}

/* Rows of id and permissions.  A key enables none that holds more than itself. */
static enum err decide_picked(const struct pending *p, const PGresult *rows, struct problem *problem)
{
    const struct caller caller = caller_of(p);
    enum err err = ERR_OK;

    for (int row = 0; p->in.bulk.action == BULK_ENABLE && err == ERR_OK && row < PQntuples(rows); row++)
        err = keys_decide_enabling(&caller, keys_permission_scopes(postgres_text(rows, row, 1), p->keys->config->permission_resource),
                                   problem);
    return err;
}

static void on_keys_picked(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    struct pending *p = owner;
    OWNED(keys_json_destroy) json_t *ids = NULL;
    OWNED(text_destroy) char *array = NULL;
    struct problem problem;

    if (ended_by_store(p, outcome, results, count))
        return;
    if (decide_picked(p, results[0], &problem) != ERR_OK) {
        answer_problem(p, &problem);
        return;
    }
    p->in.bulk.has_more = (uint64_t)PQntuples(results[0]) > p->in.bulk.limit;
    ids = ids_of(results[0], p->in.bulk.limit);
    if (p->in.bulk.is_dry_run) {
        answer(p, 200, report_of(p, json_incref(ids), p->in.bulk.has_more));
        return;
    }
    array = array_of(ids);
    if (array == NULL
        || store_change_keys(p->keys->store, &p->actor, p->in.bulk.action, array, on_keys_changed, p) != ERR_OK)
        answer_err(p, ERR_UNAVAILABLE, NULL, "", "");
}

enum err begin_key_bulk(struct pending *p, const json_t *body, const struct view *query, struct problem *problem)
{
    static const char *const events[] = { [BULK_REVOKE] = "key.revoked", [BULK_DISABLE] = "key.disabled",
                                          [BULK_ENABLE] = "key.enabled", [BULK_DELETE] = "key.deleted" };
    const struct caller caller = caller_of(p);
    OWNED(text_destroy) char *array = NULL;
    struct bulk_fields *fields = &p->in.bulk;
    struct bulk_reach reach = { .tenant_id = NULL };
    enum err err = bulk_parse(body, fields, problem);

    (void)query;
    if (err == ERR_OK && fields->action == BULK_ENABLE)
        err = key_bounds_decide_many(&p->bounds, problem);
    if (err != ERR_OK)
        return err;
    memcpy(p->reason, fields->reason, sizeof p->reason);
    p->actor.event = events[fields->action];
    if (!keys_is_operator(&caller) && keys_is_administrator(&caller)) {
        reach.tenant_id = p->tenant_id;
    } else if (!keys_is_operator(&caller)) {
        reach.is_organization = strncmp(p->user_id, "org:", 4) == 0;
        reach.reference_id = reach.is_organization ? p->user_id + 4 : p->user_id;
        reach.tenant_id = caller.is_key ? p->tenant_id : NULL;    /* as keys_may_see */
    }
    if (fields->has_ids) {
        array = array_of(json_object_get(json_object_get(body, "filter"), "ids"));
        if (array == NULL)
            return ERR_NO_MEMORY;
    }
    return store_pick_keys(p->keys->store, fields, &reach, array, on_keys_picked, p);
}
