"""mcpgw-authz and tokens: a real process, a real Postgres, key sets in its table, and every case of forged, stale and foreign tokens."""
import base64
import hashlib
import http.server
import itertools
import json
import os
import shutil
import threading
import time
import urllib.parse
from pathlib import Path

import psycopg
import pytest

import busedge
from busedge import ERR, SCOPES, TIERS
from conftest import Process, Redis, make_directory, wait_until
import tokens
from tokens import AUDIENCE, ISSUER, Key, b64, claims_of, hs256, malleated, session_cookie, unb64, with_signature

OK, UNVERIFIED, DENIED, UNAVAILABLE = ERR["OK"], ERR["UNVERIFIED"], ERR["DENIED"], ERR["UNAVAILABLE"]
API_KEY, OAUTH, SESSION = 1, 2, 3
SECRET = "test-secret-test-secret-test-secret-0123456789"
BETTER_AUTH = "https://auth.example/api/auth"


def sha(data):
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).digest()


def digest_text(text):
    return b64(sha(text))


class Bench:
    """One database, one edge, and workers; the users u1 (plain) and admin (role admin)."""
    serial = itertools.count(1)

    def __init__(self, server):
        self.server, self.tmp, self.processes = server, make_directory("mcpgw-t-"), []
        self.db = server.make_database()
        self.edge = busedge.Edge(self.tmp / "edge-1").__enter__()
        for user in ("u1", "admin"):
            self.add_user(user)
        self.db.sql("UPDATE \"user\" SET role = 'admin' WHERE id = 'admin'")

    def close(self):
        codes = [p.stop() for p in self.processes if p.process.poll() is None]
        logs = [p.log() for p in self.processes]
        self.edge.__exit__(None, None, None)
        self.db.drop()
        shutil.rmtree(self.tmp, ignore_errors=True)
        assert not any("Sanitizer" in log or "runtime error" in log for log in logs), logs
        assert not any(codes), (codes, [log[-2000:] for log in logs])

    def start(self, *issuers, **settings):
        number = len(self.processes) + 1
        path = self.tmp / f"authz-{number}.yaml"
        path.write_text("issuers: " + json.dumps(list(issuers)) + "\n")
        environment = {"PATH": os.environ["PATH"], "MCPGW_EDGES": f"ipc://{self.tmp}/edge-*", "MCPGW_RUN_DIR": str(self.tmp),
                       "MCPGW_INSTANCE": str(number), "MCPGW_DATABASE_URL": self.db.url("mcpgw_authz"), "MCPGW_LEASE_MS": "2000",
                       "MCPGW_PUBLIC_URL": "https://gw.example", "MCPGW_CONFIG": str(path), "MCPGW_BETTER_AUTH_SECRET": SECRET,
                       "MCPGW_FETCH_PRIVATE": "true", "MCPGW_FETCH_PLAIN_HTTP": "true", **settings}
        process = Process("authz", {k: v for k, v in environment.items() if v is not None}, self.tmp, str(number))
        self.processes.append(process)
        self.worker = self.edge.wait_for(
            lambda: next((w for w in self.edge.live_workers("authz") if w.pid == process.pid), None), timeout=20, what="READY")
        process.worker = self.worker
        self.process = process
        return process

    def add_user(self, user):
        self.db.sql('INSERT INTO "user" (id, name, email, "emailVerified") VALUES (%s, %s, %s, true)', user, user, f"{user}@example.org")

    def add_session(self, user, seconds=3600, token=None):
        number = next(self.serial)
        token = token or f"session{number:04}" + "x" * 21
        self.db.sql('INSERT INTO session (id, token, "userId", "expiresAt", "updatedAt")'
                    " VALUES (%s, %s, %s, now() + %s * interval '1 s', now())", f"s{number}", token, user, seconds)
        return f"s{number}", token

    def add_key(self, user="u1", scopes=("read", "proxy"), **columns):
        number = next(self.serial)
        key = f"mcp_test{number}" + "x" * 56
        row = {"id": f"key{number}", "configId": "default", "referenceId": user, "key": digest_text(key), "enabled": True,
               "requestCount": 0, "permissions": json.dumps({"mcp": list(scopes)}), "metadata": "null", **columns}
        names = ", ".join(f'"{name}"' for name in row)
        self.db.sql(f'INSERT INTO apikey ({names}, "createdAt", "updatedAt") VALUES ({", ".join(["%s"] * len(row))}, now(), now())',
                    *row.values())
        return key

    def publish(self, name, issuer, *keys):
        """As the keys service stores a key set; the worker has applied the change when this returns."""
        text = keys[0] if keys and isinstance(keys[0], str) else json.dumps({"keys": list(keys)})
        self.db.sql("INSERT INTO mcpgw.issuer_keys (name, issuer, source, jwks, attempted_at, attempted_by, fetched_at)"
                    " VALUES (%s, %s, 's', %s, now(), 'test', now()) ON CONFLICT (name) DO UPDATE SET jwks = excluded.jwks, fetched_at = now()",
                    name, issuer, text)
        if self.processes:
            self.wait_applied()

    def wait_applied(self):
        number = self.db.sql("SELECT value FROM mcpgw.change_sequence")[0][0]
        self.edge.wait_for(lambda: self.worker.applied >= number, what=f"change {number} applied")

    def change(self, text, *values):
        self.db.sql(text, *values)
        self.wait_applied()

    def question(self, token, method=OAUTH, server="a", needed=0, beside=None, **fields):
        data = token.encode() if isinstance(token, str) else token
        proof = sha(data)
        digest = sha(data[:data.rindex(b".")]) if method == OAUTH and data.count(b".") == 2 else proof
        fields = {"method": method, "digest": digest, "proof": proof, "server": server, "needed": needed, **fields}
        return {**fields, "beside": sha(beside)} if beside else fields

    def ask(self, token, method=OAUTH, worker=None, **fields):
        """The whole protocol: by digest, and again with the token if it is wanted."""
        question = self.question(token, method, **fields)
        worker = worker or self.worker
        verdict = self.edge.call("authz", "verdict_request", worker=worker, **question)
        verdict.was_warm = verdict["error"] != ERR["TOKEN_WANTED"]
        if not verdict.was_warm:
            data = token.encode() if isinstance(token, str) else token
            verdict = self.edge.call("authz", "verdict_request", worker=worker, token=data, **question)
            verdict.was_warm = False
        return verdict

    def metric(self, name):
        return self.process.metrics().get(name, 0)


