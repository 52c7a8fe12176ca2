"""Quarantine as people work with it: listing, showing, trying again, marking as dealt with, from Python and by command."""

from __future__ import annotations

import json
import subprocess
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError

from eventstore import apps
from eventstore.errors import InputError, NotFound, StoreUnavailable
from eventstore.event import Event, Source
from eventstore.ingest import Route, read_delivery
from eventstore.log import counts
from eventstore.log.records import Outcome, OutcomeKind, Prepared, Rejected
from eventstore.log.tables import events
from eventstore.quarantine import Difference, Entry
from eventstore.retry import Retried
from eventstore.store import EventStore
from tests.conftest import OpenStore
from tests.serving import (
    APPLIED,
    CREATED,
    INDEX,
    PATIENCE,
    SITE,
    applied,
    cli,
    command,
    created,
    environment,
    fixture,
    only,
    wrapped,
)

UNSIGNED = [document for document in INDEX["deliveries"] if document["route"] in set(Source)]
HEADERS = {"content-type": "application/json", "user-agent": "Wix"}


def encoded(delivery: dict[str, Any]) -> bytes:
    return json.dumps(delivery).encode()


def keep(
    store: EventStore,
    body: bytes,
    *,
    route: str = "velo",
    handler: str | None = CREATED,
    site: str = "shop",
    event_id: str | None = None,
) -> int:
    """Keep a delivery that the readers of the day could not read; today's may."""
    entry = Rejected(site, route, handler, event_id, "an older reader could not read it", body, HEADERS)
    [outcome] = store.submit([entry]).result()
    assert outcome.quarantine_id is not None
    return outcome.quarantine_id


def conflict(store: EventStore, first: dict[str, Any], second: dict[str, Any]) -> int:
    """Two deliveries under one id; the entry of the second."""
    store.receive(encoded(first), route="velo", handler=CREATED, site="shop")
    [outcome] = store.receive(encoded(second), route="velo", handler=CREATED, site="shop")
    assert outcome.kind is OutcomeKind.CONFLICT
    assert outcome.quarantine_id is not None
    return outcome.quarantine_id


def unreadable(number: int = 0) -> bytes:
    return encoded({"metadata": {"id": f"u{number}", "entityId": "c-1", "eventTime": "no time"}, "entity": {}})


def retry(store: EventStore, *ids: int, derived_id: bool = False) -> list[Retried]:
    return list(store.retry_quarantined(ids, derived_id=derived_id))


def listed(store: EventStore) -> dict[int, Entry]:
    return {entry.id: entry for entry in store.list_quarantined(resolved=True)}


def original(store: EventStore, position: int) -> bytes:
    """The exact bytes that the event at this position was delivered as."""
    with store.engine.connect() as connection:
        kept = connection.execute(select(events.c.original).where(events.c.position == position)).scalar_one()
    return zlib.decompress(kept)


def row(store: EventStore, position: int) -> dict[str, Any]:
    """What the log holds of an event, but for where and when it was recorded."""
    with store.engine.connect() as connection:
        found = connection.execute(select(events).where(events.c.position == position)).mappings().one()
    return {name: value for name, value in found.items() if name not in ("position", "recorded_at", "leaf_hash")}


# Listing


def test_open_entries_are_listed_oldest_first_and_a_page_at_a_time(store: EventStore) -> None:
    kept = [keep(store, unreadable(number)) for number in range(5)]
    store.resolve_quarantined([kept[1]], "not ours")
    pages = [store.list_quarantined(limit=2)]
    while pages[-1]:
        pages.append(store.list_quarantined(after=pages[-1][-1].id, limit=2))
    assert [[entry.id for entry in page] for page in pages] == [[kept[0], kept[2]], [kept[3], kept[4]], []]
    assert [entry.id for entry in store.list_quarantined(resolved=True)] == kept


def test_a_listed_entry_says_what_is_known_of_the_delivery(store: EventStore) -> None:
    before = datetime.now(UTC)
    number = keep(store, unreadable())
    [entry] = store.list_quarantined()
    assert before - timedelta(seconds=1) < entry.received_at < datetime.now(UTC) + timedelta(seconds=1)
    assert entry == Entry(
        number,
        "quarantined",
        "shop",
        "velo",
        CREATED,
        None,
        None,
        "an older reader could not read it",
        len(unreadable()),
        entry.received_at,
        None,
        None,
    )


