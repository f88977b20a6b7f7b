"""mcpgw-audit alone: the test is the edge (PUB and replay), a real Postgres takes the events."""
import hmac
import os
import signal
import struct
import threading
import time
import uuid

import psycopg
import pytest

import busedge
from conftest import wait_until

HEADER = struct.Struct("<4sI16sQQIHHQ32s32sII")
RECORD = struct.Struct("<IHHQ")
EVENT = busedge.MESSAGES["audit_event"].code


def _crc_table():
    table = []
    for n in range(256):
        for _ in range(8):
            n = n >> 1 ^ 0x82F63B78 if n & 1 else n >> 1
        table.append(n)
    return table


CRC_TABLE = _crc_table()


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ CRC_TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def make_block(producer, epoch, first_seq, bodies, code=EVENT, prev=None, key=None):
    """bodies: dicts of audit_event, or bytes as they are.  prev: chained, by this key."""
    records = b""
    for body in bodies:
        body = body if isinstance(body, bytes) else busedge.encode_body("audit_event", body)
        records += RECORD.pack(len(body), code, 0, time.time_ns() // 1000) + body
    fields = [b"MGT1", HEADER.size + len(records), producer, epoch, first_seq, len(bodies), busedge.VERSION, 0,
              time.time_ns() // 1000, bytes(32), bytes(32), 0, 0]
    if prev is not None:
        fields[7], fields[9] = 1, prev
        fields[10] = hmac.digest(key, HEADER.pack(*fields)[:88] + records, "sha256")
    fields[-2] = crc32c(HEADER.pack(*fields) + records)
    return HEADER.pack(*fields) + records


class Spool:
    """A producer: what it wrote, told by heartbeats, served for replay."""

    def __init__(self, edge, producer=None, epoch=1, master=None):
        self.key, self.closed, self.resume = None, False, {}
        producer = producer or os.urandom(16)
        if master is not None:
            self.key = hmac.digest(master, producer + struct.pack("<Q", epoch), "sha256")
        self.prev = bytes(32)
        self.edge, self.producer, self.epoch = edge, producer or os.urandom(16), epoch
        self.blocks, self.next_seq, self.oldest_seq, self.acked = [], 1, 1, 0
        self.requests, self.serves, self.damage = [], True, False
        self._stop = threading.Event()
        edge.on["replay_request"] = self._replay
        edge.on["trail_ack"] = self._ack
        self._thread = threading.Thread(target=self._tell, daemon=True)
        self._thread.start()

    def close(self):
        self._stop.set()
        self._thread.join()

    def _tell(self):
        while not self._stop.wait(0.05):
            self.edge.publish([("trail_heartbeat", {
                "producer": self.producer, "epoch": self.epoch, "next_seq": self.next_seq, "durable_seq": self.next_seq,
                "oldest_seq": self.oldest_seq, "closed": self.closed})])

    def _ack(self, edge, message):
        if message["producer"] == self.producer and message["epoch"] == self.epoch:
            self.acked = max(self.acked, message["next_seq"])

    def _replay(self, edge, message):
        self.requests.append(message["from_seq"])
        if not self.serves or message["producer"] != self.producer:
            return
        sent, next_seq, error = 0, message["from_seq"], "OK" if message["from_seq"] >= self.oldest_seq else "NOT_FOUND"
        for first, count, block in list(self.blocks) if error == "OK" else []:
            if first + count <= message["from_seq"] or (sent and sent + len(block) > message["max_bytes"]):
                continue
            if first in self.resume:
                error, next_seq = "MALFORMED", self.resume[first]
                break
            if self.damage:
                block = block[:-1] + bytes([block[-1] ^ 1])
            edge.send(message.worker, [("trail_block", {"block": block})])
            sent, next_seq = sent + len(block), first + count
        edge.send(message.worker, [("replay_end", {"error": busedge.ERR[error], "producer": self.producer, "epoch": self.epoch,
                                                   "next_seq": next_seq})])

    def write(self, count=10, publish=True, bodies=None):
        bodies = bodies or [{"event": "request", "outcome": "allowed", "request_id": f"r{self.next_seq + n}",
                             "user_id": "u1", "auth_method": 1, "key_id": f"k{n % 3}", "status": 200} for n in range(count)]
        block = make_block(self.producer, self.epoch, self.next_seq, bodies, prev=self.key and self.prev, key=self.key)
        self.prev = block[88:120]
        self.blocks.append((self.next_seq, len(bodies), block))
        self.next_seq += len(bodies)
        if publish:
            self.edge.publish([("trail_block", {"block": block})])
        return block


@pytest.fixture
def spool(edge):
    spool = Spool(edge)
    yield spool
    spool.close()


def start(service, database, **more):
    return service("audit", MCPGW_DATABASE_URL=database.url("mcpgw_audit"), **more).wait_ready()


def sequences(database, spool):
    return [row[0] for row in database.sql("SELECT seq FROM audit.event WHERE producer = %s ORDER BY seq",
                                           str(uuid.UUID(bytes=spool.producer)))]


def wait_stored(database, spool, count=None):
    expected = list(range(1, (count or spool.next_seq - 1) + 1))
    wait_until(lambda: len(sequences(database, spool)) >= len(expected), what=f"{len(expected)} events")
    assert sequences(database, spool) == expected


def test_blocks_become_events(database, edge, service, spool):
    start(service, database)
    edge.wait_worker("audit")
    spool.write(bodies=[
        {"event": "request", "outcome": "allowed", "request_id": "r1", "user_id": "u1", "tenant_id": "t1", "auth_method": 1,
         "key_id": "k1", "address": "127.0.0.1", "method": "GET", "path": "/auth/check", "status": 200, "latency_us": 321,
         "bytes": 17, "details": '{"a":[1]}'},
        {"event": "decision", "outcome": "allowed", "server": "s", "tool": "t", "details": 'no "json"'}])
    wait_stored(database, spool, 2)
    columns = ('event, outcome, reason, "requestId", "userId", "tenantId", "authMethod", "keyId", address, method, path, server,'
               ' tool, status, "latencyUs", bytes, count, epoch, seq, details')
    first, second = database.sql(f"SELECT {columns} FROM audit.event ORDER BY seq")
    assert first == ("request", "allowed", None, "r1", "u1", "t1", "api_key", "k1", "127.0.0.1", "GET", "/auth/check", None, None,
                     200, 321, 17, 1, 1, 1, {"a": [1]})
    assert second == ("decision", "allowed") + (None,) * 9 + ("s", "t", None, 0, 0, 1, 1, 2, 'no "json"')
    (identity, age), = database.sql("SELECT id, now() - time < interval '1 minute' FROM audit.event WHERE seq = 1")
    assert identity == f"{uuid.UUID(bytes=spool.producer)}-1-1" and age
    assert database.sql("SELECT keys, users FROM audit.batch") == [(["k1"], ["u1"])]
    wait_until(lambda: spool.acked == 3, what="the acknowledgement")


def test_duplicates_are_dropped(database, edge, service, spool):
    audit = start(service, database)
    edge.wait_worker("audit")
    block = spool.write(5)
    wait_stored(database, spool)
    for _ in range(3):
        edge.publish([("trail_block", {"block": block})])
    spool.write(1)
    wait_stored(database, spool)
    assert audit.metrics()["mcpgw_audit_duplicates_total"] == 15


def test_a_gap_is_replayed(database, edge, service, spool):
    audit = start(service, database)
    edge.wait_worker("audit")
    for n in range(40):
        spool.write(7, publish=n % 3 == 0)
    wait_stored(database, spool)
    metrics = audit.metrics()
    assert metrics["mcpgw_audit_replayed_total"] > 0 and metrics["mcpgw_audit_gaps_total"] > 0


def test_a_lost_tail_and_what_was_written_before_is_fetched(database, edge, service, spool):
    for _ in range(20):
        spool.write(50, publish=False)
    start(service, database)
    wait_stored(database, spool)
    spool.write(3, publish=False)
    wait_stored(database, spool)
    wait_until(lambda: spool.acked == spool.next_seq, what="the acknowledgement")


def test_a_large_backlog_is_fetched_in_windows(database, edge, service, spool):
    for _ in range(60):
        spool.write(bodies=[{"event": "request", "outcome": "allowed", "path": "/" + "x" * 500, "status": 200}] * 100, publish=False)
    start(service, database)
    wait_stored(database, spool)
    assert 10 < len(spool.requests) < 60


def test_kill_9_and_restart_lose_and_repeat_nothing(database, edge, service, spool):
    audit = start(service, database)
    for _ in range(6):
        for _ in range(10):
            spool.write(20)
        wait_until(lambda: len(sequences(database, spool)) > spool.next_seq / 2, what="some events")
        spool.write(200)
        audit.kill()
        spool.write(30)
        audit = start(service, database)
    spool.write(1)
    wait_stored(database, spool)


def test_of_two_instances_one_inserts_and_the_other_takes_over(database, edge, service, spool):
    instances = [start(service, database, instance=name) for name in "ab"]
    spool.write(10)
    wait_stored(database, spool)
    active = [i for i in instances if i.metrics()["mcpgw_audit_active"] == 1]
    assert len(active) == 1
    standby = next(i for i in instances if i is not active[0])
    active[0].kill()
    began = time.monotonic()
    spool.write(10)
    wait_stored(database, spool)
    wait_until(lambda: standby.metrics()["mcpgw_audit_active"] == 1)
    assert time.monotonic() - began < 10
    (token,), = database.sql("SELECT consumer_token FROM audit.watermark WHERE producer = %s", str(uuid.UUID(bytes=spool.producer)))
    assert token >= 2


def test_a_paused_instance_that_wakes_as_a_straggler_inserts_nothing(database, edge, service, spool):
    first = start(service, database, instance="a")
    spool.write(10)
    wait_stored(database, spool)
    first.signal(signal.SIGSTOP)
    database.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'mcpgw-audit'")
    second = start(service, database, instance="b")
    wait_until(lambda: second.metrics()["mcpgw_audit_active"] == 1, what="the take-over")
    spool.write(10)
    wait_stored(database, spool)
    first.signal(signal.SIGCONT)
    spool.write(10)
    wait_stored(database, spool)
    wait_until(lambda: first.metrics()["mcpgw_audit_active"] == 0, what="standing by")


def test_a_watermark_moved_by_another_throws_the_batch_away(database, edge, service, spool):
    audit = start(service, database)
    spool.write(10)
    wait_stored(database, spool)
    database.sql("UPDATE audit.watermark SET next_seq = 16 WHERE producer = %s", str(uuid.UUID(bytes=spool.producer)))
    spool.write(5)
    spool.write(5)
    wait_until(lambda: sequences(database, spool) == [*range(1, 11), *range(16, 21)], what="the rest")
    assert audit.metrics()["mcpgw_audit_fenced_total"] >= 1


def add_outbox(database, numbers):
    for number in numbers:
        database.sql("INSERT INTO mcpgw.outbox (sequence, at, event, source, actor_user_id, actor_key_id, actor_tenant_id, request_id,"
                     " key_id, tenant_id, reason, details) VALUES (%s, now(), 'key.revoked', 'api', 'admin', 'ak', 'at', 'q', %s, 't2',"
                     " 'leaked', '{\"x\": 1}')", number, f"key{number}")
    database.sql("NOTIFY mcpgw_change, '1'")


OUTBOX = '\'00000000-0000-7000-8000-000000000001\''


def test_outbox_rows_become_events_once(database, edge, service):
    add_outbox(database, [1, 2, 4, 7, 8, 9])
    audit = start(service, database)
    wait_until(lambda: audit.metrics()["mcpgw_audit_outbox_total"] == 6, what="the outbox")
    audit.kill()
    add_outbox(database, [10, 12])
    audit = start(service, database)
    wait_until(lambda: audit.metrics()["mcpgw_audit_outbox_total"] == 2, what="the outbox")
    add_outbox(database, [13])
    wait_until(lambda: audit.metrics()["mcpgw_audit_outbox_total"] == 3, what="the outbox")
    rows = database.sql(f'SELECT seq, "keyId" FROM audit.event WHERE producer = {OUTBOX} ORDER BY seq')
    assert rows == [(n, f"key{n}") for n in (1, 2, 4, 7, 8, 9, 10, 12, 13)]
    row, = database.sql('SELECT event, outcome, reason, "requestId", "userId", "tenantId", "authMethod", details FROM audit.event'
                        " WHERE seq = 4")
    assert row == ("key.revoked", "allowed", "leaked", "q", "admin", "at", "api_key",
                   {"source": "api", "keyId": "key4", "actorKeyId": "ak", "subjectTenantId": "t2", "x": 1})
    assert [r[0] for r in database.sql("SELECT seq FROM audit.recent(NULL, NULL, 'key9', NULL, 5)")] == [9]


def test_a_management_change_leaves_its_event_with_the_trigger(database, edge, service):
    start(service, database)
    database.sql("INSERT INTO mcpgw.server (slug, url, created_at, updated_at) VALUES ('s1', 'http://x', now(), now())")
    wait_until(lambda: database.sql("SELECT event, server FROM audit.event") == [("server.created", "s1")], what="the event")


def test_a_damaged_block_is_quarantined_and_fetched_again(database, edge, service, spool):
    audit = start(service, database)
    edge.wait_worker("audit")
    spool.write(5)
    wait_stored(database, spool)
    good = spool.write(5, publish=False)
    edge.publish([("trail_block", {"block": good[:-1] + b"!"})])
    wait_stored(database, spool)
    wait_until(lambda: database.sql("SELECT reason, bytes FROM audit.quarantine") == [("block", good[:-1] + b"!")], what="quarantine")
    assert audit.metrics()["mcpgw_audit_quarantined_total"] == 1


def test_garbage_of_every_length_is_survived(database, edge, service, spool):
    start(service, database)
    edge.wait_worker("audit")
    block = make_block(spool.producer, 1, 1, [{"event": "e", "outcome": "o"}])
    for cut in range(0, len(block), 7):
        edge.publish([("trail_block", {"block": block[:cut] or b"x"})])
    edge.publish([("trail_block", {"block": make_block(spool.producer, 2**63, 1, [{"event": "e", "outcome": "o"}])})])
    edge.publish([("trail_block", {"block": make_block(spool.producer, 1, 2**63, [{"event": "e", "outcome": "o"}])})])
    spool.write(3)
    wait_stored(database, spool)


def test_records_that_cannot_be_read_keep_their_place(database, edge, service, spool):
    start(service, database)
    edge.wait_worker("audit")
    spool.write(bodies=[{"event": "request", "outcome": "allowed"}, b"\xc1\xc1", {"event": "request", "outcome": "allowed"}])
    wait_stored(database, spool)
    assert database.sql("SELECT event FROM audit.event ORDER BY seq") == [("request",), (f"unreadable:{EVENT}",), ("request",)]
    wait_until(lambda: database.sql("SELECT reason, first_seq FROM audit.quarantine") == [("record", 4 - 3)], what="quarantine")


def test_a_code_of_a_newer_release_is_stored_by_number(database, edge, service, spool):
    start(service, database)
    edge.wait_worker("audit")
    edge.publish([("trail_block", {"block": make_block(spool.producer, 1, 1, [b"\x90", b"\x90"], code=0x7001)})])
    wait_until(lambda: database.sql("SELECT event, seq FROM audit.event ORDER BY seq") == [("unknown:28673", 1), ("unknown:28673", 2)],
               what="the events")


def test_what_the_spool_lost_leaves_an_event_that_says_so(database, edge, service, spool):
    for _ in range(4):
        spool.write(10, publish=False)
    spool.oldest_seq = 31
    audit = start(service, database)
    wait_until(lambda: sequences(database, spool) == [1, *range(31, 41)], what="what is left")
    assert database.sql("SELECT event, outcome, count FROM audit.event WHERE seq = 1") == [("lost", "unknown", 30)]
    assert audit.events("events_lost")[0]["count"] == 30
    spool.write(5)
    wait_until(lambda: sequences(database, spool) == [1, *range(31, 46)], what="what comes after")


def test_damage_in_the_spool_is_given_up_in_the_end(database, edge, service, spool):
    start(service, database)
    edge.wait_worker("audit")
    spool.write(10)
    wait_stored(database, spool)
    spool.write(10, publish=False)
    spool.damage = True
    spool.write(10)
    wait_until(lambda: sequences(database, spool) == [*range(1, 12), *range(21, 31)], what="what can be read")
    assert database.sql("SELECT event, count FROM audit.event WHERE seq = 11") == [("lost", 10)]


def test_a_spool_put_back_from_a_copy_is_told(database, edge, service, spool):
    audit = start(service, database)
    edge.wait_worker("audit")
    spool.write(10)
    wait_stored(database, spool)
    spool.next_seq = 5
    wait_until(lambda: audit.events("epoch_reused"), what="the alarm")
    assert audit.events("epoch_reused")[0]["stored_next_seq"] == 11


def test_a_tail_that_was_on_disk_and_is_gone_is_told(database, edge, service, spool):
    audit, spool.serves = start(service, database), False
    spool.write(10)
    wait_stored(database, spool)
    spool.write(10, publish=False)
    wait_until(lambda: spool.requests, what="the question for what was told")
    spool.blocks.pop()
    spool.next_seq = 11
    cut = wait_until(lambda: audit.events("spool_cut"), what="the alarm")[0]
    assert (cut["from_seq"], cut["count"]) == (11, 10) and audit.metrics()["mcpgw_audit_cut_total"] == 10


def test_postgres_down_and_back(postgres_server, database, edge, service, spool):
    audit = start(service, database)
    spool.write(10)
    wait_stored(database, spool)
    postgres_server.stop()
    wait_until(lambda: audit.readyz()[0] == 503, what="not ready")
    for _ in range(300):
        spool.write(100)
    postgres_server.start()
    audit.wait_ready()
    wait_stored(database, spool)


def test_a_start_without_postgres_waits_for_it(postgres_server, database, edge, service, spool):
    postgres_server.stop()
    audit = service("audit", MCPGW_DATABASE_URL=database.url("mcpgw_audit"))
    wait_until(lambda: audit.readyz()[0] == 503, what="not ready")
    spool.write(10)
    postgres_server.start()
    audit.wait_ready()
    wait_stored(database, spool)


def test_a_stop_stores_what_it_has(database, edge, service, spool):
    audit = start(service, database)
    edge.wait_worker("audit")
    spool.write(10)
    wait_stored(database, spool)
    spool.write(100)
    assert audit.stop() == 0
    wait_until(lambda: not database.sql("SELECT FROM pg_stat_activity WHERE application_name = 'mcpgw-audit'"), what="the end")
    assert sequences(database, spool) in ([*range(1, 11)], [*range(1, 111)])
    start(service, database)
    wait_stored(database, spool)


def test_two_producers_and_two_epochs_do_not_mix(database, edge, service, spool, tmp):
    start(service, database)
    with busedge.Edge(tmp / "edge-2", name="two") as other:
        second = Spool(other, producer=spool.producer, epoch=2)
        third = None
        try:
            spool.write(5), second.write(7, publish=False)
            wait_until(lambda: database.sql("SELECT epoch, count(*) FROM audit.event GROUP BY 1 ORDER BY 1") == [(1, 5), (2, 7)],
                       what="both epochs")
        finally:
            second.close()
            assert third is None


def test_the_role_may_do_no_more_than_it_needs(database):
    for statement in ("DELETE FROM audit.batch", "UPDATE audit.batch SET count = 0", "DELETE FROM audit.watermark",
                      "SELECT * FROM public.apikey", "INSERT INTO mcpgw.outbox VALUES (1)", "DELETE FROM mcpgw.outbox",
                      "CREATE TABLE audit.mine ()", "DROP TABLE audit.batch_default", "DELETE FROM audit.quarantine",
                      "SELECT * FROM mcpgw.credential", "TRUNCATE audit.batch"):
        with database.server.connect(database.name, "mcpgw_audit") as connection:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)


def test_partitions_are_made_ahead_and_old_ones_dropped(database, edge, service, spool):
    database.sql("CREATE TABLE audit.batch_20200101 PARTITION OF audit.batch FOR VALUES FROM ('2020-01-01 00:00Z') TO ('2020-01-02 00:00Z')")
    start(service, database, MCPGW_RETENTION_DAYS="30")
    names = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'audit.batch'::regclass"
    wait_until(lambda: database.sql("SELECT to_regclass('audit.batch_20200101')") == [(None,)], what="retention")
    assert database.sql(names)[0][0] >= 8


def test_the_newest_events_are_found_whatever_producer_made_them(database, edge, service, spool):
    start(service, database)
    edge.wait_worker("audit")
    for n in range(30):
        spool.write(20)
        if n % 10 == 9:
            wait_stored(database, spool)
    for since, key, limit in ((None, None, 7), (None, "k1", 9), ("1 hour", "k2", 1000), (None, None, 1000), ("0 s", None, 5)):
        arguments = (since, since, key, limit)
        expected = database.sql('SELECT id FROM audit.event WHERE (%s::text IS NULL OR time >= now() - %s::interval)'
                                ' AND (%s::text IS NULL OR "keyId" = %s) ORDER BY time DESC, id DESC LIMIT %s',
                                since, since, key, key, limit)
        found = database.sql("SELECT id FROM audit.recent(CASE WHEN %s::text IS NULL THEN NULL ELSE now() - %s::interval END, NULL,"
                             " %s, NULL, %s)", *arguments)
        assert found == expected


def test_a_chain_that_is_cut_is_refused_told_and_its_place_kept(database, edge, service):
    master = "0123456789abcdef"
    spool = Spool(edge, master=master.encode())
    audit = start(service, database, MCPGW_CHAIN_KEY=master)
    for _ in range(3):
        spool.write(5)
    wait_stored(database, spool)
    (head,), = database.sql("SELECT head FROM audit.watermark WHERE producer = %s", str(uuid.UUID(bytes=spool.producer)))
    assert head == spool.prev
    spool.write(5, publish=False)
    first, count, block = spool.blocks[-1]
    forged = make_block(spool.producer, 1, first, [{"event": "forged", "outcome": "allowed"}] * 5, prev=block[56:88], key=b"x" * 32)
    spool.blocks[-1] = (first, count, forged)
    spool.write(5)
    wait_until(lambda: sequences(database, spool) == [*range(1, 17), *range(21, 26)], what="what could be believed")
    assert database.sql("SELECT event, reason, count FROM audit.event WHERE seq = 16") == [("lost", "chain", 5)]
    assert not database.sql("SELECT FROM audit.event WHERE event = 'forged'")
    assert forged in [row[0] for row in database.sql("SELECT bytes FROM audit.quarantine WHERE reason = 'chain'")]
    assert audit.metrics()["mcpgw_audit_chain_broken_total"] >= 1 and audit.metrics()["mcpgw_audit_lost_total"] == 5
    spool.write(5)
    spool.prev = b"y" * 32
    spool.write(5)
    wait_until(lambda: database.sql("SELECT count FROM audit.event WHERE seq = 31") == [(5,)], what="the second refusal")
    spool.close()


def test_an_epoch_of_another_key_is_told_and_taken(database, edge, service):
    spool = Spool(edge, master=b"another")
    audit = start(service, database, MCPGW_CHAIN_KEY="0123456789abcdef")
    spool.write(5)
    spool.write(5)
    wait_stored(database, spool)
    assert len(audit.events("epoch_not_authenticated")) == 1
    spool.close()


def test_damage_in_a_closed_epoch_does_not_stall_it(database, edge, service, spool):
    for _ in range(5):
        spool.write(10, publish=False)
    spool.resume, spool.closed = {11: 31}, True
    audit = start(service, database)
    wait_until(lambda: sequences(database, spool) == [*range(1, 12), *range(31, 51)], what="what can be read")
    assert database.sql("SELECT event, reason, count FROM audit.event WHERE seq = 11") == [("lost", "damage", 20)]
    assert audit.metrics()["mcpgw_audit_lost_total"] == 20
    wait_until(lambda: spool.acked == 51, what="the acknowledgement")


def test_calls_that_a_closed_epoch_left_open_have_an_unknown_outcome(database, edge, service, spool):
    start(service, database)
    edge.wait_worker("audit")
    call = {"outcome": "allowed", "server": "s"}
    spool.write(bodies=[dict(call, event="decision", request_id=r) for r in ("a", "b", "c", "a", "d")])
    spool.write(bodies=[dict(call, event="completion", request_id=r, status=200) for r in ("b", "a")])
    wait_stored(database, spool)
    unknown = "SELECT \"requestId\", seq FROM audit.event WHERE event = 'decision' AND outcome = 'unknown' ORDER BY seq"
    assert database.sql(unknown) == []
    spool.write(bodies=[dict(call, event="completion", request_id="d", status=200)])
    spool.closed = True
    wait_until(lambda: database.sql(unknown), what="the sweep")
    assert database.sql(unknown) == [("c", 3), ("a", 4)]


def test_usage_counts_each_answer_once_whatever_dies(database, edge, service, spool):
    audit = start(service, database, MCPGW_USAGE_MS="100")
    answer = {"event": "request", "outcome": "allowed", "auth_method": 1, "tenant_id": "t1", "status": 200, "latency_us": 100, "bytes": 7}
    for n in range(12):
        spool.write(bodies=[dict(answer, user_id=f"u{i % 2}", key_id=f"k{i % 3}") for i in range(6)]
                    + [{"event": "decision", "outcome": "allowed", "key_id": "k0", "server": "s"},
                       {"event": "completion", "outcome": "failed", "key_id": "k0", "server": "s", "status": 502},
                       {"event": "refused", "outcome": "refused", "status": 429, "count": 5}])
        if n % 4 == 3:
            audit.kill()
            audit = start(service, database, MCPGW_USAGE_MS="100")
    wait_stored(database, spool)
    usage = "SELECT key_id, user_id, server, sum(requests)::int, sum(refused)::int, sum(failed)::int FROM audit.usage GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"
    wait_until(lambda: database.sql("SELECT sum(requests) FROM audit.usage") == [(12 * 12,)], what="the counts")
    assert database.sql(usage) == [("", "", "", 60, 60, 0), ("k0", "", "s", 12, 0, 12), ("k0", "u0", "", 12, 0, 0), ("k0", "u1", "", 12, 0, 0),
                                   ("k1", "u0", "", 12, 0, 0), ("k1", "u1", "", 12, 0, 0), ("k2", "u0", "", 12, 0, 0), ("k2", "u1", "", 12, 0, 0)]
    assert database.sql("SELECT sum(requests) FROM audit.pulse") == [(144,)]
    assert database.sql("SELECT audit.count_usage(10)") == [(False,)]
    assert database.sql("SELECT sum(bytes), sum(latency_us) FROM audit.usage") == [(12 * 6 * 7, 12 * 6 * 100)]
