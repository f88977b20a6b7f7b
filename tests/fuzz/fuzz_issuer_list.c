/* Any list of issuers: read or refused with one line; what was read holds only bounded texts. */
#include <assert.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/issuers.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    char path[64], complaint[600] = "";
    struct issuers *issuers = NULL;
    int fd = memfd_create("issuers", MFD_CLOEXEC);

    assert(fd >= 0 && write(fd, bytes, size) == (ssize_t)size);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    const struct issuers_options options = { .file = path, .public_url = "https://gw.example", .with_secrets = false };
    const enum err err = issuers_load(&options, &issuers, complaint, sizeof complaint);

    close(fd);
    assert(err == ERR_OK || err == ERR_MALFORMED);
    assert((err == ERR_OK) == (complaint[0] == '\0'));
    assert(strchr(complaint, '\n') == NULL);
    for (size_t i = 0; err == ERR_OK && i < issuers->count; i++) {
        assert(issuers->list[i].name[0] != '\0' && strlen(issuers->list[i].name) <= ISSUER_NAME_MAX);
        assert(issuers->list[i].audience_count <= ISSUER_AUDIENCES_MAX && issuers->list[i].rule_count <= ISSUER_RULES_MAX);
    }
    issuers_destroy(&issuers);
    return 0;
}