def test_the_list_is_of_one_kind_or_site_if_asked(store: EventStore) -> None:
    elsewhere = keep(store, unreadable(1), site="other shop")
    contradiction = conflict(store, created("e-1"), created("e-1", code="OTHER"))
    assert [entry.id for entry in store.list_quarantined(kind="conflict")] == [contradiction]
    assert [entry.id for entry in store.list_quarantined(site_id="other shop")] == [elsewhere]
    assert store.list_quarantined(kind="conflict", site_id="other shop") == []
    with pytest.raises(InputError, match="kinds are conflict, quarantined"):
        store.list_quarantined(kind="unread")


# Showing


def test_an_entry_is_shown_with_its_exact_bytes_and_headers(store: EventStore) -> None:
    body = b'\xef\xbb\xbf {"spelt":   "as it was" }\r\n'
    shown = store.show_quarantined(keep(store, body))
    assert (shown.body, shown.size, shown.headers, shown.contradiction) == (body, len(body), HEADERS, None)


@pytest.mark.parametrize("number", [7, 0, -1, 2**63, 2**200])
def test_an_entry_that_is_not_there_is_not_found(store: EventStore, number: int) -> None:
    with pytest.raises(NotFound, match=f"no entry {number} in quarantine"):
        store.show_quarantined(number)
    with pytest.raises(NotFound):
        store.retry_quarantined([number])
    with pytest.raises(NotFound):
        store.resolve_quarantined([number], "dealt with")


def test_a_conflict_is_shown_beside_what_stands_in_the_log(store: EventStore) -> None:
    number = conflict(store, created("e-1"), created("e-1", code="OTHER", percentOffRate=15, name="Summer"))
    against = store.show_quarantined(number).contradiction
    assert against is not None
    assert (against.position, against.problem) == (1, None)
    assert against.differences == (
        Difference("coupon.code", "SPRING", "OTHER"),
        Difference("coupon.discount.value", "10", "15"),
        Difference("coupon.name", None, "Summer"),
    )


def test_a_conflict_of_two_sequences_shows_them(store: EventStore) -> None:
    first = Event(
        event_id="e-1",
        type="coupon.updated",
        entity_id="c-1",
        event_time=datetime(2026, 9, 1, tzinfo=UTC),
        source=Source.REST,
        site_id="shop",
        sequence=1,
    )
    store.append(first)
    outcome = store.append(first.model_copy(update={"sequence": 2}))
    assert outcome.quarantine_id is not None
    against = store.show_quarantined(outcome.quarantine_id).contradiction
    assert against is not None
    assert against.differences == (Difference("sequence", 1, 2),)


# Retrying


@pytest.mark.parametrize("document", UNSIGNED, ids=lambda document: document["file"])
def test_what_is_read_at_last_is_appended_exactly_as_a_fresh_delivery_would_be(
    sqlite_store: EventStore, new_store: OpenStore, document: dict[str, Any]
) -> None:
    body, route, handler = fixture(document["file"]), document["route"], document.get("handler")
    number = keep(sqlite_store, body, route=route, handler=handler, site=SITE)
    received_at = listed(sqlite_store)[number].received_at
    [done] = retry(sqlite_store, number)
    assert not done.open
    with new_store() as fresh:
        fresh.submit(read_delivery(body, Route(route, handler, received_at), lambda _: SITE)).result()
        assert sqlite_store.head() == fresh.head() > 0
        for position in range(1, fresh.head() + 1):
            assert row(sqlite_store, position) == row(fresh, position)


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


# Resolving


def test_a_person_resolves_entries_with_a_note(store: EventStore) -> None:
    first, second = keep(store, unreadable(1)), keep(store, unreadable(2))
    store.resolve_quarantined([second, first, second], "Sent again by hand – 通知済み")
    found = listed(store)
    assert {found[number].resolution for number in (first, second)} == {"Sent again by hand – 通知済み"}
    assert store.list_quarantined() == []
    assert store.status().quarantined == 0


