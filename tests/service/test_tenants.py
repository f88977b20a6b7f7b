"""Tenants over the management API: a Python edge asks a real mcpgw-keys."""
import pytest

from test_keys import ADMIN, ALICE, Api, add_user, sequence, tell_holders, worker, api    # noqa: F401

LIMITS = {"tenant": None, "perUser": None}
POLICY = {"maxKeyLife": None, "maxKeys": None, "scopes": None, "rotateAfter": None, "idleAfter": None, "keyPrefix": None}


def make(api, slug="acme", **body):
    return api.ok("tenant_create", body={"slug": slug, **body}, status=201)


@pytest.mark.parametrize("body, field", [
    ({}, "slug"), ({"slug": ""}, "slug"), ({"slug": "A"}, "slug"), ({"slug": "x" * 65}, "slug"), ({"slug": 1}, "slug"),
    ({"slug": "a", "id": ""}, "id"), ({"slug": "a", "id": "x" * 81}, "id"), ({"slug": "a", "id": "a b"}, "id"), ({"slug": "a", "name": ""}, "name"),
    ({"slug": "a", "name": "x" * 65}, "name"), ({"slug": "a", "state": "suspended"}, "state"), ({"slug": "a", "colour": 1}, "colour"),
    ({"slug": "a", "policy": 1}, "policy"), ({"slug": "a", "policy": {"maxKeyLife": 0}}, "policy.maxKeyLife"),
    ({"slug": "a", "policy": {"maxKeyLife": 315360001}}, "policy.maxKeyLife"), ({"slug": "a", "policy": {"maxKeys": "1"}}, "policy.maxKeys"),
    ({"slug": "a", "policy": {"scopes": []}}, "policy.scopes"), ({"slug": "a", "policy": {"scopes": ["root"]}}, "policy.scopes"),
    ({"slug": "a", "policy": {"idleAfter": 1.5}}, "policy.idleAfter"), ({"slug": "a", "policy": {"size": 1}}, "policy.size"),
])
def test_a_field_that_cannot_be_used_is_named(api, database, body, field):
    assert api.refused(422, "unprocessable", "tenant_create", body=body)["field"] == field
    assert database.sql("SELECT count(*) FROM mcpgw.tenant") == [(0,)]


@pytest.mark.parametrize("limits, field", [
    (None, "limits"), ([], "limits"), ({"requests": 1, "window": 1}, "limits"), ({"tenant": None, "user": None}, "limits"),
    ({"tenant": 5}, "limits.tenant"), ({"tenant": {"requests": 5}}, "limits.tenant"), ({"perUser": {"requests": 5, "window": 1, "x": 1}}, "limits.perUser"),
    ({"tenant": {"requests": 0, "window": 1}}, "limits.tenant.requests"), ({"tenant": {"requests": 2**31, "window": 1}}, "limits.tenant.requests"),
    ({"perUser": {"requests": 1, "window": 0}}, "limits.perUser.window"), ({"perUser": {"requests": 1, "window": 2147484}}, "limits.perUser.window"),
    ({"tenant": {"requests": None, "window": 1}}, "limits.tenant.requests"), ({"tenant": {"requests": 1, "window": None}}, "limits.tenant.window")])
def test_a_limit_that_cannot_be_enforced_is_named(api, database, limits, field):
    assert api.refused(422, "unprocessable", "tenant_create", body={"slug": "a", "limits": limits})["field"] == field
    assert database.sql("SELECT count(*) FROM mcpgw.tenant") == [(0,)]


