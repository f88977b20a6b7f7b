/* test_bus.c - a worker's side of the bus against a small ROUTER that plays the edge, over real ipc sockets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <zmq.h>

#include "common/bus.h"
#include "common/clock.h"
#include "common/curve.h"
#include "common/metrics.h"

#define GIVE_UP_MS   20000
#define ANSWERS_MAX  64

/* What plays the edge: answers READY with WELCOME unless told otherwise, and keeps what it hears. */
struct edge {
    struct loop *loop;
    void *context, *router, *trail;
    char path[128];
    uint64_t epoch, version;
    int64_t clock_ahead_us;              /* of the worker's clock */
    bool is_mute;                        /* no WELCOME */
    uint8_t identity[64];
    size_t identity_size;
    int readies, pulses, goodbyes, frames, identities;
    struct ready ready;
    struct pulse pulse;
    struct goodbye goodbye;
    size_t answer_count;
    struct { uint64_t epoch, batch, request_id; uint16_t code; uint64_t number; int frame; } answers[ANSWERS_MAX];
    int answers_at_last_pulse;
};

struct bench {
    struct loop *loop;
    struct bus *bus;
    struct common_config config;
    char directory[64];
    struct edge edge, second;
    int requests, batches, ups, downs, blocks;
    bool keeps_tokens;                   /* does not answer by itself */
    struct bus_token tokens[ANSWERS_MAX];
    uint64_t batch_epoch, batch_number;
    bool (*wanted)(const struct bench *bench);
    bool gave_up;
};

/* ---- the edge ----------------------------------------------------------------------------------- */

static void edge_send_bytes(struct edge *edge, const void *bytes, size_t size, bool in_two_parts)
{
    int identity_size = (int)edge->identity_size;

    assert_int_equal(zmq_send(edge->router, edge->identity, edge->identity_size, ZMQ_SNDMORE), identity_size);
    assert_int_equal(zmq_send(edge->router, bytes, size, in_two_parts ? ZMQ_SNDMORE : 0), (int)size);
    if (in_two_parts)
        assert_int_equal(zmq_send(edge->router, "", 0, 0), 0);
}

struct outgoing {
    uint8_t bytes[FRAME_SIZE_MAX];
    struct frame_writer writer;
};

static void begin(const struct edge *edge, struct outgoing *frame, uint64_t batch)
{
    frame_begin(&frame->writer, frame->bytes, sizeof frame->bytes, (unsigned)edge->version, edge->epoch, batch);
}

static void add(struct outgoing *frame, uint16_t code, uint64_t request_id, uint64_t deadline_us, const void *message)
{
    assert_int_equal(frame_add(&frame->writer, message_type_of(code), 1, request_id, deadline_us, message), ERR_OK);
}

static void finish(struct edge *edge, struct outgoing *frame)
{
    edge_send_bytes(edge, frame->bytes, frame_end(&frame->writer), false);
}

static void edge_send(struct edge *edge, uint16_t code, uint64_t request_id, const void *message)
{
    struct outgoing frame;

    begin(edge, &frame, 1);
    add(&frame, code, request_id, 0, message);
    finish(edge, &frame);
}

static uint64_t edge_clock(const struct edge *edge)
{
    return clock_monotonic_us() + (uint64_t)edge->clock_ahead_us;
}

static void edge_welcome(struct edge *edge)
{
    struct welcome welcome = { .version = edge->version, .edge_size = 16, .epoch = edge->epoch,
                               .sent_us = edge_clock(edge), .name = "one" };

    edge_send(edge, MESSAGE_welcome, 0, &welcome);
}

static void edge_heartbeat(struct edge *edge)
{
    edge_send(edge, MESSAGE_heartbeat, 0, &(struct heartbeat){ .sent_us = edge_clock(edge) });
}

static void edge_hear(struct edge *edge, const struct frame_header *header, const struct frame_item *item)
{
    static union {
        struct ready ready;
        struct pulse pulse;
        struct goodbye goodbye;
        struct verdict verdict;
        struct manage_reply reply;
        struct trail_ack ack;
    } message;
    const char *field;
    enum err err = message_decode(item->type, header->version, item->body, item->body_size, &message, &field);

    assert_int_equal(err, ERR_OK);
    switch (item->type->code) {
    case MESSAGE_ready:
        edge->readies++;
        edge->ready = message.ready;
        if (!edge->is_mute)
            edge_welcome(edge);
        return;
    case MESSAGE_pulse:
        edge->pulses++;
        edge->pulse = message.pulse;
        edge->answers_at_last_pulse = (int)edge->answer_count;
        return;
    case MESSAGE_goodbye:
        edge->goodbyes++;
        edge->goodbye = message.goodbye;
        return;
    default:
        assert_true(edge->answer_count < ANSWERS_MAX);
        edge->answers[edge->answer_count].epoch = header->epoch;
        edge->answers[edge->answer_count].batch = header->batch;
        edge->answers[edge->answer_count].request_id = item->request_id;
        edge->answers[edge->answer_count].code = item->type->code;
        edge->answers[edge->answer_count].frame = edge->frames;
        edge->answer_count++;
    }
}

