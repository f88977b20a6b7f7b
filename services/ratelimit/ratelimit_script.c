/* ratelimit_script.c - ratelimit.lua as bytes; the assembler reads the file, so it stays one readable script. */
#include "services/ratelimit/ratelimit_script.h"

__asm__(".section .rodata\n"
        ".global ratelimit_script\n"
        ".global ratelimit_script_size\n"
        "ratelimit_script:\n"
        ".incbin \"services/ratelimit/ratelimit.lua\"\n"
        "1:\n"
        ".balign 8\n"
        "ratelimit_script_size:\n"
        ".quad 1b - ratelimit_script\n"
        ".text\n");
