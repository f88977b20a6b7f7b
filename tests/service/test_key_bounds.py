"""A key gives no key more than it has: what bounded keys make, change, enable, rotate and import, at mcpgw-keys alone."""
import datetime

import pytest

import busedge
from test_keys import ADMIN, ALICE, Api, api, worker    # noqa: F401 (fixtures)

DAY = 86400


def by_key(who, key):
    return {**who, "key_id": key["id"]}


def moment(text):
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))


@pytest.fixture
def keys(api, database):
    """Of alice: one key for each bound, and one without; `wide` is somebody's to widen."""
    made = {name: api.create(ALICE, **{"name": name, "scopes": ["write", "proxy"], "expiresIn": None, **body})
            for name, body in {"addressed": {"allowedIps": ["10.0.0.0/8", "2001:db8::/32"]}, "brief": {"expiresIn": DAY}, "rated": {},
                               "metered": {}, "named": {"servers": ["files"]}, "toolish": {"tools": ["stat"]}, "free": {}, "wide": {}}.items()}
    api.ok("key_update", object=made["rated"]["id"], body={"rateLimit": {"requests": 100, "window": 3600}})
    database.sql("UPDATE apikey SET remaining = 5 WHERE id = %s", made["metered"]["id"])
    return made


# what each key's maker may not ask for
WIDER = {
    "addressed": [("allowedIps", value) for value in (None, ["0.0.0.0/0"], ["10.0.0.0/7"], ["10.1.0.0/16", "11.0.0.1"], ["::/0"], ["2001:db8::/31"])],
    "brief": [("expiresIn", value) for value in (None, DAY + 1, 10 * DAY)],
}
NO_MAKERS = ("metered", "named", "toolish")


@pytest.mark.parametrize("who", [ALICE, ADMIN], ids=["own", "operator"])
def test_no_bounded_key_makes_or_changes_one_that_reaches_further(api, keys, who):
    for name, wishes in WIDER.items():
        caller = by_key(who, keys[name])
        for field, value in wishes:
            assert api.refused(403, "key_bounds", "key_create", caller, {"scopes": ["read"], field: value})["field"] == field
            for target in (name, "wide"):
                api.refused(403, "key_bounds", "key_update", caller, {field: value}, object=keys[target]["id"])
        for operation in ("key_rotate", "key_enable"):
            api.refused(403, "key_bounds", operation, caller, object=keys["wide"]["id"])
        api.refused(403, "key_bounds", "key_update", caller, {"scopes": ["write"]}, object=keys["wide"]["id"])
        api.refused(403, "key_bounds", "key_bulk", caller, {"action": "enable", "filter": {"ids": [keys["wide"]["id"]]}})
    for name in NO_MAKERS:
        caller = by_key(who, keys[name])
        api.refused(403, "key_bounds", "key_create", caller, {"scopes": ["read"]})
        api.refused(403, "key_bounds", "key_rotate", caller, object=keys["wide"]["id"])
        api.refused(403, "key_bounds", "key_update", caller, {"scopes": ["read"]}, object=keys["wide"]["id"])


def test_an_operators_bounded_key_sets_no_higher_limit_and_imports_nothing(api, keys):
    caller = by_key(ADMIN, keys["rated"])
    for limit in (None, {"requests": 101, "window": 3600}, {"requests": 100, "window": 3599}, {"requests": 10, "window": 86400}):
        assert api.refused(403, "key_bounds", "key_create", caller, {"scopes": ["read"], "rateLimit": limit})["field"] == "rateLimit"
        api.refused(403, "key_bounds", "key_update", caller, {"rateLimit": limit}, object=keys["rated"]["id"])
    assert api.create(caller, rateLimit={"requests": 9, "window": 3600})["rateLimit"] == {"requests": 9, "window": 3600}
    for name in ("rated", "brief", "addressed", "metered", "named"):
        api.refused(403, "key_bounds", "key_import", by_key(ADMIN, keys[name]), {"keys": [{"userId": "bob", "scopes": ["read"], "key": "x" * 40}]})


