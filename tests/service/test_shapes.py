"""Every shape of Better-Auth's table of keys: found, read, written through the view, and its changes numbered."""
import base64
import hashlib
import json
import os
import subprocess

import psycopg
import pytest

from conftest import program

OLD = """CREATE TABLE apikey (id text PRIMARY KEY, name text, start text, prefix text, key text NOT NULL, "userId" text NOT NULL REFERENCES "user"(id) ON DELETE CASCADE,
    "refillInterval" integer, "refillAmount" integer, "lastRefillAt" timestamp, enabled boolean, "rateLimitEnabled" boolean,
    "rateLimitTimeWindow" integer, "rateLimitMax" integer, "requestCount" integer, remaining integer, "lastRequest" timestamp,
    "expiresAt" timestamp, "createdAt" timestamp NOT NULL, "updatedAt" timestamp NOT NULL, permissions text, metadata text)"""
NEW = """CREATE TABLE apikey (id text PRIMARY KEY, "configId" text NOT NULL, name text, start text, prefix text, key text NOT NULL, "referenceId" text NOT NULL,
    "refillInterval" integer, "refillAmount" integer, "lastRefillAt" timestamptz, enabled boolean, "rateLimitEnabled" boolean,
    "rateLimitTimeWindow" integer, "rateLimitMax" integer, "requestCount" integer, remaining integer, "lastRequest" timestamptz,
    "expiresAt" timestamptz, "createdAt" timestamptz NOT NULL, "updatedAt" timestamptz NOT NULL, permissions text, metadata text)"""
SNAKE = """CREATE SCHEMA app; CREATE TABLE app.api_keys (id varchar(64) PRIMARY KEY, config_id varchar(64) NOT NULL DEFAULT 'default', name text, start text, prefix text,
    hashed text NOT NULL, reference_id varchar(64) NOT NULL, refill_interval bigint, refill_amount bigint, last_refill_at timestamp(3), enabled boolean DEFAULT true,
    rate_limit_enabled boolean, rate_limit_time_window bigint, rate_limit_max bigint, request_count bigint, remaining bigint, last_request timestamp(3),
    expires_at timestamp(3), created_at timestamp(3) NOT NULL, updated_at timestamptz(3) NOT NULL, permissions jsonb, metadata jsonb)"""
SEEDS = """CREATE TABLE "ApiKeys" (id text PRIMARY KEY, name text, "keyHash" text NOT NULL, "userId" text NOT NULL, tenant text, scopes text[], enabled boolean NOT NULL DEFAULT true,
    "expiresAt" timestamptz, "createdAt" timestamptz NOT NULL, "updatedAt" timestamptz NOT NULL)"""

SHAPES = {
    "1.3": (OLD, "public.apikey", {}),
    "1.7": (NEW, "public.apikey", {}),
    "hand-upgraded": (NEW.replace('"referenceId" text NOT NULL', '"referenceId" text, "userId" text').replace('"expiresAt" timestamptz', '"expiresAt" timestamp'), "public.apikey", {}),
    "renamed": (SNAKE, "app.api_keys", {"TABLE": "app.api_keys", "COLUMNS": "key=hashed"}),
    "hex": (NEW, "public.apikey", {"DIGEST": "hex"}),
    "plain": (NEW, "public.apikey", {"DIGEST": "plain"}),
    "flat": (SEEDS, 'public."ApiKeys"', {"TABLE": 'public."ApiKeys"', "COLUMNS": "key=keyHash", "DIGEST": "hex", "SCOPE_COLUMN": "scopes", "TENANT_COLUMN": "tenant"}),
}
USER_TABLE = """CREATE TABLE "user" (id text PRIMARY KEY, name text NOT NULL, email text NOT NULL UNIQUE, "emailVerified" boolean NOT NULL,
                image text, "createdAt" timestamptz DEFAULT now() NOT NULL, "updatedAt" timestamptz DEFAULT now() NOT NULL)"""


def digest(key):
    return base64.urlsafe_b64encode(hashlib.sha256(key.encode()).digest()).decode().rstrip("=")


def stored(key, settings):
    form = settings.get("DIGEST", "base64url")
    return {"base64url": digest(key), "hex": hashlib.sha256(key.encode()).hexdigest(), "plain": key}[form]


