"""mcpgw-authz and users who came in by Better-Auth's social login: the subject of a token that has an `account` row is that user."""
import http.server
import itertools
import json
import threading
import time
import urllib.parse

import psycopg
import pytest

from test_authz_tokens import CORP, DENIED, OK, UNAVAILABLE, UNVERIFIED, Bench
from test_schema import USER, changes, events, is_gapless
from tokens import Key

DIRECTORY = "7f0c2b3e-1111-2222-3333-444455556666"
ENTRA = f"https://login.microsoftonline.com/{DIRECTORY}/v2.0"
serial = itertools.count(1)


class GitHub(http.server.BaseHTTPRequestHandler):
    """POST /applications/<client id>/token of GitHub, GET /tokeninfo of Google: whose token it is, by its text."""
    def do_POST(self):
        token = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["access_token"]
        application = {"gho_other": "Iv1.other", "gho_none": None}.get(token, "Iv1.test")
        number = token.split("_")[1]
        self.answer(token, {"app": {"client_id": application}, "user": {"id": int(number) if number.isdigit() else 1}, "scopes": []}, 404)

    def do_GET(self):
        token = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)["access_token"][0]
        told = {"aud": "ours.apps", "azp": "ours.apps", "sub": token.rsplit(".", 1)[1], "exp": str(int(time.time()) + 600)}
        self.answer(token, {**told, **{"ya29.other": {"aud": "other.apps"}, "ya29.none": {"aud": None}, "ya29.old": {"exp": "1"}}.get(token, {})}, 400)

    def answer(self, token, said, unknown):
        self.server.asked.append(token)
        status = 500 if token.endswith("broken") else unknown if token.endswith("unknown") else 200
        body = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def key():
    return Key("ms", "RS256")


@pytest.fixture(scope="module")
def bench(postgres_server, key):
    bench = Bench(postgres_server)
    github = http.server.ThreadingHTTPServer(("127.0.0.1", 0), GitHub)
    github.asked = bench.asked = []
    threading.Thread(target=github.serve_forever, daemon=True).start()
    origin = f"http://127.0.0.1:{github.server_address[1]}"
    bench.publish("entra", ENTRA, key.jwk())
    bench.publish("corp", CORP["issuer"], key.jwk())
    bench.start({"name": "entra", "preset": "entra-v2", "azure_tenant": DIRECTORY, "client_id": "app"}, CORP,
                {"name": "hub", "preset": "github", "client_id": "Iv1.test", "client_secret": "s", "grants": ["read"],
                 "introspection_url": f"{origin}/applications/Iv1.test/token"},
                {"name": "goo", "preset": "google", "client_id": "ours.apps", "grants": ["read"], "introspection_url": f"{origin}/tokeninfo"})
    yield bench
    bench.close()
    github.shutdown()


def entra(key, oid):
    return key.sign(header={"typ": "JWT"}, iss=ENTRA, aud="app", oid=oid, tid=DIRECTORY, ver="2.0", scp="mcp:read mcp:proxy", scope=None,
                    sub="pairwise-" + oid, azp="client", client_id=None)


def link(bench, user, account, provider="microsoft"):
    """As Better-Auth's sign-in does it."""
    bench.change('INSERT INTO account (id, "accountId", "providerId", "userId", "updatedAt") VALUES (%s, %s, %s, %s, now())',
                 f"a{next(serial)}", account, provider, user)


def who(bench, token):
    verdict = bench.ask(token)
    return (verdict["user_id"], verdict["tenant_id"]) if verdict["error"] == OK else (verdict["error"], verdict["reason"])


@pytest.fixture
def user(bench):
    name = f"ba{next(serial)}"
    bench.add_user(name)
    return name


def test_a_stranger_is_who_its_issuer_says(bench, key, user):
    link(bench, user, "oid-other")
    link(bench, user, "oid-stranger", provider="google")           # the same text of another provider is somebody else
    link(bench, user, "pairwise-oid-stranger")                      # `sub` is not what Better-Auth stores of Entra
    assert who(bench, entra(key, "oid-stranger")) == ("entra:oid-stranger", DIRECTORY)


def test_an_account_makes_the_token_that_users_and_its_end_undoes_it_within_the_cache(bench, key, user):
    token = entra(key, "oid-cached")
    assert who(bench, token) == ("entra:oid-cached", DIRECTORY) and bench.ask(token).was_warm
    link(bench, user, "oid-cached")
    assert not bench.ask(token).was_warm
    assert who(bench, token) == (user, DIRECTORY) and bench.ask(token).was_warm
    bench.change("DELETE FROM account WHERE \"accountId\" = 'oid-cached'")
    assert who(bench, token) == ("entra:oid-cached", DIRECTORY)


