"""One process at a time goes to the next release and back, under load, without a failed request.

The next release is the same code built with -DMESSAGES_NEXT and one field appended (make VARIANT=next).
"""
import shutil

import pytest

from conftest import ROOT, Gateway, wait_until

ORDER = ["audit-1", "keys-1", "keys-2", "ratelimit-1", "ratelimit-2", "authz-1", "authz-2"]


@pytest.fixture
def upgradable(own_gateway):
    return own_gateway(build=ROOT / "build" / "release", authz=2, ratelimit=2, keys=2, audit=1)


def replace(gateway, name, variant):
    """Installs the program of a build and restarts one process as `make up` does."""
    service = name.rsplit("-", 1)[0]
    program = gateway.home / "bin" / f"mcpgw-{service}"
    new = program.with_suffix(".new")
    shutil.copy(ROOT / "build" / variant / "bin" / program.name, new)
    new.rename(program)
    before = gateway.pid(name)
    gateway.run_sv("down", name)
    gateway.run_sv("up", name)
    wait_until(lambda: gateway.pid(name) not in (None, before) and gateway.is_ready(name), 30, f"{name} runs the {variant} build")


def test_workers_are_upgraded_and_rolled_back_one_by_one_under_load(upgradable, load):
    gateway = upgradable
    made = gateway.make_key(scopes=["read"], rateLimit={"requests": 10_000_000, "window": 3600})
    with load(gateway, made["key"]) as running:
        running.wait_for(100)
        for variant in ("next", "release"):
            for name in ORDER:
                replace(gateway, name, variant)
                running.wait_for(50)
                assert gateway.make_key(scopes=["read"])["key"]
    assert running.errors == [] and set(running.statuses) == {200}, running.statuses
    events = gateway.wait_for_events(running.total, seconds=60, keyId=made["id"], event="request")
    assert len(events) == running.total


def test_an_edge_of_the_next_release_works_with_workers_of_this_one(upgradable):
    gateway = upgradable
    made = gateway.make_key(scopes=["read"])
    for variant in ("next", "release"):
        replace(gateway, "edge-1", variant)
        wait_until(lambda: gateway.check(made["key"]).status_code == 200, 30, f"the {variant} edge answers")
    gateway.wait_for_events(2, keyId=made["id"], event="request")
