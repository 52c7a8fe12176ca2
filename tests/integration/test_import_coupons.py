"""Importing what Query Coupons answers: older coupons become known, and what differs from the store's knowledge is told."""

from __future__ import annotations

import json
from collections.abc import Iterable
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from eventstore.differences import Difference
from eventstore.errors import StoreUnavailable
from eventstore.ingest import IngestSummary
from eventstore.log.records import Outcome, Prepared, Rejected
from eventstore.reconcile import Reconciliation
from eventstore.store import EventStore
from tests.pages import gone, page, spring, tell
from tests.serving import APPLIED, CREATED, applied, created, fixture, wrapped

TAKEN = datetime(2026, 9, 1, tzinfo=UTC)
"""When the pages were taken from Wix: after all that `created` and `applied` tell, which is of March 2025."""
HOUR = timedelta(hours=1)
MADE_BY_WIX = datetime(2024, 1, 1, tzinfo=UTC)


class Imported:
    """What an import said."""

    def __init__(self, found: Reconciliation) -> None:
        self.differences = list(found.differences())
        self.summary: IngestSummary = found.summary
        self.newer, self.agreeing, self.whole = found.newer, found.agreeing, found.whole

    @property
    def kinds(self) -> list[tuple[str, str]]:
        return [(each.kind.value, each.coupon_id) for each in self.differences]

    @property
    def one(self) -> Difference:
        [difference] = self.differences
        return difference


def imported(store: EventStore, *pages: Any, observed_at: datetime = TAKEN, **options: Any) -> Imported:
    with store.reconcile(**options) as found:
        found.take(lines(pages), observed_at=observed_at)
        return Imported(found)


def lines(pages: Iterable[Any]) -> Iterable[tuple[int, bytes]]:
    return enumerate((json.dumps(each).encode() for each in pages), 1)


# What the store did not know


def test_a_coupon_older_than_the_store_becomes_known_by_an_import(store: EventStore) -> None:
    told = imported(store, json.loads(fixture("snapshot_query_coupons.json")))
    b2g1, shipfree = "0d0d0d0d-0000-4000-8000-000000000003", "0d0d0d0d-0000-4000-8000-000000000004"
    assert told.kinds == [("missing", b2g1), ("drifted", b2g1), ("missing", shipfree)]
    assert [each.code for each in told.differences] == ["B2G1", "B2G1", "SHIPFREE"]
    assert told.differences[0].details == {"created_at": MADE_BY_WIX, "number_of_usages": 41}
    assert told.differences[1].details == {"times_used": 0, "number_of_usages": 41, "difference": 41}
    assert told.summary.counts == {"appended": 2}
    store.project()
    state = store.coupon(b2g1)
    assert (state.code, state.discount_type, state.buy_x, state.get_y) == ("B2G1", "BUY_X_GET_Y", 2, 1)
    assert (state.created_at, state.last_event_time, state.usage.reported_usages) == (MADE_BY_WIX, TAKEN, 41)


def test_a_second_run_finds_only_duplicates_and_nothing_missing(store: EventStore) -> None:
    whole = page(spring("c-1"), spring("c-2", code="AUTUMN"))
    imported(store, whole)
    head = store.head()
    again = imported(store, whole)
    assert (again.summary.counts, again.differences, again.agreeing) == ({"duplicate": 2}, [], 2)
    assert store.head() == head == 2


def test_a_creation_that_comes_late_and_is_of_before_does_not_undo_the_observation(store: EventStore) -> None:
    imported(store, page(spring(name="Observed", percentOffRate=15)))
    tell(store, wrapped(CREATED, created("e-1", name="Made")))
    store.project()
    state = store.coupon("c-1")
    assert (state.name, state.discount_value, state.snapshot_time) == ("Observed", Decimal(15), TAKEN)
    assert state.first_event_time == datetime(2025, 3, 1, 8, tzinfo=UTC)
    assert not state.deleted


def test_a_coupon_of_which_only_a_use_was_heard_is_missing(store: EventStore) -> None:
    use = applied("e-1", "order")
    del use["data"]["coupon"]
    tell(store, wrapped(APPLIED, use))
    told = imported(store, page(spring(uses=1)))
    assert told.kinds == [("missing", "c-1")]
    assert told.one.details == {"created_at": None, "number_of_usages": 1}


