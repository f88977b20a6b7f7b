"""mcpgw-ratelimit alone: the real program and a real Redis, played by an edge of ours; and ratelimit.lua by itself with
its clock in the test's hands."""
import bisect
import os
import random
import struct
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


def rule(requests, window_s):
    """As common/rate_rule.h packs it."""
    return requests << 32 | window_s


def charge_fields(subject="k:one", tier="api_key", requests=0, window_s=0, on_failure=0, **of_tenant):
    """of_tenant: tenant_id, user_id, tenant_rule, user_rule."""
    return {"tier": TIERS[tier], "subject": subject, "requests": requests, "window_s": window_s, "on_failure": on_failure, **of_tenant}


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
    found = {item[2]: [] for item in sent}
    edge.wait_for(lambda: sum(m.request_id in found for m in edge.messages) >= times * len(found), what="replies")
    for place in reversed([i for i, m in enumerate(edge.messages) if m.request_id in found]):
        message = edge.messages.pop(place)
        found[message.request_id].insert(0, message)
    return list(found.values())


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
        self.run = client.register_script(text.replace("call('TIME')", "{ ARGV[4], ARGV[5] }"))
        self.batch = 0

    def charge(self, at_us, limit, window_us, wanted=1, key="bucket"):
        """(admitted, left, wait_us)"""
        self.batch += 1
        charges = limit.to_bytes(6, "little") + window_us.to_bytes(7, "little") + wanted.to_bytes(4, "little")
        _, answer = self.run(keys=[f"batch:{self.batch}", key], args=[charges, 1000, "", at_us // 10**6, at_us % 10**6])
        return tuple(int.from_bytes(answer[a:b], "little") for a, b in ((0, 4), (4, 10), (10, 17)))


    def charge_bundles(self, at_us, buckets, bundles):
        """buckets: (key, limit, window_us); bundles: (wanted, places in buckets).  (admitted of each bundle, left of its
        buckets), and how long each bucket would make one wait."""
        self.batch += 1
        charges = b"".join(limit.to_bytes(6, "little") + window.to_bytes(7, "little") + bytes(4) for _, limit, window in buckets)
        groups = b"".join(wanted.to_bytes(4, "little") + b"".join((p + 1).to_bytes(2, "little") for p in places) + bytes(2 * (3 - len(places)))
                          for wanted, places in bundles)
        _, answer = self.run(keys=[f"batch:{self.batch}", *(key for key, _, _ in buckets)],
                             args=[charges, 1000, groups, at_us // 10**6, at_us % 10**6])
        at = 17 * len(buckets)
        assert len(answer) == at + 22 * len(bundles)
        waits = [int.from_bytes(answer[17 * i + 10:17 * i + 17], "little") for i in range(len(buckets))]
        shares = [answer[at + 22 * i:at + 22 * i + 22] for i in range(len(bundles))]
        return [(int.from_bytes(share[:4], "little"), [int.from_bytes(share[4 + 6 * n:10 + 6 * n], "little") for n in range(len(places))])
                for share, (_, places) in zip(shares, bundles)], waits


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


@pytest.mark.parametrize("seed", range(8))
def test_requests_under_several_limits_exceed_none_and_a_refusal_spends_none(script, seed):
    """Against a model that knows every admission: four keys, two users, one tenant, some charged alone."""
    source, at, window = random.Random(seed), START_US, 10**7
    plans = {f"k{i}": source.choice([3, 20, 100, 400]) for i in range(4)}
    plans |= {"u0": source.choice([10, 60]), "u1": 511, "t": source.choice([15, 90, 500])}
    log = {key: [] for key in plans}
    for _ in range(250):
        at += source.choice([0, 1, source.randrange(window // 20), source.randrange(window // 3)])
        keys = source.sample(range(4), source.randrange(1, 5))
        groups = [(source.choice([1, 1, 2, 7, 40]), [f"k{k}", f"u{k % 2}", "t"][:source.choice([2, 3, 3])]) for k in keys]
        names = sorted({name for _, used in groups for name in used})
        answers, waits = script.charge_bundles(at, [(name, plans[name], window) for name in names],
                                               [(wanted, [names.index(name) for name in used]) for wanted, used in groups])
        free = {name: plans[name] - (len(log[name]) - bisect.bisect_right(log[name], at - window)) for name in plans}
        refused_by = set()
        for (wanted, used), (got, left) in zip(groups, answers):
            assert got == min([wanted] + [free[name] for name in used])    # exact: all limits are below 512
            for name, rest in zip(used, left):
                free[name] -= got
                log[name] += [at] * got
                assert rest == free[name]
            refused_by |= {name for name in used if got < wanted and free[name] == 0}
        for name, wait in zip(names, waits):
            assert (wait > 0) == (name in refused_by) and wait <= window
            assert not wait or log[name][-plans[name]] + window == at + wait
        if source.random() < 0.2:
            assert script.charge(at, plans["t"], window, 1, key="t")[0] == min(1, free["t"])
            log["t"] += [at] * min(1, free["t"])


def test_one_bucket_under_two_limits_in_one_batch_is_not_forgotten(script):
    """A tenant's limit is being changed: some workers know it, others not yet."""
    buckets = [("k", 50, 10**7), ("t", 10, 10**7), ("t", 20, 10**7)]
    answers, _ = script.charge_bundles(START_US, buckets, [(4, [0, 1]), (4, [0, 2]), (4, [0, 1]), (30, [0, 2])])
    assert [got for got, _ in answers] == [4, 4, 2, 10]
    assert script.charge(START_US, 20, 10**7, 1, key="t")[0] == 0
    assert script.charge(START_US, 50, 10**7, 50, key="k")[0] == 30


# ---- several limits at once -------------------------------------------------------------------------

def of_acme(key, user="", tenant=(0, 0), per_user=(0, 0), requests=100, **more):
    return charge_fields(subject="k:" + key, requests=requests, window_s=3600, tenant_id="acme", user_id=user, tenant_rule=rule(*tenant),
                         user_rule=rule(*per_user), **more)


@pytest.mark.parametrize("fields", [{"tenant_rule": rule(5, 0)}, {"tenant_rule": rule(0, 5)}, {"tenant_rule": rule(5, 2**31)},
                                    {"tenant_rule": rule(5, 60), "tenant_id": ""}, {"user_rule": rule(5, 60), "user_id": ""}])
def test_a_rule_that_cannot_be_enforced_is_not_ignored(edge, worker, fields):
    worker()
    sent = items(edge, [{**charge_fields(tenant_id="acme", user_id="alice"), **fields}, charge_fields(subject="k:good")])
    edge.send(edge.wait_worker("ratelimit"), sent)
    assert [found[0]["error"] for found in replies_to(edge, sent)] == [UNAVAILABLE, OK]


def test_the_tightest_limit_is_told_and_a_refusal_spends_none_of_the_others(redis_server, edge, worker):
    worker()
    def ask(*args, **fields):
        return edge.call("ratelimit", "charge_request", None, **of_acme(*args, **fields))
    both = {"tenant": (3, 600), "per_user": (2, 60)}
    told = [ask(*who, **both) for who in (("a", "alice"), ("b", "alice"), ("b", "alice"), ("c", "bob"), ("c", "bob"), ("d", "org"))]
    assert [(t["error"], t["policy"], t["limit"], t["remaining"]) for t in told] == [
        (OK, "user", 2, 1), (OK, "user", 2, 0), (LIMITED, "user", 2, 0), (OK, "tenant", 3, 0), (LIMITED, "tenant", 3, 0), (LIMITED, "tenant", 3, 0)]
    assert 50_000 < told[2]["reset_ms"] <= 60_000 and 590_000 < told[4]["reset_ms"] <= 600_000
    assert [charge(edge, subject=s, requests=100, window_s=3600)["remaining"] for s in ("k:a", "k:b", "k:c", "k:d")] == [98, 98, 98, 99]
    assert not redis_server.client().exists("mcpgw:rl:p:acme/org")
    reply = ask("a", "alice", requests=2, **{"tenant": (9, 600)})
    assert (reply["error"], reply["policy"]) == (LIMITED, "key")                          # its own limit, which two have spent
    assert ask("e", tenant=(9, 600))["remaining"] == 5                                    # raised, and what was spent counts


def test_a_whole_tenant_and_its_users_are_admitted_exactly_to_their_limits(redis_server, edge, worker):
    """Two workers, many keys, mixed frames, some of them sent twice: no limit is passed and none spent for nothing."""
    worker(), worker()
    workers = edge.wait_workers("ratelimit", 2)
    source, sent, asked = random.Random(3), [], {}
    for i in range(24):
        batch = []
        for _ in range(source.randrange(1, 60)):
            user, own = source.choice(["alice", "bob", "carol"]), source.randrange(8)
            batch.append(of_acme(f"{user}{own}", user, tenant=(300, 3600), per_user=(120, 3600), requests=30))
        batch.append(charge_fields(subject="k:other", requests=15, window_s=3600))
        batch = items(edge, batch)
        frame = edge.send(workers[i % 2], batch)
        if i % 5 == 0:
            edge.send_bytes(workers[(i + 1) % 2], frame)
        sent.append((batch, 2 if i % 5 == 0 else 1))
    spent = {}
    for batch, times in sent:
        for item, found in zip(batch, replies_to(edge, batch, times)):
            assert all(dict(f) == dict(found[0]) for f in found)
            if found[0]["error"] == OK:
                for name in {item[1]["subject"], item[1].get("user_id"), item[1].get("tenant_id")}:
                    spent[name] = spent.get(name, 0) + 1
    assert spent["acme"] == 300 and spent["k:other"] == 15
    assert all(spent[user] <= 120 for user in ("alice", "bob", "carol"))
    left = {name: charge(edge, subject=name, requests=30, window_s=3600) for name in spent if name and name.startswith("k:") and name != "k:other"}
    assert all(reply["remaining"] == max(29 - spent[name], 0) for name, reply in left.items())
    assert {user: struct.unpack("<Q", redis_server.client().getrange(f"mcpgw:rl:p:acme/{user}", 0, 5) + b"\0\0")[0]
            for user in ("alice", "bob", "carol")} == {user: spent[user] for user in ("alice", "bob", "carol")}


def test_many_limits_of_one_frame_are_one_call(redis_server, edge, worker):
    worker()
    charge(edge, subject="k:warm")
    client = redis_server.client()
    client.config_resetstat()
    sent = items(edge, [of_acme(f"{i}", f"user{i}", tenant=(10**6, 60), per_user=(5, 60)) for i in range(300)])
    edge.send(edge.wait_worker("ratelimit"), sent)
    replies = [found[0] for found in replies_to(edge, sent)]
    assert admitted(replies) == 300
    calls = client.info("commandstats")
    assert (calls["cmdstat_evalsha"]["calls"], calls["cmdstat_getrange"]["calls"], calls["cmdstat_set"]["calls"]) == (1, 601, 602)


def test_from_memory_too_a_refusal_spends_none_of_the_others(redis_server, edge, worker):
    worker(MCPGW_REPLICAS_ASSUMED="1")
    charge(edge)
    redis_server.stop()
    replies = [edge.call("ratelimit", "charge_request", None, **of_acme(key, tenant=(3, 600), requests=5, on_failure=1)) for key in "aabbb"]
    assert [(r["error"], r["policy"], r["degraded"]) for r in replies] == [(OK, "tenant", True)] * 3 + [(LIMITED, "tenant", True)] * 2
    assert charge(edge, subject="k:b", requests=5, window_s=3600, on_failure=1)["remaining"] == 3
