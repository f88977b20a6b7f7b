"""What a key may be limited to and how it lives, at mcpgw-keys and mcpgw-authz alone."""
import pytest

from busedge import SCOPES
from test_authz import DENIED, MEMORY, OK, POSTGRES, REDIS, UNVERIFIED, World, digest_text
from test_keys import ALICE, BOB, OPERATIONS, Api, add_user, tell_holders, worker, api, sequence, digest_of    # noqa: F401 (fixtures)
from busedge import ERR

TOOL_WANTED = ERR["TOOL_WANTED"]
UNKNOWN, LATER, NONE = 0, 1, 2


@pytest.fixture
def world(database, redis_server, edge, service):
    return World(database, redis_server, edge, service)


def limit(world, key, **columns):
    names = ", ".join(columns)
    world.db.sql(f"INSERT INTO mcpgw.key (key_id, {names}) VALUES (%s{', %s' * len(columns)})", world.key_id(key), *columns.values())


# ---- authz: where a key may be used

def test_a_key_from_another_address_is_as_unknown_as_garbage(world):
    world.start()
    key = world.add_key(scopes=["read"])
    limit(world, key, allowed_ips=["10.0.0.0/8", "2001:db8::/32"])
    unknown = world.ask("mcp_never_made" + "x" * 60, address="192.0.2.1")
    for layer in (POSTGRES, MEMORY):
        for address in ("192.0.2.1", "2001:db9::1", ""):
            for needed in (0, SCOPES["admin"]):
                refused = world.ask(key, needed=needed, address=address)
                assert (refused["error"], refused["reason"]) == (UNVERIFIED, "address")
                told = {name for name, value in refused.items() if value and name not in ("reason", "key_id", "layer")}
                assert told == {name for name, value in unknown.items() if value and name not in ("reason", "layer")}
    for address in ("10.1.2.3", "::ffff:10.1.2.3", "2001:db8::7"):
        assert world.ask(key, address=address)["error"] == OK


def test_a_list_that_nobody_can_read_or_that_is_empty_opens_nothing(world):
    world.start()
    unreadable, empty, nulls = world.add_key(), world.add_key(), world.add_key()
    limit(world, unreadable, allowed_ips=["10.0.0.0/8", "everywhere"])
    limit(world, empty, allowed_ips=[])
    limit(world, nulls, servers=[None])
    assert world.ask(unreadable, address="10.0.0.1")["reason"] == "unusable"
    assert world.ask(empty, address="10.0.0.1")["reason"] == "address"
    assert world.ask(nulls, server="example")["error"] == DENIED


def test_a_key_reaches_its_servers_and_nothing_that_names_none(world):
    world.start()
    key = world.add_key(scopes=["proxy", "admin"])
    limit(world, key, servers=["files"])
    for asked in ({}, {"server": "mail"}, {"server": "file"}):
        refused = world.ask(key, **asked)
        assert (refused["error"], refused["reason"]) == (DENIED, "server")
    assert world.ask(key, server="files")["error"] == OK


def test_a_key_for_some_tools_is_judged_with_the_tool(world):
    world.start()
    key = world.add_key(scopes=["proxy"])
    limit(world, key, tools=["read_file", "stat"])
    assert world.ask(key)["error"] == DENIED
    for asked, error in (({}, DENIED), ({"tool_use": LATER}, TOOL_WANTED), ({"tool_use": NONE}, OK), ({"tool": "stat"}, OK),
                         ({"tool": "write_file"}, DENIED), ({"tool": "write_file", "tool_use": LATER}, DENIED)):
        assert world.ask(key, server="files", **asked)["error"] == error, asked
    assert world.ask(key, needed=SCOPES["admin"], server="files", tool_use=LATER)["reason"] == "scope"


def test_limits_are_kept_in_redis_and_end_with_a_change(world):
    world.start()
    key = world.add_key(scopes=["read"])
    limit(world, key, allowed_ips=["10.0.0.0/8"], servers=["files"], tools=["stat"])
    asked = {"address": "10.0.0.1", "server": "files", "tool": "stat"}
    assert world.ask(key, **asked)["layer"] == POSTGRES
    first = world.process
    world.start()
    first.stop()
    found = world.ask(key, **asked)
    assert (found["error"], found["layer"]) == (OK, REDIS)
    assert world.ask(key, **{**asked, "tool": "rm"})["error"] == DENIED
    assert world.ask(key, **{**asked, "address": "192.0.2.1"})["error"] == UNVERIFIED
    world.change("UPDATE mcpgw.key SET allowed_ips = %s", ["192.0.2.0/24"])
    assert world.ask(key, **asked)["error"] == UNVERIFIED
    assert world.ask(key, **{**asked, "address": "192.0.2.1"})["error"] == OK


