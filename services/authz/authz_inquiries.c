#include "services/authz/authz_inquiries.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/crypto.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/encode.h"
#include "common/fetch.h"
#include "common/log.h"
#include "common/metrics.h"
#include "common/redis.h"
#include "common/scope.h"
#include "services/authz/authz_identities.h"
#include "services/authz/authz_introspect.h"
#include "services/authz/authz_keysets.h"
#include "services/authz/authz_table.h"
#include "services/authz/authz_token_cache.h"
#include "services/authz/authz_token_rules.h"

#define NOWHERE UINT32_MAX

/* How long what was found is kept, at most. */
#define INTROSPECTED_S    60u      /* RFC 7662 4: stale answers are the price of a cache */
#define OPAQUE_S          10u      /* Better-Auth's opaque tokens: their revocation makes no change */
#define REFUSED_S         10u      /* opaque ones that nobody knows */
#define REDIS_SESSION_MS  500u     /* sessions in Redis make no changes either, and a sign-out counts within a second */
#define REDIS_TIMEOUT_MS  500u
#define SWEEP_MS          50u
#define CHECK_MS          1000u
#define FETCHES_MAX       64u
#define FETCH_BODY_MAX    65536u

struct waiter {
    struct bus_token token;
    struct verdict_request request;    /* without the token */
    uint32_t next;
};

struct inquiry {
    struct inquiries *all;
    uint8_t digest[DIGEST_SIZE], proof[DIGEST_SIZE];
    uint64_t method;
    uint32_t waiters, last_waiter;     /* NOWHERE: this place is free */
    uint32_t tries;
    size_t source;                     /* issuer whose table is asked next about an opaque token; their count: introspection */
    bool someone_was_silent;
    uint64_t wait_until_us;            /* for keys; 0: does not wait */
    uint64_t keep_us;                  /* longest time the facts are kept */
    uint64_t sequence;                 /* the facts are no truer than this */
    uint64_t asked_us;                 /* CLOCK_BOOTTIME, of the read of Postgres under way */
    struct identity_call call;
    struct introspection introspection;
    struct token_facts facts;
    size_t size;
    char text[JOSE_TOKEN_MAX + 1];
};

struct inquiries {
    struct authz *authz;
    const struct issuers *issuers;
    struct session_policy policy;
    const struct secret *session_key;  /* NULL: sessions are not accepted */
    bool bearer_sessions, plain_sessions, fallback_any;
    struct identities *identities;     /* NULL: no token and no session is accepted */
    struct keysets *keysets;
    struct token_cache *cache;
    struct fetcher *fetcher;           /* NULL: no issuer is introspected */
    struct redis *redis;               /* NULL: sessions are in Postgres */
    struct table *places;              /* proof -> inquiry; its number is the inquiry's */
    uint32_t running, waiting_for_keys;
    int sweep_timer, check_timer;
    uint32_t unused_waiters;
    struct waiter waiters[INQUIRY_WAITERS_MAX];
    struct inquiry inquiries[INQUIRIES_MAX];
};

/* What became of a token, before it is looked at for whom and where it is asked. */
struct outcome {
    enum err err;                      /* with facts: OK */
    const char *reason;
    const struct token_facts *facts;
    enum layer layer;
    uint64_t read_us;                  /* when Postgres was asked; 0: cached */
};

/* ---- answers --------------------------------------------------------------------------------------- */

/* As for keys, the lease is looked at last: whatever held us up before, nothing old leaves. */
static void answer(struct inquiries *all, const struct bus_token *token, const struct verdict_request *request,
                   const struct outcome *outcome)
{
    struct authz *authz = all->authz;
    uint64_t now_us = clock_boottime_us();
    enum lease_state state = lease_state(&authz->lease, now_us);
    struct verdict verdict = { .error = outcome->err, .auth_method = request->method };

    if (outcome->read_us != 0 && now_us < outcome->read_us + authz->lease.length_us)
        state = LEASE_VALID;
    if (state == LEASE_NONE) {
        authz_answer_unavailable(authz, token, "lease");
        return;
    }
    if (outcome->facts != NULL)
        token_decide(outcome->facts, all->issuers, request->server, request->needed, &verdict);
    else
        snprintf(verdict.reason, sizeof verdict.reason, "%s", outcome->reason);
    if (token_yields_to_key((enum err)verdict.error, request->beside_size == DIGEST_SIZE, all->fallback_any)) {
        metric_add(METRIC_token_by_key, 1);
        authz_ask_key(authz, token, request, request->beside);
        return;
    }
    verdict.layer = outcome->layer;
    verdict.stale = state == LEASE_STALE && verdict.error != ERR_UNAVAILABLE;
    if (verdict.stale)
        metric_add(METRIC_verdicts_stale, 1);
    bus_reply(authz->bus, token, MESSAGE_verdict, &verdict);
}

