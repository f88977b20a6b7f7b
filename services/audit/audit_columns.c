#include "services/audit/audit_columns.h"

#include <assert.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "common/scope.h"

#define ARRAY_HEADER 20u       /* dimensions, has NULLs, element type, length, lower bound: 4 bytes each */
#define OID_INT8     20u
#define OID_INT4     23u
#define OID_TEXT     25u
#define OID_INSTANT  1184u     /* timestamptz */
#define UNIX_TO_POSTGRES_US UINT64_C(946684800000000)    /* its epoch is 2000-01-01 */
#define TIME_US_MAX         UINT64_C(253402300799000000) /* year 9999 */
#define FIELDS        18u
#define SET_SLOTS     8192u
#define SET_MAX       4096u    /* distinct values looked for; beyond, one may stand twice, which the index forgives */
#define WORST_ELEMENT 12u      /* length and the largest number */
#define NAME_MAX_SIZE 32u

struct array {
    uint8_t *bytes;
    size_t size, capacity;
    uint32_t count;
};

/* Offsets of the distinct values in their array, found by hash. */
struct set {
    uint32_t count;
    uint32_t slots[SET_SLOTS];    /* 0: free */
};

struct columns {
    uint8_t producer[UUID_SIZE];
    uint64_t epoch;
    struct merkle tree;
    struct { uint8_t *bytes; size_t capacity; } leaf;
    struct array arrays[COLUMNS];
    struct set keys, users;
    uint64_t first_seq, next_seq, first_us, last_us;
    const struct message_type *type;
};

struct value {
    const uint8_t *text;
    size_t size;
    uint64_t number;
};

/* The fields of audit_event, in its order, and where each goes. */
static const struct field_row { const char *name; enum column column; } field_rows[FIELDS] = {
    { "event", COLUMN_EVENT }, { "outcome", COLUMN_OUTCOME }, { "reason", COLUMN_REASON },
    { "request_id", COLUMN_REQUEST_ID }, { "user_id", COLUMN_USER_ID }, { "tenant_id", COLUMN_TENANT_ID },
    { "auth_method", COLUMN_AUTH_METHOD }, { "key_id", COLUMN_KEY_ID }, { "address", COLUMN_ADDRESS },
    { "method", COLUMN_METHOD }, { "path", COLUMN_PATH }, { "server", COLUMN_SERVER }, { "tool", COLUMN_TOOL },
    { "status", COLUMN_STATUS }, { "latency_us", COLUMN_LATENCY_US }, { "bytes", COLUMN_BYTES },
    { "count", COLUMN_COUNT }, { "details", COLUMN_DETAILS },
};

static uint32_t element_oid(enum column column)
{
    if (column == COLUMN_AT)
        return OID_INSTANT;
    if (column == COLUMN_STATUS)
        return OID_INT4;
    if (column == COLUMN_LATENCY_US || column == COLUMN_BYTES || column == COLUMN_COUNT)
        return OID_INT8;
    return OID_TEXT;
}

static void put_u32(uint8_t *bytes, uint32_t value)
{
    value = __builtin_bswap32(value);
    memcpy(bytes, &value, sizeof value);
}

void columns_reset(struct columns *columns)
{
    for (size_t i = 0; i < COLUMNS; i++) {
        columns->arrays[i].size = ARRAY_HEADER;
        columns->arrays[i].count = 0;
    }
    memset(&columns->keys, 0, sizeof columns->keys);
    memset(&columns->users, 0, sizeof columns->users);
    columns->first_seq = columns->next_seq = 0;
    columns->first_us = columns->last_us = 0;
}

static enum err leaf_reserve(struct columns *columns, size_t more)
{
    const size_t capacity = LEAF_HEAD_SIZE + EVENT_COLUMNS_COUNT * WORST_ELEMENT + more;
    uint8_t *bytes;

    if (capacity <= columns->leaf.capacity)
        return ERR_OK;
    bytes = realloc(columns->leaf.bytes, capacity);
    if (bytes == NULL)
        return ERR_NO_MEMORY;
    columns->leaf.bytes = bytes;
    columns->leaf.capacity = capacity;
    return ERR_OK;
}