# ---- keys: limits

def test_limits_are_stored_in_one_form_shown_and_lifted(api, database):
    made = api.create(allowedIps=["10.0.0.0/8", "192.0.2.7/32"], servers=["files"], tools=["stat"], environment="production")
    assert (made["allowedIps"], made["servers"], made["tools"], made["environment"]) == (
        ["10.0.0.0/8", "192.0.2.7"], ["files"], ["stat"], "production")
    before = sequence(database)
    changed = api.ok("key_update", object=made["id"], body={"allowedIps": None, "tools": ["stat", "read file"]})
    assert (changed["allowedIps"], changed["servers"], changed["tools"]) == (None, ["files"], ["stat", "read file"])
    assert sequence(database) == before + 1 and changed["applied"]["of"] == 1
    assert database.sql("SELECT event, details -> 'changed' FROM mcpgw.outbox ORDER BY sequence DESC LIMIT 1") == [
        ("key.updated", ["allowedIps", "tools"])]
    context = api.ok("key_verify", body={"key": made["key"]})["context"]
    assert (context["allowedIps"], context["servers"], context["tools"]) == (None, ["files"], ["stat", "read file"])
    assert api.ok("key_update", object=made["id"], body={"name": "x"})["servers"] == ["files"]


# ---- rotation

def former_of(database):
    return database.sql("SELECT digest, key_id FROM mcpgw.former")


def test_a_rotation_without_overlap_ends_the_old_value(api, database):
    made = api.create(scopes=["read", "proxy"], allowedIps=["10.0.0.0/8"])
    rotated = api.ok("key_rotate", object=made["id"], body={"overlap": 0})
    assert rotated["key"] != made["key"] and rotated["id"] == made["id"] and rotated["applied"]["of"] == 1
    for field in ("name", "scopes", "expiresAt", "allowedIps", "createdAt", "userId"):
        assert rotated[field] == made[field]
    assert former_of(database) == []
    assert api.ok("key_verify", body={"key": made["key"]})["error"] == "KEY_UNKNOWN"
    assert api.ok("key_verify", body={"key": rotated["key"]})["isValid"]
    assert {row[0] for row in database.sql("SELECT event FROM mcpgw.outbox WHERE key_id = %s", made["id"])} == {"key.created", "key.rotated"}


def test_with_an_overlap_both_values_work_until_it_ends(api, database):
    made = api.create()
    rotated = api.ok("key_rotate", object=made["id"], body={"overlap": 3600})
    assert former_of(database) == [(digest_of(made["key"]), made["id"])]
    assert api.ok("key_verify", body={"key": made["key"]})["isValid"]
    assert api.ok("key_verify", body={"key": rotated["key"]})["isValid"]
    database.sql("UPDATE mcpgw.former SET expires_at = now() - interval '1 ms'")
    assert not api.ok("key_verify", body={"key": made["key"]})["isValid"]
    assert api.ok("key_verify", body={"key": rotated["key"]})["isValid"]


def test_a_rotation_without_overlap_ends_the_values_before_as_well(api, database):
    made = api.create()
    second = api.ok("key_rotate", object=made["id"], body={"overlap": 3600})
    third = api.ok("key_rotate", object=made["id"], body={"overlap": 0})
    assert [api.ok("key_verify", body={"key": key["key"]})["isValid"] for key in (made, second, third)] == [False, False, True]
    assert database.sql("SELECT count(*) FROM mcpgw.change WHERE digest = %s", digest_of(made["key"]))[0][0] >= 2    # caches hear of it


def test_creates_at_the_same_moment_do_not_pass_a_policy_together(api, database):
    api.ok("tenant_create", body={"id": "user:alice", "slug": "alice", "policy": {"maxKeys": 3}}, status=201)
    api.create(ALICE)
    create = {"operation": OPERATIONS["key_create"], "body": b'{"scopes": ["read"]}', "address": "192.0.2.1", **ALICE}
    replies = api.edge.call_many("keys", [("manage_request", {**create, "request_id": f"at-once-{i}"}) for i in range(8)])
    assert sorted(reply["status"] for reply in replies) == [201] * 2 + [422] * 6
    assert {reply["code"] for reply in replies} == {"", "tenant_policy"}
    assert database.sql("SELECT mcpgw.keys_in_tenant('user:alice')") == [(3,)]


