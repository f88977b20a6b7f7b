/* test_migrate.c - schema changes are applied once, in order, each whole or not at all, against a real server. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

#include <cmocka.h>

#include "common/migrate.h"
#include "common/postgres.h"
#include "tests/unit/servers.h"

static struct server server;

static const struct migration first_two[] = {
    { "0001_first", "CREATE TABLE first (id int); INSERT INTO first VALUES (1);" },
    { "0002_second", "INSERT INTO first VALUES (2);" },
    { NULL, NULL },
};
static const struct migration first_only[] = {
    { "0001_first", "CREATE TABLE first (id int); INSERT INTO first VALUES (1);" },
    { NULL, NULL },
};

static int64_t number(const char *sql)
{
    PGconn *connection = PQconnectdb(server.url);
    PGresult *result = PQexec(connection, sql);
    int64_t value = PQresultStatus(result) == PGRES_TUPLES_OK ? postgres_i64(result, 0, 0) : -1;

    PQclear(result);
    PQfinish(connection);
    return value;
}

static int clear(void **state)
{
    char why[256] = "";

    (void)state;
    assert_int_equal(postgres_run_script(&server.secret, "DROP SCHEMA IF EXISTS mcpgw CASCADE;"
                                         "DROP TABLE IF EXISTS first, other", why, sizeof why), ERR_OK);
    return 0;
}

static void a_server_that_is_not_there_is_unavailable(void **state)
{
    struct secret nowhere = { .size = 1 };
    char why[256] = "";

    (void)state;
    snprintf((char *)nowhere.bytes, sizeof nowhere.bytes, "postgresql:///postgres?host=/nonexistent");
    assert_int_equal(migrate_run("keys", first_two, &nowhere, why, sizeof why), ERR_UNAVAILABLE);
    assert_non_null(strstr(why, "/nonexistent"));
}

static void a_refused_migration_leaves_nothing_and_those_before_it_stay(void **state)
{
    static const struct migration broken[] = {
        { "0001_first", "CREATE TABLE first (id int);" },
        { "0002_broken", "CREATE TABLE other (id int); SELECT nonsense;" },
        { NULL, NULL },
    };
    char why[256] = "";

    (void)state;
    assert_int_equal(migrate_run("keys", broken, &server.secret, why, sizeof why), ERR_UNAVAILABLE);
    assert_non_null(strstr(why, "0002_broken"));
    assert_non_null(strstr(why, "nonsense"));
    assert_int_equal(number("SELECT count(*) FROM first"), 0);
    assert_int_equal(number("SELECT count(*) FROM pg_class WHERE relname = 'other'"), 0);
    assert_int_equal(number("SELECT count(*) FROM mcpgw.migration"), 1);
}

static void a_migration_may_not_end_its_transaction(void **state)
{
    static const struct migration ends[] = { { "0001_ends", "CREATE TABLE first (id int); COMMIT;" }, { NULL, NULL } };
    char why[256] = "";

    (void)state;
    assert_int_equal(migrate_run("keys", ends, &server.secret, why, sizeof why), ERR_UNAVAILABLE);
    assert_non_null(strstr(why, "0001_ends"));
    assert_int_equal(number("SELECT count(*) FROM mcpgw.migration"), 0);
}

static void a_database_of_a_newer_release_is_a_conflict(void **state)
{
    char why[256] = "";

    (void)state;
    assert_int_equal(migrate_run("keys", first_two, &server.secret, why, sizeof why), ERR_OK);
    assert_int_equal(migrate_run("keys", first_only, &server.secret, why, sizeof why), ERR_CONFLICT);
    assert_non_null(strstr(why, "0002_second"));
}

static void every_migration_is_applied_once_and_in_order(void **state)
{
    char why[256] = "";

    (void)state;
    assert_int_equal(migrate_run("keys", first_only, &server.secret, why, sizeof why), ERR_OK);
    assert_int_equal(migrate_run("keys", first_two, &server.secret, why, sizeof why), ERR_OK);
    assert_int_equal(migrate_run("keys", first_two, &server.secret, why, sizeof why), ERR_OK);
    assert_int_equal(number("SELECT count(*) FROM first"), 2);
    assert_int_equal(number("SELECT count(*) FROM mcpgw.migration"), 2);
}

static void services_do_not_share_their_names(void **state)
{
    static const struct migration same_name[] = { { "0001_first", "CREATE TABLE other (id int);" }, { NULL, NULL } };
    char why[256] = "";

    (void)state;
    assert_int_equal(migrate_run("keys", first_only, &server.secret, why, sizeof why), ERR_OK);
    assert_int_equal(migrate_run("audit", same_name, &server.secret, why, sizeof why), ERR_OK);
    assert_int_equal(number("SELECT count(*) FROM mcpgw.migration WHERE name = '0001_first'"), 2);
}

static void two_runs_at_once_apply_each_migration_once(void **state)
{
    pid_t children[4];
    int status;

    (void)state;
    for (int i = 0; i < 4; i++) {
        children[i] = fork();
        if (children[i] == 0) {
            char why[256] = "";

            _exit(migrate_run("keys", first_two, &server.secret, why, sizeof why) == ERR_OK ? 0 : 1);
        }
    }
    for (int i = 0; i < 4; i++) {
        assert_int_equal(waitpid(children[i], &status, 0), children[i]);
        assert_int_equal(status, 0);
    }
    assert_int_equal(number("SELECT count(*) FROM first"), 2);
}

static int start_server(void **state)
{
    (void)state;
    postgres_server_start(&server);
    return 0;
}

static int stop_server(void **state)
{
    (void)state;
    server_stop(&server);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(a_server_that_is_not_there_is_unavailable, clear),
        cmocka_unit_test_setup(a_refused_migration_leaves_nothing_and_those_before_it_stay, clear),
        cmocka_unit_test_setup(a_migration_may_not_end_its_transaction, clear),
        cmocka_unit_test_setup(a_database_of_a_newer_release_is_a_conflict, clear),
        cmocka_unit_test_setup(every_migration_is_applied_once_and_in_order, clear),
        cmocka_unit_test_setup(services_do_not_share_their_names, clear),
        cmocka_unit_test_setup(two_runs_at_once_apply_each_migration_once, clear),
    };

    return cmocka_run_group_tests(tests, start_server, stop_server);
}
