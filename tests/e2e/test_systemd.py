"""The units of compose/systemd: judged by systemd-analyze, and started by a systemd that boots in a container.

The container needs podman and the image debian:bookworm-slim; the images it builds stay, as mcpgw:e2e and mcpgw:systemd.
"""
import json
import os
import re
import shutil
import subprocess

import pytest

from conftest import ROOT, only_when_asked, wait_until

pytestmark = pytest.mark.timeout(1500)    # a first build fetches packages and compiles everything

SERVICES = ["edge", "authz", "ratelimit", "keys", "audit"]
UNITS = ROOT / "compose" / "systemd"
EXPOSURE_MAX = 20    # of 100, as `systemd-analyze security` counts; an unprotected service has 96

SETUP = r"""
set -eu
cd /
# As on a machine, where systemd does it: the credentials of a unit are mounted where its process sees them.
mount --make-rshared /
units=/usr/local/share/mcpgw/systemd
install -m 644 $units/*.service $units/*.timer $units/mcpgw.target /etc/systemd/system/
install -D -m 644 /usr/local/share/mcpgw/gateway.yaml /etc/mcpgw/gateway.yaml
install -D -m 644 $units/mcpgw.sysusers /etc/sysusers.d/mcpgw.conf
install -D -m 644 $units/mcpgw.tmpfiles /etc/tmpfiles.d/mcpgw.conf
systemd-sysusers
systemd-tmpfiles --create
# Debian's own unit wants user namespaces, which not every kernel has.
mkdir -p /etc/systemd/system/redis-server.service.d
printf '[Service]\nPrivateUsers=no\n' >/etc/systemd/system/redis-server.service.d/here.conf
systemctl daemon-reload
systemctl start postgresql redis-server
sql() { runuser -u postgres -- psql -X -q -v ON_ERROR_STOP=1; }
until echo 'select 1' | sql >/dev/null 2>&1; do sleep 0.2; done
printf '%s;\n' "create role mcpgw_owner login createrole password 'owner'" 'create database mcpgw owner mcpgw_owner' | sql
export MCPGW_OWNER_DATABASE_URL=postgresql://mcpgw_owner:owner@127.0.0.1/mcpgw
mcpgw-keys migrate
mcpgw-audit migrate
mcpgw-keys bootstrap --key-file /root/admin.key
umask 077
$units/make-keys
for role in authz keys audit; do
    echo "alter role mcpgw_$role password '$role';" | sql
    printf 'postgresql://mcpgw_%s:%s@127.0.0.1/mcpgw' $role $role >/etc/mcpgw/credentials/$role.database_url
done
for role in authz ratelimit; do printf 'redis://127.0.0.1:6379/0' >/etc/mcpgw/credentials/$role.redis_url; done
systemctl enable --now mcpgw.target
"""

DOCKERFILE = """
FROM localhost/mcpgw:e2e AS programs
FROM docker.io/library/debian:bookworm-slim
RUN apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        systemd systemd-sysv dbus libzmq5 libczmq4 libmsgpackc2 libssl3 libjansson4 libcurl4 libpq5 libhiredis0.14 \
        libyaml-0-2 libsystemd0 libsmartcols1 libcivetweb1 postgresql-15 redis-server openssl curl procps
COPY --from=programs /usr/local/bin/ /usr/local/bin/
COPY compose/systemd/ /usr/local/share/mcpgw/systemd/
COPY compose/gateway.yaml /usr/local/share/mcpgw/
STOPSIGNAL SIGRTMIN+3
CMD ["/sbin/init"]
"""


