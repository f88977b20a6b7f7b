/*
 * reach.h - from where a key may be used and what it may reach: lists of networks, servers and tools.
 *
 * As people and Postgres have it: one text per list, a value a line.  As caches have it: a few packed bytes,
 *   u8 which lists limit (enum reach_list as bits) | u8 count, 17 bytes for each network | u8 count, u8 length and
 *   bytes for each server | the same for each tool.
 * A list that limits and is empty admits nothing.  Zero bytes: nothing is limited.
 */
#ifndef COMMON_REACH_H
#define COMMON_REACH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "common/network.h"

#define REACH_NETWORKS_MAX 32u
#define REACH_SERVERS_MAX  32u
#define REACH_TOOLS_MAX    64u
#define REACH_SERVER_MAX   64u      /* bytes of one name */
#define REACH_TOOL_MAX     128u
#define REACH_SERVER_BYTES 1000u    /* of all lines */
#define REACH_TOOL_BYTES   2000u
#define REACH_SIZE_MAX     3560u    /* of all, packed: 1 + 1 + 32 * 17 + 1 + 1001 + 1 + 2001 */

enum reach_list { REACH_ADDRESSES = 1, REACH_SERVERS = 2, REACH_TOOLS = 4 };

/* What an asker knows of the tool whose name it does not give.  Numbers travel in messages: append, never reorder. */
enum tool_use {
    TOOL_UNKNOWN,    /* and it cannot find out: a key for some tools is refused */
    TOOL_LATER,      /* it can look, if that matters: ERR_TOOL_WANTED asks it to */
    TOOL_NONE        /* this request calls none */
};

/* NULL: this list does not limit. */
struct reach_texts {
    const char *addresses, *servers, *tools;
};

/* A server's slug or a tool's name: printable ASCII of 1 to `limit` bytes, as messages carry it. */
bool reach_name_is_valid(const char *name, size_t limit);
/* ERR_MALFORMED: a line that is no network or no name.  ERR_TOO_LARGE: more lines, or more bytes, than the limits say. */
enum err reach_pack(const struct reach_texts *texts, uint8_t bytes[REACH_SIZE_MAX], size_t *ret_size) MUST_CHECK;
/* Foreign bytes: may the functions below read them? */
bool reach_is_sound(const uint8_t *bytes, size_t size);

/* Of sound bytes. */
bool reach_limits(const uint8_t *bytes, size_t size, enum reach_list list);
/* true where the list does not limit.  An address that cannot be read is in no network. */
bool reach_holds_address(const uint8_t *bytes, size_t size, const char *address);
bool reach_holds_server(const uint8_t *bytes, size_t size, const char *server);
bool reach_holds_tool(const uint8_t *bytes, size_t size, const char *tool);

#endif
