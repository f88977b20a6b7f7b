"""mcpgw-edge alone: the test is every worker, answers with what real ones said (tests/wire/), and calls over HTTP.  What the
edge asks must be what was recorded as well."""
import http.server
import itertools
import json
import os
import queue
import socket
import threading
import time

import pytest
import requests
import zmq

import busedge
import recorded
from conftest import free_port, wait_until
from recorded import KEYS, load

REFUSED = 'mcpgw_bus_refused_total{why="%s"}'


class Peers:
    """One worker of each role at an edge.  `answer` maps the name of a request to a function of it that returns the replies
    [(name, fields)]; `before` may send anything first.  A thread owns the sockets."""

    def __init__(self, base, roles):
        self.base, self.answer, self.before = base, {}, {}
        self.asked, self.welcomed, self.sent = queue.Queue(), set(), queue.Queue()
        self._context, self._stop = zmq.Context(), threading.Event()
        self._sockets = {role: self._connect(role) for role in roles}
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _connect(self, role):
        sock = self._context.socket(zmq.DEALER)
        sock.setsockopt(zmq.LINGER, 0)
        sock.setsockopt(zmq.RECONNECT_IVL, 50)
        sock.connect(f"ipc://{self.base}.{role}")
        return sock

    def close(self):
        self._stop.set()
        self.thread.join()
        self._context.destroy(0)

    def send(self, role, items, epoch=0, batch=0):
        """From any thread; the thread of the sockets sends it within 20 ms."""
        self.sent.put((role, busedge.encode_frame(items, epoch, batch)))

    def send_parts(self, role, *parts):
        self.sent.put((role, parts))

    def _run(self):
        poller, ready_at = zmq.Poller(), 0.0
        for sock in self._sockets.values():
            poller.register(sock, zmq.POLLIN)
        while not self._stop.is_set():
            if time.monotonic() >= ready_at:
                ready_at = time.monotonic() + 0.2
                for role in set(self._sockets) - self.welcomed:
                    self._sockets[role].send(busedge.encode_frame([("ready", load("ready", role))]))
            events = dict(poller.poll(20))
            for role, sock in self._sockets.items():
                if sock in events:
                    for message in busedge.decode_frame(sock.recv()):
                        self._take(role, sock, message)
            while not self.sent.empty():
                role, data = self.sent.get()
                self._sockets[role].send_multipart([data] if isinstance(data, bytes) else data)

    def _take(self, role, sock, message):
        if message.name == "welcome":
            self.welcomed.add(role)
        elif message.name == "heartbeat":
            pulse = {**load("pulse", "authz"), "echo_us": message["sent_us"]}
            sock.send(busedge.encode_frame([("pulse", pulse)], message.epoch))
        elif message.name in self.answer:
            if message.name not in ("feed_request", "servers_request"):
                self.asked.put(message)
            if message.name in self.before:
                self.before[message.name](sock, message)
            replies = [(name, fields, message.request_id, 0, message.attempt) for name, fields in self.answer[message.name](message)]
            sock.send(busedge.encode_frame(replies, message.epoch, message.batch))

    def take(self, name):
        """What the edge asked, oldest first."""
        message = self.asked.get(timeout=busedge.TIMEOUT_S)
        assert message.name == name
        return message


