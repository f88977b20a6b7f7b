/*
 * bus.c - a worker's side of the bus: one DEALER per edge (audit: also one SUB), READY until WELCOME, pulses, batches.
 *
 * Owns the ZeroMQ context, the sockets and one outgoing frame per edge, written at the end of the loop's turn.
 * Whatever is sent at once (pulses, goodbye) first flushes that frame: a pulse with a new applied number must never
 * overtake a verdict that was decided before it.
 */
#include "common/bus.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <zmq.h>

#include "common/bus_resolve.h"
#include "common/cleanup.h"
#include "common/clock.h"
#include "common/curve.h"
#include "common/encode.h"
#include "common/log.h"
#include "common/metrics.h"
#include "common/service.h"

#define TICK_MS            100u
#define READY_INTERVAL_US  200000u
#define QUIET_US           300000u     /* three heartbeats missed: say READY again */
#define SILENCE_US         2000000u    /* nothing heard: close the socket and begin anew */
#define REJECT_WAIT_US     1000000u
#define VANISHED_US        2000000u    /* an address may be missing this long before it is disconnected */
#define PAUSE_US           500000u     /* our own pause: read everything before judging an edge */
#define OFFSET_WINDOW_US   30000000u   /* clocks of two hosts drift: the smallest offset is of the last two windows */
#define LEAVE_US           100000u     /* what an edge sent before it heard our goodbye arrives within */
#define TURN_FRAMES_MAX    64          /* read from one socket before the others get their turn */
#define CONTROL_SIZE       1024u
#define HIGH_WATER         4096        /* frames per direction; credits keep queues far below */
#define SLOTS_MIN          1024u
#define SLOTS_MAX          65536u
#define SLOT_NONE          UINT32_MAX
#define SLOT_GRACE_US      1000000u    /* past its deadline an unanswered request stops counting as outstanding */

struct edge {
    struct bus *bus;
    bool used;
    uint32_t generation;                /* of the connection: raised whenever what it held is gone */
    char base[BUS_BASE_SIZE];
    void *socket, *trail;               /* DEALER; SUB of audit */
    uint64_t seen_us, opened_us, heard_us;
    uint64_t next_ready_us;
    bool known;                         /* WELCOME came: epoch and version hold, replies can be sent */
    bool registered;                    /* our last READY was welcomed: it sends us requests */
    bool complained;                    /* its user or key may not be an edge: logged once */
    unsigned version;
    uint64_t epoch;
    uint64_t heartbeat_us;              /* sent_us of its last heartbeat */
    int64_t offset_now, offset_before;  /* smallest received - sent of two windows; INT64_MAX: none */
    uint64_t offset_since_us;
    bool is_pending;                    /* the writer holds messages */
    uint8_t *buffer;                    /* FRAME_SIZE_MAX */
    struct frame_writer writer;
};

struct slot {
    uint32_t generation;
    uint32_t next_free;
    uint32_t edge;
    bool used;
    uint64_t deadline_us;
};

struct bus {
    struct loop *loop;
    struct bus_options options;
    void *context;
    struct curve *curve;
    struct bus_resolver *resolver;
    uint8_t uuid[UUID_SIZE];
    bool ready, leaving;
    uint64_t leaving_since_us;
    uint64_t applied;
    int tick_timer;
    uint64_t ticked_us;
    uint64_t version_logged_us;
    void *message;                      /* decoded; as large as the largest struct */
    uint64_t outstanding;
    uint32_t slot_count, free_slot;
    struct slot *slots;
    struct edge edges[BUS_EDGES_MAX];
};

static const char *const role_suffix[SERVICE_COUNT] = {
    [SERVICE_AUTHZ] = ".authz", [SERVICE_RATELIMIT] = ".ratelimit",
    [SERVICE_KEYS] = ".keys", [SERVICE_AUDIT] = ".replay",
};
static const unsigned role_port[SERVICE_COUNT] = {
    [SERVICE_AUTHZ] = 0, [SERVICE_RATELIMIT] = 1, [SERVICE_KEYS] = 2, [SERVICE_AUDIT] = 4,
};
#define TRAIL_SUFFIX ".trail"
#define TRAIL_PORT   3u

static struct bus *take_bus(struct bus **from)
{
    struct bus *taken = *from;

    *from = NULL;
    return taken;
}

