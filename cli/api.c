#include "cli/api.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <curl/curl.h>

#include "common/cleanup.h"
#include "common/encode.h"
#include "common/service.h"

#define CONNECT_MS 5000L
#define ANSWER_MS  30000L
#define PAGE_MAX   100u
#define PATH_MAX_SIZE 2048u

DEFINE_DESTROY(curl_destroy, CURL, curl_easy_cleanup)
DEFINE_DESTROY(headers_destroy, struct curl_slist, curl_slist_free_all)
DEFINE_DESTROY(json_destroy, json_t, json_decref)

struct answer {
    char *bytes;
    size_t size;
};

static void answer_wipe(struct answer *answer)
{
    if (answer->bytes != NULL)
        OPENSSL_cleanse(answer->bytes, answer->size);    /* it may hold a new key */
    free(answer->bytes);
}

static size_t take_bytes(char *bytes, size_t size, size_t count, void *owner)
{
    struct answer *answer = owner;
    size_t more = size * count;
    char *grown;

    if (answer->size + more > API_ANSWER_MAX)
        return 0;
    grown = realloc(answer->bytes, answer->size + more + 1);
    if (grown == NULL)
        return 0;
    answer->bytes = grown;
    memcpy(grown + answer->size, bytes, more);
    answer->size += more;
    grown[answer->size] = '\0';
    return more;
}

static const char *text_of(const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));

    return text != NULL ? text : "";
}

static const char *remedy_of(long status)
{
    if (status == 401)
        return "; check MCPGW_API_KEY";
    if (status == 403)
        return "; the key in MCPGW_API_KEY lacks the scope";
    return status == 429 || status == 503 ? "; try again shortly" : "";
}

static enum exit_code tell_refusal(long status, const char *bytes)
{
    OWNED(json_destroy) json_t *problem = bytes != NULL ? json_loads(bytes, 0, NULL) : NULL;
    const char *field = text_of(problem, "field"), *detail = text_of(problem, "detail");

    if (!json_is_object(problem) || *text_of(problem, "code") == '\0')
        complain("the gateway answered %ld%s", status, remedy_of(status));
    else if (*field != '\0' && strstr(detail, field) == NULL)
        complain("%s: %s (%s)%s", field, detail, text_of(problem, "code"), remedy_of(status));
    else
        complain("%s (%s)%s", *detail != '\0' ? detail : text_of(problem, "title"), text_of(problem, "code"),
                 remedy_of(status));
    return EXIT_REFUSED;
}

/* Names this run; each request has its number behind. */
static const char *run_name(void)
{
    static char name[24];
    uint8_t random[8];

    if (*name == '\0') {
        random_bytes(random, sizeof random);
        memcpy(name, "cli-", 4);
        hex_encode(random, sizeof random, name + 4);
    }
    return name;
}

bool api_is_own(const char *request_id)
{
    return strncmp(request_id, run_name(), strlen(run_name())) == 0;
}

/* curl keeps its own copies of headers until the list is freed; the key in it is wiped here. */
static struct curl_slist *make_headers(const struct cli *cli, bool has_body)
{
    static unsigned requests;
    char line[SECRET_SIZE_MAX + 16];
    struct curl_slist *headers, *more;

    snprintf(line, sizeof line, "x-api-key: %s", secret_text(&cli->api_key));
    headers = curl_slist_append(NULL, line);
    OPENSSL_cleanse(line, sizeof line);
    if (headers == NULL)
        return NULL;
    snprintf(line, sizeof line, "x-request-id: %s-%u", run_name(), ++requests);
    more = curl_slist_append(headers, line);
    if (more == NULL)
        return headers;
    more = curl_slist_append(headers, has_body ? "content-type: application/json" : "accept: application/json");
    return more != NULL ? more : headers;
}

static enum exit_code perform(CURL *curl, struct answer *answer, json_t **ret_answer)
{
    char why[CURL_ERROR_SIZE] = "";
    json_t *document = NULL;
    long status = 0;
    CURLcode code;
    char *url = NULL;

    curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, why);
    code = curl_easy_perform(curl);
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
    curl_easy_getinfo(curl, CURLINFO_EFFECTIVE_URL, &url);
    if (code != CURLE_OK) {
        complain("cannot reach the gateway: %s; is it running, and is MCPGW_URL right (%s)?",
                 *why != '\0' ? why : curl_easy_strerror(code), url != NULL ? url : "?");
        return EXIT_UNREACHABLE;
    }
    if (status < 200 || status >= 300)
        return tell_refusal(status, answer->bytes);
    if (answer->size > 0) {
        document = json_loadb(answer->bytes, answer->size, JSON_DISABLE_EOF_CHECK, NULL);
        if (document == NULL) {
            complain("what answers at %s is not the gateway: no JSON came back", url != NULL ? url : "?");
            return EXIT_REFUSED;
        }
    }
    *ret_answer = document;
    return EXIT_DONE;
}

