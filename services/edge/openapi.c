/* openapi.c - openapi.json as bytes; the assembler reads the file, so it stays one readable document. */
#include "services/edge/openapi.h"

#include "services/edge/answer.h"

extern const char openapi_document[];
extern const size_t openapi_document_size;

__asm__(".section .rodata\n"
        ".global openapi_document\n"
        ".global openapi_document_size\n"
        "openapi_document:\n"
        ".incbin \"services/edge/openapi.json\"\n"
        "1:\n"
        ".balign 8\n"
        "openapi_document_size:\n"
        ".quad 1b - openapi_document\n"
        ".text\n");

void openapi_answer(struct exchange *exchange)
{
    struct answer answer;

    exchange->is_public = true;
    dispatch_count_refusal(exchange->edge->dispatch, exchange->address, "openapi", 200);
    answer = answer_begin(exchange, 200);
    answer_send(&answer, "application/json", openapi_document, openapi_document_size);
}