# What differs


def test_each_fact_that_differs_is_told_with_ours_and_wix_s(store: EventStore) -> None:
    made = created("e-1", name="Spring", usageLimit=5, active=True, expirationTime="2025-06-01T00:00:00Z", appId="app")
    tell(store, wrapped(CREATED, made))
    now = spring(code="Spring", name="Spring", percentOffRate=12.5, active=False, scope={"namespace": "stores"})
    told = imported(store, page({**now, "expired": True, "displayData": {"name": "Mug"}}))
    assert told.kinds == [("changed", "c-1")]
    assert told.one.code == "Spring"
    assert told.one.details == {
        "code": {"ours": "SPRING", "wix": "Spring"},
        "discount_value": {"ours": 10, "wix": 12.5},
        "scope_namespace": {"ours": None, "wix": "stores"},
        "expiration_time": {"ours": datetime(2025, 6, 1, tzinfo=UTC), "wix": None},
        "usage_limit": {"ours": 5, "wix": None},
        "active": {"ours": True, "wix": False},
    }
    # The observation is the newest word: compared again, nothing differs.
    assert imported(store, page({**now, "expired": True}), observed_at=TAKEN + HOUR).differences == []


def test_another_kind_of_discount_is_told_with_all_that_it_changes(store: EventStore) -> None:
    tell(store, wrapped(CREATED, created("e-1")))
    told = imported(store, page({"id": "c-1", "specification": {"code": "SPRING", "buyXGetY": {"x": 2, "y": 1}}}))
    assert told.one.details == {
        "discount_type": {"ours": "PERCENT_OFF", "wix": "BUY_X_GET_Y"},
        "discount_value": {"ours": 10, "wix": None},
        "buy_x": {"ours": None, "wix": 2},
        "get_y": {"ours": None, "wix": 1},
    }


def test_what_one_side_leaves_out_but_every_coupon_has_is_no_change(store: EventStore) -> None:
    tell(store, wrapped(CREATED, created("e-1")))
    told = imported(store, page({**spring(active=True), "dateCreated": "1704067200000"}))
    assert (told.differences, told.agreeing) == ([], 1)


def test_a_time_that_one_spelling_tells_to_the_second_and_another_to_the_millisecond_is_no_change(
    store: EventStore,
) -> None:
    end = "Tue Sep 30 2025 20:59:59 GMT+0000 (Coordinated Universal Time)"
    tell(store, wrapped(CREATED, created("e-1", expirationTime=end)))
    assert imported(store, page(spring(expirationTime="1759265999999")), dry_run=True).differences == []
    [changed] = imported(store, page(spring(expirationTime="1759266000000"))).differences
    assert changed.details.keys() == {"expiration_time"}


def test_a_coupon_deleted_here_but_at_wix_is_changed_and_stays_so_until_its_creation_is_heard(
    store: EventStore,
) -> None:
    tell(store, wrapped(CREATED, created("e-1")), gone("e-2"))
    for number in range(2):
        told = imported(store, page(spring()), observed_at=TAKEN + number * HOUR)
        assert told.kinds == [("changed", "c-1")]
        assert told.one.details == {"deleted": {"ours": True, "wix": False}}


@pytest.mark.parametrize(("uses", "reported", "difference"), [(2, 5, 3), (3, 1, -2), (1, 0, -1)])
def test_uses_that_drifted_are_told_with_both_numbers(
    store: EventStore, uses: int, reported: int, difference: int
) -> None:
    tell(store, wrapped(CREATED, created("e-0")))
    tell(store, *[wrapped(APPLIED, applied(f"e-{number}", f"o-{number}")) for number in range(1, uses + 1)])
    # The latest snapshot here is that of a use, which has no rate.
    told = imported(store, page(spring(uses=reported, percentOffRate=None)))
    assert told.kinds == [("drifted", "c-1")]
    assert told.one.details == {"times_used": uses, "number_of_usages": reported, "difference": difference}


