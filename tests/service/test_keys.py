"""mcpgw-keys alone: a Python edge asks, a real Postgres remembers."""
import hashlib
import base64
import itertools
import json
import os
import struct
import subprocess
import threading
import time

import pytest

import busedge
from conftest import program, wait_until

OPERATIONS = {}
for line in (busedge.ROOT / "common/operations.def").read_text().splitlines():
    if line.startswith("OPERATION("):
        number, name = line[len("OPERATION("):].split(",")[:2]
        OPERATIONS[name.strip()] = int(number)

ADMIN = {"user_id": "admin", "tenant_id": "user:admin", "scopes": busedge.SCOPES["admin"]}
ALICE = {"user_id": "alice", "tenant_id": "user:alice", "scopes": busedge.SCOPES["write"] | busedge.SCOPES["proxy"]}
BOB = {"user_id": "bob", "tenant_id": "user:bob", "scopes": busedge.SCOPES["write"]}
ids = itertools.count(1)


def add_user(database, user, **columns):
    names = "".join(f', "{name}"' for name in columns)
    database.sql(f'INSERT INTO "user" (id, name, email, "emailVerified"{names}) VALUES (%s, %s, %s, true' + ", %s" * len(columns) + ")",
                 user, user, f"{user}@example.com", *columns.values())


def add_callers(database, *keys):
    """The keys that make the calls; they are nobody's of the test, and without bounds of their own."""
    for key in keys:
        database.sql('INSERT INTO apikey (id, "configId", "referenceId", key, enabled, permissions, "createdAt", "updatedAt")'
                     " VALUES (%s, 'default', 'callers', %s, true, '{}', '2020-01-01', '2020-01-01')", key, f"digest of {key}")


def digest_of(key):
    return base64.urlsafe_b64encode(hashlib.sha256(key.encode()).digest()).decode().rstrip("=")


class Api:
    """Calls of the management API as an edge makes them."""

    def __init__(self, edge):
        self.edge = edge

    def __call__(self, operation, who=ADMIN, body=None, request_id=None, timeout=10, **fields):
        if operation == "key_verify" and isinstance(body, dict) and "key" in body:    # an edge asks about the digest
            body = {"digest": digest_of(body["key"]), **{name: value for name, value in body.items() if name != "key"}}
        if body is not None:
            fields["body"] = body if isinstance(body, bytes) else json.dumps(body).encode()
        if isinstance(fields.get("query"), str):
            fields["query"] = fields["query"].encode()
        reply = self.edge.call("keys", "manage_request", timeout=timeout, operation=OPERATIONS.get(operation, operation),
                               request_id=request_id or f"request-{next(ids)}", address="192.0.2.1", **who, **fields)
        reply.json = json.loads(reply["body"]) if reply["body"] else None
        return reply

    def ok(self, operation, *arguments, status=200, **keywords):
        reply = self(operation, *arguments, **keywords)
        assert reply["status"] == status, reply
        return reply.json

    def refused(self, status, code, operation, *arguments, **keywords):
        reply = self(operation, *arguments, **keywords)
        assert (reply["status"], reply["code"]) == (status, code), reply
        assert reply.json["status"] == status and reply.json["code"] == code and reply.json["type"] == "about:blank"
        assert reply.json["title"] and reply.json["detail"]
        return reply.json

    def create(self, who=ADMIN, **body):
        return self.ok("key_create", who, {"name": "ci", "scopes": ["read"], **body}, status=201)


@pytest.fixture
def worker(database, edge, service):
    for user in ("admin", "alice", "bob"):
        add_user(database, user)
    process = service("keys", MCPGW_DATABASE_URL=database.url("mcpgw_keys"))
    process.wait_ready()
    edge.wait_worker("keys")
    tell_holders(edge)
    return process


@pytest.fixture
def api(worker, edge):
    return Api(edge)


def tell_holders(edge, applied=1 << 40, workers=()):
    """This edge, and each of its authz workers, has applied so much; everything unless said."""
    packed = b"".join(uuid + struct.pack("<Q", number) for uuid, number in workers)
    edge.send(edge.wait_worker("keys"), [("holders", {"edge": edge.uuid, "applied": applied, "workers": packed})])


def sequence(database):
    return database.sql("SELECT value FROM mcpgw.change_sequence")[0][0]


# ---- refusals -----------------------------------------------------------------------------------

BAD_FIELDS = [
    ("allowedIps", ["10.0.0.1/8"], "unprocessable"), ("servers", ["A"], "unprocessable"), ("tools", [], "unprocessable"),
    ("environment", "Test", "unprocessable"), ("notBefore", "x", "not_enforced"), ("colour", "red", "unprocessable"), ("name", "", "unprocessable"),
    ("name", "x" * 33, "unprocessable"), ("scopes", [], "unprocessable"), ("scopes", ["root"], "unprocessable"),
    ("expiresIn", 0, "unprocessable"), ("expiresIn", "90d", "unprocessable"), ("expiresIn", 1.5, "unprocessable"),
    ("metadata", [1], "unprocessable"), ("metadata", {"constructor": 1}, "unprocessable"),
    ("metadata", {"a": [{"__proto__": 1}]}, "unprocessable"), ("metadata", {"a": "x" * 4096}, "unprocessable"),
    ("userId", "nobody", "unprocessable"), ("tenantId", "user:bob", "unprocessable"), ("rateLimit", 5, "unprocessable"),
]


def test_a_field_that_cannot_be_used_is_named(api):
    for field, value, code in BAD_FIELDS:
        problem = api.refused(422, code, "key_create", body={"name": "ci", "scopes": ["read"], field: value})
        assert problem["field"] == field


def test_a_rate_limit_must_fit_the_column(api):
    limit = {"requests": 5, "window": 2147484}
    problem = api.refused(422, "unprocessable", "key_create", body={"scopes": ["read"], "rateLimit": limit})
    assert problem["field"] == "rateLimit.window"


def test_a_body_must_be_one_json_object(api):
    for body in (b"", b"{", b"[]", b'{"name":"a","name":"b"}', b'{"scopes":["read"]} x', b"\xff\xfe"):
        api.refused(400, "malformed", "key_create", body=body)


def test_scopes_are_needed(api):
    api.refused(422, "unprocessable", "key_create", body={"name": "ci"})


def test_an_unknown_operation_is_not_found(api):
    api.refused(404, "not_found", 99)


