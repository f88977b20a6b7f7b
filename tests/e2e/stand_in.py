"""Microsoft, GitHub and Google on loopback, as far as a sign-in and the checks of their access tokens go.

Better-Auth is told of Microsoft's address (`authority`); of the others it knows only the public one, so its process sends
requests for a host to /<host>/... here (better_auth_server.mjs).  An authorization code is the name of who signs in.
"""
import http.server
import json
import secrets
import threading
import time
from urllib.parse import parse_qs, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

DIRECTORY = "7f0c2b3e-1111-2222-3333-444455556666"
CLIENTS = {"microsoft": "0b5d4c6a-1111-2222-3333-444455556666", "github": "Iv1.0123456789abcdef", "google": "1234-abc.apps.googleusercontent.com"}
SECRET = "client-secret-of-the-tests"


class Providers(http.server.ThreadingHTTPServer):
    """`tokens`: access tokens that were given out, and the client and person of each."""
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.key, self.tokens, self.serials = rsa.generate_private_key(65537, 2048), {}, {}
        self.thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def serial(self, person):
        """GitHub's number of somebody."""
        return self.serials.setdefault(person, 583231 + len(self.serials))

    def sign(self, **claims):
        now = int(time.time())
        return jwt.encode({"iat": now, "nbf": now, "exp": now + 3600, **claims}, self.key, "RS256", headers={"kid": "ms-1", "typ": "JWT"})

    def entra_token(self, person, audience=None, **claims):
        """An access token of Microsoft; a claim that is None is left out."""
        claims = {"scp": "mcp:proxy", **claims}
        return self.sign(iss=f"{self.url}/{DIRECTORY}/v2.0", aud=audience or CLIENTS["microsoft"], tid=DIRECTORY, oid=f"oid-{person}",
                         sub=f"pairwise-{person}", ver="2.0", azp=CLIENTS["microsoft"],
                         **{name: value for name, value in claims.items() if value is not None})

    def opaque_token(self, prefix, person, client):
        token = prefix + secrets.token_urlsafe(24)
        self.tokens[token] = client, person
        return token


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def say(self, answer, status=200):
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        server, path = self.server, urlsplit(self.path).path
        if path == f"/api.github.com/applications/{CLIENTS['github']}/token":
            self.say_github(json.loads(body)["access_token"])
            return
        form = {name: values[0] for name, values in parse_qs(body).items()}
        person = form.get("code")
        names = {"email": f"{person}@example.com", "name": person}
        if path == "/github.com/login/oauth/access_token":
            self.say({"access_token": server.opaque_token("gho_", person, CLIENTS["github"]), "token_type": "bearer", "scope": "read:user,user:email"})
        elif path == "/oauth2.googleapis.com/token":
            identity = server.sign(iss="https://accounts.google.com", aud=CLIENTS["google"], sub=f"google-{person}", email_verified=True, **names)
            self.say({"access_token": server.opaque_token("ya29.", person, CLIENTS["google"]), "token_type": "Bearer", "expires_in": 3599, "id_token": identity})
        elif path == f"/{DIRECTORY}/oauth2/v2.0/token":
            identity = server.sign(iss=f"{server.url}/{DIRECTORY}/v2.0", aud=CLIENTS["microsoft"], tid=DIRECTORY, oid=f"oid-{person}",
                                   sub=f"login-{person}", ver="2.0", **names)
            self.say({"access_token": server.entra_token(person), "token_type": "Bearer", "expires_in": 3599, "id_token": identity})
        else:
            self.say({"message": "Not Found"}, 404)

    def say_github(self, token):
        """POST /applications/{client_id}/token: only its owner may ask, and of its own tokens."""
        client, person = self.server.tokens.get(token, (None, None))
        if not self.headers.get("Authorization", "").startswith("Basic ") or client is None:
            self.say({"message": "Not Found"}, 404)
            return
        self.say({"token": token, "app": {"client_id": client, "name": "app"}, "scopes": ["read:user"], "expires_at": None,
                  "user": {"id": self.server.serial(person), "login": person}})

    def do_GET(self):
        server, parts = self.server, urlsplit(self.path)
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        person = server.tokens.get(token, (None, None))[1]
        if parts.path == "/api.github.com/user" and person:
            self.say({"id": server.serial(person), "login": person, "name": person, "email": None, "avatar_url": ""})
        elif parts.path == "/api.github.com/user/emails" and person:
            self.say([{"email": f"{person}@example.com", "primary": True, "verified": True}])
        elif parts.path == "/oauth2.googleapis.com/tokeninfo":
            self.say_google(parse_qs(parts.query).get("access_token", [""])[0])
        elif parts.path == f"/{DIRECTORY}/discovery/v2.0/keys":
            key = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(server.key.public_key()))
            self.say({"keys": [{**key, "kid": "ms-1", "use": "sig", "issuer": f"{server.url}/{DIRECTORY}/v2.0"}]})
        else:
            self.say({"message": "Not Found"}, 404)

    def say_google(self, token):
        client, person = self.server.tokens.get(token, (None, None))
        if client is None:
            self.say({"error": "invalid_token", "error_description": "Invalid Value"}, 400)
            return
        self.say({"azp": client, "aud": client, "sub": f"google-{person}", "scope": "openid email", "exp": str(int(time.time()) + 3000),
                  "expires_in": "3000", "email": f"{person}@example.com", "email_verified": "true", "access_type": "online"})

    def log_message(self, *_):
        pass