def test_uses_that_agree_are_no_drift_however_often_one_was_reported(store: EventStore) -> None:
    uses = [wrapped(APPLIED, applied(f"e-{number}", "the-same-order")) for number in (1, 2)]
    tell(store, wrapped(CREATED, created("e-0")), *uses)
    told = imported(store, page(spring(uses=1, percentOffRate=None)))
    assert (told.differences, told.agreeing) == ([], 1)


def test_a_coupon_may_differ_in_several_ways(store: EventStore) -> None:
    tell(store, wrapped(CREATED, created("e-1")), gone("e-2"))
    told = imported(store, page(spring(name="Back", uses=7)))
    assert told.kinds == [("changed", "c-1"), ("drifted", "c-1")]
    assert told.differences[0].details.keys() == {"name", "deleted"}


def test_a_store_that_is_newer_than_the_observation_is_not_compared_but_counted(store: EventStore) -> None:
    tell(store, wrapped(CREATED, created("e-1", name="Newer")))
    made = datetime(2025, 3, 1, 8, tzinfo=UTC)
    old = imported(store, page(spring(name="Older", uses=3)), observed_at=made - timedelta(microseconds=1))
    assert (old.differences, old.newer, old.agreeing) == ([], 1, 0)
    assert old.summary.counts == {"appended": 1}
    same = imported(store, page(spring(name="Older")), observed_at=made)
    assert (same.kinds, same.newer) == ([("changed", "c-1")], 0)


def test_of_a_coupon_on_several_pages_the_later_observation_is_compared_with_what_was_known_before(
    store: EventStore,
) -> None:
    tell(store, wrapped(CREATED, created("e-1", name="Made")))
    twice = imported(store, page(spring(name="First"), spring(name="Second")), dry_run=True)
    assert twice.one.details == {"name": {"ours": "Made", "wix": "Second"}}
    with store.reconcile() as found:
        found.take(lines([page(spring(name="Late"))]), observed_at=TAKEN + HOUR)
        store.project()  # as a server beside the import would
        found.take(lines([page(spring(name="Early"))]), observed_at=TAKEN)
        told = Imported(found)
    assert told.one.details == {"name": {"ours": "Made", "wix": "Late"}}
    assert told.summary.counts == {"appended": 2}


def test_another_site_s_coupon_of_the_same_id_is_another_coupon(store: EventStore) -> None:
    tell(store, wrapped(CREATED, created("e-1"), site="theirs"))
    told = imported(store, page(spring()), site="mine", complete=True)
    assert told.kinds == [("missing", "c-1")]
    assert {each.site_id for each in told.differences} == {"mine"}


# What Wix lacks


def test_what_a_complete_list_lacks_is_absent_unless_it_is_deleted_or_newer(store: EventStore) -> None:
    tell(
        store,
        *[wrapped(CREATED, created(f"e-{number}", f"c-{number}")) for number in range(4)],
        gone("e-gone", "c-1"),
        wrapped(CREATED, created("e-theirs", "c-9"), site="theirs"),
    )
    young = created("e-young", "c-young")
    young["metadata"]["eventTime"] = "2026-09-02T00:00:00Z"
    tell(store, wrapped(CREATED, young))
    assert imported(store, page(spring("c-0")), dry_run=True).differences == []
    told = imported(store, page(spring("c-0")), page(spring("c-3")), complete=True)
    assert told.kinds == [("absent", "c-2")]
    assert told.one.code == "SPRING"
    assert told.one.details == {"last_event_time": datetime(2025, 3, 1, 8, tzinfo=UTC)}
    assert (told.newer, told.agreeing, told.whole) == (1, 2, True)


def test_every_coupon_is_absent_from_a_complete_list_of_none_however_many_there_are(store: EventStore) -> None:
    tell(store, *[wrapped(CREATED, created(f"e-{number}", f"c-{number:04}")) for number in range(1_203)])
    told = imported(store, page(), complete=True)
    assert told.kinds == [("absent", f"c-{number:04}") for number in range(1_203)]
    assert imported(store, complete=True).whole is False


