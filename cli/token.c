/* token.c - mcpgw token: which check accepts or refuses an access token, and how one is ended before its time. */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/api.h"
#include "cli/environment.h"
#include "cli/output.h"
#include "cli/show.h"
#include "common/cleanup.h"
#include "common/config.h"
#include "common/token.h"

#define TYPED_MAX (JOSE_TOKEN_MAX * 2u)    /* bytes of standard input: the token, "Bearer " and blanks */

DEFINE_DESTROY(file_close, FILE, fclose)
DEFINE_DESTROY(json_destroy, json_t, json_decref)

static void text_wipe(char **text)
{
    if (*text != NULL)
        OPENSSL_cleanse(*text, TYPED_MAX + 1);
    free(*text);
}

/* ---- what is read ------------------------------------------------------------------------------------ */

/* `text` has TYPED_MAX + 1 bytes.  NULL: nothing, or too much; complained of. */
static const char *read_token(char *text, size_t *ret_size)
{
    if (isatty(STDIN_FILENO) != 0)
        fputs("paste the token, then Enter and Ctrl-D (it is sent to nobody but your gateway)\n", stderr);
    size_t size = fread(text, 1, TYPED_MAX + 1, stdin);

    while (size > 0 && isspace((unsigned char)text[size - 1]) != 0)
        size--;
    if (size > TYPED_MAX) {
        complain("standard input has more than %u bytes: no token is so large", TYPED_MAX);
        return NULL;
    }
    text[size] = '\0';
    const char *token = text + strspn(text, " \t\r\n");

    if (strncasecmp(token, "bearer ", 7) == 0)
        token += 7 + strspn(token + 7, " ");
    *ret_size = size - (size_t)(token - text);
    if (*ret_size == 0)
        complain("standard input holds no token: < token.txt");
    return *ret_size > 0 ? token : NULL;
}

static enum exit_code read_set(const char *path, struct jose_keys **ret_keys)
{
    OWNED(file_close) FILE *in = fopen(path, "re");
    char *text = malloc(JOSE_SET_MAX + 1), why[200] = "out of memory";
    enum err err = ERR_NO_MEMORY;

    if (in == NULL) {
        complain("--jwks: %s cannot be read: %s", path, strerror(errno));
        free(text);
        return EXIT_MISUSE;
    }
    if (text != NULL)
        err = jose_keys_parse(text, fread(text, 1, JOSE_SET_MAX + 1, in), ret_keys, why, sizeof why);
    free(text);
    if (err == ERR_OK)
        return EXIT_DONE;
    complain("--jwks: %s: %s", path, why);
    return EXIT_MISUSE;
}

/* ---- offline ----------------------------------------------------------------------------------------- */

/* Calls `take` with each part of a comma-separated text; false: one is too long, or was not taken. */
static bool each_part(const char *text, bool (*take)(struct issuer *issuer, const char *part), struct issuer *issuer)
{
    char part[ISSUER_VALUE_MAX + 1];

    for (text += strspn(text, ", "); *text != '\0'; text += strspn(text, ", ")) {
        const size_t length = strcspn(text, ", ");

        if (length >= sizeof part)
            return false;
        memcpy(part, text, length);
        part[length] = '\0';
        if (!take(issuer, part))
            return false;
        text += length;
    }
    return true;
}

static bool take_audience(struct issuer *issuer, const char *part)
{
    if (issuer->audience_count == ISSUER_AUDIENCES_MAX)
        return false;
    snprintf(issuer->audiences[issuer->audience_count++].value, sizeof issuer->audiences[0].value, "%s", part);
    return true;
}

static bool take_algorithm(struct issuer *issuer, const char *part)
{
    enum jose_algorithm algorithm;

    if (!jose_algorithm_parse(part, strlen(part), &algorithm))
        return false;
    issuer->algorithms |= 1u << algorithm;
    return true;
}

static bool take_type(struct issuer *issuer, const char *part)
{
    if (issuer->types.count == ISSUER_LIST_MAX)
        return false;
    snprintf(issuer->types.texts[issuer->types.count++], sizeof issuer->types.texts[0], "%s", part);
    return true;
}