static void refuse_at_once(struct inquiries *all, const struct bus_token *token, const struct verdict_request *request,
                           enum err err, const char *reason)
{
    const struct outcome outcome = { .err = err, .reason = reason };

    answer(all, token, request, &outcome);
}

/* ---- memory ---------------------------------------------------------------------------------------- */

static bool facts_hold(const struct changes *changes, uint64_t sequence, const struct token_facts *facts)
{
    const struct token_context *context = &facts->context;

    if (!changes_reach(changes, sequence))
        return false;
    if (sequence >= changes_applied(changes))
        return true;
    return !changes_named(changes, sequence, SUBJECT_USER, context->user_id)
           && !changes_named(changes, sequence, SUBJECT_TENANT, context->tenant_id)
           && !changes_named(changes, sequence, SUBJECT_SESSION, context->session_id)
           && !changes_named(changes, sequence, SUBJECT_ACCOUNT, facts->account)
           && !changes_named(changes, sequence, SUBJECT_BOND, facts->bonds[BOND_TOKEN])
           && !changes_named(changes, sequence, SUBJECT_BOND, facts->bonds[BOND_SUBJECT])
           && (context->issuer == NULL || !changes_named(changes, sequence, SUBJECT_ISSUER, context->issuer->name));
}

/* One that was verified as a bearer's says nothing of a cookie, and the other way round. */
static const struct token_entry *find_in_memory(struct inquiries *all, const struct verdict_request *request)
{
    const struct changes *changes = all->authz->changes;
    struct token_entry *entry = token_cache_find(all->cache, request->digest, request->proof, clock_boottime_us(),
                                                 clock_unix_us() / 1000000);

    if (entry == NULL || entry->method != request->method)
        return NULL;
    if (entry->reason != NULL || entry->sequence >= changes_applied(changes))
        return entry;
    if (!facts_hold(changes, entry->sequence, entry->facts)) {
        token_cache_drop(all->cache, request->digest);
        return NULL;
    }
    entry->sequence = changes_applied(changes);
    return entry;
}

/* ---- the end of an inquiry ------------------------------------------------------------------------- */

static void stop_waiting(struct inquiry *inquiry)
{
    if (inquiry->wait_until_us != 0)
        inquiry->all->waiting_for_keys--;
    inquiry->wait_until_us = 0;
}

/* Takes it out first, so that an answer that leads to a new question of the same token starts a new inquiry. */
static void finish(struct inquiry *inquiry, const struct outcome *outcome)
{
    struct inquiries *all = inquiry->all;
    uint32_t first = inquiry->waiters, last = inquiry->last_waiter;

    stop_waiting(inquiry);
    table_drop(all->places, inquiry->proof);
    all->running--;
    OPENSSL_cleanse(inquiry->text, inquiry->size);
    for (uint32_t i = first; i != NOWHERE; i = all->waiters[i].next)
        answer(all, &all->waiters[i].token, &all->waiters[i].request, outcome);
    all->waiters[last].next = all->unused_waiters;
    all->unused_waiters = first;
    inquiry->waiters = NOWHERE;
}

static void keep(struct inquiry *inquiry, const char *reason, uint64_t keep_us)
{
    struct token_entry entry = {
        .sequence = inquiry->sequence, .expires_us = clock_boottime_us() + keep_us, .method = inquiry->method,
        .reason = reason, .facts = &inquiry->facts,
    };

    if (reason == NULL && inquiry->facts.context.expires_s > 0)
        entry.expires_unix_s = (uint64_t)inquiry->facts.context.expires_s;
    memcpy(entry.proof, inquiry->proof, DIGEST_SIZE);
    token_cache_put(inquiry->all->cache, inquiry->digest, &entry);
}

static void finish_refused(struct inquiry *inquiry, enum err err, const char *reason)
{
    const struct outcome outcome = { .err = err, .reason = reason, .layer = LAYER_POSTGRES };

    metric_add(METRIC_token_judged, 1);
    finish(inquiry, &outcome);
}

static void finish_judged(struct inquiry *inquiry, enum jose_reason reason)
{
    enum err err = jose_reason_error(reason);

    finish_refused(inquiry, err == ERR_UNVERIFIED || err == ERR_DENIED ? err : ERR_UNAVAILABLE, jose_reason_text(reason));
}

