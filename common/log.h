/*
 * log.h - one JSON line per event on standard error.
 *
 * Called by main files, handlers and loops where an error stops travelling; libraries return it instead.
 * There is no log_bytes() and no log_secret(): what cannot be spelled cannot leak.
 */
#ifndef COMMON_LOG_H
#define COMMON_LOG_H

#include <stdint.h>

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };
struct log_field { const char *name; const char *text; uint64_t number; };

#define log_text(name, value)   ((struct log_field){ (name), (value), 0 })
#define log_number(name, value) ((struct log_field){ (name), NULL, (uint64_t)(value) })

/* log_info("key_created", log_text("key_id", id), log_number("age_s", age)); event in past tense, constant */
#define log_at(level, ...) log_event_(level, __VA_ARGS__, { 0 })
#define log_event_(level, event, ...) log_event(level, event, (const struct log_field[]){ __VA_ARGS__ })
#define log_error(...) log_at(LOG_ERROR, __VA_ARGS__)
#define log_warn(...)  log_at(LOG_WARN, __VA_ARGS__)
#define log_info(...)  log_at(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_at(LOG_DEBUG, __VA_ARGS__)

/* Every line carries {"time","level","service","instance","event",...}; a "<N>" priority goes first under journald
 * (JOURNAL_STREAM).  Default level: info. */
void log_setup(const char *service, const char *instance, enum log_level level);
/* Thread-safe; one write(2) per line, never blocks for long: a full pipe drops the line and counts it. */
void log_event(enum log_level level, const char *event, const struct log_field *fields);
uint64_t log_dropped(void);

#endif
