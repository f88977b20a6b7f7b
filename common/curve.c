/*
 * curve.c - peers of the bus: kernel-checked users on ipc, CURVE keys of roles on tcp.
 *
 * Owns our secret key and, in an edge, the ZAP thread of its context.  The ZAP handler is ours and not czmq's zauth,
 * because the answer must carry the role whose key it was; zauth leaves User-Id empty.
 */
#include "common/curve.h"

#include <errno.h>
#include <pthread.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <czmq.h>

#include "common/cleanup.h"
#include "common/secret.h"

#define KEY_TEXT_SIZE   41       /* z85 of 32 bytes, and the NUL */
#define KEY_SIZE        32
#define ZAP_ENDPOINT    "inproc://zeromq.zap.01"    /* ZeroMQ RFC 27 */
#define ZAP_DOMAIN      "mcpgw"
#define ZAP_FRAMES_MAX  8
#define UID_ROWS_MAX    32
#define ROLE_BIT(role)  (1u << (unsigned)(role))
#define ROLES_ALL       (ROLE_BIT(SERVICE_COUNT) - 1u)

struct role_key {
    char text[KEY_TEXT_SIZE];
    uint8_t bytes[KEY_SIZE];
};

struct curve {
    enum service role;
    struct secret secret;                         /* z85 text */
    struct role_key keys[SERVICE_COUNT];          /* public ones, by role */
    bool is_serving;
    void *zap_socket;                             /* made by the owner, then the thread's alone */
    int zap_stop;                                 /* eventfd */
    pthread_t zap_thread;
};

static struct curve *take_curve(struct curve **from)
{
    struct curve *taken = *from;

    *from = NULL;
    return taken;
}

/* ---- key files ---------------------------------------------------------------------------------- */

static bool make_path(char *path, size_t size, const char *directory, enum service role, const char *suffix)
{
    int length = snprintf(path, size, "%s/%s.%s", directory, service_text(role), suffix);

    return length > 0 && (size_t)length < size;
}

static enum err load_certificate(const char *path, zcert_t **ret_certificate, char *reterr, size_t reterr_size)
{
    zcert_t *certificate;

    if (access(path, R_OK) != 0) {
        snprintf(reterr, reterr_size, "%s: %s; mcpgw keygen makes the keys", path, strerror(errno));
        return ERR_NOT_FOUND;
    }
    certificate = zcert_load(path);
    if (certificate == NULL) {
        snprintf(reterr, reterr_size, "%s: not a key file; mcpgw keygen makes them", path);
        return ERR_MALFORMED;
    }
    *ret_certificate = certificate;
    return ERR_OK;
}

static enum err load_public(struct curve *curve, const char *directory, enum service role,
                            char *reterr, size_t reterr_size)
{
    OWNED(zcert_destroy) zcert_t *certificate = NULL;
    struct role_key *key = &curve->keys[role];
    char path[512];
    enum err err;

    if (!make_path(path, sizeof path, directory, role, "pub")) {
        snprintf(reterr, reterr_size, "bus_keys: the path is too long");
        return ERR_MALFORMED;
    }
    err = load_certificate(path, &certificate, reterr, reterr_size);
    if (err != ERR_OK)
        return err;
    memcpy(key->bytes, zcert_public_key(certificate), KEY_SIZE);
    snprintf(key->text, sizeof key->text, "%s", zcert_public_txt(certificate));
    return ERR_OK;
}

static enum err check_private(const char *path, char *reterr, size_t reterr_size)
{
    struct stat status;

    if (stat(path, &status) != 0) {
        snprintf(reterr, reterr_size, "%s: %s; mcpgw keygen makes the keys", path, strerror(errno));
        return ERR_NOT_FOUND;
    }
    if (!S_ISREG(status.st_mode) || (status.st_mode & 077) != 0) {
        snprintf(reterr, reterr_size, "%s: others can read this secret key; chmod 600 it", path);
        return ERR_MALFORMED;
    }
    return ERR_OK;
}

static enum err load_secret(struct curve *curve, const char *directory, char *reterr, size_t reterr_size)
{
    OWNED(zcert_destroy) zcert_t *certificate = NULL;
    char path[512], derived[KEY_TEXT_SIZE];
    enum err err;

