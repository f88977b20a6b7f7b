/* import.h - keys and digests that were made elsewhere: every row is judged and told, and all are stored or none. */
#ifndef KEYS_IMPORT_H
#define KEYS_IMPORT_H

#include "services/keys/keys_calls.h"

begin_fn begin_key_import;

#endif
