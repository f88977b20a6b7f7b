/* audit_proof.h - the commands about what proves the trail; rows of audit_commands. */
#ifndef CLI_AUDIT_PROOF_H
#define CLI_AUDIT_PROOF_H

#include "cli/cli.h"

enum exit_code audit_import(struct cli *cli, const struct arguments *arguments);
enum exit_code audit_keygen(struct cli *cli, const struct arguments *arguments);
enum exit_code audit_verify(struct cli *cli, const struct arguments *arguments);
enum exit_code audit_prove(struct cli *cli, const struct arguments *arguments);
enum exit_code audit_check_proof(struct cli *cli, const struct arguments *arguments);

#endif
