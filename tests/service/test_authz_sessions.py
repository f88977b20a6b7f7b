"""mcpgw-authz and what is no JWT: sessions in Postgres and in Redis, opaque tokens in Better-Auth's table and behind introspection,
and which of two credentials decides."""
import http.server
import itertools
import json
import shutil
import threading
import time
import urllib.parse

import pytest

from busedge import SCOPES, TIERS
from conftest import Redis, wait_until
from test_authz_tokens import (BETTER_AUTH, CORP, DENIED, LOCAL, OK, OAUTH, SECRET, SESSION, UNAVAILABLE, UNVERIFIED, API_KEY, Bench,
                               digest_text, own, keys)                                  # noqa: F401 (keys is a fixture)
from test_schema_sessions import OPAQUE_1_3, OPAQUE_1_7
from tokens import AUDIENCE, ISSUER, session_cookie, with_signature

escaped = urllib.parse.quote


@pytest.fixture(scope="module")
def bench(postgres_server, keys):                                                       # noqa: F811
    bench = Bench(postgres_server)
    bench.publish("corp", ISSUER, keys["rsa"].jwk())
    bench.publish("own", BETTER_AUTH, keys["other"].jwk())
    bench.start(CORP, LOCAL)
    yield bench
    bench.close()


# ---- sessions ---------------------------------------------------------------------------------------

def test_a_session_cookie_is_the_user(bench):
    session, token = bench.add_session("u1")
    for text in (session_cookie(SECRET, token), escaped(session_cookie(SECRET, token), safe="")):
        verdict = bench.ask(text, SESSION, needed=SCOPES["read"] | SCOPES["proxy"], server="b")
        assert verdict["error"] == OK and verdict["auth_method"] == SESSION and verdict["issuer"] == ""
        assert (verdict["user_id"], verdict["tenant_id"], verdict["session_id"]) == ("u1", "user:u1", session)
        assert (verdict["tier"], verdict["second_factor"]) == (TIERS["oauth"], False)
        assert abs(verdict["expires_s"] - time.time() - 3600) < 60
        assert bench.ask(text, SESSION).was_warm


def test_an_administrator_s_session_holds_admin(bench):
    _, token = bench.add_session("admin")
    verdict = bench.ask(session_cookie(SECRET, token), SESSION, needed=SCOPES["admin"])
    assert (verdict["error"], verdict["tier"]) == (OK, TIERS["admin"])
    bench.change("UPDATE \"user\" SET role = 'user,auditor' WHERE id = 'admin'")
    assert bench.ask(session_cookie(SECRET, token), SESSION, needed=SCOPES["admin"])["error"] == DENIED
    bench.change("UPDATE \"user\" SET role = 'user, admin' WHERE id = 'admin'")
    assert bench.ask(session_cookie(SECRET, token), SESSION, needed=SCOPES["admin"])["error"] == OK


def test_a_cookie_that_better_auth_did_not_sign_is_refused(bench):
    _, token = bench.add_session("u1")
    good = session_cookie(SECRET, token)
    for name, text in {
        "not signed": token, "another secret": session_cookie("x" * 40, token), "another token": "y" + good[1:],
        "signature cut": good[:-1], "signature longer": good + "=", "no signature": token + ".", "dots only": "..", "a dot first": "." + good,
        "another letter": good[:-2] + ("A" if good[-2] != "A" else "B") + "=", "lower-case escapes": escaped(good, safe="").lower() if "%" in escaped(good, safe="") else "x.y",
        "blank": good + " ", "NUL": token + "\0." + good.split(".")[1], "long": "a" * 129 + ".x", "huge": "a" * 16000,
    }.items():
        verdict = bench.ask(text, SESSION)
        assert verdict["error"] == UNVERIFIED and verdict["user_id"] == "", (name, verdict)
        assert verdict["reason"].startswith("session_"), (name, verdict)


