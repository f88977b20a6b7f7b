"""mcpgw-authz alone: a real process with its own Postgres and Redis; the test is the edge."""
import base64
import hashlib
import itertools
import json
import signal
import subprocess
import threading
import time

import pytest

from busedge import ERR, SCOPES, TIERS
from conftest import program, wait_until

OK, UNVERIFIED, DENIED, UNAVAILABLE = ERR["OK"], ERR["UNVERIFIED"], ERR["DENIED"], ERR["UNAVAILABLE"]
MEMORY, REDIS, POSTGRES = 1, 2, 3
API_KEY = 1


def digest(key):
    return hashlib.sha256(key.encode()).digest()


def digest_text(key):
    return base64.urlsafe_b64encode(digest(key)).decode().rstrip("=")


class World:
    """A database with user u1, and workers that know it."""
    serial = itertools.count(1)

    def __init__(self, database, redis_server, edge, service):
        self.db, self.redis, self.edge, self.service = database, redis_server, edge, service
        self.add_user("u1")

    def start(self, wait=True, **settings):
        environment = {"MCPGW_DATABASE_URL": self.db.url("mcpgw_authz"), "MCPGW_REDIS_URL": self.redis.url,
                       "MCPGW_CACHE_KEY": "the key of the entries in Redis",
                       "MCPGW_LEASE_MS": "2000"}    # a busy machine must not end it by itself
        environment.update(settings)
        self.process = self.service("authz", **environment)
        if wait:
            self.worker = self.edge.wait_for(
                lambda: next((w for w in self.edge.live_workers("authz") if w.pid == self.process.pid), None),
                timeout=20, what="READY")
        return self.process

    def add_user(self, user):
        self.db.sql('INSERT INTO "user" (id, name, email, "emailVerified", "createdAt", "updatedAt")'
                    " VALUES (%s, %s, %s, true, now(), now())", user, user, f"{user}@example.org")

    def add_organization(self, name, *members):
        self.db.sql('INSERT INTO organization (id, name, slug, "createdAt") VALUES (%s, %s, %s, now())', name, name, name)
        for user in members:
            self.db.sql('INSERT INTO member (id, "organizationId", "userId", role, "createdAt")'
                        " VALUES (%s, %s, %s, 'member', now())", f"{name}-{user}", name, user)

    def add_key(self, reference="u1", scopes=("read",), permissions=None, key=None, **columns):
        """A row as Better-Auth's plugin writes it; returns the key's text."""
        number = next(self.serial)
        key = key or f"mcp_test{number}" + "x" * 56
        row = {"id": f"key{number}", "configId": "default", "referenceId": reference, "key": digest_text(key), "enabled": True,
               "rateLimitEnabled": True, "rateLimitTimeWindow": 86400000, "rateLimitMax": 10, "requestCount": 0,
               "permissions": json.dumps({"mcp": list(scopes)}) if permissions is None else permissions, "metadata": "null",
               **columns}
        names = ", ".join(f'"{name}"' for name in row)
        self.db.sql(f'INSERT INTO apikey ({names}, "createdAt", "updatedAt")'
                    f" VALUES ({', '.join(['%s'] * len(row))}, now(), now())", *row.values())
        return key

    def key_id(self, key):
        return self.db.sql("SELECT id FROM apikey WHERE key = %s", digest_text(key))[0][0]

    def number(self):
        return self.db.sql("SELECT value FROM mcpgw.change_sequence")[0][0]

    def wait_applied(self):
        """Every change made so far is applied by the worker; what it answers from now on must reflect them."""
        number = self.number()
        self.edge.wait_for(lambda: self.worker.applied >= number, what=f"change {number} applied")

    def change(self, text, *values):
        self.db.sql(text, *values)
        self.wait_applied()

    def ask(self, key, needed=0, **fields):
        return self.edge.call("authz", "verdict_request", worker=self.worker,
                              **{"method": API_KEY, "digest": digest(key), "needed": needed, **fields})

    def ask_many(self, keys):
        return self.edge.call_many("authz", [("verdict_request", {"method": API_KEY, "digest": digest(k), "needed": 0})
                                             for k in keys], worker=self.worker)

    def lookups(self):
        return sum(self.db.statements("%mcpgw.credential%").values())


@pytest.fixture
def world(database, redis_server, edge, service):
    return World(database, redis_server, edge, service)


def without(verdict, *names):
    return {name: value for name, value in verdict.items() if name not in names}


# ---- who it is and what it may do

