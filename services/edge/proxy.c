/*
 * proxy.c - one exchange between a client and an upstream: decision recorded, bytes passed as they come, completion
 * recorded before the last byte leaves.
 *
 * Nothing is buffered beyond one piece in each direction.  The client's socket and the stream's wake-up lie in an epoll
 * set that curl_multi_poll() watches beside the upstream, so that a client gone in silence, a revoked key or an expiry
 * end the exchange.
 */
#include "services/edge/proxy.h"

#include <curl/curl.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/destination.h"
#include "common/metrics.h"
#include "common/reach.h"
#include "common/scope.h"
#include "services/edge/answer.h"
#include "services/edge/credentials.h"
#include "services/edge/details.h"
#include "services/edge/gate.h"
#include "services/edge/identity.h"
#include "services/edge/own_auth.h"
#include "services/edge/problem.h"
#include "services/edge/proxy_fields.h"
#include "services/edge/tool.h"

#define IDLE_CONNECTIONS 4L       /* kept per thread */
#define TICK_MS          1000     /* longest wait before the timers are looked at */
#define FIELDS_MAX       32768u   /* of an upstream's header block */
#define OPEN_ATTEMPTS    3u       /* verdicts asked again because of changes while a stream opens */
#define OUT_SIZE         98304u   /* a head and several pieces of a body */

struct proxy_client {
    CURLM *multi;
    CURL *easy;
    int wake_fd, epoll_fd;
    char fields[FIELDS_MAX];      /* of the upstream's answer, filtered, each with CR LF */
    char out[OUT_SIZE];           /* what the client has not got yet */
};

enum transfer_end {
    TRANSFER_RUNS,
    TRANSFER_DONE,
    TRANSFER_CLIENT_GONE,
    TRANSFER_ENDED,
    TRANSFER_TIMEOUT,
    TRANSFER_UPSTREAM
};

struct transfer {
    struct exchange *exchange;
    struct proxy_client *client;
    struct call *call;
    struct server_entry server;
    bool passes_token;                   /* the client's own token travels on: it is made for this server */
    struct stream stream;
    struct curl_slist *request_fields;
    int client_fd;
    enum transfer_end end;
    const char *fault;                   /* detail of a 502 */
    /* the upstream's answer */
    struct writer fields, out;
    int status;                          /* of the last status line */
    char connection[256];                /* its Connection fields, joined */
    bool has_length, has_coding, has_head, is_chunked, has_no_body;
    uint64_t length, bytes;              /* declared, and passed so far */
    bool has_sent;                       /* the client has got a byte */
    uint64_t last_us;                    /* when the upstream last gave something */
    /* the client's body */
    const uint8_t *body;                 /* when it was read before, else NULL */
    size_t body_size, body_at;
    bool is_upload, is_paused;
};

/* ---- one thread's client ---- */

void proxy_client_destroy(struct proxy_client **client)
{
    struct proxy_client *own = *client;

    if (own == NULL)
        return;
    if (own->easy != NULL)
        curl_easy_cleanup(own->easy);
    if (own->multi != NULL)
        curl_multi_cleanup(own->multi);
    if (own->wake_fd >= 0)
        close(own->wake_fd);
    if (own->epoll_fd >= 0)
        close(own->epoll_fd);
    free(own);
    *client = NULL;
}

static struct proxy_client *client_of(struct exchange *exchange)
{
    struct proxy_client *client = exchange->space->proxy;
    struct epoll_event wake = { .events = EPOLLIN };

    if (client != NULL)
        return client;
    client = calloc(1, sizeof *client);
    if (client == NULL)
        return NULL;
    client->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    client->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    client->multi = curl_multi_init();
    client->easy = curl_easy_init();
    wake.data.fd = client->wake_fd;
    if (client->wake_fd < 0 || client->epoll_fd < 0 || client->multi == NULL || client->easy == NULL
        || epoll_ctl(client->epoll_fd, EPOLL_CTL_ADD, client->wake_fd, &wake) != 0) {
        proxy_client_destroy(&client);
        return NULL;
    }
    curl_multi_setopt(client->multi, CURLMOPT_MAXCONNECTS, IDLE_CONNECTIONS);
    exchange->space->proxy = client;
    return client;
}

/* ---- the upstream's answer ---- */

static size_t fail_upstream(struct transfer *transfer, const char *fault)
{
    transfer->end = TRANSFER_UPSTREAM;
    transfer->fault = fault;
    return 0;
}

static void flush_out(struct transfer *transfer)
{
    if (transfer->out.size == 0)
        return;
    if (transfer->client_fd >= 0)
        exchange_send_watched(transfer->exchange, transfer->out.bytes, transfer->out.size, transfer->client->wake_fd);
    else
        exchange_send(transfer->exchange, transfer->out.bytes, transfer->out.size);
    transfer->out.size = 0;
    transfer->has_sent = true;
}

static bool value_is_sound(const char *value, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)value[i];

        if ((c < 0x20 && c != '\t') || c == 0x7f)
            return false;
    }
    return true;
}

static bool take_length(struct transfer *transfer, const char *value, size_t length)
{
    uint64_t number = 0;

    if (length == 0 || length > 18)
        return false;
    for (size_t i = 0; i < length; i++) {
        if (value[i] < '0' || value[i] > '9')
            return false;
        number = number * 10 + (uint64_t)(value[i] - '0');
    }
    if (transfer->has_length && transfer->length != number)
        return false;
    transfer->has_length = true;
    transfer->length = number;
    return true;
}

