/*
 * redis.c - hiredis' asynchronous API on the loop: one connection, a ring of commands in flight, reconnection.
 *
 * Commands gather in hiredis' buffer and are written once at the end of the loop's turn; the loop watches for room
 * only when the kernel took less than all.  hiredis answers in order, so the ring needs no ids.  A connection found
 * broken while writing is freed from a timer: callbacks never run inside a call or a hook.
 */
#include "common/redis.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <hiredis/async.h>

#include "common/cleanup.h"
#include "common/clock.h"
#include "common/encode.h"
#include "common/log.h"
#include "common/lookup.h"
#include "common/metrics.h"

#define RETRY_MIN_MS    50u
#define RETRY_MAX_MS    1000u
#define CONNECT_US      2000000u
#define TIMEOUT_MS      1000u      /* when the options say 0 */
#define PORT_DEFAULT    6379
#define SETUP_MAX       3          /* AUTH, SELECT, PING */

enum state { STATE_DOWN, STATE_CONNECTING, STATE_PREPARING, STATE_UP };

/* Where and as whom, from the URL. */
struct address {
    bool is_unix;
    char place[256];               /* socket path or host */
    int port;
    char user[128];
    struct secret password;
    char database[8];
};

struct command {
    redis_fn *fn;
    void *owner;
    uint64_t sent_us;
    bool is_setup;
};

struct redis {
    struct loop *loop;
    struct redis_options options;
    struct address address;
    uint32_t timeout_ms;
    enum state state;
    bool doomed, complained;
    bool unwritten;                /* commands wait for the end of the turn */
    struct lookup *lookup;
    struct lookup_addresses addresses;    /* what the host's name meant last */
    unsigned attempts;
    redisAsyncContext *context;
    int fd, events;                /* what the loop watches; -1: nothing */
    uint64_t connecting_since_us;
    uint32_t retry_ms;
    int check_timer, retry_timer, drop_timer;
    char why[160];
    unsigned setup_left;
    size_t first, used;
    struct command ring[REDIS_QUEUE_MAX + SETUP_MAX];
};

#define RING_SIZE (REDIS_QUEUE_MAX + SETUP_MAX)

static struct redis *take_redis(struct redis **from)
{
    struct redis *taken = *from;

    *from = NULL;
    return taken;
}

static void start_connecting(void *owner);

/* ---- the URL ------------------------------------------------------------------------------------ */

static int hex_digit(char letter)
{
    if (letter >= '0' && letter <= '9')
        return letter - '0';
    letter = (char)(letter | 0x20);
    return letter >= 'a' && letter <= 'f' ? letter - 'a' + 10 : -1;
}

/* Percent-decodes `length` letters of `from`; false when it is malformed or does not fit with its NUL. */
static bool unescape(const char *from, size_t length, char *to, size_t size)
{
    size_t used = 0;

    for (size_t i = 0; i < length; i++) {
        char letter = from[i];

        if (letter == '%') {
            int high = i + 2 < length ? hex_digit(from[i + 1]) : -1;
            int low = high >= 0 ? hex_digit(from[i + 2]) : -1;

            if (low < 0 || high * 16 + low == 0)
                return false;
            letter = (char)(high * 16 + low);
            i += 2;
        }
        if (used + 1 >= size)
            return false;
        to[used++] = letter;
    }
    to[used] = 0;
    return true;
}

static bool set_password(struct address *address, const char *from, size_t length)
{
    if (!unescape(from, length, (char *)address->password.bytes, sizeof address->password.bytes))
        return false;
    address->password.size = strlen(secret_text(&address->password));
    return true;
}

static bool is_database(const char *text)
{
    size_t length = strlen(text);

    return length > 0 && length <= 5 && strspn(text, "0123456789") == length;
}

/* user:password, :password or password alone (what redis-cli takes as well). */
static bool read_userinfo(struct address *address, const char *from, size_t length)
{
    const char *colon = memchr(from, ':', length);

    if (colon == NULL)
        return set_password(address, from, length);
    return unescape(from, (size_t)(colon - from), address->user, sizeof address->user)
        && set_password(address, colon + 1, length - (size_t)(colon - from) - 1);
}