def test_a_resolved_entry_is_not_resolved_again_and_the_error_says_when_and_how_it_was(store: EventStore) -> None:
    first, second = keep(store, unreadable(1)), keep(store, unreadable(2))
    store.resolve_quarantined([second], "not ours")
    before = listed(store)
    assert before[second].resolved_at is not None
    when = f"{before[second].resolved_at:%Y-%m-%d %H:%M:%S} UTC"
    with pytest.raises(InputError, match=f"entry {second} was resolved at {when}: not ours"):
        store.resolve_quarantined([first, second], "dealt with")
    assert listed(store) == before


@pytest.mark.parametrize("note", ["", "   ", "x" * 501, "two\nlines", "bell\a", "\x9b2J", "half \ud800", "a\u2028b"])
def test_a_note_is_one_line_of_text(store: EventStore, note: str) -> None:
    number = keep(store, unreadable())
    with pytest.raises(InputError, match="a note"):
        store.resolve_quarantined([number], note)
    assert [entry.id for entry in store.list_quarantined()] == [number]


def test_of_many_who_resolve_an_entry_at_once_one_does(store: EventStore) -> None:
    number = keep(store, unreadable())
    barrier = threading.Barrier(5)

    def call(person: int) -> bool:
        barrier.wait()
        try:
            store.resolve_quarantined([number], f"by {person}")
        except InputError:
            return False
        return True

    with ThreadPoolExecutor(5) as pool:
        assert list(pool.map(call, range(5))).count(True) == 1


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM quarantine",
        "UPDATE quarantine SET reason = 'none', resolution = 'none'",
        "UPDATE quarantine SET event_id = 'forged' WHERE resolved_at IS NOT NULL",
    ],
)
def test_an_entry_stays_what_it_was_however_it_was_resolved(store: EventStore, statement: str) -> None:
    retry(store, keep(store, encoded(created("e-1"))))
    store.resolve_quarantined([keep(store, unreadable())], "not ours")
    before = listed(store)
    with store.engine.connect() as connection, pytest.raises(DBAPIError, match="quarantine"):
        connection.execute(text(statement))
    assert listed(store) == before


# Signed webhooks


@pytest.fixture(scope="session")
def signing_key() -> rsa.RSAPrivateKey:
    """A key as a Wix app's, made once: making one takes longer than any test here."""
    return rsa.generate_private_key(public_exponent=65_537, key_size=2_048)


@pytest.fixture
def app(store: EventStore, signing_key: rsa.RSAPrivateKey) -> EventStore:
    """The store, with an app registered whose webhooks `signing_key` signs."""
    pem = signing_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    apps.add_app(store.engine, name="shop-app", key=pem, instances=[SITE])
    return store


def signed(key: rsa.RSAPrivateKey, **changes: Any) -> bytes:
    """A webhook as Wix posts it: a coupon's creation, with fields of the event changed."""
    event = {**json.loads(fixture("rest_coupon_created.json")), **changes}
    envelope = {
        "eventType": "wix.ecommerce.coupons.v2.coupon_created",
        "instanceId": SITE,
        "data": json.dumps(event),
    }
    now = int(datetime.now(UTC).timestamp())
    claims = {"data": json.dumps(envelope), "iat": now, "exp": now + 300}
    return jwt.encode(claims, key, algorithm="RS256").encode()


def test_a_signed_webhook_is_verified_anew_and_appended_with_its_token(
    app: EventStore, signing_key: rsa.RSAPrivateKey
) -> None:
    token = signed(signing_key)
    [done] = retry(app, keep(app, token, route="rest", handler=None, site=SITE))
    assert (done.open, done.said) == (False, "retried: appended at position 1")
    assert original(app, 1) == token
    assert app.find(json.loads(fixture("rest_coupon_created.json"))["id"]).event.site_id == SITE


def test_a_webhook_whose_signature_does_not_hold_stays_open(app: EventStore, signing_key: rsa.RSAPrivateKey) -> None:
    _, _, signature = signed(signing_key).rpartition(b".")
    forged, _, _ = signed(signing_key, id="another").rpartition(b".")
    number = keep(app, forged + b"." + signature, route="rest", handler=None, site=SITE)
    [done] = retry(app, number)
    assert done.open
    assert "signed" in done.said
    assert app.head() == 0


