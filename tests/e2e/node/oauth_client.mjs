// The official MCP SDK client with nothing but a URL: discovers, registers, logs in with PKCE, calls a tool; prints JSON.
// node oauth_client.mjs URL [SCOPE]        SCOPE: what it logged in for before, so that it must step up
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { auth, discoverAuthorizationServerMetadata, discoverOAuthProtectedResourceMetadata, registerClient, UnauthorizedError } from "@modelcontextprotocol/sdk/client/auth.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

const [url, scope] = process.argv.slice(2);
const callback = "http://127.0.0.1:1/callback"; // nobody listens: its query is read off the redirection
const asked = [];
let code, tokens, information, verifier;

// As a browser does: follows redirections with cookies, until it is sent to the callback.
async function browse(start) {
  const cookies = new Map();
  let next = start.href;
  for (let hop = 0; hop < 10; hop += 1) {
    const answer = await fetch(next, { redirect: "manual", headers: { cookie: [...cookies].map(([k, v]) => `${k}=${v}`).join("; ") } });
    for (const line of answer.headers.getSetCookie()) {
      const [name, value] = line.split(";")[0].split("=", 2);
      cookies.set(name, value);
    }
    if (answer.status < 300 || answer.status > 399) throw new Error(`${next}: ${answer.status} ${await answer.text()}`);
    next = new URL(answer.headers.get("location"), next).href;
    if (next.startsWith(callback)) return new URL(next).searchParams.get("code");
  }
  throw new Error("no end of redirections");
}

const provider = {
  redirectUrl: callback,
  clientMetadata: {
    client_name: "mcpgw-e2e", redirect_uris: [callback], token_endpoint_auth_method: "none",
    grant_types: ["authorization_code", "refresh_token"], response_types: ["code"], ...(scope ? { scope: `${scope} proxy` } : {}),
  },
  clientInformation: () => information,
  saveClientInformation: (made) => { information = made; },
  tokens: () => tokens,
  saveTokens: (got) => { tokens = got; },
  saveCodeVerifier: (text) => { verifier = text; },
  codeVerifier: () => verifier,
  redirectToAuthorization: async (address) => {
    asked.push(Object.fromEntries(["scope", "resource", "code_challenge_method"].map((name) => [name, address.searchParams.get(name)])));
    code = await browse(address);
  },
};

async function connect() {
  const transport = new StreamableHTTPClientTransport(new URL(url), { authProvider: provider });
  const client = new Client({ name: "mcpgw-e2e", version: "1.0.0" });
  try {
    await client.connect(transport);
    return client;
  } catch (error) {
    if (!(error instanceof UnauthorizedError) || asked.length > 2) throw error;
    await transport.finishAuth(code);
    return connect();
  }
}

let before;
try {
  if (scope) { // registered for both: with one registration per scope it would not be the same client that steps up
    const [issuer] = (await discoverOAuthProtectedResourceMetadata(url)).authorization_servers;
    const metadata = await discoverAuthorizationServerMetadata(issuer);
    information = await registerClient(issuer, { metadata, clientMetadata: provider.clientMetadata });
    await auth(provider, { serverUrl: url, scope });
    await auth(provider, { serverUrl: url, authorizationCode: code });
    before = tokens.scope;
  }
  const client = await connect();
  const who = await client.callTool({ name: "whoami", arguments: {} });
  console.log(JSON.stringify({ asked, before, granted: tokens.scope, who: JSON.parse(who.content[0].text) }));
  await client.close();
} catch (error) {
  console.log(JSON.stringify({ asked, error: `${error.name}: ${error.message}` }));
  process.exitCode = 1;
}
