/* test_ops.c - the operations listener as a probe or a scraper sees it, over its real socket. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "common/metrics.h"
#include "common/ops.h"

struct answer {
    int status;
    char text[65536];
    const char *body;
};

static struct ops *open_ops(const char *listen)
{
    struct common_config config = { 0 };
    struct ops *ops = NULL;
    char why[256] = "";

    snprintf(config.ops_listen, sizeof config.ops_listen, "%s", listen);
    if (ops_new(SERVICE_AUTHZ, &config, &ops, why, sizeof why) != ERR_OK)
        fail_msg("%s", why);
    return ops;
}

static void ask(const struct ops *ops, const char *request, struct answer *answer)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) },
                                   .sin_port = htons((uint16_t)ops_port(ops)) };
    int client = socket(AF_INET, SOCK_STREAM, 0);
    size_t used = 0;
    ssize_t received;

    assert_int_equal(connect(client, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(write(client, request, strlen(request)), (ssize_t)strlen(request));
    while ((received = read(client, answer->text + used, sizeof answer->text - 1 - used)) > 0)
        used += (size_t)received;
    close(client);
    answer->text[used] = 0;
    assert_int_equal(sscanf(answer->text, "HTTP/1.1 %d", &answer->status), 1);
    answer->body = strstr(answer->text, "\r\n\r\n");
    assert_non_null(answer->body);
    answer->body += 4;
}

static void get(const struct ops *ops, const char *path, struct answer *answer)
{
    char request[256];

    snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path);
    ask(ops, request, answer);
}

static void an_address_that_cannot_be_used_is_refused(void **state)
{
    static const char *const bad[] = { "8443s", "127.0.0.1", "127.0.0.1:", "127.0.0.1:8443s", "127.0.0.1:80r",
                                       "127.0.0.1:1,127.0.0.1:2", "127.0.0.1:99999", "host:80", "[::1]:80", ":80" };
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct common_config config = { 0 };
        struct ops *ops = NULL;
        char why[256] = "";

        snprintf(config.ops_listen, sizeof config.ops_listen, "%s", bad[i]);
        if (ops_new(SERVICE_AUTHZ, &config, &ops, why, sizeof why) == ERR_OK)
            fail_msg("%s", bad[i]);
        assert_non_null(strstr(why, "ops_listen"));
    }
}

static void a_port_in_use_is_told(void **state)
{
    struct ops *first = open_ops("127.0.0.1:0"), *second = NULL;
    struct common_config config = { 0 };
    char why[256] = "";

    (void)state;
    snprintf(config.ops_listen, sizeof config.ops_listen, "127.0.0.1:%d", ops_port(first));
    assert_int_equal(ops_new(SERVICE_KEYS, &config, &second, why, sizeof why), ERR_UNAVAILABLE);
    assert_non_null(strstr(why, "in use"));
    ops_destroy(&first);
}

static void other_paths_and_methods_are_refused(void **state)
{
    static struct answer answer;
    struct ops *ops = open_ops("127.0.0.1:0");

    (void)state;
    get(ops, "/", &answer);
    assert_int_equal(answer.status, 404);
    get(ops, "/etc/passwd", &answer);
    assert_int_equal(answer.status, 404);
    get(ops, "/metrics/../readyz", &answer);
    assert_true(answer.status == 404 || answer.status == 503 || answer.status == 400);
    ask(ops, "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", &answer);
    assert_int_equal(answer.status, 405);
    ask(ops, "PUT /x HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", &answer);
    assert_int_equal(answer.status, 405);
    ops_destroy(&ops);
    assert_null(ops);
}

static void not_ready_until_every_fact_is_true(void **state)
{
    static struct answer answer;
    struct ops *ops = open_ops("127.0.0.1:0");

    (void)state;
    assert_false(ops_is_ready(ops));    /* nothing is known yet: doubt is denial */
    ops_set_fact(ops, "postgres", true);
    ops_set_fact(ops, "redis", false);
    get(ops, "/readyz", &answer);
    assert_int_equal(answer.status, 503);
    assert_non_null(strstr(answer.body, "\"redis\":false"));
    get(ops, "/healthz", &answer);
    assert_int_equal(answer.status, 200);
    ops_set_fact(ops, "redis", true);
    get(ops, "/readyz", &answer);
    assert_int_equal(answer.status, 200);
    assert_true(ops_is_ready(ops));
    ops_destroy(&ops);
}

static void a_note_makes_health_red_and_nothing_else(void **state)
{
    static struct answer answer;
    struct ops *ops = open_ops("127.0.0.1:0");
    json_t *body;

    (void)state;
    ops_set_fact(ops, "running", true);
    ops_set_note(ops, "triggers", false);
    get(ops, "/readyz", &answer);
    assert_int_equal(answer.status, 200);
    body = json_loads(answer.body, 0, NULL);
    assert_true(json_is_true(json_object_get(body, "ready")));
    assert_true(json_is_false(json_object_get(body, "healthy")));
    assert_true(json_is_false(json_object_get(json_object_get(body, "notes"), "triggers")));
    json_decref(body);
    ops_destroy(&ops);
}

static void facts_are_limited_and_the_text_fits_its_buffer(void **state)
{
    static const char *const names[] = { "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n" };
    struct ops *ops = open_ops("");
    char text[64];

    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        ops_set_fact(ops, names[i], true);
    assert_true(ops_is_ready(ops));
    assert_int_equal(ops_describe(ops, text, 0), 0);
    assert_true(ops_describe(ops, text, sizeof text) < sizeof text);
    assert_int_equal(ops_port(ops), 0);
    ops_destroy(&ops);
}

static void metrics_are_prometheus_text(void **state)
{
    static struct answer answer;
    struct ops *ops = open_ops("127.0.0.1:0");

    (void)state;
    metric_set(METRIC_change_applied, 4711);
    get(ops, "/metrics", &answer);
    assert_int_equal(answer.status, 200);
    assert_non_null(strstr(answer.text, "text/plain; version=0.0.4"));
    assert_non_null(strstr(answer.body, "\nmcpgw_change_applied 4711\n"));
    ops_destroy(&ops);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_address_that_cannot_be_used_is_refused),
        cmocka_unit_test(a_port_in_use_is_told),
        cmocka_unit_test(other_paths_and_methods_are_refused),
        cmocka_unit_test(not_ready_until_every_fact_is_true),
        cmocka_unit_test(a_note_makes_health_red_and_nothing_else),
        cmocka_unit_test(facts_are_limited_and_the_text_fits_its_buffer),
        cmocka_unit_test(metrics_are_prometheus_text),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
