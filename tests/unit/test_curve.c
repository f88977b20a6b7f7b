/* test_curve.c - who is let in: key files that must be refused, strangers' keys, users on ipc, plain addresses. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <zmq.h>

#include "common/curve.h"

#define EVERY_ROLE 0x1fu

static char directory[64], other_directory[64];

static int remove_entry(const char *path, const struct stat *status, int kind, struct FTW *walk)
{
    (void)status;
    (void)kind;
    (void)walk;
    return remove(path);
}

static int make_directories(void **state)
{
    char why[256] = "";

    (void)state;
    strcpy(directory, "/tmp/mcpgw-curve-XXXXXX");
    strcpy(other_directory, "/tmp/mcpgw-curve-XXXXXX");
    assert_non_null(mkdtemp(directory));
    assert_non_null(mkdtemp(other_directory));
    assert_int_equal(curve_make_keys(directory, false, why, sizeof why), ERR_OK);
    assert_int_equal(curve_make_keys(other_directory, false, why, sizeof why), ERR_OK);
    return 0;
}

static int remove_directories(void **state)
{
    (void)state;
    nftw(directory, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
    nftw(other_directory, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
    return 0;
}

static struct common_config config_with(const char *keys)
{
    struct common_config config = { 0 };

    snprintf(config.bus_keys, sizeof config.bus_keys, "%s", keys);
    return config;
}

static enum err load(enum service role, const char *keys, struct curve **curve, char *why, size_t size)
{
    const struct common_config config = config_with(keys);

    return curve_new(role, &config, curve, why, size);
}

static void refuse(const char *file, enum err expected)
{
    char why[256] = "";
    struct curve *curve = NULL;

    assert_int_equal(load(SERVICE_AUTHZ, directory, &curve, why, sizeof why), expected);
    assert_null(curve);
    assert_non_null(strstr(why, file));
}

static void path_of(char *path, size_t size, const char *file)
{
    snprintf(path, size, "%s/%s", directory, file);
}

/* ---- key files ---------------------------------------------------------------------------------- */

static void a_missing_key_is_not_found(void **state)
{
    char path[128], away[136];

    (void)state;
    path_of(path, sizeof path, "authz.key");
    snprintf(away, sizeof away, "%s.away", path);
    assert_int_equal(rename(path, away), 0);
    refuse("authz.key", ERR_NOT_FOUND);
    assert_int_equal(rename(away, path), 0);
    path_of(path, sizeof path, "keys.pub");
    snprintf(away, sizeof away, "%s.away", path);
    assert_int_equal(rename(path, away), 0);
    refuse("keys.pub", ERR_NOT_FOUND);
    assert_int_equal(rename(away, path), 0);
}

static void a_secret_key_that_others_can_read_is_refused(void **state)
{
    char path[128];

    (void)state;
    path_of(path, sizeof path, "authz.key");
    assert_int_equal(chmod(path, 0640), 0);
    refuse("authz.key", ERR_MALFORMED);
    assert_int_equal(chmod(path, 0600), 0);
}

static void a_file_that_is_no_key_is_malformed(void **state)
{
    char path[128], away[136];
    FILE *file;

    (void)state;
    path_of(path, sizeof path, "edge.pub");
    snprintf(away, sizeof away, "%s.away", path);
    assert_int_equal(rename(path, away), 0);
    file = fopen(path, "w");
    fputs("curve\n    public-key = \"short\"\n", file);
    fclose(file);
    refuse("edge.pub", ERR_MALFORMED);
    assert_int_equal(rename(away, path), 0);
}

static void a_secret_that_does_not_belong_to_its_public_key_is_refused(void **state)
{
    char path[128], away[136], other[136];

    (void)state;
    path_of(path, sizeof path, "authz.key");
    snprintf(away, sizeof away, "%s.away", path);
    snprintf(other, sizeof other, "%s/keys.key", directory);
    assert_int_equal(rename(path, away), 0);
    assert_int_equal(link(other, path), 0);
    refuse("authz.pub", ERR_MALFORMED);
    unlink(path);
    assert_int_equal(rename(away, path), 0);
}

