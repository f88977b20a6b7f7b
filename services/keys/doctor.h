/* doctor.h - mcpgw-keys doctor: what is found of Better-Auth's table, and whether all that the gateway needs is there. */
#ifndef KEYS_DOCTOR_H
#define KEYS_DOCTOR_H

/* Takes --create-indexes and --json out of the arguments. */
void doctor_take_options(int *argc, char **argv);
/* 0: all is well, or only notes.  1: warnings or errors.  2: it could not look. */
int doctor_command(const void *config);

#endif
