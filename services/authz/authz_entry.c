#include "services/authz/authz_entry.h"

#include <string.h>

#include <openssl/crypto.h>

static const uint8_t head[4] = { 'M', 'G', 'V', ENTRY_VERSION };

enum {
    FLAG_USABLE = 1, FLAG_ENABLED = 2, FLAG_REVOKED = 4, FLAG_IS_ORGANIZATION = 8, FLAG_OWNER_EXISTS = 16,
    FLAG_OWNER_BANNED = 32, FLAG_TENANT_SUSPENDED = 64, FLAG_METERED = 128, FLAG_OWNER_LEFT = 256, FLAG_ALL = 511
};

_Static_assert(sizeof head + 8 + 3 * (1 + AUTHZ_ID_MAX) + 1 + AUTHZ_TENANT_MAX + 2 + 7 * 8 + 2 + REACH_SIZE_MAX + DIGEST_SIZE
                   <= ENTRY_SIZE_MAX,
               "the longest entry must fit");

static uint8_t *put_u64(uint8_t *at, uint64_t value)
{
    for (unsigned i = 0; i < 8; i++)
        *at++ = (uint8_t)(value >> (8 * i));
    return at;
}

static uint8_t *put_text(uint8_t *at, const char *text)
{
    size_t length = strlen(text);

    *at++ = (uint8_t)length;
    memcpy(at, text, length);
    return at + length;
}

static uint8_t *put_reach(uint8_t *at, const struct authz_facts *facts)
{
    *at++ = (uint8_t)facts->reach_size;
    *at++ = (uint8_t)(facts->reach_size >> 8);
    if (facts->reach_size > 0)
        memcpy(at, facts->reach, facts->reach_size);
    return at + facts->reach_size;
}

static uint16_t flags_of(const struct authz_facts *facts)
{
    return (uint16_t)((facts->usable ? FLAG_USABLE : 0) | (facts->enabled ? FLAG_ENABLED : 0)
                     | (facts->revoked ? FLAG_REVOKED : 0) | (facts->is_organization ? FLAG_IS_ORGANIZATION : 0)
                     | (facts->owner_exists ? FLAG_OWNER_EXISTS : 0) | (facts->owner_banned ? FLAG_OWNER_BANNED : 0)
                     | (facts->tenant_suspended ? FLAG_TENANT_SUSPENDED : 0) | (facts->metered ? FLAG_METERED : 0)
                     | (facts->owner_left ? FLAG_OWNER_LEFT : 0));
}

size_t entry_pack(const struct secret *key, const uint8_t digest[DIGEST_SIZE], uint64_t sequence,
                  const struct authz_facts *facts, uint8_t bytes[ENTRY_SIZE_MAX])
{
    const uint16_t flags = flags_of(facts);
    uint8_t *at = bytes;

    memcpy(at, head, sizeof head);
    at = put_u64(at + sizeof head, sequence);
    at = put_text(at, facts->key_id);
    at = put_text(at, facts->reference_id);
    at = put_text(at, facts->side_tenant_id);
    at = put_text(at, facts->organization_id);
    *at++ = (uint8_t)flags;
    *at++ = (uint8_t)(flags >> 8);
    at = put_u64(at, facts->organization_count);
    at = put_u64(at, facts->expires_us);
    at = put_u64(at, facts->scopes);
    at = put_u64(at, facts->rate_requests);
    at = put_u64(at, facts->rate_window_s);
    at = put_u64(at, facts->tenant_rule);
    at = put_u64(at, facts->user_rule);
    at = put_reach(at, facts);
    digest_hmac(key->bytes, key->size, digest, DIGEST_SIZE, bytes, (size_t)(at - bytes), at);
    return (size_t)(at - bytes) + DIGEST_SIZE;
}

/* Reads forwards; once something did not fit, everything after reads as nothing and `sound` stays false. */
struct reader {
    const uint8_t *at, *end;
    bool sound;
};

static bool take(struct reader *reader, size_t size)
{
    if (!reader->sound || (size_t)(reader->end - reader->at) < size)
        reader->sound = false;
    return reader->sound;
}

