/*
 * authz.h - the authz service as one object: its settings, its parts, and what its files ask of each other.
 */
#ifndef AUTHZ_H
#define AUTHZ_H

#include <stdbool.h>
#include <stdint.h>

#include "common/bus.h"
#include "common/config.h"
#include "common/loop.h"
#include "common/ops.h"
#include "common/service.h"
#include "services/authz/authz_cache.h"
#include "services/authz/authz_changes.h"

struct authz_config {
    struct common_config common;
#define SETTING(type, name, fallback, min, max, meaning) SETTING_MEMBER_##type(name, max)
#include "services/authz/config.def"
};

extern const struct setting authz_settings[];
extern const size_t authz_settings_count;

/* Most requests in work for one edge, told in READY. */
#define AUTHZ_CREDITS 512u

struct store;
struct lookups;
struct inquiries;
struct uses;

struct authz {
    const struct authz_config *config;
    struct loop *loop;
    struct ops *ops;
    struct bus *bus;
    struct store *store;
    struct cache *cache;
    struct changes *changes;
    struct lookups *lookups;
    struct inquiries *inquiries;
    struct uses *uses;
    enum row_limits row_limits;
    struct lease lease;
    bool started;              /* the changes before us are loaded: numbers are applied one by one from here */
    bool reading, read_again;  /* a read of the change number is under way; another was asked for meanwhile */
    bool ready;                /* the bus was told */
    bool red_triggers;         /* what was logged last of them */
    uint64_t asked_us;         /* CLOCK_BOOTTIME of the read under way */
};

/* Where facts were found, as verdict.layer. */
enum layer { LAYER_NONE, LAYER_MEMORY, LAYER_REDIS, LAYER_POSTGRES };

/* authz.c */
enum err authz_start(const struct service_context *context, void **ret_self, char *reterr, size_t reterr_size);
void authz_begin_drain(void *self);
bool authz_is_drained(void *self);
void authz_stop(void **self);

/* authz_handlers.c */
extern const struct bus_handler authz_handlers[];
/* facts NULL: no such key.  read_us: when they were asked of Postgres (CLOCK_BOOTTIME), 0 for cached ones. */
void authz_answer(struct authz *authz, const struct bus_token *token, const struct authz_ask *ask,
                  const struct authz_facts *facts, enum layer layer, uint64_t read_us);
/* The verdict on a key; request->method may be another one's that the key stands beside. */
void authz_ask_key(struct authz *authz, const struct bus_token *token, const struct verdict_request *request,
                   const uint8_t digest[DIGEST_SIZE]);
/* The same question once more, of memory or by a look-up: something it waited for has come. */
void authz_ask_again(struct authz *authz, const struct bus_token *token, const struct authz_ask *ask);
/* ERR_UNAVAILABLE: nobody can say now.  Never that the key is wrong. */
void authz_answer_unavailable(struct authz *authz, const struct bus_token *token, const char *reason);

#endif
