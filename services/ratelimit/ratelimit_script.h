/* ratelimit_script.h - the text of ratelimit.lua, which the build puts into the program. */
#ifndef RATELIMIT_SCRIPT_H
#define RATELIMIT_SCRIPT_H

#include <stddef.h>

extern const char ratelimit_script[];        /* no NUL follows */
extern const char ratelimit_script_end[];

static inline size_t ratelimit_script_size(void)
{
    return (size_t)(ratelimit_script_end - ratelimit_script);
}

#endif
