"""The schema of keys: what each role may do, and that every change of a verdict's facts gets its number."""
import threading

import psycopg
import pytest

KEY = """INSERT INTO apikey (id, "configId", name, start, "referenceId", prefix, key, enabled, "requestCount", "createdAt", "updatedAt", permissions, metadata)
         VALUES (%s, 'default', 'n', 'mcp_1a', %s, 'mcp_', %s, true, 0, now(), now(), '{"mcp":["read"]}', 'null')"""
USER = "INSERT INTO \"user\" (id, name, email, \"emailVerified\") VALUES (%s, %s, %s, true)"
ORGANIZATION = "INSERT INTO organization (id, name, slug, \"createdAt\") VALUES (%s, %s, %s, now())"
MEMBER = "INSERT INTO member VALUES (%s, %s, %s, 'member', now())"
SERVER = "INSERT INTO mcpgw.server VALUES (%s, 'http://h/', NULL, NULL, true, now(), now())"


def changes(database):
    return database.sql("SELECT sequence, kind, digest, key_id, user_id, tenant_id, server FROM mcpgw.change ORDER BY sequence")


def events(database):
    return [row[0] for row in database.sql("SELECT event FROM mcpgw.outbox ORDER BY sequence")]


def is_gapless(database):
    numbers = [row[0] for row in changes(database)]
    outbox = [row[0] for row in database.sql("SELECT sequence FROM mcpgw.outbox ORDER BY sequence")]
    value = database.sql("SELECT value FROM mcpgw.change_sequence")[0][0]
    return numbers == outbox == list(range(1, value + 1))


@pytest.fixture
def facts(database):
    """A user with a key; the changes that made them are done."""
    database.sql(USER, "u", "U", "u@example.com")
    database.sql(KEY, "k", "u", "digest")
    database.sql("INSERT INTO mcpgw.key (key_id, tenant_id) VALUES ('k', 't')")
    return database


# ---- grants -------------------------------------------------------------------------------------

TABLES = ["public.apikey", 'public."user"', "public.session", "public.account", "public.verification", "public.organization", "public.member",
          "mcpgw.former_member", "mcpgw.change_sequence", "mcpgw.change", "mcpgw.outbox", "mcpgw.key", "mcpgw.server", "mcpgw.request", "mcpgw.credential",
          "mcpgw.apikey", "mcpgw.better_auth",
          "mcpgw.tenant", "mcpgw.tenant_state", "mcpgw.wanted_trigger", "mcpgw.migration", "audit.batch", "audit.watermark", "audit.quarantine"]
RIGHTS = ["SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER"]
KEYS_COLUMNS = {"mcpgw.apikey": {"UPDATE"}, 'public."user"': {"SELECT", "UPDATE"}, "public.organization": {"SELECT"}, "public.member": {"SELECT"},
                "public.session": {"SELECT"}}
ALLOWED = {
    "mcpgw_authz": {"mcpgw.change_sequence": {"SELECT"}, "mcpgw.change": {"SELECT"}, "mcpgw.credential": {"SELECT"},
                    "mcpgw.tenant_state": {"SELECT"}},
    "mcpgw_keys": {"mcpgw.apikey": {"SELECT", "INSERT", "DELETE"}, "public.session": {"DELETE"}, "mcpgw.change_sequence": {"SELECT"}, "mcpgw.change": {"SELECT"},
                   "mcpgw.outbox": {"SELECT"}, "mcpgw.credential": {"SELECT"}, "mcpgw.key": {"SELECT", "INSERT", "UPDATE", "DELETE"},
                   "mcpgw.server": {"SELECT", "INSERT", "UPDATE", "DELETE"}, "mcpgw.request": {"SELECT", "INSERT"},
                   "mcpgw.tenant": {"SELECT", "INSERT", "UPDATE", "DELETE"}, "mcpgw.tenant_state": {"SELECT"}, "audit.batch": {"SELECT"}},
    "mcpgw_audit": {"mcpgw.outbox": {"SELECT"}, "audit.batch": {"SELECT", "INSERT"}, "audit.watermark": {"SELECT", "INSERT", "UPDATE"},
                    "audit.quarantine": {"SELECT", "INSERT"}},
}


