"""Whether a handler's events are begun: it rests as a whole where something outside is away, or where it fails for everybody.

After a rest one event is begun, and if that goes the others follow. An event that asks to be tried later again and again while
those of other coupons go is not held back by what is away: it is to be parked like one that fails.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from eventstore.backoff import wait_after
from eventstore.handlers.feed import Subject

RETRY_SECONDS = (1.0, 5.0, 30.0, 120.0)
"""How long a failed event rests before it is tried again, one after the other. After the last try it waits for a person."""
PAUSE_SECONDS = (1.0, 5.0, 15.0, 60.0)
"""How long a handler rests as a whole when it asks to try later or fails for every coupon; the last one repeated."""
LONGEST_PAUSE = 24 * 3600.0
"""A handler may ask to rest for a day at most."""
FAILING_SUBJECTS = 20
"""So many coupons in a row, not one taken, and it is the handler that is broken: it rests, and not every coupon is parked."""
LEAST_ASKED = 5
"""So often an event may ask to be tried later while others go, however few attempts its handler has."""
JITTER = 0.25
"""Waits are this share shorter or longer, by chance, so that what failed together is not tried again together."""


@dataclass(frozen=True, slots=True)
class Rules:
    """How often and after which waits (seconds) a failed event is tried."""

    attempts: int = len(RETRY_SECONDS) + 1
    retry_seconds: Sequence[float] = RETRY_SECONDS
    pause_seconds: Sequence[float] = PAUSE_SECONDS

    def pause(self, times: int, asked: float | None) -> float:
        """Seconds to rest after so many rests before, or as long as was asked for."""
        return about(wait_after(times, self.pause_seconds) if asked is None else min(asked, LONGEST_PAUSE))


class _State(Enum):
    OPEN = "open"
    SHUT = "shut"
    AJAR = "ajar"
    """One event is begun, to see whether it goes."""


class Gate:
    """See the module. Not thread-safe: its lane's lock is held. `attempts`: how often an event may ask to be tried later."""

    def __init__(self, rules: Rules, attempts: int) -> None:
        self.reason: str | None = None
        """Why nothing is begun for now; None while it is."""
        self._rules = rules
        self._attempts = attempts
        self._state = _State.OPEN
        self._probing = False
        self._until = 0.0
        self._pauses = 0
        self._failures = 0
        self._successes = 0
        self._held: list[Subject] = []
        self._asked: dict[Subject, tuple[int, int | None]] = {}

    @property
    def is_open(self) -> bool:
        """Whether every event is begun."""
        return self._state is _State.OPEN

    def admits(self, subject: Subject) -> bool:
        """Whether this subject's event may be begun now; if not it is held, until `tick` or `succeeded` names it."""
        if self._state is _State.OPEN or (self._state is _State.AJAR and not self._probing):
            return True
        self._held.append(subject)
        return False

    def begun(self) -> None:
        """An event that was admitted is begun."""
        self._probing = True

    def succeeded(self, subject: Subject) -> list[Subject]:
        """An event was handled; the subjects that may go on now."""
        self._failures = 0
        self._successes += 1
        if self._asked:
            self._asked.pop(subject, None)
        if self._state is _State.OPEN:
            return []
        self._state, self.reason, self._pauses = _State.OPEN, None, 0
        held, self._held = self._held, []
        return held

    def failed(self, subject: Subject, reason: str) -> None:
        """An event was parked."""
        self._asked.pop(subject, None)
        self._failures += 1
        if self._failures >= FAILING_SUBJECTS or self._state is _State.AJAR:
            self.shut(f"{self._failures} coupons in a row failed, the last one: {reason}", None)

    def asked_later(self, subject: Subject, reason: str, seconds: float | None, *, alone: bool) -> bool:
        """An event asked to be tried later: rest, and hold it. False if it has asked so often while others went (or, `alone`,
        while no other could) that it is to be parked."""
        times, at = self._asked.get(subject, (0, None))
        if alone or at not in (None, self._successes):
            times += 1
        if times >= max(self._attempts, LEAST_ASKED):
            self._asked.pop(subject, None)
            return False
        self._asked[subject] = (times, self._successes)
        self._held.append(subject)
        self.shut(reason, seconds)
        return True

    def shut(self, reason: str, seconds: float | None) -> None:
        """Begin nothing for a while."""
        if self._state is _State.SHUT and seconds is None:
            return
        self._state, self.reason = _State.SHUT, reason
        self._until = time.monotonic() + self._rules.pause(self._pauses, seconds)
        self._pauses += 1

    def tick(self) -> Subject | None:
        """The subject to be tried now that a rest is over, if it is."""
        waits = self._state is _State.OPEN or (self._state is _State.AJAR and self._probing)
        if waits or time.monotonic() < self._until:
            return None
        self._state, self._probing = _State.AJAR, False
        if self._held:
            return self._held.pop(0)
        # Whatever failed is parked: what comes next shows whether it goes.
        self._state, self.reason = _State.OPEN, None
        self._failures = FAILING_SUBJECTS - 1
        return None


def about(seconds: float) -> float:
    """So long, give or take a quarter."""
    return seconds * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - nothing secret
