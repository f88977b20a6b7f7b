"""mcpgw token explain with a key set at hand: exit codes, what it says, and the YAML of docs/oauth.md read by the real code."""
import base64
import json
import os
import re
import subprocess
import time

import pytest

from conftest import ROOT, program

ISSUER, AUDIENCE = "https://auth.example", "https://gw.example/mcp/a"


def b64(data):
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


class Signer:
    def __init__(self, folder):
        self.folder, self.pem, self.jwks = folder, folder / "key.pem", folder / "jwks.json"
        subprocess.run(["openssl", "genrsa", "-out", self.pem, "2048"], check=True, stderr=subprocess.DEVNULL)
        modulus = subprocess.run(["openssl", "rsa", "-in", self.pem, "-noout", "-modulus"], check=True, capture_output=True, text=True)
        n = bytes.fromhex(modulus.stdout.strip().removeprefix("Modulus="))
        self.jwks.write_text(json.dumps({"keys": [{"kty": "RSA", "kid": "k1", "n": b64(n), "e": "AQAB"}]}))

    def token(self, header=None, **claims):
        head = {"alg": "RS256", "kid": "k1", "typ": "at+jwt", **(header or {})}
        body = {"iss": ISSUER, "sub": "u1", "aud": AUDIENCE, "scope": "mcp:read", "exp": int(time.time()) + 600, **claims}
        text = ".".join(b64(json.dumps(part).encode()) for part in (head, {k: v for k, v in body.items() if v is not None}))
        signature = subprocess.run(["openssl", "dgst", "-sha256", "-sign", self.pem], input=text.encode(), check=True, capture_output=True)
        return f"{text}.{b64(signature.stdout)}"


@pytest.fixture(scope="module")
def signer(tmp_path_factory):
    return Signer(tmp_path_factory.mktemp("token"))


def explain(text, *arguments, **environment):
    return subprocess.run([program("mcpgw"), "token", "explain", *map(str, arguments)], input=text, capture_output=True, text=True,
                          timeout=30, env={"PATH": "/usr/bin:/bin", "MCPGW_HOME": "/nonexistent", **environment})


def offline(signer, text, *more):
    return explain(text, "--jwks", signer.jwks, "--issuer", ISSUER, "--audience", AUDIENCE, "--algorithms", "RS256,EdDSA", *more)


@pytest.mark.parametrize("claims, reason, words", [
    ({"exp": 1000000000}, "expired", "2001-09-09T01:46:40Z"),
    ({"exp": None}, "exp_missing", "`exp`"),
    ({"aud": "https://gw.example/mcp/b"}, "audience", f"accepted: {AUDIENCE}"),
    ({"iss": ISSUER + "/"}, "issuer_unknown", "letter by letter"),
    ({"cnf": {"jkt": "x"}}, "proof_of_possession", "DPoP"),
    ({"header": {"kid": "k2"}}, "key_unknown", "no key of that `kid`"),
    ({"header": {"alg": "RS512"}}, "algorithm_not_allowed", "accepted: RS256 EdDSA"),
    ({"header": {"alg": "none"}}, "algorithm_unknown", "HS*"),
])
def test_a_refused_token_is_told_why_and_what_to_change(signer, claims, reason, words):
    done = offline(signer, signer.token(**claims))
    assert done.returncode == 1, done.stderr
    assert f"({reason})" in done.stdout and words in done.stdout and "to do:" in done.stdout
    assert done.stdout.rstrip().endswith(f"refused: {reason}")


def test_the_typ_is_asked_for_when_it_is_named(signer):
    assert offline(signer, signer.token()).returncode == 0
    done = offline(signer, signer.token(header={"typ": "JWT"}), "--typ", "at+jwt")
    assert done.returncode == 1 and "(token_type)" in done.stdout


def test_an_accepted_token_shows_its_context(signer):
    done = offline(signer, f"  Bearer {signer.token()}\n")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "offline:u1" in done.stdout and "REFUSED" not in done.stdout


def test_json_is_one_object_without_the_signature(signer):
    token = signer.token()
    done = offline(signer, token, "--json")
    answer = json.loads(done.stdout)
    assert done.returncode == 0 and answer["accepted"] and answer["context"]["scopes"] == "read"
    assert [step["outcome"] for step in answer["steps"]] == ["passed"] * 13
    assert token.rsplit(".", 1)[1] not in done.stdout
    assert json.loads(offline(signer, token[:-4] + "AAAA", "--json").stdout)["reason"] == "signature"