def test_a_genuine_webhook_that_still_cannot_be_read_stays_open(
    app: EventStore, signing_key: rsa.RSAPrivateKey
) -> None:
    outcome = app.receive_webhook(signed(signing_key, eventTime="no time"))
    assert outcome.quarantine_id is not None
    [done] = retry(app, outcome.quarantine_id)
    assert done.open
    assert "eventTime" in done.said
    assert list(listed(app)) == [outcome.quarantine_id]


def test_a_signed_webhook_in_conflict_is_shown_and_appended_under_a_derived_id(
    app: EventStore, signing_key: rsa.RSAPrivateKey
) -> None:
    app.receive_webhook(signed(signing_key))
    token = signed(signing_key, eventTime="2020-08-17T00:00:00Z")
    outcome = app.receive_webhook(token)
    assert outcome.quarantine_id is not None
    against = app.show_quarantined(outcome.quarantine_id).contradiction
    assert against is not None
    assert [each.path for each in against.differences] == ["event_time"]
    [done] = retry(app, outcome.quarantine_id, derived_id=True)
    assert done.said == "retried under a derived id: appended at position 2"
    assert original(app, 2) == token


# By command


class Command:
    """The CLI on one store, each call a process of its own."""

    def __init__(self, store: EventStore, folder: Path) -> None:
        self.url = store.engine.url.render_as_string(hide_password=False)
        self.folder = folder

    def __call__(self, *arguments: str, status: int = 0) -> str:
        """What the command prints; it must end with `status`."""
        done = cli("--store", self.url, "quarantine", *arguments, cwd=self.folder)
        assert done.returncode == status, done.stderr or done.stdout
        assert "Traceback" not in done.stderr
        return done.stdout if status in (0, 1) and done.stdout else done.stderr

    def bytes(self, *arguments: str) -> bytes:
        """The exact bytes that the command prints."""
        done = subprocess.run(
            command("--store", self.url, "quarantine", *arguments),
            cwd=self.folder,
            env=environment(),
            capture_output=True,
            timeout=PATIENCE,
            check=True,
        )
        assert done.stderr == b""
        return done.stdout


@pytest.fixture
def quarantine(store: EventStore, tmp_path: Path) -> Command:
    return Command(store, tmp_path)


def test_the_list_is_a_table_for_people_and_json_for_programs(store: EventStore, quarantine: Command) -> None:
    first = keep(store, unreadable(1))
    second = conflict(store, created("e-1"), created("e-1", code="OTHER"))
    store.resolve_quarantined([first], "not ours")
    table = quarantine("list")
    assert "event id e-1 stands at position 1" in table
    assert "an older reader" not in table
    assert "not ours" in quarantine("list", "--all")
    found = json.loads(quarantine("list", "--all", "--json"))
    assert [(each["id"], each["kind"], each["resolution"]) for each in found] == [
        (first, "quarantined", "not ours"),
        (second, "conflict", None),
    ]
    assert found[0].keys() == set(Entry.__dataclass_fields__)
    assert json.loads(quarantine("list", "--kind", "quarantined", "--json")) == []
    page = json.loads(quarantine("list", "--all", "--after", str(first), "--limit", "1", "--json"))
    assert [each["id"] for each in page] == [second]


def test_show_makes_control_characters_visible_and_sets_a_conflict_beside_the_log(
    store: EventStore, quarantine: Command
) -> None:
    number = conflict(store, created("e-1"), created("e-1", code="\x1b[2J\x9b2J"))
    shown = quarantine("show", str(number))
    assert "\x1b" not in shown
    assert "\x9b" not in shown
    assert "In the log under this id, at position 1" in shown
    assert "SPRING" in shown
    assert '"code": "\\u001b[2J\ufffd2J"' in shown
    told = json.loads(quarantine("show", str(number), "--json"))
    assert told["body"] == created("e-1", code="\x1b[2J\x9b2J")
    assert (told["body_form"], told["size"]) == ("json", len(encoded(created("e-1", code="\x1b[2J\x9b2J"))))
    assert [each["path"] for each in told["contradiction"]["differences"]] == ["coupon.code"]


