/* tenants.h - the calls about tenants: who they are, their state, the policy of their keys. */
#ifndef KEYS_TENANTS_H
#define KEYS_TENANTS_H

#include "services/keys/keys_calls.h"

begin_fn begin_tenant_change, begin_tenant_get, begin_tenant_list;

#endif
