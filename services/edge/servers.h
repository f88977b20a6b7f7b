/* servers.h - the registry of upstream servers as this edge knows it: an immutable table, replaced whole by the dispatcher. */
#ifndef EDGE_SERVERS_H
#define EDGE_SERVERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "common/message.h"

#define SERVERS_MAX 10000

struct servers;

enum err servers_new(struct servers **ret_servers) MUST_CHECK;
void servers_destroy(struct servers **servers);
/* Takes the array (malloc'd, sorted or not); readers see all of it or nothing of it. */
void servers_replace(struct servers *servers, struct server_entry *entries, size_t count, uint64_t sequence);
/* Copies the entry.  ERR_NOT_FOUND: no such slug, or disabled; ERR_UNAVAILABLE: no table was received yet. */
enum err servers_find(struct servers *servers, const char *slug, struct server_entry *ret_entry) MUST_CHECK;
size_t servers_count(struct servers *servers);
bool servers_is_loaded(const struct servers *servers);

#endif