static void finish_accepted(struct inquiry *inquiry)
{
    const struct token_facts facts = inquiry->facts;
    const struct outcome outcome = { .err = ERR_OK, .facts = &facts, .layer = LAYER_POSTGRES, .read_us = inquiry->asked_us };

    metric_add(METRIC_token_judged, 1);
    keep(inquiry, NULL, inquiry->keep_us);
    finish(inquiry, &outcome);
}

static void begin(struct inquiry *inquiry);
static void ask_next_source(struct inquiry *inquiry);

/* ---- the user -------------------------------------------------------------------------------------- */

static void on_principal(void *owner, enum err err, const struct principal *principal)
{
    struct inquiry *inquiry = owner;
    struct inquiries *all = inquiry->all;
    const char *reason;

    if (err != ERR_OK) {
        finish_refused(inquiry, ERR_UNAVAILABLE, "store");
        return;
    }
    if (principal->sequence < inquiry->sequence)
        inquiry->sequence = principal->sequence;
    reason = token_join(&inquiry->facts, principal, &all->policy);
    if (reason != NULL) {
        finish_refused(inquiry, ERR_UNVERIFIED, reason);
        return;
    }
    if (facts_hold(all->authz->changes, inquiry->sequence, &inquiry->facts))
        finish_accepted(inquiry);
    else
        begin(inquiry);
}

/* Sessions in Redis have no row whose end could be asked about. */
static void ask_principal(struct inquiry *inquiry)
{
    struct inquiries *all = inquiry->all;
    const struct token_context *context = &inquiry->facts.context;
    bool is_local = context->issuer == NULL || context->issuer->local_users;

    token_name_account(&inquiry->facts);
    token_name_bonds(&inquiry->facts, context->signer[0] != '\0' ? inquiry->digest : inquiry->proof);
    const struct principal_question question = {
        .user_id = context->user_id,
        .session_id = is_local && all->redis == NULL && token_has_own_session(context) ? context->session_id : "",
        .session_created_us = inquiry->facts.session_created_us,
        .tenant_id = context->issuer != NULL ? context->tenant_id : "",
        .organization_id = context->issuer == NULL ? context->tenant_id : "",
        .provider = context->issuer != NULL ? context->issuer->account_provider : "", .account = context->subject,
        .token_bond = inquiry->facts.bonds[BOND_TOKEN], .subject_bond = inquiry->facts.bonds[BOND_SUBJECT], .issued_s = context->issued_s,
    };

    inquiry->asked_us = clock_boottime_us();
    if (identities_find_principal(all->identities, &inquiry->call, &question) != ERR_OK)
        finish_refused(inquiry, ERR_UNAVAILABLE, "store");
}

/* ---- JWTs ------------------------------------------------------------------------------------------ */

static struct token_question question_of(const struct inquiry *inquiry)
{
    return (struct token_question){
        .issuers = inquiry->all->issuers, .keys = keysets_list(inquiry->all->keysets),
        .text = inquiry->text, .size = inquiry->size, .server = NULL, .now_s = (int64_t)(clock_unix_us() / 1000000),
    };
}

/* false: there are too many already, or it waited its time. */
static bool wait_for_keys(struct inquiry *inquiry)
{
    uint64_t now_us = clock_boottime_us();

    if (inquiry->wait_until_us != 0)
        return now_us < inquiry->wait_until_us;
    if (inquiry->all->waiting_for_keys >= INQUIRIES_WAITING_MAX)
        return false;
    inquiry->all->waiting_for_keys++;
    inquiry->wait_until_us = now_us + KEYSETS_WAIT_US;
    return true;
}

static void judge(struct inquiry *inquiry)
{
    struct inquiries *all = inquiry->all;
    const struct token_question question = question_of(inquiry);
    const struct issuer *issuer = NULL;
    enum jose_reason reason;

    if (!keysets_are_current(all->keysets)) {
        keysets_check(all->keysets);
        if (!wait_for_keys(inquiry))
            finish_refused(inquiry, ERR_UNAVAILABLE, "keys");
        return;
    }
    reason = token_judge(&question, &inquiry->facts.context, &issuer);
    if ((reason == JOSE_KEYS_MISSING || reason == JOSE_KEY_UNKNOWN)
        && keysets_want(all->keysets, issuer, clock_boottime_us()) && wait_for_keys(inquiry))
        return;
    stop_waiting(inquiry);
    /* An authorization server that is down may have made a new key: 401 would make clients throw good tokens away. */
    if (reason == JOSE_KEY_UNKNOWN && keysets_are_doubtful(all->keysets, issuer, clock_boottime_us()))
        reason = JOSE_KEYS_STALE;
    if (reason != JOSE_FINE) {
        finish_judged(inquiry, reason);
        return;
    }
    inquiry->sequence = keysets_sequence(all->keysets);
    inquiry->keep_us = all->authz->config->cache_s * 1000000;
    ask_principal(inquiry);
}