static void edge_on_socket(void *owner, void *socket)
{
    struct edge *edge = owner;
    static uint8_t bytes[FRAME_SIZE_MAX], identity[64];
    int size;

    while ((size = zmq_recv(socket, identity, sizeof identity, ZMQ_DONTWAIT)) > 0) {
        struct frame_reader reader;
        struct frame_item item;
        bool version_only;

        if ((size_t)size != edge->identity_size || memcmp(identity, edge->identity, (size_t)size) != 0)
            edge->identities++;
        edge->identity_size = (size_t)size;
        memcpy(edge->identity, identity, (size_t)size);
        size = zmq_recv(socket, bytes, sizeof bytes, 0);
        assert_true(size >= 0 && (size_t)size <= sizeof bytes);
        edge->frames++;
        assert_int_equal(frame_open(&reader, bytes, (size_t)size, &version_only), ERR_OK);
        while (frame_next(&reader, &item))
            edge_hear(edge, &reader.header, &item);
    }
}

static void edge_bind(struct edge *edge, struct loop *loop, const char *directory, const char *name, const char *role)
{
    char endpoint[192];

    memset(edge, 0, sizeof *edge);
    edge->loop = loop;
    edge->epoch = 4711;
    edge->version = MESSAGES_VERSION;
    edge->context = zmq_ctx_new();
    edge->router = zmq_socket(edge->context, ZMQ_ROUTER);
    zmq_setsockopt(edge->router, ZMQ_LINGER, &(int){ 0 }, sizeof(int));
    zmq_setsockopt(edge->router, ZMQ_ROUTER_MANDATORY, &(int){ 1 }, sizeof(int));
    snprintf(edge->path, sizeof edge->path, "%s/%s.%s", directory, name, role);
    snprintf(endpoint, sizeof endpoint, "ipc://%s", edge->path);
    assert_int_equal(zmq_bind(edge->router, endpoint), 0);
    assert_int_equal(loop_watch_socket(loop, edge->router, edge_on_socket, edge), ERR_OK);
}

static void edge_close(struct edge *edge)
{
    if (edge->context == NULL)
        return;
    loop_forget_socket(edge->loop, edge->router);
    zmq_close(edge->router);
    if (edge->trail != NULL)
        zmq_close(edge->trail);
    zmq_ctx_term(edge->context);
    edge->context = NULL;
    edge->trail = NULL;
    unlink(edge->path);
}

/* ---- the worker --------------------------------------------------------------------------------- */

static void on_verdict_request(struct bench *bench, const struct bus_token *token,
                               const struct verdict_request *request)
{
    const struct verdict verdict = { .error = request->needed };

    bench->tokens[bench->requests++ % ANSWERS_MAX] = *token;
    if (!bench->keeps_tokens)
        bus_reply(bench->bus, token, MESSAGE_verdict, &verdict);
}
DEFINE_BUS_HANDLER(struct bench, on_verdict_request, verdict_request)

static void on_manage_request(struct bench *bench, const struct bus_token *token, const struct manage_request *request)
{
    static uint8_t body[60000];
    const struct manage_reply reply = { .status = 200, .body = { body, sizeof body } };

    (void)request;
    bench->requests++;
    bus_reply(bench->bus, token, MESSAGE_manage_reply, &reply);
}
DEFINE_BUS_HANDLER(struct bench, on_manage_request, manage_request)

static void on_trail_block(struct bench *bench, const struct bus_token *token, const struct trail_block *block)
{
    assert_memory_equal(block->block.bytes, "block", 5);
    bench->tokens[0] = *token;
    bench->blocks++;
}
DEFINE_BUS_HANDLER(struct bench, on_trail_block, trail_block)

static const struct bus_handler handlers[] = {
    BUS_HANDLER(on_verdict_request, verdict_request),
    BUS_HANDLER(on_manage_request, manage_request),
    BUS_HANDLER(on_trail_block, trail_block),
    { 0, NULL },
};

static void on_batch_end(void *owner, uint32_t edge, uint64_t epoch, uint64_t batch)
{
    struct bench *bench = owner;

    (void)edge;
    bench->batches++;
    bench->batch_epoch = epoch;
    bench->batch_number = batch;
}

static void on_edge(void *owner, uint32_t edge, bool up)
{
    struct bench *bench = owner;

    (void)edge;
    bench->ups += up ? 1 : 0;
    bench->downs += up ? 0 : 1;
}

static enum err open_bus(struct bench *bench, enum service role, bool in_batches)
{
    const struct bus_options options = { .role = role, .credits = 32, .handlers = handlers, .owner = bench,
                                         .on_batch_end = in_batches ? on_batch_end : NULL, .on_edge = on_edge,
                                         .config = &bench->config };

    return bus_new(bench->loop, &options, &bench->bus);
}

static void check(void *owner)
{
    struct bench *bench = owner;

    if (bench->wanted != NULL && bench->wanted(bench))
        loop_stop(bench->loop);
}

static void give_up(void *owner)
{
    struct bench *bench = owner;

    bench->gave_up = true;
    loop_stop(bench->loop);
}

