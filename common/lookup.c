/* lookup.c - a request to glibc's resolver threads, looked at by a timer; owns the request until it is answered. */
#include "common/lookup.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define POLL_MS 5u

/* Apart from struct lookup, because it may outlive it. */
struct request {
    struct gaicb ask;
    char host[LOOKUP_HOST];
};

struct lookup {
    struct loop *loop;
    struct lookup **place;
    lookup_fn *fn;
    void *owner;
    int timer;
    struct request *request;
};

static const struct addrinfo hints = { .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM };

bool lookup_is_needed(const char *host)
{
    unsigned char address[sizeof(struct in6_addr)];

    return host[0] != 0 && strchr(host, '/') == NULL && host[0] != '@' && inet_pton(AF_INET, host, address) != 1
        && inet_pton(AF_INET6, host, address) != 1;
}

static void free_request(struct request *request)
{
    if (request->ask.ar_result != NULL)
        freeaddrinfo(request->ask.ar_result);
    free(request);
}

void lookup_cancel(struct lookup **lookup)
{
    if (*lookup == NULL)
        return;
    loop_cancel((*lookup)->loop, (*lookup)->timer);
    if (gai_cancel(&(*lookup)->request->ask) != EAI_NOTCANCELED)
        free_request((*lookup)->request);
    free(*lookup);
    *lookup = NULL;
}

static void keep(const struct addrinfo *list, struct lookup_addresses *found)
{
    for (; list != NULL && found->count < LOOKUP_MAX; list = list->ai_next)
        if (getnameinfo(list->ai_addr, list->ai_addrlen, found->texts[found->count], sizeof found->texts[0], NULL, 0,
                        NI_NUMERICHOST) == 0)
            found->count++;
}

static void on_poll(void *owner)
{
    struct lookup *lookup = owner;
    struct lookup_addresses found = { 0 };
    lookup_fn *fn = lookup->fn;
    void *fn_owner = lookup->owner;
    int state = gai_error(&lookup->request->ask);

    if (state == EAI_INPROGRESS)
        return;
    if (state == 0)
        keep(lookup->request->ask.ar_result, &found);
    lookup_cancel(lookup->place);
    fn(fn_owner, &found);
}

static struct request *ask(const char *host)
{
    struct request *request = calloc(1, sizeof *request);
    struct gaicb *list[1];

    if (request == NULL)
        return NULL;
    snprintf(request->host, sizeof request->host, "%s", host);
    request->ask.ar_name = request->host;
    request->ask.ar_request = &hints;
    list[0] = &request->ask;
    if (getaddrinfo_a(GAI_NOWAIT, list, 1, NULL) == 0)
        return request;
    free(request);
    return NULL;
}

enum err lookup_start(struct loop *loop, const char *host, lookup_fn *fn, void *owner, struct lookup **ret_lookup)
{
    struct lookup *lookup;

    if (strlen(host) >= LOOKUP_HOST)
        return ERR_TOO_LARGE;
    lookup = calloc(1, sizeof *lookup);
    if (lookup == NULL)
        return ERR_NO_MEMORY;
    lookup->loop = loop;
    lookup->place = ret_lookup;
    lookup->fn = fn;
    lookup->owner = owner;
    lookup->request = ask(host);
    if (lookup->request == NULL) {
        free(lookup);
        return ERR_UNAVAILABLE;
    }
    *ret_lookup = lookup;
    lookup->timer = loop_every(loop, POLL_MS, on_poll, lookup);
    if (lookup->timer != 0)
        return ERR_OK;
    lookup_cancel(ret_lookup);
    return ERR_OVERLOADED;
}
