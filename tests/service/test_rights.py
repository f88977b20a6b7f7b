"""Every call of the management API, as every role, against one's own, one's tenant's, another tenant's and no tenant's objects."""
import json
import re

import pytest

import busedge
from test_keys import Api, add_callers, add_user, tell_holders

ROWS = re.findall(r"^OPERATION\(\d+, +(\w+), +(true|false), +(\w+),", (busedge.ROOT / "common/operations.def").read_text(), re.M)
SCOPES = busedge.SCOPES
WRITE, ADMIN = SCOPES["read"] | SCOPES["write"] | SCOPES["proxy"], sum(SCOPES.values())

# name: (user, tenant, scopes, what they are there)
ACTORS = {
    "operator": ("admin", "user:admin", ADMIN, "OPERATOR"),
    "owner": ("olga", "acme", ADMIN, "TENANT"),
    "organization": ("org:acme", "acme", ADMIN, "TENANT"),
    "owner_elsewhere": ("eve", "globex", ADMIN, "TENANT"),
    "demoted": ("dan", "acme", ADMIN, "OWN"),
    "left": ("lea", "acme", ADMIN, "OWN"),
    "member": ("mia", "acme", WRITE, "OWN"),
    "owner_with_a_small_key": ("olga", "acme", WRITE, "OWN"),
    "alone": ("al", "user:al", WRITE, "OWN"),
    "reader": ("mia", "acme", SCOPES["read"], "OWN"),
    "nobody": ("mia", "acme", SCOPES["proxy"], "OWN"),
}
RANK = {"OWN": 0, "TENANT": 1, "OPERATOR": 2}
OWNERS = {"acme": "max", "globex": "gil", "none": "nils", "admin": "admin"}    # whose objects, besides one's own


class World:
    def __init__(self, database, api):
        self.db, self.api, self.serial = database, api, 0
        for organization in ("acme", "globex"):
            database.sql('INSERT INTO organization (id, name, slug, "createdAt") VALUES (%s, %s, %s, now())', *[organization] * 3)
        for user in ("olga", "dan", "lea", "mia", "max", "eve", "gil", "al", "nils"):
            add_user(database, user)
        for user, organization, role in (("olga", "acme", "owner"), ("dan", "acme", "member"), ("mia", "acme", "member"), ("max", "acme", "member"),
                                         ("eve", "globex", "admin"), ("gil", "globex", "member")):
            database.sql("INSERT INTO member VALUES (%s, %s, %s, %s, now())", user, organization, user, role)

    def key(self, owner):
        self.serial += 1
        self.db.sql('INSERT INTO apikey (id, "configId", "referenceId", key, enabled, permissions, "createdAt", "updatedAt")'
                    " VALUES (%s, 'default', %s, %s, true, '{}', now(), now())", f"k{self.serial}", owner.removeprefix("org:"), f"d{self.serial}")
        if owner == "lea":      # a key that was made in the organization she has left
            self.db.sql("INSERT INTO mcpgw.key (key_id, tenant_id) VALUES (%s, 'acme')", f"k{self.serial}")
        return f"k{self.serial}"

    def server(self, tenant):
        self.serial += 1
        self.db.sql("INSERT INTO mcpgw.server VALUES (%s, 'http://127.0.0.1:1/', NULL, %s, true, now(), now())", f"s{self.serial}", tenant)
        return f"s{self.serial}"


def on_key(body=None, status=200):
    """One key: within reach it works, elsewhere it does not exist."""
    def check(world, operation, actor, call):
        user, tenant, _, rank = ACTORS[actor]
        for place, owner in {"own": user, **OWNERS}.items():
            seen = place == "own" or rank == "OPERATOR" or (rank == "TENANT" and place == tenant) or owner == user
            reply = call(body, object=world.key(owner))
            assert reply["status"] == (status if seen else 404), (operation, actor, place, reply)
    return check


def on_server_read(world, operation, actor, call):
    user, tenant, _, rank = ACTORS[actor]
    for place in (None, "acme", "globex"):
        seen = rank == "OPERATOR" or place in (None, tenant)
        assert call(object=world.server(place))["status"] == (200 if seen else 404), (operation, actor, place)