def test_a_valid_key_gives_its_context(world):
    world.start()
    key = world.add_key(scopes=["write", "proxy"], expiresAt="2100-01-01T00:00:00Z", rateLimitMax=7, rateLimitTimeWindow=60000)
    verdict = world.ask(key, needed=SCOPES["read"])
    assert verdict == {
        "error": OK, "reason": "", "user_id": "u1", "tenant_id": "user:u1", "auth_method": API_KEY,
        "scopes": SCOPES["read"] | SCOPES["write"] | SCOPES["proxy"], "tier": TIERS["api_key"], "key_id": world.key_id(key),
        "rate_requests": 7, "rate_window_s": 60, "tenant_rule": 0, "user_rule": 0, "expires_s": 4102444800, "stale": False, "layer": POSTGRES,
        "session_id": "", "client_id": "", "issuer": "", "second_factor": False, "bonds": ""}
    assert without(world.ask(key), "layer") == without(verdict, "layer")


def test_a_key_that_does_not_verify_gets_one_answer_whatever_the_reason(world):
    world.start()
    world.add_user("banned")
    world.add_user("gone")
    keys = {
        "unknown": "mcp_never_made" + "x" * 60,
        "disabled": world.add_key(enabled=False),
        "expired": world.add_key(expiresAt="2020-01-01T00:00:00Z"),
        "revoked": world.add_key(scopes=["admin"]),
        "owner_banned": world.add_key("banned"),
        "owner_missing": world.add_key("gone"),
    }
    world.db.sql("INSERT INTO mcpgw.key (key_id, revoked_at) VALUES (%s, now())", world.key_id(keys["revoked"]))
    world.db.sql("UPDATE \"user\" SET banned = true WHERE id = 'banned'")
    world.db.sql("DELETE FROM \"user\" WHERE id = 'gone'")
    world.wait_applied()
    for layer in (POSTGRES, MEMORY):
        for reason, key in keys.items():
            verdict = world.ask(key, needed=SCOPES["read"])
            assert verdict["reason"] == reason
            assert verdict["layer"] == layer
            assert verdict["key_id"] == ("" if reason == "unknown" else world.key_id(key))
            assert without(verdict, "reason", "key_id", "layer") == {
                "error": UNVERIFIED, "user_id": "", "tenant_id": "", "auth_method": API_KEY, "scopes": 0, "tier": 0,
                "rate_requests": 0, "rate_window_s": 0, "tenant_rule": 0, "user_rule": 0, "expires_s": 0, "stale": False,
                "session_id": "", "client_id": "", "issuer": "", "second_factor": False, "bonds": ""}


def test_enabled_null_and_a_null_limit_are_enabled_and_the_tiers(world):
    world.start()
    key = world.add_key(enabled=None, rateLimitEnabled=None, rateLimitMax=None, rateLimitTimeWindow=None)
    verdict = world.ask(key)
    assert (verdict["error"], verdict["rate_requests"], verdict["rate_window_s"]) == (OK, 0, 0)


def test_the_plugins_default_limit_is_not_a_limit_and_a_disabled_one_neither(world):
    world.start()
    default = world.add_key()
    disabled = world.add_key(rateLimitEnabled=False, rateLimitMax=5, rateLimitTimeWindow=1000)
    unset = world.add_key(rateLimitEnabled=None, rateLimitMax=5, rateLimitTimeWindow=1000)
    assert [world.ask(k)["rate_requests"] for k in (default, disabled, unset)] == [0, 0, 5]


def test_the_tenant_is_the_only_one_it_can_be(world):
    world.add_organization("acme", "u1")
    world.add_user("u2")
    world.start()
    mine, theirs, organizations = world.add_key(), world.add_key("u2"), world.add_key("acme")
    assert world.ask(mine)["tenant_id"] == "acme"
    assert world.ask(theirs)["tenant_id"] == "user:u2"
    verdict = world.ask(organizations)
    assert (verdict["tenant_id"], verdict["user_id"]) == ("acme", "org:acme")

    world.add_organization("globex", "u1")
    world.wait_applied()
    verdict = world.ask(mine)
    assert (verdict["error"], verdict["reason"], verdict["tenant_id"]) == (DENIED, "tenant_ambiguous", "")
    world.change("INSERT INTO mcpgw.key (key_id, tenant_id) VALUES (%s, 'globex')", world.key_id(mine))
    assert world.ask(mine)["tenant_id"] == "globex"


LEAVING = {"removed": "DELETE FROM member WHERE id = 'acme-u1'", "moved": "UPDATE member SET \"organizationId\" = 'globex' WHERE id = 'acme-u1'",
           "truncated": "TRUNCATE member", "organization deleted": "DELETE FROM organization WHERE id = 'acme'"}


