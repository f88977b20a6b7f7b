/*
 * keys_calls.h - what the handlers of the management API share: a call's answer, its acknowledgement, its pages.
 *
 * A begin function parses, asks the store and returns; its callback decides and ends the call by one of the answers.
 */
#ifndef KEYS_KEYS_CALLS_H
#define KEYS_KEYS_CALLS_H

#include "services/keys/keys.h"

/* ERR_OK: answered, or an answer will come.  Otherwise `problem` is set, or its err is ERR_OK and the error speaks for itself. */
typedef enum err begin_fn(struct pending *p, const json_t *body, const struct view *query, struct problem *problem);

/* SQLSTATE of the statement that was refused; "": none was. */
const char *refused_state(enum postgres_outcome outcome, PGresult *const *results, size_t count);

/* These end the call. */
void answer(struct pending *p, uint64_t status, json_t *body);    /* takes the body */
void answer_problem(struct pending *p, const struct problem *problem);
void answer_err(struct pending *p, enum err err, const char *code, const char *field, const char *detail);
/* Once nobody acts on the older state any more; takes the body. */
void answer_when_applied(struct pending *p, uint64_t sequence, uint64_t status, json_t *body);
/* true: the call has been answered, because the database did not do its part. */
bool ended_by_store(struct pending *p, enum postgres_outcome outcome, PGresult *const *results, size_t count);
/* true: answered, because the request id was used for something else. */
bool ended_by_claim(struct pending *p, const struct store_effect *effect, bool is_there);    /* or because If-Match said another tag */
bool ended_by_reuse(struct pending *p, bool is_foreign);

/* For a call that was never taken into work. */
void send_problem(struct keys *keys, const struct bus_token *token, const char *object, const struct problem *problem);
enum err refuse_missing(struct problem *problem);    /* ERR_NOT_FOUND, as for an object that does not exist */
enum err refuse_reuse(const struct pending *p, struct problem *problem);    /* the id was used for another request */
struct caller caller_of(const struct pending *p);
/* What the key of the call may do to this one: key_bounds_decide_change.  The change then is bound to the key as it was read. */
enum err decide_bounds(struct pending *p, const struct key_row *key, const struct key_fields *fields, struct problem *problem);

/* A page in the making: items until the limit or the bytes are used up; the cursor is the last item's. */
struct page {
    json_t *items;
    size_t bytes;
    uint64_t limit;
    const char *cursor;
    bool has_more;
};

/* Takes the item.  false: the page is full. */
bool page_add(struct page *page, json_t *item, const char *cursor);
void answer_page(struct pending *p, const struct page *page);

#endif