/* Room for `more` bytes in every array, so that appending cannot fail half-way through a block. */
static enum err columns_reserve(struct columns *columns, size_t more)
{
    for (size_t i = 0; i < COLUMNS; i++) {
        struct array *array = &columns->arrays[i];
        size_t capacity = array->size + more;
        uint8_t *bytes;

        if (capacity <= array->capacity)
            continue;
        capacity += capacity / 2;
        bytes = realloc(array->bytes, capacity);
        if (bytes == NULL)
            return ERR_NO_MEMORY;
        array->bytes = bytes;
        array->capacity = capacity;
    }
    return leaf_reserve(columns, more);
}

void columns_follow(struct columns *columns, const uint8_t producer[UUID_SIZE], uint64_t epoch, const struct merkle *tree)
{
    memcpy(columns->producer, producer, UUID_SIZE);
    columns->epoch = epoch;
    columns->tree = *tree;
}

enum err columns_new(struct columns **ret_columns)
{
    struct columns *columns = calloc(1, sizeof *columns);

    if (columns == NULL)
        return ERR_NO_MEMORY;
    columns->type = message_type_of(MESSAGE_audit_event);
    assert(columns->type != NULL && columns->type->field_count >= FIELDS);
    for (size_t i = 0; i < FIELDS; i++)
        assert(strcmp(columns->type->fields[i].name, field_rows[i].name) == 0);
    columns_reset(columns);
    *ret_columns = columns;
    return ERR_OK;
}

void columns_destroy(struct columns **columns)
{
    if (*columns == NULL)
        return;
    for (size_t i = 0; i < COLUMNS; i++)
        free((*columns)->arrays[i].bytes);
    free((*columns)->leaf.bytes);
    free(*columns);
    *columns = NULL;
}

static void array_put(struct array *array, const void *bytes, size_t size)
{
    put_u32(array->bytes + array->size, (uint32_t)size);
    memcpy(array->bytes + array->size + 4, bytes, size);
    array->size += 4 + size;
    array->count++;
}

static void array_put_null(struct array *array)
{
    put_u32(array->bytes + array->size, UINT32_MAX);
    array->size += 4;
    array->count++;
}

static void array_put_text(struct array *array, const void *text, size_t size)
{
    if (size == 0)
        array_put_null(array);
    else
        array_put(array, text, size);
}

static void array_put_u64(struct array *array, uint64_t number)
{
    uint64_t big_endian = __builtin_bswap64(number > INT64_MAX ? INT64_MAX : number);

    array_put(array, &big_endian, sizeof big_endian);
}

static void array_put_u32(struct array *array, uint64_t number)
{
    uint32_t big_endian = __builtin_bswap32(number > INT32_MAX ? INT32_MAX : (uint32_t)number);

    array_put(array, &big_endian, sizeof big_endian);
}

static uint32_t hash_text(const uint8_t *text, size_t size)
{
    uint64_t hash = size, word;

    for (; size >= sizeof word; text += sizeof word, size -= sizeof word) {
        memcpy(&word, text, sizeof word);
        hash = (hash ^ word) * UINT64_C(0x9e3779b97f4a7c15);
        hash ^= hash >> 32;
    }
    word = 0;
    memcpy(&word, text, size);
    hash = (hash ^ word) * UINT64_C(0x9e3779b97f4a7c15);
    return (uint32_t)(hash >> 40);
}

static void set_put(struct set *set, struct array *array, const uint8_t *text, size_t size)
{
    uint32_t slot;
    uint8_t length[4];

    if (size == 0)
        return;
    put_u32(length, (uint32_t)size);
    for (slot = hash_text(text, size) % SET_SLOTS; set->slots[slot] != 0; slot = (slot + 1) % SET_SLOTS) {
        const uint8_t *element = array->bytes + set->slots[slot];

        if (memcmp(element, length, 4) == 0 && memcmp(element + 4, text, size) == 0)
            return;
    }
    if (set->count < SET_MAX) {
        set->slots[slot] = (uint32_t)array->size;
        set->count++;
    }
    array_put(array, text, size);
}

