/* rate_rule.h - a limit as one number, so that it costs a message little: requests above, seconds of the window below. */
#ifndef COMMON_RATE_RULE_H
#define COMMON_RATE_RULE_H

#include <stdint.h>

/* 0: no limit.  What does not fit 32 bits is enforced as the most that does. */
static inline uint64_t rate_rule(uint64_t requests, uint64_t window_s)
{
    if (requests == 0 || window_s == 0)
        return 0;
    return (requests < UINT32_MAX ? requests : UINT32_MAX) << 32 | (window_s < UINT32_MAX ? window_s : UINT32_MAX);
}

static inline uint64_t rate_rule_requests(uint64_t rule)
{
    return rule >> 32;
}

static inline uint64_t rate_rule_window_s(uint64_t rule)
{
    return rule & UINT32_MAX;
}

#endif