def test_reading_needs_read_and_changing_needs_write(api):
    reader = {**ALICE, "scopes": busedge.SCOPES["read"]}
    nothing = {**ALICE, "scopes": busedge.SCOPES["proxy"]}
    api.refused(403, "forbidden", "key_create", reader, {"scopes": ["read"]})
    api.refused(403, "forbidden", "key_list", nothing)
    api.ok("key_list", reader)


def test_nobody_gives_a_scope_that_they_do_not_hold(api):
    for scope in ("admin", "metrics", "health"):
        assert api.refused(403, "forbidden", "key_create", ALICE, {"scopes": [scope]})["field"] == "scopes"
    mine = api.create(ALICE, scopes=["write", "proxy"])
    assert api.refused(403, "forbidden", "key_update", ALICE, {"scopes": ["admin"]}, object=mine["id"])["field"] == "scopes"


def test_only_an_administrator_chooses_owner_and_tenant(api):
    assert api.refused(403, "forbidden", "key_create", ALICE, {"scopes": ["read"], "userId": "bob"})["field"] == "userId"
    assert api.refused(403, "forbidden", "key_create", ALICE, {"scopes": ["read"], "tenantId": "acme"})["field"] == "tenantId"


def test_keys_of_others_do_not_exist(api):
    theirs = api.create(BOB)["id"]
    for operation in ("key_get", "key_update", "key_enable", "key_disable", "key_revoke", "key_delete"):
        body = {} if operation == "key_update" else None
        api.refused(404, "not_found", operation, ALICE, body, object=theirs)
        api.refused(404, "not_found", operation, ALICE, body, object="no-such-key")
    assert api.ok("key_get", BOB, object=theirs)["enabled"] is True


def test_a_banned_user_gets_no_key(api, database):
    database.sql("UPDATE \"user\" SET banned = true WHERE id = 'alice'")
    api.refused(422, "unprocessable", "key_create", body={"scopes": ["read"], "userId": "alice"})


# ---- create -------------------------------------------------------------------------------------

def test_a_key_is_stored_as_better_auth_stores_it(api, database):
    made = api.create(name="ci", scopes=["read", "proxy"], expiresIn=86400, rateLimit={"requests": 100, "window": 60}, metadata={"a": 1})
    row = dict(zip([c.name for c in database.connection.execute('SELECT * FROM apikey LIMIT 0').description],
                   database.sql("SELECT * FROM apikey WHERE id = %s", made["id"])[0]))
    assert row["key"] == digest_of(made["key"]) and len(made["key"]) == 65 and made["key"].startswith("mcp_1")
    assert row["start"] == made["key"][:6] and row["prefix"] == "mcp_" and row["configId"] == "default"
    assert len(row["id"]) == 32 and row["id"].isalnum() and row["referenceId"] == "admin" and row["enabled"] is True
    assert row["requestCount"] == 0 and row["remaining"] is row["lastRequest"] is row["lastRefillAt"] is None
    assert row["refillInterval"] is row["refillAmount"] is None
    assert (row["rateLimitEnabled"], row["rateLimitTimeWindow"], row["rateLimitMax"]) == (True, 60000, 100)
    assert json.loads(row["permissions"]) == {"mcp": ["read", "proxy"]} and json.loads(row["metadata"]) == {"a": 1}
    for moment in ("createdAt", "updatedAt", "expiresAt"):
        assert row[moment].microsecond % 1000 == 0
    assert (row["expiresAt"] - row["createdAt"]).total_seconds() == 86400


def test_a_key_without_wishes_has_the_default_life_and_no_limit(api, database):
    made = api.create(scopes=["write"])
    row = database.sql('SELECT "rateLimitEnabled", "rateLimitMax", "rateLimitTimeWindow", metadata, permissions,'
                       ' extract(epoch FROM "expiresAt" - "createdAt") FROM apikey')[0]
    assert row[:4] == (False, None, None, "null") and row[5] == 7776000
    assert json.loads(row[4]) == {"mcp": ["read", "write"]}        # closed: Better-Auth knows no inheritance
    assert made["scopes"] == ["read", "write"] and made["rateLimit"] is None and made["metadata"] is None
    assert api.create(expiresIn=None)["expiresAt"] is None


def test_the_value_is_shown_once(api):
    made = api.create()
    value = made.pop("key")
    got = api.ok("key_get", object=made["id"])
    assert got == made and value not in json.dumps(api.ok("key_list"))
    assert set(got) == {"id", "name", "start", "prefix", "userId", "tenantId", "scopes", "enabled", "revokedAt", "revokedReason",
                        "expiresAt", "createdAt", "updatedAt", "createdBy", "rateLimit", "metadata", "lastUsedAt",
                        "allowedIps", "servers", "tools", "environment", "etag"}


def test_a_key_stays_in_the_tenant_that_its_maker_acts_in(api, database):
    add_user(database, "carol")
    for organization in ("org1", "org2"):
        database.sql('INSERT INTO organization (id, name, slug, "createdAt") VALUES (%s, %s, %s, now())', *[organization] * 3)
        database.sql('INSERT INTO member VALUES (%s, %s, %s, %s, now())', organization + "c", organization, "carol", "member")
    carol = {**ALICE, "user_id": "carol", "tenant_id": "org2"}
    assert api.create(carol)["tenantId"] == "org2"                 # two organizations: the caller's own decides
    assert api.refused(422, "unprocessable", "key_create", body={"scopes": ["read"], "userId": "carol"})["field"] == "tenantId"
    assert api.create(userId="carol", tenantId="org1")["tenantId"] == "org1"
    database.sql("DELETE FROM member WHERE \"organizationId\" = 'org1'")
    made = api.create(carol)
    assert made["tenantId"] == "org2"
    assert database.sql("SELECT tenant_id FROM mcpgw.key WHERE key_id = %s", made["id"]) == [(None,)]    # follows membership


# ---- idempotency --------------------------------------------------------------------------------

def test_a_repeated_create_replaces_the_secret_that_was_never_shown(api, database):
    first = api.ok("key_create", body={"scopes": ["read"]}, request_id="r1", status=201)
    again = api.ok("key_create", body={"scopes": ["read"]}, request_id="r1", status=201)
    assert again["id"] == first["id"] and again["key"] != first["key"]
    assert database.sql("SELECT key FROM apikey") == [(digest_of(again["key"]),)]
    changed = {row[0] for row in database.sql("SELECT digest FROM mcpgw.change")}
    assert changed == {digest_of(first["key"]), digest_of(again["key"])}      # caches forget both
    events = [row[0] for row in database.sql("SELECT event FROM mcpgw.outbox WHERE key_id = %s ORDER BY sequence", first["id"])]
    assert events[0] == "key.created" and set(events[1:]) == {"key.updated"}  # made once, whatever was repeated


