"""Keys with a number of uses: spent by mcpgw-authz as Better-Auth's plugin would, in blocks, and never one too many."""
import datetime

import pytest

from busedge import ERR, SCOPES
from conftest import wait_until
from test_authz import world    # noqa: F401

OK, DENIED, UNVERIFIED, EXCEEDED, UNAVAILABLE = ERR["OK"], ERR["DENIED"], ERR["UNVERIFIED"], ERR["USAGE_EXCEEDED"], ERR["UNAVAILABLE"]
HOUR = 3600 * 1000


def remaining(world, key):
    return world.db.sql("SELECT remaining FROM apikey WHERE id = %s", world.key_id(key))[0][0]


def ago(**interval):
    return datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(**interval)


def errors(world, key, count):
    return [world.ask(key)["error"] for _ in range(count)]


def test_the_last_use_is_the_last(world):
    world.start()
    key = world.add_key(remaining=3)
    assert errors(world, key, 5) == [OK, OK, OK, EXCEEDED, EXCEEDED]
    assert remaining(world, key) == 0
    assert world.ask(key)["reason"] == "usage_exceeded"


def test_a_refusal_spends_nothing(world):
    world.start()
    key = world.add_key(remaining=3)
    assert world.ask(key, needed=SCOPES["admin"])["error"] == DENIED
    world.change("UPDATE apikey SET enabled = false")
    assert world.ask(key)["error"] == UNVERIFIED
    assert remaining(world, key) == 3


def test_many_at_once_get_exactly_what_there_is(world):
    world.start()
    key = world.add_key(remaining=150)
    got = [answer["error"] for _ in range(4) for answer in world.ask_many([key] * 64)]
    assert got.count(OK) == 150 and got.count(EXCEEDED) == 256 - 150
    assert remaining(world, key) == 0


def test_the_last_twenty_are_taken_one_by_one(world):
    world.start()
    key = world.add_key(remaining=220)
    assert set(errors(world, key, 200)) == {OK}
    assert remaining(world, key) == 20
    for left in range(19, -1, -1):
        assert world.ask(key)["error"] == OK and remaining(world, key) == left


def test_copies_of_requests_that_cross_cost_one_use_each(database):
    database.sql('INSERT INTO apikey (id, "configId", "referenceId", key, enabled, remaining, "createdAt", "updatedAt")'
                 " VALUES ('k', 'default', 'u', 'd', true, 5, now(), now())")
    taken = [database.sql("SELECT taken FROM mcpgw.take_use('k', %s)", request)[0][0] for request in ("a", "b", "a", "b", "a")]
    assert taken == [1] * 5
    assert database.sql("SELECT remaining FROM apikey") == [(3,)]
    database.sql("UPDATE mcpgw.use_claim SET at = at - interval '11 s'")
    database.sql("SELECT mcpgw.take_use('k', 'c')")
    assert database.sql("SELECT request FROM mcpgw.use_claim") == [("c",)]


def test_a_busy_key_costs_few_writes_and_a_resting_one_gets_its_uses_back(world):
    world.start()
    key = world.add_key(remaining=10000)
    world.ask(key)
    world.db.reset_statements()
    assert set(errors(world, key, 1000)) == {OK}
    assert sum(world.db.statements("%take_uses%").values()) <= 40
    wait_until(lambda: remaining(world, key) == 10000 - 1001, what="the rest is given back")


def test_a_stopped_worker_gives_back_and_a_killed_one_loses_at_most_its_block(world):
    for stop, lost in (("stop", 0), ("kill", 128)):
        world.start()
        key = world.add_key(remaining=10000)
        assert set(errors(world, key, 300)) == {OK}
        getattr(world.process, stop)()
        assert 10000 - 300 - lost <= remaining(world, key) <= 10000 - 300


def test_two_workers_share_a_key_without_giving_one_too_many(world):
    world.start()
    first = world.worker
    world.start()
    second = world.worker
    key = world.add_key(remaining=100)
    got = []
    for _ in range(80):
        for world.worker in (first, second):
            got.append(world.ask(key)["error"])
    assert got.count(OK) <= 100 and got.count(OK) >= 100 - 2 * 64 and set(got) == {OK, EXCEEDED}


def test_uses_that_come_back_to_a_spent_key_are_told_and_void_nothing(world):
    world.start()
    key = world.add_key(remaining=0)
    assert world.ask(key)["error"] == EXCEEDED
    before, id = world.number(), world.key_id(key)
    for count in (2, 1):    # by two workers that held some
        world.change("SELECT mcpgw.give_uses_back(%s, %s, NULL, %s)", id, count, before)
    assert world.db.sql("SELECT c.kind, c.key_id, o.event, o.details FROM mcpgw.change c JOIN mcpgw.outbox o USING (sequence) WHERE c.sequence > %s",
                        before) == [(8, id, "key.uses_returned", {"count": 2})]
    assert errors(world, key, 4) == [OK, OK, OK, EXCEEDED]


