"""mcpgw-edge alone: the identity upstreams are shown, verified with PyJWT and the published key set; servers that
authenticate for themselves, that need a second factor, that only observe."""
import base64
import http.server
import json
import subprocess
import threading
import time

import jwt
import pytest

from conftest import BIN, wait_until
from recorded import KEYS, digest, load
from test_edge import start    # noqa: F401 (fixture)

MCPGW = BIN / "mcpgw"
PUBLIC = "https://gw.example"


class Echo(http.server.BaseHTTPRequestHandler):
    """Answers with the header fields it was asked with."""
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = json.dumps(list(self.headers.items())).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def upstream():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/mcp"
    server.shutdown()
    thread.join()
    server.server_close()


def run(*arguments, code=0):
    result = subprocess.run([MCPGW, "identity", *map(str, arguments)], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert result.returncode == code, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()] if "--json" in arguments else result.stderr


def key_set(edge):
    answer = edge.call("GET", "/.well-known/jwks.json", key=None)
    assert answer.status_code == 200 and answer.headers["Access-Control-Allow-Origin"] == "*"
    return answer.json()


def verify(edge, token, server="wire"):
    """As an upstream does: the key by its kid, one algorithm, issuer and audience."""
    header = jwt.get_unverified_header(token)
    key, = (key for key in key_set(edge)["keys"] if key["kid"] == header["kid"])
    assert not {"d", "p", "q"} & set(key)
    claims = jwt.decode(token, jwt.PyJWK(key).key, algorithms=[key["alg"]], issuer=PUBLIC, audience=f"mcp://{server}",
                        options={"require": ["exp", "iat", "nbf", "sub", "jti"]})
    return header, claims


def call(edge, **arguments):
    answer = edge.call("POST", "/mcp/wire", json={"jsonrpc": "2.0", "id": 1, "method": "ping"}, **arguments)
    assert answer.status_code == 200, answer.text
    fields = answer.json()
    names = [name.lower() for name, _ in fields]
    assert names.count("authorization") == 1
    return dict(zip(names, (value for _, value in fields)))


def test_without_keys_nothing_is_signed_and_the_clients_token_goes_no_further(start):
    edge = start()
    edge.replies("mcp_call", "mcp_call")
    answer = edge.call("POST", "/mcp/wire", json={}, headers={"X-Mcpgw-Identity": "forged"})
    assert not {"authorization", "x-mcpgw-identity", "x-api-key"} & {name.lower() for name, _ in answer.json()}
    assert key_set(edge) == {"keys": []}
    assert edge.check("?server=wire").headers["X-Mcpgw-Identity"] == ""


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_an_upstream_can_verify_who_calls(start, tmp, algorithm):
    run("rotate", "--keys", tmp / "identity", "--algorithm", algorithm)
    edge = start(MCPGW_IDENTITY_KEYS=str(tmp / "identity"), MCPGW_PUBLIC_URL=PUBLIC + "/")
    edge.replies("mcp_call", "mcp_call", auth_method=2, client_id="some-app", issuer="corp", second_factor=True, key_id="")
    seen = call(edge, key=None, headers={"Authorization": "Bearer a.b.c", "Connection": "Authorization"})
    token = seen["authorization"].removeprefix("Bearer ")
    header, claims = verify(edge, token)
    assert (header["alg"], header["typ"]) == (algorithm, "at+jwt")
    verdict = load("verdict", "mcp_call")
    assert claims.pop("exp") - claims.pop("iat") == 310 and claims.pop("nbf") <= time.time() and claims.pop("jti")
    assert claims == {
        "iss": PUBLIC, "aud": "mcp://wire", "sub": verdict["user_id"], "client_id": "some-app", "azp": "some-app", "scope": "read proxy",
        "tenant": verdict["tenant_id"], "auth_method": "oauth", "idp": "corp", "amr": ["mfa"]}
    assert call(edge, key=None, headers={"Authorization": "Bearer a.b.c"})["authorization"] == seen["authorization"]
    edge.replies("mcp_call", "mcp_call", user_id="somebody-else")
    _, other = verify(edge, call(edge)["authorization"].removeprefix("Bearer "))
    assert (other["sub"], other["client_id"]) == ("somebody-else", verdict["key_id"])
    assert edge.metric("mcpgw_identity_signed_total") == 2


def test_forward_auth_gives_the_identity_for_the_server_that_is_named(start, tmp):
    run("rotate", "--keys", tmp / "identity", "--algorithm", "EdDSA")
    edge = start(MCPGW_IDENTITY_KEYS=str(tmp / "identity"), MCPGW_PUBLIC_URL=PUBLIC)
    edge.replies("allowed", "allowed")
    assert edge.check().headers["X-Mcpgw-Identity"] == ""
    _, claims = verify(edge, edge.check("?server=wire").headers["X-Mcpgw-Identity"])
    assert claims["sub"] == "admin"