class Edge:
    """The program, and peers that answer as recorded until told otherwise."""

    def __init__(self, service, tmp, url, roles=("authz", "ratelimit", "keys"), server=None, **settings):
        bus = tmp / "bus"
        bus.mkdir(mode=0o700)
        self.port, self.sequence, self.upstream = free_port(), load("change", "key_revoke")["sequence"] - 1, url
        self.server = server or {}      # fields of the registered servers
        self.process = service("edge", **{
            "MCPGW_LISTEN": f"127.0.0.1:{self.port}", "MCPGW_BUS": f"ipc://{bus}/edge-1", "MCPGW_SPOOL_DIR": str(tmp / "spool"),
            "MCPGW_SPOOL_BYTES": "1048576", "MCPGW_SEGMENT_BYTES": "131072", "MCPGW_THREADS": "32", "MCPGW_DECISION_MS": "9000",
            "MCPGW_MANAGE_MS": "30000", "MCPGW_ATTEMPT_MS": "10000", "MCPGW_STALE_GRACE_MS": "60000", **settings})
        wait_until(lambda: self.process.readyz()[0] != 0, what="the edge's listener")
        self.peers = Peers(bus / "edge-1", roles)
        self.peers.answer.update({"feed_request": self._feed, "servers_request": self._page})
        wait_until(lambda: self.peers.welcomed == set(roles), what="WELCOME")
        if "keys" in roles:
            wait_until(lambda: self.facts()["servers"], what="the registry")

    def facts(self):
        body = self.process.readyz()[1]
        return body.get("facts", body)

    def _feed(self, request):
        return [("feed", {**load("feed", "first"), "asked_us": request["asked_us"], "sequence": self.sequence})]

    def _page(self, _):
        entries = [load("server_entry", case) for case in ("example", "wire")]
        for entry in entries:
            entry.update(self.server, url=self.upstream)
        return [("server_entry", entry) for entry in entries] + [("servers_page", load("servers_page", "last"))]

    def replies(self, verdict=None, charge=None, manage=None, **verdict_fields):
        """From now on the replies of these cases."""
        if verdict:
            self.peers.answer["verdict_request"] = lambda _: [("verdict", {**load("verdict", verdict), **verdict_fields})]
        if charge:
            self.peers.answer["charge_request"] = lambda _: [("charge", load("charge", charge))]
        if manage:
            self.peers.answer["manage_request"] = lambda _: [("manage_reply", load("manage_reply", manage))]

    def call(self, method, path, key="ci", case=None, **arguments):
        headers = {**({"x-api-key": KEYS[key]} if key else {}), **({"x-request-id": f"wire-{case}"} if case else {}),
                   **arguments.pop("headers", {})}
        return requests.request(method, f"http://127.0.0.1:{self.port}{path}", headers=headers, timeout=60, **arguments)

    def check(self, query="", **arguments):
        return self.call("GET", "/auth/check" + query, **arguments)

    def metric(self, name):
        return self.process.metrics().get(name, 0)


class Upstream(http.server.BaseHTTPRequestHandler):
    """An event stream that says one event and stays open."""
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(b"data: first\n\n")
        self.wfile.flush()
        self.server.over.wait()

    def log_message(self, *_):
        pass


@pytest.fixture
def upstream():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    server.over, server.daemon_threads = threading.Event(), True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/mcp"
    server.over.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def start(service, tmp, upstream):
    made = []

    def make(*arguments, **settings):
        made.append(Edge(service, tmp, upstream, *arguments, **settings))
        return made[-1]
    yield make
    for edge in made:
        edge.process.stop()
        edge.peers.close()


@pytest.fixture
def edge(start):
    return start()


# ---- refused ----------------------------------------------------------------------------------------

def test_no_credential_is_401_and_asks_nobody(edge):
    answer = edge.check(key=None)
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
    assert "WWW-Authenticate" in answer.headers
    assert edge.peers.asked.empty()


@pytest.mark.parametrize("case", ["unknown", "disabled", "revoked"])
def test_a_key_that_does_not_verify_is_one_and_the_same_401(edge, case):
    edge.replies(case)
    answer = edge.check(key=case)
    assert answer.status_code == 401
    assert {**answer.json(), "requestId": ""} == {
        "type": "about:blank", "title": "Unauthorized", "status": 401, "code": "unauthorized",
        "detail": answer.json()["detail"], "requestId": ""}
    assert case not in answer.text
    assert dict(edge.peers.take("verdict_request")) == load("verdict_request", case)
    assert edge.peers.asked.empty()      # and nothing is charged


def test_a_scope_that_lacks_is_403_and_is_not_charged(edge):
    edge.replies("denied")
    answer = edge.check("?scope=admin")
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert dict(edge.peers.take("verdict_request")) == load("verdict_request", "denied")
    assert edge.peers.asked.empty()


def test_a_spent_budget_is_429_and_says_when_to_come_back(edge):
    edge.replies("limited", "limited")
    answer = edge.check(key="once")
    assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited")
    assert answer.headers["Retry-After"] == "3599"
    assert answer.headers["RateLimit"] == '"key";r=0;t=3599'
    assert dict(edge.peers.take("verdict_request")) == load("verdict_request", "limited")
    assert dict(edge.peers.take("charge_request")) == load("charge_request", "limited")