def test_a_session_ends_when_it_does_in_better_auth(bench):
    bench.add_user("leaver")
    for name, statement in {
        "sign-out": "DELETE FROM session WHERE id = %s", "expiry set back": "UPDATE session SET \"expiresAt\" = now() - interval '1 s' WHERE id = %s",
        "ban": "UPDATE \"user\" SET banned = true WHERE id = 'leaver' AND %s <> ''",
    }.items():
        bench.change("UPDATE \"user\" SET banned = false WHERE id = 'leaver'")
        session, token = bench.add_session("leaver")
        cookie = session_cookie(SECRET, token)
        assert bench.ask(cookie, SESSION)["error"] == OK, name
        bench.change(statement, session)
        verdict = bench.ask(cookie, SESSION)
        assert verdict["error"] == UNVERIFIED and not verdict.was_warm, (name, verdict)
        assert bench.ask(session_cookie(SECRET, token), SESSION)["error"] == UNVERIFIED
    bench.change("UPDATE \"user\" SET banned = false WHERE id = 'leaver'")
    _, token = bench.add_session("leaver")
    assert bench.ask(session_cookie(SECRET, token), SESSION)["error"] == OK
    bench.change("DELETE FROM \"user\" WHERE id = 'leaver'")
    assert bench.ask(session_cookie(SECRET, token), SESSION)["error"] == UNVERIFIED


def test_a_session_that_expires_is_not_kept_beyond(bench):
    _, token = bench.add_session("u1", seconds=2)
    cookie = session_cookie(SECRET, token)
    first = bench.ask(cookie, SESSION)
    assert first["error"] == OK or first["reason"] == "session_expired"
    wait_until(lambda: bench.ask(cookie, SESSION)["reason"] == "session_expired", what="the end")


def test_two_factors_and_the_chosen_organization_are_told(bench):
    bench.add_user("twice")
    for name in ("sa", "sb"):
        bench.db.sql('INSERT INTO organization (id, name, slug, "createdAt") VALUES (%s, %s, %s, now())', name, name, name)
        bench.db.sql("INSERT INTO member (id, \"organizationId\", \"userId\", role, \"createdAt\") VALUES (%s, %s, 'twice', 'member', now())", "m" + name, name)
    bench.db.sql('ALTER TABLE "user" ADD "twoFactorEnabled" boolean')
    session, token = bench.add_session("twice")
    cookie = session_cookie(SECRET, token)
    bench.wait_applied()
    assert (bench.ask(cookie, SESSION)["reason"], bench.ask(cookie, SESSION)["second_factor"]) == ("tenant_ambiguous", False)
    bench.change("UPDATE session SET \"activeOrganizationId\" = 'sb' WHERE id = %s", session)
    assert bench.ask(cookie, SESSION)["tenant_id"] == "sb"
    bench.change("UPDATE \"user\" SET \"twoFactorEnabled\" = true WHERE id = 'twice'")
    assert not bench.ask(cookie, SESSION)["second_factor"]                     # made with a password alone
    _, later = bench.add_session("twice")
    assert bench.ask(session_cookie(SECRET, later), SESSION)["second_factor"]
    _, borrowed = bench.add_session("twice")
    bench.db.sql("UPDATE session SET \"impersonatedBy\" = 'boss' WHERE token = %s", borrowed)
    assert not bench.ask(session_cookie(SECRET, borrowed), SESSION)["second_factor"]
    bench.change("DELETE FROM member WHERE id = 'msb'")
    assert bench.ask(cookie, SESSION)["tenant_id"] == "sa"


def test_a_session_as_bearer_goes_by_the_setting(bench):
    _, token = bench.add_session("u1")
    signed = session_cookie(SECRET, token)
    assert bench.ask(token)["auth_method"] == SESSION and bench.ask(token)["error"] == OK
    assert bench.ask(signed)["error"] == OK
    assert bench.ask(token, SESSION)["error"] == UNVERIFIED                    # a cookie is always signed, whatever is cached
    first = bench.worker
    for mode, allowed in (("signed", [signed]), ("off", [])):
        bench.start(LOCAL, MCPGW_SESSION_BEARER=mode)
        assert [text for text in (token, signed) if bench.ask(text)["error"] == OK] == allowed
        assert bench.ask(signed, SESSION)["error"] == OK
    bench.worker = first


