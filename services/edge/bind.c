/* bind.c - the edge's addresses: one ROUTER per role, the PUB of the trail, a monitor each; who may have them, and where. */
#include "services/edge/core.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define ENDPOINT_MAX 256u
#define PORT_TRAIL   3u
#define HWM_TRAIL    10000         /* blocks; what is dropped beyond is replayed */
#define HWM_ROLE     20000         /* frames: above what all credits together can bring */
#define LINGER_TRAIL 1000

/* Suffixes and port offsets are part of the bus's contract (common/bus.h). */
static const char *const suffixes[ROLE_COUNT] = { "authz", "ratelimit", "keys", "replay" };
static const unsigned offsets[ROLE_COUNT] = { 0, 1, 2, 4 };

static bool is_ipc(const char *base)
{
    return strncmp(base, "ipc://", 6) == 0;
}

static enum err make_endpoint(const char *base, const char *suffix, unsigned offset, char endpoint[ENDPOINT_MAX])
{
    const char *colon = strrchr(base, ':');
    unsigned long port;
    char *end;

    if (is_ipc(base))
        return snprintf(endpoint, ENDPOINT_MAX, "%s.%s", base, suffix) < (int)ENDPOINT_MAX ? ERR_OK : ERR_MALFORMED;
    if (strncmp(base, "tcp://", 6) != 0 || colon == NULL || colon == base + 3)
        return ERR_MALFORMED;
    port = strtoul(colon + 1, &end, 10);
    if (*end != '\0' || port == 0 || port + PORT_TRAIL + 1 > 65535)
        return ERR_MALFORMED;
    snprintf(endpoint, ENDPOINT_MAX, "%.*s:%lu", (int)(colon - base), base, port + offset);
    return ERR_OK;
}

/* --- ipc: a directory that only we can enter, and a lock ------------------------------------------ */

static enum err check_directory(const char *path, char *reterr, size_t reterr_size)
{
    struct stat status;

    if (mkdir(path, 0700) != 0 && errno != EEXIST) {
        snprintf(reterr, reterr_size, "bus: cannot make %s: %s", path, strerror(errno));
        return ERR_UNAVAILABLE;
    }
    if (lstat(path, &status) != 0 || !S_ISDIR(status.st_mode)) {
        snprintf(reterr, reterr_size, "bus: %s is not a directory", path);
        return ERR_UNAVAILABLE;
    }
    if ((status.st_mode & 0027) != 0 || (status.st_uid != geteuid() && status.st_uid != 0)) {
        snprintf(reterr, reterr_size, "bus: %s must be ours and closed to others (chmod 0700, or 0750 with a group)", path);
        return ERR_DENIED;
    }
    return ERR_OK;
}

static enum err lock_base(struct dispatch *d, const char *path, char *reterr, size_t reterr_size)
{
    char name[ENDPOINT_MAX];

    snprintf(name, sizeof name, "%s.lock", path);
    d->lock_fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (d->lock_fd < 0) {
        snprintf(reterr, reterr_size, "bus: cannot make %s: %s", name, strerror(errno));
        return ERR_UNAVAILABLE;
    }
    if (flock(d->lock_fd, LOCK_EX | LOCK_NB) != 0) {
        snprintf(reterr, reterr_size, "bus: another edge runs on %s: give each edge its own instance or bus setting", path);
        return ERR_CONFLICT;
    }
    return ERR_OK;
}

static enum err prepare_ipc(struct dispatch *d, const char *base, char *reterr, size_t reterr_size)
{
    const char *path = base + 6;
    const char *slash = strrchr(path, '/');
    char directory[ENDPOINT_MAX];
    enum err err;

    if (path[0] != '/' || slash == path || strlen(path) + sizeof ".ratelimit" > sizeof ((struct sockaddr_un *)NULL)->sun_path) {
        snprintf(reterr, reterr_size, "bus: %s must be an absolute path of at most %zu bytes", path,
                 sizeof ((struct sockaddr_un *)NULL)->sun_path - sizeof ".ratelimit");
        return ERR_MALFORMED;
    }
    snprintf(directory, sizeof directory, "%.*s", (int)(slash - path), path);
    err = check_directory(directory, reterr, reterr_size);
    if (err != ERR_OK)
        return err;
    return lock_base(d, path, reterr, reterr_size);
}

/* --- sockets ---------------------------------------------------------------------------------------- */

static void set_option(void *socket, int option, int value)
{
    (void)!zmq_setsockopt(socket, option, &value, sizeof value);
}