def test_what_is_not_asked_for_is_taken_from_the_key_that_makes_it(api, keys):
    made = api.create(by_key(ALICE, keys["addressed"]))
    assert made["allowedIps"] == ["10.0.0.0/8", "2001:db8::/32"]
    assert api.create(by_key(ALICE, keys["addressed"]), allowedIps=["10.1.0.0/16", "2001:db8:1::7"])["allowedIps"] == ["10.1.0.0/16", "2001:db8:1::7"]
    for body in ({}, {"expiresIn": 60}):
        assert moment(api.create(by_key(ALICE, keys["brief"]), **body)["expiresAt"]) <= moment(keys["brief"]["expiresAt"])
    assert api.create(by_key(ALICE, keys["rated"]))["rateLimit"] == {"requests": 100, "window": 3600}
    free = api.create(by_key(ALICE, keys["free"]), expiresIn=None)
    assert (free["allowedIps"], free["expiresAt"], free["rateLimit"]) == (None, None, None)


def test_what_lies_within_is_made_and_changed(api, keys):
    for name in ("addressed", "brief", "rated", "metered"):
        caller, own = by_key(ALICE, keys[name]), keys[name]["id"]
        assert api.ok("key_rotate", caller, object=own)["id"] == own
        api.ok("key_update", caller, {"scopes": ["write"]}, object=own)
        api.ok("key_update", caller, {"name": "x", "metadata": {}, "environment": "test"}, object=keys["wide"]["id"])
        api.ok("key_disable", caller, object=keys["wide"]["id"])
    caller = by_key(ALICE, keys["addressed"])
    child = api.create(caller, allowedIps=["10.1.0.0/16"])
    for operation, body in (("key_update", {"allowedIps": ["10.2.0.0/16"]}), ("key_disable", None), ("key_enable", None), ("key_rotate", None)):
        api.ok(operation, caller, body, object=child["id"])
    assert api.ok("key_update", by_key(ALICE, keys["brief"]), {"expiresIn": 60}, object=keys["brief"]["id"])["expiresAt"] < keys["brief"]["expiresAt"]


def test_a_key_enables_none_that_holds_more_than_itself(api, keys):
    api.ok("key_disable", object=keys["free"]["id"])
    reader = api.create(ALICE, scopes=["write"], expiresIn=None)
    few = {**by_key(ALICE, reader), "scopes": busedge.SCOPES["write"]}
    api.refused(403, "forbidden", "key_enable", few, object=keys["free"]["id"])
    for dry in (True, False):
        api.refused(403, "forbidden", "key_bulk", few, {"action": "enable", "filter": {"ids": [keys["free"]["id"]]}, "dryRun": dry})
    assert api.ok("key_get", object=keys["free"]["id"])["enabled"] is False
    api.ok("key_bulk", by_key(ALICE, keys["wide"]), {"action": "enable", "filter": {"ids": [keys["free"]["id"]]}})
    assert api.ok("key_get", object=keys["free"]["id"])["enabled"] is True


def test_a_key_that_has_gone_since_hands_out_nothing(api, keys, database):
    gone = {**ALICE, "key_id": "gone"}
    api.refused(403, "key_bounds", "key_create", gone, {"scopes": ["read"]})
    database.sql("UPDATE apikey SET enabled = false WHERE id = %s", keys["free"]["id"])
    api.refused(403, "key_bounds", "key_rotate", by_key(ALICE, keys["free"]), object=keys["free"]["id"])
    api.ok("key_disable", gone, object=keys["wide"]["id"])


def test_a_repeated_create_shows_no_other_key_a_value_and_none_that_reaches_further_by_now(api, keys, database):
    ask = {"body": {"scopes": ["read"]}, "request_id": "once"}
    wide = api.ok("key_create", by_key(ALICE, keys["free"]), status=201, **ask)
    api.refused(409, "request_id_reused", "key_create", by_key(ALICE, keys["addressed"]), **ask)
    api.refused(409, "request_id_reused", "key_create", ALICE, **ask)
    assert api.ok("key_create", by_key(ALICE, keys["free"]), status=201, **ask)["id"] == wide["id"]
    for change in ('UPDATE apikey SET "expiresAt" = NULL WHERE id = %s', 'UPDATE apikey SET "rateLimitMax" = 7 WHERE id = %s',
                   "UPDATE mcpgw.key SET allowed_ips = '{10.0.0.0/8}' WHERE key_id = %s"):
        again = {**ask, "request_id": change[:40]}
        made = api.ok("key_create", ALICE, status=201, **again)
        database.sql(change, made["id"])
        api.refused(409, "key_changed", "key_create", ALICE, **again)
