/*
 * migrate.h - applies a service's schema/NNNN_name.sql files in order, each once, each in a transaction, under an
 * advisory lock.  The files are built into the program (common/embed.mk); what was applied stands in mcpgw.migration.
 */
#ifndef COMMON_MIGRATE_H
#define COMMON_MIGRATE_H

#include <stddef.h>

#include "common/error.h"
#include "common/secret.h"

struct migration {
    const char *name;    /* "0001_better_auth"; NULL ends the table */
    const char *sql;
};

struct migrate_options {
    const char *service;                    /* the owner's name in mcpgw.migration */
    const struct migration *migrations;
    const struct secret *url;
    const char *before;                     /* SQL of the session before the first of them, or NULL: variables they read */
    const char *after;                      /* a statement run every time, when all are applied, or NULL */
};

/*
 * `service` is the owner's name in mcpgw.migration.  Says on standard output what it applied.
 * ERR_UNAVAILABLE: no connection, or a script was refused (nothing of it stays); the server's words in reterr.
 * ERR_CONFLICT: the database holds a newer migration than this program knows.
 */
enum err migrate_run(const char *service, const struct migration *migrations, const struct secret *url,
                     char *reterr, size_t reterr_size) MUST_CHECK;
/* The same with what else the session needs, under the same lock. */
enum err migrate_run_with(const struct migrate_options *options, char *reterr, size_t reterr_size) MUST_CHECK;

#endif
