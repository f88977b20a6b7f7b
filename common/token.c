/* token.c - the steps of token_steps.def, for tokens and for what introspection answers about one. */
#include "common/token.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "common/cleanup.h"
#include "common/encode.h"
#include "common/message.h"

#define ANSWER_MAX 65536u    /* bytes of an introspection answer */

DEFINE_DESTROY(json_destroy, json_t, json_decref)

struct judging {
    const struct token_question *question;
    struct jose_token token;           /* token.header NULL: an answer of an introspection endpoint is judged */
    const json_t *claims;
    size_t index;                      /* of the issuer */
    struct token_context context;
    char *detail;                      /* TOKEN_DETAIL_MAX bytes; NULL: nobody reads it */
};

/* What was found, for an explanation; what comes from the token is made printable. */
__attribute__((format(printf, 2, 3)))
static void say(const struct judging *judging, const char *format, ...)
{
    va_list arguments;

    if (judging->detail == NULL)
        return;
    va_start(arguments, format);
    vsnprintf(judging->detail, TOKEN_DETAIL_MAX, format, arguments);
    va_end(arguments);
    for (char *at = judging->detail; *at != '\0'; at++)
        if (*at < ' ' || *at > '~')
            *at = '?';
}

/* A claim as people read it; "absent" without it.  `text` has 200 bytes. */
static const char *show(const struct judging *judging, const json_t *claim, char text[200])
{
    char *dump;

    if (judging->detail == NULL)
        return "";
    if (claim == NULL)
        return "absent";
    if (json_is_string(claim))
        return json_string_value(claim);
    dump = json_dumps(claim, JSON_COMPACT | JSON_ENCODE_ANY);
    snprintf(text, 200, "%s", dump != NULL ? dump : "?");
    free(dump);
    return text;
}

/* ---- shape, issuer, type ----------------------------------------------------------------------------- */

static enum jose_reason check_shape(struct judging *judging)
{
    enum jose_reason reason = jose_token_parse(judging->question->text, judging->question->size, &judging->token);

    if (reason != JOSE_FINE) {
        say(judging, "%zu bytes", judging->question->size);
        return reason;
    }
    judging->claims = judging->token.claims;
    say(judging, "%zu bytes; alg %s, kid %.60s, typ %.40s", judging->question->size,
        jose_algorithm_text(judging->token.algorithm), judging->token.kid != NULL ? judging->token.kid : "absent",
        judging->token.typ != NULL ? judging->token.typ : "absent");
    return JOSE_FINE;
}

static const char *text_claim(const struct judging *judging, const char *name)
{
    return json_string_value(json_object_get(judging->claims, name));
}

/* Entra: the directory's id, which must be the one within `iss` (its documentation, "claims validation"). */
static bool has_directory(const struct judging *judging, const struct issuer *issuer)
{
    const char *directory = text_claim(judging, "tid");

    return !issuer_is_entra(issuer) || issuer->is_template
        || (directory != NULL && strcasecmp(directory, issuer->azure_tenant) == 0);
}

static bool looks_like_template(const struct issuer *issuer, const char *iss)
{
    const size_t before = issuer->is_template ? strcspn(issuer->issuer, "{") : 0;

    return before > 0 && strncmp(issuer->issuer, iss, before) == 0;
}

/* An issuer of one directory stands before a template that would take its tokens too. */
static const struct issuer *find_issuer(const struct judging *judging, const char *iss, bool is_template)
{
    const struct issuers *issuers = judging->question->issuers;

    for (size_t i = 0; i < issuers->count; i++) {
        const struct issuer *issuer = &issuers->list[i];

        if (issuer_has_keys(issuer) && issuer->is_template == is_template && issuer_has_iss(issuer, iss, text_claim(judging, "tid")))
            return issuer;
    }
    return NULL;
}

static enum jose_reason refuse_issuer(const struct judging *judging, const char *iss)
{
    const struct issuers *issuers = judging->question->issuers;
    char known[300] = "";
    size_t length = 0;

    for (size_t i = 0; i < issuers->count; i++) {
        if (looks_like_template(&issuers->list[i], iss)) {
            say(judging, "iss %.150s, tid %.60s; %s accepts its azure_tenants only", iss,
                text_claim(judging, "tid") != NULL ? text_claim(judging, "tid") : "absent", issuers->list[i].name);
            return JOSE_DIRECTORY;
        }
        if (issuer_has_keys(&issuers->list[i]) && length < sizeof known)
            length += (size_t)snprintf(known + length, sizeof known - length, " %s", issuers->list[i].issuer);
    }
    say(judging, "iss %.150s; accepted:%.220s", iss, length > 0 ? known : " none");
    return JOSE_ISSUER_UNKNOWN;
}

static enum jose_reason check_issuer(struct judging *judging)
{
    const char *iss = judging->token.iss;

    if (iss == NULL) {
        say(judging, "iss absent, or no text");
        return JOSE_ISSUER_MISSING;
    }
    const struct issuer *issuer = find_issuer(judging, iss, false);

