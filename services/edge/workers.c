/*
 * workers.c - who answers requests here: READY and what follows on the role sockets, the choice of a worker, and its death
 * as the monitor, a failed send or its silence tell it.
 */
#include "services/edge/core.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/change.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/metrics.h"
#include "common/ops.h"

#define FRAMES_PER_SWEEP 256u
#define CREDITS_MAX      65536u

static const char *const role_facts[ROLE_COUNT] = { "authz", "ratelimit", "keys", NULL };

struct worker *worker_find(struct dispatch *d, enum role role, const void *identity, size_t size)
{
    for (uint32_t i = 0; i < WORKERS_MAX; i++) {
        struct worker *worker = &d->workers[role][i];

        if (worker->state != WORKER_FREE && worker->identity_size == size && memcmp(worker->identity, identity, size) == 0)
            return worker;
    }
    return NULL;
}

static uint64_t next_random(struct dispatch *d)
{
    d->random ^= d->random << 13;
    d->random ^= d->random >> 7;
    d->random ^= d->random << 17;
    return d->random;
}

static bool has_tried(struct worker *const except[ATTEMPTS_MAX], const struct worker *worker)
{
    for (unsigned i = 0; except != NULL && i < ATTEMPTS_MAX; i++)
        if (except[i] == worker)
            return true;
    return false;
}

static uint32_t list_candidates(struct dispatch *d, enum role role, struct worker *const except[ATTEMPTS_MAX],
                                struct worker *ret_candidates[WORKERS_MAX])
{
    uint32_t count = 0, preferred = 0;

    for (uint32_t i = 0; i < WORKERS_MAX; i++) {
        struct worker *worker = &d->workers[role][i];

        if (worker->state != WORKER_ALIVE || worker->outstanding >= worker->credits || has_tried(except, worker))
            continue;
        ret_candidates[count++] = worker;
        if (worker->avoid_until_us > d->now_us)
            continue;
        ret_candidates[count - 1] = ret_candidates[preferred];    /* those that were quick stand first */
        ret_candidates[preferred++] = worker;
    }
    return preferred > 0 ? preferred : count;
}

struct worker *worker_choose(struct dispatch *d, enum role role, struct worker *const except[ATTEMPTS_MAX])
{
    struct worker *candidates[WORKERS_MAX];
    const uint32_t count = list_candidates(d, role, except, candidates);
    struct worker *a, *b;

    if (count == 0)
        return NULL;
    if (count == 1)
        return candidates[0];
    a = candidates[next_random(d) % count];
    b = candidates[next_random(d) % count];
    return a->outstanding * b->credits <= b->outstanding * a->credits ? a : b;
}

/* --- sending ---------------------------------------------------------------------------------- */

static bool send_to(struct dispatch *d, enum role role, const void *identity, size_t identity_size, zmq_msg_t *frame)
{
    void *socket = d->sockets[role];

    d->is_touched[role] = true;
    if (zmq_send(socket, identity, identity_size, ZMQ_SNDMORE | ZMQ_DONTWAIT) < 0
        || zmq_msg_send(frame, socket, ZMQ_DONTWAIT) < 0) {
        zmq_msg_close(frame);
        return false;
    }
    metric_add(METRIC_bus_frames_out, 1);
    return true;
}

bool worker_send_frame(struct dispatch *d, struct worker *worker, zmq_msg_t *frame)
{
    if (send_to(d, worker->role, worker->identity, worker->identity_size, frame))
        return true;
    worker_lost(d, worker, errno == EHOSTUNREACH ? "unreachable" : "not reading");
    return false;
}

static bool make_frame(struct dispatch *d, unsigned version, const struct message_type *type, uint64_t request_id,
                       const void *message, zmq_msg_t *ret_frame)
{
    struct frame_writer writer;

    frame_begin(&writer, d->frame_buffer, FRAME_SIZE_MAX, version, d->epoch, ++d->batch_number);
    if (frame_add(&writer, type, 0, request_id, 0, message) != ERR_OK
        || zmq_msg_init_size(ret_frame, frame_end(&writer)) != 0)
        return false;
    memcpy(zmq_msg_data(ret_frame), writer.bytes, zmq_msg_size(ret_frame));
    metric_add(METRIC_bus_sent, 1);
    if (d->record != NULL)
        record_message(d->record, type, message);
    return true;
}