@pytest.mark.parametrize("missing", ["authz", "ratelimit"])
def test_without_a_worker_of_a_role_it_is_503(start, missing):
    edge = start([role for role in ("authz", "ratelimit", "keys") if role != missing], MCPGW_DECISION_MS="300")
    edge.replies("allowed", "allowed")
    answer = edge.check()
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert "Retry-After" in answer.headers


def test_without_keys_a_management_call_is_503_and_a_verdict_is_given(start):
    edge = start(["authz", "ratelimit"], MCPGW_MANAGE_MS="300")
    edge.replies("admin", "admin")
    answer = edge.call("GET", "/api/v1/keys")
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert edge.check().status_code == 200


@pytest.mark.parametrize("verdict, charge, status, shown", [
    ("unknown", "allowed", 401, 401), ("denied", "allowed", 403, 403), ("limited", "limited", 429, 403)])
def test_nginx_gets_only_what_it_can_pass_on(edge, verdict, charge, status, shown):
    edge.replies(verdict, charge)
    answer = edge.check("?nginx=1")
    assert answer.status_code == shown
    assert answer.headers.get("X-Mcpgw-Status", str(shown)) == str(status)


# ---- allowed ----------------------------------------------------------------------------------------

def test_an_allowed_call_asks_and_answers_as_recorded(edge):
    edge.replies("allowed", "allowed")
    answer = edge.check(case="allowed")
    assert answer.status_code == 200
    assert answer.json() == {
        "userId": "admin", "tenantId": "user:admin", "authMethod": "api_key", "scopes": ["read", "proxy"], "rateLimitTier": "api_key",
        "keyId": "wire-ci", "expiresAt": "2100-01-01T00:00:00Z", "requestId": "wire-allowed"}
    assert answer.headers["X-Mcpgw-User"] == "admin" and answer.headers["X-Mcpgw-Key-Id"] == "wire-ci"
    assert answer.headers["RateLimit-Policy"] == '"api_key";q=1000;w=3600'
    assert dict(edge.peers.take("verdict_request")) == load("verdict_request", "allowed")
    assert dict(edge.peers.take("charge_request")) == load("charge_request", "allowed")


CALLS = {"key_create": ("POST", "/api/v1/keys"), "key_create_refused": ("POST", "/api/v1/keys"), "key_list": ("GET", "/api/v1/keys"),
         "key_get": ("GET", "/api/v1/keys/wire-ci"), "key_get_unknown": ("GET", "/api/v1/keys/nobody"),
         "key_verify": ("POST", "/api/v1/keys/verify"), "key_verify_revoked": ("POST", "/api/v1/keys/verify"),
         "key_update": ("PATCH", "/api/v1/keys/wire-ci"), "key_disable": ("POST", "/api/v1/keys/wire-ci/disable"),
         "key_enable": ("POST", "/api/v1/keys/wire-ci/enable"), "key_revoke": ("POST", "/api/v1/keys/wire-ci/revoke"),
         "key_delete": ("DELETE", "/api/v1/keys/wire-ci"), "server_create": ("POST", "/api/v1/servers"),
         "server_list": ("GET", "/api/v1/servers"), "server_delete": ("DELETE", "/api/v1/servers/wire"),
         "audit_list": ("GET", "/api/v1/audit")}


def test_management_calls_are_asked_as_recorded_and_replies_passed_on(edge):
    assert set(CALLS) == set(recorded.cases("manage_request"))
    for case, (method, path) in CALLS.items():
        request, reply = load("manage_request", case), load("manage_reply", case)
        edge.replies("admin", "admin", case, key_id="wire-admin-key")
        sent = json.dumps({"key": recorded.KEYS["ci"]}) if case.startswith("key_verify") else request["body"]    # raw keys end here
        arguments = {"data": sent, "headers": {"content-type": "application/json"}} if request["body"] else {}
        query = "?" + request["query"].decode() if request["query"] else ""
        answer = edge.call(method, path + query, "boss", case, **arguments)
        assert answer.status_code == reply["status"]
        expected = json.loads(reply["body"])
        if reply["status"] >= 400:
            expected["requestId"] = f"wire-{case}"
        assert answer.json() == expected
        edge.peers.take("verdict_request"), edge.peers.take("charge_request")
        assert dict(edge.peers.take("manage_request")) == request


