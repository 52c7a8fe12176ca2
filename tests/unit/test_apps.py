"""Registered apps: keys in every spelling, instances of one app each, rotation, removal, and keys that stay for ever."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from eventstore import apps
from eventstore.apps import WixApp
from eventstore.config import AppSettings, load_settings
from eventstore.errors import InputError, NotFound, NotGenuine, UnknownInstance
from eventstore.log.guards import missing_guards
from eventstore.store import EventStore
from tests.rows import REFUSED, Stranger
from tests.serving import SITE
from tests.signing import APP, OTHER_APP, STRANGER, base64_of_pem, coupon_event, private_pem, public_pem, webhook

SPELLINGS: dict[str, Callable[[], str]] = {
    "PEM": public_pem,
    "PEM with blanks around it": lambda: f"\n  {public_pem()}\n\n",
    "PEM with the line ends of Windows": lambda: public_pem().replace("\n", "\r\n"),
    "base64 of PEM": base64_of_pem,
    "base64 of PEM, broken into lines": lambda: "\n".join([base64_of_pem()[:60], base64_of_pem()[60:]]),
    "PEM whose line ends are spelled out": lambda: public_pem().strip().replace("\n", "\\n"),
    "base64 of that": lambda: b64encode(public_pem().replace("\n", "\\n").encode()).decode(),
}


def elliptic() -> str:
    made = ec.generate_private_key(ec.SECP256R1()).public_key()
    return made.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


WRONG: dict[str, tuple[Callable[[], str], str]] = {
    "a private key": (private_pem, "this is a private key"),
    "base64 of a private key": (lambda: b64encode(private_pem().encode()).decode(), "this is a private key"),
    "a key on an elliptic curve": (elliptic, "not an RSA public key"),
    "a short key": (lambda: public_pem("short", 1_024), "1024 bits"),
    "a key cut short": (lambda: public_pem()[:200], "not an RSA public key"),
    "base64 cut short": (lambda: base64_of_pem()[:-7], "cut short"),
    "base64 of something else": (lambda: b64encode(b"no key").decode(), "not an RSA public key"),
    "a word": (lambda: "secret!", "not a key"),
    "nothing": (lambda: "", "not a key"),
    "a novel": (lambda: "A" * 100_000, "100000 characters"),
}


def add(store: EventStore, name: str = APP, *instances: str, key: str | None = None) -> WixApp:
    return apps.add_app(store.engine, name=name, key=public_pem(name) if key is None else key, instances=instances)


def ids(app: WixApp) -> list[str]:
    return [each.key_id for each in app.keys]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_key_is_the_same_in_every_spelling(store: EventStore, spelling: str) -> None:
    made = add(store, key=SPELLINGS[spelling]())
    assert made.keys[0].public_key == public_pem()
    assert add(store) == made
    assert add(store, APP, SITE, key=SPELLINGS[spelling]()).keys == made.keys


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_key_is_refused_with_what_is_wrong_and_nothing_is_registered(store: EventStore, kind: str) -> None:
    make, told = WRONG[kind]
    with pytest.raises(InputError, match=told) as caught:
        add(store, key=make())
    if len(make()) > 20:
        assert make().strip()[30:60] not in str(caught.value)
    assert apps.list_apps(store.engine, removed=True) == []


@pytest.mark.parametrize("name", ["", "x" * 81, "two\nlines", "a\x00b"])
def test_a_name_that_cannot_be_shown_is_refused(store: EventStore, name: str) -> None:
    with pytest.raises(InputError, match="an app's name has 1 to 80 printable characters"):
        add(store, name, key=public_pem())


@pytest.mark.parametrize("instance", ["", " ", "x" * 201, "two\nlines"])
def test_an_instance_that_cannot_be_one_is_refused_and_the_app_not_registered(store: EventStore, instance: str) -> None:
    with pytest.raises(InputError, match="an instance id has 1 to 200 printable characters"):
        add(store, APP, SITE, instance)
    assert apps.list_apps(store.engine) == []


def test_to_add_an_app_again_adds_instances_and_changes_nothing_else(store: EventStore) -> None:
    first = add(store, APP, "i-1")
    assert add(store, APP, "i-1") == first
    again = apps.add_app(store.engine, name=APP, instances=["i-2"], test_instances=["t-1"], accept_new_instances=True)
    assert (again.app_id, again.keys, again.added_at) == (first.app_id, first.keys, first.added_at)
    assert [(each.instance_id, each.test) for each in again.instances] == [
        ("i-1", False),
        ("i-2", False),
        ("t-1", True),
    ]
    assert again.accept_new_instances
    # What is not said is left as it is.
    assert add(store, APP, "i-1").accept_new_instances
    assert apps.list_apps(store.engine) == [again]


def test_an_app_that_is_not_there_needs_a_key(store: EventStore) -> None:
    with pytest.raises(InputError, match="there is no app 'app' yet: give its public key"):
        apps.add_app(store.engine, name=APP, instances=["i-1"])


def test_another_key_for_an_app_that_is_there_is_refused_with_the_way_to_change_it(store: EventStore) -> None:
    made = add(store)
    with pytest.raises(InputError, match=f"eventstore app rotate --name {APP}"):
        add(store, APP, "i-1", key=public_pem(STRANGER))
    assert apps.list_apps(store.engine) == [made]


def test_an_instance_or_a_key_of_one_app_cannot_be_given_to_another(store: EventStore) -> None:
    first = add(store, APP, "i-1")
    with pytest.raises(InputError, match=f"the instance i-1 belongs to the app {APP}"):
        add(store, OTHER_APP, "i-2", "i-1")
    with pytest.raises(InputError, match=f"this key belongs to the app {APP}"):
        add(store, OTHER_APP, key=public_pem(APP))
    assert apps.list_apps(store.engine) == [first]
    other = add(store, OTHER_APP)
    with pytest.raises(InputError, match=f"this key belongs to the app {APP}"):
        apps.rotate_key(store.engine, name=OTHER_APP, key=public_pem(APP))
    assert apps.list_apps(store.engine) == [first, other]


def test_after_a_rotation_both_keys_are_valid_for_the_time_of_grace(store: EventStore) -> None:
    before = add(store, APP, SITE)
    rotated = apps.rotate_key(store.engine, name=APP, key=public_pem(STRANGER))
    old, new = rotated.keys
    assert (old.key_id, old.public_key) == (before.keys[0].key_id, public_pem())
    assert new.retired_at is None
    assert old.retired_at is not None
    assert timedelta(hours=47, minutes=11) < old.retired_at - datetime.now(UTC) <= apps.GRACE
    assert store.receive_webhook(webhook(coupon_event("by-old"))).event_id == "by-old"
    assert store.receive_webhook(webhook(coupon_event("by-new"), key=STRANGER)).event_id == "by-new"


def test_a_rotation_without_grace_ends_the_old_key_at_once_and_for_what_was_signed_before_it_still_holds(
    store: EventStore,
) -> None:
    add(store, APP, SITE)
    position = store.receive_webhook(webhook(coupon_event("by-old"))).position
    assert position is not None
    apps.rotate_key(store.engine, name=APP, key=public_pem(STRANGER), grace=timedelta(0))
    store.webhooks.refresh()
    with pytest.raises(NotGenuine):
        store.receive_webhook(webhook(coupon_event("late")))
    assert store.receive_webhook(webhook(coupon_event("by-new"), key=STRANGER)).event_id == "by-new"
    checked = store.check_signature(position)
    assert (checked.valid, checked.agrees, checked.app) == (True, True, APP)


def test_a_grace_that_was_given_is_taken_back_by_a_rotation_without_any(store: EventStore) -> None:
    add(store, APP, SITE)
    apps.rotate_key(store.engine, name=APP, key=public_pem(STRANGER))
    app = apps.rotate_key(store.engine, name=APP, key=public_pem(OTHER_APP), grace=timedelta(0))
    assert [each.live(datetime.now(UTC)) for each in app.keys] == [False, False, True]


def test_the_key_that_an_app_has_is_no_new_one(store: EventStore) -> None:
    add(store)
    with pytest.raises(InputError, match=f"the key that the app {APP} has already"):
        apps.rotate_key(store.engine, name=APP, key=base64_of_pem())


def test_an_app_that_was_removed_is_heard_no_more_and_its_keys_stay(store: EventStore) -> None:
    made = add(store, APP, SITE)
    position = store.receive_webhook(webhook(coupon_event("e-1"))).position
    assert position is not None
    removed = apps.remove_app(store.engine, name=APP)
    assert removed.removed_at is not None
    assert ids(removed) == ids(made)
    assert apps.list_apps(store.engine) == []
    assert apps.list_apps(store.engine, removed=True) == [removed]
    store.webhooks.refresh()
    with pytest.raises(NotGenuine):
        store.receive_webhook(webhook(coupon_event("e-2")))
    assert store.check_signature(position).valid
    # Its name, key and instance are free again, for itself or another.
    other = add(store, OTHER_APP, SITE, key=public_pem())
    assert other.app_id != made.app_id
    store.webhooks.refresh()
    assert store.receive_webhook(webhook(coupon_event("e-3"))).event_id == "e-3"


def test_an_app_that_is_not_there_is_named_in_the_error(store: EventStore) -> None:
    told = "there is no app 'app'; `eventstore app list` shows them"
    with pytest.raises(NotFound, match=told):
        apps.rotate_key(store.engine, name=APP, key=public_pem())
    with pytest.raises(NotFound, match=told):
        apps.remove_app(store.engine, name=APP)


def test_an_app_that_accepts_new_instances_binds_each_to_itself_once(store: EventStore) -> None:
    apps.add_app(store.engine, name=APP, key=public_pem(), accept_new_instances=True)
    add(store, OTHER_APP)
    for event_id in ("e-1", "e-2"):
        store.receive_webhook(webhook(coupon_event(event_id), instance="new-site"))
    other, app = sorted(apps.list_apps(store.engine), key=lambda each: each.name == APP)
    assert [(each.instance_id, each.test) for each in app.instances] == [("new-site", False)]
    assert other.instances == ()
    with pytest.raises(UnknownInstance, match=f"the instance new-site is of the app {APP}"):
        store.receive_webhook(webhook(coupon_event("e-3"), instance="new-site", key=OTHER_APP))


def test_the_version_changes_with_every_change(store: EventStore) -> None:
    seen = [apps.version(store.engine)]
    changes: tuple[Callable[[], WixApp], ...] = (
        lambda: add(store),
        lambda: add(store, APP, "i-1"),
        lambda: apps.add_app(store.engine, name=APP, accept_new_instances=True),
        lambda: apps.add_app(store.engine, name=APP, test_instances=["t-1"]),
        lambda: apps.rotate_key(store.engine, name=APP, key=public_pem(STRANGER)),
        lambda: apps.rotate_key(store.engine, name=APP, key=public_pem(), grace=timedelta(0)),
        lambda: add(store, OTHER_APP),
        lambda: apps.remove_app(store.engine, name=APP),
    )
    for change in changes:
        change()
        seen.append(apps.version(store.engine))
    assert len(set(seen)) == len(seen)
    assert apps.version(store.engine) == seen[-1]


def test_the_configuration_registers_rotates_and_adds_and_leaves_the_rest(store: EventStore) -> None:
    add(store, OTHER_APP, "other-site")
    apps.sync_apps(store.engine, [AppSettings(name=APP, key=base64_of_pem(), instances=("i-1",))])
    apps.sync_apps(store.engine, [AppSettings(name=APP, key=public_pem(), instances=("i-2",))])
    apps.sync_apps(store.engine, [AppSettings(name=APP, key=public_pem(STRANGER), test_instances=("t-1",))])
    apps.sync_apps(store.engine, [AppSettings(name=APP, key=public_pem(STRANGER), accept_new_instances=True)])
    app, other = apps.list_apps(store.engine)
    assert [each.public_key for each in app.keys] == [public_pem(), public_pem(STRANGER)]
    assert [each.retired_at is None for each in app.keys] == [False, True]
    assert [each.instance_id for each in app.instances] == ["i-1", "i-2", "t-1"]
    assert app.accept_new_instances
    assert [each.instance_id for each in other.instances] == ["other-site"]


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"name": APP}, f"the app {APP} needs either key or key_file"),
        ({"name": APP, "key": "x", "key_file": "y"}, f"the app {APP} needs either key or key_file"),
        ({"name": APP, "key": "x", "instance": "i"}, "the setting apps.*instance is wrong"),
        ({"key": "x"}, "the setting apps.*name is wrong"),
        ({"name": APP, "key": "x", "instances": "i"}, "the setting apps.*instances is wrong"),
    ],
)
def test_a_wrong_app_in_the_configuration_is_an_error_that_says_what_is_wrong_and_not_the_key(
    monkeypatch: pytest.MonkeyPatch, entry: dict[str, str], told: str
) -> None:
    if "key" in entry:
        entry["key"] = private_pem()
    monkeypatch.setenv("EVENTSTORE_APPS", json.dumps([entry]))
    with pytest.raises(InputError, match=told) as caught:
        load_settings()
    assert private_pem()[100:120] not in str(caught.value)


# Keys stay as they were

CHANGES = [
    "DELETE FROM wix_app_keys",
    "UPDATE wix_app_keys SET public_key = 'forged'",
    "UPDATE wix_app_keys SET key_id = 'forged'",
    "UPDATE wix_app_keys SET app_id = 'other'",
    "UPDATE wix_app_keys SET added_at = 1",
    "UPDATE wix_app_keys SET id = 1000",
    "UPDATE wix_app_keys SET retired_at = 1, public_key = 'forged'",
]
VALUES = "(id, app_id, key_id, public_key, added_at) VALUES (1, 'a', 'k', 'forged', 1)"
CHANGES_ON = {
    "sqlite": [
        f"REPLACE INTO wix_app_keys {VALUES}",
        f"INSERT OR REPLACE INTO wix_app_keys {VALUES}",
        f"INSERT INTO wix_app_keys {VALUES} ON CONFLICT DO UPDATE SET public_key = 'forged'",
        "UPDATE OR REPLACE wix_app_keys SET rowid = 2 WHERE rowid = 1",
    ],
    "postgresql": [
        "TRUNCATE wix_app_keys",
        f"INSERT INTO wix_app_keys {VALUES} ON CONFLICT (id) DO UPDATE SET public_key = 'forged'",
    ],
}


def test_the_database_refuses_to_change_or_lose_a_key(store: EventStore, store_url: str) -> None:
    add(store, APP, SITE)
    apps.rotate_key(store.engine, name=APP, key=public_pem(STRANGER), grace=timedelta(0))
    before = apps.list_apps(store.engine)
    for statement in CHANGES + CHANGES_ON[store.engine.dialect.name]:
        with pytest.raises(DBAPIError, match=r"refused|is taken"), store.engine.begin() as connection:
            connection.execute(text(statement))
    # A program of its own, which knows nothing of this one's settings, is refused as well.
    with Stranger(store_url) as other, pytest.raises(REFUSED):
        other.execute("DELETE FROM wix_app_keys")
    assert apps.list_apps(store.engine) == before
    assert missing_guards(store.engine) == []


def test_a_key_whose_guard_was_dropped_shows_in_the_status(store: EventStore, store_url: str) -> None:
    with Stranger(store_url) as other:
        other.drop_guard("wix_app_keys", "wix_app_keys_no_delete")
    assert store.status().missing_guards == ("wix_app_keys_no_delete",)
