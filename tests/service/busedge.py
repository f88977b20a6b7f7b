"""An edge for tests: binds the bus as mcpgw-edge does and plays messages at one real worker process.

    with Edge(tmp / "edge-1") as edge:                    # binds ipc://<base>.authz .ratelimit .keys .trail .replay
        worker = edge.wait_worker("authz")                # READY came and was answered with WELCOME
        verdict = edge.call("authz", "verdict_request", method=1, digest=b"..32 bytes..", needed=0)
        verdict["error"], verdict["user_id"], verdict.name, verdict.worker
        replies = edge.call_many("authz", [("verdict_request", {...}), ...])      # one batch, replies in its order
        change = edge.expect("change", where=lambda m: m["sequence"] == 7)        # unasked messages (also replies)
        edge.send(worker, [("feed_request", {...})])                              # one frame, returns its bytes
        edge.send_bytes(worker, frame)                                            # the same bytes again, or garbage
        edge.publish([("trail_block", {"block": b"..."})])                        # on .trail
        edge.on["replay_request"] = lambda edge, message: edge.send(message.worker, [...])   # answers by itself
        edge.heartbeats = False                                                   # play dead
        edge.welcomes = False                                                     # let READY go unanswered

A field that is left out is sent as nil when OPTIONAL and as zero or empty when not.  Received messages are dicts of
every field (nil reads as 0, "", b"", False, []), with .name, .worker, .request_id, .epoch, .batch, .attempt.
A thread owns the sockets, sends HEARTBEAT every 100 ms, records PULSEs in worker.applied and worker.pulses, and keeps
what it cannot decode in edge.errors, which close() raises.  Every wait has a deadline (default 10 s) and raises Timeout.

encode_frame, decode_frame, encode_body, decode_body and MESSAGES (read from common/messages.def) are usable alone:
common/frame.h describes the layout.
"""
import collections
import itertools
import os
import pathlib
import re
import socket
import struct
import threading
import time

import msgpack
import zmq

ROOT = pathlib.Path(__file__).resolve().parents[2]
SERVICES = ["edge", "authz", "ratelimit", "keys", "audit"]
VERSION = 1
HEADER = struct.Struct("<2sBBIQQ")
ITEM = struct.Struct("<HHIQQ")
TIMEOUT_S = 10.0
SCOPES = {"read": 1, "write": 2, "admin": 4, "proxy": 8, "metrics": 16, "health": 32}
TIERS = {"none": 0, "admin": 1, "api_key": 2, "oauth": 3}
EMPTY = {"U64": 0, "FLAG": False, "TEXT": "", "BYTES": b"", "TEXTS": [], "VIEW": b""}

Field = collections.namedtuple("Field", "type name limit count presence since")
Type = collections.namedtuple("Type", "code name sender receiver limit fields")


class Timeout(AssertionError):
    pass


def _read_rows():
    types = {}
    text = (ROOT / "common/messages.def").read_text()
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
    text = re.sub(r"^#ifdef MESSAGES_NEXT$.*?^#endif$", "", text, flags=re.S | re.M)
    row = re.compile(r'^\s*(MESSAGE|FIELD)\((.*)\)\s*$')
    current = None
    for line in text.splitlines():
        match = row.match(line)
        if not match:
            continue
        cells = [c.strip() for c in match.group(2).split(",", 7 if match.group(1) == "FIELD" else 5)]
        if match.group(1) == "MESSAGE":
            current = Type(int(cells[0], 16), cells[1], cells[2], cells[3], int(cells[4]), [])
            types[current.name] = current
        else:
            current.fields.append(Field(cells[1], cells[2], int(cells[3]), int(cells[4]), cells[5], int(cells[6])))
    return types


def _read_errors():
    text = (ROOT / "common/errors.def").read_text()
    return {name: number for number, name in enumerate(re.findall(r"^ERROR\((\w+),", text, flags=re.M))}


MESSAGES = _read_rows()
BY_CODE = {t.code: t for t in MESSAGES.values()}
ERR = _read_errors()          # ERR["UNVERIFIED"]