def test_a_request_id_is_good_for_one_request(api, database):
    api.ok("key_create", body={"scopes": ["read"]}, request_id="r1", status=201)
    api.refused(409, "request_id_reused", "key_create", body={"scopes": ["write"]}, request_id="r1")
    api.ok("key_create", ALICE, {"scopes": ["read"]}, request_id="r1", status=201)    # of another user: another request
    assert database.sql("SELECT count(*) FROM apikey") == [(2,)]


def test_two_at_once_make_one_key(api, edge, database):
    call = ("manage_request", {"operation": OPERATIONS["key_create"], "request_id": "same", "body": b'{"scopes":["read"]}', **ADMIN})
    replies = edge.call_many("keys", [call] * 5)
    assert {json.loads(r["body"])["id"] for r in replies} == {database.sql("SELECT id FROM apikey")[0][0]}


def test_a_repeated_change_does_not_act_twice(api, database):
    key = api.create()["id"]
    api.ok("key_disable", object=key, request_id="d1")
    api.ok("key_enable", object=key, request_id="e1")
    before = sequence(database)
    assert api.ok("key_disable", object=key, request_id="d1")["enabled"] is True     # the state now, not what it did then
    assert sequence(database) == before
    gone = api.ok("key_delete", object=key, request_id="x1")
    assert gone["deleted"] is True and api.ok("key_delete", object=key, request_id="x1")["deleted"] is True
    api.refused(404, "not_found", "key_delete", object=key)


# ---- change -------------------------------------------------------------------------------------

def test_update_changes_what_is_named(api):
    made = api.create(rateLimit={"requests": 5, "window": 60}, metadata={"a": 1})
    got = api.ok("key_update", body={"name": "new näme", "scopes": ["write"]}, object=made["id"])
    assert got["name"] == "new näme" and got["scopes"] == ["read", "write"]
    assert got["rateLimit"] == {"requests": 5, "window": 60} and got["metadata"] == {"a": 1} and got["expiresAt"] == made["expiresAt"]
    got = api.ok("key_update", body={"name": None, "rateLimit": None, "metadata": None, "expiresAt": None}, object=made["id"])
    assert got["name"] is got["rateLimit"] is got["metadata"] is got["expiresAt"] is None
    assert api.ok("key_update", body={"expiresIn": 60}, object=made["id"])["expiresAt"] is not None
    api.refused(422, "unprocessable", "key_update", body={"expiresAt": "2030-01-01T00:00:00Z"}, object=made["id"])
    api.refused(422, "unprocessable", "key_update", body={"userId": "bob"}, object=made["id"])


def test_disable_and_enable(api):
    key = api.create()["id"]
    assert api.ok("key_disable", object=key)["enabled"] is False
    assert api.ok("key_disable", object=key)["enabled"] is False
    assert api.ok("key_enable", object=key)["enabled"] is True


def test_a_revoked_key_stays_and_never_comes_back(api, database):
    key = api.create()["id"]
    got = api.ok("key_revoke", body={"reason": "leaked"}, object=key)
    assert got["enabled"] is False and got["revokedReason"] == "leaked"
    first = got["revokedAt"]
    assert api.ok("key_revoke", body={"reason": "again"}, object=key)["revokedAt"] == first
    api.refused(409, "key_revoked", "key_enable", object=key)
    assert database.sql("SELECT enabled FROM apikey") == [(False,)]               # dead for Better-Auth too
    assert api.ok("key_get", object=key)["revokedReason"] == "leaked"


def test_enabling_while_revoking_leaves_it_revoked(api, database):
    key = api.create()["id"]
    calls = [("manage_request", {"operation": OPERATIONS[name], "request_id": f"{name}{i}", "object": key, **ADMIN})
             for i in range(20) for name in ("key_enable", "key_revoke")]
    api.edge.call_many("keys", calls)
    assert database.sql("SELECT enabled FROM apikey") == [(False,)]


def test_a_deleted_key_leaves_nothing(api, database):
    key = api.create()["id"]
    assert api.ok("key_delete", object=key)["id"] == key
    assert database.sql("SELECT count(*) FROM apikey") == database.sql("SELECT count(*) FROM mcpgw.key") == [(0,)]
    api.refused(404, "not_found", "key_get", object=key)


def test_every_change_leaves_one_event_of_its_own_name(api, database):
    add_callers(database, "alicekey")
    database.sql("TRUNCATE mcpgw.outbox")
    with_key, before = {**ALICE, "key_id": "alicekey"}, sequence(database)
    key = api.create(with_key)["id"]
    for operation, body in (("key_update", {"name": "x"}), ("key_disable", None), ("key_enable", None),
                            ("key_revoke", {"reason": "why"}), ("key_delete", None)):
        api.ok(operation, with_key, body, object=key)
    rows = database.sql("SELECT event, source, actor_user_id, actor_key_id, actor_tenant_id, address, key_id, user_id, reason,"
                        " request_id, sequence FROM mcpgw.outbox ORDER BY sequence")
    assert [row[0] for row in rows] == ["key.created", "key.updated", "key.disabled", "key.enabled", "key.revoked", "key.deleted"]
    for row in rows:
        assert row[1:8] == ("api", "alice", "alicekey", "user:alice", "192.0.2.1", key, "alice") and row[9]
    assert rows[4][8] == "why"
    assert [row[10] for row in rows] == list(range(before + 1, before + len(rows) + 1))


# ---- lists and verify ---------------------------------------------------------------------------

def test_a_list_is_paged_newest_first_and_shows_own_keys(api):
    mine = [api.create(ALICE, name=f"k{i}")["id"] for i in range(5)]
    api.create(BOB)
    seen, cursor = [], ""
    while cursor is not None:
        page = api.ok("key_list", ALICE, query=f"limit=2{cursor}")
        assert len(page["items"]) <= 2
        seen += [item["id"] for item in page["items"]]
        cursor = page["next"] and f"&cursor={page['next']}"
    assert sorted(seen) == sorted(mine) and seen[0] == mine[-1]
    assert len(api.ok("key_list")["items"]) == 6
    for query in ("limit=0", "limit=101", "limit=x", "cursor=x", "colour=red", "limit=%zz", "limit"):
        api.refused(422, "unprocessable", "key_list", query=query)


