/* test_message.c - the codec: what it refuses first, then what it promises. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <pthread.h>

#include "common/encode.h"
#include "common/message.h"

#define BUFFER 70000u

static const struct verdict_request sample = {
    .method = 1, .digest_size = 4, .digest = { 1, 2, 3, 4 }, .needed = 300, .server = "example", .address = "192.0.2.1",
};
/* A list of nine (ten in the next release): 1, bin 01020304, 300, "example", nil, "192.0.2.1", nil, nil, nil (, nil). */
static const char golden[] = "01c40401020304cd012ca76578616d706c65c0a93139322e302e322e31c0c0c0c0";

/* A type of its own, for what no row of messages.def uses today: a list, and a field that came with version 2. */
struct box {
    uint64_t number;
    uint32_t names_count;
    char names[3][9];
    bool is_open;
    char added[9];
    uint32_t seal_size;
    uint8_t seal[4];
    struct view load;
};
static const struct field box_fields[] = {
    { "number", FIELD_U64, FIELD_REQUIRED, offsetof(struct box, number), 0, 8, 1, 1, "" },
    { "names", FIELD_TEXTS, FIELD_OPTIONAL, offsetof(struct box, names), offsetof(struct box, names_count), 8, 3, 1, "" },
    { "is_open", FIELD_FLAG, FIELD_REQUIRED, offsetof(struct box, is_open), 0, 1, 1, 1, "" },
    { "seal", FIELD_BYTES, FIELD_OPTIONAL, offsetof(struct box, seal), offsetof(struct box, seal_size), 4, 1, 1, "" },
    { "load", FIELD_VIEW, FIELD_OPTIONAL, offsetof(struct box, load), 0, 300, 1, 1, "" },
    { "added", FIELD_TEXT, FIELD_REQUIRED, offsetof(struct box, added), 0, 8, 1, MESSAGES_VERSION + 1, "" },
};
static const struct message_type box_type = {
    0x7000, "box", SERVICE_EDGE, SERVICE_WORKER, 400, "", box_fields, sizeof box_fields / sizeof box_fields[0], sizeof(struct box),
};

static const struct message_type *request_type(void)
{
    return message_type_of(MESSAGE_verdict_request);
}

static enum err decode_hex(const struct message_type *type, const char *hex, void *message, const char **ret_field)
{
    static uint8_t bytes[BUFFER];
    size_t size = 0;

    assert_int_equal(hex_decode(hex, strlen(hex), bytes, sizeof bytes, &size), ERR_OK);
    return message_decode(type, 1, bytes, size, message, ret_field);
}

static size_t encode_sample(uint8_t *buffer, size_t capacity)
{
    size_t size = 0;

    assert_int_equal(message_encode(request_type(), MESSAGES_VERSION, &sample, buffer, capacity, &size), ERR_OK);
    return size;
}

static char *printed(const struct message_type *type, const void *message)
{
    static char line[2048];
    FILE *out = fmemopen(line, sizeof line, "w");

    message_print(type, message, out);
    fclose(out);
    return line;
}

static void every_truncation_is_malformed_and_leaves_zeroes(void **state)
{
    static const struct verdict_request zero;
    uint8_t bytes[256];
    size_t size = encode_sample(bytes, sizeof bytes);
    (void)state;

    for (size_t cut = 0; cut < size; cut++) {
        struct verdict_request back;
        uint8_t *exact = malloc(cut + 1);    /* so that a read beyond the end is seen */
        const char *field = NULL;

        memset(&back, 0xee, sizeof back);
        memcpy(exact, bytes, cut);
        assert_int_equal(message_decode(request_type(), MESSAGES_VERSION, exact, cut, &back, &field), ERR_MALFORMED);
        assert_non_null(field);
        assert_memory_equal(&back, &zero, sizeof zero);
        free(exact);
    }
}

