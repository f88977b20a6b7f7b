/* test_settings.c - what refuses to start, with which words, and what is read from where. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/config.h"
#include "common/settings.h"

struct config {
    uint64_t drain_ms;
    bool bus_insecure;
    char instance[41];
    struct secret redis_url;
};

/* Names of real rows, so that the file and the environment may hold them. */
static const struct setting rows[] = {
    { "drain_ms", SETTING_U64, offsetof(struct config, drain_ms), "5000", 10, 600000, "longest stop" },
    { "bus_insecure", SETTING_FLAG, offsetof(struct config, bus_insecure), "false", 0, 0, "plain tcp" },
    { "instance", SETTING_TEXT, offsetof(struct config, instance), "1", 1, 40, "name" },
    { "redis_url", SETTING_SECRET, offsetof(struct config, redis_url), NULL, 0, 512, "where Redis is" },
};
#define ROWS (sizeof rows / sizeof rows[0])

static struct config config;
static char complaint[1000];
static char directory[64], yaml[128], secret_file[128];

static int make_directory(void **state)
{
    (void)state;

    snprintf(directory, sizeof directory, "/tmp/test_settings-%ld", (long)getpid());
    if (mkdir(directory, 0700) != 0)
        return -1;
    snprintf(yaml, sizeof yaml, "%s/gateway.yaml", directory);
    snprintf(secret_file, sizeof secret_file, "%s/secret", directory);
    return 0;
}

static int remove_directory(void **state)
{
    (void)state;

    unlink(yaml);
    unlink(secret_file);
    return rmdir(directory);
}

static int clear(void **state)
{
    (void)state;

    clearenv();
    memset(&config, 0xee, sizeof config);
    complaint[0] = '\0';
    return 0;
}

static void write_file(const char *path, const char *text, size_t size)
{
    FILE *out = fopen(path, "w");

    assert_non_null(out);
    assert_int_equal(fwrite(text, 1, size, out), size);
    fclose(out);
}

static enum err load_file(const char *text)
{
    write_file(yaml, text, strlen(text));
    return settings_load(rows, ROWS, yaml, &config, complaint, sizeof complaint);
}

static enum err load(void)
{
    return settings_load(rows, ROWS, NULL, &config, complaint, sizeof complaint);
}

static void assert_complaint_has(const char *part)
{
    if (strstr(complaint, part) == NULL)
        fail_msg("\"%s\" lacks \"%s\"", complaint, part);
    assert_null(strchr(complaint, '\n'));
}

static void a_bad_file_is_refused_with_line_name_and_remedy(void **state)
{
    static const struct { const char *text, *line, *name, *words; } cases[] = {
        { "instance: a\nredis_ulr: x\n", "gateway.yaml:2: ", "redis_ulr", "no such setting" },
        { "drain_ms: soon\n", "gateway.yaml:1: ", "drain_ms", "whole number from 10 to 600000" },
        { "drain_ms: 9\n", "gateway.yaml:1: ", "drain_ms", "from 10" },
        { "drain_ms: 600001\n", "gateway.yaml:1: ", "drain_ms", "to 600000" },
        { "drain_ms: -10\n", "gateway.yaml:1: ", "drain_ms", "whole number" },
        { "drain_ms: 100ms\n", "gateway.yaml:1: ", "drain_ms", "whole number" },
        { "drain_ms: 18446744073709551626\n", "gateway.yaml:1: ", "drain_ms", "whole number" },
        { "drain_ms:\n", "gateway.yaml:1: ", "drain_ms", "whole number" },
        { "bus_insecure: yes\n", "gateway.yaml:1: ", "bus_insecure", "true or false" },
        { "\n\ninstance: \"\"\n", "gateway.yaml:3: ", "instance", "1 to 40 bytes" },
        { "instance: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n", "gateway.yaml:1: ", "instance", "these are 41" },
        { "instance: \"a\\nb\"\n", "gateway.yaml:1: ", "instance", "control characters" },
        { "instance: \"a\\0b\"\n", "gateway.yaml:1: ", "instance", "control characters" },
        { "instance: a\ninstance: b\n", "gateway.yaml:2: ", "instance", "it stood before" },
        { "instance: {a: b}\n", "gateway.yaml:1: ", "instance", "not nested" },
        { "instance:\n  - a\n", "gateway.yaml:2: ", "instance", "commas" },
        { "instance: &x a\n", "gateway.yaml:1: ", "(value)", "without anchor" },
        { "instance: !!str a\n", "gateway.yaml:1: ", "(value)", "without anchor and tag" },
        { "drain_ms: *x\n", "gateway.yaml:1: ", "drain_ms", "alias" },
        { "- a\n", "gateway.yaml:1: ", "(document)", "write one value" },
        { "just words\n", "gateway.yaml:1: ", "(document)", "one `name: value` per line" },
        { "\"\": 1\n", "gateway.yaml:1: ", "(name)", "--help" },
        { "instance: a\n---\ninstance: b\n", "gateway.yaml:2: ", "(document)", "one document" },
        { "instance: a\n  b: [\n", "gateway.yaml:2: ", "(document)", "not YAML" },
        { "instance: \"a\n", "gateway.yaml:2: ", "", "not YAML" },
        { "instance: \xff\xfe\n", "gateway.yaml:1: ", "(document)", "not YAML" },
    };
    (void)state;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        clear(NULL);
        if (load_file(cases[i].text) != ERR_MALFORMED)
            fail_msg("accepted %s", cases[i].text);
        assert_complaint_has(cases[i].line);
        assert_complaint_has(cases[i].name);
        assert_complaint_has(cases[i].words);
    }
}

