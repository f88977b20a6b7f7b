/* fetch.c - places in flight, each with an easy handle and a buffer; one multi handle drives them from the loop. */
#include "common/fetch.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#include <curl/curl.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/x509_vfy.h>

#include "common/cleanup.h"
#include "common/destination.h"

#define IDLE_CONNECTIONS 16L
#define MAX_AGE_MAX      31536000u    /* one year; what is longer means the same */

struct fetch {
    struct fetcher *fetcher;
    struct fetch **place;        /* NULL: free */
    fetch_fn *fn;
    void *owner;
    int deadline_timer;
    bool is_plain;               /* http: */
    CURL *easy;
    struct curl_slist *fields;
    char *body;                  /* body_max + 1 bytes */
    size_t size;
    const char *fault;           /* why we ended it ourselves; NULL: we did not */
    enum err fault_err;
    char curl_says[CURL_ERROR_SIZE];
};

struct fetcher {
    struct loop *loop;
    CURLM *multi;
    int timer;                   /* libcurl's one; 0: none */
    struct fetcher_options options;
    unsigned in_flight;
    char *spare;                 /* changes places with the body of the fetch whose answer is being given */
    struct fetch *fetches;       /* flight_max */
};

DEFINE_DESTROY(url_destroy, CURLU, curl_url_cleanup)
DEFINE_DESTROY(url_part_destroy, char, curl_free)
DEFINE_DESTROY(store_destroy, X509_STORE, X509_STORE_free)

/* ---- what may be asked ---- */

static bool is_loopback_name(const char *host)
{
    unsigned char v4[4], v6[16];
    static const unsigned char one[16] = { [15] = 1 };
    char bare[64];
    size_t size = strlen(host);

    if (strcasecmp(host, "localhost") == 0)
        return true;
    if (inet_pton(AF_INET, host, v4) == 1)
        return v4[0] == 127;
    if (size < 2 || size - 2 >= sizeof bare || host[0] != '[')
        return false;
    memcpy(bare, host + 1, size - 2);
    bare[size - 2] = 0;
    return inet_pton(AF_INET6, bare, v6) == 1 && memcmp(v6, one, sizeof one) == 0;
}

static const char *parts_fault(CURLU *url, bool allow_plain_http)
{
    OWNED(url_part_destroy) char *scheme = NULL;
    OWNED(url_part_destroy) char *host = NULL;
    OWNED(url_part_destroy) char *user = NULL;
    OWNED(url_part_destroy) char *fragment = NULL;

    if (curl_url_get(url, CURLUPART_SCHEME, &scheme, 0) != CURLUE_OK
        || curl_url_get(url, CURLUPART_HOST, &host, 0) != CURLUE_OK || host[0] == 0)
        return "it is no URL with a host";
    if (curl_url_get(url, CURLUPART_USER, &user, 0) == CURLUE_OK)
        return "it holds a user name; credentials are settings of their own";
    if (curl_url_get(url, CURLUPART_FRAGMENT, &fragment, 0) == CURLUE_OK)
        return "it holds a fragment (#...)";
    if (strcmp(scheme, "https") == 0)
        return NULL;
    if (strcmp(scheme, "http") != 0)
        return "it must begin with https://";
    if (!allow_plain_http)
        return "it must begin with https:// (http:// is for loopback addresses, when fetch_plain_http allows it)";
    return is_loopback_name(host) ? NULL : "http:// is for loopback addresses only; use https://";
}

const char *fetch_url_fault(const char *url, bool allow_plain_http)
{
    OWNED(url_destroy) CURLU *parsed = NULL;

    if (strlen(url) > FETCH_URL_MAX)
        return "it is longer than 1024 bytes";
    for (const char *at = url; *at != 0; at++)
        if (*at <= ' ' || *at == 0x7f)
            return "it holds spaces, control characters or letters beyond ASCII";
    if (strstr(url, "://") == NULL || strstr(url, ":///") != NULL)    /* libcurl would take the path for the host */
        return "it must begin with https://";
    parsed = curl_url();
    if (parsed == NULL || curl_url_set(parsed, CURLUPART_URL, url, CURLU_NON_SUPPORT_SCHEME) != CURLUE_OK)
        return "it is no URL with a host";
    return parts_fault(parsed, allow_plain_http);
}

