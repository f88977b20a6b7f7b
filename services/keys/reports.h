/* reports.h - what the trail tells over the management API: events, usage, counters. */
#ifndef KEYS_REPORTS_H
#define KEYS_REPORTS_H

#include "services/keys/keys_calls.h"
#include "services/keys/keys_store.h"

extern const struct postgres_statement reports_statements[];

/* query->user_id and tenant_id restrict what the caller may see; the caller has set them. */
enum err store_list_events(struct store *store, const struct page_query *query, postgres_fn *fn, void *owner) MUST_CHECK;
enum err store_list_usage(struct store *store, const struct page_query *query, postgres_fn *fn, void *owner) MUST_CHECK;
enum err store_read_stats(struct store *store, postgres_fn *fn, void *owner) MUST_CHECK;

begin_fn begin_audit_list, begin_usage, begin_stats;

#endif