def test_a_key_that_lives_again_counts_against_a_policy(api, database):
    api.ok("tenant_create", body={"id": "user:alice", "slug": "alice", "policy": {"maxKeys": 2}}, status=201)
    late, disabled = api.create(ALICE), api.create(ALICE)
    database.sql('UPDATE apikey SET "expiresAt" = now() - interval \'1 s\' WHERE id = %s', late["id"])
    api.ok("key_disable", ALICE, object=disabled["id"])
    third = api.create(ALICE)
    for body in ({"expiresIn": 60}, {"expiresAt": None}):
        api.refused(422, "tenant_policy", "key_update", ALICE, body, object=late["id"])
    assert database.sql('SELECT "expiresAt" < now() FROM apikey WHERE id = %s', late["id"]) == [(True,)]
    api.ok("key_enable", ALICE, object=disabled["id"])                 # was counted all the time
    api.ok("key_update", ALICE, {"expiresIn": 60}, object=third["id"])
    api.ok("key_delete", ALICE, object=third["id"])
    update = {"operation": OPERATIONS["key_update"], "body": b'{"expiresIn": 60}', "address": "192.0.2.1", "object": late["id"], **ALICE}
    assert api.edge.call_many("keys", [("manage_request", {**update, "request_id": "lives-again"})])[0]["status"] == 200
    assert database.sql("SELECT mcpgw.keys_in_tenant('user:alice')") == [(2,)]


def test_a_repeated_rotation_replaces_the_value_that_was_never_shown(api, database):
    made = api.create()
    again = {"object": made["id"], "body": {"overlap": 60}, "request_id": "rotate-1"}
    first, second = api.ok("key_rotate", **again), api.ok("key_rotate", **again)
    assert first["key"] != second["key"] and len(former_of(database)) == 1
    assert [api.ok("key_verify", body={"key": key})["isValid"] for key in (made["key"], first["key"], second["key"])] == [
        True, False, True]
    api.ok("key_rotate", object=made["id"], body={"overlap": 0})
    api.refused(409, "key_changed", "key_rotate", **again)


def test_rotations_that_cannot_be_are_refused(api, database):
    made = api.create()
    for body in ({"overlap": -1}, {"overlap": "1h"}, {"overlap": 2592001}, {"overlap": None}, {"grace": 5}, []):
        api.refused(422, "unprocessable", "key_rotate", object=made["id"], body=body)
    api.refused(404, "not_found", "key_rotate", ALICE, object=made["id"])
    for _ in range(4):
        api.ok("key_rotate", object=made["id"])
    api.refused(409, "key_changed", "key_rotate", object=made["id"])
    api.ok("key_rotate", object=made["id"], body={"overlap": 0})
    api.ok("key_revoke", object=made["id"])
    api.refused(409, "key_revoked", "key_rotate", object=made["id"])
    assert not api.ok("key_verify", body={"key": made["key"]})["isValid"]


def test_a_former_value_has_the_facts_of_the_key_and_ends_on_time(world):
    world.start()
    key, successor = world.add_key(scopes=["proxy"]), "mcp_successor" + "y" * 56
    key_id = world.key_id(key)
    assert world.ask(key)["error"] == OK
    world.change("WITH f AS (INSERT INTO mcpgw.former SELECT key, id, now() + interval '1 hour' FROM apikey WHERE id = %s)"
                 " UPDATE apikey SET key = %s WHERE id = %s", key_id, digest_text(successor), key_id)
    old, new = world.ask(key), world.ask(successor)
    assert (old["error"], old["key_id"], new["error"], new["expires_s"]) == (OK, key_id, OK, 0) and old["expires_s"] > 0
    world.change("UPDATE apikey SET enabled = false WHERE id = %s", key_id)
    assert world.ask(key)["reason"] == world.ask(successor)["reason"] == "disabled"
    world.change("UPDATE apikey SET enabled = true WHERE id = %s", key_id)
    world.change("UPDATE mcpgw.former SET expires_at = now() - interval '1 ms'")
    assert world.ask(key)["reason"] == "expired" and world.ask(successor)["error"] == OK


# ---- policies and notices