static uint64_t get_u64(struct reader *reader)
{
    uint64_t value = 0;

    if (!take(reader, 8))
        return 0;
    for (unsigned i = 0; i < 8; i++)
        value |= (uint64_t)*reader->at++ << (8 * i);
    return value;
}

static uint8_t get_u8(struct reader *reader)
{
    return take(reader, 1) ? *reader->at++ : 0;
}

static void get_reach(struct reader *reader, struct authz_facts *facts)
{
    const size_t low = get_u8(reader), size = low | (size_t)get_u8(reader) << 8;

    if (!take(reader, size) || size == 0)
        return;
    reader->sound = reach_is_sound(reader->at, size);
    facts->reach = reader->at;
    facts->reach_size = size;
    reader->at += size;
}

static void get_text(struct reader *reader, char *text, size_t limit)
{
    size_t length = get_u8(reader);

    if (length > limit)
        reader->sound = false;
    if (!take(reader, length))
        return;
    for (size_t i = 0; i < length; i++) {
        text[i] = (char)*reader->at++;
        if (text[i] < 0x20 || text[i] > 0x7e)
            reader->sound = false;
    }
    text[length] = '\0';
}

enum err entry_read(const uint8_t *bytes, size_t size, uint64_t *ret_sequence, struct authz_facts *ret_facts)
{
    struct authz_facts facts = { 0 };
    struct reader reader = { bytes, bytes + size, true };
    uint64_t sequence;
    unsigned flags;

    if (size < sizeof head || memcmp(bytes, head, sizeof head) != 0)
        return ERR_MALFORMED;
    reader.at += sizeof head;
    sequence = get_u64(&reader);
    get_text(&reader, facts.key_id, AUTHZ_ID_MAX);
    get_text(&reader, facts.reference_id, AUTHZ_ID_MAX);
    get_text(&reader, facts.side_tenant_id, AUTHZ_TENANT_MAX);
    get_text(&reader, facts.organization_id, AUTHZ_ID_MAX);
    flags = get_u8(&reader);
    flags |= (unsigned)get_u8(&reader) << 8;
    if (flags > FLAG_ALL)
        return ERR_MALFORMED;
    facts.usable = (flags & FLAG_USABLE) != 0;
    facts.enabled = (flags & FLAG_ENABLED) != 0;
    facts.revoked = (flags & FLAG_REVOKED) != 0;
    facts.is_organization = (flags & FLAG_IS_ORGANIZATION) != 0;
    facts.owner_exists = (flags & FLAG_OWNER_EXISTS) != 0;
    facts.owner_banned = (flags & FLAG_OWNER_BANNED) != 0;
    facts.tenant_suspended = (flags & FLAG_TENANT_SUSPENDED) != 0;
    facts.owner_left = (flags & FLAG_OWNER_LEFT) != 0;
    facts.metered = (flags & FLAG_METERED) != 0;
    facts.organization_count = get_u64(&reader);
    facts.expires_us = get_u64(&reader);
    facts.scopes = get_u64(&reader);
    facts.rate_requests = get_u64(&reader);
    facts.rate_window_s = get_u64(&reader);
    facts.tenant_rule = get_u64(&reader);
    facts.user_rule = get_u64(&reader);
    get_reach(&reader, &facts);
    if (!reader.sound || reader.at != reader.end)
        return ERR_MALFORMED;
    *ret_sequence = sequence;
    *ret_facts = facts;
    return ERR_OK;
}

enum err entry_unpack(const struct secret *key, const uint8_t digest[DIGEST_SIZE], const uint8_t *bytes, size_t size,
                      uint64_t *ret_sequence, struct authz_facts *ret_facts)
{
    uint8_t mac[DIGEST_SIZE];

    if (size < DIGEST_SIZE || size > ENTRY_SIZE_MAX)
        return ERR_MALFORMED;
    digest_hmac(key->bytes, key->size, digest, DIGEST_SIZE, bytes, size - DIGEST_SIZE, mac);
    if (CRYPTO_memcmp(mac, bytes + size - DIGEST_SIZE, DIGEST_SIZE) != 0)
        return ERR_MALFORMED;
    return entry_read(bytes, size - DIGEST_SIZE, ret_sequence, ret_facts);
}