def test_without_a_secret_no_session_counts(bench):
    first = bench.worker
    _, token = bench.add_session("u1")
    bench.start(CORP, MCPGW_BETTER_AUTH_SECRET=None)
    for text, method in ((token, OAUTH), (session_cookie(SECRET, token), SESSION), (session_cookie("", token), SESSION)):
        assert bench.ask(text, method)["error"] == UNVERIFIED
    bench.worker = first


@pytest.fixture(scope="module")
def redis_bench(bench, tmp_path_factory):
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    server, first = Redis(bench.tmp), bench.worker
    bench.start(LOCAL, MCPGW_SESSION_REDIS_URL=server.url)
    bench.redis, bench.redis_worker, bench.worker = server, bench.worker, first
    yield bench
    server.stop()


def stored(user, ends="2100-01-01T00:00:00.000Z", **more):
    return json.dumps({"session": {"id": "rs1", "userId": user, "expiresAt": ends, "token": "t", **more}, "user": {"id": user}})


def test_a_session_in_redis_counts_as_long_as_it_is_there(redis_bench):
    bench, client = redis_bench, redis_bench.redis.client()
    token = "redissession" + "r" * 20
    ask = lambda: bench.ask(session_cookie(SECRET, token), SESSION, worker=bench.redis_worker)      # noqa: E731
    assert ask()["reason"] == "session_unknown"
    client.set("better-auth:" + token, stored("u1"))
    wait_until(lambda: ask()["error"] == OK, what="the session")
    assert (ask()["user_id"], ask()["session_id"]) == ("u1", "rs1")
    client.delete("better-auth:" + token)
    started = time.monotonic()
    wait_until(lambda: ask()["error"] == UNVERIFIED, what="the sign-out")
    assert time.monotonic() - started < 5                                      # 0.5 s on a machine with nothing else to do
    for name, text in {"expired": stored("u1", "2020-01-01T00:00:00.000Z"), "nobody's": stored("nobody"), "no JSON": "{", "no session": "{}",
                       "no time": stored("u1", "soon"), "a number": stored(7), "twice": stored("u1")[:-1] + ', "session": {}}'}.items():
        client.set("better-auth:" + token, text)
        assert ask()["error"] == UNVERIFIED, name
    _, plain = bench.add_session("u1")
    assert bench.ask(session_cookie(SECRET, plain), SESSION, worker=bench.redis_worker)["error"] == UNVERIFIED


def test_an_organization_that_a_session_in_redis_still_names_counts_only_for_members(redis_bench):
    bench, client = redis_bench, redis_bench.redis.client()
    bench.add_user("removed")
    for name in ("ra", "rb"):
        bench.db.sql('INSERT INTO organization (id, name, slug, "createdAt") VALUES (%s, %s, %s, now())', name, name, name)
    bench.db.sql("INSERT INTO member (id, \"organizationId\", \"userId\", role, \"createdAt\") VALUES ('mra', 'ra', 'removed', 'member', now())")
    token = "redismember" + "r" * 20
    cookie = session_cookie(SECRET, token)
    tenant = lambda: bench.ask(cookie, SESSION, worker=bench.redis_worker)["tenant_id"]            # noqa: E731
    client.set("better-auth:" + token, stored("removed", activeOrganizationId="rb"))
    assert tenant() == "ra"                                                     # never a member of rb
    client.set("better-auth:" + token, stored("removed", activeOrganizationId="ra"))
    wait_until(lambda: tenant() == "ra", what="the organization")
    bench.db.sql("DELETE FROM member WHERE id = 'mra'")                         # Better-Auth leaves the session as it is
    wait_until(lambda: tenant() == "user:removed", what="the removal")


