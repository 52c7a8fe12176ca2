"""The examples that `eventstore.handlers.examples` offers do what they say, on real stores and real files."""

from __future__ import annotations

import csv
import itertools
import os
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from subprocess import run
from typing import Any

import orjson
import pytest
from sqlalchemy import Connection, text

from eventstore.errors import NotFound
from eventstore.event import Coupon, Discount, DiscountType, Event, Source
from eventstore.handlers import Handler, handler_event, load_handlers
from eventstore.handlers.examples import example, examples
from eventstore.log.records import RecordedEvent
from eventstore.store import EventStore
from eventstore.wix import read

HOME = Path(sys.modules[example.__module__].__file__ or "").parent
START = datetime(2026, 9, 1, 12, tzinfo=UTC)


def handler_of(name: str) -> Handler:
    [handler] = load_handlers(HOME / f"{name}.py")
    return handler


def given_to(handler: Handler, events: Iterable[Event], transaction: Callable[[], Connection] | None = None) -> None:
    for position, event in enumerate(events, start=1):
        record = RecordedEvent(position, START, event.encode()[0].decode(), b"")
        if handler.wants(event.type, record):
            handler.function(
                handler_event(event.type, record, idempotency_key=f"k-{position}", transaction=transaction)
            )


def happened(what: str, hour: float, *, event_id: str | None = None, order: str | None = None, **more: Any) -> Event:
    facts: dict[str, Any] = {"event_id": event_id or f"{what}-{hour}", "type": f"coupon.{what}", "source": Source.REST}
    coupon = None
    if what != "deleted":
        coupon = Coupon(id="c-1", code="SAVE", name="Save", discount=Discount(type=DiscountType.FREE_SHIPPING))
    facts |= {"entity_id": "c-1", "coupon_id": "c-1", "site_id": "local", "coupon": coupon, "order_id": order}
    return Event(event_time=START + timedelta(hours=hour), **(facts | more))


def test_every_example_is_listed_with_what_it_is_about() -> None:
    listed = examples()
    assert [each.name for each in listed] == [
        "new_coupon",
        "coupon_applied",
        "coupon_deleted",
        "used_after_deletion",
        "redemptions_csv",
    ]
    assert {path.stem for path in HOME.glob("*.py")} == {"__init__"} | {each.name for each in listed}
    assert all(each.about.endswith(".") and len(each.about) > 20 for each in listed)


def test_an_example_is_found_by_its_name_in_any_spelling() -> None:
    assert (
        example("new_coupon")
        == example("new-coupon")
        == example("new_coupon.py")
        == (HOME / "new_coupon.py").read_text()
    )


def test_an_unknown_example_lists_those_there_are() -> None:
    with pytest.raises(NotFound, match=r"no example '\.\./shape'; the examples are new_coupon, "):
        example("../shape")


@pytest.mark.parametrize("name", [each.name for each in examples()])
def test_an_example_printed_to_a_file_of_ones_own_loads_there(name: str, tmp_path: Path) -> None:
    (tmp_path / "events.py").write_text(example(name))
    [handler] = load_handlers(tmp_path / "events.py")
    assert handler.where.startswith(str(tmp_path))


WIX = Path(__file__).parent.parent / "data" / "wix"