static uint32_t index_of(const struct edge *edge)
{
    return (uint32_t)(edge - edge->bus->edges);
}

/* ---- requests in work --------------------------------------------------------------------------- */

static enum err make_slots(struct bus *bus)
{
    uint64_t wanted = bus->options.credits * 8;

    bus->slot_count = wanted < SLOTS_MIN ? SLOTS_MIN : wanted > SLOTS_MAX ? SLOTS_MAX : (uint32_t)wanted;
    bus->slots = calloc(bus->slot_count, sizeof *bus->slots);
    if (bus->slots == NULL)
        return ERR_NO_MEMORY;
    for (uint32_t i = 0; i < bus->slot_count; i++)
        bus->slots[i].next_free = i + 1 < bus->slot_count ? i + 1 : SLOT_NONE;
    return ERR_OK;
}

/* With no slot left a request is served all the same, it only does not count. */
static void take_slot(struct bus *bus, struct bus_token *token)
{
    struct slot *slot;

    token->slot = bus->free_slot;
    if (token->slot == SLOT_NONE)
        return;
    slot = &bus->slots[token->slot];
    bus->free_slot = slot->next_free;
    slot->used = true;
    slot->edge = token->edge;
    slot->deadline_us = token->deadline_us;
    token->slot_generation = slot->generation;
    bus->outstanding++;
}

static void release_slot(struct bus *bus, uint32_t index)
{
    struct slot *slot = &bus->slots[index];

    slot->used = false;
    slot->generation++;
    slot->next_free = bus->free_slot;
    bus->free_slot = index;
    bus->outstanding--;
}

static void answered(struct bus *bus, const struct bus_token *token)
{
    if (token->slot < bus->slot_count && bus->slots[token->slot].used
        && bus->slots[token->slot].generation == token->slot_generation)
        release_slot(bus, token->slot);
}

/* Those of one edge, or (SLOT_NONE) those whose deadline is long past. */
static void release_slots(struct bus *bus, uint32_t edge, uint64_t now_us)
{
    for (uint32_t i = 0; bus->outstanding > 0 && i < bus->slot_count; i++) {
        const struct slot *slot = &bus->slots[i];
        bool late = slot->deadline_us != 0 && slot->deadline_us + SLOT_GRACE_US < now_us;

        if (slot->used && (edge == SLOT_NONE ? late : slot->edge == edge))
            release_slot(bus, i);
    }
}

/* ---- sending ------------------------------------------------------------------------------------ */

static bool send_bytes(struct edge *edge, const uint8_t *bytes, size_t size, uint32_t count)
{
    zmq_msg_t frame;

    if (edge->socket == NULL || zmq_msg_init_size(&frame, size) != 0)
        return false;
    memcpy(zmq_msg_data(&frame), bytes, size);
    if (zmq_msg_send(&frame, edge->socket, ZMQ_DONTWAIT) < 0) {
        zmq_msg_close(&frame);
        return false;
    }
    metric_add(METRIC_bus_frames_out, 1);
    metric_add(METRIC_bus_sent, count);
    return true;
}

static void flush_edge(struct edge *edge)
{
    if (!edge->is_pending)
        return;
    edge->is_pending = false;
    if (!send_bytes(edge, edge->buffer, frame_end(&edge->writer), edge->writer.header.count))
        metric_add(METRIC_bus_undelivered, edge->writer.header.count);
}

static void flush_all(void *owner)
{
    struct bus *bus = owner;

    for (size_t i = 0; i < BUS_EDGES_MAX; i++)
        flush_edge(&bus->edges[i]);
}

static enum err try_add(struct edge *edge, const struct message_type *type, const struct bus_token *token,
                        const void *message)
{
    if (edge->is_pending && edge->writer.header.batch != token->batch)
        flush_edge(edge);    /* a frame is of one batch */
    if (!edge->is_pending)
        frame_begin(&edge->writer, edge->buffer, FRAME_SIZE_MAX, edge->version, edge->epoch, token->batch);
    return frame_add(&edge->writer, type, token->attempt, token->request_id, 0, message);
}

