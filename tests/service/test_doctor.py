"""mcpgw doctor: the table's shape, missing indexes, and rows that are not what they seem."""
import json
import os
import re
import subprocess

import psycopg
import pytest

from conftest import program
from test_schema import USER
from test_shapes import NEW, SEEDS, SHAPES, digest, fresh    # noqa: F401


def doctor(server, name, *arguments, command=("mcpgw-keys", "doctor"), **settings):
    environment = {"PATH": os.environ["PATH"], "MCPGW_OWNER_DATABASE_URL": server.url(name, "mcpgw_owner"),
                   **{f"MCPGW_BETTER_AUTH_{key}": value for key, value in settings.items()}}
    done = subprocess.run([program(command[0]), *command[1:], "--json", *arguments], env=environment, capture_output=True, text=True)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def test_a_database_of_ours_is_well(database):
    for command in (("mcpgw-keys", "doctor"), ("mcpgw", "doctor")):
        status, lines, _ = doctor(database.server, database.name, command=command)
        assert status == 0 and [line["severity"] for line in lines] == ["ok", "ok"], lines
        assert "1.5 or later" in lines[0]["finding"]


def test_who_cannot_look_says_why(database, postgres_server):
    assert doctor(postgres_server, "no_such_database")[0] == 2
    status, _, errors = doctor(postgres_server, "postgres")
    assert status == 2 and "mcpgw-keys migrate" in errors


HAZARDS = [
    (dict(enabled=None), "note", "counts as enabled"), (dict(permissions='{"mcp":"readwrite"}'), "warning", "substring"), (dict(permissions="x"), "warning", "no JSON object"),
    (dict(metadata='"{\\"a\\":1}"'), "note", "JSON in JSON"), (dict(metadata='{"constructor":1}'), "warning", "cannot read"),
    (dict(lastRefillAt="2026-01-01 00:00:00.123456Z"), "warning", "microseconds"),
    (dict(requestCount=None, lastRequest="now()", rateLimitMax=5, rateLimitTimeWindow=5), "error", "never returns"),
    (dict(key="f" * 64), "warning", "better_auth_digest"), (dict(refillAmount=3), "warning", "never refilled"), (dict(referenceId="nobody"), "note", "the owner is gone"),
    (dict(rateLimitMax=10, rateLimitTimeWindow=86400000), "note", "10 requests a day"), (dict(key=digest("twice")), "error", "several rows"),
]


@pytest.fixture(scope="module")
def hazardous(postgres_server):
    hazards = postgres_server.make_database()
    with postgres_server.connect(hazards.name) as c:
        c.execute(USER, ("u", "U", "u@example.com"))
        for number, (columns, *_) in enumerate(HAZARDS + [(dict(key=digest("twice")),)]):
            row = {"id": f"k{number}", "configId": "default", "key": digest(str(number)), "referenceId": "u", "enabled": True, "requestCount": 0,
                   "permissions": '{"mcp":["read"]}', "metadata": "null", **columns}
            names = ", ".join(f'"{name}"' for name in row)
            c.execute(f'INSERT INTO apikey ({names}, "createdAt", "updatedAt") VALUES ({", ".join(["%s"] * len(row))}, now(), now())', list(row.values()))
    yield doctor(postgres_server, hazards.name)
    hazards.drop()


@pytest.mark.parametrize("number", range(len(HAZARDS)))
def test_a_hazard_in_a_row_is_named_with_the_row_and_a_remedy(hazardous, number):
    status, lines, _ = hazardous
    _, severity, words = HAZARDS[number]
    found = [line for line in lines if words in line["finding"] + line["remedy"]]
    assert status == 1 and found and found[0]["severity"] == severity and found[0]["remedy"], lines
    assert f"k{number}" in found[0]["finding"]


def test_missing_triggers_and_rights_are_errors(database):
    database.sql("DROP TRIGGER mcpgw_updated ON apikey")
    database.sql("REVOKE SELECT ON mcpgw.credential FROM mcpgw_authz")
    database.sql("GRANT UPDATE ON apikey TO mcpgw_keys")
    status, lines, _ = doctor(database.server, database.name)
    said = "\n".join(line["finding"] for line in lines)
    assert status == 1 and "triggers are missing" in said and "mcpgw_authz may not SELECT mcpgw.credential" in said and "mcpgw_keys may UPDATE" in said


