"""What Better-Auth keeps of a key in Redis goes when the key changes: before the answer, or later when Redis was away."""
import pytest

from conftest import wait_until
from test_keys import ADMIN, ALICE, Api, add_user, digest_of

PREFIX = "better-auth:api-key:"


@pytest.fixture
def worker(database, redis_server, edge, service):
    for user in ("admin", "alice", "bob"):
        add_user(database, user)

    def start(**settings):
        return service("keys", MCPGW_DATABASE_URL=database.url("mcpgw_keys"), MCPGW_BETTER_AUTH_REDIS_URL=redis_server.url,
                       MCPGW_LEASE_MS="150", MCPGW_STALE_GRACE_MS="0", **settings).wait_ready()
    return start


def names(made, key=None):
    return [PREFIX + digest_of(key or made["key"]), f"{PREFIX}by-id:{made['id']}", f"{PREFIX}by-ref:{made['userId']}"]


def cache(redis_server, *of):
    redis_server.client().mset({name: "{}" for name in of})
    return lambda: redis_server.client().exists(*of)


def counter(worker, name):
    return sum(float(line.split()[-1]) for line in worker.get("/metrics")[1].splitlines() if line.startswith(f"mcpgw_better_auth_entries_{name}_total"))


def wait_settled(database):
    """Nothing is going to be deleted a second time."""
    wait_until(lambda: database.sql("SELECT d.sequence = s.value FROM mcpgw.entries_done d, mcpgw.change_sequence s") == [(True,)], what="second deletion")


CHANGES = [("key_update", {"name": "other"}), ("key_disable", None), ("key_enable", None), ("key_rotate", None), ("key_revoke", None), ("key_delete", None)]


def test_entries_of_a_changed_key_are_gone_when_the_change_is_answered(worker, database, edge, redis_server):
    worker()
    api = Api(edge)
    made, other = api.create(ALICE), api.create(ADMIN)
    wait_settled(database)
    stays = cache(redis_server, *names(other), "api-key:" + digest_of(made["key"]), "better-auth:session")
    for operation, body in CHANGES:
        left = cache(redis_server, *names(made))
        answer = api.ok(operation, ALICE, body, object=made["id"])
        assert left() == 0, operation
        if operation == "key_rotate":
            left = cache(redis_server, *names(answer))
            made = answer
    assert stays() == 5


def test_changes_in_bulk_and_by_anybody_else_reach_redis_too(worker, database, edge, redis_server):
    worker()
    api = Api(edge)
    made = [api.create(ALICE) for _ in range(3)]
    everything = [name for key in made for name in names(key)]
    wait_settled(database)
    left = cache(redis_server, *everything)
    assert api.ok("key_bulk", body={"action": "disable", "filter": {"userId": "alice"}})["count"] == 3
    assert left() == 0
    wait_settled(database)
    left = cache(redis_server, *everything)
    database.sql("UPDATE apikey SET enabled = true")
    wait_until(lambda: left() == 0, what="a change in the database")
    wait_settled(database)
    database.sql("UPDATE apikey SET remaining = 0")
    wait_settled(database)
    left = cache(redis_server, *names(made[0]))    # it says "none left", and the plugin would delete the row
    database.sql("SELECT mcpgw.give_uses_back(%s, 1, NULL, s.value) FROM mcpgw.change_sequence s", made[0]["id"])
    wait_until(lambda: left() == 0, what="uses that came back")
    wait_settled(database)
    left = cache(redis_server, names(made[0])[2])
    api.create(ALICE)
    wait_until(lambda: left() == 0, what="the list of the owner of a new key")


def test_an_entry_that_was_written_late_is_deleted_as_well(worker, database, edge, redis_server):
    """A verify that had read the row before the change writes its entry after it."""
    worker()
    api = Api(edge)
    made = api.create(ALICE)
    wait_settled(database)
    redis_server.client().config_resetstat()
    api.ok("key_disable", ALICE, object=made["id"])
    wait_settled(database)
    assert redis_server.client().info("commandstats")["cmdstat_del"]["calls"] >= 2


