/*
 * issuers_load.c - reads `issuers:` of the settings file: presets first, then what is written, then what follows from both.
 *
 * Every refusal is one line: file, line, issuer, field, what is wrong and what to write instead.  Secrets are never in it.
 */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <yaml.h>

#include "common/cleanup.h"
#include "common/encode.h"
#include "common/fetch.h"
#include "common/issuers.h"
#include "common/jose.h"

#define ISSUERS_KEY     "issuers"
#define AZURE_AUTHORITY "https://login.microsoftonline.com"
#define AZURE_V1        "https://sts.windows.net/"
#define AZURE_CONSUMERS "9188040d-6c67-4c5b-b112-36a304b66dad"    /* the one directory of all personal accounts */
#define TENANT_PLACE    "{tenantid}"

DEFINE_DESTROY(file_close, FILE, fclose)

struct load {
    const struct issuers_options *options;
    yaml_document_t *document;
    struct issuer *issuer;             /* that is being read */
    uint64_t given;                    /* its fields that stand in the file, as bits of their rows */
    char *reterr;
    size_t reterr_size;
};

struct field {
    const char *name;
    enum err (*read)(struct load *load, const struct field *field, const yaml_node_t *value);
    size_t offset;
    uint64_t min, max;
    unsigned presets;
    const char *meaning;
};

#define PRESETS_ALL   0xffu
#define PRESETS_OIDC  (1u << ISSUER_OIDC)
#define PRESETS_ENTRA (1u << ISSUER_ENTRA_V1 | 1u << ISSUER_ENTRA_V2)
#define PRESETS_OWN   (PRESETS_OIDC | 1u << ISSUER_BETTER_AUTH)
#define PRESETS_KEYS  (PRESETS_OWN | PRESETS_ENTRA)

/* node NULL: the file as a whole, or the issuers of the environment. */
__attribute__((format(printf, 4, 5)))
static enum err refuse(const struct load *load, const yaml_node_t *node, const char *field, const char *format, ...)
{
    const char *name = load->issuer != NULL ? load->issuer->name : "";
    va_list arguments;
    int length;

    if (node == NULL && load->issuer != NULL)
        length = snprintf(load->reterr, load->reterr_size, "environment MCPGW_AZURE_*: %s: ", field);
    else if (node == NULL)
        length = snprintf(load->reterr, load->reterr_size, "%s: ", load->options->file);
    else
        length = snprintf(load->reterr, load->reterr_size, "%s:%zu: %s%s%s%s%s: ", load->options->file, node->start_mark.line + 1,
                          ISSUERS_KEY, *name != '\0' ? ": " : "", name, *field != '\0' ? ": " : "", field);
    if (length > 0 && (size_t)length < load->reterr_size) {
        va_start(arguments, format);
        vsnprintf(load->reterr + length, load->reterr_size - (size_t)length, format, arguments);
        va_end(arguments);
    }
    return ERR_MALFORMED;
}

/* ---- YAML -------------------------------------------------------------------------------------------- */

static const yaml_node_t *node_at(const struct load *load, int index)
{
    return yaml_document_get_node(load->document, index);
}

/* NULL: not a scalar. */
static const char *text_of(const yaml_node_t *node)
{
    return node->type == YAML_SCALAR_NODE ? (const char *)node->data.scalar.value : NULL;
}

static bool is_printable(const yaml_node_t *node)
{
    for (size_t i = 0; i < node->data.scalar.length; i++)
        if (node->data.scalar.value[i] < ' ' || node->data.scalar.value[i] > '~')
            return false;
    return true;
}

static enum err take_text(const struct load *load, const struct field *field, const yaml_node_t *node, char *ret_text)
{
    const char *text = text_of(node);

    if (text == NULL)
        return refuse(load, node, field->name, "write one value");
    if (node->data.scalar.length < field->min || node->data.scalar.length > field->max)
        return refuse(load, node, field->name, "write %" PRIu64 " to %" PRIu64 " bytes; these are %zu",
                      field->min, field->max, node->data.scalar.length);
    if (!is_printable(node))
        return refuse(load, node, field->name, "write printable ASCII");
    memcpy(ret_text, text, node->data.scalar.length + 1);
    return ERR_OK;
}

/* One value, or a list of values: the n-th of it; NULL behind the last. */
static const yaml_node_t *item_at(const struct load *load, const yaml_node_t *node, size_t n)
{
    if (node->type == YAML_SCALAR_NODE)
        return n == 0 ? node : NULL;
    if (node->type != YAML_SEQUENCE_NODE || node->data.sequence.items.start + n >= node->data.sequence.items.top)
        return NULL;
    return node_at(load, node->data.sequence.items.start[n]);
}

static enum err check_list(const struct load *load, const struct field *field, const yaml_node_t *node)
{
    if (node->type == YAML_MAPPING_NODE)
        return refuse(load, node, field->name, "write a list: [a, b]");
    return ERR_OK;
}

/* ---- readers of fields ------------------------------------------------------------------------------- */

static void *member_of(const struct load *load, const struct field *field)
{
    return (char *)load->issuer + field->offset;
}

static enum err read_text(struct load *load, const struct field *field, const yaml_node_t *value)
{
    return take_text(load, field, value, member_of(load, field));
}

static enum err read_name(struct load *load, const struct field *field, const yaml_node_t *value)
{
    char name[ISSUER_NAME_MAX + 1];
    enum err err = take_text(load, field, value, name);

    if (err != ERR_OK)
        return err;
    if (strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-") != strlen(name))
        return refuse(load, value, field->name, "write small letters, digits and - only");
    memcpy(load->issuer->name, name, sizeof name);
    return ERR_OK;
}

static enum err read_prefix(struct load *load, const struct field *field, const yaml_node_t *value)
{
    char prefix[ISSUER_NAME_MAX + 1];
    enum err err = take_text(load, field, value, prefix);

