/* metrics.c - the values of metrics.def and their Prometheus text; owns the values, knows nobody who changes them. */
#include "common/metrics.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdbool.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/cleanup.h"

#define SMALLEST_BOUND_US 50u
/* In the `service` column; no process has this role. */
#define SERVICE_ANY SERVICE_COUNT

enum kind { KIND_COUNTER, KIND_GAUGE, KIND_RATIO };

_Atomic uint64_t metric_values[METRIC_COUNT];

static struct {
    _Atomic uint64_t buckets[HISTOGRAM_BUCKETS];
    _Atomic uint64_t sum_us;
} histogram_values[HISTOGRAM_COUNT];

struct series {
    enum service service;
    const char *name, *labels, *help;
};
static const struct metric_row {
    struct series series;
    enum kind kind;
} metric_rows[] = {
#define METRIC(id, kind, service, name, labels, help) { { SERVICE_##service, name, labels, help }, KIND_##kind },
#define HISTOGRAM(id, service, name, labels, help)
#include "common/metrics.def"
};
static const struct series histogram_rows[] = {
#define METRIC(id, kind, service, name, labels, help)
#define HISTOGRAM(id, service, name, labels, help) { SERVICE_##service, name, labels, help },
#include "common/metrics.def"
};

/* The first bucket whose bound 50 us * 2^n is not below `us`. */
static unsigned bucket_of(uint64_t us)
{
    const uint64_t steps = us / SMALLEST_BOUND_US + (us % SMALLEST_BOUND_US != 0);
    const unsigned bucket = steps <= 1 ? 0 : 64u - (unsigned)__builtin_clzll(steps - 1);

    return bucket < HISTOGRAM_BUCKETS - 1 ? bucket : HISTOGRAM_BUCKETS - 1;
}

void histogram_observe_us(enum histogram histogram, uint64_t us)
{
    atomic_fetch_add_explicit(&histogram_values[histogram].buckets[bucket_of(us)], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&histogram_values[histogram].sum_us, us, memory_order_relaxed);
}

static bool belongs_to(const struct series *series, enum service service)
{
    return series->service == service || series->service == SERVICE_ANY;
}

/* Once per name: rows of one name stand together. */
static void print_head(const struct series *series, const char *type, const char **last_name, FILE *out)
{
    if (*last_name != NULL && strcmp(*last_name, series->name) == 0)
        return;
    fprintf(out, "# HELP %s %s\n# TYPE %s %s\n", series->name, series->help, series->name, type);
    *last_name = series->name;
}

static void print_seconds(uint64_t us, FILE *out)
{
    fprintf(out, "%" PRIu64 ".%06" PRIu64, us / 1000000, us % 1000000);
}

static void print_histogram(enum histogram histogram, FILE *out)
{
    const struct series *series = &histogram_rows[histogram];
    const char *comma = series->labels[0] != '\0' ? "," : "";
    const char *open = series->labels[0] != '\0' ? "{" : "";
    const char *close = series->labels[0] != '\0' ? "}" : "";
    uint64_t total = 0;

    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
        total += atomic_load_explicit(&histogram_values[histogram].buckets[i], memory_order_relaxed);
        fprintf(out, "%s_bucket{%s%sle=\"", series->name, series->labels, comma);
        if (i < HISTOGRAM_BUCKETS - 1)
            print_seconds((uint64_t)SMALLEST_BOUND_US << i, out);
        else
            fputs("+Inf", out);
        fprintf(out, "\"} %" PRIu64 "\n", total);
    }
    fprintf(out, "%s_sum%s%s%s ", series->name, open, series->labels, close);
    print_seconds(atomic_load_explicit(&histogram_values[histogram].sum_us, memory_order_relaxed), out);
    fprintf(out, "\n%s_count%s%s%s %" PRIu64 "\n", series->name, open, series->labels, close, total);
}

DEFINE_DESTROY(file_close, FILE, fclose)
DEFINE_DESTROY(directory_close, DIR, closedir)