/* What a name resolves to is known here only. */
static curl_socket_t on_open(void *owner, curlsocktype purpose, struct curl_sockaddr *address)
{
    struct fetch *fetch = owner;
    const struct fetcher_options *options = &fetch->fetcher->options;
    const bool is_loopback = destination_is_loopback(&address->addr);

    (void)purpose;
    fetch->fault_err = ERR_DENIED;
    if (destination_is_refused(&address->addr))
        fetch->fault = "the host's address is link-local, multicast or a metadata service";
    else if (fetch->is_plain && !is_loopback)
        fetch->fault = "http:// is for loopback addresses only, and the host has another";
    else if (destination_is_private(&address->addr) && !options->allow_private && !fetch->is_plain)
        fetch->fault = "the host's address is private, and fetch_private does not allow it";
    else
        fetch->fault_err = ERR_OK;
    if (fetch->fault_err != ERR_OK)
        return CURL_SOCKET_BAD;
    fetch->fault = NULL;    /* another of its addresses may have been refused before */
    return socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
}

/* ---- one fetch ---- */

static void release(struct fetch *fetch)
{
    curl_multi_remove_handle(fetch->fetcher->multi, fetch->easy);
    loop_cancel(fetch->fetcher->loop, fetch->deadline_timer);
    curl_slist_free_all(fetch->fields);
    fetch->fields = NULL;
    *fetch->place = NULL;
    fetch->place = NULL;
    fetch->fetcher->in_flight--;
    curl_easy_reset(fetch->easy);    /* forgets the credentials; keeps the connections, which are the multi handle's */
}

void fetch_cancel(struct fetch **fetch)
{
    if (*fetch != NULL)
        release(*fetch);
}

static void copy_printable(char *to, size_t size, const char *from)
{
    size_t at = 0;

    for (; from[at] != 0 && at + 1 < size; at++)
        to[at] = isprint((unsigned char)from[at]) ? from[at] : '?';
    to[at] = 0;
}

static const char *field(CURL *easy, const char *name, size_t index)
{
    struct curl_header *header = NULL;

    return curl_easy_header(easy, name, index, CURLH_HEADER, -1, &header) == CURLHE_OK ? header->value : NULL;
}

/* RFC 9110 delta-seconds; false: it is none. */
static bool read_seconds(const char *text, uint64_t *ret_seconds)
{
    uint64_t seconds = 0;

    if (!isdigit((unsigned char)*text))
        return false;
    for (; isdigit((unsigned char)*text); text++)
        seconds = seconds > MAX_AGE_MAX ? seconds : seconds * 10 + (uint64_t)(*text - '0');
    *ret_seconds = seconds < MAX_AGE_MAX ? seconds : MAX_AGE_MAX;
    return true;
}

static void read_directive(const char *directive, struct fetch_answer *answer)
{
    uint64_t seconds;

    while (*directive == ' ' || *directive == '\t')
        directive++;
    if (strncasecmp(directive, "no-store", 8) == 0 || strncasecmp(directive, "no-cache", 8) == 0) {
        answer->has_max_age = true;
        answer->max_age_s = 0;
    }
    if (strncasecmp(directive, "max-age=", 8) != 0 || !read_seconds(directive + 8 + (directive[8] == '"'), &seconds))
        return;
    if (!answer->has_max_age || seconds < answer->max_age_s)    /* of two that differ, the stricter */
        answer->max_age_s = seconds;
    answer->has_max_age = true;
}

static void read_freshness(CURL *easy, struct fetch_answer *answer)
{
    const char *value;
    uint64_t age_s;

    for (size_t i = 0; (value = field(easy, "Cache-Control", i)) != NULL; i++) {
        for (const char *at = value; at != NULL; at = strchr(at, ',')) {
            at += *at == ',';
            read_directive(at, answer);
        }
    }
    value = field(easy, "Age", 0);
    if (value != NULL && read_seconds(value, &age_s))
        answer->max_age_s -= age_s < answer->max_age_s ? age_s : answer->max_age_s;
}

static enum err outcome(const struct fetch *fetch, CURLcode code, struct fetch_answer *answer)
{
    const char *text = fetch->fault;
    enum err err = fetch->fault_err;

