"""Event streams through the gateway: nothing is held back, and a stream dies with its key or its client."""
import socket
import threading

import pytest
import requests

from conftest import wait_until


def open_stream(gateway, key):
    answer = gateway.call("GET", "/mcp/example", key=key, stream=True, headers={"accept": "text/event-stream"}, timeout=(5, 60))
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/event-stream")
    return answer


def first_event(answer):
    for line in answer.iter_lines():
        if line.startswith(b"data:"):
            return line


def ended(answer):
    """Reads until the stream is cut; true when it ended."""
    try:
        for _ in answer.iter_content(1024):
            pass
    except requests.RequestException:
        pass
    return True


@pytest.mark.parametrize("end", ["revoke", "disable", "delete", "sql", "server"])
def test_a_stream_ends_with_what_it_depends_on(gateway, end):
    made = gateway.make_key(scopes=["proxy"])
    if end == "server":
        url = next(s["url"] for s in gateway.call("GET", "/api/v1/servers").json()["items"] if s["slug"] == "example")
        gateway.call("POST", "/api/v1/servers", json={"slug": "brief", "url": url})
        wait_until(lambda: gateway.call("GET", "/mcp/brief", key=made["key"], stream=True).status_code == 200, 10, "the server is known")
        answer = gateway.call("GET", "/mcp/brief", key=made["key"], stream=True, timeout=(5, 60))
    else:
        answer = open_stream(gateway, made["key"])
    assert first_event(answer)
    done = threading.Event()
    reader = threading.Thread(target=lambda: ended(answer) and done.set())
    reader.start()
    if end == "sql":
        with gateway.database() as connection:
            connection.execute("update apikey set enabled = false where id = %s", [made["id"]])
    elif end == "delete":
        gateway.call("DELETE", f"/api/v1/keys/{made['id']}")
    elif end == "server":
        gateway.call("DELETE", "/api/v1/servers/brief")
    else:
        gateway.call("POST", f"/api/v1/keys/{made['id']}/{end}")
    assert done.wait(15), "the stream still lives"
    reader.join()


def test_another_keys_stream_goes_on(gateway):
    victim, other = gateway.make_key(scopes=["proxy"]), gateway.make_key(scopes=["proxy"])
    kept = open_stream(gateway, other["key"])
    lines = kept.iter_lines()
    assert next(lines) is not None
    gateway.call("POST", f"/api/v1/keys/{victim['id']}/revoke")
    seen = [line for line, _ in zip(lines, range(8))]
    assert len([line for line in seen if line.startswith(b"data:")]) >= 2
    kept.close()


def test_a_stream_whose_client_is_gone_is_closed(gateway):
    made = gateway.make_key(scopes=["proxy"])
    before = gateway.metric("edge-1", "mcpgw_streams_open")
    client = socket.create_connection(("127.0.0.1", gateway.port))
    client.sendall(f"GET /mcp/example HTTP/1.1\r\nHost: x\r\nx-api-key: {made['key']}\r\n\r\n".encode())
    assert b"200" in client.recv(4096)
    wait_until(lambda: gateway.metric("edge-1", "mcpgw_streams_open") == before + 1, 10, "the stream is open")
    client.close()
    wait_until(lambda: gateway.metric("edge-1", "mcpgw_streams_open") == before, 10, "the stream is closed")
