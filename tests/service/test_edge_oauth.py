"""mcpgw-edge alone, for clients that bring tokens: what is asked of authz, metadata, challenges, steps up."""
import base64
import hashlib

import pytest
import requests

from busedge import SCOPES
from recorded import KEYS, digest, load
from test_edge import edge, start, upstream    # noqa: F401 (fixtures)

PUBLIC = "https://gw.example"
LIST = """
issuers:
  - {name: hidden, preset: oidc, issuer: "https://hidden.example", advertise: false}
  - {name: first, preset: better-auth, issuer: "https://auth.example/api/auth"}
  - {name: second, preset: oidc, issuer: "https://second.example"}
"""
METADATA = "/.well-known/oauth-protected-resource"
TOKEN = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJ1In0.c2lnbmF0dXJl"
COOKIE = "better-auth.session_token"


@pytest.fixture
def settings(tmp):
    """Two issuers that are advertised and one that is not."""
    (tmp / "mcpgw.yaml").write_text(LIST)
    return {"MCPGW_PUBLIC_URL": PUBLIC + "/", "MCPGW_CONFIG": str(tmp / "mcpgw.yaml")}


def sha256(text):
    return hashlib.sha256(text.encode()).digest()


def bearer(token, **more):
    return {"Authorization": f"Bearer {token}", **more}


def verdict_of(edge, **fields):
    edge.peers.answer["verdict_request"] = lambda _: [("verdict", {**load("verdict", "allowed"), **fields})]


def ask_for_token_first(edge, **fields):
    """authz as it is when it has not seen the token: what it was asked is returned."""
    asked = []

    def answer(request):
        asked.append(dict(request))
        if not request["token"]:
            return [("verdict", {**load("verdict", "unknown"), "error": 19, "reason": ""})]
        return [("verdict", {**load("verdict", "allowed"), "auth_method": 2, "key_id": "", **fields})]
    edge.peers.answer["verdict_request"] = answer
    return asked


# ---- refused ----------------------------------------------------------------------------------------------

def test_what_cannot_be_one_credential_is_refused_and_nobody_is_asked(start, settings):
    edge = start(**settings)
    for query, headers, status in (
            ("?access_token=" + TOKEN, {}, 400), ("?a=b&access_token", bearer(TOKEN), 400),
            ("", bearer(TOKEN + ", Bearer x"), 400), ("", bearer(""), 401), ("", bearer("not<a>token"), 401),
            ("", bearer("A" * 16385), 401), ("", {"Cookie": f"{COOKIE}=a; {COOKIE}=b"}, 400)):
        answer = edge.check(query, key=None, headers=headers)
        assert answer.status_code == status, (query, headers, answer.text)
        assert status == 400 or answer.headers["WWW-Authenticate"].startswith("Bearer error=\"invalid_token\", ")
    assert "URLs are logged" in edge.check("?access_token=x", key=None).json()["detail"]
    assert edge.peers.asked.empty()


def test_a_cookie_of_a_foreign_page_asks_nobody(start):
    edge = start()
    verdict_of(edge, auth_method=3)
    edge.replies(charge="allowed")
    cookie = {"Cookie": f"{COOKIE}=tok.sig"}
    for method, headers in (("GET", {"Origin": "https://evil.example"}), ("GET", {"Sec-Fetch-Site": "cross-site"}), ("POST", {})):
        answer = edge.call(method, "/auth/check", key=None, headers={**cookie, **headers})
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), headers
    assert edge.peers.asked.empty()
    for method, headers in (("GET", {}), ("POST", {"Sec-Fetch-Site": "same-origin"}), ("POST", {"Origin": f"http://127.0.0.1:{edge.port}"})):
        assert edge.call(method, "/auth/check", key=None, headers={**cookie, **headers}).status_code == 200
        request = edge.peers.take("verdict_request")
        assert (request["method"], request["digest"], request["proof"]) == (3, sha256("tok.sig"), sha256("tok.sig"))
        edge.peers.take("charge_request")


def test_a_second_request_for_the_token_is_503(edge):
    edge.peers.answer["verdict_request"] = lambda _: [("verdict", {**load("verdict", "unknown"), "error": 19, "reason": ""})]
    answer = edge.check(key=None, headers=bearer(TOKEN))
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert "Retry-After" in answer.headers
    asked = [edge.peers.take("verdict_request") for _ in range(2)]
    assert [request["token"] for request in asked] == [b"", TOKEN.encode()] and edge.peers.asked.empty()


# ---- asked ------------------------------------------------------------------------------------------------

