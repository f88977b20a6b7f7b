"""mcpgw bus with the recorded messages: print shows what stands in them, replay plays them at a real worker."""
import subprocess

import pytest

import recorded
from conftest import program
from recorded import WIRE, KEYS
from test_authz import World
from test_keys import add_user


def run(*arguments):
    return subprocess.run([program("mcpgw"), "bus", *map(str, arguments)], capture_output=True, text=True, timeout=120)


def first_lines(paths):
    return [path.read_text().splitlines()[0].removeprefix("# ") for path in paths]


def test_print_refuses_what_is_no_message_and_goes_on(tmp):
    cut = tmp / "verdict.cut.hex"
    cut.write_text(recorded.body("verdict", "allowed").hex()[:-2] + "\n")
    named = tmp / "nothing.allowed.hex"
    named.write_text("93010203\n")
    good = WIRE / "verdict.allowed.hex"
    done = run("print", cut, named, tmp / "absent.hex", good)
    assert done.returncode == 1
    assert done.stdout.splitlines() == first_lines([good])
    assert len(done.stderr.splitlines()) == 3


def test_print_shows_the_first_line_of_every_recording():
    paths = sorted(WIRE.glob("*.hex"))
    for some in (paths[at:at + 30] for at in range(0, len(paths), 30)):      # a command takes a limited number of arguments
        done = run("print", *some)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.splitlines() == first_lines(some)


def test_replay_without_a_worker_says_so(tmp):
    done = run("replay", WIRE, "--role", "authz", "--socket", tmp / "edge-1", "--wait", "1")
    assert done.returncode not in (0, 2)
    assert "READY" in done.stderr


@pytest.fixture
def replay(tmp):
    """replay(role) binds at the tests' bus address; its result() waits for the end."""
    started = []

    def start(role):
        process = subprocess.Popen([program("mcpgw"), "bus", "replay", WIRE, "--role", role, "--socket", tmp / "edge-1", "--wait", "30"],
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(process)
        return process
    yield start
    for process in started:
        process.kill()
        process.wait()


def played(process):
    """What was asked and what came, line by line."""
    out, errors = process.communicate(timeout=100)
    assert (process.returncode, errors) == (0, "")
    lines = out.splitlines()
    return [line[2:] for line in lines if line.startswith("> ")], [line[2:] for line in lines if line.startswith("< ")]


def test_replay_plays_the_charges_at_a_ratelimit_worker(redis_server, service, replay):
    process = replay("ratelimit")
    service("ratelimit", MCPGW_REDIS_URL=redis_server.url)
    asked, came = played(process)
    assert asked == first_lines(sorted(WIRE.glob("charge_request.*.hex")))
    assert [line.split()[0] for line in came] == ["charge"] * len(asked)
    assert sum(line.startswith("charge error=9 ") for line in came) == 1      # one of the two with a limit of one


def test_replay_plays_the_requests_at_an_authz_worker(database, redis_server, service, replay):
    process = replay("authz")
    world = World(database, redis_server, None, service)
    world.add_user("admin")
    world.add_key("admin", ["read", "proxy"], key=KEYS["ci"], id="wire-ci")
    world.start(wait=False)
    asked, came = played(process)
    assert asked == first_lines(sorted(WIRE.glob("verdict_request.*.hex")))
    assert len(came) == len(asked)
    of_case = dict(zip(recorded.cases("verdict_request"), came))
    assert of_case["allowed"].startswith('verdict error=0 user_id="admin"')
    assert of_case["denied"].startswith('verdict error=3 reason="scope"')
    assert of_case["revoked"].startswith('verdict error=2 reason="unknown"')


def test_replay_plays_all_that_a_keys_worker_is_told(database, service, replay):
    process = replay("keys")
    add_user(database, "admin")
    service("keys", MCPGW_DATABASE_URL=database.url("mcpgw_keys"))
    asked, came = played(process)
    names = ("feed_request", "holders", "manage_request", "servers_request")
    assert asked == first_lines(path for name in names for path in sorted(WIRE.glob(f"{name}.*.hex")))
    assert sum(line.startswith("manage_reply ") for line in came) == len(recorded.cases("manage_request"))
    assert [line for line in came if line.startswith(("feed ", "servers_page "))]


def test_replay_plays_events_and_blocks_at_an_audit_worker(database, service, replay):
    process = replay("audit")
    service("audit", MCPGW_DATABASE_URL=database.url("mcpgw_audit"))
    asked, came = played(process)
    assert asked == first_lines(sorted([*WIRE.glob("audit_event.*.hex"), *WIRE.glob("trail_block.*.hex")]))
    assert [line.split()[0] for line in came] == ["trail_ack"] * len(asked)
    stored = database.sql("SELECT event, outcome FROM audit.event")
    assert len(stored) == len(asked) and ("completion", "allowed") in stored
