"""Tokens for tests: keys, key sets, good tokens and forged ones.  Needs python3-jwt and python3-cryptography."""
import base64
import hashlib
import hmac
import json
import time

import pytest

jwt = pytest.importorskip("jwt")
pytest.importorskip("cryptography")
from cryptography.hazmat.primitives import hashes, serialization                       # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils  # noqa: E402

ISSUER, AUDIENCE = "https://idp.example/realm", "https://gw.example/mcp/a"


def b64(data):
    if isinstance(data, dict):
        data = json.dumps(data, separators=(",", ":"))
    if isinstance(data, str):
        data = data.encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def number(value, size=None):
    return b64(value.to_bytes(size or (value.bit_length() + 7) // 8, "big"))


class Key:
    """One private key; `sign(claims)` makes a token, `jwk()` what its issuer publishes."""

    def __init__(self, kid, algorithm, bits=2048, exponent=65537):
        self.kid, self.algorithm = kid, algorithm
        if algorithm[:2] in ("RS", "PS"):
            self.private = rsa.generate_private_key(exponent, bits)
        elif algorithm[:2] == "ES":
            self.private = ec.generate_private_key({"ES256": ec.SECP256R1, "ES384": ec.SECP384R1}[algorithm]())
        else:
            self.private = ed25519.Ed25519PrivateKey.generate()

    def public(self, encoding=serialization.Encoding.PEM):
        return self.private.public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)

    def jwk(self, **more):
        public = self.private.public_key()
        if self.algorithm[:2] in ("RS", "PS"):
            n = public.public_numbers()
            members = {"kty": "RSA", "n": number(n.n), "e": number(n.e)}
        elif self.algorithm[:2] == "ES":
            n, size = public.public_numbers(), (public.curve.key_size + 7) // 8
            members = {"kty": "EC", "crv": {32: "P-256", 48: "P-384"}[size], "x": number(n.x, size), "y": number(n.y, size)}
        else:
            raw = public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
            members = {"kty": "OKP", "crv": "Ed25519", "x": b64(raw)}
        return {**members, "kid": self.kid, "use": "sig", **more}

    def sign(self, claims=None, algorithm=None, header=(), **changes):
        return jwt.encode(claims_of(claims, **changes), self.private, algorithm=algorithm or self.algorithm,
                          headers=header_of(self.kid, header))

    def sign_text(self, header, payload):
        """A token of exactly these bytes."""
        text = f"{b64(header)}.{b64(payload)}"
        return f"{text}.{b64(self.signature(text.encode()))}"

    def signature(self, data):
        if self.algorithm[:2] == "RS":
            return self.private.sign(data, padding.PKCS1v15(), hashes.SHA256())
        if self.algorithm[:2] == "PS":
            return self.private.sign(data, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())
        if self.algorithm == "ES256":
            r, s = utils.decode_dss_signature(self.private.sign(data, ec.ECDSA(hashes.SHA256())))
            return r.to_bytes(32, "big") + s.to_bytes(32, "big")
        return self.private.sign(data)


def header_of(kid, more=()):
    header = {"typ": "at+jwt", "kid": kid, **dict(more)}
    return {name: value for name, value in header.items() if value is not None}


def claims_of(claims=None, **changes):
    """Those of a good token; a claim changed to None is left out."""
    now = int(time.time())
    made = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "client_id": "cli", "iat": now, "exp": now + 600, "jti": "j1",
            "scope": "read proxy", **(claims or {}), **changes}
    return {name: value for name, value in made.items() if value is not None}


def hs256(secret, header, claims):
    text = f"{b64(header)}.{b64(claims)}"
    return f"{text}.{b64(hmac.new(secret, text.encode(), hashlib.sha256).digest())}"


def with_signature(token, signature):
    return ".".join(token.split(".")[:2] + [b64(signature)])


P256_N = 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551
ED25519_L = 2**252 + 27742317777372353535851937790883648493


def malleated(token):
    """The same ES256 signature as (r, n-s)."""
    raw = unb64(token.split(".")[2])
    s = int.from_bytes(raw[32:], "big")
    return with_signature(token, raw[:32] + (P256_N - s).to_bytes(32, "big"))


def session_cookie(secret, token):
    """As Better-Auth signs it, before encodeURIComponent."""
    mac = base64.b64encode(hmac.new(secret.encode(), token.encode(), hashlib.sha256).digest()).decode()
    return f"{token}.{mac}"
