/*
 * bare_server.c - civetweb that answers every request with the same 200: what the HTTP library alone can do here.
 * bare_server PORT THREADS; ends with SIGTERM.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include <civetweb.h>

static int answer(struct mg_connection *connection, void *unused)
{
    static const char text[] = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";

    (void)unused;
    mg_write(connection, text, sizeof text - 1);
    return 200;
}

int main(int argc, char **argv)
{
    const char *options[] = { "listening_ports", argc > 1 ? argv[1] : "0", "num_threads", argc > 2 ? argv[2] : "1024",
                              "enable_keep_alive", "yes", "keep_alive_timeout_ms", "10000", "tcp_nodelay", "1",
                              "connection_queue", "1024", "listen_backlog", "1024", NULL };
    struct mg_callbacks callbacks;
    struct mg_context *context;
    sigset_t signals;
    int number;

    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    memset(&callbacks, 0, sizeof callbacks);
    mg_init_library(0);
    context = mg_start(&callbacks, NULL, options);
    if (context == NULL) {
        fprintf(stderr, "bare_server: cannot listen on %s\n", options[1]);
        return 1;
    }
    mg_set_request_handler(context, "/", answer, NULL);
    sigwait(&signals, &number);
    mg_stop(context);
    return 0;
}
