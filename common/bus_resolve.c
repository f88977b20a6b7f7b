/* bus_resolve.c - directory globs and asynchronous DNS (glibc's getaddrinfo_a); owns no socket. */
#include "common/bus_resolve.h"

#include <glob.h>
#include <netdb.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "common/cleanup.h"

#define DNS_INTERVAL_US   2000000u
#define DNS_STOP_S        5
#define DNS_ADDRESSES_MAX 16

struct entry {
    bool is_tcp;
    char path[BUS_BASE_SIZE];           /* ipc: base path, perhaps with a * */
    char host[BUS_BASE_SIZE];
    char port[6];
    bool is_asked;
    uint64_t next_us;
    struct gaicb *query;                /* outlives the resolver if glibc will not give it back */
    size_t found_count;
    char found[DNS_ADDRESSES_MAX][BUS_BASE_SIZE];
};

struct bus_resolver {
    char probe[16];
    size_t count;
    struct entry entries[BUS_ENTRIES_MAX];
};

static const struct addrinfo dns_hints = { .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM };

static struct bus_resolver *take_resolver(struct bus_resolver **from)
{
    struct bus_resolver *taken = *from;

    *from = NULL;
    return taken;
}

/* host:port, [v6]:port; the five ports from there must exist. */
static bool read_tcp(struct entry *entry, const char *text)
{
    const char *colon = strrchr(text, ':');
    size_t length = colon != NULL ? (size_t)(colon - text) : 0;
    unsigned long port;
    char *end;

    if (length == 0)
        return false;
    port = strtoul(colon + 1, &end, 10);
    if (*end != 0 || port == 0 || port > 65531 || strspn(colon + 1, "0123456789") != strlen(colon + 1))
        return false;
    if (text[0] == '[' && text[length - 1] == ']') {
        text++;
        length -= 2;
    }
    snprintf(entry->host, sizeof entry->host, "%.*s", (int)length, text);
    snprintf(entry->port, sizeof entry->port, "%lu", port);
    entry->is_tcp = true;
    return true;
}

static enum err read_entry(struct entry *entry, const struct curve *curve, const struct common_config *config,
                           const char *text, char *reterr, size_t reterr_size)
{
    enum err err = curve_allows_endpoint(curve, config, text, reterr, reterr_size);

    if (err != ERR_OK)
        return err;
    if (strncmp(text, "ipc://", 6) == 0 && text[6] != 0) {
        snprintf(entry->path, sizeof entry->path, "%s", text + 6);
        return ERR_OK;
    }
    if (strncmp(text, "tcp://", 6) == 0 && read_tcp(entry, text + 6))
        return ERR_OK;
    snprintf(reterr, reterr_size, "edges: \"%s\" is neither ipc://PATH nor tcp://HOST:PORT", text);
    return ERR_MALFORMED;
}

static enum err read_entries(struct bus_resolver *resolver, const struct curve *curve,
                             const struct common_config *config, char *reterr, size_t reterr_size)
{
    const char *text = config->edges;

    while (*text != 0) {
        size_t length = strcspn(text, ",");
        size_t blanks = strspn(text, " ");
        char entry[BUS_BASE_SIZE];
        enum err err;

        if (resolver->count == BUS_ENTRIES_MAX || length >= sizeof entry - 16) {
            snprintf(reterr, reterr_size, "edges: at most %d entries of %zu bytes", BUS_ENTRIES_MAX, sizeof entry - 17);
            return ERR_MALFORMED;
        }
        if (blanks < length) {
            snprintf(entry, sizeof entry, "%.*s", (int)(length - blanks), text + blanks);
            err = read_entry(&resolver->entries[resolver->count++], curve, config, entry, reterr, reterr_size);
            if (err != ERR_OK)
                return err;
        }
        text += length + (text[length] == ',' ? 1 : 0);
    }
    return ERR_OK;
}

enum err bus_resolver_new(const struct curve *curve, const struct common_config *config, const char *probe,
                          struct bus_resolver **ret_resolver, char *reterr, size_t reterr_size)
{
    OWNED(bus_resolver_destroy) struct bus_resolver *resolver = calloc(1, sizeof *resolver);
    enum err err;