def analyze(*arguments):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not on this machine")
    return subprocess.run(["systemd-analyze", *map(str, arguments)], text=True, timeout=60,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@pytest.fixture
def units(tmp_path):
    """Copies whose programs are there: systemd-analyze looks for them."""
    for unit in [*UNITS.glob("*.service"), *UNITS.glob("*.timer"), UNITS / "mcpgw.target"]:
        (tmp_path / unit.name).write_text(unit.read_text().replace("/usr/local/bin/", f"{tmp_path}/"))
    for program in ["mcpgw", *(f"mcpgw-{service}" for service in SERVICES)]:
        (tmp_path / program).symlink_to("/bin/true")
    return tmp_path


def test_the_units_are_sound(units):
    result = analyze("verify", units / "mcpgw.target", *sorted(units.glob("*.service")), units / "mcpgw-identity.timer")
    assert result.returncode == 0 and result.stdout == "", result.stdout


def test_every_secret_of_a_service_reaches_it_as_a_credential_that_may_be_absent():
    """All but the owner's connection, which is for commands."""
    for service in SERVICES:
        unit = (UNITS / f"mcpgw-{service}@.service").read_text()
        for name in re.findall(r"^SETTING\(SECRET, *(\w+)", (ROOT / "services" / service / "config.def").read_text(), re.M):
            if name == "owner_database_url":
                continue
            assert f"MCPGW_{name.upper()}_FILE=%d/{name}" in unit and f"LoadCredential={name}:" in unit, (service, name)
            assert f"SetCredential={name}:" in unit or name in ("database_url", "redis_url", "cache_key", "chain_key"), (service, name)


@pytest.mark.parametrize("unit", ["mcpgw-identity.service", *(f"mcpgw-{service}@.service" for service in SERVICES)])
def test_a_unit_leaves_its_service_little(units, unit):
    result = analyze("security", "--offline=true", f"--threshold={EXPOSURE_MAX}", "--no-pager", units / unit)
    assert result.returncode == 0, result.stdout


class Machine:
    """A container whose first process is systemd."""

    name = f"mcpgw-e2e-systemd-{os.getpid()}"

    def podman(self, *arguments, limit=120, input=None):
        return subprocess.run(["podman", *arguments], text=True, timeout=limit, input=input, cwd=ROOT,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def sh(self, script, check=True):
        result = self.podman("exec", "-i", self.name, "bash", "-s", input=script)
        assert not check or result.returncode == 0, f"{script}\n{result.stdout}\n{self.journal()}"
        return result.stdout.strip()

    def is_booted(self):
        state = self.podman("exec", self.name, "systemctl", "is-system-running").stdout.strip()
        return state in ("running", "degraded")

    def journal(self):
        return self.podman("exec", self.name, "journalctl", "--no-pager", "-o", "cat", "-n", "60", "-u", "mcpgw-*").stdout

    def status(self, port=8080):
        return self.sh(f'curl -s -o /dev/null -w "%{{http_code}}" -H "x-api-key: $(cat /root/admin.key)" http://127.0.0.1:{port}/auth/check',
                       check=False)

    def mounts(self, service):
        """Options of what a service sees mounted, by place."""
        lines = self.sh(f"cat /proc/$(systemctl show -P MainPID mcpgw-{service}@1)/mounts").splitlines()
        return {place: options.split(",") for _, place, _, options, *_ in map(str.split, lines)}

    def key_ids(self):
        """Of the keys that the edge publishes."""
        return {key["kid"] for key in json.loads(self.sh("curl -s http://127.0.0.1:8080/.well-known/jwks.json"))["keys"]}

    def workers(self, role):
        """(live workers of a role, frames refused because their sender may not speak so), as the first edge counts them."""
        text = self.sh("curl -s http://127.0.0.1:$(cat /run/mcpgw/edge/edge-1.ops)/metrics", check=False)
        series = dict(line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
        return (float(series.get(f'mcpgw_workers{{role="{role}"}}', 0)), float(series.get('mcpgw_bus_refused_total{why="authority"}', 0)))


@pytest.fixture(scope="module")
def machine():
    only_when_asked()
    instance = Machine()
    if shutil.which("podman") is None or instance.podman("info").returncode != 0:
        pytest.skip("podman does not work here")
    if instance.podman("image", "exists", "docker.io/library/debian:bookworm-slim").returncode != 0:
        pytest.skip("the image debian:bookworm-slim is not on this machine")
    for arguments, dockerfile in ((["-t", "localhost/mcpgw:e2e", "-f", "compose/Dockerfile"], None),
                                  (["-t", "localhost/mcpgw:systemd", "-f", "-"], DOCKERFILE)):
        built = instance.podman("build", "-q", *arguments, ".", limit=1200, input=dockerfile)
        assert built.returncode == 0, built.stdout[-4000:]
    try:
        # SYS_ADMIN: else systemd leaves out the mount namespaces of the units and says nothing.  podman allows a container
        # 2048 threads; every edge has one for each connection it may hold.
        started = instance.podman("run", "-d", "--systemd=always", "--cap-add=SYS_ADMIN", "--security-opt=seccomp=unconfined",
                                  "--pids-limit=0", "--name", instance.name, "localhost/mcpgw:systemd")
        if started.returncode != 0:
            pytest.skip(f"systemd cannot be the first process of a container here: {started.stdout[-300:]}")
        try:
            wait_until(instance.is_booted, 60, "systemd has booted")
        except AssertionError:
            pytest.skip(f"systemd does not boot in a container here: {instance.podman('logs', instance.name).stdout[-300:]}")
        instance.sh(SETUP)
        wait_until(lambda: instance.status() == "200", 60, "the administrator's key is answered")
        yield instance
    finally:
        instance.podman("rm", "-f", "-t", "5", instance.name)


def test_every_service_runs_as_its_own_user(machine):
    for service in SERVICES:
        assert machine.sh(f"systemctl is-active mcpgw-{service}@1") == "active"
        assert machine.sh(f"ps -o user:20= -p $(systemctl show -P MainPID mcpgw-{service}@1)") == f"mcpgw-{service}"


@pytest.mark.parametrize("service", SERVICES)
def test_the_sandbox_of_a_service_is_in_effect(machine, service):
    pid = machine.sh(f"systemctl show -P MainPID mcpgw-{service}@1")
    status = dict(line.split(":\t", 1) for line in machine.sh(f"cat /proc/{pid}/status").splitlines() if ":\t" in line)
    assert status["NoNewPrivs"] == "1" and status["Seccomp"] == "2" and int(status["CapBnd"], 16) == 0
    options = machine.mounts(service)
    assert "ro" in options["/"] and "rw" in options["/run/mcpgw"]


def test_a_service_reads_its_own_credentials_only(machine):
    expected = {"edge": {"chain_key", "lookup_key"}, "ratelimit": {"redis_url"}, "keys": {"database_url", "better_auth_redis_url", "lookup_key"},
                "authz": {"database_url", "redis_url", "cache_key", "better_auth_secret", "session_redis_url"},
                "audit": {"database_url", "chain_key", "checkpoint_key", "checkpoint_key.pub"}}
    for service in SERVICES:
        directory = f"/run/credentials/mcpgw-{service}@1.service"
        assert set(machine.sh(f"ls {directory}").split()) == expected[service]
        for other in SERVICES:
            read = machine.sh(f"runuser -u mcpgw-{other} -- cat {directory}/* >/dev/null 2>&1 && echo yes || echo no")
            assert read == ("yes" if other == service else "no"), (service, other)
    assert machine.sh("stat -c %a /etc/mcpgw/credentials/chain_key /etc/mcpgw/credentials/checkpoint/key").split() == ["400", "400"]


def test_every_service_is_scheduled_in_batches(machine):
    for service in SERVICES:
        assert "SCHED_BATCH" in machine.sh(f"chrt -p $(systemctl show -P MainPID mcpgw-{service}@1)")


def test_the_edge_signs_with_a_key_that_it_cannot_write(machine):
    assert machine.sh("systemctl is-active mcpgw-identity.timer") == "active"
    assert machine.key_ids() == {machine.sh("ls /var/lib/mcpgw/identity")[len("1234567890-RS256-"):-len(".pem")]}
    assert machine.sh("stat -c '%U %a' /var/lib/mcpgw/identity /var/lib/mcpgw/identity/*").splitlines() == ["mcpgw-edge 700", "mcpgw-edge 600"]
    options = machine.mounts("edge")
    assert "ro" in options["/"] and not any(place.startswith("/var/lib/mcpgw/identity") for place in options)
    assert [place for place in options if place.startswith("/var/lib/mcpgw")] == ["/var/lib/mcpgw/spool"]


def test_a_month_old_key_of_identities_is_replaced(machine):
    """Made a month ago, says its name, which is what counts."""
    before = machine.key_ids()
    machine.sh("systemctl start mcpgw-identity")
    assert machine.key_ids() == before
    machine.sh("cd /var/lib/mcpgw/identity; for key in *; do mv $key $((${key%%-*} - 2700000))-${key#*-}; done; systemctl start mcpgw-identity")
    wait_until(lambda: len(machine.key_ids()) == 2 and machine.key_ids() > before, 30, "both are published")


def test_the_trail_is_signed(machine):
    assert machine.status() == "200"
    wait_until(lambda: machine.sh("cat /var/lib/mcpgw/checkpoints/*", check=False), 60, "a checkpoint")
    machine.sh("MCPGW_DATABASE_URL=postgresql://mcpgw_owner:owner@127.0.0.1/mcpgw MCPGW_AUDIT_CHECKPOINTS=/var/lib/mcpgw/checkpoints"
               " MCPGW_AUDIT_KEY=/etc/mcpgw/credentials/checkpoint/key.pub mcpgw audit verify")


def test_a_stranger_to_a_role_is_not_taken_in(machine):
    workers, refused = machine.workers("authz")
    roles = ",".join(f"{service}=mcpgw-{service}" for service in SERVICES)
    machine.sh("systemd-run --unit=stranger -p User=mcpgw-audit -p Group=mcpgw --setenv=MCPGW_EDGES=ipc:///run/mcpgw/bus/edge-1"
               f" --setenv=MCPGW_BUS_UIDS={roles} --setenv=MCPGW_INSTANCE=stranger"
               " --setenv=MCPGW_DATABASE_URL=postgresql://mcpgw_authz:authz@127.0.0.1/mcpgw /usr/local/bin/mcpgw-authz")
    wait_until(lambda: machine.workers("authz")[1] > refused, 30, "its frames are refused")
    machine.sh("systemctl stop stranger")
    assert machine.workers("authz")[0] == workers


def test_the_trail_reaches_postgres(machine):
    assert machine.status() == "200"
    wait_until(lambda: "/auth/check" in machine.sh("MCPGW_API_KEY_FILE=/root/admin.key mcpgw audit tail"), 30, "the event")


def test_more_instances_are_enabled_by_number(machine):
    machine.sh("echo MCPGW_LISTEN=127.0.0.1:8180 >/etc/mcpgw/edge-2.env; systemctl start mcpgw-authz@2 mcpgw-edge@2")
    wait_until(lambda: machine.workers("authz")[0] == 2, 30, "the second worker is known to the first edge")
    wait_until(lambda: machine.status(8180) == "200", 30, "the second edge answers")
    machine.sh("systemctl stop mcpgw-authz@2 mcpgw-edge@2")


def test_a_service_that_hangs_is_restarted_by_the_watchdog(machine):
    hung = machine.sh("systemctl show -P MainPID mcpgw-ratelimit@1")
    machine.sh(f"kill -STOP {hung}")
    wait_until(lambda: machine.sh("systemctl show -P MainPID mcpgw-ratelimit@1") not in ("0", hung), 60, "another process")
    wait_until(lambda: machine.status() == "200", 30, "requests are answered again")


def test_stopping_the_target_stops_all_and_ends_cleanly(machine):
    machine.sh("systemctl stop mcpgw.target; systemctl stop 'mcpgw-*'")
    assert machine.sh("systemctl list-units --state=failed --plain --no-legend 'mcpgw-*'") == ""
    machine.sh("systemctl start mcpgw.target")
    wait_until(lambda: machine.status() == "200", 60, "requests are answered again")