    if (err != ERR_OK)
        return err;
    if (strspn(prefix, "abcdefghijklmnopqrstuvwxyz0123456789-") != strlen(prefix))
        return refuse(load, value, field->name, "write small letters, digits and - only");
    memcpy(load->issuer->user_prefix, prefix, sizeof prefix);
    return ERR_OK;
}

/* Read before the others, because it holds their defaults. */
static enum err read_preset(struct load *load, const struct field *field, const yaml_node_t *value)
{
    const char *text = text_of(value);

    for (unsigned i = 0; text != NULL && i < ISSUER_PRESETS; i++) {
        if (strcmp(issuer_preset_text((enum issuer_preset)i), text) == 0) {
            load->issuer->preset = (enum issuer_preset)i;
            return ERR_OK;
        }
    }
    return refuse(load, value, field->name, "write oidc, better-auth, entra-v2, entra-v1, github or google");
}

static enum err read_url(struct load *load, const struct field *field, const yaml_node_t *value)
{
    char text[ISSUER_URL_MAX + 1];
    enum err err = take_text(load, field, value, text);

    if (err != ERR_OK)
        return err;
    const char *fault = fetch_url_fault(text, true);

    if (fault != NULL)
        return refuse(load, value, field->name, "%s", fault);
    snprintf(member_of(load, field), sizeof text, "%s", text);
    return ERR_OK;
}

static enum err read_number(struct load *load, const struct field *field, const yaml_node_t *value)
{
    const char *text = text_of(value);
    uint64_t number = 0;

    for (const char *at = text; at != NULL && *at != '\0'; at++) {
        if (*at < '0' || *at > '9' || number > field->max) {
            text = NULL;
            break;
        }
        number = number * 10 + (uint64_t)(*at - '0');
    }
    if (text == NULL || *text == '\0' || number < field->min || number > field->max)
        return refuse(load, value, field->name, "write a whole number from %" PRIu64 " to %" PRIu64, field->min, field->max);
    memcpy(member_of(load, field), &number, sizeof number);
    return ERR_OK;
}

static enum err read_flag(struct load *load, const struct field *field, const yaml_node_t *value)
{
    const char *text = text_of(value);
    const bool is_true = text != NULL && strcmp(text, "true") == 0;

    if (!is_true && (text == NULL || strcmp(text, "false") != 0))
        return refuse(load, value, field->name, "write true or false");
    memcpy(member_of(load, field), &is_true, sizeof is_true);
    return ERR_OK;
}

static enum err read_list(struct load *load, const struct field *field, const yaml_node_t *value)
{
    struct issuer_list *list = member_of(load, field);
    enum err err = check_list(load, field, value);
    const yaml_node_t *item;

    list->count = 0;
    for (size_t i = 0; err == ERR_OK && (item = item_at(load, value, i)) != NULL; i++) {
        if (list->count == ISSUER_LIST_MAX)
            return refuse(load, item, field->name, "write at most %u values", ISSUER_LIST_MAX);
        err = take_text(load, field, item, list->texts[list->count]);
        if (err == ERR_OK)
            list->count++;
    }
    return err;
}

static enum err read_secret(struct load *load, const struct field *field, const yaml_node_t *value)
{
    struct secret *secret = &load->issuer->client_secret;
    const char *text = text_of(value);

    if (text == NULL || value->data.scalar.length < 1 || value->data.scalar.length > SECRET_SIZE_MAX)
        return refuse(load, value, field->name, "write 1 to %d bytes, or name a file with client_secret_file", SECRET_SIZE_MAX);
    if (!load->options->with_secrets)
        return ERR_OK;
    memcpy(secret->bytes, text, value->data.scalar.length + 1);
    secret->size = value->data.scalar.length;
    return ERR_OK;
}

/* One line end at the end belongs to the file, not to the secret. */
static enum err read_secret_file(struct load *load, const struct field *field, const yaml_node_t *value)
{
    struct secret *secret = &load->issuer->client_secret;
    char path[401];
    enum err err = take_text(load, field, value, path);

    if (err != ERR_OK || !load->options->with_secrets)
        return err;
    OWNED(file_close) FILE *in = fopen(path, "re");

    if (in == NULL)
        return refuse(load, value, field->name, "%s cannot be read: %s; correct the path or its permissions", path, strerror(errno));
    const size_t size = fread(secret->bytes, 1, sizeof secret->bytes, in);

    secret->size = size > 0 && secret->bytes[size - 1] == '\n' ? size - 1 : size;
    if (ferror(in) || secret->size == 0 || secret->size > SECRET_SIZE_MAX)
        return refuse(load, value, field->name, "%s holds no secret of 1 to %d bytes", path, SECRET_SIZE_MAX);
    secret->bytes[secret->size] = '\0';
    return ERR_OK;
}

static enum err read_algorithms(struct load *load, const struct field *field, const yaml_node_t *value)
{
    enum err err = check_list(load, field, value);
    enum jose_algorithm algorithm;
    const yaml_node_t *item;

    load->issuer->algorithms = 0;
    for (size_t i = 0; err == ERR_OK && (item = item_at(load, value, i)) != NULL; i++) {
        const char *text = text_of(item);

        if (text == NULL || !jose_algorithm_parse(text, strlen(text), &algorithm))
            return refuse(load, item, field->name, "write some of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA, Ed25519; "
                          "none and HS* are not accepted, for a key set is public");
        load->issuer->algorithms |= 1u << algorithm;
    }
    return err;
}

static enum err read_opaque(struct load *load, const struct field *field, const yaml_node_t *value)
{
    static const char *const texts[] = {
        [OPAQUE_REFUSE] = "refuse", [OPAQUE_INTROSPECT] = "introspect", [OPAQUE_DATABASE] = "database",
    };
    const char *text = text_of(value);

    for (unsigned i = 0; text != NULL && i < sizeof texts / sizeof texts[0]; i++) {
        if (strcmp(texts[i], text) == 0) {
            load->issuer->opaque = (enum issuer_opaque)i;
            return ERR_OK;
        }
    }
    return refuse(load, value, field->name, "write refuse, introspect or database");
}

static enum err add_audience(struct load *load, const struct field *field, const char *server, const yaml_node_t *item)
{
    struct issuer *issuer = load->issuer;

