"""mcpgw-ratelimit alone: the real program and a real Redis, played by an edge of ours; and ratelimit.lua by itself with
its clock in the test's hands."""
import bisect
import os
import random
import subprocess
import threading
import signal
import time

import pytest
from busedge import ERR, TIERS, Edge, now_us
from conftest import ROOT, program, wait_until

OK, LIMITED, UNAVAILABLE = ERR["OK"], ERR["RATE_LIMITED"], ERR["UNAVAILABLE"]


@pytest.fixture
def worker(redis_server, edge, service):
    """One worker; worker() starts another of the same kind."""
    def start(**settings):
        return service("ratelimit", MCPGW_REDIS_URL=redis_server.url, **settings).wait_ready()
    return start


def charge_fields(subject="k:one", tier="api_key", requests=0, window_s=0, on_failure=0):
    return {"tier": TIERS[tier], "subject": subject, "requests": requests, "window_s": window_s, "on_failure": on_failure}


def charge(edge, worker=None, **fields):
    return edge.call("ratelimit", "charge_request", worker, **charge_fields(**fields))


def charge_many(edge, count, worker=None, **fields):
    return edge.call_many("ratelimit", [("charge_request", charge_fields(**fields))] * count, worker)


def admitted(replies):
    return sum(reply["error"] == OK for reply in replies)


def items(edge, requests):
    return [("charge_request", fields, edge.new_id(), now_us() + 10_000_000, 0) for fields in requests]


def replies_to(edge, sent, times=1):
    """The replies to these items, `times` of each, in their order."""
    ids = [item[2] for item in sent]
    edge.wait_for(lambda: sum(m.request_id in ids for m in edge.messages) >= times * len(ids), what="replies")
    found = {i: [] for i in ids}
    for message in [m for m in edge.messages if m.request_id in found]:
        edge.messages.remove(message)
        found[message.request_id].append(message)
    return [found[i] for i in ids]


# ---- refusals ---------------------------------------------------------------------------------------

def test_without_a_redis_url_it_does_not_start(tmp):
    done = subprocess.run([program("mcpgw-ratelimit")], env={"PATH": os.environ["PATH"], "MCPGW_EDGES": f"ipc://{tmp}/edge-*"},
                          capture_output=True, text=True, timeout=20)
    assert done.returncode in (2, 3)
    assert "redis_url" in done.stderr


@pytest.mark.parametrize("fields", [{"tier": "none"}, {"requests": 5, "window_s": 2**40}, {"subject": ""}])
def test_what_has_no_limit_is_not_admitted(edge, worker, fields):
    worker()
    assert charge(edge, **fields)["error"] == UNAVAILABLE
    assert charge(edge)["error"] == OK


def test_a_caller_without_budget_is_told_when_the_next_one_fits(edge, worker):
    worker()
    for left in (2, 1, 0):
        reply = charge(edge, requests=3, window_s=60)
        assert (reply["error"], reply["remaining"], reply["reset_ms"]) == (OK, left, 60000)
    reply = charge(edge, requests=3, window_s=60)
    assert (reply["error"], reply["remaining"], reply["limit"], reply["window_s"]) == (LIMITED, 0, 3, 60)
    assert 50_000 < reply["reset_ms"] <= 60_000


def test_redis_gone_is_unavailable_at_once_and_comes_back(redis_server, edge, worker):
    process = worker()
    assert charge(edge)["error"] == OK
    redis_server.stop()
    started = time.monotonic()
    replies = charge_many(edge, 50)
    assert admitted(replies) == 0 and {reply["error"] for reply in replies} == {UNAVAILABLE}
    assert time.monotonic() - started < 2
    wait_until(lambda: process.readyz()[0] == 503, what="readyz red")
    redis_server.start()
    wait_until(lambda: charge(edge)["error"] == OK, what="charges again")
    assert process.readyz()[0] == 200
    assert process.metrics()['mcpgw_charges_total{outcome="unavailable"}'] >= 50