def test_indexes_are_made_on_request_and_used(fresh):    # noqa: F811
    table, name, settings = SHAPES["flat"]
    done, shaped = fresh(table, settings, name)
    assert done.returncode == 0, done.stderr
    arguments = {"server": shaped.server, "name": shaped.name, **settings}
    status, lines, _ = doctor(**arguments)
    assert status == 1 and {line["remedy"] for line in lines if line["subject"] == "indexes"} == {"mcpgw doctor --create-indexes"}
    status, lines, errors = doctor(shaped.server, shaped.name, "--create-indexes", **settings)
    assert status == 0, (lines, errors)
    shaped.sql(f"INSERT INTO {name} (id, \"keyHash\", \"userId\", \"createdAt\", \"updatedAt\") SELECT 'k' || n, encode(sha256(n::text::bytea), 'hex'), 'u', now(), now() FROM generate_series(1, 5000) n")
    shaped.sql(f"ANALYZE {name}")
    plan = "\n".join(row[0] for row in shaped.sql("EXPLAIN SELECT * FROM mcpgw.credential WHERE digest = %s", digest("7")))
    assert "mcpgw_apikey_key_idx" in plan, plan


def test_settings_that_differ_from_the_schema_s_are_told(database):
    status, lines, _ = doctor(database.server, database.name, DIGEST="hex")
    assert status == 1 and any(line["subject"] == "settings" and "hex" in line["finding"] for line in lines)


def test_redis_is_looked_through_for_keys_that_no_table_has(database, redis_server):
    database.sql(USER, "u", "U", "u@example.com")
    url = {"REDIS_URL": redis_server.url}
    ask = lambda **settings: doctor(database.server, database.name, **{**url, **settings})    # noqa: E731
    status, lines, _ = ask()
    assert status == 0 and [line["finding"] for line in lines if line["subject"] in ("redis", "storage")] == [
        "0 key(s) of Better-Auth in Redis, all of them copies of rows"]
    database.sql('INSERT INTO apikey (id, "configId", "referenceId", key, enabled, permissions, "createdAt", "updatedAt")'
                 " VALUES ('here', 'default', 'u', %s, true, '{}', now(), now())", digest("here"))
    redis_server.client().mset({f"better-auth:api-key:by-id:{id}": "{}" for id in ["here", *(f"lost{n:04}" for n in range(2500))]})
    redis_server.client().mset({"better-auth:api-key:by-ref:u": "[]", "better-auth:session": "{}"})
    status, lines, _ = ask()
    line, = [line for line in lines if line["subject"] == "redis"]
    assert status == 1 and line["severity"] == "error" and re.match(r"25\d\d of 25\d\d key\(s\)", line["finding"]) and "lost" in line["finding"], line
    assert "fallbackToDatabase" in line["remedy"]
    status, lines, _ = ask(REDIS_PREFIX="other:")
    line, = [line for line in lines if line["subject"] == "redis" and line["severity"] == "error"]
    assert status == 1 and "MCPGW_BETTER_AUTH_REDIS_PREFIX='better-auth:'" in line["remedy"]


def test_a_redis_that_cannot_be_looked_through_is_a_warning(database, redis_server):
    redis_server.client().execute_command("ACL", "SETUSER", "mcpgw-keys", "on", ">secret", "~*", "-@all", "+del", "+ping", "+auth")
    for url, words in ((f"unix://{redis_server.socket}?user=mcpgw-keys&password=secret", "NOPERM"), ("unix:///nowhere/redis.sock", "cannot be reached")):
        status, lines, _ = doctor(database.server, database.name, REDIS_URL=url)
        line, = [line for line in lines if line["subject"] == "redis"]
        assert status == 1 and line["severity"] == "warning" and words in line["finding"], lines


def test_keys_that_only_redis_holds_are_guessed(database):
    database.sql(USER, "u", "U", "u@example.com")
    status, lines, _ = doctor(database.server, database.name)
    assert status == 0 and any(line["subject"] == "storage" and "secondaryStorage" in line["finding"] for line in lines)