def test_a_new_key_is_published_before_it_signs(start, tmp):
    keys = tmp / "identity"
    first, = run("rotate", "--keys", keys, "--json")
    edge = start(MCPGW_IDENTITY_KEYS=str(keys), MCPGW_PUBLIC_URL=PUBLIC)
    edge.replies("mcp_call", "mcp_call")
    former = call(edge)["authorization"]
    second, = run("rotate", "--keys", keys, "--algorithm", "ES256", "--json")
    assert run("rotate", "--keys", keys, "--if-older-than", "1d", "--json") == []
    wait_until(lambda: len(key_set(edge)["keys"]) == 2, what="the second key published")
    header, _ = verify(edge, call(edge)["authorization"].removeprefix("Bearer "))
    assert header["kid"] == first["kid"]
    assert [(key["kid"], key["state"]) for key in run("list", "--keys", keys, "--json")] == [
        (first["kid"], "signs"), (second["kid"], "published")]
    assert run("list", "--keys", keys, "--publish", "0", "--json")[1]["state"] == "signs"
    run("rotate", "--keys", keys, "--if-older-than", "1d", "--publish", "0", "--keep", "0")
    wait_until(lambda: [key["kid"] for key in key_set(edge)["keys"]] == [second["kid"]], what="the first key gone")
    assert call(edge)["authorization"] != former, "what the removed key signed is not given out any more"
    header, _ = verify(edge, call(edge)["authorization"].removeprefix("Bearer "))
    assert header["kid"] == second["kid"]


def test_keys_that_cannot_be_trusted_are_refused_by_name(service, tmp):
    keys = tmp / "identity"
    assert "which directory" in run("list", code=2)
    assert "no such" in run("list", "--keys", keys, code=1).lower()
    assert "RS256, ES256 or EdDSA" in run("rotate", "--keys", keys, "--algorithm", "HS256", code=2)
    made, = run("rotate", "--keys", keys, "--json")
    path, = keys.iterdir()
    path.chmod(0o644)
    assert "chmod 600" in run("list", "--keys", keys, code=1)
    path.chmod(0o600)
    (keys / path.name.replace("RS256", "ES256")).write_bytes(path.read_bytes())
    (keys / path.name.replace("RS256", "ES256")).chmod(0o600)
    assert "holds no ES256 key" in run("list", "--keys", keys, code=1)
    settings = {"MCPGW_SPOOL_DIR": str(tmp / "spool"), "MCPGW_BUS": f"ipc://{tmp}/edge-9"}
    for more, named in (({"MCPGW_IDENTITY_KEYS": str(keys)}, "public_url"),
                        ({"MCPGW_IDENTITY_KEYS": str(keys), "MCPGW_PUBLIC_URL": PUBLIC}, "holds no ES256 key"),
                        ({"MCPGW_IDENTITY_KEYS": str(tmp / "no"), "MCPGW_PUBLIC_URL": PUBLIC}, "mcpgw identity rotate")):
        process = service("edge", **settings, **more)
        assert process.process.wait(20) in (2, 3)
        assert named in process.log()
    assert made["kid"] in path.name


# ---- servers that authenticate for themselves, and gradual rollout -------------------------------------------

def jwt_of(claims):
    """Signed by nobody we know: what an upstream issues for itself."""
    encode = lambda value: base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")    # noqa: E731
    return f"{encode({'alg': 'HS256', 'typ': 'JWT'})}.{encode(claims)}.c2ln"


OWN = "api://own"


def fields_of(edge, token, key="ci", **headers):
    answer = edge.call("POST", "/mcp/wire", json={}, key=key, headers={"Authorization": f"Bearer {token}", **headers})
    assert answer.status_code == 200, answer.text
    return answer, {name.lower(): value for name, value in answer.json()}


