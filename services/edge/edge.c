/* edge.c - start, routing, drain and stop of the edge. */
#include "services/edge/edge.h"

#include <curl/curl.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/metrics.h"
#include "services/edge/answer.h"
#include "services/edge/edge_http.h"
#include "services/edge/exchange.h"
#include "services/edge/forward_auth.h"
#include "services/edge/identity.h"
#include "services/edge/introspect.h"
#include "services/edge/manage.h"
#include "services/edge/metadata.h"
#include "services/edge/openapi.h"
#include "services/edge/path_list.h"
#include "services/edge/probes.h"
#include "services/edge/proxy.h"
#include "services/edge/routes.h"

#define FDS_PER_THREAD 6u     /* client, upstreams kept, wake-up and poll descriptors */
#define FDS_OTHER      256u
#define DRAIN_MS       500u
#define IDENTITY_LOOK_MS 5000u    /* how soon a rotated key is published */

const struct setting edge_settings[] = {
#define SETTING(type, name, fallback, min, max, meaning) \
    { #name, SETTING_##type, offsetof(struct edge_config, name), fallback, min, max, meaning },
#include "services/edge/config.def"
};

static void answer_route(struct exchange *exchange, const struct route_match *match)
{
    switch (match->route->handler) {
    case ROUTE_authorise:
        forward_auth_answer(exchange, match);
        return;
    case ROUTE_manage:
        manage_answer(exchange, match);
        return;
    case ROUTE_context:
        context_answer(exchange, match);
        return;
    case ROUTE_health:
        health_answer(exchange, match);
        return;
    case ROUTE_metrics:
        metrics_answer(exchange, match);
        return;
    case ROUTE_proxy:
        proxy_answer(exchange, match);
        return;
    case ROUTE_preflight:
        proxy_answer_preflight(exchange);
        return;
    case ROUTE_metadata:
        metadata_answer(exchange, match);
        return;
    case ROUTE_metadata_of:
        metadata_answer_named(exchange);
        return;
    case ROUTE_introspect:
        introspect_answer(exchange, match);
        return;
    case ROUTE_jwks:
        identity_answer_keys(exchange, match);
        return;
    case ROUTE_openapi:
        openapi_answer(exchange);
        return;
    case ROUTE_open_preflight:
        metadata_answer_preflight(exchange);
        return;
    }
}

void edge_answer(struct exchange *exchange)
{
    struct route_match match = { 0 };
    char allow[ROUTES_ALLOW_SIZE] = "";
    enum err err;

    exchange->is_mcp = strncmp(exchange->path, "/mcp/", 5) == 0;
    err = routes_find(exchange->method, exchange->path, &match, allow);
    if (err == ERR_OK) {
        answer_route(exchange, &match);
        return;
    }
    answer_refuse_early(exchange, &(struct refusal){ .err = err, .allow = err == ERR_METHOD ? allow : NULL },
                        err == ERR_METHOD ? "method" : "not_found");
}

/* With a server in the query a token for it may have to be signed. */
bool edge_can_hold(const struct exchange *exchange)
{
    struct route_match match;
    char allow[ROUTES_ALLOW_SIZE];

    return routes_find(exchange->method, exchange->path, &match, allow) == ERR_OK && match.route->handler == ROUTE_authorise
           && (exchange->edge->identity == NULL || (strstr(exchange->query, "server") == NULL && strchr(exchange->query, '%') == NULL));
}

/* ---- life ---- */

/* A thread that cannot get a descriptor cannot serve: better to say so at the start. */
static enum err raise_descriptors(const struct edge_config *config, char *reterr, size_t reterr_size)
{
    rlim_t wanted = (rlim_t)config->threads * FDS_PER_THREAD + FDS_OTHER;
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= wanted)
        return ERR_OK;
    limit.rlim_cur = limit.rlim_max < wanted ? limit.rlim_max : wanted;
    if (setrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur >= config->threads * 2 + FDS_OTHER)
        return ERR_OK;
    snprintf(reterr, reterr_size,
             "threads: %llu threads need %llu open files, the limit is %llu: raise it (ulimit -n, LimitNOFILE) or "
             "lower threads",
             (unsigned long long)config->threads, (unsigned long long)config->threads * 2 + FDS_OTHER,
             (unsigned long long)limit.rlim_max);
    return ERR_UNAVAILABLE;
}

static enum err start_dispatch(struct edge *edge, char *reterr, size_t reterr_size)
{
    const struct edge_config *config = edge->config;
    const struct dispatch_options options = {
        .config = &config->common, .bus = config->bus, .bus_record = config->bus_record, .spool_dir = config->spool_dir,
        .spool_bytes = config->spool_bytes, .segment_bytes = config->segment_bytes, .lease_ms = config->lease_ms,
        .stale_grace_ms = config->stale_grace_ms, .queue_limit = config->queue_limit, .attempt_ms = config->attempt_ms,
        .manage_ms = config->manage_ms, .calls_max = (uint32_t)config->threads, .audit_strict = config->audit_strict,
        .chain_key = &config->chain_key, .lookup_key = &config->lookup_key,
        .streams = edge->streams, .servers = edge->servers, .ops = edge->ops,
    };

    return dispatch_new(&options, &edge->dispatch, reterr, reterr_size);
}

/* What the settings say of OAuth and of second factors. */
static enum err start_authorization(struct edge *edge, char *reterr, size_t reterr_size)
{
    static const char *const guarded[] = { "/mcp", "/api/v1", "/auth/check", "/metrics", "/oauth", NULL };
    const struct edge_config *config = edge->config;
    static const char *const observed[] = { "/mcp", "/auth/check", NULL };
    const char *entry = "";
    size_t length = 0;