    if (issuer == NULL)
        issuer = find_issuer(judging, iss, true);
    if (issuer == NULL)
        return refuse_issuer(judging, iss);
    if (!has_directory(judging, issuer)) {
        say(judging, "iss %.150s, but tid %.60s", iss, text_claim(judging, "tid") != NULL ? text_claim(judging, "tid") : "absent");
        return JOSE_DIRECTORY;
    }
    judging->context.issuer = issuer;
    judging->index = (size_t)(issuer - judging->question->issuers->list);
    say(judging, "iss %.150s is %s (%s)", iss, issuer->name, issuer_preset_text(issuer->preset));
    return JOSE_FINE;
}

/* RFC 9068 4: application/at+jwt and at+jwt are one, in any case.  A rule JWT also accepts no typ (RFC 7519 5.1). */
static bool is_type_accepted(const struct issuer_list *types, const char *typ)
{
    const size_t cut = typ != NULL && strncasecmp(typ, "application/", 12) == 0 ? 12 : 0;

    for (size_t i = 0; i < types->count; i++)
        if (strcasecmp(types->texts[i], typ != NULL ? typ + cut : "JWT") == 0)
            return true;
    return types->count == 0;
}

/* What only ID, logout and refresh tokens have (OIDC Core 3.1.3.6, Back-Channel Logout 2.4; Keycloak's claim `typ`). */
static const char *find_foreign_mark(const struct judging *judging)
{
    static const char *const marks[] = { "at_hash", "c_hash", "s_hash", "events" };
    static const char *const kinds[] = { "ID", "Refresh", "Offline", "Logout" };
    const char *kind = text_claim(judging, "typ");

    for (size_t i = 0; i < sizeof marks / sizeof marks[0]; i++)
        if (json_object_get(judging->claims, marks[i]) != NULL)
            return marks[i];
    for (size_t i = 0; kind != NULL && i < sizeof kinds / sizeof kinds[0]; i++)
        if (strcmp(kinds[i], kind) == 0)
            return kinds[i];
    return NULL;
}

static enum jose_reason check_type(struct judging *judging)
{
    const struct issuer *issuer = judging->context.issuer;
    const char *typ = judging->token.typ, *mark = find_foreign_mark(judging);

    say(judging, "typ %.60s; accepted: %.40s", typ != NULL ? typ : "absent", issuer->types.count > 0 ? issuer->types.texts[0] : "any");
    if (!is_type_accepted(&issuer->types, typ))
        return JOSE_TYPE;
    if (mark != NULL) {
        say(judging, "it has \"%s\", which access tokens have not", mark);
        return JOSE_NOT_ACCESS;
    }
    /* An ID token of the same application has the same iss, aud and keys; only a permission tells them apart. */
    if (issuer_is_entra(issuer) && json_object_get(judging->claims, "scp") == NULL && json_object_get(judging->claims, "roles") == NULL) {
        say(judging, "neither scp nor roles: an ID token, or the application was given no permission");
        return JOSE_NOT_ACCESS;
    }
    return JOSE_FINE;
}

/* ---- signature --------------------------------------------------------------------------------------- */

static enum jose_reason check_algorithm(struct judging *judging)
{
    char accepted[120] = "";
    size_t length = 0;

    for (unsigned i = 0; judging->detail != NULL && i < JOSE_ALGORITHM_COUNT; i++)
        if ((judging->context.issuer->algorithms >> i & 1) != 0)
            length += (size_t)snprintf(accepted + length, sizeof accepted - length, " %s", jose_algorithm_text((enum jose_algorithm)i));
    say(judging, "alg %s; accepted:%s", jose_algorithm_text(judging->token.algorithm), accepted);
    return (judging->context.issuer->algorithms >> judging->token.algorithm & 1) != 0 ? JOSE_FINE : JOSE_ALGORITHM;
}

void token_bond(enum token_bond bond, const char *issuer, const char *value, char ret_name[TOKEN_BOND_SIZE])
{
    static const char *const kinds[TOKEN_BONDS] = { "signer", "token", "subject" };
    char text[ISSUER_NAME_MAX + 300], encoded[DIGEST_TEXT_SIZE];
    uint8_t digest[DIGEST_SIZE];
    const int size = snprintf(text, sizeof text, "%s\n%.*s\n%.255s", kinds[bond], (int)ISSUER_NAME_MAX, issuer, value);

    digest_sha256(text, (size_t)size, digest);
    base64url_encode(digest, 16, encoded);
    memcpy(ret_name, encoded, TOKEN_BOND_SIZE);
}

void token_bond_of(const char *issuer, const char *value, char ret_name[TOKEN_BOND_SIZE])
{
    token_bond(BOND_TOKEN, strncmp(value, TOKEN_BY_DIGEST, strlen(TOKEN_BY_DIGEST)) == 0 ? "" : issuer, value, ret_name);
}

/* Keys of a Microsoft set are always marked with the issuer's v2 form, those of the v1 endpoint not at all. */
static enum jose_reason verify(struct judging *judging, struct jose_keys *keys)
{
    const struct issuer *issuer = judging->context.issuer;
    const char *directory = text_claim(judging, "tid");
    char second[ISSUER_URL_MAX + 80];
    struct jose_key_rule rule = { 0 };

