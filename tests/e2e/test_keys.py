"""The life of a key over the HTTP API, and that every change is felt at once everywhere."""
import base64
import hashlib

import pytest

from conftest import wait_until


def test_a_key_is_shown_once(gateway):
    made = gateway.make_key(name="once", scopes=["read"])
    assert made["key"].startswith("mcp_")
    shown = gateway.call("GET", f"/api/v1/keys/{made['id']}").json()
    assert "key" not in shown and shown["start"] == made["key"][:6] and shown["name"] == "once"


def test_unknown_revoked_disabled_and_expired_keys_are_indistinguishable(gateway):
    revoked, disabled, deleted, expired = (gateway.make_key(scopes=["read"]) for _ in range(4))
    gateway.call("POST", f"/api/v1/keys/{revoked['id']}/revoke")
    gateway.call("POST", f"/api/v1/keys/{disabled['id']}/disable")
    gateway.call("DELETE", f"/api/v1/keys/{deleted['id']}")
    with gateway.database() as connection:
        connection.execute("""update apikey set "expiresAt" = now() - interval '1 minute' where id = %s""", [expired["id"]])
    unknown = gateway.make_key(scopes=["read"])
    gateway.call("DELETE", f"/api/v1/keys/{unknown['id']}")
    seen = set()
    for made in (revoked, disabled, deleted, expired, unknown):
        answer = gateway.check(made["key"], headers={"X-Request-Id": "same"})
        headers = {k: v for k, v in answer.headers.items() if k.lower() not in ("date",)}
        seen.add((answer.status_code, tuple(sorted(headers.items())), answer.text))
    assert len(seen) == 1 and next(iter(seen))[0] == 401


def test_a_revocation_is_acknowledged_and_final(gateway):
    made = gateway.make_key(scopes=["read"])
    assert gateway.check(made["key"]).status_code == 200
    answer = gateway.call("POST", f"/api/v1/keys/{made['id']}/revoke")
    assert answer.status_code == 200
    applied = answer.json()["applied"]
    assert applied["holders"] == applied["of"] >= 3      # an edge and two authz workers
    assert all(gateway.check(made["key"]).status_code == 401 for _ in range(20))
    assert gateway.call("POST", f"/api/v1/keys/{made['id']}/enable").status_code == 409


def test_a_disabled_key_works_again_after_enable(gateway):
    made = gateway.make_key(scopes=["read"])
    gateway.call("POST", f"/api/v1/keys/{made['id']}/disable")
    assert gateway.check(made["key"]).status_code == 401
    gateway.call("POST", f"/api/v1/keys/{made['id']}/enable")
    assert gateway.check(made["key"]).status_code == 200


def test_changed_scopes_take_effect_at_once(gateway):
    made = gateway.make_key(scopes=["read"])
    assert gateway.check(made["key"], "?scope=proxy").status_code == 403
    assert gateway.call("PATCH", f"/api/v1/keys/{made['id']}", json={"scopes": ["read", "proxy"]}).status_code == 200
    assert gateway.check(made["key"], "?scope=proxy").status_code == 200


@pytest.mark.parametrize("field, value", [("allowedIps", ["10.0.0.1/8"]), ("servers", ["A"]), ("nonsense", 1),
                                          ("scopes", ["root"]), ("expiresIn", -5), ("name", 7), ("rateLimit", {"requests": 0})])
def test_a_field_that_cannot_be_used_is_refused_by_name(gateway, field, value):
    answer = gateway.call("POST", "/api/v1/keys", json={"name": "x", "scopes": ["read"], field: value})
    assert answer.status_code == 422
    assert field in answer.text


def test_a_keys_own_limit_is_enforced(gateway):
    made = gateway.make_key(scopes=["read"], rateLimit={"requests": 3, "window": 3600})
    statuses = [gateway.check(made["key"]).status_code for _ in range(5)]
    assert statuses == [200, 200, 200, 429, 429]
    answer = gateway.check(made["key"])
    assert int(answer.headers["Retry-After"]) > 0 and answer.json()["code"] == "rate_limited"


def test_refused_requests_consume_nothing(gateway):
    made = gateway.make_key(scopes=["read"], rateLimit={"requests": 2, "window": 3600})
    assert [gateway.check(made["key"], "?scope=admin").status_code for _ in range(5)] == [403] * 5
    assert [gateway.check(made["key"]).status_code for _ in range(2)] == [200, 200]


def test_a_repeated_create_is_one_key(gateway):
    headers = {"X-Request-Id": "repeat-me-1"}
    first = gateway.call("POST", "/api/v1/keys", json={"name": "twice", "scopes": ["read"]}, headers=headers).json()
    second = gateway.call("POST", "/api/v1/keys", json={"name": "twice", "scopes": ["read"]}, headers=headers).json()
    assert first["id"] == second["id"]
    assert gateway.check(second["key"]).status_code == 200


