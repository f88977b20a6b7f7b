#include "services/keys/reports.h"

#include <string.h>

#include "common/encode.h"
#include "common/trail.h"

/* Operators see all, administrators their tenant, everybody what they did themselves (with a key: in the key's tenant). */
static void restrict_to_reach(struct pending *p)
{
    const struct caller caller = caller_of(p);

    if (keys_is_operator(&caller))
        return;
    if (keys_is_administrator(&caller) || caller.is_key)
        memcpy(p->in.page.tenant_id, p->tenant_id, sizeof p->in.page.tenant_id);
    if (!keys_is_administrator(&caller))
        memcpy(p->in.page.user_id, p->user_id, sizeof p->in.page.user_id);
}

static void on_events_listed(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    struct pending *p = owner;
    struct page page = { .limit = p->in.page.limit };

    if (ended_by_store(p, outcome, results, count))
        return;
    page.items = json_array();
    for (int row = 0; row < PQntuples(results[0]); row++) {
        const char *item = postgres_text(results[0], row, 0), *cursor = postgres_text(results[0], row, 1);

        if (item[0] == '\0') {
            page.has_more = true;
            page.cursor = cursor;
        } else if (!page_add(&page, json_loads(item, 0, NULL), cursor)) {
            break;
        }
    }
    answer_page(p, &page);
}

/* What was presented, by its SHA-256, becomes the tag under which the trail keeps it. */
static enum err take_presented(const struct keys *keys, char presented[44], struct problem *problem)
{
    const struct secret *key = &keys->config->lookup_key;
    uint8_t digest[DIGEST_SIZE];
    size_t size = 0;

    if (presented[0] == '\0')
        return ERR_OK;
    if (base64url_decode(presented, strlen(presented), digest, sizeof digest, &size) != ERR_OK || size != sizeof digest)
        return problem_set(problem, ERR_UNPROCESSABLE, NULL, "presented", "base64url, without padding, of the SHA-256 of what was presented");
    if (!secret_is_set(key))
        return problem_set(problem, ERR_UNPROCESSABLE, NULL, "presented",
                           "nothing is kept of what was presented: edges and keys need the same lookup_key");
    trail_tag(key->bytes, key->size, digest, presented);
    return ERR_OK;
}

enum err begin_audit_list(struct pending *p, const json_t *body, const struct view *query, struct problem *problem)
{
    enum err err = keys_parse_page(query, PAGE_OF_AUDIT, &p->in.page, problem);

    (void)body;
    if (err == ERR_OK)
        err = take_presented(p->keys, p->in.page.presented, problem);
    if (err != ERR_OK)
        return err;
    restrict_to_reach(p);
    return store_list_events(p->keys->store, &p->in.page, on_events_listed, p);
}

static void on_usage_listed(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    struct pending *p = owner;
    json_t *items;

    if (ended_by_store(p, outcome, results, count))
        return;
    items = json_array();
    for (int row = 0; row < PQntuples(results[0]); row++)
        json_array_append_new(items, json_loads(postgres_text(results[0], row, 0), 0, NULL));
    answer(p, 200, json_pack("{s:s, s:o}", "by", p->in.page.by, "items", items));
}

enum err begin_usage(struct pending *p, const json_t *body, const struct view *query, struct problem *problem)
{
    enum err err = keys_parse_page(query, PAGE_OF_USAGE, &p->in.page, problem);

    (void)body;
    if (err != ERR_OK)
        return err;
    restrict_to_reach(p);
    return store_list_usage(p->keys->store, &p->in.page, on_usage_listed, p);
}

static void on_stats_read(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    struct pending *p = owner;

    if (!ended_by_store(p, outcome, results, count))
        answer(p, 200, json_loads(postgres_text(results[0], 0, 0), 0, NULL));
}

enum err begin_stats(struct pending *p, const json_t *body, const struct view *query, struct problem *problem)
{
    (void)body, (void)query, (void)problem;
    return store_read_stats(p->keys->store, on_stats_read, p);
}
