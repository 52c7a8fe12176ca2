"""What happened to a coupon, event by event: what each changed, from what to what, and what is odd about it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore.errors import InputError, NotFound
from eventstore.event import Coupon, Discount, DiscountType, Event, Scope, Source
from eventstore.projections.history import Basis, HistoryEntry, Order, given_changes
from eventstore.store import EventStore
from tests import slow_model
from tests.commands import Command
from tests.histories import deliveries, histories
from tests.serving import answers, ndjson
from tests.stores import OpenStore, tried

TODAY = datetime.now(UTC).replace(microsecond=0) + timedelta(minutes=30)


def ago(minutes: float) -> datetime:
    """A time shortly before now: recorded while these tests run, which may begin long after they are loaded, it is not late."""
    return TODAY - timedelta(minutes=minutes)


def snapshot(code: str = "A", value: int = 10, **facts: Any) -> Coupon:
    discount = Discount(type=DiscountType.PERCENT_OFF, value=Decimal(value))
    return Coupon(code=code, discount=discount, active=facts.pop("active", True), **facts)


def event(number: int, type_: str, minutes: float, coupon: Coupon | None = None, **more: Any) -> Event:
    fields: dict[str, Any] = {"site_id": "shop", "entity_id": "c", "coupon_id": "c", "source": Source.REST} | more
    return Event(event_id=f"e{number}", type=type_, event_time=ago(minutes), coupon=coupon, **fields)


def use(number: int, minutes: float, order: str, coupon: Coupon | None = None, **more: Any) -> Event:
    return event(number, "coupon.applied", minutes, coupon, order_id=order, **more)


def told(store: EventStore, *events: Event, order: str = "recorded") -> dict[str, HistoryEntry]:
    """The history of `c` after these events, by event id."""
    for each in events:
        store.append(each)
    store.project()
    return {entry.event.event_id: entry for entry in store.history("c", order=order)}


def changed(entry: HistoryEntry) -> dict[str, tuple[Any, Any]]:
    return {change.fact: (change.before, change.after) for change in entry.changes}


def codes(entry: HistoryEntry) -> list[str]:
    return [finding.code for finding in entry.findings]


# What changed


def test_first_facts_then_differences_then_what_wix_itself_gave(store: EventStore) -> None:
    found = told(
        store,
        event(1, "coupon.created", 50, snapshot()),
        event(2, "coupon.updated", 40, snapshot(value=20, usage_limit=5)),
        event(3, "coupon.updated", 30, snapshot(value=20, active=False), changed={"specification.active": True}),
        event(4, "coupon.updated", 20, snapshot(value=20, active=False)),
        event(5, "coupon.deleted", 10),
    )
    assert [entry.basis for entry in found.values()] == ["first", "computed", "given", None, "computed"]
    first = changed(found["e1"])
    assert {name: first[name] for name in ("code", "discount_type", "discount_value", "active")} == {
        "code": (None, "A"),
        "discount_type": (None, "PERCENT_OFF"),
        "discount_value": (None, Decimal(10)),
        "active": (None, True),
    }
    assert "usage_limit" not in first
    assert changed(found["e2"]) == {"discount_value": (Decimal(10), Decimal(20)), "usage_limit": (None, 5)}
    assert changed(found["e3"]) == {"active": (True, False)}
    assert found["e4"].changes == []
    assert changed(found["e5"]) == {"deleted": (False, True)}
    assert all(entry.findings == [] for entry in found.values())


def test_a_late_event_is_compared_with_what_was_true_before_it_and_not_with_what_was_recorded_before_it(
    store: EventStore,
) -> None:
    found = told(
        store,
        event(1, "coupon.created", 50, snapshot(value=1)),
        event(3, "coupon.updated", 30, snapshot(value=3)),
        event(2, "coupon.updated", 40, snapshot(value=2)),
    )
    assert list(found) == ["e1", "e3", "e2"]
    assert changed(found["e2"]) == {"discount_value": (Decimal(1), Decimal(2))}
    assert changed(found["e3"]) == {"discount_value": (Decimal(2), Decimal(3))}
    assert [entry.event.event_id for entry in store.history("c", order="happened")] == ["e1", "e2", "e3"]


def test_a_sequence_decides_what_was_before_where_both_events_have_one(store: EventStore) -> None:
    found = told(
        store,
        event(1, "coupon.created", 50, snapshot(value=1), sequence=1),
        event(2, "coupon.updated", 20, snapshot(value=2), sequence=2),
        event(3, "coupon.updated", 30, snapshot(value=3), sequence=3),
        event(4, "coupon.updated", 10, snapshot(value=4)),
    )
    assert changed(found["e3"])["discount_value"] == (Decimal(2), Decimal(3))
    # Without one the time decides against each, and the sequence among those.
    assert changed(found["e4"])["discount_value"] == (Decimal(3), Decimal(4))
    assert codes(found["e2"]) == codes(found["e3"]) == ["sequence_disagrees_with_time"]
    assert codes(found["e1"]) == codes(found["e4"]) == []
    [finding] = found["e3"].findings
    assert finding.text == "its sequence 3 is after the 2 of position 2, but it happened before that"


def test_a_coupon_made_anew_is_no_longer_deleted(store: EventStore) -> None:
    found = told(
        store,
        event(1, "coupon.created", 50, snapshot()),
        event(2, "coupon.deleted", 40),
        event(3, "coupon.deleted", 35),
        event(4, "coupon.created", 30, snapshot(), restored=True),
    )
    assert (found["e3"].changes, found["e3"].basis) == ([], None)
    assert changed(found["e4"]) == {"deleted": (True, False)}


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        ({"usageLimit": 3}, {"usage_limit": (3, 5)}),
        ({"specification.usageLimit": {"value": 3}}, {"usage_limit": (3, 5)}),
        ({"specification['usageLimit'].value": 3}, {"usage_limit": (3, 5)}),
        ({"specification.percentOffRate": 7.5}, {"discount_value": (Decimal("7.5"), Decimal(10))}),
        (
            {"moneyOffAmount": 4, "percentOffRate": None},
            {"discount_type": ("MONEY_OFF", "PERCENT_OFF"), "discount_value": (Decimal(4), Decimal(10))},
        ),
        ({"scope.group.name": "product"}, {"scope_namespace": (None, "stores"), "scope_group": ("product", "plan")}),
        (
            {"startTime": "1595237792787"},
            {"start_time": (datetime(2020, 7, 20, 9, 36, 32, 787_000, tzinfo=UTC), ago(9))},
        ),
        ({"numberOfUsages": 1, "expired": True}, {"reported_usages": (1, 0), "expired": (True, False)}),
        ({"colour": "red"}, {"colour": ("red", "blue")}),
        ({"startTime": "no time"}, {"startTime": ("no time", None)}),
        ({"active": None}, {"active": (None, True)}),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) and value else None,
)
def test_what_wix_gave_is_read_in_each_of_its_spellings(
    paths: dict[str, Any], expected: dict[str, tuple[Any, Any]]
) -> None:
    coupon = snapshot(
        usage_limit=5, start_time=ago(9), scope=Scope(namespace="stores", group="plan"), extra={"colour": "blue"}
    )
    assert {each.fact: (each.before, each.after) for each in given_changes(paths, coupon)} == expected


@given(
    st.dictionaries(
        st.text(max_size=8) | st.sampled_from(["specification", "scope", "scope.group", "a[0].b", "type", "buyXGetY"]),
        st.recursive(st.none() | st.booleans() | st.text(max_size=4) | st.floats(), lambda inner: st.lists(inner)),
        max_size=4,
    )
)
def test_whatever_stands_there_as_modified_is_shown_and_never_fails(paths: dict[str, Any]) -> None:
    given_changes(paths, snapshot())
    given_changes(paths, None)


# What is odd


def test_each_oddity_is_found_at_the_event_that_it_is_about(store: EventStore) -> None:
    limited = snapshot(usage_limit=2, start_time=ago(45), expiration_time=ago(15))
    found = told(
        store,
        event(1, "coupon.created", 50, limited),
        use(2, 46, "early"),
        use(3, 40, "second"),
        use(4, 39, "second"),
        use(5, 38, "third"),
        use(6, 15, "expired"),
        event(7, "coupon.updated", 14, snapshot(active=False)),
        use(8, 13, "inactive"),
        event(9, "coupon.deleted", 12),
        use(10, 11, "deleted", snapshot()),
        event(11, "coupon.updated", 10, snapshot(code="B")),
        event(12, "coupon.created", 9, snapshot()),
        use(13, 8, "restored"),
        event(14, "coupon.updated", 7, snapshot(code="B" * 21), entity_id="another"),
        use(15, 60 * 24 * 3 + 60, "late"),
    )
    assert {name: codes(entry) for name, entry in found.items() if entry.findings} == {
        "e2": ["used_before_start"],
        "e3": ["over_limit"],  # the third: one told late was before it
        "e4": ["reported_again"],
        "e5": ["over_limit"],
        "e6": ["over_limit", "used_after_expiration"],
        "e8": ["used_while_inactive"],
        "e10": ["after_deletion"],
        "e11": ["after_deletion"],
        "e14": ["coupon_id_differs_from_entity_id", "code_too_long"],
        "e15": ["late"],
    }
    texts = {name: [finding.text for finding in entry.findings] for name, entry in found.items()}
    assert texts["e3"] == ["use 3 of 2 allowed"]
    assert texts["e4"] == ["the use was reported at position 3 already and counts once"]
    assert texts["e10"] == ["used after its deletion at position 9"]
    assert texts["e14"][0] == "it names the coupon c, but is about another"
    assert texts["e15"] == ["recorded 3 days after it happened"]


def test_a_snapshot_of_long_ago_is_not_late(store: EventStore) -> None:
    found = told(store, event(1, "coupon.observed", 60 * 24, snapshot(), source=Source.SNAPSHOT))
    assert found["e1"].findings == []


# Pages, and histories of any shape


def slow_before(history: list[Event], event: Event) -> Event | None:
    """The latest snapshot among the events that are earlier than this one, by the rule for two events at a time."""

    def is_earlier(other: Event) -> bool:
        if other.sequence is not None and event.sequence is not None:
            return (other.sequence, *slow_model.by_time(other)) < (event.sequence, *slow_model.by_time(event))
        return slow_model.by_time(other) < slow_model.by_time(event)

    return slow_model.latest(each for each in history if each.coupon is not None and is_earlier(each))


def test_the_state_before_each_event_is_what_a_slow_loop_finds_and_pages_join_to_the_whole(
    new_store: OpenStore, dialect: str
) -> None:
    @tried(8, dialect)
    @given(data=st.data(), history=histories())
    def holds(data: st.DataObject, history: list[Event]) -> None:
        with new_store() as store:
            list(store.append_many(data.draw(deliveries(history))))
            store.project()
            for state in store.coupons():
                key = (state.site_id, state.coupon_id)
                mine = [
                    each
                    for each in history
                    if each.type in slow_model.COUPON_TYPES and (each.site_id, each.coupon_id or each.entity_id) == key
                ]
                order = data.draw(st.sampled_from(Order))
                entries = list(store.stream_history(key[1], site_id=key[0], order=order))
                shown = [entry.event for entry in entries if entry.event.type in slow_model.COUPON_TYPES]
                assert sorted(map(slow_model.by_time, shown)) == sorted(map(slow_model.by_time, mine))
                for entry in entries:
                    check(entry, mine)
                limit, after, joined = data.draw(st.integers(1, 5)), 0, []
                while page := store.history(key[1], site_id=key[0], order=order, after=after, limit=limit):
                    joined += page
                    after = page[-1].position
                    if len(page) < limit:
                        break
                assert joined == entries
                positions = [entry.position for entry in entries]
                times = [slow_model.by_time(entry.event) for entry in entries]
                assert positions == sorted(positions) if order is Order.RECORDED else times == sorted(times)

    def check(entry: HistoryEntry, mine: list[Event]) -> None:
        event = entry.event
        if event.type not in slow_model.COUPON_TYPES or event.coupon is None or event.changed:
            return
        before = slow_before(mine, event)
        if before is None:
            assert entry.basis is Basis.FIRST
            return
        assert before.coupon is not None
        assert entry.basis in (Basis.COMPUTED, None)
        for change in entry.changes:
            if change.fact in ("code", "name", "usage_limit", "minimum_subtotal", "expired"):
                assert change.before == getattr(before.coupon, change.fact)
                assert change.after == getattr(event.coupon, change.fact)
        same = {change.fact for change in entry.changes}
        for fact in ("code", "name", "usage_limit", "minimum_subtotal", "expired"):
            if getattr(before.coupon, fact) != getattr(event.coupon, fact):
                assert fact in same

    holds()


def test_a_page_behind_no_entry_and_a_coupon_without_any_are_refused(store: EventStore) -> None:
    told(store, event(1, "coupon.created", 50, snapshot()))
    with pytest.raises(InputError, match="after=7"):
        store.history("c", order="happened", after=7)
    assert store.history("c", after=7) == []
    for options in ({}, {"site_id": "shop"}, {"site_id": "shop", "at_position": 1}):
        with pytest.raises(NotFound, match="'unheard'"):
            store.history("unheard", **options)


def test_a_history_longer_than_a_page_is_streamed_whole(store: EventStore) -> None:
    limited = snapshot(usage_limit=1_500)
    many = [event(0, "coupon.created", 50, limited), *(use(n, 40 - n / 100, f"o{n}") for n in range(1, 2_101))]
    list(store.append_many(many))
    store.project()
    entries = list(store.stream_history("c"))
    assert [entry.position for entry in entries] == list(range(1, 2_102))
    over = [entry.position for entry in entries if "over_limit" in codes(entry)]
    assert over == list(range(1_502, 2_102))


# By the other doors


def velo(number: int, handler: str, minutes: float, entity: dict[str, Any] | None = None) -> dict[str, Any]:
    metadata = {"id": f"h-{number}", "entityId": "h-c", "eventTime": ago(minutes).isoformat()}
    body: dict[str, Any] = {"metadata": metadata}
    if entity is not None:
        body["entity"] = {"_id": "h-c", "type": "PercentOff", "percentOffRate": 10, "active": True, **entity}
    return {"route": "velo", "handler": f"wixMarketing_onCoupon{handler}", "body": body, "site": "histories"}


LINES = [
    velo(1, "Created", 50, {"code": "H"}),
    velo(2, "Updated", 40, {"code": "H", "usageLimit": 3, "percentOffRate": 12.5}),
    velo(3, "Deleted", 30),
]


def test_the_route_gives_changes_and_findings_and_the_order_asked_for(client: httpx.Client) -> None:
    last = answers(client.post("/v1/events", content=ndjson(LINES[0], LINES[2], LINES[1])))[-1]["position"]

    def ask(**parameters: Any) -> dict[str, Any]:
        answer = client.get("/v1/coupons/h-c/history", params={"site": "histories", "wait_for": last, **parameters})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    events = ask()["events"]
    assert [each["event"]["event_id"] for each in events] == ["h-1", "h-3", "h-2"]
    assert events[2]["basis"] == "computed"
    assert events[2]["changes"] == [
        {"fact": "discount_value", "before": 10, "after": 12.5},
        {"fact": "usage_limit", "before": None, "after": 3},
    ]
    assert events[1]["changes"] == [{"fact": "deleted", "before": False, "after": True}]
    assert [each["findings"] for each in events] == [[], [], []]
    first = ask(order="happened", limit=2)
    assert [each["event"]["event_id"] for each in first["events"]] == ["h-1", "h-2"]
    rest = ask(order="happened", limit=2, after=first["next"])
    assert ([each["event"]["event_id"] for each in rest["events"]], rest["next"]) == (["h-3"], None)


def test_the_command_prints_before_and_after_and_what_is_odd(eventstore: Command) -> None:
    eventstore("ingest", "-", given=ndjson(*LINES, velo(4, "Updated", 20, {"code": "\x1b[31mH"})))
    shown = eventstore("coupon", "h-c")
    assert "discount_value: 10 → 12.5\n" in shown
    assert "usage_limit: – → 3\n" in shown
    assert "deleted: no → yes\n" in shown
    assert "finding: reported by Wix after its deletion at position 3\n" in shown
    assert "\x1b[31mH" not in shown
    history = eventstore.json("coupon", "h-c", "--by-time")["history"]
    assert [each["event"]["event_id"] for each in history] == ["h-1", "h-2", "h-3", "h-4"]
    assert history[1]["changes"][0] == {"fact": "discount_value", "before": 10, "after": 12.5}
    assert [each["code"] for each in history[3]["findings"]] == ["after_deletion"]
