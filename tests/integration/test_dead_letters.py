"""Dead letters: an event that a projection cannot take parks its coupon, and stops nothing else."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pytest

from eventstore.errors import InputError, NotFound, ProjectionError
from eventstore.event import Coupon, Discount, DiscountType, Event
from eventstore.log.records import Prepared, prepare
from eventstore.projections import blame, runner, step
from eventstore.projections.dead_letters import LeftOut, NewLetter, left_out, park, reason_of
from eventstore.projections.duck import ModelSession
from eventstore.store import EventStore
from tests.commands import Command, cells
from tests.rows import Stranger
from tests.slow_model import project, shown
from tests.stores import NewUrl

PATIENCE = 30.0
"""Seconds until a test gives up waiting for what must come."""
BEGIN = datetime(2026, 9, 1, 12, tzinfo=UTC)
BROKEN = '{"site_id": "shop", "secret": "Ada Lovelace'
"""No JSON, as no reader ever writes it."""

CODES = """-- projection: codes
-- version: 1
-- from: facts
-- key: site_id, coupon_id
-- about: The last code of each coupon, of which BOOM is one that cannot be.
-- column: site_id    text    the site
-- column: coupon_id  text    the coupon
-- column: codes      bigint  its events that told a code
-- column: _seen      json    memory of the merge: their positions

-- [lift]
SELECT site_id, coupon_id, count(*) AS codes, list(position ORDER BY position) AS _seen
FROM facts
WHERE code IS NOT NULL AND CASE WHEN code = 'BOOM' THEN error('the code ' || code || ' of "' || coupon_id || '"') ELSE true END
GROUP BY site_id, coupon_id

-- [merge]
SELECT site_id, coupon_id, len(_seen) AS codes, _seen
FROM (
    SELECT site_id, coupon_id, list_sort(list_distinct(flatten(list(_seen)))) AS _seen
    FROM partial
    GROUP BY site_id, coupon_id
)
"""
"""A projection of somebody's own, with an opinion."""


def told(coupon: str, number: int, code: str | None = None) -> Event:
    """The coupon is updated for the `number`th time."""
    return Event(
        event_id=f"{coupon}-{number}",
        type="coupon.created" if number == 1 else "coupon.updated",
        source="velo",
        site_id="shop",
        entity_id=coupon,
        coupon_id=coupon,
        event_time=BEGIN + timedelta(minutes=number),
        coupon=Coupon(
            code=code or f"{coupon.upper()}{number}",
            discount=Discount(type=DiscountType.MONEY_OFF, raw_type="moneyOffAmount"),
        ),
    )


def append(store: EventStore, *entries: Event | Prepared) -> list[int]:
    """The positions of events, or of what is prepared to be one."""
    prepared = [entry if isinstance(entry, Prepared) else prepare(entry) for entry in entries]
    return [outcome.position or 0 for outcome in store.submit(list(prepared)).result()]


def broken(event: Event, payload: str = BROKEN) -> Prepared:
    """The event as a faulty program would write it into the log: with a payload that is none."""
    return prepare(event)._replace(payload=payload.encode())


def coupons(store: EventStore) -> dict[str, str | None]:
    """The coupons that are shown, with their codes."""
    return {key[1]: row["code"] for key, row in shown(store.engine)["coupons"].items()}


def excluded(store: EventStore, root: str = "coupons") -> list[LeftOut]:
    with store.engine.connect() as connection:
        return left_out(connection, root)


# Parking


