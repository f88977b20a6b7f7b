// An application's own Better-Auth, kept running: node better_auth_shell.mjs AUTH.ts   One JSON line {call, ...arguments} in, one out.
// `auth` and `options` are what AUTH.ts exports; its tables are made first.
import { createInterface } from "node:readline";
import { getMigrations } from "better-auth/db/migration";

const { auth, options } = await import(process.argv[2]);
const { runMigrations } = await getMigrations(options);
await runMigrations();
console.log("{}");
for await (const line of createInterface({ input: process.stdin })) {
  const { call, ...given } = JSON.parse(line);
  try {
    if (given.headers) given.headers = new Headers(given.headers);
    const answer = await auth.api[call]({ ...given, returnHeaders: true });
    const cookie = answer.headers.getSetCookie().map((text) => text.split(";")[0]).join("; ");
    console.log(JSON.stringify(cookie ? { ...answer.response, cookie } : answer.response));
  } catch (error) {
    console.log(JSON.stringify({ error: error.body?.code ?? error.message }));
  }
}
process.exit(0);
