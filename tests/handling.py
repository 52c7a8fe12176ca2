"""Handlers that tests run, in this process and in others, and what they leave behind."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import text

from eventstore.event import Event, Source
from eventstore.handlers import Handlers
from eventstore.handlers.gate import Rules
from eventstore.handlers.runner import HandlerRunner
from eventstore.handlers.session import Limits
from eventstore.store import EventStore

PATIENCE = 60.0
"""Seconds after which something that is waited for has failed to come."""
TIME = datetime(2026, 9, 1, tzinfo=UTC)
QUICK = Limits(rules=Rules(retry_seconds=(0.05, 0.1, 0.2), attempts=4, pause_seconds=(0.1, 0.2)))
"""As a set is run, but with short waits."""
BOOK = "CREATE TABLE handled (number INTEGER PRIMARY KEY {auto}, position INTEGER NOT NULL, coupon TEXT NOT NULL)"
"""Where handlers that write through the store's transaction note what they were given; `number` grows."""


def told(number: int, coupon: str, type_: str = "coupon.updated") -> Event:
    """Event `number` about a coupon."""
    return Event(
        event_id=f"e{number}",
        type=type_,
        entity_id=coupon,
        coupon_id=coupon,
        event_time=TIME + timedelta(seconds=number),
        source=Source.REST,
        site_id="shop",
        sequence=number,
    )


def fill(store: EventStore, events: int, *, coupons: int, first: int = 1) -> None:
    """Append `events` events, of so many coupons in turn."""
    numbers = range(first, first + events)
    for _ in store.append_many(told(number, f"c{number % coupons}") for number in numbers):
        pass


def make_book(store: EventStore) -> None:
    """Make the table that handlers note in."""
    auto = "" if store.engine.dialect.name == "sqlite" else "GENERATED ALWAYS AS IDENTITY"
    with store.engine.begin() as connection:
        connection.execute(text(BOOK.format(auto=auto)))


def book(store: EventStore) -> list[tuple[int, str]]:
    """Positions and coupons in the order that they were noted in."""
    with store.engine.connect() as connection:
        rows = connection.execute(text("SELECT position, coupon FROM handled ORDER BY number")).all()
    return [(row.position, row.coupon) for row in rows]


NOTE = text("INSERT INTO handled (position, coupon) VALUES (:position, :coupon)")


@contextmanager
def running(
    store: EventStore, handlers: Handlers, *, name: str = "shop", begin: str = "beginning", limits: Limits = QUICK
) -> Iterator[HandlerRunner]:
    """A runner at work in this process meanwhile."""
    runner = store.handlers.runner(list(handlers), name=name, begin=begin, limits=limits)
    runner.start()
    try:
        until(lambda: len(store.handlers.status(name)) >= len(list(handlers)))
        yield runner
    finally:
        runner.stop()


def run_once(store: EventStore, handlers: Handlers, *, name: str = "shop", begin: str = "beginning") -> bool:
    """Handle all that the log holds now."""
    return store.handlers.runner(list(handlers), name=name, begin=begin, limits=QUICK).run(once=True)


def until(condition: Callable[[], bool]) -> None:
    """Wait until it holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def caught_up(store: EventStore, name: str = "shop") -> bool:
    """Whether every handler of the set has been given all that the log holds."""
    found = store.handlers.status(name)
    return bool(found) and all(each.behind == 0 for each in found)


def in_order(positions: Iterable[tuple[int, str]]) -> bool:
    """Whether of each coupon the positions grow."""
    last: dict[str, int] = {}
    for position, coupon in positions:
        if position <= last.get(coupon, 0):
            return False
        last[coupon] = position
    return True


class Seen:
    """What handlers of several threads were given."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.events: list[tuple[int, str]] = []

    def add(self, position: int, coupon: str) -> None:
        with self._lock:
            self.events.append((position, coupon))

    @property
    def positions(self) -> list[int]:
        """All of them, sorted."""
        return sorted(position for position, _ in self.events)


# In processes of their own


def run_until_killed(url: str, name: str, notes: str, killer: str) -> None:
    """Run two handlers: one notes in a file what it is given, one in the store through its transaction.

    The process ends, without a word, in the midst of the event at position `killer` (0: of none). It says `ready` once it runs
    the handlers.
    """
    fatal = int(killer)
    file = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    handlers = Handlers()

    @handlers.on("*")
    def in_a_file(event: object) -> None:
        position = event.position  # type: ignore[attr-defined]
        if position == fatal:
            os._exit(9)
        os.write(file, f"{position} {event.coupon_id}\n".encode())  # type: ignore[attr-defined]

    @handlers.on("*")
    def in_the_store(event: object) -> None:
        connection = event.transaction  # type: ignore[attr-defined]
        connection.execute(NOTE, {"position": event.position, "coupon": event.coupon_id})  # type: ignore[attr-defined]

    with EventStore.open(url, create=False) as store:
        runner = store.handlers.runner(list(handlers), name=name, begin="beginning", limits=QUICK)
        threading.Thread(target=_say_when, args=(runner,), daemon=True).start()
        runner.run()


def _say_when(runner: HandlerRunner) -> None:
    while not runner.leads:
        time.sleep(0.01)
    print("ready", flush=True)


def noted(file: Path) -> list[tuple[int, str]]:
    """What was noted in a file; a line that its writer was killed in is none."""
    found = []
    for line in file.read_text().splitlines() if file.exists() else ():
        position, _, coupon = line.partition(" ")
        found.append((int(position), coupon))
    return found


def first_of_each(events: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
    """Without those that came again."""
    seen: set[int] = set()
    return [each for each in events if not (each[0] in seen or seen.add(each[0]))]  # type: ignore[func-returns-value]
