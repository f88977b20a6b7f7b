/* main.c - finds the command, reads its arguments, runs it.  All that a command is stands in its row. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <curl/curl.h>

#include "cli/cli.h"
#include "cli/environment.h"
#include "cli/output.h"
#include "common/service.h"

static const struct command *const groups[] = {
    key_commands, server_commands, tenant_commands, user_commands, session_commands, audit_commands, usage_commands, stats_commands, status_commands, doctor_commands,
    keygen_commands, bus_commands, issuer_commands, token_commands, identity_commands, docs_commands
};
#define COMPLAINT_SIZE 4096u    /* what is longer is cut */
#define GROUPS (sizeof groups / sizeof groups[0])

static const struct option_row common_options[] = {
    { "json", NULL, "for programs: one JSON object a line" },
    { "url", "URL", "address of the gateway (MCPGW_URL)" },
    { "help", NULL, "this text" },
    { 0 }
};

void complain(const char *format, ...)
{
    char text[COMPLAINT_SIZE];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    text_clean(text);    /* it may hold what a server said */
    fprintf(stderr, "mcpgw: %s\n", text);
}

bool confirm(const struct cli *cli, const char *what, const char *object, enum exit_code *ret_exit)
{
    char answer[16] = "";

    if (cli->is_yes)
        return true;
    if (isatty(STDIN_FILENO) == 0) {
        complain("%s %s cannot be taken back: say --yes", what, object);
        *ret_exit = EXIT_MISUSE;
        return false;
    }
    fprintf(stderr, "%s %s? This cannot be taken back. [y/N] ", what, object);
    if (fgets(answer, sizeof answer, stdin) != NULL && (answer[0] == 'y' || answer[0] == 'Y'))
        return true;
    complain("nothing was done");
    *ret_exit = EXIT_REFUSED;
    return false;
}

static void print_options(const struct option_row *rows, FILE *out)
{
    for (; rows != NULL && rows->name != NULL; rows++)
        fprintf(out, "  --%s %-*s %s\n", rows->name, 22 - (int)strlen(rows->name),
                rows->value != NULL ? rows->value : "", rows->meaning);
}

static void print_usage(const struct command *command, FILE *out)
{
    fprintf(out, "mcpgw %s%s%s%s%s", command->group, *command->name != '\0' ? " " : "", command->name,
            *command->arguments != '\0' ? " " : "", command->arguments);
}

static void print_command_help(const struct command *command)
{
    fputs("usage: ", stdout);
    print_usage(command, stdout);
    printf(" [options]\n\n%s\n\noptions:\n", command->purpose);
    print_options(command->options, stdout);
    print_options(common_options, stdout);
    if (command->examples != NULL)
        printf("\nexamples:\n%s", command->examples);
}

static void print_group(const struct command *commands, FILE *out)
{
    for (; commands->group != NULL; commands++) {
        char line[80];

        snprintf(line, sizeof line, "%s%s%s %s", commands->group, *commands->name != '\0' ? " " : "", commands->name,
                 commands->arguments);
        fprintf(out, "  %-34s %s\n", line, commands->purpose);
    }
}

static void print_help(FILE *out)
{
    fputs("usage: mcpgw COMMAND [arguments] [options]      mcpgw COMMAND --help\n\n", out);
    for (size_t i = 0; i < GROUPS; i++)
        print_group(groups[i], out);
    fputs("\nThe gateway's address and an API key come from MCPGW_URL and MCPGW_API_KEY (or MCPGW_API_KEY_FILE),\n"
          "else from $MCPGW_HOME/env, which `make up` writes (MCPGW_HOME defaults to ./var).\n"
          "Exit codes: 0 done, 1 refused or failed, 2 misuse, 3 the gateway cannot be reached.\n", out);
}

static const struct command *find_group(const char *name)
{
    for (size_t i = 0; i < GROUPS; i++) {
        if (strcmp(groups[i]->group, name) == 0)
            return groups[i];
    }
    return NULL;
}

/* *used: words of argv that named it. */
static const struct command *find_command(const struct command *group, int argc, char **argv, int *used)
{
    for (const struct command *row = group; row->group != NULL; row++) {
        if (*row->name == '\0') {
            *used = 2;
            return row;
        }
        if (argc > 2 && strcmp(row->name, argv[2]) == 0) {
            *used = 3;
            return row;
        }
    }
    return NULL;
}

static bool wants_help(int argc, char **argv)
{
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            return true;
    }
    return false;
}

static enum exit_code misuse(const struct command *command, const char *why)
{
    complain("%s", why);
    fputs("usage: ", stderr);
    print_usage(command, stderr);
    fputs(" [options]; --help says more\n", stderr);
    return EXIT_MISUSE;
}

static enum exit_code run(const struct command *command, int argc, char **argv)
{
    struct cli cli = { 0 };
    struct arguments arguments;
    const char *words[ARGUMENTS_MAX * 2];
    char why[160] = "";
    enum exit_code result;

    if ((size_t)argc > sizeof words / sizeof words[0])
        return misuse(command, "too many arguments");
    for (int i = 0; i < argc; i++)
        words[i] = strcmp(argv[i], "-f") == 0 ? "--follow" : argv[i];    /* as tail has it */
    if (arguments_parse(argc, words, command->options, common_options, &arguments, why, sizeof why) != ERR_OK)
        return misuse(command, why);
    if (arguments.count < command->least)
        return misuse(command, "an argument is missing");
    if (arguments.count > command->most)
        return misuse(command, "too many arguments");
    cli.is_json = arguments_value(&arguments, "json") != NULL;
    cli.is_yes = arguments_value(&arguments, "yes") != NULL;
    if (command->needs_api && environment_load(&cli, arguments_value(&arguments, "url")) != ERR_OK)
        return EXIT_MISUSE;
    result = command->run(&cli, &arguments);
    secret_wipe(&cli.api_key);
    if (fflush(stdout) != 0 && result == EXIT_DONE) {
        complain("standard output cannot be written");
        result = EXIT_REFUSED;
    }
    return result;
}

int main(int argc, char **argv)
{
    const struct command *group, *command;
    int used = 2;
    enum exit_code result;

    if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0) {
        print_help(argc < 2 ? stderr : stdout);
        return argc < 2 ? EXIT_MISUSE : EXIT_DONE;
    }
    if (strcmp(argv[1], "--version") == 0) {
        puts("mcpgw " MCPGW_VERSION);
        return EXIT_DONE;
    }
    group = find_group(argv[1]);
    if (group == NULL) {
        complain("unknown command %s; mcpgw --help lists all", argv[1]);
        return EXIT_MISUSE;
    }
    command = find_command(group, argc, argv, &used);
    if (wants_help(argc, argv)) {
        if (command != NULL)
            print_command_help(command);
        else
            print_group(group, stdout);
        return EXIT_DONE;
    }
    if (command == NULL) {
        complain("%s needs one of these:", argv[1]);
        print_group(group, stderr);
        return EXIT_MISUSE;
    }
    curl_global_init(CURL_GLOBAL_DEFAULT);
    result = run(command, argc - used, argv + used);
    curl_global_cleanup();
    return result;
}
