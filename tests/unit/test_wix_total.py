"""Reading is total: whatever JSON arrives, there is an event that can be stored, or a refusal that says why."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstore.errors import EventStoreError, UnknownHandler, UnreadableDelivery
from eventstore.event import Event, Source
from eventstore.wix import HANDLERS, decode, read, read_envelope, read_snapshot, site_of

DATA = Path(__file__).parent.parent / "data" / "wix"
INDEX = json.loads((DATA / "INDEX.json").read_text(encoding="utf-8"))
SITE = "the caller's site"
NOW = datetime(2025, 6, 1, tzinfo=UTC)
T = TypeVar("T")
Delivery = tuple[dict[str, Any], str | None, str | None]
"""Body, route, handler."""
BODIES = {
    delivery["file"]: json.loads((DATA / delivery["file"]).read_text("utf-8")) for delivery in INDEX["deliveries"]
}
HANDLER_OF = {delivery["file"]: delivery.get("handler") for delivery in INDEX["deliveries"]}

nasty: st.SearchStrategy[Any] = st.sampled_from(
    [
        *(None, True, False, 0, 1, -1, 5.5, -0.0, 1e300, 1e-300, 2**63, 2**64, -(2**63), 10**30),
        *("", " ", "\0", "a\0b", "\n", "é", "x" * 201, "x" * 20_001, "0", "-1", "1.5", "9" * 30, "9" * 5000, "NaN"),
        *("1E+9999999", "1E-9999999", "true", "Invalid Date", "2021-02-30T00:00:00Z", "0001-01-01T00:00:00+14:00"),
        *("Tue Feb 30 2021 00:00:00 GMT+0000", "8640000000000001", "MoneyOff", "APP", "{", "[]", "null", "{}"),
        *([], {}, [[]], {"value": None}, {"value": {"value": 1}}, {"value": []}, {"x": 0}, {"url": 5}, {"": ""}),
        *('{"entity":{}}', {"entityAsJson": "{}"}, {"coupon": {"id": "c"}}, {"id": "a"}, {"_id": "a", "id": "b"}),
    ]
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | texts
finite = st.floats(allow_nan=False, allow_infinity=False)
names = st.text("_abcidxvalue\0", max_size=6)
values = nasty | st.recursive(
    scalars | finite,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)
keys = st.sampled_from(
    """id _id entityId eventTime metadata entity data coupon coupons specification scope group name value eventType
    instanceId identity accountInfo createdEvent actionEvent bodyAsJson entityFqdn slug buyXGetY displayData mediaItem
    couponReference modifiedFields restoreInfo identityType memberId new _new startTime type""".split()  # noqa: SIM905
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value inside `value`."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, child in children for found in ((*path, key), *places(child, (*path, key)))]


def mutate(draw: st.DrawFn, value: Any) -> None:
    """Delete, replace or insert one thing somewhere in `value`."""
    found = places(value)
    path = draw(st.sampled_from(found)) if found else ()
    parent = value
    for key in path[:-1]:
        parent = parent[key]
    action = draw(st.sampled_from(("delete", "replace", "replace", "insert", "text")))
    if not path or (action == "insert" and isinstance(parent, dict)):
        if isinstance(parent, dict):
            parent[draw(keys)] = deepcopy(draw(values))
    elif action == "delete":
        del parent[path[-1]]
    elif action == "text":
        inner = parent[path[-1]]
        with suppress(ValueError, TypeError):
            inner = json.loads(inner)
            mutate(draw, inner)
        parent[path[-1]] = json.dumps(inner)
    else:
        parent[path[-1]] = deepcopy(draw(values))


@st.composite
def deliveries(draw: st.DrawFn) -> Delivery:
    """A documented body with a few faults, a route and a handler, mostly the fitting ones."""
    file = draw(st.sampled_from(sorted(BODIES)))
    body = deepcopy(BODIES[file])
    for _ in range(draw(st.integers(1, 4))):
        mutate(draw, body)
    fitting = draw(st.integers(0, 3)) > 0
    route = None if fitting else draw(st.sampled_from([*Source, "other"]))
    handler = HANDLER_OF[file] if fitting else draw(st.sampled_from([None, "wixStores_onOrderPaid", *HANDLERS]))
    return body, route, handler


def outcome(reading: Callable[[], T]) -> T | EventStoreError:
    """What was read, or the refusal. Any other error goes through and fails the test."""
    try:
        return reading()
    except (UnreadableDelivery, UnknownHandler) as refusal:
        return refusal


def check(reading: Callable[[], list[Event]], sites: set[str | None]) -> None:
    """What was read can be stored and found again unchanged; a refusal says why in a sentence."""
    found = outcome(reading)
    if isinstance(found, EventStoreError):
        assert 0 < len(str(found)) < 1000
        return
    for event in found:
        payload, content_hash = event.encode()
        stored = Event.from_payload(payload)
        assert stored == event
        assert stored.encode() == (payload, content_hash)
        assert b"\\u0000" not in payload.replace(rb"\\", b"")
        assert event.event_time.tzinfo is UTC
        assert event.site_id in sites


@settings(max_examples=300, deadline=None)
@given(deliveries())
def test_a_faulty_delivery_is_a_sound_event_or_a_refusal(
    delivery: tuple[dict[str, Any], str | None, str | None],
) -> None:
    body, route, handler = delivery
    told = decode(json.dumps(body).encode())
    sites = {SITE, site_of(told)}
    before = orjson.dumps(told)
    check(lambda: read(told, route=route, handler=handler, site_id=SITE, observed_at=NOW), sites)
    check(lambda: [read_envelope(told)], sites)
    assert orjson.dumps(told) == before


@settings(max_examples=80, deadline=None)
@given(
    st.dictionaries(keys, values, max_size=6),
    st.none() | st.sampled_from(list(Source)),
    st.sampled_from(list(HANDLERS)),
)
def test_any_object_is_a_sound_event_or_a_refusal(body: dict[str, Any], route: str | None, handler: str) -> None:
    check(lambda: read(body, route=route, handler=handler, site_id=SITE, observed_at=NOW), {SITE, site_of(body)})


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=60) | texts.map(str.encode))
def test_any_bytes_are_an_object_or_malformed(body: bytes) -> None:
    found = outcome(partial(decode, body))
    assert isinstance(found, dict) or (isinstance(found, UnreadableDelivery) and found.malformed)


def deep(levels: int) -> Any:
    value: Any = {}
    for _ in range(levels):
        value = {"a": [value]}
    return value


@pytest.mark.parametrize("file", sorted(BODIES))
def test_depth_without_bound_is_refused_wherever_it_stands(file: str) -> None:
    for path in places(BODIES[file]):
        body = deepcopy(BODIES[file])
        parent = body
        for key in path[:-1]:
            parent = parent[key]
        parent[path[-1]] = deep(2 * sys.getrecursionlimit())
        if isinstance(parent, dict):
            parent["newField"] = parent[path[-1]]
        reading = partial(read, body, route=None, handler=HANDLER_OF[file], site_id=SITE, observed_at=NOW)
        check(reading, {SITE, site_of(body)})


@pytest.mark.parametrize("body", [None, [], "text", 5, True])
def test_what_is_not_an_object_is_malformed(body: Any) -> None:
    with pytest.raises(UnreadableDelivery) as refusal:
        read(body, route=None, handler=None, site_id=SITE, observed_at=NOW)
    assert refusal.value.malformed
    assert site_of(body) is None


def test_a_callers_own_mistake_is_a_refusal_too() -> None:
    page = {"coupons": [{"id": "c"}]}
    with pytest.raises(UnreadableDelivery, match="timezone"):
        read_snapshot(page, site_id=SITE, observed_at=datetime(2025, 1, 1))  # noqa: DTZ001
    with pytest.raises(UnreadableDelivery):
        read_snapshot(page, site_id="", observed_at=NOW)