static void wait_for(struct bench *bench, bool (*wanted)(const struct bench *bench))
{
    int timer = loop_after(bench->loop, GIVE_UP_MS, give_up, bench);

    bench->wanted = wanted;
    assert_int_equal(loop_run(bench->loop), ERR_OK);
    bench->wanted = NULL;
    loop_cancel(bench->loop, timer);
    assert_false(bench->gave_up);
}

static void stop(void *owner)
{
    struct bench *bench = owner;

    loop_stop(bench->loop);
}

/* For what must not happen: long enough that it would have. */
static void let_pass(struct bench *bench, uint64_t ms)
{
    loop_after(bench->loop, ms, stop, bench);
    assert_int_equal(loop_run(bench->loop), ERR_OK);
}

static bool is_welcome(const struct bench *bench) { return bus_edge_count(bench->bus) == 1; }
static bool are_two_welcome(const struct bench *bench) { return bus_edge_count(bench->bus) == 2; }
static bool has_ready(const struct bench *bench) { return bench->edge.readies > 0; }
static bool has_two_readies(const struct bench *bench) { return bench->edge.readies >= 2; }
static bool has_pulse(const struct bench *bench) { return bench->edge.pulses > 0; }
static bool has_goodbye(const struct bench *bench) { return bench->edge.goodbyes > 0; }
static bool has_answer(const struct bench *bench) { return bench->edge.answer_count >= 1; }
static bool has_three_answers(const struct bench *bench) { return bench->edge.answer_count >= 3; }
static bool has_request(const struct bench *bench) { return bench->requests >= 1; }
static bool has_three_requests(const struct bench *bench) { return bench->requests >= 3; }
static bool is_edge_lost(const struct bench *bench) { return bench->downs >= 1; }
static bool is_lost_twice(const struct bench *bench) { return bench->downs >= 2; }
static bool is_up_again(const struct bench *bench) { return bench->ups >= 2; }
static bool has_other_identity(const struct bench *bench) { return bench->edge.identities >= 2; }
static bool has_block(const struct bench *bench) { return bench->blocks > 0; }

static int remove_entry(const char *path, const struct stat *status, int kind, struct FTW *walk)
{
    (void)status;
    (void)kind;
    (void)walk;
    return remove(path);
}

static int make_bench(void **state)
{
    struct bench *bench = calloc(1, sizeof *bench);

    assert_int_equal(loop_new(&bench->loop), ERR_OK);
    strcpy(bench->directory, "/tmp/mcpgw-bus-XXXXXX");
    assert_non_null(mkdtemp(bench->directory));
    snprintf(bench->config.edges, sizeof bench->config.edges, "ipc://%s/edge-*", bench->directory);
    loop_every(bench->loop, 1, check, bench);
    *state = bench;
    return 0;
}

static int free_bench(void **state)
{
    struct bench *bench = *state;

    bus_destroy(&bench->bus);
    edge_close(&bench->edge);
    edge_close(&bench->second);
    loop_destroy(&bench->loop);
    rmdir(bench->directory);
    free(bench);
    return 0;
}

static void meet(struct bench *bench, enum service role, bool in_batches)
{
    edge_bind(&bench->edge, bench->loop, bench->directory, "edge-1", service_text(role));
    assert_int_equal(open_bus(bench, role, in_batches), ERR_OK);
    bus_set_ready(bench->bus, true);
    wait_for(bench, is_welcome);
}

/* ---- refusals ----------------------------------------------------------------------------------- */

static void settings_that_cannot_be_used_are_refused(void **state)
{
    static const struct { const char *edges; enum err err; } cases[] = {
        { "tcp://127.0.0.1:7000", ERR_DENIED }, { "tcp://10.0.0.1:7000", ERR_DENIED }, { "udp://x", ERR_DENIED },
        { "edge-1", ERR_DENIED }, { "ipc://", ERR_MALFORMED },
    };
    struct bench *bench = *state;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        snprintf(bench->config.edges, sizeof bench->config.edges, "ipc:///tmp/ok, %s", cases[i].edges);
        assert_int_equal(open_bus(bench, SERVICE_AUTHZ, false), cases[i].err);
    }
    bench->config.bus_insecure = true;
    snprintf(bench->config.edges, sizeof bench->config.edges, "tcp://127.0.0.1:65532");    /* five ports from there */
    assert_int_equal(open_bus(bench, SERVICE_AUTHZ, false), ERR_MALFORMED);
    snprintf(bench->config.bus_uids, sizeof bench->config.bus_uids, "edge=no-such-user-here");
    assert_int_equal(open_bus(bench, SERVICE_AUTHZ, false), ERR_MALFORMED);
    bench->config.bus_uids[0] = 0;
    snprintf(bench->config.bus_keys, sizeof bench->config.bus_keys, "/nonexistent");
    assert_int_equal(open_bus(bench, SERVICE_AUTHZ, false), ERR_NOT_FOUND);
    assert_int_equal(open_bus(bench, SERVICE_EDGE, false), ERR_BUG);
}