def test_a_silent_redis_is_unavailable_and_its_late_answers_reach_nobody(redis_server, edge, worker):
    worker(MCPGW_REDIS_TIMEOUT_MS="200")
    assert charge(edge, subject="k:a", requests=7, window_s=60)["error"] == OK
    redis_server.client().execute_command("CLIENT", "PAUSE", "1200", "ALL")
    assert charge(edge, subject="k:a", requests=7, window_s=60)["error"] == UNAVAILABLE
    wait_until(lambda: charge(edge, subject="k:b", requests=9, window_s=60)["error"] == OK, what="charges again")
    for subject, limit in (("k:a", 7), ("k:b", 9), ("k:c", 11)):
        reply = charge(edge, subject=subject, requests=limit, window_s=60)
        assert (reply["error"], reply["limit"]) == (OK, limit)


def test_counters_that_vanish_are_noticed(redis_server, edge, worker):
    process = worker()
    charge_many(edge, 5, requests=5, window_s=60)
    assert charge(edge, requests=5, window_s=60)["error"] == LIMITED
    wait_until(lambda: redis_server.client().get("mcpgw:rl:state"), what="the mark")
    redis_server.client().flushall()
    wait_until(lambda: process.metrics()["mcpgw_limits_lost_total"] == 1, what="limits_lost")
    assert process.events("limits_lost")
    assert charge(edge, requests=5, window_s=60)["remaining"] == 4


# ---- which limit ------------------------------------------------------------------------------------

@pytest.mark.parametrize("tier,limit", [("admin", 5000), ("api_key", 1000), ("oauth", 500)])
def test_each_tier_has_its_limit_per_hour(edge, worker, tier, limit):
    worker()
    reply = charge(edge, tier=tier, subject="u:" + tier)
    assert (reply["error"], reply["limit"], reply["window_s"], reply["remaining"], reply["policy"]) == (OK, limit, 3600, limit - 1, tier)
    assert reply["reset_ms"] == 3600_000 and not reply["degraded"]


def test_tiers_can_be_set(edge, worker):
    worker(MCPGW_LIMIT_OAUTH="3", MCPGW_LIMIT_WINDOW_S="7")
    reply = charge(edge, tier="oauth")
    assert (reply["limit"], reply["window_s"], reply["remaining"]) == (3, 7, 2)


def test_a_key_s_own_limit_is_policy_key(edge, worker):
    worker()
    reply = charge(edge, requests=7, window_s=60)
    assert (reply["limit"], reply["window_s"], reply["policy"]) == (7, 60, "key")


def test_subjects_do_not_share_a_budget(edge, worker):
    worker()
    assert admitted(charge_many(edge, 9, subject="k:a", requests=5, window_s=60)) == 5
    assert admitted(charge_many(edge, 9, subject="k:b", requests=5, window_s=60)) == 5


def test_a_limit_that_changes_applies_to_what_was_spent(edge, worker):
    worker()
    assert admitted(charge_many(edge, 600, requests=1000, window_s=3600)) == 600
    assert charge(edge, requests=500, window_s=3600)["error"] == LIMITED
    assert charge(edge, requests=700, window_s=3600)["remaining"] in (98, 99)
    assert charge(edge, requests=10, window_s=60)["error"] == LIMITED
    assert charge(edge, requests=2000, window_s=3600)["remaining"] <= 1399
    assert charge(edge)["remaining"] <= 399     # the key loses its own limit: the tier's 1000


# ---- how batches are charged ------------------------------------------------------------------------

def test_a_frame_is_one_call_and_its_requests_on_one_bucket_are_charged_together(redis_server, edge, worker):
    process = worker()
    charge(edge, subject="k:warm")
    client = redis_server.client()
    before = process.metrics()["mcpgw_charge_batches_total"]
    client.config_resetstat()
    sent = items(edge, [charge_fields(subject=f"k:{i % 2}", requests=10**6, window_s=60) for i in range(200)])
    edge.send(edge.wait_worker("ratelimit"), sent)
    replies = [found[0] for found in replies_to(edge, sent)]
    assert [reply["remaining"] for reply in replies[::2]] == list(range(10**6 - 1, 10**6 - 101, -1))
    calls = client.info("commandstats")
    assert calls["cmdstat_evalsha"]["calls"] == 1
    assert calls["cmdstat_getrange"]["calls"] == 2
    assert process.metrics()["mcpgw_charge_batches_total"] == before + 1