def test_show_body_prints_the_exact_bytes_and_nothing_else(store: EventStore, quarantine: Command) -> None:
    body = bytes(range(256)) * 1_000
    number = keep(store, body)
    assert quarantine.bytes("show", str(number), "--body") == body
    assert "not text" in quarantine("show", str(number))
    assert json.loads(quarantine("show", str(number), "--json"))["body_form"] == "bytes"
    line = " ".join(command("--store", f"'{quarantine.url}'", "quarantine", "show", str(number), "--body"))
    cut = subprocess.run(
        ["sh", "-c", f"{line} | head -c 1"],
        cwd=quarantine.folder,
        env=environment(),
        capture_output=True,
        timeout=PATIENCE,
        check=True,
    )
    assert (cut.stdout, cut.stderr) == (b"\0", b"")


def test_show_decodes_a_signed_webhook_and_says_that_it_is_one(
    app: EventStore, quarantine: Command, signing_key: rsa.RSAPrivateKey
) -> None:
    number = keep(app, signed(signing_key), route="rest", handler=None, site=SITE)
    shown = quarantine("show", str(number))
    assert "a signed webhook" in shown
    assert '"alg": "RS256"' in shown
    assert '"slug": "created"' in shown
    told = json.loads(quarantine("show", str(number), "--json"))
    assert told["body_form"] == "jwt"
    assert told["body"]["header"] == {"alg": "RS256", "typ": "JWT"}
    assert set(told["body"]["payload"]) == {"data", "iat", "exp"}


def test_what_only_looks_like_a_signed_webhook_is_shown_as_text(store: EventStore, quarantine: Command) -> None:
    number = keep(store, b"eyJ.x.y")
    assert "eyJ.x.y" in quarantine("show", str(number))
    assert "stays open" in quarantine("retry", str(number), status=1)


def test_retry_by_command_ends_with_1_while_any_entry_stays_open(store: EventStore, quarantine: Command) -> None:
    readable = keep(store, encoded(created("e-1")))
    number = conflict(store, created("e-2"), created("e-2", code="OTHER"))
    said = quarantine("retry", "--all", status=1)
    assert said.splitlines() == [
        f"{readable}: resolved: retried: appended at position 2",
        f"{number}: stays open: event id e-2 stands at position 1 with other content",
    ]
    told = json.loads(quarantine("retry", str(number), "--derived-id", "--json"))
    assert [(each["id"], each["open"], each["said"]) for each in told] == [
        (number, False, "retried under a derived id: appended at position 3")
    ]
    assert told[0]["events"][0]["outcome"] == "appended"
    assert quarantine("list", "--json").strip() == "[]"


def test_resolve_by_command_keeps_the_note(store: EventStore, quarantine: Command) -> None:
    first, second = keep(store, unreadable(1)), keep(store, unreadable(2))
    assert quarantine("resolve", str(first), str(second), "--note", "sent again") == f"resolved {first}, {second}\n"
    assert {entry.resolution for entry in listed(store).values()} == {"sent again"}
    assert "UTC: sent again" in quarantine("resolve", str(first), "--note", "twice", status=1)


def test_wrong_use_is_one_line_and_a_status_that_means_it(sqlite_store: EventStore, tmp_path: Path) -> None:
    quarantine = Command(sqlite_store, tmp_path)
    number = str(keep(sqlite_store, unreadable()))
    for arguments, status in {
        ("show", "99"): 3,
        ("show", number, "--body", "--json"): 2,
        ("retry", "99"): 3,
        ("retry",): 2,
        ("retry", number, "--all"): 2,
        ("retry", number, "--kind", "conflict"): 2,
        ("resolve", number): 2,
        ("resolve", "99", "--note", "none"): 3,
        ("resolve", number, "--note", "two\nlines"): 1,
        ("list", "--kind", "other"): 2,
    }.items():
        assert quarantine(*arguments, status=status).lower().count("error: ") == 1, arguments
