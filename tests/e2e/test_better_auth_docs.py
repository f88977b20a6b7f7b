"""The auth.ts of docs/better-auth.md runs beside the gateway, with and without Redis: what either changes the other feels."""
import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
import redis

from conftest import ROOT, wait_until
from peers import node

PREFIX = "better-auth:api-key:"


class Application:
    """Its Better-Auth as a process that is asked; `storage` takes the place of the documented one."""

    def __init__(self, gateway, storage=None, redis_url=None):
        program, folder = node()
        text = re.search(r"```ts\n(.*?)```", (ROOT / "docs" / "better-auth.md").read_text(), re.S).group(1)
        assert 'storage: "database",' in text
        self.file = Path(folder) / f"docs_auth_{storage is None}.ts"
        self.file.write_text(text.replace('storage: "database",', storage or 'storage: "database",'))
        environment = dict(os.environ, DATABASE_URL=gateway.env["MCPGW_DATABASE_URL"], BETTER_AUTH_SECRET="end-to-end-tests-only-not-a-secret-of-anyone",
                           **({"REDIS_URL": redis_url} if redis_url else {}))
        self.process = subprocess.Popen([program, "better_auth_shell.mjs", self.file], cwd=folder, text=True, env=environment,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.read() == {}

    def read(self):
        line = self.process.stdout.readline()
        assert line, "the application has ended"
        return json.loads(line)

    def call(self, name, **given):
        self.process.stdin.write(json.dumps({"call": name, **given}) + "\n")
        self.process.stdin.flush()
        return self.read()

    def sign_up(self, name):
        answer = self.call("signUpEmail", body={"email": f"{name}@example.com", "name": name, "password": "correct-horse-battery"})
        assert "user" in answer, answer
        return answer["user"]["id"]

    def verify(self, key):
        answer = self.call("verifyApiKey", body={"key": key})
        return (answer.get("error") or {}).get("code") if not answer["valid"] else True

    def stop(self):
        self.process.stdin.close()
        self.process.wait(20)
        self.process.stdout.close()
        self.file.unlink()


@pytest.fixture(scope="module")
def application(gateway):
    made = Application(gateway)
    yield made
    made.stop()


def test_the_documented_application_starts_beside_the_gateway(gateway, application):
    user = application.sign_up("docs")
    made = application.call("createApiKey", body={"userId": user, "name": "docs"})
    assert application.verify(made["key"]) is True and made["key"].startswith("mcp_")
    answer = gateway.check(made["key"], "?scope=proxy")
    assert answer.status_code == 200 and answer.json()["userId"] == user
    assert gateway.cli("doctor").returncode in (0, 1)


def test_who_leaves_an_organization_by_better_auth_s_api_leaves_its_keys(gateway, application):
    owner, leaver, removed = (application.sign_up(name) for name in ("docs-owner", "docs-leaver", "docs-removed"))
    organization = application.call("createOrganization", body={"name": "Docs", "slug": "docs-org", "userId": owner})["id"]
    for user in (leaver, removed):
        application.call("addMember", body={"userId": user, "organizationId": organization, "role": "member"})
    bound = {user: gateway.make_key(userId=user, tenantId=organization, scopes=["read"]) for user in (leaver, removed, owner)}    # an administrator's doing
    unbound = application.call("createApiKey", body={"userId": leaver, "name": "unbound"})["key"]
    for key in (unbound, *(made["key"] for made in bound.values())):
        wait_until(lambda: gateway.check(key).status_code == 200, what="the key works")
        assert gateway.check(key).json()["tenantId"] == organization

    signed_in = {user: {"cookie": application.call("signInEmail", body={"email": f"{name}@example.com", "password": "correct-horse-battery"})["cookie"]}
                 for user, name in ((owner, "docs-owner"), (leaver, "docs-leaver"))}
    application.call("leaveOrganization", headers=signed_in[leaver], body={"organizationId": organization})
    application.call("removeMember", headers=signed_in[owner], body={"organizationId": organization, "memberIdOrEmail": "docs-removed@example.com"})
    for key in (unbound, bound[leaver]["key"], bound[removed]["key"]):
        wait_until(lambda: gateway.check(key).status_code == 401, what="the key has ended")
    assert gateway.check(bound[owner]["key"]).status_code == 200
    assert gateway.call("POST", "/api/v1/keys/verify", json={"key": unbound}).json() == {"isValid": False, "error": "OWNER_LEFT"}


# ---- keys in Redis ------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def store(gateway):
    """The application's own Redis, which the keys service is told of."""
    directory = Path(tempfile.mkdtemp(prefix="mcpgw-redis-"))
    directory.chmod(0o755)
    path = directory / "redis.sock"
    server = subprocess.Popen(["redis-server", "--port", "0", "--unixsocket", path, "--unixsocketperm", "777", "--save", "", "--dir", directory],
                              stdout=subprocess.DEVNULL)
    client = redis.Redis(unix_socket_path=str(path), decode_responses=True)
    wait_until(path.exists, what="Redis")
    client.url = f"unix://{path}"
    gateway.settings["MCPGW_SETTINGS_keys"] = f"MCPGW_BETTER_AUTH_REDIS_URL={client.url}"
    gateway.up(edge=1, authz=2, ratelimit=2, keys=2, audit=2)
    yield client
    del gateway.settings["MCPGW_SETTINGS_keys"]
    gateway.up(edge=1, authz=2, ratelimit=2, keys=2, audit=2)
    server.kill()
    server.wait()
    shutil.rmtree(directory)


def entries(store, key):
    return store.exists(f"{PREFIX}by-id:{key['id']}", f"{PREFIX}{key['digest']}")


CHANGES = {
    "revoked": lambda gateway, key: gateway.call("POST", f"/api/v1/keys/{key['id']}/revoke"),
    "disabled": lambda gateway, key: gateway.call("POST", f"/api/v1/keys/{key['id']}/disable"),
    "rotated": lambda gateway, key: gateway.call("POST", f"/api/v1/keys/{key['id']}/rotate", json={"overlap": 0}),
    "deleted": lambda gateway, key: gateway.call("DELETE", f"/api/v1/keys/{key['id']}"),
}


def test_a_key_changed_here_is_dead_in_better_auth_s_cache_and_keys_that_only_redis_holds_are_told(gateway, store):
    application = Application(gateway, 'storage: "secondary-storage", fallbackToDatabase: true,', store.connection_pool.connection_kwargs["path"])
    try:
        user = application.sign_up("docs-redis")
        for how, change in CHANGES.items():
            theirs = application.call("createApiKey", body={"userId": user, "name": how})
            ours = gateway.make_key(userId=user, name=how, scopes=["read"])
            for key in (theirs, ours):
                assert application.verify(key["key"]) is True
                key["digest"] = digest(key["key"])
                assert entries(store, key) == 2, how                  # or this proves nothing
                assert change(gateway, key).ok
                assert application.verify(key["key"]) is not True, how    # its first word after ours
                assert gateway.check(key["key"]).status_code == 401
        assert doctor(gateway, store) == [("ok", 0)]
    finally:
        application.stop()
    application = Application(gateway, 'storage: "secondary-storage",', store.connection_pool.connection_kwargs["path"])
    try:
        lost = application.call("createApiKey", body={"userId": user, "name": "lost", "permissions": {"mcp": ["read"]}})
        assert application.verify(lost["key"]) is True and gateway.check(lost["key"]).status_code == 401
    finally:
        application.stop()
    assert doctor(gateway, store) == [("error", 1)]
    move(gateway, store)
    wait_until(lambda: gateway.check(lost["key"]).status_code == 200, what="the key that was moved")
    assert gateway.check(lost["key"]).json()["userId"] == user


def digest(key):
    return base64.urlsafe_b64encode(hashlib.sha256(key.encode()).digest()).decode().rstrip("=")


def doctor(gateway, store):
    """Of what is told about Redis: how bad, and how many keys of those that are there are in no table."""
    lines = [json.loads(line) for line in gateway.cli("doctor", "--json", MCPGW_BETTER_AUTH_REDIS_URL=store.url).stdout.splitlines()]
    return [(line["severity"], 0 if line["severity"] == "ok" else int(line["finding"].split()[0])) for line in lines if line["subject"] == "redis"]


def move(gateway, store):
    """By the page's own commands."""
    text = re.search(r"### Keys that only Redis holds\n.*?```sh\n(.*?)```", (ROOT / "docs" / "better-auth.md").read_text(), re.S).group(1)
    environment = gateway.environment(REDIS=f"redis-cli -s {store.connection_pool.connection_kwargs['path']}")
    environment["PATH"] = f"{gateway.home}/bin:{environment['PATH']}"
    done = subprocess.run(["bash", "-e", "-o", "pipefail", "-c", text], env=environment, cwd=store_directory(store), text=True, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def store_directory(store):
    return Path(store.connection_pool.connection_kwargs["path"]).parent
