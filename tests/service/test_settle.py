"""requestCount and lastRequest of Better-Auth's rows are settled from the trail, each event once."""
import datetime
import threading
import uuid

import pytest

from test_schema import USER

HOUR = datetime.timedelta(hours=1)
START = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0) - 12 * HOUR
PRODUCER = uuid.uuid4()
ROW = """INSERT INTO apikey (id, "configId", key, "referenceId", "createdAt", "updatedAt", "requestCount", "lastRequest",
         "rateLimitEnabled", "rateLimitTimeWindow", "rateLimitMax") VALUES ('k', 'default', 'd', 'u', now(), now(), %s, %s, %s, %s, %s)"""


@pytest.fixture
def trail(database):
    database.sql(USER, "u", "U", "u@example.com")
    database.place = 0

    def add(*events, epoch=1):
        """(hours after START, key, event, outcome, count) as one batch."""
        rows = [(START + hours * HOUR, key, event, outcome, count) for hours, key, event, outcome, count in events]
        columns = {name: [fill] * len(rows) for name, fill in
                   [("reason", ""), ("request_id", ""), ("user_id", ""), ("tenant_id", ""), ("auth_method", ""), ("address", ""), ("method", ""),
                    ("path", ""), ("server", ""), ("tool", ""), ("status", 0), ("latency_us", 0), ("bytes", 0), ("details", "{}")]}
        columns.update(at=[r[0] for r in rows], key_id=[r[1] for r in rows], event=[r[2] for r in rows], outcome=[r[3] for r in rows], requests=[r[4] for r in rows],
                       keys=sorted({r[1] for r in rows}), users=[])
        first = database.place
        database.place += len(rows)
        named = dict(producer=PRODUCER, epoch=epoch, first_seq=first, last_seq=database.place - 1, count=len(rows), first_at=rows[0][0], last_at=rows[-1][0], **columns)
        database.sql(f"INSERT INTO audit.batch ({', '.join(named)}) VALUES ({', '.join(['%s'] * len(named))})", *named.values())
        database.sql("INSERT INTO audit.watermark (producer, epoch, next_seq, consumer_token) VALUES (%s, %s, %s, 1)"
                     " ON CONFLICT (producer, epoch) DO UPDATE SET next_seq = excluded.next_seq", PRODUCER, epoch, database.place)
    database.add = add
    return database


def settle(database, limits="ignore_default", batches=16, role="mcpgw_keys"):
    with database.server.connect(database.name, role) as connection:
        return connection.execute("SELECT mcpgw.settle_uses(%s, %s)", (limits, batches)).fetchone()[0]


def counters(database):
    return database.sql('SELECT "requestCount", extract(epoch FROM "lastRequest" - %s) / 3600 FROM apikey', START)[0]


def test_every_allowed_request_counts_once(trail):
    trail.sql(ROW, 0, None, False, None, None)
    trail.add((1, "k", "request", "allowed", 1), (2, "k", "decision", "allowed", 3), (2, "k", "completion", "allowed", 3), (3, "k", "request", "refused", 1),
              (3, "other", "request", "allowed", 1), (3, "", "refused", "refused", 9))
    assert settle(trail) == 1 and counters(trail) == (4, 2)
    assert settle(trail) == 0 and counters(trail) == (4, 2)
    trail.add((4, "k", "request", "allowed", 0))
    trail.add((5, "k", "request", "allowed", 1), epoch=2)
    assert settle(trail, batches=1) == 1 and settle(trail, batches=1) == 1 and settle(trail, batches=1) == 0
    assert counters(trail) == (6, 5)