static void malformed_bytes_are_refused_and_leave_zeroes(void **state)
{
    static const struct { const char *why, *hex; } cases[] = {
        { "a list that declares 268 million values",     "dd0fffffff" },
        { "a list that declares 4 billion values",       "ddffffffff" },
        { "a map that declares 16 million pairs",        "df00ffffff" },
        { "a text that declares 4 billion bytes",        "9adbffffffff" },
        { "bytes that declare 4 billion bytes",          "9ac6ffffffff" },
        { "no bytes at all",                             "" },
        { "a number instead of a list",                  "01" },
        { "a map instead of a list",                     "8101c0" },
        { "too few values",                              "9501c40401020304cd012ca76578616d706c65c0" },
        { "too many values",                             "9b01c40401020304cd012ca76578616d706c65c0a93139322e302e322e31c0c0c0c0c0" },
        { "a trailing byte",                             "9a01c40401020304cd012ca76578616d706c65c0a93139322e302e322e31c0c0c0c000" },
        { "an extension value",                          "9ad40100c40401020304cd012ca76578616d706c65c0c0c0c0c0c0" },
        { "a float for a number",                        "9aca3f800000c40401020304cd012cc0c0c0c0c0c0c0" },
        { "a double for a number",                       "9acb3ff0000000000000c40401020304cd012cc0c0c0c0c0c0c0" },
        { "a small negative number",                     "9affc40401020304cd012cc0c0c0c0c0c0c0" },
        { "a negative number",                           "9ad0ffc40401020304cd012cc0c0c0c0c0c0c0" },
        { "a negative number of eight bytes",            "9ad3ffffffffffffffffc40401020304cd012cc0c0c0c0c0c0c0" },
        { "nil for a required number",                   "9ac0c40401020304cd012cc0c0c0c0c0c0c0" },
        { "nil for a secret",                            "9a01c0cd012cc0c0c0c0c0c0c0" },
        { "text for a number",                           "9aa131c40401020304cd012cc0c0c0c0c0c0c0" },
        { "true for a number",                           "9ac3c40401020304cd012cc0c0c0c0c0c0c0" },
        { "text for bytes",                              "9a01a401020304cd012cc0c0c0c0c0c0c0" },
        { "more bytes than the row allows",              "9a01c421000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20cd012cc0c0c0c0c0c0c0" },
        { "bytes for a text",                            "9a01c40401020304cd012cc40161c0c0c0c0c0c0" },
        { "a list for a text",                           "9a01c40401020304cd012c9161c0c0c0c0c0c0" },
        { "a line end in a text",                        "9a01c40401020304cd012ca10ac0c0c0c0c0c0" },
        { "a NUL in a text",                             "9a01c40401020304cd012ca3610062c0c0c0c0c0c0" },
        { "a byte beyond ASCII in a text",               "9a01c40401020304cd012ca2c3a4c0c0c0c0c0c0" },
        { "a DEL behind eight good letters",             "9a01c40401020304cd012ca961616161616161617fc0c0c0c0c0c0" },
        { "a blank line in the second eight letters",    "9a01c40401020304cd012cb0616161616161616161610a6161616161c0c0c0c0c0c0" },
        { "a list within lists within lists",            "9a01c4040102030491919100c0c0c0c0c0c0c0" },
    };
    static const struct verdict_request zero;
    (void)state;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct verdict_request back;
        const char *field = NULL;

        memset(&back, 0xee, sizeof back);
        if (decode_hex(request_type(), cases[i].hex, &back, &field) != ERR_MALFORMED || field == NULL)
            fail_msg("accepted %s", cases[i].why);
        if (memcmp(&back, &zero, sizeof zero) != 0)
            fail_msg("left something behind for %s", cases[i].why);
    }
}

static void a_text_over_its_limit_is_refused(void **state)
{
    struct goodbye back, long_one;
    uint8_t bytes[128] = { 0x91, 0xd9, 41 };
    const char *field = NULL;
    (void)state;

    memset(bytes + 3, 'x', 41);
    assert_int_equal(message_decode(message_type_of(MESSAGE_goodbye), 1, bytes, 44, &back, &field), ERR_MALFORMED);
    assert_string_equal(field, "reason");
    bytes[2] = 40;
    assert_int_equal(message_decode(message_type_of(MESSAGE_goodbye), 1, bytes, 43, &back, &field), ERR_OK);
    assert_int_equal(strlen(back.reason), 40);

    size_t size = 7;
    memset(long_one.reason, 'x', sizeof long_one.reason);    /* no NUL within the limit */
    assert_int_equal(message_encode(message_type_of(MESSAGE_goodbye), 1, &long_one, bytes, sizeof bytes, &size), ERR_BUG);
    assert_int_equal(size, 7);
}