def test_a_change_between_the_two_reads_of_a_session_is_seen(bench):
    bench.add_user("mover")
    for name in ("xa", "xb"):
        bench.db.sql('INSERT INTO organization (id, name, slug, "createdAt") VALUES (%s, %s, %s, now())', name, name, name)
        bench.db.sql("INSERT INTO member (id, \"organizationId\", \"userId\", role, \"createdAt\") VALUES (%s, %s, 'mover', 'member', now())", "m" + name, name)
    session, token = bench.add_session("mover")
    bench.change("UPDATE session SET \"activeOrganizationId\" = 'xa' WHERE id = %s", session)
    cookie, verdicts = session_cookie(SECRET, token), []
    waits = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'mcpgw-authz-tokens' AND wait_event_type = 'Lock'"
    with bench.server.connect(bench.db.name) as other, other.transaction():
        other.execute("LOCK TABLE mcpgw.tenant IN ACCESS EXCLUSIVE MODE")      # the session is read, its user's tenant waits
        asking = threading.Thread(target=lambda: verdicts.append(bench.ask(cookie, SESSION)))
        asking.start()
        wait_until(lambda: bench.db.sql(waits)[0][0] > 0, what="the second read")
        other.execute("UPDATE session SET \"activeOrganizationId\" = 'xb' WHERE id = %s", (session,))
    asking.join()
    bench.wait_applied()
    assert bench.ask(cookie, SESSION)["tenant_id"] == "xb", verdicts


def test_a_lost_redis_is_503_for_sessions(redis_bench):
    bench = redis_bench
    bench.redis.stop()
    verdict = bench.ask(session_cookie(SECRET, "lost" + "r" * 28), SESSION, worker=bench.redis_worker)
    assert (verdict["error"], verdict["reason"]) == (UNAVAILABLE, "store")


# ---- opaque tokens ----------------------------------------------------------------------------------

def make(bench, tables):
    with bench.server.connect(bench.db.name, "mcpgw_owner") as connection:
        connection.execute('DROP TABLE IF EXISTS "oauthAccessToken", "oauthClient", "oauthApplication"')
        connection.execute("SET search_path = public;" + tables)


def test_an_opaque_token_of_better_auth_1_7(bench):
    make(bench, OPAQUE_1_7)
    session, _ = bench.add_session("u1")

    def add(token, columns="", values=""):
        bench.db.sql(f"INSERT INTO \"oauthAccessToken\" (id, token, \"clientId\", \"userId\", \"expiresAt\", scopes{columns})"
                     f" VALUES (%s, %s, 'c', 'u1', now() + interval '1 h', '[\"read\", \"openid\"]'{values})", token[:20], digest_text(token))
        return token

    verdict = bench.ask(add("o1" + "x" * 30), needed=SCOPES["read"])
    assert (verdict["error"], verdict["user_id"], verdict["client_id"], verdict["issuer"]) == (OK, "u1", "c", "own")
    assert verdict["scopes"] == SCOPES["read"] and bench.ask("o1" + "x" * 30).was_warm
    aimed = add("o2" + "x" * 30, ", resources", f", '[\"{AUDIENCE}\"]'")
    assert [bench.ask(aimed, server=server)["error"] for server in ("a", "b")] == [OK, UNVERIFIED]
    for name, token in {
        "revoked": add("o3" + "x" * 30, ", revoked", ", now()"), "bound": add("o4" + "x" * 30, ", confirmation", ", '{\"jkt\":\"x\"}'"),
        "for another": add("o5" + "x" * 30, ", resources", ", '[\"https://other.example\"]'"), "unknown": "o6" + "x" * 30,
        "its session is over": add("o7" + "x" * 30, ', "sessionId"', ", 'gone'"), "the digest itself": digest_text("o1" + "x" * 30),
    }.items():
        verdict = bench.ask(token)
        assert verdict["error"] == UNVERIFIED and verdict["user_id"] == "", (name, verdict)
    mine = add("o8" + "x" * 30, ', "sessionId"', f", '{session}'")
    assert bench.ask(mine)["session_id"] == session
    bench.change("DELETE FROM session WHERE id = %s", session)
    assert bench.ask(mine)["error"] == UNVERIFIED


