/* main.c - mcpgw-authz: who is it, and what may it do. */
#include "services/authz/authz.h"

int main(int argc, char **argv)
{
    const struct service_type type = {
        .role = SERVICE_AUTHZ,
        .name = "authz",
        .purpose = "Decides whose a credential is and what it may do, from memory, Redis or Postgres.",
        .settings = authz_settings,
        .setting_count = authz_settings_count,
        .config_size = sizeof(struct authz_config),
        .start = authz_start,
        .begin_drain = authz_begin_drain,
        .is_drained = authz_is_drained,
        .stop = authz_stop,
    };

    return service_main(&type, argc, argv);
}