static void add_message(struct edge *edge, uint16_t code, const struct bus_token *token, const void *message)
{
    const struct message_type *type = message_type_of(code);
    enum err err = ERR_BUG;

    if (type != NULL && message_is_allowed(type, edge->bus->options.role, SERVICE_EDGE)) {
        err = try_add(edge, type, token, message);
        if (err == ERR_TOO_LARGE && edge->is_pending) {
            flush_edge(edge);
            err = try_add(edge, type, token, message);
        }
    }
    if (err == ERR_OK) {
        edge->is_pending = true;
        return;
    }
    metric_add(METRIC_bus_undelivered, 1);
    log_error("bus_message_unsendable", log_text("message", type != NULL ? type->name : "unknown"),
              log_text("error", err_name(err)));
}

/* Control messages go alone and at once, in the oldest version, because they say which version is spoken. */
static bool send_control(struct edge *edge, uint16_t code, const void *message)
{
    uint8_t bytes[CONTROL_SIZE];
    struct frame_writer writer;

    flush_edge(edge);
    frame_begin(&writer, bytes, sizeof bytes, MESSAGES_VERSION_OLDEST, edge->epoch, 0);
    if (frame_add(&writer, message_type_of(code), 0, 0, 0, message) != ERR_OK)
        return false;
    return send_bytes(edge, bytes, frame_end(&writer), 1);
}

static void send_ready(struct edge *edge, uint64_t now_us)
{
    const struct bus *bus = edge->bus;
    struct ready ready = { .role = bus->options.role, .version = MESSAGES_VERSION, .worker_size = UUID_SIZE,
                           .credits = bus->options.credits, .applied = bus->applied, .pid = (uint64_t)getpid(),
                           .build = MCPGW_VERSION };

    memcpy(ready.worker, bus->uuid, UUID_SIZE);
    if (send_control(edge, MESSAGE_ready, &ready))
        edge->next_ready_us = now_us + READY_INTERVAL_US;
}

static void send_pulse(struct edge *edge)
{
    const struct pulse pulse = { .echo_us = edge->heartbeat_us, .applied = edge->bus->applied };

    (void)send_control(edge, MESSAGE_pulse, &pulse);
}

static void count_edges(const struct bus *bus)
{
    metric_set(METRIC_bus_edges, bus_edge_count(bus));
}

static void leave_edges(struct bus *bus, const char *reason)
{
    struct goodbye goodbye = { 0 };

    snprintf(goodbye.reason, sizeof goodbye.reason, "%s", reason);
    for (size_t i = 0; i < BUS_EDGES_MAX; i++) {
        struct edge *edge = &bus->edges[i];

        if (edge->used && edge->registered)
            (void)send_control(edge, MESSAGE_goodbye, &goodbye);
        edge->registered = false;
    }
    count_edges(bus);
}

/* ---- an edge comes and goes --------------------------------------------------------------------- */

/* Whatever it asked is void: tokens of the old generation answer nobody. */
static void lose_edge(struct edge *edge)
{
    struct bus *bus = edge->bus;
    bool was_known = edge->known;

    edge->known = false;
    edge->registered = false;
    edge->is_pending = false;
    edge->generation++;
    edge->epoch = 0;
    edge->offset_now = edge->offset_before = INT64_MAX;
    release_slots(bus, index_of(edge), 0);
    count_edges(bus);
    if (!was_known)
        return;
    log_info("bus_edge_lost", log_text("edge", edge->base));
    if (bus->options.on_edge != NULL)
        bus->options.on_edge(bus->options.owner, index_of(edge), false);
}

static void close_socket(struct edge *edge, void **socket)
{
    if (*socket == NULL)
        return;
    loop_forget_socket(edge->bus->loop, *socket);
    zmq_close(*socket);
    *socket = NULL;
}

static void close_edge(struct edge *edge)
{
    lose_edge(edge);
    close_socket(edge, &edge->socket);
    close_socket(edge, &edge->trail);
}

static bool set_int(void *socket, int option, int value)
{
    return zmq_setsockopt(socket, option, &value, sizeof value) == 0;
}