@pytest.mark.parametrize("role", ALLOWED)
def test_a_role_has_its_grants_and_no_other(database, role):
    for table in TABLES:
        have = {right for right in RIGHTS if database.sql("SELECT has_table_privilege(%s, %s, %s)", role, table, right)[0][0]}
        assert have == ALLOWED[role].get(table, set()), (role, table)
        columns = {right for right in ("SELECT", "INSERT", "UPDATE") if right not in have
                   and database.sql("SELECT has_any_column_privilege(%s, %s, %s)", role, table, right)[0][0]}
        assert columns == (KEYS_COLUMNS[table] if role == "mcpgw_keys" and table in KEYS_COLUMNS else set()), (role, table)
    attributes = database.sql("SELECT rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls, rolpassword FROM pg_authid WHERE rolname = %s", role)
    assert attributes == [(False, False, False, False, False, None)]
    assert database.sql("SELECT count(*) FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.member WHERE r.rolname = %s", role) == [(0,)]


ANYONE = ["CREATE TABLE mcpgw.x (a int)", "DROP TABLE mcpgw.change", "ALTER TABLE apikey DISABLE TRIGGER ALL", "DROP TRIGGER mcpgw_updated ON apikey",
          "CREATE ROLE x", "SET ROLE mcpgw_owner", "SET session_replication_role = replica", "TRUNCATE apikey", "TRUNCATE mcpgw.change",
          "UPDATE mcpgw.change_sequence SET value = 0", "INSERT INTO mcpgw.change (sequence, at, kind) VALUES (99, now(), 1)", "DELETE FROM mcpgw.change",
          "INSERT INTO mcpgw.outbox (sequence, at, event, source) VALUES (99, now(), 'x', 'api')", "DELETE FROM mcpgw.outbox", "UPDATE mcpgw.outbox SET event = 'x'",
          "SELECT mcpgw.take_change(1, 'd', 'k', NULL, NULL, NULL, 'key.created', NULL)", "SELECT token FROM session", "SELECT password FROM account",
          "INSERT INTO \"user\" (id, name, email, \"emailVerified\") VALUES ('x', 'x', 'x', true)",
          "UPDATE \"user\" SET role = 'admin'", "DELETE FROM \"user\"", "INSERT INTO member VALUES ('x', 'o', 'u', 'owner', now())",
          "DELETE FROM mcpgw.migration", "DELETE FROM audit.batch", "UPDATE audit.batch SET count = 0", "COPY (SELECT 1) TO PROGRAM 'true'",
          "CREATE FUNCTION mcpgw.take_change() RETURNS int LANGUAGE sql AS 'SELECT 1'", "GRANT mcpgw_keys TO mcpgw_authz"]
COLUMNS = ["id", "configId", "referenceId", "prefix", "refillInterval", "refillAmount", "lastRefillAt", "requestCount", "remaining", "lastRequest", "createdAt"]
FORBIDDEN = {
    "mcpgw_authz": ANYONE + ["SELECT * FROM apikey", "SELECT * FROM mcpgw.outbox", "SELECT * FROM mcpgw.key", "SELECT * FROM mcpgw.server",
                             "SELECT * FROM mcpgw.request", "UPDATE apikey SET enabled = true", "INSERT INTO mcpgw.key (key_id) VALUES ('x')",
                             "UPDATE mcpgw.credential SET enabled = true", "SELECT mcpgw.prune()", "SELECT * FROM audit.event",
                             "SELECT * FROM \"user\"", "SELECT * FROM member", "SELECT email FROM \"user\""],
    "mcpgw_keys": ANYONE + ["UPDATE \"user\" SET email = 'x'", "UPDATE session SET \"expiresAt\" = now()", "DELETE FROM member", "UPDATE apikey SET \"referenceId\" = 'x'", "UPDATE apikey SET id = 'x'", "UPDATE apikey SET \"requestCount\" = 0",
                            "UPDATE mcpgw.request SET object = 'x'", "DELETE FROM mcpgw.request", "INSERT INTO audit.watermark VALUES (gen_random_uuid(), 1, 1, 1)",
                            "UPDATE organization SET name = 'x'", "SELECT * FROM audit.watermark"],
    "mcpgw_audit": ANYONE + ["SELECT * FROM apikey", "SELECT * FROM mcpgw.credential", "SELECT * FROM mcpgw.change", "SELECT * FROM mcpgw.change_sequence",
                             "SELECT * FROM mcpgw.key", "SELECT * FROM \"user\"", "SELECT mcpgw.triggers_present()", "DELETE FROM audit.watermark",
                             "SELECT mcpgw.prune()", "SELECT email FROM \"user\""],
}


