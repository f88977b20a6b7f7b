"""Many keys changed by one call: what is picked, what is shown first, and that it is all or nothing."""
import pytest

from test_keys import ADMIN, ALICE, BOB, Api, add_user, sequence, tell_holders, worker, api    # noqa: F401


def bulk(api, who=ADMIN, action="revoke", status=200, request_id=None, **body):
    return api.ok("key_bulk", who, {"action": action, **body}, status=status, request_id=request_id)


def test_what_a_dry_run_showed_is_all_that_is_changed_when_its_ids_are_given(api):
    stays, goes, renamed = (api.create(ALICE, name="old")["id"] for _ in range(3))
    filter = {"userId": "alice", "name": "old"}
    shown = bulk(api, ALICE, filter=filter, dryRun=True)["ids"]
    api.ok("key_update", ALICE, {"name": "new"}, object=renamed)      # somebody else is at work too
    late = api.create(ALICE, name="old")["id"]
    shown.remove(stays)
    assert bulk(api, ALICE, filter={**filter, "ids": shown})["ids"] == [goes]
    assert [api.ok("key_get", ALICE, object=key)["enabled"] for key in (stays, goes, renamed, late)] == [True, False, True, True]


@pytest.mark.parametrize("body, field", [
    ({}, "action"), ({"action": "paint", "filter": {"name": "x"}}, "action"), ({"action": 1}, "action"), ({"action": "revoke"}, "filter"),
    ({"action": "revoke", "filter": {}}, "filter"), ({"action": "revoke", "filter": []}, "filter"), ({"action": "revoke", "filter": {"ids": []}}, "filter.ids"),
    ({"action": "revoke", "filter": {"ids": ["x"] * 501}}, "filter.ids"), ({"action": "revoke", "filter": {"ids": [1]}}, "filter.ids"),
    ({"action": "revoke", "filter": {"name": ""}}, "filter.name"), ({"action": "revoke", "filter": {"name": None}}, "filter.name"),
    ({"action": "revoke", "filter": {"createdBefore": "yesterday"}}, "filter.createdBefore"), ({"action": "revoke", "filter": {"unusedFor": 0}}, "filter.unusedFor"),
    ({"action": "revoke", "filter": {"unusedFor": None}}, "filter.unusedFor"), ({"action": "revoke", "filter": {"colour": 1}}, "filter.colour"),
    ({"action": "revoke", "filter": {"name": "x"}, "limit": 501}, "limit"), ({"action": "revoke", "filter": {"name": "x"}, "dryRun": 1}, "dryRun"),
    ({"action": "revoke", "filter": {"name": "x"}, "reason": 1}, "reason"), ({"action": "revoke", "filter": {"name": "x"}, "all": True}, "all"),
])
def test_a_field_that_cannot_be_used_is_named_and_nothing_happens(api, database, body, field):
    api.create(name="x")
    before = sequence(database)
    assert api.refused(422, "unprocessable", "key_bulk", body=body)["field"] == field
    assert sequence(database) == before


def test_a_moment_that_is_none_is_refused(api):
    api.refused(422, "unprocessable", "key_bulk", body={"action": "revoke", "filter": {"createdBefore": "2026-13-45T99:00:00Z"}})


def test_keys_of_others_are_not_picked_however_they_are_named(api):
    theirs = api.create(BOB)["id"]
    for filter in ({"ids": [theirs]}, {"userId": "bob"}, {"tenantId": "user:bob"}, {"name": "ci"}):
        assert bulk(api, ALICE, filter=filter)["count"] == 0
    assert api.ok("key_get", BOB, object=theirs)["enabled"] is True


def test_a_dry_run_shows_and_changes_nothing(api, database):
    made = sorted(api.create(ALICE, name=f"n{i % 2}")["id"] for i in range(4))
    before = sequence(database)
    shown = bulk(api, ALICE, filter={"userId": "alice"}, dryRun=True)
    assert shown == {"action": "revoke", "dryRun": True, "count": 4, "ids": made, "more": False}
    shown = bulk(api, filter={"tenantId": "user:alice"}, dryRun=True, limit=3)
    assert shown["ids"] == made[:3] and shown["more"] is True
    assert sequence(database) == before


def test_a_revocation_of_many_is_acknowledged_and_told_for_each(api, database):
    made = sorted(api.create(ALICE)["id"] for _ in range(3))
    done = bulk(api, filter={"ids": made + ["nothing", 'odd-id']}, reason="leaked", request_id="b")
    assert sorted(done["ids"]) == made and done["applied"]["of"] >= 1 and done["more"] is False
    assert all(api.ok("key_get", object=key)["revokedReason"] == "leaked" for key in made)
    assert database.sql("SELECT count(*) FROM apikey WHERE enabled") == [(0,)]
    events = database.sql("SELECT key_id, reason, actor_user_id FROM mcpgw.outbox WHERE event = 'key.revoked' ORDER BY key_id")
    assert events == [(key, "leaked", "admin") for key in made]
    assert bulk(api, filter={"ids": made})["count"] == 0                     # they are
    assert bulk(api, filter={"ids": made + ["nothing", 'odd-id']}, reason="leaked", request_id="b")["count"] == 0
    api.refused(409, "request_id_reused", "key_bulk", body={"action": "delete", "filter": {"ids": made}}, request_id="b")
    assert bulk(api, action="enable", filter={"ids": made})["count"] == 0    # never again
    assert sorted(bulk(api, action="delete", filter={"userId": "alice"})["ids"]) == made
    assert database.sql("SELECT count(*) FROM apikey") == database.sql("SELECT count(*) FROM mcpgw.key") == [(0,)]


def test_filters_pick_what_they_say(api, database):
    old, unused, ending, other = (api.create(ALICE, name=name)["id"] for name in ("old", "unused", "ending", "other"))
    database.sql("UPDATE apikey SET \"createdAt\" = '2020-01-01T00:00:00Z', \"lastRequest\" = now() WHERE id = %s", old)
    database.sql("UPDATE apikey SET \"lastRequest\" = now() - interval '40 days' WHERE id = %s", unused)
    database.sql("UPDATE apikey SET \"expiresAt\" = now() + interval '1 hour' WHERE id = %s", ending)
    picks = {"name": ("other", [other]), "createdBefore": ("2021-01-01T00:00:00Z", [old]), "unusedFor": (30 * 86400, [unused]),
             "expiresBefore": (database.sql("SELECT to_char(now() AT TIME ZONE 'UTC' + interval '1 day', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')")[0][0], [ending])}
    for name, (value, expected) in picks.items():
        assert bulk(api, action="disable", filter={name: value}, dryRun=True)["ids"] == expected, name
    assert bulk(api, action="disable", filter={"userId": "alice", "name": "old"})["ids"] == [old]
    assert bulk(api, action="enable", filter={"userId": "alice"})["ids"] == [old]
