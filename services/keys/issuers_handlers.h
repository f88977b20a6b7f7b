/* issuers_handlers.h - operations about token issuers: what is known of each, and why a token is taken or refused. */
#ifndef KEYS_ISSUERS_HANDLERS_H
#define KEYS_ISSUERS_HANDLERS_H

#include "services/keys/keys_calls.h"

/* As begin_fn. */
enum err begin_issuer_list(struct pending *p, const json_t *body, const struct view *query, struct problem *problem);
enum err begin_token_explain(struct pending *p, const json_t *body, const struct view *query, struct problem *problem);

#endif