void worker_send(struct dispatch *d, struct worker *worker, const struct message_type *type, uint64_t request_id,
                 const void *message)
{
    const bool is_control = type->code <= MESSAGE_goodbye;
    zmq_msg_t frame;

    if (make_frame(d, is_control ? MESSAGES_VERSION_OLDEST : worker->version, type, request_id, message, &frame))
        (void)worker_send_frame(d, worker, &frame);
}

static void send_reject(struct dispatch *d, enum role role, zmq_msg_t *identity, const char *reason)
{
    struct reject reject = { 0 };
    zmq_msg_t frame;

    snprintf(reject.reason, sizeof reject.reason, "%s", reason);
    if (make_frame(d, MESSAGES_VERSION_OLDEST, message_type_of(MESSAGE_reject), 0, &reject, &frame))
        (void)!send_to(d, role, zmq_msg_data(identity), zmq_msg_size(identity), &frame);
}

/* --- death -------------------------------------------------------------------------------------- */

void worker_lost(struct dispatch *d, struct worker *worker, const char *why)
{
    const bool is_expected = worker->state == WORKER_LEAVING && worker->outstanding == 0;

    if (worker->state == WORKER_FREE)
        return;
    if (!is_expected) {
        metric_add(METRIC_worker_deaths, 1);
        log_warn("worker_lost", log_text("role", service_text(service_of(worker->role))), log_text("why", why),
                 log_number("outstanding", worker->outstanding));
    }
    worker->state = WORKER_FREE;
    d->worker_count[worker->role]--;
    d->feed.holders_changed |= worker->role == ROLE_AUTHZ;
    publish_forget_worker(d, worker);
    batches_worker_lost(d, worker);
    workers_tell(d);
}

/* An own pause is not the peers' fault: then they get time to be read first. */
void workers_judge(struct dispatch *d)
{
    if (d->now_us < d->judge_after_us)
        return;
    for (enum role role = 0; role < ROLE_COUNT; role++)
        for (uint32_t i = 0; i < WORKERS_MAX; i++) {
            struct worker *worker = &d->workers[role][i];

            if (worker->state == WORKER_FREE)
                continue;
            if (d->now_us > worker->heard_us + DEAD_US)
                worker_lost(d, worker, "silent");
            else if (worker->state == WORKER_ALIVE && d->now_us > worker->heard_us + SUSPECT_US)
                worker->state = WORKER_SUSPECT;
        }
}

void workers_beat(struct dispatch *d)
{
    const struct heartbeat beat = { .sent_us = clock_monotonic_us() };

    for (enum role role = 0; role < ROLE_COUNT; role++)
        for (uint32_t i = 0; i < WORKERS_MAX; i++)
            if (d->workers[role][i].state != WORKER_FREE)
                worker_send(d, &d->workers[role][i], message_type_of(MESSAGE_heartbeat), 0, &beat);
}

/* A monitor's event: u16 number and i32 value (here the connection's descriptor), then a frame with the address. */
void workers_read_monitor(struct dispatch *d, enum role role)
{
    uint8_t event[6], address[256];

    while (zmq_recv(d->monitors[role], event, sizeof event, ZMQ_DONTWAIT) == (int)sizeof event) {
        uint16_t number;
        int32_t fd;

        memcpy(&number, event, sizeof number);
        memcpy(&fd, event + 2, sizeof fd);
        (void)!zmq_recv(d->monitors[role], address, sizeof address, ZMQ_DONTWAIT);
        for (uint32_t i = 0; number == ZMQ_EVENT_DISCONNECTED && i < WORKERS_MAX; i++)
            if (d->workers[role][i].state != WORKER_FREE && d->workers[role][i].fd == fd)
                worker_lost(d, &d->workers[role][i], "disconnected");
    }
}