static void put_field(struct transfer *transfer, const char *name, size_t name_length, const char *value,
                      size_t value_length)
{
    struct writer *fields = &transfer->fields;

    writer_bytes(fields, name, name_length);
    writer_literal(fields, ": ");
    writer_bytes(fields, value, value_length);
    writer_literal(fields, "\r\n");
}

static void put_location(struct transfer *transfer, const char *value, size_t length)
{
    char location[2048], mapped[2048];

    if (length >= sizeof location) {
        transfer->fields.is_full = true;
        return;
    }
    memcpy(location, value, length);
    location[length] = '\0';
    if (proxy_map_location(transfer->server.url, transfer->server.slug, location, mapped, sizeof mapped) != ERR_OK)
        transfer->fields.is_full = true;
    else
        put_field(transfer, "Location", 8, mapped, strlen(mapped));
}

static bool take_connection(struct transfer *transfer, const char *value, size_t length)
{
    const size_t used = strlen(transfer->connection);

    if (used + length + 2 > sizeof transfer->connection)
        return false;
    memcpy(transfer->connection + used, value, length);
    memcpy(transfer->connection + used + length, ",", 2);
    return true;
}

/* One field line; false: it makes the answer unusable. */
static bool take_field(struct transfer *transfer, const char *line, size_t size)
{
    const char *colon = memchr(line, ':', size);
    const char *value, *end = line + size;
    size_t name_length, value_length;
    bool with_cors = transfer->exchange->head->seen[HTTP_ORIGIN] > 0;

    if (colon == NULL || !http_is_token(line, (size_t)(colon - line)))
        return false;
    name_length = (size_t)(colon - line);
    for (value = colon + 1; value < end && (*value == ' ' || *value == '\t'); value++)
        ;
    while (end > value && (end[-1] == ' ' || end[-1] == '\t'))
        end--;
    value_length = (size_t)(end - value);
    if (!value_is_sound(value, value_length))
        return false;
    if (name_length == 14 && strncasecmp(line, "content-length", 14) == 0)
        return take_length(transfer, value, value_length);
    if (name_length == 10 && strncasecmp(line, "connection", 10) == 0)
        return take_connection(transfer, value, value_length);
    if (name_length == 17 && strncasecmp(line, "transfer-encoding", 17) == 0)
        transfer->has_coding = true;
    if (name_length == 8 && strncasecmp(line, "location", 8) == 0)
        put_location(transfer, value, value_length);
    else if (proxy_passes_response(line, name_length, with_cors))
        put_field(transfer, line, name_length, value, value_length);
    return !transfer->fields.is_full;
}

static void begin_answer(struct transfer *transfer, const char *line, size_t size)
{
    const char *space = memchr(line, ' ', size);

    transfer->status = space != NULL && size - (size_t)(space - line) >= 4
                           ? atoi((const char[]){ space[1], space[2], space[3], '\0' })
                           : 0;
    transfer->fields = writer_on(transfer->client->fields, sizeof transfer->client->fields);
    transfer->has_length = transfer->has_coding = false;
    transfer->connection[0] = '\0';
}

/* The head of our answer, with framing of our own. */
static void write_head(struct transfer *transfer)
{
    struct exchange *exchange = transfer->exchange;
    struct answer answer = answer_begin_proxied(exchange, transfer->status);
    bool must_close;

    transfer->has_no_body = strcmp(exchange->method, "HEAD") == 0 || transfer->status == 204 || transfer->status == 304;
    transfer->is_chunked = !transfer->has_no_body && !transfer->has_length && !exchange->head->is_http10;
    if (!transfer->has_length && !transfer->has_no_body && exchange->head->is_http10)
        exchange->must_close = true;
    must_close = exchange_settle_close(exchange);
    writer_bytes(&transfer->out, answer.head.bytes, answer.head.size);
    writer_bytes(&transfer->out, transfer->fields.bytes, transfer->fields.size);
    if (transfer->has_length && transfer->status != 204 && transfer->status != 304) {
        writer_literal(&transfer->out, "Content-Length: ");
        writer_u64(&transfer->out, transfer->length);
        writer_literal(&transfer->out, "\r\n");
    }
    if (transfer->is_chunked)
        writer_literal(&transfer->out, "Transfer-Encoding: chunked\r\n");
    if (must_close)
        writer_literal(&transfer->out, "Connection: close\r\n");
    else if (exchange->head->is_http10)
        writer_literal(&transfer->out, "Connection: keep-alive\r\n");
    writer_literal(&transfer->out, "\r\n");
    transfer->has_head = true;
}

static size_t end_head(struct transfer *transfer, size_t size)
{
    if (transfer->status >= 100 && transfer->status < 200 && transfer->status != 101)
        return size;    /* 1xx is between the upstream and us */
    if (transfer->status < 200 || transfer->status > 599)
        return fail_upstream(transfer, "the upstream answered with a status that is none");
    if ((transfer->status == 401 && !transfer->server.own_auth) || transfer->status == 407)
        return fail_upstream(transfer, "the upstream refused the gateway's own request for lack of credentials");
    if (transfer->has_coding)
        transfer->has_length = false;    /* RFC 9112 6.3: the coding wins, and we frame anew */
    transfer->fields.size = proxy_drop_named(transfer->fields.bytes, transfer->fields.size, transfer->connection);
    write_head(transfer);
    return size;
}

