-- The reference: is this key's SHA-256 in shared memory, and does one Redis script admit it?  No audit, no scopes.
local sha256 = require "nginx.sha256"
local hex = require("nginx.string").to_hex

local M = {}
local known = ngx.shared.keys
local socket_path

-- A sliding window from two fixed ones: the cheap usual script, not exact.
local script = [[
local now = redis.call('TIME')
local window = tonumber(ARGV[2])
local slot = math.floor(now[1] / window)
local before = tonumber(redis.call('GET', KEYS[1] .. ':' .. (slot - 1))) or 0
local current = tonumber(redis.call('GET', KEYS[1] .. ':' .. slot)) or 0
local spent = before * (1 - (now[1] % window) / window) + current
local limit = tonumber(ARGV[1])
if spent >= limit then return -1 end
current = redis.call('INCR', KEYS[1] .. ':' .. slot)
if current == 1 then redis.call('EXPIRE', KEYS[1] .. ':' .. slot, window * 2) end
return math.floor(limit - spent - 1)
]]
local script_sha = hex(ngx.sha1_bin(script))

local function digest(text)
    local state = sha256:new()
    state:update(text)
    return hex(state:final())
end

function M.load(path, redis)
    socket_path = "unix:" .. redis
    for key in io.lines(path) do known:set(digest(key), "user-" .. #key) end
end

local function words(...)
    local out = { "*", select("#", ...), "\r\n" }
    for i = 1, select("#", ...) do
        local word = tostring((select(i, ...)))
        out[#out + 1] = "$" .. #word .. "\r\n" .. word .. "\r\n"
    end
    return out
end

local function ask(sock, ...)
    local _, err = sock:send(words(...))
    if err then return nil, err end
    return sock:receive()
end

local function charge(key)
    local sock = ngx.socket.tcp()
    if not sock:connect(socket_path) then return nil end
    local line = ask(sock, "EVALSHA", script_sha, 1, "rl:" .. key, 1000000000, 3600)
    if line and line:sub(1, 9) == "-NOSCRIPT" then
        line = ask(sock, "EVAL", script, 1, "rl:" .. key, 1000000000, 3600)
    end
    if not line then return nil end
    sock:setkeepalive(10000, 1024)
    return tonumber(line:match("^:(-?%d+)$"))
end

function M.answer()
    local key = ngx.var.http_x_api_key
    local hash = key and digest(key)
    local user = hash and known:get(hash)
    if not user then return ngx.exit(401) end
    local left = charge(hash)
    if not left then return ngx.exit(503) end
    if left < 0 then return ngx.exit(429) end
    ngx.header["X-RateLimit-Remaining"] = left
    ngx.header["X-User"] = user
    ngx.header["Content-Type"] = "application/json"
    ngx.print('{"userId":"', user, '"}')
end

return M
