#include "services/audit/audit.h"

int main(int argc, char **argv)
{
    static const struct service_command commands[] = {
        { "migrate", "make or bring up to date the schema audit, as the owner of the database", audit_migrate },
        { 0 }
    };
    const struct service_type type = {
        .role = SERVICE_AUDIT, .name = "audit", .purpose = "brings the audit trail into Postgres, each event once",
        .settings = audit_settings, .setting_count = audit_settings_count, .config_size = sizeof(struct audit_config),
        .commands = commands, .start = audit_start, .begin_drain = audit_begin_drain, .is_drained = audit_is_drained,
        .stop = audit_stop,
    };

    return service_main(&type, argc, argv);
}