static void a_file_that_is_not_there_is_refused(void **state)
{
    (void)state;

    assert_int_equal(settings_load(rows, ROWS, "/nonexistent/x.yaml", &config, complaint, sizeof complaint), ERR_MALFORMED);
    assert_complaint_has("/nonexistent/x.yaml: ");
    assert_complaint_has("cannot be read");
    assert_int_equal(settings_load(rows, ROWS, directory, &config, complaint, sizeof complaint), ERR_MALFORMED);
}

static void an_unknown_variable_is_refused(void **state)
{
    (void)state;

    setenv("MCPGW_REDIS_ULR", "x", 1);
    assert_int_equal(load(), ERR_MALFORMED);
    assert_complaint_has("environment MCPGW_REDIS_ULR: ");
    assert_complaint_has("no such setting");
    clear(NULL);
    setenv("MCPGW_REDIS_ULR_FILE", "x", 1);
    assert_int_equal(load(), ERR_MALFORMED);
    assert_complaint_has("environment MCPGW_REDIS_ULR_FILE: ");
    clear(NULL);
    setenv("MCPGW_", "x", 1);
    assert_int_equal(load(), ERR_MALFORMED);
    clear(NULL);
    setenv("MCPGW_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "x", 1);
    assert_int_equal(load(), ERR_MALFORMED);
    assert_complaint_has("no such setting");
}

static void a_bad_variable_is_refused_by_its_name(void **state)
{
    (void)state;

    setenv("MCPGW_DRAIN_MS", "5s", 1);
    assert_int_equal(load(), ERR_MALFORMED);
    assert_string_equal(complaint, "environment MCPGW_DRAIN_MS: drain_ms: write a whole number from 10 to 600000");
}

static void a_complaint_never_shows_a_secret(void **state)
{
    static char password[700];
    (void)state;

    memset(password, 'p', sizeof password - 1);
    setenv("MCPGW_REDIS_URL", password, 1);
    assert_int_equal(load(), ERR_MALFORMED);
    assert_complaint_has("0 to 512 bytes; these are 699");
    assert_null(strstr(complaint, "ppp"));
    setenv("MCPGW_REDIS_URL", "redis://hunter2\n", 1);
    assert_int_equal(load(), ERR_MALFORMED);
    assert_null(strstr(complaint, "hunter2"));
}

static void a_secret_file_that_cannot_be_used_is_refused(void **state)
{
    static char large[4000];
    (void)state;

    setenv("MCPGW_REDIS_URL_FILE", "/nonexistent/redis", 1);
    assert_int_equal(load(), ERR_MALFORMED);
    assert_complaint_has("environment MCPGW_REDIS_URL_FILE: redis_url: /nonexistent/redis cannot be read");
    setenv("MCPGW_REDIS_URL_FILE", directory, 1);
    assert_int_equal(load(), ERR_MALFORMED);
    assert_complaint_has("cannot be read");
    memset(large, 'x', sizeof large);
    write_file(secret_file, large, sizeof large);
    setenv("MCPGW_REDIS_URL_FILE", secret_file, 1);
    assert_int_equal(load(), ERR_MALFORMED);
    write_file(secret_file, "good", 4);
    setenv("MCPGW_REDIS_URL", "other", 1);
    assert_int_equal(load(), ERR_MALFORMED);
    assert_complaint_has("MCPGW_REDIS_URL is set too");
}

static void a_complaint_longer_than_its_buffer_is_cut(void **state)
{
    char small[20];
    (void)state;

    memset(small, 0xee, sizeof small);
    setenv("MCPGW_DRAIN_MS", "x", 1);
    assert_int_equal(settings_load(rows, ROWS, NULL, &config, small, 10), ERR_MALFORMED);
    assert_string_equal(small, "environme");
    assert_int_equal((unsigned char)small[10], 0xee);
}

static void nothing_given_means_the_defaults(void **state)
{
    (void)state;

    assert_int_equal(load(), ERR_OK);
    assert_int_equal(config.drain_ms, 5000);
    assert_false(config.bus_insecure);
    assert_string_equal(config.instance, "1");
    assert_false(secret_is_set(&config.redis_url));
    assert_int_equal(load_file(""), ERR_OK);
    assert_int_equal(load_file("# nothing\n"), ERR_OK);
    assert_int_equal(config.drain_ms, 5000);
}

static void the_environment_wins_over_the_file_and_the_file_over_the_default(void **state)
{
    (void)state;

    setenv("MCPGW_INSTANCE", "from-env", 1);
    assert_int_equal(load_file("instance: from-file\ndrain_ms: 77\nbus_insecure: true\nredis_url: 'redis://u:p@h/0'\n"), ERR_OK);
    assert_string_equal(config.instance, "from-env");
    assert_int_equal(config.drain_ms, 77);
    assert_true(config.bus_insecure);
    assert_string_equal(secret_text(&config.redis_url), "redis://u:p@h/0");
}

static void a_value_may_stand_in_a_file_of_its_own(void **state)
{
    (void)state;

    write_file(secret_file, "redis://u:p@h/0\n", 16);
    setenv("MCPGW_REDIS_URL_FILE", secret_file, 1);
    assert_int_equal(load(), ERR_OK);
    assert_string_equal(secret_text(&config.redis_url), "redis://u:p@h/0");
    assert_int_equal(config.redis_url.size, 15);
    clear(NULL);
    write_file(secret_file, "77", 2);
    setenv("MCPGW_DRAIN_MS_FILE", secret_file, 1);
    assert_int_equal(load(), ERR_OK);
    assert_int_equal(config.drain_ms, 77);
}

static void one_environment_and_one_file_serve_the_whole_suite(void **state)
{
    (void)state;

    setenv("MCPGW_CACHE_ENTRIES", "not even read here", 1);
    setenv("MCPGW_DATABASE_URL_FILE", "/nonexistent", 1);
    setenv("MCPGW_URL", "http://127.0.0.1:8080", 1);
    setenv("MCPGW_API_KEY", "mcp_x", 1);
    setenv("MCPGW_API_KEY_FILE", "/x", 1);
    setenv("MCPGW_HOME", "/x", 1);
    setenv("MCPGW_CONFIG", "/x", 1);
    setenv("MCPGWX", "other", 1);
    assert_int_equal(load_file("cache_entries: 77\nspool_dir: /x\n"), ERR_OK);
    assert_true(settings_is_known_anywhere("retention_days"));
    assert_false(settings_is_known_anywhere("retention"));
}

static void help_and_show_tell_everything_but_secrets(void **state)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    (void)state;

    setenv("MCPGW_INSTANCE", "e7", 1);
    assert_int_equal(load_file("redis_url: redis://hunter2\ndrain_ms: 77\n"), ERR_OK);
    settings_print_help(rows, ROWS, out);
    settings_show(rows, ROWS, &config, out);
    fclose(out);
    assert_non_null(strstr(text, "MCPGW_DRAIN_MS\n"));
    assert_non_null(strstr(text, "number from 10 to 600000; default 5000\n"));
    assert_non_null(strstr(text, "instance = e7    (environment MCPGW_INSTANCE)\n"));
    assert_non_null(strstr(text, "bus_insecure = false    (default)\n"));
    assert_non_null(strstr(text, "gateway.yaml:2)\n"));
    assert_non_null(strstr(text, "redis_url = [set]"));
    assert_null(strstr(text, "hunter2"));
    free(text);
}