static void *make_socket(struct dispatch *d, int type)
{
    void *socket = zmq_socket(d->context, type);
    const int64_t max = type == ZMQ_PUB ? 4096 : FRAME_SIZE_MAX;

    if (socket == NULL)
        return NULL;
    (void)!zmq_setsockopt(socket, ZMQ_MAXMSGSIZE, &max, sizeof max);    /* of what comes in */
    set_option(socket, ZMQ_LINGER, type == ZMQ_PUB ? LINGER_TRAIL : 0);
    set_option(socket, ZMQ_HANDSHAKE_IVL, 2000);
    set_option(socket, ZMQ_SNDHWM, type == ZMQ_PUB ? HWM_TRAIL : HWM_ROLE);
    set_option(socket, ZMQ_RCVHWM, HWM_ROLE);
    set_option(socket, ZMQ_TCP_KEEPALIVE, 1);
    if (type == ZMQ_ROUTER)
        set_option(socket, ZMQ_ROUTER_MANDATORY, 1);
    return socket;
}

static enum err bind_one(struct dispatch *d, void *socket, const char *endpoint, char *reterr, size_t reterr_size)
{
    if (d->curve != NULL && !is_ipc(endpoint) && curve_serve(d->curve, d->context, socket) != ERR_OK) {
        snprintf(reterr, reterr_size, "bus: cannot serve %s with CURVE", endpoint);
        return ERR_UNAVAILABLE;
    }
    if (zmq_bind(socket, endpoint) != 0) {
        snprintf(reterr, reterr_size, "bus: cannot bind %s: %s", endpoint, zmq_strerror(errno));
        return errno == EADDRINUSE ? ERR_CONFLICT : ERR_UNAVAILABLE;
    }
    /* With users of their own for each role, the directory's group decides who comes in. */
    if (is_ipc(endpoint) && d->options.config->bus_uids[0] != '\0')
        (void)!chmod(endpoint + 6, 0660);
    return ERR_OK;
}

static enum err watch_socket(struct dispatch *d, enum role role)
{
    char address[32];

    snprintf(address, sizeof address, "inproc://monitor-%u", (unsigned)role);
    if (zmq_socket_monitor(d->sockets[role], address, ZMQ_EVENT_ACCEPTED | ZMQ_EVENT_DISCONNECTED) != 0)
        return ERR_UNAVAILABLE;
    d->monitors[role] = zmq_socket(d->context, ZMQ_PAIR);
    if (d->monitors[role] == NULL)
        return ERR_NO_MEMORY;
    set_option(d->monitors[role], ZMQ_LINGER, 0);
    return zmq_connect(d->monitors[role], address) == 0 ? ERR_OK : ERR_UNAVAILABLE;
}

static enum err bind_role(struct dispatch *d, enum role role, const char *base, char *reterr, size_t reterr_size)
{
    char endpoint[ENDPOINT_MAX];
    enum err err = make_endpoint(base, suffixes[role], offsets[role], endpoint);

    if (err != ERR_OK) {
        snprintf(reterr, reterr_size, "bus: %s is neither ipc:///path nor tcp://host:port", base);
        return err;
    }
    d->sockets[role] = make_socket(d, ZMQ_ROUTER);
    if (d->sockets[role] == NULL || watch_socket(d, role) != ERR_OK) {
        snprintf(reterr, reterr_size, "bus: cannot make a socket: %s", zmq_strerror(errno));
        return ERR_UNAVAILABLE;
    }
    return bind_one(d, d->sockets[role], endpoint, reterr, reterr_size);
}

static enum err bind_trail(struct dispatch *d, const char *base, char *reterr, size_t reterr_size)
{
    char endpoint[ENDPOINT_MAX];

    if (make_endpoint(base, "trail", PORT_TRAIL, endpoint) != ERR_OK)
        return ERR_MALFORMED;
    d->publisher = make_socket(d, ZMQ_PUB);
    if (d->publisher == NULL)
        return ERR_UNAVAILABLE;
    return bind_one(d, d->publisher, endpoint, reterr, reterr_size);
}

enum err bind_sockets(struct dispatch *d, char *reterr, size_t reterr_size)
{
    char base[ENDPOINT_MAX];
    enum err err;

    if (d->options.bus[0] != '\0')
        snprintf(base, sizeof base, "%s", d->options.bus);
    else
        snprintf(base, sizeof base, "ipc:///run/mcpgw/bus/edge-%s", d->options.config->instance);
    err = curve_allows_endpoint(d->curve, d->options.config, base, reterr, reterr_size);
    if (err == ERR_OK && is_ipc(base))
        err = prepare_ipc(d, base, reterr, reterr_size);
    for (enum role role = 0; err == ERR_OK && role < ROLE_COUNT; role++)
        err = bind_role(d, role, base, reterr, reterr_size);
    return err != ERR_OK ? err : bind_trail(d, base, reterr, reterr_size);
}

void unbind_sockets(struct dispatch *d)
{
    for (enum role role = 0; role < ROLE_COUNT; role++) {
        if (d->sockets[role] != NULL) {
            zmq_socket_monitor(d->sockets[role], NULL, 0);
            zmq_close(d->sockets[role]);
        }
        if (d->monitors[role] != NULL)
            zmq_close(d->monitors[role]);
    }
    if (d->publisher != NULL)
        zmq_close(d->publisher);
    if (d->lock_fd >= 0)
        close(d->lock_fd);
}
