/* problem.h - problem documents (RFC 9457) and JSON-RPC errors for MCP clients.  Pure. */
#ifndef EDGE_PROBLEM_H
#define EDGE_PROBLEM_H

#include "common/error.h"
#include "services/edge/writer.h"

/* {"type":"about:blank","title","status","code","detail","requestId"}; detail NULL: the meaning of `err`. */
void problem_write(struct writer *writer, enum err err, int status, const char *detail, const char *request_id);
/* {"jsonrpc":"2.0","id":null,"error":{"code","message","data":<problem>}}; codes of MCP's free range -32000..-32019. */
void problem_write_rpc(struct writer *writer, enum err err, int status, const char *detail, const char *request_id);
/* One more member of the problem that was written last, into this writer. */
void problem_extend(struct writer *writer, bool is_rpc, const char *name, const char *value);
/* "Too Many Requests"; "Other" or "Error" for a status that has none here. */
const char *problem_phrase(int status);

#endif
