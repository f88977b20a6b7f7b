/* Networks and lists that limit a key: what is not plainly admitted is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "common/reach.h"

static bool holds(const char *network_text, const char *address_text)
{
    struct network network;
    uint8_t address[16];

    assert_int_equal(network_parse(network_text, &network), ERR_OK);
    assert_int_equal(address_parse(address_text, address), ERR_OK);
    return network_holds(&network, address);
}

static void what_is_no_network_is_malformed(void **state)
{
    static const char *const texts[] = {
        "", "/", "/8", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/08", "10.0.0.0/+8", "10.0.0.0/ 8", "10.0.0.0/8/8", "10.0.0",
        "010.0.0.1", "0x0a.0.0.1", "10.0.0.1 ", " 10.0.0.1", "10.0.0.0/8\n", "::/129", "::/1000", "fe80::1%eth0", "1::2::3",
        "2001:db8::/-1", "example.org", "*", "10.0.0.*", "::ffff:10.0.0.0.0",
        "1111:1111:1111:1111:1111:1111:1111:1111:1111:1111:1111:1111:1111:1111",
    };
    struct network network;

    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        assert_int_equal(network_parse(texts[i], &network), ERR_MALFORMED);
}

static void bits_behind_the_network_are_refused(void **state)
{
    static const char *const texts[] = { "10.0.0.1/8", "0.0.0.1/0", "192.0.2.129/25", "2001:db8::1/64", "::1/0",
                                         "::ffff:10.0.0.1/104", "8000::/0" };
    struct network network;

    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        assert_int_equal(network_parse(texts[i], &network), ERR_UNPROCESSABLE);
}

static void every_network_has_one_form(void **state)
{
    static const char *const pairs[][2] = {
        { "10.0.0.0/8", "10.0.0.0/8" },       { "192.0.2.1", "192.0.2.1" },         { "192.0.2.1/32", "192.0.2.1" },
        { "0.0.0.0/0", "0.0.0.0/0" },         { "::ffff:192.0.2.1", "192.0.2.1" },  { "::ffff:10.0.0.0/104", "10.0.0.0/8" },
        { "::ffff:0:0/96", "0.0.0.0/0" },     { "2001:DB8:0:0::1", "2001:db8::1" }, { "2001:db8::/32", "2001:db8::/32" },
        { "::/0", "::/0" },                   { "::1/128", "::1" },                 { "::ffff:0:0/95", "" },
    };
    char text[NETWORK_TEXT_SIZE];
    struct network network;

    (void)state;
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        if (pairs[i][1][0] == '\0') {
            assert_int_equal(network_parse(pairs[i][0], &network), ERR_UNPROCESSABLE);
            continue;
        }
        assert_int_equal(network_parse(pairs[i][0], &network), ERR_OK);
        network_format(&network, text);
        assert_string_equal(text, pairs[i][1]);
    }
}

static void a_network_holds_its_own_addresses_alone(void **state)
{
    (void)state;
    assert_false(holds("10.0.0.0/8", "11.0.0.0"));
    assert_false(holds("192.0.2.0/25", "192.0.2.128"));
    assert_false(holds("192.0.2.1", "192.0.2.2"));
    assert_false(holds("2001:db8::/33", "2001:db8:8000::1"));
    assert_false(holds("10.0.0.0/8", "::10.0.0.1"));
    assert_true(holds("10.0.0.0/8", "10.255.255.255"));
    assert_true(holds("10.0.0.0/8", "::ffff:10.1.2.3"));
    assert_true(holds("192.0.2.0/25", "192.0.2.127"));
    assert_true(holds("0.0.0.0/0", "203.0.113.9"));
    assert_true(holds("2001:db8::/33", "2001:db8:7fff::1"));
    assert_true(holds("::/0", "2001:db8::1"));
}

static void no_ipv6_network_opens_to_ipv4(void **state)
{
    (void)state;
    assert_false(holds("::/0", "10.0.0.1"));
    assert_false(holds("::/64", "::ffff:10.0.0.1"));
    assert_false(holds("0.0.0.0/0", "2001:db8::1"));
}

/* ---- lists ---- */

static const struct reach_texts all = { "10.0.0.0/8\n2001:db8::/32", "files\nexample", "read_file\nlist files" };

static size_t pack(const struct reach_texts *texts, uint8_t bytes[REACH_SIZE_MAX])
{
    size_t size = 12345;

    assert_int_equal(reach_pack(texts, bytes, &size), ERR_OK);
    assert_true(reach_is_sound(bytes, size));
    return size;
}

static void what_no_list_limits_is_admitted(void **state)
{
    uint8_t bytes[REACH_SIZE_MAX];
    size_t size = pack(&(struct reach_texts){ 0 }, bytes);

    (void)state;
    assert_int_equal(size, 0);
    assert_true(reach_holds_address(bytes, size, "nonsense"));
    assert_true(reach_holds_server(bytes, size, "") && reach_holds_tool(bytes, size, ""));
}

