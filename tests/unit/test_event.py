"""The canonical Event: one text for one fact, and a hash over what happened but not over how it was told."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta, timezone
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from eventstore.event import (
    AMOUNT_LIMIT,
    INT64_MAX,
    Account,
    Actor,
    Coupon,
    Discount,
    DiscountType,
    Event,
    Loyalty,
    Scope,
    Source,
    canonical_amount,
)
from eventstore.log.append import KnownEvent
from eventstore.log.records import prepare
from tests.histories import contradicted, events, retold

HOW_IT_WAS_TOLD = [
    "source",
    "site_id",
    "dated",
    "sequence",
    "restored",
    "originated_from",
    "actor",
    "account",
    "changed",
]
few = settings(max_examples=30)

FREE = Discount(type=DiscountType.FREE_SHIPPING)


def an_event(**given_: Any) -> Event:
    fields: dict[str, Any] = {
        "event_id": "e1",
        "type": "coupon.created",
        "entity_id": "c1",
        "coupon_id": "c1",
        "event_time": datetime(2026, 9, 1, 12, tzinfo=UTC),
        "source": Source.REST,
        "site_id": "site",
    }
    return Event(**(fields | given_))


# Amounts


@pytest.mark.parametrize(
    ("given_", "text"),
    [
        ("5", "5"),
        ("5.0", "5"),
        ("5.00", "5"),
        ("0.50", "0.5"),
        ("1E+3", "1000"),
        ("1.5E+3", "1500"),
        ("-0", "0"),
        ("-0.0000001", "0"),
        ("0.000001", "0.000001"),
        ("0.0000015", "0.000002"),
        ("0.0000025", "0.000002"),
        ("10.1234565", "10.123456"),
        ("999999999999.999999", "999999999999.999999"),
        ("-999999999999.999999", "-999999999999.999999"),
        ("100000000000", "100000000000"),
    ],
)
def test_an_amount_has_one_text(given_: str, text: str) -> None:
    assert str(canonical_amount(Decimal(given_))) == text


@pytest.mark.parametrize("given_", ["NaN", "sNaN", "Infinity", "-Infinity", "1E+12", "-1E+12", "999999999999.9999995"])
def test_an_amount_that_no_engine_could_keep_is_refused(given_: str) -> None:
    with pytest.raises(ValueError, match="finite amount"):
        canonical_amount(Decimal(given_))


@given(st.decimals(min_value=-(10**11), max_value=10**11, allow_nan=False))
def test_an_amount_is_rounded_to_six_decimals_once_and_never_again(given_: Decimal) -> None:
    once = canonical_amount(given_)
    assert str(canonical_amount(once)) == str(once)
    assert "E" not in str(once)
    assert abs(once) < AMOUNT_LIMIT
    exact = given_.quantize(Decimal("0.000001"), ROUND_HALF_EVEN)
    assert once == exact


# What an event may not be


def test_times_are_kept_in_utc_whatever_offset_they_came_with() -> None:
    there = datetime(2026, 9, 1, 14, tzinfo=timezone(timedelta(hours=2)))
    assert an_event(event_time=there).event_time.utcoffset() == timedelta(0)
    assert an_event(event_time=there) == an_event()
    assert an_event(event_time=there).encode() == an_event().encode()


@pytest.mark.parametrize(
    "wrong",
    [
        {"event_time": datetime(2026, 9, 1)},  # noqa: DTZ001 - that is the point
        {"event_id": ""},
        {"event_id": "two\nlines"},
        {"event_id": "x" * 201},
        {"site_id": "\x00"},
        {"entity_id": None},
        {"sequence": 2**63},
        {"originated_from": "nul \x00"},
        {"source": "elsewhere"},
        {"unheard_of": 1},
        {"app_id": "\ud800"},
    ],
    ids=str,
)
def test_what_would_make_an_event_meaningless_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        an_event(**wrong)


def test_an_event_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        an_event().site_id = "other"  # type: ignore[misc]


# Payload


@few
@given(events)
def test_a_payload_gives_back_the_same_event_and_the_same_bytes(event: Event) -> None:
    payload, content_hash = event.encode()
    again = Event.from_payload(payload)
    assert again == event
    assert again.encode() == (payload, content_hash)


@few
@given(events)
def test_the_keys_of_a_payload_stand_in_declared_order_and_absent_ones_are_left_out(event: Event) -> None:
    document = json.loads(event.encode()[0])
    declared = [name for name in Event.model_fields if getattr(event, name) is not None]
    assert list(document) == declared


def test_a_null_that_stood_in_somebody_elses_json_is_kept() -> None:
    event = an_event(changed={"name": None}, body={"a": None, "b": [None]})
    assert Event.from_payload(event.encode()[0]) == event


# Content


@few
@given(events)
def test_both_ways_of_writing_the_content_agree(event: Event) -> None:
    assert event.encode()[1] == hashlib.sha256(event.content_json()).digest()


@pytest.mark.parametrize(
    "told",
    [
        {"changed": {"source": "rest"}},
        {"changed": {"a": {"x": 1, "source": "velo"}}},
        {"changed": {}},
        {"originated_from": ',"source":"'},
        {"originated_from": '","source":"'},
        {"actor": Actor(type=',"source":"', id=',"source":"x')},
        {"account": Account(account_id='","source":"')},
        {"site_id": ',"source":"rest"'},
    ],
    ids=str,
)
@pytest.mark.parametrize("body", [None, {"a": 1, "source": "velo"}, ',"source":"rest"'], ids=str)
def test_no_key_or_text_that_looks_like_the_border_can_move_it(told: dict[str, Any], body: Any) -> None:
    event = an_event(body=body, **told)
    assert event.encode()[1] == hashlib.sha256(event.content_json()).digest()
    assert event.encode()[1] == an_event(body=body).encode()[1]


@pytest.mark.parametrize(
    "text",
    [
        "2026-09-01T12:00:00.123456Z",
        '"event_time":"2026-09-01T12:00:00.123456Z',
        '{"created_at":"2026-09-01T12:00:00.000456Z"}',
        'event_time":"2026-09-01T12:00:00.123456Z"',
    ],
)
@pytest.mark.parametrize("micros", [0, 456, 123_000, 123_456, 999_999])
def test_a_text_that_looks_like_a_time_is_compared_whole(text: str, micros: int) -> None:
    fine = datetime(2026, 9, 1, 12, 0, 0, micros, tzinfo=UTC)
    coupon = Coupon(name=text, display_name=text, created_at=fine, discount=Discount(type=FREE.type, raw_type=text))
    for event in (
        an_event(event_time=fine, coupon=coupon, order_id=text[:200]),
        an_event(event_time=fine, coupon=coupon.model_copy(update={"extra": {"created_at": text}})),
        an_event(event_time=fine, loyalty=Loyalty(updated_at=fine, reward_name=text, extra={"updated_at": text})),
    ):
        assert event.encode()[1] == hashlib.sha256(event.content_json()).digest()


@few
@given(events)
def test_the_content_is_the_payload_without_how_it_was_told(event: Event) -> None:
    document = json.loads(event.encode()[0])
    for name in HOW_IT_WAS_TOLD:
        document.pop(name, None)
    for part in (document, document.get("coupon", {}), document.get("loyalty", {})):
        for name in {"event_time", "start_time", "expiration_time", "created_at", "updated_at"} & part.keys():
            time = datetime.fromisoformat(part[name])
            cut = time.replace(microsecond=time.microsecond // 1000 * 1000)
            part[name] = cut.isoformat().replace("+00:00", "Z")
    assert json.loads(event.content_json()) == document


def test_times_are_compared_to_the_millisecond_and_kept_to_the_microsecond() -> None:
    fine, next_one = (datetime(2026, 9, 1, 12, 0, 0, micros, tzinfo=UTC) for micros in (123_456, 124_000))
    coupon = Coupon(discount=FREE, start_time=fine, expiration_time=fine, created_at=fine)
    told = an_event(event_time=fine, coupon=coupon, loyalty=Loyalty(created_at=fine, updated_at=fine))
    cut = json.loads(told.encode()[0].replace(b".123456Z", b".123Z"))
    assert Event.model_validate(cut) != told
    assert Event.model_validate(cut).encode()[1] == told.encode()[1]
    assert Event.from_payload(told.encode()[0]) == told
    for name, part in {
        "event_time": next_one,
        "coupon": coupon.model_copy(update={"start_time": next_one}),
        "loyalty": Loyalty(created_at=fine, updated_at=next_one),
    }.items():
        assert told.model_copy(update={name: part}).encode()[1] != told.encode()[1]


def test_an_event_that_only_its_receipt_dates_is_the_same_whenever_it_is_received() -> None:
    times = [datetime(2026, 9, day, tzinfo=UTC) for day in (1, 2)]
    first, second = (an_event(event_time=time, dated=False).with_derived_id() for time in times)
    assert (first.event_id, first.encode()[1]) == (second.event_id, second.encode()[1])
    assert first.event_time != second.event_time
    dated, _ = (an_event(event_time=time).with_derived_id() for time in times)
    assert dated.event_id != first.event_id


@few
@given(data=st.data(), event=events)
def test_the_content_hash_ignores_how_the_event_was_told(data: st.DataObject, event: Event) -> None:
    assert data.draw(retold(event)).encode()[1] == event.encode()[1]


@few
@given(data=st.data(), event=events)
def test_the_content_hash_sees_whatever_happened_otherwise(data: st.DataObject, event: Event) -> None:
    assert data.draw(contradicted(event)).encode()[1] != event.encode()[1]


def test_the_content_hash_of_a_known_event_stays_what_it_is() -> None:
    event = an_event(coupon=Coupon(code="SAVE", discount=Discount(type=DiscountType.MONEY_OFF, value=Decimal("5.00"))))
    content = (
        b'{"event_id":"e1","type":"coupon.created","recognised":true,"entity_id":"c1","coupon_id":"c1",'
        b'"event_time":"2026-09-01T12:00:00Z","anonymize":false,'
        b'"coupon":{"code":"SAVE","discount":{"type":"MONEY_OFF","value":"5"},"limited_to_one_item":false,'
        b'"applies_to_subscriptions":false,"expired":false,"reported_usages":0}}'
    )
    assert event.content_json() == content
    assert event.encode()[1] == hashlib.sha256(content).digest()


# Derived ids


@few
@given(data=st.data(), event=events)
def test_a_derived_id_is_of_the_content_alone(data: st.DataObject, event: Event) -> None:
    derived = event.with_derived_id()
    assert derived.event_id.startswith("sha256:")
    assert len(derived.event_id) == len("sha256:") + 64
    assert derived.with_derived_id() == derived
    assert data.draw(retold(event)).with_derived_id().event_id == derived.event_id
    assert event.model_copy(update={"event_id": "other"}).with_derived_id().event_id == derived.event_id
    assert data.draw(contradicted(event)).with_derived_id().event_id != derived.event_id
    assert derived.model_copy(update={"event_id": event.event_id}) == event


# The same event told again


@pytest.mark.parametrize(
    ("known", "told", "same"),
    [
        (None, None, True),
        (None, 1, True),
        (1, None, True),
        (1, 1, True),
        (1, 2, False),
        (0, None, True),
        (0, 0, True),
        (0, 1, False),
        (INT64_MAX, INT64_MAX - 1, False),
    ],
)
def test_a_missing_sequence_tells_the_same_event_and_another_sequence_never_does(
    known: int | None, told: int | None, same: bool
) -> None:
    entry = prepare(an_event(sequence=told))
    assert KnownEvent(1, entry.content_hash, known).same_as(entry) is same
    assert KnownEvent(1, b"other", known).same_as(entry) is False


# Findings and personal fields


@pytest.mark.parametrize(
    ("event", "findings"),
    [
        (an_event(), ()),
        (an_event(coupon=Coupon(discount=FREE)), ()),
        (an_event(coupon_id="c2"), ("coupon_id_differs_from_entity_id",)),
        (an_event(type="loyalty_coupon.created", coupon_id="c2"), ()),
        (
            an_event(coupon=Coupon(discount=FREE, scope=Scope(namespace="bookings"), minimum_subtotal=Decimal(1))),
            ("scope_and_minimum_subtotal", "free_shipping_with_scope", "bookings_not_limited_to_one_item"),
        ),
        (
            an_event(
                coupon=Coupon(
                    discount=Discount(type=DiscountType.PERCENT_OFF),
                    scope=Scope(namespace="bookings"),
                    limited_to_one_item=True,
                )
            ),
            (),
        ),
        (an_event(coupon=Coupon(discount=FREE, code="x" * 20, name="x" * 80)), ()),
        (an_event(coupon=Coupon(discount=FREE, code="x" * 21, name="x" * 81)), ("code_too_long", "name_too_long")),
        (an_event(coupon=Coupon(discount=Discount(type=DiscountType.UNKNOWN))), ("unknown_discount",)),
    ],
)
def test_findings_say_what_is_odd_by_wix_own_rules(event: Event, findings: tuple[str, ...]) -> None:
    assert event.findings == findings


@few
@given(events)
def test_findings_are_never_a_reason_to_fail(event: Event) -> None:
    assert len(set(event.findings)) == len(event.findings)


@pytest.mark.parametrize(
    ("event", "personal"),
    [
        (an_event(), ()),
        (an_event(loyalty=Loyalty(account_id="a", member_id="m")), ("accountId", "memberId")),
        (an_event(actor=Actor(type="MEMBER", id="m")), ("identity.memberId",)),
        (an_event(actor=Actor(type="ANONYMOUS_VISITOR", id="v")), ("identity.anonymousVisitorId",)),
        (an_event(actor=Actor(type="WIX_USER", id="u")), ("identity.wixUserId",)),
        (an_event(actor=Actor(type="APP", id="app")), ()),
        (an_event(actor=Actor(type="MEMBER")), ()),
    ],
)
def test_personal_fields_are_named_as_wix_names_them(event: Event, personal: tuple[str, ...]) -> None:
    assert event.personal == personal
