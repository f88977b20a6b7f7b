/* bulk.h - one change of many keys: picked by a filter within the caller's reach, shown first if asked, made all at once. */
#ifndef KEYS_BULK_H
#define KEYS_BULK_H

#include "services/keys/keys_calls.h"

begin_fn begin_key_bulk;

#endif
