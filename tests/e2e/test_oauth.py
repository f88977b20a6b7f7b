"""Access tokens of real authorization servers open the gateway: oidc-provider, and Better-Auth."""
import contextlib
import json
import os
import shutil
import subprocess

import pytest
import requests

from conftest import Gateway, free_port, make_home, wait_until
from oauth_flow import Client
from peers import node

ISSUERS = """issuers:
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
  - name: app
    preset: better-auth
    issuer: {app}/api/auth
    cooldown_s: 5
    opaque: database
"""
SECRET = "a-secret-of-the-end-to-end-tests-only-0123456789"
FETCH = "MCPGW_FETCH_PRIVATE=true MCPGW_FETCH_PLAIN_HTTP=true"


@contextlib.contextmanager
def peer(script, *arguments, **environment):
    """Runs it until the end; its first line of JSON names the issuer."""
    program, folder = node()
    with subprocess.Popen([program, script, *map(str, arguments)], cwd=folder, text=True, env=dict(os.environ, **environment),
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            while not (line := process.stdout.readline()).startswith("{"):
                assert line, f"{script} has ended"
            yield json.loads(line)["issuer"]
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def provider():
    with peer("oidc_provider.mjs", free_port()) as issuer:
        yield issuer


@pytest.fixture(scope="module")
def app_port():
    return free_port()


@pytest.fixture(scope="module")
def gateway(provider, app_port):
    home = make_home()
    instance = Gateway(home, free_port())
    config = instance.home / "issuers.yaml"
    config.write_text(ISSUERS.format(issuer=provider, app=f"http://127.0.0.1:{app_port}"))
    config.chmod(0o644)
    instance.settings = {"MCPGW_CONFIG": str(config), "MCPGW_SETTINGS_keys": FETCH,
                         "MCPGW_SETTINGS_authz": f"{FETCH} MCPGW_BETTER_AUTH_SECRET={SECRET}"}
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
    assert resource["authorization_servers"][0] == provider and resource["resource"] == f"{gateway.url}/mcp/example"
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


# ---- Better-Auth --------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def app(gateway, app_port):
    """The application, started after the gateway: the gateway's keys service finds it by itself."""
    with peer("better_auth_server.mjs", app_port, f"{gateway.url}/mcp/example", DATABASE_URL=gateway.env["MCPGW_DATABASE_URL"],
              BETTER_AUTH_SECRET=SECRET) as issuer:
        wait_until(lambda: [i for i in gateway.call("GET", "/api/v1/issuers").json()["items"] if i["name"] == "app" and i["keys"]],
                   60, "the keys of Better-Auth are fetched")
        yield issuer


@pytest.fixture(scope="module")
def bea(app):
    """(OAuth client with Bea's session, her user id, her session token)"""
    metadata = requests.get(app + "/.well-known/openid-configuration", timeout=20).json()
    client = Client(metadata, "openid proxy read")
    answer = client.session.post(app + "/sign-up/email", timeout=20, headers={"origin": app.removesuffix("/api/auth")},
                                 json={"email": "bea@example.com", "name": "Bea", "password": "correct-horse-battery"})
    assert answer.status_code == 200, answer.text
    return client, answer.json()["user"]["id"], answer.headers["set-auth-token"]


def check(gateway, **headers):
    return requests.get(f"{gateway.url}/auth/check?scope=proxy&server=example", headers=headers, timeout=20)


def test_a_token_of_better_auths_provider_opens_the_server(gateway, bea):
    client, user, _ = bea
    token = client.log_in("openid proxy", f"{gateway.url}/mcp/example")["access_token"]
    assert token.count(".") == 2
    assert bearer(gateway, token).status_code == 200
    said = check(gateway, authorization=f"Bearer {token}").json()
    assert (said["userId"], said["authMethod"], said["tenantId"]) == (user, "oauth", f"user:{user}")


def test_a_session_of_better_auth_opens_the_server_until_it_ends(gateway, app, bea):
    client, user, token = bea
    cookie = "; ".join(f"{c.name}={c.value}" for c in client.session.cookies)
    for headers in ({"cookie": cookie}, {"authorization": f"Bearer {token}"}):
        said = check(gateway, **headers)
        assert said.status_code == 200, said.text
        assert (said.json()["userId"], said.json()["authMethod"]) == (user, "session")
    access = client.log_in("openid proxy", f"{gateway.url}/mcp/example")["access_token"]
    assert check(gateway, authorization=f"Bearer {access}").status_code == 200
    out = client.session.post(app + "/sign-out", timeout=20, headers={"origin": app.removesuffix("/api/auth")}, json={})
    assert out.status_code == 200, out.text
    assert wait_until(lambda: check(gateway, cookie=cookie).status_code == 401, 10, "the session has ended")
    assert check(gateway, authorization=f"Bearer {token}").status_code == 401


# ---- last: the provider forgets its clients -----------------------------------------------------

def test_a_key_that_was_rotated_in_is_learned(gateway, provider, alice):
    client, resource = alice
    before = client.log_in("openid proxy", resource)["access_token"]
    requests.post(provider + "/test/rotate", timeout=20)
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
