"""Access tokens that an operator ends: by themselves, by their id, or all of a subject, through the API of mcpgw-keys."""
import base64
import hashlib
import json
import time

import pytest

from conftest import wait_until
from test_keys import ALICE, Api, sequence
from test_keys_issuers import Bench

AS = {"name": "corp", "preset": "oidc", "issuer": "https://as.example", "jwks_url": "https://as.example/keys", "algorithms": ["ES256"]}
OPAQUE = {"name": "asked", "preset": "oidc", "issuer": "https://asked.example", "algorithms": [], "opaque": "introspect", "opaque_prefix": "at_",
          "introspection_url": "https://asked.example/i", "client_id": "c", "client_secret": "s"}


def b64(data):
    return base64.urlsafe_b64encode(data if isinstance(data, bytes) else json.dumps(data).encode()).decode().rstrip("=")


def token(**claims):
    return ".".join([b64({"alg": "ES256", "typ": "at+jwt", "kid": "k"}), b64({"iss": AS["issuer"], **claims}), b64(b"x" * 64)])


def bond(kind, issuer, value):
    return b64(hashlib.sha256(f"{kind}\n{issuer}\n{value}".encode()).digest()[:16])


@pytest.fixture
def api(database, edge, service, tmp):
    bench = Bench(database, edge, service, tmp)
    bench.start(AS, OPAQUE)
    api = Api(edge)
    api.database = database
    return api


def test_what_names_no_token_is_refused_by_field(api):
    jwt, before = token(jti="x", exp=int(time.time()) + 60), sequence(api.database)
    for field, body in [
        ("", {}), ("", {"issuer": "corp"}), ("", {"token": jwt, "id": "x"}), ("", {"issuer": "corp", "id": "x", "subject": "y"}),
        ("kid", {"token": jwt, "kid": "x"}), ("issuer", {"id": "x"}), ("issuer", {"issuer": "nobody", "id": "x"}), ("issuer", {"issuer": 7, "id": "x"}),
        ("issuer", {"token": jwt, "issuer": "corp"}), ("id", {"issuer": "corp", "id": ""}), ("id", {"issuer": "corp", "id": "x" * 129}),
        ("id", {"issuer": "corp", "id": ["x"]}), ("subject", {"issuer": "corp", "subject": "x" * 256}), ("subject", {"issuer": "corp", "subject": None}),
        ("issuedBefore", {"issuer": "corp", "id": "x", "issuedBefore": "2026-01-01T00:00:00Z"}),
        ("issuedBefore", {"issuer": "corp", "subject": "x", "issuedBefore": "yesterday"}),
        ("issuedBefore", {"issuer": "corp", "subject": "x", "issuedBefore": "2999-01-01T00:00:00Z"}),
        ("expiresAt", {"issuer": "corp", "id": "x", "expiresAt": 1}), ("expiresAt", {"issuer": "corp", "id": "x", "expiresAt": "2020-01-01T00:00:00Z"}),
        ("expiresAt", {"token": token(jti="over", exp=1000000000)}), ("reason", {"issuer": "corp", "id": "x", "reason": "x" * 201}),
        ("token", {"token": ""}), ("token", {"token": 5}), ("token", {"token": "mcp_" + "x" * 60}), ("token", {"token": "acme_1" + "x" * 60}), ("token", {"token": "no-such-prefix"}),
        ("token", {"token": "a.b.c"}), ("token", {"token": token(iss="https://other.example")}), ("token", {"token": token(jti="x" * 200)}),
        ("token", {"token": "x" * 20000}),
    ]:
        reply = api("token_revoke", body=body)
        assert (reply["status"], reply.json["code"], reply.json.get("field", "")) == (422, "unprocessable", field), (body, reply)
    assert api("token_revoke", body=[])["status"] == 400 and api("token_revoke")["status"] == 400
    api.refused(404, "not_found", "token_restore", object="nobody")
    assert api.ok("token_revoked")["items"] == [] and sequence(api.database) == before