def test_lists_are_paged(gateway):
    for _ in range(3):
        gateway.make_key(name="paged", scopes=["read"])
    seen, cursor = [], ""
    while True:
        page = gateway.call("GET", f"/api/v1/keys?limit=2{cursor}").json()
        assert len(page["items"]) <= 2
        seen += [item["id"] for item in page["items"]]
        if not page["next"]:
            break
        cursor = f"&cursor={page['next']}"
    assert len(seen) == len(set(seen)) >= 3


def test_a_user_without_admin_sees_only_ones_own(gateway):
    with gateway.database() as connection:
        connection.execute("""insert into "user" (id, name, email, "emailVerified", "createdAt", "updatedAt")
                              values ('someone', 'Someone', 'someone@example.com', true, now(), now())""")
    writer = gateway.make_key(scopes=["write"], userId="someone")
    foreign = gateway.make_key(scopes=["read"])
    own = gateway.make_key(key=writer["key"], scopes=["read"])
    assert gateway.call("GET", f"/api/v1/keys/{own['id']}", key=writer["key"]).status_code == 200
    assert gateway.call("GET", f"/api/v1/keys/{foreign['id']}", key=writer["key"]).status_code == 404
    assert gateway.call("DELETE", f"/api/v1/keys/{foreign['id']}", key=writer["key"]).status_code == 404
    assert gateway.call("POST", "/api/v1/keys", key=writer["key"], json={"name": "up", "scopes": ["admin"]}).status_code in (403, 422)


def test_verify_tells_who_a_key_is(gateway):
    made = gateway.make_key(scopes=["read"])
    valid = gateway.call("POST", "/api/v1/keys/verify", json={"key": made["key"]}).json()
    assert valid["isValid"] and valid["context"]["scopes"] == ["read"]
    gateway.call("POST", f"/api/v1/keys/{made['id']}/revoke")
    assert gateway.call("POST", "/api/v1/keys/verify", json={"key": made["key"]}).json()["isValid"] is False


def test_no_event_holds_a_secret(gateway):
    made = gateway.make_key(name="grepped", scopes=["read", "proxy"], metadata={"note": "needle-of-metadata"})
    assert gateway.check(made["key"]).status_code == 200
    assert gateway.check(made["key"] + "x").status_code == 401
    gateway.call("POST", "/api/v1/keys/verify", json={"key": made["key"]})
    gateway.call("GET", f"/auth/check?key={made['key']}", key=made["key"])
    gateway.call("PATCH", f"/api/v1/keys/{made['id']}", json={"name": "other"})
    assert gateway.call("POST", f"/api/v1/keys/{made['id']}/revoke").status_code == 200
    gateway.wait_for_events(1, event="key.revoked", keyId=made["id"])
    digest = base64.urlsafe_b64encode(hashlib.sha256(made["key"].encode()).digest()).decode().rstrip("=")
    with gateway.database() as connection:
        for needle in (made["key"], made["key"][4:], digest, "needle-of-metadata", gateway.admin_key):
            for table in ("audit.event", "audit.usage", "audit.quarantine", "mcpgw.outbox"):
                count = connection.execute(f"select count(*) from {table} t where t::text like %s", [f"%{needle}%"]).fetchone()[0]
                assert count == 0, (table, needle)


def test_who_has_a_refused_key_finds_where_it_was_tried_and_nobody_else(gateway):
    made, reader = gateway.make_key(scopes=["read"]), gateway.make_key(scopes=["read"])
    assert gateway.call("DELETE", f"/api/v1/keys/{made['id']}").status_code == 200
    tried = gateway.check(made["key"])
    assert tried.status_code == 401
    event = gateway.wait_for_events(1, requestId=tried.json()["requestId"])[0]
    assert set(event["details"]) == {"presented"} and len(event["details"]["presented"]) == 22
    digest = base64.urlsafe_b64encode(hashlib.sha256(made["key"].encode()).digest()).decode().rstrip("=")
    path = f"/api/v1/audit/events?presented={digest}"
    found = gateway.call("GET", path).json()["items"]
    assert [item["requestId"] for item in found] == [event["requestId"]]
    assert gateway.call("GET", path, key=reader["key"]).json()["items"] == []
    told = gateway.cli("audit", "list", "--json", "--presented", "-", input=made["key"] + "\n")
    assert told.returncode == 0 and event["requestId"] in told.stdout, told.stderr
    assert event["requestId"] not in gateway.cli("audit", "list", "--json", "--presented", made["key"] + "x").stdout


def test_counters_tell_tiers_apart(gateway):
    reader = gateway.make_key(scopes=["read"])
    assert gateway.check(reader["key"]).status_code == 200
    def ask():
        told = gateway.call("GET", "/api/v1/stats").json()["lastHour"]["byTier"]
        return told if {"admin", "api_key"} <= set(told) else None
    tiers = wait_until(ask, 20, "the counters")
    assert tiers["admin"] > 0 and tiers["api_key"] > 0