static void on_keysets_read(void *owner)
{
    struct inquiries *all = owner;

    for (uint32_t i = 0; i < INQUIRIES_MAX && all->waiting_for_keys > 0; i++)
        if (all->inquiries[i].waiters != NOWHERE && all->inquiries[i].wait_until_us != 0)
            judge(&all->inquiries[i]);
}

static void on_sweep(void *owner)
{
    struct inquiries *all = owner;
    uint64_t now_us = clock_boottime_us();

    if (all->waiting_for_keys > 0)
        keysets_watch(all->keysets, now_us);
    for (uint32_t i = 0; i < INQUIRIES_MAX && all->waiting_for_keys > 0; i++)
        if (all->inquiries[i].waiters != NOWHERE && all->inquiries[i].wait_until_us != 0
            && now_us >= all->inquiries[i].wait_until_us)
            judge(&all->inquiries[i]);
}

static void on_check(void *owner)
{
    struct inquiries *all = owner;

    keysets_tick(all->keysets, clock_boottime_us());
}

/* ---- sessions -------------------------------------------------------------------------------------- */

static void on_session(void *owner, enum err err, const struct session_row *row)
{
    struct inquiry *inquiry = owner;
    struct inquiries *all = inquiry->all;

    if (err == ERR_UNAVAILABLE)
        finish_refused(inquiry, ERR_UNAVAILABLE, "store");
    else if (err != ERR_OK && inquiry->method == AUTH_OAUTH)
        ask_next_source(inquiry);
    else if (err != ERR_OK)
        finish_refused(inquiry, ERR_UNVERIFIED, "session_unknown");
    else if (row->expires_us <= clock_unix_us())
        finish_refused(inquiry, ERR_UNVERIFIED, "session_expired");
    else if (session_facts_of(row, &inquiry->facts) != ERR_OK)
        finish_refused(inquiry, ERR_UNVERIFIED, "unusable");
    else {
        inquiry->keep_us = all->redis != NULL ? REDIS_SESSION_MS * 1000u : all->authz->config->cache_s * 1000000;
        ask_principal(inquiry);
    }
}

static void on_redis_session(void *owner, const redisReply *reply)
{
    struct session_texts texts;
    struct session_row row;

    if (reply == NULL || reply->type == REDIS_REPLY_ERROR)
        on_session(owner, ERR_UNAVAILABLE, NULL);
    else if (reply->type != REDIS_REPLY_STRING
             || session_read_json(reply->str, (size_t)reply->len, &texts, &row) != ERR_OK)
        on_session(owner, ERR_NOT_FOUND, NULL);
    else
        on_session(owner, ERR_OK, &row);
}

static enum err find_session(struct inquiry *inquiry, const char *token)
{
    struct inquiries *all = inquiry->all;
    char key[SESSION_TOKEN_MAX + sizeof all->authz->config->session_redis_prefix + 1];
    const char *words[] = { "GET", key };
    size_t lengths[] = { 3, 0 };

    if (all->redis == NULL)
        return identities_find_session(all->identities, &inquiry->call, token);
    lengths[1] = (size_t)snprintf(key, sizeof key, "%s%s", all->authz->config->session_redis_prefix, token);
    return redis_call(all->redis, 2, words, lengths, on_redis_session, inquiry);
}

static void ask_session(struct inquiry *inquiry)
{
    struct inquiries *all = inquiry->all;
    bool is_bearer = inquiry->method == AUTH_OAUTH;
    char token[SESSION_TOKEN_MAX + 1];
    enum err err = all->session_key == NULL || (is_bearer && !all->bearer_sessions)
                       ? ERR_NOT_FOUND
                       : session_parse(all->session_key, inquiry->text, inquiry->size, is_bearer && all->plain_sessions, token);

    if (err == ERR_OK) {
        if (find_session(inquiry, token) != ERR_OK)
            finish_refused(inquiry, ERR_UNAVAILABLE, "store");
        OPENSSL_cleanse(token, sizeof token);
    } else if (is_bearer) {
        ask_next_source(inquiry);
    } else {
        finish_refused(inquiry, ERR_UNVERIFIED, err == ERR_UNVERIFIED ? "session_signature" : "session_malformed");
    }
}

/* ---- opaque tokens --------------------------------------------------------------------------------- */

