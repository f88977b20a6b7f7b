/* ops.h - the operations listener of every process: /healthz, /readyz, /metrics on a loopback address (two threads). */
#ifndef COMMON_OPS_H
#define COMMON_OPS_H

#include <stdbool.h>
#include <stddef.h>

#include "common/config.h"
#include "common/error.h"
#include "common/message.h"

struct ops;

/* Facts for /readyz, set from the service's loop, read by the listener's threads. */
#define OPS_FACTS_MAX 12
/* Every fact must be true for 200; the body names each: {"ready":false,"facts":{"postgres":false,...}} */
enum err ops_new(enum service service, const struct common_config *config, struct ops **ret_ops,
                 char *reterr, size_t reterr_size) MUST_CHECK;
void ops_destroy(struct ops **ops);
void ops_set_fact(struct ops *ops, const char *name, bool value);      /* name: static storage */
/* Told only, not judged by /readyz (health red, but still serving). */
void ops_set_note(struct ops *ops, const char *name, bool healthy);
bool ops_is_ready(const struct ops *ops);
/* The JSON of /readyz into `buffer`; for the edge's /api/v1/health. */
size_t ops_describe(const struct ops *ops, char *buffer, size_t size);
int ops_port(const struct ops *ops);

#endif