def test_the_largest_frame_is_answered(edge, worker):
    worker()
    sent = items(edge, [charge_fields(subject=f"k:{i}", requests=5, window_s=60) for i in range(512)])
    edge.send(edge.wait_worker("ratelimit"), sent)
    assert all(found[0]["error"] == OK and found[0]["remaining"] == 4 for found in replies_to(edge, sent))


def test_the_first_of_a_group_are_admitted(edge, worker):
    worker()
    sent = items(edge, [charge_fields(requests=3, window_s=60)] * 5)
    edge.send(edge.wait_worker("ratelimit"), sent)
    assert [found[0]["error"] for found in replies_to(edge, sent)] == [OK, OK, OK, LIMITED, LIMITED]


def test_a_frame_sent_again_is_answered_the_same_and_counted_once(edge, worker):
    first, second = worker(), worker()
    workers = edge.wait_workers("ratelimit", 2)
    sent = items(edge, [charge_fields(subject=f"k:{i % 3}", requests=10, window_s=60) for i in range(60)])
    frame = edge.send(workers[0], sent)
    once = [found[0] for found in replies_to(edge, sent)]
    for target in (workers[1], workers[0], workers[1]):
        edge.send_bytes(target, frame)
        again = [found[0] for found in replies_to(edge, sent)]
        assert [dict(reply) for reply in again] == [dict(reply) for reply in once]
    assert admitted(once) == 30
    assert sum(p.metrics()["mcpgw_charge_batches_repeated_total"] for p in (first, second)) == 3
    assert charge(edge, subject="k:0", requests=11, window_s=60)["remaining"] == 0


def test_a_frame_sent_again_after_its_worker_was_killed_is_counted_once(edge, worker):
    processes = {p.pid: p for p in (worker(), worker())}
    for round in range(5):
        workers = edge.wait_workers("ratelimit", 2)
        sent = items(edge, [charge_fields(subject=f"k:{round}", requests=100, window_s=60)] * 40)
        frame = edge.send(workers[0], sent)
        processes.pop(workers[0].pid).kill()
        workers[0].live = False
        edge.messages[:] = [m for m in edge.messages if m.worker is not workers[0]]
        edge.send_bytes(workers[1], frame)
        assert admitted(m for found in replies_to(edge, sent) for m in found[-1:]) == 40
        assert charge(edge, workers[1], subject=f"k:{round}", requests=100, window_s=60)["remaining"] == 59
        replacement = worker()
        processes[replacement.pid] = replacement


def test_a_forgotten_script_is_sent_again(redis_server, edge, worker):
    process = worker()
    assert charge(edge, requests=5, window_s=60)["remaining"] == 4
    redis_server.client().script_flush()
    assert charge(edge, requests=5, window_s=60)["remaining"] == 3
    redis_server.client().config_resetstat()
    assert charge(edge, requests=5, window_s=60)["remaining"] == 2
    assert "cmdstat_eval" not in redis_server.client().info("commandstats")
    assert process.metrics()["mcpgw_limits_lost_total"] == 0


def test_idle_buckets_and_old_frames_vanish(redis_server, edge, worker):
    worker()
    charge(edge, subject="k:idle", requests=5, window_s=2)
    client = redis_server.client()
    assert 2000 < client.pttl("mcpgw:rl:k:idle") <= 2501
    assert all(0 < client.pttl(key) <= 10_000 for key in client.scan_iter("mcpgw:rl:batch:*"))
    wait_until(lambda: not client.exists("mcpgw:rl:k:idle"), what="the bucket to vanish")