def test_a_token_is_asked_by_digest_and_shown_once_when_wanted(edge):
    asked = ask_for_token_first(edge)
    edge.replies(charge="allowed")
    answer = edge.check(key=None, headers=bearer(TOKEN))
    assert (answer.status_code, answer.json()["authMethod"]) == (200, "oauth")
    signed = TOKEN.rsplit(".", 1)[0]
    assert [request["token"] for request in asked] == [b"", TOKEN.encode()]
    for request in asked:
        assert (request["method"], request["digest"], request["proof"], request["beside"]) == (2, sha256(signed), sha256(TOKEN), b"")
    assert dict(edge.peers.asked.get(timeout=9)) and edge.metric('mcpgw_auth_attempts_total{method="oauth",outcome="allowed"}') == 1


def test_a_key_beside_a_token_is_asked_beside_it(edge):
    verdict_of(edge)
    edge.replies(charge="allowed")
    assert edge.check(headers=bearer(TOKEN)).status_code == 200
    request = edge.peers.take("verdict_request")
    assert (request["method"], request["beside"]) == (2, digest(KEYS["ci"]))


# ---- metadata and challenges --------------------------------------------------------------------------------

def test_without_issuers_there_is_no_metadata_and_no_pointer_to_it(edge):
    for path in (METADATA, METADATA + "/mcp/wire"):
        assert edge.call("GET", path, key=None).status_code == 404
    assert edge.call("POST", "/mcp/wire", key=None).headers["WWW-Authenticate"] == 'Bearer scope="proxy"'
    assert edge.check(key=None).headers["WWW-Authenticate"] == 'Bearer realm="mcpgw"'


def test_each_server_has_its_document_and_the_root_has_none(start, settings):
    edge = start(**settings)
    for path in ("/mcp/wire", "/mcp/wire/"):
        answer = edge.call("GET", METADATA + path, key=None, headers={"Origin": "https://evil.example", "Host": "evil.example"})
        assert answer.status_code == 200 and answer.headers["Access-Control-Allow-Origin"] == "*"
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.json() == {
            "resource": PUBLIC + "/mcp/wire", "authorization_servers": ["https://auth.example/api/auth", "https://second.example"],
            "scopes_supported": ["mcp:proxy"], "bearer_methods_supported": ["header"], "resource_name": "wire"}
    assert edge.call("HEAD", METADATA + "/mcp/wire", key=None).text == ""
    for path in ("", "/mcp/nowhere", "/mcp/wire/deeper", "/mcp/" + "a" * 80):
        assert edge.call("GET", METADATA + path, key=None).status_code == 404, path
    assert edge.call("POST", METADATA, key=None).status_code == 405
    answer = edge.call("OPTIONS", METADATA + "/mcp/wire", key=None, headers={"Origin": "https://any.example"})
    assert answer.status_code == 204 and "MCP-Protocol-Version" in answer.headers["Access-Control-Allow-Headers"]
    assert edge.peers.asked.empty()


def test_an_operator_may_make_the_origin_a_resource(start, settings):
    edge = start(**settings, MCPGW_ORIGIN_RESOURCE="true")
    assert edge.call("GET", METADATA, key=None).json()["resource"] == PUBLIC
    assert f'resource_metadata="{PUBLIC}{METADATA}"' in edge.check(key=None).headers["WWW-Authenticate"]


@pytest.mark.parametrize("setting, value, named", [
    ("MCPGW_PUBLIC_URL", "gw.example", "public_url"), ("MCPGW_PUBLIC_URL", 'https://gw"', "public_url"),
    ("MCPGW_SECOND_FACTOR_PATHS", "/mcp,api/v1", "second_factor_paths")])
def test_what_cannot_be_advertised_or_guarded_is_refused_at_start(service, tmp, settings, setting, value, named):
    process = service("edge", **{**settings, "MCPGW_SPOOL_DIR": str(tmp / "spool"), "MCPGW_BUS": f"ipc://{tmp}/edge-9", setting: value})
    assert process.process.wait(20) == 2
    assert named in process.log()


CHALLENGES = f'resource_metadata="{PUBLIC}{METADATA}/mcp/wire", scope="mcp:proxy"'
INVALID = 'Bearer error="invalid_token", error_description="The credential did not verify", ' + CHALLENGES


