"""Keys and digests that were made elsewhere: each row is judged, and all are stored or none."""
import hashlib

import pytest

from test_keys import ADMIN, ALICE, Api, add_user, digest_of, sequence, tell_holders, worker, api    # noqa: F401

KEY = "old_" + "k" * 60


def row(**fields):
    return {"userId": "alice", "scopes": ["read"], "key": KEY, **fields}


def load(api, *rows, status=201, dry=False, **call):
    return api.ok("key_import", body={"keys": list(rows), "dryRun": dry}, status=status, **call)


@pytest.mark.parametrize("body, field", [
    ({}, "keys"), ({"keys": []}, "keys"), ({"keys": {}}, "keys"), ({"keys": [{}] * 201}, "keys"), ({"keys": [{}], "dryRun": 1}, "dryRun"),
])
def test_a_call_that_cannot_be_used_is_refused_whole(api, body, field):
    assert api.refused(422, "unprocessable", "key_import", body=body)["field"] == field


@pytest.mark.parametrize("fields, field", [
    ({"key": None}, "key"), ({"key": "short"}, "key"), ({"key": "k" * 20 + " " + "k" * 20}, "key"), ({"key": KEY, "hash": digest_of("x")}, "key"),
    ({"hash": "x"}, "hash"), ({"hash": "z" * 64}, "hash"), ({"hash": digest_of("x")[:-1] + "B"}, "hash"), ({"userId": None}, "userId"),
    ({"userId": "nobody"}, "userId"), ({"scopes": ["root"]}, "scopes"), ({"scopes": None}, "scopes"), ({"expiresAt": "soon"}, "expiresAt"),
    ({"enabled": 1}, "enabled"), ({"start": ""}, "start"), ({"prefix": "x" * 33}, "prefix"), ({"colour": 1}, "colour"), ({"allowedIps": ["10.0.0.0/8"]}, "allowedIps"),
])
def test_a_row_that_cannot_be_used_is_told_and_nothing_is_stored(api, database, fields, field):
    bad = row(**fields)
    if "hash" in fields and fields.get("key") is None:
        del bad["key"]
    before = sequence(database)
    reply = api("key_import", body={"keys": [row(key="good" + KEY), bad]})
    assert reply["status"] == 422 and reply.json["code"] == "import_refused" and reply.json["imported"] == 0
    assert [(line["row"], line["status"]) for line in reply.json["rows"]] == [(1, "ready"), (2, "refused")] and reply.json["rows"][1]["field"] == field
    assert sequence(database) == before and database.sql("SELECT count(*) FROM apikey") == [(0,)]


def test_keys_and_digests_work_afterwards(api, database):
    done = load(api, row(name="old", expiresAt="2030-01-02T03:04:05Z", metadata={"a": 1}, rateLimit={"requests": 5, "window": 60}, prefix="old_"),
                row(key="hexed" + KEY, enabled=False, expiresAt=None, tenantId="side"))
    hashed = [{"userId": "bob", "scopes": ["write"], "hash": digest_of("b64" + KEY)},
              {"userId": "bob", "scopes": ["write"], "hash": hashlib.sha256(("hex" + KEY).encode()).hexdigest()}]
    more = load(api, *hashed)
    assert done["imported"] == more["imported"] == 2 and [line["status"] for line in done["rows"]] == ["imported"] * 2
    for text in (KEY, "b64" + KEY, "hex" + KEY):
        assert api.ok("key_verify", body={"key": text})["isValid"] is True
    assert api.ok("key_verify", body={"key": "hexed" + KEY}) == {"isValid": False, "error": "KEY_DISABLED"}
    first, second = (api.ok("key_get", object=line["id"]) for line in done["rows"])
    assert (first["name"], first["start"], first["prefix"], first["expiresAt"], first["metadata"], first["rateLimit"]) == (
        "old", "old_kk", "old_", "2030-01-02T03:04:05.000Z", {"a": 1}, {"requests": 5, "window": 60})
    assert (second["expiresAt"], second["tenantId"], second["enabled"], second["createdBy"]) == (None, "side", False, "admin")
    assert database.sql("SELECT event, count(*) FROM mcpgw.outbox GROUP BY event") == [("key.created", 4)]


def test_a_dry_run_judges_and_stores_nothing(api, database):
    report = load(api, row(), row(), row(userId="nobody", key="x" + KEY), status=200, dry=True)
    assert [line["status"] for line in report["rows"]] == ["ready", "duplicate", "refused"]
    assert (report["imported"], report["refused"], report["duplicates"], report["dryRun"]) == (0, 1, 1, True)
    assert database.sql("SELECT count(*) FROM apikey") == [(0,)]


def test_what_is_there_already_is_a_duplicate(api, database):
    load(api, row())
    reply = api("key_import", body={"keys": [row(name="again")]})
    assert reply["status"] == 422 and reply.json["rows"][0]["status"] == "duplicate"
    assert database.sql("SELECT count(*) FROM apikey") == [(1,)]


def test_a_user_of_several_organizations_needs_a_tenant(api, database):
    for organization in ("o1", "o2"):
        database.sql('INSERT INTO organization (id, name, slug, "createdAt") VALUES (%s, %s, %s, now())', *[organization] * 3)
        database.sql('INSERT INTO member VALUES (%s, %s, %s, %s, now())', organization, organization, "alice", "member")
    reply = api("key_import", body={"keys": [row()]})
    assert reply["status"] == 422 and reply.json["rows"][0]["field"] == "tenantId"
    load(api, row(tenantId="o1"), row(userId="o2", key="org" + KEY))


def test_a_repeated_import_is_told(api, database):
    load(api, row(), request_id="i")
    reply = api("key_import", body={"keys": [row()], "dryRun": False}, request_id="i")
    assert reply["status"] in (409, 422) and database.sql("SELECT count(*) FROM apikey") == [(1,)]
