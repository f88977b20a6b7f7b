// How many keys a second the real plugin verifies in this process: node better_auth_bench.mjs CONCURRENCY   One JSON line
// {seconds, keys} in, one line {verified, refused, seconds} out; nothing is done in between.
import { createInterface } from "node:readline";
import { betterAuth } from "better-auth";
import { apiKey } from "@better-auth/api-key";
import pg from "pg";

const concurrency = Number(process.argv[2]);
const auth = betterAuth({
  baseURL: "http://127.0.0.1:3000", secret: "benchmarks-only-not-a-secret-of-anyone-at-all",
  database: new pg.Pool({ connectionString: process.env.DATABASE_URL, max: 16 }),
  emailAndPassword: { enabled: true }, telemetry: { enabled: false }, logger: { disabled: true },
  plugins: [apiKey({ enableMetadata: true, rateLimit: { enabled: false } })],
});
for await (const line of createInterface({ input: process.stdin })) {
  const { seconds, keys } = JSON.parse(line);
  const started = performance.now();
  let verified = 0, refused = 0, next = 0;
  const work = async () => {
    while (performance.now() - started < seconds * 1000) {
      const { valid } = await auth.api.verifyApiKey({ body: { key: keys[next++ % keys.length] } });
      if (valid) verified++; else refused++;
    }
  };
  await Promise.all(Array.from({ length: concurrency }, work));
  console.log(JSON.stringify({ verified, refused, seconds: (performance.now() - started) / 1000 }));
}
process.exit(0);
