/*
 * curve.h - who may speak on the bus: uid checks on ipc, CURVE and a ZAP allow-list on tcp.
 *
 * Key directory (mcpgw keygen DIR): <role>.pub and <role>.key (0600), one pair per role, z85 text in czmq's zcert
 * format.
 * A process needs its own .key and all .pub files.
 */
#ifndef COMMON_CURVE_H
#define COMMON_CURVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/config.h"
#include "common/error.h"
#include "common/message.h"

struct curve;    /* our certificate and the public keys by role */

/* NULL in *ret_curve when bus_keys is empty.  Also reads bus_uids, to refuse a bad one at start.
 * ERR_MALFORMED/ERR_NOT_FOUND with a sentence in reterr: a file is missing, unreadable, readable by others, or not a
 * key. */
enum err curve_new(enum service role, const struct common_config *config, struct curve **ret_curve,
                   char *reterr, size_t reterr_size) MUST_CHECK;
void curve_destroy(struct curve **curve);

/* Before bind (edge; starts the ZAP handler in this context the first time) and before connect (worker; the server is
 * role EDGE).
 * For tcp:// only, on both sides: ipc is judged by the peer's user.  A NULL curve does nothing and is ERR_OK. */
enum err curve_serve(struct curve *curve, void *context, void *socket) MUST_CHECK;
enum err curve_join(struct curve *curve, void *socket) MUST_CHECK;

/* May this endpoint be used as configured?  ERR_DENIED with the remedy: tcp without keys, other than loopback with
 * bus_insecure. */
enum err curve_allows_endpoint(const struct curve *curve, const struct common_config *config, const char *endpoint,
                               char *reterr, size_t reterr_size) MUST_CHECK;

/*
 * Which roles may the sender of this received BODY frame (never a ROUTER's frame 0: libzmq 4.3.4 loses its metadata
 * after poll) speak as?
 * A bit per enum service.  ipc: Peer-Address "…:uid:gid:pid" against bus_uids; tcp: User-Id set by our ZAP handler.
 * 0: nobody we know; the message is dropped and counted.
 */
uint32_t curve_roles_of(const struct curve *curve, const struct common_config *config, void *zmq_msg);

/* mcpgw keygen.  ERR_CONFLICT: there are keys and force is false. */
enum err curve_make_keys(const char *directory, bool force, char *reterr, size_t reterr_size) MUST_CHECK;

#endif