def test_tokens_are_ended_listed_told_and_let_in_again(api):
    ends = int(time.time()) + 600
    first = token(jti="one", exp=ends)
    made = api.ok("token_revoke", body={"token": first, "reason": "in a log"}, request_id="again")
    assert made["applied"]["holders"] == made["applied"]["of"]
    assert {name: made[name] for name in ("id", "kind", "issuer", "value", "issuedBefore", "createdBy", "reason")} == {
        "id": bond("token", "corp", "one"), "kind": "token", "issuer": "corp", "value": "one", "issuedBefore": None, "createdBy": "admin",
        "reason": "in a log"}
    assert made["expiresAt"] == time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(ends + 30)), "with the leeway"
    assert first not in json.dumps(made)
    again = sequence(api.database)
    assert api.ok("token_revoke", body={"token": first, "reason": "in a log"}, request_id="again")["id"] == made["id"]
    assert sequence(api.database) == again, "a repeated call is no second change"
    assert api.ok("token_revoke", body={"issuer": "corp", "id": "one"})["reason"] == "in a log", "the same token, by its id"

    unnamed = token(exp=ends)
    assert api.ok("token_revoke", body={"token": unnamed})["value"] == "sha256:" + b64(hashlib.sha256(unnamed.rsplit(".", 1)[0].encode()).digest())
    opaque = api.ok("token_revoke", body={"token": "at_0123456789"})
    assert (opaque["issuer"], opaque["value"]) == ("asked", "sha256:" + b64(hashlib.sha256(b"at_0123456789").digest()))
    assert opaque["id"] == bond("token", "", opaque["value"])
    subject = api.ok("token_revoke", body={"issuer": "corp", "subject": "älice", "issuedBefore": "2026-01-01T00:00:00Z"})
    assert (subject["id"], subject["issuedBefore"]) == (bond("subject", "corp", "älice"), "2026-01-01T00:00:00.000Z")
    later = api.ok("token_revoke", body={"issuer": "corp", "subject": "älice"})
    assert later["issuedBefore"] > subject["issuedBefore"]
    assert api.ok("token_revoke", body={"issuer": "corp", "subject": "älice", "issuedBefore": "2026-01-01T00:00:00Z"})["issuedBefore"] \
        == later["issuedBefore"], "a moment only moves on"

    page = api.ok("token_revoked", query="limit=2")
    rest = api.ok("token_revoked", query=f"cursor={page['next']}")
    assert len({item["id"] for item in page["items"] + rest["items"]}) == 4 and rest["next"] is None
    change = api.database.sql("SELECT kind, key_id, server FROM mcpgw.change ORDER BY sequence DESC LIMIT 1")
    assert change == [(9, subject["id"], "corp")]
    events = api.database.sql("SELECT event, source, actor_user_id, reason, details->>'token' FROM mcpgw.outbox ORDER BY sequence")
    assert ("token.revoked", "api", "admin", "in a log", "one") in events

    assert api.ok("token_restore", object=made["id"])["restored"] is True
    api.refused(404, "not_found", "token_restore", object=made["id"])
    assert api.database.sql("SELECT event, key_id FROM mcpgw.outbox ORDER BY sequence DESC LIMIT 1") == [("token.restored", made["id"])]
    before = sequence(api.database)
    api.database.sql("UPDATE mcpgw.ended_token SET expires_at = now() + interval '1 s'")
    after = sequence(api.database)
    assert after == before + 3
    wait_until(lambda: api.ok("token_revoked")["items"] == [], what="their time is over")
    api.ok("token_revoke", body={"issuer": "corp", "id": "two"})
    assert api.database.sql("SELECT count(*) FROM mcpgw.ended_token") == [(1,)], "those whose time is over are cleared"
    assert sequence(api.database) == after + 1, "which is no change"
    api.refused(403, "forbidden", "token_revoke", ALICE, body={"issuer": "corp", "id": "x"})


def test_the_keys_of_an_issuer_that_the_settings_no_longer_name_are_dropped(database, edge, service, tmp):
    key = {"kty": "OKP", "crv": "Ed25519", "kid": "k1", "x": b64(b"\x11" * 32)}
    print_of_key = b64(hashlib.sha256(json.dumps({"crv": key["crv"], "kty": "OKP", "x": key["x"]}, separators=(",", ":")).encode()).digest())
    for name, text in (("corp", json.dumps({"keys": [key]})), ("former", json.dumps({"keys": [key, {"kty": "what"}]})), ("odd", "no JSON")):
        database.sql("INSERT INTO mcpgw.issuer_keys (name, issuer, source, jwks, key_count, fetched_at, due_at, attempted_at, attempted_by)"
                     " VALUES (%s, 'https://as.example', 's', %s, 1, now(), now() + interval '1 hour', now(), 't')", name, text)
    first = sequence(database)
    bench = Bench(database, edge, service, tmp)
    bench.start({**AS, "cooldown_s": 3600})
    wait_until(lambda: database.sql("SELECT count(*) FROM mcpgw.issuer_keys WHERE jwks IS NOT NULL") == [(1,)], what="others are dropped")
    assert bench.row("corp")["jwks"] is not None and bench.row("former")["jwks"] is None
    rows = database.sql("SELECT kind, key_id, server FROM mcpgw.change WHERE sequence > %s", first)
    assert sorted(rows, key=str) == sorted([(7, None, "former"), (7, None, "odd"), (9, bond("signer", "former", print_of_key), "former"),
                                            (6, None, None)], key=str)


def test_an_opaque_token_that_nobody_is_asked_about_is_better_auth_s(database, edge, service, tmp):
    bench = Bench(database, edge, service, tmp)
    bench.start(AS, OPAQUE, {"name": "ba", "preset": "better-auth", "issuer": "https://app.example/api/auth", "opaque": "database",
                             "jwks_url": "https://app.example/jwks"})
    assert Api(edge).ok("token_revoke", body={"token": "0123456789"})["issuer"] == "ba"