def test_a_coupon_that_is_on_the_list_but_unreadable_is_not_absent(store: EventStore) -> None:
    tell(store, *[wrapped(CREATED, created(f"e-{number}", f"c-{number}")) for number in range(3)])
    told = imported(store, page(spring("c-0"), spring("c-1", startTime="soon")), complete=True)
    assert (told.kinds, told.whole) == ([("absent", "c-2")], True)


@pytest.mark.parametrize("unread", [page({"code": "NOID"}, spring("c-0")), {"coupons": {}}, {"items": []}])
def test_nothing_is_called_absent_where_not_every_coupon_of_the_list_could_be_named(
    store: EventStore, unread: dict[str, Any]
) -> None:
    tell(store, wrapped(CREATED, created("e-1", "c-1")))
    told = imported(store, page(spring("c-0")), unread, complete=True)
    assert told.whole is False
    assert "absent" not in dict(told.kinds)


# What is kept


def test_an_unreadable_coupon_in_the_middle_of_a_page_is_quarantined_alone(store: EventStore) -> None:
    bad = spring("c-2", startTime="soon")
    told = imported(store, page(spring("c-1"), bad, spring("c-3"), totalResults=3))
    assert told.summary.counts == {"appended": 2, "quarantined": 1}
    assert told.kinds == [("missing", "c-1"), ("missing", "c-3")]
    with store.engine.connect() as connection:
        [(route, reason, body)] = connection.exec_driver_sql("SELECT route, reason, body FROM quarantine").all()
    assert (route, json.loads(bytes(body))) == ("snapshot", {"coupons": [bad]})
    assert reason.startswith("coupons[1].specification.startTime: ")
    assert store.status().quarantined == 1


def test_a_dry_run_compares_and_foretells_and_leaves_the_log_as_it_was(store: EventStore) -> None:
    tell(store, wrapped(CREATED, created("e-1")))
    imported(store, page(spring("c-2")))
    store.project()
    status = store.status()
    pages = page(spring("c-1", name="New"), spring("c-2"), "bad"), page(spring("c-3"), spring("c-3")), {"items": 1}
    told = imported(store, *pages, dry_run=True)
    assert told.summary.counts == {"appended": 2, "duplicate": 2, "quarantined": 1, "refused": 1}
    assert told.kinds == [("changed", "c-1"), ("missing", "c-3")]
    assert (store.head(), store.status()) == (2, status)
    then = imported(store, *pages)
    assert (then.summary.counts, then.differences) == (told.summary.counts, told.differences)
    assert store.head() == 4


def test_more_coupons_than_one_look_up_takes_are_compared_each_once(store: EventStore) -> None:
    tell(store, *[wrapped(CREATED, created(f"e-{number}", f"c-{number:04}")) for number in range(0, 2_000, 2)])
    told = imported(store, page(*[spring(f"c-{number:04}") for number in range(1_999)]), spring("c-1999"))
    assert told.kinds == [("missing", f"c-{number:04}") for number in range(1, 2_000, 2)]
    assert told.agreeing == 1_000
    assert told.summary.counts == {"appended": 2_000}


def test_when_the_log_takes_no_more_what_was_compared_is_told_and_nothing_is_called_absent(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell(store, wrapped(CREATED, created("e-1", "c-other")))
    submit = store.submit_patiently
    pieces = []

    def submit_once(entries: list[Prepared | Rejected]) -> Future[list[Outcome]]:
        pieces.append(len(entries))
        if len(pieces) > 1:
            raise StoreUnavailable("full")
        return submit(entries)

    monkeypatch.setattr(store, "submit_patiently", submit_once)
    pages = [page(*[spring(f"c-{number:04}") for number in range(start, start + 500)]) for start in (0, 500)]
    with store.reconcile(complete=True) as found:
        with pytest.raises(StoreUnavailable, match="full"):
            found.take(lines(pages), observed_at=TAKEN)
        told = Imported(found)
    assert told.summary.counts == {"appended": 500}
    assert set(told.kinds) >= {("missing", f"c-{number:04}") for number in range(500)}
    assert (told.whole, "absent" in dict(told.kinds)) == (False, False)