@pytest.mark.parametrize("role, statement", [(role, statement) for role in FORBIDDEN for statement in FORBIDDEN[role]])
def test_a_forbidden_statement_is_refused(schema_database, role, statement):
    with schema_database.server.connect(schema_database.name, role) as connection:
        with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.ObjectNotInPrerequisiteState)):
            connection.execute(statement)


@pytest.fixture(scope="module")
def schema_database(postgres_server):
    """One database for all refusals: none of them changes anything."""
    database = postgres_server.make_database()
    yield database
    database.drop()


def test_the_owner_of_everything_is_no_superuser(database):
    assert database.sql("SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_roles r ON r.oid = c.relowner"
                        " WHERE n.nspname IN ('mcpgw', 'audit') AND r.rolsuper") == [(0,)]


def test_every_function_that_runs_as_its_owner_has_a_fixed_search_path(database):
    rows = database.sql("SELECT p.proname, p.proconfig FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = 'mcpgw' AND p.prosecdef")
    assert len(rows) >= 9
    for name, settings in rows:
        assert "search_path=pg_catalog, pg_temp" in settings, name
    assert database.sql("SELECT count(*) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a"
                        " WHERE n.nspname = 'mcpgw' AND a.grantee = 0") == [(0,)]


# ---- what is a change ---------------------------------------------------------------------------

@pytest.mark.parametrize("statement", [
    'UPDATE apikey SET "lastRequest" = now()', 'UPDATE apikey SET "requestCount" = 7', "UPDATE apikey SET enabled = true",
    'UPDATE apikey SET "lastRefillAt" = now()', 'UPDATE apikey SET "updatedAt" = now()', "UPDATE apikey SET enabled = enabled",
    "UPDATE \"user\" SET name = 'x', image = 'y'", "UPDATE mcpgw.key SET created_by = 'x', revoked_reason = 'y'",
    "INSERT INTO mcpgw.key (key_id, revoked_at) VALUES ('no such key', now())", "INSERT INTO \"user\" (id, name, email, \"emailVerified\") VALUES ('v', 'V', 'v', true)",
])
def test_what_no_verdict_depends_on_is_no_change(facts, statement):
    before = changes(facts)
    facts.sql(statement)
    assert changes(facts) == before


@pytest.mark.parametrize("statement, event", [
    ("UPDATE apikey SET enabled = false", "key.disabled"), ("UPDATE apikey SET enabled = NULL", "key.enabled"),
    ("UPDATE apikey SET \"expiresAt\" = now()", "key.updated"), ("UPDATE apikey SET permissions = NULL", "key.updated"),
    ("UPDATE apikey SET \"configId\" = 'x'", "key.updated"), ("UPDATE apikey SET metadata = '{}'", "key.updated"),
    ("UPDATE apikey SET \"referenceId\" = 'v'", "key.updated"), ("UPDATE apikey SET \"rateLimitEnabled\" = true", "key.updated"),
    ("UPDATE apikey SET remaining = 3", "key.updated"), ("UPDATE apikey SET \"refillAmount\" = 3", "key.updated"),
    ("UPDATE apikey SET \"rateLimitMax\" = 3", "key.updated"), ("UPDATE apikey SET \"rateLimitTimeWindow\" = 3", "key.updated"),
    ("DELETE FROM apikey", "key.deleted"), ("UPDATE mcpgw.key SET revoked_at = now()", "key.revoked"),
    ("UPDATE mcpgw.key SET tenant_id = 'x'", "key.updated"), ("DELETE FROM mcpgw.key", "key.updated"),
])
def test_a_change_of_a_key_names_its_digest(facts, statement, event):
    before = len(changes(facts))
    facts.sql(statement)
    assert [row[1:] for row in changes(facts)[before:]] == [(1, "digest", "k", None, None, None)]
    assert events(facts)[before:] == [event] and is_gapless(facts)
    assert facts.sql("SELECT source, actor_user_id, request_id FROM mcpgw.outbox ORDER BY sequence DESC LIMIT 1") == [("database", None, None)]