CORP = {"name": "corp", "preset": "oidc", "issuer": ISSUER, "jwks_url": "https://idp.example/jwks", "user_claim": "sub", "cooldown_s": 3600,
        "algorithms": ["RS256", "ES256", "EdDSA"], "typ": ["at+jwt"], "second_factor": [{"claim": "amr", "value": "mfa"}],
        "scopes": [{"claim": "scope", "value": name, "grants": [name]} for name in ("read", "write", "proxy")]
        + [{"claim": "groups", "value": "ops", "grants": ["admin"]}],
        "server_audiences": {"b": ["api://b"]}}
LOCAL = {"name": "own", "preset": "better-auth", "issuer": BETTER_AUTH, "jwks_url": "https://auth.example/jwks", "opaque": "database"}


@pytest.fixture(scope="module")
def keys():
    """One RSA, one P-256 and one Ed25519 key of the issuer, and a P-384 key nobody's algorithms allow."""
    return {"rsa": Key("rsa", "RS256"), "ec": Key("ec", "ES256"), "ed": Key("ed", "EdDSA"), "p384": Key("p384", "ES384"),
            "other": Key("other", "RS256")}


@pytest.fixture(scope="module")
def bench(postgres_server, keys):
    bench = Bench(postgres_server)
    bench.publish("corp", ISSUER, *[keys[name].jwk() for name in ("rsa", "ec", "ed", "p384")])
    bench.publish("own", BETTER_AUTH, keys["other"].jwk())
    bench.start(CORP, LOCAL)
    yield bench
    bench.close()


# ---- the first of all: good ones --------------------------------------------------------------------

@pytest.mark.parametrize("name", ["rsa", "ec", "ed"])
def test_a_good_token_gives_the_context(bench, keys, name):
    verdict = bench.ask(keys[name].sign(amr=["pwd", "mfa"]), needed=SCOPES["read"])
    assert (verdict["error"], verdict["reason"]) == (OK, "")
    assert verdict["user_id"] == "corp:alice" and verdict["tenant_id"] == "user:corp:alice"
    assert verdict["auth_method"] == OAUTH and verdict["tier"] == TIERS["oauth"]
    assert verdict["scopes"] == SCOPES["read"] | SCOPES["proxy"]
    assert (verdict["client_id"], verdict["issuer"], verdict["second_factor"]) == ("cli", "corp", True)
    assert abs(verdict["expires_s"] - time.time() - 600) < 100


def test_a_token_is_asked_for_once_and_then_known(bench, keys):
    token = keys["ec"].sign(jti="warm")
    assert not bench.ask(token).was_warm
    verdict = bench.ask(token)
    assert verdict.was_warm and verdict["error"] == OK and verdict["layer"] == 1


def test_a_token_for_one_server_is_refused_on_another(bench, keys):
    token = keys["rsa"].sign(jti="aud")
    assert bench.ask(token, server="a")["error"] == OK
    for server in ("b", "c", ""):
        verdict = bench.ask(token, server=server)
        assert (verdict["error"], verdict["reason"], verdict["user_id"]) == (UNVERIFIED, "audience", "")
    other = keys["rsa"].sign(aud="api://b")
    assert bench.ask(other, server="b")["error"] == OK
    assert bench.ask(other, server="a")["error"] == UNVERIFIED


# ---- mcp-auth: attacks and edge cases, by their names -----------------------------------------------