/* user=..&password=..&db=.. */
static bool read_query(struct address *address, const char *query)
{
    while (*query != 0) {
        size_t length = strcspn(query, "&");
        bool known;

        if (length > 5 && strncmp(query, "user=", 5) == 0)
            known = unescape(query + 5, length - 5, address->user, sizeof address->user);
        else if (length > 9 && strncmp(query, "password=", 9) == 0)
            known = set_password(address, query + 9, length - 9);
        else if (length > 3 && strncmp(query, "db=", 3) == 0)
            known = unescape(query + 3, length - 3, address->database, sizeof address->database)
                 && is_database(address->database);
        else
            known = false;
        if (!known)
            return false;
        query += length + (query[length] == '&' ? 1 : 0);
    }
    return true;
}

static bool read_host(struct address *address, const char *from, size_t length)
{
    const char *host = from, *end = from + length, *port;
    size_t host_length;

    if (length > 0 && from[0] == '[') {    /* IPv6 literal */
        const char *close = memchr(from, ']', length);

        if (close == NULL)
            return false;
        host = from + 1;
        host_length = (size_t)(close - host);
        port = close + 1;
    } else {
        const char *colon = memchr(from, ':', length);

        port = colon != NULL ? colon : end;
        host_length = (size_t)(port - host);
    }
    if (host_length == 0 || !unescape(host, host_length, address->place, sizeof address->place))
        return false;
    if (port == end)
        return true;
    address->port = 0;
    for (const char *digit = port + 1; *port == ':' && digit < end; digit++) {
        if (*digit < '0' || *digit > '9' || address->port > 65535)
            return false;
        address->port = address->port * 10 + (*digit - '0');
    }
    return address->port > 0 && address->port <= 65535;
}

static bool read_unix(struct address *address, const char *rest)
{
    size_t length = strcspn(rest, "?");

    address->is_unix = true;
    return rest[0] == '/' && unescape(rest, length, address->place, sizeof address->place)
        && read_query(address, rest[length] == '?' ? rest + length + 1 : "");
}

static bool read_tcp(struct address *address, const char *rest)
{
    size_t authority = strcspn(rest, "/?");
    const char *at = memrchr(rest, '@', authority);
    const char *path = rest + authority;
    size_t database;

    if (at != NULL && !read_userinfo(address, rest, (size_t)(at - rest)))
        return false;
    at = at != NULL ? at + 1 : rest;
    if (!read_host(address, at, (size_t)(path - at)))
        return false;
    path += *path == '/' ? 1 : 0;
    database = strcspn(path, "?");
    if (database > 0 && (!unescape(path, database, address->database, sizeof address->database)
                         || !is_database(address->database)))
        return false;
    return read_query(address, path[database] == '?' ? path + database + 1 : "");
}

static bool read_url(struct address *address, const char *url)
{
    address->port = PORT_DEFAULT;
    if (strncmp(url, "unix://", 7) == 0)
        return read_unix(address, url + 7);
    return strncmp(url, "redis://", 8) == 0 && read_tcp(address, url + 8);
}

/* ---- the connection ----------------------------------------------------------------------------- */

static void on_fd(void *owner, int fd, int events)
{
    struct redis *redis = owner;

    (void)fd;
    if (redis->context != NULL && (events & LOOP_READ) != 0 && (redis->events & LOOP_READ) != 0)
        redisAsyncHandleRead(redis->context);
    if (redis->context != NULL && (events & LOOP_WRITE) != 0 && (redis->events & LOOP_WRITE) != 0)
        redisAsyncHandleWrite(redis->context);
}

static void forget(struct redis *redis)
{
    if (redis->fd >= 0)
        loop_forget_fd(redis->loop, redis->fd);
    redis->fd = -1;
    redis->events = 0;
}

static void on_drop_timer(void *owner);

/* Takes no more commands from now on; the drop itself, with its callbacks, waits for the loop. */
static void doom(struct redis *redis, const char *why)
{
    if (redis->doomed || redis->context == NULL)
        return;
    redis->doomed = true;
    snprintf(redis->why, sizeof redis->why, "%s", why);
    redis->drop_timer = loop_after(redis->loop, 0, on_drop_timer, redis);
}

static void watch(struct redis *redis, int events)
{
    if (redis->context == NULL || (redis->fd >= 0 && events == redis->events))
        return;
    redis->fd = redis->context->c.fd;
    redis->events = events;
    if (loop_watch_fd(redis->loop, redis->fd, events, on_fd, redis) != ERR_OK)
        doom(redis, "no descriptor can be watched");
}

