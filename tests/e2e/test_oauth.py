"""Access tokens of real authorization servers open the gateway: oidc-provider, and Better-Auth, with its second factors and its
social login."""
import base64
import contextlib
import hashlib
import hmac
import json
import os
import shutil
import subprocess
import time
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import requests

from conftest import Gateway, free_port, make_home, wait_until
from oauth_flow import Client
from peers import node
import test_proxies
from stand_in import CLIENTS, DIRECTORY, Providers
from stand_in import SECRET as CLIENT_SECRET

ISSUERS = """issuers:
  - name: oidc
    preset: oidc
    issuer: {issuer}
    algorithms: [ES256]
    cooldown_s: 5
    opaque: introspect
    server_audiences:
      app: ["{app_url}"]
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
  - name: entra
    preset: entra-v2
    azure_tenant: {directory}
    azure_authority: {providers}
    client_id: {microsoft}
  - name: github
    preset: github
    client_id: {github}
    client_secret: {secret}
    introspection_url: {providers}/api.github.com/applications/{github}/token
    grants: [proxy]
  - name: google
    preset: google
    client_id: {google}
    introspection_url: {providers}/oauth2.googleapis.com/tokeninfo
    grants: [proxy]
"""
SECRET = "a-secret-of-the-end-to-end-tests-only-0123456789"
PASSWORD = "correct-horse-battery"
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
def app_url():
    """Of an MCP server that nginx serves and asks the gateway about."""
    return f"http://127.0.0.1:{free_port()}/mcp"


@pytest.fixture(scope="module")
def providers():
    with Providers() as made:
        yield made


