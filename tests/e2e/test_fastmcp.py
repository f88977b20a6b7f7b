"""Real FastMCP servers behind the gateway, as docs/migrating-fastmcp.md says."""
import json
import subprocess
import sys
import time

import jwt
import pytest
import requests

from conftest import ROOT, free_port, wait_until
from peers import python_environment

SECRET = "a secret of this server alone, which the gateway does not know"


@pytest.fixture(scope="module")
def start(gateway):
    """start(slug, trusts, audience, *options): a server, registered."""
    started, environment = [], python_environment("fastmcp")

    def make(slug, trusts, audience, *options):
        port = free_port()
        started.append((slug, subprocess.Popen([sys.executable, ROOT / "tests/e2e/fastmcp_server.py", str(port), trusts, audience],
                                               env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)))
        url = f"http://127.0.0.1:{port}/mcp"

        def answers():
            try:
                return requests.post(url, json={}, timeout=2).status_code == 401
            except requests.RequestException:
                return False
        wait_until(answers, 120, "FastMCP listens, and asks for a token")
        added = gateway.cli("server", "add", slug, url, *options)
        assert added.returncode == 0, added.stderr

    yield make
    for slug, process in started:
        gateway.cli("server", "remove", slug, "--yes")
        process.terminate()
        process.wait()


def post(gateway, slug, key, method, params, **headers):
    answer = gateway.call("POST", f"/mcp/{slug}", key=key, json={"jsonrpc": "2.0", "id": 1, "method": method, "params": params},
                          headers={"accept": "application/json, text/event-stream", **headers})
    if answer.status_code != 200:
        return answer, None
    text = next(line[6:] for line in answer.text.splitlines() if line.startswith("data: ")) if "event-stream" in answer.headers["Content-Type"] else answer.text
    return answer, json.loads(text)


def whoami(gateway, slug, key, **headers):
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "e2e", "version": "1"}}
    answer, _ = post(gateway, slug, key, "initialize", hello, **headers)
    assert answer.status_code == 200, answer.text
    session = {"mcp-session-id": answer.headers["mcp-session-id"], "mcp-protocol-version": "2025-11-25", **headers}
    gateway.call("POST", f"/mcp/{slug}", key=key, json={"jsonrpc": "2.0", "method": "notifications/initialized"},
                 headers={"accept": "application/json, text/event-stream", **session})
    _, said = post(gateway, slug, key, "tools/call", {"name": "whoami", "arguments": {}}, **session)
    return said["result"]["structuredContent"]


def test_fastmcp_knows_who_calls_without_a_setting_but_the_gateways_url(gateway, start):
    start("fast", gateway.url, "mcp://fast")
    made = gateway.make_key(scopes=["proxy"])
    said = whoami(gateway, "fast", made["key"])
    assert (said["client"], said["scopes"]) == (made["id"], ["proxy"])
    assert (said["claims"]["sub"], said["claims"]["iss"], said["claims"]["auth_method"]) == ("admin", gateway.url, "api_key")


def test_a_server_that_makes_its_own_tokens_keeps_them(gateway, start):
    start("own", SECRET, "https://own.example/mcp", "--upstream-auth", "own", "--resource", "https://own.example/mcp")
    key = gateway.make_key(scopes=["proxy"])["key"]
    claims = {"aud": "https://own.example/mcp", "sub": "u1", "client_id": "app", "exp": int(time.time()) + 300, "scope": "a b"}
    token = {"Authorization": "Bearer " + jwt.encode(claims, SECRET, "HS256")}
    assert whoami(gateway, "own", key, **token)["claims"]["sub"] == "u1"
    refused, _ = post(gateway, "own", key, "initialize", {})
    assert refused.status_code == 401      # the server's own, for its own token
    refused, _ = post(gateway, "own", "", "initialize", {}, **token)
    assert refused.status_code == 401      # the gateway's: its key is missing
    foreign = {"Authorization": "Bearer " + jwt.encode({**claims, "aud": "https://other.example"}, SECRET, "HS256")}
    refused, _ = post(gateway, "own", key, "initialize", {}, **foreign)
    assert refused.status_code == 401