static void keys_are_not_overwritten_unless_asked(void **state)
{
    char why[256] = "";
    struct stat status;
    char path[128];

    (void)state;
    assert_int_equal(curve_make_keys(directory, false, why, sizeof why), ERR_CONFLICT);
    assert_int_equal(curve_make_keys("/nonexistent/keys", false, why, sizeof why), ERR_UNAVAILABLE);
    assert_int_equal(curve_make_keys(directory, true, why, sizeof why), ERR_OK);
    path_of(path, sizeof path, "edge.key");
    assert_int_equal(stat(path, &status), 0);
    assert_int_equal(status.st_mode & 0777, 0600);
}

static void without_a_directory_there_are_no_keys_and_no_error(void **state)
{
    char why[256] = "";
    struct curve *curve = NULL;

    (void)state;
    assert_int_equal(load(SERVICE_AUTHZ, "", &curve, why, sizeof why), ERR_OK);
    assert_null(curve);
    assert_int_equal(curve_join(NULL, NULL), ERR_OK);
    assert_int_equal(curve_serve(NULL, NULL, NULL), ERR_OK);
}

/* ---- addresses ---------------------------------------------------------------------------------- */

static void tcp_needs_keys_or_loopback_by_name(void **state)
{
    static const struct { const char *endpoint; bool insecure; enum err err; } cases[] = {
        { "tcp://10.0.0.1:7000", false, ERR_DENIED }, { "tcp://10.0.0.1:7000", true, ERR_DENIED },
        { "tcp://127.0.0.1:7000", false, ERR_DENIED }, { "tcp://127.0.0.1:7000", true, ERR_OK },
        { "tcp://[::1]:7000", true, ERR_OK }, { "tcp://localhost:7000", true, ERR_OK },
        { "tcp://127.evil.example:7000", true, ERR_DENIED }, { "tcp://*:7000", true, ERR_DENIED },
        { "tcp://127.0.0.1", true, ERR_DENIED }, { "inproc://x", true, ERR_DENIED }, { "ipc:///run/x", false, ERR_OK },
    };
    char why[256] = "";

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const struct common_config config = { .bus_insecure = cases[i].insecure };

        if (curve_allows_endpoint(NULL, &config, cases[i].endpoint, why, sizeof why) != cases[i].err)
            fail_msg("%s", cases[i].endpoint);
    }
}

static void a_bad_list_of_users_is_refused(void **state)
{
    static const char *const bad[] = { "edge", "edge=", "=root", "nobody=root", "edge=no-such-user", "edge=root,,",
                                       "worker=root" };
    char why[256] = "";
    struct curve *curve = NULL;

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct common_config config = { 0 };

        snprintf(config.bus_uids, sizeof config.bus_uids, "%s", bad[i]);
        if (curve_new(SERVICE_AUTHZ, &config, &curve, why, sizeof why) != ERR_MALFORMED)
            fail_msg("%s", bad[i]);
    }
}

/* ---- peers over real sockets -------------------------------------------------------------------- */

struct link {
    void *context, *far_context;
    void *router, *dealer;
};

static void *make_socket(void *context, int type)
{
    void *socket = zmq_socket(context, type);
    const int zero = 0, wait = 5000;

    zmq_setsockopt(socket, ZMQ_LINGER, &zero, sizeof zero);
    zmq_setsockopt(socket, ZMQ_RCVTIMEO, &wait, sizeof wait);
    return socket;
}

static void open_link(struct link *link, struct curve *edge, struct curve *worker, const char *endpoint)
{
    char bound[256];
    size_t size = sizeof bound;

    link->context = zmq_ctx_new();
    link->far_context = zmq_ctx_new();
    link->router = make_socket(link->context, ZMQ_ROUTER);
    link->dealer = make_socket(link->far_context, ZMQ_DEALER);
    assert_int_equal(curve_serve(edge, link->context, link->router), ERR_OK);
    assert_int_equal(zmq_bind(link->router, endpoint), 0);
    assert_int_equal(zmq_getsockopt(link->router, ZMQ_LAST_ENDPOINT, bound, &size), 0);
    assert_int_equal(curve_join(worker, link->dealer), ERR_OK);
    assert_int_equal(zmq_connect(link->dealer, bound), 0);
}

static void close_link(struct link *link)
{
    zmq_close(link->router);
    zmq_close(link->dealer);
    zmq_ctx_term(link->far_context);
    zmq_ctx_term(link->context);
}