def test_a_stopping_worker_answers_what_it_has(edge, worker):
    process = worker()
    sent = items(edge, [charge_fields(requests=10**6, window_s=60)] * 200)
    found = edge.wait_worker("ratelimit")
    edge.wait_for(lambda: found.pulses > 0, what="a pulse: it has read our welcome")
    process.signal(signal.SIGSTOP)    # so that the batch is on its way, and not read, when it is told to stop
    edge.send(found, sent)
    edge.wait_for(edge.has_sent_all, what="the batch to be sent")
    assert process.stop() == 0
    assert admitted(found[0] for found in replies_to(edge, sent)) == 200
    assert edge.goodbyes


# ---- limits from memory -----------------------------------------------------------------------------

def test_limits_from_memory_are_a_share_and_marked(redis_server, edge, worker):
    process = worker(MCPGW_REPLICAS_ASSUMED="4")
    charge(edge)
    redis_server.stop()
    replies = charge_many(edge, 50, subject="k:m", requests=100, window_s=60, on_failure=1)
    assert admitted(replies) == 25
    assert all(reply["degraded"] and reply["limit"] == 100 for reply in replies)
    assert {reply["error"] for reply in replies} == {OK, LIMITED}
    assert process.metrics()["mcpgw_charges_degraded_total"] == 50
    assert charge(edge, subject="k:tiny", requests=3, window_s=60, on_failure=1)["error"] == UNAVAILABLE
    assert charge(edge, subject="k:m", requests=100, window_s=60)["error"] == UNAVAILABLE


# ---- never over -------------------------------------------------------------------------------------

def test_concurrent_callers_are_admitted_exactly_to_the_limit(edge, worker):
    worker(), worker()
    workers = edge.wait_workers("ratelimit", 2)
    request, sent = charge_fields(requests=100, window_s=3600), []
    for i in range(100):
        batch = items(edge, [request] * 20)
        edge.send(workers[i % 2], batch)
        sent += batch
    replies = [found[0] for found in replies_to(edge, sent)]
    assert len(replies) == 2000 and admitted(replies) == 100


def assert_never_over(admissions, limit, window_s):
    """admissions: (before, after) of each.  limit + 1 that certainly lie within one window would be one too many."""
    admissions.sort()
    for i in range(len(admissions) - limit):
        group = admissions[i:i + limit + 1]
        assert max(after for _, after in group) - group[0][0] >= window_s