def test_two_that_settle_at_once_count_once(trail):
    trail.sql(ROW, 0, None, False, None, None)
    for hour in range(1, 5):
        trail.add((hour, "k", "request", "allowed", 1))
    threads = [threading.Thread(target=settle, args=(trail,), kwargs={"batches": 2}) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    while settle(trail):
        pass
    assert counters(trail) == (4, 4)


def test_settling_is_no_change_of_the_key(trail):
    trail.sql(ROW, 0, None, False, None, None)
    before = trail.sql("SELECT value FROM mcpgw.change_sequence")
    trail.add((1, "k", "request", "allowed", 1))
    settle(trail)
    assert trail.sql("SELECT value FROM mcpgw.change_sequence") == before


@pytest.mark.parametrize("limits, row, expected", [
    # limit in force and obeyed: the plugin's window goes on, or starts anew after a gap
    ("obey", (3, START, True, 86400000, 10), (5, 2)), ("obey", (3, START - 30 * HOUR, True, 86400000, 10), (2, 2)),
    ("ignore_default", (3, START, True, 86400000, 11), (5, 2)),
    # ignored: the count stays the plugin's, and ends with its own window
    ("ignore_default", (3, START, True, 86400000, 10), (3, 2)), ("ignore_default", (3, START - 30 * HOUR, True, 86400000, 10), (0, 2)),
    ("ignore", (3, START, True, 86400000, 500), (3, 2)), ("ignore", (3, START, None, 86400000, 500), (3, 2)),
    # not in force
    ("obey", (3, START, False, 86400000, 10), (5, 2)), ("ignore", (3, START, True, None, 10), (5, 2)), ("ignore", (None, None, True, 86400000, None), (2, 2)),
    # what the plugin saw last may be newer
    ("obey", (3, START + 5 * HOUR, True, 86400000, 10), (5, 5)),
])
def test_counters_are_those_the_plugin_would_show(trail, limits, row, expected):
    trail.sql(ROW, *row)
    trail.add((1, "k", "request", "allowed", 1), (2, "k", "request", "allowed", 1))
    settle(trail, limits)
    assert counters(trail) == expected


def test_our_traffic_does_not_keep_the_plugin_s_window_open(trail):
    """Its own last use is 30 hours before our last: a window of 24 hours has ended for it, whatever lastRequest says by then."""
    trail.sql(ROW, 9, START - 20 * HOUR, True, 86400000, 10)
    trail.add((1, "k", "request", "allowed", 1))
    settle(trail)
    assert counters(trail) == (9, 1)
    trail.add((5, "k", "request", "allowed", 1))
    settle(trail)
    assert counters(trail) == (0, 5)
    trail.sql('UPDATE apikey SET "requestCount" = 1, "lastRequest" = %s', START + 6 * HOUR)
    trail.add((7, "k", "request", "allowed", 1))
    settle(trail)
    assert counters(trail) == (1, 7)


# ---- which keys nobody uses: as far as their uses are known

IDLE = """INSERT INTO apikey (id, "configId", key, "referenceId", "createdAt", "updatedAt", enabled)
          VALUES (%s, 'default', %s, 'u', %s, %s, true)"""


@pytest.fixture
def idle(trail):
    """Keys that end an hour after START when nobody uses them."""
    trail.sql("INSERT INTO mcpgw.tenant (id, slug, idle_after_s) VALUES ('user:u', 'u', 7200)")
    for key in ("used", "unused"):
        trail.sql(IDLE, key, f"digest of {key}", START - HOUR, START - HOUR)
    return trail


def disabled_of(database):
    database.sql("SELECT mcpgw.disable_overdue(true)")
    return [key for key, in database.sql("SELECT id FROM apikey WHERE NOT enabled ORDER BY id")]


def test_no_key_is_idle_while_nothing_is_known_of_its_use(idle):
    assert disabled_of(idle) == []
    idle.add((0.5, "used", "request", "allowed", 1))
    assert disabled_of(idle) == [], "its batch is not counted yet"


def test_a_key_in_use_is_not_idle_though_its_uses_came_late(idle):
    idle.add((0, "used", "request", "allowed", 1))
    settle(idle)
    for hour in (1, 2, 3, 4):
        idle.add((hour, "used", "request", "allowed", 1))
    assert settle(idle, batches=2) == 2 and disabled_of(idle) == ["unused"]     # a long backlog, counted in steps
    settle(idle)
    assert disabled_of(idle) == ["unused"]
    idle.add((7, "", "request", "allowed", 1))
    settle(idle)
    assert disabled_of(idle) == ["unused", "used"]


def test_a_key_is_not_idle_while_audit_is_away(idle):
    idle.add((1.5, "used", "request", "allowed", 1))
    settle(idle)
    assert disabled_of(idle) == ["unused"], "the hours since then are unknown"


def test_a_stream_that_comes_late_holds_the_others_back(idle):
    idle.add((1.5, "used", "request", "allowed", 1))
    idle.add((6, "", "request", "allowed", 1), epoch=2)
    settle(idle)
    assert disabled_of(idle) == ["unused"], "what epoch 1 has behind its first hours is on its way"
    idle.sql("UPDATE audit.watermark SET updated = now() - interval '1 day' WHERE epoch = 1")
    assert disabled_of(idle) == ["unused", "used"], "it has ended"


def test_an_idle_key_that_is_enabled_again_stays_enabled(idle):
    idle.add((6, "", "request", "allowed", 1))
    settle(idle)
    assert disabled_of(idle) == ["unused", "used"]
    idle.sql("""UPDATE apikey SET enabled = true, "updatedAt" = now() WHERE id = 'used'""")
    assert disabled_of(idle) == ["unused"]
