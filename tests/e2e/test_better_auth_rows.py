"""Random rows judged by the real plugin and by the gateway, which must agree; and both spending one key at once."""
import base64
import datetime
import hashlib
import http.client
import json
import os
import random
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from conftest import wait_until
from peers import node

ROWS = 2000
NOW = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)    # no interval of a row ends within hours of it
HOUR = datetime.timedelta(hours=1)


def digest(key):
    return base64.urlsafe_b64encode(hashlib.sha256(key.encode()).digest()).decode().rstrip("=")


def judged_by_plugin(gateway, questions):
    program, folder = node()
    done = subprocess.run([program, "better_auth_rows.mjs"], cwd=folder, text=True, timeout=240, input="".join(json.dumps(q) + "\n" for q in questions),
                          env=dict(os.environ, DATABASE_URL=gateway.env["MCPGW_DATABASE_URL"]), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(questions), done.stderr
    return answers


def random_row(pick):
    return {
        "enabled": pick([True, True, True, None, False]), "expiresAt": pick([None, None, NOW + HOUR, NOW + 30 * HOUR, NOW - HOUR]),
        "permissions": pick(['{"mcp":["read"]}'] * 5 + ['{"mcp":["read","proxy"]}', '{"mcp":["proxy"]}', '{"mcp":[]}', '{"other":["read"]}', None, "broken", "[]"]),
        "remaining": pick([None, 0, 1, 2, 20, 21, 22, 100, -1]), "refillAmount": pick([None, None, 0, 3, 50]),
        "refillInterval": pick([None, 0, 3600000, 36000000]), "lastRefillAt": pick([None, NOW, NOW - 5 * HOUR]),
        "createdAt": pick([NOW, NOW - 20 * HOUR]), "metadata": pick(["null", "{}", '{"tier":"gold"}', None]), "configId": pick(["default", "default", ""]),
    }


def insert(connection, rows):
    with connection.cursor() as cursor:
        names = list(rows[0])
        with cursor.copy(f"COPY apikey ({', '.join(chr(34) + name + chr(34) for name in names)}) FROM STDIN") as copy:
            for row in rows:
                copy.write_row([row[name] for name in names])


def ask_all(gateway, keys, threads=8):
    sessions = threading.local()

    def ask(key):
        if not hasattr(sessions, "connection"):
            sessions.connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)    # a third of what requests costs
        sessions.connection.request("GET", "/auth/check?scope=read", headers={"x-api-key": key})
        answer = sessions.connection.getresponse()
        body = answer.read()
        return answer.status, json.loads(body).get("code") if answer.status != 200 else None
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(ask, keys))


EXPECTED = {None: (200, None), "USAGE_EXCEEDED": (429, "usage_exceeded"), "KEY_DISABLED": (401, "unauthorized"), "KEY_EXPIRED": (401, "unauthorized"),
            "KEY_NOT_FOUND": (403, "forbidden")}


@pytest.fixture(scope="module")
def judges(gateway):
    with gateway.database() as connection:
        connection.execute("INSERT INTO \"user\" (id, name, email, \"emailVerified\") VALUES ('rows', 'Rows', 'rows@example.com', true) ON CONFLICT DO NOTHING")
    return gateway


def test_random_rows_are_judged_as_the_plugin_judges_them(judges):
    generator = random.Random(20261121)
    rows = []
    for number in range(ROWS):
        row = random_row(generator.choice)
        for side in "ab":
            key = f"{side}-{number}-" + "x" * 60
            rows.append(dict(row, id=f"{side}{number}", key=digest(key), referenceId="rows", updatedAt=NOW, rateLimitEnabled=False, requestCount=0))
    with judges.database() as connection:
        insert(connection, rows)
    theirs = judged_by_plugin(judges, [{"key": f"a-{n}-" + "x" * 60, "permissions": {"mcp": ["read"]}} for n in range(ROWS)])
    ours = ask_all(judges, [f"b-{n}-" + "x" * 60 for n in range(ROWS)])
    with judges.database() as connection:
        left = {id: rest for id, *rest in connection.execute(
            'SELECT id, remaining, enabled, "lastRefillAt" IS NOT DISTINCT FROM %s, permissions FROM apikey', [NOW])}
    differences = []
    for number, (them, us) in enumerate(zip(theirs, ours)):
        if EXPECTED.get(them["code"]) != us:
            differences.append((rows[2 * number], them, us))
        elif f"a{number}" in left and left[f"a{number}"] != left[f"b{number}"]:
            differences.append((rows[2 * number], left[f"a{number}"], left[f"b{number}"]))
    assert not differences, (len(differences), differences[:5])
    assert {them["code"] for them in theirs} == set(EXPECTED)