static void a_body_over_its_rows_limit_is_refused(void **state)
{
    static uint8_t bytes[BUFFER];
    struct pulse back;
    const char *field = NULL;
    (void)state;

    /* Two numbers in 65 bytes: sound, but no pulse is that long. */
    memset(bytes, 0, sizeof bytes);
    bytes[0] = 0xdc;
    bytes[2] = 62;
    assert_int_equal(message_decode(message_type_of(MESSAGE_pulse), 1, bytes, 65, &back, &field), ERR_MALFORMED);

    static uint8_t load[4000];
    size_t size;
    struct holders holders = { .edge_size = 16, .workers_size = 960 };
    struct message_type narrow = *message_type_of(MESSAGE_holders);
    narrow.body_limit = 900;
    assert_int_equal(message_encode(&narrow, 1, &holders, load, sizeof load, &size), ERR_TOO_LARGE);
}

static void a_foreign_version_is_refused(void **state)
{
    uint8_t bytes[256];
    size_t size = encode_sample(bytes, sizeof bytes);
    struct verdict_request back;
    const char *field = NULL;
    (void)state;

    assert_int_equal(message_decode(request_type(), 0, bytes, size, &back, &field), ERR_MALFORMED);
    assert_int_equal(message_decode(request_type(), MESSAGES_VERSION + 1, bytes, size, &back, &field), ERR_MALFORMED);
    assert_int_equal(message_encode(request_type(), 0, &sample, bytes, sizeof bytes, &size), ERR_BUG);
    assert_int_equal(message_encode(request_type(), MESSAGES_VERSION + 1, &sample, bytes, sizeof bytes, &size), ERR_BUG);
}

static void a_struct_that_breaks_its_own_limits_is_a_bug(void **state)
{
    uint8_t bytes[512];
    size_t size;
    struct verdict_request request = sample;
    struct box box = { .names_count = 4 };
    (void)state;

    request.digest_size = 33;
    assert_int_equal(message_encode(request_type(), 1, &request, bytes, sizeof bytes, &size), ERR_BUG);
    request = sample;
    memcpy(request.tool, "a\tb", 4);
    assert_int_equal(message_encode(request_type(), 1, &request, bytes, sizeof bytes, &size), ERR_BUG);

    assert_int_equal(message_encode(&box_type, 1, &box, bytes, sizeof bytes, &size), ERR_BUG);
    box = (struct box){ .names_count = 1, .names = { "\x01" } };
    assert_int_equal(message_encode(&box_type, 1, &box, bytes, sizeof bytes, &size), ERR_BUG);
    box = (struct box){ .load = { NULL, 5 } };
    assert_int_equal(message_encode(&box_type, 1, &box, bytes, sizeof bytes, &size), ERR_BUG);
    box = (struct box){ .load = { bytes, 301 } };
    assert_int_equal(message_encode(&box_type, 1, &box, bytes, sizeof bytes, &size), ERR_BUG);
}

static void a_row_of_an_unknown_type_carries_nothing(void **state)
{
    struct field row = { "odd", (enum field_type)99, FIELD_OPTIONAL, 0, 0, 8, 1, 1, "" };
    const struct message_type type = { 0x7001, "odd", SERVICE_EDGE, SERVICE_EDGE, 64, "", &row, 1, 8 };
    uint8_t bytes[64], message[8] = { 1 };
    const char *field = NULL;
    size_t size = 0;
    (void)state;

    assert_int_equal(message_encode(&type, 1, message, bytes, sizeof bytes, &size), ERR_OK);
    assert_int_equal(size, 2);    /* a list of one nil */
    row.presence = FIELD_REQUIRED;
    assert_int_equal(message_encode(&type, 1, message, bytes, sizeof bytes, &size), ERR_BUG);
    assert_int_equal(message_decode(&type, 1, (const uint8_t *)"\x91\x01", 2, message, &field), ERR_MALFORMED);
    assert_string_equal(field, "odd");
}

