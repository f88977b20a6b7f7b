"""Every process is killed, frozen, ended, cut off and left without disk at random under load; a journal of what clients saw is
held against the trail.

CHAOS_SEED repeats a run's choices (the seed is printed), CHAOS_MINUTES lengthens it.  CHAOS_HOME and CHAOS_PORT name an
instance that is there already (two edges on CHAOS_PORT and the next); otherwise one is made.

What must hold, whatever died when:
  every answer has exactly one event with its request id and status, and no event stands without a request;
  what was refused because the spool took nothing (503 audit_unavailable) is counted in the trail, exactly;
  sequences of each (producer, epoch) have no hole and nothing is told as lost;
  a request sent after a revocation was answered is never let in;
  a limit is never exceeded, and no request is charged twice;
  every call returns.
"""
import collections
import http.client
import json
import os
import random
import shutil
import signal
import socket
import threading
import time
import uuid

import pytest

from e2e_gateway import Gateway, Links, free_port, make_home, wait_until

SECONDS = 60 * float(os.environ.get("CHAOS_MINUTES") or 0.75)
SEED = int(os.environ.get("CHAOS_SEED") or random.SystemRandom().randrange(1 << 32))
CLIENTS, KEYS, LIMIT = 6, 6, 500
CALL_LIMIT_S = 25                    # decision, management and a freeze together are far below
FREEZE_S = 9                         # beyond decision_ms and what a dispatcher may take on top
WORKERS = [f"{service}-{n}" for service in ("authz", "ratelimit", "keys", "audit") for n in (1, 2)]
EDGES = ["edge-1", "edge-2"]
SPOOL_BYTES, SEGMENT_BYTES = 1 << 20, 1 << 17    # small, so that it can be filled
SETTLED_S = 2                        # after the disk is there again: the edge has told whom it refused


class Journal:
    """What clients sent and what they were told, by request id."""

    def __init__(self):
        self.lock = threading.Lock()
        self.attempts, self.answers = collections.Counter(), collections.defaultdict(list)
        self.without_event, self.hung, self.revived, self.errors = 0, [], [], collections.Counter()
        self.revoked_at = {}             # key id: when its revocation had been answered
        self.created, self.revoked = [], []
        self.limited = collections.Counter()

    def note(self, request_id, status, body):
        with self.lock:
            # A spool that takes nothing is the one refusal that cannot have an event of its own.
            if status == 503 and b"audit_unavailable" in body:
                self.without_event += 1
            else:
                self.answers[request_id].append(status)


class Client:
    """One connection to each edge; a broken one is the other's turn."""

    def __init__(self, ports, journal):
        self.ports, self.journal, self.connections, self.turn = ports, journal, {}, random.randrange(2)

    def call(self, method, path, key, body=None, request_id=None):
        """(status, headers, body) or None when no answer came."""
        port = self.ports[self.turn % len(self.ports)]
        request_id = request_id or str(uuid.uuid4())
        headers = {"x-api-key": key, "x-request-id": request_id}
        if body is not None:
            headers |= {"content-type": "application/json", "accept": "application/json, text/event-stream"}
        with self.journal.lock:
            self.journal.attempts[request_id] += 1
        try:
            connection = self.connections.get(port)
            if connection is None:
                connection = self.connections[port] = http.client.HTTPConnection("127.0.0.1", port, timeout=CALL_LIMIT_S)
            connection.request(method, path, body=None if body is None else json.dumps(body), headers=headers)
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            with self.journal.lock:
                self.journal.errors[type(error).__name__] += 1
                if isinstance(error, socket.timeout):
                    self.journal.hung.append((method, path, request_id))
            self.connections.pop(port).close()
            self.turn += 1
            return None
        self.journal.note(request_id, answer.status, content)
        if answer.getheader("connection") == "close":
            self.connections.pop(port).close()
            self.turn += 1
        return answer.status, answer.headers, content

    def insist(self, method, path, key, body, done):
        """The same request until it is done: what a client does who does not know."""
        request_id = str(uuid.uuid4())
        while True:
            answer = self.call(method, path, key, body, request_id)
            if answer is not None and answer[0] in done:
                return answer
            time.sleep(0.05)
            self.turn += 1