static void nothing_is_said_before_the_worker_is_ready(void **state)
{
    struct bench *bench = *state;

    edge_bind(&bench->edge, bench->loop, bench->directory, "edge-1", "authz");
    assert_int_equal(open_bus(bench, SERVICE_AUTHZ, false), ERR_OK);
    let_pass(bench, 400);
    assert_int_equal(bench->edge.frames, 0);
}

static void ready_is_repeated_until_it_is_welcomed(void **state)
{
    struct bench *bench = *state;

    edge_bind(&bench->edge, bench->loop, bench->directory, "edge-1", "authz");
    bench->edge.is_mute = true;
    assert_int_equal(open_bus(bench, SERVICE_AUTHZ, false), ERR_OK);
    bus_set_ready(bench->bus, true);
    wait_for(bench, has_two_readies);
    assert_int_equal(bus_edge_count(bench->bus), 0);
    bench->edge.is_mute = false;
    wait_for(bench, is_welcome);
}

static void a_peer_that_may_not_be_an_edge_is_not_heard(void **state)
{
    struct bench *bench = *state;
    uint64_t before = metric_get(METRIC_bus_authority);

    snprintf(bench->config.bus_uids, sizeof bench->config.bus_uids, "edge=%u,authz=%u", geteuid() + 1, geteuid());
    edge_bind(&bench->edge, bench->loop, bench->directory, "edge-1", "authz");
    assert_int_equal(open_bus(bench, SERVICE_AUTHZ, false), ERR_OK);
    bus_set_ready(bench->bus, true);
    wait_for(bench, has_two_readies);
    assert_int_equal(bus_edge_count(bench->bus), 0);
    assert_true(metric_get(METRIC_bus_authority) > before);
}

static void an_edge_of_a_foreign_version_is_not_used(void **state)
{
    struct bench *bench = *state;
    uint64_t before = metric_get(METRIC_bus_version);
    struct welcome welcome = { .version = MESSAGES_VERSION + 1, .edge_size = 16, .epoch = 1 };
    uint8_t future[FRAME_HEADER_SIZE + 4] = { 'M', 'G', MESSAGES_VERSION + 1, 0, 1 };

    edge_bind(&bench->edge, bench->loop, bench->directory, "edge-1", "authz");
    bench->edge.is_mute = true;
    assert_int_equal(open_bus(bench, SERVICE_AUTHZ, false), ERR_OK);
    bus_set_ready(bench->bus, true);
    wait_for(bench, has_ready);
    edge_send(&bench->edge, MESSAGE_welcome, 0, &welcome);
    edge_send_bytes(&bench->edge, future, sizeof future, false);
    wait_for(bench, has_two_readies);
    assert_int_equal(bus_edge_count(bench->bus), 0);
    assert_int_equal(metric_get(METRIC_bus_version), before + 2);
}

static void garbage_is_counted_and_harms_nothing(void **state)
{
    struct bench *bench = *state;
    uint64_t before;
    uint8_t garbage[300];

    meet(bench, SERVICE_AUTHZ, false);
    before = metric_get(METRIC_bus_malformed);
    for (size_t size = 0; size < sizeof garbage; size += 37) {
        memset(garbage, (int)size, sizeof garbage);
        edge_send_bytes(&bench->edge, garbage, size, false);
    }
    edge_send_bytes(&bench->edge, garbage, 20, true);    /* two parts count twice */
    edge_send(&bench->edge, MESSAGE_verdict_request, 7, &(struct verdict_request){ .digest_size = 32 });
    wait_for(bench, has_answer);
    assert_int_equal(metric_get(METRIC_bus_malformed), before + 11);
    assert_int_equal(bench->downs, 0);
}

static void a_message_for_another_role_is_refused_with_its_whole_frame(void **state)
{
    struct bench *bench = *state;
    uint64_t before;
    struct outgoing frame;

    meet(bench, SERVICE_AUTHZ, false);
    before = metric_get(METRIC_bus_authority);
    begin(&bench->edge, &frame, 1);
    add(&frame, MESSAGE_verdict_request, 1, 0, &(struct verdict_request){ .digest_size = 32 });
    add(&frame, MESSAGE_charge_request, 2, 0, &(struct charge_request){ .subject = "k:1" });
    finish(&bench->edge, &frame);
    edge_send(&bench->edge, MESSAGE_verdict, 3, &(struct verdict){ .error = 0 });    /* only workers say that */
    edge_heartbeat(&bench->edge);
    wait_for(bench, has_pulse);
    assert_int_equal(bench->requests, 0);
    assert_int_equal(metric_get(METRIC_bus_authority), before + 2);
}

static void a_request_of_another_epoch_is_not_done(void **state)
{
    struct bench *bench = *state;
    uint64_t before;

    meet(bench, SERVICE_AUTHZ, false);
    before = metric_get(METRIC_bus_unexpected);
    bench->edge.epoch++;
    edge_send(&bench->edge, MESSAGE_verdict_request, 1, &(struct verdict_request){ .digest_size = 32 });
    edge_heartbeat(&bench->edge);
    wait_for(bench, has_pulse);
    assert_int_equal(bench->requests, 0);
    assert_int_equal(metric_get(METRIC_bus_unexpected), before + 1);
}