/* What an answer about an opaque token says; `keep_s`: how long it is believed. */
static void judge_answer(struct inquiry *inquiry, const struct issuer *issuer, const char *body, size_t size, uint64_t keep_s)
{
    const struct token_question question = question_of(inquiry);
    enum jose_reason reason = token_judge_answer(&question, issuer, body, size, &inquiry->facts.context);

    if (reason == JOSE_INACTIVE) {
        ask_next_source(inquiry);
        return;
    }
    if (reason != JOSE_FINE) {
        if (jose_reason_error(reason) == ERR_UNVERIFIED)    /* or who repeats it makes a question of each request */
            keep(inquiry, jose_reason_text(reason), REFUSED_S * UINT64_C(1000000));
        finish_judged(inquiry, reason);
        return;
    }
    inquiry->keep_us = keep_s * 1000000;
    ask_principal(inquiry);
}

static void on_opaque(void *owner, enum err err, const struct opaque_row *row)
{
    struct inquiry *inquiry = owner;
    const struct issuers *issuers = inquiry->all->issuers;
    const struct issuer *issuer = &issuers->list[inquiry->source - 1];
    char *body;

    if (err == ERR_UNVERIFIED) {
        finish_refused(inquiry, ERR_UNVERIFIED, jose_reason_text(JOSE_INACTIVE));
        return;
    }
    if (err != ERR_OK) {
        inquiry->someone_was_silent = inquiry->someone_was_silent || err == ERR_UNAVAILABLE;
        ask_next_source(inquiry);
        return;
    }
    body = opaque_answer(row, issuer, issuers, &inquiry->facts.any_server);
    if (body == NULL) {
        finish_refused(inquiry, ERR_UNVERIFIED, "unusable");
        return;
    }
    judge_answer(inquiry, issuer, body, strlen(body), OPAQUE_S);
    free(body);
}

static void on_introspected(void *owner, enum err err, const char *body, size_t size)
{
    struct inquiry *inquiry = owner;

    if (err == ERR_OK) {
        judge_answer(inquiry, inquiry->introspection.issuer, body, size, INTROSPECTED_S);
        return;
    }
    inquiry->someone_was_silent = inquiry->someone_was_silent || err == ERR_UNAVAILABLE;
    ask_next_source(inquiry);
}

/* Better-Auth cuts its prefix off before it hashes. */
static enum err ask_database(struct inquiry *inquiry, const struct issuer *issuer)
{
    const char *token = inquiry->text + strlen(issuer->opaque_prefix);
    uint8_t digest[DIGEST_SIZE];
    char text[DIGEST_TEXT_SIZE];

    digest_sha256(token, strlen(token), digest);
    base64url_encode(digest, DIGEST_SIZE, text);
    return identities_find_opaque(inquiry->all->identities, &inquiry->call, text, token);
}

static enum err introspect(struct inquiry *inquiry)
{
    const struct issuer *issuer = issuers_of_opaque(inquiry->all->issuers, inquiry->text, inquiry->size);

    if (issuer == NULL)
        return ERR_NOT_FOUND;
    inquiry->introspection = (struct introspection){ .issuer = issuer, .fn = on_introspected, .owner = inquiry };
    return introspect_start(inquiry->all->fetcher, &inquiry->introspection, inquiry->text, inquiry->size);
}

static enum err ask_source(struct inquiry *inquiry, size_t source)
{
    const struct issuers *issuers = inquiry->all->issuers;
    const struct issuer *issuer = source < issuers->count ? &issuers->list[source] : NULL;

    if (inquiry->size > INTROSPECT_TOKEN_MAX)
        return ERR_NOT_FOUND;
    if (issuer == NULL)
        return introspect(inquiry);
    if (issuer->opaque != OPAQUE_DATABASE || strncmp(inquiry->text, issuer->opaque_prefix, strlen(issuer->opaque_prefix)) != 0)
        return ERR_NOT_FOUND;
    return ask_database(inquiry, issuer);
}

/*
 * Our own tables first, in the order of the settings; what stands in none of them is shown to one authorization server at
 * most, the one whose opaque_prefix it has: a token is its bearer's secret, and other servers are strangers to it.
 */
static void ask_next_source(struct inquiry *inquiry)
{
    const size_t count = inquiry->all->issuers->count;

    while (inquiry->source <= count) {
        enum err err = ask_source(inquiry, inquiry->source++);

        if (err == ERR_OK)
            return;
        inquiry->someone_was_silent = inquiry->someone_was_silent || err != ERR_NOT_FOUND;
    }
    if (inquiry->someone_was_silent) {
        finish_refused(inquiry, ERR_UNAVAILABLE, "issuer_silent");
        return;
    }
    keep(inquiry, jose_reason_text(JOSE_OPAQUE), REFUSED_S * UINT64_C(1000000));
    finish_refused(inquiry, ERR_UNVERIFIED, jose_reason_text(JOSE_OPAQUE));
}