/* Printable ASCII, eight letters at a time: a byte below 0x20 borrows into its top bit, 0x7f carries into it. */
static bool is_printable(const uint8_t *text, size_t size)
{
    const uint64_t tops = UINT64_C(0x8080808080808080);
    uint64_t word;

    for (; size >= sizeof word; text += sizeof word, size -= sizeof word) {
        memcpy(&word, text, sizeof word);
        if (((word | (word - UINT64_C(0x2020202020202020)) | (word + UINT64_C(0x0101010101010101))) & tops) != 0)
            return false;
    }
    for (; size > 0; text++, size--) {
        if (*text < 0x20 || *text > 0x7e)
            return false;
    }
    return true;
}

struct cursor {
    const uint8_t *next, *end;
};

static bool read_be(struct cursor *cursor, size_t size, uint64_t *ret_number)
{
    uint64_t number = 0;

    if ((size_t)(cursor->end - cursor->next) < size)
        return false;
    for (size_t i = 0; i < size; i++)
        number = number << 8 | cursor->next[i];
    cursor->next += size;
    *ret_number = number;
    return true;
}

static bool read_text(struct cursor *cursor, size_t limit, struct value *ret_value)
{
    uint8_t lead = *cursor->next++;
    uint64_t size;

    if (lead >= 0xa0 && lead <= 0xbf)
        size = lead & 0x1fu;
    else if (lead != 0xd9 && lead != 0xda)
        return false;
    else if (!read_be(cursor, lead == 0xd9 ? 1 : 2, &size))
        return false;
    if (size > limit || size > (size_t)(cursor->end - cursor->next) || !is_printable(cursor->next, size))
        return false;
    ret_value->text = cursor->next;
    ret_value->size = size;
    cursor->next += size;
    return true;
}

static bool read_number(struct cursor *cursor, struct value *ret_value)
{
    uint8_t lead = *cursor->next++;

    ret_value->number = lead;
    if (lead < 0x80)
        return true;
    if (lead < 0xcc || lead > 0xcf)
        return false;
    return read_be(cursor, (size_t)1 << (lead - 0xcc), &ret_value->number);
}

/* The first FIELDS elements of one msgpack array; a shorter one leaves the rest empty. */
static bool read_event(const struct message_type *type, const uint8_t *body, size_t size, struct value values[FIELDS])
{
    struct cursor cursor = { body, body + size };
    uint64_t count;

    memset(values, 0, FIELDS * sizeof *values);
    if (size == 0)
        return false;
    count = *cursor.next++;
    if (count == 0xdc) {
        if (!read_be(&cursor, 2, &count))
            return false;
    } else if ((count & 0xf0u) != 0x90u) {
        return false;
    } else {
        count &= 0x0fu;
    }
    for (size_t i = 0; i < FIELDS && i < count; i++) {
        if (cursor.next == cursor.end)
            return false;
        if (*cursor.next == 0xc0)
            cursor.next++;
        else if (type->fields[i].type == FIELD_TEXT ? !read_text(&cursor, type->fields[i].limit, &values[i])
                                                     : !read_number(&cursor, &values[i]))
            return false;
    }
    return values[0].size > 0 && (count > FIELDS || cursor.next == cursor.end);
}

/* Details that are no JSON object become a JSON string, so that the column can always be read as JSON. */
static void array_put_details(struct array *array, const uint8_t *text, size_t size)
{
    json_t *object = size > 0 ? json_loadb((const char *)text, size, 0, NULL) : NULL;
    uint8_t *element = array->bytes + array->size, *at = element + 4;

    if (size == 0 || json_is_object(object)) {
        array_put_text(array, text, size);
        json_decref(object);
        return;
    }
    json_decref(object);
    *at++ = '"';
    for (size_t i = 0; i < size; i++) {
        if (text[i] == '"' || text[i] == '\\')
            *at++ = '\\';
        *at++ = text[i];
    }
    *at++ = '"';
    put_u32(element, (uint32_t)(at - element - 4));
    array->size = (size_t)(at - array->bytes);
    array->count++;
}