static size_t on_header(char *line, size_t one, size_t size, void *owner)
{
    struct transfer *transfer = owner;
    size_t length = size;

    (void)one;
    transfer->last_us = clock_monotonic_us();
    if (transfer->has_head)
        return size;    /* trailers are dropped, RFC 9110 6.5.1 */
    while (length > 0 && (line[length - 1] == '\r' || line[length - 1] == '\n'))
        length--;
    if (length >= 5 && memcmp(line, "HTTP/", 5) == 0) {
        begin_answer(transfer, line, length);
        return size;
    }
    if (length == 0)
        return end_head(transfer, size);
    if (!take_field(transfer, line, length))
        return fail_upstream(transfer, "the upstream's header fields are malformed or larger than 32 KiB");
    return size;
}

static size_t on_body(char *bytes, size_t one, size_t size, void *owner)
{
    struct transfer *transfer = owner;
    char frame[24];
    int frame_size;

    (void)one;
    transfer->last_us = clock_monotonic_us();
    if (transfer->has_no_body || size == 0)
        return size;
    if (transfer->out.size + size + 32 > transfer->out.capacity)
        flush_out(transfer);
    if (transfer->exchange->is_broken)
        return 0;
    frame_size = transfer->is_chunked ? snprintf(frame, sizeof frame, "%zx\r\n", size) : 0;
    writer_bytes(&transfer->out, frame, (size_t)frame_size);
    writer_bytes(&transfer->out, bytes, size);
    if (transfer->is_chunked)
        writer_literal(&transfer->out, "\r\n");
    transfer->bytes += size;
    return transfer->out.is_full ? 0 : size;
}

/* ---- the client's body ---- */

static void watch_client(struct transfer *transfer, bool for_body)
{
    struct epoll_event event = { .events = EPOLLRDHUP | (for_body ? (uint32_t)EPOLLIN : 0),
                                 .data.fd = transfer->client_fd };

    if (transfer->client_fd >= 0)
        epoll_ctl(transfer->client->epoll_fd, EPOLL_CTL_MOD, transfer->client_fd, &event);
}

/*
 * libcurl repeats a request whose kept connection turned out dead; a body that was given by callback and has no seek
 * function cannot be repeated, so that no POST is ever sent twice.
 */
static size_t on_read(char *buffer, size_t one, size_t capacity, void *owner)
{
    struct transfer *transfer = owner;
    size_t size;

    (void)one;
    if (transfer->body != NULL) {
        size = transfer->body_size - transfer->body_at < capacity ? transfer->body_size - transfer->body_at : capacity;
        memcpy(buffer, transfer->body + transfer->body_at, size);
        transfer->body_at += size;
        return size;
    }
    if (!transfer->exchange->body_is_done && !exchange_body_is_waiting(transfer->exchange)) {
        exchange_await_body(transfer->exchange);
        transfer->is_paused = true;
        watch_client(transfer, true);
        return CURL_READFUNC_PAUSE;
    }
    if (exchange_read_piece(transfer->exchange, (uint8_t *)buffer, capacity, &size) != ERR_OK
        || transfer->exchange->body_bytes > transfer->exchange->edge->config->body_limit) {
        transfer->end = TRANSFER_CLIENT_GONE;
        return CURL_READFUNC_ABORT;
    }
    return size;
}

/* ---- the request to the upstream ---- */

/* What a name resolves to is known here only. */
static curl_socket_t on_open(void *owner, curlsocktype purpose, struct curl_sockaddr *address)
{
    struct transfer *transfer = owner;

    (void)purpose;
    if (destination_is_refused(&address->addr)) {
        transfer->fault = "the upstream's address is link-local or otherwise none for an upstream";
        return CURL_SOCKET_BAD;
    }
    return socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
}

static bool add_line(struct transfer *transfer, const char *line)
{
    struct curl_slist *longer = curl_slist_append(transfer->request_fields, line);

    if (longer == NULL)
        return false;
    transfer->request_fields = longer;
    return true;
}

static bool add_field(struct transfer *transfer, const char *name, const char *value)
{
    char line[HTTP_LINE_MAX + 256];
    int length =
        *value != '\0' ? snprintf(line, sizeof line, "%s: %s", name, value) : snprintf(line, sizeof line, "%s;", name);

    return length > 0 && (size_t)length < sizeof line && add_line(transfer, line);
}

/* Any of several Connection fields may name it. */
static bool passes(const struct http_head *head, const struct http_field *field)
{
    bool does = proxy_passes_request(field->name, field->name_length, NULL);

    for (size_t i = 0; i < head->count && does && head->seen[HTTP_CONNECTION] > 0; i++) {
        if (head->fields[i].id == HTTP_CONNECTION)
            does = proxy_passes_request(field->name, field->name_length, head->fields[i].value);
    }
    return does;
}