static void every_capacity_too_small_is_too_large_and_writes_nothing_beyond(void **state)
{
    uint8_t bytes[256], whole[256];
    size_t size = encode_sample(whole, sizeof whole);
    (void)state;

    for (size_t capacity = 0; capacity < size; capacity++) {
        size_t unused = 99;

        memset(bytes, 0xee, sizeof bytes);
        assert_int_equal(message_encode(request_type(), MESSAGES_VERSION, &sample, bytes, capacity, &unused), ERR_TOO_LARGE);
        assert_int_equal(unused, 99);
        for (size_t i = capacity; i < sizeof bytes; i++)
            assert_int_equal(bytes[i], 0xee);
    }
    assert_int_equal(message_encode(request_type(), MESSAGES_VERSION, &sample, bytes, size, &size), ERR_OK);
    assert_memory_equal(bytes, whole, size);
}

static void lists_of_wrong_shape_are_refused(void **state)
{
    struct box back;
    const char *field = NULL;
    (void)state;

    assert_int_equal(decode_hex(&box_type, "950101c2c0c0", &back, &field), ERR_MALFORMED);           /* a number */
    assert_string_equal(field, "names");
    assert_int_equal(decode_hex(&box_type, "950194a161a162a163a164c2c0c0", &back, &field), ERR_MALFORMED);    /* four of three */
    assert_int_equal(decode_hex(&box_type, "95019101c2c0c0", &back, &field), ERR_MALFORMED);         /* a number within */
    assert_int_equal(decode_hex(&box_type, "9501c001c0c0", &back, &field), ERR_MALFORMED);           /* a number for a flag */
    assert_string_equal(field, "is_open");
    assert_int_equal(decode_hex(&box_type, "9501c0c2c0a0", &back, &field), ERR_MALFORMED);           /* text for a view */
    assert_string_equal(field, "load");
}

static void an_older_body_lacks_a_newer_field_which_reads_as_zero(void **state)
{
    struct box box = { .number = 7, .names_count = 2, .names = { "ann", "bob" }, .is_open = true, .added = "new",
                       .seal_size = 2, .seal = { 8, 9 }, .load = { (const uint8_t *)"abc", 3 } };
    struct box back;
    uint8_t bytes[256];
    size_t size = 0;
    const char *field = NULL;
    (void)state;

    assert_int_equal(message_encode(&box_type, MESSAGES_VERSION, &box, bytes, sizeof bytes, &size), ERR_OK);
    assert_int_equal(bytes[0], 0x95);    /* five of the six rows */
    memset(&back, 0xee, sizeof back);
    assert_int_equal(message_decode(&box_type, MESSAGES_VERSION, bytes, size, &back, &field), ERR_OK);
    assert_string_equal(back.added, "");
    assert_int_equal(back.number, 7);
    assert_int_equal(back.names_count, 2);
    assert_string_equal(back.names[1], "bob");
    assert_true(back.is_open);
    assert_int_equal(back.seal_size, 2);
    assert_memory_equal(back.seal, ((const uint8_t[]){ 8, 9, 0, 0 }), 4);
    assert_int_equal(back.load.size, 3);
    assert_true(back.load.bytes >= bytes && back.load.bytes < bytes + size);    /* by reference */
}

static void absent_fields_read_as_zero_whatever_was_there(void **state)
{
    struct box back;
    const char *field = NULL;
    (void)state;

    memset(&back, 0xee, sizeof back);
    assert_int_equal(decode_hex(&box_type, "9501c0c2c0c0", &back, &field), ERR_OK);
    assert_int_equal(back.names_count, 0);
    assert_false(back.is_open);
    assert_int_equal(back.seal_size, 0);
    assert_memory_equal(back.seal, ((const uint8_t[4]){ 0 }), 4);
    assert_null(back.load.bytes);
    assert_int_equal(back.load.size, 0);

    static struct verdict verdict;
    memset(&verdict, 0xee, sizeof verdict);
    assert_int_equal(decode_hex(message_type_of(MESSAGE_verdict), "dc001400c0c0c0010203c0c0c0c0c0c0c0c0c0c0c0c0c0", &verdict, &field), ERR_OK);
    assert_string_equal(verdict.user_id, "");
    assert_int_equal(verdict.expires_s, 0);
    assert_false(verdict.stale);
}