    if (issuer->audience_count == ISSUER_AUDIENCES_MAX)
        return refuse(load, item, field->name, "write at most %u audiences in all", ISSUER_AUDIENCES_MAX);
    struct issuer_audience *audience = &issuer->audiences[issuer->audience_count];
    enum err err = take_text(load, field, item, audience->value);

    if (err != ERR_OK)
        return err;
    snprintf(audience->server, sizeof audience->server, "%s", server);
    issuer->audience_count++;
    return ERR_OK;
}

static enum err read_audiences_of(struct load *load, const struct field *field, const char *server, const yaml_node_t *value)
{
    enum err err = check_list(load, field, value);
    const yaml_node_t *item;

    for (size_t i = 0; err == ERR_OK && (item = item_at(load, value, i)) != NULL; i++)
        err = add_audience(load, field, server, item);
    return err;
}

static enum err read_audiences(struct load *load, const struct field *field, const yaml_node_t *value)
{
    return read_audiences_of(load, field, "", value);
}

static enum err read_servers(struct load *load, const struct field *field, const yaml_node_t *value)
{
    if (value->type != YAML_MAPPING_NODE)
        return refuse(load, value, field->name, "write one `slug: [audience]` per line");
    for (const yaml_node_pair_t *pair = value->data.mapping.pairs.start; pair < value->data.mapping.pairs.top; pair++) {
        const yaml_node_t *key = node_at(load, pair->key);
        const char *slug = text_of(key);

        if (slug == NULL || *slug == '\0' || strlen(slug) > 64 || !is_printable(key))
            return refuse(load, key, field->name, "write a server's slug before the colon");
        enum err err = read_audiences_of(load, field, slug, node_at(load, pair->value));
        if (err != ERR_OK)
            return err;
    }
    return ERR_OK;
}

/* ---- rules ------------------------------------------------------------------------------------------- */

/* Names separated by commas or blanks. */
static bool add_scopes(const char *text, uint64_t *scopes)
{
    enum scope scope;

    for (text += strspn(text, ", "); *text != '\0'; text += strspn(text, ", ")) {
        const size_t length = strcspn(text, ", ");

        if (!scope_parse(text, length, &scope))
            return false;
        *scopes |= UINT64_C(1) << scope;
        text += length;
    }
    return true;
}

static enum err take_scopes(const struct load *load, const struct field *field, const yaml_node_t *value, uint64_t *ret_scopes)
{
    enum err err = check_list(load, field, value);
    const yaml_node_t *item;
    uint64_t scopes = 0;

    for (size_t i = 0; err == ERR_OK && (item = item_at(load, value, i)) != NULL; i++)
        if (text_of(item) == NULL || !add_scopes(text_of(item), &scopes))
            return refuse(load, item, field->name, "write some of read, write, admin, proxy, metrics, health");
    if (err == ERR_OK && scopes == 0)
        return refuse(load, value, field->name, "write at least one of read, write, admin, proxy, metrics, health");
    if (err == ERR_OK)
        *ret_scopes = scopes;
    return err;
}

static enum err read_grants(struct load *load, const struct field *field, const yaml_node_t *value)
{
    return take_scopes(load, field, value, &load->issuer->grants);
}

static enum err take_tier(const struct load *load, const struct field *field, const yaml_node_t *value, enum tier *ret_tier)
{
    const char *text = text_of(value);

    for (unsigned tier = TIER_ADMIN; text != NULL && tier <= TIER_OAUTH; tier++) {
        if (strcmp(tier_text(tier), text) == 0) {
            *ret_tier = (enum tier)tier;
            return ERR_OK;
        }
    }
    return refuse(load, value, field->name, "tier: write admin, api_key or oauth");
}

/* One `name: value` of a rule.  `effect`: the name of what the rule does, NULL for those that only match. */
static enum err read_rule_member(struct load *load, const struct field *field, const char *effect, const yaml_node_pair_t *pair,
                                 struct issuer_rule *rule)
{
    const struct field claim = { .name = field->name, .min = 1, .max = ISSUER_CLAIM_MAX };
    const struct field text = { .name = field->name, .min = 1, .max = ISSUER_VALUE_MAX };
    const struct field tenant = { .name = field->name, .min = 1, .max = sizeof rule->tenant - 1 };
    const yaml_node_t *key = node_at(load, pair->key), *value = node_at(load, pair->value);
    const char *name = text_of(key);

    if (name != NULL && strcmp(name, "claim") == 0)
        return take_text(load, &claim, value, rule->claim);
    if (name != NULL && strcmp(name, "value") == 0)
        return take_text(load, &text, value, rule->value);
    if (name == NULL || effect == NULL || strcmp(name, effect) != 0)
        return refuse(load, key, field->name, "a rule has claim, value%s%s and nothing else",
                      effect != NULL ? ", " : "", effect != NULL ? effect : "");
    if (rule->kind == RULE_SCOPE)
        return take_scopes(load, field, value, &rule->scopes);
    if (rule->kind == RULE_TIER)
        return take_tier(load, field, value, &rule->tier);
    return take_text(load, &tenant, value, rule->tenant);
}

static enum err read_rule(struct load *load, const struct field *field, enum issuer_rule_kind kind, const yaml_node_t *node)
{
    static const char *const effects[ISSUER_RULE_KINDS] = {
        [RULE_SCOPE] = "grants", [RULE_TIER] = "tier", [RULE_TENANT] = "tenant",
    };
    struct issuer_rule rule = { .kind = kind };

