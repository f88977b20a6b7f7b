/*
 * streams.h - proxied exchanges in progress, and how they are ended: by a change that names their key, session, user, tenant
 * or server, at their credential's expiry, or when this edge has had no change feed for too long.
 */
#ifndef EDGE_STREAMS_H
#define EDGE_STREAMS_H

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "common/message.h"

struct streams;
struct stream {    /* lies in the streaming thread's stack; linked while open */
    struct stream *next, *previous;
    int wake_fd;                     /* the caller's non-blocking eventfd, set before streams_open and drained; written once the stream must end */
    char key_id[65], session_id[65], user_id[65], tenant_id[81], server[65];
    char bonds[69];
    uint64_t expires_s;
    uint64_t opened_at;              /* edge's applied change number when the verdict was asked: a later change counts */
    const char *ended_by;            /* "change" | "expiry" | "lease" | "drain"; NULL while it may go on */
};

enum err streams_new(uint32_t limit, struct streams **ret_streams) MUST_CHECK;
void streams_destroy(struct streams **streams);
/* ERR_OVERLOADED: `limit` streams are open.  While the lease is over, or on drain, a stream is opened already ended.  A change that arrived since `verdict` was asked (applied > stream->opened_at, kept
 * for 10 s) and names the stream ends it at once: no change falls between verdict and opening. */
enum err streams_open(struct streams *streams, struct stream *stream, const struct verdict *verdict, const char *server) MUST_CHECK;
void streams_close(struct streams *streams, struct stream *stream);
const char *streams_ended_by(const struct stream *stream);  /* ended_by, from any thread */
uint64_t streams_applied(const struct streams *streams);    /* number of the newest change applied; read before asking for a verdict */
/* From the dispatcher: */
void streams_apply(struct streams *streams, const struct change *change);
void streams_note_sequence(struct streams *streams, uint64_t sequence);    /* a feed; a number beyond `applied` ends what is older */
void streams_start_over(struct streams *streams, uint64_t sequence);       /* another history of the database: ends all */
void streams_sweep(struct streams *streams, uint64_t unix_s);              /* expiry; once a second */
void streams_end_all(struct streams *streams, const char *why);            /* lease, drain */
uint64_t streams_count(const struct streams *streams);

#endif
