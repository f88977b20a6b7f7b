"""What a newcomer does first: the calls that `make up` prints, a key of one's own, a tool behind the gateway."""
import json

from conftest import mcp_call, tool_text


def test_the_administrators_key_is_answered_with_the_unified_context(gateway):
    answer = gateway.check(gateway.admin_key)
    assert answer.status_code == 200
    context = answer.json()
    assert context["authMethod"] == "api_key" and context["rateLimitTier"] == "admin"
    assert "admin" in context["scopes"] and context["userId"] and context["tenantId"]


def test_identity_headers_are_always_all_set(gateway):
    headers = gateway.check(gateway.admin_key).headers
    for name in ("User", "Tenant", "Auth-Method", "Scopes", "Key-Id", "Rate-Tier", "Request-Id"):
        assert f"X-Mcpgw-{name}" in headers, name


def test_rate_headers_count_down(gateway):
    key = gateway.make_key(scopes=["read"])["key"]
    first, second = gateway.check(key).headers, gateway.check(key).headers
    assert int(first["X-RateLimit-Limit"]) == 1000
    assert int(second["X-RateLimit-Remaining"]) == int(first["X-RateLimit-Remaining"]) - 1
    assert "RateLimit" in first and "RateLimit-Policy" in first


def test_a_call_without_a_credential_is_challenged(gateway):
    answer = gateway.call("GET", "/auth/check", key="")
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Bearer ")
    problem = answer.json()
    assert answer.headers["content-type"].startswith("application/problem+json") and problem["code"] == "unauthorized"


def test_a_tool_behind_the_gateway_sees_who_called(gateway):
    made = gateway.make_key(scopes=["proxy"])
    seen = json.loads(tool_text(mcp_call(gateway, made["key"], "tools/call", {"name": "whoami", "arguments": {}})))
    seen = {name.lower(): value for name, value in seen.items()}
    assert seen["x-mcpgw-key-id"] == made["id"]
    assert seen["x-mcpgw-scopes"] == "proxy"


def test_forged_identity_headers_never_reach_a_server(gateway):
    key = gateway.make_key(scopes=["proxy"])["key"]
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "whoami", "arguments": {}}}
    answer = gateway.call("POST", "/mcp/example", key=key, json=body, headers={
        "X-Mcpgw-User": "root", "x_mcpgw_tenant": "other", "X-Mcpgw-Forged": "1", "Connection": "keep-alive, X-Mcpgw-Key-Id"})
    seen = {name.lower(): value for name, value in json.loads(tool_text(answer)).items()}
    assert seen["x-mcpgw-user"] != "root" and "x-mcpgw-forged" not in seen and "x_mcpgw_tenant" not in seen
    assert "x-mcpgw-key-id" in seen


def test_every_answer_has_its_event(gateway):
    made = gateway.make_key(scopes=["read", "proxy"])
    requests = [gateway.check(made["key"], headers={"X-Request-Id": f"{made['id']}-{n}"}) for n in range(50)]
    refused = gateway.check(made["key"], "?scope=admin", headers={"X-Request-Id": f"{made['id']}-refused"})
    assert all(answer.status_code == 200 for answer in requests) and refused.status_code == 403
    events = gateway.wait_for_events(51, keyId=made["id"], event="request")
    answers = {event["requestId"]: event for event in events if event["event"] == "request"}
    assert set(answers) == {f"{made['id']}-{n}" for n in range(50)} | {f"{made['id']}-refused"}
    assert answers[f"{made['id']}-refused"]["status"] == 403
    assert answers[f"{made['id']}-refused"]["outcome"] == "refused"


def test_a_proxied_call_has_a_decision_and_a_completion(gateway):
    made = gateway.make_key(scopes=["proxy"])
    answer = mcp_call(gateway, made["key"], "ping")
    assert answer.status_code == 200
    events = gateway.wait_for_events(2, keyId=made["id"], server="example")
    assert [event["event"] for event in events] == ["decision", "completion"]
    assert events[0]["requestId"] == events[1]["requestId"] and events[1]["status"] == 200
