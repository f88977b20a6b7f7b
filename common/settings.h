/*
 * settings.h - settings from rows: environment > YAML file > default.
 *
 * A service has config.def with SETTING(type, name, default, min, max, meaning):
 *   type  U64 (min..max) | FLAG (true/false) | TEXT (max bytes) | SECRET (max bytes)
 * Row `redis_url` is MCPGW_REDIS_URL in the environment and `redis_url:` in the YAML file (one flat mapping).
 * MCPGW_REDIS_URL_FILE names a file that holds the value (docker and systemd credentials); for any row.
 * common/config.def holds the rows that every service has.
 *
 *   struct edge_config { SETTINGS_STRUCT of both files };   see settings_rows.h for the expansion
 */
#ifndef COMMON_SETTINGS_H
#define COMMON_SETTINGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "common/error.h"
#include "common/secret.h"

enum setting_type { SETTING_U64, SETTING_FLAG, SETTING_TEXT, SETTING_SECRET };

struct setting {
    const char *name;
    enum setting_type type;
    size_t offset;             /* in the service's config struct */
    const char *fallback;      /* default as text; NULL: none, and a SECRET stays unset */
    uint64_t min, max;         /* U64: value; TEXT and SECRET: bytes (max) */
    const char *meaning;
};

#define SETTING_TEXT_MAX 1024

/* Struct members and table rows from a .def; used as in common/config.h. */
#define SETTING_MEMBER_U64(name, max)    uint64_t name;
#define SETTING_MEMBER_FLAG(name, max)   bool name;
#define SETTING_MEMBER_TEXT(name, max)   char name[(max) + 1];
#define SETTING_MEMBER_SECRET(name, max) struct secret name;

/*
 * Reads all rows into `config`.  On failure writes one line to `reterr` that names the source (environment
 * variable, or file and line), the setting and the remedy.
 * ERR_MALFORMED: unknown setting (in the file, or MCPGW_* in the environment that no row of any service has),
 * wrong type, out of range, unreadable _FILE, bad YAML.
 */
enum err settings_load(const struct setting *rows, size_t count, const char *file, void *config,
                       char *reterr, size_t reterr_size) MUST_CHECK;
void settings_print_help(const struct setting *rows, size_t count, FILE *out);
/* name = value per line with its source; secrets as [set] or [not set]. */
void settings_show(const struct setting *rows, size_t count, const void *config, FILE *out);
/* Is MCPGW_<NAME> a setting of some program of the suite?  (the rows of all config.def files) */
bool settings_is_known_anywhere(const char *name);

#endif
