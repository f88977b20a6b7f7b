/* ratelimit_script.h - the text of ratelimit.lua, which the build puts into the program. */
#ifndef RATELIMIT_SCRIPT_H
#define RATELIMIT_SCRIPT_H

#include <stdint.h>

extern const char ratelimit_script[];          /* no NUL follows */
extern const uint64_t ratelimit_script_size;   /* bytes */

#endif
