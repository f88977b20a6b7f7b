"""mcpgw before a server that lies: what it says reaches no terminal as a command."""
import http.server
import json
import os
import pty
import subprocess
import threading

import pytest

from conftest import program

EVIL = "\x1b]0;owned\x07\x9b31m\x7f\u202e"


@pytest.fixture
def liar():
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            bad = "/keys/" in self.path
            body = json.dumps({"code": "x", "field": "f" + EVIL, "detail": "d" + EVIL} if bad else
                              {"items": [{"id": "k", "name": "n" + EVIL}], "next": None}, ensure_ascii=False).encode()
            self.send_response(422 if bad else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def run(url, *arguments, **how):
    return subprocess.Popen([program("mcpgw"), *arguments], stdin=subprocess.DEVNULL,
                            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "MCPGW_URL": url, "MCPGW_API_KEY": "k"}, **how)


def is_harmless(told):
    text = told.decode().replace("\r\n", "\n")
    return not any(c < " " and c != "\n" or "\x80" <= c < "\xa0" for c in text)    # DEL does nothing there


def test_a_complaint_shows_no_control_characters(liar):
    process = run(liar, "key", "show", "k", stderr=subprocess.PIPE)
    told = process.communicate(timeout=30)[1]
    assert process.returncode != 0 and b"]0;owned" in told and is_harmless(told), told


@pytest.mark.parametrize("json_too", [[], ["--json"]])
def test_a_terminal_gets_no_control_characters(liar, json_too):
    ours, theirs = pty.openpty()
    process = run(liar, "key", "list", *json_too, stdout=theirs, stderr=theirs)
    os.close(theirs)
    told = b""
    while True:
        try:
            more = os.read(ours, 4096)
        except OSError:
            break
        told += more
        if not more:
            break
    os.close(ours)
    assert process.wait(30) == 0 and b"owned" in told and is_harmless(told), told


def test_a_key_that_would_go_unencrypted_is_warned_of(liar):
    for url, warned in ((liar, False), ("http://0x7f.1:1", True), ("http://127.0.0.1:1@127.0.0.1:1", True), ("https://127.0.0.1:1", False)):
        told = run(url, "key", "list", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE).communicate(timeout=30)[1]
        assert (b"unencrypted" in told) == warned, (url, told)