static bool add_client_fields(struct transfer *transfer)
{
    const struct http_head *head = transfer->exchange->head;
    bool has_agent = false, has_accept = false, fits = true;

    for (size_t i = 0; i < head->count && fits; i++) {
        const struct http_field *field = &head->fields[i];

        if (!passes(head, field))
            continue;
        has_agent = has_agent || strcasecmp(field->name, "user-agent") == 0;
        has_accept = has_accept || strcasecmp(field->name, "accept") == 0;
        fits = add_field(transfer, field->name, field->value);
    }
    /* libcurl's own are taken out: the upstream sees the client's fields or none */
    return fits && add_line(transfer, "Expect:") && (has_accept || add_line(transfer, "Accept:"))
           && (has_agent || add_line(transfer, "User-Agent:"))
           && (head->seen[HTTP_CONTENT_TYPE] > 0 || add_line(transfer, "Content-Type:"));
}

/* Who the caller is, signed: what upstreams that verify JWTs take, in the place of the client's own credential. */
static bool add_token(struct transfer *transfer)
{
    struct identity *identity = transfer->exchange->edge->identity;
    const struct http_field *authorization = http_head_find(transfer->exchange->head, HTTP_AUTHORIZATION);
    char value[sizeof "Bearer " + IDENTITY_TOKEN_SIZE] = "Bearer ";
    char *token = value + sizeof "Bearer " - 1;

    if (transfer->passes_token && !add_field(transfer, "Authorization", authorization->value))
        return false;
    if (identity == NULL || transfer->call->verdict.auth_method == AUTH_NONE)
        return true;
    if (identity_token(identity, &transfer->call->verdict, transfer->server.slug, token) != ERR_OK)
        return false;
    return transfer->passes_token ? add_field(transfer, "X-Mcpgw-Identity", token) : add_field(transfer, "Authorization", value);
}

static bool add_identity(struct transfer *transfer)
{
    const struct verdict *verdict = &transfer->call->verdict;
    char scopes[SCOPES_TEXT_MAX];

    return add_token(transfer) && add_field(transfer, "X-Mcpgw-User", verdict->user_id)
           && add_field(transfer, "X-Mcpgw-Tenant", verdict->tenant_id)
           && add_field(transfer, "X-Mcpgw-Auth-Method", auth_method_text(verdict->auth_method))
           && add_field(transfer, "X-Mcpgw-Scopes", scopes_format(verdict->scopes, scopes))
           && add_field(transfer, "X-Mcpgw-Key-Id", verdict->key_id)
           && add_field(transfer, "X-Mcpgw-Rate-Tier", tier_text(verdict->tier))
           && add_field(transfer, "X-Mcpgw-Request-Id", transfer->exchange->request_id)
           && add_field(transfer, "X-Request-Id", transfer->exchange->request_id);
}

/* Twice: then one is the client's, and nobody knows which. */
static const struct http_field *said_by_proxy(const struct exchange *exchange, enum http_name name)
{
    return exchange->peer_is_trusted && exchange->head->seen[name] == 1 ? http_head_find(exchange->head, name) : NULL;
}

static bool add_forwarding(struct transfer *transfer)
{
    const struct exchange *exchange = transfer->exchange;
    const struct http_field *host = http_head_find(exchange->head, HTTP_HOST);
    const struct http_field *scheme = said_by_proxy(exchange, HTTP_X_FORWARDED_PROTO);
    const struct http_field *name = said_by_proxy(exchange, HTTP_X_FORWARDED_HOST);
    char chain[2 * PEERS_ADDRESS_SIZE + 2];

    if (strcmp(exchange->address, exchange->peer) != 0)
        snprintf(chain, sizeof chain, "%s, %s", exchange->address, exchange->peer);
    else
        snprintf(chain, sizeof chain, "%s", exchange->peer);
    return add_field(transfer, "X-Forwarded-For", chain)
           && add_field(transfer, "X-Forwarded-Proto", scheme != NULL ? scheme->value : "http")
           && add_field(transfer, "X-Forwarded-Host", name != NULL ? name->value : host->value);
}

/* url + what stands below /mcp/{server} + query; false: too long. */
static bool set_url(struct transfer *transfer, const char *rest)
{
    const char *url = transfer->server.url, *query = transfer->exchange->query;
    char text[1000 + HTTP_PATH_MAX + 8192];
    size_t length = strcspn(url, "?#");
    int size;

    if (strcmp(rest, "/") == 0)
        rest = "";
    if (*rest != '\0' && length > 0 && url[length - 1] == '/')
        length--;
    if (strlen(query) > 8192)
        return false;
    size = snprintf(text, sizeof text, "%.*s%s%s%s%s", (int)length, url, rest, url[length] == '?' ? url + length : "",
                    *query == '\0' ? "" : url[length] == '?' ? "&" : "?", query);
    return size > 0 && (size_t)size < sizeof text
           && curl_easy_setopt(transfer->client->easy, CURLOPT_URL, text) == CURLE_OK;
}

static void set_body(struct transfer *transfer)
{
    const struct http_head *head = transfer->exchange->head;
    CURL *easy = transfer->client->easy;

    if (!head->has_body) {
        if (strcmp(transfer->exchange->method, "POST") == 0) {
            curl_easy_setopt(easy, CURLOPT_POSTFIELDS, "");
            curl_easy_setopt(easy, CURLOPT_FRESH_CONNECT, 1L);    /* nothing would stop a repetition of an empty POST */
        }
        return;
    }
    curl_easy_setopt(easy, CURLOPT_POST, 1L);
    curl_easy_setopt(easy, CURLOPT_READFUNCTION, on_read);
    curl_easy_setopt(easy, CURLOPT_READDATA, transfer);
    curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE,
                     head->is_chunked && transfer->body == NULL ? (curl_off_t)-1
                     : (curl_off_t)(transfer->body != NULL ? transfer->body_size : head->content_length));
}