def on_list(make):
    """Exactly what is within reach."""
    def check(world, operation, actor, call):
        user, tenant, _, rank = ACTORS[actor]
        made = make(world)
        seen = {item.get("id", item.get("slug")) for item in call(query="limit=100").json["items"]}
        for name, (owner, place) in made.items():
            expected = owner == user or rank == "OPERATOR" or (rank == "TENANT" and place == tenant) or (owner is None and place in (None, tenant))
            assert (name in seen) == expected, (operation, actor, owner, place)
    return check


def keys_of_all(world):
    places = {"admin": "user:admin", "olga": "acme", "max": "acme", "mia": "acme", "gil": "globex", "eve": "globex", "nils": None, "al": "user:al",
              "dan": "acme", "lea": "acme", "org:acme": "acme"}
    return {world.key(owner): (owner, place) for owner, place in places.items()}


def servers_of_all(world):
    return {world.server(place): (None, place) for place in (None, "acme", "globex")}


def on_tenant_read(world, operation, actor, call):
    _, tenant, _, rank = ACTORS[actor]
    for place in ("acme", "globex"):
        assert call(object=place)["status"] == (200 if rank == "OPERATOR" or place == tenant else 404), (operation, actor, place)


def on_tenant_list(world, operation, actor, call):
    _, tenant, _, rank = ACTORS[actor]
    seen = {item["id"] for item in call().json["items"]} & {"acme", "globex"}
    assert seen == ({"acme", "globex"} if rank == "OPERATOR" else {tenant} & {"acme", "globex"}), actor


def on_user(status=200, oneself=None):
    """A user of one's tenant; Better-Auth's rows are no tenant's own, so nothing of another's is seen."""
    def check(world, operation, actor, call):
        user, tenant, _, rank = ACTORS[actor]
        for place, whom in {"own": user, **OWNERS}.items():
            if whom.startswith("org:") or (whom == "admin" and operation in ("user_suspend", "user_resume")):
                continue
            seen = whom == user or rank == "OPERATOR" or (rank == "TENANT" and place == tenant)
            expected = oneself if whom == user and oneself else status if seen else 404
            assert call(object=whom)["status"] == expected, (operation, actor, place)
            world.db.sql('UPDATE "user" SET banned = NULL')
    return check


def on_session(world, operation, actor, call):
    user, tenant, _, rank = ACTORS[actor]
    for place, whom in {"own": user, **OWNERS}.items():
        if whom.startswith("org:"):
            continue
        world.serial += 1
        world.db.sql('INSERT INTO session (id, "expiresAt", token, "updatedAt", "userId") VALUES (%s, now() + interval \'1 hour\', %s, now(), %s)',
                     f"session{world.serial}", f"token{world.serial}", whom)
        seen = whom == user or rank == "OPERATOR" or (rank == "TENANT" and place == tenant)
        assert call(object=f"session{world.serial}")["status"] == (200 if seen else 404), (operation, actor, place)


def on_user_list(world, operation, actor, call):
    _, tenant, _, rank = ACTORS[actor]
    seen = {item["id"] for item in call(query="limit=100").json["items"]}
    assert ("max" in seen, "gil" in seen, "nils" in seen) == (rank == "OPERATOR" or tenant == "acme", rank == "OPERATOR" or tenant == "globex", rank == "OPERATOR")


def on_bulk(world, operation, actor, call):
    user, tenant, _, rank = ACTORS[actor]
    for place, owner in {"own": user, **OWNERS}.items():
        seen = place == "own" or rank == "OPERATOR" or (rank == "TENANT" and place == tenant)
        key = world.key(owner)
        reply = call({"action": "revoke", "filter": {"ids": [key]}})
        assert reply["status"] == 200 and reply.json["ids"] == ([key] if seen else []), (operation, actor, place, reply)


def allowed(status, body=None, **fields):
    """Who may make the call at all may make this one."""
    def check(world, operation, actor, call):
        made = {name: value(world) if callable(value) else value for name, value in fields.items()}
        reply = call(body(world) if callable(body) else body, **made)
        assert reply["status"] == status, (operation, actor, reply)
    return check