# ---- the registry and streams -------------------------------------------------------------------------

def test_only_servers_of_the_recorded_registry_are_there(edge):
    edge.replies("mcp_call", "mcp_call")
    assert edge.call("GET", "/mcp/nowhere").status_code == 404
    answer = edge.call("GET", "/mcp/wire", stream=True)
    assert answer.status_code == 200
    assert next(answer.iter_lines()) == b"data: first"
    answer.close()


def test_a_recorded_change_ends_the_stream_of_its_key_only(edge):
    edge.replies("mcp_call", "mcp_call")
    victim = edge.call("GET", "/mcp/wire", stream=True)
    edge.replies("mcp_call", key_id="another")
    other = edge.call("GET", "/mcp/wire", stream=True)
    streams = [answer.iter_lines() for answer in (victim, other)]
    assert [next(lines) for lines in streams] == [b"data: first"] * 2
    assert edge.metric("mcpgw_streams_open") == 2
    change = load("change", "key_revoke")
    edge.sequence = change["sequence"]
    edge.peers.send("keys", [("change", change)])
    with pytest.raises((StopIteration, requests.RequestException)):
        for _ in itertools.count():
            next(streams[0])
    wait_until(lambda: edge.metric("mcpgw_streams_open") == 1, what="one stream left")
    other.close()


# ---- peers that misbehave -----------------------------------------------------------------------------

def test_garbage_is_dropped_and_counted(edge):
    edge.replies("allowed", "allowed")
    whole = busedge.encode_frame([("verdict", load("verdict", "allowed"), 1, 0, 0)], 7, 1)
    for parts in ([os.urandom(300)], [b""], [whole[:-1]], [whole, whole], [b"MG" + whole[2:8] * 40]):
        edge.peers.send_parts("authz", *parts)
    wait_until(lambda: edge.metric(REFUSED % "malformed") >= 5, what="five refusals")
    assert edge.check().status_code == 200


def test_what_a_role_may_not_say_is_dropped_and_counted(edge):
    edge.replies("allowed", "allowed")
    edge.peers.send("authz", [("charge", load("charge", "allowed")), ("change", load("change", "key_revoke"))])
    edge.peers.send("ratelimit", [("verdict", load("verdict", "allowed"))])
    wait_until(lambda: edge.metric(REFUSED % "authority") >= 3, what="three refusals")
    assert edge.check().status_code == 200


@pytest.mark.parametrize("what", ["epoch", "request_id"])
def test_a_foreign_reply_is_dropped_and_the_own_one_counts(edge, what):
    def lie(sock, message):
        epoch, request_id = message.epoch ^ (what == "epoch"), message.request_id ^ (what == "request_id")
        sock.send(busedge.encode_frame([("verdict", load("verdict", "admin"), request_id, 0, message.attempt)], epoch, message.batch))
    edge.replies("denied")
    edge.peers.before["verdict_request"] = lie
    assert edge.check("?scope=admin").status_code == 403      # not the administrator's
    assert edge.metric(REFUSED % "unexpected") >= 1


def test_a_second_reply_changes_nothing(edge):
    edge.replies("allowed", "allowed")
    allowed = edge.peers.answer["verdict_request"]
    edge.peers.answer["verdict_request"] = lambda request: allowed(request) + [("verdict", load("verdict", "denied"))]
    assert edge.check().status_code == 200
    wait_until(lambda: edge.metric(REFUSED % "expired") >= 1, what="the second one dropped")


def test_a_worker_that_said_the_recorded_goodbye_gets_no_more(start):
    edge = start(MCPGW_DECISION_MS="500")
    edge.replies("allowed", "allowed")
    edge.peers.send("authz", [("goodbye", load("goodbye", "audit"))])
    wait_until(lambda: edge.check().status_code == 503, what="nobody is asked")


def test_an_unknown_peer_is_told_the_recorded_rejection(edge):
    context = zmq.Context()
    stranger = context.socket(zmq.DEALER)
    stranger.setsockopt(zmq.LINGER, 0)
    stranger.connect(f"ipc://{edge.peers.base}.authz")
    stranger.send(busedge.encode_frame([("pulse", load("pulse", "authz"))]))
    assert stranger.poll(10000)
    message, = busedge.decode_frame(stranger.recv())
    assert (message.name, dict(message)) == ("reject", load("reject", "say_ready"))
    context.destroy(0)


