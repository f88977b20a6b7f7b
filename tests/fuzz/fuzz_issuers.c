/* What issuers send: any bytes give a URL that may be asked, or a set without private members, or a sentence. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "services/keys/issuers_rules.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static struct issuer issuer = { .issuer = "https://a.example" };
    char *body = malloc(size + 1);
    const struct fetch_answer answer = { .status = 200, .body = body, .size = size };
    char url[FETCH_URL_MAX + 1], why[ISSUER_ERROR_MAX] = "";
    struct issuer_set set = { 0 };

    assert(body != NULL);
    if (size > 0)
        memcpy(body, bytes, size);
    body[size] = '\0';
    if (issuer_read_discovery(&issuer, &answer, false, url, why, sizeof why) == ERR_OK)
        assert(fetch_url_fault(url, false) == NULL);
    else
        assert(why[0] != '\0');
    if (issuer_read_keys(&answer, &set, why, sizeof why) == ERR_OK)
        assert(set.count > 0 && strlen(set.text) <= JOSE_SET_MAX);
    issuer_set_wipe(&set);
    free(body);
    return 0;
}
