"""A FastMCP server that authenticates, as docs/migrating-fastmcp.md shows it: fastmcp_server.py PORT ISSUER|SECRET AUDIENCE"""
import sys

from fastmcp import FastMCP
from fastmcp.server.auth.providers.jwt import JWTVerifier
from fastmcp.server.dependencies import get_access_token

port, trusts, audience = sys.argv[1:]
if trusts.startswith("http"):       # the gateway says who calls
    verifier = JWTVerifier(jwks_uri=f"{trusts}/.well-known/jwks.json", issuer=trusts, audience=audience, required_scopes=["proxy"])
else:                               # as servers that make tokens themselves (OAuthProxy, AzureProvider)
    verifier = JWTVerifier(public_key=trusts, algorithm="HS256", audience=audience)
server = FastMCP("fast", auth=verifier)


@server.tool
def whoami() -> dict:
    token = get_access_token()
    return {"client": token.client_id, "scopes": token.scopes, "claims": token.claims}


server.run(transport="http", host="127.0.0.1", port=int(port), path="/mcp", show_banner=False)
