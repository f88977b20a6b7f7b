/* bus.c - mcpgw bus: reads, records and plays what the services say to each other. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cli/bus_replay.h"
#include "cli/cli.h"
#include "cli/fixture.h"

static enum exit_code print_frame(const struct fixture *fixture, const char *path)
{
    struct frame_reader reader;
    struct frame_item item;
    bool is_version = false;

    if (frame_open(&reader, fixture->bytes, fixture->size, &is_version) != ERR_OK) {
        complain("%s: %s", path, is_version ? "a frame of a version this program does not speak" : "this is no frame");
        return EXIT_REFUSED;
    }
    printf("frame version=%u count=%u epoch=%016llx batch=%llu\n", reader.header.version, reader.header.count,
           (unsigned long long)reader.header.epoch, (unsigned long long)reader.header.batch);
    while (frame_next(&reader, &item)) {
        void *message = calloc(1, item.type->struct_size);
        const char *field = NULL;

        if (message == NULL)
            return EXIT_REFUSED;
        printf("  request=%llu attempt=%u ", (unsigned long long)item.request_id, item.attempt);
        if (message_decode(item.type, reader.header.version, item.body, item.body_size, message, &field) == ERR_OK)
            message_print(item.type, message, stdout);
        else
            printf("%s: malformed field %s\n", item.type->name, field != NULL ? field : "?");
        free(message);
    }
    return EXIT_DONE;
}

static enum exit_code print_file(const char *path)
{
    struct fixture fixture;
    void *message = NULL;
    enum exit_code result = EXIT_REFUSED;

    if (fixture_load(path, &fixture) != ERR_OK)
        return EXIT_REFUSED;
    if (fixture.type == NULL) {
        result = print_frame(&fixture, path);
    } else if (fixture_decode(&fixture, path, &message) == ERR_OK) {
        message_print(fixture.type, message, stdout);
        result = EXIT_DONE;
    }
    free(message);
    fixture_wipe(&fixture);
    return result;
}

static enum exit_code bus_print(struct cli *cli, const struct arguments *arguments)
{
    enum exit_code result = EXIT_DONE;

    (void)cli;
    for (size_t i = 0; i < arguments->count; i++) {
        if (print_file(arguments->positional[i]) != EXIT_DONE)
            result = EXIT_REFUSED;
    }
    return result;
}

/* The edge records by itself: a tap beside the bus would have to be let in by it. */
static enum exit_code bus_record(struct cli *cli, const struct arguments *arguments)
{
    const char *directory = arguments->positional[0];
    char *full;

    (void)cli;
    if (mkdir(directory, 0700) != 0 && errno != EEXIST) {
        complain("%s cannot be made: %s", directory, strerror(errno));
        return EXIT_REFUSED;
    }
    full = realpath(directory, NULL);
    if (full == NULL) {
        complain("%s: %s", directory, strerror(errno));
        return EXIT_REFUSED;
    }
    printf("The edge records the first 20 messages of each type, secrets blanked, when it is started with\n\n"
           "    MCPGW_BUS_RECORD=%s\n\n"
           "(under make up:  MCPGW_SETTINGS_edge=\"MCPGW_BUS_RECORD=%s\" make up).\n"
           "Its user must be able to write there.\n"
           "Read them with:  mcpgw bus print %s/*.hex\n", full, full, full);
    free(full);
    return EXIT_DONE;
}

static enum exit_code bus_replay(struct cli *cli, const struct arguments *arguments)
{
    const char *socket = arguments_value(arguments, "socket"), *role = arguments_value(arguments, "role");
    uint64_t wait_s;

    (void)cli;
    if (socket == NULL) {
        complain("--socket is missing: the base path to bind, which the worker is given as MCPGW_EDGES=ipc://PATH");
        return EXIT_MISUSE;
    }
    if (arguments_number(arguments, "wait", 1, 3600, 10, &wait_s) != ERR_OK) {
        complain("--wait: seconds, from 1 to 3600");
        return EXIT_MISUSE;
    }
    return replay_directory(arguments->positional[0], socket, role != NULL ? role : "authz", wait_s);
}

static const struct option_row replay_options[] = {
    { "socket", "PATH", "base path to bind, as an edge's bus" },
    { "role", "ROLE", "authz (default), ratelimit, keys or audit: whose requests are played; audit gets the recorded events and blocks" },
    { "wait", "SECONDS", "longest wait for the worker, and for each answer (10)" }, { 0 }
};

const struct command bus_commands[] = {
    { "bus", "print", "FILE...", "recorded messages and frames as readable lines",
      "  mcpgw bus print tests/wire/verdict_request.*.hex\n", NULL, 1, ARGUMENTS_MAX, false, bus_print },
    { "bus", "record", "DIR", "how to have the edge record its messages there", "  mcpgw bus record /tmp/wire\n",
      NULL, 1, 1, false, bus_record },
    { "bus", "replay", "DIR", "play recorded requests at one worker, as an edge, and print its replies",
      "  mcpgw bus replay tests/wire --role authz --socket /tmp/b/edge-1 &\n"
      "  MCPGW_EDGES=ipc:///tmp/b/edge-1 mcpgw-authz\n", replay_options, 1, 1, false, bus_replay },
    { 0 }
};
