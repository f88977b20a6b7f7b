#include "services/authz/authz_introspect.h"

#include <stdio.h>
#include <string.h>

#include "common/log.h"
#include "common/metrics.h"

/* Shorter than an edge waits for a verdict. */
#define DEADLINE_MS 1500u
#define TEXT_MAX    (INTROSPECT_TOKEN_MAX * 3 + 64)

/* RFC 3986 2.3: all but the unreserved characters.  NULL: no room. */
static char *append_escaped(char *at, const char *end, const char *text, size_t size)
{
    static const char digits[] = "0123456789ABCDEF";

    for (size_t i = 0; i < size; i++) {
        unsigned char c = (unsigned char)text[i];
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || strchr("-._~", c) != NULL;

        if (end - at < 4 || c == '\0')
            return NULL;
        if (plain) {
            *at++ = (char)c;
        } else {
            *at++ = '%';
            *at++ = digits[c >> 4];
            *at++ = digits[c & 15];
        }
    }
    *at = '\0';
    return at;
}

static bool is_json_safe(const char *token, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (token[i] <= ' ' || token[i] > '~' || token[i] == '"' || token[i] == '\\')
            return false;
    return true;
}

static void answer(struct introspection *introspection, enum err err, const struct fetch_answer *answer)
{
    metric_add(err == ERR_UNAVAILABLE ? METRIC_introspection_failures : METRIC_introspection_answers, 1);
    introspection->fn(introspection->owner, err, answer->body, answer->size);
}

/* GitHub says 404 and Google 400 of a token they do not know; RFC 7662 2.2 says 200 with active false. */
static bool says_unknown(const struct issuer *issuer, int status)
{
    return (issuer->preset == ISSUER_GITHUB && (status == 404 || status == 422)) || (issuer->preset == ISSUER_GOOGLE && status == 400);
}

static void on_answer(void *owner, const struct fetch_answer *fetched)
{
    struct introspection *introspection = owner;
    const struct issuer *issuer = introspection->issuer;

    if (fetched->err == ERR_OK && fetched->status == 200) {
        answer(introspection, ERR_OK, fetched);
        return;
    }
    if (fetched->err == ERR_OK && says_unknown(issuer, fetched->status)) {
        answer(introspection, ERR_NOT_FOUND, fetched);
        return;
    }
    log_warn("introspection_failed", log_text("issuer", issuer->name), log_text("url", issuer->introspection_url),
             log_number("status", (uint64_t)fetched->status), log_text("why", fetched->reason));
    answer(introspection, ERR_UNAVAILABLE, fetched);
}

static enum err start(struct fetcher *fetcher, struct introspection *introspection, struct fetch_request *request)
{
    request->deadline_ms = DEADLINE_MS;
    return fetch_start(fetcher, request, on_answer, introspection, &introspection->fetch);
}

static enum err ask_google(struct fetcher *fetcher, struct introspection *introspection, const char *token, size_t size)
{
    char url[FETCH_URL_MAX];
    int length = snprintf(url, sizeof url, "%s?access_token=", introspection->issuer->introspection_url);
    struct fetch_request request = { .url = url };

    if (length < 0 || (size_t)length >= sizeof url || append_escaped(url + length, url + sizeof url, token, size) == NULL)
        return ERR_NOT_FOUND;
    return start(fetcher, introspection, &request);
}

static enum err ask_github(struct fetcher *fetcher, struct introspection *introspection, const char *token, size_t size)
{
    const struct issuer *issuer = introspection->issuer;
    char body[INTROSPECT_TOKEN_MAX + 32];
    struct fetch_request request = {
        .url = issuer->introspection_url, .accept = "application/vnd.github+json", .form = body,
        .form_type = "application/json", .user = issuer->client_id, .password = &issuer->client_secret,
    };

    if (!is_json_safe(token, size))
        return ERR_NOT_FOUND;
    request.form_size = (size_t)snprintf(body, sizeof body, "{\"access_token\":\"%.*s\"}", (int)size, token);
    return start(fetcher, introspection, &request);
}

static enum err ask_rfc7662(struct fetcher *fetcher, struct introspection *introspection, const char *token, size_t size)
{
    static const char head[] = "token_type_hint=access_token&token=";
    const struct issuer *issuer = introspection->issuer;
    char body[TEXT_MAX];
    char *end;
    struct fetch_request request = {
        .url = issuer->introspection_url, .form = body,
        .user = issuer->client_id[0] != '\0' ? issuer->client_id : NULL, .password = &issuer->client_secret,
    };

    memcpy(body, head, sizeof head);
    end = append_escaped(body + sizeof head - 1, body + sizeof body, token, size);
    if (end == NULL)
        return ERR_NOT_FOUND;
    request.form_size = (size_t)(end - body);
    return start(fetcher, introspection, &request);
}

enum err introspect_start(struct fetcher *fetcher, struct introspection *introspection, const char *token, size_t size)
{
    if (size > INTROSPECT_TOKEN_MAX)
        return ERR_NOT_FOUND;
    if (introspection->issuer->preset == ISSUER_GOOGLE)
        return ask_google(fetcher, introspection, token, size);
    if (introspection->issuer->preset == ISSUER_GITHUB)
        return ask_github(fetcher, introspection, token, size);
    return ask_rfc7662(fetcher, introspection, token, size);
}
