/* identity.c - claims of a principal, and a bounded table of tokens that were signed before. */
#include "services/edge/identity.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/clock.h"
#include "common/encode.h"
#include "common/log.h"
#include "common/metrics.h"
#include "common/scope.h"
#include "services/edge/answer.h"
#include "services/edge/writer.h"

#define WAYS       4u
#define SETS       1024u           /* 4,096 tokens of about 1 KiB */
#define BACKDATE_S 10u             /* of iat and nbf: verifiers' clocks, which often give no leeway */

struct entry {
    uint8_t name[DIGEST_SIZE];     /* of everything the claims are made from */
    uint64_t expires_s, until_s;   /* of the token; when it is signed anew */
    uint64_t generation;           /* of the keys it was signed with */
    char *token;                   /* NULL: free */
};

struct identity {
    char directory[401], issuer[401];
    uint64_t ttl_s, publish_s;
    pthread_rwlock_t keys_lock;
    struct identity_keys *keys;
    _Atomic uint64_t generation;   /* counts what was read: a removed key's tokens are not given out any more */
    struct timespec read_at;       /* the directory's time of change when it was read */
    pthread_mutex_t lock;          /* of the table */
    struct entry entries[SETS][WAYS];
};

/* ---- keys -------------------------------------------------------------------------------------------------- */

static enum err read_keys(struct identity *identity, char *reterr, size_t reterr_size)
{
    struct identity_keys *keys = NULL, *former;
    struct stat status = { 0 };
    enum err err;

    (void)!stat(identity->directory, &status);    /* the load says why, if it fails */
    err = identity_keys_load(identity->directory, &keys, reterr, reterr_size);
    if (err != ERR_OK)
        return err;
    pthread_rwlock_wrlock(&identity->keys_lock);
    former = identity->keys;
    identity->keys = keys;
    atomic_fetch_add(&identity->generation, 1);
    pthread_rwlock_unlock(&identity->keys_lock);
    identity->read_at = status.st_mtim;
    identity_keys_destroy(&former);
    return ERR_OK;
}

void identity_reload(struct identity *identity)
{
    struct stat status;
    char reason[900] = "";

    if (stat(identity->directory, &status) == 0 && status.st_mtim.tv_sec == identity->read_at.tv_sec
        && status.st_mtim.tv_nsec == identity->read_at.tv_nsec)
        return;
    if (read_keys(identity, reason, sizeof reason) == ERR_OK)
        log_info("identity_keys_read", log_number("keys", identity_keys_count(identity->keys)));
    else
        log_error("identity_keys_unreadable", log_text("reason", reason), log_text("effect", "the keys in use stay"));
}

enum err identity_new(const struct identity_options *options, struct identity **ret_identity, char *reterr, size_t reterr_size)
{
    struct identity *identity;
    enum err err;

    *ret_identity = NULL;
    if (options->directory[0] == '\0')
        return ERR_OK;
    if (options->issuer[0] == '\0') {
        snprintf(reterr, reterr_size, "public_url: identity_keys needs it, because it is the issuer of the tokens upstreams get");
        return ERR_UNPROCESSABLE;
    }
    identity = calloc(1, sizeof *identity);
    if (identity == NULL)
        return ERR_NO_MEMORY;
    pthread_rwlock_init(&identity->keys_lock, NULL);
    pthread_mutex_init(&identity->lock, NULL);
    text_copy(identity->directory, sizeof identity->directory, options->directory);
    text_copy(identity->issuer, sizeof identity->issuer, options->issuer);
    for (size_t length = strlen(identity->issuer); length > 0 && identity->issuer[length - 1] == '/'; length--)
        identity->issuer[length - 1] = '\0';
    identity->ttl_s = options->ttl_s;
    identity->publish_s = options->publish_s;
    err = read_keys(identity, reterr, reterr_size);
    if (err != ERR_OK)
        identity_destroy(&identity);
    *ret_identity = identity;
    return err;
}

void identity_destroy(struct identity **identity)
{
    struct identity *own = *identity;

    if (own == NULL)
        return;
    for (unsigned set = 0; set < SETS; set++)
        for (unsigned way = 0; way < WAYS; way++)
            free(own->entries[set][way].token);
    identity_keys_destroy(&own->keys);
    pthread_rwlock_destroy(&own->keys_lock);
    pthread_mutex_destroy(&own->lock);
    free(own);
    *identity = NULL;
}

/* ---- claims -------------------------------------------------------------------------------------------------- */

static void write_claim(struct writer *writer, const char *name, const char *value)
{
    if (value[0] == '\0')
        return;
    writer_literal(writer, ",\"");
    writer_text(writer, name);
    writer_literal(writer, "\":");
    writer_json(writer, value);
}

/* What tells this principal at this server from all others; also what stands in the token. */
static void write_principal(struct writer *writer, const struct verdict *verdict, const char *server)
{
    const char *client = verdict->client_id[0] != '\0' ? verdict->client_id
                         : verdict->key_id[0] != '\0' ? verdict->key_id : verdict->user_id;
    char scopes[SCOPES_TEXT_MAX], audience[80];

    snprintf(audience, sizeof audience, "mcp://%s", server);
    write_claim(writer, "aud", audience);
    write_claim(writer, "sub", verdict->user_id[0] != '\0' ? verdict->user_id : client);
    write_claim(writer, "client_id", client);
    write_claim(writer, "azp", client);
    write_claim(writer, "scope", scopes_format(verdict->scopes, scopes));
    write_claim(writer, "tenant", verdict->tenant_id);
    write_claim(writer, "auth_method", auth_method_text(verdict->auth_method));
    write_claim(writer, "key_id", verdict->key_id);
    write_claim(writer, "idp", verdict->issuer);
    if (verdict->second_factor)
        writer_literal(writer, ",\"amr\":[\"mfa\"]");
}