def encode_body(name, fields, version=VERSION):
    kind = MESSAGES[name]
    unknown = set(fields) - {f.name for f in kind.fields}
    assert not unknown, f"{name} has no field {unknown}"
    values = []
    for field in kind.fields:
        if field.since > version:
            continue
        value = fields.get(field.name, EMPTY[field.type])
        if field.presence in ("OPTIONAL", "HIDDEN") and not value:
            value = None
        values.append(value)
    return msgpack.packb(values, use_bin_type=True)


def decode_body(kind, body, version=VERSION):
    values = msgpack.unpackb(body, raw=False, strict_map_key=True)
    fields = [f for f in kind.fields if f.since <= version]
    assert isinstance(values, list) and len(values) == len(fields), f"{kind.name}: {values!r}"
    result = {f.name: EMPTY[f.type] for f in kind.fields}
    for field, value in zip(fields, values):
        if value is None:
            assert field.presence in ("OPTIONAL", "HIDDEN"), f"{kind.name}.{field.name} is nil"
            continue
        assert isinstance(value, type(EMPTY[field.type])), f"{kind.name}.{field.name}: {value!r}"
        result[field.name] = value
    return result


def encode_frame(items, epoch=0, batch=0, version=VERSION):
    """items: (name, fields, request_id, deadline_us, attempt), the last three may be left out."""
    out = bytearray(HEADER.pack(b"MG", version, 0, len(items), epoch, batch))
    for name, fields, *rest in items:
        request_id, deadline_us, attempt = (list(rest) + [0, 0, 0][len(rest):])
        body = encode_body(name, fields, version)
        out += ITEM.pack(MESSAGES[name].code, attempt, len(body), request_id, deadline_us) + body
    return bytes(out)


class Message(dict):
    """A received message: fields by name."""
    name = worker = request_id = epoch = batch = attempt = version = None

    def __repr__(self):
        return f"{self.name}({dict.__repr__(self)})"


def decode_frame(data, worker=None):
    magic, version, zero, count, epoch, batch = HEADER.unpack_from(data)
    assert magic == b"MG" and zero == 0, data[:24]
    at, messages = HEADER.size, []
    for _ in range(count):
        code, attempt, size, request_id, _deadline = ITEM.unpack_from(data, at)
        at += ITEM.size
        kind = BY_CODE[code]
        assert size <= kind.limit and at + size <= len(data), f"{kind.name}: {size} bytes"
        message = Message(decode_body(kind, data[at:at + size], version))
        message.name, message.worker, message.request_id = kind.name, worker, request_id
        message.epoch, message.batch, message.attempt, message.version = epoch, batch, attempt, version
        messages.append(message)
        at += size
    assert at == len(data), "bytes left over"
    return messages


class Worker:
    """A peer that said READY; `live` ends with GOODBYE or when another READY of the same uuid replaces it."""

    def __init__(self, role, identity, socket_role, ready):
        self.role, self.identity, self.socket_role = role, identity, socket_role
        self.uuid, self.credits, self.pid = ready["worker"], ready["credits"], ready["pid"]
        self.applied, self.version = ready["applied"], ready["version"]
        self.live, self.pulses, self.readies = True, 0, 1

    def __repr__(self):
        return f"<{self.role} {self.uuid.hex()[:8]} pid {self.pid} applied {self.applied}>"


def now_us():
    return time.monotonic_ns() // 1000