    if (issuer_is_entra(issuer)) {
        snprintf(second, sizeof second, "%s/%.40s/v2.0", issuer->azure_authority, directory != NULL ? directory : "");
        rule.issuer[0] = judging->token.iss;
        rule.issuer[1] = second;
        rule.directory = directory;
    }
    return jose_token_verify(&judging->token, keys, issuer->algorithms, &rule, judging->context.signer);
}

static enum jose_reason check_signature(struct judging *judging)
{
    struct jose_keys *keys = judging->question->keys[judging->index];

    if (keys == NULL) {
        say(judging, "no key set of %s", judging->context.issuer->name);
        return JOSE_KEYS_MISSING;
    }
    say(judging, "kid %.60s; the set has %zu usable keys, %zu were skipped%s%.120s%s",
        judging->token.kid != NULL ? judging->token.kid : "absent", jose_keys_count(keys), jose_keys_skipped(keys),
        jose_keys_skipped(keys) > 0 ? " (" : "", jose_keys_skip_reason(keys, 0), jose_keys_skipped(keys) > 0 ? ")" : "");
    return verify(judging, keys);
}

/* ---- lifetime ---------------------------------------------------------------------------------------- */

static void say_time(const struct judging *judging, const char *claim, int64_t time_s)
{
    char text[32] = "";
    struct tm parts;
    const time_t seconds = (time_t)time_s;
    const int64_t away_s = time_s - judging->question->now_s;

    if (judging->detail == NULL)
        return;
    if (gmtime_r(&seconds, &parts) != NULL)
        strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
    say(judging, "%s %s, %" PRId64 " s %s; leeway %" PRIu64 " s", claim, text, away_s < 0 ? -away_s : away_s,
        away_s < 0 ? "ago" : "ahead", judging->context.issuer->leeway_s);
}

/* A time that must not lie ahead. */
static enum jose_reason check_past(const struct judging *judging, const char *name, enum jose_reason malformed, enum jose_reason ahead)
{
    char shown[200];
    int64_t time_s;
    enum err err = jose_claim_time(judging->claims, name, &time_s);

    if (err == ERR_NOT_FOUND)
        return JOSE_FINE;
    if (err != ERR_OK) {
        say(judging, "%s %.100s", name, show(judging, json_object_get(judging->claims, name), shown));
        return malformed;
    }
    if (time_s <= judging->question->now_s + (int64_t)judging->context.issuer->leeway_s)
        return JOSE_FINE;
    say_time(judging, name, time_s);
    return ahead;
}

static enum jose_reason check_lifetime(struct judging *judging)
{
    const bool is_answer = judging->token.header == NULL;
    const int64_t leeway_s = (int64_t)judging->context.issuer->leeway_s;
    char shown[200];
    int64_t expires_s = 0;
    enum err err = jose_claim_time(judging->claims, "exp", &expires_s);

    if (err == ERR_NOT_FOUND && !is_answer) {
        say(judging, "exp absent");
        return JOSE_EXPIRY_MISSING;
    }
    if (err == ERR_MALFORMED) {
        say(judging, "exp %.100s", show(judging, json_object_get(judging->claims, "exp"), shown));
        return JOSE_EXPIRY;
    }
    if (err == ERR_OK) {
        say_time(judging, "exp", expires_s);
        if (judging->question->now_s >= expires_s + leeway_s)
            return JOSE_EXPIRED;
        judging->context.expires_s = expires_s + leeway_s;
    }
    enum jose_reason reason = check_past(judging, "nbf", JOSE_NOT_BEFORE, JOSE_NOT_YET);

    if (reason == JOSE_FINE)
        reason = check_past(judging, "iat", JOSE_ISSUED, JOSE_FUTURE);
    if (reason == JOSE_FINE)
        (void)!jose_claim_time(judging->claims, "iat", &judging->context.issued_s);
    return reason;
}

/* ---- audience ---------------------------------------------------------------------------------------- */

/* The slug of public_url/mcp/<slug>; false: it is no such URL. */
static bool read_slug(const char *public_url, const char *text, char slug[65])
{
    const size_t length = strlen(public_url);
    char head[401];

    if (strlen(text) <= length || strncmp(text + length, "/mcp/", 5) != 0)
        return false;
    memcpy(head, text, length);
    head[length] = '\0';
    const char *rest = text + length + 5;
    const size_t size = strcspn(rest, "/#");
    const char *behind = rest + size + (rest[size] == '/');

    if (!audience_equals(head, public_url) || size == 0 || size > 64 || (*behind != '\0' && *behind != '#'))
        return false;
    memcpy(slug, rest, size);
    slug[size] = '\0';
    return true;
}

