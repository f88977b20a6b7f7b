"""mcpgw-edge alone: the identity upstreams are shown, verified with PyJWT and the published key set."""
import http.server
import json
import subprocess
import threading
import time

import jwt
import pytest

from conftest import BIN, wait_until
from recorded import load
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