/* ---- the beginning --------------------------------------------------------------------------------- */

static void begin(struct inquiry *inquiry)
{
    if (inquiry->tries++ >= INQUIRY_TRIES_MAX) {
        finish_refused(inquiry, ERR_UNAVAILABLE, "changing");
        return;
    }
    memset(&inquiry->facts, 0, sizeof inquiry->facts);
    inquiry->sequence = changes_applied(inquiry->all->authz->changes);    /* what is read from now on is no older */
    inquiry->source = 0;
    inquiry->someone_was_silent = false;
    if (inquiry->method == AUTH_OAUTH && jose_is_token(inquiry->text, inquiry->size))
        judge(inquiry);
    else
        ask_session(inquiry);
}

static uint32_t take_waiter(struct inquiries *all, const struct bus_token *token, const struct verdict_request *request)
{
    uint32_t index = all->unused_waiters;

    if (index == NOWHERE)
        return NOWHERE;
    all->unused_waiters = all->waiters[index].next;
    all->waiters[index].token = *token;
    all->waiters[index].request = *request;
    all->waiters[index].request.token = (struct view){ 0 };
    all->waiters[index].next = NOWHERE;
    return index;
}

static void start(struct inquiry *inquiry, uint32_t waiter, const struct verdict_request *request)
{
    inquiry->waiters = inquiry->last_waiter = waiter;
    inquiry->tries = 0;
    inquiry->wait_until_us = 0;
    inquiry->method = request->method;
    memcpy(inquiry->digest, request->digest, DIGEST_SIZE);
    inquiry->size = request->token.size;
    memcpy(inquiry->text, request->token.bytes, request->token.size);
    inquiry->text[inquiry->size] = '\0';
    inquiry->all->running++;
    begin(inquiry);
}

static void join(struct inquiries *all, const struct bus_token *token, const struct verdict_request *request)
{
    uint32_t place = table_find(all->places, request->proof);
    struct inquiry *inquiry = place != TABLE_NONE ? &all->inquiries[place] : NULL;
    uint32_t waiter;

    /* The same text as a cookie and as a bearer is two questions; the second one may come again. */
    waiter = inquiry != NULL && inquiry->method != request->method          ? NOWHERE
             : inquiry != NULL || all->running < INQUIRIES_MAX ? take_waiter(all, token, request)
                                                               : NOWHERE;
    if (waiter == NOWHERE) {
        refuse_at_once(all, token, request, ERR_UNAVAILABLE, "overloaded");
        return;
    }
    if (inquiry != NULL) {
        all->waiters[inquiry->last_waiter].next = waiter;
        inquiry->last_waiter = waiter;
        metric_add(METRIC_token_joined, 1);
        return;
    }
    inquiry = &all->inquiries[table_take(all->places, request->proof)];
    memcpy(inquiry->proof, request->proof, DIGEST_SIZE);
    start(inquiry, waiter, request);
}

/* Are digest and proof those of this token?  What is kept under a digest must have been verified for it. */
static bool is_of_token(const struct verdict_request *request)
{
    const char *text = (const char *)request->token.bytes;
    const char *last = memrchr(text, '.', request->token.size);
    uint8_t digest[DIGEST_SIZE];

    digest_sha256(text, request->token.size, digest);
    if (memcmp(digest, request->proof, DIGEST_SIZE) != 0)
        return false;
    if (memcmp(request->digest, request->proof, DIGEST_SIZE) == 0)
        return true;
    if (last == NULL)
        return false;
    digest_sha256(text, (size_t)(last - text), digest);
    return memcmp(digest, request->digest, DIGEST_SIZE) == 0;
}

static void answer_from_memory(struct inquiries *all, const struct bus_token *token, const struct verdict_request *request,
                               const struct token_entry *entry)
{
    const struct outcome outcome = {
        .err = entry->reason != NULL ? ERR_UNVERIFIED : ERR_OK, .reason = entry->reason,
        .facts = entry->reason != NULL ? NULL : entry->facts, .layer = LAYER_MEMORY,
    };

    metric_add(entry->reason != NULL ? METRIC_token_negative : METRIC_token_memory, 1);
    answer(all, token, request, &outcome);
}

static void want_token(struct inquiries *all, const struct bus_token *token, const struct verdict_request *request)
{
    const struct verdict verdict = { .error = ERR_TOKEN_WANTED, .auth_method = request->method };

    metric_add(METRIC_token_wanted, 1);
    bus_reply(all->authz->bus, token, MESSAGE_verdict, &verdict);
}