static void add_audience(struct judging *judging, const char *text)
{
    const struct issuer *issuer = judging->context.issuer;
    const char *public_url = judging->question->issuers->public_url;
    struct token_audience *audience = &judging->context.audience;
    char slug[65];

    for (size_t i = 0; i < issuer->audience_count; i++)
        if (audience_equals(issuer->audiences[i].value, text))
            audience->configured |= UINT64_C(1) << i;
    if (!issuer->derive_audiences || public_url[0] == '\0')
        return;
    if (audience_equals(public_url, text))
        audience->is_origin = true;
    else if (audience->server_count < TOKEN_SERVERS_MAX && read_slug(public_url, text, slug))
        memcpy(audience->servers[audience->server_count++], slug, sizeof slug);
}

static bool has_own_list(const struct issuer *issuer, const char *server)
{
    for (size_t i = 0; i < issuer->audience_count; i++)
        if (strcmp(issuer->audiences[i].server, server) == 0)
            return true;
    return false;
}

bool token_serves(const struct token_context *context, const struct issuers *issuers, const char *server)
{
    const struct token_audience *audience = &context->audience;
    const struct issuer *issuer = context->issuer;
    const char *list = has_own_list(issuer, server) ? server : "";

    (void)issuers;
    if (audience->is_any || (audience->is_origin && server[0] == '\0'))
        return true;
    for (size_t i = 0; audience->configured != 0 && i < issuer->audience_count; i++)
        if ((audience->configured >> i & 1) != 0 && strcmp(issuer->audiences[i].server, list) == 0)
            return true;
    for (size_t i = 0; i < audience->server_count; i++)
        if (strcmp(audience->servers[i], server) == 0)
            return true;
    return false;
}

/* What would have been accepted, for the operator. */
static void say_audience(const struct judging *judging, const json_t *aud)
{
    const struct issuer *issuer = judging->context.issuer;
    const char *server = judging->question->server, *public_url = judging->question->issuers->public_url;
    char shown[200], wanted[240] = "";
    size_t length = 0;

    if (judging->detail == NULL)
        return;
    const char *list = server != NULL && has_own_list(issuer, server) ? server : "";

    for (size_t i = 0; i < issuer->audience_count && length < sizeof wanted; i++)
        if (server == NULL || strcmp(issuer->audiences[i].server, list) == 0)
            length += (size_t)snprintf(wanted + length, sizeof wanted - length, " %s", issuer->audiences[i].value);
    if (issuer->derive_audiences && public_url[0] != '\0' && length < sizeof wanted)
        snprintf(wanted + length, sizeof wanted - length, " %.150s%s%s", public_url, server == NULL || *server != '\0' ? "/mcp/" : "",
                 server == NULL ? "<slug>" : server);
    say(judging, "aud %.150s; accepted:%s", show(judging, aud, shown), wanted[0] != '\0' ? wanted : " none");
}

static bool is_ours(const struct judging *judging)
{
    const struct token_audience *audience = &judging->context.audience;

    if (judging->question->server != NULL)
        return token_serves(&judging->context, judging->question->issuers, judging->question->server);
    return audience->configured != 0 || audience->is_origin || audience->is_any || audience->server_count > 0;
}

static enum jose_reason check_audience(struct judging *judging)
{
    const json_t *aud = json_object_get(judging->claims, "aud");

    if (judging->context.audience.is_any)
        return JOSE_FINE;
    say_audience(judging, aud);
    if (aud == NULL || (json_is_array(aud) && json_array_size(aud) == 0))
        return JOSE_AUDIENCE_MISSING;
    if (json_is_string(aud)) {
        add_audience(judging, json_string_value(aud));
        return is_ours(judging) ? JOSE_FINE : JOSE_AUDIENCE;
    }
    if (!json_is_array(aud))
        return JOSE_AUDIENCE_MALFORMED;
    for (size_t i = 0; i < json_array_size(aud); i++) {
        if (!json_is_string(json_array_get(aud, i)))
            return JOSE_AUDIENCE_MALFORMED;
        add_audience(judging, json_string_value(json_array_get(aud, i)));
    }
    return is_ours(judging) ? JOSE_FINE : JOSE_AUDIENCE;
}

/* ---- what it is bound to, whose it is ---------------------------------------------------------------- */

/* RFC 7800 3.1: until the proof is verified too, such a token is no bearer token. */
static enum jose_reason check_proof(struct judging *judging)
{
    const char *type = text_claim(judging, "token_type");
    const bool is_bound = json_object_get(judging->claims, "cnf") != NULL
        || (judging->token.header == NULL && type != NULL && strcasecmp(type, "DPoP") == 0);

    say(judging, "cnf %s", is_bound ? "present" : "absent");
    return is_bound ? JOSE_PROOF : JOSE_FINE;
}

/* The first of these claims as a text that a TEXT field of the bus carries; false: it is there and cannot be. */
static bool take_first(const struct judging *judging, const char *const *names, char *text, size_t limit)
{
    for (; *names != NULL; names++) {
        const json_t *claim = json_object_get(judging->claims, *names);

        if (claim != NULL)
            return json_is_string(claim) && message_take_text(json_string_value(claim), text, limit);
    }
    text[0] = '\0';
    return true;
}

static enum jose_reason check_client(struct judging *judging)
{
    static const char *const client[] = { "client_id", "azp", "appid", NULL };
    static const char *const session[] = { "sid", NULL };
    static const char *const id[] = { "jti", "uti", NULL };
    struct token_context *context = &judging->context;
    const struct issuer_list *clients = &context->issuer->clients;

