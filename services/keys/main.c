/* main.c - mcpgw-keys. */
#include "services/keys/doctor.h"
#include "services/keys/keys.h"

int main(int argc, char **argv)
{
    bootstrap_take_options(&argc, argv);
    doctor_take_options(&argc, argv);
    return service_main(&keys_service, argc, argv);
}