static void write_times(struct writer *writer, const struct identity *identity, uint64_t now_s)
{
    char jti[UUID_TEXT_SIZE];
    uint8_t uuid[UUID_SIZE];

    uuid7_make(uuid);
    uuid_format(uuid, jti);
    writer_literal(writer, "{\"iss\":");
    writer_json(writer, identity->issuer);
    writer_literal(writer, ",\"iat\":");
    writer_u64(writer, now_s - BACKDATE_S);
    writer_literal(writer, ",\"nbf\":");
    writer_u64(writer, now_s - BACKDATE_S);
    writer_literal(writer, ",\"exp\":");
    writer_u64(writer, now_s + identity->ttl_s);
    write_claim(writer, "jti", jti);
}

/* ---- the table -------------------------------------------------------------------------------------------------- */

static struct entry *set_of(struct identity *identity, const uint8_t name[DIGEST_SIZE])
{
    return identity->entries[((unsigned)name[0] << 8 | name[1]) % SETS];
}

/* One thread signs anew when half of the life is over; the others take what there is meanwhile. */
static bool take_token(struct identity *identity, const uint8_t name[DIGEST_SIZE], uint64_t now_s, char ret_token[IDENTITY_TOKEN_SIZE])
{
    struct entry *set = set_of(identity, name);
    const uint64_t generation = atomic_load(&identity->generation);
    bool is_found = false;

    pthread_mutex_lock(&identity->lock);
    for (unsigned way = 0; way < WAYS && !is_found; way++) {
        struct entry *entry = &set[way];

        if (entry->token == NULL || memcmp(entry->name, name, DIGEST_SIZE) != 0 || entry->generation != generation)
            continue;
        if (now_s >= entry->until_s) {
            entry->until_s = entry->expires_s;
            break;
        }
        text_copy(ret_token, IDENTITY_TOKEN_SIZE, entry->token);
        is_found = true;
    }
    pthread_mutex_unlock(&identity->lock);
    return is_found;
}

/* In place of its former self, of a free way, or of the one that ends first. */
static void keep_token(struct identity *identity, const uint8_t name[DIGEST_SIZE], uint64_t now_s, uint64_t generation, const char *token)
{
    struct entry *set = set_of(identity, name), *chosen = set;
    char *copy = strdup(token);

    if (copy == NULL)
        return;    /* it is signed again next time */
    pthread_mutex_lock(&identity->lock);
    for (unsigned way = 0; way < WAYS; way++) {
        if (set[way].token != NULL && memcmp(set[way].name, name, DIGEST_SIZE) == 0) {
            chosen = &set[way];
            break;
        }
        if (set[way].token == NULL || (chosen->token != NULL && set[way].expires_s < chosen->expires_s))
            chosen = &set[way];
    }
    free(chosen->token);
    *chosen = (struct entry){ .token = copy, .generation = generation, .expires_s = now_s + identity->ttl_s - 5, .until_s = now_s + identity->ttl_s / 2 };
    memcpy(chosen->name, name, DIGEST_SIZE);
    pthread_mutex_unlock(&identity->lock);
}

static enum err sign(struct identity *identity, uint64_t now_s, const char *claims, size_t size, char ret_token[IDENTITY_TOKEN_SIZE])
{
    enum err err;

    pthread_rwlock_rdlock(&identity->keys_lock);
    err = identity_keys_sign(identity->keys, identity_keys_signer(identity->keys, now_s, identity->publish_s), claims, size, ret_token);
    pthread_rwlock_unlock(&identity->keys_lock);
    return err;
}

enum err identity_token(struct identity *identity, const struct verdict *verdict, const char *server, char ret_token[IDENTITY_TOKEN_SIZE])
{
    const uint64_t now_s = clock_unix_us() / 1000000;
    char principal[IDENTITY_CLAIMS_MAX], claims[IDENTITY_CLAIMS_MAX];
    struct writer who = writer_on(principal, sizeof principal), whole = writer_on(claims, sizeof claims);
    const uint64_t generation = atomic_load(&identity->generation);    /* before the keys are taken: never a newer one than theirs */
    uint8_t name[DIGEST_SIZE];

    write_principal(&who, verdict, server);
    if (who.is_full)
        return ERR_UNAVAILABLE;
    digest_sha256(who.bytes, who.size, name);
    if (take_token(identity, name, now_s, ret_token))
        return ERR_OK;
    write_times(&whole, identity, now_s);
    writer_bytes(&whole, who.bytes, who.size);
    writer_literal(&whole, "}");
    if (whole.is_full || sign(identity, now_s, claims, whole.size, ret_token) != ERR_OK)
        return ERR_UNAVAILABLE;
    metric_add(METRIC_identity_signed, 1);
    keep_token(identity, name, now_s, generation, ret_token);
    return ERR_OK;
}

/* ---- the key set -------------------------------------------------------------------------------------------------- */

void identity_answer_keys(struct exchange *exchange, const struct route_match *match)
{
    struct identity *identity = exchange->edge->identity;
    char document[IDENTITY_SET_SIZE] = "{\"keys\":[]}";
    struct answer answer;

    (void)match;
    exchange->is_public = true;
    if (identity != NULL) {
        pthread_rwlock_rdlock(&identity->keys_lock);
        text_copy(document, sizeof document, identity_keys_document(identity->keys));
        pthread_rwlock_unlock(&identity->keys_lock);
    }
    dispatch_count_refusal(exchange->edge->dispatch, exchange->address, "metadata", 200);
    answer = answer_begin(exchange, 200);
    answer_send(&answer, "application/json", document, strlen(document));
}
