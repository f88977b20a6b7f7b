/*
 * test_dispatch.c - the dispatcher against workers played by raw DEALERs: what is refused, lost, repeated and recorded.
 * No worker of ours is used, so both sides of the wire are held to the contract.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

#include "common/change.h"
#include "common/clock.h"
#include "common/curve.h"
#include "common/frame.h"
#include "common/log.h"
#include "common/metrics.h"
#include "common/scope.h"
#include "common/trail.h"
#include "services/edge/dispatch.h"

#define WAIT_US     10000000u
#define DEADLINE_US 8000000u
#define FRAMES_KEPT 64

/* ---- an edge in a directory of its own ------------------------------------------------------- */

struct edge {
    char dir[64], bus[96], spool[96];
    struct common_config config;
    struct streams *streams;
    struct servers *servers;
    struct dispatch_options options;
    struct dispatch *dispatch;
    void *context;
    unsigned port;                             /* tcp instead of ipc when it is not 0 */
    struct curve *curves[SERVICE_COUNT];       /* the workers' keys */
};

static void pause_briefly(void)
{
    nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
}

#define AWAIT(condition)                                                                      \
    for (uint64_t end_us = clock_monotonic_us() + WAIT_US; !(condition); pause_briefly())     \
        assert_true(clock_monotonic_us() < end_us)

static void prepare_edge(struct edge *edge)
{
    memset(edge, 0, sizeof *edge);
    strcpy(edge->dir, "/tmp/mcpgw-dispatch-XXXXXX");
    assert_non_null(mkdtemp(edge->dir));
    snprintf(edge->bus, sizeof edge->bus, "ipc://%s/edge-1", edge->dir);
    snprintf(edge->spool, sizeof edge->spool, "%s/spool", edge->dir);
    strcpy(edge->config.instance, "1");
    assert_int_equal(streams_new(16, &edge->streams), ERR_OK);
    assert_int_equal(servers_new(&edge->servers), ERR_OK);
    edge->options = (struct dispatch_options){
        .config = &edge->config, .bus = edge->bus, .bus_record = "", .spool_dir = edge->spool,
        .spool_bytes = 64 << 20, .segment_bytes = 8 << 20, .lease_ms = 400, .stale_grace_ms = 60000,
        .queue_limit = 4096, .attempt_ms = 50, .manage_ms = 8000, .calls_max = 64,
        .streams = edge->streams, .servers = edge->servers,
    };
    edge->context = zmq_ctx_new();
}

static void start_edge(struct edge *edge)
{
    char reason[256] = "";
    const enum err err = dispatch_new(&edge->options, &edge->dispatch, reason, sizeof reason);

    if (err != ERR_OK)
        print_message("%s\n", reason);
    assert_int_equal(err, ERR_OK);
}

static void open_edge(struct edge *edge)
{
    prepare_edge(edge);
    start_edge(edge);
}

static int remove_entry(const char *path, const struct stat *status, int flag, struct FTW *walk)
{
    (void)status, (void)flag, (void)walk;
    return remove(path);
}