    if (code == CURLE_OK && (answer->status < 300 || answer->status > 399 || answer->status == 304))
        return ERR_OK;
    if (code == CURLE_OK) {
        text = "the server answers with a redirection, which is not followed";
        err = ERR_UPSTREAM;
    } else if (text == NULL) {
        text = fetch->curl_says[0] != 0 ? fetch->curl_says : curl_easy_strerror(code);
        err = code == CURLE_OPERATION_TIMEDOUT ? ERR_UPSTREAM_TIMEOUT : ERR_UPSTREAM;
    }
    copy_printable(answer->reason, sizeof answer->reason, text);
    return err;
}

static void finish(struct fetch *fetch, CURLcode code)
{
    struct fetcher *fetcher = fetch->fetcher;
    struct fetch_answer answer = { 0 };
    fetch_fn *fn = fetch->fn;
    void *owner = fetch->owner;
    char *body = fetch->body;
    const char *type = field(fetch->easy, "Content-Type", 0);
    long status = 0;

    curl_easy_getinfo(fetch->easy, CURLINFO_RESPONSE_CODE, &status);
    answer.status = (int)status;
    read_freshness(fetch->easy, &answer);
    copy_printable(answer.type, sizeof answer.type, type != NULL ? type : "");
    answer.err = outcome(fetch, code, &answer);
    body[fetch->size] = 0;
    answer.body = body;
    answer.size = fetch->size;
    fetch->body = fetcher->spare;
    fetcher->spare = body;
    release(fetch);
    fn(owner, &answer);
}

static void on_deadline(void *owner)
{
    struct fetch *fetch = owner;

    fetch->fault = "the answer was not there in time";
    fetch->fault_err = ERR_UPSTREAM_TIMEOUT;
    finish(fetch, CURLE_OPERATION_TIMEDOUT);
}

static size_t on_body(char *bytes, size_t one, size_t size, void *owner)
{
    struct fetch *fetch = owner;

    (void)one;
    if (size > fetch->fetcher->options.body_max - fetch->size) {
        fetch->fault = "the answer is larger than its limit";
        fetch->fault_err = ERR_TOO_LARGE;
        return 0;
    }
    memcpy(fetch->body + fetch->size, bytes, size);
    fetch->size += size;
    return size;
}

/* ---- libcurl and the loop ---- */

static void give_answers(struct fetcher *fetcher)
{
    CURLMsg *message;
    int left;

    while ((message = curl_multi_info_read(fetcher->multi, &left)) != NULL) {
        struct fetch *fetch = NULL;

        if (message->msg == CURLMSG_DONE
            && curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **)&fetch) == CURLE_OK)
            finish(fetch, message->data.result);
    }
}