static void an_empty_value_is_not_an_absent_one_but_reads_the_same(void **state)
{
    struct verdict_request back;
    struct box box;
    const char *field = NULL;
    (void)state;

    memset(&back, 0xee, sizeof back);
    assert_int_equal(decode_hex(request_type(), "9a01c400cd012ca0a0a0c0c0c0c0", &back, &field), ERR_OK);
    assert_int_equal(back.digest_size, 0);
    assert_string_equal(back.server, "");
    assert_int_equal(decode_hex(&box_type, "950190c2c400c400", &box, &field), ERR_OK);
    assert_int_equal(box.names_count, 0);
    assert_int_equal(box.load.size, 0);
    assert_string_equal(printed(&box_type, &box), "box number=1 is_open=false added=\"\"\n");
}

static void a_short_digest_keeps_no_bytes_of_the_one_before(void **state)
{
    struct verdict_request back;
    const char *field = NULL;
    (void)state;

    memset(&back, 0xee, sizeof back);
    assert_int_equal(decode_hex(request_type(), "9a01c4020102cd012cc0c0c0c0c0c0c0", &back, &field), ERR_OK);
    assert_int_equal(back.digest_size, 2);
    assert_memory_equal(back.digest, ((const uint8_t[32]){ 1, 2 }), 32);
}

static void encoding_matches_the_recorded_bytes(void **state)
{
    uint8_t bytes[256];
    char hex[600];
    size_t size = 0;
    (void)state;

    assert_int_equal(message_encode(request_type(), MESSAGES_RELEASED, &sample, bytes, sizeof bytes, &size), ERR_OK);
    assert_int_equal(bytes[0], 0x9a);
    hex_encode(bytes + 1, size - 1, hex);
    assert_string_equal(hex, golden);
}

static void a_decoded_message_equals_the_encoded_one(void **state)
{
    struct verdict_request back = { 0 };
    uint8_t bytes[256];
    size_t size = encode_sample(bytes, sizeof bytes);
    const char *field = NULL;
    (void)state;

    assert_int_equal(message_decode(request_type(), MESSAGES_VERSION, bytes, size, &back, &field), ERR_OK);
    assert_memory_equal(&back, &sample, sizeof back);
}

/* The largest values of every row, so that no row's limits break its own body limit. */
static void fill(const struct message_type *type, uint8_t *message, uint8_t *load)
{
    for (size_t i = 0; i < type->field_count; i++) {
        const struct field *field = &type->fields[i];
        uint8_t *value = message + field->offset;
        const uint32_t length = (uint32_t)(field->type == FIELD_TEXTS ? field->count : field->limit);
        const struct view view = { load, field->limit };

        if (field->type == FIELD_U64)
            memset(value, 0xff, 8);
        if (field->type == FIELD_FLAG)
            *value = 1;
        if (field->type == FIELD_TEXT || field->type == FIELD_BYTES)
            memset(value, 'x', field->limit);
        if (field->type == FIELD_BYTES || field->type == FIELD_TEXTS)
            memcpy(message + field->length_offset, &length, sizeof length);
        if (field->type == FIELD_VIEW)
            memcpy(value, &view, sizeof view);
    }
}

static void every_row_survives_a_round_trip_at_its_limits(void **state)
{
    static uint8_t first[BUFFER], second[BUFFER], load[270000], bytes[270000], again[270000];
    size_t count;
    const struct message_type *types = message_types(&count);
    (void)state;

    for (size_t i = 0; i < count; i++) {
        size_t size = 0, again_size = 0;
        const char *field = NULL;

        assert_true(types[i].struct_size <= sizeof first);
        memset(first, 0, sizeof first);
        memset(second, 0xee, sizeof second);
        fill(&types[i], first, load);
        if (message_encode(&types[i], MESSAGES_VERSION, first, bytes, sizeof bytes, &size) != ERR_OK)
            fail_msg("%s cannot hold its own largest values", types[i].name);
        assert_int_equal(message_decode(&types[i], MESSAGES_VERSION, bytes, size, second, &field), ERR_OK);
        assert_int_equal(message_encode(&types[i], MESSAGES_VERSION, second, again, sizeof again, &again_size), ERR_OK);
        assert_int_equal(size, again_size);
        assert_memory_equal(bytes, again, size);
    }
}