# ---- kept connections: the answer leaves while its thread waits for the next request -----------------------------

class Kept:
    """One connection, used by hand."""

    def __init__(self, edge, has_small_buffers=False, to="127.0.0.1", source=0):
        self.socket = socket.socket()
        if source:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.socket.bind(("127.0.0.1", source))
        if has_small_buffers:    # the edge's grow with the size of a segment
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
        self.socket.connect((to, edge.port))
        self.socket.settimeout(30)
        self.stream = self.socket.makefile("rb")

    def send(self, request_id, method="GET", key="ci", path="/auth/check", fields=""):
        self.socket.sendall(self.head(request_id, method, key, path, fields))

    @staticmethod
    def head(request_id, method="GET", key="ci", path="/auth/check", fields=""):
        credential = f"x-api-key: {KEYS[key]}\r\n" if key else ""
        return (f"{method} {path} HTTP/1.1\r\nHost: gateway\r\n{credential}x-request-id: {request_id}\r\n{fields}\r\n").encode()

    def receive(self, method="GET"):
        """(status, request id, body), or None at the end of the connection."""
        line = self.stream.readline()
        if not line:
            return None
        head = dict(row.decode().rstrip("\r\n").split(": ", 1) for row in iter(self.stream.readline, b"\r\n"))
        size = 0 if method == "HEAD" else int(head["Content-Length"])
        body = self.stream.read(size)
        assert len(body) == size, "an answer was cut"
        return int(line.split()[1]), head["X-Request-Id"], body

    def close(self):
        self.stream.close()
        self.socket.close()


@pytest.fixture
def kept(edge):
    connection = Kept(edge)
    yield connection
    connection.close()


def test_each_request_of_a_kept_connection_gets_its_own_answer(edge, kept):
    edge.replies("allowed", "allowed")
    for number in range(20):
        kept.send(f"own-{number}")
        status, request_id, body = kept.receive()
        assert (status, request_id, json.loads(body)["requestId"]) == (200, f"own-{number}", f"own-{number}")


def test_requests_sent_at_once_are_answered_in_their_order(edge, kept):
    edge.replies("allowed", "allowed")
    for number in range(40):
        kept.send(f"ahead-{number}")
    assert [kept.receive()[:2] for _ in range(40)] == [(200, f"ahead-{number}") for number in range(40)]


def test_a_refusal_leaves_a_kept_connection_usable(edge, kept):
    for number, (verdict, status) in enumerate([("allowed", 200), ("revoked", 401), ("denied", 403), ("allowed", 200)] * 2):
        edge.replies(verdict, "allowed")
        kept.send(f"mixed-{number}")
        answer = kept.receive()
        assert answer[:2] == (status, f"mixed-{number}")


def test_head_on_a_kept_connection_has_no_body(edge, kept):
    edge.replies("allowed", "allowed")
    for number in range(3):
        kept.send(f"head-{number}", method="HEAD")
        assert kept.receive("HEAD")[:2] == (200, f"head-{number}")


def test_close_is_obeyed_after_answers_that_left_without_their_thread(edge, kept):
    edge.replies("allowed", "allowed")
    for number, fields in enumerate(["", "", "Connection: close\r\n"]):
        kept.send(f"close-{number}", fields=fields)
        assert kept.receive()[1] == f"close-{number}"
    assert kept.receive() is None


def test_a_malformed_request_behind_another_is_refused_after_its_answer(edge, kept):
    edge.replies("allowed", "allowed")
    kept.send("first")
    kept.receive()
    kept.send("second")
    kept.socket.sendall(b"GET /auth/check HTTP/1.1\r\nno colon here\r\n\r\n")
    assert kept.receive()[:2] == (200, "second")
    assert kept.receive()[0] == 400
    assert kept.receive() is None


def test_a_client_that_leaves_before_its_answer_harms_nobody(edge, kept):
    held = threading.Event()
    edge.replies("allowed", "allowed")
    allowed = edge.peers.answer["verdict_request"]
    kept.send("first")
    kept.receive()
    edge.peers.answer["verdict_request"] = lambda request: held.wait(20) and allowed(request)
    kept.send("second")
    wait_until(lambda: edge.peers.asked.qsize() >= 3, what="the second asked about")
    kept.close()
    held.set()
    assert edge.check().status_code == 200
    wait_until(lambda: edge.metric('mcpgw_http_answers_total{class="2xx"}') >= 3, what="the second answered into the void")