def test_a_page_never_outgrows_its_message(api):
    for i in range(40):
        api.create(metadata={"a": "x" * 4000})
    page = api.ok("key_list", query="limit=100")
    assert 10 < len(page["items"]) < 40 and page["next"]
    rest = []
    while page["next"]:
        page = api.ok("key_list", query=f"limit=100&cursor={page['next']}")
        rest += page["items"]
    assert len(rest) > 20


def test_verify_tells_the_owner_and_nobody_else(api, database):
    made = api.create(ALICE, scopes=["read", "proxy"])
    answer = api.ok("key_verify", ALICE, {"key": made["key"]})
    assert answer["isValid"] is True
    context = answer["context"]
    assert context["userId"] == "alice" and context["tenantId"] == "user:alice" and context["authMethod"] == "api_key"
    assert context["scopes"] == ["read", "proxy"] and context["rateLimitTier"] == "api_key" and context["keyId"] == made["id"]
    unknown = {"isValid": False, "error": "KEY_UNKNOWN"}
    assert api.ok("key_verify", BOB, {"key": made["key"]}) == unknown
    assert api.ok("key_verify", {**BOB, "tenant_id": "user:alice"}, {"key": made["key"]})["isValid"] is True
    for garbage in ("", "mcp_", "x" * 300, made["key"][:-1] + "!", made["key"][:-1] + "_"):
        assert api.ok("key_verify", body={"key": garbage}) == unknown
    api.refused(422, "unprocessable", "key_verify", body={})
    api.refused(422, "unprocessable", "key_verify", body={"key": "a", "more": 1})


@pytest.mark.parametrize("change, error", [
    ("UPDATE apikey SET enabled = false", "KEY_DISABLED"),
    ("UPDATE apikey SET \"expiresAt\" = now() - interval '1 second'", "KEY_EXPIRED"),
    ("UPDATE mcpgw.key SET revoked_at = now()", "KEY_REVOKED"),
    ("UPDATE apikey SET remaining = 0", "USAGE_EXCEEDED"),
    ("UPDATE apikey SET remaining = 0, enabled = false", "KEY_DISABLED"),
    ("UPDATE \"user\" SET banned = true WHERE id = 'alice'", "OWNER_BANNED"),
    ("DELETE FROM \"user\" WHERE id = 'alice'", "OWNER_MISSING"),
    ("INSERT INTO organization VALUES ('o', 'O', 'o', NULL, now()); INSERT INTO member VALUES ('m', 'o', 'alice', 'member', now());"
     " DELETE FROM member", "OWNER_LEFT"),
    ("INSERT INTO apikey SELECT (jsonb_populate_record(a, '{\"id\":\"twin\"}')).* FROM apikey a", "KEY_UNKNOWN"),
])
def test_verify_says_why_not(api, database, change, error):
    key = api.create(ALICE)["key"]
    database.sql(change)
    assert api.ok("key_verify", ALICE, {"key": key}) == {"isValid": False, "error": error}


def test_foreign_rows_read_well(api, database):
    """What Better-Auth 1.7.5 and older ones write: NULLs, the plugin's default limit, JSON in JSON."""
    database.sql("""INSERT INTO apikey (id, "configId", "referenceId", key, "rateLimitEnabled", "rateLimitTimeWindow", "rateLimitMax",
                    "requestCount", "createdAt", "updatedAt", permissions, metadata)
                    VALUES ('foreign', 'default', 'alice', 'digest', true, 86400000, 10, 0, now(), now(), 'garbage', '"{\\"a\\":1}"')""")
    got = api.ok("key_get", ALICE, object="foreign")
    assert got["enabled"] is True and got["scopes"] == [] and got["rateLimit"] is None and got["metadata"] == {"a": 1}
    assert got["name"] is got["start"] is got["prefix"] is None


# ---- servers ------------------------------------------------------------------------------------

BAD_URLS = [
    "ftp://example.com/", "example.com", "http://", "http://user:password@example.com/", "http://169.254.169.254/latest",
    "http://[fe80::1]/", "http://2852039166/", "http://0xa9fea9fe/", "http://[::ffff:169.254.169.254]/", "http://0/",
    "http://metadata.google.internal/", "http://example.com:0/", "http://example.com/#x", "http://exa mple.com/", "http://224.0.0.1/",
]


def test_a_server_url_that_is_not_safe_is_refused(api):
    for url in BAD_URLS:
        problem = api.refused(422, "unprocessable", "server_create", body={"slug": "a", "url": url})
        assert problem["field"] == "url", url


def test_servers_are_for_administrators_to_change(api):
    body = {"slug": "files", "url": "http://127.0.0.1:9000/mcp"}
    api.refused(403, "forbidden", "server_create", ALICE, body)
    made = api.ok("server_create", body=body, status=201)
    assert made["slug"] == "files" and made["enabled"] is True and made["tenantId"] is None and made["applied"]["of"] == 1
    assert api.ok("server_create", body=body, status=200)["slug"] == "files"                  # it is so already
    api.refused(409, "conflict", "server_create", body={**body, "url": "http://127.0.0.1:9001/"})
    assert api.ok("server_get", ALICE, object="files")["url"] == body["url"]
    assert api.ok("server_update", body={"enabled": False, "tenantId": "acme"}, object="files")["enabled"] is False
    api.refused(404, "not_found", "server_get", ALICE, object="files")                        # of another tenant now
    assert api.ok("server_get", {**ALICE, "tenant_id": "acme"}, object="files")["tenantId"] == "acme"
    assert [s["slug"] for s in api.ok("server_list")["items"]] == ["files"] and api.ok("server_list", ALICE)["items"] == []
    api.refused(422, "unprocessable", "server_update", body={"slug": "other"}, object="files")
    api.refused(404, "not_found", "server_update", body={"enabled": True}, object="nothing")
    api.refused(403, "forbidden", "server_delete", ALICE, object="files")
    assert api.ok("server_delete", object="files", request_id="x")["deleted"] is True
    assert api.ok("server_delete", object="files", request_id="x")["deleted"] is True
    api.refused(404, "not_found", "server_delete", object="files")
    for slug in ("", "UPPER", "a/b", "x" * 65, "../x"):
        api.refused(422, "unprocessable", "server_create", body={**body, "slug": slug})