def test_challenges_are_one_text_for_one_refusal(start, settings):
    edge = start(**settings)
    edge.replies("unknown", "allowed")
    seen = {name: edge.call("POST", path, key=key, headers=headers) for name, path, key, headers in (
        ("none", "/mcp/wire", None, {}), ("basic", "/mcp/wire/", None, {"Authorization": "Basic YTpi"}),
        ("key", "/mcp/wire", "unknown", {}), ("garbage", "/mcp/wire", None, {"x-api-key": "short"}),
        ("empty", "/mcp/wire", None, bearer("")), ("token", "/mcp/wire/below?a=b", None, bearer(TOKEN)))}
    assert {name: (answer.status_code, answer.headers["WWW-Authenticate"]) for name, answer in seen.items()} == {
        "none": (401, "Bearer " + CHALLENGES), "basic": (401, "Bearer " + CHALLENGES),
        **{name: (401, INVALID) for name in ("key", "garbage", "empty", "token")}}
    assert seen["token"].json()["error"] == "invalid_token" and "error" not in seen["none"].json()
    assert all(answer.headers["Cache-Control"] == "no-store" for answer in seen.values())
    nasty = edge.call("POST", '/mcp/a"b,scope=x', key=None)
    assert nasty.status_code == 401 and nasty.headers["WWW-Authenticate"] == 'Bearer scope="mcp:proxy"'


@pytest.mark.parametrize("resource, url", [
    ("https://app.example/tools/mcp", "https://app.example" + METADATA + "/tools/mcp"), ("https://app.example:8443/", "https://app.example:8443" + METADATA),
    ("https://app.example", "https://app.example" + METADATA), ("api://app", None), ('https://app.example/"x', None), ("", None)])
def test_an_application_behind_forward_auth_has_its_own_document(start, settings, resource, url):
    edge = start(**settings, server={"resource": resource})
    named = f', resource_metadata="{url}"' if url else ""
    forged = {"X-Forwarded-Host": "evil.example", "X-Forwarded-Uri": "/evil"}
    answer = edge.check("?scope=proxy&server=wire", key=None, headers=forged)
    assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, ("Bearer" + named + ', scope="mcp:proxy"').replace("Bearer,", "Bearer"))
    verdict_of(edge, error=3, reason="scope")
    answer = edge.check("?scope=proxy,read&server=wire")
    assert answer.status_code == 403 and (named + ', scope="mcp:read mcp:proxy"') in answer.headers["WWW-Authenticate"]
    assert "resource_metadata" not in edge.check("?scope=proxy", key=None).headers["WWW-Authenticate"]
    document = edge.call("GET", "/auth/metadata?server=wire", key=None, headers=forged)
    assert document.status_code == (200 if url else 404)
    if url:
        assert document.headers["Access-Control-Allow-Origin"] == "*"
        assert document.json() == {"resource": resource, "authorization_servers": ["https://auth.example/api/auth", "https://second.example"],
                                   "scopes_supported": ["mcp:proxy"], "bearer_methods_supported": ["header"], "resource_name": "wire"}
    for query in ("", "?server=", "?server=nowhere", "?server=a&server=b", "?server=%zz"):
        assert edge.call("GET", "/auth/metadata" + query, key=None).status_code in (400, 404), query
    assert edge.call("OPTIONS", "/auth/metadata?server=wire", key=None, headers={"Origin": "https://any.example"}).status_code == 204
    assert edge.call("GET", METADATA + "/mcp/wire", key=None).json()["resource"] == PUBLIC + "/mcp/wire"


@pytest.mark.parametrize("method, headers", [(1, {}), (2, bearer(TOKEN))])
def test_a_lacking_scope_is_a_step_up_that_names_all_of_them(start, method, headers, settings):
    edge = start(**settings)
    verdict_of(edge, error=3, reason="scope", auth_method=method)
    answer = edge.call("POST", "/mcp/wire", key=None if headers else "ci", headers=headers)
    assert answer.status_code == 403
    assert answer.headers["WWW-Authenticate"] == (
        'Bearer error="insufficient_scope", error_description="The credential lacks a scope that this operation needs", ' + CHALLENGES)
    assert answer.json()["error"] == "insufficient_scope"
    answer = edge.check("?scope=admin,read", headers=headers)
    assert answer.status_code == 403 and 'scope="mcp:read admin"' in answer.headers["WWW-Authenticate"]


def test_a_second_factor_is_asked_for_where_it_is_configured(start, settings):
    edge = start(**settings, MCPGW_SECOND_FACTOR_PATHS="/mcp/wire,/api/v1/servers")
    verdict_of(edge, auth_method=2)
    edge.replies(charge="allowed", manage="server_list")
    for path in ("/mcp/wire", "/mcp/wire/x", "/api/v1/servers"):
        answer = edge.call("GET", path, key=None, headers=bearer(TOKEN))
        assert answer.status_code == 403 and answer.headers["WWW-Authenticate"].startswith(
            'Bearer error="insufficient_user_authentication", error_description="This operation needs a second factor"')
    assert edge.check("?server=wire", key=None, headers=bearer(TOKEN)).status_code == 403    # the same server, behind another proxy
    assert edge.call("GET", "/api/v1/servers").status_code == 403      # a key has no second factor
    assert edge.check(key=None, headers=bearer(TOKEN)).status_code == 200
    verdict_of(edge, auth_method=2, second_factor=True)
    assert edge.call("GET", "/api/v1/servers", key=None, headers=bearer(TOKEN)).status_code == 200