@pytest.mark.parametrize("how", LEAVING)
def test_a_key_of_an_organization_ends_when_its_owner_leaves(world, how):
    world.add_organization("globex")
    world.add_organization("acme", "u1")
    world.start()
    bound, unbound, personal, organizations = world.add_key(), world.add_key(), world.add_key(), world.add_key("globex")
    for key, tenant in ((bound, "acme"), (personal, "user:u1")):
        world.db.sql("INSERT INTO mcpgw.key (key_id, tenant_id) VALUES (%s, %s)", world.key_id(key), tenant)
    world.wait_applied()
    assert [world.ask(key)["tenant_id"] for key in (bound, unbound, personal, organizations)] == ["acme", "acme", "user:u1", "globex"]
    world.change(LEAVING[how])
    assert (world.ask(bound)["error"], world.ask(bound)["reason"]) == (UNVERIFIED, "owner_left")
    # Without a name for its tenant it goes on only where its owner has another organization.
    assert (world.ask(unbound)["tenant_id"], world.ask(unbound)["reason"]) == (("globex", "") if how == "moved" else ("", "owner_left"))
    assert [world.ask(key)["error"] for key in (personal, organizations)] == [OK, OK]


def test_who_comes_back_has_the_keys_back_and_who_was_no_member_has_what_was_given(world):
    world.add_organization("acme", "u1")
    world.add_user("u2")
    world.start()
    member, guest = world.add_key(), world.add_key("u2")
    for key in (member, guest):
        world.db.sql("INSERT INTO mcpgw.key (key_id, tenant_id) VALUES (%s, 'acme')", world.key_id(key))
    world.change("DELETE FROM member")
    assert (world.ask(member)["reason"], world.ask(guest)["tenant_id"]) == ("owner_left", "acme")
    later = world.add_key()    # an operator knows who left
    world.change("INSERT INTO mcpgw.key (key_id, tenant_id) VALUES (%s, 'acme')", world.key_id(later))
    assert world.ask(later)["tenant_id"] == "acme"
    world.change("INSERT INTO member VALUES ('again', 'acme', 'u1', 'member', now()), ('twice', 'acme', 'u1', 'member', now())")
    assert world.ask(member)["tenant_id"] == "acme"
    world.change("DELETE FROM member WHERE id = 'twice'")    # the table forbids no second row
    assert world.ask(member)["tenant_id"] == "acme"
    world.change("DELETE FROM member WHERE id = 'again'")
    assert [world.ask(key)["reason"] for key in (member, later)] == ["owner_left", "owner_left"]


@pytest.mark.parametrize("tenant", ["user:u1", "acme", "side"])
def test_a_tenants_limits_stand_in_the_verdict_as_they_are_now(world, tenant):
    def rules(key):
        verdict = world.ask(key)
        return [divmod(verdict[name], 2**32) for name in ("tenant_rule", "user_rule")]

    if tenant == "acme":
        world.add_organization("acme", "u1")
    world.start()
    key, other = world.add_key(), world.add_key(world.add_user("u2") or "u2")
    if tenant == "side":
        world.change("INSERT INTO mcpgw.key (key_id, tenant_id) VALUES (%s, 'side')", world.key_id(key))
    assert rules(key) == rules(other) == [(0, 0), (0, 0)]
    world.change("INSERT INTO mcpgw.tenant (id, slug, limit_requests, limit_window_s) VALUES (%s, 'x', 5000, 60)"
                 " ON CONFLICT (id) DO UPDATE SET limit_requests = 5000, limit_window_s = 60", tenant)
    assert rules(key) == [(5000, 60), (0, 0)] and rules(other) == [(0, 0), (0, 0)]
    world.change("UPDATE mcpgw.tenant SET limit_requests = NULL, limit_window_s = NULL, user_limit_requests = 7, user_limit_window_s = 2147483"
                 " WHERE id = %s", tenant)
    assert rules(key) == [(0, 0), (7, 2147483)] and world.ask(key)["layer"] == MEMORY
    world.change("UPDATE mcpgw.tenant SET user_limit_requests = NULL, user_limit_window_s = NULL WHERE id = %s", tenant)
    assert rules(key) == [(0, 0), (0, 0)]


