/*
 * edge_http.c - the only file that knows civetweb for the public listener: its threads, its leniency and its missing
 * accessors.
 *
 * A reaper thread shuts the socket of a request body that comes too slowly, because mg_read() waits as long as single
 * bytes trickle in.  civetweb does not give out a connection's socket; it is found among our own by both its addresses.
 */
#include "services/edge/edge_http.h"

#include <arpa/inet.h>
#include <civetweb.h>
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/tcp.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/encode.h"
#include "common/log.h"
#include "common/metrics.h"
#include "services/edge/answer.h"
#include "services/edge/exchange.h"
#include "services/edge/held.h"
#include "services/edge/http_plain.h"
#include "services/edge/proxy.h"

#define REAPER_INTERVAL_MS 50
#define CUT_EVERY          10u            /* turns of the reaper */
#define SOCKET_FD_MAX      65536
#define LINGER_BYTES_MAX (16u << 20) /* of a refused request, read so that its sender sees the refusal and no reset */
#define LINGER_MS          1000
#define IDLE_RESTS_MAX   4u            /* of a connection */
#define HEAD_SLACK         1024u          /* civetweb's buffer beyond HTTP_HEAD_MAX, so that we, not it, refuse */

/* One civetweb thread. */
struct exchange_thread {
    struct edge_http *http;
    struct exchange_thread *next;
    struct workspace *space;         /* mapped at the first request */
    int fd;                          /* of the connection; -1 until somebody asked */
    char peer[PEERS_ADDRESS_SIZE];   /* of the connection; "" between connections; under http->lock */
    bool is_over_cap;                /* this connection is one too many of its address */
    bool has_answered;               /* this connection had an answer before */
    bool pipelines;                  /* its client does not wait for answers */
    bool is_deferring;               /* the dispatcher has, or had, the answer in `deferred` */
    _Atomic bool is_answering;       /* the dispatcher has come to it: a request from now on may be the answer's own */
    struct exchange deferred;
    struct held_connection held;     /* while the thread rests between requests that the holding thread can answer */
    uint64_t taken;                  /* bytes of this connection's requests so far */
    bool has_lost_count;             /* of them: some were chunked */
    unsigned idle_rests;             /* in a row, that served nothing */
    bool is_drained;                 /* civetweb holds nothing of the body any more: what comes is in the socket */
    pthread_mutex_t watch;           /* of the five below, which the reaper reads */
    uint64_t deadline_us;            /* 0: not watched */
    int watched_fd;
    const char *unsent;              /* of a deferred answer, in the workspace: what the socket did not take at once */
    size_t unsent_size;
    uint64_t unsent_until_us;
    uint64_t upload_started_us;      /* moved on by the time the body waited for its upstream */
    uint64_t left_us;                /* when the last piece was given out; 0: the client has been waited for since */
};

struct edge_http {
    struct edge *edge;
    struct mg_context *context;
    struct held *held;
    pthread_mutex_t lock;            /* of the list and the peers in it */
    struct exchange_thread *threads;
    _Atomic uint64_t connections, uploads, unsent;
    pthread_t reaper;
    bool has_reaper;
    bool has_addresses;              /* it may listen on more than one */
    _Atomic bool is_stopping;
    char start_fault[200];           /* what civetweb said while it started */
    _Atomic uint16_t fd_of_port[65536];    /* where a client's port was last seen: guesses, to be checked */
};

/* ---- the client's socket ---- */

static bool is_socket_of(int fd, const struct mg_request_info *info)
{
    struct sockaddr_in peer, own;
    socklen_t peer_size = sizeof peer, own_size = sizeof own;
    char text[INET_ADDRSTRLEN];

    if (getpeername(fd, (struct sockaddr *)&peer, &peer_size) != 0 || peer.sin_family != AF_INET)
        return false;
    if (ntohs(peer.sin_port) != info->remote_port)
        return false;
    if (getsockname(fd, (struct sockaddr *)&own, &own_size) != 0 || ntohs(own.sin_port) != info->server_port)
        return false;
    return inet_ntop(AF_INET, &peer.sin_addr, text, sizeof text) != NULL && strcmp(text, info->remote_addr) == 0;
}

/* One look at all sockets notes them for every thread, so that a thousand new connections do not cost a million calls. */
static void note_socket(struct edge_http *http, int fd)
{
    struct sockaddr_in peer;
    socklen_t size = sizeof peer;

    if (fd < SOCKET_FD_MAX && getpeername(fd, (struct sockaddr *)&peer, &size) == 0 && peer.sin_family == AF_INET)
        atomic_store_explicit(&http->fd_of_port[ntohs(peer.sin_port)], (uint16_t)fd, memory_order_relaxed);
}

/*
 * civetweb does not tell our own address, and a client may use one port of its own towards two of ours: with several
 * addresses a socket counts only if no other fits, and the notes, which may be older than the other one, not at all.
 */
static int find_socket(struct edge_http *http, const struct mg_request_info *info)
{
    int found = atomic_load_explicit(&http->fd_of_port[info->remote_port & 0xffff], memory_order_relaxed);
    bool is_single = true;
    DIR *directory;

    if (!http->has_addresses && found > 2 && is_socket_of(found, info))
        return found;
    directory = opendir("/proc/self/fd");
    if (directory == NULL)
        return -1;
    found = -1;
    for (struct dirent *entry = readdir(directory); entry != NULL; entry = readdir(directory)) {
        int fd = isdigit((unsigned char)entry->d_name[0]) ? atoi(entry->d_name) : -1;

        if (fd <= 2)
            continue;
        note_socket(http, fd);
        if (!is_socket_of(fd, info))
            continue;
        is_single = found < 0;
        found = fd;
    }
    closedir(directory);
    return is_single ? found : -1;
}

static int thread_fd(struct exchange_thread *thread, const struct mg_connection *connection)
{
    if (thread->fd < 0)
        thread->fd = find_socket(thread->http, mg_get_request_info(connection));
    return thread->fd;
}