static void the_common_defaults_obey_their_own_rows(void **state)
{
    static struct common_config common;
    (void)state;

    assert_int_equal(settings_load(common_settings, common_settings_count, NULL, &common, complaint, sizeof complaint), ERR_OK);
    assert_string_equal(common.log_level, "info");
}

#define CASE(name) cmocka_unit_test_setup(name, clear)

/* common/issuers.c reads it; what stands behind it is still ours. */
static void the_list_of_issuers_is_passed_over(void **state)
{
    (void)state;

    assert_int_equal(load_file("issuers:\n  - name: a\n    scopes: [{value: x, grants: [read]}]\n    server_audiences: {s: [y]}\ndrain_ms: 99\n"), ERR_OK);
    assert_int_equal(config.drain_ms, 99);
    assert_int_equal(load_file("issuers: []\ndrain_ms: 98\n"), ERR_OK);
    assert_int_equal(config.drain_ms, 98);
    assert_int_equal(load_file("issuers: none\ndrain_ms: 97\n"), ERR_OK);
    assert_int_equal(load_file("issuers:\n  - name: a\ndrain_sm: 1\n"), ERR_MALFORMED);
    assert_complaint_has("gateway.yaml:3: drain_sm");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(a_bad_file_is_refused_with_line_name_and_remedy),
        CASE(the_list_of_issuers_is_passed_over),
        CASE(a_file_that_is_not_there_is_refused),
        CASE(an_unknown_variable_is_refused),
        CASE(a_bad_variable_is_refused_by_its_name),
        CASE(a_complaint_never_shows_a_secret),
        CASE(a_secret_file_that_cannot_be_used_is_refused),
        CASE(a_complaint_longer_than_its_buffer_is_cut),
        CASE(nothing_given_means_the_defaults),
        CASE(the_environment_wins_over_the_file_and_the_file_over_the_default),
        CASE(a_value_may_stand_in_a_file_of_its_own),
        CASE(one_environment_and_one_file_serve_the_whole_suite),
        CASE(help_and_show_tell_everything_but_secrets),
        CASE(the_common_defaults_obey_their_own_rows),
    };

    return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