static bool set_options(const struct bus *bus, void *socket)
{
    int64_t largest = bus->options.role == SERVICE_AUDIT ? FRAME_TRAIL_MAX : FRAME_SIZE_MAX;

    return set_int(socket, ZMQ_LINGER, 0) && set_int(socket, ZMQ_IMMEDIATE, 1) && set_int(socket, ZMQ_IPV6, 1)
        && set_int(socket, ZMQ_SNDHWM, HIGH_WATER) && set_int(socket, ZMQ_RCVHWM, HIGH_WATER)
        && set_int(socket, ZMQ_HANDSHAKE_IVL, 2000) && set_int(socket, ZMQ_RECONNECT_IVL, 50)
        && set_int(socket, ZMQ_RECONNECT_IVL_MAX, 1000) && set_int(socket, ZMQ_TCP_KEEPALIVE, 1)
        && set_int(socket, ZMQ_TCP_MAXRT, 2000)
        && zmq_setsockopt(socket, ZMQ_MAXMSGSIZE, &largest, sizeof largest) == 0;
}

static bool make_endpoint(const struct edge *edge, const char *suffix, unsigned port, char *endpoint, size_t size)
{
    const char *colon = strrchr(edge->base, ':');
    int length;

    if (strncmp(edge->base, "ipc://", 6) == 0)
        length = snprintf(endpoint, size, "%s%s", edge->base, suffix);
    else
        length = snprintf(endpoint, size, "%.*s:%lu", (int)(colon - edge->base), edge->base,
                          strtoul(colon + 1, NULL, 10) + port);
    return length > 0 && (size_t)length < size;
}

static void *open_socket(struct edge *edge, int type, const char *suffix, unsigned port, loop_socket_fn *fn)
{
    struct bus *bus = edge->bus;
    char endpoint[BUS_BASE_SIZE + 16];
    bool is_tcp = strncmp(edge->base, "tcp://", 6) == 0;
    void *socket = zmq_socket(bus->context, type);

    if (socket == NULL)
        return NULL;
    if (make_endpoint(edge, suffix, port, endpoint, sizeof endpoint) && set_options(bus, socket)
        && (type != ZMQ_SUB || zmq_setsockopt(socket, ZMQ_SUBSCRIBE, "", 0) == 0)
        && (!is_tcp || curve_join(bus->curve, socket) == ERR_OK)
        && zmq_connect(socket, endpoint) == 0
        && loop_watch_socket(bus->loop, socket, fn, edge) == ERR_OK)
        return socket;
    log_warn("bus_connect_failed", log_text("endpoint", endpoint), log_text("why", zmq_strerror(zmq_errno())));
    zmq_close(socket);
    return NULL;
}

static void on_socket(void *owner, void *socket);
static void on_trail(void *owner, void *socket);

static void open_edge(struct edge *edge, uint64_t now_us)
{
    const struct bus *bus = edge->bus;
    enum service role = bus->options.role;

    edge->opened_us = edge->heard_us = now_us;
    edge->next_ready_us = now_us;
    edge->socket = open_socket(edge, ZMQ_DEALER, role_suffix[role], role_port[role], on_socket);
    if (role == SERVICE_AUDIT)
        edge->trail = open_socket(edge, ZMQ_SUB, TRAIL_SUFFIX, TRAIL_PORT, on_trail);
}

static struct edge *find_edge(struct bus *bus, const char *base)
{
    struct edge *free_edge = NULL;

    for (size_t i = 0; i < BUS_EDGES_MAX; i++) {
        struct edge *edge = &bus->edges[i];

        if (edge->used && strcmp(edge->base, base) == 0)
            return edge;
        if (!edge->used && free_edge == NULL)
            free_edge = edge;
    }
    return free_edge;
}

static void on_found(void *owner, const char *base)
{
    struct bus *bus = owner;
    struct edge *edge = find_edge(bus, base);
    uint64_t now_us = clock_monotonic_us();

    if (edge == NULL)
        return;    /* BUS_EDGES_MAX are connected */
    edge->seen_us = now_us;
    if (edge->used)
        return;
    if (edge->buffer == NULL)
        edge->buffer = malloc(FRAME_SIZE_MAX);
    if (edge->buffer == NULL)
        return;
    edge->used = true;
    edge->complained = false;
    snprintf(edge->base, sizeof edge->base, "%s", base);
    open_edge(edge, now_us);
}

/* ---- receiving ---------------------------------------------------------------------------------- */

static void sample_offset(struct edge *edge, uint64_t sent_us, uint64_t now_us)
{
    int64_t offset = (int64_t)(now_us - sent_us);

    if (now_us - edge->offset_since_us > OFFSET_WINDOW_US) {
        edge->offset_before = edge->offset_now;
        edge->offset_now = INT64_MAX;
        edge->offset_since_us = now_us;
    }
    if (offset < edge->offset_now)
        edge->offset_now = offset;
}