/* What hiredis asks of an event library.  Writing is ours once connected: at the end of the turn. */
static void add_read(void *owner)
{
    struct redis *redis = owner;

    watch(redis, redis->events | LOOP_READ);
}

static void delete_read(void *owner)
{
    struct redis *redis = owner;

    watch(redis, redis->events & ~LOOP_READ);
}

static void add_write(void *owner)
{
    struct redis *redis = owner;

    if (redis->state == STATE_CONNECTING)
        watch(redis, redis->events | LOOP_WRITE);
    else
        redis->unwritten = true;
}

static void delete_write(void *owner)
{
    struct redis *redis = owner;

    watch(redis, redis->events & ~LOOP_WRITE);
}

static void clean_up(void *owner)
{
    forget(owner);
}

/* Frees the connection; hiredis calls every waiting callback with NULL on the way. */
static void close_connection(struct redis *redis)
{
    redisAsyncContext *context = redis->context;

    if (redis->state == STATE_UP)
        metric_add(METRIC_redis_up, UINT64_MAX);    /* minus one */
    redis->state = STATE_DOWN;
    redis->doomed = false;
    redis->unwritten = false;
    redis->context = NULL;
    loop_cancel(redis->loop, redis->drop_timer);
    redis->drop_timer = 0;
    if (context != NULL)
        redisAsyncFree(context);
    forget(redis);
    redis->used = 0;
}

static void after_loss(struct redis *redis, bool was_up, const char *why)
{
    uint32_t delay_ms = redis->retry_ms / 2 + (uint32_t)(random_u64() % (redis->retry_ms / 2 + 1));

    if (was_up || !redis->complained)
        log_warn(was_up ? "redis_lost" : "redis_unreachable", log_text("why", why));
    redis->complained = true;
    if (was_up && redis->options.on_state != NULL)
        redis->options.on_state(redis->options.owner, false);
    redis->retry_ms = redis->retry_ms * 2 > RETRY_MAX_MS ? RETRY_MAX_MS : redis->retry_ms * 2;
    redis->retry_timer = loop_after(redis->loop, delay_ms, start_connecting, redis);
}

static void drop(struct redis *redis, const char *why)
{
    bool was_up = redis->state == STATE_UP;

    close_connection(redis);
    after_loss(redis, was_up, why);
}

static void on_drop_timer(void *owner)
{
    struct redis *redis = owner;

    redis->drop_timer = 0;
    if (redis->doomed)
        drop(redis, redis->why);
}

/* hiredis found the connection broken while it read: it calls the callbacks and frees the context itself. */
static void on_disconnect(const redisAsyncContext *context, int status)
{
    struct redis *redis = context->data;
    bool was_up;

    (void)status;
    if (redis->context != context)
        return;    /* close_connection() is at work */
    was_up = redis->state == STATE_UP;
    snprintf(redis->why, sizeof redis->why, "%s", context->errstr != NULL ? context->errstr : "closed");
    redis->context = NULL;
    close_connection(redis);
    after_loss(redis, was_up, redis->why);
}

/* ---- commands ----------------------------------------------------------------------------------- */

static void finish_setup(struct redis *redis, const redisReply *reply)
{
    /* An ACL may forbid PING: the server lives all the same. */
    bool refused = reply->type == REDIS_REPLY_ERROR
        && !(redis->setup_left == 1 && strncmp(reply->str, "NOPERM", 6) == 0);

    if (redis->state != STATE_PREPARING)
        return;
    if (refused) {
        doom(redis, reply->str);
        return;
    }
    if (--redis->setup_left > 0)
        return;
    redis->state = STATE_UP;
    redis->retry_ms = RETRY_MIN_MS;
    redis->complained = false;
    metric_add(METRIC_redis_up, 1);
    log_info("redis_connected", log_text("place", redis->address.place));
    if (redis->options.on_state != NULL)
        redis->options.on_state(redis->options.owner, true);
}

/* A replica, a server that still loads, or one that has lost its way: another connection may do better. */
static bool needs_reconnection(const redisReply *reply)
{
    return reply->type == REDIS_REPLY_ERROR
        && (strncmp(reply->str, "READONLY", 8) == 0 || strncmp(reply->str, "LOADING", 7) == 0);
}

