/* edge.h - the edge service: what one process owns, and what it does with a request. */
#ifndef EDGE_EDGE_H
#define EDGE_EDGE_H

#include <stdatomic.h>
#include <stdbool.h>

#include "common/config.h"
#include "common/ops.h"
#include "common/service.h"
#include "services/edge/dispatch.h"
#include "services/edge/peers.h"
#include "services/edge/servers.h"
#include "services/edge/streams.h"

struct edge_config {
    struct common_config common;
#define SETTING(type, name, fallback, min, max, meaning) SETTING_MEMBER_##type(name, max)
#include "services/edge/config.def"
};

struct edge_http;
struct identity;
struct issuers;
struct loop;
struct metadata;
struct probes;
struct exchange;

struct edge {
    const struct edge_config *config;
    struct ops *ops;                 /* the service loop's */
    struct peers peers;
    struct servers *servers;
    struct streams *streams;
    struct dispatch *dispatch;
    const struct issuers *issuers;   /* the process's */
    struct metadata *metadata;
    struct identity *identity;       /* NULL: callers' identities are not signed */
    struct loop *loop;
    int identity_timer;              /* 0: none */
    struct probes *probes;           /* NULL: none configured */
    struct edge_http *http;
    _Atomic bool is_draining;        /* every answer closes its connection */
    uint64_t drain_started_us;       /* monotonic; of the service loop */
    _Atomic uint64_t in_flight;      /* requests being answered */
};

extern const struct setting edge_settings[];
extern const struct service_type edge_service;

/* Called by edge_http for each request whose head is sound; answers it. */
void edge_answer(struct exchange *exchange);
/* Does edge_answer() neither wait nor sign nor read a body for this request?  By the routes' column `handler`. */
bool edge_can_hold(const struct exchange *exchange);

#endif
