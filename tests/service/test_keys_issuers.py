"""mcpgw-keys and the issuers of tokens: real HTTP(S) servers on loopback, honest and not, and a real Postgres."""
import json
import os
import re
import subprocess

import psycopg
import pytest

import busedge
from conftest import program, wait_until
from test_keys import ADMIN, ALICE, Api, add_user, sequence, tell_holders

pytest.importorskip("cryptography")
from issuer_peer import Authority, Issuer, Key    # noqa: E402

COOLDOWN_S = 3600    # nothing here waits for it: tests set the clock of the row back


class Bench:
    """Issuers, the settings file that names them, and what Postgres knows of `corp`."""

    def __init__(self, database, edge, service, tmp):
        self.database, self.edge, self.service, self.tmp = database, edge, service, tmp
        add_user(database, "admin")
        add_user(database, "alice")

    def configure(self, *entries):
        path = self.tmp / "mcpgw.yaml"
        path.write_text("issuers:\n" + "".join(
            "  - " + "\n    ".join(f"{name}: {json.dumps(value)}" for name, value in entry.items()) + "\n" for entry in entries))
        return path

    def start(self, *entries, wait=True, **settings):
        path = self.configure(*entries)
        settings = {"MCPGW_FETCH_PRIVATE": "true", "MCPGW_FETCH_PLAIN_HTTP": "true", "MCPGW_CONFIG": str(path),
                    "MCPGW_PUBLIC_URL": "https://gw.example", **settings}
        process = self.service("keys", MCPGW_DATABASE_URL=self.database.url("mcpgw_keys"),
                               **{name: value for name, value in settings.items() if value is not None})
        if wait:
            process.wait_ready()
            self.edge.wait_worker("keys")
            tell_holders(self.edge)
        return process

    def row(self, name="corp"):
        names = "jwks", "key_count", "failures", "last_error", "attempted_at", "fetched_at"
        rows = self.database.sql(f"SELECT {', '.join(names)} FROM mcpgw.issuer_keys WHERE name = %s", name)
        return dict(zip(names, rows[0])) if rows else dict.fromkeys(names)

    def kids(self, name="corp"):
        row = self.row(name)
        return [key["kid"] for key in json.loads(row["jwks"])["keys"]] if row["jwks"] else []

    def wait_kids(self, *kids, name="corp"):
        wait_until(lambda: self.kids(name) == list(kids), what=f"keys {kids}")

    def wait_failures(self, count, name="corp"):
        wait_until(lambda: (self.row(name)["failures"] or 0) >= count, what=f"{count} failures")
        return self.row(name)["last_error"]

    def end_cooldown(self, name="corp"):
        self.database.sql("UPDATE mcpgw.issuer_keys SET attempted_at = now() - interval '2 hours' WHERE name = %s", name)

    def want(self, name="corp", times=1):
        """As authz does when it meets an unknown key id."""
        with psycopg.connect(self.database.url("mcpgw_authz"), autocommit=True) as connection:
            for _ in range(times):
                connection.execute("SELECT pg_notify('mcpgw_issuer_wanted', %s)", [name])

    def changes(self):
        return self.database.sql("SELECT server FROM mcpgw.change WHERE kind = 7 ORDER BY sequence")


@pytest.fixture
def bench(database, edge, service, tmp):
    return Bench(database, edge, service, tmp)


@pytest.fixture
def issuer():
    with Issuer() as issuer:
        yield issuer


def corp(issuer, **more):
    return {"name": "corp", "preset": "oidc", "issuer": issuer.url, "algorithms": ["ES256"], "cooldown_s": COOLDOWN_S, **more}


# ---- who is not believed ------------------------------------------------------------------------

def test_a_document_that_lies_about_its_issuer_brings_no_keys(bench, issuer):
    issuer.says = issuer.url + "/"
    bench.start(corp(issuer))
    assert issuer.url + "/" in bench.wait_failures(1)
    assert bench.row()["jwks"] is None and issuer.key_requests() == 0


def test_plain_http_and_private_addresses_need_leave(bench, issuer):
    bench.start(corp(issuer), MCPGW_FETCH_PLAIN_HTTP="false")
    assert "https://" in bench.wait_failures(1)
    assert issuer.asked == {}