def test_both_spending_one_key_never_spend_one_too_many(judges):
    total, key = 400, "shared-" + "x" * 60
    with judges.database() as connection:
        insert(connection, [dict(id="shared", key=digest(key), referenceId="rows", configId="default", createdAt=NOW, updatedAt=NOW, remaining=total,
                                 rateLimitEnabled=False, requestCount=0, permissions='{"mcp":["read"]}')])
    theirs = []
    plugin = threading.Thread(target=lambda: theirs.extend(judged_by_plugin(judges, [{"key": key}] * 250)))
    plugin.start()
    ours = ask_all(judges, [key] * 350, threads=6)
    plugin.join()
    spent = sum(answer["valid"] for answer in theirs) + sum(status == 200 for status, _ in ours)
    assert spent <= total
    # What two workers held when the row was gone or empty, and copies of slow questions.
    assert spent >= total - 2 * 64 - 40, spent
    assert {status for status, _ in ours} <= {200, 429, 401}


def test_uses_that_rest_go_back_to_the_row(judges):
    key = "resting-" + "x" * 60
    with judges.database() as connection:
        insert(connection, [dict(id="resting", key=digest(key), referenceId="rows", configId="default", createdAt=NOW, updatedAt=NOW, remaining=1000,
                                 rateLimitEnabled=False, requestCount=0, permissions='{"mcp":["read"]}')])
        assert {status for status, _ in ask_all(judges, [key] * 200)} == {200}

        def left():
            return connection.execute("SELECT remaining FROM apikey WHERE id = 'resting'").fetchone()[0]
        wait_until(lambda: 1000 - 200 - 20 <= left() <= 1000 - 200, what="the rest is given back")


def test_better_auth_s_own_pages_show_what_was_used_here(judges):
    key = "shown-" + "x" * 60
    with judges.database() as connection:
        insert(connection, [dict(id="shown", key=digest(key), referenceId="rows", configId="default", createdAt=NOW, updatedAt=NOW,
                                 rateLimitEnabled=False, requestCount=0, permissions='{"mcp":["read"]}')])
        assert {status for status, _ in ask_all(judges, [key] * 7)} == {200}
        wait_until(lambda: connection.execute('SELECT "requestCount", "lastRequest" > %s FROM apikey WHERE id = %s', [NOW, "shown"]).fetchone() == (7, True),
                   30, "the counters are settled")


@pytest.mark.parametrize("statement, status", [
    ("UPDATE \"user\" SET banned = true WHERE id = 'owner'", 401),
    ("UPDATE \"user\" SET banned = true, \"banExpires\" = now() - interval '1 hour' WHERE id = 'owner'", 200),
    ("DELETE FROM \"user\" WHERE id = 'owner'", 401),
    ("DELETE FROM member WHERE \"userId\" = 'owner'", 401),
    ("UPDATE member SET \"organizationId\" = 'globex' WHERE \"userId\" = 'owner'", 200),
    ("DELETE FROM organization WHERE id = 'acme'", 401),
])
def test_the_state_of_the_owner_counts(judges, statement, status):
    """Better-Auth itself never looks at it."""
    key = "owned-" + "x" * 60
    with judges.database() as connection:
        connection.execute("DELETE FROM apikey WHERE id = 'owned'")
        connection.execute("DELETE FROM \"user\" WHERE id = 'owner'")
        connection.execute("INSERT INTO \"user\" (id, name, email, \"emailVerified\") VALUES ('owner', 'Owner', 'owner@example.com', true)")
        for organization in ("acme", "globex"):
            connection.execute("INSERT INTO organization (id, name, slug, \"createdAt\") VALUES (%s, %s, %s, now()) ON CONFLICT DO NOTHING", [organization] * 3)
        connection.execute("INSERT INTO member VALUES ('m', 'acme', 'owner', 'member', now())")
        insert(connection, [dict(id="owned", key=digest(key), referenceId="owner", configId="default", createdAt=NOW, updatedAt=NOW,
                                 rateLimitEnabled=False, requestCount=0, permissions='{"mcp":["read"]}')])

        def asked():
            return judges.check(key)
        wait_until(lambda: asked().status_code == 200, what="the key works")
        assert asked().json()["tenantId"] == "acme"
        connection.execute(statement)
        wait_until(lambda: asked().status_code == status and (status != 200 or asked().json()["tenantId"] == ("globex" if "globex" in statement else "acme")),
                   10, "the change is felt")
