"""What was true then, and what was known then: small histories whose answers are worked out by hand, by every door."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sqlalchemy import insert, update

from eventstore.errors import InputError, NotFound, StoreUnavailable
from eventstore.event import Coupon, Discount, DiscountType, Event, Source
from eventstore.log.records import now
from eventstore.log.tables import dead_letters
from eventstore.projections.moment import position_at, read_time
from eventstore.store import EventStore
from tests.commands import Command, cells
from tests.serving import APPLIED, CREATED, answers, applied, assert_problem, created, ndjson, wrapped


def day(number: int, hour: int = 0) -> datetime:
    """A time of September 2026, UTC."""
    return datetime(2026, 9, number, hour, tzinfo=UTC)


def end(number: int) -> datetime:
    """The end of a day of September 2026."""
    return day(number + 1) - timedelta(microseconds=1)


def event(number: int, type_: str, time: datetime, coupon: str = "c", code: str | None = None, **more: Any) -> Event:
    """An event of a coupon; with a code, its snapshot of the coupon."""
    discount = Discount(type=DiscountType.FREE_SHIPPING)
    snapshot = None if code is None else Coupon(code=code, discount=discount, active=True, usage_limit=2)
    fields: dict[str, Any] = {"site_id": "shop", "entity_id": coupon, "coupon_id": coupon} | more
    return Event(event_id=f"e{number}", type=type_, event_time=time, coupon=snapshot, source=Source.REST, **fields)


ARRIVAL = [
    event(1, "coupon.created", day(1), code="A"),
    event(2, "coupon.applied", day(3), order_id="o1"),
    event(3, "coupon.deleted", day(10)),
    event(4, "coupon.updated", day(2), code="B"),  # late: it was so before its first use
    event(5, "coupon.applied", day(12), order_id="o2"),
    event(6, "coupon.applied", day(2, 12), order_id="o1"),  # the same order, reported again and earlier
    event(7, "coupon.created", day(5), coupon="d", code="D"),
]
"""Two coupons, in the order recorded."""


@pytest.fixture
def shop(store: EventStore) -> EventStore:
    for each in ARRIVAL:
        store.append(each)
    store.project()
    return store


Said = tuple[str | None, str, int, int]


def said(store: EventStore, **moment: Any) -> dict[str, Said]:
    """Of each coupon its code, status, uses, and uses after its deletion."""
    return {
        each.coupon_id: (each.code, each.status.value, each.usage.times_used, each.usage.uses_after_deletion)
        for each in store.coupons(**moment)
    }


TRUE: dict[datetime, dict[str, Said]] = {
    day(1) - timedelta(microseconds=1): {},
    day(1): {"c": ("A", "active", 0, 0)},
    end(1): {"c": ("A", "active", 0, 0)},
    day(2): {"c": ("B", "active", 0, 0)},
    day(2, 12): {"c": ("B", "active", 1, 0)},
    day(3): {"c": ("B", "active", 1, 0)},
    day(5): {"c": ("B", "active", 1, 0), "d": ("D", "active", 0, 0)},
    day(10): {"c": ("B", "deleted", 1, 0), "d": ("D", "active", 0, 0)},
    day(12): {"c": ("B", "deleted", 2, 1), "d": ("D", "active", 0, 0)},
    day(30): {"c": ("B", "deleted", 2, 1), "d": ("D", "active", 0, 0)},
}
KNOWN: list[dict[str, Said]] = [
    {},
    {"c": ("A", "active", 0, 0)},
    {"c": ("A", "active", 1, 0)},
    {"c": ("A", "deleted", 1, 0)},
    {"c": ("B", "deleted", 1, 0)},
    {"c": ("B", "deleted", 2, 1)},
    {"c": ("B", "deleted", 2, 1)},
    {"c": ("B", "deleted", 2, 1), "d": ("D", "active", 0, 0)},
]
BOTH: dict[tuple[datetime, int], dict[str, Said]] = {
    (end(2), 3): {"c": ("A", "active", 0, 0)},
    (end(2), 4): {"c": ("B", "active", 0, 0)},
    (end(2), 6): {"c": ("B", "active", 1, 0)},
    (end(9), 3): {"c": ("A", "active", 1, 0)},
    (end(9), 7): {"c": ("B", "active", 1, 0), "d": ("D", "active", 0, 0)},
}


def test_the_register_and_each_coupon_are_as_worked_out_by_hand_at_every_moment(shop: EventStore) -> None:
    recorded = [record.recorded_at for record in shop.read()]
    asked: list[tuple[dict[str, Any], dict[str, Said]]] = [({"as_of": time}, found) for time, found in TRUE.items()]
    asked += [({"at_position": position}, found) for position, found in enumerate(KNOWN)]
    asked += [({"known_at": time}, KNOWN[number]) for number, time in enumerate(recorded, start=1)]
    asked += [({"known_at": recorded[0] - timedelta(microseconds=1)}, {}), ({"known_at": now()}, KNOWN[-1])]
    asked += [({"as_of": time, "at_position": position}, found) for (time, position), found in BOTH.items()]
    for number, (moment, expected) in enumerate(asked):
        assert said(shop, **moment) == expected, moment
        # Alone they are computed by the same queries: every other time will do.
        for coupon_id in ("c", "d")[number % 2 :: 2]:
            if coupon_id in expected:
                alone = shop.coupon(coupon_id, **moment)
                assert (alone.code, alone.status.value) == expected[coupon_id][:2], moment
            else:
                with pytest.raises(NotFound):
                    shop.coupon(coupon_id, **moment)
    assert said(shop) == KNOWN[-1]


def test_an_answer_says_what_it_is_as_of(shop: EventStore) -> None:
    assert shop.coupon("c").as_of is None
    true = shop.coupon("c", as_of=day(4)).as_of
    assert true is not None
    assert (true.true_at, true.known_at, true.position, true.status_at) == (day(4), None, 7, day(4))
    known = shop.coupons_page(at_position=2).as_of
    assert known is not None
    assert (known.true_at, known.position, known.status_at) == (None, 2, shop.read()[1].recorded_at)


def test_the_code_of_then_is_the_one_that_is_compared(shop: EventStore) -> None:
    assert [said(shop, code="a"), said(shop, code="b").keys()] == [{}, {"c"}]
    assert said(shop, code="a", as_of=end(1)).keys() == {"c"}
    assert said(shop, code="b", as_of=end(1)) == {}
    assert said(shop, deleted=True, as_of=end(9)) == {}
    assert said(shop, deleted=False, as_of=end(10)).keys() == {"d"}


def test_a_coupon_that_was_not_known_yet_is_not_found_and_the_error_says_since_when_it_is(shop: EventStore) -> None:
    with pytest.raises(NotFound, match=r"'d' true at 2026-09-04T.*happened at 2026-09-05T.*stands at position 7"):
        shop.coupon("d", as_of=day(4))
    with pytest.raises(NotFound, match=r"'d' known at position 6"):
        shop.coupon("d", at_position=6)
    with pytest.raises(NotFound, match="no coupon 'unheard' in the store"):
        shop.coupon("unheard", as_of=day(4))
    with pytest.raises(NotFound, match="no coupon 'unheard' in the store"):
        shop.coupon("unheard", site_id="shop", as_of=day(4))


def test_a_moment_that_makes_no_sense_is_refused(shop: EventStore) -> None:
    for moment, told in (
        ({"at_position": 8}, "ends at 7"),
        ({"at_position": -1}, "no position"),
        ({"known_at": now(), "at_position": 1}, "give one of them"),
        ({"as_of": datetime(2026, 9, 1)}, "names no zone"),  # noqa: DTZ001
    ):
        with pytest.raises(InputError, match=told):
            shop.coupons(**moment)
        with pytest.raises(InputError, match=told):
            shop.coupon("c", **moment)


def test_a_register_is_not_told_further_on_than_the_projections_are(store: EventStore) -> None:
    store.append(ARRIVAL[0])
    store.project()
    store.append(ARRIVAL[6])
    with pytest.raises(StoreUnavailable, match="up to position 1, and not yet to 2"):
        store.coupons(at_position=2)
    assert said(store, as_of=day(30)).keys() == {"c"}
    store.project()
    assert said(store, at_position=2).keys() == said(store, as_of=day(30)).keys() == {"c", "d"}


def test_pages_of_the_past_give_each_coupon_that_there_was_once(store: EventStore) -> None:
    many = [event(n, "coupon.created", day(1 + n % 3), coupon=f"c{n:02}", code=f"K{n % 2}") for n in range(30)]
    list(store.append_many(many))
    store.project()
    for filters, ids in (
        ({"as_of": end(1)}, [f"c{n:02}" for n in range(0, 30, 3)]),
        ({"as_of": end(1), "code": "k0"}, [f"c{n:02}" for n in range(0, 30, 6)]),
        ({"at_position": 20}, [f"c{n:02}" for n in range(20)]),
        ({"at_position": 20, "as_of": end(2), "site_id": "shop"}, [f"c{n:02}" for n in range(20) if n % 3 < 2]),
        ({"at_position": 20, "site_id": "elsewhere"}, []),
    ):
        for limit in (4, 30):
            found, after = [], None
            while True:
                page = store.coupons_page(after=after, limit=limit, **filters)
                assert len(page.coupons) <= limit
                found += [each.coupon_id for each in page.coupons]
                if page.next is None:
                    break
                after = page.next
            assert found == ids, (filters, limit)


def test_what_waits_in_the_dead_letters_or_was_skipped_is_left_out(shop: EventStore) -> None:
    letter = {"projection": "coupons", "position": 3, "site_id": "shop", "subject_id": "c", "event_id": "e3"}
    with shop.engine.begin() as connection:
        connection.execute(insert(dead_letters).values(**letter, reason="poison", parked_at=now()))
    assert shop.coupon("c").parked
    assert not shop.coupon("d").parked
    assert "waits" in shop.coupon("c").findings[0]
    # Parked: this projection stands where it was before the event; the other goes on.
    parked = shop.coupon("c", at_position=7)
    assert (parked.parked, parked.code, parked.deleted, parked.usage.times_used) == (True, "A", False, 2)
    assert not shop.coupon("c", at_position=2).parked
    assert said(shop, at_position=7)["d"] == ("D", "active", 0, 0)
    [row] = [row for row in shop.projection_as_of("coupons") if row["coupon_id"] == "c"]
    assert (row["code"], row["deleted"]) == ("A", False)
    with shop.engine.begin() as connection:
        connection.execute(update(dead_letters).values(resolved_at=now(), resolution="skipped"))
    skipped = shop.coupon("c", at_position=7)
    assert (skipped.parked, skipped.code, skipped.deleted, skipped.usage.times_used) == (False, "B", False, 2)
    [row] = [row for row in shop.projection_as_of("coupons") if row["coupon_id"] == "c"]
    assert (row["code"], row["deleted"]) == ("B", False)


def test_an_event_that_names_no_coupon_is_about_its_entity_then_too(store: EventStore) -> None:
    store.append(event(1, "coupon.created", day(1), code="A", coupon_id=None))
    store.append(event(2, "coupon.applied", day(2), order_id="o1"))
    store.project()
    assert said(store, as_of=day(1)) == {"c": ("A", "active", 0, 0)}
    assert said(store, at_position=2) == {"c": ("A", "active", 1, 0)}


def test_a_position_is_found_by_its_time_however_the_times_lie(store: EventStore) -> None:
    for each in ARRIVAL:
        store.append(each)
    recorded = [record.recorded_at for record in store.read()]
    with store.engine.connect() as connection:
        for time in (*recorded, recorded[0] - timedelta(days=1), recorded[-1] + timedelta(days=1)):
            for head in range(len(recorded) + 1):
                expected = sum(other <= time for other in recorded[:head])
                assert position_at(connection, time, head) == expected


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2026-09-30", datetime(2026, 9, 30, 23, 59, 59, 999_999, tzinfo=UTC)),
        ("20260930", datetime(2026, 9, 30, 23, 59, 59, 999_999, tzinfo=UTC)),
        ("2026-09-30T12:00", datetime(2026, 9, 30, 12, tzinfo=UTC)),
        ("2026-09-30T12:00:00Z", datetime(2026, 9, 30, 12, tzinfo=UTC)),
        ("2026-09-30T12:00:00+02:00", datetime(2026, 9, 30, 10, tzinfo=UTC)),
        ("9999-12-31", datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)),
    ],
)
def test_a_date_is_its_end_and_a_time_without_a_zone_is_utc(text: str, time: datetime) -> None:
    assert read_time(text, "as_of") == time


@given(st.text(max_size=30) | st.sampled_from(["", "now", "٢٠٢٦-09-30"]))
def test_any_other_text_is_refused_by_the_name_of_its_parameter(text: str) -> None:
    assume(not text.isascii() or not text[:4].isdigit())
    with pytest.raises(InputError, match="known_at="):
        read_time(text, "known_at")


@pytest.mark.parametrize(
    "text", ["2026-02-30", "2026-09-31T00:00:00Z", "0001-01-01T00:00:00+23:59", "2026-09-30T25:00"]
)
def test_a_time_that_does_not_exist_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="as_of="):
        read_time(text, "as_of")


# By the other doors


def at(time: datetime, body: dict[str, Any]) -> dict[str, Any]:
    body["metadata"]["eventTime"] = time.isoformat()
    return body


LINES = [
    wrapped(CREATED, at(day(1), created("m-1", "m-c", code="OLD")), site="moments"),
    wrapped(APPLIED, at(day(3), applied("m-2", "order", "m-c", "OLD")), site="moments"),
    wrapped(CREATED, at(day(2), created("m-3", "m-d", code="NEW")), site="moments"),
]


def test_over_http_the_past_is_asked_for_and_named(client: httpx.Client) -> None:
    last = answers(client.post("/v1/events", content=ndjson(*LINES)))[-1]["position"]

    def register(**moment: Any) -> dict[str, Any]:
        answer = client.get("/v1/coupons", params={"site": "moments", "wait_for": last, **moment})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    assert [each["coupon_id"] for each in register()["coupons"]] == ["m-c", "m-d"]
    assert register()["as_of"] is None
    then = register(as_of="2026-09-01")
    assert [(each["coupon_id"], each["usage"]["times_used"]) for each in then["coupons"]] == [("m-c", 0)]
    assert then["as_of"]["true_at"] == then["coupons"][0]["as_of"]["true_at"] == "2026-09-01T23:59:59.999999Z"
    known = register(at_position=last - 1)
    assert [(each["coupon_id"], each["usage"]["times_used"]) for each in known["coupons"]] == [("m-c", 1)]
    assert (known["as_of"]["position"], known["as_of"]["true_at"]) == (last - 1, None)
    assert register(known_at="2001-01-01")["coupons"] == []
    assert register(status="deleted")["coupons"] == []
    path = "/v1/coupons/m-c"
    alone = client.get(path, params={"site": "moments", "as_of": "2026-09-02T12:00:00Z"}).json()
    assert (alone["usage"]["times_used"], alone["parked"]) == (0, False)
    missing = client.get("/v1/coupons/m-d", params={"site": "moments", "as_of": "2026-09-01"})
    assert f"position {last}" in assert_problem(missing, 404)["detail"]
    for wrong in ({"as_of": "yesterday"}, {"known_at": "2026-09-31"}, {"at_position": 10**9}, {"as_of": ""}):
        for asked in ("/v1/coupons", path, f"{path}/history"):
            detail = assert_problem(client.get(asked, params={"site": "moments", **wrong}), 400)["detail"]
            assert next(iter(wrong)) in detail
    events = client.get(f"{path}/history", params={"site": "moments", "as_of": "2026-09-02"}).json()["events"]
    assert [each["event"]["event_id"] for each in events] == ["m-1"]


def test_the_commands_show_the_past_and_say_as_of_what(eventstore: Command) -> None:
    eventstore("ingest", "-", given=ndjson(*LINES))
    assert [each["coupon_id"] for each in eventstore.json("coupons")] == ["m-c", "m-d"]
    assert [each["coupon_id"] for each in eventstore.json("coupons", "--as-of", "2026-09-01")] == ["m-c"]
    assert eventstore.json("coupons", "--status", "deleted") == []
    shown = eventstore("coupons", "--as-of", "2026-09-01")
    assert shown.startswith("true at 2026-09-01 23:59\nup to position 3\n")
    assert any(row[:2] == ["OLD", "m-c"] for row in cells(shown))
    lines = eventstore("coupons", "--at-position", "3", "--csv").splitlines()
    assert lines[0].startswith("site_id,coupon_id,code,")
    assert [line.split(",")[:3] for line in lines[1:]] == [["moments", "m-c", "OLD"], ["moments", "m-d", "NEW"]]
    assert eventstore("coupons", "--limit", "1").endswith("the first 1 coupons; --limit shows more\n")
    by_code = eventstore.json("coupon", "old", "--at-position", "1")
    assert (by_code["coupon_id"], by_code["usage"]["times_used"], len(by_code["history"])) == ("m-c", 0, 1)
    assert ["up to position", "1"] in cells(eventstore("coupon", "m-c", "--at-position", "1"))
    assert "position 3" in eventstore.refused("coupon", "m-d", "--as-of", "2026-09-01", status=3)
    assert "no coupon has the id or code" in eventstore.refused("coupon", "x", "--as-of", "2026-09-01", status=3)
    assert "--as-of=" in eventstore.refused("coupons", "--as-of", "soon", status=1)
    assert "ends at 3" in eventstore.refused("coupons", "--at-position", "4", status=1)


def test_a_register_of_more_sites_than_an_expression_may_have_parts_is_told(sqlite_store: EventStore) -> None:
    deliveries = [
        wrapped(CREATED, created(f"e-{number}", f"c-{number}"), site=f"site-{number:04}") for number in range(600)
    ]
    sqlite_store.ingest(enumerate(ndjson(*deliveries).splitlines(), 1))
    sqlite_store.project()
    assert len(sqlite_store.coupons(at_position=600, limit=1_000)) == 600