static void on_timer(void *owner)
{
    struct fetcher *fetcher = owner;
    int running;

    fetcher->timer = 0;
    curl_multi_socket_action(fetcher->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    give_answers(fetcher);
}

/* No timer left is no reason to stop: every fetch has its own for the deadline. */
static int on_timer_wanted(CURLM *multi, long delay_ms, void *owner)
{
    struct fetcher *fetcher = owner;

    (void)multi;
    loop_cancel(fetcher->loop, fetcher->timer);
    fetcher->timer = delay_ms < 0 ? 0 : loop_after(fetcher->loop, (uint64_t)delay_ms, on_timer, fetcher);
    return 0;
}

static void on_ready(void *owner, int fd, int events)
{
    struct fetcher *fetcher = owner;
    int flags = ((events & LOOP_READ) != 0 ? CURL_CSELECT_IN : 0) | ((events & LOOP_WRITE) != 0 ? CURL_CSELECT_OUT : 0);
    int running;

    curl_multi_socket_action(fetcher->multi, fd, flags, &running);
    give_answers(fetcher);
}

/* A descriptor that cannot be watched ends by its deadline; an error here would end all fetches for ever. */
static int on_watch_wanted(CURL *easy, curl_socket_t fd, int what, void *owner, void *of_socket)
{
    struct fetcher *fetcher = owner;
    int events = ((what & CURL_POLL_IN) != 0 ? LOOP_READ : 0) | ((what & CURL_POLL_OUT) != 0 ? LOOP_WRITE : 0);

    (void)easy;
    (void)of_socket;
    if (what == CURL_POLL_REMOVE || loop_watch_fd(fetcher->loop, fd, events, on_ready, fetcher) != ERR_OK)
        loop_forget_fd(fetcher->loop, fd);
    return 0;
}

/* ---- asking ---- */

static bool add_field(struct fetch *fetch, const char *name, const char *value)
{
    char line[160];
    struct curl_slist *longer;

    if ((size_t)snprintf(line, sizeof line, "%s: %s", name, value) >= sizeof line)
        return false;
    longer = curl_slist_append(fetch->fields, line);
    if (longer == NULL)
        return false;
    fetch->fields = longer;
    return true;
}

/* RFC 6749 2.3.1: both are form-encoded before they are joined. */
static bool set_credentials(CURL *easy, const struct fetch_request *request)
{
    OWNED(url_part_destroy) char *user = curl_easy_escape(easy, request->user, 0);
    char *password = curl_easy_escape(easy, secret_text(request->password), (int)request->password->size);
    const bool is_set = user != NULL && password != NULL && curl_easy_setopt(easy, CURLOPT_USERNAME, user) == CURLE_OK
                        && curl_easy_setopt(easy, CURLOPT_PASSWORD, password) == CURLE_OK;

    curl_easy_setopt(easy, CURLOPT_HTTPAUTH, (long)CURLAUTH_BASIC);
    if (password != NULL)
        OPENSSL_cleanse(password, strlen(password));
    curl_free(password);
    return is_set;
}

static void set_limits(struct fetch *fetch)
{
    const struct fetcher_options *options = &fetch->fetcher->options;
    CURL *easy = fetch->easy;

    curl_easy_setopt(easy, CURLOPT_PRIVATE, fetch);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, fetch);
    curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, on_open);
    curl_easy_setopt(easy, CURLOPT_OPENSOCKETDATA, fetch);
    curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, fetch->curl_says);
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, options->allow_plain_http ? "http,https" : "https");
    curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(easy, CURLOPT_PROXY, "");
    curl_easy_setopt(easy, CURLOPT_NETRC, (long)CURL_NETRC_IGNORED);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_QUICK_EXIT, 1L);    /* else ending a fetch waits for its resolver thread */
    curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, 1L);
    curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, 2L);
    curl_easy_setopt(easy, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    if (options->ca_file != NULL)
        curl_easy_setopt(easy, CURLOPT_CAINFO, options->ca_file);    /* CAPATH keeps the system's */
}

static bool prepare(struct fetch *fetch, const struct fetch_request *request)
{
    CURL *easy = fetch->easy;

    set_limits(fetch);
    if (curl_easy_setopt(easy, CURLOPT_URL, request->url) != CURLE_OK
        || !add_field(fetch, "Accept", request->accept != NULL ? request->accept : "application/json")
        || !add_field(fetch, "User-Agent", "mcpgw") || (request->user != NULL && !set_credentials(easy, request)))
        return false;
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, fetch->fields);
    if (request->form == NULL)
        return true;
    return add_field(fetch, "Content-Type", request->form_type != NULL ? request->form_type : "application/x-www-form-urlencoded") && add_field(fetch, "Expect", "")
           && curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE, (long)request->form_size) == CURLE_OK
           && curl_easy_setopt(easy, CURLOPT_COPYPOSTFIELDS, request->form) == CURLE_OK;
}

static struct fetch *free_fetch(struct fetcher *fetcher)
{
    for (unsigned i = 0; i < fetcher->options.flight_max; i++)
        if (fetcher->fetches[i].place == NULL)
            return &fetcher->fetches[i];
    return NULL;
}

enum err fetch_start(struct fetcher *fetcher, const struct fetch_request *request, fetch_fn *fn, void *owner,
                     struct fetch **ret_fetch)
{
    struct fetch *fetch;