int exchange_fd(struct exchange *exchange)
{
    return thread_fd(exchange->thread, exchange->connection);
}

/* Sends our FIN and reads on for a while: closing with unread bytes would reset the connection and eat the answer. */
static void linger(int fd)
{
    uint64_t deadline_us = clock_monotonic_us() + LINGER_MS * 1000u;
    size_t taken = 0;
    char waste[16384];

    if (fd < 0)
        return;
    shutdown(fd, SHUT_WR);
    while (taken < LINGER_BYTES_MAX && clock_monotonic_us() < deadline_us) {
        struct pollfd readable = { .fd = fd, .events = POLLIN };
        ssize_t count;

        if (poll(&readable, 1, 100) <= 0)
            continue;
        count = recv(fd, waste, sizeof waste, MSG_DONTWAIT);
        if (count <= 0 && !(count < 0 && (errno == EAGAIN || errno == EINTR)))
            return;
        taken += count > 0 ? (size_t)count : 0;
    }
}

/* ---- deadlines of reading ---- */

static void watch(struct exchange_thread *thread, int fd, uint64_t deadline_us)
{
    pthread_mutex_lock(&thread->watch);
    thread->watched_fd = fd;
    thread->deadline_us = fd < 0 ? 0 : deadline_us;
    pthread_mutex_unlock(&thread->watch);
}

static void unwatch(struct exchange_thread *thread)
{
    watch(thread, -1, 0);
}

/* What the socket takes now.  false: the connection is gone. */
static bool send_what_fits(int fd, const char **at, size_t *left)
{
    ssize_t count = send(fd, *at, *left, MSG_NOSIGNAL | MSG_DONTWAIT);

    if (count < 0)
        return errno == EAGAIN || errno == EINTR;
    *at += count;
    *left -= (size_t)count;
    return true;
}

static void reap_unsent(struct exchange_thread *thread, uint64_t now_us)
{
    if (thread->unsent_size == 0)
        return;
    if (!send_what_fits(thread->fd, &thread->unsent, &thread->unsent_size) || thread->unsent_until_us < now_us)
        thread->unsent_size = 0;
    if (thread->unsent_until_us < now_us)
        shutdown(thread->fd, SHUT_RDWR);
    if (thread->unsent_size == 0)
        metric_set(METRIC_http_unsent, atomic_fetch_sub(&thread->http->unsent, 1) - 1);
}

static void reap(struct edge_http *http)
{
    uint64_t now_us = clock_monotonic_us();

    pthread_mutex_lock(&http->lock);
    for (struct exchange_thread *thread = http->threads; thread != NULL; thread = thread->next) {
        pthread_mutex_lock(&thread->watch);
        if (thread->deadline_us != 0 && thread->deadline_us < now_us) {
            shutdown(thread->watched_fd, SHUT_RD);
            thread->deadline_us = 0;
        }
        reap_unsent(thread, now_us);
        pthread_mutex_unlock(&thread->watch);
    }
    pthread_mutex_unlock(&http->lock);
}

struct client_socket {
    int fd;
    uint32_t address;
};

static int compare_sockets(const void *a, const void *b)
{
    const struct client_socket *left = a, *right = b;

    return left->address < right->address ? -1 : left->address > right->address;
}

/* Our clients' sockets, by address.  Returns how many; at most `capacity`. */
static size_t list_sockets(struct edge_http *http, struct client_socket *sockets, size_t capacity)
{
    struct mg_server_port ports[16];
    int port_count = mg_get_server_ports(http->context, 16, ports);
    size_t count = 0;

    for (int fd = 3; fd < SOCKET_FD_MAX && count < capacity; fd++) {
        struct sockaddr_in peer, own;
        socklen_t peer_size = sizeof peer, own_size = sizeof own;

        if (getpeername(fd, (struct sockaddr *)&peer, &peer_size) != 0 || peer.sin_family != AF_INET
            || getsockname(fd, (struct sockaddr *)&own, &own_size) != 0)
            continue;
        for (int i = 0; i < port_count && count < capacity; i++) {
            if (ports[i].port == ntohs(own.sin_port)) {
                sockets[count++] = (struct client_socket){ fd, peer.sin_addr.s_addr };
                break;
            }
        }
    }
    qsort(sockets, count, sizeof *sockets, compare_sockets);
    return count;
}

static uint64_t bytes_received(int fd)
{
    struct tcp_info info = { 0 };
    socklen_t size = sizeof info;

    return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) == 0 ? info.tcpi_bytes_received : 1;
}

/* Silent connections beyond the cap of their address hold threads that no request will ever show: they are cut here. */
static void cut_silent(struct edge_http *http)
{
    const struct edge_config *config = http->edge->config;
    struct client_socket *sockets;
    size_t count, of_address = 0;

    if (atomic_load(&http->connections) <= config->connections_per_address)
        return;
    sockets = calloc(config->threads * 2, sizeof *sockets);
    if (sockets == NULL)
        return;
    count = list_sockets(http, sockets, config->threads * 2);
    for (size_t i = 0; i < count; i++) {
        char text[INET_ADDRSTRLEN] = "";

        of_address = i > 0 && sockets[i].address == sockets[i - 1].address ? of_address + 1 : 1;
        inet_ntop(AF_INET, &(struct in_addr){ sockets[i].address }, text, sizeof text);
        if (of_address > config->connections_per_address && !peers_trusts(&http->edge->peers, text)
            && bytes_received(sockets[i].fd) == 0)
            shutdown(sockets[i].fd, SHUT_RD);
    }
    free(sockets);
}