/* The edge's clock to ours; 0 stays 0. */
static uint64_t convert_deadline(const struct edge *edge, uint64_t deadline_us)
{
    int64_t offset = edge->offset_now < edge->offset_before ? edge->offset_now : edge->offset_before;

    if (deadline_us == 0 || offset == INT64_MAX)
        return deadline_us;
    return deadline_us + (uint64_t)offset;
}

static void on_welcome(struct edge *edge, const struct welcome *welcome, uint64_t now_us)
{
    struct bus *bus = edge->bus;
    bool is_news = !edge->known || edge->epoch != welcome->epoch;

    if (welcome->version < MESSAGES_VERSION_OLDEST || welcome->version > MESSAGES_VERSION) {
        metric_add(METRIC_bus_version, 1);
        return;
    }
    if (edge->known && is_news)
        lose_edge(edge);    /* another process answers at this address now */
    if (!bus->ready) {      /* not known either: its next WELCOME is to be told by on_edge */
        (void)send_control(edge, MESSAGE_goodbye, &(struct goodbye){ .reason = "not ready" });
        return;
    }
    edge->known = true;
    edge->epoch = welcome->epoch;
    edge->version = (unsigned)welcome->version;
    sample_offset(edge, welcome->sent_us, now_us);
    edge->registered = true;
    count_edges(bus);
    if (!is_news)
        return;
    log_info("bus_welcomed", log_text("edge", edge->base), log_text("name", welcome->name),
             log_number("version", edge->version));
    if (bus->options.on_edge != NULL)
        bus->options.on_edge(bus->options.owner, index_of(edge), true);
}

static void on_reject(struct edge *edge, const struct reject *reject, uint64_t now_us)
{
    bool is_stranger = strcmp(reject->reason, "say ready") == 0;    /* it has forgotten us; our READY cures it */

    if (!is_stranger)
        log_warn("bus_rejected", log_text("edge", edge->base), log_text("reason", reject->reason));
    lose_edge(edge);
    edge->next_ready_us = is_stranger ? now_us : now_us + REJECT_WAIT_US;
    if (is_stranger && edge->bus->ready)
        send_ready(edge, now_us);
}

static bool handle_control(struct edge *edge, uint16_t code, const void *message, uint64_t now_us)
{
    switch (code) {
    case MESSAGE_welcome:
        on_welcome(edge, message, now_us);
        return true;
    case MESSAGE_reject:
        on_reject(edge, message, now_us);
        return true;
    case MESSAGE_heartbeat:
        edge->heartbeat_us = ((const struct heartbeat *)message)->sent_us;
        sample_offset(edge, edge->heartbeat_us, now_us);
        if (edge->known)
            send_pulse(edge);
        return true;
    default:
        return false;
    }
}

static const struct bus_handler *find_handler(const struct bus *bus, uint16_t code)
{
    const struct bus_handler *handler = bus->options.handlers;

    while (handler != NULL && handler->fn != NULL && handler->code != code)
        handler++;
    return handler != NULL && handler->fn != NULL ? handler : NULL;
}

/* One item of a frame that belongs to the current connection; true when a handler got it. */
static bool deliver(struct edge *edge, const struct frame_header *header, const struct frame_item *item)
{
    struct bus *bus = edge->bus;
    const struct bus_handler *handler = find_handler(bus, item->type->code);
    struct bus_token token = { .edge = index_of(edge), .generation = edge->generation, .epoch = header->epoch,
                               .batch = header->batch, .request_id = item->request_id,
                               .deadline_us = convert_deadline(edge, item->deadline_us), .attempt = item->attempt,
                               .slot = SLOT_NONE };

    if (handler == NULL) {
        metric_add(METRIC_bus_unexpected, 1);
        return false;
    }
    if (item->request_id != 0)
        take_slot(bus, &token);
    handler->fn(bus->options.owner, &token, bus->message);
    return true;
}

static bool is_expired(const struct edge *edge, const struct frame_item *item, uint64_t now_us)
{
    return item->deadline_us != 0 && convert_deadline(edge, item->deadline_us) < now_us;
}

/* Before anything is delivered: may an edge send all of this to us, and is any of it still worth doing? */
static enum err judge_frame(const struct edge *edge, struct frame_reader reader, uint64_t now_us)
{
    struct frame_item item;
    uint32_t expired = 0;

