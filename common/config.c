/* config.c - the rows of common/config.def; they stand first in every service's config struct. */
#include "common/config.h"

const struct setting common_settings[] = {
#define SETTING(type, name, fallback, min, max, meaning) \
    { #name, SETTING_##type, offsetof(struct common_config, name), fallback, min, max, meaning },
#include "common/config.def"
};
const size_t common_settings_count = sizeof common_settings / sizeof common_settings[0];
