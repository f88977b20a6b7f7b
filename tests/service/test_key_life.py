"""What a key may be limited to and how it lives, at mcpgw-keys and mcpgw-authz alone."""
import pytest

from busedge import SCOPES
from test_authz import DENIED, MEMORY, OK, POSTGRES, REDIS, UNVERIFIED, World, digest_text
from test_keys import ALICE, BOB, Api, add_user, tell_holders, worker, api, sequence, digest_of    # noqa: F401 (fixtures)
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