static void a_request_past_its_deadline_is_not_done(void **state)
{
    const struct verdict_request request = { .digest_size = 32 };
    struct bench *bench = *state;
    uint64_t before;
    struct outgoing frame;

    edge_bind(&bench->edge, bench->loop, bench->directory, "edge-1", "authz");
    bench->edge.clock_ahead_us = INT64_C(5000000000);
    assert_int_equal(open_bus(bench, SERVICE_AUTHZ, false), ERR_OK);
    bus_set_ready(bench->bus, true);
    wait_for(bench, is_welcome);
    before = metric_get(METRIC_bus_expired);
    begin(&bench->edge, &frame, 9);
    add(&frame, MESSAGE_verdict_request, 1, edge_clock(&bench->edge) - 1000000, &request);
    add(&frame, MESSAGE_verdict_request, 2, edge_clock(&bench->edge) + 30000000, &request);
    finish(&bench->edge, &frame);
    wait_for(bench, has_answer);
    assert_int_equal(bench->requests, 1);
    assert_int_equal(bench->edge.answers[0].request_id, 2);
    assert_int_equal(metric_get(METRIC_bus_expired), before + 1);
    assert_true(bench->tokens[0].deadline_us > clock_monotonic_us());
    assert_true(bench->tokens[0].deadline_us < clock_monotonic_us() + 60000000u);
}

static void a_batch_is_done_whole_or_not_at_all(void **state)
{
    struct bench *bench = *state;
    struct outgoing frame;
    uint64_t past, future;

    meet(bench, SERVICE_AUTHZ, true);
    past = edge_clock(&bench->edge) - 1000000;
    future = edge_clock(&bench->edge) + 30000000;
    begin(&bench->edge, &frame, 1);
    add(&frame, MESSAGE_verdict_request, 1, past, &(struct verdict_request){ .digest_size = 32 });
    add(&frame, MESSAGE_verdict_request, 2, past, &(struct verdict_request){ .digest_size = 32 });
    finish(&bench->edge, &frame);
    begin(&bench->edge, &frame, 2);
    add(&frame, MESSAGE_verdict_request, 3, past, &(struct verdict_request){ .digest_size = 32 });
    add(&frame, MESSAGE_verdict_request, 4, future, &(struct verdict_request){ .digest_size = 32 });
    add(&frame, MESSAGE_verdict_request, 5, 0, &(struct verdict_request){ .digest_size = 32 });
    finish(&bench->edge, &frame);
    wait_for(bench, has_three_answers);
    assert_int_equal(bench->requests, 3);
    assert_int_equal(bench->batches, 1);
    assert_int_equal(bench->batch_number, 2);
    assert_int_equal(bench->batch_epoch, bench->edge.epoch);
}

static void a_worker_that_is_unknown_says_ready_again(void **state)
{
    struct bench *bench = *state;
    int readies;

    meet(bench, SERVICE_AUTHZ, false);
    edge_send(&bench->edge, MESSAGE_reject, 0, &(struct reject){ .reason = "say ready" });
    wait_for(bench, is_up_again);
    assert_int_equal(bench->downs, 1);
    assert_true(bench->edge.readies >= 2);
    bench->edge.is_mute = true;
    edge_send(&bench->edge, MESSAGE_reject, 0, &(struct reject){ .reason = "role not allowed" });
    wait_for(bench, is_lost_twice);
    readies = bench->edge.readies;
    let_pass(bench, 500);
    assert_int_equal(bench->edge.readies, readies);    /* it waits a second before it asks again */
    assert_int_equal(bus_edge_count(bench->bus), 0);
}

/* ---- losses ------------------------------------------------------------------------------------- */

static void a_silent_edge_is_connected_anew(void **state)
{
    struct bench *bench = *state;

    meet(bench, SERVICE_AUTHZ, false);
    bench->edge.is_mute = true;
    bench->edge.identities = 1;
    wait_for(bench, has_other_identity);
    assert_int_equal(bench->downs, 1);
    assert_true(bench->edge.readies >= 3);
}

static void another_edge_at_the_same_address_gets_no_old_answers(void **state)
{
    struct bench *bench = *state;
    uint64_t before;

    meet(bench, SERVICE_AUTHZ, false);
    bench->keeps_tokens = true;
    edge_send(&bench->edge, MESSAGE_verdict_request, 1, &(struct verdict_request){ .digest_size = 32 });
    wait_for(bench, has_request);
    assert_int_equal(bus_outstanding(bench->bus), 1);
    edge_close(&bench->edge);
    edge_bind(&bench->edge, bench->loop, bench->directory, "edge-1", "authz");
    bench->edge.epoch = 4712;
    wait_for(bench, is_up_again);
    assert_int_equal(bench->downs, 1);
    assert_int_equal(bus_outstanding(bench->bus), 0);
    before = metric_get(METRIC_bus_undelivered);
    bus_reply(bench->bus, &bench->tokens[0], MESSAGE_verdict, &(struct verdict){ .error = 0 });
    edge_heartbeat(&bench->edge);
    wait_for(bench, has_pulse);
    assert_int_equal(metric_get(METRIC_bus_undelivered), before + 1);
    assert_int_equal(bench->edge.answer_count, 0);
}