def cases(keys):
    rsa, ec_key, ed, other = keys["rsa"], keys["ec"], keys["ed"], keys["other"]
    head = {"alg": "RS256", "typ": "at+jwt", "kid": "rsa"}
    good = claims_of()
    now = int(time.time())
    text = json.dumps
    es = ec_key.sign(jti="es")
    eds = ed.sign(jti="ed")

    for number, alg in enumerate(("none", "None", "NONE", ""), 1):
        yield f"J0{number} alg {alg or 'empty'}", f"{b64({**head, 'alg': alg})}.{b64(good)}."
        yield f"J0{number} alg {alg or 'empty'} with a signature", f"{b64({**head, 'alg': alg})}.{b64(good)}.{b64(b'x' * 256)}"
    yield "J05 alg missing", rsa.sign_text({"typ": "at+jwt", "kid": "rsa"}, good)
    pem = rsa.public()
    for name, secret in (("PEM", pem), ("PEM with CRLF", pem.replace(b"\n", b"\r\n")), ("DER", rsa.public(tokens.serialization.Encoding.DER)),
                         ("JWKS", text({"keys": [rsa.jwk()]}).encode()), ("JWK", text(rsa.jwk()).encode())):
        yield f"J06 HS256 with the {name}", hs256(secret, {**head, "alg": "HS256"}, good)
    yield "J07 HS256 with an empty key", hs256(b"", {**head, "alg": "HS256"}, good)
    yield "J07 HS256 naming an OKP key", hs256(unb64(ed.jwk()["x"]), {**head, "alg": "HS256", "kid": "ed"}, good)
    yield "J08 RS256 with the kid of an EC key", rsa.sign(header={"kid": "ec"})
    yield "J08 ES256 with a P-384 key", with_signature(f"{b64({'alg': 'ES256', 'typ': 'at+jwt', 'kid': 'p384'})}.{b64(good)}.x", b"\1" * 64)
    yield "J08 ES384, which is not allowed", keys["p384"].sign()
    yield "J08 PS256, which is not allowed", rsa.sign(algorithm="PS256")
    yield "J08 EdDSA naming an RSA key", ed.sign(header={"kid": "rsa"})
    n = tokens.P256_N.to_bytes(32, "big")
    raw = unb64(es.split(".")[2])
    zero = b"\0" * 32
    for name, signature in (("all zero", zero * 2), ("r 0", zero + raw[32:]), ("s 0", raw[:32] + zero), ("r n", n + raw[32:]), ("s n", raw[:32] + n),
                            ("63 bytes", raw[:63]), ("65 bytes", raw + b"\0"), ("empty", b""),
                            ("DER", tokens.utils.encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big")))):
        yield f"J09 ES256 signature {name}", with_signature(es, signature)
    raw = unb64(eds.split(".")[2])
    s = int.from_bytes(raw[32:], "little")
    yield "J11 Ed25519 S + L", with_signature(eds, raw[:32] + (s + tokens.ED25519_L).to_bytes(32, "little"))
    yield "J11 Ed25519 R not canonical", with_signature(eds, b"\xff" * 31 + b"\x7f" + raw[32:])
    yield "J11 Ed25519 all zero", with_signature(eds, bytes(64))
    yield "J12 RSA signature of 1", with_signature(rsa.sign(), (1).to_bytes(256, "big"))
    yield "J12 RSA signature one byte longer", with_signature(rsa.sign(jti="long"), b"\0" + unb64(rsa.sign(jti="long").split(".")[2]))
    yield "J12 RSA signature of another key", other.sign(header={"kid": "rsa"})
    yield "J13 embedded jwk", other.sign(header={"jwk": other.jwk(), "kid": None})
    for name in ("jku", "x5u"):
        for url in ("https://evil.example/jwks", "file:///etc/passwd", "http://169.254.169.254/"):
            yield f"J13 {name} {url}", other.sign(header={name: url})
    yield "J14 x5c", other.sign(header={"x5c": [base64.b64encode(other.public(tokens.serialization.Encoding.DER)).decode()]})
    for name, kid in (("path", "../../dev/null"), ("SQL", "' OR 1=1--"), ("NUL", "rsa\0"), ("huge", "k" * 8000), ("of another issuer", "other"),
                      ("empty", "")):
        yield f"J15 kid {name}", rsa.sign_text({**head, "kid": kid}, good)
    for name, kid in (("number", 1), ("list", ["rsa"]), ("null", None), ("object", {})):
        yield f"J15 kid {name}", rsa.sign_text(text({**head, "kid": kid}), good)
    yield "J15 kid missing with many keys", ed.sign_text({"alg": "EdDSA", "typ": "at+jwt", "kid": "nobody"}, good)
    for crit in (["exp"], [], "x", ["b64"]):
        yield f"J16 crit {text(crit)}", rsa.sign_text({**head, "crit": crit, **({"b64": False} if crit == ["b64"] else {})}, good)
    for name in ("alg", "kid"):
        yield f"J17 {name} twice", rsa.sign_text(text(head)[:-1] + f', "{name}": "{head[name]}"}}', good)
    for name in ("iss", "aud", "exp", "scope"):
        yield f"J17 {name} twice", rsa.sign_text(head, text(good)[:-1] + f', "{name}": {text(good[name])}}}')
    yield "J17 aud twice, once escaped", rsa.sign_text(head, text(good)[:-1] + f', "\\u0061ud": "{AUDIENCE}"}}')
    for name, value in (("past", now - 100), ("far past", 1), ("zero", 0), ("negative", -5), ("text", str(now + 600)), ("null", None), ("true", True), ("list", [])):
        yield f"J18 exp {name}", rsa.sign_text(head, {**good, "exp": value})
    yield "J18 exp 1e400", rsa.sign_text(head, text({**good, "exp": 0}).replace('"exp": 0', '"exp": 1e400'))
    yield "J18 exp missing", rsa.sign(exp=None)
    yield "J19 nbf future", rsa.sign(nbf=now + 1000)
    yield "J19 nbf text", rsa.sign_text(head, {**good, "nbf": "0"})
    yield "J19 iat far future", rsa.sign_text(head, {**good, "iat": now + 100000})
    for name, aud in (("wrong", "https://other.example"), ("empty list", []), ("number", 7), ("objects", [{"a": AUDIENCE}]),
                      ("superstring", AUDIENCE + ".evil"), ("prefix", AUDIENCE[:-1]), ("other server", "https://gw.example/mcp/b"), ("empty", "")):
        yield f"J20 aud {name}", rsa.sign_text(head, {**good, "aud": aud})
    yield "J20 aud missing", rsa.sign_text(head, {k: v for k, v in good.items() if k != "aud"})
    for name, iss in (("wrong", "https://evil.example"), ("prefix", ISSUER[:-1]), ("suffix", ISSUER + "x"), ("slash", ISSUER + "/"),
                      ("number", 5), ("own issuer with our key", BETTER_AUTH), ("empty", "")):
        yield f"J21 iss {name}", rsa.sign_text(head, {**good, "iss": iss})
    yield "J21 iss missing", rsa.sign_text(head, {k: v for k, v in good.items() if k != "iss"})
    for name, typ in (("JWT", "JWT"), ("missing", None), ("logout", "logout+jwt"), ("empty", ""), ("dpop", "dpop+jwt")):
        yield f"J22 typ {name}", rsa.sign(header={"typ": typ})
    yield "J23 JWE", ".".join([b64({"alg": "RSA-OAEP", "enc": "A256GCM"}), b64(b"k" * 256), b64(b"i" * 12), b64(b"c" * 40), b64(b"t" * 16)])
    yield "J23 JSON serialization", text({"protected": b64(head), "payload": b64(good), "signature": b64(b"x" * 256)})
    yield "J23 nested", rsa.sign(header={"cty": "JWT"})
    yield "J23 zip", rsa.sign_text({**head, "zip": "DEF"}, good)
    plain = rsa.sign(jti="enc")
    parts = plain.split(".")
    yield "J24 padding", plain + "="
    yield "J24 padded payload", f"{parts[0]}.{parts[1]}={'' if len(parts[1]) % 4 == 3 else '='}.{parts[2]}"
    yield "J24 blank before", " " + plain
    yield "J24 newline within", f"{parts[0]}.{parts[1]}\n.{parts[2]}"
    yield "J24 tail bits", f"{parts[0]}.{parts[1]}.{parts[2][:-1]}{chr(ord(parts[2][-1]) + 1) if parts[2][-1] not in 'Zz9-_' else 'B'}"
    yield "J24 plus and slash", f"{parts[0]}.{parts[1]}.{parts[2][:-4]}+/+/"
    yield "J24 invalid UTF-8", rsa.sign_text(head, text(good).encode()[:-1] + b', "x": "\xff\xfe"}')
    yield "J24 byte order mark", rsa.sign_text(head, b"\xef\xbb\xbf" + text(good).encode())
    yield "J24 deep nesting", rsa.sign_text(head, ('{"a":' + "[" * 5000 + "]" * 5000 + "}").encode())
    yield "J24 many claims", rsa.sign_text(head, {**good, **{f"c{i}": i for i in range(1000)}})
    yield "J24 no payload", f"{parts[0]}..{parts[2]}"
    yield "J24 payload is a list", rsa.sign_text(head, "[]")
    yield "J24 payload is text", rsa.sign_text(head, '"x"')
    yield "J25 unknown issuer", rsa.sign(iss="https://flood.example/1")
    yield "J25 valid kid, bad signature", with_signature(plain, b"\x5a" * 256)
    yield "J29 cnf", rsa.sign(cnf={"jkt": "x" * 43})
    yield "user missing", rsa.sign(sub=None)
    yield "user a list", rsa.sign_text(head, {**good, "sub": ["alice"]})
    yield "H02 anything that is no JWT", "anything-at-all"
    yield "only dots", ".."
    yield "two parts", f"{parts[0]}.{parts[1]}"


ACCEPTED_CASES = {"J24 many claims"}    # a thousand small claims are odd, and harmless


def test_every_forged_stale_and_foreign_token_is_refused(bench, keys):
    wrong, count = [], 0
    for name, token in cases(keys):
        verdict = bench.ask(token)
        count += 1
        expected = OK if name in ACCEPTED_CASES else UNVERIFIED
        if verdict["error"] != expected or (verdict["error"] == UNVERIFIED and (not verdict["reason"] or verdict["user_id"])):
            wrong.append((name, verdict))
    assert not wrong, wrong
    assert count > 120
    assert bench.metric("mcpgw_key_sets_wanted_total") <= 2                   # J13, J15: nothing was fetched for a token's sake


def test_what_is_within_the_rules_is_accepted(bench, keys):
    rsa, now = keys["rsa"], int(time.time())
    for name, token in {
        "J10 a malleable signature may verify": malleated(keys["ec"].sign()),
        "J18 exp within the leeway": rsa.sign(exp=now - 5),
        "J18 exp with a fraction": rsa.sign(exp=now + 600.5),
        "J19 nbf within the leeway": rsa.sign(nbf=now + 5),
        "J20 aud list with ours": rsa.sign(aud=["x", AUDIENCE]),
        "J20 aud with a slash": rsa.sign(aud=AUDIENCE + "/"),
        "J20 aud host in capitals": rsa.sign(aud=AUDIENCE.replace("gw", "GW")),
        "J22 typ in full": rsa.sign(header={"typ": "application/at+jwt"}),
        "J28 scp text": rsa.sign(scope=None, scp="read"),
        "J28 scp list": rsa.sign(scope=None, scp=["read"]),
    }.items():
        verdict = bench.ask(token)
        assert verdict["error"] == OK, (name, verdict)


def test_scopes_that_lack_are_403_and_say_who(bench, keys):
    for name, changes, needed in (("missing", {"scope": None}, "read"), ("subset", {"scope": "read"}, "write"), ("case", {"scope": "READ"}, "read"),
                                  ("admin is not proxy", {"scope": "proxy"}, "read")):
        verdict = bench.ask(keys["rsa"].sign(jti=f"J28 {name}", **changes), needed=SCOPES[needed])
        assert (verdict["error"], verdict["reason"], verdict["user_id"]) == (DENIED, "scope", "corp:alice"), name
    assert bench.ask(keys["rsa"].sign(groups=["dev", "ops"]), needed=SCOPES["write"])["tier"] == TIERS["admin"]


def test_a_cached_token_ends_with_its_leeway(bench, keys):
    ends = int(time.time()) - 27                                              # the leeway is 30 s
    token = keys["rsa"].sign(exp=ends)
    verdict = bench.ask(token)
    assert verdict["error"] == UNVERIFIED or verdict["expires_s"] == ends + 30
    wait_until(lambda: bench.ask(token)["reason"] == "expired", what="the end")


def test_malleable_signatures_of_one_token_take_one_entry(bench, keys):
    token = keys["ec"].sign(jti="malleable")
    assert bench.ask(token)["error"] == OK
    wait = bench.metric('mcpgw_token_cache_entries{kind="accepted"}')
    assert bench.ask(malleated(token))["error"] == OK
    assert bench.ask(malleated(token)).was_warm and not bench.ask(token).was_warm
    assert bench.metric('mcpgw_token_cache_entries{kind="accepted"}') <= wait + 1


def test_a_broken_copy_does_not_push_the_token_out(bench, keys):
    token = keys["ec"].sign(jti="copied")
    assert bench.ask(token)["error"] == OK
    assert bench.ask(with_signature(token, b"\1" * 64))["error"] == UNVERIFIED
    assert bench.ask(token).was_warm


def test_a_token_under_another_digest_is_refused(bench, keys):
    victim, mine = keys["rsa"].sign(sub="victim"), keys["rsa"].sign(sub="mallory")
    question = bench.question(mine)
    for changed in ({"digest": sha("x")}, {"proof": sha("x")}, {"digest": bench.question(victim)["digest"]}):
        verdict = bench.edge.call("authz", "verdict_request", worker=bench.worker, token=mine.encode(), **{**question, **changed})
        assert (verdict["error"], verdict["reason"]) == (UNVERIFIED, "digest")
    assert bench.ask(victim)["user_id"] == "corp:victim"


def test_a_thousand_warm_tokens_cause_no_statement(bench, keys):
    mine = [keys["ec"].sign(jti=f"warm {i}", sub=f"w{i}") for i in range(20)]
    for token in mine:
        assert bench.ask(token)["error"] == OK
    bench.db.reset_statements()
    for _ in range(50):
        replies = bench.edge.call_many("authz", [("verdict_request", bench.question(token)) for token in mine], worker=bench.worker)
        assert all(reply["error"] == OK and reply["layer"] == 1 for reply in replies)
    statements = bench.db.statements()
    asked = [text for text in statements if "find_" in text or "issuer_keys" in text or "credential" in text]
    assert all("k.failures" in text for text in asked), asked    # which one timer asks, while a key is wanted


# ---- users ------------------------------------------------------------------------------------------

def own(keys, **claims):
    return keys["other"].sign(**{"iss": BETTER_AUTH, "sub": "u1", **claims})


def test_a_user_of_ours_counts_only_while_it_may(bench, keys):
    bench.add_user("brief")
    token = own(keys, sub="brief")
    assert bench.ask(token)["user_id"] == "brief"
    bench.change("UPDATE \"user\" SET banned = true WHERE id = 'brief'")
    assert bench.ask(token)["reason"] == "user_banned"
    bench.change("UPDATE \"user\" SET banned = false WHERE id = 'brief'")
    assert bench.ask(token)["error"] == OK
    bench.change("DELETE FROM \"user\" WHERE id = 'brief'")
    assert (bench.ask(token)["error"], bench.ask(token)["reason"]) == (UNVERIFIED, "user_unknown")


def test_a_client_that_acts_for_itself_is_no_missing_user(bench, keys):
    verdict = bench.ask(own(keys, sub="machine", client_id="machine"))
    assert (verdict["error"], verdict["user_id"], verdict["client_id"]) == (OK, "machine", "machine")


def test_a_token_ends_with_its_session(bench, keys):
    session, _ = bench.add_session("u1")
    token = own(keys, sid=session)
    assert bench.ask(token)["session_id"] == session
    bench.change("DELETE FROM session WHERE id = %s", session)
    assert bench.ask(token)["reason"] == "session_ended"


def test_the_tenant_of_a_user_is_found_as_for_a_key(bench, keys):
    bench.add_user("member")
    for name in ("o1", "o2"):
        bench.db.sql('INSERT INTO organization (id, name, slug, "createdAt") VALUES (%s, %s, %s, now())', name, name, name)
    token = own(keys, sub="member")
    assert bench.ask(token)["tenant_id"] == "user:member"
    bench.change("INSERT INTO member (id, \"organizationId\", \"userId\", role, \"createdAt\") VALUES ('m1', 'o1', 'member', 'member', now())")
    assert bench.ask(token)["tenant_id"] == "o1"
    bench.change("UPDATE mcpgw.tenant SET limit_requests = 9, limit_window_s = 60, user_limit_requests = 3, user_limit_window_s = 61 WHERE id = 'o1'")
    assert (bench.ask(token)["tenant_rule"], bench.ask(token)["user_rule"]) == (9 << 32 | 60, 3 << 32 | 61)
    bench.change("UPDATE mcpgw.tenant SET state = 'suspended' WHERE id = 'o1'")
    assert (bench.ask(token)["error"], bench.ask(token)["reason"]) == (DENIED, "tenant_suspended")
    bench.change("UPDATE mcpgw.tenant SET state = 'active' WHERE id = 'o1'")
    bench.change("INSERT INTO member (id, \"organizationId\", \"userId\", role, \"createdAt\") VALUES ('m2', 'o2', 'member', 'member', now())")
    assert (bench.ask(token)["error"], bench.ask(token)["reason"]) == (DENIED, "tenant_ambiguous")


# ---- tokens that were ended -------------------------------------------------------------------------

def end_token(bench, kind, value, issuer="corp", before=None):
    bench.change("INSERT INTO mcpgw.ended_token (name, kind, issuer, value, issued_before, expires_at)"
                 " VALUES (mcpgw.bond(%s, %s, %s), %s, %s, %s, to_timestamp(%s), now() + interval '1 hour')",
                 kind, issuer if not value.startswith("sha256:") else "", value, kind, issuer, value, before)


def test_an_ended_token_is_refused_warm_or_not_and_under_every_signature(bench, keys):
    token, other, namesake = keys["ec"].sign(jti="ended"), keys["ec"].sign(jti="ended too"), own(keys, jti="ended")
    for good in (token, other, namesake):
        assert bench.ask(good)["error"] == OK and bench.ask(good).was_warm
    end_token(bench, "token", "ended")
    for copy in (token, malleated(token), keys["rsa"].sign(jti="ended"), keys["rsa"].sign(uti="ended", jti=None)):
        assert (bench.ask(copy)["error"], bench.ask(copy)["reason"], bench.ask(copy)["user_id"]) == (UNVERIFIED, "token_revoked", "")
    assert bench.ask(other)["error"] == OK and bench.ask(namesake)["error"] == OK
    bench.change("DELETE FROM mcpgw.ended_token WHERE value = 'ended'")
    assert bench.ask(token)["error"] == OK


def test_a_token_without_an_id_is_known_by_what_is_signed(bench, keys):
    token = keys["ec"].sign(jti=None)
    assert bench.ask(token)["error"] == OK
    end_token(bench, "token", "sha256:" + digest_text(token[:token.rindex(".")]))
    assert bench.ask(token)["reason"] == bench.ask(malleated(token))["reason"] == "token_revoked"


def test_what_a_subject_was_given_until_a_moment_is_refused(bench, keys):
    now = int(time.time())
    old, at, later, undated = (keys["ec"].sign(sub="left", jti=f"left {iat}", iat=iat) for iat in (now - 60, now - 10, now - 9, None))
    someone = keys["ec"].sign(sub="left2", iat=now - 60)
    for token in (old, at, later, undated, someone):
        assert bench.ask(token)["error"] == OK
    end_token(bench, "subject", "left", before=now - 10)
    assert [bench.ask(token)["reason"] for token in (old, at, undated)] == ["token_revoked"] * 3
    assert bench.ask(later)["error"] == bench.ask(someone)["error"] == OK


def test_the_end_of_a_key_names_it_as_verdicts_do(bench, keys):
    """What the edges end streams by: a change for each key that is gone or another one, none for those that stay."""
    gone = [Key("gone-rsa", "RS256"), Key("gone-ec", "ES256"), Key("gone-ed", "EdDSA")]
    stay = [keys[name].jwk() for name in ("rsa", "ec", "ed", "p384")]
    bench.publish("corp", ISSUER, *stay, *[key.jwk() for key in gone])
    names = [bench.ask(key.sign())["bonds"].split()[2] for key in gone]
    staying = bench.ask(keys["rsa"].sign())["bonds"].split()[2]
    before = bench.db.sql("SELECT value FROM mcpgw.change_sequence")[0][0]
    bench.publish("corp", ISSUER, {**stay[0], "x5c": ["renewed"]}, *stay[1:])
    rows = bench.db.sql("SELECT kind, key_id, server FROM mcpgw.change WHERE sequence > %s ORDER BY sequence", before)
    assert rows[0] == (7, None, "corp") and sorted(rows[1:]) == sorted((9, name, "corp") for name in names), rows
    assert staying not in names and bench.ask(keys["rsa"].sign())["error"] == OK
    events = bench.db.sql("SELECT event, details->>'kid' FROM mcpgw.outbox WHERE sequence > %s ORDER BY 2", before)
    assert [kid for event, kid in events if event == "issuer.key_ended"] == ["gone-ec", "gone-ed", "gone-rsa"]
    bench.publish("corp", ISSUER, *stay)


def test_a_token_is_good_no_longer_than_its_session(bench, keys):
    session, _ = bench.add_session("u1", seconds=3)
    token = own(keys, sid=session, jti="with the session")
    verdict = bench.ask(token)
    ends = bench.db.sql('SELECT extract(epoch FROM "expiresAt")::bigint FROM session WHERE id = %s', session)[0][0]
    assert verdict["error"] == OK and abs(verdict["expires_s"] - ends) <= 1
    wait_until(lambda: bench.ask(token)["reason"] == "session_ended", what="the session's end")


# ---- key sets ---------------------------------------------------------------------------------------

def test_a_withdrawn_key_verifies_nothing_once_the_change_is_applied(bench, keys):
    old = Key("old", "ES256")
    bench.publish("corp", ISSUER, *[keys[n].jwk() for n in ("rsa", "ec", "ed", "p384")], old.jwk())
    token = old.sign()
    assert bench.ask(token)["error"] == OK and bench.ask(token).was_warm
    bench.publish("corp", ISSUER, *[keys[n].jwk() for n in ("rsa", "ec", "ed", "p384")])
    assert (bench.ask(token)["error"], bench.ask(token)["reason"]) == (UNVERIFIED, "key_unknown")
    assert bench.ask(keys["rsa"].sign())["error"] == OK


def test_a_set_with_keys_of_no_use_is_taken_without_them(bench, keys):
    weak = Key("weak", "RS256", bits=1024)
    three = Key("e3", "RS256", exponent=3)
    bench.publish("corp", ISSUER, weak.jwk(), {"kty": "oct", "k": "AAAA", "kid": "oct"}, {"kty": "what", "kid": "x"}, 7,
                  *[keys[n].jwk() for n in ("rsa", "ec", "ed", "p384")], {**keys["rsa"].jwk(), "kid": "enc", "use": "enc"}, three.jwk())
    assert bench.ask(weak.sign())["error"] == UNVERIFIED                       # J12
    assert bench.ask(hs256(b"\0\0\0", {"alg": "HS256", "typ": "at+jwt", "kid": "oct"}, claims_of()))["error"] == UNVERIFIED
    assert bench.ask(keys["rsa"].sign(header={"kid": "enc"}))["error"] == UNVERIFIED
    assert bench.ask(keys["rsa"].sign(jti="after"))["error"] == OK
    bench.publish("corp", ISSUER, "<html>maintenance</html>")                  # J26: the last good set goes on
    assert bench.ask(keys["rsa"].sign(jti="still"))["error"] == OK
    bench.publish("corp", ISSUER, *[keys[n].jwk() for n in ("rsa", "ec", "ed", "p384")])


def test_an_unknown_key_waits_for_the_set_that_has_it(bench, keys):
    """J27: the keys service is told, fetches, and the token that came too early is accepted."""
    early = Key("early", "ES256")
    mine = {**CORP, "cooldown_s": 5, "issuer": "https://rotating.example", "name": "rotating"}
    bench.publish("rotating", "https://rotating.example", keys["rsa"].jwk())
    bench.start(mine)
    with psycopg.connect(bench.db.url("mcpgw_keys"), autocommit=True) as listener:
        listener.execute("LISTEN mcpgw_issuer_wanted")
        answers = []
        token = early.sign(iss="https://rotating.example")
        asking = threading.Thread(target=lambda: answers.append(bench.ask(token)))
        asking.start()
        assert next(listener.notifies()).payload == "rotating"
        bench.publish("rotating", "https://rotating.example", keys["rsa"].jwk(), early.jwk())
        asking.join()
    assert answers[0]["error"] == OK, answers


def test_a_flood_of_unknown_key_ids_asks_once_and_waits_little(bench, keys):
    """J25: of 300, at most 64 wait; the others and every valid token are answered at once."""
    mine = {**CORP, "issuer": "https://flooded.example", "name": "flooded"}
    bench.publish("flooded", "https://flooded.example", keys["rsa"].jwk())
    bench.start(mine)
    good = keys["rsa"].sign(iss="https://flooded.example")
    flood = [keys["ec"].sign(iss="https://flooded.example", header={"kid": f"flood {i}"}) for i in range(300)]
    requests = [("verdict_request", {**bench.question(token), "token": token.encode()}) for token in flood]
    for i in range(0, 300, 30):
        bench.edge.send(bench.worker, requests[i:i + 30])
    assert bench.ask(good)["error"] == OK
    replies = bench.edge.call_many("authz", requests[:1], worker=bench.worker)
    assert replies[0]["reason"] == "key_unknown"
    assert bench.metric("mcpgw_key_sets_wanted_total") == 1


def test_an_unknown_key_of_an_issuer_that_cannot_be_asked_is_503_and_not_401(bench, keys):
    """J25, J27: the key may be new.  What is known goes on, and the cool-down holds."""
    first, down = bench.process, "https://down.example"
    bench.publish("down", down, keys["rsa"].jwk())
    bench.start({**CORP, "issuer": down, "name": "down", "cooldown_s": 60})
    unknown, good = keys["ec"].sign(iss=down, header={"kid": "new"}), keys["rsa"].sign(iss=down)
    assert (bench.ask(unknown)["error"], bench.ask(unknown)["reason"]) == (UNVERIFIED, "key_unknown")
    for state in ("failures = 1", "fetched_at = now() - interval '61 minutes'", "fetched_at = NULL", "fetched_at = now() - interval '2 minutes'"):
        bench.db.sql(f"UPDATE mcpgw.issuer_keys SET {state} WHERE name = 'down'")
        wait_until(lambda: bench.ask(unknown)["reason"] == "issuer_keys_stale", what=state)
        assert bench.ask(unknown)["error"] == UNAVAILABLE and bench.ask(good)["error"] == OK
        assert bench.ask(unknown, beside=bench.add_key())["auth_method"] == API_KEY, "the issuer cannot be asked, so the key decides"
        bench.db.sql("UPDATE mcpgw.issuer_keys SET fetched_at = now(), failures = 0 WHERE name = 'down'")
        wait_until(lambda: bench.ask(unknown)["reason"] == "key_unknown", what="the end of: " + state)
    assert bench.metric("mcpgw_key_sets_wanted_total") == 1
    bench.process, bench.worker = first, first.worker


def test_an_issuer_without_keys_is_503_and_not_401(bench, keys):
    bench.start({**CORP, "issuer": "https://never.example", "name": "never"})
    verdict = bench.ask(keys["rsa"].sign(iss="https://never.example"))
    assert (verdict["error"], verdict["reason"]) == (UNAVAILABLE, "issuer_keys_missing")


def test_without_postgres_known_tokens_go_on_for_the_grace_and_others_are_503(bench, keys):
    first = bench.process
    bench.start(CORP, MCPGW_LEASE_MS="400", MCPGW_STALE_GRACE_MS="600000")
    known, key = keys["ec"].sign(jti="known"), bench.add_key()
    assert bench.ask(known)["error"] == OK
    bench.wait_applied()
    bench.server.stop()
    try:
        wait_until(lambda: bench.ask(known)["stale"], what="the end of the lease")
        assert bench.ask(known)["error"] == OK
        assert (bench.ask(keys["ec"].sign(jti="new"))["error"], bench.ask(keys["ec"].sign(jti="new"))["reason"]) == (UNAVAILABLE, "store")
        assert bench.ask(keys["ec"].sign(jti="new"), beside=key)["error"] == UNAVAILABLE    # the key is not known either
        assert bench.ask(with_signature(known, b"\1" * 64))["error"] == UNVERIFIED         # that needs nobody
    finally:
        bench.server.start()
    wait_until(lambda: bench.ask(known)["error"] == OK and not bench.ask(known)["stale"], what="a new lease")
    wait_until(lambda: bench.ask(keys["ec"].sign(jti="new"))["error"] == OK, what="its connections")
    bench.process, bench.worker = first, first.worker
