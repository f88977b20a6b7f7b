#include "cli/bus_replay.h"

#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <zmq.h>

#include "cli/fixture.h"
#include "common/clock.h"
#include "common/encode.h"
#include "common/frame.h"
#include "common/trail.h"

#define HEARTBEAT_US   100000u
#define IDENTITY_MAX   256u

struct player {
    void *socket;
    const char *role;
    uint8_t identity[IDENTITY_MAX];      /* of the worker; size 0: none said READY yet */
    size_t identity_size;
    uint8_t edge[UUID_SIZE];
    uint64_t epoch, beat_us;
    uint64_t waited_id;                  /* request whose replies are awaited */
    unsigned replies;
    void *publisher;                     /* of the trail; NULL: the role is not audit */
    uint8_t producer[UUID_SIZE];         /* of recorded events, which belong to no block */
    uint64_t next_seq;
    struct trail_header header;          /* of the block whose acknowledgement is awaited; size 0: none */
    uint8_t block[TRAIL_BLOCK_MAX];
};

static bool publish_one(struct player *player, uint16_t code, const void *message)
{
    uint8_t buffer[FRAME_SIZE_MAX + FRAME_TRAIL_MAX];
    struct frame_writer writer;

    frame_begin(&writer, buffer, sizeof buffer, MESSAGES_VERSION_OLDEST, player->epoch, player->waited_id);
    return frame_add(&writer, message_type_of(code), 0, 0, 0, message) == ERR_OK
        && zmq_send(player->publisher, buffer, frame_end(&writer), ZMQ_DONTWAIT) >= 0;
}

static bool send_one(struct player *player, uint16_t code, uint64_t request_id, uint64_t deadline_us,
                     const void *message)
{
    uint8_t buffer[FRAME_SIZE_MAX + FRAME_TRAIL_MAX];
    struct frame_writer writer;
    size_t size;

    frame_begin(&writer, buffer, sizeof buffer, MESSAGES_VERSION_OLDEST, player->epoch, request_id);
    if (frame_add(&writer, message_type_of(code), 0, request_id, deadline_us, message) != ERR_OK)
        return false;
    size = frame_end(&writer);
    return zmq_send(player->socket, player->identity, player->identity_size, ZMQ_SNDMORE | ZMQ_DONTWAIT) >= 0
        && zmq_send(player->socket, buffer, size, ZMQ_DONTWAIT) >= 0;
}

static void welcome(struct player *player)
{
    struct welcome message = { .version = MESSAGES_VERSION_OLDEST, .edge_size = UUID_SIZE, .epoch = player->epoch,
                               .sent_us = clock_monotonic_us(), .name = "replay" };

    memcpy(message.edge, player->edge, UUID_SIZE);
    if (!send_one(player, MESSAGE_welcome, 0, 0, &message))
        complain("the worker could not be welcomed");
}

/* What the spool of an edge tells ten times a second; audit asks for what it has not heard. */
static void beat_trail(struct player *player)
{
    const uint64_t next_seq = player->header.first_seq + player->header.count;
    struct trail_heartbeat message = { .producer_size = UUID_SIZE, .epoch = player->header.epoch, .next_seq = next_seq,
                                       .durable_seq = next_seq, .oldest_seq = player->header.first_seq };

    if (player->header.size == 0)
        return;
    memcpy(message.producer, player->header.producer, UUID_SIZE);
    (void)publish_one(player, MESSAGE_trail_heartbeat, &message);
}

static void answer_replay(struct player *player, uint64_t request_id, const struct replay_request *request)
{
    const struct trail_header *header = &player->header;
    const struct trail_block block = { .block = { .bytes = player->block, .size = header->size } };
    struct replay_end end = { .producer_size = UUID_SIZE, .epoch = request->epoch, .next_seq = header->first_seq + header->count };

    memcpy(end.producer, request->producer, UUID_SIZE);
    if (header->size == 0 || request->epoch != header->epoch || memcmp(request->producer, header->producer, UUID_SIZE) != 0) {
        end.error = ERR_NOT_FOUND;
        end.next_seq = request->from_seq;
    } else if (request->from_seq < header->first_seq) {
        end.error = ERR_NOT_FOUND;
        end.next_seq = header->first_seq;
    } else {
        (void)send_one(player, MESSAGE_trail_block, request_id, 0, &block);
    }
    (void)send_one(player, MESSAGE_replay_end, request_id, 0, &end);    /* it asks again */
}

static bool is_awaited(const struct player *player, const struct trail_ack *ack)
{
    return player->header.size != 0 && ack->epoch == player->header.epoch
        && memcmp(ack->producer, player->header.producer, UUID_SIZE) == 0
        && ack->next_seq >= player->header.first_seq + player->header.count;
}