@pytest.mark.parametrize("statement, kind, user, tenant, event", [
    ("UPDATE \"user\" SET banned = true WHERE id = 'u'", 2, "u", None, "user.updated"), ("UPDATE \"user\" SET \"banExpires\" = now() WHERE id = 'u'", 2, "u", None, "user.updated"),
    ("DELETE FROM \"user\" WHERE id = 'u'", 2, "u", None, "user.deleted"), ("DELETE FROM member", 2, "m", None, "member.changed"),
    ("DELETE FROM organization WHERE id = 'o2'", 3, None, "o2", "organization.changed"),
])
def test_a_change_of_an_owner_names_the_owner(facts, statement, kind, user, tenant, event):
    facts.sql(USER, "m", "M", "m@example.com")
    for organization in ("o", "o2"):
        facts.sql(ORGANIZATION, organization, organization, organization)
    facts.sql(MEMBER, "mo", "o", "m")
    before = len(changes(facts))
    facts.sql(statement)
    assert [row[1:] for row in changes(facts)[before:]] == [(kind, None, None, user, tenant, None)]
    assert events(facts)[before:] == [event] and is_gapless(facts)


def test_joining_an_organization_and_being_moved_are_changes(facts):
    facts.sql(USER, "m", "M", "m@example.com")
    facts.sql(ORGANIZATION, "o", "o", "o")
    before = len(changes(facts))
    facts.sql(MEMBER, "mo", "o", "u")
    facts.sql("UPDATE member SET \"userId\" = 'm'")
    assert [row[4] for row in changes(facts)[before:]] == ["u", "u", "m"]
    facts.sql("UPDATE member SET role = 'owner'")
    assert len(changes(facts)) == before + 3


def test_an_owner_that_comes_late_frees_the_keys_that_waited(database):
    database.sql(KEY, "k1", "late", "d1")
    database.sql(KEY, "k2", "late", "d2")
    before = len(changes(database))
    database.sql(USER, "late", "L", "l@example.com")
    assert [row[2] for row in changes(database)[before:]] == ["d1", "d2"]


def test_a_new_digest_names_the_old_one_too(facts):
    before = len(changes(facts))
    facts.sql("UPDATE apikey SET key = 'other'")
    assert [row[2] for row in changes(facts)[before:]] == ["digest", "other"] and is_gapless(facts)


def test_servers_change_by_slug(database):
    database.sql(SERVER, "s")
    database.sql("UPDATE mcpgw.server SET url = 'http://other/'")
    database.sql("UPDATE mcpgw.server SET updated_at = now()")
    database.sql("DELETE FROM mcpgw.server")
    assert [row[1:] for row in changes(database)] == [(5, None, None, None, None, "s")] * 3
    assert events(database) == ["server.created", "server.updated", "server.deleted"]


def test_tenants_change_by_id_and_their_events_say_what_happened(database):
    database.sql("INSERT INTO mcpgw.tenant (id, slug) VALUES ('acme', 'acme')")
    for change in ("name = 'Acme'", "name = 'Acme'", "state = 'suspended'", "state = 'active', suspended_reason = NULL", "max_keys = 5"):
        database.sql(f"UPDATE mcpgw.tenant SET {change}")
    database.sql("DELETE FROM mcpgw.tenant")
    assert [row[1:] for row in changes(database)] == [(3, None, None, None, "acme", None)] * 6 and is_gapless(database)
    assert events(database) == ["tenant.created", "tenant.updated", "tenant.suspended", "tenant.resumed", "tenant.updated", "tenant.deleted"]


def test_every_organization_is_a_tenant_whatever_its_slug(database):
    for organization, slug in (("o1", "Acme Inc."), ("o2", "acme-inc"), ("o3", "---"), ("o4", "x" * 200)):
        database.sql(ORGANIZATION, organization, organization, slug)
    rows = dict(database.sql("SELECT id, slug FROM mcpgw.tenant WHERE is_organization AND state = 'active'"))
    assert rows["o1"] == "acme-inc" and rows["o2"].startswith("acme-inc-") and set(rows) == {"o1", "o2", "o3", "o4"}
    database.sql(ORGANIZATION, "id with blanks", "n", "n")                 # no message carries it, and Better-Auth goes on
    assert changes(database) == []                                         # nothing was waiting for them