    if (!take_first(judging, client, context->client_id, sizeof context->client_id - 1)
        || !take_first(judging, session, context->session_id, sizeof context->session_id - 1)
        || !take_first(judging, id, context->token_id, sizeof context->token_id - 1)) {
        say(judging, "client_id, azp or appid (128 bytes), sid (64), jti or uti (128) is no printable text, or longer");
        return JOSE_CLAIM_MALFORMED;
    }
    say(judging, "client %s; accepted: %s", context->client_id[0] != '\0' ? context->client_id : "not named",
        clients->count == 0 ? "any" : "those of `clients`");
    for (size_t i = 0; i < clients->count; i++)
        if (strcmp(clients->texts[i], context->client_id) == 0)
            return JOSE_FINE;
    return clients->count == 0 ? JOSE_FINE : JOSE_CLIENT;
}

/* ---- rules ------------------------------------------------------------------------------------------- */

/* Is one of the words of `text` (blanks between, RFC 6749 3.3) this one? */
static bool has_word(const char *text, const char *word)
{
    const size_t length = strlen(word);

    for (text += strspn(text, " "); *text != '\0'; text += strspn(text, " ")) {
        const size_t size = strcspn(text, " ");

        if (size == length && memcmp(text, word, length) == 0)
            return true;
        text += size;
    }
    return false;
}

static bool is_value(const json_t *claim, const char *value)
{
    char number[24];

    if (json_is_string(claim))
        return strcmp(json_string_value(claim), value) == 0;
    if (json_is_boolean(claim))
        return strcmp(json_is_true(claim) ? "true" : "false", value) == 0;
    if (!json_is_integer(claim))
        return false;
    snprintf(number, sizeof number, "%" JSON_INTEGER_FORMAT, json_integer_value(claim));
    return strcmp(number, value) == 0;
}

static bool is_word_list(const char *name)
{
    return strcmp(name, "scope") == 0 || strcmp(name, "scp") == 0;
}

static const json_t *find_claim(const struct judging *judging, const char *name)
{
    const json_t *claim = jose_claim(judging->claims, name);

    return claim == NULL && strcmp(name, "scope") == 0 ? json_object_get(judging->claims, "scp") : claim;
}

static bool does_match(const struct judging *judging, const struct issuer_rule *rule)
{
    const json_t *claim = find_claim(judging, rule->claim);

    if (json_is_string(claim) && is_word_list(rule->claim))
        return has_word(json_string_value(claim), rule->value);
    if (!json_is_array(claim))
        return is_value(claim, rule->value);
    for (size_t i = 0; i < json_array_size(claim); i++)
        if (is_value(json_array_get(claim, i), rule->value))
            return true;
    return false;
}

static const struct issuer_rule *first_match(const struct judging *judging, enum issuer_rule_kind kind)
{
    const struct issuer *issuer = judging->context.issuer;

    for (size_t i = 0; i < issuer->rule_count; i++)
        if (issuer->rules[i].kind == kind && does_match(judging, &issuer->rules[i]))
            return &issuer->rules[i];
    return NULL;
}

/* Is one of the required values of this rule's claim there? */
static bool is_required_there(const struct judging *judging, const char *claim)
{
    const struct issuer *issuer = judging->context.issuer;

    for (size_t i = 0; i < issuer->rule_count; i++)
        if (issuer->rules[i].kind == RULE_REQUIRE && strcmp(issuer->rules[i].claim, claim) == 0
            && does_match(judging, &issuer->rules[i]))
            return true;
    return false;
}

static enum jose_reason check_claims(struct judging *judging)
{
    const struct issuer *issuer = judging->context.issuer;
    char shown[200];
    size_t count = 0;

    for (size_t i = 0; i < issuer->rule_count; i++) {
        const struct issuer_rule *rule = &issuer->rules[i];

        if (rule->kind != RULE_REQUIRE)
            continue;
        count++;
        if (is_required_there(judging, rule->claim))
            continue;
        say(judging, "%s is %.100s; required: %.100s", rule->claim, show(judging, find_claim(judging, rule->claim), shown), rule->value);
        return JOSE_CLAIM;
    }
    say(judging, "%zu rules of `require`", count);
    return JOSE_FINE;
}

/* ---- user, tenant, scopes ---------------------------------------------------------------------------- */

static bool take_subject(struct judging *judging)
{
    const json_t *claim = jose_claim(judging->claims, judging->context.issuer->user_claim);
    struct token_context *context = &judging->context;

    if (json_is_integer(claim)) {
        snprintf(context->subject, sizeof context->subject, "%" JSON_INTEGER_FORMAT, json_integer_value(claim));
        return true;
    }
    if (!json_is_string(claim) || json_string_length(claim) == 0 || json_string_length(claim) >= sizeof context->subject)
        return false;
    memcpy(context->subject, json_string_value(claim), json_string_length(claim) + 1);
    return true;
}

