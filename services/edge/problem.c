/* problem.c - how a refusal reads.  It never tells more than its caller may know: the reason stands in the trail only.
 */
#include "services/edge/problem.h"

#include <string.h>

const char *problem_phrase(int status)
{
    static const struct { int status; const char *phrase;
    } rows[] = {
        { 200, "OK" },
        { 201, "Created" },
        { 202, "Accepted" },
        { 204, "No Content" },
        { 206, "Partial Content" },
        { 301, "Moved Permanently" },
        { 302, "Found" },
        { 303, "See Other" },
        { 304, "Not Modified" },
        { 307, "Temporary Redirect" },
        { 308, "Permanent Redirect" },
        { 400, "Bad Request" },
        { 401, "Unauthorized" },
        { 403, "Forbidden" },
        { 404, "Not Found" },
        { 405, "Method Not Allowed" },
        { 406, "Not Acceptable" },
        { 408, "Request Timeout" },
        { 409, "Conflict" },
        { 410, "Gone" },
        { 412, "Precondition Failed" },
        { 413, "Content Too Large" },
        { 415, "Unsupported Media Type" },
        { 417, "Expectation Failed" },
        { 422, "Unprocessable Content" },
        { 429, "Too Many Requests" },
        { 431, "Request Header Fields Too Large" },
        { 500, "Internal Server Error" },
        { 502, "Bad Gateway" },
        { 503, "Service Unavailable" },
        { 504, "Gateway Timeout" },
        { 505, "HTTP Version Not Supported" },
    };

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (rows[i].status == status)
            return rows[i].phrase;
    }
    return status < 400 ? "Other" : "Error";
}

void problem_write(struct writer *writer, enum err err, int status, const char *detail, const char *request_id)
{
    writer_literal(writer, "{\"type\":\"about:blank\",\"title\":");
    writer_json(writer, problem_phrase(status));
    writer_literal(writer, ",\"status\":");
    writer_u64(writer, (uint64_t)status);
    writer_literal(writer, ",\"code\":");
    writer_json(writer, err_code(err));
    writer_literal(writer, ",\"detail\":");
    writer_json(writer, detail != NULL ? detail : err_meaning(err));
    writer_literal(writer, ",\"requestId\":");
    writer_json(writer, request_id);
    writer_literal(writer, "}");
}

void problem_write_rpc(struct writer *writer, enum err err, int status, const char *detail, const char *request_id)
{
    /* 429 -> -32009, 502 -> -32002, 503 -> -32003, 504 -> -32004: one digit, so always within the free range */
    writer_literal(writer, "{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":-3200");
    writer_u64(writer, (uint64_t)status % 10);
    writer_literal(writer, ",\"message\":");
    writer_json(writer, detail != NULL ? detail : err_meaning(err));
    writer_literal(writer, ",\"data\":");
    problem_write(writer, err, status, detail, request_id);
    writer_literal(writer, "}}");
}

void problem_extend(struct writer *writer, bool is_rpc, const char *name, const char *value)
{
    const char *end = is_rpc ? "}}}" : "}";

    if (writer->is_full || writer->size < strlen(end))
        return;
    writer->size -= strlen(end);
    writer_literal(writer, ",");
    writer_json(writer, name);
    writer_literal(writer, ":");
    writer_json(writer, value);
    writer_text(writer, end);
}