@pytest.mark.parametrize("tenant, prepare", [
    ("user:u", []), ("o1", [(MEMBER, "m1", "o1", "u")]), ("side", ["INSERT INTO mcpgw.key (key_id, tenant_id) VALUES ('k', 'side')"]),
    ("o1", ["UPDATE apikey SET \"referenceId\" = 'o1'"]),
])
def test_the_view_names_a_keys_tenant_and_its_suspension(facts, tenant, prepare):
    facts.sql(ORGANIZATION, "o1", "o1", "o1")
    facts.sql("DELETE FROM mcpgw.key")
    for statement in prepare:
        facts.sql(*([statement] if isinstance(statement, str) else statement))
    row, = credential(facts)
    assert (row["tenant_id"], row["tenant_suspended"]) == (tenant, False)
    facts.sql("INSERT INTO mcpgw.tenant (id, slug, state) VALUES (%s, 't', 'suspended') ON CONFLICT (id) DO UPDATE SET state = 'suspended'", tenant)
    assert credential(facts)[0]["tenant_suspended"] is True
    assert changes(facts)[-1][1:] == (3, None, None, None, tenant, None)


@pytest.mark.parametrize("table", ["apikey", '"user" CASCADE', "member", "organization CASCADE", "mcpgw.key", "mcpgw.server", "mcpgw.tenant"])
def test_truncate_makes_everybody_forget_everything(facts, table):
    facts.sql(f"TRUNCATE {table}")
    assert changes(facts)[-1][1] == 6 and is_gapless(facts)


def test_what_a_transaction_does_to_one_key_is_told_once(facts):
    before = len(changes(facts))
    with facts.server.connect(facts.name, "mcpgw_keys") as connection, connection.transaction():
        connection.execute("SELECT set_config('mcpgw.source', 'api', true), set_config('mcpgw.event', 'key.revoked', true),"
                           " set_config('mcpgw.actor_user_id', 'boss', true), set_config('mcpgw.request_id', 'r', true)")
        connection.execute("UPDATE mcpgw.apikey SET enabled = false")
        connection.execute("UPDATE mcpgw.key SET revoked_at = now()")
    assert len(changes(facts)) == before + 1
    assert facts.sql("SELECT event, source, actor_user_id, request_id FROM mcpgw.outbox ORDER BY sequence DESC LIMIT 1") == [("key.revoked", "api", "boss", "r")]


def test_only_our_service_may_say_who_acts(facts):
    facts.sql("DO $$ BEGIN IF to_regrole('app') IS NULL THEN CREATE ROLE app LOGIN; END IF; END $$")
    facts.sql("GRANT UPDATE ON apikey TO app")
    with facts.server.connect(facts.name, "app") as connection:
        connection.execute("SET mcpgw.source = 'api'")
        connection.execute("SET mcpgw.actor_user_id = 'somebody else'")
        connection.execute("SET mcpgw.last = '1'")
        connection.execute("SET mcpgw.place = '(0,1)'")
        connection.execute("UPDATE apikey SET enabled = false")
    assert facts.sql("SELECT event, source, actor_user_id FROM mcpgw.outbox ORDER BY sequence DESC LIMIT 1") == [("key.disabled", "database", None)]
    assert is_gapless(facts)


# ---- numbers ------------------------------------------------------------------------------------

def test_a_rolled_back_transaction_leaves_no_gap(facts):
    before = changes(facts)
    with facts.server.connect(facts.name) as connection:
        with pytest.raises(ZeroDivisionError), connection.transaction():
            connection.execute("UPDATE apikey SET enabled = false")
            connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
            raise ZeroDivisionError
        with connection.transaction():
            connection.execute(SERVER, ["a"])
            with pytest.raises(ZeroDivisionError), connection.transaction():
                connection.execute(SERVER, ["b"])
                connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
                raise ZeroDivisionError
            connection.execute(SERVER, ["c"])
    assert [row[6] for row in changes(facts)[len(before):]] == ["a", "c"] and is_gapless(facts)


