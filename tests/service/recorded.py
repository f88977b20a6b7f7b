"""The recorded messages of tests/wire/, as fields and as bytes, and the keys they speak of.

    request = recorded.load("verdict_request", "allowed")       # a dict of every field
    body = recorded.body("verdict_request", "allowed")          # the bytes as recorded

Real keys never stand in a recording: each is replaced by the one of that name here, and its digest with it.
"""
import base64
import hashlib

import busedge

WIRE = busedge.ROOT / "tests" / "wire"
KEYS = {name: f"wire_{name}_no_real_key_but_the_one_that_stands_in_recordings" for name in
        ("ci", "boss", "once", "disabled", "revoked", "unknown")}


def digest(key):
    return hashlib.sha256(key.encode()).digest()


def digest_text(key):
    """As the databases hold it."""
    return base64.urlsafe_b64encode(digest(key)).decode().rstrip("=")


def body(name, case):
    lines = (WIRE / f"{name}.{case}.hex").read_text().splitlines()
    return bytes.fromhex("".join(line for line in lines if not line.startswith("#")))


def load(name, case):
    return busedge.decode_body(busedge.MESSAGES[name], body(name, case), version=1)


def cases(name):
    return sorted(path.name.split(".")[1] for path in WIRE.glob(f"{name}.*.hex"))
