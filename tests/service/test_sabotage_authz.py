"""That a revoked key is dead is proved by tests which notice when a protection is missing: the same check on builds that lack
one, and on one that lacks none."""
import os
import signal
import time

import pytest

import conftest
from conftest import wait_until
from test_authz import OK, REDIS, World

LEASE_MS, GRACE_MS = 1000, 500


@pytest.fixture
def world(monkeypatch, database, redis_server, edge, service):
    binary = conftest.ROOT / "build" / "sabotage" / "bin" / "mcpgw-authz"
    if not binary.exists():
        pytest.skip("build/sabotage/bin/mcpgw-authz is not built: make VARIANT=sabotage build/sabotage/bin/mcpgw-authz")
    usual = conftest.program
    monkeypatch.setattr(conftest, "program", lambda name: str(binary) if name == "mcpgw-authz" else usual(name))
    return World(database, redis_server, edge, service)


def is_let_in(world, key):
    return world.ask(key)["error"] == OK


def is_dead_after_its_time(world):
    """The link that changes come by is cut; the key ends; what the worker says once lease and grace have passed."""
    key = world.add_key()
    wait_until(lambda: is_let_in(world, key), what="the key is let in")
    links = [pid for pid, in world.db.sql("SELECT pid FROM pg_stat_activity WHERE application_name = 'mcpgw-authz-lease'")]
    assert links
    for pid in links:
        os.kill(pid, signal.SIGSTOP)
    try:
        world.db.sql("UPDATE apikey SET enabled = false WHERE id = %s", world.key_id(key))
        due = time.monotonic() + (LEASE_MS + GRACE_MS) / 1000
        wait_until(lambda: time.monotonic() > due, what="lease and grace")
        return not is_let_in(world, key)
    finally:
        for pid in links:
            os.kill(pid, signal.SIGCONT)


def is_dead_though_redis_knows_it(world):
    """Memory forgets the key by its change; Redis still holds what was read before."""
    key = world.add_key()
    wait_until(lambda: is_let_in(world, key) and world.redis.client().keys("mcpgw:v:*"), what="the key's entry in Redis")
    world.change("UPDATE apikey SET enabled = false WHERE id = %s", world.key_id(key))
    verdict = world.ask(key)
    assert verdict["error"] != OK or verdict["layer"] == REDIS
    return verdict["error"] != OK


@pytest.mark.parametrize("sabotage, holds", [("", True), ("lease", False), ("entry_sequence", True)])
def test_a_key_outlives_a_cut_link_only_without_a_lease_of_one_s_own(world, sabotage, holds):
    world.start(SABOTAGE=sabotage, MCPGW_LEASE_MS=str(LEASE_MS), MCPGW_STALE_GRACE_MS=str(GRACE_MS))
    assert is_dead_after_its_time(world) == holds


@pytest.mark.parametrize("sabotage, holds", [("", True), ("entry_sequence", False)])
def test_a_key_comes_back_from_redis_only_without_its_number(world, sabotage, holds):
    world.start(SABOTAGE=sabotage)
    assert is_dead_though_redis_knows_it(world) == holds
