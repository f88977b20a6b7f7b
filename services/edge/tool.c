/*
 * tool.c - reads a JSON-RPC 2.0 message as strictly as the laxest upstream needs: Go's decoder takes names in any case,
 * others the first or the last of two equal ones.
 */
#include "services/edge/tool.h"

#include <string.h>
#include <strings.h>

#include <jansson.h>

#include "common/cleanup.h"

DEFINE_DESTROY(json_destroy, json_t, json_decref)

static bool has_only_known_members(json_t *message)
{
    static const char *const known[] = { "jsonrpc", "id", "method", "params", "result", "error" };
    const char *name;
    json_t *value;
    size_t count = 0;

    json_object_foreach(message, name, value) {
        for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
            count += strcmp(name, known[i]) == 0;
    }
    return count == json_object_size(message);
}

/* NULL: absent, or spelled in a second way. */
static const char *name_of(json_t *params)
{
    const char *name;
    json_t *value;

    json_object_foreach(params, name, value) {
        if (strcasecmp(name, "name") == 0 && strcmp(name, "name") != 0)
            return NULL;
    }
    return json_string_value(json_object_get(params, "name"));
}

enum err tool_find(const uint8_t *body, size_t size, char ret_tool[TOOL_NAME_SIZE])
{
    OWNED(json_destroy) json_t *message = json_loadb((const char *)body, size, JSON_REJECT_DUPLICATES, NULL);
    const json_t *method = json_object_get(message, "method");
    char tool[TOOL_NAME_SIZE] = "";
    const char *name;

    if (!json_is_object(message) || !has_only_known_members(message) || (method != NULL && !json_is_string(method)))
        return ERR_MALFORMED;
    if (method != NULL && strcmp(json_string_value(method), "tools/call") == 0) {
        name = name_of(json_object_get(message, "params"));
        if (name == NULL || name[0] == '\0' || !message_take_text(name, tool, sizeof tool - 1))
            return ERR_MALFORMED;
    }
    memcpy(ret_tool, tool, sizeof tool);
    return ERR_OK;
}