static void an_edge_that_has_gone_is_disconnected(void **state)
{
    struct bench *bench = *state;

    meet(bench, SERVICE_AUTHZ, false);
    edge_close(&bench->edge);
    wait_for(bench, is_edge_lost);
    assert_int_equal(bus_edge_count(bench->bus), 0);
    bus_send_all(bench->bus, MESSAGE_verdict, &(struct verdict){ .error = 0 });
    let_pass(bench, 2500);    /* its address is forgotten as well */
    assert_int_equal(bench->downs, 1);
}

static void a_message_our_role_may_not_send_is_not_sent(void **state)
{
    struct bench *bench = *state;
    uint64_t before;

    meet(bench, SERVICE_AUTHZ, false);
    before = metric_get(METRIC_bus_undelivered);
    bus_send(bench->bus, 0, MESSAGE_charge, 1, &(struct charge){ .error = 0 });
    bus_send(bench->bus, 0, 0xffff, 1, NULL);
    bus_send(bench->bus, 63, MESSAGE_verdict, 1, &(struct verdict){ .error = 0 });
    bus_send(bench->bus, 64, MESSAGE_verdict, 1, &(struct verdict){ .error = 0 });
    assert_int_equal(metric_get(METRIC_bus_undelivered), before + 4);
}

/* ---- what works --------------------------------------------------------------------------------- */

static void ready_tells_who_we_are_and_a_heartbeat_is_answered(void **state)
{
    struct bench *bench = *state;

    meet(bench, SERVICE_AUTHZ, false);
    assert_int_equal(bench->edge.ready.role, SERVICE_AUTHZ);
    assert_int_equal(bench->edge.ready.version, MESSAGES_VERSION);
    assert_int_equal(bench->edge.ready.credits, 32);
    assert_int_equal(bench->edge.ready.pid, getpid());
    assert_memory_equal(bench->edge.ready.worker, bus_uuid(bench->bus), 16);
    assert_int_equal(bench->ups, 1);
    edge_send(&bench->edge, MESSAGE_heartbeat, 0, &(struct heartbeat){ .sent_us = 12345 });
    wait_for(bench, has_pulse);
    assert_int_equal(bench->edge.pulse.echo_us, 12345);
    assert_int_equal(bench->edge.pulse.applied, 0);
}

static void a_batch_is_answered_by_one_frame_that_names_it(void **state)
{
    struct bench *bench = *state;
    struct outgoing frame;

    meet(bench, SERVICE_AUTHZ, false);
    begin(&bench->edge, &frame, 77);
    for (uint64_t id = 1; id <= 3; id++)
        add(&frame, MESSAGE_verdict_request, id, 0, &(struct verdict_request){ .digest_size = 32 });
    finish(&bench->edge, &frame);
    wait_for(bench, has_three_answers);
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(bench->edge.answers[i].request_id, i + 1);
        assert_int_equal(bench->edge.answers[i].batch, 77);
        assert_int_equal(bench->edge.answers[i].epoch, bench->edge.epoch);
        assert_int_equal(bench->edge.answers[i].frame, bench->edge.answers[0].frame);
    }
    assert_int_equal(bus_outstanding(bench->bus), 0);
}

static void answers_of_two_batches_travel_in_frames_of_their_own(void **state)
{
    struct bench *bench = *state;
    struct outgoing frame;

    meet(bench, SERVICE_AUTHZ, false);
    bench->keeps_tokens = true;
    for (uint64_t batch = 1; batch <= 3; batch++) {
        begin(&bench->edge, &frame, batch);
        add(&frame, MESSAGE_verdict_request, batch, 0, &(struct verdict_request){ .digest_size = 32 });
        finish(&bench->edge, &frame);
    }
    wait_for(bench, has_three_requests);
    assert_int_equal(bus_outstanding(bench->bus), 3);
    for (size_t i = 0; i < 3; i++)
        bus_reply(bench->bus, &bench->tokens[i], MESSAGE_verdict, &(struct verdict){ .error = 0 });
    assert_int_equal(bus_outstanding(bench->bus), 0);
    wait_for(bench, has_three_answers);
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(bench->edge.answers[i].batch, i + 1);
}

static void answers_larger_than_a_frame_take_several(void **state)
{
    const struct manage_request request = { .operation = 1, .user_id = "u", .tenant_id = "t", .request_id = "r" };
    struct bench *bench = *state;
    struct outgoing frame;

    meet(bench, SERVICE_KEYS, false);
    begin(&bench->edge, &frame, 5);
    for (uint64_t id = 1; id <= 3; id++)
        add(&frame, MESSAGE_manage_request, id, 0, &request);
    finish(&bench->edge, &frame);
    wait_for(bench, has_three_answers);
    assert_int_equal(bench->edge.answers[2].frame, bench->edge.answers[0].frame + 2);
}

