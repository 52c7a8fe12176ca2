"""Proof that has to hold later: after a wait in quarantine, under another id, with clocks that differ, after an upgrade."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta

import pytest

from eventstore import apps
from eventstore.apps import add_app, admit_instance, list_apps, remove_app, sync_apps
from eventstore.config import AppSettings
from eventstore.errors import InputError
from eventstore.event import Event, Source
from eventstore.log.records import Rejected, prepare
from eventstore.store import EventStore
from tests.serving import SITE
from tests.signing import APP, coupon_event, public_pem, webhook


@pytest.fixture
def shop(store: EventStore) -> EventStore:
    add_app(store.engine, name=APP, key=public_pem(), instances=[SITE])
    return store


def test_a_webhook_that_waited_in_quarantine_until_it_expired_is_still_proved(shop: EventStore) -> None:
    an_hour_ago = int(time.time()) - 3_600
    token = webhook(coupon_event("e-1"), times={"iat": an_hour_ago, "exp": an_hour_ago + 300})
    [kept] = shop.submit([Rejected(SITE, "rest", None, None, "no reader knew it then", token)]).result()
    assert kept.quarantine_id is not None
    [retried] = shop.retry_quarantined([kept.quarantine_id])
    assert not retried.open, retried.said
    assert shop.original(1) == token
    assert shop.check_signature(1)[:2] == (True, True)


def test_a_webhook_appended_under_a_derived_id_agrees_with_its_signed_bytes(shop: EventStore) -> None:
    first, second = (webhook(coupon_event("e-1", coupon)) for coupon in ("c-1", "c-2"))
    assert [shop.receive_webhook(token).kind for token in (first, second)] == ["appended", "conflict"]
    [retried] = shop.retry_quarantined(derived_id=True)
    assert not retried.open, retried.said
    assert shop.original(2) == second
    assert shop.check_signature(2)[:2] == (True, True)


def test_an_app_that_accepts_new_instances_no_more_is_bound_to_none(store: EventStore) -> None:
    app = add_app(store.engine, name=APP, key=public_pem(), accept_new_instances=True)
    admit_instance(store.engine, app.app_id, "i-1")
    add_app(store.engine, name=APP, accept_new_instances=False)
    with pytest.raises(InputError, match="no new instances"):
        admit_instance(store.engine, app.app_id, "i-2")
    remove_app(store.engine, name=APP)
    with pytest.raises(InputError, match="no new instances"):
        admit_instance(store.engine, app.app_id, "i-2")
    assert list_apps(store.engine) == []
    assert [
        each.name for each in (add_app(store.engine, name="next", key=public_pem(), instances=["i-1", "i-2"]),)
    ] == ["next"]


def test_an_app_registered_by_a_machine_whose_clock_is_ahead_is_known_at_once(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as ahead:
        ahead.setattr(apps, "now", lambda: datetime.now(UTC) + timedelta(seconds=20))
        add_app(store.engine, name=APP, key=public_pem(), instances=[SITE])
    sync_apps(store.engine, [AppSettings(name=APP, key=public_pem(), instances=(SITE,))])
    assert store.receive_webhook(webhook(coupon_event("e-1"))).kind == "appended"
    assert store.check_signature(1).valid


def test_the_configuration_leaves_alone_what_it_does_not_name(store: EventStore) -> None:
    add_app(store.engine, name=APP, key=public_pem(), instances=[SITE], accept_new_instances=True)
    sync_apps(store.engine, [AppSettings(name=APP, key=public_pem())])
    [app] = list_apps(store.engine)
    assert app.accept_new_instances
    assert [each.instance_id for each in app.instances] == [SITE]


def test_a_snapshot_that_waited_in_quarantine_is_dated_by_its_observation(store: EventStore) -> None:
    page = {"coupons": [{"id": "c-1", "specification": {"name": "n", "type": "FreeShipping", "startTime": "never"}}]}
    observed_at = datetime(2024, 1, 1, tzinfo=UTC)
    store.ingest([(1, json.dumps(page).encode())], site=SITE, observed_at=observed_at)
    [entry] = store.list_quarantined()
    headers = store.show_quarantined(entry.id).headers
    assert headers is not None
    del page["coupons"][0]["specification"]["startTime"]  # type: ignore[attr-defined]
    body = json.dumps(page).encode()
    [kept] = store.submit([Rejected(SITE, "snapshot", None, None, "as before", body, headers)]).result()
    assert kept.quarantine_id is not None
    list(store.retry_quarantined([kept.quarantine_id]))
    assert store.read()[0].event.event_time == observed_at


def test_an_event_whose_ledger_entry_is_of_an_older_version_is_still_a_duplicate(store: EventStore) -> None:
    told = Event(
        event_id="e-1",
        type="coupon.deleted",
        entity_id="c-1",
        event_time=datetime(2026, 9, 1, 12, 0, 0, 123_456, tzinfo=UTC),
        source=Source.REST,
        site_id=SITE,
    )
    old = prepare(told)._replace(content_hash=bytes(32))
    other = told.model_copy(update={"entity_id": "c-2"})
    outcomes = [store.submit([entry]).result()[0] for entry in (old, prepare(told), prepare(other))]
    assert [each.kind for each in outcomes] == ["appended", "duplicate", "conflict"]
