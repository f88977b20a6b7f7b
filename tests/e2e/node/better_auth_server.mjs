// The real Better-Auth as an application runs it: sign-up, sessions, bearer tokens and its OAuth provider, on DATABASE_URL.
// node better_auth_server.mjs PORT RESOURCE...      Whoever has a session and is asked for consent gives it.
import { createServer } from "node:http";
import { betterAuth } from "better-auth";
import { getMigrations } from "better-auth/db/migration";
import { toNodeHandler } from "better-auth/node";
import { bearer, jwt } from "better-auth/plugins";
import { oauthProvider } from "@better-auth/oauth-provider";
import pg from "pg";

const [port, ...resources] = process.argv.slice(2);
const origin = `http://127.0.0.1:${port}`;
const auth = betterAuth({
  baseURL: origin, secret: process.env.BETTER_AUTH_SECRET, trustedOrigins: [origin],
  database: new pg.Pool({ connectionString: process.env.DATABASE_URL, max: 4 }),
  emailAndPassword: { enabled: true }, telemetry: { enabled: false }, rateLimit: { enabled: false },
  logger: { disabled: !process.env.DEBUG },
  plugins: [
    bearer(),
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