static void a_pulse_never_overtakes_an_answer(void **state)
{
    struct bench *bench = *state;

    meet(bench, SERVICE_AUTHZ, false);
    bench->keeps_tokens = true;
    edge_send(&bench->edge, MESSAGE_verdict_request, 1, &(struct verdict_request){ .digest_size = 32 });
    wait_for(bench, has_request);
    bus_reply(bench->bus, &bench->tokens[0], MESSAGE_verdict, &(struct verdict){ .error = 0 });
    bus_set_applied(bench->bus, 42);
    wait_for(bench, has_pulse);
    assert_int_equal(bench->edge.pulse.applied, 42);
    assert_int_equal(bench->edge.answers_at_last_pulse, 1);
}

static void later_readies_tell_the_applied_number(void **state)
{
    struct bench *bench = *state;

    edge_bind(&bench->edge, bench->loop, bench->directory, "edge-1", "authz");
    bench->edge.is_mute = true;
    assert_int_equal(open_bus(bench, SERVICE_AUTHZ, false), ERR_OK);
    bus_set_applied(bench->bus, 7);
    bus_set_ready(bench->bus, true);
    wait_for(bench, has_ready);
    assert_int_equal(bench->edge.ready.applied, 7);
}

static void goodbye_is_said_and_what_is_in_work_is_still_answered(void **state)
{
    struct bench *bench = *state;
    int readies;

    meet(bench, SERVICE_AUTHZ, false);
    bench->keeps_tokens = true;
    edge_send(&bench->edge, MESSAGE_verdict_request, 1, &(struct verdict_request){ .digest_size = 32 });
    wait_for(bench, has_request);
    bus_say_goodbye(bench->bus, "stopping");
    wait_for(bench, has_goodbye);
    assert_string_equal(bench->edge.goodbye.reason, "stopping");
    assert_int_equal(bus_edge_count(bench->bus), 0);
    assert_int_equal(bus_outstanding(bench->bus), 1);
    bus_reply(bench->bus, &bench->tokens[0], MESSAGE_verdict, &(struct verdict){ .error = 0 });
    bus_reply(bench->bus, &bench->tokens[0], MESSAGE_verdict, &(struct verdict){ .error = 0 });
    assert_int_equal(bus_outstanding(bench->bus), 0);
    wait_for(bench, has_answer);
    readies = bench->edge.readies;
    bus_set_ready(bench->bus, true);    /* it has left for good */
    let_pass(bench, 400);
    assert_int_equal(bench->edge.readies, readies);
}

static void a_worker_may_be_out_for_a_while(void **state)
{
    struct bench *bench = *state;

    meet(bench, SERVICE_AUTHZ, false);
    bus_set_ready(bench->bus, false);
    wait_for(bench, has_goodbye);
    assert_int_equal(bus_edge_count(bench->bus), 0);
    bus_set_ready(bench->bus, true);
    wait_for(bench, is_welcome);
    assert_true(bench->edge.readies >= 2);
    assert_int_equal(bench->downs, 0);
}

/* Who asks on_edge who is there would otherwise never hear of this edge. */
static void an_edge_that_welcomed_a_worker_on_its_way_out_is_told_of_later(void **state)
{
    struct bench *bench = *state;

    edge_bind(&bench->edge, bench->loop, bench->directory, "edge-1", "authz");
    bench->edge.is_mute = true;
    assert_int_equal(open_bus(bench, SERVICE_AUTHZ, false), ERR_OK);
    bus_set_ready(bench->bus, true);
    wait_for(bench, has_ready);
    bus_set_ready(bench->bus, false);
    edge_welcome(&bench->edge);
    wait_for(bench, has_goodbye);
    assert_int_equal(bench->ups, 0);
    bench->edge.is_mute = false;
    bus_set_ready(bench->bus, true);
    wait_for(bench, is_welcome);
    assert_int_equal(bench->ups, 1);
}

static void every_edge_of_the_directory_is_found(void **state)
{
    struct bench *bench = *state;

    meet(bench, SERVICE_AUTHZ, false);
    edge_bind(&bench->second, bench->loop, bench->directory, "edge-2", "authz");
    wait_for(bench, are_two_welcome);
    assert_int_equal(bench->ups, 2);
}