def test_an_organizations_key_is_under_the_tenants_limit_and_no_users(world):
    world.add_organization("acme", "u1")
    world.start()
    world.change("UPDATE mcpgw.tenant SET limit_requests = 9, limit_window_s = 60, user_limit_requests = 3, user_limit_window_s = 60")
    verdict = world.ask(world.add_key("acme"))
    assert (verdict["user_id"], verdict["tenant_rule"], verdict["user_rule"]) == ("org:acme", 9 << 32 | 60, 0)
    assert world.ask(world.add_key("u1"))["user_rule"] == 3 << 32 | 60


@pytest.mark.parametrize("tenant", ["user:u1", "acme", "side"])
def test_a_suspended_tenants_keys_are_refused_at_once_and_work_again_when_it_is_resumed(world, tenant):
    if tenant == "acme":
        world.add_organization("acme", "u1")
    world.start()
    key, other = world.add_key(), world.add_key(world.add_user("u2") or "u2")
    if tenant == "side":
        world.change("INSERT INTO mcpgw.key (key_id, tenant_id) VALUES (%s, 'side')", world.key_id(key))
    assert world.ask(key)["error"] == world.ask(other)["error"] == OK
    world.change("INSERT INTO mcpgw.tenant (id, slug, state) VALUES (%s, 'x', 'suspended')"
                 " ON CONFLICT (id) DO UPDATE SET state = 'suspended'", tenant)
    verdict = world.ask(key)
    assert (verdict["error"], verdict["reason"], verdict["tenant_id"]) == (DENIED, "tenant_suspended", tenant)
    assert world.ask(other)["error"] == OK
    world.change("UPDATE mcpgw.tenant SET state = 'active' WHERE id = %s", tenant)
    assert world.ask(key)["error"] == OK


def test_each_scope_is_needed_where_it_is_named(world):
    world.start()
    keys = {name: world.add_key(scopes=[name]) for name in SCOPES}
    implied = {"write": {"read"}, "admin": set(SCOPES)}
    for held, key in keys.items():
        for needed, bit in SCOPES.items():
            verdict = world.ask(key, needed=bit)
            allowed = needed == held or needed in implied.get(held, ())
            assert verdict["error"] == (OK if allowed else DENIED), (held, needed)
            assert verdict["reason"] == ("" if allowed else "scope")
            assert verdict["tier"] == TIERS["admin" if held == "admin" else "api_key"]


def test_a_flat_list_a_string_and_broken_json_give_no_scope(world):
    world.start()
    for permissions in ('["admin"]', '{"mcp":"admin"}', '{"mcp":["admin"', '{"other":["admin"]}', ""):
        verdict = world.ask(world.add_key(permissions=permissions), needed=SCOPES["read"])
        assert (verdict["error"], verdict["reason"], verdict["scopes"]) == (DENIED, "scope", 0), permissions


def test_two_rows_of_one_digest_verify_nothing(world):
    world.start()
    key = world.add_key()
    assert world.ask(key)["error"] == OK
    world.add_key(key=key, scopes=["admin"])
    world.wait_applied()
    assert world.ask(key)["error"] == UNVERIFIED


def test_another_method_and_a_short_digest_are_unverified(world):
    world.start()
    key = world.add_key()
    assert world.ask(key, method=2)["error"] == UNVERIFIED
    assert world.ask(key, digest=digest(key)[:31])["error"] == UNVERIFIED
    assert world.ask(key)["error"] == OK


# ---- layers

def test_a_thousand_warm_requests_cause_no_statement(world):
    world.start()
    keys = [world.add_key() for _ in range(20)] + ["mcp_unknown%d" % i + "x" * 60 for i in range(5)]
    world.wait_applied()
    world.ask_many(keys)
    world.db.reset_statements()
    gets = world.redis.client().info("stats")["total_commands_processed"]
    verdicts = world.ask_many(keys * 40)
    assert len(verdicts) == 1000
    assert {v["layer"] for v in verdicts} == {MEMORY}
    assert [v["error"] for v in verdicts[:25]] == [OK] * 20 + [UNVERIFIED] * 5
    assert world.lookups() == 0
    assert all("mcpgw.change" in s or "triggers" in s for s in world.db.statements()), world.db.statements()
    assert world.redis.client().info("stats")["total_commands_processed"] - gets < 10
    metrics = world.process.metrics()
    assert metrics['mcpgw_cache_hits_total{layer="memory"}'] == 800
    assert metrics['mcpgw_cache_hits_total{layer="negative"}'] == 200
    assert metrics['mcpgw_cache_entries{kind="known"}'] <= 20