/* An issuer of the options alone: any typ unless one is named, and the scopes of the preset oidc. */
static enum exit_code issuer_of_options(const struct arguments *arguments, struct issuers *issuers)
{
    struct issuer *issuer = &issuers->list[0];
    const char *iss = arguments_value(arguments, "issuer"), *audience = arguments_value(arguments, "audience");
    const char *algorithms = arguments_value(arguments, "algorithms"), *typ = arguments_value(arguments, "typ");

    if (iss == NULL || audience == NULL || algorithms == NULL || strlen(iss) > ISSUER_URL_MAX) {
        complain("--jwks needs --issuer, --audience and --algorithms beside it, or --config with the issuers of a settings file");
        return EXIT_MISUSE;
    }
    issuers->count = 1;
    issuer_set_defaults(issuer, ISSUER_OIDC);
    issuer->algorithms = 0;
    issuer->types.count = 0;
    issuer->derive_audiences = false;
    snprintf(issuer->name, sizeof issuer->name, "offline");
    snprintf(issuer->user_prefix, sizeof issuer->user_prefix, "offline");
    snprintf(issuer->issuer, sizeof issuer->issuer, "%s", iss);
    if (!each_part(audience, take_audience, issuer) || issuer->audience_count == 0) {
        complain("--audience: write what `aud` may be, several with commas between");
        return EXIT_MISUSE;
    }
    if (!each_part(algorithms, take_algorithm, issuer) || issuer->algorithms == 0) {
        complain("--algorithms: write some of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA, Ed25519 with commas between");
        return EXIT_MISUSE;
    }
    if (typ != NULL && !each_part(typ, take_type, issuer)) {
        complain("--typ: write at+jwt or JWT");
        return EXIT_MISUSE;
    }
    return EXIT_DONE;
}

static enum exit_code issuers_of_file(const struct arguments *arguments, struct issuers **ret_issuers)
{
    const char *file = arguments_value(arguments, "config");
    struct common_config config = { 0 };
    char why[600] = "out of memory";

    if (arguments_value(arguments, "issuer") != NULL || arguments_value(arguments, "audience") != NULL
        || arguments_value(arguments, "algorithms") != NULL || arguments_value(arguments, "typ") != NULL) {
        complain("--config says what --issuer, --audience, --algorithms and --typ would say; leave them out");
        return EXIT_MISUSE;
    }
    enum err err = settings_load(common_settings, common_settings_count, file, &config, why, sizeof why);
    const struct issuers_options options = {
        .file = file, .public_url = config.public_url,
        .azure_tenant_id = config.azure_tenant_id, .azure_client_id = config.azure_client_id,
    };

    if (err == ERR_OK)
        err = issuers_load(&options, ret_issuers, why, sizeof why);
    secret_wipe(&config.azure_client_secret);
    if (err == ERR_OK)
        return EXIT_DONE;
    complain("%s", why);
    return EXIT_MISUSE;
}

static enum exit_code explain_offline(const struct arguments *arguments, const char *token, size_t size, json_t **ret_answer)
{
    OWNED(issuers_destroy) struct issuers *issuers = NULL;
    OWNED(jose_keys_destroy) struct jose_keys *keys = NULL;
    struct jose_keys *sets[ISSUERS_MAX];
    enum exit_code result = read_set(arguments_value(arguments, "jwks"), &keys);

    if (result == EXIT_DONE && arguments_value(arguments, "config") != NULL) {
        result = issuers_of_file(arguments, &issuers);
    } else if (result == EXIT_DONE) {
        issuers = calloc(1, sizeof *issuers + sizeof issuers->list[0]);
        result = issuers == NULL ? EXIT_REFUSED : issuer_of_options(arguments, issuers);
    }
    if (result != EXIT_DONE)
        return result;
    for (size_t i = 0; i < issuers->count; i++)
        sets[i] = keys;
    const struct token_question question = {
        .issuers = issuers, .keys = sets, .text = token, .size = size,
        .server = arguments_value(arguments, "server"), .now_s = (int64_t)time(NULL),
    };

