"""mcpgw audit verify and prove against real rows: what a superuser of the database does to the trail is found."""
import fcntl
import json
import os
import subprocess
import uuid

import pytest

from conftest import program, wait_until
from test_audit import OUTBOX, Spool, add_outbox, start, wait_stored


@pytest.fixture
def trail(database, edge, service, tmp):
    """A signed trail: three checkpoints of one spool, and events of the outbox."""
    trail = Trail(database, edge, service, tmp)
    yield trail
    trail.spool.close()


class Trail:
    def __init__(self, database, edge, service, tmp):
        self.database, self.tmp, self.dir = database, tmp, tmp / "checkpoints"
        self.key = tmp / "checkpoint.key"
        subprocess.run([program("mcpgw"), "audit", "keygen", self.key], check=True, stdout=subprocess.DEVNULL)
        self.spool = Spool(edge)
        self.audit = start(service, database, MCPGW_CHECKPOINT_KEY=str(self.key), MCPGW_CHECKPOINT_DIR=str(self.dir),
                           MCPGW_CHECKPOINT_MS="100")
        add_outbox(database, [1, 2, 5])
        for _ in range(3):
            self.grow()

    def grow(self):
        for _ in range(3):
            self.spool.write(7)
            wait_stored(self.database, self.spool)
        producer, size = str(uuid.UUID(bytes=self.spool.producer)), self.spool.next_seq - 1
        wait_until(lambda: (producer, size) in [(c["producer"], c["size"]) for c in self.exported()], what="the checkpoint")
        wait_until(lambda: self.database.sql("SELECT count(*) FROM audit.checkpoint WHERE size = 3 AND producer = " + OUTBOX)[0][0],
                   what="the outbox's checkpoint")

    def exported(self):
        return [json.loads(line) for path in self.dir.glob("*.jsonl") for line in path.read_text().splitlines()]

    def mcpgw(self, *arguments):
        environment = {"PATH": os.environ["PATH"], "MCPGW_HOME": str(self.tmp), "MCPGW_DATABASE_URL": self.database.url("mcpgw_audit")}
        return subprocess.run([program("mcpgw"), "audit", *map(str, arguments)], env=environment, capture_output=True, text=True)

    def verify(self, *more):
        done = self.mcpgw("verify", "--json", "--key", f"{self.key}.pub", *(more or ["--checkpoints", self.dir]))
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        assert done.returncode == (1 if len(lines) > 1 else 0), (done.returncode, done.stdout, done.stderr)
        assert lines[-1]["whole"] == (len(lines) == 1)
        return {line["finding"] for line in lines[:-1]}, lines

    def change(self, sql, *values):
        """What a superuser does while the service is away, and its effect taken back afterwards."""
        self.database.sql("SET lock_timeout = '5s'")
        with self.database.connection.transaction(force_rollback=False):
            self.database.sql(sql, *values)


