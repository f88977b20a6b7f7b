/* test_metrics.c - the text that Prometheus reads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/metrics.h"

static char *text_of(enum service service)
{
    static char *text;    /* static: GCC 12 takes what the stream leaves in a local for a dangling pointer */
    static size_t size;
    FILE *out = open_memstream(&text, &size);

    metrics_print(service, out);
    fclose(out);
    return text;
}

static size_t occurrences(const char *text, const char *part)
{
    size_t count = 0;

    for (const char *at = strstr(text, part); at != NULL; at = strstr(at + 1, part))
        count++;
    return count;
}

static void rows_of_other_services_are_not_shown(void **state)
{
    char *text = text_of(SERVICE_RATELIMIT);
    (void)state;

    assert_null(strstr(text, "mcpgw_auth_attempts_total"));
    assert_null(strstr(text, "mcpgw_request_seconds"));
    assert_non_null(strstr(text, "mcpgw_charges_total{outcome=\"admitted\"} "));
    assert_non_null(strstr(text, "mcpgw_start_time_seconds "));
    free(text);
}

/* Prometheus refuses a second HELP or TYPE line for a name, and samples apart from their head. */
static void each_name_has_one_head_and_its_samples_follow_it(void **state)
{
    (void)state;

    for (unsigned service = 0; service < SERVICE_COUNT; service++) {
        char *text = text_of((enum service)service);
        char current[128] = "";

        for (char *line = strtok(text, "\n"); line != NULL; line = strtok(NULL, "\n")) {
            char name[128];
            size_t length;

            if (sscanf(line, "# HELP %127s", name) == 1) {
                snprintf(current, sizeof current, "%s", name);
            } else if (sscanf(line, "# TYPE %127s", name) == 1) {
                assert_string_equal(name, current);
            } else {
                length = strcspn(line, "{ ");
                assert_true(length >= strlen(current));
                assert_memory_equal(line, current, strlen(current));
                assert_true(strlen(current) > 0);
            }
        }
        free(text);

        text = text_of((enum service)service);
        for (const char *at = strstr(text, "# HELP "); at != NULL; at = strstr(at + 1, "# HELP ")) {
            char head[160];
            snprintf(head, sizeof head, "%.*s ", (int)(7 + strcspn(at + 7, " ")), at);
            assert_int_equal(occurrences(text, head), 1);
        }
        free(text);
    }
}

static void values_are_added_and_set(void **state)
{
    (void)state;

    metric_set(METRIC_charge_batches, 0);
    metric_add(METRIC_charge_batches, 2);
    metric_add(METRIC_charge_batches, 3);
    assert_int_equal(metric_get(METRIC_charge_batches), 5);
    metric_set(METRIC_redis_up, 1);
    char *text = text_of(SERVICE_RATELIMIT);
    assert_non_null(strstr(text, "\nmcpgw_charge_batches_total 5\n"));
    assert_non_null(strstr(text, "\nmcpgw_store_up{store=\"redis\"} 1\n"));
    free(text);
}

static void a_histogram_counts_up_to_each_bound_in_seconds(void **state)
{
    (void)state;

    histogram_observe_us(HISTOGRAM_ack_latency, 0);
    histogram_observe_us(HISTOGRAM_ack_latency, 50);         /* a bound belongs to its bucket */
    histogram_observe_us(HISTOGRAM_ack_latency, 51);
    histogram_observe_us(HISTOGRAM_ack_latency, 100);
    histogram_observe_us(HISTOGRAM_ack_latency, 101);
    histogram_observe_us(HISTOGRAM_ack_latency, 1500000);
    histogram_observe_us(HISTOGRAM_ack_latency, 52428800);
    histogram_observe_us(HISTOGRAM_ack_latency, 52428801);
    histogram_observe_us(HISTOGRAM_ack_latency, 100000000);
    char *text = text_of(SERVICE_KEYS);
    assert_non_null(strstr(text, "# TYPE mcpgw_change_ack_seconds histogram\n"));
    assert_non_null(strstr(text, "mcpgw_change_ack_seconds_bucket{le=\"0.000050\"} 2\n"));
    assert_non_null(strstr(text, "mcpgw_change_ack_seconds_bucket{le=\"0.000100\"} 4\n"));
    assert_non_null(strstr(text, "mcpgw_change_ack_seconds_bucket{le=\"0.000200\"} 5\n"));
    assert_non_null(strstr(text, "mcpgw_change_ack_seconds_bucket{le=\"0.819200\"} 5\n"));
    assert_non_null(strstr(text, "mcpgw_change_ack_seconds_bucket{le=\"1.638400\"} 6\n"));
    assert_non_null(strstr(text, "mcpgw_change_ack_seconds_bucket{le=\"52.428800\"} 7\n"));
    assert_non_null(strstr(text, "mcpgw_change_ack_seconds_bucket{le=\"+Inf\"} 9\n"));
    assert_non_null(strstr(text, "mcpgw_change_ack_seconds_sum 206.357903\n"));
    assert_non_null(strstr(text, "mcpgw_change_ack_seconds_count 9\n"));
    assert_non_null(strstr(text, "mcpgw_store_seconds_bucket{store=\"redis\",le=\"0.000050\"} 0\n"));
    assert_non_null(strstr(text, "mcpgw_store_seconds_count{store=\"redis\"} 0\n"));
    free(text);
}

static void the_largest_duration_stays_in_the_last_bucket(void **state)
{
    (void)state;

    histogram_observe_us(HISTOGRAM_audit_lag, UINT64_MAX);
    char *text = text_of(SERVICE_AUDIT);
    assert_non_null(strstr(text, "mcpgw_audit_lag_seconds_bucket{le=\"52.428800\"} 0\n"));
    assert_non_null(strstr(text, "mcpgw_audit_lag_seconds_bucket{le=\"+Inf\"} 1\n"));
    free(text);
}

static void the_process_tells_its_own_use(void **state)
{
    char *text = text_of(SERVICE_EDGE);
    const char *resident = strstr(text, "\nprocess_resident_memory_bytes ");
    const char *fds = strstr(text, "\nprocess_open_fds ");
    (void)state;

    assert_non_null(resident);
    assert_true(strtoull(resident + 31, NULL, 10) > 100000);
    assert_non_null(fds);
    assert_true(strtoull(fds + 18, NULL, 10) >= 3);
    assert_non_null(strstr(text, "\nprocess_cpu_seconds_total 0."));
    free(text);
}

static void the_document_names_every_series(void **state)
{
    static const char *const names[] = {
#define METRIC(id, kind, service, name, labels, help) name,
#define HISTOGRAM(id, service, name, labels, help) name,
#include "common/metrics.def"
    };
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    (void)state;

    metrics_document(out);
    fclose(out);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        assert_non_null(strstr(text, names[i]));
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_of_other_services_are_not_shown),
        cmocka_unit_test(each_name_has_one_head_and_its_samples_follow_it),
        cmocka_unit_test(values_are_added_and_set),
        cmocka_unit_test(a_histogram_counts_up_to_each_bound_in_seconds),
        cmocka_unit_test(the_largest_duration_stays_in_the_last_bucket),
        cmocka_unit_test(the_process_tells_its_own_use),
        cmocka_unit_test(the_document_names_every_series),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