@pytest.fixture(scope="module")
def gateway(provider, providers, app_port, app_url):
    home = make_home()
    instance = Gateway(home, free_port())
    config = instance.home / "issuers.yaml"
    config.write_text(ISSUERS.format(issuer=provider, app=f"http://127.0.0.1:{app_port}", providers=providers.url, directory=DIRECTORY, app_url=app_url,
                                     secret=CLIENT_SECRET, **CLIENTS))
    config.chmod(0o644)
    instance.settings = {"MCPGW_CONFIG": str(config), "MCPGW_SETTINGS_keys": FETCH,
                         "MCPGW_SETTINGS_edge": "MCPGW_TRUSTED_PROXIES=127.0.0.0/8",
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


def test_keys_and_tokens_open_one_server_and_the_token_decides(gateway, alice):
    client, resource = alice
    good, narrow = (client.log_in(scope, resource)["access_token"] for scope in ("openid proxy read", "openid read"))
    key = gateway.make_key(scopes=["proxy"])["key"]
    decided = [("api_key", 200, {"x-api-key": key}), ("api_key", 200, {"authorization": f"Bearer {key}"}),
               ("oauth", 200, {"x-api-key": key, "authorization": f"Bearer {good}"}),
               ("oauth", 403, {"x-api-key": key, "authorization": f"Bearer {narrow}"}),
               ("oauth", 401, {"x-api-key": key, "authorization": f"Bearer {good[:-6]}AAAAAA"}),
               (None, 400, {"x-api-key": gateway.admin_key, "authorization": f"Bearer {key}"})]
    for method, expected, headers in decided:
        answer = requests.post(resource, timeout=20, json={"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}},
                               headers={"accept": "application/json, text/event-stream", **headers})
        assert answer.status_code == expected, (headers, answer.text)
        if expected == 200:
            assert check(gateway, **headers).json()["authMethod"] == method


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
def app(gateway, app_port, providers):
    """The application, started after the gateway: the gateway's keys service finds it by itself."""
    resources = f"{gateway.url}/mcp/example", f"{gateway.url}/mcp/safe"
    with peer("better_auth_server.mjs", app_port, *resources, DATABASE_URL=gateway.env["MCPGW_DATABASE_URL"],
              BETTER_AUTH_SECRET=SECRET, PROVIDERS=json.dumps({"url": providers.url, "directory": DIRECTORY, "secret": CLIENT_SECRET,
                                                               "clients": CLIENTS})) as issuer:
        wait_until(lambda: [i for i in gateway.call("GET", "/api/v1/issuers").json()["items"] if i["name"] == "app" and i["keys"]],
                   60, "the keys of Better-Auth are fetched")
        yield issuer


def post(app, browser, path, wanted=200, **fields):
    """As a page of the application asks Better-Auth."""
    answer = browser.post(app + path, timeout=20, headers={"origin": app.removesuffix("/api/auth")}, json=fields)
    assert answer.status_code == wanted, answer.text
    return answer


def cookies_of(browser):
    return "; ".join(f"{c.name}={c.value}" for c in browser.cookies)


@pytest.fixture(scope="module")
def bea(app):
    """(OAuth client with Bea's session, her user id, her session token)"""
    metadata = requests.get(app + "/.well-known/openid-configuration", timeout=20).json()
    client = Client(metadata, "openid proxy read")
    answer = post(app, client.session, "/sign-up/email", email="bea@example.com", name="Bea", password=PASSWORD)
    return client, answer.json()["user"]["id"], answer.headers["set-auth-token"]


def check(gateway, server="example", **headers):
    return requests.get(f"{gateway.url}/auth/check?scope=proxy&server={server}", headers=headers, timeout=20)


def test_a_token_of_better_auths_provider_opens_the_server(gateway, bea):
    client, user, _ = bea
    token = client.log_in("openid proxy", f"{gateway.url}/mcp/example")["access_token"]
    assert token.count(".") == 2
    assert bearer(gateway, token).status_code == 200
    said = check(gateway, authorization=f"Bearer {token}").json()
    assert (said["userId"], said["authMethod"], said["tenantId"]) == (user, "oauth", f"user:{user}")


def test_a_session_of_better_auth_opens_the_server_until_it_ends(gateway, app, bea):
    client, user, token = bea
    cookie = cookies_of(client.session)
    for headers in ({"cookie": cookie}, {"authorization": f"Bearer {token}"}):
        said = check(gateway, **headers)
        assert said.status_code == 200, said.text
        assert (said.json()["userId"], said.json()["authMethod"]) == (user, "session")
    access = client.log_in("openid proxy", f"{gateway.url}/mcp/example")["access_token"]
    assert check(gateway, authorization=f"Bearer {access}").status_code == 200
    post(app, client.session, "/sign-out")
    assert wait_until(lambda: check(gateway, cookie=cookie).status_code == 401, 10, "the session has ended")
    assert check(gateway, authorization=f"Bearer {token}").status_code == 401


# ---- second factors: @better-auth's two-factor plugin ----------------------------------------------

@pytest.fixture(scope="module")
def safe(gateway):
    """A server whose callers need a second factor."""
    listed = gateway.call("GET", "/api/v1/servers").json()["items"]
    added = gateway.cli("server", "add", "safe", next(s["url"] for s in listed if s["slug"] == "example"), "--second-factor", "on")
    assert added.returncode == 0, added.stderr
    return "safe"


def totp(uri):
    """RFC 6238: the code of now."""
    secret = parse_qs(urlsplit(uri).query)["secret"][0]
    mac = hmac.digest(base64.b32decode(secret + "=" * (-len(secret) % 8)), (int(time.time()) // 30).to_bytes(8, "big"), hashlib.sha1)
    return f"{int.from_bytes(mac[mac[-1] & 15:][:4], 'big') % 2**31 % 10**6:06}"


def sign_up(app, name):
    browser = requests.Session()
    return browser, post(app, browser, "/sign-up/email", email=f"{name}@example.com", name=name, password=PASSWORD).json()["user"]["id"]


def sign_in(app, name, browser=None):
    browser = browser or requests.Session()
    return browser, post(app, browser, "/sign-in/email", email=f"{name}@example.com", password=PASSWORD).json()


def status(gateway, browser, server):
    return check(gateway, server, cookie=cookies_of(browser)).status_code


@pytest.fixture(scope="module")
def cass(app):
    """(browser of the session that enabled the factor, a session that is older, TOTP URI)"""
    browser, _ = sign_up(app, "cass")
    older, _ = sign_in(app, "cass")
    return browser, older, post(app, browser, "/two-factor/enable", password=PASSWORD).json()["totpURI"]


@pytest.fixture(scope="module")
def enrolled(app, cass):
    post(app, cass[0], "/two-factor/verify-totp", code=totp(cass[2]))
    return cass


def test_a_session_proves_the_second_factor_only_once_it_was_given(gateway, app, safe, cass):
    browser, older, uri = cass
    assert [status(gateway, each, "example") for each in (browser, older)] == [200, 200]
    refused = requests.post(f"{gateway.url}/mcp/{safe}", json={}, timeout=20, headers={"cookie": cookies_of(browser), "origin": gateway.url})
    assert refused.status_code == 403
    challenge = refused.headers["www-authenticate"]
    assert 'error="insufficient_user_authentication"' in challenge and f'/.well-known/oauth-protected-resource/mcp/{safe}"' in challenge
    post(app, browser, "/two-factor/verify-totp", 401, code="000000" if totp(uri) != "000000" else "000001")
    assert status(gateway, browser, safe) == 403
    post(app, browser, "/two-factor/verify-totp", code=totp(uri))
    assert status(gateway, browser, safe) == 200
    assert status(gateway, older, safe) == 403 and status(gateway, older, "example") == 200    # made with a password alone


def test_half_a_sign_in_and_its_cookies_prove_nothing(gateway, app, safe, enrolled):
    uri = enrolled[2]
    browser, said = sign_in(app, "cass")
    assert said["twoFactorRedirect"] is True
    signed = browser.cookies["better-auth.two_factor"]
    for cookie in (cookies_of(browser), f"better-auth.session_token={signed}"):                # signed with the same secret
        assert check(gateway, "example", cookie=cookie).status_code == 401
    assert check(gateway, "example", authorization=f"Bearer {unquote(signed)}").status_code == 401
    post(app, browser, "/two-factor/verify-totp", code=totp(uri), trustDevice=True)
    assert status(gateway, browser, safe) == 200
    trust = browser.cookies["better-auth.trust_device"]
    assert check(gateway, safe, cookie=f"better-auth.session_token={trust}").status_code == 401
    assert check(gateway, safe, cookie=f"better-auth.trust_device={trust}").status_code == 401
    for value, known in ((trust[:-6] + "AAAA%3D", False), (trust, True)):                      # the factor was given on this device
        again = requests.Session()
        again.cookies.set("better-auth.trust_device", value)
        _, said = sign_in(app, "cass", again)
        assert (said.get("twoFactorRedirect"), status(gateway, again, safe)) == ((None, 200) if known else (True, 401))


def test_a_token_of_a_session_with_a_second_factor_has_one_too(gateway, app, safe, enrolled):
    client = Client(requests.get(app + "/.well-known/openid-configuration", timeout=20).json(), "openid proxy")
    for browser, expected in ((enrolled[0], 200), (enrolled[1], 403)):
        client.session = browser
        token = client.log_in("openid proxy", f"{gateway.url}/mcp/{safe}")["access_token"]
        assert bearer(gateway, token, safe).status_code == expected


@pytest.fixture(scope="module")
def boss(gateway, app):
    """Browser of an administrator of the application."""
    browser, user = sign_up(app, "boss")
    with gateway.database() as connection:
        connection.execute("UPDATE \"user\" SET role = 'admin' WHERE id = %s", [user])
    return browser


def test_who_impersonates_a_user_gave_no_factor_of_that_user(gateway, app, safe, enrolled, boss):
    session = enrolled[0].get(app + "/get-session", timeout=20).json()
    browser = requests.Session()
    browser.cookies.update(boss.cookies)
    post(app, browser, "/admin/impersonate-user", userId=session["user"]["id"])
    said = check(gateway, "example", cookie=cookies_of(browser))
    assert (said.status_code, said.json()["userId"]) == (200, session["user"]["id"])
    assert status(gateway, browser, safe) == 403


# ---- social login ------------------------------------------------------------------------------------

def log_in_socially(app, provider, person):
    """(browser, what Better-Auth stored): its own code from /sign-in/social to the callback, with the stand-in between."""
    browser = requests.Session()
    url = post(app, browser, "/sign-in/social", provider=provider, callbackURL="/welcome").json()["url"]
    asked = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
    assert asked["client_id"] == CLIENTS[provider] and asked["redirect_uri"] == f"{app}/callback/{provider}"
    back = browser.get(asked["redirect_uri"], params={"code": person, "state": asked["state"]}, allow_redirects=False, timeout=20)
    assert (back.status_code, back.headers["location"]) == (302, "/welcome"), back.text
    return browser


@pytest.mark.parametrize("name", ["microsoft", "github", "google"])
def test_who_came_by_social_login_is_one_user_by_cookie_and_by_the_providers_token(gateway, app, boss, providers, name):
    person = f"dan-{name}"
    browser = log_in_socially(app, name, person)
    with gateway.database() as connection:
        user, account, token = connection.execute('SELECT "userId", "accountId", "accessToken" FROM account WHERE "providerId" = %s AND "userId" ='
                                                  ' (SELECT id FROM "user" WHERE email = %s)', [name, f"{person}@example.com"]).fetchone()
    assert account == {"microsoft": f"oid-{person}", "github": str(providers.serial(person)), "google": f"google-{person}"}[name]
    for headers, method in (({"cookie": cookies_of(browser)}, "session"), ({"authorization": f"Bearer {token}"}, "oauth")):
        said = check(gateway, **headers)
        assert said.status_code == 200, said.text
        assert (said.json()["userId"], said.json()["authMethod"]) == (user, method)
    post(app, browser, "/sign-out")
    wait_until(lambda: status(gateway, browser, "example") == 401, 5, "the session ends")      # 0.1 s where nothing else runs
    assert check(gateway, authorization=f"Bearer {token}").status_code == 200                   # it is no session's
    browser = log_in_socially(app, name, person)
    assert status(gateway, browser, "example") == 200
    post(app, boss, "/admin/ban-user", userId=user)
    credentials = {"cookie": cookies_of(browser)}, {"authorization": f"Bearer {token}"}
    wait_until(lambda: [check(gateway, **each).status_code for each in credentials] == [401, 401], 5, "the ban counts")
    post(app, boss, "/admin/unban-user", userId=user)
    wait_until(lambda: check(gateway, **credentials[1]).status_code == 200, 5, "the ban ends")
    assert check(gateway, **credentials[0]).status_code == 401                                  # Better-Auth ended its sessions


def test_a_providers_token_for_another_application_opens_nothing(gateway, providers):
    for token in (providers.opaque_token("gho_", "eve", "Iv1.another"), providers.opaque_token("ya29.", "eve", "another.apps.googleusercontent.com"),
                  "gho_" + "x" * 32, "ya29." + "x" * 32, providers.entra_token("eve", "00000003-0000-0000-c000-000000000000", scp="User.Read"),
                  providers.entra_token("eve", scp=None)):
        assert check(gateway, authorization=f"Bearer {token}").status_code == 401


# ---- last: the provider forgets its clients -----------------------------------------------------

def test_a_key_that_is_rotated_in_under_load_is_learned_and_the_old_one_never_fails(gateway, provider, alice, load):
    client, resource = alice
    before = client.log_in("openid proxy", resource, login_hint="rita")["access_token"]
    with load(gateway, None, "/auth/check?scope=proxy&server=example", 2, {"authorization": f"Bearer {before}"}) as running:
        running.wait_for(50)
        requests.post(provider + "/test/rotate", timeout=20)
        server = requests.get(provider + "/.well-known/openid-configuration", timeout=20).json()
        after = Client(server, "openid proxy").log_in("openid proxy", resource)["access_token"]
        wait_until(lambda: bearer(gateway, after).status_code == 200, 30, "the new key is learned")
        running.wait_for(50)
    assert running.errors == [] and set(running.statuses) <= {200, 429}     # accepted, and counted against its user's 500 an hour


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


@pytest.fixture
def behind_nginx(gateway, app_url, tmp_path):
    """docs/proxies/nginx.conf in front of the example server, registered with the URL that clients use."""
    listed = gateway.call("GET", "/api/v1/servers").json()["items"]
    upstream = next(s["url"] for s in listed if s["slug"] == "example")
    added = gateway.cli("server", "add", "app", upstream, "--resource", app_url)
    assert added.returncode == 0, added.stderr
    text = (test_proxies.SNIPPETS / "nginx.conf").read_text()
    for old, new in (("8080", gateway.port), ("8090", urlsplit(app_url).port), ("8091", urlsplit(upstream).port), ("scope=proxy;", "scope=proxy&server=app;")):
        assert old in text
        text = text.replace(old, str(new))
    with open(tmp_path / "log", "w") as log, subprocess.Popen(test_proxies.nginx(tmp_path, text), stdout=log, stderr=log) as process:
        wait_until(lambda: process.poll() is not None or (tmp_path / "pid").exists(), 20, "nginx runs")
        yield app_url
        process.terminate()


def test_the_official_client_logs_in_to_a_server_that_nginx_serves(gateway, provider, behind_nginx):
    refused = requests.post(behind_nginx, json={}, timeout=20)
    named = behind_nginx.replace("/mcp", "/.well-known/oauth-protected-resource/mcp")
    assert refused.status_code == 401 and f'resource_metadata="{named}"' in refused.headers["www-authenticate"]
    seen = sdk_client(behind_nginx, "read")
    assert seen.get("error") is None, seen
    assert [(asked["scope"], asked["resource"]) for asked in seen["asked"]] == [("read", behind_nginx), ("proxy", behind_nginx)]
    assert (seen["who"]["X-Mcpgw-User"], seen["who"]["X-Mcpgw-Auth-Method"]) == ("oidc:alice", "oauth")
    client = Client(requests.get(provider + "/.well-known/openid-configuration", timeout=20).json(), "openid proxy")
    foreign = client.log_in("openid proxy", f"{gateway.url}/mcp/example")["access_token"]
    assert requests.post(behind_nginx, json={}, timeout=20, headers={"authorization": f"Bearer {foreign}"}).status_code == 401


def test_the_official_client_steps_up_to_the_scopes_of_the_operation(gateway):
    url = f"{gateway.url}/mcp/example"
    seen = sdk_client(url, "read")
    assert seen.get("error") is None, seen
    assert [asked["scope"] for asked in seen["asked"]] == ["read", "proxy"]
    assert (seen["before"], seen["granted"]) == ("read", "proxy")
    assert (seen["who"]["X-Mcpgw-User"], seen["who"]["X-Mcpgw-Scopes"]) == ("oidc:alice", "proxy")
    refused = gateway.wait_for_events(1, server="example", status=403, userId="oidc:alice")
    assert refused[-1]["reason"] == "scope"


def test_the_official_client_finds_no_way_into_a_server_that_is_not_there(gateway):
    seen = sdk_client(f"{gateway.url}/mcp/nowhere")
    assert seen["error"] and not seen["asked"]
