-- What wrk sends: BENCH_METHOD BENCH_PATH with the keys of BENCH_KEYS (values of the field BENCH_FIELD) in turn, each thread from another place on;
-- with a JSON-RPC body when the method is POST.  Ends with one line of figures for tests/bench/run.
local threads = 0

function setup(thread)
    thread:set("number", threads)
    threads = threads + 1
end

function init()
    local method, path = os.getenv("BENCH_METHOD"), os.getenv("BENCH_PATH")
    local body
    requests, at = {}, 0
    if method == "POST" then body = '{"jsonrpc":"2.0","id":1,"method":"ping"}' end
    for key in io.lines(os.getenv("BENCH_KEYS")) do
        local headers = { [os.getenv("BENCH_FIELD") or "x-api-key"] = key }
        if body then
            headers["content-type"] = "application/json"
            headers["accept"] = "application/json, text/event-stream"
        end
        requests[#requests + 1] = wrk.format(method, path, headers, body)
    end
    at = math.floor(number * #requests / 2)
end

function request()
    at = at % #requests + 1
    return requests[at]
end

function done(summary, latency)
    local errors = summary.errors
    io.write(string.format("BENCH %d %d %d %d %d %d %d\n", summary.requests, summary.duration,
        latency:percentile(50), latency:percentile(99), latency.max, errors.status,
        errors.connect + errors.read + errors.write + errors.timeout))
end