def test_limits_are_set_changed_and_taken_back_one_by_one(api, database):
    assert "limits" in api.refused(422, "unprocessable", "tenant_create", body={"slug": "a", "rateLimit": {}})["detail"]
    one, two = {"requests": 100, "window": 60}, {"requests": 5, "window": 3600}
    made = make(api, limits={"tenant": one})
    assert made["limits"] == {**LIMITS, "tenant": one} and make(api, "b")["limits"] == LIMITS
    before = sequence(database)
    for body, limits in (({"limits": {"perUser": two}}, {"tenant": one, "perUser": two}), ({"name": "x", "limits": {}}, {"tenant": one, "perUser": two}),
                         ({"limits": {"tenant": None}}, {"tenant": None, "perUser": two}), ({"limits": LIMITS}, LIMITS)):
        assert api.ok("tenant_update", object=made["id"], body=body)["limits"] == limits == api.ok("tenant_get", object=made["id"])["limits"]
    assert sequence(database) == before + 4                        # each of them is a change that all workers are told of


@pytest.mark.parametrize("prefix", ["", "_", "acme", "1a_", "ac me_", "ac-me_", "a" * 16 + "_", "a_\n", 5, "é_"])
def test_a_prefix_that_no_key_can_have_is_named(api, prefix):
    assert api.refused(422, "unprocessable", "tenant_create", body={"slug": "a", "policy": {"keyPrefix": prefix}})["field"] == "policy.keyPrefix"


def test_a_tenants_keys_have_its_prefix_and_older_ones_go_on(api):
    tenant = make(api, policy={"keyPrefix": "acme_prod_"})["id"]
    def create():
        return api.create(userId="alice", tenantId=tenant)
    def is_valid(key):
        return api.ok("key_verify", body={"key": key})["isValid"]
    first = create()
    assert (first["key"][:11], len(first["key"]), first["prefix"], first["start"]) == ("acme_prod_1", 71, "acme_prod_", "acme_p")
    changed = api.ok("tenant_update", object=tenant, body={"policy": {"keyPrefix": "b_"}})
    assert changed["policy"]["keyPrefix"] == "b_"
    second = create()
    api.ok("tenant_update", object=tenant, body={"policy": {"keyPrefix": None}})
    third = create()
    assert (second["key"][:3], third["key"][:5]) == ("b_1", "mcp_1") and all(is_valid(key["key"]) for key in (first, second, third))
    again = api.ok("key_rotate", object=first["id"], body={"overlap": 0})
    assert again["key"].startswith("acme_prod_1") and is_valid(again["key"]) and not is_valid(first["key"])      # a key keeps its own
    broken = again["key"][:-1] + ("A" if again["key"][-1] != "A" else "B")
    assert not is_valid(broken)


def test_operators_are_not_shut_out_by_a_limit(api):
    make(api, "operators", id="user:admin")
    one = {"tenant": {"requests": 1, "window": 2147483}}
    assert api.refused(409, "operators_tenant", "tenant_update", object="user:admin", body={"limits": one})["field"] == "limits"
    assert api.ok("tenant_update", object="user:admin", body={"limits": LIMITS})["limits"] == LIMITS


def test_a_tenant_is_made_found_changed_and_deleted(api, database):
    made = make(api, name="Acme Inc.", policy={"maxKeyLife": 7776000, "scopes": ["proxy", "read"]})
    assert made["policy"] == {**POLICY, "maxKeyLife": 7776000, "scopes": ["read", "proxy"]} and made["state"] == "active"
    made.pop("applied")
    assert api.ok("tenant_get", object=made["id"]) == made and made["organization"] is False
    changed = api.ok("tenant_update", object=made["id"], body={"slug": "acme2", "policy": {"maxKeys": 5, "maxKeyLife": None}})
    assert changed["policy"] == {**POLICY, "maxKeys": 5, "scopes": ["read", "proxy"]} and changed["slug"] == "acme2" and changed["name"] == "Acme Inc."
    assert api.refused(422, "unprocessable", "tenant_update", object=made["id"], body={"id": "x"})["field"] == "id"
    assert api.ok("tenant_delete", object=made["id"], request_id="d")["deleted"] is True
    assert api.ok("tenant_delete", object=made["id"], request_id="d")["deleted"] is True
    for operation in ("tenant_get", "tenant_delete", "tenant_suspend", "tenant_resume", "tenant_update"):
        api.refused(404, "not_found", operation, body={} if operation == "tenant_update" else None, object=made["id"])
    rows = database.sql("SELECT event, source, actor_user_id, tenant_id FROM mcpgw.outbox ORDER BY sequence")
    assert rows == [(event, "api", "admin", made["id"]) for event in ("tenant.created", "tenant.updated", "tenant.deleted")]