def test_an_event_that_is_no_json_parks_its_coupon_and_the_others_go_on(store: EventStore) -> None:
    first, poison, later, other = append(store, told("a", 1), broken(told("a", 2)), told("a", 3), told("b", 1))
    assert store.project() == other
    assert coupons(store) == {"a": "A1", "b": "B1"}
    assert {
        (letter.projection, letter.position, letter.subject_id, letter.event_id) for letter in store.dead_letters()
    } == {(root, poison, "a", "a-2") for root in ("coupons", "redemptions", "loyalty_coupons")}
    assert excluded(store) == [LeftOut("shop", "a", poison, skipped=False)]
    # It stays parked while the log goes on, and no one else is.
    append(store, told("a", 4), told("b", 2), told("c", 1))
    store.project()
    assert coupons(store) == {"a": "A1", "b": "B2", "c": "C1"}
    assert len(store.dead_letters()) == 3
    assert {status.lag for status in store.status().projections} == {0}
    assert first < poison < later


def test_what_is_said_of_a_parked_event_quotes_nothing_of_it(
    store: EventStore, caplog: pytest.LogCaptureFixture
) -> None:
    append(store, told("a", 1), broken(told("a", 2)))
    with caplog.at_level(logging.WARNING, logger="eventstore"):
        store.project()
    for letter in store.dead_letters():
        assert "Malformed JSON" in letter.reason
        assert "Ada" not in letter.reason
    warnings = [vars(record) for record in caplog.records if record.name == "eventstore.projections"]
    assert {record["reason"] for record in warnings} == {"Invalid Input Error"}
    assert "Ada" not in caplog.text


def test_of_a_quoted_value_that_holds_quotes_nothing_is_said() -> None:
    said = reason_of(duckdb.InvalidInputException("cannot cast 'O'Brien of 5 High Street' to a number"))
    assert "cannot cast" in said
    assert "Brien" not in said
    assert "High Street" not in said


NO_SITE = '{"event_id": "x", "type": "coupon.updated", "entity_id": "a", "coupon_id": "a", "coupon": {"code": "X"}}'
"""JSON, but of no site: it has no place in a table whose key is one."""
HALF = '{"site_id": "shop", "type": "coupon.updated", "coupon_id": "a", "coupon": {"code": "\\ud800"}}'
"""JSON to most readers: half a character."""


def test_whatever_cannot_be_taken_in_is_found_among_many_and_parked_alone(store: EventStore) -> None:
    append(store, *[told(f"c{number}", 1) for number in range(40)])
    payloads = {"c7": NO_SITE, "c8": HALF, "c21": "", "c30": "{", "c39": "\x7f"}
    poison = append(store, *[broken(told(coupon, 2), payload) for coupon, payload in payloads.items()])
    append(store, *[told(f"c{number}", 3) for number in range(40)])
    store.project()
    parked = store.dead_letters(projection="coupons")
    assert {letter.subject_id: letter.position for letter in parked} == dict(zip(payloads, poison, strict=True))
    found = {f"c{number}": f"C{number}1" if f"c{number}" in payloads else f"C{number}3" for number in range(40)}
    assert coupons(store) == found


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
def test_a_text_that_postgresql_has_no_place_for_parks_its_coupon(store: EventStore) -> None:
    nul = prepare(told("a", 2)).payload.replace(b'"A2"', b'"A\\u0000"')
    _, poison, _ = append(store, told("a", 1), broken(told("a", 2), nul.decode()), told("b", 1))
    store.project()
    assert coupons(store) == {"a": "A1", "b": "B1"}
    [letter] = store.dead_letters()
    assert (letter.projection, letter.position) == ("coupons", poison)
    store.skip_dead_letter(letter.id, "nobody can type it")
    assert coupons(store) == {"a": "A1", "b": "B1"}


def test_several_poisoned_coupons_in_several_steps_are_each_parked_at_their_first(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "STEP_EVENTS", 7)
    expected: dict[str, int] = {}
    for number in range(1, 5):
        for coupon in "abcdefgh":
            bad = (coupon, number) in {("b", 2), ("b", 4), ("e", 2), ("h", 1)}
            event = told(coupon, number)
            [position] = append(store, broken(event) if bad else event)
            if bad:
                expected.setdefault(coupon, position)
    store.project()
    assert {each.subject_id: each.position for each in store.dead_letters(projection="coupons")} == expected
    assert coupons(store) == {**{each: f"{each.upper()}4" for each in "acdfg"}, "b": "B1", "e": "E1"}