@pytest.mark.parametrize(
    ("name", "file", "said", "end"),
    [
        (
            "new_coupon",
            "velo_coupon_created.json",
            "Coupon 03a35393-7835-44b0-af53-6019a484b48b of type PercentOff is valid from 2021-06-30 21:00:00+00:00",
            " until 2021-08-31 20:59:59+00:00\n",
        ),
        (
            "coupon_applied",
            "velo_coupon_applied.json",
            "Coupon 03a35393-7835-44b0-af53-6019a484b48b, Summer Sale 10% off, was used at 2021-07-17 11:56:03.852350+00:00",
            " in the order 6758b1bc-539f-430c-a0ea-889130ef3351\n",
        ),
        ("coupon_deleted", "velo_coupon_deleted.json", "Coupon 03a35393-7835-44b0-af53-6019a484b48b", " was deleted\n"),
    ],
)
def test_wixs_own_examples_print_what_wix_documents(
    name: str, file: str, said: str, end: str, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = handler_of(name)
    body = orjson.loads((WIX / file).read_bytes())
    given_to(handler, read(body, route="velo", handler=handler.name, site_id="local", observed_at=START))
    assert capsys.readouterr().out == said + end


# used_after_deletion

LIFE = [
    happened("used_early", 0.5, order="o-1"),
    happened("deleted", 1),
    happened("used_late", 2, order="o-2"),
    happened("created", 3, restored=True),
    happened("used_again", 4, order="o-3"),
]
"""A use, a deletion, a use after it, the coupon's coming back, and a use after that."""
LIFE = [event.model_copy(update={"type": "coupon.applied"}) if "used" in event.type else event for event in LIFE]


@pytest.fixture
def handled(store: EventStore, capsys: pytest.CaptureFixture[str]) -> Callable[[Iterable[Event]], list[str]]:
    """What the example prints, given these events with a transaction of a store's database for each."""
    handler = handler_of("used_after_deletion")

    def give(events: Iterable[Event]) -> list[str]:
        for event in events:
            with store.engine.begin() as connection:
                given_to(handler, [event], lambda: connection)
        return capsys.readouterr().out.splitlines()

    return give


Handled = Callable[[Iterable[Event]], list[str]]


def standing(alerts: list[str]) -> list[str]:
    """The orders that stand as used after deletion, once all alerts and their corrections are read."""
    found: list[str] = []
    for line in alerts:
        order = line.partition(" in the order ")[2].replace(",", " ").split()[0]
        if "was not deleted" in line:
            found.remove(order)
        else:
            found.append(order)
    return sorted(found)


def test_a_use_after_deletion_is_alerted_whichever_event_arrives_first(handled: Handled) -> None:
    for number, arrival in enumerate(itertools.permutations(LIFE)):
        site = f"site-{number}"
        alerts = handled(event.model_copy(update={"site_id": site}) for event in arrival)
        assert standing(alerts) == ["o-2"], [event.event_id for event in arrival]


def test_a_late_deletion_alerts_for_the_use_that_was_told_before_it(handled: Handled) -> None:
    _, deletion, use, *_ = LIFE
    assert handled([use]) == []
    assert handled([deletion]) == [
        "Coupon c-1 was used at 2026-09-01T14:00:00.000000+00:00 in the order o-2, after it had been deleted"
    ]


def test_events_that_come_again_alert_once(handled: Handled) -> None:
    alerts = handled([*LIFE[:3], *LIFE[:3], *reversed(LIFE[:3])])
    assert len(alerts) == 1


def test_a_second_report_of_an_order_from_before_the_deletion_is_no_use_after_it(handled: Handled) -> None:
    first, deletion = LIFE[:2]
    again = happened("applied", 5, order="o-1", event_id="marked-as-paid")
    assert handled([first, deletion, again]) == []
    site = {"site_id": "another"}
    alerts = handled(event.model_copy(update=site) for event in (again, deletion, first))
    assert len(alerts) == 2
    assert standing(alerts) == []


def test_sites_and_coupons_are_kept_apart(handled: Handled) -> None:
    _, deletion, use, *_ = LIFE
    assert handled([deletion, use.model_copy(update={"site_id": "another"})]) == []
    assert handled([use.model_copy(update={"coupon_id": "c-2", "entity_id": "c-2", "event_id": "e"})]) == []


def test_what_a_failed_attempt_wrote_is_rolled_back_and_written_by_the_next(
    store: EventStore, handled: Handled, capsys: pytest.CaptureFixture[str]
) -> None:
    _, deletion, use, *_ = LIFE
    handled([deletion])
    handler = handler_of("used_after_deletion")
    with store.engine.connect() as connection:
        given_to(handler, [use], lambda: connection)
        connection.rollback()
    assert standing(capsys.readouterr().out.splitlines()) == ["o-2"]
    assert standing(handled([use])) == ["o-2"]


def test_the_table_of_the_example_is_no_harm_to_the_log(store: EventStore, handled: Handled) -> None:
    handled(LIFE)
    store.require_guards()
    with store.engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM used_after_deletion")).scalar_one() == len(LIFE)


# redemptions_csv


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "uses.csv"
    monkeypatch.setenv("REDEMPTIONS_CSV", str(path))
    return path


def rows_in(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


def use(number: int, **more: Any) -> Event:
    return happened("applied", number, order=f"o-{number}", **more)


def test_each_redemption_is_one_row(file: Path) -> None:
    given_to(handler_of("redemptions_csv"), [use(1, app_id="stores"), use(2)])
    assert rows_in(file) == [
        {
            "key": f"local c-1 o-{number}",
            "used_at": f"2026-09-01T{12 + number}:00:00+00:00",
            "site": "local",
            "coupon_id": "c-1",
            "code": "SAVE",
            "name": "Save",
            "order_id": f"o-{number}",
            "app_id": app,
        }
        for number, app in ((1, "stores"), (2, ""))
    ]


def test_a_redemption_that_comes_again_is_no_second_row_also_after_a_restart(file: Path) -> None:
    odd = use(3, site_id="=a  b", event_id="e", entity_id="c-1")
    for _ in range(3):
        handler = handler_of("redemptions_csv")
        given_to(handler, [use(1), odd, use(1), use(1, event_id="marked-as-paid")])
    assert [row["key"] for row in rows_in(file)] == ["local c-1 o-1", "'=a b c-1 o-3"]


def test_a_use_without_an_order_is_kept_under_its_event(file: Path) -> None:
    given_to(handler_of("redemptions_csv"), [happened("applied", 1, event_id="e-1")])
    assert [(row["key"], row["order_id"]) for row in rows_in(file)] == [("local c-1 e-1", "")]


@pytest.mark.parametrize("left", ["", "key,used_at", "local c-1 o-2,2026-09", '"half a name'], ids=range(4))
def test_a_row_that_was_cut_short_is_cut_off_and_written_whole(file: Path, left: str) -> None:
    given_to(handler_of("redemptions_csv"), [use(1)])
    whole = file.read_bytes()
    file.write_bytes(whole + left.encode())
    given_to(handler_of("redemptions_csv"), [use(2)])
    assert [row["key"] for row in rows_in(file)] == ["local c-1 o-1", "local c-1 o-2"]
    assert file.read_bytes().startswith(whole)


@pytest.mark.parametrize("left", ["", "key,us"], ids=["nothing", "half a headline"])
def test_a_file_without_a_whole_headline_is_begun_anew(file: Path, left: str) -> None:
    file.write_text(left)
    given_to(handler_of("redemptions_csv"), [use(1)])
    assert [row["key"] for row in rows_in(file)] == ["local c-1 o-1"]


def test_no_name_breaks_the_csv_or_is_a_formula(file: Path) -> None:
    names = ["a,b", 'say "hi"', "two\nlines", "\r\n", "=1+1", "-2", "\u2028x", "ünï"]
    events = []
    for number, name in enumerate(names):
        event = use(number)
        assert event.coupon is not None
        events.append(event.model_copy(update={"coupon": event.coupon.model_copy(update={"name": name})}))
    for _ in range(2):
        given_to(handler_of("redemptions_csv"), events)
    assert [row["name"] for row in rows_in(file)] == ["a,b", 'say "hi"', "two lines", "", "'=1+1", "'-2", "x", "ünï"]
    assert [row["order_id"] for row in rows_in(file)] == [f"o-{number}" for number in range(len(names))]


def test_redemptions_handled_at_the_same_time_are_all_in_the_file(file: Path) -> None:
    handler = handler_of("redemptions_csv")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: given_to(handler, [use(number % 40)]), range(120)))
    assert sorted(row["order_id"] for row in rows_in(file)) == sorted(f"o-{number}" for number in range(40))


def test_importing_the_package_loads_neither_pydantic_nor_sqlalchemy(tmp_path: Path) -> None:
    code = "import sys, eventstore.handlers, eventstore.handlers.examples; print({'pydantic', 'sqlalchemy'} & set(sys.modules))"
    ended = run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path, env=os.environ)
    assert ended.stdout.strip() == "set()"
