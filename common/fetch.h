/*
 * fetch.h - HTTP(S) GET and POST to servers of other people, on the loop: libcurl's multi interface.
 *
 * Meant for key sets, discovery documents and introspection.  Certificates and host names are checked, no redirect is
 * followed, no proxy of the environment is used, every answer has a size and a deadline.
 */
#ifndef COMMON_FETCH_H
#define COMMON_FETCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "common/loop.h"
#include "common/secret.h"

#define FETCH_URL_MAX    1024u    /* bytes of a URL */
#define FETCH_REASON     200u
#define FETCH_FLIGHT_MAX 256u

struct fetcher;
struct fetch;

struct fetcher_options {
    const char *ca_file;        /* PEM, trusted beside the system's authorities; NULL or "": none */
    bool allow_private;         /* addresses of private networks and of this host */
    bool allow_plain_http;      /* http:// to loopback addresses, and to no others */
    unsigned flight_max;        /* fetches at a time, 1..FETCH_FLIGHT_MAX */
    size_t body_max;            /* bytes of an answer; each place in flight has a buffer of this size */
};

struct fetch_request {
    const char *url;
    const char *accept;             /* value of Accept; NULL: application/json */
    const char *form;               /* x-www-form-urlencoded, makes a POST; NULL: GET.  May be gone after fetch_start */
    size_t form_size;
    const char *form_type;          /* what `form` is if it is something else; NULL: a form */
    const char *user;               /* HTTP Basic as RFC 6749 2.3.1 encodes it; NULL: none */
    const struct secret *password;
    uint64_t deadline_ms;           /* for all of it, names and handshakes included */
};

/* All of it lives until fetch_fn returns. */
struct fetch_answer {
    enum err err;                   /* OK: a whole answer of any status but a redirection */
    int status;                     /* 0: none came */
    const char *body;               /* NUL-terminated beyond size */
    size_t size;
    char type[96];                  /* Content-Type as sent, printable bytes only; "" if none */
    bool has_max_age;
    uint64_t max_age_s;             /* Cache-Control less Age (RFC 9111 4.2); no-store and no-cache are 0 */
    char reason[FETCH_REASON];      /* a sentence for people if err is not OK; printable bytes only */
};

typedef void fetch_fn(void *owner, const struct fetch_answer *answer);

/* ERR_UNPROCESSABLE: ca_file holds no certificate that can be read.  options->ca_file must outlive the fetcher. */
enum err fetcher_new(struct loop *loop, const struct fetcher_options *options, struct fetcher **ret_fetcher) MUST_CHECK;
/* Not from a fetch_fn.  Ends all fetches; their functions are not called. */
void fetcher_destroy(struct fetcher **fetcher);
unsigned fetcher_in_flight(const struct fetcher *fetcher);

/*
 * May this URL be asked?  NULL: yes; else a sentence why not (static).  https with a host, no user, no fragment, printable
 * bytes only; http to a loopback address or "localhost" if allow_plain_http.  Addresses that names resolve to are
 * checked later, when they are connected to.
 */
const char *fetch_url_fault(const char *url, bool allow_plain_http);

/*
 * Calls fn once from the loop, never from within fetch_start; *ret_fetch is NULL before fn is called and must live as long.
 * fn may start other fetches: its own place is free again.
 * ERR_UNPROCESSABLE: fetch_url_fault() says why; ERR_OVERLOADED: flight_max or the loop's timers are used up.
 */
enum err fetch_start(struct fetcher *fetcher, const struct fetch_request *request, fetch_fn *fn, void *owner,
                     struct fetch **ret_fetch) MUST_CHECK;
void fetch_cancel(struct fetch **fetch);

#endif