    if (!make_path(path, sizeof path, directory, curve->role, "key"))
        return ERR_MALFORMED;
    err = check_private(path, reterr, reterr_size);
    if (err == ERR_OK)
        err = load_certificate(path, &certificate, reterr, reterr_size);
    if (err != ERR_OK)
        return err;
    curve->secret.size = KEY_TEXT_SIZE - 1;
    memcpy(curve->secret.bytes, zcert_secret_txt(certificate), KEY_TEXT_SIZE);
    if (zmq_curve_public(derived, secret_text(&curve->secret)) != 0
        || strcmp(derived, curve->keys[curve->role].text) != 0) {
        snprintf(reterr, reterr_size, "%s: not the secret half of %s.pub", path, service_text(curve->role));
        return ERR_MALFORMED;
    }
    return ERR_OK;
}

/* ---- users on ipc ------------------------------------------------------------------------------- */

struct uid_row {
    unsigned long uid;
    uint32_t roles;
};

/* The setting bus_uids, read once for each thread: roles are asked for with every frame. */
struct uid_table {
    bool is_read;
    char text[sizeof ((struct common_config *)NULL)->bus_uids];
    size_t count;
    struct uid_row rows[UID_ROWS_MAX];
};

static bool find_role(const char *name, size_t length, enum service *ret_role)
{
    for (unsigned role = 0; role < SERVICE_COUNT; role++) {
        if (strlen(service_text(role)) != length || strncmp(service_text(role), name, length) != 0)
            continue;
        *ret_role = (enum service)role;
        return true;
    }
    return false;
}

static bool find_user(const char *name, size_t length, unsigned long *ret_uid)
{
    char text[64], *end;
    const struct passwd *user;

    if (length == 0 || length >= sizeof text)
        return false;
    memcpy(text, name, length);
    text[length] = 0;
    user = getpwnam(text);
    if (user != NULL) {
        *ret_uid = user->pw_uid;
        return true;
    }
    *ret_uid = strtoul(text, &end, 10);
    return strspn(text, "0123456789") == length && *end == 0;
}

/* role=user,role=user; false names the entry at fault by its place in the text. */
static bool read_uids(const char *text, struct uid_table *table, const char **reterr_entry)
{
    while (*text != 0) {
        size_t length = strcspn(text, ",");
        const char *equals = memchr(text, '=', length);
        enum service role;
        struct uid_row *row = &table->rows[table->count];

        *reterr_entry = text;
        if (equals == NULL || table->count == UID_ROWS_MAX || !find_role(text, (size_t)(equals - text), &role)
            || !find_user(equals + 1, length - (size_t)(equals - text) - 1, &row->uid))
            return false;
        row->roles = ROLE_BIT(role);
        table->count++;
        text += length + (text[length] == ',' ? 1 : 0);
    }
    return true;
}

static uint32_t roles_of_uid(const struct common_config *config, unsigned long uid)
{
    static _Thread_local struct uid_table table;
    const char *fault;
    uint32_t roles = 0;

    if (config->bus_uids[0] == 0)
        return uid == geteuid() ? ROLES_ALL : 0;
    if (!table.is_read || strcmp(table.text, config->bus_uids) != 0) {
        memset(&table, 0, sizeof table);
        table.is_read = true;
        memcpy(table.text, config->bus_uids, sizeof table.text);
        if (!read_uids(config->bus_uids, &table, &fault))
            table.count = 0;
    }
    for (size_t i = 0; i < table.count; i++)
        if (table.rows[i].uid == uid)
            roles |= table.rows[i].roles;
    return roles;
}

static enum err check_uids(const struct common_config *config, char *reterr, size_t reterr_size)
{
    struct uid_table table = { 0 };
    const char *fault = "";

    if (read_uids(config->bus_uids, &table, &fault))
        return ERR_OK;
    snprintf(reterr, reterr_size, "bus_uids: \"%.*s\" is not role=user with a role and a user that exist",
             (int)strcspn(fault, ","), fault);
    return ERR_MALFORMED;
}