/* Sends one message worker to edge and one back; what each side may take the other for. */
static bool exchange(struct link *link, const struct curve *edge, const struct curve *worker,
                     const struct common_config *config, uint32_t *ret_of_worker, uint32_t *ret_of_edge)
{
    zmq_msg_t identity, body, answer;

    zmq_msg_init(&identity);
    zmq_msg_init(&body);
    zmq_msg_init(&answer);
    assert_int_equal(zmq_send(link->dealer, "hello", 5, 0), 5);
    if (zmq_msg_recv(&identity, link->router, 0) < 0) {
        zmq_msg_close(&identity);
        return false;
    }
    assert_int_equal(zmq_msg_recv(&body, link->router, 0), 5);
    *ret_of_worker = curve_roles_of(edge, config, &body);
    assert_true(zmq_msg_send(&identity, link->router, ZMQ_SNDMORE) > 0);
    assert_int_equal(zmq_send(link->router, "welcome", 7, 0), 7);
    assert_int_equal(zmq_msg_recv(&answer, link->dealer, 0), 7);
    *ret_of_edge = curve_roles_of(worker, config, &answer);
    zmq_msg_close(&body);
    zmq_msg_close(&answer);
    return true;
}

static struct curve *load_role(enum service role, const char *keys)
{
    struct curve *curve = NULL;
    char why[256] = "";

    if (load(role, keys, &curve, why, sizeof why) != ERR_OK)
        fail_msg("%s", why);
    return curve;
}

static void a_stranger_with_keys_of_another_installation_is_not_heard(void **state)
{
    struct curve *edge = load_role(SERVICE_EDGE, directory), *stranger = load_role(SERVICE_AUTHZ, other_directory);
    struct common_config config = config_with(directory);
    struct link link;
    uint32_t of_worker = 0, of_edge = 0;
    const int wait = 700;

    (void)state;
    open_link(&link, edge, stranger, "tcp://127.0.0.1:*");
    zmq_setsockopt(link.router, ZMQ_RCVTIMEO, &wait, sizeof wait);
    assert_false(exchange(&link, edge, stranger, &config, &of_worker, &of_edge));
    close_link(&link);
    curve_destroy(&edge);
    curve_destroy(&stranger);
}

/* It knows the edge's public key, as anyone may, but its own key is on nobody's list. */
static void a_made_up_key_is_not_heard(void **state)
{
    struct curve *edge = load_role(SERVICE_EDGE, directory);
    char public[41], secret[41], server[41] = "", path[128], line[256];
    const int wait = 700;
    struct link link;
    char byte;
    FILE *file;

    (void)state;
    path_of(path, sizeof path, "edge.pub");
    file = fopen(path, "r");
    while (fgets(line, sizeof line, file) != NULL) {
        char *at = strstr(line, "public-key = \"");

        if (at != NULL)
            memcpy(server, at + 14, 40);
    }
    fclose(file);
    assert_int_equal(strlen(server), 40);
    assert_int_equal(zmq_curve_keypair(public, secret), 0);
    open_link(&link, edge, NULL, "tcp://127.0.0.1:*");
    zmq_close(link.dealer);
    link.dealer = make_socket(link.far_context, ZMQ_DEALER);
    zmq_setsockopt(link.dealer, ZMQ_CURVE_SERVERKEY, server, 41);
    zmq_setsockopt(link.dealer, ZMQ_CURVE_PUBLICKEY, public, 41);
    zmq_setsockopt(link.dealer, ZMQ_CURVE_SECRETKEY, secret, 41);
    char bound[256];
    size_t size = sizeof bound;
    zmq_getsockopt(link.router, ZMQ_LAST_ENDPOINT, bound, &size);
    assert_int_equal(zmq_connect(link.dealer, bound), 0);
    zmq_send(link.dealer, "hello", 5, 0);
    zmq_setsockopt(link.router, ZMQ_RCVTIMEO, &wait, sizeof wait);
    assert_int_equal(zmq_recv(link.router, &byte, 1, 0), -1);
    close_link(&link);
    curve_destroy(&edge);
}

static void a_peer_without_any_key_is_not_heard(void **state)
{
    struct curve *edge = load_role(SERVICE_EDGE, directory);
    struct common_config config = config_with(directory);
    uint32_t of_worker = 0, of_edge = 0;
    const int wait = 700;
    struct link link;

    (void)state;
    open_link(&link, edge, NULL, "tcp://127.0.0.1:*");
    zmq_setsockopt(link.router, ZMQ_RCVTIMEO, &wait, sizeof wait);
    assert_false(exchange(&link, edge, NULL, &config, &of_worker, &of_edge));
    close_link(&link);
    curve_destroy(&edge);
}