MUTATIONS = {
    "a bit is flipped": ("UPDATE audit.batch SET user_id[3] = 'u0' WHERE first_seq = 15", {"changed"}),
    "a number is changed": ("UPDATE audit.batch SET latency_us[1] = latency_us[1] + 1 WHERE first_seq = 22", {"changed"}),
    "a time is changed": ("UPDATE audit.batch SET at[2] = at[2] + interval '1 microsecond' WHERE first_seq = 8", {"changed"}),
    "an event is taken out of a row": ("UPDATE audit.batch SET event = event[1:6], count = 6 WHERE first_seq = 15", {"changed"}),
    "a row is deleted": ("DELETE FROM audit.batch WHERE first_seq = 22", {"missing"}),
    "the first row is deleted": ("DELETE FROM audit.batch WHERE first_seq = 1 AND epoch = 1 AND count = 7", {"missing"}),
    "two rows are swapped": (
        "UPDATE audit.batch b SET at = o.at, request_id = o.request_id, first_at = o.first_at, last_at = o.last_at FROM audit.batch o"
        " WHERE (b.first_seq, o.first_seq) IN ((8, 29), (29, 8)) AND b.count = 7 AND o.count = 7", {"changed"}),
    "two events are swapped": (
        "UPDATE audit.batch SET request_id[1] = request_id[2], request_id[2] = request_id[1] WHERE first_seq = 15", {"changed"}),
    "the tail is cut": ("DELETE FROM audit.batch WHERE first_seq >= 43 AND count = 7", {"tail_cut"}),
    "the tail is cut and the watermark with it": (
        "WITH c AS (SELECT * FROM audit.checkpoint WHERE size = 42), d AS (DELETE FROM audit.batch WHERE first_seq > 42 AND count = 7),"
        " e AS (DELETE FROM audit.checkpoint WHERE size > 42) UPDATE audit.watermark w SET size = c.size, next_seq = c.next_seq,"
        " peaks = c.peaks, signature = c.signature, signed_at = c.signed_at FROM c WHERE c.producer = w.producer", {"tail_cut"}),
    "the whole epoch is gone": (
        "WITH a AS (DELETE FROM audit.batch WHERE count = 7), b AS (DELETE FROM audit.checkpoint WHERE size > 3)"
        " DELETE FROM audit.watermark WHERE size > 3", {"tail_cut", "forged"}),
    "rows are renumbered": ("UPDATE audit.batch SET first_seq = first_seq + 7, last_seq = last_seq + 7 WHERE first_seq >= 36", {"missing"}),
    "a row is forged": (
        "INSERT INTO audit.batch SELECT * FROM (SELECT b.*) x", None),
    "a row is hidden from look-ups": ("UPDATE audit.batch SET keys = '{k0}' WHERE first_seq = 29", {"changed"}),
    "an event of the outbox is changed": (
        f"UPDATE audit.batch SET user_id[1] = 'nobody', users = '{{nobody,admin}}' WHERE producer = {OUTBOX} AND first_seq = 1", {"changed"}),
}
FORGED = """
WITH last AS (SELECT * FROM audit.batch WHERE count = 7 ORDER BY first_seq DESC LIMIT 1), moved AS (
    UPDATE audit.watermark w SET next_seq = next_seq + 7, size = size + 7 FROM last WHERE w.producer = last.producer RETURNING 1)
INSERT INTO audit.batch (producer, epoch, first_seq, last_seq, count, first_at, last_at, at, event, outcome, reason, request_id,
    user_id, tenant_id, auth_method, key_id, address, method, path, server, tool, status, latency_us, bytes, requests, details, keys,
    users, first_leaf)
SELECT producer, epoch, first_seq + 7, last_seq + 7, count, first_at, last_at, at, event, outcome, reason, request_id, user_id,
    tenant_id, auth_method, key_id, address, method, path, server, tool, status, latency_us, bytes, requests, details, keys, users,
    first_leaf + 7 FROM last, moved"""


def test_what_a_superuser_does_to_the_trail_is_found(trail):
    findings, lines = trail.verify()
    assert findings == set() and lines[-1]["events"] == 63 + 3 and lines[-1]["unproven"] == 0, lines
    trail.audit.stop()
    tables = ("batch", "watermark", "checkpoint")
    for table in tables:
        trail.database.sql(f"CREATE TABLE kept_{table} AS SELECT * FROM audit.{table}")
    columns = {table: ", ".join(row[0] for row in trail.database.sql(
        "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped", f"audit.{table}"))
        for table in tables}
    for name, (sql, expected) in MUTATIONS.items():
        trail.change(FORGED if expected is None else sql)
        findings, lines = trail.verify()
        assert (expected or {"forged"}) <= findings, (name, lines)
        for table in tables:
            trail.change(f"DELETE FROM audit.{table}")
            trail.change(f"INSERT INTO audit.{table} ({columns[table]}) SELECT {columns[table]} FROM kept_{table}")
        findings, lines = trail.verify()
        assert findings == set(), (name, lines)


HIDING = {
    "a policy": ("ALTER TABLE audit.batch ENABLE ROW LEVEL SECURITY", "ALTER TABLE audit.batch DISABLE ROW LEVEL SECURITY", "audit.batch"),
    "a trigger": ("CREATE FUNCTION public.drop_it() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
                  " CREATE TRIGGER drop_it BEFORE INSERT ON audit.quarantine FOR EACH ROW EXECUTE FUNCTION public.drop_it()",
                  "DROP FUNCTION public.drop_it CASCADE", "audit.quarantine"),
    "a reader of another text": ("ALTER FUNCTION audit.recent RENAME TO true_recent;"
                                 " CREATE FUNCTION audit.recent(timestamptz, timestamptz, text, text, integer) RETURNS SETOF audit.event"
                                 " LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS"
                                 " 'SELECT * FROM audit.true_recent($1, $2, $3, $4, $5) e WHERE e.seq <> 15'",
                                 "DROP FUNCTION audit.recent; ALTER FUNCTION audit.true_recent RENAME TO recent", "audit.recent"),
    "a reader that looks elsewhere": ("ALTER FUNCTION mcpgw.audit_page SET search_path = public, pg_catalog",
                                      "ALTER FUNCTION mcpgw.audit_page SET search_path = pg_catalog, pg_temp", "mcpgw.audit_page"),
}


def test_what_stands_between_rows_and_readers_is_found(trail):
    assert trail.verify()[0] == set()
    for name, (hide, show, where) in HIDING.items():
        trail.change(hide)
        findings, lines = trail.verify()
        assert "hidden" in findings and lines[0]["detail"].startswith(where), (name, lines)
        trail.change(show)
        assert trail.verify()[0] == set(), name