static void on_reply(redisAsyncContext *context, void *raw, void *owner)
{
    struct redis *redis = owner;
    const redisReply *reply = raw;
    struct command command = redis->ring[redis->first];

    (void)context;
    redis->first = (redis->first + 1) % RING_SIZE;
    redis->used--;
    if (command.is_setup) {
        if (reply != NULL)
            finish_setup(redis, reply);
        return;
    }
    if (reply == NULL || reply->type == REDIS_REPLY_ERROR)
        metric_add(METRIC_redis_errors, 1);
    if (reply != NULL)
        histogram_observe_us(HISTOGRAM_redis_latency, clock_monotonic_us() - command.sent_us);
    if (reply != NULL && needs_reconnection(reply))
        doom(redis, reply->str);
    if (command.fn != NULL)
        command.fn(command.owner, reply);
}

static bool send_command(struct redis *redis, int argc, const char *const *argv, const size_t *lengths,
                         const struct command *command)
{
    const char **arguments;

    memcpy(&arguments, &argv, sizeof arguments);    /* hiredis 0.14 lacks the const, it only reads */
    if (redisAsyncCommandArgv(redis->context, on_reply, redis, argc, arguments, lengths) != REDIS_OK)
        return false;
    redis->ring[(redis->first + redis->used) % RING_SIZE] = *command;
    redis->used++;
    return true;
}

static bool send_setup(struct redis *redis, int argc, const char *const *argv)
{
    const struct command command = { .sent_us = clock_monotonic_us(), .is_setup = true };

    redis->setup_left++;
    return send_command(redis, argc, argv, NULL, &command);
}

static void begin_session(struct redis *redis)
{
    const struct address *address = &redis->address;
    const char *const auth[] = { "AUTH", address->user, secret_text(&address->password) };
    const char *const auth_default[] = { "AUTH", secret_text(&address->password) };
    const char *const select[] = { "SELECT", address->database };
    const char *const ping[] = { "PING" };
    bool sent = true;

    redis->state = STATE_PREPARING;
    redis->setup_left = 0;
    if (address->user[0] != 0)
        sent = send_setup(redis, 3, auth);
    else if (secret_is_set(&address->password))
        sent = send_setup(redis, 2, auth_default);
    if (address->database[0] != 0)
        sent = sent && send_setup(redis, 2, select);
    if (!sent || !send_setup(redis, 1, ping))
        doom(redis, "the session's first commands could not be sent");
}

/* hiredis frees the context itself after telling a failed attempt. */
static void on_connect(const redisAsyncContext *context, int status)
{
    struct redis *redis = context->data;

    if (status == REDIS_OK) {
        begin_session(redis);
        return;
    }
    snprintf(redis->why, sizeof redis->why, "%s", context->errstr != NULL ? context->errstr : "refused");
    redis->context = NULL;
    close_connection(redis);
    after_loss(redis, false, redis->why);
}

/* One address of several with each attempt: hiredis takes the first alone. */
static const char *next_host(struct redis *redis)
{
    const struct lookup_addresses *addresses = &redis->addresses;

    return addresses->count > 0 ? addresses->texts[redis->attempts++ % addresses->count] : redis->address.place;
}

static void connect_now(struct redis *redis)
{
    redisAsyncContext *context = redis->address.is_unix
        ? redisAsyncConnectUnix(redis->address.place)
        : redisAsyncConnect(next_host(redis), redis->address.port);

    redis->connecting_since_us = clock_monotonic_us();
    if (context == NULL || context->err != 0) {
        snprintf(redis->why, sizeof redis->why, "%s",
                 context != NULL && context->errstr != NULL ? context->errstr : "out of memory");
        if (context != NULL)
            redisAsyncFree(context);
        after_loss(redis, false, redis->why);
        return;
    }
    context->data = redis;
    context->ev.data = redis;
    context->ev.addRead = add_read;
    context->ev.delRead = delete_read;
    context->ev.addWrite = add_write;
    context->ev.delWrite = delete_write;
    context->ev.cleanup = clean_up;
    redis->context = context;
    redis->state = STATE_CONNECTING;
    redisAsyncSetDisconnectCallback(context, on_disconnect);
    redisAsyncSetConnectCallback(context, on_connect);    /* also asks for the first write event */
}

/* While no resolver answers, what it said last stands. */
static void on_addresses(void *owner, const struct lookup_addresses *found)
{
    struct redis *redis = owner;

    if (found->count > 0)
        redis->addresses = *found;
    if (redis->addresses.count > 0)
        connect_now(redis);
    else
        after_loss(redis, false, "the name of its host is not known");
}

