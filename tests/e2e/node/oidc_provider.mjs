// A real OpenID provider on loopback: dynamic registration, PKCE, resource indicators, JWT access tokens (RFC 9068).
// node oidc_provider.mjs PORT        Whoever is sent to it is logged in as login_hint (or "alice") and grants everything.
// A resource that ends in ?opaque gets opaque tokens; POST /test/rotate puts a new signing key first.
import { generateKeyPairSync } from "node:crypto";
import { createServer } from "node:http";
import Provider from "oidc-provider";

const port = Number(process.argv[2]);
const issuer = `http://127.0.0.1:${port}`;
let serial = 0;
const makeKey = () => {
  serial += 1;
  const jwk = generateKeyPairSync("ec", { namedCurve: "P-256" }).privateKey.export({ format: "jwk" });
  return { ...jwk, kid: `key-${serial}`, alg: "ES256", use: "sig" };
};
const keys = [makeKey()];

const makeProvider = () => {
  const provider = new Provider(issuer, {
    jwks: { keys },
    scopes: ["openid", "offline_access", "read", "write", "proxy", "admin"],
    features: {
      devInteractions: { enabled: false },
      registration: { enabled: true },
      introspection: { enabled: true },
      revocation: { enabled: true },
      clientCredentials: { enabled: true },
      resourceIndicators: {
        enabled: true,
        useGrantedResource: async () => true,
        getResourceServerInfo: async (ctx, resource) => ({
          scope: "read write proxy admin", audience: resource.replace("?opaque", ""), accessTokenTTL: 300,
          accessTokenFormat: resource.endsWith("?opaque") ? "opaque" : "jwt", jwt: { sign: { alg: "ES256" } },
        }),
      },
    },
    clientDefaults: { id_token_signed_response_alg: "ES256" },
    enabledJWA: { idTokenSigningAlgValues: ["ES256"] },
    clients: [{ client_id: "gateway", client_secret: "gateway-secret-of-the-tests", redirect_uris: [], response_types: [], grant_types: [] }],
    findAccount: async (ctx, id) => ({ accountId: id, claims: async () => ({ sub: id }) }),
    interactions: { url: async (ctx, interaction) => `/interaction/${interaction.uid}` },
    cookies: { keys: ["for tests on loopback only"] },
  });
  provider.on("server_error", (ctx, error) => console.error(error));
  return provider;
};
let provider = makeProvider();
let callback = provider.callback();

async function interact(request, response) {
  const { prompt, params, session, grantId } = await provider.interactionDetails(request, response);
  if (prompt.name === "login") {
    return provider.interactionFinished(request, response, { login: { accountId: params.login_hint ?? "alice" } });
  }
  const grant = grantId ? await provider.Grant.find(grantId)
    : new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
  const { missingOIDCScope, missingResourceScopes } = prompt.details;
  if (missingOIDCScope) grant.addOIDCScope(missingOIDCScope.join(" "));
  for (const [resource, scopes] of Object.entries(missingResourceScopes ?? {})) grant.addResourceScope(resource, scopes.join(" "));
  return provider.interactionFinished(request, response, { consent: { grantId: await grant.save() } }, { mergeWithLastSubmission: true });
}

createServer(async (request, response) => {
  try {
    if (request.url.startsWith("/interaction/")) return await interact(request, response);
    if (request.method === "POST" && request.url === "/test/rotate") {
      keys.unshift(makeKey());
      provider = makeProvider();
      callback = provider.callback();
      return response.end(keys[0].kid);
    }
    return await callback(request, response);
  } catch (error) {
    console.error(error);
    response.statusCode = 500;
    return response.end(String(error));
  }
}).listen(port, "127.0.0.1", () => console.log(JSON.stringify({ issuer })));