def test_tls_is_for_the_right_name_of_a_trusted_authority_at_an_allowed_address(bench, tmp):
    authority = Authority(tmp)
    with Issuer(tls=authority.server("127.0.0.1")) as right, Issuer(tls=authority.server("other.example")) as wrong:
        right_entry = corp(right, name="right")
        process = bench.start(right_entry, MCPGW_FETCH_CA_FILE=str(authority.ca_file), MCPGW_FETCH_PRIVATE="false")
        assert "private" in bench.wait_failures(1, "right")
        process.stop()
        process = bench.start(right_entry)
        assert "certificate" in bench.wait_failures(2, "right")
        process.stop()
        bench.start(right_entry, corp(wrong, name="wrong"), MCPGW_FETCH_CA_FILE=str(authority.ca_file))
        bench.wait_kids("key-1", name="right")
        bench.wait_failures(1, "wrong")
        assert bench.row("wrong")["jwks"] is None and right.key_requests() == 1


def test_a_file_without_certificates_ends_the_start(bench, issuer):
    process = bench.start(corp(issuer), MCPGW_FETCH_CA_FILE="/etc/hostname", wait=False)
    assert process.process.wait(20) == 3 or process.process.returncode == 2
    assert "fetch_ca_file" in process.log()


# ---- an issuer that fails -----------------------------------------------------------------------

def test_nothing_bad_replaces_a_good_set(bench, issuer):
    process = bench.start(corp(issuer), MCPGW_FETCH_MS="500")
    bench.wait_kids("key-1")
    before, fetched = sequence(bench.database), bench.row()["fetched_at"]
    issuer.keys = [Key("key-2")]
    bad = [Issuer.ERROR, Issuer.PAGE, Issuer.HUGE, Issuer.ENDLESS, Issuer.EMPTY, Issuer.PRIVATE, Issuer.REDIRECT, Issuer.TRUNCATED, Issuer.DEAD,
           Issuer.SLOW, Issuer.TRICKLE]
    for failures, answer in enumerate(bad, 1):
        issuer.keys_answer = answer
        bench.end_cooldown()
        bench.want()
        try:
            bench.wait_failures(failures)
        except AssertionError as late:
            raise AssertionError(f"the set was {answer.__name__}") from late
    assert bench.kids() == ["key-1"] and bench.row()["fetched_at"] == fetched
    assert sequence(bench.database) == before and "/elsewhere" not in issuer.asked
    assert process.metrics()['mcpgw_issuer_fetches_total{outcome="failed"}'] == len(bad)
    issuer.keys_answer = None
    bench.end_cooldown()
    bench.wait_kids("key-2")    # by itself: after a failure it is due
    assert bench.row()["failures"] == 0 and bench.row()["last_error"] is None


def test_an_issuer_that_is_down_at_the_start_is_asked_again(bench, issuer):
    issuer.document_answer = Issuer.ERROR
    process = bench.start(corp(issuer))
    assert "500" in bench.wait_failures(1)
    assert process.readyz()[0] == 200, "keys serves on"
    assert process.readyz()[1]["notes"]["issuers"] is False
    issuer.document_answer = None
    bench.end_cooldown()
    bench.wait_kids("key-1")


def test_a_set_without_a_success_for_too_long_is_dropped(bench, issuer):
    bench.start(corp(issuer, keep_s=300))
    bench.wait_kids("key-1")
    issuer.keys_answer = Issuer.ERROR
    bench.database.sql("UPDATE mcpgw.issuer_keys SET fetched_at = now() - interval '1 hour', due_at = now()")
    bench.end_cooldown()
    bench.wait_kids()
    assert bench.changes()[-1] == ("corp",) and len(bench.changes()) == 2


# ---- how often ----------------------------------------------------------------------------------

def test_a_flood_of_unknown_key_ids_makes_at_most_one_fetch_per_cooldown(bench, issuer):
    process = bench.start(corp(issuer))
    bench.wait_kids("key-1")
    assert issuer.key_requests() == 1
    bench.want(times=500)
    wait_until(lambda: process.metrics()["mcpgw_issuer_wanted_total"] >= 500, what="500 wishes")
    bench.want("nobody", times=100)
    assert issuer.key_requests() == 1
    attempted = bench.row()["attempted_at"]
    bench.end_cooldown()    # the wish is still there
    wait_until(lambda: bench.row()["attempted_at"] > attempted, what="the wish is fulfilled")
    bench.want(times=500)
    wait_until(lambda: process.metrics()["mcpgw_issuer_wanted_total"] >= 1000, what="1000 wishes")
    wait_until(lambda: issuer.key_requests() == 2, what="the second fetch")
    assert bench.kids() == ["key-1"]


