"""The stack of compose/: built, started and used through HAProxy, as docs/operating.md prints it.

Needs docker compose or podman-compose and the images that compose/ names; nothing is pulled here. What was built stays as
the image mcpgw:e2e, so that the next run builds only what has changed; containers, volumes and network are removed.
"""
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import requests

from conftest import ROOT, free_port, mcp_call, only_when_asked, tool_text, wait_until

pytestmark = pytest.mark.timeout(1500)    # a first build fetches packages and compiles everything

IMAGES = ["debian:bookworm-slim", "postgres:15", "redis:7", "haproxy:2.8"]
ROLES = ["edge", "authz", "ratelimit", "keys", "audit"]
FILES = ["-f", "compose/compose.yaml", "-f", "compose/example.yaml"]
BUILD_S, UP_S, READY_S = 1200, 300, 120


def works(*command):
    try:
        return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def find_engine():
    """(engine, its compose command); skips by name when there is none, or an image is lacking."""
    only_when_asked()
    if works("docker", "info") and works("docker", "compose", "version"):
        engine, compose = "docker", ["docker", "compose"]
    elif shutil.which("podman-compose") and works("podman", "info"):
        engine, compose = "podman", ["podman-compose"]
    else:
        pytest.skip("neither docker compose nor podman-compose works here")
    lacking = [name for name in IMAGES if not works(engine, "image", "inspect", f"docker.io/library/{name}")]
    if lacking:
        pytest.skip(f"images that are not on this machine: {', '.join(lacking)}")
    return engine, compose