/* Over tcp with keys, named by a host name that the resolver must look up. */
static void an_edge_on_tcp_is_found_by_name_and_trusted_by_its_key(void **state)
{
    struct bench *bench = *state;
    struct edge *edge = &bench->edge;
    struct curve *curve = NULL;
    char keys[96], endpoint[128], why[256] = "";
    size_t size = sizeof endpoint;

    snprintf(keys, sizeof keys, "%s/keys", bench->directory);
    snprintf(bench->config.bus_keys, sizeof bench->config.bus_keys, "%s", keys);
    assert_int_equal(curve_make_keys(keys, false, why, sizeof why), ERR_OK);
    assert_int_equal(curve_new(SERVICE_EDGE, &bench->config, &curve, why, sizeof why), ERR_OK);
    edge->loop = bench->loop;
    edge->epoch = 1;
    edge->version = MESSAGES_VERSION;
    edge->context = zmq_ctx_new();
    edge->router = zmq_socket(edge->context, ZMQ_ROUTER);
    assert_int_equal(curve_serve(curve, edge->context, edge->router), ERR_OK);
    assert_int_equal(zmq_bind(edge->router, "tcp://127.0.0.1:*"), 0);
    assert_int_equal(zmq_getsockopt(edge->router, ZMQ_LAST_ENDPOINT, endpoint, &size), 0);
    assert_int_equal(loop_watch_socket(bench->loop, edge->router, edge_on_socket, edge), ERR_OK);
    snprintf(bench->config.edges, sizeof bench->config.edges, "tcp://localhost%s", strrchr(endpoint, ':'));
    assert_int_equal(open_bus(bench, SERVICE_AUTHZ, false), ERR_OK);
    bus_set_ready(bench->bus, true);
    wait_for(bench, is_welcome);
    edge_send(edge, MESSAGE_verdict_request, 1, &(struct verdict_request){ .digest_size = 32 });
    wait_for(bench, has_answer);
    edge_close(edge);
    curve_destroy(&curve);
    nftw(keys, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}

static void audit_hears_the_trail_and_speaks_on_replay(void **state)
{
    struct bench *bench = *state;
    struct trail_block block = { .block = { (const uint8_t *)"block", 5 } };
    char endpoint[192];
    struct outgoing frame;

    edge_bind(&bench->edge, bench->loop, bench->directory, "edge-1", "replay");
    bench->edge.trail = zmq_socket(bench->edge.context, ZMQ_PUB);
    snprintf(endpoint, sizeof endpoint, "ipc://%s/edge-1.trail", bench->directory);
    assert_int_equal(zmq_bind(bench->edge.trail, endpoint), 0);
    assert_int_equal(open_bus(bench, SERVICE_AUDIT, false), ERR_OK);
    bus_set_ready(bench->bus, true);
    wait_for(bench, is_welcome);
    begin(&bench->edge, &frame, 1);
    add(&frame, MESSAGE_trail_block, 0, 0, &block);
    for (int i = 0; i < 200 && bench->blocks == 0; i++) {    /* until the subscription has arrived */
        zmq_send(bench->edge.trail, frame.bytes, frame_end(&frame.writer), 0);
        let_pass(bench, 10);
    }
    wait_for(bench, has_block);
    bus_send(bench->bus, bench->tokens[0].edge, MESSAGE_trail_ack, 0,
             &(struct trail_ack){ .producer_size = 16, .next_seq = 9 });
    wait_for(bench, has_answer);
    assert_int_equal(bench->edge.answers[0].code, MESSAGE_trail_ack);
    unlink(endpoint + 6);
}

#define BENCH_TEST(test) cmocka_unit_test_setup_teardown(test, make_bench, free_bench)

int main(void)
{
    const struct CMUnitTest tests[] = {
        BENCH_TEST(settings_that_cannot_be_used_are_refused),
        BENCH_TEST(nothing_is_said_before_the_worker_is_ready),
        BENCH_TEST(ready_is_repeated_until_it_is_welcomed),
        BENCH_TEST(a_peer_that_may_not_be_an_edge_is_not_heard),
        BENCH_TEST(an_edge_of_a_foreign_version_is_not_used),
        BENCH_TEST(garbage_is_counted_and_harms_nothing),
        BENCH_TEST(a_message_for_another_role_is_refused_with_its_whole_frame),
        BENCH_TEST(a_request_of_another_epoch_is_not_done),
        BENCH_TEST(a_request_past_its_deadline_is_not_done),
        BENCH_TEST(a_batch_is_done_whole_or_not_at_all),
        BENCH_TEST(a_worker_that_is_unknown_says_ready_again),
        BENCH_TEST(a_silent_edge_is_connected_anew),
        BENCH_TEST(another_edge_at_the_same_address_gets_no_old_answers),
        BENCH_TEST(an_edge_that_has_gone_is_disconnected),
        BENCH_TEST(a_message_our_role_may_not_send_is_not_sent),
        BENCH_TEST(ready_tells_who_we_are_and_a_heartbeat_is_answered),
        BENCH_TEST(a_batch_is_answered_by_one_frame_that_names_it),
        BENCH_TEST(answers_of_two_batches_travel_in_frames_of_their_own),
        BENCH_TEST(answers_larger_than_a_frame_take_several),
        BENCH_TEST(a_pulse_never_overtakes_an_answer),
        BENCH_TEST(later_readies_tell_the_applied_number),
        BENCH_TEST(goodbye_is_said_and_what_is_in_work_is_still_answered),
        BENCH_TEST(a_worker_may_be_out_for_a_while),
        BENCH_TEST(an_edge_that_welcomed_a_worker_on_its_way_out_is_told_of_later),
        BENCH_TEST(every_edge_of_the_directory_is_found),
        BENCH_TEST(an_edge_on_tcp_is_found_by_name_and_trusted_by_its_key),
        BENCH_TEST(audit_hears_the_trail_and_speaks_on_replay),
    };

    loop_prepare_process();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