enum err curve_new(enum service role, const struct common_config *config, struct curve **ret_curve,
                   char *reterr, size_t reterr_size)
{
    OWNED(curve_destroy) struct curve *curve = NULL;
    enum err err = check_uids(config, reterr, reterr_size);

    if (err != ERR_OK)
        return err;
    if (config->bus_keys[0] == 0) {
        *ret_curve = NULL;
        return ERR_OK;
    }
    curve = calloc(1, sizeof *curve);
    if (curve == NULL)
        return ERR_NO_MEMORY;
    curve->role = role;
    curve->zap_stop = -1;
    for (unsigned peer = 0; peer < SERVICE_COUNT && err == ERR_OK; peer++)
        err = load_public(curve, config->bus_keys, (enum service)peer, reterr, reterr_size);
    if (err == ERR_OK)
        err = load_secret(curve, config->bus_keys, reterr, reterr_size);
    if (err != ERR_OK)
        return err;
    *ret_curve = take_curve(&curve);
    return ERR_OK;
}

void curve_destroy(struct curve **curve)
{
    if (*curve == NULL)
        return;
    if ((*curve)->is_serving) {
        (void)!write((*curve)->zap_stop, &(uint64_t){ 1 }, sizeof(uint64_t));
        pthread_join((*curve)->zap_thread, NULL);
    }
    if ((*curve)->zap_stop >= 0)
        close((*curve)->zap_stop);
    secret_wipe(&(*curve)->secret);
    free(*curve);
    *curve = NULL;
}

/* ---- ZAP (ZeroMQ RFC 27) ------------------------------------------------------------------------ */

struct zap_request {
    size_t count;
    size_t sizes[ZAP_FRAMES_MAX];
    uint8_t frames[ZAP_FRAMES_MAX][256];
};

enum { ZAP_VERSION, ZAP_ID, ZAP_DOMAIN_FRAME, ZAP_ADDRESS, ZAP_IDENTITY, ZAP_MECHANISM, ZAP_CREDENTIALS };

/* Reads one request whole; frames too many or too long make it one that no key matches. */
static bool receive_request(void *socket, struct zap_request *request)
{
    int more = 1;
    size_t size = sizeof more;

    memset(request, 0, sizeof *request);
    while (more != 0) {
        uint8_t frame[256];
        int received = zmq_recv(socket, frame, sizeof frame, ZMQ_DONTWAIT);

        if (received < 0)
            return false;
        if (request->count < ZAP_FRAMES_MAX && (size_t)received <= sizeof frame) {
            request->sizes[request->count] = (size_t)received;
            memcpy(request->frames[request->count], frame, (size_t)received);
        }
        request->count++;
        if (zmq_getsockopt(socket, ZMQ_RCVMORE, &more, &size) != 0)
            return false;
    }
    return true;
}

/* The role whose public key this is; "" for a stranger. */
static const char *role_of_request(const struct curve *curve, const struct zap_request *request)
{
    if (request->count != ZAP_CREDENTIALS + 1 || request->sizes[ZAP_MECHANISM] != 5
        || memcmp(request->frames[ZAP_MECHANISM], "CURVE", 5) != 0 || request->sizes[ZAP_CREDENTIALS] != KEY_SIZE)
        return "";
    for (unsigned role = 0; role < SERVICE_COUNT; role++)
        if (memcmp(curve->keys[role].bytes, request->frames[ZAP_CREDENTIALS], KEY_SIZE) == 0)
            return service_text(role);
    return "";
}

static void answer_request(const struct curve *curve, const struct zap_request *request)
{
    const char *role = role_of_request(curve, request);
    bool known = role[0] != 0;
    size_t id_size = request->sizes[ZAP_ID] <= sizeof request->frames[ZAP_ID] ? request->sizes[ZAP_ID] : 0;

    zmq_send(curve->zap_socket, "1.0", 3, ZMQ_SNDMORE);
    zmq_send(curve->zap_socket, request->frames[ZAP_ID], id_size, ZMQ_SNDMORE);
    zmq_send(curve->zap_socket, known ? "200" : "400", 3, ZMQ_SNDMORE);
    zmq_send(curve->zap_socket, known ? "OK" : "unknown key", known ? 2 : 11, ZMQ_SNDMORE);
    zmq_send(curve->zap_socket, role, strlen(role), ZMQ_SNDMORE);
    zmq_send(curve->zap_socket, "", 0, 0);
}

