/*
 * ops.c - the operations listener: three paths, GET only, nothing of a request is used but its path.
 *
 * Owns a civetweb context of its own with two threads.  Facts and notes are few and guarded by one lock.
 */
#include "common/ops.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <civetweb.h>

#include "common/cleanup.h"
#include "common/metrics.h"

#define DESCRIPTION_SIZE 2048
#define WAKE_FD_MAX      4096    /* descriptors looked through for the listener; it was opened at start and is low */

struct fact {
    const char *name;
    bool value;
};

struct ops {
    enum service service;
    struct mg_context *server;        /* NULL: ops_listen is empty */
    int port;
    pthread_mutex_t lock;
    size_t fact_count, note_count;
    struct fact facts[OPS_FACTS_MAX], notes[OPS_FACTS_MAX];
};

static struct ops *take_ops(struct ops **from)
{
    struct ops *taken = *from;

    *from = NULL;
    return taken;
}

static void answer(struct mg_connection *connection, const char *status, const char *type,
                   const char *body, size_t size)
{
    mg_printf(connection, "HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\nCache-Control: no-store\r\n"
              "Connection: close\r\n\r\n", status, type, size);
    mg_write(connection, body, size);
}

static void answer_metrics(const struct ops *ops, struct mg_connection *connection)
{
    char *body = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&body, &size);

    if (out == NULL) {
        answer(connection, "503 Service Unavailable", "text/plain", "", 0);
        return;
    }
    metrics_print(ops->service, out);
    fclose(out);
    answer(connection, "200 OK", "text/plain; version=0.0.4", body, size);
    free(body);
}

static int on_request(struct mg_connection *connection, void *owner)
{
    const struct ops *ops = owner;
    const struct mg_request_info *request = mg_get_request_info(connection);
    char body[DESCRIPTION_SIZE];
    size_t size = ops_describe(ops, body, sizeof body);

    if (strcmp(request->request_method, "GET") != 0)
        answer(connection, "405 Method Not Allowed", "text/plain", "", 0);
    else if (strcmp(request->local_uri, "/healthz") == 0)
        answer(connection, "200 OK", "application/json", body, size);
    else if (strcmp(request->local_uri, "/readyz") == 0)
        answer(connection, ops_is_ready(ops) ? "200 OK" : "503 Service Unavailable", "application/json", body, size);
    else if (strcmp(request->local_uri, "/metrics") == 0)
        answer_metrics(ops, connection);
    else
        answer(connection, "404 Not Found", "text/plain", "", 0);
    return 1;    /* handled: civetweb never looks for a file */
}

static int ignore_log(const struct mg_connection *connection, const char *message)
{
    (void)connection;
    (void)message;
    return 1;
}

/* ADDRESS:PORT in digits only: civetweb reads letters behind the port as TLS and redirects. */
static bool is_plain_address(const char *text)
{
    const char *colon = strrchr(text, ':');
    size_t digits = colon != NULL ? strlen(colon + 1) : 0;

    return colon != NULL && colon > text && strspn(text, "0123456789.") == (size_t)(colon - text)
        && digits > 0 && digits <= 5 && strspn(colon + 1, "0123456789") == digits;
}

static enum err listen_at(struct ops *ops, const char *address, char *reterr, size_t reterr_size)
{
    const char *options[] = { "listening_ports", address, "num_threads", "2", "enable_keep_alive", "no",
                                    "request_timeout_ms", "2000", "max_request_size", "4096", NULL };
    const struct mg_callbacks callbacks = { .log_message = ignore_log };
    struct mg_server_port port = { 0 };

    if (!is_plain_address(address)) {
        snprintf(reterr, reterr_size, "ops_listen: \"%s\" is not an IPv4 address and a port", address);
        return ERR_MALFORMED;
    }
    mg_init_library(0);
    ops->server = mg_start(&callbacks, ops, options);
    if (ops->server == NULL) {
        mg_exit_library();
        snprintf(reterr, reterr_size, "ops_listen: cannot listen on %s: is the port in use?", address);
        return ERR_UNAVAILABLE;
    }
    mg_set_request_handler(ops->server, "/**", on_request, ops);
    if (mg_get_server_ports(ops->server, 1, &port) == 1)
        ops->port = port.port;
    return ERR_OK;
}

enum err ops_new(enum service service, const struct common_config *config, struct ops **ret_ops,
                 char *reterr, size_t reterr_size)
{
    OWNED(ops_destroy) struct ops *ops = calloc(1, sizeof *ops);
    enum err err = ERR_OK;

    if (ops == NULL)
        return ERR_NO_MEMORY;
    ops->service = service;
    pthread_mutex_init(&ops->lock, NULL);
    if (config->ops_listen[0] != 0)
        err = listen_at(ops, config->ops_listen, reterr, reterr_size);
    if (err != ERR_OK)
        return err;
    *ret_ops = take_ops(&ops);
    return ERR_OK;
}

