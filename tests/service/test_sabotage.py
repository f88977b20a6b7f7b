"""The tests of the trail notice when a protection is missing: the same check on builds that lack one, and on one that lacks none."""
import uuid

import pytest

import conftest
from conftest import wait_until
from test_audit import Spool, sequences, start, wait_stored
from test_edge import start as start_edge, upstream    # noqa: F401  fixtures


@pytest.fixture
def build(monkeypatch):
    binaries, usual = conftest.ROOT / "build" / "sabotage" / "bin", conftest.program
    for name in ("mcpgw-audit", "mcpgw-edge"):
        if not (binaries / name).exists():
            pytest.skip(f"build/sabotage/bin/{name} is not built: make VARIANT=sabotage build/sabotage/bin/{name}")
    monkeypatch.setattr(conftest, "program",
                        lambda name: str(binaries / name) if name in ("mcpgw-audit", "mcpgw-edge") else usual(name))


class ForgetfulSpool(Spool):
    """Keeps nothing that was acknowledged, as a real one."""

    def _ack(self, edge, message):
        super()._ack(edge, message)
        self.blocks = [block for block in self.blocks if block[0] >= self.acked]
        self.oldest_seq = self.blocks[0][0] if self.blocks else self.acked or 1


def store_through_a_refusal(database, edge, service, sabotage):
    """Postgres refuses one batch, as a full disk would; what is stored in the end, and what was lost."""
    spool = ForgetfulSpool(edge)
    audit = start(service, database, SABOTAGE=sabotage)
    edge.wait_worker("audit")    # before, nobody hears what it acknowledges
    spool.write(10)
    wait_stored(database, spool)
    wait_until(lambda: spool.acked == 11, what="the acknowledgement")
    database.sql("ALTER TABLE audit.batch ADD CONSTRAINT full_disk CHECK (first_seq < 11) NOT VALID")
    spool.write(10)
    wait_until(lambda: audit.events("statement_refused"), what="the refusal")
    database.sql("ALTER TABLE audit.batch DROP CONSTRAINT full_disk")
    spool.write(10)
    wait_until(lambda: 30 in sequences(database, spool), what="the end")
    spool.close()
    return sequences(database, spool) == list(range(1, 31)) and not database.sql("SELECT FROM audit.event WHERE event = 'lost'")


def store_against_another(database, edge, service, spool, sabotage):
    """Another instance stored five events in between; what this one does with its batch of the same."""
    audit = start(service, database, SABOTAGE=sabotage)
    spool.write(10)
    wait_stored(database, spool)
    database.sql("UPDATE audit.watermark SET next_seq = 16, consumer_token = nextval('audit.consumer_token') WHERE producer = %s",
                 str(uuid.UUID(bytes=spool.producer)))
    spool.write(5)
    wait_until(lambda: audit.metrics()["mcpgw_audit_fenced_total"] >= 1 or 15 in sequences(database, spool), what="the batch's end")
    return 15 not in sequences(database, spool)


@pytest.fixture
def spool(edge):
    spool = Spool(edge)
    yield spool
    spool.close()


@pytest.mark.parametrize("sabotage, holds", [("", True), ("transaction", False), ("ack", False)])
def test_a_refused_batch_is_lost_only_without(build, database, edge, service, sabotage, holds):
    assert store_through_a_refusal(database, edge, service, sabotage) == holds


@pytest.mark.parametrize("sabotage, holds", [("", True), ("fencing", False)])
def test_another_instance_s_events_are_repeated_only_without(build, database, edge, service, spool, sabotage, holds):
    assert store_against_another(database, edge, service, spool, sabotage) == holds


@pytest.mark.parametrize("sabotage, holds", [("", True), ("spool", False)])
def test_what_audit_did_not_hear_is_lost_only_without(build, database, tmp, service, start_edge, sabotage, holds):
    edge = start_edge(SABOTAGE=sabotage)
    edge.replies("allowed", "allowed")
    answers = {edge.check().json()["requestId"] for _ in range(10)}
    service("audit", MCPGW_DATABASE_URL=database.url("mcpgw_audit"), MCPGW_EDGES=f"ipc://{tmp}/bus/edge-*").wait_ready()
    told = "SELECT coalesce(sum(count), 0) FROM audit.event WHERE event IN ('request', 'lost')"
    wait_until(lambda: database.sql(told)[0][0] >= 10, what="ten events, whatever became of them")
    stored = {row[0] for row in database.sql('SELECT "requestId" FROM audit.event WHERE event = \'request\'')}
    lost = database.sql("SELECT sum(count) FROM audit.event WHERE event = 'lost'")[0][0]
    assert (stored == answers and not lost) == holds and (holds or lost == 10)