def tenant(database, **policy):
    names = "".join(f", {name}" for name in policy)
    database.sql(f"INSERT INTO mcpgw.tenant (id, slug{names}) VALUES ('user:alice', 'alice'{', %s' * len(policy)})", *policy.values())


def test_a_policy_holds_for_everybody(api, database):
    tenant(database, max_life_s=3600, scopes="read proxy", max_keys=2)
    for who, more in ((ALICE, {}), (None, {"userId": "alice"})):
        who = who or {"user_id": "admin", "tenant_id": "user:admin", "scopes": SCOPES["admin"]}
        assert api.refused(422, "tenant_policy", "key_create", who, body={"scopes": ["write"], **more})["field"] == "scopes"
        for expiry in (3601, None):
            assert api.refused(422, "tenant_policy", "key_create", who, body={"scopes": ["read"], "expiresIn": expiry, **more})["field"] == "expiresIn"
    made = api.create(ALICE, scopes=["read"])
    assert database.sql('SELECT extract(epoch FROM "expiresAt" - "createdAt") FROM apikey')[0][0] == 3600
    again = {"body": {"scopes": ["read"]}, "request_id": "second"}
    assert api.ok("key_create", ALICE, status=201, **again)["id"] == api.ok("key_create", ALICE, status=201, **again)["id"]
    api.refused(422, "tenant_policy", "key_create", ALICE, body={"scopes": ["read"]})
    api.refused(422, "tenant_policy", "key_update", ALICE, object=made["id"], body={"expiresAt": None})
    api.refused(422, "tenant_policy", "key_update", ALICE, object=made["id"], body={"scopes": ["write"]})
    api.ok("key_revoke", ALICE, object=made["id"])
    api.create(ALICE, scopes=["read"])


@pytest.fixture
def instances(database, edge, service):
    """Two workers that look at keys every second."""
    for user in ("admin", "alice", "bob"):
        add_user(database, user)
    for _ in range(2):
        service("keys", MCPGW_DATABASE_URL=database.url("mcpgw_keys"), MCPGW_KEY_LIFE_S="1").wait_ready()
    edge.wait_worker("keys")
    tell_holders(edge)
    return edge


def tell_of_uses(database):
    """One event of now that has been counted: what there was before is known."""
    database.sql("""INSERT INTO audit.batch (producer, epoch, first_seq, last_seq, count, first_at, last_at, at, event, outcome, reason, request_id,
                    user_id, tenant_id, auth_method, key_id, address, method, path, server, tool, status, latency_us, bytes, requests, details, keys, users)
                    SELECT '00000000-0000-7000-8000-0000000000ff', 1, 1, 1, 1, now(), now(), ARRAY[now()], o, o, o, o, o, o, o, o, o, o, o, o, o,
                           ARRAY[0], ARRAY[0], ARRAY[0], ARRAY[0], ARRAY['{}'], '{}', '{}' FROM (SELECT ARRAY['']) x (o)""")
    database.sql("""INSERT INTO audit.watermark (producer, epoch, next_seq, consumer_token) VALUES ('00000000-0000-7000-8000-0000000000ff', 1, 2, 1)""")
    database.sql("SELECT mcpgw.settle_uses('ignore_default', 16)")


def test_time_ends_keys_once_whoever_looks(instances, database):
    from conftest import wait_until
    api = Api(instances)
    old, idle, busy, other = (api.create(who, scopes=["read"]) for who in (ALICE, ALICE, ALICE, BOB))
    database.sql("""UPDATE apikey SET "createdAt" = now() - interval '10 days', "updatedAt" = now() - interval '10 days' WHERE id <> %s""", old["id"])
    database.sql("""UPDATE apikey SET "createdAt" = now() - interval '40 days' WHERE id = %s""", old["id"])
    database.sql("""UPDATE apikey SET "lastRequest" = now() WHERE id <> %s""", idle["id"])
    tell_of_uses(database)
    tenant(database, rotate_after_s=30 * 86400, idle_after_s=5 * 86400)
    ended = "SELECT key_id, reason FROM mcpgw.outbox WHERE event = 'key.disabled' ORDER BY reason"
    wait_until(lambda: len(database.sql(ended)) == 2, what="both are disabled")
    assert database.sql(ended) == [(old["id"], "policy: not rotated in time"), (idle["id"], "policy: unused for too long")]
    assert database.sql("SELECT id FROM apikey WHERE enabled AND id = ANY(%s) ORDER BY id", [busy["id"], other["id"]]) == [
        (i,) for i in sorted([busy["id"], other["id"]])]
    api.ok("key_enable", object=idle["id"])                            # it has a new time to be used in
    assert database.sql("SELECT mcpgw.disable_overdue(true)") == [(0,)]
    assert database.sql("SELECT enabled FROM apikey WHERE id = %s", idle["id"]) == [(True,)]