def test_a_redis_that_is_away_fails_no_call_and_is_caught_up_with(worker, database, edge, redis_server):
    keys = worker()
    api = Api(edge)
    made = api.create(ALICE)
    wait_settled(database)
    redis_server.stop()
    assert api.ok("key_disable", ALICE, object=made["id"])["enabled"] is False
    wait_until(lambda: counter(keys, "failed") > 0 and keys.readyz(), what="the failure counted")
    redis_server.start()
    left = cache(redis_server, *names(made))
    wait_until(lambda: left() == 0, what="what was left undone")


def test_a_silent_redis_holds_an_answer_back_for_a_bounded_time(worker, database, edge, redis_server):
    keys = worker()
    api = Api(edge)
    made = api.create(ALICE)
    wait_settled(database)
    left = cache(redis_server, *names(made))
    redis_server.client().execute_command("CLIENT", "PAUSE", "3000", "ALL")
    assert api.ok("key_disable", ALICE, object=made["id"])["enabled"] is False
    wait_until(lambda: left() == 0, what="the entries deleted after the pause")
    assert counter(keys, "failed") > 0 and keys.events("better_auth_entries_failed")


def test_what_happened_while_no_instance_ran_is_made_up_for(worker, database, edge, redis_server):
    keys = worker()
    api = Api(edge)
    made = api.create(ALICE)
    wait_settled(database)
    keys.stop()
    database.sql("UPDATE apikey SET enabled = false")
    left = cache(redis_server, *names(made))
    worker()
    wait_until(lambda: left() == 0, what="the entries of a change before the start")


def test_changes_that_were_pruned_before_redis_came_back_are_told(worker, database, edge, redis_server):
    keys = worker()
    made = Api(edge).create(ALICE)
    wait_settled(database)
    keys.stop()
    database.sql("UPDATE apikey SET enabled = false")
    database.sql("DELETE FROM mcpgw.change")
    keys = worker()
    wait_until(lambda: counter(keys, "missed") == 1, what="the gap")
    told = keys.events("better_auth_entries_missed")[0]
    assert "api-key:*" in told["remedy"] and made["key"] not in keys.log()


def test_without_the_url_nothing_is_kept_and_names_follow_the_prefix(database, redis_server, edge, service, worker):
    keys = service("keys", MCPGW_DATABASE_URL=database.url("mcpgw_keys")).wait_ready()
    assert database.sql("SELECT * FROM mcpgw.entries_done") == []
    keys.stop()
    worker(MCPGW_BETTER_AUTH_REDIS_PREFIX="")
    api = Api(edge)
    made = api.create(ALICE)
    left = cache(redis_server, *(name.removeprefix("better-auth:") for name in names(made)))
    api.ok("key_revoke", ALICE, object=made["id"])
    assert left() == 0


def test_keys_stored_plain_are_refused_because_entries_are_named_by_them(database, redis_server, service):
    keys = service("keys", MCPGW_DATABASE_URL=database.url("mcpgw_keys"), MCPGW_BETTER_AUTH_REDIS_URL=redis_server.url, MCPGW_BETTER_AUTH_DIGEST="plain")
    assert keys.process.wait(10) != 0 and "better_auth_redis_url" in keys.log()


def test_uses_of_keys_that_are_gone_are_forgotten(database):
    add_user(database, "alice")
    database.sql("""INSERT INTO apikey (id, "configId", key, "referenceId", "createdAt", "updatedAt") VALUES ('k', 'default', 'd', 'alice', now(), now())""")
    for key in ("k", "gone"):
        database.sql("INSERT INTO mcpgw.use (key_id, ours) VALUES (%s, now())", key)
        database.sql("INSERT INTO mcpgw.use_claim (key_id, request, at) VALUES (%s, 'r', now() - interval '2 hours')", key)
    with database.server.connect(database.name, "mcpgw_keys") as connection:
        connection.execute("SELECT mcpgw.prune_key_life()")
    assert database.sql("SELECT key_id FROM mcpgw.use") == [("k",)] and database.sql("SELECT FROM mcpgw.use_claim") == []
