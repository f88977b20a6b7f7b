-- Asks the gateway about one request (HAProxy 2.6: core.httpclient) and sets what the configuration acts upon.
local identity = { "user", "tenant", "auth-method", "scopes", "key-id", "rate-tier", "request-id" }

local function first(headers, name)
    local values = headers[name]
    return values and values[0] or nil
end

local function check(txn)
    local asked, sent = txn.http:req_get_headers(), {}
    for _, name in ipairs({ "authorization", "x-api-key", "cookie" }) do
        if asked[name] then
            sent[name] = {}
            for index, value in pairs(asked[name]) do sent[name][index + 1] = value end
        end
    end
    sent["x-forwarded-method"] = { txn.f:method() }
    sent["x-forwarded-uri"] = { txn.f:pathq() }
    sent["x-forwarded-for"] = { txn.f:src() }
    -- Whatever the client sent under these names goes, with - or with _.
    for name in pairs(asked) do
        if name:gsub("_", "-"):find("^x%-mcpgw%-") then txn.http:req_del_header(name) end
    end
    local answer = core.httpclient():get{ url = txn:get_var("txn.mcpgw_url"), headers = sent, timeout = 2000 }
    txn:set_var("txn.mcpgw_status", answer and answer.status or 503)
    if not answer or not answer.headers then return end
    txn:set_var("txn.mcpgw_body", answer.body or "")
    local challenge = first(answer.headers, "www-authenticate")
    if challenge then txn:set_var("txn.mcpgw_challenge", challenge) end
    txn:set_var("txn.mcpgw_retry", first(answer.headers, "retry-after") or "1")
    for _, name in ipairs(identity) do
        txn.http:req_set_header("x-mcpgw-" .. name, first(answer.headers, "x-mcpgw-" .. name) or "")
    end
    txn.http:req_del_header("authorization")
    txn.http:req_del_header("x-api-key")
end

core.register_action("mcpgw_check", { "http-req" }, check)