def migrate(server, name, settings=None):
    environment = {"PATH": os.environ["PATH"], "MCPGW_OWNER_DATABASE_URL": server.url(name, "mcpgw_owner")}
    environment.update({f"MCPGW_BETTER_AUTH_{key}": value for key, value in (settings or {}).items()})
    return subprocess.run([program("mcpgw-keys"), "migrate"], env=environment, capture_output=True, text=True)


class Shaped:
    def __init__(self, server, name, table, settings):
        self.server, self.name, self.table, self.settings = server, name, table, settings

    def sql(self, text, *values, role="postgres"):
        with self.server.connect(self.name, role) as connection:
            cursor = connection.execute(text, values)
            return cursor.fetchall() if cursor.description else []

    def real(self, name):
        return self.sql("SELECT shape->'names'->>%s FROM mcpgw.better_auth", name)[0][0]

    def credential(self, key):
        columns = ["key_id", "reference_id", "enabled", "expires_at", "permissions", "side_tenant_id", "metered", "spent", "owner_exists"]
        rows = self.sql(f"SELECT {', '.join(columns)} FROM mcpgw.credential WHERE digest = %s", digest(key), role="mcpgw_authz")
        return [dict(zip(columns, row)) for row in rows]

    def changes(self):
        return self.sql("SELECT kind, digest, key_id FROM mcpgw.change ORDER BY sequence")


@pytest.fixture(params=SHAPES)
def shaped(request, postgres_server):
    table, name, settings = SHAPES[request.param]
    database = postgres_server.make_database("template1")
    with postgres_server.connect(database.name, "mcpgw_owner") as c:
        c.execute(USER_TABLE)
        c.execute(table)
    done = migrate(postgres_server, database.name, settings)
    assert done.returncode == 0, done.stderr
    assert name.split(".")[1].strip('"') in done.stdout
    shaped = Shaped(postgres_server, database.name, name, settings)
    shaped.sql("INSERT INTO \"user\" (id, name, email, \"emailVerified\") VALUES ('u', 'u', 'u', true), ('v', 'v', 'v', true)")
    yield shaped
    database.drop()


INSERT = """INSERT INTO mcpgw.apikey (id, "configId", name, start, "referenceId", prefix, key, "refillInterval", "refillAmount", "lastRefillAt", enabled,
    "rateLimitEnabled", "rateLimitTimeWindow", "rateLimitMax", "requestCount", remaining, "lastRequest", "expiresAt", "createdAt", "updatedAt", permissions, metadata)
    VALUES (%s, 'default', 'n', 'mcp_1a', 'u', 'mcp_', %s, NULL, NULL, NULL, true, false, NULL, NULL, 0, NULL, NULL, %s, now(), now(), '{"mcp":["read","proxy"]}', 'null')"""


def test_a_key_is_written_found_changed_and_deleted_through_the_view(shaped):
    """As keys does all of it, and as authz reads it."""
    key = "mcp_" + "k" * 64
    written = key if shaped.settings.get("DIGEST") == "plain" else digest(key)
    expiry = "2031-02-03T04:05:06.789000+00:00"
    shaped.sql(INSERT, "k1", written, expiry, role="mcpgw_keys")
    raw = shaped.sql(f'SELECT "{shaped.real("key")}", "{shaped.real("expiresAt")}"::text FROM {shaped.table}')
    assert raw[0][0] == stored(key, shaped.settings) and raw[0][1].startswith("2031-02-03 04:05:06.789"), raw
    seen = shaped.credential(key)[0]
    assert (seen["key_id"], seen["reference_id"], seen["enabled"], seen["owner_exists"]) == ("k1", "u", True, True)
    assert json.loads(seen["permissions"]) == {"mcp": ["read", "proxy"]} and seen["expires_at"].isoformat() == expiry
    assert shaped.changes() == [(1, digest(key), "k1")]

    shaped.sql("UPDATE mcpgw.apikey SET enabled = false, \"updatedAt\" = now() WHERE id = 'k1'", role="mcpgw_keys")
    assert shaped.credential(key)[0]["enabled"] is False and len(shaped.changes()) == 2
    shaped.sql("UPDATE mcpgw.apikey SET permissions = '{\"mcp\":[\"health\"]}' WHERE id = 'k1'", role="mcpgw_keys")
    assert json.loads(shaped.credential(key)[0]["permissions"]) == {"mcp": ["health"]}
    shaped.sql("DELETE FROM mcpgw.apikey WHERE id = 'k1'", role="mcpgw_keys")
    assert shaped.credential(key) == [] and len(shaped.changes()) == 4


