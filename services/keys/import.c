#include "services/keys/import.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/apikey.h"
#include "common/cleanup.h"
#include "common/scope.h"
#include "services/keys/import_rules.h"
#include "services/keys/import_store.h"
#include "services/keys/shape.h"

DEFINE_DESTROY(text_destroy, char, free)

/*
 * While the call is in work p->asked is {"report": [...], "rows": [...]}: a line for each row of the call, and what is to be
 * stored of those that are good so far (member n is the row's place).
 */
static json_t *report_of(const struct pending *p) { return json_object_get(p->asked, "report"); }
static json_t *rows_of(const struct pending *p) { return json_object_get(p->asked, "rows"); }

static void refuse_row(const struct pending *p, size_t place, const char *status, const char *field, const char *detail)
{
    json_array_set_new(report_of(p), place,
                       json_pack("{s:I, s:s, s:o, s:s}", "row", (json_int_t)place + 1, "status", status, "field",
                                 field[0] != '\0' ? json_string(field) : json_null(), "detail", detail));
}

static size_t count_of(const struct pending *p, const char *status)
{
    size_t count = 0, i;
    const json_t *line;

    json_array_foreach(report_of(p), i, line) {
        count += strcmp(json_string_value(json_object_get(line, "status")), status) == 0;
    }
    return count;
}

/* ---- rows -------------------------------------------------------------------------------------- */

static void stored_of(const struct pending *p, const struct import_row *row, char stored[SHAPE_STORED_MAX])
{
    OWNED(secret_wipe) struct secret key = { 0 };

    if (row->key == NULL) {
        memcpy(stored, row->digest, sizeof row->digest);
        return;
    }
    key.size = strlen(row->key);
    memcpy(key.bytes, row->key, key.size);
    shape_stored_key(p->keys->config, &key, stored);
}

static json_t *text_or_none(const char *text)
{
    return text[0] == '\0' ? json_null() : json_string(text);
}

static void add_row(const struct pending *p, size_t place, const struct import_row *row)
{
    const struct key_fields *fields = &row->fields;
    const bool has_rate = fields->rate_requests != 0, has_span = fields->expires_in_s != 0 && row->expires_at[0] == '\0';
    char stored[SHAPE_STORED_MAX], permissions[256], id[KEYS_ID_SIZE];
    const json_t *other;
    size_t i;

    stored_of(p, row, stored);
    json_array_foreach(rows_of(p), i, other) {
        if (strcmp(json_string_value(json_object_get(other, "stored")), stored) == 0) {
            refuse_row(p, place, "duplicate", "", "the same key stands in an earlier row");
            return;
        }
    }
    keys_make_id(id);
    keys_format_permissions(scopes_close(fields->scopes), p->keys->config->permission_resource, permissions, sizeof permissions);
    json_array_append_new(rows_of(p), json_pack(
        "{s:I, s:s, s:s, s:o, s:s, s:o, s:o, s:o, s:b, s:o, s:o, s:o, s:o, s:s, s:s}", "n", (json_int_t)place, "id", id, "owner",
        fields->user_id, "tenant", text_or_none(fields->tenant_id), "stored", stored, "name", text_or_none(fields->name),
        "start", text_or_none(row->start), "prefix", text_or_none(row->prefix), "enabled", !row->is_disabled, "rateMax",
        has_rate ? json_integer((json_int_t)fields->rate_requests) : json_null(), "rateMs",
        has_rate ? json_integer((json_int_t)fields->rate_window_s * 1000) : json_null(), "expiresIn",
        has_span ? json_integer((json_int_t)fields->expires_in_s) : json_null(), "expiresAt", text_or_none(row->expires_at),
        "permissions", permissions, "metadata", fields->metadata));
    json_array_set_new(report_of(p), place, json_pack("{s:I, s:s, s:s}", "row", (json_int_t)place + 1, "status", "ready", "id", id));
}