def test_numbers_are_gapless_and_in_commit_order_under_concurrency(facts):
    seen, stop = [], threading.Event()

    def write(name):
        with facts.server.connect(facts.name) as connection:
            for i in range(40):
                with connection.transaction(force_rollback=i % 4 == 3):
                    for j in range(i % 3 + 1):
                        connection.execute(SERVER, [f"{name}-{i}-{j}"])

    def read():
        with facts.server.connect(facts.name) as connection:
            while not stop.is_set():
                seen.append(connection.execute("SELECT (SELECT value FROM mcpgw.change_sequence), (SELECT count(*) FROM mcpgw.change)").fetchone())

    reader = threading.Thread(target=read)
    writers = [threading.Thread(target=write, args=[f"w{n}"]) for n in range(4)]
    for thread in [reader] + writers:
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    reader.join()
    assert is_gapless(facts)
    assert all(value == count for value, count in seen)        # whoever sees a number sees every row up to it
    assert facts.sql("SELECT count(*) FROM mcpgw.server") == [(sum(i % 3 + 1 for i in range(40) if i % 4 != 3) * 4,)]


def test_many_changes_at_once_are_numbered_in_linear_time(facts):
    with facts.server.connect(facts.name) as connection:
        connection.execute("SET statement_timeout = '60s'")
        connection.execute(KEY.replace("VALUES (%s, 'default', 'n', 'mcp_1a', %s, 'mcp_', %s,", "SELECT 'bulk' || i, 'default', 'n', 'mcp_1a', 'u', 'mcp_', 'd' || i,")
                           .replace("'null')", "'null' FROM generate_series(1, 5000) i"))
        connection.execute("DELETE FROM apikey WHERE id LIKE 'bulk%'")
    assert is_gapless(facts) and len(changes(facts)) >= 10000


def test_a_commit_is_notified_with_its_number(facts):
    with facts.server.connect(facts.name) as listener:
        listener.execute("LISTEN mcpgw_change")
        facts.sql(SERVER, "s")
        notice = next(listener.notifies())
    assert notice.channel == "mcpgw_change" and int(notice.payload) == facts.sql("SELECT value FROM mcpgw.change_sequence")[0][0]


# ---- the view, health, pruning ------------------------------------------------------------------

def credential(database, digest="digest"):
    with database.server.connect(database.name, "mcpgw_authz") as connection:
        cursor = connection.execute("SELECT * FROM mcpgw.credential WHERE digest = %s", [digest])
        return [dict(zip([c.name for c in cursor.description], row)) for row in cursor.fetchall()]


def test_the_view_has_what_a_verdict_needs(facts):
    row, = credential(facts)
    assert row["key_id"] == "k" and row["reference_id"] == "u" and row["side_tenant_id"] == "t" and row["enabled"] and not row["revoked"]
    assert row["owner_exists"] and not row["owner_banned"] and not row["is_organization"] and row["organization_count"] == 0 and row["organization_id"] is None
    for organization in ("o1", "o2"):
        facts.sql(ORGANIZATION, organization, organization, organization)
    facts.sql(MEMBER, "m1", "o1", "u")
    row, = credential(facts)
    assert (row["organization_count"], row["organization_id"]) == (1, "o1")
    facts.sql(MEMBER, "m2", "o2", "u")
    row, = credential(facts)
    assert (row["organization_count"], row["organization_id"]) == (2, None)
    facts.sql("UPDATE \"user\" SET banned = true")
    assert credential(facts)[0]["owner_banned"] is True
    facts.sql("UPDATE \"user\" SET \"banExpires\" = now() - interval '1 second'")
    assert credential(facts)[0]["owner_banned"] is False
    facts.sql("UPDATE mcpgw.key SET revoked_at = now()")
    assert credential(facts)[0]["revoked"] is True
    facts.sql("UPDATE apikey SET \"referenceId\" = 'o1'")
    row, = credential(facts)
    assert row["is_organization"] and row["owner_exists"]
    facts.sql("UPDATE apikey SET \"referenceId\" = 'nobody'")
    assert credential(facts)[0]["owner_exists"] is False