@pytest.mark.parametrize("limit", [5, 40, 600])
def test_no_window_is_over_under_random_load_from_two_edges(edge, worker, tmp, limit):
    admissions, lock = [], threading.Lock()

    def load(source, seed):
        random_source = random.Random(seed)
        end = time.monotonic() + 4
        while time.monotonic() < end:
            before = time.monotonic()
            replies = charge_many(source, random_source.randrange(1, 2 + limit), requests=limit, window_s=1)
            after = time.monotonic()
            with lock:
                admissions.extend([(before, after)] * admitted(replies))
            time.sleep(random_source.choice([0, 0.001, 0.05, 0.3]))

    with Edge(tmp / "edge-2") as other:
        worker(), worker()
        edge.wait_workers("ratelimit", 2), other.wait_workers("ratelimit", 2)
        threads = [threading.Thread(target=load, args=(source, i)) for i, source in enumerate((edge, other, edge))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(admissions) >= 3 * limit
    assert_never_over(admissions, limit, 1.0)


# ---- the script with the clock in our hands ---------------------------------------------------------

START_US = 1_700_000_000_000_000


class Script:
    def __init__(self, client):
        text = (ROOT / "services/ratelimit/ratelimit.lua").read_text()
        assert text.count("call('TIME')") == 1
        self.run = client.register_script(text.replace("call('TIME')", "{ ARGV[3], ARGV[4] }"))
        self.batch = 0

    def charge(self, at_us, limit, window_us, wanted=1, key="bucket"):
        """(admitted, left, wait_us)"""
        self.batch += 1
        charges = limit.to_bytes(6, "little") + window_us.to_bytes(7, "little") + wanted.to_bytes(4, "little")
        _, answer = self.run(keys=[f"batch:{self.batch}", key], args=[charges, 1000, at_us // 10**6, at_us % 10**6])
        return tuple(int.from_bytes(answer[a:b], "little") for a, b in ((0, 4), (4, 10), (10, 17)))


@pytest.fixture
def script(redis_server):
    return Script(redis_server.client())


@pytest.mark.parametrize("seed", range(12))
def test_random_loads_are_never_over_and_hold_back_less_than_a_group(script, seed):
    source = random.Random(seed)
    limit = [1, 2, 3, 10, 100, 300, 511, 512, 700, 1000, 1023, 5000][seed]
    window = source.choice([10**6, 10**7, 3600 * 10**6])
    group, at, log = max(1, limit // 256), START_US, []
    for _ in range(400):
        at += source.choice([0, 1, source.randrange(2 * window // limit + 2), source.randrange(window), window // limit])
        wanted = source.choice([1, 1, 1, 2, 5, source.randrange(1, 2 * limit + 2)])
        admitted_now, left, wait = script.charge(at, limit, window, wanted)
        free = limit - (len(log) - bisect.bisect_right(log, at - window))
        assert admitted_now + left <= free
        assert admitted_now + left > free - group
        log += [at] * admitted_now
        assert (wait > 0) == (admitted_now < wanted) and wait <= window
        if wait:
            assert script.charge(at + wait - 1, limit, window)[0] == 0
            at += wait
            assert script.charge(at, limit, window)[0] == 1
            log.append(at)


@pytest.mark.parametrize("limit", [5, 100, 511, 512, 1000, 5000])
def test_a_caller_who_keeps_the_pace_is_admitted(script, limit):
    window, count = 3600 * 10**6, 2 * limit + 100
    got = sum(script.charge(START_US + k * window // limit, limit, window)[0] for k in range(count))
    assert got >= 0.995 * count
    assert limit > 511 or got == count


@pytest.mark.parametrize("limit", [200, 600, 1000])
def test_a_caller_who_keeps_the_pace_roughly_is_admitted(script, limit):
    source, window, count = random.Random(limit), 3600 * 10**6, 3 * limit
    gap = window // limit
    got = sum(script.charge(START_US + k * gap + source.randrange(gap // 20), limit, window)[0] for k in range(count))
    assert got >= 0.995 * count


@pytest.mark.parametrize("seed", range(12))
def test_changing_limits_and_windows_forgets_nothing_on_record(script, seed):
    source = random.Random(seed)
    limits = [1, 2, 10, 100, 300, 513, 700, 1000, 3000, 20000]
    limit, window, at, log, horizon = source.choice(limits), 10**7, START_US, [], 0
    for _ in range(300):
        if source.random() < 0.03:
            limit = source.choice(limits)
        if source.random() < 0.02:
            changed = source.choice([10**6, 10**7, 10**8])
            if changed > window:
                horizon = max(horizon, at - window)    # what had left the shorter window had been given back
            window = changed
        at += source.choice([0, 1, source.randrange(2 * window // limit + 2), source.randrange(window // 4)])
        got, _, wait = script.charge(at, limit, window, source.choice([1, 1, 2, 5, source.randrange(1, 2 * limit + 2)]))
        log += [at] * got
        assert got == 0 or len(log) - bisect.bisect_right(log, max(at - window, horizon)) <= limit
        assert wait <= window


@pytest.mark.parametrize("back_s", [1, 9, 10, 3600])
def test_a_clock_that_goes_back_opens_no_window_and_locks_nobody_out_for_longer_than_one(script, back_s):
    window, at = 10**7, START_US
    assert script.charge(at, 10, window, 10)[0] == 10
    at -= back_s * 10**6
    got, _, wait = script.charge(at, 10, window)
    assert got == 0 and wait <= window
    assert script.charge(at + window - 1, 10, window)[0] == 0
    assert script.charge(at + window, 10, window)[0] == 1