@pytest.mark.parametrize("listen", ["127.0.0.1:{0},127.0.0.2:{0}", "0.0.0.0:{0}", "{0}"])
def test_connections_that_differ_in_our_address_alone_get_their_own_answers(start, listen):
    port = free_port()
    edge = start(MCPGW_LISTEN=listen.format(port))
    edge.port, source = port, free_port()
    edge.replies("allowed", "allowed")
    two = [Kept(edge, to=to, source=source) for to in ("127.0.0.1", "127.0.0.2")]
    for number in range(5):
        for name, kept in enumerate(two):
            kept.send(f"of-{name}-{number}")
            assert kept.receive()[:2] == (200, f"of-{name}-{number}")
    for kept in two:
        kept.close()


@pytest.mark.parametrize("key, status", [("ci", 200), (None, 401)])
def test_a_client_that_does_not_read_gets_every_answer_whole(edge, key, status):
    """Its buffers fill, and what does not fit waits for room: the rest of an answer is not lost, nor another one cut into it."""
    edge.replies("allowed", "allowed")
    kept = Kept(edge, has_small_buffers=True)
    for number in range(3):
        kept.send(f"read-{number}")
        kept.receive()

    def answered():
        return sum(edge.metric(f'mcpgw_http_answers_total{{class="{digit}xx"}}') for digit in "24") - 3

    def waits():
        return edge.metric("mcpgw_http_answers_unsent") > 0

    for number in range(300):
        kept.send(f"unread-{number}", key=key)
        wait_until(lambda: answered() > number or waits(), what="the answer")
        if waits():
            break
    assert waits(), "its buffers were never full"
    for more in range(number + 1, number + 4):
        kept.send(f"unread-{more}", key=key)
    for each in range(number + 4):
        assert kept.receive()[:2] == (status, f"unread-{each}")
    kept.send("after", key=key)
    assert kept.receive()[:2] == (status, "after")
    wait_until(lambda: not waits(), what="nothing left to send")
    kept.close()


def test_what_lies_behind_a_request_on_a_resting_connection_is_seen_with_it(start):
    edge = start(MCPGW_KEEP_ALIVE_MS="120000")
    edge.replies("allowed", "allowed")
    kept = Kept(edge)
    for number in range(3):
        kept.send(f"rests-{number}")
        kept.receive()
    for padding in range(7900, 8200):
        full = Kept.head("full", fields=f"x-padding: {'p' * padding}\r\n")
        if len(full) == 8192:
            break
    kept.socket.sendall(full + Kept.head("behind"))
    assert [kept.receive()[1] for _ in range(2)] == ["full", "behind"]
    for number in range(3):
        kept.send(f"again-{number}")
        kept.receive()
    kept.send("last")
    kept.socket.shutdown(socket.SHUT_WR)
    assert kept.receive()[1] == "last"
    assert kept.receive() is None
    kept.close()


def test_a_key_to_be_verified_ends_at_the_edge(edge):
    """The keys service is asked about its digest; a body that is none it refuses without having seen what was in it."""
    secret, other = recorded.KEYS["ci"], "mcp_never_sent" + "x" * 50
    told = {json.dumps({"key": secret}): {"digest": recorded.digest_text(secret)}, json.dumps({"key": "x y"}): {"digest": ""},
            json.dumps({"key": other, "name": other}): {"digest": recorded.digest_text(other), "more": True},
            json.dumps({"digest": recorded.digest_text(secret)}): {}, json.dumps([other]): [], json.dumps({"key": [other]}): {},
            '{"key": "' + other: None, '{"key": "a", "key": "' + other + '"}': None}
    for sent, asked in told.items():
        edge.replies("admin", "admin", "key_verify")
        edge.call("POST", "/api/v1/keys/verify", "boss", data=sent, headers={"content-type": "application/json"})
        edge.peers.take("verdict_request"), edge.peers.take("charge_request")
        body = edge.peers.take("manage_request")["body"]
        assert (body == b"{" if asked is None else json.loads(body) == asked) and b"never_sent" not in body, (sent, body)