    if (node->type != YAML_MAPPING_NODE)
        return refuse(load, node, field->name, "write rules as {claim: c, value: v%s%s%s}", effects[kind] != NULL ? ", " : "",
                      effects[kind] != NULL ? effects[kind] : "", effects[kind] != NULL ? ": x" : "");
    for (const yaml_node_pair_t *pair = node->data.mapping.pairs.start; pair < node->data.mapping.pairs.top; pair++) {
        enum err err = read_rule_member(load, field, effects[kind], pair, &rule);
        if (err != ERR_OK)
            return err;
    }
    if (rule.claim[0] == '\0' && kind == RULE_SCOPE)
        memcpy(rule.claim, "scope", sizeof "scope");
    if (rule.claim[0] == '\0' || rule.value[0] == '\0')
        return refuse(load, node, field->name, "a rule needs claim and value");
    if ((kind == RULE_SCOPE && rule.scopes == 0) || (kind == RULE_TIER && rule.tier == TIER_NONE)
        || (kind == RULE_TENANT && rule.tenant[0] == '\0'))
        return refuse(load, node, field->name, "a rule here needs %s", effects[kind]);
    if (load->issuer->rule_count == ISSUER_RULES_MAX)
        return refuse(load, node, field->name, "write at most %u rules in all", ISSUER_RULES_MAX);
    load->issuer->rules[load->issuer->rule_count++] = rule;
    return ERR_OK;
}

static void drop_rules(struct issuer *issuer, enum issuer_rule_kind kind)
{
    size_t kept = 0;

    for (size_t i = 0; i < issuer->rule_count; i++)
        if (issuer->rules[i].kind != kind)
            issuer->rules[kept++] = issuer->rules[i];
    issuer->rule_count = kept;
}

static enum err read_rules(struct load *load, const struct field *field, enum issuer_rule_kind kind, const yaml_node_t *value)
{
    enum err err = ERR_OK;
    const yaml_node_t *item;