/* The event's elements, each with its length, as they stand in the arrays from `starts` on. */
static void add_leaf(struct columns *columns, uint64_t seq, const size_t starts[EVENT_COLUMNS_COUNT])
{
    uint8_t *content = columns->leaf.bytes, leaf[DIGEST_SIZE];
    size_t size = LEAF_HEAD_SIZE;

    checkpoint_leaf_begin(content, columns->producer, columns->epoch, seq);
    for (enum column column = COLUMN_AT; column <= COLUMN_DETAILS; column++) {
        const struct array *array = &columns->arrays[column];
        const size_t length = array->size - starts[column];

        memcpy(content + size, array->bytes + starts[column], length);
        size += length;
    }
    merkle_leaf(content, size, leaf);
    merkle_add(&columns->tree, leaf);
}

static void columns_put(struct columns *columns, uint64_t time_us, const struct value values[FIELDS])
{
    struct array *arrays = columns->arrays;
    size_t starts[EVENT_COLUMNS_COUNT];

    for (enum column column = COLUMN_AT; column <= COLUMN_DETAILS; column++)
        starts[column] = arrays[column].size;
    if (time_us < UNIX_TO_POSTGRES_US)
        time_us = UNIX_TO_POSTGRES_US;
    if (time_us > TIME_US_MAX)
        time_us = TIME_US_MAX;
    if (arrays[COLUMN_AT].count == 0 || time_us < columns->first_us)
        columns->first_us = time_us;
    if (time_us > columns->last_us)
        columns->last_us = time_us;
    array_put_u64(&arrays[COLUMN_AT], time_us - UNIX_TO_POSTGRES_US);
    for (size_t i = 0; i < FIELDS; i++) {
        enum column column = field_rows[i].column;
        struct array *array = &arrays[column];

        if (column == COLUMN_AUTH_METHOD)
            array_put_text(array, auth_method_text(values[i].number), strlen(auth_method_text(values[i].number)));
        else if (column == COLUMN_STATUS && values[i].number == 0)
            array_put_null(array);
        else if (column == COLUMN_STATUS)
            array_put_u32(array, values[i].number);
        else if (column == COLUMN_COUNT)
            array_put_u64(array, values[i].number == 0 ? 1 : values[i].number);
        else if (column == COLUMN_DETAILS)
            array_put_details(array, values[i].text, values[i].size);
        else if (element_oid(column) == OID_INT8)
            array_put_u64(array, values[i].number);
        else
            array_put_text(array, values[i].text, values[i].size);
        if (column == COLUMN_KEY_ID)
            set_put(&columns->keys, &arrays[COLUMN_KEYS], values[i].text, values[i].size);
        else if (column == COLUMN_USER_ID)
            set_put(&columns->users, &arrays[COLUMN_USERS], values[i].text, values[i].size);
    }
    add_leaf(columns, columns->next_seq, starts);
    columns->next_seq++;
}

static void columns_put_named(struct columns *columns, uint64_t time_us, const char *event, const char *reason,
                              uint64_t count)
{
    struct value values[FIELDS] = { 0 };

    values[0] = (struct value){ .text = (const uint8_t *)event, .size = strlen(event) };
    values[1] = (struct value){ .text = (const uint8_t *)"unknown", .size = strlen("unknown") };
    values[2] = (struct value){ .text = (const uint8_t *)reason, .size = strlen(reason) };
    values[16].number = count;
    columns_put(columns, time_us, values);
}

static void columns_start(struct columns *columns, uint64_t first_seq)
{
    if (columns->arrays[COLUMN_AT].count == 0)
        columns->first_seq = columns->next_seq = first_seq;
}

