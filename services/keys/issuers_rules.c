/* issuers_rules.c - discovery documents and key sets, as foreign bytes. */
#include "services/keys/issuers_rules.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <jansson.h>

#include "common/cleanup.h"

#define FRESH_MIN_S 300u

static const char oidc_path[] = "/.well-known/openid-configuration";
static const char oauth_path[] = "/.well-known/oauth-authorization-server";

DEFINE_DESTROY(document_destroy, json_t, json_decref)

static void add_form(struct discovery_forms *forms, const char *base, size_t base_size, const char *well_known, const char *path)
{
    char *url = forms->urls[forms->count];

    snprintf(url, sizeof forms->urls[0], "%.*s%s%s", (int)base_size, base, well_known, path);
    for (size_t i = 0; i < forms->count; i++)
        if (strcmp(forms->urls[i], url) == 0)
            return;
    forms->count++;
}

void issuer_discovery_forms(const struct issuer *issuer, struct discovery_forms *ret_forms)
{
    const char *scheme_end = strstr(issuer->issuer, "://");
    size_t size = strlen(issuer->issuer), host_size;
    char path[ISSUER_URL_MAX + 1];

    ret_forms->count = 0;
    if (issuer->discovery_url[0] == '\0')
        return;
    snprintf(ret_forms->urls[ret_forms->count++], sizeof ret_forms->urls[0], "%s", issuer->discovery_url);
    while (size > 0 && issuer->issuer[size - 1] == '/')
        size--;
    if (scheme_end == NULL || strncmp(issuer->discovery_url, issuer->issuer, size) != 0
        || strcmp(issuer->discovery_url + size, oidc_path) != 0)
        return;
    host_size = (size_t)(scheme_end + 3 - issuer->issuer);
    host_size += strcspn(issuer->issuer + host_size, "/");
    snprintf(path, sizeof path, "%.*s", (int)(size - host_size), issuer->issuer + host_size);
    add_form(ret_forms, issuer->issuer, host_size, oauth_path, path);
    add_form(ret_forms, issuer->issuer, host_size, oidc_path, path);
}

bool issuer_asks_next_form(int status)
{
    return status >= 400 && status <= 499 && status != 429;
}

/* NULL: it is none, and reterr says so. */
static json_t *read_object(const struct fetch_answer *answer, const char *what, char *reterr, size_t reterr_size)
{
    json_error_t error;
    json_t *document;

    if (answer->status != 200) {
        snprintf(reterr, reterr_size, "the server answers %d instead of %s", answer->status, what);
        return NULL;
    }
    document = json_loadb(answer->body, answer->size, JSON_REJECT_DUPLICATES, &error);
    if (json_is_object(document))
        return document;
    json_decref(document);
    snprintf(reterr, reterr_size, "the answer (%s) is not %s: %s", answer->type[0] != '\0' ? answer->type : "of no type", what,
             document != NULL ? "it is no JSON object" : "it is not JSON, or a member stands twice");
    return NULL;
}

enum err issuer_read_discovery(const struct issuer *issuer, const struct fetch_answer *answer, bool allow_plain_http,
                               char ret_jwks_url[FETCH_URL_MAX + 1], char *reterr, size_t reterr_size)
{
    OWNED(document_destroy) json_t *document = read_object(answer, "a discovery document", reterr, reterr_size);
    const char *says, *url, *fault;

    if (document == NULL)
        return ERR_UPSTREAM;
    says = json_string_value(json_object_get(document, "issuer"));
    url = json_string_value(json_object_get(document, "jwks_uri"));
    if (says == NULL || strcmp(says, issuer->issuer) != 0) {
        snprintf(reterr, reterr_size, "the discovery document is of issuer %.100s, not of %.100s: correct the issuer in the settings"
                                      " if they are one", says != NULL ? says : "(none)", issuer->issuer);
        return ERR_UPSTREAM;
    }
    fault = url == NULL ? "it is missing" : fetch_url_fault(url, allow_plain_http);
    if (fault != NULL) {
        snprintf(reterr, reterr_size, "jwks_uri of the discovery document cannot be used: %s", fault);
        return ERR_UPSTREAM;
    }
    snprintf(ret_jwks_url, FETCH_URL_MAX + 1, "%s", url);
    return ERR_OK;
}

void issuer_set_wipe(struct issuer_set *set)
{
    free(set->text);
    memset(set, 0, sizeof *set);
}

static bool is_private(const json_t *key)
{
    static const char *const members[] = { "d", "p", "q", "dp", "dq", "qi", "oth", "k" };

    for (size_t i = 0; i < sizeof members / sizeof members[0]; i++)
        if (json_object_get(key, members[i]) != NULL)
            return true;
    return false;
}

/* Whole keys: without its private members one would become a public key, and everybody knows the other half. */
static void remove_private(json_t *document)
{
    json_t *keys = json_object_get(document, "keys");

    for (size_t i = json_array_size(keys); i > 0; i--)
        if (is_private(json_array_get(keys, i - 1)))
            json_array_remove(keys, i - 1);
}

static enum err describe(const struct jose_keys *keys, struct issuer_set *set, char *reterr, size_t reterr_size)
{
    set->count = jose_keys_count(keys);
    set->skipped = jose_keys_skipped(keys);
    snprintf(set->first_skipped, sizeof set->first_skipped, "%s", jose_keys_skip_reason(keys, 0));
    if (set->count > 0)
        return ERR_OK;
    snprintf(reterr, reterr_size, "no key of the set can be used%s%s", set->skipped > 0 ? ": " : "", set->first_skipped);
    return ERR_UPSTREAM;
}

enum err issuer_read_keys(const struct fetch_answer *answer, struct issuer_set *ret_set, char *reterr, size_t reterr_size)
{
    OWNED(document_destroy) json_t *document = read_object(answer, "a key set", reterr, reterr_size);
    OWNED(jose_keys_destroy) struct jose_keys *keys = NULL;
    struct issuer_set set = { 0 };
    enum err err;

    if (document == NULL)
        return ERR_UPSTREAM;
    err = jose_keys_parse(answer->body, answer->size, &keys, reterr, reterr_size);
    if (err != ERR_OK)
        return err == ERR_NO_MEMORY ? err : ERR_UPSTREAM;
    err = describe(keys, &set, reterr, reterr_size);
    if (err != ERR_OK)
        return err;
    remove_private(document);
    set.text = json_dumps(document, JSON_COMPACT | JSON_SORT_KEYS);
    if (set.text == NULL)
        return ERR_NO_MEMORY;
    if (strlen(set.text) > JOSE_SET_MAX) {
        issuer_set_wipe(&set);
        snprintf(reterr, reterr_size, "the key set is larger than %u bytes", JOSE_SET_MAX);
        return ERR_UPSTREAM;
    }
    *ret_set = set;
    return ERR_OK;
}

uint64_t issuer_fresh_s(const struct issuer *issuer, const struct fetch_answer *answer)
{
    uint64_t fresh_s = issuer->refresh_s;

    if (answer->has_max_age && answer->max_age_s < fresh_s)
        fresh_s = answer->max_age_s > FRESH_MIN_S ? answer->max_age_s : FRESH_MIN_S;
    return fresh_s < issuer->refresh_s ? fresh_s : issuer->refresh_s;
}