static void take_row(const struct pending *p, size_t place, const json_t *value)
{
    struct import_row row;
    struct problem problem;

    json_array_append_new(report_of(p), json_null());
    if (import_parse_row(value, p->keys->config->default_expiry_s, &row, &problem) != ERR_OK)
        refuse_row(p, place, "refused", problem.field, problem.detail);
    else if (row.key == NULL && strcmp(p->keys->config->better_auth_digest, "plain") == 0)
        refuse_row(p, place, "refused", "hash", "this table stores keys as they are: a hash cannot be told from one");
    else
        add_row(p, place, &row);
}

/* ---- the call ---------------------------------------------------------------------------------- */

/* Ends it.  With a row that is not good nothing was stored. */
static void answer_report(struct pending *p, uint64_t status, bool is_done)
{
    json_t *body = json_pack("{s:b, s:I, s:I, s:I, s:O}", "dryRun", p->in.import_is_dry_run, "imported",
                             (json_int_t)(is_done ? count_of(p, "imported") : 0), "refused", (json_int_t)count_of(p, "refused"),
                             "duplicates", (json_int_t)count_of(p, "duplicate"), "rows", report_of(p));

    if (status >= 400 && body != NULL) {
        struct problem problem;
        OWNED(keys_json_destroy) json_t *members = NULL;

        (void)problem_set(&problem, ERR_UNPROCESSABLE, "import_refused", "keys",
                          "rows cannot be imported, so none was; rows says which and why");
        members = keys_json_problem(&problem);
        json_object_update(body, members);
    }
    answer(p, status, body);
}

static void on_imported(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    struct pending *p = owner;
    struct store_effect effect;
    const json_t *line;
    size_t i;

    if (ended_by_store(p, outcome, results, count))
        return;
    store_read_effect(results, count, &p->actor, &effect);
    if (ended_by_reuse(p, effect.is_foreign))
        return;
    if (effect.is_repeat) {
        answer_err(p, ERR_CONFLICT, "imported_before", "", "this request has been made before, and its keys are imported");
        return;
    }
    json_array_foreach(report_of(p), i, line) {
        json_object_set_new((json_t *)(uintptr_t)line, "status", json_string("imported"));
    }
    answer_report(p, 201, true);
}

static void judge(const struct pending *p, const struct import_fact *fact)
{
    const size_t place = (size_t)fact->row;

    if (!fact->has_owner)
        refuse_row(p, place, "refused", "userId", "no such user or organization");
    else if (fact->is_ambiguous)
        refuse_row(p, place, "refused", "tenantId", "the user belongs to several organizations: one must be named");
    else if (fact->is_known)
        refuse_row(p, place, "duplicate", "", "this key is there already");
}

static void on_checked(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    struct pending *p = owner;
    OWNED(text_destroy) char *rows = NULL;
    struct import_fact fact;

    if (ended_by_store(p, outcome, results, count))
        return;
    for (int row = 0; store_read_import_fact(results[0], row, &fact); row++)
        judge(p, &fact);
    if (p->in.import_is_dry_run || count_of(p, "ready") != json_array_size(report_of(p))) {
        answer_report(p, p->in.import_is_dry_run ? 200 : 422, false);
        return;
    }
    rows = json_dumps(rows_of(p), JSON_COMPACT);
    if (rows == NULL || store_import(p->keys->store, &p->actor, rows, on_imported, p) != ERR_OK)
        answer_err(p, ERR_UNAVAILABLE, NULL, "", "");
}

enum err begin_key_import(struct pending *p, const json_t *body, const struct view *query, struct problem *problem)
{
    OWNED(text_destroy) char *text = NULL;
    const json_t *values, *value;
    size_t i;
    enum err err = import_parse(body, &values, &p->in.import_is_dry_run, problem);

    (void)query;
    if (err == ERR_OK)
        err = key_bounds_decide_many(&p->bounds, problem);
    if (err != ERR_OK)
        return err;
    p->actor.event = "key.created";
    json_decref(p->asked);
    p->asked = json_pack("{s:[], s:[]}", "report", "rows");
    if (p->asked == NULL)
        return ERR_NO_MEMORY;
    json_array_foreach(values, i, value) {
        take_row(p, i, value);
    }
    text = json_dumps(rows_of(p), JSON_COMPACT);
    return text == NULL ? ERR_NO_MEMORY : store_check_import(p->keys->store, text, on_checked, p);
}
