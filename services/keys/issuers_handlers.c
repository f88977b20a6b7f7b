/* issuers_handlers.c - GET /api/v1/issuers and POST /api/v1/tokens/explain, over the sets in Postgres. */
#include "services/keys/issuers_handlers.h"

#include <stdlib.h>
#include <string.h>

#include <openssl/crypto.h>

#include "common/clock.h"
#include "common/token.h"
#include "services/keys/issuers_rules.h"

/* ---- what is known of each --------------------------------------------------------------------- */

static json_t *text_or_null(const char *text)
{
    return text[0] != '\0' ? json_string(text) : json_null();
}

static const char *state_of(const struct issuer *issuer, const struct issuer_row *row)
{
    if (!issuer_has_keys(issuer))
        return "no_keys_needed";
    if (row->key_count == 0)
        return "missing";
    return row->failures > 0 ? "stale" : "fresh";
}

static json_t *describe(const struct issuer *issuer, const struct issuer_row *row)
{
    return json_pack("{s:s, s:s, s:s, s:s, s:I, s:o, s:o, s:o, s:I, s:o, s:o, s:o}", "name", issuer->name, "issuer", issuer->issuer,
                     "preset", issuer_preset_text(issuer->preset), "state", state_of(issuer, row),
                     "keys", (json_int_t)row->key_count, "fetchedAt", text_or_null(row->fetched_at),
                     "nextFetchAt", text_or_null(row->due_at), "attemptedAt", text_or_null(row->attempted_at),
                     "failures", (json_int_t)row->failures, "failedAt", text_or_null(row->failed_at),
                     "lastError", text_or_null(row->last_error),
                     "jwksUrl", text_or_null(row->jwks_url[0] != '\0' ? row->jwks_url : issuer->jwks_url));
}

/* A row of another issuer under this name is of former settings. */
static struct issuer_row row_of(const struct issuer *issuer, const PGresult *rows)
{
    struct issuer_row row;

    for (int i = 0; issuer_row_read(rows, i, &row); i++)
        if (strcmp(row.name, issuer->name) == 0 && strcmp(row.issuer, issuer->issuer) == 0)
            return row;
    return (struct issuer_row){ .name = "", .issuer = "", .jwks = "", .jwks_url = "", .fetched_at = "", .due_at = "",
                                .attempted_at = "", .failed_at = "", .last_error = "" };
}

/* In the order of the settings; the cursor is a name.  rows NULL: no issuer is configured. */
static void answer_list(struct pending *p, const PGresult *rows)
{
    const struct issuers *issuers = p->keys->issuers;
    struct page page = { .items = json_array(), .limit = p->in.page.limit };
    bool is_wanted = p->in.page.cursor[0] == '\0';

    for (size_t i = 0; rows != NULL && i < issuers->count; i++) {
        const struct issuer *issuer = &issuers->list[i];
        const struct issuer_row row = row_of(issuer, rows);

        if (is_wanted && !page_add(&page, describe(issuer, &row), issuer->name))
            break;
        is_wanted |= strcmp(issuer->name, p->in.page.cursor) == 0;
    }
    answer_page(p, &page);
}

static void on_listed(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    struct pending *p = owner;

    if (!ended_by_store(p, outcome, results, count))
        answer_list(p, results[0]);
}

enum err begin_issuer_list(struct pending *p, const json_t *body, const struct view *query, struct problem *problem)
{
    enum err err = keys_parse_page(query, PAGE_OF_SERVERS, &p->in.page, problem);

    (void)body;
    if (err != ERR_OK)
        return err;
    if (p->keys->keeper == NULL) {
        answer_list(p, NULL);
        return ERR_OK;
    }
    return issuer_keeper_load(p->keys->keeper, false, on_listed, p);
}

/* ---- why a token is taken or refused ----------------------------------------------------------- */

static void parse_sets(const struct issuers *issuers, const PGresult *rows, struct jose_keys *sets[])
{
    char why[200];

    for (size_t i = 0; i < issuers->count; i++) {
        const struct issuer_row row = row_of(&issuers->list[i], rows);

        if (row.jwks[0] != '\0' && jose_keys_parse(row.jwks, strlen(row.jwks), &sets[i], why, sizeof why) != ERR_OK)
            sets[i] = NULL;
    }
}

static void answer_explanation(struct pending *p, struct jose_keys *const sets[])
{
    const struct token_question question = {
        .issuers = p->keys->issuers, .keys = sets, .text = p->presented, .size = p->presented_size,
        .server = p->presented_for[0] != '\0' ? p->presented_for : NULL, .now_s = (int64_t)(clock_unix_us() / 1000000),
    };

    answer(p, 200, token_explain_json(&question));
}

static void on_sets(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    struct pending *p = owner;
    const struct issuers *issuers = p->keys->issuers;
    struct jose_keys *sets[ISSUERS_MAX] = { 0 };

    if (ended_by_store(p, outcome, results, count))
        return;
    parse_sets(issuers, results[0], sets);
    answer_explanation(p, sets);
    for (size_t i = 0; i < issuers->count; i++)
        jose_keys_destroy(&sets[i]);
}

static enum err refuse(struct problem *problem, const char *field, const char *detail)
{
    return problem_set(problem, ERR_UNPROCESSABLE, NULL, field, detail);
}

/* The frame that holds the token goes when this handler returns. */
static enum err take_token(struct pending *p, const json_t *token)
{
    p->presented_size = json_string_length(token);
    p->presented = malloc(p->presented_size + 1);
    if (p->presented == NULL)
        return ERR_NO_MEMORY;
    memcpy(p->presented, json_string_value(token), p->presented_size + 1);
    return ERR_OK;
}

enum err begin_token_explain(struct pending *p, const json_t *body, const struct view *query, struct problem *problem)
{
    const json_t *token = json_object_get(body, "token"), *server = json_object_get(body, "server");
    const char *slug = json_string_value(server);

    (void)query;
    if (!json_is_object(body))
        return problem_set(problem, ERR_MALFORMED, NULL, "", "the body must be a JSON object");
    if (json_string_length(token) == 0)
        return refuse(problem, "token", "the token to explain, as a text");
    if (server != NULL && (slug == NULL || !keys_slug_is_valid(slug)))
        return refuse(problem, "server", "the slug of a server, as a text; without it any resource of this gateway will do");
    if (json_object_size(body) != 1 + (size_t)(server != NULL))
        return refuse(problem, "", "token and server are the only fields");
    if (slug != NULL)
        memcpy(p->presented_for, slug, strlen(slug) + 1);
    if (take_token(p, token) != ERR_OK)
        return ERR_NO_MEMORY;
    if (p->keys->keeper == NULL) {
        answer_explanation(p, NULL);
        return ERR_OK;
    }
    return issuer_keeper_load(p->keys->keeper, true, on_sets, p);
}
