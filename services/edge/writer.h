/* writer.h - text appended to a buffer of the caller's; what does not fit marks it full, and a full text is never sent.
 */
#ifndef EDGE_WRITER_H
#define EDGE_WRITER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct writer {
    char *bytes;
    size_t capacity, size;
    bool is_full;
};

static inline struct writer writer_on(char *bytes, size_t capacity)
{
    return (struct writer){ .bytes = bytes, .capacity = capacity };
}

static inline void writer_bytes(struct writer *writer, const void *bytes, size_t size)
{
    if (size > writer->capacity - writer->size) {
        writer->is_full = true;
        return;
    }
    memcpy(writer->bytes + writer->size, bytes, size);
    writer->size += size;
}

static inline void writer_text(struct writer *writer, const char *text)
{
    writer_bytes(writer, text, strlen(text));
}

/* Cuts what does not fit. */
static inline void text_copy(char *into, size_t size, const char *text)
{
    size_t length = strnlen(text, size - 1);

    memcpy(into, text, length);
    into[length] = '\0';
}

/* A string literal: its length is known to the compiler. */
#define writer_literal(writer, literal) writer_bytes((writer), "" literal, sizeof literal - 1)

void writer_u64(struct writer *writer, uint64_t number);
/* With its quotes; control characters and non-ASCII bytes as \u00XX. */
void writer_json(struct writer *writer, const char *text);

#endif