def test_the_application_s_own_changes_are_numbered_by_the_digest_we_know(shaped):
    key, table = "theirs", shaped.table
    shaped.sql(INSERT, "k1", key if shaped.settings.get("DIGEST") == "plain" else digest(key), None, role="mcpgw_keys")
    for column, value in [("enabled", "false"), ("expiresAt", "now()"), ("name", "'other'")]:
        before = len(shaped.changes())
        shaped.sql(f'UPDATE {table} SET "{shaped.real(column)}" = {value}')
        assert shaped.changes()[before:] == [(1, digest(key), "k1")], column
    before = len(shaped.changes())
    shaped.sql(f'UPDATE {table} SET "{shaped.real("updatedAt")}" = now()')
    assert len(shaped.changes()) == before
    shaped.sql(f"DELETE FROM {table}")
    assert shaped.changes()[-1] == (1, digest(key), "k1")
    assert shaped.sql("SELECT mcpgw.triggers_present()", role="mcpgw_keys") == [(True,)]


def test_migrating_again_changes_nothing_and_takes_no_lock(shaped):
    with shaped.server.connect(shaped.name) as busy, busy.transaction():
        busy.execute(f"SELECT count(*) FROM {shaped.table}")
        before = shaped.changes()
        done = migrate(shaped.server, shaped.name, shaped.settings)
        assert done.returncode == 0 and "applied" not in done.stdout, done.stderr
        assert shaped.changes() == before


# ---- particular shapes --------------------------------------------------------------------------

@pytest.fixture
def fresh(postgres_server):
    database = postgres_server.make_database("template1")

    def make(table, settings=None, name="public.apikey"):
        with postgres_server.connect(database.name, "mcpgw_owner") as c:
            c.execute(USER_TABLE)
            c.execute(table)
        return migrate(postgres_server, database.name, settings), Shaped(postgres_server, database.name, name, settings or {})
    yield make
    database.drop()


@pytest.mark.parametrize("table, settings, status, words", [
    (NEW.replace(', permissions text', ''), {}, 3, ["lacks: permissions", "better_auth_columns"]),
    (NEW.replace('"expiresAt" timestamptz, ', ''), {}, 3, ["lacks: expiresAt"]),
    (NEW, {"TABLE": "app.nothing"}, 3, ["no table app.nothing"]),
    (NEW, {"COLUMNS": "key=hash"}, 3, ['no column "hash"']),
    (NEW, {"COLUMNS": "secret=hash"}, 2, ['no column "secret"']),
    (NEW, {"COLUMNS": "key"}, 2, ["better_auth_columns"]),
    (NEW, {"DIGEST": "md5"}, 2, ["better_auth_digest", "base64url, hex, plain"]),
    (NEW, {"SCOPE_COLUMN": "scopes"}, 3, ['no column "scopes"', "better_auth_scope_column"]),
    (NEW.replace("id text PRIMARY KEY", "id serial PRIMARY KEY"), {}, 3, ['"id"', "serial"]),
    (NEW.replace("enabled boolean", "enabled integer"), {}, 3, ['"enabled"', "boolean"]),
], ids=range(10))
def test_a_table_that_cannot_be_read_is_refused_by_name_and_nothing_is_left(fresh, table, settings, status, words):
    done, shaped = fresh(table, settings)
    assert done.returncode == status, done.stdout + done.stderr
    for word in words:
        assert word in done.stderr
    if status == 3:
        assert shaped.sql("SELECT count(*) FROM mcpgw.migration") == [(0,)]


def test_local_times_of_an_old_table_are_read_in_its_writer_s_zone(fresh):
    done, shaped = fresh(OLD, {"ZONE": "America/New_York"})
    assert done.returncode == 0, done.stderr
    shaped.sql("INSERT INTO \"user\" (id, name, email, \"emailVerified\") VALUES ('u', 'u', 'u', true)")
    shaped.sql("INSERT INTO apikey (id, key, \"userId\", \"expiresAt\", \"createdAt\", \"updatedAt\") VALUES ('k', %s, 'u', '2031-01-01 14:26:02', now(), now())", digest("old"))
    assert shaped.sql("SELECT expires_at = '2031-01-01 19:26:02Z', enabled FROM mcpgw.credential") == [(True, None)]


