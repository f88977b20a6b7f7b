/* writer.c - numbers and JSON strings. */
#include "services/edge/writer.h"

void writer_u64(struct writer *writer, uint64_t number)
{
    char digits[20];
    size_t at = sizeof digits;

    do {
        digits[--at] = (char)('0' + number % 10);
        number /= 10;
    } while (number > 0);
    writer_bytes(writer, digits + at, sizeof digits - at);
}

void writer_json(struct writer *writer, const char *text)
{
    static const char hex[] = "0123456789abcdef";

    writer_literal(writer, "\"");
    for (; *text != '\0'; text++) {
        unsigned char c = (unsigned char)*text;

        if (c == '"' || c == '\\') {
            writer_bytes(writer, (const char[]){ '\\', (char)c }, 2);
        } else if (c < 0x20 || c > 0x7e) {
            writer_literal(writer, "\\u00");
            writer_bytes(writer, (const char[]){ hex[c >> 4], hex[c & 15] }, 2);
        } else {
            writer_bytes(writer, text, 1);
        }
    }
    writer_literal(writer, "\"");
}