    while (frame_next(&reader, &item)) {
        if (!message_is_allowed(item.type, SERVICE_EDGE, edge->bus->options.role))
            return ERR_DENIED;
        expired += is_expired(edge, &item, now_us) ? 1u : 0u;
    }
    return expired == reader.header.count ? ERR_UNAVAILABLE : ERR_OK;
}

static void take_frame(struct edge *edge, struct frame_reader *reader, bool is_trail, uint64_t now_us)
{
    struct bus *bus = edge->bus;
    bool keeps_whole = bus->options.on_batch_end != NULL;
    uint64_t epoch = reader->header.epoch, batch = reader->header.batch;
    struct frame_item item;
    bool delivered = false;

    while (frame_next(reader, &item)) {
        const char *field;
        enum err err;

        if (!keeps_whole && is_expired(edge, &item, now_us)) {
            metric_add(METRIC_bus_expired, 1);
            continue;
        }
        err = message_decode(item.type, reader->header.version, item.body, item.body_size, bus->message, &field);
        if (err != ERR_OK) {
            metric_add(METRIC_bus_malformed, 1);
            continue;
        }
        metric_add(METRIC_bus_received, 1);
        if (!is_trail && handle_control(edge, item.type->code, bus->message, now_us))
            continue;
        if (!is_trail && (!edge->known || epoch != edge->epoch)) {
            metric_add(METRIC_bus_unexpected, 1);
            continue;
        }
        delivered |= deliver(edge, &reader->header, &item);
    }
    if (delivered && bus->options.on_batch_end != NULL)
        bus->options.on_batch_end(bus->options.owner, index_of(edge), epoch, batch);
}

static void refuse_version(struct bus *bus, const struct edge *edge, uint64_t now_us)
{
    metric_add(METRIC_bus_version, 1);
    if (bus->version_logged_us != 0 && now_us - bus->version_logged_us < 10000000u)
        return;
    bus->version_logged_us = now_us;
    log_error("bus_version_refused", log_text("edge", edge->base), log_number("we_speak", MESSAGES_VERSION));
}

static void take_message(struct edge *edge, zmq_msg_t *frame, bool is_trail)
{
    struct bus *bus = edge->bus;
    uint64_t now_us = clock_monotonic_us();
    struct frame_reader reader;
    bool version_only;
    enum err err;

    if ((curve_roles_of(bus->curve, bus->options.config, frame) & 1u << SERVICE_EDGE) == 0) {
        metric_add(METRIC_bus_authority, 1);
        if (!edge->complained)
            log_error("bus_peer_refused", log_text("edge", edge->base));
        edge->complained = true;
        return;
    }
    if (frame_open(&reader, zmq_msg_data(frame), zmq_msg_size(frame), &version_only) != ERR_OK) {
        if (version_only)
            refuse_version(bus, edge, now_us);
        else
            metric_add(METRIC_bus_malformed, 1);
        return;
    }
    metric_add(METRIC_bus_frames_in, 1);
    if (!is_trail)
        edge->heard_us = now_us;
    err = judge_frame(edge, reader, now_us);
    if (err == ERR_DENIED)
        metric_add(METRIC_bus_authority, 1);
    else if (err != ERR_OK)
        metric_add(METRIC_bus_expired, reader.header.count);
    else
        take_frame(edge, &reader, is_trail, now_us);
}

/* Reads what is there, within limits; a message of several parts is not ours and is dropped whole. */
static void drain(struct edge *edge, void *socket, bool is_trail)
{
    bool was_more = false;

    for (int i = 0; i < TURN_FRAMES_MAX; i++) {
        zmq_msg_t frame;
        bool more;

        zmq_msg_init(&frame);
        if (zmq_msg_recv(&frame, socket, ZMQ_DONTWAIT) < 0) {
            zmq_msg_close(&frame);
            return;
        }
        more = zmq_msg_more(&frame) != 0;
        if (more || was_more)
            metric_add(METRIC_bus_malformed, 1);
        else
            take_message(edge, &frame, is_trail);
        was_more = more;
        zmq_msg_close(&frame);
    }
}

static void on_socket(void *owner, void *socket)
{
    drain(owner, socket, false);
}

static void on_trail(void *owner, void *socket)
{
    drain(owner, socket, true);
}

