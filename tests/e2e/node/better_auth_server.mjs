// The real Better-Auth as an application runs it: sign-up, sessions, second factors, social login, bearer tokens and its OAuth
// provider, on DATABASE_URL.
// node better_auth_server.mjs PORT RESOURCE...      Whoever has a session and is asked for consent gives it.
// PROVIDERS: {url, directory, secret, clients} of the stand-ins for Microsoft, GitHub and Google (stand_in.py).
import { createServer } from "node:http";
import { betterAuth } from "better-auth";
import { getMigrations } from "better-auth/db/migration";
import { toNodeHandler } from "better-auth/node";
import { admin, bearer, jwt, twoFactor } from "better-auth/plugins";
import { oauthProvider } from "@better-auth/oauth-provider";
import pg from "pg";

const [port, ...resources] = process.argv.slice(2);
const origin = `http://127.0.0.1:${port}`;
const providers = JSON.parse(process.env.PROVIDERS);

// Only Microsoft's address is an option; those that stand in Better-Auth's code lead to the stand-ins, and none outside.
const fetchReal = globalThis.fetch;
globalThis.fetch = (input, init) => {
  const url = new URL(input instanceof Request ? input.url : input);
  return fetchReal(url.hostname === "127.0.0.1" ? input : `${providers.url}/${url.hostname}${url.pathname}${url.search}`, init);
};
const client = (name, more) => ({ clientId: providers.clients[name], clientSecret: providers.secret, ...more });
const auth = betterAuth({
  baseURL: origin, secret: process.env.BETTER_AUTH_SECRET, trustedOrigins: [origin],
  database: new pg.Pool({ connectionString: process.env.DATABASE_URL, max: 4 }),
  emailAndPassword: { enabled: true },
  socialProviders: {
    microsoft: client("microsoft", {
      authority: providers.url, tenantId: providers.directory, disableDefaultScope: true, disableProfilePhoto: true,
      scope: ["openid", "profile", "email", `api://${providers.clients.microsoft}/mcp:proxy`],
    }),
    github: client("github"), google: client("google"),
  },
  telemetry: { enabled: false }, rateLimit: { enabled: false },
  logger: { disabled: !process.env.DEBUG },
  plugins: [
    bearer(), admin(), twoFactor({ issuer: "end to end" }),
    jwt({ disableSettingJwtHeader: true }),
    oauthProvider({
      loginPage: "/login", consentPage: "/consent", scopes: ["openid", "offline_access", "read", "write", "proxy"], resources,
      enforcePerClientResources: false, allowDynamicClientRegistration: true, allowUnauthenticatedClientRegistration: true,
    }),
  ],
});
const { runMigrations } = await getMigrations(auth.options);
await runMigrations();
const handle = toNodeHandler(auth);

async function consent(request, response) {
  const answer = await auth.handler(new Request(`${origin}/api/auth/oauth2/consent`, {
    method: "POST", headers: { "content-type": "application/json", cookie: request.headers.cookie ?? "", origin },
    body: JSON.stringify({ accept: true, oauth_query: request.url.split("?")[1] }),
  }));
  const said = await answer.json();
  if (!said.url) { response.statusCode = 500; response.end(JSON.stringify(said)); return; }
  response.writeHead(302, { location: said.url }).end();
}

createServer((request, response) => {
  if (request.url.startsWith("/consent")) consent(request, response).catch((error) => response.writeHead(500).end(String(error)));
  else if (request.url.startsWith("/api/auth/") || request.url.startsWith("/.well-known/")) handle(request, response);
  else response.writeHead(404).end(request.url);
}).listen(Number(port), "127.0.0.1", () => console.log(JSON.stringify({ issuer: `${origin}/api/auth` })));