@pytest.mark.parametrize("arguments, words", [
    (["--issuer", "x"], "--jwks"),
    (["--jwks", "/nonexistent"], "cannot be read"),
    (["--jwks", "{jwks}"], "--issuer, --audience and --algorithms"),
    (["--jwks", "{jwks}", "--issuer", "i", "--audience", "a", "--algorithms", "HS256"], "RS256"),
    (["--jwks", "{jwks}", "--issuer", "i", "--audience", ",", "--algorithms", "RS256"], "--audience"),
    (["--jwks", "{pem}", "--issuer", "i", "--audience", "a", "--algorithms", "RS256"], "not JSON"),
    (["--jwks", "{jwks}", "--config", "/nonexistent"], "cannot be read"),
    (["--jwks", "{jwks}", "--config", "x", "--issuer", "i"], "leave them out"),
    ([], "MCPGW_API_KEY"),
])
def test_misuse_is_status_2(signer, arguments, words):
    done = explain("a.b.c", *(word.format(jwks=signer.jwks, pem=signer.pem) for word in arguments))
    assert done.returncode == 2 and words in done.stderr, done.stderr


def test_no_token_is_misuse(signer):
    assert offline(signer, " \n").returncode == 2
    assert offline(signer, "x" * 40000).returncode == 2
    assert offline(signer, "opaque-token").returncode == 1


BLOCKS = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "oauth.md").read_text(), re.S)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_the_examples_of_the_page_are_read(signer, tmp_path, number):
    (tmp_path / "secret").write_text("hush\n")
    file = tmp_path / "mcpgw.yaml"
    file.write_text(BLOCKS[number].replace("/run/secrets/introspection", str(tmp_path / "secret")))
    done = explain(signer.token(), "--jwks", signer.jwks, "--config", file)
    assert done.returncode in (0, 1), done.stderr
    for service in ("authz", "edge", "keys"):
        shown = subprocess.run([program(f"mcpgw-{service}"), "--config", file, "--show-config"], capture_output=True, text=True, timeout=30,
                               env={"PATH": os.environ["PATH"]})    # make exports MCPGW_LISTEN, which is the edge's
        assert shown.returncode == 0, shown.stderr


CORP, PARTNER, CLIENT = "7f0c2b3e-1111-2222-3333-444455556666", "11111111-2222-3333-4444-555555555555", "0b5d4c6a-1111-2222-3333-444455556666"
GROUP = "2f1a7f60-1111-2222-3333-444455556666"


def entra(directory, **claims):
    return {"iss": f"https://login.microsoftonline.com/{directory}/v2.0", "aud": CLIENT, "tid": directory, "oid": "9a6e", "ver": "2.0", "scope": None,
            "header": {"typ": "JWT"}, **claims}


def keycloak(**claims):
    """As Keycloak makes access tokens: the kind of token in a claim, the client in azp, roles in an object."""
    return {"iss": "https://sso.example/realms/main", "aud": ["mcp-gateway", "account"], "typ": "Bearer", "azp": "ide", "scope": "openid mcp email",
            "email_verified": True, "organization": ["acme"], "acr": "1", "realm_access": {"roles": ["offline_access"]}, "header": {"typ": "JWT"}, **claims}


def workflow(**claims):
    return {"iss": "https://token.actions.githubusercontent.com", "aud": "https://gw.example/mcp/any", "sub": "repo:example/app:ref:refs/heads/main",
            "repository_owner": "example", "scope": None, "header": {"typ": "JWT"}, **claims}