enum err columns_add_block(struct columns *columns, const struct trail_header *header, const uint8_t *block,
                           uint32_t *ret_unreadable)
{
    struct value values[FIELDS];
    struct trail_record record;
    char name[NAME_MAX_SIZE];
    uint32_t unreadable = 0, index = 0;
    size_t cursor = 0;
    /* Twice: letters of details may be escaped. */
    enum err err = columns_reserve(columns,
                                   2 * (size_t)header->size + (size_t)header->count * (WORST_ELEMENT + NAME_MAX_SIZE));

    if (err != ERR_OK)
        return err;
    columns_start(columns, header->first_seq);
    while (trail_next(block, header, &cursor, &index, &record)) {
        if (record.code != MESSAGE_audit_event) {
            snprintf(name, sizeof name, "unknown:%u", record.code);
            columns_put_named(columns, record.time_us, name, "code", 1);
        } else if (!read_event(columns->type, record.body, record.body_size, values)) {
            snprintf(name, sizeof name, "unreadable:%u", record.code);
            columns_put_named(columns, record.time_us, name, "format", 1);
            unreadable++;
        } else {
            columns_put(columns, record.time_us, values);
        }
    }
    *ret_unreadable = unreadable;
    return ERR_OK;
}

enum err columns_add_lost(struct columns *columns, const struct columns_lost *lost)
{
    enum err err = columns_reserve(columns, WORST_ELEMENT + NAME_MAX_SIZE);

    if (err != ERR_OK)
        return err;
    assert(columns->arrays[COLUMN_AT].count == 0);
    columns_start(columns, lost->first_seq);
    columns_put_named(columns, lost->time_us, "lost", lost->reason, lost->count);
    columns->next_seq = lost->first_seq + lost->count;
    return ERR_OK;
}

static struct value value_of(const char *text)
{
    return (struct value){ .text = (const uint8_t *)text, .size = strlen(text) };
}

enum err columns_add_row(struct columns *columns, const struct columns_row *row)
{
    struct value values[FIELDS] = {
        [0] = value_of(row->event), [1] = value_of("allowed"), [2] = value_of(row->reason),
        [3] = value_of(row->request_id), [4] = value_of(row->user_id), [5] = value_of(row->tenant_id),
        [6] = { .number = row->auth_method }, [7] = value_of(row->key_id), [8] = value_of(row->address),
        [11] = value_of(row->server), [16] = { .number = 1 }, [17] = value_of(row->details),
    };
    size_t size = NAME_MAX_SIZE;
    enum err err;

    for (size_t i = 0; i < FIELDS; i++)
        size += 2 * values[i].size + WORST_ELEMENT;
    err = columns_reserve(columns, size);
    if (err != ERR_OK)
        return err;
    columns_start(columns, row->seq);
    assert(columns->next_seq == row->seq);
    columns_put(columns, row->time_us, values);
    return ERR_OK;
}

const struct merkle *columns_tree(const struct columns *columns) { return &columns->tree; }

void columns_instant(uint64_t unix_us, uint8_t ret_bytes[8])
{
    uint64_t big_endian = __builtin_bswap64(unix_us - UNIX_TO_POSTGRES_US);

    memcpy(ret_bytes, &big_endian, sizeof big_endian);
}

size_t columns_count(const struct columns *columns) { return columns->arrays[COLUMN_AT].count; }
uint64_t columns_first_seq(const struct columns *columns) { return columns->first_seq; }
uint64_t columns_next_seq(const struct columns *columns) { return columns->next_seq; }
uint64_t columns_first_us(const struct columns *columns) { return columns->first_us; }
uint64_t columns_last_us(const struct columns *columns) { return columns->last_us; }

size_t columns_bytes(const struct columns *columns)
{
    size_t size = 0;

    for (size_t i = 0; i < COLUMNS; i++)
        size += columns->arrays[i].size;
    return size;
}

const uint8_t *columns_array(struct columns *columns, enum column column, size_t *ret_size)
{
    struct array *array = &columns->arrays[column];

    put_u32(array->bytes, array->count > 0 ? 1 : 0);
    put_u32(array->bytes + 4, 1);
    put_u32(array->bytes + 8, element_oid(column));
    put_u32(array->bytes + 12, array->count);
    put_u32(array->bytes + 16, 1);
    *ret_size = array->count > 0 ? array->size : 12;
    return array->bytes;
}