def test_an_opaque_token_of_better_auth_1_3(bench):
    make(bench, OPAQUE_1_3)
    token = "p" * 32
    bench.db.sql("INSERT INTO \"oauthAccessToken\" VALUES ('t', %s, 'r', now() AT TIME ZONE 'UTC' + interval '1 h', 'c', 'u1', 'openid read')", token)
    bench.db.sql("INSERT INTO \"oauthAccessToken\" VALUES ('u', %s, 'r', now() AT TIME ZONE 'UTC' - interval '1 h', 'c', 'u1', 'read')", "q" * 32)
    assert bench.ask(token, needed=SCOPES["read"])["error"] == OK
    assert bench.ask("q" * 32)["reason"] == "expired"
    assert bench.ask("r" * 32)["error"] == UNVERIFIED


class Introspection(http.server.ThreadingHTTPServer):
    """RFC 7662 on loopback: `known` maps tokens to answers."""
    allow_reuse_address, daemon_threads = True, True

    def __init__(self):
        self.known, self.status, self.asked, self.delay, self.authorized = {}, 200, [], 0, []
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/introspect"
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        server = self.server
        form = urllib.parse.parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        server.asked.append(form["token"][0])
        server.authorized.append(self.headers.get("Authorization", ""))
        time.sleep(server.delay)
        body = json.dumps(server.known.get(form["token"][0], {"active": False})).encode()
        self.send_response(server.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def introspection(bench):
    server, first = Introspection(), bench.worker
    issuer = {"name": "opaque", "preset": "oidc", "issuer": "https://opaque.example", "algorithms": [], "opaque": "introspect",
              "introspection_url": server.url, "client_id": "gateway", "client_secret": "s&cret"}
    bench.start(issuer)
    server.worker, bench.worker = bench.worker, first
    yield server
    server.shutdown()


def active(**claims):
    answer = {"active": True, "iss": "https://opaque.example", "aud": AUDIENCE, "sub": "ian", "scope": "read", "client_id": "c", "token_type": "Bearer",
              "exp": int(time.time()) + 600, **claims}
    return {name: value for name, value in answer.items() if value is not None}


def test_an_introspected_token_is_asked_about_once(bench, introspection):
    introspection.known["opaque one"] = active()
    verdict = bench.ask("opaque one", worker=introspection.worker, needed=SCOPES["read"])
    assert (verdict["error"], verdict["user_id"], verdict["issuer"]) == (OK, "opaque:ian", "opaque")
    assert bench.ask("opaque one", worker=introspection.worker).was_warm
    assert introspection.asked == ["opaque one"] and introspection.authorized[0].startswith("Basic ")
    assert bench.ask("nobody", worker=introspection.worker)["error"] == UNVERIFIED
    again = bench.ask("nobody", worker=introspection.worker)
    assert again.was_warm and again["error"] == UNVERIFIED and introspection.asked == ["opaque one", "nobody"]


def test_an_answer_is_judged_like_a_token(bench, introspection):
    for name, answer in {"not active": active(active=False), "active as text": active(active="true"), "another audience": active(aud="https://x"),
                         "no audience": active(aud=None), "expired": active(exp=int(time.time()) - 100), "another issuer": active(iss="https://x"),
                         "no user": active(sub=None), "bound": active(cnf={"jkt": "x"}), "too early": active(nbf=int(time.time()) + 1000)}.items():
        introspection.known["judged " + name] = answer
        for _ in range(3):
            assert bench.ask("judged " + name, worker=introspection.worker)["error"] == UNVERIFIED, name
        assert introspection.asked.count("judged " + name) == 1, name


def test_one_question_for_all_who_ask_at_once(bench, introspection):
    introspection.known["crowd"] = active()
    introspection.delay = 0.3
    question = {**bench.question("crowd"), "token": b"crowd"}
    replies = bench.edge.call_many("authz", [("verdict_request", question)] * 20, worker=introspection.worker)
    introspection.delay = 0
    assert [reply["error"] for reply in replies] == [OK] * 20
    assert introspection.asked.count("crowd") == 1


def test_a_server_that_is_down_is_503_and_nothing_is_remembered(bench, introspection):
    introspection.known["later"] = active()
    for status in (500, 401, 302):
        introspection.status = status
        verdict = bench.ask("later", worker=introspection.worker)
        assert (verdict["error"], verdict["reason"]) == (UNAVAILABLE, "issuer_silent"), status
    introspection.status = 200
    assert bench.ask("later", worker=introspection.worker)["error"] == OK


# ---- which of two decides ---------------------------------------------------------------------------

NEVER = {**CORP, "name": "never", "issuer": "https://never.example", "cooldown_s": 600}


def expected(token, key, fallback):
    """design.md section 4, in the words of the table."""
    by_key = {"none": None, "valid": (OK, API_KEY), "narrow": (DENIED, API_KEY), "disabled": (UNVERIFIED, API_KEY), "unknown": (UNVERIFIED, API_KEY)}[key]
    if token == "valid":
        return OK, OAUTH
    if token == "narrow":
        return DENIED, OAUTH
    if token == "unreachable":
        return by_key or (UNAVAILABLE, OAUTH)
    return (by_key if fallback == "any" else None) or (UNVERIFIED, OAUTH)


@pytest.mark.parametrize("fallback", ["unavailable", "any"])
def test_every_pair_of_token_and_key(bench, keys, fallback):                            # noqa: F811
    first = bench.worker
    bench.add_user(f"pair-{fallback}")
    bench.db.sql("UPDATE \"user\" SET banned = true WHERE id = %s", f"pair-{fallback}")
    bench.start(CORP, LOCAL, NEVER, MCPGW_FALLBACK=fallback)
    bench.wait_applied()
    rsa, now = keys["rsa"], int(time.time())
    presented = {
        "valid": rsa.sign(jti="pair"), "narrow": rsa.sign(jti="pair", scope="write"), "expired": rsa.sign(exp=now - 1000),
        "forged": with_signature(rsa.sign(jti="pair"), b"\1" * 256), "for another server": rsa.sign(aud="api://b"), "garbage": "garbage",
        "malformed": "a.b.c", "unknown issuer": rsa.sign(iss="https://x"), "banned user": own(keys, sub=f"pair-{fallback}"),
        "unreachable": rsa.sign(iss="https://never.example"),
    }
    beside = {"none": None, "valid": bench.add_key(), "narrow": bench.add_key(scopes=["metrics"]), "disabled": bench.add_key(enabled=False),
              "unknown": "mcp_never_made" + "x" * 60}
    bench.wait_applied()
    for _ in range(2):                                                        # cold, then warm
        for (token, text), (key, secret) in itertools.product(presented.items(), beside.items()):
            verdict = bench.ask(text, needed=SCOPES["proxy"], beside=secret)
            assert (verdict["error"], verdict["auth_method"]) == expected(token, key, fallback), (token, key, fallback, verdict)
    bench.worker = first


def test_a_key_outranks_a_session(bench):
    _, token = bench.add_session("u1")
    cookie = session_cookie(SECRET, token)
    for key, error in ((bench.add_key(), OK), (bench.add_key(scopes=["metrics"]), DENIED), (bench.add_key(enabled=False), UNVERIFIED),
                       ("mcp_never_made" + "x" * 60, UNVERIFIED)):
        bench.wait_applied()
        for text in (cookie, "no session at all"):
            verdict = bench.ask(text, SESSION, needed=SCOPES["proxy"], beside=key)
            assert (verdict["error"], verdict["auth_method"]) == (error, API_KEY)
    assert bench.ask("no session at all", SESSION)["error"] == UNVERIFIED


def test_settings_that_cannot_be_meant_stop_the_start(bench):
    for settings, words in (({"MCPGW_FALLBACK": "always"}, "fallback is unavailable or any"), ({"MCPGW_SESSION_BEARER": "yes"}, "session_bearer is any"),
                            ({"MCPGW_SESSION_SCOPES": "read fly"}, "fly is no scope"),
                            ({"MCPGW_BETTER_AUTH_SECRET": "better-auth-secret-12345678901234567890"}, "everybody knows"),
                            ({"MCPGW_BETTER_AUTH_SECRET": "better-auth-secret-123456789"}, "everybody knows")):
        from conftest import Process
        number = str(len(bench.processes) + 100)
        process = Process("authz", {**bench.processes[0].environment, **settings, "MCPGW_INSTANCE": number}, bench.tmp, number)
        assert process.process.wait(20) != 0 and words in process.log(), process.log()
