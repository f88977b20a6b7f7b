/*
 * exchange.h - one HTTP request and the way back to its client, as handlers see them.  edge_http.c implements it;
 * nothing of civetweb shows through.  An exchange lives on one thread and is over when edge_answer() returns, unless it
 * was deferred: then a copy of it is answered by the dispatcher's thread.  That thread is the connection's own, or for
 * requests that edge_can_hold() the holding thread (held.h).
 */
#ifndef EDGE_EXCHANGE_H
#define EDGE_EXCHANGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "services/edge/dispatch.h"
#include "services/edge/edge.h"
#include "services/edge/http_path.h"
#include "services/edge/http_strict.h"
#include "services/edge/peers.h"

#define EXCHANGE_REQUEST_ID_MAX 64u
#define EXCHANGE_TOKEN_MAX      16384u    /* as verdict_request.token */
#define EXCHANGE_REPLY_SIZE     8192u     /* head and a small body */
#define EXCHANGE_BODY_SIZE      4096u     /* a small body while it is written */
#define EXCHANGE_DISCARD_MAX    65536u    /* of an unread request body, to keep its connection */

/* Large buffers of one thread, mapped when it first needs them. */
struct large {
    uint8_t request[60000];      /* manage_request.body */
    uint8_t reply[65536];        /* manage_reply */
};

/* What a thread keeps from request to request; mapped at its first one. */
struct workspace {
    struct http_head head;
    char path[HTTP_PATH_MAX + 1];
    char request_id[EXCHANGE_REQUEST_ID_MAX + 1];
    char peer[PEERS_ADDRESS_SIZE], address[PEERS_ADDRESS_SIZE];
    struct call call;
    char resource[257];                   /* as server_entry.resource */
    uint8_t token[EXCHANGE_TOKEN_MAX];    /* of a deferred exchange: its request is gone when authz wants to see it */
    char body[EXCHANGE_BODY_SIZE];
    char reply[EXCHANGE_REPLY_SIZE];
    struct large *large;
    struct proxy_client *proxy;  /* made by the first proxied request */
};

struct mg_connection;
struct exchange_thread;

struct exchange;
typedef void exchange_answer_fn(struct exchange *exchange);

struct exchange {
    struct edge *edge;
    struct mg_connection *connection;
    struct exchange_thread *thread;
    struct workspace *space;
    const struct http_head *head;
    const char *method, *path, *query;    /* path normalised; query "" when there is none */
    const char *resource;                 /* URL of the application that another proxy asks for; NULL: it is `path` */
    const char *peer, *address;           /* of the connection; of the client behind trusted proxies */
    bool peer_is_trusted;
    const char *request_id;
    uint64_t started_us;                  /* monotonic */
    uint64_t body_bytes;                  /* taken so far */
    bool is_mcp; /* refusals are JSON-RPC errors where a client expects them, with CORS fields */
    bool observes;                        /* refusals are let through here; every answer says so */
    int would_refuse;                     /* the status this request would have had otherwise; 0: none */
    bool is_public; /* any page may read the answer */
    bool body_is_done;                    /* read to its end */
    bool is_head;                         /* the answer goes without its body */
    bool must_close;
    bool stays;                           /* answering takes more than writing: never to be deferred */
    bool is_held;                         /* handled by the holding thread, which must not wait; civetweb is out of reach */
    bool is_deferred;                     /* answered by the dispatcher's thread; civetweb and the request's texts are out of reach */
    exchange_answer_fn *answer_call;      /* deferred: what to do when its call has come back */
    exchange_answer_fn *answer;           /* the gate's: for a call that was let through */
    bool for_nginx;                       /* the gate's: how a refusal is shown */
    bool is_broken;                       /* nothing more can be sent */
    int status;                           /* of the answer sent; 0: none yet */
};

/*
 * The whole body.  ERR_TOO_LARGE: more than capacity; ERR_MALFORMED: cut short, badly chunked, or too slow;
 * ERR_OVERLOADED: a quarter of the threads read bodies already.
 */
enum err exchange_read_body(struct exchange *exchange, uint8_t *buffer, size_t capacity, size_t *ret_size) MUST_CHECK;

/* One piece of the body; 0: its end.  exchange_begin_upload() comes first, exchange_end_upload() last. */
enum err exchange_begin_upload(struct exchange *exchange) MUST_CHECK;
enum err exchange_read_piece(struct exchange *exchange, uint8_t *buffer, size_t capacity, size_t *ret_size) MUST_CHECK;
void exchange_end_upload(struct exchange *exchange);
/* Is there anything to read without waiting?  Always true while that is not known. */
bool exchange_body_is_waiting(struct exchange *exchange);
/* From here on the client is waited for, and its deadline runs; reading does this by itself. */
void exchange_await_body(struct exchange *exchange);

/* All or nothing; a failure marks the exchange broken. */
void exchange_send(struct exchange *exchange, const void *bytes, size_t size);
/* As above, but ends early (broken) when wake_fd becomes readable or the client takes no byte for write_ms. */
void exchange_send_watched(struct exchange *exchange, const void *bytes, size_t size, int wake_fd);
/* Closes the connection in the midst of the answer. */
void exchange_abort(struct exchange *exchange);
/* The client's socket, for POLLRDHUP only; -1 when it cannot be found. */
int exchange_fd(struct exchange *exchange);
/* Must the answer close the connection?  Settles it: from now on it will. */
bool exchange_settle_close(struct exchange *exchange);
struct large *exchange_large(struct exchange *exchange);    /* NULL: no memory */

/*
 * Hands over space->call; `answer` is given by the dispatcher's thread, on a copy of the exchange, while this thread waits
 * for the connection's next request: one sleep per request in place of two.  The handler must return at once and touch
 * nothing more.  false: this exchange must be answered here (a body, the connection's last or first request, a client that
 * sends its next request before it has our answer).
 */
bool exchange_defer(struct exchange *exchange, exchange_answer_fn *answer);

#endif