def create_key(world, operation, actor, call):
    user, tenant, _, rank = ACTORS[actor]
    assert call({"scopes": ["read"]})["status"] == 201, (operation, actor)
    assert call({"scopes": ["health"]})["status"] == (403 if rank == "OWN" and ACTORS[actor][2] != ADMIN else 201), actor
    for place, owner in OWNERS.items():
        reply = call({"scopes": ["read"], "userId": owner})
        expected = 201 if rank == "OPERATOR" or (rank == "TENANT" and place == tenant) else 422 if rank == "TENANT" else 403
        assert reply["status"] == expected, (operation, actor, place, reply)
        if expected == 201 and rank == "TENANT":
            assert reply.json["tenantId"] == tenant


def on_usage(world, operation, actor, call):
    user, tenant, _, rank = ACTORS[actor]
    world.db.sql("INSERT INTO audit.usage SELECT date_trunc('hour', now()), t, u, 'key-' || u, '', 1, 0, 0, 0, 0"
                 " FROM (VALUES ('acme', 'max'), ('globex', 'gil'), ('acme', %s)) AS x (t, u) ON CONFLICT DO NOTHING", user)
    for row in call(query="by=user&limit=100").json["items"]:
        assert rank != "OWN" or row["user"] == user, (actor, row)
    seen = {row["tenant"] for row in call(query="by=tenant&limit=100").json["items"]}
    assert rank != "TENANT" or seen <= {tenant}, (actor, seen)
    assert rank != "OPERATOR" or {"acme", "globex"} <= seen, (actor, seen)


def on_trail(world, operation, actor, call):
    user, tenant, _, rank = ACTORS[actor]
    for whom, place in (("max", "acme"), ("gil", "globex"), (user, tenant)):
        world.db.sql("INSERT INTO audit.batch SELECT gen_random_uuid(), 1, 1, 1, 1, t, t, ARRAY[t], %s, %s, %s, %s, ARRAY[%s], ARRAY[%s],"
                     " %s, %s, %s, %s, %s, %s, %s, '{200}', '{1}', '{1}', '{1}', %s, '{k}', ARRAY[%s] FROM (SELECT now() AS t) x",
                     *["{x}"] * 4, whom, place, *["{x}"] * 7, [None], whom)
    items = call(query="limit=100").json["items"]
    assert rank == "OPERATOR" or all(i["tenantId"] == tenant if rank == "TENANT" else i["userId"] == user for i in items), (actor, items)
    assert any(i["userId"] == user for i in items) or rank == "TENANT"
    assert rank != "OPERATOR" or {"acme", "globex"} <= {i["tenantId"] for i in items}


CHECKS = {
    "key_create": create_key, "key_list": on_list(keys_of_all), "key_get": on_key(), "key_update": on_key({"name": "x"}),
    "key_enable": on_key(), "key_disable": on_key(), "key_revoke": on_key(), "key_delete": on_key(), "key_rotate": on_key(),
    "key_bulk": on_bulk, "key_import": allowed(200, {"keys": [{"userId": "max", "scopes": ["read"], "key": "x" * 40}], "dryRun": True}), "key_verify": allowed(200, {"key": "mcp_x"}),
    "server_create": allowed(201, lambda w: {"slug": f"new{w.serial + 1}", "url": w.server(None) and "http://127.0.0.1:1/"}),
    "server_list": on_list(servers_of_all), "server_get": on_server_read,
    "server_update": allowed(200, {"enabled": False}, object=lambda w: w.server("globex")),
    "server_delete": allowed(200, object=lambda w: w.server("globex")),
    "tenant_create": allowed(201, lambda w: {"slug": w.server(None)}), "tenant_list": on_tenant_list, "tenant_get": on_tenant_read,
    "tenant_update": allowed(200, {"name": "x"}, object="globex"), "tenant_suspend": allowed(200, object="globex"),
    "tenant_resume": allowed(200, object="globex"), "tenant_delete": allowed(409, object="globex"),
    "user_list": on_user_list, "user_get": on_user(), "user_suspend": on_user(oneself=409), "user_resume": on_user(), "user_sign_out": on_user(),
    "session_list": on_user(), "session_end": on_session,
    "issuer_list": allowed(200), "token_explain": allowed(200, {"token": "a.b.c"}),
    "token_revoke": allowed(422, {"issuer": "nobody", "id": "x"}), "token_revoked": allowed(200), "token_restore": allowed(404, object="x"),
    "audit_list": on_trail, "usage": on_usage, "stats": allowed(200), "status": allowed(200),
}


