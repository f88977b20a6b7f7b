"""A real MCP client and a real MCP server, with the gateway between them."""
import json
import os
import subprocess

import pytest
import requests

from conftest import free_port, wait_until
from peers import node


@pytest.fixture(scope="module")
def everything(gateway):
    program, folder = node()
    port = free_port()
    server = subprocess.Popen([program, "node_modules/@modelcontextprotocol/server-everything/dist/index.js", "streamableHttp"],
                              cwd=folder, env=dict(os.environ, PORT=str(port)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        def answers():
            try:
                return requests.get(f"http://127.0.0.1:{port}/mcp", timeout=2).status_code
            except requests.RequestException:
                return None
        wait_until(answers, 30, "server-everything listens")
        added = gateway.cli("server", "add", "everything", f"http://127.0.0.1:{port}/mcp")
        assert added.returncode == 0, added.stderr
        yield "everything"
        gateway.cli("server", "remove", "everything", "--yes")
    finally:
        server.terminate()
        server.wait()


def run_client(gateway, server, key):
    program, folder = node()
    result = subprocess.run([program, "client.mjs", f"{gateway.url}/mcp/{server}", key], cwd=folder, text=True, timeout=90,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert result.stdout, result.stderr
    return json.loads(result.stdout)


def test_the_official_client_works_through_the_gateway(gateway, everything):
    made = gateway.make_key(scopes=["proxy"])
    seen = run_client(gateway, everything, made["key"])
    assert seen.get("error") is None, seen
    assert seen["echo"] == "Echo: through the gateway" and "echo" in seen["tools"]
    assert seen["session"] and len(seen["progress"]) >= 3
    events = gateway.wait_for_events(8, keyId=made["id"], server="everything")
    decisions = {e["requestId"] for e in events if e["event"] == "decision"}
    assert len(decisions) >= 4


def test_the_official_client_is_told_that_its_key_is_no_good(gateway, everything):
    made = gateway.make_key(scopes=["proxy"])
    gateway.call("POST", f"/api/v1/keys/{made['id']}/revoke")
    seen = run_client(gateway, everything, made["key"])
    assert "error" in seen


def test_a_key_without_the_proxy_scope_is_forbidden(gateway, everything):
    made = gateway.make_key(scopes=["read"])
    answer = gateway.call("POST", "/mcp/everything", key=made["key"], json={"jsonrpc": "2.0", "id": 1, "method": "ping"})
    assert answer.status_code == 403
    assert 'error="insufficient_scope"' in answer.headers["WWW-Authenticate"]
