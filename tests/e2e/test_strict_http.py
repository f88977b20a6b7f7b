"""Requests that desynchronise proxies, and other hostile bytes: one refusal, then the connection closes."""
import socket

import pytest
import zmq

REQUESTS = {
    "content-length and transfer-encoding": b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "transfer-encoding and content-length": b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    "two content-lengths": b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nContent-Length: 40\r\n\r\n",
    "two equal content-lengths": b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n",
    "content-length with junk": b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 0abc\r\n\r\n",
    "content-length with a sign": b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: +0\r\n\r\n",
    "content-length list": b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 0, 0\r\n\r\n",
    "identity then chunked": b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n",
    "space before the colon": b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length : 3\r\n\r\nabc",
    "folded header hides the rest": b"POST /a HTTP/1.1\r\nHost: x\r\nX: a\r\n b\r\nContent-Length: 38\r\n\r\n",
    "foreign header name hides the rest": b"POST /a HTTP/1.1\r\nHost: x\r\n\x80y: 1\r\nContent-Length: 38\r\n\r\n",
    "72 headers, the last is content-length": b"POST /a HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X%d: 1\r\n" % n for n in range(70)) + b"Content-Length: 38\r\n\r\n",
    "transfer-encoding on HTTP/1.0": b"POST /a HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a method in lower case": b"get /auth/check HTTP/1.1\r\nHost: x\r\n\r\n",
    "a method of no server": b"FOO /auth/check HTTP/1.1\r\nHost: x\r\n\r\n",
    "bare line feeds": b"GET /auth/check HTTP/1.1\nHost: x\n\n",
    "no host": b"GET /auth/check HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /auth/check HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    "upgrade to websocket": b"GET /mcp/example HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n\r\n",
    "absolute form of another host": b"GET http://evil/admin HTTP/1.1\r\nHost: x\r\n\r\n",
    "http/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "encoded NUL in the path": b"GET /auth%00/check HTTP/1.1\r\nHost: x\r\n\r\n",
    "encoded line break in the path": b"GET /auth/check%0d%0aX:1 HTTP/1.1\r\nHost: x\r\n\r\n",
    "10 MB of header": b"GET /auth/check HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 10_000_000 + b"\r\n\r\n",
    "header line over the limit": b"GET /auth/check HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
}
SECOND = b"GET /auth/check HTTP/1.1\r\nHost: x\r\nX-Smuggled: 1\r\n\r\n"


def converse(port, data):
    """Sends all, reads until the server closes or is silent; returns what came."""
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.settimeout(5)
        received = b""
        try:
            client.sendall(data)
            while chunk := client.recv(65536):
                received += chunk
        except (ConnectionError, socket.timeout):
            pass
        return received


@pytest.mark.parametrize("name", REQUESTS)
def test_is_refused_once_and_the_connection_closes(gateway, name):
    received = converse(gateway.port, REQUESTS[name] + SECOND)
    answers = received.count(b"HTTP/1.1 ")
    assert answers <= 1, received
    if answers:
        assert received[9:12] in (b"400", b"405", b"413", b"417", b"421", b"426", b"431", b"501", b"505"), received[:200]


def test_paths_have_one_meaning(gateway):
    key = gateway.make_key(scopes=["read"])["key"]
    for path in ("/api/v1/../v1/context", "/api//v1/context", "/api/v1/%63ontext", "/api/v1/context/", "/api/v1/context%2f",
                 "/api%5cv1%5ccontext", "/api/v1/context;x=1", "/mcp/example/%2e%2e/%2e%2e/api/v1/context"):
        request = f"GET {path} HTTP/1.1\r\nHost: x\r\nx-api-key: {key}\r\nConnection: close\r\n\r\n".encode()
        status = converse(gateway.port, request)[9:12]
        assert status in (b"200", b"400", b"403", b"404"), (path, status)


def test_two_credentials_are_refused(gateway):
    key = gateway.admin_key
    other = gateway.make_key(scopes=["read"])["key"]
    assert gateway.call("GET", "/auth/check", headers={"authorization": f"Bearer {other}"}).status_code == 400
    two = f"GET /auth/check HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nAuthorization: Bearer {key}\r\n\r\n".encode()
    assert converse(gateway.port, two)[9:12] == b"400"


def test_a_key_in_the_query_is_no_credential(gateway):
    assert gateway.call("GET", f"/auth/check?api_key={gateway.admin_key}", key="").status_code == 401
    assert gateway.call("GET", f"/auth/check?access_token={gateway.admin_key}", key="").status_code in (400, 401)


def test_slow_clients_do_not_stop_the_others(own_gateway):
    gateway = own_gateway(settings={"MCPGW_SETTINGS_edge": "MCPGW_THREADS=32"})
    slow = []
    try:
        for _ in range(24):
            client = socket.create_connection(("127.0.0.1", gateway.port))
            client.sendall(b"POST /api/v1/keys HTTP/1.1\r\nHost: x\r\nx-api-key: " + gateway.admin_key.encode()
                           + b"\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{")
            slow.append(client)
        for _ in range(20):
            assert gateway.check(gateway.admin_key).status_code in (200, 503)
        answers = [gateway.check(gateway.admin_key).status_code for _ in range(20)]
        assert answers.count(200) >= 10, answers
    finally:
        for client in slow:
            client.close()


def test_garbage_on_every_bus_socket_changes_nothing(gateway):
    settings = (gateway.home / "sv" / "edge-1" / "settings").read_text()
    base = next(line.split("ipc://", 1)[1].strip("'") for line in settings.splitlines() if line.startswith("MCPGW_BUS="))
    before = gateway.pid("edge-1")
    context = zmq.Context()
    for role in ("authz", "ratelimit", "keys", "replay"):
        dealer = context.socket(zmq.DEALER)
        dealer.linger = 200
        dealer.connect(f"ipc://{base}.{role}")
        for junk in (b"", b"\xdd\x0f\xff\xff\xff", b"MG\x01\x00" + b"\xff" * 100, b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 65000):
            dealer.send(junk)
        dealer.close()
        with socket.socket(socket.AF_UNIX) as raw:
            raw.connect(f"{base}.{role}")
            raw.sendall(b"GET / HTTP/1.1\r\n\r\n" * 10)
    context.term()
    assert gateway.check(gateway.admin_key).status_code == 200
    assert gateway.pid("edge-1") == before