@pytest.mark.parametrize("fields, named", [
    ({"upstreamAuth": "own"}, "resource"), ({"upstreamAuth": "both"}, "upstreamAuth"), ({"enforce": "off"}, "enforce"),
    ({"secondFactor": "yes"}, "secondFactor"), ({"resource": "a b"}, "resource"), ({"resource": "x" * 257}, "resource"), ({"resource": ""}, "resource")])
def test_how_a_server_authenticates_is_said_soundly_or_refused_by_name(api, fields, named):
    problem = api.refused(422, "unprocessable", "server_create", body={"slug": "a", "url": "http://h/", **fields})
    assert problem["field"] == named


def test_edges_hear_how_a_server_authenticates(api, edge):
    body = {"slug": "own", "url": "http://h/", "upstreamAuth": "own", "resource": "api://" + "x" * 250, "secondFactor": True, "enforce": "observe"}
    made = api.ok("server_create", body=body, status=201)
    assert {name: made[name] for name in body} == body
    assert api.ok("server_create", body=body, status=200)["slug"] == "own"
    edge.send(edge.wait_worker("keys"), [("servers_request", {"after": ""}, 77)])
    entry = edge.expect("server_entry", lambda m: m.request_id == 77)
    assert (entry["own_auth"], entry["resource"], entry["second_factor"], entry["observes"]) == (True, body["resource"], True, True)
    assert api.refused(422, "unprocessable", "server_update", body={"resource": None}, object="own")["field"] == "upstreamAuth"
    plain = api.ok("server_update", body={"upstreamAuth": "gateway", "resource": None, "secondFactor": False, "enforce": "on"}, object="own")
    assert (plain["upstreamAuth"], plain["resource"], plain["secondFactor"], plain["enforce"]) == ("gateway", None, False, "on")


def test_servers_are_listed_in_pages(api, database):
    database.sql("INSERT INTO mcpgw.server SELECT 's' || i, 'http://h/', NULL, NULL, true, now(), now() FROM generate_series(100, 104) i")
    page = api.ok("server_list", query="limit=3")
    assert [s["slug"] for s in page["items"]] == ["s100", "s101", "s102"] and page["next"] == "s102"
    page = api.ok("server_list", query="limit=3&cursor=s102")
    assert [s["slug"] for s in page["items"]] == ["s103", "s104"] and page["next"] is None


def test_an_edge_reads_the_registry_in_pages_of_one_snapshot(api, edge, database):
    database.sql("INSERT INTO mcpgw.server SELECT 's' || i, 'http://h/', NULL, NULL, true, now(), now() FROM generate_series(1000, 1249) i")
    slugs, after = [], ""
    while True:
        request_id = edge.new_id()
        edge.send(edge.wait_worker("keys"), [("servers_request", {"after": after}, request_id)])
        page = edge.expect("servers_page", lambda m: m.request_id == request_id)
        entries = [edge.expect("server_entry", lambda m: m.request_id == request_id) for _ in range(page["count"])]
        assert page["error"] == 0 and page["sequence"] == sequence(database)
        slugs += [e["slug"] for e in entries]
        if not page["more"]:
            break
        after = slugs[-1]
    assert slugs == [f"s{i}" for i in range(1000, 1250)]


# ---- the feed -----------------------------------------------------------------------------------

def ask(edge, applied, asked_us=7):
    edge.send(edge.wait_worker("keys"), [("feed_request", {"asked_us": asked_us, "applied": applied})])
    return edge.expect("feed", lambda m: m["asked_us"] == asked_us)


def test_changes_come_before_the_answer_that_counts_them(api, edge, database):
    assert ask(edge, sequence(database))["sequence"] == sequence(database)
    database.sql("INSERT INTO apikey (id, \"configId\", \"referenceId\", key, \"createdAt\", \"updatedAt\") VALUES ('k', 'default', 'alice', 'd', now(), now())")
    number = sequence(database)
    change = edge.expect("change", lambda m: m["sequence"] == number)       # pushed, nobody asked
    assert change["kind"] == 1 and change["key_id"] == "k" and change["user_id"] == ""
    assert ask(edge, number, 8)["sequence"] == number
    database.sql("UPDATE \"user\" SET banned = true WHERE id = 'alice'")
    change = edge.expect("change", lambda m: m["sequence"] == number + 1)
    assert change["kind"] == 2 and change["user_id"] == "alice"


def test_an_edge_that_comes_late_gets_what_it_lacks(api, edge, database):
    for i in range(600):
        database.sql("UPDATE mcpgw.server SET url = url")    # nothing: no row
    # An edge that has applied none is not sent the history, so there must be one to start from.
    database.sql("INSERT INTO mcpgw.server VALUES ('s0', 'http://h/', NULL, NULL, true, now(), now())")
    start = sequence(database)
    wait_until(lambda: edge.wait_worker("keys").applied == start, what="keys to know it")
    database.sql("INSERT INTO mcpgw.server SELECT 's' || i, 'http://h/', NULL, NULL, true, now(), now() FROM generate_series(1, 600) i")
    assert ask(edge, start)["sequence"] == start + 600
    got = [edge.expect("change", lambda m: m["sequence"] > start)["sequence"] for _ in range(600)]
    assert got == list(range(start + 1, start + 601))


def test_an_edge_that_lacks_pruned_changes_hears_that_everything_changed(api, edge, database):
    database.sql("INSERT INTO mcpgw.server SELECT 's' || i, 'http://h/', NULL, NULL, true, now(), now() FROM generate_series(1, 10) i")
    newest = sequence(database)
    database.sql("DELETE FROM mcpgw.change WHERE sequence < %s", newest)
    ask(edge, 1)
    assert edge.expect("change")["kind"] == 6
    assert edge.expect("change")["sequence"] == newest


def test_an_edge_that_knows_nothing_begins_with_the_newest(api, edge, database):
    database.sql("INSERT INTO mcpgw.server SELECT 's' || i, 'http://h/', NULL, NULL, true, now(), now() FROM generate_series(1, 10) i")
    wait_until(lambda: edge.wait_worker("keys").applied == sequence(database), what="keys to know it")
    assert ask(edge, 0)["sequence"] == sequence(database)
    assert not [m for m in edge.messages if m.name == "change"]
    database.sql("DELETE FROM mcpgw.server WHERE slug = 's1'")
    assert edge.expect("change")["sequence"] == sequence(database)


