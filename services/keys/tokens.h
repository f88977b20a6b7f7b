/* tokens.h - the calls that end access tokens before their time. */
#ifndef KEYS_TOKENS_H
#define KEYS_TOKENS_H

#include "services/keys/keys_calls.h"

begin_fn begin_token_revoke, begin_token_revoked, begin_token_restore;

#endif