void workers_tell(struct dispatch *d)
{
    static const enum metric live[] = { METRIC_workers_authz, METRIC_workers_ratelimit, METRIC_workers_keys };
    static const enum metric depth[] = { METRIC_queue_authz, METRIC_queue_ratelimit, METRIC_queue_keys };

    for (enum role role = ROLE_AUTHZ; role <= ROLE_KEYS; role++) {
        metric_set(live[role], d->worker_count[role]);
        metric_set(depth[role], d->queue[role].count);
        if (d->options.ops != NULL)
            ops_set_fact(d->options.ops, role_facts[role], d->worker_count[role] > 0);
    }
    if (d->options.ops == NULL)
        return;
    ops_set_fact(d->options.ops, "servers", servers_is_loaded(d->options.servers));
    ops_set_fact(d->options.ops, "feed", d->feed.is_known && !d->feed.is_lost);
    ops_set_fact(d->options.ops, "spool", d->is_spool_available);
}

/* --- READY ---------------------------------------------------------------------------------------- */

static const char *refusal_of(enum role role, uint32_t roles, const struct ready *ready)
{
    const enum service service = service_of(role);

    if (ready->role != service)
        return "this address is for another role";
    if ((roles >> service & 1u) == 0)
        return "your user or key may not speak as this role (bus_uids, bus_keys)";
    if (ready->version < MESSAGES_VERSION_OLDEST)
        return "too old: upgrade this worker";
    if (ready->version > MESSAGES_VERSION + 1)
        return "too new: upgrade the edge first";
    if (ready->credits == 0 || ready->worker_size != UUID_SIZE)
        return "READY needs credits and a uuid of 16 bytes";
    return NULL;
}

static void refuse_worker(struct dispatch *d, enum role role, uint32_t roles, const struct ready *ready, zmq_msg_t *identity,
                          const char *why)
{
    metric_add(METRIC_bus_authority, 1);
    if (d->now_us >= d->reject_logged_us + 1000000) {
        d->reject_logged_us = d->now_us;
        log_warn("worker_rejected", log_text("role", service_text(ready->role)), log_text("why", why),
                 log_number("pid", ready->pid));
    }
    if (roles != 0)    /* a stranger learns nothing */
        send_reject(d, role, identity, why);
}

/* One that says READY on a new connection has lost its old one, whatever the monitor has told so far. */
static void drop_former(struct dispatch *d, enum role role, const struct ready *ready, const struct worker *now)
{
    for (uint32_t i = 0; i < WORKERS_MAX; i++) {
        struct worker *worker = &d->workers[role][i];

        if (worker != now && worker->state != WORKER_FREE && memcmp(worker->uuid, ready->worker, UUID_SIZE) == 0)
            worker_lost(d, worker, "reconnected");
    }
}

static struct worker *register_worker(struct dispatch *d, enum role role, zmq_msg_t *identity)
{
    struct worker *known = worker_find(d, role, zmq_msg_data(identity), zmq_msg_size(identity));

    if (known != NULL)
        return known;
    for (uint32_t i = 0; i < WORKERS_MAX; i++) {
        struct worker *worker = &d->workers[role][i];

        if (worker->state != WORKER_FREE)
            continue;
        *worker = (struct worker){ .role = role, .identity_size = zmq_msg_size(identity) };
        memcpy(worker->identity, zmq_msg_data(identity), worker->identity_size);
        d->worker_count[role]++;
        return worker;
    }
    return NULL;
}

static void welcome_worker(struct dispatch *d, struct worker *worker)
{
    struct welcome welcome = { .version = worker->version, .edge_size = UUID_SIZE, .epoch = d->epoch,
                               .sent_us = clock_monotonic_us() };

    memcpy(welcome.edge, d->uuid, UUID_SIZE);
    snprintf(welcome.name, sizeof welcome.name, "%s", d->options.config->instance);
    worker_send(d, worker, message_type_of(MESSAGE_welcome), 0, &welcome);
}