def test_a_lost_database_answers_nobody_and_comes_back(api, worker, edge, postgres_server, database):
    ask(edge, 0)
    database.sql("CHECKPOINT")    # the fixture commits without waiting for the disk
    postgres_server.stop()
    wait_until(lambda: worker.readyz()[1].get("facts", {}).get("postgres") is False, what="postgres lost")
    edge.wait_for(lambda: not edge.live_workers("keys"), what="goodbye")
    postgres_server.start()
    worker.wait_ready()
    edge.wait_worker("keys")
    assert ask(edge, 0, 9)["asked_us"] == 9
    api.create()


# ---- acknowledgements ---------------------------------------------------------------------------

def test_a_revocation_is_answered_when_every_holder_has_applied_it(api, edge, database):
    workers = [bytes([n]) * 16 for n in (1, 2)]
    key = api.create()["id"]
    ask(edge, sequence(database))
    number = sequence(database)
    tell_holders(edge, number, [(w, number) for w in workers])
    request_id = edge.new_id()
    edge.send(edge.wait_worker("keys"), [("manage_request", {"operation": OPERATIONS["key_revoke"], "object": key, "request_id": "rv", **ADMIN}, request_id)])
    edge.expect("change", lambda m: m["sequence"] == number + 1)
    assert not [m for m in edge.messages if m.name == "manage_reply"]
    tell_holders(edge, number + 1, [(workers[0], number + 1), (workers[1], number)])
    ask(edge, number + 1, 11)                                 # a later answer on the same socket
    assert not [m for m in edge.messages if m.name == "manage_reply"]
    tell_holders(edge, number + 1, [(w, number + 1) for w in workers])
    reply = json.loads(edge.expect("manage_reply", lambda m: m.request_id == request_id)["body"])
    assert reply["applied"]["holders"] == reply["applied"]["of"] == 3 and reply["revokedAt"]


def test_a_worker_that_its_edge_has_given_up_is_no_holder(api, edge, database):
    key = api.create()["id"]
    tell_holders(edge, 1 << 40, [(b"a" * 16, 0)])
    request_id = edge.new_id()
    edge.send(edge.wait_worker("keys"), [("manage_request", {"operation": OPERATIONS["key_disable"], "object": key, "request_id": "d", **ADMIN}, request_id)])
    wait_until(lambda: database.sql("SELECT enabled FROM apikey") == [(False,)])
    tell_holders(edge)
    reply = json.loads(edge.expect("manage_reply", lambda m: m.request_id == request_id)["body"])
    assert reply["applied"]["holders"] == reply["applied"]["of"] == 1


def test_a_silent_holder_is_waited_for_until_its_lease_must_have_ended(database, edge, service):
    add_user(database, "admin")
    process = service("keys", MCPGW_DATABASE_URL=database.url("mcpgw_keys"), MCPGW_LEASE_MS="300", MCPGW_STALE_GRACE_MS="700")
    process.wait_ready()
    api = Api(edge)
    edge.wait_worker("keys")
    tell_holders(edge, 0)
    key = api.create()["id"]                                  # nobody waits for a new key
    applied = api.ok("key_revoke", object=key)["applied"]
    assert applied["holders"] == 0 and applied["of"] == 1 and applied["ms"] >= 1000
    assert process.metrics()['mcpgw_change_acks_total{outcome="waited"}'] == 1


def test_a_vanished_edge_is_a_holder_until_its_lease_must_have_ended(database, edge, service, tmp):
    add_user(database, "admin")
    process = service("keys", MCPGW_DATABASE_URL=database.url("mcpgw_keys"), MCPGW_LEASE_MS="1000", MCPGW_STALE_GRACE_MS="9000")
    process.wait_ready()
    api = Api(edge)
    edge.wait_worker("keys")
    tell_holders(edge)
    key = api.create()["id"]
    with busedge.Edge(tmp / "edge-2") as other:
        other.wait_worker("keys")
        tell_holders(other)
        assert api.ok("key_disable", object=key)["applied"]["of"] == 2
        ask(other, 0)
    for path in tmp.glob("edge-2.*"):
        path.unlink(missing_ok=True)
    wait_until(lambda: process.events("bus_edge_lost"), what="the edge's loss")
    applied = api.ok("key_enable", object=key, timeout=15)["applied"]
    assert applied["of"] - applied["holders"] <= 1 and applied["ms"] > 1000
    assert api.ok("key_disable", object=key)["applied"] == {"holders": 1, "of": 1, "ms": pytest.approx(0, abs=900)}


def test_a_question_acknowledges_nothing(api, edge, database):
    """An edge that has heard of a change may still route by its old table, and have an authz worker that has not."""
    late = bytes([7]) * 16
    key = api.create()["id"]
    ask(edge, sequence(database))
    number = sequence(database)
    tell_holders(edge, number)
    request_id = edge.new_id()
    edge.send(edge.wait_worker("keys"), [("manage_request", {"operation": OPERATIONS["key_revoke"], "object": key, "request_id": "rq", **ADMIN}, request_id)])
    edge.expect("change", lambda m: m["sequence"] == number + 1)
    ask(edge, number + 1, 12)
    ask(edge, number + 1, 13)
    assert not [m for m in edge.messages if m.name == "manage_reply"]
    tell_holders(edge, number + 1, [(late, number)])
    ask(edge, number + 1, 14)
    assert not [m for m in edge.messages if m.name == "manage_reply"]
    tell_holders(edge, number + 1, [(late, number + 1)])
    reply = json.loads(edge.expect("manage_reply", lambda m: m.request_id == request_id)["body"])
    assert reply["applied"]["holders"] == reply["applied"]["of"] == 2


