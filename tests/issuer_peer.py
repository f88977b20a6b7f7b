"""A token issuer on loopback: discovery document, key set and signed tokens, honest or as bad as a test wants it.

    with Issuer(tls=(certificate, key)) as issuer:
        issuer.keys_answer = issuer.HUGE
        token = issuer.token(aud="https://gw.example/mcp/a", scope="proxy")
"""
import base64
import datetime
import http.server
import ipaddress
import json
import ssl
import threading
import time

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Key:
    """P-256, for ES256."""

    def __init__(self, kid):
        self.kid, self.private = kid, ec.generate_private_key(ec.SECP256R1())

    def jwk(self, **more):
        numbers = self.private.public_key().public_numbers()
        return {"kty": "EC", "crv": "P-256", "kid": self.kid, "alg": "ES256", "use": "sig",
                "x": base64url(numbers.x.to_bytes(32, "big")), "y": base64url(numbers.y.to_bytes(32, "big")), **more}

    def sign(self, claims, **header):
        head = {"alg": "ES256", "typ": "at+jwt", "kid": self.kid, **header}
        signed = ".".join(base64url(json.dumps(part).encode()) for part in (head, claims))
        r, s = decode_dss_signature(self.private.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{signed}.{base64url(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


class Authority:
    """A throw-away certificate authority in `directory`; `ca_file` is its certificate."""

    def __init__(self, directory):
        self.directory, self.ca_file = directory, directory / "ca.pem"
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "throw-away CA")])
        self.ca_file.write_bytes(self.certify(self.key.public_key(), self.name, ca=True).public_bytes(serialization.Encoding.PEM))
        self.ca_file.chmod(0o644)

    def certify(self, public_key, name, ca=False, alternative=None):
        now = datetime.datetime.utcnow()
        builder = (x509.CertificateBuilder().subject_name(name).issuer_name(self.name).public_key(public_key)
                   .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(minutes=5))
                   .not_valid_after(now + datetime.timedelta(hours=1))
                   .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True))
        if alternative is not None:
            builder = builder.add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
        return builder.sign(self.key, hashes.SHA256())

    def server(self, name="127.0.0.1"):
        """(certificate, key) files of a server called so."""
        key = ec.generate_private_key(ec.SECP256R1())
        is_address = name[0].isdigit()
        alternative = x509.IPAddress(ipaddress.ip_address(name)) if is_address else x509.DNSName(name)
        certificate = self.certify(key.public_key(), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), alternative=alternative)
        paths = self.directory / f"{name}.crt", self.directory / f"{name}.key"
        paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        paths[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
        return paths


class Issuer:
    """Answers on 127.0.0.1.  `asked` counts requests by path; *_answer replaces an answer by a function of the handler."""

    def __init__(self, tls=None, path=""):
        self.asked, self.lock = {}, threading.Lock()
        self.keys, self.lifetime = [Key("key-1")], None
        self.document_path = f"{path}/.well-known/openid-configuration"
        self.says = None                  # `issuer` of the discovery document, if it lies
        self.keys_answer = self.document_answer = None
        self.stopping = threading.Event()
        issuer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                issuer.answer(self)

            def log_message(self, *arguments):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.origin = f"{'https' if tls else 'http'}://127.0.0.1:{self.server.server_address[1]}"
        self.url = self.origin + path
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *error):
        self.stopping.set()
        self.server.shutdown()
        self.server.server_close()

    def key_requests(self):
        with self.lock:
            return self.asked.get("/jwks", 0)

    def answer(self, handler):
        with self.lock:
            self.asked[handler.path] = self.asked.get(handler.path, 0) + 1
        if handler.path == self.document_path and self.document_answer:
            self.document_answer(self, handler)
        elif handler.path == self.document_path:
            self.say(handler, json.dumps({"issuer": self.says or self.url, "jwks_uri": f"{self.origin}/jwks"}))
        elif handler.path == "/jwks" and self.keys_answer:
            self.keys_answer(self, handler)
        elif handler.path == "/jwks":
            self.say(handler, json.dumps({"keys": [key.jwk() for key in self.keys]}))
        else:
            self.say(handler, "{}", 404)

    def say(self, handler, text, status=200, type="application/json", **fields):
        body = text.encode()
        handler.send_response(status)
        handler.send_header("Content-Type", type)
        handler.send_header("Content-Length", str(len(body)))
        for name, value in fields.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    # What goes wrong: values of keys_answer and document_answer.

    def ERROR(self, handler):
        self.say(handler, "{}", 500)

    def PAGE(self, handler):
        self.say(handler, "<html>please sign in</html>", type="text/html")

    def HUGE(self, handler):
        self.say(handler, json.dumps({"keys": [self.keys[0].jwk()], "x": "x" * 2_000_000}))

    def EMPTY(self, handler):
        self.say(handler, '{"keys":[]}')

    def PRIVATE(self, handler):
        self.say(handler, json.dumps({"keys": [self.keys[0].jwk(d=base64url(b"\1" * 32))]}))

    def REDIRECT(self, handler):
        self.say(handler, "", 302, Location=f"{self.origin}/elsewhere")

    def TRUNCATED(self, handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b'{"keys":[')
        handler.close_connection = True

    def SLOW(self, handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b"{")
        handler.wfile.flush()
        self.stopping.wait(30)
        handler.close_connection = True

    def TRICKLE(self, handler):
        """A byte now and then: never silent for long, never done."""
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        try:
            while not self.stopping.wait(0.05):
                handler.wfile.write(b" ")
                handler.wfile.flush()
        except OSError:
            pass
        handler.close_connection = True

    def ENDLESS(self, handler):
        """Says no length, and never stops."""
        handler.send_response(200)
        handler.send_header("Connection", "close")
        handler.end_headers()
        try:
            handler.wfile.write(b'{"keys":[')
            while not self.stopping.is_set():
                handler.wfile.write(b" " * 65536)
        except OSError:
            pass
        handler.close_connection = True

    def DEAD(self, handler):
        """The connection ends without an answer."""
        handler.close_connection = True

    def token(self, key=None, lifetime=300, header=None, **claims):
        now = int(time.time())
        return (key or self.keys[0]).sign({"iss": self.url, "sub": "someone", "client_id": "client", "iat": now, "exp": now + lifetime,
                                           **claims}, **(header or {}))