def test_a_token_travels_on_only_to_the_server_it_is_made_for(start, tmp):
    run("rotate", "--keys", tmp / "identity", "--algorithm", "EdDSA")
    edge = start(MCPGW_IDENTITY_KEYS=str(tmp / "identity"), MCPGW_PUBLIC_URL=PUBLIC, server={"own_auth": True, "resource": OWN})
    edge.replies("mcp_call", "mcp_call")
    good = [jwt_of({"aud": OWN}), jwt_of({"aud": [OWN]})]
    for token in good:
        _, fields = fields_of(edge, token)
        assert fields["authorization"] == f"Bearer {token}"
        verify(edge, fields["x-mcpgw-identity"])
        asked = edge.peers.take("verdict_request")
        assert (asked["method"], asked["digest"], asked["beside"]) == (1, digest(KEYS["ci"]), b"")      # the key decides
        edge.peers.take("charge_request")
    fields_of(edge, good[0], key=None)
    assert edge.peers.take("verdict_request")["method"] == 2       # without a key authz judges the token
    edge.peers.take("charge_request")
    for claims in ({"aud": [OWN, "api://other"]}, {"aud": "api://other"}, {"aud": []}, {"aud": OWN + "/x"}, {}):
        token = jwt_of(claims)
        _, fields = fields_of(edge, token)
        assert token not in fields["authorization"], claims
        assert edge.peers.take("verdict_request")["method"] == 2
        edge.peers.take("charge_request")


def test_tokens_stay_here_unless_the_server_says_otherwise(start):
    edge = start(server={"resource": OWN})
    edge.replies("mcp_call", "mcp_call")
    _, fields = fields_of(edge, jwt_of({"aud": OWN}))
    assert "authorization" not in fields


def test_a_server_that_observes_lets_through_and_marks(start, tmp):
    run("rotate", "--keys", tmp / "identity", "--algorithm", "EdDSA")
    edge = start(MCPGW_IDENTITY_KEYS=str(tmp / "identity"), MCPGW_PUBLIC_URL=PUBLIC, server={"observes": True})
    edge.replies("mcp_call", "mcp_call")
    answer = edge.call("POST", "/mcp/wire", json={})
    assert answer.headers["X-Mcpgw-Enforce"] == "observe" and "X-Mcpgw-Would-Refuse" not in answer.headers
    answer = edge.call("POST", "/mcp/wire", json={}, key=None)
    fields = {name.lower(): value for name, value in answer.json()}
    assert (answer.status_code, answer.headers["X-Mcpgw-Would-Refuse"]) == (200, "401")
    assert "authorization" not in fields and fields.get("x-mcpgw-user", "") == ""
    edge.replies("revoked")
    answer = edge.call("POST", "/mcp/wire", json={})
    assert answer.headers["X-Mcpgw-Would-Refuse"] == "401" and "authorization" not in {name.lower() for name, _ in answer.json()}
    edge.replies("denied")
    answer = edge.call("POST", "/mcp/wire", json={})
    assert (answer.status_code, answer.headers["X-Mcpgw-Would-Refuse"]) == (200, "403")
    edge.replies("limited", "limited")
    assert edge.call("POST", "/mcp/wire", json={}).headers["X-Mcpgw-Would-Refuse"] == "429"
    assert edge.metric("mcpgw_observed_total") == 4
    assert edge.process.events("enforcement_is_off")[0]["server"] == "example"
    for refused in ({"key": None, "headers": {"Authorization": "Bearer a, Bearer b"}}, {"headers": {"Origin": "https://evil.example"}}):
        assert edge.call("POST", "/mcp/wire", **refused).status_code in (400, 403)
    assert edge.call("GET", "/api/v1/keys", key=None).status_code == 401


def test_paths_may_only_be_observed_too(start):
    edge = start(MCPGW_OBSERVE_PATHS="/auth/check/new")
    edge.replies("allowed", "allowed")
    assert edge.check(key=None).status_code == 401
    answer = edge.call("GET", "/auth/check/new/page", key=None)
    assert (answer.status_code, answer.headers["X-Mcpgw-Would-Refuse"], answer.headers["X-Mcpgw-User"]) == (200, "401", "")
    assert edge.process.events("enforcement_is_off")[0]["observe_paths"] == "/auth/check/new"
    assert edge.call("GET", "/auth/check/new?server=wire", key=None).status_code == 200
    answer = edge.call("GET", "/auth/check/new?server=nobody", key=None)      # opens to nobody, so there is nothing to observe
    assert answer.status_code == 401 and "X-Mcpgw-Enforce" not in answer.headers
    assert edge.call("GET", "/auth/check/new?server=nobody").status_code == 403


def test_a_server_may_need_a_second_factor(start):
    edge = start(server={"second_factor": True})
    edge.replies("mcp_call", "mcp_call")
    answer = edge.call("POST", "/mcp/wire", json={})
    assert answer.status_code == 403 and "insufficient_user_authentication" in answer.headers["WWW-Authenticate"]
    assert edge.check("?server=wire").status_code == 403
    edge.replies("mcp_call", second_factor=True)
    assert edge.call("POST", "/mcp/wire", json={}).status_code == 200
