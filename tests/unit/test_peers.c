/* test_peers.c - only configured proxies are believed, and only up to the first that is none. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "services/edge/peers.h"

static struct peers parse(const char *text)
{
    struct peers peers = { 0 };
    const char *item = NULL;

    assert_int_equal(peers_parse(text, &peers, &item), ERR_OK);
    return peers;
}

static void what_is_no_address_is_refused(void **state)
{
    static const char *const texts[] = { "x", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/x", "::/129", "10.0.0", "1.2.3.4:80", "10.0.0.1, y" };
    struct peers peers;
    const char *item;
    (void)state;

    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        assert_int_equal(peers_parse(texts[i], &peers, &item), ERR_MALFORMED);
}

static void nobody_is_trusted_unless_configured(void **state)
{
    struct peers none = parse(""), some = parse("10.0.0.0/8, 192.0.2.7,fd00::/8");
    (void)state;

    assert_false(peers_trusts(&none, "127.0.0.1"));
    assert_true(peers_trusts(&some, "10.255.0.1"));
    assert_true(peers_trusts(&some, "192.0.2.7"));
    assert_false(peers_trusts(&some, "192.0.2.8"));
    assert_false(peers_trusts(&some, "11.0.0.1"));
    assert_true(peers_trusts(&some, "fd12::1"));
    assert_true(peers_trusts(&some, "::ffff:10.1.1.1"));
    assert_false(peers_trusts(&some, "junk"));
}

static void the_client_is_the_right_most_hop_that_is_no_proxy(void **state)
{
    static const struct { const char *peer, *forwarded, *client; } cases[] = {
        { "198.51.100.1", "1.2.3.4", "198.51.100.1" },
        { "10.0.0.1", NULL, "10.0.0.1" },
        { "10.0.0.1", "", "10.0.0.1" },
        { "10.0.0.1", "1.2.3.4", "1.2.3.4" },
        { "10.0.0.1", "6.6.6.6, 1.2.3.4, 10.0.0.2", "1.2.3.4" },
        { "10.0.0.1", "6.6.6.6,junk, 10.0.0.2", "10.0.0.2" },
        { "10.0.0.1", "junk", "10.0.0.1" },
        { "10.0.0.1", "1.2.3.4:5678", "1.2.3.4" },
        { "10.0.0.1", "[2001:db8::1]:443", "2001:db8::1" },
        { "10.0.0.1", "2001:db8::1", "2001:db8::1" },
        { "10.0.0.1", "fe80::1%eth0", "10.0.0.1" },
        { "10.0.0.1", "[2001:db8::1", "10.0.0.1" },
        { "10.0.0.1", "::ffff:1.2.3.4", "1.2.3.4" },
        { "10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3" },
    };
    struct peers peers = parse("10.0.0.0/8");
    char client[PEERS_ADDRESS_SIZE];
    (void)state;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        peers_client(&peers, cases[i].peer, cases[i].forwarded, client);
        assert_string_equal(client, cases[i].client);
    }
}

static void what_is_no_address_ends_the_chain(void **state)
{
    struct peers peers = parse("10.0.0.0/8");
    char client[PEERS_ADDRESS_SIZE];
    (void)state;

    assert_false(peers_client(&peers, "10.0.0.1", "unknown", client));
    assert_false(peers_client(&peers, "10.0.0.1", "1.2.3.4, _hidden, 10.0.0.2", client));
    assert_true(peers_client(&peers, "10.0.0.1", "junk, 1.2.3.4", client));
    assert_true(peers_client(&peers, "10.0.0.1", " , ", client));
    assert_true(peers_client(&peers, "10.0.0.1", NULL, client));
}

static void a_long_list_costs_bounded_work(void **state)
{
    static char list[20000];
    struct peers peers = parse("10.0.0.0/8");
    char client[PEERS_ADDRESS_SIZE];
    (void)state;

    for (size_t i = 0; i + 10 < sizeof list; i += 10)
        memcpy(list + i, "10.0.0.2, ", 10);
    peers_client(&peers, "10.0.0.1", list, client);
    assert_string_equal(client, "10.0.0.2");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_no_address_is_refused),
        cmocka_unit_test(nobody_is_trusted_unless_configured),
        cmocka_unit_test(the_client_is_the_right_most_hop_that_is_no_proxy),
        cmocka_unit_test(what_is_no_address_ends_the_chain),
        cmocka_unit_test(a_long_list_costs_bounded_work),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
