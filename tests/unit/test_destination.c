/* test_destination.c - addresses that no upstream may have. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/un.h>

#include "common/destination.h"

typedef bool judge_fn(const struct sockaddr *address);

static bool judge(judge_fn *fn, const char *text)
{
    struct sockaddr_storage address = { 0 };
    struct sockaddr_in ipv4 = { .sin_family = AF_INET };
    struct sockaddr_in6 ipv6 = { .sin6_family = AF_INET6 };

    if (inet_pton(AF_INET, text, &ipv4.sin_addr) == 1) {
        memcpy(&address, &ipv4, sizeof ipv4);
    } else {
        assert_int_equal(inet_pton(AF_INET6, text, &ipv6.sin6_addr), 1);
        memcpy(&address, &ipv6, sizeof ipv6);
    }
    return fn((const struct sockaddr *)&address);
}

static bool is_refused(const char *text)
{
    return judge(destination_is_refused, text);
}

static void link_local_metadata_and_multicast_are_refused(void **state)
{
    static const char *const refused[] = {
        "169.254.169.254", "169.254.0.1", "0.0.0.0", "0.1.2.3", "224.0.0.1", "255.255.255.255", "100.100.100.200", "192.0.0.192",
        "fe80::1", "febf::1", "ff02::1", "::", "fd00:ec2::254", "::ffff:169.254.169.254", "::169.254.169.254", "64:ff9b::a9fe:a9fe",
        "168.63.129.16", "fd00:ec2::23", "fd20:ce::254", "2002:a9fe:a9fe::1", "64:ff9b:1::a9fe:a9fe",
    };

    (void)state;
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        if (!is_refused(refused[i]))
            fail_msg("taken: %s", refused[i]);
    }
}

static void another_family_is_refused(void **state)
{
    const struct sockaddr_un local = { .sun_family = AF_UNIX, .sun_path = "/x" };

    (void)state;
    assert_true(destination_is_refused((const struct sockaddr *)&local));
}

static void addresses_where_upstreams_live_are_taken(void **state)
{
    static const char *const taken[] = {
        "127.0.0.1", "10.0.0.7", "192.168.1.1", "172.16.0.1", "8.8.8.8", "223.255.255.255", "169.253.1.1", "100.64.0.1",
        "::1", "2001:db8::1", "fd12::1", "::ffff:127.0.0.1", "2002:a00:1::1", "64:ff9b:1::a00:1",
    };

    (void)state;
    for (size_t i = 0; i < sizeof taken / sizeof taken[0]; i++) {
        if (is_refused(taken[i]))
            fail_msg("refused: %s", taken[i]);
    }
}

static void private_networks_are_told_from_public_ones(void **state)
{
    static const char *const private[] = {
        "127.0.0.1", "127.255.0.1", "10.0.0.7", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "100.127.0.1",
        "::1", "fd12::1", "fc00::1", "::ffff:10.1.2.3", "64:ff9b::7f00:1",
    };
    static const char *const public[] = { "8.8.8.8", "172.15.0.1", "172.32.0.1", "192.167.0.1", "100.63.0.1", "100.128.0.1",
                                          "11.0.0.1", "2001:db8::1", "::ffff:8.8.8.8" };

    (void)state;
    for (size_t i = 0; i < sizeof private / sizeof private[0]; i++)
        if (!judge(destination_is_private, private[i]))
            fail_msg("public: %s", private[i]);
    for (size_t i = 0; i < sizeof public / sizeof public[0]; i++)
        if (judge(destination_is_private, public[i]))
            fail_msg("private: %s", public[i]);
}

static void only_loopback_addresses_are_loopback(void **state)
{
    (void)state;
    assert_false(judge(destination_is_loopback, "10.0.0.1"));
    assert_false(judge(destination_is_loopback, "128.0.0.1"));
    assert_false(judge(destination_is_loopback, "fd12::1"));
    assert_false(judge(destination_is_loopback, "::"));
    assert_true(judge(destination_is_loopback, "127.0.0.1"));
    assert_true(judge(destination_is_loopback, "::1"));
    assert_true(judge(destination_is_loopback, "::ffff:127.0.0.9"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(link_local_metadata_and_multicast_are_refused),
        cmocka_unit_test(another_family_is_refused),
        cmocka_unit_test(addresses_where_upstreams_live_are_taken),
        cmocka_unit_test(private_networks_are_told_from_public_ones),
        cmocka_unit_test(only_loopback_addresses_are_loopback),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