static void fields_are_only_appended(void **state)
{
    size_t count;
    const struct message_type *types = message_types(&count);
    (void)state;

    for (size_t i = 0; i < count; i++) {
        for (size_t f = 1; f < types[i].field_count; f++)
            if (types[i].fields[f].since < types[i].fields[f - 1].since)
                fail_msg("%s.%s stands behind a newer field", types[i].name, types[i].fields[f].name);
        assert_int_equal(types[i].fields[0].since, 1);
    }
}

static void types_are_found_by_code_and_by_name(void **state)
{
    size_t count;
    const struct message_type *types = message_types(&count);
    (void)state;

    for (size_t i = 0; i < count; i++) {
        assert_ptr_equal(message_type_of(types[i].code), &types[i]);
        assert_ptr_equal(message_type_named(types[i].name), &types[i]);
    }
    assert_null(message_type_of(0));
    assert_null(message_type_of(0x00ff));
    assert_null(message_type_of(0xffff));
    assert_null(message_type_named("verdict_"));
}

static void only_the_roles_of_its_row_may_exchange_a_message(void **state)
{
    const struct message_type *verdict = message_type_of(MESSAGE_verdict);
    const struct message_type *ready = message_type_of(MESSAGE_ready);
    const struct message_type *event = message_type_of(MESSAGE_audit_event);
    (void)state;

    assert_true(message_is_allowed(verdict, SERVICE_AUTHZ, SERVICE_EDGE));
    assert_false(message_is_allowed(verdict, SERVICE_EDGE, SERVICE_AUTHZ));
    assert_false(message_is_allowed(verdict, SERVICE_RATELIMIT, SERVICE_EDGE));
    for (unsigned role = SERVICE_AUTHZ; role <= SERVICE_AUDIT; role++)
        assert_true(message_is_allowed(ready, (enum service)role, SERVICE_EDGE));
    assert_false(message_is_allowed(ready, SERVICE_EDGE, SERVICE_EDGE));
    assert_false(message_is_allowed(ready, SERVICE_WORKER, SERVICE_EDGE));
    for (unsigned from = 0; from <= SERVICE_SPOOL; from++)
        for (unsigned to = 0; to <= SERVICE_SPOOL; to++)
            assert_false(message_is_allowed(event, (enum service)from, (enum service)to));
}

static void printing_never_shows_a_secret(void **state)
{
    const struct manage_reply reply = { .status = 201, .body = { (const uint8_t *)"mcp_secret", 10 } };
    (void)state;

    assert_string_equal(printed(request_type(), &sample),
                        "verdict_request method=1 digest=[secret] needed=300 server=\"example\" address=\"192.0.2.1\"\n");
    assert_string_equal(printed(message_type_of(MESSAGE_manage_reply), &reply), "manage_reply status=201 body=[secret]\n");
}

static void printing_shows_every_type_and_escapes(void **state)
{
    uint8_t blob[201];
    struct box box = { .number = 7, .names_count = 2, .names = { "a\"b", "c\\\x01" }, .is_open = true, .added = "x",
                       .seal_size = 2, .seal = { 0x0a, 0xff }, .load = { (const uint8_t *)"abc", 3 } };
    (void)state;

    assert_string_equal(printed(&box_type, &box),
                        "box number=7 names=\"a\\\"b\",\"c\\\\\\x01\" is_open=true seal=0aff load=\"abc\" added=\"x\"\n");
    memset(blob, 'x', sizeof blob);
    box = (struct box){ .load = { blob, 201 } };
    assert_string_equal(printed(&box_type, &box), "box number=0 is_open=false load=[201 bytes] added=\"\"\n");
    blob[3] = 0;
    box.load.size = 5;
    assert_string_equal(printed(&box_type, &box), "box number=0 is_open=false load=[5 bytes] added=\"\"\n");
}

static void wiping_leaves_zeroes(void **state)
{
    static const struct verdict_request zero;
    struct verdict_request request = sample;
    (void)state;

    message_wipe(request_type(), &request);
    assert_memory_equal(&request, &zero, sizeof zero);
}

static void *decode_in_a_thread(void *unused)
{
    struct verdict_request back;
    uint8_t bytes[256];
    const char *field = NULL;
    size_t size = encode_sample(bytes, sizeof bytes);

    for (int i = 0; i < 3; i++)
        if (message_decode(request_type(), MESSAGES_VERSION, bytes, size, &back, &field) != ERR_OK)
            return unused;
    return NULL;
}

