"""What authz may read of sessions and opaque tokens, and which of their changes get a number."""
import psycopg
import pytest

from test_schema import USER, ORGANIZATION, MEMBER, changes, events, is_gapless

SESSION = """INSERT INTO session (id, token, "userId", "expiresAt", "updatedAt") VALUES (%s, %s, %s, now() + interval '1 hour', now())"""
# As the migration of @better-auth/oauth-provider 1.7.5 makes it.
OPAQUE_1_7 = """CREATE TABLE "oauthClient" (id text PRIMARY KEY, "clientId" text NOT NULL UNIQUE, disabled boolean);
CREATE TABLE "oauthAccessToken" (id text PRIMARY KEY, token text NOT NULL, "clientId" text NOT NULL, "sessionId" text, "userId" text,
    "referenceId" text, "authorizationCodeId" text, resources jsonb, "refreshId" text, "expiresAt" timestamptz NOT NULL,
    "createdAt" timestamptz NOT NULL DEFAULT now(), revoked timestamptz, confirmation jsonb, scopes jsonb NOT NULL)"""
# As the mcp plugin of 1.3.9 to 1.6.34 makes it.
OPAQUE_1_3 = """CREATE TABLE "oauthApplication" (id text PRIMARY KEY, "clientId" text NOT NULL UNIQUE, disabled boolean);
CREATE TABLE "oauthAccessToken" (id text PRIMARY KEY, "accessToken" text, "refreshToken" text, "accessTokenExpiresAt" timestamp,
    "clientId" text, "userId" text, scopes text)"""


@pytest.fixture
def facts(database):
    database.sql(USER, "u", "U", "u@example.com")
    database.sql(SESSION, "s", "secret", "u")
    return database


def make(database, tables):
    """They belong to the role that migrates, as where the application and the gateway share one."""
    with database.server.connect(database.name, "mcpgw_owner") as connection:
        connection.execute("SET search_path = public;" + tables)


def as_authz(database, statement, *values):
    with database.server.connect(database.name, "mcpgw_authz") as connection:
        return connection.execute(statement, values).fetchall()


@pytest.mark.parametrize("statement", ["SELECT * FROM session", "SELECT token FROM session", "SELECT * FROM \"oauthAccessToken\"", "DELETE FROM session"])
def test_authz_can_list_no_credential(facts, statement):
    make(facts, OPAQUE_1_7)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        as_authz(facts, statement)


def test_a_session_is_found_by_its_token_and_by_nothing_else(facts):
    assert as_authz(facts, "SELECT session_id, user_id, organization_id FROM mcpgw.find_session('secret')") == [("s", "u", None)]
    for token in ("s", "u", "", "secre", None):
        assert as_authz(facts, "SELECT * FROM mcpgw.find_session(%s)", token) == []
    assert as_authz(facts, "SELECT mcpgw.session_lives('s'), mcpgw.session_lives('x'), mcpgw.session_lives(NULL)") == [(True, False, False)]
    facts.sql("UPDATE session SET \"expiresAt\" = now() - interval '1 s'")
    assert as_authz(facts, "SELECT mcpgw.session_lives('s')") == [(False,)]


def test_the_chosen_organization_counts_only_for_a_member(facts):
    facts.sql(ORGANIZATION, "o", "O", "o")
    facts.sql("UPDATE session SET \"activeOrganizationId\" = 'o'")
    assert as_authz(facts, "SELECT organization_id FROM mcpgw.find_session('secret')") == [(None,)]
    facts.sql(MEMBER, "m", "o", "u")
    assert as_authz(facts, "SELECT organization_id FROM mcpgw.find_session('secret')") == [("o",)]


def test_a_principal_is_told_with_ban_second_factor_and_organization(facts):
    ask = "SELECT banned, second_factor, organization_count, organization_id FROM mcpgw.find_principal('u')"
    assert as_authz(facts, ask) == [(False, False, 0, None)]
    facts.sql('ALTER TABLE "user" ADD "twoFactorEnabled" boolean')          # the two-factor plugin comes later
    assert as_authz(facts, ask) == [(False, False, 0, None)]
    facts.sql('UPDATE "user" SET "twoFactorEnabled" = true, banned = true')
    facts.sql(ORGANIZATION, "o", "O", "o")
    facts.sql(MEMBER, "m", "o", "u")
    assert as_authz(facts, ask) == [(True, True, 1, "o")]
    facts.sql("UPDATE \"user\" SET \"banExpires\" = now() - interval '1 s'")
    assert as_authz(facts, ask) == [(False, True, 1, "o")]
    assert as_authz(facts, "SELECT * FROM mcpgw.find_principal('nobody')") == []


def test_what_ends_a_session_is_a_change_that_names_it(facts):
    before = len(changes(facts))
    facts.sql("UPDATE session SET \"updatedAt\" = now(), \"ipAddress\" = '::1'")
    facts.sql("UPDATE session SET \"expiresAt\" = \"expiresAt\" + interval '1 day'")
    assert len(changes(facts)) == before
    facts.sql("UPDATE session SET \"expiresAt\" = now() + interval '1 minute'")
    facts.sql("UPDATE session SET \"activeOrganizationId\" = 'o'")
    facts.sql("DELETE FROM session")
    assert [row[1:4] for row in changes(facts)[before:]] == [(4, None, "s")] * 3
    assert events(facts)[before:] == ["session.updated", "session.updated", "session.ended"]
    assert is_gapless(facts)