static void a_list_admits_what_it_names_and_nothing_else(void **state)
{
    uint8_t bytes[REACH_SIZE_MAX];
    size_t size = pack(&all, bytes);

    (void)state;
    assert_false(reach_holds_address(bytes, size, "11.0.0.1"));
    assert_false(reach_holds_address(bytes, size, ""));
    assert_false(reach_holds_address(bytes, size, "10.0.0.1:80"));
    assert_false(reach_holds_server(bytes, size, "file") || reach_holds_server(bytes, size, "filesx"));
    assert_false(reach_holds_server(bytes, size, "") || reach_holds_server(bytes, size, "Files"));
    assert_false(reach_holds_server(bytes, size, "read_file"));
    assert_false(reach_holds_tool(bytes, size, "files") || reach_holds_tool(bytes, size, ""));
    assert_true(reach_holds_address(bytes, size, "10.9.9.9") && reach_holds_address(bytes, size, "2001:db8::7"));
    assert_true(reach_holds_server(bytes, size, "files") && reach_holds_server(bytes, size, "example"));
    assert_true(reach_holds_tool(bytes, size, "read_file") && reach_holds_tool(bytes, size, "list files"));
}

static void an_empty_list_admits_nothing(void **state)
{
    uint8_t bytes[REACH_SIZE_MAX];
    size_t size = pack(&(struct reach_texts){ "", "", "" }, bytes);

    (void)state;
    assert_false(reach_holds_address(bytes, size, "10.0.0.1"));
    assert_false(reach_holds_server(bytes, size, "files") || reach_holds_tool(bytes, size, "read_file"));
}

static void a_list_beyond_its_limits_is_refused(void **state)
{
    uint8_t bytes[REACH_SIZE_MAX];
    char many[REACH_TOOLS_MAX * (REACH_TOOL_MAX + 1) + 1] = "", *at = many;
    size_t size;

    (void)state;
    for (unsigned i = 0; i <= REACH_NETWORKS_MAX; i++)
        at += sprintf(at, "10.0.0.%u\n", i);
    assert_int_equal(reach_pack(&(struct reach_texts){ .addresses = many }, bytes, &size), ERR_TOO_LARGE);
    assert_int_equal(reach_pack(&(struct reach_texts){ .servers = many }, bytes, &size), ERR_TOO_LARGE);
    assert_int_equal(reach_pack(&(struct reach_texts){ .tools = many }, bytes, &size), ERR_OK);
    at = many;
    for (unsigned i = 0; i < REACH_TOOLS_MAX; i++)
        at += sprintf(at, "%0128u\n", i);
    assert_int_equal(reach_pack(&(struct reach_texts){ .tools = many }, bytes, &size), ERR_TOO_LARGE);
    assert_int_equal(reach_pack(&(struct reach_texts){ .addresses = "10.0.0.1/8" }, bytes, &size), ERR_MALFORMED);
    assert_int_equal(reach_pack(&(struct reach_texts){ .servers = "a\n\nb" }, bytes, &size), ERR_MALFORMED);
    assert_int_equal(reach_pack(&(struct reach_texts){ .tools = "a\tb" }, bytes, &size), ERR_MALFORMED);
    memset(many, 'x', 129);
    many[129] = '\0';
    assert_int_equal(reach_pack(&(struct reach_texts){ .tools = many }, bytes, &size), ERR_MALFORMED);
    many[65] = '\0';
    assert_int_equal(reach_pack(&(struct reach_texts){ .servers = many }, bytes, &size), ERR_MALFORMED);
}

static void bytes_that_were_cut_or_changed_are_unsound(void **state)
{
    uint8_t bytes[REACH_SIZE_MAX + 1];
    size_t size = pack(&all, bytes);

    (void)state;
    for (size_t cut = 1; cut < size; cut++)
        assert_false(reach_is_sound(bytes, cut));
    bytes[size] = 0;
    assert_false(reach_is_sound(bytes, size + 1));
    bytes[0] = 0;
    assert_false(reach_is_sound(bytes, size));
    bytes[0] = 8;
    assert_false(reach_is_sound(bytes, size));
    bytes[0] = 7;
    bytes[1 + 17] = 129;
    assert_false(reach_is_sound(bytes, size));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_no_network_is_malformed),
        cmocka_unit_test(bits_behind_the_network_are_refused),
        cmocka_unit_test(every_network_has_one_form),
        cmocka_unit_test(a_network_holds_its_own_addresses_alone),
        cmocka_unit_test(no_ipv6_network_opens_to_ipv4),
        cmocka_unit_test(what_no_list_limits_is_admitted),
        cmocka_unit_test(a_list_admits_what_it_names_and_nothing_else),
        cmocka_unit_test(an_empty_list_admits_nothing),
        cmocka_unit_test(a_list_beyond_its_limits_is_refused),
        cmocka_unit_test(bytes_that_were_cut_or_changed_are_unsound),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