def test_what_one_worker_read_another_finds_in_redis(world):
    world.start()
    key = world.add_key()
    assert world.ask(key)["layer"] == POSTGRES
    wait_until(lambda: world.redis.client().exists("mcpgw:v:" + digest_text(key)), what="entry in Redis")
    assert 0 < world.redis.client().ttl("mcpgw:v:" + digest_text(key)) <= 300
    world.start()
    world.db.reset_statements()
    first = wait_until(lambda: world.ask(key), what="verdict")
    assert (first["error"], first["layer"]) == (OK, REDIS)
    assert world.ask(key)["layer"] == MEMORY
    assert world.lookups() == 0


def test_unknown_keys_do_not_reach_redis(world):
    world.start()
    world.ask_many(["mcp_junk%d" % i for i in range(100)])
    assert world.redis.client().dbsize() == 0


def test_a_lost_redis_refuses_no_valid_key(world):
    world.start()
    keys = [world.add_key() for _ in range(30)]
    assert {v["error"] for v in world.ask_many(keys[:10])} == {OK}
    world.redis.stop()
    assert {v["error"] for v in world.ask_many(keys[:20])} == {OK}
    assert world.process.readyz()[0] == 200
    world.redis.start()
    wait_until(lambda: world.process.metrics()['mcpgw_store_up{store="redis"}'] == 1, what="Redis again")
    assert {v["error"] for v in world.ask_many(keys)} == {OK}


def test_a_redis_that_hangs_refuses_no_valid_key(world):
    world.start()
    keys = [world.add_key() for _ in range(20)]
    world.redis.process.send_signal(signal.SIGSTOP)
    try:
        assert {v["error"] for v in world.ask_many(keys)} == {OK}
    finally:
        world.redis.process.send_signal(signal.SIGCONT)


def test_no_redis_configured_is_no_fault(world):
    world.start(MCPGW_REDIS_URL="")
    assert world.ask(world.add_key())["error"] == OK


def test_a_forged_or_foreign_redis_entry_is_not_used(world):
    world.start()
    good, disabled = world.add_key(scopes=["admin"]), world.add_key(enabled=False)
    world.ask_many([good, disabled])
    client = world.redis.client()
    name = "mcpgw:v:" + digest_text(good)
    entry = wait_until(lambda: client.get(name), what="entry in Redis")
    unknown = "mcp_unknown" + "x" * 60
    client.set("mcpgw:v:" + digest_text(disabled), entry)
    client.set("mcpgw:v:" + digest_text(unknown), entry)
    flipped = bytearray(entry)
    flipped[len(flipped) - 50] ^= 1
    client.set(name, bytes(flipped))
    world.start()
    assert world.ask(disabled)["reason"] == "disabled"
    assert world.ask(unknown)["reason"] == "unknown"
    verdict = world.ask(good)
    assert (verdict["error"], verdict["layer"]) == (OK, POSTGRES)
    for junk in (b"", b"MGV", b"\x00" * 5000):
        client.set(name, junk)
        world.start()
        assert (world.ask(good)["error"], world.worker.live) == (OK, True)
    client.delete(name)
    client.rpush(name, "a list")
    world.start()
    assert world.ask(good)["error"] == OK


def test_an_entry_of_another_cache_key_or_resource_is_not_used(world):
    world.start()
    key = world.add_key(permissions='{"mcp":["admin"],"gateway":["read"]}')
    assert world.ask(key)["scopes"] == 63
    wait_until(lambda: world.redis.client().dbsize() == 1, what="entry in Redis")
    world.start(MCPGW_CACHE_KEY="another key")
    assert world.ask(key)["layer"] == POSTGRES
    world.start(MCPGW_PERMISSION_RESOURCE="gateway")
    verdict = world.ask(key)
    assert (verdict["layer"], verdict["scopes"]) == (POSTGRES, 1)


def test_an_old_redis_entry_is_not_used(world):
    world.start()
    key, quiet = world.add_key(), world.add_key()
    world.wait_applied()
    world.ask_many([key, quiet])
    name = "mcpgw:v:" + digest_text(key)
    entry = wait_until(lambda: world.redis.client().get(name), what="entry in Redis")
    world.change("UPDATE apikey SET enabled = false WHERE key = %s", digest_text(key))
    world.redis.client().set(name, entry)
    world.start()
    assert world.ask(key)["reason"] == "disabled"
    assert world.ask(quiet)["layer"] == REDIS