def test_a_model_that_can_take_hardly_anything_stands_still_and_the_others_go_on(
    new_url: NewUrl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "MOST_PARKED", 3)
    with own(new_url, tmp_path) as store:
        append(store, *[told(f"c{number}", 1, code="BOOM") for number in range(9)])
        with pytest.raises(ProjectionError, match="codes cannot take the events 1 to 9: more than 3 coupons"):
            store.project()
        assert store.dead_letters() == []
        assert {each.name: each.position for each in store.status().projections}["codes"] == 0
        assert len(coupons(store)) == 9
        assert store.wait(9, 0.1, projections=("coupons", "coupon_usage"))
        assert not store.wait(9, 0.1, projections=("codes",))


def test_more_than_one_step_may_park_are_parked_by_smaller_steps(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "MOST_PARKED", 2)
    bad = {4, 9, 14}
    events = [told(f"c{number}", 1) for number in range(16)]
    append(store, *[broken(event) if number in bad else event for number, event in enumerate(events)])
    expected = {f"c{number}": number + 1 for number in bad}
    store.project()
    assert {each.subject_id: each.position for each in store.dead_letters(projection="coupons")} == expected
    assert coupons(store) == {f"c{n}": f"C{n}1" for n in range(16) if n not in bad}
    assert {status.lag for status in store.status().projections} == {0}