def test_an_owner_column_of_each_kind_counts_in_a_hand_upgraded_table(fresh):
    table, _, settings = SHAPES["hand-upgraded"]
    done, shaped = fresh(table, settings)
    assert done.returncode == 0 and "upgraded by hand" in done.stdout, done.stdout
    for id, columns in [("a", '"userId"'), ("b", '"referenceId"')]:
        shaped.sql(f"INSERT INTO apikey (id, \"configId\", key, {columns}, \"createdAt\", \"updatedAt\") VALUES (%s, 'default', %s, 'u', now(), now())", id, digest(id))
    assert shaped.sql("SELECT reference_id FROM mcpgw.credential") == [("u",), ("u",)]


def test_flat_scopes_win_over_permissions_where_they_are_set(fresh):
    done, shaped = fresh(NEW.replace("metadata text)", "metadata text, roles text, org text)"), {"SCOPE_COLUMN": "roles", "TENANT_COLUMN": "org"})
    assert done.returncode == 0, done.stderr
    for id, roles in [("a", "read, write"), ("b", None), ("c", '["admin"]')]:
        shaped.sql("INSERT INTO apikey (id, \"configId\", key, \"referenceId\", \"createdAt\", \"updatedAt\", permissions, roles, org)"
                   " VALUES (%s, 'default', %s, 'u', now(), now(), '{\"mcp\":[\"proxy\"]}', %s, 'acme')", id, digest(id), roles)
    rows = shaped.sql("SELECT permissions, side_tenant_id FROM mcpgw.credential ORDER BY key_id", role="mcpgw_authz")
    assert [json.loads(row[0])["mcp"] for row in rows] == [["read", "write"], ["proxy"], ["admin"]]
    assert {row[1] for row in rows} == {"acme"}
    before = len(shaped.changes())
    shaped.sql("UPDATE apikey SET roles = 'read' WHERE id = 'a'")
    shaped.sql("UPDATE apikey SET org = 'globex' WHERE id = 'b'")
    assert len(shaped.changes()) == before + 2


def test_a_table_is_upgraded_in_one_transaction_beside_us(fresh):
    """1.3 to 1.7 as docs/better-auth.md says it; whatever was cached is forgotten at its commit."""
    done, shaped = fresh(OLD)
    assert done.returncode == 0 and "1.3 or 1.4" in done.stdout, done.stdout + done.stderr
    shaped.sql("INSERT INTO \"user\" (id, name, email, \"emailVerified\") VALUES ('u', 'u', 'u', true)")
    shaped.sql("INSERT INTO apikey (id, key, \"userId\", \"createdAt\", \"updatedAt\", \"refillInterval\") VALUES ('k', %s, 'u', now(), now(), 1)", digest("old"))
    with shaped.server.connect(shaped.name, "mcpgw_owner") as c:
        with pytest.raises(psycopg.errors.FeatureNotSupported):
            c.execute('ALTER TABLE apikey ALTER "expiresAt" TYPE timestamptz')
        with c.transaction():
            c.execute("SELECT mcpgw.detach_better_auth()")
            c.execute('ALTER TABLE apikey RENAME "userId" TO "referenceId"')
            c.execute('ALTER TABLE apikey DROP CONSTRAINT "apikey_userId_fkey", ADD "configId" text NOT NULL DEFAULT \'default\'')
            for column in ("lastRefillAt", "lastRequest", "expiresAt", "createdAt", "updatedAt"):
                c.execute(f'ALTER TABLE apikey ALTER "{column}" TYPE timestamptz USING "{column}" AT TIME ZONE \'UTC\'')
            c.execute("SELECT mcpgw.attach_better_auth()")
    assert shaped.sql("SELECT shape->>'release', (shape->>'direct')::boolean FROM mcpgw.better_auth") == [("1.5 or later", True)]
    assert shaped.changes()[-1][0] == 6 and shaped.credential("old")[0]["key_id"] == "k"
    assert shaped.sql("SELECT mcpgw.triggers_present()") == [(True,)]


def test_what_an_old_table_has_no_column_for_is_refused_not_dropped(fresh):
    table, name, settings = SHAPES["flat"]
    done, shaped = fresh(table, settings, name)
    assert done.returncode == 0, done.stderr
    with pytest.raises(psycopg.errors.FeatureNotSupported, match="rateLimitMax"):
        shaped.sql(INSERT.replace("false, NULL, NULL, 0", "false, NULL, 5, 0"), "k", digest("k"), None, role="mcpgw_keys")
