/* main.c - the edge process. */
#include "services/edge/edge.h"

int main(int argc, char **argv)
{
    return service_main(&edge_service, argc, argv);
}
