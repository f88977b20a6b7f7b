/*
 * example_server.c - a small MCP server (Streamable HTTP, stateless) for first calls and tests.
 *
 * Tools: echo, add, and whoami, which shows the identity that the gateway attached.  GET opens an event stream that
 * counts once a second.  It authenticates nobody: only the gateway may reach it (loopback).
 */
#include <civetweb.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BODY_MAX 1048576

static json_t *text_result(const char *text)
{
    return json_pack("{s:[{s:s,s:s}]}", "content", "type", "text", "text", text);
}

static json_t *tool_echo(const struct mg_connection *connection, json_t *arguments)
{
    const char *text = json_string_value(json_object_get(arguments, "text"));

    (void)connection;
    return text_result(text != NULL ? text : "");
}

static json_t *tool_add(const struct mg_connection *connection, json_t *arguments)
{
    char text[64];

    (void)connection;
    snprintf(text, sizeof text, "%.15g", json_number_value(json_object_get(arguments, "a"))
                                             + json_number_value(json_object_get(arguments, "b")));
    return text_result(text);
}

static json_t *tool_whoami(const struct mg_connection *connection, json_t *arguments)
{
    const struct mg_request_info *request = mg_get_request_info(connection);
    json_t *seen = json_object(), *result;
    char *text;

    (void)arguments;
    for (int i = 0; i < request->num_headers; i++)
        if (strncasecmp(request->http_headers[i].name, "X-Mcpgw-", 8) == 0)
            json_object_set_new(seen, request->http_headers[i].name, json_string(request->http_headers[i].value));
    text = json_dumps(seen, JSON_SORT_KEYS);
    result = text_result(text != NULL ? text : "{}");
    free(text);
    json_decref(seen);
    return result;
}

static const struct tool {
    const char *name, *description, *schema;
    json_t *(*call)(const struct mg_connection *, json_t *arguments);
} tools[] = {
    { "echo", "Says back what it is told",
      "{\"type\":\"object\",\"properties\":{\"text\":{\"type\":\"string\"}},\"required\":[\"text\"]}", tool_echo },
    { "add", "Adds two numbers",
      "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"number\"},\"b\":{\"type\":\"number\"}},\"required\":[\"a\",\"b\"]}",
      tool_add },
    { "whoami", "Shows the identity the gateway attached", "{\"type\":\"object\",\"properties\":{}}", tool_whoami },
};
#define TOOL_COUNT (sizeof tools / sizeof tools[0])

static json_t *list_tools(void)
{
    json_t *list = json_array();

    for (size_t i = 0; i < TOOL_COUNT; i++)
        json_array_append_new(list, json_pack("{s:s,s:s,s:o}", "name", tools[i].name, "description", tools[i].description,
                                              "inputSchema", json_loads(tools[i].schema, 0, NULL)));
    return json_pack("{s:o}", "tools", list);
}

static json_t *initialize(json_t *params)
{
    const char *version = json_string_value(json_object_get(params, "protocolVersion"));

    return json_pack("{s:s,s:{s:{}},s:{s:s,s:s}}", "protocolVersion", version != NULL ? version : "2025-06-18",
                     "capabilities", "tools", "serverInfo", "name", "mcpgw-example", "version", "1.0.0");
}

static json_t *call_tool(const struct mg_connection *connection, json_t *params)
{
    const char *name = json_string_value(json_object_get(params, "name"));

    for (size_t i = 0; name != NULL && i < TOOL_COUNT; i++)
        if (strcmp(tools[i].name, name) == 0)
            return tools[i].call(connection, json_object_get(params, "arguments"));
    return NULL;
}

static json_t *answer(const struct mg_connection *connection, const char *method, json_t *params)
{
    if (strcmp(method, "initialize") == 0)
        return initialize(params);
    if (strcmp(method, "ping") == 0)
        return json_object();
    if (strcmp(method, "tools/list") == 0)
        return list_tools();
    if (strcmp(method, "tools/call") == 0)
        return call_tool(connection, params);
    return NULL;
}

static int send_json(struct mg_connection *connection, const char *status, json_t *body)
{
    char *text = json_dumps(body, JSON_COMPACT);

    mg_printf(connection, "HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s", status,
              text != NULL ? strlen(text) : 0, text != NULL ? text : "");
    free(text);
    json_decref(body);
    return 200;
}