def test_an_account_that_moves_takes_the_token_along(bench, key, user):
    token = entra(key, "oid-moved")
    bench.add_user("second")
    link(bench, user, "oid-moved")
    assert who(bench, token)[0] == user
    bench.change("UPDATE account SET \"userId\" = 'second' WHERE \"accountId\" = 'oid-moved'")
    assert who(bench, token)[0] == "second"
    bench.change("UPDATE account SET \"accountId\" = 'oid-elsewhere' WHERE \"accountId\" = 'oid-moved'")
    assert who(bench, token)[0] == "entra:oid-moved" and who(bench, entra(key, "oid-elsewhere"))[0] == "second"


def test_a_sign_in_that_renews_the_account_disturbs_nothing(bench, key, user):
    token = entra(key, "oid-renewed")
    link(bench, user, "oid-renewed")
    assert who(bench, token)[0] == user
    number = bench.db.sql("SELECT value FROM mcpgw.change_sequence")
    bench.db.sql("UPDATE account SET \"accessToken\" = 'x', \"updatedAt\" = now() WHERE \"accountId\" = 'oid-renewed'")
    assert bench.db.sql("SELECT value FROM mcpgw.change_sequence") == number and bench.ask(token).was_warm


def test_a_linked_user_counts_only_while_it_may(bench, key, user):
    token = entra(key, "oid-banned")
    link(bench, user, "oid-banned")
    assert who(bench, token)[0] == user
    bench.change('UPDATE "user" SET banned = true WHERE id = %s', user)
    assert who(bench, token) == (UNVERIFIED, "user_banned")
    bench.change('UPDATE "user" SET banned = false WHERE id = %s', user)
    assert who(bench, token)[0] == user


@pytest.mark.parametrize("way", ["at once", "accounts first"])
def test_a_deleted_users_token_does_not_come_back_as_a_stranger(bench, key, user, way):
    """Better-Auth's deleteUser deletes the accounts in a transaction before that of the user."""
    oid = f"oid-deleted-{user}"
    token = entra(key, oid)
    link(bench, user, oid)
    assert who(bench, token)[0] == user
    if way == "accounts first":
        bench.change('DELETE FROM account WHERE "userId" = %s', user)
        assert who(bench, token)[0] == f"entra:{oid}"
    bench.change('DELETE FROM "user" WHERE id = %s', user)
    assert who(bench, token) == (UNVERIFIED, "user_unknown")
    assert who(bench, entra(key, oid)) == (UNVERIFIED, "user_unknown")
    bench.add_user(user + "-again")                                 # signing up anew is an account again
    link(bench, user + "-again", oid)
    assert who(bench, token)[0] == user + "-again"


def test_an_operator_may_let_the_subject_in_as_a_stranger(bench, key, user):
    token = entra(key, "oid-forgotten")
    link(bench, user, "oid-forgotten")
    bench.change('DELETE FROM "user" WHERE id = %s', user)
    assert who(bench, token) == (UNVERIFIED, "user_unknown")
    bench.change("SELECT mcpgw.forget_account('microsoft', 'oid-forgotten')")
    assert who(bench, token)[0] == "entra:oid-forgotten"


def test_an_account_of_two_users_is_nobodys(bench, key, user):
    bench.add_user("twin")
    for name in (user, "twin"):
        link(bench, name, "oid-twice")
    assert who(bench, entra(key, "oid-twice")) == (UNVERIFIED, "account_ambiguous")
    bench.change("DELETE FROM account WHERE \"accountId\" = 'oid-twice' AND \"userId\" = 'twin'")
    assert who(bench, entra(key, "oid-twice"))[0] == user


def test_the_only_organization_goes_before_the_directory(bench, key, user):
    token = entra(key, "oid-member")
    link(bench, user, "oid-member")
    for name in ("org-a", "org-b"):
        bench.db.sql('INSERT INTO organization (id, name, slug, "createdAt") VALUES (%s, %s, %s, now())', name, name, name)
    assert who(bench, token) == (user, DIRECTORY)
    join = 'INSERT INTO member (id, "organizationId", "userId", role, "createdAt") VALUES (%s, %s, %s, \'member\', now())'
    bench.change(join, "ma", "org-a", user)
    assert who(bench, token) == (user, "org-a")
    bench.change("UPDATE mcpgw.tenant SET state = 'suspended' WHERE id = 'org-a'")
    assert who(bench, token) == (DENIED, "tenant_suspended")
    bench.change("UPDATE mcpgw.tenant SET state = 'active' WHERE id = 'org-a'")
    bench.change(join, "mb", "org-b", user)
    assert who(bench, token) == (user, DIRECTORY)


