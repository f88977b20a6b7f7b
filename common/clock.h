/* clock.h - the three clocks, each for one purpose, in microseconds. */
#ifndef COMMON_CLOCK_H
#define COMMON_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline uint64_t clock_read_us(clockid_t clock)
{
    struct timespec now;

    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
}

/* Deadlines, time-outs, latencies. */
static inline uint64_t clock_monotonic_us(void) { return clock_read_us(CLOCK_MONOTONIC); }
/* Leases: time spent suspended counts. */
static inline uint64_t clock_boottime_us(void) { return clock_read_us(CLOCK_BOOTTIME); }
/* Moments that people and expiry dates see; it may jump. */
static inline uint64_t clock_unix_us(void) { return clock_read_us(CLOCK_REALTIME); }

#endif