def test_an_edge_that_is_there_and_silent_is_a_holder(database, edge, service, tmp):
    """A keys worker that has just started does not know who depends on what it changes."""
    add_user(database, "admin")
    with busedge.Edge(tmp / "edge-2") as other:
        other.welcomes = False
        process = service("keys", MCPGW_DATABASE_URL=database.url("mcpgw_keys"), MCPGW_LEASE_MS="1000", MCPGW_STALE_GRACE_MS="9000")
        process.wait_ready()
        api = Api(edge)
        edge.wait_worker("keys")
        tell_holders(edge)
        key = api.create()["id"]
        request_id = edge.new_id()
        edge.send(edge.wait_worker("keys"), [("manage_request", {"operation": OPERATIONS["key_disable"], "object": key, "request_id": "sd", **ADMIN}, request_id)])
        wait_until(lambda: database.sql("SELECT enabled FROM apikey") == [(False,)])
        ask(edge, 0, 16)
        assert not [m for m in edge.messages if m.name == "manage_reply"]
        other.welcomes = True
        other.wait_worker("keys")
        tell_holders(other)
        reply = json.loads(edge.expect("manage_reply", lambda m: m.request_id == request_id)["body"])
        assert reply["applied"]["holders"] == reply["applied"]["of"] == 2


def test_an_address_where_nobody_ever_answered_is_no_holder_for_long(database, edge, service, tmp):
    add_user(database, "admin")
    with busedge.Edge(tmp / "edge-2") as other:
        other.welcomes = False
        process = service("keys", MCPGW_DATABASE_URL=database.url("mcpgw_keys"), MCPGW_LEASE_MS="200", MCPGW_STALE_GRACE_MS="300")
        process.wait_ready()
        api = Api(edge)
        edge.wait_worker("keys")
        tell_holders(edge)
        key = api.create()["id"]
        wait_until(lambda: api.ok("key_disable", object=key)["applied"]["of"] == 1, what="the silent address to be given up")


# ---- the trail, and the state -------------------------------------------------------------------

def test_the_trail_is_read_through_its_view(api, database):
    events = 7
    if not database.sql("SELECT to_regprocedure('audit.recent(timestamptz,timestamptz,text,text,integer)') IS NOT NULL")[0][0]:
        pytest.skip("audit.recent is not there")
    columns = [row[0] for row in database.sql("SELECT attname FROM pg_attribute WHERE attrelid = 'audit.batch'::regclass AND attnum > 0"
                                              " AND attndims > 0 AND attname NOT IN ('keys', 'users', 'at')")]
    numbers = {"status": "200", "latency_us": "5", "bytes": "9", "requests": "1"}
    outcomes = "array['allowed','refused','allowed','allowed','refused','allowed','allowed']"
    users = "array['alice','alice','bob','bob','bob','bob','alice']"
    values = {"outcome": outcomes, "user_id": users, "key_id": "array['k1','k1','k2','k2','k2','k2','k1']"}
    filled = ", ".join(values.get(c) or (f"array_fill({numbers[c]}, array[7])" if c in numbers
                       else "array_fill('{}'::text, array[7])" if c == "details" else f"array_fill('x'::text, array[7])") for c in columns)
    database.sql(f"""INSERT INTO audit.batch (producer, epoch, first_seq, last_seq, count, first_at, last_at, at, keys, users, {', '.join(columns)})
                     SELECT '018f0000-0000-7000-8000-000000000000', 1, 1, 7, 7, t, t + interval '6 s',
                            array(SELECT t + i * interval '1 s' FROM generate_series(0, 6) i), array['k1','k2'], array['alice','bob'], {filled}
                     FROM (SELECT now() - interval '1 minute' AS t) x""")
    everything = api.ok("audit_list")
    assert [e["seq"] for e in everything["items"]] == [7, 6, 5, 4, 3, 2, 1] and everything["next"] is None
    assert everything["items"][0]["id"].endswith("-1-7") and everything["items"][0]["time"].endswith("Z")
    seen, cursor = [], ""
    while cursor is not None:
        page = api.ok("audit_list", query=f"limit=3{cursor}")
        seen += [e["seq"] for e in page["items"]]
        cursor = page["next"] and f"&cursor={page['next']}"
    assert seen == [7, 6, 5, 4, 3, 2, 1]
    assert [e["seq"] for e in api.ok("audit_list", query="key=k1")["items"]] == [7, 2, 1]
    assert [e["seq"] for e in api.ok("audit_list", query="user=bob&outcome=refused")["items"]] == [5]
    assert [e["seq"] for e in api.ok("audit_list", ALICE)["items"]] == [7, 2, 1]              # their own
    assert api.ok("audit_list", {**ALICE, "key_id": "k"})["items"] == []                                          # a key's tenant saw none of it
    assert [e["seq"] for e in api.ok("audit_list", ALICE, query="user=bob")["items"]] == [7, 2, 1]
    moment = everything["items"][3]["time"]
    assert [e["seq"] for e in api.ok("audit_list", query=f"from={moment}")["items"]] == [7, 6, 5, 4]
    assert [e["seq"] for e in api.ok("audit_list", query=f"to={moment}")["items"]] == [3, 2, 1]
    api.refused(422, "unprocessable", "audit_list", query="from=yesterday")
    api.refused(422, "unprocessable", "audit_list", query="from=2026-99-99T00:00:00Z")
    for filters, expected in {"tenant=x&event=x&server=x&tool=x&requestId=x": [7, 6, 5, 4, 3, 2, 1], "server=x&user=bob": [6, 5, 4, 3],
                              "tool=other": [], "requestId=other": [], "event=decision": [], "tenant=other": []}.items():
        assert [e["seq"] for e in api.ok("audit_list", query=filters)["items"]] == expected, filters
    for wrong in ("by=key", "server=", "status=200", "requestId=" + "x" * 65, "presented=mcp_raw", "presented=" + "A" * 43):
        api.refused(422, "unprocessable", "audit_list", query=wrong)


