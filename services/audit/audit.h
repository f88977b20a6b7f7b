/*
 * audit.h - the audit service: brings what edges spooled and the outbox holds into Postgres, each event once.
 * Owns: watermarks and batches (schema audit).  Talks to: edges, Postgres.  Never sees a key; no client
 * waits for it.
 */
#ifndef AUDIT_AUDIT_H
#define AUDIT_AUDIT_H

#include <stdbool.h>
#include <stddef.h>

#include "common/bus.h"
#include "common/config.h"
#include "common/error.h"
#include "common/migrate.h"
#include "common/service.h"

struct audit;
struct audit_config {
    struct common_config common;
#define SETTING(type, name, fallback, min, max, meaning) SETTING_MEMBER_##type(name, max)
#include "services/audit/config.def"
};

extern const struct setting audit_settings[];
extern const size_t audit_settings_count;
extern const struct bus_handler audit_handlers[];    /* owner: struct intake */
extern const struct migration audit_migrations[];    /* made from schema/ */

enum err audit_start(const struct service_context *context, void **ret_audit, char *reterr,
                     size_t reterr_size) MUST_CHECK;
void audit_begin_drain(void *audit);
bool audit_is_drained(void *audit);
void audit_stop(void **audit);
int audit_migrate(const void *config);    /* mcpgw-audit migrate */

#endif
