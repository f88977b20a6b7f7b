#include "services/edge/details.h"

#include <stdio.h>
#include <string.h>

#include "common/scope.h"
#include "common/trail.h"

void details_add(struct audit_event *event, const char *member)
{
    const size_t used = strlen(event->details), length = strlen(member);
    char *at = event->details + (used > 0 ? used - 1 : 0);    /* over the closing brace */

    if (strstr(event->details, member) != NULL)
        return;    /* a call that is judged again keeps its event */
    if (used + length + 3 > sizeof event->details)
        return;
    *at++ = used > 0 ? ',' : '{';
    memcpy(at, member, length);
    memcpy(at + length, "}", 2);
}

static uint64_t usual_tier(uint64_t method)
{
    return method == AUTH_API_KEY ? TIER_API_KEY : TIER_OAUTH;
}

/* SHA-256 of what the caller presented; false: there is none of the whole of it. */
static bool presented(const struct verdict_request *request, const uint8_t **ret_digest)
{
    const bool is_token = request->method == AUTH_OAUTH;

    *ret_digest = is_token ? request->proof : request->digest;
    return request->method == AUTH_API_KEY ? request->digest_size == DIGEST_SIZE : is_token && request->proof_size == DIGEST_SIZE;
}

void details_describe(struct call *call, const struct secret *lookup_key)
{
    const struct verdict *verdict = &call->verdict;
    char member[64], tag[TRAIL_TAG_SIZE];
    const uint8_t *digest;

    if (verdict->tier != TIER_NONE && verdict->auth_method != AUTH_NONE && verdict->tier != usual_tier(verdict->auth_method)) {
        snprintf(member, sizeof member, "\"tier\":\"%s\"", tier_text(verdict->tier));
        details_add(&call->event, member);
    }
    if (verdict->error != ERR_UNVERIFIED || lookup_key == NULL || !secret_is_set(lookup_key)
        || !presented(&call->verdict_request, &digest))
        return;
    trail_tag(lookup_key->bytes, lookup_key->size, digest, tag);
    snprintf(member, sizeof member, "\"presented\":\"%s\"", tag);
    details_add(&call->event, member);
}