/* ---- time --------------------------------------------------------------------------------------- */

static void tick_edge(struct edge *edge, uint64_t now_us)
{
    const struct bus *bus = edge->bus;
    bool is_quiet = now_us - edge->heard_us > QUIET_US;

    if (now_us - edge->seen_us > VANISHED_US) {
        close_edge(edge);
        edge->used = false;
        return;
    }
    if (edge->socket == NULL) {
        if (now_us - edge->opened_us > SILENCE_US)
            open_edge(edge, now_us);
        return;
    }
    if (!bus->ready)
        return;
    if (now_us - edge->heard_us > SILENCE_US) {
        close_edge(edge);
        open_edge(edge, now_us);
    }
    if ((!edge->registered || is_quiet) && now_us >= edge->next_ready_us)
        send_ready(edge, now_us);
}

/* After a pause of our own the edges' heartbeats wait in the sockets: they are read before anyone is judged. */
static bool was_paused(struct bus *bus, uint64_t now_us)
{
    uint64_t since_us = now_us - bus->ticked_us;

    bus->ticked_us = now_us;
    if (since_us < PAUSE_US)
        return false;
    for (size_t i = 0; i < BUS_EDGES_MAX; i++) {
        struct edge *edge = &bus->edges[i];

        edge->seen_us = now_us;
        if (edge->used && edge->socket != NULL)
            drain(edge, edge->socket, false);
    }
    return true;
}

static void on_tick(void *owner)
{
    struct bus *bus = owner;
    uint64_t now_us;

    bus_resolver_step(bus->resolver, clock_monotonic_us(), on_found, bus);
    now_us = clock_monotonic_us();    /* not before on_found() took its time: ages are unsigned */
    if (was_paused(bus, now_us))
        return;
    for (size_t i = 0; i < BUS_EDGES_MAX; i++)
        if (bus->edges[i].used)
            tick_edge(&bus->edges[i], now_us);
    release_slots(bus, SLOT_NONE, now_us);
}

/* ---- the interface ------------------------------------------------------------------------------ */

static enum err make_message_room(struct bus *bus)
{
    size_t count, largest = 0;
    const struct message_type *types = message_types(&count);

    for (size_t i = 0; i < count; i++)
        if (types[i].struct_size > largest)
            largest = types[i].struct_size;
    bus->message = calloc(1, largest);
    return bus->message != NULL ? ERR_OK : ERR_NO_MEMORY;
}

static enum err find_peers(struct bus *bus)
{
    const struct common_config *config = bus->options.config;
    char why[256] = "";
    enum err err = curve_new(bus->options.role, config, &bus->curve, why, sizeof why);

    if (err == ERR_OK)
        err = bus_resolver_new(bus->curve, config, role_suffix[bus->options.role], &bus->resolver, why, sizeof why);
    if (err != ERR_OK)
        log_error("bus_settings_refused", log_text("error", err_name(err)), log_text("why", why));
    return err;
}

enum err bus_new(struct loop *loop, const struct bus_options *options, struct bus **ret_bus)
{
    OWNED(bus_destroy) struct bus *bus = calloc(1, sizeof *bus);
    enum err err;

    if (bus == NULL)
        return ERR_NO_MEMORY;
    bus->loop = loop;
    bus->options = *options;
    if (options->role >= SERVICE_COUNT || role_suffix[options->role] == NULL || options->credits == 0)
        return ERR_BUG;
    random_bytes(bus->uuid, sizeof bus->uuid);
    for (size_t i = 0; i < BUS_EDGES_MAX; i++) {
        bus->edges[i].bus = bus;
        bus->edges[i].offset_now = bus->edges[i].offset_before = INT64_MAX;
    }
    err = find_peers(bus);
    if (err == ERR_OK)
        err = make_slots(bus);
    if (err == ERR_OK)
        err = make_message_room(bus);
    if (err != ERR_OK)
        return err;
    bus->context = zmq_ctx_new();
    if (bus->context == NULL)
        return ERR_NO_MEMORY;
    err = loop_add_hook(loop, flush_all, bus);
    if (err != ERR_OK)
        return err;
    bus->ticked_us = clock_monotonic_us();
    bus->tick_timer = loop_every(loop, TICK_MS, on_tick, bus);
    if (bus->tick_timer == 0)
        return ERR_OVERLOADED;
    bus_resolver_step(bus->resolver, bus->ticked_us, on_found, bus);
    *ret_bus = take_bus(&bus);
    return ERR_OK;
}

