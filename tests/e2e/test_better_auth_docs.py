"""The auth.ts of docs/better-auth.md starts beside the gateway, and its keys open it."""
import json
import os
import re
import subprocess
from pathlib import Path

from conftest import ROOT
from peers import node

RUN = """
import { getMigrations } from "better-auth/db/migration";
const { auth, options } = await import("./docs_auth.ts");
const { runMigrations } = await getMigrations(options);
await runMigrations();
const { user } = await auth.api.signUpEmail({ body: { email: "docs@example.com", name: "Docs", password: "correct-horse-battery" } });
const key = await auth.api.createApiKey({ body: { userId: user.id, name: "docs" } });
const verified = await auth.api.verifyApiKey({ body: { key: key.key } });
console.log(JSON.stringify({ user: user.id, key: key.key, valid: verified.valid }));
await options.database.end();
"""


def test_the_documented_application_starts_beside_the_gateway(gateway):
    program, folder = node()
    text = re.search(r"```ts\n(.*?)```", (ROOT / "docs" / "better-auth.md").read_text(), re.S).group(1)
    files = [Path(folder) / "docs_auth.ts", Path(folder) / "docs_auth_run.mjs"]
    try:
        for file, content in zip(files, (text, RUN)):
            file.write_text(content)
        done = subprocess.run([program, "docs_auth_run.mjs"], cwd=folder, text=True, timeout=60, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              env=dict(os.environ, DATABASE_URL=gateway.env["MCPGW_DATABASE_URL"], BETTER_AUTH_SECRET="end-to-end-tests-only-not-a-secret-of-anyone"))
    finally:
        for file in files:
            file.unlink(missing_ok=True)
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout.splitlines()[-1])
    assert made["valid"] and made["key"].startswith("mcp_")
    answer = gateway.check(made["key"], "?scope=proxy")
    assert answer.status_code == 200 and answer.json()["userId"] == made["user"]
    assert gateway.cli("doctor").returncode in (0, 1)