static void on_ready(struct dispatch *d, enum role role, zmq_msg_t *identity, zmq_msg_t *body, const struct ready *ready)
{
    const uint32_t roles = curve_roles_of(d->curve, d->options.config, body);
    const char *refusal = refusal_of(role, roles, ready);
    struct worker *worker = worker_find(d, role, zmq_msg_data(identity), zmq_msg_size(identity));
    const bool is_new = worker == NULL;

    if (refusal == NULL && is_new && d->worker_count[role] >= WORKERS_MAX)
        refusal = "the edge serves no more workers of this role";
    if (refusal != NULL) {
        refuse_worker(d, role, roles, ready, identity, refusal);
        return;
    }
    /* Its caches lag behind what this edge has told its streams: it repeats READY when they have caught up. */
    if (role == ROLE_AUTHZ && ready->applied < streams_applied(d->options.streams))
        return;
    /* A DISCONNECTED of a former owner of this descriptor came before: read it before the number is taken over. */
    workers_read_monitor(d, role);
    drop_former(d, role, ready, worker);
    worker = register_worker(d, role, identity);
    if (worker == NULL)
        return;
    worker->state = WORKER_ALIVE;
    worker->fd = zmq_msg_get(body, ZMQ_SRCFD);
    worker->version = ready->version < MESSAGES_VERSION ? (unsigned)ready->version : MESSAGES_VERSION;
    worker->credits = ready->credits < CREDITS_MAX ? ready->credits : CREDITS_MAX;
    worker->applied = ready->applied;
    worker->heard_us = d->now_us;
    memcpy(worker->uuid, ready->worker, UUID_SIZE);
    welcome_worker(d, worker);
    if (!is_new || worker->state == WORKER_FREE)
        return;
    log_info("worker_ready", log_text("role", service_text(ready->role)), log_number("pid", ready->pid),
             log_text("build", ready->build), log_number("credits", worker->credits));
    d->feed.holders_changed |= role == ROLE_AUTHZ;
    if (role == ROLE_KEYS)
        feed_tell(d, worker);
    workers_tell(d);
}

/* --- receiving -------------------------------------------------------------------------------------- */

static void on_pulse(struct dispatch *d, struct worker *worker, const struct pulse *pulse)
{
    if (worker->applied == pulse->applied)
        return;
    worker->applied = pulse->applied;
    d->feed.holders_changed |= worker->role == ROLE_AUTHZ;
}

static void on_goodbye(struct dispatch *d, struct worker *worker)
{
    worker->state = WORKER_LEAVING;
    d->feed.holders_changed |= worker->role == ROLE_AUTHZ;
}

/* Messages that are decoded to a struct of their own first; false: malformed. */
static bool take_control(struct dispatch *d, struct worker *worker, unsigned version, const struct frame_item *item)
{
    union { struct pulse pulse; struct trail_ack ack; struct replay_request replay; struct goodbye goodbye; } message;
    const char *field;

    if (message_decode(item->type, version, item->body, item->body_size, &message, &field) != ERR_OK)
        return false;
    if (d->record != NULL)
        record_message(d->record, item->type, &message);
    if (item->type->code == MESSAGE_pulse)
        on_pulse(d, worker, &message.pulse);
    else if (item->type->code == MESSAGE_goodbye)
        on_goodbye(d, worker);
    else if (item->type->code == MESSAGE_trail_ack)
        on_trail_ack(d, &message.ack);
    else
        on_replay_request(d, worker, item->request_id, &message.replay);
    return true;
}

/* Was it asked for once, and answered by another or given up meanwhile?  Hedging alone makes such replies. */
static bool is_late(const struct dispatch *d, enum role role, const struct frame_header *header, const struct frame_item *item)
{
    const uint64_t index = item->request_id & ((1u << SLOT_BITS) - 1u), generation = item->request_id >> SLOT_BITS;

    if (header->epoch != d->epoch || index >= d->slot_count)
        return false;
    return generation < d->slots[index].generation
        || (generation == d->slots[index].generation && role < d->slots[index].role);
}