static void threads_decode_and_end_without_a_leak(void **state)
{
    pthread_t threads[4];
    int mark = 0;
    void *result = NULL;
    (void)state;

    for (size_t i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, decode_in_a_thread, &mark), 0);
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(pthread_join(threads[i], &result), 0);
        assert_null(result);
    }
}

static void the_document_names_every_message_and_field(void **state)
{
    char *text = NULL;
    size_t length = 0, count;
    FILE *out = open_memstream(&text, &length);
    const struct message_type *types = message_types(&count);
    (void)state;

    message_document(out);
    fclose(out);
    for (size_t i = 0; i < count; i++) {
        assert_non_null(strstr(text, types[i].name));
        for (size_t f = 0; f < types[i].field_count; f++)
            assert_non_null(strstr(text, types[i].fields[f].name));
    }
    free(text);
}

static void services_have_names_and_unknown_ones_none(void **state)
{
    (void)state;

    assert_string_equal(service_text(SERVICE_EDGE), "edge");
    assert_string_equal(service_text(SERVICE_RATELIMIT), "ratelimit");
    assert_string_equal(service_text(SERVICE_COUNT), "");
    assert_string_equal(service_text(UINT64_MAX), "");
}

static void the_schema_matches_the_recorded_version(void **state)
{
    /* One row per released version, the newest last. */
    static const struct { unsigned version; uint64_t fingerprint; } recorded[] = {
        { 1, UINT64_C(0x18a6bcbfae2d3580) },
    };
    const size_t last = sizeof recorded / sizeof recorded[0] - 1;
    const uint64_t fingerprint = message_schema_fingerprint();
    (void)state;

    if (MESSAGES_VERSION != MESSAGES_RELEASED)
        skip();    /* the upgrade test's next release is never recorded */
    if (recorded[last].version != MESSAGES_VERSION || recorded[last].fingerprint != fingerprint)
        fail_msg("messages.def changed. Not released yet: record 0x%016llx here and make docs. Released: append the row "
                 "{ %d, 0x%016llx }, raise MESSAGES_RELEASED in message.h, give new fields that number as `since`, "
                 "and re-record tests/wire/",
                 (unsigned long long)fingerprint, MESSAGES_VERSION + 1, (unsigned long long)fingerprint);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_truncation_is_malformed_and_leaves_zeroes),
        cmocka_unit_test(malformed_bytes_are_refused_and_leave_zeroes),
        cmocka_unit_test(a_text_over_its_limit_is_refused),
        cmocka_unit_test(a_body_over_its_rows_limit_is_refused),
        cmocka_unit_test(a_foreign_version_is_refused),
        cmocka_unit_test(a_struct_that_breaks_its_own_limits_is_a_bug),
        cmocka_unit_test(a_row_of_an_unknown_type_carries_nothing),
        cmocka_unit_test(every_capacity_too_small_is_too_large_and_writes_nothing_beyond),
        cmocka_unit_test(lists_of_wrong_shape_are_refused),
        cmocka_unit_test(an_older_body_lacks_a_newer_field_which_reads_as_zero),
        cmocka_unit_test(absent_fields_read_as_zero_whatever_was_there),
        cmocka_unit_test(an_empty_value_is_not_an_absent_one_but_reads_the_same),
        cmocka_unit_test(a_short_digest_keeps_no_bytes_of_the_one_before),
        cmocka_unit_test(encoding_matches_the_recorded_bytes),
        cmocka_unit_test(a_decoded_message_equals_the_encoded_one),
        cmocka_unit_test(every_row_survives_a_round_trip_at_its_limits),
        cmocka_unit_test(fields_are_only_appended),
        cmocka_unit_test(types_are_found_by_code_and_by_name),
        cmocka_unit_test(only_the_roles_of_its_row_may_exchange_a_message),
        cmocka_unit_test(printing_never_shows_a_secret),
        cmocka_unit_test(printing_shows_every_type_and_escapes),
        cmocka_unit_test(wiping_leaves_zeroes),
        cmocka_unit_test(threads_decode_and_end_without_a_leak),
        cmocka_unit_test(the_document_names_every_message_and_field),
        cmocka_unit_test(services_have_names_and_unknown_ones_none),
        cmocka_unit_test(the_schema_matches_the_recorded_version),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
