/* audit_read.h - the stored trail, batch after batch, as its leaves: what verify and prove share.  Talks to Postgres. */
#ifndef CLI_AUDIT_READ_H
#define CLI_AUDIT_READ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <libpq-fe.h>

#include "cli/audit_leaf.h"
#include "cli/cli.h"
#include "common/cleanup.h"

DEFINE_DESTROY(connection_destroy, PGconn, PQfinish)
DEFINE_DESTROY(rows_destroy, PGresult, PQclear)

/* --database, MCPGW_DATABASE_URL or $MCPGW_HOME/env; one snapshot that nothing changes.  Complains with the remedy. */
PGconn *trail_connect(const struct arguments *arguments, enum exit_code *ret_exit);
/* Rows of a question; NULL: complained. */
PGresult *trail_ask(PGconn *connection, const char *sql, int count, const char *const *values);
/* Calls `each` with every batch of the epoch, in order, until it returns false.  False: the database ended it. */
bool trail_walk(PGconn *connection, const struct epoch_name *name, bool (*each)(void *owner, struct batch *batch), void *owner);

#endif
