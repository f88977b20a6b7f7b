/* query.c - application/x-www-form-urlencoded, as much of it as our own parameters need. */
#include "services/edge/query.h"

#include <stdbool.h>
#include <string.h>

#include "common/encode.h"

static bool decode_byte(const char **at, char *ret_byte)
{
    uint8_t byte;
    size_t size;

    if (**at != '%') {
        *ret_byte = **at == '+' ? ' ' : **at;
        *at += 1;
    } else {
        if ((*at)[1] == '\0' || hex_decode(*at + 1, 2, &byte, 1, &size) != ERR_OK)
            return false;
        *ret_byte = (char)byte;
        *at += 3;
    }
    return *ret_byte >= 0x20 && *ret_byte < 0x7f;
}

static enum err decode_value(const char *text, size_t length, char *value, size_t size)
{
    const char *end = text + length;
    size_t used = 0;

    while (text < end) {
        if (used + 1 >= size || (*text == '%' && end - text < 3) || !decode_byte(&text, &value[used]))
            return ERR_MALFORMED;
        used++;
    }
    value[used] = '\0';
    return ERR_OK;
}

enum err query_find(const char *query, const char *name, char *value, size_t size)
{
    size_t name_length = strlen(name);
    bool found = false;

    while (*query != '\0') {
        size_t length = strcspn(query, "&");

        if (length >= name_length && memcmp(query, name, name_length) == 0
            && (length == name_length || query[name_length] == '=')) {
            size_t skip = length == name_length ? name_length : name_length + 1;

            if (found || decode_value(query + skip, length - skip, value, size) != ERR_OK)
                return ERR_MALFORMED;
            found = true;
        }
        query += length;
        if (*query == '&')
            query++;
    }
    return found ? ERR_OK : ERR_NOT_FOUND;
}
