/* gate.h - from a request to a verdict: finds the credential, fills the call, makes it, answers refusals. */
#ifndef EDGE_GATE_H
#define EDGE_GATE_H

#include "services/edge/exchange.h"

/*
 * The thread's call, zeroed and filled: verdict request, and an event "request" of this method, path and address; steps
 * are VERDICT, CHARGE and RECORD.  NULL: the request carries no usable credential and is answered.
 */
struct call *gate_prepare(struct exchange *exchange, uint64_t needed_scopes, bool for_nginx);
/*
 * As above, for a registered server (NULL: none): its second factor is needed too; where it authenticates for itself, a
 * key beside a token that is made for it decides; where it only observes (or observe_paths names the path) a request
 * without a credential gets a call that is recorded and asks nobody.  is_unknown: a server is named that is not registered, or nobody
 * can tell; nothing is observed then, because what lets through names an upstream.
 */
struct call *gate_prepare_for(struct exchange *exchange, uint64_t needed_scopes, bool for_nginx, const struct server_entry *server,
                              bool is_unknown);
/* Makes the call.  false: it was refused, and that is answered.
 * ERR_TOOL_WANTED in call->err, which only who said TOOL_LATER can get, is left to the caller: nothing is answered yet. */
bool gate_pass(struct exchange *exchange, struct call *call, bool for_nginx);
/*
 * Makes the call and answers it: by `answer` when it was let through, else with the refusal.  The exchange is over for the
 * caller; `answer` may run on the dispatcher's thread: it uses the workspace, but nothing of the request's own texts.
 */
void gate_answer(struct exchange *exchange, struct call *call, bool for_nginx, exchange_answer_fn *answer);
/* Copies at most size - 1 bytes of printable ASCII; cut with "..." when longer, other bytes become '?'. */
void gate_copy_text(char *into, size_t size, const char *text);

#endif