def test_what_fails_for_want_of_memory_or_disk_is_blamed_on_no_event(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(store, told("a", 1), told("b", 1))
    with monkeypatch.context() as patch:
        patch.setattr(ModelSession, "load_facts", out_of_memory)
        with pytest.raises(ProjectionError, match=r"coupons cannot take the events 1 to 2: .*memory"):
            store.project()
    assert store.dead_letters() == []
    store.project()
    assert coupons(store) == {"a": "A1", "b": "B1"}


def out_of_memory(*_: object) -> int:
    raise duckdb.OutOfMemoryException("Out of Memory Error: no memory is left")


# Retrying and skipping


@contextmanager
def own(new_url: NewUrl, folder: Path, text: str = CODES) -> Iterator[EventStore]:
    """A store with a projection of somebody's own."""
    (folder / "codes.sql").write_text(text, encoding="utf-8")
    with new_url() as url, EventStore.open(url, projections=[folder]) as store:
        yield store


def codes(store: EventStore) -> dict[str, int]:
    with Stranger(store.engine.url.render_as_string(hide_password=False)) as stranger:
        return {coupon: count for coupon, count in stranger.rows("SELECT coupon_id, codes FROM codes")}


def test_a_projection_of_ones_own_parks_for_itself_alone_and_a_mended_one_takes_all_in(
    new_url: NewUrl, tmp_path: Path
) -> None:
    with own(new_url, tmp_path) as store:
        append(store, told("a", 1), told("a", 2, "BOOM"), told("b", 1), told("a", 3), told("a", 4, "BOOM"))
        store.project()
        assert codes(store) == {"a": 1, "b": 1}
        assert shown(store.engine) == project(record.event for record in store.stream())
        [letter] = store.dead_letters()
        assert (letter.projection, letter.position, letter.subject_id) == ("codes", 2, "a")
        assert letter.reason == "Invalid Input Error: the code BOOM of …"
        [tried] = store.retry_dead_letters()
        assert (tried.events, tried.resolution, tried.parked_at) == (0, None, 2)
        url = store.engine.url.render_as_string(hide_password=False)
        # Mended without a new version, as it makes the same rows of what it could take.
        (tmp_path / "codes.sql").write_text(CODES.replace("code = 'BOOM'", "false"), encoding="utf-8")
        with EventStore.open(url, projections=[tmp_path]) as mended:
            [tried] = mended.retry_dead_letters([letter.id])
            assert (tried.events, tried.resolution, tried.parked_at, tried.reason) == (3, "retried", None, None)
            assert codes(mended) == {"a": 4, "b": 1}
            append(mended, told("a", 5, "BOOM"))
            mended.project()
            assert codes(mended) == {"a": 5, "b": 1}
            assert mended.dead_letters() == []
            [kept] = mended.dead_letters(resolved=True)
            assert (kept.resolution, kept.note) == ("retried", None)


def test_a_projection_added_to_a_log_that_holds_what_it_cannot_take_is_built_once_that_is_skipped(
    store: EventStore, tmp_path: Path
) -> None:
    append(store, told("a", 1), told("a", 2, "BOOM"), told("b", 1), told("a", 3))
    store.project()
    (tmp_path / "codes.sql").write_text(CODES, encoding="utf-8")
    with EventStore.open(store.engine.url.render_as_string(hide_password=False), projections=[tmp_path]) as added:
        assert added.projections_behind() == ("codes",)
        with pytest.raises(ProjectionError) as failed:
            added.upgrade()
        [letter] = added.dead_letters()
        assert (letter.projection, letter.position, letter.subject_id) == ("codes", 2, "a")
        assert f"`eventstore dead-letters skip {letter.id}` leaves it out" in str(failed.value)
        with pytest.raises(ProjectionError, match=f"dead-letters skip {letter.id}`"):
            added.upgrade()
        assert added.dead_letters() == [letter]
        assert added.skip_dead_letter(letter.id, "nobody may type it").resolution == "skipped"
        assert [each.name for each in added.upgrade().projections] == ["codes"]
        assert codes(added) == {"a": 2, "b": 1}


def test_a_skipped_event_is_left_out_for_good_and_what_waited_behind_it_taken_in_up_to_the_next(
    new_url: NewUrl, tmp_path: Path
) -> None:
    with own(new_url, tmp_path) as store:
        append(store, told("a", 1), told("a", 2, "BOOM"), told("a", 3), told("a", 4, "BOOM"), told("a", 5))
        store.project()
        [first] = store.dead_letters()
        done = store.skip_dead_letter(first.id, "no code of ours")
        assert (done.events, done.resolution, done.parked_at) == (1, "skipped", 4)
        assert codes(store) == {"a": 2}
        [second] = store.dead_letters()
        done = store.skip_dead_letter(second.id, "nor is this")
        assert (done.events, done.resolution, done.parked_at) == (1, "skipped", None)
        assert codes(store) == {"a": 3}
        append(store, told("a", 6))
        store.project()
        assert codes(store) == {"a": 4}
        assert excluded(store, "codes") == [
            LeftOut("shop", "a", 2, skipped=True),
            LeftOut("shop", "a", 4, skipped=True),
        ]
        store.rebuild_projections("codes")
        assert codes(store) == {"a": 4}
        with pytest.raises(InputError, match="was skipped already"):
            store.skip_dead_letter(first.id, "again")
        with pytest.raises(NotFound, match="no dead letter 99"):
            next(store.retry_dead_letters([99]))
        with pytest.raises(InputError, match="a note says why"):
            store.skip_dead_letter(first.id, "  ")


def test_a_retry_beside_a_runner_at_work_takes_each_event_once(
    new_url: NewUrl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "LIVE_STEP_EVENTS", 3)
    monkeypatch.setattr(runner, "REST_SECONDS", 0.0)
    with own(new_url, tmp_path) as store:
        append(store, told("a", 1, "BOOM"))
        store.start_projections()
        assert store.wait(1, PATIENCE, projections=("codes",))
        skipped: list[int] = []
        for number in range(2, 32):
            append(store, told("a", number, "BOOM" if number % 10 == 0 else None), told("b", number - 1))
            if number % 5 == 0:
                skipped += [
                    store.skip_dead_letter(letter.id, "in the way").letter.position for letter in store.dead_letters()
                ]
        assert store.wait(store.head(), PATIENCE, projections=("codes",))
        while letters := store.dead_letters():
            skipped += [store.skip_dead_letter(letter.id, "in the way").letter.position for letter in letters]
        assert codes(store) == {"a": 31 - 4, "b": 30}
        assert len(skipped) == len(set(skipped)) == 4


def test_an_event_parked_again_after_its_table_was_lost_has_one_letter(store: EventStore) -> None:
    append(store, told("a", 1))
    with store.engine.begin() as connection:
        letter = NewLetter("coupons", 1, "shop", "a", "a-1", "because")
        park(connection, letter)
    assert [each.reason for each in store.dead_letters()] == ["because"]
    [done] = store.retry_dead_letters()
    assert done.resolution == "retried"
    with store.engine.begin() as connection:
        park(connection, letter)
    [again] = store.dead_letters()
    assert (again.reason, again.resolution, again.resolved_at) == ("because", None, None)
    store.project()
    assert coupons(store) == {}
    [done] = store.retry_dead_letters([again.id])
    assert done.events == 1
    assert coupons(store) == {"a": "A1"}


# Finding whose fault it is


def test_finding_one_guilty_among_a_thousand_takes_a_few_dozen_tries() -> None:
    tries: list[int] = []
    events = [blame.Subject(number, "shop", f"c{number % 1000}", f"e{number}") for number in range(4000)]

    def why_not(positions: Collection[int]) -> Exception | None:
        tries.append(len(positions))
        return ValueError("it") if 2345 in positions else None

    [(found, error)] = blame.find(events, why_not, 50)
    assert (found.position, str(error)) == (2345, "it")
    assert len(tries) < 40


def test_where_only_all_together_are_too_much_the_one_that_makes_it_so_is_found() -> None:
    events = [blame.Subject(number, "shop", f"c{number}", f"e{number}") for number in range(10)]

    def why_not(positions: Collection[int]) -> Exception | None:
        return ValueError("too large") if sum(positions) > 30 else None

    found = [each.position for each, _ in blame.find(events, why_not, 50)]
    left = set(range(10)) - set(found)
    assert sum(left) <= 30
    assert len(found) == 2


# The command


def test_the_command_lists_shows_retries_and_skips(eventstore: Command) -> None:
    with EventStore.open(eventstore.url) as store:
        append(store, told("a", 1), broken(told("a", 2)), told("a", 3), told("b", 1))
        store.project()
    rows = cells(eventstore("dead-letters", "list"))
    assert rows[0] == ["id", "projection", "position", "site", "coupon", "event", "reason", "parked"]
    assert [row[1] for row in rows[2:]] == ["coupons", "redemptions", "loyalty_coupons"]
    assert len(eventstore.json("dead-letters", "list", "--projection", "coupons")) == 1
    [first, *_] = eventstore.json("dead-letters", "list")
    shown_one = eventstore("dead-letters", "show", str(first["id"]))
    assert "Malformed JSON" in shown_one
    assert eventstore.json("dead-letters", "show", str(first["id"]))["event_id"] == "a-2"
    tried = eventstore("dead-letters", "retry", "--all", status=1)
    assert "stays parked at position 2" in tried
    note = eventstore("dead-letters", "skip", str(first["id"]), "--note", "written by a faulty program")
    assert note == f"{first['id']}: skipped: 1 event taken in that waited behind it\n"
    with EventStore.open(eventstore.url) as store:
        assert coupons(store) == {"a": "A3", "b": "B1"}
    [kept] = [each for each in eventstore.json("dead-letters", "list", "--all") if each["resolved_at"]]
    assert (kept["resolution"], kept["note"]) == ("skipped", "written by a faulty program")
    assert "was skipped already" in eventstore.refused("dead-letters", "retry", str(first["id"]), status=1)
    assert "no dead letter 77" in eventstore.refused("dead-letters", "show", "77", status=3)
    assert eventstore.run("dead-letters", "retry").returncode == 2
    assert re.search(r"parked coupons +1\b", eventstore("status"))
