"""One whole gateway per session, started as people start it (compose/local/up), in a home and on a port of its own."""
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psycopg
import pytest
import requests

sys.path.append(str(Path(__file__).resolve().parents[1]))
import contract                                      # noqa: E402
from machine import free_port, make_directory, pytest_collection_modifyitems    # noqa: E402, F401

ROOT = Path(__file__).resolve().parents[2]
VARIANT = os.environ.get("VARIANT", "asan")


def wait_until(condition, seconds=15.0, what="the condition"):
    """Polls until condition() is true; returns its value. A wait, never a measure: the limit is generous."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true within {seconds} s")
        time.sleep(0.02)


class Gateway:
    """An instance on this machine and what tests do with it."""

    def __init__(self, home, port, build=None):
        self.home, self.port = Path(home), port
        self.build = build or ROOT / "build" / VARIANT
        self.url = f"http://127.0.0.1:{port}"
        self.settings = {}

    def environment(self, **more):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MCPGW_")}
        environment.update(MCPGW_HOME=str(self.home), MCPGW_LISTEN=f"127.0.0.1:{self.port}", MCPGW_BUILD=str(self.build),
                           ASAN_OPTIONS="detect_leaks=0", **self.settings, **more)
        return environment

    def run(self, script, check=True, **more):
        result = subprocess.run([ROOT / "compose" / "local" / script], env=self.environment(**more), text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=180)
        if check and result.returncode != 0:
            raise AssertionError(f"{script} ended with {result.returncode}:\n{result.stdout}\n{self.logs()}")
        return result

    def up(self, **counts):
        return self.run("up", **{name.upper(): str(number) for name, number in counts.items()})

    def logs(self, lines=15):
        text = []
        for log in sorted(self.home.glob("log/*/current")):
            text.append(f"--- {log.parent.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-lines:]))
        return "\n".join(text)

    @property
    def env(self):
        pairs = (line.split("=", 1) for line in (self.home / "env").read_text().splitlines() if "=" in line)
        return {name: value.strip("'") for name, value in pairs}

    @property
    def admin_key(self):
        return self.env["MCPGW_API_KEY"]

    def run_sv(self, command, name):
        """`sv down` waits for the process to end; its supervisor stays."""
        wait = {"down": "force-stop", "up": "start"}[command]
        return subprocess.call(["sv", "-w", "30", wait, str(self.home / "sv" / name)], stdout=subprocess.DEVNULL)

    def pid(self, name):
        """Process id; None while it is not running."""
        try:
            return int((self.home / "run" / f"{name}.pid").read_text())
        except (FileNotFoundError, ValueError):
            return None

    def kill(self, name, how=signal.SIGKILL):
        os.kill(wait_until(lambda: self.pid(name), 10, f"{name} runs"), how)

    def is_ready(self, name):
        try:
            port = int((self.home / "run" / f"{name}.ops").read_text())
            return requests.get(f"http://127.0.0.1:{port}/readyz", timeout=2).status_code == 200
        except (OSError, ValueError, requests.RequestException):
            return False

    def metric(self, name, series):
        """Value of one series, e.g. metric("edge-1", 'mcpgw_workers{role="authz"}')."""
        port = int((self.home / "run" / f"{name}.ops").read_text())
        for line in requests.get(f"http://127.0.0.1:{port}/metrics", timeout=5).text.splitlines():
            if line.startswith(series + " "):
                return float(line.rsplit(" ", 1)[1])
        raise AssertionError(f"{name} has no series {series}")

    def call(self, method, path, key=None, **arguments):
        headers = dict(arguments.pop("headers", {}))
        if key is None:
            headers["x-api-key"] = self.admin_key
        elif key:
            headers["x-api-key"] = key
        arguments.setdefault("timeout", 20)
        answer = requests.request(method, self.url + path, headers=headers, **arguments)
        return answer if arguments.get("stream") else contract.check(answer)

    def make_key(self, key=None, **fields):
        fields.setdefault("name", "test")
        answer = self.call("POST", "/api/v1/keys", key=key, json=fields)
        assert answer.status_code == 201, answer.text
        return answer.json()

    def check(self, key, query="", **arguments):
        return self.call("GET", "/auth/check" + query, key=key, **arguments)

    def cli(self, *arguments, input=None, **more):
        return subprocess.run([self.home / "bin" / "mcpgw", *map(str, arguments)], env=self.environment(**more), text=True,
                              input=input, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)

    def database(self):
        """An operator's connection; as root through the unprivileged user that owns the socket's directory."""
        return psycopg.connect(self.env["MCPGW_DATABASE_URL"], autocommit=True)

    def events(self, **where):
        """Events of the trail in order, as dictionaries."""
        columns = " and ".join(f'"{name}" = %s' for name in where) or "true"
        with self.database() as connection, connection.cursor(row_factory=psycopg.rows.dict_row) as cursor:
            cursor.execute(f"select * from audit.event where {columns} order by time, seq", list(where.values()))
            return cursor.fetchall()

    def wait_for_events(self, count, seconds=20, **where):
        wait_until(lambda: len(self.events(**where)) >= count, seconds, f"{count} events with {where}")
        return self.events(**where)


def only_when_asked():
    """Container tests build images, which takes minutes: `make e2e CONTAINERS=1` runs them, without it they are skipped by name."""
    if not os.environ.get("CONTAINERS"):
        pytest.skip("containers are tried by: make e2e CONTAINERS=1")


def make_home(on_disk=False):
    # Not pytest's tmp_path: the unprivileged user must be able to pass through its parents.
    return make_directory("mcpgw-e2e-", on_disk)


@pytest.fixture(scope="session")
def gateway():
    instance = Gateway(make_home(), free_port())
    try:
        instance.up(edge=1, authz=2, ratelimit=2, keys=2, audit=2)
        yield instance
    finally:
        instance.run("reset", check=False)
        shutil.rmtree(instance.home, ignore_errors=True)


@pytest.fixture
def own_gateway():
    """For tests that break things: a function that makes instances which end with the test."""
    made = []

    def make(build=None, settings=None, **counts):
        instance = Gateway(make_home(), free_port(), build)
        instance.settings = settings or {}
        made.append(instance)
        instance.up(**counts)
        return instance

    yield make
    for instance in made:
        instance.run("reset", check=False)
        shutil.rmtree(instance.home, ignore_errors=True)


class Load:
    """Valid requests from several threads until stopped; every answer is kept by status."""

    def __init__(self, gateway, key, path="/auth/check", threads=4, headers=None):
        self.statuses, self.errors = {}, []
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(gateway.url + path, headers or {"x-api-key": key})) for _ in range(threads)]

    def _run(self, url, headers):
        session = requests.Session()
        while not self._stop.is_set():
            try:
                status = session.get(url, headers=headers, timeout=20).status_code
                with self._lock:
                    self.statuses[status] = self.statuses.get(status, 0) + 1
            except requests.RequestException as error:
                with self._lock:
                    self.errors.append(repr(error))

    @property
    def total(self):
        with self._lock:
            return sum(self.statuses.values())

    def wait_for(self, more, seconds=60):
        """Until `more` further answers have come."""
        goal = self.total + more
        wait_until(lambda: self.total >= goal, seconds, f"{more} further answers")

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()


@pytest.fixture
def load():
    return Load


def mcp_call(gateway, key, method, params=None, server="example", id=1, **arguments):
    body = {"jsonrpc": "2.0", "id": id, "method": method, "params": params or {}}
    return gateway.call("POST", f"/mcp/{server}", key=key, json=body,
                        headers={"accept": "application/json, text/event-stream"}, **arguments)


def tool_text(answer):
    return json.loads(answer.text)["result"]["content"][0]["text"]