def test_the_database_cannot_say_what_time_it_is(trail):
    """A whole epoch is gone, and a now() of the year 2200, by which retention would have dropped it."""
    trail.change(MUTATIONS["the whole epoch is gone"][0])
    trail.change("CREATE FUNCTION public.now() RETURNS timestamptz LANGUAGE sql AS $$ SELECT timestamptz '2200-01-01' $$")
    trail.change("ALTER ROLE mcpgw_audit SET search_path = public, pg_catalog")
    try:
        assert "tail_cut" in trail.verify()[0]
    finally:
        trail.change("ALTER ROLE mcpgw_audit RESET search_path")


def test_a_foreign_checkpoint_is_found(trail):
    other = trail.tmp / "other.key"
    subprocess.run([program("mcpgw"), "audit", "keygen", other], check=True, stdout=subprocess.DEVNULL)
    done = trail.mcpgw("verify", "--json", "--key", f"{other}.pub", "--checkpoints", trail.dir)
    assert done.returncode == 1 and "foreign_checkpoint" in done.stdout
    exported = trail.exported()
    forged = trail.tmp / "forged.jsonl"
    forged.write_text(json.dumps(dict(exported[0], producer=str(uuid.uuid4()))) + "\n")
    assert trail.verify("--checkpoints", forged)[0] == {"foreign_checkpoint"}
    forged.write_text("nonsense\n")
    assert trail.verify("--checkpoints", forged)[0] == {"foreign_checkpoint"}
    trail.change("UPDATE audit.checkpoint SET next_seq = next_seq + 1 WHERE size = 42")
    assert trail.verify()[0] == {"foreign_checkpoint"}


def test_a_watermark_that_somebody_else_wrote_is_told_and_signed_no_more(trail, service):
    trail.change(FORGED)
    trail.spool.next_seq += 7
    trail.spool.write(3)
    wait_until(lambda: trail.audit.metrics()["mcpgw_audit_tampered_total"] >= 1, what="the alarm")
    assert trail.audit.events("trail_tampered")
    wait_until(lambda: trail.database.sql("SELECT max(last_seq) FROM audit.batch WHERE first_seq > 63")[0][0] == 73, what="the events")
    assert "forged" in trail.verify()[0]


def test_one_event_is_proven_offline(trail):
    identity = f"{uuid.UUID(bytes=trail.spool.producer)}-1-17"
    done = trail.mcpgw("prove", identity)
    assert done.returncode == 0, done.stderr
    proof = json.loads(done.stdout)
    path = trail.tmp / "proof.json"

    def check(document):
        path.write_text(json.dumps(document))
        return subprocess.run([program("mcpgw"), "audit", "check-proof", path, "--key", f"{trail.key}.pub"],
                              env={"PATH": os.environ["PATH"]}, capture_output=True, text=True)
    good = check(proof)
    assert good.returncode == 0, good.stderr
    event = json.loads(good.stdout)
    assert (event["seq"], event["requestId"], event["userId"], event["status"]) == (17, event["requestId"], "u1", 200)
    assert check(dict(proof, index=proof["index"] + 1)).returncode == 1
    assert check(dict(proof, proof=proof["proof"][1:])).returncode == 1
    assert check(dict(proof, content=proof["content"][:-4] + "AAAA")).returncode == 1
    assert check(dict(proof, checkpoint=dict(proof["checkpoint"], size=1))).returncode == 1
    assert check({}).returncode == 1
    assert trail.mcpgw("prove", "nonsense").returncode == 2
    assert trail.mcpgw("prove", identity + "0000").returncode == 1


def test_a_slot_in_use_or_no_slot_is_not_imported(tmp):
    spool = tmp / "spool"
    slot = tmp / "slot-0"
    for path in (spool, slot):
        path.mkdir()
    environment = {"PATH": os.environ["PATH"], "MCPGW_HOME": str(tmp)}

    def run(*arguments):
        return subprocess.run([program("mcpgw"), "audit", "import", *map(str, arguments)], env=environment, capture_output=True, text=True)
    assert run(slot).returncode == 2                      # without a uuid
    (slot / "uuid").write_text(str(uuid.uuid4()))
    assert run(slot).returncode == 0                      # nothing left
    (slot / f"{1:020}-{1:020}.seg").write_bytes(b"x")
    held = os.open(slot, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    assert run(slot, "--wait", "0").returncode == 1 and list(spool.iterdir()) == []
    os.close(held)
    done = run(slot, "--wait", "0")
    assert done.returncode == 3, done.stderr              # nobody serves it yet
    assert (spool / "slot-0" / f"{1:020}-{1:020}.seg").read_bytes() == b"x" and (tmp / "slot-0.imported").exists()