    if (value->type != YAML_SEQUENCE_NODE)
        return refuse(load, value, field->name, "write a list of rules, each {claim: c, value: v, ...}");
    drop_rules(load->issuer, kind);
    for (size_t i = 0; err == ERR_OK && (item = item_at(load, value, i)) != NULL; i++)
        err = read_rule(load, field, kind, item);
    return err;
}

#define RULE_READER(noun, kind) \
    static enum err read_##noun(struct load *load, const struct field *field, const yaml_node_t *value) \
    { return read_rules(load, field, kind, value); }

RULE_READER(scopes, RULE_SCOPE)
RULE_READER(tiers, RULE_TIER)
RULE_READER(tenants, RULE_TENANT)
RULE_READER(factors, RULE_SECOND_FACTOR)
RULE_READER(required, RULE_REQUIRE)

/* ---- the table, and presets -------------------------------------------------------------------------- */

enum field_index {
#define ISSUER_FIELD(name, reader, member, min, max, presets, meaning) FIELD_##name,
#include "common/issuers.def"
    FIELDS
};
_Static_assert(FIELDS <= 64, "struct load has a bit for each");

static const struct field fields[] = {
#define ISSUER_FIELD(name, reader, member, min, max, presets, meaning) \
    { #name, read_##reader, offsetof(struct issuer, member), min, max, PRESETS_##presets, meaning },
#include "common/issuers.def"
};

static bool is_given(const struct load *load, enum field_index field)
{
    return (load->given >> field & 1) != 0;
}

static void add_default_rule(struct issuer *issuer, enum issuer_rule_kind kind, const char *claim, const char *value, uint64_t scopes)
{
    struct issuer_rule *rule = &issuer->rules[issuer->rule_count++];

    rule->kind = kind;
    rule->scopes = scopes;
    snprintf(rule->claim, sizeof rule->claim, "%s", claim);
    snprintf(rule->value, sizeof rule->value, "%s", value);
}

static void set_list(struct issuer_list *list, const char *text)
{
    list->count = 1;
    snprintf(list->texts[0], sizeof list->texts[0], "%s", text);
}

/* What users may delegate to a client.  admin is never among it: a scope is asked for by the client, a role is given. */
static void set_default_scopes(struct issuer *issuer)
{
    static const struct { const char *value; uint64_t scopes; } rows[] = {
        { "mcp:read", SCOPE_BIT(READ) }, { "mcp:write", SCOPE_BIT(WRITE) }, { "mcp:proxy", SCOPE_BIT(PROXY) },
        { "read", SCOPE_BIT(READ) }, { "write", SCOPE_BIT(WRITE) }, { "proxy", SCOPE_BIT(PROXY) },
    };

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        add_default_rule(issuer, RULE_SCOPE, "scope", rows[i].value, rows[i].scopes);
    if (!issuer_is_entra(issuer))
        return;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        add_default_rule(issuer, RULE_SCOPE, "roles", rows[i].value, rows[i].scopes);
    add_default_rule(issuer, RULE_SCOPE, "roles", "mcp:admin", SCOPE_BIT(ADMIN));
}

static void set_entra_defaults(struct issuer *issuer)
{
    snprintf(issuer->account_provider, sizeof issuer->account_provider, "microsoft");
    issuer->algorithms = JOSE_BIT(RS256);
    issuer->derive_audiences = false;
    issuer->cooldown_s = 300;
    set_list(&issuer->types, "JWT");
    snprintf(issuer->user_claim, sizeof issuer->user_claim, "oid");
    snprintf(issuer->tenant_claim, sizeof issuer->tenant_claim, "tid");
    snprintf(issuer->azure_authority, sizeof issuer->azure_authority, AZURE_AUTHORITY);
}

/* Tokens of these two name no resource; what proves that one was made for us is that it was made for our application. */
static void set_broker_defaults(struct issuer *issuer)
{
    const bool is_github = issuer->preset == ISSUER_GITHUB;

    issuer->algorithms = 0;
    issuer->advertise = false;
    issuer->derive_audiences = false;
    issuer->opaque = OPAQUE_INTROSPECT;
    issuer->rule_count = 0;
    snprintf(issuer->account_provider, sizeof issuer->account_provider, "%s", is_github ? "github" : "google");
    snprintf(issuer->issuer, sizeof issuer->issuer, "%s", is_github ? "https://github.com" : "https://accounts.google.com");
    snprintf(issuer->opaque_prefix, sizeof issuer->opaque_prefix, "%s", is_github ? "gho_" : "ya29.");
}

void issuer_set_defaults(struct issuer *issuer, enum issuer_preset preset)
{
    const unsigned common = JOSE_BIT(RS256) | JOSE_BIT(PS256) | JOSE_BIT(ES256) | JOSE_BIT(EDDSA) | JOSE_BIT(ED25519);

    issuer->preset = preset;
    issuer->advertise = true;
    issuer->derive_audiences = true;
    issuer->algorithms = common;
    issuer->leeway_s = 30;
    issuer->refresh_s = 3600;
    issuer->cooldown_s = 30;
    issuer->keep_s = 604800;
    issuer->local_users = issuer->preset == ISSUER_BETTER_AUTH;
    set_list(&issuer->types, "at+jwt");
    snprintf(issuer->user_claim, sizeof issuer->user_claim, "sub");
    set_default_scopes(issuer);
    add_default_rule(issuer, RULE_SECOND_FACTOR, "amr", "mfa", 0);
    if (issuer_is_entra(issuer))
        set_entra_defaults(issuer);
    if (issuer->preset == ISSUER_GITHUB || issuer->preset == ISSUER_GOOGLE)
        set_broker_defaults(issuer);
}

/* ---- what follows from the fields -------------------------------------------------------------------- */

__attribute__((format(printf, 3, 4)))
static void set_unless_empty(char *member, size_t size, const char *format, ...)
{
    va_list arguments;

    if (member[0] != '\0')
        return;
    va_start(arguments, format);
    vsnprintf(member, size, format, arguments);
    va_end(arguments);
}

static void add_default_audience(struct issuer *issuer, const char *before)
{
    struct issuer_audience *audience = &issuer->audiences[issuer->audience_count++];

    snprintf(audience->value, sizeof audience->value, "%.16s%.*s", before, (int)(sizeof audience->value - 17), issuer->client_id);
}

static enum err check_directory(struct load *load, const yaml_node_t *node)
{
    struct issuer *issuer = load->issuer;
    uint8_t uuid[UUID_SIZE];

    if (strcmp(issuer->azure_tenant, "consumers") == 0)
        memcpy(issuer->azure_tenant, AZURE_CONSUMERS, sizeof AZURE_CONSUMERS);
    issuer->is_template = strcmp(issuer->azure_tenant, "organizations") == 0 || strcmp(issuer->azure_tenant, "common") == 0;
    if (!issuer->is_template && !uuid_parse(issuer->azure_tenant, uuid))
        return refuse(load, node, "azure_tenant", "write the directory's id, a GUID (Entra puts it into tokens, not the domain); "
                      "or organizations, common, consumers; or set MCPGW_AZURE_TENANT_ID");
    for (char *at = issuer->azure_tenant; *at != '\0'; at++)
        *at = (char)tolower((unsigned char)*at);
    if (issuer->is_template && issuer->azure_tenants.count == 0)
        return refuse(load, node, "azure_tenants", "%s lets every directory in: list the ids of those that you accept, or write any",
                      issuer->azure_tenant);
    if (!issuer->is_template && issuer->azure_tenants.count > 0)
        return refuse(load, node, "azure_tenants", "it goes with azure_tenant organizations or common; remove it");
    for (size_t i = 0; i < issuer->azure_tenants.count; i++)
        if (strcmp(issuer->azure_tenants.texts[i], "any") != 0 && !uuid_parse(issuer->azure_tenants.texts[i], uuid))
            return refuse(load, node, "azure_tenants", "\"%s\" is no GUID; write the directory's id, or any", issuer->azure_tenants.texts[i]);
    return ERR_OK;
}

static enum err complete_entra(struct load *load, const yaml_node_t *node)
{
    struct issuer *issuer = load->issuer;
    const bool is_v2 = issuer->preset == ISSUER_ENTRA_V2;
    const char *authority = issuer->azure_authority, *tenant = issuer->azure_tenant;

    set_unless_empty(issuer->azure_tenant, sizeof issuer->azure_tenant, "%s", load->options->azure_tenant_id);
    set_unless_empty(issuer->client_id, sizeof issuer->client_id, "%s", load->options->azure_client_id);
    enum err err = check_directory(load, node);

    if (err != ERR_OK)
        return err;
    if (issuer->client_id[0] == '\0')
        return refuse(load, node, "client_id", "write the application (client) id, or set MCPGW_AZURE_CLIENT_ID");
    const char *directory = issuer->is_template ? TENANT_PLACE : tenant;
    const int room = 400;    /* leaves place for what is appended */

    if (authority[0] != '\0' && authority[strlen(authority) - 1] == '/')
        issuer->azure_authority[strlen(authority) - 1] = '\0';
    if (is_v2)
        set_unless_empty(issuer->issuer, sizeof issuer->issuer, "%.*s/%s/v2.0", room, authority, directory);
    else
        set_unless_empty(issuer->issuer, sizeof issuer->issuer, AZURE_V1 "%s/", directory);
    if (issuer->is_template && strstr(issuer->issuer, TENANT_PLACE) == NULL)
        return refuse(load, node, "issuer", "with %s it needs " TENANT_PLACE " where the directory's id stands", tenant);
    set_unless_empty(issuer->jwks_url, sizeof issuer->jwks_url, "%.*s/%s/discovery%s/keys", room, authority, tenant, is_v2 ? "/v2.0" : "");
    set_unless_empty(issuer->authorization_server, sizeof issuer->authorization_server, "%.*s/%s/v2.0", room, authority, tenant);
    if (!is_given(load, FIELD_scope_prefix))
        set_unless_empty(issuer->scope_prefix, sizeof issuer->scope_prefix, "api://%.*s/", ISSUER_VALUE_MAX - 8, issuer->client_id);
    if (!is_given(load, FIELD_audiences)) {
        add_default_audience(issuer, "");
        add_default_audience(issuer, "api://");
    }
    return ERR_OK;
}

static enum err complete_own(struct load *load, const yaml_node_t *node)
{
    struct issuer *issuer = load->issuer;
    const int length = (int)strlen(issuer->issuer);
    const int cut = length > 0 && issuer->issuer[length - 1] == '/' ? length - 1 : length;

    if (length == 0)
        return refuse(load, node, "issuer", "it is required: what `iss` of the tokens is, letter by letter");
    if (issuer->algorithms == 0 && issuer->opaque == OPAQUE_REFUSE)
        return refuse(load, node, "algorithms", "without algorithms and with opaque: refuse no token can be accepted");
    if (issuer->jwks_url[0] != '\0' && issuer->discovery_url[0] != '\0')
        return refuse(load, node, "discovery_url", "jwks_url says where the keys are; keep one of the two");
    if (issuer->algorithms != 0 && issuer->preset == ISSUER_BETTER_AUTH && issuer->discovery_url[0] == '\0')
        set_unless_empty(issuer->jwks_url, sizeof issuer->jwks_url, "%.*s/jwks", cut > 500 ? 500 : cut, issuer->issuer);
    if (issuer->algorithms != 0 && issuer->jwks_url[0] == '\0')
        set_unless_empty(issuer->discovery_url, sizeof issuer->discovery_url, "%.*s/.well-known/openid-configuration",
                         cut > 470 ? 470 : cut, issuer->issuer);
    if (!issuer->derive_audiences && issuer->audience_count == 0)
        return refuse(load, node, "audiences", "list what `aud` may be, or let derive_audiences be true");
    if (issuer->derive_audiences && load->options->public_url[0] == '\0' && issuer->audience_count == 0)
        return refuse(load, node, "audiences", "set public_url (MCPGW_PUBLIC_URL), from which they are derived, or list what `aud` may be");
    return ERR_OK;
}

/* An access token of GitHub or Google names no audience, so any application's token would open this gateway. */
static enum err complete_broker(struct load *load, const yaml_node_t *node)
{
    struct issuer *issuer = load->issuer;
    const bool is_github = issuer->preset == ISSUER_GITHUB;

    if (issuer->client_id[0] == '\0' || (is_github && !is_given(load, FIELD_client_secret) && !is_given(load, FIELD_client_secret_file)))
        return refuse(load, node, "client_id", "%s tokens are opaque and name no resource, so one made for any other application would be "
                      "accepted: give client_id%s of an application that serves this gateway alone, whose tokens %s can tell, or let "
                      "Better-Auth sign users in and issue the tokens", is_github ? "GitHub's" : "Google's",
                      is_github ? " and client_secret" : "", is_github ? "GitHub" : "Google");
    if (strspn(issuer->client_id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") != strlen(issuer->client_id))
        return refuse(load, node, "client_id", "write letters, digits, dots, _ and - only: it stands in a URL");
    if (issuer->grants == 0 && issuer->rule_count == 0)
        return refuse(load, node, "grants", "its scopes are none of ours: say what its tokens may do, for example grants: [read, proxy]");
    if (is_github)
        set_unless_empty(issuer->introspection_url, sizeof issuer->introspection_url, "https://api.github.com/applications/%s/token",
                         issuer->client_id);
    else
        set_unless_empty(issuer->introspection_url, sizeof issuer->introspection_url, "https://oauth2.googleapis.com/tokeninfo");
    if (!is_given(load, FIELD_user_claim) && is_github)
        snprintf(issuer->user_claim, sizeof issuer->user_claim, "user.id");
    return ERR_OK;
}

static enum err check_introspection(struct load *load, const yaml_node_t *node)
{
    struct issuer *issuer = load->issuer;
    const bool is_asked = issuer->opaque == OPAQUE_INTROSPECT;

    if (is_given(load, FIELD_client_secret) && is_given(load, FIELD_client_secret_file))
        return refuse(load, node, "client_secret_file", "client_secret stands there too; keep one of the two");
    if (issuer->opaque == OPAQUE_DATABASE && issuer->preset != ISSUER_BETTER_AUTH)
        return refuse(load, node, "opaque", "database reads Better-Auth's table: it goes with preset better-auth; write introspect");
    if (is_asked && (issuer->introspection_url[0] == '\0' || issuer->client_id[0] == '\0'))
        return refuse(load, node, issuer->introspection_url[0] == '\0' ? "introspection_url" : "client_id",
                      "opaque: introspect asks this endpoint as this client; write both (RFC 7662 2)");
    if (is_asked)
        return ERR_OK;
    if (issuer->introspection_url[0] != '\0')
        return refuse(load, node, "introspection_url", "it is only asked with opaque: introspect; add that or remove this");
    if (issuer->opaque_prefix[0] != '\0' && issuer->opaque == OPAQUE_REFUSE)
        return refuse(load, node, "opaque_prefix", "opaque tokens are refused; set opaque or remove this");
    if (!issuer_is_entra(issuer) && (issuer->client_id[0] != '\0' || is_given(load, FIELD_client_secret) || is_given(load, FIELD_client_secret_file)))
        return refuse(load, node, "client_id", "only opaque: introspect uses it; add that, remove this, or list it under clients or audiences");
    return ERR_OK;
}

/* What Better-Auth stores as accountId of these providers (1.7.5: oid of Entra, sub of Google, the number of GitHub's user). */
static bool names_accounts(const struct issuer *issuer)
{
    const char *claim = issuer_is_entra(issuer) ? "oid" : issuer->preset == ISSUER_GITHUB ? "user.id" : "sub";

    return !issuer->is_template && !issuer->local_users && strcmp(issuer->user_claim, claim) == 0;
}

static enum err complete_account(struct load *load, const yaml_node_t *node)
{
    struct issuer *issuer = load->issuer;

    if (!is_given(load, FIELD_account_provider) && !names_accounts(issuer))
        issuer->account_provider[0] = '\0';
    if (issuer->account_provider[0] == '\0')
        return ERR_OK;
    if (issuer->is_template)
        return refuse(load, node, "account_provider", "Better-Auth keeps an oid without its directory, so with several it names nobody for "
                      "sure: write one entry for each directory, with its id as azure_tenant");
    if (issuer->local_users)
        return refuse(load, node, "account_provider", "with local_users the claim is the user's id already; remove one of the two");
    if (strcmp(issuer->account_provider, "credential") == 0)
        return refuse(load, node, "account_provider", "credential is Better-Auth's password login, which no issuer vouches for; write the "
                      "id of the social provider");
    return ERR_OK;
}

/* Scopes, scope_prefix and the user's prefix as the context shows them. */
static enum err complete(struct load *load, const yaml_node_t *node)
{
    struct issuer *issuer = load->issuer;
    enum err err;

    if (issuer_is_entra(issuer))
        err = complete_entra(load, node);
    else if (issuer->preset == ISSUER_GITHUB || issuer->preset == ISSUER_GOOGLE)
        err = complete_broker(load, node);
    else
        err = complete_own(load, node);
    if (err == ERR_OK)
        err = check_introspection(load, node);
    if (err == ERR_OK)
        err = complete_account(load, node);
    if (err != ERR_OK)
        return err;
    set_unless_empty(issuer->authorization_server, sizeof issuer->authorization_server, "%s", issuer->issuer);
    if (!is_given(load, FIELD_user_prefix) && !issuer->local_users)
        set_unless_empty(issuer->user_prefix, sizeof issuer->user_prefix, "%s", issuer->name);
    if (issuer->local_users && issuer->user_prefix[0] != '\0')
        return refuse(load, node, "user_prefix", "with local_users the claim is the user's id as it stands; remove one of the two");
    if (!issuer->local_users && issuer->user_prefix[0] == '\0')
        return refuse(load, node, "user_prefix", "without it this issuer could name the users of others; write one, or set local_users");
    if (issuer->types.count == 1 && strcmp(issuer->types.texts[0], "any") == 0)
        issuer->types.count = 0;
    else if (issuer->types.count == 0)
        return refuse(load, node, "typ", "write at+jwt, JWT or any");
    const bool has_rules = is_given(load, FIELD_tenants);

    if (issuer->tenant[0] != '\0' && (has_rules || is_given(load, FIELD_tenant_claim)))
        return refuse(load, node, "tenant", "it is every token's tenant; remove tenant_claim and tenants, or this");
    if (has_rules && is_given(load, FIELD_tenant_claim))
        return refuse(load, node, "tenants", "tenant_claim names the tenant; keep one of the two");
    if (issuer->tenant[0] != '\0' || has_rules)
        issuer->tenant_claim[0] = '\0';
    return ERR_OK;
}

/* ---- the list ---------------------------------------------------------------------------------------- */

static const struct field *field_named(const char *name)
{
    for (size_t i = 0; i < FIELDS; i++)
        if (strcmp(fields[i].name, name) == 0)
            return &fields[i];
    return NULL;
}

static enum err find_given(struct load *load, const yaml_node_t *node)
{
    load->given = 0;
    for (const yaml_node_pair_t *pair = node->data.mapping.pairs.start; pair < node->data.mapping.pairs.top; pair++) {
        const yaml_node_t *key = node_at(load, pair->key);
        const struct field *field = text_of(key) != NULL ? field_named(text_of(key)) : NULL;

        if (field == NULL)
            return refuse(load, key, text_of(key) != NULL && is_printable(key) ? text_of(key) : "(name)",
                          "no such field; docs/oauth.md lists them");
        const uint64_t bit = UINT64_C(1) << (field - fields);

        if ((load->given & bit) != 0)
            return refuse(load, key, field->name, "it stood before; keep one of the two lines");
        load->given |= bit;
    }
    return ERR_OK;
}

static const yaml_node_t *value_of(const struct load *load, const yaml_node_t *mapping, const char *name)
{
    for (const yaml_node_pair_t *pair = mapping->data.mapping.pairs.start; pair < mapping->data.mapping.pairs.top; pair++) {
        const char *key = text_of(node_at(load, pair->key));

        if (key != NULL && strcmp(key, name) == 0)
            return node_at(load, pair->value);
    }
    return NULL;
}

/* In the order of the table: name and preset come first. */
static enum err read_fields(struct load *load, const yaml_node_t *node)
{
    for (size_t i = 0; i < FIELDS; i++) {
        const yaml_node_t *value = value_of(load, node, fields[i].name);

        if (value == NULL)
            continue;
        if ((fields[i].presets & 1u << load->issuer->preset) == 0)
            return refuse(load, value, fields[i].name, "it has no meaning with preset %s; remove it", issuer_preset_text(load->issuer->preset));
        enum err err = fields[i].read(load, &fields[i], value);
        if (err != ERR_OK)
            return err;
        if (i == FIELD_preset)
            issuer_set_defaults(load->issuer, load->issuer->preset);
    }
    return ERR_OK;
}

static enum err read_issuer(struct load *load, const yaml_node_t *node)
{
    if (node->type != YAML_MAPPING_NODE)
        return refuse(load, node, "", "each entry is a mapping: - name: ... and the other fields below it");
    enum err err = find_given(load, node);

    if (err != ERR_OK)
        return err;
    if (!is_given(load, FIELD_name) || !is_given(load, FIELD_preset))
        return refuse(load, node, is_given(load, FIELD_name) ? "preset" : "name", "it is required");
    err = read_fields(load, node);
    return err != ERR_OK ? err : complete(load, node);
}

static enum err check_apart(const struct load *load, const struct issuers *issuers, const yaml_node_t *node)
{
    for (size_t i = 0; i + 1 < issuers->count; i++) {
        const struct issuer *other = &issuers->list[i];

        if (strcmp(other->name, load->issuer->name) == 0)
            return refuse(load, node, "name", "another entry has it; names are unique");
        if (other->opaque == OPAQUE_INTROSPECT && load->issuer->opaque == OPAQUE_INTROSPECT
            && strcmp(other->opaque_prefix, load->issuer->opaque_prefix) == 0)
            return refuse(load, node, "opaque_prefix", "%s has the same, so its tokens would be shown to this server and this one's to "
                          "that: write how this issuer's tokens begin", other->name);
        if (strcmp(other->issuer, load->issuer->issuer) == 0)
            return refuse(load, node, "issuer", "%s has the same; one entry judges an issuer's tokens", other->name);
    }
    return ERR_OK;
}

static enum err read_list_of_issuers(struct load *load, struct issuers *issuers, const yaml_node_t *list)
{
    const yaml_node_t *item;

    if (list->type != YAML_SEQUENCE_NODE)
        return refuse(load, list, "", "write a list: one - name: ... per issuer; [] for none");
    for (size_t i = 0; (item = item_at(load, list, i)) != NULL; i++) {
        if (issuers->count == ISSUERS_MAX)
            return refuse(load, item, "", "write at most %u issuers", ISSUERS_MAX);
        load->issuer = &issuers->list[issuers->count++];
        enum err err = read_issuer(load, item);

        if (err == ERR_OK)
            err = check_apart(load, issuers, item);
        if (err != ERR_OK)
            return err;
    }
    load->issuer = NULL;
    return ERR_OK;
}

static enum err read_document(struct load *load, struct issuers *issuers)
{
    const yaml_node_t *root = yaml_document_get_root_node(load->document);
    const yaml_node_t *list = NULL;

    if (root == NULL || root->type != YAML_MAPPING_NODE)
        return ERR_OK;    /* the reader of settings says what is wrong */
    for (const yaml_node_pair_t *pair = root->data.mapping.pairs.start; pair < root->data.mapping.pairs.top; pair++) {
        const yaml_node_t *key = node_at(load, pair->key);

        if (text_of(key) == NULL || strcmp(text_of(key), ISSUERS_KEY) != 0)
            continue;
        if (list != NULL)
            return refuse(load, key, "", "it stood before; keep one of the two lists");
        list = node_at(load, pair->value);
    }
    return list == NULL ? ERR_OK : read_list_of_issuers(load, issuers, list);
}

static enum err read_file(struct load *load, struct issuers *issuers)
{
    OWNED(file_close) FILE *in = fopen(load->options->file, "re");
    yaml_parser_t parser;

    if (in == NULL)
        return refuse(load, NULL, "", "cannot be read: %s; correct --config or MCPGW_CONFIG", strerror(errno));
    if (!yaml_parser_initialize(&parser))
        return ERR_NO_MEMORY;
    yaml_parser_set_input_file(&parser, in);
    enum err err = ERR_OK;

    if (!yaml_parser_load(&parser, load->document)) {
        err = refuse(load, NULL, "", "line %zu is not YAML: %s", parser.problem_mark.line + 1,
                     parser.problem != NULL ? parser.problem : "unreadable");
    } else {
        err = read_document(load, issuers);
        yaml_document_delete(load->document);
    }
    yaml_parser_delete(&parser);
    return err;
}

/* ---- Entra from the environment alone ---------------------------------------------------------------- */

static bool has_entra(const struct issuers *issuers)
{
    for (size_t i = 0; i < issuers->count; i++)
        if (issuer_is_entra(&issuers->list[i]))
            return true;
    return false;
}

static enum err add_entra(struct load *load, struct issuers *issuers, enum issuer_preset preset, const char *name)
{
    if (issuers->count == ISSUERS_MAX)
        return refuse(load, NULL, "", "with MCPGW_AZURE_* there are more than %u issuers", ISSUERS_MAX);
    struct issuer *issuer = load->issuer = &issuers->list[issuers->count++];

    snprintf(issuer->name, sizeof issuer->name, "%s", name);
    issuer_set_defaults(issuer, preset);
    snprintf(issuer->user_prefix, sizeof issuer->user_prefix, "entra");    /* the same person, whatever the token's version */
    if (load->options->with_secrets && load->options->azure_client_secret != NULL)
        issuer->client_secret = *load->options->azure_client_secret;
    issuer->advertise = preset == ISSUER_ENTRA_V2;
    load->given = 0;
    return complete(load, NULL);
}

static enum err add_environment(struct load *load, struct issuers *issuers)
{
    const struct issuers_options *options = load->options;

    if ((options->azure_tenant_id[0] == '\0' && options->azure_client_id[0] == '\0') || has_entra(issuers))
        return ERR_OK;
    if (options->azure_tenant_id[0] == '\0' || options->azure_client_id[0] == '\0') {
        snprintf(load->reterr, load->reterr_size, "environment MCPGW_AZURE_%s: set it too, or unset the other; Entra needs both",
                 options->azure_tenant_id[0] == '\0' ? "TENANT_ID" : "CLIENT_ID");
        return ERR_MALFORMED;
    }
    enum err err = add_entra(load, issuers, ISSUER_ENTRA_V2, "entra");

    return err != ERR_OK ? err : add_entra(load, issuers, ISSUER_ENTRA_V1, "entra-v1");
}

enum err issuers_load(const struct issuers_options *given, struct issuers **ret_issuers, char *reterr, size_t reterr_size)
{
    const struct issuers_options filled = {
        .file = given->file, .with_secrets = given->with_secrets, .azure_client_secret = given->azure_client_secret,
        .public_url = given->public_url != NULL ? given->public_url : "",
        .azure_tenant_id = given->azure_tenant_id != NULL ? given->azure_tenant_id : "",
        .azure_client_id = given->azure_client_id != NULL ? given->azure_client_id : "",
    }, *options = &filled;
    OWNED(issuers_destroy) struct issuers *issuers = calloc(1, sizeof *issuers + ISSUERS_MAX * sizeof issuers->list[0]);
    yaml_document_t document;
    struct load load = { .options = options, .document = &document, .reterr = reterr, .reterr_size = reterr_size };
    enum err err = ERR_OK;

    if (issuers == NULL)
        return ERR_NO_MEMORY;
    snprintf(issuers->public_url, sizeof issuers->public_url, "%s", options->public_url);
    for (size_t length = strlen(issuers->public_url); length > 0 && issuers->public_url[length - 1] == '/'; length--)
        issuers->public_url[length - 1] = '\0';
    if (options->file != NULL && options->file[0] != '\0')
        err = read_file(&load, issuers);
    if (err == ERR_OK)
        err = add_environment(&load, issuers);
    if (err != ERR_OK)
        return err;
    *ret_issuers = issuers;
    issuers = NULL;
    return ERR_OK;
}

void issuers_document(FILE *out)
{
    fputs("| field | meaning |\n|---|---|\n", out);
    for (size_t i = 0; i < FIELDS; i++)
        fprintf(out, "| `%s` | %s |\n", fields[i].name, fields[i].meaning);
}