    if (fetch_url_fault(request->url, fetcher->options.allow_plain_http) != NULL)
        return ERR_UNPROCESSABLE;
    fetch = free_fetch(fetcher);
    if (fetch == NULL)
        return ERR_OVERLOADED;
    fetch->fn = fn;
    fetch->owner = owner;
    fetch->place = ret_fetch;
    fetch->size = 0;
    fetch->fault = NULL;
    fetch->fault_err = ERR_OK;
    fetch->curl_says[0] = 0;
    fetch->is_plain = strncasecmp(request->url, "http:", 5) == 0;
    fetch->deadline_timer = loop_after(fetcher->loop, request->deadline_ms, on_deadline, fetch);
    fetcher->in_flight++;
    *ret_fetch = fetch;
    if (fetch->deadline_timer == 0) {
        release(fetch);
        return ERR_OVERLOADED;
    }
    if (!prepare(fetch, request) || curl_multi_add_handle(fetcher->multi, fetch->easy) != CURLM_OK) {
        release(fetch);
        return ERR_NO_MEMORY;
    }
    return ERR_OK;
}

/* ---- all of them ---- */

static bool holds_certificates(const char *file)
{
    OWNED(store_destroy) X509_STORE *store = X509_STORE_new();
    const bool loads = store != NULL && X509_STORE_load_file(store, file) == 1;

    ERR_clear_error();
    return loads;
}

static bool make_fetches(struct fetcher *fetcher)
{
    fetcher->spare = malloc(fetcher->options.body_max + 1);
    fetcher->fetches = calloc(fetcher->options.flight_max, sizeof *fetcher->fetches);
    if (fetcher->spare == NULL || fetcher->fetches == NULL)
        return false;
    for (unsigned i = 0; i < fetcher->options.flight_max; i++) {
        struct fetch *fetch = &fetcher->fetches[i];

        fetch->fetcher = fetcher;
        fetch->easy = curl_easy_init();
        fetch->body = malloc(fetcher->options.body_max + 1);
        if (fetch->easy == NULL || fetch->body == NULL)
            return false;
    }
    return true;
}

enum err fetcher_new(struct loop *loop, const struct fetcher_options *options, struct fetcher **ret_fetcher)
{
    OWNED(fetcher_destroy) struct fetcher *fetcher = NULL;
    const bool has_ca = options->ca_file != NULL && options->ca_file[0] != 0;

    if (options->flight_max == 0 || options->flight_max > FETCH_FLIGHT_MAX)
        return ERR_BUG;
    if (has_ca && !holds_certificates(options->ca_file))
        return ERR_UNPROCESSABLE;
    fetcher = calloc(1, sizeof *fetcher);
    if (fetcher == NULL)
        return ERR_NO_MEMORY;
    fetcher->loop = loop;
    fetcher->options = *options;
    if (!has_ca)
        fetcher->options.ca_file = NULL;
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
        return ERR_NO_MEMORY;
    fetcher->multi = curl_multi_init();
    if (fetcher->multi == NULL || !make_fetches(fetcher))
        return ERR_NO_MEMORY;
    curl_multi_setopt(fetcher->multi, CURLMOPT_SOCKETFUNCTION, on_watch_wanted);
    curl_multi_setopt(fetcher->multi, CURLMOPT_SOCKETDATA, fetcher);
    curl_multi_setopt(fetcher->multi, CURLMOPT_TIMERFUNCTION, on_timer_wanted);
    curl_multi_setopt(fetcher->multi, CURLMOPT_TIMERDATA, fetcher);
    curl_multi_setopt(fetcher->multi, CURLMOPT_MAXCONNECTS, IDLE_CONNECTIONS);
    *ret_fetcher = fetcher;
    fetcher = NULL;
    return ERR_OK;
}

void fetcher_destroy(struct fetcher **fetcher)
{
    struct fetcher *old = *fetcher;

    if (old == NULL)
        return;
    for (unsigned i = 0; old->fetches != NULL && i < old->options.flight_max; i++) {
        struct fetch *fetch = &old->fetches[i];

        if (fetch->place != NULL)
            release(fetch);
        curl_easy_cleanup(fetch->easy);
        free(fetch->body);
    }
    if (old->multi != NULL) {
        curl_multi_cleanup(old->multi);    /* closes the idle connections, which are still watched */
        loop_cancel(old->loop, old->timer);
        curl_global_cleanup();
    }
    free(old->fetches);
    free(old->spare);
    free(old);
    *fetcher = NULL;
}

unsigned fetcher_in_flight(const struct fetcher *fetcher)
{
    return fetcher->in_flight;
}
