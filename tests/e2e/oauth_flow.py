"""What an OAuth client does: registers itself, sends its user to log in (PKCE), trades the code for tokens (RFC 6749, 7591, 7636, 8707)."""
import base64
import hashlib
import secrets
from urllib.parse import parse_qs, urlencode, urljoin, urlsplit

import requests

CALLBACK = "http://127.0.0.1:1/callback"    # nobody listens there: its query is read off the redirection


class Client:
    def __init__(self, metadata, scopes="openid"):
        """metadata: the authorization server's document."""
        self.server, self.session = metadata, requests.Session()
        answer = self.session.post(metadata["registration_endpoint"], timeout=20, json={
            "client_name": "end to end", "application_type": "native", "redirect_uris": [CALLBACK], "token_endpoint_auth_method": "none", "scope": scopes,
            "grant_types": ["authorization_code", "refresh_token"], "response_types": ["code"]})
        assert answer.status_code in (200, 201), answer.text
        self.client_id = answer.json()["client_id"]

    def log_in(self, scope, resource, **parameters):
        """The answer of the token endpoint."""
        verifier = secrets.token_urlsafe(48)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        query = {"client_id": self.client_id, "response_type": "code", "redirect_uri": CALLBACK, "scope": scope, "state": "state-1",
                 "code_challenge": challenge, "code_challenge_method": "S256", "resource": resource, **parameters}
        code = self.follow(self.server["authorization_endpoint"] + "?" + urlencode(query))
        answer = requests.post(self.server["token_endpoint"], timeout=20, data={    # no browser: no cookies
            "grant_type": "authorization_code", "code": code, "redirect_uri": CALLBACK, "client_id": self.client_id,
            "code_verifier": verifier, "resource": resource})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def follow(self, url):
        """As a browser does, until it is sent to the callback."""
        for _ in range(10):
            answer = self.session.get(url, allow_redirects=False, timeout=20)
            assert answer.status_code in (302, 303, 307), (answer.status_code, answer.text[:500])
            url = urljoin(url, answer.headers["location"])
            if url.startswith(CALLBACK):
                values = parse_qs(urlsplit(url).query)
                assert "code" in values, values
                return values["code"][0]
        raise AssertionError(f"no end of redirections: {url}")