def test_an_expiry_is_told_once_for_each_step(instances, database):
    from conftest import wait_until
    api = Api(instances)
    near, later, far = (api.create(ALICE, scopes=["read"], expiresIn=90 * 86400) for _ in range(3))
    short = api.create(ALICE, scopes=["read"], expiresIn=5 * 86400)
    events = lambda: database.sql("SELECT key_id, (details ->> 'days')::int FROM mcpgw.outbox WHERE event = 'key.expiring' ORDER BY sequence")    # noqa: E731
    age = """UPDATE apikey SET "expiresAt" = now() + make_interval(hours => %s), "createdAt" = now() - interval '80 days' WHERE id = %s"""
    database.sql(age, 13 * 24, later["id"])
    database.sql(age, 6, near["id"])
    wait_until(lambda: len(events()) >= 2, what="both are told")
    database.sql("""UPDATE apikey SET "expiresAt" = now() + interval '30 hours', "createdAt" = now() - interval '80 days' WHERE id = %s""", far["id"])
    wait_until(lambda: len(events()) >= 3, what="the third is told")
    assert sorted(events()) == sorted([(near["id"], 1), (later["id"], 14), (far["id"], 7)]) and short["id"]
    kinds = database.sql("SELECT DISTINCT c.kind FROM mcpgw.change c JOIN mcpgw.outbox o USING (sequence) WHERE o.event = 'key.expiring'")
    assert kinds == [(8,)]


# ---- Idempotency-Key, If-Match, lists

def test_an_idempotency_key_is_one_request_of_one_user(api):
    fields = {"body": {"scopes": ["read"], "name": "once"}, "idempotency_key": "order-1"}
    first, second = api.ok("key_create", ALICE, status=201, **fields), api.ok("key_create", ALICE, status=201, **fields)
    assert first["id"] == second["id"] and first["key"] != second["key"]
    other = {**fields, "body": {"scopes": ["read"], "name": "twice"}}
    api.refused(422, "idempotency_key_reused", "key_create", ALICE, **other)
    api.refused(422, "idempotency_key_reused", "key_delete", ALICE, object=first["id"], idempotency_key="order-1")
    assert api.ok("key_create", BOB, status=201, **other)["id"] != first["id"]
    assert [item["name"] for item in api.ok("key_list", ALICE)["items"]] == ["once"]


def test_a_change_bound_to_a_tag_is_made_to_that_state_only(api, database):
    reply = api("key_create", body={"scopes": ["read"]})
    made = reply.json
    assert reply["etag"] == f'"{made["etag"]}"' and api("key_get", object=made["id"])["etag"] == reply["etag"]
    changed = api("key_update", object=made["id"], body={"name": "a"}, if_match=f'W/"x", {reply["etag"]}')
    assert changed["status"] == 200 and changed["etag"] != reply["etag"]
    for operation, body in (("key_update", {"name": "b"}), ("key_delete", None), ("key_revoke", None), ("key_rotate", {"overlap": 0})):
        for tags in (reply["etag"], f'W/{changed["etag"]}', '"nonsense"'):
            api.refused(412, "precondition_failed", operation, object=made["id"], body=body, if_match=tags)
    assert api("key_get", object=made["id"])["etag"] == changed["etag"]
    for tags in ("x", '"a', '"a" b', 'w/"a"'):
        api.refused(400, "if_match", "key_update", object=made["id"], body={"name": "b"}, if_match=tags)
    api.refused(400, "if_match", "key_create", body={"scopes": ["read"]}, if_match='"a"')
    api.refused(404, "not_found", "key_update", object="gone", body={"name": "b"}, if_match=changed["etag"])
    database.sql("UPDATE apikey SET \"lastRequest\" = now(), \"requestCount\" = 7 WHERE id = %s", made["id"])
    api.ok("key_update", object=made["id"], body={"tools": ["t"]}, if_match=changed["etag"])
    api.refused(412, "precondition_failed", "key_delete", object=made["id"], if_match=changed["etag"])
    api.ok("key_delete", object=made["id"], if_match="*")