/* Ends when told, or with its context. */
static void *serve_zap(void *argument)
{
    struct curve *curve = argument;
    bool running = true;

    while (running) {
        zmq_pollitem_t items[] = { { .socket = curve->zap_socket, .events = ZMQ_POLLIN },
                                   { .fd = curve->zap_stop, .events = ZMQ_POLLIN } };
        struct zap_request request;

        if (zmq_poll(items, 2, -1) < 0)
            running = zmq_errno() == EINTR;
        else if ((items[1].revents & ZMQ_POLLIN) != 0)
            running = false;
        else if (receive_request(curve->zap_socket, &request))
            answer_request(curve, &request);
    }
    zmq_close(curve->zap_socket);
    return NULL;
}

static enum err start_zap(struct curve *curve, void *context)
{
    curve->zap_stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    curve->zap_socket = zmq_socket(context, ZMQ_REP);
    if (curve->zap_stop < 0 || curve->zap_socket == NULL)
        return ERR_UNAVAILABLE;
    if (zmq_setsockopt(curve->zap_socket, ZMQ_LINGER, &(int){ 0 }, sizeof(int)) != 0
        || zmq_bind(curve->zap_socket, ZAP_ENDPOINT) != 0
        || pthread_create(&curve->zap_thread, NULL, serve_zap, curve) != 0) {
        zmq_close(curve->zap_socket);
        return ERR_UNAVAILABLE;
    }
    curve->is_serving = true;
    return ERR_OK;
}

static bool set_text(void *socket, int option, const char *text, size_t size)
{
    return zmq_setsockopt(socket, option, text, size) == 0;
}

enum err curve_serve(struct curve *curve, void *context, void *socket)
{
    enum err err;

    if (curve == NULL)
        return ERR_OK;
    if (!curve->is_serving) {
        err = start_zap(curve, context);
        if (err != ERR_OK)
            return err;
    }
    if (!set_text(socket, ZMQ_ZAP_DOMAIN, ZAP_DOMAIN, strlen(ZAP_DOMAIN))
        || zmq_setsockopt(socket, ZMQ_CURVE_SERVER, &(int){ 1 }, sizeof(int)) != 0
        || !set_text(socket, ZMQ_CURVE_SECRETKEY, secret_text(&curve->secret), KEY_TEXT_SIZE))
        return ERR_UNAVAILABLE;
    return ERR_OK;
}

enum err curve_join(struct curve *curve, void *socket)
{
    if (curve == NULL)
        return ERR_OK;
    if (!set_text(socket, ZMQ_CURVE_SERVERKEY, curve->keys[SERVICE_EDGE].text, KEY_TEXT_SIZE)
        || !set_text(socket, ZMQ_CURVE_PUBLICKEY, curve->keys[curve->role].text, KEY_TEXT_SIZE)
        || !set_text(socket, ZMQ_CURVE_SECRETKEY, secret_text(&curve->secret), KEY_TEXT_SIZE))
        return ERR_UNAVAILABLE;
    return ERR_OK;
}

static bool is_loopback(const char *host, size_t length)
{
    if (length == 9 && strncmp(host, "localhost", 9) == 0)
        return true;
    if (length == 5 && strncmp(host, "[::1]", 5) == 0)
        return true;
    if (length == 3 && strncmp(host, "::1", 3) == 0)    /* as Peer-Address spells it */
        return true;
    return length >= 7 && strncmp(host, "127.", 4) == 0 && strspn(host, "0123456789.") >= length;
}

