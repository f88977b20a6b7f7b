/* http_path.c - RFC 3986 section 6.2.2 with refusal of all that is ambiguous. */
#include "services/edge/http_path.h"

#include <ctype.h>
#include <string.h>

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

static bool is_unreserved(int c)
{
    return isalnum(c) || c == '-' || c == '.' || c == '_' || c == '~';
}

/* One character of a segment from *raw to ret; the number of bytes written, 0 when it is refused. */
static size_t take_character(const char **raw, char ret[3])
{
    static const char digits[] = "0123456789ABCDEF";
    const char *at = *raw;
    int high, low, c;

    if (*at != '%') {
        *raw = at + 1;
        ret[0] = *at;
        /* pchar of RFC 3986 3.3 without ';' */
        return is_unreserved((unsigned char)*at) || strchr("!$&'()*+,=:@", *at) != NULL ? 1 : 0;
    }
    high = hex_value(at[1]);
    low = high < 0 ? -1 : hex_value(at[2]);
    if (low < 0)
        return 0;
    *raw = at + 3;
    c = high * 16 + low;
    if (c < 0x20 || c == 0x7f || c == '/' || c == '\\' || c == '.' || c == ';' || c == '%')
        return 0;
    if (c == 0xc0 || c == 0xc1 || c > 0xf4)    /* never in UTF-8: an overlong dot or slash */
        return 0;
    if (c < 0x80 && is_unreserved(c)) {
        ret[0] = (char)c;
        return 1;
    }
    ret[0] = '%';
    ret[1] = digits[c >> 4];
    ret[2] = digits[c & 15];
    return 3;
}

/* Drops a finished "." or ".." segment that starts at `start`; the new size, or SIZE_MAX above the root. */
static size_t resolve_dots(const char *path, size_t start, size_t size)
{
    size_t length = size - start;

    if (length == 1 && path[start] == '.')
        return start;
    if (length != 2 || path[start] != '.' || path[start + 1] != '.')
        return size;
    if (start == 1)
        return (size_t)-1;
    start--;    /* the slash before the dots, then the segment before it */
    while (start > 0 && path[start - 1] != '/')
        start--;
    return start;
}

enum err http_path_normalise(const char *raw, char ret_path[HTTP_PATH_MAX + 1])
{
    size_t size = 1, start = 1;    /* start: of the segment being written */

    if (*raw != '/')
        return ERR_MALFORMED;
    ret_path[0] = '/';
    for (raw++; *raw != '\0';) {
        char bytes[3];
        size_t count;

        if (size + sizeof bytes > HTTP_PATH_MAX)
            return ERR_TOO_LARGE;
        if (*raw != '/') {
            count = take_character(&raw, bytes);
            if (count == 0)
                return ERR_MALFORMED;
            memcpy(ret_path + size, bytes, count);
            size += count;
            continue;
        }
        raw++;
        size = resolve_dots(ret_path, start, size);
        if (size == (size_t)-1)
            return ERR_MALFORMED;
        if (ret_path[size - 1] != '/')
            ret_path[size++] = '/';
        start = size;
    }
    size = resolve_dots(ret_path, start, size);
    if (size == (size_t)-1)
        return ERR_MALFORMED;
    ret_path[size] = '\0';
    return ERR_OK;
}

bool http_query_is_sound(const char *query)
{
    for (; *query != '\0'; query++) {
        unsigned char c = (unsigned char)*query;

        if (c <= 0x20 || c >= 0x7f || strchr("#\"<>\\^`", c) != NULL)
            return false;
    }
    return true;
}
