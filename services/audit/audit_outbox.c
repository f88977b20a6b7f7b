#include "services/audit/audit_outbox.h"

#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/metrics.h"
#include "services/audit/audit_rules.h"

#define RUNS_MAX 64u    /* batches made of one read: sequences may have holes, a batch has none */

enum outbox_state { OUTBOX_UNCLAIMED, OUTBOX_READY };

struct outbox {
    struct audit_store *store;
    struct seal *seal;
    struct columns *columns;
    uint64_t token, next_seq, generation;
    enum outbox_state state;
    bool is_tampered, is_asking, is_due, has_more;
    unsigned flights;
};

struct flight {
    struct outbox *outbox;
    uint64_t generation, events;
};

static struct audit_place outbox_place(const struct outbox *outbox)
{
    struct audit_place place = { .epoch = AUDIT_OUTBOX_EPOCH, .next_seq = outbox->next_seq, .token = outbox->token };

    memcpy(place.producer, audit_outbox_producer, UUID_SIZE);
    return place;
}

static void go_on(struct outbox *outbox)
{
    if (outbox->flights > 0 || (!outbox->is_due && !outbox->has_more))
        return;
    outbox->has_more = false;
    outbox_move(outbox);
}

static void on_inserted(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    struct flight *flight = owner;
    struct outbox *outbox = flight->outbox;
    const enum err err = audit_store_read_insert(outcome, results);

    (void)count;
    outbox->flights--;
    if (err == ERR_OK) {
        metric_add(METRIC_audit_outbox, flight->events);
        metric_add(METRIC_audit_events, flight->events);
        metric_add(METRIC_audit_batches, 1);
    } else if (flight->generation == outbox->generation) {
        outbox->state = OUTBOX_UNCLAIMED;    /* the watermark knows how far it came */
        outbox->generation++;
    }
    free(flight);
    go_on(outbox);
}

/* Sends what is in the columns.  False: it could not be sent. */
static bool send_run(struct outbox *outbox)
{
    const struct audit_place place = outbox_place(outbox);
    struct checkpoint checkpoint;
    struct audit_batch batch = { .place = &place, .columns = outbox->columns, .checkpoint = &checkpoint };
    struct flight *flight;

    if (columns_count(outbox->columns) == 0)
        return true;
    flight = malloc(sizeof *flight);
    if (flight == NULL)
        return false;
    *flight = (struct flight){ .outbox = outbox, .generation = outbox->generation,
                               .events = columns_count(outbox->columns) };
    seal_make(outbox->seal, &place, outbox->columns, outbox->is_tampered, &checkpoint);
    if (audit_store_insert(outbox->store, &batch, on_inserted, flight) != ERR_OK) {
        free(flight);
        return false;
    }
    outbox->flights++;
    outbox->next_seq = columns_next_seq(outbox->columns);
    columns_reset(outbox->columns);
    return true;
}

/* False: the rest has to wait. */
static bool take_rows(struct outbox *outbox, const PGresult *result)
{
    struct columns_row event;

    for (int row = 0; audit_store_outbox_row(result, row, &event); row++) {
        const bool continues = columns_count(outbox->columns) == 0 || event.seq == columns_next_seq(outbox->columns);

        if ((!continues || batch_is_full(columns_count(outbox->columns), columns_bytes(outbox->columns)))
            && (outbox->flights >= RUNS_MAX || !send_run(outbox)))
            return false;
        if (columns_add_row(outbox->columns, &event) != ERR_OK)
            return false;
    }
    return send_run(outbox);
}

static void on_read(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    struct outbox *outbox = owner;

    (void)count;
    outbox->is_asking = false;
    if (outcome != PG_DONE || outbox->state != OUTBOX_READY || outbox->token == 0)
        return;
    if (!take_rows(outbox, results[0])) {
        outbox->state = OUTBOX_UNCLAIMED;    /* the tree in the columns is ahead of what was sent */
        outbox->has_more = true;
    } else {
        outbox->has_more = PQntuples(results[0]) >= AUDIT_OUTBOX_EVENTS;
    }
    go_on(outbox);
}

static void on_claimed(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    struct outbox *outbox = owner;
    const struct audit_place place = outbox_place(outbox);
    struct audit_mark mark;

    (void)count;
    outbox->is_asking = false;
    if (outbox->token == 0 || audit_store_read_claim(outcome, results, &mark) != ERR_OK)
        return;
    outbox->is_tampered = !seal_holds(outbox->seal, &place, &mark);
    outbox->next_seq = mark.next_seq;
    columns_reset(outbox->columns);
    columns_follow(outbox->columns, place.producer, place.epoch, &mark.tree);
    outbox->state = OUTBOX_READY;
    outbox_move(outbox);
}

void outbox_move(struct outbox *outbox)
{
    const struct audit_place place = outbox_place(outbox);
    enum err err;

    outbox->is_due = outbox->is_asking || outbox->flights > 0;
    if (outbox->token == 0 || outbox->is_due)
        return;
    if (outbox->state == OUTBOX_READY)
        err = audit_store_read_outbox(outbox->store, outbox->next_seq, on_read, outbox);
    else
        err = audit_store_claim(outbox->store, &place, on_claimed, outbox);
    outbox->is_asking = err == ERR_OK;
}

void outbox_set_token(struct outbox *outbox, uint64_t token)
{
    outbox->token = token;
    outbox->state = OUTBOX_UNCLAIMED;
    outbox->generation++;
}

bool outbox_is_idle(const struct outbox *outbox)
{
    return !outbox->is_asking && outbox->flights == 0;
}

enum err outbox_new(struct audit_store *store, struct seal *seal, struct outbox **ret_outbox)
{
    OWNED(outbox_destroy) struct outbox *outbox = calloc(1, sizeof *outbox);

    if (outbox == NULL || columns_new(&outbox->columns) != ERR_OK)
        return ERR_NO_MEMORY;
    outbox->store = store;
    outbox->seal = seal;
    *ret_outbox = outbox;
    outbox = NULL;
    return ERR_OK;
}

void outbox_destroy(struct outbox **outbox)
{
    if (*outbox == NULL)
        return;
    columns_destroy(&(*outbox)->columns);
    free(*outbox);
    *outbox = NULL;
}