static void close_edge(struct edge *edge)
{
    dispatch_destroy(&edge->dispatch);
    streams_destroy(&edge->streams);
    servers_destroy(&edge->servers);
    zmq_ctx_term(edge->context);
    for (enum service role = 0; role < SERVICE_COUNT; role++)
        curve_destroy(&edge->curves[role]);
    nftw(edge->dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

/* ---- a worker played by the test --------------------------------------------------------------- */

enum mode { ANSWER, HOLD };

struct kept {
    uint64_t batch, epoch;
    size_t size;
    uint8_t bytes[4096];
};

struct player {
    struct edge *edge;
    enum service role;
    uint8_t uuid[16];
    _Atomic enum mode mode;
    _Atomic uint32_t is_stopping, is_welcome, is_rejected, requests, feeds, holders;
    _Atomic uint64_t sequence;             /* keys: newest change */
    _Atomic uint64_t verdict_error, holders_applied;
    _Atomic bool wants_tokens, never_has_enough;
    _Atomic uint32_t tokens;               /* requests that carried one */
    char user_id[16], reject[201];
    struct change change;                  /* keys: sent once before the next feed when its sequence is set */
    _Atomic uint32_t has_change;
    pthread_mutex_t lock;
    uint32_t kept_count;
    struct kept kept[FRAMES_KEPT];
    pthread_t thread;
    void *socket;
};

static const char *suffix_of(enum service role)
{
    return role == SERVICE_AUDIT ? "replay" : service_text(role);
}

static void send_one(void *socket, uint64_t epoch, uint64_t batch, uint64_t request_id, uint16_t code, const void *message)
{
    static _Thread_local uint8_t bytes[FRAME_SIZE_MAX];
    struct frame_writer writer;

    frame_begin(&writer, bytes, sizeof bytes, MESSAGES_VERSION_OLDEST, epoch, batch);
    assert_int_equal(frame_add(&writer, message_type_of(code), 0, request_id, 0, message), ERR_OK);
    zmq_send(socket, bytes, frame_end(&writer), ZMQ_DONTWAIT);
}

static struct ready ready_of(const struct player *player)
{
    struct ready ready = { .role = player->role, .version = MESSAGES_VERSION, .worker_size = 16, .credits = 64, .pid = 1,
                           .build = "test" };

    memcpy(ready.worker, player->uuid, 16);
    return ready;
}

static void answer_keys(struct player *player, const struct frame_header *header, const struct frame_item *item)
{
    struct manage_reply reply = { .status = 201, .object = "k1", .body = { (const uint8_t *)"{\"id\":1}", 8 } };
    struct servers_page page = { .sequence = atomic_load(&player->sequence), .count = 1 };
    struct server_entry entry = { .slug = "demo", .url = "http://127.0.0.1:1/mcp", .enabled = true };
    struct feed_request asked;
    const char *field;

    if (item->type->code == MESSAGE_manage_request) {
        send_one(player->socket, header->epoch, header->batch, item->request_id, MESSAGE_manage_reply, &reply);
    } else if (item->type->code == MESSAGE_servers_request) {
        send_one(player->socket, header->epoch, header->batch, item->request_id, MESSAGE_server_entry, &entry);
        send_one(player->socket, header->epoch, header->batch, item->request_id, MESSAGE_servers_page, &page);
    } else if (item->type->code == MESSAGE_feed_request) {
        assert_int_equal(message_decode(item->type, header->version, item->body, item->body_size, &asked, &field), ERR_OK);
        if (atomic_exchange(&player->has_change, 0) != 0) {
            send_one(player->socket, header->epoch, header->batch, 0, MESSAGE_change, &player->change);
            atomic_store(&player->sequence, player->change.sequence);
        }
        struct feed feed = { .asked_us = asked.asked_us, .sequence = atomic_load(&player->sequence) };
        send_one(player->socket, header->epoch, header->batch, item->request_id, MESSAGE_feed, &feed);
        atomic_fetch_add(&player->feeds, 1);
    }
}

static bool lacks_token(struct player *player, const struct frame_header *header, const struct frame_item *item)
{
    struct verdict_request request;
    const char *field;

    if (item->type->code != MESSAGE_verdict_request || !atomic_load(&player->wants_tokens))
        return false;
    assert_int_equal(message_decode(item->type, header->version, item->body, item->body_size, &request, &field), ERR_OK);
    if (request.token.size == 0)
        return true;
    assert_int_equal(request.token.size, 5);
    assert_memory_equal(request.token.bytes, "a.b.c", 5);
    atomic_fetch_add(&player->tokens, 1);
    return atomic_load(&player->never_has_enough);
}

static void answer(struct player *player, const struct frame_header *header, const struct frame_item *item)
{
    struct verdict verdict = { .error = atomic_load(&player->verdict_error), .auth_method = AUTH_API_KEY, .scopes = SCOPE_ALL,
                               .tier = TIER_API_KEY, .tenant_id = "t1", .key_id = "key1" };
    struct charge charge = { .error = ERR_OK, .limit = 1000, .window_s = 3600, .remaining = 999, .policy = "api_key" };

    strcpy(verdict.user_id, player->user_id);
    if (lacks_token(player, header, item))
        verdict = (struct verdict){ .error = ERR_TOKEN_WANTED };
    else if (verdict.error != ERR_OK)
        strcpy(verdict.reason, "scope");
    if (item->type->code == MESSAGE_verdict_request)
        send_one(player->socket, header->epoch, header->batch, item->request_id, MESSAGE_verdict, &verdict);
    else if (item->type->code == MESSAGE_charge_request)
        send_one(player->socket, header->epoch, header->batch, item->request_id, MESSAGE_charge, &charge);
    else
        answer_keys(player, header, item);
}

static void keep_frame(struct player *player, const struct frame_header *header, zmq_msg_t *frame)
{
    struct kept *kept = &player->kept[player->kept_count % FRAMES_KEPT];

    pthread_mutex_lock(&player->lock);
    kept->batch = header->batch;
    kept->epoch = header->epoch;
    kept->size = zmq_msg_size(frame) < sizeof kept->bytes ? zmq_msg_size(frame) : sizeof kept->bytes;
    memcpy(kept->bytes, zmq_msg_data(frame), kept->size);
    player->kept_count++;
    pthread_mutex_unlock(&player->lock);
}

static void play_item(struct player *player, const struct frame_header *header, const struct frame_item *item)
{
    union { struct heartbeat heartbeat; struct reject reject; struct holders holders; } message;
    const char *field;

    switch (item->type->code) {
    case MESSAGE_welcome:
        atomic_store(&player->is_welcome, 1);
        return;
    case MESSAGE_reject:
        assert_int_equal(message_decode(item->type, header->version, item->body, item->body_size, &message, &field), ERR_OK);
        strcpy(player->reject, message.reject.reason);
        atomic_store(&player->is_rejected, 1);
        return;
    case MESSAGE_heartbeat:
        assert_int_equal(message_decode(item->type, header->version, item->body, item->body_size, &message, &field), ERR_OK);
        send_one(player->socket, 0, 0, 0, MESSAGE_pulse, &(struct pulse){ .echo_us = message.heartbeat.sent_us });
        return;
    case MESSAGE_holders:
        assert_int_equal(message_decode(item->type, header->version, item->body, item->body_size, &message, &field), ERR_OK);
        atomic_store(&player->holders_applied, message.holders.applied);
        atomic_store(&player->holders, message.holders.workers_size / 24);
        return;
    case MESSAGE_verdict_request:
    case MESSAGE_charge_request:
    case MESSAGE_manage_request:
        atomic_fetch_add(&player->requests, 1);
        break;
    default:
        break;
    }
    if (atomic_load(&player->mode) == ANSWER)
        answer(player, header, item);
}

static void play_frame(struct player *player, zmq_msg_t *frame)
{
    struct frame_reader reader;
    struct frame_item item;
    bool is_version_only, is_kept = false;

    assert_int_equal(frame_open(&reader, zmq_msg_data(frame), zmq_msg_size(frame), &is_version_only), ERR_OK);
    while (frame_next(&reader, &item)) {
        if (item.type->code > MESSAGE_goodbye && !is_kept) {
            keep_frame(player, &reader.header, frame);
            is_kept = true;
        }
        play_item(player, &reader.header, &item);
    }
}

static void *play(void *argument)
{
    struct player *player = argument;
    const struct ready ready = ready_of(player);
    uint64_t ready_us = 0;

    while (atomic_load(&player->is_stopping) == 0) {
        zmq_pollitem_t item = { player->socket, 0, ZMQ_POLLIN, 0 };

        if (atomic_load(&player->is_welcome) == 0 && clock_monotonic_us() > ready_us + 200000) {
            send_one(player->socket, 0, 0, 0, MESSAGE_ready, &ready);
            ready_us = clock_monotonic_us();
        }
        if (zmq_poll(&item, 1, 5) > 0) {
            zmq_msg_t frame;

            zmq_msg_init(&frame);
            if (zmq_msg_recv(&frame, player->socket, ZMQ_DONTWAIT) >= 0)
                play_frame(player, &frame);
            zmq_msg_close(&frame);
        }
    }
    zmq_close(player->socket);
    return NULL;
}

static void *connect_dealer(struct edge *edge, enum service role)
{
    void *socket = zmq_socket(edge->context, ZMQ_DEALER);
    const int zero = 0;
    char endpoint[128];

    zmq_setsockopt(socket, ZMQ_LINGER, &zero, sizeof zero);
    if (edge->port == 0) {
        snprintf(endpoint, sizeof endpoint, "%s.%s", edge->bus, suffix_of(role));
    } else {
        snprintf(endpoint, sizeof endpoint, "tcp://127.0.0.1:%u", edge->port + (unsigned)(role - SERVICE_AUTHZ));
        assert_int_equal(curve_join(edge->curves[role], socket), ERR_OK);
    }
    assert_int_equal(zmq_connect(socket, endpoint), 0);
    return socket;
}

static void begin_player(struct player *player, struct edge *edge, enum service role, enum mode mode)
{
    memset(player, 0, sizeof *player);
    player->edge = edge;
    player->role = role;
    pthread_mutex_init(&player->lock, NULL);
    strcpy(player->user_id, "u1");
    random_bytes(player->uuid, 16);
    atomic_store(&player->mode, mode);
    player->socket = connect_dealer(edge, role);
}

static void run_player(struct player *player)
{
    assert_int_equal(pthread_create(&player->thread, NULL, play, player), 0);
}

static void start_player(struct player *player, struct edge *edge, enum service role, enum mode mode)
{
    begin_player(player, edge, role, mode);
    run_player(player);
    AWAIT(atomic_load(&player->is_welcome) != 0);
}

/* As kill -9 does: the connection is cut, nothing is said. */
static void kill_player(struct player *player)
{
    atomic_store(&player->is_stopping, 1);
    pthread_join(player->thread, NULL);
    pthread_mutex_destroy(&player->lock);
}

/* ---- calls ------------------------------------------------------------------------------------------ */

struct caller {
    struct edge *edge;
    struct call call;
    uint8_t buffer[65536];
    pthread_t thread;
    _Atomic uint32_t is_done;
};

static void fill_call(struct caller *caller, struct edge *edge, uint32_t steps, const char *request_id)
{
    struct call *call = &caller->call;

    memset(caller, 0, sizeof *caller);
    caller->edge = edge;
    call->steps = steps;
    call->started_us = clock_monotonic_us();
    call->deadline_us = call->started_us + DEADLINE_US;
    call->status_if_ok = 200;
    call->verdict_request.method = AUTH_API_KEY;
    call->verdict_request.digest_size = 32;
    call->manage_request.operation = 1;
    call->reply_buffer = caller->buffer;
    strcpy(call->event.event, "request");
    strcpy(call->event.path, "/auth/check");
    snprintf(call->event.request_id, sizeof call->event.request_id, "%s", request_id);
    snprintf(call->manage_request.request_id, sizeof call->manage_request.request_id, "%s", request_id);
}

static void *make_call(void *argument)
{
    struct caller *caller = argument;

    dispatch_call(caller->edge->dispatch, &caller->call);
    atomic_store(&caller->is_done, 1);
    return NULL;
}

static void start_call(struct caller *caller)
{
    assert_int_equal(pthread_create(&caller->thread, NULL, make_call, caller), 0);
}

static enum err end_call(struct caller *caller)
{
    pthread_join(caller->thread, NULL);
    return caller->call.err;
}

static enum err call_now(struct edge *edge, uint32_t steps, const char *request_id)
{
    struct caller *caller = malloc(sizeof *caller);
    enum err err;

    fill_call(caller, edge, steps, request_id);
    make_call(caller);
    err = caller->call.err;
    free(caller);
    return err;
}

/* ---- the spool as it lies on disk --------------------------------------------------------------------- */

/* Looks through one segment; returns how many events `reason` or `request_id` names (NULL: any), the last in *ret_event. */
static unsigned scan_file(const char *path, const char *request_id, const char *reason, struct audit_event *ret_event)
{
    const int fd = open(path, O_RDONLY);
    struct trail_header header;
    unsigned found = 0;

    if (fd < 0)
        return 0;    /* acknowledged and unlinked meanwhile */
    const off_t size = lseek(fd, 0, SEEK_END);
    uint8_t *bytes = malloc((size_t)size + 1);

    assert_true(pread(fd, bytes, (size_t)size, 0) == size);
    close(fd);
    for (size_t at = 0; at < (size_t)size && trail_open(bytes + at, (size_t)size - at, &header) == ERR_OK; at += header.size) {
        struct trail_record record;
        struct audit_event event;
        size_t cursor = 0;
        uint32_t index;
        const char *field;

        while (trail_next(bytes + at, &header, &cursor, &index, &record)) {
            assert_int_equal(message_decode(record.type, header.version, record.body, record.body_size, &event, &field), ERR_OK);
            if ((request_id != NULL && strcmp(event.request_id, request_id) != 0)
                || (reason != NULL && strcmp(event.reason, reason) != 0))
                continue;
            found++;
            if (ret_event != NULL)
                *ret_event = event;
        }
    }
    free(bytes);
    return found;
}

static unsigned find_events(const struct edge *edge, const char *request_id, const char *reason, struct audit_event *ret_event)
{
    char slot[128], path[400];
    unsigned found = 0;

    snprintf(slot, sizeof slot, "%s/slot-0", edge->spool);
    DIR *dir = opendir(slot);
    assert_non_null(dir);
    for (const struct dirent *entry = readdir(dir); entry != NULL; entry = readdir(dir)) {
        if (strstr(entry->d_name, ".seg") == NULL)
            continue;
        snprintf(path, sizeof path, "%s/%s", slot, entry->d_name);
        found += scan_file(path, request_id, reason, ret_event);
    }
    closedir(dir);
    return found;
}

/* ---- refusals first -------------------------------------------------------------------------------------- */

static void without_a_worker_a_call_is_unavailable_at_its_deadline_and_recorded(void **state)
{
    struct edge edge;
    struct caller *caller = malloc(sizeof *caller);
    struct audit_event event;
    (void)state;

    open_edge(&edge);
    fill_call(caller, &edge, CALL_VERDICT | CALL_RECORD, "r-none");
    caller->call.deadline_us = clock_monotonic_us() + 50000;
    strcpy(caller->call.event.event, "decision");
    make_call(caller);
    assert_int_equal(caller->call.err, ERR_UNAVAILABLE);
    assert_int_equal(find_events(&edge, "r-none", NULL, &event), 1);
    assert_string_equal(event.event, "request");
    assert_string_equal(event.outcome, "failed");
    assert_int_equal(event.status, 503);
    free(caller);
    close_edge(&edge);
}

static void a_full_queue_refuses_with_overloaded(void **state)
{
    struct edge edge;
    struct caller *callers = calloc(4, sizeof *callers);
    unsigned overloaded = 0, unavailable = 0;
    (void)state;

    prepare_edge(&edge);
    edge.options.queue_limit = 1;
    start_edge(&edge);
    for (unsigned i = 0; i < 4; i++) {
        fill_call(&callers[i], &edge, CALL_VERDICT | CALL_RECORD, "r-full");
        callers[i].call.deadline_us = clock_monotonic_us() + 1500000;
        start_call(&callers[i]);
    }
    for (unsigned i = 0; i < 4; i++) {
        const enum err err = end_call(&callers[i]);

        overloaded += err == ERR_OVERLOADED;
        unavailable += err == ERR_UNAVAILABLE;
    }
    assert_int_equal(overloaded, 3);
    assert_int_equal(unavailable, 1);
    assert_int_equal(find_events(&edge, "r-full", NULL, NULL), 4);
    free(callers);
    close_edge(&edge);
}

static void a_worker_of_another_role_is_rejected(void **state)
{
    struct edge edge;
    struct player player;
    (void)state;

    open_edge(&edge);
    begin_player(&player, &edge, SERVICE_AUTHZ, ANSWER);
    player.role = SERVICE_RATELIMIT;    /* on the address of authz */
    run_player(&player);
    AWAIT(atomic_load(&player.is_rejected) != 0);
    assert_int_equal(atomic_load(&player.is_welcome), 0);
    kill_player(&player);
    close_edge(&edge);
}

static void a_role_that_its_user_may_not_speak_as_is_rejected(void **state)
{
    struct edge edge;
    struct player player;
    (void)state;

    prepare_edge(&edge);
    snprintf(edge.config.bus_uids, sizeof edge.config.bus_uids, "ratelimit=%u,authz=%u", (unsigned)getuid(),
             (unsigned)getuid() + 1);
    start_edge(&edge);
    begin_player(&player, &edge, SERVICE_AUTHZ, ANSWER);
    run_player(&player);
    AWAIT(atomic_load(&player.is_rejected) != 0);
    assert_int_equal(atomic_load(&player.is_welcome), 0);
    kill_player(&player);
    close_edge(&edge);
}

static void an_authz_whose_caches_lag_is_not_welcomed(void **state)
{
    struct edge edge;
    struct player keys, authz;
    const uint64_t before = metric_get(METRIC_bus_received);
    (void)state;

    open_edge(&edge);
    begin_player(&keys, &edge, SERVICE_KEYS, ANSWER);
    atomic_store(&keys.sequence, 9);
    run_player(&keys);
    AWAIT(streams_applied(edge.streams) == 9);
    begin_player(&authz, &edge, SERVICE_AUTHZ, ANSWER);    /* its READY says applied 0 */
    run_player(&authz);
    AWAIT(metric_get(METRIC_bus_received) > before + 40);
    assert_int_equal(atomic_load(&authz.is_welcome), 0);
    assert_int_equal(atomic_load(&authz.is_rejected), 0);
    kill_player(&authz);
    kill_player(&keys);
    close_edge(&edge);
}

static void a_second_edge_on_one_address_is_refused(void **state)
{
    struct edge edge;
    struct dispatch *second = NULL;
    char reason[256] = "";
    (void)state;

    open_edge(&edge);
    assert_int_equal(dispatch_new(&edge.options, &second, reason, sizeof reason), ERR_CONFLICT);
    assert_non_null(strstr(reason, "another edge"));
    assert_null(second);
    close_edge(&edge);
}

static void a_directory_open_to_others_is_refused(void **state)
{
    struct edge edge;
    char reason[256] = "";
    (void)state;

    prepare_edge(&edge);
    chmod(edge.dir, 0755);
    assert_int_equal(dispatch_new(&edge.options, &edge.dispatch, reason, sizeof reason), ERR_DENIED);
    assert_non_null(strstr(reason, "0700"));
    close_edge(&edge);
}

static void garbage_changes_nothing(void **state)
{
    struct edge edge;
    struct player authz;
    uint8_t bytes[200];
    const uint64_t before = metric_get(METRIC_bus_malformed);
    (void)state;

    open_edge(&edge);
    start_player(&authz, &edge, SERVICE_AUTHZ, ANSWER);
    for (enum service role = SERVICE_AUTHZ; role <= SERVICE_AUDIT; role++) {
        void *socket = connect_dealer(&edge, role);

        for (unsigned i = 0; i < 20; i++) {
            random_bytes(bytes, sizeof bytes);
            if (i % 2 == 0)
                memcpy(bytes, "MG\1\0\1\0\0\0", 8);
            assert_int_equal(zmq_send(socket, bytes, i * 10, 0), i * 10);
        }
        zmq_send(socket, "MG", 2, ZMQ_SNDMORE);
        zmq_send(socket, "three", 5, ZMQ_SNDMORE);
        zmq_send(socket, "parts", 5, 0);
        AWAIT(metric_get(METRIC_bus_malformed) >= before + 21 * (role - SERVICE_AUTHZ + 1));
        zmq_close(socket);
    }
    assert_int_equal(call_now(&edge, CALL_VERDICT | CALL_RECORD, "r-after"), ERR_OK);
    kill_player(&authz);
    close_edge(&edge);
}

static void a_reply_of_another_worker_or_another_request_is_dropped(void **state)
{
    struct edge edge;
    struct player holder, liar;
    struct caller *caller = malloc(sizeof *caller);
    struct verdict lie = { .error = ERR_OK, .auth_method = AUTH_API_KEY, .tier = TIER_ADMIN, .user_id = "mallory" };
    struct frame_reader reader;
    struct frame_item item;
    bool is_version_only;
    uint64_t before;
    (void)state;

    prepare_edge(&edge);
    edge.options.attempt_ms = 10000;
    start_edge(&edge);
    start_player(&holder, &edge, SERVICE_AUTHZ, HOLD);
    fill_call(caller, &edge, CALL_VERDICT, "r-lie");
    start_call(caller);
    AWAIT(atomic_load(&holder.requests) == 1);
    assert_int_equal(frame_open(&reader, holder.kept[0].bytes, holder.kept[0].size, &is_version_only), ERR_OK);
    assert_true(frame_next(&reader, &item));

    begin_player(&liar, &edge, SERVICE_AUTHZ, HOLD);
    before = metric_get(METRIC_bus_unexpected);
    send_one(liar.socket, reader.header.epoch, reader.header.batch, item.request_id, MESSAGE_verdict, &lie);
    AWAIT(metric_get(METRIC_bus_unexpected) == before + 1);    /* it never said READY */
    const struct ready ready = ready_of(&liar);
    send_one(liar.socket, 0, 0, 0, MESSAGE_ready, &ready);
    send_one(liar.socket, reader.header.epoch, reader.header.batch, item.request_id, MESSAGE_verdict, &lie);
    send_one(liar.socket, reader.header.epoch + 1, reader.header.batch, item.request_id, MESSAGE_verdict, &lie);
    send_one(liar.socket, reader.header.epoch, reader.header.batch, item.request_id + (1 << 20), MESSAGE_verdict, &lie);
    AWAIT(metric_get(METRIC_bus_unexpected) >= before + 4);
    assert_int_equal(atomic_load(&caller->is_done), 0);
    zmq_close(liar.socket);
    pthread_mutex_destroy(&liar.lock);

    struct player second;    /* the holder dies, and another answers truly */
    start_player(&second, &edge, SERVICE_AUTHZ, ANSWER);
    kill_player(&holder);
    assert_int_equal(end_call(caller), ERR_OK);
    assert_string_equal(caller->call.verdict.user_id, "u1");
    kill_player(&second);
    free(caller);
    close_edge(&edge);
}

static void a_refused_verdict_is_not_charged(void **state)
{
    struct edge edge;
    struct player authz, ratelimit;
    struct audit_event event;
    (void)state;

    open_edge(&edge);
    begin_player(&authz, &edge, SERVICE_AUTHZ, ANSWER);
    atomic_store(&authz.verdict_error, ERR_DENIED);
    run_player(&authz);
    start_player(&ratelimit, &edge, SERVICE_RATELIMIT, ANSWER);
    assert_int_equal(call_now(&edge, CALL_VERDICT | CALL_CHARGE | CALL_RECORD, "r-denied"), ERR_DENIED);
    assert_int_equal(atomic_load(&ratelimit.requests), 0);
    assert_int_equal(find_events(&edge, "r-denied", NULL, &event), 1);
    assert_string_equal(event.outcome, "refused");
    assert_string_equal(event.reason, "scope");
    assert_string_equal(event.key_id, "key1");
    assert_int_equal(event.status, 403);
    kill_player(&authz);
    kill_player(&ratelimit);
    close_edge(&edge);
}

static void a_good_verdict_does_not_open_what_is_foreign_or_nothing(void **state)
{
    struct edge edge;
    struct player authz, ratelimit;
    struct audit_event event;
    struct caller caller;
    (void)state;

    open_edge(&edge);
    start_player(&authz, &edge, SERVICE_AUTHZ, ANSWER);
    start_player(&ratelimit, &edge, SERVICE_RATELIMIT, ANSWER);
    fill_call(&caller, &edge, CALL_VERDICT | CALL_CHARGE | CALL_RECORD, "r-foreign");
    strcpy(caller.call.object_tenant, "t2");
    start_call(&caller);
    assert_int_equal(end_call(&caller), ERR_DENIED);
    fill_call(&caller, &edge, CALL_VERDICT | CALL_CHARGE | CALL_RECORD, "r-nothing");
    caller.call.object_err = ERR_UNAVAILABLE;
    start_call(&caller);
    assert_int_equal(end_call(&caller), ERR_UNAVAILABLE);
    assert_int_equal(atomic_load(&ratelimit.requests), 0);
    assert_int_equal(find_events(&edge, "r-foreign", NULL, &event), 1);
    assert_string_equal(event.outcome, "refused");
    assert_string_equal(event.reason, "server");
    assert_int_equal(event.status, 403);
    fill_call(&caller, &edge, CALL_VERDICT | CALL_CHARGE | CALL_RECORD, "r-own");
    strcpy(caller.call.object_tenant, "t1");
    start_call(&caller);
    assert_int_equal(end_call(&caller), ERR_OK);
    kill_player(&authz);
    kill_player(&ratelimit);
    close_edge(&edge);
}

/* ---- the way through ---------------------------------------------------------------------------------------- */

static void a_call_goes_through_verdict_charge_and_record(void **state)
{
    struct edge edge;
    struct player authz, ratelimit;
    struct caller *caller = malloc(sizeof *caller);
    struct audit_event event;
    (void)state;

    open_edge(&edge);
    start_player(&authz, &edge, SERVICE_AUTHZ, ANSWER);
    start_player(&ratelimit, &edge, SERVICE_RATELIMIT, ANSWER);
    for (unsigned i = 0; i < 50; i++) {
        char id[16];

        snprintf(id, sizeof id, "r-%u", i);
        fill_call(caller, &edge, CALL_VERDICT | CALL_CHARGE | CALL_RECORD, id);
        make_call(caller);
        assert_int_equal(caller->call.err, ERR_OK);
        assert_int_equal(caller->call.charge.remaining, 999);
        assert_int_equal(find_events(&edge, id, NULL, &event), 1);    /* before anyone could answer */
    }
    assert_string_equal(event.outcome, "allowed");
    assert_string_equal(event.user_id, "u1");
    assert_string_equal(event.tenant_id, "t1");
    assert_int_equal(event.status, 200);
    assert_int_equal(event.auth_method, AUTH_API_KEY);
    assert_int_equal(atomic_load(&ratelimit.requests), 50);
    kill_player(&authz);
    kill_player(&ratelimit);
    free(caller);
    close_edge(&edge);
}

static void count_answer(struct call *call)
{
    atomic_fetch_add((_Atomic uint32_t *)call->owner, call->err == ERR_OK ? 1 : 1000);
}

/* The dispatcher answers by itself: recorded before, and the call is done only after. */
static void a_call_with_an_answer_of_its_own_is_recorded_before_and_done_after_it(void **state)
{
    struct edge edge;
    struct player authz, ratelimit;
    struct caller *callers = calloc(20, sizeof *callers);
    _Atomic uint32_t answers = 0;
    (void)state;

    open_edge(&edge);
    start_player(&authz, &edge, SERVICE_AUTHZ, ANSWER);
    start_player(&ratelimit, &edge, SERVICE_RATELIMIT, ANSWER);
    for (unsigned i = 0; i < 20; i++) {
        fill_call(&callers[i], &edge, CALL_VERDICT | CALL_CHARGE | CALL_RECORD, "r-own-answer");
        callers[i].call.answer = count_answer;
        callers[i].call.owner = &answers;
        dispatch_begin(edge.dispatch, &callers[i].call);
        dispatch_rouse(edge.dispatch);
    }
    for (unsigned i = 0; i < 20; i++)
        dispatch_await(edge.dispatch, &callers[i].call);
    assert_int_equal(atomic_load(&answers), 20);
    assert_int_equal(find_events(&edge, "r-own-answer", NULL, NULL), 20);
    kill_player(&authz);
    kill_player(&ratelimit);
    close_edge(&edge);
    free(callers);
}

/* Small frames wait for the answer to the one before, but not for ever. */
static void a_frame_that_is_not_answered_does_not_keep_what_comes_after_it(void **state)
{
    struct edge edge;
    struct player authz;
    struct caller *callers = calloc(6, sizeof *callers);
    (void)state;

    open_edge(&edge);
    start_player(&authz, &edge, SERVICE_AUTHZ, HOLD);
    for (unsigned i = 0; i < 6; i++) {
        fill_call(&callers[i], &edge, CALL_VERDICT, "r-held");
        callers[i].call.deadline_us = clock_monotonic_us() + 1000000;
        start_call(&callers[i]);
        AWAIT(atomic_load(&authz.requests) > i);
    }
    for (unsigned i = 0; i < 6; i++)
        assert_int_equal(end_call(&callers[i]), ERR_UNAVAILABLE);
    kill_player(&authz);
    close_edge(&edge);
    free(callers);
}

static void a_strict_call_waits_for_the_disk(void **state)
{
    struct edge edge;
    (void)state;

    prepare_edge(&edge);
    edge.options.audit_strict = true;
    start_edge(&edge);
    for (unsigned i = 0; i < 20; i++)
        assert_int_equal(call_now(&edge, CALL_RECORD, "r-strict"), ERR_OK);
    assert_int_equal(find_events(&edge, "r-strict", NULL, NULL), 20);
    close_edge(&edge);
}

static void a_management_call_carries_its_principal_and_its_reply(void **state)
{
    struct edge edge;
    struct player authz, keys;
    struct caller *caller = malloc(sizeof *caller);
    struct audit_event event;
    (void)state;

    open_edge(&edge);
    start_player(&authz, &edge, SERVICE_AUTHZ, ANSWER);
    start_player(&keys, &edge, SERVICE_KEYS, ANSWER);
    fill_call(caller, &edge, CALL_VERDICT | CALL_MANAGE | CALL_RECORD, "r-manage");
    make_call(caller);
    assert_int_equal(caller->call.err, ERR_OK);
    assert_int_equal(caller->call.reply.status, 201);
    assert_int_equal(caller->call.reply.body.size, 8);
    assert_memory_equal(caller->buffer, "{\"id\":1}", 8);
    assert_string_equal(caller->call.manage_request.user_id, "u1");
    assert_int_equal(find_events(&edge, "r-manage", NULL, &event), 1);
    assert_int_equal(event.status, 201);
    assert_string_equal(event.outcome, "allowed");
    kill_player(&authz);
    kill_player(&keys);
    free(caller);
    close_edge(&edge);
}

static void many_threads_are_answered_each_with_its_own(void **state)
{
    struct edge edge;
    struct player authz[2], ratelimit[2];
    struct caller *callers = calloc(32, sizeof *callers);
    (void)state;

    open_edge(&edge);
    for (unsigned i = 0; i < 2; i++) {
        start_player(&authz[i], &edge, SERVICE_AUTHZ, ANSWER);
        start_player(&ratelimit[i], &edge, SERVICE_RATELIMIT, ANSWER);
    }
    for (unsigned round = 0; round < 20; round++) {
        for (unsigned i = 0; i < 32; i++) {
            fill_call(&callers[i], &edge, CALL_VERDICT | CALL_CHARGE | CALL_RECORD, "r-many");
            start_call(&callers[i]);
        }
        for (unsigned i = 0; i < 32; i++)
            assert_int_equal(end_call(&callers[i]), ERR_OK);
    }
    assert_int_equal(find_events(&edge, "r-many", NULL, NULL), 640);
    assert_true(dispatch_is_idle(edge.dispatch));
    for (unsigned i = 0; i < 2; i++) {
        kill_player(&authz[i]);
        kill_player(&ratelimit[i]);
    }
    free(callers);
    close_edge(&edge);
}

/* Takes five free ports in a row; another process may be quicker, so several are tried. */
static void start_on_tcp(struct edge *edge)
{
    char reason[256] = "";
    enum err err = ERR_CONFLICT;

    edge->options.bus = edge->bus;
    for (unsigned attempt = 0; attempt < 50 && err == ERR_CONFLICT; attempt++) {
        edge->port = 20000 + (unsigned)(random_u64() % 8000) * 5;
        snprintf(edge->bus, sizeof edge->bus, "tcp://127.0.0.1:%u", edge->port);
        err = dispatch_new(&edge->options, &edge->dispatch, reason, sizeof reason);
    }
    if (err != ERR_OK)
        print_message("%s\n", reason);
    assert_int_equal(err, ERR_OK);
}

static void over_tcp_only_a_worker_with_the_key_of_its_role_is_heard(void **state)
{
    struct edge edge;
    struct player authz, impostor;
    char reason[256] = "";
    (void)state;

    prepare_edge(&edge);
    edge.options.bus = "tcp://127.0.0.1:21000";
    assert_int_equal(dispatch_new(&edge.options, &edge.dispatch, reason, sizeof reason), ERR_DENIED);    /* no keys */
    snprintf(edge.config.bus_keys, sizeof edge.config.bus_keys, "%s/keys", edge.dir);
    assert_int_equal(mkdir(edge.config.bus_keys, 0700), 0);
    assert_int_equal(curve_make_keys(edge.config.bus_keys, false, reason, sizeof reason), ERR_OK);
    for (enum service role = SERVICE_AUTHZ; role < SERVICE_COUNT; role++)
        assert_int_equal(curve_new(role, &edge.config, &edge.curves[role], reason, sizeof reason), ERR_OK);
    start_on_tcp(&edge);
    start_player(&authz, &edge, SERVICE_AUTHZ, ANSWER);
    assert_int_equal(call_now(&edge, CALL_VERDICT | CALL_RECORD, "r-tcp"), ERR_OK);

    struct curve *own = edge.curves[SERVICE_AUTHZ];
    edge.curves[SERVICE_AUTHZ] = edge.curves[SERVICE_RATELIMIT];    /* ratelimit's key on the address of authz */
    begin_player(&impostor, &edge, SERVICE_AUTHZ, ANSWER);
    edge.curves[SERVICE_AUTHZ] = own;
    run_player(&impostor);
    AWAIT(atomic_load(&impostor.is_rejected) != 0);
    assert_int_equal(atomic_load(&impostor.is_welcome), 0);
    kill_player(&impostor);
    kill_player(&authz);
    close_edge(&edge);
}

/* ---- death ----------------------------------------------------------------------------------------------------- */

static void what_a_killed_worker_had_is_answered_by_another(void **state)
{
    static const enum service roles[] = { SERVICE_AUTHZ, SERVICE_RATELIMIT, SERVICE_KEYS };
    struct edge edge;
    struct player authz, held, other;
    struct caller *caller = malloc(sizeof *caller);
    (void)state;

    prepare_edge(&edge);
    edge.options.attempt_ms = 10000;    /* so that it is the death that counts */
    start_edge(&edge);
    for (unsigned i = 0; i < 3; i++) {
        if (roles[i] != SERVICE_AUTHZ)
            start_player(&authz, &edge, SERVICE_AUTHZ, ANSWER);
        start_player(&held, &edge, roles[i], HOLD);
        fill_call(caller, &edge, roles[i] == SERVICE_AUTHZ ? CALL_VERDICT : roles[i] == SERVICE_KEYS
                  ? CALL_VERDICT | CALL_MANAGE : CALL_VERDICT | CALL_CHARGE, "r-kill");
        start_call(caller);
        AWAIT(atomic_load(&held.requests) == 1);
        start_player(&other, &edge, roles[i], ANSWER);
        kill_player(&held);
        assert_int_equal(end_call(caller), ERR_OK);
        assert_int_equal(atomic_load(&other.requests), 1);
        kill_player(&other);
        if (roles[i] != SERVICE_AUTHZ)
            kill_player(&authz);
    }
    free(caller);
    close_edge(&edge);
}

static const struct kept *charge_frame(struct player *player)
{
    for (unsigned i = 0; i < player->kept_count && i < FRAMES_KEPT; i++) {
        struct frame_reader reader;
        struct frame_item item;
        bool is_version_only;

        assert_int_equal(frame_open(&reader, player->kept[i].bytes, player->kept[i].size, &is_version_only), ERR_OK);
        assert_true(frame_next(&reader, &item));
        if (item.type->code == MESSAGE_charge_request)
            return &player->kept[i];
    }
    return NULL;
}

static void a_repeated_charge_is_the_same_bytes_with_the_same_batch(void **state)
{
    struct edge edge;
    struct player authz, first, second;
    struct caller *caller = malloc(sizeof *caller);
    const struct kept *a, *b;
    (void)state;

    open_edge(&edge);
    start_player(&authz, &edge, SERVICE_AUTHZ, ANSWER);
    start_player(&first, &edge, SERVICE_RATELIMIT, HOLD);
    fill_call(caller, &edge, CALL_VERDICT | CALL_CHARGE, "r-batch");
    start_call(caller);
    AWAIT(atomic_load(&first.requests) == 1);
    kill_player(&first);
    start_player(&second, &edge, SERVICE_RATELIMIT, ANSWER);
    assert_int_equal(end_call(caller), ERR_OK);
    kill_player(&second);
    kill_player(&authz);
    a = charge_frame(&first);
    b = charge_frame(&second);
    assert_non_null(a);
    assert_non_null(b);
    assert_int_equal(a->batch, b->batch);
    assert_int_equal(a->epoch, b->epoch);
    assert_int_equal(a->size, b->size);
    assert_memory_equal(a->bytes, b->bytes, a->size);
    free(caller);
    close_edge(&edge);
}

/* Each worker that the first batch was sent to dies; the second one has had only the last of them. */
static void a_batch_that_no_worker_may_have_again_holds_up_no_other(void **state)
{
    struct edge edge;
    struct player authz, dying, well;
    struct caller first, second;
    (void)state;

    open_edge(&edge);
    start_player(&authz, &edge, SERVICE_AUTHZ, ANSWER);
    start_player(&dying, &edge, SERVICE_RATELIMIT, HOLD);
    fill_call(&first, &edge, CALL_VERDICT | CALL_CHARGE, "r-first");
    start_call(&first);
    for (unsigned i = 0; i < 2; i++) {
        AWAIT(atomic_load(&dying.requests) == 1);
        kill_player(&dying);
        start_player(&dying, &edge, SERVICE_RATELIMIT, HOLD);
    }
    AWAIT(atomic_load(&dying.requests) == 1);
    fill_call(&second, &edge, CALL_VERDICT | CALL_CHARGE, "r-second");
    start_call(&second);
    AWAIT(atomic_load(&dying.requests) == 2);
    kill_player(&dying);
    start_player(&well, &edge, SERVICE_RATELIMIT, ANSWER);
    assert_int_equal(end_call(&second), ERR_OK);
    assert_int_equal(atomic_load(&first.is_done), 0);    /* it waits for its deadline alone */
    assert_int_equal(end_call(&first), ERR_UNAVAILABLE);
    kill_player(&authz);
    kill_player(&well);
    close_edge(&edge);
}

static void a_hung_worker_fails_no_call(void **state)
{
    struct edge edge;
    struct player hung, well;
    struct player charge_hung, charge_well;
    (void)state;

    open_edge(&edge);
    start_player(&hung, &edge, SERVICE_AUTHZ, HOLD);    /* it goes on pulsing: only its answers are missing */
    start_player(&well, &edge, SERVICE_AUTHZ, ANSWER);
    start_player(&charge_hung, &edge, SERVICE_RATELIMIT, HOLD);
    start_player(&charge_well, &edge, SERVICE_RATELIMIT, ANSWER);
    for (unsigned i = 0; i < 20; i++)
        assert_int_equal(call_now(&edge, CALL_VERDICT | CALL_CHARGE, "r-hung"), ERR_OK);
    kill_player(&hung);
    kill_player(&well);
    kill_player(&charge_hung);
    kill_player(&charge_well);
    close_edge(&edge);
}

/* ---- changes, servers, holders ------------------------------------------------------------------------------------ */

static void a_change_ends_the_stream_it_names_and_reaches_the_holders(void **state)
{
    struct edge edge;
    struct player keys, authz;
    struct stream stream = { .wake_fd = eventfd(0, EFD_NONBLOCK) };
    const struct verdict verdict = { .key_id = "key1", .user_id = "u1", .tenant_id = "t1" };
    struct server_entry entry;
    (void)state;

    open_edge(&edge);
    assert_int_equal(servers_find(edge.servers, "demo", &entry), ERR_UNAVAILABLE);
    start_player(&authz, &edge, SERVICE_AUTHZ, ANSWER);
    begin_player(&keys, &edge, SERVICE_KEYS, ANSWER);
    run_player(&keys);
    AWAIT(servers_is_loaded(edge.servers));
    assert_int_equal(servers_find(edge.servers, "demo", &entry), ERR_OK);
    assert_int_equal(servers_find(edge.servers, "other", &entry), ERR_NOT_FOUND);
    AWAIT(atomic_load(&keys.holders) == 1);
    assert_int_equal(streams_open(edge.streams, &stream, &verdict, "demo"), ERR_OK);
    assert_null(streams_ended_by(&stream));
    keys.change = (struct change){ .sequence = 1, .kind = CHANGE_KEY, .key_id = "key1" };
    atomic_store(&keys.has_change, 1);
    AWAIT(streams_ended_by(&stream) != NULL);
    assert_string_equal(streams_ended_by(&stream), "change");
    assert_int_equal(streams_applied(edge.streams), 1);
    AWAIT(atomic_load(&keys.holders_applied) == 1);
    streams_close(edge.streams, &stream);
    close(stream.wake_fd);
    kill_player(&keys);
    kill_player(&authz);
    close_edge(&edge);
}

static void without_a_feed_streams_end(void **state)
{
    struct edge edge;
    struct player keys;
    struct stream stream = { .wake_fd = eventfd(0, EFD_NONBLOCK) };
    const struct verdict verdict = { .key_id = "key1" };
    (void)state;

    prepare_edge(&edge);
    edge.options.stale_grace_ms = 100;
    start_edge(&edge);
    begin_player(&keys, &edge, SERVICE_KEYS, ANSWER);
    run_player(&keys);
    AWAIT(atomic_load(&keys.feeds) > 2);
    assert_int_equal(streams_open(edge.streams, &stream, &verdict, "demo"), ERR_OK);
    kill_player(&keys);
    AWAIT(streams_ended_by(&stream) != NULL);
    assert_string_equal(streams_ended_by(&stream), "lease");
    streams_close(edge.streams, &stream);
    close(stream.wake_fd);
    close_edge(&edge);
}

/* Otherwise no authz worker that starts after the restoration would ever be welcome. */
static void an_edge_follows_a_database_whose_numbers_fell(void **state)
{
    struct edge edge;
    struct player keys;
    struct stream stream = { .wake_fd = eventfd(0, EFD_NONBLOCK), .opened_at = 10 };
    const struct verdict verdict = { .key_id = "key1" };
    (void)state;

    open_edge(&edge);
    begin_player(&keys, &edge, SERVICE_KEYS, ANSWER);
    atomic_store(&keys.sequence, 10);
    run_player(&keys);
    AWAIT(streams_applied(edge.streams) == 10);
    assert_int_equal(streams_open(edge.streams, &stream, &verdict, "demo"), ERR_OK);
    assert_null(streams_ended_by(&stream));
    atomic_store(&keys.sequence, 5);
    AWAIT(streams_applied(edge.streams) == 5);
    assert_string_equal(streams_ended_by(&stream), "change");
    streams_close(edge.streams, &stream);
    assert_int_equal(streams_open(edge.streams, &stream, &verdict, "demo"), ERR_OK);
    assert_string_equal(streams_ended_by(&stream), "change");    /* judged in the former history */
    streams_close(edge.streams, &stream);
    AWAIT(atomic_load(&keys.holders_applied) == 5);
    close(stream.wake_fd);
    kill_player(&keys);
    close_edge(&edge);
}

/* ---- the spool's end, and junk ---------------------------------------------------------------------------------------- */

static void read_producer(const struct edge *edge, uint8_t ret_producer[16])
{
    char path[160], text[UUID_TEXT_SIZE] = "";

    snprintf(path, sizeof path, "%s/slot-0/uuid", edge->spool);
    const int fd = open(path, O_RDONLY);
    assert_true(read(fd, text, 36) == 36);
    close(fd);
    assert_true(uuid_parse(text, ret_producer));
}

/* Adds up the records of the blocks in a frame that follow on *seq; true once the replay's end is in it. */
static bool count_replayed(zmq_msg_t *frame, uint64_t *seq, struct replay_end *ret_end)
{
    struct frame_reader reader;
    struct frame_item item;
    bool is_version_only, is_over = false;
    const char *field;

    assert_int_equal(frame_open(&reader, zmq_msg_data(frame), zmq_msg_size(frame), &is_version_only), ERR_OK);
    while (frame_next(&reader, &item)) {
        struct trail_block block;
        struct trail_header header;

        if (item.type->code == MESSAGE_trail_block) {
            assert_int_equal(message_decode(item.type, reader.header.version, item.body, item.body_size, &block, &field), ERR_OK);
            assert_int_equal(trail_open(block.block.bytes, block.block.size, &header), ERR_OK);
            assert_int_equal(header.first_seq, *seq);
            *seq += header.count;
        } else if (item.type->code == MESSAGE_replay_end) {
            assert_int_equal(message_decode(item.type, reader.header.version, item.body, item.body_size, ret_end, &field), ERR_OK);
            is_over = true;
        }
    }
    return is_over;
}

static void replay_from(struct player *audit, const struct replay_request *request, uint64_t *seq, struct replay_end *ret_end)
{
    bool is_over = false;

    send_one(audit->socket, 0, 0, 0, MESSAGE_replay_request, request);
    while (!is_over) {
        zmq_pollitem_t item = { audit->socket, 0, ZMQ_POLLIN, 0 };
        zmq_msg_t frame;

        assert_int_equal(zmq_poll(&item, 1, 10000), 1);
        zmq_msg_init(&frame);
        assert_true(zmq_msg_recv(&frame, audit->socket, 0) >= 0);
        is_over = count_replayed(&frame, seq, ret_end);
        zmq_msg_close(&frame);
        send_one(audit->socket, 0, 0, 0, MESSAGE_pulse, &(struct pulse){ 0 });
    }
}

static void what_nobody_heard_is_replayed_in_order(void **state)
{
    struct edge edge;
    struct player audit;
    struct replay_request request = { .producer_size = 16, .epoch = 1, .from_seq = 1, .max_bytes = 1 << 20 };
    struct replay_end end = { .error = ERR_BUG };
    uint64_t seq = 1;
    (void)state;

    open_edge(&edge);
    for (unsigned i = 0; i < 700; i++)
        assert_int_equal(call_now(&edge, CALL_RECORD, "r-replay"), ERR_OK);
    begin_player(&audit, &edge, SERVICE_AUDIT, ANSWER);
    const struct ready ready = ready_of(&audit);
    send_one(audit.socket, 0, 0, 0, MESSAGE_ready, &ready);
    read_producer(&edge, request.producer);
    replay_from(&audit, &request, &seq, &end);
    assert_int_equal(end.error, ERR_OK);
    assert_int_equal(end.next_seq, 701);
    assert_int_equal(seq, 701);

    request.from_seq = 690;
    seq = 690;
    replay_from(&audit, &request, &seq, &end);
    assert_int_equal(seq, 701);
    request.epoch = 7;
    replay_from(&audit, &request, &seq, &end);
    assert_int_equal(end.error, ERR_NOT_FOUND);
    zmq_close(audit.socket);
    pthread_mutex_destroy(&audit.lock);
    close_edge(&edge);
}

static void acknowledge_all(struct edge *edge, struct player *audit, uint64_t epoch)
{
    struct trail_ack ack = { .producer_size = 16, .epoch = epoch };
    uint64_t low = 1;

    read_producer(edge, ack.producer);
    for (ack.next_seq = 1; low < 40000; low += 100, ack.next_seq = low)    /* one beyond what exists changes nothing */
        send_one(audit->socket, 0, 0, 0, MESSAGE_trail_ack, &ack);
}

static void a_full_spool_refuses_and_later_tells_how_many(void **state)
{
    struct edge edge;
    struct player audit;
    struct audit_event event = { 0 };
    struct caller *caller = malloc(sizeof *caller);
    uint64_t refused = 0;
    (void)state;

    prepare_edge(&edge);
    edge.options.spool_bytes = 524288;
    edge.options.segment_bytes = 131072;
    start_edge(&edge);
    begin_player(&audit, &edge, SERVICE_AUDIT, ANSWER);
    for (unsigned i = 0; i < 20000 && refused < 5; i++) {
        /* with no worker these end at once, so each must leave one event or be refused */
        fill_call(caller, &edge, CALL_VERDICT | CALL_RECORD, "r-disk");
        caller->call.deadline_us = 1;
        make_call(caller);
        refused += caller->call.err == ERR_AUDIT_UNAVAILABLE;
    }
    assert_int_equal(refused, 5);
    const struct ready ready = ready_of(&audit);
    send_one(audit.socket, 0, 0, 0, MESSAGE_ready, &ready);
    acknowledge_all(&edge, &audit, 1);
    AWAIT(find_events(&edge, NULL, "audit_unavailable", &event) > 0);
    assert_int_equal(find_events(&edge, NULL, "audit_unavailable", NULL), 1);
    assert_int_equal(event.count, 5);
    assert_int_equal(call_now(&edge, CALL_RECORD, "r-again"), ERR_OK);
    assert_int_equal(find_events(&edge, "r-again", NULL, NULL), 1);
    zmq_close(audit.socket);
    pthread_mutex_destroy(&audit.lock);
    free(caller);
    close_edge(&edge);
}

static void refusals_are_counted_exactly_and_cost_one_event(void **state)
{
    struct edge edge;
    struct audit_event event;
    (void)state;

    open_edge(&edge);
    for (unsigned i = 0; i < 1000; i++)
        dispatch_count_refusal(edge.dispatch, "10.0.0.9", "malformed", 400);
    dispatch_drain(edge.dispatch);
    AWAIT(find_events(&edge, NULL, "malformed", &event) == 1);
    assert_string_equal(event.event, "refused");
    assert_string_equal(event.address, "10.0.0.9");
    assert_int_equal(event.count, 1000);
    assert_int_equal(event.status, 400);
    close_edge(&edge);
}

static void an_event_with_foreign_bytes_is_bent_and_not_lost(void **state)
{
    struct edge edge;
    struct caller *caller = malloc(sizeof *caller);
    struct audit_event event;
    (void)state;

    open_edge(&edge);
    fill_call(caller, &edge, CALL_RECORD, "r-bent");
    strcpy(caller->call.event.path, "/a\x80\nb");
    make_call(caller);
    assert_int_equal(caller->call.err, ERR_OK);
    assert_int_equal(find_events(&edge, "r-bent", NULL, &event), 1);
    assert_string_equal(event.path, "/a??b");
    free(caller);
    close_edge(&edge);
}

static unsigned recordings(const char *dir, const char *name, char *ret_text, size_t size)
{
    char path[200];
    unsigned count = 0;

    for (unsigned i = 0; i < 30; i++) {
        snprintf(path, sizeof path, "%s/%s.%u.hex", dir, name, i);
        FILE *file = fopen(path, "r");
        if (file == NULL)
            break;
        ret_text[fread(ret_text, 1, size - 1, file)] = '\0';
        fclose(file);
        count++;
    }
    return count;
}

static void recordings_hold_no_secret(void **state)
{
    struct edge edge;
    struct player authz, keys;
    struct caller *caller = malloc(sizeof *caller);
    char dir[128], text[4096], hex[64];
    static const char body[] = "{\"name\":\"a\",\"key\":\r\n\"mcp_secret\",\"k\\u0065y\":\"mcp_1spelledOtherwise\"}";
    (void)state;

    prepare_edge(&edge);
    snprintf(dir, sizeof dir, "%s/recorded", edge.dir);
    edge.options.bus_record = dir;
    start_edge(&edge);
    start_player(&authz, &edge, SERVICE_AUTHZ, ANSWER);
    start_player(&keys, &edge, SERVICE_KEYS, ANSWER);
    for (unsigned i = 0; i < 25; i++) {
        fill_call(caller, &edge, CALL_VERDICT | CALL_MANAGE, "r-rec");
        memset(caller->call.verdict_request.digest, 0xab, 32);
        caller->call.manage_request.body = (struct view){ (const uint8_t *)body, sizeof body - 1 };
        make_call(caller);
        assert_int_equal(caller->call.err, ERR_OK);
    }
    assert_int_equal(recordings(dir, "verdict_request", text, sizeof text), 20);
    assert_int_equal(strncmp(text, "# verdict_request ", 18), 0);
    assert_null(strstr(text, "abababab"));
    assert_true(recordings(dir, "manage_request", text, sizeof text) > 0);
    hex_encode((const uint8_t *)"mcp_secret", 10, hex);
    assert_null(strstr(text, "mcp_secret"));
    assert_null(strstr(text, hex));
    hex_encode((const uint8_t *)"Otherwise", 9, hex);
    assert_null(strstr(text, "Otherwise"));
    assert_null(strstr(text, hex));
    kill_player(&authz);
    kill_player(&keys);
    free(caller);
    close_edge(&edge);
}

/* The error of a call with this token to an authz that has seen none. */
static enum err call_with_token(struct edge *edge, struct player *authz, const char *token)
{
    struct caller *caller = malloc(sizeof *caller);
    enum err err;

    atomic_store(&authz->wants_tokens, true);
    fill_call(caller, edge, CALL_VERDICT, "r1");
    caller->call.verdict_request.method = AUTH_OAUTH;
    caller->call.token = (struct view){ (const uint8_t *)token, strlen(token) };
    make_call(caller);
    err = caller->call.err;
    free(caller);
    return err;
}

static void an_authz_that_wants_the_token_gets_it_once(void **state)
{
    struct edge edge;
    struct player authz;
    (void)state;

    open_edge(&edge);
    start_player(&authz, &edge, SERVICE_AUTHZ, ANSWER);
    assert_int_equal(call_with_token(&edge, &authz, "a.b.c"), ERR_OK);
    assert_int_equal(atomic_load(&authz.requests), 2);
    assert_int_equal(atomic_load(&authz.tokens), 1);
    kill_player(&authz);
    close_edge(&edge);
}

static void who_wants_a_token_where_there_is_none_or_more_than_it_is_unavailable(void **state)
{
    static const char *const tokens[] = { "", "a.b.c" };
    struct edge edge;
    struct player authz;
    (void)state;

    for (size_t i = 0; i < 2; i++) {
        open_edge(&edge);
        start_player(&authz, &edge, SERVICE_AUTHZ, ANSWER);
        atomic_store(&authz.never_has_enough, true);
        assert_int_equal(call_with_token(&edge, &authz, tokens[i]), ERR_UNAVAILABLE);
        assert_int_equal(atomic_load(&authz.requests), i + 1);
        kill_player(&authz);
        close_edge(&edge);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_a_worker_a_call_is_unavailable_at_its_deadline_and_recorded),
        cmocka_unit_test(a_full_queue_refuses_with_overloaded),
        cmocka_unit_test(a_worker_of_another_role_is_rejected),
        cmocka_unit_test(a_role_that_its_user_may_not_speak_as_is_rejected),
        cmocka_unit_test(an_authz_whose_caches_lag_is_not_welcomed),
        cmocka_unit_test(a_second_edge_on_one_address_is_refused),
        cmocka_unit_test(a_directory_open_to_others_is_refused),
        cmocka_unit_test(garbage_changes_nothing),
        cmocka_unit_test(a_reply_of_another_worker_or_another_request_is_dropped),
        cmocka_unit_test(a_refused_verdict_is_not_charged),
        cmocka_unit_test(a_good_verdict_does_not_open_what_is_foreign_or_nothing),
        cmocka_unit_test(a_call_goes_through_verdict_charge_and_record),
        cmocka_unit_test(a_call_with_an_answer_of_its_own_is_recorded_before_and_done_after_it),
        cmocka_unit_test(a_frame_that_is_not_answered_does_not_keep_what_comes_after_it),
        cmocka_unit_test(a_strict_call_waits_for_the_disk),
        cmocka_unit_test(a_management_call_carries_its_principal_and_its_reply),
        cmocka_unit_test(many_threads_are_answered_each_with_its_own),
        cmocka_unit_test(over_tcp_only_a_worker_with_the_key_of_its_role_is_heard),
        cmocka_unit_test(what_a_killed_worker_had_is_answered_by_another),
        cmocka_unit_test(a_repeated_charge_is_the_same_bytes_with_the_same_batch),
        cmocka_unit_test(a_batch_that_no_worker_may_have_again_holds_up_no_other),
        cmocka_unit_test(a_hung_worker_fails_no_call),
        cmocka_unit_test(a_change_ends_the_stream_it_names_and_reaches_the_holders),
        cmocka_unit_test(without_a_feed_streams_end),
        cmocka_unit_test(an_edge_follows_a_database_whose_numbers_fell),
        cmocka_unit_test(a_full_spool_refuses_and_later_tells_how_many),
        cmocka_unit_test(what_nobody_heard_is_replayed_in_order),
        cmocka_unit_test(refusals_are_counted_exactly_and_cost_one_event),
        cmocka_unit_test(an_event_with_foreign_bytes_is_bent_and_not_lost),
        cmocka_unit_test(recordings_hold_no_secret),
        cmocka_unit_test(an_authz_that_wants_the_token_gets_it_once),
        cmocka_unit_test(who_wants_a_token_where_there_is_none_or_more_than_it_is_unavailable),
    };

    log_setup("test", "1", LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