class Edge:
    ROUTERS = ("authz", "ratelimit", "keys", "replay")

    def __init__(self, base, name="test", version=VERSION):
        self.base, self.name, self.version = str(base), name, version
        self.uuid, self.epoch = os.urandom(16), int.from_bytes(os.urandom(7), "little")
        self.heartbeats = self.welcomes = True
        self.on, self.workers, self.messages, self.errors, self.goodbyes = {}, [], [], [], []
        self._outgoing, self._condition = collections.deque(), threading.Condition()
        self._ids, self._batches = itertools.count(1), itertools.count(1)    # next() is atomic
        self._context = zmq.Context()
        self._sockets = {}
        for role in self.ROUTERS + ("trail",):
            self._bind(role)
        self._wake_in, self._wake_out = socket.socketpair()
        self._stop = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _bind(self, role):
        sock = self._context.socket(zmq.PUB if role == "trail" else zmq.ROUTER)
        sock.setsockopt(zmq.LINGER, 0)
        if role != "trail":
            sock.setsockopt(zmq.ROUTER_MANDATORY, 1)
        sock.bind(f"ipc://{self.base}.{role}")
        self._sockets[role] = sock

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close(check=exception[0] is None)

    def close(self, check=True):
        if self._stop:
            return
        self._stop = True
        self._wake()
        self._thread.join()
        for sock in self._sockets.values():
            sock.close()
        self._context.destroy(0)
        self._wake_in.close(), self._wake_out.close()
        if check:
            assert not self.errors, self.errors

    # ---- the thread that owns the sockets

    def _wake(self):
        try:
            self._wake_in.send(b"x", socket.MSG_DONTWAIT)
        except BlockingIOError:
            pass

    def _run(self):
        poller = zmq.Poller()
        for role in self.ROUTERS:
            poller.register(self._sockets[role], zmq.POLLIN)
        poller.register(self._wake_out.fileno(), zmq.POLLIN)
        next_beat = 0.0
        while not self._stop:
            if time.monotonic() >= next_beat:
                next_beat = time.monotonic() + 0.1
                self._beat()
            events = dict(poller.poll(max(0, int((next_beat - time.monotonic()) * 1000))))
            if self._wake_out.fileno() in events:
                self._wake_out.recv(4096)
            while self._outgoing:
                self._transmit(*self._outgoing.popleft())
            for role in self.ROUTERS:
                if self._sockets[role] in events:
                    self._drain(role)

    def _beat(self):
        for worker in self.workers if self.heartbeats else []:
            if worker.live:
                frame = encode_frame([("heartbeat", {"sent_us": now_us()})], self.epoch, version=VERSION)
                self._transmit(worker.socket_role, worker.identity, frame)

    def _transmit(self, role, identity, frame):
        try:
            parts = [frame] if identity is None else [identity, frame]
            self._sockets[role].send_multipart(parts, zmq.DONTWAIT)
        except zmq.ZMQError:
            with self._condition:
                for worker in self.workers:
                    if worker.identity == identity:
                        worker.live = False
                self._condition.notify_all()

    def _drain(self, role):
        for _ in range(1000):
            try:
                parts = self._sockets[role].recv_multipart(zmq.DONTWAIT)
            except zmq.ZMQError:
                return
            try:
                self._receive(role, parts[0], parts[-1])
            except Exception as error:      # kept for the test, which runs in another thread
                self.errors.append(f"{role}: {error!r} in {parts[-1][:200].hex()}")

    def _receive(self, role, identity, data):
        worker = next((w for w in self.workers if w.identity == identity), None)
        for message in decode_frame(data, worker):
            if message.name == "ready":
                self._on_ready(role, identity, message)
            elif message.name == "pulse":
                self._on_pulse(worker, message, role, identity)
            elif message.name == "goodbye":
                self._on_goodbye(worker, message)
            else:
                self._on_message(worker, message)

    def _on_ready(self, role, identity, message):
        with self._condition:
            worker = next((w for w in self.workers if w.identity == identity), None)
            if worker is None and self.welcomes:
                for old in self.workers:
                    if old.uuid == message["worker"] and old.socket_role == role:
                        old.live = False
                worker = Worker(SERVICES[message["role"]], identity, role, message)
                self.workers.append(worker)
            elif worker is not None:
                worker.readies += 1
                worker.applied = message["applied"]
            self._condition.notify_all()
        if not self.welcomes:
            return
        worker.live = True
        fields = {"version": min(self.version, message["version"]), "edge": self.uuid, "epoch": self.epoch,
                  "sent_us": now_us(), "name": self.name}
        self._transmit(role, identity, encode_frame([("welcome", fields)], self.epoch))

    def _on_pulse(self, worker, message, role, identity):
        if worker is None:
            self._transmit(role, identity, encode_frame([("reject", {"reason": "say ready"})], self.epoch))
            return
        with self._condition:
            worker.pulses += 1
            worker.applied = message["applied"]
            self._condition.notify_all()

    def _on_goodbye(self, worker, message):
        with self._condition:
            if worker is not None:
                worker.live = False
            self.goodbyes.append(message)
            self._condition.notify_all()

    def _on_message(self, worker, message):
        with self._condition:
            self.messages.append(message)
            self._condition.notify_all()
        if message.name in self.on:
            self.on[message.name](self, message)

    # ---- for tests

    def wait_for(self, condition, timeout=TIMEOUT_S, what="condition"):
        """Returns condition()'s first true value; it is called whenever something arrived."""
        deadline = time.monotonic() + timeout
        with self._condition:
            while True:
                value = condition()
                if value:
                    return value
                left = deadline - time.monotonic()
                if left <= 0:
                    raise Timeout(f"{what}: not within {timeout} s; errors {self.errors}, last {self.messages[-3:]}")
                self._condition.wait(min(left, 0.05))

    def live_workers(self, role):
        return [w for w in self.workers if w.role == role and w.live]

    def wait_workers(self, role, count=1, timeout=TIMEOUT_S):
        return self.wait_for(lambda: len(self.live_workers(role)) >= count and self.live_workers(role),
                             timeout, f"{count} {role}")

    def wait_worker(self, role, timeout=TIMEOUT_S):
        return self.wait_workers(role, 1, timeout)[-1]

    def expect(self, name, where=lambda m: True, timeout=TIMEOUT_S):
        """Takes the oldest message of this name for which where() is true, waiting for it."""
        def take():
            for i, message in enumerate(self.messages):
                if message.name == name and where(message):
                    return self.messages.pop(i)
            return None
        return self.wait_for(take, timeout, name)

    def new_id(self):
        return 1 << 20 | next(self._ids)

    def send_bytes(self, worker, frame):
        self._outgoing.append((worker.socket_role, worker.identity, frame))
        self._wake()

    def has_sent_all(self):
        return not self._outgoing

    def send(self, worker, items, batch=None, epoch=None):
        """One frame of items (name, fields[, request_id, deadline_us, attempt]); returns the bytes sent."""
        if batch is None:
            batch = next(self._batches)
        frame = encode_frame(items, self.epoch if epoch is None else epoch, batch, min(self.version, worker.version))
        self.send_bytes(worker, frame)
        return frame

    def publish(self, items):
        self._outgoing.append(("trail", None, encode_frame(items, self.epoch, version=self.version)))
        self._wake()

    def call_many(self, role, requests, worker=None, timeout=TIMEOUT_S, deadline_us=None):
        """Sends (name, fields) pairs as frames of up to 256 items within 60 kB; returns the first reply to each."""
        worker = worker or self.wait_worker(role, timeout)
        if deadline_us is None:
            deadline_us = now_us() + int(timeout * 1e6)
        items = [(name, fields, self.new_id(), deadline_us, 0) for name, fields in requests]
        ids = {item[2]: i for i, item in enumerate(items)}
        frame, size = [], 0
        for item in items:
            length = ITEM.size + len(encode_body(item[0], item[1]))
            if frame and (len(frame) == 256 or size + length > 60000):
                self.send(worker, frame)
                frame, size = [], 0
            frame.append(item)
            size += length
        self.send(worker, frame)
        replies = [None] * len(items)

        def collect():
            for message in [m for m in self.messages if m.request_id in ids]:
                if replies[ids[message.request_id]] is None:
                    replies[ids[message.request_id]] = message
            self.messages[:] = [m for m in self.messages if m.request_id not in ids]
            return None not in replies
        self.wait_for(collect, timeout, f"replies to {len(items)} {requests[0][0]}")
        return replies

    def call(self, role, name, worker=None, timeout=TIMEOUT_S, **fields):
        return self.call_many(role, [(name, fields)], worker, timeout)[0]