@pytest.fixture
def world(database, edge, service):
    add_user(database, "admin")
    add_callers(database, "k")
    service("keys", MCPGW_DATABASE_URL=database.url("mcpgw_keys")).wait_ready()
    tell_holders(edge)
    return World(database, Api(edge))


def test_every_call_reaches_as_far_as_its_caller_and_no_further(world):
    missing = [name for name, _, _ in ROWS if name not in CHECKS]
    assert missing == [], "a call without an expectation"
    for operation, changes, authority in ROWS:
        for actor, (user, tenant, scopes, rank) in ACTORS.items():
            who = {"user_id": user, "tenant_id": tenant, "scopes": scopes, "key_id": "k"}

            def call(body=None, **fields):
                return world.api(operation, who, body, **fields)

            has_scope = scopes & SCOPES["write" if changes == "true" else "read"]
            if has_scope and RANK[rank] >= RANK[authority]:
                CHECKS[operation](world, operation, actor, call)
            else:
                reply = call(object="anything")
                assert (reply["status"], reply["code"]) == (403, "forbidden"), (operation, actor, reply)


def test_a_role_counts_from_the_moment_it_is_given_or_taken(world):
    dan = {"user_id": "dan", "tenant_id": "acme", "scopes": ADMIN, "key_id": "k"}
    key = world.key("max")
    world.api.refused(404, "not_found", "key_get", dan, object=key)
    world.db.sql("UPDATE member SET role = 'member,admin' WHERE id = 'dan'")
    world.api.ok("key_get", dan, object=key)
    world.db.sql("UPDATE member SET role = 'member' WHERE id = 'dan'")
    world.api.refused(404, "not_found", "key_get", dan, object=key)


def act(user, tenant, scopes, key="k"):
    return {"user_id": user, "tenant_id": tenant, "scopes": scopes, "key_id": key}


def test_a_key_that_an_administrator_made_for_a_member_opens_nothing_of_the_member_elsewhere(world):
    world.db.sql("INSERT INTO member VALUES ('max2', 'globex', 'max', 'member', now())")
    elsewhere = world.key("max")
    world.db.sql("INSERT INTO mcpgw.key (key_id, tenant_id) VALUES (%s, 'globex')", elsewhere)
    here = world.api.create(act("olga", "acme", ADMIN), userId="max", scopes=["write"])
    made = act("max", "acme", WRITE, here["id"])
    for operation in ("key_rotate", "key_get", "key_revoke", "key_delete", "key_update"):
        world.api.refused(404, "not_found", operation, made, object=elsewhere, body={} if operation == "key_update" else None)
    assert [item["id"] for item in world.api.ok("key_list", made)["items"]] == [here["id"]]
    assert world.api.ok("key_bulk", made, {"action": "delete", "filter": {"ids": [elsewhere, here["id"]]}, "dryRun": True})["ids"] == [here["id"]]
    world.api.refused(403, "shared_user", "user_sign_out", made, object="max")
    world.api.refused(403, "shared_user", "session_list", made, object="max")
    themselves = act("max", "acme", WRITE, "")    # with a session
    assert {item["id"] for item in world.api.ok("key_list", themselves)["items"]} == {here["id"], elsewhere}
    world.api.ok("key_rotate", themselves, object=elsewhere)
    world.api.ok("user_sign_out", themselves, object="max")


def test_rotating_a_key_gives_nobody_a_scope_they_lack(world):
    strong = world.api.create(act("al", "user:al", ADMIN), scopes=["admin"])
    weak = act("al", "user:al", WRITE)
    assert "scope" in world.api.refused(403, "forbidden", "key_rotate", weak, object=strong["id"])["detail"]
    assert world.api.ok("key_verify", weak, {"key": strong["key"]})["isValid"]
    world.api.ok("key_rotate", act("al", "user:al", ADMIN), object=strong["id"])


def test_a_tenants_administrator_suspends_no_operator(world):
    world.db.sql("INSERT INTO member VALUES ('a', 'acme', 'admin', 'member', now())")
    for operation in ("user_suspend", "user_sign_out", "session_list"):
        world.api.refused(403, "shared_user", operation, act("olga", "acme", ADMIN), object="admin")
