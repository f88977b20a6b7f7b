/* Permissions text that another application wrote: any bytes give scopes we know, closed under inheritance. */
#include <assert.h>
#include <string.h>

#include "common/scope.h"
#include "services/authz/authz_rules.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static char text[AUTHZ_PERMISSIONS_MAX + 16];
    uint64_t scopes;

    if (size >= sizeof text)
        return 0;
    memcpy(text, bytes, size);
    text[size] = '\0';
    scopes = authz_scopes(text, "mcp");
    assert((scopes & ~SCOPE_ALL) == 0 && scopes_close(scopes) == scopes);
    return 0;
}
