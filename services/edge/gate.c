/* gate.c - the way every route but OPEN ones takes.  Doubt is denial. */
#include "services/edge/gate.h"

#include <string.h>

#include "common/apikey.h"
#include "common/metrics.h"
#include "common/scope.h"
#include "services/edge/answer.h"
#include "services/edge/credentials.h"

void gate_copy_text(char *into, size_t size, const char *text)
{
    size_t length = strlen(text), count = length < size ? length : size - 1;

    for (size_t i = 0; i < count; i++)
        into[i] = text[i] >= 0x20 && text[i] < 0x7f ? text[i] : '?';
    if (length >= size)
        memcpy(into + count - 3, "...", 3);
    into[count] = '\0';
}

static void refuse_credential(struct exchange *exchange, enum err err, const char *reason, uint64_t needed,
                              bool for_nginx)
{
    bool is_absent = strcmp(reason, "no_credential") == 0;
    const struct refusal refusal = { .err = err,
                                     .needed_scopes = needed,
                                     .is_invalid_credential = !is_absent,
                                     .for_nginx = for_nginx,
                                     .detail = err == ERR_MALFORMED ? "two credentials of one kind" : NULL };

    if (err == ERR_MALFORMED)
        metric_add(METRIC_refused_malformed, 1);
    else if (is_absent)
        metric_add(METRIC_auth_none, 1);
    else
        metric_add(METRIC_refused_checksum, 1);
    answer_refuse_early(exchange, &refusal, reason);
}

struct call *gate_prepare(struct exchange *exchange, uint64_t needed_scopes, bool for_nginx)
{
    struct call *call = &exchange->space->call;
    const struct edge_config *config = exchange->edge->config;
    struct credential credential;
    const char *reason = NULL;
    enum err err = credentials_find(exchange->head, &credential, &reason);

    if (err != ERR_OK) {
        refuse_credential(exchange, err, reason, needed_scopes, for_nginx);
        return NULL;
    }
    memset(call, 0, sizeof *call);
    call->steps = CALL_VERDICT | CALL_CHARGE | CALL_RECORD;
    call->started_us = exchange->started_us;
    call->deadline_us = exchange->started_us + config->decision_ms * 1000;
    call->status_if_ok = 200;
    call->on_failure = config->limit_locally ? 1 : 0;
    call->verdict_request.method = AUTH_API_KEY;
    call->verdict_request.needed = needed_scopes;
    call->verdict_request.digest_size = DIGEST_SIZE;
    apikey_digest(credential.text, credential.length, call->verdict_request.digest);
    text_copy(call->verdict_request.address, sizeof call->verdict_request.address, exchange->address);
    text_copy(call->event.event, sizeof call->event.event, "request");
    text_copy(call->event.request_id, sizeof call->event.request_id, exchange->request_id);
    text_copy(call->event.address, sizeof call->event.address, exchange->address);
    gate_copy_text(call->event.method, sizeof call->event.method, exchange->method);
    gate_copy_text(call->event.path, sizeof call->event.path, exchange->path);
    return call;
}

bool gate_pass(struct exchange *exchange, struct call *call, bool for_nginx)
{
    dispatch_call(exchange->edge->dispatch, call);
    if (call->err == ERR_OK)
        return true;
    answer_refuse_call(exchange, call, call->verdict_request.needed, for_nginx);
    return false;
}
