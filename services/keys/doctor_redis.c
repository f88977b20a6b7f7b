#include "services/keys/doctor_redis.h"

#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "common/cleanup.h"
#include "common/loop.h"
#include "common/postgres.h"
#include "common/redis.h"

#define KIND       "api-key:by-id:"
#define PAGE       "1000"
#define COMMAND_MS 10000u
#define CONNECT_MS 3000u
#define EXAMPLES   3

DEFINE_DESTROY(names_destroy, json_t, json_decref)

struct look {
    struct loop *loop;
    struct redis *redis;
    PGconn *session;
    const char *prefix;
    struct redis_findings *findings;
};

static void end(struct look *look, const char *why)
{
    snprintf(look->findings->why, REDIS_FINDING_SIZE, "%s", why);
    loop_stop(look->loop);
}

static void scan(struct look *look, const char *cursor);

/* Which of these ids does the table not have? */
static bool compare(struct look *look, const json_t *ids)
{
    char *text = json_dumps(ids, JSON_COMPACT | JSON_ENSURE_ASCII);
    const char *const values[] = { text };
    OWNED(result_destroy) PGresult *rows = PQexecParams(
        look->session, "SELECT count(*), (array_agg(i.id ORDER BY i.id))[1], (array_agg(i.id ORDER BY i.id))[2], (array_agg(i.id ORDER BY i.id))[3]"
                       " FROM jsonb_array_elements_text($1::jsonb) AS i (id) WHERE NOT EXISTS (SELECT FROM mcpgw.apikey a WHERE a.id = i.id)",
        1, NULL, values, NULL, NULL, 0);
    struct redis_findings *findings = look->findings;
    const bool is_told = findings->orphans > 0;

    free(text);
    if (PQresultStatus(rows) != PGRES_TUPLES_OK)
        return false;
    findings->orphans += (uint64_t)postgres_i64(rows, 0, 0);
    for (int i = 1; i <= EXAMPLES && !is_told && !PQgetisnull(rows, 0, i); i++) {
        const size_t used = strlen(findings->examples);

        snprintf(findings->examples + used, REDIS_FINDING_SIZE - used, "%s%.64s", used > 0 ? ", " : "", postgres_text(rows, 0, i));
    }
    return true;
}

static void take_name(struct look *look, const redisReply *name, json_t *ids)
{
    const size_t length = strlen(look->prefix);
    const char *kind = strstr(name->str, KIND);

    if (kind == NULL)
        return;
    if ((size_t)(kind - name->str) != length || strncmp(name->str, look->prefix, length) != 0) {
        snprintf(look->findings->other_prefix, REDIS_FINDING_SIZE, "%.*s", (int)(kind - name->str), name->str);
        return;
    }
    if (json_array_append_new(ids, json_string(kind + strlen(KIND))) == 0)    /* only what is UTF-8 is an id */
        look->findings->copies++;
}

static void on_page(void *owner, const redisReply *reply)
{
    struct look *look = owner;
    OWNED(names_destroy) json_t *ids = json_array();
    const redisReply *names;

    if (reply == NULL || reply->type != REDIS_REPLY_ARRAY || reply->elements != 2) {
        end(look, reply != NULL && reply->type == REDIS_REPLY_ERROR ? reply->str : "no answer");
        return;
    }
    names = reply->element[1];
    for (size_t i = 0; i < names->elements; i++)
        take_name(look, names->element[i], ids);
    if (json_array_size(ids) > 0 && !compare(look, ids))
        end(look, PQerrorMessage(look->session));
    else if (strcmp(reply->element[0]->str, "0") == 0)
        end(look, "");
    else
        scan(look, reply->element[0]->str);
}

static void scan(struct look *look, const char *cursor)
{
    const char *words[] = { "SCAN", cursor, "MATCH", "*" KIND "*", "COUNT", PAGE };

    if (redis_call(look->redis, 6, words, NULL, on_page, look) != ERR_OK)
        end(look, "it cannot be reached");
}

static void on_redis_state(void *owner, bool connected)
{
    struct look *look = owner;

    if (connected)
        scan(look, "0");
    else
        end(look, "the connection was lost");
}

static void on_no_connection(void *owner)
{
    struct look *look = owner;

    if (!redis_is_connected(look->redis))
        end(look, "it cannot be reached");
}

static void on_late(void *owner)
{
    end(owner, "it was not read to the end in time");
}

void doctor_look_into_redis(const struct secret *url, const char *prefix, PGconn *session, struct redis_findings *ret_findings)
{
    OWNED(loop_destroy) struct loop *loop = NULL;
    struct look look = { .session = session, .prefix = prefix, .findings = ret_findings };
    enum err err = loop_new(&loop);

    *ret_findings = (struct redis_findings){ .why = "" };
    look.loop = loop;
    if (err == ERR_OK)
        err = redis_new(loop, &(struct redis_options){ .url = url, .timeout_ms = COMMAND_MS, .on_state = on_redis_state,
                                                       .owner = &look }, &look.redis);
    if (err == ERR_OK && loop_after(loop, REDIS_LOOK_MS, on_late, &look) > 0 && loop_after(loop, CONNECT_MS, on_no_connection, &look) > 0)
        err = loop_run(loop);
    if (err != ERR_OK)
        snprintf(ret_findings->why, REDIS_FINDING_SIZE, "%s", "the URL is none of a Redis");
    look.findings = &(struct redis_findings){ .why = "" };    /* what is given up below calls back */
    redis_destroy(&look.redis);
}