def test_a_session_that_was_over_is_cleared_away_without_a_change(facts):
    facts.sql("UPDATE session SET \"expiresAt\" = now() - interval '1 s'")
    before = len(changes(facts))
    facts.sql("DELETE FROM session")
    assert len(changes(facts)) == before


def test_a_deleted_user_s_sessions_end_by_name(facts):
    before = len(changes(facts))
    facts.sql("DELETE FROM \"user\"")
    assert sorted(row[1] for row in changes(facts)[before:]) == [2, 4]


def test_a_second_factor_and_a_role_are_changes(facts):
    facts.sql('ALTER TABLE "user" ADD "twoFactorEnabled" boolean')
    before = len(changes(facts))
    facts.sql('UPDATE "user" SET "twoFactorEnabled" = true')
    facts.sql('UPDATE "user" SET "twoFactorEnabled" = false')
    facts.sql("UPDATE \"user\" SET role = 'admin'")
    facts.sql('UPDATE "user" SET "updatedAt" = now()')
    assert [(row[1], row[4]) for row in changes(facts)[before:]] == [(2, "u")] * 3


def test_truncated_sessions_make_everybody_forget_everything(facts):
    facts.sql("TRUNCATE session")
    assert changes(facts)[-1][1] == 6


ASK = "SELECT client_id, user_id, session_id, scopes, audiences, ended FROM mcpgw.find_opaque('digest', 'token')"


def test_without_better_auth_s_tables_there_is_no_opaque_token(facts):
    assert as_authz(facts, ASK) == []


def test_an_opaque_token_of_today_is_found_by_its_digest(facts):
    make(facts, OPAQUE_1_7)
    facts.sql("INSERT INTO \"oauthClient\" VALUES ('1', 'c', NULL)")
    facts.sql("INSERT INTO \"oauthAccessToken\" (id, token, \"clientId\", \"sessionId\", \"userId\", resources, \"expiresAt\", scopes)"
              " VALUES ('t', 'digest', 'c', 's', 'u', '[\"https://gw/a\"]', now() + interval '1 h', '[\"read\", \"openid\"]')")
    assert as_authz(facts, ASK) == [("c", "u", "s", "read openid", '["https://gw/a"]', False)]
    for change in ("revoked = now()", "revoked = NULL, confirmation = '{\"jkt\":\"x\"}'"):
        facts.sql(f'UPDATE "oauthAccessToken" SET {change}')
        assert as_authz(facts, ASK)[0][-1] is True
    facts.sql('UPDATE "oauthAccessToken" SET confirmation = \'null\', resources = \'null\', scopes = \'"read"\'')
    assert as_authz(facts, ASK) == [("c", "u", "s", None, None, False)]
    facts.sql('UPDATE "oauthClient" SET disabled = true')
    assert as_authz(facts, ASK)[0][-1] is True
    facts.sql("UPDATE \"oauthAccessToken\" SET token = 'token'")
    assert as_authz(facts, ASK) == []


def test_an_opaque_token_of_old_is_found_by_itself(facts):
    make(facts, OPAQUE_1_3)
    facts.sql("INSERT INTO \"oauthAccessToken\" VALUES ('t', 'token', 'refresh', now() + interval '1 h', 'c', 'u', 'openid read')")
    assert as_authz(facts, ASK) == [("c", "u", None, "openid read", None, False)]
    facts.sql("INSERT INTO \"oauthApplication\" VALUES ('1', 'c', true)")
    assert as_authz(facts, ASK)[0][-1] is True
    facts.sql("UPDATE \"oauthAccessToken\" SET \"accessToken\" = 'digest'")
    assert as_authz(facts, ASK) == []


def test_a_session_that_is_older_than_the_second_factor_proves_none(facts):
    prove = "SELECT mcpgw.session_proves_factor('u', 's', 0)"
    facts.sql('ALTER TABLE "user" ADD "twoFactorEnabled" boolean')
    assert as_authz(facts, prove) == [(True,)]                              # never asked unless the user has one
    facts.sql('UPDATE "user" SET "twoFactorEnabled" = true')                # plain SQL: by the clock of Postgres
    assert as_authz(facts, prove) == [(False,)]
    facts.sql("UPDATE session SET \"createdAt\" = now()")
    assert as_authz(facts, prove) == [(True,)]
    facts.sql('UPDATE "user" SET "twoFactorEnabled" = true, name = \'V\', "updatedAt" = now()')
    assert as_authz(facts, prove) == [(True,)]                              # it was enabled before
    facts.sql('UPDATE "user" SET "twoFactorEnabled" = false')
    facts.sql('UPDATE "user" SET "twoFactorEnabled" = true, "updatedAt" = \'2100-01-01T00:00:00.125Z\'')    # the application's clock
    assert as_authz(facts, prove) == [(False,)]
    facts.sql("UPDATE session SET \"createdAt\" = '2100-01-01T00:00:00.125Z'")
    assert as_authz(facts, prove) == [(True,)]
    facts.sql("UPDATE session SET \"impersonatedBy\" = 'boss'")
    assert as_authz(facts, prove) == [(False,)]
    of_redis = "SELECT mcpgw.session_proves_factor('u', '', %s)"
    moment = 4102444800125000
    assert [as_authz(facts, of_redis, at)[0][0] for at in (0, moment - 1, moment)] == [False, False, True]
    facts.sql('DELETE FROM "user"')
    assert facts.sql("SELECT count(*) FROM mcpgw.second_factor") == [(0,)]