static void take_item(struct dispatch *d, struct worker *worker, const struct frame_header *header,
                      const struct frame_item *item)
{
    switch (item->type->code) {
    case MESSAGE_verdict:
    case MESSAGE_charge:
    case MESSAGE_manage_reply:
        if (!batches_take_reply(d, worker, header, item))
            metric_add(is_late(d, worker->role, header, item) ? METRIC_bus_expired : METRIC_bus_unexpected, 1);
        return;
    case MESSAGE_change:
    case MESSAGE_feed:
    case MESSAGE_server_entry:
    case MESSAGE_servers_page:
        feed_take(d, header, item);
        return;
    case MESSAGE_pulse:
    case MESSAGE_goodbye:
    case MESSAGE_trail_ack:
    case MESSAGE_replay_request:
        if (!take_control(d, worker, header->version, item))
            metric_add(METRIC_bus_malformed, 1);
        return;
    default:
        metric_add(METRIC_bus_unexpected, 1);
        return;
    }
}

static bool take_ready(struct dispatch *d, enum role role, zmq_msg_t *identity, zmq_msg_t *body,
                       const struct frame_item *item)
{
    struct ready ready;
    const char *field;

    /* Control messages are encoded at the oldest version, whatever the frame's. */
    if (message_decode(item->type, MESSAGES_VERSION_OLDEST, item->body, item->body_size, &ready, &field) != ERR_OK)
        return false;
    if (d->record != NULL)
        record_message(d->record, item->type, &ready);
    on_ready(d, role, identity, body, &ready);
    return true;
}

static void take_frame(struct dispatch *d, enum role role, zmq_msg_t *identity, zmq_msg_t *body)
{
    struct worker *worker = worker_find(d, role, zmq_msg_data(identity), zmq_msg_size(identity));
    struct frame_reader reader;
    struct frame_item item;
    bool is_version_only;

    metric_add(METRIC_bus_frames_in, 1);
    if (frame_open(&reader, zmq_msg_data(body), zmq_msg_size(body), &is_version_only) != ERR_OK) {
        metric_add(is_version_only ? METRIC_bus_version : METRIC_bus_malformed, 1);
        return;
    }
    metric_add(METRIC_bus_received, reader.header.count);
    if (worker != NULL) {
        worker->heard_us = d->now_us;
        if (worker->state == WORKER_SUSPECT)
            worker->state = WORKER_ALIVE;
    }
    while (frame_next(&reader, &item)) {
        if (!message_is_allowed(item.type, service_of(role), SERVICE_EDGE)) {
            metric_add(METRIC_bus_authority, 1);
        } else if (item.type->code == MESSAGE_ready) {
            if (!take_ready(d, role, identity, body, &item))
                metric_add(METRIC_bus_malformed, 1);
            worker = worker_find(d, role, zmq_msg_data(identity), zmq_msg_size(identity));
        } else if (worker != NULL && worker->state != WORKER_FREE) {
            take_item(d, worker, &reader.header, &item);
        } else {
            metric_add(METRIC_bus_unexpected, 1);
            if (item.type->code == MESSAGE_pulse)
                send_reject(d, role, identity, "say ready");
        }
    }
}

/* A message of ours is an identity and one frame; what else comes is read to its end and dropped. */
static void drop_rest(struct dispatch *d, enum role role)
{
    zmq_msg_t part;
    bool has_more = true;

    metric_add(METRIC_bus_malformed, 1);
    while (has_more) {
        zmq_msg_init(&part);
        if (zmq_msg_recv(&part, d->sockets[role], ZMQ_DONTWAIT) < 0)
            has_more = false;
        else
            has_more = zmq_msg_more(&part) != 0;
        zmq_msg_close(&part);
    }
}

void workers_receive(struct dispatch *d, enum role role)
{
    void *socket = d->sockets[role];

    for (unsigned i = 0; i < FRAMES_PER_SWEEP; i++) {
        zmq_msg_t identity, body;

        zmq_msg_init(&identity);
        if (zmq_msg_recv(&identity, socket, ZMQ_DONTWAIT) < 0) {
            zmq_msg_close(&identity);
            d->is_touched[role] = false;
            return;
        }
        zmq_msg_init(&body);
        if (zmq_msg_more(&identity) && zmq_msg_recv(&body, socket, ZMQ_DONTWAIT) >= 0) {
            if (zmq_msg_more(&body))
                drop_rest(d, role);
            else
                take_frame(d, role, &identity, &body);
        }
        zmq_msg_close(&body);
        zmq_msg_close(&identity);
    }
    d->is_touched[role] = true;    /* there may be more: the next sweep goes on */
}
