/* probes.c - two answers on two civetweb threads; nothing but the bare verdict is told. */
#include "services/edge/probes.h"

#include <civetweb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "services/edge/edge_http.h"

struct probes {
    struct mg_context *context;
    struct ops *ops;
};

static int on_probe(struct mg_connection *connection)
{
    const struct mg_request_info *info = mg_get_request_info(connection);
    const struct probes *probes = mg_get_user_data(mg_get_context(connection));
    int status = 404;

    if (strcmp(info->local_uri_raw, "/healthz") == 0)
        status = 200;
    else if (strcmp(info->local_uri_raw, "/readyz") == 0)
        status = ops_is_ready(probes->ops) ? 200 : 503;
    mg_disable_connection_keep_alive(connection);
    mg_printf(connection,
              "HTTP/1.1 %d %s\r\nContent-Type: text/plain\r\nContent-Length: 3\r\nConnection: close\r\n\r\n%s", status,
              status == 200   ? "OK"
              : status == 503 ? "Service Unavailable"
                              : "Not Found",
              status == 200 ? "ok\n" : "no\n");
    return status;
}

static int on_message(const struct mg_connection *connection, const char *message)
{
    (void)connection;
    (void)message;
    return 1;
}

enum err probes_new(const char *listen, struct ops *ops, struct probes **ret_probes, char *reterr, size_t reterr_size)
{
    const struct mg_callbacks callbacks = { .begin_request = on_probe, .log_message = on_message };
    const char *options[] = { "listening_ports",
                              listen,
                              "num_threads",
                              "2",
                              "request_timeout_ms",
                              "1000",
                              "decode_url",
                              "no",
                              "max_request_size",
                              "4096",
                              "enable_auth_domain_check",
                              "no",
                              NULL };
    struct probes *probes;
    enum err err = edge_http_check_listen(listen, reterr, reterr_size);

    if (err != ERR_OK)
        return err;
    probes = calloc(1, sizeof *probes);
    if (probes == NULL)
        return ERR_NO_MEMORY;
    probes->ops = ops;
    mg_init_library(0);
    probes->context = mg_start(&callbacks, probes, options);
    if (probes->context == NULL) {
        snprintf(reterr, reterr_size, "probe_listen: cannot serve %s; is the port in use, or not ours to take?",
                 listen);
        probes_destroy(&probes);
        return ERR_UNAVAILABLE;
    }
    *ret_probes = probes;
    return ERR_OK;
}

void probes_destroy(struct probes **probes)
{
    if (*probes == NULL)
        return;
    if ((*probes)->context != NULL) {
        edge_http_close_listeners((*probes)->context);
        mg_stop((*probes)->context);
    }
    mg_exit_library();
    free(*probes);
    *probes = NULL;
}
