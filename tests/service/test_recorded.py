"""Each worker alone, played what a real edge said (tests/wire/): its replies are the recorded ones, field by field."""
import json
import struct

import pytest

import busedge
import recorded
from conftest import wait_until
from recorded import KEYS, load
from test_authz import World
from test_keys import add_user

# What must differ from the recording, and why.  Every other field of every message is compared.
MAY_DIFFER = {
    "verdict": {"layer"},                     # memory, Redis or Postgres: depends on who asked before
    "charge": {"remaining", "reset_ms"},      # depend on what was charged before, and on the clock
    "change": {"sequence"},                   # counts every change that the database has seen
    "servers_page": {"sequence"},
    "feed": {"sequence"},
}
# The same for members of JSON bodies; only their type is compared.  A new key and its start are random.
JSON_MAY_DIFFER = {"etag", "key", "start", "createdAt", "updatedAt", "revokedAt", "expiresAt", "next", "ms"}


def same(reply, name, case):
    expected, left_out = load(name, case), MAY_DIFFER.get(name, set())
    got = {field: value for field, value in reply.items() if field not in left_out}
    assert got == {field: value for field, value in expected.items() if field not in left_out}, case
    return expected


# ---- authz ------------------------------------------------------------------------------------------

@pytest.fixture
def world(database, redis_server, edge, service):
    world = World(database, redis_server, edge, service)
    world.add_user("admin")
    far = {"expiresAt": "2100-01-01T00:00:00Z", "rateLimitEnabled": False}
    once = {**far, "rateLimitEnabled": True, "rateLimitMax": 1, "rateLimitTimeWindow": 3600000}
    for name, scopes, columns in (("ci", ["read", "proxy"], far), ("boss", ["admin"], far), ("once", ["read"], once),
                                  ("disabled", ["read"], {**far, "enabled": False}), ("revoked", ["read"], far)):
        world.add_key("admin", scopes, key=KEYS[name], id=f"wire-{name}", **columns)
    database.sql("INSERT INTO mcpgw.key (key_id, revoked_at) VALUES ('wire-revoked', now())")
    world.start(MCPGW_BETTER_AUTH_SECRET="wire-" * 8)
    return world


def test_authz_gives_the_recorded_verdicts(world):
    cases = recorded.cases("verdict_request")
    assert {"allowed", "denied", "unknown", "disabled", "revoked", "own_limit", "mcp_call", "token", "token_beside_key"} <= set(cases)
    for case in cases:
        same(world.edge.call("authz", "verdict_request", **load("verdict_request", case)), "verdict", case)
    for case, reply in zip(cases, world.edge.call_many("authz", [("verdict_request", load("verdict_request", c)) for c in cases])):
        same(reply, "verdict", case)


# ---- ratelimit --------------------------------------------------------------------------------------

def test_ratelimit_gives_the_recorded_charges(redis_server, edge, service):
    service("ratelimit", MCPGW_REDIS_URL=redis_server.url).wait_ready()
    order = ["allowed", "admin", "mcp_call", "own_limit", "limited"]      # the last is refused because of the one before
    assert sorted(order) == recorded.cases("charge_request")
    for case in order:
        reply = edge.call("ratelimit", "charge_request", **load("charge_request", case))
        expected = same(reply, "charge", case)
        assert 0 <= reply["remaining"] < expected["limit"]
        assert 0 < reply["reset_ms"] <= expected["window_s"] * 1000


# ---- keys -------------------------------------------------------------------------------------------

def same_json(got, expected, where=""):
    """Equal but for the values of JSON_MAY_DIFFER, whose types are."""
    assert type(got) is type(expected), where
    if isinstance(expected, dict):
        assert list(got) == list(expected), where
        for name, value in expected.items():
            if name in JSON_MAY_DIFFER and not isinstance(value, (dict, list)):
                assert type(got[name]) is type(value), f"{where}.{name}"
            else:
                same_json(got[name], value, f"{where}.{name}")
    elif isinstance(expected, list):
        assert len(got) == len(expected), where
        for number, value in enumerate(expected):
            same_json(got[number], value, f"{where}[{number}]")
    else:
        assert got == expected, where


class Keys:
    """Plays at the service; what the recording calls wire-ci is the key that it made itself."""

    def __init__(self, edge):
        self.edge, self.id, self.played = edge, "wire-ci", set()

    def play(self, case):
        self.played.add(case)
        request = load("manage_request", case)
        request["object"] = request["object"].replace("wire-ci", self.id)
        request["query"] = request["query"].replace(b"wire-ci", self.id.encode())
        reply = self.edge.call("keys", "manage_request", **request)
        if case == "key_create":
            self.id = reply["object"]
        return self.translate(reply)

    def translate(self, message):
        for name, value in message.items():
            if isinstance(value, str):
                message[name] = value.replace(self.id, "wire-ci")
        if "body" in message:
            message["body"] = message["body"].replace(self.id.encode(), b"wire-ci")
        return message

    def same(self, case):
        reply, expected = self.play(case), load("manage_reply", case)
        assert bool(reply["etag"]) == bool(expected["etag"]), case
        assert {**reply, "body": b"", "etag": ""} == {**expected, "body": b"", "etag": ""}, (case, reply)
        same_json(json.loads(reply["body"]), json.loads(expected["body"]), case)

    def same_change(self, case):
        expected = load("change", case)
        same(self.edge.expect("change", lambda m: {**self.translate(m), "sequence": 0} == {**expected, "sequence": 0}), "change", case)