@pytest.mark.parametrize("kind, make, other, changes", [
    ("server", {"slug": "s", "url": "http://127.0.0.1:1/"}, {"enabled": False}, [("update", {"name": "n"}), ("delete", None)]),
    ("tenant", {"slug": "t"}, {"name": "other"}, [("update", {"name": "n"}), ("suspend", None), ("resume", None), ("delete", None)]),
])
def test_changes_of_servers_and_tenants_are_bound_to_tags_too(api, database, kind, make, other, changes):
    made = api(f"{kind}_create", body=make)
    id = made.json["slug" if kind == "server" else "id"]
    assert made["etag"] == f'"{made.json["etag"]}"' == api(f"{kind}_get", object=id)["etag"]
    changed = api(f"{kind}_update", object=id, body=other, if_match=made["etag"])
    assert changed["status"] == 200 and changed["etag"] != made["etag"]
    before = database.sql("SELECT value FROM mcpgw.change_sequence")
    for what, body in changes:
        for tags in (made["etag"], f'W/{changed["etag"]}'):
            api.refused(412, "precondition_failed", f"{kind}_{what}", object=id, body=body, if_match=tags)
        api.refused(404, "not_found", f"{kind}_{what}", object="gone", body=body, if_match=made["etag"])
    assert api(f"{kind}_get", object=id)["etag"] == changed["etag"] and database.sql("SELECT value FROM mcpgw.change_sequence") == before
    assert [item["etag"] for item in api.ok(f"{kind}_list")["items"]] == [changed.json["etag"]]
    api.refused(400, "if_match", f"{kind}_create", body=make, if_match=made["etag"])
    last = changed
    for what, body in changes:
        repeated = {"object": id, "body": body, "if_match": f'"x", {last["etag"]}', "request_id": what}
        api.ok(f"{kind}_{what}", **repeated)
        api.ok(f"{kind}_{what}", **repeated)    # the first answer was lost: it is no other state that this asks for
        last = last if what == "delete" else api(f"{kind}_get", object=id)
    api.refused(404, "not_found", f"{kind}_get", object=id)


def test_a_list_is_narrowed_by_what_is_asked(api, database):
    keys = {name: api.create(who, name=name, scopes=["read"], expiresIn=expiry)["id"] for name, who, expiry in (
        ("ci-1", ALICE, 3600), ("ci-2", BOB, None), ("dev", ALICE, 86400 * 30))}
    api.ok("key_disable", object=keys["ci-2"])
    api.ok("key_revoke", object=keys["dev"])
    names = lambda query, *who: [item["name"] for item in api.ok("key_list", *who, query=query)["items"]]    # noqa: E731
    assert names("name=ci-") == ["ci-2", "ci-1"] and names("name=CI") == []
    assert (names("state=active"), names("state=disabled"), names("state=revoked"), names("state=expired")) == (["ci-1"], ["ci-2"], ["dev"], [])
    assert names("user=alice") == ["dev", "ci-1"] and names("user=alice&state=active&name=c") == ["ci-1"]
    assert names("tenant=user:bob") == ["ci-2"] and names("tenant=user:bob", ALICE) == []
    assert names("user=bob", ALICE) == [] and names("state=active", ALICE) == ["ci-1"]
    assert names("expiresBefore=2100-01-01T00:00:00Z") == ["dev", "ci-1"] and names("expiresBefore=2020-01-01T00:00:00Z") == []
    first = api.ok("key_list", query="user=alice&limit=1")
    assert names(f"user=alice&limit=1&cursor={first['next']}") == ["ci-1"]
    for query in ("state=dead", "name=", "user=", "expiresBefore=soon", "outcome=allowed", "state="):
        api.refused(422, "unprocessable", "key_list", query=query)


def test_whatever_of_a_tenant_is_changed_its_tag_changes(api):
    tenant = api("tenant_create", body={"slug": "seen"}).json
    tags = [tenant["etag"]]
    for body in ({"name": "n"}, {"policy": {"keyPrefix": "seen_"}}, {"policy": {"maxKeys": 3}}, {"policy": {"idleAfter": 86400}},
                 {"limits": {"tenant": {"requests": 5, "window": 60}}}, {"limits": {"perUser": {"requests": 5, "window": 60}}}):
        tags.append(api.ok("tenant_update", object=tenant["id"], body=body)["etag"])
    assert len(set(tags)) == len(tags)