    *ret_answer = token_explain_json(&question);
    return *ret_answer != NULL ? EXIT_DONE : EXIT_REFUSED;
}

/* ---- online ------------------------------------------------------------------------------------------ */

static enum exit_code explain_online(struct cli *cli, const struct arguments *arguments, const char *token, json_t **ret_answer)
{
    static const char *const offline[] = { "issuer", "audience", "algorithms", "typ", "config" };

    for (size_t i = 0; i < sizeof offline / sizeof offline[0]; i++) {
        if (arguments_value(arguments, offline[i]) != NULL) {
            complain("--%s goes with --jwks FILE; without that the gateway is asked, which has its own issuers", offline[i]);
            return EXIT_MISUSE;
        }
    }
    if (environment_load(cli, arguments_value(arguments, "url")) != ERR_OK)
        return EXIT_MISUSE;
    OWNED(json_destroy) json_t *body = json_pack("{s:s, s:s*}", "token", token, "server", arguments_value(arguments, "server"));

    if (body == NULL) {
        complain("the token is no UTF-8 text");
        return EXIT_MISUSE;
    }
    return api_call(cli, "POST", "/api/v1/tokens/explain", body, ret_answer);
}

/* ---- what is shown ----------------------------------------------------------------------------------- */

static const char *member(const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));

    return text != NULL ? text : "";
}

static void print_steps(const json_t *answer)
{
    const json_t *step;
    size_t i;

    json_array_foreach(json_object_get(answer, "steps"), i, step) {
        const bool is_refused = strcmp(member(step, "outcome"), "refused") == 0;

        printf("%-12s %-11s %s\n", is_refused ? "REFUSED" : member(step, "outcome"), member(step, "step"),
               *member(step, "found") != '\0' ? member(step, "found") : member(step, "meaning"));
        if (is_refused)
            printf("%24s %s (%s)\n%24s to do: %s\n", "", member(step, "error"), member(step, "reason"), "", member(step, "remedy"));
    }
}

static void print_answer(const json_t *answer)
{
    json_t *context = json_object_get(answer, "context"), *value;
    const char *name;

    print_steps(answer);
    if (context == NULL) {
        printf("\nrefused: %s\n", member(answer, "reason"));
        return;
    }
    puts("\naccepted, and gives this context:");
    json_object_foreach(context, name, value) {
        char *text = value_text(value);

        printf("  %-14s %s\n", name, text != NULL ? text : "");
        free(text);
    }
}

static enum exit_code token_explain_command(struct cli *cli, const struct arguments *arguments)
{
    OWNED(text_wipe) char *text = calloc(1, TYPED_MAX + 1);
    OWNED(json_destroy) json_t *answer = NULL;
    enum exit_code result;
    size_t size;

    if (text == NULL)
        return EXIT_REFUSED;
    const char *token = read_token(text, &size);

    if (token == NULL)
        return EXIT_MISUSE;
    if (arguments_value(arguments, "jwks") != NULL)
        result = explain_offline(arguments, token, size, &answer);
    else
        result = explain_online(cli, arguments, token, &answer);
    if (result != EXIT_DONE || answer == NULL)
        return result;
    if (cli->is_json)
        print_json(answer);
    else
        print_answer(answer);
    return json_is_true(json_object_get(answer, "accepted")) ? EXIT_DONE : EXIT_REFUSED;
}

/* ---- tokens that are refused by name ----------------------------------------------------------------- */

static enum exit_code token_revoke_command(struct cli *cli, const struct arguments *arguments)
{
    OWNED(text_wipe) char *text = calloc(1, TYPED_MAX + 1);
    const char *id = arguments_value(arguments, "id"), *subject = arguments_value(arguments, "subject");
    const char *token = NULL;
    size_t size;

