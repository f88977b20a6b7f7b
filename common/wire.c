/* wire.c - walks msgpack bytes without storing anything; owns nothing, recurses nowhere. */
#include "common/wire.h"

struct cursor {
    const uint8_t *at, *end;
};

/* What the value at the cursor still needs: a list or map needs elements, everything else is skipped. */
struct need {
    bool is_container;
    uint64_t elements;
};

static bool skip(struct cursor *in, uint64_t size)
{
    if (size > (uint64_t)(in->end - in->at))
        return false;
    in->at += size;
    return true;
}

static bool take_big_endian(struct cursor *in, size_t width, uint64_t *ret_value)
{
    const uint8_t *from = in->at;
    uint64_t value = 0;

    if (!skip(in, width))
        return false;
    for (size_t i = 0; i < width; i++)
        value = value << 8 | from[i];
    *ret_value = value;
    return true;
}

/* Each element is at least one byte, so a count above the bytes left is a lie. */
static bool enter(const struct cursor *in, uint64_t elements, struct need *ret_need)
{
    if (elements > (uint64_t)(in->end - in->at))
        return false;
    *ret_need = (struct need){ true, elements };
    return true;
}

static bool read_long_form(struct cursor *in, uint8_t head, struct need *ret_need)
{
    uint64_t length;

    switch (head) {
    case 0xc4: case 0xc5: case 0xc6:                        /* bin 8, 16, 32 */
        return take_big_endian(in, (size_t)1 << (head - 0xc4), &length) && skip(in, length);
    case 0xcc: case 0xcd: case 0xce: case 0xcf:             /* uint 8..64 */
        return skip(in, UINT64_C(1) << (head - 0xcc));
    case 0xd9: case 0xda: case 0xdb:                        /* str 8, 16, 32 */
        return take_big_endian(in, (size_t)1 << (head - 0xd9), &length) && skip(in, length);
    case 0xdc: case 0xdd:                                   /* array 16, 32 */
        return take_big_endian(in, (size_t)2 << (head - 0xdc), &length) && enter(in, length, ret_need);
    case 0xde: case 0xdf:                                   /* map 16, 32 */
        return take_big_endian(in, (size_t)2 << (head - 0xde), &length) && enter(in, 2 * length, ret_need);
    default:                                                /* float, negative, ext, never used */
        return false;
    }
}

static bool read_value(struct cursor *in, struct need *ret_need)
{
    if (in->at == in->end)
        return false;
    const uint8_t head = *in->at++;

    if (head <= 0x7f || head == 0xc0 || head == 0xc2 || head == 0xc3)    /* small number, nil, false, true */
        return true;
    if (head <= 0x8f)
        return enter(in, 2u * (head & 0x0fu), ret_need);    /* map */
    if (head <= 0x9f)
        return enter(in, head & 0x0fu, ret_need);           /* array */
    if (head <= 0xbf)
        return skip(in, head & 0x1fu);                      /* str */
    return read_long_form(in, head, ret_need);
}

bool wire_is_sound(const uint8_t *bytes, size_t size)
{
    struct cursor in = { bytes, bytes + size };
    uint64_t pending[WIRE_DEPTH_MAX + 1] = { 1 };
    unsigned depth = 0;

    for (;;) {
        struct need need = { 0 };

        while (pending[depth] == 0 && depth > 0)
            depth--;
        if (pending[depth] == 0)
            return in.at == in.end;
        pending[depth]--;
        if (!read_value(&in, &need))
            return false;
        if (!need.is_container)
            continue;
        if (depth == WIRE_DEPTH_MAX)
            return false;
        pending[++depth] = need.elements;
    }
}