def test_slugs_and_ids_are_taken_once(api):
    one = make(api, id="user:alice")
    assert one["id"] == "user:alice"
    assert api.refused(409, "conflict", "tenant_create", body={"slug": "acme"})["field"] == "slug"
    assert api.refused(409, "conflict", "tenant_create", body={"slug": "other", "id": "user:alice"})["field"] == "id"
    two = make(api, "two")
    assert api.refused(409, "conflict", "tenant_update", object=two["id"], body={"slug": "acme"})["field"] == "slug"
    assert api.ok("tenant_get", object="user%3Aalice")["id"] == "user:alice"      # as the edge hands it on


def test_a_repeated_create_makes_one_tenant(api, database):
    first = api.ok("tenant_create", body={"slug": "acme"}, request_id="t", status=201)
    again = api.ok("tenant_create", body={"slug": "acme"}, request_id="t", status=201)
    assert first["id"] == again["id"] and database.sql("SELECT count(*) FROM mcpgw.tenant") == [(1,)]
    api.refused(409, "request_id_reused", "tenant_create", body={"slug": "b"}, request_id="t")


def test_a_tenant_in_use_is_not_deleted(api, database):
    database.sql('INSERT INTO organization (id, name, slug, "createdAt") VALUES (\'org\', \'Org\', \'org\', now())')
    assert api.ok("tenant_get", object="org")["organization"] is True
    api.refused(409, "not_empty", "tenant_delete", object="org")
    tenant = make(api)["id"]
    key = api.create(userId="alice", tenantId=tenant)["id"]
    api.refused(409, "not_empty", "tenant_delete", object=tenant)
    api.ok("key_delete", object=key)
    make(api, "alice", id="user:alice")
    api.create(ALICE)
    api.refused(409, "not_empty", "tenant_delete", object="user:alice")
    api.ok("tenant_delete", object=tenant)


def test_suspending_and_resuming_are_told_and_refuse_its_keys(api, database):
    tenant = make(api)["id"]
    key = api.create(userId="alice", tenantId=tenant)["key"]
    suspended = api.ok("tenant_suspend", body={"reason": "unpaid"}, object=tenant)
    assert (suspended["state"], suspended["suspendedReason"]) == ("suspended", "unpaid") and suspended["applied"]["of"] >= 1
    assert api.ok("key_verify", body={"key": key}) == {"isValid": False, "error": "TENANT_SUSPENDED"}
    before = sequence(database)
    api.ok("tenant_suspend", object=tenant)
    assert sequence(database) == before                            # it is suspended already
    resumed = api.ok("tenant_resume", object=tenant)
    assert (resumed["state"], resumed["suspendedReason"]) == ("active", None)
    assert api.ok("key_verify", body={"key": key})["isValid"] is True
    assert database.sql("SELECT event, reason FROM mcpgw.outbox WHERE event ~ 'suspended|resumed' ORDER BY sequence") == [
        ("tenant.suspended", "unpaid"), ("tenant.resumed", None)]


def test_nobody_suspends_the_operators(api):
    make(api, "operators", id="user:admin")
    for operation in ("tenant_suspend", "tenant_delete"):
        api.refused(409, "operators_tenant", operation, object="user:admin")


def test_a_list_is_paged_by_slug(api):
    ids = [make(api, f"t{i}")["id"] for i in range(5)]
    first = api.ok("tenant_list", query="limit=3")
    rest = api.ok("tenant_list", query=f"limit=3&cursor={first['next']}")
    assert [item["id"] for item in first["items"] + rest["items"]] == ids and rest["next"] is None
