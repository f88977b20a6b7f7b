/*
 * settle.h - requestCount and lastRequest of Better-Auth's rows, brought up to date from the trail every settle_ms by
 * whichever instance comes first (mcpgw.settle_uses has the rules).  They lag by settle_ms and what audit lags.
 */
#ifndef KEYS_SETTLE_H
#define KEYS_SETTLE_H

#include "common/error.h"
#include "common/loop.h"

struct settler;
struct store;
struct keys_config;

enum err settler_new(struct loop *loop, struct store *store, const struct keys_config *config,
                     struct settler **ret_settler) MUST_CHECK;
void settler_destroy(struct settler **settler);

#endif