static void beat(struct player *player)
{
    struct heartbeat message = { .sent_us = clock_monotonic_us() };

    if (player->identity_size == 0 || message.sent_us - player->beat_us < HEARTBEAT_US)
        return;
    player->beat_us = message.sent_us;
    (void)send_one(player, MESSAGE_heartbeat, 0, 0, &message);    /* a worker that is gone is seen by its silence */
    beat_trail(player);
}

static void take_item(struct player *player, const struct frame_item *item, unsigned version)
{
    void *message;
    const char *field = NULL;

    if (item->type->code == MESSAGE_ready) {
        welcome(player);
        return;
    }
    if (item->type->code == MESSAGE_pulse)
        return;
    message = calloc(1, item->type->struct_size);
    if (message == NULL)
        return;
    if (message_decode(item->type, version, item->body, item->body_size, message, &field) != ERR_OK) {
        printf("< %s: malformed field %s\n", item->type->name, field != NULL ? field : "?");
    } else if (player->publisher == NULL || (item->type->code == MESSAGE_trail_ack && is_awaited(player, message))) {
        printf("< ");
        message_print(item->type, message, stdout);
        player->replies += player->publisher != NULL;
    } else if (item->type->code == MESSAGE_replay_request) {
        answer_replay(player, item->request_id, message);
    }
    player->replies += player->publisher == NULL && item->request_id == player->waited_id;
    free(message);
}

static void take_frame(struct player *player, zmq_msg_t *identity, zmq_msg_t *frame)
{
    struct frame_reader reader;
    struct frame_item item;
    bool is_version;

    if (zmq_msg_size(identity) > IDENTITY_MAX)
        return;
    if (frame_open(&reader, zmq_msg_data(frame), zmq_msg_size(frame), &is_version) != ERR_OK) {
        complain("the worker sent what is no frame");
        return;
    }
    player->identity_size = zmq_msg_size(identity);
    memcpy(player->identity, zmq_msg_data(identity), player->identity_size);
    while (frame_next(&reader, &item))
        take_item(player, &item, reader.header.version);
}

/* Whatever comes until a reply to waited_id (0: until a worker is known), or the time is over. */
static bool await(struct player *player, uint64_t wait_s)
{
    uint64_t deadline_us = clock_monotonic_us() + wait_s * 1000000u;

    while (player->waited_id != 0 ? player->replies == 0 : player->identity_size == 0) {
        zmq_pollitem_t poll = { .socket = player->socket, .events = ZMQ_POLLIN };
        zmq_msg_t identity, frame;

        if (clock_monotonic_us() > deadline_us)
            return false;
        beat(player);
        if (zmq_poll(&poll, 1, (long)(HEARTBEAT_US / 1000u)) <= 0)
            continue;
        zmq_msg_init(&identity);
        zmq_msg_init(&frame);
        if (zmq_msg_recv(&identity, player->socket, ZMQ_DONTWAIT) >= 0
            && zmq_msg_recv(&frame, player->socket, ZMQ_DONTWAIT) >= 0)
            take_frame(player, &identity, &frame);
        zmq_msg_close(&identity);
        zmq_msg_close(&frame);
    }
    return true;
}

/* A recorded block, or one made of a recorded event.  False: it is none. */
static bool take_block(struct player *player, const struct fixture *fixture, const void *message)
{
    struct trail_writer writer;
    uint8_t mac[DIGEST_SIZE];
    static const uint8_t none[DIGEST_SIZE];

    if (fixture->type->code == MESSAGE_trail_block) {
        const struct view *block = &((const struct trail_block *)message)->block;

        if (block->size > sizeof player->block || trail_open(block->bytes, block->size, &player->header) != ERR_OK)
            return false;
        memcpy(player->block, block->bytes, block->size);
        return true;
    }
    trail_begin(&writer, player->block, sizeof player->block, player->producer, 1, player->next_seq);
    writer.header.version = MESSAGES_VERSION_OLDEST;
    if (trail_add(&writer, clock_unix_us(), fixture->type, message) != ERR_OK)
        return false;
    player->next_seq++;
    return trail_open(player->block, trail_end(&writer, clock_unix_us(), none, NULL, 0, mac), &player->header) == ERR_OK;
}

/* False: it is no block, or was not acknowledged. */
static bool play_trail(struct player *player, const struct fixture *fixture, const void *message, uint64_t wait_s)
{
    struct trail_block block = { .block = { .bytes = player->block } };
    bool is_stored;

    if (!take_block(player, fixture, message))
        return false;
    block.block.size = player->header.size;
    is_stored = publish_one(player, MESSAGE_trail_block, &block) && await(player, wait_s);
    player->header.size = 0;
    return is_stored;
}

