/* test_servers.c - the registry: all of a table or nothing of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>

#include "services/edge/servers.h"

static struct server_entry *make_entries(const char *const *slugs, size_t count, const char *url)
{
    struct server_entry *entries = calloc(count, sizeof *entries);

    for (size_t i = 0; i < count; i++) {
        strcpy(entries[i].slug, slugs[i]);
        strcpy(entries[i].url, url);
        entries[i].enabled = true;
    }
    return entries;
}

static void before_the_first_table_nothing_is_known(void **state)
{
    struct servers *servers;
    struct server_entry entry;
    (void)state;

    assert_int_equal(servers_new(&servers), ERR_OK);
    assert_false(servers_is_loaded(servers));
    assert_int_equal(servers_find(servers, "a", &entry), ERR_UNAVAILABLE);
    servers_replace(servers, NULL, 0, 1);
    assert_true(servers_is_loaded(servers));
    assert_int_equal(servers_find(servers, "a", &entry), ERR_NOT_FOUND);
    servers_destroy(&servers);
}

static void unknown_disabled_and_overlong_slugs_are_not_found(void **state)
{
    static const char *const slugs[] = { "off" };
    struct server_entry *entries = make_entries(slugs, 1, "http://h/");
    struct servers *servers;
    struct server_entry entry;
    char longest[200];
    (void)state;

    entries[0].enabled = false;
    memset(longest, 'a', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    assert_int_equal(servers_new(&servers), ERR_OK);
    servers_replace(servers, entries, 1, 1);
    assert_int_equal(servers_find(servers, "off", &entry), ERR_NOT_FOUND);
    assert_int_equal(servers_find(servers, "", &entry), ERR_NOT_FOUND);
    assert_int_equal(servers_find(servers, longest, &entry), ERR_NOT_FOUND);
    servers_destroy(&servers);
}

static void every_slug_is_found_in_whatever_order_they_came(void **state)
{
    static const char *const slugs[] = { "zeta", "alpha", "mid", "beta", "omega" };
    struct servers *servers;
    struct server_entry entry;
    (void)state;

    assert_int_equal(servers_new(&servers), ERR_OK);
    servers_replace(servers, make_entries(slugs, 5, "http://one/"), 5, 1);
    assert_int_equal(servers_count(servers), 5);
    for (size_t i = 0; i < 5; i++) {
        assert_int_equal(servers_find(servers, slugs[i], &entry), ERR_OK);
        assert_string_equal(entry.slug, slugs[i]);
    }
    servers_replace(servers, make_entries(slugs, 1, "http://two/"), 1, 2);
    assert_int_equal(servers_find(servers, "zeta", &entry), ERR_OK);
    assert_string_equal(entry.url, "http://two/");
    assert_int_equal(servers_find(servers, "mid", &entry), ERR_NOT_FOUND);
    servers_destroy(&servers);
}

struct reader {
    struct servers *servers;
    _Atomic bool is_stopping;
    bool saw_half;
};

static void *read_on(void *argument)
{
    struct reader *reader = argument;
    struct server_entry a, b;

    while (!atomic_load(&reader->is_stopping))
        if (servers_find(reader->servers, "a", &a) != ERR_OK || servers_find(reader->servers, "b", &b) != ERR_OK)
            reader->saw_half = true;
    return NULL;
}

static void a_reader_never_sees_half_a_table(void **state)
{
    static const char *const slugs[] = { "b", "a" };
    struct reader reader = { 0 };
    pthread_t thread;
    (void)state;

    assert_int_equal(servers_new(&reader.servers), ERR_OK);
    servers_replace(reader.servers, make_entries(slugs, 2, "http://x/"), 2, 0);
    assert_int_equal(pthread_create(&thread, NULL, read_on, &reader), 0);
    for (uint64_t i = 1; i < 500; i++)
        servers_replace(reader.servers, make_entries(slugs, 2, "http://x/"), 2, i);
    atomic_store(&reader.is_stopping, true);
    pthread_join(thread, NULL);
    assert_false(reader.saw_half);
    servers_destroy(&reader.servers);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(before_the_first_table_nothing_is_known),
        cmocka_unit_test(unknown_disabled_and_overlong_slugs_are_not_found),
        cmocka_unit_test(every_slug_is_found_in_whatever_order_they_came),
        cmocka_unit_test(a_reader_never_sees_half_a_table),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