    if (text == NULL)
        return EXIT_REFUSED;
    if ((id != NULL || subject != NULL) && arguments_value(arguments, "issuer") == NULL) {
        complain("--issuer: write the name of the token's issuer; mcpgw issuer list shows them");
        return EXIT_MISUSE;
    }
    if (id == NULL && subject == NULL && (token = read_token(text, &size)) == NULL)
        return EXIT_MISUSE;
    OWNED(json_destroy) json_t *body = json_pack("{s:s*, s:s*, s:s*, s:s*, s:s*, s:s*, s:s*}", "token", token, "issuer",
                                                 arguments_value(arguments, "issuer"), "id", id, "subject", subject, "issuedBefore",
                                                 arguments_value(arguments, "issued-before"), "expiresAt",
                                                 arguments_value(arguments, "expires-at"), "reason", arguments_value(arguments, "reason"));

    if (body == NULL) {
        complain("the token or an option is no UTF-8 text");
        return EXIT_MISUSE;
    }
    return show_call(cli, "POST", "/api/v1/tokens/revoke", body);
}

static enum exit_code token_revoked_command(struct cli *cli, const struct arguments *arguments)
{
    static const struct table_column columns[] = {
        { "ID", "id" }, { "KIND", "kind" }, { "ISSUER", "issuer" }, { "VALUE", "value" }, { "ISSUED BEFORE", "issuedBefore" },
        { "UNTIL", "expiresAt" }, { "BY", "createdBy" }, { "REASON", "reason" }, { 0 }
    };

    (void)arguments;
    return show_list(cli, "/api/v1/tokens/revoked?limit=100", 1000000, columns);
}

static enum exit_code token_restore_command(struct cli *cli, const struct arguments *arguments)
{
    char path[200];

    if (*arguments->positional[0] == '\0' || !api_path(path, sizeof path, "tokens/revoked", arguments->positional[0], "")) {
        complain("%.60s is no id; mcpgw token revoked shows them", arguments->positional[0]);
        return EXIT_MISUSE;
    }
    return show_call(cli, "DELETE", path, NULL);
}

static const struct option_row revoke_options[] = {
    { "issuer", "NAME", "whose token it is; a token on standard input says so itself" },
    { "id", "TEXT", "the token's jti or uti" },
    { "subject", "TEXT", "all tokens of this subject (what the issuer's user_claim names)" },
    { "issued-before", "TIME", "with --subject: those issued until then, as in RFC 3339 (default now)" },
    { "expires-at", "TIME", "forget it then (default: when the token expires, else in a year)" },
    { "reason", "TEXT", "kept with it and in the trail" },
    { 0 }
};
static const struct option_row options[] = {
    { "server", "SLUG", "judge it for this server; without: for any resource of the gateway" },
    { "jwks", "FILE", "judge it here, with this key set, asking nobody" },
    { "issuer", "TEXT", "with --jwks: what `iss` must be" },
    { "audience", "LIST", "with --jwks: what `aud` may be, commas between" },
    { "algorithms", "LIST", "with --jwks: accepted algorithms, commas between" },
    { "typ", "LIST", "with --jwks: accepted `typ` (default any)" },
    { "config", "FILE", "with --jwks: the issuers of this settings file instead" },
    { 0 }
};

const struct command token_commands[] = {
    { "token", "explain", "", "say which check accepts or refuses the token on standard input, and what to change",
      "  mcpgw token explain --server example < token.txt\n"
      "  mcpgw token explain --jwks keys.json --issuer https://auth.example --audience https://gw.example/mcp/example \\\n"
      "      --algorithms RS256,EdDSA < token.txt\n",
      options, 0, 0, false, token_explain_command },
    { "token", "revoke", "", "refuse an access token from now on: the one on standard input, one by its id, or all of a subject",
      "  mcpgw token revoke --reason 'found in a log' < token.txt\n"
      "  mcpgw token revoke --issuer corp --id 5f0c2c1e\n"
      "  mcpgw token revoke --issuer corp --subject alice --issued-before 2026-11-22T12:00:00Z\n",
      revoke_options, 0, 0, true, token_revoke_command },
    { "token", "revoked", "", "access tokens that are refused so, newest first", "  mcpgw token revoked\n", NULL, 0, 0, true, token_revoked_command },
    { "token", "restore", "ID", "judge them as others again", "  mcpgw token restore ID\n", NULL, 1, 1, true, token_restore_command },
    { 0 }
};
