#include "services/keys/settle.h"

#include <stdlib.h>

#include "common/log.h"
#include "services/keys/keys.h"

struct settler {
    struct loop *loop;
    struct store *store;
    const char *limits;
    int timer;
    bool is_asking;
};

static void settle(void *owner);

static void on_settled(void *owner, enum postgres_outcome outcome, PGresult *const *results, size_t count)
{
    struct settler *settler = owner;

    (void)count;
    settler->is_asking = false;
    if (outcome == PG_LOST)
        return;
    if (outcome == PG_REFUSED)
        log_warn("settle_failed", log_text("sqlstate", postgres_sqlstate(results[0])));
    else if (postgres_i64(results[0], 0, 0) >= STORE_SETTLE_BATCHES)
        settle(settler);    /* there is more */
}

static void settle(void *owner)
{
    struct settler *settler = owner;

    if (!settler->is_asking)
        settler->is_asking = store_settle_uses(settler->store, settler->limits, on_settled, settler) == ERR_OK;
}

enum err settler_new(struct loop *loop, struct store *store, const struct keys_config *config,
                     struct settler **ret_settler)
{
    struct settler *settler = calloc(1, sizeof *settler);

    if (settler == NULL)
        return ERR_NO_MEMORY;
    *settler = (struct settler){ .loop = loop, .store = store, .limits = config->better_auth_row_limits };
    settler->timer = loop_every(loop, (uint32_t)config->settle_ms, settle, settler);
    if (settler->timer <= 0) {
        free(settler);
        return ERR_NO_MEMORY;
    }
    *ret_settler = settler;
    return ERR_OK;
}

void settler_destroy(struct settler **settler)
{
    if (*settler == NULL)
        return;
    loop_cancel((*settler)->loop, (*settler)->timer);
    free(*settler);
    *settler = NULL;
}
