/* details.h - the JSON object of an event's details, member by member. */
#ifndef EDGE_DETAILS_H
#define EDGE_DETAILS_H

#include "services/edge/dispatch.h"

/* `member` is "name":value as JSON.  One that does not fit is left out. */
void details_add(struct audit_event *event, const char *member);
/* What the verdict alone knows: a tier that is not the method's own; and of a credential that nobody knows, what finds it again
 * for who has it (common/trail.h).  lookup_key NULL or not set: nothing of the latter. */
void details_describe(struct call *call, const struct secret *lookup_key);

#endif