static bool prepare(struct transfer *transfer, const char *rest)
{
    const struct edge_config *config = transfer->exchange->edge->config;
    CURL *easy = transfer->client->easy;
    bool is_streamed_chunks = transfer->exchange->head->is_chunked && transfer->body == NULL;

    curl_easy_reset(easy);    /* keeps the connections */
    if (!add_client_fields(transfer) || !add_identity(transfer) || !add_forwarding(transfer) || !set_url(transfer, rest)
        || (is_streamed_chunks && !add_field(transfer, "Transfer-Encoding", "chunked")))
        return false;
    set_body(transfer);
    if (strcmp(transfer->exchange->method, "HEAD") == 0)
        curl_easy_setopt(easy, CURLOPT_NOBODY, 1L);
    curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, transfer->exchange->method);
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, transfer->request_fields);
    curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(easy, CURLOPT_HEADERDATA, transfer);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, transfer);
    curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, on_open);
    curl_easy_setopt(easy, CURLOPT_OPENSOCKETDATA, transfer);
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long)config->connect_ms);
    curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_PATH_AS_IS, 1L);
    curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(easy, CURLOPT_PROXY, "");
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    return true;
}

/* ---- running it ---- */

static void look_at_timers(struct transfer *transfer)
{
    const struct edge_config *config = transfer->exchange->edge->config;
    uint64_t silent_ms = (clock_monotonic_us() - transfer->last_us) / 1000;
    uint64_t limit_ms = transfer->has_head ? config->idle_ms : config->first_byte_ms;

    if (transfer->is_paused)
        transfer->last_us = clock_monotonic_us();    /* the client is waited for, under its own deadline */
    else if (limit_ms > 0 && silent_ms > limit_ms)
        transfer->end = TRANSFER_TIMEOUT;
}

