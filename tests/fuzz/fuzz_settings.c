/* Any settings file: it is read or refused with one line; texts stay within their members. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static struct common_config config;
    char path[64], complaint[400] = "";
    int fd = memfd_create("settings", MFD_CLOEXEC);

    assert(fd >= 0 && write(fd, bytes, size) == (ssize_t)size);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    enum err err = settings_load(common_settings, common_settings_count, path, &config, complaint, sizeof complaint);
    close(fd);

    assert(err == ERR_OK || err == ERR_MALFORMED);
    assert((err == ERR_OK) == (complaint[0] == '\0'));
    assert(strchr(complaint, '\n') == NULL);
    if (err == ERR_OK)
        assert(strlen(config.instance) < sizeof config.instance && config.instance[0] != '\0');
    return 0;
}