def test_misses_of_one_digest_share_one_lookup_and_a_locked_table_ends_no_lease(world):
    world.start(MCPGW_REDIS_URL="")
    warm, cold = world.add_key(), world.add_key()
    world.wait_applied()
    world.ask(warm)
    world.db.reset_statements()
    done = []
    with world.db.server.connect(world.db.name) as holder:
        with holder.transaction():
            holder.execute("LOCK TABLE apikey IN ACCESS EXCLUSIVE MODE")
            thread = threading.Thread(target=lambda: done.extend(world.ask_many([cold] * 200)))
            thread.start()
            wait_until(lambda: world.process.metrics()["mcpgw_lookups_joined_total"] == 199, what="199 joined")
            verdict = world.ask(warm)
            assert (verdict["error"], verdict["stale"]) == (OK, False)
        thread.join()
    assert {v["error"] for v in done} == {OK}
    assert world.lookups() == 1


def test_more_lookups_than_there_is_room_for_are_unavailable_and_not_unverified(world):
    world.start(MCPGW_REDIS_URL="")
    keys = ["mcp_flood%d" % i for i in range(700)]
    done, reasons = [], []
    world.edge.on["verdict"] = lambda edge, message: reasons.append(message["reason"])
    with world.db.server.connect(world.db.name) as holder:
        with holder.transaction():
            holder.execute("LOCK TABLE apikey IN ACCESS EXCLUSIVE MODE")
            thread = threading.Thread(target=lambda: done.extend(world.ask_many(keys)))
            thread.start()
            wait_until(lambda: reasons.count("overloaded") == 700 - 512, what="overloaded")
        thread.join()
    assert {v["error"] for v in done} <= {UNVERIFIED, UNAVAILABLE}
    assert {v["error"] for v in done if v["reason"] == "overloaded"} == {UNAVAILABLE}


# ---- changes

def test_a_change_by_plain_sql_is_felt_by_the_time_it_is_told_as_applied(world):
    world.start()
    key = world.add_key()
    where = f"WHERE key = '{digest_text(key)}'"
    assert world.ask(key)["error"] == OK
    world.change(f"UPDATE apikey SET enabled = false {where}")
    assert world.ask(key)["reason"] == "disabled"
    world.change(f"UPDATE apikey SET enabled = true {where}")
    assert world.ask(key)["error"] == OK
    world.change(f"UPDATE apikey SET permissions = '{{\"mcp\":[\"admin\"]}}' {where}")
    assert world.ask(key)["tier"] == TIERS["admin"]
    world.change(f"UPDATE apikey SET \"expiresAt\" = now() - interval '1 s' {where}")
    assert world.ask(key)["reason"] == "expired"
    world.change(f"UPDATE apikey SET \"expiresAt\" = 'infinity' {where}")
    assert (world.ask(key)["error"], world.ask(key)["expires_s"]) == (OK, 0)
    world.change(f"UPDATE apikey SET \"expiresAt\" = '1960-01-01' {where}")
    assert world.ask(key)["reason"] == "expired"
    world.change(f"UPDATE apikey SET \"expiresAt\" = NULL {where}")
    world.change("UPDATE \"user\" SET banned = true WHERE id = 'u1'")
    assert world.ask(key)["reason"] == "owner_banned"
    world.change("UPDATE \"user\" SET banned = false WHERE id = 'u1'")
    assert world.ask(key)["error"] == OK
    world.change("INSERT INTO mcpgw.key (key_id, revoked_at) VALUES (%s, now())", world.key_id(key))
    assert world.ask(key)["reason"] == "revoked"
    world.change(f"DELETE FROM apikey {where}")
    assert world.ask(key)["reason"] == "unknown"


def test_a_change_is_felt_without_being_told_anything(world):
    """Also when the notification is lost: the next read of the number finds it."""
    world.start()
    key = world.add_key()
    assert world.ask(key)["error"] == OK
    world.db.sql("UPDATE apikey SET enabled = false WHERE key = %s", digest_text(key))
    wait_until(lambda: world.ask(key)["reason"] == "disabled", what="disabled")


def test_a_key_given_another_secret_dies_under_the_old_one(world):
    world.start()
    key, other = world.add_key(), "mcp_other" + "y" * 60
    assert (world.ask(key)["error"], world.ask(other)["error"]) == (OK, UNVERIFIED)
    world.change("UPDATE apikey SET key = %s WHERE key = %s", digest_text(other), digest_text(key))
    assert (world.ask(key)["error"], world.ask(other)["error"]) == (UNVERIFIED, OK)


def test_inserting_a_key_ends_its_negative_entry(world):
    world.start()
    key = "mcp_later" + "z" * 60
    assert [world.ask(key)["layer"] for _ in range(2)] == [POSTGRES, MEMORY]
    world.add_key(key=key)
    world.wait_applied()
    assert world.ask(key)["error"] == OK


