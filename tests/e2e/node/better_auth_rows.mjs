// The real plugin as a judge: one JSON line {key, permissions?} in, one line {valid, code} out, in order.
import { createInterface } from "node:readline";
import { betterAuth } from "better-auth";
import { apiKey } from "@better-auth/api-key";
import pg from "pg";

const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL, max: 16 });
const auth = betterAuth({
  baseURL: "http://127.0.0.1:3000", secret: "end-to-end-tests-only-not-a-secret-of-anyone", database: pool,
  emailAndPassword: { enabled: true }, telemetry: { enabled: false }, logger: { disabled: !process.env.DEBUG },
  plugins: [apiKey({ enableMetadata: true })],
});
const judge = async (question) => {
  try {
    const answer = await auth.api.verifyApiKey({ body: question });
    return { valid: answer.valid, code: answer.error?.code ?? null };
  } catch (error) {
    return { valid: false, code: error.message };
  }
};
let waiting = [];
for await (const line of createInterface({ input: process.stdin })) {
  waiting.push(judge(JSON.parse(line)));
  if (waiting.length < 64) continue;
  for (const answer of await Promise.all(waiting)) console.log(JSON.stringify(answer));
  waiting = [];
}
for (const answer of await Promise.all(waiting)) console.log(JSON.stringify(answer));
await pool.end();
