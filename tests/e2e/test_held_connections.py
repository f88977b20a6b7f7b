"""Connections whose threads rest between requests: whatever comes next is answered as on any other connection."""
import http.client
import socket

import pytest

from conftest import wait_until
from test_strict_http import REQUESTS, SECOND


def head(key, path="/auth/check", request_id=None, method="GET", more=""):
    id_field = f"X-Request-Id: {request_id}\r\n" if request_id else ""
    return f"{method} {path} HTTP/1.1\r\nHost: gw\r\nx-api-key: {key}\r\n{id_field}{more}\r\n".encode()


def read_answer(stream):
    """(status, fields, body) of one answer with a Content-Length."""
    status = int(stream.readline().split()[1])
    fields = {}
    while line := stream.readline().strip():
        name, _, value = line.decode().partition(": ")
        fields[name.lower()] = value
    return status, fields, stream.read(int(fields["content-length"]))


class Resting:
    """A connection that has asked until its thread rests."""

    def __init__(self, gateway, key, settled=4):
        self.key = key
        self.socket = socket.create_connection(("127.0.0.1", gateway.port))
        self.socket.settimeout(20)
        self.stream = self.socket.makefile("rb")
        for _ in range(settled):
            assert self.ask(head(key))[0] == 200

    def ask(self, data):
        self.socket.sendall(data)
        return read_answer(self.stream)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stream.close()
        self.socket.close()


@pytest.fixture
def key(gateway):
    return gateway.make_key(scopes=["read", "write", "proxy"], rateLimit={"requests": 100000, "window": 60})


def held(gateway):
    return gateway.metric("edge-1", "mcpgw_http_held_connections")


def test_a_connection_that_keeps_asking_is_held(gateway, key):
    before = held(gateway)
    with Resting(gateway, key["key"]):
        wait_until(lambda: held(gateway) == before + 1, 10, "the connection to be held")
    wait_until(lambda: held(gateway) <= before, 10, "its end to be seen")


def test_whatever_comes_next_is_answered(gateway, key):
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=20)
    own = None
    steps = [("GET", "/auth/check", None, 200), ("GET", "/auth/check", None, 200), ("GET", "/auth/check?scope=read", None, 200),
             ("GET", "/api/v1/context", None, 200), ("GET", "/auth/check", None, 200), ("GET", "/auth/check", None, 200),
             ("POST", "/api/v1/keys", '{"name":"by a held connection","scopes":["read"]}', 201), ("HEAD", "/auth/check", None, 200),
             ("GET", "/auth/check", None, 200), ("GET", "/auth/check?scope=admin", None, 403), ("GET", "/nowhere", None, 404),
             ("GET", "/auth/check?scope=", None, 400), ("GET", "/auth/check/below", None, 200), ("GET", "/auth/%63heck", None, 200),
             ("POST", "/auth/check", "x" * 100, 200), ("GET", "/auth/check", None, 200), ("GET", "/auth/check", None, 200)]
    for method, path, body, status in steps:
        fields = {"x-api-key": key["key"]}
        if path.startswith("/api"):
            fields["content-type"] = "application/json"
        connection.request(method, path, body, fields)
        own = own or connection.sock
        answer = connection.getresponse()
        answer.read()
        assert (answer.status, connection.sock) == (status, own), (method, path)
    connection.close()


def test_refusals_reach_a_held_connection(gateway, key):
    with Resting(gateway, key["key"]) as resting:
        wrong = key["key"][:-1] + ("a" if key["key"][-1] != "a" else "b")
        assert resting.ask(head(wrong))[0] == 401
        assert resting.ask(b"GET /auth/check HTTP/1.1\r\nHost: gw\r\n\r\n")[0] == 401
        assert resting.ask(head(key["key"]))[0] == 200
        gateway.call("POST", f"/api/v1/keys/{key['id']}/revoke", json={}).raise_for_status()
        assert resting.ask(head(key["key"]))[0] == 401


@pytest.mark.parametrize("paths", [["/auth/check"] * 5, ["/auth/check", "/api/v1/context"] * 3, ["/auth/check", "/auth/check", "/nowhere"] * 2])
def test_requests_sent_ahead_are_answered_once_and_in_order(gateway, key, paths):
    with Resting(gateway, key["key"]) as resting:
        for turn in range(3):
            ids = [f"ahead-{turn}-{n}" for n in range(len(paths))]
            resting.socket.sendall(b"".join(head(key["key"], path, id) for path, id in zip(paths, ids)))
            assert [read_answer(resting.stream)[1]["x-request-id"] for _ in ids] == ids
        assert resting.ask(head(key["key"]))[0] == 200


def test_requests_at_once_after_few_alone_are_all_answered(gateway, key):
    """All but the first are in civetweb's buffer when the connection could come to rest: they would wait there until it is ended."""
    for settled in (0, 1, 2, 3):
        with Resting(gateway, key["key"], settled=settled) as resting:
            resting.socket.sendall(b"".join(head(key["key"], request_id=f"r{n}") for n in range(4)))
            assert [read_answer(resting.stream)[1]["x-request-id"] for _ in range(4)] == ["r0", "r1", "r2", "r3"]


def test_a_head_that_comes_in_pieces_is_waited_for(gateway, key):
    with Resting(gateway, key["key"]) as resting:
        data = head(key["key"], request_id="pieces")
        for at in range(0, len(data), 7):
            resting.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            resting.socket.sendall(data[at:at + 7])
        assert read_answer(resting.stream)[1]["x-request-id"] == "pieces"
        long = head(key["key"], more="X-Long: " + "a" * 9000 + "\r\n")
        assert resting.ask(long)[0] == 200
        assert resting.ask(head(key["key"], more="Connection: close\r\n"))[0] == 200
        assert resting.stream.read() == b""


@pytest.mark.parametrize("name", REQUESTS)
def test_a_hostile_head_on_a_held_connection_is_refused_once_and_ends_it(gateway, key, name):
    with Resting(gateway, key["key"]) as resting:
        received = b""
        try:
            resting.socket.sendall(REQUESTS[name] + SECOND)
            resting.socket.settimeout(5)
            while chunk := resting.socket.recv(65536):
                received += chunk
        except (ConnectionError, socket.timeout):
            pass
        assert received.count(b"HTTP/1.1 ") <= 1, received
        assert not received or received[9:12] in (b"400", b"405", b"413", b"417", b"421", b"426", b"431", b"501", b"505"), received[:200]


def test_a_held_connection_that_asks_for_nothing_is_closed(own_gateway):
    gateway = own_gateway(settings={"MCPGW_SETTINGS_edge": "MCPGW_KEEP_ALIVE_MS=500"})
    with Resting(gateway, gateway.admin_key) as resting:
        assert resting.stream.read() == b""