def test_a_truncated_table_leaves_no_key(world):
    world.start()
    key = world.add_key()
    assert world.ask(key)["error"] == OK
    world.change("TRUNCATE apikey")
    assert world.ask(key)["reason"] == "unknown"


def test_use_by_better_auth_itself_is_no_change(world):
    world.start()
    key = world.add_key(remaining=40)
    world.wait_applied()
    world.ask(key)
    before = world.number()
    world.db.sql('UPDATE apikey SET "lastRequest" = now(), "requestCount" = 5, remaining = remaining - 1, "updatedAt" = now()')
    assert world.number() == before
    assert world.ask(key)["layer"] == MEMORY


def test_no_answer_is_older_than_what_was_told_as_applied_while_others_ask(world):
    """Look-ups and changes race: an older answer must never replace a newer fact."""
    world.start()
    key = world.add_key()
    stop = threading.Event()
    errors = set()

    def keep_asking():
        while not stop.is_set():
            errors.update(v["error"] for v in world.ask_many([key] * 20))

    threads = [threading.Thread(target=keep_asking) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for turn in range(60):
            world.change("UPDATE apikey SET enabled = %s WHERE key = %s", turn % 2 == 1, digest_text(key))
            assert world.ask(key)["error"] == (OK if turn % 2 else UNVERIFIED), turn
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert errors == {OK, UNVERIFIED}


def test_change_rows_that_are_gone_before_they_were_read_end_everything(world):
    world.start()
    key = world.add_key()
    world.wait_applied()
    assert world.ask(key)["error"] == OK
    world.process.signal(signal.SIGSTOP)
    with world.db.server.connect(world.db.name) as c, c.transaction():
        c.execute("UPDATE apikey SET enabled = false WHERE key = %s", [digest_text(key)])
        c.execute("SET CONSTRAINTS ALL IMMEDIATE")
        c.execute("DELETE FROM mcpgw.change")
    world.process.signal(signal.SIGCONT)
    wait_until(lambda: world.ask(key)["error"] == UNVERIFIED, what="disabled")
    assert world.process.events("change_rows_missing")


def test_a_bulk_of_changes_is_applied_in_pages(world):
    world.start()
    keys = [world.add_key() for _ in range(3)]
    world.ask_many(keys)
    world.db.sql("INSERT INTO apikey (id, \"configId\", \"referenceId\", key, \"createdAt\", \"updatedAt\")"
                 " SELECT 'bulk' || n, 'default', 'u1', 'no digest ' || n, now(), now() FROM generate_series(1, 5000) n")
    world.change("UPDATE apikey SET enabled = false WHERE id LIKE 'key%%'")
    assert {v["reason"] for v in world.ask_many(keys)} == {"disabled"}


# ---- leases

def collect_until(world, key, done, timeout=30):
    """Asks again and again; returns all verdicts up to the first for which done() is true."""
    verdicts = []

    def ask():
        verdicts.append(world.ask(key))
        return done(verdicts[-1])
    try:
        wait_until(ask, timeout, "verdict")
    except AssertionError:
        raise AssertionError(f"not within {timeout} s; last {verdicts[-1]}\n{world.process.log()[-2000:]}") from None
    return verdicts


def test_a_stopped_postgres_gives_stale_verdicts_then_503_and_never_401(world):
    world.start(MCPGW_STALE_GRACE_MS="1500")
    warm, cold, disabled = world.add_key(), world.add_key(), world.add_key(enabled=False)
    world.wait_applied()
    world.ask_many([warm, disabled])
    world.db.server.stop()
    verdicts = collect_until(world, warm, lambda v: v["stale"])
    assert {v["error"] for v in verdicts} == {OK}
    assert world.ask(cold)["error"] == UNAVAILABLE
    assert (world.ask(disabled)["error"], world.ask(disabled)["stale"]) == (UNVERIFIED, True)
    assert world.process.metrics()["mcpgw_verdicts_stale_total"] > 0
    verdicts = collect_until(world, warm, lambda v: v["error"] != OK)
    assert all(v["stale"] for v in verdicts[:-1])
    for key in (warm, cold, disabled, "mcp_unknown"):
        assert (world.ask(key)["error"], world.ask(key)["stale"]) == (UNAVAILABLE, False)
    status, body = world.process.readyz()
    assert (status, body["facts"]["lease"]) == (503, False)

    world.db.server.start()
    collect_until(world, warm, lambda v: v["error"] == OK and not v["stale"])
    collect_until(world, cold, lambda v: v["error"] == OK)    # its connection comes back by itself, a moment later
    world.process.wait_ready()


def test_without_grace_nothing_is_stale(world):
    world.start(MCPGW_STALE_GRACE_MS="0")
    key = world.add_key()
    assert world.ask(key)["error"] == OK
    world.db.server.stop()
    verdicts = collect_until(world, key, lambda v: v["error"] != OK)
    assert {v["error"] for v in verdicts} == {OK, UNAVAILABLE}
    assert not any(v["stale"] for v in verdicts)


def test_a_worker_that_stood_still_has_no_grace(world):
    world.start(MCPGW_STALE_GRACE_MS="60000", MCPGW_LEASE_MS="400")
    key = world.add_key()
    collect_until(world, key, lambda v: v["error"] == OK)
    world.process.signal(signal.SIGSTOP)
    since = time.monotonic()
    world.db.server.stop()
    wait_until(lambda: time.monotonic() > since + 1.0, what="a pause longer than a lease")
    world.process.signal(signal.SIGCONT)
    assert world.ask(key)["error"] == UNAVAILABLE
    world.db.server.start()
    collect_until(world, key, lambda v: v["error"] == OK and not v["stale"])


def test_a_change_made_while_a_worker_stood_still_is_felt_at_once(world):
    world.start(MCPGW_STALE_GRACE_MS="60000", MCPGW_LEASE_MS="400")
    key = world.add_key()
    world.wait_applied()
    collect_until(world, key, lambda v: v["error"] == OK)
    world.process.signal(signal.SIGSTOP)
    since = time.monotonic()
    world.db.sql("UPDATE apikey SET enabled = false WHERE key = %s", digest_text(key))
    wait_until(lambda: time.monotonic() > since + 1.0, what="a pause longer than a lease")
    world.process.signal(signal.SIGCONT)
    assert world.ask(key)["error"] in (UNVERIFIED, UNAVAILABLE)
    collect_until(world, key, lambda v: v["error"] == UNVERIFIED)


# ---- start, health, stop

def test_without_postgres_it_starts_and_says_ready_once_it_has_a_lease(world):
    world.db.server.stop()
    process = world.start(wait=False)
    wait_until(lambda: process.readyz()[0] == 503, what="operations listener")
    facts = process.readyz()[1]["facts"]
    assert (facts["postgres"], facts["lease"]) == (False, False)
    assert not world.edge.live_workers("authz")
    world.db.server.start()
    world.worker = world.edge.wait_worker("authz", timeout=20)
    assert world.worker.applied == world.number()
    process.wait_ready()


def test_missing_triggers_turn_health_red(world):
    world.db.sql("DROP TRIGGER mcpgw_updated ON apikey")
    world.start()
    wait_until(lambda: world.process.metrics()["mcpgw_change_trigger_missing"] == 1, what="metric")
    assert world.process.events("triggers_missing")
    assert world.process.readyz()[0] == 200


def test_present_triggers_are_told(world):
    world.start()
    wait_until(lambda: '"triggers"' in world.process.get("/readyz")[1], what="note")
    assert world.process.metrics()["mcpgw_change_trigger_missing"] == 0
    assert not world.process.events("triggers_missing")


def test_sigterm_says_goodbye_answers_and_ends_with_0(world):
    world.start()
    assert world.ask(world.add_key())["error"] == OK
    assert world.process.stop() == 0
    world.edge.wait_for(lambda: world.edge.goodbyes, what="GOODBYE")


def test_the_role_of_authz_may_do_nothing_else(world):
    with world.db.server.connect(world.db.name, "mcpgw_authz") as c:
        for statement in ("SELECT * FROM apikey", 'SELECT * FROM "user"', "SELECT * FROM mcpgw.outbox", "SELECT * FROM mcpgw.key",
                          "UPDATE mcpgw.change_sequence SET value = 0", "DELETE FROM mcpgw.change", "CREATE TABLE mcpgw.x ()",
                          "UPDATE mcpgw.credential SET enabled = true"):
            with pytest.raises(Exception, match="permission denied|cannot update view"):
                c.execute(statement)


def test_a_missing_database_url_is_told_by_name(tmp):
    done = subprocess.run([program("mcpgw-authz")], env={"MCPGW_EDGES": f"ipc://{tmp}/edge-*"}, capture_output=True, text=True,
                          timeout=20)
    assert done.returncode != 0
    assert "database_url" in done.stderr
