#include "services/ratelimit/ratelimit_store.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/evp.h>

#include "common/cleanup.h"
#include "common/encode.h"
#include "common/redis.h"
#include "services/ratelimit/ratelimit_script.h"

#define SHA1_SIZE        20u
#define BATCH_REMEMBERED_MS "10000"    /* longer than any edge goes on sending a batch */
#define LOOK_MS          1000u
#define CHARGE_SIZE      17u           /* limit u48, window u56, wanted u32 */
#define ANSWER_SIZE      17u           /* admitted u32, left u48, wait u56 */
#define BUNDLE_SIZE      10u           /* wanted u32, three buckets u16 */
#define SHARE_SIZE       22u           /* admitted u32, three times left u48 */
#define ARGUMENTS_MAX    (CHARGE_BUCKETS_MAX + 7u)
#define MARK             "mcpgw:rl:state"

struct ratelimit_store {
    struct loop *loop;
    struct redis *redis;
    struct ratelimit_store_options options;
    char sha[2 * SHA1_SIZE + 1];
    char mark[2 * UUID_SIZE + 1];      /* what we write when there is no mark */
    char seen[2 * UUID_SIZE + 1];      /* the mark the counters had last time; empty: not looked yet */
    int look_timer;
    const char *arguments[ARGUMENTS_MAX];
    size_t lengths[ARGUMENTS_MAX];
    uint8_t charges[CHARGE_BUCKETS_MAX * CHARGE_SIZE];
    uint8_t bundles[FRAME_ITEMS_MAX * BUNDLE_SIZE];
};

static struct ratelimit_store *take_store(struct ratelimit_store **from)
{
    struct ratelimit_store *taken = *from;

    *from = NULL;
    return taken;
}

static uint8_t *put(uint8_t *at, uint64_t value, size_t size)
{
    for (size_t i = 0; i < size; i++)
        *at++ = (uint8_t)(value >> (8 * i));
    return at;
}

static uint64_t get(const uint8_t *at, size_t size)
{
    uint64_t value = 0;

    for (size_t i = size; i > 0; i--)
        value = value << 8 | at[i - 1];
    return value;
}

static void read_answers(struct store_call *call, const uint8_t *answers)
{
    for (size_t i = 0; i < call->count; i++, answers += ANSWER_SIZE)
        call->buckets[i].spending = (struct spending){
            .admitted = get(answers, 4), .left = get(answers + 4, 6), .wait_us = get(answers + 10, 7),
        };
    for (size_t i = 0; i < call->bundle_count; i++, answers += SHARE_SIZE) {
        struct charge_bundle *bundle = &call->bundles[i];

        bundle->admitted = get(answers, 4);
        for (size_t at = 0; at < bundle->count; at++)
            bundle->left[at] = get(answers + 4 + 6 * at, 6);
    }
}

static void on_answer(void *owner, const redisReply *reply)
{
    struct store_call *call = owner;
    struct ratelimit_store *store = call->store;
    const redisReply *answers;
    enum err err = ERR_UNAVAILABLE;

    /* A restarted Redis, or SCRIPT FLUSH: the text goes with the call, and the script is known again. */
    if (reply != NULL && reply->type == REDIS_REPLY_ERROR && strncmp(reply->str, "NOSCRIPT", 8) == 0
        && !call->is_full_text) {
        call->is_full_text = true;
        if (ratelimit_store_charge(store, call) == ERR_OK)
            return;
    } else if (reply != NULL && reply->type == REDIS_REPLY_ARRAY && reply->elements == 2) {
        answers = reply->element[1];
        if (answers->type == REDIS_REPLY_STRING && answers->len == call->count * ANSWER_SIZE + call->bundle_count * SHARE_SIZE) {
            call->was_repeated = reply->element[0]->integer == 1;
            read_answers(call, (const uint8_t *)answers->str);
            err = ERR_OK;
        }
    }
    store->options.on_charged(store->options.owner, call, err);
}

/* Their places as Redis counts them, from 1; 0: none. */
static size_t put_bundles(const struct store_call *call, uint8_t *bytes)
{
    uint8_t *end = bytes;

    for (size_t i = 0; i < call->bundle_count; i++) {
        const struct charge_bundle *bundle = &call->bundles[i];

        end = put(end, bundle->wanted, 4);
        for (size_t at = 0; at < CHARGE_LIMITS_MAX; at++)
            end = put(end, at < bundle->count ? bundle->buckets[at] + 1u : 0, 2);
    }
    return (size_t)(end - bytes);
}

enum err ratelimit_store_charge(struct ratelimit_store *store, struct store_call *call)
{
    char batch[64], keys[24];
    uint8_t *end = store->charges;
    size_t at = 0;

