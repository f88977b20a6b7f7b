/* audit_readers.h - may what the API shows of the trail be less than what is stored, and verified? */
#ifndef CLI_AUDIT_READERS_H
#define CLI_AUDIT_READERS_H

#include <stdbool.h>

#include <libpq-fe.h>

#include "cli/audit_findings.h"

/* Tells what stands between the rows and their readers and is not of this release's migrations.  False: no answer. */
bool readers_check(PGconn *connection, struct findings *findings);

#endif
