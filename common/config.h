/* config.h - the members and rows of common/config.def, to be put first in every service's config struct. */
#ifndef COMMON_CONFIG_H
#define COMMON_CONFIG_H

#include "common/settings.h"

struct common_config {
#define SETTING(type, name, fallback, min, max, meaning) SETTING_MEMBER_##type(name, max)
#include "common/config.def"
};

/*
 * A service declares, in X.h:
 *     struct X_config {
 *         struct common_config common;
 *     #define SETTING(type, name, fallback, min, max, meaning) SETTING_MEMBER_##type(name, max)
 *     #include "services/X/config.def"
 *     };
 * and, in X.c, its rows (COMMON_SETTINGS comes from common/config.c):
 *     const struct setting X_settings[] = {
 *     #define SETTING(type, name, fallback, min, max, meaning) \
 *         { #name, SETTING_##type, offsetof(struct X_config, name), fallback, min, max, meaning },
 *     #include "services/X/config.def"
 *     };
 * service_main() reads both tables.
 */
extern const struct setting common_settings[];
extern const size_t common_settings_count;

#endif