/*
 * <prefix>:<claim>.  Of several directories, too long or not printable: <prefix>:<base64url of SHA-256 of tid/claim>, for an
 * `oid` is one person's only together with its `tid`.
 */
static bool name_user(struct judging *judging)
{
    struct token_context *context = &judging->context;
    const struct issuer *issuer = context->issuer;
    const char *directory = text_claim(judging, "tid");
    char joined[2 * sizeof context->subject], encoded[DIGEST_TEXT_SIZE];
    uint8_t digest[DIGEST_SIZE];

    if (issuer->user_prefix[0] == '\0')
        return message_take_text(context->subject, context->user_id, sizeof context->user_id - 1);
    snprintf(joined, sizeof joined, "%s:%s", issuer->user_prefix, context->subject);
    if (!issuer->is_template && message_take_text(joined, context->user_id, sizeof context->user_id - 1))
        return true;
    if (issuer->is_template)
        snprintf(joined, sizeof joined, "%.60s/%s", directory != NULL ? directory : "", context->subject);
    else
        snprintf(joined, sizeof joined, "%s", context->subject);
    digest_sha256(joined, strlen(joined), digest);
    base64url_encode(digest, sizeof digest, encoded);
    snprintf(context->user_id, sizeof context->user_id, "%.20s:%s", issuer->user_prefix, encoded);
    return true;
}

static enum jose_reason check_user(struct judging *judging)
{
    const char *claim = judging->context.issuer->user_claim;
    char shown[200];

    if (!take_subject(judging) || !name_user(judging)) {
        say(judging, "%s is %.100s", claim, show(judging, jose_claim(judging->claims, claim), shown));
        return JOSE_USER_MISSING;
    }
    const char *provider = judging->context.issuer->account_provider;

    if (provider[0] != '\0')
        say(judging, "%s %.120s is the user %s, or whose %s account it is in Better-Auth", claim, judging->context.subject,
            judging->context.user_id, provider);
    else
        say(judging, "%s %.120s is the user %s", claim, judging->context.subject, judging->context.user_id);
    return JOSE_FINE;
}

static bool take_tenant(struct judging *judging)
{
    const struct issuer *issuer = judging->context.issuer;
    char *tenant = judging->context.tenant_id;
    const size_t limit = sizeof judging->context.tenant_id - 1;
    bool has_rules = false;

    if (issuer->tenant[0] != '\0')
        return message_take_text(issuer->tenant, tenant, limit);
    if (issuer->tenant_claim[0] != '\0') {
        const char *value = json_string_value(jose_claim(judging->claims, issuer->tenant_claim));

        return value != NULL && value[0] != '\0' && message_take_text(value, tenant, limit);
    }
    for (size_t i = 0; i < issuer->rule_count; i++)
        has_rules = has_rules || issuer->rules[i].kind == RULE_TENANT;
    const struct issuer_rule *rule = first_match(judging, RULE_TENANT);

    return rule != NULL ? message_take_text(rule->tenant, tenant, limit) : !has_rules;
}

static enum jose_reason check_tenant(struct judging *judging)
{
    const struct issuer *issuer = judging->context.issuer;
    const bool is_taken = take_tenant(judging);

    if (!is_taken)
        say(judging, "%s%s names none", issuer->tenant_claim[0] != '\0' ? "the claim " : "no row of `tenants`", issuer->tenant_claim);
    else
        say(judging, "%s", judging->context.tenant_id[0] != '\0' ? judging->context.tenant_id
                           : "the user's only organization, else the user alone");
    return is_taken ? JOSE_FINE : JOSE_TENANT;
}

/* Texts, or lists of texts: another shape would be read as fewer rights by some and as more by others. */
static bool are_texts(const json_t *claim)
{
    for (size_t i = 0; i < json_array_size(claim); i++)
        if (!json_is_string(json_array_get(claim, i)))
            return false;
    return claim == NULL || json_is_null(claim) || json_is_string(claim) || json_is_array(claim);
}

static enum jose_reason check_scopes(struct judging *judging)
{
    static const char *const names[] = { "scope", "scp", "roles", "groups", NULL };
    struct token_context *context = &judging->context;
    const struct issuer *issuer = context->issuer;
    char text[SCOPES_TEXT_MAX], shown[200];
    uint64_t scopes = issuer->grants;

    for (const char *const *name = names; *name != NULL; name++) {
        if (are_texts(json_object_get(judging->claims, *name)))
            continue;
        say(judging, "%s is %.100s", *name, show(judging, json_object_get(judging->claims, *name), shown));
        return JOSE_CLAIM_MALFORMED;
    }
    for (size_t i = 0; i < issuer->rule_count; i++)
        if (issuer->rules[i].kind == RULE_SCOPE && does_match(judging, &issuer->rules[i]))
            scopes |= issuer->rules[i].scopes;
    const struct issuer_rule *tier = first_match(judging, RULE_TIER);

