/* tool.h - which tool a JSON-RPC request to an MCP server calls.  Only asked for keys that reach some tools only. */
#ifndef EDGE_TOOL_H
#define EDGE_TOOL_H

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "common/message.h"

#define TOOL_NAME_SIZE (sizeof ((struct verdict_request *)0)->tool)

/*
 * The name of the tool; "" when the message calls none.  What parsers might read differently is ERR_MALFORMED: text that
 * is not JSON, a list of messages, a member twice or unknown, `name` in another spelling, a name that no list can hold.
 */
enum err tool_find(const uint8_t *body, size_t size, char ret_tool[TOOL_NAME_SIZE]) MUST_CHECK;

#endif
