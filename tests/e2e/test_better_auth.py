"""One table, two systems: keys of the real Better-Auth plugin work here, and ours work there."""
import json
import os
import subprocess

from conftest import wait_until
from peers import node


def better_auth(gateway, *arguments):
    program, folder = node()
    url = gateway.env["MCPGW_DATABASE_URL"]
    result = subprocess.run([program, "better_auth.mjs", *arguments], cwd=folder, text=True, timeout=60,
                            env=dict(os.environ, DATABASE_URL=url), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert result.stdout, result.stderr
    return json.loads(result.stdout)


def test_a_key_that_better_auth_made_opens_the_gateway(gateway):
    made = better_auth(gateway, "create", json.dumps({"name": "theirs", "prefix": "mcp_", "permissions": {"mcp": ["read", "proxy"]}}))
    assert "error" not in made, made
    answer = gateway.check(made["key"]["key"], "?scope=proxy")
    assert answer.status_code == 200
    context = answer.json()
    assert context["userId"] == made["user"]["id"] and sorted(context["scopes"]) == ["proxy", "read"]
    assert context["tenantId"] == f"user:{made['user']['id']}"


def test_a_key_made_here_is_valid_for_better_auth(gateway):
    made = gateway.make_key(scopes=["read"])
    seen = better_auth(gateway, "verify", made["key"], json.dumps({"permissions": {"mcp": ["read"]}}))
    assert seen.get("valid") is True, seen
    assert better_auth(gateway, "verify", made["key"], json.dumps({"permissions": {"mcp": ["write"]}}))["valid"] is False


def test_a_key_revoked_here_is_refused_by_better_auth(gateway):
    made = gateway.make_key(scopes=["read"])
    gateway.call("POST", f"/api/v1/keys/{made['id']}/revoke")
    assert better_auth(gateway, "verify", made["key"])["valid"] is False


def test_verifying_there_changes_nothing_here(gateway):
    made = gateway.make_key(scopes=["read"])

    def sequence():
        with gateway.database() as connection:
            return connection.execute("select value from mcpgw.change_sequence").fetchone()[0]
    before = sequence()
    for _ in range(2):
        assert better_auth(gateway, "verify", made["key"])["valid"] is True
    assert sequence() == before


def test_a_change_by_plain_sql_is_felt_and_recorded(gateway):
    made = gateway.make_key(scopes=["read"])
    assert gateway.check(made["key"]).status_code == 200
    with gateway.database() as connection:
        connection.execute("update apikey set enabled = false where id = %s", [made["id"]])
    wait_until(lambda: gateway.check(made["key"]).status_code == 401, 5, "the change is felt")
    events = gateway.wait_for_events(1, event="key.disabled", keyId=made["id"])
    assert events[0]["details"]["source"] == "database"
