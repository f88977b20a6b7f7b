/*
 * test_fetch.c - fetches from real servers on loopback: plain and TLS, honest and hostile.  Each is a child process that
 * answers by path, a child of its own per connection.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "common/fetch.h"

#define GIVE_UP_MS  60000
#define DEADLINE_MS 20000
#define BODY_MAX    4096u
#define FLIGHT_MAX  2u

enum { PLAIN, RIGHT_NAME, WRONG_NAME, SERVERS };

static struct server {
    pid_t pid;
    int listener;
    unsigned port;
    X509 *certificate;
    EVP_PKEY *key;
} servers[SERVERS];
static char ca_file[] = "/tmp/mcpgw-fetch-XXXXXX";

/* ---- the servers ---- */

struct peer {
    int fd;
    SSL *tls;
};

static void say(const struct peer *peer, const char *text)
{
    if (peer->tls != NULL)
        SSL_write(peer->tls, text, (int)strlen(text));
    else
        send(peer->fd, text, strlen(text), MSG_NOSIGNAL);
}

static void say_huge(const struct peer *peer)
{
    char block[1024];

    memset(block, 'x', sizeof block - 1);
    block[sizeof block - 1] = 0;
    say(peer, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n");
    for (int i = 0; i < 64; i++)
        say(peer, block);
}

/* What was asked, back to who asked. */
static void say_request(const struct peer *peer, const char *request)
{
    char head[128];

    snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %zu\r\n\r\n", strlen(request));
    say(peer, head);
    say(peer, request);
}

static const struct fixed {
    const char *path, *text;
} fixed[] = {
    { "/good", "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nCache-Control: public, max-age=300\r\nAge: 100\r\n"
               "Content-Length: 2\r\n\r\n{}" },
    { "/no-store", "HTTP/1.1 200 OK\r\nCache-Control: max-age=300\r\nCache-Control: no-store\r\nContent-Length: 0\r\n\r\n" },
    { "/endless", "HTTP/1.1 200 OK\r\nCache-Control: max-age=99999999999999999999999\r\nContent-Length: 0\r\n\r\n" },
    { "/html", "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>" },
    { "/truncated", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\nConnection: close\r\n\r\n{\"keys\":" },
    { "/moved", "HTTP/1.1 302 Found\r\nLocation: /good\r\nContent-Length: 0\r\n\r\n" },
    { "/broken", "HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\nsad!" },
    { "/garbage", "\x16\x03\x01 what?\r\n\r\n" },
    { "/closes", "" },
};

static void answer(const struct peer *peer, const char *request)
{
    const char *path = strchr(request, ' ');

    if (path == NULL)
        return;
    path++;
    if (strncmp(path, "/huge", 5) == 0)
        say_huge(peer);
    if (strncmp(path, "/echo", 5) == 0)
        say_request(peer, request);
    if (strncmp(path, "/slow", 5) == 0) {
        say(peer, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{");
        pause();
    }
    for (size_t i = 0; i < sizeof fixed / sizeof fixed[0]; i++)
        if (strncmp(path, fixed[i].path, strlen(fixed[i].path)) == 0)
            say(peer, fixed[i].text);
}

static bool is_whole(const char *request)
{
    const char *end = strstr(request, "\r\n\r\n");
    const char *length = strstr(request, "Content-Length: ");

    return end != NULL && (length == NULL || strlen(end + 4) >= strtoul(length + 16, NULL, 10));
}

static void serve_one(int fd, SSL_CTX *context)
{
    struct peer peer = { .fd = fd, .tls = context != NULL ? SSL_new(context) : NULL };
    char request[4096] = "";
    size_t size = 0;
    ssize_t got = 1;

    if (peer.tls != NULL && (SSL_set_fd(peer.tls, fd) != 1 || SSL_accept(peer.tls) != 1))
        _exit(0);
    while (got > 0 && size < sizeof request - 1 && !is_whole(request)) {
        got = peer.tls != NULL ? SSL_read(peer.tls, request + size, (int)(sizeof request - 1 - size))
                               : recv(fd, request + size, sizeof request - 1 - size, 0);
        size += got > 0 ? (size_t)got : 0;
        request[size] = 0;
    }
    answer(&peer, request);
    if (peer.tls != NULL)
        SSL_shutdown(peer.tls);
    shutdown(fd, SHUT_WR);
    while (recv(fd, request, sizeof request, 0) > 0)
        ;    /* closing over unread bytes would reset what was sent */
    _exit(0);
}

static void serve(const struct server *server)
{
    SSL_CTX *context = NULL;

    signal(SIGCHLD, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
    if (server->key != NULL) {
        context = SSL_CTX_new(TLS_server_method());
        SSL_CTX_use_certificate(context, server->certificate);
        SSL_CTX_use_PrivateKey(context, server->key);
    }
    for (;;) {
        int fd = accept(server->listener, NULL, NULL);

        if (fd >= 0 && fork() == 0)
            serve_one(fd, context);
        if (fd >= 0)
            close(fd);
    }
}

static void start_server(struct server *server)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t size = sizeof address;

    server->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(server->listener, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(server->listener, 16), 0);
    assert_int_equal(getsockname(server->listener, (struct sockaddr *)&address, &size), 0);
    server->port = ntohs(address.sin_port);
    server->pid = fork();
    if (server->pid == 0) {
        setpgid(0, 0);    /* its children end with it */
        serve(server);
    }
    setpgid(server->pid, server->pid);
}

/* ---- a throw-away authority ---- */

static void add_extension(X509 *certificate, int what, const char *value)
{
    X509V3_CTX context;
    X509_EXTENSION *extension;

    X509V3_set_ctx_nodb(&context);
    X509V3_set_ctx(&context, certificate, certificate, NULL, NULL, 0);
    extension = X509V3_EXT_conf_nid(NULL, &context, what, value);
    assert_non_null(extension);
    X509_add_ext(certificate, extension, -1);
    X509_EXTENSION_free(extension);
}

static X509 *make_certificate(EVP_PKEY *key, const char *name, const char *alternative, X509 *issuer, EVP_PKEY *issuer_key)
{
    X509 *certificate = X509_new();

    X509_set_version(certificate, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(certificate), issuer == NULL ? 1 : 2);
    X509_gmtime_adj(X509_getm_notBefore(certificate), -60);
    X509_gmtime_adj(X509_getm_notAfter(certificate), 3600);
    X509_set_pubkey(certificate, key);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate), "CN", MBSTRING_ASC, (const unsigned char *)name, -1, -1, 0);
    X509_set_issuer_name(certificate, X509_get_subject_name(issuer != NULL ? issuer : certificate));
    if (alternative != NULL)
        add_extension(certificate, NID_subject_alt_name, alternative);
    else
        add_extension(certificate, NID_basic_constraints, "critical,CA:TRUE");
    assert_true(X509_sign(certificate, issuer_key, EVP_sha256()) > 0);
    return certificate;
}

static int start_servers(void **state)
{
    EVP_PKEY *ca_key = EVP_EC_gen("P-256");
    X509 *ca = make_certificate(ca_key, "throw-away CA", NULL, NULL, ca_key);
    FILE *file = fdopen(mkstemp(ca_file), "w");

    (void)state;
    assert_non_null(file);
    PEM_write_X509(file, ca);
    fclose(file);
    servers[RIGHT_NAME].key = EVP_EC_gen("P-256");
    servers[WRONG_NAME].key = EVP_EC_gen("P-256");
    servers[RIGHT_NAME].certificate = make_certificate(servers[RIGHT_NAME].key, "here", "IP:127.0.0.1", ca, ca_key);
    servers[WRONG_NAME].certificate = make_certificate(servers[WRONG_NAME].key, "there", "DNS:there.example", ca, ca_key);
    for (int i = 0; i < SERVERS; i++)
        start_server(&servers[i]);
    X509_free(ca);
    EVP_PKEY_free(ca_key);
    return 0;
}

static int stop_servers(void **state)
{
    (void)state;
    for (int i = 0; i < SERVERS; i++) {
        kill(-servers[i].pid, SIGKILL);
        waitpid(servers[i].pid, NULL, 0);
        close(servers[i].listener);
        X509_free(servers[i].certificate);
        EVP_PKEY_free(servers[i].key);
    }
    unlink(ca_file);
    return 0;
}

/* ---- who asks ---- */

struct bench {
    struct loop *loop;
    struct fetcher *fetcher;
    struct fetch *fetch, *second;
    int calls, wanted;
    bool gave_up, was_gone;
    struct fetch_answer answer;    /* the last one; its body is in `body` */
    char body[BODY_MAX + 1];
};

static void open_fetcher(struct bench *bench, const struct fetcher_options *options)
{
    fetcher_destroy(&bench->fetcher);
    assert_int_equal(fetcher_new(bench->loop, options, &bench->fetcher), ERR_OK);
}

static const struct fetcher_options trusting = { .ca_file = ca_file, .allow_private = true, .allow_plain_http = true,
                                                 .flight_max = FLIGHT_MAX, .body_max = BODY_MAX };

static int make_bench(void **state)
{
    static struct bench bench;

    memset(&bench, 0, sizeof bench);
    bench.wanted = 1;
    *state = &bench;
    if (loop_new(&bench.loop) != ERR_OK)
        return -1;
    open_fetcher(&bench, &trusting);
    return 0;
}

static int free_bench(void **state)
{
    struct bench *bench = *state;

    fetcher_destroy(&bench->fetcher);
    loop_destroy(&bench->loop);
    return 0;
}

static void give_up(void *owner)
{
    struct bench *bench = owner;

    bench->gave_up = true;
    loop_stop(bench->loop);
}

static void on_answer(void *owner, const struct fetch_answer *answer)
{
    struct bench *bench = owner;

    bench->calls++;
    bench->was_gone = bench->fetch == NULL;
    bench->answer = *answer;
    assert_true(answer->size <= BODY_MAX);
    memcpy(bench->body, answer->body, answer->size + 1);
    if (bench->calls == bench->wanted)
        loop_stop(bench->loop);
}

static const char *url_of(int server, const char *path)
{
    static char url[128];

    snprintf(url, sizeof url, "%s://127.0.0.1:%u%s", server == PLAIN ? "http" : "https", servers[server].port, path);
    return url;
}

static void run(struct bench *bench)
{
    int timer = loop_after(bench->loop, GIVE_UP_MS, give_up, bench);

    assert_int_equal(loop_run(bench->loop), ERR_OK);
    assert_false(bench->gave_up);
    loop_cancel(bench->loop, timer);
}

static enum err ask_with(struct bench *bench, const struct fetch_request *request)
{
    assert_int_equal(fetch_start(bench->fetcher, request, on_answer, bench, &bench->fetch), ERR_OK);
    assert_int_equal(bench->calls, 0);
    run(bench);
    assert_int_equal(bench->calls, 1);
    assert_true(bench->was_gone);
    assert_int_equal(fetcher_in_flight(bench->fetcher), 0);
    bench->calls = 0;
    return bench->answer.err;
}

static enum err ask(struct bench *bench, int server, const char *path)
{
    return ask_with(bench, &(struct fetch_request){ .url = url_of(server, path), .deadline_ms = DEADLINE_MS });
}

/* ---- what is refused ---- */

static void urls_that_must_not_be_asked_are_refused(void **state)
{
    static const char *const refused[] = {
        "", "/", "//host/", "host", "file:///etc/passwd", "ftp://host/", "gopher://host/", "https://", "https:///x", "https://user@host/",
        "https://user:secret@host/", "https://host/#x", "https://ho st/", "https://host/\n", "https://host:99999/", "http://10.0.0.1/",
        "http://example.com/", "http://localhost.example/", "http://127.0.0.1.example/", "http://[::2]/", "https://h\xc3\xb6st/",
    };
    char longest[FETCH_URL_MAX + 2];

    (void)state;
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++)
        if (fetch_url_fault(refused[i], true) == NULL)
            fail_msg("taken: %s", refused[i]);
    memset(longest, 'a', sizeof longest - 1);
    memcpy(longest, "https://", 8);
    longest[sizeof longest - 1] = 0;
    assert_non_null(fetch_url_fault(longest, true));
    assert_non_null(fetch_url_fault("http://127.0.0.1/", false));
}

static void urls_of_issuers_are_taken(void **state)
{
    (void)state;
    assert_null(fetch_url_fault("https://login.example/t/v2.0/.well-known/openid-configuration", false));
    assert_null(fetch_url_fault("HTTPS://login.example:8443/jwks?appid=1", false));
    assert_null(fetch_url_fault("https://[2001:db8::1]/", false));
    assert_null(fetch_url_fault("http://127.0.0.1:3000/jwks", true));
    assert_null(fetch_url_fault("http://[::1]:3000/jwks", true));
    assert_null(fetch_url_fault("http://localhost:3000/jwks", true));
}

static void a_url_that_must_not_be_asked_is_not_asked(void **state)
{
    struct bench *bench = *state;
    const struct fetch_request request = { .url = "file:///etc/passwd", .deadline_ms = DEADLINE_MS };

    assert_int_equal(fetch_start(bench->fetcher, &request, on_answer, bench, &bench->fetch), ERR_UNPROCESSABLE);
    assert_null(bench->fetch);
    assert_int_equal(fetcher_in_flight(bench->fetcher), 0);
}

static void a_metadata_address_is_never_connected_to(void **state)
{
    struct bench *bench = *state;
    const struct fetch_request request = { .url = "https://169.254.169.254/latest", .deadline_ms = DEADLINE_MS };

    assert_int_equal(ask_with(bench, &request), ERR_DENIED);
    assert_non_null(strstr(bench->answer.reason, "metadata"));
}

static void a_private_address_needs_leave(void **state)
{
    struct bench *bench = *state;
    struct fetcher_options options = trusting;

    options.allow_private = false;
    open_fetcher(bench, &options);
    assert_int_equal(ask(bench, RIGHT_NAME, "/good"), ERR_DENIED);
    assert_non_null(strstr(bench->answer.reason, "fetch_private"));
    assert_int_equal(ask_with(bench, &(struct fetch_request){ .url = "https://10.255.255.1/", .deadline_ms = DEADLINE_MS }), ERR_DENIED);
    /* plain http to loopback was allowed by name */
    assert_int_equal(ask(bench, PLAIN, "/good"), ERR_OK);
}

static void a_certificate_for_another_name_is_refused(void **state)
{
    struct bench *bench = *state;

    assert_int_equal(ask(bench, WRONG_NAME, "/good"), ERR_UPSTREAM);
    assert_int_equal(bench->answer.status, 0);
    assert_int_equal(bench->answer.size, 0);
    assert_true(bench->answer.reason[0] != 0);
}

static void a_certificate_of_an_unknown_authority_is_refused(void **state)
{
    struct bench *bench = *state;
    struct fetcher_options options = trusting;

    options.ca_file = "";
    open_fetcher(bench, &options);
    assert_int_equal(ask(bench, RIGHT_NAME, "/good"), ERR_UPSTREAM);
    assert_int_equal(bench->answer.status, 0);
}

static void a_file_without_certificates_is_no_authority(void **state)
{
    struct bench *bench = *state;
    struct fetcher_options options = trusting;
    struct fetcher *fetcher = NULL;

    options.ca_file = "/etc/hostname";
    assert_int_equal(fetcher_new(bench->loop, &options, &fetcher), ERR_UNPROCESSABLE);
    options.ca_file = "/nowhere.pem";
    assert_int_equal(fetcher_new(bench->loop, &options, &fetcher), ERR_UNPROCESSABLE);
    assert_null(fetcher);
}

static void a_slow_answer_ends_at_its_deadline(void **state)
{
    struct bench *bench = *state;

    assert_int_equal(ask_with(bench, &(struct fetch_request){ .url = url_of(PLAIN, "/slow"), .deadline_ms = 50 }), ERR_UPSTREAM_TIMEOUT);
    assert_int_equal(ask_with(bench, &(struct fetch_request){ .url = url_of(RIGHT_NAME, "/slow"), .deadline_ms = 50 }), ERR_UPSTREAM_TIMEOUT);
    assert_int_equal(ask(bench, PLAIN, "/good"), ERR_OK);
}

static void a_huge_answer_is_cut_off(void **state)
{
    struct bench *bench = *state;

    assert_int_equal(ask(bench, PLAIN, "/huge"), ERR_TOO_LARGE);
    assert_int_equal(ask(bench, RIGHT_NAME, "/huge"), ERR_TOO_LARGE);
}

static void a_truncated_answer_is_none(void **state)
{
    struct bench *bench = *state;

    assert_int_equal(ask(bench, PLAIN, "/truncated"), ERR_UPSTREAM);
    assert_int_equal(ask(bench, RIGHT_NAME, "/truncated"), ERR_UPSTREAM);
}

static void a_redirection_is_not_followed(void **state)
{
    struct bench *bench = *state;

    assert_int_equal(ask(bench, PLAIN, "/moved"), ERR_UPSTREAM);
    assert_int_equal(bench->answer.status, 302);
    assert_non_null(strstr(bench->answer.reason, "redirection"));
}

static void what_is_no_http_is_no_answer(void **state)
{
    struct bench *bench = *state;

    assert_int_equal(ask(bench, PLAIN, "/garbage"), ERR_UPSTREAM);
    assert_int_equal(ask(bench, PLAIN, "/closes"), ERR_UPSTREAM);
    assert_int_equal(ask_with(bench, &(struct fetch_request){ .url = "http://127.0.0.1:1/", .deadline_ms = DEADLINE_MS }), ERR_UPSTREAM);
}

static void more_than_allowed_at_a_time_are_refused(void **state)
{
    struct bench *bench = *state;
    const struct fetch_request request = { .url = url_of(PLAIN, "/slow"), .deadline_ms = DEADLINE_MS };
    struct fetch *third = NULL;

    assert_int_equal(fetch_start(bench->fetcher, &request, on_answer, bench, &bench->fetch), ERR_OK);
    assert_int_equal(fetch_start(bench->fetcher, &request, on_answer, bench, &bench->second), ERR_OK);
    assert_int_equal(fetch_start(bench->fetcher, &request, on_answer, bench, &third), ERR_OVERLOADED);
    assert_null(third);
    assert_int_equal(fetcher_in_flight(bench->fetcher), 2);
    fetch_cancel(&bench->second);
    assert_null(bench->second);
    assert_int_equal(fetch_start(bench->fetcher, &request, on_answer, bench, &bench->second), ERR_OK);
}

static void a_cancelled_fetch_calls_nobody(void **state)
{
    struct bench *bench = *state;
    const struct fetch_request request = { .url = url_of(PLAIN, "/slow"), .deadline_ms = 10 };

    assert_int_equal(fetch_start(bench->fetcher, &request, on_answer, bench, &bench->second), ERR_OK);
    fetch_cancel(&bench->second);
    fetch_cancel(&bench->second);
    assert_int_equal(ask(bench, PLAIN, "/good"), ERR_OK);    /* one call: its own */
}

/* ---- what is taken ---- */

static void an_answer_comes_with_its_type_and_its_age(void **state)
{
    struct bench *bench = *state;

    assert_int_equal(ask(bench, PLAIN, "/good"), ERR_OK);
    assert_int_equal(bench->answer.status, 200);
    assert_string_equal(bench->body, "{}");
    assert_string_equal(bench->answer.type, "application/json");
    assert_true(bench->answer.has_max_age);
    assert_int_equal(bench->answer.max_age_s, 200);
    assert_int_equal(ask(bench, PLAIN, "/html"), ERR_OK);
    assert_string_equal(bench->answer.type, "text/html");
    assert_false(bench->answer.has_max_age);
}

static void the_strictest_cache_control_counts(void **state)
{
    struct bench *bench = *state;

    assert_int_equal(ask(bench, PLAIN, "/no-store"), ERR_OK);
    assert_true(bench->answer.has_max_age);
    assert_int_equal(bench->answer.max_age_s, 0);
    assert_int_equal(ask(bench, PLAIN, "/endless"), ERR_OK);
    assert_true(bench->answer.has_max_age);
    assert_int_equal(bench->answer.max_age_s, 31536000);
}

static void any_status_is_an_answer(void **state)
{
    struct bench *bench = *state;

    assert_int_equal(ask(bench, PLAIN, "/broken"), ERR_OK);
    assert_int_equal(bench->answer.status, 500);
    assert_string_equal(bench->body, "sad!");
}

static void a_certificate_of_the_extra_authority_is_taken(void **state)
{
    struct bench *bench = *state;

    assert_int_equal(ask(bench, RIGHT_NAME, "/good"), ERR_OK);
    assert_string_equal(bench->body, "{}");
}

static void a_form_is_posted_with_encoded_credentials(void **state)
{
    struct bench *bench = *state;
    struct secret password = { .size = 3, .bytes = "a:b" };
    const struct fetch_request request = { .url = url_of(RIGHT_NAME, "/echo"), .form = "token=x&token_type_hint=access_token", .form_size = 36,
                                           .user = "me:too", .password = &password, .deadline_ms = DEADLINE_MS };

    assert_int_equal(ask_with(bench, &request), ERR_OK);
    assert_int_equal(strncmp(bench->body, "POST /echo HTTP/1.1\r\n", 21), 0);
    assert_non_null(strstr(bench->body, "\r\nAuthorization: Basic bWUlM0F0b286YSUzQWI=\r\n"));    /* me%3Atoo:a%3Ab */
    assert_non_null(strstr(bench->body, "\r\nContent-Type: application/x-www-form-urlencoded\r\n"));
    assert_non_null(strstr(bench->body, "\r\nAccept: application/json\r\n"));
    assert_null(strstr(bench->body, "Expect:"));
    assert_non_null(strstr(bench->body, "\r\n\r\ntoken=x&token_type_hint=access_token"));
    /* and the next one has none of it */
    assert_int_equal(ask(bench, RIGHT_NAME, "/echo"), ERR_OK);
    assert_int_equal(strncmp(bench->body, "GET /echo HTTP/1.1\r\n", 20), 0);
    assert_null(strstr(bench->body, "Authorization"));
}

static void ask_again(void *owner, const struct fetch_answer *answer)
{
    struct bench *bench = owner;
    const struct fetch_request request = { .url = url_of(PLAIN, "/html"), .deadline_ms = DEADLINE_MS };

    assert_int_equal(fetch_start(bench->fetcher, &request, on_answer, bench, &bench->fetch), ERR_OK);
    assert_string_equal(answer->body, "{}");
}

static void an_answer_may_lead_to_the_next_question(void **state)
{
    struct bench *bench = *state;
    struct fetcher_options options = trusting;
    const struct fetch_request request = { .url = url_of(PLAIN, "/good"), .deadline_ms = DEADLINE_MS };

    options.flight_max = 1;
    open_fetcher(bench, &options);
    assert_int_equal(fetch_start(bench->fetcher, &request, ask_again, bench, &bench->fetch), ERR_OK);
    run(bench);
    assert_string_equal(bench->body, "<html>");
}

#define BENCH_TEST(test) cmocka_unit_test_setup_teardown(test, make_bench, free_bench)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(urls_that_must_not_be_asked_are_refused),
        cmocka_unit_test(urls_of_issuers_are_taken),
        BENCH_TEST(a_url_that_must_not_be_asked_is_not_asked),
        BENCH_TEST(a_metadata_address_is_never_connected_to),
        BENCH_TEST(a_private_address_needs_leave),
        BENCH_TEST(a_certificate_for_another_name_is_refused),
        BENCH_TEST(a_certificate_of_an_unknown_authority_is_refused),
        BENCH_TEST(a_file_without_certificates_is_no_authority),
        BENCH_TEST(a_slow_answer_ends_at_its_deadline),
        BENCH_TEST(a_huge_answer_is_cut_off),
        BENCH_TEST(a_truncated_answer_is_none),
        BENCH_TEST(a_redirection_is_not_followed),
        BENCH_TEST(what_is_no_http_is_no_answer),
        BENCH_TEST(more_than_allowed_at_a_time_are_refused),
        BENCH_TEST(a_cancelled_fetch_calls_nobody),
        BENCH_TEST(an_answer_comes_with_its_type_and_its_age),
        BENCH_TEST(the_strictest_cache_control_counts),
        BENCH_TEST(any_status_is_an_answer),
        BENCH_TEST(a_certificate_of_the_extra_authority_is_taken),
        BENCH_TEST(a_form_is_posted_with_encoded_credentials),
        BENCH_TEST(an_answer_may_lead_to_the_next_question),
    };

    return cmocka_run_group_tests(tests, start_servers, stop_servers);
}
