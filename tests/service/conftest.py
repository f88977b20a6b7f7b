"""Fixtures for tests of one real service process: private Postgres and Redis on Unix sockets, and the processes.

    def test_x(database, redis_server, edge, service):
        worker = service("authz", MCPGW_DATABASE_URL=database.url("mcpgw_authz"), MCPGW_REDIS_URL=redis_server.url, ...)
        worker.wait_ready()

VARIANT (release) picks build/<VARIANT>/bin.  A program that is not built skips its tests, by name.
Everything is stopped by the object that started it, even when a test fails.
"""
import itertools
import json
import os
import pathlib
import pwd
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import psycopg
import pytest
import redis

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
import busedge                                       # noqa: E402
from machine import free_port, make_directory, pytest_collection_modifyitems    # noqa: E402, F401

ROOT = pathlib.Path(__file__).resolve().parents[2]
VARIANT = os.environ.get("VARIANT", "release")
BIN = ROOT / "build" / VARIANT / "bin"
WAIT_S = 20.0


def wait_until(condition, timeout=WAIT_S, what="condition"):
    """Polls until condition() is true and returns its value."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"{what}: not within {timeout} s"
        time.sleep(0.01)


def program(name):
    path = BIN / name
    if not path.exists():
        pytest.skip(f"{path.relative_to(ROOT)} is not built")
    return str(path)


def find_binary(name):
    """Debian keeps the server's programs out of PATH, by version."""
    found = sorted(pathlib.Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    path = str(found[-1]) if found else shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


@pytest.fixture
def tmp(request):
    path = make_directory("mcpgw-t-")
    yield path
    shutil.rmtree(path, ignore_errors=True)


class Postgres:
    """A private cluster.  `databases` are made from a template that was migrated once."""

    def __init__(self):
        self.directory = make_directory("mcpgw-pg-")
        self.process, self.serial, self.template, self.starts = None, itertools.count(), None, 0
        self.user = {"user": "postgres"} if os.geteuid() == 0 else {}
        if self.user:
            owner = pwd.getpwnam("postgres")
            os.chown(self.directory, owner.pw_uid, owner.pw_gid)
        subprocess.run([find_binary("initdb"), "-D", self.directory / "data", "-U", "postgres", "-A", "trust",
                        "-E", "UTF8", "--no-sync", "--locale=C"], check=True, stdout=subprocess.DEVNULL, cwd="/", **self.user)
        self.start()
        with self.connect("postgres") as c:
            c.execute("CREATE ROLE mcpgw_owner LOGIN CREATEROLE")

    def start(self):
        options = {"fsync": "off", "full_page_writes": "off", "wal_level": "minimal", "max_wal_senders": "0", "max_wal_size": "128MB",
                   "listen_addresses": "", "unix_socket_directories": self.directory, "shared_buffers": "32MB", "max_connections": "60",
                   "shared_preload_libraries": "pg_stat_statements", "pg_stat_statements.track": "top"}
        command = [find_binary("postgres"), "-D", self.directory / "data"]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        log = open(self.directory / "log", "ab")
        self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/", **self.user)
        log.close()
        self.starts += 1
        wait_until(self.answers, what="postgres")

    def answers(self):
        assert self.process.poll() is None, (self.directory / "log").read_text()
        try:
            self.connect("postgres").close()
            return True
        except psycopg.OperationalError:
            return False

    def stop(self):
        """At once, as a crash: clients' connections break."""
        if self.process is not None:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(WAIT_S)
            self.process = None

    def url(self, database, user="postgres"):
        return f"postgresql:///{database}?host={self.directory}&user={user}"

    def connect(self, database, user="postgres"):
        return psycopg.connect(self.url(database, user), autocommit=True, connect_timeout=5)

    def make_template(self):
        if self.template is None:
            with self.connect("postgres") as c:
                c.execute("CREATE DATABASE template_mcpgw OWNER mcpgw_owner")
            for name in ("mcpgw-keys", "mcpgw-audit"):
                environment = {"PATH": os.environ["PATH"], "MCPGW_OWNER_DATABASE_URL": self.url("template_mcpgw", "mcpgw_owner")}
                done = subprocess.run([program(name), "migrate"], env=environment, capture_output=True, text=True)
                assert done.returncode == 0, done.stdout + done.stderr
            with self.connect("template_mcpgw") as c:
                c.execute("CREATE SCHEMA IF NOT EXISTS statistics; CREATE EXTENSION pg_stat_statements SCHEMA statistics")
            self.template = "template_mcpgw"
        return self.template

    def make_database(self, template=None):
        """A migrated one, or what `template` holds; drop() it."""
        template = template or self.make_template()
        name = f"t{next(self.serial)}"
        with self.connect("postgres") as c:
            c.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY OWNER mcpgw_owner")
        return Database(self, name)


class Database:
    """One migrated database; `sql` runs as superuser, each call its own transaction."""

    def __init__(self, server, name):
        self.server, self.name = server, name
        self.connection, self.start = None, 0

    def url(self, user):
        return self.server.url(self.name, user)

    def sql(self, text, *values):
        if self.connection is None or self.start != self.server.starts:
            self.connection, self.start = self.server.connect(self.name), self.server.starts
        cursor = self.connection.execute(text, values)
        return cursor.fetchall() if cursor.description else []

    def statements(self, like="%"):
        """How often statements like this have run since reset_statements(), by text."""
        rows = self.sql("SELECT query, calls FROM statistics.pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid"
                        " WHERE d.datname = current_database() AND query LIKE %s AND query NOT LIKE '%%statistics.%%'", like)
        return dict(rows)

    def reset_statements(self):
        self.sql("SELECT statistics.pg_stat_statements_reset()")

    def drop(self):
        if self.connection is not None:
            self.connection.close()
        if self.server.process is None:
            self.server.start()
        with self.server.connect("postgres") as c:
            c.execute(f"DROP DATABASE {self.name} WITH (FORCE)")


@pytest.fixture(scope="session")
def postgres_server():
    server = Postgres()
    yield server
    server.stop()
    shutil.rmtree(server.directory, ignore_errors=True)


@pytest.fixture
def database(postgres_server):
    """A fresh migrated database; a test may stop and start postgres_server, it runs again afterwards."""
    database = postgres_server.make_database()
    yield database
    database.drop()


class Redis:
    def __init__(self, directory):
        self.socket, self.directory, self.process = directory / "redis.sock", directory, None
        self.url = f"unix://{self.socket}"
        self.start()

    def start(self):
        self.process = subprocess.Popen(["redis-server", "--port", "0", "--unixsocket", self.socket, "--save", "",
                                         "--appendonly", "no", "--dir", self.directory], stdout=subprocess.DEVNULL)
        wait_until(self.answers, what="redis")

    def answers(self):
        try:
            return self.client().ping()
        except redis.exceptions.ConnectionError:
            return False

    def client(self):
        return redis.Redis(unix_socket_path=str(self.socket))

    def stop(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@pytest.fixture
def redis_server(tmp):
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    server = Redis(tmp)
    yield server
    server.stop()


class Process:
    """One service process with its own run directory; its log is `log()`."""

    def __init__(self, name, environment, directory, instance):
        self.name, self.instance, self.run_dir = name, instance, directory
        self.log_path = directory / f"{name}-{instance}.log"
        self.environment = environment
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen([program(f"mcpgw-{name}")], env=environment, stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log)
        self.pid = self.process.pid

    def log(self):
        return self.log_path.read_text(errors="replace")

    def events(self, event):
        lines = [json.loads(line) for line in self.log().splitlines() if line.startswith("{")]
        return [line for line in lines if line.get("event") == event]

    def port(self):
        return int((self.run_dir / f"{self.name}-{self.instance}.ops").read_text())

    def get(self, path):
        """(status, body) of the operations listener."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port()}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def readyz(self):
        try:
            status, body = self.get("/readyz")
        except (OSError, ValueError):
            assert self.process.poll() is None, f"{self.name} has ended:\n{self.log()}"
            return 0, {}
        return status, json.loads(body)

    def wait_ready(self, timeout=WAIT_S):
        wait_until(lambda: self.readyz()[0] == 200, timeout, f"{self.name} ready")
        return self

    def metrics(self):
        rows = (line.rsplit(" ", 1) for line in self.get("/metrics")[1].splitlines() if not line.startswith("#"))
        return {name: float(value) for name, value in rows}

    def signal(self, number):
        self.process.send_signal(number)

    def stop(self, timeout=WAIT_S):
        """SIGTERM; returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"{self.name} did not stop:\n{self.log()}") from None

    def kill(self):
        self.process.kill()
        return self.process.wait()


@pytest.fixture
def edge(tmp):
    """An Edge bound at <tmp>/edge-1; `service` tells it to the processes."""
    with busedge.Edge(tmp / "edge-1") as edge:
        yield edge


@pytest.fixture
def service(tmp):
    """service("authz", MCPGW_X=...) starts build/<VARIANT>/bin/mcpgw-authz; what still runs is stopped at the end and
    must then end with 0 and without a sanitizer's report."""
    started = []

    def start(name, instance=None, **environment):
        instance = instance or str(1 + sum(p.name == name for p in started))
        base = {"PATH": os.environ["PATH"], "MCPGW_EDGES": f"ipc://{tmp}/edge-*", "MCPGW_RUN_DIR": str(tmp),
                "MCPGW_INSTANCE": instance, "MCPGW_LOG_LEVEL": "debug"}
        process = Process(name, {**base, **environment}, tmp, instance)
        started.append(process)
        return process

    yield start
    codes = {}
    for process in started:
        if process.process.poll() is None:
            codes[process.name] = process.stop()
        elif process.process.returncode == -signal.SIGABRT:
            codes[process.name] = -signal.SIGABRT
    for process in started:
        log = process.log()
        assert "Sanitizer" not in log and "runtime error" not in log, log
    assert not any(codes.values()), (codes, [p.log()[-2000:] for p in started])