    context->scopes = scopes_close(scopes);
    context->tier = tier != NULL ? tier->tier : (context->scopes & SCOPE_BIT(ADMIN)) != 0 ? TIER_ADMIN : TIER_OAUTH;
    context->second_factor = first_match(judging, RULE_SECOND_FACTOR) != NULL;
    say(judging, "%s %.150s grants: %s%s", json_object_get(judging->claims, "scope") != NULL ? "scope" : "scp",
        show(judging, find_claim(judging, "scope"), shown), context->scopes != 0 ? scopes_format(context->scopes, text) : "nothing (every call will be 403)",
        json_object_get(judging->claims, "_claim_names") != NULL ? "; groups are too many to stand in the token, so no rule on them matches" : "");
    return JOSE_FINE;
}

/* ---- the list of steps ------------------------------------------------------------------------------- */

static const struct {
    const char *text, *meaning;
    unsigned needs;
} rows[] = {
#define STEP(name, text, needs, meaning) { text, meaning, needs },
#include "common/token_steps.def"
};

static enum jose_reason (*const checks[TOKEN_STEP_COUNT])(struct judging *judging) = {
    [TOKEN_SHAPE] = check_shape,
    [TOKEN_ISSUER] = check_issuer,
    [TOKEN_TYPE] = check_type,
    [TOKEN_ALGORITHM] = check_algorithm,
    [TOKEN_SIGNATURE] = check_signature,
    [TOKEN_LIFETIME] = check_lifetime,
    [TOKEN_AUDIENCE] = check_audience,
    [TOKEN_PROOF] = check_proof,
    [TOKEN_CLIENT] = check_client,
    [TOKEN_CLAIMS] = check_claims,
    [TOKEN_USER] = check_user,
    [TOKEN_TENANT] = check_tenant,
    [TOKEN_SCOPES] = check_scopes,
};

const char *token_step_text(enum token_step step)
{
    return rows[step].text;
}

const char *token_step_meaning(enum token_step step)
{
    return rows[step].meaning;
}

enum jose_reason token_judge(const struct token_question *question, struct token_context *ret_context,
                             const struct issuer **ret_issuer)
{
    struct judging judging = { .question = question };
    enum jose_reason reason = JOSE_FINE;

    for (unsigned step = 0; reason == JOSE_FINE && step < TOKEN_STEP_COUNT; step++)
        reason = checks[step](&judging);
    jose_token_wipe(&judging.token);
    if (reason == JOSE_FINE)
        *ret_context = judging.context;
    if (ret_issuer != NULL && (reason == JOSE_KEYS_MISSING || reason == JOSE_KEY_UNKNOWN))
        *ret_issuer = judging.context.issuer;
    return reason;
}

enum jose_reason token_identify(const struct token_question *question, struct token_context *ret_context)
{
    struct judging judging = { .question = question };
    enum jose_reason reason = check_shape(&judging);
    int64_t expires_s;

    if (reason == JOSE_FINE)
        reason = check_issuer(&judging);
    if (reason == JOSE_FINE)
        reason = check_client(&judging);
    if (reason == JOSE_CLIENT)
        reason = JOSE_FINE;
    if (reason == JOSE_FINE && jose_claim_time(judging.claims, "exp", &expires_s) == ERR_OK)
        judging.context.expires_s = expires_s + (int64_t)judging.context.issuer->leeway_s;
    jose_token_wipe(&judging.token);
    if (reason == JOSE_FINE)
        *ret_context = judging.context;
    return reason;
}

/* ---- answers of introspection endpoints -------------------------------------------------------------- */

/* The endpoint knows refresh tokens too (RFC 7662 2.1).  DPoP is told apart later; access_token is what some servers write. */
static bool is_access_token(const struct judging *judging)
{
    static const char *const types[] = { "Bearer", "access_token", "DPoP" };
    const json_t *type = json_object_get(judging->claims, "token_type");

    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (json_is_string(type) && strcasecmp(json_string_value(type), types[i]) == 0)
            return find_foreign_mark(judging) == NULL;
    return type == NULL && find_foreign_mark(judging) == NULL;
}

/* RFC 7662 2.2: active must be the value true; an issuer it names must be this one. */
static enum jose_reason check_answer(struct judging *judging)
{
    const char *iss = text_claim(judging, "iss");

    if (!json_is_true(json_object_get(judging->claims, "active")))
        return JOSE_INACTIVE;
    if (!is_access_token(judging))
        return JOSE_NOT_ACCESS;
    return iss == NULL || issuer_has_iss(judging->context.issuer, iss, text_claim(judging, "tid")) ? JOSE_FINE : JOSE_ISSUER_UNKNOWN;
}

/* "Check a token" of GitHub names the application in app.client_id; tokeninfo of Google in aud, and has exp as a text. */
static enum jose_reason check_broker(struct judging *judging, json_t *body)
{
    const struct issuer *issuer = judging->context.issuer;
    const bool is_github = issuer->preset == ISSUER_GITHUB;
    const char *application = json_string_value(jose_claim(body, is_github ? "app.client_id" : "aud"));
    const json_t *expiry = json_object_get(body, "exp");

