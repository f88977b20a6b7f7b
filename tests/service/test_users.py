"""Users and their sessions over the management API: Better-Auth's rows, changed so that both systems see it."""
import pytest

from test_keys import ADMIN, ALICE, BOB, Api, add_callers, add_user, sequence, tell_holders, worker, api    # noqa: F401

import busedge

OWNER = {"user_id": "olga", "tenant_id": "acme", "scopes": sum(busedge.SCOPES.values()), "key_id": "k"}


@pytest.fixture
def acme(api, database):
    for organization in ("acme", "globex"):
        database.sql('INSERT INTO organization (id, name, slug, "createdAt") VALUES (%s, %s, %s, now())', *[organization] * 3)
    for user in ("olga", "mia", "both"):
        add_user(database, user)
    add_callers(database, "k")
    for user, organization, role in (("olga", "acme", "owner"), ("mia", "acme", "member"), ("both", "acme", "member"), ("both", "globex", "member")):
        database.sql("INSERT INTO member VALUES (%s, %s, %s, %s, now())", user + organization, organization, user, role)
    for user in ("mia", "mia", "both", "alice"):
        sign_in(database, user)
    return api


def sign_in(database, user, life="1 hour"):
    count = database.sql("SELECT count(*) FROM session")[0][0]
    database.sql('INSERT INTO session (id, "expiresAt", token, "updatedAt", "userId", "ipAddress", "userAgent")'
                 " VALUES (%s, now() + %s::interval, %s, now(), %s, '192.0.2.7', 'agent')", f"s{count}", life, f"token{count}", user)
    return f"s{count}"


def ids(page):
    return [item["id"] for item in page["items"]]


def test_what_is_out_of_reach_does_not_exist(acme):
    for operation in ("user_get", "user_suspend", "user_resume", "user_sign_out", "session_list"):
        for user in ("alice", "nobody"):
            acme.refused(404, "not_found", operation, OWNER, object=user)
    acme.refused(404, "not_found", "session_end", OWNER, object="s3")
    acme.refused(404, "not_found", "session_end", OWNER, object="nothing")
    acme.refused(404, "not_found", "user_list", OWNER, query="tenant=globex")
    acme.refused(403, "forbidden", "user_list", ALICE)
    acme.refused(404, "not_found", "user_get", ALICE, object="mia")


def test_a_user_of_several_tenants_is_an_operators_to_suspend(acme, database):
    for operation in ("user_suspend", "user_resume", "user_sign_out", "session_list"):
        acme.refused(403, "shared_user", operation, OWNER, object="both")
    acme.refused(403, "shared_user", "session_end", OWNER, object="s2")
    assert database.sql("SELECT banned FROM \"user\" WHERE id = 'both'") == [(None,)]
    assert acme.ok("user_suspend", object="both")["suspended"] is True


def test_nobody_suspends_themselves(acme):
    acme.refused(409, "oneself", "user_suspend", OWNER, object="olga")
    acme.refused(409, "oneself", "user_suspend", object="admin")


def test_a_tenants_users_are_listed_without_their_other_tenants(acme, database):
    seen = acme.ok("user_list", OWNER)["items"]
    assert [(user["id"], user["memberRole"], user["sessions"]) for user in seen] == [("both", "member", 1), ("mia", "member", 2), ("olga", "owner", 0)]
    assert set(seen[0]) == {"id", "name", "email", "memberRole", "suspended", "suspendedReason", "suspendedUntil", "sessions", "createdAt"}
    assert ids(acme.ok("user_list", query="tenant=globex")) == ["both"] and ids(acme.ok("user_list", query="tenant=user:bob")) == ["bob"]
    first = acme.ok("user_list", query="limit=2")
    assert ids(first) == ["admin", "alice"] and ids(acme.ok("user_list", query=f"limit=3&cursor={first['next']}")) == ["bob", "both", "mia"]
    acme.create(userId="bob", tenantId="side")
    assert ids(acme.ok("user_list", query="tenant=side")) == ["bob"]


def test_suspending_is_better_auths_ban_and_signs_out(acme, database):
    key = acme.create(OWNER, userId="mia")["key"]
    answer = acme.ok("user_suspend", OWNER, {"reason": "left"}, object="mia")
    assert (answer["suspended"], answer["suspendedReason"], answer["sessions"]) == (True, "left", 0) and answer["applied"]["of"] >= 1
    assert database.sql('SELECT banned, "banReason", "banExpires" FROM "user" WHERE id = \'mia\'') == [(True, "left", None)]
    assert database.sql("SELECT id FROM session ORDER BY id") == [("s2",), ("s3",)]
    assert acme.ok("key_verify", body={"key": key}) == {"isValid": False, "error": "OWNER_BANNED"}
    before = sequence(database)
    acme.ok("user_suspend", OWNER, object="mia")
    assert sequence(database) == before
    answer = acme.ok("user_resume", OWNER, object="mia")
    assert (answer["suspended"], answer["suspendedReason"]) == (False, None)
    assert acme.ok("key_verify", body={"key": key})["isValid"] is True
    rows = database.sql("SELECT event, actor_user_id, user_id, reason FROM mcpgw.outbox WHERE user_id = 'mia' AND key_id IS NULL AND actor_user_id IS NOT NULL ORDER BY sequence")
    assert ("user.updated", "olga", "mia", "left") in rows and rows[-1] == ("user.updated", "olga", "mia", None)