static void look_at_client(struct transfer *transfer)
{
    struct epoll_event events[2];
    int count = epoll_wait(transfer->client->epoll_fd, events, 2, 0);

    for (int i = 0; i < count; i++) {
        if (events[i].data.fd == transfer->client->wake_fd) {
            transfer->end = TRANSFER_ENDED;
            return;
        }
        if ((events[i].events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) {
            transfer->end = TRANSFER_CLIENT_GONE;
            return;
        }
        if ((events[i].events & EPOLLIN) != 0 && transfer->is_paused) {
            transfer->is_paused = false;
            watch_client(transfer, false);
            curl_easy_pause(transfer->client->easy, CURLPAUSE_CONT);
        }
    }
}

static void read_result(struct transfer *transfer)
{
    int left;
    CURLMsg *message = curl_multi_info_read(transfer->client->multi, &left);

    if (message == NULL || message->msg != CURLMSG_DONE)
        return;
    if (transfer->exchange->is_broken)
        transfer->end = TRANSFER_CLIENT_GONE;
    if (transfer->end != TRANSFER_RUNS)
        return;    /* a callback gave up and said why */
    switch ((int)message->data.result) {
    case CURLE_OK:
        transfer->end = transfer->has_head ? TRANSFER_DONE : TRANSFER_UPSTREAM;
        return;
    case CURLE_OPERATION_TIMEDOUT:
        transfer->end = TRANSFER_TIMEOUT;
        return;
    default:
        transfer->end = TRANSFER_UPSTREAM;
        return;
    }
}

static void run(struct transfer *transfer)
{
    struct proxy_client *client = transfer->client;
    struct curl_waitfd extra = { .fd = client->epoll_fd, .events = CURL_WAIT_POLLIN };
    int running;

    transfer->last_us = clock_monotonic_us();
    while (transfer->end == TRANSFER_RUNS) {
        if (curl_multi_perform(client->multi, &running) != CURLM_OK)
            transfer->end = TRANSFER_UPSTREAM;
        read_result(transfer);
        if (transfer->end != TRANSFER_RUNS)
            break;
        flush_out(transfer);
        if (!transfer->exchange->is_broken)
            curl_multi_poll(client->multi, &extra, 1, TICK_MS, NULL);
        look_at_client(transfer);
        if (transfer->end == TRANSFER_RUNS && transfer->exchange->is_broken)
            transfer->end = TRANSFER_CLIENT_GONE;
        if (transfer->end == TRANSFER_RUNS)
            look_at_timers(transfer);
    }
}

/* ---- the trail ---- */

/* Records how it ended.  false: the trail cannot take it, so the answer must not end as if it had. */
static bool complete(struct transfer *transfer, int status, const char *outcome, const char *reason)
{
    struct call *call = transfer->call;
    struct audit_event *event = &call->event;

    memset(&call->own, 0, sizeof call->own);
    call->steps = CALL_RECORD;
    call->err = ERR_OK;
    call->deadline_us = clock_monotonic_us() + transfer->exchange->edge->config->decision_ms * 1000;
    call->status_if_ok = (uint64_t)status;
    text_copy(event->event, sizeof event->event, "completion");
    text_copy(event->outcome, sizeof event->outcome, outcome);
    text_copy(event->reason, sizeof event->reason, reason);
    text_copy(event->user_id, sizeof event->user_id, call->verdict.user_id);
    text_copy(event->tenant_id, sizeof event->tenant_id, call->verdict.tenant_id);
    text_copy(event->key_id, sizeof event->key_id, call->verdict.key_id);
    event->auth_method = call->verdict.auth_method;
    event->status = (uint64_t)status;
    event->bytes = transfer->bytes;
    event->latency_us = clock_monotonic_us() - transfer->exchange->started_us;
    dispatch_call(transfer->exchange->edge->dispatch, call);
    return call->err == ERR_OK;
}

/* The verdict as it is now, without a charge; what was known of the caller stays for the trail. */
static enum err judge_again(struct transfer *transfer)
{
    struct call *call = transfer->call;
    const struct verdict before = call->verdict;

    if (call->verdict_request.method == AUTH_NONE)
        return ERR_OK;    /* observed without a credential: there is nothing to judge */
    memset(&call->own, 0, sizeof call->own);
    call->steps = CALL_VERDICT;
    call->deadline_us = clock_monotonic_us() + transfer->exchange->edge->config->decision_ms * 1000;
    dispatch_call(transfer->exchange->edge->dispatch, call);
    if (call->err != ERR_OK)
        call->verdict = before;
    return call->err;
}

static void refuse_after_decision(struct transfer *transfer, enum err err, int status, const char *detail,
                                  const char *reason)
{
    struct refusal refusal = { .err = err, .status = status, .detail = detail, .is_invalid_credential = true };

    transfer->bytes = 0;
    if (!complete(transfer, status != 0 ? status : err_http_status(err),
                  err_http_status(err) >= 500 ? "failed" : "refused", reason))
        refusal = (struct refusal){ .err = ERR_AUDIT_UNAVAILABLE };
    answer_refuse(transfer->exchange, &refusal);
}

static void finish_well(struct transfer *transfer)
{
    if (transfer->is_chunked)
        writer_literal(&transfer->out, "0\r\n\r\n");
    if (!complete(transfer, transfer->status, "allowed", "")) {
        if (!transfer->has_sent) {
            answer_refuse(transfer->exchange, &(struct refusal){ .err = ERR_AUDIT_UNAVAILABLE });
            return;
        }
        exchange_abort(transfer->exchange);
        return;
    }
    answer_note(transfer->exchange, transfer->status);
    flush_out(transfer);
}

static const char *end_reason(const struct transfer *transfer)
{
    switch (transfer->end) {
    case TRANSFER_CLIENT_GONE:
        return "client_gone";
    case TRANSFER_TIMEOUT:
        return "upstream_timeout";
    case TRANSFER_ENDED:
        return streams_ended_by(&transfer->stream) != NULL ? streams_ended_by(&transfer->stream) : "ended";
    case TRANSFER_RUNS:
    case TRANSFER_DONE:
    case TRANSFER_UPSTREAM:
        break;
    }
    return "upstream_failed";
}

/* The client has part of an answer: it ends without its last chunk, so that nobody takes it for whole. */
static void break_answer(struct transfer *transfer)
{
    const char *reason = end_reason(transfer);
    bool is_revoked = strcmp(reason, "change") == 0 || strcmp(reason, "expiry") == 0;

    complete(transfer, transfer->status, is_revoked ? "refused" : "failed", reason);
    answer_note(transfer->exchange, transfer->status);
    exchange_abort(transfer->exchange);
}

static void finish(struct transfer *transfer)
{
    const char *reason = end_reason(transfer);

    if (transfer->end == TRANSFER_DONE) {
        finish_well(transfer);
    } else if (transfer->has_sent || transfer->exchange->is_broken) {
        break_answer(transfer);
    } else if (transfer->end == TRANSFER_CLIENT_GONE) {
        transfer->exchange->must_close = true;
        refuse_after_decision(transfer, ERR_MALFORMED, 400,
                              "the body came incomplete, too large, badly framed or too slowly", reason);
    } else if (transfer->end == TRANSFER_TIMEOUT) {
        refuse_after_decision(transfer, ERR_UPSTREAM_TIMEOUT, 0, NULL, reason);
    } else if (transfer->end == TRANSFER_ENDED) {
        enum err err = judge_again(transfer);

        refuse_after_decision(transfer, err != ERR_OK ? err : ERR_UNAVAILABLE, 0, NULL, reason);
    } else {
        refuse_after_decision(transfer, ERR_UPSTREAM, 0, transfer->fault, reason);
    }
}

/* ---- from the request on ---- */

static void pass(struct transfer *transfer, const char *rest)
{
    struct proxy_client *client = transfer->client;
    struct epoll_event gone = { .events = EPOLLRDHUP, .data.fd = transfer->client_fd };

    transfer->out = writer_on(client->out, sizeof client->out);
    transfer->fields = writer_on(client->fields, sizeof client->fields);
    if (transfer->client_fd >= 0)
        epoll_ctl(client->epoll_fd, EPOLL_CTL_ADD, transfer->client_fd, &gone);
    if (prepare(transfer, rest) && curl_multi_add_handle(client->multi, client->easy) == CURLM_OK) {
        run(transfer);
        curl_multi_remove_handle(client->multi, client->easy);    /* an unfinished one is closed, not kept */
    } else {
        transfer->end = TRANSFER_UPSTREAM;
        transfer->fault = "the request cannot be put to the upstream";
    }
    if (transfer->client_fd >= 0)
        epoll_ctl(client->epoll_fd, EPOLL_CTL_DEL, transfer->client_fd, NULL);
    curl_slist_free_all(transfer->request_fields);
    transfer->request_fields = NULL;
}

/* Small bodies are read at once, larger ones stream; false: refused and answered. */
static bool take_body(struct transfer *transfer)
{
    struct exchange *exchange = transfer->exchange;
    struct large *large;
    enum err err = ERR_OK;

    if (!exchange->head->has_body || transfer->body != NULL)
        return true;
    large = exchange_large(exchange);
    if (large != NULL && !exchange->head->is_chunked && exchange->head->content_length <= sizeof large->request) {
        err = exchange_read_body(exchange, large->request, sizeof large->request, &transfer->body_size);
        transfer->body = large->request;
    } else {
        err = exchange_begin_upload(exchange);
        transfer->is_upload = err == ERR_OK;
    }
    if (err == ERR_OK)
        return true;
    refuse_after_decision(transfer, err, 0,
                          err == ERR_MALFORMED ? "the body came incomplete, badly framed or too slowly" : NULL, "body");
    return false;
}

/*
 * Opens the stream.  One that a change has ended since the verdict was asked is judged again: the change may be the
 * key's own making.  Any error is the answer's.
 */
static enum err open_stream(struct transfer *transfer)
{
    struct streams *streams = transfer->exchange->edge->streams;
    uint64_t waste;
    enum err err;

    for (unsigned attempt = 0; attempt < OPEN_ATTEMPTS; attempt++) {
        while (read(transfer->client->wake_fd, &waste, sizeof waste) > 0)
            ;
        transfer->stream.wake_fd = transfer->client->wake_fd;
        err = streams_open(streams, &transfer->stream, &transfer->call->verdict, transfer->server.slug);
        if (err != ERR_OK || streams_ended_by(&transfer->stream) == NULL)
            return err;
        streams_close(streams, &transfer->stream);
        transfer->stream = (struct stream){ .opened_at = streams_applied(streams) };
        err = judge_again(transfer);
        if (err != ERR_OK)
            return err;
    }
    return ERR_UNAVAILABLE;
}

static void exchange_with_upstream(struct transfer *transfer, const char *rest)
{
    struct streams *streams = transfer->exchange->edge->streams;
    enum err err = open_stream(transfer);

    if (err != ERR_OK) {
        if (err == ERR_OVERLOADED)
            metric_add(METRIC_refused_overload, 1);
        refuse_after_decision(transfer, err, 0, NULL, "streams");
        return;
    }
    if (take_body(transfer)) {
        pass(transfer, rest);
        finish(transfer);
    }
    if (transfer->is_upload)
        exchange_end_upload(transfer->exchange);
    streams_close(streams, &transfer->stream);
}

/* Refusals that need no credential; true: answered. */
static bool refuse_at_the_door(struct exchange *exchange, const struct route_match *match)
{
    const struct edge_config *config = exchange->edge->config;
    const struct http_field *origin = http_head_find(exchange->head, HTTP_ORIGIN);
    struct refusal refusal = { .err = ERR_OK };
    const char *reason = "origin";

    if (origin != NULL && (exchange->head->seen[HTTP_ORIGIN] > 1
                           || !proxy_origin_is_allowed(config->allowed_origins, config->common.public_url, origin->value))) {
        refusal = (struct refusal){ .err = ERR_DENIED, .detail = "this web origin may not call the gateway" };
    } else if (match->object_length > 64) {
        refusal = (struct refusal){ .err = ERR_NOT_FOUND };
        reason = "not_found";
    } else if (exchange->head->content_length > config->body_limit) {
        refusal = (struct refusal){ .err = ERR_TOO_LARGE };
        reason = "body";
    }
    if (refusal.err == ERR_OK)
        return false;
    if (refusal.err == ERR_DENIED)
        exchange->space->head.seen[HTTP_ORIGIN] = 0;    /* no CORS fields for it either */
    answer_refuse_early(exchange, &refusal, reason);
    return true;
}

/*
 * The key reaches some tools only: the message is read before it is judged, which no other key waits for.
 * false: refused and answered.
 */
static bool learn_tool(struct transfer *transfer)
{
    struct exchange *exchange = transfer->exchange;
    struct call *call = transfer->call;
    struct large *large = exchange_large(exchange);
    struct refusal refusal = { .err = ERR_NO_MEMORY };

    if (large != NULL && exchange->head->seen[HTTP_CONTENT_ENCODING] > 0)
        refusal = (struct refusal){ .err = ERR_MALFORMED, .status = 415, .detail = "a key for some tools sends no encoded body" };
    else if (large != NULL)
        refusal.err = exchange_read_body(exchange, large->request, sizeof large->request, &transfer->body_size);
    if (refusal.err == ERR_OK)
        refusal.err = tool_find(large->request, transfer->body_size, call->verdict_request.tool);
    if (refusal.err != ERR_OK) {
        if (refusal.err == ERR_MALFORMED && refusal.detail == NULL)
            refusal.detail = "a key for some tools sends one JSON-RPC message, with each member once";
        answer_refuse_early(exchange, &refusal, "tool");
        return false;
    }
    transfer->body = large->request;
    call->verdict_request.tool_use = call->verdict_request.tool[0] != '\0' ? TOOL_UNKNOWN : TOOL_NONE;
    text_copy(call->event.tool, sizeof call->event.tool, call->verdict_request.tool);
    memset(&call->own, 0, sizeof call->own);
    call->steps |= CALL_RECORD;
    call->deadline_us = clock_monotonic_us() + exchange->edge->config->decision_ms * 1000;
    return true;
}

static bool pass_gate(struct transfer *transfer)
{
    struct call *call = transfer->call;

    if (gate_pass(transfer->exchange, call, false))
        return true;
    return call->err == ERR_TOOL_WANTED && learn_tool(transfer) && gate_pass(transfer->exchange, call, false);
}

/* The trail tells of every request whose token may travel. */
static void note_own_token(struct transfer *transfer, enum err found)
{
    struct credential credential;
    const char *reason;

    if (found != ERR_OK || !transfer->server.own_auth
        || credentials_find(transfer->exchange->head, "", &credential, &reason) != ERR_OK || credential.method != AUTH_OAUTH)
        return;
    transfer->passes_token = own_auth_is_for(credential.text, credential.length, transfer->server.resource);
    if (transfer->passes_token)
        details_add(&transfer->call->event, "\"upstreamAuth\":\"own\"");
}

void proxy_answer(struct exchange *exchange, const struct route_match *match)
{
    struct transfer transfer = { .exchange = exchange, .client_fd = -1 };
    char slug[65];
    enum err found;

    if (refuse_at_the_door(exchange, match))
        return;
    memcpy(slug, match->object, match->object_length);
    slug[match->object_length] = '\0';
    transfer.stream.opened_at = streams_applied(exchange->edge->streams);
    found = servers_find(exchange->edge->servers, slug, &transfer.server);
    transfer.call = gate_prepare_for(exchange, match->route->scope, false, found == ERR_OK ? &transfer.server : NULL, found != ERR_OK);
    if (transfer.call == NULL)
        return;
    note_own_token(&transfer, found);
    text_copy(transfer.call->verdict_request.server, sizeof transfer.call->verdict_request.server, slug);
    text_copy(transfer.call->event.server, sizeof transfer.call->event.server, slug);
    transfer.call->status_if_ok = found == ERR_OK ? 0 : (uint64_t)err_http_status(found);
    if (found == ERR_OK)
        text_copy(transfer.call->event.event, sizeof transfer.call->event.event, "decision");
    transfer.call->verdict_request.tool_use = exchange->head->has_body ? TOOL_LATER : TOOL_NONE;
    if (!pass_gate(&transfer))
        return;
    transfer.client = client_of(exchange);
    transfer.client_fd = exchange_fd(exchange);
    if (found != ERR_OK)
        answer_refuse(exchange, &(struct refusal){ .err = found });
    else if (transfer.server.tenant_id[0] != '\0' && transfer.call->observed != ERR_UNVERIFIED
             && strcmp(transfer.server.tenant_id, transfer.call->verdict.tenant_id) != 0)
        refuse_after_decision(&transfer, ERR_NOT_FOUND, 0, NULL, "tenant");
    else if (transfer.client == NULL)
        refuse_after_decision(&transfer, ERR_NO_MEMORY, 0, NULL, "memory");
    else
        exchange_with_upstream(&transfer, match->rest);
}

void proxy_answer_preflight(struct exchange *exchange)
{
    const struct http_field *origin = http_head_find(exchange->head, HTTP_ORIGIN);
    const struct http_field *asked = http_head_find(exchange->head, HTTP_CORS_HEADERS);
    const struct edge_config *config = exchange->edge->config;
    struct answer answer;

    if (origin == NULL || !proxy_origin_is_allowed(config->allowed_origins, config->common.public_url, origin->value)) {
        exchange->space->head.seen[HTTP_ORIGIN] = 0;
        answer_refuse_early(
            exchange, &(struct refusal){ .err = ERR_DENIED, .detail = "this web origin may not call the gateway" },
            "origin");
        return;
    }
    dispatch_count_refusal(exchange->edge->dispatch, exchange->address, "preflight", 204);
    answer = answer_begin(exchange, 204);
    answer_field(&answer, "Access-Control-Allow-Methods", "POST, GET, DELETE, HEAD");
    answer_field(&answer, "Access-Control-Allow-Headers",
                 "Authorization, x-api-key, Content-Type, Accept, MCP-Protocol-Version, Mcp-Session-Id, Last-Event-ID, "
                 "Mcp-Method, Mcp-Name");
    for (const char *name = asked != NULL ? asked->value : ""; *name != '\0'; name += strcspn(name, ", ")) {
        name += strspn(name, ", ");
        if (strncasecmp(name, "mcp-param-", 10) == 0 && strcspn(name, ", ") < 128
            && answer.head.size < EXCHANGE_REPLY_SIZE / 2) {
            writer_literal(&answer.head, "Access-Control-Allow-Headers: ");
            writer_bytes(&answer.head, name, strcspn(name, ", "));
            writer_literal(&answer.head, "\r\n");
        }
    }
    answer_field(&answer, "Access-Control-Max-Age", "600");
    answer_send(&answer, NULL, "", 0);
}