def test_usage_and_counters_are_told_by_what_is_asked(api, database):
    made = api.create()
    database.sql("UPDATE apikey SET \"requestCount\" = 25 WHERE id = %s", made["id"])
    for hours, key, user, tenant, server, requests in ((0, made["id"], "alice", "t1", "s1", 10), (0, "k2", "bob", "t2", "", 7),
                                                       (1, made["id"], "alice", "t1", "", 5), (48, "k2", "bob", "t2", "", 100)):
        database.sql("INSERT INTO audit.usage VALUES (date_trunc('hour', now()) - make_interval(hours => %s), %s, %s, %s, %s, %s, 1, 2, 30, 400)",
                     hours, tenant, user, key, server, requests)
    database.sql("INSERT INTO audit.pulse (slot, outcome, auth_method, server, requests, latency_us, tier) VALUES (now() - interval '5 s', 'allowed', 'api_key', 's1', 8, 80, 'admin'),"
                 " (now() - interval '10 min', 'refused', '', '', 2, 20, '')")
    by_key = api.ok("usage")
    assert [(i["key"], i["requests"]) for i in by_key["items"]] == [(made["id"], 15), ("k2", 7)]
    assert by_key["items"][0]["allTime"] == {"gateway": 15, "betterAuth": 10} and by_key["items"][0]["failed"] == 4
    assert [(i["server"], i["requests"]) for i in api.ok("usage", query="by=server")["items"]] == [(None, 12), ("s1", 10)]
    assert [(i["user"], i["requests"]) for i in api.ok("usage", query="by=user&from=2020-01-01T00:00:00Z")["items"]] == [("bob", 107), ("alice", 15)]
    assert [i["requests"] for i in api.ok("usage", query="by=hour&key=k2")["items"]] == [7]
    assert [i["key"] for i in api.ok("usage", ALICE)["items"]] == [made["id"]]
    assert api.ok("usage", {**ALICE, "key_id": "k"})["items"] == []    # a key shows what was done in its tenant
    assert [i["key"] for i in api.ok("usage", {**ALICE, "tenant_id": "t1", "key_id": "k"})["items"]] == [made["id"]]
    for wrong in ("by=colour", "by=", "cursor=1.x", "outcome=allowed"):
        api.refused(422, "unprocessable", "usage", query=wrong)
    stats = api.ok("stats")
    assert stats["lastMinute"] == {"requests": 8, "averageLatencyUs": 10, "byOutcome": {"allowed": 8}, "byMethod": {"api_key": 8}, "byTier": {"admin": 8},
                                   "byServer": {"s1": 8}}
    assert stats["lastHour"]["byOutcome"] == {"allowed": 8, "refused": 2} and stats["lastHour"]["byMethod"]["none"] == 2
    assert stats["lastHour"]["byTier"] == {"admin": 8, "none": 2}


def test_the_state_is_told(api, database):
    api.create()
    state = api.ok("status")
    assert state["triggersPresent"] is True and state["changeSequence"] == sequence(database) and state["keys"] == 1 and state["edges"] == 1
    database.sql("ALTER TABLE apikey DISABLE TRIGGER mcpgw_updated")
    assert api.ok("status")["triggersPresent"] is False


# ---- the process --------------------------------------------------------------------------------

def test_no_secret_and_no_digest_is_logged(api, worker, database):
    made = api.create()
    api.ok("key_verify", body={"key": made["key"]})
    assert made["key"] not in worker.log() and digest_of(made["key"]) not in worker.log()
    assert digest_of(made["key"]) not in json.dumps([str(row) for row in database.sql("SELECT * FROM mcpgw.outbox")])


def test_calls_in_work_are_answered_before_the_end(api, edge, worker):
    calls = [("manage_request", {"operation": OPERATIONS["key_create"], "request_id": f"c{i}", "body": b'{"scopes":["read"]}', **ADMIN}) for i in range(100)]
    result = {}
    thread = threading.Thread(target=lambda: result.update(replies=edge.call_many("keys", calls)))
    thread.start()
    thread.join()
    assert {r["status"] for r in result["replies"]} == {201}
    assert worker.stop() == 0 and edge.goodbyes


def test_more_calls_than_fit_are_refused_and_nothing_is_lost(api, edge, database):
    calls = [("manage_request", {"operation": OPERATIONS["key_create"], "request_id": f"m{i}", "body": b'{"scopes":["read"]}', **ADMIN}) for i in range(1200)]
    statuses = [r["status"] for r in edge.call_many("keys", calls, timeout=30)]
    assert set(statuses) <= {201, 503} and statuses.count(201) >= 256
    assert database.sql("SELECT count(*) FROM apikey")[0][0] == statuses.count(201)


def test_a_missing_url_is_named(tmp):
    done = subprocess.run([program("mcpgw-keys")], env={"PATH": os.environ["PATH"], "MCPGW_EDGES": f"ipc://{tmp}/edge-*"}, capture_output=True, text=True)
    assert done.returncode == 2 and "database_url" in done.stderr
    done = subprocess.run([program("mcpgw-keys"), "bootstrap"], env={"PATH": os.environ["PATH"]}, capture_output=True, text=True)
    assert done.returncode == 2 and "MCPGW_OWNER_DATABASE_URL" in done.stderr


# ---- bootstrap ----------------------------------------------------------------------------------

def bootstrap(database, *options):
    environment = {"PATH": os.environ["PATH"], "MCPGW_OWNER_DATABASE_URL": database.url("mcpgw_owner")}
    return subprocess.run([program("mcpgw-keys"), "bootstrap", *options], env=environment, capture_output=True, text=True)


def test_bootstrap_makes_one_administrator_and_one_key(database, tmp):
    file = tmp / "admin.key"
    assert bootstrap(database, "--key-file", str(file)).returncode == 0
    assert file.stat().st_mode & 0o777 == 0o600
    key = file.read_text().strip()
    assert database.sql("SELECT name, key, \"referenceId\", \"expiresAt\" FROM apikey") == [("administrator", digest_of(key), "admin", None)]
    assert database.sql("SELECT id, role FROM \"user\"") == [("admin", "admin")]
    assert "admin" in json.loads(database.sql("SELECT permissions FROM apikey")[0][0])["mcp"]
    assert bootstrap(database, "--key-file", str(file)).returncode == 0 and bootstrap(database).stdout == ""
    assert database.sql("SELECT count(*) FROM apikey") == [(1,)]
    assert database.sql("SELECT event, reason FROM mcpgw.outbox") == [("key.created", "bootstrap")]


def test_bootstrap_makes_a_new_key_when_the_file_is_lost(database, tmp):
    first = bootstrap(database)
    assert first.stdout.startswith("mcp_1")
    assert bootstrap(database, f"--key-file={tmp}/other.key").returncode == 0
    assert database.sql("SELECT count(*) FROM apikey") == [(2,)]


def test_bootstrap_overwrites_no_file(database, tmp):
    file = tmp / "admin.key"
    file.write_text("somebody's")
    done = bootstrap(database, "--key-file", str(file))
    assert done.returncode == 1 and "remove the file" in done.stderr and file.read_text() == "somebody's"
    assert database.sql("SELECT count(*) FROM apikey") == [(0,)]
    assert bootstrap(database, "--key-file", "/nonexistent/x").returncode == 1
    assert database.sql("SELECT count(*) FROM apikey") == [(0,)]