APP = {"iss": "https://auth.example/api/auth", "aud": "https://gw.example/mcp/any", "scope": "openid mcp:proxy"}
# (page, words of the example, claims, server, what the page promises: members of the context, or the reason it is refused for)
PROMISES = [
    ("oauth", "Better-Auth's baseURL", APP, "any", {"userId": "u1", "scopes": "proxy"}),
    ("oauth", "Better-Auth's baseURL", {**APP, "header": {"typ": "JWT"}}, "any", "token_type"),
    ("oauth", "Better-Auth's baseURL", APP, "other", "audience"),
    ("oauth", "partners", entra(CORP, scp="tools.use"), "any", {"userId": "corp:9a6e", "tenantId": CORP, "scopes": "read proxy"}),
    ("oauth", "partners", entra(CORP, scp="tools.use", aud="api://" + CLIENT, groups=[GROUP]), "any", {"rateLimitTier": "admin"}),
    ("oauth", "partners", entra(PARTNER, scp="mcp:read"), "any", {"tenantId": PARTNER, "scopes": "read"}),
    ("oauth", "partners", entra("99999999-2222-3333-4444-555555555555", scp="mcp:read"), "any", "directory_unknown"),
    ("oauth", "partners", entra(CORP), "any", "not_an_access_token"),
    ("oauth", "server_audiences", keycloak(), "any", {"userId": "keycloak:u1", "tenantId": "acme", "scopes": "read proxy", "rateLimitTier": "oauth",
                                                      "secondFactor": False, "clientId": "ide"}),
    ("oauth", "server_audiences", keycloak(acr="gold", realm_access={"roles": ["batch"]}), "any", {"secondFactor": True, "rateLimitTier": "api_key"}),
    ("oauth", "server_audiences", keycloak(organization="umbrella", realm_access={"roles": ["gateway-admin"]}), "any", {"tenantId": "umbrella", "rateLimitTier": "admin"}),
    ("oauth", "server_audiences", keycloak(), "payroll", "audience"),
    ("oauth", "server_audiences", keycloak(aud="mcp-payroll"), "payroll", {"scopes": "read proxy"}),
    ("oauth", "server_audiences", keycloak(aud="mcp-payroll"), "any", "audience"),
    ("oauth", "server_audiences", keycloak(azp="other"), "any", "client_not_allowed"),
    ("oauth", "server_audiences", keycloak(email_verified=False), "any", "claim_required"),
    ("oauth", "server_audiences", keycloak(organization="none"), "any", "tenant_missing"),
    ("oauth", "token.actions", workflow(), "any", {"userId": "ci:repo:example/app:ref:refs/heads/main", "scopes": "read proxy"}),
    ("oauth", "token.actions", workflow(repository_owner="stranger"), "any", "claim_required"),
    ("oauth", "token.actions", APP, "any", {"userId": "u1"}),
    ("oauth", "providerId in genericOAuth", {**keycloak(), "aud": "https://gw.example/mcp/any", "scope": "mcp:read", "header": {}}, "any", {"userId": "sso:u1"}),
    ("entra", "idtyp", entra(PARTNER, scp="mcp:proxy", idtyp="user"), "any", {"userId": "entra:", "tenantId": PARTNER, "scopes": "read proxy"}),
    ("entra", "idtyp", entra(CORP, scp="mcp:proxy", idtyp="user", groups=[GROUP]), "any", {"scopes": "read write proxy"}),
    ("entra", "idtyp", entra(CORP, scp=None, roles=["mcp:admin"], idtyp="app"), "any", "claim_required"),
    ("migrating-fastmcp", "tools.example", {**APP, "aud": "https://tools.example/mcp"}, "tools", {"userId": "u1", "scopes": "proxy"}),
    ("migrating-fastmcp", "tools.example", {**APP, "aud": "https://tools.example/mcp"}, "any", "audience"),
]


@pytest.mark.parametrize("page, words, claims, server, promised", PROMISES)
def test_an_example_does_what_its_page_says(signer, tmp_path, page, words, claims, server, promised):
    block, = (b for b in re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / f"{page}.md").read_text(), re.S) if words in b)
    file = tmp_path / "mcpgw.yaml"
    file.write_text(block)
    done = explain(signer.token(**claims), "--jwks", signer.jwks, "--config", file, "--server", server, "--json")
    said = json.loads(done.stdout)
    if isinstance(promised, str):
        assert (done.returncode, said["reason"]) == (1, promised)
        return
    assert done.returncode == 0, done.stdout
    seen = {name: said["context"][name] for name in promised}
    if promised.get("userId", "").endswith(":"):    # of several directories: a digest
        seen["userId"] = seen["userId"][:len(promised["userId"])]
    assert seen == promised


@pytest.mark.parametrize("tenant, code", [(CORP, 0), ("contoso.example", 2)])
def test_two_variables_are_enough_for_one_directory(tenant, code):
    """As docs/entra.md says; a domain name stands in no token."""
    for service in ("authz", "edge", "keys"):
        shown = subprocess.run([program(f"mcpgw-{service}"), "--show-config"], capture_output=True, text=True, timeout=30,
                               env={"PATH": os.environ["PATH"], "MCPGW_PUBLIC_URL": "https://gw.example", "MCPGW_AZURE_TENANT_ID": tenant,
                                    "MCPGW_AZURE_CLIENT_ID": CLIENT})
        assert shown.returncode == code, shown.stderr
        assert code == 0 or "GUID" in shown.stderr


def test_the_page_names_every_field():
    table = subprocess.run([program("mcpgw"), "docs", "issuers"], capture_output=True, text=True, check=True).stdout
    assert table.strip() in (ROOT / "docs" / "oauth.md").read_text(), "mcpgw docs issuers prints what docs/oauth.md has to hold"
