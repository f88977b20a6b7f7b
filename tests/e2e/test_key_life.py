"""Limits of a key and its life, through HTTP."""
import json

from conftest import mcp_call, tool_text


def test_a_key_from_another_address_answers_as_an_unknown_one(gateway):
    elsewhere = gateway.make_key(scopes=["read"], allowedIps=["192.0.2.0/24"])
    here = gateway.make_key(scopes=["read"], allowedIps=["127.0.0.0/8"])
    gone = gateway.make_key(scopes=["read"])
    gateway.call("DELETE", f"/api/v1/keys/{gone['id']}")
    seen = set()
    for made in (elsewhere, gone):
        answer = gateway.check(made["key"], "?scope=admin", headers={"X-Request-Id": "same"})
        headers = {k: v for k, v in answer.headers.items() if k.lower() != "date"}
        seen.add((answer.status_code, tuple(sorted(headers.items())), answer.text))
    assert len(seen) == 1 and next(iter(seen))[0] == 401
    assert gateway.check(here["key"]).status_code == 200
    gateway.call("PATCH", f"/api/v1/keys/{here['id']}", json={"allowedIps": ["10.0.0.0/8"]})
    assert gateway.check(here["key"]).status_code == 401


def test_a_key_reaches_its_servers_only(gateway):
    other = gateway.make_key(scopes=["admin", "proxy"], servers=["other"])
    assert mcp_call(gateway, other["key"], "tools/list").status_code == 403
    assert gateway.call("GET", "/api/v1/keys", key=other["key"]).status_code == 403
    assert gateway.check(other["key"]).status_code == gateway.check(other["key"], "?server=example").status_code == 403
    example = gateway.make_key(scopes=["proxy"], servers=["example"])
    assert mcp_call(gateway, example["key"], "tools/list").status_code == 200
    assert gateway.check(example["key"], "?server=example").status_code == 200


def test_a_key_calls_its_tools_only(gateway):
    made = gateway.make_key(scopes=["proxy"], tools=["echo"], rateLimit={"requests": 4, "window": 3600})
    key = made["key"]
    for params in ({"name": "add", "arguments": {"a": 1, "b": 2}}, {"name": "whoami"}):
        assert mcp_call(gateway, key, "tools/call", params).status_code == 403
    for body in (b'[{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"add"}}]', b"{",
                 b'{"jsonrpc":"2.0","id":1,"method":"ping","Method":"tools/call","params":{"name":"add"}}'):
        answer = gateway.call("POST", "/mcp/example", key=key, data=body, headers={"content-type": "application/json"})
        assert answer.status_code == 400, (body, answer.text)
    answer = gateway.call("POST", "/mcp/example", key=key, data=b"{}", headers={"content-encoding": "gzip"})
    assert answer.status_code == 415
    assert tool_text(mcp_call(gateway, key, "tools/call", {"name": "echo", "arguments": {"text": "hi"}})) == "hi"
    assert mcp_call(gateway, key, "tools/list").status_code == 200
    assert gateway.check(key, "?server=example").status_code == 403
    assert gateway.check(key, "?server=example&tool=add").status_code == 403
    assert gateway.check(key, "?server=example&tool=echo").status_code == 200
    # what was refused cost nothing
    assert mcp_call(gateway, key, "initialize", {"protocolVersion": "2025-06-18", "capabilities": {},
                                                 "clientInfo": {"name": "t", "version": "1"}}).status_code == 200
    assert mcp_call(gateway, key, "tools/list").status_code == 429
    called = gateway.wait_for_events(2, keyId=made["id"], tool="echo")
    assert {event["outcome"] for event in called} == {"allowed"}
    assert gateway.wait_for_events(1, keyId=made["id"], tool="add")[0]["outcome"] == "refused"


def test_both_values_of_a_rotated_key_work_until_the_overlap_ends(gateway):
    made = gateway.make_key(scopes=["proxy"])
    rotated = gateway.call("POST", f"/api/v1/keys/{made['id']}/rotate", json={"overlap": 3600}).json()
    assert gateway.check(made["key"]).status_code == gateway.check(rotated["key"]).status_code == 200
    assert gateway.check(made["key"]).json()["keyId"] == made["id"]
    third = gateway.call("POST", f"/api/v1/keys/{made['id']}/rotate", json={"overlap": 0}).json()
    assert third["applied"]["holders"] == third["applied"]["of"] >= 3
    assert [gateway.check(key["key"]).status_code for key in (made, rotated, third)] == [401, 401, 200]
    gateway.call("POST", f"/api/v1/keys/{made['id']}/revoke")
    assert [gateway.check(key["key"]).status_code for key in (made, rotated, third)] == [401, 401, 401]


def test_the_command_makes_a_configuration_for_clients_and_rotates(gateway):
    made = gateway.cli("key", "create", "--name", "cli", "--scope", "proxy", "--server", "example", "--allow-ip", "127.0.0.1")
    assert made.returncode == 0, made.stderr
    config = json.loads(made.stdout[made.stdout.index('{\n  "mcpServers"'):])["mcpServers"]["example"]
    assert config["url"] == gateway.url + "/mcp/example"
    answer = gateway.call("POST", "/mcp/example", key="", headers={**config["headers"], "accept": "application/json, text/event-stream"},
                          json={"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
    assert answer.status_code == 200
    key_id = gateway.call("GET", "/api/v1/keys?limit=1").json()["items"][0]["id"]
    assert "--yes" in gateway.cli("key", "rotate", key_id, "--overlap", "0").stderr
    rotated = json.loads(gateway.cli("key", "rotate", key_id, "--overlap", "0", "--yes", "--json").stdout)
    assert gateway.check(rotated["key"], "?server=example").status_code == 200
    assert gateway.check(config["headers"]["x-api-key"], "?server=example").status_code == 401


def test_a_create_repeated_under_one_idempotency_key_is_one_key(gateway):
    headers = {"Idempotency-Key": "e2e-create-1"}
    first, second = (gateway.call("POST", "/api/v1/keys", json={"name": "idem", "scopes": ["read"]}, headers=headers) for _ in range(2))
    assert first.status_code == second.status_code == 201 and first.json()["id"] == second.json()["id"]
    other = gateway.call("POST", "/api/v1/keys", json={"name": "other", "scopes": ["read"]}, headers=headers)
    assert other.status_code == 422 and other.json()["code"] == "idempotency_key_reused"
    assert gateway.call("POST", "/api/v1/keys", json={"scopes": ["read"]}, headers={"Idempotency-Key": "x" * 129}).status_code == 400


def test_a_change_to_another_state_than_was_read_is_refused(gateway):
    path = f"/api/v1/keys/{gateway.make_key(scopes=['read'])['id']}"
    tag = gateway.call("GET", path).headers["ETag"]
    changed = gateway.call("PATCH", path, json={"name": "first"}, headers={"If-Match": tag})
    assert changed.status_code == 200 and changed.headers["ETag"] != tag
    late = gateway.call("DELETE", path, headers={"If-Match": tag})
    assert late.status_code == 412 and late.json()["code"] == "precondition_failed" and late.headers["Content-Type"] == "application/problem+json"
    assert gateway.call("DELETE", path, headers={"If-Match": changed.headers["ETag"]}).status_code == 200
