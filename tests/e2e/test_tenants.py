"""Tenants by command: made, suspended, resumed; a suspended one is refused everywhere and its streams end."""
import json
import threading

from test_streams import ended, first_event, open_stream


def test_suspending_a_tenant_refuses_it_everywhere_and_ends_its_streams(gateway):
    made = gateway.cli("tenant", "create", "e2e", "--name", "E2E", "--max-key-life", "90d", "--json")
    assert made.returncode == 0, made.stderr
    tenant = json.loads(made.stdout)["id"]
    key = gateway.make_key(scopes=["read", "proxy"], tenantId=tenant)["key"]
    assert gateway.check(key).json()["tenantId"] == tenant
    stream = open_stream(gateway, key)
    assert first_event(stream)
    done = threading.Event()
    reader = threading.Thread(target=lambda: ended(stream) and done.set())
    reader.start()
    answer = gateway.cli("tenant", "suspend", tenant, "--reason", "unpaid", "--json")
    applied = json.loads(answer.stdout)["applied"]
    assert applied["holders"] == applied["of"] >= 3
    assert all(gateway.check(key).status_code == 403 for _ in range(10))
    assert done.wait(15), "the stream still lives"
    reader.join()
    assert gateway.check(gateway.make_key(scopes=["read"])["key"]).status_code == 200      # others go on
    assert gateway.cli("tenant", "resume", tenant).returncode == 0
    assert gateway.check(key).status_code == 200
    assert "E2E" in gateway.cli("tenant", "list").stdout


def test_a_tenants_limits_are_felt_changed_and_taken_back(gateway):
    tenant = json.loads(gateway.cli("tenant", "create", "limited", "--limit", "3/1h", "--json").stdout)["id"]
    keys = [gateway.make_key(scopes=["read", "proxy"], tenantId=tenant)["key"] for _ in range(2)]
    told = [gateway.check(key) for key in (keys[0], keys[1], keys[0], keys[1])]
    assert [answer.status_code for answer in told] == [200, 200, 200, 429]
    assert told[0].headers["RateLimit-Policy"] == '"tenant";q=3;w=3600' and told[0].headers["X-RateLimit-Remaining"] == "2"
    assert told[3].json()["policy"] == "tenant" and int(told[3].headers["Retry-After"]) > 3000 and "tenant" in told[3].json()["detail"]
    assert gateway.cli("tenant", "update", tenant, "--limit", "5/1h").returncode == 0           # returns when all have applied it
    assert [gateway.check(key).status_code for key in (keys[0], keys[1], keys[0])] == [200, 200, 429]
    assert gateway.cli("tenant", "update", tenant, "--limit", "none", "--user-limit", "2/1h").returncode == 0
    told = [gateway.check(key) for key in (keys[0], keys[1], keys[0])]
    assert [answer.status_code for answer in told] == [200, 200, 429] and told[2].json()["policy"] == "user"
    assert gateway.call("POST", "/mcp/example", key=keys[0], json={}).json()["error"]["data"]["policy"] == "user"
    assert gateway.cli("tenant", "update", tenant, "--user-limit", "none").returncode == 0
    answer = gateway.check(keys[0])
    assert answer.status_code == 200 and answer.headers["RateLimit-Policy"].startswith('"api_key";q=1000')
    assert answer.headers["X-RateLimit-Remaining"] == "995"                                  # what was refused was not spent
    assert gateway.cli("tenant", "update", tenant, "--limit", "many").returncode == 2
    assert gateway.cli("tenant", "update", "user:admin", "--limit", "1/1h").returncode == 1


def test_a_users_own_tenant_is_named_with_its_colon(gateway):
    assert gateway.cli("tenant", "create", "somebody", "--id", "user:somebody").returncode == 0
    assert gateway.call("GET", "/api/v1/tenants/user:somebody").json()["slug"] == "somebody"
    assert gateway.cli("tenant", "show", "user:somebody").returncode == 0
    assert gateway.cli("tenant", "delete", "user:somebody", "--yes").returncode == 0
    assert gateway.call("GET", "/api/v1/tenants/user:somebody").status_code == 404


def test_a_file_of_keys_is_imported_whole_or_not_at_all(gateway, tmp_path):
    old = ["legacy_" + letter * 50 for letter in "abc"]
    good = 'key,userId,scopes,name,enabled,rateLimit,metadata\n'
    good += f'{old[0]},admin,read proxy,"first, quoted",,100/1h,"{{""a"": 1}}"\r\n' + f'{old[1]},admin,read,,false,,\n'
    file = tmp_path / "keys.csv"
    file.write_text(good + f"{old[2]},nobody,read,,,,\n")
    refused = gateway.cli("key", "import", file)
    assert refused.returncode == 1 and "row 3: refused: userId" in refused.stdout and "nothing was" in refused.stderr
    assert gateway.check(old[0]).status_code == 401
    file.write_text(good)
    assert gateway.cli("key", "import", file, "--dry-run").stdout.count("ready") == 2
    done = gateway.cli("key", "import", file, "--json")
    assert done.returncode == 0, done.stderr
    ids = [json.loads(line)["id"] for line in done.stdout.splitlines()]
    assert (gateway.check(old[0]).status_code, gateway.check(old[1]).status_code) == (200, 401)
    assert gateway.call("GET", f"/api/v1/keys/{ids[0]}").json()["name"] == "first, quoted"
    lines = "\n".join(json.dumps({"key": old[2], "userId": "admin", "scopes": ["read"]}) for _ in range(1))
    assert gateway.cli("key", "import", "-", input=lines).returncode == 0
    assert gateway.cli("key", "import", "-", input=lines).returncode == 1      # it is there already
    new = json.dumps({"key": "legacy_" + "d" * 50, "userId": "admin", "scopes": ["read"]})
    skipped = gateway.cli("key", "import", "-", "--skip-known", input=f"{lines}\n{new}")
    assert (skipped.returncode, skipped.stderr) == (0, "1 keys are there already\n1 keys imported\n") and "row 2: imported" in skipped.stdout
    assert gateway.check(old[2]).status_code == 200
    shown = gateway.cli("key", "bulk", "revoke", *ids, "--dry-run", "--json")
    assert sorted(json.loads(shown.stdout)["ids"]) == sorted(ids)
    assert gateway.cli("key", "bulk", "revoke", *ids, "--yes").returncode == 0
    assert gateway.check(old[0]).status_code == 401


def test_the_management_api_describes_itself(gateway):
    answer = gateway.call("GET", "/openapi.json", key="")
    assert answer.status_code == 200 and answer.json()["openapi"] == "3.1.0" and "/api/v1/tenants/{id}" in answer.json()["paths"]
    user = "admin"
    assert gateway.call("GET", f"/api/v1/users/{user}").json()["suspended"] is False
    assert gateway.call("GET", f"/api/v1/users/{user}/sessions").json()["items"] == []
    assert user in [item["id"] for item in gateway.call("GET", "/api/v1/users").json()["items"]]
    assert gateway.call("POST", "/api/v1/users/nobody/suspend").json()["code"] == "not_found"
    assert gateway.cli("user", "list", "--tenant", "user:admin").returncode == 0