def test_githubs_number_is_the_account(bench, user):
    link(bench, user, "583231", provider="github")
    assert who(bench, "gho_583231_a") == (user, f"user:{user}")
    assert who(bench, "gho_42_a") == ("hub:42", "user:hub:42")


@pytest.mark.parametrize("token, reason", [
    ("gho_other", "audience"), ("gho_none", "aud_missing"), ("gho_unknown", "token_opaque"), ("ya29.other", "audience"), ("ya29.none", "aud_missing"),
    ("ya29.old", "expired"), ("ya29.unknown", "token_opaque")])
def test_a_token_that_was_made_for_another_application_is_refused_and_asked_about_once(bench, token, reason):
    for _ in range(3):
        assert who(bench, token) == (UNVERIFIED, reason)
    assert bench.asked.count(token) == 1


def test_a_provider_that_is_down_is_503_and_asked_again(bench):
    for token in ("gho_broken", "ya29.broken"):
        for _ in range(2):
            assert who(bench, token) == (UNAVAILABLE, "issuer_silent")
        assert bench.asked.count(token) == 2


def test_what_no_provider_could_have_made_is_asked_of_none(bench):
    before = len(bench.asked)
    for token in ("ghp_1_a", "GHO_1_a", "github_pat_1", "ya2.x", 'gho_1"_a', "gho_" + "x" * 5000):
        assert who(bench, token)[0] == UNVERIFIED, token
    assert len(bench.asked) == before


def test_googles_subject_is_the_account(bench, user):
    link(bench, user, "11787", provider="google")
    assert who(bench, "ya29.11787") == (user, f"user:{user}")
    assert who(bench, "ya29.42") == ("goo:42", "user:goo:42")


def test_an_issuer_that_is_not_linked_asks_nobody(bench, key, user):
    link(bench, user, "alice")
    assert who(bench, key.sign())[0] == "corp:alice"


# ---- what Postgres says ------------------------------------------------------------------------------

def as_authz(database, statement, *values):
    with database.server.connect(database.name, "mcpgw_authz") as connection:
        return connection.execute(statement, values).fetchall()


ACCOUNT = 'INSERT INTO account (id, "accountId", "providerId", "userId", "updatedAt") VALUES (%s, %s, %s, %s, now())'


@pytest.mark.parametrize("statement", ["SELECT * FROM account", 'SELECT "userId" FROM account', "SELECT * FROM mcpgw.former_account",
                                       "DELETE FROM account", "SELECT mcpgw.forget_account('a', 'b')"])
def test_authz_can_list_no_account(database, statement):
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        as_authz(database, statement)


def test_what_links_a_subject_is_a_change_that_names_it_and_its_user(database):
    database.sql(USER, "u", "U", "u@example.com")
    before = len(changes(database))
    database.sql(ACCOUNT, "a0", "u", "credential", "u")              # a password
    assert len(changes(database)) == before
    database.sql(ACCOUNT, "a1", "oid-1", "microsoft", "u")
    database.sql("UPDATE account SET scope = 'x', \"idToken\" = 'y'")
    database.sql("DELETE FROM account WHERE id = 'a1'")
    database.sql('DELETE FROM "user"')
    name = database.sql("SELECT mcpgw.account_name('microsoft', 'oid-1')")[0][0]
    assert name == "account:XOCK0mKCaMefMQXvl3HDqKGEWQJyfagxiT85sD_BFbo"    # as authz makes it
    assert [row[1:5] for row in changes(database)[before:]][:2] == [(2, None, name, "u")] * 2
    assert (2, None, name, "u") in [row[1:5] for row in changes(database)[before + 2:]]
    assert events(database)[before:before + 2] == ["account.linked", "account.unlinked"]
    assert "oid-1" not in str(database.sql("SELECT * FROM mcpgw.outbox")) and is_gapless(database)


def test_find_linked_answers_one_row_or_none(database):
    ask = "SELECT * FROM mcpgw.find_linked(%s, %s)"
    assert as_authz(database, ask, "microsoft", "oid-1") == [(None, 0, False)]
    assert as_authz(database, ask, None, "oid-1") == []
    database.sql(USER, "u", "U", "u@example.com")
    database.sql(ACCOUNT, "a1", "oid-1", "microsoft", "u")
    database.sql(ACCOUNT, "a2", "oid-1", "microsoft", "u")           # twice the same is no doubt
    assert as_authz(database, ask, "microsoft", "oid-1") == [("u", 1, False)]
    assert as_authz(database, ask, "google", "oid-1") == [(None, 0, False)]
    database.sql('DELETE FROM "user"')
    assert as_authz(database, ask, "microsoft", "oid-1") == [(None, 0, True)]