enum exit_code api_call(struct cli *cli, const char *method, const char *path, const json_t *body, json_t **ret_answer)
{
    OWNED(curl_destroy) CURL *curl = curl_easy_init();
    OWNED(headers_destroy) struct curl_slist *headers = make_headers(cli, body != NULL);
    OWNED(answer_wipe) struct answer answer = { 0 };
    char url[sizeof cli->url + PATH_MAX_SIZE];
    char *text = body != NULL ? json_dumps(body, JSON_COMPACT) : NULL;
    enum exit_code result;

    *ret_answer = NULL;
    if (curl == NULL || headers == NULL || (body != NULL && text == NULL)) {
        free(text);
        complain("out of memory");
        return EXIT_REFUSED;
    }
    snprintf(url, sizeof url, "%s%s", cli->url, path);
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, method);
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(curl, CURLOPT_USERAGENT, "mcpgw/" MCPGW_VERSION);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, CONNECT_MS);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, ANSWER_MS);
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take_bytes);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, &answer);
    if (text != NULL)
        curl_easy_setopt(curl, CURLOPT_POSTFIELDS, text);
    result = perform(curl, &answer, ret_answer);
    if (text != NULL)
        OPENSSL_cleanse(text, strlen(text));
    free(text);
    for (struct curl_slist *line = headers; line != NULL; line = line->next)
        OPENSSL_cleanse(line->data, strlen(line->data));
    return result;
}

static bool append_encoded(char *path, size_t size, const char *text)
{
    static const char hex[] = "0123456789ABCDEF";
    size_t at = strlen(path);

    for (; *text != '\0'; text++) {
        unsigned char letter = (unsigned char)*text;
        bool is_plain = (letter >= '0' && letter <= '9') || (letter >= 'a' && letter <= 'z')
            || (letter >= 'A' && letter <= 'Z')
            || strchr("-._~:", letter) != NULL;

        if (at + 4 > size)
            return false;
        if (is_plain) {
            path[at++] = (char)letter;
        } else {
            path[at++] = '%';
            path[at++] = hex[letter >> 4];
            path[at++] = hex[letter & 15];
        }
    }
    path[at] = '\0';
    return true;
}

bool api_query(char *path, size_t size, const char *name, const char *value)
{
    size_t at = strlen(path);
    int more;

    if (value == NULL)
        return true;
    more = snprintf(path + at, size - at, "%c%s=", strchr(path, '?') == NULL ? '?' : '&', name);
    return more > 0 && (size_t)more < size - at && append_encoded(path, size, value);
}

bool api_path(char *path, size_t size, const char *collection, const char *id, const char *more)
{
    int written = snprintf(path, size, "/api/v1/%s/", collection);
    size_t at;

    if (written < 0 || (size_t)written >= size || !append_encoded(path, size, id))
        return false;
    at = strlen(path);
    written = snprintf(path + at, size - at, "%s", more);
    return written >= 0 && (size_t)written < size - at;
}

enum exit_code api_each(struct cli *cli, const char *path, uint64_t limit, bool (*each)(void *owner, json_t *item),
                        void *owner)
{
    char cursor[256] = "", page[PATH_MAX_SIZE], number[24];
    uint64_t shown = 0;

    while (shown < limit) {
        OWNED(json_destroy) json_t *answer = NULL;
        enum exit_code result;
        size_t index;
        json_t *item;

        snprintf(number, sizeof number, "%" PRIu64, limit - shown < PAGE_MAX ? limit - shown : PAGE_MAX);
        snprintf(page, sizeof page, "%s", path);
        if (!api_query(page, sizeof page, "limit", number)
            || !api_query(page, sizeof page, "cursor", *cursor != '\0' ? cursor : NULL)) {
            complain("the arguments are too long");
            return EXIT_MISUSE;
        }
        result = api_call(cli, "GET", page, NULL, &answer);
        if (result != EXIT_DONE)
            return result;
        json_array_foreach(json_object_get(answer, "items"), index, item) {
            if (shown++ == limit || !each(owner, item))
                return EXIT_DONE;
        }
        if (*text_of(answer, "next") == '\0')
            break;
        snprintf(cursor, sizeof cursor, "%s", text_of(answer, "next"));
    }
    return EXIT_DONE;
}
