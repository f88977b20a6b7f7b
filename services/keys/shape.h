/*
 * shape.h - the shape of Better-Auth's table of keys: the settings that describe it, and what stands in it in the words
 * of those settings.  The shape itself is found by Postgres (schema/0001, mcpgw.attach_better_auth).
 */
#ifndef KEYS_SHAPE_H
#define KEYS_SHAPE_H

#include <stddef.h>

#include "common/error.h"
#include "common/secret.h"

struct keys_config;

#define SHAPE_SETTINGS_MAX 4096u    /* bytes of the settings as JSON */
#define SHAPE_STORED_MAX   513u     /* size of a key as the table stores it: as long as a struct secret */

/* The better_auth_* settings as mcpgw.better_auth.settings holds them, a JSON object.  ERR_MALFORMED: one of them cannot
 * be used; reterr names it and the remedy. */
enum err shape_settings(const struct keys_config *config, char json[SHAPE_SETTINGS_MAX], char *reterr,
                        size_t reterr_size) MUST_CHECK;

/* What column `key` of the view mcpgw.apikey is given when `key` is stored: its digest, which the view turns into the
 * table's form, or in a table of plain keys the key itself. */
void shape_stored_key(const struct keys_config *config, const struct secret *key, char stored[SHAPE_STORED_MAX]);

/* Applies the schema and attaches to the table as it is now; prints what was found.  An exit code. */
int shape_migrate(const struct keys_config *config);

#endif