    if (application == NULL)
        return JOSE_AUDIENCE_MISSING;
    if (strcmp(application, issuer->client_id) != 0)
        return JOSE_AUDIENCE;
    judging->context.audience.is_any = true;
    if (json_is_string(expiry)) {
        const char *text = json_string_value(expiry);

        if (*text == '\0' || strlen(text) > 12 || strspn(text, "0123456789") != strlen(text))
            return JOSE_EXPIRY;
        if (json_object_set_new(body, "exp", json_integer(strtoll(text, NULL, 10))) != 0)
            return JOSE_NO_MEMORY;
    }
    return JOSE_FINE;
}

enum jose_reason token_judge_answer(const struct token_question *question, const struct issuer *issuer, const char *body, size_t size,
                                    struct token_context *ret_context)
{
    static const enum token_step steps[] = {
        TOKEN_LIFETIME, TOKEN_AUDIENCE, TOKEN_PROOF, TOKEN_CLIENT, TOKEN_CLAIMS, TOKEN_USER, TOKEN_TENANT, TOKEN_SCOPES
    };
    struct judging judging = { .question = question, .context.issuer = issuer };
    enum jose_reason reason;

    if (size > ANSWER_MAX)
        return JOSE_TOO_LARGE;
    OWNED(json_destroy) json_t *answer = json_loadb(body, size, JSON_REJECT_DUPLICATES, NULL);

    if (!json_is_object(answer))
        return JOSE_PAYLOAD;
    judging.claims = answer;
    if (issuer->preset == ISSUER_GITHUB || issuer->preset == ISSUER_GOOGLE)
        reason = check_broker(&judging, answer);
    else
        reason = check_answer(&judging);
    for (size_t i = 0; reason == JOSE_FINE && i < sizeof steps / sizeof steps[0]; i++)
        reason = checks[steps[i]](&judging);
    if (reason == JOSE_FINE)
        *ret_context = judging.context;
    return reason;
}

/* ---- explanation ------------------------------------------------------------------------------------- */

enum jose_reason token_explain(const struct token_question *question, struct token_explained steps[TOKEN_STEP_COUNT],
                               struct token_context *ret_context)
{
    struct judging judging = { .question = question };
    enum jose_reason first = JOSE_FINE;
    unsigned passed = 0;

    for (unsigned i = 0; i < TOKEN_STEP_COUNT; i++) {
        steps[i] = (struct token_explained){ .outcome = TOKEN_NOT_REACHED, .reason = JOSE_FINE };
        if ((rows[i].needs & ~passed) != 0)
            continue;
        judging.detail = steps[i].detail;
        steps[i].reason = checks[i](&judging);
        steps[i].outcome = steps[i].reason == JOSE_FINE ? TOKEN_PASSED : TOKEN_REFUSED;
        if (steps[i].reason == JOSE_FINE)
            passed |= 1u << i;
        else if (first == JOSE_FINE)
            first = steps[i].reason;
    }
    jose_token_wipe(&judging.token);
    if (first == JOSE_FINE)
        *ret_context = judging.context;
    return first;
}

static json_t *explain_step(enum token_step step, const struct token_explained *explained)
{
    static const char *const outcomes[] = {
        [TOKEN_PASSED] = "passed", [TOKEN_REFUSED] = "refused", [TOKEN_NOT_REACHED] = "not reached",
    };
    json_t *object = json_pack("{s:s, s:s, s:s, s:s}", "step", token_step_text(step), "outcome", outcomes[explained->outcome],
                               "meaning", token_step_meaning(step), "found", explained->detail);

    if (object == NULL || explained->outcome != TOKEN_REFUSED)
        return object;
    json_object_set_new(object, "reason", json_string(jose_reason_text(explained->reason)));
    json_object_set_new(object, "error", json_string(jose_reason_meaning(explained->reason)));
    json_object_set_new(object, "remedy", json_string(jose_reason_remedy(explained->reason)));
    return object;
}

static json_t *explain_context(const struct token_context *context)
{
    char scopes[SCOPES_TEXT_MAX];

    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:b, s:I}", "issuer", context->issuer->name, "userId", context->user_id,
                     "tenantId", context->tenant_id, "authMethod", auth_method_text(AUTH_OAUTH), "scopes", scopes_format(context->scopes, scopes),
                     "rateLimitTier", tier_text(context->tier), "clientId", context->client_id, "secondFactor", context->second_factor,
                     "expiresAt", (json_int_t)context->expires_s);
}

json_t *token_explain_json(const struct token_question *question)
{
    struct token_explained explained[TOKEN_STEP_COUNT];
    struct token_context context;
    enum jose_reason reason = token_explain(question, explained, &context);
    json_t *object = json_pack("{s:b, s:s}", "accepted", reason == JOSE_FINE, "reason", jose_reason_text(reason)), *steps = json_array();

    for (unsigned i = 0; i < TOKEN_STEP_COUNT; i++)
        json_array_append_new(steps, explain_step((enum token_step)i, &explained[i]));
    if (object == NULL || steps == NULL) {
        json_decref(object);
        json_decref(steps);
        return NULL;
    }
    json_object_set_new(object, "steps", steps);
    if (reason == JOSE_FINE)
        json_object_set_new(object, "context", explain_context(&context));
    return object;
}