static void a_key_speaks_as_its_role_and_no_other(void **state)
{
    struct curve *edge = load_role(SERVICE_EDGE, directory);
    struct common_config config = config_with(directory);

    (void)state;
    for (unsigned role = SERVICE_AUTHZ; role < SERVICE_COUNT; role++) {
        struct curve *worker = load_role((enum service)role, directory);
        uint32_t of_worker = 0, of_edge = 0;
        struct link link;

        open_link(&link, edge, worker, "tcp://127.0.0.1:*");
        assert_true(exchange(&link, edge, worker, &config, &of_worker, &of_edge));
        assert_int_equal(of_worker, 1u << role);
        assert_int_equal(of_edge, 1u << SERVICE_EDGE);
        close_link(&link);
        curve_destroy(&worker);
        curve_destroy(&edge);    /* a ZAP handler belongs to one context */
        edge = load_role(SERVICE_EDGE, directory);
    }
    curve_destroy(&edge);
}

static void on_ipc_the_user_says_which_roles(void **state)
{
    struct common_config config = { 0 };
    uint32_t of_worker = 0, of_edge = 0;
    char endpoint[128];
    struct link link;

    (void)state;
    snprintf(endpoint, sizeof endpoint, "ipc://%s/socket", directory);
    open_link(&link, NULL, NULL, endpoint);
    assert_true(exchange(&link, NULL, NULL, &config, &of_worker, &of_edge));
    assert_int_equal(of_worker, EVERY_ROLE);
    assert_int_equal(of_edge, EVERY_ROLE);
    snprintf(config.bus_uids, sizeof config.bus_uids, "authz=%u,keys=%u,edge=%u", geteuid(), geteuid(), geteuid() + 1);
    assert_true(exchange(&link, NULL, NULL, &config, &of_worker, &of_edge));
    assert_int_equal(of_worker, 1u << SERVICE_AUTHZ | 1u << SERVICE_KEYS);
    assert_int_equal(of_edge, of_worker);
    snprintf(config.bus_uids, sizeof config.bus_uids, "authz=%u", geteuid() + 1);
    assert_true(exchange(&link, NULL, NULL, &config, &of_worker, &of_edge));
    assert_int_equal(of_worker, 0);
    close_link(&link);
}

static void plain_tcp_on_loopback_is_nobody_unless_allowed(void **state)
{
    struct common_config config = { 0 };
    uint32_t of_worker = 0, of_edge = 0;
    struct link link;

    (void)state;
    open_link(&link, NULL, NULL, "tcp://127.0.0.1:*");
    assert_true(exchange(&link, NULL, NULL, &config, &of_worker, &of_edge));
    assert_int_equal(of_worker | of_edge, 0);
    config.bus_insecure = true;
    assert_true(exchange(&link, NULL, NULL, &config, &of_worker, &of_edge));
    assert_int_equal(of_worker & of_edge, EVERY_ROLE);
    close_link(&link);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_missing_key_is_not_found),
        cmocka_unit_test(a_secret_key_that_others_can_read_is_refused),
        cmocka_unit_test(a_file_that_is_no_key_is_malformed),
        cmocka_unit_test(a_secret_that_does_not_belong_to_its_public_key_is_refused),
        cmocka_unit_test(keys_are_not_overwritten_unless_asked),
        cmocka_unit_test(without_a_directory_there_are_no_keys_and_no_error),
        cmocka_unit_test(tcp_needs_keys_or_loopback_by_name),
        cmocka_unit_test(a_bad_list_of_users_is_refused),
        cmocka_unit_test(a_stranger_with_keys_of_another_installation_is_not_heard),
        cmocka_unit_test(a_made_up_key_is_not_heard),
        cmocka_unit_test(a_peer_without_any_key_is_not_heard),
        cmocka_unit_test(a_key_speaks_as_its_role_and_no_other),
        cmocka_unit_test(on_ipc_the_user_says_which_roles),
        cmocka_unit_test(plain_tcp_on_loopback_is_nobody_unless_allowed),
    };

    return cmocka_run_group_tests(tests, make_directories, remove_directories);
}