def test_the_cooldown_holds_after_a_failure_and_a_restart(bench, issuer):
    issuer.keys_answer = Issuer.ERROR
    process = bench.start(corp(issuer))
    bench.wait_failures(1)
    bench.want(times=100)
    wait_until(lambda: process.metrics()["mcpgw_issuer_wanted_total"] >= 100, what="100 wishes")
    assert process.stop() == 0
    process = bench.start(corp(issuer))
    bench.want(times=100)
    wait_until(lambda: process.metrics()["mcpgw_issuer_wanted_total"] >= 100, what="100 wishes")
    assert issuer.key_requests() == 1


def test_of_several_keys_processes_one_fetches(bench, issuer):
    processes = [bench.start(corp(issuer)) for _ in range(3)]
    bench.wait_kids("key-1")
    for kid in ("key-2", "key-3"):
        issuer.keys = [Key(kid)]
        bench.end_cooldown()
        bench.want()
        bench.wait_kids(kid)
    wait_until(lambda: all(p.metrics()["mcpgw_issuer_wanted_total"] == 2 for p in processes), what="all were told")
    assert issuer.key_requests() == 3
    assert sum(p.metrics()['mcpgw_issuer_fetches_total{outcome="ok"}'] for p in processes) == 3


def test_keys_are_rotated_while_tokens_are_explained(bench, issuer, edge):
    """In mid-load: no token of a key that is in the set is refused, before, while and after it is replaced."""
    bench.start(corp(issuer))
    api, audience = Api(edge), "https://gw.example/mcp/example"
    bench.wait_kids("key-1")
    old, new = issuer.keys[0], Key("key-2")
    tokens = [issuer.token(key, aud=audience) for key in (old, new)]
    seen = {"ok": 0, "key_unknown": 0}
    issuer.keys = [new, old]
    bench.end_cooldown()
    bench.want()
    while not seen["ok"]:
        assert api.ok("token_explain", body={"token": tokens[0]})["accepted"] is True
        seen[api.ok("token_explain", body={"token": tokens[1]})["reason"]] += 1
    issuer.keys = [new]
    bench.end_cooldown()
    bench.want()
    bench.wait_kids("key-2")
    assert [api.ok("token_explain", body={"token": token})["reason"] for token in tokens] == ["key_unknown", "ok"]


# ---- what works ---------------------------------------------------------------------------------

def test_a_rotated_key_arrives_as_a_change(bench, issuer):
    bench.start(corp(issuer))
    bench.wait_kids("key-1")
    first = sequence(bench.database)
    issuer.keys = [Key("key-2"), *issuer.keys]
    bench.end_cooldown()
    bench.want()
    bench.wait_kids("key-2", "key-1")
    assert bench.database.sql("SELECT kind, server FROM mcpgw.change WHERE sequence > %s", first) == [(7, "corp")]
    event = bench.database.sql("SELECT event, source, details->>'keys' FROM mcpgw.outbox ORDER BY sequence DESC LIMIT 1")
    assert event == [("issuer.keys_changed", "database", "2")]
    bench.end_cooldown()
    bench.want()
    wait_until(lambda: issuer.key_requests() == 3, what="another fetch")
    wait_until(lambda: bench.row()["fetched_at"] > bench.row()["attempted_at"], what="it is stored")
    assert sequence(bench.database) == first + 1, "the same set is no change"


def test_the_document_is_found_where_rfc_8414_puts_it(bench):
    with Issuer(path="/tenant/a") as issuer:
        issuer.document_path = "/.well-known/oauth-authorization-server/tenant/a"
        bench.start(corp(issuer))
        bench.wait_kids("key-1")
        assert issuer.asked["/tenant/a/.well-known/openid-configuration"] == 1


def test_a_key_set_may_be_named_without_discovery(bench, issuer):
    bench.start(corp(issuer, jwks_url=issuer.origin + "/jwks"))
    bench.wait_kids("key-1")
    assert issuer.asked == {"/jwks": 1}


def test_corrected_settings_need_not_wait(bench, issuer):
    process = bench.start(corp(issuer, jwks_url=issuer.origin + "/wrong"))
    assert "404" in bench.wait_failures(1)
    process.stop()
    process = bench.start(corp(issuer, jwks_url=issuer.origin + "/jwks"))
    bench.wait_kids("key-1")
    process.stop()
    bench.start(corp(issuer, jwks_url=issuer.origin + "/wrong"))
    assert "404" in bench.wait_failures(1)
    assert bench.kids() == ["key-1"], "a mistake loses no keys of the same issuer"