/* civetweb's accepting thread looks at its stop flag every 2 s; a listener that is shut down wakes it. */
static void wake_server(int port)
{
    for (int fd = 3; fd < WAKE_FD_MAX; fd++) {
        struct sockaddr_in address;
        socklen_t size = sizeof address, flag_size = sizeof(int);
        int is_listener = 0;

        if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &is_listener, &flag_size) == 0 && is_listener
            && getsockname(fd, (struct sockaddr *)&address, &size) == 0 && address.sin_family == AF_INET
            && ntohs(address.sin_port) == port)
            shutdown(fd, SHUT_RDWR);
    }
}

void ops_destroy(struct ops **ops)
{
    if (*ops == NULL)
        return;
    if ((*ops)->server != NULL) {
        wake_server(ops_port(*ops));
        mg_stop((*ops)->server);
        mg_exit_library();
    }
    pthread_mutex_destroy(&(*ops)->lock);
    free(*ops);
    *ops = NULL;
}

static void set(struct ops *ops, struct fact *facts, size_t *count, struct fact wanted)
{
    size_t i = 0;

    pthread_mutex_lock(&ops->lock);
    while (i < *count && strcmp(facts[i].name, wanted.name) != 0)
        i++;
    if (i < OPS_FACTS_MAX)
        facts[i] = wanted;
    if (i == *count && i < OPS_FACTS_MAX)
        (*count)++;
    pthread_mutex_unlock(&ops->lock);
}

void ops_set_fact(struct ops *ops, const char *name, bool value)
{
    set(ops, ops->facts, &ops->fact_count, (struct fact){ name, value });
}

void ops_set_note(struct ops *ops, const char *name, bool healthy)
{
    set(ops, ops->notes, &ops->note_count, (struct fact){ name, healthy });
}

/* A copy, so that readers need the lock for a moment only; it is all that is mutable behind a const struct ops. */
static size_t copy_facts(const struct ops *ops, const struct fact *from, const size_t *count, struct fact *to)
{
    pthread_mutex_t *lock;
    const pthread_mutex_t *locked = &ops->lock;
    size_t copied;

    memcpy(&lock, &locked, sizeof lock);
    pthread_mutex_lock(lock);
    copied = *count;
    memcpy(to, from, copied * sizeof *from);
    pthread_mutex_unlock(lock);
    return copied;
}

static bool are_all_true(const struct fact *facts, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (!facts[i].value)
            return false;
    return true;
}

bool ops_is_ready(const struct ops *ops)
{
    struct fact facts[OPS_FACTS_MAX];
    size_t count = copy_facts(ops, ops->facts, &ops->fact_count, facts);

    return count > 0 && are_all_true(facts, count);
}

struct text {
    char *bytes;
    size_t size, used;
};

__attribute__((format(printf, 2, 3)))
static void append(struct text *text, const char *format, ...)
{
    va_list arguments;
    int length;

    va_start(arguments, format);
    length = vsnprintf(text->bytes + text->used, text->size - text->used, format, arguments);
    va_end(arguments);
    if (length > 0 && (size_t)length < text->size - text->used)
        text->used += (size_t)length;
}

static void append_facts(struct text *text, const char *name, const struct fact *facts, size_t count)
{
    append(text, ",\"%s\":{", name);
    for (size_t i = 0; i < count; i++)
        append(text, "%s\"%s\":%s", i > 0 ? "," : "", facts[i].name, facts[i].value ? "true" : "false");
    append(text, "}");
}

size_t ops_describe(const struct ops *ops, char *buffer, size_t size)
{
    struct fact facts[OPS_FACTS_MAX], notes[OPS_FACTS_MAX];
    size_t fact_count = copy_facts(ops, ops->facts, &ops->fact_count, facts);
    size_t note_count = copy_facts(ops, ops->notes, &ops->note_count, notes);
    bool ready = fact_count > 0 && are_all_true(facts, fact_count);
    struct text text = { buffer, size, 0 };

    if (size == 0)
        return 0;
    buffer[0] = 0;
    append(&text, "{\"ready\":%s,\"healthy\":%s", ready ? "true" : "false",
           ready && are_all_true(notes, note_count) ? "true" : "false");
    append_facts(&text, "facts", facts, fact_count);
    append_facts(&text, "notes", notes, note_count);
    append(&text, "}\n");
    return text.used;
}

int ops_port(const struct ops *ops)
{
    return ops->port;
}