def ask_feed(edge):
    edge.send(edge.wait_worker("keys"), [("feed_request", load("feed_request", "first"), edge.new_id())])
    return edge.expect("feed")


@pytest.fixture
def keys(database, edge, service):
    add_user(database, "admin")
    database.sql('INSERT INTO apikey (id, "configId", "referenceId", key, enabled, "createdAt", "updatedAt")'
                 " VALUES ('wire-admin-key', 'default', 'admin', 'no digest', true, '2020-01-01', '2020-01-01')")
    database.sql("INSERT INTO mcpgw.server (slug, url, created_at, updated_at)"
                 " VALUES ('example', 'http://127.0.0.1:9000/mcp', now(), now())")
    service("keys", MCPGW_DATABASE_URL=database.url("mcpgw_keys")).wait_ready()
    holders = load("holders", "one_authz")
    holders.update(edge=edge.uuid, applied=1 << 40, workers=holders["workers"][:16] + struct.pack("<Q", 1 << 40))
    edge.send(edge.wait_worker("keys"), [("holders", holders)])
    ask_feed(edge)      # changes are told to edges that have asked
    return Keys(edge)


def test_keys_gives_the_recorded_replies(keys, database):
    keys.same("key_create_refused")
    keys.same("key_create")
    database.sql("UPDATE apikey SET key = %s WHERE id = %s",      # no recording holds the key that was made
                 recorded.digest_text(KEYS["ci"]), keys.id)
    for case in ("key_list", "key_get", "key_get_unknown", "key_verify", "key_update", "key_disable"):
        keys.same(case)
    keys.same_change("key_disable")
    for case in ("key_enable", "key_revoke", "key_verify_revoked"):
        keys.same(case)
    keys.same_change("key_revoke")
    keys.same("key_delete")
    keys.same_change("key_delete")
    for case in ("server_create", "server_list", "server_delete"):
        keys.same(case)
    keys.same_change("server_delete")
    assert keys.played == set(recorded.cases("manage_request")) - {"audit_list"}      # alone there is no trail: see below


def test_keys_lists_a_trail_that_is_empty(keys):
    reply = keys.play("audit_list")
    assert (reply["status"], json.loads(reply["body"])) == (200, {"items": [], "next": None})


def test_keys_gives_the_recorded_page_of_servers(keys, edge):
    keys.play("server_create")
    edge.send(edge.wait_worker("keys"), [("servers_request", load("servers_request", "first_page"), edge.new_id())])
    for case in ("example", "wire"):
        same(edge.expect("server_entry"), "server_entry", case)
    same(edge.expect("servers_page"), "servers_page", "last")


def test_keys_answers_the_recorded_question_for_changes(keys, edge, database):
    feed = ask_feed(edge)
    same(feed, "feed", "first")
    assert feed["sequence"] == database.sql("SELECT value FROM mcpgw.change_sequence")[0][0]


# ---- audit ------------------------------------------------------------------------------------------

@pytest.fixture
def audit(database, edge, service):
    service("audit", MCPGW_DATABASE_URL=database.url("mcpgw_audit")).wait_ready()
    edge.wait_worker("audit")
    return edge


def stored(database):
    return [row[0] for row in database.sql('SELECT "requestId" FROM audit.event WHERE status = 200 ORDER BY seq')]


def wait_ack(edge, heartbeat, where):
    """Tells the recorded heartbeat, as an edge does again and again, until the acknowledgement comes."""
    def told():
        edge.publish([("trail_heartbeat", load("trail_heartbeat", heartbeat))])
        return next((m for m in list(edge.messages) if m.name == "trail_ack" and where(m)), None)
    return wait_until(told, what="trail_ack")


def test_audit_acknowledges_the_recorded_blocks(audit, database):
    wait_ack(audit, "open", lambda m: m["next_seq"] == 1)
    for case in ("first", "second", "first"):
        audit.publish([("trail_block", load("trail_block", case))])
    same(wait_ack(audit, "closed", lambda m: m["next_seq"] == 3), "trail_ack", "whole")
    assert stored(database) == ["wire-trail-first", "wire-trail-second"]


def test_audit_asks_for_what_it_has_not_seen_as_recorded(audit, database):
    def replay(edge, request):
        edge.send(request.worker, [("trail_block", load("trail_block", case)) for case in ("first", "second")])
        edge.send(request.worker, [("replay_end", load("replay_end", "whole"))])
    audit.on["replay_request"] = replay
    same(wait_ack(audit, "closed", lambda m: m["next_seq"] == 3), "trail_ack", "whole")
    same(audit.expect("replay_request"), "replay_request", "whole")
    assert stored(database) == ["wire-trail-first", "wire-trail-second"]


def test_a_recorded_block_with_one_bit_turned_is_not_stored(audit, database):
    wait_ack(audit, "open", lambda m: m["next_seq"] == 1)
    block = bytearray(load("trail_block", "first")["block"])
    block[-1] ^= 1
    audit.publish([("trail_block", {"block": bytes(block)}), ("trail_block", load("trail_block", "second"))])
    audit.publish([("trail_block", load("trail_block", "first"))])
    same(wait_ack(audit, "closed", lambda m: m["next_seq"] == 3), "trail_ack", "whole")
    assert stored(database) == ["wire-trail-first", "wire-trail-second"]