    if (path_list_check(config->observe_paths, observed, &entry, &length) != ERR_OK) {
        snprintf(reterr, reterr_size, "observe_paths: %.*s: a path below /mcp or /auth/check is expected", length > 100 ? 100 : (int)length, entry);
        return ERR_UNPROCESSABLE;
    }
    if (config->observe_paths[0] != '\0')
        log_warn("enforcement_is_off", log_text("observe_paths", config->observe_paths),
                 log_text("effect", "requests that would be refused there are let through and recorded"));
    if (path_list_check(config->second_factor_paths, guarded, &entry, &length) != ERR_OK) {
        snprintf(reterr, reterr_size, "second_factor_paths: %.*s: a path below /mcp, /api/v1, /auth/check, /oauth or /metrics is expected",
                 length > 100 ? 100 : (int)length, entry);
        return ERR_UNPROCESSABLE;
    }
    return metadata_new(config->common.public_url, edge->issuers, config->origin_resource, &edge->metadata, reterr, reterr_size);
}

static void look_at_identity_keys(void *owner)
{
    struct edge *edge = owner;

    identity_reload(edge->identity);
}

static enum err start_identity(struct edge *edge, char *reterr, size_t reterr_size)
{
    const struct edge_config *config = edge->config;
    const struct identity_options options = { .directory = config->identity_keys, .issuer = config->common.public_url,
                                              .ttl_s = config->identity_ttl_s, .publish_s = config->identity_publish_s };
    const enum err err = identity_new(&options, &edge->identity, reterr, reterr_size);

    if (err == ERR_OK && edge->identity != NULL)
        edge->identity_timer = loop_every(edge->loop, IDENTITY_LOOK_MS, look_at_identity_keys, edge);
    return err;
}

static enum err start_parts(struct edge *edge, char *reterr, size_t reterr_size)
{
    const struct edge_config *config = edge->config;
    const char *item = "";
    enum err err;

    /* libcurl allocates for every proxied request: with two arenas its threads queued for their locks (perf: 5 %). */
    mallopt(M_ARENA_MAX, 8);
    if (peers_parse(config->trusted_proxies, &edge->peers, &item) != ERR_OK) {
        snprintf(reterr, reterr_size, "trusted_proxies: no address or network: %.64s", item);
        return ERR_MALFORMED;
    }
    err = raise_descriptors(config, reterr, reterr_size);
    if (err == ERR_OK)
        err = edge_http_check_listen(config->listen, reterr, reterr_size);
    if (err != ERR_OK)
        return err;
    err = start_authorization(edge, reterr, reterr_size);
    if (err == ERR_OK)
        err = start_identity(edge, reterr, reterr_size);
    if (err == ERR_OK)
        err = servers_new(&edge->servers);
    if (err == ERR_OK)
        err = streams_new((uint32_t)config->threads / 2, &edge->streams);
    if (err == ERR_OK)
        err = start_dispatch(edge, reterr, reterr_size);
    if (err == ERR_OK)
        err = edge_http_new(edge, &edge->http, reterr, reterr_size);
    if (err == ERR_OK && config->probe_listen[0] != '\0')
        err = probes_new(config->probe_listen, edge->ops, &edge->probes, reterr, reterr_size);
    return err;
}

static void stop(void **self)
{
    struct edge *edge = *self;

    if (edge == NULL)
        return;
    probes_destroy(&edge->probes);
    edge_http_destroy(&edge->http);
    dispatch_destroy(&edge->dispatch);
    streams_destroy(&edge->streams);
    servers_destroy(&edge->servers);
    metadata_destroy(&edge->metadata);
    if (edge->identity_timer > 0)
        loop_cancel(edge->loop, edge->identity_timer);
    identity_destroy(&edge->identity);
    curl_global_cleanup();
    free(edge);
    *self = NULL;
}

static enum err start(const struct service_context *context, void **ret_self, char *reterr, size_t reterr_size)
{
    struct edge *edge = calloc(1, sizeof *edge);
    void *self = edge;
    enum err err;

    if (edge == NULL)
        return ERR_NO_MEMORY;
    curl_global_init(CURL_GLOBAL_DEFAULT);
    edge->config = context->config;
    edge->ops = context->ops;
    edge->loop = context->loop;
    edge->issuers = context->issuers;
    err = start_parts(edge, reterr, reterr_size);
    if (err != ERR_OK) {
        stop(&self);
        return err;
    }
    log_info("edge_listening", log_text("listen", edge->config->listen), log_number("threads", edge->config->threads));
    *ret_self = edge;
    return ERR_OK;
}

static void begin_drain(void *self)
{
    struct edge *edge = self;

    edge->drain_started_us = clock_monotonic_us();
    atomic_store(&edge->is_draining, true);
    ops_set_fact(edge->ops, "serving", false);
    dispatch_drain(edge->dispatch);
}

/* Clients that keep connections get a moment to hear `Connection: close` before those are cut. */
static bool is_drained(void *self)
{
    const struct edge *edge = self;
    bool had_time = clock_monotonic_us() - edge->drain_started_us >= DRAIN_MS * 1000u;

    if (edge_http_connections(edge->http) > 0 && !had_time)
        return false;
    return atomic_load(&edge->in_flight) == 0 && dispatch_is_idle(edge->dispatch);
}

const struct service_type edge_service = {
    .role = SERVICE_EDGE, .name = "edge", .purpose = "takes HTTP, asks the workers, records, and proxies",
    .settings = edge_settings, .setting_count = sizeof edge_settings / sizeof edge_settings[0],
    .config_size = sizeof(struct edge_config),
    .start = start, .begin_drain = begin_drain, .is_drained = is_drained, .stop = stop,
};