static void *run_reaper(void *argument)
{
    struct edge_http *http = argument;

    for (unsigned turn = 0; !atomic_load(&http->is_stopping); turn++) {
        if (atomic_load(&http->uploads) + atomic_load(&http->unsent) > 0)
            reap(http);
        if (turn % CUT_EVERY == 0)
            cut_silent(http);
        usleep(REAPER_INTERVAL_MS * 1000);
    }
    return NULL;
}

/* ---- what handlers call ---- */

struct large *exchange_large(struct exchange *exchange)
{
    if (exchange->space->large == NULL) {
        void *bytes = mmap(NULL, sizeof(struct large), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        exchange->space->large = bytes == MAP_FAILED ? NULL : bytes;
    }
    return exchange->space->large;
}

static bool is_crowded(const struct exchange *exchange)
{
    uint64_t threads = exchange->edge->config->threads;

    return atomic_load_explicit(&exchange->thread->http->connections, memory_order_relaxed) > threads - threads / 10;
}

static bool can_discard(const struct exchange *exchange)
{
    const struct http_head *head = exchange->head;

    return !head->is_chunked && head->content_length <= EXCHANGE_DISCARD_MAX && !head->wants_continue;
}

bool exchange_settle_close(struct exchange *exchange)
{
    if (exchange->must_close || exchange->is_deferred || exchange->is_held)    /* the latter two: settled before */
        return exchange->must_close;
    if (exchange->head->wants_close || (exchange->head->has_body && !exchange->body_is_done && !can_discard(exchange))
        || atomic_load_explicit(&exchange->edge->is_draining, memory_order_relaxed) || is_crowded(exchange)) {
        exchange->must_close = true;
        mg_disable_connection_keep_alive(exchange->connection);
    }
    return exchange->must_close;
}

void exchange_abort(struct exchange *exchange)
{
    exchange->is_broken = true;
    exchange->must_close = true;
    mg_disable_connection_keep_alive(exchange->connection);
}

/*
 * In the dispatcher's or the holding thread, which must not wait.  A client that reads its answers has room for this one; for one that does
 * not the reaper goes on, or its own thread once the next request is there.
 */
static void send_deferred(struct exchange *exchange, const char *bytes, size_t size)
{
    struct exchange_thread *thread = exchange->thread;

    if (!send_what_fits(thread->fd, &bytes, &size)) {
        exchange->is_broken = true;
        return;
    }
    if (size == 0)
        return;
    pthread_mutex_lock(&thread->watch);
    thread->unsent = bytes;
    thread->unsent_size = size;    /* was 0: nothing is answered before the rest of the answer before has left */
    thread->unsent_until_us = clock_monotonic_us() + exchange->edge->config->write_ms * 1000;
    pthread_mutex_unlock(&thread->watch);
    metric_set(METRIC_http_unsent, atomic_fetch_add(&thread->http->unsent, 1) + 1);
}

void exchange_send(struct exchange *exchange, const void *bytes, size_t size)
{
    if (size == 0 || exchange->is_broken)
        return;
    if (exchange->is_deferred || exchange->is_held) {
        send_deferred(exchange, bytes, size);
        return;
    }
    if (mg_write(exchange->connection, bytes, size) != (int)size)
        exchange_abort(exchange);
}

void exchange_send_watched(struct exchange *exchange, const void *bytes, size_t size, int wake_fd)
{
    const char *at = bytes;
    int fd = exchange_fd(exchange);

    while (size > 0 && !exchange->is_broken) {
        struct pollfd events[2] = { { .fd = fd, .events = POLLOUT }, { .fd = wake_fd, .events = POLLIN } };
        ssize_t count = send(fd, at, size, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (count >= 0) {
            at += count;
            size -= (size_t)count;
            continue;
        }
        if (errno != EAGAIN && errno != EINTR) {
            exchange_abort(exchange);
            return;
        }
        if (poll(events, 2, (int)exchange->edge->config->write_ms) <= 0 || (events[1].revents & POLLIN) != 0)
            exchange_abort(exchange);
    }
}

/* ---- answers that leave without their thread ---- */

static void answer_deferred(struct call *call)
{
    struct exchange_thread *thread = call->owner;

    atomic_store(&thread->is_answering, true);
    thread->deferred.answer_call(&thread->deferred);
    atomic_fetch_sub_explicit(&thread->http->edge->in_flight, 1, memory_order_relaxed);
}

static bool can_defer(struct exchange *exchange)
{
    const struct exchange_thread *thread = exchange->thread;

    return thread->has_answered && !thread->pipelines && !exchange->head->has_body && !exchange->head->is_http10
           && !exchange->is_mcp && !exchange->stays && exchange->space->call.token.size <= EXCHANGE_TOKEN_MAX
           && !exchange_settle_close(exchange) && exchange_fd(exchange) >= 0;
}

/* They lie in memory that the next request is read into: who answers later must find nothing rather than that. */
static void forget_texts(struct exchange *deferred, struct http_head *head)
{
    deferred->method = deferred->query = NULL;
    head->count = 0;
    memset(head->seen, 0, sizeof head->seen);
}

bool exchange_defer(struct exchange *exchange, exchange_answer_fn *answer)
{
    struct exchange_thread *thread = exchange->thread;
    struct call *call = &exchange->space->call;

    if (!can_defer(exchange))
        return false;
    exchange->is_deferred = true;
    exchange->answer_call = answer;
    thread->deferred = *exchange;
    thread->deferred.connection = NULL;
    thread->is_deferring = true;
    atomic_store(&thread->is_answering, false);
    if (call->token.size > 0)
        memcpy(exchange->space->token, call->token.bytes, call->token.size);
    call->token.bytes = exchange->space->token;
    forget_texts(&thread->deferred, &exchange->space->head);
    call->answer = answer_deferred;
    call->owner = thread;
    dispatch_begin(exchange->edge->dispatch, call);
    if (!exchange->is_held)    /* the holding thread rouses for all that it has handed over */
        dispatch_rouse(exchange->edge->dispatch);
    return true;
}

/* The rest of an answer, by who owns the connection: waits for the client.  false: it did not take it. */
static bool send_rest(struct exchange_thread *thread)
{
    const char *at;
    size_t left;

    pthread_mutex_lock(&thread->watch);
    at = thread->unsent;
    left = thread->unsent_size;
    thread->unsent_size = 0;
    pthread_mutex_unlock(&thread->watch);
    if (left > 0)
        metric_set(METRIC_http_unsent, atomic_fetch_sub(&thread->http->unsent, 1) - 1);
    while (left > 0) {
        struct pollfd writable = { .fd = thread->fd, .events = POLLOUT };

        if (poll(&writable, 1, (int)thread->http->edge->config->write_ms) <= 0 || !send_what_fits(thread->fd, &at, &left))
            return false;
    }
    return true;
}

/* Before anything else is done with the connection.  false: the answer before did not leave whole. */
static bool settle_deferred(struct exchange_thread *thread)
{
    bool is_whole = true;

    if (thread->is_deferring) {
        thread->pipelines |= !atomic_load(&thread->is_answering);
        dispatch_await(thread->http->edge->dispatch, &thread->space->call);
        thread->is_deferring = false;
        is_whole = !thread->deferred.is_broken;
    }
    return send_rest(thread) && is_whole;    /* the holding thread leaves a rest without deferring as well */
}

enum err exchange_begin_upload(struct exchange *exchange)
{
    struct exchange_thread *thread = exchange->thread;
    static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";

    if (atomic_fetch_add(&thread->http->uploads, 1) >= exchange->edge->config->threads / 4) {
        atomic_fetch_sub(&thread->http->uploads, 1);
        return ERR_OVERLOADED;
    }
    thread->upload_started_us = clock_monotonic_us();
    thread->left_us = 0;
    thread->is_drained = false;
    if (exchange->head->wants_continue)
        exchange_send(exchange, go_on, sizeof go_on - 1);
    return ERR_OK;
}

void exchange_end_upload(struct exchange *exchange)
{
    unwatch(exchange->thread);
    atomic_fetch_sub(&exchange->thread->http->uploads, 1);
}

static size_t bytes_in_socket(int fd)
{
    int count = 0;

    return fd >= 0 && ioctl(fd, FIONREAD, &count) == 0 && count > 0 ? (size_t)count : 0;
}

bool exchange_body_is_waiting(struct exchange *exchange)
{
    return !exchange->thread->is_drained || exchange->head->is_chunked || bytes_in_socket(exchange_fd(exchange)) > 0;
}

/*
 * As much as can be had without waiting, at least one byte: what is in the socket can be asked for, since civetweb
 * first gives what it holds itself.  A chunk's framing may take six bytes for each of data.
 */
static size_t piece_size(struct exchange *exchange, size_t capacity, size_t waiting)
{
    uint64_t left = exchange->head->content_length - exchange->body_bytes;
    size_t size = exchange->head->is_chunked ? waiting / 8 : waiting;

    if (size == 0)
        size = 1;
    if (size > capacity)
        size = capacity;
    return !exchange->head->is_chunked && size > left ? (size_t)left : size;
}

void exchange_await_body(struct exchange *exchange)
{
    struct exchange_thread *thread = exchange->thread;
    const struct edge_config *config = exchange->edge->config;
    uint64_t allowed_us = config->body_grace_ms * 1000 + exchange->body_bytes * 1000000 / config->body_rate;

    if (thread->left_us != 0)
        thread->upload_started_us += clock_monotonic_us() - thread->left_us;
    thread->left_us = 0;
    watch(thread, exchange_fd(exchange), thread->upload_started_us + allowed_us);
}

static enum err read_watched(struct exchange *exchange, uint8_t *buffer, size_t size, size_t *ret_size)
{
    int count;

    exchange_await_body(exchange);
    count = mg_read(exchange->connection, buffer, size);
    unwatch(exchange->thread);
    exchange->thread->left_us = clock_monotonic_us();
    if (count < 0 || (count == 0 && !exchange->head->is_chunked)) {
        exchange->must_close = true;
        mg_disable_connection_keep_alive(exchange->connection);
        return ERR_MALFORMED;
    }
    exchange->body_bytes += (uint64_t)count;
    exchange->body_is_done =
        exchange->head->is_chunked ? count == 0 : exchange->body_bytes == exchange->head->content_length;
    *ret_size = (size_t)count;
    return ERR_OK;
}

enum err exchange_read_piece(struct exchange *exchange, uint8_t *buffer, size_t capacity, size_t *ret_size)
{
    size_t waiting, size;
    enum err err;

    *ret_size = 0;
    if (!exchange->head->has_body || exchange->body_is_done) {
        exchange->body_is_done = true;
        return ERR_OK;
    }
    waiting = bytes_in_socket(exchange_fd(exchange));
    size = piece_size(exchange, capacity, waiting);
    err = read_watched(exchange, buffer, size, ret_size);
    if (err == ERR_OK && bytes_in_socket(exchange_fd(exchange)) < waiting)
        exchange->thread->is_drained = true;
    return err;
}

static enum err read_chunks(struct exchange *exchange, uint8_t *buffer, size_t capacity, size_t *ret_size)
{
    size_t size = 0, count = 0;
    enum err err = ERR_OK;
    uint8_t beyond;

    while (err == ERR_OK && !exchange->body_is_done) {
        bool is_full = size == capacity;

        err = exchange_read_piece(exchange, is_full ? &beyond : buffer + size, is_full ? 1 : capacity - size, &count);
        if (err == ERR_OK && is_full && count > 0)
            return ERR_TOO_LARGE;
        size += count;
    }
    *ret_size = size;
    return err;
}

enum err exchange_read_body(struct exchange *exchange, uint8_t *buffer, size_t capacity, size_t *ret_size)
{
    const struct http_head *head = exchange->head;
    enum err err;

    *ret_size = 0;
    if (!head->has_body || exchange->body_is_done)
        return ERR_OK;
    if (head->content_length > capacity)
        return ERR_TOO_LARGE;
    err = exchange_begin_upload(exchange);
    if (err != ERR_OK)
        return err;
    if (head->is_chunked)
        err = read_chunks(exchange, buffer, capacity, ret_size);
    else
        err = read_watched(exchange, buffer, (size_t)head->content_length, ret_size);
    exchange_end_upload(exchange);
    if (err == ERR_OK && !exchange->body_is_done) {
        exchange->must_close = true;
        mg_disable_connection_keep_alive(exchange->connection);
        err = ERR_MALFORMED;
    }
    return err;
}

/* ---- civetweb's callbacks ---- */

static void *on_thread_start(const struct mg_context *context, int type)
{
    struct edge_http *http = mg_get_user_data(context);
    struct exchange_thread *thread;

    if (type != 1)
        return NULL;
    thread = calloc(1, sizeof *thread);
    if (thread == NULL)
        return NULL;
    if (held_init(&thread->held, thread) != ERR_OK) {
        free(thread);
        return NULL;
    }
    thread->http = http;
    thread->fd = thread->watched_fd = -1;
    pthread_mutex_init(&thread->watch, NULL);
    pthread_mutex_lock(&http->lock);
    thread->next = http->threads;
    http->threads = thread;
    pthread_mutex_unlock(&http->lock);
    return thread;
}

static void on_thread_end(const struct mg_context *context, int type, void *pointer)
{
    struct exchange_thread *thread = pointer;

    (void)context;
    if (type != 1 || thread == NULL || thread->space == NULL)
        return;
    proxy_client_destroy(&thread->space->proxy);
    if (thread->space->large != NULL)
        munmap(thread->space->large, sizeof *thread->space->large);
    munmap(thread->space, sizeof *thread->space);
    thread->space = NULL;
}

/* civetweb does not say yet whose connection it is. */
static int on_connection(const struct mg_connection *connection, void **ret_data)
{
    struct exchange_thread *thread = mg_get_thread_pointer(connection);

    *ret_data = NULL;
    if (thread == NULL)
        return 0;
    thread->fd = -1;
    thread->is_over_cap = thread->has_answered = thread->pipelines = thread->has_lost_count = false;
    thread->taken = 0;
    thread->idle_rests = 0;
    atomic_fetch_add(&thread->http->connections, 1);
    return 0;
}

/* At a connection's first request: is it one too many of its address? */
static void take_peer(struct exchange_thread *thread, const char *peer)
{
    struct edge_http *http = thread->http;
    uint64_t count = 0;

    if (thread->peer[0] != '\0')
        return;
    pthread_mutex_lock(&http->lock);
    snprintf(thread->peer, sizeof thread->peer, "%.46s", peer);
    for (const struct exchange_thread *other = http->threads; other != NULL; other = other->next)
        count += strcmp(other->peer, thread->peer) == 0;
    pthread_mutex_unlock(&http->lock);
    thread->is_over_cap =
        count > http->edge->config->connections_per_address && !peers_trusts(&http->edge->peers, peer);
}

static void on_connection_end(const struct mg_connection *connection)
{
    struct exchange_thread *thread = mg_get_thread_pointer(connection);

    if (thread == NULL)
        return;
    (void)settle_deferred(thread);
    atomic_fetch_sub(&thread->http->connections, 1);
    pthread_mutex_lock(&thread->http->lock);
    thread->peer[0] = '\0';
    pthread_mutex_unlock(&thread->http->lock);
    thread->fd = -1;
}

/* civetweb calls a head that overran its buffer malformed; on a new connection the size tells. */
static bool has_overfilled(struct exchange_thread *thread, const struct mg_connection *connection)
{
    return thread->peer[0] == '\0' && bytes_received(thread_fd(thread, connection)) > HTTP_HEAD_MAX;
}

/* A head that civetweb itself could not read. */
static int on_unreadable(struct mg_connection *connection, int status, const char *message)
{
    struct exchange_thread *thread = mg_get_thread_pointer(connection);
    bool is_large = status == 413 || (thread != NULL && has_overfilled(thread, connection));
    int shown = is_large ? 431 : status == 505 ? 505 : 400;
    char request_id[UUID_TEXT_SIZE], reply[1024];
    uint8_t uuid[UUID_SIZE];
    size_t size;

    (void)message;
    mg_disable_connection_keep_alive(connection);
    if (thread == NULL || !settle_deferred(thread))
        return 0;
    metric_add(METRIC_refused_malformed, 1);
    uuid7_make(uuid);
    uuid_format(uuid, request_id);
    dispatch_count_refusal(thread->http->edge->dispatch, mg_get_request_info(connection)->remote_addr, "malformed",
                           (unsigned)shown);
    size = answer_format_unreadable(reply, sizeof reply, is_large ? ERR_HEADERS_TOO_LARGE : ERR_MALFORMED, shown,
                                    request_id);
    if (size > 0 && mg_write(connection, reply, size) == (int)size)
        linger(thread_fd(thread, connection));
    return 0;
}

static bool request_id_is_sound(const char *text, size_t length)
{
    if (length == 0 || length > EXCHANGE_REQUEST_ID_MAX)
        return false;
    for (size_t i = 0; i < length; i++) {
        if (!isalnum((unsigned char)text[i]) && strchr("._-", text[i]) == NULL)
            return false;
    }
    return true;
}

static void take_request_id(struct exchange *exchange)
{
    const struct http_field *field = http_head_find(exchange->head, HTTP_X_REQUEST_ID);
    uint8_t uuid[UUID_SIZE];

    exchange->request_id = exchange->space->request_id;
    if (field != NULL && exchange->head->seen[HTTP_X_REQUEST_ID] == 1
        && request_id_is_sound(field->value, field->value_length)) {
        memcpy(exchange->space->request_id, field->value, field->value_length);
        exchange->space->request_id[field->value_length] = '\0';
        return;
    }
    uuid7_make(uuid);
    uuid_format(uuid, exchange->space->request_id);
}

/* From the right: a proxy that adds a field line of its own puts it last. */
static void take_address(struct exchange *exchange)
{
    const struct peers *peers = &exchange->edge->peers;
    const struct http_head *head = exchange->head;
    struct workspace *space = exchange->space;

    exchange->peer = exchange->address = space->peer;
    exchange->peer_is_trusted = peers_trusts(peers, space->peer);
    if (!exchange->peer_is_trusted)
        return;
    text_copy(space->address, sizeof space->address, space->peer);
    exchange->address = space->address;
    for (size_t i = head->count; i > 0 && peers_trusts(peers, space->address); i--) {
        char nearer[PEERS_ADDRESS_SIZE];

        if (head->fields[i - 1].id != HTTP_X_FORWARDED_FOR)
            continue;
        text_copy(nearer, sizeof nearer, space->address);
        if (!peers_client(peers, nearer, head->fields[i - 1].value, space->address))
            return;
    }
}

static enum err check_head(struct exchange *exchange, const struct http_raw *raw, const char *path, const char **reterr_reason)
{
    enum err err = http_strict_check(raw, &exchange->space->head, reterr_reason);

    if (err != ERR_OK)
        return err;
    *reterr_reason = "path";
    err = http_path_normalise(path, exchange->space->path);
    if (err != ERR_OK)
        return ERR_MALFORMED;
    *reterr_reason = "query";
    exchange->query = raw->query != NULL ? raw->query : "";
    return http_query_is_sound(exchange->query) ? ERR_OK : ERR_MALFORMED;
}

static enum err check_info(struct exchange *exchange, const struct mg_request_info *info, const char **reterr_reason)
{
    struct http_raw_field fields[MG_MAX_HEADERS];
    struct http_raw raw = { .method = info->request_method, .target = info->request_uri, .query = info->query_string,
                            .version = info->http_version, .fields = fields, .count = (size_t)info->num_headers };

    for (size_t i = 0; i < raw.count; i++)
        fields[i] = (struct http_raw_field){ info->http_headers[i].name, info->http_headers[i].value };
    return check_head(exchange, &raw, info->local_uri_raw, reterr_reason);
}

static void refuse_head(struct exchange *exchange, enum err err, const char *reason)
{
    const struct refusal refusal = { .err = err };

    metric_add(METRIC_refused_malformed, 1);
    exchange->must_close = true;
    mg_disable_connection_keep_alive(exchange->connection);
    exchange->space->head.seen[HTTP_X_REQUEST_ID] = 0;
    exchange->space->head.seen[HTTP_ORIGIN] = 0;
    take_request_id(exchange);
    answer_refuse_early(exchange, &refusal, reason);
    linger(exchange_fd(exchange));
}

/* After the answer: what is left of a body is read away, or the connection is closed in a way that spares the answer.
 */
static void finish(struct exchange *exchange)
{
    uint8_t waste[4096];
    size_t count = 1;

    if (exchange->is_deferred || !exchange->head->has_body || exchange->body_is_done || exchange->is_broken)
        return;
    if (exchange->must_close || exchange_begin_upload(exchange) != ERR_OK) {
        mg_disable_connection_keep_alive(exchange->connection);
        linger(exchange_fd(exchange));
        return;
    }
    while (!exchange->body_is_done && exchange_read_piece(exchange, waste, sizeof waste, &count) == ERR_OK)
        ;
    exchange_end_upload(exchange);
}

/* How many bytes the head had: http_strict_check() has seen that nothing but line ends lies between its parts. */
static uint64_t head_bytes(const struct exchange *exchange)
{
    const char *last = exchange->head->fields[exchange->head->count - 1].value;

    return (uint64_t)(last + strlen(last) + sizeof "\r\n\r\n" - 1 - exchange->method);
}

static void count_taken(struct exchange_thread *thread, const struct exchange *exchange)
{
    thread->taken += head_bytes(exchange) + exchange->head->content_length;
    thread->has_lost_count |= exchange->head->is_chunked;
}

static void answer_or_refuse(struct exchange *exchange, const struct mg_request_info *info)
{
    const char *reason = NULL;
    enum err err = check_info(exchange, info, &reason);

    text_copy(exchange->space->peer, sizeof exchange->space->peer, info->remote_addr);
    take_address(exchange);
    take_peer(exchange->thread, exchange->peer);
    if (err != ERR_OK) {
        refuse_head(exchange, err, reason);
        return;
    }
    count_taken(exchange->thread, exchange);
    take_request_id(exchange);
    if (exchange->thread->is_over_cap) {
        exchange->must_close = true;
        mg_disable_connection_keep_alive(exchange->connection);
        metric_add(METRIC_refused_overload, 1);
        answer_refuse_early(
            exchange, &(struct refusal){ .err = ERR_OVERLOADED, .detail = "too many connections from this address" },
            "connections");
    } else if (exchange->head->has_other_expectation) {
        answer_refuse_early(exchange, &(struct refusal){ .err = ERR_MALFORMED, .status = 417 }, "expectation");
    } else {
        edge_answer(exchange);
    }
    finish(exchange);
}

static struct exchange begin_exchange(struct exchange_thread *thread, const char *method)
{
    atomic_fetch_add_explicit(&thread->http->edge->in_flight, 1, memory_order_relaxed);
    return (struct exchange){ .edge = thread->http->edge,
                              .thread = thread,
                              .space = thread->space,
                              .head = &thread->space->head,
                              .method = method,
                              .path = thread->space->path,
                              .query = "",
                              .is_head = strcmp(method, "HEAD") == 0,
                              .started_us = clock_monotonic_us() };
}

static void end_exchange(struct exchange *exchange)
{
    atomic_fetch_sub_explicit(&exchange->edge->in_flight, 1, memory_order_relaxed);
}

/* ---- connections whose threads rest ---- */

/*
 * civetweb reads as much as there is, and the next request may be in its buffer already: then nothing would ever show on the
 * socket.  Asked in this order, what arrives in between can only make the connection look as if there were more.
 */
static bool has_read_ahead(const struct exchange_thread *thread)
{
    const uint64_t unread = bytes_in_socket(thread->fd);

    return thread->has_lost_count || bytes_received(thread->fd) - unread != thread->taken;
}

/* A client whose requests are never plain (a value without an end, a long token) would only pay for it. */
static void rest(struct exchange_thread *thread)
{
    if (thread->idle_rests >= IDLE_RESTS_MAX || has_read_ahead(thread))
        return;
    thread->idle_rests++;
    held_wait(thread->http->held, &thread->held, thread->fd);
}

/* Has the answer before left whole?  A request that comes sooner is for the thread to find out about. */
static bool is_settled(struct exchange_thread *thread)
{
    bool has_unsent;

    if (thread->is_deferring && !atomic_load(&thread->is_answering))
        return false;
    if (thread->is_deferring)
        dispatch_await(thread->http->edge->dispatch, &thread->space->call);
    pthread_mutex_lock(&thread->watch);
    has_unsent = thread->unsent_size > 0;
    pthread_mutex_unlock(&thread->watch);
    thread->is_deferring = thread->is_deferring && thread->deferred.is_broken;
    return !thread->is_deferring && !has_unsent;
}

/* Everything that would need more than a call and a write is for the connection's own thread. */
static bool can_hold(struct exchange *exchange, const struct http_raw *raw)
{
    const struct http_head *head = exchange->head;
    const char *reason;

    return check_head(exchange, raw, raw->target, &reason) == ERR_OK && strcmp(raw->target, exchange->path) == 0
           && !head->has_body && !head->wants_close && !head->wants_continue && !head->has_other_expectation
           && !atomic_load_explicit(&exchange->edge->is_draining, memory_order_relaxed) && !is_crowded(exchange)
           && edge_can_hold(exchange);
}

/* What was looked at.  Should it ever come short, nobody may read the middle of a head as a request. */
static bool take(int fd, size_t size)
{
    if (recv(fd, NULL, size, MSG_TRUNC | MSG_DONTWAIT) == (ssize_t)size)
        return true;
    shutdown(fd, SHUT_RDWR);
    return false;
}

/* In the holding thread.  The request stays in the socket until it is sure that it is answered here. */
static bool serve_held(void *owner)
{
    struct exchange_thread *thread = owner;
    struct http_plain plain;
    char bytes[HTTP_PLAIN_MAX];
    struct exchange exchange;
    ssize_t size;

    if (!is_settled(thread))
        return false;
    size = recv(thread->fd, bytes, sizeof bytes, MSG_PEEK | MSG_DONTWAIT);
    if (size < 0 && errno == EAGAIN)
        return true;
    if (size <= 0 || size == sizeof bytes || !http_plain_read(bytes, (size_t)size, &plain))    /* filled: there may be more */
        return false;
    exchange = begin_exchange(thread, plain.raw.method);
    exchange.is_held = true;
    if (!can_hold(&exchange, &plain.raw) || !take(thread->fd, (size_t)size)) {
        end_exchange(&exchange);
        return false;
    }
    thread->idle_rests = 0;
    thread->taken += (uint64_t)size;
    take_address(&exchange);
    take_request_id(&exchange);
    edge_answer(&exchange);
    if (!exchange.is_deferred)
        end_exchange(&exchange);
    return !exchange.is_broken;
}

static void after_held(void *owner)
{
    struct edge_http *http = owner;

    dispatch_rouse(http->edge->dispatch);
}

static int on_request(struct mg_connection *connection)
{
    struct exchange_thread *thread = mg_get_thread_pointer(connection);
    const struct mg_request_info *info = mg_get_request_info(connection);
    struct exchange exchange;

    if (thread != NULL && thread->space == NULL) {
        void *bytes = mmap(NULL, sizeof(struct workspace), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        thread->space = bytes == MAP_FAILED ? NULL : bytes;
    }
    if (thread == NULL || thread->space == NULL || !settle_deferred(thread)) {
        mg_disable_connection_keep_alive(connection);
        return 503;
    }
    exchange = begin_exchange(thread, info->request_method);
    exchange.connection = connection;
    answer_or_refuse(&exchange, info);
    if (exchange.is_deferred) {
        rest(thread);
        return 200;    /* only for civetweb, which closes after some others */
    }
    thread->has_answered = true;
    end_exchange(&exchange);
    return exchange.status != 0 ? exchange.status : 499;
}

/* civetweb's own complaints: while it starts they tell why it does not, later they only repeat what clients did. */
static int on_message(const struct mg_connection *connection, const char *message)
{
    const struct mg_context *context = mg_get_context(connection);
    struct edge_http *http = context != NULL ? mg_get_user_data(context) : NULL;

    if (http != NULL && http->context == NULL)
        snprintf(http->start_fault, sizeof http->start_fault, "%s", message);
    return 1;
}

/* ---- start and stop ---- */

enum err edge_http_check_listen(const char *listen, char *reterr, size_t reterr_size)
{
    size_t length = strlen(listen);

    for (const char *at = listen; *at != '\0'; at++) {
        if (isdigit((unsigned char)*at) || *at == '.' || *at == ':')
            continue;
        if (*at == ',' && at > listen && at[1] != '\0')
            continue;
        if (*at == 's' || *at == 'r') {
            snprintf(reterr, reterr_size,
                     "listen: %s asks for TLS, which this listener must not do: civetweb's TLS crashes with OpenSSL 3; "
                     "listen in plain HTTP and put a proxy with TLS in front (compose/haproxy.cfg)",
                     listen);
            return ERR_DENIED;
        }
        snprintf(reterr, reterr_size, "listen: %s is no list of IPv4 address:port (IPv6 belongs to the proxy in front)",
                 listen);
        return ERR_MALFORMED;
    }
    if (length == 0 || !isdigit((unsigned char)listen[length - 1])) {
        snprintf(reterr, reterr_size, "listen: %s has no port", listen);
        return ERR_MALFORMED;
    }
    return ERR_OK;
}

static enum err start_listener(struct edge_http *http, char *reterr, size_t reterr_size)
{
    const struct edge_config *config = http->edge->config;
    char threads[24], head_ms[24], keep_alive_ms[24], size[24];
    const char *options[] = {
        "listening_ports", config->listen, "num_threads", threads, "request_timeout_ms", head_ms,
        "keep_alive_timeout_ms", keep_alive_ms, "enable_keep_alive", "yes", "tcp_nodelay", "1", "decode_url", "no",
        "decode_query_string", "no", "max_request_size", size, "listen_backlog", "1024", "connection_queue", "128",
        "enable_auth_domain_check", "no", "enable_directory_listing", "no", NULL
    };
    const struct mg_callbacks callbacks = {
        .begin_request = on_request,
        .http_error = on_unreadable,
        .init_thread = on_thread_start,
        .exit_thread = on_thread_end,
        .init_connection = on_connection,
        .connection_close = on_connection_end,
        .log_message = on_message,
    };

    snprintf(threads, sizeof threads, "%llu", (unsigned long long)config->threads);
    snprintf(head_ms, sizeof head_ms, "%llu", (unsigned long long)config->head_ms);
    snprintf(keep_alive_ms, sizeof keep_alive_ms, "%llu", (unsigned long long)config->keep_alive_ms);
    snprintf(size, sizeof size, "%u", HTTP_HEAD_MAX + HEAD_SLACK);
    http->context = mg_start(&callbacks, http, options);
    if (http->context != NULL)
        return ERR_OK;
    snprintf(reterr, reterr_size, "listen: cannot serve %s (%s); is the port in use, or not ours to take?",
             config->listen, http->start_fault[0] != '\0' ? http->start_fault : strerror(errno));
    return ERR_UNAVAILABLE;
}

uint64_t edge_http_connections(const struct edge_http *http)
{
    return atomic_load(&http->connections);
}

/* A list, or every address of this host: a port alone is that, too. */
static bool listens_on_several(const char *listen)
{
    return strchr(listen, ',') != NULL || strchr(listen, ':') == NULL || strstr(listen, "0.0.0.0") != NULL;
}

enum err edge_http_new(struct edge *edge, struct edge_http **ret_http, char *reterr, size_t reterr_size)
{
    struct edge_http *http;
    enum err err = edge_http_check_listen(edge->config->listen, reterr, reterr_size);

    if (err != ERR_OK)
        return err;
    http = calloc(1, sizeof *http);
    if (http == NULL)
        return ERR_NO_MEMORY;
    http->edge = edge;
    http->has_addresses = listens_on_several(edge->config->listen);
    pthread_mutex_init(&http->lock, NULL);
    mg_init_library(0);
    snprintf(reterr, reterr_size, "threads: the thread that holds connections could not be started");
    err = held_new(&(struct held_options){ .serve = serve_held, .served = after_held, .owner = http,
                                           .idle_ms = edge->config->keep_alive_ms }, &http->held);
    if (err == ERR_OK)
        err = start_listener(http, reterr, reterr_size);
    if (err == ERR_OK && pthread_create(&http->reaper, NULL, run_reaper, http) != 0)
        err = ERR_NO_MEMORY;
    if (err != ERR_OK) {
        edge_http_destroy(&http);
        return err;
    }
    http->has_reaper = true;
    *ret_http = http;
    return ERR_OK;
}

static bool is_listener_of(int fd, const struct mg_server_port *ports, int count)
{
    struct sockaddr_in own;
    socklen_t own_size = sizeof own, size = sizeof(int);
    int listens = 0;

    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) != 0 || listens == 0
        || getsockname(fd, (struct sockaddr *)&own, &own_size) != 0)
        return false;
    for (int i = 0; i < count; i++) {
        if (ports[i].port == ntohs(own.sin_port))
            return true;
    }
    return false;
}

void edge_http_close_listeners(struct mg_context *context)
{
    struct mg_server_port ports[16];
    int count = mg_get_server_ports(context, 16, ports);

    for (int fd = 3; fd < SOCKET_FD_MAX; fd++) {
        if (is_listener_of(fd, ports, count))
            shutdown(fd, SHUT_RDWR);
    }
}

static void cut_connections(struct edge_http *http)
{
    size_t capacity = http->edge->config->threads * 2, count;
    struct client_socket *sockets = calloc(capacity, sizeof *sockets);

    if (sockets == NULL)
        return;
    count = list_sockets(http, sockets, capacity);
    for (size_t i = 0; i < count; i++)
        shutdown(sockets[i].fd, SHUT_RD);
    free(sockets);
}

void edge_http_destroy(struct edge_http **http)
{
    struct edge_http *own = *http;

    if (own == NULL)
        return;
    atomic_store(&own->is_stopping, true);
    if (own->has_reaper)
        pthread_join(own->reaper, NULL);
    if (own->held != NULL)
        held_stop(own->held);
    if (own->context != NULL) {
        edge_http_close_listeners(own->context);
        cut_connections(own);
        mg_stop(own->context);
    }
    held_destroy(&own->held);
    while (own->threads != NULL) {
        struct exchange_thread *thread = own->threads;

        own->threads = thread->next;
        pthread_mutex_destroy(&thread->watch);
        held_clear(&thread->held);
        free(thread);
    }
    pthread_mutex_destroy(&own->lock);
    mg_exit_library();
    free(own);
    *http = NULL;
}