static int send_error(struct mg_connection *connection, const char *status, int code, const char *message)
{
    return send_json(connection, status, json_pack("{s:s,s:n,s:{s:i,s:s}}", "jsonrpc", "2.0", "id", "error", "code", code,
                                                   "message", message));
}

static int on_post(struct mg_connection *connection)
{
    static const char accepted[] = "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n";
    char *body = malloc(BODY_MAX);
    int size = 0, got, status = 200;
    json_t *message, *id, *result;
    const char *method;

    while (body != NULL && size < BODY_MAX && (got = mg_read(connection, body + size, (size_t)(BODY_MAX - size))) > 0)
        size += got;
    message = body != NULL ? json_loadb(body, (size_t)size, JSON_REJECT_DUPLICATES, NULL) : NULL;
    free(body);
    method = json_string_value(json_object_get(message, "method"));
    id = json_object_get(message, "id");
    if (method == NULL)
        status = send_error(connection, "400 Bad Request", -32600, "one JSON-RPC request is expected");
    else if (id == NULL)
        mg_write(connection, accepted, sizeof accepted - 1);
    else if ((result = answer(connection, method, json_object_get(message, "params"))) == NULL)
        status = send_error(connection, "404 Not Found", -32601, "no such method or tool");
    else
        status = send_json(connection, "200 OK", json_pack("{s:s,s:O,s:o}", "jsonrpc", "2.0", "id", id, "result", result));
    json_decref(message);
    return status;
}

static int on_get(struct mg_connection *connection)
{
    mg_printf(connection, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
                          "Transfer-Encoding: chunked\r\n\r\n");
    for (unsigned count = 1;; count++) {
        char event[64];
        int size = snprintf(event, sizeof event, "event: count\ndata: %u\n\n", count);

        if (mg_send_chunk(connection, event, (unsigned)size) < 0)
            return 200;
        sleep(1);
    }
}

static int on_request(struct mg_connection *connection, void *unused)
{
    const char *method = mg_get_request_info(connection)->request_method;

    (void)unused;
    if (strcmp(method, "POST") == 0)
        return on_post(connection);
    if (strcmp(method, "GET") == 0)
        return on_get(connection);
    return send_error(connection, "405 Method Not Allowed", -32000, "POST or GET");
}

static int write_port(const char *file, struct mg_context *context)
{
    struct mg_server_port port;
    FILE *out = fopen(file, "w");

    if (out == NULL)
        return -1;
    if (mg_get_server_ports(context, 1, &port) == 1)
        fprintf(out, "%d\n", port.port);
    return fclose(out);
}

int main(int argc, char **argv)
{
    const char *listen = argc > 1 ? argv[1] : "127.0.0.1:0";
    const char *options[] = { "listening_ports", listen, "num_threads", "64", "enable_keep_alive", "yes",
                              "keep_alive_timeout_ms", "60000", "tcp_nodelay", "1", NULL };
    struct mg_context *context;
    sigset_t stop;
    int signal_number;

    if (argc > 1 && strcmp(argv[1], "--help") == 0) {
        printf("usage: mcpgw-example-server [ADDRESS:PORT [PORT-FILE]]\nA small MCP server at /mcp; port 0 takes a free one.\n");
        return 0;
    }
    sigemptyset(&stop);
    sigaddset(&stop, SIGTERM);
    sigaddset(&stop, SIGINT);
    sigprocmask(SIG_BLOCK, &stop, NULL);
    mg_init_library(0);
    context = mg_start(NULL, NULL, options);
    if (context == NULL) {
        fprintf(stderr, "mcpgw-example-server: cannot listen on %s; is the port in use?\n", listen);
        return 3;
    }
    mg_set_request_handler(context, "/mcp", on_request, NULL);
    if (argc > 2 && write_port(argv[2], context) != 0) {
        fprintf(stderr, "mcpgw-example-server: cannot write %s\n", argv[2]);
        return 3;
    }
    sigwait(&stop, &signal_number);
    _exit(0);    /* open event streams would hold mg_stop back */
}
