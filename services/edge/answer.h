/* answer.h - the answers the edge gives itself: head, rate fields, problem documents; one write each. */
#ifndef EDGE_ANSWER_H
#define EDGE_ANSWER_H

#include "services/edge/exchange.h"
#include "services/edge/writer.h"

struct answer {
    struct exchange *exchange;
    struct writer head;
    int status;
};

/* Status line, Date, X-Request-Id, Cache-Control, and for /mcp the CORS fields. */
struct answer answer_begin(struct exchange *exchange, int status);
/* For an upstream's answer: status line, X-Request-Id and CORS; the rest is the upstream's to say. */
struct answer answer_begin_proxied(struct exchange *exchange, int status);
/* An answer of this status left by another way than answer_send(). */
void answer_note(struct exchange *exchange, int status);
void answer_field(struct answer *answer, const char *name, const char *value);
/* RateLimit and RateLimit-Policy (draft-ietf-httpapi-ratelimit-headers-11), X-RateLimit-*; nothing when nothing was
 * charged. */
void answer_rate(struct answer *answer, const struct charge *charge);
/* content_type NULL: no body.  Sends all with one write when it fits EXCHANGE_REPLY_SIZE. */
void answer_send(struct answer *answer, const char *content_type, const void *body, size_t size);

struct refusal {
    enum err err;
    int status;                       /* 0: that of err */
    const char *detail;               /* NULL: the meaning of err */
    const char *allow;                /* 405: what the path answers */
    uint64_t needed_scopes;           /* 401, 403: for the challenge */
    bool is_invalid_credential; /* 401: a credential came; otherwise the challenge names no error (RFC 6750 3.1) */
    bool lacks_scope;                 /* 403: insufficient_scope */
    bool lacks_factor;                /* 403: a second factor would do */
    const struct charge *charge;      /* 429; NULL otherwise */
    bool for_nginx;                   /* all but 401 become 403 with the real status in X-Mcpgw-Status */
};
void answer_refuse(struct exchange *exchange, const struct refusal *refusal);
/* Counts a refusal that never reached authz (dispatch_count_refusal), then answers it. */
void answer_refuse_early(struct exchange *exchange, const struct refusal *refusal, const char *reason);
/* The refusal a failed call stands for. */
void answer_refuse_call(struct exchange *exchange, const struct call *call, uint64_t needed_scopes, bool for_nginx);

/* The problem document for a request whose head could not even be read, as a whole answer with Connection: close. */
size_t answer_format_unreadable(char *buffer, size_t size, enum err err, int status, const char *request_id);

#endif