class Stack:
    """One project of compose/ on a port of its own; it has what tests need of conftest's Gateway."""

    def __init__(self, engine, compose, ca):
        self.engine, self.ca, self.port = engine, ca, free_port()
        self.project = f"mcpgwe2e{os.getpid()}"
        self.command = [*compose, "-p", self.project, *FILES]
        self.url = f"https://localhost:{self.port}"
        self.admin_key = None
        self.counts = {}

    def compose(self, *arguments, limit=UP_S, check=True, given=""):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MCPGW_")}
        environment.update(MCPGW_IMAGE="localhost/mcpgw:e2e", MCPGW_HTTPS_PORT=str(self.port), MCPGW_PUBLIC_URL=self.url, **self.counts)
        result = subprocess.run([*self.command, *arguments], cwd=ROOT, env=environment, text=True, timeout=limit,
                                input=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert not check or result.returncode == 0, f"{arguments} ended with {result.returncode}:\n{result.stdout[-4000:]}"
        return result.stdout

    def run(self, *arguments):
        return subprocess.run([self.engine, *arguments], text=True, timeout=120, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout.strip()

    def operator(self, *command, **options):
        """The lines that a command prints in the init service; podman-compose mixes its own among them."""
        return self.compose("run", "--rm", "--no-deps", "-T", "init", *command, **options).splitlines()

    def inside(self, service, script):
        """What a shell prints in the first container of a service."""
        return self.run("exec", self.containers(service)[0], "sh", "-c", script)

    def key_ids(self):
        """Of the keys of identities that the edge publishes."""
        return {key["kid"] for key in requests.get(f"{self.url}/.well-known/jwks.json", timeout=20).json()["keys"]}

    def containers(self, service, *options):
        return self.run("ps", "-q", *options, "--filter", f"label=com.docker.compose.project={self.project}",
                        "--filter", f"label=com.docker.compose.service={service}").split()

    def logs(self):
        services = ["init", "postgres", "redis", "identity", *ROLES, "front"]
        return "\n".join(f"--- {service}\n{self.run('logs', '--tail', '15', container)}"
                         for service in services for container in self.containers(service, "-a"))

    def up(self, *options, **counts):
        self.counts.update(counts)    # podman-compose takes down only as many as the file names now
        self.compose("up", "-d", *options)
        try:
            wait_until(lambda: any("init: done" in self.run("logs", container) for container in self.containers("init", "-a")),
                       READY_S, "init is done")
            if self.admin_key is None:
                self.admin_key = next(line for line in self.operator("cat", "/secrets/operator/admin.key") if line.startswith("mcp_"))
                certificate = "\n".join(self.operator("cat", "/secrets/front/certificate"))
                self.ca.write_text(certificate[certificate.index("-----BEGIN"):] + "\n")
            wait_until(self.is_answering, READY_S, "the administrator's key is answered")
        except (AssertionError, StopIteration, ValueError) as error:
            raise AssertionError(f"{error}\n{self.logs()}") from None

    def is_answering(self):
        try:
            return self.check(self.admin_key).status_code == 200
        except requests.RequestException:
            return False

    def down(self, *options):
        self.compose("down", "-t", "15", *options, check=False)
        self.run("network", "rm", f"{self.project}_default")    # podman-compose 1.0 leaves it

    def remove(self):
        """Whatever state a failure left behind."""
        containers = self.run("ps", "-aq", "--filter", f"label=com.docker.compose.project={self.project}").split()
        self.run("kill", *containers)
        self.run("rm", "-f", *containers)
        self.down("-v")

    def call(self, method, path, key, **arguments):
        headers = {**arguments.pop("headers", {}), "x-api-key": key}
        return requests.request(method, self.url + path, headers=headers, timeout=20, **arguments)

    def check(self, key, **arguments):
        return self.call("GET", "/auth/check", key, **arguments)

    def make_key(self, **fields):
        answer = self.call("POST", "/api/v1/keys", self.admin_key, json={"name": "test", **fields})
        assert answer.status_code == 201, answer.text
        return answer.json()

    def events(self, key_id):
        """(event, status, address) of one key, from Postgres."""
        sql = f"""select json_build_array(event, status, address) from audit.event where "keyId" = '{key_id}' order by time, seq"""
        text = self.run("exec", self.containers("postgres")[0], "psql", "-XAtq", "-U", "postgres", "-d", "mcpgw", "-c", sql)
        return [json.loads(line) for line in text.splitlines() if line.startswith("[")]

    def wait_for_requests(self, key_id, count):
        found = wait_until(lambda: [e for e in self.events(key_id) if e[0] == "request"][count - 1:] and self.events(key_id), 60,
                           f"{count} events of {key_id}")
        return [event for event in found if event[0] == "request"]


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    ca = tmp_path_factory.mktemp("front") / "certificate"
    instance = Stack(*find_engine(), ca)
    before = os.environ.get("REQUESTS_CA_BUNDLE")
    os.environ["REQUESTS_CA_BUNDLE"] = str(ca)    # every session of these tests believes this certificate and no other
    try:
        instance.compose("build", limit=BUILD_S)
        instance.up("--build")
        yield instance
    finally:
        if before is None:
            del os.environ["REQUESTS_CA_BUNDLE"]
        else:
            os.environ["REQUESTS_CA_BUNDLE"] = before
        instance.remove()


@pytest.mark.parametrize("version, number", [("--http1.1", "1.1"), ("--http2", "2")])
def test_the_check_is_answered_over_tls(stack, version, number):
    answer = subprocess.run(["curl", "-s", version, "--cacert", stack.ca, "-H", f"x-api-key: {stack.admin_key}",
                             "-w", "\n%{http_code} %{http_version}", f"{stack.url}/auth/check"], text=True, timeout=30,
                            stdout=subprocess.PIPE)
    body, status = answer.stdout.rsplit("\n", 1)
    assert status == f"200 {number}", answer.stdout
    assert json.loads(body)["rateLimitTier"] == "admin"


def test_operators_listeners_are_not_public(stack):
    for path in ("/readyz", "/healthz"):
        assert requests.get(stack.url + path, timeout=20).status_code == 404


def test_a_key_is_made_used_and_revoked_and_all_is_in_postgres(stack):
    made = stack.make_key(scopes=["read"])
    assert stack.check(made["key"], headers={"X-Forwarded-For": "203.0.113.9"}).status_code == 200
    assert stack.call("POST", f"/api/v1/keys/{made['id']}/revoke", stack.admin_key, json={"reason": "test"}).status_code == 200
    assert stack.check(made["key"]).status_code == 401
    requests_seen = stack.wait_for_requests(made["id"], 1)
    assert requests_seen[0][1] == 200
    names = [event for event, _, _ in stack.events(made["id"])]
    assert "key.created" in names and "key.revoked" in names
    assert any(made["id"] in line and "key.revoked" in line for line in stack.operator("mcpgw", "audit", "tail"))


def test_the_address_in_the_trail_is_the_one_haproxy_saw(stack):
    made = stack.make_key(scopes=["read"])
    assert stack.check(made["key"], headers={"X-Forwarded-For": "203.0.113.9"}).status_code == 200
    address = stack.wait_for_requests(made["id"], 1)[0][2]
    own = stack.run("inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", stack.containers("front")[0])
    assert address not in ("203.0.113.9", own) and address.count(".") == 3, address


def test_a_tool_is_called_through_haproxy(stack):
    stack.operator("mcpgw", "server", "add", "example", "http://example:9000/mcp")
    made = stack.make_key(scopes=["proxy"])
    seen = json.loads(tool_text(mcp_call(stack, made["key"], "tools/call", {"name": "whoami", "arguments": {}})))
    assert {name.lower(): value for name, value in seen.items()}["x-mcpgw-key-id"] == made["id"]


def test_a_role_has_its_own_secrets_only(stack):
    common = {"ready", *(f"{role}.pub" for role in ROLES)}
    own = {"edge": {"chain_key", "lookup_key"}, "ratelimit": {"redis_url"}, "keys": {"database_url", "lookup_key"},
           "authz": {"database_url", "redis_url", "cache_key"}, "audit": {"database_url", "chain_key", "checkpoint.key", "checkpoint.key.pub"}}
    for role in ROLES:
        assert set(stack.inside(role, "ls /run/secrets-of-role").split()) == common | own[role] | {f"{role}.key"}
        modes = stack.inside(role, f"cd /run/secrets-of-role; stat -c '%U %a' {' '.join(own[role])} {role}.key").splitlines()
        assert set(modes) == {"mcpgw 400"}, (role, modes)


def test_a_secret_of_the_operator_reaches_who_reads_it(stack):
    stack.operator("secret", "better_auth_secret", given="a secret of thirty-two characters\n")
    stack.operator("secret", "partner", given="client secret")
    assert stack.inside("authz", "cd /run/secrets-of-role; stat -c '%U %a' better_auth_secret partner").split() == ["mcpgw", "400"] * 2
    names = stack.inside("keys", "ls /run/secrets-of-role").split()
    assert "partner" in names and "better_auth_secret" not in names
    assert "no name" in stack.compose("run", "--rm", "--no-deps", "-T", "init", "secret", "chain_key", given="x", check=False)
    settings = stack.inside("authz", "/usr/local/share/mcpgw/entrypoint mcpgw-authz --show-config")
    assert "MCPGW_BETTER_AUTH_SECRET_FILE" in settings and "thirty-two" not in settings


def test_the_key_of_identities_rotates_and_the_edge_cannot_write_it(stack):
    before = stack.key_ids()
    assert len(before) == 1
    assert "Read-only" in stack.inside("edge", "touch /var/lib/mcpgw/identity/new 2>&1")
    assert len(stack.containers("identity")) == 1
    stack.operator("mcpgw", "identity", "rotate")
    wait_until(lambda: len(stack.key_ids()) == 2 and stack.key_ids() > before, 30, "both are published")


def test_the_trail_is_signed(stack):
    wait_until(lambda: stack.inside("audit", "cat /var/lib/mcpgw/checkpoints/*.jsonl 2>/dev/null"), 60, "a checkpoint")
    stack.operator("mcpgw", "audit", "verify")


def test_authz_scales_and_restarts_under_load_and_loses_nothing(stack, load):
    made = stack.make_key(scopes=["read"], rateLimit={"requests": 1_000_000, "window": 3600})
    edges = stack.containers("edge")
    assert len(stack.containers("authz")) == 2
    with load(stack, made["key"], threads=2) as running:
        running.wait_for(50)
        stack.up(AUTHZ="3")
        assert len(stack.containers("authz")) == 3
        for container in stack.containers("authz")[:2]:
            stack.run("restart", "-t", "10", container)
            running.wait_for(100)
    assert stack.containers("edge") == edges
    assert running.errors == [] and set(running.statuses) == {200}, (running.statuses, running.errors[:3])
    assert len(stack.wait_for_requests(made["id"], running.total)) == running.total


def test_down_and_up_keeps_keys_and_the_trail(stack):
    made = stack.make_key(scopes=["read"])
    for container in stack.containers("audit"):
        stack.run("stop", "-t", "15", container)
    assert all(stack.check(made["key"]).status_code == 200 for _ in range(20))
    assert [event for event in stack.events(made["id"]) if event[0] == "request"] == []
    stack.down()
    assert stack.containers("edge", "-a") == []
    stack.up()
    assert stack.check(made["key"]).status_code == 200
    assert len(stack.wait_for_requests(made["id"], 21)) == 21
