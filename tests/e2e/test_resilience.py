"""Processes die, multiply and restart under load; valid requests go on succeeding and the trail stays complete."""
import signal

import pytest

from conftest import wait_until


@pytest.fixture(scope="module")
def busy_key(gateway):
    return gateway.make_key(name="busy", scopes=["read"], rateLimit={"requests": 10_000_000, "window": 3600})


@pytest.mark.parametrize("name", ["authz-1", "authz-2", "ratelimit-1", "keys-1", "audit-1", "authz-1"])
def test_a_worker_killed_under_load_costs_no_valid_request(gateway, load, busy_key, name):
    with load(gateway, busy_key["key"]) as running:
        running.wait_for(200)
        dead = gateway.pid(name)
        gateway.kill(name)
        wait_until(lambda: gateway.pid(name) not in (None, dead) and gateway.is_ready(name), 30, f"{name} started again")
        running.wait_for(200)
    assert running.errors == [] and set(running.statuses) == {200}, running.statuses


def test_a_frozen_worker_costs_no_valid_request(gateway, load, busy_key):
    with load(gateway, busy_key["key"]) as running:
        running.wait_for(100)
        gateway.kill("authz-1", signal.SIGSTOP)
        try:
            running.wait_for(400)
            wait_until(lambda: gateway.metric("edge-1", 'mcpgw_workers{role="authz"}') == 1, 10, "the frozen worker is taken out")
        finally:
            gateway.kill("authz-1", signal.SIGCONT)
        wait_until(lambda: gateway.metric("edge-1", 'mcpgw_workers{role="authz"}') == 2, 20, "the worker is taken back")
    assert running.errors == [] and set(running.statuses) == {200}, running.statuses


def test_authz_scales_under_load_without_touching_the_edge(gateway, load, busy_key):
    edge = gateway.pid("edge-1")
    with load(gateway, busy_key["key"]) as running:
        running.wait_for(100)
        gateway.up(authz=4)
        wait_until(lambda: gateway.metric("edge-1", 'mcpgw_workers{role="authz"}') == 4, 20, "four workers")
        running.wait_for(100)
        gateway.up(authz=2)
        wait_until(lambda: gateway.metric("edge-1", 'mcpgw_workers{role="authz"}') == 2, 20, "two workers")
        running.wait_for(100)
    assert gateway.pid("edge-1") == edge
    assert running.errors == [] and set(running.statuses) == {200}, running.statuses


def test_a_thousand_uses_leave_a_thousand_events(gateway, load):
    made = gateway.make_key(name="counted", scopes=["read"], rateLimit={"requests": 100_000, "window": 3600})
    with load(gateway, made["key"]) as running:
        running.wait_for(300)
        gateway.kill("audit-1")
        running.wait_for(300)
        gateway.kill("audit-2")
        running.wait_for(400)
    assert set(running.statuses) == {200}
    gateway.call("POST", f"/api/v1/keys/{made['id']}/revoke")
    assert gateway.check(made["key"]).status_code == 401
    events = gateway.wait_for_events(running.total + 1, seconds=40, keyId=made["id"], event="request")
    assert sum(event["status"] == 200 for event in events) == running.total
    assert len({event["id"] for event in events}) == len(events)
    assert [event for event in gateway.events(event="key.revoked") if event["keyId"] == made["id"]]


def test_an_edge_killed_under_load_loses_no_event_of_an_answer(own_gateway, load):
    gateway = own_gateway(edge=1, authz=1)
    made = gateway.make_key(scopes=["read"], rateLimit={"requests": 100_000, "window": 3600})
    with load(gateway, made["key"]) as running:
        running.wait_for(200)
        dead = gateway.pid("edge-1")
        gateway.kill("edge-1")
        wait_until(lambda: gateway.pid("edge-1") not in (None, dead) and gateway.is_ready("edge-1"), 30, "the edge started again")
        running.wait_for(200)
    answered = running.statuses.get(200, 0)
    events = gateway.wait_for_events(answered, seconds=40, keyId=made["id"], event="request", status=200)
    # Every answer has its event; an event whose answer was lost with the edge is allowed, one for each thread at most.
    assert answered <= len(events) <= answered + 4
    assert len({event["id"] for event in events}) == len(events)


def test_a_lost_redis_refuses_no_key_and_limits_fail_closed(own_gateway):
    gateway = own_gateway()
    made = gateway.make_key(scopes=["read"])
    assert gateway.check(made["key"]).status_code == 200
    assert gateway.run_sv("down", "redis") == 0
    answer = wait_until(lambda: (a := gateway.check(made["key"])).status_code == 503 and [a], 20, "limits refuse without Redis")
    assert "Retry-After" in answer[0].headers
    gateway.run_sv("up", "redis")
    wait_until(lambda: gateway.check(made["key"]).status_code == 200, 20, "Redis is back")


def test_a_lost_postgres_ends_in_503_never_401(own_gateway):
    gateway = own_gateway(settings={"MCPGW_SETTINGS_authz": "MCPGW_STALE_GRACE_MS=500"})
    made = gateway.make_key(scopes=["read"])
    assert gateway.check(made["key"]).status_code == 200
    assert gateway.run_sv("down", "postgres") == 0
    seen = set()
    wait_until(lambda: seen.add(gateway.check(made["key"]).status_code) or 503 in seen, 20, "the lease and its grace are over")
    assert seen <= {200, 503}
    gateway.run_sv("up", "postgres")
    wait_until(lambda: gateway.check(made["key"]).status_code == 200, 30, "Postgres is back")


def test_a_full_spool_refuses_and_recovers(own_gateway):
    gateway = own_gateway(settings={"MCPGW_SETTINGS_edge": "MCPGW_SPOOL_BYTES=524288 MCPGW_SEGMENT_BYTES=131072"})
    made = gateway.make_key(scopes=["read"], rateLimit={"requests": 1_000_000, "window": 3600})
    gateway.run_sv("down", "audit-1")
    answered, shed = 0, 0

    def call():
        nonlocal shed
        answer = gateway.check(made["key"])
        shed += answer.status_code == 503
        return answer

    def refused():
        nonlocal answered
        for _ in range(200):
            answer = call()
            if answer.status_code == 503:
                assert answer.json()["code"] == "audit_unavailable"
                return True
            assert answer.status_code == 200
            answered += 1
        return False
    wait_until(refused, 120, "the spool is full")
    for _ in range(7):
        assert call().status_code == 503
    gateway.run_sv("up", "audit-1")
    wait_until(lambda: call().status_code == 200, 40, "the spool has room again")
    told = wait_until(lambda: gateway.events(reason="audit_unavailable"), 20, "what was refused is told")
    assert sum(event["count"] for event in told) == shed
    events = gateway.wait_for_events(answered, seconds=60, keyId=made["id"], event="request", status=200)
    assert len({event["id"] for event in events}) == len(events)