static void start_connecting(void *owner)
{
    struct redis *redis = owner;

    redis->retry_timer = 0;
    if (redis->address.is_unix || !lookup_is_needed(redis->address.place))
        connect_now(redis);
    else if (lookup_start(redis->loop, redis->address.place, on_addresses, redis, &redis->lookup) != ERR_OK)
        after_loss(redis, false, "its host cannot be looked up");
}

static void on_check(void *owner)
{
    struct redis *redis = owner;
    uint64_t now_us = clock_monotonic_us();

    if (redis->doomed && redis->drop_timer == 0)
        drop(redis, redis->why);
    else if (redis->state == STATE_DOWN && redis->retry_timer == 0 && redis->lookup == NULL)
        start_connecting(redis);
    else if (redis->state == STATE_CONNECTING && now_us - redis->connecting_since_us > CONNECT_US)
        drop(redis, "connecting took too long");
    else if (redis->used > 0 && now_us - redis->ring[redis->first].sent_us > 1000u * (uint64_t)redis->timeout_ms)
        drop(redis, "no reply in time");
}

static void write_out(void *owner)
{
    struct redis *redis = owner;
    int done = 0;

    if (!redis->unwritten || redis->doomed || redis->context == NULL)
        return;
    redis->unwritten = false;
    if (redisBufferWrite(&redis->context->c, &done) == REDIS_ERR)
        doom(redis, redis->context->c.errstr);
    else
        watch(redis, done != 0 ? LOOP_READ : LOOP_READ | LOOP_WRITE);
}

enum err redis_new(struct loop *loop, const struct redis_options *options, struct redis **ret_redis)
{
    OWNED(redis_destroy) struct redis *redis = calloc(1, sizeof *redis);
    uint32_t check_ms;

    if (redis == NULL)
        return ERR_NO_MEMORY;
    redis->loop = loop;
    redis->fd = -1;
    redis->options = *options;
    redis->options.url = NULL;
    redis->timeout_ms = options->timeout_ms > 0 ? options->timeout_ms : TIMEOUT_MS;
    redis->retry_ms = RETRY_MIN_MS;
    if (!read_url(&redis->address, secret_text(options->url)))
        return ERR_MALFORMED;
    check_ms = redis->timeout_ms / 4 < 5 ? 5 : redis->timeout_ms / 4;
    redis->check_timer = loop_every(loop, check_ms > 250 ? 250 : check_ms, on_check, redis);
    redis->retry_timer = loop_after(loop, 0, start_connecting, redis);
    if (redis->check_timer == 0 || redis->retry_timer == 0)
        return ERR_OVERLOADED;
    if (loop_add_hook(loop, write_out, redis) != ERR_OK)
        return ERR_OVERLOADED;
    *ret_redis = take_redis(&redis);
    return ERR_OK;
}

void redis_destroy(struct redis **redis)
{
    if (*redis == NULL)
        return;
    loop_cancel((*redis)->loop, (*redis)->check_timer);
    loop_cancel((*redis)->loop, (*redis)->retry_timer);
    loop_remove_hook((*redis)->loop, write_out, *redis);
    lookup_cancel(&(*redis)->lookup);
    close_connection(*redis);
    secret_wipe(&(*redis)->address.password);
    free(*redis);
    *redis = NULL;
}

bool redis_is_connected(const struct redis *redis)
{
    /* hiredis calls the waiting callbacks before it says that the connection is gone */
    return redis->state == STATE_UP && !redis->doomed && redis->context != NULL
        && (redis->context->c.flags & (REDIS_DISCONNECTING | REDIS_FREEING)) == 0;
}

enum err redis_call(struct redis *redis, int argc, const char *const *argv, const size_t *lengths,
                    redis_fn *fn, void *owner)
{
    const struct command command = { .fn = fn, .owner = owner, .sent_us = clock_monotonic_us() };

    if (!redis_is_connected(redis))
        return ERR_UNAVAILABLE;
    if (redis->used >= REDIS_QUEUE_MAX)
        return ERR_OVERLOADED;
    if (!send_command(redis, argc, argv, lengths, &command)) {
        doom(redis, "the command could not be queued");
        return ERR_UNAVAILABLE;
    }
    metric_add(METRIC_redis_calls, 1);
    return ERR_OK;
}

void redis_flush(struct redis *redis)
{
    write_out(redis);
}