def test_keys_of_another_issuer_of_the_same_name_are_dropped(bench, issuer):
    process = bench.start(corp(issuer))
    bench.wait_kids("key-1")
    process.stop()
    bench.start({**corp(issuer), "issuer": "http://127.0.0.1:1"})
    bench.wait_failures(1)
    assert bench.row()["jwks"] is None


# ---- what administrators see --------------------------------------------------------------------

def test_issuers_are_listed_for_operators(bench, issuer, edge):
    bench.start(corp(issuer), {**corp(issuer), "name": "down", "issuer": "http://127.0.0.1:1", "jwks_url": "http://127.0.0.1:1/jwks"})
    api = Api(edge)
    bench.wait_kids("key-1")
    bench.wait_failures(1, "down")
    api.refused(403, "forbidden", "issuer_list", ALICE)
    listed = {item["name"]: item for item in api.ok("issuer_list")["items"]}
    good, bad = listed["corp"], listed["down"]
    assert (good["issuer"], good["state"], good["keys"], good["failures"], good["lastError"]) == (issuer.url, "fresh", 1, 0, None)
    assert good["fetchedAt"] and good["nextFetchAt"] and good["jwksUrl"] == issuer.origin + "/jwks"
    assert (bad["state"], bad["keys"], bad["fetchedAt"]) == ("missing", 0, None) and "127.0.0.1:1" in bad["lastError"]
    first = api.ok("issuer_list", query="limit=1")
    assert [item["name"] for item in first["items"]] == ["corp"] and first["next"] == "corp"
    assert [item["name"] for item in api.ok("issuer_list", query="cursor=corp")["items"]] == ["down"]


PAGES = sorted((busedge.ROOT / "docs").glob("*.md"))
EXAMPLES = [(page.name, block) for page in PAGES for block in re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.S | re.M)
            if "issuers:" in block]


@pytest.mark.parametrize("page, block", EXAMPLES, ids=[f"{page}-{number}" for number, (page, _) in enumerate(EXAMPLES, 1)])
def test_an_example_of_the_pages_starts_the_service(page, block, tmp):
    """Secrets lie where the example says they do; here they lie beside it."""
    (tmp / "secret").write_text("secret")
    path = tmp / "mcpgw.yaml"
    path.write_text(re.sub(r"(client_secret_file:) \S+", rf"\1 {tmp}/secret", block))
    done = subprocess.run([program("mcpgw-keys"), "--config", path, "--show-config"], capture_output=True, text=True,
                          env={"PATH": os.environ["PATH"]})
    assert done.returncode == 0, done.stderr


def test_without_issuers_there_is_nothing_to_list(bench, edge):
    bench.service("keys", MCPGW_DATABASE_URL=bench.database.url("mcpgw_keys")).wait_ready()
    edge.wait_worker("keys")
    assert Api(edge).ok("issuer_list") == {"items": [], "next": None}
    assert Api(edge).ok("token_explain", body={"token": "a.b.c"})["accepted"] is False


def test_a_token_is_explained_and_kept_nowhere(bench, issuer, edge):
    process = bench.start(corp(issuer))
    api = Api(edge)
    bench.wait_kids("key-1")
    audience = "https://gw.example/mcp/example"
    good = issuer.token(aud=audience, scope="proxy")
    late = issuer.token(aud=audience, scope="proxy", lifetime=-3600)
    forged = issuer.token(Key("key-1"), aud=audience, scope="proxy")
    assert api.ok("token_explain", body={"token": good, "server": "example"})["accepted"] is True
    other = api.ok("token_explain", body={"token": good, "server": "other"})
    assert (other["accepted"], other["reason"]) == (False, "audience")
    assert api.ok("token_explain", body={"token": late})["reason"] == "expired"
    assert api.ok("token_explain", body={"token": forged})["reason"] == "signature"
    assert api.ok("token_explain", body={"token": "mcp_not_a_token"})["accepted"] is False
    api.refused(403, "forbidden", "token_explain", ALICE, {"token": good})
    for body in ({}, {"token": 7}, {"token": ""}, {"token": good, "server": "No Slug"}, {"token": good, "x": 1}):
        api.refused(422, "unprocessable", "token_explain", body=body)
    tables = bench.database.sql("SELECT o::text FROM mcpgw.outbox o UNION ALL SELECT r::text FROM mcpgw.request r")
    for token in (good, late, forged):
        signature = token.rsplit(".", 1)[1]
        assert signature not in process.log() and not any(signature in row for (row,) in tables)
