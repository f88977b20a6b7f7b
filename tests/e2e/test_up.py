"""`make up` twice, side by side, and when something is wrong: a clear sentence and nothing half-started."""
import socket
import subprocess

from conftest import Gateway, free_port, make_home, wait_until


def test_up_may_be_repeated_and_changes_nothing(gateway):
    names = [path.stem for path in (gateway.home / "run").glob("*.pid")]
    before = {name: gateway.pid(name) for name in names}
    key = gateway.admin_key
    gateway.up()
    assert {name: gateway.pid(name) for name in names} == before and gateway.admin_key == key


def test_two_instances_live_side_by_side(gateway, own_gateway):
    other = own_gateway()
    assert other.check(other.admin_key).status_code == 200
    assert other.check(gateway.admin_key).status_code == 401
    assert gateway.check(gateway.admin_key).status_code == 200


def test_down_and_up_keeps_keys_and_events(own_gateway):
    gateway = own_gateway()
    made = gateway.make_key(scopes=["read"])
    assert gateway.check(made["key"]).status_code == 200
    gateway.run("down")
    assert not (gateway.home / "run" / "edge-1.pid").exists()
    gateway.up()
    assert gateway.check(made["key"]).status_code == 200
    events = gateway.wait_for_events(2, keyId=made["id"], event="request")
    assert len({event["epoch"] for event in events}) == 2


def test_a_port_in_use_is_named(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        gateway = Gateway(make_home(), taken.getsockname()[1])
        result = gateway.run("up", check=False)
        gateway.run("reset", check=False)
    assert result.returncode == 3 and f"127.0.0.1:{gateway.port}" in result.stdout and "MCPGW_LISTEN" in result.stdout


def test_status_names_what_does_not_run(own_gateway):
    gateway = own_gateway()
    assert gateway.run("status").returncode == 0
    gateway.run_sv("down", "ratelimit-1")
    result = gateway.run("status", check=False)
    assert result.returncode == 1 and "ratelimit-1" in result.stdout and "not running" in result.stdout


def test_secrets_are_readable_by_their_owner_only(gateway):
    assert (gateway.home / "env").stat().st_mode & 0o077 == 0
    assert (gateway.home / "admin.key").stat().st_mode & 0o077 == 0
    for secret in (gateway.home / "secrets").iterdir():
        if secret.suffix == ".pub":    # what the trail's signatures are checked with: for everybody
            continue
        assert secret.stat().st_mode & 0o077 == 0, secret


def test_no_key_is_ever_in_a_log(gateway):
    made = gateway.make_key(scopes=["read"])
    gateway.check(made["key"])
    wait_until(lambda: gateway.events(keyId=made["id"], event="request"), 20, "the event")
    for log in gateway.home.glob("log/*/current"):
        assert made["key"] not in log.read_text(errors="replace"), log
    found = subprocess.run(["grep", "-rl", made["key"], str(gateway.home / "spool")], stdout=subprocess.PIPE).stdout
    assert found == b""
