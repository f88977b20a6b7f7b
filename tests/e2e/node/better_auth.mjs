// The real Better-Auth API key plugin on DATABASE_URL.  node better_auth.mjs create JSON | verify KEY [JSON]
import { betterAuth } from "better-auth";
import { apiKey } from "@better-auth/api-key";
import pg from "pg";

const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL, max: 2 });
const auth = betterAuth({
  baseURL: "http://127.0.0.1:3000", secret: "end-to-end-tests-only-not-a-secret-of-anyone", database: pool,
  emailAndPassword: { enabled: true }, telemetry: { enabled: false }, logger: { disabled: !process.env.DEBUG },
  plugins: [apiKey({ enableMetadata: true })],
});
const [action, first, second] = process.argv.slice(2);
try {
  if (action === "create") {
    const email = `${Math.random().toString(36).slice(2)}@example.com`;
    const { user } = await auth.api.signUpEmail({ body: { email, name: "Interop", password: "correct-horse-battery" } });
    const key = await auth.api.createApiKey({ body: { userId: user.id, ...JSON.parse(first ?? "{}") } });
    console.log(JSON.stringify({ user, key }));
  } else {
    console.log(JSON.stringify(await auth.api.verifyApiKey({ body: { key: first, ...JSON.parse(second ?? "{}") } })));
  }
} catch (error) {
  console.log(JSON.stringify({ error: { message: error.message, body: error.body ?? null } }));
  process.exitCode = 2;
} finally {
  await pool.end();
}