    call->store = store;
    store->arguments[at] = call->is_full_text ? "EVAL" : "EVALSHA";
    store->lengths[at++] = call->is_full_text ? 4 : 7;
    store->arguments[at] = call->is_full_text ? ratelimit_script : store->sha;
    store->lengths[at++] = call->is_full_text ? ratelimit_script_size : 2 * SHA1_SIZE;
    store->arguments[at] = keys;
    store->lengths[at++] = (size_t)snprintf(keys, sizeof keys, "%zu", call->count + 1);
    store->arguments[at] = batch;
    store->lengths[at++] = (size_t)snprintf(batch, sizeof batch, "mcpgw:rl:batch:%016llx-%llx",
                                            (unsigned long long)call->epoch, (unsigned long long)call->batch);
    for (size_t i = 0; i < call->count; i++) {
        const struct bucket_charge *bucket = &call->buckets[i];

        store->arguments[at] = bucket->name;
        store->lengths[at++] = bucket->name_length;
        end = put(end, bucket->plan.limit, 6);
        end = put(end, bucket->plan.window_s * 1000000u, 7);
        end = put(end, bucket->wanted, 4);
    }
    store->arguments[at] = (const char *)store->charges;
    store->lengths[at++] = (size_t)(end - store->charges);
    store->arguments[at] = BATCH_REMEMBERED_MS;
    store->lengths[at++] = sizeof BATCH_REMEMBERED_MS - 1;
    if (call->bundle_count > 0) {
        store->arguments[at] = (const char *)store->bundles;
        store->lengths[at++] = put_bundles(call, store->bundles);
    }
    return redis_call(store->redis, (int)at, store->arguments, store->lengths, on_answer, call);
}

static void on_mark(void *owner, const redisReply *reply)
{
    struct ratelimit_store *store = owner;
    bool was_empty;
    const char *mark;

    if (reply == NULL || (reply->type != REDIS_REPLY_NIL && reply->type != REDIS_REPLY_STRING))
        return;
    was_empty = reply->type == REDIS_REPLY_NIL;
    mark = was_empty ? store->mark : reply->str;
    if (store->seen[0] != 0 && (was_empty || strcmp(store->seen, mark) != 0))
        store->options.on_lost(store->options.owner);
    snprintf(store->seen, sizeof store->seen, "%s", mark);
}

/* SET NX GET: the mark that is there, or ours where there is none (Redis 7.0). */
static void look_at_mark(void *owner)
{
    static const size_t lengths[] = { 3, sizeof MARK - 1, 2 * UUID_SIZE, 2, 3 };
    struct ratelimit_store *store = owner;
    const char *arguments[] = { "SET", MARK, store->mark, "NX", "GET" };

    if (redis_call(store->redis, 5, arguments, lengths, on_mark, store) != ERR_OK)
        return;    /* not connected: on_state has said so */
}

static void on_state(void *owner, bool connected)
{
    struct ratelimit_store *store = owner;

    if (connected)
        look_at_mark(store);
    store->options.on_state(store->options.owner, connected);
}

/* Redis names scripts by SHA-1; no security rests on it. */
static enum err name_script(struct ratelimit_store *store)
{
    uint8_t digest[EVP_MAX_MD_SIZE];
    unsigned size = 0;

    if (EVP_Digest(ratelimit_script, ratelimit_script_size, digest, &size, EVP_sha1(), NULL) != 1
        || size != SHA1_SIZE)
        return ERR_BUG;
    hex_encode(digest, SHA1_SIZE, store->sha);
    return ERR_OK;
}

enum err ratelimit_store_new(struct loop *loop, const struct ratelimit_store_options *options,
                             struct ratelimit_store **ret_store)
{
    OWNED(ratelimit_store_destroy) struct ratelimit_store *store = calloc(1, sizeof *store);
    uint8_t mark[UUID_SIZE];
    enum err err;

    if (store == NULL)
        return ERR_NO_MEMORY;
    store->loop = loop;
    store->options = *options;
    random_bytes(mark, sizeof mark);
    hex_encode(mark, sizeof mark, store->mark);
    err = name_script(store);
    if (err != ERR_OK)
        return err;
    err = redis_new(loop, &(struct redis_options){ .url = options->url, .timeout_ms = options->timeout_ms,
                                                   .on_state = on_state, .owner = store }, &store->redis);
    if (err != ERR_OK)
        return err;
    store->look_timer = loop_every(loop, LOOK_MS, look_at_mark, store);
    *ret_store = take_store(&store);
    return ERR_OK;
}

void ratelimit_store_destroy(struct ratelimit_store **store)
{
    if (*store == NULL)
        return;
    if ((*store)->look_timer > 0)
        loop_cancel((*store)->loop, (*store)->look_timer);
    redis_destroy(&(*store)->redis);
    free(*store);
    *store = NULL;
}