def test_sessions_are_listed_without_their_token_and_ended(acme, database):
    sign_in(database, "mia", "-1 hour")
    page = acme.ok("session_list", OWNER, object="mia")
    assert sorted(ids(page)) == ["s0", "s1"] and "token" not in str(page).replace("address", "")
    assert page["items"][0]["address"] == "192.0.2.7" and page["items"][0]["userAgent"] == "agent"
    first = acme.ok("session_list", OWNER, object="mia", query="limit=1")
    assert sorted(ids(first) + ids(acme.ok("session_list", OWNER, object="mia", query=f"limit=1&cursor={first['next']}"))) == ["s0", "s1"]
    before = sequence(database)
    assert acme.ok("session_end", OWNER, object="s0")["ended"] is True
    assert sequence(database) == before + 1
    assert acme.ok("user_sign_out", OWNER, object="mia")["ended"] >= 1
    assert acme.ok("session_list", OWNER, object="mia")["items"] == []


def test_everybody_ends_their_own_sessions(acme):
    assert ids(acme.ok("session_list", ALICE, object="alice")) == ["s3"]
    assert acme.ok("user_get", ALICE, object="alice")["sessions"] == 1
    acme.refused(404, "not_found", "session_end", BOB, object="s3")
    acme.ok("session_end", ALICE, object="s3")
    assert acme.ok("user_sign_out", ALICE, object="alice")["ended"] == 0


BAN = 'SELECT banned, "banReason", "banExpires" IS NOT NULL FROM "user" WHERE id = \'mia\''


def test_a_ban_that_others_set_is_theirs_to_lift(acme, database):
    database.sql('UPDATE "user" SET banned = true, "banReason" = \'fraud\' WHERE id = \'mia\'')
    for who in (OWNER, ADMIN):
        assert "Better-Auth" in acme.refused(409, "banned_by_others", "user_resume", who, object="mia")["detail"]
    assert database.sql(BAN) == [(True, "fraud", False)]
    acme.ok("user_suspend", OWNER, {"reason": "left"}, object="mia")
    answer = acme.ok("user_resume", OWNER, object="mia")
    assert (answer["suspended"], answer["suspendedReason"]) == (True, "fraud") and database.sql(BAN) == [(True, "fraud", False)]
    acme.refused(409, "banned_by_others", "user_resume", OWNER, object="mia")


def test_a_ban_that_others_set_over_a_suspension_is_theirs_too(acme, database):
    for theirs in ("banned = true", "banned = false", "\"banReason\" = NULL"):
        acme.ok("user_suspend", OWNER, object="mia")
        database.sql(f'UPDATE "user" SET {theirs} WHERE id = \'mia\'')
        database.sql('UPDATE "user" SET banned = true WHERE id = \'mia\'')
        acme.refused(409, "banned_by_others", "user_resume", OWNER, object="mia")
        database.sql('UPDATE "user" SET banned = NULL WHERE id = \'mia\'')
    acme.ok("user_suspend", OWNER, object="mia")
    database.sql("UPDATE \"user\" SET name = 'Mia', \"updatedAt\" = now() WHERE id = 'mia'")
    assert acme.ok("user_resume", OWNER, object="mia")["suspended"] is False


def test_a_suspension_outlives_a_ban_for_a_time(acme, database):
    for until, remains in (("now() + interval '1 day'", True), ("now() - interval '1 day'", False)):
        database.sql(f'UPDATE "user" SET banned = true, "banExpires" = {until} WHERE id = \'mia\'')
        assert acme.ok("user_suspend", OWNER, object="mia")["suspended"] is True
        assert database.sql(BAN) == [(True, None, False)]
        assert acme.ok("user_resume", OWNER, object="mia")["suspended"] is remains
        assert database.sql(BAN)[0][0] is remains


def test_what_an_operator_suspended_no_tenants_administrator_lifts(acme):
    acme.ok("user_suspend", OWNER, object="mia")
    acme.ok("user_suspend", ADMIN, object="mia")
    acme.refused(409, "banned_by_others", "user_resume", OWNER, object="mia")
    acme.ok("user_suspend", OWNER, object="mia")
    acme.refused(409, "banned_by_others", "user_resume", OWNER, object="mia")
    assert acme.ok("user_resume", ADMIN, object="mia")["suspended"] is False
