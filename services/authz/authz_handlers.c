#include <stdio.h>
#include <string.h>

#include "common/clock.h"
#include "common/metrics.h"
#include "common/scope.h"
#include "services/authz/authz.h"
#include "services/authz/authz_inquiries.h"
#include "services/authz/authz_lookups.h"
#include "services/authz/authz_rules.h"
#include "services/authz/authz_uses.h"

void authz_answer_unavailable(struct authz *authz, const struct bus_token *token, const char *reason)
{
    struct verdict verdict = { .error = ERR_UNAVAILABLE, .auth_method = AUTH_API_KEY };

    snprintf(verdict.reason, sizeof verdict.reason, "%s", reason);
    bus_reply(authz->bus, token, MESSAGE_verdict, &verdict);
}

static void count_layer(enum layer layer, bool known)
{
    if (layer == LAYER_MEMORY)
        metric_add(known ? METRIC_cache_memory : METRIC_cache_negative, 1);
    else
        metric_add(layer == LAYER_REDIS ? METRIC_cache_redis : METRIC_cache_postgres, 1);
}

/* A yes costs a use.  false: the answer goes out later, or has gone. */
static bool spend(struct authz *authz, const struct bus_token *token, const struct authz_ask *ask, struct verdict *verdict)
{
    if (verdict->error != ERR_OK || ask->paid)
        return true;
    switch (uses_take(authz->uses, token, ask, verdict->key_id)) {
    case USE_TAKEN:
        return true;
    case USE_SPENT:
        verdict->error = ERR_USAGE_EXCEEDED;
        snprintf(verdict->reason, sizeof verdict->reason, "usage_exceeded");
        return true;
    case USE_NO_ROOM:
        authz_answer_unavailable(authz, token, "overloaded");
        return false;
    case USE_WAITS:
        break;
    }
    return false;
}

/* The lease is looked at here, last: whatever held us up before, nothing old leaves.  An answer that Postgres itself gave
 * less than a lease ago is as good as a lease. */
void authz_answer(struct authz *authz, const struct bus_token *token, const struct authz_ask *ask,
                  const struct authz_facts *facts, enum layer layer, uint64_t read_us)
{
    uint64_t now_us = clock_boottime_us();
    enum lease_state state = lease_state(&authz->lease, now_us);
    struct verdict verdict;

    if (read_us != 0 && now_us < read_us + authz->lease.length_us)
        state = LEASE_VALID;
    if (state == LEASE_NONE) {
        authz_answer_unavailable(authz, token, "lease");
        return;
    }
    authz_decide(facts, ask->needed, clock_unix_us(), &verdict);
    if (facts != NULL)
        authz_confine(facts, ask, &verdict);
    if (facts != NULL && facts->metered && !spend(authz, token, ask, &verdict))
        return;
    verdict.layer = layer;
    verdict.stale = state == LEASE_STALE;
    if (verdict.stale)
        metric_add(METRIC_verdicts_stale, 1);
    count_layer(layer, facts != NULL);
    bus_reply(authz->bus, token, MESSAGE_verdict, &verdict);
}

/* What memory still holds as true of this digest; it is then true of every change applied so far. */
static const struct cache_entry *find_in_memory(struct authz *authz, const uint8_t digest[DIGEST_SIZE], uint64_t now_us)
{
    struct cache_entry *entry = cache_find(authz->cache, digest, now_us);
    uint64_t applied = changes_applied(authz->changes);
    char text[DIGEST_TEXT_SIZE];

    if (entry == NULL || entry->sequence >= applied)
        return entry;
    base64url_encode(digest, DIGEST_SIZE, text);
    if (!changes_hold(authz->changes, entry->sequence, text, entry->facts)) {
        cache_drop(authz->cache, digest);
        return NULL;
    }
    entry->sequence = applied;
    return entry;
}

static struct authz_ask ask_of(const struct verdict_request *request)
{
    struct authz_ask ask = { .needed = request->needed, .tool_use = request->tool_use };

    memcpy(ask.address, request->address, sizeof ask.address);
    memcpy(ask.server, request->server, sizeof ask.server);
    memcpy(ask.tool, request->tool, sizeof ask.tool);
    return ask;
}

void authz_ask_again(struct authz *authz, const struct bus_token *token, const struct authz_ask *ask)
{
    const uint64_t now_us = clock_boottime_us();
    const struct cache_entry *entry;

    if (lease_state(&authz->lease, now_us) == LEASE_NONE) {
        authz_answer_unavailable(authz, token, "lease");
        return;
    }
    entry = find_in_memory(authz, ask->digest, now_us);
    if (entry != NULL)
        authz_answer(authz, token, ask, entry->facts, LAYER_MEMORY, 0);
    else
        lookups_join(authz->lookups, ask->digest, token, ask);
}

void authz_ask_key(struct authz *authz, const struct bus_token *token, const struct verdict_request *request,
                   const uint8_t digest[DIGEST_SIZE])
{
    struct authz_ask ask = ask_of(request);

    memcpy(ask.digest, digest, DIGEST_SIZE);
    authz_ask_again(authz, token, &ask);
}

static void on_verdict_request(struct authz *authz, const struct bus_token *token, const struct verdict_request *request)
{
    bool has_digest = request->digest_size == DIGEST_SIZE;

    if (has_digest && request->method == AUTH_API_KEY) {
        authz_ask_key(authz, token, request, request->digest);
    } else if (has_digest && (request->method == AUTH_OAUTH || request->method == AUTH_SESSION)) {
        inquiries_ask(authz->inquiries, token, request);
    } else {
        struct verdict verdict = { .error = ERR_UNVERIFIED, .reason = "method", .auth_method = AUTH_NONE };

        bus_reply(authz->bus, token, MESSAGE_verdict, &verdict);
    }
}
DEFINE_BUS_HANDLER(struct authz, on_verdict_request, verdict_request)

const struct bus_handler authz_handlers[] = {
    BUS_HANDLER(on_verdict_request, verdict_request),
    { 0 }
};
