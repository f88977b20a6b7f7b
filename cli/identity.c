/* identity.c - mcpgw identity: the keys that sign who a caller is, for upstreams. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "cli/cli.h"
#include "cli/output.h"
#include "common/identity_keys.h"

#define PUBLISH_S 600u                /* default of the edge's identity_publish_s */
#define KEEP_S    (2u * 86400u)

static const char *directory_of(const struct arguments *arguments)
{
    const char *directory = arguments_value(arguments, "keys");

    if (directory == NULL)
        directory = getenv("MCPGW_IDENTITY_KEYS");
    if (directory == NULL || directory[0] == '\0')
        complain("which directory? Say --keys DIR, or set MCPGW_IDENTITY_KEYS, as the edges have it");
    return directory != NULL && directory[0] != '\0' ? directory : NULL;
}

static enum err duration_of(const struct arguments *arguments, const char *name, uint64_t fallback, uint64_t *ret_seconds)
{
    const char *text = arguments_value(arguments, name);

    if (text == NULL) {
        *ret_seconds = fallback;
        return ERR_OK;
    }
    if (duration_parse(text, ret_seconds) == ERR_OK)
        return ERR_OK;
    complain("--%s %s: a duration is expected, as 10m, 12h or 30d", name, text);
    return ERR_MALFORMED;
}

static json_t *describe(const struct identity_key_info *info, const char *state)
{
    const time_t made = (time_t)info->made_s;
    char text[32] = "";
    struct tm utc;

    if (gmtime_r(&made, &utc) != NULL)
        strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &utc);
    return json_pack("{s:s, s:s, s:s, s:s}", "kid", info->kid, "algorithm", identity_algorithm_text(info->algorithm), "madeAt",
                     text, "state", state);
}

/* Is the newest key younger than this? */
static bool is_fresh(const char *directory, uint64_t now_s, uint64_t age_s)
{
    struct identity_keys *keys = NULL;
    char why[800];
    bool is_young;

    if (age_s == 0 || identity_keys_load(directory, &keys, why, sizeof why) != ERR_OK)
        return false;
    is_young = identity_keys_at(keys, identity_keys_count(keys) - 1)->made_s + age_s > now_s;
    identity_keys_destroy(&keys);
    return is_young;
}

static enum exit_code make_key(const struct cli *cli, const char *directory, enum identity_algorithm algorithm, uint64_t now_s)
{
    struct identity_key_info info;
    char why[800] = "";
    json_t *made;

    if (identity_key_make(directory, algorithm, now_s, &info, why, sizeof why) != ERR_OK) {
        complain("%s", why);
        return EXIT_REFUSED;
    }
    made = describe(&info, "new");
    if (cli->is_json)
        print_json(made);
    else
        printf("Made %s key %s in %s. It is published at once and signs after the edges' identity_publish_s.\n",
               identity_algorithm_text(algorithm), info.kid, directory);
    json_decref(made);
    return EXIT_DONE;
}

static enum exit_code rotate(struct cli *cli, const struct arguments *arguments)
{
    const char *directory = directory_of(arguments), *name = arguments_value(arguments, "algorithm");
    enum identity_algorithm algorithm = IDENTITY_RS256;
    const uint64_t now_s = (uint64_t)time(NULL);
    uint64_t age_s, keep_s, publish_s;
    size_t removed = 0;
    char why[800] = "";

    if (directory == NULL || duration_of(arguments, "if-older-than", 0, &age_s) != ERR_OK
        || duration_of(arguments, "keep", KEEP_S, &keep_s) != ERR_OK
        || duration_of(arguments, "publish", PUBLISH_S, &publish_s) != ERR_OK)
        return EXIT_MISUSE;
    if (name != NULL && identity_algorithm_parse(name, &algorithm) != ERR_OK) {
        complain("--algorithm %s: RS256, ES256 or EdDSA is expected", name);
        return EXIT_MISUSE;
    }
    if (!is_fresh(directory, now_s, age_s)) {
        const enum exit_code made = make_key(cli, directory, algorithm, now_s);

        if (made != EXIT_DONE)
            return made;
    }
    if (identity_keys_prune(directory, now_s, publish_s, keep_s, &removed, why, sizeof why) != ERR_OK) {
        complain("%s", why);
        return EXIT_REFUSED;
    }
    if (removed > 0 && !cli->is_json)
        printf("Removed %zu that had not signed for long.\n", removed);
    return EXIT_DONE;
}

static void show(const struct cli *cli, const struct identity_keys *keys, size_t signer)
{
    static const struct table_column columns[] = { { "KID", "kid" }, { "ALGORITHM", "algorithm" }, { "MADE", "madeAt" },
                                                   { "STATE", "state" }, { 0 } };
    struct table *table = NULL;

    if (!cli->is_json && table_new(columns, &table) != ERR_OK)
        return;
    for (size_t i = 0; i < identity_keys_count(keys); i++) {
        json_t *row = describe(identity_keys_at(keys, i), i == signer ? "signs" : i > signer ? "published" : "replaced");

        if (cli->is_json)
            print_json(row);
        else if (table_add(table, row) != ERR_OK)
            complain("not enough memory");
        json_decref(row);
    }
    if (table != NULL)
        table_print(table);
    table_destroy(&table);
}

static enum exit_code list(struct cli *cli, const struct arguments *arguments)
{
    const char *directory = directory_of(arguments);
    struct identity_keys *keys = NULL;
    char why[800] = "";
    uint64_t publish_s;

    if (directory == NULL || duration_of(arguments, "publish", PUBLISH_S, &publish_s) != ERR_OK)
        return EXIT_MISUSE;
    if (identity_keys_load(directory, &keys, why, sizeof why) != ERR_OK) {
        complain("%s", why);
        return EXIT_REFUSED;
    }
    show(cli, keys, identity_keys_signer(keys, (uint64_t)time(NULL), publish_s));
    identity_keys_destroy(&keys);
    return EXIT_DONE;
}

static const struct option_row rotate_options[] = {
    { "keys", "DIR", "the edges' identity_keys (MCPGW_IDENTITY_KEYS)" },
    { "algorithm", "NAME", "RS256 (default: every verifier takes it), ES256 or EdDSA" },
    { "if-older-than", "AGE", "only if the newest key is older: for a timer, e.g. 30d" },
    { "publish", "AGE", "the edges' identity_publish_s (10m)" },
    { "keep", "AGE", "how long a replaced key stays published (2d)" },
    { 0 }
};
static const struct option_row list_options[] = {
    { "keys", "DIR", "the edges' identity_keys (MCPGW_IDENTITY_KEYS)" },
    { "publish", "AGE", "the edges' identity_publish_s (10m)" },
    { 0 }
};

const struct command identity_commands[] = {
    { "identity", "rotate", "", "make a new key that signs callers' identities, remove old ones",
      "  mcpgw identity rotate --keys /var/lib/mcpgw/identity\n"
      "  mcpgw identity rotate --keys /var/lib/mcpgw/identity --if-older-than 30d\n", rotate_options, 0, 0, false, rotate },
    { "identity", "list", "", "the keys and which of them signs", "  mcpgw identity list --json\n", list_options, 0, 0, false, list },
    { 0 }
};
