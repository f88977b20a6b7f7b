/*
 * metrics.h - counters, gauges and histograms from the rows of metrics.def, exposed as Prometheus text.
 *
 * One row is one series: labels are written into the row.  Relaxed atomics; no allocation, no lock.
 */
#ifndef COMMON_METRICS_H
#define COMMON_METRICS_H

#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>

#include "common/message.h"

enum metric {
#define METRIC(id, kind, service, name, labels, help) METRIC_##id,
#define HISTOGRAM(id, service, name, labels, help)
#include "common/metrics.def"
    METRIC_COUNT
};
enum histogram {
#define METRIC(id, kind, service, name, labels, help)
#define HISTOGRAM(id, service, name, labels, help) HISTOGRAM_##id,
#include "common/metrics.def"
    HISTOGRAM_COUNT
};

#define HISTOGRAM_BUCKETS 22    /* upper bounds 50 us * 2^n, the last is +Inf */

extern _Atomic uint64_t metric_values[];

static inline void metric_add(enum metric metric, uint64_t amount)
{
    atomic_fetch_add_explicit(&metric_values[metric], amount, memory_order_relaxed);
}
static inline void metric_set(enum metric metric, uint64_t value)
{
    atomic_store_explicit(&metric_values[metric], value, memory_order_relaxed);
}
static inline uint64_t metric_get(enum metric metric)
{
    return atomic_load_explicit(&metric_values[metric], memory_order_relaxed);
}
void histogram_observe_us(enum histogram histogram, uint64_t us);

/* Rows of this service and of ANY, with process_* of /proc/self. Text format 0.0.4. */
void metrics_print(enum service service, FILE *out);
void metrics_document(FILE *out);    /* docs/metrics.md */

#endif