def test_the_view_finds_a_digest_by_the_index(facts):
    facts.sql(KEY.replace("VALUES (%s, 'default', 'n', 'mcp_1a', %s, 'mcp_', %s,", "SELECT 'bulk' || i, 'default', 'n', 'mcp_1a', 'u', 'mcp_', 'd' || i,")
              .replace("'null')", "'null' FROM generate_series(1, 3000) i"))
    facts.sql("ANALYZE apikey")
    plan = "\n".join(row[0] for row in facts.sql("EXPLAIN SELECT * FROM mcpgw.credential WHERE digest = 'd77'"))
    assert "apikey_key_idx" in plan and "Seq Scan on apikey" not in plan


def test_missing_triggers_are_noticed(facts):
    assert facts.sql("SELECT mcpgw.triggers_present()") == [(True,)]
    for statement in ("ALTER TABLE apikey DISABLE TRIGGER mcpgw_updated", "DROP TRIGGER mcpgw_deleted ON \"user\"", "DROP TABLE member CASCADE"):
        with facts.server.connect(facts.name) as connection, connection.transaction(force_rollback=True):
            connection.execute(statement)
            assert connection.execute("SELECT mcpgw.triggers_present()").fetchone() == (False,)
    assert facts.sql("SELECT mcpgw.triggers_present()") == [(True,)]


def test_pruning_keeps_a_day_and_what_audit_has_not_read(facts):
    facts.sql(SERVER, "s")
    newest = facts.sql("SELECT value FROM mcpgw.change_sequence")[0][0]
    facts.sql("UPDATE mcpgw.change SET at = now() - interval '2 days' WHERE sequence < %s", newest)
    facts.sql("UPDATE mcpgw.outbox SET at = now() - interval '30 days'")
    facts.sql("INSERT INTO mcpgw.request VALUES ('r', 'u', 1, 'f', 'a', 'o', now() - interval '2 days'), ('r2', 'u', 1, 'f', 'a', 'o', now())")
    with facts.server.connect(facts.name, "mcpgw_keys") as connection:
        assert connection.execute("SELECT mcpgw.prune()").fetchone() == (newest - 1,)
        assert facts.sql("SELECT count(*) FROM mcpgw.outbox") == [(newest,)]
        facts.sql("INSERT INTO audit.watermark (producer, epoch, next_seq, consumer_token) VALUES ('00000000-0000-7000-8000-000000000001', 1, %s, 1)", newest)
        connection.execute("SELECT mcpgw.prune()")
    assert facts.sql("SELECT sequence FROM mcpgw.change") == facts.sql("SELECT sequence FROM mcpgw.outbox") == [(newest,)]
    assert facts.sql("SELECT request_id FROM mcpgw.request") == [("r2",)]


# ---- other databases ----------------------------------------------------------------------------

def migrate(server, name, user="mcpgw_owner"):
    import os
    import subprocess
    from conftest import program
    environment = {"PATH": os.environ["PATH"], "MCPGW_OWNER_DATABASE_URL": server.url(name, user)}
    return subprocess.run([program("mcpgw-keys"), "migrate"], env=environment, capture_output=True, text=True)


@pytest.fixture
def empty(postgres_server):
    database = postgres_server.make_database("template1")
    yield database
    database.drop()


def test_a_superuser_may_migrate_too_and_twice_changes_nothing(empty):
    assert migrate(empty.server, empty.name, "postgres").returncode == 0
    done = migrate(empty.server, empty.name, "postgres")
    assert done.returncode == 0 and "applied" not in done.stdout


def test_tables_that_better_auth_made_are_kept(empty):
    with empty.server.connect(empty.name, "mcpgw_owner") as c:
        c.execute("""CREATE TABLE "user" (id text PRIMARY KEY, name text NOT NULL, email text NOT NULL UNIQUE, "emailVerified" boolean NOT NULL,
                     image text, "createdAt" timestamptz DEFAULT now() NOT NULL, "updatedAt" timestamptz DEFAULT now() NOT NULL)""")
        c.execute("INSERT INTO \"user\" (id, name, email, \"emailVerified\") VALUES ('u', 'u', 'u', true)")
    assert migrate(empty.server, empty.name).returncode == 0
    with empty.server.connect(empty.name) as c:
        assert c.execute("SELECT id, banned FROM \"user\"").fetchall() == [("u", None)]
        assert c.execute("SELECT mcpgw.triggers_present()").fetchone() == (True,)