void inquiries_ask(struct inquiries *all, const struct bus_token *token, const struct verdict_request *request)
{
    const struct token_entry *entry;

    if (request->method == AUTH_SESSION && request->beside_size == DIGEST_SIZE) {
        authz_ask_key(all->authz, token, request, request->beside);
        return;
    }
    if (all->identities == NULL || request->proof_size != DIGEST_SIZE) {
        refuse_at_once(all, token, request, ERR_UNVERIFIED, "method");
        return;
    }
    if (lease_state(&all->authz->lease, clock_boottime_us()) == LEASE_NONE) {
        authz_answer_unavailable(all->authz, token, "lease");
        return;
    }
    entry = find_in_memory(all, request);
    if (entry != NULL)
        answer_from_memory(all, token, request, entry);
    else if (request->token.size == 0)
        want_token(all, token, request);
    else if (!is_of_token(request))
        refuse_at_once(all, token, request, ERR_UNVERIFIED, "digest");
    else
        join(all, token, request);
}

bool inquiries_are_ready(const struct inquiries *all)
{
    return all->identities == NULL
           || (identities_are_connected(all->identities) && (all->issuers->count == 0 || keysets_were_read(all->keysets)));
}

void inquiries_note_changes(struct inquiries *all)
{
    if (all->keysets != NULL)
        keysets_check(all->keysets);
}

void inquiries_forget(struct inquiries *all)
{
    if (all->identities == NULL)
        return;
    token_cache_clear(all->cache);
    keysets_forget(all->keysets);
}

void inquiries_tell_health(struct inquiries *all, struct ops *ops)
{
    if (all->identities == NULL)
        return;
    ops_set_note(ops, "token_store", identities_are_connected(all->identities));
    if (all->redis != NULL)
        ops_set_note(ops, "session_redis", redis_is_connected(all->redis));
    metric_set(METRIC_token_inquiries, all->running);
    metric_set(METRIC_token_entries, token_cache_count(all->cache));
    metric_set(METRIC_token_refused_entries, token_cache_refused_count(all->cache));
}

/* ---- settings and parts ---------------------------------------------------------------------------- */

/* The defaults of Better-Auth, now and before 1.4: everybody knows them. */
static bool is_public_secret(const char *secret)
{
    return strcmp(secret, "better-auth-secret-12345678901234567890") == 0 || strcmp(secret, "better-auth-secret-123456789") == 0;
}

static enum err read_scopes(const char *text, uint64_t *ret_scopes, char *reterr, size_t reterr_size)
{
    uint64_t scopes = 0;

    while (*text != '\0') {
        enum scope scope;
        size_t size;

        text += strspn(text, ", ");
        size = strcspn(text, ", ");
        if (size > 0 && !scope_parse(text, size, &scope)) {
            snprintf(reterr, reterr_size, "session_scopes: %.*s is no scope; scopes are read, write, admin, proxy, metrics, health",
                     (int)size, text);
            return ERR_MALFORMED;
        }
        if (size > 0)
            scopes |= UINT64_C(1) << scope;
        text += size;
    }
    *ret_scopes = scopes;
    return ERR_OK;
}

static enum err read_settings(struct inquiries *all, char *reterr, size_t reterr_size)
{
    const struct authz_config *config = all->authz->config;
    const struct secret *key = &config->better_auth_secret;

    if (is_public_secret(secret_text(key))) {
        snprintf(reterr, reterr_size, "better_auth_secret is the one that Better-Auth uses when it has none, which everybody knows: "
                                      "set BETTER_AUTH_SECRET in the application and the same value here");
        return ERR_MALFORMED;
    }
    if (strcmp(config->session_bearer, "any") != 0 && strcmp(config->session_bearer, "signed") != 0
        && strcmp(config->session_bearer, "off") != 0) {
        snprintf(reterr, reterr_size, "session_bearer is any, signed or off");
        return ERR_MALFORMED;
    }
    if (strcmp(config->fallback, "any") != 0 && strcmp(config->fallback, "unavailable") != 0) {
        snprintf(reterr, reterr_size, "fallback is unavailable or any");
        return ERR_MALFORMED;
    }
    all->session_key = secret_is_set(key) ? key : NULL;
    all->bearer_sessions = strcmp(config->session_bearer, "off") != 0;
    all->plain_sessions = strcmp(config->session_bearer, "any") == 0;
    all->fallback_any = strcmp(config->fallback, "any") == 0;
    all->policy.admin_roles = config->session_admin_roles;
    all->policy.factor_roles = config->second_factor_roles;
    return read_scopes(config->session_scopes, &all->policy.scopes, reterr, reterr_size);
}

static void on_identities_state(void *owner)
{
    struct inquiries *all = owner;

    if (all->keysets != NULL)
        keysets_check(all->keysets);
}