enum err curve_allows_endpoint(const struct curve *curve, const struct common_config *config, const char *endpoint,
                               char *reterr, size_t reterr_size)
{
    const char *host = endpoint + 6, *colon;

    if (strncmp(endpoint, "ipc://", 6) == 0)
        return ERR_OK;
    if (strncmp(endpoint, "tcp://", 6) != 0) {
        snprintf(reterr, reterr_size, "%s: only ipc:// and tcp:// addresses can be used", endpoint);
        return ERR_DENIED;
    }
    if (curve != NULL)
        return ERR_OK;
    colon = strrchr(host, ':');
    if (config->bus_insecure && colon != NULL && is_loopback(host, (size_t)(colon - host)))
        return ERR_OK;
    snprintf(reterr, reterr_size, "%s: tcp needs CURVE keys: run mcpgw keygen and set MCPGW_BUS_KEYS "
             "(on a loopback address MCPGW_BUS_INSECURE=true allows it without)", endpoint);
    return ERR_DENIED;
}

static uint32_t roles_of_key(const struct curve *curve, const char *user_id)
{
    enum service role;

    return curve != NULL && find_role(user_id, strlen(user_id), &role) ? ROLE_BIT(role) : 0;
}

uint32_t curve_roles_of(const struct curve *curve, const struct common_config *config, void *zmq_msg)
{
    const char *user_id = zmq_msg_gets(zmq_msg, "User-Id");
    const char *address = zmq_msg_gets(zmq_msg, "Peer-Address");
    unsigned long uid, gid, pid;

    if (user_id != NULL && user_id[0] != 0)
        return roles_of_key(curve, user_id);
    if (address == NULL)
        return 0;
    /* libzmq writes numbers for a tcp peer and this for an ipc one (SO_PEERCRED) */
    if (sscanf(address, "localhost:%lu:%lu:%lu", &uid, &gid, &pid) == 3)
        return roles_of_uid(config, uid);
    /* A worker's tcp sockets are joined with the edge's key: nobody else could have sent it. */
    if (curve != NULL)
        return curve->role != SERVICE_EDGE ? ROLE_BIT(SERVICE_EDGE) : 0;
    return config->bus_insecure && is_loopback(address, strlen(address)) ? ROLES_ALL : 0;
}

/* ---- mcpgw keygen ------------------------------------------------------------------------------- */

static enum err make_pair(const char *directory, enum service role, char *reterr, size_t reterr_size)
{
    OWNED(zcert_destroy) zcert_t *certificate = zcert_new();
    char public_path[512], secret_path[512];

    if (certificate == NULL || !make_path(public_path, sizeof public_path, directory, role, "pub")
        || !make_path(secret_path, sizeof secret_path, directory, role, "key")) {
        snprintf(reterr, reterr_size, "%s: the path is too long, or memory is short", directory);
        return ERR_UNAVAILABLE;
    }
    zcert_set_meta(certificate, "role", "%s", service_text(role));
    if (zcert_save_public(certificate, public_path) != 0 || zcert_save_secret(certificate, secret_path) != 0
        || chmod(secret_path, 0600) != 0 || chmod(public_path, 0644) != 0) {
        snprintf(reterr, reterr_size, "%s: %s", directory, strerror(errno));
        return ERR_UNAVAILABLE;
    }
    return ERR_OK;
}

static bool has_keys(const char *directory, char *reterr, size_t reterr_size)
{
    static const char *const suffixes[] = { "key", "pub" };
    char path[512];

    for (unsigned i = 0; i < 2 * SERVICE_COUNT; i++) {
        if (!make_path(path, sizeof path, directory, (enum service)(i / 2), suffixes[i % 2]) || access(path, F_OK) != 0)
            continue;
        snprintf(reterr, reterr_size, "%s: exists; new keys cut off every process that has the old ones", path);
        return true;
    }
    return false;
}

enum err curve_make_keys(const char *directory, bool force, char *reterr, size_t reterr_size)
{
    enum err err = ERR_OK;

    if (mkdir(directory, 0700) != 0 && errno != EEXIST) {
        snprintf(reterr, reterr_size, "%s: %s", directory, strerror(errno));
        return ERR_UNAVAILABLE;
    }
    if (!force && has_keys(directory, reterr, reterr_size))
        return ERR_CONFLICT;
    for (unsigned role = 0; role < SERVICE_COUNT && err == ERR_OK; role++)
        err = make_pair(directory, (enum service)role, reterr, reterr_size);
    return err;
}