static bool is_played(const struct player *player, const struct message_type *type)
{
    if (player->publisher != NULL)
        return type->code == MESSAGE_trail_block || type->code == MESSAGE_audit_event;
    return type->sender == SERVICE_EDGE && strcmp(service_text(type->receiver), player->role) == 0;
}

/* False: the worker left it unanswered. */
static bool play_file(struct player *player, const char *path, uint64_t wait_s)
{
    struct fixture fixture;
    void *message = NULL;
    bool is_answered = true;

    if (fixture_load(path, &fixture) != ERR_OK)
        return true;
    if (fixture.type != NULL && is_played(player, fixture.type)
        && fixture_decode(&fixture, path, &message) == ERR_OK) {
        player->waited_id++;
        player->replies = 0;
        printf("> ");
        message_print(fixture.type, message, stdout);
        is_answered = player->publisher != NULL ? play_trail(player, &fixture, message, wait_s)
            : send_one(player, fixture.type->code, player->waited_id,
                               clock_monotonic_us() + wait_s * 1000000u, message)
            && (fixture.type->code == MESSAGE_holders || await(player, wait_s));    /* it is told, not asked */
        if (!is_answered)
            complain("%s: no reply", path);
    }
    free(message);
    fixture_wipe(&fixture);
    return is_answered;
}

static enum exit_code play(struct player *player, const char *directory, uint64_t wait_s)
{
    enum exit_code result = EXIT_DONE;
    char pattern[1024];
    glob_t files;

    snprintf(pattern, sizeof pattern, "%s/*.hex", directory);
    if (glob(pattern, 0, NULL, &files) != 0) {
        complain("%s holds no *.hex", directory);
        return EXIT_REFUSED;
    }
    if (!await(player, wait_s)) {
        complain("no worker said READY; start one with MCPGW_EDGES=ipc:// and the path of --socket");
        result = EXIT_UNREACHABLE;
    }
    player->waited_id = 1000;
    for (size_t i = 0; i < files.gl_pathc && result != EXIT_UNREACHABLE; i++) {
        if (!play_file(player, files.gl_pathv[i], wait_s))
            result = EXIT_REFUSED;
    }
    globfree(&files);
    return result;
}

static enum exit_code bind_and_play(struct player *player, const char *directory, const char *socket, uint64_t wait_s)
{
    char endpoint[256], trail[256];

    snprintf(endpoint, sizeof endpoint, "ipc://%s.%s", socket, player->publisher != NULL ? "replay" : player->role);
    snprintf(trail, sizeof trail, "ipc://%s.trail", socket);
    if (zmq_bind(player->socket, endpoint) == 0 && (player->publisher == NULL || zmq_bind(player->publisher, trail) == 0))
        return play(player, directory, wait_s);
    complain("%s cannot be bound: %s", endpoint, zmq_strerror(zmq_errno()));
    return EXIT_UNREACHABLE;
}

enum exit_code replay_directory(const char *directory, const char *socket, const char *role, uint64_t wait_s)
{
    static struct player player;
    enum exit_code result;
    void *context = zmq_ctx_new();
    const bool is_audit = strcmp(role, "audit") == 0;
    const int mandatory = 1, linger = 0;

    player = (struct player){ .role = role, .epoch = random_u64(), .next_seq = 1 };
    random_bytes(player.edge, sizeof player.edge);
    random_bytes(player.producer, sizeof player.producer);
    if (!is_audit && strcmp(role, "authz") != 0 && strcmp(role, "ratelimit") != 0 && strcmp(role, "keys") != 0) {
        complain("--role: authz, ratelimit, keys or audit");
        zmq_ctx_term(context);
        return EXIT_MISUSE;
    }
    player.socket = zmq_socket(context, ZMQ_ROUTER);
    zmq_setsockopt(player.socket, ZMQ_ROUTER_MANDATORY, &mandatory, sizeof mandatory);
    zmq_setsockopt(player.socket, ZMQ_LINGER, &linger, sizeof linger);
    if (is_audit) {
        player.publisher = zmq_socket(context, ZMQ_PUB);
        zmq_setsockopt(player.publisher, ZMQ_LINGER, &linger, sizeof linger);
    }
    result = bind_and_play(&player, directory, socket, wait_s);
    if (is_audit)
        zmq_close(player.publisher);
    zmq_close(player.socket);
    zmq_ctx_term(context);
    return result;
}
