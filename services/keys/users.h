/* users.h - the calls about users and their sessions. */
#ifndef KEYS_USERS_H
#define KEYS_USERS_H

#include "services/keys/keys_calls.h"

begin_fn begin_user_list, begin_user_call, begin_session_end;

#endif