@pytest.mark.parametrize("row, allowed", [
    (dict(remaining=0), 0),
    (dict(remaining=0, refillAmount=3, refillInterval=HOUR), 0),
    (dict(remaining=2, refillAmount=3, refillInterval=HOUR), 2),
    (dict(remaining=0, refillAmount=3, refillInterval=HOUR, lastRefillAt=ago(hours=2)), 3),
    (dict(remaining=5, refillAmount=3, refillInterval=HOUR, lastRefillAt=ago(hours=2)), 3),
    (dict(remaining=2, refillAmount=0, refillInterval=HOUR, lastRefillAt=ago(hours=2)), 2),
    (dict(remaining=0, refillAmount=3, refillInterval=0, lastRefillAt=ago(hours=2)), 0),
    (dict(remaining=-4), 0),
    (dict(remaining=0, refillAmount=-1, refillInterval=HOUR, lastRefillAt=ago(hours=2)), 1),
])
def test_a_refill_is_the_plugin_s(world, row, allowed):
    world.start()
    key = world.add_key(**row)
    assert errors(world, key, allowed + 2) == [OK] * allowed + [EXCEEDED] * 2


def test_what_was_taken_before_a_refill_ends_with_it(world):
    """The plugin forgets what was left: old uses and new ones together would be too many."""
    world.start()
    key = world.add_key(remaining=1000, refillAmount=30, refillInterval=3000, lastRefillAt=ago(seconds=0).replace(microsecond=0))
    assert set(errors(world, key, 100)) == {OK}
    world.db.sql("SELECT pg_sleep(greatest(extract(epoch FROM \"lastRefillAt\" + interval '3.1 s' - clock_timestamp()), 0)) FROM apikey")
    got = errors(world, key, 32)
    refilled = world.db.sql("SELECT clock_timestamp() - \"lastRefillAt\" < interval '3 s' FROM apikey")[0][0]
    assert not refilled or got == [OK] * 30 + [EXCEEDED] * 2


@pytest.mark.parametrize("statement", ["UPDATE apikey SET remaining = 0", "UPDATE apikey SET remaining = 0, \"refillAmount\" = 0"])
def test_uses_taken_before_somebody_sets_the_number_are_void(world, statement):
    world.start()
    key = world.add_key(remaining=10000)
    assert set(errors(world, key, 100)) == {OK}
    world.change(statement)
    assert errors(world, key, 3) == [EXCEEDED] * 3
    world.process.stop()
    assert remaining(world, key) == 0


def test_a_number_that_is_set_or_lifted_counts_at_once(world):
    world.start()
    key = world.add_key()
    assert world.ask(key)["error"] == OK
    world.change("UPDATE apikey SET remaining = 1")
    assert errors(world, key, 2) == [OK, EXCEEDED]
    world.change("UPDATE apikey SET remaining = NULL")
    assert world.ask(key)["error"] == OK


def test_without_postgres_held_uses_go_on_and_then_nobody_says_exceeded(world):
    world.start(MCPGW_STALE_GRACE_MS="60000")
    key = world.add_key(remaining=10000)
    assert set(errors(world, key, 200)) == {OK}
    world.db.server.stop()
    got = errors(world, key, 130)
    assert OK in got and got[-1] == UNAVAILABLE and EXCEEDED not in got


def test_a_row_that_somebody_locks_delays_that_key_only(world):
    world.start()
    locked, free = world.add_key(remaining=50), world.add_key()
    with world.db.server.connect(world.db.name) as other, other.transaction():
        other.execute("SELECT FROM apikey WHERE id = %s FOR UPDATE", [world.key_id(locked)])
        assert world.ask(locked)["error"] == UNAVAILABLE
        assert world.ask(free)["error"] == OK
    assert world.ask(locked)["error"] == OK


# ---- limits in the row --------------------------------------------------------------------------

@pytest.mark.parametrize("setting, own, default", [("obey", 7, 10), ("ignore_default", 7, None), ("ignore", None, None)])
def test_the_row_s_limit_counts_as_the_setting_says(world, setting, own, default):
    world.start(MCPGW_BETTER_AUTH_ROW_LIMITS=setting)
    assert world.ask(world.add_key(rateLimitMax=7, rateLimitTimeWindow=60000)).get("rate_requests") == own or own is None
    seen = world.ask(world.add_key(rateLimitMax=10, rateLimitTimeWindow=86400000)).get("rate_requests") or None
    assert seen == default


def test_an_unknown_way_with_limits_is_refused_at_start(world):
    process = world.start(wait=False, MCPGW_BETTER_AUTH_ROW_LIMITS="perhaps")
    assert process.process.wait(20) != 0 and "better_auth_row_limits" in process.log()