static bool has_introspection(const struct issuers *issuers)
{
    for (size_t i = 0; i < issuers->count; i++)
        if (issuers->list[i].opaque == OPAQUE_INTROSPECT)
            return true;
    return false;
}

static enum err make_fetcher(struct inquiries *all, char *reterr, size_t reterr_size)
{
    const struct authz_config *config = all->authz->config;
    const struct fetcher_options options = {
        .ca_file = config->fetch_ca_file, .allow_private = config->fetch_private,
        .allow_plain_http = config->fetch_plain_http, .flight_max = FETCHES_MAX, .body_max = FETCH_BODY_MAX,
    };
    enum err err;

    if (!has_introspection(all->issuers))
        return ERR_OK;
    err = fetcher_new(all->authz->loop, &options, &all->fetcher);
    if (err == ERR_UNPROCESSABLE)
        snprintf(reterr, reterr_size, "fetch_ca_file %.300s holds no certificate", config->fetch_ca_file);
    return err == ERR_UNPROCESSABLE ? ERR_MALFORMED : err;
}

static enum err make_stores(struct inquiries *all)
{
    struct authz *authz = all->authz;
    const struct identities_options identities = {
        .url = &authz->config->database_url, .on_state = on_identities_state, .owner = all,
    };
    const struct redis_options redis = { .url = &authz->config->session_redis_url, .timeout_ms = REDIS_TIMEOUT_MS };
    enum err err = identities_new(authz->loop, &identities, &all->identities);

    if (err == ERR_OK && all->session_key != NULL && secret_is_set(&authz->config->session_redis_url))
        err = redis_new(authz->loop, &redis, &all->redis);
    return err;
}

static enum err make_parts(struct inquiries *all)
{
    struct authz *authz = all->authz;
    enum err err = token_cache_new(authz->config->token_entries, authz->config->token_entries, &all->cache);

    if (err == ERR_OK)
        err = table_new(INQUIRIES_MAX, &all->places);
    if (err == ERR_OK)
        err = make_stores(all);
    if (err == ERR_OK) {
        const struct keysets_options keysets = {
            .issuers = all->issuers, .changes = authz->changes, .identities = all->identities,
            .on_read = on_keysets_read, .owner = all,
        };

        err = keysets_new(&keysets, &all->keysets);
    }
    if (err != ERR_OK)
        return err;
    all->sweep_timer = loop_every(authz->loop, SWEEP_MS, on_sweep, all);
    all->check_timer = loop_every(authz->loop, CHECK_MS, on_check, all);
    return all->sweep_timer > 0 && all->check_timer > 0 ? ERR_OK : ERR_NO_MEMORY;
}

static void make_lists(struct inquiries *all)
{
    for (uint32_t i = 0; i < INQUIRY_WAITERS_MAX; i++)
        all->waiters[i].next = i + 1 < INQUIRY_WAITERS_MAX ? i + 1 : NOWHERE;
    for (uint32_t i = 0; i < INQUIRIES_MAX; i++) {
        struct inquiry *inquiry = &all->inquiries[i];

        inquiry->all = all;
        inquiry->waiters = NOWHERE;
        inquiry->call = (struct identity_call){
            .owner = inquiry, .on_principal = on_principal, .on_session = on_session, .on_opaque = on_opaque,
        };
    }
}

enum err inquiries_new(struct authz *authz, const struct issuers *issuers, struct inquiries **ret_inquiries,
                       char *reterr, size_t reterr_size)
{
    struct inquiries *all = calloc(1, sizeof *all);
    enum err err;

    if (all == NULL)
        return ERR_NO_MEMORY;
    all->authz = authz;
    all->issuers = issuers;
    make_lists(all);
    err = read_settings(all, reterr, reterr_size);
    if (err == ERR_OK)
        err = make_fetcher(all, reterr, reterr_size);
    if (err == ERR_OK && (issuers->count > 0 || all->session_key != NULL))
        err = make_parts(all);
    if (err != ERR_OK) {
        inquiries_destroy(&all);
        return err;
    }
    *ret_inquiries = all;
    return ERR_OK;
}

void inquiries_destroy(struct inquiries **inquiries)
{
    struct inquiries *all = *inquiries;

    if (all == NULL)
        return;
    loop_cancel(all->authz->loop, all->sweep_timer);
    loop_cancel(all->authz->loop, all->check_timer);
    fetcher_destroy(&all->fetcher);
    redis_destroy(&all->redis);              /* answers of calls in flight still go to the bus */
    identities_destroy(&all->identities);
    keysets_destroy(&all->keysets);
    token_cache_destroy(&all->cache);
    table_destroy(&all->places);
    free(all);
    *inquiries = NULL;
}
