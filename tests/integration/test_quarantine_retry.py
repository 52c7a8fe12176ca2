"""Trying quarantine's entries again: what can be read at last is appended, and everything else stays where it is."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from eventstore.errors import InputError, NotFound, StoreUnavailable
from eventstore.event import Event, Source
from eventstore.ingest import Route, read_delivery
from eventstore.log import counts
from eventstore.log.records import Outcome, OutcomeKind, Prepared, Rejected
from eventstore.retry import Retried
from eventstore.store import EventStore
from tests.quarantined import (
    conflict,
    encoded,
    keep,
    listed,
    original,
    register,
    retry,
    row,
    signed,
    unreadable,
)
from tests.serving import (
    APPLIED,
    CREATED,
    INDEX,
    SITE,
    applied,
    created,
    fixture,
    only,
    wrapped,
)
from tests.stores import OpenStore

UNSIGNED = [document for document in INDEX["deliveries"] if document["route"] in set(Source)]


@pytest.mark.parametrize("document", UNSIGNED, ids=lambda document: document["file"])
def test_what_is_read_at_last_is_appended_exactly_as_a_fresh_delivery_would_be(
    store: EventStore, new_store: OpenStore, document: dict[str, Any]
) -> None:
    body, route, handler = fixture(document["file"]), document["route"], document.get("handler")
    number = keep(store, body, route=route, handler=handler, site=SITE)
    received_at = listed(store)[number].received_at
    [done] = retry(store, number)
    assert not done.open
    with new_store() as fresh:
        fresh.submit(read_delivery(body, Route(route, handler, received_at), lambda _: SITE)).result()
        assert store.head() == fresh.head() > 0
        for position in range(1, fresh.head() + 1):
            assert row(store, position) == row(fresh, position)


def test_an_entry_that_todays_readers_can_read_is_appended_with_its_bytes_and_resolved(store: EventStore) -> None:
    body = json.dumps(created("e-1"), indent=3).encode()
    number = keep(store, body)
    before = datetime.now(UTC)
    [done] = retry(store, number)
    assert done == Retried(number, False, "retried: appended at position 1", (Outcome(OutcomeKind.APPENDED, "e-1", 1),))
    entry = listed(store)[number]
    assert entry.resolution == "retried: appended at position 1"
    assert entry.resolved_at is not None
    assert before - timedelta(seconds=1) < entry.resolved_at
    assert original(store, 1) == body
    assert store.find("e-1", site_id="shop").event.type == "coupon.created"
    # The delivery, should it come again, is one that was told before.
    [again] = store.receive(body, route="velo", handler=CREATED, site="shop")
    assert again.kind is OutcomeKind.DUPLICATE


def test_an_entry_whose_event_came_by_another_way_meanwhile_is_resolved_as_a_duplicate(store: EventStore) -> None:
    number = keep(store, encoded(created("e-1")))
    store.receive(encoded(created("e-1")), route="velo", handler=CREATED, site="shop")
    [done] = retry(store, number)
    assert (done.open, done.said) == (False, "retried: duplicate of position 1")
    assert store.head() == 1


def test_a_line_is_read_again_in_the_wrapper_that_it_came_in(store: EventStore) -> None:
    line = encoded(wrapped(CREATED, created("e-1"), site="shop"))
    [done] = retry(store, keep(store, line))
    assert done.said == "retried: appended at position 1"
    assert original(store, 1) == line


def test_a_wrapper_that_its_door_did_not_open_stays_closed(store: EventStore) -> None:
    foreign = keep(store, encoded(wrapped(APPLIED, applied("e-1", "o-1"))), handler=CREATED)
    other = keep(store, encoded({"route": "velo", "handler": CREATED, "body": created("e-1")}), route="sdk")
    assert [done.open for done in retry(store, foreign, other)] == [True, True]
    assert store.head() == 0


def test_a_snapshot_is_dated_by_its_receipt(store: EventStore) -> None:
    number = keep(store, fixture("snapshot_query_coupons.json"), route="snapshot", handler=None)
    [done] = retry(store, number)
    assert not done.open
    received_at = listed(store)[number].received_at
    assert {record.event.event_time for record in store.stream()} == {received_at}


def test_of_a_page_what_can_be_read_is_appended_and_the_entry_stays_open_for_the_rest(store: EventStore) -> None:
    page = json.loads(fixture("snapshot_query_coupons.json"))
    page["coupons"].append({"id": "c-bad", "startTime": "no time", "specification": {"startTime": "no time"}})
    number = keep(store, encoded(page), route="snapshot", handler=None)
    [done] = retry(store, number)
    assert done.open
    assert store.head() == len(page["coupons"]) - 1
    assert f"coupons[{len(page['coupons']) - 1}]" in done.said
    assert f"; of the others: {store.head()} events appended (position 1 and on), 0 duplicates" in done.said
    [again] = retry(store, number)
    assert again.open
    assert store.head() == len(page["coupons"]) - 1


def test_what_still_cannot_be_read_stays_open_says_why_and_is_not_kept_twice(store: EventStore) -> None:
    number = keep(store, unreadable())
    contradiction = conflict(store, created("e-1"), created("e-1", code="OTHER"))
    before = store.list_quarantined()
    first, second = retry(store, number, contradiction)
    assert first.open
    assert "metadata.eventTime" in first.said
    assert second.open
    assert second.said == "event id e-1 stands at position 1 with other content"
    [outcome] = second.outcomes
    assert (outcome.kind, outcome.position, outcome.quarantine_id) == (OutcomeKind.CONFLICT, 1, contradiction)
    assert store.list_quarantined(resolved=True) == before
    assert store.head() == 1


def test_a_readable_entry_whose_id_is_taken_stays_open_and_is_not_kept_twice(store: EventStore) -> None:
    store.receive(encoded(created("e-1")), route="velo", handler=CREATED, site="shop")
    number = keep(store, encoded(created("e-1", code="OTHER")))
    [done] = retry(store, number)
    assert done.open
    assert list(listed(store)) == [number]
    [derived] = retry(store, number, derived_id=True)
    assert derived.said == "retried under a derived id: appended at position 2"


def test_a_conflict_is_appended_under_a_derived_id_that_is_the_same_at_every_try(store: EventStore) -> None:
    second = encoded(created("e-1", code="OTHER"))
    number = conflict(store, created("e-1"), created("e-1", code="OTHER"))
    [done] = retry(store, number, derived_id=True)
    assert (done.open, done.said) == (False, "retried under a derived id: appended at position 2")
    recorded = store.find(only(done.outcomes).event_id, site_id="shop")
    assert recorded.event.coupon is not None
    assert recorded.event.coupon.code == "OTHER"
    assert recorded.event.event_id.startswith("sha256:")
    assert original(store, 2) == second
    # The same event, told once more in other bytes, is another entry; its event stands in the log already.
    other = conflict(store, created("e-1"), {**created("e-1", code="OTHER"), "more": None})
    [again] = retry(store, other, derived_id=True)
    assert (again.open, again.said) == (False, "retried under a derived id: duplicate of position 2")
    assert store.head() == 2


def test_a_retry_that_was_cut_off_before_the_entry_was_resolved_is_finished_by_the_next(store: EventStore) -> None:
    body = encoded(created("e-1", code="OTHER"))
    number = conflict(store, created("e-1"), created("e-1", code="OTHER"))
    [read] = read_delivery(body, Route("velo", CREATED), lambda _: "shop")
    assert isinstance(read, Prepared)
    store.append(Event.from_payload(read.payload).with_derived_id(), original=body)
    [done] = retry(store, number, derived_id=True)
    assert (done.open, done.said) == (False, "retried under a derived id: duplicate of position 2")
    assert store.head() == 2


def test_an_event_appended_from_python_is_retried_from_the_payload_that_was_kept(store: EventStore) -> None:
    store.receive(encoded(created("e-1")), route="velo", handler=CREATED, site="shop")
    stands = store.find("e-1").event
    outcome = store.append(stands.model_copy(update={"order_id": "o-1"}))
    assert outcome.quarantine_id is not None
    [done] = retry(store, outcome.quarantine_id, derived_id=True)
    assert done.said == "retried under a derived id: appended at position 2"
    assert row(store, 2)["original"] is None
    assert store.show_quarantined(outcome.quarantine_id).contradiction is not None


def test_a_delivery_in_the_log_s_own_spelling_is_no_event(store: EventStore) -> None:
    store.receive(encoded(created("e-1")), route="velo", handler=CREATED, site="shop")
    payload, _ = store.find("e-1").event.model_copy(update={"event_id": "forged"}).encode()
    [done] = retry(store, keep(store, payload))
    assert done.open
    assert store.head() == 1


def test_a_retry_is_counted_as_no_delivery(store: EventStore) -> None:
    conflict(store, created("e-1"), created("e-1", code="OTHER"))
    keep(store, unreadable())
    keep(store, encoded(created("e-2")))
    keep(store, encoded(created("e-1")), site="shop")
    before = counts.totals(store.engine)
    assert len(list(store.retry_quarantined())) == 4
    assert len(list(store.retry_quarantined(derived_id=True))) == 2
    assert counts.totals(store.engine) == before


def test_one_entry_that_fails_does_not_stop_the_rest(store: EventStore) -> None:
    ids = [
        keep(store, encoded(created("e-1"))),
        keep(store, b"\xff not JSON"),
        keep(store, encoded(created("e-2")), handler="wixMarketing_onCouponVanished"),
        keep(store, fixture("sdk_loyalty_coupon_created.json"), route="sdk", site="shop"),
        keep(store, encoded(created("e-3"))),
    ]
    done = retry(store, *ids)
    assert [(each.id, each.open) for each in done] == list(zip(ids, [False, True, True, True, False], strict=True))
    assert "not UTF-8" in done[1].said
    assert "unknown handler" in done[2].said
    assert f"belongs to the site {SITE}, not to shop" in done[3].said
    assert [record.event.event_id for record in store.stream()] == ["e-1", "e-3"]


def test_a_store_that_cannot_take_events_is_no_fault_of_the_entry(store: EventStore) -> None:
    number = keep(store, encoded(created("e-1")))
    store.close()
    with pytest.raises(StoreUnavailable):
        retry(store, number)
    assert listed(store)[number].resolved_at is None
    store.engine.dispose()


def test_an_unknown_id_is_told_before_anything_is_done(store: EventStore) -> None:
    number = keep(store, encoded(created("e-1")))
    with pytest.raises(NotFound, match="no entry 99"):
        store.retry_quarantined([number, 99])
    with pytest.raises(NotFound, match="no entry 99"):
        store.resolve_quarantined([number, 99], "dealt with")
    assert listed(store)[number].resolved_at is None


def test_all_are_those_open_now_of_the_kind_and_site_asked_for(store: EventStore) -> None:
    ours = keep(store, encoded(created("e-1")))
    theirs = keep(store, encoded(created("e-1")), site="other shop")
    contradiction = conflict(store, created("e-2"), created("e-2", code="OTHER"))
    dealt_with = keep(store, encoded(created("e-3")))
    store.resolve_quarantined([dealt_with], "not ours")
    assert [each.id for each in store.retry_quarantined(kind="conflict")] == [contradiction]
    assert [each.id for each in store.retry_quarantined(site_id="other shop")] == [theirs]
    assert [each.id for each in store.retry_quarantined()] == [ours, contradiction]
    with pytest.raises(InputError, match="not both"):
        store.retry_quarantined([ours], kind="conflict")


def test_every_open_entry_is_tried_however_many_pages_they_are(new_store: OpenStore) -> None:
    with new_store() as store:
        bodies = [encoded(created(f"e-{number}")) for number in range(230)]
        store.submit([Rejected("shop", "velo", CREATED, None, "unread", body) for body in bodies]).result()
        assert sum(not each.open for each in store.retry_quarantined()) == 230
        assert store.list_quarantined() == []
        assert store.head() == 230


def test_a_resolved_entry_is_not_retried_but_told(store: EventStore) -> None:
    number = keep(store, encoded(created("e-1")))
    store.resolve_quarantined([number], "not our shop")
    [done] = retry(store, number)
    assert not done.open
    assert done.said.endswith("UTC: not our shop")
    assert store.head() == 0


@pytest.mark.parametrize("derived_id", [False, True])
def test_many_retries_of_one_entry_at_once_append_once_and_resolve_once(store: EventStore, derived_id: bool) -> None:
    url = store.engine.url.render_as_string(hide_password=False)
    with EventStore.open(url) as other:
        for round_ in range(5):
            if derived_id:
                number = conflict(store, created(f"e-{round_}"), created(f"e-{round_}", code=f"OTHER{round_}"))
            else:
                number = keep(store, encoded(created(f"e-{round_}")))
            before = store.head()
            barrier = threading.Barrier(6)

            def call(opened: EventStore, number: int = number, barrier: threading.Barrier = barrier) -> Retried:
                barrier.wait()
                [done] = retry(opened, number, derived_id=derived_id)
                return done

            with ThreadPoolExecutor(6) as pool:
                done = list(pool.map(call, [store, other] * 3))
            assert store.head() == before + 1
            assert not any(each.open for each in done)
            kinds = [outcome.kind for each in done for outcome in each.outcomes]
            assert kinds.count(OutcomeKind.APPENDED) == 1
            resolution = listed(store)[number].resolution
            assert resolution is not None
            assert [each.said for each in done].count(resolution) == 1
            assert all(each.said.endswith(resolution) for each in done)
    assert len(listed(store)) == 5


# Signed webhooks


@pytest.fixture
def app(store: EventStore) -> EventStore:
    """The store, with an app registered."""
    register(store)
    return store


def test_a_signed_webhook_is_verified_anew_and_appended_with_its_token(app: EventStore) -> None:
    token = signed()
    [done] = retry(app, keep(app, token, route="rest", handler=None, site=SITE))
    assert (done.open, done.said) == (False, "retried: appended at position 1")
    assert original(app, 1) == token
    assert app.find(json.loads(fixture("rest_coupon_created.json"))["id"]).event.site_id == SITE


def test_a_webhook_whose_signature_does_not_hold_stays_open(app: EventStore) -> None:
    _, _, signature = signed().rpartition(b".")
    forged, _, _ = signed(id="another").rpartition(b".")
    number = keep(app, forged + b"." + signature, route="rest", handler=None, site=SITE)
    [done] = retry(app, number)
    assert done.open
    assert "signed" in done.said
    assert app.head() == 0


def test_a_genuine_webhook_that_still_cannot_be_read_stays_open(app: EventStore) -> None:
    outcome = app.receive_webhook(signed(eventTime="no time"))
    assert outcome.quarantine_id is not None
    [done] = retry(app, outcome.quarantine_id)
    assert done.open
    assert "eventTime" in done.said
    assert list(listed(app)) == [outcome.quarantine_id]


def test_a_signed_webhook_in_conflict_is_shown_and_appended_under_a_derived_id(app: EventStore) -> None:
    app.receive_webhook(signed())
    token = signed(eventTime="2020-08-17T00:00:00Z")
    outcome = app.receive_webhook(token)
    assert outcome.quarantine_id is not None
    against = app.show_quarantined(outcome.quarantine_id).contradiction
    assert against is not None
    assert [each.path for each in against.differences] == ["event_time"]
    [done] = retry(app, outcome.quarantine_id, derived_id=True)
    assert done.said == "retried under a derived id: appended at position 2"
    assert original(app, 2) == token