def test_browsers_may_read_challenges_and_send_tokens(edge):
    origin = {"Origin": "http://localhost:5173"}
    answer = edge.call("POST", "/mcp/wire", key=None, headers=origin)
    assert answer.status_code == 401 and answer.headers["Access-Control-Allow-Origin"] == origin["Origin"]
    assert "WWW-Authenticate" in answer.headers["Access-Control-Expose-Headers"]
    answer = edge.call("OPTIONS", "/mcp/wire", key=None, headers=origin)
    assert answer.status_code == 204 and "Authorization" in answer.headers["Access-Control-Allow-Headers"]
    assert edge.call("POST", "/mcp/wire", headers={"Origin": "https://evil.example"}).status_code == 403


# ---- introspection of API keys --------------------------------------------------------------------------------

def introspect(edge, data, key="boss", **headers):
    return edge.call("POST", "/oauth/introspect", key=key, data=data,
                     headers={"Content-Type": "application/x-www-form-urlencoded", **headers})


def keys_known(edge, **fields):
    """boss is the caller, an administrator or not; ci is the key that is asked about."""
    def answer(request):
        if request["digest"] == digest(KEYS["boss"]):
            return [("verdict", {**load("verdict", "allowed"), "key_id": "boss", **fields})]
        if request["digest"] == digest(KEYS["ci"]):
            return [("verdict", {**load("verdict", "allowed"), "user_id": "alice"})]
        return [("verdict", load("verdict", "unknown"))]
    edge.peers.answer["verdict_request"] = answer
    edge.replies(charge="allowed")


def test_only_callers_with_a_credential_may_ask_about_keys(edge):
    edge.replies("unknown")
    assert introspect(edge, {"token": KEYS["ci"]}, key=None).status_code == 401
    assert introspect(edge, {"token": KEYS["ci"]}, key="unknown").status_code == 401
    edge.replies("denied")
    assert introspect(edge, {"token": KEYS["ci"]}).status_code == 403


def test_what_cannot_be_asked_is_400_or_415(edge):
    keys_known(edge)
    for data in ({}, {"tokens": "x"}, "token=a&token=b", {"token": "x" * 257}, "token=%zz", "token=%00"):
        assert introspect(edge, data).status_code == 400, data
    assert introspect(edge, "{}", **{"Content-Type": "application/json"}).status_code == 415
    assert introspect(edge, "token=" + "x" * 5000).status_code == 413


def test_a_key_is_told_as_rfc_7662_wants(edge):
    keys_known(edge)
    answer = introspect(edge, {"token": KEYS["ci"], "token_type_hint": "access_token"})
    assert answer.status_code == 200 and answer.headers["Cache-Control"] == "no-store"
    assert answer.json() == {"active": True, "token_type": "api_key", "scope": "read proxy", "client_id": "wire-ci", "sub": "alice",
                             "username": "alice", "tenant": "user:admin", "exp": 4102444800}
    for token in (KEYS["unknown"], "short", TOKEN):
        assert introspect(edge, {"token": token}).json() == {"active": False}


def test_keys_of_another_tenant_are_inactive_for_all_but_administrators(edge):
    keys_known(edge, tenant_id="another")
    assert introspect(edge, {"token": KEYS["ci"]}).json() == {"active": False}
    keys_known(edge, tenant_id="another", tier=1)                      # a budget, which an issuer's rule may give to anybody
    assert introspect(edge, {"token": KEYS["ci"]}).json() == {"active": False}
    keys_known(edge, tenant_id="another", scopes=SCOPES["admin"])
    assert introspect(edge, {"token": KEYS["ci"]}).json()["active"] is True


def test_an_authz_that_does_not_answer_is_503_and_never_inactive(start):
    edge = start(MCPGW_DECISION_MS="400")
    keys_known(edge)
    known = edge.peers.answer["verdict_request"]
    edge.peers.answer["verdict_request"] = lambda request: known(request) if request["digest"] == digest(KEYS["boss"]) else []
    assert introspect(edge, {"token": KEYS["ci"]}).status_code == 503