void bus_destroy(struct bus **bus)
{
    if (*bus == NULL)
        return;
    loop_cancel((*bus)->loop, (*bus)->tick_timer);
    loop_remove_hook((*bus)->loop, flush_all, *bus);
    (*bus)->options.on_edge = NULL;    /* its owner is on its way out */
    for (size_t i = 0; (*bus)->slots != NULL && i < BUS_EDGES_MAX; i++) {
        struct edge *edge = &(*bus)->edges[i];

        flush_edge(edge);
        if (edge->socket != NULL && edge->known)
            (void)set_int(edge->socket, ZMQ_LINGER, 1000);    /* the last replies */
        close_edge(edge);
        free(edge->buffer);
    }
    if ((*bus)->context != NULL)
        zmq_ctx_term((*bus)->context);
    bus_resolver_destroy(&(*bus)->resolver);
    curve_destroy(&(*bus)->curve);
    free((*bus)->slots);
    free((*bus)->message);
    free(*bus);
    *bus = NULL;
}

void bus_set_ready(struct bus *bus, bool ready)
{
    uint64_t now_us = clock_monotonic_us();

    if (bus->leaving || bus->ready == ready)
        return;
    bus->ready = ready;
    if (!ready) {
        leave_edges(bus, "not ready");
        return;
    }
    for (size_t i = 0; i < BUS_EDGES_MAX; i++) {
        struct edge *edge = &bus->edges[i];

        edge->heard_us = now_us;    /* nobody speaks to a worker that was not ready */
        if (edge->used && edge->socket != NULL)
            send_ready(edge, now_us);
    }
}

void bus_set_applied(struct bus *bus, uint64_t applied)
{
    if (bus->applied == applied)
        return;
    bus->applied = applied;
    metric_set(METRIC_change_applied, applied);
    for (size_t i = 0; i < BUS_EDGES_MAX; i++)
        if (bus->edges[i].used && bus->edges[i].registered)
            send_pulse(&bus->edges[i]);
}

uint64_t bus_edge_count(const struct bus *bus)
{
    uint64_t count = 0;

    for (size_t i = 0; i < BUS_EDGES_MAX; i++)
        count += bus->edges[i].used && bus->edges[i].registered ? 1u : 0u;
    return count;
}

const char *bus_edge_address(const struct bus *bus, uint32_t edge)
{
    return edge < BUS_EDGES_MAX && bus->edges[edge].used ? bus->edges[edge].base : "";
}

const uint8_t *bus_uuid(const struct bus *bus)
{
    return bus->uuid;
}

void bus_reply(struct bus *bus, const struct bus_token *token, uint16_t code, const void *message)
{
    struct edge *edge = token->edge < BUS_EDGES_MAX ? &bus->edges[token->edge] : NULL;

    answered(bus, token);
    if (edge == NULL || !edge->known || edge->generation != token->generation || edge->epoch != token->epoch) {
        metric_add(METRIC_bus_undelivered, 1);
        return;
    }
    add_message(edge, code, token, message);
}

void bus_send(struct bus *bus, uint32_t edge, uint16_t code, uint64_t request_id, const void *message)
{
    const struct bus_token token = { .edge = edge, .request_id = request_id, .slot = SLOT_NONE };

    if (edge >= BUS_EDGES_MAX || !bus->edges[edge].known) {
        metric_add(METRIC_bus_undelivered, 1);
        return;
    }
    add_message(&bus->edges[edge], code, &token, message);
}

void bus_send_all(struct bus *bus, uint16_t code, const void *message)
{
    for (uint32_t i = 0; i < BUS_EDGES_MAX; i++)
        if (bus->edges[i].known)
            bus_send(bus, i, code, 0, message);
}

void bus_say_goodbye(struct bus *bus, const char *reason)
{
    bus->ready = false;
    bus->leaving = true;
    bus->leaving_since_us = clock_monotonic_us();
    leave_edges(bus, reason);
}

bool bus_is_drained(const struct bus *bus)
{
    return bus->outstanding == 0 && clock_monotonic_us() - bus->leaving_since_us >= LEAVE_US;
}

uint64_t bus_outstanding(const struct bus *bus)
{
    return bus->outstanding;
}