    if (resolver == NULL)
        return ERR_NO_MEMORY;
    snprintf(resolver->probe, sizeof resolver->probe, "%s", probe);
    err = read_entries(resolver, curve, config, reterr, reterr_size);
    if (err != ERR_OK)
        return err;
    *ret_resolver = take_resolver(&resolver);
    return ERR_OK;
}

static void free_query(struct gaicb *query)
{
    if (query->ar_result != NULL)
        freeaddrinfo(query->ar_result);
    free(query);
}

/* A query that glibc is working on cannot be taken back: wait a moment, then leave its memory to it. */
static void end_query(struct entry *entry)
{
    const struct gaicb *const list[] = { entry->query };
    const struct timespec limit = { .tv_sec = DNS_STOP_S };

    if (entry->is_asked && gai_cancel(entry->query) == EAI_NOTCANCELED)
        gai_suspend(list, 1, &limit);
    if (gai_error(entry->query) != EAI_INPROGRESS)
        free_query(entry->query);
}

void bus_resolver_destroy(struct bus_resolver **resolver)
{
    if (*resolver == NULL)
        return;
    for (size_t i = 0; i < (*resolver)->count; i++)
        if ((*resolver)->entries[i].query != NULL)
            end_query(&(*resolver)->entries[i]);
    free(*resolver);
    *resolver = NULL;
}

static void step_ipc(const struct bus_resolver *resolver, const struct entry *entry, bus_found_fn *fn, void *owner)
{
    char pattern[BUS_BASE_SIZE + 16], base[BUS_BASE_SIZE];
    size_t suffix = strlen(resolver->probe);
    glob_t found;

    snprintf(pattern, sizeof pattern, "%s%s", entry->path, resolver->probe);
    if (glob(pattern, GLOB_NOSORT, NULL, &found) != 0)
        return;
    for (size_t i = 0; i < found.gl_pathc; i++) {
        size_t length = strlen(found.gl_pathv[i]) - suffix;

        if (length + 7 <= sizeof base) {
            snprintf(base, sizeof base, "ipc://%.*s", (int)length, found.gl_pathv[i]);
            fn(owner, base);
        }
    }
    globfree(&found);
}

static void ask(struct entry *entry)
{
    if (entry->query == NULL)
        entry->query = calloc(1, sizeof *entry->query);
    if (entry->query == NULL)
        return;
    entry->query->ar_name = entry->host;
    entry->query->ar_service = entry->port;
    entry->query->ar_request = &dns_hints;
    entry->is_asked = getaddrinfo_a(GAI_NOWAIT, &entry->query, 1, NULL) == 0;
}

static void keep_addresses(struct entry *entry, const struct addrinfo *list)
{
    entry->found_count = 0;
    for (; list != NULL && entry->found_count < DNS_ADDRESSES_MAX; list = list->ai_next) {
        char host[64];
        char *base = entry->found[entry->found_count];

        if (getnameinfo(list->ai_addr, list->ai_addrlen, host, sizeof host, NULL, 0, NI_NUMERICHOST) != 0)
            continue;
        snprintf(base, BUS_BASE_SIZE, strchr(host, ':') != NULL ? "tcp://[%s]:%s" : "tcp://%s:%s", host, entry->port);
        entry->found_count++;
    }
}

static void take_answer(struct entry *entry, uint64_t now_us)
{
    int state = gai_error(entry->query);

    if (state == EAI_INPROGRESS)
        return;
    entry->is_asked = false;
    entry->next_us = now_us + DNS_INTERVAL_US;
    if (state == 0)
        keep_addresses(entry, entry->query->ar_result);
    if (entry->query->ar_result != NULL)
        freeaddrinfo(entry->query->ar_result);
    entry->query->ar_result = NULL;
}

void bus_resolver_step(struct bus_resolver *resolver, uint64_t now_us, bus_found_fn *fn, void *owner)
{
    for (size_t i = 0; i < resolver->count; i++) {
        struct entry *entry = &resolver->entries[i];

        if (!entry->is_tcp) {
            step_ipc(resolver, entry, fn, owner);
            continue;
        }
        if (entry->is_asked)
            take_answer(entry, now_us);
        else if (now_us >= entry->next_us)
            ask(entry);
        for (size_t j = 0; j < entry->found_count; j++)
            fn(owner, entry->found[j]);
    }
}