static uint64_t resident_bytes(void)
{
    OWNED(file_close) FILE *statm = fopen("/proc/self/statm", "re");
    uint64_t total, resident;

    if (statm == NULL || fscanf(statm, "%" SCNu64 " %" SCNu64, &total, &resident) != 2)
        return 0;
    return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

static uint64_t cpu_us(void)
{
    struct timespec used;

    if (clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used) != 0)
        return 0;
    return (uint64_t)used.tv_sec * 1000000 + (uint64_t)used.tv_nsec / 1000;
}

static uint64_t open_fds(void)
{
    OWNED(directory_close) DIR *fds = opendir("/proc/self/fd");
    uint64_t count = 0;

    if (fds == NULL)
        return 0;
    for (const struct dirent *entry = readdir(fds); entry != NULL; entry = readdir(fds))
        count += entry->d_name[0] != '.';
    return count - 1;    /* the one that reads the directory */
}

static void print_process(FILE *out)
{
    fprintf(out, "# HELP process_resident_memory_bytes resident memory\n# TYPE process_resident_memory_bytes gauge\n"
                 "process_resident_memory_bytes %" PRIu64 "\n", resident_bytes());
    fputs("# HELP process_cpu_seconds_total processor time used\n# TYPE process_cpu_seconds_total counter\n"
          "process_cpu_seconds_total ", out);
    print_seconds(cpu_us(), out);
    fprintf(out, "\n# HELP process_open_fds open file descriptors\n# TYPE process_open_fds gauge\n"
                 "process_open_fds %" PRIu64 "\n", open_fds());
}

static void print_value(enum metric metric, FILE *out)
{
    const uint64_t value = metric_get(metric);

    if (metric_rows[metric].kind == KIND_RATIO)
        fprintf(out, "%" PRIu64 ".%06" PRIu64 "\n", value / 1000000, value % 1000000);
    else
        fprintf(out, "%" PRIu64 "\n", value);
}

void metrics_print(enum service service, FILE *out)
{
    const char *last_name = NULL;

    for (unsigned i = 0; i < METRIC_COUNT; i++) {
        const struct series *series = &metric_rows[i].series;
        const bool has_labels = series->labels[0] != '\0';

        if (!belongs_to(series, service))
            continue;
        print_head(series, metric_rows[i].kind == KIND_COUNTER ? "counter" : "gauge", &last_name, out);
        fprintf(out, "%s%s%s%s ", series->name, has_labels ? "{" : "", series->labels, has_labels ? "}" : "");
        print_value((enum metric)i, out);
    }
    for (unsigned i = 0; i < HISTOGRAM_COUNT; i++) {
        if (!belongs_to(&histogram_rows[i], service))
            continue;
        print_head(&histogram_rows[i], "histogram", &last_name, out);
        print_histogram((enum histogram)i, out);
    }
    print_process(out);
}

static void document_series(const struct series *series, const char *type, FILE *out)
{
    const char *service = series->service == SERVICE_ANY ? "every" : service_text(series->service);

    fprintf(out, "| `%s` | ", series->name);
    if (series->labels[0] != '\0')
        fprintf(out, "`%s`", series->labels);
    fprintf(out, " | %s | %s | %s |\n", type, service, series->help);
}

void metrics_document(FILE *out)
{
    fputs("# Metrics\n\n"
          "Made from `common/metrics.def`. Every service answers `/metrics` on its operations listener.\n\n"
          "| name | labels | kind | service | meaning |\n|---|---|---|---|---|\n", out);
    for (unsigned i = 0; i < METRIC_COUNT; i++)
        document_series(&metric_rows[i].series, metric_rows[i].kind == KIND_COUNTER ? "counter" : "gauge", out);
    for (unsigned i = 0; i < HISTOGRAM_COUNT; i++)
        document_series(&histogram_rows[i], "histogram", out);
    fputs("| `process_resident_memory_bytes` |  | gauge | every | resident memory |\n"
          "| `process_cpu_seconds_total` |  | counter | every | processor time used |\n"
          "| `process_open_fds` |  | gauge | every | open file descriptors |\n", out);
}
