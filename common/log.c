/* log.c - formats one line in a buffer on the stack and writes it with one write(2); owns nothing else. */
#include "common/log.h"

#include <inttypes.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/metrics.h"

/* A pipe takes this much at once or not at all (PIPE_BUF). */
#define LINE_MAX_BYTES 4096u
#define NAME_MAX_BYTES 41u

static struct {
    char service[NAME_MAX_BYTES], instance[NAME_MAX_BYTES];
    enum log_level level;
    bool under_journald;
} setup = { .level = LOG_INFO };

struct line {
    char bytes[LINE_MAX_BYTES];
    size_t size;
};

/* Room is kept for the end of the line, so that a cut line is still one JSON object. */
#define LINE_TAIL 4u

/* All of it or nothing. */
static bool put(struct line *line, const char *text, size_t size)
{
    if (line->size + size > sizeof line->bytes - LINE_TAIL)
        return false;
    memcpy(line->bytes + line->size, text, size);
    line->size += size;
    return true;
}

/* Bytes outside printable ASCII are spelled \u00xx, so no value can break the line or its encoding. */
static void put_escaped(struct line *line, const char *text)
{
    char escape[8];

    for (; *text != '\0'; text++) {
        const unsigned char c = (unsigned char)*text;
        const bool is_plain = c >= 0x20 && c < 0x7f && c != '"' && c != '\\';
        const int length = is_plain ? 1 : snprintf(escape, sizeof escape, "\\u%04x", c);

        if (!put(line, is_plain ? text : escape, (size_t)length))
            return;
    }
}

static void put_text_field(struct line *line, const char *name, const char *value)
{
    const char *comma = line->bytes[line->size - 1] == '{' ? "" : ",";
    char start[64];
    int length = snprintf(start, sizeof start, "%s\"%.50s\":\"", comma, name);

    if (!put(line, start, (size_t)length))
        return;
    put_escaped(line, value);
    line->bytes[line->size++] = '"';    /* out of the tail that put() keeps free */
}

static void put_number_field(struct line *line, const char *name, uint64_t value)
{
    char text[96];
    int length = snprintf(text, sizeof text, ",\"%.50s\":%" PRIu64, name, value);

    (void)put(line, text, (size_t)length);
}

static void put_time(struct line *line)
{
    struct timespec now;
    struct tm parts;
    char text[48];

    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &parts);
    size_t length = strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &parts);
    snprintf(text + length, sizeof text - length, ".%03ldZ", now.tv_nsec / 1000000);
    put_text_field(line, "time", text);
}

/* Without a reader the pipe fills; then POLLOUT is gone, and so is the line. */
static void write_line(const struct line *line)
{
    struct pollfd error = { .fd = STDERR_FILENO, .events = POLLOUT };
    const bool is_open = poll(&error, 1, 0) == 1 && (error.revents & POLLOUT) != 0;

    if (!is_open || write(STDERR_FILENO, line->bytes, line->size) != (ssize_t)line->size)
        metric_add(METRIC_log_dropped, 1);
}

void log_event(enum log_level level, const char *event, const struct log_field *fields)
{
    static const char *const names[] = { "error", "warn", "info", "debug" };
    static const char *const priorities[] = { "<3>", "<4>", "<6>", "<7>" };
    struct line line;

    if (level > setup.level)
        return;
    line.size = 0;
    if (setup.under_journald)
        (void)put(&line, priorities[level], strlen(priorities[level]));
    (void)put(&line, "{", 1);
    put_time(&line);
    put_text_field(&line, "level", names[level]);
    put_text_field(&line, "service", setup.service);
    put_text_field(&line, "instance", setup.instance);
    put_text_field(&line, "event", event);
    for (; fields->name != NULL; fields++) {
        if (fields->text != NULL)
            put_text_field(&line, fields->name, fields->text);
        else
            put_number_field(&line, fields->name, fields->number);
    }
    line.bytes[line.size++] = '}';
    line.bytes[line.size++] = '\n';
    write_line(&line);
}

uint64_t log_dropped(void)
{
    return metric_get(METRIC_log_dropped);
}

/* JOURNAL_STREAM is "device:inode" of the stream; a child whose stderr was redirected inherits the variable too. */
static bool stderr_is_journald(void)
{
    const char *stream = getenv("JOURNAL_STREAM");
    struct stat error;
    char expected[64];

    if (stream == NULL || fstat(STDERR_FILENO, &error) != 0)
        return false;
    snprintf(expected, sizeof expected, "%ju:%ju", (uintmax_t)error.st_dev, (uintmax_t)error.st_ino);
    return strcmp(stream, expected) == 0;
}

void log_setup(const char *service, const char *instance, enum log_level level)
{
    snprintf(setup.service, sizeof setup.service, "%s", service);
    snprintf(setup.instance, sizeof setup.instance, "%s", instance);
    setup.level = level;
    setup.under_journald = stderr_is_journald();
}
