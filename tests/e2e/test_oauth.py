"""Access tokens of real authorization servers open the gateway: oidc-provider, and Better-Auth."""
import json
import shutil
import subprocess

import pytest
import requests

from conftest import Gateway, free_port, make_home, wait_until
from oauth_flow import Client
from peers import node

OIDC = """issuers:
  - name: oidc
    preset: oidc
    issuer: {issuer}
    algorithms: [ES256]
    cooldown_s: 5
    opaque: introspect
    introspection_url: {issuer}/token/introspection
    client_id: gateway
    client_secret: gateway-secret-of-the-tests
    scopes:
      - {{claim: scope, value: proxy, grants: [proxy]}}
      - {{claim: scope, value: read, grants: [read]}}
"""
FETCH = "MCPGW_FETCH_PRIVATE=true MCPGW_FETCH_PLAIN_HTTP=true"


@pytest.fixture(scope="module")
def provider():
    program, folder = node()
    port = free_port()
    with subprocess.Popen([program, "oidc_provider.mjs", str(port)], cwd=folder, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL) as process:
        try:
            while not (line := process.stdout.readline()).startswith("{"):
                assert line, "the provider has ended"
            yield json.loads(line)["issuer"]
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def gateway(provider):
    home = make_home()
    instance = Gateway(home, free_port())
    config = instance.home / "issuers.yaml"
    config.write_text(OIDC.format(issuer=provider))
    config.chmod(0o644)
    instance.settings = {"MCPGW_CONFIG": str(config), "MCPGW_SETTINGS_keys": FETCH, "MCPGW_SETTINGS_authz": FETCH}
    try:
        instance.up(authz=2)
        yield instance
    finally:
        instance.run("reset", check=False)
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="module")
def discovered(gateway, provider):
    """What a client finds that knows nothing but the server's URL."""
    answer = requests.post(f"{gateway.url}/mcp/example", json={}, timeout=20)
    assert answer.status_code == 401
    challenge = answer.headers["www-authenticate"]
    metadata_url = challenge.split('resource_metadata="')[1].split('"')[0]
    resource = requests.get(metadata_url, timeout=20).json()
    assert resource["authorization_servers"] == [provider] and resource["resource"] == f"{gateway.url}/mcp/example"
    return resource, requests.get(provider + "/.well-known/openid-configuration", timeout=20).json()


def bearer(gateway, token, server="example"):
    return requests.post(f"{gateway.url}/mcp/{server}", json={"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}, timeout=20,
                         headers={"accept": "application/json, text/event-stream", "authorization": f"Bearer {token}"})


@pytest.fixture(scope="module")
def alice(discovered):
    resource, server = discovered
    return Client(server, "openid proxy read"), resource["resource"]


def test_the_keys_of_the_issuer_are_there(gateway, provider):
    listed = wait_until(lambda: [i for i in gateway.call("GET", "/api/v1/issuers").json()["items"] if i["keys"]], 20, "keys are fetched")
    assert (listed[0]["name"], listed[0]["issuer"], listed[0]["state"]) == ("oidc", provider, "fresh")
    told = gateway.cli("issuer", "list")
    assert told.returncode == 0 and "oidc" in told.stdout and "fresh" in told.stdout


def test_a_token_of_the_provider_opens_the_server_and_no_other(gateway, alice):
    client, resource = alice
    token = client.log_in("openid proxy read", resource)["access_token"]
    answer = bearer(gateway, token)
    assert answer.status_code == 200 and "tools" in answer.text, answer.text
    context = requests.get(f"{gateway.url}/auth/check?scope=proxy&server=example", headers={"authorization": f"Bearer {token}"}, timeout=20)
    assert context.status_code == 200
    said = context.json()
    assert said["authMethod"] == "oauth" and said["userId"] == "oidc:alice" and "proxy" in said["scopes"]
    assert bearer(gateway, token, "another").status_code in (401, 404)
    assert bearer(gateway, token[:-6] + "AAAAAA").status_code == 401
    foreign = client.log_in("openid proxy read", gateway.url + "/mcp/another")["access_token"]
    refused = bearer(gateway, foreign)
    assert refused.status_code == 401 and 'error="invalid_token"' in refused.headers["www-authenticate"]


def test_an_opaque_token_is_asked_about(gateway, alice):
    client, resource = alice
    token = client.log_in("openid proxy read", resource + "?opaque")["access_token"]
    assert "." not in token
    assert bearer(gateway, token).status_code == 200
    assert bearer(gateway, "x" * 43).status_code == 401


def test_a_token_without_the_scope_is_told_which_one(gateway, alice):
    client, resource = alice
    token = client.log_in("openid read", resource)["access_token"]
    refused = bearer(gateway, token)
    assert refused.status_code == 403
    challenge = refused.headers["www-authenticate"]
    assert 'error="insufficient_scope"' in challenge and "proxy" in challenge


def test_an_id_token_is_no_access_token(gateway, alice):
    client, resource = alice
    assert bearer(gateway, client.log_in("openid proxy", resource)["id_token"]).status_code == 401


def test_a_token_is_explained(gateway, alice):
    client, resource = alice
    token = client.log_in("openid proxy", resource)["access_token"]
    said = gateway.call("POST", "/api/v1/tokens/explain", json={"token": token, "server": "example"})
    assert said.status_code == 200 and said.json()["accepted"] is True, said.text
    said = gateway.call("POST", "/api/v1/tokens/explain", json={"token": token, "server": "another"})
    assert said.json()["reason"] == "audience"


def test_a_key_that_was_rotated_in_is_learned(gateway, provider, alice):
    client, resource = alice
    before = client.log_in("openid proxy", resource)["access_token"]
    requests.post(provider + "/test/rotate", timeout=20)    # it forgets its clients
    server = requests.get(provider + "/.well-known/openid-configuration", timeout=20).json()
    after = Client(server, "openid proxy").log_in("openid proxy", resource)["access_token"]
    wait_until(lambda: bearer(gateway, after).status_code == 200, 30, "the new key is learned")
    assert bearer(gateway, before).status_code == 200


def sdk_client(*arguments):
    program, folder = node()
    result = subprocess.run([program, "oauth_client.mjs", *arguments], cwd=folder, text=True, timeout=90, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE)
    assert result.stdout, result.stderr
    return json.loads(result.stdout)


def test_the_official_client_needs_nothing_but_the_url(gateway):
    url = f"{gateway.url}/mcp/example"
    seen = sdk_client(url)
    assert seen.get("error") is None, seen
    assert seen["asked"] == [{"scope": "proxy", "resource": url, "code_challenge_method": "S256"}]
    who = seen["who"]
    assert (who["X-Mcpgw-User"], who["X-Mcpgw-Auth-Method"], who["X-Mcpgw-Scopes"]) == ("oidc:alice", "oauth", "proxy")
    assert len(gateway.wait_for_events(2, event="decision", userId="oidc:alice", server="example")) >= 2


def test_the_official_client_finds_no_way_into_a_server_that_is_not_there(gateway):
    seen = sdk_client(f"{gateway.url}/mcp/nowhere")
    assert seen["error"] and not seen["asked"]
