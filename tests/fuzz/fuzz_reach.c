/* A key's reach as bytes, and the JSON-RPC message that names a tool: both are read as they come. */
#include <assert.h>
#include <string.h>

#include "common/reach.h"
#include "services/edge/tool.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    char tool[TOOL_NAME_SIZE];

    if (reach_is_sound(bytes, size)) {
        (void)reach_holds_address(bytes, size, "192.0.2.1");
        (void)reach_holds_server(bytes, size, "example");
        (void)reach_holds_tool(bytes, size, "add");
    }
    if (tool_find(bytes, size, tool) == ERR_OK)
        assert(strlen(tool) < sizeof tool && (tool[0] == '\0' || reach_name_is_valid(tool, REACH_TOOL_MAX)));
    return 0;
}
