"""Forward-auth behind real proxies, with the configuration files of docs/proxies; and the requests of those Debian lacks."""
import json
import os
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests

from conftest import ROOT, free_port, wait_until

SNIPPETS = ROOT / "docs" / "proxies"


@pytest.fixture(scope="module")
def trusting(gateway):
    """The session's gateway believes proxies on loopback."""
    gateway.settings["MCPGW_SETTINGS_edge"] = "MCPGW_TRUSTED_PROXIES=127.0.0.0/8"
    gateway.up()
    return gateway


@pytest.fixture(scope="module")
def application():
    """Answers with the headers it saw."""
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            body = json.dumps({name.lower(): value for name, value in self.headers.items()}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()


def nginx(folder, text):
    user = "user root;" if os.geteuid() == 0 else ""    # its own default is not allowed into a test's folder
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/pid; error_log {folder}/error.log; worker_processes 1; {user}\nevents {{}}\n"
        f"http {{ access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f; "
        f"uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;\n{text}\n}}")
    return ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")]


def caddy(folder, text):
    (folder / "Caddyfile").write_text("{\n\tadmin off\n\tauto_https off\n}\n" + text)
    return ["caddy", "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")]


def haproxy(folder, text):
    shutil.copy(SNIPPETS / "haproxy_mcpgw.lua", folder)
    (folder / "haproxy.cfg").write_text(text.replace("lua-load ", f"lua-load {folder}/"))
    return ["haproxy", "-db", "-f", str(folder / "haproxy.cfg")]


PROXIES = {"nginx": ("nginx.conf", nginx), "caddy": ("Caddyfile", caddy), "haproxy": ("haproxy.cfg", haproxy)}


@pytest.fixture(scope="module", params=PROXIES)
def proxy(request, trusting, application, tmp_path_factory):
    file, configure = PROXIES[request.param]
    port, folder = free_port(), tmp_path_factory.mktemp(request.param)
    text = (SNIPPETS / file).read_text()
    for old, new in (("8080", trusting.port), ("8090", port), ("8091", application)):
        text = text.replace(old, str(new))
    environment = dict(os.environ, HOME=str(folder), XDG_DATA_HOME=str(folder), XDG_CONFIG_HOME=str(folder))
    log = open(folder / "log", "w")
    process = subprocess.Popen(configure(folder, text), env=environment, stdout=log, stderr=log)

    def listens():
        assert process.poll() is None, Path(folder / "log").read_text()
        try:
            return requests.get(f"http://127.0.0.1:{port}/", timeout=2).status_code
        except requests.RequestException:
            return None
    try:
        wait_until(listens, 20, f"{request.param} listens")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def test_a_valid_key_reaches_the_application_with_its_identity(proxy, trusting):
    made = trusting.make_key(scopes=["proxy"])
    seen = requests.get(proxy + "/page?x=1", timeout=10, headers={"x-api-key": made["key"], "X-Mcpgw-User": "forged"}).json()
    assert seen["x-mcpgw-key-id"] == made["id"] and seen["x-mcpgw-user"] != "forged"
    assert "x-api-key" not in seen and "authorization" not in seen


def test_refusals_keep_their_status(proxy, trusting):
    without = trusting.make_key(scopes=["read"])
    few = trusting.make_key(scopes=["proxy"], rateLimit={"requests": 1, "window": 3600})
    refused = requests.get(proxy + "/", timeout=10)
    assert refused.status_code == 401 and refused.headers["WWW-Authenticate"].startswith("Bearer ")
    refused = requests.get(proxy + "/", timeout=10, headers={"x-api-key": without["key"]})
    assert refused.status_code == 403 and 'error="insufficient_scope"' in refused.headers["WWW-Authenticate"]
    assert requests.get(proxy + "/", timeout=10, headers={"x-api-key": few["key"]}).status_code == 200
    assert requests.get(proxy + "/", timeout=10, headers={"x-api-key": few["key"]}).status_code == 429


def test_the_metadata_of_the_application_is_the_gateways(proxy, trusting):
    answer = requests.get(proxy + "/.well-known/oauth-protected-resource/mcp", timeout=10)
    assert answer.status_code == 404 and answer.json()["code"] == "not_found"          # this gateway has no issuers; nobody is asked for a key


def test_the_event_names_the_original_request(proxy, trusting):
    made = trusting.make_key(scopes=["proxy"])
    requests.get(proxy + "/the/page", timeout=10, headers={"x-api-key": made["key"]})
    event = trusting.wait_for_events(1, keyId=made["id"], event="request")[0]
    assert event["path"] == "/the/page" and event["method"] == "GET"


# What these two send, by their documentation: Traefik's ForwardAuth, and Envoy's ext_authz in HTTP mode with path_prefix.
RECORDED = {
    "traefik": ("/auth/check?scope=proxy", {"X-Forwarded-Method": "POST", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "app.example",
                                            "X-Forwarded-Uri": "/the/page?x=1", "X-Forwarded-For": "192.0.2.7"}),
    "envoy": ("/auth/check/the/page?scope=proxy", {"X-Forwarded-Proto": "https", "X-Forwarded-For": "192.0.2.7", "Content-Length": "0",
                                                   "X-Envoy-Expected-Rq-Timeout-Ms": "200"}),
}


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_requests_of_other_proxies_are_judged(trusting, name):
    path, headers = RECORDED[name]
    made = trusting.make_key(scopes=["proxy"])
    answer = trusting.call("GET", path, key=made["key"], headers=headers)
    assert answer.status_code == 200 and answer.headers["X-Mcpgw-Key-Id"] == made["id"]
    event = trusting.wait_for_events(1, keyId=made["id"], event="request")[0]
    assert event["path"] == "/the/page" and event["address"] == "192.0.2.7"
    assert trusting.call("GET", path, key="", headers=headers).status_code == 401


def test_a_foreign_peers_forwarded_headers_are_ignored(own_gateway):
    gateway = own_gateway()
    made = gateway.make_key(scopes=["read"])
    gateway.check(made["key"], headers={"X-Forwarded-For": "192.0.2.7", "X-Forwarded-Uri": "/elsewhere"})
    event = gateway.wait_for_events(1, keyId=made["id"], event="request")[0]
    assert event["address"] == "127.0.0.1" and event["path"] == "/auth/check"