class Load:
    """Threads that use keys (also revoked ones), and one that makes and revokes them."""

    def __init__(self, gateway):
        self.gateway, self.journal, self.stop = gateway, Journal(), threading.Event()
        self.ports = [gateway.port, gateway.port + 1]
        self.live, self.dead = [], collections.deque(maxlen=8)
        maker = Client(self.ports, self.journal)
        for _ in range(KEYS):
            self.live.append(self.make_key(maker, 10_000_000))
        self.limited = self.make_key(maker, LIMIT)
        self.threads = [threading.Thread(target=self.guard, args=(self.use, n)) for n in range(CLIENTS)]
        self.threads.append(threading.Thread(target=self.guard, args=(self.revoke,)))
        self.failures = []

    def guard(self, function, *arguments):
        try:
            function(*arguments)
        except Exception as error:    # a thread's end must be the test's
            self.failures.append(repr(error))

    def make_key(self, client, limit):
        _, _, content = client.insist("POST", "/api/v1/keys", self.gateway.admin_key,
                                      {"name": "chaos", "scopes": ["read", "proxy"],
                                       "rateLimit": {"requests": limit, "window": 3600}}, {201})
        made = json.loads(content)
        self.journal.created.append(made["id"])
        return made

    def use(self, number):
        choice, client = random.Random(f"{SEED} {number}"), Client(self.ports, self.journal)
        while not self.stop.is_set():
            luck = choice.random()
            if luck < 0.05:
                answer = client.call("GET", "/auth/check", self.limited["key"])
                with self.journal.lock:
                    self.journal.limited[answer[0] if answer is not None else None] += 1
                continue
            keys = list(self.dead) if luck < 0.25 else self.live
            made = choice.choice(list(keys) or self.live)
            started = time.monotonic()
            if luck > 0.9:
                answer = client.call("POST", "/mcp/example", made["key"], {"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
            else:
                answer = client.call("GET", "/auth/check", made["key"])
            with self.journal.lock:
                gone = self.journal.revoked_at.get(made["id"])
                if answer is not None and answer[0] == 200 and gone is not None and gone < started:
                    self.journal.revived.append((made["id"], started - gone))
            time.sleep(0.004)

    def revoke(self):
        choice, client = random.Random(f"{SEED} revoke"), Client(self.ports, self.journal)
        while not self.stop.is_set():
            made = self.make_key(client, 10_000_000)
            victim = self.live[choice.randrange(KEYS)]
            self.live[self.live.index(victim)] = made
            client.insist("POST", f"/api/v1/keys/{victim['id']}/revoke", self.gateway.admin_key, {}, {200})
            with self.journal.lock:
                self.journal.revoked_at[victim["id"]] = time.monotonic()
                self.journal.revoked.append(victim["id"])
            self.dead.append(victim)
            time.sleep(choice.uniform(0, 0.2))

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for thread in self.threads:
            thread.join()


class Nemesis:
    """What goes wrong, in an order that the seed decides."""

    def __init__(self, gateway, links):
        self.gateway, self.links, self.choice = gateway, links, random.Random(SEED)
        self.frozen, self.done = [], collections.Counter()
        self.cuts, self.full = [], []         # (what ends it, when)
        self.spared = {}                      # name: until when; what it has refused is only in its memory

    def store_pid(self, name):
        return int((self.gateway.home / "sv" / name / "supervise" / "pid").read_text())

    def strike(self):
        luck = self.choice.random()
        if luck < 0.04:
            self.hit("postgres", signal.SIGQUIT)      # an immediate end, as of a crashed server
        elif luck < 0.10:
            self.hit("redis", signal.SIGSTOP)         # frozen only: its counters are what limits are held against
        elif luck < 0.22:
            self.cut(self.choice.choice(Links.NAMES), self.choice.choice(["hold", "drop"]), self.choice.uniform(0.05, 5.0))
        elif luck < 0.30:
            self.fill_disk(self.choice.choice(EDGES))
        elif luck < 0.32 and SECONDS > 120:
            self.starve()
        else:
            name = self.choice.choice(WORKERS + EDGES)
            how = self.choice.choices([signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM], [5, 3, 2])[0]
            self.hit(name, how)

    def cut(self, link, how, span):
        if any(link == other for other, _ in self.cuts):
            return
        self.links.tell(how, link)
        self.cuts.append((link, time.monotonic() + span))
        self.done[f"{how} {link}"] += 1

    def fill_disk(self, name):
        """No file of the edge may grow beyond a size: somewhere in its segment it can write no more."""
        pid, span, size = self.gateway.pid(name), self.choice.uniform(0.2, 3.0), self.choice.randrange(SEGMENT_BYTES)
        if pid is None or self.is_spared(name) or any(pid == other for other, _ in self.frozen):
            return
        self.links.tell("files", f"{size}:{pid}")
        self.full.append((pid, time.monotonic() + span))
        self.spared[name] = time.monotonic() + span + SETTLED_S
        self.done[f"disk full {name}"] += 1

    def starve(self):
        """Postgres is out of audit's reach until the spools are at their quota."""
        if self.cuts or self.frozen:
            return
        span = self.choice.uniform(15, 25)
        self.cut("postgres", "hold", span)
        for name in EDGES:
            self.spared[name] = time.monotonic() + span + 5 * SETTLED_S

    def is_spared(self, name):
        return self.spared.get(name, 0) > time.monotonic()

    def hit(self, name, how):
        span = self.choice.uniform(0.05, 3.0)
        pid = self.store_pid(name) if name in ("postgres", "redis") else self.gateway.pid(name)
        if pid is None or self.is_spared(name) or any(pid == other for other, _ in self.frozen):
            return
        try:
            os.kill(pid, how)
        except ProcessLookupError:
            return
        self.done[f"{how.name} {name}"] += 1
        if how == signal.SIGSTOP:
            self.frozen.append((pid, time.monotonic() + span))

    def thaw(self, all_of_them=False):
        now = time.monotonic()
        for link, until in list(self.cuts):
            if all_of_them or until <= now:
                self.cuts.remove((link, until))
                self.links.tell("heal", link)
        for pid, until in list(self.full):
            if all_of_them or until <= now:
                self.full.remove((pid, until))
                self.links.tell("files", f"-1:{pid}")
        for pid, until in list(self.frozen):
            if not all_of_them and until > now:
                continue
            self.frozen.remove((pid, until))
            try:
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                pass

    def rage(self, seconds):
        end, next_strike = time.monotonic() + seconds, time.monotonic() + 1.0
        while time.monotonic() < end:
            if time.monotonic() >= next_strike:
                self.strike()
                next_strike = time.monotonic() + self.choice.uniform(0.2, 1.6)
            self.thaw()
            time.sleep(0.02)
        self.thaw(all_of_them=True)


@pytest.fixture
def chaotic():
    home = os.environ.get("CHAOS_HOME")
    instance = Gateway(home or make_home(on_disk=True), int(os.environ.get("CHAOS_PORT", "0")) or free_port(2))
    instance.links = Links(instance.home, EDGES)
    instance.settings = {**instance.links.settings, "MCPGW_SETTINGS_edge":
                         f"MCPGW_SPOOL_BYTES={SPOOL_BYTES} MCPGW_SEGMENT_BYTES={SEGMENT_BYTES} {os.environ.get('CHAOS_EDGE', '')}"}
    try:
        instance.up(edge=2, authz=2, ratelimit=2, keys=2, audit=2)
        yield instance
    finally:
        if home is None:
            instance.run("reset", check=False)
            shutil.rmtree(instance.home, ignore_errors=True)
        instance.links.close()


def trail_of(gateway, request_ids):
    """Statuses of the events that are answers, by request id; and the ids of rows, to find repetitions."""
    with gateway.database() as connection, connection.cursor() as cursor:
        cursor.execute('select "requestId", status, id from audit.event where "requestId" = any(%s)'
                       " and status > 0 and event in ('request', 'completion')", [list(request_ids)])
        rows = cursor.fetchall()
    statuses = collections.defaultdict(list)
    for request_id, status, _ in rows:
        statuses[request_id].append(status)
    return statuses, collections.Counter(row for _, _, row in rows)


def missing_in(journal, statuses):
    return [(request_id, answers, statuses.get(request_id, [])) for request_id, answers in journal.answers.items()
            if collections.Counter(answers) - collections.Counter(statuses.get(request_id, []))]


def holes_in(gateway, since):
    with gateway.database() as connection, connection.cursor() as cursor:
        cursor.execute("select producer, epoch, first_seq, previous from (select producer, epoch, first_seq, first_at,"
                       " lag(last_seq) over (partition by producer, epoch order by first_seq) as previous from audit.batch) b"
                       " where first_seq <> coalesce(previous, 0) + 1 and first_at >= %s"
                       " and producer <> '00000000-0000-7000-8000-000000000001'", [since])
        holes = cursor.fetchall()
        cursor.execute("select * from audit.event where event = 'lost' and time >= %s", [since])
        return holes, cursor.fetchall()


def ends_without_beginning(gateway, since):
    with gateway.database() as connection, connection.cursor() as cursor:
        cursor.execute('select "requestId" from audit.event c where event = \'completion\' and time >= %s and not exists (select from'
                       ' audit.event d where d.event = \'decision\' and d."requestId" = c."requestId" and d.producer = c.producer'
                       " and d.epoch = c.epoch and d.seq < c.seq)", [since])
        return cursor.fetchall()


def stored(gateway):
    with gateway.database() as connection:
        return connection.execute("select sum(count) from audit.event where status is not null").fetchone()[0]


def counted(gateway):
    with gateway.database() as connection:
        return connection.execute("select sum(requests) from audit.usage").fetchone()[0]


def shed(gateway, since):
    """How many requests the trail says were refused because the spool took nothing."""
    with gateway.database() as connection:
        return connection.execute("select coalesce(sum(count), 0) from audit.event where event = 'refused'"
                                  " and reason = 'audit_unavailable' and time >= %s", [since]).fetchone()[0]


def count_events(gateway, event, keys):
    with gateway.database() as connection, connection.cursor() as cursor:
        cursor.execute('select "keyId", count(*) from audit.event where event = %s and "keyId" = any(%s) group by 1', [event, keys])
        return dict(cursor.fetchall())


@pytest.mark.timeout(SECONDS + 600)
def test_whatever_dies_answers_and_trail_agree(chaotic):
    print(f"\nCHAOS_SEED={SEED} CHAOS_MINUTES={SECONDS / 60:g}")
    with chaotic.database() as connection:
        since = connection.execute("select now()").fetchone()[0]
    nemesis = Nemesis(chaotic, chaotic.links)
    with Load(chaotic) as load:
        journal = load.journal
        try:
            nemesis.rage(SECONDS)
        finally:
            nemesis.thaw(all_of_them=True)
        for name in WORKERS + EDGES:
            wait_until(lambda name=name: chaotic.pid(name) and chaotic.is_ready(name), 60, f"{name} is ready again")
        calm = sum(map(len, journal.answers.values()))
        wait_until(lambda: sum(map(len, journal.answers.values())) > calm + 300, 60, "answers after the storm")
    told = collections.Counter(status for answers in journal.answers.values() for status in answers)
    print(f"strikes {sum(nemesis.done.values())}: {dict(nemesis.done)}\nattempts {sum(journal.attempts.values())},"
          f" answers {dict(told)}, no answer {dict(journal.errors)}, audit_unavailable {journal.without_event},"
          f" keys revoked {len(journal.revoked)}, limited {dict(journal.limited)}")
    assert load.failures == [] and journal.hung == []
    assert journal.revived == [], "a revoked key was let in"

    wait_until(lambda: not missing_in(journal, trail_of(chaotic, journal.attempts)[0]), 90, "every answer's event is in the trail")
    statuses, rows = trail_of(chaotic, journal.attempts)
    assert [row for row, count in rows.items() if count > 1] == [], "an event stands twice"
    assert [(r, journal.answers[r], s) for r, s in statuses.items() if len(s) > journal.attempts[r]] == [], \
        "more events than requests"
    wait_until(lambda: shed(chaotic, since) >= journal.without_event, 30, "what the spool refused is counted")
    assert shed(chaotic, since) <= journal.without_event + sum(journal.errors.values()), "more were counted than were refused"
    assert holes_in(chaotic, since) == ([], [])
    assert ends_without_beginning(chaotic, since) == [], "a call reached its server without a decision"
    wait_until(lambda: counted(chaotic) == stored(chaotic), 60, "usage is what the trail holds")
    verdict = chaotic.cli("audit", "verify", "--json")
    assert verdict.returncode == 0, verdict.stdout + verdict.stderr
    print(verdict.stdout.splitlines()[-1])
    once = dict.fromkeys(journal.created, 1)
    wait_until(lambda: len(count_events(chaotic, "key.revoked", journal.revoked)) == len(journal.revoked), 30,
               "each revocation is in the trail")
    assert count_events(chaotic, "key.created", journal.created) == once
    assert count_events(chaotic, "key.revoked", journal.revoked) == dict.fromkeys(journal.revoked, 1)
    check_the_limit(chaotic, load, journal.limited)


def check_the_limit(gateway, load, told):
    """What Redis has counted lies between what was let in and what might have been."""
    def ask():
        answer = gateway.check(load.limited["key"])
        return [answer] if answer.status_code in (200, 429) else None
    answer = wait_until(ask, 20, "the limited key is judged")[0]
    charged = LIMIT - int(answer.headers["X-RateLimit-Remaining"]) - (answer.status_code == 200)
    uncertain = sum(count for status, count in told.items() if status not in (200, 401, 403, 429))
    assert told[200] <= LIMIT and told[200] <= charged <= told[200] + uncertain, (told, charged)


def test_a_frozen_gateway_goes_on_where_it_stood(chaotic):
    """The machine was suspended by its host: longer than any deadline, while requests were in work."""
    made = chaotic.make_key(name="frozen", scopes=["read"])
    assert chaotic.check(made["key"]).status_code == 200
    before = {name: chaotic.pid(name) for name in WORKERS + EDGES}
    frozen, told = list(before), []
    requests = [threading.Thread(target=lambda: told.append(chaotic.check(made["key"], timeout=60).status_code)) for _ in range(20)]
    try:
        for name in WORKERS:
            os.kill(before[name], signal.SIGSTOP)
        for request in requests:
            request.start()
        time.sleep(0.5)         # they are in work now, and stay so: nobody is there to answer them
        for name in EDGES:
            os.kill(before[name], signal.SIGSTOP)
        time.sleep(FREEZE_S)    # the freeze itself, not a wait for something
    finally:
        for name in frozen:
            os.kill(before[name], signal.SIGCONT)
    for request in requests:
        request.join()
    assert len(told) == 20 and set(told) <= {200, 503}
    wait_until(lambda: chaotic.check(made["key"]).status_code == 200, 20, "requests are served again")
    assert {name: chaotic.pid(name) for name in WORKERS + EDGES} == before
