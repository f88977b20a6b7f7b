/* docs.c - mcpgw docs: the pages that are made from tables. */
#include <stdio.h>

#include "cli/cli.h"
#include "common/issuers.h"
#include "common/message.h"
#include "common/metrics.h"

static enum exit_code docs_messages(struct cli *cli, const struct arguments *arguments)
{
    (void)cli;
    (void)arguments;
    message_document(stdout);
    return EXIT_DONE;
}

static enum exit_code docs_metrics(struct cli *cli, const struct arguments *arguments)
{
    (void)cli;
    (void)arguments;
    metrics_document(stdout);
    return EXIT_DONE;
}

static enum exit_code docs_issuers(struct cli *cli, const struct arguments *arguments)
{
    (void)cli;
    (void)arguments;
    issuers_document(stdout);
    return EXIT_DONE;
}

const struct command docs_commands[] = {
    { "docs", "messages", "", "docs/messages.md, from common/messages.def", NULL, NULL, 0, 0, false, docs_messages },
    { "docs", "metrics", "", "docs/metrics.md, from common/metrics.def", NULL, NULL, 0, 0, false, docs_metrics },
    { "docs", "issuers", "", "the table of docs/oauth.md, from common/issuers.def", NULL, NULL, 0, 0, false, docs_issuers },
    { 0 }
};
